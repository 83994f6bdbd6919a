//! One exchange between two open connections: the request goes, the answer comes, both at once where they have to, until
//! the answer is with the client or one of them fails.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::super::{HALF_CLOSED, LOOK};
use super::buffer::{self, AHEAD, Buffer};
use super::client::{poll_ended, poll_read, poll_write};
use super::reading::Reading;
use super::request::Asked;
use super::server::Server;
use super::told::Told;
use crate::deadline::{Moment, Span};
use crate::ending::Stopping;
use crate::exchange::{Core, Exchange, Side};
use crate::http::Refusal;
use crate::http::framing::Body;
use crate::http::head::room;
use crate::http::passing::{Part, Passing};
use crate::http::response::{self, Towards};
use crate::http::trailers::Trailers;
use crate::listener::Connection;
use crate::request::Headers;
use crate::transport::Transport;
use crate::transport::splice::Bulk;

/// Reads before other tasks get their turn.
const READS_PER_TURN: usize = 16;
/// Interim answers before one that is meant.
const MOST_INTERIMS: u8 = 32;
/// Bytes of framing before other tasks get theirs: to read it takes longer than to pass data on.
const FRAMING_PER_TURN: u64 = 64 * 1024;
/// What the framing of a body may take where its data are limited to less.
const FRAMING: u64 = 64 * 1024;

/// Times that rule an exchange; zero is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Between two reads of the request's body, and for it to bring what it has to.
    pub(super) body: Span,
    /// How long the client may take nothing of what waits for it.
    pub(super) write: Span,
    /// The same for the server.
    pub(super) server_write: Span,
    /// For the answer to begin.
    pub(super) first_byte: Span,
    /// Between two parts of it.
    pub(super) read_idle: Span,
}

/// The request on its way to the server.
pub(super) struct Upload {
    /// The head, and what has been read of the body and not been taken.
    pub(super) out: Vec<u8>,
    /// How much of that the server has.
    sent: usize,
    pub(super) body: Passing,
    /// What of the body the server has not taken yet, where it is not copied.
    bulk: Bulk,
    /// Bytes of the body so far that are no data.
    framing: u64,
    /// Whether the request may be sent again: all of its body is in `out`, behind the head, or it has none and the head
    /// can be written anew. Whether it may be repeated at all is another matter.
    whole: bool,
    /// The server takes no more; what still comes is passed over.
    broken: bool,
    /// The server has not taken all at once.
    blocked: bool,
}

/// The answer on its way to the client.
#[derive(Default)]
struct Download {
    /// What has come of a head.
    head: Vec<u8>,
    interims: u8,
    /// The body, once the head is whole.
    body: Option<Passing>,
    /// What the client has not taken yet.
    out: Vec<u8>,
    /// How much of that it has.
    sent: usize,
    /// The same, where it is not copied.
    bulk: Bulk,
    /// The status that it has been told, or is about to be.
    status: u16,
    /// Bytes of the body that have been passed on.
    bytes: u64,
    /// Whether its end is the end of the connection, for the client.
    until_close: bool,
    /// Whether the client may send another request then.
    keep: bool,
    /// Whether the server's connection can be used again.
    reusable: bool,
    /// Whether it belongs to this client's user from now on.
    logged_in: bool,
    /// Something has been written that TLS may still hold.
    unflushed: bool,
    reading: Reading,
}

/// An exchange under way.
pub(super) struct Carry<'a> {
    core: &'a Core,
    client: &'a mut Connection,
    server: Server,
    exchange: &'a mut Exchange,
    asked: &'a Asked,
    upload: &'a mut Upload,
    download: Download,
    times: Times,
    /// Whether the connection to the server was used before.
    reused: bool,
    /// Says when the client's connection ends with the exchange under way.
    stopping: &'a Stopping,
    /// When something last went from or to the client, and the server.
    client_moved: Moment,
    server_moved: Moment,
    /// Whether either of them has taken any of what waited for it since that was counted last.
    taken: bool,
    /// Since when the body has to bring what it has to, and how much of it there was then.
    paced: (Moment, u64),
    /// When the client finished sending.
    half_closed: Option<Moment>,
    told: Told,
}

