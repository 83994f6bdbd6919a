//! A client's connection as applications get it: the stream, what is known of the peer, and bytes read ahead.
//!
//! An HTTP engine that is handed a [`Connection`] never gets a byte beyond the message that it may read: what follows
//! a request stays here, for the next request or for the tunnel that an upgrade turns into.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::limits::Permit;
use super::pending::Pending;
use crate::deadline::Deadline;
use crate::http::framing::{Body, Chunks};
use crate::transport::Transport;

/// What is known of a connection once it is open; it outlives the stream in logs and contexts.
#[derive(Debug)]
pub struct Info {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The other end; on Unix sockets 127.0.0.1 and port 0.
    pub peer: SocketAddr,
    /// The address that the client reached; on Unix sockets 127.0.0.1 and port 0.
    pub local: SocketAddr,
    /// What TLS agreed on.
    pub tls: Option<TlsInfo>,
    /// When it was accepted.
    pub accepted: Instant,
    /// The poll that is under way on an HTTP/1 connection.
    pub pending: Pending,
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
}

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2, by ALPN or by its preface.
    Http2,
    /// Anything else, for a TCP upstream.
    Raw,
}

/// A client's connection.
pub struct Connection {
    transport: Transport,
    info: Arc<Info>,
    protocol: Protocol,
    /// For `Raw`: the upstream that takes it.
    tcp_upstream: Option<Arc<str>>,
    /// Read from the transport and not yet handed out.
    held: BytesMut,
    reading: Reading,
    writing: Writing,
    eof: bool,
    deadline: Deadline,
    permit: Permit,
    digests: OnceLock<Digests>,
}

/// What Pingora asks each exchange for, made for the first one.
struct Digests {
    proxy: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
}

/// What happens to bytes that an engine writes.
#[derive(Debug)]
enum Writing {
    /// They go out.
    Through,
    /// The next ones begin an answer: its head waits for the first of its body, so that both take one system call, one
    /// packet and one TLS record.
    Head,
    /// These wait, but no longer than until the engine flushes, finishes, or looks for what the client says.
    Waiting(BytesMut),
}

/// How much an engine may read.
#[derive(Debug)]
enum Reading {
    /// All there is.
    Freely,
    /// This many bytes of a body.
    Length(u64),
    /// A chunked body.
    Chunked(Chunks),
    /// Nothing: only that the client has left. What it sends is held.
    Nothing,
}

/// Bytes that are held while an engine may read nothing; a client that sends more is read again later.
const HELD_AHEAD: usize = 16 * 1024;
/// The longest head of an answer that waits for its body.
const WAITING_HEAD: usize = 4096;
/// Slices of one write that go out together with a head.
const SLICES: usize = 16;

/// The parts of a connection that has left HTTP, or never was.
#[derive(Debug)]
pub struct Parts {
    /// The stream.
    pub transport: Transport,
    /// What has been read ahead; the first bytes of the client's.
    pub held: BytesMut,
    /// What is known of the peer.
    pub info: Arc<Info>,
    /// The connection's deadline.
    pub deadline: Deadline,
    /// Its place in the limits.
    pub permit: Permit,
}

/// Why no whole head could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHead {
    /// The client left, or its connection broke.
    Gone,
    /// The client stayed idle for longer than a connection is kept.
    Idle,
    /// The head began and did not end in time.
    Late,
    /// The head is larger than allowed.
    TooLarge,
}

impl Connection {
    pub(super) fn new(parts: Parts, protocol: Protocol, tcp_upstream: Option<Arc<str>>) -> Self {
        let Parts { transport, held, info, deadline, permit } = parts;
        let (reading, writing) = (Reading::Freely, Writing::Through);
        let digests = OnceLock::new();
        Self { transport, info, protocol, tcp_upstream, held, reading, writing, eof: false, deadline, permit, digests }
    }

    /// What it turned out to speak.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The upstream of a raw connection.
    pub fn tcp_upstream(&self) -> Option<&Arc<str>> {
        self.tcp_upstream.as_ref()
    }

    /// What is known of the peer.
    pub fn info(&self) -> &Arc<Info> {
        &self.info
    }

