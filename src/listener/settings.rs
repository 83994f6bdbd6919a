//! What a listener does with its connections: everything but the socket.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::IntCounter;

use super::config::{Config, Protocol};
use super::detect::Detected;
use super::inherit::Sockets;
use super::limits::ConnectionLimits;
use super::proxy_header::Complaints;
use super::{BuildError, tls};
use crate::access::Networks;
use crate::buffers::Buffers;
use crate::deadline::Deadlines;
use crate::http::config::Forwarding;
use crate::metrics::ListenerMetrics;
use crate::secrets::Secrets;
use crate::share::{Shares, Upstreams};
use crate::trace::Traces;
use crate::wire::flash::Policy;

/// What all listeners of one gateway share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Places for connections.
    pub limits: Arc<ConnectionLimits>,
    /// The clock of coarse deadlines.
    pub deadlines: Arc<Deadlines>,
    /// What waits for slow peers.
    pub(crate) buffers: Arc<Buffers>,
    /// The answer to Flash policy requests.
    pub flash_policy: Policy,
    /// How long a client of a `flash_policy` listener may take.
    pub flash_timeout: Duration,
    /// How long a client may take to begin its first request, and a proxy before it to say whose connection it is.
    pub first_bytes: Duration,
    /// Knows the proxies that are believed.
    pub forwarding: Arc<Forwarding>,
    /// Who records traces.
    pub(crate) traces: Traces,
    /// Sockets of the process before, and those to hand to the next.
    pub sockets: Arc<Sockets>,
    /// Files that are in no file system, where there can be any.
    pub(crate) secrets: Option<Secrets>,
}

/// What a listener does with its connections: everything but the socket. Each connection keeps those that it was
/// accepted under.
pub struct Settings {
    pub(super) name: Arc<str>,
    pub(super) config: Config,
    pub(super) tls: Option<tls::Terms>,
    /// Where bytes go that are not HTTP.
    pub(super) tcp_upstream: Option<Shares<Arc<str>>>,
    pub(super) shared: Shared,
    pub(super) metrics: ListenerMetrics,
    /// Who may connect; `None`: everybody.
    pub(super) networks: Option<Networks>,
    pub(super) proxies: Complaints,
    /// The counter of those who speak HTTP/1, which nearly all do, once the first one has.
    http1: OnceLock<IntCounter>,
}

impl Settings {
    /// Counts what a connection turned out to speak.
    pub(super) fn count(&self, detected: Detected) {
        match detected {
            Detected::Http1 => {
                self.http1.get_or_init(|| self.metrics.detected.with_label_values(&[detected.as_str()])).inc();
            }
            _ => self.metrics.detected(detected.as_str()),
        }
    }

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
            Protocol::Http if config.http2 => &["h2", "http/1.1"],
            Protocol::Http => &["http/1.1"],
            Protocol::Tcp | Protocol::FlashPolicy | Protocol::Application => &[],
        };
        let before = before.and_then(|before| before.tls.as_ref());
        let tls = config.tls.as_ref().map(|said| tls::Terms::load(said, alpn, shared.secrets.as_ref(), before));
        let tls = tls.transpose().map_err(|error| fail(error.to_string()))?;
        let networks = config.access.as_ref().map(Networks::of_listener);
        let networks = networks.transpose().map_err(|error| fail(error.to_string()))?.flatten();
        let detected_tcp = config.detect.as_ref().and_then(|detect| detect.tcp.as_deref()).map(Upstreams::from);
        Ok(Self {
            name: config.name().into(),
            tls,
            tcp_upstream: config.upstream.as_ref().or(detected_tcp.as_ref()).and_then(Shares::of),
            config: config.clone(),
            shared,
            metrics,
            networks,
            proxies: Complaints::default(),
            http1: OnceLock::new(),
        })
    }

    /// What the listener counts.
    pub fn metrics(&self) -> &ListenerMetrics {
        &self.metrics
    }

    /// What the operator said.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the files behind their TLS hold the same.
    pub fn has_files_of(&self, other: &Self) -> bool {
        match (&self.tls, &other.tls) {
            (Some(ours), Some(theirs)) => ours.has_files_of(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }
}
