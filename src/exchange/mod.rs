//! One exchange from its head to its line in the access log: everything that is decided on the way, whatever carries it.
//!
//! An engine, or the opening of a tunnel, calls [`Exchange::begin`]; [`Exchange::own_answer`] says whether the gateway
//! answers by itself. Else [`Exchange::place`] finds a server, again until one is [connected](Exchange::connected) to,
//! [`Exchange::to_server`] says what it is asked, [`Exchange::answered`] what of its answer goes back, and
//! [`Exchange::end`] counts and logs. Bodies go by [`Exchange::hear_request`] and [`Exchange::hear_answer`]. What a
//! carrier parses, keeps and writes is its own business.

mod admit;
mod answer;
mod asked;
mod back;
mod begin;
mod body;
mod compress;
mod core;
mod ended;
mod entry;
mod explain;
mod fields;
mod learn;
mod leaving;
mod masking;
mod mirror;
mod peers;
mod place;
mod request;
mod rules;
mod tail;
mod traced;
mod tunnel;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::core::Core;
pub(crate) use admit::marks_of_refusal;
pub(crate) use answer::Answer;
pub(crate) use ended::{Ended, Side};
pub(crate) use entry::Entry;
pub(crate) use explain::AmongPeers;
pub(crate) use fields::{ServerFields, with_edits};
pub(crate) use learn::of_session;
pub(crate) use request::RequestHead;
pub(crate) use tunnel::Opened;

use crate::compression::{Encoder, Offer};
use crate::filter::{Changes, FilterAnswer, HeaderEdits, Response};
use crate::http::Refusal;
use crate::http::grpc::is_grpc;
use crate::http::request_id::RequestId;
use crate::http::upgrade::other;
use crate::listener::Info;
use crate::rate::Place;
use crate::request::Headers;
use crate::roster::{Expiry, Leave, Origin};
use crate::router::{Action, Route};
use crate::session::{Cause, Key, SessionTable};
use crate::snapshot::Snapshot;
use crate::transport::cause::is_refusal;
use crate::transport::shortage::is_shortage;
use crate::upstream::{Lease, PickError, Server, ServerId, Tried, Upstream};
use learn::Learner;
use peers::Hop;
use place::Ties;
use rules::Ruled;

/// One request on its way through the gateway, from its head to its line in the access log.
///
/// Hooks of a program's own may ask it what was decided; what happens is not theirs to change here.
pub struct Exchange {
    form: Form,
    /// The configuration that it lives by.
    snapshot: Arc<Snapshot>,
    /// The connection that it came in by.
    info: Arc<Info>,
    /// The client, as forwarding tells it.
    client: IpAddr,
    /// The id in `X-Request-Id`.
    request_id: RequestId,
    /// The route that matched.
    route: Option<Arc<Route>>,
    /// The upstream that it goes to.
    upstream: Option<Arc<Upstream>>,
    /// What it says of its client and session.
    ties: Option<Ties>,
    /// Who asks, where that has to be said.
    who: Option<Box<Who>>,
    /// Whether it is a poll of a session, which the server may take its time to answer.
    polls: bool,
    /// What filters and rules change.
    changes: Changes,
    /// What rules have decided beside that, where they have.
    ruled: Option<Box<Ruled>>,
    /// What is answered in a server's place: by a filter, or as the goodbye to a session.
    own: Option<Box<FilterAnswer>>,
    /// Why the gateway answers by itself.
    refusal: Option<Refusal>,
    /// Whether it has done so as a status of gRPC.
    called: bool,
    /// Its client's place among those that may ask at once, where they are counted.
    place: Option<Box<Place>>,
    /// Its place on a server.
    lease: Option<Lease>,
    /// Whether its server has been connected to.
    reached: bool,
    /// Whether a server took it and ended without an answer.
    lost: bool,
    /// The other gateway that it comes from, or goes to.
    hop: Option<Box<Hop>>,
    /// It has turned to a peer, or back, and what its server is asked has to be written anew.
    turned: bool,
    /// Servers that could not be connected to.
    tried: Tried,
    /// Servers asked so far.
    tries: u32,
    /// Time spent waiting for a server to have room, in microseconds; an hour is as good as for ever.
    queued: u32,
    /// Its place on the list of those who can be told to leave, for a poll.
    leave: Option<Arc<Leave>>,
    /// See [`Self::can_be_ended`].
    endable: bool,
    /// Whether who carries it can end a stream, too.
    ends_streams: bool,
    /// Learns what the answer says of a session.
    learner: Option<Box<Learner>>,
    /// What the client gets where the answer is worth compressing.
    offer: Offer,
    /// What compresses the answer, where something does.
    encoder: Option<Box<Encoder>>,
    /// The status of the server's answer.
    server_status: Option<u16>,
    /// Body bytes received from the client.
    body_in: u64,
    /// When the head was whole.
    began: SystemTime,
    /// The same, for durations.
    started: Instant,
    /// When the first byte of the server's answer came.
    first_byte: Option<Instant>,
    /// Its line in the log, where that has been begun already.
    entry: Option<Box<Entry>>,
}

