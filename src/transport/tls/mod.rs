//! TLS over a socket that costs little while nothing is said: a stream of rustls' unbuffered connections.
//!
//! rustls' own buffered connections, and tokio-rustls around them, keep some 4 KiB for each connection from the first
//! record on. Here the buffers belong to threads and are borrowed for one read or write. A connection keeps bytes of its
//! own only where they have to wait: the beginning of a record whose end has not come, plain text that the reader had no
//! room for, and records that the socket did not take.

mod buffers;
mod rest;
mod session;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Socket;
use buffers::{HELD, INCOMING, OUTGOING, READ, RECORD, RECORD_OVERHEAD, Sealed};
use rest::Rest;
pub use session::Session;
use session::{Driven, drive};

/// A stream of the gateway as server: towards a client.
pub type FromClient = Stream<UnbufferedServerConnection>;
/// A stream of the gateway as client: towards a server.
pub type ToServer = Stream<UnbufferedClientConnection>;

/// One side of a TLS connection, open for plain text.
///
/// Reads end with [`UnexpectedEof`] when the peer's end comes without a `close_notify`: it may be a cut. What the peer
/// does wrong is answered with an alert and fails with [`InvalidData`]. Writes accept up to 64 KiB at a time and nothing
/// further before the socket has taken that; what is left is written with the next write, flush or read, so one task has
/// to do all three.
///
/// [`UnexpectedEof`]: io::ErrorKind::UnexpectedEof
/// [`InvalidData`]: io::ErrorKind::InvalidData
pub struct Stream<S, I = Socket> {
    socket: I,
    session: S,
    /// Read and not yet whole; shown to the session again as soon as there is more.
    incoming: Rest,
    /// Decrypted and not yet read.
    plain: Rest,
    /// Encrypted and not yet taken by the socket.
    outgoing: Rest,
    reading: Reading,
    /// Whether our `close_notify` is out, or never will be.
    finished: bool,
}

/// Whether there is more to read.
enum Reading {
    Open,
    /// The peer has finished.
    Closed,
    /// The socket ended without a `close_notify`.
    Cut,
    /// The peer broke the rules, or said that we did.
    Failed(Box<rustls::Error>),
}

thread_local! {
    /// See [`note_server_name`].
    static SERVER_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes note of the name that a client asks for. Whoever resolves certificates has to call this, since an unbuffered
/// connection does not tell the name afterwards; it reaches [`accept`], which drives the handshake on the same thread.
pub fn note_server_name(name: Option<&str>) {
    SERVER_NAME.set(name.map(str::to_owned));
}

/// Performs a server's handshake, whose `first` bytes have been read already; the name that the client asked for is there if the resolver took note of it.
///
/// # Errors
/// Those of the socket; [`InvalidData`](io::ErrorKind::InvalidData) with the [`rustls::Error`] if there is no agreement,
/// which the client has been told by then.
pub async fn accept<I>(
    config: Arc<ServerConfig>,
    socket: I,
    first: &[u8],
) -> io::Result<(Box<Stream<UnbufferedServerConnection, I>>, Option<String>)>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    // In its box from the start: what a future holds makes the task larger for as long as it lives.
    let mut stream = Box::new(Stream::new(socket, session));
    let mut name = None;
    stream.incoming.push(first);
    let mut unread = !first.is_empty();
    poll_fn(|cx| {
        // The resolver runs within one of these polls.
        SERVER_NAME.take();
        let begun = if std::mem::take(&mut unread) { stream.drive_held() } else { Ok(()) };
        let poll = match begun {
            Ok(()) => stream.poll_handshake(cx),
            Err(error) => {
                // The alert that says why.
                let _ = stream.poll_drain(cx);
                Poll::Ready(Err(error))
            }
        };
        name = SERVER_NAME.take().or(name.take());
        poll
    })
    .await?;
    Ok((stream, name))
}

