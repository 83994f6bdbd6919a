//! The gateway's decisions as the hooks of Pingora's HTTP proxy.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::http::Version;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::exchange::{Exchange, Line};
use super::learn::{Heard, Learner};
use super::place::Ask;
use super::{Core, connect, head, peer};
use crate::affinity::Mark;
use crate::drain::{Origin, Why};
use crate::http::forwarding::Seen;
use crate::http::hop_by_hop::{is_hop_by_hop, is_nominated};
use crate::http::{Refusal, answers};
use crate::listener::{Connection, Farewell, Info};
use crate::request::{Headers, Path, Request, host_name};
use crate::router::{Action, Decision};
use crate::snapshot::Pool;
use crate::upstream::config::{HostHeader, Kind};
use crate::upstream::{Lease, PickError, ServerId, Tried};
use crate::wire::engine_io::{SESSION_UNKNOWN, error_code, goodbye};

/// Routes, picks, forwards, limits and logs. A `ProxyHttp` of a program's own can hold one and pass on the hooks that
/// it does not change.
pub struct Balancer {
    core: Arc<Core>,
}

/// How long the rest of a request body is read after an early answer, so that the connection can be used again.
const DRAIN: Duration = Duration::from_secs(5);

impl Balancer {
    /// The hooks over a gateway's snapshot.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Decides where the request goes.
    fn route(session: &Session, ctx: &mut Exchange) -> std::result::Result<(), Refusal> {
        let header = session.req_header();
        let forwarding = &ctx.snapshot.config.forwarding;
        let headers = Headers::Map(&header.headers);
        let peer = ctx.peer();
        ctx.client = forwarding.client(peer, headers);
        ctx.request_id = forwarding.request_id(peer, headers);
        let target = target(header);
        let (path, query) = head::split_query(target);
        let request = Request {
            method: header.method.as_str(),
            host: authority(header).map(host_name),
            path: Path::read(path).map_err(Refusal::BadPath)?,
            query,
            headers,
            websocket: false,
            listener: ctx.info.as_ref().map_or("", |info| &info.listener),
            secure: ctx.secure(),
            client: ctx.client,
        };
        match ctx.snapshot.router.route(&request) {
            Decision::To(route) => {
                if let Action::Upstream(name) = &route.action {
                    let pool = Arc::clone(ctx.snapshot.pools.get(name).ok_or(Refusal::NoRoute)?);
                    ctx.ask = Some(Ask::new(&pool, &request));
                    ctx.pool = Some(pool);
                }
                ctx.route = Some(route);
                Ok(())
            }
            Decision::Nowhere => Err(Refusal::NoRoute),
            Decision::Ambiguous => Err(Refusal::AmbiguousPath),
        }
    }

    /// Answers with a status and text, unless an answer has begun.
    async fn refuse(&self, session: &mut Session, ctx: &mut Exchange, refusal: Refusal) {
        ctx.refusal = Some(refusal);
        self.core.metrics.refused(refusal.word());
        if session.response_written().is_some() {
            return;
        }
        let body = Bytes::from(refusal.to_string());
        let written = async {
            let mut header = ResponseHeader::build(refusal.status(), Some(5))?;
            if let Some(seconds) = refusal.retry_after() {
                header.insert_header("retry-after", seconds)?;
            }
            for (name, value) in answers::REFUSAL_FIELDS {
                header.insert_header(name, value)?;
            }
            answer(session, header, body).await
        };
        if let Err(error) = written.await {
            log::debug!("a refusal could not be written: {error}");
        }
    }
}

impl Exchange {
    fn peer(&self) -> IpAddr {
        self.info.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |info| info.peer.ip())
    }

    fn secure(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.tls.is_some())
    }
}

