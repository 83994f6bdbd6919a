//! A request: what is kept of its head while its answer is on the way, and the head that its server gets.

use std::ops::Range;

use crate::exchange::{Exchange, RequestHead};
use crate::http::framing::Body;
use crate::http::head::{self, Head};
use crate::http::response::is_of_connection;
use crate::http::trailers::announced;
use crate::http::write::as_sent;
use crate::request::Headers;

/// What is kept of a request that is carried.
#[derive(Debug)]
pub(super) struct Asked {
    /// The head in its plain form.
    pub(super) head: Box<[u8]>,
    method: Range<u32>,
    target: Range<u32>,
    authority: Option<Range<u32>>,
    pub(super) body: Body,
    /// Whether the client speaks HTTP/1.1.
    pub(super) is_new: bool,
    /// Whether the client would send another request on its connection (RFC 9112 9.3).
    pub(super) is_kept_alive: bool,
    pub(super) is_head: bool,
    /// Whether asking twice does no more than asking once (RFC 9110 9.2.2).
    pub(super) is_idempotent: bool,
    /// Whether the body comes only when the server wants it (RFC 9110 10.1.1).
    pub(super) expects: bool,
    /// Whether it logs its connection in: what follows on that is taken for the same user's.
    pub(super) logs_connection_in: bool,
}

impl Asked {
    /// Keeps what matters of a head that lies in `bytes`.
    pub(super) fn new(head: &Head<'_>, request: &RequestHead<'_>, bytes: &[u8], body: Body) -> Self {
        let headers = Headers::Fields(head.fields);
        let within = |part: &str| {
            let start = part.as_ptr().addr() - bytes.as_ptr().addr();
            range(start..start + part.len())
        };
        let is_new = head.minor_version == 1;
        let closes = headers.lists("connection", "close");
        Self {
            head: bytes.into(),
            method: within(request.method),
            target: within(request.target),
            authority: request.authority.map(within),
            body,
            is_new,
            is_kept_alive: !closes && (is_new || headers.lists("connection", "keep-alive")),
            is_head: head.method == "HEAD",
            is_idempotent: matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"),
            expects: headers.lists("expect", "100-continue"),
            logs_connection_in: headers.get("authorization").is_some_and(is_of_connection)
                || headers.get("proxy-authorization").is_some_and(is_of_connection),
        }
    }

    /// What was asked for, without its fields.
    pub(super) fn line(&self) -> RequestHead<'_> {
        RequestHead {
            method: self.text(&self.method),
            target: self.text(&self.target),
            authority: self.authority.as_ref().map(|authority| self.text(authority)),
            ..RequestHead::NONE
        }
    }

    /// Whether the client says that it takes trailers (RFC 9110 10.1.4).
    pub(super) fn takes_trailers(&self) -> bool {
        let mut fields = head::room();
        let head = head::parse(&self.head, &mut fields, 0);
        head.is_ok_and(|head| Headers::Fields(head.fields).lists("te", "trailers"))
    }

    /// The head as its server gets it, once more.
    pub(super) fn to_server_again(&self, exchange: &Exchange) -> Vec<u8> {
        let mut fields = head::room();
        // It has been read before: nothing of it can be wrong.
        head::parse(&self.head, &mut fields, 0).map_or_else(
            |_| Vec::new(),
            |head| to_server(exchange, &head, &RequestHead::plain(&head), &self.head, self.body),
        )
    }

    fn text(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(&self.head[range.start as usize..range.end as usize]).unwrap_or_default()
    }
}

/// A head is bounded far below what this holds.
fn range(range: Range<usize>) -> Range<u32> {
    u32::try_from(range.start).unwrap_or_default()..u32::try_from(range.end).unwrap_or_default()
}

/// Room for what is added to a head on its way.
const ADDED: usize = 320;

