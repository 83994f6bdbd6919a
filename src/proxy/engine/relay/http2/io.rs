//! A client's connection as the `h2` crate reads and writes it: with bounds on what carries nothing, and on how long a client
//! may take nothing. Its streams see whether it is the connection that they wait for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::line::Line;
use crate::listener::Connection;
use crate::transport::Transport;
use crate::upstream::http2::READ_PER_TURN;
use crate::wire::http2::ControlFrames;

pub(super) struct Io {
    connection: Connection,
    frames: ControlFrames,
    /// How long a write may make no progress; zero is no limit.
    write: Duration,
    /// Whether the deadline runs.
    waits: bool,
    line: Arc<Line>,
    /// Bytes that have been read in this turn of the connection's task.
    read: usize,
}

impl Io {
    pub(super) fn new(mut connection: Connection, write: Duration) -> Self {
        connection.deadline.clear();
        let nothing = connection.waiting.another();
        let line = Line::new(std::mem::replace(&mut connection.waiting, nothing), connection.deadline.another());
        Self { connection, frames: ControlFrames::new(std::time::Instant::now()), write, waits: false, line, read: 0 }
    }

    /// What its streams know of it.
    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Fails what waits once the gateway's time is over, or the connection has to make room, so that every stream ends as
    /// with a client that has left; its tunnels say goodbye first.
    fn or_cut<T>(&self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            return result;
        }
        let stops = self.connection.deadline.poll_stopping(cx).is_ready() && !self.line.has_tunnels();
        if stops || self.line.poll_has_to_go(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        result
    }

    /// The same for a write, which may make no progress for a while only.
    fn poll_taken(
        &mut self,
        cx: &mut Context<'_>,
        next: &[u8],
        write: impl FnOnce(Pin<&mut Transport>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let before = self.connection.transport.unsent();
        let result = write(Pin::new(&mut self.connection.transport), cx);
        if result.is_ready() {
            if std::mem::take(&mut self.waits) {
                self.connection.deadline.clear();
                self.line.free();
            }
            return result;
        }
        if !std::mem::replace(&mut self.waits, true) || self.connection.transport.unsent() != before {
            self.connection.deadline.set(self.write);
        }
        self.line.block();
        match self.connection.poll_offer(next, self.write, cx) {
            Poll::Pending => self.or_cut(result, cx),
            Poll::Ready(Ok(taken)) => Poll::Ready(Ok(taken)),
            Poll::Ready(Err(error)) => {
                self.line.end_late();
                Poll::Ready(Err(error))
            }
        }
    }
}

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
        if this.connection.held.is_empty() {
            let read = Pin::new(&mut this.connection.transport).poll_read(cx, buf);
            if read.is_pending() {
                this.read = 0;
            }
            ready!(this.or_cut(read, cx))?;
        } else {
            let step = buf.remaining().min(this.connection.held.len());
            buf.put_slice(&this.connection.held.split_to(step));
        }
        this.read += buf.filled().len() - before;
        if !this.frames.read(&buf.filled()[before..], std::time::Instant::now) {
            log::info!(
                "{}: too many frames of HTTP/2 that carry nothing: the connection ends",
                this.connection.info.peer
            );
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
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
        let written = this.poll_taken(cx, next, |transport, cx| transport.poll_write_vectored(cx, bufs));
        if let Poll::Ready(Ok(written)) = &written {
            this.frames.wrote(*written);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.get_mut().poll_taken(cx, &[], |transport, cx| transport.poll_flush(cx).map_ok(|()| 0));
        flushed.map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection.transport).poll_shutdown(cx)
    }
}
