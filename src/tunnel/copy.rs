//! Carries bytes both ways until both sides have finished, one breaks, or the tunnel has been silent for too long.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;

use super::bounds::Bounds;
use super::direction::{Direction, discard};
use super::silence::{Due, Ping, Silence, Who};
use super::stream::Stream;
use crate::buffers::Held;
use crate::deadline::{Deadline, Moment, Span};
use crate::roster::{Leave, Why};
use crate::session::LastMessage;
use crate::transport::Transport;
use crate::wire::ping::OwnPings;
use crate::wire::websocket::{FrameCounts, FrameTracker, close_frame, close_frame_of_client, text_frame};

/// The two sides of a tunnel, and what has been read of each already.
#[derive(Debug)]
pub struct Ends<Client = Transport, Server = Transport> {
    /// The client's stream.
    pub client: Client,
    /// Bytes of the client that go to the server first.
    pub from_client: BytesMut,
    /// The server's stream.
    pub server: Server,
    /// Bytes of the server that go to the client first.
    pub from_server: BytesMut,
    /// How many of those are the head of the server's answer, which is no part of what the tunnel carries.
    pub head: usize,
}

/// What a tunnel pays attention to on the way.
pub struct Listening {
    /// WebSocket frames: they are counted, and a goodbye is put between them.
    pub frames: bool,
    /// The status code of the goodbye (RFC 6455 7.4). By default 1012: the service restarts, come back.
    pub goodbye: u16,
    /// What the client is told by a message before that.
    pub last_message: Option<LastMessage>,
    /// When a side that is silent is asked whether it is still there; only where there are frames.
    pub ping: Option<Ping>,
    /// What the client may say; only where there are frames.
    pub bounds: Option<Box<Bounds>>,
    /// Called with the first bytes that the server sends through the tunnel, before the client gets them, for as long
    /// as it wants more.
    pub overhear: Option<Overhear>,
    /// The same for what the client sends.
    pub overhear_client: Option<Overhear>,
}

impl Default for Listening {
    fn default() -> Self {
        Self {
            frames: false,
            goodbye: 1012,
            last_message: None,
            ping: None,
            bounds: None,
            overhear: None,
            overhear_client: None,
        }
    }
}

/// See [`Listening::overhear`]. It breaks when it has heard enough; who overhears the server may then say how long the
/// tunnel may be silent from now on.
pub type Overhear = Box<dyn FnMut(&[u8]) -> ControlFlow<Option<Duration>> + Send>;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client finished first, or began to close the WebSocket.
    Client,
    /// The server did.
    Server,
    /// The client's connection broke.
    ClientLost,
    /// The server's connection broke.
    ServerLost,
    /// The client gave no sign of life any more: no answer to a Ping, or none to what the kernel sent.
    ClientSilent,
    /// The server gave no sign of life any more.
    ServerSilent,
    /// Neither side spoke for the idle time.
    Idle,
    /// The gateway is stopping.
    Stopped,
    /// Its turn to leave its server had come.
    Drained,
    /// Too much waited in the process, and most of it here.
    NoRoom,
    /// The client has sent a message that is longer than it may be.
    MessageTooLarge,
    /// The client has sent more frames than it may.
    TooManyMessages,
    /// What the client sends is no WebSocket, so that nobody knows what it amounts to.
    NoWebSocket,
}

impl End {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::ClientLost => "client_lost",
            Self::ServerLost => "server_lost",
            Self::ClientSilent => "client_silent",
            Self::ServerSilent => "server_silent",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
            Self::Drained => "drain",
            Self::NoRoom => "buffers_full",
            Self::MessageTooLarge => "message_too_large",
            Self::TooManyMessages => "message_rate",
            Self::NoWebSocket => "no_websocket",
        }
    }

    /// The status code for a client that has broken its bounds (RFC 6455 7.4.1).
    fn code(self) -> Option<u16> {
        match self {
            Self::MessageTooLarge => Some(1009),
            Self::TooManyMessages => Some(1008),
            Self::NoWebSocket => Some(1002),
            _ => None,
        }
    }

    pub(super) fn lost_client(silent: bool) -> Self {
        if silent { Self::ClientSilent } else { Self::ClientLost }
    }

    pub(super) fn lost_server(silent: bool) -> Self {
        if silent { Self::ServerSilent } else { Self::ServerLost }
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
    pub seen_in: FrameCounts,
    /// WebSocket frames from the server.
    pub seen_out: FrameCounts,
    /// The status code of the Close frame that the gateway put there.
    pub said: Option<u16>,
}

