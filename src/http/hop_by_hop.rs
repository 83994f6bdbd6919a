//! Header fields that speak of one connection only, and so are not passed on (RFC 9110 7.6.1).

use super::origin::is_origin;
use crate::request::{Headers, elements};

/// Fields that never pass a gateway, whether `Connection` names them or not.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "sockgate-peer",
    "te",
    "trailer",
    "upgrade",
];

/// Whether a field, given in any case, belongs to one connection. `Transfer-Encoding` does too, but is the engine's.
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

/// The fields that `Connection` names; those that carry meaning end to end can't be named away.
#[derive(Clone, Copy, Debug)]
pub struct Nominated<'a> {
    headers: Headers<'a>,
    /// Whether it names anything that does not go anyway: mostly it doesn't.
    any: bool,
}

impl<'a> Nominated<'a> {
    /// What the `Connection` of a message names.
    pub fn by(headers: Headers<'a>) -> Self {
        let goes_anyway = |element: &[u8]| {
            element.eq_ignore_ascii_case(b"close") || std::str::from_utf8(element).is_ok_and(is_hop_by_hop)
        };
        let mut elements = headers.all("connection").flat_map(elements);
        let any = headers.get("connection").is_some() && elements.any(|element| !goes_anyway(element));
        Self { headers, any }
    }

    /// Whether it names a field that is not hop-by-hop by itself.
    pub fn contains(&self, name: &str) -> bool {
        let names = |element: &[u8]| element.eq_ignore_ascii_case(name.as_bytes());
        self.any && !is_protected(name) && self.headers.all("connection").flat_map(elements).any(names)
    }
}

/// What [`Nominated`] would say of fields that come behind the body: the names that `Connection` lists, where any of them
/// does not go anyway.
pub(super) fn nominated(headers: Headers<'_>) -> Option<Box<[u8]>> {
    let names = || headers.all("connection").flat_map(elements).collect::<Vec<_>>().join(&b","[..]);
    Nominated::by(headers).any.then(|| names().into())
}

/// Fields whose removal would change who asks for what: a client may not make the gateway drop them.
fn is_protected(name: &str) -> bool {
    const PROTECTED: [&str; 6] = ["host", "cookie", "content-length", "transfer-encoding", "authorization", "origin"];
    is_origin(name) || PROTECTED.iter().any(|protected| name.eq_ignore_ascii_case(protected))
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
        let names = |connection: &[u8], name: &str| {
            let fields = [b"keep-alive", connection].map(|value| httparse::Header { name: "Connection", value });
            Nominated::by(Headers::Fields(&fields)).contains(name)
        };
        assert!(names(b"close, X-Secret", "x-secret"));
        assert!(!names(b"X-Forwarded-For, Host, Cookie", "X-Forwarded-For"));
        assert!(!names(b"Host", "host") && !names(b"close", "x-secret"));
    }
}
