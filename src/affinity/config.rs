//! What the operator says about affinity: what ties a request to a server before the balance is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::key::By;
use crate::filter::Expression;
use crate::request::is_token;

/// `affinity` of an upstream: the cookie's server, if it is well, before the balance; else `header`, `query`,
/// `app_cookie` or `cel`, the first that a request has, in place of the client's address in the consistent hash. The session of a
/// Socket.IO request goes before all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
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
    /// Requests for which this expression in CEL gives the same go to the same server. Default: none.
    pub cel: Option<String>,
}

impl Config {
    /// What consistent hashing looks at, the first that a request has.
    pub fn keys(&self) -> Vec<By> {
        let key = |name: &Option<String>, by: fn(Box<str>) -> By| name.as_deref().map(|name| by(name.into()));
        [key(&self.header, By::Header), key(&self.query, By::Query), key(&self.app_cookie, By::Cookie)]
            .into_iter()
            .flatten()
            .chain(
                self.cel.iter().filter_map(|text| Some(By::Computed(Arc::new(Expression::compile_value(text).ok()?)))),
            )
            .collect()
    }

    /// Whether anything but the client's address is hashed.
    pub fn hashes_values(&self) -> bool {
        self.header.is_some() || self.query.is_some() || self.app_cookie.is_some() || self.cel.is_some()
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

impl CookieConfig {
    /// The name of the cookie for the upstream of this name.
    pub fn name_for(&self, upstream: &str) -> String {
        self.name.clone().unwrap_or_else(|| {
            let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
            format!("sockgate_{}", upstream.chars().map(plain).collect::<String>())
        })
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use super::*;

    fn read(config: Value) -> Result<Config, String> {
        from_value(config).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_that_can_be_said_comes_back_when_written() {
        let config = read(json!({
            "cookie": {
                "name": "lb", "path": "/app", "same_site": "strict", "secure": "always", "http_only": false,
                "max_age": "1day", "secret": "0123456789abcdef",
            },
            "header": "X-Tenant", "query": "room", "app_cookie": "JSESSIONID",
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
            (json!({ "sticky": true }), "unknown field"),
        ] {
            let fault = read(config).unwrap_err();
            assert!(fault.contains(words), "{fault}");
            assert!(!fault.contains("short"), "secrets stay out of messages");
        }
    }
}
