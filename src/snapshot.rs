//! Everything that was built from one configuration, swapped whole: a request sees one snapshot from its head to its end. Nothing
//! runs here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use fnv::FnvBuildHasher;

use crate::config::Config;
use crate::filter::{Filter, Filters};
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::router::{Router, Routes};
use crate::session::SessionProtocol;
use crate::upstream::{self, Upstream};

/// One configuration, built.
pub struct Snapshot {
    /// What the operator said.
    pub config: Config,
    /// Who looks at requests before they are routed.
    pub(crate) filters: Filters,
    /// Where requests go.
    pub router: Arc<dyn Router>,
    /// The upstreams by name.
    pub upstreams: HashMap<Arc<str>, Arc<Upstream>, FnvBuildHasher>,
    /// What the gateway's own answers count.
    pub local: UpstreamMetrics,
    /// Whether clients of any listener are asked for certificates: then nobody but the gateway tells servers of one.
    pub(crate) asks_clients: bool,
    /// When the certificates of each file end, in seconds of Unix time.
    pub(crate) certificates_end: Vec<(PathBuf, i64)>,
    /// The protocols of sessions that upstreams have, each once.
    session_protocols: Vec<Arc<dyn SessionProtocol>>,
}

/// What a program brings of its own; it outlives every configuration.
#[derive(Default)]
pub struct Extensions {
    /// Who looks at requests before they are routed, in their order.
    pub filters: Vec<Arc<dyn Filter>>,
    /// In place of the routes.
    pub router: Option<Arc<dyn Router>>,
    /// For the upstreams of these names.
    pub upstreams: HashMap<String, upstream::Extensions>,
}

impl Snapshot {
    /// Builds upstreams and routes. `brought` are the parts that a program brings in place of the configuration's,
    /// `before` finds the upstream that had a name until now: what it knows is carried over.
    ///
    /// # Errors
    /// The first upstream that can't be built.
    pub fn build(
        config: Config,
        brought: &Extensions,
        metrics: &Metrics,
        before: impl Fn(&str) -> Option<Arc<Upstream>>,
    ) -> Result<Self, upstream::BuildError> {
        let mut upstreams = HashMap::default();
        for (name, said) in &config.upstreams {
            let upstream = match before(name) {
                Some(before) => before.rebuild(said)?,
                None => {
                    let brought = brought.upstreams.get(name).cloned().unwrap_or_default();
                    Upstream::build_with(name, said, metrics.upstream(name), brought)?
                }
            };
            upstreams.insert(Arc::from(name.as_str()), upstream);
        }
        let mut session_protocols: Vec<Arc<dyn SessionProtocol>> = Vec::new();
        for protocol in upstreams.values().filter_map(|upstream| upstream.session_protocol()) {
            if !session_protocols.iter().any(|known| Arc::ptr_eq(known, protocol)) {
                session_protocols.push(Arc::clone(protocol));
            }
        }
        let tls = config.listeners.iter().map(|listener| listener.tls.as_ref());
        let router = brought.router.clone().unwrap_or_else(|| Arc::new(Routes::build(&config.routes)));
        Ok(Self {
            filters: brought.filters.iter().cloned().collect(),
            router,
            upstreams,
            local: metrics.upstream("-"),
            asks_clients: tls.flatten().any(|tls| tls.client_certificates.is_some()),
            certificates_end: Vec::new(),
            session_protocols,
            config,
        })
    }

    /// Whether a request may be a poll of a session, by its HTTP/1 head alone; false only where it is none.
    pub(crate) fn may_be_poll(&self, head: &[u8]) -> bool {
        let Some(rest) = head.strip_prefix(b"GET ").filter(|_| !self.session_protocols.is_empty()) else {
            return false;
        };
        let target = rest.iter().position(|&byte| byte == b' ').map_or(rest, |end| &rest[..end]);
        self.session_protocols.iter().any(|protocol| protocol.may_be_poll(target))
    }
}
