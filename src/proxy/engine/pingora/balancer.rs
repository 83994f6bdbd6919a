//! The gateway's decisions as the hooks of Pingora's HTTP proxy.

use std::sync::Arc;
use std::time::Duration;

use ::http::Version;
use ::http::header::{ACCEPT_ENCODING, TRANSFER_ENCODING};
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::{peer, session as of};
use crate::http::Refusal;
use crate::http::forwarding::Name;
use crate::http::hop_by_hop::Nominated;
use crate::http::onward::passes_back;
use crate::proxy::Core;
use crate::proxy::answer::Answer;
use crate::proxy::exchange::{Ended, Exchange};
use crate::request::Headers;

/// Routes, picks, forwards, limits and logs. A `ProxyHttp` of a program's own can hold one and pass on the hooks that
/// it does not change.
pub struct Balancer {
    core: Arc<Core>,
}

impl Balancer {
    /// The hooks over a gateway's snapshot.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Says so where an answer is the last on its connection.
    fn end_connection(&self, session: &mut Session, ctx: &Exchange) {
        if ctx.is_last(&self.core) {
            session.set_keepalive(None);
        }
    }

    /// Answers with a status and text, unless an answer has begun.
    async fn refuse(&self, session: &mut Session, ctx: &mut Exchange, refusal: Refusal) {
        ctx.refuse(&self.core, refusal);
        if session.response_written().is_some() {
            return;
        }
        self.end_connection(session, ctx);
        if let Err(error) = of::write(session, Answer::refusing(refusal)).await {
            log::debug!("a refusal could not be written: {error}");
        }
    }
}

#[async_trait]
impl ProxyHttp for Balancer {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(self.core.snapshot.load_full())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Exchange) -> Result<bool> {
        ctx.over(of::carried(session));
        of::set_timeouts(session, &ctx.snapshot.config.timeouts);
        let header = session.req_header();
        let asked = of::asked(header);
        if let Err(refusal) = ctx.route(&asked, of::content_length(header)) {
            self.refuse(session, ctx, refusal).await;
            return Ok(true);
        }
        match ctx.local_answer(&asked) {
            Some(answer) => {
                self.end_connection(session, ctx);
                return of::write(session, answer).await.map(|()| true);
            }
            None if session.is_http2() => {}
            None => return Ok(false),
        }
        match ctx.farewell(&asked) {
            Some(answer) => of::write(session, answer).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Exchange,
    ) -> Result<()> {
        let Some(bytes) = body else { return Ok(()) };
        let whole = of::content_length(session.req_header()) == Some(bytes.len() as u64);
        ctx.hear_request(bytes, whole).map_err(of::error)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Exchange) -> Result<Box<HttpPeer>> {
        // Streams of HTTP/2 share a connection: none of them can be taken from Pingora.
        let politely = !session.is_http2();
        ctx.place(session.req_header().method.as_str(), politely).await.map_err(of::error)?;
        match (&ctx.upstream, &ctx.lease) {
            (Some(upstream), Some(lease)) => {
                let first_byte = ctx.first_byte_timeout(session.req_header().method.as_str());
                peer::of(upstream, lease.server(), first_byte)
            }
            _ => Err(of::error(Refusal::NoServer)),
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(ctx.connect_failed(&error));
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Exchange,
    ) -> Result<()> {
        ctx.connected(reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        let asked = of::asked(session.req_header());
        let onward = ctx.onward(&asked);
        let dropped: Vec<_> = request.headers.keys().filter(|name| !onward.passes(name.as_str())).cloned().collect();
        for name in dropped {
            request.remove_header(&name);
        }
        let mut added = Ok(());
        onward.add(|name, value| {
            if added.is_ok() {
                added = match name {
                    Name::Known(name) => request.insert_header(name, value),
                    Name::Chosen(name) => request.insert_header(name.to_owned(), value),
                };
            }
        });
        added?;
        of::join_cookies(request)?;
        if ctx.reads_answer() {
            // A compressed handshake could not be read as it passes; it is too short to be worth it anyway.
            request.remove_header(&ACCEPT_ENCODING);
        }
        match ctx.host(&asked) {
            Some(host) => request.insert_header("Host", host),
            None => Ok(()),
        }
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        // The gateway speaks for itself, whatever its server speaks (RFC 9110 2.5).
        response.set_version(Version::HTTP_11);
        match ctx.answered(response.status.as_u16()) {
            Ok(Some(cookie)) => {
                response.append_header("Set-Cookie", cookie)?;
            }
            Ok(None) => {}
            Err(refusal) => return Error::e_explain(ErrorType::InvalidHTTPHeader, refusal.word()),
        }
        let nominated = Nominated::by(Headers::Map(&response.headers));
        let goes = |name: &str| !passes_back(name, &nominated);
        let dropped: Vec<_> = response.headers.keys().filter(|name| goes(name.as_str())).cloned().collect();
        for name in dropped {
            response.remove_header(&name);
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Exchange,
    ) -> Result<Option<Duration>> {
        ctx.hear_answer(session.req_header().method.as_str(), body.as_deref().unwrap_or_default(), end_of_stream);
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        self.end_connection(session, ctx);
        if session.req_header().version < Version::HTTP_11 && response.headers.contains_key(TRANSFER_ENCODING) {
            // HTTP/1.0 has no chunks (RFC 9112 7): the body ends with the connection.
            response.remove_header(&TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Exchange) -> FailToProxy {
        let refusal = ctx.refusal.or_else(|| of::refusal_of(error));
        match refusal {
            Some(refusal) => self.refuse(session, ctx, refusal).await,
            None => log::debug!("the client left: {error}"),
        }
        FailToProxy { error_code: refusal.map_or(0, Refusal::status), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Exchange) {
        let ended = Ended {
            protocol: if session.is_http2() { "HTTP/2" } else { "HTTP/1.1" },
            status: of::status(session),
            bytes_out: session.body_bytes_sent() as u64,
            cut_by: error.map(of::cut_by),
        };
        let whole = ctx.end(&self.core, ended, || of::asked(session.req_header()));
        if !whole {
            of::cut(session);
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
