//! One exchange between a stream and a connection to a server: the request goes, the answer comes, both at once, and neither
//! faster than the other side takes it.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, ReadBuf};

use super::line::Timer;
use super::request::Asked;
use super::stream::{BodyIn, Client};
use crate::config::Config;
use crate::deadline::Moment;
use crate::exchange::{Core, Exchange, Side};
use crate::http::Refusal;
use crate::http::edits::HeaderEdits;
use crate::http::framing::Body;
use crate::http::head::room;
use crate::http::hop_by_hop::{Nominated, is_hop_by_hop};
use crate::http::passing::Passing;
use crate::http::response::{self, Head};
use crate::http::trailers::{self, Trailers, may_trail};
use crate::proxy::engine::LOOK;
use crate::proxy::engine::relay::buffer::{self, AHEAD, Buffer};
use crate::proxy::engine::relay::client::poll_write;
use crate::proxy::engine::relay::reading::Reading;
use crate::proxy::engine::relay::told::Told;
use crate::request::Headers;
use crate::transport::Transport;

/// Reads before other tasks get their turn.
const READS_PER_TURN: usize = 16;
/// Bytes of a request's body that are gathered before they go on.
const GATHERED: usize = 64 * 1024;
/// Interim answers before one that is meant.
pub(super) const MOST_INTERIMS: u8 = 32;

/// An exchange under way.
pub(super) struct Carry<'a> {
    core: &'a Core,
    client: &'a mut Client,
    /// The body of the request.
    body_in: &'a mut BodyIn,
    server: Transport,
    exchange: &'a mut Exchange,
    asked: &'a Asked,
    /// What the server has not got yet.
    out: Bytes,
    /// Bytes of the body in `out`, for which the client gets room again once they are gone.
    unreleased: usize,
    upload: Upload,
    /// What has come of a head.
    head: Vec<u8>,
    interims: u8,
    /// Whether anything has come.
    heard: bool,
    /// The body, once the head is whole.
    body: Option<Passing>,
    /// What the client has not taken of it yet.
    waiting: Bytes,
    /// What comes behind it.
    trailers: Option<Box<HeaderMap>>,
    /// The client has been told its end.
    ended: bool,
    status: u16,
    bytes: u64,
    reusable: bool,
    server_moved: Moment,
    client_moved: Moment,
    /// Since when the body has to bring what it has to, and how much of it there was then.
    paced: (Moment, u64),
    /// The server has not taken all of it at once.
    blocked: bool,
    /// Where it had to wait.
    timer: Option<Timer>,
    reading: Reading,
    told: Told,
}

/// How far the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// More of its body comes.
    Goes,
    /// All of it is with the server, or in `out`.
    Over,
    /// The server takes no more.
    Broken,
}

/// How the carrying ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client has its answer.
    Answered,
    /// The server ended the connection before anything of an answer came, and the request may be sent again.
    Lost,
    /// The server has said that it has not looked at the request: it may be sent again, whatever it is.
    NotTaken,
    /// The server has reset its stream in the middle of the answer.
    Reset(Reason),
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
    /// The server's connection, if it can be used again.
    pub(super) server: Option<Transport>,
}

impl<'a> Carry<'a> {
    /// Over this connection to the server.
    pub(super) fn new(
        core: &'a Core,
        (client, body_in): (&'a mut Client, &'a mut BodyIn),
        server: Transport,
        exchange: &'a mut Exchange,
        asked: &'a Asked,
    ) -> Self {
        let now = client.line.now();
        let mut out = asked.to_server(exchange);
        let upload = match &body_in.taken_in {
            Some(taken) => {
                out = [&out[..], &taken.bytes[..]].concat().into();
                Upload::Over
            }
            None if asked.body == Body::None => Upload::Over,
            None => Upload::Goes,
        };
        Self {
            core,
            client,
            body_in,
            server,
            exchange,
            asked,
            out,
            unreleased: 0,
            upload,
            head: Vec::new(),
            interims: 0,
            heard: false,
            body: None,
            waiting: Bytes::new(),
            trailers: None,
            ended: false,
            status: 0,
            bytes: 0,
            reusable: false,
            server_moved: now,
            client_moved: now,
            paced: (now, 0),
            blocked: false,
            timer: None,
            reading: Reading::default(),
            told: Told::default(),
        }
    }

