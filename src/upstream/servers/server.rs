//! One server: who it is. How it fares, what it carries and where it is reached are in files of their own.

use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fnv::FnvHasher;

use super::condition::Condition;
use super::latency::{Latency, Tick};
use super::load::Load;
use super::location::Location;
use crate::address::ServerAddress;
use crate::session::{Home, SessionTable};
use crate::upstream::config::{Check, ServerConfig};

/// A server of an upstream.
pub struct Server {
    id: ServerId,
    name: Arc<str>,
    address: ServerAddress,
    weight: u32,
    /// What the configuration says of it; an operator may have said otherwise.
    configured_weight: u32,
    priority: u16,
    zone: Option<Arc<str>>,
    /// Whether it stands in another zone than the gateway.
    away: bool,
    pub(super) max_connections: usize,
    /// What the configuration says; the state is in `life`.
    pub(super) drain: bool,
    /// Its sessions, where the upstream has any.
    home: Option<Arc<Home>>,
    pub(super) life: Arc<Life>,
}

/// What happens to a server while it is configured; outlives a reload that leaves name and address as they are.
pub(super) struct Life {
    pub(super) condition: Condition,
    pub(super) load: Load,
    pub(super) latency: Latency,
    pub(super) location: Location,
    /// The weight that an operator wishes, and what the configuration said when he did.
    wished_weight: Mutex<Option<WishedWeight>>,
}

/// A weight that holds for as long as the configuration says of it what it said then.
#[derive(Clone, Copy)]
struct WishedWeight {
    weight: u32,
    configured: u32,
}

/// Names a server over reloads, in session tables and cookies: a hash of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(u64);

impl ServerId {
    /// The id of the server called `name`: FNV-1a, which is the same in every build and on every machine.
    pub fn of(name: &str) -> Self {
        let mut fnv = FnvHasher::default();
        fnv.write(name.as_bytes());
        Self(fnv.finish())
    }

    /// The number behind the id.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The id behind a number.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Server {
    /// A server that is up and has nothing to do, outside of any upstream: for tests of a [`Balance`](crate::Balance).
    pub fn idle(said: &ServerConfig) -> Arc<Self> {
        let server = Self::adopt(said, Check::None, None, None, None, false);
        // One behind a name would wait for an address.
        server.set_health(super::Health::Up);
        server
    }

    /// A server as configured: the one in `known` if nothing changed, a new one with its life if name and address are
    /// the same, else a fresh one.
    pub(crate) fn adopt(
        said: &ServerConfig,
        check: Check,
        sessions: Option<&SessionTable>,
        own_zone: Option<&str>,
        known: Option<&Arc<Self>>,
        joins: bool,
    ) -> Arc<Self> {
        let name = said.name();
        let configured_weight = u32::from(said.weight);
        let id = ServerId::of(&name);
        let away = own_zone.is_some_and(|own| said.is_away_from(own));
        let home = sessions.map(|table| table.home(id.to_bits()));
        let same = known.filter(|server| server.id == id && server.address == said.address);
        let weight = same.map_or(configured_weight, |same| same.life.weight(configured_weight));
        if let Some(same) = same
            && same.configured_weight == configured_weight
            && (same.weight, same.priority, same.max_connections, same.drain)
                == (weight, said.priority, said.max_connections, said.drain)
            && (same.zone.as_deref(), same.away) == (said.zone.as_deref(), away)
            && same.home.as_ref().map(Arc::as_ptr) == home.as_ref().map(Arc::as_ptr)
        {
            return same.clone();
        }
        let fresh = || Arc::new(Life::new(said, check, joins));
        Arc::new(Self {
            id,
            name: name.into(),
            address: said.address.clone(),
            weight,
            configured_weight,
            priority: said.priority,
            zone: said.zone.as_deref().map(Arc::from),
            away,
            max_connections: said.max_connections,
            drain: said.drain,
            home,
            life: same.map_or_else(fresh, |same| same.life.clone()),
        })
    }

    /// What session tables and cookies call it.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// What logs and metrics call it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The address as configured.
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Its share of new work beside its peers.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The same, as far as the configuration goes: an operator may have said otherwise since.
    pub fn configured_weight(&self) -> u32 {
        self.configured_weight
    }

    /// Wishes it another weight until the configuration says something new of that, or with `None` the configured one.
    /// It has it when the set of servers is built again.
    pub(crate) fn wish_weight(&self, weight: Option<u32>) {
        let configured = self.configured_weight;
        *self.life.wished_weight() = weight.map(|weight| WishedWeight { weight, configured });
    }

    /// Whether it is to have another weight than it has.
    pub(crate) fn wants_weight(&self) -> bool {
        self.life.weight(self.configured_weight) != self.weight
    }

    /// Forgets a wish that the configuration has spoken after.
    pub(crate) fn settle_weight(&self) {
        let mut wished = self.life.wished_weight();
        if wished.is_some_and(|wished| wished.configured != self.configured_weight) {
            *wished = None;
        }
    }

    /// It stands by while one of a lower number is up and has room.
    pub fn priority(&self) -> u16 {
        self.priority
    }

    /// Where it stands, if that was said.
    pub fn zone(&self) -> Option<&Arc<str>> {
        self.zone.as_ref()
    }

    /// Its place among its peers: the lower ones are asked first, and among equals there is balance. By priority, and then
    /// whether it stands in another zone.
    pub(crate) fn rank(&self) -> (u16, bool) {
        (self.priority, self.away)
    }

    /// Most requests and tunnels in flight at once; 0 for no limit.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// How long it is expected to take to the first byte of an answer; `None` where nobody knows, or nobody has asked
    /// lately. Only balance `peak_ewma` has it measured.
    pub fn first_byte(&self) -> Option<Duration> {
        let expected = self.life.latency.expected(Tick::now());
        (expected >= 1.0).then(|| Duration::from_micros(expected as u64))
    }

    /// An answer of it took this long.
    #[cfg(test)]
    pub(crate) fn note_first_byte(&self, now: Tick, took: Duration) {
        self.life.latency.note(now, took, super::Outcome::Answered);
    }

    /// What one more request would have to expect there: the time to the first byte, for each that is on its way. While
    /// that is unknown one is sent, and others wait for what it says.
    pub(crate) fn cost(&self, now: Tick) -> f32 {
        let in_flight = self.in_flight() as f32;
        match self.life.latency.expected(now) {
            expected if expected >= 1.0 => expected * (in_flight + 1.0),
            _ => UNKNOWN * in_flight,
        }
    }

    /// The sessions that live there; `None` where the upstream has none.
    pub fn home(&self) -> Option<&Arc<Home>> {
        self.home.as_ref()
    }
}

/// What is expected of a server whose first answer is on its way, in microseconds: more than of any that is well.
const UNKNOWN: f32 = 10e6;

impl Life {
    fn new(said: &ServerConfig, check: Check, joined: bool) -> Self {
        // Nobody will ever tell of a server without checks; only a name has to resolve first.
        let known_up = check == Check::None && !matches!(said.address, ServerAddress::Name(..));
        Self {
            condition: Condition::new(known_up, said.drain, joined),
            load: Load::default(),
            latency: Latency::default(),
            location: Location::of(&said.address),
            wished_weight: Mutex::default(),
        }
    }

    fn wished_weight(&self) -> MutexGuard<'_, Option<WishedWeight>> {
        self.wished_weight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weight of a server of which the configuration says this.
    fn weight(&self, configured: u32) -> u32 {
        let wished = self.wished_weight().filter(|wished| wished.configured == configured);
        wished.map_or(configured, |wished| wished.weight)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("state", &self.state())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
