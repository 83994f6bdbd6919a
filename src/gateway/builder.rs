//! The one assembler: builds every part from a configuration, and binds every address.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerOptions;
use pingora::proxy::{HttpProxy, ProxyHttp, http_proxy};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;

use super::Gateway;
use crate::admin::Admin;
use crate::affinity::Affinity;
use crate::config::{Config, Engine};
#[cfg(feature = "kubernetes")]
use crate::controller;
#[cfg(feature = "kubernetes")]
use crate::discovery::Sources;
use crate::exchange::Core;
use crate::filter::Filter;
use crate::listener::TcpApplication;
use crate::listener::config::Protocol;
use crate::listener::inherit::Sockets;
use crate::metrics::Metrics;
use crate::proxy::{App, Balancer, Engines, Http2, PingoraEngine, Relay};
use crate::reload::{Beside, Reloader};
use crate::router::Router;
use crate::session::SessionProtocol;
use crate::snapshot::Extensions;
use crate::upstream::{self, Balance, Discovery, HealthCheck};

/// Assembles a [`Gateway`].
pub struct Builder {
    config: Config,
    file: Option<PathBuf>,
    beside: Option<Beside>,
    #[cfg(feature = "kubernetes")]
    controller: Option<controller::Terms>,
    brought: Extensions,
    engine: Option<Engine>,
    own_proxy: Option<EngineMaker>,
}

/// Makes the HTTP engine once there is something to serve.
type EngineMaker = Box<dyn FnOnce(Arc<Core>, &Arc<ServerConf>, Duration) -> Engines>;

/// Why a gateway can't be built.
#[derive(Debug)]
pub struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}

