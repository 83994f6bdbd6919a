//! Affinity by a cookie of the gateway's own: it names the server in a way that only the gateway reads and makes.

use std::fmt::{self, Write};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

use super::config::{CookieConfig, SameSite, Secure};
use crate::request::Request;

/// Writes and reads the cookie of one upstream.
pub struct CookieAffinity {
    name: Box<str>,
    seal: Option<Seal>,
    /// What is the same in every `Set-Cookie`, behind the value.
    attributes: Box<str>,
    same_site: SameSite,
    secure: Secure,
}

impl CookieAffinity {
    /// The cookie of the upstream of this name.
    pub fn new(config: &CookieConfig, upstream: &str) -> Self {
        let name = config.name_for(upstream);
        let mut attributes = format!("; Path={}", config.path);
        if let Some(age) = config.max_age {
            let _ = write!(attributes, "; Max-Age={}", age.as_secs());
        }
        if config.http_only {
            attributes.push_str("; HttpOnly");
        }
        Self {
            seal: config.secret.as_ref().map(|secret| Seal::new(secret.bytes(), &name)),
            name: name.into(),
            attributes: attributes.into(),
            same_site: config.same_site,
            secure: config.secure,
        }
    }

    /// The value of a `Set-Cookie` field that ties the client to a server. `cross_site` says whether the request was made
    /// by another site's page (`Sec-Fetch-Site`, or an `Origin` that isn't the host), `secure` whether the client speaks
    /// TLS.
    pub fn set(&self, server: u64, cross_site: bool, secure: bool) -> String {
        let secure = match self.secure {
            Secure::Auto => secure,
            Secure::Always => true,
            Secure::Never => false,
        };
        // Browsers drop a cookie of `None` without `Secure` (RFC 6265bis 5.7), and old ones any cookie of `None`.
        let same_site = match self.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None if secure => "; SameSite=None",
            SameSite::None => "",
            SameSite::Auto if secure && cross_site => "; SameSite=None",
            SameSite::Auto | SameSite::Lax => "; SameSite=Lax",
        };
        let value = match &self.seal {
            Some(seal) => encode(&seal.close(server)),
            None => encode(&server.to_be_bytes()),
        };
        let (name, attributes, secure) = (&self.name, &self.attributes, if secure { "; Secure" } else { "" });
        format!("{name}={value}{attributes}{secure}{same_site}")
    }

    /// The server that a value names; `None` unless this gateway, or one of the same secret, wrote it. Whether the server
    /// still exists is the upstream's to say.
    pub fn read(&self, value: &str) -> Option<u64> {
        match &self.seal {
            Some(seal) => seal.open(&decode(value)?),
            None => decode(value).map(u64::from_be_bytes),
        }
    }

    /// The server that the cookie of a request names.
    pub fn find(&self, request: &Request<'_>) -> Option<u64> {
        self.read(request.cookie(&self.name)?)
    }
}

impl fmt::Debug for CookieAffinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieAffinity")
            .field("name", &self.name)
            .field("signed", &self.seal.is_some())
            .finish_non_exhaustive()
    }
}

/// Signs and hides a server: 16 bytes of HMAC-SHA256 over it, then the server under a mask made of those. So equal servers
/// have equal values (there is nothing to gain from more), and nobody without the secret learns or changes which.
struct Seal {
    key: hmac::Key,
    /// A value that was written under another name says nothing under this one.
    name: Box<str>,
}

const TAG: usize = 16;
const SERVER: usize = size_of::<u64>();

