//! What an exchange that ends as a tunnel hands over, and what the tunnel means to its session.

use std::sync::Arc;
use std::time::Duration;

use super::learn::{Hold, Learner, overhear_upgrade, reached};
use super::place::Ties;
use super::{Entry, Exchange, Form, RequestHead};
use crate::tunnel::Listening;
use crate::upstream::{Lease, Upstream};
use crate::wire::engine_io::Revision;

/// What is told of a tunnel when it ends, and what it holds until then.
pub(crate) struct Opened {
    pub(crate) entry: Box<Entry>,
    pub(crate) lease: Lease,
    pub(crate) upstream: Arc<Upstream>,
    /// Its session, where it may have one.
    pub(crate) held: Option<Arc<Hold>>,
    /// Whether that session may go on without it though it came here: a client of Socket.IO 0.9 that gave up waiting for
    /// its server's first word polls on by the same session.
    pub(crate) unsure: bool,
    /// How long it may be silent; zero for no limit. For a session that begins here, its first frame will say more.
    pub(crate) idle: Duration,
}

impl Exchange {
    /// Begins the line of the log while the head of the request is at hand: an upgrade outlives it.
    pub(crate) fn keep_entry(&mut self, request: Option<&RequestHead<'_>>) {
        self.entry = Some(Box::new(self.entry("", request)));
    }

    /// The server has agreed, or there is nothing to agree on: from here on this is a tunnel. `listening` learns what the
    /// session wants to hear of it. `None` where no server has been connected to.
    pub(crate) fn open_tunnel(mut self: Box<Self>, listening: &mut Listening) -> Option<Opened> {
        let mut entry = self.entry.take().unwrap_or_else(|| Box::new(self.entry("", None)));
        self.fill(&mut entry);
        let (mut lease, upstream, ties) = (self.lease.take()?, self.upstream.take()?, self.ties.take()?);
        if self.form == Form::Upgrade {
            lease.answered(101);
            upstream.metrics.answered(101);
            upstream.metrics.websockets.inc();
            entry.status = 101;
        } else {
            upstream.metrics.raw.inc();
        }
        // Other WebSockets on the upstream end without a session, and come back to nothing.
        let held = session(&upstream, &ties, &mut lease, listening).filter(|_| ties.concerns_session());
        let session = ties.session.as_ref();
        let unsure = session.is_some_and(|session| session.revision == Revision::SocketIo09);
        let silence = session.and_then(|session| session.silence(&upstream));
        let idle = upstream.config().timeouts.tunnel_idle(silence);
        Some(Opened { entry, lease, upstream, held, unsure, idle })
    }
}

/// What a new tunnel means to its session, which it holds for as long as it is open. One that began with polling is still
/// to find out whether it reaches its WebSocket, but for 0.9, where this is it. One that begins here is held from the
/// server's first frame onwards, which is its handshake.
fn session(upstream: &Arc<Upstream>, ties: &Ties, lease: &mut Lease, listening: &mut Listening) -> Option<Arc<Hold>> {
    let (table, session) = (upstream.sessions()?, ties.session.as_ref()?);
    let hold = Arc::new(Hold::new());
    match &session.begun {
        Some((key, _)) => {
            let held = table.hold(*key)?;
            if session.revision == Revision::SocketIo09 {
                reached(upstream, &held);
            } else {
                listening.overhear_client = Some(overhear_upgrade(Arc::clone(upstream), Arc::clone(&hold)));
            }
            // It has been empty until now.
            let _ = hold.set(held);
        }
        None => {
            let learner = Learner::new(Arc::clone(upstream), ties.client, lease);
            listening.overhear = Some(learner.overhear(Arc::clone(&hold)));
        }
    }
    Some(hold)
}
