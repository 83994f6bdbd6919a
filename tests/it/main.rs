//! Black-box tests of the built program: real servers behind it, real clients before it, on loopback.
//!
//! One binary, since each further one would link Pingora again. A test is a short story; `support` hides the plumbing.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "nobody imports from a test, and an unwrap is an assertion in it"
)]

mod access;
mod access_log;
mod admin;
mod admin_api;
mod affinity;
mod backpressure;
mod bench;
mod bounds;
mod classic;
mod cli;
#[cfg(feature = "kubernetes")]
mod controller;
mod dashboard;
mod detect;
mod discovery;
mod docs;
mod doctor;
mod drain;
mod ejection;
mod engines;
mod explain;
mod faults;
mod figures;
mod filters;
mod flash;
mod forwarding;
mod grpc;
mod half_open;
mod health;
mod heartbeat;
mod http;
mod http2;
mod http2_servers;
mod import;
mod layers;
mod limits;
mod malformed;
#[cfg(feature = "kubernetes")]
mod manifests;
mod mcp;
mod operate;
mod other_upgrades;
mod own_sessions;
mod package;
mod peers;
mod peers_over_http2;
mod proxy_protocol;
mod queue;
mod rates;
mod rebalance;
mod refusals;
mod reload;
mod routing;
mod rules;
mod scripts;
mod servers;
mod session_protocol;
mod sessions;
mod signalr;
mod signals;
mod socketio;
mod sockjs;
mod stop;
mod strangers;
mod support;
mod tcp;
mod timeouts;
mod tls;
mod traces;
mod upgrade;
mod websocket;
mod zones;
