//! Sessions and the servers that they are placed on.

use std::net::{IpAddr, Ipv4Addr};

use futures::FutureExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::request::{Headers, Request};
use crate::session::{Answered, Cause, How, SessionRequest};
use crate::upstream::Extensions;
use crate::upstream::servers::Health;
use crate::upstream::testing::{at_once, client, config, metrics, upstream};

const LIFE: Duration = Duration::from_secs(45);

/// Servers `a`, `b`, `c`… of kind `socket.io` with these weights.
fn pool(weights: &[u16], more: Value) -> Arc<Upstream> {
    upstream(said(weights, more))
}

fn said(weights: &[u16], more: Value) -> Value {
    let server = |(index, weight): (usize, &u16)| {
        let name = char::from(b'a' + index as u8).to_string();
        json!({ "address": format!("10.0.0.{index}:80"), "name": name, "weight": weight })
    };
    let mut said =
        json!({ "kind": "socket.io", "servers": weights.iter().enumerate().map(server).collect::<Vec<_>>() });
    said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    said
}

fn address(number: u32) -> PickKey {
    IpAddr::from(Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761))).into()
}

fn place(upstream: &Arc<Upstream>, key: &PickKey) -> Lease {
    at_once(upstream.pick_new(key, None, &mut Tried::default())).unwrap()
}

/// Opens the session that a lease is for.
fn learn(upstream: &Upstream, lease: &Lease, key: &PickKey, sid: &str) {
    let table = upstream.sessions().unwrap();
    table.learn(table.key(sid), lease.server().home().unwrap(), LIFE, How::Handshake);
    lease.learned(key);
}

/// Opens a session and returns the name of its server; nothing stays in flight.
fn open(upstream: &Arc<Upstream>, key: &PickKey, sid: &str) -> String {
    let lease = place(upstream, key);
    learn(upstream, &lease, key, sid);
    lease.server().name().to_string()
}

fn sessions(upstream: &Upstream) -> Vec<usize> {
    upstream.servers().iter().map(|server| server.sessions()).collect()
}

#[test]
fn one_address_is_spread_over_the_servers() {
    for (from, count) in [(0, 50), (0, 200), (0, 1000), (256, 2000)] {
        let most_allowed = count as f64 / 4.0 * 1.3;
        let said = || json!({ "sessions": { "bounded_from": from } });
        // One after the other, each known before the next comes.
        let upstream = pool(&[1; 4], said());
        (0..count).for_each(|number| drop(open(&upstream, &client(1), &number.to_string())));
        let most = sessions(&upstream).into_iter().max().unwrap() as f64;
        assert!(most <= most_allowed, "{count} sessions: {most} on one server");
        assert_eq!(sessions(&upstream).iter().sum::<usize>(), count);

        // All at once, none known before the last has come.
        let upstream = pool(&[1; 4], said());
        let held: Vec<_> = (0..count).map(|_| place(&upstream, &client(1))).collect();
        let most = upstream.servers().iter().map(|server| server.opening()).max().unwrap() as f64;
        assert!(most <= most_allowed, "{count} handshakes: {most} on one server");
        for (number, lease) in held.iter().enumerate() {
            learn(&upstream, lease, &client(1), &number.to_string());
        }
        assert!(upstream.servers().iter().all(|server| server.opening() == 0));
        assert!(upstream.placements().spilled > 0);
    }
}

#[test]
fn without_a_bound_one_address_stays_together() {
    let upstream = pool(&[1; 4], json!({ "sessions": { "bounded_load": 0 } }));
    (0..200).for_each(|number| drop(open(&upstream, &client(1), &number.to_string())));
    assert_eq!(sessions(&upstream).into_iter().max(), Some(200));
    assert_eq!(upstream.placements().spilled, 0);
}

