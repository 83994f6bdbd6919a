//! A place on a server: a guard that is held for as long as the work lasts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::{Outcome, Server, Tick};
use crate::upstream::sessions::Placement;
use crate::upstream::{Fault, PickKey, Upstream};

/// One request or tunnel in flight on one server. Dropping it gives the place to the next in the queue.
pub struct Lease {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    /// In microseconds; an hour is as good as for ever.
    waited: u32,
    /// When it was taken, while the first byte is measured and has not come; else 0.
    taken: AtomicU32,
    opening: Option<Opening>,
}

/// A session that may come of a handshake: it counts as a coming one of its server until it is known, or until this is
/// dropped.
pub struct Opening {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    placement: Placement,
    /// Whether it has come.
    over: AtomicBool,
}

impl Opening {
    /// Says that the handshake of this client has opened its session, and that the session table knows it by now. Only
    /// the first call does anything.
    pub fn learned(&self, client: &PickKey) {
        if !self.over.swap(true, Relaxed) {
            self.server.opened();
            self.upstream.opened(client, &self.server, self.placement);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !*self.over.get_mut() {
            self.server.opened();
        }
    }
}

impl Lease {
    /// Makes a lease of a place that was taken already.
    pub(crate) fn new(upstream: Arc<Upstream>, server: Arc<Server>, opening: Option<Placement>) -> Self {
        let opening = opening.map(|placement| {
            let (upstream, server) = (upstream.clone(), server.clone());
            Opening { upstream, server, placement, over: AtomicBool::new(false) }
        });
        let taken = AtomicU32::new(if upstream.measures { Tick::now().short() } else { 0 });
        Self { upstream, server, waited: 0, taken, opening }
    }

    /// The client wished itself to another server, which has its share.
    pub(crate) fn spilled(&mut self) {
        if let Some(opening) = &mut self.opening {
            opening.placement = Placement::Spilled;
        }
    }

    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The upstream that gave the lease.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Whether somebody waits for a place like this one, or has just been told that there is none.
    pub fn is_wanted(&self) -> bool {
        self.upstream.queue.is_wanted()
    }

    /// How long the request waited for it.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.into())
    }

    /// Says how long it was waited for.
    pub(crate) fn has_waited(&mut self, waited: Duration) {
        self.waited = u32::try_from(waited.as_micros()).unwrap_or(u32::MAX);
    }

    /// The first byte of the answer has come, which is an error of the server's or not.
    pub(crate) fn first_byte(&self, is_good: bool) {
        self.measured(if is_good { Outcome::Answered } else { Outcome::Failed });
    }

    /// Notes the time until now, once.
    fn measured(&self, outcome: Outcome) {
        if self.taken.load(Relaxed) != 0 {
            self.note_latency(self.taken.swap(0, Relaxed), outcome);
        }
    }

    /// The time to the first byte says nothing of the server: its client was still speaking.
    pub(crate) fn forget_latency(&self) {
        self.taken.store(0, Relaxed);
    }

    fn note_latency(&self, taken: u32, outcome: Outcome) {
        if taken != 0 {
            let now = Tick::now();
            self.server.life.latency.note(now, now.since(taken), outcome);
        }
    }

    /// As [`Opening::learned`], of a lease that [`Upstream::pick_new`] gave.
    pub fn learned(&self, client: &PickKey) {
        if let Some(opening) = &self.opening {
            opening.learned(client);
        }
    }

    /// The session that may come of it, for whoever hears of that; once.
    pub fn take_opening(&mut self) -> Option<Opening> {
        self.opening.take()
    }

    /// Says that the server couldn't be connected to: enough of these in a row eject it.
    pub fn connect_failed(&self) {
        self.failed_to_connect(false);
    }

    /// The same, where nobody listens there: its sessions are gone with it.
    pub fn connect_refused(&self) {
        self.failed_to_connect(true);
    }

    fn failed_to_connect(&self, refused: bool) {
        self.measured(Outcome::Failed);
        self.server.connect_failed(refused);
        self.upstream.doubts_its_servers();
        self.upstream.hold_against(&self.server, Fault::Connect);
    }

    /// Says that the server took the connection.
    pub fn connected(&self) {
        self.server.count_connect();
        self.server.connected();
    }

    /// Says that the server has answered, and answered whole: enough bad statuses in a row eject it.
    pub fn answered(&self, status: u16) {
        if self.upstream.config.ejection.status.contains(status) {
            self.upstream.hold_against(&self.server, Fault::Answer);
        } else {
            self.server.faults().answered_well();
        }
    }

    /// Says that the server took a request and owes a proper answer to it: it closed the connection, spoke gibberish,
    /// stopped halfway or was silent for too long. As bad as a bad status.
    pub fn gave_no_answer(&self) {
        self.measured(Outcome::Failed);
        self.upstream.hold_against(&self.server, Fault::Answer);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.opening = None;
        // The server would have taken longer.
        self.measured(Outcome::GivenUp);
        self.server.release();
        self.upstream.queue.dispatch();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("upstream", &self.upstream.name)
            .field("server", &self.server.name())
            .finish_non_exhaustive()
    }
}
