//! What happens on a client's connection: HTTP requests to the engine, upgrades and raw bytes to tunnels.

mod answer;
mod asked;
mod connect;
mod engine;
mod exchange;
mod http1;
mod learn;
mod line;
mod pingora;
mod place;
mod poll;
mod raw;
mod tunnel;
mod websocket;

use std::sync::Arc;

use ::pingora::apps::ServerApp;
use ::pingora::protocols::Stream;
use ::pingora::server::ShutdownWatch;
use arc_swap::ArcSwap;
use async_trait::async_trait;

pub use self::pingora::{Balancer, PingoraEngine};
pub use engine::{Engine, HttpEngine, NoSuchEngine};
pub use exchange::Exchange;

use crate::access_log::AccessLog;
use crate::drain::Ending;
use crate::listener::{Connection, Protocol};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// What everybody who serves a connection shares.
pub struct Core {
    /// The snapshot in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where lines go.
    pub access_log: AccessLog,
    /// How far the gateway's end has come.
    pub ending: Ending,
}

/// The application behind every listener.
pub struct App {
    core: Arc<Core>,
    engine: Arc<dyn HttpEngine>,
}

impl App {
    /// Serves connections with this engine for HTTP.
    pub fn new(core: Arc<Core>, engine: Arc<dyn HttpEngine>) -> Self {
        Self { core, engine }
    }
}

#[async_trait]
impl ServerApp for App {
    async fn process_new(self: &Arc<Self>, session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        // Listeners hand out nothing else; a stranger's stream could not say what it speaks.
        let connection = session.into_any().downcast::<Connection>().ok()?;
        match connection.protocol() {
            Protocol::Raw => raw::serve(&self.core, *connection),
            Protocol::Http1 => http1::serve(&self.core, self.engine.as_ref(), connection, shutdown).await,
            Protocol::Http2 => self.engine.serve_http2(connection, shutdown).await,
        }
        None
    }

    async fn cleanup(&self) {
        self.engine.stop().await;
    }
}
