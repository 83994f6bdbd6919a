//! One exchange from its head to its line in the access log: everything that is decided on the way, whatever engine
//! carries it.
//!
//! An engine calls [`Exchange::route`], then [`Exchange::place`] until a server is reached, [`Exchange::answered`] and
//! [`Exchange::end`]; bodies go by [`Exchange::hear_request`] and [`Exchange::hear_answer`]. What it parses, keeps and
//! writes is its own business.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::Core;
use super::answer::Answer;
use super::asked::Asked;
use super::connect;
use super::learn::{Heard, Learner};
use super::line::Line;
use super::pending::{Carried, Farewell};
use super::place::{Ask, SessionAsk};
use crate::drain::{Leave, Origin, Why};
use crate::http::Refusal;
use crate::http::forwarding::Seen;
use crate::http::onward::Onward;

use crate::request::Request;
use crate::router::{Action, Decision, Route};
use crate::session::{Cause, Mark};
use crate::snapshot::Snapshot;
use crate::upstream::config::HostHeader;
use crate::upstream::{Lease, PickError, ServerId, Tried, Upstream};
use crate::wire::engine_io::{SESSION_UNKNOWN, error_code, goodbye};

/// The context of one request on its way through an engine.
pub struct Exchange {
    /// The configuration that this request lives by.
    pub(super) snapshot: Arc<Snapshot>,
    /// The connection that it came in by.
    pub(super) info: Option<Arc<Carried>>,
    /// The route that matched.
    pub(super) route: Option<Arc<Route>>,
    /// The upstream that it goes to.
    pub(super) upstream: Option<Arc<Upstream>>,
    /// What it says of its client and session.
    ask: Option<Ask>,
    /// Learns from the answer, where it may open a session.
    learner: Option<Learner>,
    /// The start of an error answer to a request of a session.
    error_body: Option<Vec<u8>>,
    /// Its place on a server.
    pub(super) lease: Option<Lease>,
    /// Whether its server has been connected to.
    pub(super) reached: bool,
    /// Servers that could not be connected to.
    pub(super) tried: Tried,
    /// Servers asked so far.
    pub(super) tries: u32,
    /// The client, as forwarding tells it.
    pub(super) client: IpAddr,
    /// The id in `X-Request-Id`.
    pub(super) request_id: String,
    /// Its place on the list of those who can be told to leave, for a poll that can't be answered in the middle.
    leave: Option<Arc<Leave>>,
    /// Why the session was told goodbye in place of an answer.
    told: Option<Why>,
    /// Why the gateway answers by itself.
    pub(super) refusal: Option<Refusal>,
    /// Body bytes received from the client.
    pub(super) body_in: u64,
    /// When the head was whole.
    pub(super) began: SystemTime,
    /// The same, for durations.
    pub(super) started: Instant,
    /// When the first byte of the server's answer came.
    pub(super) first_byte: Option<Instant>,
    /// The status of that answer.
    pub(super) server_status: Option<u16>,
    /// Time spent waiting for a server to have room.
    pub(super) queued: Duration,
}

/// How an exchange ended, as its engine saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// What was spoken with the client.
    pub(super) protocol: &'static str,
    /// The status that the client got; 0 for none.
    pub(super) status: u16,
    /// Body bytes written to the client.
    pub(super) bytes_out: u64,
    /// Who cut it, if it did not end by itself.
    pub(super) cut_by: Option<Side>,
}

/// One of the two that an exchange is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// How much of an error answer is looked at.
const LONGEST_ERROR: usize = 256;

