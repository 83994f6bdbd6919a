//! Trailers, the fields behind a chunked body: which of them may pass, and what announces them (RFC 9110 6.5).
//!
//! Readers may take them for fields of the head, or not see them at all. So what frames a message, says where it goes or
//! who asks, or has to be known before its body is read, never stands there.

use super::answers::Refusal;
use super::config::Limits;
use super::head::MOST_FIELDS;
use super::hop_by_hop::is_hop_by_hop;
use super::origin::is_origin;
use super::response::MOST_HEAD;
use crate::request::{Headers, elements};

/// Fields that stand in no trailers, beside those of one connection and those that say who asks.
const NEVER: [&str; 28] = [
    // They say how the body is read.
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "transfer-encoding",
    // Where the message goes.
    "host",
    "location",
    "max-forwards",
    // Who sends it.
    "authorization",
    "client-cert",
    "client-cert-chain",
    "cookie",
    "origin",
    "referer",
    "set-cookie",
    "www-authenticate",
    // What may be done with it, which is decided before.
    "age",
    "cache-control",
    "date",
    "expect",
    "expires",
    "pragma",
    "proxy",
    "range",
    "retry-after",
    "server",
    "vary",
    "warning",
];
/// Beginnings of such names.
const NEVER_BEGINS: [&str; 5] = ["access-control-", "if-", "proxy-", "sec-", "x-client-cert"];

/// Whether a field, given in any case, may stand in trailers. Many servers can't tell `_` from `-` in names.
pub(crate) fn may_trail(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let never = NEVER.contains(&&*name) || NEVER_BEGINS.iter().any(|begin| name.starts_with(begin));
    !never && !is_hop_by_hop(&name) && !is_origin(&name)
}

/// The names that `Trailer` announces of fields that may come, as its value; `None` where there are none.
pub(crate) fn announced(headers: Headers<'_>, passes: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    // Mostly there is no such field.
    headers.get("trailer")?;
    let may_come = |name: &&[u8]| std::str::from_utf8(name).is_ok_and(|name| may_trail(name) && passes(name));
    let names: Vec<_> = headers.all("trailer").flat_map(elements).filter(may_come).collect();
    (!names.is_empty()).then(|| names.join(&b", "[..]))
}

/// The trailers of one body, as they came.
#[derive(Debug, Default)]
pub(crate) struct Trailers {
    lines: Vec<u8>,
    /// Names that end here, separated by commas.
    nominated: Option<Box<[u8]>>,
}

impl Trailers {
    /// None yet, and none that are nominated.
    pub(super) fn without(nominated: Option<Box<[u8]>>) -> Self {
        Self { lines: Vec::new(), nominated }
    }

    /// Adds what came of their lines; false where they are longer than any head may be.
    pub(super) fn add(&mut self, lines: &[u8]) -> bool {
        self.lines.extend_from_slice(lines);
        self.lines.len() <= MOST_HEAD
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Hands out the fields that may pass, and that `passes` has nothing against; or none of them, where they are no
    /// fields, or more than a head may have.
    pub(crate) fn read(
        &self,
        limits: &Limits,
        passes: impl Fn(&str) -> bool,
        mut field: impl FnMut(&str, &[u8]),
    ) -> Result<(), Refusal> {
        within(limits, 0, self.lines.len())?;
        // The line end of the blank line may have come by itself, and not been gathered.
        let lines = [self.lines.trim_ascii_end(), b"\r\n\r\n"].concat();
        let mut room = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let fields = match httparse::parse_headers(&lines, &mut room) {
            Ok(httparse::Status::Complete((_, fields))) => fields,
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Refusal::BadRequest),
        };
        within(limits, fields.len(), 0)?;
        let nominated = self.nominated.as_deref().unwrap_or_default();
        let is_nominated = |name: &str| elements(nominated).any(|one| one.eq_ignore_ascii_case(name.as_bytes()));
        for header in fields {
            if may_trail(header.name) && !is_nominated(header.name) && passes(header.name) {
                field(header.name, header.value);
            }
        }
        Ok(())
    }

