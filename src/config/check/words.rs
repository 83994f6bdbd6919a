//! The small languages inside values: host names, paths, header fields, Flash's port lists. Each answer is the sentence that
//! the operator reads.

use std::net::Ipv6Addr;

use crate::config::shape::{quoted, short};

/// What a route may match: a host name or an address, or `*.` before a name; lower case, without a port.
pub(super) fn host_pattern(text: &str) -> Result<(), String> {
    host(text.strip_prefix("*.").unwrap_or(text), text, "such as example.com or *.example.com")
}

/// A host name or an address, lower case, without a port.
pub(super) fn plain_host(text: &str) -> Result<(), String> {
    host(text, text, "such as example.com")
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
    let fault = |what: String| Err(format!("found {}, expected a path: {what}", quoted(text)));
    if !text.starts_with('/') {
        return fault("begin it with `/`".to_owned());
    }
    if text.contains(['?', '#']) {
        return fault("leave out the query (`match.query` looks at that)".to_owned());
    }
    if text.contains("//") {
        return fault("requests are compared with `//` made one, so this never matches".to_owned());
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return fault("requests are compared with `.` and `..` resolved, so this never matches".to_owned());
    }
    if text.contains('*') {
        return fault("it matches by whole segments, without wildcards; leave out the `*`".to_owned());
    }
    if let Some(c) = text.chars().find(|&c| !c.is_ascii()) {
        let encoded: String = c.to_string().bytes().map(|b| format!("%{b:02X}")).collect();
        return fault(format!("write `{c}` as {encoded}"));
    }
    if let Some(c) = text.chars().find(|&c| !is_path_char(c)) {
        return fault(format!("`{c}` cannot stand in a path"));
    }
    encodings(text).map_or_else(fault, |()| Ok(()))
}

fn is_path_char(c: char) -> bool {
    // RFC 3986, section 3.3, and the percent sign of what is encoded.
    c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@/%".contains(c)
}

/// Only what has to be encoded may be, and in upper case, as in the canonical form (RFC 3986, section 6.2.2).
fn encodings(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some((digits, byte)) = digits.and_then(|digits| Some((digits, u8::from_str_radix(digits, 16).ok()?)))
        else {
            return Err("write a percent sign as %25".to_owned());
        };
        match char::from(byte) {
            '/' | '\\' | '\0' => {
                return Err(format!("requests with %{digits} are refused, so this never matches"));
            }
            c if c.is_ascii_alphanumeric() || "-._~".contains(c) => return Err(format!("write %{digits} as `{c}`")),
            _ if digits.contains(|c: char| c.is_ascii_lowercase()) => {
                return Err(format!("write %{digits} as %{}", digits.to_ascii_uppercase()));
            }
            _ => {}
        }
    }
    Ok(())
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

/// The name of a header field.
pub(super) fn header_name(text: &str) -> Result<(), String> {
    match is_token(text) {
        true => Ok(()),
        false => Err(format!("found {}, expected the name of a header: letters, digits and hyphens", quoted(text))),
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

fn is_token(text: &str) -> bool {
    // RFC 9110, section 5.6.2.
    let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(tchar)
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
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let part = |text: &str| match text.split_once('-') {
        Some((from, to)) => matches!((port(from), port(to)), (Some(from), Some(to)) if from <= to),
        None => port(text).is_some(),
    };
    match text == "*" || text.split(',').all(part) {
        true => Ok(()),
        false => Err(format!("found {}, expected ports such as \"80,443\", \"8000-8100\" or \"*\"", quoted(text))),
    }
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
            ("/a//b", "never matches"),
            ("/a/../b", "never matches"),
            ("/a/.", "never matches"),
            ("/a/*", "wildcards"),
            ("/é", "%C3%A9"),
            ("/a b", "cannot stand"),
            ("/%2f", "refused"),
            ("/%5C", "refused"),
            ("/%2E%2E/", "as `.`"),
            ("/%41", "as `A`"),
            ("/%c3%A9", "as %C3"),
            ("/100%", "%25"),
            ("/%+1", "%25"),
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
    fn what_goes_into_the_flash_policy_is_no_xml() {
        assert_eq!(flash_domain("*"), Ok(()));
        assert_eq!(flash_domain("*.Example.com"), Ok(()));
        assert!(flash_domain("\"/><x").is_err());
        for good in ["*", "80", "80,443", "8000-8100", "80,8000-8100"] {
            assert_eq!(flash_ports(good), Ok(()));
        }
        for bad in ["", "80,", "443-80", "a", "80 443", "+80", "70000", "\"/>"] {
            assert!(flash_ports(bad).is_err(), "{bad}");
        }
    }
}
