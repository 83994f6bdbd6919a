//! The one assembler: builds every part from a configuration, runs them, and stops them in order.

mod stop;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use log::{info, warn};
use pingora::apps::HttpServerOptions;
use pingora::proxy::{HttpProxy, ProxyHttp, http_proxy};
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, Server, ShutdownWatch};
use pingora::services::Service;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::access_log::{AccessLog, Writer};
use crate::admin::{self, Admin};
use crate::config::Config;
use crate::deadline::Deadlines;
use crate::listener::{self, ConnectionLimits, Listener, Shared};
use crate::metrics::Metrics;
use crate::proxy::{App, Balancer, Core, HttpEngine, PingoraEngine};
use crate::router::Router;
use crate::snapshot::{Brought, Snapshot};
use crate::upstream::{self, Balance};

use stop::Stopper;

/// A gateway that is built and bound, and serves once it runs.
pub struct Gateway {
    core: Arc<Core>,
    app: Arc<App>,
    server: Server,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    limits: Arc<ConnectionLimits>,
    deadlines: Arc<Deadlines>,
    log_writer: Writer,
    stop_asked: Arc<Notify>,
}

/// Stops a running gateway from within the program, as SIGTERM does from without.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Notify>);

impl Handle {
    /// Begins to drain; [`Gateway::run`] returns when that has ended.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

/// Assembles a [`Gateway`].
pub struct Builder {
    config: Config,
    brought: Brought,
    engine: EngineMaker,
}

/// Makes the HTTP engine once there is a balancer for it.
type EngineMaker = Box<dyn FnOnce(Balancer, &Arc<ServerConf>, Duration) -> Arc<dyn HttpEngine>>;

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

impl Gateway {
    /// Starts from a configuration.
    pub fn builder(config: Config) -> Builder {
        Builder { config, brought: Brought::default(), engine: Box::new(engine) }
    }

    /// Where a listener is bound, by its name, with the port that the kernel chose.
    pub fn address(&self, listener: &str) -> Option<String> {
        self.listeners.iter().find(|bound| &**bound.name() == listener).map(Listener::address)
    }

    /// A way to stop it once it runs.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.stop_asked))
    }

    /// Serves until SIGTERM, SIGINT or [`Handle::stop`]; returns when everything has ended. Blocks the thread.
    pub fn run(self) {
        let Self { core, app, mut server, listeners, admin, limits, deadlines, log_writer, stop_asked } = self;
        let (stop, stopping) = watch::channel(false);
        let ready = Arc::new(AtomicBool::new(true));
        let threads = server.configuration.threads;
        server.add_service(Traffic {
            core: Arc::clone(&core),
            app: Arc::clone(&app),
            listeners: Some(listeners),
            deadlines: Arc::clone(&deadlines),
            stopping,
            threads,
        });
        if let Some(listener) = admin {
            let (core, limits, ready) = (Arc::clone(&core), Arc::clone(&limits), Arc::clone(&ready));
            server.add_service(AdminService { listener: Some(listener), admin: Some(Admin::new(core, limits, ready)) });
        }
        let drain = core.snapshot.load().config.drain.clone();
        let log = core.access_log.clone();
        drop(core);
        let stopper = Stopper { drain, stop, stop_asked, ready, app, limits, deadlines, log };
        server.run(RunArgs { shutdown_signal: Box::new(stopper) });
        log_writer.finish();
    }
}

