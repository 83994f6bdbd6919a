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
//! A [`Router`] of one's own decides where requests go (`examples/custom_router.rs`); a `ProxyHttp` of one's own wraps
//! the [`Balancer`] (`examples/own_proxy.rs`); a [`Balance`] of one's own picks servers.

pub mod access_log;
pub mod address;
pub mod admin;
pub mod affinity;
pub mod cli;
pub mod config;
pub mod deadline;
pub mod drain;
pub mod exchange;
pub mod filter;
pub mod gateway;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod proxy;
pub mod reload;
pub mod request;
pub mod router;
pub mod session;
pub mod snapshot;
pub mod text;
pub mod transport;
pub mod tunnel;
pub mod upstream;
pub mod wire;

#[cfg(test)]
#[path = "../fuzz/src/checks/mod.rs"]
pub mod checks;

pub use config::Config;
pub use exchange::Exchange;
pub use filter::{Changes, Filter, FilterAnswer, HeaderEdits, Response, Verdict};
pub use gateway::{Builder, Gateway, Handle};
pub use proxy::{Balancer, Context};
pub use request::Request;
pub use router::{Action, Decision, Route, Router};
pub use upstream::Balance;
