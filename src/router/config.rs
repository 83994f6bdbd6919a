//! What the operator says about routes: what to match, and where a match goes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::access;
use crate::compression;
use crate::filter::config::{Files, HeaderRules};
use crate::http::config::{ErrorPages, exactly, exactly_some};
pub use crate::http::config::{HostHeader, OneOrMany};
use crate::rate::config::Rates;
pub use crate::share::{Share, Upstreams};

/// One entry of `routes`: the first whose `match` holds decides. Exactly one of `upstream`, `respond`, `redirect` and `files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name in logs and metrics. Default: the upstream, or `respond`, `redirect` or `files`, and the route's place in the list.
    pub name: Option<String>,
    /// What has to hold; everything, where it is left out.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Carry the request to this upstream, or to one of several by their shares, of which some may be answered here.
    pub upstream: Option<Upstreams>,
    /// How the entries of a list of upstreams share what comes. Default: each client goes by its address.
    pub split: Split,
    /// Copies of its requests for another upstream.
    pub mirror: Option<Mirror>,
    /// Answer it here.
    pub respond: Option<Respond>,
    /// Send the client elsewhere.
    pub redirect: Option<Redirect>,
    /// Serve it a file.
    pub files: Option<Files>,
    /// Names of protocols that a request may upgrade to, as in its `Upgrade`. A WebSocket it may open anyway.
    pub upgrade: OneOrMany,
    /// Who may ask, and from where. Default: as the top level says.
    pub access: Option<access::Config>,
    /// What its clients may ask for, beside what `limits` of the top level say.
    pub limits: RouteLimits,
    /// How answers of servers are compressed. Default: as servers send them.
    pub compression: Option<compression::Config>,
    /// The path that servers get, or that a redirect leads to, in place of the client's. Default: what the client asks for.
    pub rewrite: Option<Rewrite>,
    /// The `Host` that servers see: `keep` (what the client sent) or a fixed value. Default: as the upstream says.
    pub host: Option<HostHeader>,
    /// Changes to the fields of requests, on their way to the server.
    pub request_headers: HeaderRules,
    /// Changes to the fields of answers, whoever gives them.
    pub response_headers: HeaderRules,
    /// Times that rule its requests, in place of those of the upstream.
    pub timeouts: Timeouts,
    /// How many other servers are tried after a failed connect. Default: as the upstream says.
    pub connect_retries: Option<usize>,
    /// Pages in place of the gateway's own words. A status that is not among them has the page of the top level.
    pub error_pages: ErrorPages,
}

/// `routes[].split`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Split {
    /// What is shared out. Default `client`.
    pub by: SplitBy,
    /// The cookie by which a client is known again, and stays where it is when shares change. Default: none.
    pub cookie: Option<String>,
}

/// What the entries of a list share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// Clients: each stays on its side.
    #[default]
    Client,
    /// Requests: each goes by chance, unless its session lives somewhere.
    Request,
}

/// `routes[].mirror`: requests are copied for another upstream, whose answers nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The name of the upstream.
    pub upstream: String,
    /// How many of a hundred requests are copied. Default 100.
    #[serde(default = "all")]
    pub percent: u8,
    /// The largest body that is copied. Default 64 KiB.
    #[serde(default = "most_body", serialize_with = "exactly")]
    pub body: ByteSize,
    /// Copies that may be under way at once; there is none of a request that comes meanwhile. Default 100.
    #[serde(default = "most_open")]
    pub max_open: usize,
}

fn all() -> u8 {
    100
}

fn most_body() -> ByteSize {
    ByteSize::kib(64)
}

fn most_open() -> usize {
    100
}

/// `routes[].timeouts`: what is left out is as the upstream says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From the sent request to the head of its answer.
    #[serde(with = "humantime_serde")]
    pub first_byte: Option<Duration>,
    /// Between two reads of an answer that has begun.
    #[serde(with = "humantime_serde")]
    pub read_idle: Option<Duration>,
    /// How long a tunnel may stay silent in both directions.
    #[serde(with = "humantime_serde")]
    pub tunnel_idle: Option<Duration>,
}

/// `routes[].rewrite`: a prefix is stripped, added or both; or what a regular expression finds is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    /// The first segments of the path, which are left out. Paths that do not begin with them stay as they are.
    pub strip_prefix: Option<String>,
    /// Segments that stand before the path.
    pub add_prefix: Option<String>,
    /// What is looked for in the canonical path.
    pub regex: Option<String>,
    /// What stands in place of the first that it finds; `$1` for its first group.
    pub to: Option<String>,
}

