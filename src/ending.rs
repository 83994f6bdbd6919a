//! The end of a gateway: what the operator says of it, how far it has come, and the goodbyes that are spread over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::roster::Roster;

/// Says, from some moment on, that the gateway stops.
pub type Stopping = watch::Receiver<bool>;

/// `drain`: what happens from SIGTERM to the end.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long connections are still accepted while `/readyz` already says 503. Default 0 s.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// The time over which sessions and tunnels are told goodbye, one after the other, from the end of `delay`. Default:
    /// two thirds of what is left until `deadline`, 20 s.
    #[serde(with = "humantime_serde")]
    pub over: Option<Duration>,
    /// The share by which each pause between two goodbyes is varied at random, 0 to 1. Default 0.3.
    pub jitter: f64,
    /// The end: what is still open then is cut. The gateway leaves as soon as the last one is gone. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// The status code of the Close frame with which the gateway lets go of a WebSocket, on any occasion. Default 1012,
    /// Service Restart (IANA, WebSocket Close Code Number Registry).
    pub close_code: u16,
}

impl Default for Config {
    fn default() -> Self {
        let deadline = Duration::from_secs(30);
        Self { delay: Duration::ZERO, over: None, jitter: 0.3, deadline, close_code: 1012 }
    }
}

impl Config {
    /// The time from the end of `delay` over which goodbyes are spread; it ends at the deadline at the latest.
    pub fn window(&self) -> Duration {
        let left = self.deadline.saturating_sub(self.delay);
        // The last third is for those who take their time to leave, and for requests that take theirs.
        self.over.map_or(left * 2 / 3, |over| over.min(left))
    }
}

/// How far the end has come. Each step is taken once, and in this order.
#[derive(Debug, Default)]
pub struct Ending {
    /// The same as the channel beside it says, for those who ask once for each request.
    is_leaving: AtomicBool,
    leaving: watch::Sender<bool>,
    handed_over: watch::Sender<bool>,
    told: watch::Sender<bool>,
    cut: AtomicBool,
}

/// How long those may still take who are about to speak when the gateway lets go: what they sent may be on its way.
pub const LAST_CALL: Duration = Duration::from_secs(2);
/// Time from one look at the lists to the next. The pauses between goodbyes are this exact.
const TICK: Duration = Duration::from_millis(10);
/// Time from one count of those who are left to the next.
const COUNT: Duration = Duration::from_millis(250);

impl Ending {
    /// Another process has the listening sockets, the admin address among them, and takes what comes from now on.
    pub fn hand_over(&self) {
        self.handed_over.send_replace(true);
        self.leave();
    }

    /// Whether that has come.
    pub fn is_handed_over(&self) -> bool {
        self.is_leaving() && *self.handed_over.borrow()
    }

    /// Becomes true when that comes.
    pub fn handed_over(&self) -> watch::Receiver<bool> {
        self.handed_over.subscribe()
    }

    /// Nothing new is accepted from now on.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
        self.leaving.send_replace(true);
    }

    /// Whether that has come.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Becomes true when that comes.
    pub fn leaving(&self) -> watch::Receiver<bool> {
        self.leaving.subscribe()
    }

    /// Every session has been told goodbye: connections that were kept for their sake end, too.
    pub fn all_told(&self) {
        self.told.send_replace(true);
    }

    /// Becomes true when that comes.
    pub fn told(&self) -> watch::Receiver<bool> {
        self.told.subscribe()
    }

    /// Waits until sessions have been told goodbye, or can go on with another process.
    pub async fn nothing_to_stay_for(&self) {
        let (mut told, mut handed_over) = (self.told(), self.handed_over());
        tokio::select! {
            _ = told.wait_for(|&told| told) => {}
            _ = handed_over.wait_for(|&over| over) => {}
        }
    }

    /// The deadline: whatever ends from now on was cut.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    /// Whether that has come.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

/// Tells everybody on the lists, spread over a time, and those who come meanwhile with them; then, for the
/// [`LAST_CALL`], whoever still comes at once. It ends early when nobody has been on any list for that long. `told`
/// counts them on the way.
///
/// How many are left is counted again and again, and the pace is what their number and the time that is left make it:
/// a session that polls is on no list between two polls, and what has gone by itself takes no turn.
pub async fn spread(rosters: impl Fn() -> Vec<Arc<Roster>>, over: Duration, jitter: f64, told: &AtomicUsize) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Instant::now() + over;
    let mut left = Left::default();
    let (mut counted, mut seen, mut last) = (None, Instant::now(), Instant::now());
    // The share of a goodbye that is due, and at what share the next one is said. The first is anywhere in its pause, so
    // that gateways that stop together do not speak together.
    let (mut due, mut next) = (0.0, rand::rng().random_range(0.0..1.0));
    loop {
        let now = ticks.tick().await;
        if counted.is_none_or(|at: Instant| now - at >= COUNT) {
            left = Left::count(rosters());
            counted = Some(now);
        }
        if left.total > 0 {
            seen = now;
        } else if now - seen >= LAST_CALL {
            return;
        }
        if now >= end {
            break;
        }
        // After a standstill of the machine, the rest is spread over the time that is left.
        let passed = (now - last).min(10 * TICK).as_secs_f64();
        due += left.total as f64 * passed / (end - now).as_secs_f64().max(passed);
        last = now;
        while due >= next && left.tell_one() {
            told.fetch_add(1, Ordering::Relaxed);
            due -= next;
            next = 1.0 + rand::rng().random_range(-1.0..=1.0) * jitter.clamp(0.0, 1.0);
        }
    }
    while Instant::now() < end + LAST_CALL {
        told.fetch_add(rosters().iter().map(|roster| roster.tell_all()).sum(), Ordering::Relaxed);
        ticks.tick().await;
    }
}

