//! The one assembler: builds every part from a configuration, runs them, and stops them in order.

mod manager;
mod stop;
mod upgrade;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use log::{debug, info};
use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::proxy::{HttpProxy, ProxyHttp, http_proxy};
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, Server, ShutdownWatch};
use pingora::services::Service;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::access_log::Writer;
use crate::admin::Admin;
use crate::config::Config;
use crate::listener::Listener;
use crate::listener::inherit::Sockets;
use crate::metrics::Metrics;
use crate::proxy::{App, Balancer, Core, Engine, HttpEngine, PingoraEngine};
use crate::reload::{Listeners, Plan, ReloadError, Reloader};
use crate::router::Router;
use crate::snapshot::Brought;
use crate::upstream::{self, Balance};

use stop::Stopper;
use upgrade::Upgrade;

/// A gateway that is built and bound, and serves once it runs.
pub struct Gateway {
    reloader: Arc<Reloader>,
    listeners: Listeners,
    app: Arc<App>,
    server: Server,
    log_writer: Writer,
    stop_asked: Arc<Notify>,
    sockets: Arc<Sockets>,
    predecessor: Option<UnixStream>,
}

/// Governs a running gateway from within the program, as signals do from without.
#[derive(Clone)]
pub struct Handle {
    stop_asked: Arc<Notify>,
    reloader: Arc<Reloader>,
}

impl Handle {
    /// Begins to drain; [`Gateway::run`] returns when that has ended.
    pub fn stop(&self) {
        self.stop_asked.notify_one();
    }

    /// Puts another configuration in the place of the one in force; says what was different.
    ///
    /// # Errors
    /// The first of what it names that can't be used; then nothing has changed.
    pub async fn replace(&self, config: Config) -> Result<Plan, ReloadError> {
        self.reloader.replace(config).await
    }
}

/// Assembles a [`Gateway`].
pub struct Builder {
    config: Config,
    file: Option<PathBuf>,
    brought: Brought,
    engine: EngineMaker,
}

/// Makes the HTTP engine once there is something to serve.
type EngineMaker = Box<dyn FnOnce(Arc<Core>, &Arc<ServerConf>, Duration) -> Arc<dyn HttpEngine>>;

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
        let engine = engine_with(|balancer| balancer);
        Builder { config, file: None, brought: Brought::default(), engine }
    }

    /// Where a listener is bound, by its name, with the port that the kernel chose; `admin` is the admin address.
    pub fn address(&self, listener: &str) -> Option<String> {
        self.reloader.address(listener)
    }

    /// A way to govern it once it runs.
    pub fn handle(&self) -> Handle {
        Handle { stop_asked: Arc::clone(&self.stop_asked), reloader: Arc::clone(&self.reloader) }
    }

    /// Serves until SIGTERM, SIGINT or [`Handle::stop`]; returns when everything has ended. Blocks the thread.
    pub fn run(self) {
        let Self { reloader, listeners, app, mut server, log_writer, stop_asked, sockets, predecessor } = self;
        let upgrade = Upgrade::new(sockets);
        let ending = &reloader.core().ending;
        let ready = Arc::new(AtomicBool::new(true));
        let threads = server.configuration.threads;
        let Listeners { traffic, admin } = listeners;
        server.add_service(Traffic {
            reloader: Arc::clone(&reloader),
            app: Arc::clone(&app),
            listeners: Some(traffic),
            stopping: ending.leaving(),
            predecessor,
            threads,
        });
        let operators = Admin::new(Arc::clone(&reloader), Arc::clone(&ready));
        let stopping = ending.handed_over();
        server.add_service(AdminService { listeners: Some(admin), admin: Some(operators), stopping });
        let (limits, deadlines) = (Arc::clone(reloader.limits()), Arc::clone(reloader.deadlines()));
        let stopper = Stopper { reloader, stop_asked, ready, app, limits, deadlines, upgrade };
        server.run(RunArgs { shutdown_signal: Box::new(stopper) });
        log_writer.finish();
    }
}

