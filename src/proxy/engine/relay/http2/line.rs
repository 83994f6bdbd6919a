//! What the streams of a connection share: how much waits because of its client in all, and whether it takes anything.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::buffers::Held;
use crate::deadline::{Deadline, Moment, SharedMoment};
use crate::exchange::Side;
use crate::proxy::engine::relay::buffer::READ;

/// A connection as its streams see it.
#[derive(Debug)]
pub(super) struct Line {
    /// Off; the others are made from it.
    deadline: Deadline,
    /// Those that streams have had.
    retired: Mutex<Vec<Deadline>>,
    /// Whether the client takes nothing at this moment.
    blocked: AtomicBool,
    /// When it took something again.
    freed: SharedMoment,
    /// Whether it took nothing for too long.
    late: AtomicBool,
    /// Whether it has been cut to make room.
    overfull: AtomicBool,
    /// Bytes that wait, of answers and of bodies that are taken in.
    bytes: AtomicUsize,
    /// Bytes that may wait in connections to servers because of its streams.
    behind: AtomicUsize,
    /// Their place among all that wait in the process.
    held: Mutex<Held>,
    /// Streams that have become tunnels.
    tunnels: AtomicUsize,
    /// Streams that wait for room.
    waiting: Mutex<Vec<Waker>>,
}

/// Bytes that wait before streams read little at once.
const MANY: usize = 384 * 1024;
/// What they read then.
const LITTLE: usize = 2 * 1024;
/// The most that waits: streams whose own windows are closed never make that much, so that the others go on.
const MOST: usize = 704 * 1024;
/// Steps in which the process is told.
const STEP: usize = 64 * 1024;

/// A deadline of a stream. To make one costs more than to hand it on, so they are kept.
pub(super) struct Timer {
    /// There until it is dropped.
    deadline: Option<Deadline>,
    line: Arc<Line>,
}

impl Deref for Timer {
    type Target = Deadline;

    fn deref(&self) -> &Deadline {
        self.deadline.as_ref().unwrap_or(&self.line.deadline)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(deadline) = self.deadline.take() {
            deadline.retire();
            lock(&self.line.retired).push(deadline);
        }
    }
}

/// What waits of a stream for its server, or may wait in a connection to that, as its client's connection counts it.
pub(super) struct Behind {
    bytes: usize,
    line: Arc<Line>,
}

impl Behind {
    /// Of a stream on this connection; nothing yet.
    pub(super) fn of(line: &Arc<Line>) -> Self {
        Self { bytes: 0, line: Arc::clone(line) }
    }

    pub(super) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.line.wait_behind(self.bytes, bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// See [`Line::open_tunnel`].
pub(super) struct OpenTunnel(Arc<Line>);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Relaxed);
    }
}

/// Bytes that are on their way to the client, counted until nobody has them any more.
struct Counted<B: AsRef<[u8]>> {
    bytes: B,
    line: Arc<Line>,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Counted<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B: AsRef<[u8]>> Drop for Counted<B> {
    fn drop(&mut self) {
        self.line.release(self.bytes.as_ref().len());
        lock(&self.line.held).taken();
    }
}

impl Line {
    /// Of a connection whose client has been asked for nothing yet.
    pub(super) fn new(held: Held, deadline: Deadline) -> Arc<Self> {
        Arc::new(Self {
            freed: SharedMoment::new(deadline.now()),
            deadline,
            retired: Mutex::default(),
            blocked: false.into(),
            late: false.into(),
            overfull: false.into(),
            bytes: 0.into(),
            behind: 0.into(),
            held: held.into(),
            tunnels: 0.into(),
            waiting: Mutex::default(),
        })
    }

    /// What the clock says.
    pub(super) fn now(&self) -> Moment {
        self.deadline.now()
    }

    /// A deadline for one of its streams, off.
    pub(super) fn timer(self: &Arc<Self>) -> Timer {
        let retired = lock(&self.retired).pop();
        Timer { deadline: Some(retired.unwrap_or_else(|| self.deadline.another())), line: Arc::clone(self) }
    }

    /// The same for a stream that becomes a tunnel, and where what waits because of it is counted.
    pub(super) fn of_tunnel(&self) -> (Deadline, Held) {
        (self.deadline.another(), lock(&self.held).another())
    }

    /// Whether one of its streams is a tunnel, which has something to say when the gateway stops.
    pub(super) fn has_tunnels(&self) -> bool {
        self.tunnels.load(Relaxed) > 0
    }

    /// Counts a tunnel until it is dropped.
    pub(super) fn open_tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.tunnels.fetch_add(1, Relaxed);
        OpenTunnel(Arc::clone(self))
    }

    /// The client takes nothing for now.
    pub(super) fn block(&self) {
        self.blocked.store(true, Relaxed);
    }

    /// The client takes bytes again.
    pub(super) fn free(&self) {
        self.freed.set(self.now());
        self.blocked.store(false, Relaxed);
        self.wake();
    }

    /// The client has taken nothing for too long.
    pub(super) fn end_late(&self) {
        self.late.store(true, Relaxed);
    }

    /// Since when a stream that could not send anything since then waits for its own window and not for the connection,
    /// on which each stream has its turn.
    pub(super) fn waits_since(&self, moved: Moment) -> Moment {
        if self.blocked.load(Relaxed) { self.now() } else { moved.max(self.freed.get()) }
    }

