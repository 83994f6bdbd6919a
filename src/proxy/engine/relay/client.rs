//! A client between two requests, and while it waits: what it sends is read ahead, and its end is seen.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::{self, AHEAD, Buffer, READ};
use crate::ending::Stopping;
use crate::exchange::Core;
use crate::http::Timeouts;
use crate::listener::{Connection, HeadError, head_end, last_call};
use crate::proxy::http1::idle_no_longer;

/// Bytes that are held of a client that sends more before it has its answer; then it is read no further.
const HELD_AHEAD: usize = 16 * 1024;

/// Waits for the next head of a client.
pub(super) struct NextHead<'a> {
    timeouts: &'a Timeouts,
    /// The longest head.
    most: usize,
    /// Nothing has come of this connection yet; its time is running already.
    first: bool,
    /// Whether a head has begun.
    begun: bool,
    /// How much of what is held has been searched for the end of a head.
    searched: usize,
}

/// What ends the wait for a head when the listener stops or the gateway leaves. It is made once for many heads.
#[derive(Default)]
pub(super) struct Stops {
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// What it was made for: see [`Self::poll`].
    made_for: (bool, bool),
}

/// Reads once from the stream into the buffer of the thread, behind the room that is left ahead.
pub(super) fn poll_read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Buffer,
    at: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(&mut buffer.bytes[at..at + READ]);
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    Poll::Ready(Ok(room.filled().len()))
}

/// Writes what is left of `bytes` behind `done`; an error where the stream takes nothing.
pub(super) fn poll_write(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    done: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *done < bytes.len() {
        match ready!(Pin::new(&mut *stream).poll_write(cx, &bytes[*done..]))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => *done += written,
        }
    }
    Poll::Ready(Ok(()))
}

/// Ready once the client has finished sending, with an error where its connection broke; what it sends before is held.
/// The end of the gateway's time counts as a break.
pub(super) fn poll_ended(client: &mut Connection, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    if client.deadline.is_stopping() {
        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
    }
    while client.held.len() < HELD_AHEAD {
        match ready!(poll_read(&mut client.transport, buffer, AHEAD, cx))? {
            0 => return Poll::Ready(Ok(())),
            read => client.held.extend_from_slice(&buffer.bytes[AHEAD..AHEAD + read]),
        }
    }
    Poll::Pending
}

/// Waits for work that is done for the client; `None` when it has left meanwhile. One that has only finished sending is
/// waited with, unless `at_once` says that it counts as gone.
pub(super) async fn unless_gone<T>(client: &mut Connection, at_once: bool, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        // So that the end of the gateway's time wakes this task.
        let _ = client.deadline.poll_stopping(cx);
        match buffer::lend(|buffer| poll_ended(client, buffer, cx)) {
            Poll::Ready(ended) if at_once || ended.is_err() => Poll::Ready(None),
            _ => Poll::Pending,
        }
    })
    .await
}

impl<'a> NextHead<'a> {
    /// Waits from now on.
    pub(super) fn new(client: &Connection, timeouts: &'a Timeouts, most: usize, first: bool) -> Self {
        if !first {
            client.deadline.set(timeouts.keep_alive);
        }
        Self { timeouts, most, first, begun: false, searched: 0 }
    }

    /// Whether a head has begun; it is finished then whatever happens.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Ready with what `take` has made of the head, and how long it was. `take` is given the bytes where they lie, and
    /// whether they are known to be a whole head; where they aren't it may leave them until they are.
    pub(super) fn poll<T>(
        &mut self,
        client: &mut Connection,
        mut take: impl FnMut(&[u8], bool) -> Option<(T, usize)>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, HeadError>> {
        buffer::lend(|buffer| {
            loop {
                if !client.held.is_empty()
                    && let Some(taken) = self.look(client, &mut take)?
                {
                    return Poll::Ready(Ok(taken));
                }
                let read = match poll_read(&mut client.transport, buffer, AHEAD, cx) {
                    Poll::Ready(Ok(read @ 1..)) => read,
                    Poll::Ready(_) => return Poll::Ready(Err(HeadError::Gone)),
                    Poll::Pending => {
                        ready!(client.deadline.poll_expired(cx));
                        return Poll::Ready(Err(if self.begun { HeadError::Late } else { HeadError::Idle }));
                    }
                };
                let came = &buffer.bytes[AHEAD..AHEAD + read];
                if client.held.is_empty() && !matches!(came[0], b'\r' | b'\n') {
                    // Mostly it is whole, and nothing of it has to be kept.
                    if let Some((taken, length)) = take(came, false) {
                        client.held.extend_from_slice(&came[length..]);
                        return Poll::Ready(Ok(taken));
                    }
                }
                client.held.extend_from_slice(came);
            }
        })
    }

    /// Looks for a head in what is held.
    fn look<T>(
        &mut self,
        client: &mut Connection,
        take: &mut impl FnMut(&[u8], bool) -> Option<(T, usize)>,
    ) -> Result<Option<T>, HeadError> {
        if !self.begun {
            // Servers should pass over blank lines before a request (RFC 9112 2.2).
            let blank = client.held.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            client.held.advance(blank);
            self.begun = !client.held.is_empty();
            if self.begun && !self.first {
                client.deadline.set(self.timeouts.head);
            }
        }
        // Mostly it is whole, and need not be searched for its end first.
        if self.searched == 0
            && let Some((taken, length)) = take(&client.held, false)
        {
            client.held.advance(length);
            if client.held.is_empty() {
                client.held = BytesMut::new();
            }
            return Ok(Some(taken));
        }
        if let Some(end) = head_end(&client.held, self.searched) {
            if end > self.most {
                return Err(HeadError::TooLarge);
            }
            let taken = take(&client.held[..end], true).map(|(taken, _)| taken);
            client.held.advance(end);
            if client.held.is_empty() {
                client.held = BytesMut::new();
            }
            return Ok(taken);
        }
        if client.held.len() > self.most {
            return Err(HeadError::TooLarge);
        }
        self.searched = client.held.len().saturating_sub(2);
        Ok(None)
    }
}

impl Stops {
    /// Ready when a connection that has said nothing has to go: see [`idle_no_longer`]. One that has not been used yet,
    /// the `first` case, has a moment longer.
    pub(super) fn poll(
        &mut self,
        core: &Arc<Core>,
        stopping: &Stopping,
        (first, of_session): (bool, bool),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.made_for != (first, of_session) {
            self.waiting = None;
        }
        // Whoever waits for a change has been polled by this task before, and is woken by it.
        if self.waiting.is_some() && !stopping.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        self.made_for = (first, of_session);
        let waiting = self.waiting.get_or_insert_with(|| {
            let (core, mut stopping) = (Arc::clone(core), stopping.clone());
            if first {
                Box::pin(async move { last_call(&mut stopping).await })
            } else {
                Box::pin(async move { idle_no_longer(&core, &mut stopping, of_session).await })
            }
        });
        waiting.as_mut().poll(cx)
    }
}
