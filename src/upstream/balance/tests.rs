//! The shares, orders and properties of the four ways.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::upstream::testing::{at_once, client, config, metrics, upstream};
use crate::upstream::{Extensions, Lease, Upstream};

fn brought(make: impl Fn(&[Arc<Server>]) -> Box<dyn Balance> + Send + Sync + 'static) -> Extensions {
    Extensions { balance: Some(Arc::new(make)), ..Extensions::default() }
}

/// An upstream of servers `a`, `b`, `c`… with these weights.
fn pool(balance: &str, weights: &[u16]) -> Arc<Upstream> {
    let servers: Vec<Value> = (0..weights.len()).map(|index| server(index, weights[index])).collect();
    upstream(json!({ "balance": balance, "servers": servers }))
}

fn server(index: usize, weight: u16) -> Value {
    let name = char::from(b'a' + index as u8).to_string();
    json!({ "address": format!("10.0.0.{index}:80"), "name": name, "weight": weight })
}

fn pick_once(upstream: &Arc<Upstream>, key: &PickKey) -> Lease {
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
    let candidates = Candidates::new(&servers, &tried, Tier::Healthy, Work::Request, upstream.terms);
    let mut dice = StdRng::seed_from_u64(7);
    let mut drawn = [0u32; 3];
    for _ in 0..9000 {
        drawn[draw(&candidates, 6000, None, &mut dice).unwrap()] += 1;
    }
    assert!(drawn[0].abs_diff(6000) < 300 && drawn[1].abs_diff(2000) < 200, "{drawn:?}");
    assert!((0..100).all(|_| draw(&candidates, 6000, Some(0), &mut dice) != Some(0)));
}

#[test]
fn peak_ewma_asks_the_one_that_answers_sooner_and_fills_both_under_load() {
    use std::time::Duration;

    use crate::upstream::servers::Tick;

    let upstream = pool("peak_ewma", &[1, 1]);
    let servers = upstream.servers();
    let first = pick_once(&upstream, &client(1));
    let second = pick_once(&upstream, &client(1));
    assert_ne!(first.server().id(), second.server().id(), "both are unknown, and each is asked once");
    let (slow, fast) = (&servers[0], &servers[1]);
    drop((first, second));
    slow.note_first_byte(Tick::now(), Duration::from_secs(4));
    fast.note_first_byte(Tick::now(), Duration::from_secs(1));
    let before = slow.total();
    for _ in 0..50 {
        drop(pick_once(&upstream, &client(1)));
    }
    assert_eq!(slow.total(), before, "nobody waits for the slow one");
    let held: Vec<_> = (0..50).map(|_| pick_once(&upstream, &client(1))).collect();
    assert!((8..=12).contains(&slow.in_flight()), "a fifth of what is under way: {}", slow.in_flight());
    drop(held);

    // One that nobody knows is tried, by one request at a time.
    let upstream = pool("peak_ewma", &[1, 1]);
    upstream.servers()[1].note_first_byte(Tick::now(), Duration::from_millis(1));
    let held: Vec<_> = (0..20).map(|_| pick_once(&upstream, &client(1))).collect();
    assert_eq!(upstream.servers()[0].in_flight(), 1);
    drop(held);
}

#[test]
fn a_client_keeps_its_server_and_its_neighbours_in_the_64_do_too() {
    let upstream = pool("client_ip", &[1, 1, 1, 1]);
    let of = |address: &str| {
        let client = address.parse().unwrap();
        pick_once(&upstream, &PickKey { client, value: None }).server().name().clone()
    };
    assert_eq!(of("192.0.2.1"), of("192.0.2.1"));
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
}

#[test]
fn one_address_cannot_fill_one_server() {
    let servers: Vec<Value> = (0..4).map(|index| server(index, 1)).collect();
    let sessions = upstream(json!({ "kind": "socket.io", "servers": servers }));
    let held: Vec<_> = (0..800).map(|_| pick_once(&sessions, &client(1))).collect();
    let most = sessions.servers().iter().map(|server| server.in_flight()).max().unwrap();
    assert!(most <= 251, "{most} of 800 on one of four");
    assert_eq!(held[0].server().id(), held[FEW_REQUESTS as usize - 1].server().id());

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
    let config = config(json!({ "servers": ["10.0.0.1:1", "10.0.0.2:1"] }));
    let upstream = Upstream::build_with("test", &config, metrics(), brought(|_| Box::new(Last))).unwrap();
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
    let mut config = config(json!({ "servers": ["10.0.0.1:1"] }));
    config.queue.size = 0;
    let upstream = Upstream::build_with("test", &config, metrics(), brought(|_| Box::new(Lost))).unwrap();
    assert!(at_once(upstream.pick(&client(1), &mut Tried::default())).is_err());
}