    /// What has come of it.
    pub(super) fn outcome(self) -> Outcome {
        let Self { server, status, bytes, reusable, upload, out, .. } = self;
        let whole = reusable && upload == Upload::Over && out.is_empty();
        Outcome { status, bytes, server: whole.then_some(server) }
    }

    /// Carries on, as far as it goes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        buffer::lend(|buffer| {
            if let Poll::Ready(end) = self.poll_upload(cx) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(end) = self.poll_download(buffer, cx) {
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
            self.poll_late(cx)
        })
    }

    /// Ends a stream whose session has to go, with the last that is said to it. False where that can't be, or not yet.
    #[cold]
    fn end_stream(&mut self) -> bool {
        let Some(body) = &mut self.body else { return false };
        if body.is_over() || body.left().is_some() || !self.waiting.is_empty() {
            return false;
        }
        let Some(words) = self.exchange.last_words(self.core) else { return false };
        body.end_early();
        // The server has not finished.
        self.reusable = false;
        self.wait_with(&words, true).is_ok()
    }

    fn is_unanswered(&self) -> bool {
        self.body.is_none()
    }

    fn refuse(&self, refusal: Refusal, side: Side) -> End {
        if self.is_unanswered() { End::Refused(refusal, side) } else { End::Cut(side) }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if !self.out.is_empty() {
                let mut written = 0;
                let result = poll_write(&mut self.server, &self.out, &mut written, cx);
                if written > 0 {
                    self.out = self.out.slice(written..);
                    self.server_moved = self.client.line.now();
                }
                match result {
                    Poll::Pending => {
                        self.blocked = true;
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) if std::mem::take(&mut self.blocked) => {
                        // It is not the client that was slow.
                        self.client_moved = self.client.line.now();
                        self.paced = (self.client_moved, self.exchange.body_in());
                    }
                    Poll::Ready(Ok(())) => {}
                    // Why it takes no more it may have said.
                    Poll::Ready(Err(_)) => (self.upload, self.out) = (Upload::Broken, Bytes::new()),
                }
            }
            let unreleased = std::mem::take(&mut self.unreleased);
            if unreleased > 0 && self.body_in.stream.flow_control().release_capacity(unreleased).is_err() {
                return Poll::Ready(End::Cut(Side::Client));
            }
            if self.upload != Upload::Goes {
                // What TLS holds goes when the answer is read, which comes next.
                return Poll::Pending;
            }
            if let Some(end) = ready!(self.poll_gather(cx)) {
                return Poll::Ready(end);
            }
        }
    }

    /// Gathers what has come of the body, so that small frames cost no more than large ones.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let (mut data, mut more, mut trailers) = (Bytes::new(), Vec::new(), None);
        while self.unreleased < GATHERED && self.upload == Upload::Goes {
            match self.body_in.stream.poll_data(cx) {
                Poll::Pending if self.unreleased == 0 => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(bytes))) => {
                    self.client_moved = self.client.line.now();
                    let whole = self.asked.body == Body::Length(bytes.len() as u64);
                    if let Err(refusal) = self.exchange.hear_request(&bytes, whole) {
                        return Poll::Ready(Some(self.refuse(refusal, Side::Client)));
                    }
                    self.unreleased += bytes.len();
                    if data.is_empty() {
                        data = bytes;
                    } else {
                        more.extend_from_slice(&bytes);
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(End::Cut(Side::Client))),
                Poll::Ready(None) => match self.body_in.stream.poll_trailers(cx) {
                    Poll::Pending if self.unreleased == 0 => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(Ok(came)) => (self.upload, trailers) = (Upload::Over, came),
                    Poll::Ready(Err(_)) => return Poll::Ready(Some(End::Cut(Side::Client))),
                },
            }
        }
        let chunked = self.asked.body == Body::Chunked;
        self.out = if more.is_empty() && !chunked {
            data
        } else {
            let length = data.len() + more.len();
            let (before, behind) =
                if chunked && length > 0 { (format!("{length:x}\r\n"), "\r\n") } else { Default::default() };
            let end = match self.last_chunk(trailers) {
                Ok(end) => end,
                Err(refusal) => return Poll::Ready(Some(self.refuse(refusal, Side::Client))),
            };
            [before.as_bytes(), &data, &more, behind.as_bytes(), &end].concat().into()
        };
        Poll::Ready(None)
    }

    /// What ends a body in chunks, once it is over: with those of its trailers that may pass.
    fn last_chunk(&self, trailers: Option<HeaderMap>) -> Result<Cow<'static, [u8]>, Refusal> {
        if self.asked.body != Body::Chunked || self.upload != Upload::Over {
            return Ok(Cow::default());
        }
        let Some(trailers) = trailers else { return Ok(Cow::Borrowed(b"0\r\n\r\n")) };
        let bytes = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        trailers::within(&self.exchange.snapshot().config.limits, trailers.len(), bytes)?;
        let request = self.asked.line();
        let fields = self.exchange.to_server(&request);
        let mut out = b"0\r\n".to_vec();
        for (name, value) in &trailers {
            if may_trail(name.as_str()) && fields.pass(name.as_str()) {
                trailers::put(&mut out, name.as_str(), value.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(Cow::Owned(out))
    }

    fn poll_download(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<End> {
        for turn in 0..READS_PER_TURN {
            while !self.waiting.is_empty() {
                if let Err(end) = ready!(self.poll_send(cx)) {
                    return Poll::Ready(end);
                }
            }
            if turn > 0 && self.exchange.compresses() {
                // Compressing takes its time, for which all others of this thread wait.
                break;
            }
            if self.body.as_ref().is_some_and(Passing::is_over) {
                return Poll::Ready(self.finish().map_or_else(|end| end, |()| End::Answered));
            }
            let begun = self.head.len();
            buffer.bytes[AHEAD..AHEAD + begun].copy_from_slice(&self.head);
            let room = ready!(self.client.line.poll_room(cx));
            let at = AHEAD + begun;
            let mut unread = ReadBuf::new(&mut buffer.bytes[at..at + room]);
            let polled = Pin::new(&mut self.server).poll_read(cx, &mut unread);
            let read = unread.filled().len();
            let passed = match polled {
                Poll::Ready(Ok(())) if read > 0 => {
                    (self.server_moved, self.heard) = (self.client.line.now(), true);
                    self.pass_on(buffer, AHEAD..at + read)
                }
                Poll::Ready(Ok(())) => self.server_ended(None),
                Poll::Ready(Err(error)) => self.server_ended(Some(error)),
                Poll::Pending => match self.let_out() {
                    Ok(true) => Ok(()),
                    Ok(false) => return Poll::Pending,
                    Err(end) => Err(end),
                },
            };
            if let Err(end) = passed {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
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
        let last =
            self.waiting.is_empty() && self.trailers.is_none() && self.body.as_ref().is_some_and(Passing::is_over);
        self.ended |= last;
        self.bytes += part.len() as u64;
        self.client_moved = self.client.line.now();
        match sending.send_data(part, last) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => gone(),
        }
    }

    /// The server has finished, or its connection broke.
    fn server_ended(&mut self, error: Option<io::Error>) -> Result<(), End> {
        let Some(body) = &mut self.body else {
            let repeatable = !self.heard && self.asked.is_repeatable();
            return Err(if repeatable { End::Lost } else { End::Refused(Refusal::BadAnswer, Side::Server) });
        };
        if error.is_some() || !body.close() {
            return Err(End::Cut(Side::Server));
        }
        self.exchange.hear_answer(b"", true);
        self.wait_with(b"", true)
    }

    /// Lets out what is held to be compressed better, since the server says nothing more for now. True where something has
    /// come out.
    fn let_out(&mut self) -> Result<bool, End> {
        // What tells its length comes to its end by itself.
        if !self.exchange.compresses() || self.body.as_ref().is_none_or(|body| body.left().is_some()) {
            return Ok(false);
        }
        let part = self.exchange.let_out().map_err(|_| End::Cut(Side::NoRoom))?;
        self.waiting = self.client.line.keep(&part);
        Ok(!part.is_empty())
    }

    /// Has these data of the answer wait for the client, compressed where they are.
    fn wait_with(&mut self, data: &[u8], is_end: bool) -> Result<(), End> {
        let part = self.exchange.compress(data, is_end).map_err(|_| End::Cut(Side::NoRoom))?;
        if !part.is_empty() {
            self.waiting = self.client.line.keep(&part);
        }
        Ok(())
    }

    /// Ends an answer whose last byte has been sent, unless its end went with that.
    fn finish(&mut self) -> Result<(), End> {
        let Some(sending) = self.client.sending.as_mut().filter(|_| !self.ended) else { return Ok(()) };
        self.ended = true;
        let ended = match self.trailers.take() {
            Some(trailers) => sending.send_trailers(*trailers),
            None => sending.send_data(Bytes::new(), true),
        };
        ended.map_err(|_| End::Cut(Side::Client))
    }

    /// Keeps those trailers of an answer that may pass; none where they can't be read.
    #[cold]
    fn keep_trailers(&mut self, came: &Trailers) {
        let (limits, edits) = (&self.exchange.snapshot().config.limits, self.exchange.answer_edits());
        let mut trailers = HeaderMap::new();
        let read = came.read(
            limits,
            |name| edits.keeps(name),
            |name, value| {
                if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
                {
                    trailers.append(name, value);
                }
            },
        );
        if read.is_ok() && !trailers.is_empty() {
            self.trailers = Some(Box::new(trailers));
        }
    }

    /// Passes on what the server has said, which lies here in the buffer.
    fn pass_on(&mut self, buffer: &mut Buffer, said: Range<usize>) -> Result<(), End> {
        let Range { mut start, end } = said;
        while self.body.is_none() {
            match self.read_head(&buffer.bytes[start..end])? {
                Some(length) => start += length,
                None => return Ok(()),
            }
        }
        let Some(body) = &mut self.body else { return Ok(()) };
        if body.is_over() {
            // Whatever else it says was not asked for.
            self.reusable &= start == end;
            return Ok(());
        }
        let Some(part) = body.take(&mut buffer.bytes[start..end]) else { return Err(End::Cut(Side::Server)) };
        let (over, trailers) = (body.is_over(), body.take_trailers());
        self.reusable &= part.taken == end - start;
        let data = &buffer.bytes[start + part.data.start..start + part.data.end];
        self.exchange.hear_answer(data, over);
        if let Some(trailers) = trailers {
            self.keep_trailers(&trailers);
        }
        self.wait_with(&buffer.bytes[start + part.data.start..start + part.data.end], over)
    }

    /// Reads the head that begins here: its length; `None` where its end has not come, and what there is has been kept.
    fn read_head(&mut self, said: &[u8]) -> Result<Option<usize>, End> {
        let bad = || End::Refused(Refusal::BadAnswer, Side::Server);
        let mut fields = room();
        let Ok(parsed) = response::parse(said, &mut fields) else { return Err(bad()) };
        let Some(head) = parsed else {
            self.head = said.to_vec();
            return Ok(None);
        };
        self.head = Vec::new();
        if head.is_interim() {
            if head.status == 101 {
                // The exchange says what that is where nobody has asked for it.
                let _ = self.exchange.answered(101, Headers::Fields(head.fields));
                return Err(bad());
            }
            self.interims += 1;
            if self.interims > MOST_INTERIMS {
                return Err(bad());
            }
            // The client says by itself when it sends the body (RFC 9113 8.1 knows 100 all the same).
            if let Some(interim) = converted(&head, &HeaderEdits::default(), None).filter(|_| head.status != 100) {
                let _ = self.client.respond.send_informational(interim);
            }
            return Ok(Some(head.length));
        }
        let Ok(body) = head.body(self.asked.is_head()) else { return Err(bad()) };
        self.reusable = head.keeps_connection()
            && body != Body::UntilClose
            && !head.logs_connection_in()
            && !self.asked.logs_connection_in();
        if let Err(refusal) = self.exchange.answered(head.status, Headers::Fields(head.fields)) {
            return Err(End::Refused(refusal, Side::Server));
        }
        // How long it is compressed nobody knows before.
        let told = if self.exchange.compresses() && body != Body::Chunked { Body::UntilClose } else { body };
        let Some(response) = converted(&head, self.exchange.answer_edits(), Some(told)) else { return Err(bad()) };
        let body = Passing::with_trailers(body).behind(Headers::Fields(head.fields));
        self.ended = body.is_over();
        let sent = self.client.respond.send_response(response, body.is_over());
        self.reading.begins(self.exchange, Headers::Fields(head.fields));
        (self.status, self.body) = (head.status, Some(body));
        match sent {
            Ok(sending) => self.client.sending = Some(sending),
            Err(_) => return Err(End::Cut(Side::Client)),
        }
        Ok(Some(head.length))
    }

    /// Ready when it has waited for too long for what it waits for.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let waits = !self.waiting.is_empty();
        let slow = self.reading.due(self.exchange, waits, self.bytes, self.client.line.now());
        let Config { timeouts, .. } = &self.exchange.snapshot().config;
        let after = |since: Moment, time: Duration| (!time.is_zero()).then(|| since.after(time));
        let late = |time| (after(self.server_moved, time), self.refuse(Refusal::AnswerTimeout, Side::Server));
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
            late(self.exchange.lease().map_or(Duration::ZERO, |lease| lease.upstream().config().timeouts.write))
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
            late(self.exchange.first_byte_timeout().unwrap_or_default())
        } else {
            late(self.exchange.read_idle_timeout())
        };
        let Some(next) = due.into_iter().chain(look).min() else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| self.client.line.timer());
        timer.set_at(next);
        ready!(timer.poll_expired(cx));
        if due.is_some_and(|due| due <= timer.now()) && !self.server_takes_on() {
            return Poll::Ready(end);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether a server that has to take some of the request has taken any: see [`Transport::offer`].
    fn server_takes_on(&mut self) -> bool {
        if !self.waiting.is_empty() || self.out.is_empty() {
            return false;
        }
        let Some(taken) = self.server.offer(&self.out) else { return false };
        self.out = self.out.slice(taken..);
        self.server_moved = self.client.line.now();
        true
    }
}

/// A head as HTTP/2 has it, with these changes, for a client that gets this body; `None` where it can't be told.
pub(super) fn converted(head: &Head<'_>, edits: &HeaderEdits, body: Option<Body>) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    // At once, since it would grow in steps.
    *response.headers_mut() = HeaderMap::with_capacity(head.fields.len() + edits.added().len());
    let headers = response.headers_mut();
    let nominated = Nominated::by(Headers::Fields(head.fields));
    for field in head.fields {
        let name = field.name;
        let framing = name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding");
        if framing || is_hop_by_hop(name) || nominated.contains(name) || !edits.keeps(name) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = match HeaderValue::from_bytes(field.value) {
            Ok(value) => value,
            // A value over several lines becomes one (RFC 9112 5.2).
            Err(_) => {
                let flat: Vec<u8> =
                    field.value.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect();
                HeaderValue::from_bytes(&flat).ok()?
            }
        };
        headers.append(name, value);
    }
    if let Some(length) = body.and_then(|body| head.length_told(body)) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(names) = body.and_then(|body| head.announced(edits, body)) {
        headers.insert(TRAILER, HeaderValue::from_bytes(&names).ok()?);
    }
    for (name, value) in edits.added() {
        headers.append(name.clone(), value.clone());
    }
    Some(response)
}
