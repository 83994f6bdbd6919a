//! Where a server is reached: its address, or where its host name leads.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// How often an address was lost.
    moves: AtomicU64,
    resolve_now: Notify,
}

/// Where a server was at some moment: connections that were opened then are good for as long as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    address: ServerAddress,
    moves: u64,
}

impl Location {
    pub(super) fn of(address: &ServerAddress) -> Self {
        let (resolved, unix) = match address {
            ServerAddress::Inet(address) => (vec![*address], None),
            ServerAddress::Name(..) => (Vec::new(), None),
            ServerAddress::Unix(path) => (Vec::new(), Some(path.as_path().into())),
        };
        Self { resolved: ArcSwap::from_pointee(resolved), unix, moves: AtomicU64::new(0), resolve_now: Notify::new() }
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

    /// It has these from now on. Where one of before is not among them, it has moved.
    pub(crate) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        let addresses = Arc::new(addresses);
        let before = self.life.location.resolved.swap(Arc::clone(&addresses));
        if before.iter().any(|old| !addresses.contains(old)) {
            self.life.location.moves.fetch_add(1, Relaxed);
        }
    }

    /// Has this one, if it still is one of its addresses, come first.
    pub(crate) fn prefer_address(&self, address: SocketAddr) {
        self.life.location.resolved.rcu(|addresses| {
            let mut order = addresses.to_vec();
            if let Some(rank) = order.iter().position(|&known| known == address) {
                order[..=rank].rotate_right(1);
            }
            order
        });
    }

    /// Where it is at this moment.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        Whereabouts { address: self.address().clone(), moves: self.life.location.moves.load(Relaxed) }
    }

    /// Whether it still is where it was then.
    pub(crate) fn is_at(&self, then: &Whereabouts) -> bool {
        self.life.location.moves.load(Relaxed) == then.moves && *self.address() == then.address
    }

    /// Whether a connection to this peer is one to where it is: asked of a server that has never moved it costs nothing.
    pub(crate) fn is_reached_at(&self, peer: impl FnOnce() -> Option<SocketAddr>) -> bool {
        let location = &self.life.location;
        location.moves.load(Relaxed) == 0 || peer().is_none_or(|peer| location.resolved.load().contains(&peer))
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
