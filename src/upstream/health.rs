//! Watches over the servers of an upstream: checks, verdicts and names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::Upstream;
use super::config::{self, Check};
use super::probe::{EngineIo, Http, Probe, Target, Tcp};
use super::resolve;
use super::server::{CheckReport, Health, Server, ServerId};
use crate::address::ServerAddress;

/// The running checks of an upstream; dropping it ends them.
#[must_use = "the checks end when this is dropped"]
pub struct Checks(JoinHandle<()>);

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Time that lies between two checks of a server at least, however often one is asked for.
const LEAST_GAP: Duration = Duration::from_millis(200);

impl Upstream {
    /// Starts to check every server, at once and side by side, and to look up host names. Follows the set of servers
    /// when it changes. Needs a tokio runtime around it.
    pub fn start_checks(self: &Arc<Self>) -> Checks {
        Checks(tokio::spawn(supervise(self.clone())))
    }

    /// Draws the conclusion from one check.
    fn judge(&self, server: &Server, streak: &mut Streak, check: CheckReport) {
        let verdict = streak.note(server.health(), check.good, &self.config.health);
        let ejected = server.ejected().is_some();
        let (good, text) = (check.good, check.text.clone());
        server.checked(check);
        if let Some(health) = verdict {
            self.pronounce(server, health, &text);
        } else if ejected && good {
            self.queue.dispatch();
        }
    }

    /// Sets a server's health, tells the log if that is news, and tells who waits.
    fn pronounce(&self, server: &Server, health: Health, reason: &str) {
        if !server.set_health(health) {
            return;
        }
        let (upstream, name) = (self.name(), server.name());
        match health {
            Health::Up => log::info!("upstream {upstream}: server {name} is up: {reason}"),
            _ => log::warn!("upstream {upstream}: server {name} is down: {reason}"),
        }
        self.queue.dispatch();
    }
}

