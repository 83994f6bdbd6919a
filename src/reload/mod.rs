//! Start and reload are one path: load, build, swap, retire.
//!
//! Everything that can fail comes before the swap, so a bad file changes nothing. What is the same by its meaning is
//! carried over: sockets, connections, servers and their health, sessions, queues, counters, tickets.

mod plan;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use log::{info, warn};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use plan::{Change, Fates, Open, Plan, Socket};

use crate::access_log::{AccessLog, Prepared, Writer};
use crate::config::{self, Config, Loaded, Orphans};
use crate::deadline::Deadlines;
use crate::drain::{Pace, Roster};
use crate::exchange::Core;
use crate::listener::inherit::Sockets;
use crate::listener::{self, ConnectionLimits, Control, Listener, Settings, Shared};
use crate::metrics::Metrics;
use crate::snapshot::{Brought, Snapshot};
use crate::upstream::{self, Upstream};
use plan::Gone;
use watch::Watch;

/// Loads configurations into a running gateway.
pub struct Reloader {
    ground: Ground,
    core: Arc<Core>,
    /// Where the configuration comes from; `None` where a program made it.
    file: Option<PathBuf>,
    running: tokio::sync::Mutex<Running>,
    /// Where each listener is bound, by name.
    addresses: Mutex<HashMap<String, String>>,
    last: Mutex<Outcome>,
    /// What the files held when the first configuration was built.
    files_at_start: u64,
    stopping: AtomicBool,
    /// Where the traffic is served, and what is started for it lives.
    runtime: OnceLock<Handle>,
    traffic: UnboundedSender<Listener>,
    admin: UnboundedSender<Listener>,
}

/// What every configuration of one process shares.
struct Ground {
    metrics: Arc<Metrics>,
    brought: Brought,
    limits: Arc<ConnectionLimits>,
    /// The admin address answers when the gateway is full.
    admin_limits: Arc<ConnectionLimits>,
    deadlines: Arc<Deadlines>,
    sockets: Arc<Sockets>,
}

/// What was started for the configuration in force, and ends with it.
#[derive(Default)]
struct Running {
    listeners: Vec<Control>,
    admin: Option<Control>,
    upstreams: HashMap<Arc<str>, (Arc<Upstream>, upstream::Running)>,
    /// Upstreams that are gone, for as long as something of them is open.
    retired: Vec<Weak<Upstream>>,
    /// What is still counted under names that nobody has any more.
    left: Vec<Left>,
}

/// The name of an upstream or listener that is gone.
struct Left {
    name: Arc<str>,
    /// `None` for a listener.
    upstream: Option<Weak<Upstream>>,
}

/// The listeners that are to be run, as they come.
pub struct Listeners {
    /// For traffic.
    pub traffic: UnboundedReceiver<Listener>,
    /// For operators.
    pub admin: UnboundedReceiver<Listener>,
}

/// How the last attempt to load a configuration went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When the configuration in force was loaded.
    pub loaded: SystemTime,
    /// When it was last tried.
    pub tried: SystemTime,
    /// Why the last attempt failed, if it did.
    pub fault: Option<String>,
}

/// Why a configuration can't be loaded; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadError(String);

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReloadError {}

fn failed(error: impl fmt::Display) -> ReloadError {
    ReloadError(error.to_string())
}

/// Everything that a configuration needs, built and bound, and nothing of it in use yet.
struct Next {
    snapshot: Snapshot,
    listeners: Vec<Seat>,
    admin: Option<Seat>,
}

/// What becomes of one listening address.
enum Seat {
    /// It is bound anew.
    New(Listener, Control),
    /// It stays, with other settings.
    Kept(Box<Settings>),
}

/// Connections that the admin address has at once, apart from the limits of the traffic: those that have a place there, and
/// those that have just lost theirs.
const MOST_ADMIN_CONNECTIONS: usize = 256;

