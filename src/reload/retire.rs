//! Lets go of what a new configuration has no place for, in the way that it says.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use log::info;

use super::plan::Gone;
use crate::config::{Orphans, Reload};
use crate::roster::{Pace, Roster};
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;

/// What earlier configurations had, and something of which may be open still.
#[derive(Default)]
pub(super) struct Retired {
    upstreams: Vec<Weak<Upstream>>,
}

impl Retired {
    /// The upstreams of which something is open.
    pub(super) fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.upstreams.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes over what `now` has no place for, and gives back the sockets among it. Needs the runtime around it that
    /// serves the traffic.
    pub(super) fn take(&mut self, before: &Snapshot, now: &Snapshot) -> Roster {
        self.upstreams.retain(|upstream| upstream.strong_count() > 0);
        let gone = Gone::between(&before.config, &now.config);
        let mut orphans = Vec::new();
        for (name, upstream) in &before.upstreams {
            if !now.upstreams.contains_key(name) {
                self.upstreams.push(Arc::downgrade(upstream));
            }
            for (_, roster) in upstream.rosters() {
                orphans.extend(roster.those(|origin| gone.has(name, origin)));
            }
        }
        Roster::of(orphans)
    }
}

/// Tells those who have lost their place what the configuration says.
pub(super) fn let_go(orphans: Roster, said: &Reload) {
    let count = orphans.len();
    if count == 0 {
        return;
    }
    match said.orphans {
        Orphans::Keep => info!("{count} sockets have lost their place, and are kept until they end"),
        Orphans::Close => info!("{} sockets have lost their place, and are closed", orphans.tell_all()),
        Orphans::Drain => {
            let pace = Pace { rate: said.rate, jitter: said.jitter, deadline: said.deadline };
            info!("{count} sockets have lost their place, and are told goodbye");
            tokio::spawn(async move {
                let told = AtomicUsize::new(0);
                orphans.empty(pace, || true, || true, &told).await;
                info!("{} sockets that had lost their place were told goodbye", told.into_inner());
            });
        }
    }
}
