//! Listening sockets that outlive a process: taken over from the process before or from systemd, and handed to the next.
//!
//! They come the way that systemd passes sockets (sd_listen_fds(3)): as the descriptors from 3 on, their number in
//! `LISTEN_FDS`. A gateway that hands its own over says in `SOCKGATE_LISTENERS` what they were to it, and adds one more
//! socket behind them, on which the next one says that it is ready.

use std::fmt;
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use listenfd::ListenFd;
use log::warn;
use nix::libc::{AF_UNIX, SOCK_STREAM};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Settings;
use super::socket::Acceptor;
use crate::address::BindAddress;

/// The listening sockets of a gateway, from the process before and for the next.
#[derive(Default)]
pub struct Sockets {
    /// Those that no listener has taken yet.
    inherited: Mutex<Vec<Inherited>>,
    /// Those that accept.
    open: Mutex<Vec<Open>>,
    /// How many are bound and do not accept yet.
    opening: watch::Sender<usize>,
}

/// A socket that is bound and does not accept yet; dropped once it does, or never will.
#[derive(Debug)]
pub(super) struct Opening(watch::Sender<usize>);

/// What a socket was to the gateway that handed it over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Said {
    /// The listener.
    listener: String,
    /// The address in its configuration, whose port may be 0.
    address: BindAddress,
    /// Whether the file of a Unix socket is the gateway's own, to be removed in the end.
    owns_file: bool,
}

#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) socket: Listening,
    said: Option<Said>,
}

/// A socket that listens, whoever made it.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(net::TcpListener),
    Unix(UnixListener),
}

struct Open {
    settings: Arc<ArcSwap<Settings>>,
    acceptor: Weak<Acceptor>,
}

/// Sockets on their way to the next process; until they are let go they are still this one's.
#[derive(Debug)]
pub struct Handover {
    /// What each of them is, in their order, as [`LISTENERS`] holds it.
    pub said: String,
    /// Duplicates of their descriptors.
    pub descriptors: Vec<OwnedFd>,
    acceptors: Vec<Arc<Acceptor>>,
}

/// The environment variable that tells what the descriptors are.
pub const LISTENERS: &str = "SOCKGATE_LISTENERS";

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("inherited", &self.inherited).finish_non_exhaustive()
    }
}

impl Sockets {
    /// What this process was started with. If a gateway started it, that one waits for a word on the stream beside.
    pub fn from_env() -> (Arc<Self>, Option<UnixStream>) {
        let said = std::env::var(LISTENERS).ok();
        let mut descriptors = ListenFd::from_env();
        let mut said: Vec<Said> = said.and_then(|said| serde_json::from_str(&said).ok()).unwrap_or_default();
        let handed_over = said.len();
        let mut said = said.drain(..);
        let (mut inherited, mut predecessor) = (Vec::new(), None);
        for index in 0..descriptors.len() {
            let said = said.next();
            if said.is_none() && handed_over > 0 {
                predecessor = descriptors.take_custom(index, AF_UNIX, SOCK_STREAM, "stream").ok().flatten();
                continue;
            }
            match take(&mut descriptors, index) {
                Ok(Some(socket)) => inherited.push(Inherited { socket, said }),
                Ok(None) => {}
                Err(error) => warn!("an inherited descriptor is no socket that a listener could use: {error}"),
            }
        }
        (Arc::new(Self { inherited: inherited.into(), ..Self::default() }), predecessor)
    }

    /// The inherited socket for a listener, if there is one: that of the same name and address, else one of the address.
    pub(super) fn take(&self, listener: &str, address: &BindAddress) -> Option<Inherited> {
        let mut inherited = lock(&self.inherited);
        let same = |said: &Said| said.address == *address;
        let named = |one: &Inherited| one.said.as_ref().is_some_and(|said| same(said) && said.listener == listener);
        let at = inherited.iter().position(named).or_else(|| inherited.iter().position(|one| one.serves(address)))?;
        Some(inherited.remove(at))
    }

    /// Closes what no listener has taken, which would else accept connections that nobody serves.
    pub fn close_rest(&self) {
        for rest in lock(&self.inherited).drain(..) {
            warn!("the inherited socket {} is the address of no listener, and is closed", rest.socket);
        }
    }

    /// Notes a socket that is about to accept.
    pub(super) fn opening(&self) -> Opening {
        self.opening.send_modify(|opening| *opening += 1);
        Opening(self.opening.clone())
    }

    /// Waits until those accept that are bound: before, they could not be handed over.
    pub async fn all_open(&self) {
        // It can't fail: the sender is here.
        let _ = self.opening.subscribe().wait_for(|&opening| opening == 0).await;
    }

    /// Notes a socket that accepts, for as long as it does.
    pub(super) fn opened(&self, settings: &Arc<ArcSwap<Settings>>, acceptor: &Arc<Acceptor>) {
        let mut open = lock(&self.open);
        open.retain(|open| open.acceptor.strong_count() > 0);
        open.push(Open { settings: Arc::clone(settings), acceptor: Arc::downgrade(acceptor) });
    }

    /// Removes the files of Unix sockets that are still there when the process ends, which waits for no accept loop.
    pub fn remove_files(&self) {
        for acceptor in lock(&self.open).iter().filter_map(|open| open.acceptor.upgrade()) {
            acceptor.remove_file();
        }
    }

