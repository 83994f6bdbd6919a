//! The HTTP engine of today: Pingora's proxy, whose hooks ask an [`Exchange`](crate::exchange::Exchange) what to do.

mod balancer;
mod context;
mod loan;
mod mailbox;
mod peer;
mod poll;
mod session;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::FutureExt;
use futures::future::BoxFuture;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream as Io;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::ShutdownWatch;

pub use balancer::Balancer;
pub use context::Context;

use loan::Lent;
use stream::Stream;

use super::{FRAMES_BUDGET, Http1Engine, Http2Engine};
use crate::ending::Stopping;
use crate::exchange::{Core, Exchange};
use crate::http::framing::Body;
use crate::listener::Connection;
use crate::proxy::http1::{self, Carrier};

/// Pingora's HTTP proxy with a [`ProxyHttp`] of the gateway's ([`Balancer`]) or of a program's own.
pub(crate) struct PingoraEngine<P> {
    proxy: Arc<HttpProxy<P>>,
    streams: Arc<Streams<P>>,
    core: Arc<Core>,
    /// Whether the hooks are a program's own, which are asked about upgrades, too.
    own_hooks: bool,
}

impl<P> PingoraEngine<P> {
    /// Wraps a proxy whose modules have been initialised; `own_hooks`: they are a program's, not the gateway's.
    pub(crate) fn new(proxy: HttpProxy<P>, core: Arc<Core>, own_hooks: bool) -> Self {
        let proxy = Arc::new(proxy);
        let streams = Arc::new(Streams { proxy: Arc::clone(&proxy), core: Arc::clone(&core) });
        Self { proxy, streams, core, own_hooks }
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
        self.proxy.h2_options().or_else(|| {
            let mut options = default_h2_options();
            options.data_frame_budget(FRAMES_BUDGET);
            Some(options)
        })
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }
}

/// A connection that this engine serves.
struct Serving<'a, P> {
    engine: &'a PingoraEngine<P>,
    stream: Box<Stream>,
}

impl<P> PingoraEngine<P> {
    fn stream(&self, connection: Connection, http2: bool) -> Box<Stream> {
        let write = self.core.snapshot.load().config.timeouts.write;
        Box::new(Stream::new(connection, http2, write))
    }
}

impl<P> Serving<'_, P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    /// Serves one exchange; gives the stream back, as the type that it was, when it can be used again.
    async fn exchange(proxy: &Arc<HttpProxy<P>>, stream: Io, head: BytesMut, stopping: &Stopping) -> Option<Io> {
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(head);
        let (stream, _settings) = proxy.process_new_http(session, stopping).await?.consume();
        Some(stream)
    }
}

impl<P> Carrier for Serving<'_, P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    fn connection(&mut self) -> &mut Connection {
        self.stream.between_requests()
    }

    fn is_of_session(&self) -> bool {
        self.stream.mailbox.is_of_session()
    }

    async fn carry(self, head: BytesMut, body: Body, stopping: &Stopping) -> Option<Self> {
        let Self { engine, mut stream } = self;
        stream.expect(body);
        let stream = if engine.core.snapshot.load().may_be_poll(&head) {
            let serving = async |lent, head| {
                let stream = Self::exchange(&engine.proxy, Box::new(lent), head, stopping).await?;
                stream.into_any().downcast::<Lent>().ok().map(|lent| *lent)
            };
            poll::serve(&engine.core, serving, stream, head).await?
        } else {
            Self::exchange(&engine.proxy, stream, head, stopping).await?.into_any().downcast().ok()?
        };
        Some(Self { engine, stream })
    }

    async fn leave_upgrade(self, head: &BytesMut, stopping: &Stopping) -> Option<(Connection, Option<Box<Exchange>>)> {
        let Self { engine, mut stream } = self;
        if !engine.own_hooks {
            return Some((stream.connection, None));
        }
        // The hooks run as for any other request until a server would be asked. Where they have let it pass the stream
        // comes back unused, and with it what was decided.
        stream.expect(Body::None);
        stream.mailbox.set_upgrade();
        let mailbox = Arc::clone(&stream.mailbox);
        let (lent, back) = stream.lend();
        let answered = Self::exchange(&engine.proxy, Box::new(lent), head.clone(), stopping).await;
        if let Some(stream) = answered.and_then(|stream| stream.into_any().downcast::<Lent>().ok()?.into_inner()) {
            stream.connection.close().await;
            return None;
        }
        let stream = back.take().filter(|_| mailbox.has_passed())?;
        Some((stream.connection, mailbox.take()))
    }

    fn into_connection(self) -> Connection {
        self.stream.connection
    }
}

#[async_trait]
impl<P> Http1Engine for PingoraEngine<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    fn serve_http1(self: Arc<Self>, connection: Connection, stopping: Stopping) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let serving = Serving { engine: &*self, stream: self.stream(connection, false) };
            http1::serve(&self.core, serving, &stopping).await;
        })
    }

    async fn stop(&self) {
        self.proxy.http_cleanup().await;
    }
}

#[async_trait]
impl<P> Http2Engine for PingoraEngine<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    fn serve_http2(self: Arc<Self>, connection: Connection, stopping: Stopping) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.streams.process_new(self.stream(connection, true), &stopping).await;
        })
    }

    async fn stop(&self) {
        self.proxy.http_cleanup().await;
    }
}
