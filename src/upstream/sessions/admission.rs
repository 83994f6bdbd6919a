//! How fast new sessions may come: a bucket of tokens, and a line before it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::upstream::config::NewSessions;

/// Lets new sessions in at the pace of the configuration, in order of arrival.
pub(crate) struct Admission {
    said: NewSessions,
    bucket: Mutex<Bucket>,
    /// Held by the head of the line; tokio's mutex is handed on in order.
    head: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// One that waits; dropping it leaves the line.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Timers tick in milliseconds, so at high rates the head of the line finds the tokens of a few of them.
const TICK: f64 = 0.002;
/// Sums of fractions are a little off.
const ALMOST_ONE: f64 = 1.0 - 1e-9;

impl Admission {
    /// `None` where any number may come. What stands in line at `before` stays there; its tokens are taken over.
    pub(crate) fn build(said: &NewSessions, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        if said.rate == 0 {
            return None;
        }
        if let Some(before) = before
            && before.said == *said
        {
            return Some(before.clone());
        }
        let most = most(said);
        let tokens = before.map_or(most, |before| before.bucket().tokens.min(most));
        Some(Arc::new(Self {
            said: said.clone(),
            bucket: Mutex::new(Bucket { tokens, at: Instant::now() }),
            head: tokio::sync::Mutex::new(()),
            waiting: AtomicUsize::new(0),
            refused: before.map_or(0, |before| before.refused()).into(),
        }))
    }

