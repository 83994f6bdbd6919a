//! Letting go of servers: what is open on each, who drains at what pace, and when a removed server is gone.
//!
//! A drain begins by an operator's word ([`Upstream::drain`]), or because the configuration or discovery says so, which
//! [`Upstream::reconcile`] notices. Both know only servers and sessions; how a goodbye is said is the business of whoever serves.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::info;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::sessions::shedding::Shedding;
use super::{Server, ServerId, Upstream};
use crate::roster::{Pace, Roster};
use crate::session::Departure;

/// What is open on the servers of an upstream, and who is told to leave. It outlives reloads.
#[derive(Default)]
pub(super) struct Drains {
    rosters: Mutex<HashMap<ServerId, Arc<Roster>>>,
    begun: Mutex<HashMap<ServerId, Drain>>,
    /// Whether sessions that leave a server find another one.
    elsewhere: Arc<AtomicBool>,
    /// What was shed for the sake of balance.
    pub(super) shedding: Shedding,
}

/// A drain of one server under way, or over.
struct Drain {
    said: Arc<Said>,
    /// Says goodbye; `None` where nothing is said.
    task: Option<AbortHandle>,
}

/// What a drain has said.
#[derive(Default)]
struct Said {
    /// Goodbyes.
    told: AtomicUsize,
    /// The deadline has come, and everybody has been told who could be.
    expired: AtomicBool,
}

/// How far the drain of a server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tunnels and polls that are open.
    pub open: usize,
    /// Sessions that live there.
    pub sessions: usize,
    /// Goodbyes said so far.
    pub told: usize,
    /// Whether the last goodbye has been said, or where none is said, everybody has gone.
    pub over: bool,
}

/// How long those who come are told at once when the deadline has come: who was between two polls has its turn too.
const AFTER_DEADLINE: Duration = Duration::from_secs(3);
const AFTER_DEADLINE_LOOK: Duration = Duration::from_millis(100);
/// How often it is looked whether those who stay until the deadline have gone by themselves.
const GONE_LOOK: Duration = Duration::from_millis(500);

impl Upstream {
    /// What is open on a server and can be told to leave.
    pub fn roster(&self, server: ServerId) -> Arc<Roster> {
        self.drains.roster(server)
    }

    /// The rosters of all servers, those of servers that are gone included.
    pub fn rosters(&self) -> Vec<(ServerId, Arc<Roster>)> {
        self.drains.rosters().iter().map(|(&server, roster)| (server, Arc::clone(roster))).collect()
    }

    /// Drains a server: it gets no new sessions from now on, and those that it has are told goodbye at the pace, if
    /// there is one, whether they have somewhere to go or not: an operator says so. Needs a runtime around it; a drain
    /// that is under way begins anew with the new pace.
    pub fn drain(&self, server: &Arc<Server>, pace: Option<Pace>) {
        self.set_draining(server, true);
        self.begin(server, pace, None);
    }

    /// Takes a server back into service. False if it can't be: it was removed from the upstream.
    pub fn undrain(&self, server: &Server) -> bool {
        if server.is_removed() {
            return false;
        }
        self.drains.end(server.id());
        self.set_draining(server, false);
        true
    }

    /// How far the drain of a server has come; `None` where none was begun.
    pub fn progress(&self, server: &Server) -> Option<Progress> {
        let (told, task_over) = {
            let begun = self.drains.begun();
            let drain = begun.get(&server.id())?;
            (drain.said.told.load(Ordering::Relaxed), drain.task.as_ref().map(AbortHandle::is_finished))
        };
        let (open, sessions) = (self.roster(server.id()).len(), self.sessions_on(server.id()));
        let over = task_over.unwrap_or(open == 0 && sessions == 0);
        Some(Progress { open, sessions, told, over })
    }

    /// Whether a server drains, and has come to the deadline of that: sessions that can't be told goodbye are over there.
    pub(crate) fn has_let_go_of(&self, server: &Server) -> bool {
        let can_be_over = || self.session_protocol().is_some_and(|protocol| protocol.over(0).is_some());
        server.is_draining() && can_be_over() && self.drains.begun().get(&server.id()).is_some_and(Drain::is_expired)
    }

    /// Whether goodbyes of a drain are still to be said.
    pub(super) fn is_draining(&self) -> bool {
        self.drains.begun().values().any(|drain| !drain.is_over())
    }

    /// Begins a drain. With `elsewhere` nobody is told while that says that there is nowhere to go.
    fn begin(&self, server: &Arc<Server>, pace: Option<Pace>, elsewhere: Option<Arc<AtomicBool>>) {
        let said = Arc::new(Said::default());
        let departure = self.session_protocol().map_or(Departure::Told, |protocol| protocol.departure());
        let task = pace.map(|pace| {
            let (upstream, server) = (Arc::clone(&self.name), Arc::clone(server));
            let (roster, said) = (self.roster(server.id()), Arc::clone(&said));
            let task = tokio::spawn(async move {
                let may_go = || elsewhere.as_ref().is_none_or(|elsewhere| elsewhere.load(Ordering::Relaxed));
                match departure {
                    Departure::Told => say_goodbyes(&server, &roster, pace, may_go, &said).await,
                    Departure::AtDeadline => wait_out(&server, &roster, pace, may_go, &said).await,
                }
                let (name, told) = (server.name(), said.told.load(Ordering::Relaxed));
                info!("upstream {upstream}: server {name} is drained: {told} told goodbye");
            });
            task.abort_handle()
        });
        let before = self.drains.begun().insert(server.id(), Drain { said, task });
        before.iter().for_each(Drain::stop);
    }