#[test]
fn many_addresses_mostly_stay_where_the_hash_has_them() {
    let upstream = pool(&[1; 4], json!({ "sessions": { "returning": "0s" } }));
    let hash = |key: &PickKey| upstream.in_ring_order(key)[0].name().to_string();
    let at_home =
        (0..1000).filter(|&number| open(&upstream, &address(number), &number.to_string()) == hash(&address(number)));
    assert!(at_home.count() > 850);
    assert!(sessions(&upstream).into_iter().max().unwrap() <= 325);
}

#[test]
fn a_handshake_counts_until_its_session_is_known_or_given_up() {
    let upstream = pool(&[1], json!({}));
    let server = upstream.servers()[0].clone();
    let (first, second) = (place(&upstream, &client(1)), place(&upstream, &client(1)));
    assert_eq!((server.opening(), server.sessions(), server.in_flight()), (2, 0, 2));
    learn(&upstream, &first, &client(1), "x");
    first.learned(&client(1));
    assert_eq!((server.opening(), server.sessions()), (1, 1));
    drop((first, second));
    assert_eq!((server.opening(), server.sessions(), server.in_flight()), (0, 1, 0));
    assert_eq!(upstream.placements(), Placements { balance: 1, returning: 0, spilled: 0 });
    assert_eq!((server.home().unwrap().opened(), server.home().unwrap().closed()), (1, 0));

    let plain = at_once(upstream.pick(&client(1), &mut Tried::default())).unwrap();
    plain.learned(&client(1));
    assert_eq!((server.opening(), server.in_flight()), (0, 1));
}

#[test]
fn the_other_balances_count_sessions_too() {
    for balance in ["least_connections", "random_two"] {
        let upstream = pool(&[1, 1], json!({ "balance": balance, "sessions": { "returning": "0s" } }));
        let (a, b) = (upstream.servers()[0].clone(), upstream.servers()[1].clone());
        let table = upstream.sessions().unwrap();
        for number in 0..10 {
            table.learn(table.key(&number.to_string()), a.home().unwrap(), LIFE, How::Rescue);
        }
        (10..20).for_each(|number| assert_eq!(open(&upstream, &address(number), &number.to_string()), "b"));
        assert_eq!((a.sessions(), b.sessions()), (10, 10));
    }
}

#[test]
fn sessions_of_servers_that_are_left_do_not_count() {
    let upstream = pool(&[1; 3], json!({ "sessions": { "bounded_from": 0 } }));
    let leaving = upstream.servers()[0].clone();
    let table = upstream.sessions().unwrap();
    for number in 0..900 {
        table.learn(table.key(&format!("old{number}")), leaving.home().unwrap(), LIFE, How::Rescue);
    }
    upstream.set_draining(&leaving, true);
    (0..100).for_each(|number| drop(open(&upstream, &client(1), &number.to_string())));
    let sessions = sessions(&upstream);
    assert!(sessions[0] == 900 && sessions[1].max(sessions[2]) <= 65, "{sessions:?}");
}

#[test]
fn a_client_comes_back_to_its_server() {
    let upstream = pool(&[1; 4], json!({ "balance": "round_robin" }));
    let first = open(&upstream, &client(7), "first");
    (0..3).for_each(|number| drop(open(&upstream, &client(number), &number.to_string())));
    assert_eq!(open(&upstream, &client(7), "second"), first);
    assert_eq!(upstream.placements(), Placements { balance: 4, returning: 1, spilled: 0 });

    // What a cookie says goes before what the address says.
    let other = upstream.servers().iter().find(|server| **server.name() != *first).unwrap().clone();
    let placed = at_once(upstream.pick_new(&client(7), Some(other.id()), &mut Tried::default())).unwrap();
    assert_eq!(placed.server().id(), other.id());
    let placed = at_once(upstream.pick_new(&client(7), Some(ServerId::of("gone")), &mut Tried::default())).unwrap();
    assert_eq!(**placed.server().name(), *first);

    let back = upstream.servers().iter().find(|server| **server.name() == *first).unwrap().clone();
    upstream.set_draining(&back, true);
    assert_ne!(open(&upstream, &client(7), "third"), first);
    assert_eq!(back.state(), State::Draining);
}

