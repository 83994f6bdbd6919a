//! A server as Pingora's connector wants it described.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::ext::TcpKeepalive;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora::{Error, ErrorType, Result};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::snapshot::Snapshot;
use crate::transport::Socket;
use crate::upstream::http2::STREAMS;
use crate::upstream::{Endpoint, Lease, Server, Upstream};
use crate::wire::proxy_protocol::Header;

/// What TLS needs, in Pingora's types; made once for each upstream.
struct PeerTls {
    authorities: Option<Arc<CaType>>,
    identity: Option<Arc<CertKey>>,
}

/// What the engine keeps of the upstreams that speak TLS, by their group, which is another one when their terms are.
#[derive(Default)]
pub(super) struct Peers(ArcSwap<HashMap<u64, Arc<PeerTls>>>);

impl Peers {
    /// What was made for an upstream; it is made now if it wasn't, and what belongs to upstreams that are gone is let go.
    fn tls(&self, upstream: &Upstream, snapshot: &Snapshot) -> Arc<PeerTls> {
        if let Some(made) = self.0.load().get(&upstream.group) {
            return Arc::clone(made);
        }
        let made = Arc::new(PeerTls::of(upstream));
        self.0.rcu(|peers| {
            let in_use = |group: &u64| snapshot.upstreams.values().any(|upstream| upstream.group == *group);
            let kept = peers.iter().filter(|(group, _)| in_use(group)).map(|(group, tls)| (*group, Arc::clone(tls)));
            kept.chain([(upstream.group, Arc::clone(&made))]).collect::<HashMap<_, _>>()
        });
        made
    }
}

/// Describes a server of the upstream, to be asked for what may take this long.
pub(super) fn of(
    peers: &Peers,
    snapshot: &Snapshot,
    lease: &Lease,
    first_byte: Option<Duration>,
) -> Result<Box<HttpPeer>> {
    let (upstream, server) = (lease.upstream(), lease.server());
    let unresolved = || Error::explain(ErrorType::ConnectError, format!("{} has no address yet", server.name()));
    let name = match upstream.tls() {
        None => None,
        Some(tls) => {
            let unnamed = |fault: String| Error::explain(ErrorType::ConnectError, fault);
            Some(tls.server_name(server).map_err(unnamed)?.to_str().into_owned())
        }
    };
    let secure = name.is_some();
    let name = name.unwrap_or_default();
    let mut peer = match server.endpoint().ok_or_else(unresolved)? {
        Endpoint::Inet(address) => HttpPeer::new(address, secure, name),
        Endpoint::Unix(path) => {
            let path =
                path.to_str().ok_or_else(|| Error::explain(ErrorType::ConnectError, "a path that is no text"))?;
            HttpPeer::new_uds(path, secure, name)?
        }
    };
    let timeouts = &upstream.config().timeouts;
    let set = |time: Duration| (!time.is_zero()).then_some(time);
    let options = &mut peer.options;
    options.connection_timeout = set(timeouts.connect);
    options.total_connection_timeout = set(timeouts.connect);
    options.read_timeout = first_byte;
    options.write_timeout = set(timeouts.write);
    options.idle_timeout = Some(timeouts.keep_alive);
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy {
        // The hooks do this, by the rules that hold for upgrades too.
        strip_connection_nominated: false,
        // What opens a WebSocket has become a tunnel before: whatever is left of `Upgrade` was not meant as one.
        ..HttpUpstreamRequestPolicy::deny_upgrades()
    };
    if upstream.config().http2 {
        options.set_http_version(2, 2);
        options.max_h2_streams = STREAMS;
    }
    let keepalive = &upstream.config().tcp_keepalive;
    options.tcp_keepalive = (!keepalive.idle.is_zero()).then_some(TcpKeepalive {
        idle: keepalive.idle,
        interval: keepalive.interval,
        count: keepalive.probes as usize,
        user_timeout: keepalive.user_timeout,
    });
    if let Some(tls) = upstream.tls() {
        options.verify_cert = tls.verify();
        options.verify_hostname = tls.verify();
        let made = peers.tls(upstream, snapshot);
        peer.options.ca.clone_from(&made.authorities);
        peer.client_cert_key.clone_from(&made.identity);
    }
    // Servers of two upstreams may share an address and differ in what Pingora's pool does not look at.
    // Where none is to be kept the pool would still have it for a moment, in which another request may meet its end.
    peer.group_key = if timeouts.keep_alive.is_zero() { own_group() } else { upstream.group };
    Ok(Box::new(peer))
}