impl Ground {
    /// Builds and binds what a configuration needs and does not find in `standing`.
    fn prepare(&self, config: Config, standing: &Standing) -> Result<Next, ReloadError> {
        let shared = Shared {
            limits: Arc::clone(&self.limits),
            deadlines: Arc::clone(&self.deadlines),
            flash_policy: listener::flash_policy(&config.flash_policy).map_err(failed)?,
            flash_timeout: config.flash_policy.timeout,
            first_bytes: config.timeouts.head,
            sockets: Arc::clone(&self.sockets),
        };
        let seat = |said: &listener::Config, shared: Shared, standing: &HashMap<String, Arc<Settings>>| {
            let before = standing.get(&said.identity());
            let metrics = self.metrics.listener(&said.name());
            let settings = Settings::build(said, shared, metrics, before.map(|before| &**before)).map_err(failed)?;
            Ok(match before {
                Some(_) => Seat::Kept(Box::new(settings)),
                None => {
                    let (listener, control) = Listener::bind(settings).map_err(failed)?;
                    Seat::New(listener, control)
                }
            })
        };
        let listeners = config.listeners.iter().map(|said| seat(said, shared.clone(), &standing.listeners));
        let listeners = listeners.collect::<Result<Vec<_>, ReloadError>>()?;
        let admin = config.admin.as_ref().map(|said| {
            let shared = Shared { limits: Arc::clone(&self.admin_limits), ..shared.clone() };
            seat(&admin_listener(said, &config), shared, &standing.admin)
        });
        let admin = admin.transpose()?;
        let known = |name: &str| standing.upstreams.get(name).cloned();
        let snapshot = Snapshot::build(config, &self.brought, &self.metrics, known).map_err(failed)?;
        Ok(Next { snapshot, listeners, admin })
    }
}

/// What a new configuration finds.
#[derive(Default)]
struct Standing {
    listeners: HashMap<String, Arc<Settings>>,
    admin: HashMap<String, Arc<Settings>>,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
}

impl Standing {
    fn of(running: &Running, snapshot: &Snapshot) -> Self {
        let settings = |control: &Control| (control.settings().config().identity(), control.settings());
        // An upstream that comes back while something of it is still open is the same one.
        let retired = running.retired.iter().filter_map(Weak::upgrade);
        let retired = retired.map(|upstream| (Arc::clone(upstream.name()), upstream));
        let in_use = snapshot.upstreams.iter().map(|(name, upstream)| (Arc::clone(name), Arc::clone(upstream)));
        Self {
            listeners: running.listeners.iter().map(settings).collect(),
            admin: running.admin.iter().map(settings).collect(),
            upstreams: retired.chain(in_use).collect(),
        }
    }
}

fn admin_listener(said: &config::Admin, config: &Config) -> listener::Config {
    let is_taken = config.listeners.iter().any(|listener| listener.name.as_deref() == Some("admin"));
    listener::Config {
        // No listener can have the longer name.
        name: Some(if is_taken { "admin address" } else { "admin" }.to_owned()),
        // Handed on as it was accepted: what comes is read there, where those who are slow may lose their places.
        protocol: listener::config::Protocol::Tcp,
        max_connections: MOST_ADMIN_CONNECTIONS,
        ..listener::Config::at(said.address.clone())
    }
}

/// What is watched: the file itself, and the files that it names.
fn files(file: &Path, config: &Config) -> Vec<PathBuf> {
    std::iter::once(file.to_owned()).chain(config.files()).collect()
}

fn prepare_log(config: &Config) -> Result<Prepared, ReloadError> {
    AccessLog::prepare(&config.access_log).map_err(|error| log_fault(config, &error))
}

fn log_fault(config: &Config, error: &std::io::Error) -> ReloadError {
    let file = config.access_log.file.as_deref().unwrap_or(Path::new("standard output"));
    ReloadError(format!("access_log.file: {} can't be opened for appending: {error}", file.display()))
}

impl Reloader {
    /// Builds and binds the first configuration; nothing is accepted or checked before [`Self::begin`]. `file` is where
    /// later ones come from.
    ///
    /// # Errors
    /// The first certificate, policy, log file, upstream or address that can't be used.
    pub fn first(
        config: Config,
        file: Option<PathBuf>,
        brought: Brought,
        metrics: &Arc<Metrics>,
        sockets: &Arc<Sockets>,
    ) -> Result<(Arc<Self>, Listeners, Writer), ReloadError> {
        let (access_log, writer) =
            AccessLog::open(&config.access_log, Arc::clone(metrics)).map_err(|error| log_fault(&config, &error))?;
        let ground = Ground {
            metrics: Arc::clone(metrics),
            brought,
            limits: ConnectionLimits::new(config.limits.connections, config.limits.connections_per_address),
            admin_limits: ConnectionLimits::new(0, 0),
            deadlines: Deadlines::new(),
            sockets: Arc::clone(sockets),
        };
        let files_at_start = file.as_deref().map_or(0, |file| watch::fingerprint(&files(file, &config)));
        let Next { snapshot, listeners, admin } = ground.prepare(config, &Standing::default())?;
        let core = Core::new(snapshot, Arc::clone(metrics), access_log);
        let (traffic, traffic_comes) = unbounded_channel();
        let (to_admin, admin_comes) = unbounded_channel();
        let now = SystemTime::now();
        let this = Arc::new(Self {
            ground,
            core: Arc::new(core),
            file,
            running: tokio::sync::Mutex::default(),
            addresses: Mutex::default(),
            last: Mutex::new(Outcome { loaded: now, tried: now, fault: None }),
            files_at_start,
            stopping: AtomicBool::new(false),
            runtime: OnceLock::new(),
            traffic,
            admin: to_admin,
        });
        if let Ok(mut running) = this.running.try_lock() {
            this.seat(&mut running, listeners, admin);
        }
        this.ground.metrics.loaded(now);
        Ok((this, Listeners { traffic: traffic_comes, admin: admin_comes }, writer))
    }