    /// Waits for its turn. An error says after how long there might be room.
    pub(crate) async fn enter(&self) -> Result<(), Duration> {
        if self.waiting() == 0 && self.take().is_ok() {
            return Ok(());
        }
        let ahead = self.waiting.fetch_add(1, Relaxed);
        let waiting = Waiting(&self.waiting);
        let expected = self.expected(ahead);
        if ahead >= self.said.max_pending || expected > self.said.timeout {
            drop(waiting);
            return Err(self.refuse(ahead));
        }
        let turn = async {
            let _head = self.head.lock().await;
            while let Err(at) = self.take() {
                sleep_until(at).await;
            }
        };
        // The line may be slower than expected only by the ticks of the timers.
        timeout(self.said.timeout + Duration::from_millis(10), turn).await.map_err(|_| self.refuse(self.waiting()))
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn refuse(&self, ahead: usize) -> Duration {
        self.refused.fetch_add(1, Relaxed);
        self.expected(ahead).max(Duration::from_secs(1))
    }

    /// Takes a token, or says when there will be one.
    fn take(&self) -> Result<(), Instant> {
        let mut bucket = self.bucket();
        if bucket.tokens >= ALMOST_ONE {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(bucket.at + Duration::from_secs_f64((1.0 - bucket.tokens) / f64::from(self.said.rate)))
    }

    /// How long one has to wait that has as many ahead of it.
    fn expected(&self, ahead: usize) -> Duration {
        let missing = (ahead as f64 + 1.0 - self.bucket().tokens).max(0.0);
        Duration::from_secs_f64(missing / f64::from(self.said.rate))
    }

    /// The bucket with what has flowed into it until now.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let flowed = now.saturating_duration_since(bucket.at).as_secs_f64() * f64::from(self.said.rate);
        bucket.tokens = (bucket.tokens + flowed).min(most(&self.said));
        bucket.at = now;
        bucket
    }
}

/// What the bucket holds.
fn most(said: &NewSessions) -> f64 {
    let burst = f64::from(said.burst.unwrap_or(said.rate)).max(1.0);
    burst.max(f64::from(said.rate) * TICK)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;
    use tokio::task::JoinSet;
    use tokio::time::advance;

    use super::*;

    fn admission(rate: u32, burst: u32, max_pending: usize, timeout: u64) -> Arc<Admission> {
        let said = NewSessions { rate, burst: Some(burst), max_pending, timeout: Duration::from_secs(timeout) };
        Admission::build(&said, None).unwrap()
    }

    /// Sends this many in at once; those that were let in, in order, with the time of each.
    async fn crowd(admission: &Arc<Admission>, count: usize) -> Vec<(usize, Duration)> {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let admission = admission.clone();
            tasks.spawn(async move { admission.enter().await.map(|()| (number, start.elapsed())) });
            tokio::task::yield_now().await;
        }
        let mut let_in = Vec::new();
        while let Some(task) = tasks.join_next().await {
            let_in.extend(task.unwrap().ok());
        }
        let_in
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_the_rest_comes_in_order_at_the_pace() {
        let admission = admission(10, 3, 100, 60);
        let let_in = crowd(&admission, 13).await;
        let order: Vec<usize> = let_in.iter().map(|(number, _)| *number).collect();
        assert_eq!(order, (0..13).collect::<Vec<_>>());
        assert!(let_in[2].1.is_zero());
        for (number, at) in &let_in[3..] {
            let due = Duration::from_millis(100 * (*number as u64 - 2));
            assert!((due..due + Duration::from_millis(3 * *number as u64)).contains(at), "{number} at {at:?}");
        }
        assert_eq!((admission.waiting(), admission.refused()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_the_line_full_is_refused_at_once() {
        let admission = admission(1, 1, 2, 60);
        assert_eq!(admission.enter().now_or_never(), Some(Ok(())));
        let line: Vec<_> = (0..2)
            .map(|_| {
                let admission = admission.clone();
                tokio::spawn(async move { admission.enter().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(admission.waiting(), 2);
        assert_eq!(admission.enter().now_or_never(), Some(Err(Duration::from_secs(3))));
        for waiting in line {
            assert_eq!(waiting.await.unwrap(), Ok(()));
        }
        assert_eq!((admission.waiting(), admission.refused()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_refused_at_once() {
        let admission = admission(2, 1, 1000, 3);
        let let_in = crowd(&admission, 50).await;
        assert_eq!(let_in.len(), 1 + 6, "those of the three seconds");
        assert_eq!(admission.refused(), 43);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_costs_nobody_a_turn() {
        let admission = admission(1, 1, 10, 60);
        assert_eq!(admission.enter().now_or_never(), Some(Ok(())));
        let start = Instant::now();
        let wait = || {
            let admission = admission.clone();
            tokio::spawn(async move { admission.enter().await.map(|()| start.elapsed().as_secs()) })
        };
        let (first, second, third) = (wait(), wait(), wait());
        tokio::task::yield_now().await;
        assert_eq!(admission.waiting(), 3);
        first.abort();
        second.abort();
        assert_eq!(third.await.unwrap(), Ok(1));
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_gather_up_to_a_burst() {
        let admission = admission(10, 5, 0, 0);
        for quiet in [0, 60] {
            advance(Duration::from_secs(quiet)).await;
            let passed = (0..20).filter(|_| admission.enter().now_or_never() == Some(Ok(()))).count();
            assert_eq!(passed, 5);
        }
        advance(Duration::from_millis(300)).await;
        let passed = (0..20).filter(|_| admission.enter().now_or_never() == Some(Ok(()))).count();
        assert_eq!(passed, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_high_rate_is_kept_though_timers_are_slow() {
        let admission = admission(20_000, 1, 100_000, 60);
        let let_in = crowd(&admission, 10_000).await;
        let took = let_in.iter().map(|(_, at)| *at).max().unwrap();
        assert!((Duration::from_millis(450)..Duration::from_millis(600)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_pace_begins_with_the_tokens_that_are_left() {
        let before = admission(10, 10, 5, 5);
        (0..10).for_each(|_| assert!(before.enter().now_or_never() == Some(Ok(()))));
        let same = Admission::build(&before.said, Some(&before)).unwrap();
        assert!(Arc::ptr_eq(&same, &before));
        let said = NewSessions { rate: 100, timeout: Duration::ZERO, ..before.said.clone() };
        let after = Admission::build(&said, Some(&before)).unwrap();
        assert!(after.enter().now_or_never().unwrap().is_err());
        advance(Duration::from_millis(10)).await;
        assert_eq!(after.enter().now_or_never(), Some(Ok(())));
        assert!(Admission::build(&NewSessions::default(), Some(&after)).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_second_sees_more_than_the_burst_and_the_rate(
            rate in 1u32..50,
            burst in 1u32..50,
            gaps in prop::collection::vec(0u64..200, 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let admission = admission(rate, burst, 0, 0);
                let mut passed = Vec::new();
                for gap in gaps {
                    advance(Duration::from_millis(gap)).await;
                    if admission.enter().now_or_never() == Some(Ok(())) {
                        passed.push(Instant::now());
                    }
                }
                for (index, first) in passed.iter().enumerate() {
                    let within = passed[index..].iter().filter(|at| at.duration_since(*first) < Duration::from_secs(1));
                    prop_assert!(within.count() <= (rate + burst) as usize);
                }
                Ok(())
            })?;
        }
    }
}
