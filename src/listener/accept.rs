//! Accepts: each connection that finds a place becomes a task of its own.

use std::future::{Future, poll_fn, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::FutureExt;
use log::{debug, warn};
use tokio::sync::watch;

use super::config::{Config, Protocol};
use super::inherit::Opening;
use super::prepare::Accepted;
use super::socket::BoundSocket;
use super::{Application, BuildError, Settings};
use crate::ending::{LAST_CALL, Stopping};
use crate::http::answers;
use crate::transport::Socket;

/// One bound address, ready to accept.
pub struct Listener {
    socket: BoundSocket,
    settings: Arc<ArcSwap<Settings>>,
    opening: Opening,
    retiring: Stopping,
}

/// What stays in the hands of whoever governs a listener that runs.
pub struct Control {
    address: String,
    settings: Arc<ArcSwap<Settings>>,
    retire: watch::Sender<bool>,
}

/// How long the accept loop pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are accepted before somebody looks whether it was the last.
const IN_A_ROW: u32 = 16;
/// How often the log says so, while it goes on.
const TELL_AGAIN: Duration = Duration::from_secs(60);

impl Listener {
    /// Binds the address; accepts nothing yet.
    ///
    /// # Errors
    /// An address that can't be bound.
    pub fn bind(settings: Settings) -> Result<(Self, Control), BuildError> {
        let Config { address, backlog, .. } = &settings.config;
        let listener = settings.config.name();
        let socket = match settings.shared.sockets.take(&listener, address) {
            Some(inherited) => BoundSocket::take_over(inherited, *backlog),
            None => BoundSocket::bind(address, *backlog),
        };
        let socket =
            socket.map_err(|error| BuildError { listener, what: format!("{address} can't be bound: {error}") })?;
        socket.tune(&settings.config.tcp_keepalive);
        let opening = settings.shared.sockets.opening();
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let (retire, retiring) = watch::channel(false);
        let control = Control { address: socket.address(), settings: Arc::clone(&settings), retire };
        Ok((Self { socket, settings, opening, retiring }, control))
    }

    /// The name in routes, logs and metrics.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.settings.load().name)
    }

    /// Where it is bound, with the port that the kernel chose.
    pub fn address(&self) -> String {
        self.socket.address()
    }

    /// Accepts until `stop` says so or the listener is retired, each connection in a task of its own.
    pub async fn run<A>(self, app: Arc<A>, mut stop: Stopping)
    where
        A: Application,
    {
        let Self { socket, settings, opening, mut retiring } = self;
        let acceptor = match socket.start() {
            Ok(acceptor) => Arc::new(acceptor),
            Err(error) => return warn!("listener {}: can't accept: {error}", settings.load().name),
        };
        settings.load().shared.sockets.opened(&settings, &acceptor);
        drop(opening);
        // Connections end with the gateway, or with their listener.
        let (end, ending) = watch::channel(false);
        let Config { mut backlog, tcp_keepalive: mut keepalive, .. } = settings.load().config.clone();
        let mut told: Option<Instant> = None;
        let mut over = pin!(async {
            tokio::select! {
                _ = stop.wait_for(|&stopping| stopping) => {}
                _ = retiring.wait_for(|&retiring| retiring) => {}
            }
        });
        let mut in_a_row = 0;
        loop {
            let accepted = poll_fn(|cx| {
                // To ask for the end costs as much as to accept: while clients wait, only now and then.
                if in_a_row % IN_A_ROW == 0 && over.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                in_a_row += 1;
                match acceptor.poll_accept(cx) {
                    Poll::Ready(accepted) => return Poll::Ready(Some(accepted)),
                    Poll::Pending => in_a_row = 0,
                }
                over.as_mut().poll(cx).map(|()| None)
            });
            let Some(accepted) = accepted.await else { break };
            let settings = settings.load_full();
            if std::mem::replace(&mut backlog, settings.config.backlog) != backlog
                && let Err(error) = acceptor.set_backlog(backlog)
            {
                warn!("listener {}: the backlog stays as it was: {error}", settings.name);
            }
            if settings.config.tcp_keepalive != keepalive {
                keepalive = settings.config.tcp_keepalive.clone();
                acceptor.tune(&keepalive);
                if let Ok((socket, _)) = &accepted {
                    socket.tune(&keepalive);
                }
            }
            match accepted {
                Ok((socket, peer)) => {
                    let local = acceptor.reached(&socket);
                    settings.admit(socket, (peer, local), &app, &ending);
                }
                Err(error) if is_about_one_connection(&error) => debug!("listener {}: accept: {error}", settings.name),
                Err(error) => {
                    // Out of descriptors or memory: those that are open come first, new ones wait in the kernel.
                    if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                        told = Some(Instant::now());
                        warn!("listener {}: can't accept, new connections wait: {error}", settings.name);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        end.send_replace(true);
    }
}

impl Control {
    /// What the listener does with its connections at this moment.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Where it is bound, with the port that the kernel chose.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connections that are accepted from now on are served like this.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Accepts no more, and lets idle connections go; those that are in use finish.
    pub fn retire(self) {
        self.retire.send_replace(true);
    }
}

/// Waits until the gateway stops and those who have not begun a request have had their time: what they sent may be on its
/// way, but browsers also connect ahead of need, and those are not waited for.
pub async fn last_call(stop: &mut Stopping) {
    let _ = stop.wait_for(|&stopping| stopping).await;
    tokio::time::sleep(LAST_CALL).await;
}

/// Whether an accept failed because of the one connection that it was about (accept(2)).
fn is_about_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

impl Settings {
    fn admit<A>(
        self: &Arc<Self>,
        socket: Socket,
        (peer, local): (Option<SocketAddr>, Option<SocketAddr>),
        app: &Arc<A>,
        stop: &Stopping,
    ) where
        A: Application,
    {
        let settings = self;
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (peer, local) = (peer.unwrap_or(unknown), local.unwrap_or(unknown));
        let Ok(has_header) = settings.expects_header(peer.ip()) else {
            settings.complain("stranger", peer);
            return socket.reset_on_close();
        };
        let client = (!has_header).then(|| peer.ip());
        match settings.shared.limits.admit(client, &settings.metrics, settings.config.max_connections) {
            Ok(permit) => {
                settings.metrics.accepted.inc();
                let settings = Arc::clone(settings);
                let connection = Accepted { socket, peer, local, has_header, told: None, permit, settings };
                let (app, stop, mut stopping) = (Arc::clone(app), stop.clone(), stop.clone());
                let metrics = self.metrics.clone();
                // Boxed: room for a handshake would be kept for as long as the connection is. The task is small, and
                // holds the one or the other.
                let preparing = Box::pin(async move {
                    tokio::select! {
                        biased;
                        prepared = connection.prepare() => prepared,
                        () = last_call(&mut stopping) => None,
                    }
                });
                let serving = preparing.then(move |prepared| match prepared {
                    Some((connection, protocol)) => app.serve(connection, protocol, stop),
                    None => ready(()).boxed(),
                });
                tokio::spawn(metrics.contain(serving));
            }
            Err(full) => {
                settings.metrics.refused(full.as_str());
                settings.refuse(&socket);
            }
        }
    }

    /// Says no at once: an answer where plain HTTP is expected, else a reset. Never waits.
    pub(super) fn refuse(&self, socket: &Socket) {
        let http = self.config.protocol == Protocol::Http && self.tls.is_none();
        if http && let Socket::Tcp(stream) = socket {
            let body = b"Too many connections.";
            let answer = answers::write(503, answers::REFUSAL_FIELDS, body, true);
            let _ = stream.try_write(&answer);
        } else {
            socket.reset_on_close();
        }
    }
}
