//! About how much memory strangers can take, by what a configuration allows them.

use std::collections::HashSet;
use std::fmt;

use bytesize::ByteSize;

use super::Config;
use crate::access;
use crate::compression;
use crate::listener::config::Protocol;

/// What a connection and its exchange take, beside what is counted apart: measured (docs/performance.md), and rounded up.
const CONNECTION: u64 = 6 * 1024;
/// The same over TLS.
const TLS_CONNECTION: u64 = 14 * 1024;
/// A further stream of HTTP/2.
const STREAM: u64 = 4 * 1024;
/// Streams that a client may have open on a connection.
const STREAMS: u64 = 128;
/// What small frames of a client may take beside what they carry, on a connection.
const SMALL_FRAMES: u64 = 640 * 1024;
/// A session that is remembered.
const SESSION: u64 = 94;
/// A client whose last server is remembered.
const CLIENT: u64 = 48;

/// About what strangers can take, in bytes. The kernel's memory for their sockets comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// `limits.connections`, each with a request under way and a head that is not whole.
    pub connections: u64,
    /// What all of them may have in further streams, where any listener speaks HTTP/2.
    pub streams: u64,
    /// `limits.buffers`.
    pub buffers: u64,
    /// `sessions.max` of all upstreams, and the clients that `returning` remembers.
    pub sessions: u64,
    /// `limits.rate`, here and on routes.
    pub rates: u64,
    /// `limits.compressions`, where any route compresses.
    pub compressions: u64,
    /// `access`, here and on routes: tokens and sessions that are known again, and passwords that are computed.
    pub access: u64,
    /// Copies of requests that `mirror` may have under way.
    pub copies: u64,
    /// What `files` may be sent of at once.
    pub files: u64,
}

impl Memory {
    /// What a configuration allows; `None` where it leaves connections or buffers without a limit.
    pub fn of(config: &Config) -> Option<Self> {
        let limits = &config.limits;
        let (connections, buffers) = (limits.connections as u64, limits.buffers.as_u64());
        if connections == 0 || buffers == 0 {
            return None;
        }
        let http = || config.listeners.iter().filter(|listener| listener.protocol == Protocol::Http);
        let each = if http().any(|listener| listener.tls.is_some()) { TLS_CONNECTION } else { CONNECTION };
        let head = if http().next().is_some() { limits.head.as_u64() } else { 0 };
        let streams = if http().any(|listener| listener.http2) { (STREAMS - 1) * STREAM + SMALL_FRAMES } else { 0 };
        let sessions = config.upstreams.values().filter(|upstream| upstream.has_sessions()).map(|upstream| {
            upstream.sessions.max as u64 * (SESSION + if upstream.returning().is_zero() { 0 } else { CLIENT })
        });
        let rates = limits.rate.0.iter().chain(config.routes.iter().flat_map(|route| &route.limits.rate.0));
        let mirrors = config.routes.iter().filter_map(|route| route.mirror.as_ref());
        let copies = mirrors.map(|mirror| mirror.max_open as u64 * (mirror.body.as_u64() + limits.head.as_u64()));
        let files = config.routes.iter().any(|route| route.files.is_some());
        Some(Self {
            connections: connections.saturating_mul(each + head),
            streams: connections.saturating_mul(streams),
            buffers,
            sessions: sessions.sum(),
            rates: rates.map(crate::rate::Config::memory).sum(),
            compressions: if config.routes.iter().any(|route| route.compression.is_some()) {
                (limits.compressions as u64).saturating_mul(compression::MEMORY)
            } else {
                0
            },
            access: of_access(config),
            copies: copies.sum(),
            files: if files { crate::filter::files::ROOM } else { 0 },
        })
    }

    /// All of it but further streams of HTTP/2.
    pub fn sum(&self) -> u64 {
        let Self { connections, streams: _, buffers, sessions, rates, compressions, access, copies, files } = self;
        [connections, buffers, sessions, rates, compressions, access, copies, files]
            .into_iter()
            .fold(0, |sum: u64, part| sum.saturating_add(*part))
    }
}

