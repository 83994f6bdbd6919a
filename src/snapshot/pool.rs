//! An upstream in use: its servers, what is counted, what is open on each, and who is being let go.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use log::info;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::affinity::{By, CookieAffinity, SessionTable};
use crate::drain::{Pace, Roster};
use crate::metrics::UpstreamMetrics;
use crate::upstream::{Server, ServerId, Upstream};

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
    /// What is open on each server.
    rosters: Arc<Mutex<HashMap<ServerId, Arc<Roster>>>>,
    drains: Arc<Mutex<HashMap<ServerId, Drain>>>,
}

/// A drain of one server under way, or over.
struct Drain {
    told: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// How far the drain of a server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tunnels and polls that are open.
    pub open: usize,
    /// Sessions that live there.
    pub sessions: usize,
    /// Goodbyes said so far.
    pub told: usize,
    /// Whether the last goodbye has been said.
    pub over: bool,
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
            rosters: Arc::default(),
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
            rosters: Arc::clone(&self.rosters),
            drains: Arc::clone(&self.drains),
            ..fresh
        })
    }

    /// The rosters of all servers, those of servers that are gone included.
    pub fn rosters(&self) -> Vec<(ServerId, Arc<Roster>)> {
        let rosters = self.rosters.lock().unwrap_or_else(PoisonError::into_inner);
        rosters.iter().map(|(&server, roster)| (server, Arc::clone(roster))).collect()
    }

    /// The sessions of a Socket.IO upstream; `None` on others.
    pub fn sessions(&self) -> Option<&Arc<SessionTable>> {
        self.upstream.sessions()
    }

    /// What is open on a server and can be told to leave.
    pub fn roster(&self, server: ServerId) -> Arc<Roster> {
        Arc::clone(self.rosters.lock().unwrap_or_else(PoisonError::into_inner).entry(server).or_default())
    }

    /// Sessions that live on a server.
    pub fn sessions_on(&self, server: ServerId) -> usize {
        self.sessions().map_or(0, |table| table.sessions_on(server.to_bits()))
    }

    /// Drains a server: it gets no new sessions from now on, and those that it has are told goodbye at the pace. Needs
    /// a runtime around it; a drain that is under way begins anew with the new pace.
    pub fn drain(self: &Arc<Self>, server: &Arc<Server>, pace: Pace) {
        self.upstream.set_draining(server, true);
        let told = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (pool, id, name, told) = (Arc::clone(self), server.id(), Arc::clone(server.name()), Arc::clone(&told));
            async move {
                let roster = pool.roster(id);
                let gone = || pool.sessions_on(id) == 0 && roster.is_empty();
                roster.empty(pace, gone, &told).await;
                let (upstream, told) = (pool.upstream.name(), told.load(Ordering::Relaxed));
                info!("upstream {upstream}: server {name} is drained: {told} told goodbye");
            }
        });
        let drain = Drain { told, task: task.abort_handle() };
        if let Some(before) = self.drains().insert(server.id(), drain) {
            before.task.abort();
        }
    }

    /// Takes a server back into service.
    pub fn undrain(&self, server: &Server) {
        if let Some(drain) = self.drains().remove(&server.id()) {
            drain.task.abort();
        }
        self.upstream.set_draining(server, false);
    }

    /// How far the drain of a server has come; `None` where none was begun.
    pub fn progress(&self, server: &Server) -> Option<Progress> {
        let (told, over) = {
            let drains = self.drains();
            let drain = drains.get(&server.id())?;
            (drain.told.load(Ordering::Relaxed), drain.task.is_finished())
        };
        Some(Progress { open: self.roster(server.id()).len(), sessions: self.sessions_on(server.id()), told, over })
    }

    fn drains(&self) -> MutexGuard<'_, HashMap<ServerId, Drain>> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
