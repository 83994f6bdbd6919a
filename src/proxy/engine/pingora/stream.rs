//! A connection as the stream that Pingora wants: it hands out the body of the request that is carried and not a byte
//! beyond. What follows a request stays in the connection, for the next request or for the tunnel that an upgrade turns
//! into.

use std::fmt;
use std::future::Future;
use std::io;
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

use super::mailbox::Mailbox;
use crate::http::framing::{Body, Chunks};
use crate::listener::Connection;
use crate::proxy::engine::HALF_CLOSED;
use crate::wire::http2::ControlFrames;

/// A client's connection, as Pingora's engine reads and writes it.
pub(crate) struct Stream {
    pub(super) connection: Connection,
    /// What the hooks get to know of it.
    pub(super) mailbox: Arc<Mailbox>,
    /// What is counted of a connection that speaks HTTP/2.
    http2: Option<Box<ControlFrames>>,
    reading: Reading,
    writing: Writing,
    /// How long a client that speaks HTTP/1 may take nothing; zero is no limit.
    write: Duration,
    /// While a write waits: what TLS held when the deadline was set.
    waits: Option<usize>,
    eof: bool,
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

impl Stream {
    /// The stream of a connection that speaks HTTP/1, whose client may take nothing for `write` while it should, or HTTP/2.
    pub(crate) fn new(connection: Connection, http2: bool, write: Duration) -> Self {
        let mailbox = Arc::new(Mailbox::new(Arc::clone(&connection.info)));
        let (reading, writing) = (Reading::Freely, Writing::Through);
        let http2 = http2.then(|| Box::new(ControlFrames::new(Instant::now())));
        let digests = OnceLock::new();
        Self { connection, mailbox, http2, reading, writing, write, waits: None, eof: false, digests }
    }

    /// Nothing of this request's body is left to be read; what comes is the next head's.
    pub(super) fn between_requests(&mut self) -> &mut Connection {
        self.reading = Reading::Freely;
        &mut self.connection
    }

    /// Lets an engine read the body of the request whose head was read last, and nothing beyond.
    pub(super) fn expect(&mut self, body: Body) {
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
            let written = ready!(Pin::new(&mut self.connection.transport).poll_write_vectored(cx, &all[..used]))?;
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
        Pin::new(&mut self.connection.transport).poll_write_vectored(cx, bufs)
    }

