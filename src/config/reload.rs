//! What the operator says about loading this file anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `reload`: when the file is loaded anew, and what becomes of sockets that it has no place for any more.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// Load the file anew when it, or a file that it names, holds something else; SIGHUP and `POST /reload` do so in any
    /// case. Default true.
    pub watch: bool,
    /// What becomes of tunnels and polls whose listener, route or upstream is gone. Default `keep`.
    pub orphans: Orphans,
    /// With `drain`: goodbyes in a second. Default 50.
    pub rate: f64,
    /// With `drain`: the share by which each pause is varied at random, 0 to 1. Default 0.3.
    pub jitter: f64,
    /// With `drain`: whoever is left after this time goes at once. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true, orphans: Orphans::Keep, rate: 50.0, jitter: 0.3, deadline: Duration::from_secs(300) }
    }
}

/// What becomes of what a new configuration has no place for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Orphans {
    /// It stays until it ends by itself.
    #[default]
    Keep,
    /// It is told goodbye at a pace.
    Drain,
    /// It is told goodbye at once.
    Close,
}

impl Orphans {
    /// The word for it in the file and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drain => "drain",
            Self::Close => "close",
        }
    }
}
