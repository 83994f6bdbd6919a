//! Watches over the servers of an upstream: checks, verdicts and names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::own::Own;
use super::probe::{Grpc, Http, Probe, Session, Target, Tcp};
use crate::address::ServerAddress;
use crate::upstream::Upstream;
use crate::upstream::config::{self, Check};
use crate::upstream::servers::{CheckReport, Health, Server, ServerId, resolve};
use crate::upstream::sessions::downgrade;

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
    /// Goes to work: starts to check every server, at once and side by side, to look up host names and to let silent
    /// sessions expire. Follows the set of servers when it changes. Needs a tokio runtime around it.
    pub fn start_checks(self: &Arc<Self>) -> Checks {
        self.settle();
        Checks(tokio::spawn(supervise(self.clone())))
    }

    /// Draws the conclusion from one check.
    fn judge(&self, server: &Server, streak: &mut Streak, check: CheckReport) {
        let verdict = streak.note(server.health(), check.good, &self.config.health);
        let ejected = server.ejected().is_some();
        let (good, text) = (check.good, check.text.clone());
        server.checked(check);
        if let Some(health) = verdict {
            self.announce(server, health, &text);
        } else if ejected && good {
            self.queue.dispatch();
        }
    }

    /// Sets a server's health, tells the log if that is news, and tells who waits.
    fn announce(&self, server: &Server, health: Health, reason: &str) {
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
    if let Some(sessions) = &upstream.sessions {
        tasks.spawn(sessions.table.run());
        tasks.spawn(downgrade::watch(upstream.name().clone(), sessions.table.clone()));
        if let Some(returning) = &sessions.returning {
            tasks.spawn(returning.run());
        }
    }
    let mut watched: HashMap<ServerId, (Arc<Server>, AbortHandle)> = HashMap::new();
    loop {
        let servers = upstream.all_servers();
        let by_id: HashMap<ServerId, &Arc<Server>> = servers.iter().map(|server| (server.id(), server)).collect();
        watched.retain(|_, (server, task)| {
            let stays = by_id.get(&server.id()).is_some_and(|&other| Arc::ptr_eq(other, server));
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
    tokio::join!(watch_health(&upstream, &server), watch_ejections(&upstream, &server));
}

/// Tells when a server gets work again, and those who wait for it.
async fn watch_ejections(upstream: &Upstream, server: &Server) {
    loop {
        server.faults().ejection_over().await;
        log::info!("upstream {}: server {} is no longer passed over", upstream.name(), server.name());
        upstream.queue.dispatch();
    }
}

async fn watch_health(upstream: &Arc<Upstream>, server: &Arc<Server>) {
    match server.address() {
        ServerAddress::Name(host, port) => {
            // The first check has to have an address to go to.
            look_up(upstream, server, host, *port, false).await;
            let lookups = async {
                loop {
                    let failed = resolve::next_turn(server).await;
                    look_up(upstream, server, host, *port, failed).await;
                }
            };
            tokio::join!(lookups, run_checks(upstream, server));
        }
        ServerAddress::Inet(_) | ServerAddress::Unix(_) => run_checks(upstream, server).await,
    }
}

async fn look_up(upstream: &Upstream, server: &Server, host: &str, port: u16, failed: bool) {
    let before = server.endpoint();
    let result = resolve::look_up(server, host, port, failed).await;
    if before.is_some() && before != server.endpoint() {
        server.wants_check();
    }
    // Where nothing is checked, the name is all that is known of the server.
    if upstream.check() == Check::None {
        match result {
            Ok(()) => upstream.announce(server, Health::Up, "its name resolves"),
            Err(fault) if server.endpoint().is_none() => upstream.announce(server, Health::Down, &fault),
            Err(fault) => log::debug!("server {}: {fault}", server.name()),
        }
    } else if let Err(fault) = result {
        log::debug!("server {}: {fault}", server.name());
    }
}

async fn run_checks(upstream: &Arc<Upstream>, server: &Arc<Server>) {
    if let Some(check) = &upstream.brought.health_check {
        let own = Own { check: Arc::clone(check), server: Arc::clone(server) };
        return check_for_ever(upstream, server, own).await;
    }
    let target = Target::new(upstream, server);
    match upstream.config.health_check() {
        Check::None => {
            if server.endpoint().is_some() {
                upstream.announce(server, Health::Up, "it isn't checked");
            }
        }
        Check::Tcp => check_for_ever(upstream, server, Tcp(target)).await,
        Check::Http => check_for_ever(upstream, server, Http(target)).await,
        Check::Grpc => check_for_ever(upstream, server, Grpc(target)).await,
        Check::Session => check_for_ever(upstream, server, Session::new(target)).await,
    }
}

async fn check_for_ever(upstream: &Upstream, server: &Server, probe: impl Probe) {
    let health = &upstream.config.health;
    let mut streak = Streak::default();
    loop {
        let start = Instant::now();
        let outcome = match timeout(health.timeout, probe.probe()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", health.timeout).into()),
        };
        let (good, in_shortage, text) = match outcome {
            Ok(text) => (true, false, text),
            Err(unwell) => (false, unwell.in_shortage, unwell.text),
        };
        let report = CheckReport { good, text, at: SystemTime::now(), took: start.elapsed() };
        if in_shortage {
            log::debug!("upstream {}: server {} was not checked: {}", upstream.name(), server.name(), report.text);
            server.checked(report);
        } else {
            if !good {
                // It may have moved: whoever has its name now is asked, not whoever had it some seconds ago.
                server.wants_lookup();
                upstream.doubts_its_servers();
            }
            upstream.judge(server, &mut streak, report);
        }
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
mod tests;
