//! From the bound address to the application: accept, limit, TLS, detect.
//!
//! A listener knows nothing of what applications do: it hands them a [`Connection`] that says what it speaks. Only
//! Flash policy requests are answered right here.

pub mod config;
pub mod connection;
pub mod detect;
mod flash;
pub mod inherit;
mod lent;
pub mod limits;
mod pending;
mod socket;
pub mod tls;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use log::{debug, warn};
use pingora::apps::ServerApp;
use pingora::server::ShutdownWatch;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

pub use config::{Config, FlashPolicy};
pub use connection::{Connection, Info, NoHead, Parts, Protocol, TlsInfo};
use detect::{Detected, detect};
use inherit::Sockets;
pub use lent::{Back, Lent};
pub use limits::{ConnectionLimits, Permit};
pub use pending::{Farewell, Pending};
use socket::BoundSocket;

use crate::deadline::Deadlines;
use crate::drain::LAST_CALL;
use crate::http::answers;
use crate::metrics::ListenerMetrics;
use crate::transport::{self, Socket, Transport};
use crate::wire::flash::{AllowRule, Policy};

/// One bound address, ready to accept.
pub struct Listener {
    socket: BoundSocket,
    settings: Arc<ArcSwap<Settings>>,
    retiring: ShutdownWatch,
}

/// What stays in the hands of whoever governs a listener that runs.
pub struct Control {
    address: String,
    settings: Arc<ArcSwap<Settings>>,
    retire: watch::Sender<bool>,
}

/// What all listeners of one gateway share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Places for connections.
    pub limits: Arc<ConnectionLimits>,
    /// The clock of coarse deadlines.
    pub deadlines: Arc<Deadlines>,
    /// The answer to Flash policy requests.
    pub flash_policy: Policy,
    /// How long a client of a `flash_policy` listener may take.
    pub flash_timeout: Duration,
    /// How long a client may take to begin its first request.
    pub first_bytes: Duration,
    /// Sockets of the process before, and those to hand to the next.
    pub sockets: Arc<Sockets>,
}

/// What a listener does with its connections: everything but the socket. Each connection keeps those that it was
/// accepted under.
pub struct Settings {
    name: Arc<str>,
    config: Config,
    tls: Option<tls::Terms>,
    tcp_upstream: Option<Arc<str>>,
    shared: Shared,
    metrics: ListenerMetrics,
}

/// Why a listener can't be built.
#[derive(Debug)]
pub struct BuildError {
    listener: String,
    what: String,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {}: {}", self.listener, self.what)
    }
}

impl std::error::Error for BuildError {}

