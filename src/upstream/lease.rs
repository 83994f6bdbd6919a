//! A place on a server: a guard that is held for as long as the work lasts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::sessions::Opening;
use super::{Server, Upstream};

/// One request or tunnel in flight on one server. Dropping it gives the place to the next in the queue.
pub struct Lease {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    pub(super) waited: Duration,
    /// The session that may come of it.
    pub(super) opening: Option<Opening>,
}

impl Lease {
    /// Makes a lease of a place that was taken already.
    pub(super) fn new(upstream: Arc<Upstream>, server: Arc<Server>) -> Self {
        Self { upstream, server, waited: Duration::ZERO, opening: None }
    }

    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The upstream that gave the lease.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// How long the request waited for it.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Takes out the session that may come of a handshake, for whoever reads the answer. `None` where
    /// [`Upstream::pick_new`] didn't give the lease, or it was taken before.
    pub fn take_opening(&mut self) -> Option<Opening> {
        self.opening.take()
    }

    /// Says that the server couldn't be connected to: enough of these in a row eject it.
    pub fn connect_failed(&self) {
        let threshold = self.upstream.config.ejection.failures;
        let failures = self.server.connect_failed();
        if threshold > 0 && failures >= threshold {
            self.upstream.eject(&self.server);
        }
    }

    /// Says that the server took the connection.
    pub fn connected(&self) {
        self.server.connected();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
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
