//! The end of a gateway: the signals that ask for it, and the order in which things end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use log::{info, warn};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::{Mutex, Notify};

use super::manager;
use super::signals::EndSignals;
use super::upgrade::Upgrade;
use crate::deadline::Deadlines;
use crate::ending;
use crate::exchange::Core;
use crate::listener::ConnectionLimits;
use crate::proxy::App;
use crate::reload::Reloader;

/// Longest time for goodbyes to leave once the deadline of the drain has come.
const GOODBYES: Duration = Duration::from_secs(1);
/// Longest time for whoever speaks beside the file to take leave.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Time from one look at what is open to the next.
const TICK: Duration = Duration::from_millis(50);

/// Waits for the signal to stop, and for everything to end.
pub(super) struct Stopper {
    pub(super) reloader: Arc<Reloader>,
    pub(super) stop_asked: Arc<Notify>,
    pub(super) signals: Mutex<EndSignals>,
    pub(super) ready: Arc<AtomicBool>,
    pub(super) app: Arc<App>,
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) upgrade: Upgrade,
}

#[async_trait]
impl ShutdownSignalWatch for Stopper {
    async fn recv(&self) -> ShutdownSignal {
        self.wait().await;
        // The process may end before its accept loops do.
        self.upgrade.leave_nothing();
        ShutdownSignal::FastShutdown
    }
}

impl Stopper {
    fn core(&self) -> &Core {
        self.reloader.core()
    }

    async fn wait(&self) {
        let mut signals = self.signals.lock().await;
        let EndSignals { terminate, interrupt, upgrade } = &mut *signals;
        let mut handed_over = false;
        while !handed_over {
            tokio::select! {
                _ = terminate.recv() => break,
                () = self.stop_asked.notified() => break,
                _ = interrupt.recv() => {
                    info!("interrupted: stopping at once");
                    return;
                }
                _ = upgrade.recv() => {}
            }
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                () = self.stop_asked.notified() => break,
                _ = interrupt.recv() => {
                    info!("interrupted: stopping at once");
                    return;
                }
                over = self.hand_over() => handed_over = over,
            }
        }
        if handed_over {
            self.core().ending.hand_over();
        }
        let drain = async {
            self.drain(handed_over).await;
            self.reloader.beside_has_left(LAST_WORD).await;
        };
        tokio::pin!(drain);
        if handed_over {
            // Whoever stops the service tells all of its processes, and this one is stopping already.
            tokio::select! {
                () = &mut drain => return,
                _ = terminate.recv() => info!("SIGTERM: stopping already"),
                _ = interrupt.recv() => return,
            }
        }
        tokio::select! {
            () = drain => {}
            _ = terminate.recv() => info!("a second SIGTERM: stopping at once"),
            _ = interrupt.recv() => info!("interrupted: stopping at once"),
        }
    }

    /// Starts the next process; whether it has taken over.
    async fn hand_over(&self) -> bool {
        info!("upgrade: starting a new process");
        manager::reloading();
        match self.upgrade.hand_over(&self.core().snapshot.load_full()).await {
            Ok(process) => {
                info!("upgrade: process {process} has taken over");
                manager::handed_over(process);
                true
            }
            Err(why) => {
                warn!("upgrade: the new process has not taken over, this one goes on: {why}");
                manager::ready();
                false
            }
        }
    }

    /// Not ready, then no more connections and an end to idle ones, then goodbyes, then the deadline. Where another
    /// process has taken over, connections are its affair already.
    async fn drain(&self, handed_over: bool) {
        let mut drain = self.core().snapshot.load().config.drain.clone();
        self.reloader.stop();
        if handed_over {
            drain.delay = Duration::ZERO;
        } else {
            self.ready.store(false, Ordering::Release);
            manager::stopping();
        }
        info!("stopping: {} connections open", self.limits.open());
        let deadline = Instant::now() + drain.deadline.max(drain.delay);
        tokio::time::sleep(drain.delay).await;
        self.core().ending.leave();
        let told = AtomicUsize::new(0);
        let gone = tokio::select! {
            gone = self.all_gone_by(deadline, &told) => gone,
            () = self.say_goodbye(&drain, deadline, &told) => false,
        };
        if gone {
            info!("stopped: every connection has ended, {} of them told goodbye", told.into_inner());
            return;
        }
        info!("stopping: the deadline has come, {} connections are cut", self.limits.open());
        self.core().ending.cut();
        self.deadlines.stop();
        self.all_gone_by(Instant::now() + GOODBYES, &told).await;
        // Streams of HTTP/2 end a moment after their connection; their lines are on the way.
        tokio::time::sleep(TICK).await;
        info!("stopped: {} connections cut", self.limits.open());
    }

    /// Tells everybody goodbye over the time that is given for it, and from then on whoever still comes at once.
    async fn say_goodbye(&self, drain: &ending::Config, deadline: Instant, told: &AtomicUsize) {
        let rosters = || self.reloader.rosters();
        ending::spread(rosters, drain.window(), drain.jitter, told).await;
        if self.core().ending.is_handed_over() {
            // Polls move to the new process with their answers, which heartbeats bring; those that have none at last
            // are told.
            tokio::time::sleep_until((deadline - GOODBYES).into()).await;
        }
        self.core().ending.all_told();
        self.app.stop().await;
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
                let waiting: usize = self.reloader.rosters().iter().map(|roster| roster.len()).sum();
                let (open, told) = (self.limits.open(), told.load(Ordering::Relaxed));
                info!("stopping: {open} connections left; {told} have been told goodbye, {waiting} will be");
            }
            ticks.tick().await;
        }
        true
    }
}
