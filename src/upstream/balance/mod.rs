//! How new work is placed: the trait, and the ways that an operator can name.

mod key;
mod many;
mod ring;

use std::cell::{Cell, LazyCell, OnceCell};
use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;

pub use key::{PickKey, Tried};
pub(crate) use ring::Ring;

use many::{LongRound, MANY, least_loaded};

use crate::upstream::config::{self, Config};
use crate::upstream::servers::{Health, Server, Tick};
use crate::upstream::{MakeBalance, Reason};

/// Chooses a server for new work.
///
/// One value serves one set of servers, from many threads at once; a changed set gets a new value. Whoever chooses a
/// server that isn't open gets asked no further, so a balance walks past those.
///
/// ```
/// use sockgate::{Balance, Candidates, PickKey};
///
/// /// The first server in the file that has room; the others stand by.
/// struct First;
///
/// impl Balance for First {
///     fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
///         candidates.open().next()
///     }
/// }
///
/// // Asked as a request would ask it, without a gateway:
/// use sockgate::{Server, ServerConfig};
/// # use std::net::Ipv4Addr;
///
/// let drains = ServerConfig::at("10.0.0.1:80")?.with_drain(true);
/// let servers = [Server::idle(&drains), Server::idle(&ServerConfig::at("10.0.0.2:80")?)];
/// let client = PickKey::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
/// assert_eq!(First.choose(&client, &Candidates::of(&servers)), Some(1));
/// # Ok::<(), String>(())
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
    work: Work,
    terms: Terms,
    /// Whether a server was passed over because it has its share.
    spilled: Cell<bool>,
    /// Where servers are relieved of what they have beyond their share: how much that may be.
    cap: OnceCell<Bound>,
}

/// Which servers are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Those that are up.
    Healthy,
    /// Those that would be up if they weren't ejected.
    Ejected,
    /// Those that are about to be left.
    Draining,
}

/// What a server is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A request or a tunnel, over when it is over.
    Request,
    /// A handshake, which may open a session: all of the session will come there.
    Session,
}

/// What the operator says of an even spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    slow_start: Duration,
    /// Thousandths of its share that a server may carry; 0 for no bound.
    bound: u64,
    /// Whether the bound holds for new sessions whatever the balance: who is shed must not come back.
    strict: bool,
    /// Up to this many sessions for each unit of weight there is no bound, so that those of one address stay together.
    together: u64,
}

impl Terms {
    /// `balance` is what places the work, unless the program has brought something else.
    pub(crate) fn of(config: &Config, balance: Option<config::Balance>, has_sessions: bool) -> Self {
        // Where sids lead requests home, placing may spread clients of one address; where they don't, it must not.
        let sessions = Some(&config.sessions).filter(|_| has_sessions);
        let placing = sessions.map_or(0.0, |sessions| sessions.bounded_load);
        let shedding = sessions.and_then(|sessions| sessions.rebalance.as_ref()).map(|rebalance| rebalance.bound);
        let factor = match shedding {
            Some(bound) if placing == 0.0 || bound < placing => bound,
            _ => placing,
        };
        let strict = shedding.is_some();
        let together = match balance {
            Some(config::Balance::ClientIp) if !strict => config.sessions.bounded_from.into(),
            _ => 0,
        };
        Self { slow_start: config.slow_start, bound: thousandths(factor), strict, together }
    }

    /// Up to how many sessions on a server those of one address stay together.
    pub(crate) fn together(&self) -> u64 {
        self.together
    }
}

/// A factor in whole thousandths.
pub(crate) fn thousandths(factor: f64) -> u64 {
    (factor * 1000.0).round() as u64
}

impl<'a> Candidates<'a> {
    /// These servers in the eyes of a request that has tried none of them: for tests of a [`Balance`].
    pub fn of(servers: &'a [Arc<Server>]) -> Self {
        static NONE: LazyLock<Tried> = LazyLock::new(Tried::default);
        let terms = Terms { slow_start: Duration::ZERO, bound: 0, strict: false, together: 0 };
        Self::new(servers, &NONE, Tier::Healthy, Work::Request, terms)
    }

