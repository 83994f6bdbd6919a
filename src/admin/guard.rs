//! Whose word the admin address obeys: an operator's and his tools', but not that of a page of some other site, which an
//! operator's browser could be made to carry.

use std::net::IpAddr;

use ::http::StatusCode;
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::endpoints::Purpose;
use crate::http::head::Head;
use crate::reload::tokens::hash;
use crate::request::{Headers, host_name};

/// Why a request is not obeyed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Objection {
    pub(super) status: StatusCode,
    /// A sentence for whoever sent it.
    pub(super) told: String,
}

/// What the configuration says of who may ask.
pub(super) struct Terms<'a> {
    /// Names by which the address may be asked, besides addresses and `localhost`.
    pub(super) hosts: &'a [String],
    /// Hashes of the tokens of which one has to be shown; none where there are none.
    pub(super) tokens: &'a [[u8; 32]],
    /// Whether a client certificate would do.
    pub(super) certificates: bool,
}

/// How a request came.
#[derive(Clone, Copy, Default)]
pub(super) struct Way {
    /// Over a Unix socket.
    pub(super) over_unix: bool,
    /// From somebody who has shown a client certificate that holds.
    pub(super) certified: bool,
}

/// Why a request is not obeyed, if it isn't: it comes from a page of another site, asks for a name that is not known, or
/// does not show who sends it.
///
/// Browsers say of each request that a page makes where that page is from (`Origin`, `Sec-Fetch-Site`). A page whose name
/// was made to point here after it was loaded is of the same site for them, and shows in `Host` only. The dashboard's own
/// files, which tell nothing, may be opened from anywhere and by anybody.
pub(super) fn objection(head: &Head<'_>, purpose: Purpose, terms: &Terms<'_>, way: Way) -> Option<Objection> {
    let object = |status, told| Some(Objection { status, told });
    match purpose {
        Purpose::Probe => return None,
        Purpose::Page => {}
        Purpose::Operation => {
            if let Some(told) = foreign(head) {
                return object(StatusCode::FORBIDDEN, told);
            }
        }
    }
    if let Some(host) = unknown_host(head, terms.hosts, way.over_unix) {
        let told = format!(
            "this address does not go by the name of `{host}`: ask it by its IP address, as localhost, or by a name that \
             `admin.hosts` in its configuration lists\n"
        );
        return object(StatusCode::MISDIRECTED_REQUEST, told);
    }
    if purpose == Purpose::Page || is_known_to(head, terms, way) {
        return None;
    }
    let told = match (terms.tokens.is_empty(), terms.certificates) {
        (false, false) => "expected a token of `admin.token_file`, in `Authorization: Bearer`\n",
        (false, true) => {
            "expected a token of `admin.token_file`, in `Authorization: Bearer`, or a client certificate\n"
        }
        (true, _) => "expected a client certificate\n",
    };
    object(StatusCode::UNAUTHORIZED, told.to_owned())
}

/// What says that a page of another site makes the request.
fn foreign(head: &Head<'_>) -> Option<String> {
    let headers = Headers::Fields(head.fields);
    let foreign_site = |site: &&[u8]| !matches!(*site, b"same-origin" | b"none");
    if let Some(site) = headers.all("sec-fetch-site").find(foreign_site) {
        let site = String::from_utf8_lossy(site);
        return Some(format!("pages of other sites may not ask this address (Sec-Fetch-Site: {site})\n"));
    }
    let foreign_origin = |origin: &&[u8]| !is_own(origin, head.authority().unwrap_or_default());
    let origin = headers.all("origin").find(foreign_origin)?;
    let origin = String::from_utf8_lossy(origin);
    Some(format!("pages of other sites may not ask this address (Origin: {origin})\n"))
}

/// The host that is asked, where that is no name of this address.
fn unknown_host<'a>(head: &Head<'a>, hosts: &[String], over_unix: bool) -> Option<&'a str> {
    // No browser leaves out the host, or reaches a Unix socket.
    head.authority().filter(|host| !over_unix && !is_known(host, hosts))
}

/// Whether whoever asks has shown what is asked for.
fn is_known_to(head: &Head<'_>, terms: &Terms<'_>, way: Way) -> bool {
    if terms.tokens.is_empty() && !terms.certificates || way.certified {
        return true;
    }
    let shown = Headers::Fields(head.fields).get("authorization").and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
    });
    shown.is_some_and(|shown| {
        let shown = hash(shown);
        // All of them are looked at, so that the time tells nothing of which it was.
        terms.tokens.iter().fold(false, |known, token| known | verify_slices_are_equal(token, &shown).is_ok())
    })
}

