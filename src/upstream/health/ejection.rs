//! Passing over servers that fail at what they are asked, for a time that grows while they go on: connects that fail, and
//! bad answers, which no check need notice.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::upstream::config::Ejection;
use crate::upstream::{Server, Upstream};

/// What a server can be passed over for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It could not be connected to.
    Connect,
    /// It answered with a status of `ejection.status`, with something that is no answer, too late, or not at all.
    Answer,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "failed connects",
            Self::Answer => "bad answers",
        })
    }
}

/// An ejection that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// What is left of it.
    pub left: Duration,
    /// What it is for.
    pub fault: Fault,
}

/// What is known of how a server does its work; outlives a reload.
pub(crate) struct Faults {
    born: Instant,
    /// Failed connects in a row.
    connects: AtomicU32,
    /// Bad answers in a row.
    answers: AtomicU32,
    failed_connects: AtomicU64,
    bad_answers: AtomicU64,
    /// Milliseconds after `born`; 0 while the server isn't ejected.
    ejected_until: AtomicU64,
    /// When it first failed a connect or was found down, if it hasn't recovered since: milliseconds after `born`, and
    /// one; else 0.
    failing_since: AtomicU64,
    /// Since when connects are refused, in the same way.
    refusing_since: AtomicU64,
    record: Mutex<Record>,
    /// An ejection has begun or ended.
    changed: Notify,
}

