//! Bulk from socket to socket without a copy: splice(2) moves pages by way of a pipe, at half the cost of two copies.
//!
//! It pays only where much is waiting, so whoever carries turns to it when reads keep filling the buffer, and back when
//! little comes. A pipe is borrowed only while bytes are in it; there is a bounded number of them, and who gets none
//! copies.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;

use super::Socket;

/// Bytes that a pipe is asked to hold: with twice as many bulk costs as much, and a slow reader more.
const CAPACITY: usize = 128 * 1024;
/// A read of so many bytes has more behind it, mostly.
pub(crate) const FULL: usize = 64 * 1024;
/// Reads in a row that are full before bulk is no longer copied.
const FULL_READS: u8 = 4;
/// Fewer bytes than this are cheaper to copy.
const WORTHWHILE: usize = 16 * 1024;
/// Pipes of this process: they count against its descriptors, and the kernel allows a user 64 MiB of them.
const MOST_PIPES: usize = 128;
/// Empty pipes that a thread keeps.
const KEPT: usize = 4;

static PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static EMPTY: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// What goes one way, as far as it is bulk.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    full_reads: u8,
    /// What the sink has not taken yet.
    pipe: Option<Pipe>,
}

impl Bulk {
    /// Takes note of a read that was copied.
    pub(crate) fn note_read(&mut self, bytes: usize) {
        self.full_reads = if bytes >= FULL { self.full_reads.saturating_add(1) } else { 0 };
    }

    /// Bytes that wait until the sink takes them.
    pub(crate) fn waiting(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.holds as usize)
    }

    /// Moves on what has come, of so many bytes at most, into a pipe that has to be [emptied](Self::poll_empty) before more
    /// comes; 0 at the end. `None` where it is to be copied, and nothing has been moved.
    ///
    /// The last of the bytes are always copied: a read that brings less than it could tells the runtime that nothing is
    /// left to be read, where this tells it nothing, and the connection would not seem idle.
    pub(crate) fn poll_fill(
        &mut self,
        source: Option<&Socket>,
        sink: Option<&Socket>,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<usize>>> {
        let most = most.saturating_sub(WORTHWHILE as u64);
        if self.full_reads < FULL_READS || most < WORTHWHILE as u64 {
            return None;
        }
        let (Some(source), Some(_)) = (source, sink) else { return None };
        let mut pipe = Pipe::borrow()?;
        let read = match pipe.poll_fill(source, usize::try_from(most).unwrap_or(usize::MAX), cx) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                // Not between these two.
                self.full_reads = 0;
                return None;
            }
            Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
            Poll::Pending => {
                pipe.give_back();
                return Some(Poll::Pending);
            }
        };
        if read < WORTHWHILE {
            self.full_reads = 0;
        }
        if read == 0 {
            pipe.give_back();
        } else {
            self.pipe = Some(pipe);
        }
        Some(Poll::Ready(Ok(read)))
    }

    /// Sends what is in the pipe; ready when that is all gone. The flag tells whether any of it went.
    pub(crate) fn poll_empty(&mut self, sink: &Socket, went: &mut bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        let emptied = ready!(pipe.poll_empty(sink, went, cx));
        let pipe = self.pipe.take();
        // Where the sink broke, what is in the pipe goes with it.
        if let (Ok(()), Some(pipe)) = (&emptied, pipe) {
            pipe.give_back();
        }
        Poll::Ready(emptied)
    }

    /// Sends what the kernel takes of it, without waiting for it to say that it takes any; how many bytes.
    pub(crate) fn offer(&mut self, sink: &Socket) -> usize {
        let Some(pipe) = &mut self.pipe else { return 0 };
        let moved = splice(&pipe.out, None, sink, None, pipe.holds as usize, FLAGS).unwrap_or(0);
        pipe.holds -= moved as u32;
        moved
    }

    /// Gives up what is in the pipe.
    pub(crate) fn clear(&mut self) {
        self.pipe = None;
    }
}

