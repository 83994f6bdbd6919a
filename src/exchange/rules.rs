//! What the operator's rules do with a request and its answer: those of the upstream first, then those of the route.

use std::sync::Arc;
use std::time::Duration;

use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue};

use super::back::Back;
use super::mirror::Copying;
use super::tail::Tail;
use super::{Exchange, RequestHead, place};
use crate::compression;
use crate::filter::{Expression, Facts, FieldRule, Variable, files};
use crate::http::Refusal;
use crate::http::config::HostHeader;
use crate::http::pages::Page;
use crate::request::{Headers, Path, Request};
use crate::router::config::Timeouts;
use crate::router::{Action, Goal, Policy, Rewrite, Route};
use crate::session::Held;
use crate::snapshot::Snapshot;
use crate::trace::Trace;

/// What few exchanges need: what rules have decided when the request came, what passes of bodies, and a trace.
#[derive(Default)]
pub(super) struct Ruled {
    /// The path and query that the server gets, where these are not the client's.
    target: Option<Box<str>>,
    /// How what the answer says is changed into what the client asks for.
    back: Option<Back>,
    /// Whether it came by TLS, where a redirect has to know, and a trusted proxy tells.
    pub(super) secure: Option<bool>,
    /// Fields of the answer that wait for the server to be known.
    late: Vec<FieldRule>,
    /// How a poll's answer has ended until now; here, since most of the time it has not begun.
    pub(super) tail: Option<Tail>,
    /// Its session, where that lives for as long as the answer is under way.
    pub(super) held: Option<Held>,
    /// A copy of it for another upstream, while its body comes.
    pub(super) copying: Option<Copying>,
    /// The goodbye that its session was told in place of an answer, where it was: the word for it in the log.
    pub(super) told: Option<&'static str>,
    /// The status that its share is answered with.
    share: Option<u16>,
    /// Its trace, where that is recorded.
    pub(super) trace: Option<Box<Trace>>,
}

impl Ruled {
    /// Takes what is of the request, whoever gets it: a copy that is on its way, and its trace.
    pub(super) fn take_along(from: &mut Option<Box<Self>>) -> Option<Box<Self>> {
        let from = from.as_mut()?;
        let (copying, trace) = (from.copying.take(), from.trace.take());
        (copying.is_some() || trace.is_some()).then(|| Box::new(Self { copying, trace, ..Self::default() }))
    }
}

impl Exchange {
    /// The path and query that the server gets; `None` where they are those of the client.
    pub(super) fn rewritten(route: &Route, request: &Request<'_>) -> Result<Option<String>, Refusal> {
        match route.policy.as_ref().and_then(|policy| policy.rewrite.as_ref()) {
            Some(rewrite) => rewrite.target(request),
            None => Ok(None),
        }
    }

    /// Looks for the file that the request is for, where its route has files.
    pub(super) async fn serve_file(&mut self, head: &RequestHead<'_>) -> Result<(), Refusal> {
        let Some(Action::Files(files)) = self.route.as_ref().map(|route| &route.action) else { return Ok(()) };
        let (files, info) = (Arc::clone(files), Arc::clone(&self.info));
        let request = self.onward(head).request(&info, self.client)?;
        let path = request.path.canonical.clone();
        let codings = compression::preferred(&request.headers);
        let answer = files::answer(&files, &request, &path, head.target, codings).await;
        self.own = Some(Box::new(answer));
        Ok(())
    }

    /// The side that the request goes to, where its route has several; its client is told where that is to be.
    pub(super) fn side<'a>(&mut self, route: &'a Route, request: &Request<'_>) -> Option<&'a Goal> {
        let split = route.split()?;
        let upstreams = &self.snapshot.upstreams;
        let lives_in = |name: &str| upstreams.get(name).is_some_and(|upstream| place::lives_in(upstream, request));
        let (side, cookie) = split.choose(request, lives_in);
        if let Some(cookie) = cookie {
            self.changes.to_client.append(SET_COOKIE, cookie);
        }
        // Who comes from a peer has had its turn there.
        Some(side).filter(|side| !(self.is_from_peer() && matches!(side, Goal::Respond(_))))
    }

    /// Its share is answered here, with this status, once it is known that its client may ask.
    pub(super) fn answer_share(&mut self, status: u16) {
        let ruled = self.ruled.get_or_insert_default();
        (ruled.share, ruled.told) = (Some(status), Some(SHARE));
    }