/// Who asks, as far as that has to be said.
#[derive(Debug, Default)]
struct Who {
    /// By name.
    user: Option<Arc<str>>,
    /// When what let it in is over, in seconds of Unix time, where that ends sockets and polls.
    until: Option<u64>,
    /// Tells its poll so.
    expiry: Option<Expiry>,
}

impl Who {
    fn ends(&self) -> Option<SystemTime> {
        // Good until the last moment of its last second.
        UNIX_EPOCH.checked_add(Duration::from_secs(self.until?.checked_add(1)?))
    }
}

/// What an exchange is carried as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Request and answer.
    Plain,
    /// The request that opens a WebSocket.
    Upgrade,
    /// A request that upgrades to something else.
    OtherUpgrade,
    /// Bytes that are not HTTP.
    Raw,
}

/// A longer body takes its client longer than the server its answer.
const LONG_BODY: u64 = 64 * 1024;

impl Form {
    /// Whether the server may answer 101.
    fn may_switch(self) -> bool {
        matches!(self, Self::Upgrade | Self::OtherUpgrade)
    }
}

impl Exchange {
    fn new(form: Form, core: &Core, info: &Arc<Info>) -> Self {
        Self {
            form,
            snapshot: core.snapshot.load_full(),
            client: info.peer.ip().to_canonical(),
            info: Arc::clone(info),
            request_id: RequestId::None,
            route: None,
            upstream: None,
            ties: None,
            who: None,
            polls: false,
            changes: Changes::default(),
            ruled: None,
            own: None,
            refusal: None,
            called: false,
            place: None,
            lease: None,
            reached: false,
            lost: false,
            hop: None,
            turned: false,
            tried: Tried::default(),
            tries: 0,
            queued: 0,
            leave: None,
            endable: false,
            ends_streams: false,
            learner: None,
            offer: Offer::Never,
            encoder: None,
            server_status: None,
            body_in: 0,
            began: SystemTime::now(),
            started: Instant::now(),
            first_byte: None,
            entry: None,
        }
    }

    /// The route that matched; `None` where none did, or nobody was asked.
    pub fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    /// The name of the upstream that the request goes to.
    pub fn upstream(&self) -> Option<&str> {
        self.upstream.as_ref().map(|upstream| &**upstream.name())
    }

    /// The server that has been found for the request, once one has.
    pub fn server(&self) -> Option<&Server> {
        self.lease.as_ref().map(|lease| &**lease.server())
    }

