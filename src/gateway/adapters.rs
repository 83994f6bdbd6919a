//! What was written for Pingora's load balancer, as parts of a gateway.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::{Backend, Extensions, health_check};
use pingora::protocols::l4::socket::SocketAddr;

use crate::upstream::{Discovery, Endpoint, HealthCheck, Server, ServerConfig, ServerList};

/// A `ServiceDiscovery` of `pingora-load-balancing` as a [`Discovery`]: it is asked again after a time, since it can't tell
/// by itself when its backends are others.
///
/// A backend's weight is its server's, bounded by 256; one that is not enabled drains: it keeps its sessions and gets no
/// new ones.
pub struct PingoraDiscovery<D> {
    discovery: D,
    every: Duration,
    asked: AtomicBool,
}

impl<D: ServiceDiscovery + Send + Sync + 'static> PingoraDiscovery<D> {
    /// Asks `discovery` at the start, and again after each `every`.
    pub fn new(discovery: D, every: Duration) -> Self {
        Self { discovery, every, asked: AtomicBool::new(false) }
    }
}

#[async_trait]
impl<D: ServiceDiscovery + Send + Sync + 'static> Discovery for PingoraDiscovery<D> {
    async fn next(&self) -> Result<ServerList, String> {
        if self.asked.load(Relaxed) {
            tokio::time::sleep(self.every).await;
        }
        // After a failure whoever asks waits by itself.
        self.asked.store(false, Relaxed);
        let (backends, enabled) = self.discovery.discover().await.map_err(|fault| fault.to_string())?;
        self.asked.store(true, Relaxed);
        let mut list = ServerList::default();
        for backend in &backends {
            let address = match &backend.addr {
                SocketAddr::Inet(address) => address.to_string(),
                SocketAddr::Unix(address) => match address.as_pathname() {
                    Some(path) => format!("unix:{}", path.display()),
                    None => "unix:".to_owned(),
                },
            };
            let mut hasher = DefaultHasher::new();
            backend.hash(&mut hasher);
            let drains = enabled.get(&hasher.finish()) == Some(&false);
            let weight = u16::try_from(backend.weight).unwrap_or(u16::MAX).min(256);
            match ServerConfig::at(&address) {
                Ok(server) => list.add(server.with_weight(weight).with_drain(drains)),
                Err(fault) => list = list.without(address, fault),
            }
        }
        Ok(list)
    }

    fn name(&self) -> String {
        "Pingora's service discovery".to_owned()
    }
}

/// A `HealthCheck` of `pingora-load-balancing` as a [`HealthCheck`](crate::HealthCheck). How many checks make a verdict is
/// said by `rise` and `fall` of the upstream's `health`, and not by its `health_threshold`; its `health_status_change` is
/// never called.
pub struct PingoraHealthCheck<C>(pub C);

#[async_trait]
impl<C: health_check::HealthCheck + Send + Sync + 'static> HealthCheck for PingoraHealthCheck<C> {
    async fn check(&self, server: &Server) -> Result<String, String> {
        let addr = match server.endpoint() {
            Some(Endpoint::Inet(address)) => SocketAddr::Inet(address),
            Some(Endpoint::Unix(path)) => {
                let address = std::os::unix::net::SocketAddr::from_pathname(&*path);
                SocketAddr::Unix(address.map_err(|fault| fault.to_string())?)
            }
            None => return Err(format!("{} has no address yet", server.address())),
        };
        let weight = usize::try_from(server.weight()).unwrap_or(1);
        let target = Backend { addr, weight, ext: Extensions::new() };
        self.0.check(&target).await.map(|()| "passed".to_owned()).map_err(|fault| fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use pingora::lb::health_check::TcpHealthCheck;

    use super::*;

    struct Told(Vec<(&'static str, usize, bool)>);

    #[async_trait]
    impl ServiceDiscovery for Told {
        async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
            let mut enabled = HashMap::new();
            let mut backends = BTreeSet::new();
            for (address, weight, is_enabled) in &self.0 {
                let backend = Backend::new_with_weight(address, *weight)?;
                let mut hasher = DefaultHasher::new();
                backend.hash(&mut hasher);
                enabled.insert(hasher.finish(), *is_enabled);
                backends.insert(backend);
            }
            Ok((backends, enabled))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn backends_of_pingoras_discovery_are_servers_with_their_weights() {
        let told = Told(vec![("10.0.0.1:80", 3, true), ("10.0.0.2:80", 9999, false)]);
        let discovery = PingoraDiscovery::new(told, Duration::from_secs(60));
        let at = |address: &str| ServerConfig::at(address).unwrap();
        let expected = vec![at("10.0.0.1:80").with_weight(3), at("10.0.0.2:80").with_weight(256).with_drain(true)];
        assert_eq!(discovery.next().await.unwrap(), expected.clone().into());
        let since = tokio::time::Instant::now();
        assert_eq!(discovery.next().await.unwrap(), expected.into());
        assert_eq!(since.elapsed(), Duration::from_secs(60));
        let fault = PingoraDiscovery::new(Told(vec![("nowhere", 1, true)]), Duration::ZERO).next().await.unwrap_err();
        assert!(!fault.is_empty());
    }

    #[tokio::test]
    async fn a_check_of_pingoras_looks_at_a_server() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Server::idle(&ServerConfig::at(&address).unwrap());
        let check = PingoraHealthCheck(*TcpHealthCheck::new());
        assert_eq!(check.check(&server).await, Ok("passed".to_owned()));
        drop(listener);
        assert!(check.check(&server).await.is_err());
        let nameless = Server::idle(&ServerConfig::at("app.invalid:80").unwrap());
        assert_eq!(check.check(&nameless).await, Err("app.invalid:80 has no address yet".to_owned()));
    }
}
