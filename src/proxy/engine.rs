//! What carries ordinary HTTP exchanges. Today that is Pingora; everything that decides lives outside of it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::ShutdownWatch;

use crate::listener::Connection;

/// Carries HTTP between a client's connection and servers.
#[async_trait]
pub trait HttpEngine: Send + Sync {
    /// Serves the request whose head has been read and checked. The stream comes back, as the type that it was, when it
    /// can be used again, which it can't once `shutdown` is true.
    async fn serve_http1(&self, stream: Stream, head: BytesMut, shutdown: &ShutdownWatch) -> Option<Stream>;

    /// Serves an HTTP/2 connection to its end; once `shutdown` is true the client is told to open no more streams.
    async fn serve_http2(&self, connection: Box<Connection>, shutdown: &ShutdownWatch);

    /// The gateway has told everybody goodbye: idle connections are let go, and none is kept after its present request.
    async fn stop(&self);
}

/// Pingora's HTTP proxy with a [`ProxyHttp`] of the gateway's ([`super::Balancer`]) or of a program's own.
pub struct PingoraEngine<P>(Arc<HttpProxy<P>>);

impl<P> PingoraEngine<P> {
    /// Wraps a proxy whose modules have been initialised.
    pub fn new(proxy: HttpProxy<P>) -> Self {
        Self(Arc::new(proxy))
    }
}

#[async_trait]
impl<P> HttpEngine for PingoraEngine<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn serve_http1(&self, stream: Stream, head: BytesMut, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(head);
        let (stream, _settings) = self.0.process_new_http(session, shutdown).await?.consume();
        Some(stream)
    }

    async fn serve_http2(&self, connection: Box<Connection>, shutdown: &ShutdownWatch) {
        self.0.process_new(connection, shutdown).await;
    }

    async fn stop(&self) {
        self.0.http_cleanup().await;
    }
}
