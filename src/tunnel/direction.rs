//! One direction of a tunnel: what is read on one side is written to the other.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;
use tokio::task::coop::has_budget_remaining;

use super::bounds::Bounds;
use super::copy::{End, Overhear};
use super::stream::Stream;
use crate::transport::splice::{Bulk, FULL};
use crate::wire::ping::OwnPings;
use crate::wire::websocket::{FrameCounts, FrameTracker};

/// Reads before other tasks get their turn.
const READS_PER_TURN: usize = 16;
/// The buffer that a thread reads with; only bytes that the other side does not take at once are kept elsewhere.
const SCRATCH: usize = FULL;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Which side of a direction broke, and whether it was silence that told: the kernel gives up a peer that has
/// acknowledged nothing for the user timeout.
pub(super) enum Lost {
    Source {
        silent: bool,
    },
    Sink {
        silent: bool,
    },
    /// Neither: the source has broken its bounds.
    Bounds(End),
}

impl Lost {
    fn source(error: io::Error) -> Self {
        Self::Source { silent: is_silence(&error) }
    }

    fn sink(error: io::Error) -> Self {
        Self::Sink { silent: is_silence(&error) }
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable)
}

/// Read from the source, write to the sink, and keep only what the sink did not take at once.
pub(super) struct Direction {
    pub(super) pending: BytesMut,
    /// The source had nothing more to say when it was asked last, and wakes the tunnel when it has.
    awaited: bool,
    /// The source has finished.
    pub(super) eof: bool,
    /// The sink has been told.
    finished: bool,
    /// Bytes have been written that TLS may still hold.
    unflushed: bool,
    /// The sink did not take all that it was given.
    blocked: bool,
    /// The source has said something since somebody asked.
    heard: bool,
    /// The sink has taken bytes after a time in which it took none, since somebody asked.
    took: bool,
    /// The same, since the tunnel was looked at last.
    moved: bool,
    pub(super) bytes: u64,
    pub(super) tracker: Option<FrameTracker>,
    pub(super) seen: FrameCounts,
    overhear: Option<Overhear>,
    /// The longest silence of the tunnel, in milliseconds, where who overhears has said one that nobody has asked for yet.
    idle: u32,
    /// Asked of the source; its answers go no further.
    pub(super) pings: Option<Box<OwnPings>>,
    /// Bytes that the sink did not take, behind those that are pending.
    bulk: Bulk,
}

impl Direction {
    pub(super) fn new(first: BytesMut, head: usize, websocket: bool) -> Self {
        let mut direction = Self {
            pending: BytesMut::new(),
            awaited: false,
            eof: false,
            finished: false,
            unflushed: false,
            blocked: false,
            heard: false,
            took: false,
            moved: false,
            bytes: 0,
            tracker: websocket.then(FrameTracker::new),
            seen: FrameCounts::default(),
            overhear: None,
            idle: 0,
            pings: None,
            bulk: Bulk::default(),
        };
        direction.count(&first[head..]);
        // An empty one still holds the memory that a head was read into.
        if !first.is_empty() {
            direction.pending = first;
        }
        direction
    }

    /// Lets somebody hear what this direction carries first, what is waiting behind the head already included.
    pub(super) fn overhear(&mut self, overhear: Option<Overhear>, head: usize) {
        self.overhear = overhear;
        let first = std::mem::take(&mut self.pending);
        self.tell(&first[head..]);
        self.pending = first;
    }

    /// The longest silence of the tunnel, where who overhears has said one since this was asked last.
    pub(super) fn take_idle(&mut self) -> Option<Duration> {
        let idle = std::mem::take(&mut self.idle);
        (idle > 0).then(|| Duration::from_millis(idle.into()))
    }

    /// Whether the sink has got whole frames only, as far as frames are known at all.
    pub(super) fn is_between_frames(&self) -> bool {
        self.pending.is_empty()
            && self.bulk.waiting() == 0
            && self.tracker.as_ref().is_none_or(FrameTracker::at_boundary)
    }

    /// Whether the source has finished, or has said that it is about to: it is the server that ends the connection,
    /// whoever has begun to close the WebSocket (RFC 6455 7.1.1).
    pub(super) fn is_ending(&self) -> bool {
        self.eof || self.seen.close.is_some()
    }

    /// Whether the source has said something since this was asked last.
    pub(super) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Whether the sink has taken bytes after a time in which it took none, since this was asked last.
    pub(super) fn take_took(&mut self) -> bool {
        std::mem::take(&mut self.took)
    }

    /// The same, for the silence of the whole tunnel: a sink that takes what waits for it is none, however slow it is.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// The sink has taken bytes.
    fn note_taken(&mut self) {
        let was_blocked = std::mem::take(&mut self.blocked);
        self.took |= was_blocked;
        self.moved |= was_blocked;
    }

