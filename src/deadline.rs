//! Coarse deadlines: one clock that ticks four times a second, instead of a timer for each connection.
//!
//! To put a deadline off costs one store: it stays where it is filed in a timing wheel, and when that comes up its owner
//! is woken, looks, and files it anew. Whoever waits is not looked at meanwhile. A deadline fires up to half a second
//! late, which no timeout of a gateway minds; what has to be exact (the inspect delay) uses a timer of its own.

mod wheel;

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::{Instant, MissedTickBehavior};

use wheel::Wheel;

/// Time from one tick to the next.
const TICK: Duration = Duration::from_millis(250);
/// Wheels, so that threads seldom wait for each other when they file something.
const SHARDS: u32 = 16;
/// A tick that never comes.
const NEVER: u32 = u32::MAX;

/// The clock and every deadline of one gateway.
#[derive(Debug)]
pub struct Deadlines {
    start: Instant,
    /// Ticks since the start, as of the last one.
    now: AtomicU32,
    next_shard: AtomicU32,
    stopping: AtomicBool,
    shards: [Mutex<Wheel>; SHARDS as usize],
}

/// One deadline, off at first; dropped with its owner.
#[derive(Debug)]
pub struct Deadline {
    clock: Arc<Deadlines>,
    cell: Arc<Cell>,
}

/// A moment that several tasks look at.
#[derive(Debug)]
pub struct SharedMoment(AtomicU32);

/// A point on the coarse clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u32);

impl Moment {
    /// The moment by which this time has passed since this one.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(ticks(time)).saturating_add(1))
    }
}

impl SharedMoment {
    /// This one, until another is set.
    pub fn new(moment: Moment) -> Self {
        Self(AtomicU32::new(moment.0))
    }

    /// The last one that was set.
    pub fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    /// Sets another one.
    pub fn set(&self, moment: Moment) {
        self.0.store(moment.0, Ordering::Relaxed);
    }
}

/// A time on the coarse clock; zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(u32);

impl From<Duration> for Span {
    fn from(time: Duration) -> Self {
        Self(if time.is_zero() { 0 } else { ticks(time).max(1) })
    }
}

impl Span {
    /// The moment by which this time has passed since that one; `None` where there is no limit.
    pub fn after(self, moment: Moment) -> Option<Moment> {
        (self.0 > 0).then(|| Moment(moment.0.saturating_add(self.0).saturating_add(1)))
    }
}

#[derive(Debug)]
struct Cell {
    /// The tick at which it fires.
    due: AtomicU32,
    /// The tick at which it comes up in its wheel; written under the lock of that.
    filed: AtomicU32,
    /// Where it is in its wheel; read and written under the lock of that.
    place: AtomicU32,
    shard: u32,
    waker: AtomicWaker,
}

impl Deadlines {
    /// A clock that stands still until [`Self::run`] is polled.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            now: AtomicU32::new(0),
            next_shard: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            shards: std::array::from_fn(|_| Mutex::new(Wheel::new(0))),
        })
    }

    /// Ticks for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.tick(ticks(self.start.elapsed()));
        }
    }

    /// A new deadline, off.
    pub fn register(self: &Arc<Self>) -> Deadline {
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let cell = Arc::new(Cell {
            due: AtomicU32::new(NEVER),
            filed: AtomicU32::new(NEVER),
            place: AtomicU32::new(0),
            shard,
            waker: AtomicWaker::new(),
        });
        self.wheel(shard).add(Arc::clone(&cell));
        Deadline { clock: Arc::clone(self), cell }
    }

    /// Tells every owner of a deadline that the gateway is stopping.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for shard in 0..SHARDS {
            let cells: Vec<_> = self.wheel(shard).cells().cloned().collect();
            wake(cells);
        }
    }

    fn tick(&self, now: u32) {
        self.now.store(now, Ordering::Relaxed);
        for shard in 0..SHARDS {
            let mut up = Vec::new();
            self.wheel(shard).advance(now, &mut up);
            // Those that were put off meanwhile as well: only their owner can tell for sure, without a fence for each
            // store. It looks when it is polled.
            wake(up);
        }
    }

    fn wheel(&self, shard: u32) -> MutexGuard<'_, Wheel> {
        self.shards[shard as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the lock, since those who are woken may want it at once.
fn wake(cells: Vec<Arc<Cell>>) {
    for cell in cells {
        cell.waker.wake();
    }
}

impl Deadline {
    /// Another one on the same clock, off.
    pub fn another(&self) -> Self {
        self.clock.register()
    }

    /// Turns it off for whoever has it next: the task that polled it last is forgotten.
    pub fn retire(&self) {
        self.clear();
        self.cell.waker.take();
    }

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
        self.file(moment.0);
    }

    /// What the clock says.
    pub fn now(&self) -> Moment {
        Moment(self.clock.now.load(Ordering::Relaxed))
    }

    /// Turns it off.
    pub fn clear(&self) {
        self.cell.due.store(NEVER, Ordering::Relaxed);
    }

    /// Ready when it has fired; else the task is woken when it does.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        // First the waker, then the rest: what comes up in between wakes it, or has been seen.
        self.cell.waker.register(cx.waker());
        let due = self.cell.due.load(Ordering::Relaxed);
        if due <= self.now().0 {
            return Poll::Ready(());
        }
        self.file(due);
        Poll::Pending
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

    /// Sees to it that it comes up at this tick or before.
    fn file(&self, due: u32) {
        if self.cell.filed.load(Ordering::Relaxed) > due {
            self.file_anew(due);
        }
    }

    #[cold]
    fn file_anew(&self, due: u32) {
        self.clock.wheel(self.cell.shard).file(&self.cell, due);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clock.wheel(self.cell.shard).remove(&self.cell);
    }
}

