//! Sockgate: a programmable load balancer for web apps that live with sockets.

pub mod access_log;
pub mod address;
pub mod config;
pub mod deadline;
pub mod drain;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod proxy;
pub mod request;
pub mod router;
pub mod snapshot;
pub mod transport;
pub mod tunnel;
pub mod upstream;
pub mod wire;
