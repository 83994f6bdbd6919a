//! One HTTP/1 request head, checked and read: what the engine may see of it, and what a decision looks at.

use std::mem::MaybeUninit;

use bytes::BytesMut;

use super::Refusal;
use super::framing::{Body, Malformed, request_body};
use super::upgrade::{Opening, opening};
use super::write::HeadWriter;
use crate::request::Headers;

/// Most fields that can be read, whatever `limits.headers` says; Pingora's own limit.
pub(crate) const MOST_FIELDS: usize = 256;

/// Visible characters that are no part of any URL (RFC 3986 2).
const NEVER_IN_URLS: [bool; 256] = {
    let mut never = [false; 256];
    never[b'"' as usize] = true;
    never[b'<' as usize] = true;
    never[b'>' as usize] = true;
    never[b'`' as usize] = true;
    never
};

/// What a request is, after the checks that every request has to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An exchange for the engine.
    Exchange(Body),
    /// The opening of a WebSocket.
    Upgrade(Opening),
}

/// A head, parsed where it lies.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    /// As sent: a path and query, `*`, or a whole URL as long as it is not brought [`Head::to_plain_form`].
    target: &'a str,
    /// The authority and the rest of it, where it is a whole URL.
    url: Option<(&'a str, &'a str)>,
    /// The first `Host`.
    host: Option<&'a [u8]>,
    pub(crate) minor_version: u8,
    pub(crate) fields: &'a [httparse::Header<'a>],
}

/// Room for the fields of one head; nothing is written there before there are any.
pub(crate) type Fields<'a> = [MaybeUninit<httparse::Header<'a>>; MOST_FIELDS];

/// Room for as many fields as can be read.
pub(crate) fn room<'a>() -> Fields<'a> {
    [const { MaybeUninit::uninit() }; MOST_FIELDS]
}

/// Parses a head into `fields`, which the result borrows.
pub(crate) fn parse<'a>(bytes: &'a [u8], fields: &'a mut Fields<'a>, most_fields: usize) -> Result<Head<'a>, Refusal> {
    parse_first(bytes, fields, most_fields)?.map(|(head, _)| head).ok_or(Refusal::BadRequest)
}

/// Parses the head that these bytes begin with, and says how long it is; `None` where its end has not come.
pub(crate) fn parse_first<'a>(
    bytes: &'a [u8],
    fields: &'a mut Fields<'a>,
    most_fields: usize,
) -> Result<Option<(Head<'a>, usize)>, Refusal> {
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::BadRequest),
    };
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::BadRequest);
    };
    if most_fields != 0 && request.headers.len() > most_fields {
        return Err(Refusal::HeadTooLarge);
    }
    let fields: &[_] = request.headers;
    let host = fields.iter().find(|field| field.name.eq_ignore_ascii_case("host")).map(|host| host.value);
    Ok(Some((Head { method, target, url: split_url(target), host, minor_version, fields }, length)))
}

impl<'a> Head<'a> {
    /// What the request is; refuses what could be read in two ways, and what the limits do not allow.
    pub(crate) fn kind(&self, most_body: u64) -> Result<Kind, Refusal> {
        if self.method == "CONNECT" {
            return Err(Refusal::Method);
        }
        let path = self.path_and_query();
        let whole_server = path == "*" && self.method == "OPTIONS";
        if !(whole_server || path.starts_with(['/', '?'])) || path.contains('#') {
            return Err(Refusal::BadRequest);
        }
        let body = request_body(self.minor_version, self.fields).map_err(Refusal::Malformed)?;
        let of_url = self.url.map(|(authority, _)| authority.as_bytes());
        if of_url.is_some_and(|url| url.is_empty() || !is_authority(url))
            || self.host.is_some_and(|host| !is_authority(host))
        {
            return Err(Refusal::Malformed(Malformed::Host));
        }
        if let Body::Length(length) = body
            && most_body != 0
            && length > most_body
        {
            return Err(Refusal::BodyTooLarge);
        }
        let headers = Headers::Fields(self.fields);
        Ok(match opening(self.method, self.minor_version, &headers) {
            Some(opening) => Kind::Upgrade(opening),
            None => Kind::Exchange(body),
        })
    }

    /// Whether the client would send another request on the same connection (RFC 9112 9.3).
    pub(crate) fn is_kept_alive(&self) -> bool {
        let headers = Headers::Fields(self.fields);
        self.minor_version == 1 && !headers.lists("connection", "close")
    }

