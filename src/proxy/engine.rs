//! What carries ordinary HTTP exchanges. Today that is Pingora; everything that decides lives outside of it, in
//! [`Exchange`](super::Exchange).

use async_trait::async_trait;
use bytes::BytesMut;

use crate::drain::Stopping;
use crate::listener::Connection;

/// Carries HTTP between a client's connection and servers.
#[async_trait]
pub trait HttpEngine: Send + Sync {
    /// Serves the request whose head has been read and checked. The connection comes back when it can be used again.
    async fn serve_http1(
        &self,
        connection: Box<Connection>,
        head: BytesMut,
        stopping: &Stopping,
    ) -> Option<Box<Connection>>;

    /// Serves an HTTP/2 connection to its end.
    async fn serve_http2(&self, connection: Box<Connection>, stopping: &Stopping);

    /// The gateway stops: idle connections are let go, and none is kept after its present request.
    async fn stop(&self);
}
