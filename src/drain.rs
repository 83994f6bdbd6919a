//! The pace at which the gateway lets go of what is open when it stops.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `drain`: what happens from SIGTERM to the end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long connections are still accepted while `/readyz` already says 503. Default 0 s.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// The end: what is still open then is cut. The gateway leaves as soon as the last one is gone. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { delay: Duration::ZERO, deadline: Duration::from_secs(30) }
    }
}
