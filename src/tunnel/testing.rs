//! A tunnel with both of its ends in a test's hands.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use prometheus::{IntCounter, IntGauge};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::stream::Stream;
use super::{Closed, Ends, Listening, carry};
use crate::buffers::Buffers;
use crate::deadline::Deadlines;
use crate::roster::{Origin, Roster};
use crate::transport::{Socket, Transport};

pub(super) struct Running<Client = UnixStream, Server = Client> {
    pub(super) client: Client,
    pub(super) server: Server,
    pub(super) clock: Arc<Deadlines>,
    pub(super) roster: Roster,
    pub(super) closed: JoinHandle<Closed>,
}

/// A tunnel that has read this much early.
pub(super) fn tunnel(idle: Duration, websocket: bool, early: (&[u8], &[u8])) -> Running {
    listening(Listening { frames: websocket, ..Listening::default() }, idle, early)
}

pub(super) fn listening(listening: Listening, idle: Duration, early: (&[u8], &[u8])) -> Running {
    let ((client, ours_to_client), (server, ours_to_server)) = (sockets(), sockets());
    let ends = Ends {
        client: ours_to_client,
        from_client: early.0.into(),
        server: ours_to_server,
        from_server: early.1.into(),
        head: 0,
    };
    let Running { clock, roster, closed, .. } = run(ends, listening, idle);
    Running { client, server, clock, roster, closed }
}

/// A tunnel over these two.
pub(super) fn over<Client, Server>(client: Client, server: Server, listening: Listening) -> Running<()>
where
    Client: Stream + Send + 'static,
    Server: Stream + Send + 'static,
{
    let ends = Ends { client, from_client: BytesMut::new(), server, from_server: BytesMut::new(), head: 0 };
    run(ends, listening, Duration::ZERO)
}

fn run<Client, Server>(ends: Ends<Client, Server>, listening: Listening, idle: Duration) -> Running<()>
where
    Client: Stream + Send + 'static,
    Server: Stream + Send + 'static,
{
    let clock = Deadlines::new();
    tokio::spawn(Arc::clone(&clock).run());
    let deadline = clock.register();
    let buffers = Buffers::new(IntGauge::new("a", "b").unwrap(), IntCounter::new("c", "d").unwrap());
    let roster = Roster::default();
    let leave = roster.add(Origin::default(), true);
    let closed = tokio::spawn(carry(ends, idle.into(), (deadline, buffers.nothing()), leave, listening));
    Running { client: (), server: (), clock, roster, closed }
}

/// The peer's end of a socket, and the tunnel's.
pub(super) fn sockets() -> (UnixStream, Transport) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    (theirs, Transport::Plain(Socket::Unix(ours)))
}

/// An end that is no socket, as a stream of HTTP/2 will be.
pub(super) struct Memory {
    stream: DuplexStream,
    reset: Arc<AtomicBool>,
}

impl Memory {
    /// The peer's end, the tunnel's, and whether that was reset.
    pub(super) fn pair() -> (DuplexStream, Self, Arc<AtomicBool>) {
        let (theirs, stream) = duplex(256 * 1024);
        let reset = Arc::<AtomicBool>::default();
        (theirs, Self { stream, reset: Arc::clone(&reset) }, reset)
    }
}

impl Stream for Memory {
    fn reset_on_close(&mut self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    fn unsent(&self) -> usize {
        0
    }

    fn plain_socket(&self) -> Option<&Socket> {
        None
    }
}

impl AsyncRead for Memory {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

pub(super) async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}
