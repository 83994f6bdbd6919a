//! Drives workers: each does its work again and again, as fast as it goes or when the schedule says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::latency::Latency;
use super::{Failure, Work};

/// One piece of work that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that are opened at once.
const OPENING: usize = 64;

/// When workers work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Closed loop: each begins again as soon as it is done.
    Closed,
    /// Open loop: this many times a second in all, whether the last ones are done or not. Times are counted from when
    /// the schedule said, so that waiting for a slow answer is not forgotten ("coordinated omission").
    PerSecond(f64),
}

/// How long they work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Time(Duration),
    Count(u64),
}

/// What came of it.
#[derive(Clone, Default)]
pub(crate) struct Outcome {
    pub done: u64,
    pub bytes: u64,
    pub failures: BTreeMap<String, u64>,
    pub latency: Latency,
    pub took: Duration,
}

impl Outcome {
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn fail(&mut self, failure: &Failure) {
        *self.failures.entry(failure.to_string()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.bytes += other.bytes;
        for (word, count) in &other.failures {
            *self.failures.entry(word.clone()).or_default() += count;
        }
        self.latency.add(&other.latency);
        self.took = self.took.max(other.took);
    }

    fn count(&mut self, result: Result<Result<u64, Failure>, tokio::time::error::Elapsed>, time: Duration) {
        match result.unwrap_or(Err("timeout".into())) {
            Ok(bytes) => {
                self.done += 1;
                self.bytes += bytes;
                self.latency.record(time);
            }
            Err(failure) => self.fail(&failure),
        }
    }
}

/// Makes workers ready, some at a time; those that could not be are counted, and left out.
pub(crate) async fn open<W: Work>(workers: Vec<W>) -> (Vec<W>, Outcome) {
    let began = Instant::now();
    let (mut open, mut outcome) = (Vec::with_capacity(workers.len()), Outcome::default());
    let mut waiting = workers.into_iter();
    let mut opening = JoinSet::new();
    loop {
        while opening.len() < OPENING
            && let Some(mut worker) = waiting.next()
        {
            opening.spawn(async move {
                let result = tokio::time::timeout(PATIENCE, worker.ready()).await;
                (worker, result.unwrap_or(Err("timeout".into())))
            });
        }
        match opening.join_next().await {
            Some(Ok((worker, Ok(())))) => {
                outcome.done += 1;
                open.push(worker);
            }
            Some(Ok((_, Err(failure)))) => outcome.fail(&failure),
            Some(Err(_)) => outcome.fail(&"the worker panicked".into()),
            None => break,
        }
    }
    outcome.took = began.elapsed();
    (open, outcome)
}

/// Lets workers work, and gives them back.
pub(crate) async fn drive<W: Work>(workers: Vec<W>, pace: Pace, until: Until) -> (Vec<W>, Outcome) {
    let began = Instant::now();
    let (end, count) = match until {
        Until::Time(time) => (Some(began + time), u64::MAX),
        Until::Count(count) => (None, count),
    };
    let mut running = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    match pace {
        Pace::Closed => {
            let left = Arc::new(AtomicU64::new(count));
            for worker in workers {
                running.spawn(closed(worker, Arc::clone(&left), end));
            }
        }
        Pace::PerSecond(rate) => {
            let mut lanes = Vec::new();
            for worker in workers {
                let (lane, due) = mpsc::unbounded_channel();
                lanes.push(lane);
                running.spawn(by_schedule(worker, due));
            }
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || schedule(&lanes, rate, end, count, &stop));
        }
    }
    // A caller that no longer waits ends the schedule.
    let _stop = Stop(stop);
    let (mut workers, mut outcome) = (Vec::new(), Outcome::default());
    while let Some(joined) = running.join_next().await {
        match joined {
            Ok((worker, part)) => {
                workers.push(worker);
                outcome.add(&part);
            }
            Err(_) => outcome.fail(&"the worker panicked".into()),
        }
    }
    outcome.took = began.elapsed();
    (workers, outcome)
}

struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn closed<W: Work>(mut worker: W, left: Arc<AtomicU64>, end: Option<Instant>) -> (W, Outcome) {
    let mut outcome = Outcome::default();
    let mut now = Instant::now();
    while end.is_none_or(|end| now < end) {
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            break;
        }
        let result = tokio::time::timeout(PATIENCE, worker.once()).await;
        let failed = !matches!(result, Ok(Ok(_)));
        let then = Instant::now();
        outcome.count(result, then - now);
        now = then;
        if failed {
            // Who is refused does not ask again at once: that would measure the refusing.
            tokio::time::sleep(Duration::from_millis(10)).await;
            now = Instant::now();
        }
    }
    (worker, outcome)
}

async fn by_schedule<W: Work>(mut worker: W, mut due: mpsc::UnboundedReceiver<Instant>) -> (W, Outcome) {
    let mut outcome = Outcome::default();
    while let Some(due) = due.recv().await {
        let result = tokio::time::timeout(PATIENCE, worker.once()).await;
        outcome.count(result, due.elapsed());
    }
    (worker, outcome)
}

/// Hands out the times, in turn. A thread of its own, since tokio's timers are only exact to a millisecond.
fn schedule(lanes: &[mpsc::UnboundedSender<Instant>], rate: f64, end: Option<Instant>, count: u64, stop: &AtomicBool) {
    let began = Instant::now();
    let Ok(zero) = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from) else { return };
    for (number, lane) in (0..count).zip(lanes.iter().cycle()) {
        let after = Duration::from_secs_f64(number as f64 / rate);
        let due = began + after;
        if end.is_some_and(|end| due >= end) || stop.load(Ordering::Relaxed) {
            return;
        }
        let at = TimeSpec::from_duration(zero + after);
        while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at).is_err() {}
        if lane.send(due).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Every(u64, u64);

    impl Work for Every {
        async fn once(&mut self) -> Result<u64, Failure> {
            self.0 += 1;
            if self.0.is_multiple_of(self.1) { Err("refused".into()) } else { Ok(10) }
        }
    }

    #[tokio::test]
    async fn every_piece_of_work_is_counted_as_done_or_failed() {
        for pace in [Pace::Closed, Pace::PerSecond(10_000.0)] {
            let (workers, outcome) = drive(vec![Every(0, 5), Every(0, 5)], pace, Until::Count(20)).await;
            assert_eq!(workers.iter().map(|worker| worker.0).sum::<u64>(), 20);
            assert_eq!(outcome.done + outcome.failed(), 20);
            assert_eq!(outcome.bytes, 10 * outcome.done);
            assert_eq!(outcome.latency.count(), outcome.done);
            assert!(outcome.failures["refused"] >= 3);
        }
    }

    #[tokio::test]
    async fn what_waits_for_its_turn_has_been_late_all_the_while() {
        struct Slow;
        impl Work for Slow {
            async fn once(&mut self) -> Result<u64, Failure> {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(0)
            }
        }
        // Five are due within 5 ms, and one worker takes 20 ms for each: the last one is answered after 100.
        let (_, outcome) = drive(vec![Slow], Pace::PerSecond(1000.0), Until::Count(5)).await;
        assert!(outcome.latency.longest() >= Duration::from_millis(90), "{:?}", outcome.latency.longest());
    }
}
