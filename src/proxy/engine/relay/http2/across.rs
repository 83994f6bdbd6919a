//! One exchange between a stream of the client's and one to a server: heads, data and trailers pass as they are, both ways
//! at once, and neither faster than the other side takes it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::carry::{End, MOST_INTERIMS};
use super::line::{Behind, Timer};
use super::request::Asked;
use super::stream::{BodyIn, Client};
use crate::config::Config;
use crate::deadline::Moment;
use crate::exchange::{Core, Exchange, Side};
use crate::http::Refusal;
use crate::http::edits::HeaderEdits;
use crate::http::framing::Body;
use crate::http::hop_by_hop::is_hop_by_hop;
use crate::http::trailers::{self, announced, may_trail};
use crate::proxy::engine::LOOK;
use crate::proxy::engine::relay::reading::Reading;
use crate::proxy::engine::relay::shared::{Place, Taken};
use crate::proxy::engine::relay::told::Told;
use crate::request::Headers;
use crate::upstream::http2::SEND_BUFFER;

/// Parts of a body before other tasks get their turn.
const PARTS_PER_TURN: usize = 64;
/// Bytes of small parts that are put together.
const MERGED: usize = 16 * 1024;

/// An exchange under way.
pub(super) struct Across<'a> {
    core: &'a Core,
    client: &'a mut Client,
    body_in: &'a mut BodyIn,
    exchange: &'a mut Exchange,
    asked: &'a Asked,
    place: Place,
    /// Where the body of the request goes; `None` once it is over.
    sending: Option<SendStream<Bytes>>,
    answer: ResponseFuture,
    interims: u8,
    /// Where the body of the answer comes from, once its head is there.
    receiving: Option<RecvStream>,
    /// What the server has not taken yet.
    out: Bytes,
    /// What comes behind that. It is taken from the crate as it comes, since many small parts would cost much there; no more
    /// comes than the client has room for.
    out_ahead: BytesMut,
    /// Whether the client gets room for as much again, once that is gone.
    owed: bool,
    /// How many parts of a body that goes once more have gone.
    again: usize,
    upload: Upload,
    /// What comes behind the request.
    trailers_in: Option<HeaderMap>,
    /// What the client has not taken yet.
    waiting: Bytes,
    /// What comes behind that, as above.
    waiting_ahead: BytesMut,
    /// Bytes of the answer for which the server gets room once what they were compressed to has gone.
    unreleased: usize,
    /// All of the answer has come.
    over: bool,
    /// What comes behind it.
    trailers: Option<HeaderMap>,
    /// The client has been told its end.
    ended: bool,
    status: u16,
    bytes: u64,
    server_moved: Moment,
    client_moved: Moment,
    /// Since when the body has to bring what it has to, and how much of it there was then.
    paced: (Moment, u64),
    blocked: bool,
    is_grpc: bool,
    timer: Option<Timer>,
    reading: Reading,
    told: Told,
    behind: Behind,
}

/// How far the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// More of its body comes.
    Goes,
    /// All of it has come.
    Over,
    /// The server takes no more.
    Broken,
}

impl Drop for Across<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.place.cut();
        }
    }
}

