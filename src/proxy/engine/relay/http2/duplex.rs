//! A stream of HTTP/2 as bytes both ways: the client's end of a tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::line::OpenTunnel;
use super::stream::Client;
use crate::exchange::Side;
use crate::transport::Socket;
use crate::tunnel::stream::Stream;

/// Both ways of a stream (RFC 8441 5): its end stands for a half-close, a reset for one of the connection.
pub(in crate::proxy) struct Duplex {
    client: Client,
    body: RecvStream,
    /// What has come and has not been read.
    unread: Bytes,
    /// While it carries a tunnel.
    open: Option<OpenTunnel>,
}

impl Duplex {
    /// Of a stream whose request has been read, and that has not been answered: nothing can be written yet.
    pub(super) fn new(client: Client, body: RecvStream) -> Self {
        Self { client, body, unread: Bytes::new(), open: None }
    }

    /// It carries a tunnel from now on.
    pub(super) fn open(&mut self) {
        self.open = Some(self.client.line.open_tunnel());
    }

    /// Whose stream it is.
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    pub(super) fn into_client(self) -> Client {
        self.client
    }

    fn lost(&self) -> io::Error {
        let late = self.client.line.gone() == Side::StalledClient;
        if late { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionReset }.into()
    }
}

impl Stream for Duplex {
    fn reset_on_close(&mut self) {
        match &mut self.client.sending {
            Some(sending) => sending.send_reset(Reason::CANCEL),
            None => self.client.respond.send_reset(Reason::CANCEL),
        }
    }

    /// What has been written is counted by the connection.
    fn unsent(&self) -> usize {
        0
    }

    fn plain_socket(&self) -> Option<&Socket> {
        None
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(this.body.poll_data(cx)) {
                Some(Ok(bytes)) => this.unread = bytes,
                Some(Err(_)) => return Poll::Ready(Err(this.lost())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let step = buf.remaining().min(this.unread.len());
        buf.put_slice(&this.unread[..step]);
        this.unread.advance(step);
        // The client gets room for as much again.
        let released = this.body.flow_control().release_capacity(step);
        Poll::Ready(released.map_err(|_| this.lost()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let most = ready!(this.client.line.poll_room(cx)).min(buf.len());
        let lost = this.lost();
        let Some(sending) = &mut this.client.sending else { return Poll::Ready(Err(lost)) };
        sending.reserve_capacity(most);
        let mut room = sending.capacity();
        while room == 0 {
            room = match ready!(sending.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                None | Some(Err(_)) => return Poll::Ready(Err(lost)),
            };
        }
        let part = this.client.line.keep(&buf[..room.min(most)]);
        let written = part.len();
        Poll::Ready(sending.send_data(part, false).map(|()| written).map_err(|_| lost))
    }

    /// The connection sees to it that everything goes out.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ended = this.client.sending.as_mut().map_or(Ok(()), |sending| sending.send_data(Bytes::new(), true));
        Poll::Ready(ended.map_err(|_| this.lost()))
    }
}
