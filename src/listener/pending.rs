//! The long poll that is under way on a connection, and the polite end that the gateway can give it.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::drain::Leave;

/// A long poll that a server has not answered yet, and how the gateway would answer in its place.
#[derive(Debug, Default)]
pub struct Pending {
    farewell: Mutex<Option<Farewell>>,
    of_session: AtomicBool,
}

/// The polite end of a session, ready to be said.
pub struct Farewell {
    /// Says when.
    pub leave: Arc<Leave>,
    /// The answer's body: an Engine.IO close packet.
    pub body: Cow<'static, [u8]>,
    /// Whether that is a script.
    pub jsonp: bool,
    /// The upstream of the session.
    pub upstream: Arc<str>,
    /// Its server.
    pub server: Arc<str>,
    /// To be called with the reason once it has been said: the session is over.
    pub said: Box<dyn FnOnce(&str) + Send>,
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Farewell").field("body", &self.body).field("server", &self.server).finish_non_exhaustive()
    }
}

impl Pending {
    /// Notes whether the request under way belongs to a session that has begun.
    pub fn set_of_session(&self, of_session: bool) {
        self.of_session.store(of_session, Ordering::Relaxed);
    }

    /// Whether the last request did: then more of it will come, and when the gateway stops the connection is kept until
    /// the session has been told goodbye.
    pub fn is_of_session(&self) -> bool {
        self.of_session.load(Ordering::Relaxed)
    }

    /// A poll has been given to a server.
    pub fn announce(&self, farewell: Farewell) {
        *self.farewell() = Some(farewell);
    }

    /// The poll is over, or its end is somebody else's now.
    pub fn take(&self) -> Option<Farewell> {
        self.farewell().take()
    }

    /// Ready when there is a poll, and its turn to leave has come.
    pub fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.farewell().as_ref().map_or(Poll::Pending, |farewell| farewell.leave.poll_told(cx))
    }

    fn farewell(&self) -> MutexGuard<'_, Option<Farewell>> {
        self.farewell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
