//! What the operator says about HTTP towards clients: times, sizes, and what servers are told about the client.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rate::config::Rates;

/// `timeouts`: times that rule a client's connection; `0s` turns one off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For a whole request head, from the first byte to the blank line (from the accept, for the first one). Default 10 s.
    #[serde(with = "humantime_serde")]
    pub head: Duration,
    /// Idle between two requests of one connection. Default 75 s.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Between two reads of a request body. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub body: Duration,
    /// For a whole request body, as long as its answer has not begun. Default 0 s: large uploads take long.
    #[serde(with = "humantime_serde")]
    pub request: Duration,
    /// How long a client may take nothing of what waits for it. Default 2 min: a video may be paused for a minute, and
    /// at 2 KiB/s it may take so long until the kernel says that some of it has gone.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            body: Duration::from_secs(30),
            request: Duration::ZERO,
            write: Duration::from_secs(120),
        }
    }
}

/// `limits`: what the gateway bears; for connections and bodies, 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of clients open at once, over all listeners. Default 200,000.
    pub connections: usize,
    /// Connections open at once from one address (IPv6: one /64). Default 0.
    pub connections_per_address: usize,
    /// Requests and streams under way at once from one address, WebSockets included. Default 0; more are answered 429.
    pub requests_per_address: usize,
    /// How many requests a client may make in a time. Default: any number; more are answered 429.
    pub rate: Rates,
    /// Path and query of a request. Default 0: as long as a head may be; more is answered 414.
    #[serde(serialize_with = "exactly")]
    pub uri: ByteSize,
    /// A request head, 1 KiB or more. Default 16 KiB; more is answered 431.
    #[serde(serialize_with = "exactly")]
    pub head: ByteSize,
    /// Header fields in a request head, 1 to 256. Default 100; more is answered 431.
    pub headers: usize,
    /// A request body. Default 100 MiB, the most that Socket.IO 2 sends; more is answered 413.
    #[serde(serialize_with = "exactly")]
    pub body: ByteSize,
    /// The least that a request body has to bring in a second, on average, until its answer begins; counted from
    /// `timeouts.body` on, or from 3 s on where somebody waits for its place on a server. Default 500 bytes, as Apache
    /// has it; less is answered 408.
    #[serde(serialize_with = "exactly")]
    pub body_rate: ByteSize,
    /// The least that a client has to take of an answer in a second, on average, while there is something to take; counted
    /// from `timeouts.write` on. Default 0: none; who takes less is cut. Not for sockets, polls and event streams.
    #[serde(serialize_with = "exactly")]
    pub answer_rate: ByteSize,
    /// All bytes that wait until slow clients and servers take them. Default 512 MiB; beyond that whoever has
    /// held most of them for longest, and taken nothing, is cut.
    #[serde(serialize_with = "exactly")]
    pub buffers: ByteSize,
    /// Answers that are compressed at once, each with up to 4 MiB of memory for it. Default 128; more go as they are.
    pub compressions: usize,
}

/// How long a body whose place is wanted may take to come up to [`Limits::body_rate`].
const WANTED: Duration = Duration::from_secs(3);

impl Timeouts {
    /// How long after its beginning a request body has to have ended, or brought more than so many bytes; `None` for ever.
    /// It has less time where its place on a server is `wanted`.
    pub(crate) fn body_due(&self, limits: &Limits, bytes: u64, wanted: bool) -> Option<Duration> {
        let seconds = bytes.checked_div(limits.body_rate.as_u64());
        let grace = if self.body.is_zero() { Self::default().body } else { self.body };
        let grace = if wanted { grace.min(WANTED) } else { grace };
        let by_rate = seconds.map(|seconds| grace + Duration::from_secs(seconds));
        let whole = (!self.request.is_zero()).then_some(self.request);
        by_rate.into_iter().chain(whole).min()
    }

