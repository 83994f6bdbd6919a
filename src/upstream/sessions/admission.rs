//! How fast new sessions may come: a bucket of tokens, and a line before it in which each client address has its turn.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::upstream::config::NewSessions;

/// Lets new sessions in at the pace of the configuration: those of one address in order of arrival, and addresses in turn, so
/// that nobody waits behind all that another one sends.
pub(crate) struct Admission {
    said: NewSessions,
    bucket: Mutex<Bucket>,
    line: Mutex<Line>,
    refused: AtomicU64,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

/// Who waits for the next token, and those behind.
#[derive(Default)]
struct Line {
    /// Somebody is at the head of it.
    headed: bool,
    waiting: usize,
    by_address: HashMap<IpAddr, Waiting>,
    /// Addresses with somebody behind the head, in the order of their turns.
    turns: VecDeque<IpAddr>,
}

/// Those of one address.
#[derive(Default)]
struct Waiting {
    count: usize,
    /// Those of them who are not at the head; some may have gone.
    behind: VecDeque<oneshot::Sender<()>>,
}

/// A place in the line; dropping it leaves.
struct Place<'a> {
    admission: &'a Admission,
    address: IpAddr,
    /// Tells that its turn has come; `None` once it has.
    turn: Option<oneshot::Receiver<()>>,
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
            line: Mutex::default(),
            refused: before.map_or(0, |before| before.refused()).into(),
        }))
    }

    /// Waits for its turn. An error says after how long there might be room.
    pub(crate) async fn enter(&self, address: IpAddr) -> Result<(), Duration> {
        if self.waiting() == 0 && self.take().is_ok() {
            return Ok(());
        }
        let mut place = self.join(address)?;
        let turn = async {
            if let Some(turn) = &mut place.turn {
                // Whoever leaves the head names the next one.
                let _ = turn.await;
            }
            place.turn = None;
            while let Err(at) = self.take() {
                sleep_until(at).await;
            }
        };
        // The line may be slower than expected only by the ticks of the timers.
        let entered = timeout(self.said.timeout + Duration::from_millis(10), turn).await;
        let ahead = self.line().ahead(address);
        drop(place);
        entered.map_err(|_| self.refuse(ahead))
    }

    pub(crate) fn waiting(&self) -> usize {
        self.line().waiting
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Takes a place in the line. An address may have no more of them than are left for others.
    fn join(&self, address: IpAddr) -> Result<Place<'_>, Duration> {
        let mut line = self.line();
        let ahead = line.ahead(address);
        let free = self.said.max_pending.saturating_sub(line.waiting);
        let own = line.by_address.get(&address).map_or(0, |waiting| waiting.count);
        if free == 0 || own > free || self.expected(ahead) > self.said.timeout {
            drop(line);
            return Err(self.refuse(ahead));
        }
        line.waiting += 1;
        let Line { headed, by_address, turns, .. } = &mut *line;
        let waiting = by_address.entry(address).or_default();
        waiting.count += 1;
        let turn = std::mem::replace(headed, true).then(|| {
            let (tell, turn) = oneshot::channel();
            if waiting.behind.is_empty() {
                turns.push_back(address);
            }
            waiting.behind.push_back(tell);
            turn
        });
        drop(line);
        Ok(Place { admission: self, address, turn })
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

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Those who have their turn before one of this address who comes now.
    fn ahead(&self, address: IpAddr) -> usize {
        let own = self.by_address.get(&address).map_or(0, |waiting| waiting.count);
        let others = self.by_address.iter().filter(|(other, _)| **other != address);
        own + others.map(|(_, waiting)| waiting.count.min(own + 1)).sum::<usize>()
    }

    /// Hands the head of the line to the next one, an address after the other.
    fn hand_on(&mut self) {
        while let Some(address) = self.turns.pop_front() {
            let Some(waiting) = self.by_address.get_mut(&address) else { continue };
            let next = waiting.behind.pop_front();
            if !waiting.behind.is_empty() {
                self.turns.push_back(address);
            }
            if next.is_some_and(|next| next.send(()).is_ok()) {
                return;
            }
        }
        self.headed = false;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = self.admission.line();
        line.waiting -= 1;
        if let Some(waiting) = line.by_address.get_mut(&self.address) {
            waiting.count -= 1;
            if waiting.count == 0 {
                // Nobody is left of those behind.
                line.by_address.remove(&self.address);
            }
        }
        // It was at the head, or was told so a moment ago.
        let headed = match &mut self.turn {
            None => true,
            Some(turn) => {
                turn.close();
                turn.try_recv().is_ok()
            }
        };
        if headed {
            line.hand_on();
        }
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

    /// The client that it does not matter which one it is.
    const ANYBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// The address with this number.
    fn address(number: usize) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0xc000_0200 + number as u32).into()
    }

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
            tasks.spawn(async move { admission.enter(address(number)).await.map(|()| (number, start.elapsed())) });
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
        assert_eq!(admission.enter(ANYBODY).now_or_never(), Some(Ok(())));
        let line: Vec<_> = (0..2)
            .map(|number| {
                let admission = admission.clone();
                tokio::spawn(async move { admission.enter(address(number)).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(admission.waiting(), 2);
        assert_eq!(admission.enter(ANYBODY).now_or_never(), Some(Err(Duration::from_secs(3))));
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
        assert_eq!(admission.enter(ANYBODY).now_or_never(), Some(Ok(())));
        let start = Instant::now();
        let wait = || {
            let admission = admission.clone();
            tokio::spawn(async move { admission.enter(ANYBODY).await.map(|()| start.elapsed().as_secs()) })
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
    async fn one_address_does_not_fill_the_line_and_others_do_not_wait_behind_all_of_it() {
        let admission = admission(10, 1, 100, 60);
        assert_eq!(admission.enter(ANYBODY).now_or_never(), Some(Ok(())));
        let start = Instant::now();
        let wait = |address: IpAddr| {
            let admission = admission.clone();
            tokio::spawn(async move { admission.enter(address).await.map(|()| start.elapsed()) })
        };
        let crowd: Vec<_> = (0..1000).map(|_| wait(ANYBODY)).collect();
        tokio::task::yield_now().await;
        assert!((50..=51).contains(&admission.waiting()), "{}", admission.waiting());
        let (one, other) = (wait(address(1)), wait(address(2)));
        let (one, other) = (one.await.unwrap().unwrap(), other.await.unwrap().unwrap());
        assert!(one.max(other) < Duration::from_millis(500), "{one:?} {other:?}");
        let mut let_in = 0;
        for waiting in crowd {
            let_in += usize::from(waiting.await.unwrap().is_ok());
        }
        assert!((50..=51).contains(&let_in), "{let_in}");
        assert_eq!(admission.waiting(), 0);
        assert!(admission.line().by_address.is_empty() && admission.line().turns.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_gather_up_to_a_burst() {
        let admission = admission(10, 5, 0, 0);
        for quiet in [0, 60] {
            advance(Duration::from_secs(quiet)).await;
            let passed = (0..20).filter(|_| admission.enter(ANYBODY).now_or_never() == Some(Ok(()))).count();
            assert_eq!(passed, 5);
        }
        advance(Duration::from_millis(300)).await;
        let passed = (0..20).filter(|_| admission.enter(ANYBODY).now_or_never() == Some(Ok(()))).count();
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
        (0..10).for_each(|_| assert!(before.enter(ANYBODY).now_or_never() == Some(Ok(()))));
        let same = Admission::build(&before.said, Some(&before)).unwrap();
        assert!(Arc::ptr_eq(&same, &before));
        let said = NewSessions { rate: 100, timeout: Duration::ZERO, ..before.said.clone() };
        let after = Admission::build(&said, Some(&before)).unwrap();
        assert!(after.enter(ANYBODY).now_or_never().unwrap().is_err());
        advance(Duration::from_millis(10)).await;
        assert_eq!(after.enter(ANYBODY).now_or_never(), Some(Ok(())));
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
                    if admission.enter(ANYBODY).now_or_never() == Some(Ok(())) {
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
