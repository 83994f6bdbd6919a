//! What servers are told about the client: `X-Forwarded-*`, `X-Real-IP`, `Forwarded` (RFC 7239) and the request id.
//!
//! The chain of addresses that a trusted proxy sends is kept and added to. Of what else it sends only those fields count
//! that it sets itself (`believe`): the others may be its visitor's. What anybody else says is replaced.

use std::fmt::Write;
use std::net::IpAddr;
use std::ops::Deref;

use super::config::Forwarding;
use super::origin::is_origin;
use super::request_id::RequestId;
use crate::request::{Headers, elements, is_token};
use crate::text::Text;

/// One request as the connection shows it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// Who the client is: what [`Forwarding::client`] says.
    pub client: IpAddr,
    /// The port that the client reached.
    pub local_port: u16,
    /// Whether the client speaks TLS to the gateway.
    pub secure: bool,
    /// The authority that the client asked for, as sent.
    pub authority: Option<&'a str>,
    /// The fields that it sent.
    pub headers: Headers<'a>,
}

/// What a client has asked for, where proxies before the gateway are believed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Whether that is by https.
    pub secure: bool,
    /// The host, and perhaps a port.
    pub authority: Option<&'a str>,
}

/// The name of a field that is told.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    /// One that everybody uses.
    Known(&'static str),
    /// One that the operator has chosen.
    Chosen(&'a str),
}

impl Deref for Name<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Known(name) => name,
            Self::Chosen(name) => name,
        }
    }
}

