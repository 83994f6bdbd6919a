//! What the operator says about affinity: what ties a request to a server before the balance is asked.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::client::By;

/// `affinity` of an upstream. The first that knows a server which is well decides: the session, the cookie, `header`,
/// `query` and `app_cookie` by consistent hash, where the client was last; then the balance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Follow Socket.IO sessions. Default: true for kind `socket.io`, else false.
    pub session: Option<bool>,
    /// A cookie of the gateway's own that names the server. Default: none.
    pub cookie: Option<CookieConfig>,
    /// Requests with the same value in this header field go to the same server. Default: none.
    #[serde(deserialize_with = "header")]
    pub header: Option<String>,
    /// Requests with the same value of this parameter of the query go to the same server. Default: none.
    #[serde(deserialize_with = "parameter")]
    pub query: Option<String>,
    /// Requests with the same value of this cookie of the application go to the same server. Default: none.
    #[serde(deserialize_with = "cookie_name")]
    pub app_cookie: Option<String>,
    /// For how long a client that went is placed where it was, if it comes back; `0s` for not at all. Default 2 min for
    /// kind `socket.io`, else `0s`.
    #[serde(with = "humantime_serde")]
    pub returning: Option<Duration>,
    /// Most clients to remember for `returning`, 1 or more. Default 100,000, which take up to 5 MiB.
    #[serde(deserialize_with = "some")]
    pub max_clients: usize,
    /// Most sessions to remember, 1 or more; further ones are placed again and again by the cookie or the client's address.
    /// Default 1,000,000, which take some 70 MiB.
    #[serde(deserialize_with = "some")]
    pub max_sessions: usize,
    /// How long a session is remembered beyond the time after which client and server give each other up. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub slack: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            session: None,
            cookie: None,
            header: None,
            query: None,
            app_cookie: None,
            returning: None,
            max_clients: 100_000,
            max_sessions: 1_000_000,
            slack: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Whether sessions are followed; `sessions` says whether the servers speak Socket.IO.
    pub fn session(&self, sessions: bool) -> bool {
        self.session.unwrap_or(sessions)
    }

    /// For how long clients are remembered, zero for not at all; `sessions` says whether the servers speak Socket.IO.
    pub fn returning(&self, sessions: bool) -> Duration {
        self.returning.unwrap_or(if sessions { Duration::from_secs(120) } else { Duration::ZERO })
    }

    /// What consistent hashing looks at, the first that a request has.
    pub fn keys(&self) -> Vec<By> {
        let key = |name: &Option<String>, by: fn(Box<str>) -> By| name.as_deref().map(|name| by(name.into()));
        [key(&self.header, By::Header), key(&self.query, By::Query), key(&self.app_cookie, By::Cookie)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// How long a session of this heartbeat may be silent before it is forgotten.
    pub fn life(&self, ping_interval: Duration, ping_timeout: Duration) -> Duration {
        ping_interval.saturating_add(ping_timeout).saturating_add(self.slack)
    }
}

/// `affinity.cookie`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CookieConfig {
    /// Default: `sockgate_` and the name of the upstream, since browsers keep one cookie of a name.
    #[serde(deserialize_with = "cookie_name")]
    pub name: Option<String>,
    /// The paths that clients send it with. Default `/`.
    #[serde(deserialize_with = "path")]
    pub path: String,
    /// Whether clients send it with requests that other sites make. Default `auto`.
    pub same_site: SameSite,
    /// Whether clients keep it to TLS. Default `auto`.
    pub secure: Secure,
    /// Keep it from scripts. Default true.
    pub http_only: bool,
    /// How long clients keep it, 1 s or more. Default: until the browser is closed.
    #[serde(serialize_with = "humantime_serde::serialize", deserialize_with = "age")]
    pub max_age: Option<Duration>,
    /// Signs and hides the server, 16 bytes or more; every gateway before the same servers needs the same. Default: none,
    /// so that clients can choose among the servers, and guess their names from the value.
    pub secret: Option<Secret>,
}

impl Default for CookieConfig {
    fn default() -> Self {
        Self {
            name: None,
            path: "/".to_owned(),
            same_site: SameSite::Auto,
            secure: Secure::Auto,
            http_only: true,
            max_age: None,
            secret: None,
        }
    }
}

/// `SameSite` of a cookie (RFC 6265bis 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// `None` for requests that come from another site over TLS, else `Lax`.
    #[default]
    Auto,
    /// Only with requests of the same site.
    Strict,
    /// With requests of the same site, and where a link leads here.
    Lax,
    /// With every request; clients take this only over TLS, so it is left out in plain.
    None,
}

/// When a cookie has `Secure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Secure {
    /// When the client speaks TLS to the gateway.
    #[default]
    Auto,
    /// Always: for where TLS ends before the gateway.
    Always,
    /// Never.
    Never,
}

/// A secret that logs don't show.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

/// Too short a secret can be guessed from one cookie.
const SHORTEST_SECRET: usize = 16;

