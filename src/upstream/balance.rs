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
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::{Value, json};

    use super::super::Upstream;
    use super::super::testing::{at_once, client, upstream};
    use super::*;

    /// An upstream of servers `a`, `b`, `c`… with these weights.
    fn pool(balance: &str, weights: &[u16]) -> Arc<Upstream> {
        let servers: Vec<Value> = (0..weights.len()).map(|index| server(index, weights[index])).collect();
        upstream(json!({ "balance": balance, "servers": servers }))
    }

    fn server(index: usize, weight: u16) -> Value {
        let name = char::from(b'a' + index as u8).to_string();
        json!({ "address": format!("10.0.0.{index}:80"), "name": name, "weight": weight })
    }

    fn pick_once(upstream: &Arc<Upstream>, key: &PickKey) -> super::super::Lease {
        at_once(upstream.pick(key, &mut Tried::default())).unwrap()
    }

    /// Who serves this many requests, one after the other.
    fn in_turn(upstream: &Arc<Upstream>, count: usize) -> String {
        (0..count).map(|_| pick_once(upstream, &client(1)).server().name().to_string()).collect()
    }

    #[test]
    fn round_robin_mixes_weights_evenly() {
        assert_eq!(in_turn(&pool("round_robin", &[5, 1, 1]), 14), "aabacaaaabacaa");
        assert_eq!(in_turn(&pool("round_robin", &[1, 1, 1]), 7), "abcabca");
    }

    #[test]
    fn round_robin_shares_the_work_of_a_missing_server_among_all_others() {
        let upstream = pool("round_robin", &[1, 1, 1]);
        upstream.set_draining(&upstream.servers()[1], true);
        assert_eq!(in_turn(&upstream, 6), "acacac");
    }

    #[test]
    fn least_connections_count_by_weight_and_equals_take_turns() {
        let upstream = pool("least_connections", &[1, 1, 1]);
        assert_eq!(in_turn(&upstream, 6), "abcabc");
        let held = pick_once(&upstream, &client(1));
        assert_eq!(held.server().name().as_ref(), "a");
        assert_eq!(in_turn(&upstream, 4).matches('a').count(), 0);
        drop(held);
        assert_eq!(in_turn(&upstream, 3).matches('a').count(), 1);

        let upstream = pool("least_connections", &[3, 1]);
        let held: Vec<_> = (0..8).map(|_| pick_once(&upstream, &client(1))).collect();
        assert_eq!(held.iter().filter(|lease| lease.server().name().as_ref() == "a").count(), 6);
    }

    #[test]
    fn random_two_takes_the_less_loaded_of_two_and_draws_by_weight() {
        let upstream = pool("random_two", &[1, 1]);
        let held: Vec<_> = (0..100).map(|_| pick_once(&upstream, &client(1))).collect();
        let loads: Vec<usize> = upstream.servers().iter().map(|server| server.in_flight()).collect();
        assert_eq!(loads, [50, 50]);
        drop(held);

        let upstream = pool("random_two", &[6, 2, 1]);
        let servers = upstream.servers();
        let tried = Tried::default();
        let candidates = Candidates::new(&servers, &tried, Tier::Healthy);
        let mut dice = StdRng::seed_from_u64(7);
        let mut drawn = [0u32; 3];
        for _ in 0..9000 {
            drawn[draw(&candidates, None, &mut dice).unwrap()] += 1;
        }
        assert!(drawn[0].abs_diff(6000) < 300 && drawn[1].abs_diff(2000) < 200, "{drawn:?}");
        assert!((0..100).all(|_| draw(&candidates, Some(0), &mut dice) != Some(0)));
    }

    #[test]
    fn a_client_keeps_its_server_and_its_neighbours_in_the_64_do_too() {
        let upstream = pool("client_ip", &[1, 1, 1, 1]);
        let of = |address: &str| {
            let client = address.parse().unwrap();
            pick_once(&upstream, &PickKey { client }).server().name().clone()
        };
        assert_eq!(of("192.0.2.1"), of("192.0.2.1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
    }

    #[test]
    fn one_address_cannot_fill_one_server_with_sessions() {
        let servers: Vec<Value> = (0..4).map(|index| server(index, 1)).collect();
        let sessions = upstream(json!({ "kind": "socket.io", "servers": servers }));
        let held: Vec<_> = (0..800).map(|_| pick_once(&sessions, &client(1))).collect();
        let most = sessions.servers().iter().map(|server| server.in_flight()).max().unwrap();
        assert!(most <= 251, "{most} of 800 on one of four");
        assert_eq!(held[0].server().id(), held[BOUND_FLOOR as usize - 1].server().id());

        // Without sids to lead requests home, the client has to stay where it is.
        let http = pool("client_ip", &[1, 1, 1, 1]);
        let held: Vec<_> = (0..800).map(|_| pick_once(&http, &client(1))).collect();
        assert!(held.iter().all(|lease| lease.server().id() == held[0].server().id()));
    }

    #[test]
    fn a_balance_of_ones_own_is_asked() {
        struct Last;
        impl Balance for Last {
            fn choose(&self, _: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
                candidates.open().last()
            }
        }
        let config = super::super::testing::config(json!({ "servers": ["10.0.0.1:1", "10.0.0.2:1"] }));
        let upstream = Upstream::build_with_balance("test", &config, Arc::new(|_| Box::new(Last))).unwrap();
        assert_eq!(pick_once(&upstream, &client(1)).server().name().as_ref(), "10.0.0.2:1");
    }

    #[test]
    fn a_balance_that_points_nowhere_is_no_endless_loop() {
        struct Lost;
        impl Balance for Lost {
            fn choose(&self, _: &PickKey, _: &Candidates<'_>) -> Option<usize> {
                Some(99)
            }
        }
        let mut config = super::super::testing::config(json!({ "servers": ["10.0.0.1:1"] }));
        config.queue.size = 0;
        let upstream = Upstream::build_with_balance("test", &config, Arc::new(|_| Box::new(Lost))).unwrap();
        assert!(at_once(upstream.pick(&client(1), &mut Tried::default())).is_err());
    }

    /// Where each of many clients is placed.
    fn placements(upstream: &Arc<Upstream>) -> HashMap<u32, String> {
        let clients = (0..2000u32).map(|number| number.wrapping_mul(2_654_435_761));
        clients
            .map(|bits| {
                let client = Ipv4Addr::from_bits(bits).into();
                (bits, pick_once(upstream, &PickKey { client }).server().name().to_string())
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn removing_a_server_moves_only_its_clients(
            weights in prop::collection::vec(1u16..=4, 2..8),
            gone in any::<prop::sample::Index>(),
        ) {
            let gone = gone.index(weights.len());
            let all = pool("client_ip", &weights);
            let before = placements(&all);
            let name = all.servers()[gone].name().to_string();

            let fewer: Vec<Value> =
                (0..weights.len()).filter(|&index| index != gone).map(|index| server(index, weights[index])).collect();
            let after = placements(&upstream(json!({ "balance": "client_ip", "servers": fewer })));
            all.set_draining(&all.servers()[gone], true);
            let walked_past = placements(&all);
            for (client, home) in &before {
                prop_assert!(after[client] == *home || *home == name);
                prop_assert_eq!(&after[client], &walked_past[client], "walking past differs from removing");
            }
        }

        #[test]
        fn the_order_of_the_file_does_not_matter_to_clients(weights in prop::collection::vec(1u16..=4, 2..6)) {
            let servers: Vec<Value> = weights.iter().enumerate().map(|(index, &weight)| server(index, weight)).collect();
            let backwards: Vec<Value> = servers.iter().rev().cloned().collect();
            let forwards = upstream(json!({ "balance": "client_ip", "servers": servers }));
            let backwards = upstream(json!({ "balance": "client_ip", "servers": backwards }));
            prop_assert_eq!(placements(&forwards), placements(&backwards));
        }

        #[test]
        fn every_server_gets_its_share(
            weights in prop::collection::vec(1u16..=4, 2..6),
            balance in prop::sample::select(vec!["client_ip", "round_robin"]),
        ) {
            let placed = placements(&pool(balance, &weights));
            let total: u16 = weights.iter().sum();
            for (index, &weight) in weights.iter().enumerate() {
                let name = char::from(b'a' + index as u8).to_string();
                let got = placed.values().filter(|home| **home == name).count() as f64;
                let due = 2000.0 * f64::from(weight) / f64::from(total);
                let tolerance = if balance == "client_ip" { 0.4 } else { 0.01 };
                prop_assert!((got - due).abs() <= (tolerance * due).max(1.0), "{name}: {got} instead of {due}");
            }
        }
    }
}