    /// The status that its share is answered with here, where it is.
    pub(crate) fn share(&self) -> Option<u16> {
        self.ruled.as_ref()?.share
    }

    /// The longest body that the request may have; 0 for any.
    pub(crate) fn most_body(&self) -> u64 {
        let of_route = self.policy().and_then(|policy| policy.most_body);
        of_route.unwrap_or_else(|| self.snapshot.config.limits.body.as_u64())
    }

    /// How many other servers are tried after a failed connect, where the route says it.
    pub(super) fn connect_retries(&self) -> Option<usize> {
        self.policy()?.connect_retries
    }

    /// The times that the route says.
    pub(super) fn route_timeouts(&self) -> Option<&Timeouts> {
        self.policy().map(|policy| &policy.timeouts)
    }

    /// How long a tunnel may be silent, where the route says it.
    pub(super) fn tunnel_idle(&self) -> Option<Duration> {
        self.route_timeouts()?.tunnel_idle
    }

    fn policy(&self) -> Option<&Policy> {
        self.route.as_ref()?.policy.as_deref()
    }

    /// Keeps in mind by which scheme the client came, where it is sent elsewhere by the same: engines know no fields by then.
    pub(super) fn note_scheme(&mut self, head: &RequestHead<'_>, route: &Route) {
        if !matches!(&route.action, Action::Redirect(redirect) if redirect.scheme.is_none()) {
            return;
        }
        let secure = self.asked(head).secure;
        if secure != self.info.secure() {
            self.ruled.get_or_insert_default().secure = Some(secure);
        }
    }

    /// Keeps in mind what has to be undone in the answer.
    pub(super) fn will_come_back(&mut self, head: &RequestHead<'_>, route: &Route, target: Option<String>) {
        let Some(policy) = &route.policy else { return };
        let set = match &policy.host {
            Some(HostHeader::Set(host)) => Some(host.as_str()),
            Some(HostHeader::Keep) | None => None,
        };
        if target.is_none() && set.is_none() {
            return;
        }
        let rewrite = target.is_some().then(|| policy.rewrite.clone()).flatten();
        let prefix = rewrite.as_ref().and_then(Rewrite::stripped).and_then(|prefix| HeaderValue::from_str(prefix).ok());
        if let Some(prefix) = prefix {
            self.changes.to_server.set(PREFIX, prefix);
        }
        let own_host = match self.upstream.as_ref().map(|upstream| &upstream.config().host) {
            Some(HostHeader::Set(host)) if policy.host.is_none() => Some(host.as_str()),
            _ => set,
        };
        let asked = self.asked(head);
        let authority = asked.authority.unwrap_or_default();
        let back = Back {
            rewrite,
            asked: own_host.unwrap_or(head.authority.unwrap_or_default()).into(),
            public: (if asked.secure { "https" } else { "http" }, authority.into()),
        };
        let ruled = self.ruled.get_or_insert_default();
        (ruled.target, ruled.back) = (target.map(Into::into), Some(back));
    }

    /// The path and query that the server is asked for.
    pub(crate) fn target<'a>(&'a self, request: &RequestHead<'a>) -> &'a str {
        self.ruled.as_ref().and_then(|ruled| ruled.target.as_deref()).unwrap_or(request.target)
    }

    /// The head with the path and query that the server is asked for.
    pub(super) fn onward<'a>(&'a self, request: &RequestHead<'a>) -> RequestHead<'a> {
        RequestHead { target: self.target(request), ..*request }
    }

    /// Whether what answers say has to be changed.
    pub(super) fn comes_back(&self) -> bool {
        self.ruled.as_ref().is_some_and(|ruled| ruled.back.is_some())
    }

    /// Applies the rules of the upstream and the route, once these are known.
    pub(super) fn rule(&mut self, head: &RequestHead<'_>, request: &Request<'_>, route: &Route) {
        let of_upstream = self.upstream.as_ref().and_then(|upstream| self.snapshot.fields.get(upstream.name()));
        let of_route = route.policy.as_ref().map(|policy| &policy.fields);
        if of_upstream.is_none() && of_route.is_none() {
            return;
        }
        let (mut to_server, mut to_client) = (self.changes.to_server.clone(), self.changes.to_client.clone());
        let facts = Known { exchange: self, head, request, route };
        let mut late: Vec<FieldRule> = Vec::new();
        for rules in of_upstream.into_iter().chain(of_route) {
            if let Some(rules) = &rules.request {
                rules.apply(&facts, &mut to_server);
            }
            if let Some(rules) = &rules.response {
                late.retain(|rule| !rule.is_undone_by(rules));
                late.extend(rules.apply(&facts, &mut to_client));
            }
        }
        (self.changes.to_server, self.changes.to_client) = (to_server, to_client);
        if !late.is_empty() {
            self.ruled.get_or_insert_default().late = late;
        }
    }