/// The status code for a client whose leave to be here is over, as IANA's registry has it: what 401 is to a request.
const UNAUTHORIZED: u16 = 3000;
/// What a server is told whose client leaves: its end goes away (RFC 6455 7.4.1).
const GOING_AWAY: u16 = 1001;
/// How long a client that has been told goodbye may take to leave. What it sends meanwhile is read away: the kernel would
/// answer it with a reset, which overtakes the goodbye.
const LINGER: Duration = Duration::from_secs(2);
/// How long a side that can't be asked, in the middle of a frame for it, is left alone.
const MID_FRAME: Duration = Duration::from_secs(1);

/// Carries bytes both ways. Half-close is passed on: a side that has finished still receives.
///
/// `idle` is the longest silence of both directions together, zero for no limit, unless who overhears says another.
/// When the gateway stops, or `leave` is told, a WebSocket gets a Close frame behind its last whole one. A broken
/// connection on one side ends the other with a reset, so that neither takes a cut stream for a whole one.
pub fn carry<Client: Stream, Server: Stream>(
    ends: Ends<Client, Server>,
    idle: Span,
    (deadline, waiting): (Deadline, Held),
    leave: Arc<Leave>,
    listening: Listening,
) -> Carrying<Client, Server> {
    let Ends { client, from_client, server, from_server, head } = ends;
    let Listening { frames: websocket, goodbye, last_message, ping, bounds, overhear, overhear_client } = listening;
    let mut inward = Direction::new(from_client, 0, websocket);
    inward.overhear(overhear_client, 0);
    let bounds = bounds.filter(|_| websocket);
    let mut outward = Direction::new(from_server, head, websocket);
    outward.overhear(overhear, head);
    let idle = outward.take_idle().map_or(idle, Span::from);
    let silence = ping.filter(|_| websocket).map(|ping| Box::new(Silence::new(ping, idle, deadline.now())));
    match &silence {
        Some(silence) => deadline.set_at(silence.first_look()),
        None => put_off(&deadline, idle),
    }
    let first = None;
    Carrying {
        client,
        server,
        inward,
        outward,
        first,
        goodbye,
        last_message,
        left: None,
        silence,
        bounds,
        idle,
        deadline,
        waiting,
        leave,
        awaits_leave: false,
    }
}

/// Lets the deadline fire when nothing has been carried for this long from now on.
fn put_off(deadline: &Deadline, idle: Span) {
    match idle.after(deadline.now()) {
        Some(due) => deadline.set_at(due),
        None => deadline.clear(),
    }
}

/// A tunnel at work; a future by hand, since it is kept for as long as a socket lives, and an async function keeps more.
pub struct Carrying<Client = Transport, Server = Transport> {
    client: Client,
    server: Server,
    inward: Direction,
    outward: Direction,
    /// Who finished first.
    first: Option<End>,
    /// The status code of the goodbye.
    goodbye: u16,
    /// What is said before it.
    last_message: Option<LastMessage>,
    /// How it has ended for a client that has been told goodbye and may still leave by itself.
    left: Option<End>,
    /// Where sides are asked whether they are still there.
    silence: Option<Box<Silence>>,
    /// What the client may say.
    bounds: Option<Box<Bounds>>,
    idle: Span,
    deadline: Deadline,
    waiting: Held,
    leave: Arc<Leave>,
    /// Whether it wakes this tunnel, which it does once.
    awaits_leave: bool,
}

impl<Client: Stream, Server: Stream> Future for Carrying<Client, Server> {
    type Output = Closed;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        let this = self.get_mut();
        let end = match this.left {
            Some(end) => {
                ready!(this.poll_left(cx));
                end
            }
            None => {
                let end = ready!(this.poll_end(cx));
                if this.left.is_some() {
                    this.deadline.set(LINGER);
                    ready!(this.poll_left(cx));
                }
                end
            }
        };
        match end {
            End::ClientLost => this.server.reset_on_close(),
            End::ServerLost => this.client.reset_on_close(),
            End::ClientSilent | End::ServerSilent | End::NoRoom => {
                // Whoever is gone takes no proper end either; what waits for it in the kernel is to go with it.
                this.client.reset_on_close();
                this.server.reset_on_close();
            }
            End::MessageTooLarge | End::TooManyMessages | End::NoWebSocket => this.server.reset_on_close(),
            End::Client | End::Server | End::Idle | End::Stopped | End::Drained => {}
        }
        let Direction { bytes: bytes_in, seen: seen_in, .. } = this.inward;
        let Direction { bytes: bytes_out, seen: seen_out, .. } = this.outward;
        let said = this.left.map(|_| this.goodbye);
        Poll::Ready(Closed { end, bytes_in, bytes_out, seen_in, seen_out, said })
    }
}