impl Forwarding {
    /// Whether a peer is one of the trusted proxies.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// Who the client is: the peer, or the last address that a chain of trusted proxies vouches for.
    pub fn client(&self, peer: IpAddr, headers: Headers<'_>) -> IpAddr {
        if self.trusted_proxies.is_empty() || !self.trusts(peer) {
            return peer.to_canonical();
        }
        let mut client = peer;
        let hops: Vec<&[u8]> = headers.all("x-forwarded-for").flat_map(elements).collect();
        for hop in hops.into_iter().rev() {
            let Some(address) = std::str::from_utf8(hop).ok().and_then(parse_address) else {
                break;
            };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client.to_canonical()
    }

    /// What the client has asked for: as the connection shows it, or as a trusted proxy says that is believed.
    pub fn asked<'a>(&self, peer: IpAddr, secure: bool, authority: Option<&'a str>, headers: Headers<'a>) -> Asked<'a> {
        if self.believe.is_empty() || !self.trusts(peer) {
            return Asked { secure, authority };
        }
        let scheme = self.before("x-forwarded-proto", headers);
        Asked {
            secure: scheme.map_or(secure, |scheme| scheme.eq_ignore_ascii_case("https")),
            authority: self.before("x-forwarded-host", headers).or(authority),
        }
    }

    /// What the trusted proxy says in a field. One that adds its own behind its visitor's has the last word.
    fn before<'a>(&self, name: &str, headers: Headers<'a>) -> Option<&'a str> {
        let values = self.believes(name).then(|| headers.all(name));
        let value = values.into_iter().flatten().last()?;
        std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
    }

    /// Whether an incoming field is dropped before [`Self::tell`] adds the gateway's own; `trusted` is what
    /// [`Self::trusts`] says of the peer.
    pub fn replaces(&self, name: &str, trusted: bool) -> bool {
        let is = |field: &str| name.eq_ignore_ascii_case(field);
        // `Proxy` would become HTTP_PROXY in CGI programs (httpoxy).
        if is("proxy") {
            return true;
        }
        if !self.request_id.is_empty() && is(&self.request_id) {
            return true;
        }
        is_origin(name) && (!trusted || self.tells(name) || !self.believes(name))
    }

    /// Whether the gateway writes the field itself.
    fn tells(&self, name: &str) -> bool {
        let is = |field: &str| name.eq_ignore_ascii_case(field);
        self.x_forwarded_for && is("x-forwarded-for")
            || self.x_forwarded_proto && is("x-forwarded-proto")
            || self.x_forwarded_host && is("x-forwarded-host")
            || self.x_forwarded_port && is("x-forwarded-port")
            || self.forwarded && is("forwarded")
    }

    /// Whether a field is taken from trusted proxies. Their chain of addresses always is, an address that nothing vouches
    /// for never.
    fn believes(&self, name: &str) -> bool {
        let is = |field: &str| name.eq_ignore_ascii_case(field);
        is("x-forwarded-for") || !is("x-real-ip") && self.believe.iter().any(|field| is(field))
    }

    /// Hands out every field that the server is to see, name and value; `trusted` is what [`Self::trusts`] says of the
    /// peer.
    pub fn tell(&self, seen: &Seen<'_>, trusted: bool, request_id: &RequestId, mut field: impl FnMut(Name<'_>, &[u8])) {
        let peer = seen.peer.to_canonical();
        let before = |name: &str| if trusted { self.before(name, seen.headers) } else { None };
        // What came before, and the last hop behind it.
        let chain = |name: &str, last: &[u8], field: &mut dyn FnMut(&[u8])| {
            let before = || seen.headers.all(name).filter(|hop| std::str::from_utf8(hop).is_ok());
            if !trusted || before().next().is_none() {
                return field(last);
            }
            let hops: Vec<&[u8]> = before().chain([last]).collect();
            field(&hops.join(&b", "[..]));
        };
        let scheme = if seen.secure { "https" } else { "http" };
        let (before_scheme, before_host) = (before("x-forwarded-proto"), before("x-forwarded-host"));
        if self.x_forwarded_for {
            let address = Text::address(peer);
            chain("x-forwarded-for", address.as_bytes(), &mut |value| field(Name::Known("X-Forwarded-For"), value));
        }
        if self.x_forwarded_proto {
            field(Name::Known("X-Forwarded-Proto"), before_scheme.unwrap_or(scheme).as_bytes());
        }
        if self.x_forwarded_host
            && let Some(host) = before_host.or(seen.authority)
        {
            field(Name::Known("X-Forwarded-Host"), host.as_bytes());
        }
        if self.x_forwarded_port {
            match before("x-forwarded-port") {
                Some(port) => field(Name::Known("X-Forwarded-Port"), port.as_bytes()),
                None => {
                    // Where the proxy says how it was reached, the port that it reached is not the client's.
                    let reached = before_scheme.and_then(|scheme| port_of(scheme, before_host.or(seen.authority)));
                    let port = Text::number(reached.unwrap_or(seen.local_port).into());
                    field(Name::Known("X-Forwarded-Port"), port.as_bytes());
                }
            }
        }
        if self.x_real_ip {
            field(Name::Known("X-Real-IP"), Text::address(seen.client).as_bytes());
        }
        if self.forwarded {
            let mut hop = String::new();
            if before("forwarded").is_none() && seen.client != peer {
                hop_of(&mut hop, seen.client, before_host, before_scheme.filter(|scheme| is_token(scheme)));
                hop.push_str(", ");
            }
            hop_of(&mut hop, peer, seen.authority, Some(scheme));
            match before("forwarded") {
                Some(_) => chain("forwarded", hop.as_bytes(), &mut |value| field(Name::Known("Forwarded"), value)),
                None => field(Name::Known("Forwarded"), hop.as_bytes()),
            }
        }
        if !self.request_id.is_empty() {
            field(Name::Chosen(&self.request_id), request_id.as_str().as_bytes());
        }
    }

    /// The id of a request: the one that a trusted proxy gave it, or a new one.
    pub fn request_id(&self, peer: IpAddr, headers: Headers<'_>) -> RequestId {
        let asked = !self.request_id.is_empty() && self.trusts(peer);
        let given = asked.then(|| headers.get(&self.request_id.to_ascii_lowercase())).flatten();
        let plain = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        match given.and_then(|id| std::str::from_utf8(id).ok()).filter(plain) {
            Some(id) => RequestId::Given(id.into()),
            None => RequestId::own(),
        }
    }
}

