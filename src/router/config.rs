//! What the operator says about routes: what to match, and where a match goes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::access;
use crate::compression;
use crate::http::config::exactly;
use crate::rate::config::Rates;

/// One entry of `routes`: the first whose `match` holds decides. Exactly one of `upstream`, `respond` and `redirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name in logs and metrics. Default: the upstream, or `respond` or `redirect`, and the route's place in the list.
    pub name: Option<String>,
    /// What has to hold; everything, where it is left out.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Carry the request to this upstream.
    pub upstream: Option<String>,
    /// Answer it here.
    pub respond: Option<Respond>,
    /// Send the client elsewhere.
    pub redirect: Option<Redirect>,
    /// Names of protocols that a request may upgrade to, as in its `Upgrade`. A WebSocket it may open anyway.
    pub upgrade: OneOrMany,
    /// Who may ask, and from where. Default: as the top level says.
    pub access: Option<access::Config>,
    /// What its clients may ask for, beside what `limits` of the top level say.
    pub limits: RouteLimits,
    /// How answers of servers are compressed. Default: as servers send them.
    pub compression: Option<compression::Config>,
}

/// `routes[].limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteLimits {
    /// How many requests a client may make in a time. Default: any number.
    pub rate: Rates,
}

/// `routes[].match`: every key that is given has to hold, `path` and `path_exact` together as one key; a list holds when
/// one of its entries does.
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
    /// Methods, upper case.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub method: OneOrMany,
    /// Headers: the whole value or one element of its comma-separated list, whatever the case; `*` for any value.
    pub headers: BTreeMap<String, String>,
    /// Parameters of the query: the exact value, or `*` for any.
    pub query: BTreeMap<String, String>,
    /// `websocket`: only requests that open a WebSocket.
    pub upgrade: Option<Upgrade>,
    /// Names of listeners.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub listener: OneOrMany,
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
    /// A path in place of the request's path and query.
    pub path: Option<String>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { status: 308, scheme: None, host: None, port: None, path: None }
    }
}

/// One text, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct OneOrMany(pub Vec<String>);

impl OneOrMany {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMany, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
