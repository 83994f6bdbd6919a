//! Start and reload are one path: load, build, swap, retire.
//!
//! Everything that can fail comes before the swap, so a bad file changes nothing. What is the same by its meaning is
//! carried over: sockets, connections, servers and their health, sessions, queues, counters, tickets.

#[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
mod beside;
mod build;
pub(crate) mod certificates;
mod open;
pub(crate) mod outside;
mod plan;
mod retire;
pub(crate) mod tokens;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use log::{info, warn};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use beside::Beside;
#[cfg(feature = "kubernetes")]
pub use beside::Verdict;
pub use open::Open;
pub use plan::Plan;

use crate::access_log::{AccessLog, Prepared, Writer};
use crate::buffers::Buffers;
use crate::config::{Config, Loaded};
use crate::deadline::Deadlines;
use crate::exchange::Core;
use crate::listener::inherit::Sockets;
use crate::listener::{ConnectionLimits, Control, Listener, Settings};
use crate::metrics::Metrics;
use crate::roster::Roster;
use crate::snapshot::{Extensions, Snapshot};
use crate::trace::{self, Traces};
use crate::transport::shortage::room_for_connections;
use crate::upstream::{self, Upstream};
use crate::watch::fingerprint;
use build::{Binding, Built, Context, Existing};
use certificates::{Certificates, Reminder};
use retire::Retired;

/// Descriptors for files, threads and the admin address, before the first one of a server or a listener.
const OWN_DESCRIPTORS: usize = 128;

/// As many servers an upstream may have where they are found: nobody knows yet.
const FOUND_SERVERS: usize = 64;

/// Loads configurations into a running gateway.
pub struct Reloader {
    context: Context,
    core: Arc<Core>,
    /// Where the configuration comes from; `None` where a program made it.
    file: Option<PathBuf>,
    /// What is said beside the file; `None` where nobody says anything.
    beside: Option<Beside>,
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

/// What was started for the configuration in force, and ends with it.
#[derive(Default)]
struct Running {
    listeners: Vec<Control>,
    admin: Option<Control>,
    upstreams: HashMap<Arc<str>, (Arc<Upstream>, upstream::Running)>,
    retired: Retired,
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
    /// The number of the configuration in force: 1 for the first.
    pub generation: u64,
    /// What asked for the one in force.
    pub cause: String,
    /// What it changed; `None` for the first.
    pub plan: Option<Plan>,
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

fn no_file() -> ReloadError {
    ReloadError("this configuration comes from a program, which has to bring another".to_owned())
}

fn prepare_log(config: &Config) -> Result<Prepared, ReloadError> {
    AccessLog::prepare(&config.access_log).map_err(|error| log_fault(config, &error))
}

fn prepare_traces(traces: &Traces, config: &Config) -> Result<trace::Prepared, ReloadError> {
    traces.prepare(config.traces.as_ref()).map_err(|error| ReloadError(format!("traces.{error}")))
}

fn log_fault(config: &Config, error: &std::io::Error) -> ReloadError {
    let file = config.access_log.file.as_deref().unwrap_or(Path::new("standard output"));
    ReloadError(format!("access_log.file: {} can't be opened for appending: {error}", file.display()))
}

/// Connections of clients that there may be: as many as are said, and no more than leave descriptors for servers and
/// checks.
fn most_connections(config: &Config) -> usize {
    let said = config.limits.connections;
    let servers = |said: &upstream::config::Servers| if said.are_found() { FOUND_SERVERS } else { said.list().len() };
    let servers: usize = config.upstreams.values().map(|upstream| servers(&upstream.servers)).sum();
    let reserve = (OWN_DESCRIPTORS + config.listeners.len() + 2 * servers) as u64;
    match room_for_connections(reserve) {
        Some(room) if said == 0 || said > room => {
            warn!(
                "limits.connections: {room}, not {said}: each connection takes a descriptor, and one more towards its \
                 server, and the limit of open files allows no more"
            );
            room
        }
        _ => said,
    }
}

impl Reloader {
    /// Builds and binds the first configuration; nothing is accepted or checked before [`Self::begin`]. `file` is where
    /// later ones come from.
    ///
    /// # Errors
    /// The first certificate, policy, log file, upstream or address that can't be used.
    pub fn first(
        config: Config,
        (file, beside): (Option<PathBuf>, Option<Beside>),
        brought: Extensions,
        metrics: &Arc<Metrics>,
        sockets: &Arc<Sockets>,
    ) -> Result<(Arc<Self>, Listeners, Writer), ReloadError> {
        let (access_log, writer) =
            AccessLog::open(&config.access_log, Arc::clone(metrics)).map_err(|error| log_fault(&config, &error))?;
        let context = Context {
            metrics: Arc::clone(metrics),
            brought,
            limits: ConnectionLimits::new(most_connections(&config), config.limits.connections_per_address),
            open_requests: Arc::default(),
            unready: Arc::default(),
            admin_limits: ConnectionLimits::new(0, 0),
            deadlines: Deadlines::new(),
            buffers: Buffers::new(metrics.buffered_bytes.clone(), metrics.buffers_cut.clone()),
            sockets: Arc::clone(sockets),
            traces: Traces::off(Arc::clone(metrics)),
            reminder: Mutex::default(),
        };
        let files_at_start = file.as_deref().map_or(0, |file| fingerprint(&watch::files(file, &config)));
        context.unready.set(beside.as_ref().map(|beside| beside.unready.clone()));
        context.buffers.bound(config.limits.buffers.as_u64());
        context.open_requests.set(config.limits.requests_per_address);
        let Built { snapshot, listeners, admin } = context.build(config, &Existing::default())?;
        let traces = context.traces.clone();
        traces.switch(prepare_traces(&traces, &snapshot.config)?);
        let core = Core::new(snapshot, Arc::clone(metrics), access_log, traces);
        let (traffic, traffic_comes) = unbounded_channel();
        let (to_admin, admin_comes) = unbounded_channel();
        let now = SystemTime::now();
        let this = Arc::new(Self {
            context,
            core: Arc::new(core),
            file,
            beside,
            running: tokio::sync::Mutex::default(),
            addresses: Mutex::default(),
            last: Mutex::new(Outcome {
                loaded: now,
                tried: now,
                fault: None,
                generation: 1,
                cause: "start".to_owned(),
                plan: None,
            }),
            files_at_start,
            stopping: AtomicBool::new(false),
            runtime: OnceLock::new(),
            traffic,
            admin: to_admin,
        });
        if let Ok(mut running) = this.running.try_lock() {
            this.listen(&mut running, listeners, admin);
        }
        this.context.metrics.loaded(now);
        Ok((this, Listeners { traffic: traffic_comes, admin: admin_comes }, writer))
    }