/// Performs a client's handshake with the server of this name.
///
/// # Errors
/// As with [`accept`].
pub async fn connect<I>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    socket: I,
) -> io::Result<Box<Stream<UnbufferedClientConnection, I>>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = Box::new(Stream::new(socket, session));
    poll_fn(|cx| stream.poll_handshake(cx)).await?;
    Ok(stream)
}

impl<S, I> Stream<S, I> {
    /// The socket beneath.
    pub fn socket(&self) -> &I {
        &self.socket
    }

    /// Bytes of records that the socket has not taken.
    pub fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// Offers them to the socket; whether it has taken any.
    pub(super) fn offer(&mut self, offer: impl FnOnce(&I, &[u8]) -> usize) -> bool {
        let taken = offer(&self.socket, self.outgoing.as_slice());
        self.outgoing.take(taken);
        taken > 0
    }
}

impl<S: Session, I: AsyncRead + AsyncWrite + Unpin> Stream<S, I> {
    fn new(socket: I, session: S) -> Self {
        let (incoming, plain, outgoing) = (Rest::default(), Rest::default(), Rest::default());
        Self { socket, session, incoming, plain, outgoing, reading: Reading::Open, finished: false }
    }

    /// What was agreed on.
    pub fn agreed(&self) -> &CommonState {
        self.session.common()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.session.common().protocol_version().is_none() && self.incoming.is_empty() {
            // A client speaks first.
            self.drive_held()?;
        }
        loop {
            ready!(self.poll_drain(cx))?;
            if !self.session.common().is_handshaking() {
                return Pin::new(&mut self.socket).poll_flush(cx);
            }
            ready!(self.poll_fill(cx, None))?;
            match &self.reading {
                Reading::Open => {}
                Reading::Failed(error) => return Poll::Ready(Err(invalid(error))),
                // A client may finish with the handshake and all that it has to say in one go.
                Reading::Closed if !self.session.common().is_handshaking() => {}
                Reading::Closed | Reading::Cut => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the peer left in the middle of the handshake",
                    )));
                }
            }
        }
    }

    /// Reads from the socket once; plain text goes to the reader as far as it has room, and the rest of it waits.
    fn poll_fill(&mut self, cx: &mut Context<'_>, mut reader: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<()>> {
        // Whoever waits for the peer must not wait with records in hand; if they can't go, the next write tells.
        let _ = self.poll_drain(cx);
        let Self { socket, session, incoming, plain, outgoing, .. } = self;
        let held = incoming.len();
        if held > HELD {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message without an end")));
        }
        let wanted = reader.as_ref().map_or(0, |reader| reader.remaining());
        let most = wanted.clamp(RECORD + RECORD_OVERHEAD, READ);
        let driven = INCOMING.with_borrow_mut(|buffer| {
            let mut room = ReadBuf::new(&mut buffer[held..held + most]);
            ready!(Pin::new(socket).poll_read(cx, &mut room))?;
            let end = held + room.filled().len();
            if end == held {
                return Poll::Ready(io::Result::Ok(None));
            }
            buffer[..held].copy_from_slice(incoming.as_slice());
            let deliver = |bytes: &[u8]| {
                let at_once = match &mut reader {
                    Some(reader) if plain.is_empty() => {
                        let step = bytes.len().min(reader.remaining());
                        reader.put_slice(&bytes[..step]);
                        step
                    }
                    _ => 0,
                };
                if at_once < bytes.len() {
                    plain.push(&bytes[at_once..]);
                }
            };
            let driven = drive(session, &mut buffer[..end], outgoing.tail(), deliver, |_| ());
            incoming.replace(&buffer[driven.consumed..end]);
            Poll::Ready(Ok(Some(driven)))
        });
        match ready!(driven)? {
            Some(driven) => drop(self.learn(driven)),
            None => self.reading = Reading::Cut,
        }
        // An alert, mostly; what the socket does not take goes with the next write.
        let _ = self.poll_drain(cx);
        Poll::Ready(Ok(()))
    }

    /// Drives the session without anything new from the peer.
    fn drive_held(&mut self) -> io::Result<()> {
        let Self { session, incoming, plain, outgoing, .. } = self;
        let driven = drive(session, incoming.as_mut_slice(), outgoing.tail(), |bytes| plain.push(bytes), |_| ());
        incoming.take(driven.consumed);
        self.learn(driven).map(drop)
    }

    /// Remembers what a session found out, and passes on what was written meanwhile.
    fn learn<R>(&mut self, driven: Driven<R>) -> io::Result<Option<R>> {
        if driven.peer_closed {
            self.reading = Reading::Closed;
            // What follows has to be ignored (RFC 8446 6.1).
            self.incoming = Rest::default();
        }
        driven.result.map_err(|error| {
            let fault = invalid(&error);
            self.reading = Reading::Failed(Box::new(error));
            self.incoming = Rest::default();
            // An alert has said more than a close_notify could.
            self.finished = true;
            fault
        })
    }

    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, self.outgoing.as_slice()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.outgoing.take(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_slices(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Reading::Failed(error) = &self.reading {
            return Poll::Ready(Err(invalid(error)));
        }
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_drain(cx))?;
        OUTGOING.with_borrow_mut(|buffers| {
            let Self { session, incoming, plain, outgoing, .. } = self;
            let driven = drive(
                session,
                incoming.as_mut_slice(),
                outgoing.tail(),
                |bytes| plain.push(bytes),
                |traffic| buffers.seal(traffic, slices),
            );
            incoming.take(driven.consumed);
            let sealed = self.learn(driven)?.ok_or(io::ErrorKind::BrokenPipe)?;
            // Fails when the keys of TLS 1.2 have sealed as much as they may.
            let Sealed { accepted, sealed } = sealed.map_err(|worn| {
                self.finished = true;
                io::Error::other(worn)
            })?;
            self.send(cx, &buffers.sealed[..sealed])?;
            Poll::Ready(Ok(accepted))
        })
    }

    /// Gives records to the socket; those that it does not take wait.
    fn send(&mut self, cx: &mut Context<'_>, mut records: &[u8]) -> io::Result<()> {
        // Something of the session's own may have to go first.
        if let Poll::Ready(drained) = self.poll_drain(cx) {
            drained?;
            while !records.is_empty() {
                match Pin::new(&mut self.socket).poll_write(cx, records)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(written) => records = &records[written..],
                    Poll::Pending => break,
                }
            }
        }
        self.outgoing.push(records);
        Ok(())
    }

    /// Puts a `close_notify` behind what was written.
    fn say_goodbye(&mut self) -> io::Result<()> {
        self.finished = true;
        OUTGOING.with_borrow_mut(|buffers| {
            let Self { session, incoming, plain, outgoing, .. } = self;
            let driven = drive(
                session,
                incoming.as_mut_slice(),
                outgoing.tail(),
                |bytes| plain.push(bytes),
                |traffic| traffic.queue_close_notify(&mut buffers.sealed),
            );
            incoming.take(driven.consumed);
            if let Some(length) = self.learn(driven)? {
                self.outgoing.push(&buffers.sealed[..length.map_err(io::Error::other)?]);
            }
            Ok(())
        })
    }
}

fn invalid(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}

impl<S: Session, I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S, I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.plain.is_empty() {
            let step = this.plain.len().min(buf.remaining());
            buf.put_slice(&this.plain.as_slice()[..step]);
            this.plain.take(step);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        while buf.filled().len() == before && buf.remaining() > 0 {
            match &this.reading {
                Reading::Open => ready!(this.poll_fill(cx, Some(buf)))?,
                Reading::Closed => break,
                Reading::Cut => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Reading::Failed(error) => return Poll::Ready(Err(invalid(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Session, I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S, I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_slices(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_slices(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.finished {
            this.say_goodbye()?;
        }
        ready!(this.poll_drain(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            // Whoever is gone needs no goodbye.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

impl<S, I: fmt::Debug> fmt::Debug for Stream<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