#[test]
fn nobody_comes_back_where_that_is_off() {
    let upstream = pool(&[1; 2], json!({ "balance": "round_robin", "sessions": { "returning": "0s" } }));
    assert_eq!(
        ["a", "b", "a"].map(|due| (due, open(&upstream, &client(7), due))),
        ["a", "b", "a"].map(|s| (s, s.to_owned()))
    );
}

#[test]
fn a_lonely_client_comes_back_though_the_session_that_it_lost_still_counts() {
    let upstream = pool(&[1; 4], json!({}));
    let first = open(&upstream, &client(7), "first");
    assert_eq!(open(&upstream, &client(7), "second"), first);
    assert_eq!(open(&upstream, &client(7), "third"), first);
}

#[test]
fn an_office_stays_together_and_comes_back_to_its_server_when_all_of_it_is_cut_off() {
    for said in [json!({}), json!({ "balance": "client_ip", "sessions": { "bounded_from": 200 } })] {
        let upstream = pool(&[1; 4], said);
        let table = upstream.sessions().unwrap();
        let open_all = |round: u32| -> Vec<String> {
            (0..200).map(|number| open(&upstream, &client(7), &format!("{round}-{number}"))).collect()
        };
        let home = open_all(0);
        assert!(home.iter().all(|server| *server == home[0]), "{home:?}");
        // What tunnels carried is over with them, what polled has nobody who asks, and of some nothing is known yet.
        for number in 0..200 {
            table.forget(table.key(&format!("0-{number}")), Cause::ClientLost);
        }
        assert_eq!(open_all(1), home);
        for number in 0..200 {
            table.lose(table.key(&format!("1-{number}")));
        }
        assert_eq!(open_all(2), home);
        for number in 0..200 {
            table.lose(table.key(&format!("2-{number}")));
        }
        assert_eq!(open_all(3), home);
    }
}

#[tokio::test(start_paused = true)]
async fn an_office_comes_back_where_it_was_though_its_hash_says_otherwise() {
    let upstream = pool(&[1; 4], json!({}));
    let first = upstream.in_ring_order(&client(7))[0].clone();
    upstream.set_draining(&first, true);
    let homes: Vec<_> = (0..100).map(|number| open(&upstream, &client(7), &number.to_string())).collect();
    upstream.set_draining(&first, false);
    let back: Vec<_> = (100..200).map(|number| open(&upstream, &client(7), &number.to_string())).collect();
    assert_eq!(back, homes);
    assert_ne!(homes[0], **first.name());
}

#[test]
fn sessions_whose_clients_are_lost_do_not_turn_others_away() {
    let upstream = pool(&[1; 2], json!({ "balance": "least_connections", "sessions": { "returning": "0s" } }));
    let table = upstream.sessions().unwrap();
    for number in 0..20 {
        let server = &upstream.servers()[usize::from(number % 4 == 3)];
        table.learn(table.key(&number.to_string()), server.home().unwrap(), LIFE, How::Rescue);
    }
    assert_eq!(open(&upstream, &client(1), "first"), "b");
    (0..20).filter(|number| number % 4 != 3).for_each(|number| table.lose(table.key(&number.to_string())));
    (0..6).for_each(|number| assert_eq!(open(&upstream, &address(number), &format!("new{number}")), "a"));
}

#[test]
fn whoever_would_come_back_to_a_server_with_its_share_is_placed_elsewhere() {
    let upstream = pool(&[1; 4], json!({ "balance": "round_robin" }));
    let full = upstream.servers()[2].clone();
    let table = upstream.sessions().unwrap();
    for number in 0..20 {
        table.learn(table.key(&number.to_string()), full.home().unwrap(), LIFE, How::Rescue);
    }
    upstream.saw(&client(1), &full);
    let lease = at_once(upstream.pick_new(&client(1), None, &mut Tried::default())).unwrap();
    assert_ne!(lease.server().id(), full.id());
    learn(&upstream, &lease, &client(1), "new");
    assert_eq!(upstream.placements(), Placements { balance: 0, returning: 0, spilled: 1 });
}