    /// Duplicates of all sockets that accept.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn hand_over(&self) -> io::Result<Handover> {
        let (mut said, mut descriptors, mut acceptors) = (Vec::new(), Vec::new(), Vec::new());
        for open in lock(&self.open).iter() {
            if let Some(acceptor) = open.acceptor.upgrade() {
                descriptors.push(acceptor.as_fd().try_clone_to_owned()?);
                let settings = open.settings.load();
                let (listener, address) = (settings.config.name(), settings.config.address.clone());
                said.push(Said { listener, address, owns_file: acceptor.owns_file() });
                acceptors.push(acceptor);
            }
        }
        let said = serde_json::to_string(&said)?;
        Ok(Handover { said, descriptors, acceptors })
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.send_modify(|opening| *opening -= 1);
    }
}

impl Handover {
    /// The next process has them: the files of Unix sockets are its own from now on.
    pub fn done(self) {
        for acceptor in self.acceptors {
            acceptor.keep_file();
        }
    }
}

impl Inherited {
    /// Whether the file of a Unix socket has to be removed in the end: systemd keeps its own.
    pub(super) fn owns_file(&self) -> bool {
        self.said.as_ref().is_some_and(|said| said.owns_file)
    }

    /// Whether it listens where a configuration says. `[::]` takes IPv4 too, which is how systemd binds a bare port.
    fn serves(&self, wanted: &BindAddress) -> bool {
        match (&self.socket, wanted) {
            (Listening::Tcp(socket), BindAddress::Inet(wanted)) => socket.local_addr().is_ok_and(|bound| {
                let everywhere = bound.ip().is_unspecified() && bound.is_ipv6() && wanted.ip().is_unspecified();
                bound == *wanted || everywhere && bound.port() == wanted.port()
            }),
            (Listening::Unix(socket), BindAddress::Unix(wanted)) => {
                socket.local_addr().is_ok_and(|bound| bound.as_pathname() == Some(wanted))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) => match socket.local_addr() {
                Ok(address) => SocketAddr::fmt(&address, f),
                Err(error) => error.fmt(f),
            },
            Self::Unix(socket) => match socket.local_addr() {
                Ok(address) => write!(f, "unix:{}", address.as_pathname().unwrap_or("?".as_ref()).display()),
                Err(error) => error.fmt(f),
            },
        }
    }
}

fn take(descriptors: &mut ListenFd, index: usize) -> io::Result<Option<Listening>> {
    match descriptors.take_tcp_listener(index) {
        Ok(socket) => Ok(socket.map(Listening::Tcp)),
        Err(_) => Ok(descriptors.take_unix_listener(index)?.map(Listening::Unix)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn tcp(address: &str) -> Listening {
        Listening::Tcp(net::TcpListener::bind(address).unwrap())
    }

    fn sockets(inherited: Vec<(Listening, Option<(&str, &str)>)>) -> Sockets {
        let said = |(listener, address): (&str, &str)| Said {
            listener: listener.to_owned(),
            address: address.parse().unwrap(),
            owns_file: false,
        };
        let inherited = inherited.into_iter().map(|(socket, told)| Inherited { socket, said: told.map(said) });
        Sockets { inherited: Mutex::new(inherited.collect()), ..Sockets::default() }
    }

    fn taken(sockets: &Sockets, listener: &str, address: &str) -> Option<String> {
        sockets.take(listener, &address.parse().unwrap()).map(|taken| taken.socket.to_string())
    }

    #[test]
    fn a_listener_gets_the_socket_of_its_address_and_of_its_name_where_the_kernel_chose_the_port() {
        let (one, two) = (tcp("127.0.0.1:0"), tcp("127.0.0.1:0"));
        let (first, second) = (one.to_string(), two.to_string());
        let any = "127.0.0.1:0";
        let sockets = sockets(vec![(one, Some(("one", any))), (two, Some(("two", any)))]);
        assert_eq!(taken(&sockets, "three", any), None, "another listener, another port");
        assert_eq!(taken(&sockets, "two", any), Some(second));
        assert_eq!(taken(&sockets, "renamed", &first), Some(first.clone()));
        assert_eq!(taken(&sockets, "one", any), None, "each is taken once");
    }

    #[tokio::test]
    async fn an_upgrade_waits_for_sockets_that_are_about_to_accept() {
        let sockets = Sockets::default();
        sockets.all_open().await;
        let (one, two) = (sockets.opening(), sockets.opening());
        drop(one);
        assert!(sockets.all_open().now_or_never().is_none());
        drop(two);
        sockets.all_open().await;
    }

    #[test]
    fn a_socket_of_systemd_is_known_by_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let unix = UnixListener::bind(&path).unwrap();
        let everywhere = net::TcpListener::bind("[::]:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let sockets = sockets(vec![(Listening::Unix(unix), None), (Listening::Tcp(everywhere), None)]);
        assert_eq!(taken(&sockets, "web", "0.0.0.0:1"), None);
        assert_eq!(taken(&sockets, "web", &format!("127.0.0.1:{port}")), None, "more than the listener wants");
        assert_eq!(taken(&sockets, "web", &format!("0.0.0.0:{port}")), Some(format!("[::]:{port}")));
        let unix = format!("unix:{}", path.display());
        assert_eq!(taken(&sockets, "app", &unix), Some(unix.clone()));
    }
}
