//! Header fields that speak of one connection only, and so are not passed on (RFC 9110 7.6.1).

use crate::request::elements;

/// Fields that never pass a gateway, whether `Connection` names them or not.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// Whether a field, given in any case, belongs to one connection. `Transfer-Encoding` does too, but is the engine's.
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

/// Whether a `Connection` value names the field; the fields that carry meaning end to end can't be named away.
pub fn is_nominated(connection: &[u8], name: &str) -> bool {
    !is_protected(name) && elements(connection).any(|element| element.eq_ignore_ascii_case(name.as_bytes()))
}

/// Fields whose removal would change who asks for what: a client may not make the gateway drop them.
fn is_protected(name: &str) -> bool {
    const PROTECTED: [&str; 8] =
        ["host", "cookie", "content-length", "transfer-encoding", "forwarded", "x-real-ip", "authorization", "origin"];
    name.len() > 12 && name.as_bytes()[..12].eq_ignore_ascii_case(b"x-forwarded-")
        || PROTECTED.iter().any(|protected| name.eq_ignore_ascii_case(protected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_connection_are_known_in_any_case() {
        assert!(is_hop_by_hop("Keep-Alive") && is_hop_by_hop("TE") && is_hop_by_hop("upgrade"));
        assert!(!is_hop_by_hop("Cookie") && !is_hop_by_hop("Sec-WebSocket-Key"));
    }

    #[test]
    fn nominated_fields_go_but_not_those_that_say_who_asks() {
        assert!(is_nominated(b"close, X-Secret", "x-secret"));
        assert!(!is_nominated(b"X-Forwarded-For, Host, Cookie", "X-Forwarded-For"));
        assert!(!is_nominated(b"Host", "host"));
    }
}
