//! A gateway as the program sees it: built, governed, and run to its end.

mod adapters;
mod builder;
mod manager;
mod run;
mod sessions;
mod signals;
mod stop;
mod upgrade;

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use log::error;
use pingora::server::Server;
use tokio::sync::Notify;

pub use adapters::{PingoraDiscovery, PingoraHealthCheck};
pub use builder::{BuildError, Builder};
pub(crate) use signals::Signals;

use crate::access_log::Writer;
use crate::admin::Admin;
use crate::config::Config;
#[cfg(feature = "kubernetes")]
use crate::controller;
use crate::listener::inherit::Sockets;
use crate::proxy::App;
use crate::reload::{Listeners, Plan, ReloadError, Reloader};

/// A gateway that is built and bound, and serves once it runs.
pub struct Gateway {
    reloader: Arc<Reloader>,
    listeners: Listeners,
    app: Arc<App>,
    admin: Admin,
    server: Server,
    log_writer: Writer,
    stop_asked: Arc<Notify>,
    sockets: Arc<Sockets>,
    predecessor: Option<UnixStream>,
    #[cfg(feature = "kubernetes")]
    controller: Option<controller::Terms>,
}

impl Gateway {
    /// Starts from a configuration.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// Where a listener is bound, by its name, with the port that the kernel chose. The admin address is `admin`, or
    /// `admin address` where a listener has that name.
    pub fn address(&self, listener: &str) -> Option<String> {
        self.reloader.address(listener)
    }

    /// A way to govern it once it runs.
    pub fn handle(&self) -> Handle {
        Handle { stop_asked: Arc::clone(&self.stop_asked), reloader: Arc::clone(&self.reloader) }
    }

    /// Serves until SIGTERM, SIGINT or [`Handle::stop`]; returns when everything has ended. Blocks the thread.
    pub fn run(self) {
        match Signals::catch() {
            Ok(signals) => self.run_with(signals),
            Err(error) => error!("signals can't be caught, nothing is served: {error}"),
        }
    }

    /// The same with signals that have been caught before the gateway was built.
    pub(crate) fn run_with(self, signals: Signals) {
        run::run(self, signals);
    }
}

/// Governs a running gateway from within the program, as signals do from without.
#[derive(Clone)]
pub struct Handle {
    stop_asked: Arc<Notify>,
    reloader: Arc<Reloader>,
}

impl Handle {
    /// Begins to drain; [`Gateway::run`] returns when that has ended.
    pub fn stop(&self) {
        self.stop_asked.notify_one();
    }

    /// Puts another configuration in the place of the one in force; says what was different.
    ///
    /// # Errors
    /// The first of what it names that can't be used; then nothing has changed.
    pub async fn replace(&self, config: Config) -> Result<Plan, ReloadError> {
        self.reloader.replace(config).await
    }
}