/// How the carrying ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client has its answer.
    Answered,
    /// A connection that was kept had ended already; nothing of an answer came, and the request may be sent again.
    Stale,
    /// A new connection has ended before anything of an answer came, and the request may be sent again.
    Unanswered,
    /// The server has said that it has not looked at the request: it may be sent again, whatever it is.
    NotTaken,
    /// The turn of the session has come, whose poll this is.
    Told,
    /// The client is owed this in place of an answer; whose fault it is.
    Refused(Refusal, Side),
    /// One of them is gone, in the middle of the answer or with nobody left to be told.
    Cut(Side),
}

/// What is known in the end.
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) until_close: bool,
    pub(super) keep: bool,
    /// The server's connection, if it can be used again, and whether only for this client.
    pub(super) server: Option<(Transport, bool)>,
}

/// Whether an answer that is given now is the last on its connection, whatever its client wishes.
pub(super) fn is_last(core: &Core, stopping: &Stopping, exchange: &Exchange) -> bool {
    if exchange.is_last(core) {
        return true;
    }
    if !stopping.has_changed().unwrap_or(true) {
        return false;
    }
    // Which one is when the gateway leaves, the exchange says, until everybody has been told goodbye.
    if core.ending.is_leaving() { *core.ending.told().borrow() } else { *stopping.borrow() }
}

impl Upload {
    /// A request whose head is written, and of whose body nothing has been looked at. It is only kept until it is
    /// answered where it may be `repeatable`.
    pub(super) fn new(out: Vec<u8>, body: Passing, repeatable: bool) -> Self {
        Self { out, sent: 0, body, bulk: Bulk::default(), framing: 0, whole: repeatable, broken: false, blocked: false }
    }

    /// Once more from its beginning. `head` writes the head anew, where that has not been kept.
    pub(super) fn begin_again(&mut self, head: impl FnOnce() -> Vec<u8>) {
        (self.sent, self.broken) = (0, false);
        if self.out.is_empty() {
            self.out = head();
        }
    }

    /// Lets go of what the server has taken.
    fn let_go(&mut self) {
        (self.out, self.sent) = (Vec::new(), 0);
    }

    /// Whether the server has got all of it.
    fn is_sent(&self) -> bool {
        self.body.is_over() && !self.waits() && !self.broken
    }

    /// Whether something waits until the server takes it.
    fn waits(&self) -> bool {
        self.sent < self.out.len() || self.bulk.waiting() > 0
    }

    /// Takes the next bytes of the body, or refuses them.
    fn take(&mut self, bytes: &mut [u8], exchange: &mut Exchange, asked: &Asked) -> Result<Part, Refusal> {
        let part = self.body.take(bytes).ok_or(Refusal::BadRequest)?;
        if self.body.trailers_len() as u64 > exchange.snapshot().config.limits.head.as_u64() {
            return Err(Refusal::HeadTooLarge);
        }
        let data = &bytes[part.data.clone()];
        self.framing += (part.taken - data.len()) as u64;
        let most = exchange.most_body();
        if most != 0 && self.framing > most.max(FRAMING) {
            return Err(Refusal::BodyTooLarge);
        }
        if !data.is_empty() {
            exchange.hear_request(data, asked.body == Body::Length(data.len() as u64))?;
        }
        Ok(part)
    }

    /// Ends a body that has trailers, with those that may pass.
    fn end_with_trailers(&mut self, exchange: &Exchange, asked: &Asked) -> Result<(), Refusal> {
        let Some(trailers) = self.body.take_trailers() else { return Ok(()) };
        let request = asked.line();
        let fields = exchange.to_server(&request);
        trailers.write_last_chunk(&mut self.out, &exchange.snapshot().config.limits, |name| fields.pass(name))
    }
}

impl<'a> Carry<'a> {
    /// Over this connection to the server, which was used before or not.
    pub(super) fn new(
        core: &'a Core,
        client: &'a mut Connection,
        (server, reused): (Server, bool),
        (exchange, asked): (&'a mut Exchange, &'a Asked),
        upload: &'a mut Upload,
        times: Times,
        stopping: &'a Stopping,
    ) -> Self {
        let now = client.deadline.now();
        let download = Download::default();
        let (client_moved, server_moved, paced) = (now, now, (now, 0));
        Self {
            core,
            client,
            server,
            exchange,
            asked,
            upload,
            download,
            times,
            reused,
            stopping,
            client_moved,
            server_moved,
            taken: false,
            paced,
            half_closed: None,
            told: Told::default(),
        }
    }

