//! Everything that was built from one configuration, swapped whole: a request sees one snapshot from its head to its end.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Semaphore;

use crate::affinity::SessionTable;
use crate::config::Config;
use crate::drain::Roster;
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::router::{Router, Routes};
use crate::upstream::config::Kind;
use crate::upstream::{self, ServerId, Upstream};

/// One configuration, built.
pub struct Snapshot {
    /// What the operator said.
    pub config: Config,
    /// Where requests go.
    pub router: Arc<dyn Router>,
    /// The upstreams by name.
    pub pools: HashMap<Arc<str>, Arc<Pool>>,
    /// What the gateway's own answers count.
    pub local: UpstreamMetrics,
}

/// An upstream and what it counts.
pub struct Pool {
    /// The servers.
    pub upstream: Arc<Upstream>,
    /// The counters.
    pub metrics: UpstreamMetrics,
    /// A number that no other upstream of this process has: connections of two upstreams are never mixed.
    pub group: u64,
    /// What the HTTP engine derives from the upstream, once.
    pub engine: OnceLock<Box<dyn Any + Send + Sync>>,
    /// The sessions of a Socket.IO upstream.
    sessions: Option<Arc<SessionTable>>,
    /// Places for searches of sessions that nobody here knows.
    pub searches: Semaphore,
    /// What is open on each server, for drains.
    rosters: Mutex<HashMap<ServerId, Arc<Roster>>>,
}

/// Sessions that are remembered on one upstream.
const MOST_SESSIONS: usize = 1_000_000;
/// Unknown sessions that are looked for at once, on one upstream.
const SEARCHES: usize = 32;

static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);

impl Pool {
    fn new(upstream: Arc<Upstream>, metrics: UpstreamMetrics) -> Self {
        let sessions = (upstream.config().kind == Kind::SocketIo).then(|| SessionTable::new(MOST_SESSIONS));
        Self {
            upstream,
            metrics,
            group: NEXT_GROUP.fetch_add(1, Ordering::Relaxed),
            engine: OnceLock::new(),
            sessions,
            searches: Semaphore::new(SEARCHES),
            rosters: Mutex::default(),
        }
    }

    /// The sessions of a Socket.IO upstream; `None` on others.
    pub fn sessions(&self) -> Option<&Arc<SessionTable>> {
        self.sessions.as_ref()
    }

    /// What is open on a server and can be told to leave.
    pub fn roster(&self, server: ServerId) -> Arc<Roster> {
        Arc::clone(self.rosters.lock().unwrap_or_else(PoisonError::into_inner).entry(server).or_default())
    }
}

impl Snapshot {
    /// Builds upstreams and routes; `router` stands in for the routes of the configuration where a program brings one.
    ///
    /// # Errors
    /// The first upstream that can't be built.
    pub fn build(
        config: Config,
        router: Option<Arc<dyn Router>>,
        metrics: &Metrics,
    ) -> Result<Self, upstream::BuildError> {
        let mut pools = HashMap::new();
        for (name, said) in &config.upstreams {
            let upstream = Upstream::build(name, said)?;
            let pool = Pool::new(upstream, metrics.upstream(name));
            pools.insert(Arc::from(name.as_str()), Arc::new(pool));
        }
        let router = router.unwrap_or_else(|| Arc::new(Routes::build(&config.routes)));
        Ok(Self { router, pools, local: metrics.upstream("-"), config })
    }

    /// Whether traffic can be taken: every upstream has a server, or waits for none to be checked any more.
    pub fn ready(&self) -> bool {
        self.pools.values().all(|pool| pool.upstream.ready())
    }
}
