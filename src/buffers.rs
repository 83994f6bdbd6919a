//! Bytes that wait in this process until somebody slow takes them: how many there are in all, and who has to go when they
//! are too many, which is whoever has held most of them for longest and taken nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use prometheus::{IntCounter, IntGauge};
use tokio::time::Instant;

/// All bytes that wait.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// How many may; 0 is no limit.
    most: AtomicUsize,
    began: Instant,
    total: IntGauge,
    cut: IntCounter,
    next_shard: AtomicUsize,
    shards: [Mutex<Vec<Arc<Holder>>>; SHARDS],
}

/// What one connection, or one exchange, makes wait; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    buffers: Arc<Buffers>,
    bytes: usize,
    /// Its place among those who may have to go, while there is anything.
    holder: Option<Arc<Holder>>,
}

#[derive(Debug)]
struct Holder {
    bytes: AtomicUsize,
    /// When something was taken of them, or they began to wait: in milliseconds, which come round after 49 days.
    since: AtomicU32,
    shard: usize,
    /// Where it stands in its shard; read and written under the lock of that.
    place: AtomicUsize,
    has_to_go: AtomicBool,
    waker: AtomicWaker,
}

/// Lists of holders, so that threads seldom wait for each other.
const SHARDS: usize = 16;

impl Buffers {
    /// Nothing waits yet; counted by these two.
    pub(crate) fn new(total: IntGauge, cut: IntCounter) -> Arc<Self> {
        let shards = std::array::from_fn(|_| Mutex::default());
        let (most, began) = (AtomicUsize::new(0), Instant::now());
        Arc::new(Self { most, began, total, cut, next_shard: AtomicUsize::new(0), shards })
    }

    /// No more than this may wait from now on; 0 is no limit.
    pub(crate) fn bound(&self, most: u64) {
        self.most.store(usize::try_from(most).unwrap_or(usize::MAX), Relaxed);
    }

    /// Somebody for whom nothing waits yet.
    pub(crate) fn nothing(self: &Arc<Self>) -> Held {
        Held { buffers: Arc::clone(self), bytes: 0, holder: None }
    }

    /// Whether there are too many.
    fn is_full(&self) -> bool {
        let most = self.most.load(Relaxed);
        most != 0 && usize::try_from(self.total.get()).unwrap_or(0) > most
    }

    /// Milliseconds since it was made.
    #[expect(clippy::cast_possible_truncation, reason = "they come round")]
    fn now(&self) -> u32 {
        self.began.elapsed().as_millis() as u32
    }

    /// Tells those whose bytes, times how long they have taken none of them, are most that they have to go, until enough
    /// of them do for an eighth to be free. Who reads fast holds as much as who has stopped, but never for long.
    #[cold]
    fn make_room(&self) {
        let (most, now) = (self.most.load(Relaxed), self.now());
        let mut total = 0;
        let mut all = Vec::new();
        for shard in 0..SHARDS {
            for holder in self.shard(shard).iter().filter(|holder| !holder.has_to_go.load(Relaxed)) {
                let bytes = holder.bytes.load(Relaxed);
                total += bytes;
                let waited = u64::from(now.wrapping_sub(holder.since.load(Relaxed)));
                all.push(((waited + 1).saturating_mul(bytes as u64), bytes, Arc::clone(holder)));
            }
        }
        // Those who have been told are on their way.
        if total <= most {
            return;
        }
        all.sort_unstable_by_key(|&(burden, ..)| std::cmp::Reverse(burden));
        let mut told = 0_u32;
        for (_, bytes, holder) in all {
            if total <= most - most / 8 {
                break;
            }
            total -= bytes;
            told += 1;
            self.cut.inc();
            holder.has_to_go.store(true, Relaxed);
            holder.waker.wake();
        }
        log::warn!("limits.buffers: more than {most} bytes wait for slow clients: {told} that take none are cut");
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Vec<Arc<Holder>>> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, bytes: usize) -> Arc<Holder> {
        let shard = self.next_shard.fetch_add(1, Relaxed) % SHARDS;
        let mut holders = self.shard(shard);
        let holder = Arc::new(Holder {
            bytes: AtomicUsize::new(bytes),
            since: AtomicU32::new(self.now()),
            shard,
            place: AtomicUsize::new(holders.len()),
            has_to_go: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        holders.push(Arc::clone(&holder));
        holder
    }

    fn leave(&self, holder: &Holder) {
        let mut holders = self.shard(holder.shard);
        let place = holder.place.load(Relaxed);
        holders.swap_remove(place);
        if let Some(moved) = holders.get(place) {
            moved.place.store(place, Relaxed);
        }
        if holders.is_empty() {
            *holders = Vec::new();
        }
    }
}

impl Held {
    /// Somebody else for whom nothing waits yet.
    pub(crate) fn another(&self) -> Self {
        self.buffers.nothing()
    }

    /// So many bytes wait now.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.change(bytes);
        }
    }

