//! What the operator says about listeners: addresses, protocols, certificates and detection.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::tls::config::Tls;
use crate::access::config::OfListener;
use crate::address::BindAddress;
use crate::share::Upstreams;
use crate::transport::TcpKeepAlive;

/// One entry of `listeners`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name in routes, logs and metrics. Default: the address as written.
    #[serde(default)]
    pub name: Option<String>,
    /// Where to bind.
    pub address: BindAddress,
    /// What the listener speaks. Default `http`.
    #[serde(default)]
    pub protocol: Protocol,
    /// The upstream that a `tcp` listener carries its connections to, or several with their shares; an error on the other
    /// protocols.
    #[serde(default)]
    pub upstream: Option<Upstreams>,
    /// Who tells of a client in a PROXY header, before TLS and everything else. Default `off`.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// Who may connect. Default: everybody.
    #[serde(default)]
    pub access: Option<OfListener>,
    /// Certificates; without them the listener is plain.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// What else may arrive on an `http` listener; an error on the other protocols.
    #[serde(default)]
    pub detect: Option<Detect>,
    /// Accept HTTP/2: by ALPN over TLS, by prior knowledge in plain. Default true.
    #[serde(default = "yes")]
    pub http2: bool,
    /// Offer WebSockets over HTTP/2 (RFC 8441). Default false.
    #[serde(default)]
    pub http2_websockets: bool,
    /// Most connections open at once on this listener; one more is refused. Default 0, no limit of its own.
    #[serde(default)]
    pub max_connections: usize,
    /// Connections that the kernel may hold before they are accepted. Default 4096.
    #[serde(default = "default_backlog")]
    pub backlog: u32,
    /// How the kernel notices clients that are gone.
    #[serde(default)]
    pub tcp_keepalive: TcpKeepAlive,
}

impl Config {
    /// A plain `http` listener with every default.
    pub fn at(address: BindAddress) -> Self {
        Self {
            name: None,
            address,
            protocol: Protocol::Http,
            upstream: None,
            proxy_protocol: ProxyProtocol::Off,
            access: None,
            tls: None,
            detect: None,
            http2: yes(),
            http2_websockets: false,
            max_connections: 0,
            backlog: default_backlog(),
            tcp_keepalive: TcpKeepAlive::default(),
        }
    }

    /// The upstreams that its connections go to, but for those that the routes say.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &str> {
        let passed = self.tls.iter().flat_map(|tls| &tls.passthrough).map(|one| &one.upstream);
        let detected = self.detect.as_ref().and_then(|detect| detect.tcp.as_deref());
        self.upstream.iter().chain(passed).flat_map(Upstreams::names).chain(detected)
    }

    /// What it is known by over reloads: its address; with a port of the kernel's choice, also its name.
    pub fn identity(&self) -> String {
        match &self.address {
            BindAddress::Inet(address) if address.port() == 0 => format!("{address} {}", self.name()),
            address => address.to_string(),
        }
    }

    /// The name, or the address as written where no name was given.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, HTTP/2 and upgrades, by the routes.
    #[default]
    Http,
    /// Any bytes, carried to `upstream`.
    Tcp,
    /// Flash socket policy requests, answered and closed.
    FlashPolicy,
    /// Any bytes, served by an application that a program brings for this listener.
    Application,
}

/// Who has to begin with a PROXY header. The address of the peer decides, never what it sends: whoever may choose whether to
/// send one may choose an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// Nobody: a header is no more than bytes that the listener doesn't speak.
    #[default]
    Off,
    /// Everybody: who is none of `forwarding.trusted_proxies` is refused.
    Required,
    /// `forwarding.trusted_proxies`; others are clients.
    FromTrusted,
}

/// `listeners[].detect`: what may arrive beside HTTP on one port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detect {
    /// Answer `<policy-file-request/>` with the policy of `flash_policy`. Default false.
    pub flash_policy: bool,
    /// On a listener with `tls`, also serve plain connections: TLS is told by its first bytes. Default false.
    pub plain: bool,
    /// The upstream for bytes that are not HTTP, and for clients that stay silent. Default: they are closed.
    pub tcp: Option<String>,
    /// How long a client may stay silent or undecided. Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub inspect_delay: Duration,
}

impl Default for Detect {
    fn default() -> Self {
        Self { flash_policy: false, plain: false, tcp: None, inspect_delay: Duration::from_millis(500) }
    }
}

/// `flash_policy`: what Flash players are told, on `flash_policy` listeners and inline.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlashPolicy {
    /// An XML file to send as it is, instead of `allow`.
    pub file: Option<PathBuf>,
    /// Who may connect to which ports. Default: every domain, every port.
    pub allow: Vec<FlashAllow>,
    /// How long a client of a `flash_policy` listener may take. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for FlashPolicy {
    fn default() -> Self {
        Self { file: None, allow: vec![FlashAllow::default()], timeout: Duration::from_secs(1) }
    }
}

/// One `<allow-access-from>` of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlashAllow {
    /// A domain, `*.example.com` or `*`. Default `*`.
    pub domain: String,
    /// Ports as Flash writes them: `80,443`, `8000-8100` or `*`. Default `*`.
    pub ports: String,
}

impl Default for FlashAllow {
    fn default() -> Self {
        Self { domain: "*".to_owned(), ports: "*".to_owned() }
    }
}

fn yes() -> bool {
    true
}

fn default_backlog() -> u32 {
    4096
}