    fn tell(&mut self, bytes: &[u8]) {
        if let Some(overhear) = &mut self.overhear
            && let ControlFlow::Break(idle) = overhear(bytes)
        {
            self.overhear = None;
            self.idle = idle.map_or(0, |idle| u32::try_from(idle.as_millis()).unwrap_or(u32::MAX));
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(tracker) = &mut self.tracker
            && tracker.advance(bytes, &mut self.seen).is_err()
        {
            // Not RFC 6455 after all; the bytes are carried as they are.
            self.tracker = None;
        }
    }

    /// Takes the answers to our own Pings out of what has been read, and counts the rest, which is moved to the front.
    fn sift(&mut self, bytes: &mut [u8]) -> usize {
        let (Some(pings), Some(tracker)) = (&mut self.pings, &mut self.tracker) else {
            self.count(bytes);
            return bytes.len();
        };
        let kept = pings.sift(bytes, tracker, &mut self.seen).unwrap_or_else(|(kept, _)| {
            self.tracker = None;
            kept
        });
        self.bytes += kept as u64;
        kept
    }

    /// How the tunnel ends if the source has said more than it may.
    fn check(&self, bounds: &mut Option<Box<Bounds>>) -> Result<(), Lost> {
        let Some(bounds) = bounds else { return Ok(()) };
        bounds.check(self.tracker.as_ref(), &self.seen).map_or(Ok(()), |end| Err(Lost::Bounds(end)))
    }

    /// Ready when the source has finished and the sink has been told so.
    pub(super) fn poll<Source: Stream, Sink: Stream>(
        &mut self,
        source: &mut Source,
        sink: &mut Sink,
        bounds: &mut Option<Box<Bounds>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..READS_PER_TURN {
            if !self.pending.is_empty() {
                ready!(self.poll_pending(sink, cx)).map_err(Lost::sink)?;
            }
            if self.bulk.waiting() > 0 {
                ready!(self.poll_bulk(sink, cx)).map_err(Lost::sink)?;
            }
            if self.eof {
                ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Lost::sink)?;
                // A peer that has gone already needs no goodbye.
                let _ = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                self.finished = true;
                return Poll::Ready(Ok(()));
            }
            let read = if self.awaited && source.plain_socket().is_some_and(|socket| !socket.is_readable()) {
                // It was the other source that has woken the tunnel.
                Poll::Pending
            } else {
                let spliced = self.splice(source, sink, cx);
                spliced.unwrap_or_else(|| {
                    BUFFER.with_borrow_mut(|buffer| self.poll_once(buffer, source, sink, bounds, cx))
                })
            };
            // Without a budget the runtime has asked nobody, and lets this task run again.
            self.awaited = read.is_pending() && has_budget_remaining();
            if read.is_pending() {
                if self.unflushed {
                    let unsent = sink.unsent();
                    let flushed = Pin::new(&mut *sink).poll_flush(cx);
                    self.moved |= sink.unsent() != unsent;
                    ready!(flushed).map_err(Lost::sink)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            ready!(read)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is pending, and gives its memory back.
    fn poll_pending(&mut self, sink: &mut impl Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let unsent = sink.unsent();
            let written = poll_write(sink, &self.pending, cx);
            if written.is_ready() || sink.unsent() != unsent {
                self.note_taken();
            }
            let Poll::Ready(written) = written else {
                self.blocked = true;
                return Poll::Pending;
            };
            self.pending.advance(written?);
            self.unflushed = true;
        }
        self.pending = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Writes what is in the pipe, and gives it back.
    fn poll_bulk(&mut self, sink: &impl Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(sink) = sink.plain_socket() else { return Poll::Ready(Ok(())) };
        let mut went = false;
        let emptied = self.bulk.poll_empty(sink, &mut went, cx);
        if went {
            self.note_taken();
        }
        self.blocked |= emptied.is_pending();
        emptied
    }

    /// The same as [`Self::poll_once`] without a copy, where that pays and nobody looks at the bytes.
    fn splice(
        &mut self,
        source: &impl Stream,
        sink: &impl Stream,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<(), Lost>>> {
        if self.tracker.is_some() || self.overhear.is_some() {
            return None;
        }
        let filled = self.bulk.poll_fill(source.plain_socket(), sink.plain_socket(), u64::MAX, cx)?;
        // The next turn of the loop empties the pipe.
        Some(filled.map_err(Lost::source).map_ok(|read| {
            self.eof = read == 0;
            self.heard |= read > 0;
            self.bytes += read as u64;
        }))
    }

    /// One read, and one write of what it brought.
    fn poll_once(
        &mut self,
        buffer: &mut [u8],
        source: &mut impl Stream,
        sink: &mut impl Stream,
        bounds: &mut Option<Box<Bounds>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        // What was held back belongs before what comes now.
        let held = self.pings.as_ref().map_or(0, |pings| {
            let held = pings.held();
            buffer[..held.len()].copy_from_slice(held);
            held.len()
        });
        let mut unread = ReadBuf::new(&mut buffer[held..]);
        ready!(Pin::new(source).poll_read(cx, &mut unread)).map_err(Lost::source)?;
        let read = unread.filled().len();
        if read == 0 {
            self.eof = true;
            self.count(&buffer[..held]);
            self.pending.extend_from_slice(&buffer[..held]);
            return Poll::Ready(Ok(()));
        }
        self.heard = true;
        self.bulk.note_read(held + read);
        let kept = self.sift(&mut buffer[..held + read]);
        self.check(bounds)?;
        let bytes = &buffer[..kept];
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.tell(bytes);
        self.unflushed = true;
        match poll_write(sink, bytes, cx) {
            Poll::Ready(Ok(written)) => self.pending.extend_from_slice(&bytes[written..]),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Lost::sink(error))),
            Poll::Pending => self.pending.extend_from_slice(bytes),
        }
        Poll::Ready(Ok(()))
    }
}

impl Lost {
    /// How the tunnel ends, where this is the direction from the client to the server.
    pub(super) fn inward(self) -> End {
        match self {
            Self::Source { silent } => End::lost_client(silent),
            Self::Sink { silent } => End::lost_server(silent),
            Self::Bounds(end) => end,
        }
    }

    /// How the tunnel ends, where this is the direction from the server to the client.
    pub(super) fn outward(self) -> End {
        match self {
            Self::Source { silent } => End::lost_server(silent),
            Self::Sink { silent } => End::lost_client(silent),
            Self::Bounds(end) => end,
        }
    }
}

/// Reads away what comes; ready when nothing comes any more.
pub(super) fn discard(source: &mut impl Stream, cx: &mut Context<'_>) -> Poll<()> {
    for _ in 0..READS_PER_TURN {
        let more = BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            let read = Pin::new(&mut *source).poll_read(cx, &mut buffer);
            read.map(|read| read.is_ok() && !buffer.filled().is_empty())
        });
        if !ready!(more) {
            return Poll::Ready(());
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn poll_write(sink: &mut impl Stream, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(sink).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::transport::{Socket, Transport, splice};
    use crate::tunnel::Listening;
    use crate::tunnel::testing::{Running, over};

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
        (Socket::Tcp(ours.unwrap().0), theirs.unwrap())
    }

    #[tokio::test]
    async fn bulk_takes_pipes_both_ways_at_once_loses_nothing_and_gives_them_back() {
        const LENGTH: u64 = 32 << 20;
        let ((ours, client), (ours_to_server, server)) = (pair().await, pair().await);
        let Running { closed, .. } =
            over(Transport::Plain(ours), Transport::Plain(ours_to_server), Listening::default());
        let talk = |side: TcpStream, seed: u8| async move {
            let (mut reading, mut writing) = side.into_split();
            let write = tokio::spawn(async move {
                let part: Vec<u8> = (0..251).cycle().map(|byte: u8| byte ^ seed).take(251 * 1000).collect();
                let mut sent = 0;
                while sent < LENGTH {
                    let some = part.len().min((LENGTH - sent) as usize);
                    writing.write_all(&part[..some]).await.unwrap();
                    sent += some as u64;
                }
            });
            let (mut got, mut buffer) = (0, vec![0; 100_000]);
            loop {
                let read = reading.read(&mut buffer).await.unwrap();
                if read == 0 {
                    break;
                }
                let expected = (0..251).cycle().skip((got % 251) as usize).map(|byte: u8| byte ^ seed ^ 0xff);
                assert!(buffer[..read].iter().copied().eq(expected.take(read)), "in the {read} bytes from {got}");
                got += read as u64;
            }
            write.await.unwrap();
            got
        };
        let client = tokio::spawn(talk(client, 0));
        let server = tokio::spawn(talk(server, 0xff));
        assert_eq!((client.await.unwrap(), server.await.unwrap()), (LENGTH, LENGTH));
        let closed = closed.await.unwrap();
        assert_eq!((closed.bytes_in, closed.bytes_out), (LENGTH, LENGTH));
        assert!(splice::kept() > 0, "bulk took a pipe, and has given it back");
    }

    #[test]
    fn a_direction_with_nothing_to_carry_holds_no_memory() {
        let mut read = BytesMut::with_capacity(1024);
        read.extend_from_slice(b"a head");
        drop(read.split_to(6));
        assert!(read.is_empty() && read.capacity() > 0, "what a head was read into");
        assert_eq!(Direction::new(read, 0, true).pending.capacity(), 0);
    }
}
