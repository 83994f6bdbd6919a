//! A stream of HTTP/2 to a server that is spoken to as a connection of HTTP/1.1 for one request: so clients of HTTP/1 are
//! carried in one way, whatever their servers speak.

use std::fmt::Write;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::{Place, Taken};
use crate::http::Limits;
use crate::http::framing::Body;
use crate::http::head::{self, Head, Kind};
use crate::http::hop_by_hop::is_hop_by_hop;
use crate::http::passing::Passing;
use crate::http::write::HeadWriter;
use crate::upstream::http2::SEND_BUFFER;

/// Bytes of small parts that are put together.
const MERGED: usize = 16 * 1024;

/// The stream, both ways.
pub(super) struct Translated {
    place: Place,
    scheme: Scheme,
    /// Whether the client takes trailers.
    takes_trailers: bool,
    request: Request1,
    is_head: bool,
    /// What the server has not taken of the body yet.
    pending: Bytes,
    answer: Option<ResponseFuture>,
    receiving: Option<RecvStream>,
    /// What has not been read yet.
    out: BytesMut,
    /// Bytes of a body in `out` for which the server gets room again once that has been read.
    unreleased: usize,
    /// Whether the body of the answer is told in chunks.
    in_chunks: bool,
    /// All of the answer is read, or in `out`.
    over: bool,
    /// The server has not looked at the request.
    not_taken: bool,
    /// What has broken the answer behind `out`.
    broken: Option<io::Error>,
}

/// How far the request is.
enum Request1 {
    /// Its head, as far as it has come.
    Head(Vec<u8>, SendRequest<Bytes>),
    Body(Passing, SendStream<Bytes>),
    /// All of it has gone.
    Over,
    /// The server takes no more.
    Broken,
}

impl Drop for Translated {
    fn drop(&mut self) {
        if !self.over && self.is_asked() {
            self.place.cut();
        }
    }
}

impl Translated {
    /// Whether anything has gone to the server.
    fn is_asked(&self) -> bool {
        !matches!(self.request, Request1::Head(..))
    }

    /// On this connection, to servers that speak TLS or not, for a client that takes trailers or not.
    pub(super) fn new(taken: Taken, secure: bool, takes_trailers: bool) -> Self {
        Self {
            place: taken.place,
            scheme: if secure { Scheme::HTTPS } else { Scheme::HTTP },
            takes_trailers,
            request: Request1::Head(Vec::new(), taken.requests),
            is_head: false,
            pending: Bytes::new(),
            answer: None,
            receiving: None,
            out: BytesMut::new(),
            unreleased: 0,
            in_chunks: false,
            over: false,
            not_taken: false,
            broken: None,
        }
    }

    /// Whether the server has said that it has not looked at the request.
    pub(super) fn not_taken(&self) -> bool {
        self.not_taken
    }

    /// Bytes that wait for the server.
    pub(super) fn unsent(&self) -> usize {
        if self.pending.is_empty() { 0 } else { self.pending.len() + SEND_BUFFER }
    }

    /// Bytes that wait for whoever reads.
    pub(super) fn unread(&self) -> usize {
        self.out.len()
    }

    /// Takes what has come though nobody can read it yet: many small parts would cost much where they are. No more comes than
    /// the server has room for.
    pub(super) fn take_ahead(&mut self, cx: &mut Context<'_>) {
        if self.answer.is_none() {
            self.take(cx, usize::MAX);
        }
    }

    /// Takes what has come of the body, small parts together, and stops at so many bytes.
    fn take(&mut self, cx: &mut Context<'_>, most: usize) {
        while !self.over && self.broken.is_none() && self.out.len() < most {
            match self.poll_body(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.broken = Some(error),
                Poll::Pending => break,
            }
        }
    }

    /// It has not answered in time.
    pub(super) fn doubt(&self) {
        self.place.doubt();
    }

