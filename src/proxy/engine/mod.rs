//! What carries HTTP exchanges. Everything that decides lives outside of it, in [`Exchange`](crate::Exchange); what an
//! engine keeps of connections and upstreams lives inside of it.

pub(super) mod pingora;
pub(super) mod relay;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::ending::Stopping;
use crate::listener::Connection;

/// How long a server may be silent to a client that has finished sending, and so may have left: which of the two it is
/// nobody can tell before something is sent to it.
const HALF_CLOSED: Duration = Duration::from_secs(5);
/// What small parts of bodies of HTTP/2 may cost until their streams have taken them, at some 256 bytes for each. Clients of
/// gRPC send every message by itself.
const FRAMES_BUDGET: usize = 640 * 1024;
/// How often a body that comes slowly is looked at, since somebody may want its place on the server.
const LOOK: Duration = Duration::from_secs(1);

/// Carries HTTP/1 exchanges between clients' connections and servers.
#[async_trait]
pub trait Http1Engine: Send + Sync {
    /// Serves a connection to its end, or until it becomes a tunnel. Once `stopping` is true it is not used for another
    /// request.
    fn serve_http1(self: Arc<Self>, connection: Connection, stopping: Stopping) -> BoxFuture<'static, ()>;

    /// The gateway has told everybody goodbye: idle connections are let go, and none is kept after its present request.
    async fn stop(&self);
}

/// Carries HTTP/2 streams between clients' connections and servers.
#[async_trait]
pub trait Http2Engine: Send + Sync {
    /// Serves a connection to its end; once `stopping` is true the client is told to open no more streams.
    fn serve_http2(self: Arc<Self>, connection: Connection, stopping: Stopping) -> BoxFuture<'static, ()>;

    /// The gateway has told everybody goodbye: see [`Http1Engine::stop`].
    async fn stop(&self);
}

/// What carries the one and the other, which may be the same.
#[derive(Clone)]
pub struct Engines {
    pub(crate) http1: Arc<dyn Http1Engine>,
    pub(crate) http2: Arc<dyn Http2Engine>,
}
