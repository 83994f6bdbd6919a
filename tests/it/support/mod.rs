//! The plumbing of the tests: the gateway as a child process, servers to stand behind it, clients to ask it.

pub mod client;
pub mod cluster;
pub mod collector;
pub mod crowd;
pub mod dns;
pub mod eio;
pub mod engine;
pub mod gateway;
pub mod http2;
pub mod http2_server;
pub mod inside;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod load;
pub mod node;
pub mod pebble;
pub mod peers;
pub mod pods;
pub mod polling;
pub mod proxies;
pub mod relay;
pub mod server;
pub mod setup;
pub mod tls;
pub mod websocket;

pub use client::Client;
pub use gateway::Gateway;
pub use inside::Inside;
pub use server::{Echo, Puppet, Refusing, Scripted};
pub use setup::Setup;

use std::time::Duration;

/// Longest wait for anything that has to happen; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for what must not happen to happen.
pub const A_WHILE: Duration = Duration::from_millis(150);

/// Waits for what has to happen, and says what it was when it does not.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Asks again and again until the answer is true; for states that nothing announces.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