/// Adds an element of `Forwarded`.
fn hop_of(list: &mut String, address: IpAddr, host: Option<&str>, scheme: Option<&str>) {
    let _ = match address {
        IpAddr::V4(address) => write!(list, "for={address}"),
        IpAddr::V6(address) => write!(list, "for=\"[{address}]\""),
    };
    if let Some(host) = host.filter(|host| !host.contains(['"', '\\'])) {
        let _ = write!(list, ";host=\"{host}\"");
    }
    if let Some(scheme) = scheme {
        let _ = write!(list, ";proto={scheme}");
    }
}

/// The port that a client reached by a scheme and a host.
fn port_of(scheme: &str, authority: Option<&str>) -> Option<u16> {
    let written = authority.and_then(|authority| authority.rsplit_once(':')).and_then(|(_, port)| port.parse().ok());
    written.or(match scheme {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        _ => None,
    })
}

/// An address in a forwarding list: plain, or with a port, or in brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
    let port = || text.parse::<std::net::SocketAddr>().map(|address| address.ip());
    bare.unwrap_or(text).parse().or_else(|_| port()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(forwarding: &Forwarding, peer: &str, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        let (peer, headers) = (peer.parse().unwrap(), Headers::Fields(&fields));
        let client = forwarding.client(peer, headers);
        let seen = Seen { peer, client, local_port: 8443, secure: true, authority: Some("example.com"), headers };
        let mut told = Vec::new();
        forwarding.tell(&seen, forwarding.trusts(seen.peer), &RequestId::Given("id".into()), |name, value| {
            told.push(((*name).to_owned(), String::from_utf8(value.to_vec()).unwrap()))
        });
        told
    }

    fn value<'a>(told: &'a [(String, String)], name: &str) -> &'a str {
        &told.iter().find(|(told, _)| told == name).unwrap().1
    }

    fn trusting() -> Forwarding {
        Forwarding { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], forwarded: true, ..Forwarding::default() }
    }

    const SPOOFED: [(&str, &str); 6] = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Real-IP", "6.6.6.8"),
        ("X-Forwarded-Proto", "gopher"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "1"),
        ("Forwarded", "for=6.6.6.7"),
    ];

    #[test]
    fn what_a_stranger_says_is_replaced() {
        let told = tell(&trusting(), "203.0.113.9", &SPOOFED);
        assert_eq!(value(&told, "X-Forwarded-For"), "203.0.113.9");
        assert_eq!(value(&told, "X-Real-IP"), "203.0.113.9");
        assert_eq!(value(&told, "X-Forwarded-Proto"), "https");
        assert_eq!(value(&told, "X-Forwarded-Host"), "example.com");
        assert_eq!(value(&told, "X-Forwarded-Port"), "8443");
        assert_eq!(value(&told, "Forwarded"), "for=203.0.113.9;host=\"example.com\";proto=https");
        for (name, _) in SPOOFED {
            assert!(trusting().replaces(name, false), "{name}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_sets_is_kept_and_added_to() {
        let all =
            ["X-Forwarded-Proto", "x-forwarded-host", "X-Forwarded-Port", "Forwarded"].map(str::to_owned).to_vec();
        let told = tell(&Forwarding { believe: all, ..trusting() }, "10.1.2.3", &SPOOFED);
        assert_eq!(value(&told, "X-Forwarded-For"), "6.6.6.6, 10.1.2.3");
        assert_eq!(value(&told, "X-Real-IP"), "6.6.6.6", "the client that it vouches for");
        assert_eq!(value(&told, "X-Forwarded-Proto"), "gopher");
        assert_eq!(value(&told, "X-Forwarded-Host"), "evil.example");
        assert_eq!(value(&told, "X-Forwarded-Port"), "1");
        assert_eq!(value(&told, "Forwarded"), "for=6.6.6.7, for=10.1.2.3;host=\"example.com\";proto=https");
    }

    #[test]
    fn what_a_visitor_sends_through_a_trusted_proxy_is_not_believed() {
        let told = tell(&trusting(), "10.1.2.3", &SPOOFED);
        assert_eq!(value(&told, "X-Real-IP"), "6.6.6.6", "X-Forwarded-For vouches for it, and X-Real-IP for nobody");
        assert_eq!(value(&told, "X-Forwarded-Host"), "example.com");
        assert_eq!(value(&told, "X-Forwarded-Port"), "8443", "nobody knows what port a gopher asks at");
        let forwarded = "for=6.6.6.6;proto=gopher, for=10.1.2.3;host=\"example.com\";proto=https";
        assert_eq!(value(&told, "Forwarded"), forwarded);
        let twice = [("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "https")];
        assert_eq!(
            value(&tell(&trusting(), "10.1.2.3", &twice), "X-Forwarded-Proto"),
            "https",
            "the proxy's is the last"
        );
        let none = Forwarding { believe: Vec::new(), ..trusting() };
        assert_eq!(value(&tell(&none, "10.1.2.3", &SPOOFED), "X-Forwarded-Proto"), "https");
    }

    #[test]
    fn a_proxy_that_says_by_what_scheme_it_was_reached_says_the_port_too() {
        let port = |scheme: &str| {
            let told = tell(&trusting(), "10.1.2.3", &[("X-Forwarded-Proto", scheme)]);
            value(&told, "X-Forwarded-Port").to_owned()
        };
        assert_eq!((port("https"), port("http")), ("443".to_owned(), "80".to_owned()));
        assert_eq!((port_of("https", Some("a:8080")), port_of("http", Some("[::1]"))), (Some(8080), Some(80)));
    }

    #[test]
    fn switched_off_fields_pass_only_from_proxies_that_set_them() {
        let believe = vec!["X-Forwarded-Host".to_owned(), "True-Client-IP".to_owned()];
        let off = Forwarding { x_real_ip: false, x_forwarded_host: false, believe, ..trusting() };
        for (name, from_a_proxy) in [
            ("X-Real-IP", false),
            ("X-Forwarded-Host", true),
            ("true-client-ip", true),
            ("X-Forwarded-Ssl", false),
            ("X-Original-URL", false),
        ] {
            assert!(off.replaces(name, false), "{name}");
            assert_eq!(!off.replaces(name, true), from_a_proxy, "{name}");
        }
        assert!(!tell(&off, "203.0.113.9", &[]).iter().any(|(name, _)| name == "X-Real-IP"));
    }

    #[test]
    fn the_client_is_the_last_one_that_trusted_proxies_vouch_for() {
        let fields = [httparse::Header { name: "X-Forwarded-For", value: b"6.6.6.6, 198.51.100.7:99, 10.0.0.9" }];
        let headers = Headers::Fields(&fields);
        assert_eq!(trusting().client("10.0.0.1".parse().unwrap(), headers).to_string(), "198.51.100.7");
        assert_eq!(trusting().client("::ffff:10.0.0.1".parse().unwrap(), headers).to_string(), "198.51.100.7");
        assert_eq!(trusting().client("203.0.113.9".parse().unwrap(), headers).to_string(), "203.0.113.9");
        assert_eq!(Forwarding::default().client("10.0.0.1".parse().unwrap(), headers).to_string(), "10.0.0.1");
        let garbage = [httparse::Header { name: "X-Forwarded-For", value: b"6.6.6.6, who?" }];
        assert_eq!(trusting().client("10.0.0.1".parse().unwrap(), Headers::Fields(&garbage)).to_string(), "10.0.0.1");
    }

    #[test]
    fn request_ids_are_new_unless_a_trusted_proxy_gave_one() {
        let fields = [httparse::Header { name: "X-Request-Id", value: b"abc" }];
        let headers = Headers::Fields(&fields);
        assert_eq!(trusting().request_id("10.0.0.1".parse().unwrap(), headers).as_str(), "abc");
        let fresh = trusting().request_id("203.0.113.9".parse().unwrap(), headers);
        assert!(matches!(fresh, RequestId::Own(_)));
    }
}
