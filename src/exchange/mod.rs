//! One exchange from its head to its line in the access log: everything that is decided on the way, whatever carries it.
//!
//! An engine, or the opening of a tunnel, calls [`Exchange::begin`]; [`Exchange::own_answer`] says whether the gateway
//! answers by itself. Else [`Exchange::place`] finds a server, again until one is [connected](Exchange::connected) to,
//! [`Exchange::to_server`] says what it is asked, [`Exchange::answered`] what of its answer goes back, and
//! [`Exchange::end`] counts and logs. Bodies go by [`Exchange::hear_request`] and [`Exchange::hear_answer`]. What a
//! carrier parses, keeps and writes is its own business.

mod admit;
mod answer;
mod back;
mod compress;
mod core;
mod entry;
mod explain;
mod fields;
mod learn;
mod masking;
mod mirror;
mod peers;
mod place;
mod request;
mod rules;
mod tail;
mod traced;
mod tunnel;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::http::HeaderValue;
use ::http::header::STRICT_TRANSPORT_SECURITY;

pub use self::core::Core;
pub(crate) use admit::marks_of_refusal;
pub(crate) use answer::Answer;
pub(crate) use entry::Entry;
pub(crate) use fields::{ServerFields, with_edits};
pub(crate) use learn::of_session;
pub(crate) use request::RequestHead;
pub(crate) use tunnel::Opened;

use crate::compression::{Encoder, Offer};
use crate::config::Config;
use crate::filter::{Changes, FilterAnswer, HeaderEdits, Response, Verdict};
use crate::http::Refusal;
use crate::http::config::HostHeader;
use crate::http::forwarding::Seen;
use crate::http::grpc::is_grpc;
use crate::http::onward::Onward;
use crate::http::request_id::RequestId;
use crate::http::upgrade::other;
use crate::listener::Info;
use crate::listener::tls::challenges;
use crate::rate::Place;
use crate::request::Headers;
use crate::roster::{Expiry, Leave, OfSession, Origin, Visitor, Why};
use crate::router::{Action, Decision, Route};
use crate::session::{Cause, Key, Mark, Question, SessionTable};
use crate::snapshot::Snapshot;
use crate::transport::cause::is_refusal;
use crate::transport::shortage::is_shortage;
use crate::upstream::{Fields, Lease, PickError, Server, ServerId, Tried, Upstream};
use crate::wire::peer::FIELD;
use crate::wire::proxy_protocol::{Header, Subject};
use admit::Pace;
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

/// How an exchange ended, as its carrier saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// What was spoken with the client; an upgrade says so by itself.
    pub(crate) protocol: &'static str,
    /// The status that the client got; 0 for none.
    pub(crate) status: u16,
    /// Body bytes written to the client.
    pub(crate) bytes_out: u64,
    /// Who cut it, if it did not end by itself.
    pub(crate) cut_by: Option<Side>,
}

/// Which of the two that an exchange is between has ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who asks.
    Client,
    /// The same, by taking nothing of the answer for longer than it may.
    StalledClient,
    /// The same, by taking less of it than it has to.
    SlowClient,
    /// Neither: too much waited in the process, and most of it for one of them.
    NoRoom,
    /// Who answers.
    Server,
}

/// A longer body takes its client longer than the server its answer.
const LONG_BODY: u64 = 64 * 1024;

/// What the log says of whoever has been cut to make room.
pub(crate) const NO_ROOM: &str = "buffers_full";

impl Side {
    /// Who has ended a connection to a client that something was being written to. The kernel gives one up that takes
    /// nothing, too.
    pub(crate) fn of_client(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::TimedOut { Self::StalledClient } else { Self::Client }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::StalledClient => "write_timeout",
            Self::SlowClient => "answer_rate",
            Self::NoRoom => NO_ROOM,
            Self::Server => "server",
        }
    }
}

impl Form {
    /// Whether the server may answer 101.
    fn may_switch(self) -> bool {
        matches!(self, Self::Upgrade | Self::OtherUpgrade)
    }
}