    /// Who has ended a stream that its client takes nothing of any more.
    pub(super) fn gone(&self) -> Side {
        match (self.overfull.load(Relaxed), self.late.load(Relaxed)) {
            (true, _) => Side::NoRoom,
            (false, true) => Side::StalledClient,
            (false, false) => Side::Client,
        }
    }

    /// Ready with how much may be read of an answer now. All streams of a connection are served by one task, so that
    /// nobody else reads until it has been kept.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        if let Some(room) = self.room() {
            return Poll::Ready(room);
        }
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn room(&self) -> Option<usize> {
        match self.bytes.load(Relaxed) {
            ..MANY => Some(READ),
            // What it takes next makes room.
            _ if self.blocked.load(Relaxed) => None,
            MANY..MOST => Some(LITTLE),
            _ => None,
        }
    }

    fn count(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Relaxed);
        self.tell(before, before + bytes);
    }

    /// Counts so many bytes of a body that is taken in, where there is room for them.
    pub(super) fn try_take(&self, bytes: usize) -> bool {
        let fits = self.bytes.load(Relaxed) + bytes <= MANY;
        if fits {
            self.count(bytes);
        }
        fits
    }

    /// So many bytes wait no longer.
    pub(super) fn release(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Relaxed);
        self.tell(before, before - bytes);
        if before >= MANY {
            self.wake();
        }
    }

    /// Keeps bytes, and counts them for as long as anybody has them.
    pub(super) fn keep(self: &Arc<Self>, bytes: &[u8]) -> Bytes {
        self.count(bytes.len());
        Bytes::from_owner(Counted { bytes: Box::<[u8]>::from(bytes), line: Arc::clone(self) })
    }

    /// The same for bytes that are kept already, as a part of what was read at once: few of them are taken out of that.
    pub(super) fn keep_shared(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if bytes.len() < LITTLE {
            return self.keep(&bytes);
        }
        self.count(bytes.len());
        Bytes::from_owner(Counted { bytes, line: Arc::clone(self) })
    }

    /// Bytes that may wait in a connection to a server, of which there were so many before.
    pub(super) fn wait_behind(&self, before: usize, after: usize) {
        let all = self.bytes.load(Relaxed);
        let was = if after > before {
            self.behind.fetch_add(after - before, Relaxed)
        } else {
            self.behind.fetch_sub(before - after, Relaxed)
        };
        self.tell(all + was, all + was + after - before);
    }

    /// Ready when the connection has to go to make room.
    pub(super) fn poll_has_to_go(&self, cx: &mut Context<'_>) -> Poll<()> {
        let has_to_go = lock(&self.held).poll_has_to_go(cx);
        if has_to_go.is_ready() {
            self.overfull.store(true, Relaxed);
        }
        has_to_go
    }

    /// Tells the process, where it is much.
    fn tell(&self, before: usize, after: usize) {
        if before / STEP != after / STEP {
            let mut held = lock(&self.held);
            held.set((self.bytes.load(Relaxed) + self.behind.load(Relaxed)) / STEP * STEP);
        }
    }

    fn wake(&self) {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            let waiting = std::mem::take(&mut *waiting);
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;
    use prometheus::{IntCounter, IntGauge};

    use super::*;
    use crate::buffers::Buffers;
    use crate::deadline::Deadlines;

    fn line() -> (Arc<Line>, Arc<Buffers>) {
        let buffers = Buffers::new(IntGauge::new("a", "b").unwrap(), IntCounter::new("c", "d").unwrap());
        (Line::new(buffers.nothing(), Deadlines::new().register()), buffers)
    }

    fn room(line: &Line) -> Option<usize> {
        match line.poll_room(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(room) => Some(room),
            Poll::Pending => None,
        }
    }

    /// What waits when each of so many streams has read once and can send nothing.
    fn stalled(line: &Arc<Line>, streams: usize) -> Vec<Bytes> {
        (0..streams).filter_map(|_| Some(line.keep(&vec![0; room(line)?]))).collect()
    }

    #[tokio::test]
    async fn streams_that_stand_still_leave_room_for_others_and_never_too_much() {
        let (line, _) = line();
        let kept = stalled(&line, 127);
        assert_eq!(kept.len(), 127, "each has its part");
        assert_eq!(room(&line), Some(LITTLE), "and one more goes on");
        let all: usize = kept.iter().map(Bytes::len).sum();
        assert!(all <= MOST && line.bytes.load(Relaxed) == all, "{all}");
        line.block();
        assert_eq!(room(&line), None, "while the client takes nothing there is enough of it");
        line.free();
        assert!(stalled(&line, 1000).len() < 200, "there is an end to it");
        drop(kept);
        assert_eq!((line.bytes.load(Relaxed), room(&line)), (0, Some(READ)));
    }

    #[tokio::test]
    async fn bytes_are_counted_until_the_last_part_of_them_is_gone() {
        let (line, _) = line();
        let mut kept = line.keep(&[0; 100]);
        let part = kept.split_to(50);
        drop(kept);
        assert_eq!(line.bytes.load(Relaxed), 100);
        drop(part);
        assert_eq!(line.bytes.load(Relaxed), 0);
        assert!(line.try_take(MANY) && !line.try_take(1));
    }
}
