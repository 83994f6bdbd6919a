//! An upstream in use: its servers, what is counted, what is open on each, and who is being let go.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::drains::Drains;
use crate::affinity::{By, CookieAffinity};
use crate::metrics::UpstreamMetrics;
use crate::session::SessionTable;
use crate::upstream::{ServerId, Upstream};

/// An upstream and what goes with it.
pub struct Pool {
    /// The servers.
    pub upstream: Arc<Upstream>,
    /// The counters.
    pub metrics: UpstreamMetrics,
    /// A number that no other upstream of this process has: connections of two upstreams are never mixed.
    pub group: u64,
    /// What the HTTP engine derives from the upstream, once.
    pub engine: OnceLock<Box<dyn Any + Send + Sync>>,
    /// The cookie that names a client's server.
    pub cookie: Option<CookieAffinity>,
    /// What is hashed in place of the client's address, the first that a request has.
    pub keys: Vec<By>,
    /// Places for searches of sessions that nobody here knows.
    pub searches: Arc<Semaphore>,
    /// What is open on the servers, and who is told to leave.
    pub(super) drains: Arc<Drains>,
}

/// Unknown sessions that are looked for at once, on one upstream.
const SEARCHES: usize = 32;

static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);

impl Pool {
    pub(super) fn new(upstream: Arc<Upstream>, metrics: UpstreamMetrics) -> Self {
        let affinity = &upstream.config().affinity;
        let cookie = affinity.cookie.as_ref().map(|cookie| CookieAffinity::new(cookie, upstream.name()));
        Self {
            cookie,
            keys: affinity.keys(),
            upstream,
            metrics,
            group: NEXT_GROUP.fetch_add(1, Ordering::Relaxed),
            engine: OnceLock::new(),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            drains: Arc::default(),
        }
    }

    /// The same pool around the same upstream, rebuilt: what is open stays on its rosters, and drains go on. This very
    /// one, where the upstream is the same too.
    pub(super) fn rebuild(self: &Arc<Self>, upstream: Arc<Upstream>) -> Arc<Self> {
        if Arc::ptr_eq(&upstream, &self.upstream) {
            return Arc::clone(self);
        }
        // Connections that are kept to its servers stay good unless they speak TLS by other terms.
        let same_way = self.upstream.tls() == upstream.tls();
        let fresh = Self::new(upstream, self.metrics.clone());
        Arc::new(Self {
            group: if same_way { self.group } else { fresh.group },
            searches: Arc::clone(&self.searches),
            drains: Arc::clone(&self.drains),
            ..fresh
        })
    }

    /// The sessions of a Socket.IO upstream; `None` on others.
    pub fn sessions(&self) -> Option<&Arc<SessionTable>> {
        self.upstream.sessions()
    }

    /// Sessions that live on a server.
    pub fn sessions_on(&self, server: ServerId) -> usize {
        self.sessions().map_or(0, |table| table.sessions_on(server.to_bits()))
    }
}