    /// Applies to the answer of a server what has waited for it.
    pub(super) fn rule_answer(&mut self, headers: Headers<'_>) {
        let (Some(ruled), Some(lease)) = (&self.ruled, &self.lease) else { return };
        if let Some(back) = &ruled.back {
            back.change(headers, &mut self.changes.to_client);
        }
        let facts = OfServer(lease.server().name());
        ruled.late.iter().for_each(|rule| rule.apply(&facts, &mut self.changes.to_client));
    }
}

/// The word in the log for what a share is answered with.
pub(super) const SHARE: &str = "share";

/// What tells servers of the prefix that they do not get.
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The page for a status, as the route or all of them say.
pub(super) fn page<'a>(route: Option<&'a Route>, snapshot: &'a Snapshot, status: u16) -> Option<&'a Page> {
    let of_route = route.and_then(|route| route.policy.as_ref()?.pages.as_ref()?.of(status));
    of_route.or_else(|| snapshot.pages.as_ref()?.of(status))
}

/// The same request with another path and query.
pub(super) fn with_target<'a>(request: &Request<'a>, target: &'a str) -> Result<Request<'a>, Refusal> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    Ok(Request { path: Path::read(path).map_err(Refusal::BadPath)?, query, ..request.clone() })
}

/// What is known of a request when its route is.
struct Known<'a> {
    exchange: &'a Exchange,
    head: &'a RequestHead<'a>,
    request: &'a Request<'a>,
    route: &'a Route,
}

impl Facts for Known<'_> {
    fn put(&self, variable: &Variable, out: &mut Vec<u8>) {
        let Self { exchange, head, request, route } = self;
        let info = &*exchange.info;
        let certificate = || info.tls.as_ref().and_then(|tls| tls.client.as_deref());
        let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
        match variable {
            Variable::ClientIp => text(&exchange.client.to_string()),
            // Of a client that a trusted proxy tells of in a field the port is not known.
            Variable::ClientPort if exchange.client != info.peer.ip().to_canonical() => {}
            Variable::ClientPort => text(&info.peer.port().to_string()),
            Variable::CertificateSubject => text(certificate().map_or("", |shown| &shown.subject)),
            Variable::CertificateNames => text(certificate().map_or("", |shown| &shown.names)),
            Variable::CertificateFingerprint => text(certificate().map_or("", |shown| &shown.fingerprint)),
            Variable::ListenerName => text(&info.listener),
            Variable::ListenerPort => text(&info.local.port().to_string()),
            Variable::RequestId => text(exchange.request_id()),
            Variable::Method => text(request.method),
            Variable::Scheme => text(if exchange.asked(head).secure { "https" } else { "http" }),
            Variable::Host => text(request.host.as_deref().unwrap_or_default()),
            Variable::Path => text(&request.path.canonical),
            Variable::Target => text(head.target),
            Variable::Header(name) => out.extend_from_slice(request.headers.get(name).unwrap_or_default()),
            Variable::Cookie(name) => text(request.cookie(name).unwrap_or_default()),
            Variable::Query(name) => text(request.query_value(name).unwrap_or_default()),
            Variable::RouteName => text(&route.name),
            Variable::UpstreamName => text(exchange.upstream().unwrap_or_default()),
            Variable::ServerName => {}
            Variable::TlsVersion => text(info.tls_version().unwrap_or_default()),
            Variable::TlsCipher => text(info.tls.as_ref().map_or("", |tls| tls.cipher)),
            Variable::TlsServerName => text(info.server_name().unwrap_or_default()),
        }
    }

    fn compute(&self, expression: &Expression) -> Option<String> {
        expression.value(self.request, &self.request.path.canonical)
    }
}

/// The name of the server, all else being written already.
struct OfServer<'a>(&'a str);

impl Facts for OfServer<'_> {
    fn put(&self, variable: &Variable, out: &mut Vec<u8>) {
        if *variable == Variable::ServerName {
            out.extend_from_slice(self.0.as_bytes());
        }
    }
}
