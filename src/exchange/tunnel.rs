//! What an exchange that ends as a tunnel hands over, and what the tunnel means to its session.

use std::sync::Arc;
use std::time::SystemTime;

use super::learn::{Hold, overhear_arrival, reached};
use super::place::SessionTie;
use super::{Entry, Exchange, Form, RequestHead};
use crate::deadline::Span;
use crate::rate::Place;
use crate::roster::{Expiry, Leave};
use crate::session::Arrival;
use crate::tunnel::Listening;
use crate::upstream::{Lease, Upstream};

/// What is told of a tunnel when it ends, and what it holds until then.
pub(crate) struct Opened {
    pub(crate) entry: Box<Entry>,
    pub(crate) lease: Lease,
    pub(crate) upstream: Arc<Upstream>,
    /// What is there in few tunnels.
    pub(crate) holds: Option<Box<Holds>>,
    /// Its session, where it may have one.
    pub(crate) held: Option<Arc<Hold>>,
    /// Whether that session may go on without it though it came here: see [`Arrival::Unsure`].
    pub(crate) unsure: bool,
    /// Whether it may go on by another one where nobody has said goodbye: see [`Arrival::UntilClosed`].
    pub(crate) resumes: bool,
    /// How long it may be silent; zero for no limit. For a session that begins here, its first frame will say more.
    pub(crate) idle: Span,
}

/// What a tunnel holds where its client is counted, or let in for a time.
#[derive(Debug)]
pub(crate) struct Holds {
    /// Its client's place, as of an exchange.
    _place: Option<Box<Place>>,
    /// When what let its client in is over.
    ends: Option<SystemTime>,
    /// Tells it so.
    expiry: Option<Expiry>,
}

impl Opened {
    /// Has it told to leave when what let its client in is over.
    pub(crate) fn expires(&mut self, leave: &Arc<Leave>) {
        if let Some(holds) = &mut self.holds {
            holds.expiry = holds.ends.map(|at| leave.expires(at));
        }
    }
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
        let (lease, upstream, ties) = (self.lease.take()?, self.upstream.take()?, self.ties.take()?);
        if self.form.may_switch() {
            lease.answered(101);
            upstream.metrics.answered(101);
            entry.status = 101;
        }
        let metrics = &upstream.metrics;
        match self.form {
            Form::Upgrade => metrics.websockets.inc(),
            Form::OtherUpgrade => metrics.upgraded.inc(),
            Form::Plain | Form::Raw => metrics.raw.inc(),
        }
        let session = ties.session.as_ref().filter(|_| self.form != Form::OtherUpgrade);
        let goes_on = |session: &SessionTie| session.goes_on_without_tunnels(&upstream);
        let silence = session.filter(|session| !goes_on(session)).and_then(|session| session.silence(&upstream));
        let timeouts = &upstream.config().timeouts;
        let raw = self.form == Form::Raw;
        let mut idle = if raw { timeouts.raw_idle() } else { timeouts.tunnel_idle(silence) };
        let (mut held, mut arrival) = (None, None);
        if let (Some(session), Some(protocol)) =
            (session.filter(|session| session.begun.is_some()), upstream.session_protocol())
        {
            listening.last_message = protocol.last_message(session.said.dialect);
        }
        if let Some(learner) = self.learner.take() {
            // The session begins here.
            held = learner.hold().cloned();
            idle = learner.idle().unwrap_or(idle);
            listening.overhear = learner.overhear();
        } else if let Some(session) = session {
            (held, arrival) = came(&upstream, session, listening);
        }
        idle = self.tunnel_idle().unwrap_or(idle);
        let (place, ends) = (self.place.take(), self.who.as_ref().and_then(|who| who.ends()));
        let holds = (place.is_some() || ends.is_some()).then(|| Box::new(Holds { _place: place, ends, expiry: None }));
        let idle = idle.into();
        let (unsure, resumes) = (arrival == Some(Arrival::Unsure), arrival == Some(Arrival::UntilClosed));
        Some(Opened { entry, lease, upstream, holds, held, unsure, resumes, idle })
    }
}

/// What a new tunnel means to a session that began elsewhere, which it holds for as long as it is open; and when that has come to
/// it.
fn came(
    upstream: &Arc<Upstream>,
    session: &SessionTie,
    listening: &mut Listening,
) -> (Option<Arc<Hold>>, Option<Arrival>) {
    let known = upstream.sessions().zip(upstream.session_protocol()).zip(session.begun.as_ref());
    let Some(((table, protocol), (key, _))) = known else { return (None, None) };
    let arrival = protocol.arrival(session.said.dialect);
    let held = table.hold(*key).map(|mut held| {
        let hold = Arc::new(Hold::new());
        match arrival {
            Arrival::Never => held.goes_on(),
            Arrival::AtOnce | Arrival::Unsure | Arrival::UntilClosed => reached(upstream, &held),
            Arrival::Message(number) => {
                listening.overhear_client = Some(overhear_arrival(Arc::clone(upstream), Arc::clone(&hold), number));
            }
        }
        // It has been empty until now.
        let _ = hold.set(held);
        hold
    });
    (held, Some(arrival))
}
