//! The small languages inside values: host names, paths, header fields, Flash's port lists. Each answer is the sentence that
//! the operator reads.

use std::net::Ipv6Addr;

use rustls_pki_types::ServerName;

use crate::config::shape::{quoted, short};
use crate::filter::{Expression, ExpressionFault};
use crate::http::origin::is_origin;
use crate::request::is_token;
use crate::request::path::Path;
use crate::router;
use crate::wire::flash;

/// What a route may match: a host name or an address, or `*.` before a name; lower case, without a port.
pub(super) fn host_pattern(text: &str) -> Result<(), String> {
    host(text.strip_prefix("*.").unwrap_or(text), text, "such as example.com or *.example.com")
}

/// A host name or an address, lower case, without a port.
pub(super) fn plain_host(text: &str) -> Result<(), String> {
    host(text, text, "such as example.com")
}

/// A name that can be asked for in TLS: of a host, or an address.
pub(super) fn server_name(text: &str) -> Result<(), String> {
    if ServerName::try_from(text).is_ok() {
        return Ok(());
    }
    plain_host(&text.to_ascii_lowercase())?;
    Err(format!("found {}, expected a host such as example.com, or an IP address", quoted(text)))
}

fn host(name: &str, found: &str, forms: &str) -> Result<(), String> {
    let fault = |what: &str| Err(format!("found {}, expected a host {forms}: {what}", quoted(found)));
    if name.contains("://") {
        return fault("leave out the scheme");
    }
    if name.contains('/') {
        return fault("leave out the path");
    }
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => fault("this is no IPv6 address"),
        };
    }
    if name.parse::<Ipv6Addr>().is_ok() {
        return fault("write an IPv6 address in brackets");
    }
    if let Some((_, port)) = name.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return fault("leave out the port");
    }
    if name.contains('*') {
        return fault("`*` may only be the first label, and alone");
    }
    if !name.is_ascii() {
        return fault("write a name in other letters as xn--…");
    }
    if name.contains(|c: char| c.is_ascii_uppercase()) {
        return fault("write it in lower case");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(()),
        false => fault("labels of letters, digits and hyphens, with dots between them"),
    }
}

/// A value for `Host`: a host and perhaps a port.
pub(super) fn authority(text: &str) -> Result<(), String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    match text.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.ends_with(':') => plain_host(&name.to_ascii_lowercase()),
        _ => plain_host(&text.to_ascii_lowercase()),
    }
}

/// A path that a route may match, in the canonical form that requests are compared in.
pub(super) fn path(text: &str) -> Result<(), String> {
    let fault = |what: &str| Err(format!("found {}, expected a path: {what}", quoted(text)));
    if !text.starts_with('/') {
        return fault("begin it with `/`");
    }
    if text.contains(['?', '#']) {
        return fault("leave out the query (`match.query` looks at that)");
    }
    if text.contains('*') {
        return fault("it matches by whole segments, without wildcards: leave out the `*`");
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
        let encoded: String = c.to_string().bytes().map(|b| format!("%{b:02X}")).collect();
        return fault(&format!("write `{c}` as {encoded}"));
    }
    match Path::read(text) {
        Ok(path) if !path.loose.is_empty() && (text.contains(';') || text.to_ascii_uppercase().contains("%3B")) => {
            fault("to some servers a segment ends at `;` or `%3B`, to others not: leave them out")
        }
        Ok(path) if !path.loose.is_empty() => {
            fault("to some servers `%2F`, `%5C` and `\\` are a `/`, to others not: leave them out")
        }
        Ok(path) if path.canonical != text => {
            fault(&format!("requests are compared in canonical form, so write `{}`", short(&path.canonical)))
        }
        Ok(_) => Ok(()),
        Err(refused) => fault(&format!("requests like this are refused, {refused}")),
    }
}

/// What a request line or a `Location` may hold: a path, perhaps with a query.
pub(super) fn target(text: &str) -> Result<(), String> {
    let printable = text.bytes().all(|b| b.is_ascii_graphic());
    match text.starts_with('/') && !text.starts_with("//") && printable && !text.contains('#') {
        true => Ok(()),
        false => Err(format!(
            "found {}, expected a path that begins with one `/`, percent-encoded where it has to be",
            quoted(text)
        )),
    }
}