async fn supervise(upstream: Arc<Upstream>) {
    let mut changed = upstream.members_changed.subscribe();
    let mut tasks = JoinSet::new();
    let mut watched: HashMap<ServerId, (Arc<Server>, AbortHandle)> = HashMap::new();
    loop {
        let servers = upstream.servers();
        watched.retain(|_, (server, task)| {
            let stays = servers.iter().any(|other| Arc::ptr_eq(other, server));
            if !stays {
                task.abort();
            }
            stays
        });
        for server in servers.iter() {
            watched.entry(server.id()).or_insert_with(|| {
                let task = tasks.spawn(watch_over(upstream.clone(), server.clone()));
                (server.clone(), task)
            });
        }
        drop(servers);
        if changed.changed().await.is_err() {
            return;
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn watch_over(upstream: Arc<Upstream>, server: Arc<Server>) {
    match server.address() {
        ServerAddress::Name(host, port) => {
            // The first check has to have an address to go to.
            look_up(&upstream, &server, host, *port).await;
            let lookups = async {
                loop {
                    resolve::next_turn(&server).await;
                    look_up(&upstream, &server, host, *port).await;
                }
            };
            tokio::join!(lookups, run_checks(&upstream, &server));
        }
        ServerAddress::Inet(_) | ServerAddress::Unix(_) => run_checks(&upstream, &server).await,
    }
}

async fn look_up(upstream: &Upstream, server: &Server, host: &str, port: u16) {
    let result = resolve::look_up(server, host, port).await;
    // Where nothing is checked, the name is all that is known of the server.
    if upstream.config.health_check() == Check::None {
        match result {
            Ok(()) => upstream.pronounce(server, Health::Up, "its name resolves"),
            Err(fault) if server.endpoint().is_none() => upstream.pronounce(server, Health::Down, &fault),
            Err(fault) => log::debug!("server {}: {fault}", server.name()),
        }
    } else if let Err(fault) = result {
        log::debug!("server {}: {fault}", server.name());
    }
}

async fn run_checks(upstream: &Arc<Upstream>, server: &Arc<Server>) {
    let target = Target::new(upstream, server);
    match upstream.config.health_check() {
        Check::None => {
            if server.endpoint().is_some() {
                upstream.pronounce(server, Health::Up, "it isn't checked");
            }
        }
        Check::Tcp => check_for_ever(upstream, server, Tcp(target)).await,
        Check::Http => check_for_ever(upstream, server, Http(target)).await,
        Check::EngineIo => check_for_ever(upstream, server, EngineIo::new(target)).await,
    }
}

async fn check_for_ever(upstream: &Upstream, server: &Server, probe: impl Probe) {
    let health = &upstream.config.health;
    let mut streak = Streak::default();
    loop {
        let start = Instant::now();
        let outcome = match timeout(health.timeout, probe.probe()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", health.timeout)),
        };
        let (good, text) = match outcome {
            Ok(text) => (true, text),
            Err(text) => (false, text),
        };
        let report = CheckReport { good, text, at: SystemTime::now(), took: start.elapsed() };
        upstream.judge(server, &mut streak, report);
        // From start to start, so that a slow answer doesn't stretch the interval.
        let next = start + vary(health.interval, health.jitter, rand::rng().random());
        tokio::select! {
            () = sleep_until(next) => {}
            () = server.check_wanted() => sleep_until(start + LEAST_GAP).await,
        }
    }
}

/// The interval, varied by up to `jitter` of itself both ways; `dice` is from 0 to 1.
fn vary(interval: Duration, jitter: f64, dice: f64) -> Duration {
    interval.mul_f64(1.0 + jitter.clamp(0.0, 0.5) * (2.0 * dice - 1.0))
}

/// Checks in a row that speak against the present state.
#[derive(Default)]
struct Streak(u32);

impl Streak {
    /// The new health that a check leads to, if it leads to one.
    fn note(&mut self, health: Health, good: bool, config: &config::Health) -> Option<Health> {
        let (against, threshold) = match health {
            // Nothing is known yet, so one check says it all.
            Health::Starting => (true, 1),
            Health::Up => (!good, config.fall),
            Health::Down => (good, config.rise),
        };
        self.0 = if against { self.0 + 1 } else { 0 };
        if self.0 < threshold.max(1) || !against {
            return None;
        }
        self.0 = 0;
        Some(if good { Health::Up } else { Health::Down })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    use super::super::testing::{client, upstream};
    use super::super::{State, Tried};
    use super::*;

    /// A server that answers as the test wants.
    #[derive(Default)]
    struct Script {
        good: AtomicBool,
        silent: AtomicBool,
        probes: AtomicUsize,
    }

    impl Probe for Arc<Script> {
        async fn probe(&self) -> Result<String, String> {
            self.probes.fetch_add(1, Relaxed);
            if self.silent.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.good.load(Relaxed) { Ok("well".to_owned()) } else { Err("ill".to_owned()) }
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
        assert!(server.eject(Duration::from_secs(20)));
        assert!(until(|| server.ejected().is_none()).await < Duration::from_millis(50));

        script.good.store(false, Relaxed);
        sleep(Duration::from_secs(3)).await;
        server.eject(Duration::from_secs(5));
        until(|| script.probes.load(Relaxed) == 3).await;
        assert!(server.ejected().is_some());
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
        drop(lease);

        let said = json!({ "servers": [address(&other)] });
        upstream.set_servers(&super::super::testing::config(said).servers).unwrap();
        let lease = upstream.pick(&client(1), &mut Tried::default()).await.unwrap();
        assert_eq!(lease.server().name().as_ref(), address(&other));

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
        let fault = upstream.connect(&server).await.unwrap_err();
        assert_eq!(fault.to_string(), format!("localhost:{port} has no address yet"));

        let _checks = upstream.start_checks();
        let lease = upstream.pick(&client(1), &mut Tried::default()).await.unwrap();
        // Whatever localhost means here first, the address that works wins.
        let stream = upstream.connect(lease.server()).await.unwrap();
        let endpoint = super::super::Endpoint::Inet(stream.socket().peer_addr().unwrap());
        assert_eq!(server.endpoint(), Some(endpoint));
    }
}
