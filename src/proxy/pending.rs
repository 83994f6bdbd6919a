//! The long poll that is under way on a connection, and the polite end that the gateway can give it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::drain::Leave;
use crate::listener::Info;
use crate::session::Key;

/// A connection that carries HTTP, as the hooks of an engine see it.
#[derive(Debug)]
pub(crate) struct Carried {
    info: Arc<Info>,
    /// The poll that is under way on an HTTP/1 connection.
    pub(crate) pending: Pending,
}

impl Carried {
    pub(crate) fn new(info: Arc<Info>) -> Self {
        Self { info, pending: Pending::default() }
    }
}

impl Deref for Carried {
    type Target = Info;

    fn deref(&self) -> &Info {
        &self.info
    }
}

/// A long poll that a server has not answered yet, and how the gateway would answer in its place.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    farewell: Mutex<Option<Farewell>>,
    of_session: AtomicBool,
}

/// The polite end of a session, ready to be said.
pub(crate) struct Farewell {
    /// Says when.
    pub(crate) leave: Arc<Leave>,
    /// What the table calls the session.
    pub(crate) session: Key,
    /// The answer's body: an Engine.IO close packet.
    pub(crate) body: Cow<'static, [u8]>,
    /// Whether that is a script.
    pub(crate) jsonp: bool,
    /// The upstream of the session.
    pub(crate) upstream: Arc<str>,
    /// Its server.
    pub(crate) server: Arc<str>,
    /// To be called with the reason once it has been said: the session is over.
    pub(crate) said: Box<dyn FnOnce(&str) + Send>,
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Farewell").field("body", &self.body).field("server", &self.server).finish_non_exhaustive()
    }
}

impl Pending {
    /// Notes whether the request under way belongs to a session that has begun.
    pub(crate) fn set_of_session(&self, of_session: bool) {
        self.of_session.store(of_session, Ordering::Relaxed);
    }

    /// Whether the last request did: then more of it will come, and when the gateway stops the connection is kept until
    /// the session has been told goodbye.
    pub(crate) fn is_of_session(&self) -> bool {
        self.of_session.load(Ordering::Relaxed)
    }

    /// A poll has been given to a server.
    pub(crate) fn announce(&self, farewell: Farewell) {
        *self.farewell() = Some(farewell);
    }

    /// The poll is over, or its end is somebody else's now.
    pub(crate) fn take(&self) -> Option<Farewell> {
        self.farewell().take()
    }

    /// Ready when there is a poll, and its turn to leave has come.
    pub(crate) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.farewell().as_ref().map_or(Poll::Pending, |farewell| farewell.leave.poll_told(cx))
    }

    fn farewell(&self) -> MutexGuard<'_, Option<Farewell>> {
        self.farewell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