/// The head as the server gets it: the client's fields in their order and spelling, but for those of the connection and
/// those that say who the client is. Without `Host` where there is none to tell: see [`add_host`].
pub(super) fn to_server(
    exchange: &Exchange,
    head: &Head<'_>,
    request: &RequestHead<'_>,
    bytes: &[u8],
    body: Body,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + ADDED);
    for part in [request.method, " ", exchange.target(request), " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let fields = exchange.to_server(request);
    let mut host = exchange.host(request);
    if let Some(host) = host.take_if(|_| !head.fields.iter().any(|field| is_host(field.name))) {
        put(&mut out, "Host", host);
    }
    let mut has_cookie = false;
    for field in head.fields {
        let name = field.name;
        if is_host(name) {
            put(&mut out, "Host", host.unwrap_or(field.value));
        } else if fields.pass(name) {
            // Servers expect one field of cookies, as browsers send it (RFC 6265 5.4).
            if is_cookie(name) && std::mem::replace(&mut has_cookie, true) {
                join_cookie(&mut out, field.value);
            } else if let Some(line) = as_sent(bytes, field) {
                out.extend_from_slice(line);
            } else {
                put(&mut out, name, field.value);
            }
        }
    }
    if body == Body::Chunked
        && let Some(names) = announced(request.headers, |name| fields.pass(name))
    {
        put(&mut out, "Trailer", &names);
    }
    fields.add(|name, value| put(&mut out, name, value));
    out.extend_from_slice(b"\r\n");
    out
}

/// Adds a host for servers that insist on one, to the request of a client that has told none (HTTP/1.0).
pub(super) fn add_host(out: &mut Vec<u8>, host: &str) {
    if let Some(end) = out.iter().position(|&byte| byte == b'\n') {
        out.splice(end + 1..end + 1, format!("Host: {host}\r\n").into_bytes());
    }
}

/// Adds one more to the cookies of a head that has some.
fn join_cookie(out: &mut Vec<u8>, cookie: &[u8]) {
    let is_field = |line: &[u8]| line.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"\ncookie:"));
    if let Some(field) = (0..out.len()).find(|&at| is_field(&out[at..]))
        && let Some(length) = out[field..].iter().position(|&byte| byte == b'\r')
    {
        let end = field + length;
        out.splice(end..end, [b"; ", cookie].concat());
    }
}

fn is_cookie(name: &str) -> bool {
    name.eq_ignore_ascii_case("cookie")
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}

fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{parse, room};

    fn asked(head: &str) -> Asked {
        let mut fields = room();
        let parsed = parse(head.as_bytes(), &mut fields, 0).unwrap();
        Asked::new(&parsed, &RequestHead::plain(&parsed), head.as_bytes(), Body::None)
    }

    #[test]
    fn what_is_kept_tells_the_request_again() {
        let asked = asked("PUT /a?b HTTP/1.1\r\nX: y\r\nHost: A.example:81\r\nExpect: 100-continue\r\n\r\n");
        let line = asked.line();
        assert_eq!((line.method, line.target, line.authority), ("PUT", "/a?b", Some("A.example:81")));
        assert!(asked.is_new && asked.is_kept_alive && asked.is_idempotent && asked.expects && !asked.is_head);
    }

    #[test]
    fn who_wants_to_keep_a_connection_says_so_by_version() {
        let kept = |version: &str, connection: &str| {
            asked(&format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n")).is_kept_alive
        };
        assert!(kept("1.1", "x") && !kept("1.1", "Close") && !kept("1.0", "x") && kept("1.0", "Keep-Alive"));
    }

    #[test]
    fn cookies_become_one_field() {
        let mut out = b"GET / HTTP/1.1\r\nX-Cookie: no\r\nCOOKIE: a=1\r\nX: y\r\n".to_vec();
        join_cookie(&mut out, b"b=2");
        join_cookie(&mut out, b"c=3");
        let expected = "GET / HTTP/1.1\r\nX-Cookie: no\r\nCOOKIE: a=1; b=2; c=3\r\nX: y\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_host_is_added_behind_the_first_line() {
        let mut out = b"GET / HTTP/1.1\r\nX: y\r\n\r\n".to_vec();
        add_host(&mut out, "a:1");
        assert_eq!(String::from_utf8(out).unwrap(), "GET / HTTP/1.1\r\nHost: a:1\r\nX: y\r\n\r\n");
    }
}