    /// The host asked for, as sent: of the URL if the target is one, else of `Host` (RFC 9112 3.2.2).
    pub(crate) fn authority(&self) -> Option<&'a str> {
        self.url.map(|(authority, _)| authority).or_else(|| std::str::from_utf8(self.host?).ok())
    }

    /// The path and query.
    pub(crate) fn path_and_query(&self) -> &'a str {
        self.url.map_or(self.target, |(_, rest)| if rest.is_empty() { "/" } else { rest })
    }

    /// The head as engines and servers read it, where it differs from what was sent: a whole URL becomes a path, and its
    /// host takes the place of `Host` (RFC 9112 3.2.2); the few characters that no URL may hold, and that some readers
    /// refuse, are escaped, as browsers do it.
    pub(crate) fn to_plain_form(&self) -> Option<BytesMut> {
        let target = self.url.map_or(self.target, |(_, rest)| rest);
        if self.url.is_none() && !target.bytes().any(|byte| NEVER_IN_URLS[usize::from(byte)]) {
            return None;
        }
        let mut escaped = String::with_capacity(target.len() + 16);
        if !target.starts_with('/') && target != "*" {
            escaped.push('/');
        }
        for character in target.chars() {
            match u8::try_from(character) {
                Ok(byte) if NEVER_IN_URLS[usize::from(byte)] => escaped.push_str(&format!("%{byte:02X}")),
                _ => escaped.push(character),
            }
        }
        let mut head = HeadWriter::request(self.method, &escaped, self.minor_version);
        if let Some((authority, _)) = self.url {
            head.field("Host", authority);
        }
        for field in self.fields.iter().filter(|field| self.url.is_none() || !field.name.eq_ignore_ascii_case("host")) {
            head.field(field.name, field.value);
        }
        Some(BytesMut::from(&head.end()[..]))
    }
}

/// Whether a `Host` can be one: what could end it, or name a user, is none of it, and what stands behind its colon is a
/// port (RFC 9112 3.2, RFC 3986 3.2). Who reads another port or name there than somebody else reaches another server.
pub(crate) fn is_authority(host: &[u8]) -> bool {
    if !host.iter().all(|&byte| IN_AUTHORITY[usize::from(byte)]) {
        return false;
    }
    let behind = match host {
        [b'[', rest @ ..] => rest.iter().position(|&byte| byte == b']').map(|end| &rest[end + 1..]),
        _ => Some(host.iter().position(|&byte| byte == b':').map_or(&b""[..], |colon| &host[colon..])),
    };
    match behind {
        Some([]) => true,
        Some([b':', port @ ..]) => port.iter().all(u8::is_ascii_digit),
        Some(_) | None => false,
    }
}

/// The bytes that an authority may be made of.
const IN_AUTHORITY: [bool; 256] = {
    let never = b"@/\\?#,;<>\"`{|}^";
    let mut allowed = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        let mut at = 0;
        while at < never.len() && never[at] != byte {
            at += 1;
        }
        allowed[byte as usize] = at == never.len();
        byte += 1;
    }
    allowed
};

/// The authority and the rest of an absolute URL.
fn split_url(target: &str) -> Option<(&str, &str)> {
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(head: &str) -> Result<Kind, Refusal> {
        let bytes = BytesMut::from(head);
        parse(&bytes, &mut room(), 4)?.kind(100)
    }

    #[test]
    fn requests_are_told_from_upgrades_and_from_nonsense() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Kind::Exchange(Body::None))),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n", Ok(Kind::Exchange(Body::Length(100)))),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                Ok(Kind::Upgrade(Opening::Hybi)),
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
                Ok(Kind::Exchange(Body::None)),
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", Err(Refusal::BodyTooLarge)),
            ("GET / HTTP/1.1\r\n\r\n", Err(Refusal::Malformed(Malformed::Host))),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Refusal::Method)),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Err(Refusal::BadRequest)),
            ("nonsense\r\n\r\n", Err(Refusal::BadRequest)),
            ("GET / HTTP/1.1\r\nHost: a\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", Err(Refusal::HeadTooLarge)),
        ] {
            assert_eq!(kind(head), expected, "{head}");
        }
    }

    #[test]
    fn a_host_has_one_name_and_at_most_one_port() {
        for host in ["", "a", "a.example:8080", "a:", "[::1]", "[::1]:80", "a_b.example.", "a%00", "a!$&'()*+=~"] {
            assert!(is_authority(host.as_bytes()), "{host}");
        }
        for host in
            ["a:x", "a:80:90", "a:8080x", "::1", "[::1", "[::1]80", "[::1]:x", "[::1]:1:1", "u@a", "a/b", "a b", "a,b"]
        {
            assert!(!is_authority(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_whole_url_says_host_and_path() {
        let bytes = BytesMut::from("GET http://Real:81?x HTTP/1.1\r\nHost: other\r\n\r\n");
        let mut fields = room();
        let head = parse(&bytes, &mut fields, 4).unwrap();
        assert_eq!(head.authority(), Some("Real:81"));
        let expected = "GET /?x HTTP/1.1\r\nHost: Real:81\r\n\r\n";
        assert_eq!(head.to_plain_form().as_deref(), Some(expected.as_bytes()));
        assert_eq!(split_url("https://a/b?c://d"), Some(("a", "/b?c://d")));
        assert_eq!(split_url("/a?b=http://c"), None);
    }
}
