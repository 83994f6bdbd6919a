//! Carries bytes both ways until both sides have finished, one breaks, or the tunnel has been silent for too long.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::deadline::Deadline;
use crate::drain::Leave;
use crate::transport::Transport;
use crate::wire::websocket::{FrameTracker, Seen, close_frame};

/// The two sides of a tunnel, and what has been read of each already.
#[derive(Debug)]
pub struct Ends {
    /// The client's stream.
    pub client: Transport,
    /// Bytes of the client that go to the server first.
    pub from_client: BytesMut,
    /// The server's stream.
    pub server: Transport,
    /// Bytes of the server that go to the client first.
    pub from_server: BytesMut,
    /// How many of those are the head of the server's answer, which is no part of what the tunnel carries.
    pub head: usize,
}

/// What a tunnel pays attention to on the way.
#[derive(Default)]
pub struct Listening {
    /// WebSocket frames: they are counted, and a goodbye is put between them.
    pub frames: bool,
    /// Called with the first bytes that the server sends through the tunnel, before the client gets them, for as long
    /// as it says true.
    pub overhear: Option<Overhear>,
}

/// See [`Listening::overhear`].
pub type Overhear = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client finished first.
    Client,
    /// The server finished first.
    Server,
    /// The client's connection broke.
    ClientLost,
    /// The server's connection broke.
    ServerLost,
    /// Neither side spoke for the idle time.
    Idle,
    /// The gateway is stopping.
    Stopped,
    /// Its turn to leave its server had come.
    Drained,
}

impl End {
    /// One word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::ClientLost => "client_lost",
            Self::ServerLost => "server_lost",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
            Self::Drained => "drain",
        }
    }
}

/// What a tunnel carried, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// How it ended.
    pub end: End,
    /// Bytes from the client to the server.
    pub bytes_in: u64,
    /// Bytes from the server to the client.
    pub bytes_out: u64,
    /// WebSocket frames from the client; all zero for raw tunnels.
    pub seen_in: Seen,
    /// WebSocket frames from the server.
    pub seen_out: Seen,
}

/// RFC 6455 7.4.1, IANA registry: the service restarts, come back.
const SERVICE_RESTART: u16 = 1012;
/// Reads before other tasks get their turn.
const READS_PER_TURN: usize = 16;
/// The buffer that a thread reads with; only bytes that the other side does not take at once are kept elsewhere.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Carries bytes both ways. Half-close is passed on: a side that has finished still receives.
///
/// `idle` is the longest silence of both directions together, zero for no limit. When the gateway stops, or `leave` is
/// told, a WebSocket gets a Close frame behind its last whole one. A broken connection on one side ends the
/// other with a reset, so that neither takes a cut stream for a whole one.
pub async fn carry(ends: Ends, idle: Duration, deadline: &Deadline, leave: &Leave, listening: Listening) -> Closed {
    let Ends { client, from_client, server, from_server, head } = ends;
    let Listening { frames: websocket, overhear } = listening;
    let mut tunnel = Tunnel {
        client,
        server,
        inward: Direction::new(from_client, 0, websocket),
        outward: Direction::new(from_server, head, websocket),
        first: None,
    };
    tunnel.outward.overhear(overhear, head);
    deadline.set(idle);
    let end = poll_fn(|cx| tunnel.poll(cx, idle, deadline, leave)).await;
    match end {
        End::ClientLost => tunnel.server.socket().reset_on_close(),
        End::ServerLost => tunnel.client.socket().reset_on_close(),
        End::Client | End::Server | End::Idle | End::Stopped | End::Drained => {}
    }
    let Direction { bytes: bytes_in, seen: seen_in, .. } = tunnel.inward;
    let Direction { bytes: bytes_out, seen: seen_out, .. } = tunnel.outward;
    Closed { end, bytes_in, bytes_out, seen_in, seen_out }
}

struct Tunnel {
    client: Transport,
    server: Transport,
    inward: Direction,
    outward: Direction,
    /// Who finished first.
    first: Option<End>,
}