impl<Client: Stream, Server: Stream> Carrying<Client, Server> {
    /// Its place on the list of those who can be told to leave.
    pub fn leave(&self) -> &Leave {
        &self.leave
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // Both ways each time: one waker stands for both sockets, and does not tell which of them it was.
        let carried = self.inward.bytes + self.outward.bytes;
        let inward = self.inward.poll(&mut self.client, &mut self.server, &mut self.bounds, cx);
        // Asked between the two, since the server may answer an end with its own before this turn is over.
        if self.inward.is_ending() {
            self.first.get_or_insert(End::Client);
        }
        let outward = self.outward.poll(&mut self.server, &mut self.client, &mut None, cx);
        if self.outward.is_ending() {
            self.first.get_or_insert(End::Server);
        }
        match (inward, outward) {
            (Poll::Ready(Err(lost)), _) => {
                let end = lost.inward();
                if let Some(code) = end.code() {
                    self.goodbye = code;
                    self.say_goodbye(end, cx);
                }
                return Poll::Ready(end);
            }
            (_, Poll::Ready(Err(lost))) => return Poll::Ready(lost.outward()),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(self.first.unwrap_or(End::Client)),
            _ => {}
        }
        let unsent = self.client.unsent() + self.server.unsent();
        self.waiting.set(self.inward.pending.len() + self.outward.pending.len() + unsent);
        let carried = self.inward.bytes + self.outward.bytes != carried;
        let taken = self.inward.take_moved() | self.outward.take_moved();
        if taken {
            self.waiting.taken();
        }
        if self.waiting.poll_has_to_go(cx).is_ready() {
            return Poll::Ready(End::NoRoom);
        }
        let carried = carried | taken;
        if let Some(idle) = self.outward.take_idle() {
            self.idle = idle.into();
        }
        // Where sides are asked, traffic moves no deadline: who was silent is reckoned when it fires.
        if self.silence.is_some() {
            self.note_signs(carried);
        } else if carried {
            put_off(&self.deadline, self.idle);
        }
        // This leaves the waker for the stop as well, so it comes before the question whether there is one.
        let mut expired = self.deadline.poll_expired(cx);
        let stopping = self.deadline.is_stopping();
        // A drain has time to wait for the end of a message. A stop has none left: the goodbye goes in if it can.
        // Polled by one task from the first time on: what wakes it need not be told again.
        let told = match std::mem::replace(&mut self.awaits_leave, true) {
            true => self.leave.is_told(),
            false => self.leave.poll_told(cx).is_ready(),
        };
        if stopping || told && self.is_between_messages() {
            let end = if stopping { End::Stopped } else { End::Drained };
            if !stopping && self.leave.why() == Some(Why::Expired) {
                self.goodbye = UNAUTHORIZED;
            }
            self.say_goodbye(end, cx);
            return Poll::Ready(end);
        }
        // Again and again, since the next moment to look may have come already, and nothing would wake this task then.
        while expired.is_ready() {
            // Taken out while it is asked: it looks at the rest of the tunnel.
            let Some(mut silence) = self.silence.take() else { return Poll::Ready(End::Idle) };
            let broken = self.break_silence(&mut silence, cx);
            self.silence = Some(silence);
            match broken {
                Ok(Some(due)) => self.deadline.set_at(due),
                Ok(None) => self.deadline.clear(),
                Err(end) => return Poll::Ready(end),
            }
            expired = self.deadline.poll_expired(cx);
        }
        Poll::Pending
    }

    /// Notes who has given a sign of life since the last time.
    fn note_signs(&mut self, carried: bool) {
        let Some(silence) = &mut self.silence else { return };
        let now = self.deadline.now();
        if carried {
            silence.carried(now);
        }
        for who in [Who::Client, Who::Server] {
            let (to, from) = who.directions(&mut self.inward, &mut self.outward);
            if from.take_heard() | to.take_took() {
                silence.heard(who, now);
            }
            if to.tracker.as_mut().is_some_and(FrameTracker::take_pinged) {
                silence.pinged(who);
            }
        }
    }

