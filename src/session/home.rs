//! A server in the eyes of the table: how many sessions live there.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

/// A server as the table sees it: the sessions that live there.
#[derive(Debug)]
pub struct Home {
    server: u64,
    live: AtomicUsize,
    lost: AtomicUsize,
    websockets: AtomicUsize,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl Home {
    pub(super) fn new(server: u64) -> Self {
        let (opened, closed) = (AtomicU64::new(0), AtomicU64::new(0));
        let [live, lost, websockets] = [0; 3].map(AtomicUsize::new);
        Self { server, live, lost, websockets, opened, closed }
    }

    /// The server it stands for.
    pub fn server(&self) -> u64 {
        self.server
    }

    /// Sessions that live there.
    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }

    /// The same without those whose clients have lost their connections.
    pub fn present(&self) -> usize {
        self.live().saturating_sub(self.lost.load(Relaxed))
    }

    /// Of those, the ones that are on a WebSocket; the others poll.
    pub fn websockets(&self) -> usize {
        self.websockets.load(Relaxed)
    }

    /// Sessions that ever lived there.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Sessions that lived there and are gone.
    pub fn closed(&self) -> u64 {
        self.closed.load(Relaxed)
    }

    pub(super) fn open(&self) {
        self.live.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
    }

    /// Ends what [`Self::open`] began under the same lock, so that `live` never falls below zero.
    pub(super) fn close(&self) {
        self.live.fetch_sub(1, Relaxed);
        self.closed.fetch_add(1, Relaxed);
    }

    /// The client of one of the sessions has lost its connections.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    /// Ends what [`Self::lose`] began.
    pub(super) fn regain(&self) {
        self.lost.fetch_sub(1, Relaxed);
    }

    /// One of the sessions has gone on to a WebSocket.
    pub(super) fn enter_websocket(&self) {
        self.websockets.fetch_add(1, Relaxed);
    }

    /// Ends what [`Self::enter_websocket`] began.
    pub(super) fn leave_websocket(&self) {
        self.websockets.fetch_sub(1, Relaxed);
    }
}
