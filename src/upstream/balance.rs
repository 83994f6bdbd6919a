//! How new work is placed: the trait, and the four ways that an operator can name.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;

use super::config::{self, Config, Kind};
use super::key::{PickKey, Tried};
use super::ring::Ring;
use super::server::{Health, Server};
use super::{MakeBalance, Reason};

/// Chooses a server for new work.
///
/// One value serves one set of servers, from many threads at once; a changed set gets a new value. Whoever chooses a
/// server that isn't open gets asked no further, so a balance walks past those.
///
/// ```
/// use sockgate::upstream::{Balance, Candidates, PickKey};
///
/// /// The first server in the file that has room; the others stand by.
/// struct First;
///
/// impl Balance for First {
///     fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
///         candidates.open().next()
///     }
/// }
/// ```
pub trait Balance: Send + Sync {
    /// The position of the chosen server among the candidates; `None` if none of them is open.
    fn choose(&self, key: &PickKey, candidates: &Candidates<'_>) -> Option<usize>;
}

/// The servers of an upstream in the eyes of one request: positions from 0, of which some are open to it.
pub struct Candidates<'a> {
    servers: &'a [Arc<Server>],
    tried: &'a Tried,
    tier: Tier,
}

/// Which servers are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    /// Those that are up.
    Healthy,
    /// Those that would be up if they weren't ejected.
    Ejected,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(servers: &'a [Arc<Server>], tried: &'a Tried, tier: Tier) -> Self {
        Self { servers, tried, tier }
    }

    /// All servers, open or not.
    pub fn servers(&self) -> &'a [Arc<Server>] {
        self.servers
    }

    /// Whether the server at this position can take the request: it is up, has room and wasn't tried.
    pub fn is_open(&self, position: usize) -> bool {
        self.servers.get(position).is_some_and(|server| server.has_room() && self.serves(server))
    }

    /// The positions of the open servers, in the order of the configuration.
    pub fn open(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.servers.len()).filter(|&position| self.is_open(position))
    }

    /// Whether the server would take the request if it had room.
    fn serves(&self, server: &Server) -> bool {
        let fit = match self.tier {
            Tier::Healthy => server.is_healthy(),
            Tier::Ejected => server.health() == Health::Up && !server.is_draining(),
        };
        fit && !self.tried.contains(server.id())
    }

    /// What could open a server that isn't open now.
    pub(super) fn worth_waiting_for(&self) -> Option<Reason> {
        if self.servers.iter().any(|server| self.serves(server)) {
            return Some(Reason::Full);
        }
        let starting = |server: &Server| {
            server.health() == Health::Starting && !server.is_draining() && !self.tried.contains(server.id())
        };
        self.servers.iter().any(|server| starting(server)).then_some(Reason::Starting)
    }
}

/// What builds the balance that the configuration names.
pub(super) fn maker(config: &Config) -> MakeBalance {
    // Where sids lead requests home, placing may spread clients of one address; where they don't, it must not.
    let bounded = config.kind == Kind::SocketIo;
    match config.balance() {
        config::Balance::ClientIp => {
            Arc::new(move |servers| Box::new(ClientIp { ring: Ring::build(servers), bounded }))
        }
        config::Balance::RoundRobin => Arc::new(|servers| Box::new(RoundRobin::new(servers.len()))),
        config::Balance::LeastConnections => Arc::new(|_| Box::new(LeastConnections::default())),
        config::Balance::RandomTwo => Arc::new(|_| Box::new(RandomTwo)),
    }
}

/// `client_ip`: consistent hash of the client's address, with bounded load for sessions.
struct ClientIp {
    ring: Ring,
    bounded: bool,
}

/// Below this many in flight for each unit of weight a client is never moved on for the sake of load.
const BOUND_FLOOR: u64 = 64;