    pub(crate) fn new(servers: &'a [Arc<Server>], tried: &'a Tried, tier: Tier, work: Work, terms: Terms) -> Self {
        Self { servers, tried, tier, work, terms, spilled: Cell::new(false), cap: OnceCell::new() }
    }

    /// All servers, open or not.
    pub fn servers(&self) -> &'a [Arc<Server>] {
        self.servers
    }

    /// Whether the server at this position can take the request: it is up, has room and wasn't tried, and where sessions
    /// are rebalanced it hasn't too many of them.
    pub fn is_open(&self, position: usize) -> bool {
        self.has_place(position) && (!self.terms.strict || self.work == Work::Request || self.is_below_cap(position))
    }

    /// The same, whatever sessions it has.
    pub(crate) fn has_place(&self, position: usize) -> bool {
        self.servers.get(position).is_some_and(|server| server.has_room() && self.serves(server))
    }

    /// The one with the least for its share always is.
    fn is_below_cap(&self, position: usize) -> bool {
        let cap = self.cap.get_or_init(|| self.bound_of_all(FEW_SESSIONS));
        self.load(position) < cap.most(self.share(position))
    }

    /// The positions of the open servers, in the order of the configuration.
    pub fn open(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.servers.len()).filter(|&position| self.is_open(position))
    }

    /// What the server at this position carries. For a handshake that is its sessions, with those that are about to be
    /// opened and without those whose clients have just lost their connections, since they come back as new ones; for
    /// other work it is the requests and tunnels in flight. 0 where there is no server.
    pub fn load(&self, position: usize) -> u64 {
        self.servers.get(position).map_or(0, |server| match self.work {
            Work::Request => server.in_flight() as u64,
            Work::Session => server.present_sessions() as u64 + server.opening() as u64,
        })
    }

    /// The share of new work that is due to the server at this position beside its peers, in thousandths of a unit of
    /// weight: its weight, or less while it warms up. 0 where there is no server.
    pub fn share(&self, position: usize) -> u64 {
        self.servers.get(position).map_or(0, |server| server.share(self.terms.slow_start))
    }

    /// Whether the server would take the request if it had room.
    fn serves(&self, server: &Server) -> bool {
        let fit = match self.tier {
            Tier::Healthy => server.is_healthy(),
            Tier::Ejected => server.health() == Health::Up && !server.is_draining(),
            Tier::Draining => server.health() == Health::Up && server.is_draining(),
        };
        fit && !self.tried.contains(server.id())
    }

    /// The most that each open server may carry; `None` where there is no bound.
    fn bound(&self) -> Option<Bound> {
        (self.terms.bound > 0).then(|| self.bound_of_all(FEW_SESSIONS))
    }

    /// The same for a client that was there before: the sessions that it and those beside it have lost may still be
    /// counted.
    pub(crate) fn bound_of_returning(&self) -> Option<Bound> {
        // Who is shed must not come back for the sake of a few.
        let few = if self.terms.strict { FEW_SESSIONS } else { FEW_RETURNING };
        (self.terms.bound > 0).then(|| Bound { together: 2 * self.terms.together, ..self.bound_of_all(few) })
    }

    fn bound_of_all(&self, few: u64) -> Bound {
        let places = (0..self.servers.len()).filter(|&position| self.has_place(position));
        let (load, share) =
            places.fold((0, 0), |(load, share), position| (load + self.load(position), share + self.share(position)));
        let Terms { bound: factor, together, .. } = self.terms;
        Bound { load, share: share.max(1), factor, work: self.work, few, together }
    }

    /// Whether the server at this position may carry one more; if not, that is remembered.
    pub(crate) fn is_within(&self, bound: &Bound, position: usize) -> bool {
        let within = self.load(position) < bound.most(self.share(position));
        if !within {
            self.spilled.set(true);
        }
        within
    }

    /// Whether a server was passed over because it has its share.
    pub(crate) fn spilled(&self) -> bool {
        self.spilled.get()
    }

    /// Whether the server at this position is warm enough for a lot drawn from 0 to 999.
    fn is_warm(&self, position: usize, lot: impl FnOnce() -> u64) -> bool {
        let weight = self.servers.get(position).map_or(0, |server| u64::from(server.weight()));
        let share = self.share(position);
        share >= weight * 1000 || share > lot() * weight
    }

    /// What could open a server that isn't open now.
    pub(crate) fn worth_waiting_for(&self) -> Option<Reason> {
        if self.servers.iter().any(|server| self.serves(server)) {
            return Some(Reason::Full);
        }
        let starting = |server: &Server| {
            server.health() == Health::Starting
                && (self.tier == Tier::Draining || !server.is_draining())
                && !self.tried.contains(server.id())
        };
        self.servers.iter().any(|server| starting(server)).then_some(Reason::Starting)
    }
}

