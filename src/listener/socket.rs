//! The bound socket beneath a listener: TCP over IPv4 and IPv6, or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::inherit::{Inherited, Listening};
use crate::address::BindAddress;
use crate::transport::{Socket, TcpKeepAlive};

/// A socket that listens, and needs no runtime yet.
#[derive(Debug)]
pub(super) enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// A socket that accepts.
#[derive(Debug)]
pub(super) enum Acceptor {
    /// With the address that all its connections have reached, where it listens at one alone.
    Tcp(TcpListener, Option<SocketAddr>),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket; removed with the listener, unless it is somebody else's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    is_ours: AtomicBool,
}

impl BoundSocket {
    pub(super) fn bind(address: &BindAddress, backlog: u32) -> io::Result<Self> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        match address {
            BindAddress::Inet(address) => {
                let socket = socket2::Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    // [::] takes IPv4 too, whatever the system's default is.
                    socket.set_only_v6(false)?;
                }
                Self::listen(&socket, &(*address).into(), backlog)?;
                Ok(Self::Tcp(socket.into()))
            }
            BindAddress::Unix(path) => {
                remove_stale(path);
                let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
                Self::listen(&socket, &SockAddr::unix(path)?, backlog)?;
                Ok(Self::Unix(socket.into(), SocketFile { path: path.clone(), is_ours: true.into() }))
            }
        }
    }

    /// Goes on with a socket that listens already, and in whose queue clients may be waiting.
    pub(super) fn take_over(inherited: Inherited, backlog: u32) -> io::Result<Self> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let is_ours = inherited.owns_file().into();
        match inherited.socket {
            Listening::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                SockRef::from(&socket).listen(backlog)?;
                Ok(Self::Tcp(socket))
            }
            Listening::Unix(socket) => {
                socket.set_nonblocking(true)?;
                SockRef::from(&socket).listen(backlog)?;
                let path = socket.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
                Ok(Self::Unix(socket, SocketFile { path, is_ours }))
            }
        }
    }

    fn listen(socket: &socket2::Socket, address: &SockAddr, backlog: i32) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    }

    /// Prepares what will be accepted from it, at no cost for each connection.
    pub(super) fn tune(&self, keepalive: &TcpKeepAlive) {
        if let Self::Tcp(listener) = self {
            keepalive.tune(SockRef::from(listener));
        }
    }

    /// Begins to accept, within a runtime.
    pub(super) fn start(self) -> io::Result<Acceptor> {
        match self {
            Self::Tcp(listener) => {
                let one = listener.local_addr().ok().filter(|address| !address.ip().is_unspecified());
                Ok(Acceptor::Tcp(TcpListener::from_std(listener)?, one))
            }
            Self::Unix(listener, file) => Ok(Acceptor::Unix(UnixListener::from_std(listener)?, file)),
        }
    }

    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().as_ref().map_or_else(io::Error::to_string, SocketAddr::to_string)
            }
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }
}

impl Acceptor {
    /// Whether there is a file that is removed in the end.
    pub(super) fn owns_file(&self) -> bool {
        matches!(self, Self::Unix(_, file) if file.is_ours.load(Ordering::Relaxed))
    }

    /// Leaves the file to whoever goes on with the socket.
    pub(super) fn keep_file(&self) {
        if let Self::Unix(_, file) = self {
            file.is_ours.store(false, Ordering::Relaxed);
        }
    }

    /// Removes the file now, where it is ours.
    pub(super) fn remove_file(&self) {
        if let Self::Unix(_, file) = self {
            file.remove();
        }
    }

    /// Changes how many connections may wait in the kernel.
    pub(super) fn set_backlog(&self, backlog: u32) -> io::Result<()> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        match self {
            Self::Tcp(listener, _) => SockRef::from(listener).listen(backlog),
            Self::Unix(listener, _) => SockRef::from(listener).listen(backlog),
        }
    }

    /// See [`BoundSocket::tune`]; for what is accepted from now on.
    pub(super) fn tune(&self, keepalive: &TcpKeepAlive) {
        if let Self::Tcp(listener, _) = self {
            keepalive.tune(SockRef::from(listener));
        }
    }

    /// The next one, and the address at its other end where it has one.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Option<SocketAddr>)>> {
        match self {
            Self::Tcp(listener, _) => {
                listener.poll_accept(cx).map_ok(|(stream, peer)| (Socket::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener, _) => listener.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), None)),
        }
    }

    #[cfg(test)]
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The address that it has reached; the kernel is only asked where there is more than one.
    pub(super) fn reached(&self, socket: &Socket) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, one) => one.or_else(|| socket.local_addr()),
            Self::Unix(..) => None,
        }
    }
}

/// Removes a socket file that nobody listens on any more; anything else is left for bind to complain about.
fn remove_stale(path: &Path) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl SocketFile {
    fn remove(&self) {
        if self.is_ours.swap(false, Ordering::Relaxed) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_unix_socket_replaces_a_stale_file_and_cleans_up_but_never_removes_a_live_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a stale file");
        let address = BindAddress::Unix(path.clone());
        let listener = BoundSocket::bind(&address, 16).unwrap();
        assert!(BoundSocket::bind(&address, 16).is_err(), "a live listener keeps its file");
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "not a socket").unwrap();
        assert!(BoundSocket::bind(&address, 16).is_err());
        assert!(path.exists(), "a file of somebody else's");
    }

    #[tokio::test]
    async fn what_is_accepted_notices_dead_peers_as_the_listener_was_told() {
        let bound = BoundSocket::bind(&"127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let second = Duration::from_secs(1);
        bound.tune(&TcpKeepAlive { idle: 7 * second, interval: 5 * second, probes: 2, user_timeout: 9 * second });
        let address = bound.address();
        let listener = bound.start().unwrap();
        let (accepted, _client) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect(address));
        let Socket::Tcp(stream) = accepted.unwrap().0 else { panic!("expected TCP") };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 128 * 1024);
        let (idle, interval) = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        assert_eq!((idle, interval, socket.tcp_keepalive_retries().unwrap()), (7 * second, 5 * second, 2));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(9 * second));
    }

    #[tokio::test]
    async fn the_unspecified_ipv6_address_takes_ipv4_too() {
        let bound = BoundSocket::bind(&":0".parse().unwrap(), 16).unwrap();
        let port = bound.address().rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let listener = bound.start().unwrap();
        let (accepted, client) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect(("127.0.0.1", port)));
        assert!(accepted.is_ok() && client.is_ok());
    }

    #[tokio::test]
    async fn both_addresses_of_a_connection_are_known_wherever_it_was_accepted() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let bound = BoundSocket::bind(&bound.parse().unwrap(), 16).unwrap();
            let port = bound.address().rsplit(':').next().unwrap().parse::<u16>().unwrap();
            let listener = bound.start().unwrap();
            let connect = tokio::net::TcpStream::connect(("127.0.0.1", port));
            let (accepted, client) = tokio::join!(listener.accept(), connect);
            let ((socket, peer), client) = (accepted.unwrap(), client.unwrap());
            let plain = |address: Option<SocketAddr>| {
                let address = address.unwrap();
                (address.ip().to_canonical(), address.port())
            };
            let expected = client.local_addr().unwrap();
            assert_eq!(plain(peer), (expected.ip(), expected.port()));
            assert_eq!(plain(listener.reached(&socket)), ("127.0.0.1".parse().unwrap(), port));
        }
    }
}
