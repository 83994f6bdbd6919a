//! What the operator says about an upstream: its servers, how to choose among them and how to know that they live.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, EnumAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::affinity;
use crate::filter::config::HeaderRules;
pub use crate::http::config::HostHeader;
use crate::http::config::exactly;
use crate::roster::Pace;
use crate::session::config::Rule;
use crate::session::{Named, Rules, SessionProtocol};
use crate::transport::TcpKeepAlive;
use crate::wire::proxy_protocol::Version;

pub use super::servers::config::{
    DnsSource, Family, FileSource, KubernetesService, Lookups, NameServer, PodPort, ServerConfig, Servers, SrvSource,
};

/// One entry of `upstreams`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the servers speak; chooses the defaults of `balance` and `health`. Default `http`.
    #[serde(default)]
    pub kind: Kind,
    /// How new work is placed. Default `client_ip` for `socket.io`, else `round_robin`.
    #[serde(default)]
    pub balance: Option<Balance>,
    /// The servers, or where they are found.
    pub servers: Servers,
    /// Other gateways, or where they are found, which have servers of their own: whoever comes with a session that nobody here
    /// knows goes on to the one whose servers have it. Default: there are none.
    #[serde(default)]
    pub peers: Option<Servers>,
    /// Whether its servers are such gateways.
    #[serde(skip)]
    pub(crate) are_peers: bool,
    /// Waiting room for when every server has its `max_connections`.
    #[serde(default)]
    pub queue: Queue,
    /// What ties a client to a server beside sessions; not for kind `tcp`.
    #[serde(default)]
    pub affinity: affinity::Config,
    /// How sessions are remembered and spread; for kinds that have sessions, and for kind `http` with a `rule`.
    #[serde(default)]
    pub sessions: Sessions,
    /// How fast new sessions may come; where there are any.
    #[serde(default)]
    pub new_sessions: NewSessions,
    /// How long a server that came up takes to get its whole share of new work, from a tenth of it onwards. Default 0 s:
    /// it gets it at once. Servers that are there from the start need not warm up.
    #[serde(default, with = "humantime_serde")]
    pub slow_start: Duration,
    /// How sessions and tunnels are let go when a server drains, or is taken out of the set.
    #[serde(default)]
    pub drain: Drain,
    /// The version of the PROXY header that tells servers of each connection's client, before TLS. Default: none is sent.
    #[serde(default)]
    pub proxy_protocol: Option<Version>,
    /// Whether the servers are spoken to by HTTP/2: by ALPN over TLS, by prior knowledge in plain. WebSockets and other
    /// upgrades go by HTTP/1.1 all the same. Only for kind `http`. Default false.
    #[serde(default)]
    pub http2: bool,
    /// TLS to the servers; without it they are spoken to in plain.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Whether the gateway is ready without it. Default false.
    #[serde(default)]
    pub optional: bool,
    /// Active checks.
    #[serde(default)]
    pub health: Health,
    /// When a server is passed over for what it fails at.
    #[serde(default)]
    pub ejection: Ejection,
    /// Times that rule a connection to a server.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How the kernel notices servers that are gone.
    #[serde(default)]
    pub tcp_keepalive: TcpKeepAlive,
    /// How WebSockets are watched; only for kind `http`.
    #[serde(default)]
    pub websocket: WebSocket,
    /// What clients may send through a WebSocket.
    #[serde(default)]
    pub messages: Messages,
    /// How many other servers are tried after a failed connect. Default 3.
    #[serde(default = "default_retries")]
    pub connect_retries: usize,
    /// The `Host` that servers see: `keep` (what the client sent) or a fixed value. Default `keep`.
    #[serde(default)]
    pub host: HostHeader,
    /// Changes to the fields of requests, on their way to servers; before those that the route makes.
    #[serde(default)]
    pub request_headers: HeaderRules,
    /// Changes to the fields of answers, whoever gives them; before those that the route makes.
    #[serde(default)]
    pub response_headers: HeaderRules,
}

impl Config {
    /// What is said of TLS; servers that are found by one name are asked for by that name where no other is said.
    pub fn server_tls(&self) -> Option<Tls> {
        let mut tls = self.tls.clone()?;
        let host = || self.servers.host().map(|(host, _)| host.to_owned());
        tls.server_name = tls.server_name.or_else(host);
        Some(tls)
    }

