//! From an accepted socket to a connection of which is known what it speaks: PROXY header, TLS and detection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use log::debug;
use tokio::time::timeout_at;

use super::config::Protocol;
use super::detect::{Detected, detect};
use super::settings::Shared;
use super::tls::{Asked, ClientCertificate, Terms, challenges};
use super::{AppProtocol, Connection, Info, Permit, Settings, TlsInfo, flash};
use crate::metrics::ListenerMetrics;
use crate::trace::{Agreed, Handshake};
use crate::transport::{self, Socket, Transport};
use crate::wire::proxy_protocol::Tlvs;

/// A handshake, counted for as long as it goes on.
struct UnderWay<'a>(&'a ListenerMetrics);

impl<'a> UnderWay<'a> {
    fn new(metrics: &'a ListenerMetrics) -> Self {
        metrics.tls_open.inc();
        Self(metrics)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.tls_open.dec();
    }
}

/// What has become of a connection that speaks TLS.
enum Secured {
    /// It ends here.
    Here(Transport, Box<TlsInfo>),
    /// It is for somebody else: by what name, and where it goes.
    Elsewhere(Socket, Box<str>, Arc<str>),
}

/// A connection that has its place and nothing else yet.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// Whether it has to begin with a PROXY header.
    pub(super) has_header: bool,
    /// What the header tells beside the addresses.
    pub(super) told: Option<Box<Tlvs>>,
    pub(super) permit: Permit,
    pub(super) settings: Arc<Settings>,
}

impl Accepted {
    /// The PROXY header, TLS and detection; `None` when there is nothing left for an application to do.
    pub(super) async fn prepare(mut self) -> Option<(Connection, AppProtocol)> {
        if self.has_header {
            self.read_header().await?;
        }
        if self.settings.networks.as_ref().is_some_and(|networks| !networks.admit(self.peer.ip())) {
            self.settings.metrics.refused("network");
            self.socket.reset_on_close();
            return None;
        }
        let Self { socket, peer, local, told, permit, settings, .. } = self;
        let mut undecided_until = settings.undecided_until();
        let plain = socket;
        let (mut held, mut passed) = (BytesMut::new(), None);
        let (transport, tls, http2_agreed, http_agreed) = match &settings.tls {
            Some(terms) if settings.speaks_tls(&plain, undecided_until).await? => {
                match settings.secure(terms, plain, peer.ip(), &mut held).await? {
                    Secured::Here(transport, info) => {
                        undecided_until = settings.undecided_until();
                        let agreed = info.alpn;
                        (transport, Some(*info), agreed == Some("h2"), agreed.is_some())
                    }
                    Secured::Elsewhere(plain, name, upstream) => {
                        passed = Some((name, upstream));
                        (Transport::Plain(plain), None, false, false)
                    }
                }
            }
            _ => (Transport::Plain(plain), None, false, false),
        };
        let (passed_name, passed) = passed.unzip();
        let (listener, strayed) = (Arc::clone(&settings.name), AtomicBool::new(false));
        let http2_websockets = settings.config.http2_websockets;
        let info = Arc::new(Info { listener, peer, local, told, tls, passed_name, http2_websockets, strayed });
        let deadline = settings.shared.deadlines.register();
        deadline.set(settings.shared.first_bytes);
        let waiting = settings.shared.buffers.nothing();
        let mut connection = Connection { transport, held, info, deadline, waiting, permit };
        if let Some(upstream) = passed {
            settings.metrics.detected("passthrough");
            return Some((connection, AppProtocol::Raw(Some(upstream))));
        }
        let raw = || AppProtocol::Raw(settings.tcp_upstream.as_ref().map(|goals| Arc::clone(goals.draw())));
        match settings.config.protocol {
            Protocol::Tcp => return Some((connection, raw())),
            Protocol::Application => return Some((connection, AppProtocol::Own)),
            Protocol::FlashPolicy => {
                let Shared { flash_policy, flash_timeout, .. } = &settings.shared;
                flash::serve(connection, flash_policy, *flash_timeout).await;
                return None;
            }
            Protocol::Http => {}
        }
        if http2_agreed {
            // The HTTP/2 engine would wait for the preface for ever.
            let patience = settings.shared.first_bytes;
            let until = (!patience.is_zero()).then(|| tokio::time::Instant::now() + patience);
            let detected = detect(&mut connection.transport, &mut connection.held, until).await;
            return (detected == Detected::Http2).then_some((connection, AppProtocol::Http2));
        }
        if http_agreed {
            return Some((connection, AppProtocol::Http1));
        }
        let detecting = settings.config.detect.as_ref();
        let Connection { transport, held, deadline, .. } = &mut connection;
        let detected = match detecting {
            Some(_) => detect(transport, held, undecided_until).await,
            // Nothing is to be decided within a delay that somebody has chosen: the connection's deadline is exact enough,
            // and costs no timer.
            None => tokio::select! {
                biased;
                detected = detect(transport, held, None) => detected,
                () = deadline.expired() => Detected::Silent,
            },
        };
        settings.count(detected);
        match detected {
            Detected::Http2 if settings.config.http2 => Some((connection, AppProtocol::Http2)),
            Detected::Http1 | Detected::Http2 => Some((connection, AppProtocol::Http1)),
            Detected::FlashPolicy if detecting.is_some_and(|detect| detect.flash_policy) => {
                flash::answer(connection, &settings.shared.flash_policy).await;
                None
            }
            Detected::Other | Detected::Silent | Detected::FlashPolicy if settings.tcp_upstream.is_some() => {
                Some((connection, raw()))
            }
            // Without detection, what does not look like HTTP, or stops in the middle of it, is told so in HTTP.
            Detected::Other if detecting.is_none() => Some((connection, AppProtocol::Http1)),
            Detected::Silent if detecting.is_none() && !connection.held.is_empty() => {
                Some((connection, AppProtocol::Http1))
            }
            Detected::Other | Detected::FlashPolicy | Detected::Silent | Detected::Gone => None,
        }
    }
}