impl Seal {
    fn new(secret: &[u8], name: &str) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), name: name.into() }
    }

    fn close(&self, server: u64) -> [u8; TAG + SERVER] {
        let tag = self.tag(server);
        let mut sealed = [0; TAG + SERVER];
        sealed[..TAG].copy_from_slice(&tag);
        sealed[TAG..].copy_from_slice(&(server ^ self.mask(&tag)).to_be_bytes());
        sealed
    }

    fn open(&self, sealed: &[u8; TAG + SERVER]) -> Option<u64> {
        let (tag, masked) = sealed.split_first_chunk::<TAG>()?;
        let server = u64::from_be_bytes(masked.try_into().ok()?) ^ self.mask(tag);
        verify_slices_are_equal(tag, &self.tag(server)).ok().map(|()| server)
    }

    fn tag(&self, server: u64) -> [u8; TAG] {
        self.prf(b"sockgate affinity server", &[&server.to_be_bytes(), self.name.as_bytes()])
    }

    fn mask(&self, tag: &[u8; TAG]) -> u64 {
        u64::from_be_bytes(self.prf(b"sockgate affinity mask", &[tag]))
    }

    /// The first bytes of the HMAC; `purpose` keeps its uses apart.
    fn prf<const N: usize>(&self, purpose: &[u8], parts: &[&[u8]]) -> [u8; N] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose);
        for part in parts {
            context.update(part);
        }
        let mut bytes = [0; N];
        bytes.copy_from_slice(&context.sign().as_ref()[..N]);
        bytes
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The `N` bytes that a text stands for; each has exactly one text.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let written = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (written == N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::affinity::config::Secret;
    use crate::request::testing::request;

    fn signed(secret: &str, name: &str) -> CookieAffinity {
        let secret = Some(Secret::try_from(secret.to_owned()).unwrap());
        let name = Some(name.to_owned());
        CookieAffinity::new(&CookieConfig { name, secret, ..CookieConfig::default() }, "app")
    }

    fn plain() -> CookieAffinity {
        CookieAffinity::new(&CookieConfig::default(), "app")
    }

    fn written(cookie: &CookieAffinity, server: u64) -> String {
        let set = cookie.set(server, false, false);
        let (name, rest) = set.split_once('=').unwrap();
        assert_eq!(name, &*cookie.name);
        rest.split_once(';').unwrap().0.to_owned()
    }

    #[test]
    fn the_value_stands_where_browsers_look_for_it() {
        assert_eq!(plain().set(1, false, false), "sockgate_app=AAAAAAAAAAE; Path=/; HttpOnly; SameSite=Lax");
        let config = CookieConfig {
            name: Some("lb".to_owned()),
            path: "/app".to_owned(),
            http_only: false,
            max_age: Some(Duration::from_secs(86_400)),
            ..CookieConfig::default()
        };
        let set = CookieAffinity::new(&config, "app").set(u64::MAX, false, true);
        assert_eq!(set, "lb=__________8; Path=/app; Max-Age=86400; Secure; SameSite=Lax");
    }

    #[test]
    fn upstreams_have_cookies_of_their_own() {
        let name = |upstream: &str| CookieAffinity::new(&CookieConfig::default(), upstream).name.into_string();
        assert_eq!((name("socket_io"), name("a b;ü")), ("sockgate_socket_io".to_owned(), "sockgate_a_b__".to_owned()));
    }

    #[test]
    fn other_sites_get_the_cookie_only_over_tls() {
        let set = |same_site, secure, cross_site, tls| {
            let config = CookieConfig { same_site, secure, ..CookieConfig::default() };
            let set = CookieAffinity::new(&config, "app").set(1, cross_site, tls);
            set.split_once("; HttpOnly").unwrap().1.to_owned()
        };
        for (same_site, secure, cross_site, tls, attributes) in [
            (SameSite::Auto, Secure::Auto, false, false, "; SameSite=Lax"),
            (SameSite::Auto, Secure::Auto, true, false, "; SameSite=Lax"),
            (SameSite::Auto, Secure::Auto, false, true, "; Secure; SameSite=Lax"),
            (SameSite::Auto, Secure::Auto, true, true, "; Secure; SameSite=None"),
            (SameSite::Auto, Secure::Always, true, false, "; Secure; SameSite=None"),
            (SameSite::Auto, Secure::Never, true, true, "; SameSite=Lax"),
            (SameSite::None, Secure::Auto, false, true, "; Secure; SameSite=None"),
            (SameSite::None, Secure::Auto, true, false, ""),
            (SameSite::Lax, Secure::Auto, true, true, "; Secure; SameSite=Lax"),
            (SameSite::Strict, Secure::Auto, true, true, "; Secure; SameSite=Strict"),
        ] {
            assert_eq!(set(same_site, secure, cross_site, tls), attributes, "{same_site:?} {secure:?}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let cookie = plain();
        let find = |value: &[u8]| {
            let fields = [httparse::Header { name: "Cookie", value }];
            cookie.find(&request("GET", "/", &fields))
        };
        assert_eq!(find(b"a=b; sockgate_app=AAAAAAAAAAE; c=d"), Some(1));
        assert_eq!(find(b"a=b; sockgate_apps=AAAAAAAAAAE"), None);
        assert_eq!(find(b"sockgate_app="), None);
    }

    #[test]
    fn only_the_secret_and_the_name_that_wrote_a_value_read_it() {
        let cookie = signed("a secret of the gateway", "lb");
        let value = written(&cookie, 7);
        assert_eq!((value.len(), cookie.read(&value)), (32, Some(7)));
        assert_eq!(signed("a secret of the gateway", "lb").read(&value), Some(7));
        assert_eq!(signed("a secret of another one", "lb").read(&value), None);
        assert_eq!(signed("a secret of the gateway", "other").read(&value), None);
        assert_eq!((plain().read(&value), cookie.read(&written(&plain(), 7))), (None, None));
    }

    #[test]
    fn a_signed_value_hides_the_server() {
        let cookie = signed("a secret of the gateway", "lb");
        let ends: std::collections::HashSet<_> =
            (0..100).map(|server| written(&cookie, server)[24..].to_owned()).collect();
        assert_eq!(ends.len(), 100, "servers that differ in a few bits differ in every part of the value");
        assert!(!format!("{cookie:?}").contains("secret of"));
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648 10, without the padding.
        for (bytes, text) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
        assert_eq!(decode::<4>("Zm9vYg").as_ref(), Some(b"foob"));
        assert_eq!((decode::<4>("Zm9vYh"), decode::<4>("Zm9vYg=="), decode::<4>("Zm9+Yg")), (None, None, None));
    }

    proptest! {
        #[test]
        fn every_server_is_read_as_it_was_written(server: u64) {
            for cookie in [plain(), signed("a secret of the gateway", "lb")] {
                prop_assert_eq!(cookie.read(&written(&cookie, server)), Some(server));
            }
        }

        #[test]
        fn forged_and_cut_values_never_select(server: u64, other: u64, at in 0..32usize, letter in "[A-Za-z0-9_-]", text in ".{0,40}") {
            let cookie = signed("a secret of the gateway", "lb");
            let value = written(&cookie, server);
            let mut changed = value.clone();
            changed.replace_range(at..=at, &letter);
            prop_assert_eq!(cookie.read(&changed), (changed == value).then_some(server));
            prop_assert_eq!(cookie.read(&value[..at]), None);
            prop_assert_eq!(cookie.read(&format!("{value}{letter}")), None);
            prop_assert_eq!(cookie.read(&text), None);
            // The tag of one server with the mask of another.
            let spliced = format!("{}{}", &value[..22], &written(&cookie, other)[22..]);
            prop_assert_eq!(cookie.read(&spliced), (spliced == value).then_some(server));
        }

        #[test]
        fn an_unsigned_value_has_one_form(text in "[A-Za-z0-9_-]{11}") {
            let cookie = plain();
            if let Some(server) = cookie.read(&text) {
                prop_assert_eq!(written(&cookie, server), text);
            }
        }
    }
}