impl Builder {
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
        self.brought.balances.insert(upstream.to_owned(), Arc::new(move |servers| Box::new(make(servers))));
        self
    }

    /// Serves HTTP exchanges with a `ProxyHttp` of the program's own, which passes the hooks that it does not change on to
    /// the [`Balancer`] that it is given: a hook left out is a part of the gateway left out, such as the learning of
    /// sessions. Tunnels stay the gateway's.
    #[must_use]
    pub fn proxy<P, F>(mut self, make: F) -> Self
    where
        P: ProxyHttp + Send + Sync + 'static,
        P::CTX: Send + Sync,
        F: FnOnce(Balancer) -> P + 'static,
    {
        self.engine = Box::new(|balancer, conf, keep_alive| engine(make(balancer), conf, keep_alive));
        self
    }

    /// Loads what the configuration names, and binds every address; nothing is accepted yet.
    ///
    /// # Errors
    /// The first certificate, policy, log file, upstream or address that can't be used.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let Self { config, brought, engine } = self;
        let fail = |error: &dyn fmt::Display| BuildError(error.to_string());
        // Named before anything else does: Pingora would choose ring, whose handshakes cost more. If a program has
        // chosen already, its choice stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        check_authorities()?;
        let metrics = Metrics::new().map_err(|error| fail(&error))?;
        let (access_log, log_writer) = AccessLog::open(&config.access_log, Arc::clone(&metrics)).map_err(|error| {
            let file = config.access_log.file.as_deref().unwrap_or(Path::new("standard output"));
            BuildError(format!("access_log.file: {} can't be opened for appending: {error}", file.display()))
        })?;
        let limits = ConnectionLimits::new(config.limits.connections, config.limits.connections_per_address);
        let deadlines = Deadlines::new();
        let shared = Shared {
            limits: Arc::clone(&limits),
            deadlines: Arc::clone(&deadlines),
            flash_policy: listener::flash_policy(&config.flash_policy).map_err(|error| fail(&error))?,
            flash_timeout: config.flash_policy.timeout,
            first_bytes: config.timeouts.head,
        };
        let bind = |said: &listener::Config| Listener::bind(said, shared.clone(), metrics.listener(&said.name()));
        let listeners =
            config.listeners.iter().map(bind).collect::<Result<Vec<_>, _>>().map_err(|error| fail(&error))?;
        let admin = match &config.admin {
            Some(said) => Some(admin::listener(said, &shared, &metrics).map_err(|error| fail(&error))?),
            None => None,
        };
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let keep_alive = config.timeouts.keep_alive;
        let snapshot = Snapshot::build(config, brought, &metrics).map_err(|error| fail(&error))?;
        let core = Arc::new(Core { snapshot: ArcSwap::from_pointee(snapshot), metrics, access_log });
        let conf = ServerConf {
            threads,
            upstream_keepalive_pool_size: KEPT_CONNECTIONS,
            // `recv` below has waited for everything already.
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(0),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let engine = engine(Balancer::new(Arc::clone(&core)), &server.configuration, keep_alive);
        let app = Arc::new(App::new(Arc::clone(&core), engine));
        Ok(Gateway { core, app, server, listeners, admin, limits, deadlines, log_writer, stop_asked: Arc::default() })
    }
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

/// Pingora's HTTP proxy around these hooks; `keep_alive` is how long an HTTP/2 connection may be without a stream.
fn engine<P>(hooks: P, conf: &Arc<ServerConf>, keep_alive: Duration) -> Arc<dyn HttpEngine>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    let mut proxy: HttpProxy<P> = http_proxy(conf, hooks);
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = (!keep_alive.is_zero()).then_some(keep_alive);
    proxy.server_options = Some(options);
    Arc::new(PingoraEngine::new(proxy))
}

/// Every listener for traffic, and what runs beside them.
struct Traffic {
    core: Arc<Core>,
    app: Arc<App>,
    listeners: Option<Vec<Listener>>,
    deadlines: Arc<Deadlines>,
    stopping: ShutdownWatch,
    threads: usize,
}

#[async_trait]
impl Service for Traffic {
    async fn start_service(&mut self, _fds: Option<ListenFds>, shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        tokio::spawn(Arc::clone(&self.deadlines).run());
        let snapshot = self.core.snapshot.load_full();
        let running: Vec<_> = snapshot.pools.values().map(|pool| pool.start()).collect();
        let mut reopen = signal(SignalKind::user_defined1()).ok();
        let mut hang_up = signal(SignalKind::hangup()).ok();
        for listener in self.listeners.take().unwrap_or_default() {
            info!("listening {} {}", listener.name(), listener.address());
            tokio::spawn(listener.run(Arc::clone(&self.app), self.stopping.clone()));
        }
        let log = self.core.access_log.clone();
        tokio::spawn(async move {
            while received(&mut reopen).await {
                log.reopen();
            }
        });
        // Others read their configuration anew on it; ending every socket, as the system would, is the last thing meant.
        tokio::spawn(async move {
            while received(&mut hang_up).await {
                warn!("SIGHUP does nothing: the configuration is read at the start only");
            }
        });
        // Pingora's own watch never fires here: the stopper ends the process by itself. What this waits for is the end
        // of the runtime, with which all of this ends too.
        let mut shutdown = shutdown;
        let _ = shutdown.wait_for(|&over| over).await;
        drop(running);
    }

    fn name(&self) -> &str {
        "traffic"
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }
}

/// Waits for a signal; false when it can't come.
async fn received(signal: &mut Option<Signal>) -> bool {
    match signal {
        Some(signal) => signal.recv().await.is_some(),
        None => false,
    }
}

/// The admin listener, on a thread of its own, so that it answers when the others are busy.
struct AdminService {
    listener: Option<Listener>,
    admin: Option<Admin>,
}

#[async_trait]
impl Service for AdminService {
    async fn start_service(&mut self, _fds: Option<ListenFds>, shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        if let (Some(listener), Some(admin)) = (self.listener.take(), self.admin.take()) {
            info!("listening admin {}", listener.address());
            listener.run(Arc::new(admin.into_app()), shutdown).await;
        }
    }

    fn name(&self) -> &str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