#[test]
fn a_cookie_leads_back_to_a_server_that_has_its_share_unless_it_is_down_or_drains() {
    let upstream = pool(&[1; 4], json!({ "balance": "round_robin" }));
    let full = upstream.servers()[2].clone();
    let table = upstream.sessions().unwrap();
    for number in 0..200 {
        table.learn(table.key(&number.to_string()), full.home().unwrap(), LIFE, How::Rescue);
    }
    let back = || at_once(upstream.pick_new(&client(1), Some(full.id()), &mut Tried::default())).unwrap().server().id();
    for _ in 0..200 {
        assert_eq!(back(), full.id());
    }
    upstream.set_draining(&full, true);
    assert_ne!(back(), full.id());
    upstream.set_draining(&full, false);
    full.set_health(Health::Down);
    assert_ne!(back(), full.id());
}

#[test]
fn a_server_that_could_not_be_reached_is_not_come_back_to() {
    let upstream = pool(&[1; 2], json!({}));
    let first = open(&upstream, &client(7), "first");
    let mut tried = Tried::default();
    let lease = at_once(upstream.pick_new(&client(7), None, &mut tried)).unwrap();
    assert_eq!(**lease.server().name(), *first);
    drop(lease);
    let lease = at_once(upstream.pick_new(&client(7), None, &mut tried)).unwrap();
    assert_ne!(**lease.server().name(), *first);
}

