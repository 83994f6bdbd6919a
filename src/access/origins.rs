//! Whose pages may ask: a browser says in `Origin` (RFC 6454) which site's page makes a request.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::config::{self, Missing};
use crate::http::forwarding::Asked;
use crate::request::Request;

/// The sites whose pages may ask.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    allow: Vec<Pattern>,
    missing: Missing,
}

/// One site, or several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The site that is asked.
    Same,
    /// A page that belongs to no site.
    Null,
    /// Every page; only of what may be read, never of who may ask.
    Any,
    /// Those of a scheme, a host and a port.
    Site {
        /// In lower case.
        scheme: String,
        /// Whether it stands for the hosts below this one, and not for itself.
        below: bool,
        /// In lower case.
        host: String,
        /// The port that is written, or none where that is the scheme's own.
        port: Port,
    },
}

/// The ports of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// The scheme's own.
    Own,
    /// This one.
    This(u16),
    /// Any.
    Any,
}

/// An origin as a browser sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Origin<'a> {
    /// Reads `scheme://host` or `scheme://host:port`, and nothing that has more to it.
    fn read(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => None,
            Some(port) => Some(read_port(port)?),
        };
        (is_scheme(scheme) && is_host(host)).then_some(Self {
            scheme,
            host,
            port: port.filter(|&port| Some(port) != own_port(scheme)),
        })
    }
}

impl Origins {
    pub(crate) fn new(said: &config::Origins) -> Self {
        Self { allow: said.allow.clone(), missing: said.missing }
    }

    /// Whether the page that makes the request may; `upgrades`: it asks for an upgrade, of whatever kind.
    pub(crate) fn admit(&self, request: &Request<'_>, asked: Asked<'_>) -> bool {
        let mut told = request.headers.all("origin");
        let Some(origin) = told.next() else {
            let always_told = request.websocket
                || request.headers.get("upgrade").is_some()
                || !["GET", "HEAD"].contains(&request.method);
            return !(always_told && self.missing == Missing::Refuse);
        };
        // No browser says it twice, and servers differ in which they take.
        told.next().is_none() && self.allow.iter().any(|pattern| pattern.matches(origin, asked))
    }
}

impl Pattern {
    /// Whether it stands for this origin, of a page that asks for that.
    pub(crate) fn matches(&self, origin: &[u8], asked: Asked<'_>) -> bool {
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        if *self == Self::Any {
            return true;
        }
        if origin == "null" {
            return *self == Self::Null;
        }
        let Some(origin) = Origin::read(origin) else { return false };
        match self {
            Self::Null | Self::Any => false,
            Self::Same => {
                let scheme = if asked.secure { "https" } else { "http" };
                let Some((host, port)) = asked.authority.and_then(split_port) else { return false };
                let Ok(port) = port.map(str::parse::<u16>).transpose() else { return false };
                let host = host.strip_suffix('.').unwrap_or(host);
                origin.scheme.eq_ignore_ascii_case(scheme)
                    && origin.host.eq_ignore_ascii_case(host)
                    && origin.port == port.filter(|&port| Some(port) != own_port(scheme))
            }
            Self::Site { scheme, below, host, port } => {
                let right_port = match port {
                    Port::Any => true,
                    Port::Own => origin.port.is_none(),
                    Port::This(port) => origin.port == Some(*port),
                };
                right_port
                    && origin.scheme.eq_ignore_ascii_case(scheme)
                    && if *below { is_below(origin.host, host) } else { origin.host.eq_ignore_ascii_case(host) }
            }
        }
    }
}

/// Whether a host has more labels before those of another.
fn is_below(host: &str, of: &str) -> bool {
    let split = host.len().checked_sub(of.len()).and_then(|at| host.split_at_checked(at));
    split.is_some_and(|(labels, rest)| rest.eq_ignore_ascii_case(of) && labels.len() > 1 && labels.ends_with('.'))
}

/// A host, in brackets where it is an IPv6 address, and the port behind it.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port))),
        None => rest.is_empty().then_some((host, None)),
    }
}

