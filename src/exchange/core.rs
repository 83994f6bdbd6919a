//! What everybody who serves a connection shares.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use log::error;

use crate::access_log::AccessLog;
use crate::ending::Ending;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::trace::Traces;

/// The gateway, as whoever serves a connection sees it.
pub struct Core {
    /// The snapshot in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where lines go.
    pub access_log: AccessLog,
    /// Who records traces.
    pub traces: Traces,
    /// How far the gateway's end has come.
    pub ending: Ending,
    /// Upstreams that a router has named and the configuration does not have; each is told of once.
    strangers: Mutex<BTreeSet<Arc<str>>>,
}

/// Names that are kept so as not to tell of them again.
const MOST_STRANGERS: usize = 64;

impl Core {
    /// Everything that serving needs.
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>, access_log: AccessLog, traces: Traces) -> Self {
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self { snapshot, metrics, access_log, traces, ending: Ending::default(), strangers: Mutex::default() }
    }

    /// A router sends a request to an upstream that the configuration does not have.
    pub(super) fn stranger(&self, route: &str, upstream: &Arc<str>) {
        let mut known = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST_STRANGERS && known.insert(Arc::clone(upstream)) {
            error!(
                "route {route}: the router sends requests to upstream `{upstream}`, which the configuration does not have: \
                 they are answered 404"
            );
        }
    }
}
