//! Tells from the first bytes of a connection which protocol speaks; waiting, and the deadline, are the listener's.
//!
//! The bias is HAProxy's `tcp-request inspect-delay` with `accept if HTTP`: a byte that proves "not HTTP" decides at
//! once, so a raw TCP client waits for nothing, and only a client that says nothing, or stops inside something that
//! could still become HTTP, is kept until the listener's deadline. A known method before `/` or `http` is enough to
//! call it HTTP/1. A server that must speak first (SMTP, MySQL) therefore costs its clients the whole delay.

use super::flash::{self, PolicyRequest};

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are needed; ask again with all bytes so far.
    Incomplete,
    /// An HTTP/1 request line (RFC 9112, section 3).
    Http1,
    /// The connection preface of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
    Http2,
    /// A TLS handshake record (RFC 8446, section 5.1).
    Tls,
    /// A Flash socket policy request, with its NUL.
    FlashPolicy,
    /// Nothing of the above, whatever comes next.
    Other,
}

/// Judges `bytes`, which are all that the client has sent so far.
///
/// A verdict other than [`Verdict::Incomplete`] never changes when more bytes arrive, and after [`LIMIT`] bytes there
/// always is one.
pub fn sniff(bytes: &[u8]) -> Verdict {
    let start = &bytes[..bytes.len().min(LIMIT)];
    match (tls(start), http2(start), flash::read(start), http1(start)) {
        (Match::Yes, ..) => Verdict::Tls,
        (_, Match::Yes, ..) => Verdict::Http2,
        (_, _, PolicyRequest::Complete, _) => Verdict::FlashPolicy,
        (.., Match::Yes) => Verdict::Http1,
        (Match::No, Match::No, PolicyRequest::Other, Match::No) => Verdict::Other,
        _ if bytes.len() < LIMIT => Verdict::Incomplete,
        _ => Verdict::Other,
    }
}

/// Bytes after which a client that could still become something is [`Verdict::Other`]: 8 KiB.
pub const LIMIT: usize = 8 * 1024;

/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods of RFC 9110, RFC 5789, WebDAV (RFC 4918, 3253, 3744, 4791, 5323) and cache purging: with one of these
/// the start of the target decides, and the rest of the request line need not be here yet.
const METHODS: [&[u8]; 27] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
    b"SEARCH",
    b"ACL",
    b"CHECKOUT",
    b"CHECKIN",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKWORKSPACE",
    b"PURGE",
    b"UNCHECKOUT",
];

/// The longest method that is waited for, in bytes.
const LONGEST_METHOD: usize = 32;

/// Empty lines tolerated before a request line (RFC 9112, section 2.2 asks for at least one).
const EMPTY_LINES: usize = 4;

#[derive(Clone, Copy)]
enum Match {
    Yes,
    Maybe,
    No,
}

fn tls(bytes: &[u8]) -> Match {
    prefix_of(&[0x16, 0x03], bytes)
}

fn http2(bytes: &[u8]) -> Match {
    prefix_of(PREFACE, bytes)
}

fn prefix_of(whole: &[u8], bytes: &[u8]) -> Match {
    if bytes.starts_with(whole) {
        Match::Yes
    } else if whole.starts_with(bytes) {
        Match::Maybe
    } else {
        Match::No
    }
}

fn http1(bytes: &[u8]) -> Match {
    let mut rest = bytes;
    for _ in 0..EMPTY_LINES {
        rest = match rest {
            [b'\n', after @ ..] | [b'\r', b'\n', after @ ..] => after,
            [b'\r'] => return Match::Maybe,
            _ => break,
        };
    }
    let length = run(rest, |byte| byte.is_ascii_uppercase() || byte == b'-');
    if length > LONGEST_METHOD {
        return Match::No;
    }
    let (method, rest) = rest.split_at(length);
    match rest {
        [] => Match::Maybe,
        [b' '] if !method.is_empty() => Match::Maybe,
        [b' ', b'/' | b'h' | b'H', ..] if METHODS.contains(&method) => Match::Yes,
        // A line of another protocol may start like this as well (Redis "GET key", RTSP "OPTIONS *", STOMP): read on.
        [b' ', target @ ..] if !method.is_empty() => target_and_version(target),
        _ => Match::No,
    }
}

/// `/chat HTTP/1.1` and the end of the line, after a method that alone proves nothing.
fn target_and_version(bytes: &[u8]) -> Match {
    let (target, rest) = bytes.split_at(run(bytes, |byte| byte.is_ascii_graphic()));
    match rest {
        [] => Match::Maybe,
        [b' ', version @ ..] if !target.is_empty() => match (prefix_of(b"HTTP/1.", version), version.get(7..)) {
            (Match::Yes, Some([] | [b'0'..=b'9'] | [b'0'..=b'9', b'\r'])) => Match::Maybe,
            (Match::Yes, Some([b'0'..=b'9', b'\n', ..] | [b'0'..=b'9', b'\r', b'\n', ..])) => Match::Yes,
            (Match::Maybe, _) => Match::Maybe,
            _ => Match::No,
        },
        _ => Match::No,
    }
}

