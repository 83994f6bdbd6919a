//! Where operators look, and what they ask for: liveness, readiness, metrics, the API and the dashboard, over HTTP.

mod body;
mod collector;
mod config;
mod dashboard;
mod drain;
mod endpoints;
mod explain;
mod feed;
mod guard;
mod log;
mod openapi;
mod places;
mod rates;
mod readiness;
mod reload;
mod server;
mod servers;
mod sessions;
mod shape;
mod state;
mod status;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::sync::watch;

use body::Budget;
use collector::StateCollector;
use feed::Feed;
use places::Places;
use rates::Rates;

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
    rates: Rates,
    feed: Feed,
}

impl Admin {
    /// Answers about this gateway, whose metrics have what its servers know of themselves from now on.
    ///
    /// # Errors
    /// The metrics of a gateway can be asked for by one only.
    pub fn new(reloader: Arc<Reloader>) -> Result<Self, prometheus::Error> {
        let core = Arc::clone(reloader.core());
        let ready = Arc::new(AtomicBool::new(true));
        core.metrics.register(Box::new(StateCollector::new(
            &core,
            Arc::clone(&ready),
            Arc::clone(reloader.limits()),
        )?))?;
        Ok(Self {
            core,
            reloader,
            ready,
            started: Instant::now(),
            places: Places::default(),
            bodies: Budget::default(),
            rates: Rates::default(),
            feed: watch::channel(Arc::from("")).0,
        })
    }

    /// Looks at what is counted, for rates and for those who watch; never ends.
    pub async fn look(self: Arc<Self>) {
        feed::run(self).await;
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