    /// Sends the head, once it is whole.
    fn send_head(&mut self) -> io::Result<()> {
        let Request1::Head(bytes, requests) = &mut self.request else { return Ok(()) };
        let mut fields = head::room();
        let Ok(parsed) = head::parse_first(bytes, &mut fields, 0) else { return Err(malformed()) };
        let Some((parsed, length)) = parsed else { return Ok(()) };
        let Ok(Kind::Exchange(body)) = parsed.kind(0) else { return Err(malformed()) };
        let request = translated(&parsed, body, &self.scheme, self.takes_trailers).ok_or_else(malformed)?;
        self.is_head = parsed.method == "HEAD";
        let passing = Passing::with_trailers(body);
        let rest = bytes[length..].to_vec();
        let sent = requests.send_request(request, passing.is_over());
        let (answer, sending) = sent.map_err(|error| {
            self.not_taken = error.is_go_away() || error.is_io();
            io::Error::other(error)
        })?;
        self.answer = Some(answer);
        self.request = if passing.is_over() { Request1::Over } else { Request1::Body(passing, sending) };
        self.add(rest)
    }

    /// Adds the next bytes of the body, of which none wait.
    fn add(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        let Request1::Body(passing, _) = &mut self.request else { return Ok(()) };
        let part = passing.take(&mut bytes).ok_or_else(malformed)?;
        self.pending = Bytes::from(bytes).slice(part.data);
        Ok(())
    }

