//! The head of a server's answer: read strictly, framed in one way, and written as the client gets it.

use httparse::{Header, ParserConfig, Status};

use super::edits::HeaderEdits;
use super::framing::{Body, Malformed, response_body};
use super::head::Fields;
use super::hop_by_hop::{Nominated, is_hop_by_hop};
use super::trailers::announced;
use super::write::as_sent;
use crate::request::Headers;
use crate::text::Text;

/// The longest head that an answer may have.
pub(crate) const MOST_HEAD: usize = 64 * 1024;

/// A head, parsed where it lies.
pub(crate) struct Head<'a> {
    pub(crate) status: u16,
    reason: &'a str,
    minor_version: u8,
    pub(crate) fields: &'a [Header<'a>],
    /// Where it lies.
    bytes: &'a [u8],
    /// How many bytes it takes.
    pub(crate) length: usize,
}

/// What the client's side of an answer is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Towards {
    /// Whether the client speaks HTTP/1.1, and so knows chunks.
    pub(crate) knows_chunks: bool,
    /// Whether the connection is kept for another request.
    pub(crate) keep: bool,
}

/// What came is no head of an answer.
#[derive(Debug)]
pub(crate) struct NoHead;

/// Parses the head that these bytes begin with, into `fields`; `None` where its end has not come.
pub(crate) fn parse<'a>(bytes: &'a [u8], fields: &'a mut Fields<'a>) -> Result<Option<Head<'a>>, NoHead> {
    let mut response = httparse::Response::new(&mut []);
    let mut config = ParserConfig::default();
    // Old servers do both; neither goes on to the client.
    config.allow_spaces_after_header_name_in_responses(true);
    config.allow_obsolete_multiline_headers_in_responses(true);
    match config.parse_response_with_uninit_headers(&mut response, bytes, fields) {
        Ok(Status::Complete(length)) => match (response.code, response.version) {
            (Some(status @ 100..=999), Some(minor_version)) => {
                let reason = response.reason.unwrap_or("");
                Ok(Some(Head { status, reason, minor_version, fields: response.headers, bytes, length }))
            }
            _ => Err(NoHead),
        },
        Ok(Status::Partial) if bytes.len() < MOST_HEAD => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(NoHead),
    }
}