/// A regular expression.
pub(super) fn regex(text: &str) -> Result<(), String> {
    router::regex(text).map(drop).map_err(|error| {
        let told = error.to_string();
        let why = told.lines().last().unwrap_or_default().trim();
        let why = why.trim_start_matches("error: ");
        format!("found {}, expected a regular expression: {why}", quoted(text))
    })
}

/// A network or an address.
pub(super) fn network(text: &str) -> Result<(), String> {
    let expected = || format!("found {}, expected a network such as 10.0.0.0/8, or an address", quoted(text));
    router::network(text).map(drop).ok_or_else(expected)
}

/// The name of a cookie.
pub(super) fn cookie_name(text: &str) -> Result<(), String> {
    match is_token(text) {
        true => Ok(()),
        false => Err(format!("found {}, expected the name of a cookie: letters, digits and hyphens", quoted(text))),
    }
}

/// A request method: a token in upper case (methods are case-sensitive, RFC 9110, section 9.1).
pub(super) fn method(text: &str) -> Result<(), String> {
    let upper = text.to_ascii_uppercase();
    if !is_token(text) {
        return Err(format!("found {}, expected a method such as GET", quoted(text)));
    }
    match upper == text {
        true => Ok(()),
        false => Err(format!("found `{}`, expected `{}`: methods are upper case", short(text), short(&upper))),
    }
}

/// What a request may upgrade to: a protocol, and perhaps its version (RFC 9110 7.8).
pub(super) fn upgrade(text: &str) -> Result<(), String> {
    if text.eq_ignore_ascii_case("h2c") {
        return Err("found `h2c`, which is never passed on: nobody would look at the requests behind it".to_owned());
    }
    let (name, version) = text.split_once('/').unwrap_or((text, "1"));
    match is_token(name) && is_token(version) {
        true => Ok(()),
        false => Err(format!("found {}, expected the name of a protocol such as `tcp` or `SPDY/3.1`", quoted(text))),
    }
}

/// The name of a header field.
pub(super) fn header_name(text: &str) -> Result<(), String> {
    match is_token(text) {
        true => Ok(()),
        false => Err(format!("found {}, expected the name of a header: letters, digits and hyphens", quoted(text))),
    }
}

/// The name of a field about the client that a trusted proxy may be believed.
pub(super) fn believable(text: &str) -> Result<(), String> {
    let is = |field: &str| text.eq_ignore_ascii_case(field);
    let found = quoted(text);
    if is("X-Forwarded-For") {
        return Err(format!("found {found}, which is always taken from `trusted_proxies`: leave it out"));
    }
    if is("X-Real-IP") {
        return Err(format!(
            "found {found}, which the gateway writes itself: it is the client that X-Forwarded-For tells"
        ));
    }
    match is_origin(text) {
        true => Ok(()),
        false => {
            Err(format!("found {found}, expected a field that says who asks, such as X-Forwarded-Host or Forwarded"))
        }
    }
}

/// The value of a header field: visible ASCII, with spaces inside.
pub(super) fn header_value(text: &str) -> Result<(), String> {
    let fits = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t') && text.trim() == text;
    match fits {
        true => Ok(()),
        false => Err(format!("found {:?}, expected the value of a header: printable ASCII on one line", short(text))),
    }
}

/// A `domain` of Flash's `<allow-access-from>`: it goes into XML as it is.
pub(super) fn flash_domain(text: &str) -> Result<(), String> {
    match text == "*" || host_pattern(&text.to_ascii_lowercase()).is_ok() {
        true => Ok(()),
        false => Err(format!("found {}, expected a domain such as example.com, *.example.com or *", quoted(text))),
    }
}

/// A `to-ports` of Flash's `<allow-access-from>`.
pub(super) fn flash_ports(text: &str) -> Result<(), String> {
    match flash::is_port_list(text) {
        true => Ok(()),
        false => Err(format!("found {}, expected ports such as \"80,443\", \"8000-8100\" or \"*\"", quoted(text))),
    }
}