/// How many bytes at the start satisfy `wanted`.
fn run(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !wanted(byte)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_what_speaks() {
        for (bytes, verdict) in [
            (&b"GET / HTTP/1.1\r\n"[..], Verdict::Http1),
            (b"POST http://example.com/ HTTP/1.1\r\n", Verdict::Http1),
            (b"OPTIONS * HTTP/1.1\r\n", Verdict::Http1),
            (b"CONNECT example.com:443 HTTP/1.1\r\n", Verdict::Http1),
            (b"CONNECT [::1]:443 HTTP/1.0\n", Verdict::Http1),
            (b"PROPFIND /calendar HTTP/1.1\r\n", Verdict::Http1),
            (b"\r\n\r\nGET /", Verdict::Http1),
            (b"\nHEAD /", Verdict::Http1),
            (b"BREW /pot HTTP/1.1\r\n", Verdict::Http1),
            (b"M-SEARCH * HTTP/1.1\r\n", Verdict::Http1),
            (b"PRI /not-the-preface HTTP/1.1\r\n", Verdict::Http1),
            (PREFACE, Verdict::Http2),
            (b"\x16\x03\x01\x02\x00\x01", Verdict::Tls),
            (b"<policy-file-request/>\0", Verdict::FlashPolicy),
            (b"<policy-file-request/>\n", Verdict::Other),
            (b"<stream:stream to='example.com'", Verdict::Other),
            (b"\x16\x02", Verdict::Other),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Verdict::Other),
            (b"get / HTTP/1.1\r\n", Verdict::Other),
            (b"GET  / HTTP/1.1\r\n", Verdict::Other),
            (b"GET key\r\n", Verdict::Other),
            (b"OPTIONS * RTSP/1.0\r\n", Verdict::Other),
            (b"BREW /pot HTTP/2.0\r\n", Verdict::Other),
            (b"BREW /pot HTTP/1.\r\n", Verdict::Other),
            (b"BREW\r\n", Verdict::Other),
            (b"CONNECT\naccept-version:1.2\n", Verdict::Other),
            (b"*2\r\n$3\r\nGET\r\n", Verdict::Other),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Verdict::Other),
            (b" / HTTP/1.1\r\n", Verdict::Other),
            (b"\r\r", Verdict::Other),
            (b"\n\n\n\n\nGET / HTTP/1.1\r\n", Verdict::Other),
            (b"\0", Verdict::Other),
        ] {
            assert_eq!(sniff(bytes), verdict, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn waits_for_what_may_still_become_something() {
        for bytes in [
            &b""[..],
            b"G",
            b"GET",
            b"GET ",
            b"\r",
            b"\r\n\r\n",
            b"BREW",
            b"BREW /pot",
            b"BREW /pot HTTP/1.1\r",
            b"PRI * HTTP/",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
            b"\x16",
            b"<policy-file-request/>",
        ] {
            assert_eq!(sniff(bytes), Verdict::Incomplete, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn patience_ends_at_the_limit() {
        let mut endless = b"BREW /".to_vec();
        endless.resize(LIMIT - 1, b'a');
        assert_eq!(sniff(&endless), Verdict::Incomplete);
        endless.push(b'a');
        assert_eq!(sniff(&endless), Verdict::Other);
        endless.extend_from_slice(b" HTTP/1.1\r\n");
        assert_eq!(sniff(&endless), Verdict::Other);
        assert_eq!(sniff(&[b'A'; LONGEST_METHOD]), Verdict::Incomplete);
        assert_eq!(sniff(&[b'A'; LONGEST_METHOD + 1]), Verdict::Other);
    }

    fn valid() -> impl Strategy<Value = (Vec<u8>, Verdict)> {
        prop_oneof![
            ("(\r?\n){0,4}[A-Z][A-Z-]{0,31} [!-~]{1,80} HTTP/1\\.[0-9]\r?\n").prop_map(|s| (s, Verdict::Http1)),
            ("(GET|POST|LOCK|DELETE) (/|http://)[!-~]{0,40} HTTP/1\\.1\r\n").prop_map(|s| (s, Verdict::Http1)),
            Just(("<policy-file-request/>\0".to_owned(), Verdict::FlashPolicy)),
            Just((String::from_utf8(PREFACE.to_vec()).unwrap(), Verdict::Http2)),
        ]
        .prop_map(|(text, verdict)| (text.into_bytes(), verdict))
    }

    /// Bytes that stay close to the grammar far longer than random ones would.
    fn near_miss() -> impl Strategy<Value = Vec<u8>> {
        (valid(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|((mut bytes, _), at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        })
    }

    proptest! {
        #[test]
        fn every_prefix_of_a_valid_thing_is_incomplete_or_the_verdict_of_the_whole((bytes, verdict) in valid()) {
            prop_assert_eq!(sniff(&bytes), verdict);
            for end in 0..bytes.len() {
                let early = sniff(&bytes[..end]);
                prop_assert!(early == Verdict::Incomplete || early == verdict, "{:?} after {} bytes", early, end);
            }
        }

        #[test]
        fn a_verdict_never_changes(bytes in prop_oneof![near_miss(), prop::collection::vec(any::<u8>(), 0..64)]) {
            let mut decided = Verdict::Incomplete;
            for end in 0..=bytes.len() {
                let now = sniff(&bytes[..end]);
                prop_assert!(decided == Verdict::Incomplete || now == decided, "{:?} after {} bytes", now, end);
                decided = now;
            }
        }
    }
}