    /// What everybody who serves a connection shares.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Places for connections.
    pub fn limits(&self) -> &Arc<ConnectionLimits> {
        &self.context.limits
    }

    /// The clock of coarse deadlines.
    pub fn deadlines(&self) -> &Arc<Deadlines> {
        &self.context.deadlines
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
        let retired = self.running.try_lock().map(|running| running.retired.upstreams()).unwrap_or_default();
        let snapshot = self.core.snapshot.load();
        let upstreams = snapshot.upstreams.values().cloned().chain(retired);
        upstreams.flat_map(|upstream| upstream.rosters()).map(|(_, roster)| roster).collect()
    }

    /// Starts to check servers. Needs the runtime around it that serves the traffic.
    pub async fn begin(&self) {
        let _ = self.runtime.set(Handle::current());
        let mut running = self.running.lock().await;
        self.check(&mut running, &self.core.snapshot.load());
    }

    /// Says what is wrong with certificates once it is, and again every day, without anybody loading them; never ends.
    pub async fn remind(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Reminder::EVERY).await;
            let this = Arc::clone(&self);
            // Files are read where that holds up no traffic.
            let said = tokio::task::spawn_blocking(move || {
                let Certificates { warnings, .. } = Certificates::of(&this.core.snapshot.load().config);
                let mut reminder = this.context.reminder.lock().unwrap_or_else(PoisonError::into_inner);
                let said = warnings.iter().map(|warning| warning.to_string()).collect();
                reminder.due(said, Instant::now()).iter().for_each(|warning| warn!("{warning}"));
            });
            if said.await.is_err() {
                return;
            }
        }
    }