    /// What everybody who serves a connection shares.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Places for connections.
    pub fn limits(&self) -> &Arc<ConnectionLimits> {
        &self.ground.limits
    }

    /// The clock of coarse deadlines.
    pub fn deadlines(&self) -> &Arc<Deadlines> {
        &self.ground.deadlines
    }

    /// Where a listener is bound, by its name, with the port that the kernel chose.
    pub fn address(&self, listener: &str) -> Option<String> {
        self.addresses().get(listener).cloned()
    }

    /// How the last attempt went.
    pub fn outcome(&self) -> Outcome {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that is open and can be told to leave, of upstreams that are gone, too, unless they are being replaced
    /// at this moment.
    pub fn rosters(&self) -> Vec<Arc<Roster>> {
        let retired: Vec<_> = self.running.try_lock().map(|running| running.retired.clone()).unwrap_or_default();
        let snapshot = self.core.snapshot.load();
        let upstreams = snapshot.upstreams.values().cloned().chain(retired.iter().filter_map(Weak::upgrade));
        upstreams.flat_map(|upstream| upstream.rosters()).map(|(_, roster)| roster).collect()
    }

    /// Starts to check servers. Needs the runtime around it that serves the traffic.
    pub async fn begin(&self) {
        let _ = self.runtime.set(Handle::current());
        let mut running = self.running.lock().await;
        self.check(&mut running, &self.core.snapshot.load());
    }

    /// No configuration is loaded any more: the gateway stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for upstream in self.core.snapshot.load().upstreams.values() {
            upstream.stop_shedding();
        }
    }

    /// Loads the file anew, because of this.
    ///
    /// # Errors
    /// Every fault of the file, or the first of what it names; then nothing has changed.
    pub async fn reload(self: &Arc<Self>, cause: &str) -> Result<Plan, ReloadError> {
        let Some(file) = self.file.clone() else {
            return Err(ReloadError("this configuration comes from a program, which has to bring another".to_owned()));
        };
        info!("{cause}: loading {}", file.display());
        self.load(async move {
            let Loaded { config, warnings } = blocking(move || Config::load(&file).map_err(failed)).await?;
            for warning in warnings {
                warn!("{warning}");
            }
            Ok(config)
        })
        .await
    }

    /// Puts this configuration in the place of the one in force.
    ///
    /// # Errors
    /// The first of what it names that can't be used; then nothing has changed.
    pub async fn replace(self: &Arc<Self>, config: Config) -> Result<Plan, ReloadError> {
        self.load(async move { Ok(config) }).await
    }

    /// One at a time, and to its end even where whoever asked for it has gone.
    async fn load<F>(self: &Arc<Self>, config: F) -> Result<Plan, ReloadError>
    where
        F: Future<Output = Result<Config, ReloadError>> + Send + 'static,
    {
        let runtime = self.runtime.get().ok_or_else(|| ReloadError("the gateway does not run yet".to_owned()))?;
        let this = Arc::clone(self);
        let loading = runtime.spawn(async move {
            let mut running = this.running.lock().await;
            let result = match config.await {
                Ok(config) => this.apply(&mut running, config).await,
                Err(fault) => Err(fault),
            };
            this.note(&result);
            result
        });
        loading.await.unwrap_or_else(|error| Err(failed(error)))
    }

    /// What a configuration would change, and mean for what is open now.
    pub fn plan(&self, config: &Config) -> Plan {
        Plan::between(&self.core.snapshot.load().config, config, &self.open())
    }

    /// Reloads whenever the file, or a file that it names, holds something else, and the configuration in force asks
    /// for that; never ends.
    pub async fn watch(self: Arc<Self>) {
        let Some(file) = self.file.clone() else { return };
        let mut watch = match Watch::new() {
            Ok(watch) => watch,
            Err(error) => return warn!("files can't be watched: {error}; SIGHUP reloads all the same"),
        };
        let mut watched = Vec::new();
        let mut seen = self.files_at_start;
        loop {
            let files = files(&file, &self.core.snapshot.load().config);
            if files != watched {
                watch.follow(&files);
                watched = files;
            }
            let now = watch::fingerprint(&watched);
            if now == seen {
                watch.touched().await;
                continue;
            }
            seen = now;
            if self.core.snapshot.load().config.reload.watch {
                // The log tells how it went.
                let _ = self.reload("a file has changed").await;
            }
        }
    }

    async fn apply(self: &Arc<Self>, running: &mut Running, config: Config) -> Result<Plan, ReloadError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(ReloadError("the gateway is stopping".to_owned()));
        }
        let before = self.core.snapshot.load_full();
        let mut plan = Plan::between(&before.config, &config, &self.open());
        let log = if before.config.access_log == config.access_log { None } else { Some(prepare_log(&config)?) };
        let standing = Standing::of(running, &before);
        let this = Arc::clone(self);
        let next = blocking(move || this.ground.prepare(config, &standing)).await?;
        self.tell_files(&mut plan, running, &before, &next);

        // From here on nothing fails.
        let Next { snapshot, listeners, admin } = next;
        if let Some(log) = log {
            self.core.access_log.switch(log);
        }
        let limits = &snapshot.config.limits;
        self.ground.limits.set(limits.connections, limits.connections_per_address);
        let snapshot = Arc::new(snapshot);
        self.core.snapshot.store(Arc::clone(&snapshot));
        self.check(running, &snapshot);
        let gone = self.seat(running, listeners, admin);
        for control in gone {
            info!("no longer listening {}", control.settings().config().name());
            control.retire();
        }
        self.retire(running, &before, &snapshot);
        Ok(plan)
    }

    /// Checks the servers of these upstreams and of no others, and lets go of those that are to be left.
    fn check(&self, running: &mut Running, snapshot: &Snapshot) {
        let mut upstreams = HashMap::with_capacity(snapshot.upstreams.len());
        for (name, upstream) in &snapshot.upstreams {
            let known = running.upstreams.remove(name).filter(|(known, _)| Arc::ptr_eq(known, upstream));
            let fresh = || (Arc::clone(upstream), upstream.start());
            upstreams.insert(Arc::clone(name), known.unwrap_or_else(fresh));
        }
        running.upstreams = upstreams;
    }

    /// Gives listeners their settings, and those that are new to be run; gives back those that have no place any more.
    fn seat(&self, running: &mut Running, listeners: Vec<Seat>, admin: Option<Seat>) -> Vec<Control> {
        fn place(seat: Seat, before: &mut Vec<Control>, run: &UnboundedSender<Listener>) -> Option<Control> {
            match seat {
                Seat::New(listener, control) => {
                    // Nobody takes it only when the gateway has ended.
                    let _ = run.send(listener);
                    Some(control)
                }
                Seat::Kept(settings) => {
                    let identity = settings.config().identity();
                    let place = before.iter().position(|control| control.settings().config().identity() == identity)?;
                    let control = before.swap_remove(place);
                    control.set(*settings);
                    Some(control)
                }
            }
        }
        let mut before = std::mem::take(&mut running.listeners);
        let mut admin_before: Vec<Control> = running.admin.take().into_iter().collect();
        running.listeners = listeners.into_iter().filter_map(|seat| place(seat, &mut before, &self.traffic)).collect();
        running.admin = admin.and_then(|seat| place(seat, &mut admin_before, &self.admin));
        let named = |control: &Control| (control.settings().config().name(), control.address().to_owned());
        *self.addresses() = running.listeners.iter().chain(&running.admin).map(named).collect();
        before.extend(admin_before);
        before
    }

    /// Lets go of what the new configuration has no place for, as it says.
    fn retire(&self, running: &mut Running, before: &Snapshot, now: &Snapshot) {
        running.retired.retain(|upstream| upstream.strong_count() > 0);
        self.forget(&mut running.left, now);
        let gone = Gone::between(&before.config, &now.config);
        running.left.extend(gone.listeners().map(|name| Left { name: name.into(), upstream: None }));
        let mut orphans = Vec::new();
        for (name, upstream) in &before.upstreams {
            if !now.upstreams.contains_key(name) {
                running.retired.push(Arc::downgrade(upstream));
                running.left.push(Left { name: Arc::clone(name), upstream: Some(Arc::downgrade(upstream)) });
            }
            for (_, roster) in upstream.rosters() {
                orphans.extend(roster.those(|origin| gone.has(name, origin)));
            }
        }
        let reload = &now.config.reload;
        let orphans = Roster::of(orphans);
        let count = orphans.len();
        if count == 0 {
            return;
        }
        match reload.orphans {
            Orphans::Keep => info!("{count} sockets have lost their place, and are kept until they end"),
            Orphans::Close => info!("{} sockets have lost their place, and are closed", orphans.tell_all()),
            Orphans::Drain => {
                let pace = Pace { rate: reload.rate, jitter: reload.jitter, deadline: reload.deadline };
                info!("{count} sockets have lost their place, and are told goodbye");
                tokio::spawn(async move {
                    let told = AtomicUsize::new(0);
                    orphans.empty(pace, || true, || true, &told).await;
                    info!("{} sockets that had lost their place were told goodbye", told.into_inner());
                });
            }
        }
    }

    /// Tells no more of upstreams and listeners that are gone and have nothing open: a thousand names are a thousand
    /// families of metrics.
    fn forget(&self, left: &mut Vec<Left>, now: &Snapshot) {
        let metrics = &self.ground.metrics;
        left.retain(|Left { name, upstream }| {
            let (label, is_back, open) = match upstream {
                Some(upstream) => ("upstream", now.upstreams.contains_key(name), upstream.strong_count() > 0),
                None => {
                    let is_back = now.config.listeners.iter().any(|said| *said.name() == **name);
                    ("listener", is_back, metrics.listener(name).open.get() > 0)
                }
            };
            if !is_back && !open {
                metrics.forget(label, name);
            }
            !is_back && open
        });
    }

    /// What is open now.
    fn open(&self) -> Open {
        let snapshot = self.core.snapshot.load();
        let mut open = Open::default();
        for (name, upstream) in &snapshot.upstreams {
            let servers = upstream.all_servers();
            for (id, roster) in upstream.rosters() {
                let server = servers.iter().find(|server| server.id() == id);
                let server = server.map_or_else(|| Arc::from(""), |server| Arc::clone(server.name()));
                let sockets = roster.those(|_| true).into_iter().filter_map(|leave| leave.upgrade());
                open.sockets.extend(sockets.map(|leave| Socket {
                    upstream: Arc::clone(name),
                    server: Arc::clone(&server),
                    origin: leave.origin().clone(),
                }));
            }
            for server in servers.iter() {
                let sessions = upstream.sessions_on(server.id());
                open.sessions.push((Arc::clone(name), Arc::clone(server.name()), sessions));
            }
        }
        for said in &snapshot.config.listeners {
            let connections = self.ground.metrics.listener(&said.name()).open.get();
            open.connections.push((said.name().into(), usize::try_from(connections).unwrap_or(0)));
        }
        open
    }

    /// Adds to a plan what no comparison of configurations shows: other contents of the same files.
    fn tell_files(&self, plan: &mut Plan, running: &Running, before: &Snapshot, next: &Next) {
        for seat in &next.listeners {
            let Seat::Kept(settings) = seat else { continue };
            let is_it = |control: &&Control| control.settings().config().identity() == settings.config().identity();
            let control = running.listeners.iter().find(is_it);
            let same_files = |old: &Settings| old.config().tls == settings.config().tls;
            if control.is_some_and(|control| {
                let old = control.settings();
                same_files(&old) && !old.has_certificates_of(settings)
            }) {
                plan.files_changed("listener", &settings.config().name(), "certificates");
            }
        }
        for (name, upstream) in &next.snapshot.upstreams {
            let Some(old) = before.upstreams.get(name) else { continue };
            if old.config().tls == upstream.config().tls && old.tls() != upstream.tls() {
                plan.files_changed("upstream", name, "certificates");
            }
        }
    }

    fn note(&self, result: &Result<Plan, ReloadError>) {
        let now = SystemTime::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.tried = now;
        match result {
            Ok(plan) => {
                last.loaded = now;
                last.fault = None;
                self.ground.metrics.loaded(now);
                for line in plan.to_string().lines() {
                    info!("reloaded: {line}");
                }
            }
            Err(fault) => {
                last.fault = Some(fault.to_string());
                self.ground.metrics.not_loaded();
                warn!("not reloaded, everything stays as it was: {fault}");
            }
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what reads files where it holds nobody up.
async fn blocking<T, F>(work: F) -> Result<T, ReloadError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ReloadError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(error)))
}
