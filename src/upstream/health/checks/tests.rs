//! Verdicts in paused time, and checks against real listeners.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use futures::FutureExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::super::probe::Unwell;
use super::*;
use crate::upstream::testing::{client, config, eject, upstream};
use crate::upstream::{Endpoint, State, Tried};

/// A server that answers as the test wants.
#[derive(Default)]
struct Script {
    good: AtomicBool,
    silent: AtomicBool,
    /// Whether it can't be asked for want of descriptors.
    in_shortage: AtomicBool,
    probes: AtomicUsize,
}

impl Probe for Arc<Script> {
    async fn probe(&self) -> Result<String, Unwell> {
        self.probes.fetch_add(1, Relaxed);
        if self.silent.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        let ill = || Unwell { text: "ill".to_owned(), in_shortage: self.in_shortage.load(Relaxed) };
        if self.good.load(Relaxed) { Ok("well".to_owned()) } else { Err(ill()) }
    }
}

/// An upstream of two, of which the first is checked by script.
fn checked(health: Value, good: bool) -> (Arc<Upstream>, Arc<Server>, Arc<Script>) {
    let upstream = upstream(json!({ "servers": ["10.0.0.1:1", "10.0.0.2:1"], "health": health }));
    let server = upstream.servers()[0].clone();
    let script = Arc::new(Script::default());
    script.good.store(good, Relaxed);
    tokio::spawn({
        let (upstream, server, script) = (upstream.clone(), server.clone(), script.clone());
        async move { check_for_ever(&upstream, &server, script).await }
    });
    (upstream, server, script)
}

