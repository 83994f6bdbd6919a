//! Everything that was built from one configuration, swapped whole: a request sees one snapshot from its head to its end. Nothing
//! runs here.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use fnv::FnvBuildHasher;

use crate::access::{self, Access, Networks};
use crate::compression::{self, Compression};
use crate::config::Config;
use crate::discovery::Sources;
use crate::filter::{Filter, Filters, MessageRules};
use crate::http::pages::{PageError, Pages};
use crate::listener::TcpApplication;
use crate::listener::config::Protocol;
use crate::listener::tls::config::Challenge;
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::rate::{self, Limit};
use crate::router::{self, Route, Router, Routes, Rules, Taken};
use crate::session::SessionProtocol;
use crate::upstream::peers::{Peering, new_identity};
use crate::upstream::{self, Upstream};

/// One configuration, built.
pub struct Snapshot {
    /// What the operator said.
    pub config: Config,
    /// Who looks at requests before they are routed.
    pub(crate) filters: Filters,
    /// Who may ask where the route does not say.
    pub(crate) access: Option<Arc<Access>>,
    /// Whether anybody may have to be waited for before a request is admitted.
    pub(crate) waits: bool,
    /// What was built of rules, for the next configuration.
    pub(crate) known: Known,
    /// Who may come without speaking HTTP, by the listener's name.
    pub(crate) raw: HashMap<Arc<str>, Networks, FnvBuildHasher>,
    /// Names of parameters that logs do not tell, beside those that tell it themselves.
    pub(crate) secrets: Box<[Box<str>]>,
    /// What clients may ask for, whatever the route.
    pub(crate) limits: Vec<Arc<Limit>>,
    /// What clients have under way.
    pub(crate) open: Arc<rate::Open>,
    /// Pages in place of the gateway's words, where the route has none.
    pub(crate) pages: Option<Pages>,
    /// What is done with the fields of what goes to upstreams and comes from there, by their names.
    pub(crate) fields: HashMap<Arc<str>, MessageRules, FnvBuildHasher>,
    /// Where requests go.
    pub router: Arc<dyn Router>,
    /// The routes of the configuration, in their order; none where a program routes.
    pub(crate) routes: Vec<Arc<Route>>,
    /// Hashes of the tokens that the admin address takes; none where it asks for none.
    pub(crate) admin_tokens: Vec<[u8; 32]>,
    /// Who serves the listeners of these names.
    pub(crate) applications: HashMap<String, Arc<dyn TcpApplication>>,
    /// The upstreams by name.
    pub upstreams: HashMap<Arc<str>, Arc<Upstream>, FnvBuildHasher>,
    /// For those of them that have any: the upstream that their peers are.
    pub(crate) peers: HashMap<Arc<str>, Arc<Upstream>, FnvBuildHasher>,
    /// How peers are known; `None` where no upstream has any.
    pub(crate) peering: Option<Peering>,
    /// What the gateway's own answers count.
    pub local: UpstreamMetrics,
    /// Where answers lie for authorities that ask by HTTP.
    pub(crate) challenges: Vec<PathBuf>,
    /// Whether clients of any listener are asked for certificates: then nobody but the gateway tells servers of one.
    pub(crate) asks_clients: bool,
    /// When the certificates of each file end, in seconds of Unix time.
    pub(crate) certificates_end: Vec<(PathBuf, i64)>,
    /// Why the gateway is not ready for clients though its servers may be.
    pub(crate) unready: Arc<Unready>,
    /// The protocols of sessions that upstreams have, each once.
    session_protocols: Vec<Arc<dyn SessionProtocol>>,
}

/// Why a gateway is not ready for clients though its servers may be, as long as that is so.
#[derive(Debug, Default)]
pub struct Unready(Mutex<Option<String>>);