    /// How long after it began to wait for its client an answer has to have brought more than so many bytes; `None` for ever.
    pub(crate) fn answer_due(&self, limits: &Limits, bytes: u64) -> Option<Duration> {
        let grace = if self.write.is_zero() { Self::default().write } else { self.write };
        Some(grace + Duration::from_secs(bytes.checked_div(limits.answer_rate.as_u64())?))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 200_000,
            connections_per_address: 0,
            requests_per_address: 0,
            rate: Rates::default(),
            uri: ByteSize::b(0),
            head: ByteSize::kib(16),
            headers: 100,
            body: ByteSize::mib(100),
            body_rate: ByteSize::b(500),
            answer_rate: ByteSize::b(0),
            buffers: ByteSize::mib(512),
            compressions: 128,
        }
    }
}

/// `forwarding`: what servers are told about the client, on upgrades too.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarding {
    /// Networks of proxies whose `X-Forwarded-For` is kept and added to; that of others is replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// The fields about the client that these proxies set themselves, whatever their visitors send; no other one is taken
    /// from them. Default `X-Forwarded-Proto`.
    pub believe: Vec<String>,
    /// Whether fields with `_` in their names pass, which many servers can't tell from those with `-`. Default false.
    pub underscores: bool,
    /// `X-Forwarded-For`. Default true.
    pub x_forwarded_for: bool,
    /// `X-Forwarded-Proto`. Default true.
    pub x_forwarded_proto: bool,
    /// `X-Forwarded-Host`. Default true.
    pub x_forwarded_host: bool,
    /// `X-Forwarded-Port`. Default true.
    pub x_forwarded_port: bool,
    /// `X-Real-IP`. Default true.
    pub x_real_ip: bool,
    /// `Forwarded` (RFC 7239). Default false.
    pub forwarded: bool,
    /// The header that names each request; one from a trusted proxy is kept. Empty for none. Default `X-Request-Id`.
    pub request_id: String,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            believe: vec!["X-Forwarded-Proto".to_owned()],
            underscores: false,
            x_forwarded_for: true,
            x_forwarded_proto: true,
            x_forwarded_host: true,
            x_forwarded_port: true,
            x_real_ip: true,
            forwarded: false,
            request_id: "X-Request-Id".to_owned(),
        }
    }
}

/// `error_pages`: what stands in the answers by which the gateway refuses requests, by status (`404`) or class (`5xx`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct ErrorPages(pub BTreeMap<String, ErrorPage>);

/// One of them: exactly one of `file` and `body`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorPage {
    /// A file, read when the configuration is loaded; at most 1 MiB.
    pub file: Option<PathBuf>,
    /// The page itself.
    pub body: Option<String>,
    /// Default: by the ending of the file (`.html`, `.json`, `.txt`), else `text/html; charset=utf-8`.
    pub content_type: Option<String>,
}

/// The same as [`exactly`], where there is a size.
pub(crate) fn exactly_some<S: Serializer>(size: &Option<ByteSize>, serializer: S) -> Result<S::Ok, S::Error> {
    size.map(|size| size.as_u64()).serialize(serializer)
}

/// In bytes: the usual form of a size is rounded, and would read as another one.
pub(crate) fn exactly<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(size.as_u64())
}

/// The `Host` that servers see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
pub enum HostHeader {
    /// What the client sent.
    #[default]
    Keep,
    /// Always this.
    Set(String),
}

impl From<String> for HostHeader {
    fn from(text: String) -> Self {
        if text == "keep" { Self::Keep } else { Self::Set(text) }
    }
}

impl From<HostHeader> for String {
    fn from(host: HostHeader) -> Self {
        match host {
            HostHeader::Keep => "keep".to_owned(),
            HostHeader::Set(value) => value,
        }
    }
}

/// The name of a type that is a text or something longer: it asks the reader of the configuration for the text as it was
/// written, where that looks like a number.
pub(crate) const TEXT_OR_MORE: &str = "text or more";

/// One text, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct OneOrMany(pub Vec<String>);

impl OneOrMany {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
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