fn read_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Of these schemes a port may be left out.
fn own_port(scheme: &str) -> Option<u16> {
    match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Some(443),
        _ if scheme.eq_ignore_ascii_case("http") => Some(80),
        _ => None,
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// A host of an origin: of schemes of their own, such as `file://`, it may be empty.
fn is_host(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |what: &str| {
            Err(format!("found `{text}`, expected an origin such as https://app.example.com, `same` or `null`: {what}"))
        };
        match text {
            "same" => return Ok(Self::Same),
            "null" => return Ok(Self::Null),
            "*" => return Ok(Self::Any),
            _ => {}
        }
        let Some((scheme, authority)) = text.split_once("://") else { return fault("begin with the scheme") };
        if authority.contains(['/', '?', '#']) {
            return fault("leave out the path");
        }
        if authority.contains('@') {
            return fault("leave out the user");
        }
        let Some((host, port)) = split_port(authority) else { return fault("this is no host") };
        let port = match port {
            None => Port::Own,
            Some("*") => Port::Any,
            Some(port) => match read_port(port) {
                None => return fault("a port is a number up to 65535, or `*`"),
                Some(port) if Some(port) == own_port(scheme) => Port::Own,
                Some(port) => Port::This(port),
            },
        };
        let (below, host) = host.strip_prefix("*.").map_or((false, host), |host| (true, host));
        if host.contains('*') {
            return fault("`*` may only be the first label, and alone");
        }
        if !host.is_ascii() {
            return fault("write a name in other letters as xn--…");
        }
        let web = own_port(scheme).is_some();
        if !is_scheme(scheme) || !is_host(host) || (web || below) && host.is_empty() || host.ends_with('.') {
            return fault("a scheme, a host and perhaps a port");
        }
        Ok(Self::Site { scheme: scheme.to_ascii_lowercase(), below, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("same"),
            Self::Null => f.write_str("null"),
            Self::Any => f.write_str("*"),
            Self::Site { scheme, below, host, port } => {
                write!(f, "{scheme}://{}{host}", if *below { "*." } else { "" })?;
                match port {
                    Port::Own => Ok(()),
                    Port::This(port) => write!(f, ":{port}"),
                    Port::Any => f.write_str(":*"),
                }
            }
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(secure: bool, authority: Option<&str>) -> Asked<'_> {
        Asked { secure, authority }
    }

    fn matches(pattern: &str, origin: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(origin.as_bytes(), asked(true, Some("here.example.com")))
    }

    #[test]
    fn scheme_host_and_port_all_have_to_be_right() {
        let app = "https://app.example.com";
        for same in ["https://app.example.com", "https://app.example.com:443", "HTTPS://App.Example.COM"] {
            assert!(matches(app, same), "{same}");
        }
        for other in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.com",
            "https://evil.com/app.example.com",
            "https://app.example.com@evil.com",
            "https://evil.com#https://app.example.com",
            "https://app.example.com/",
            "https://app.example.com https://evil.com",
            "https://app.example.com, https://evil.com",
            "https://xapp.example.com",
            "https://app.example.com.",
            "https://app.example.com:443:443",
            "https://app.example.com:",
            "https://app.example.com:+443",
            "null",
            "",
            "app.example.com",
        ] {
            assert!(!matches(app, other), "{other}");
        }
        assert!(matches("https://app.example.com:8443", "https://app.example.com:8443"));
        assert!(
            matches("http://localhost:*", "http://localhost:5173") && matches("http://localhost:*", "http://localhost")
        );
        assert!(matches("http://[::1]:3000", "http://[::1]:3000") && !matches("http://[::1]", "http://[::1]:3000"));
        assert!(matches("capacitor://localhost", "capacitor://localhost") && matches("file://", "file://"));
    }

    #[test]
    fn a_wildcard_stands_for_labels_in_front_and_for_nothing_else() {
        let all = "https://*.example.com";
        assert!(matches(all, "https://app.example.com") && matches(all, "https://a.b.EXAMPLE.com"));
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "https://app.example.com.evil.com",
            "http://app.example.com",
            "https://app.example.com:444",
        ] {
            assert!(!matches(all, other), "{other}");
        }
    }

    #[test]
    fn same_is_the_site_that_is_asked() {
        let same = |origin: &str, secure, at| Pattern::Same.matches(origin.as_bytes(), asked(secure, at));
        assert!(same("https://a.test", true, Some("A.test")) && same("https://a.test", true, Some("a.test:443")));
        assert!(
            same("http://a.test:8080", false, Some("a.test:8080")) && same("http://[::1]:1", false, Some("[::1]:1"))
        );
        assert!(!same("https://a.test", false, Some("a.test")) && !same("http://a.test", true, Some("a.test")));
        assert!(!same("https://b.test", true, Some("a.test")) && !same("https://a.test", true, None));
        assert!(!same("http://a.test:8080", false, Some("a.test")) && !same("null", true, Some("null")));
    }

    #[test]
    fn a_page_of_no_site_is_let_in_by_name_only() {
        assert!(matches("null", "null") && !matches("same", "null") && !matches("null", "https://a.test"));
    }

    #[test]
    fn patterns_read_and_print_the_same_and_faults_say_what_would_do() {
        for text in [
            "same",
            "null",
            "*",
            "https://app.example.com",
            "https://*.example.com:8443",
            "http://localhost:*",
            "file://",
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        assert_eq!("HTTPS://A.test:443".parse::<Pattern>().unwrap().to_string(), "https://a.test");
        for (bad, hint) in [
            ("app.example.com", "begin with the scheme"),
            ("https://app.example.com/", "leave out the path"),
            ("https://u@app.example.com", "leave out the user"),
            ("https://a.*.com", "first label"),
            ("https://*", "first label"),
            ("https://", "a scheme, a host"),
            ("https://a.test:0", "a port"),
            ("https://münchen.de", "xn--"),
        ] {
            let told = bad.parse::<Pattern>().unwrap_err();
            assert!(told.contains(hint), "{bad}: {told}");
        }
    }

    proptest! {
        #[test]
        fn no_origin_is_taken_for_another(origin in "[a-z]{1,5}(://)?[a-z.:@/#0-9*\\[\\]]{0,20}") {
            let site: Pattern = "https://a.b".parse().unwrap();
            let is_it = matches!(&*origin.to_ascii_lowercase(), "https://a.b" | "https://a.b:443");
            prop_assert_eq!(site.matches(origin.as_bytes(), asked(true, None)), is_it);
        }

        #[test]
        fn reading_a_pattern_never_panics(text in "\\PC{0,40}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>(), Ok(pattern));
            }
        }
    }
}
