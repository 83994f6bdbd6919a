//! Where operators look, and what they ask for: liveness, readiness, metrics, status, drains and reloads over HTTP.

mod body;
mod collector;
mod drain;
mod endpoints;
mod guard;
mod places;
mod reload;
mod server;
mod status;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use futures::future::BoxFuture;

use body::Budget;
use collector::StateCollector;
use places::Places;

use crate::ending::Stopping;
use crate::exchange::Core;
use crate::listener::{AppProtocol, Application, Connection};
use crate::reload::Reloader;

/// What stands behind the admin address.
pub struct Admin {
    core: Arc<Core>,
    reloader: Arc<Reloader>,
    ready: Arc<AtomicBool>,
    started: Instant,
    places: Places,
    bodies: Budget,
}

impl Admin {
    /// Answers about this gateway, whose metrics have what its servers know of themselves from now on.
    ///
    /// # Errors
    /// The metrics of a gateway can be asked for by one only.
    pub fn new(reloader: Arc<Reloader>) -> Result<Self, prometheus::Error> {
        let core = Arc::clone(reloader.core());
        core.metrics.register(Box::new(StateCollector::new(&core)?))?;
        Ok(Self {
            core,
            reloader,
            ready: Arc::new(AtomicBool::new(true)),
            started: Instant::now(),
            places: Places::default(),
            bodies: Budget::default(),
        })
    }

    /// What `/readyz` says; to be cleared when the gateway begins to stop.
    pub fn ready(&self) -> &Arc<AtomicBool> {
        &self.ready
    }
}

impl Application for Admin {
    fn serve(self: Arc<Self>, connection: Connection, _: AppProtocol, stopping: Stopping) -> BoxFuture<'static, ()> {
        Box::pin(async move { server::serve(&self, connection, &stopping).await })
    }
}