    /// Writes the chunk that ends a body, and behind it those that may pass.
    pub(crate) fn write_last_chunk(
        &self,
        out: &mut Vec<u8>,
        limits: &Limits,
        passes: impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        let at = out.len();
        out.extend_from_slice(b"0\r\n");
        let written = self.read(limits, passes, |name, value| put(out, name, value));
        match written {
            Ok(()) => out.extend_from_slice(b"\r\n"),
            Err(_) => out.truncate(at),
        }
        written
    }
}

/// Whether so many fields of so many bytes may come where a head has these limits.
pub(crate) fn within(limits: &Limits, fields: usize, bytes: usize) -> Result<(), Refusal> {
    let too_many = limits.headers != 0 && fields > limits.headers;
    if too_many || bytes as u64 > limits.head.as_u64() { Err(Refusal::HeadTooLarge) } else { Ok(()) }
}

/// Writes one field of trailers.
pub(crate) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    fn trailers(lines: &str) -> Trailers {
        let mut trailers = Trailers::default();
        assert!(trailers.add(lines.as_bytes()));
        trailers
    }

    fn written(lines: &str, limits: &Limits) -> Result<String, Refusal> {
        let mut out = Vec::new();
        trailers(lines).write_last_chunk(&mut out, limits, |name| name != "X-Removed")?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_frames_or_routes_a_message_or_says_who_asks_stands_in_no_trailers() {
        for name in [
            "Content-Length",
            "content_length",
            "Transfer-Encoding",
            "Host",
            "Cookie",
            "Set-Cookie",
            "Authorization",
            "Proxy",
            "Proxy-Authorization",
            "X-Forwarded-For",
            "X_Forwarded_Proto",
            "Forwarded",
            "X-Real-IP",
            "Connection",
            "TE",
            "Trailer",
            "Upgrade",
            "If-Match",
            "Sec-WebSocket-Key",
            "Access-Control-Allow-Origin",
        ] {
            assert!(!may_trail(name), "{name}");
        }
        for name in ["grpc-status", "Server-Timing", "Digest", "ETag", "X-Checksum", "Authentication-Info"] {
            assert!(may_trail(name), "{name}");
        }
    }

    #[test]
    fn only_what_may_come_is_announced() {
        let announced = |values: &[&str]| {
            let fields: Vec<_> =
                values.iter().map(|value| httparse::Header { name: "Trailer", value: value.as_bytes() }).collect();
            announced(Headers::Fields(&fields), |name| name != "X-Removed")
                .map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(announced(&["X-Sum, Host", "X-Removed,grpc-status"]).as_deref(), Some("X-Sum, grpc-status"));
        assert_eq!((announced(&["Host"]), announced(&[])), (None, None));
    }

    #[test]
    fn trailers_are_written_behind_the_last_chunk_or_refused_as_a_head_would_be() {
        let limits = Limits { head: ByteSize::b(64), headers: 3, ..Limits::default() };
        let sent = "X-Sum:1\r\nHost: evil\r\nX-Removed: 1\r\n\r";
        assert_eq!(written(sent, &limits).as_deref(), Ok("0\r\nX-Sum: 1\r\n\r\n"));
        assert_eq!(written("Host: evil\r\n", &limits).as_deref(), Ok("0\r\n\r\n"));
        assert_eq!(written("no colon\r\n", &limits), Err(Refusal::BadRequest));
        assert_eq!(written(" folded: 1\r\n", &limits), Err(Refusal::BadRequest));
        assert_eq!(written("a: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n", &limits), Err(Refusal::HeadTooLarge));
        assert_eq!(written(&format!("a: {}\r\n", "x".repeat(64)), &limits), Err(Refusal::HeadTooLarge));
        assert!(!Trailers::default().add(&[b'x'; MOST_HEAD + 1]), "nor is more gathered than any head may be");
    }
}
