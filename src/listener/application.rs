//! What stands behind a listener.

use async_trait::async_trait;

use super::{AppProtocol, Connection};
use crate::ending::Stopping;

/// Serves the connections that a listener has accepted.
#[async_trait]
pub trait Application: Send + Sync + 'static {
    /// Serves a connection, of which the listener knows what it speaks, to its end. Once `stopping` is true it takes no
    /// further request.
    async fn serve(&self, connection: Connection, protocol: AppProtocol, stopping: &Stopping);
}