    /// Some of them have just been taken.
    pub(crate) fn taken(&self) {
        if let Some(holder) = &self.holder {
            holder.since.store(self.buffers.now(), Relaxed);
        }
    }

    fn change(&mut self, bytes: usize) {
        let Self { buffers, bytes: before, holder } = self;
        let grows = bytes > *before;
        let signed = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        buffers.total.add(signed(bytes) - signed(*before));
        *before = bytes;
        match holder {
            Some(holder) => holder.bytes.store(bytes, Relaxed),
            None if bytes > 0 => *holder = Some(buffers.enter(bytes)),
            None => {}
        }
        if bytes == 0
            && let Some(holder) = holder.take()
        {
            buffers.leave(&holder);
        }
        if grows && buffers.is_full() {
            buffers.make_room();
        }
    }

    /// Ready when it has to go; else the task is woken when it has to.
    pub(crate) fn poll_has_to_go(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(holder) = &self.holder else { return Poll::Pending };
        holder.waker.register(cx.waker());
        if holder.has_to_go.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::task::noop_waker_ref;
    use tokio::time::advance;

    use super::*;

    fn buffers(most: u64) -> Arc<Buffers> {
        let buffers = Buffers::new(IntGauge::new("a", "b").unwrap(), IntCounter::new("c", "d").unwrap());
        buffers.bound(most);
        buffers
    }

    fn holding(buffers: &Arc<Buffers>, bytes: usize) -> Held {
        let mut held = buffers.nothing();
        held.set(bytes);
        held
    }

    fn has_to_go(held: &Held) -> bool {
        held.poll_has_to_go(&mut Context::from_waker(noop_waker_ref())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_most_goes_when_there_is_too_much_and_nobody_else() {
        let buffers = buffers(1000);
        let small: Vec<_> = (0..9).map(|_| holding(&buffers, 50)).collect();
        let large = holding(&buffers, 500);
        assert!(!has_to_go(&large), "950 of 1000");
        let one_more = holding(&buffers, 60);
        assert!(has_to_go(&large) && !has_to_go(&one_more) && !small.iter().any(has_to_go));
        assert_eq!(buffers.cut.get(), 1);
        let another = holding(&buffers, 100);
        assert!(!has_to_go(&another), "what is on its way is not counted twice");
        drop(large);
        assert_eq!(buffers.total.get(), 610);
        drop((small, one_more, another));
        assert_eq!(buffers.total.get(), 0);
        assert!((0..SHARDS).all(|shard| buffers.shard(shard).capacity() == 0), "all of it is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_what_waits_stays_however_much_that_is() {
        let buffers = buffers(1000);
        let (fast, stalled) = (holding(&buffers, 700), holding(&buffers, 200));
        for _ in 0..10 {
            advance(Duration::from_secs(1)).await;
            fast.taken();
        }
        let new = holding(&buffers, 150);
        assert!(has_to_go(&stalled) && !has_to_go(&fast) && !has_to_go(&new));
        drop((stalled, new));
        let much = holding(&buffers, 290);
        let little = holding(&buffers, 9);
        advance(Duration::from_secs(1)).await;
        let _one_more = holding(&buffers, 20);
        assert!(has_to_go(&fast) && !has_to_go(&much) && !has_to_go(&little), "once it has stopped, it is the first");
    }

    #[test]
    fn without_a_limit_nobody_has_to_go() {
        let buffers = buffers(0);
        assert!(!has_to_go(&holding(&buffers, usize::MAX / 4)));
    }

    #[test]
    fn whoever_has_nothing_that_waits_takes_no_place() {
        let buffers = buffers(10);
        let mut held = holding(&buffers, 5);
        assert!(held.holder.is_some());
        held.set(0);
        assert!(held.holder.is_none() && buffers.total.get() == 0);
        let mut all: Vec<_> = (0..100).map(|bytes| holding(&buffers, bytes)).collect();
        while !all.is_empty() {
            all.swap_remove(all.len() / 2);
        }
        assert_eq!(buffers.total.get(), 0);
    }
}