    /// What becomes of a write: a client of HTTP/1 is given up that takes nothing for too long. Pingora would time each
    /// piece that it writes as a whole, however much of it goes.
    fn poll_taken(
        &mut self,
        result: Poll<io::Result<usize>>,
        next: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            if self.waits.take().is_some() {
                self.connection.deadline.set(if self.eof { HALF_CLOSED } else { Duration::ZERO });
            }
            return result;
        }
        if self.http2.is_some() || self.write.is_zero() {
            return Poll::Pending;
        }
        let unsent = Some(self.connection.transport.unsent());
        if std::mem::replace(&mut self.waits, unsent) != unsent {
            self.connection.deadline.set(self.write);
        }
        let Writing::Waiting(head) = &mut self.writing else {
            return self.connection.poll_offer(next, self.write, cx);
        };
        let taken = ready!(self.connection.poll_offer(head, self.write, cx))?;
        head.advance(taken);
        if head.is_empty() {
            self.writing = Writing::Through;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Fails what would wait once the deadline of the gateway's end has come: whoever serves the connection then ends as
    /// with a client that has left, and writes its line.
    fn or_cut<T>(&self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match result {
            Poll::Pending if self.connection.deadline.poll_stopping(cx).is_ready() => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            result => result,
        }
    }

    /// Ready with an empty read once the client of a poll has left; holds what it sends before.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.eof {
            if self.connection.held.len() >= HELD_AHEAD {
                return Poll::Pending;
            }
            self.connection.held.reserve(2048);
            let read = std::pin::pin!(self.connection.transport.read_buf(&mut self.connection.held)).poll(cx);
            self.eof = ready!(self.or_cut(read, cx))? == 0;
            if self.eof {
                self.connection.deadline.set(HALF_CLOSED);
            }
        }
        if self.http2.is_some() || self.mailbox.is_poll() {
            return Poll::Ready(Ok(()));
        }
        // Who has said all that there is to say may still listen, and has the time of a write where something waits for it.
        if self.waits.is_some() {
            return self.or_cut(Poll::Pending, cx);
        }
        let heard = self.connection.deadline.poll_expired(cx).map(Ok::<(), io::Error>);
        self.or_cut(heard, cx)
    }
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

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let unread = buf.filled().len();
        // Whoever waits for the client must not wait with an answer in hand; if it can't go, the next write tells.
        let _ = this.poll_write_waiting(cx, &[]);
        if let Reading::Nothing = this.reading {
            return this.poll_gone(cx);
        }
        if this.connection.held.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut this.connection.transport).poll_read(cx, buf);
            ready!(this.or_cut(read, cx))?;
            let read = &buf.filled()[before..];
            let taken = this.reading.take(read)?;
            this.connection.held.extend_from_slice(&read[taken..]);
            buf.set_filled(before + taken);
        } else {
            let step = buf.remaining().min(this.connection.held.len());
            let taken = this.reading.take(&this.connection.held[..step])?;
            buf.put_slice(&this.connection.held.split_to(taken));
        }
        // The engine would answer them without end.
        if this.http2.as_mut().is_some_and(|frames| !frames.read(&buf.filled()[unread..], Instant::now)) {
            log::info!(
                "{}: too many frames of HTTP/2 that carry nothing: the connection ends",
                this.connection.info.peer
            );
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
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
        let next = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        let written = this.poll_taken(written, next, cx);
        if let (Some(frames), Poll::Ready(Ok(written))) = (&mut this.http2, &written) {
            frames.wrote(*written);
        }
        if this.eof && written.is_ready() {
            this.connection.deadline.set(HALF_CLOSED);
        }
        this.or_cut(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match this.poll_write_waiting(cx, &[]) {
            Poll::Ready(Ok(_)) => Pin::new(&mut this.connection.transport).poll_flush(cx),
            waiting => waiting.map_ok(|_| ()),
        };
        let flushed = this.poll_taken(flushed.map_ok(|()| 0), &[], cx).map_ok(|_| ());
        this.or_cut(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_waiting(cx, &[]))?;
        Pin::new(&mut this.connection.transport).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("connection", &self.connection).finish_non_exhaustive()
    }
}

// What Pingora asks of a stream, so that its engines can serve one.

impl Stream {
    fn digests(&self) -> Option<&Digests> {
        if let Some(made) = self.digests.get() {
            return Some(made);
        }
        let head = ResponseHeader::build(200, Some(0)).ok()?;
        let proxy = ProxyDigest::new(Box::new(head), Some(Box::new(Arc::clone(&self.mailbox))));
        let socket = SocketDigest::from_raw_fd(self.id());
        let _ = socket.peer_addr.set(Some(self.connection.info.peer.into()));
        let _ = socket.local_addr.set(Some(self.connection.info.local.into()));
        Some(self.digests.get_or_init(|| Digests { proxy: Arc::new(proxy), socket: Arc::new(socket) }))
    }
}

#[async_trait]
impl Shutdown for Stream {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Stream {
    fn id(&self) -> UniqueIDType {
        self.connection.transport.socket().as_raw_fd()
    }
}

impl Ssl for Stream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        let tls = self.connection.info.tls.as_ref()?;
        Some(Arc::new(SslDigest::new(tls.cipher, tls.version, None, None, Vec::new())))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.http2.is_some().then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Stream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Stream {
    /// Carries [`Mailbox`] to the hooks of a `ProxyHttp`: Pingora has no other place for it that HTTP/2 shares.
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digests()?.proxy))
    }

    fn set_proxy_digest(&mut self, _digest: ProxyDigest) {}
}

