//! Sockgate: a programmable load balancer for web apps that live with sockets.
//!
//! Operators write YAML and run the `sockgate` program. Developers embed the same gateway:
//!
//! ```no_run
//! use sockgate::{Config, Gateway};
//!
//! let config = Config::load("sockgate.yaml".as_ref())?.config;
//! Gateway::builder(config).build()?.run();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Most people come for one of four things:
//!
//! * **run it** from a file: [`Config::load`] and [`Gateway::builder`], as above;
//! * **let in or refuse** requests, WebSockets included: a [`Filter`];
//! * **say where requests go**, or who the servers are: a [`Router`], a [`Discovery`];
//! * **steer it** while it runs: [`Handle::replace`] puts another configuration in place and tells what that changes
//!   ([`Plan`]), [`Handle::stop`] ends it.
//!
//! `docs/programming.md` in the repository is the guide, from a rule in YAML to all of these. Parts of one's own take the place of
//! the gateway's, each by a method of the [`Builder`]:
//!
//! * a [`Filter`] sees every request before it is routed, and every answer (`examples/token_filter.rs`);
//! * a [`Router`] decides where requests go (`examples/custom_router.rs`);
//! * a [`Balance`] picks servers (`examples/own_balance.rs`), an [`Affinity`] says by what clients are placed
//!   (`examples/own_affinity.rs`);
//! * a [`Discovery`] tells which servers there are (`examples/own_discovery.rs`), a [`HealthCheck`] whether they are well
//!   (`examples/own_health_check.rs`); what was written for Pingora's load balancer fits in by [`PingoraDiscovery`] and
//!   [`PingoraHealthCheck`];
//! * a [`SessionProtocol`] knows the sessions of a protocol that the gateway does not (`examples/own_session_protocol.rs`);
//! * a [`TcpApplication`] serves a listener by itself (`examples/tcp_application.rs`);
//! * a `ProxyHttp` of Pingora's wraps the [`Balancer`] (`examples/own_proxy.rs`).

mod access;
mod access_log;
mod acme;
mod address;
mod admin;
mod affinity;
mod buffers;
mod cli;
mod compression;
mod config;
#[cfg(feature = "kubernetes")]
mod controller;
mod deadline;
mod discovery;
mod doctor;
mod ending;
mod exchange;
mod explain;
mod filter;
mod gateway;
mod http;
mod import;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod listener;
mod logging;
mod metrics;
mod proxy;
mod rate;
mod reload;
mod request;
mod roster;
mod router;
mod secrets;
mod service;
pub mod session;
mod share;
mod snapshot;
mod text;
mod trace;
mod transport;
mod tunnel;
mod upstream;
mod watch;
mod wire;

#[cfg(test)]
#[path = "../fuzz/src/checks/mod.rs"]
mod checks;

#[doc(hidden)]
pub mod internals;

pub use affinity::Affinity;
pub use config::{Config, Engine};
pub use exchange::Exchange;
pub use filter::{Changes, Filter, FilterAnswer, HeaderEdits, Response, Verdict};
pub use gateway::{BuildError, Builder, Gateway, Handle, PingoraDiscovery, PingoraHealthCheck};
pub use listener::{ClientStream, TcpApplication};
pub use proxy::{Balancer, Context};
pub use reload::{Plan, ReloadError};
pub use request::{Headers, Path, Request};
pub use router::{Action, Decision, Route, Router};
pub use session::SessionProtocol;
pub use upstream::config::ServerConfig;
pub use upstream::{Balance, Candidates, Discovery, Endpoint, HealthCheck, PickKey, Server, ServerList};
