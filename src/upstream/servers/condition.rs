//! How a server fares: what its checks say, what the operator wishes, whether it warms up, and what it failed at.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Server;
use crate::upstream::config::Ejection;
use crate::upstream::health::{Ejected, Fault, Faults};

/// How a server fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No check has ended yet.
    Starting,
    /// It takes work.
    Up,
    /// Its checks fail.
    Down,
    /// It keeps its sessions and gets no new ones.
    Draining,
}

impl State {
    /// The word for it in logs, metrics and the status page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
        }
    }
}

/// A server's state and how it came to it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The state.
    pub state: State,
    /// When the checks last changed their verdict.
    pub since: SystemTime,
    /// The ejection that lasts.
    pub ejected: Option<Ejected>,
    /// The last check, if one has ended.
    pub last_check: Option<CheckReport>,
    /// What became of it lately, the oldest first: each state, and since when.
    pub history: Vec<(SystemTime, State)>,
    /// Who has it drain, while it does.
    pub drained_by: Option<DrainedBy>,
}

/// Who has a server drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainedBy {
    /// The configuration says so.
    Configuration,
    /// The configuration, or discovery, has it no longer.
    Removal,
    /// An operator has asked for it.
    Operator,
}

/// Changes of a server's state that are kept for operators.
const HISTORY: usize = 48;

/// One check that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// Whether the server passed.
    pub good: bool,
    /// What was seen, in a few words.
    pub text: String,
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
}

/// What the checks say, apart from what the operator wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Health {
    Starting,
    Up,
    Down,
}

/// How a server fares; outlives a reload.
pub(super) struct Condition {
    born: Instant,
    health: AtomicU8,
    draining: AtomicBool,
    /// What the configuration said of draining when it was last followed.
    drain_said: AtomicBool,
    /// Whether it was taken out of its upstream while it had work.
    removed: AtomicBool,
    /// Whether it joined servers that were there already.
    joined: bool,
    /// When it came up, while that is not long ago: milliseconds after `born`, and one; else 0.
    came_up: AtomicU64,
    faults: Faults,
    report: Mutex<Report>,
    check_now: Notify,
}

struct Report {
    since: SystemTime,
    last_check: Option<CheckReport>,
    history: VecDeque<(SystemTime, State)>,
}

impl Health {
    fn state(self) -> State {
        match self {
            Self::Starting => State::Starting,
            Self::Up => State::Up,
            Self::Down => State::Down,
        }
    }
}

impl Condition {
    /// Of a new server, which is up from the start where nobody will ever tell.
    pub(super) fn new(known_up: bool, drain: bool, joined: bool) -> Self {
        let health = if known_up { Health::Up } else { Health::Starting };
        Self {
            born: Instant::now(),
            health: AtomicU8::new(health as u8),
            draining: AtomicBool::new(drain),
            drain_said: AtomicBool::new(drain),
            removed: AtomicBool::new(false),
            joined,
            came_up: AtomicU64::new(u64::from(known_up && joined)),
            faults: Faults::new(),
            report: Mutex::new(Report {
                since: SystemTime::now(),
                last_check: None,
                history: VecDeque::from([(SystemTime::now(), if drain { State::Draining } else { health.state() })]),
            }),
            check_now: Notify::new(),
        }
    }

    /// Milliseconds after `born`, and one: never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// How it fares.
    pub fn state(&self) -> State {
        match self.health() {
            Health::Down => State::Down,
            _ if self.life.condition.draining.load(Relaxed) => State::Draining,
            Health::Starting => State::Starting,
            Health::Up => State::Up,
        }
    }

    /// How it fares and why; for people, not for the path of a request.
    pub fn status(&self) -> Status {
        let report = self.life.condition.report();
        Status {
            state: self.state(),
            since: report.since,
            ejected: self.life.condition.faults.ejection(),
            last_check: report.last_check.clone(),
            history: report.history.iter().copied().collect(),
            drained_by: self.drained_by(),
        }
    }

    /// Since when it is what it is.
    pub(crate) fn in_this_state_since(&self) -> SystemTime {
        let report = self.life.condition.report();
        report.history.back().map_or(report.since, |&(since, _)| since)
    }

    /// Who has it drain, while it does.
    pub(crate) fn drained_by(&self) -> Option<DrainedBy> {
        self.is_draining().then(|| match (self.is_removed(), self.drain) {
            (true, _) => DrainedBy::Removal,
            (false, true) => DrainedBy::Configuration,
            (false, false) => DrainedBy::Operator,
        })
    }

    /// Whether an operator has said of draining what the configuration does not say.
    pub(crate) fn drains_otherwise(&self) -> bool {
        !self.is_removed() && self.is_draining() != self.drain
    }

    /// Notes for operators what it has become.
    fn remember(&self) {
        let state = self.state();
        let history = &mut self.life.condition.report().history;
        if history.back().is_some_and(|&(_, last)| last == state) {
            return;
        }
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back((SystemTime::now(), state));
    }

    /// Whether new work may go there: up, neither draining nor ejected.
    pub fn is_healthy(&self) -> bool {
        self.state() == State::Up && self.ejected().is_none()
    }

    pub(crate) fn health(&self) -> Health {
        match self.life.condition.health.load(Relaxed) {
            0 => Health::Starting,
            1 => Health::Up,
            _ => Health::Down,
        }
    }

