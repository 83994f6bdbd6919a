//! The signals that a gateway obeys once it runs, caught from the first moment on: uncaught ones would end the process.

use std::io;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that have come, and will.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Those that end this process.
    pub(super) end: EndSignals,
    /// SIGHUP.
    pub(super) reload: Signal,
    /// SIGUSR1.
    pub(super) reopen: Signal,
}

/// Signals that ask for an end of this process.
#[derive(Debug)]
pub(super) struct EndSignals {
    /// SIGTERM.
    pub(super) terminate: Signal,
    /// SIGINT.
    pub(super) interrupt: Signal,
    /// SIGUSR2: another one is to take its place.
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
            end: EndSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                upgrade: signal(SignalKind::user_defined2())?,
            },
            reload: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }
}
