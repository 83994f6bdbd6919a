//! The gateway's decisions as the hooks of Pingora's HTTP proxy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE, TE, TRANSFER_ENCODING};
use ::http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr, Result};

use super::context::Pace;
use super::{Context, peer, session as of};
use crate::exchange::{Core, Ended, Exchange};
use crate::http::Refusal;
use crate::http::framing::Malformed;
use crate::http::head::is_authority;
use crate::http::hop_by_hop::Nominated;
use crate::http::onward::passes_back;
use crate::request::Headers;

/// Routes, picks, forwards, limits and logs. A `ProxyHttp` of a program's own can hold one and pass on the hooks that
/// it does not change.
pub struct Balancer {
    core: Arc<Core>,
    peers: peer::Peers,
}

impl Balancer {
    /// The hooks over a gateway's snapshot.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, peers: peer::Peers::default() }
    }

    /// Writes what the gateway answers by itself, unless an answer has begun.
    async fn answer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        if of::status(session) != 0 {
            return Ok(());
        }
        let upgrade = of::mailbox(session).is_some_and(|mailbox| mailbox.is_upgrade());
        if upgrade || exchange.is_last(&self.core) {
            session.set_keepalive(None);
        }
        let request = of::request(session.req_header(), upgrade);
        match exchange.own_answer(&request) {
            Some(answer) => of::write(session, answer).await,
            None => Ok(()),
        }
    }
}

/// Whether an answer may be silent for ever: that its client has gone would never be noticed.
fn is_event_stream(response: &ResponseHeader) -> bool {
    let content_type = response.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with(b"text/event-stream"))
}

/// The exchange of a request whose `request_filter` has been here.
fn begun(ctx: &mut Context) -> Result<&mut Exchange> {
    let missing = || Error::explain(ErrorType::InternalError, "the gateway's request_filter was left out");
    ctx.exchange.as_deref_mut().ok_or_else(missing)
}

/// Whether a message says its length more than once, if only the same: Pingora takes the first, and passes all of them on.
fn has_two_lengths(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
}

#[async_trait]
impl ProxyHttp for Balancer {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let unknown = || Error::explain(ErrorType::InternalError, "not a connection of the gateway's");
        let mailbox = of::mailbox(session).ok_or_else(unknown)?;
        let header = session.req_header();
        let request = of::request(header, mailbox.is_upgrade());
        let mut exchange = Exchange::begin(&self.core, mailbox.info(), &request, of::content_length(header)).await;
        // Of HTTP/1 this has been looked at; of HTTP/2 Pingora does not.
        if exchange.refusal().is_none() && request.authority.is_some_and(|host| !is_authority(host.as_bytes())) {
            exchange.refuse(&self.core, Refusal::Malformed(Malformed::Host));
        }
        if exchange.refusal().is_none() && has_two_lengths(&header.headers) {
            exchange.refuse(&self.core, Refusal::Malformed(Malformed::Length));
        }
        mailbox.set_of_session(exchange.is_of_session());
        mailbox.set_poll(exchange.is_poll());
        let answers = exchange.answers_itself();
        of::set_timeouts(session, &exchange.snapshot().config.timeouts);
        let exchange = ctx.exchange.insert(exchange);
        if answers {
            self.answer(session, exchange).await?;
        }
        Ok(answers)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        let Some(bytes) = body else { return Ok(()) };
        let whole = of::content_length(session.req_header()) == Some(bytes.len() as u64);
        let answered = of::status(session) != 0;
        let pace = ctx.pace.get_or_insert_with(Pace::new);
        let Some(exchange) = &ctx.exchange else { return begun(ctx).map(drop) };
        let keeps_pace = pace.bring(bytes.len() as u64, exchange) || answered;
        let exchange = begun(ctx)?;
        exchange.hear_request(bytes, whole).map_err(of::error)?;
        if keeps_pace { Ok(()) } else { Err(of::error(exchange.body_is_late())) }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let mailbox = of::mailbox(session);
        if let Some(mailbox) = mailbox.as_ref().filter(|mailbox| mailbox.is_upgrade()) {
            // What the hooks have let pass is carried by a tunnel of the gateway's.
            if let Some(exchange) = ctx.exchange.take() {
                mailbox.leave(exchange);
            }
            mailbox.set_passed();
            return Error::e_explain(ErrorType::InternalError, "an upgrade is carried elsewhere");
        }
        let exchange = begun(ctx)?;
        exchange.place().await.map_err(of::error)?;
        ctx.placed = Some(Instant::now());
        let exchange = begun(ctx)?;
        // Streams of HTTP/2 share a connection: none of them can be taken from Pingora.
        if let (false, Some(leave), Some(mailbox)) = (session.is_http2(), exchange.leave(), &mailbox) {
            mailbox.announce(Arc::clone(leave));
            exchange.can_be_ended();
            ctx.mailbox = Some(Arc::clone(mailbox));
        }
        let exchange = begun(ctx)?;
        match exchange.lease() {
            Some(lease) => {
                let mut peer = peer::of(&self.peers, exchange.snapshot(), lease, exchange.first_byte_timeout())?;
                if let Some(header) = exchange.proxy_header() {
                    peer::tell(&mut peer, lease, header);
                }
                Ok(peer)
            }
            None => Err(of::error(Refusal::NoServer)),
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let retry = ctx.exchange.as_mut().is_some_and(|exchange| exchange.connect_failed(error.root_cause(), true));
        error.set_retry(retry);
        error
    }

