//! The signals that a gateway obeys once it runs, caught from the first moment on: uncaught ones would end the process.

use std::io;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that have come, and will. SIGTERM and SIGINT are no part of it: before anything is served they may end the
/// process as they are.
#[derive(Debug)]
pub(crate) struct Signals {
    /// SIGHUP.
    pub(super) reload: Signal,
    /// SIGUSR1.
    pub(super) reopen: Signal,
    /// SIGUSR2.
    pub(super) upgrade: Signal,
}

impl Signals {
    /// Catches them; those that come before the gateway runs are obeyed then.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch() -> io::Result<Self> {
        // Whatever runtime comes later reads what was caught, since a process has one pipe for it; this one is only there
        // because tokio asks for one.
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let _inside = runtime.enter();
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}
