//! The whole configuration as types: what the operator said, and nothing that was built of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::BindAddress;
use crate::{access_log, drain, http, listener, router, upstream};

/// One configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Bound addresses and what they accept; at least one.
    pub listeners: Vec<listener::Config>,
    /// The first match wins.
    #[serde(default)]
    pub routes: Vec<router::Config>,
    /// Pools of servers, by name.
    #[serde(default)]
    pub upstreams: BTreeMap<String, upstream::Config>,
    /// What Flash players are told.
    #[serde(default)]
    pub flash_policy: listener::FlashPolicy,
    /// What servers are told about clients.
    #[serde(default)]
    pub forwarding: http::Forwarding,
    /// Times that rule a client's connection.
    #[serde(default)]
    pub timeouts: http::Timeouts,
    /// What the gateway bears.
    #[serde(default)]
    pub limits: http::Limits,
    /// One line for each request and tunnel.
    #[serde(default)]
    pub access_log: access_log::Config,
    /// What happens on SIGTERM.
    #[serde(default)]
    pub drain: drain::Config,
    /// Where operators look: `/livez`, `/readyz`, `/metrics`, `/status`. Default: nowhere.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// Worker threads. Default 0: one for each core.
    #[serde(default)]
    pub threads: usize,
}

/// `admin`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where to bind; never where strangers reach it.
    pub address: BindAddress,
}
