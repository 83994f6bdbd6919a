//! One server: who it is, how it fares and how much it carries.

use std::fmt;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use fnv::FnvHasher;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::address::ServerAddress;
use crate::session::{Home, SessionTable};
use crate::upstream::config::{Check, Ejection, ServerConfig};
use crate::upstream::health::{Conduct, Ejected, Fault};

/// A server of an upstream.
pub struct Server {
    id: ServerId,
    name: Arc<str>,
    address: ServerAddress,
    weight: u32,
    max_connections: usize,
    /// What the configuration says; the state is in `life`.
    drain: bool,
    /// Its sessions, where the upstream has any.
    home: Option<Arc<Home>>,
    life: Arc<Life>,
}

/// What happens to a server while it is configured; outlives a reload that leaves name and address as they are.
struct Life {
    born: Instant,
    health: AtomicU8,
    draining: AtomicBool,
    /// What the configuration said of draining when it was last heeded.
    drain_said: AtomicBool,
    /// Whether it was taken out of its upstream while it had work.
    removed: AtomicBool,
    /// Whether it joined servers that were there already.
    joined: bool,
    /// When it came up, while that is not long ago: milliseconds after `born`, and one; else 0.
    came_up: AtomicU64,
    conduct: Conduct,
    in_flight: AtomicUsize,
    total: AtomicU64,
    /// Handshakes placed here that have not opened their session yet.
    opening: AtomicUsize,
    report: Mutex<Report>,
    /// What the host name resolved to, best first; empty until it did. The address itself for the other forms.
    resolved: ArcSwap<Vec<SocketAddr>>,
    unix: Option<Arc<Path>>,
    check_now: Notify,
    resolve_now: Notify,
}

struct Report {
    since: SystemTime,
    last_check: Option<CheckReport>,
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

/// How a server fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No check has ended yet.
    Starting,
    /// It takes work.
    Up,
    /// Its checks fail.
    Down,
    /// It keeps its sessions and gets no new ones.
    Draining,
}

impl State {
    /// The word for it in logs, metrics and the status page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
        }
    }
}

/// Where a server is reached right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(Arc<Path>),
}

/// A server's state and how it came to it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The state.
    pub state: State,
    /// When the checks last changed their verdict.
    pub since: SystemTime,
    /// The ejection that lasts.
    pub ejected: Option<Ejected>,
    /// The last check, if one has ended.
    pub last_check: Option<CheckReport>,
}

/// One check that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// Whether the server passed.
    pub good: bool,
    /// What was seen, in a few words.
    pub text: String,
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
}

/// What the checks say, apart from what the operator wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Health {
    Starting,
    Up,
    Down,
}

impl Server {
    /// A server as configured: the one in `known` if nothing changed, a new one with its life if name and address are
    /// the same, else a fresh one.
    pub(crate) fn adopt(
        said: &ServerConfig,
        check: Check,
        sessions: Option<&SessionTable>,
        known: Option<&Arc<Self>>,
        joins: bool,
    ) -> Result<Arc<Self>, String> {
        let name = said.name();
        let weight = u32::from(said.weight);
        if weight == 0 {
            return Err(format!("server `{name}` has weight 0: expected 1 to 256"));
        }
        let id = ServerId::of(&name);
        let home = sessions.map(|table| table.home(id.to_bits()));
        let same = known.filter(|server| server.id == id && server.address == said.address);
        if let Some(same) = same
            && (same.weight, same.max_connections, same.drain) == (weight, said.max_connections, said.drain)
            && same.home.as_ref().map(Arc::as_ptr) == home.as_ref().map(Arc::as_ptr)
        {
            return Ok(same.clone());
        }
        let fresh = || Arc::new(Life::new(said, check, joins));
        Ok(Arc::new(Self {
            id,
            name: name.into(),
            address: said.address.clone(),
            weight,
            max_connections: said.max_connections,
            drain: said.drain,
            home,
            life: same.map_or_else(fresh, |same| same.life.clone()),
        }))
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

    /// Most requests and tunnels in flight at once; 0 for no limit.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// The sessions that live there; `None` where the upstream has none.
    pub fn home(&self) -> Option<&Arc<Home>> {
        self.home.as_ref()
    }

    /// Sessions that live there.
    pub fn sessions(&self) -> usize {
        self.home.as_ref().map_or(0, |home| home.live())
    }

    /// Handshakes placed there that have not opened their session yet.
    pub fn opening(&self) -> usize {
        self.life.opening.load(Relaxed)
    }

    /// How it fares.
    pub fn state(&self) -> State {
        match self.health() {
            Health::Down => State::Down,
            _ if self.life.draining.load(Relaxed) => State::Draining,
            Health::Starting => State::Starting,
            Health::Up => State::Up,
        }
    }

    /// How it fares and why; for people, not for the path of a request.
    pub fn status(&self) -> Status {
        let report = self.report();
        Status {
            state: self.state(),
            since: report.since,
            ejected: self.life.conduct.ejection(),
            last_check: report.last_check.clone(),
        }
    }

    /// What is left of an ejection; `None` while the server isn't ejected.
    pub fn ejected(&self) -> Option<Duration> {
        self.life.conduct.ejected()
    }

    /// Whether the operator took it out of new work; also told while it is down.
    pub fn is_draining(&self) -> bool {
        self.life.draining.load(Relaxed)
    }

    /// Requests and tunnels in flight.
    pub fn in_flight(&self) -> usize {
        self.life.in_flight.load(Relaxed)
    }

    /// Requests and tunnels that were ever given to it.
    pub fn total(&self) -> u64 {
        self.life.total.load(Relaxed)
    }

    /// Connects that ever failed.
    pub fn connect_failures(&self) -> u64 {
        self.life.conduct.failed_connects()
    }

    /// Answers that ever were bad, missing ones included.
    pub fn bad_answers(&self) -> u64 {
        self.life.conduct.bad_answers()
    }

    /// How often it was passed over.
    pub fn ejections(&self) -> u64 {
        self.life.conduct.ejections()
    }

    /// Where it is reached right now; `None` while its host name has never resolved.
    pub fn endpoint(&self) -> Option<Endpoint> {
        match &self.life.unix {
            Some(path) => Some(Endpoint::Unix(path.clone())),
            None => self.life.resolved.load().first().copied().map(Endpoint::Inet),
        }
    }

    /// Every address it is known under, best first; none for a Unix socket.
    pub(crate) fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.life.resolved.load_full()
    }

