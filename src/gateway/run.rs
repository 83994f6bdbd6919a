//! The life of a running gateway: its services, what goes on beside them, and the signals that it obeys.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use log::{debug, info, warn};
use pingora::server::{ListenFds, RunArgs, ShutdownWatch};
use pingora::services::Service;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::UnboundedReceiver;

use super::signals::Signals;
use super::stop::Stopper;
use super::upgrade::{Predecessor, Upgrade};
use super::{Gateway, manager};
use crate::access_log::AccessLog;
use crate::acme;
use crate::admin::Admin;
#[cfg(feature = "kubernetes")]
use crate::controller;
use crate::listener::{Application, Listener};
use crate::proxy::App;
use crate::reload::{Listeners, Reloader};

/// Serves until a signal or [`super::Handle::stop`] ends it, and everything has ended.
pub(super) fn run(gateway: Gateway, signals: Signals) {
    #[cfg(feature = "kubernetes")]
    let controller = gateway.controller;
    let Gateway { reloader, listeners, app, admin, mut server, log_writer, stop_asked, sockets, predecessor, .. } =
        gateway;
    let upgrade = Upgrade::new(sockets);
    let ending = &reloader.core().ending;
    let ready = Arc::clone(admin.ready());
    let threads = server.configuration.threads;
    let Listeners { traffic, admin: for_operators } = listeners;
    let Signals { end, reload, reopen } = signals;
    server.add_service(Traffic {
        reloader: Arc::clone(&reloader),
        app: Arc::clone(&app),
        listeners: Some(traffic),
        stopping: ending.leaving(),
        predecessor,
        signals: Some((reload, reopen)),
        threads,
        #[cfg(feature = "kubernetes")]
        controller,
    });
    let stopping = ending.handed_over();
    server.add_service(AdminService { listeners: Some(for_operators), admin: Some(admin), stopping });
    let traces = reloader.core().traces.clone();
    let (limits, deadlines) = (Arc::clone(reloader.limits()), Arc::clone(reloader.deadlines()));
    let signals = end.into();
    let stopper = Stopper { reloader, stop_asked, signals, ready, app, limits, deadlines, upgrade };
    server.run(RunArgs { shutdown_signal: Box::new(stopper) });
    traces.finish();
    log_writer.finish();
}

/// How long a process that takes over waits for what is said beside its file.
const BESIDE: Duration = Duration::from_secs(30);

/// Every listener for traffic, and what runs beside them.
struct Traffic {
    reloader: Arc<Reloader>,
    app: Arc<App>,
    listeners: Option<UnboundedReceiver<Listener>>,
    stopping: ShutdownWatch,
    predecessor: Option<UnixStream>,
    /// Those that ask for the file to be loaded anew, and for the access log to be opened anew.
    signals: Option<(Signal, Signal)>,
    threads: usize,
    /// What the operator says of the controller, where there is one.
    #[cfg(feature = "kubernetes")]
    controller: Option<controller::Terms>,
}

impl Traffic {
    /// Takes over from the process before.
    async fn relieve(&self, predecessor: UnixStream) {
        let snapshot = self.reloader.core().snapshot.load_full();
        match Predecessor::meet(predecessor, &snapshot).await {
            Ok(predecessor) => predecessor.relieve(&snapshot).await,
            Err(error) => warn!("the process before can't be told that this one has taken over: {error}"),
        }
    }
}

#[async_trait]
impl Service for Traffic {
    async fn start_service(&mut self, _fds: Option<ListenFds>, shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        tokio::spawn(Arc::clone(self.reloader.deadlines()).run());
        self.reloader.begin().await;
        tokio::spawn(Arc::clone(&self.reloader).watch());
        tokio::spawn(Arc::clone(&self.reloader).remind());
        tokio::spawn(acme::run(Arc::clone(&self.reloader)));
        #[cfg(feature = "kubernetes")]
        if let Some(terms) = self.controller.take() {
            tokio::spawn(controller::run(Arc::clone(&self.reloader), terms));
        }
        if let Some((reload, reopen)) = self.signals.take() {
            tokio::spawn(reload_on(reload, Arc::clone(&self.reloader)));
            tokio::spawn(reopen_on(reopen, self.reloader.core().access_log.clone()));
        }
        // Clients that come before the listeners run wait in their queues.
        match self.predecessor.take() {
            Some(predecessor) => {
                // The process before serves until this one knows as much.
                self.reloader.beside_is_known(BESIDE).await;
                self.relieve(predecessor).await;
            }
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
    A: Application,
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

async fn reload_on(mut signal: Signal, reloader: Arc<Reloader>) {
    while signal.recv().await.is_some() {
        if let Err(fault) = reloader.reload("SIGHUP").await {
            debug!("SIGHUP: {fault}");
        }
    }
}

async fn reopen_on(mut signal: Signal, log: AccessLog) {
    while signal.recv().await.is_some() {
        log.reopen();
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
            let admin = Arc::new(admin);
            tokio::spawn(Arc::clone(&admin).look());
            run_all(listeners, &admin, &self.stopping, shutdown).await;
        }
    }

    fn name(&self) -> &str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
