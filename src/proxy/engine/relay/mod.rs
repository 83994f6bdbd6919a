//! The gateway's own HTTP engine: it carries, and asks the [`Exchange`](crate::Exchange) for everything else.
//!
//! Bytes are read into a buffer of the thread ([`buffer`]), and only what has to wait is kept. Heads are parsed where
//! they lie ([`request`], [`response`](crate::http::response)), bodies pass in place
//! ([`passing`](crate::http::passing)), and both ways of an exchange go on at once ([`carry`]). Connections to servers
//! wait for each other's requests ([`kept`]); those of HTTP/2 are shared ([`shared`]). Streams of HTTP/2 come by [`http2`].

mod buffer;
mod carry;
mod client;
mod http2;
mod kept;
mod reading;
mod request;
mod serve;
mod server;
mod shared;
mod told;
mod translated;

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::Http1Engine;
use crate::ending::Stopping;
use crate::exchange::Core;
use crate::listener::Connection;
use kept::Kept;
use shared::Shared;

pub(crate) use http2::Http2;

/// The engine.
pub(crate) struct Relay {
    core: Arc<Core>,
    kept: Kept,
    shared: Shared,
}

impl Relay {
    /// An engine that keeps this many idle connections to servers for each thread at most.
    pub(crate) fn new(core: Arc<Core>, most_kept: usize) -> Self {
        Self { core, kept: Kept::new(most_kept), shared: Shared::default() }
    }

    /// Lets go of the connections to servers.
    fn let_go(&self) {
        self.kept.clear();
        self.shared.clear();
    }
}

#[async_trait]
impl Http1Engine for Relay {
    fn serve_http1(self: Arc<Self>, connection: Connection, stopping: Stopping) -> BoxFuture<'static, ()> {
        Box::pin(serve::serve(self, connection, stopping))
    }

    async fn stop(&self) {
        self.let_go();
    }
}