impl<'a> Across<'a> {
    /// Over this connection to the server.
    ///
    /// # Errors
    /// Why the server is not asked.
    pub(super) fn begin(
        core: &'a Core,
        (client, body_in): (&'a mut Client, &'a mut BodyIn),
        mut taken: Taken,
        exchange: &'a mut Exchange,
        asked: &'a Asked,
    ) -> Result<Self, End> {
        let request = asked.to_http2(exchange).ok_or(End::Refused(Refusal::BadRequest, Side::Client))?;
        let (out, upload) = match &body_in.taken_in {
            Some(taken) => (taken.bytes.clone(), Upload::Over),
            None if asked.body == Body::None => (Bytes::new(), Upload::Over),
            None => (Bytes::new(), Upload::Goes),
        };
        let whole = upload == Upload::Over && out.is_empty();
        let (answer, sending) = match taken.requests.send_request(request, whole) {
            Ok(sent) => sent,
            // It was told to go at this moment.
            Err(error) if error.is_go_away() || error.is_io() => return Err(End::NotTaken),
            Err(error) => {
                log::debug!("a request can't be asked by HTTP/2: {error}");
                return Err(End::Refused(Refusal::BadRequest, Side::Client));
            }
        };
        let now = client.line.now();
        let behind = Behind::of(&client.line);
        Ok(Self {
            core,
            is_grpc: asked.is_grpc(),
            client,
            body_in,
            exchange,
            asked,
            place: taken.place,
            sending: (!whole).then_some(sending),
            answer,
            interims: 0,
            receiving: None,
            out,
            out_ahead: BytesMut::new(),
            owed: false,
            again: 0,
            upload,
            trailers_in: None,
            waiting: Bytes::new(),
            waiting_ahead: BytesMut::new(),
            unreleased: 0,
            over: false,
            trailers: None,
            ended: false,
            status: 0,
            bytes: 0,
            server_moved: now,
            client_moved: now,
            paced: (now, 0),
            blocked: false,
            timer: None,
            reading: Reading::default(),
            told: Told::default(),
            behind,
        })
    }

    /// The status that the client has been told, and the bytes that it has got.
    pub(super) fn outcome(&self) -> (u16, u64) {
        (self.status, self.bytes)
    }