    /// The chosen balance, or the default of the kind; values that are hashed need the consistent hash.
    pub fn balance(&self) -> Balance {
        self.balance.unwrap_or(match self.kind {
            // Where clients make ids up, the hash of one leads to its server.
            Kind::Of(protocol) if protocol.comes_back() || protocol.protocol().clients_make_ids() => Balance::ClientIp,
            Kind::Of(_) => Balance::LeastConnections,
            Kind::Http | Kind::Tcp if self.affinity.hashes_values() => Balance::ClientIp,
            Kind::Http | Kind::Tcp => Balance::RoundRobin,
        })
    }

    /// The chosen check, or the default of the kind.
    pub fn health_check(&self) -> Check {
        self.health.check.unwrap_or(match self.kind {
            Kind::Of(protocol) if protocol.protocol().check().is_some() => Check::Session,
            Kind::Of(_) | Kind::Http | Kind::Tcp => Check::Tcp,
        })
    }

    /// How long clients are remembered that may come back: as said, or the default of the kind.
    pub(crate) fn returning(&self) -> Duration {
        self.sessions.returning.unwrap_or(match self.kind {
            Kind::Of(protocol) if protocol.comes_back() => Duration::from_secs(120),
            Kind::Of(_) | Kind::Http | Kind::Tcp => Duration::ZERO,
        })
    }

    /// The name of the upstream that the peers of this one are.
    pub(crate) fn name_of_peers(upstream: &str) -> String {
        format!("{upstream}@peers")
    }

    /// The other gateways as an upstream of its own: sessions live there, and none is opened, waited for or let go.
    pub(crate) fn of_peers(&self) -> Option<Self> {
        let servers = self.peers.clone()?;
        let usual = Timeouts::default();
        Some(Self {
            balance: Some(Balance::RoundRobin),
            servers,
            peers: None,
            are_peers: true,
            affinity: affinity::Config::default(),
            sessions: Sessions {
                grace: Duration::ZERO,
                returning: Some(Duration::ZERO),
                rebalance: None,
                ..self.sessions.clone()
            },
            new_sessions: NewSessions::default(),
            slow_start: Duration::ZERO,
            drain: Drain { goodbye: false, ..Drain::default() },
            proxy_protocol: None,
            http2: false,
            tls: None,
            optional: true,
            // Whoever was down a moment ago may have opened sessions since.
            health: Health { check: Some(Check::None), ..Health::default() },
            timeouts: Timeouts { connect: PEER_CONNECT, keep_alive: usual.keep_alive, ..self.timeouts.clone() },
            websocket: WebSocket::default(),
            messages: Messages::default(),
            connect_retries: 0,
            host: HostHeader::Keep,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            ..self.clone()
        })
    }

    /// Whether the servers have sessions.
    pub(crate) fn has_sessions(&self) -> bool {
        match self.kind {
            Kind::Of(_) => true,
            Kind::Http => self.sessions.rule.is_some(),
            Kind::Tcp => false,
        }
    }

    /// The protocol of the sessions that the servers have; `None` where they have none.
    ///
    /// # Errors
    /// What is wrong with the operator's own.
    pub(crate) fn session_protocol(&self) -> Result<Option<Arc<dyn SessionProtocol>>, String> {
        match (self.kind, &self.sessions.rule) {
            (Kind::Of(protocol), _) => Ok(Some(protocol.protocol())),
            (Kind::Http, Some(rule)) => {
                let rules = Rules::new(rule).map_err(|(key, what)| format!("`sessions.rule.{key}`: {what}"))?;
                Ok(Some(Arc::new(rules)))
            }
            (Kind::Http | Kind::Tcp, _) => Ok(None),
        }
    }
}

/// Longest time until a peer is connected to: whoever is not there by then is not near.
const PEER_CONNECT: Duration = Duration::from_secs(1);

/// What the servers of an upstream speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// HTTP and WebSocket.
    #[default]
    Http,
    /// A protocol whose sessions belong to servers.
    Of(Named),
    /// Raw TCP.
    Tcp,
}

impl Kind {
    /// The word for it in configurations.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Of(protocol) => protocol.as_str(),
            Self::Tcp => "tcp",
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const ALL: [&str; Named::ALL.len() + 2] = {
            let mut all = ["http"; Named::ALL.len() + 2];
            let mut at = 0;
            while at < Named::ALL.len() {
                all[at + 1] = Named::ALL[at].as_str();
                at += 1;
            }
            all[at + 1] = "tcp";
            all
        };
        /// Whatever shape the word comes in.
        struct Word;
        impl<'de> Visitor<'de> for Word {
            type Value = Kind;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a kind of server")
            }

