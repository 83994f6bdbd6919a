//! `engine`: what carries HTTP.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The engines that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Engine {
    /// The gateway's own.
    #[default]
    Relay,
    /// Pingora's proxy.
    Pingora,
}

/// There is no engine of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchEngine(String);

impl fmt::Display for NoSuchEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no HTTP engine `{}`: expected relay or pingora", self.0)
    }
}

impl std::error::Error for NoSuchEngine {}

impl FromStr for Engine {
    type Err = NoSuchEngine;

    fn from_str(name: &str) -> Result<Self, NoSuchEngine> {
        match name {
            "pingora" => Ok(Self::Pingora),
            "relay" => Ok(Self::Relay),
            _ => Err(NoSuchEngine(name.to_owned())),
        }
    }
}
