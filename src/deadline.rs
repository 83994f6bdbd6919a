//! Coarse deadlines: one sweep over all of them four times a second, instead of a timer for each connection.
//!
//! A deadline costs one store to move and nothing while it waits. It fires up to half a second late, which no timeout
//! of a gateway minds; what has to be exact (the inspect delay) uses a timer of its own.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::{Instant, MissedTickBehavior};

/// Time from one sweep to the next.
const TICK: Duration = Duration::from_millis(250);
/// Lists of deadlines, so that threads seldom wait for each other when they add one.
const SHARDS: usize = 16;

/// The clock and the list of every deadline of one gateway.
#[derive(Debug)]
pub struct Deadlines {
    start: Instant,
    /// Ticks since the start, as of the last sweep.
    now: AtomicU32,
    next_shard: AtomicU32,
    stopping: AtomicBool,
    shards: [Mutex<Vec<Weak<Cell>>>; SHARDS],
}

/// One deadline, off at first; dropped with its owner.
#[derive(Debug)]
pub struct Deadline {
    clock: Arc<Deadlines>,
    cell: Arc<Cell>,
}

/// A point on the coarse clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u32);

impl Moment {
    /// The moment by which this time has passed since this one.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(ticks(time)).saturating_add(1))
    }
}

#[derive(Debug, Default)]
struct Cell {
    /// The tick at which it fires; 0 is never.
    due: AtomicU32,
    waker: AtomicWaker,
}

impl Deadlines {
    /// A clock that stands still until [`Self::run`] is polled.
    pub fn new() -> Arc<Self> {
        let shards = std::array::from_fn(|_| Mutex::default());
        Arc::new(Self {
            start: Instant::now(),
            now: AtomicU32::new(1),
            next_shard: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            shards,
        })
    }

    /// Sweeps for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep();
        }
    }

    /// A new deadline, off.
    pub fn register(self: &Arc<Self>) -> Deadline {
        let cell = Arc::new(Cell::default());
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&cell));
        Deadline { clock: Arc::clone(self), cell }
    }

    /// Tells every owner of a deadline that the gateway is stopping.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for shard in &self.shards {
            for cell in shard.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
                cell.waker.wake();
            }
        }
    }

    fn sweep(&self) {
        let now = ticks(self.start.elapsed()) + 1;
        self.now.store(now, Ordering::Relaxed);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|cell| {
                let Some(cell) = cell.upgrade() else { return false };
                if cell.is_due(now) {
                    cell.waker.wake();
                }
                true
            });
            if shard.len() * 4 < shard.capacity() {
                let length = shard.len();
                shard.shrink_to(length * 2);
            }
        }
    }
}

impl Deadline {
    /// Fires when `after` has passed from now; zero turns it off.
    pub fn set(&self, after: Duration) {
        match after {
            Duration::ZERO => self.clear(),
            after => self.set_at(self.now().after(after)),
        }
    }

    /// Fires at that moment.
    pub fn set_at(&self, moment: Moment) {
        self.cell.due.store(moment.0, Ordering::Relaxed);
    }

    /// What the clock says.
    pub fn now(&self) -> Moment {
        Moment(self.clock.now.load(Ordering::Relaxed))
    }

    /// Turns it off.
    pub fn clear(&self) {
        self.cell.due.store(0, Ordering::Relaxed);
    }

    /// Ready when it has fired; else the task is woken when it does.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.cell.waker.register(cx.waker());
        if self.cell.is_due(self.now().0) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the gateway is stopping; if not, the task that polled [`Self::poll_expired`] last is woken when it does.
    pub fn is_stopping(&self) -> bool {
        self.clock.stopping.load(Ordering::Acquire)
    }

    /// Ready once the gateway is stopping; else the task is woken when it does.
    pub fn poll_stopping(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.cell.waker.register(cx.waker());
        if self.is_stopping() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until the gateway is stopping.
    pub async fn stopping(&self) {
        poll_fn(|cx| self.poll_stopping(cx)).await;
    }

    /// Waits until it fires.
    pub async fn expired(&self) {
        poll_fn(|cx| self.poll_expired(cx)).await;
    }
}

impl Cell {
    fn is_due(&self, now: u32) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due != 0 && due <= now
    }
}

/// Ticks in a time, rounded up.
fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_fires_once_its_time_has_passed() {
        let clock = Deadlines::new();
        tokio::spawn(Arc::clone(&clock).run());
        let deadline = clock.register();
        let start = Instant::now();
        deadline.set(Duration::from_secs(3));
        deadline.expired().await;
        let took = start.elapsed();
        assert!((Duration::from_secs(3)..=Duration::from_millis(3600)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn moving_it_puts_it_off_and_clearing_it_turns_it_off() {
        let clock = Deadlines::new();
        tokio::spawn(Arc::clone(&clock).run());
        let deadline = clock.register();
        deadline.set(Duration::from_secs(1));
        for _ in 0..10 {
            assert!(tokio::time::timeout(Duration::from_millis(700), deadline.expired()).await.is_err());
            deadline.set(Duration::from_secs(1));
        }
        deadline.clear();
        assert!(tokio::time::timeout(Duration::from_secs(100), deadline.expired()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_deadlines_leave_nothing_behind() {
        let clock = Deadlines::new();
        let kept = clock.register();
        for _ in 0..1000 {
            drop(clock.register());
        }
        clock.sweep();
        let shards = || clock.shards.iter().map(|shard| shard.lock().unwrap());
        assert_eq!(shards().map(|shard| shard.len()).sum::<usize>(), 1);
        assert!(shards().all(|shard| shard.capacity() <= 4), "the lists themselves included");
        drop(kept);
    }
}
