//! What the memories of this floor are made of: parts with a lock each, a clock of whole seconds, a hasher for hashes.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// Time from one sweep to the next.
const TICK: Duration = Duration::from_millis(250);
/// What [`Clock::now`] may lag behind, in seconds: one for rounding, one for the tick.
pub(super) const LAG: u32 = 2;

/// One part, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Shard<T>(Mutex<T>);

impl<T: Default> Shard<T> {
    pub(super) fn several(count: usize) -> Box<[Self]> {
        (0..count).map(|_| Self::default()).collect()
    }

    /// The part, if nobody is in it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(part) => Some(part),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole seconds since it was made, as of the last sweep: it costs one load to read.
pub(super) struct Clock {
    start: Instant,
    now: AtomicU32,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), now: AtomicU32::new(0) }
    }

    #[cfg(test)]
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Milliseconds since it was made, exactly: the clock of the system is read for it.
    pub(super) fn milliseconds(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Moves it on, never back, and returns what it shows.
    pub(super) fn advance(&self, now: Instant) -> u32 {
        let now = u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX);
        self.now.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// Has a memory swept four times a second for as long as somebody else has it.
pub(super) async fn sweeping<T>(memory: Weak<T>, sweep: fn(&T, Instant)) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(memory): Option<Arc<T>> = memory.upgrade() else { return };
        sweep(&memory, Instant::now());
    }
}

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is one number to its hasher")
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