/// How long the accept loop pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Settings {
    /// Loads the certificates. Where they and all that is said of TLS are as they were `before`, its tickets stay good.
    ///
    /// # Errors
    /// A certificate that can't be used.
    pub fn build(
        config: &Config,
        shared: Shared,
        metrics: ListenerMetrics,
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let fail = |what: String| BuildError { listener: config.name(), what };
        let alpn: &[&str] = match config.protocol {
            config::Protocol::Http if config.http2 => &["h2", "http/1.1"],
            config::Protocol::Http => &["http/1.1"],
            config::Protocol::Tcp | config::Protocol::FlashPolicy => &[],
        };
        let before = before.and_then(|before| before.tls.as_ref());
        let tls = config.tls.as_ref().map(|said| tls::Terms::load(said, alpn, before));
        let tls = tls.transpose().map_err(|error| fail(error.to_string()))?;
        let detected_tcp = config.detect.as_ref().and_then(|detect| detect.tcp.as_deref());
        Ok(Self {
            name: config.name().into(),
            tls,
            tcp_upstream: config.upstream.as_deref().or(detected_tcp).map(Arc::from),
            config: config.clone(),
            shared,
            metrics,
        })
    }

    /// What the operator said.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        usize::try_from(self.metrics.open.get()).unwrap_or(0)
    }

    /// Whether the files behind them hold the same certificates.
    pub fn has_certificates_of(&self, other: &Self) -> bool {
        match (&self.tls, &other.tls) {
            (Some(ours), Some(theirs)) => ours.has_certificates_of(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }
}

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
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let (retire, retiring) = watch::channel(false);
        let control = Control { address: socket.address(), settings: Arc::clone(&settings), retire };
        Ok((Self { socket, settings, retiring }, control))
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
    pub async fn run<A>(self, app: Arc<A>, mut stop: ShutdownWatch)
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let Self { socket, settings, mut retiring } = self;
        let acceptor = match socket.start() {
            Ok(acceptor) => Arc::new(acceptor),
            Err(error) => return warn!("listener {}: can't accept: {error}", settings.load().name),
        };
        settings.load().shared.sockets.opened(&settings, &acceptor);
        // Connections end with the gateway, or with their listener.
        let (end, ending) = watch::channel(false);
        let Config { mut backlog, tcp_keepalive: mut keepalive, .. } = settings.load().config.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|&stopping| stopping) => break,
                _ = retiring.wait_for(|&retiring| retiring) => break,
                accepted = acceptor.accept() => accepted,
            };
            let settings = settings.load_full();
            if std::mem::replace(&mut backlog, settings.config.backlog) != backlog
                && let Err(error) = acceptor.set_backlog(backlog)
            {
                warn!("listener {}: the backlog stays as it was: {error}", settings.name);
            }
            if settings.config.tcp_keepalive != keepalive {
                keepalive = settings.config.tcp_keepalive.clone();
                acceptor.tune(&keepalive);
                if let Ok(socket) = &accepted {
                    socket.tune(&keepalive);
                }
            }
            match accepted {
                Ok(socket) => settings.admit(socket, &app, &ending),
                Err(error) if is_about_one_connection(&error) => debug!("listener {}: accept: {error}", settings.name),
                Err(error) => {
                    // Out of descriptors or memory: those that are open come first, new ones wait in the kernel.
                    warn!("listener {}: can't accept, pausing {ACCEPT_PAUSE:?}: {error}", settings.name);
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
pub async fn last_call(stop: &mut ShutdownWatch) {
    let _ = stop.wait_for(|&stopping| stopping).await;
    tokio::time::sleep(LAST_CALL).await;
}

/// Whether an accept failed because of the one connection that it was about (accept(2)).
fn is_about_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

impl Settings {
    fn admit<A>(self: &Arc<Self>, socket: Socket, app: &Arc<A>, stop: &ShutdownWatch)
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let settings = self;
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let peer = socket.peer_addr().unwrap_or(unknown);
        let local = socket.local_addr().unwrap_or(unknown);
        match settings.shared.limits.admit(peer.ip(), &settings.metrics.open, settings.config.max_connections) {
            Ok(permit) => {
                settings.metrics.accepted.inc();
                let connection = Accepted { socket, peer, local, permit, settings: Arc::clone(settings) };
                let (app, stop, mut stopping) = (Arc::clone(app), stop.clone(), stop.clone());
                let metrics = settings.metrics.clone();
                let serving = async move {
                    let prepared = tokio::select! {
                        biased;
                        prepared = connection.prepare() => prepared,
                        () = last_call(&mut stopping) => None,
                    };
                    if let Some(connection) = prepared {
                        app.process_new(Box::new(connection), &stop).await;
                    }
                };
                tokio::spawn(metrics.contain(serving));
            }
            Err(full) => {
                settings.metrics.refused(full.word());
                settings.refuse(&socket);
            }
        }
    }

    /// Says no at once: an answer where plain HTTP is expected, else a reset. Never waits.
    fn refuse(&self, socket: &Socket) {
        let http = self.config.protocol == config::Protocol::Http && self.tls.is_none();
        if http && let Socket::Tcp(stream) = socket {
            let body = b"Too many connections.";
            let answer = answers::write_closing(503, answers::REFUSAL_FIELDS, body);
            let _ = stream.try_write(&answer);
        } else {
            socket.reset_on_close();
        }
    }
}

/// A connection that has its place and nothing else yet.
struct Accepted {
    socket: Socket,
    peer: SocketAddr,
    local: SocketAddr,
    permit: Permit,
    settings: Arc<Settings>,
}

impl Accepted {
    /// TLS and detection; `None` when there is nothing left for an application to do.
    async fn prepare(self) -> Option<Connection> {
        let Self { socket, peer, local, permit, settings } = self;
        let accepted = Instant::now();
        let mut undecided_until = settings.undecided_until();
        let plain = socket;
        let (transport, tls, http2_agreed, http_agreed) = match &settings.tls {
            Some(terms) if settings.speaks_tls(&plain, undecided_until).await? => {
                let (transport, info, alpn) = settings.handshake(&terms.config, plain).await?;
                undecided_until = settings.undecided_until();
                let http2 = alpn.as_deref() == Some(b"h2");
                (transport, Some(info), http2, alpn.is_some())
            }
            _ => (Transport::Plain(plain), None, false, false),
        };
        let info = Arc::new(Info {
            listener: Arc::clone(&settings.name),
            peer,
            local,
            tls,
            accepted,
            pending: Pending::default(),
        });
        let deadline = settings.shared.deadlines.register();
        deadline.set(settings.shared.first_bytes);
        let mut parts = Parts { transport, held: BytesMut::new(), info, deadline, permit };
        let tcp = || settings.tcp_upstream.clone();
        match settings.config.protocol {
            config::Protocol::Tcp => return Some(Connection::new(parts, Protocol::Raw, tcp())),
            config::Protocol::FlashPolicy => {
                let Shared { flash_policy, flash_timeout, .. } = &settings.shared;
                flash::serve(parts, flash_policy, *flash_timeout).await;
                return None;
            }
            config::Protocol::Http => {}
        }
        if http2_agreed {
            // The HTTP/2 engine would wait for the preface for ever.
            let patience = settings.shared.first_bytes;
            let until = (!patience.is_zero()).then(|| tokio::time::Instant::now() + patience);
            let detected = detect(&mut parts.transport, &mut parts.held, until).await;
            return (detected == Detected::Http2).then(|| Connection::new(parts, Protocol::Http2, None));
        }
        if http_agreed {
            return Some(Connection::new(parts, Protocol::Http1, None));
        }
        let detecting = settings.config.detect.as_ref();
        let detected = detect(&mut parts.transport, &mut parts.held, undecided_until).await;
        settings.metrics.detected(detected.word());
        match detected {
            Detected::Http2 if settings.config.http2 => Some(Connection::new(parts, Protocol::Http2, None)),
            Detected::Http1 | Detected::Http2 => Some(Connection::new(parts, Protocol::Http1, None)),
            Detected::FlashPolicy if detecting.is_some_and(|detect| detect.flash_policy) => {
                flash::answer(parts, &settings.shared.flash_policy).await;
                None
            }
            Detected::Other | Detected::Silent | Detected::FlashPolicy if settings.tcp_upstream.is_some() => {
                Some(Connection::new(parts, Protocol::Raw, tcp()))
            }
            // Without detection, what does not look like HTTP, or stops in the middle of it, is told so in HTTP.
            Detected::Other if detecting.is_none() => Some(Connection::new(parts, Protocol::Http1, None)),
            Detected::Silent if detecting.is_none() && !parts.held.is_empty() => {
                Some(Connection::new(parts, Protocol::Http1, None))
            }
            Detected::Other | Detected::FlashPolicy | Detected::Silent | Detected::Gone => None,
        }
    }
}

impl Settings {
    /// When a client that can begin now has had its time to say what it speaks; `None` is never.
    fn undecided_until(&self) -> Option<tokio::time::Instant> {
        let delay = self.config.detect.as_ref().map_or(self.shared.first_bytes, |detect| detect.inspect_delay);
        (!delay.is_zero()).then(|| tokio::time::Instant::now() + delay)
    }

    /// Whether TLS is to be spoken: always, unless plain connections are served on the same port too. Then the first
    /// byte tells, which stays in the kernel. `None`: the client left.
    async fn speaks_tls(&self, socket: &Socket, undecided_until: Option<tokio::time::Instant>) -> Option<bool> {
        /// The content type of a TLS record that carries a handshake (RFC 8446 5.1).
        const HANDSHAKE: u8 = 0x16;
        if !self.config.detect.as_ref().is_some_and(|detect| detect.plain) {
            return Some(true);
        }
        let (Socket::Tcp(stream), Some(deadline)) = (socket, undecided_until) else { return Some(true) };
        let mut first = [0];
        match timeout_at(deadline, stream.peek(&mut first)).await {
            Ok(Ok(1..)) => Some(first[0] == HANDSHAKE),
            Ok(Ok(0) | Err(_)) => None,
            // Silence is left to detection, whose time has passed with it, and which knows who takes it.
            Err(_) => Some(false),
        }
    }

    async fn handshake(
        &self,
        tls: &Arc<ServerConfig>,
        socket: Socket,
    ) -> Option<(Transport, TlsInfo, Option<Vec<u8>>)> {
        let limit = self.config.tls.as_ref().map_or(Duration::ZERO, |tls| tls.handshake_timeout);
        let accepting = transport::tls::accept(Arc::clone(tls), socket);
        let accepted = if limit.is_zero() {
            accepting.await
        } else {
            timeout(limit, accepting).await.unwrap_or_else(|late| Err(late.into()))
        };
        let (stream, server_name) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.metrics.tls_failed.inc();
                debug!("listener {}: TLS handshake failed: {error}", self.name);
                return None;
            }
        };
        self.metrics.tls_ok.inc();
        let agreed = stream.agreed();
        let info = TlsInfo {
            server_name,
            version: agreed.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS"),
            cipher: agreed.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
        };
        let alpn = agreed.alpn_protocol().map(<[u8]>::to_vec);
        Some((Transport::FromClient(stream), info, alpn))
    }
}

/// The policy that the configuration describes.
///
/// # Errors
/// A file that can't be read, or that is no policy; a rule that can't be written as one.
pub fn flash_policy(config: &FlashPolicy) -> Result<Policy, BuildError> {
    let fail = |what: String| BuildError { listener: "flash_policy".to_owned(), what };
    match &config.file {
        Some(file) => {
            let xml = std::fs::read(file)
                .map_err(|error| fail(format!("{}: this file can't be read: {error}", file.display())))?;
            Policy::from_xml(&xml).map_err(|error| fail(format!("{}: {error}", file.display())))
        }
        None => {
            let rule =
                |allow: &config::FlashAllow| AllowRule { domain: allow.domain.clone(), ports: allow.ports.clone() };
            let rules: Vec<AllowRule> = config.allow.iter().map(rule).collect();
            Policy::from_rules(&rules).map_err(|error| fail(error.to_string()))
        }
    }
}