/// How much of all that the open servers carry may be on one of them.
pub(crate) struct Bound {
    load: u64,
    share: u64,
    factor: u64,
    work: Work,
    few: u64,
    together: u64,
}

/// Up to this many in flight for each unit of weight a client is never moved on for the sake of load.
const FEW_REQUESTS: u64 = 64;
/// This many sessions beyond its share a server may always have. Each gateway spreads its own part of a crowd, and all of
/// them round up at the same servers.
const FEW_SESSIONS: u64 = 1;
/// The same for a client that was there before: who comes back alone finds its server, though the sessions that it lost may
/// still be counted there.
const FEW_RETURNING: u64 = 2;

impl Bound {
    /// The bound of servers that carry `load` sessions, all together, for a `share`, all together.
    pub(crate) fn of_sessions(load: u64, share: u64, factor: u64) -> Self {
        Self { load, share: share.max(1), factor, work: Work::Session, few: FEW_RETURNING, together: 0 }
    }

    /// The load from which on a server of this share gets no more.
    ///
    /// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): nobody carries more than the factor
    /// times its share, so that one large NAT can't fill one server.
    pub(crate) fn most(&self, share: u64) -> u64 {
        let mean = u128::from(self.load + 1) * u128::from(share);
        let times = |thousandths: u64| {
            let most = (mean * u128::from(thousandths)).div_ceil(u128::from(self.share) * 1000);
            u64::try_from(most).unwrap_or(u64::MAX)
        };
        let few = match self.work {
            Work::Request => (FEW_REQUESTS * share).div_ceil(1000),
            Work::Session => (times(1000) + self.few).max((self.together * share).div_ceil(1000)),
        };
        times(self.factor).max(few)
    }
}

/// What builds the balance that the configuration names.
pub(crate) fn maker(config: &Config) -> MakeBalance {
    match config.balance() {
        config::Balance::ClientIp => Arc::new(|servers| Box::new(ClientIp { ring: Ring::build(servers) })),
        config::Balance::RoundRobin => Arc::new(|servers| match servers.len() {
            0..MANY => Box::new(RoundRobin::new(servers.len())),
            MANY.. => Box::new(LongRound::build(servers)),
        }),
        config::Balance::LeastConnections => Arc::new(|_| Box::new(LeastConnections::default())),
        config::Balance::RandomTwo => Arc::new(|servers| Box::new(RandomTwo::among(servers))),
        config::Balance::PeakEwma => Arc::new(|servers| Box::new(PeakEwma(RandomTwo::among(servers)))),
    }
}

/// `client_ip`: consistent hash of the client's address, with bounded load where sessions lead requests home.
struct ClientIp {
    ring: Ring,
}

impl Balance for ClientIp {
    fn choose(&self, key: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        // The ring is long, so it isn't walked in vain.
        candidates.open().next()?;
        let walk = || self.ring.walk(key).filter(|&position| candidates.has_place(position));
        let bound = candidates.bound();
        let within = |position: &usize| bound.as_ref().is_none_or(|bound| candidates.is_within(bound, *position));
        // A cold server gets some of its clients at first, then more and more of them: those stay.
        let lot = LazyCell::new(|| match candidates.work {
            Work::Request => key.lot(),
            Work::Session => rand::rng().random_range(0..1000),
        });
        let warm = |position: &usize| candidates.is_warm(*position, || *lot);
        walk().filter(warm).find(within).or_else(|| walk().find(within)).or_else(|| walk().next())
    }
}