            fn visit_enum<A: EnumAccess<'de>>(self, word: A) -> Result<Kind, A::Error> {
                let (word, rest) = word.variant::<String>()?;
                rest.unit_variant()?;
                let named = || Named::ALL.into_iter().find(|protocol| protocol.as_str() == word).map(Kind::Of);
                match word.as_str() {
                    "http" => Ok(Kind::Http),
                    "tcp" => Ok(Kind::Tcp),
                    _ => named().ok_or_else(|| de::Error::unknown_variant(&word, &ALL)),
                }
            }
        }
        deserializer.deserialize_enum("Kind", &ALL, Word)
    }
}

/// How new work is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Consistent hash (Ketama) of the client's address: the same client meets the same server.
    ClientIp,
    /// In turn, by weight.
    RoundRobin,
    /// The server with the fewest requests and tunnels in flight for its weight.
    LeastConnections,
    /// The less loaded of two servers drawn by weight.
    RandomTwo,
    /// The one of two servers drawn by weight that is expected to answer sooner: the time to the first byte, as it was
    /// lately, for each request that is on its way. For `http`.
    PeakEwma,
}

/// `queue`: requests that wait for a server to have room.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Most that may wait at once; one more is refused with 503. Default 1000.
    pub size: usize,
    /// Longest wait before 503. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self { size: 1000, timeout: Duration::from_secs(5) }
    }
}

/// `sessions`: how an upstream whose servers have any remembers and spreads them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// Most that are remembered. Default 1,000,000, which take some 90 MiB.
    pub max: usize,
    /// How long a session may be silent beyond its heartbeat (`pingInterval` and `pingTimeout`) before it is forgotten.
    /// Default 10 s.
    #[serde(with = "humantime_serde")]
    pub slack: Duration,
    /// How long the sessions of a server that is down or can't be connected to wait for it before they move to another
    /// one, which does not know them: only their clients can begin anew there. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How many times its share of the live sessions a server may have and still be given a new one, by balance
    /// `client_ip` or because the client was there before; 1 to 100, or 0 for no bound. Default 1.25.
    pub bounded_load: f64,
    /// From how many sessions on a server, times its weight, `bounded_load` holds where `client_ip` places: up to there
    /// clients behind one address stay together, and find their server again when all of them come back. Default 256.
    pub bounded_from: u32,
    /// How long after it was last seen a client that comes back is placed on the server that it was on; 0 s for not at
    /// all. Default 2 min for `socket.io`, as long as Socket.IO recovers the state of a connection, else 0 s.
    #[serde(with = "humantime_serde")]
    pub returning: Option<Duration>,
    /// Whether, and how, sessions are shed from servers that have more than their share. Default: they stay.
    pub rebalance: Option<Rebalance>,
    /// Where sessions are opened: at these paths and below them, and nowhere else. Default: wherever a server opens one;
    /// servers are asked for sessions only at the usual paths, that of the check, and where one has been opened.
    pub paths: Vec<String>,
    /// How sessions are told, for kind `http`; other kinds have a protocol for that. Default: there are none.
    pub rule: Option<Rule>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            max: 1_000_000,
            slack: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            bounded_load: 1.25,
            bounded_from: 256,
            returning: None,
            rebalance: None,
            paths: Vec::new(),
            rule: None,
        }
    }
}

/// `rebalance`: when servers joined, sessions are told goodbye on those that have too many, until they don't.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rebalance {
    /// Most goodbyes in a second, over all servers of the upstream; above 0. Default 10.
    pub rate: f64,
    /// The share by which each pause between two goodbyes is varied at random, 0 to 1. Default 0.3.
    pub jitter: f64,
    /// How many times its share of the live sessions a server may have before it is relieved of the others, 1 to 100;
    /// two beyond its share it may always have. New sessions are not placed beyond this either. Default 1.25.
    pub bound: f64,
    /// How long the servers have to be the same and well before anybody is told. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { rate: 10.0, jitter: 0.3, bound: 1.25, delay: Duration::from_secs(10) }
    }
}

/// `drain` of an upstream: the pace at which a server is left.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Whether anybody is told goodbye. Without it sessions and tunnels stay until they end by themselves. Default true.
    pub goodbye: bool,
    /// Goodbyes in a second, for each server; above 0. Default 50.
    pub rate: f64,
    /// The share by which each pause between two goodbyes is varied at random, 0 to 1. Default 0.3.
    pub jitter: f64,
    /// What is left after this time goes at once. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { goodbye: true, rate: 50.0, jitter: 0.3, deadline: Duration::from_secs(300) }
    }
}

impl Drain {
    /// The pace of the goodbyes; `None` where none are said.
    pub fn pace(&self) -> Option<Pace> {
        self.goodbye.then_some(Pace { rate: self.rate, jitter: self.jitter, deadline: self.deadline })
    }
}

