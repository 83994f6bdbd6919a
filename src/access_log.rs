//! The access log: one line for each request and each tunnel, written by a thread of its own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `access_log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `text`, `json` or `off`. Default `text`.
    pub format: Format,
    /// A file, appended to and opened anew on SIGUSR1. Default: standard output.
    pub file: Option<PathBuf>,
    /// Also write a line when a tunnel opens. Default false.
    pub tunnel_open: bool,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `key=value` pairs, for people and grep.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// No access log.
    Off,
}