/// How long it takes until the condition holds, in paused time.
async fn until(condition: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came");
        sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_check_that_could_not_be_made_says_nothing_about_the_server() {
    let (_, server, script) = checked(json!({ "check": "tcp", "fall": 2 }), true);
    until(|| server.state() == State::Up).await;
    script.in_shortage.store(true, Relaxed);
    script.good.store(false, Relaxed);
    let asked = script.probes.load(Relaxed);
    until(|| script.probes.load(Relaxed) > asked + 10).await;
    assert_eq!(server.state(), State::Up);
    assert!(
        server.status().last_check.is_some_and(|check| !check.good && check.text == "ill"),
        "it is told all the same"
    );
    script.in_shortage.store(false, Relaxed);
    until(|| server.state() == State::Down).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_asks_for_the_name_again_at_once() {
    let (_, server, script) = checked(json!({ "check": "tcp", "fall": 9 }), true);
    until(|| script.probes.load(Relaxed) == 1).await;
    assert!(server.lookup_wanted().now_or_never().is_none(), "a good check has nothing to ask");
    script.good.store(false, Relaxed);
    until(|| script.probes.load(Relaxed) == 2).await;
    assert!(server.lookup_wanted().now_or_never().is_some());
}

#[tokio::test]
async fn a_server_that_has_moved_is_checked_at_once() {
    let upstream = upstream(json!({ "servers": ["localhost:7"] }));
    let server = upstream.servers()[0].clone();
    look_up(&upstream, &server, "localhost", 7, false).await;
    assert!(server.check_wanted().now_or_never().is_none(), "the first address is no other one");
    look_up(&upstream, &server, "localhost", 7, false).await;
    assert!(server.check_wanted().now_or_never().is_none(), "nor is the same one again");
    server.set_addresses(vec!["192.0.2.1:7".parse().unwrap()]);
    look_up(&upstream, &server, "localhost", 7, false).await;
    assert!(server.check_wanted().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_first_check_decides_at_once() {
    let (_, well, _) = checked(json!({ "check": "tcp", "rise": 3 }), true);
    let (_, ill, _) = checked(json!({ "check": "tcp", "fall": 3 }), false);
    assert_eq!((well.state(), ill.state()), (State::Starting, State::Starting));
    assert!(until(|| well.state() == State::Up).await < Duration::from_millis(50));
    assert!(until(|| ill.state() == State::Down).await < Duration::from_millis(50));
    assert_eq!(ill.status().last_check.unwrap().text, "ill");
}

#[tokio::test(start_paused = true)]
async fn a_server_falls_and_rises_after_checks_in_a_row() {
    let (_, server, script) = checked(json!({ "check": "tcp", "interval": "1s", "rise": 2, "fall": 3 }), true);
    until(|| server.state() == State::Up).await;
    let seen = |probes| move |script: &Script| script.probes.load(Relaxed) >= probes;

    script.good.store(false, Relaxed);
    until(|| seen(3)(&script)).await;
    assert_eq!(server.state(), State::Up, "two of three");
    script.good.store(true, Relaxed);
    until(|| seen(4)(&script)).await;
    script.good.store(false, Relaxed);
    until(|| seen(6)(&script)).await;
    assert_eq!(server.state(), State::Up, "a good check starts the count anew");
    until(|| seen(7)(&script)).await;
    assert_eq!(server.state(), State::Down);

    script.good.store(true, Relaxed);
    until(|| seen(8)(&script)).await;
    assert_eq!(server.state(), State::Down, "one of two");
    until(|| seen(9)(&script)).await;
    assert_eq!(server.state(), State::Up);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_is_back_within_two_seconds() {
    let (upstream, server, script) = checked(json!({ "check": "tcp", "interval": "1s", "fall": 1 }), true);
    until(|| server.state() == State::Up).await;
    script.good.store(false, Relaxed);
    until(|| server.state() == State::Down).await;
    assert!(!upstream.ready());
    script.good.store(true, Relaxed);
    assert!(until(|| server.state() == State::Up).await <= Duration::from_millis(1200));
}

#[tokio::test(start_paused = true)]
async fn a_check_without_an_answer_fails_at_its_timeout_and_keeps_the_pace() {
    let (_, server, script) =
        checked(json!({ "check": "tcp", "interval": "2s", "timeout": "700ms", "jitter": 0.0 }), true);
    script.silent.store(true, Relaxed);
    let took = until(|| server.state() == State::Down).await;
    assert!((700..750).contains(&took.as_millis()), "{took:?}");
    assert_eq!(server.status().last_check.unwrap().text, "no answer within 700ms");
    let pause = until(|| script.probes.load(Relaxed) == 2).await;
    assert!((1250..1350).contains(&pause.as_millis()), "{pause:?}");
}

#[test]
fn jitter_varies_the_interval_within_its_share() {
    let second = Duration::from_secs(1);
    assert_eq!(vary(second, 0.1, 0.0), Duration::from_millis(900));
    assert_eq!(vary(second, 0.1, 0.5), second);
    assert_eq!(vary(second, 0.1, 1.0), Duration::from_millis(1100));
    assert_eq!(vary(second, 0.0, 0.9), second);
}

#[tokio::test(start_paused = true)]
async fn an_ejected_server_is_checked_at_once_and_a_good_check_brings_it_back() {
    let (_, server, script) = checked(json!({ "check": "tcp", "interval": "30s" }), true);
    until(|| server.state() == State::Up).await;
    sleep(Duration::from_secs(3)).await;
    eject(&server, Duration::from_secs(20));
    assert!(until(|| server.ejected().is_none()).await < Duration::from_millis(50));

    script.good.store(false, Relaxed);
    sleep(Duration::from_secs(3)).await;
    eject(&server, Duration::from_secs(5));
    until(|| script.probes.load(Relaxed) == 3).await;
    assert!(server.ejected().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_good_check_of_an_ejected_server_serves_the_queue() {
    let servers = json!(["10.0.0.1:1", { "address": "10.0.0.2:1", "max_connections": 1 }]);
    let upstream = upstream(json!({ "servers": servers, "health": { "check": "tcp", "interval": "1m" } }));
    let [ejected, full] = [0, 1].map(|position| upstream.servers()[position].clone());
    ejected.set_health(Health::Up);
    full.set_health(Health::Up);
    let _held = upstream.place_on(full.id()).unwrap();
    eject(&ejected, Duration::from_secs(60));
    let (key, mut tried) = (client(1), Tried::default());
    let mut picking = std::pin::pin!(upstream.pick(&key, &mut tried));
    assert!((&mut picking).now_or_never().is_none());

    let script = Arc::new(Script::default());
    script.good.store(true, Relaxed);
    let checking = check_for_ever(&upstream, &ejected, script);
    tokio::select! {
        lease = &mut picking => assert_eq!(lease.unwrap().waited(), Duration::ZERO),
        () = checking => {}
    }
}

#[tokio::test]
async fn checks_find_servers_follow_the_set_and_end_with_their_guard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let said = json!({ "servers": [address(&listener)], "health": { "check": "tcp" } });
    let upstream = upstream(said);
    let checks = upstream.start_checks();
    let lease = upstream.pick(&client(1), &mut Tried::default()).await.unwrap();
    assert_eq!(lease.server().name().as_ref(), address(&listener));
    listener.accept().await.unwrap();
    let gone = Arc::downgrade(lease.server());
    drop(lease);

    let said = json!({ "servers": [address(&other)] });
    upstream.set_servers(config(said).servers.list());
    let lease = upstream.pick(&client(1), &mut Tried::default()).await.unwrap();
    assert_eq!(lease.server().name().as_ref(), address(&other));
    upstream.forget(&HashSet::from([upstream.removed()[0].id()]));
    let still_checked = async {
        while gone.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), still_checked).await.unwrap();

    let weak = Arc::downgrade(&upstream);
    drop((lease, upstream, checks));
    while weak.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_name_is_looked_up_before_its_server_counts_as_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = upstream(json!({ "servers": [format!("localhost:{port}")] }));
    let server = upstream.servers()[0].clone();
    assert_eq!((server.state(), server.endpoint()), (State::Starting, None));
    let fault = upstream.connect(&server, None).await.unwrap_err();
    assert_eq!(fault.to_string(), format!("localhost:{port} has no address yet"));

    let _checks = upstream.start_checks();
    let lease = upstream.pick(&client(1), &mut Tried::default()).await.unwrap();
    // Whatever localhost means here first, the address that works wins.
    let stream = upstream.connect(lease.server(), None).await.unwrap();
    let endpoint = Endpoint::Inet(stream.socket().peer_addr().unwrap());
    assert_eq!(server.endpoint(), Some(endpoint));
}
