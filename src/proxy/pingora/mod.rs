//! The HTTP engine of today: Pingora's proxy, whose hooks ask an [`Exchange`](super::Exchange) what to do.

mod balancer;
mod peer;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::FutureExt;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::ShutdownWatch;

pub use balancer::Balancer;

use super::engine::HttpEngine;
use super::{Core, poll};
use crate::drain::Stopping;
use crate::listener::{Connection, Lent};

/// Pingora's HTTP proxy with a [`ProxyHttp`] of the gateway's ([`Balancer`]) or of a program's own.
pub struct PingoraEngine<P> {
    proxy: Arc<HttpProxy<P>>,
    streams: Arc<Streams<P>>,
    core: Arc<Core>,
}

impl<P> PingoraEngine<P> {
    /// Wraps a proxy whose modules have been initialised.
    pub fn new(proxy: HttpProxy<P>, core: Arc<Core>) -> Self {
        let proxy = Arc::new(proxy);
        let streams = Arc::new(Streams { proxy: Arc::clone(&proxy), core: Arc::clone(&core) });
        Self { proxy, streams, core }
    }
}

/// What serves HTTP/2: Pingora runs each stream in a task of its own, whose panics nobody else would see.
struct Streams<P> {
    proxy: Arc<HttpProxy<P>>,
    core: Arc<Core>,
}

#[async_trait]
impl<P> HttpServerApp for Streams<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // A stream is never used again.
        let serving = self.proxy.process_new_http(session, shutdown).map(drop);
        self.core.metrics.contain(serving).await;
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }
}

impl<P> PingoraEngine<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    /// Serves one exchange; gives the stream back, as the type that it was, when it can be used again.
    async fn serve(&self, stream: Stream, head: BytesMut, stopping: &Stopping) -> Option<Stream> {
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(head);
        let (stream, _settings) = self.proxy.process_new_http(session, stopping).await?.consume();
        Some(stream)
    }
}

#[async_trait]
impl<P> HttpEngine for PingoraEngine<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn serve_http1(
        &self,
        connection: Box<Connection>,
        head: BytesMut,
        stopping: &Stopping,
    ) -> Option<Box<Connection>> {
        if poll::may_be_one(&head) {
            let engine = async |lent, head| {
                let stream = self.serve(Box::new(lent), head, stopping).await?;
                stream.into_any().downcast::<Lent>().ok().map(|lent| *lent)
            };
            return poll::serve(&self.core, engine, connection, head).await;
        }
        self.serve(connection, head, stopping).await?.into_any().downcast().ok()
    }

    async fn serve_http2(&self, connection: Box<Connection>, stopping: &Stopping) {
        self.streams.process_new(connection, stopping).await;
    }

    async fn stop(&self) {
        self.proxy.http_cleanup().await;
    }
}