impl Unready {
    pub(crate) fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// What rules were built of, and know: what the next configuration says in the same words goes on.
#[derive(Clone, Default)]
pub struct Known {
    pub(crate) accesses: access::Built,
    pub(crate) limits: Arc<rate::Limits>,
    pub(crate) compressing: Arc<compression::Room>,
    /// What went to each route, by its name.
    pub(crate) taken: HashMap<Arc<str>, Arc<Taken>, FnvBuildHasher>,
}

/// What a program brings of its own; it outlives every configuration.
#[derive(Default)]
pub struct Extensions {
    /// Who looks at requests before they are routed, in their order.
    pub filters: Vec<Arc<dyn Filter>>,
    /// In place of the routes.
    pub router: Option<Arc<dyn Router>>,
    /// For the listeners of these names.
    pub applications: HashMap<String, Arc<dyn TcpApplication>>,
    /// For the upstreams of these names.
    pub upstreams: HashMap<String, upstream::Extensions>,
    /// Where servers are found that the configuration does not list.
    pub sources: Sources,
}

/// Who this process is among its peers, whatever the configuration.
static IDENTITY: LazyLock<u128> = LazyLock::new(new_identity);

impl Snapshot {
    /// Builds upstreams and routes. `brought` are the parts that a program brings in place of the configuration's,
    /// `before` finds the upstream that had a name until now, and `known` is what was built of rules until now: what they
    /// know is carried over.
    ///
    /// # Errors
    /// The first of what the configuration names that can't be used.
    pub fn build(
        config: Config,
        brought: &Extensions,
        metrics: &Metrics,
        before: impl Fn(&str) -> Option<Arc<Upstream>>,
        known: &Known,
    ) -> Result<Self, BuildError> {
        let own = config.listeners.iter().filter(|listener| listener.protocol == Protocol::Application);
        if let Some(listener) = own.into_iter().find(|listener| !brought.applications.contains_key(&listener.name())) {
            return Err(BuildError(format!(
                "listener {}: `protocol: application`, and the program brings no application for it",
                listener.name()
            )));
        }
        let mut upstreams = HashMap::default();
        let mut peers = HashMap::default();
        let open_source = brought.sources.opener();
        let build = |name: &str, said: &upstream::Config, brought: Option<&upstream::Extensions>| {
            Ok::<_, upstream::BuildError>(match before(name) {
                Some(before) => before.rebuild_in(config.zone.as_deref(), said)?,
                None => {
                    let brought = brought.cloned().unwrap_or_default();
                    let brought = upstream::Extensions {
                        open_source: Some(Arc::clone(&open_source)),
                        zone: config.zone.clone(),
                        ..brought
                    };
                    Upstream::build_with(name, said, metrics.upstream(name), brought)?
                }
            })
        };
        for (name, said) in &config.upstreams {
            let brought = brought.upstreams.get(name);
            let upstream = build(name, said, brought)?;
            if let Some(of_peers) = said.of_peers() {
                // A protocol of the program's is spoken there, too.
                let protocol = brought.and_then(|brought| brought.session_protocol.clone());
                let brought = upstream::Extensions { session_protocol: protocol, ..upstream::Extensions::default() };
                let name_of_peers = upstream::Config::name_of_peers(name);
                let of_peers = build(&name_of_peers, &of_peers, Some(&brought))?;
                peers.insert(Arc::clone(upstream.name()), Arc::clone(&of_peers));
                upstreams.insert(Arc::clone(of_peers.name()), of_peers);
            }
            upstreams.insert(Arc::clone(upstream.name()), upstream);
        }
        let secrets = config.peers.secret_file.as_deref();
        let peering = (!peers.is_empty()).then(|| Peering::new(*IDENTITY, secrets)).transpose().map_err(BuildError)?;
        let fields = config.upstreams.iter().filter_map(|(name, said)| {
            Some((Arc::from(name.as_str()), MessageRules::build(&said.request_headers, &said.response_headers)?))
        });
        let fields = fields.collect();
        let mut session_protocols: Vec<Arc<dyn SessionProtocol>> = Vec::new();
        let own = upstreams.values().filter(|upstream| !upstream.are_peers());
        for protocol in own.filter_map(|upstream| upstream.session_protocol()) {
            if !session_protocols.iter().any(|known| Arc::ptr_eq(known, protocol)) {
                session_protocols.push(Arc::clone(protocol));
            }
        }
        let ordered = config.acme();
        let by_http = ordered.iter().filter(|acme| acme.challenge == Challenge::Http01);
        let tls = config.listeners.iter().map(|listener| listener.tls.as_ref());
        let mut builder = access::Builder::after(known.accesses.clone());
        let top = config.access.as_ref();
        let access = top.map(|said| builder.build(said)).transpose()?;
        let mut of_routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            let said = route.access.as_ref().map(|said| said.over(top));
            of_routes.push(said.map(|said| builder.build(&said)).transpose()?);
        }
        let raw = raw_networks(&config, &mut builder)?;
        let mut all_limits = rate::Limits::default();
        let top_limits = all_limits.build("", &config.limits.rate.0, &known.limits);
        let pages = Pages::build(&config.error_pages)?;
        let of_routes: Vec<_> = of_routes
            .into_iter()
            .zip(&config.routes)
            .map(|(access, route)| Ok((access, Pages::build(&route.error_pages)?)))
            .collect::<Result<_, PageError>>()?;
        let listeners: Vec<Arc<str>> = config.listeners.iter().map(|listener| listener.name().into()).collect();
        let names = router::named(&config.routes);
        // Routes may share a name, and count together then.
        let mut taken: HashMap<Arc<str>, Arc<Taken>, FnvBuildHasher> = HashMap::default();
        let taken_by = names.iter().map(|(name, _)| {
            let new = || Taken::after(known.taken.get(name.as_str()), &listeners);
            Arc::clone(taken.entry(name.as_str().into()).or_insert_with(new))
        });
        let taken_by: Vec<Arc<Taken>> = taken_by.collect();
        let limits_of =
            names.into_iter().map(|(name, route)| all_limits.build(&name, &route.limits.rate.0, &known.limits));
        let compressing = &known.compressing;
        compressing.set(config.limits.compressions);
        let compressions = config
            .routes
            .iter()
            .map(|route| Some(Arc::new(Compression::new(route.compression.as_ref()?, compressing))));
        let rules: Vec<Rules> = of_routes
            .into_iter()
            .zip(limits_of)
            .zip(compressions)
            .zip(taken_by)
            .map(|((((access, pages), limits), compression), taken)| Rules {
                access,
                limits,
                compression,
                pages,
                taken,
            })
            .collect();
        let rules = |place: usize| rules[place].clone();
        let mut routes = Vec::new();
        let router = brought.router.clone().unwrap_or_else(|| {
            let built = Routes::build_with(&config.routes, rules);
            routes = built.all().cloned().collect();
            Arc::new(built)
        });
        let all = config.access.iter().chain(config.routes.iter().filter_map(|route| route.access.as_ref()));
        let secrets = config.access_log.mask.iter().map(String::as_str).chain(all.flat_map(access::Config::secrets));
        let secrets = secrets.map(Box::from);
        Ok(Self {
            filters: brought.filters.iter().cloned().collect(),
            access,
            waits: builder.built.iter().any(|(_, _, access)| access.waits())
                || config.routes.iter().any(|route| route.files.is_some()),
            known: Known {
                accesses: builder.built,
                limits: Arc::new(all_limits),
                compressing: Arc::clone(compressing),
                taken,
            },
            raw,
            secrets: secrets.collect(),
            limits: top_limits,
            applications: brought.applications.clone(),
            open: Arc::default(),
            unready: Arc::default(),
            pages,
            fields,
            router,
            routes,
            upstreams,
            peers,
            peering,
            admin_tokens: Vec::new(),
            local: metrics.upstream("-"),
            challenges: by_http.map(|acme| acme.challenges()).collect(),
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

/// Who may come to each listener without speaking HTTP, as far as the listener does not say it itself.
fn raw_networks(
    config: &Config,
    builder: &mut access::Builder,
) -> Result<HashMap<Arc<str>, Networks, FnvBuildHasher>, access::BuildError> {
    let mut raw = HashMap::default();
    let Some(top) = &config.access else { return Ok(raw) };
    for listener in &config.listeners {
        let said = listener.access.as_ref();
        let allow = top.allow.as_ref().filter(|_| said.is_none_or(|said| said.allow.is_none()));
        let deny = top.deny.as_ref().filter(|_| said.is_none_or(|said| said.deny.is_none()));
        if let Some(networks) = builder.networks(allow, deny)? {
            raw.insert(listener.name().into(), networks);
        }
    }
    Ok(raw)
}

/// Why there is no snapshot of a configuration.
#[derive(Debug)]
pub struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}

impl From<upstream::BuildError> for BuildError {
    fn from(error: upstream::BuildError) -> Self {
        Self(error.to_string())
    }
}

impl From<PageError> for BuildError {
    fn from(error: PageError) -> Self {
        Self(error.to_string())
    }
}

impl From<access::BuildError> for BuildError {
    fn from(error: access::BuildError) -> Self {
        Self(error.to_string())
    }
}
