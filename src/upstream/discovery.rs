//! Servers that come and go by themselves: who tells of them, and the task that asks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use log::warn;

use super::config::ServerConfig;
use super::servers::Latest;

/// Tells which servers an upstream has.
///
/// The servers of the configuration serve until the first set is found. What is found replaces the set before: who stays
/// keeps state, counters and sessions, who comes back does too, and who goes keeps its sessions until its drain is over. One
/// that can't be a server (a second one of its name, a name that TLS can't ask for) is left out, and the log tells why.
/// A reload keeps the set.
///
/// ```
/// use async_trait::async_trait;
/// use sockgate::{Discovery, ServerConfig};
/// use tokio::sync::Mutex;
/// use tokio::sync::mpsc::Receiver;
///
/// /// Servers as somebody else sends them.
/// struct Sent(Mutex<Receiver<Vec<String>>>);
///
/// #[async_trait]
/// impl Discovery for Sent {
///     async fn next(&self) -> Result<Vec<ServerConfig>, String> {
///         match self.0.lock().await.recv().await {
///             Some(addresses) => addresses.iter().map(|address| ServerConfig::at(address)).collect(),
///             None => std::future::pending().await,
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Discovery: Send + Sync + 'static {
    /// Waits until the set of servers is another one, and gives it whole; the first call gives the set of now. An empty
    /// set changes nothing: a registry that has lost its memory is likelier than an app without any server.
    ///
    /// # Errors
    /// Why nothing could be found out: it is logged, the set stays as it is, and this is called again after a pause.
    async fn next(&self) -> Result<Vec<ServerConfig>, String>;
}

/// The pause after a failure; twice as long after each further one, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Lays down what is found for the upstream of this name, for as long as it is polled.
pub(super) async fn follow(upstream: Arc<str>, discovery: Arc<dyn Discovery>, latest: Latest) {
    let mut pause = PAUSE.0;
    loop {
        match discovery.next().await {
            Ok(servers) => {
                pause = PAUSE.0;
                if servers.is_empty() {
                    warn!("upstream {upstream}: discovery finds no server, the servers stay");
                } else {
                    latest.set(&servers);
                }
            }
            Err(fault) => {
                warn!("upstream {upstream}: discovery fails, the servers stay: {fault}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::Mutex;
    use tokio::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::metrics::Metrics;
    use crate::upstream::{Config, Extensions, Upstream};

    struct Sent(Mutex<Receiver<Result<Vec<ServerConfig>, String>>>);

    #[async_trait]
    impl Discovery for Sent {
        async fn next(&self) -> Result<Vec<ServerConfig>, String> {
            match self.0.lock().await.recv().await {
                Some(found) => found,
                None => std::future::pending().await,
            }
        }
    }

    fn config(more: &str) -> Config {
        serde_json::from_value(json!({ "servers": ["10.0.0.9:1"], "health": { "check": "none" }, "host": more }))
            .unwrap()
    }

    fn build() -> (Arc<Upstream>, Sender<Result<Vec<ServerConfig>, String>>) {
        let (sender, receiver) = channel(1);
        let brought = Extensions { discovery: Some(Arc::new(Sent(Mutex::new(receiver)))), ..Extensions::default() };
        let metrics = Metrics::new().unwrap().upstream("app");
        (Upstream::build_with("app", &config("a"), metrics, brought).unwrap(), sender)
    }

    fn at(addresses: &[&str]) -> Vec<ServerConfig> {
        addresses.iter().map(|address| ServerConfig::at(address).unwrap()).collect()
    }

    fn names(upstream: &Upstream) -> Vec<String> {
        upstream.servers().iter().map(|server| server.name().to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_replaces_the_set_and_a_reload_keeps_it() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let running = upstream.start();
        assert_eq!(names(&upstream), ["10.0.0.9:1"], "the configuration's serve until then");
        sender.send(Ok(at(&["10.0.0.1:1", "10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.1:1", "10.0.0.2:1"]);
        drop(running);
        let rebuilt = upstream.rebuild(&config("b")).unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.1:1", "10.0.0.2:1"]);
        let mut changes = rebuilt.changes();
        let _running = rebuilt.start();
        sender.send(Err("nobody answers".to_owned())).await.unwrap();
        sender.send(Ok(at(&["10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.2:1"], "a failure is no end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_server_is_left_out_and_the_others_serve() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let _running = upstream.start();
        sender.send(Ok(at(&["10.0.0.1:1", "10.0.0.1:1", "10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.1:1", "10.0.0.2:1"]);
        let weightless = ServerConfig::at("10.0.0.4:1").unwrap().with_weight(0);
        sender.send(Ok([at(&["10.0.0.3:1"]), vec![weightless]].concat())).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.3:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_comes_while_a_reload_is_built_is_the_next_ones_too() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let running = upstream.start();
        let rebuilt = upstream.rebuild(&config("b")).unwrap();
        sender.send(Ok(at(&["10.0.0.1:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.9:1"], "it is not in force yet");
        let mut changes = rebuilt.changes();
        let _running = rebuilt.start();
        drop(running);
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.1:1"]);
        sender.send(Ok(at(&["10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.2:1"], "who ends an old one ends no discovery");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_set_changes_nothing() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let _running = upstream.start();
        sender.send(Ok(at(&["10.0.0.1:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        sender.send(Ok(Vec::new())).await.unwrap();
        // The second is taken only when the first has been dealt with.
        sender.send(Err("nobody answers".to_owned())).await.unwrap();
        sender.send(Err("nobody answers".to_owned())).await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.1:1"]);
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        assert!(ServerConfig::at("nowhere").unwrap_err().contains("nowhere"));
    }
}