impl fmt::Display for Memory {
    /// Lines for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
        write!(f, "strangers can take some {}, and the kernel's memory for sockets:", size(self.sum()))?;
        let parts = [
            (self.connections, "connections with a request and a head each (limits.connections, limits.head)"),
            (self.buffers, "bytes that wait for slow clients and servers (limits.buffers)"),
            (self.sessions, "sessions that are remembered (sessions.max)"),
            (self.rates, "rates (limits.rate)"),
            (self.compressions, "answers that are compressed (limits.compressions)"),
            (self.access, "tokens and sessions that are known again, passwords that are computed (access)"),
            (self.copies, "copies of requests (mirror.max_open, mirror.body)"),
            (self.files, "files that are being sent"),
        ];
        for (bytes, what) in parts.into_iter().filter(|(bytes, _)| *bytes > 0) {
            write!(f, "\n  {:>10}  {what}", size(bytes))?;
        }
        if self.streams > 0 {
            write!(
                f,
                "\n  {:>10}  more, if every one of them spoke HTTP/2 and had all of its streams open",
                size(self.streams)
            )?;
        }
        Ok(())
    }
}

/// What says the same is built once.
fn of_access(config: &Config) -> u64 {
    let top = config.access.as_ref();
    let of_routes = config.routes.iter().filter_map(|route| route.access.as_ref()).map(|said| said.over(top));
    let all: HashSet<access::Config> = top.cloned().into_iter().chain(of_routes).collect();
    let passwords = if all.iter().any(|said| said.basic.is_some()) { access::PASSWORDS } else { 0 };
    passwords + all.iter().map(access::Config::memory).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(yaml: &str) -> Option<Memory> {
        Memory::of(&Config::read("test", yaml, &|_| None).unwrap().config)
    }

    #[test]
    fn what_strangers_can_take_follows_from_the_limits() {
        let yaml = "
listeners: [{ address: ':80', http2: false }]
limits: { connections: 1000, head: 10KiB, buffers: 1MiB, rate: { requests: 5 } }
routes: [{ match: { path: /socket.io/ }, upstream: chat }, { upstream: web, mirror: { upstream: web, body: 10KiB, max_open: 5 }, limits: { rate: { requests: 1, by: route } } }]
upstreams:
  chat: { kind: socket.io, servers: ['127.0.0.1:1'], sessions: { max: 100000, returning: 0s } }
  web: { servers: ['127.0.0.1:2'] }
";
        let said = memory(yaml).unwrap();
        assert_eq!((said.connections, said.buffers, said.streams), (1000 * 16 * 1024, 1024 * 1024, 0));
        assert_eq!((said.sessions, said.rates), (9_400_000, (1 << 20) + 16));
        assert_eq!((said.copies, said.files), (5 * 20 * 1024, 0));
        assert_eq!(said.sum(), said.connections + said.buffers + said.sessions + said.rates + said.copies);
        let text = said.to_string();
        assert!(text.starts_with("strangers can take some 26.7 MiB, and") && !text.contains("HTTP/2"), "{text}");
    }

    #[test]
    fn what_access_knows_again_counts_once_for_all_who_say_the_same() {
        let with = |top: &str, route: &str| {
            let yaml = format!(
                "listeners: [{{ address: ':80' }}]\nroutes: [{{ respond: {{}}, access: {route} }}]\naccess: {top}\n"
            );
            memory(&yaml).unwrap().access
        };
        let jwt = "{ jwt: { secret: 0123456789abcdef0123456789abcdef } }";
        let once = "{ forward_auth: { url: 'http://127.0.0.1:1/', sessions: once } }";
        assert_eq!(with("{ deny: 10.0.0.1 }", "{}"), 0);
        assert_eq!(with(jwt, "{}"), 8192 * 512);
        assert_eq!(with(jwt, "{ deny: 10.0.0.1 }"), 2 * 8192 * 512);
        assert_eq!(with("{}", once), 200_000 * 64);
        assert_eq!(with("{ basic: { users: { file: a } } }", "{ deny: 10.0.0.1 }"), 128 << 20);
    }

    #[test]
    fn where_something_has_no_limit_there_is_no_sum() {
        let with = |limits: &str| {
            format!("listeners: [{{ address: ':80' }}]\nroutes: [{{ respond: {{}} }}]\nlimits: {limits}\n")
        };
        assert!(memory(&with("{ connections: 0 }")).is_none() && memory(&with("{ buffers: 0 }")).is_none());
        assert!(memory(&with("{ connections: 10 }")).unwrap().streams > 0);
    }
}
