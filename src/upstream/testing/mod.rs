//! What the tests of this module share.

pub(crate) mod clients;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};

use crate::metrics::{Metrics, UpstreamMetrics};
use crate::upstream::config::Ejection;
use crate::upstream::{Config, Fault, PickKey, Server, Upstream};

/// A configuration as an operator would write it, but without checks unless it asks for them.
pub(crate) fn config(mut said: Value) -> Config {
    said.as_object_mut().unwrap().entry("health").or_insert(json!({ "check": "none" }));
    serde_json::from_value(said).unwrap()
}

pub(crate) fn upstream(said: Value) -> Arc<Upstream> {
    Upstream::build("test", &config(said), metrics()).unwrap()
}

/// Counters that nobody reads.
pub(crate) fn metrics() -> UpstreamMetrics {
    Metrics::new().unwrap().upstream("test")
}

/// The client with this number.
pub(crate) fn client(number: u32) -> PickKey {
    IpAddr::from(Ipv4Addr::from_bits(0xc000_0200 + number)).into()
}

/// The result of a future that has nothing to wait for, as a pick that finds a server at once.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it has to wait")
}

/// Passes a server over for failed connects.
pub(crate) fn eject(server: &Server, lasts: Duration) {
    let said = Ejection { duration: lasts, max_for: lasts, ..Ejection::default() };
    assert_eq!(server.eject(Fault::Connect, &said), Some(lasts));
}
