//! All that a decision may look at: a borrowed view of one request, whatever engine read it.

pub mod path;
#[cfg(test)]
pub(crate) mod testing;

use std::borrow::Cow;
use std::net::IpAddr;
use std::slice;

use ::http::{HeaderMap, HeaderName, HeaderValue, header};

pub use path::Path;

/// One request, as routers and balances see it.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The host asked for: lower case, without port or final dot. `None` where the client named none (HTTP/1.0).
    pub host: Option<Cow<'a, str>>,
    /// The path, read the way a server would read it.
    pub path: Path<'a>,
    /// What follows the `?`, as sent.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: Headers<'a>,
    /// Whether the request opens a WebSocket, by strict rules (RFC 6455 4.1).
    pub websocket: bool,
    /// The listener that it came in by.
    pub listener: &'a str,
    /// The port that the client reached.
    pub port: u16,
    /// Whether the client speaks TLS to the gateway.
    pub secure: bool,
    /// The name that the client asked for in TLS, of the gateway or of the proxy that tells of it.
    pub server_name: Option<&'a str>,
    /// The client: the peer of the connection, or who a trusted proxy says it is.
    pub client: IpAddr,
}

impl<'a> Request<'a> {
    /// One that says nothing, to try rules on.
    pub(crate) fn nothing() -> Self {
        Self {
            method: "",
            host: None,
            path: Path { canonical: Cow::Borrowed("/"), loose: Vec::new() },
            query: None,
            headers: Headers::Fields(&[]),
            websocket: false,
            listener: "",
            port: 0,
            secure: false,
            server_name: None,
            client: IpAddr::from([0; 4]),
        }
    }

    /// The first value of a parameter of the query, not decoded.
    pub fn query_value(&self, name: &str) -> Option<&'a str> {
        self.query?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }

    /// The first cookie of this name (RFC 6265), over all `Cookie` fields: HTTP/2 clients send several.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.headers.all("cookie").filter_map(|value| std::str::from_utf8(value).ok()).find_map(|cookies| {
            cookies.split(';').find_map(|pair| {
                let (key, value) = pair.trim().split_once('=')?;
                (key == name).then_some(value)
            })
        })
    }
}

/// Header fields, borrowed from whoever parsed them.
#[derive(Clone, Copy, Debug)]
pub enum Headers<'a> {
    /// A parsed map, as the HTTP/2 and Pingora engines have it.
    Map(&'a HeaderMap),
    /// Fields in the order of the wire.
    Fields(&'a [httparse::Header<'a>]),
}

impl<'a> Headers<'a> {
    /// The first value of a field; `name` in lower case.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        match self {
            Self::Map(map) => map.get(name).map(|value| value.as_bytes()),
            Self::Fields(fields) => {
                fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
            }
        }
    }

    /// Every value of a field, in order; `name` in lower case.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        match *self {
            Self::Map(map) => Values::Map(map.get_all(name).into_iter()),
            Self::Fields(fields) => Values::Fields(fields.iter(), name),
        }
    }

    /// Hands out every field, name and value, in order.
    pub(crate) fn each(&self, mut field: impl FnMut(&str, &[u8])) {
        match self {
            Self::Map(map) => map.iter().for_each(|(name, value)| field(name.as_str(), value.as_bytes())),
            Self::Fields(fields) => fields.iter().for_each(|sent| field(sent.name, sent.value)),
        }
    }

    /// Whether an element of the field's comma-separated lists is `token`, whatever the case (RFC 9110 5.6.1).
    pub fn lists(&self, name: &str, token: &str) -> bool {
        let holds = |value: &[u8]| elements(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()));
        match self {
            Self::Map(map) => map.get_all(name).into_iter().any(|value| holds(value.as_bytes())),
            Self::Fields(fields) => {
                fields.iter().any(|field| field.name.eq_ignore_ascii_case(name) && holds(field.value))
            }
        }
    }
}

/// The values of one field.
enum Values<'a, 'n> {
    Map(header::ValueIter<'a, HeaderValue>),
    /// Those that are left, and the name.
    Fields(slice::Iter<'a, httparse::Header<'a>>, &'n str),
}

impl<'a> Iterator for Values<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Self::Map(values) => values.next().map(HeaderValue::as_bytes),
            Self::Fields(fields, name) => {
                fields.find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
            }
        }
    }
}

/// The elements of a comma-separated list, without the white space around them and without empty ones.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether a text is a token (RFC 9110 5.6.2), as methods and the names of fields and cookies have to be.
pub fn is_token(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

/// A host as clients write it (`Example.com:8080`, `[::1]:80`, `example.com.`) without port, final dot and upper case.
pub fn host_name(authority: &str) -> Cow<'_, str> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(authority, |(inside, _)| &authority[..inside.len() + 2]),
        None => authority.bytes().position(|byte| byte == b':').map_or(authority, |colon| &authority[..colon]),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_the_rfc() {
        for byte in 0..=127u8 {
            let tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(&format!("a{}", char::from(byte))), tchar, "{byte}");
        }
        assert!(is_token("!") && !is_token("") && !is_token("\u{e9}"));
    }

    #[test]
    fn hosts_lose_port_dot_and_case() {
        for (written, host) in [
            ("Example.COM:8080", "example.com"),
            ("example.com.", "example.com"),
            ("example.com", "example.com"),
            ("[::1]:80", "[::1]"),
            ("[::1", "[::1"),
            ("", ""),
        ] {
            assert_eq!(host_name(written), host, "{written}");
        }
    }

    #[test]
    fn lists_are_searched_element_by_element_over_all_fields_of_the_name() {
        let fields = [
            httparse::Header { name: "Connection", value: b"keep-alive , UPGRADE" },
            httparse::Header { name: "connection", value: b"x" },
        ];
        let headers = Headers::Fields(&fields);
        assert!(headers.lists("connection", "upgrade") && headers.lists("connection", "x"));
        assert!(!headers.lists("connection", "up") && !headers.lists("upgrade", "x"));
        let mut map = HeaderMap::new();
        map.append("connection", "a, b".parse().unwrap());
        map.append("connection", "c".parse().unwrap());
        assert!(Headers::Map(&map).lists("connection", "c"));
        assert_eq!(Headers::Map(&map).all("connection").count(), 2);
        assert_eq!(headers.all("connection").count(), 2);
    }

    #[test]
    fn queries_and_cookies_are_found_by_their_whole_name() {
        let fields = [
            httparse::Header { name: "Cookie", value: b"a=1; io=abc" },
            httparse::Header { name: "Cookie", value: b"b=2" },
        ];
        let request = testing::request("GET", "/?xsid=no&sid=yes&flag", &fields);
        assert_eq!(request.query_value("sid"), Some("yes"));
        assert_eq!(request.query_value("flag"), Some(""));
        assert_eq!(request.query_value("id"), None);
        assert_eq!((request.cookie("io"), request.cookie("b"), request.cookie("o")), (Some("abc"), Some("2"), None));
    }
}