impl Exchange {
    /// Begins with a request whose head is whole, asks the filters and the router, and knows then where the request
    /// goes, or why it doesn't. `announced` is the length of its body, where it says one.
    pub(crate) async fn begin(
        core: &Core,
        info: &Arc<Info>,
        request: &RequestHead<'_>,
        announced: Option<u64>,
    ) -> Box<Self> {
        let mut this = Self::of(core, info, request);
        let decided = match this.look(request, announced) {
            Ok(()) if this.is_question() => {
                Box::pin(this.testify(request)).await;
                Ok(())
            }
            Ok(()) if this.snapshot.filters.is_empty() || this.own.is_some() => this.enter(core, request, announced),
            Ok(()) => match this.ask_filters(request).await {
                Ok(Verdict::Pass) => this.enter(core, request, announced),
                Ok(Verdict::Answer(answer)) => {
                    this.own = Some(Box::new(answer));
                    Ok(())
                }
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        let decided = match decided {
            Ok(()) if this.snapshot.waits && this.own.is_none() => Box::pin(this.admit_in_time(core, request)).await,
            decided => decided,
        };
        let decided = match decided {
            Ok(()) if this.snapshot.waits && this.own.is_none() => Box::pin(this.serve_file(request)).await,
            decided => decided,
        };
        this.decided(core, request, decided);
        this
    }

    /// The same, where no filter, password or service may have to be waited for; else `None`.
    pub(crate) fn begin_now(
        core: &Core,
        info: &Arc<Info>,
        request: &RequestHead<'_>,
        announced: Option<u64>,
    ) -> Option<Box<Self>> {
        let mut this = Self::of(core, info, request);
        let of_peer = this.snapshot.peering.is_some() && request.headers.get(FIELD).is_some();
        if !this.snapshot.filters.is_empty() || this.snapshot.waits || of_peer {
            return None;
        }
        let decided = this.look(request, announced).and_then(|()| this.enter(core, request, announced));
        this.decided(core, request, decided);
        Some(this)
    }

    fn of(core: &Core, info: &Arc<Info>, request: &RequestHead<'_>) -> Box<Self> {
        let mut this = Box::new(Self::new(if request.websocket { Form::Upgrade } else { Form::Plain }, core, info));
        if let Some(hsts) = info.hsts() {
            this.changes.to_client.set(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        if core.traces.is_on() {
            this.begin_trace(core, request);
        }
        this
    }

    fn decided(&mut self, core: &Core, request: &RequestHead<'_>, decided: Result<(), Refusal>) {
        self.mark_for_pages(request);
        if let Err(refusal) = decided {
            self.refuse(core, refusal);
        } else if self.polls && self.own.is_none() {
            self.overdue_goodbye(core, request);
        } else if let Some(route) = self.route.as_ref().filter(|_| !self.is_from_peer())
            && let Some(copying) = self.begin_copy(request, route)
        {
            self.ruled.get_or_insert_default().copying = Some(copying);
            self.send_copy();
        }
    }

    /// Begins with a connection that does not speak HTTP, and goes to the upstream of this name. Where a reload has taken
    /// that away meanwhile there is nowhere to go.
    pub(crate) fn begin_raw(core: &Core, info: &Arc<Info>, upstream: &str) -> Box<Self> {
        let mut this = Box::new(Self::new(Form::Raw, core, info));
        this.upstream = this.snapshot.upstreams.get(upstream).cloned();
        this.ties = Some(Ties::silent(info.peer.ip()));
        if core.traces.is_on() {
            this.begin_raw_trace(core);
        }
        this.admit_raw(core);
        this
    }

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

    /// Looks at a request whatever becomes of it; refuses one that is too long, or one too many.
    fn look(&mut self, head: &RequestHead<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        self.know(head, announced)?;
        // Who comes from a peer has been counted there.
        if self.own.is_some() || self.is_from_peer() { Ok(()) } else { self.pace(head) }
    }

    /// What is known of a request whatever becomes of it; refuses one that is too long.
    fn know(&mut self, head: &RequestHead<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        let most = self.snapshot.config.limits.body.as_u64();
        if most != 0 && announced.is_some_and(|length| length > most) {
            return Err(Refusal::BodyTooLarge);
        }
        if self.snapshot.peering.is_some() {
            self.meet_peer(head);
        }
        let forwarding = &self.snapshot.config.forwarding;
        let peer = self.info.peer.ip();
        self.client = forwarding.client(peer, head.headers);
        if matches!(self.request_id, RequestId::None) {
            self.request_id = forwarding.request_id(peer, head.headers);
        }
        let longest = self.snapshot.config.limits.uri.as_u64();
        if longest != 0 && head.target.len() as u64 > longest {
            return Err(Refusal::UriTooLong);
        }
        if !self.snapshot.challenges.is_empty() && !self.secure() && head.method == "GET" {
            // An authority, which no rule and no filter stands before.
            let proof = challenges::answer(&self.snapshot.challenges, head.target);
            if let Some(proof) = proof {
                self.own = Some(Box::new(FilterAnswer::text(200, proof)));
            }
        }
        Ok(())
    }

    /// What the first filter says that answers.
    async fn ask_filters(&mut self, head: &RequestHead<'_>) -> Result<Verdict, Refusal> {
        let info = Arc::clone(&self.info);
        let request = head.request(&info, self.client)?;
        for filter in Arc::clone(&self.snapshot.filters).iter() {
            if let answer @ Verdict::Answer(_) = filter.request(&request, &mut self.changes).await {
                return Ok(answer);
            }
        }
        Ok(Verdict::Pass)
    }

    /// Finds the route, and whether whoever asks may go there.
    fn enter(&mut self, core: &Core, head: &RequestHead<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        if self.own.is_some() {
            return Ok(());
        }
        let decided = self.decide(core, head, announced);
        if let Some(route) = &self.route {
            route.taken.count(&self.info.listener);
        }
        decided?;
        let pace = if self.is_from_peer() { Pace::Free } else { Pace::Paid };
        self.admit(head, pace)
    }

    fn decide(&mut self, core: &Core, head: &RequestHead<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        let info = Arc::clone(&self.info);
        let request = head.request(&info, self.client)?;
        let route = match self.snapshot.router.route(&request) {
            Decision::To(route) => route,
            Decision::Nowhere => return Err(Refusal::NoRoute),
            Decision::Ambiguous => return Err(Refusal::AmbiguousPath),
        };
        let target = Self::rewritten(&route, &request)?;
        if let Action::Upstream(name) = &route.action {
            // Sessions are where their servers have them, whatever clients call the place.
            let onward = target.as_ref().map(|target| rules::with_target(&request, target)).transpose()?;
            let onward = onward.as_ref().unwrap_or(&request);
            let chosen = self.side(&route, onward);
            let name = chosen.as_ref().unwrap_or(name);
            match self.snapshot.upstreams.get(name) {
                Some(upstream) => {
                    let ties = Ties::new(upstream, onward);
                    if ties.is_ambiguous() {
                        return Err(Refusal::AmbiguousSession);
                    }
                    self.polls = self.form == Form::Plain && ties.polls();
                    self.ties = Some(ties);
                    self.upstream = Some(Arc::clone(upstream));
                }
                None => core.stranger(&route.name, name),
            }
        }
        self.will_come_back(head, &route, target);
        self.rule(head, &request, &route);
        self.say_who_asks(head);
        if self.snapshot.peering.is_some() {
            self.think_of_peers(head);
        }
        // Nobody comes in any more, and a session has to come again. After a hand-over it does, to the next process.
        let opens = self.ties.as_ref().is_some_and(Ties::opens);
        if opens && core.ending.is_leaving() && !core.ending.is_handed_over() {
            return Err(Refusal::Stopping);
        }
        self.offer_compression(&route, head);
        let lost = self.upstream.is_none() && matches!(route.action, Action::Upstream(_));
        let most = route.policy.as_ref().and_then(|policy| policy.most_body);
        self.route = Some(route);
        if most.is_some_and(|most| most != 0 && announced.is_some_and(|length| length > most)) {
            return Err(Refusal::BodyTooLarge);
        }
        if lost { Err(Refusal::NoRoute) } else { Ok(()) }
    }

    /// Where servers may have to be asked for the session, they are told of the client as they will be of its request.
    fn say_who_asks(&mut self, head: &RequestHead<'_>) {
        if self.ties.as_mut().and_then(Ties::questions).is_none() {
            return;
        }
        let fields = self.own_fields(head);
        if let Some(questions) = self.ties.as_mut().and_then(Ties::questions) {
            questions.fields = fields;
        }
    }

    /// What a request of the gateway's own says of the client that it is made for.
    fn own_fields(&self, head: &RequestHead<'_>) -> Fields {
        let host = self.host(head).map(|host| (Box::from("host"), host.to_vec()));
        let mut fields: Fields = host.into_iter().collect();
        self.to_server(head).add(|name, value| fields.push((name.into(), value.to_vec())));
        fields
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

    /// The goodbye that its session was told in place of an answer, where it was: the word for it in the log.
    fn told(&self) -> Option<&'static str> {
        self.ruled.as_ref()?.told
    }

    /// Whether the answer is the last on its connection: the gateway leaves, and no session uses it that has not been told
    /// goodbye yet and has nowhere else to go.
    pub(crate) fn is_last(&self, core: &Core) -> bool {
        // One that lives behind a peer has another way to come.
        let stays = self.is_of_session() && self.told().is_none() && !self.is_to_peer();
        core.ending.is_leaving() && (!stays || core.ending.is_handed_over())
    }

    /// Whether the gateway answers by itself: it refuses, a filter or the route answers, or the session's turn to leave
    /// came during its last poll.
    pub(crate) fn answers_itself(&self) -> bool {
        let local = |route: &Arc<Route>| !matches!(route.action, Action::Upstream(_));
        self.refusal.is_some() || self.own.is_some() || self.route.as_ref().is_some_and(local)
    }

    /// What the gateway answers by itself; `None` where a server is to be asked. To be called once, when it is written.
    pub(crate) fn own_answer(&mut self, request: &RequestHead<'_>) -> Option<Answer<'_>> {
        let status = match (self.refusal, &self.own, self.route.as_ref().map(|route| &route.action)) {
            // The protocol of the session has words of its own for it.
            (Some(Refusal::SessionOver), Some(own), _) => own.status.as_u16(),
            (Some(refusal), ..) => refusal.status(),
            (None, Some(own), _) => own.status.as_u16(),
            (None, None, Some(Action::Respond(respond))) => respond.status,
            (None, None, Some(Action::Redirect(redirect))) => redirect.status,
            (None, None, Some(Action::Upstream(_) | Action::Files(_)) | None) => return None,
        };
        self.filter_answer(status, Headers::Fields(&[]), false);
        let answer = match (self.refusal, &self.own) {
            (Some(Refusal::SessionOver), Some(own)) => Answer::of_filter(own),
            (Some(refusal), _) => {
                let answer = Answer::refusing(refusal);
                // The words of a call's status are the gateway's.
                match rules::page(self.route.as_deref(), &self.snapshot, status).filter(|_| !is_grpc(&request.headers))
                {
                    Some(page) => answer.with_page(page),
                    None => answer,
                }
            }
            (None, Some(own)) => Answer::of_filter(own),
            (None, None) => Answer::of_route(self.route.as_ref()?, request, self.secure())?,
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

    /// Which of the client's fields go on to the server, and what is added to them.
    pub(crate) fn to_server<'a>(&'a self, request: &RequestHead<'a>) -> ServerFields<'a> {
        let seen = Seen {
            peer: self.info.peer.ip(),
            client: self.client,
            local_port: self.info.local.port(),
            secure: self.secure(),
            authority: request.authority,
            headers: request.headers,
        };
        let onward = Onward::new(&self.snapshot.config.forwarding, seen, &self.request_id);
        // A compressed handshake could not be read as it passes; it is too short to be worth it anyway.
        let plain = self.ties.as_ref().is_some_and(Ties::reads_answer);
        let client = self.info.tls.as_ref().and_then(|tls| tls.client.as_deref());
        let fields = ServerFields::new(onward, &self.changes.to_server, plain, (self.snapshot.asks_clients, client));
        match self.mark_for_peer(request) {
            Some(mark) => fields.for_peer(mark),
            None => fields,
        }
    }

    /// Whom the server is told of at the start of a connection; `None` where it is told of nobody. Such a connection is for
    /// no other client.
    pub(crate) fn subject(&self) -> Option<Subject> {
        self.upstream.as_ref()?.config().proxy_protocol?;
        let Info { peer, local, .. } = &*self.info;
        // Of a client that a trusted proxy tells of in a field the port is not known.
        let port = if self.client == peer.ip().to_canonical() { peer.port() } else { 0 };
        Some(Subject::Client { source: (self.client, port).into(), destination: *local })
    }

    /// What tells the server so.
    pub(crate) fn proxy_header(&self) -> Option<Box<Header>> {
        let subject = self.subject()?;
        Some(Box::new(Header { subject, tlvs: self.info.tlvs(self.request_id.as_str()) }))
    }

    /// The host that the server is asked for.
    pub(crate) fn host<'a>(&'a self, request: &RequestHead<'a>) -> Option<&'a [u8]> {
        if let Some(host) = self.changes.to_server.value("host") {
            return Some(host.as_bytes());
        }
        if self.is_to_peer() {
            return request.authority.map(str::as_bytes);
        }
        let of_route = self.route.as_ref().and_then(|route| route.policy.as_ref()?.host.as_ref());
        match of_route.or(self.upstream.as_ref().map(|upstream| &upstream.config().host)) {
            Some(HostHeader::Set(host)) => Some(host.as_bytes()),
            _ => request.authority.map(str::as_bytes),
        }
    }

    /// Takes the next bytes of the request's body; `whole` says that they are all of it.
    pub(crate) fn hear_request(&mut self, bytes: &[u8], whole: bool) -> Result<(), Refusal> {
        self.copy_body(bytes);
        if let (true, Some(upstream), Some(ties)) = (whole, &self.upstream, &self.ties) {
            ties.note_client_goodbye(upstream, bytes);
        }
        self.count_body(bytes.len() as u64)
    }

    /// The same for bytes that nobody has looked at.
    pub(crate) fn count_request(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.drop_copy();
        self.count_body(bytes)
    }

    fn count_body(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.body_in += bytes;
        let most = self.most_body();
        if most != 0 && self.body_in > most { Err(self.fail(Refusal::BodyTooLarge)) } else { Ok(()) }
    }

    /// How long after its beginning the request's body has to have ended, or to have brought more than so many bytes;
    /// and the same for the case that its place on the server is wanted, which may come at any time.
    pub(crate) fn body_due(&self, bytes: u64) -> (Option<Duration>, Option<Duration>) {
        let Config { timeouts, limits, .. } = &self.snapshot.config;
        let due = |wanted| timeouts.body_due(limits, bytes, wanted);
        match &self.lease {
            Some(lease) if lease.is_wanted() => (due(true), None),
            Some(_) => (due(false), due(true)),
            None => (due(false), None),
        }
    }

    /// The request's body does not bring what it has to.
    pub(crate) fn body_is_late(&mut self) -> Refusal {
        self.fail(Refusal::BodyTimeout)
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

    /// Puts it on the list of those who can be told to leave its server.
    fn enter_roster(&mut self) {
        let (Some(upstream), Some(ties), Some(lease)) = (&self.upstream, &self.ties, &self.lease) else { return };
        let begun = ties.session.as_ref().and_then(|session| session.begun.as_ref());
        let session = begun.map_or(OfSession::None, |(key, _)| OfSession::Known(key.name()));
        let visitor = Visitor { origin: self.origin(), client: self.client, session };
        let leave = upstream.roster(lease.server().id()).enter(visitor);
        if let Some(who) = &mut self.who {
            who.expiry = who.ends().map(|at| leave.expires(at));
        }
        self.leave = Some(leave);
    }

    /// Whether it is a poll of a session, which the server may take its time to answer.
    pub(crate) fn is_poll(&self) -> bool {
        self.polls
    }

    /// A poll's place on the list of those who can be told to leave.
    pub(crate) fn leave(&self) -> Option<&Arc<Leave>> {
        self.leave.as_ref()
    }

    /// Whoever carries it can end a stream when its session has to go: see [`Self::last_words`].
    pub(crate) fn can_end_streams(&mut self) {
        self.ends_streams = true;
    }

    /// Whether its answer is a stream that can be ended.
    pub(crate) fn is_endable_stream(&self) -> bool {
        self.endable && self.server_status.is_some()
    }

    /// What ends the stream in the server's place, where that may be said now, and not in the middle of an event. Its session
    /// is over then.
    pub(crate) fn last_words(&mut self, core: &Core) -> Option<Cow<'static, [u8]>> {
        let (upstream, ties) = (self.upstream.as_ref()?, self.ties.as_ref()?);
        let last = ties.last_words(upstream)?;
        let said = self.ruled.as_ref().and_then(|ruled| ruled.tail.as_ref()).map_or(&b""[..], |tail| tail.bytes());
        if !last.may_follow(said) {
            return None;
        }
        let why = self.leave.as_ref().and_then(|leave| leave.why()).unwrap_or(Why::Drain);
        let why = if core.ending.is_leaving() { "stopped" } else { why.as_str() };
        upstream.metrics.goodbye(why);
        self.ruled.get_or_insert_default().told = Some(why);
        // Who asks for it again is told so, as long as that may come.
        self.with_session(|table, key| {
            table.mark(key, Mark::Leaving);
            table.goodbye(key, Cause::Drain);
        });
        Some(last.words)
    }

    /// Whoever carries the poll can end it when it is told to leave, and calls [`Self::goodbye`] then. Otherwise the poll
    /// goes on to its end, and the session is told at the next one.
    pub(crate) fn can_be_ended(&mut self) {
        self.endable = true;
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

    /// Bytes of the request's body that have come.
    pub(crate) fn body_in(&self) -> u64 {
        self.body_in
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

    /// Whether [`Self::hear_answer`] has to have the answer's body.
    pub(crate) fn hears_answer(&self) -> bool {
        self.learner.is_some() || self.polls || self.is_endable_stream()
    }

    /// Takes the next bytes of the answer's body, before the client gets them.
    pub(crate) fn hear_answer(&mut self, bytes: &[u8], is_end: bool) {
        if self.learner.as_mut().is_some_and(|learner| !learner.hear(bytes, is_end)) {
            self.learner = None;
        }
        let tells = self.polls || self.is_endable_stream();
        if let (true, Some(upstream), Some(ties)) = (tells, &self.upstream, &self.ties) {
            let tail = self.ruled.get_or_insert_default().tail.get_or_insert_default();
            tail.push(bytes);
            if is_end && self.polls {
                ties.note_server_goodbye(upstream, tail.bytes(), tail.is_whole());
            }
        }
    }

    /// Ends a poll in the server's place, since its session's turn to leave has come: [`Self::own_answer`] is the goodbye,
    /// on which the client opens another session.
    pub(crate) fn goodbye(&mut self, core: &Core, request: &RequestHead<'_>) {
        let why = self.leave.as_ref().and_then(|leave| leave.why()).unwrap_or(Why::Drain);
        self.say_goodbye(core, why, request);
    }

    /// The same for a session whose turn came during its last poll, which could not be ended.
    fn overdue_goodbye(&mut self, core: &Core, request: &RequestHead<'_>) {
        let found = self.ties.as_ref().and_then(|ties| ties.session.as_ref()?.found);
        if let (Some(upstream), Some(found)) = (&self.upstream, found.filter(|found| found.is(Mark::Leaving))) {
            let server = upstream.server(ServerId::from_bits(found.server));
            let drains = server.as_ref().is_none_or(|server| server.is_draining());
            if let (Some(server), Some(farewell)) = (server, self.farewell(request)) {
                upstream.say_farewell(server, farewell, self.own_fields(request));
            }
            let why = match upstream.rebalancing() {
                _ if drains => Why::Drain,
                Some(_) => Why::Rebalance,
                None => Why::Operator,
            };
            self.say_goodbye(core, why, request);
        }
    }

    /// What tells the server of a goodbye that no broken connection shows.
    fn farewell(&self, head: &RequestHead<'_>) -> Option<Question> {
        let session = self.ties.as_ref()?.session.as_ref()?;
        let request = self.onward(head).request(&self.info, self.client).ok()?;
        let (_, id) = session.begun.as_ref()?;
        self.upstream.as_ref()?.session_protocol()?.farewell(session.said.dialect, id, &request)
    }

    fn say_goodbye(&mut self, core: &Core, why: Why, request: &RequestHead<'_>) {
        let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) else { return };
        let Ok(onward) = self.onward(request).request(&self.info, self.client) else { return };
        let Some(goodbye) = ties.goodbye(upstream, &onward) else { return };
        let why = if core.ending.is_leaving() { "stopped" } else { why.as_str() };
        upstream.metrics.goodbye(why);
        let origin = request.headers.get("origin").and_then(|origin| HeaderValue::from_bytes(origin).ok());
        self.own = Some(Box::new(answer::goodbye(goodbye, origin)));
        self.ruled.get_or_insert_default().told = Some(why);
        self.with_session(|table, key| {
            table.forget(key, Cause::Drain);
        });
    }

    /// Tells the table something of the session that the request names.
    fn with_session(&self, tell: impl FnOnce(&Arc<SessionTable>, Key)) {
        let begun = self.ties.as_ref().and_then(|ties| ties.session.as_ref()?.begun.as_ref());
        let table = self.upstream.as_ref().and_then(|upstream| upstream.sessions());
        if let (Some(table), Some((key, _))) = (table, begun) {
            tell(table, *key);
        }
    }

    /// Notes that the turn of this poll's session has come while the poll could not be ended.
    fn leave_next_time(&self) {
        if !self.endable && self.leave.as_ref().is_some_and(|leave| leave.is_told()) {
            self.with_session(|table, key| {
                table.mark(key, Mark::Leaving);
            });
        }
    }

    /// Counts and logs, and gives the place on the server back: what may follow is between the client and the gateway.
    /// True if the client got all that there was.
    pub(crate) fn end<'a>(&mut self, core: &Core, ended: Ended, request: impl FnOnce() -> RequestHead<'a>) -> bool {
        let metrics = self.upstream.as_ref().map_or(&self.snapshot.local, |upstream| &upstream.metrics);
        if ended.status != 0 {
            metrics.answered(ended.status);
            if self.form == Form::Plain {
                metrics.seconds.observe(self.started.elapsed().as_secs_f64());
            }
        }
        if core.access_log.is_on() || self.ruled.as_ref().is_some_and(|ruled| ruled.trace.is_some()) {
            let mut entry = self.entry.take().unwrap_or_else(|| Box::new(self.entry(ended.protocol, Some(&request()))));
            self.fill(&mut entry);
            entry.status = ended.status;
            entry.bytes_out = ended.bytes_out;
            entry.closed_by = match (self.refusal, ended.cut_by) {
                (_, Some(_)) if core.ending.is_cut() => "stopped",
                (Some(refusal), _) => refusal.as_str(),
                // An upgrade that was refused leaves nothing to be used again.
                (None, None) if self.form.may_switch() && self.server_status.is_some() => Side::Server.as_str(),
                (None, None) => self.told().unwrap_or(""),
                (None, side) => side.map_or("", Side::as_str),
            };
            let trace = entry.trace.take();
            let record = entry.finish();
            if let Some(trace) = trace {
                core.traces.request(&trace, &record);
            }
            core.access_log.write(&record);
        }
        self.judge(ended.cut_by);
        // A stream that has ended by itself has had no time to be told.
        self.endable &= self.server_status.is_none();
        self.leave_next_time();
        if self.polls && ended.cut_by == Some(Side::Client) && !core.ending.is_cut() {
            self.with_session(|table, key| table.lose(key));
        }
        self.leave = None;
        self.lease = None;
        self.place = None;
        if let Some(ruled) = &mut self.ruled {
            ruled.held = None;
        }
        let told = |refusal: Refusal| if self.called { 200 } else { refusal.status() };
        ended.cut_by.is_none() || self.refusal.is_some_and(|refusal| told(refusal) == ended.status)
    }

    /// Counts and logs a request that a program's own hooks have answered, before any of this began.
    pub(crate) fn untold(core: &Core, info: &Arc<Info>, ended: Ended, request: &RequestHead<'_>) {
        let form = if request.websocket { Form::Upgrade } else { Form::Plain };
        Self::new(form, core, info).end(core, ended, || *request);
    }

    /// The line of the log as far as the request tells it.
    fn entry(&self, protocol: &'static str, request: Option<&RequestHead<'_>>) -> Entry {
        let protocol = match self.form {
            Form::Plain => protocol,
            Form::Upgrade => "WebSocket",
            Form::OtherUpgrade => "Upgrade",
            Form::Raw => "TCP",
        };
        let mut entry = Entry::new(&self.info, protocol, self.began, self.started);
        if let Some(request) = request {
            entry.request(request, &self.snapshot.secrets);
        }
        entry.client = self.client;
        entry.user = self.who.as_ref().and_then(|who| who.user.clone());
        entry.route = self.route.as_ref().map(|route| Arc::clone(&route.name));
        if let Some(session) = self.ties.as_ref().and_then(|ties| ties.session.as_ref()) {
            entry.session(session.said.transport, session.begun.as_ref());
        }
        entry
    }

    /// What has been found out since.
    fn fill(&mut self, entry: &mut Entry) {
        entry.tries = self.tries;
        entry.bytes_in = self.body_in;
        entry.first_byte = self.first_byte.map(|at| at.duration_since(self.started));
        entry.request_id = self.request_id.as_str().to_owned();
        if let Some(lease) = &self.lease {
            entry.taken(lease);
        }
        entry.queued = Duration::from_micros(self.queued.into());
        entry.search = self.ties.as_ref().and_then(|ties| ties.session.as_ref()?.sought()).unwrap_or("");
        entry.trace = self.ruled.as_mut().and_then(|ruled| ruled.trace.take());
    }

    fn origin(&self) -> Origin {
        let route = self.route.as_ref().map(|route| Arc::clone(&route.name));
        Origin { listener: Arc::clone(&self.info.listener), route }
    }

    /// Tells the upstream how its server did, now that the exchange is over: an answer that is cut is no good one, however
    /// well it began. What a client broke off says nothing, unless there was an answer.
    fn judge(&self, cut_by: Option<Side>) {
        let Some(lease) = self.lease.as_ref().filter(|_| self.reached) else { return };
        let failed = cut_by == Some(Side::Server);
        match self.server_status {
            // 101 was not asked for.
            Some(status) if !failed && (status != 101 || self.form.may_switch()) => lease.answered(status),
            Some(_) => lease.gave_no_answer(),
            None if failed => lease.gave_no_answer(),
            None => {}
        }
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