impl Tunnel {
    fn poll(&mut self, cx: &mut Context<'_>, idle: Duration, deadline: &Deadline, leave: &Leave) -> Poll<End> {
        let carried = self.inward.bytes + self.outward.bytes;
        let inward = self.inward.poll(&mut self.client, &mut self.server, cx);
        if self.inward.eof {
            self.first.get_or_insert(End::Client);
        }
        let outward = self.outward.poll(&mut self.server, &mut self.client, cx);
        if self.outward.eof {
            self.first.get_or_insert(End::Server);
        }
        match (inward, outward) {
            (Poll::Ready(Err(lost)), _) => return Poll::Ready(lost.end(End::ClientLost, End::ServerLost)),
            (_, Poll::Ready(Err(lost))) => return Poll::Ready(lost.end(End::ServerLost, End::ClientLost)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(self.first.unwrap_or(End::Client)),
            _ => {}
        }
        if self.inward.bytes + self.outward.bytes != carried {
            deadline.set(idle);
        }
        let stopping = deadline.poll_stopping(cx);
        // A drain has time to wait for the end of a message.
        if stopping || leave.poll_told(cx).is_ready() && self.is_between_messages() {
            ready!(self.poll_goodbye(cx));
            return Poll::Ready(if stopping { End::Stopped } else { End::Drained });
        }
        deadline.poll_expired(cx).map(|()| End::Idle)
    }

    /// Whether the client has got whole messages only, as far as frames are known at all.
    fn is_between_messages(&self) -> bool {
        self.is_between_frames() && !self.outward.tracker.as_ref().is_some_and(FrameTracker::in_message)
    }

    /// Whether the client has got whole frames only, as far as frames are known at all.
    fn is_between_frames(&self) -> bool {
        self.outward.pending.is_empty() && self.outward.tracker.as_ref().is_none_or(FrameTracker::at_boundary)
    }

    /// Puts a Close frame behind the last whole frame to the client. Raw tunnels are just ended.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let tracked = self.outward.tracker.is_some();
        if tracked && self.is_between_frames() && self.outward.seen.close.is_none() && !self.outward.eof {
            self.outward.pending.extend_from_slice(&close_frame(SERVICE_RESTART, "", None));
            self.outward.eof = true;
        }
        if self.outward.eof {
            // Best effort: a client that takes no bytes any more is not waited for.
            let _ = self.outward.poll(&mut self.server, &mut self.client, cx);
        }
        Poll::Ready(())
    }
}

/// Which side of a direction broke.
enum Lost {
    Source,
    Sink,
}

impl Lost {
    fn end(self, source: End, sink: End) -> End {
        match self {
            Self::Source => source,
            Self::Sink => sink,
        }
    }
}

/// One direction: read from the source, write to the sink, and keep only what the sink did not take at once.
struct Direction {
    pending: BytesMut,
    /// The source has finished.
    eof: bool,
    /// The sink has been told.
    finished: bool,
    /// Bytes have been written that TLS may still hold.
    unflushed: bool,
    bytes: u64,
    tracker: Option<FrameTracker>,
    seen: Seen,
    overhear: Option<Overhear>,
}

impl Direction {
    fn new(first: BytesMut, head: usize, websocket: bool) -> Self {
        let mut direction = Self {
            pending: BytesMut::new(),
            eof: false,
            finished: false,
            unflushed: false,
            bytes: 0,
            tracker: websocket.then(FrameTracker::new),
            seen: Seen::default(),
            overhear: None,
        };
        direction.count(&first[head..]);
        direction.pending = first;
        direction
    }

    /// Lets somebody hear what this direction carries first, what is waiting behind the head already included.
    fn overhear(&mut self, overhear: Option<Overhear>, head: usize) {
        self.overhear = overhear;
        let first = std::mem::take(&mut self.pending);
        self.tell(&first[head..]);
        self.pending = first;
    }

