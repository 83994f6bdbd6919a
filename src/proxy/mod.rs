//! What happens on a client's connection: HTTP requests to the engine, upgrades and raw bytes to tunnels.

mod connect;
mod engine;
mod http1;
mod raw;
mod tunnel;
mod upgrade;

use std::future::ready;
use std::sync::Arc;

use futures::future::BoxFuture;

pub(crate) use self::engine::pingora::PingoraEngine;
pub use self::engine::pingora::{Balancer, Context};
pub(crate) use self::engine::relay::{Http2, Relay};
pub use engine::Engines;

use crate::ending::Stopping;
use crate::exchange::Core;
use crate::listener::{AppProtocol, Application, Connection, serve_by};

/// The application behind every listener for traffic.
pub struct App {
    core: Arc<Core>,
    engines: Engines,
}

impl App {
    /// Serves connections with these engines for HTTP.
    pub fn new(core: Arc<Core>, engines: Engines) -> Self {
        Self { core, engines }
    }

    /// The gateway has told everybody goodbye: idle connections are let go.
    pub async fn stop(&self) {
        self.engines.http1.stop().await;
        self.engines.http2.stop().await;
    }
}

impl Application for App {
    fn serve(
        self: Arc<Self>,
        connection: Connection,
        protocol: AppProtocol,
        stopping: Stopping,
    ) -> BoxFuture<'static, ()> {
        match protocol {
            AppProtocol::Raw(upstream) => {
                raw::serve(&self.core, connection, upstream.as_deref());
                Box::pin(ready(()))
            }
            AppProtocol::Own => {
                let application = self.core.snapshot.load().applications.get(&*connection.info.listener).cloned();
                // A configuration without one is not loaded; this connection may be of one before.
                let Some(application) = application else { return Box::pin(ready(())) };
                Box::pin(serve_by(application, connection, stopping))
            }
            AppProtocol::Http1 => Arc::clone(&self.engines.http1).serve_http1(connection, stopping),
            AppProtocol::Http2 => Arc::clone(&self.engines.http2).serve_http2(connection, stopping),
        }
    }
}