/// Ticks in a time of so many milliseconds, rounded up.
fn ticks(time: Duration) -> u32 {
    const A_SECOND: u64 = 1000 / TICK.as_millis() as u64;
    let rest = u64::from(time.subsec_millis()).div_ceil(TICK.as_millis() as u64);
    u32::try_from(time.as_secs().saturating_mul(A_SECOND).saturating_add(rest)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::task::{ArcWake, waker};
    use proptest::prelude::*;

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
            let dropped = clock.register();
            dropped.set(Duration::from_secs(60));
        }
        let sizes: Vec<_> = clock.shards.iter().map(|wheel| wheel.lock().unwrap().size()).collect();
        assert_eq!(sizes.iter().map(|&(length, _)| length).sum::<usize>(), 1);
        assert!(sizes.iter().all(|&(_, capacity)| capacity <= 4), "the lists themselves included");
        drop(kept);
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A deadline in the hands of somebody who polls it when woken, as a task does.
    struct Owner {
        deadline: Deadline,
        woken: Arc<Woken>,
        seen: usize,
        fired: bool,
    }

    impl Owner {
        fn new(clock: &Arc<Deadlines>) -> Self {
            Self { deadline: clock.register(), woken: Arc::default(), seen: 0, fired: false }
        }

        fn set(&mut self, after: u32) {
            self.deadline.set(TICK * after);
            self.poll();
        }

        fn poll(&mut self) {
            let waker = waker(Arc::clone(&self.woken));
            self.fired = self.deadline.poll_expired(&mut Context::from_waker(&waker)).is_ready();
        }

        /// Polls if it was woken, and says whether it was.
        fn run(&mut self) -> bool {
            let woken = self.woken.0.load(Ordering::Relaxed);
            let was_woken = woken != std::mem::replace(&mut self.seen, woken);
            if was_woken {
                self.poll();
            }
            was_woken
        }
    }

    fn looks(clock: &Deadlines) -> usize {
        clock.shards.iter().map(|wheel| wheel.lock().unwrap().looks).sum()
    }

    #[test]
    fn what_is_idle_is_not_looked_at() {
        let clock = Deadlines::new();
        let mut idle: Vec<_> = (0..10_000).map(|_| Owner::new(&clock)).collect();
        for (at, owner) in idle.iter_mut().enumerate() {
            // A third has none, the others an hour or a day.
            owner.set([0, 4 * 3600, 4 * 86_400][at % 3]);
        }
        for tick in 1..4 * 3600 {
            clock.tick(tick);
        }
        assert!(looks(&clock) <= 2 * 10_000, "{} looks in an hour", looks(&clock));
        assert!(!idle.iter_mut().any(Owner::run), "nor is it woken");
    }

    #[test]
    fn what_is_put_off_all_the_time_is_looked_at_once_in_its_time() {
        let clock = Deadlines::new();
        let mut busy = Owner::new(&clock);
        let mut woken = 0;
        for tick in 1..=4000 {
            busy.set(40);
            clock.tick(tick);
            woken += usize::from(busy.run());
            assert!(!busy.fired);
        }
        assert!((90..=100).contains(&woken), "{woken} times");
        busy.set(2);
        (4001..=4010).for_each(|tick| clock.tick(tick));
        assert!(busy.run() && busy.fired, "and brought forward it is not missed");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add,
        Drop(usize),
        Set(usize, u32),
        Clear(usize),
        Wait(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let far = prop_oneof![0..8u32, 0..300u32, 0..100_000u32, any::<u32>()];
        let wait = prop_oneof![4 => 1..4u32, 2 => 1..200u32, 1 => 1..5000u32];
        prop_oneof![
            2 => Just(Step::Add),
            1 => any::<usize>().prop_map(Step::Drop),
            4 => (any::<usize>(), far).prop_map(|(who, after)| Step::Set(who, after)),
            1 => any::<usize>().prop_map(Step::Clear),
            4 => wait.prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The model is a tick for each owner, at which it has to fire and before which it must not.
        #[test]
        fn every_owner_is_woken_at_its_tick(steps in proptest::collection::vec(step(), 0..120)) {
            let clock = Deadlines::new();
            let (mut owners, mut now) = (Vec::<(Owner, Option<u32>)>::new(), 0);
            for step in steps {
                let count = owners.len().max(1);
                match step {
                    Step::Add => owners.push((Owner::new(&clock), None)),
                    Step::Drop(who) if !owners.is_empty() => drop(owners.swap_remove(who % count)),
                    Step::Set(who, after) => if let Some((owner, due)) = owners.get_mut(who % count) {
                        owner.set(after);
                        *due = (after > 0).then(|| Moment(now).after(TICK * after).0);
                    },
                    Step::Clear(who) => if let Some((owner, due)) = owners.get_mut(who % count) {
                        owner.deadline.clear();
                        (owner.fired, *due) = (false, None);
                    },
                    Step::Wait(ticks) => {
                        // A process that was stopped for long makes up for it in one go.
                        let at_once = if ticks < 100 { 1 } else { ticks };
                        for _ in 0..ticks / at_once {
                            now += at_once;
                            clock.tick(now);
                            for (owner, due) in &mut owners {
                                owner.run();
                                prop_assert_eq!(owner.fired, due.is_some_and(|due| due <= now));
                            }
                        }
                    }
                    Step::Drop(_) => {}
                }
            }
        }
    }
}
