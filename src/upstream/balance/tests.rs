//! The shares, orders and properties of the four ways.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::*;
use crate::upstream::testing::{at_once, client, config, upstream};
use crate::upstream::{Lease, Upstream};

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
    let config = config(json!({ "servers": ["10.0.0.1:1", "10.0.0.2:1"] }));
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
    let mut config = config(json!({ "servers": ["10.0.0.1:1"] }));
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
