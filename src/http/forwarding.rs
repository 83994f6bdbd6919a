//! What servers are told about the client: `X-Forwarded-*`, `X-Real-IP`, `Forwarded` (RFC 7239) and the request id.
//!
//! What a trusted proxy says is kept and added to; what anybody else says is replaced.

use std::fmt::Write;
use std::net::IpAddr;
use std::ops::Deref;

use super::config::Forwarding;
use crate::request::{Headers, elements};
use crate::text::Text;

/// The fields that say who the client is; none of them passes from a stranger.
const ORIGIN_FIELDS: [&str; 6] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded"];

/// One request as the connection shows it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// The port that the client reached.
    pub local_port: u16,
    /// Whether the client speaks TLS to the gateway.
    pub secure: bool,
    /// The authority that the client asked for, as sent.
    pub authority: Option<&'a str>,
    /// The fields that it sent.
    pub headers: Headers<'a>,
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
        let origin = ORIGIN_FIELDS.into_iter().position(is);
        origin.is_some_and(|field| !trusted || self.tells(field))
    }

    /// Whether the gateway writes the field at this place of [`ORIGIN_FIELDS`].
    fn tells(&self, field: usize) -> bool {
        [
            self.x_forwarded_for,
            self.x_forwarded_proto,
            self.x_forwarded_host,
            self.x_forwarded_port,
            self.x_real_ip,
            self.forwarded,
        ][field]
    }

    /// Hands out every field that the server is to see, name and value; `trusted` is what [`Self::trusts`] says of the
    /// peer.
    pub fn tell(&self, seen: &Seen<'_>, trusted: bool, request_id: &str, mut field: impl FnMut(Name<'_>, &str)) {
        let peer = seen.peer.to_canonical();
        let address = Text::address(peer);
        let before = |name: &str| {
            let value = trusted.then(|| seen.headers.get(name)).flatten()?;
            std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
        };
        // What came before, and the last hop behind it.
        let chain = |name: &str, last: &str, field: &mut dyn FnMut(&str)| {
            let before = || seen.headers.all(name).filter_map(|hop| std::str::from_utf8(hop).ok());
            if !trusted || before().next().is_none() {
                return field(last);
            }
            let mut value = String::new();
            for hop in before().chain([last]) {
                let comma = if value.is_empty() { "" } else { ", " };
                let _ = write!(value, "{comma}{hop}");
            }
            field(&value);
        };
        let scheme = if seen.secure { "https" } else { "http" };
        if self.x_forwarded_for {
            chain("x-forwarded-for", &address, &mut |value| field(Name::Known("X-Forwarded-For"), value));
        }
        if self.x_forwarded_proto {
            field(Name::Known("X-Forwarded-Proto"), before("x-forwarded-proto").unwrap_or(scheme));
        }
        if self.x_forwarded_host
            && let Some(host) = before("x-forwarded-host").or(seen.authority)
        {
            field(Name::Known("X-Forwarded-Host"), host);
        }
        if self.x_forwarded_port {
            match before("x-forwarded-port") {
                Some(port) => field(Name::Known("X-Forwarded-Port"), port),
                None => field(Name::Known("X-Forwarded-Port"), &Text::number(seen.local_port.into())),
            }
        }
        if self.x_real_ip {
            match before("x-real-ip") {
                Some(address) => field(Name::Known("X-Real-IP"), address),
                None if trusted => {
                    field(Name::Known("X-Real-IP"), &Text::address(self.client(seen.peer, seen.headers)))
                }
                None => field(Name::Known("X-Real-IP"), &address),
            }
        }
        if self.forwarded {
            let mut hop = match peer {
                IpAddr::V4(address) => format!("for={address}"),
                IpAddr::V6(address) => format!("for=\"[{address}]\""),
            };
            if let Some(host) = seen.authority.filter(|host| !host.contains(['"', '\\'])) {
                let _ = write!(hop, ";host=\"{host}\"");
            }
            let _ = write!(hop, ";proto={scheme}");
            chain("forwarded", &hop, &mut |value| field(Name::Known("Forwarded"), value));
        }
        if !self.request_id.is_empty() {
            field(Name::Chosen(&self.request_id), request_id);
        }
    }

    /// The id of a request: the one that a trusted proxy gave it, or a new one of 128 random bits.
    pub fn request_id(&self, peer: IpAddr, headers: Headers<'_>) -> String {
        let asked = !self.request_id.is_empty() && self.trusts(peer);
        let given = asked.then(|| headers.get(&self.request_id.to_ascii_lowercase())).flatten();
        let plain = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        match given.and_then(|id| std::str::from_utf8(id).ok()).filter(plain) {
            Some(id) => id.to_owned(),
            None => (*Text::hexadecimal(rand::random())).to_owned(),
        }
    }
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
        let seen = Seen {
            peer: peer.parse().unwrap(),
            local_port: 443,
            secure: true,
            authority: Some("example.com"),
            headers: Headers::Fields(&fields),
        };
        let mut told = Vec::new();
        forwarding.tell(&seen, forwarding.trusts(seen.peer), "id", |name, value| {
            told.push(((*name).to_owned(), value.to_owned()))
        });
        told
    }

    fn value<'a>(told: &'a [(String, String)], name: &str) -> &'a str {
        &told.iter().find(|(told, _)| told == name).unwrap().1
    }

    fn trusting() -> Forwarding {
        Forwarding { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], forwarded: true, ..Forwarding::default() }
    }

    const SPOOFED: [(&str, &str); 4] = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Forwarded-Proto", "gopher"),
        ("Forwarded", "for=6.6.6.6"),
    ];

    #[test]
    fn what_a_stranger_says_is_replaced() {
        let told = tell(&trusting(), "203.0.113.9", &SPOOFED);
        assert_eq!(value(&told, "X-Forwarded-For"), "203.0.113.9");
        assert_eq!(value(&told, "X-Real-IP"), "203.0.113.9");
        assert_eq!(value(&told, "X-Forwarded-Proto"), "https");
        assert_eq!(value(&told, "X-Forwarded-Host"), "example.com");
        assert_eq!(value(&told, "X-Forwarded-Port"), "443");
        assert_eq!(value(&told, "Forwarded"), "for=203.0.113.9;host=\"example.com\";proto=https");
        for (name, _) in SPOOFED {
            assert!(trusting().replaces(name, false), "{name}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let told = tell(&trusting(), "10.1.2.3", &SPOOFED);
        assert_eq!(value(&told, "X-Forwarded-For"), "6.6.6.6, 10.1.2.3");
        assert_eq!(value(&told, "X-Real-IP"), "6.6.6.6");
        assert_eq!(value(&told, "X-Forwarded-Proto"), "gopher");
        assert_eq!(value(&told, "Forwarded"), "for=6.6.6.6, for=10.1.2.3;host=\"example.com\";proto=https");
    }

    #[test]
    fn switched_off_fields_still_do_not_pass_from_strangers() {
        let off = Forwarding { x_real_ip: false, ..trusting() };
        assert!(off.replaces("X-Real-IP", false));
        assert!(!off.replaces("X-Real-IP", true));
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
        assert_eq!(trusting().request_id("10.0.0.1".parse().unwrap(), headers), "abc");
        let fresh = trusting().request_id("203.0.113.9".parse().unwrap(), headers);
        assert!(fresh.len() == 32 && fresh != trusting().request_id("203.0.113.9".parse().unwrap(), headers));
    }
}