#[tokio::test(start_paused = true)]
async fn new_sessions_wait_for_their_turn_and_others_do_not() {
    let upstream = pool(&[1; 2], json!({ "new_sessions": { "rate": 1, "burst": 1, "max_pending": 1 } }));
    let first = upstream.pick_new(&client(1), None, &mut Tried::default()).await.unwrap();
    assert!(first.waited().is_zero());
    let second = tokio::spawn({
        let upstream = upstream.clone();
        async move { upstream.pick_new(&client(2), None, &mut Tried::default()).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(upstream.line(), Some(AdmissionQueue { waiting: 1, refused: 0 }));

    let third = at_once(upstream.pick_new(&client(3), None, &mut Tried::default())).unwrap_err();
    assert_eq!(third, PickError::Admission { retry_after: Duration::from_secs(2) });
    let retry = &mut Tried::default();
    retry.add(first.server().id());
    assert!(at_once(upstream.pick_new(&client(1), None, retry)).is_ok(), "it was let in before");
    assert!(at_once(upstream.pick(&client(4), &mut Tried::default())).is_ok(), "it opens no session");
    assert!(upstream.return_to(first.server().id()).is_some(), "its session is known");

    assert_eq!(second.await.unwrap().unwrap().waited().as_secs(), 1);
    assert_eq!(upstream.line(), Some(AdmissionQueue { waiting: 0, refused: 1 }));
}

/// Knows no session.
struct Silent;

impl SessionProtocol for Silent {
    fn read<'r>(&self, _request: &'r Request<'_>) -> SessionRequest<'r> {
        SessionRequest::default()
    }

    fn answered(&self, _dialect: u64, _status: u16, _headers: Headers<'_>) -> Answered {
        Answered::Nothing
    }
}

#[test]
fn a_protocol_that_a_program_brings_outlives_the_configuration() {
    let build = |said| {
        let brought = Extensions { session_protocol: Some(Arc::new(Silent)), ..Extensions::default() };
        Upstream::build_with("test", &config(said), metrics(), brought)
    };
    let upstream = build(json!({ "servers": ["10.0.0.1:1"] })).unwrap();
    let table = upstream.sessions().unwrap();
    let later = upstream.rebuild(&config(json!({ "servers": ["10.0.0.2:1"] }))).unwrap();
    assert!(Arc::ptr_eq(table, later.sessions().unwrap()));
    let fault = |said| build(said).err().unwrap().to_string();
    assert!(fault(json!({ "kind": "tcp", "servers": ["10.0.0.1:1"] })).contains("not for kind `tcp`"));
    let unchecked = fault(json!({ "kind": "socket.io", "servers": ["10.0.0.1:1"], "health": {} }));
    assert!(unchecked.contains("expected another check"), "{unchecked}");
}

#[test]
fn a_rebuilt_upstream_knows_the_sessions() {
    let before = pool(&[1, 1], json!({ "sessions": { "max": 100 } }));
    let home = open(&before, &client(1), "x");
    let after = before
        .rebuild(&config(said(&[1, 4, 1], json!({ "sessions": { "max": 50 }, "balance": "round_robin" }))))
        .unwrap();
    let table = after.sessions().unwrap();
    assert!(Arc::ptr_eq(table, before.sessions().unwrap()));
    assert_eq!(table.max(), 100, "the one before still runs");
    after.settle();
    assert_eq!(table.max(), 50);
    let found = after.server(ServerId::from_bits(table.find(table.key("x")).unwrap().server)).unwrap();
    assert_eq!((&**found.name(), found.sessions()), (&*home, 1));
    assert_eq!(after.placements().balance, 1);

    let unchanged = before.rebuild(before.config()).unwrap();
    assert_eq!(open(&unchanged, &client(1), "y"), home);
    assert_eq!(unchanged.placements().returning, 1);

    let plain = before.rebuild(&config(json!({ "servers": ["10.0.0.1:1"] }))).unwrap();
    assert!(plain.sessions().is_none() && plain.servers()[0].home().is_none());
    assert!(plain.placements() == Placements::default() && plain.line().is_none());
    assert!(at_once(plain.pick_new(&client(1), None, &mut Tried::default())).is_ok());
}

#[tokio::test(start_paused = true)]
async fn silent_sessions_expire_while_the_upstream_works() {
    let upstream = pool(&[1], json!({}));
    open(&upstream, &client(1), "x");
    let checks = upstream.start_checks();
    tokio::time::sleep(LIFE + Duration::from_secs(10)).await;
    assert_eq!(sessions(&upstream), [0]);
    open(&upstream, &client(1), "y");
    drop(checks);
    tokio::time::sleep(LIFE + Duration::from_secs(10)).await;
    assert_eq!(sessions(&upstream), [1], "nobody sweeps any more");
}

#[tokio::test(start_paused = true)]
async fn a_client_is_forgotten_in_time() {
    let upstream = pool(&[1; 2], json!({ "balance": "round_robin", "sessions": { "returning": "10s" } }));
    let _checks = upstream.start_checks();
    assert_eq!(open(&upstream, &client(7), "first"), "a");
    advance(Duration::from_secs(5)).await;
    tokio::task::yield_now().await;
    assert_eq!(open(&upstream, &client(7), "second"), "a");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(open(&upstream, &client(7), "third"), "b");
}

#[test]
fn where_a_client_would_be_placed_is_told_without_placing_it() {
    let upstream = pool(&[1; 2], json!({ "balance": "round_robin", "sessions": { "returning": "10s" } }));
    let would =
        |number| upstream.would_pick(&client(number), true).map(|(server, before)| (server.name().to_string(), before));
    assert_eq!(open(&upstream, &client(7), "first"), "a");
    assert_eq!(would(7), Some(("a".to_owned(), true)));
    assert_eq!(would(8).map(|(_, before)| before), Some(false));
    assert_eq!(sessions(&upstream), [1, 0], "that opened none");
    assert!(upstream.servers().iter().all(|server| server.in_flight() == 0));
}

#[test]
fn the_client_with_the_most_sessions_is_known() {
    let upstream = pool(&[1; 2], json!({}));
    assert_eq!(upstream.largest_client(), None);
    for number in 0..200 {
        let key = if number % 4 == 0 { address(number) } else { client(7) };
        open(&upstream, &key, &number.to_string());
    }
    let largest = upstream.largest_client().unwrap();
    assert_eq!(largest.address, client(7).client);
    assert!((0.7..=0.8).contains(&largest.share), "{largest:?}");
}

/// What may happen to an upstream.
#[derive(Clone, Debug)]
enum Step {
    Open(u32),
    Hold(u32),
    Close(prop::sample::Index),
    Drain(prop::sample::Index, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..3).prop_map(Step::Open),
        3 => (0u32..3).prop_map(Step::Hold),
        3 => any::<prop::sample::Index>().prop_map(Step::Close),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, draining)| Step::Drain(which, draining)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_server_is_given_a_session_beyond_the_bound(
        weights in prop::collection::vec(1u16..=4, 1..6),
        factor in 1.0f64..2.0,
        from in 0u16..8,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let upstream = pool(&weights, json!({ "sessions": { "bounded_load": factor, "bounded_from": from } }));
        let (mut held, mut opened) = (Vec::new(), Vec::new());
        let load = |server: &Arc<Server>| (server.sessions() + server.opening()) as f64;
        for (number, step) in steps.into_iter().enumerate() {
            let key = match step {
                Step::Open(key) | Step::Hold(key) => client(key),
                Step::Close(which) => {
                    if !opened.is_empty() {
                        let table = upstream.sessions().unwrap();
                        let sid: String = opened.swap_remove(which.index(opened.len()));
                        table.forget(table.key(&sid), Cause::Client);
                    }
                    continue;
                }
                Step::Drain(which, draining) => {
                    upstream.set_draining(&upstream.servers()[which.index(weights.len())], draining);
                    continue;
                }
            };
            let servers = upstream.servers();
            let open: Vec<_> = servers.iter().filter(|server| server.state() == State::Up).collect();
            let total: f64 = open.iter().map(|server| load(server)).sum();
            let shares: u32 = open.iter().map(|server| server.weight()).sum();
            let lease = place(&upstream, &key);
            if lease.server().state() == State::Up {
                let mean = (total + 1.0) * f64::from(lease.server().weight()) / f64::from(shares);
                // The factor is kept in thousandths.
                let most = ((factor + 0.001) * mean).ceil().max(mean.ceil() + 2.0);
                // Sessions that were lost by who comes back may still be counted.
                let most = most.max(f64::from(2 * from) * f64::from(lease.server().weight()));
                prop_assert!(load(lease.server()) <= most, "{} of {total}, at most {most}", load(lease.server()));
            } else {
                prop_assert!(open.is_empty());
            }
            if matches!(step, Step::Open(_)) {
                learn(&upstream, &lease, &key, &number.to_string());
                opened.push(number.to_string());
            } else {
                held.push(lease);
            }
        }
        drop(held);
        prop_assert!(upstream.servers().iter().all(|server| server.opening() == 0 && server.in_flight() == 0));
        prop_assert_eq!(sessions(&upstream).iter().sum::<usize>(), opened.len());
    }
}

#[test]
fn where_every_server_is_down_nobody_waits_for_a_turn() {
    let upstream = pool(&[1], json!({ "new_sessions": { "rate": 1, "burst": 1 } }));
    let server = upstream.servers()[0].clone();
    server.set_health(Health::Down);
    for _ in 0..3 {
        let refused = at_once(upstream.pick_new(&client(1), None, &mut Tried::default())).unwrap_err();
        assert_eq!(refused, PickError::NoServer);
    }
    server.set_health(Health::Up);
    assert!(at_once(upstream.pick_new(&client(1), None, &mut Tried::default())).is_ok(), "the turn is still there");
}

#[test]
fn a_refused_handshake_holds_no_place() {
    let upstream = pool(&[1], json!({ "new_sessions": { "rate": 1, "burst": 1, "max_pending": 0 } }));
    drop(place(&upstream, &client(1)));
    for _ in 0..3 {
        assert!(upstream.pick_new(&client(1), None, &mut Tried::default()).now_or_never().unwrap().is_err());
    }
    let server = &upstream.servers()[0];
    assert_eq!((server.opening(), server.in_flight(), upstream.line().unwrap().waiting), (0, 0, 0));
}
