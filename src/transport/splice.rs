//! Bulk from socket to socket without a copy: splice(2) moves pages by way of a pipe, at half the cost of two copies.
//!
//! It pays only where much is waiting, so a direction turns to it when reads keep filling the buffer, and back when
//! little comes. A pipe belongs to a direction only while bytes are in it; there is a bounded number of them, and who
//! gets none copies.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;

use crate::transport::Socket;

/// Bytes that a pipe is asked to hold.
const CAPACITY: usize = 256 * 1024;
/// Fewer bytes than this are cheaper to copy.
pub(super) const WORTHWHILE: usize = 16 * 1024;
/// Pipes of this process: they count against its descriptors, and the kernel allows a user 64 MiB of them.
const MOST_PIPES: usize = 128;
/// Empty pipes that a thread keeps.
const KEPT: usize = 4;

static PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static EMPTY: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how much is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    holds: usize,
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
    pub(super) fn borrow() -> Option<Self> {
        EMPTY.with_borrow_mut(Vec::pop).or_else(|| {
            let counted = Counted::new()?;
            let (out, into) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
            // As large as it is by default will do, too.
            let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
            Some(Self { out, into, holds: 0, _counted: counted })
        })
    }

    /// Leaves an empty pipe to the next who needs one.
    pub(super) fn give_back(self) {
        debug_assert_eq!(self.holds, 0, "the bytes of one tunnel are not for another");
        EMPTY.with_borrow_mut(|empty| {
            if empty.len() < KEPT {
                empty.push(self);
            }
        });
    }

    /// Fills the empty pipe with what a socket has received; 0 at its end.
    pub(super) fn poll_fill(&mut self, source: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(poll_ready(source, Interest::READABLE, cx))?;
            let moved =
                try_io(source, Interest::READABLE, || Ok(splice(source, None, &self.into, None, CAPACITY, FLAGS)?));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                moved => {
                    let moved = moved?;
                    self.holds += moved;
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }

    /// Sends what is in it; ready when it is empty. The flag tells whether any of it went.
    pub(super) fn poll_empty(&mut self, sink: &Socket, went: &mut bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.holds > 0 {
            ready!(poll_ready(sink, Interest::WRITABLE, cx))?;
            let moved =
                try_io(sink, Interest::WRITABLE, || Ok(splice(&self.out, None, sink, None, self.holds, FLAGS)?));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                moved => {
                    self.holds -= moved?;
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
pub(super) fn kept() -> usize {
    EMPTY.with_borrow(Vec::len)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::transport::Transport;
    use crate::tunnel::Listening;
    use crate::tunnel::testing::{Running, over};

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
            let filled = poll_fn(|cx| pipe.poll_fill(&source, cx)).await.unwrap();
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
    async fn bulk_takes_pipes_both_ways_at_once_loses_nothing_and_gives_them_back() {
        const LENGTH: u64 = 32 << 20;
        let ((ours, client), (ours_to_server, server)) = (pair().await, pair().await);
        let Running { closed, .. } =
            over(Transport::Plain(ours), Transport::Plain(ours_to_server), Listening::default());
        let talk = |side: TcpStream, seed: u8| async move {
            let (mut reading, mut writing) = side.into_split();
            let write = tokio::spawn(async move {
                let part: Vec<u8> = (0..251).cycle().map(|byte: u8| byte ^ seed).take(251 * 1000).collect();
                let mut sent = 0;
                while sent < LENGTH {
                    let some = part.len().min((LENGTH - sent) as usize);
                    writing.write_all(&part[..some]).await.unwrap();
                    sent += some as u64;
                }
            });
            let (mut got, mut buffer) = (0, vec![0; 100_000]);
            loop {
                let read = reading.read(&mut buffer).await.unwrap();
                if read == 0 {
                    break;
                }
                let expected = (0..251).cycle().skip((got % 251) as usize).map(|byte: u8| byte ^ seed ^ 0xff);
                assert!(buffer[..read].iter().copied().eq(expected.take(read)), "in the {read} bytes from {got}");
                got += read as u64;
            }
            write.await.unwrap();
            got
        };
        let client = tokio::spawn(talk(client, 0));
        let server = tokio::spawn(talk(server, 0xff));
        assert_eq!((client.await.unwrap(), server.await.unwrap()), (LENGTH, LENGTH));
        let closed = closed.await.unwrap();
        assert_eq!((closed.bytes_in, closed.bytes_out), (LENGTH, LENGTH));
        assert!(kept() > 0, "bulk took a pipe, and has given it back");
    }

    #[tokio::test]
    async fn a_broken_connection_is_an_error_and_not_an_end() {
        let (source, writer) = pair().await;
        writer.set_zero_linger().unwrap();
        drop(writer);
        let mut pipe = Pipe::borrow().unwrap();
        let error = poll_fn(|cx| pipe.poll_fill(&source, cx)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