impl Exchange {
    /// An exchange that begins now; of what connection is said by [`Self::over`].
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            info: None,
            route: None,
            upstream: None,
            ask: None,
            learner: None,
            error_body: None,
            lease: None,
            reached: false,
            tried: Tried::default(),
            tries: 0,
            client: Ipv4Addr::LOCALHOST.into(),
            request_id: String::new(),
            leave: None,
            told: None,
            refusal: None,
            body_in: 0,
            began: SystemTime::now(),
            started: Instant::now(),
            first_byte: None,
            server_status: None,
            queued: Duration::ZERO,
        }
    }

    /// Says what connection it came in by.
    pub(super) fn over(&mut self, info: Option<Arc<Carried>>) {
        self.info = info;
    }

    fn peer(&self) -> IpAddr {
        self.info.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |info| info.peer.ip())
    }

    fn secure(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.tls.is_some())
    }

    /// Decides where the request goes. `announced` is the length of its body, where it says one.
    pub(super) fn route(&mut self, asked: &Asked<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        let most = self.snapshot.config.limits.body.as_u64();
        if most != 0 && announced.is_some_and(|length| length > most) {
            return Err(Refusal::BodyTooLarge);
        }
        let forwarding = &self.snapshot.config.forwarding;
        let peer = self.peer();
        self.client = forwarding.client(peer, asked.headers);
        self.request_id = forwarding.request_id(peer, asked.headers);
        let request = asked.request(self.info.as_deref().map(|carried| &**carried), self.client)?;
        let route = decide(&self.snapshot, &request)?;
        if let Some(upstream) = upstream_of(&self.snapshot, &route)? {
            self.ask = Some(Ask::new(upstream, &request));
            self.upstream = Some(Arc::clone(upstream));
        }
        self.route = Some(route);
        if let Some(info) = &self.info {
            info.pending.set_of_session(self.ask.as_ref().is_some_and(Ask::is_of_session));
        }
        Ok(())
    }

    /// Whether the answer is the last on its connection: the gateway leaves, and no session uses it that has not been told
    /// goodbye yet and has nowhere else to go.
    pub(super) fn is_last(&self, core: &Core) -> bool {
        let of_session = self.info.as_ref().is_some_and(|info| info.pending.is_of_session());
        core.ending.is_leaving() && (!of_session || core.ending.is_handed_over())
    }

    /// What the gateway answers by itself, where the route says so.
    pub(super) fn local_answer(&self, asked: &Asked<'_>) -> Option<Answer<'_>> {
        Answer::of_route(self.route.as_ref()?, asked, self.secure())
    }

    /// Notes and counts that the gateway refuses the request.
    pub(super) fn refuse(&mut self, core: &Core, refusal: Refusal) {
        self.refusal = Some(refusal);
        core.metrics.refused(refusal.word());
    }

    /// Which of the client's fields go on to the server, and what is added to them.
    pub(super) fn onward<'a>(&'a self, asked: &Asked<'a>) -> Onward<'a> {
        let seen = Seen {
            peer: self.peer(),
            local_port: self.info.as_ref().map_or(0, |info| info.local.port()),
            secure: self.secure(),
            authority: asked.authority,
            headers: asked.headers,
        };
        Onward::new(&self.snapshot.config.forwarding, seen, &self.request_id)
    }

    /// The host that the server is asked for.
    pub(super) fn host<'a>(&'a self, asked: &Asked<'a>) -> Option<&'a str> {
        match self.upstream.as_ref().map(|upstream| &upstream.config().host) {
            Some(HostHeader::Set(host)) => Some(host),
            _ => asked.authority,
        }
    }

    /// Whether the answer has to be one that can be read as it passes: not compressed.
    pub(super) fn reads_answer(&self) -> bool {
        self.ask.as_ref().is_some_and(Ask::opens_by_answer)
    }

    /// Takes the next bytes of the request's body; `whole` says that they are all of it.
    pub(super) fn hear_request(&mut self, bytes: &[u8], whole: bool) -> Result<(), Refusal> {
        if let (true, Some(upstream), Some(ask)) = (whole, &self.upstream, &self.ask) {
            ask.note_goodbye(upstream, bytes);
        }
        self.body_in += bytes.len() as u64;
        let most = self.snapshot.config.limits.body.as_u64();
        if most != 0 && self.body_in > most { Err(self.fail(Refusal::BodyTooLarge)) } else { Ok(()) }
    }

    fn fail(&mut self, refusal: Refusal) -> Refusal {
        self.refusal = Some(refusal);
        refusal
    }

    /// The goodbye to a session whose turn came during its last poll, in place of an answer to this one; for polls that
    /// are not placed `politely`.
    pub(super) fn farewell(&mut self, asked: &Asked<'_>) -> Option<Answer<'static>> {
        let (upstream, poll) = (self.upstream.as_ref()?, self.ask.as_ref()?.polls(asked.method)?);
        let (table, (key, _)) = (upstream.sessions()?, poll.begun.as_ref()?);
        let found = table.find(*key).filter(|found| found.is(Mark::Leaving))?;
        table.forget(*key, Cause::Drain);
        let server = upstream.server(ServerId::from_bits(found.server));
        let drains = server.is_none_or(|server| server.is_draining());
        let why = if drains { Why::Drain } else { Why::Rebalance };
        upstream.metrics.goodbye(why.word());
        self.told = Some(why);
        let origin = asked.headers.get("origin").and_then(|origin| std::str::from_utf8(origin).ok());
        let body = match goodbye(poll.revision, poll.jsonp) {
            Cow::Borrowed(body) => Bytes::from_static(body),
            Cow::Owned(body) => Bytes::from(body),
        };
        Some(Answer::farewell(body, poll.jsonp.is_some(), origin))
    }

    /// Finds the server to ask, which [`Self::lease`] is a place on; called again, it is another one, unless this one was
    /// reached. `politely`: the connection serves nothing else meanwhile, so that a poll on it can be answered by the
    /// gateway when its session has to go. Otherwise the poll goes on to its end, and the session is told at the next
    /// one ([`Self::farewell`]).
    pub(super) async fn place(&mut self, asked_method: &str, politely: bool) -> Result<(), Refusal> {
        if self.lease.is_some() && self.reached {
            // Asked again though it was reached: the server had closed a kept connection, and gets a new one.
            self.reached = false;
            return Ok(());
        }
        // A place on a server that could not be reached is given back before another one is looked for.
        self.lease = None;
        let (Some(upstream), Some(ask)) = (&self.upstream, &self.ask) else { return Err(self.fail(Refusal::NoRoute)) };
        let lease = match ask.place(upstream, &mut self.tried).await {
            Ok(lease) => lease,
            Err(PickError::NoServer) if self.tries > 0 => return Err(self.fail(Refusal::ConnectFailed)),
            Err(error) => return Err(self.fail(connect::refusal(error))),
        };
        self.tries += 1;
        self.queued = lease.waited();
        if let (Some(poll), Some(info)) = (ask.polls(asked_method), &self.info) {
            let route = self.route.as_ref().map(|route| Arc::clone(&route.name));
            let origin = Origin { listener: Arc::clone(&info.listener), route };
            let leave = upstream.roster(lease.server().id()).add(origin, true);
            if politely {
                announce(info, leave, poll, upstream, &lease);
            } else {
                self.leave = Some(leave);
            }
        }
        self.lease = Some(lease);
        Ok(())
    }

    /// The server could not be connected to. True if another one should be asked: nothing of the request has been sent,
    /// so that repeats nothing.
    pub(super) fn connect_failed(&mut self, error: &dyn Display) -> bool {
        self.refusal = Some(Refusal::ConnectFailed);
        // Placing it says when it is enough.
        self.lease.as_ref().is_some_and(|lease| {
            log::debug!("upstream {}: {}: {error}", lease.upstream().name(), lease.server().name());
            lease.connect_failed();
            true
        })
    }

    /// There is a connection to the server, `reused` or new.
    pub(super) fn connected(&mut self, reused: bool) {
        self.refusal = None;
        self.reached = true;
        if let Some(lease) = &self.lease
            && !reused
        {
            lease.connected();
        }
    }

    /// The head of the server's answer has come. Gives the cookie to add, or refuses what is no answer.
    pub(super) fn answered(&mut self, status: u16) -> Result<Option<String>, Refusal> {
        self.first_byte.get_or_insert_with(Instant::now);
        // Before the client has the answer, since the next poll follows it at once.
        self.leave_next_time();
        self.server_status = Some(status);
        if status == 101 {
            // No upgrade was asked for: passing it on would leave client and server with two ideas of the connection.
            return Err(self.fail(Refusal::BadAnswer));
        }
        let secure = self.secure();
        let (Some(ask), Some(upstream), Some(lease)) = (&self.ask, &self.upstream, &mut self.lease) else {
            return Ok(None);
        };
        match status {
            200 if ask.opens_by_answer() => self.learner = Some(Learner::new(Arc::clone(upstream), ask.client, lease)),
            400 if ask.session.is_some() => self.error_body = Some(Vec::new()),
            _ => {}
        }
        Ok(ask.set_cookie(upstream, lease.server().id(), secure))
    }

    /// How long the server may take for the answer, or between two parts of it: what the handshake of its session allows,
    /// where this is a poll of one.
    pub(super) fn first_byte_timeout(&self, method: &str) -> Option<Duration> {
        let upstream = self.upstream.as_ref()?;
        let poll = self.ask.as_ref().and_then(|ask| ask.polls(method));
        let timeout = upstream.config().timeouts.first_byte(poll.and_then(|poll| poll.silence(upstream)));
        (!timeout.is_zero()).then_some(timeout)
    }

    /// Takes the next bytes of the answer's body, before the client gets them.
    pub(super) fn hear_answer(&mut self, method: &str, bytes: &[u8], is_end: bool) {
        if let Some(learner) = &mut self.learner
            && learner.hear(bytes) != Heard::TooLittle
        {
            self.learner = None;
        }
        if let (Some(upstream), Some(ask)) = (&self.upstream, &self.ask)
            && !bytes.is_empty()
        {
            ask.note_farewell(upstream, method, bytes);
        }
        if let Some(error) = &mut self.error_body {
            error.extend_from_slice(&bytes[..bytes.len().min(LONGEST_ERROR - error.len())]);
            if is_end && let (Some(code), Some(upstream)) = (error_code(error), &self.upstream) {
                upstream.metrics.engine_io_error(code);
                if code == SESSION_UNKNOWN {
                    forget(upstream, self.ask.as_ref());
                }
            }
        }
    }

    /// Counts and logs, and gives the place on the server back: what may follow is between the client and the gateway.
    /// True if the client got all that there was.
    pub(super) fn end<'a>(&mut self, core: &Core, ended: Ended, asked: impl FnOnce() -> Asked<'a>) -> bool {
        if let Some(info) = &self.info {
            info.pending.take();
        }
        let metrics = self.upstream.as_ref().map_or(&self.snapshot.local, |upstream| &upstream.metrics);
        if ended.status != 0 {
            metrics.answered(ended.status);
            metrics.seconds.observe(self.started.elapsed().as_secs_f64());
        }
        if core.access_log.is_on() {
            self.log(core, &asked(), ended);
        }
        self.judge(ended.cut_by);
        self.leave_next_time();
        self.leave = None;
        self.lease = None;
        ended.cut_by.is_none() || self.refusal.is_some_and(|refusal| refusal.status() == ended.status)
    }

    /// Notes that the turn of this poll's session has come while the poll could not be ended.
    fn leave_next_time(&self) {
        let told = self.leave.as_ref().is_some_and(|leave| leave.is_told());
        let begun = self.ask.as_ref().and_then(|ask| ask.session.as_ref()?.begun.as_ref());
        let table = self.upstream.as_ref().and_then(|upstream| upstream.sessions());
        if let (true, Some(table), Some((key, _))) = (told, table, begun) {
            table.mark(*key, Mark::Leaving);
        }
    }

    /// Tells the upstream how its server did, now that the exchange is over: an answer that is cut is no good one, however
    /// well it began. What a client broke off says nothing, unless there was an answer.
    fn judge(&self, cut_by: Option<Side>) {
        let Some(lease) = self.lease.as_ref().filter(|_| self.reached) else { return };
        let failed = cut_by == Some(Side::Server);
        match self.server_status {
            // 101 was not asked for.
            Some(status) if !failed && status != 101 => lease.answered(status),
            Some(_) => lease.gave_no_answer(),
            None if failed => lease.gave_no_answer(),
            None => {}
        }
    }

    fn log(&mut self, core: &Core, asked: &Asked<'_>, ended: Ended) {
        let Some(info) = &self.info else { return };
        let mut line = Line::new(info, ended.protocol, self.began, self.started);
        line.asked(asked);
        line.client = self.client;
        line.status = ended.status;
        line.route = self.route.as_ref().map(|route| Arc::clone(&route.name));
        line.tries = self.tries;
        line.bytes_in = self.body_in;
        line.bytes_out = ended.bytes_out;
        line.first_byte = self.first_byte.map(|at| at.duration_since(self.started));
        line.request_id = std::mem::take(&mut self.request_id);
        if let Some(lease) = &self.lease {
            line.taken(lease);
            if let Some(table) = lease.upstream().sessions() {
                let (path, query) = asked.path_and_query();
                line.engine_io(path, query, |sid| table.key(sid));
            }
        }
        line.queued = self.queued;
        line.closed_by = match (self.refusal, ended.cut_by) {
            (_, Some(_)) if core.ending.is_cut() => "stopped",
            (Some(refusal), _) => refusal.word(),
            (None, None) => self.told.map_or("", Why::word),
            (None, side) => side.map_or("", Side::word),
        };
        core.access_log.write(line.finish());
    }
}