impl Settings {
    /// When a client that can begin now has had its time to say what it speaks, where there is a choice; `None` is never.
    fn undecided_until(&self) -> Option<tokio::time::Instant> {
        let delay = self.config.detect.as_ref()?.inspect_delay;
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
        let Some(deadline) = undecided_until else { return Some(true) };
        let mut first = [0];
        match timeout_at(deadline, socket.peek(&mut first)).await {
            Ok(Ok(1..)) => Some(first[0] == HANDSHAKE),
            Ok(Ok(0) | Err(_)) => None,
            // Silence is left to detection, whose time has passed with it, and which knows who takes it.
            Err(_) => Some(false),
        }
    }

    /// Finds out whom a client asks for, where that makes a difference, and speaks TLS with those who are asked for here.
    /// All of it has its time.
    async fn secure(&self, terms: &Terms, mut socket: Socket, peer: IpAddr, held: &mut BytesMut) -> Option<Secured> {
        let limit = self.config.tls.as_ref().map_or(Duration::ZERO, |tls| tls.handshake_timeout);
        let until = tokio::time::Instant::now() + limit;
        if let Some(names) = &terms.passthrough {
            match timeout_at(until, names.read(&mut socket, held)).await.ok().flatten() {
                Some(Asked::Elsewhere(name, upstream)) => return Some(Secured::Elsewhere(socket, name, upstream)),
                Some(Asked::Here) => {}
                None => {
                    self.metrics.tls_failed.inc();
                    return None;
                }
            }
        }
        let (transport, info) = self.handshake(terms, socket, std::mem::take(held), peer, until).await?;
        Some(Secured::Here(transport, Box::new(info)))
    }

    async fn handshake(
        &self,
        terms: &Terms,
        socket: Socket,
        first: BytesMut,
        peer: IpAddr,
        until: tokio::time::Instant,
    ) -> Option<(Transport, TlsInfo)> {
        let _open = UnderWay::new(&self.metrics);
        let (began, at) = (Instant::now(), SystemTime::now());
        let accepting = transport::tls::accept(Arc::clone(&terms.config), socket, &first);
        let accepted = timeout_at(until, accepting).await.unwrap_or_else(|late| Err(late.into()));
        let (stream, server_name) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                self.metrics.tls_failed.inc();
                debug!("listener {}: TLS handshake failed: {error}", self.name);
                self.trace(at, peer, None, || Err(error.to_string()));
                return None;
            }
        };
        self.metrics.tls_ok.inc();
        self.metrics.tls_seconds.observe(began.elapsed().as_secs_f64());
        let agreed = stream.agreed();
        if agreed.alpn_protocol() == Some(challenges::ALPN.as_bytes()) {
            // An authority has seen what it wanted to.
            return None;
        }
        let shown = agreed.peer_certificates().and_then(|chain| chain.first());
        let info = TlsInfo {
            server_name,
            version: agreed.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS"),
            cipher: agreed.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
            // Nothing else is ever offered.
            alpn: agreed.alpn_protocol().map(|name| if name == b"h2" { "h2" } else { "http/1.1" }),
            client: shown.and_then(|shown| ClientCertificate::read(shown, &terms.facts)).map(Arc::new),
            hsts: terms.hsts.clone(),
        };
        self.trace(at, peer, info.server_name.as_deref(), || Ok((info.version, info.cipher, info.alpn)));
        Some((Transport::FromClient(stream), info))
    }

    /// Tells of a handshake that began then, where traces are recorded.
    fn trace(
        &self,
        began: SystemTime,
        peer: IpAddr,
        server_name: Option<&str>,
        outcome: impl FnOnce() -> Result<Agreed, String>,
    ) {
        self.shared.traces.handshake(|| Handshake {
            began,
            listener: Arc::clone(&self.name),
            client: peer.to_canonical(),
            server_name: server_name.map(str::to_owned),
            outcome: outcome(),
        });
    }
}