impl GetSocketDigest for Stream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digests()?.socket))
    }

    fn set_socket_digest(&mut self, _digest: SocketDigest) {}
}

impl Peek for Stream {}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;
    use crate::listener::testing;

    fn pair() -> (Stream, UnixStream) {
        let (connection, client) = testing::pair();
        (Stream::new(connection, false, Duration::ZERO), client)
    }

    async fn read_body(body: Body, sent: &[u8], room: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut connection, mut client) = pair();
        client.write_all(sent).await.unwrap();
        drop(client);
        connection.expect(body);
        let mut got = Vec::new();
        let mut buffer = vec![0; room];
        loop {
            let read = connection.read(&mut buffer).await.unwrap();
            if read == 0 {
                return (got, connection.connection.held.to_vec());
            }
            got.extend_from_slice(&buffer[..read]);
        }
    }

    #[tokio::test]
    async fn an_engine_gets_its_body_and_not_a_byte_more() {
        let chunked = b"5\r\nhello\r\n0\r\n\r\n";
        let followed = [chunked.as_slice(), b"GET /"].concat();
        // All at once: each of them waits for as long as a client that has finished sending may still be answered.
        let reads = [1, 3, 7, 100].map(async |room| {
            let (by_length, by_chunks, without) = tokio::join!(
                read_body(Body::Length(5), b"helloGET /", room),
                read_body(Body::Chunked, &followed, room),
                read_body(Body::None, b"GET /", room),
            );
            assert_eq!(by_length, (b"hello".into(), b"GET /".into()));
            assert_eq!((by_chunks.0.as_slice(), by_chunks.1.as_slice()), (chunked.as_slice(), b"GET /".as_slice()));
            assert_eq!(without, (vec![], b"GET /".into()));
        });
        futures::future::join_all(reads).await;
    }

    #[tokio::test]
    async fn the_head_of_an_answer_goes_out_with_its_body_or_when_the_engine_waits() {
        let (mut connection, client) = pair();
        let arrived = async || {
            client.readable().await.unwrap();
            let mut bytes = [0; 64];
            client.try_read(&mut bytes).map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned()).unwrap()
        };
        let mut buffer = [0; 8];
        for (push, expected) in [("body", "head body"), ("flush", "head"), ("wait", "head"), ("finish", "head")] {
            connection.expect(Body::None);
            connection.write_all(b"head").await.unwrap();
            assert!(matches!(connection.writing, Writing::Waiting(_)), "{push}");
            match push {
                "body" => connection.write_all(b" body").await.unwrap(),
                "flush" => connection.flush().await.unwrap(),
                "wait" => assert!(futures::poll!(std::pin::pin!(connection.read(&mut buffer))).is_pending()),
                _ => Shutdown::shutdown(&mut connection).await,
            }
            assert_eq!(arrived().await, expected, "{push}");
        }
    }

    #[tokio::test]
    async fn a_head_and_its_body_reach_a_slow_reader_whole() {
        let (mut connection, mut client) = pair();
        connection.expect(Body::None);
        let (head, body) = ([b'h'; 4000], vec![b'b'; 2_000_000]);
        let sending = async {
            connection.write_all(&head).await.unwrap();
            connection.write_all(&body).await.unwrap();
            connection.flush().await.unwrap();
        };
        let mut got = vec![0; head.len() + body.len()];
        tokio::join!(sending, async { client.read_exact(&mut got).await.unwrap() });
        assert!(got[..head.len()] == head && got[head.len()..] == body);
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed_while_nothing_may_be_read() {
        let (mut connection, mut client) = pair();
        connection.expect(Body::None);
        client.write_all(b"early").await.unwrap();
        let mut probe = [0];
        let pending = futures::poll!(std::pin::pin!(connection.read(&mut probe)));
        assert!(pending.is_pending());
        drop(client);
        assert_eq!(connection.read(&mut probe).await.unwrap(), 0);
        assert_eq!(&connection.connection.held[..], b"early");
    }
}
