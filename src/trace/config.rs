//! What the operator says about traces.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::service::Url;

/// `traces`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where spans are sent, by OTLP over HTTP (`http/protobuf`): a collector's address. `/v1/traces` is added where it has no
    /// path.
    pub endpoint: Url,
    /// Authorities that vouch for it, where it is https. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Header fields that each request to it has, such as a key. Default: none.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The share of traces that begin here and are recorded, 0 to 1. Default 0.01.
    #[serde(default = "one_in_a_hundred")]
    pub sample: f64,
    /// Whose `traceparent` is carried on. Default `trusted`.
    #[serde(default)]
    pub parents: Parents,
    /// `service.name` of all spans. Default `sockgate`.
    #[serde(default = "sockgate")]
    pub service: String,
    /// Further attributes of the gateway, such as `deployment.environment.name`. Default: none.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Longest time until a batch of spans is taken, with every repetition. Default 10 s.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

/// Whose traces are gone on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Parents {
    /// Those of `forwarding.trusted_proxies`.
    #[default]
    Trusted,
    /// Everybody's: browsers may ask for as many spans as they like.
    Everybody,
    /// Nobody's: all traces begin here.
    Nobody,
}

impl Config {
    /// Where spans are sent.
    pub fn url(&self) -> String {
        let said = self.endpoint.as_str();
        let has_path = said.split_once("://").is_some_and(|(_, rest)| rest.trim_end_matches('/').contains('/'));
        if has_path { said.to_owned() } else { format!("{}/v1/traces", said.trim_end_matches('/')) }
    }
}

fn one_in_a_hundred() -> f64 {
    0.01
}

fn sockgate() -> String {
    "sockgate".to_owned()
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_collector_without_a_path_is_asked_where_otlp_says() {
        for (said, url) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("https://collector.example/", "https://collector.example/v1/traces"),
            ("https://api.example/otlp/v1/traces", "https://api.example/otlp/v1/traces"),
        ] {
            let config: Config = serde_json::from_value(json!({ "endpoint": said })).unwrap();
            assert_eq!(config.url(), url);
        }
    }
}