/// `round_robin`: in turn by weight, evenly mixed, as nginx does it: everyone gains its share, the richest is chosen
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
            let share = i64::try_from(candidates.share(position)).unwrap_or(i64::MAX);
            total += share;
            credit[position] += share;
            if best.is_none_or(|best| credit[position] > credit[best]) {
                best = Some(position);
            }
        }
        let best = best?;
        credit[best] -= total;
        Some(best)
    }
}

/// `least_connections`: the least loaded for its share, counted as if the work were there already; equals take turns.
#[derive(Default)]
struct LeastConnections {
    turn: AtomicUsize,
}

impl Balance for LeastConnections {
    fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        if candidates.servers().len() >= MANY {
            return least_loaded(candidates, self.turn.fetch_add(1, Relaxed));
        }
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

/// `random_two`: the less loaded of two servers drawn by share.
struct RandomTwo {
    /// The share of the heaviest server.
    most: u64,
}

impl RandomTwo {
    fn among(servers: &[Arc<Server>]) -> Self {
        Self { most: servers.iter().map(|server| u64::from(server.weight()) * 1000).max().unwrap_or(1) }
    }
}

impl RandomTwo {
    fn choose_by(&self, candidates: &Candidates<'_>, less: impl FnOnce(usize, usize) -> bool) -> Option<usize> {
        let dice = &mut rand::rng();
        let first = draw(candidates, self.most, None, dice)?;
        let second = draw(candidates, self.most, Some(first), dice);
        Some(second.filter(|&second| less(second, first)).unwrap_or(first))
    }
}

impl Balance for RandomTwo {
    fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        self.choose_by(candidates, |one, other| compare(candidates, one, other).is_lt())
    }
}

/// `peak_ewma`: of two servers drawn by share, the one that is expected to answer sooner.
struct PeakEwma(RandomTwo);

impl Balance for PeakEwma {
    fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        let now = Tick::now();
        let cost = |position: usize| candidates.servers().get(position).map_or(f32::MAX, |server| server.cost(now));
        self.0.choose_by(candidates, |one, other| cost(one) < cost(other))
    }
}

/// One open server, by share, that isn't `except`; `most` is the largest share there is.
fn draw(candidates: &Candidates<'_>, most: u64, except: Option<usize>, dice: &mut impl Rng) -> Option<usize> {
    /// Draws from all servers, before the open ones are counted: most servers are open, and of like weight.
    const DRAWS: usize = 8;
    let all = candidates.servers().len();
    for _ in 0..DRAWS.min(all) {
        let position = dice.random_range(0..all);
        // Taken as often as its share of the largest one says, each is drawn by its share.
        let taken = Some(position) != except && dice.random_range(0..most) < candidates.share(position);
        if taken && candidates.is_open(position) {
            return Some(position);
        }
    }

    let lots = || {
        let open = candidates.open().filter(move |&position| Some(position) != except);
        open.map(|position| (position, candidates.share(position)))
    };
    let total: u64 = lots().map(|(_, share)| share).sum();
    if total == 0 {
        return None;
    }
    let mut lot = dice.random_range(0..total);
    let mut last = None;
    for (position, share) in lots() {
        if lot < share {
            return Some(position);
        }
        lot -= share;
        last = Some(position);
    }
    // Somebody closed between the sum and the draw.
    last
}

/// Which of two would carry less for its share.
fn compare(candidates: &Candidates<'_>, one: usize, other: usize) -> Ordering {
    let cost = |position, counterweight| (candidates.load(position) + 1) * candidates.share(counterweight);
    cost(one, other).cmp(&cost(other, one))
}

#[cfg(test)]
mod tests;
