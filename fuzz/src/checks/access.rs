//! What holds for whatever strangers show to be let in: tokens, and the sites of their pages.

use std::sync::LazyLock;

use http::header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN};
use httparse::Header;
use jsonwebtoken::{EncodingKey, encode};
use serde_json::json;

use crate::access::config::{self, Missing};
use crate::access::cors::Cors;
use crate::access::jwt::Jwt;
use crate::access::origins::{Origins, Pattern};
use crate::filter::{Changes, HeaderEdits};
use crate::http::forwarding::Asked;
use crate::request::{Headers, Request};

/// A token that was signed here, which lasts.
static GOOD: LazyLock<String> = LazyLock::new(|| {
    let claims = json!({ "sub": "anna", "exp": 9_999_999_999_u64, "roles": ["a", "b"] });
    let key = EncodingKey::from_secret(SECRET.as_bytes()).expect("a key");
    encode(&jsonwebtoken::Header::default(), &claims, &key).expect("a token")
});
const SECRET: &str = "a secret of the checks that is long";

static JWT: LazyLock<Jwt> = LazyLock::new(|| {
    let said = json!({
        "secret": SECRET, "from": { "header": "authorization", "cookie": "token", "query": "token" },
        "claims": { "x-user": "sub", "x-roles": "roles" },
    });
    Jwt::build(&serde_json::from_value(said).expect("a configuration"), |_| unreachable!("no keys by URL"))
        .expect("keys")
});

/// Nobody but the gateway's issuer makes a token: whatever is shown, where it is let in, is what was signed. The bytes are
/// shown as they are, and as changes of one that is good.
pub fn tokens(bytes: &[u8]) {
    let good = GOOD.as_bytes();
    let signed = GOOD.rsplit_once('.').expect("a signature").0;
    let mut changed = good.to_vec();
    for change in bytes.chunks_exact(3) {
        if changed.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        match change[2] {
            0 => _ = changed.remove(at),
            1 => changed.insert(at, b'.'),
            byte => changed[at] = byte,
        }
    }
    let bearer = |token: &[u8]| [b"Bearer ", token].concat();
    for (name, value, query) in [
        ("Authorization", bytes.to_vec(), None),
        ("Authorization", bearer(bytes), None),
        ("authorization", bearer(&changed), None),
        ("Cookie", [b"a=b; token=", &*changed].concat(), None),
        ("Cookie", bytes.to_vec(), None),
        ("X-Other", Vec::new(), std::str::from_utf8(bytes).ok()),
    ] {
        let fields = [Header { name, value: &value }];
        let request = Request { headers: Headers::Fields(&fields), query, ..Request::nothing() };
        let mut changes = Changes::default();
        if JWT.check(&request, &mut changes).is_ok() {
            let shown = [value.as_slice(), query.unwrap_or("").as_bytes()].concat();
            assert!(
                shown.windows(signed.len()).any(|part| part == signed.as_bytes()),
                "a token that nobody has signed: {}",
                String::from_utf8_lossy(&shown)
            );
            assert_eq!(changes.to_server.value("x-user").map(|user| user.as_bytes()), Some(&b"anna"[..]));
        }
    }
    let value = bearer(good);
    let twice = [Header { name: "Authorization", value: &value }, Header { name: "Authorization", value: bytes }];
    for (shown, passes) in [(&twice[..1], true), (&twice[..], false)] {
        let request = Request { headers: Headers::Fields(shown), ..Request::nothing() };
        assert_eq!(JWT.check(&request, &mut Changes::default()).is_ok(), passes);
    }
}

/// A site is let in by its own name and no other; a page reads what it may, by the name that it has told, and what every
/// page may read by none. The bytes are a pattern, the host that is asked and an origin, a line each.
pub fn cross_site(bytes: &[u8]) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (pattern, authority, origin) = (line(), line(), line());
    let Ok(Ok(pattern)) = std::str::from_utf8(pattern).map(str::parse::<Pattern>) else { return };
    assert_eq!(pattern.to_string().parse::<Pattern>().as_ref(), Ok(&pattern), "it is read as it is written");
    let asked = Asked { secure: bytes.len().is_multiple_of(2), authority: std::str::from_utf8(authority).ok() };
    let matches = pattern.matches(origin, asked);
    let fields = [Header { name: "Origin", value: origin }];
    let request = Request { headers: Headers::Fields(&fields), ..Request::nothing() };
    if pattern != Pattern::Any {
        let origins = config::Origins { allow: vec![pattern.clone()], missing: Missing::Refuse };
        assert_eq!(Origins::new(&origins).admit(&request, asked), matches);
    }
    if matches && pattern != Pattern::Any {
        let origin = std::str::from_utf8(origin).expect("text").to_ascii_lowercase();
        let host = origin.split_once("://").map(|(_, host)| host);
        assert!(!host.unwrap_or("").contains(['/', '?', '#', '@', ' ', ',', '*', '\\', '%']), "{origin} for {pattern}");
        match &pattern {
            Pattern::Null => assert_eq!(origin, "null"),
            Pattern::Same => {
                let own = if asked.secure { 443 } else { 80 };
                let read = |host: &str| {
                    let (name, port) = match host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
                        Some((name, port)) => (name, port.parse::<u16>().expect("a port")),
                        None => (host, own),
                    };
                    (name.to_owned(), port)
                };
                let (name, port) = read(&asked.authority.expect("a host").to_ascii_lowercase());
                let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
                assert_eq!(read(host.expect("a host")), (name, port));
                assert!(origin.starts_with(if asked.secure { "https://" } else { "http://" }));
            }
            Pattern::Site { scheme, below, host: of, .. } => {
                let rest = host.expect("a host").rsplit_once(of.as_str()).expect("the name is in it");
                assert!(rest.1.is_empty() || rest.1.starts_with(':') || of.is_empty(), "{origin} for {pattern}");
                assert_eq!(rest.0.ends_with('.') && rest.0.len() > 1, *below, "{origin} for {pattern}");
                assert!(origin.starts_with(scheme.as_str()));
            }
            Pattern::Any => unreachable!("see above"),
        }
    }
    let credentials = pattern != Pattern::Any;
    let said = config::Cors { origins: Some(config::Sites(vec![pattern])), credentials, ..config::Cors::default() };
    let (cors, mut edits) = (Cors::new(&said, None), HeaderEdits::default());
    cors.mark("GET", request.headers, asked, &mut edits);
    match edits.value(ACCESS_CONTROL_ALLOW_ORIGIN.as_str()).map(|value| value.as_bytes()) {
        Some(b"*") => assert!(!credentials),
        Some(told) => assert!(matches && told == origin && credentials),
        None => {
            assert!(!matches || http::HeaderValue::from_bytes(origin).is_err());
            assert_eq!(edits.value(ACCESS_CONTROL_ALLOW_CREDENTIALS.as_str()), None);
        }
    }
}