    /// What may be repeated is, where nothing of an answer came: on the same server where it has closed a kept connection,
    /// else on another one.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        let idempotent = session.req_header().method.is_idempotent();
        let whole = !session.as_ref().retry_buffer_truncated();
        let answered = of::status(session) != 0;
        let theirs = of::ended_by_server(&error);
        let repeatable = idempotent && whole && !answered && theirs;
        let again = |exchange: &mut Box<Exchange>| reused || exchange.lost();
        error.set_retry(repeatable && ctx.exchange.as_mut().is_some_and(again));
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        let placed = ctx.placed.take();
        let exchange = begun(ctx)?;
        exchange.connected(reused);
        if let (false, Some(placed), Some(lease)) = (reused, placed, exchange.lease()) {
            lease.upstream().metrics.connect_seconds.observe(placed.elapsed().as_secs_f64());
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let asked = of::request(session.req_header(), false);
        let exchange = begun(ctx)?;
        let target = exchange.target(&asked);
        if target != asked.target {
            let mut uri = request.uri.clone().into_parts();
            let unfit = |_| of::error(Refusal::BadRequest);
            uri.path_and_query = Some(target.parse().map_err(unfit)?);
            request.set_uri(Uri::from_parts(uri).map_err(|_| of::error(Refusal::BadRequest))?);
        }
        let fields = exchange.to_server(&asked);
        let dropped: Vec<_> = request.headers.keys().filter(|name| !fields.pass(name.as_str())).cloned().collect();
        for name in dropped {
            request.remove_header(&name);
        }
        let mut added = Ok(());
        fields.add(|name, value| {
            if added.is_ok() {
                added = request.append_header(name.to_owned(), value).map(drop);
            }
        });
        added?;
        if exchange.speaks_http2() && asked.headers.lists("te", "trailers") {
            request.insert_header(TE, "trailers")?;
        }
        of::join_cookies(request)?;
        match (exchange.host(&asked), exchange.lease()) {
            (Some(host), _) => request.insert_header("Host", host),
            // HTTP/1.0 knows no hosts, and the server insists on one (RFC 9112 3.2).
            (None, Some(lease)) => request.insert_header("Host", lease.upstream().own_host(lease.server())),
            (None, None) => Ok(()),
        }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        // The gateway speaks for itself, whatever its server speaks (RFC 9110 2.5).
        response.set_version(Version::HTTP_11);
        if response.status.is_informational() && response.status != 101 {
            // The answer is still to come.
            return Ok(());
        }
        let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
        if has_two_lengths(&response.headers) || !response.headers.get(CONTENT_LENGTH).is_none_or(is_number) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "a Content-Length that is not one number");
        }
        if let Some(mailbox) = of::mailbox(session).filter(|_| is_event_stream(response)) {
            mailbox.set_poll(true);
        }
        let nominated = Nominated::by(Headers::Map(&response.headers));
        let goes = |name: &str| !passes_back(name, &nominated);
        let mut dropped: Vec<_> = response.headers.keys().filter(|name| goes(name.as_str())).cloned().collect();
        // From here on the poll goes to its end: what has been said can't be taken back.
        if let Some(mailbox) = &ctx.mailbox {
            mailbox.withdraw();
        }
        let exchange = begun(ctx)?;
        if let Err(refusal) = exchange.answered(response.status.as_u16(), Headers::Map(&response.headers)) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, refusal.as_str());
        }
        let edits = exchange.answer_edits();
        dropped.extend(response.headers.keys().filter(|name| !edits.keeps(name.as_str())).cloned());
        for name in dropped {
            response.remove_header(&name);
        }
        for (name, value) in edits.added() {
            response.append_header(name.clone(), value.clone())?;
        }
        if exchange.compresses() {
            // How long it is compressed nobody knows before.
            response.remove_header(&CONTENT_LENGTH);
            response.insert_header(TRANSFER_ENCODING, "chunked")?;
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        let exchange = begun(ctx)?;
        let part = body.as_deref().unwrap_or_default();
        exchange.hear_answer(part, end_of_stream);
        if exchange.compresses() {
            let packed = exchange.compress(part, end_of_stream).and_then(|packed| {
                let mut packed = packed.into_owned();
                // Nobody here knows whether more comes at once.
                packed.extend(exchange.let_out()?);
                Ok(packed)
            });
            let packed = packed.or_err(ErrorType::InternalError, "an answer could not be compressed")?;
            *body = (!packed.is_empty()).then(|| packed.into());
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if ctx.exchange.as_ref().is_some_and(|exchange| exchange.is_last(&self.core)) {
            session.set_keepalive(None);
        }
        if session.req_header().version < Version::HTTP_11 && response.headers.contains_key(TRANSFER_ENCODING) {
            // HTTP/1.0 has no chunks (RFC 9112 7): the body ends with the connection.
            response.remove_header(&TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        if response.status == StatusCode::NO_CONTENT {
            // There is nothing that it could be the length of (RFC 9110 8.6).
            response.remove_header(&CONTENT_LENGTH);
            response.remove_header(&TRANSFER_ENCODING);
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let Some(exchange) = ctx.exchange.as_deref_mut() else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let refusal = exchange.refusal().or_else(|| of::refusal_of(error));
        match refusal {
            Some(refusal) => {
                exchange.refuse(&self.core, refusal);
                if let Err(error) = self.answer(session, exchange).await {
                    log::debug!("a refusal could not be written: {error}");
                }
            }
            None => log::debug!("the client left: {error}"),
        }
        FailToProxy { error_code: refusal.map_or(0, Refusal::status), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let mailbox = of::mailbox(session);
        if let Some(mailbox) = &mailbox {
            mailbox.withdraw();
        }
        ctx.mailbox = None;
        let upgrade = mailbox.as_ref().is_some_and(|mailbox| mailbox.is_upgrade());
        let ended = Ended {
            protocol: if session.is_http2() { "HTTP/2" } else { "HTTP/1.1" },
            status: of::status(session),
            bytes_out: session.body_bytes_sent() as u64,
            cut_by: error.map(of::cut_by),
        };
        let Some(exchange) = ctx.exchange.as_deref_mut() else {
            // Hooks of a program's own have answered before the gateway heard of the request.
            if let Some(mailbox) = mailbox.filter(|mailbox| !mailbox.has_passed()) {
                Exchange::untold(&self.core, mailbox.info(), ended, &of::request(session.req_header(), upgrade));
            }
            return;
        };
        let whole = exchange.end(&self.core, ended, || of::request(session.req_header(), upgrade));
        if !whole {
            of::cut(session);
        } else if exchange.refusal() != Some(Refusal::BodyTimeout) && !upgrade {
            // An answer may come before the end of the request: what is still on its way is read away, since a reset
            // in reply to it would overtake the answer (RFC 9112 9.6).
            let _ = session.drain_request_body().await;
        }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        // The access log has a line for it; a client that leaves is no error of the gateway's.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