/// What a server may send in a Close frame (RFC 6455 7.4, IANA, WebSocket Close Code Number Registry).
pub(super) fn close_code(code: u16) -> Result<(), String> {
    let why = match code {
        1000..=1003 | 1007..=1009 | 1011..=1014 | 3000..=4999 => return Ok(()),
        1005 | 1006 | 1015 => ", which no frame may carry",
        1010 => ", which only clients send",
        _ => "",
    };
    Err(format!("found {code}{why}, expected 1000 to 1003, 1007 to 1009, 1011 to 1014 or 3000 to 4999"))
}

/// An expression that can be used.
pub(super) fn expression(compiled: Result<Expression, ExpressionFault>) -> Result<(), String> {
    let Err(fault) = compiled else { return Ok(()) };
    let place = fault.at.map(|(line, column)| match line {
        1 => format!(" in column {column}"),
        _ => format!(" in its line {line}, column {column}"),
    });
    Err(format!("the expression{}: {}", place.unwrap_or_default(), fault.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["example.com", "*.example.com", "localhost", "10.0.0.7", "[::1]", "xn--mnchen-3ya.de", "a_b.c"] {
            assert_eq!(host_pattern(good), Ok(()));
        }
        for (bad, hint) in [
            ("https://example.com", "scheme"),
            ("example.com/app", "path"),
            ("example.com:443", "port"),
            ("::1", "brackets"),
            ("[::x]", "no IPv6"),
            ("a.*.com", "first label"),
            ("*", "first label"),
            ("*example.com", "first label"),
            ("Example.com", "lower case"),
            ("münchen.de", "xn--"),
            ("example.com.", "labels"),
            ("", "labels"),
            ("-a.com", "labels"),
        ] {
            let what = host_pattern(bad).unwrap_err();
            assert!(what.contains(hint), "{bad}: {what}");
        }
        assert!(plain_host("*.example.com").is_err());
    }

    #[test]
    fn authorities() {
        for good in ["example.com", "Example.com:8080", "[::1]:80", "[::1]", "10.0.0.7:3000"] {
            assert_eq!(authority(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "example.com:0", "example.com:x", "http://a", "::1"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        for good in ["/", "/socket.io/", "/a-b_c~d", "/%20", "/%C3%A9", "/a:b@c", "/.well-known"] {
            assert_eq!(path(good), Ok(()));
        }
        for (bad, hint) in [
            ("", "begin it"),
            ("socket.io", "begin it"),
            ("/a?b=1", "query"),
            ("/a//b", "`/a/b`"),
            ("/a/../b", "`/b`"),
            ("/a/.", "`/a/`"),
            ("/..", "above the root"),
            ("/a/*", "wildcards"),
            ("/é", "%C3%A9"),
            ("/a b", "%20"),
            ("/%2f", "to some servers"),
            ("/a\\b", "to some servers"),
            ("/%2E%2E/", "above the root"),
            ("/%41", "`/A`"),
            ("/%c3%A9", "`/%C3%A9`"),
            ("/%00", "control"),
        ] {
            let what = path(bad).unwrap_err();
            assert!(what.contains(hint), "{bad}: {what}");
        }
    }

    #[test]
    fn header_fields() {
        assert_eq!(header_name("X-Request-Id"), Ok(()));
        assert!(header_name("").is_err());
        assert!(header_name("a b").is_err());
        assert!(header_name(":authority").is_err());
        assert_eq!(header_value("text/plain; charset=utf-8"), Ok(()));
        assert_eq!(header_value(""), Ok(()));
        assert!(header_value("a\r\nb").is_err());
        assert!(header_value(" a").is_err());
    }

    #[test]
    fn close_codes() {
        for good in [1000, 1001, 1012, 3000, 4999] {
            assert_eq!(close_code(good), Ok(()));
        }
        for bad in [0, 999, 1004, 1005, 1006, 1010, 1015, 1016, 2999, 5000] {
            assert!(close_code(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_goes_into_the_flash_policy_is_no_xml() {
        assert_eq!(flash_domain("*"), Ok(()));
        assert_eq!(flash_domain("*.Example.com"), Ok(()));
        assert!(flash_domain("\"/><x").is_err());
        for good in ["*", "80", "80,443", "8000-8100", "80,8000-8100"] {
            assert_eq!(flash_ports(good), Ok(()));
        }
        for bad in ["", "80,", "443-80", "a", "80 443", "+80", "0", "0-80", "70000", "\"/>"] {
            assert!(flash_ports(bad).is_err(), "{bad}");
        }
    }
}
