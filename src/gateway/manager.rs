//! What the service manager is told, if there is one that listens (sd_notify(3)).

use log::debug;
use sd_notify::NotifyState;

/// Every listener accepts.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A new process is being started.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// The new process is the service from now on.
pub(super) fn handed_over(process: u32) {
    tell(&[NotifyState::MainPid(process), NotifyState::Ready]);
}

/// Without `NOTIFY_SOCKET` nobody wants to know.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("the service manager can't be told: {error}");
    }
}
