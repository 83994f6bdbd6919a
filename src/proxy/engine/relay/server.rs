//! The server's end of an exchange of HTTP/1: a connection of its own, or a stream on a shared one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::translated::Translated;
use crate::transport::{Socket, Transport};

pub(super) enum Server {
    /// HTTP/1.1.
    Connection(Transport),
    /// HTTP/2.
    Stream(Box<Translated>),
}

impl Server {
    /// See [`Transport::unsent`].
    pub(super) fn unsent(&self) -> usize {
        match self {
            Self::Connection(transport) => transport.unsent(),
            Self::Stream(stream) => stream.unsent(),
        }
    }

    /// Takes what has come of an answer though nobody can read it yet, where that would cost more elsewhere.
    pub(super) fn take_ahead(&mut self, cx: &mut Context<'_>) {
        if let Self::Stream(stream) = self {
            stream.take_ahead(cx);
        }
    }

    /// Bytes of an answer that wait in this process for whoever reads.
    pub(super) fn unread(&self) -> usize {
        match self {
            Self::Connection(_) => 0,
            Self::Stream(stream) => stream.unread(),
        }
    }

    /// See [`Transport::offer`].
    pub(super) fn offer(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Connection(transport) => transport.offer(bytes),
            Self::Stream(_) => None,
        }
    }

    /// See [`Transport::plain_socket`].
    pub(super) fn plain_socket(&self) -> Option<&Socket> {
        match self {
            Self::Connection(transport) => transport.plain_socket(),
            Self::Stream(_) => None,
        }
    }

    /// Whether the server has said that it has not looked at the request.
    pub(super) fn not_taken(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.not_taken())
    }

    /// It has not answered in time.
    pub(super) fn doubt(&self) {
        if let Self::Stream(stream) = self {
            stream.doubt();
        }
    }

    /// The connection, where it is not shared.
    pub(super) fn into_connection(self) -> Option<Transport> {
        match self {
            Self::Connection(transport) => Some(transport),
            Self::Stream(_) => None,
        }
    }
}

impl AsyncRead for Server {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(transport) => Pin::new(transport).poll_read(cx, buf),
            Self::Stream(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Server {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Connection(transport) => Pin::new(transport).poll_write(cx, buf),
            Self::Stream(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(transport) => Pin::new(transport).poll_flush(cx),
            Self::Stream(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(transport) => Pin::new(transport).poll_shutdown(cx),
            Self::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