    /// Asks the sides that have been silent for long, and says when to look again; an error is the end.
    fn break_silence(&mut self, silence: &mut Silence, cx: &Context<'_>) -> Result<Option<Moment>, End> {
        let now = self.deadline.now();
        let mut next = silence.idle();
        if next.is_some_and(|idle| idle <= now) {
            return Err(End::Idle);
        }
        // Behind a Close frame nothing is said any more, and who has finished can't answer.
        if [&self.inward, &self.outward].iter().any(|way| way.eof || way.seen.close.is_some()) {
            return Ok(next);
        }
        for who in [Who::Client, Who::Server] {
            let due = match silence.due(who, now) {
                Due::At(moment) => moment,
                Due::Gone => return Err(who.silent()),
                Due::Ask => {
                    let (to, from) = who.directions(&mut self.inward, &mut self.outward);
                    // A stream that is not understood can't be spoken in.
                    let (Some(tracker), Some(_)) = (&to.tracker, &from.tracker) else { continue };
                    if !to.pending.is_empty() || silence.is_pinged(who) {
                        // It has bytes to take, or a Ping to answer, as it is.
                        silence.asked(who, now)
                    } else if tracker.at_boundary() {
                        let mask = (who == Who::Server).then(rand::random);
                        let pings = from.pings.get_or_insert_with(|| Box::new(OwnPings::new(rand::random())));
                        to.pending.extend_from_slice(&pings.frame(mask));
                        cx.waker().wake_by_ref();
                        silence.asked(who, now)
                    } else {
                        now.after(MID_FRAME)
                    }
                }
            };
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        Ok(next)
    }

    /// Whether the client has got whole messages only, as far as frames are known at all.
    fn is_between_messages(&self) -> bool {
        self.outward.is_between_frames() && !self.outward.tracker.as_ref().is_some_and(FrameTracker::in_message)
    }

    /// Puts a Close frame behind the last whole frame to the client. Raw tunnels are just ended.
    fn say_goodbye(&mut self, end: End, cx: &mut Context<'_>) {
        let tracked = self.outward.tracker.is_some();
        if tracked && self.outward.is_between_frames() && self.outward.seen.close.is_none() && !self.outward.eof {
            if let Some(message) = self.last_message.filter(|_| self.is_between_messages()) {
                self.outward.pending.extend_from_slice(&text_frame(&message(self.goodbye)));
            }
            self.outward.pending.extend_from_slice(&close_frame(self.goodbye));
            self.outward.eof = true;
            self.left = Some(end);
            if end == End::Drained {
                self.part_from_server(cx);
            }
        }
        if self.outward.eof {
            // Best effort: a client that takes no bytes any more is not waited for.
            let _ = self.outward.poll(&mut self.server, &mut self.client, &mut None, cx);
        }
    }

    /// Tells the server as well that the WebSocket ends. Some keep for a while what was only cut, and would take its client up
    /// again by any gateway that has heard of no drain.
    fn part_from_server(&mut self, cx: &mut Context<'_>) {
        let inward = &mut self.inward;
        if inward.is_between_frames() && inward.seen.close.is_none() && !inward.eof {
            inward.pending.extend_from_slice(&close_frame_of_client(GOING_AWAY, rand::random()));
            inward.eof = true;
            let _ = inward.poll(&mut self.client, &mut self.server, &mut None, cx);
        }
    }

    /// Ready once a client that has been told goodbye has left, or has had its time.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.inward.eof {
            let _ = self.inward.poll(&mut self.client, &mut self.server, &mut None, cx);
        }
        let told = self.outward.poll(&mut self.server, &mut self.client, &mut None, cx);
        if matches!(told, Poll::Ready(Err(_))) || discard(&mut self.client, cx).is_ready() {
            return Poll::Ready(());
        }
        self.deadline.poll_expired(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::tunnel::testing::{Running, read_all, tunnel};

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
        assert_eq!(read_all(&mut client).await, close_frame(1012));
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
        assert_eq!(read_all(&mut client).await, [b"\x80\x03you".as_slice(), &close_frame(1012)].concat());
        // Its server need not guess whether it comes back.
        let told = read_all(&mut server).await;
        assert_eq!(told, close_frame_of_client(1001, told[2..6].try_into().unwrap()));
        drop(client);
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
