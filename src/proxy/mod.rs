//! What happens on a client's connection: HTTP requests to the engine, upgrades and raw bytes to tunnels.

mod connect;
mod engine;
mod http1;
mod raw;
mod tunnel;
mod upgrade;

use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use self::engine::pingora::PingoraEngine;
pub use self::engine::pingora::{Balancer, Context};
pub use engine::{Engine, HttpEngine};

use crate::drain::Stopping;
use crate::exchange::Core;
use crate::listener::{AppProtocol, Application, Connection};

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