    /// The client: the peer of the connection, or who a trusted proxy says it is.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// The id in `X-Request-Id`; empty where there is none.
    pub fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// The configuration that the exchange lives by.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether its servers are asked by HTTP/2.
    pub(crate) fn speaks_http2(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| upstream.config().http2)
    }

    /// Its place on a server, while it has one.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Why the gateway answers by itself, if it does.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// The protocol other than WebSocket that the request offers to upgrade to, and that its route allows.
    pub(crate) fn other_upgrade<'a>(&self, minor_version: u8, headers: &Headers<'a>) -> Option<&'a str> {
        let route = self.route.as_ref().filter(|_| !self.answers_itself())?;
        other(minor_version, headers, &route.upgrades)
    }

    /// It is carried as an upgrade to another protocol.
    pub(crate) fn upgrades(&mut self) {
        (self.form, self.polls, self.offer) = (Form::OtherUpgrade, false, Offer::Never);
        self.forget_peers();
    }

    /// Whether it belongs to a session that has begun.
    pub(crate) fn is_of_session(&self) -> bool {
        self.ties.as_ref().is_some_and(Ties::is_of_session)
    }

    fn secure(&self) -> bool {
        self.info.secure()
    }

    /// Whether the answer is the last on its connection: the gateway leaves, and no session uses it that has not been told
    /// goodbye yet and has nowhere else to go.
    pub(crate) fn is_last(&self, core: &Core) -> bool {
        // One that lives behind a peer has another way to come.
        let stays = self.is_of_session() && self.told().is_none() && !self.is_to_peer();
        core.ending.is_leaving() && (!stays || core.ending.is_handed_over())
    }

    /// Whether the gateway answers by itself: it refuses, a filter, the route or its share of the requests is answered here, or
    /// the session's turn to leave came during its last poll.
    pub(crate) fn answers_itself(&self) -> bool {
        let local = |route: &Arc<Route>| !matches!(route.action, Action::Upstream(_));
        let is_answered = self.refusal.is_some() || self.own.is_some() || self.share().is_some();
        is_answered || self.route.as_ref().is_some_and(local)
    }

    /// What the gateway answers by itself; `None` where a server is to be asked. To be called once, when it is written.
    pub(crate) fn own_answer(&mut self, request: &RequestHead<'_>) -> Option<Answer<'_>> {
        let share = self.share();
        let status = match (self.refusal, &self.own, share, self.route.as_ref().map(|route| &route.action)) {
            // The protocol of the session has words of its own for it.
            (Some(Refusal::SessionOver), Some(own), ..) => own.status.as_u16(),
            (Some(refusal), ..) => refusal.status(),
            (None, Some(own), ..) => own.status.as_u16(),
            (None, None, Some(status), _) => status,
            (None, None, None, Some(Action::Respond(respond))) => respond.status,
            (None, None, None, Some(Action::Redirect(redirect))) => redirect.status,
            (None, None, None, Some(Action::Upstream(_) | Action::Files(_)) | None) => return None,
        };
        self.filter_answer(status, Headers::Fields(&[]), false);
        // The words of a call's status are the gateway's.
        let page = rules::page(self.route.as_deref(), &self.snapshot, status).filter(|_| !is_grpc(&request.headers));
        let answer = match (self.refusal, &self.own, share) {
            (Some(Refusal::SessionOver), Some(own), _) | (None, Some(own), _) => Answer::of_filter(own),
            (Some(refusal), ..) => Answer::refusing(refusal).with_page(page),
            (None, None, Some(status)) => Answer::of_share(status).with_page(page),
            (None, None, None) => {
                let secure = self.ruled.as_ref().and_then(|ruled| ruled.secure).unwrap_or_else(|| self.secure());
                Answer::of_route(self.route.as_ref()?, request, self.target(request), secure)?
            }
        };
        let answer = answer.edited(&self.changes.to_client);
        self.called = !(200..=299).contains(&status) && is_grpc(&request.headers);
        Some(if self.called { answer.into_status() } else { answer })
    }

    /// Notes and counts that the gateway refuses the request; [`Self::own_answer`] says so to the client.
    pub(crate) fn refuse(&mut self, core: &Core, refusal: Refusal) {
        self.refusal = Some(refusal);
        core.metrics.refused(refusal.as_str());
    }

    fn fail(&mut self, refusal: Refusal) -> Refusal {
        self.refusal = Some(refusal);
        refusal
    }

    /// Finds the server to ask, which [`Self::lease`] is a place on; called again, it is another one, unless this one was
    /// reached.
    pub(crate) async fn place(&mut self) -> Result<(), Refusal> {
        if self.lease.is_some() && self.reached {
            // Asked again though it was reached: the server had closed a kept connection, and gets a new one.
            (self.reached, self.body_in) = (false, 0);
            return Ok(());
        }
        // A place on a server that could not be reached is given back before another one is looked for.
        self.lease = None;
        self.leave = None;
        self.turn_back();
        let of_route = self.connect_retries();
        let (Some(upstream), Some(ties)) = (&self.upstream, &mut self.ties) else {
            return Err(self.fail(Refusal::NoRoute));
        };
        let retries = of_route.unwrap_or(upstream.config().connect_retries);
        if ties.has_left()
            && let Some(over) = ties.over(upstream)
        {
            self.own = Some(Box::new(answer::goodbye(over, None)));
            return Err(self.fail(Refusal::SessionOver));
        }
        let lease = match ties.place(upstream, &mut self.tried, retries, &self.info.strayed).await {
            Ok(lease) => lease,
            Err(_) if ties.is_at_peer() => match self.turn_to_peer() {
                Some(lease) => {
                    self.placed(lease);
                    return Ok(());
                }
                None => {
                    self.forget_peers();
                    return Box::pin(self.place()).await;
                }
            },
            Err(_) if self.is_from_peer() => return Err(self.answer_visitor(None)),
            // Enough others were tried: what failed is the connecting.
            Err(PickError::NoServer) if self.tried.in_shortage => return Err(self.fail(Refusal::Shortage)),
            Err(PickError::NoServer) if self.lost => return Err(self.fail(Refusal::BadAnswer)),
            Err(PickError::NoServer) if self.tries > 0 => return Err(self.fail(Refusal::ConnectFailed)),
            Err(error) => return Err(self.fail(refusal_of(error))),
        };
        if upstream.has_let_go_of(lease.server())
            && let Some(over) = ties.over(upstream)
        {
            self.own = Some(Box::new(answer::goodbye(over, None)));
            self.with_session(|table, key| {
                table.goodbye(key, Cause::Drain);
            });
            return Err(self.fail(Refusal::SessionOver));
        }
        self.placed(lease);
        Ok(())
    }

    /// The same, where its first server can be told at once; false where nothing has been done.
    pub(crate) fn place_now(&mut self) -> bool {
        let (None, Some(upstream), Some(ties)) = (&self.lease, &self.upstream, &mut self.ties) else { return false };
        let lease = ties.place_now(upstream, &mut self.tried);
        lease.map(|lease| self.placed(lease)).is_some()
    }

    fn placed(&mut self, lease: Lease) {
        self.tries += 1;
        self.queued = u32::try_from(lease.waited().as_micros()).unwrap_or(u32::MAX);
        if let Some(trace) = self.ruled.as_mut().and_then(|ruled| ruled.trace.as_mut()) {
            trace.placed(lease.server().address());
        }
        self.lease = Some(lease);
        if self.polls && self.ties.as_ref().is_some_and(Ties::says_goodbye) {
            self.enter_roster();
        }
    }

    /// Whether it is a poll of a session, which the server may take its time to answer.
    pub(crate) fn is_poll(&self) -> bool {
        self.polls
    }

    /// The server could not be connected to. True if another one should be asked: nothing of the request has been sent,
    /// so that repeats nothing. What this machine lacks is held against no server, nor is what does not count, since
    /// another request has waited for the same connection.
    pub(crate) fn connect_failed(&mut self, error: &(dyn std::error::Error + 'static), counts: bool) -> bool {
        let in_shortage = is_shortage(error);
        self.tried.in_shortage = in_shortage;
        self.refusal = Some(if in_shortage { Refusal::Shortage } else { Refusal::ConnectFailed });
        // Placing it says when it is enough.
        self.lease.as_ref().is_some_and(|lease| {
            log::debug!("upstream {}: {}: {error}", lease.upstream().name(), lease.server().name());
            if counts && is_refusal(error) {
                lease.connect_refused();
            } else if counts && !in_shortage {
                lease.connect_failed();
            }
            true
        })
    }

    /// The server took the request over a new connection and ended that before a byte of its answer. True if another one
    /// may be asked, by whoever knows that to repeat it does no harm. A session is on no other.
    pub(crate) fn lost(&mut self) -> bool {
        if self.is_of_session() || self.server_status.is_some() {
            return false;
        }
        self.judge(Some(Side::Server));
        (self.lost, self.reached, self.body_in) = (true, false, 0);
        true
    }

    /// The client has a connection of its own to this server, and would rather be placed there.
    pub(crate) fn wish(&mut self, server: ServerId) {
        if let Some(ties) = &mut self.ties {
            ties.wish = Some(server);
        }
    }

    /// There is a connection to the server, `reused` or new.
    pub(crate) fn connected(&mut self, reused: bool) {
        self.refusal = None;
        self.reached = true;
        if let Some(trace) = self.ruled.as_mut().and_then(|ruled| ruled.trace.as_mut()) {
            trace.connected();
        }
        if let Some(lease) = &self.lease
            && !reused
        {
            lease.connected();
        }
    }

    /// The head of the server's answer has come. Gives what is changed in it before the client gets it, or refuses what is
    /// no answer.
    pub(crate) fn answered(&mut self, status: u16, headers: Headers<'_>) -> Result<&HeaderEdits, Refusal> {
        let first_byte = *self.first_byte.get_or_insert_with(Instant::now);
        self.hear_peer(headers);
        if let Some(lease) = &self.lease {
            if self.form == Form::Plain && !self.polls {
                let waited = first_byte.duration_since(self.started);
                lease.upstream().metrics.first_byte_seconds.observe(waited.as_secs_f64());
            }
            if self.body_in > LONG_BODY {
                lease.forget_latency();
            }
            lease.first_byte(status < 500);
        }
        // An answer that has begun can't be taken back, unless it is a stream. Before the client has it, since the next poll
        // follows it at once.
        self.endable = false;
        if !self.ends_streams || !self.ties.as_ref().is_some_and(Ties::streams) {
            self.leave_next_time();
        }
        self.server_status = Some(status);
        if status == 101 && !self.form.may_switch() {
            // No upgrade was asked for: passing it on would leave client and server with two ideas of the connection.
            return Err(self.fail(Refusal::BadAnswer));
        }
        self.filter_answer(status, headers, true);
        self.rule_answer(headers);
        let secure = self.secure();
        let until = self.who.as_ref().and_then(|who| who.until);
        let admitted = self.access().and_then(|access| access.sessions().cloned()).map(|sessions| (sessions, until));
        if let (Some(ties), Some(upstream), Some(lease)) = (&self.ties, &self.upstream, &mut self.lease) {
            if let (Some(session), Some(protocol)) = (&ties.session, upstream.session_protocol())
                && self.form != Form::OtherUpgrade
            {
                let answered = protocol.answered(session.said.dialect, status, headers);
                let in_tunnel = (self.form == Form::Upgrade).then(|| protocol.arrival(session.said.dialect));
                self.learner =
                    Learner::new(answered, (upstream, ties.client, session), lease, in_tunnel, admitted).map(Box::new);
            }
            if (!self.form.may_switch() || status == 101)
                && let Some(cookie) = ties.set_cookie(upstream, lease.server().id(), secure)
            {
                self.changes.to_client.append(::http::header::SET_COOKIE, cookie);
            }
        }
        let is_stream = || headers.get("content-type").is_some_and(|said| said.starts_with(b"text/event-stream"));
        if status == 200 && self.ties.as_ref().is_some_and(Ties::streams) && (self.polls || is_stream()) {
            self.stream(headers);
        }
        self.begin_compressing(status, &headers);
        Ok(&self.changes.to_client)
    }

    /// Keeps the session for as long as the answer is under way, and has it told when it has to go.
    fn stream(&mut self, headers: Headers<'_>) {
        let mut held = None;
        self.with_session(|table, key| held = table.hold(key));
        let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) else { return };
        if let Some(mut held) = held {
            let goes_on = ties.session.as_ref().is_none_or(|session| session.goes_on_without_tunnels(upstream));
            if goes_on {
                held.goes_on();
            } else {
                held.ends(Cause::Client);
            }
            self.ruled.get_or_insert_default().held = Some(held);
        }
        // What the server has compressed can't be added to.
        let is_plain = headers.get("content-encoding").is_none();
        let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) else { return };
        if self.ends_streams && is_plain && ties.last_words(upstream).is_some() {
            self.endable = true;
            if self.leave.is_none() {
                self.enter_roster();
            }
        }
    }

    /// What is changed in the answer's head, or has been.
    pub(crate) fn answer_edits(&self) -> &HeaderEdits {
        &self.changes.to_client
    }

    /// Whether the head of an answer matters, and not its status alone.
    pub(crate) fn reads_heads(&self) -> bool {
        !self.snapshot.filters.is_empty()
            || self.comes_back()
            || self.ties.as_ref().is_some_and(|ties| ties.session.is_some())
    }

    fn filter_answer(&mut self, status: u16, headers: Headers<'_>, from_server: bool) {
        let response = Response { status, headers, from_server };
        for filter in self.snapshot.filters.iter() {
            filter.response(&response, &mut self.changes.to_client);
        }
    }

    /// How long the server may be silent in the middle of an answer; zero is no limit.
    pub(crate) fn read_idle_timeout(&self) -> Duration {
        let said = self.route_timeouts().and_then(|timeouts| timeouts.read_idle);
        let upstream = self.upstream.as_ref();
        said.or(upstream.map(|upstream| upstream.config().timeouts.read_idle)).unwrap_or_default()
    }

    /// How long the server may take until the answer begins: what the handshake of its session allows, where this is a
    /// poll of one.
    pub(crate) fn first_byte_timeout(&self) -> Option<Duration> {
        let upstream = self.upstream.as_ref()?;
        let session = self.ties.as_ref().and_then(|ties| ties.session.as_ref()).filter(|_| self.polls);
        let said = self.route_timeouts().and_then(|timeouts| timeouts.first_byte);
        let timeout = said.unwrap_or_else(|| {
            upstream.config().timeouts.first_byte(session.and_then(|session| session.silence(upstream)))
        });
        (!timeout.is_zero()).then_some(timeout)
    }

    /// Tells the table something of the session that the request names.
    fn with_session(&self, tell: impl FnOnce(&Arc<SessionTable>, Key)) {
        let begun = self.ties.as_ref().and_then(|ties| ties.session.as_ref()?.begun.as_ref());
        let table = self.upstream.as_ref().and_then(|upstream| upstream.sessions());
        if let (Some(table), Some((key, _))) = (table, begun) {
            tell(table, *key);
        }
    }

    fn origin(&self) -> Origin {
        let route = self.route.as_ref().map(|route| Arc::clone(&route.name));
        Origin { listener: Arc::clone(&self.info.listener), route }
    }
}

/// Why there is no server, as an answer.
fn refusal_of(error: PickError) -> Refusal {
    match error {
        PickError::NoServer => Refusal::NoServer,
        PickError::QueueFull => Refusal::QueueFull,
        PickError::Admission { retry_after } => Refusal::NewSessions(retry_after.as_secs().max(1)),
        PickError::QueueTimeout => Refusal::QueueTimeout,
    }
}
