//! The answer on its way to the client: its head is written anew, and its body passed on as it comes.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::super::buffer::{AHEAD, Buffer};
use super::super::client::{poll_read, poll_write};
use super::super::reading::Reading;
use super::{Carry, End, READS_PER_TURN, is_last};
use crate::exchange::Side;
use crate::http::Refusal;
use crate::http::framing::Body;
use crate::http::head::room;
use crate::http::passing::{Part, Passing};
use crate::http::response::{self, Towards};
use crate::http::trailers::Trailers;
use crate::request::Headers;
use crate::transport::Transport;
use crate::transport::splice::Bulk;

/// Interim answers before one that is meant.
const MOST_INTERIMS: u8 = 32;

/// The answer on its way to the client.
#[derive(Default)]
pub(super) struct Download {
    /// What has come of a head.
    pub(super) head: Vec<u8>,
    pub(super) interims: u8,
    /// The body, once the head is whole.
    pub(super) body: Option<Passing>,
    /// What the client has not taken yet.
    pub(super) out: Vec<u8>,
    /// How much of that it has.
    pub(super) sent: usize,
    /// The same, where it is not copied.
    pub(super) bulk: Bulk,
    /// The status that it has been told, or is about to be.
    pub(super) status: u16,
    /// Bytes of the body that have been passed on.
    pub(super) bytes: u64,
    /// Whether its end is the end of the connection, for the client.
    pub(super) until_close: bool,
    /// Whether the client may send another request then.
    pub(super) keep: bool,
    /// Whether the server's connection can be used again.
    pub(super) reusable: bool,
    /// Whether it belongs to this client's user from now on.
    pub(super) logged_in: bool,
    /// Something has been written that TLS may still hold.
    pub(super) unflushed: bool,
    pub(super) reading: Reading,
}

impl Carry<'_> {
    pub(super) fn poll_download(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<End> {
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

    /// Ends a stream whose session has to go, with the last that is said to it. False where that can't be, or not yet.
    #[cold]
    pub(super) fn end_stream(&mut self) -> bool {
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
}
