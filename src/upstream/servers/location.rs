//! Where a server is reached: its address, or where its host name leads.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Server;
use crate::address::ServerAddress;

/// Where a server is reached right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(Arc<Path>),
}

/// Where a server is reached; outlives a reload.
pub(super) struct Location {
    /// What the host name resolved to, best first; empty until it did. The address itself where that is one.
    resolved: ArcSwap<Vec<SocketAddr>>,
    unix: Option<Arc<Path>>,
    resolve_now: Notify,
}

impl Location {
    pub(super) fn of(address: &ServerAddress) -> Self {
        let (resolved, unix) = match address {
            ServerAddress::Inet(address) => (vec![*address], None),
            ServerAddress::Name(..) => (Vec::new(), None),
            ServerAddress::Unix(path) => (Vec::new(), Some(path.as_path().into())),
        };
        Self { resolved: ArcSwap::from_pointee(resolved), unix, resolve_now: Notify::new() }
    }
}

impl Server {
    /// Where it is reached right now; `None` while its host name has never resolved.
    pub fn endpoint(&self) -> Option<Endpoint> {
        match &self.life.location.unix {
            Some(path) => Some(Endpoint::Unix(path.clone())),
            None => self.life.location.resolved.load().first().copied().map(Endpoint::Inet),
        }
    }

    /// Every address it is known under, best first; none for a Unix socket.
    pub(crate) fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.life.location.resolved.load_full()
    }

    pub(crate) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.life.location.resolved.store(Arc::new(addresses));
    }

    /// Resolves when a connect has failed, so that the name may have moved.
    pub(crate) async fn lookup_wanted(&self) {
        self.life.location.resolve_now.notified().await;
    }

    /// Has its name looked up again soon.
    pub(crate) fn wants_lookup(&self) {
        self.life.location.resolve_now.notify_one();
    }
}
