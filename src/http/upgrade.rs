//! Which requests open a WebSocket, told strictly: what is not meant as one is never tunnelled.

use crate::request::{Headers, elements};

/// A way to open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// RFC 6455 and the HyBi drafts before it.
    Hybi,
    /// draft-hixie-thewebsocketprotocol-76: eight bytes of a third key follow the head.
    Hixie76,
    /// No WebSocket, but another protocol that the route allows.
    Other,
}

/// The first of these protocols that an HTTP/1.1 request offers to upgrade to, as it spells it. Whatever was not allowed
/// by name stays a request: `h2c` above all, behind which nobody would look at requests any more.
pub fn other<'a>(minor_version: u8, headers: &Headers<'a>, allowed: &[String]) -> Option<&'a str> {
    if allowed.is_empty() || minor_version != 1 || !headers.lists("connection", "upgrade") {
        return None;
    }
    let mut offered = headers.all("upgrade").flat_map(elements).filter_map(|name| std::str::from_utf8(name).ok());
    offered.find(|name| {
        // A WebSocket has rules of its own: see above.
        let never = ["h2c", "websocket"].iter().any(|never| name.eq_ignore_ascii_case(never));
        !never && allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    })
}

/// How an HTTP/1.1 request opens a WebSocket, or `None` where it does not.
///
/// It takes `GET`, `Upgrade: websocket` and `Connection: upgrade`, any case, in lists too, and no body (RFC 6455 4.1).
/// HTTP/1.0 knows no upgrade, and `h2c` is not one that the gateway passes on.
pub fn opening(method: &str, minor_version: u8, headers: &Headers<'_>) -> Option<Opening> {
    let meant = method == "GET"
        && minor_version == 1
        && headers.lists("upgrade", "websocket")
        && headers.lists("connection", "upgrade")
        && headers.get("transfer-encoding").is_none()
        && headers.get("content-length").is_none_or(|length| length == b"0");
    if !meant {
        return None;
    }
    let old = headers.get("sec-websocket-key1").is_some()
        && headers.get("sec-websocket-key2").is_some()
        && headers.get("sec-websocket-key").is_none();
    Some(if old { Opening::Hixie76 } else { Opening::Hybi })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<httparse::Header<'a>> {
        pairs.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect()
    }

    fn told(method: &str, minor: u8, pairs: &[(&str, &str)]) -> Option<Opening> {
        opening(method, minor, &Headers::Fields(&fields(pairs)))
    }

    #[test]
    fn lists_and_any_case_open_a_websocket() {
        let pairs = [("CONNECTION", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("Sec-WebSocket-Key", "x")];
        assert_eq!(told("GET", 1, &pairs), Some(Opening::Hybi));
        assert_eq!(told("GET", 1, &[("Connection", "upgrade"), ("Upgrade", "foo, websocket")]), Some(Opening::Hybi));
    }

    #[test]
    fn hixie_76_is_known_by_its_two_keys() {
        let base = [("Connection", "Upgrade"), ("Upgrade", "WebSocket"), ("Sec-WebSocket-Key1", "1")];
        let with = |more: (&'static str, &'static str)| [base.as_slice(), &[more]].concat();
        assert_eq!(told("GET", 1, &with(("Sec-WebSocket-Key2", "2"))), Some(Opening::Hixie76));
        assert_eq!(told("GET", 1, &base), Some(Opening::Hybi));
    }

    #[test]
    fn what_is_allowed_by_name_is_taken_as_it_is_offered_and_never_h2c() {
        let allowed = ["tcp", "SPDY/3.1", "h2c", "websocket"].map(str::to_owned);
        let told = |minor, connection, upgrade, allowed: &[String]| {
            let fields = fields(&[("Connection", connection), ("Upgrade", upgrade)]);
            other(minor, &Headers::Fields(&fields), allowed).map(str::to_owned)
        };
        assert_eq!(told(1, "Upgrade", "TCP", &allowed).as_deref(), Some("TCP"));
        assert_eq!(told(1, "keep-alive, upgrade", "foo, spdy/3.1", &allowed).as_deref(), Some("spdy/3.1"));
        let none = [(0, "upgrade", "tcp"), (1, "close", "tcp"), (1, "upgrade", "h2c"), (1, "upgrade", "websocket")];
        for (minor, connection, upgrade) in none {
            assert_eq!(told(minor, connection, upgrade, &allowed), None, "{upgrade}");
        }
        assert_eq!(told(1, "upgrade", "tcp", &allowed[1..]), None);
    }

    #[test]
    fn anything_less_is_an_ordinary_request() {
        let pairs = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
        assert_eq!(told("POST", 1, &pairs), None);
        assert_eq!(told("GET", 0, &pairs), None);
        assert_eq!(told("GET", 1, &pairs[..1]), None);
        assert_eq!(told("GET", 1, &pairs[1..]), None);
        assert_eq!(told("GET", 1, &[("Connection", "Upgrade"), ("Upgrade", "h2c")]), None);
        assert_eq!(told("GET", 1, &[pairs.as_slice(), &[("Content-Length", "5")]].concat()), None);
        assert_eq!(told("GET", 1, &[pairs.as_slice(), &[("Transfer-Encoding", "chunked")]].concat()), None);
    }
}