/// The route that a request takes.
pub(super) fn decide(snapshot: &Snapshot, request: &Request<'_>) -> Result<Arc<Route>, Refusal> {
    match snapshot.router.route(request) {
        Decision::To(route) => Ok(route),
        Decision::Nowhere => Err(Refusal::NoRoute),
        Decision::Ambiguous => Err(Refusal::AmbiguousPath),
    }
}

/// The upstream that a route leads to; `None` where the gateway answers by itself.
pub(super) fn upstream_of<'a>(snapshot: &'a Snapshot, route: &Route) -> Result<Option<&'a Arc<Upstream>>, Refusal> {
    match &route.action {
        Action::Upstream(name) => snapshot.upstreams.get(name).map(Some).ok_or(Refusal::NoRoute),
        Action::Respond(_) | Action::Redirect(_) => Ok(None),
    }
}

/// Lets the connection know that this is a poll, so that it can be ended politely when its session has to go.
fn announce(info: &Carried, leave: Arc<Leave>, poll: &SessionAsk, upstream: &Upstream, lease: &Lease) {
    let (Some(table), Some((session, _))) = (upstream.sessions().cloned(), &poll.begun) else { return };
    let session = *session;
    info.pending.announce(Farewell {
        leave,
        session,
        body: goodbye(poll.revision, poll.jsonp),
        jsonp: poll.jsonp.is_some(),
        upstream: Arc::clone(lease.upstream().name()),
        server: Arc::clone(lease.server().name()),
        said: Box::new({
            let metrics = upstream.metrics.clone();
            move |why| {
                metrics.goodbye(why);
                table.forget(session, Cause::Drain);
            }
        }),
    });
}

/// Forgets a session that its server does not know any more: it was restarted, or has given the session up.
fn forget(upstream: &Upstream, ask: Option<&Ask>) {
    let begun = ask.and_then(|ask| ask.session.as_ref()?.begun.as_ref());
    if let (Some(table), Some((key, _))) = (upstream.sessions(), begun) {
        table.forget(*key, Cause::Unknown);
    }
}
