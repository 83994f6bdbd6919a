//! What the hooks of Pingora's proxy and whoever serves the connection beneath them tell each other.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::exchange::Exchange;
use crate::listener::Info;
use crate::roster::Leave;

/// A connection that carries HTTP, as the hooks see it.
pub(super) struct Mailbox {
    info: Arc<Info>,
    /// Whether the last request belonged to a session.
    of_session: AtomicBool,
    /// Whether a client that has closed its half is taken to have left.
    poll: AtomicBool,
    upgrade: AtomicBool,
    passed: AtomicBool,
    mail: Mutex<Mail>,
}

#[derive(Default)]
struct Mail {
    /// The poll that is under way: it says when its session has to go.
    poll: Option<Arc<Leave>>,
    /// An exchange that Pingora carries no further.
    exchange: Option<Box<Exchange>>,
}

impl Mailbox {
    pub(super) fn new(info: Arc<Info>) -> Self {
        Self {
            info,
            of_session: AtomicBool::default(),
            poll: AtomicBool::default(),
            upgrade: AtomicBool::default(),
            passed: AtomicBool::default(),
            mail: Mutex::default(),
        }
    }

    /// What is known of the connection.
    pub(super) fn info(&self) -> &Arc<Info> {
        &self.info
    }

    /// Notes whether the request under way belongs to a session that has begun.
    pub(super) fn set_of_session(&self, of_session: bool) {
        self.of_session.store(of_session, Ordering::Relaxed);
    }

    /// See [`Self::set_of_session`].
    pub(super) fn is_of_session(&self) -> bool {
        self.of_session.load(Ordering::Relaxed)
    }

    /// Notes whether the answer may be a long time coming, so that nobody should wait for it who may have left: a client
    /// that has closed its half is still owed any other (RFC 9112 9.6).
    pub(super) fn set_poll(&self, poll: bool) {
        self.poll.store(poll, Ordering::Relaxed);
    }

    /// See [`Self::set_poll`].
    pub(super) fn is_poll(&self) -> bool {
        self.poll.load(Ordering::Relaxed)
    }

    /// The request that comes opens a WebSocket: hooks are asked about it, and it is carried elsewhere.
    pub(super) fn set_upgrade(&self) {
        self.upgrade.store(true, Ordering::Relaxed);
    }

    /// See [`Self::set_upgrade`].
    pub(super) fn is_upgrade(&self) -> bool {
        self.upgrade.load(Ordering::Relaxed)
    }

    /// The hooks have let an upgrade pass.
    pub(super) fn set_passed(&self) {
        self.passed.store(true, Ordering::Relaxed);
    }

    /// See [`Self::set_passed`].
    pub(super) fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    /// A poll has been given to a server.
    pub(super) fn announce(&self, leave: Arc<Leave>) {
        self.mail().poll = Some(leave);
    }

    /// Ready when there is a poll, and its turn to leave has come.
    pub(super) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.mail().poll.as_ref().map_or(Poll::Pending, |leave| leave.poll_told(cx))
    }

    /// Nobody can be told any more.
    pub(super) fn withdraw(&self) {
        self.mail().poll = None;
    }

    /// Leaves an exchange for whoever goes on with it.
    pub(super) fn leave(&self, exchange: Box<Exchange>) {
        self.mail().exchange = Some(exchange);
    }

    /// Takes what was left.
    pub(super) fn take(&self) -> Option<Box<Exchange>> {
        self.mail().exchange.take()
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Mailbox {
    type Target = Info;

    fn deref(&self) -> &Info {
        &self.info
    }
}
