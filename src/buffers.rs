//! Bytes that wait in this process until somebody slow takes them: how many there are in all, and who has to go when they
//! are too many, which is whoever holds most of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use prometheus::{IntCounter, IntGauge};

/// All bytes that wait.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// How many may; 0 is no limit.
    most: AtomicUsize,
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
        Arc::new(Self { most: AtomicUsize::new(0), total, cut, next_shard: AtomicUsize::new(0), shards })
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

    /// Tells those who hold most that they have to go, until enough of them do for an eighth to be free.
    #[cold]
    fn make_room(&self) {
        let most = self.most.load(Relaxed);
        let mut total = 0;
        let mut all = Vec::new();
        for shard in 0..SHARDS {
            for holder in self.shard(shard).iter().filter(|holder| !holder.has_to_go.load(Relaxed)) {
                let bytes = holder.bytes.load(Relaxed);
                total += bytes;
                all.push((bytes, Arc::clone(holder)));
            }
        }
        // Those who have been told are on their way.
        if total <= most {
            return;
        }
        all.sort_unstable_by_key(|&(bytes, _)| std::cmp::Reverse(bytes));
        let mut told = 0_u32;
        for (bytes, holder) in all {
            if total <= most - most / 8 {
                break;
            }
            total -= bytes;
            told += 1;
            self.cut.inc();
            holder.has_to_go.store(true, Relaxed);
            holder.waker.wake();
        }
        log::warn!("limits.buffers: more than {most} bytes wait for slow clients: {told} that hold most are cut");
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Vec<Arc<Holder>>> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, bytes: usize) -> Arc<Holder> {
        let shard = self.next_shard.fetch_add(1, Relaxed) % SHARDS;
        let mut holders = self.shard(shard);
        let holder = Arc::new(Holder {
            bytes: AtomicUsize::new(bytes),
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
    use futures::task::noop_waker_ref;

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

    #[test]
    fn whoever_holds_most_goes_when_there_is_too_much_and_nobody_else() {
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