    /// Ready once nothing of the body waits any more.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Request1::Body(passing, sending) = &mut self.request else { return Poll::Ready(()) };
        while !self.pending.is_empty() {
            sending.reserve_capacity(self.pending.len());
            let mut room = sending.capacity();
            while room == 0 {
                room = match ready!(sending.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    None | Some(Err(_)) => break,
                };
            }
            let part = self.pending.split_to(room.min(self.pending.len()));
            if room == 0 || sending.send_data(part, false).is_err() {
                (self.request, self.pending) = (Request1::Broken, Bytes::new());
                return Poll::Ready(());
            }
        }
        if passing.is_over() {
            let trailers = passing.take_trailers().map(|came| {
                let mut trailers = HeaderMap::new();
                // They have been looked at: nothing of them can be wrong.
                let _ = came.read(&Limits::default(), |_| true, |name, value| add(&mut trailers, name, value));
                trailers
            });
            // If it takes no more, the answer tells why.
            let _ = match trailers.filter(|trailers| !trailers.is_empty()) {
                Some(trailers) => sending.send_trailers(trailers),
                None => sending.send_data(Bytes::new(), true),
            };
            self.request = Request1::Over;
        }
        Poll::Ready(())
    }

    /// Waits for the head of the answer, or for an interim one.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(answer) = &mut self.answer else { return Poll::Pending };
        if let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            let (head, ()) = interim.into_parts();
            self.out.extend_from_slice(&begun(head.status, &head.headers).end());
            return Poll::Ready(Ok(()));
        }
        let answer = ready!(Pin::new(answer).poll(cx)).map_err(|error| self.failed(error))?;
        self.answer = None;
        self.write_head(answer)?;
        Poll::Ready(Ok(()))
    }

    fn write_head(&mut self, answer: Response<RecvStream>) -> io::Result<()> {
        let (head, body) = answer.into_parts();
        let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
        let length = lengths.next();
        let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
        if lengths.next().is_some() || !length.is_none_or(is_number) {
            return Err(malformed());
        }
        self.over = body.is_end_stream();
        let without = self.is_head || matches!(head.status.as_u16(), 204 | 304);
        let mut written = begun(head.status, &head.headers);
        // A body that has a length can have no trailers in HTTP/1.1.
        match length.filter(|_| without || !head.headers.contains_key(TRAILER)) {
            Some(length) => written.field("content-length", length),
            None if without => {}
            None if self.over => written.field("content-length", "0"),
            None => {
                self.in_chunks = true;
                written.field("transfer-encoding", "chunked");
                for names in head.headers.get_all(TRAILER) {
                    written.field("trailer", names);
                }
            }
        }
        self.out.extend_from_slice(&written.end());
        self.receiving = Some(body);
        Ok(())
    }

    /// Reads the next part of the body, or what ends it, into what waits.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(receiving) = &mut self.receiving else { return Poll::Pending };
        match ready!(receiving.poll_data(cx)) {
            Some(Ok(part)) if part.is_empty() => {}
            Some(Ok(part)) => {
                self.unreleased += part.len();
                if self.in_chunks {
                    // Writing to memory never fails.
                    let _ = write!(self.out, "{:x}\r\n", part.len());
                    self.out.extend_from_slice(&part);
                    self.out.extend_from_slice(b"\r\n");
                } else {
                    self.out.extend_from_slice(&part);
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(self.failed(error))),
            None => {
                let trailers = ready!(receiving.poll_trailers(cx)).map_err(|error| self.failed(error))?;
                self.over = true;
                if self.in_chunks {
                    self.out.extend_from_slice(b"0\r\n");
                    for (name, value) in trailers.iter().flatten() {
                        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                            self.out.extend_from_slice(part);
                        }
                    }
                    self.out.extend_from_slice(b"\r\n");
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands out what waits, as far as there is room.
    fn give(&mut self, room: &mut ReadBuf<'_>) {
        let given = self.out.len().min(room.remaining());
        room.put_slice(&self.out[..given]);
        self.out.advance(given);
        if self.out.is_empty() {
            self.out = BytesMut::new();
            let released = std::mem::take(&mut self.unreleased);
            if let Some(receiving) = &mut self.receiving {
                let _ = receiving.flow_control().release_capacity(released);
            }
        }
    }

    fn failed(&mut self, error: h2::Error) -> io::Error {
        // What it has refused, or has said that it will not look at any more, it has done nothing for (RFC 9113 8.7).
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away();
        self.not_taken = refused && error.is_remote();
        io::Error::other(error)
    }
}

impl AsyncRead for Translated {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What waits of the body goes meanwhile.
        let _ = this.poll_pending(cx);
        let before = buf.filled().len();
        while buf.filled().len() == before {
            if !this.out.is_empty() {
                this.give(buf);
            } else if this.answer.is_some() {
                ready!(this.poll_head(cx))?;
            } else if this.over {
                break;
            } else if let Some(error) = this.broken.take() {
                return Poll::Ready(Err(error));
            } else {
                this.take(cx, MERGED);
                if this.out.is_empty() && !this.over && this.broken.is_none() {
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Translated {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.request {
            Request1::Head(head, _) => {
                head.extend_from_slice(buf);
                this.send_head()?;
                buf.len()
            }
            Request1::Body(..) => {
                ready!(this.poll_pending(cx));
                let written = buf.len().min(SEND_BUFFER);
                this.add(buf[..written].to_vec())?;
                written
            }
            Request1::Over => buf.len(),
            Request1::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        let _ = this.poll_pending(cx);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The head of a request as HTTP/2 has it; `None` where it can't be told.
fn translated(head: &Head<'_>, body: Body, scheme: &Scheme, takes_trailers: bool) -> Option<Request<()>> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme.clone());
    uri.authority = Some(Authority::try_from(head.authority()?.as_bytes()).ok()?);
    uri.path_and_query = Some(PathAndQuery::try_from(head.path_and_query().as_bytes()).ok()?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    let headers = request.headers_mut();
    headers.reserve(head.fields.len());
    for field in head.fields {
        add(headers, field.name, field.value);
    }
    for name in [HOST, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if body == Body::None && !matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
        request.headers_mut().remove(CONTENT_LENGTH);
    }
    if takes_trailers {
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    Some(request)
}

/// Adds a field of HTTP/1, unless HTTP/2 can't have it.
fn add(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}

/// An answer's head in HTTP/1.1, without what tells the length of its body.
fn begun(status: StatusCode, headers: &HeaderMap) -> HeadWriter {
    let mut written = HeadWriter::answer(status.as_u16());
    for (name, value) in headers {
        if !is_hop_by_hop(name.as_str()) && !matches!(*name, CONTENT_LENGTH | TRANSFER_ENCODING) {
            written.field(name.as_str(), value);
        }
    }
    written
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
