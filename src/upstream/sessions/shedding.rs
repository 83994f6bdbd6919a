//! Sheds sessions from servers that have too many, as after a scale-out, until everybody is within the bound.
//!
//! A session is moved by a goodbye, on which its client opens a new one, and the balance places that elsewhere. Until
//! it has, the session is counted neither here nor there: [`Ledger`] keeps account of those on their way, so that nobody
//! is told who need not have been.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use log::info;
use tokio::time::{Instant, sleep};

use super::Overloaded;
use crate::roster::{Leave, Turns, Why};
use crate::upstream::config::Rebalance;
use crate::upstream::{Server, ServerId, Upstream};

/// What was shed so far, and whether more will be.
#[derive(Default)]
pub(crate) struct Shedding {
    shed: AtomicU64,
    stopped: AtomicBool,
    state: Mutex<State>,
}

/// How the rebalance of an upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalancing {
    /// Sessions that were told to leave, ever.
    pub shed: u64,
    /// Whether a server has more than its bound, and is relieved.
    pub under_way: bool,
    /// What it waits for: servers that are not well, or a drain.
    pub waits: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// Everybody is within the bound, as far as is known.
    #[default]
    Even,
    Shedding,
    /// For this reason nobody is told.
    Waiting(String),
}

/// How often it is looked whether there is something to do.
const LOOK: Duration = Duration::from_millis(500);
/// How long a client takes to come back, at most: Socket.IO waits for up to 1.5 s before it tries.
const ON_THE_WAY: Duration = Duration::from_secs(5);

impl Upstream {
    /// How the rebalance stands; `None` where there is none.
    pub fn rebalancing(&self) -> Option<Rebalancing> {
        self.sessions()?;
        self.config().sessions.rebalance.as_ref()?;
        let shedding = &self.drains.shedding;
        let state = shedding.state().clone();
        Some(Rebalancing {
            shed: shedding.shed.load(Ordering::Relaxed),
            under_way: state == State::Shedding,
            waits: if let State::Waiting(reason) = state { Some(reason) } else { None },
        })
    }
}

impl Upstream {
    /// Sheds nobody any more: the gateway stops, and who is told goodbye would have to look for another one.
    pub fn stop_shedding(&self) {
        self.drains.shedding.stopped.store(true, Ordering::Relaxed);
    }
}

/// Sheds where it has to be, for as long as it is polled.
pub(crate) async fn run(upstream: Arc<Upstream>, said: Rebalance) {
    let mut turns = Turns::new(said.rate, said.jitter);
    let mut rebalance = Turn { upstream: &upstream, said: &said, ledger: Ledger::default(), calm: None };
    loop {
        if rebalance.take() {
            turns.next().await;
        } else {
            sleep(LOOK).await;
        }
    }
}

/// What one turn looks at.
struct Turn<'a> {
    upstream: &'a Upstream,
    said: &'a Rebalance,
    ledger: Ledger,
    /// Since when the servers are these and well.
    calm: Option<(Instant, Vec<ServerId>)>,
}