/// Idle connections to servers that are kept for reuse, over all upstreams and for each thread.
const KEPT_CONNECTIONS: usize = 512;

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            file: None,
            beside: None,
            #[cfg(feature = "kubernetes")]
            controller: None,
            brought: Extensions::default(),
            engine: None,
            own_proxy: None,
        }
    }

    /// The file that the configuration was loaded from: it is loaded anew on SIGHUP, on `POST /reload`, and when it
    /// changes.
    #[must_use]
    pub fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// What a Kubernetes cluster says is put beside the file, which has to be there.
    #[cfg(feature = "kubernetes")]
    #[must_use]
    pub(crate) fn controller(mut self, terms: controller::Terms) -> Self {
        self.beside = Some(Beside::unready("controller: nothing is listed yet"));
        // It may look at slices wherever it looks at the objects that lead to them.
        self.brought.sources = Sources::of_cluster(terms.kubeconfig.clone(), terms.namespaces.clone());
        self.controller = Some(terms);
        self
    }

    /// Asks this filter about every HTTP request, before it is routed, and about every answer; behind the filters that
    /// were given before.
    #[must_use]
    pub fn filter(mut self, filter: impl Filter) -> Self {
        self.brought.filters.push(Arc::new(filter));
        self
    }

    /// Routes requests with this instead of the routes of the configuration.
    #[must_use]
    pub fn router(mut self, router: impl Router + 'static) -> Self {
        self.brought.router = Some(Arc::new(router));
        self
    }

    /// Places the work of an upstream with this instead of its `balance`; `make` is called with its servers, and again
    /// whenever they change. See [`crate::Balance`] for an example.
    #[must_use]
    pub fn balance<B, F>(mut self, upstream: &str, make: F) -> Self
    where
        B: Balance + 'static,
        F: Fn(&[Arc<upstream::Server>]) -> B + Send + Sync + 'static,
    {
        let own = self.brought.upstreams.entry(upstream.to_owned()).or_default();
        own.balance = Some(Arc::new(move |servers| Box::new(make(servers))));
        self
    }

    /// Takes the servers of an upstream from this; those of the configuration serve until it has found some.
    #[must_use]
    pub fn discovery(mut self, upstream: &str, discovery: impl Discovery) -> Self {
        let own = self.brought.upstreams.entry(upstream.to_owned()).or_default();
        own.discovery = Some(Arc::new(discovery));
        self
    }

    /// Checks the servers of an upstream with this instead of its `health.check`.
    #[must_use]
    pub fn health_check(mut self, upstream: &str, check: impl HealthCheck) -> Self {
        let own = self.brought.upstreams.entry(upstream.to_owned()).or_default();
        own.health_check = Some(Arc::new(check));
        self
    }

    /// Places the clients of an upstream by what this says of their requests, before what its `affinity` says. Its balance
    /// has to be `client_ip`, or the program's own.
    #[must_use]
    pub fn affinity(mut self, upstream: &str, affinity: impl Affinity) -> Self {
        let own = self.brought.upstreams.entry(upstream.to_owned()).or_default();
        own.affinity = Some(Arc::new(affinity));
        self
    }

    /// Keeps the sessions of an upstream's servers by this protocol: an upstream of kind `http` has sessions then, one of
    /// kind `socket.io` has these in place of Engine.IO's.
    ///
    /// What its file says of `sessions` (grace, placement, rebalance) is read where the kind has sessions; where it is `http`, the
    /// program says it in the [`Config`] that it hands over: `config.upstreams["app"].sessions`.
    #[must_use]
    pub fn session_protocol(mut self, upstream: &str, protocol: impl SessionProtocol) -> Self {
        let own = self.brought.upstreams.entry(upstream.to_owned()).or_default();
        own.session_protocol = Some(Arc::new(protocol));
        self
    }

    /// Serves the connections of a listener, which has to have `protocol: application`, with this.
    #[must_use]
    pub fn application(mut self, listener: &str, application: impl TcpApplication) -> Self {
        self.brought.applications.insert(listener.to_owned(), Arc::new(application));
        self
    }

    /// Serves HTTP/1 exchanges with this engine, whatever the configuration says.
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Serves HTTP exchanges with a `ProxyHttp` of the program's own, which passes the hooks that it does not change on to
    /// the [`Balancer`] that it is given: a hook left out is a part of the gateway left out, such as the learning of
    /// sessions.
    ///
    /// The requests that open a WebSocket come to its `request_filter`, too, and go no further where that answers; what
    /// it lets pass is carried by a tunnel of the gateway's, so that later hooks see nothing of it, and changes that it makes to
    /// the head of such a request are not sent on: use a [`Filter`] for that.
    #[must_use]
    pub fn proxy<P, F>(mut self, make: F) -> Self
    where
        P: ProxyHttp + Send + Sync + 'static,
        P::CTX: Send + Sync,
        F: FnOnce(Balancer) -> P + 'static,
    {
        self.own_proxy = Some(engine_with(make, true));
        self
    }

    /// Loads what the configuration names, and binds every address; nothing is accepted yet.
    ///
    /// # Errors
    /// The first certificate, policy, log file, upstream or address that can't be used, or a name that no upstream has.
    pub fn build(self) -> Result<Gateway, BuildError> {
        #[cfg(feature = "kubernetes")]
        let controller = self.controller;
        let Self { config, file, beside, brought, engine, own_proxy, .. } = self;
        let fail = |error: &dyn fmt::Display| BuildError(error.to_string());
        // Named before anything else does: Pingora would choose ring, whose handshakes cost more. If a program has
        // chosen already, its choice stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        check_authorities()?;
        check_names(&brought, &config)?;
        let metrics = Metrics::new().map_err(|error| fail(&error))?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let keep_alive = config.timeouts.keep_alive;
        // Hooks of a program's own are Pingora's.
        let relays = engine.unwrap_or(config.engine) == Engine::Relay && own_proxy.is_none();
        let (sockets, predecessor) = Sockets::from_env();
        let (reloader, listeners, log_writer) =
            Reloader::first(config, (file, beside), brought, &metrics, &sockets).map_err(|error| fail(&error))?;
        sockets.close_rest();
        let conf = ServerConf {
            threads,
            upstream_keepalive_pool_size: KEPT_CONNECTIONS,
            // The hooks say when it is enough: the server of a session is tried for as long as its grace lasts.
            max_retries: usize::MAX,
            // `recv` below has waited for everything already.
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(0),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let core = reloader.core();
        let pingora = own_proxy.unwrap_or_else(|| engine_with(|balancer| balancer, false));
        let mut engine = pingora(Arc::clone(core), &server.configuration, keep_alive);
        if relays {
            let relay = Arc::new(Relay::new(Arc::clone(core), KEPT_CONNECTIONS));
            engine = Engines { http1: Arc::clone(&relay) as _, http2: Arc::new(Http2::new(relay)) };
        }
        let app = Arc::new(App::new(Arc::clone(core), engine));
        let admin = Admin::new(Arc::clone(&reloader)).map_err(|error| fail(&error))?;
        let stop_asked = Arc::default();
        Ok(Gateway {
            reloader,
            listeners,
            app,
            admin,
            server,
            log_writer,
            stop_asked,
            sockets,
            predecessor,
            #[cfg(feature = "kubernetes")]
            controller,
        })
    }
}