    /// Whether nothing of a further request has been read.
    pub fn is_silent(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes the connection out of HTTP.
    pub fn into_parts(self) -> Parts {
        let Self { transport, info, held, deadline, permit, .. } = self;
        deadline.clear();
        Parts { transport, held, info, deadline, permit }
    }

    /// Reads the next request head, blank line included, and leaves what follows for later.
    ///
    /// `idle` is how long the client may take to begin, `head` how long from there to the blank line; zero is no limit.
    /// The first head has no `idle`: its time began with the connection, and the listener has set it.
    pub async fn read_head(&mut self, idle: Option<Duration>, head: Duration, most: usize) -> Result<BytesMut, NoHead> {
        self.reading = Reading::Freely;
        let mut searched = 0;
        let mut begun = false;
        if let Some(idle) = idle {
            self.deadline.set(idle);
        }
        loop {
            if !begun {
                // Servers should pass over blank lines before a request (RFC 9112 2.2).
                let blank = self.held.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.held.advance(blank);
                if !self.held.is_empty() {
                    begun = true;
                    if idle.is_some() {
                        self.deadline.set(head);
                    }
                }
            }
            if let Some(end) = head_end(&self.held, searched) {
                self.deadline.clear();
                return if end > most { Err(NoHead::TooLarge) } else { Ok(self.held.split_to(end)) };
            }
            if self.held.len() > most {
                return Err(NoHead::TooLarge);
            }
            searched = self.held.len().saturating_sub(2);
            self.held.reserve(2048);
            let read = tokio::select! {
                biased;
                read = self.transport.read_buf(&mut self.held) => read,
                () = self.deadline.expired() => return Err(if begun { NoHead::Late } else { NoHead::Idle }),
            };
            if !matches!(read, Ok(1..)) {
                return Err(NoHead::Gone);
            }
        }
    }

    /// Lets an engine read the body of the request whose head was read last, and nothing beyond.
    pub fn expect(&mut self, body: Body) {
        self.reading = match body {
            Body::None => Reading::Nothing,
            Body::Length(length) => Reading::Length(length),
            Body::Chunked => Reading::Chunked(Chunks::default()),
            Body::UntilClose => Reading::Freely,
        };
        if let Writing::Through = self.writing {
            self.writing = Writing::Head;
        }
    }

    /// See [`crate::transport::Socket::reset_on_close`].
    pub fn reset_on_close(&self) {
        self.transport.socket().reset_on_close();
    }

    /// See [`Parts::answer_and_close`].
    pub async fn answer_and_close(self, answer: &[u8]) {
        self.into_parts().answer_and_close(answer).await;
    }

    /// Writes a head that waits, and `slices` with it; says how much of those went out.
    fn poll_write_waiting(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut with_body = 0;
        while let Writing::Waiting(head) = &mut self.writing {
            let mut all = [io::IoSlice::new(&[]); SLICES];
            all[0] = io::IoSlice::new(head);
            for (slot, slice) in all[1..].iter_mut().zip(slices) {
                *slot = io::IoSlice::new(slice);
            }
            let used = SLICES.min(1 + slices.len());
            let written = ready!(Pin::new(&mut self.transport).poll_write_vectored(cx, &all[..used]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            with_body = written.saturating_sub(head.len());
            head.advance(written.min(head.len()));
            if head.is_empty() {
                self.writing = Writing::Through;
            }
        }
        Poll::Ready(Ok(with_body))
    }

    /// Writes through, but keeps the head of an answer for a moment, so that it goes out with its body.
    fn poll_write_parts(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.writing {
            Writing::Through => {}
            Writing::Head => {
                let length = bufs.iter().map(|buf| buf.len()).sum();
                if length <= WAITING_HEAD {
                    let mut head = BytesMut::with_capacity(length);
                    bufs.iter().for_each(|buf| head.extend_from_slice(buf));
                    self.writing = Writing::Waiting(head);
                    return Poll::Ready(Ok(length));
                }
                self.writing = Writing::Through;
            }
            Writing::Waiting(_) => {
                let written = ready!(self.poll_write_waiting(cx, bufs))?;
                if written > 0 {
                    return Poll::Ready(Ok(written));
                }
            }
        }
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    /// Fails what would wait once the deadline of the gateway's end has come: whoever serves the connection then ends as
    /// with a client that has left, and writes its line.
    fn or_cut<T>(&self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match result {
            Poll::Pending if self.deadline.poll_stopping(cx).is_ready() => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            result => result,
        }
    }

    /// Ready with an empty read once the client has left; holds what it sends before.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.eof {
            if self.held.len() >= HELD_AHEAD {
                return Poll::Pending;
            }
            self.held.reserve(2048);
            let read = std::pin::pin!(self.transport.read_buf(&mut self.held)).poll(cx);
            self.eof = ready!(self.or_cut(read, cx))? == 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl Parts {
    /// Writes a last answer, then does as [`Self::close`].
    pub async fn answer_and_close(mut self, answer: &[u8]) {
        self.deadline.set(LINGER);
        let Self { transport, deadline, .. } = &mut self;
        let written = tokio::select! {
            written = transport.write_all(answer) => written.is_ok(),
            () = deadline.expired() => false,
        };
        if written {
            self.close().await;
        }
    }

    /// Closes the way that lets the client read what was written last: the client's own bytes are read away for a
    /// moment, since the kernel would answer them with a reset that overtakes the answer (RFC 9112 9.6).
    pub async fn close(mut self) {
        self.deadline.set(LINGER);
        let Self { transport, deadline, .. } = &mut self;
        let linger = async {
            transport.shutdown().await?;
            let mut sink = [0; 2048];
            while transport.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        tokio::select! {
            _ = linger => {}
            () = deadline.expired() => {}
        }
    }
}

/// How long a client may take to read a last answer.
const LINGER: Duration = Duration::from_secs(2);

/// Where the head ends that begins at the start of `bytes`, behind its blank line; the search begins at `from`.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(1);
    bytes[from..].iter().enumerate().filter(|&(_, &byte)| byte == b'\n').find_map(|(at, _)| {
        match bytes[from + at + 1..] {
            [b'\n', ..] => Some(from + at + 2),
            [b'\r', b'\n', ..] => Some(from + at + 3),
            _ => None,
        }
    })
}

impl Reading {
    /// How many of the bytes at hand the engine may have. Fails at what is no chunked body, with [`InvalidData`]:
    /// where it ends nobody can say.
    ///
    /// [`InvalidData`]: io::ErrorKind::InvalidData
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(match self {
            Self::Freely => bytes.len(),
            Self::Nothing => 0,
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::Nothing;
                }
                taken
            }
            Self::Chunked(chunks) => {
                let taken = chunks.advance(bytes).ok_or(io::ErrorKind::InvalidData)?;
                if chunks.is_done() {
                    *self = Self::Nothing;
                }
                taken
            }
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever waits for the client must not wait with an answer in hand; if it can't go, the next write tells.
        let _ = this.poll_write_waiting(cx, &[]);
        if let Reading::Nothing = this.reading {
            return this.poll_gone(cx);
        }
        if this.held.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut this.transport).poll_read(cx, buf);
            ready!(this.or_cut(read, cx))?;
            let read = &buf.filled()[before..];
            let taken = this.reading.take(read)?;
            this.held.extend_from_slice(&read[taken..]);
            buf.set_filled(before + taken);
        } else {
            let step = buf.remaining().min(this.held.len());
            let taken = this.reading.take(&this.held[..step])?;
            buf.put_slice(&this.held.split_to(taken));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.poll_write_parts(cx, bufs);
        this.or_cut(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match this.poll_write_waiting(cx, &[]) {
            Poll::Ready(Ok(_)) => Pin::new(&mut this.transport).poll_flush(cx),
            waiting => waiting.map_ok(|_| ()),
        };
        this.or_cut(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_waiting(cx, &[]))?;
        Pin::new(&mut this.transport).poll_shutdown(cx)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("info", &self.info).field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

// What Pingora asks of a stream, so that its engines can serve one.

impl Connection {
    fn digests(&self) -> Option<&Digests> {
        if let Some(made) = self.digests.get() {
            return Some(made);
        }
        let head = ResponseHeader::build(200, Some(0)).ok()?;
        let proxy = ProxyDigest::new(Box::new(head), Some(Box::new(Arc::clone(&self.info))));
        let socket = SocketDigest::from_raw_fd(self.id());
        let _ = socket.peer_addr.set(Some(self.info.peer.into()));
        let _ = socket.local_addr.set(Some(self.info.local.into()));
        Some(self.digests.get_or_init(|| Digests { proxy: Arc::new(proxy), socket: Arc::new(socket) }))
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.transport.socket().as_raw_fd()
    }
}

impl Ssl for Connection {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        let tls = self.info.tls.as_ref()?;
        Some(Arc::new(SslDigest::new(tls.cipher, tls.version, None, None, Vec::new())))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        (self.protocol == Protocol::Http2).then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    /// Carries [`Info`] to the hooks of a `ProxyHttp`: Pingora has no other place for it that HTTP/2 shares.
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digests()?.proxy))
    }

    fn set_proxy_digest(&mut self, _digest: ProxyDigest) {}
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digests()?.socket))
    }

    fn set_socket_digest(&mut self, _digest: SocketDigest) {}
}

impl Peek for Connection {}

#[cfg(test)]
mod tests;