    pub(crate) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.life.resolved.store(Arc::new(addresses));
    }

    /// Its share of new work at this moment, in thousandths of a unit of weight: from a tenth of its weight to the whole
    /// within `slow_start` of its coming up.
    pub(crate) fn share(&self, slow_start: Duration) -> u64 {
        let whole = u64::from(self.weight) * 1000;
        let came_up = self.life.came_up.load(Relaxed);
        if came_up == 0 || slow_start.is_zero() {
            return whole;
        }
        let warm = self.life.now().saturating_sub(came_up);
        let slow_start = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX).max(1);
        if warm >= slow_start {
            // From here on nobody has to look at the clock, unless it came up anew meanwhile.
            let _ = self.life.came_up.compare_exchange(came_up, 0, Relaxed, Relaxed);
            return whole;
        }
        let tenth = whole / 10;
        let gained = u128::from(whole - tenth) * u128::from(warm) / u128::from(slow_start);
        tenth + u64::try_from(gained).unwrap_or(u64::MAX)
    }

    /// Whether new work may go there: up, neither draining nor ejected.
    pub fn is_healthy(&self) -> bool {
        self.state() == State::Up && self.ejected().is_none()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.max_connections == 0 || self.life.in_flight.load(SeqCst) < self.max_connections
    }

    /// Takes a place if there is one.
    pub(crate) fn try_acquire(&self) -> bool {
        let in_flight = &self.life.in_flight;
        let taken = self.max_connections == 0
            || in_flight
                .fetch_update(SeqCst, SeqCst, |count| (count < self.max_connections).then_some(count + 1))
                .is_ok();
        if taken {
            if self.max_connections == 0 {
                in_flight.fetch_add(1, SeqCst);
            }
            self.life.total.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Takes a place, beyond the limit if need be.
    pub(crate) fn acquire(&self) {
        self.life.in_flight.fetch_add(1, SeqCst);
        self.life.total.fetch_add(1, Relaxed);
    }

    /// Gives a place back.
    pub(crate) fn release(&self) {
        self.life.in_flight.fetch_sub(1, SeqCst);
    }

    /// Counts a handshake that may open a session.
    pub(crate) fn opens(&self) {
        self.life.opening.fetch_add(1, Relaxed);
    }

    /// The handshake has opened its session, or never will.
    pub(crate) fn opened(&self) {
        self.life.opening.fetch_sub(1, Relaxed);
    }

    /// A connect failed: its sessions wait, and its name is looked up again.
    pub(crate) fn connect_failed(&self) {
        self.life.conduct.fell_ill();
        self.life.resolve_now.notify_one();
    }

    /// A connect went well.
    pub(crate) fn connected(&self) {
        if self.life.conduct.connected() && self.health() != Health::Down {
            self.life.conduct.recovered();
        }
    }

    /// What is known of how it does its work.
    pub(crate) fn conduct(&self) -> &Conduct {
        &self.life.conduct
    }

    /// Passes it over for a while, and has it checked at once. `None` if it is passed over already.
    pub(crate) fn eject(&self, fault: Fault, said: &Ejection) -> Option<Duration> {
        let lasts = self.life.conduct.eject(fault, said)?;
        self.life.check_now.notify_one();
        Some(lasts)
    }

    /// Sets or lifts draining. False if nothing changed.
    pub(crate) fn set_draining(&self, draining: bool) -> bool {
        self.life.draining.swap(draining, Relaxed) != draining
    }

    /// Does what the configuration says of draining, if that is news: an operator may have said otherwise since.
    pub(crate) fn heed(&self) -> bool {
        self.life.drain_said.swap(self.drain, Relaxed) != self.drain && self.set_draining(self.drain)
    }

    /// Whether it was taken out of its upstream: it drains, and is gone when its last session is.
    pub fn is_removed(&self) -> bool {
        self.life.removed.load(Relaxed)
    }

    /// Whether sessions live there, or anything is in flight.
    pub fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.opening() > 0 || self.sessions() > 0
    }

    /// It was taken out of the upstream. False if it was before.
    pub(crate) fn remove(&self) -> bool {
        self.life.draining.store(true, Relaxed);
        !self.life.removed.swap(true, Relaxed)
    }

    /// It is of the upstream: one that had been removed is as the configuration says. False if it wasn't removed.
    pub(crate) fn come_back(&self) -> bool {
        let was_removed = self.life.removed.swap(false, Relaxed);
        if was_removed {
            self.life.drain_said.store(self.drain, Relaxed);
            self.life.draining.store(self.drain, Relaxed);
        }
        was_removed
    }

    pub(crate) fn health(&self) -> Health {
        match self.life.health.load(Relaxed) {
            0 => Health::Starting,
            1 => Health::Up,
            _ => Health::Down,
        }
    }

    /// Sets the verdict of the checks. False if it was the same before.
    pub(crate) fn set_health(&self, health: Health) -> bool {
        let before = self.health();
        // Everybody starts at the start, so nobody has to catch up then.
        if health == Health::Up && (before == Health::Down || before == Health::Starting && self.life.joined) {
            self.life.came_up.store(self.life.now(), Relaxed);
        }
        let changed = self.life.health.swap(health as u8, SeqCst) != health as u8;
        if changed {
            self.report().since = SystemTime::now();
        }
        match health {
            Health::Down => self.life.conduct.fell_ill(),
            Health::Up if before == Health::Down => {
                // Whoever was down and is back is another process, as a rule.
                self.life.conduct.recovered();
                self.life.conduct.pardon();
            }
            Health::Starting | Health::Up => {}
        }
        changed
    }

    /// Notes a check; a good one ends an ejection for failed connects.
    pub(crate) fn checked(&self, check: CheckReport) {
        if check.good {
            self.connected();
            self.life.conduct.passed_a_check();
        }
        self.report().last_check = Some(check);
    }

    /// Resolves when somebody wants to know at once how the server fares.
    pub(crate) async fn check_wanted(&self) {
        self.life.check_now.notified().await;
    }

    /// Resolves when a connect has failed, so that the name may have moved.
    pub(crate) async fn lookup_wanted(&self) {
        self.life.resolve_now.notified().await;
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.life.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    fn new(said: &ServerConfig, check: Check, joined: bool) -> Self {
        let address = &said.address;
        let (resolved, unix) = match address {
            ServerAddress::Inet(address) => (vec![*address], None),
            ServerAddress::Name(..) => (Vec::new(), None),
            ServerAddress::Unix(path) => (Vec::new(), Some(path.as_path().into())),
        };
        // Nobody will ever tell of a server without checks; only a name has to resolve first.
        let known_up = check == Check::None && !matches!(address, ServerAddress::Name(..));
        let health = if known_up { Health::Up } else { Health::Starting };
        Self {
            born: Instant::now(),
            health: AtomicU8::new(health as u8),
            draining: AtomicBool::new(said.drain),
            drain_said: AtomicBool::new(said.drain),
            removed: AtomicBool::new(false),
            joined,
            came_up: AtomicU64::new(u64::from(known_up && joined)),
            conduct: Conduct::new(),
            in_flight: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            opening: AtomicUsize::new(0),
            report: Mutex::new(Report { since: SystemTime::now(), last_check: None }),
            resolved: ArcSwap::from_pointee(resolved),
            unix,
            check_now: Notify::new(),
            resolve_now: Notify::new(),
        }
    }

    /// Milliseconds after `born`, and one: never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
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
