//! What gRPC asks of HTTP: which requests are calls, and what the gateway's own answers are to one.

use std::fmt::Write;

use crate::request::Headers;

/// The content type of calls and of what answers them.
pub(crate) const TYPE: &str = "application/grpc";
/// The longest message of a status.
const MOST_MESSAGE: usize = 1024;

/// Whether a request is a call of gRPC, whatever its messages are written in; gRPC-Web is plain HTTP.
pub(crate) fn is_grpc(headers: &Headers<'_>) -> bool {
    let Some(value) = headers.get("content-type") else { return false };
    let Some((start, rest)) = value.split_at_checked(TYPE.len()) else { return false };
    start.eq_ignore_ascii_case(TYPE.as_bytes()) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The status that clients make of one of HTTP (gRPC's `http-grpc-status-mapping.md`, which Envoy follows, too).
pub(crate) fn status_of(http: u16) -> u8 {
    const UNKNOWN: u8 = 2;
    const PERMISSION_DENIED: u8 = 7;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    const UNAUTHENTICATED: u8 = 16;
    match http {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// A text as `grpc-message` has it: what is not printable ASCII in percent-encoding, and not too long.
pub(crate) fn message(text: &str) -> String {
    let end = (0..=MOST_MESSAGE.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    let mut out = String::with_capacity(end);
    for byte in text[..end].trim_ascii_end().bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            // Writing to a string never fails.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use httparse::Header;

    use super::*;

    #[test]
    fn calls_are_known_by_their_content_type() {
        let is_call =
            |value: &str| is_grpc(&Headers::Fields(&[Header { name: "Content-Type", value: value.as_bytes() }]));
        for call in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=y"] {
            assert!(is_call(call), "{call}");
        }
        for other in ["application/grpc-web", "application/grpc-web+proto", "application/grpcx", "text/plain", ""] {
            assert!(!is_call(other), "{other}");
        }
        assert!(!is_grpc(&Headers::Fields(&[])));
    }

    #[test]
    fn statuses_are_those_that_clients_would_make_of_them() {
        let told = [400, 401, 403, 404, 429, 502, 503, 504, 408, 413, 500].map(status_of);
        assert_eq!(told, [13, 16, 7, 12, 14, 14, 14, 14, 2, 2, 2]);
    }

    #[test]
    fn messages_are_printable_and_bounded() {
        assert_eq!(message("100% gr\u{fc}n\n"), "100%25 gr%C3%BCn");
        assert_eq!(message(&"\u{fc}".repeat(1000)).len(), MOST_MESSAGE * 3);
        assert_eq!(message(&format!("a{}", "\u{fc}".repeat(1000))).len(), 1 + (MOST_MESSAGE - 2) * 3);
    }
}