/// `routes[].limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteLimits {
    /// How many requests a client may make in a time. Default: any number.
    pub rate: Rates,
    /// A request body, up to `limits.body` of the top level. Default: as that says.
    #[serde(serialize_with = "exactly_some")]
    pub body: Option<ByteSize>,
}

/// `routes[].match`: every key that is given has to hold, `path`, `path_exact` and `path_regex` together as one key; a list
/// holds when one of its entries does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// `example.com` or `*.example.com` (one or more labels in front); the port is not looked at.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub host: OneOrMany,
    /// Paths that begin with these segments: `/app` and `/app/` match `/app` and `/app/x`, not `/apple`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub path: OneOrMany,
    /// Paths that are exactly these.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub path_exact: OneOrMany,
    /// Paths in which one of these regular expressions finds something.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub path_regex: OneOrMany,
    /// Methods, upper case.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub method: OneOrMany,
    /// Headers: the whole value or one element of its comma-separated list, whatever the case; `*` for any value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Headers in one of whose values a regular expression finds something.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers_regex: BTreeMap<String, String>,
    /// Cookies: the exact value, or `*` for any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cookies: BTreeMap<String, String>,
    /// Parameters of the query: the exact value, or `*` for any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Networks or addresses of clients, as forwarding tells them.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub client: OneOrMany,
    /// Names that were asked for in TLS: `example.com` or `*.example.com`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub server_name: OneOrMany,
    /// Ports that were connected to.
    #[serde(skip_serializing_if = "Ports::is_empty")]
    pub port: Ports,
    /// `websocket`: only requests that open a WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// Names of listeners.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub listener: OneOrMany,
    /// An expression in CEL that has to be true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// None of these may hold.
    #[serde(skip_serializing_if = "Alternatives::is_empty")]
    pub not: Alternatives,
    /// One of these has to hold.
    #[serde(skip_serializing_if = "Alternatives::is_empty")]
    pub any: Alternatives,
}

/// One `match`, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Alternatives(pub Vec<Match>);

impl Alternatives {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Alternatives {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Alternatives;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with keys of `match`, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Alternatives, A::Error> {
                Match::deserialize(MapAccessDeserializer::new(map)).map(|one| Alternatives(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Alternatives, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Alternatives)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// One port, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Ports(pub Vec<u16>);

impl Ports {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535, or a list of them")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Ports, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(number), &self);
                u16::try_from(number).map(|port| Ports(vec![port])).map_err(wrong)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Ports, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Ports)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A protocol to switch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Upgrade {
    /// WebSocket (RFC 6455), or its draft Hixie-76.
    Websocket,
}

/// `routes[].respond`: an answer of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Respond {
    /// Default 200.
    pub status: u16,
    /// Default: `content-type: text/plain; charset=utf-8` when there is a body.
    pub headers: BTreeMap<String, String>,
    /// Default: empty.
    pub body: String,
    /// A body of so many bytes that say nothing, in place of `body`; at most 64 MiB. Default 0: `body`.
    #[serde(serialize_with = "exactly")]
    pub body_size: ByteSize,
    /// How long the answer is held back. Default 0: not at all.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
}

impl Default for Respond {
    fn default() -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            body: String::new(),
            body_size: ByteSize(0),
            delay: Duration::ZERO,
        }
    }
}

impl Respond {
    /// The same with its body written out, whatever it is given by.
    pub fn filled(&self) -> Self {
        let mut filled = self.clone();
        if let size @ 1.. = usize::try_from(self.body_size.as_u64()).unwrap_or(usize::MAX) {
            filled.body = "x".repeat(size);
        }
        filled
    }
}

/// `routes[].redirect`: what is left out is kept from the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default 308, which keeps method and body.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// A host without a port.
    pub host: Option<String>,
    /// A port; the scheme's own is not written. Default: the scheme's own when `scheme` is given, else the request's.
    pub port: Option<u16>,
    /// A path in place of the request's path and query. Default: what `rewrite` of the route makes of them.
    pub path: Option<String>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { status: 308, scheme: None, host: None, port: None, path: None }
    }
}