/// A pipe, and how much is in it.
#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    /// 32 bits, since every tunnel has two of these.
    holds: u32,
    _counted: Counted,
}

/// One of the [`MOST_PIPES`].
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let counted = Self;
        // One too many is given back on the way out.
        (PIPES.fetch_add(1, Relaxed) < MOST_PIPES).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Relaxed);
    }
}

impl Pipe {
    /// An empty pipe; `None` where there are enough of them already, or no descriptors for one more.
    fn borrow() -> Option<Self> {
        EMPTY.with_borrow_mut(Vec::pop).or_else(|| {
            let counted = Counted::new()?;
            let (out, into) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
            // As large as it is by default will do, too.
            let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
            Some(Self { out, into, holds: 0, _counted: counted })
        })
    }

    /// Leaves an empty pipe to the next who needs one.
    fn give_back(self) {
        debug_assert_eq!(self.holds, 0, "the bytes of one are not for another");
        EMPTY.with_borrow_mut(|empty| {
            if empty.len() < KEPT {
                empty.push(self);
            }
        });
    }

    /// Fills the empty pipe with what a socket has received; 0 at its end.
    fn poll_fill(&mut self, source: &Socket, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let most = most.min(CAPACITY);
        loop {
            ready!(poll_ready(source, Interest::READABLE, cx))?;
            let moved = try_io(source, Interest::READABLE, || Ok(splice(source, None, &self.into, None, most, FLAGS)?));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                moved => {
                    let moved = moved?;
                    self.holds += moved as u32;
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }

    /// Sends what is in it; ready when it is empty. The flag tells whether any of it went.
    fn poll_empty(&mut self, sink: &Socket, went: &mut bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.holds > 0 {
            ready!(poll_ready(sink, Interest::WRITABLE, cx))?;
            let moved = try_io(sink, Interest::WRITABLE, || {
                Ok(splice(&self.out, None, sink, None, self.holds as usize, FLAGS)?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                moved => {
                    self.holds -= moved? as u32;
                    *went = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

fn poll_ready(socket: &Socket, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match (socket, interest.is_readable()) {
        (Socket::Tcp(stream), true) => stream.poll_read_ready(cx),
        (Socket::Tcp(stream), false) => stream.poll_write_ready(cx),
        (Socket::Unix(stream), true) => stream.poll_read_ready(cx),
        (Socket::Unix(stream), false) => stream.poll_write_ready(cx),
    }
}

fn try_io<T>(socket: &Socket, interest: Interest, work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match socket {
        Socket::Tcp(stream) => stream.try_io(interest, work),
        Socket::Unix(stream) => stream.try_io(interest, work),
    }
}

/// Empty pipes of this thread: proof that there was one.
#[cfg(test)]
pub(crate) fn kept() -> usize {
    EMPTY.with_borrow(Vec::len)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
        (Socket::Tcp(ours.unwrap().0), theirs.unwrap())
    }

    #[tokio::test]
    async fn bytes_pass_in_order_and_the_end_is_seen() {
        let ((source, mut writer), (sink, mut reader)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&copy).await.unwrap();
            drop(writer);
        });
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.unwrap();
            got
        });
        let (mut moved, mut went) = (0, false);
        let mut pipe = Pipe::borrow().unwrap();
        loop {
            let filled = poll_fn(|cx| pipe.poll_fill(&source, CAPACITY, cx)).await.unwrap();
            poll_fn(|cx| pipe.poll_empty(&sink, &mut went, cx)).await.unwrap();
            moved += filled;
            if filled == 0 {
                break;
            }
        }
        pipe.give_back();
        drop(sink);
        assert_eq!((moved, went, kept()), (sent.len(), true, 1));
        assert!(reading.await.unwrap() == sent);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_broken_connection_is_an_error_and_not_an_end() {
        let (source, writer) = pair().await;
        writer.set_zero_linger().unwrap();
        drop(writer);
        let mut pipe = Pipe::borrow().unwrap();
        let error = poll_fn(|cx| pipe.poll_fill(&source, CAPACITY, cx)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