#[async_trait]
impl ProxyHttp for Balancer {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange {
            snapshot: self.core.snapshot.load_full(),
            info: None,
            route: None,
            pool: None,
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
            queued: Duration::ZERO,
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Exchange) -> Result<bool> {
        ctx.info = session
            .digest()
            .and_then(|digest| digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Arc<Info>>())
            .cloned();
        let timeouts = &ctx.snapshot.config.timeouts;
        let set = |time: Duration| (!time.is_zero()).then_some(time);
        session.set_read_timeout(set(timeouts.body));
        session.set_write_timeout(set(timeouts.write));
        session.set_total_drain_timeout(Some(DRAIN));
        session.set_close_on_response_before_downstream_finish(false);
        let most = ctx.snapshot.config.limits.body.as_u64();
        let announced = content_length(session.req_header());
        let routed = match announced {
            Some(length) if most != 0 && length > most => Err(Refusal::BodyTooLarge),
            _ => Self::route(session, ctx),
        };
        if let Err(refusal) = routed {
            self.refuse(session, ctx, refusal).await;
            return Ok(true);
        }
        let Some(route) = ctx.route.clone() else { return Ok(false) };
        let (header, body) = match &route.action {
            Action::Upstream(_) => match farewell(session, ctx)? {
                Some(goodbye) => goodbye,
                None => return Ok(false),
            },
            Action::Respond(respond) => {
                let mut header = ResponseHeader::build(respond.status, Some(respond.headers.len() + 2))?;
                if !respond.body.is_empty() {
                    header.insert_header("content-type", "text/plain; charset=utf-8")?;
                }
                for (name, value) in &respond.headers {
                    header.insert_header(name.clone(), value)?;
                }
                (header, Bytes::copy_from_slice(respond.body.as_bytes()))
            }
            Action::Redirect(redirect) => {
                let asked = session.req_header();
                let location = redirect.location(ctx.secure(), authority(asked), target(asked));
                let mut header = ResponseHeader::build(redirect.status, Some(2))?;
                header.insert_header("location", location)?;
                (header, Bytes::new())
            }
        };
        answer(session, header, body).await?;
        Ok(true)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Exchange,
    ) -> Result<()> {
        if let (Some(bytes), Some(pool), Some(ask)) = (&body, &ctx.pool, &ctx.ask)
            && content_length(session.req_header()) == Some(bytes.len() as u64)
        {
            ask.note_goodbye(pool, bytes);
        }
        ctx.body_in += body.as_ref().map_or(0, Bytes::len) as u64;
        let most = ctx.snapshot.config.limits.body.as_u64();
        if most != 0 && ctx.body_in > most {
            ctx.refusal = Some(Refusal::BodyTooLarge);
            return Error::e_explain(ErrorType::HTTPStatus(413), "the body is larger than limits.body");
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Exchange) -> Result<Box<HttpPeer>> {
        let fail = |ctx: &mut Exchange, refusal: Refusal| {
            ctx.refusal = Some(refusal);
            Err(Error::explain(ErrorType::HTTPStatus(refusal.status()), refusal.word()))
        };
        let Some(pool) = ctx.pool.clone() else { return fail(ctx, Refusal::NoRoute) };
        if let Some(lease) = ctx.lease.as_ref().filter(|_| ctx.reached) {
            // Asked again though it was reached: the server had closed a kept connection, and gets a new one.
            ctx.reached = false;
            return peer::of(&pool, lease.server());
        }
        // A place on a server that could not be reached is given back before another one is looked for.
        ctx.lease = None;
        let Some(ask) = &ctx.ask else { return fail(ctx, Refusal::NoServer) };
        let lease = match ask.place(&pool, &mut ctx.tried).await {
            Ok(lease) => lease,
            Err(PickError::NoServer) if ctx.tries > 0 => return fail(ctx, Refusal::ConnectFailed),
            Err(error) => return fail(ctx, connect::refusal(error)),
        };
        ctx.tries += 1;
        ctx.queued = lease.waited();
        let peer = peer::of(&pool, lease.server());
        announce(session, ctx, &pool, &lease);
        ctx.lease = Some(lease);
        peer
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(lease) = &ctx.lease {
            log::debug!("upstream {}: {}: {error}", lease.upstream().name(), lease.server().name());
            lease.connect_failed();
            // Nothing of the request has been sent, so asking another server repeats nothing.
            error.set_retry(ctx.tries as usize <= lease.upstream().config().connect_retries);
        }
        ctx.refusal = Some(Refusal::ConnectFailed);
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&pingora::protocols::Digest>,
        ctx: &mut Exchange,
    ) -> Result<()> {
        ctx.refusal = None;
        ctx.reached = true;
        if let Some(lease) = &ctx.lease
            && !reused
        {
            lease.connected();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        let forwarding = &ctx.snapshot.config.forwarding;
        let peer = ctx.peer();
        let sent = session.req_header();
        let authority = authority(sent);
        let headers = Headers::Map(&sent.headers);
        let nominated = |name: &str| headers.all("connection").any(|value| is_nominated(value, name));
        let goes = |name: &str| nominated(name) || forwarding.replaces(name, peer);
        let dropped: Vec<_> = request.headers.keys().filter(|name| goes(name.as_str())).cloned().collect();
        for name in dropped {
            request.remove_header(&name);
        }
        let seen = Seen {
            peer,
            local_port: ctx.info.as_ref().map_or(0, |info| info.local.port()),
            secure: ctx.secure(),
            authority,
            headers,
        };
        let mut told = Ok(());
        forwarding.tell(&seen, &ctx.request_id, |name, value| {
            if told.is_ok() {
                told = request.insert_header(name.to_owned(), value);
            }
        });
        told?;
        join_cookies(request)?;
        if ctx.ask.as_ref().is_some_and(Ask::opens_by_answer) {
            // A compressed handshake could not be read as it passes; it is too short to be worth it anyway.
            request.remove_header("accept-encoding");
        }
        match ctx.pool.as_ref().map(|pool| &pool.upstream.config().host) {
            Some(HostHeader::Set(host)) => request.insert_header("Host", host)?,
            _ => {
                if let Some(authority) = authority {
                    request.insert_header("Host", authority)?;
                }
            }
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        ctx.first_byte.get_or_insert_with(Instant::now);
        // The gateway speaks for itself, whatever its server speaks (RFC 9110 2.5).
        response.set_version(Version::HTTP_11);
        if response.status == 101 {
            // No upgrade was asked for: passing it on would leave client and server with two ideas of the connection.
            ctx.refusal = Some(Refusal::BadAnswer);
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "101 to a request that was no upgrade");
        }
        if let (Some(ask), Some(pool), Some(lease)) = (&ctx.ask, &ctx.pool, &ctx.lease) {
            if let Some(cookie) = ask.set_cookie(pool, lease.server().id(), ctx.secure()) {
                response.append_header("Set-Cookie", cookie)?;
            }
            match response.status.as_u16() {
                200 if ask.opens_by_answer() => ctx.learner = Some(Learner::new(Arc::clone(pool), lease.server().id())),
                400 if ask.session.is_some() => ctx.error_body = Some(Vec::new()),
                _ => {}
            }
        }
        let connection: Vec<Vec<u8>> =
            response.headers.get_all("connection").iter().map(|value| value.as_bytes().to_vec()).collect();
        let goes = |name: &str| {
            is_hop_by_hop(name) && name != "connection" || connection.iter().any(|value| is_nominated(value, name))
        };
        let dropped: Vec<_> = response.headers.keys().filter(|name| goes(name.as_str())).cloned().collect();
        for name in dropped {
            response.remove_header(&name);
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Exchange,
    ) -> Result<Option<Duration>> {
        let bytes = body.as_deref().unwrap_or_default();
        if let Some(learner) = &mut ctx.learner {
            let heard = learner.hear(bytes);
            if heard != Heard::TooLittle {
                ctx.learner = None;
            }
            if let (Heard::Session, Some(lease), Some(ask)) = (heard, &ctx.lease, &ctx.ask) {
                lease.learned(&ask.client);
            }
        }
        if let Some(error) = &mut ctx.error_body {
            error.extend_from_slice(&bytes[..bytes.len().min(LONGEST_ERROR - error.len())]);
            if end_of_stream && let (Some(code), Some(pool)) = (error_code(error), &ctx.pool) {
                pool.metrics.engine_io_error(code);
                if code == SESSION_UNKNOWN {
                    forget(pool, ctx.ask.as_ref());
                }
            }
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _ctx: &mut Exchange,
    ) -> Result<()> {
        if session.req_header().version < Version::HTTP_11 && response.headers.contains_key("transfer-encoding") {
            // HTTP/1.0 has no chunks (RFC 9112 7): the body ends with the connection.
            response.remove_header("transfer-encoding");
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Exchange) -> FailToProxy {
        let refusal = ctx.refusal.or_else(|| refusal_of(error));
        match refusal {
            Some(refusal) => self.refuse(session, ctx, refusal).await,
            None => log::debug!("the client left: {error}"),
        }
        FailToProxy { error_code: refusal.map_or(0, Refusal::status), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Exchange) {
        if let Some(info) = &ctx.info {
            info.pending.take();
        }
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        let metrics = ctx.pool.as_ref().map_or(&ctx.snapshot.local, |pool| &pool.metrics);
        if status != 0 {
            metrics.answered(status);
            metrics.seconds.observe(ctx.started.elapsed().as_secs_f64());
        }
        if self.core.access_log.is_on() {
            self.log(session, error, ctx, status);
        }
        leave_next_time(ctx);
        // What follows is between the client and the gateway.
        ctx.lease = None;
        let whole = error.is_none() || ctx.refusal.is_some_and(|refusal| refusal.status() == status);
        if !whole {
            cut(session);
        } else if ctx.refusal != Some(Refusal::BodyTimeout) {
            // An answer may come before the end of the request: what is still on its way is read away, since a reset
            // in reply to it would overtake the answer (RFC 9112 9.6).
            let _ = session.drain_request_body().await;
        }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Exchange, _error: &Error) -> bool {
        // The access log has a line for it; a client that leaves is no error of the gateway's.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Exchange,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

impl Balancer {
    fn log(&self, session: &Session, error: Option<&Error>, ctx: &Exchange, status: u16) {
        let Some(info) = &ctx.info else { return };
        let header = session.req_header();
        let protocol = if session.is_http2() { "HTTP/2" } else { "HTTP/1.1" };
        let mut line = Line::new(info, protocol, ctx.began, ctx.started);
        let target = target(header);
        line.asked(header.method.as_str(), authority(header), target);
        line.client = ctx.client;
        line.status = status;
        line.route = ctx.route.as_ref().map(|route| Arc::clone(&route.name));
        line.tries = ctx.tries;
        line.bytes_in = ctx.body_in;
        line.bytes_out = session.body_bytes_sent() as u64;
        line.first_byte = ctx.first_byte.map(|at| at.duration_since(ctx.started));
        line.request_id.clone_from(&ctx.request_id);
        if let Some(lease) = &ctx.lease {
            line.taken(lease);
            if lease.upstream().config().kind == Kind::SocketIo {
                let (path, query) = head::split_query(target);
                line.engine_io(path, query);
            }
        }
        line.queued = ctx.queued;
        line.closed_by = match (ctx.refusal, error) {
            (Some(refusal), _) => refusal.word(),
            (None, None) if ctx.told.is_some() => ctx.told.map_or("", Why::word),
            (None, Some(error)) if *error.esource() == ErrorSource::Upstream => "server",
            (None, Some(_)) => "client",
            (None, None) => "",
        };
        self.core.access_log.write(line.finish());
    }
}

/// Lets the connection know that this is a poll, so that it can be ended politely when its session has to go. A stream of
/// HTTP/2 can't be taken from the engine: its poll goes on to its end, and the session is told at the next one.
fn announce(session: &Session, ctx: &mut Exchange, pool: &Pool, lease: &Lease) {
    let poll = ctx.ask.as_ref().and_then(|ask| ask.polls(session.req_header().method.as_str()));
    let Some(poll) = poll else { return };
    let listener = ctx.info.as_ref().map(|info| Arc::clone(&info.listener)).unwrap_or_default();
    let origin = Origin { listener, route: ctx.route.as_ref().map(|route| Arc::clone(&route.name)) };
    let leave = pool.roster(lease.server().id()).add(origin, true);
    if session.is_http2() {
        ctx.leave = Some(leave);
    } else if let Some(info) = &ctx.info {
        info.pending.announce(Farewell {
            leave,
            body: goodbye(poll.revision, poll.jsonp),
            jsonp: poll.jsonp.is_some(),
            upstream: Arc::clone(lease.upstream().name()),
            server: Arc::clone(lease.server().name()),
            said: Box::new({
                let (table, key) = (pool.sessions().cloned(), poll.begun.as_ref().map(|(key, _)| *key));
                let metrics = pool.metrics.clone();
                move |why| {
                    metrics.goodbye(why);
                    if let (Some(table), Some(key)) = (table, key) {
                        table.forget(key);
                    }
                }
            }),
        });
    }
}

/// Notes that the turn of this poll's session has come while the poll could not be ended.
fn leave_next_time(ctx: &mut Exchange) {
    let told = ctx.leave.take().is_some_and(|leave| leave.is_told());
    let begun = ctx.ask.as_ref().and_then(|ask| ask.session.as_ref()?.begun.as_ref());
    if let (true, Some(pool), Some((key, _))) = (told, &ctx.pool, begun)
        && let Some(table) = pool.sessions()
    {
        table.mark(*key, Mark::Leaving);
    }
}

/// The goodbye to a session whose turn came during its last poll, in place of an answer to this one.
fn farewell(session: &Session, ctx: &mut Exchange) -> Result<Option<(ResponseHeader, Bytes)>> {
    if !session.is_http2() {
        return Ok(None);
    }
    let header = session.req_header();
    let (Some(pool), Some(poll)) = (&ctx.pool, ctx.ask.as_ref().and_then(|ask| ask.polls(header.method.as_str())))
    else {
        return Ok(None);
    };
    let (Some(table), Some((key, _))) = (pool.sessions(), &poll.begun) else { return Ok(None) };
    let Some(found) = table.find(*key).filter(|found| found.is(Mark::Leaving)) else { return Ok(None) };
    table.forget(*key);
    let server = pool.upstream.server(ServerId::from_bits(found.server));
    let drains = server.is_none_or(|server| server.is_draining());
    let why = if drains { Why::Drain } else { Why::Rebalance };
    pool.metrics.goodbye(why.word());
    let body = match goodbye(poll.revision, poll.jsonp) {
        Cow::Borrowed(body) => Bytes::from_static(body),
        Cow::Owned(body) => Bytes::from(body),
    };
    let mut answer = ResponseHeader::build(200, Some(5))?;
    let kind = if poll.jsonp.is_some() { "text/javascript" } else { "text/plain" };
    answer.insert_header("content-type", format!("{kind}; charset=UTF-8"))?;
    answer.insert_header("cache-control", "no-store")?;
    if let Some(origin) = header.headers.get("origin") {
        // As in `poll::say`.
        answer.insert_header("access-control-allow-origin", origin.clone())?;
        answer.insert_header("access-control-allow-credentials", "true")?;
        answer.insert_header("vary", "Origin")?;
    }
    ctx.told = Some(why);
    Ok(Some((answer, body)))
}

/// Forgets a session that its server does not know any more: it was restarted, or has given the session up.
fn forget(pool: &Pool, ask: Option<&Ask>) {
    let begun = ask.and_then(|ask| ask.session.as_ref()?.begun.as_ref());
    if let (Some(table), Some((key, _))) = (pool.sessions(), begun) {
        table.forget(*key);
    }
}

/// How much of an error answer is looked at.
const LONGEST_ERROR: usize = 256;

/// Writes a whole answer; the connection stays usable.
async fn answer(session: &mut Session, mut header: ResponseHeader, body: Bytes) -> Result<()> {
    header.insert_header("content-length", body.len())?;
    let bare = session.req_header().method == "HEAD" || body.is_empty();
    session.write_response_header(Box::new(header), bare).await?;
    if !bare {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Lets the client see that an answer is cut: where its end is the end of the connection, that has to be a reset.
fn cut(session: &Session) {
    let until_close = session.response_written().is_some_and(|response| {
        !response.headers.contains_key("content-length") && !response.headers.contains_key("transfer-encoding")
    });
    let stream = session.as_http1().filter(|_| until_close).map(|http1| http1.stream());
    if let Some(connection) = stream.and_then(|stream| Connection::beneath(&**stream)) {
        connection.reset_on_close();
    }
}

/// What an error of Pingora's means to the client; `None` when there is nobody left to tell.
fn refusal_of(error: &Error) -> Option<Refusal> {
    let timed_out = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    let cause = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    match (error.esource(), error.etype()) {
        // Said by the connection of a chunked body that is none.
        (ErrorSource::Downstream, _) if cause == Some(io::ErrorKind::InvalidData) => Some(Refusal::BadRequest),
        (_, ErrorType::HTTPStatus(413)) => Some(Refusal::BodyTooLarge),
        (ErrorSource::Upstream, _) if timed_out => Some(Refusal::AnswerTimeout),
        (ErrorSource::Upstream, _) => Some(Refusal::BadAnswer),
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Refusal::BodyTimeout),
        // H2Error: the stream has been reset.
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ConnectionClosed
            | ErrorType::H2Error,
        ) => None,
        (ErrorSource::Downstream, _) => Some(Refusal::BadRequest),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Refusal::BadAnswer),
    }
}

/// Path and query as sent.
fn target(header: &RequestHeader) -> &str {
    header.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// The host asked for, as sent.
fn authority(header: &RequestHeader) -> Option<&str> {
    let host = || header.headers.get("host")?.to_str().ok();
    header.uri.authority().map(|authority| authority.as_str()).or_else(host)
}

fn content_length(header: &RequestHeader) -> Option<u64> {
    header.headers.get("content-length")?.to_str().ok()?.parse().ok()
}

/// HTTP/2 clients send cookies in pieces (RFC 9113 8.2.3); HTTP/1.1 servers expect one field.
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let cookies = request.headers.get_all("cookie");
    if cookies.iter().nth(1).is_none() {
        return Ok(());
    }
    let pieces: Vec<&[u8]> = cookies.iter().map(|cookie| cookie.as_bytes()).collect();
    let joined = pieces.join(b"; ".as_slice());
    request.insert_header("Cookie", joined.as_slice())
}
