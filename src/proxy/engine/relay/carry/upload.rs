//! The request on its way to the server: what has been read of it goes out with its head, and the body as it comes.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use super::super::buffer::{AHEAD, Buffer};
use super::super::client::{poll_read, poll_write};
use super::super::request::Asked;
use super::{Carry, End, READS_PER_TURN};
use crate::exchange::{Exchange, Side};
use crate::http::Refusal;
use crate::http::framing::Body;
use crate::http::passing::{Part, Passing};
use crate::transport::splice::Bulk;

/// Bytes of framing before other tasks get their turn: to read it takes longer than to pass data on.
const FRAMING_PER_TURN: u64 = 64 * 1024;
/// What the framing of a body may take where its data are limited to less.
const FRAMING: u64 = 64 * 1024;

/// The request on its way to the server.
pub(in super::super) struct Upload {
    /// The head, and what has been read of the body and not been taken.
    pub(in super::super) out: Vec<u8>,
    /// How much of that the server has.
    pub(super) sent: usize,
    pub(in super::super) body: Passing,
    /// What of the body the server has not taken yet, where it is not copied.
    pub(super) bulk: Bulk,
    /// Bytes of the body so far that are no data.
    pub(super) framing: u64,
    /// Whether the request may be sent again: all of its body is in `out`, behind the head, or it has none and the head
    /// can be written anew. Whether it may be repeated at all is another matter.
    pub(super) whole: bool,
    /// The server takes no more; what still comes is passed over.
    pub(super) broken: bool,
    /// The server has not taken all at once.
    pub(super) blocked: bool,
}

impl Upload {
    /// A request whose head is written, and of whose body nothing has been looked at. It is only kept until it is
    /// answered where it may be `repeatable`.
    pub(in super::super) fn new(out: Vec<u8>, body: Passing, repeatable: bool) -> Self {
        Self { out, sent: 0, body, bulk: Bulk::default(), framing: 0, whole: repeatable, broken: false, blocked: false }
    }

    /// Once more from its beginning. `head` writes the head anew, where that has not been kept.
    pub(in super::super) fn begin_again(&mut self, head: impl FnOnce() -> Vec<u8>) {
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
    pub(super) fn is_sent(&self) -> bool {
        self.body.is_over() && !self.waits() && !self.broken
    }

    /// Whether something waits until the server takes it.
    pub(super) fn waits(&self) -> bool {
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

impl Carry<'_> {
    pub(super) fn poll_upload(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<End> {
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
}