impl Builder {
    /// The file that the configuration was loaded from: it is loaded anew on SIGHUP, on `POST /reload`, and when it
    /// changes.
    #[must_use]
    pub fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
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
        self.brought.balances.insert(upstream.to_owned(), Arc::new(move |servers| Box::new(make(servers))));
        self
    }

    /// Serves HTTP/1 exchanges with this engine. Default: [`Engine::Pingora`].
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = match engine {
            Engine::Pingora => engine_with(|balancer| balancer),
        };
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
        self.engine = engine_with(make);
        self
    }

    /// Loads what the configuration names, and binds every address; nothing is accepted yet.
    ///
    /// # Errors
    /// The first certificate, policy, log file, upstream or address that can't be used.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let Self { config, file, brought, engine } = self;
        let fail = |error: &dyn fmt::Display| BuildError(error.to_string());
        // Named before anything else does: Pingora would choose ring, whose handshakes cost more. If a program has
        // chosen already, its choice stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        check_authorities()?;
        let metrics = Metrics::new().map_err(|error| fail(&error))?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let keep_alive = config.timeouts.keep_alive;
        let (sockets, predecessor) = Sockets::from_env();
        let (reloader, listeners, log_writer) =
            Reloader::first(config, file, brought, &metrics, &sockets).map_err(|error| fail(&error))?;
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
        let engine = engine(Arc::clone(core), &server.configuration, keep_alive);
        let app = Arc::new(App::new(Arc::clone(core), engine));
        let stop_asked = Arc::default();
        Ok(Gateway { reloader, listeners, app, server, log_writer, stop_asked, sockets, predecessor })
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

/// Pingora's HTTP proxy around the hooks that are made of the gateway's; the time is how long an HTTP/2 connection may be
/// without a stream.
fn engine_with<P>(make: impl FnOnce(Balancer) -> P + 'static) -> EngineMaker
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    Box::new(|core, conf, keep_alive| {
        let mut proxy: HttpProxy<P> = http_proxy(conf, make(Balancer::new(Arc::clone(&core))));
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = (!keep_alive.is_zero()).then_some(keep_alive);
        proxy.server_options = Some(options);
        Arc::new(PingoraEngine::new(proxy, core))
    })
}

/// Every listener for traffic, and what runs beside them.
struct Traffic {
    reloader: Arc<Reloader>,
    app: Arc<App>,
    listeners: Option<UnboundedReceiver<Listener>>,
    stopping: ShutdownWatch,
    predecessor: Option<UnixStream>,
    threads: usize,
}

#[async_trait]
impl Service for Traffic {
    async fn start_service(&mut self, _fds: Option<ListenFds>, shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        tokio::spawn(Arc::clone(self.reloader.deadlines()).run());
        self.reloader.begin().await;
        tokio::spawn(Arc::clone(&self.reloader).watch());
        let mut reopen = signal(SignalKind::user_defined1()).ok();
        let log = self.reloader.core().access_log.clone();
        tokio::spawn(async move {
            while received(&mut reopen).await {
                log.reopen();
            }
        });
        let mut hang_up = signal(SignalKind::hangup()).ok();
        let reloader = Arc::clone(&self.reloader);
        tokio::spawn(async move {
            while received(&mut hang_up).await {
                if let Err(fault) = reloader.reload("SIGHUP").await {
                    debug!("SIGHUP: {fault}");
                }
            }
        });
        // Clients that come before the listeners run wait in their queues.
        match self.predecessor.take() {
            Some(predecessor) => upgrade::say_ready(predecessor),
            None => manager::ready(),
        }
        if let Some(listeners) = self.listeners.take() {
            run_all(listeners, &self.app, &self.stopping, shutdown).await;
        }
    }

    fn name(&self) -> &str {
        "traffic"
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }
}

/// Runs listeners as they come. Pingora's own watch never fires here, since the stopper ends the process by itself: it
/// is over when the runtime is.
async fn run_all<A>(
    mut listeners: UnboundedReceiver<Listener>,
    app: &Arc<A>,
    stopping: &ShutdownWatch,
    mut over: ShutdownWatch,
) where
    A: ServerApp + Send + Sync + 'static,
{
    loop {
        tokio::select! {
            listener = listeners.recv() => {
                let Some(listener) = listener else { break };
                info!("listening {} {}", listener.name(), listener.address());
                tokio::spawn(listener.run(Arc::clone(app), stopping.clone()));
            }
            _ = over.wait_for(|&over| over) => break,
        }
    }
    let _ = over.wait_for(|&over| over).await;
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
    listeners: Option<UnboundedReceiver<Listener>>,
    admin: Option<Admin>,
    /// It answers to the end, unless another process has taken it over.
    stopping: ShutdownWatch,
}

#[async_trait]
impl Service for AdminService {
    async fn start_service(&mut self, _fds: Option<ListenFds>, shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        if let (Some(listeners), Some(admin)) = (self.listeners.take(), self.admin.take()) {
            run_all(listeners, &Arc::new(admin.into_app()), &self.stopping, shutdown).await;
        }
    }

    fn name(&self) -> &str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
