//! Connections of HTTP/2 to servers, open and agreed on: by ALPN over TLS, by prior knowledge in plain.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::tls::HTTP2;
use super::within;
use crate::metrics::{OpenGauge, UpstreamMetrics};
use crate::transport::{self, Transport};
use crate::upstream::{Server, Upstream};
use crate::wire::http2::{ControlFrames, may_begin};

/// A connection on which requests can be sent for as long as somebody drives it.
pub(crate) struct Http2 {
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) running: Running,
    /// Set whenever the server says something.
    pub(crate) heard: Arc<AtomicBool>,
    /// To be kept for as long as it is open.
    pub(crate) open: OpenGauge,
}

/// What drives it; over when it is.
pub(crate) type Running = Connection<Io, Bytes>;

/// Streams that one connection carries at once, where its server allows as many.
pub(crate) const STREAMS: usize = 100;
/// Bytes of an answer that may come before the client has taken the ones before.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;
/// Room for as much of every stream: one whose client takes nothing holds up no other.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;
/// Bytes of a request's body that wait for the server, for each stream.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;
/// What small parts of answers may cost until their streams have taken them, at some 256 bytes for each: servers of gRPC send
/// every message by itself, and streams take what comes as soon as it has.
const FRAMES_BUDGET: usize = 16 * 1024 * 1024;
/// Bytes that are read at once, so that small parts don't pile up.
pub(crate) const READ_PER_TURN: usize = 16 * 1024;
/// The longest head of an answer, as of HTTP/1.
const MOST_HEAD: u32 = 64 * 1024;
/// More streams than any server can allow: it has allowed none yet.
const UNTOLD: usize = usize::MAX - 1;

impl Upstream {
    /// Opens a connection of HTTP/2 to a server, within `timeouts.connect`, and waits for what the server says first: until
    /// then nobody knows that it speaks HTTP/2 at all, nor how many streams it allows.
    pub(crate) async fn connect_http2(&self, server: &Server) -> io::Result<Http2> {
        let connecting = async {
            let socket = self.open(server, None).await?;
            let transport = match &self.tls {
                None => Transport::Plain(socket),
                Some(settings) => {
                    let name = settings.server_name(server).map_err(io::Error::other)?;
                    let config = settings.http2_config().unwrap_or(settings.client_config());
                    let stream = transport::tls::connect(config.clone(), name, socket).await?;
                    if stream.agreed().alpn_protocol() != Some(HTTP2) {
                        return Err(io::Error::other("it speaks no HTTP/2: ALPN has not agreed on `h2`"));
                    }
                    Transport::ToServer(stream)
                }
            };
            agree(Io::new(transport, self.config.timeouts.write), &self.metrics).await
        };
        self.timed(within(self.config.timeouts.connect, connecting)).await
    }
}

async fn agree(io: Io, metrics: &UpstreamMetrics) -> io::Result<Http2> {
    let heard = Arc::clone(&io.heard);
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(UNTOLD)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(FRAMES_BUDGET)
        .max_header_list_size(MOST_HEAD);
    let (requests, mut running) = builder.handshake::<_, Bytes>(io).await.map_err(into_io)?;
    poll_fn(|cx| match Pin::new(&mut running).poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(into_io(error))),
        Poll::Ready(Ok(())) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        Poll::Pending if requests.current_max_send_streams() == UNTOLD => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    Ok(Http2 { requests, running, heard, open: OpenGauge::new(&metrics.http2_open) })
}

/// The fault of the socket, where it is one.
fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::Error::other("it broke"))
    } else {
        io::Error::other(error)
    }
}

/// A connection as the `h2` crate reads and writes it: with bounds on what carries nothing, and on how long the server may
/// take nothing.
pub(crate) struct Io {
    transport: Transport,
    frames: ControlFrames,
    /// What has come of the first frame's head; `None` once that is known to be one.
    first: Option<Vec<u8>>,
    /// How long a write may make no progress; zero is no limit.
    write: Duration,
    /// Runs while one makes none.
    waits: Option<Pin<Box<Sleep>>>,
    heard: Arc<AtomicBool>,
    /// Bytes that have been read in this turn of whoever drives it.
    read: usize,
}

impl Io {
    fn new(transport: Transport, write: Duration) -> Self {
        let frames = ControlFrames::of_server(Instant::now());
        Self { transport, frames, first: Some(Vec::new()), write, waits: None, heard: Arc::default(), read: 0 }
    }

    /// Whether what has come is HTTP/2 that may go on.
    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.heard.store(true, Relaxed);
        if let Some(first) = &mut self.first {
            first.extend(bytes.iter().take(FRAME_HEAD - first.len()));
            if !may_begin(first) {
                let what =
                    if first.starts_with(b"HTTP/") { "it speaks HTTP/1, not HTTP/2" } else { "it speaks no HTTP/2" };
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            if first.len() == FRAME_HEAD {
                self.first = None;
            }
        }
        if !self.frames.read(bytes, Instant::now) {
            return Err(io::Error::other("too many frames of HTTP/2 that carry nothing"));
        }
        Ok(())
    }

    /// The result of a write, which may make no progress for a while only; `next` is what it began with.
    fn poll_taken(
        &mut self,
        cx: &mut Context<'_>,
        next: &[u8],
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.waits = None;
            return Poll::Ready(written);
        }
        if self.write.is_zero() {
            return Poll::Pending;
        }
        loop {
            let write = self.write;
            ready!(self.waits.get_or_insert_with(|| Box::pin(sleep(write))).as_mut().poll(cx));
            self.waits = None;
            match self.transport.offer(next) {
                None => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                // Something of TLS has gone: it takes on, and has as long once more.
                Some(0) => {}
                Some(taken) => return Poll::Ready(Ok(taken)),
            }
        }
    }
}

/// RFC 9113 4.1.
const FRAME_HEAD: usize = 9;

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read >= READ_PER_TURN {
            // What has come is taken by its streams first.
            this.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.transport).poll_read(cx, buf);
        this.read = if polled.is_pending() { 0 } else { this.read + buf.filled().len() - before };
        ready!(polled)?;
        Poll::Ready(this.look(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let next = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        let written = Pin::new(&mut this.transport).poll_write_vectored(cx, bufs);
        let written = ready!(this.poll_taken(cx, next, written))?;
        this.frames.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.transport).poll_flush(cx).map_ok(|()| 0);
        this.poll_taken(cx, &[], flushed).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