    /// Brings what is done in line with what is wished.
    pub(super) fn reconcile(&self) {
        let (servers, removed) = (self.servers(), self.removed());
        self.drains.elsewhere.store(servers.iter().any(|server| server.is_healthy()), Ordering::Relaxed);
        let all = || servers.iter().chain(removed.iter());
        for server in all().filter(|server| server.is_draining()) {
            // One that is under way may be an operator's, with a pace of its own. One that found nobody says nothing to
            // who came to a server after that; a removed server will not be there for them.
            let due = self.drains.begun().get(&server.id()).is_none_or(|drain| {
                server.is_removed()
                    && server.is_busy()
                    && drain.task.is_some()
                    && drain.is_over()
                    && !drain.is_expired()
            });
            if due {
                let pace = self.config().drain.pace();
                self.begin(server, pace, Some(Arc::clone(&self.drains.elsewhere)));
            }
        }
        let draining: HashSet<ServerId> =
            all().filter(|server| server.is_draining()).map(|server| server.id()).collect();
        self.drains.begun().retain(|id, drain| {
            let wished = draining.contains(id);
            if !wished {
                drain.stop();
            }
            wished
        });
    }

    /// Forgets these removed servers: their drains are over, and requests of their sessions go elsewhere.
    pub(super) fn end_drains(&self, servers: &HashSet<ServerId>) {
        servers.iter().for_each(|&id| self.drains.end(id));
        self.forget(servers);
    }

    /// Forgets removed servers that nobody needs any more.
    pub(super) fn sweep(&self) {
        let expired = |server: &Server| self.drains.begun().get(&server.id()).is_some_and(Drain::is_expired);
        let removed = self.removed();
        let gone = removed.iter().filter(|server| !server.is_busy() || expired(server));
        let gone: HashSet<ServerId> = gone.map(|server| server.id()).collect();
        self.end_drains(&gone);
        self.drains
            .rosters()
            .retain(|id, roster| Arc::strong_count(roster) > 1 || !roster.is_empty() || self.server(*id).is_some());
    }
}

/// Lets go of a server at a pace.
async fn say_goodbyes(server: &Server, roster: &Roster, pace: Pace, may_go: impl FnMut() -> bool, said: &Said) {
    // Others may come back to a draining server for as long as it is one of ours.
    let gone = || if server.is_removed() { !server.is_busy() } else { server.sessions() == 0 };
    roster.empty(pace, may_go, gone, &said.told).await;
    if gone() {
        return;
    }
    let end = Instant::now() + AFTER_DEADLINE;
    while !gone() && Instant::now() < end {
        sleep(AFTER_DEADLINE_LOOK).await;
        said.told.fetch_add(roster.tell_all(), Ordering::Relaxed);
    }
    said.expired.store(true, Ordering::Relaxed);
}

/// Leaves everybody alone until the deadline, and lets go of those who are left then: first nothing is served any more, then
/// what is under way is told to end, so that nobody asks for it again in vain.
async fn wait_out(server: &Server, roster: &Roster, pace: Pace, mut may_go: impl FnMut() -> bool, said: &Said) {
    let gone = || if server.is_removed() { !server.is_busy() } else { server.sessions() == 0 };
    let due = Instant::now() + pace.deadline;
    while Instant::now() < due || !may_go() {
        if gone() {
            return;
        }
        sleep(GONE_LOOK).await;
    }
    said.expired.store(true, Ordering::Relaxed);
    let end = Instant::now() + AFTER_DEADLINE;
    while !gone() && Instant::now() < end {
        said.told.fetch_add(roster.tell_all(), Ordering::Relaxed);
        sleep(AFTER_DEADLINE_LOOK).await;
    }
}

impl Drains {
    fn roster(&self, server: ServerId) -> Arc<Roster> {
        Arc::clone(self.rosters().entry(server).or_default())
    }

    fn end(&self, server: ServerId) {
        let ended = self.begun().remove(&server);
        ended.iter().for_each(Drain::stop);
    }