impl Turn<'_> {
    /// Tells one session to leave, if one has to; true if it did.
    fn take(&mut self) -> bool {
        let over = match self.over() {
            Ok(over) => over,
            Err(reason) => {
                self.enter(State::Waiting(reason));
                return false;
            }
        };
        if over.is_empty() {
            self.enter(State::Even);
            return false;
        }
        self.enter(State::Shedding);
        for Overloaded { server, .. } in over {
            if let Some(leave) = self.upstream.roster(server.id()).tell_session(Why::Rebalance) {
                self.ledger.told(server.id(), leave);
                self.upstream.drains.shedding.shed.fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
        // Sessions are there, but each is between two polls.
        false
    }

    /// Who has too many, if that can be said.
    fn over(&mut self) -> Result<Vec<Overloaded>, String> {
        let servers = self.upstream.servers();
        let taking: Vec<&Arc<Server>> = servers.iter().filter(|server| !server.is_draining()).collect();
        let leaving = self.ledger.settle();
        let left = |server: &Server| leaving.get(&server.id()).copied().unwrap_or(0);
        let sessions = taking.iter().map(|server| (server.sessions() as u64).saturating_sub(left(server))).sum();
        let coming = self.ledger.coming(sessions);
        let over = if self.upstream.drains.shedding.stopped.load(Ordering::Relaxed) {
            Err("the gateway stops".to_owned())
        } else if self.upstream.is_draining() {
            Err("a drain is under way".to_owned())
        } else {
            self.upstream.overloaded(self.said.bound, left, coming)
        };
        if over.is_err() {
            self.calm = None;
            return over;
        }
        let ids: Vec<ServerId> = taking.iter().map(|server| server.id()).collect();
        let now = Instant::now();
        let since = match &self.calm {
            Some((since, known)) if *known == ids => *since,
            _ => now,
        };
        self.calm = Some((since, ids));
        if now < since + self.said.delay {
            return Err("the servers are new, or have just come to be well".to_owned());
        }
        over
    }

    fn enter(&self, state: State) {
        let shedding = &self.upstream.drains.shedding;
        let before = std::mem::replace(&mut *shedding.state(), state.clone());
        let (name, shed) = (self.upstream.name(), shedding.shed.load(Ordering::Relaxed));
        match (before == State::Shedding, state) {
            (false, State::Shedding) => info!("upstream {name}: rebalance begins: servers have more than their bound"),
            (true, State::Even) => info!("upstream {name}: rebalance is over: {shed} sessions were shed so far"),
            (true, State::Waiting(reason)) => info!("upstream {name}: rebalance waits: {reason}"),
            _ => {}
        }
    }
}

impl Shedding {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sessions that were told to leave and may be counted nowhere.
#[derive(Default)]
struct Ledger {
    told: VecDeque<Told>,
    /// Most sessions that there were while anybody was on the way.
    peak: u64,
}

struct Told {
    server: ServerId,
    at: Instant,
    /// Gone when the session has left.
    leave: Weak<Leave>,
}

impl Ledger {
    fn told(&mut self, server: ServerId, leave: Weak<Leave>) {
        self.told.push_back(Told { server, at: Instant::now(), leave });
    }

    /// Drops whoever must have come back by now; tells how many of each server were told and have not left yet.
    fn settle(&mut self) -> HashMap<ServerId, u64> {
        let now = Instant::now();
        self.told.retain(|told| told.leave.strong_count() > 0 || now < told.at + ON_THE_WAY);
        let mut leaving = HashMap::new();
        for told in self.told.iter().filter(|told| told.leave.strong_count() > 0) {
            *leaving.entry(told.server).or_default() += 1;
        }
        leaving
    }

    /// How many are on their way, when there are so many sessions apart from those that leave: no more than were told,
    /// and no more than are missing.
    fn coming(&mut self, sessions: u64) -> u64 {
        self.peak = if self.told.is_empty() { sessions } else { self.peak.max(sessions) };
        (self.told.len() as u64).min(self.peak - sessions)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::testing::clients::{Bench, servers};

    fn rebalancing(rebalance: Value) -> Value {
        json!({ "balance": "client_ip", "sessions": { "rebalance": rebalance } })
    }

    fn state(bench: &Bench) -> Rebalancing {
        bench.upstream.rebalancing().unwrap()
    }

    /// Waits until nobody is told any more.
    async fn even(bench: &Bench, clients: usize) {
        bench.until(|bench| state(bench).under_way || state(bench).waits.is_none()).await;
        let mut quiet = (state(bench).shed, 0);
        while quiet.1 < 20 {
            sleep(Duration::from_secs(1)).await;
            let shed = state(bench).shed;
            quiet = if shed == quiet.0 && !state(bench).under_way { (shed, quiet.1 + 1) } else { (shed, 0) };
        }
        bench.until(|bench| bench.loads().iter().sum::<usize>() == clients).await;
    }

    fn paused(test: impl Future<Output = TestCaseResult>) -> TestCaseResult {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn after_a_scale_out_everybody_is_within_the_bound_and_nobody_was_told_in_vain(
            weights in prop::collection::vec(1u16..4, 2..6),
            new in 1usize..4,
            clients in 30usize..400,
            rate in 5.0f64..60.0,
            balance in prop::sample::select(vec!["client_ip", "round_robin", "least_connections", "random_two"]),
        ) {
            paused(async move {
                let before = weights.len().saturating_sub(new).max(1);
                let said = json!({
                    "balance": balance,
                    "sessions": { "bounded_load": 0.0, "rebalance": { "rate": rate, "bound": 1.2, "delay": "5s" } },
                });
                let mut bench = Bench::new(&weights[..before], said);
                bench.come(clients).await;
                let loads = bench.loads();
                bench.upstream.set_servers(&servers(&weights));
                let started = Instant::now();
                even(&bench, clients).await;
                let (shed, after) = (state(&bench).shed as usize, bench.loads());

                let all: u16 = weights.iter().sum();
                let due = |at: usize| clients as f64 * f64::from(weights[at]) / f64::from(all);
                let most = |at: usize| (due(at) * 1.2).max(due(at) + 2.0);
                let mut needed = 0.0;
                for at in 0..weights.len() {
                    let (load, had) = (after[at] as f64, loads.get(at).map_or(0, |&load| load) as f64);
                    prop_assert!(load <= most(at) + 2.0, "{loads:?} to {after:?} by {weights:?}");
                    if load < had {
                        prop_assert!(load + 1.0 >= due(at), "below its share: {loads:?} to {after:?} by {weights:?}");
                    }
                    needed += (had - due(at) * 1.2).max(0.0);
                }
                prop_assert!(shed as f64 <= needed + 1.0, "{shed} for {needed}: {loads:?} to {after:?} by {weights:?}");
                let moves = bench.moves();
                prop_assert_eq!(moves.iter().sum::<usize>(), shed);
                prop_assert!(moves.iter().all(|&moves| moves <= 1), "nobody moves twice");
                if shed > 1 {
                    let pauses = (shed - 1) as f64 / rate;
                    prop_assert!(started.elapsed().as_secs_f64() > 0.6 * pauses, "{shed} at {rate}");
                }
                Ok(())
            })?;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_shed_while_a_server_is_not_well_or_drains() {
        let mut said = rebalancing(json!({ "delay": "2s", "rate": 1.0 }));
        said["ejection"] = json!({ "for": "100s" });
        let mut bench = Bench::new(&[1, 1], said);
        bench.come(100).await;
        bench.upstream.set_servers(&servers(&[1, 1, 1]));
        let (b, c) = (bench.server("b"), bench.server("c"));
        bench.until(|bench| state(bench).shed > 2).await;
        let slow = crate::roster::Pace { rate: 0.001, jitter: 0.0, deadline: Duration::from_secs(9000) };
        let stands_still = async |reason: &str| {
            bench.until(|bench| state(bench).waits.as_deref() == Some(reason)).await;
            let before = state(&bench);
            sleep(Duration::from_secs(60)).await;
            assert_eq!(state(&bench), before);
        };
        let goes_on = async || {
            let before = state(&bench).shed;
            bench.until(|bench| state(bench).shed > before).await;
        };
        bench.upstream.drain(&b, Some(slow));
        stands_still("a drain is under way").await;
        assert!(bench.upstream.undrain(&b));
        goes_on().await;
        let lease = bench.upstream.return_to(c.id()).unwrap();
        (0..3).for_each(|_| lease.connect_failed());
        stands_still("server c is ejected").await;
        goes_on().await;
        even(&bench, 100).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_warms_up_gets_its_sessions_as_it_can_bear_them() {
        let mut said = rebalancing(json!({ "rate": 50.0, "delay": "0s" }));
        said["slow_start"] = json!("100s");
        let mut bench = Bench::new(&[1, 1], said);
        bench.come(300).await;
        bench.upstream.set_servers(&servers(&[1, 1, 1]));
        let c = bench.server("c");
        sleep(Duration::from_secs(30)).await;
        // A bit more than a third of its share: 300 * 0.37 / 2.37 are due to it, and a quarter more may be there.
        assert!(c.sessions() <= 60, "{:?}", bench.loads());
        even(&bench, 300).await;
        assert!(c.sessions() >= 45, "{:?}", bench.loads());
        assert!(bench.loads().iter().all(|&load| load <= 127), "{:?}", bench.loads());
    }

    #[tokio::test(start_paused = true)]
    async fn upstreams_that_do_not_ask_for_it_are_left_alone() {
        let mut bench = Bench::new(&[1, 1], json!({}));
        bench.come(100).await;
        bench.upstream.set_servers(&servers(&[1, 1, 1]));
        sleep(Duration::from_secs(600)).await;
        assert_eq!((bench.upstream.rebalancing(), bench.server("c").sessions()), (None, 0));
    }
}