    fn tell(&mut self, bytes: &[u8]) {
        if let Some(overhear) = &mut self.overhear
            && !overhear(bytes)
        {
            self.overhear = None;
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

    /// Ready when the source has finished and the sink has been told so.
    fn poll(&mut self, source: &mut Transport, sink: &mut Transport, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..READS_PER_TURN {
            while !self.pending.is_empty() {
                let written = ready!(poll_write(sink, &self.pending, cx)).map_err(|_| Lost::Sink)?;
                self.pending.advance(written);
                self.unflushed = true;
            }
            self.pending = BytesMut::new();
            if self.eof {
                ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(|_| Lost::Sink)?;
                // A peer that has gone already needs no goodbye.
                let _ = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                self.finished = true;
                return Poll::Ready(Ok(()));
            }
            let read = BUFFER.with_borrow_mut(|buffer| self.poll_once(buffer, source, sink, cx));
            if read.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(|_| Lost::Sink)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            ready!(read)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and one write of what it brought.
    fn poll_once(
        &mut self,
        buffer: &mut [u8],
        source: &mut Transport,
        sink: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(source).poll_read(cx, &mut buffer)).map_err(|_| Lost::Source)?;
        let read = buffer.filled();
        if read.is_empty() {
            self.eof = true;
            return Poll::Ready(Ok(()));
        }
        self.count(read);
        self.tell(read);
        self.unflushed = true;
        match poll_write(sink, read, cx) {
            Poll::Ready(Ok(written)) => self.pending.extend_from_slice(&read[written..]),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Lost::Sink)),
            Poll::Pending => self.pending.extend_from_slice(read),
        }
        Poll::Ready(Ok(()))
    }
}

fn poll_write(sink: &mut Transport, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(sink).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::deadline::Deadlines;
    use crate::drain::{Origin, Roster};
    use crate::transport::Socket;

    struct Running {
        client: UnixStream,
        server: UnixStream,
        clock: Arc<Deadlines>,
        roster: Roster,
        closed: JoinHandle<Closed>,
    }

    fn tunnel(idle: Duration, websocket: bool, early: (&[u8], &[u8])) -> Running {
        let (client, ours_to_client) = UnixStream::pair().unwrap();
        let (server, ours_to_server) = UnixStream::pair().unwrap();
        let ends = Ends {
            client: Transport::Plain(Socket::Unix(ours_to_client)),
            from_client: early.0.into(),
            server: Transport::Plain(Socket::Unix(ours_to_server)),
            from_server: early.1.into(),
            head: 0,
        };
        let clock = Deadlines::new();
        tokio::spawn(Arc::clone(&clock).run());
        let deadline = clock.register();
        let roster = Roster::default();
        let leave = roster.add(Origin::default(), true);
        let listening = Listening { frames: websocket, overhear: None };
        let closed = tokio::spawn(async move { carry(ends, idle, &deadline, &leave, listening).await });
        Running { client, server, clock, roster, closed }
    }

    async fn read_all(stream: &mut UnixStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn half_close_is_passed_both_ways() {
        let Running { mut client, mut server, closed, .. } = tunnel(Duration::ZERO, false, (b"early ", b"hello "));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut server).await, b"early question");
        server.write_all(b"answer after the client's end").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"hello answer after the client's end");
        let closed = closed.await.unwrap();
        assert_eq!((closed.end, closed.bytes_in, closed.bytes_out), (End::Client, 14, 35));
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_stops_the_writer_and_loses_nothing() {
        let Running { mut client, mut server, closed, .. } = tunnel(Duration::ZERO, false, (b"", b""));
        let sent: Vec<u8> = (0..4_000_000u32).map(|at| (at % 251) as u8).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            client.write_all(&copy).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!writing.is_finished(), "the writer waits for the reader");
        assert!(read_all(&mut server).await == sent);
        drop(server);
        drop(writing.await.unwrap());
        assert_eq!(closed.await.unwrap().bytes_in, 4_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_both_sides_ends_it_and_a_word_of_either_puts_that_off() {
        let Running { client, mut server, closed, .. } = tunnel(Duration::from_secs(10), false, (b"", b""));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            server.write_all(b"x").await.unwrap();
        }
        assert!(!closed.is_finished());
        let started = tokio::time::Instant::now();
        assert_eq!(closed.await.unwrap().end, End::Idle);
        assert!(started.elapsed() >= Duration::from_secs(10), "{:?}", started.elapsed());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_24h() {
        let Running { mut client, mut server, closed, .. } = tunnel(Duration::ZERO, true, (b"", b""));
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        client.write_all(b"\x81\x00").await.unwrap();
        let mut got = [0; 2];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"\x81\x00");
        drop((client, server));
        assert_eq!(closed.await.unwrap().seen_in.messages, 1);
    }

    #[tokio::test]
    async fn frames_are_counted_and_the_close_code_is_seen() {
        let Running { mut client, mut server, closed, .. } = tunnel(Duration::ZERO, true, (b"", b"\x81\x02hi"));
        client.write_all(b"\x81\x80\x01\x02\x03\x04\x88\x82\x00\x00\x00\x00\x03\xe9").await.unwrap();
        client.shutdown().await.unwrap();
        read_all(&mut server).await;
        drop(server);
        assert_eq!(read_all(&mut client).await, b"\x81\x02hi");
        let closed = closed.await.unwrap();
        assert_eq!((closed.seen_in.messages, closed.seen_in.close), (1, Some(1001)));
        assert_eq!((closed.seen_out.messages, closed.seen_out.close), (1, None));
    }

    #[tokio::test]
    async fn a_stopping_gateway_says_goodbye_between_frames() {
        let Running { mut client, server, clock, closed, .. } = tunnel(Duration::ZERO, true, (b"", b"\x81\x02hi"));
        let mut first = [0; 4];
        client.read_exact(&mut first).await.unwrap();
        clock.stop();
        assert_eq!(read_all(&mut client).await, close_frame(1012, "", None));
        assert_eq!(closed.await.unwrap().end, End::Stopped);
        drop(server);
    }

    #[tokio::test]
    async fn a_drained_socket_gets_its_message_whole_and_then_the_goodbye() {
        // A message in two frames, the first of which has come in part.
        let running = tunnel(Duration::ZERO, true, (b"", b"\x01\x03hi"));
        let Running { mut client, mut server, roster, closed, .. } = running;
        let mut first = [0; 4];
        client.read_exact(&mut first).await.unwrap();
        assert!(roster.tell_one());
        server.write_all(b",").await.unwrap();
        client.read_exact(&mut first[..1]).await.unwrap();
        server.write_all(b"\x80\x03you").await.unwrap();
        assert_eq!(read_all(&mut client).await, [b"\x80\x03you".as_slice(), &close_frame(1012, "", None)].concat());
        assert_eq!(closed.await.unwrap().end, End::Drained);
    }

    #[tokio::test]
    async fn a_stopping_gateway_puts_nothing_inside_a_frame() {
        let Running { mut client, server, clock, closed, .. } = tunnel(Duration::ZERO, true, (b"", b"\x81\x05hi"));
        let mut first = [0; 4];
        client.read_exact(&mut first).await.unwrap();
        clock.stop();
        assert_eq!(read_all(&mut client).await, b"");
        assert_eq!(closed.await.unwrap().end, End::Stopped);
        drop(server);
    }
}