/// A group of one connection: nobody else asks the pool for it.
fn own_group() -> u64 {
    /// Far from the groups of upstreams.
    static LAST: AtomicU64 = AtomicU64::new(u64::MAX);
    LAST.fetch_sub(1, Ordering::Relaxed)
}

/// Opens the connection with a PROXY header. It is for one request: Pingora's pool knows nothing of clients.
pub(super) fn tell(peer: &mut HttpPeer, lease: &Lease, header: Box<Header>) {
    let (upstream, server) = (Arc::clone(lease.upstream()), Arc::clone(lease.server()));
    peer.options.custom_l4 = Some(Arc::new(Told { upstream, server, header }));
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.group_key = own_group();
}

/// How a connection is opened that tells of its client.
#[derive(Debug)]
struct Told {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    header: Box<Header>,
}

#[async_trait]
impl L4Connect for Told {
    /// Pingora's limit for the whole of it, TLS included, holds for this, too.
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let opened = self.upstream.open(&self.server, Some(&self.header)).await;
        let failed = |error| Error::because(ErrorType::ConnectError, format!("Fail to connect to {address}"), error);
        Ok(match opened.map_err(failed)? {
            Socket::Tcp(stream) => stream.into(),
            Socket::Unix(stream) => stream.into(),
        })
    }
}

/// An authority whose key was never kept. Pingora wants to know one even where nothing is verified, and a system
/// without any is where `verify: false` is met.
const NOBODY: &[u8] = b"-----BEGIN CERTIFICATE-----
MIIBODCB66ADAgECAhQCROqkjR9m5ysTVkYMGwBB/M4mIzAFBgMrZXAwETEPMA0G
A1UEAwwGbm9ib2R5MCAXDTI2MTEyMjE2NDMzMFoYDzIxMjYxMDI5MTY0MzMwWjAR
MQ8wDQYDVQQDDAZub2JvZHkwKjAFBgMrZXADIQB3YVt0vL7nd9fTlUUjUjhAEcA8
21muIo8G57x9/5+8fKNTMFEwHQYDVR0OBBYEFNovudWRXnNcfjj61NuV+TpAOUlp
MB8GA1UdIwQYMBaAFNovudWRXnNcfjj61NuV+TpAOUlpMA8GA1UdEwEB/wQFMAMB
Af8wBQYDK2VwA0EAK0ShM3m8asstX296VhuBxRPoosDvXwZzPVEh60vqtX/FeyET
gMxkuz9k0GMNyGXY6Q1bYIBm3VJxDc+p0LIhBQ==
-----END CERTIFICATE-----
";

impl PeerTls {
    fn of(upstream: &Upstream) -> Self {
        let tls = upstream.tls();
        let own_authorities = upstream.config().tls.as_ref().is_some_and(|tls| tls.ca.is_some());
        let wrap = |root: &CertificateDer<'_>| WrappedX509::new(root.to_vec(), parse_x509);
        let authorities = match tls {
            Some(tls) if own_authorities => Some(tls.roots().iter().map(wrap).collect::<Vec<_>>().into()),
            Some(tls) if !tls.verify() => {
                CertificateDer::from_pem_slice(NOBODY).ok().map(|nobody| [wrap(&nobody)].into())
            }
            _ => None,
        };
        let identity = tls.and_then(|tls| tls.identity()).map(|identity| {
            let chain = identity.chain.iter().map(|certificate| certificate.to_vec()).collect();
            Arc::new(CertKey::new(chain, identity.key.secret_der().to_vec()))
        });
        Self { authorities, identity }
    }
}
