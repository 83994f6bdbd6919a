//! What the gateway's hooks know of a request, from one hook to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mailbox::Mailbox;
use crate::exchange::Exchange;

/// The context of one request on its way through Pingora's hooks: [`Balancer`](super::Balancer)'s `CTX`.
#[derive(Default)]
pub struct Context {
    pub(super) exchange: Option<Box<Exchange>>,
    /// Set for as long as somebody may go on with the exchange where Pingora lets go of it.
    pub(super) mailbox: Option<Arc<Mailbox>>,
    /// When its server was chosen, until that is connected to.
    pub(super) placed: Option<Instant>,
    /// How fast the request's body comes.
    pub(super) pace: Option<Pace>,
}

/// How fast a request's body comes, looked at with each part of it: what never sends another one meets its read timeout.
pub(super) struct Pace {
    /// Since when it has to bring what it has to.
    since: Instant,
    came: u64,
    /// When the last part came.
    last: Instant,
}

impl Pace {
    /// Of a body that is about to come.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { since: now, came: 0, last: now }
    }

    /// So much more has come. False where that is too little.
    pub(super) fn bring(&mut self, bytes: u64, exchange: &Exchange) -> bool {
        let now = Instant::now();
        self.came += bytes;
        // The server may have taken nothing meanwhile: then much waits.
        let paused = now - std::mem::replace(&mut self.last, now);
        if bytes >= MUCH && paused > PAUSE {
            (self.since, self.came) = (now, 0);
        }
        exchange.body_due(self.came).0.is_none_or(|due| now - self.since <= due)
    }
}

/// As much as comes at once of a client that waits.
const MUCH: u64 = 16 * 1024;
/// The shortest time without any part of a body that somebody may be asked about.
const PAUSE: Duration = Duration::from_secs(1);

impl Context {
    /// What has been decided of the request; `None` before the gateway's `request_filter` has been called.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.exchange.as_deref()
    }
}

impl Drop for Context {
    /// Pingora is dropped in the middle of a poll whose session has to go: whoever dropped it says goodbye.
    fn drop(&mut self) {
        if let (Some(exchange), Some(mailbox)) = (self.exchange.take(), self.mailbox.take())
            && exchange.leave().is_some_and(|leave| leave.is_told())
        {
            mailbox.leave(exchange);
        }
    }
}