impl Head<'_> {
    /// Whether another answer follows, which is the one that is meant.
    pub(crate) fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// How the body is delimited; `to_head` where the request was a `HEAD`.
    pub(crate) fn body(&self, to_head: bool) -> Result<Body, Malformed> {
        let body = response_body(self.status, self.fields)?;
        Ok(if to_head { Body::None } else { body })
    }

    /// Whether the server keeps its connection for another request, as far as it says.
    pub(crate) fn keeps_connection(&self) -> bool {
        let headers = Headers::Fields(self.fields);
        if headers.lists("connection", "close") {
            return false;
        }
        // Where somebody else's proxy sits in between, chunks in HTTP/1.0 are not to be relied on.
        self.minor_version == 1
            || headers.lists("connection", "keep-alive") && !headers.lists("transfer-encoding", "chunked")
    }

    /// Whether the connection belongs to one user from here on: these schemes log the connection in, not the request.
    pub(crate) fn logs_connection_in(&self) -> bool {
        let headers = Headers::Fields(self.fields);
        matches!(self.status, 401 | 407)
            && ["www-authenticate", "proxy-authenticate"].iter().any(|name| headers.all(name).any(is_of_connection))
    }

    /// Writes an interim answer behind `out`.
    pub(crate) fn write_interim(&self, out: &mut Vec<u8>) {
        self.write_first_line(out);
        self.write_fields(out, &HeaderEdits::default());
        out.extend_from_slice(b"\r\n");
    }

    /// Writes it behind `out`, with these changes, for a client that gets this body.
    pub(crate) fn write(&self, out: &mut Vec<u8>, edits: &HeaderEdits, body: Body, towards: Towards) {
        self.write_first_line(out);
        let without = body == Body::None;
        let length = self.length_told(body);
        self.write_fields(out, edits);
        if let Some(length) = length {
            put(out, b"Content-Length", Text::number(length).as_bytes());
        } else if !without && towards.knows_chunks {
            put(out, b"Transfer-Encoding", b"chunked");
            if let Some(names) = self.announced(edits, body) {
                put(out, b"Trailer", &names);
            }
        }
        match (towards.keep, towards.knows_chunks) {
            (false, _) => put(out, b"Connection", b"close"),
            (true, false) => put(out, b"Connection", b"keep-alive"),
            (true, true) => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The length that is told to a client that gets this body: 304 and answers to HEAD say that of what they don't have.
    /// In a 304, said twice or beside chunks it says nothing.
    pub(crate) fn length_told(&self, body: Body) -> Option<u64> {
        match body {
            Body::None if self.status == 204 => None,
            Body::None => match response_body(200, self.fields) {
                Ok(Body::Length(length)) => Some(length),
                _ => None,
            },
            Body::Length(length) => Some(length),
            Body::Chunked | Body::UntilClose => None,
        }
    }

    /// The names of the trailers that it announces and that may come behind this body, which has to be in chunks.
    pub(crate) fn announced(&self, edits: &HeaderEdits, body: Body) -> Option<Vec<u8>> {
        let headers = Headers::Fields(self.fields);
        if body == Body::Chunked && edits.keeps("trailer") {
            let nominated = Nominated::by(headers);
            announced(headers, |name| edits.keeps(name) && !nominated.contains(name))
        } else {
            None
        }
    }

    fn write_first_line(&self, out: &mut Vec<u8>) {
        if let Some(line) = self.first_line_as_sent() {
            return out.extend_from_slice(line);
        }
        // The gateway speaks for itself, whatever its server speaks (RFC 9110 2.5).
        for part in [b"HTTP/1.1 ", Text::number(self.status.into()).as_bytes(), b" ", self.reason.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }

    /// The first line, where it was sent as it would be written.
    fn first_line_as_sent(&self) -> Option<&[u8]> {
        let (before, reason) = self.bytes.split_at_checked(b"HTTP/1.1 200 ".len())?;
        let same = before.starts_with(b"HTTP/1.1 ") && std::ptr::eq(reason.as_ptr(), self.reason.as_ptr());
        let line = self.bytes.get(..before.len() + self.reason.len() + 2)?;
        (same && line.ends_with(b"\r\n")).then_some(line)
    }

    /// Writes the fields that go on as they are, and those that come in.
    fn write_fields(&self, out: &mut Vec<u8>, edits: &HeaderEdits) {
        let nominated = Nominated::by(Headers::Fields(self.fields));
        for field in self.fields {
            let name = field.name;
            if is_framing(name) || is_hop_by_hop(name) || nominated.contains(name) || !edits.keeps(name) {
                continue;
            }
            let folded = field.value.contains(&b'\n');
            if let Some(line) = as_sent(self.bytes, field).filter(|_| !folded) {
                out.extend_from_slice(line);
                continue;
            }
            let at = out.len();
            put(out, name.as_bytes(), field.value);
            // A value over several lines becomes one (RFC 9112 5.2).
            if folded {
                let value = at + name.len() + 2..out.len() - 2;
                out[value].iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
            }
        }
        for (name, value) in edits.added() {
            put(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
}

/// Whether a challenge, or what answers it, is of a scheme that logs a connection in (RFC 4559).
pub(crate) fn is_of_connection(credentials: &[u8]) -> bool {
    [b"ntlm".as_slice(), b"negotiate"]
        .iter()
        .any(|scheme| credentials.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

fn is_framing(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
}

fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::http::head::room;

    const NEW: Towards = Towards { knows_chunks: true, keep: true };
    const OLD: Towards = Towards { knows_chunks: false, keep: false };

    /// The head as a client gets it, and how its body is delimited; `None` where it is no answer.
    fn passed(head: &str, to_head: bool, towards: Towards) -> Option<(String, Body)> {
        let mut fields = room();
        let head = parse(head.as_bytes(), &mut fields).ok()??;
        let body = head.body(to_head).ok()?;
        let mut out = Vec::new();
        head.write(&mut out, &HeaderEdits::default(), body, towards);
        Some((String::from_utf8(out).unwrap(), body))
    }

    #[test]
    fn each_answer_tells_its_end_in_one_way() {
        for (fields, to_head, towards, told, body) in [
            ("Content-Length: 5\r\n", false, NEW, "Content-Length: 5\r\n", Body::Length(5)),
            ("X: y\r\n", false, NEW, "X: y\r\nTransfer-Encoding: chunked\r\n", Body::UntilClose),
            ("", false, OLD, "Connection: close\r\n", Body::UntilClose),
            ("transfer-encoding: CHUNKED\r\n", false, NEW, "Transfer-Encoding: chunked\r\n", Body::Chunked),
            ("transfer-encoding: chunked\r\n", false, OLD, "Connection: close\r\n", Body::Chunked),
            ("Content-Length: 5\r\n", true, NEW, "Content-Length: 5\r\n", Body::None),
            ("Transfer-Encoding: chunked\r\n", true, NEW, "", Body::None),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let expected = (format!("HTTP/1.1 200 OK\r\n{told}\r\n"), body);
            assert_eq!(passed(&head, to_head, towards), Some(expected), "{fields}");
        }
        let without = |head: &str| passed(head, false, NEW).unwrap();
        assert_eq!(
            without("HTTP/1.0 204 No\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            ("HTTP/1.1 204 No\r\n\r\n".to_owned(), Body::None)
        );
        assert_eq!(
            without("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").0,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
        );
    }

    #[test]
    fn an_answer_without_a_clear_end_is_none() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(passed(&head, false, NEW), None, "{fields}");
            assert_eq!(passed(&head, true, NEW), None, "to HEAD: {fields}");
        }
    }

    #[test]
    fn fields_of_the_connection_stay_and_folded_lines_become_one() {
        let head = "HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTrailer: Z\r\n\
                    X-Odd : one\r\n two\r\nContent-Length: 0\r\n\r\n";
        let mut fields = room();
        let parsed = parse(head.as_bytes(), &mut fields).unwrap().unwrap();
        assert!(!parsed.keeps_connection() && parsed.length == head.len());
        let mut edits = HeaderEdits::default();
        edits.append(HeaderName::from_static("x-added"), HeaderValue::from_static("1"));
        let mut out = Vec::new();
        parsed.write(&mut out, &edits, Body::Length(0), NEW);
        let expected = "HTTP/1.1 200 OK\r\nX-Odd: one   two\r\nx-added: 1\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn connections_that_are_logged_in_are_told_from_others() {
        let logs_in = |head: &str| parse(head.as_bytes(), &mut room()).unwrap().unwrap().logs_connection_in();
        assert!(logs_in("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nwww-authenticate: NTLM abc\r\n\r\n"));
        assert!(logs_in("HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n"));
        assert!(!logs_in("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\n\r\n"));
        assert!(is_of_connection(b"Negotiate YII") && !is_of_connection(b"Bearer ntlm"));
    }

    #[test]
    fn half_a_head_waits_and_what_is_none_does_not() {
        let parsed = |head: &[u8]| parse(head, &mut room()).map(|head| head.map(|head| head.length));
        assert!(matches!(parsed(b"HTTP/1.1 200 OK\r\nX: half"), Ok(None)));
        for none in ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 099 No\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
            assert!(parsed(none.as_bytes()).is_err(), "{none}");
        }
        assert!(parsed(&[b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; MOST_HEAD]].concat()).is_err());
    }
}
