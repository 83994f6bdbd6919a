//! A connected byte stream, plain or TLS, over TCP or a Unix socket: one type on both sides of the gateway.

pub(crate) mod cause;
pub(crate) mod shortage;
pub(crate) mod splice;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Bytes that the kernel takes before it can send them. It would take megabytes: whether a slow peer makes progress would
/// be seen too late, and who reads nothing would cost all of that.
const UNSENT: u32 = 128 * 1024;
/// Bytes that nearly always go at once.
const FEW: usize = 16 * 1024;

/// A stream without TLS.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
}

/// A stream, with TLS or without.
#[derive(Debug)]
pub enum Transport {
    /// The socket itself.
    Plain(Socket),
    /// TLS over a client's socket; boxed, since most sockets have none and the state is large.
    FromClient(Box<tls::FromClient>),
    /// TLS over a server's socket.
    ToServer(Box<tls::ToServer>),
}

/// `tcp_keepalive`: how the kernel notices a peer whose machine or network is gone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpKeepAlive {
    /// Silence before the first probe; 0 s for no probes. Default 45 s, below the NAT timeouts that operators meet.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Time from one probe to the next. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Probes without an answer before the peer is given up, where `user_timeout` has not done so before. Default 3.
    pub probes: u32,
    /// Longest time that sent bytes may stay unacknowledged, or that a peer may have no room for more, before it is
    /// given up (RFC 5482); 0 s leaves that to the kernel. Default 90 s.
    #[serde(with = "humantime_serde")]
    pub user_timeout: Duration,
}

impl Default for TcpKeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(45),
            interval: Duration::from_secs(15),
            probes: 3,
            user_timeout: Duration::from_secs(90),
        }
    }
}

impl TcpKeepAlive {
    /// Prepares a TCP socket: no delay for small messages, little that waits in the kernel, and a dead peer is noticed
    /// though nobody speaks. What is accepted from a listening socket inherits all of it.
    ///
    /// Options that the kernel refuses are left as they are: the connection works without them.
    pub fn tune(&self, socket: SockRef<'_>) {
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        if self.idle.is_zero() {
            let _ = socket.set_keepalive(false);
        } else {
            let probes =
                TcpKeepalive::new().with_time(self.idle).with_interval(self.interval).with_retries(self.probes);
            let _ = socket.set_tcp_keepalive(&probes);
        }
        let _ = socket.set_tcp_user_timeout(Some(self.user_timeout));
    }
}

impl Socket {
    /// See [`TcpKeepAlive::tune`]; Unix sockets need none of it.
    pub fn tune(&self, keepalive: &TcpKeepAlive) {
        if let Self::Tcp(stream) = self {
            keepalive.tune(SockRef::from(stream));
        }
    }

    /// The peer's address; `None` on Unix sockets and on sockets that are gone already.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// The local address; `None` as for [`Self::peer_addr`].
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Whether there is something to read that nobody has read yet, an end included. The runtime has heard of it if there
    /// is, so that this takes no system call; unlike a poll it leaves the waker of whoever waits where it is.
    pub(crate) fn is_readable(&self) -> bool {
        let unread = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())),
        };
        !unread.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Looks at what is to be read next and leaves it there: waits for the first of it, and says how much it is; 0 at the
    /// end.
    pub async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(bytes).await,
            Self::Unix(stream) => {
                let peek = || Ok(recv(stream.as_raw_fd(), bytes, MsgFlags::MSG_PEEK)?);
                stream.async_io(Interest::READABLE, peek).await
            }
        }
    }

    /// Writes what the kernel takes of these bytes, without waiting for it to say that it takes any.
    fn offer(&self, bytes: &[u8]) -> usize {
        SockRef::from(self).send(bytes).unwrap_or(0)
    }

    /// Writes a few bytes, for which the kernel has room nearly always, by the short way. `None` where it hasn't, or they
    /// are many: what only goes in part is better asked for again by the runtime.
    fn write_at_once(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        if bytes.len() > FEW {
            return None;
        }
        let written = match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            written => Some(written),
        }
    }

    /// Makes the kernel answer the peer with a reset when the socket is dropped, and forget unsent bytes.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Transport {
    /// The socket beneath.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::FromClient(stream) => stream.socket(),
            Self::ToServer(stream) => stream.socket(),
        }
    }

    /// The same, where bytes go through it as they are.
    pub(crate) fn plain_socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::FromClient(_) | Self::ToServer(_) => None,
        }
    }

    /// Tries once more to write bytes that have to wait. The kernel says that it takes some when half of what it holds
    /// has gone, which a slow peer may need minutes for; and takes some as soon as any has gone. So this tells whether
    /// the peer has taken anything since the kernel was full: `None` if not. Else how many of these bytes were written,
    /// which are none where something of TLS had to go first.
    pub(crate) fn offer(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Plain(socket) => Some(socket.offer(bytes)).filter(|&taken| taken > 0),
            Self::FromClient(stream) => stream.offer(Socket::offer).then_some(0),
            Self::ToServer(stream) => stream.offer(Socket::offer).then_some(0),
        }
    }

    /// Bytes that were written and that TLS still holds, since the socket has not taken them.
    pub fn unsent(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::FromClient(stream) => stream.unsent(),
            Self::ToServer(stream) => stream.unsent(),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

macro_rules! delegate_io {
    ($type:ty, $at_once:expr, $($variant:ident),+) => {
        impl AsyncRead for $type {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => Pin::new(stream).poll_read(cx, buf)),+
                }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                let this = self.get_mut();
                if let Some(written) = $at_once(this, buf) {
                    return Poll::Ready(written);
                }
                match this {
                    $(Self::$variant(stream) => Pin::new(stream).poll_write(cx, buf)),+
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => Pin::new(stream).poll_write_vectored(cx, bufs)),+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $(Self::$variant(stream) => stream.is_write_vectored()),+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => Pin::new(stream).poll_flush(cx)),+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(stream) => Pin::new(stream).poll_shutdown(cx)),+
                }
            }
        }
    };
}
delegate_io!(Socket, Self::write_at_once, Tcp, Unix);
delegate_io!(Transport, |_: &mut Self, _: &[u8]| None, Plain, FromClient, ToServer);
