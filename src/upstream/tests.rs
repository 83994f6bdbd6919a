//! The pool as a whole: leases, the queue, ejection, draining and reload.

use std::time::Duration;

use futures::FutureExt;
use serde_json::json;
use tokio::time::advance;

use super::config::ServerConfig;
use super::testing::{at_once, client, config, eject, metrics, upstream};
use super::*;

/// Two servers with one place each, and room for two in the queue.
fn narrow() -> Arc<Upstream> {
    upstream(json!({
        "servers": [
            { "address": "10.0.0.1:1", "name": "a", "max_connections": 1 },
            { "address": "10.0.0.2:1", "name": "b", "max_connections": 1 },
        ],
        "queue": { "size": 2, "timeout": "5s" },
    }))
}

async fn pick(upstream: &Arc<Upstream>) -> Result<Lease, PickError> {
    upstream.pick(&client(1), &mut Tried::default()).await
}

fn name(lease: &Lease) -> &str {
    lease.server().name()
}

/// A pick that has taken its place in the queue.
async fn queued(upstream: &Arc<Upstream>) -> tokio::task::JoinHandle<Result<Lease, PickError>> {
    let before = upstream.waiting();
    let task = tokio::spawn({
        let upstream = upstream.clone();
        async move { pick(&upstream).await }
    });
    while upstream.waiting() == before {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test(start_paused = true)]
async fn a_full_upstream_serves_its_queue_in_order() {
    let upstream = narrow();
    let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
    let (first, second) = (queued(&upstream).await, queued(&upstream).await);
    assert_eq!(pick(&upstream).await.unwrap_err(), PickError::QueueFull);

    advance(Duration::from_secs(2)).await;
    drop(b);
    let first = first.await.unwrap().unwrap();
    assert_eq!((name(&first), first.waited()), ("b", Duration::from_secs(2)));
    assert!(!second.is_finished());
    drop(a);
    let second = second.await.unwrap().unwrap();
    assert_eq!(name(&second), "a");
    drop((first, second));
    assert_eq!(upstream.servers().iter().map(|server| server.in_flight()).sum::<usize>(), 0);
    assert_eq!(pick(&upstream).await.unwrap().waited(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn newcomers_do_not_overtake_the_queue() {
    let upstream = upstream(json!({ "servers": [{ "address": "10.0.0.1:1", "max_connections": 1 }] }));
    let held = pick(&upstream).await.unwrap();
    let first = queued(&upstream).await;
    drop(held);
    // The first has not run yet, but the place is its own already.
    assert!(pick(&upstream).now_or_never().is_none());
    drop(first.await.unwrap().unwrap());
    assert!(pick(&upstream).now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn room_that_nobody_announced_goes_to_the_queue_first() {
    let upstream = upstream(json!({
        "servers": [
            { "address": "10.0.0.1:1", "name": "a", "max_connections": 2 },
            { "address": "10.0.0.2:1", "name": "b", "max_connections": 1 },
        ],
        "queue": { "size": 1, "timeout": "1m" },
    }));
    eject(&upstream.servers()[0], Duration::from_secs(10));
    let _held = pick(&upstream).await.unwrap();
    let waiter = queued(&upstream).await;
    advance(Duration::from_secs(10)).await;
    let newcomer = pick(&upstream).now_or_never().unwrap().unwrap();
    assert_eq!(upstream.servers()[0].in_flight(), 2);
    let waiter = waiter.await.unwrap().unwrap();
    assert_eq!((name(&waiter), name(&newcomer)), ("a", "a"));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_timeout_of_the_queue() {
    let upstream = narrow();
    let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
    let start = tokio::time::Instant::now();
    assert_eq!(pick(&upstream).await.unwrap_err(), PickError::QueueTimeout);
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(upstream.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_size_0_refuses_at_once() {
    let mut config = narrow().config().clone();
    config.queue.size = 0;
    let upstream = Upstream::build("test", &config, metrics()).unwrap();
    let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
    assert_eq!(pick(&upstream).await.unwrap_err(), PickError::QueueFull);
    assert_eq!(upstream.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_hands_the_place_on() {
    let upstream = narrow();
    let (a, _b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
    // The first gives up while it waits, the second after a lease was sent but before it woke up.
    let (first, second) = (queued(&upstream).await, queued(&upstream).await);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(upstream.waiting(), 1);
    let third = queued(&upstream).await;
    drop(a);
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    assert_eq!(name(&third.await.unwrap().unwrap()), "a");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_tried_a_server_lets_others_have_it() {
    let upstream = narrow();
    let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
    let choosy = tokio::spawn({
        let (upstream, a) = (upstream.clone(), a.server().id());
        async move {
            let mut tried = Tried::default();
            tried.add(a);
            upstream.pick(&client(1), &mut tried).await
        }
    });
    while upstream.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let second = queued(&upstream).await;
    drop(a);
    assert_eq!(name(&second.await.unwrap().unwrap()), "a");
    drop(b);
    assert_eq!(name(&choosy.await.unwrap().unwrap()), "b");
}

#[tokio::test]
async fn a_lease_is_given_back_even_by_a_panic() {
    let upstream = narrow();
    let lease = pick(&upstream).await.unwrap();
    let server = lease.server().clone();
    assert_eq!((server.in_flight(), server.total()), (1, 1));
    let panicking = tokio::spawn(async move {
        let _lease = lease;
        panic!("as meant");
    });
    assert!(panicking.await.unwrap_err().is_panic());
    assert_eq!(server.in_flight(), 0);
}

#[test]
fn no_place_is_lost_or_given_twice_under_contention() {
    let upstream = upstream(json!({
        "balance": "least_connections",
        "servers": [
            { "address": "10.0.0.1:1", "max_connections": 2 },
            { "address": "10.0.0.2:1", "max_connections": 1 },
        ],
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..200u64)
            .map(|number| {
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    for round in 0..20 {
                        let (key, mut tried) = (client(1), Tried::default());
                        let picking = upstream.pick(&key, &mut tried);
                        // Every third gives up early, at some point of its way.
                        if (number + round) % 3 == 0 {
                            let patience = Duration::from_micros(number * 7);
                            let _ = tokio::time::timeout(patience, picking).await;
                            continue;
                        }
                        let lease = picking.await.unwrap();
                        assert!(lease.server().in_flight() <= lease.server().max_connections());
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(upstream.waiting(), 0);
    assert!(upstream.servers().iter().all(|server| server.in_flight() == 0));
}

#[test]
fn a_retry_goes_to_another_server_until_all_were_tried() {
    let upstream = narrow();
    let mut tried = Tried::default();
    let first = at_once(upstream.pick(&client(1), &mut tried)).unwrap().server().id();
    let second = at_once(upstream.pick(&client(1), &mut tried)).unwrap().server().id();
    assert_ne!(first, second);
    let third = at_once(upstream.pick(&client(1), &mut tried)).unwrap_err();
    assert_eq!(third, PickError::NoServer);
}

#[tokio::test(start_paused = true)]
async fn connect_failures_in_a_row_eject_a_server_for_a_while_but_never_the_last() {
    let upstream = upstream(json!({
        "servers": ["10.0.0.1:1", "10.0.0.2:1"],
        "ejection": { "failures": 2, "for": "10s" },
    }));
    let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
    a.connect_failed();
    a.connected();
    a.connect_failed();
    assert_eq!(a.server().ejected(), None, "a good connect wipes the slate");
    a.connect_failed();
    assert_eq!(a.server().ejected(), Some(Duration::from_secs(10)));
    for _ in 0..4 {
        assert_eq!(name(&pick(&upstream).await.unwrap()), name(&b));
    }
    for _ in 0..4 {
        b.connect_failed();
    }
    assert_eq!(b.server().ejected(), None, "it is the last");
    advance(Duration::from_secs(10)).await;
    assert_eq!(a.server().ejected(), None);
    assert!(a.server().connect_failures() == 3 && upstream.ready());
}

#[tokio::test(start_paused = true)]
async fn an_ejected_server_is_better_than_none() {
    let upstream = upstream(json!({
        "servers": ["10.0.0.1:1", "10.0.0.2:1"],
        "ejection": { "failures": 1 },
    }));
    let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
    a.connect_failed();
    upstream.set_draining(b.server(), true);
    assert_eq!(name(&pick(&upstream).await.unwrap()), name(&a));
}

#[test]
fn a_draining_server_keeps_its_sessions_and_gets_no_new_ones() {
    let upstream = narrow();
    let a = upstream.servers()[0].clone();
    upstream.set_draining(&a, true);
    assert_eq!(a.state(), State::Draining);
    assert!(upstream.place_on(a.id()).is_none());
    let held = upstream.return_to(a.id()).unwrap();
    let beyond = upstream.return_to(a.id()).unwrap();
    assert_eq!(a.in_flight(), 2, "sessions pass the limit");
    drop((held, beyond));

    let b = upstream.place_on(upstream.servers()[1].id()).unwrap();
    assert!(upstream.place_on(b.server().id()).is_none(), "it is full");
    upstream.set_draining(b.server(), true);
    assert!(upstream.return_to(ServerId::of("z")).is_none());
}

#[tokio::test(start_paused = true)]
async fn where_every_server_drains_they_serve_on() {
    let upstream = narrow();
    for server in upstream.servers().iter() {
        upstream.set_draining(server, true);
    }
    assert!(upstream.ready());
    let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
    assert_eq!((name(&a), name(&b)), ("a", "b"));
    drop(a);
    upstream.servers()[0].set_health(Health::Down);
    assert!(pick(&upstream).now_or_never().is_none(), "b is full, and a is down");
}

#[tokio::test(start_paused = true)]
async fn a_server_may_drain_from_the_start() {
    let said = |drain: bool| {
        config(json!({ "servers": [
            { "address": "10.0.0.1:1", "name": "a", "drain": drain },
            { "address": "10.0.0.2:1", "name": "b" },
        ] }))
    };
    let first = Upstream::build("test", &said(true), metrics()).unwrap();
    assert_eq!(first.servers()[0].state(), State::Draining);
    assert!((0..4).all(|_| name(&at_once(pick(&first)).unwrap()) == "b"));

    // An operator has another mind; the file, which says the same as before, does not contradict.
    first.set_draining(&first.servers()[0], false);
    let second = first.rebuild(&said(true)).unwrap();
    second.settle();
    assert_eq!(second.servers()[0].state(), State::Up);

    let all = upstream(json!({
        "servers": [{ "address": "10.0.0.1:1", "drain": true }],
        "health": { "check": "tcp" },
    }));
    assert!(pick(&all).now_or_never().is_none(), "it may come up");
    all.servers()[0].set_health(Health::Up);
    assert!(at_once(pick(&all)).is_ok());

    let third = second.rebuild(&said(false)).unwrap();
    third.settle();
    let fourth = third.rebuild(&said(true)).unwrap();
    assert_eq!(third.servers()[0].state(), State::Up, "what is built does not run yet");
    fourth.settle();
    assert_eq!(fourth.servers()[0].state(), State::Draining);
}

#[tokio::test(start_paused = true)]
async fn draining_servers_serve_where_nobody_comes_up() {
    let mut config = narrow().config().clone();
    config.health.check = Some(Check::Tcp);
    let upstream = Upstream::build("test", &config, metrics()).unwrap();
    let servers = upstream.servers();
    servers[0].set_health(Health::Up);
    upstream.set_draining(&servers[0], true);
    let start = tokio::time::Instant::now();
    let lease = pick(&upstream).await.unwrap();
    assert_eq!((name(&lease), start.elapsed()), ("a", Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_first_verdict() {
    let mut config = narrow().config().clone();
    config.health.check = Some(Check::Tcp);
    config.queue.size = 0;
    let upstream = Upstream::build("test", &config, metrics()).unwrap();
    assert!(!upstream.ready());
    let (first, second) = (queued(&upstream).await, queued(&upstream).await);
    let servers = upstream.servers();
    assert!(servers[0].set_health(Health::Down));
    assert!(servers[1].set_health(Health::Up));
    upstream.queue.dispatch();
    assert_eq!(name(&first.await.unwrap().unwrap()), "b");
    assert_eq!(name(&second.await.unwrap().unwrap()), "b");

    let undecided = Upstream::build("test", &config, metrics()).unwrap();
    assert_eq!(pick(&undecided).await.unwrap_err(), PickError::NoServer, "after the connect timeout");
}

#[tokio::test(start_paused = true)]
async fn who_waits_hears_at_once_that_the_last_server_is_down() {
    let upstream = narrow();
    let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
    let waiter = queued(&upstream).await;
    for server in upstream.servers().iter() {
        server.set_health(Health::Down);
    }
    upstream.queue.dispatch();
    assert_eq!(waiter.await.unwrap().unwrap_err(), PickError::NoServer);
}

#[tokio::test(start_paused = true)]
async fn a_rebuilt_upstream_keeps_what_it_knows_and_who_waits() {
    let upstream = narrow();
    let (a, _b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
    upstream.set_draining(a.server(), true);
    let waiter = queued(&upstream).await;

    let said = config(json!({
        "servers": [
            { "address": "10.0.0.1:1", "name": "a", "max_connections": 5 },
            { "address": "10.0.0.2:2", "name": "b" },
        ],
        "health": { "check": "tcp" },
    }));
    let rebuilt = upstream.rebuild(&said).unwrap();
    let servers = rebuilt.servers();
    assert_eq!((servers[0].in_flight(), servers[0].state()), (1, State::Draining));
    assert_eq!((servers[1].in_flight(), servers[1].state()), (0, State::Starting), "it is another one");
    rebuilt.set_draining(&servers[0], false);
    assert!(pick(&rebuilt).await.is_ok());
    assert!(!waiter.is_finished(), "its upstream allows one at a time");
    drop(a);
    assert_eq!(name(&waiter.await.unwrap().unwrap()), "a");
}

#[tokio::test(start_paused = true)]
async fn a_new_server_serves_the_queue_and_the_others_stay_as_they_are() {
    let upstream = narrow();
    let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
    let waiter = queued(&upstream).await;
    let before = upstream.servers();
    let mut servers = upstream.config().servers.list().to_vec();
    servers.push(ServerConfig::at("10.0.0.3:1").unwrap());
    upstream.set_servers(&servers);
    assert_eq!(name(&waiter.await.unwrap().unwrap()), "10.0.0.3:1");
    assert!(Arc::ptr_eq(&upstream.servers()[0], &before[0]));
    assert_eq!(upstream.server(before[1].id()).unwrap().in_flight(), 1);

    upstream.set_servers(&servers[1..]);
    assert!(upstream.server(before[0].id()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_removed_server_keeps_its_sessions_and_gets_nothing_new() {
    let upstream = narrow();
    let said = upstream.config().servers.list().to_vec();
    let a = upstream.servers()[0].clone();
    upstream.set_servers(&said[1..]);
    assert_eq!((a.state(), a.is_removed()), (State::Draining, true));
    let lease = upstream.return_to(a.id()).unwrap();
    assert!(Arc::ptr_eq(lease.server(), &a));
    assert!(upstream.place_on(a.id()).is_none());
    assert_eq!(name(&pick(&upstream).await.unwrap()), "b");
    upstream.servers()[0].set_health(Health::Down);
    assert_eq!(pick(&upstream).await.unwrap_err(), PickError::NoServer, "not even where nobody else is left");
    let order: Vec<_> = upstream.in_ring_order(&client(1)).iter().map(|server| server.id()).collect();
    assert_eq!(order, [ServerId::of("b"), a.id()], "it may have sessions that nobody has seen");

    upstream.sweep();
    assert_eq!(upstream.removed().len(), 1);
    drop(lease);
    upstream.sweep();
    assert_eq!(upstream.removed().len(), 0);
    assert!(upstream.return_to(a.id()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_removed_server_that_comes_back_is_as_the_configuration_says() {
    let upstream = narrow();
    let mut said = upstream.config().servers.list().to_vec();
    let a = upstream.servers()[0].clone();
    upstream.set_draining(&a, true);
    for drain in [false, true] {
        upstream.set_servers(&said[1..]);
        assert_eq!((a.state(), a.is_removed()), (State::Draining, true));
        said[0].drain = drain;
        upstream.set_servers(&said);
        assert_eq!((a.is_removed(), a.is_draining()), (false, drain), "an operator's word is for the time before");
    }
    assert_eq!(upstream.removed().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_a_reload_takes_out_is_removed_when_that_is_in_force() {
    let upstream = narrow();
    let a = upstream.servers()[0].clone();
    let without = config(json!({ "servers": ["10.0.0.9:1"] }));
    let rebuilt = upstream.rebuild(&without).unwrap();
    assert!(!a.is_removed(), "what is built does not run yet");
    rebuilt.settle();
    assert!(a.is_removed());
    let removed: Vec<_> = rebuilt.removed().iter().map(|server| server.id()).collect();
    assert_eq!(removed, [a.id(), ServerId::of("b")]);
    rebuilt.forget(&HashSet::from([a.id()]));
    assert!(rebuilt.return_to(a.id()).is_none());
    assert!(rebuilt.return_to(ServerId::of("b")).is_some());
}

#[test]
fn ring_order_names_every_server_once_and_starts_where_the_client_is_placed() {
    let servers: Vec<String> = (1..=5).map(|number| format!("10.0.0.{number}:1")).collect();
    let upstream = upstream(json!({ "balance": "client_ip", "servers": servers }));
    for number in 0..20 {
        let key = client(number);
        let order = upstream.in_ring_order(&key);
        assert_eq!(order.len(), 5);
        let mut tried = Tried::default();
        for server in order {
            assert_eq!(at_once(upstream.pick(&key, &mut tried)).unwrap().server().id(), server.id());
        }
    }
}

#[test]
fn what_cannot_be_built_is_told_in_a_sentence() {
    let fault = |said: serde_json::Value| Upstream::build("web", &config(said), metrics()).unwrap_err().to_string();
    assert_eq!(
        fault(json!({ "servers": ["10.0.0.1:1", "10.0.0.1:1"] })),
        "upstream `web`: two servers are called `10.0.0.1:1`: give each its own address or `name`"
    );
    assert_eq!(
        fault(json!({ "servers": ["unix:/run/app.sock"], "tls": {} })),
        "upstream `web`: TLS over unix:/run/app.sock needs tls.server_name: a socket file has no host name"
    );
    assert_eq!(
        fault(json!({ "servers": ["10.0.0.1:1"], "health": { "headers": { "Host": "a\r\nb" } } })),
        "upstream `web`: health.headers: the value of `Host` holds a control character"
    );
    assert_eq!(
        fault(json!({ "servers": ["10.0.0.1:1"], "tls": { "verify": false, "cert": "a.pem" } })),
        "upstream `web`: tls.cert needs tls.key beside it"
    );
    let missing = fault(json!({ "servers": ["10.0.0.1:1"], "tls": { "ca": "/nowhere/ca.pem" } }));
    let start = "upstream `web`: tls.ca /nowhere/ca.pem: expected certificates in PEM: ";
    assert!(missing.starts_with(start), "{missing}");
}

/// So many that to compare each with each would take minutes.
#[test]
fn tens_of_thousands_of_servers_are_replaced_by_who_they_are() {
    const SERVERS: u32 = 50_000;
    let at = |number: u32| ServerConfig::at(&format!("{}:1", std::net::Ipv4Addr::from_bits(0x0a00_0000 + number)));
    let list = |first: u32| -> Vec<_> { (first..first + SERVERS).map(|number| at(number).unwrap()).collect() };
    let upstream = upstream(json!({ "servers": ["10.255.0.1:1"] }));
    upstream.set_servers(&list(0));
    let kept = upstream.servers()[1].clone();
    upstream.set_servers(&list(1));
    assert_eq!(upstream.servers().len(), SERVERS as usize);
    assert!(Arc::ptr_eq(&upstream.servers()[0], &kept));
    upstream.set_servers(&[list(1), list(1 + SERVERS)].concat());
    assert_eq!(upstream.servers().len(), usize::from(u16::MAX), "more have no place");
}

#[test]
fn silent_raw_tunnels_end_by_themselves_and_websockets_do_not() {
    let unsaid = upstream(json!({ "servers": ["10.0.0.1:1"] }));
    let timeouts = &unsaid.config().timeouts;
    assert_eq!((timeouts.raw_idle(), timeouts.tunnel_idle(None)), (Duration::from_secs(3600), Duration::ZERO));
    let said = upstream(json!({ "servers": ["10.0.0.1:1"], "timeouts": { "tunnel_idle": "0s" } }));
    assert_eq!(said.config().timeouts.raw_idle(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn servers_of_a_higher_number_stand_by_until_those_below_are_down_or_full() {
    for balance in ["client_ip", "round_robin", "least_connections", "random_two", "peak_ewma"] {
        let upstream = upstream(json!({ "balance": balance, "servers": [
            { "address": "10.0.0.3:1", "name": "spare", "priority": 2 },
            { "address": "10.0.0.1:1", "name": "a", "max_connections": 2 },
            { "address": "10.0.0.2:1", "name": "b", "priority": 0, "max_connections": 2 },
            { "address": "10.0.0.4:1", "name": "last", "priority": 7 },
        ] }));
        let places: Vec<_> = at_once(async {
            let mut places = Vec::new();
            for _ in 0..4 {
                places.push(pick(&upstream).await.unwrap());
            }
            places
        });
        let mut first: Vec<_> = places.iter().map(name).collect();
        first.sort_unstable();
        assert_eq!(first, ["a", "a", "b", "b"], "{balance}");
        assert_eq!(name(&at_once(pick(&upstream)).unwrap()), "spare", "both are full");
        drop(places);
        for down in ["a", "b"] {
            let server = upstream.server(ServerId::of(down)).unwrap();
            server.set_health(Health::Down);
        }
        assert_eq!(name(&at_once(pick(&upstream)).unwrap()), "spare");
        upstream.server(ServerId::of("spare")).unwrap().set_health(Health::Down);
        assert_eq!(name(&at_once(pick(&upstream)).unwrap()), "last");
        upstream.server(ServerId::of("b")).unwrap().set_health(Health::Up);
        assert_eq!(name(&at_once(pick(&upstream)).unwrap()), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn servers_of_the_own_zone_come_first_within_a_priority_and_a_gateway_that_moves_asks_others() {
    let said = config(json!({ "servers": [
        { "address": "10.0.1.1:1", "name": "b", "zone": "b" },
        { "address": "10.0.0.1:1", "name": "a", "zone": "a", "max_connections": 1 },
        { "address": "10.0.2.1:1", "name": "anywhere", "max_connections": 1 },
        { "address": "10.0.0.9:1", "name": "spare", "zone": "a", "priority": 1 },
    ] }));
    let in_zone = |zone: &str| Extensions { zone: Some(zone.to_owned()), ..Extensions::default() };
    let upstream = Upstream::build_with("test", &said, metrics(), in_zone("a")).unwrap();
    let (one, other) = (at_once(pick(&upstream)).unwrap(), at_once(pick(&upstream)).unwrap());
    let mut own = [name(&one), name(&other)];
    own.sort_unstable();
    assert_eq!(own, ["a", "anywhere"]);
    let third = at_once(pick(&upstream)).unwrap();
    assert_eq!(name(&third), "b", "those of the own zone are full");
    drop((one, other));
    for down in ["a", "anywhere"] {
        upstream.server(ServerId::of(down)).unwrap().set_health(Health::Down);
    }
    assert_eq!(name(&at_once(pick(&upstream)).unwrap()), "b", "before the spare of the own zone");
    upstream.server(ServerId::of("a")).unwrap().set_health(Health::Up);
    assert_eq!(name(&at_once(pick(&upstream)).unwrap()), "a");

    let moved = upstream.rebuild_in(Some("b"), &said).unwrap();
    assert_eq!(name(&at_once(pick(&moved)).unwrap()), "b");
    assert_eq!(moved.server(ServerId::of("b")).unwrap().in_flight(), 1, "who was there is there");
    let nowhere = moved.rebuild_in(None, &said).unwrap();
    assert!(Arc::ptr_eq(&nowhere, &nowhere.rebuild(&said).unwrap()));
    let mut met: Vec<_> = (0..4).map(|_| name(&at_once(pick(&nowhere)).unwrap()).to_owned()).collect();
    met.sort_unstable();
    met.dedup();
    assert_eq!(met, ["a", "b"], "without a zone of its own the gateway knows none");
}

#[tokio::test(start_paused = true)]
async fn servers_that_stay_while_their_source_is_another_one_keep_their_state() {
    struct Told;
    #[async_trait::async_trait]
    impl Discovery for Told {
        async fn next(&self) -> Result<ServerList, String> {
            std::future::pending().await
        }
    }
    let open: OpenSource = Arc::new(|said| {
        let first = ServerConfig::at("10.0.0.1:1")?.with_weight(2);
        let found = || Source { discovery: Arc::new(Told), first: Some(vec![first].into()) };
        Ok(said.are_found().then(found))
    });
    let brought = Extensions { open_source: Some(open), ..Extensions::default() };
    let list = config(json!({ "servers": ["10.0.0.1:1", "10.0.0.2:1"] }));
    let file = config(json!({ "servers": { "file": "servers.yaml" } }));
    let listed = Upstream::build_with("test", &list, metrics(), brought).unwrap();
    let _lease = listed.place_on(ServerId::of("10.0.0.1:1")).unwrap();
    let found = listed.rebuild(&file).unwrap();
    assert!(found.findings().is_some() && listed.findings().is_none());
    assert_eq!((found.servers().len(), found.servers()[0].weight(), found.servers()[0].in_flight()), (1, 2, 1));
    let again = found.rebuild(&file).unwrap();
    assert!(Arc::ptr_eq(&found, &again), "the same source is not opened anew");
    let back = again.rebuild(&list).unwrap();
    assert!(back.findings().is_none());
    let in_flight: Vec<_> = back.servers().iter().map(|server| server.in_flight()).collect();
    assert_eq!(in_flight, [1, 0]);
}