    fn rosters(&self) -> MutexGuard<'_, HashMap<ServerId, Arc<Roster>>> {
        self.rosters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<ServerId, Drain>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain {
    /// Whether nothing more will be said.
    fn is_over(&self) -> bool {
        self.task.as_ref().is_none_or(AbortHandle::is_finished)
    }

    fn is_expired(&self) -> bool {
        self.said.expired.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::upstream::testing::clients::{Bench, servers};

    fn told(bench: &Bench, server: &Server) -> usize {
        bench.upstream.progress(server).map_or(0, |progress| progress.told)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_the_configuration_drains_is_left_at_the_pace_and_each_session_moves_once() {
        let mut bench = Bench::new(&[1, 1, 1], json!({ "balance": "round_robin", "drain": { "rate": 10.0 } }));
        bench.come(90).await;
        let mut said = servers(&[1, 1, 1]);
        said[0].drain = true;
        let a = bench.server("a");
        bench.upstream.set_servers(&said);
        let started = Instant::now();
        bench.until(|bench| bench.upstream.progress(&a).is_some_and(|progress| progress.over)).await;
        let took = started.elapsed();
        assert!((Duration::from_millis(2000)..Duration::from_secs(6)).contains(&took), "{took:?}");
        assert_eq!(told(&bench, &a), 30);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.moves().iter().filter(|&&moves| moves == 1).count(), 30);
        assert_eq!(bench.loads(), [0, 45, 45]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_server_is_gone_when_its_last_session_is() {
        let mut bench = Bench::new(&[1, 1], json!({ "balance": "round_robin", "drain": { "rate": 5.0 } }));
        bench.come(40).await;
        let b = bench.server("b");
        let upstream = &bench.upstream;
        upstream.set_servers(&servers(&[1]));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(upstream.removed().len(), 1);
        assert!(upstream.return_to(b.id()).is_some(), "those that are there still come");
        bench.until(|_| upstream.removed().is_empty()).await;
        assert_eq!((b.sessions(), bench.upstream.progress(&b)), (0, None));
        assert!(upstream.return_to(b.id()).is_none());
        bench.until(|bench| bench.loads() == [40]).await;
        assert!(bench.moves().iter().all(|&moves| moves <= 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_server_that_comes_back_keeps_the_sessions_that_it_has() {
        let mut bench = Bench::new(&[1, 1], json!({ "balance": "round_robin", "drain": { "rate": 1.0 } }));
        bench.come(40).await;
        let b = bench.server("b");
        bench.upstream.set_servers(&servers(&[1]));
        bench.until(|bench| told(bench, &b) == 5).await;
        bench.upstream.set_servers(&servers(&[1, 1]));
        sleep(Duration::from_secs(60)).await;
        assert_eq!((b.is_draining(), bench.upstream.progress(&b)), (false, None));
        assert!(bench.moves().iter().sum::<usize>() <= 6, "no goodbye is said any more");
        assert!(b.sessions() >= 14, "{:?}", bench.loads());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_what_the_pace_has_left() {
        let drain = json!({ "drain": { "rate": 0.01, "deadline": "30s" } });
        let mut bench = Bench::new(&[1, 1], drain);
        bench.come(40).await;
        let b = bench.server("b");
        bench.upstream.set_servers(&servers(&[1]));
        sleep(Duration::from_secs(28)).await;
        assert!(b.sessions() > 10);
        bench.until(|bench| bench.upstream.removed().is_empty()).await;
        bench.until(|bench| bench.loads() == [40]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_goodbyes_sessions_stay_until_they_end() {
        let mut bench = Bench::new(&[1, 1], json!({ "balance": "round_robin", "drain": { "goodbye": false } }));
        bench.come(40).await;
        let b = bench.server("b");
        bench.upstream.set_servers(&servers(&[1]));
        sleep(Duration::from_secs(3600)).await;
        let progress = Progress { open: 20, sessions: 20, told: 0, over: false };
        assert_eq!((b.sessions(), bench.upstream.progress(&b)), (20, Some(progress)));
        assert_eq!(bench.moves(), vec![0; 40]);
        // An operator may have another mind.
        let pace = Pace { rate: 100.0, jitter: 0.0, deadline: Duration::from_secs(60) };
        bench.upstream.drain(&b, Some(pace));
        bench.until(|bench| bench.upstream.removed().is_empty() && bench.loads() == [40]).await;
    }

    /// Goodbyes would only make them come back.
    #[tokio::test(start_paused = true)]
    async fn where_every_server_drains_nobody_is_told_until_there_is_somewhere_to_go() {
        let mut bench = Bench::new(&[1, 1], json!({ "balance": "round_robin", "drain": { "deadline": "20s" } }));
        bench.come(40).await;
        let mut said = servers(&[1, 1, 1]);
        (said[0].drain, said[1].drain) = (true, true);
        bench.upstream.set_servers(&said[..2]);
        sleep(Duration::from_secs(60)).await;
        assert_eq!((bench.loads(), bench.moves()), (vec![20, 20], vec![0; 40]));
        bench.upstream.set_servers(&said);
        bench.until(|bench| bench.loads() == [0, 0, 40]).await;
        assert_eq!(bench.moves(), vec![1; 40]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_by_hand_is_not_begun_anew_by_the_configuration() {
        let mut bench = Bench::new(&[1, 1], json!({ "balance": "round_robin" }));
        bench.come(40).await;
        let a = bench.server("a");
        bench.upstream.drain(&a, None);
        sleep(Duration::from_secs(600)).await;
        assert_eq!((told(&bench, &a), a.sessions()), (0, 20));
        assert!(bench.upstream.undrain(&a));
        assert_eq!(bench.upstream.progress(&a), None);
    }
}