impl Secret {
    /// The bytes that are used as a key.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl TryFrom<String> for Secret {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.len() {
            SHORTEST_SECRET.. => Ok(Self(text)),
            len => Err(format!(
                "found a secret of {len} bytes, expected {SHORTEST_SECRET} or more, such as `openssl rand -base64 32` makes"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn header<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    named(deserializer, is_token, "the name of a header field, such as x-tenant").map(|name| {
        // Field names have no case; requests are asked for them in lower case.
        name.map(|name| name.to_ascii_lowercase())
    })
}

fn parameter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"&=#".contains(&b));
    named(deserializer, is_name, "the name of a parameter of the query, written as in URLs")
}

fn cookie_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    named(deserializer, is_token, "the name of a cookie: letters, digits and !#$%&'*+-.^_`|~")
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let path = String::deserialize(deserializer)?;
    let is_path = path.starts_with('/') && path.bytes().all(|b| b == b' ' || b.is_ascii_graphic() && b != b';');
    if is_path { Ok(path) } else { Err(unexpected(&path, "a path that begins with `/` and has no `;`")) }
}

fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(de::Error::invalid_value(de::Unexpected::Unsigned(0), &"a whole number, 1 or more")),
        count => Ok(count),
    }
}

fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match humantime_serde::deserialize::<Option<Duration>, D>(deserializer)? {
        Some(age) if age < Duration::from_secs(1) => Err(de::Error::custom(format_args!(
            "found {}, expected 1s or more (leave it out for a cookie that lasts until the browser is closed)",
            humantime::format_duration(age)
        ))),
        age => Ok(age),
    }
}

fn named<'de, D: Deserializer<'de>>(
    deserializer: D,
    is_name: impl FnOnce(&str) -> bool,
    expected: &str,
) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(name) if !is_name(&name) => Err(unexpected(&name, expected)),
        name => Ok(name),
    }
}

fn unexpected<E: de::Error>(found: &str, expected: &str) -> E {
    E::custom(format_args!("found `{}`, expected {expected}", found.escape_debug()))
}

/// RFC 9110 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use super::*;

    fn read(config: Value) -> Result<Config, String> {
        from_value(config).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_follows_the_kind_of_the_servers() {
        let config = read(json!({})).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.session(true), config.session(false)), (true, false));
        let two_minutes = Duration::from_secs(120);
        assert_eq!((config.returning(true), config.returning(false)), (two_minutes, Duration::ZERO));
        let said = read(json!({ "session": false, "returning": "0s", "slack": "1s" })).unwrap();
        assert_eq!((said.session(true), said.returning(true)), (false, Duration::ZERO));
        let second = Duration::from_secs(1);
        assert_eq!((said.life(second, second), said.life(Duration::MAX, second)), (second * 3, Duration::MAX));
        assert_eq!(config.keys(), []);
    }

    #[test]
    fn everything_that_can_be_said_comes_back_when_written() {
        let config = read(json!({
            "session": true,
            "cookie": {
                "name": "lb", "path": "/app", "same_site": "strict", "secure": "always", "http_only": false,
                "max_age": "1day", "secret": "0123456789abcdef",
            },
            "header": "X-Tenant", "query": "room", "app_cookie": "JSESSIONID",
            "returning": "5m", "max_clients": 1, "max_sessions": 2, "slack": "3s",
        }))
        .unwrap();
        assert_eq!(read(to_value(&config).unwrap()).unwrap(), config);
        let keys = [By::Header("x-tenant".into()), By::Query("room".into()), By::Cookie("JSESSIONID".into())];
        assert_eq!(config.keys(), keys);
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for (config, words) in [
            (json!({ "header": "a b" }), "found `a b`, expected the name of a header field"),
            (json!({ "header": "" }), "found ``"),
            (json!({ "query": "a=b" }), "expected the name of a parameter"),
            (json!({ "app_cookie": "a;b" }), "expected the name of a cookie"),
            (json!({ "cookie": { "name": "a=b" } }), "expected the name of a cookie"),
            (json!({ "cookie": { "path": "app" } }), "found `app`, expected a path"),
            (json!({ "cookie": { "path": "/a; Domain=x" } }), "expected a path"),
            (json!({ "cookie": { "secret": "short" } }), "found a secret of 5 bytes, expected 16 or more"),
            (json!({ "cookie": { "same_site": "maybe" } }), "unknown variant"),
            (json!({ "cookie": { "max_age": "900ms" } }), "found 900ms, expected 1s or more"),
            (json!({ "max_sessions": 0 }), "expected a whole number, 1 or more"),
            (json!({ "max_clients": 0 }), "expected a whole number, 1 or more"),
            (json!({ "sticky": true }), "unknown field"),
        ] {
            let fault = read(config).unwrap_err();
            assert!(fault.contains(words), "{fault}");
            assert!(!fault.contains("short"), "secrets stay out of messages");
        }
    }
}