    /// What has come of it.
    pub(super) fn outcome(self) -> Outcome {
        let Self { server, upload, download, .. } = self;
        let Download { status, bytes, until_close, keep, reusable, logged_in, .. } = download;
        let whole = reusable && upload.is_sent();
        let server = server.into_connection().filter(|_| whole).map(|server| (server, logged_in));
        Outcome { status, bytes, until_close, keep, server }
    }

    /// Carries on, as far as it goes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(end) = self.poll_end(cx) {
            return Poll::Ready(self.as_far_as_known(end));
        }
        if self.client_has_to_read() {
            self.server.take_ahead(cx);
        }
        let waiting = self.waiting();
        self.client.waiting.set(waiting);
        if std::mem::take(&mut self.taken) {
            self.client.waiting.taken();
        }
        self.client.waiting.poll_has_to_go(cx).map(|()| End::Cut(Side::NoRoom))
    }

    /// Bytes that wait until either side takes them.
    fn waiting(&self) -> usize {
        let Self { client, server, upload, download, .. } = self;
        let up = if upload.sent < upload.out.len() { upload.out.len() } else { 0 };
        let down = download.head.len() + download.out.len();
        let bulk = upload.bulk.waiting() + download.bulk.waiting();
        let trailers = upload.body.trailers_len() + download.body.as_ref().map_or(0, Passing::trailers_len);
        let behind = server.unsent() + server.unread();
        up + down + bulk + trailers + client.held.len() + client.transport.unsent() + behind
    }

    fn as_far_as_known(&self, end: End) -> End {
        match end {
            // The half of an interim answer can't be taken back.
            End::Refused(_, side) if self.download.sent > 0 => End::Cut(side),
            End::Told if self.download.sent > 0 => End::Cut(Side::Client),
            end => end,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        buffer::lend(|buffer| {
            if let Poll::Ready(end) = self.poll_upload(buffer, cx) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(end) = self.poll_download(buffer, cx) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(end) = self.poll_client(buffer, cx) {
                return Poll::Ready(end);
            }
            self.poll_waits(cx)
        })
    }

    /// Whether the client can still be told something else than the server's answer.
    fn is_unanswered(&self) -> bool {
        self.download.body.is_none()
    }

    /// When the body has to have brought more, or to have ended, and when that is to be looked at again. With an answer
    /// that has begun this is a conversation.
    fn body_due(&self) -> (Option<Moment>, Option<Moment>) {
        if !self.is_unanswered() {
            return (None, None);
        }
        let (began, came) = self.paced;
        let (pace, wanted) = self.exchange.body_due(self.exchange.body_in().saturating_sub(came));
        let look = wanted.map(|time| began.after(time).max(self.client.deadline.now().after(LOOK)));
        (pace.map(|time| began.after(time)), look)
    }

    /// Whether something waits until the client takes it.
    fn client_has_to_read(&self) -> bool {
        let Self { client, download, .. } = self;
        !download.out.is_empty() || download.bulk.waiting() > 0 || client.transport.unsent() > 0
    }

    fn refuse(&self, refusal: Refusal, side: Side) -> End {
        if self.is_unanswered() { End::Refused(refusal, side) } else { End::Cut(side) }
    }

    fn poll_upload(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<End> {
        if self.upload.is_sent() {
            return Poll::Pending;
        }
        if self.upload.sent == 0 && !self.client.held.is_empty() {
            // What came with the head goes out with it.
            if let Err(refusal) = self.add_held() {
                return Poll::Ready(self.refuse(refusal, Side::Client));
            }
        }
        let framing_before = self.upload.framing;
        for _ in 0..READS_PER_TURN {
            if self.upload.framing - framing_before > FRAMING_PER_TURN {
                break;
            }
            let Upload { out, sent, body, bulk, broken, whole, blocked, .. } = &mut self.upload;
            if !*broken {
                let before = *sent;
                let mut written = poll_write(&mut self.server, out, sent, cx);
                let mut went = *sent > before;
                if let (Poll::Ready(Ok(())), Some(socket)) = (&written, self.server.plain_socket()) {
                    written = bulk.poll_empty(socket, &mut went, cx);
                }
                if went {
                    (self.server_moved, self.taken) = (self.client.deadline.now(), true);
                }
                match written {
                    Poll::Pending => {
                        *blocked = true;
                        return Poll::Pending;
                    }
                    // Why it takes no more it may have said.
                    Poll::Ready(Err(_)) => {
                        *broken = true;
                        bulk.clear();
                    }
                    Poll::Ready(Ok(())) => {}
                }
                if std::mem::take(blocked) {
                    // It is not the client that was slow.
                    self.paced = (self.client.deadline.now(), self.exchange.body_in());
                    self.client_moved = self.paced.0;
                }
            }
            // What TLS holds goes when the answer is read, which comes next.
            if body.is_over() {
                // A head alone can be written anew.
                if !*whole || self.asked.body == Body::None {
                    self.upload.let_go();
                }
                return Poll::Pending;
            }
            *whole = false;
            self.upload.let_go();
            if !self.client.held.is_empty() {
                if let Err(refusal) = self.add_held() {
                    return Poll::Ready(self.refuse(refusal, Side::Client));
                }
                continue;
            }
            let spliced = self.splice_up(cx);
            let copied = spliced.is_none();
            let read = spliced.unwrap_or_else(|| poll_read(&mut self.client.transport, buffer, AHEAD, cx));
            let read = match read {
                Poll::Ready(Ok(read @ 1..)) => read,
                // Without the rest nobody needs an answer, and the server must not take the half for the whole.
                Poll::Ready(_) => return Poll::Ready(End::Cut(Side::Client)),
                Poll::Pending => return Poll::Pending,
            };
            self.client_moved = self.client.deadline.now();
            let gone = if copied { self.send(buffer, AHEAD..AHEAD + read, cx) } else { self.spliced_up(read) };
            if let Err(refusal) = gone {
                return Poll::Ready(self.refuse(refusal, Side::Client));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves on what has come of the body without a copy, where that pays.
    fn splice_up(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let Self { client, server, upload, .. } = self;
        let left = upload.body.left().filter(|_| !upload.broken)?;
        upload.bulk.poll_fill(client.transport.plain_socket(), server.plain_socket(), left, cx)
    }

    fn spliced_up(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.upload.body.pass(bytes as u64);
        self.exchange.count_request(bytes as u64)
    }

    /// The same for the answer, where nobody looks at that.
    fn splice_down(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let Self { client, server, download, exchange, .. } = self;
        let as_it_is = !exchange.compresses() && !exchange.hears_answer();
        let left = download.body.as_ref()?.left().filter(|_| as_it_is)?;
        download.bulk.poll_fill(server.plain_socket(), client.transport.plain_socket(), left, cx)
    }

    fn spliced_down(&mut self, bytes: usize) {
        let Download { body, bytes: passed, .. } = &mut self.download;
        *passed += bytes as u64;
        if let Some(body) = body {
            body.pass(bytes as u64);
        }
    }

    /// Puts what is held of the body behind the head.
    fn add_held(&mut self) -> Result<(), Refusal> {
        let Self { client, upload, exchange, asked, .. } = self;
        let Part { taken, data } = upload.take(&mut client.held, exchange, asked)?;
        upload.body.frame_into(&mut upload.out, &client.held[data]);
        upload.end_with_trailers(exchange, asked)?;
        client.held.advance(taken);
        if client.held.is_empty() {
            client.held = BytesMut::new();
        }
        upload.whole &= upload.body.is_over();
        Ok(())
    }

    /// Sends what has been read of the body, which lies here in the buffer; keeps what does not go at once.
    fn send(&mut self, buffer: &mut Buffer, read: Range<usize>, cx: &mut Context<'_>) -> Result<(), Refusal> {
        let Self { client, upload, exchange, asked, .. } = self;
        upload.bulk.note_read(read.len());
        let Part { taken, data } = upload.take(&mut buffer.bytes[read.clone()], exchange, asked)?;
        client.held.extend_from_slice(&buffer.bytes[read.start + taken..read.end]);
        if upload.broken {
            return Ok(());
        }
        let framed = upload.body.frame(&mut buffer.bytes, read.start + data.start..read.start + data.end);
        let (all, mut written) = (&buffer.bytes[framed], 0);
        if let Poll::Ready(Err(_)) = poll_write(&mut self.server, all, &mut written, cx) {
            upload.broken = true;
            return Ok(());
        }
        if written > 0 {
            self.server_moved = client.deadline.now();
        }
        upload.out.extend_from_slice(&all[written..]);
        upload.end_with_trailers(exchange, asked)
    }

    fn poll_download(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<End> {
        for turn in 0..READS_PER_TURN {
            let Download { out, sent, body, bulk, unflushed, .. } = &mut self.download;
            if bulk.waiting() > 0 {
                let mut went = false;
                let emptied = bulk.poll_empty(self.client.transport.socket(), &mut went, cx);
                if went {
                    (self.client_moved, self.taken) = (self.client.deadline.now(), true);
                }
                if let Err(error) = ready!(emptied) {
                    return Poll::Ready(End::Cut(Side::of_client(&error)));
                }
            }
            if !out.is_empty() {
                let before = (*sent, self.client.transport.unsent());
                let written = poll_write(&mut self.client.transport, out, sent, cx);
                if (*sent, self.client.transport.unsent()) != before {
                    (self.client_moved, self.taken) = (self.client.deadline.now(), true);
                    *unflushed = true;
                }
                match written {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Cut(Side::of_client(&error))),
                    Poll::Ready(Ok(())) => (*out, *sent) = (Vec::new(), 0),
                }
            }
            if body.as_ref().is_some_and(Passing::is_over) {
                return self.poll_flushed(cx).map(|flushed| flushed.map_or(End::Cut(Side::Client), |()| End::Answered));
            }
            if turn > 0 && self.exchange.compresses() {
                // Compressing takes its time, for which all others of this thread wait.
                break;
            }
            let begun = self.download.head.len();
            buffer.bytes[AHEAD..AHEAD + begun].copy_from_slice(&self.download.head);
            let spliced = self.splice_down(cx);
            let copied = spliced.is_none();
            let read = spliced.unwrap_or_else(|| poll_read(&mut self.server, buffer, AHEAD + begun, cx));
            let read = match read {
                Poll::Pending => match self.let_out() {
                    Ok(true) => continue,
                    Ok(false) => {
                        let _ = self.poll_flushed(cx);
                        return Poll::Pending;
                    }
                    Err(end) => return Poll::Ready(end),
                },
                Poll::Ready(Ok(read @ 1..)) => read,
                Poll::Ready(Ok(_)) => match self.server_ended(None) {
                    Some(end) => return Poll::Ready(end),
                    None => continue,
                },
                Poll::Ready(Err(error)) => match self.server_ended(Some(error)) {
                    Some(end) => return Poll::Ready(end),
                    None => continue,
                },
            };
            self.server_moved = self.client.deadline.now();
            if !copied {
                self.spliced_down(read);
                continue;
            }
            self.download.bulk.note_read(read);
            if let Err(end) = self.pass_on(buffer, AHEAD..AHEAD + begun + read, cx) {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sees to it that TLS holds nothing of what was written to the client.
    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let (true, Transport::FromClient(stream)) = (self.download.unflushed, &mut self.client.transport) {
            let before = stream.unsent();
            let flushed = Pin::new(&mut *stream).poll_flush(cx);
            if stream.unsent() != before {
                (self.client_moved, self.taken) = (self.client.deadline.now(), true);
            }
            ready!(flushed)?;
        }
        self.download.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// The server has finished, or its connection broke; `None` where that is the end of a proper answer.
    fn server_ended(&mut self, error: Option<io::Error>) -> Option<End> {
        let Self { download, upload, exchange, asked, .. } = self;
        let Download { head, body, out, bytes, interims, .. } = download;
        match body {
            None if head.is_empty() && *interims == 0 && upload.whole => Some(if self.server.not_taken() {
                End::NotTaken
            } else if asked.is_idempotent && self.reused {
                End::Stale
            } else if asked.is_idempotent && asked.body == Body::None {
                End::Unanswered
            } else {
                End::Refused(Refusal::BadAnswer, Side::Server)
            }),
            None => Some(End::Refused(Refusal::BadAnswer, Side::Server)),
            Some(body) => {
                if error.is_some() || !body.close() {
                    return Some(End::Cut(Side::Server));
                }
                exchange.hear_answer(b"", true);
                let Ok(last) = exchange.compress(b"", true) else { return Some(End::Cut(Side::NoRoom)) };
                *bytes += last.len() as u64;
                body.frame_into(out, &last);
                None
            }
        }
    }

    /// Passes on what the server has said, which lies here in the buffer.
    fn pass_on(&mut self, buffer: &mut Buffer, said: Range<usize>, cx: &mut Context<'_>) -> Result<(), End> {
        let Range { mut start, end } = said;
        buffer.head.clear();
        while self.download.body.is_none() {
            match self.read_head(buffer, start..end)? {
                Some(length) => start += length,
                None => return Ok(()),
            }
        }
        let Download { body, out, bytes, reusable, .. } = &mut self.download;
        let Some(body) = body else { return Ok(()) };
        let Some(Part { taken, data }) = body.take(&mut buffer.bytes[start..end]) else {
            // What was read with the head has not been written yet.
            return Err(if buffer.head.is_empty() {
                End::Cut(Side::Server)
            } else {
                End::Refused(Refusal::BadAnswer, Side::Server)
            });
        };
        // Whatever else it says was not asked for.
        *reusable &= taken == end - start;
        let data = start + data.start..start + data.end;
        self.exchange.hear_answer(&buffer.bytes[data.clone()], body.is_over());
        if self.exchange.compresses() {
            let part = self.exchange.compress(&buffer.bytes[data], body.is_over());
            let part = part.map_err(|_| End::Cut(Side::NoRoom))?;
            *bytes += part.len() as u64;
            out.extend_from_slice(&buffer.head);
            body.frame_into(out, &part);
            self.end_behind_data();
            return Ok(());
        }
        *bytes += data.len() as u64;
        let framed = body.frame(&mut buffer.bytes, data);
        let Buffer { bytes: room, head } = buffer;
        let framed = if head.len() <= framed.start {
            let start = framed.start - head.len();
            room[start..framed.start].copy_from_slice(head);
            start..framed.end
        } else {
            out.extend_from_slice(head);
            framed
        };
        // Mostly it goes at once, without being kept.
        let mut written = 0;
        let all = &room[framed];
        if out.is_empty() {
            match poll_write(&mut self.client.transport, all, &mut written, cx) {
                Poll::Ready(Err(_)) => return Err(End::Cut(Side::Client)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if written > 0 {
                self.client_moved = self.client.deadline.now();
                self.download.unflushed = true;
            }
        }
        self.download.out.extend_from_slice(&all[written..]);
        self.end_behind_data();
        Ok(())
    }

    /// Lets out what is held to be compressed better, since the server says nothing more for now: it may be meant to be read
    /// before that comes. True where something has come out.
    fn let_out(&mut self) -> Result<bool, End> {
        let Download { body: Some(body), out, bytes, .. } = &mut self.download else { return Ok(false) };
        // What tells its length comes to its end by itself.
        if body.left().is_some() || !self.exchange.compresses() {
            return Ok(false);
        }
        let part = self.exchange.let_out().map_err(|_| End::Cut(Side::NoRoom))?;
        *bytes += part.len() as u64;
        body.frame_into(out, &part);
        Ok(!part.is_empty())
    }

    /// Ends an answer whose last data have come, where trailers are behind them.
    fn end_behind_data(&mut self) {
        if let Some(trailers) = self.download.body.as_mut().and_then(Passing::take_trailers) {
            self.end_with_trailers(&trailers);
        }
    }

    /// Ends an answer that has trailers, with those that may pass; with none where they can't be read.
    #[cold]
    fn end_with_trailers(&mut self, trailers: &Trailers) {
        let Self { download, exchange, .. } = self;
        let Some(body) = &download.body else { return };
        let (limits, edits) = (&exchange.snapshot().config.limits, exchange.answer_edits());
        if trailers.write_last_chunk(&mut download.out, limits, |name| edits.keeps(name)).is_err() {
            download.out.extend_from_slice(body.end());
        }
    }

    /// Reads the head that begins here: its length; `None` where its end has not come, and what there is has been kept.
    fn read_head(&mut self, buffer: &mut Buffer, within: Range<usize>) -> Result<Option<usize>, End> {
        let bad = || End::Refused(Refusal::BadAnswer, Side::Server);
        let Self { download, upload, exchange, asked, .. } = self;
        let mut fields = room();
        let said = &buffer.bytes[within];
        let Ok(parsed) = response::parse(said, &mut fields) else { return Err(bad()) };
        let Some(head) = parsed else {
            download.head = said.to_vec();
            return Ok(None);
        };
        if head.is_interim() {
            if head.status == 101 {
                // The exchange says what that is where nobody has asked for it.
                let _ = exchange.answered(101, Headers::Fields(head.fields));
                return Err(bad());
            }
            download.interims += 1;
            if download.interims > MOST_INTERIMS {
                return Err(bad());
            }
            if asked.is_new {
                head.write_interim(&mut download.out);
            }
            download.head = Vec::new();
            return Ok(Some(head.length));
        }
        let Ok(body) = head.body(asked.is_head) else { return Err(bad()) };
        let knows_chunks = asked.is_new;
        download.reusable = head.keeps_connection() && body != Body::UntilClose;
        download.logged_in = asked.logs_connection_in || head.logs_connection_in();
        if let Err(refusal) = exchange.answered(head.status, Headers::Fields(head.fields)) {
            return Err(End::Refused(refusal, Side::Server));
        }
        // How long it is compressed nobody knows before.
        let told = if exchange.compresses() && body != Body::Chunked { Body::UntilClose } else { body };
        let endless = matches!(told, Body::Chunked | Body::UntilClose);
        download.until_close = endless && !knows_chunks;
        // A client that waits to be asked for its body may send it or not: where the next request begins is unclear.
        let unclear = asked.expects && !upload.body.is_over() && download.interims == 0;
        download.keep =
            asked.is_kept_alive && !is_last(self.core, self.stopping, exchange) && !download.until_close && !unclear;
        let towards = Towards { knows_chunks, keep: download.keep };
        head.write(&mut buffer.head, exchange.answer_edits(), told, towards);
        download.status = head.status;
        download.reading.begins(exchange, Headers::Fields(head.fields));
        download.body = Some(Passing::new(body, knows_chunks && endless).behind(Headers::Fields(head.fields)));
        download.head = Vec::new();
        // It can't be sent again any more.
        upload.whole = false;
        Ok(Some(head.length))
    }

    /// Looks whether the client is still there, where nothing of its request is to be read.
    fn poll_client(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<End> {
        if !self.upload.body.is_over() || self.half_closed.is_some() {
            let stopping = self.client.deadline.is_stopping();
            return if stopping { Poll::Ready(End::Cut(Side::Client)) } else { Poll::Pending };
        }
        match poll_ended(self.client, buffer, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) if self.client_has_to_read() => Poll::Ready(End::Cut(Side::of_client(&error))),
            // A session is better off without a poll of which nobody knows whether it is heard.
            Poll::Ready(Ok(())) if !self.exchange.is_poll() => {
                self.half_closed = Some(self.client.deadline.now());
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(End::Cut(Side::Client)),
        }
    }

    /// Whether something else ends the wait: the session's turn to leave, or the time.
    fn poll_waits(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.is_unanswered() && self.told.poll(self.core, self.exchange, cx).is_ready() {
            return Poll::Ready(End::Told);
        }
        if self.exchange.is_endable_stream()
            && self.told.poll(self.core, self.exchange, cx).is_ready()
            && self.end_stream()
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let slow = self.slow();
        let (due, look, end) = self.due(slow);
        match due.into_iter().chain(look).min() {
            Some(next) => self.client.deadline.set_at(next),
            None => self.client.deadline.clear(),
        }
        ready!(self.client.deadline.poll_expired(cx));
        if due.is_none_or(|due| due > self.client.deadline.now()) || self.takes_on() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let End::Refused(_, Side::Server) | End::Cut(Side::Server) = end {
            self.server.doubt();
        }
        Poll::Ready(end)
    }

    /// Ends a stream whose session has to go, with the last that is said to it. False where that can't be, or not yet.
    #[cold]
    fn end_stream(&mut self) -> bool {
        let Download { body: Some(body), out, bytes, reusable, .. } = &mut self.download else { return false };
        if body.is_over() || body.left().is_some() {
            return false;
        }
        let Some(words) = self.exchange.last_words(self.core) else { return false };
        let Ok(last) = self.exchange.compress(&words, true) else { return false };
        body.end_early();
        *bytes += last.len() as u64;
        body.frame_into(out, &last);
        // The server has not finished.
        *reusable = false;
        true
    }

    /// Whether who has to take something has taken any: see [`Transport::offer`].
    fn takes_on(&mut self) -> bool {
        let to_client = self.client_has_to_read();
        let Self { client, server, upload, download, .. } = self;
        let (out, sent, bulk, moved) = if to_client {
            let Download { out, sent, bulk, .. } = download;
            (out, sent, bulk, &mut self.client_moved)
        } else {
            let Upload { out, sent, bulk, .. } = &mut **upload;
            (out, sent, bulk, &mut self.server_moved)
        };
        if bulk.waiting() > 0 && out.len() == *sent {
            let socket = if to_client { client.transport.plain_socket() } else { server.plain_socket() };
            if socket.is_none_or(|socket| bulk.offer(socket) == 0) {
                return false;
            }
        } else {
            let rest = &out[*sent..];
            let taken = if to_client { client.transport.offer(rest) } else { server.offer(rest) };
            let Some(taken) = taken else { return false };
            *sent += taken;
        }
        (*moved, self.taken) = (client.deadline.now(), true);
        download.unflushed |= to_client;
        true
    }

    /// When the client has to have taken more of its answer.
    fn slow(&mut self) -> Option<Moment> {
        let waits = self.client_has_to_read();
        let Download { out, sent, bulk, bytes, reading, .. } = &mut self.download;
        let behind = out.len() - *sent + bulk.waiting() + self.client.transport.unsent();
        reading.due(self.exchange, waits, bytes.saturating_sub(behind as u64), self.client.deadline.now())
    }

    /// When it has waited for too long for what it waits for, when that may be so before, and what becomes of it then.
    fn due(&self, slow: Option<Moment>) -> (Option<Moment>, Option<Moment>, End) {
        let Self { upload, times, .. } = self;
        let mut look = None;
        let (due, end) = if self.client_has_to_read() {
            match (times.write.after(self.client_moved), slow) {
                (stalled, Some(slow)) if stalled.is_none_or(|stalled| slow < stalled) => {
                    (Some(slow), End::Cut(Side::SlowClient))
                }
                (stalled, _) => (stalled, End::Cut(Side::StalledClient)),
            }
        } else if upload.body.is_over() && upload.is_sent() || upload.broken {
            let time = if self.is_unanswered() { times.first_byte } else { times.read_idle };
            (time.after(self.server_moved), self.refuse(Refusal::AnswerTimeout, Side::Server))
        } else if upload.waits() {
            (times.server_write.after(self.server_moved), self.refuse(Refusal::AnswerTimeout, Side::Server))
        } else {
            let silence = times.body.after(self.client_moved);
            let (pace, again) = self.body_due();
            look = again;
            (silence.into_iter().chain(pace).min(), self.refuse(Refusal::BodyTimeout, Side::Client))
        };
        match self.half_closed.map(|at| at.max(self.server_moved).after(HALF_CLOSED)) {
            // Who has something to take may still be there.
            Some(left) if due.is_none_or(|due| left < due) && !self.client_has_to_read() => {
                (Some(left), None, End::Cut(Side::Client))
            }
            _ => (due, look, end),
        }
    }
}
