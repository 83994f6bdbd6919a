//! What a server carries: requests, tunnels and sessions, those that are about to open included.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::Server;

/// What is counted of a server's work; outlives a reload.
#[derive(Default)]
pub(super) struct Load {
    in_flight: AtomicUsize,
    total: AtomicU64,
    /// Connections that were opened for them.
    connects: AtomicU64,
    /// Handshakes placed there that have not opened their session yet.
    opening: AtomicUsize,
}

impl Server {
    /// Requests and tunnels in flight.
    pub fn in_flight(&self) -> usize {
        self.life.load.in_flight.load(Relaxed)
    }

    /// Requests and tunnels that were ever given to it.
    pub fn total(&self) -> u64 {
        self.life.load.total.load(Relaxed)
    }

    /// Connections that were opened for them; the others went over one that was kept, or shared one.
    pub fn connects(&self) -> u64 {
        self.life.load.connects.load(Relaxed)
    }

    /// Sessions that live there.
    pub fn sessions(&self) -> usize {
        self.home().map_or(0, |home| home.live())
    }

    /// The same without those whose clients have lost their connections, as far as that is known.
    pub(crate) fn present_sessions(&self) -> usize {
        self.home().map_or(0, |home| home.present())
    }

    /// Handshakes placed there that have not opened their session yet.
    pub fn opening(&self) -> usize {
        self.life.load.opening.load(Relaxed)
    }

    /// Whether sessions live there, or anything is in flight.
    pub fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.opening() > 0 || self.sessions() > 0
    }

    pub(crate) fn has_room(&self) -> bool {
        self.max_connections == 0 || self.life.load.in_flight.load(SeqCst) < self.max_connections
    }

    /// Takes a place if there is one.
    pub(crate) fn try_acquire(&self) -> bool {
        let in_flight = &self.life.load.in_flight;
        let taken = self.max_connections == 0
            || in_flight
                .fetch_update(SeqCst, SeqCst, |count| (count < self.max_connections).then_some(count + 1))
                .is_ok();
        if taken {
            if self.max_connections == 0 {
                in_flight.fetch_add(1, SeqCst);
            }
            self.life.load.total.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Takes a place, beyond the limit if need be.
    pub(crate) fn acquire(&self) {
        self.life.load.in_flight.fetch_add(1, SeqCst);
        self.life.load.total.fetch_add(1, Relaxed);
    }

    /// Counts a connection that was opened for a request or a tunnel.
    pub(crate) fn count_connect(&self) {
        self.life.load.connects.fetch_add(1, Relaxed);
    }

    /// Gives a place back.
    pub(crate) fn release(&self) {
        self.life.load.in_flight.fetch_sub(1, SeqCst);
    }

    /// Counts a handshake that may open a session.
    pub(crate) fn opens(&self) {
        self.life.load.opening.fetch_add(1, Relaxed);
    }

    /// The handshake has opened its session, or never will.
    pub(crate) fn opened(&self) {
        self.life.load.opening.fetch_sub(1, Relaxed);
    }
}