/// Whether an origin (RFC 6454) is that of the host that is asked, whoever adds TLS in front of it.
fn is_own(origin: &[u8], host: &str) -> bool {
    let origin = String::from_utf8_lossy(origin);
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Whether a host is one that no stranger can make point here: an address, `localhost`, or a name that the operator lists.
fn is_known(host: &str, hosts: &[String]) -> bool {
    let name = host_name(host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    bare.parse::<IpAddr>().is_ok() || name == "localhost" || hosts.iter().any(|known| **known == *name)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::http::head;

    fn objection_of(fields: &str, purpose: Purpose, terms: &Terms<'_>, way: Way) -> Option<Objection> {
        let bytes = BytesMut::from(format!("GET /status HTTP/1.0\r\n{fields}\r\n").as_bytes());
        objection(&head::parse(&bytes, &mut head::room(), 0).unwrap(), purpose, terms, way)
    }

    fn objection_to(fields: &str, over_unix: bool) -> Option<String> {
        let hosts = ["gateway.internal".to_owned()];
        let terms = Terms { hosts: &hosts, tokens: &[], certificates: false };
        let way = Way { over_unix, certified: false };
        objection_of(fields, Purpose::Operation, &terms, way).map(|objection| objection.told)
    }

    #[test]
    fn tokens_and_certificates_are_asked_for_where_there_are_any() {
        let tokens = [hash(b"0123456789abcdef"), hash(b"fedcba9876543210")];
        let status = |fields: &str, tokens, certificates, certified| {
            let terms = Terms { hosts: &[], tokens, certificates };
            let way = Way { over_unix: false, certified };
            objection_of(fields, Purpose::Operation, &terms, way).map(|objection| objection.status.as_u16())
        };
        for good in ["Bearer 0123456789abcdef", "bearer fedcba9876543210", "Bearer  0123456789abcdef "] {
            assert_eq!(status(&format!("Authorization: {good}\r\n"), &tokens, false, false), None, "{good}");
        }
        for bad in ["Bearer 0123456789abcdeg", "Bearer ", "Bearer", "Basic 0123456789abcdef", "0123456789abcdef"] {
            let field = format!("Authorization: {bad}\r\n");
            assert_eq!(status(&field, &tokens, false, false), Some(401), "{bad}");
            assert_eq!(status(&field, &tokens, true, true), None, "a certificate does as well");
            assert_eq!(status(&field, &[], true, false), Some(401));
            assert_eq!(status(&field, &[], false, false), None);
        }
        assert_eq!(status("Origin: https://evil.example\r\n", &tokens, true, true), Some(403), "whoever it is");
        let terms = Terms { hosts: &[], tokens: &tokens, certificates: false };
        for (purpose, host) in [(Purpose::Probe, "evil.example"), (Purpose::Page, "localhost")] {
            let fields = format!("Host: {host}\r\nSec-Fetch-Site: cross-site\r\n");
            assert_eq!(objection_of(&fields, purpose, &terms, Way::default()), None);
        }
        let page = objection_of("Host: evil.example\r\n", Purpose::Page, &terms, Way::default()).unwrap();
        assert_eq!(page.status, 421);
    }

    #[test]
    fn only_names_that_no_stranger_can_point_here_are_known() {
        for host in [
            "127.0.0.1:9901",
            "10.0.0.7",
            "[::1]:9901",
            "[2001:db8::7]",
            "localhost",
            "LocalHost:9901",
            "localhost.:80",
            "gateway.internal",
            "Gateway.Internal:9901",
        ] {
            assert_eq!(objection_to(&format!("Host: {host}\r\n"), false), None, "{host}");
        }
        for host in
            ["evil.example:9901", "evil.example", "x.localhost", "xgateway.internal", "127.0.0.1.evil.example", ""]
        {
            let told = objection_to(&format!("Host: {host}\r\n"), false).unwrap();
            assert!(told.contains(&format!("the name of `{host}`")), "{told}");
            assert_eq!(objection_to(&format!("Host: {host}\r\n"), true), None, "{host} over a Unix socket");
        }
        assert_eq!(objection_to("", false), None, "HTTP/1.0 has no host");
    }

    #[test]
    fn pages_of_other_sites_are_not_obeyed() {
        for fields in [
            "Origin: http://127.0.0.1:9901\r\n",
            "Origin: https://127.0.0.1:9901\r\nSec-Fetch-Site: same-origin\r\n",
            "Sec-Fetch-Site: none\r\n",
        ] {
            assert_eq!(objection_to(&format!("Host: 127.0.0.1:9901\r\n{fields}"), false), None, "{fields}");
        }
        for fields in [
            "Origin: https://evil.example\r\n",
            "Origin: null\r\n",
            "Origin: http://127.0.0.1:8080\r\n",
            "Origin: http://127.0.0.1\r\n",
            "Origin: http://127.0.0.1:9901\r\nOrigin: https://evil.example\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
            "Sec-Fetch-Site: same-site\r\n",
            "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
        ] {
            for over_unix in [false, true] {
                let told = objection_to(&format!("Host: 127.0.0.1:9901\r\n{fields}"), over_unix);
                assert!(told.unwrap().starts_with("pages of other sites"), "{fields}");
            }
        }
    }
}
