//! An upstream at work: what goes on beside requests for as long as it is in force.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::servers::{Follower, own};
use super::sessions::shedding;
use super::{Checks, Upstream};

/// An upstream at work; dropping it ends its checks, its discovery and its drains that nobody has asked for by hand.
#[must_use = "it ends when this is dropped"]
pub struct Running {
    _checks: Checks,
    _follower: Option<Follower>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Upstream {
    /// Goes to work: checks the servers ([`Self::start_checks`]), and follows what the configuration and discovery say of
    /// them: those that are to be left are told goodbye, those that come back no longer, and a removed one is forgotten
    /// when nothing is left of it. Sheds sessions where that is configured. Needs a tokio runtime around it.
    pub fn start(self: &Arc<Self>) -> Running {
        let checks = self.start_checks();
        let follower = self.follow_discovery();
        let mut tasks = vec![tokio::spawn(own(Arc::clone(self)))];
        if let (Some(said), Some(_)) = (self.config().sessions.rebalance.clone(), self.sessions()) {
            tasks.push(tokio::spawn(shedding::run(Arc::clone(self), said)));
        }
        Running { _checks: checks, _follower: follower, tasks }
    }
}