/// `new_sessions`: how fast they may come; what comes faster waits its turn, and what can't wait is refused with 503.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewSessions {
    /// New sessions per second. Default 0, any number.
    pub rate: u32,
    /// How many may come at once after a quiet time. Default: those of one second.
    pub burst: Option<u32>,
    /// Most handshakes that may wait at once. Default 1000.
    pub max_pending: usize,
    /// Longest wait; a handshake that would have to wait longer is refused at once. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for NewSessions {
    fn default() -> Self {
        Self { rate: 0, burst: None, max_pending: 1000, timeout: Duration::from_secs(5) }
    }
}

/// `tls`: how servers prove who they are, and how the gateway does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The name asked for (SNI) and verified. Default: the host in the server's address.
    pub server_name: Option<String>,
    /// Verify the server's certificate. Default true.
    pub verify: bool,
    /// A PEM file of the authorities to trust. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// A client certificate to show (PEM chain); needs `key`.
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    pub key: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { server_name: None, verify: true, ca: None, cert: None, key: None }
    }
}

/// `health`: the active check of each server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// What to ask. Default: `engine.io` for kind `socket.io`, else `tcp`.
    pub check: Option<Check>,
    /// Time from one check to the next, 1 s or more. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Longest time for one check. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The share of `interval` by which each wait is varied at random, 0 to 0.5. Default 0.1.
    pub jitter: f64,
    /// Good checks in a row before a `down` server is `up`. Default 1.
    pub rise: u32,
    /// Bad checks in a row before an `up` server is `down`. Default 2.
    pub fall: u32,
    /// `http`: the method. Default `GET`.
    pub method: String,
    /// `http` and `engine.io`: the path. Default `/` for `http`, `/socket.io/` for `engine.io`.
    pub path: Option<String>,
    /// `http`, `grpc` and `engine.io`: headers to send, such as `Host`.
    pub headers: std::collections::BTreeMap<String, String>,
    /// `http`: the statuses that are good, as `200`, `200-399`. Default `200-399`.
    pub status: StatusRange,
    /// `http`: text that the first 64 KiB of the body must hold. Default: any body will do.
    pub body: Option<String>,
    /// `grpc`: the service that is asked about. Default: the server as a whole.
    pub service: Option<String>,
}

/// Whether a header says how long a body is, which a check does by itself.
pub(crate) fn frames_a_body(name: &str) -> bool {
    ["content-length", "transfer-encoding"].iter().any(|framing| name.eq_ignore_ascii_case(framing))
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            jitter: 0.1,
            rise: 1,
            fall: 2,
            method: "GET".to_owned(),
            path: None,
            headers: std::collections::BTreeMap::new(),
            status: StatusRange { from: 200, to: 399 },
            body: None,
            service: None,
        }
    }
}

/// What an active check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Check {
    /// No active check: the server counts as up until it is ejected.
    #[serde(rename = "none")]
    None,
    /// A connection can be opened.
    #[serde(rename = "tcp")]
    Tcp,
    /// A request is answered with a good status.
    #[serde(rename = "http")]
    Http,
    /// The server, or one of its services, says that it serves, by gRPC's health checking protocol.
    #[serde(rename = "grpc")]
    Grpc,
    /// A session can be opened; it is closed again at once.
    #[serde(rename = "engine.io")]
    Session,
}

impl Check {
    /// What the check `engine.io` speaks with servers that have no sessions of another protocol.
    pub(super) fn protocol() -> Arc<dyn SessionProtocol> {
        Named::CHECKED.protocol()
    }
}

/// A range of HTTP statuses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct StatusRange {
    /// The lowest good status.
    pub from: u16,
    /// The highest good status.
    pub to: u16,
}

impl StatusRange {
    /// Whether `status` lies within.
    pub fn contains(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        if range.from == range.to { range.from.to_string() } else { format!("{}-{}", range.from, range.to) }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Range;
        fn read<E: de::Error>(text: &str) -> Result<StatusRange, E> {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            match (from.trim().parse(), to.trim().parse()) {
                (Ok(from), Ok(to)) if (100..=599).contains(&from) && from <= to && to <= 599 => {
                    Ok(StatusRange { from, to })
                }
                _ => Err(E::custom(format!("`{text}` is not a status or a range such as 200-399"))),
            }
        }
        impl Visitor<'_> for Range {
            type Value = StatusRange;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a status such as 200, or a range such as 200-399")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<StatusRange, E> {
                read(&status.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusRange, E> {
                read(text)
            }
        }
        deserializer.deserialize_any(Range)
    }
}