    /// No configuration is loaded any more: the gateway stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.leave_beside();
        for upstream in self.core.snapshot.load().upstreams.values() {
            upstream.stop_shedding();
        }
    }

    /// Loads the file anew, because of this.
    ///
    /// # Errors
    /// Every fault of the file, or the first of what it names; then nothing has changed.
    pub async fn reload(self: &Arc<Self>, cause: &str) -> Result<Plan, ReloadError> {
        let file = self.file.clone().ok_or_else(no_file)?;
        info!("{cause}: loading {}", file.display());
        let this = Arc::clone(self);
        self.load(cause, move || {
            let Loaded { config, warnings, .. } = this.read()?;
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
        self.load("the program", move || Ok(config)).await
    }

    /// Reads the files that the configuration in force names anew, whatever its own file holds by now.
    ///
    /// # Errors
    /// The first of them that can't be used; then nothing has changed.
    pub async fn refresh(self: &Arc<Self>) -> Result<Plan, ReloadError> {
        let config = self.core.snapshot.load().config.clone();
        self.load("a renewed certificate", move || Ok(config)).await
    }

    /// One at a time, and to its end even where whoever asked for it has gone; all of it where it holds up no traffic,
    /// since thousands of routes take their time.
    async fn load<F>(self: &Arc<Self>, cause: &str, read: F) -> Result<Plan, ReloadError>
    where
        F: FnOnce() -> Result<Config, ReloadError> + Send + 'static,
    {
        let runtime = self.runtime.get().ok_or_else(|| ReloadError("the gateway does not run yet".to_owned()))?;
        let (this, cause) = (Arc::clone(self), cause.to_owned());
        let loading = runtime.spawn_blocking(move || {
            let mut running = this.running.blocking_lock();
            let result = read().and_then(|config| this.apply(&mut running, config));
            this.note(cause, &result);
            result
        });
        loading.await.unwrap_or_else(|error| Err(failed(error)))
    }

    /// What a configuration would change, and mean for what is open now.
    pub fn plan(&self, config: &Config) -> Plan {
        let snapshot = self.core.snapshot.load();
        Plan::between(&snapshot.config, config, &Open::of(&snapshot, &self.context.metrics))
    }

    fn apply(&self, running: &mut Running, config: Config) -> Result<Plan, ReloadError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(ReloadError("the gateway is stopping".to_owned()));
        }
        let before = self.core.snapshot.load_full();
        let metrics = &self.context.metrics;
        let mut plan = Plan::between(&before.config, &config, &Open::of(&before, metrics));
        let log = if before.config.access_log == config.access_log { None } else { Some(prepare_log(&config)?) };
        let same = before.config.traces == config.traces;
        let traces = if same { None } else { Some(prepare_traces(&self.core.traces, &config)?) };
        let built = self.context.build(config, &Existing::of(running, &before))?;
        tell_files(&mut plan, running, &before, &built);

        // From here on nothing fails.
        let Built { snapshot, listeners, admin } = built;
        if let Some(log) = log {
            self.core.access_log.switch(log);
        }
        if let Some(traces) = traces {
            self.core.traces.switch(traces);
        }
        let limits = &snapshot.config.limits;
        let most = if *limits == before.config.limits {
            self.context.limits.most()
        } else {
            most_connections(&snapshot.config)
        };
        self.context.limits.set(most, limits.connections_per_address);
        self.context.buffers.bound(limits.buffers.as_u64());
        self.context.open_requests.set(limits.requests_per_address);
        let snapshot = Arc::new(snapshot);
        self.core.snapshot.store(Arc::clone(&snapshot));
        self.check(running, &snapshot);
        for control in self.listen(running, listeners, admin) {
            info!("no longer listening {}", control.settings().config().name());
            control.retire();
        }
        let orphans = running.retired.take(&before, &snapshot);
        retire::let_go(orphans, &snapshot.config.reload);
        Ok(plan)
    }

    /// Checks the servers of these upstreams and of no others, and lets go of those that are to be left.
    fn check(&self, running: &mut Running, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut running.upstreams);
        running.upstreams.reserve(snapshot.upstreams.len());
        for (name, upstream) in &snapshot.upstreams {
            let same = before.get(name).is_some_and(|(known, _)| Arc::ptr_eq(known, upstream));
            let known = if same { before.remove(name) } else { None };
            let fresh = || (Arc::clone(upstream), upstream.start());
            running.upstreams.insert(Arc::clone(name), known.unwrap_or_else(fresh));
        }
        // Last, so that a discovery that both have is followed all the time.
        drop(before);
        let accesses = snapshot.known.accesses.iter();
        accesses.filter_map(|(_, _, access)| access.key_set()).for_each(|keys| keys.start());
    }

    /// Gives listeners their settings, and those that are new to be run; gives back those that have no place any more.
    fn listen(&self, running: &mut Running, listeners: Vec<Binding>, admin: Option<Binding>) -> Vec<Control> {
        type Before = HashMap<String, Control>;
        let place = |binding, before: &mut Before, run: &UnboundedSender<Listener>| match binding {
            Binding::New(listener, control) => {
                // Nobody takes it only when the gateway has ended.
                let _ = run.send(listener);
                Some(control)
            }
            Binding::Kept(settings) => {
                let control = before.remove(&settings.config().identity())?;
                self.context.metrics.rename_listener(settings.metrics(), &settings.config().name());
                control.set(*settings);
                Some(control)
            }
        };
        let identity = |control: Control| (control.settings().config().identity(), control);
        let mut before: Before = std::mem::take(&mut running.listeners).into_iter().map(identity).collect();
        let mut admin_before: Before = running.admin.take().into_iter().map(identity).collect();
        let place_here = |binding| place(binding, &mut before, &self.traffic);
        running.listeners = listeners.into_iter().filter_map(place_here).collect();
        running.admin = admin.and_then(|binding| place(binding, &mut admin_before, &self.admin));
        let named = |control: &Control| (control.settings().config().name(), control.address().to_owned());
        *self.addresses() = running.listeners.iter().chain(&running.admin).map(named).collect();
        before.into_values().chain(admin_before.into_values()).collect()
    }

    /// What loading the file anew would change now; nothing is.
    ///
    /// # Errors
    /// Every fault of the file.
    pub async fn plan_of_file(self: &Arc<Self>) -> Result<Plan, ReloadError> {
        let this = Arc::clone(self);
        let planning = tokio::task::spawn_blocking(move || {
            let Loaded { config, .. } = this.read()?;
            Ok(this.plan(&config))
        });
        planning.await.unwrap_or_else(|error| Err(failed(error)))
    }

    /// Where the configuration comes from; `None` where a program made it.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn note(&self, cause: String, result: &Result<Plan, ReloadError>) {
        let now = SystemTime::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.tried = now;
        match result {
            Ok(plan) => {
                last.loaded = now;
                last.fault = None;
                last.generation += 1;
                last.cause = cause;
                last.plan = Some(plan.clone());
                self.context.metrics.loaded(now);
                for line in plan.to_string().lines() {
                    info!("reloaded: {line}");
                }
            }
            Err(fault) => {
                last.fault = Some(fault.to_string());
                self.context.metrics.not_loaded();
                warn!("not reloaded, everything stays as it was: {fault}");
            }
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to a plan what no comparison of configurations shows: other contents of the same files.
fn tell_files(plan: &mut Plan, running: &Running, before: &Snapshot, built: &Built) {
    let identity = |control: &Control| (control.settings().config().identity(), control.settings());
    let old: HashMap<String, Arc<Settings>> = running.listeners.iter().map(identity).collect();
    let mut changed = Vec::new();
    for binding in &built.listeners {
        let Binding::Kept(new) = binding else { continue };
        let same_files = |old: &Settings| old.config().tls == new.config().tls;
        let old = old.get(&new.config().identity());
        if old.is_some_and(|old| same_files(old) && !old.has_files_of(new)) {
            changed.push(("listener", new.config().name()));
        }
    }
    for (name, upstream) in &built.snapshot.upstreams {
        let Some(old) = before.upstreams.get(name) else { continue };
        if old.config().tls == upstream.config().tls && old.tls() != upstream.tls() {
            changed.push(("upstream", name.to_string()));
        }
    }
    plan.files_changed(&changed, "certificates");
}

#[cfg(test)]
mod tests;