    /// Carries on, as far as it goes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(end) = self.poll_upload(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_download(cx) {
            return Poll::Ready(end);
        }
        let reset = match &mut self.client.sending {
            Some(sending) => sending.poll_reset(cx),
            None => self.client.respond.poll_reset(cx),
        };
        if reset.is_ready() {
            return Poll::Ready(End::Cut(Side::Client));
        }
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
        let up = if self.out.is_empty() { 0 } else { self.out.len() + self.out_ahead.len() + SEND_BUFFER };
        self.behind.set(up + self.waiting_ahead.len());
        self.poll_late(cx)
    }

    /// Ends a stream whose session has to go, with the last that is said to it. False where that can't be, or not yet.
    #[cold]
    fn end_stream(&mut self) -> bool {
        if self.over {
            return false;
        }
        let Some(words) = self.exchange.last_words(self.core) else { return false };
        let Ok(last) = self.exchange.compress(&words, true) else { return false };
        self.waiting_ahead.extend_from_slice(&last);
        // What the server still says nobody hears: its stream is dropped.
        self.over = true;
        true
    }

    fn is_unanswered(&self) -> bool {
        self.receiving.is_none()
    }

    fn refuse(&self, refusal: Refusal, side: Side) -> End {
        if self.is_unanswered() { End::Refused(refusal, side) } else { End::Cut(side) }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..PARTS_PER_TURN {
            while !self.out.is_empty() {
                match self.poll_put(cx) {
                    Poll::Ready(None) => {}
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    Poll::Pending => {
                        self.blocked = true;
                        return match self.poll_gather(cx, usize::MAX) {
                            Poll::Ready(Some(end)) => Poll::Ready(end),
                            _ => Poll::Pending,
                        };
                    }
                }
            }
            if !self.out_ahead.is_empty() {
                (self.out, self.owed) = (self.out_ahead.split().freeze(), true);
                continue;
            }
            if self.upload != Upload::Goes {
                self.end_upload();
                return Poll::Pending;
            }
            if let Some(end) = ready!(self.poll_gather(cx, MERGED)) {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives the server what it has room for; an end where that is one.
    fn poll_put(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let Some(sending) = &mut self.sending else {
            self.stop_upload();
            return Poll::Ready(None);
        };
        sending.reserve_capacity(self.out.len());
        let mut room = sending.capacity();
        while room == 0 {
            room = match ready!(sending.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                // Why it takes no more the answer tells.
                None | Some(Err(_)) => {
                    self.stop_upload();
                    return Poll::Ready(None);
                }
            };
        }
        let part = self.out.split_to(room.min(self.out.len()));
        let rest = !self.out.is_empty() || !self.out_ahead.is_empty() || self.trailers_in.is_some();
        let (length, last) = (part.len(), self.upload == Upload::Over && !rest);
        if sending.send_data(part, last).is_err() {
            self.stop_upload();
            return Poll::Ready(None);
        }
        if last {
            self.sending = None;
        }
        self.server_moved = self.client.line.now();
        if std::mem::take(&mut self.blocked) {
            // It is not the client that was slow.
            self.client_moved = self.server_moved;
            self.paced = (self.server_moved, self.exchange.body_in());
        }
        let gone = self.owed && self.body_in.stream.flow_control().release_capacity(length).is_err();
        Poll::Ready(gone.then_some(End::Cut(Side::Client)))
    }

    /// The server takes no more.
    fn stop_upload(&mut self) {
        (self.upload, self.out, self.out_ahead, self.sending) = (Upload::Broken, Bytes::new(), BytesMut::new(), None);
    }

    /// Ends a request whose last byte has gone, unless its end went with that.
    fn end_upload(&mut self) {
        let Some(mut sending) = self.sending.take().filter(|_| self.upload == Upload::Over) else { return };
        // If it takes no more, the answer tells why.
        let _ = match self.trailers_in.take() {
            Some(trailers) => sending.send_trailers(trailers),
            None => sending.send_data(Bytes::new(), true),
        };
        self.server_moved = self.client.line.now();
    }

    /// Takes what has come of the body, small parts together, so that they cost no more than large ones; it stops at so
    /// many bytes.
    fn poll_gather(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Option<End>> {
        if let Some(part) = self.body_in.sent.part(self.again) {
            if !self.out.is_empty() {
                return Poll::Ready(None);
            }
            self.again += 1;
            if let Err(refusal) = self.hear(&part) {
                return Poll::Ready(Some(self.refuse(refusal, Side::Client)));
            }
            (self.out, self.owed) = (part, false);
            self.note_end();
            return Poll::Ready(None);
        }
        if self.out.is_empty()
            && let Some(part) = self.body_in.take_early()
        {
            if let Err(refusal) = self.hear(&part) {
                return Poll::Ready(Some(self.refuse(refusal, Side::Client)));
            }
            self.body_in.sent.keep(&part, &self.client.line);
            self.again += 1;
            (self.out, self.owed) = (part, true);
            self.note_end();
            return Poll::Ready(None);
        }
        let mut some = false;
        while self.upload == Upload::Goes && self.out_ahead.len() < most {
            match self.body_in.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(part))) => {
                    self.client_moved = self.client.line.now();
                    if let Err(refusal) = self.hear(&part) {
                        return Poll::Ready(Some(self.refuse(refusal, Side::Client)));
                    }
                    if part.is_empty() {
                        self.note_end();
                        continue;
                    }
                    some = true;
                    self.body_in.sent.keep(&part, &self.client.line);
                    self.again += 1;
                    if self.out.is_empty() && self.out_ahead.is_empty() {
                        (self.out, self.owed) = (part, true);
                    } else {
                        self.out_ahead.extend_from_slice(&part);
                    }
                    self.note_end();
                    if self.out.len() >= most {
                        break;
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(End::Cut(Side::Client))),
                Poll::Ready(None) => match self.body_in.stream.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        self.upload = Upload::Over;
                        match trailers.map(|trailers| self.may_go_on(trailers)).transpose() {
                            Ok(None) => {}
                            Ok(trailers) => {
                                self.body_in.sent.lose();
                                self.trailers_in = trailers;
                            }
                            Err(refusal) => return Poll::Ready(Some(self.refuse(refusal, Side::Client))),
                        }
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Some(End::Cut(Side::Client))),
                    Poll::Pending => break,
                },
                Poll::Pending => break,
            }
        }
        if some || self.upload != Upload::Goes { Poll::Ready(None) } else { Poll::Pending }
    }

    fn hear(&mut self, part: &Bytes) -> Result<(), Refusal> {
        self.exchange.hear_request(part, self.asked.body == Body::Length(part.len() as u64))
    }

    /// Notes where the last of the body has come, and nothing is behind it.
    fn note_end(&mut self) {
        if self.body_in.sent.is_all(self.again) && self.body_in.stream.is_end_stream() {
            self.upload = Upload::Over;
        }
    }

    /// Those of the request's trailers that the server gets.
    fn may_go_on(&self, mut trailers: HeaderMap) -> Result<HeaderMap, Refusal> {
        let bytes = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        trailers::within(&self.exchange.snapshot().config.limits, trailers.len(), bytes)?;
        let request = self.asked.line();
        let fields = self.exchange.to_server(&request);
        remove(&mut trailers, |name| !may_trail(name) || !fields.pass(name));
        Ok(trailers)
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.receiving.is_none()
            && let Err(end) = ready!(self.poll_head(cx))
        {
            return Poll::Ready(end);
        }
        for turn in 0..PARTS_PER_TURN {
            while !self.waiting.is_empty() {
                match self.poll_send(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(end)) => return Poll::Ready(end),
                    Poll::Pending => return self.read_on(cx, true).map_or_else(Poll::Ready, |_| Poll::Pending),
                }
            }
            if self.over && self.waiting_ahead.is_empty() {
                return Poll::Ready(self.finish().map_or_else(|end| end, |()| End::Answered));
            }
            if self.client.line.poll_room(cx).is_pending() {
                return self.read_on(cx, true).map_or_else(Poll::Ready, |_| Poll::Pending);
            }
            if !self.waiting_ahead.is_empty() {
                self.waiting = self.client.line.keep_shared(self.waiting_ahead.split().freeze());
                continue;
            }
            if turn > 0 && self.exchange.compresses() {
                // Compressing takes its time, for which all others of this thread wait.
                break;
            }
            match self.read_on(cx, false) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what has come of the answer, small parts together: all of it where it goes `ahead`, else as much as is sent at
    /// once. False where there is nothing.
    fn read_on(&mut self, cx: &mut Context<'_>, ahead: bool) -> Result<bool, End> {
        let (mut first, mut some) = (None, false);
        while let (false, Some(receiving)) = (self.over, &mut self.receiving) {
            match receiving.poll_data(cx) {
                Poll::Ready(Some(Ok(part))) => {
                    some = true;
                    self.server_moved = self.client.line.now();
                    self.over = receiving.is_end_stream();
                    self.exchange.hear_answer(&part, self.over);
                    if self.exchange.compresses() {
                        self.unreleased += part.len();
                        let part = self.exchange.compress(&part, self.over).map_err(|_| End::Cut(Side::NoRoom))?;
                        self.waiting_ahead.extend_from_slice(&part);
                        break;
                    }
                    if first.is_none() && !ahead && self.waiting_ahead.is_empty() {
                        first = Some(part);
                    } else {
                        self.waiting_ahead.extend_from_slice(&part);
                    }
                    if !ahead && first.as_ref().map_or(0, Bytes::len) + self.waiting_ahead.len() >= MERGED {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(self.failed(&error)),
                Poll::Ready(None) => match receiving.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        (some, self.over) = (true, true);
                        self.exchange.hear_answer(b"", true);
                        let last = self.exchange.compress(b"", true).map_err(|_| End::Cut(Side::NoRoom))?;
                        self.waiting_ahead.extend_from_slice(&last);
                        if let Some(trailers) = trailers {
                            self.take_trailers(trailers)?;
                        }
                    }
                    Poll::Ready(Err(error)) => return Err(self.failed(&error)),
                    Poll::Pending => break,
                },
                Poll::Pending if self.exchange.compresses() && !some => {
                    let part = self.exchange.let_out().map_err(|_| End::Cut(Side::NoRoom))?;
                    some = !part.is_empty();
                    self.waiting_ahead.extend_from_slice(&part);
                    break;
                }
                Poll::Pending => break,
            }
        }
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            self.waiting = self.client.line.keep_shared(first);
        }
        Ok(some)
    }

    /// Waits for the head of the answer, and passes it on.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let bad = || Poll::Ready(Err(End::Refused(Refusal::BadAnswer, Side::Server)));
        while let Poll::Ready(Some(Ok(interim))) = self.answer.poll_informational(cx) {
            self.server_moved = self.client.line.now();
            self.interims += 1;
            if interim.status() == 101 || self.interims > MOST_INTERIMS {
                return bad();
            }
            // The client says by itself when it sends the body (RFC 9113 8.1 knows 100 all the same).
            if interim.status() != 100 {
                let mut passed = Response::new(());
                *passed.status_mut() = interim.status();
                *passed.headers_mut() = interim.headers().clone();
                change(passed.headers_mut(), &HeaderEdits::default());
                let _ = self.client.respond.send_informational(passed);
            }
        }
        let (head, body) = match ready!(Pin::new(&mut self.answer).poll(cx)) {
            Ok(answer) => answer.into_parts(),
            Err(error) => return Poll::Ready(Err(self.failed(&error))),
        };
        self.server_moved = self.client.line.now();
        let mut headers = head.headers;
        if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            return bad();
        }
        if let Err(refusal) = self.exchange.answered(head.status.as_u16(), Headers::Map(&headers)) {
            return Poll::Ready(Err(End::Refused(refusal, Side::Server)));
        }
        let edits = self.exchange.answer_edits();
        let names = announced(Headers::Map(&headers), |name| edits.keeps(name)).filter(|_| edits.keeps("trailer"));
        change(&mut headers, edits);
        if self.exchange.compresses() {
            // How long it is compressed nobody knows before.
            headers.remove(CONTENT_LENGTH);
        }
        if let Some(names) = names.and_then(|names| HeaderValue::from_bytes(&names).ok()) {
            headers.insert(TRAILER, names);
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        self.over = body.is_end_stream();
        if self.over {
            self.exchange.hear_answer(b"", true);
            // Of nothing, too, something may be left to say.
            let Ok(last) = self.exchange.compress(b"", true) else { return Poll::Ready(Err(End::Cut(Side::NoRoom))) };
            self.waiting_ahead.extend_from_slice(&last);
        }
        self.ended = self.over && self.waiting_ahead.is_empty();
        self.reading.begins(self.exchange, Headers::Map(response.headers()));
        self.status = head.status.as_u16();
        self.receiving = Some(body);
        match self.client.respond.send_response(response, self.ended) {
            Ok(sending) => {
                self.client.sending = Some(sending);
                Poll::Ready(Ok(()))
            }
            Err(_) => Poll::Ready(Err(End::Cut(Side::Client))),
        }
    }

    /// What an error of the server's stream, or of its connection, comes to.
    fn failed(&self, error: &h2::Error) -> End {
        log::debug!("a stream of HTTP/2 to a server has ended: {error}");
        if !self.is_unanswered() {
            return match error.reason() {
                Some(reason) if error.is_reset() && error.is_remote() => End::Reset(reason),
                _ => End::Cut(Side::Server),
            };
        }
        // What it has refused, or has said that it will not look at any more, it has done nothing for (RFC 9113 8.7).
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away();
        if refused && error.is_remote() {
            return End::NotTaken;
        }
        if !error.is_reset() && self.asked.is_repeatable() && self.interims == 0 {
            return End::Lost;
        }
        End::Refused(Refusal::BadAnswer, Side::Server)
    }

    /// Sends what the client has room for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let gone = || Poll::Ready(Err(End::Cut(Side::Client)));
        let Some(sending) = &mut self.client.sending else { return gone() };
        sending.reserve_capacity(self.waiting.len());
        let mut room = sending.capacity();
        while room == 0 {
            room = match ready!(sending.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                None | Some(Err(_)) => return gone(),
            };
        }
        let part = self.waiting.split_to(room.min(self.waiting.len()));
        let length = part.len();
        let rest = !self.waiting.is_empty() || !self.waiting_ahead.is_empty() || self.trailers.is_some();
        let last = self.over && !rest;
        self.ended |= last;
        self.bytes += length as u64;
        self.client_moved = self.client.line.now();
        if sending.send_data(part, last).is_err() {
            return gone();
        }
        // The server may send as much again, or what that was before it was compressed.
        let gone = match self.unreleased {
            0 => length,
            _ if self.waiting.is_empty() && self.waiting_ahead.is_empty() => std::mem::take(&mut self.unreleased),
            _ => 0,
        };
        if let Some(receiving) = &mut self.receiving {
            let _ = receiving.flow_control().release_capacity(gone);
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps those trailers of the answer that may pass.
    fn take_trailers(&mut self, mut trailers: HeaderMap) -> Result<(), End> {
        let bytes = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let (limits, edits) = (&self.exchange.snapshot().config.limits, self.exchange.answer_edits());
        trailers::within(limits, trailers.len(), bytes).map_err(|_| End::Cut(Side::Server))?;
        remove(&mut trailers, |name| !may_trail(name) || !edits.keeps(name));
        self.trailers = (!trailers.is_empty()).then_some(trailers);
        Ok(())
    }

    /// Ends an answer whose last byte has been sent, unless its end went with that.
    fn finish(&mut self) -> Result<(), End> {
        let Some(sending) = self.client.sending.as_mut().filter(|_| !self.ended) else { return Ok(()) };
        self.ended = true;
        let ended = match self.trailers.take() {
            Some(trailers) => sending.send_trailers(trailers),
            None => sending.send_data(Bytes::new(), true),
        };
        ended.map_err(|_| End::Cut(Side::Client))
    }

    /// Ready when it has waited for too long for what it waits for.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let waits = !self.waiting.is_empty() && !self.is_grpc;
        let slow = self.reading.due(self.exchange, waits, self.bytes, self.client.line.now());
        let Config { timeouts, .. } = &self.exchange.snapshot().config;
        let Some(lease) = self.exchange.lease() else { return Poll::Pending };
        let theirs = &lease.upstream().config().timeouts;
        let after = |since: Moment, time: Duration| (!time.is_zero()).then(|| since.after(time));
        let late = |due| (due, self.refuse(Refusal::AnswerTimeout, Side::Server));
        let mut look = None;
        let (due, end) = if !self.waiting.is_empty() {
            let since = self.client.line.waits_since(self.client_moved);
            match (after(since, timeouts.write), slow) {
                (stalled, Some(slow)) if stalled.is_none_or(|stalled| slow < stalled) => {
                    (Some(slow), End::Cut(Side::SlowClient))
                }
                (stalled, _) => (stalled, End::Cut(Side::StalledClient)),
            }
        } else if !self.out.is_empty() {
            late(after(self.server_moved, theirs.write))
        } else if self.is_grpc {
            // Calls have deadlines of their own, and may be silent until then: what is meant for any call is said for it.
            let silence = after(self.server_moved.max(self.client_moved), theirs.tunnel_idle.unwrap_or_default());
            let asked = self.is_unanswered() && self.upload != Upload::Goes;
            let answer = after(self.server_moved, theirs.first_byte.filter(|_| asked).unwrap_or_default());
            late(silence.into_iter().chain(answer).min())
        } else if self.upload == Upload::Goes {
            let came = self.exchange.body_in().saturating_sub(self.paced.1);
            let (pace, wanted) = if self.is_unanswered() { self.exchange.body_due(came) } else { (None, None) };
            look = wanted.map(|time| self.paced.0.after(time).max(self.client.line.now().after(LOOK)));
            let due = after(self.client_moved, timeouts.body)
                .into_iter()
                .chain(pace.map(|time| self.paced.0.after(time)))
                .min();
            (due, self.refuse(Refusal::BodyTimeout, Side::Client))
        } else if self.is_unanswered() {
            late(after(self.server_moved, self.exchange.first_byte_timeout().unwrap_or_default()))
        } else {
            late(after(self.server_moved, self.exchange.read_idle_timeout()))
        };
        let Some(next) = due.into_iter().chain(look).min() else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| self.client.line.timer());
        timer.set_at(next);
        ready!(timer.poll_expired(cx));
        if due.is_some_and(|due| due <= timer.now()) {
            if let End::Refused(_, Side::Server) | End::Cut(Side::Server) = end {
                self.place.doubt();
            }
            return Poll::Ready(end);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Takes away what belongs to the connection, and makes these changes.
fn change(headers: &mut HeaderMap, edits: &HeaderEdits) {
    remove(headers, |name| is_hop_by_hop(name) || !edits.keeps(name));
    for (name, value) in edits.added() {
        headers.append(name.clone(), value.clone());
    }
}

/// Takes the fields away that `goes` says so of; mostly there are none.
fn remove(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name.as_str())).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}
