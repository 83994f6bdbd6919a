//! What stands behind a listener.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{AppProtocol, Connection};
use crate::ending::Stopping;

/// Serves the connections that a listener has accepted.
///
/// What it answers with is kept for as long as the connection is, which is long: one piece of memory, and nothing in it
/// twice.
pub trait Application: Send + Sync + 'static {
    /// Serves a connection, of which the listener knows what it speaks, to its end. Once `stopping` is true it takes no
    /// further request.
    fn serve(
        self: Arc<Self>,
        connection: Connection,
        protocol: AppProtocol,
        stopping: Stopping,
    ) -> BoxFuture<'static, ()>;
}