/// `ejection`: when a server that fails at what it is asked is passed over, whatever its checks say.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// Failed connects in a row before the server is passed over; 0 for never. Default 3.
    pub failures: u32,
    /// Bad answers in a row before the server is passed over; 0 for never. An answer is bad if its status is one of
    /// `status`, if it is cut or none at all, or if it doesn't come in time. Default 5.
    pub bad_answers: u32,
    /// The statuses that are bad, as `502-504` or `500-599`. Default `502-504`, what servers say when they can't serve; a
    /// 500 is more often the fault of one request.
    pub status: StatusRange,
    /// How long the server is passed over the first time; the second time in a row it is twice as long, and so on. A
    /// good check ends it early if it was for failed connects. Default 10 s.
    #[serde(rename = "for", with = "humantime_serde")]
    pub duration: Duration,
    /// The longest that it gets. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub max_for: Duration,
    /// The share of the servers that may be passed over at once, 0 to 1, though one always may, and never the last that
    /// is up. Default 0.5.
    pub max_share: f64,
}

impl Ejection {
    /// How many of so many servers may be passed over at once.
    pub(super) fn most_of(&self, servers: usize) -> usize {
        // A hair more, so that 0.29 of 100 is 29.
        let most = (self.max_share.clamp(0.0, 1.0) * servers as f64 + 1e-6).floor();
        (most as usize).max(1)
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 3,
            bad_answers: 5,
            status: StatusRange { from: 502, to: 504 },
            duration: Duration::from_secs(10),
            max_for: Duration::from_secs(300),
            max_share: 0.5,
        }
    }
}

/// `timeouts` of an upstream; `0s` turns one off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To open a connection, TLS included. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// From the sent request to the head of its answer. Default 2 min; for a poll of a session, what its handshake
    /// allows.
    #[serde(with = "humantime_serde")]
    pub first_byte: Option<Duration>,
    /// Between two reads of an answer that has begun. Default 5 min: event streams may be quiet for long.
    #[serde(with = "humantime_serde")]
    pub read_idle: Duration,
    /// For one write to make progress. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// How long an idle connection to a server is kept for reuse. Default 4 s, below the 5 s of Node.js.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long a tunnel may stay silent in both directions. Default off for WebSockets, since those of 24 h are normal; for
    /// a Socket.IO session, what its handshake allows; 1 h for raw connections, of which nobody knows whether they are
    /// meant to say anything.
    #[serde(with = "humantime_serde")]
    pub tunnel_idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: None,
            read_idle: Duration::from_secs(300),
            write: Duration::from_secs(30),
            keep_alive: Duration::from_secs(4),
            tunnel_idle: None,
        }
    }
}

impl Timeouts {
    /// What rules a request: `first_byte` as said; else `silence`, which the handshake of its session allows, where it
    /// is a poll of one; else 2 min. Zero for no limit.
    pub fn first_byte(&self, silence: Option<Duration>) -> Duration {
        self.first_byte.or(silence).unwrap_or(Duration::from_secs(120))
    }

    /// What rules a tunnel: `tunnel_idle` as said; else `silence`, which the handshake of its session allows, where it
    /// belongs to one; else zero, no limit.
    pub fn tunnel_idle(&self, silence: Option<Duration>) -> Duration {
        self.tunnel_idle.or(silence).unwrap_or_default()
    }

    /// What rules a raw tunnel: `tunnel_idle` as said; else 1 h.
    pub fn raw_idle(&self) -> Duration {
        self.tunnel_idle.unwrap_or(Duration::from_secs(3600))
    }
}

/// `websocket`: Pings of the gateway's own, which show that a side is gone though nobody speaks to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocket {
    /// A side that has been silent for this long is sent a Ping. Default 0 s: none is ever sent.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// How long it may stay silent then before the WebSocket is ended. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub ping_timeout: Duration,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { ping_interval: Duration::ZERO, ping_timeout: Duration::from_secs(20) }
    }
}

/// `messages`: what a client may send through a WebSocket, for kinds that have them. Servers have limits of their own;
/// these end what breaks them before a server has it in its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Messages {
    /// The longest message, as it is sent (compressed, if it is); 125 bytes or more. Default 0: no limit. A longer one ends the
    /// WebSocket with 1009.
    #[serde(serialize_with = "exactly")]
    pub size: ByteSize,
    /// Frames in a second: messages, parts of them, Pings. Default 0: no limit. More end the WebSocket with 1008.
    pub rate: u32,
    /// How many of them may come at once. Default: as many as in a second.
    pub burst: Option<u32>,
}

fn default_retries() -> usize {
    3
}