/// The ejections of a server.
struct Record {
    /// What the last one was for.
    fault: Fault,
    /// How many there were in a row: each stretch of `for` without one takes one away.
    in_a_row: u32,
    /// When the last one ended or ends: milliseconds after `born`.
    ends: u64,
    /// How many there ever were.
    total: u64,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            connects: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            failed_connects: AtomicU64::new(0),
            bad_answers: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            failing_since: AtomicU64::new(0),
            refusing_since: AtomicU64::new(0),
            record: Mutex::new(Record { fault: Fault::Connect, in_a_row: 0, ends: 0, total: 0 }),
            changed: Notify::new(),
        }
    }

    /// What is left of an ejection; `None` while there is none.
    pub(crate) fn ejected(&self) -> Option<Duration> {
        let until = self.ejected_until.load(Relaxed);
        if until == 0 {
            return None;
        }
        Duration::from_millis(until).checked_sub(self.born.elapsed()).filter(|left| !left.is_zero())
    }

    /// The same with its cause; for people, not for the path of a request.
    pub(crate) fn ejection(&self) -> Option<Ejected> {
        self.ejected().map(|left| Ejected { left, fault: self.record().fault })
    }

    /// Counts a fault; tells how many there were in a row.
    fn failed(&self, fault: Fault) -> u32 {
        let (in_a_row, total) = match fault {
            Fault::Connect => (&self.connects, &self.failed_connects),
            Fault::Answer => (&self.answers, &self.bad_answers),
        };
        total.fetch_add(1, Relaxed);
        in_a_row.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// A connect went well. Tells whether others had failed just before.
    pub(crate) fn connected(&self) -> bool {
        // Read first: a shared counter that is written on every request costs every core.
        self.connects.load(Relaxed) != 0 && self.connects.swap(0, Relaxed) != 0
    }

    /// A request was answered well.
    pub(crate) fn answered_well(&self) {
        if self.answers.load(Relaxed) != 0 {
            self.answers.store(0, Relaxed);
        }
    }

    /// Begins an ejection, for longer if the last one is not long over; tells how long. `None` if one lasts already.
    pub(crate) fn eject(&self, fault: Fault, said: &Ejection) -> Option<Duration> {
        let mut record = self.record();
        if self.ejected().is_some() {
            return None;
        }
        let now = milliseconds(self.born.elapsed());
        let base = milliseconds(said.duration).max(1);
        let clean = u32::try_from(now.saturating_sub(record.ends) / base).unwrap_or(u32::MAX);
        // No more of them are remembered than make a difference.
        let most = u32::try_from(milliseconds(said.max_for).div_ceil(base)).unwrap_or(u32::MAX).max(1);
        record.in_a_row = record.in_a_row.saturating_sub(clean).saturating_add(1).min(most);
        let lasts = said.duration.saturating_mul(record.in_a_row).min(said.max_for.max(said.duration));
        record.fault = fault;
        record.total += 1;
        record.ends = now.saturating_add(milliseconds(lasts));
        self.ejected_until.store(record.ends.max(1), Relaxed);
        // What led to it is atoned for by it.
        self.connects.store(0, Relaxed);
        self.answers.store(0, Relaxed);
        self.changed.notify_one();
        Some(lasts)
    }

    /// Ends an ejection that a good check speaks against: one for failed connects. Bad answers are given to requests that
    /// no check makes.
    pub(crate) fn passed_a_check(&self) {
        if self.ejection().is_some_and(|ejected| ejected.fault == Fault::Connect) {
            self.uneject();
        }
    }

    /// Ends any ejection.
    pub(crate) fn uneject(&self) {
        let mut record = self.record();
        if self.ejected_until.swap(0, Relaxed) != 0 {
            record.ends = record.ends.min(milliseconds(self.born.elapsed()));
            self.changed.notify_one();
        }
    }

    /// Resolves when an ejection has ended that has begun since this was called first.
    pub(crate) async fn ejection_over(&self) {
        self.changed.notified().await;
        while let Some(left) = self.ejected() {
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Begins the time for which it is failing, unless it is already.
    pub(crate) fn starts_failing(&self) {
        let now = milliseconds(self.born.elapsed()).saturating_add(1);
        let _ = self.failing_since.compare_exchange(0, now, Relaxed, Relaxed);
    }

    pub(crate) fn recovered(&self) {
        if self.failing_since.load(Relaxed) != 0 {
            self.failing_since.store(0, Relaxed);
        }
    }

    /// For how long it has been down or could not be connected to; `None` if it can.
    pub(crate) fn failing_for(&self) -> Option<Duration> {
        match self.failing_since.load(Relaxed) {
            0 => None,
            since => Some(self.born.elapsed().saturating_sub(Duration::from_millis(since - 1))),
        }
    }

    /// Notes how a connect went, in this one respect: a refusal says that nobody is there.
    pub(crate) fn note_refusal(&self, refused: bool) {
        if refused {
            let now = milliseconds(self.born.elapsed()).saturating_add(1);
            let _ = self.refusing_since.compare_exchange(0, now, Relaxed, Relaxed);
        } else if self.refusing_since.load(Relaxed) != 0 {
            self.refusing_since.store(0, Relaxed);
        }
    }

    /// For how long every connect has been refused; `None` if the last one was not.
    pub(crate) fn refusing_for(&self) -> Option<Duration> {
        match self.refusing_since.load(Relaxed) {
            0 => None,
            since => Some(self.born.elapsed().saturating_sub(Duration::from_millis(since - 1))),
        }
    }

    pub(crate) fn failed_connects(&self) -> u64 {
        self.failed_connects.load(Relaxed)
    }

    pub(crate) fn bad_answers(&self) -> u64 {
        self.bad_answers.load(Relaxed)
    }

    pub(crate) fn ejections(&self) -> u64 {
        self.record().total
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Upstream {
    /// Counts what a server failed at, and passes it over from now on if that was once too often.
    pub(crate) fn hold_against(&self, server: &Server, fault: Fault) {
        let said = &self.config.ejection;
        let in_a_row = server.faults().failed(fault);
        let threshold = match fault {
            Fault::Connect => said.failures,
            Fault::Answer => said.bad_answers,
        };
        if threshold == 0 || in_a_row < threshold {
            return;
        }
        // One after the other: two servers that fail at once could each take the other for the one that stays.
        let _turn = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let (upstream, name) = (&self.name, server.name());
        match self.keeps(server) {
            None => {
                if let Some(lasts) = server.eject(fault, said) {
                    log::warn!(
                        "upstream {upstream}: server {name} is passed over for {lasts:?}: {in_a_row} {fault} in a row"
                    );
                }
            }
            Some(why) if in_a_row == threshold => {
                log::warn!(
                    "upstream {upstream}: server {name} is not passed over after {in_a_row} {fault} in a row: {why}"
                );
            }
            Some(_) => {}
        }
    }

    /// Why a server can't be done without; `None` if it can.
    fn keeps(&self, server: &Server) -> Option<String> {
        let members = self.members.load();
        let mut others = members.servers.iter().filter(|other| other.id() != server.id());
        if !others.clone().any(|other| other.is_healthy()) {
            return Some("it is the last one".to_owned());
        }
        let ejected = others.by_ref().filter(|other| other.faults().ejected().is_some()).count();
        let most = self.config.ejection.most_of(members.servers.len());
        (ejected >= most).then(|| format!("{ejected} of {} servers are already", members.servers.len()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::upstream::testing::{at_once, client, upstream};
    use crate::upstream::{Lease, Tried};
    use std::sync::Arc;

    const SECOND: Duration = Duration::from_secs(1);

    fn three(ejection: &serde_json::Value) -> Arc<Upstream> {
        upstream(json!({ "servers": ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"], "ejection": ejection }))
    }

    fn pick(upstream: &Arc<Upstream>) -> Lease {
        at_once(upstream.pick(&client(1), &mut Tried::default())).unwrap()
    }

    fn left(lease: &Lease) -> Option<u64> {
        lease.server().ejected().map(|left| left.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn bad_answers_in_a_row_eject_a_server_and_a_good_one_wipes_the_slate() {
        let upstream = three(&json!({ "bad_answers": 3 }));
        let lease = pick(&upstream);
        for status in [502, 503, 200, 504, 502] {
            lease.answered(status);
        }
        lease.answered(500);
        assert_eq!(left(&lease), None, "500 is what an app may say of itself, and no bad answer by default");
        for _ in 0..2 {
            lease.answered(503);
        }
        lease.gave_no_answer();
        assert_eq!(left(&lease), Some(10));
        assert_eq!(lease.server().status().ejected.unwrap().fault, Fault::Answer);
        assert_eq!((lease.server().bad_answers(), lease.server().ejections()), (7, 1));
        for _ in 0..6 {
            assert_ne!(pick(&upstream).server().id(), lease.server().id());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn which_statuses_are_bad_is_the_operators_to_say() {
        let upstream = three(&json!({ "bad_answers": 1, "status": "500-599" }));
        let lease = pick(&upstream);
        lease.answered(500);
        assert_eq!(left(&lease), Some(10));
        let upstream = three(&json!({ "bad_answers": 0 }));
        let lease = pick(&upstream);
        for _ in 0..100 {
            lease.answered(503);
        }
        assert_eq!(left(&lease), None);
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_in_a_row_grow_up_to_a_limit_and_good_times_shorten_them() {
        let upstream = three(&json!({ "bad_answers": 1, "for": "10s", "max_for": "35s" }));
        let lease = pick(&upstream);
        for lasts in [10, 20, 30, 35, 35, 35] {
            lease.answered(503);
            assert_eq!(left(&lease), Some(lasts));
            lease.answered(503);
            advance(SECOND * lasts as u32).await;
            assert_eq!(left(&lease), None);
        }
        // Twice the base without one takes two of the four away.
        advance(20 * SECOND).await;
        lease.answered(503);
        assert_eq!(left(&lease), Some(30));
        advance(3600 * SECOND).await;
        lease.answered(503);
        assert_eq!(left(&lease), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_servers_is_never_ejected_and_one_always_may_be() {
        for (servers, share, most) in [(2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (10, 0.3, 3), (3, 0.0, 1), (3, 1.0, 2)] {
            let addresses: Vec<_> = (1..=servers).map(|number| format!("10.0.0.{number}:1")).collect();
            let ejection = json!({ "failures": 1, "max_share": share });
            let upstream = upstream(json!({ "servers": addresses, "ejection": ejection }));
            for server in upstream.servers().iter() {
                upstream.return_to(server.id()).unwrap().connect_failed();
            }
            let ejected = upstream.servers().iter().filter(|server| server.ejected().is_some()).count();
            assert_eq!(ejected, most, "{servers} servers, {share}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_check_speaks_for_connects_and_not_for_answers() {
        let upstream = three(&json!({ "failures": 1, "bad_answers": 1 }));
        let lease = pick(&upstream);
        let good = || crate::upstream::CheckReport {
            good: true,
            text: String::new(),
            at: std::time::SystemTime::now(),
            took: Duration::ZERO,
        };
        lease.connect_failed();
        assert!(left(&lease).is_some());
        lease.server().checked(good());
        assert_eq!(left(&lease), None);
        lease.answered(503);
        lease.server().checked(good());
        assert_eq!(left(&lease), Some(20), "and it is the second in a row");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_ejection_is_noticed_however_it_ends() {
        let upstream = three(&json!({ "bad_answers": 1 }));
        let lease = pick(&upstream);
        let server = lease.server();
        lease.answered(503);
        let began = Instant::now();
        server.faults().ejection_over().await;
        assert_eq!(began.elapsed(), 10 * SECOND);
        lease.answered(503);
        tokio::join!(server.faults().ejection_over(), async {
            sleep(SECOND).await;
            server.faults().uneject();
        });
        assert_eq!(began.elapsed(), 11 * SECOND);
    }
}