/// What a program brings for an upstream that is not there would have no effect.
fn check_names(brought: &Extensions, config: &Config) -> Result<(), BuildError> {
    for name in brought.applications.keys() {
        let said = config.listeners.iter().find(|listener| listener.name() == *name);
        if said.is_none_or(|said| said.protocol != Protocol::Application) {
            let found = if said.is_none() { "no such listener" } else { "another protocol for it" };
            return Err(BuildError(format!(
                "listener `{name}`: the program brings an application for it, and the configuration has {found}: \
                 expected `protocol: application`"
            )));
        }
    }
    for (name, own) in &brought.upstreams {
        let said = config.upstreams.get(name).filter(|said| own.discovery.is_some() && said.servers.are_found());
        if let Some(said) = said {
            return Err(BuildError(format!(
                "upstream `{name}`: the program brings a discovery, and the configuration has its servers found by {}: \
                 expected one of them",
                said.servers
            )));
        }
    }
    let stranger = brought.upstreams.keys().find(|name| !config.upstreams.contains_key(*name));
    stranger.map_or(Ok(()), |name| {
        let known: Vec<_> = config.upstreams.keys().map(|name| format!("`{name}`")).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(BuildError(format!(
            "upstream `{name}`: the program brings parts for it, but the configuration has no such upstream, it has {known}"
        )))
    })
}

/// Pingora's connector reads the system's authorities whether anybody needs them or not, and panics where it can't.
fn check_authorities() -> Result<(), BuildError> {
    let found = rustls_native_certs::load_native_certs();
    let fail = |error: &dyn fmt::Display| {
        Err(BuildError(format!("the system's certificate authorities (SSL_CERT_FILE, SSL_CERT_DIR): {error}")))
    };
    if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
        return fail(error);
    }
    let mut store = rustls::RootCertStore::empty();
    match found.certs.into_iter().find_map(|authority| store.add(authority).err()) {
        Some(error) => fail(&error),
        None => Ok(()),
    }
}

/// Pingora's HTTP proxy around the hooks that are made of the gateway's; the time is how long an HTTP/2 connection may be
/// without a stream.
fn engine_with<P>(make: impl FnOnce(Balancer) -> P + 'static, own_hooks: bool) -> EngineMaker
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    Box::new(move |core, conf, keep_alive| {
        let mut proxy: HttpProxy<P> = http_proxy(conf, make(Balancer::new(Arc::clone(&core))));
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = (!keep_alive.is_zero()).then_some(keep_alive);
        proxy.server_options = Some(options);
        let engine = Arc::new(PingoraEngine::new(proxy, core, own_hooks));
        Engines { http1: Arc::clone(&engine) as _, http2: engine }
    })
}
