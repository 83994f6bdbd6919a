//! The live set of servers: whose list it is made of, and the one task that changes it.
//!
//! At first that is the list of the configuration. A [`Discovery`] brings others, one after the other: each is laid down,
//! and the owner of the set takes the latest up. So nobody waits for a set to be built, lists that come faster than that
//! are not built at all, and a reload that comes between loses none.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::members::{LeftOut, Members};
use crate::upstream::config::ServerConfig;
use crate::upstream::{Upstream, discovery};

/// A list of servers.
pub(crate) type List = Arc<[ServerConfig]>;

/// What was found beside the configuration's list; outlives reloads.
#[derive(Default)]
pub(crate) struct Found {
    latest: Latest,
    /// Follows the discovery, from the first start on.
    following: OnceLock<Following>,
    /// Whom the log has been told of.
    told: Mutex<HashSet<LeftOut>>,
}

/// The latest list that was laid down, if any was.
#[derive(Clone, Default)]
pub(crate) struct Latest(watch::Sender<Option<List>>);

/// A task that ends when this is dropped.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How often it is looked who has gone.
const LOOK: Duration = Duration::from_secs(1);

impl Latest {
    fn get(&self) -> Option<List> {
        self.0.borrow().clone()
    }

    pub(crate) fn set(&self, list: &[ServerConfig]) {
        self.0.send_if_modified(|latest| {
            let news = latest.as_deref() != Some(list);
            if news {
                *latest = Some(list.into());
            }
            news
        });
    }
}

impl Found {
    /// The latest list, if any was found.
    pub(crate) fn latest(&self) -> Option<List> {
        self.latest.get()
    }

    /// Who of these has not been told of; from now on they have been, and nobody else.
    fn news<'a>(&self, left_out: &'a [LeftOut]) -> Vec<&'a LeftOut> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = left_out.iter().filter(|one| !told.contains(*one)).collect();
        *told = left_out.iter().cloned().collect();
        news
    }
}

impl Upstream {
    /// Whether discovery has found its servers, which a reload keeps then.
    pub(crate) fn is_found(&self) -> bool {
        self.found.latest().is_some()
    }

    /// Tells the log of those that are left out, where that is news.
    pub(crate) fn tell_left_out(&self) {
        for LeftOut { name, fault } in self.found.news(&self.members.load().left_out) {
            log::warn!("upstream {}: server {name} is left out: {fault}", self.name);
        }
    }

    /// Takes up the latest list, where the set is made of another one. Who stays keeps state and counters, and who comes back
    /// does too; who goes keeps its sessions until they end or its drain is over ([`Self::removed`]).
    pub(crate) fn take_up_found(&self) {
        let Some(latest) = self.found.latest() else { return };
        if self.members.load().is_made_of(&latest) {
            return;
        }
        let members = Members::build_of_found(&latest, &self.all_servers(), &self.server_terms());
        log::info!("upstream {}: discovery finds {} servers", self.name, members.servers.len());
        self.members.store(Arc::new(members));
        self.settle();
        self.members_changed.send_replace(());
        self.queue.dispatch();
    }

    /// Replaces the set, as its owner does when this list is found.
    #[cfg(test)]
    pub(crate) fn set_servers(&self, list: &[ServerConfig]) {
        self.found.latest.set(list);
        self.take_up_found();
    }

    /// Follows the discovery from now on, unless that is done already: it goes on over reloads.
    pub(crate) fn follow_discovery(&self) {
        let Some(source) = &self.brought.discovery else { return };
        self.found.following.get_or_init(|| {
            let following = discovery::follow(self.name.clone(), source.clone(), self.found.latest.clone());
            Following(tokio::spawn(following).abort_handle())
        });
    }
}

/// Owns the live set of an upstream for as long as it is polled: takes up what is found, lets go of those that are to be
/// left, and forgets removed ones of which nothing is left.
pub(crate) async fn own(upstream: Arc<Upstream>) {
    let mut found = upstream.found.latest.0.subscribe();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        upstream.take_up_found();
        upstream.reconcile();
        tokio::select! {
            _ = looks.tick() => upstream.sweep(),
            changed = found.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
