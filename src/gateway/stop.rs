//! The end of a gateway: the signals that ask for it, and the order in which things end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use log::{info, warn};
use pingora::apps::ServerApp;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::deadline::Deadlines;
use crate::drain;
use crate::listener::ConnectionLimits;
use crate::proxy::{App, Core};

/// Longest time for goodbyes to leave once the deadline of the drain has come.
const GOODBYES: Duration = Duration::from_secs(1);
/// Time from one look at what is open to the next.
const TICK: Duration = Duration::from_millis(50);

/// Waits for the signal to stop, and for everything to end.
pub(super) struct Stopper {
    pub(super) core: Arc<Core>,
    pub(super) stop_asked: Arc<Notify>,
    pub(super) ready: Arc<AtomicBool>,
    pub(super) app: Arc<App>,
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) deadlines: Arc<Deadlines>,
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

    /// Not ready, then no more connections and an end to idle ones, then goodbyes, then the deadline.
    async fn drain(&self) {
        let drain = self.core.snapshot.load().config.drain.clone();
        self.ready.store(false, Ordering::Release);
        info!("stopping: {} connections open", self.limits.open());
        let deadline = Instant::now() + drain.deadline.max(drain.delay);
        tokio::time::sleep(drain.delay).await;
        self.core.ending.leave();
        let told = AtomicUsize::new(0);
        let gone = tokio::select! {
            gone = self.all_gone_by(deadline, &told) => gone,
            () = self.say_goodbye(&drain, &told) => false,
        };
        if gone {
            info!("stopped: every connection has ended, {} of them told goodbye", told.into_inner());
            return;
        }
        info!("stopping: the deadline has come, {} connections are cut", self.limits.open());
        self.core.ending.cut();
        self.deadlines.stop();
        self.all_gone_by(Instant::now() + GOODBYES, &told).await;
        // Streams of HTTP/2 end a moment after their connection; their lines are on the way.
        tokio::time::sleep(TICK).await;
        info!("stopped: {} connections cut", self.limits.open());
    }

    /// Tells everybody goodbye over the time that is given for it, and from then on whoever still comes at once.
    async fn say_goodbye(&self, drain: &drain::Config, told: &AtomicUsize) {
        let rosters = || self.core.snapshot.load().rosters();
        drain::spread(rosters, drain.window(), drain.jitter, told).await;
        self.core.ending.all_told();
        self.app.cleanup().await;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            told.fetch_add(rosters().iter().map(|roster| roster.tell_all()).sum(), Ordering::Relaxed);
        }
    }

    async fn all_gone_by(&self, deadline: Instant, told: &AtomicUsize) -> bool {
        let mut ticks = tokio::time::interval(TICK);
        let mut said = Instant::now();
        while self.limits.open() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            if said.elapsed() >= Duration::from_secs(1) {
                said = Instant::now();
                let waiting: usize = self.core.snapshot.load().rosters().iter().map(|roster| roster.len()).sum();
                let (open, told) = (self.limits.open(), told.load(Ordering::Relaxed));
                info!("stopping: {open} connections left; {told} have been told goodbye, {waiting} will be");
            }
            ticks.tick().await;
        }
        true
    }
}
