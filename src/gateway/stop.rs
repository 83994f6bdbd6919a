//! The end of a gateway: the signals that ask for it, and the order in which things end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use log::{info, warn};
use pingora::apps::ServerApp;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLog;
use crate::deadline::Deadlines;
use crate::listener::ConnectionLimits;
use crate::proxy::App;
use crate::reload::Reloader;

/// Longest time for goodbyes to leave once the deadline of the drain has come.
const GOODBYES: Duration = Duration::from_secs(1);

/// Waits for the signal to stop, and for everything to end.
pub(super) struct Stopper {
    pub(super) reloader: Arc<Reloader>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) stop_asked: Arc<Notify>,
    pub(super) ready: Arc<AtomicBool>,
    pub(super) app: Arc<App>,
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) log: AccessLog,
}

#[async_trait]
impl ShutdownSignalWatch for Stopper {
    async fn recv(&self) -> ShutdownSignal {
        if let Err(error) = self.wait().await {
            warn!("signals can't be waited for, stopping: {error}");
        }
        ShutdownSignal::FastShutdown
    }
}

impl Stopper {
    async fn wait(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            () = self.stop_asked.notified() => {}
            _ = interrupt.recv() => {
                info!("interrupted: stopping at once");
                return Ok(());
            }
        }
        tokio::select! {
            () = self.drain() => {}
            _ = terminate.recv() => info!("a second SIGTERM: stopping at once"),
            _ = interrupt.recv() => info!("interrupted: stopping at once"),
        }
        Ok(())
    }

    /// Not ready, then no more connections, then an end to idle ones, then a goodbye to tunnels.
    async fn drain(&self) {
        let drain = self.reloader.core().snapshot.load().config.drain.clone();
        self.reloader.stop();
        self.ready.store(false, Ordering::Release);
        info!("stopping: {} connections open", self.limits.open());
        tokio::time::sleep(drain.delay).await;
        self.stop.send_replace(true);
        self.app.cleanup().await;
        let deadline = Instant::now() + drain.deadline.saturating_sub(drain.delay);
        if self.all_gone_by(deadline).await {
            info!("stopped: every connection has ended");
            return;
        }
        info!("stopping: the deadline has come, {} connections are told goodbye", self.limits.open());
        self.deadlines.stop();
        self.all_gone_by(Instant::now() + GOODBYES).await;
        // Lines of what ended just now are on their way.
        drop(self.log.clone());
        info!("stopped: {} connections cut", self.limits.open());
    }

    async fn all_gone_by(&self, deadline: Instant) -> bool {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        let mut told = Instant::now();
        while self.limits.open() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                info!("stopping: {} connections left", self.limits.open());
            }
            ticks.tick().await;
        }
        true
    }
}
