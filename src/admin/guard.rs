//! Whose word the admin address obeys: an operator's and his tools', but not that of a page of some other site, which an
//! operator's browser could be made to carry.

use std::net::IpAddr;

use crate::http::head::Head;
use crate::request::{Headers, host_name};

/// Why a request is not obeyed, in a sentence for whoever sent it.
///
/// Browsers say of each request that a page makes where that page is from (`Origin`, `Sec-Fetch-Site`). A page whose name
/// was made to point here after it was loaded is of the same site for them, and shows in `Host` only.
pub(super) fn objection(head: &Head<'_>, hosts: &[String], over_unix: bool) -> Option<String> {
    let headers = Headers::Fields(head.fields);
    let authority = head.authority();
    let foreign_site = |site: &&[u8]| !matches!(*site, b"same-origin" | b"none");
    if let Some(site) = headers.all("sec-fetch-site").find(foreign_site) {
        let site = String::from_utf8_lossy(site);
        return Some(format!("pages of other sites may not ask this address (Sec-Fetch-Site: {site})\n"));
    }
    let foreign_origin = |origin: &&[u8]| !is_own(origin, authority.unwrap_or_default());
    if let Some(origin) = headers.all("origin").find(foreign_origin) {
        let origin = String::from_utf8_lossy(origin);
        return Some(format!("pages of other sites may not ask this address (Origin: {origin})\n"));
    }
    // No browser leaves out the host, or reaches a Unix socket.
    let host = authority.filter(|_| !over_unix)?;
    (!is_known(host, hosts)).then(|| {
        format!(
            "this address does not go by the name of `{host}`: ask it by its IP address, as localhost, or by a name that \
             `admin.hosts` in its configuration lists\n"
        )
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

    fn objection_to(fields: &str, over_unix: bool) -> Option<String> {
        let hosts = ["gateway.internal".to_owned()];
        let bytes = BytesMut::from(format!("GET /status HTTP/1.0\r\n{fields}\r\n").as_bytes());
        objection(&head::parse(&bytes, &mut head::room(), 0).unwrap(), &hosts, over_unix)
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