/// Four servers with a slow start of 30 s, of which `d` has come up at this moment: it joins the others, or was down.
fn warming(balance: &str, joins: bool) -> Arc<Upstream> {
    let servers: Vec<Value> = (0..4).map(|index| server(index, 1)).collect();
    let said = |servers: &[Value]| json!({ "balance": balance, "slow_start": "30s", "servers": servers });
    if joins {
        let upstream = upstream(said(&servers[..3]));
        upstream.set_servers(config(said(&servers)).servers.list());
        return upstream;
    }
    let upstream = upstream(said(&servers));
    let d = upstream.servers()[3].clone();
    d.set_health(Health::Down);
    d.set_health(Health::Up);
    upstream
}

fn in_paused_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

#[test]
fn a_cold_server_serves_where_no_other_can() {
    in_paused_time(async {
        for balance in ["client_ip", "round_robin", "least_connections", "random_two"] {
            let upstream = warming(balance, false);
            for server in &upstream.servers()[..3] {
                server.set_health(Health::Down);
            }
            assert!((0..20).all(|number| pick_once(&upstream, &client(number)).server().name().as_ref() == "d"));
        }
    });
}

#[test]
fn servers_that_start_with_the_gateway_have_their_whole_share() {
    in_paused_time(async {
        let upstream = upstream(json!({ "servers": ["10.0.0.1:1"], "health": { "check": "tcp" } }));
        let server = upstream.servers()[0].clone();
        server.set_health(Health::Up);
        assert_eq!(server.share(Duration::from_secs(30)), 1000);
    });
}

/// Where each of many clients is placed.
fn placements(upstream: &Arc<Upstream>) -> HashMap<u32, String> {
    let clients = (0..2000u32).map(|number| number.wrapping_mul(2_654_435_761));
    clients
        .map(|bits| {
            let client = Ipv4Addr::from_bits(bits).into();
            (bits, pick_once(upstream, &PickKey { client, value: None }).server().name().to_string())
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
    fn a_server_that_came_up_gets_more_and_more_until_it_has_its_share(
        weight in 1u16..=4,
        slow_start in 1u64..100_000,
        steps in prop::collection::vec(0u64..30_000, 1..20),
    ) {
        in_paused_time(async {
            let upstream = pool("round_robin", &[weight]);
            let server = upstream.servers()[0].clone();
            let whole = u64::from(weight) * 1000;
            let slow_start = Duration::from_millis(slow_start);
            prop_assert_eq!(server.share(slow_start), whole, "it is there from the start");
            server.set_health(Health::Down);
            server.set_health(Health::Up);
            let start = tokio::time::Instant::now();
            let mut before = server.share(slow_start);
            prop_assert_eq!(before, whole / 10);
            prop_assert_eq!(server.share(Duration::ZERO), whole);
            for step in steps {
                advance(Duration::from_millis(step)).await;
                let share = server.share(slow_start);
                let warm = (start.elapsed().as_secs_f64() / slow_start.as_secs_f64()).min(1.0);
                let due = whole as f64 * (0.1 + 0.9 * warm);
                prop_assert!(share >= before && (share as f64 - due).abs() <= 1.0, "{share} instead of {due}");
                before = share;
            }
            Ok(())
        })?;
    }

    #[test]
    fn every_balance_lets_a_server_warm_up(
        balance in prop::sample::select(vec!["client_ip", "round_robin", "least_connections", "random_two"]),
        late in 0u64..40,
        joins in any::<bool>(),
    ) {
        in_paused_time(async {
            let upstream = warming(balance, joins);
            advance(Duration::from_secs(late)).await;
            let held: Vec<Lease> = (0..1000)
                .map(|number: u32| {
                    let client = Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761)).into();
                    pick_once(&upstream, &PickKey { client, value: None })
                })
                .collect();
            let got = held.iter().filter(|lease| lease.server().name().as_ref() == "d").count() as f64;
            let share = (0.1 + 0.9 * late as f64 / 30.0).min(1.0);
            let due = 1000.0 * share / (3.0 + share);
            let tolerance = if balance == "client_ip" { 0.4 } else { 0.15 };
            prop_assert!((got - due).abs() <= tolerance * due + 5.0, "{got} instead of {due} after {late}s");
            Ok(())
        })?;
    }

    #[test]
    fn clients_that_came_to_a_warming_server_stay(first in 0u64..30, more in 0u64..30) {
        in_paused_time(async {
            let upstream = warming("client_ip", false);
            advance(Duration::from_secs(first)).await;
            let before = placements(&upstream);
            advance(Duration::from_secs(more)).await;
            let after = placements(&upstream);
            for (client, home) in &before {
                prop_assert!(after[client] == *home || after[client] == "d");
            }
            Ok(())
        })?;
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