/// Those who are left, by their lists, as of the last count.
#[derive(Default)]
struct Left {
    rosters: Vec<(Arc<Roster>, usize)>,
    total: usize,
}

impl Left {
    fn count(rosters: Vec<Arc<Roster>>) -> Self {
        let rosters: Vec<_> = rosters.into_iter().map(|roster| (roster.len(), roster)).map(|(n, r)| (r, n)).collect();
        let total = rosters.iter().map(|(_, left)| left).sum();
        Self { rosters, total }
    }

    /// Tells one of them; each list has its turn as often as it is long.
    fn tell_one(&mut self) -> bool {
        while self.total > 0 {
            let mut chosen = rand::rng().random_range(0..self.total);
            let holds = |(_, left): &&mut (Arc<Roster>, usize)| {
                let here = chosen < *left;
                chosen -= if here { 0 } else { *left };
                here
            };
            let Some((roster, left)) = self.rosters.iter_mut().find(holds) else { return false };
            if roster.tell_one() {
                *left -= 1;
                self.total -= 1;
                return true;
            }
            // The others of this list have gone by themselves.
            self.total -= *left;
            *left = 0;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::{Leave, Origin};

    const SECOND: Duration = Duration::from_secs(1);

    /// When each of them is told, in the order of telling.
    fn times(open: &[Arc<Leave>]) -> tokio::task::JoinHandle<Vec<Duration>> {
        let started = Instant::now();
        let waiting: Vec<_> = open.to_vec();
        tokio::spawn(async move {
            let told = waiting.into_iter().map(async |leave| {
                leave.told().await;
                started.elapsed()
            });
            let mut told = futures::future::join_all(told).await;
            told.sort_unstable();
            told
        })
    }

    #[tokio::test(start_paused = true)]
    async fn goodbyes_are_spread_evenly_over_the_time_whatever_list_they_are_on() {
        let rosters = [Arc::new(Roster::default()), Arc::new(Roster::default())];
        let open: Vec<_> =
            (0..1000).map(|at| rosters[usize::from(at % 10 == 0)].add(Origin::default(), true)).collect();
        let times = times(&open);
        let told = AtomicUsize::new(0);
        spread(|| rosters.to_vec(), 10 * SECOND, 0.3, &told).await;
        let times = times.await.unwrap();
        assert_eq!(told.into_inner(), 1000);
        for second in 0..10 {
            let within = times.iter().filter(|time| time.as_secs() == second).count();
            assert!((90..=110).contains(&within), "{within} in second {second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_spread_too_and_gateways_do_not_speak_together() {
        let mut firsts = Vec::new();
        for _ in 0..20 {
            let roster = Arc::new(Roster::default());
            let open: Vec<_> = (0..3).map(|_| roster.add(Origin::default(), true)).collect();
            let times = times(&open);
            spread(|| vec![Arc::clone(&roster)], 9 * SECOND, 0.3, &AtomicUsize::new(0)).await;
            let times = times.await.unwrap();
            assert!(times[0] < 4 * SECOND && times[2] > 4 * SECOND && times[2] <= 9 * SECOND + TICK, "{times:?}");
            firsts.push(times[0]);
        }
        firsts.sort_unstable();
        assert!(firsts[19] - firsts[0] > SECOND, "{firsts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_meanwhile_has_a_turn_and_who_comes_late_goes_at_once() {
        let roster = Arc::new(Roster::default());
        let mut open: Vec<_> = (0..50).map(|_| roster.add(Origin::default(), true)).collect();
        let spreading = tokio::spawn({
            let roster = Arc::clone(&roster);
            async move { spread(|| vec![Arc::clone(&roster)], 10 * SECOND, 0.3, &AtomicUsize::new(0)).await }
        });
        tokio::time::sleep(5 * SECOND).await;
        let told = open.iter().filter(|leave| leave.is_told()).count();
        assert!((20..=30).contains(&told), "{told} of 50 at half time");
        open.extend((0..100).map(|_| roster.add(Origin::default(), true)));
        tokio::time::sleep(2 * SECOND).await;
        let told = open.iter().filter(|leave| leave.is_told()).count();
        assert!((60..=90).contains(&told), "{told} of 150, two fifths of the rest later");
        tokio::time::sleep(3 * SECOND + 2 * TICK).await;
        assert!(open.iter().all(|leave| leave.is_told()));
        let late = roster.add(Origin::default(), true);
        tokio::time::timeout(2 * TICK, late.told()).await.unwrap();
        spreading.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_is_left() {
        let roster = Arc::new(Roster::default());
        let open: Vec<_> = (0..50).map(|_| roster.add(Origin::default(), true)).collect();
        let started = Instant::now();
        let spreading = tokio::spawn(async move {
            spread(|| vec![Arc::clone(&roster)], 60 * SECOND, 0.3, &AtomicUsize::new(0)).await;
        });
        tokio::time::sleep(SECOND).await;
        drop(open);
        spreading.await.unwrap();
        assert!(started.elapsed() < 4 * SECOND, "{:?}", started.elapsed());
    }
}
