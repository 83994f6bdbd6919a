//! The HTTP engine of today: Pingora's proxy, whose hooks ask an [`Exchange`](super::Exchange) what to do.

mod balancer;
mod peer;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{HttpProxy, ProxyHttp};

pub use balancer::Balancer;

use super::engine::HttpEngine;
use super::{Core, poll};
use crate::drain::Stopping;
use crate::listener::{Connection, Lent};

/// Pingora's HTTP proxy with a [`ProxyHttp`] of the gateway's ([`Balancer`]) or of a program's own.
pub struct PingoraEngine<P> {
    proxy: Arc<HttpProxy<P>>,
    core: Arc<Core>,
}

impl<P> PingoraEngine<P> {
    /// Wraps a proxy whose modules have been initialised.
    pub fn new(proxy: HttpProxy<P>, core: Arc<Core>) -> Self {
        Self { proxy: Arc::new(proxy), core }
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
        self.proxy.process_new(connection, stopping).await;
    }

    async fn stop(&self) {
        self.proxy.http_cleanup().await;
    }
}
