//! The address of a service.

use std::net::IpAddr;

use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer};

/// An address of a service, by http or https.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Url(String);

impl Url {
    /// Whether nobody between can change what it says: by https, or on this machine.
    pub fn is_safe(&self) -> bool {
        let uri: Option<http::Uri> = self.0.parse().ok();
        uri.is_some_and(|uri| {
            let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
            let is_here = host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback());
            uri.scheme_str() == Some("https") || is_here
        })
    }

    /// The address, as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let uri: Option<http::Uri> = text.parse().ok();
        let fits = |uri: &http::Uri| {
            let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            matches!(uri.scheme_str(), Some("http" | "https"))
                && plain
                && uri.host().is_some_and(|host| !host.is_empty())
        };
        match uri.as_ref().is_some_and(fits) {
            true => Ok(Self(text)),
            false => {
                Err(de::Error::custom(format!("found `{text}`, expected a URL such as http://127.0.0.1:9000/verify")))
            }
        }
    }
}