impl Balance for ClientIp {
    fn choose(&self, key: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        // The ring is long, so it isn't walked in vain.
        candidates.open().next()?;
        let mut open = self.ring.walk(key).filter(|&position| candidates.is_open(position));
        if !self.bounded {
            return open.next();
        }
        let (mut load, mut weight) = (0, 0);
        for position in candidates.open() {
            let server = &candidates.servers()[position];
            load += server.in_flight() as u64;
            weight += u64::from(server.weight());
        }
        // Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): nobody carries more than 5/4
        // of its share, so that one large NAT can't fill one server.
        open.find(|&position| {
            let server = &candidates.servers()[position];
            let own = u64::from(server.weight());
            let share = ((load + 1) * own * 5).div_ceil(weight.max(1) * 4);
            (server.in_flight() as u64) < share.max(BOUND_FLOOR * own)
        })
        .or_else(|| self.ring.walk(key).find(|&position| candidates.is_open(position)))
    }
}

/// `round_robin`: in turn by weight, evenly mixed, as nginx does it: everyone gains its weight, the richest is chosen
/// and pays the sum.
struct RoundRobin {
    credit: Mutex<Box<[i64]>>,
}

impl RoundRobin {
    fn new(servers: usize) -> Self {
        Self { credit: Mutex::new(vec![0; servers].into()) }
    }
}

impl Balance for RoundRobin {
    fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut best: Option<usize> = None;
        for position in candidates.open() {
            let weight = i64::from(candidates.servers()[position].weight());
            total += weight;
            credit[position] += weight;
            if best.is_none_or(|best| credit[position] > credit[best]) {
                best = Some(position);
            }
        }
        let best = best?;
        credit[best] -= total;
        Some(best)
    }
}

/// `least_connections`: the least in flight for its weight, counted as if the work were there already; equals take
/// turns.
#[derive(Default)]
struct LeastConnections {
    turn: AtomicUsize,
}

impl Balance for LeastConnections {
    fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        let (mut best, mut equals) = (candidates.open().next()?, 0);
        for position in candidates.open() {
            match compare(candidates, position, best) {
                Ordering::Less => (best, equals) = (position, 1),
                Ordering::Equal => equals += 1,
                Ordering::Greater => {}
            }
        }
        let turn = self.turn.fetch_add(1, Relaxed) % equals.max(1);
        // Loads move on while they are looked at, so the best so far stands in.
        let mut lightest = candidates.open().filter(|&position| compare(candidates, position, best).is_eq());
        lightest.nth(turn).or(Some(best))
    }
}

/// `random_two`: the less loaded of two servers drawn by weight.
struct RandomTwo;

impl Balance for RandomTwo {
    fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        draw_two(candidates, &mut rand::rng())
    }
}

fn draw_two(candidates: &Candidates<'_>, dice: &mut impl Rng) -> Option<usize> {
    let first = draw(candidates, None, dice)?;
    let second = draw(candidates, Some(first), dice);
    Some(second.filter(|&second| compare(candidates, second, first).is_lt()).unwrap_or(first))
}

/// One open server, by weight, that isn't `except`.
fn draw(candidates: &Candidates<'_>, except: Option<usize>, dice: &mut impl Rng) -> Option<usize> {
    let lots = || {
        let open = candidates.open().filter(move |&position| Some(position) != except);
        open.map(|position| (position, candidates.servers()[position].weight()))
    };
    let total: u32 = lots().map(|(_, weight)| weight).sum();
    if total == 0 {
        return None;
    }
    let mut lot = dice.random_range(0..total);
    let mut last = None;
    for (position, weight) in lots() {
        if lot < weight {
            return Some(position);
        }
        lot -= weight;
        last = Some(position);
    }
    // Somebody closed between the sum and the draw.
    last
}

/// Which of two would carry less for its weight.
fn compare(candidates: &Candidates<'_>, one: usize, other: usize) -> Ordering {
    let [one, other] = [one, other].map(|position| &candidates.servers()[position]);
    let cost = |server: &Server, counterweight: u32| (server.in_flight() as u64 + 1) * u64::from(counterweight);
    cost(one, other.weight()).cmp(&cost(other, one.weight()))
}

#[cfg(test)]
mod tests;