    /// Sets the verdict of the checks. False if it was the same before.
    pub(crate) fn set_health(&self, health: Health) -> bool {
        let before = self.health();
        // Everybody starts at the start, so nobody has to catch up then.
        if health == Health::Up && (before == Health::Down || before == Health::Starting && self.life.condition.joined)
        {
            self.life.condition.came_up.store(self.life.condition.now(), Relaxed);
        }
        let changed = self.life.condition.health.swap(health as u8, SeqCst) != health as u8;
        if changed {
            self.life.condition.report().since = SystemTime::now();
            self.remember();
        }
        match health {
            Health::Down => self.life.condition.faults.starts_failing(),
            Health::Up if before == Health::Down => {
                // Whoever was down and is back is another process, as a rule.
                self.life.condition.faults.recovered();
                self.life.condition.faults.uneject();
            }
            Health::Starting | Health::Up => {}
        }
        changed
    }

    /// Notes a check; a good one ends an ejection for failed connects.
    pub(crate) fn checked(&self, check: CheckReport) {
        if check.good {
            self.connected();
            self.life.condition.faults.passed_a_check();
        }
        self.life.condition.report().last_check = Some(check);
    }

    /// Has it checked at once: it has moved.
    pub(crate) fn wants_check(&self) {
        self.life.condition.check_now.notify_one();
    }

    /// Resolves when somebody wants to know at once how the server fares.
    pub(crate) async fn check_wanted(&self) {
        self.life.condition.check_now.notified().await;
    }

    /// Whether the operator took it out of new work; also told while it is down.
    pub fn is_draining(&self) -> bool {
        self.life.condition.draining.load(Relaxed)
    }

    /// Sets or lifts draining. False if nothing changed.
    pub(crate) fn set_draining(&self, draining: bool) -> bool {
        let changed = self.life.condition.draining.swap(draining, Relaxed) != draining;
        if changed {
            self.remember();
        }
        changed
    }

    /// Does what the configuration says of draining, if that is news: an operator may have said otherwise since.
    pub(crate) fn follow_configured_drain(&self) -> bool {
        self.life.condition.drain_said.swap(self.drain, Relaxed) != self.drain && self.set_draining(self.drain)
    }

    /// Whether it was taken out of its upstream: it drains, and is gone when its last session is.
    pub fn is_removed(&self) -> bool {
        self.life.condition.removed.load(Relaxed)
    }

    /// It was taken out of the upstream. False if it was before.
    pub(crate) fn remove(&self) -> bool {
        self.set_draining(true);
        !self.life.condition.removed.swap(true, Relaxed)
    }

    /// It is of the upstream: one that had been removed is as the configuration says. False if it wasn't removed.
    pub(crate) fn come_back(&self) -> bool {
        let was_removed = self.life.condition.removed.swap(false, Relaxed);
        if was_removed {
            self.life.condition.drain_said.store(self.drain, Relaxed);
            self.set_draining(self.drain);
        }
        was_removed
    }

    /// Its share of new work at this moment, in thousandths of a unit of weight: from a tenth of its weight to the whole
    /// within `slow_start` of its coming up.
    pub(crate) fn share(&self, slow_start: Duration) -> u64 {
        let whole = u64::from(self.weight()) * 1000;
        let came_up = self.life.condition.came_up.load(Relaxed);
        if came_up == 0 || slow_start.is_zero() {
            return whole;
        }
        let warm = self.life.condition.now().saturating_sub(came_up);
        let slow_start = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX).max(1);
        if warm >= slow_start {
            // From here on nobody has to look at the clock, unless it came up anew meanwhile.
            let _ = self.life.condition.came_up.compare_exchange(came_up, 0, Relaxed, Relaxed);
            return whole;
        }
        let tenth = whole / 10;
        let gained = u128::from(whole - tenth) * u128::from(warm) / u128::from(slow_start);
        tenth + u64::try_from(gained).unwrap_or(u64::MAX)
    }

    /// What is left of an ejection; `None` while the server isn't ejected.
    pub fn ejected(&self) -> Option<Duration> {
        self.life.condition.faults.ejected()
    }

    /// Passes it over for a while, and has it checked at once. `None` if it is passed over already.
    pub(crate) fn eject(&self, fault: Fault, said: &Ejection) -> Option<Duration> {
        let lasts = self.life.condition.faults.eject(fault, said)?;
        self.life.condition.check_now.notify_one();
        Some(lasts)
    }

    /// A connect failed: its sessions wait, and its name is looked up again.
    pub(crate) fn connect_failed(&self, refused: bool) {
        self.life.condition.faults.starts_failing();
        self.life.condition.faults.note_refusal(refused);
        self.wants_lookup();
    }

    /// A connect went well.
    pub(crate) fn connected(&self) {
        self.life.condition.faults.note_refusal(false);
        if self.life.condition.faults.connected() && self.health() != Health::Down {
            self.life.condition.faults.recovered();
        }
    }

    /// Connects that ever failed.
    pub fn connect_failures(&self) -> u64 {
        self.life.condition.faults.failed_connects()
    }

    /// Answers that ever were bad, missing ones included.
    pub fn bad_answers(&self) -> u64 {
        self.life.condition.faults.bad_answers()
    }

    /// How often it was passed over.
    pub fn ejections(&self) -> u64 {
        self.life.condition.faults.ejections()
    }

    /// What is known of how it does its work.
    pub(crate) fn faults(&self) -> &Faults {
        &self.life.condition.faults
    }
}
