//! What happens on a client's connection: HTTP requests to the engine, upgrades and raw bytes to tunnels.

mod answer;
mod asked;
mod connect;
mod engine;
mod exchange;
mod http1;
mod learn;
mod line;
mod pending;
mod place;
mod raw;
mod tunnel;
mod websocket;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

pub(crate) use self::engine::pingora::Stream;
pub use self::engine::pingora::{Balancer, PingoraEngine};
pub use engine::{Engine, HttpEngine, NoSuchEngine};
pub use exchange::Exchange;

use crate::access_log::AccessLog;
use crate::drain::{Ending, Stopping};
use crate::listener::{AppProtocol, Application, Connection};
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

/// The application behind every listener for traffic.
pub struct App {
    core: Arc<Core>,
    engine: Arc<dyn HttpEngine>,
}

impl App {
    /// Serves connections with this engine for HTTP.
    pub fn new(core: Arc<Core>, engine: Arc<dyn HttpEngine>) -> Self {
        Self { core, engine }
    }

    /// The gateway has told everybody goodbye: idle connections are let go.
    pub async fn stop(&self) {
        self.engine.stop().await;
    }
}

#[async_trait]
impl Application for App {
    async fn serve(&self, connection: Connection, protocol: AppProtocol, stopping: &Stopping) {
        match protocol {
            AppProtocol::Raw(upstream) => raw::serve(&self.core, connection, upstream.as_deref()),
            AppProtocol::Http1 => self.engine.serve_http1(connection, stopping).await,
            AppProtocol::Http2 => self.engine.serve_http2(connection, stopping).await,
        }
    }
}
