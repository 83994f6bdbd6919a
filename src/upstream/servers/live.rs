//! The live set of servers: whose list it is made of, and the one task that changes it.
//!
//! At first that is the list of the configuration. A [`Discovery`] brings others, one after the other: each is laid down,
//! and the owner of the set takes the latest up. So nobody waits for a set to be built, lists that come faster than that
//! are not built at all, and a reload that comes between loses none.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::Server;
use super::members::Members;
use crate::upstream::discovery::{Inquiries, LeftOut, ServerList, Source, Watched};
use crate::upstream::{Discovery, Upstream, discovery};

/// A list of servers.
pub(crate) type List = Arc<ServerList>;

/// What was found beside the configuration's list; outlives reloads that leave its source as it is.
#[derive(Default)]
pub(crate) struct Found {
    /// Who is asked; `None` where the configuration's list is all there is.
    source: Option<Arc<dyn Discovery>>,
    latest: Latest,
    inquiries: Arc<Watched>,
    following: Mutex<Following>,
    /// Whom the log has been told of.
    told: Mutex<HashSet<LeftOut>>,
}

/// The latest list that was laid down, if any was.
#[derive(Clone, Default)]
pub(crate) struct Latest(watch::Sender<Option<List>>);

/// The task that asks, for as long as an upstream at work wants it to.
#[derive(Default)]
struct Following {
    wanted: usize,
    task: Option<AbortHandle>,
}

/// Wants the discovery to be followed until it is dropped.
pub(crate) struct Follower(Arc<Found>);

impl Drop for Follower {
    fn drop(&mut self) {
        let mut following = self.0.following();
        following.wanted -= 1;
        if following.wanted == 0
            && let Some(task) = following.task.take()
        {
            task.abort();
        }
    }
}

/// How often it is looked who has gone.
const LOOK: Duration = Duration::from_secs(1);

impl Latest {
    fn get(&self) -> Option<List> {
        self.0.borrow().clone()
    }

    /// Whether it is another one than before.
    pub(crate) fn set(&self, list: ServerList) -> bool {
        self.0.send_if_modified(|latest| {
            let news = latest.as_deref() != Some(&list);
            if news {
                *latest = Some(Arc::new(list));
            }
            news
        })
    }
}

impl Found {
    /// Of a source that has just come; `before` are the servers until now, which serve until it tells of others.
    pub(crate) fn by(source: Source, before: Option<List>) -> Self {
        let found = Self { source: Some(source.discovery), ..Self::default() };
        if let Some(before) = before.filter(|before| !before.servers.is_empty()) {
            found.latest.set((*before).clone());
        }
        if let Some(first) = source.first {
            found.inquiries.note_found(found.latest.set(first));
        }
        found
    }

    /// Who tells of the servers; `None` where the configuration does.
    pub(crate) fn source(&self) -> Option<&Arc<dyn Discovery>> {
        self.source.as_ref()
    }

    /// The latest list, if any was found.
    pub(crate) fn latest(&self) -> Option<List> {
        self.latest.get()
    }

    /// Whether nobody knows yet whether there are any servers.
    pub(crate) fn is_awaited(&self) -> bool {
        self.source.is_some() && self.latest.0.borrow().is_none() && self.inquiries.is_awaited()
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who of these has not been told of; from now on they have been, and nobody else.
    fn news<'a>(&self, left_out: &'a [LeftOut]) -> Vec<&'a LeftOut> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = left_out.iter().filter(|one| !told.contains(*one)).collect();
        *told = left_out.iter().cloned().collect();
        news
    }
}

/// How the discovery of an upstream stands.
pub struct Findings {
    /// Who tells of the servers.
    pub source: String,
    /// Whether it has heard by now who they are, as far as the gateway has to wait for that.
    pub heard: bool,
    /// How that went.
    pub inquiries: Inquiries,
    /// How many servers are in the set.
    pub servers: usize,
    /// Names of those that were found and can't be servers, each with the reason.
    pub left_out: Vec<(String, String)>,
}

impl Upstream {
    /// How its discovery stands; `None` where its servers are those of the configuration.
    pub fn findings(&self) -> Option<Findings> {
        let source = self.found.source()?;
        let (source, heard) = (source.name(), source.has_heard());
        let members = self.members.load();
        let left_out = members.left_out.iter().map(|one| (one.name.clone(), one.fault.clone())).collect();
        Some(Findings {
            source,
            heard,
            inquiries: self.found.inquiries.now(),
            servers: members.servers.len(),
            left_out,
        })
    }

    /// How its discovery went so far; `None` where its servers are those of the configuration.
    pub(crate) fn inquiries(&self) -> Option<Inquiries> {
        self.found.source().map(|_| self.found.inquiries.now())
    }

    /// Whether its servers were found, so that a reload that leaves their source as it is keeps them.
    pub(crate) fn is_found(&self) -> bool {
        self.found.latest().is_some()
    }

    /// A server can't be connected to, or fails its check: it may have gone.
    pub(crate) fn doubts_its_servers(&self) {
        if let Some(source) = self.found.source() {
            source.look_again();
        }
    }

    /// Tells the log of those that are left out, where that is news.
    pub(crate) fn tell_left_out(&self) {
        for one in self.found.news(&self.members.load().left_out) {
            log::warn!("upstream {}: left out: {one}", self.name);
        }
    }

    /// Takes up the latest list, where the set is made of another one. Who stays keeps state and counters, and who comes back
    /// does too; who goes keeps its sessions until they end or its drain is over ([`Self::removed`]).
    pub(crate) fn take_up_found(&self) {
        let Some(latest) = self.found.latest() else { return };
        let before = self.members.load_full();
        if before.is_made_of(&latest) {
            return;
        }
        let members = Members::build_of_found(&latest, &self.all_servers(), &self.server_terms());
        let changes = changes(&before.servers, &members.servers);
        let source = self.found.source().map_or_else(String::new, |source| source.name());
        log::info!("upstream {}: {source} finds {} servers{changes}", self.name, members.servers.len());
        let gone = if latest.are_lives { members.ended() } else { HashSet::new() };
        self.members.store(Arc::new(members));
        self.settle();
        self.members_changed.send_replace(());
        self.end_drains(&gone);
        self.queue.dispatch();
    }

    /// Builds the set anew where an operator wishes another weight for one of its servers.
    pub(crate) fn reweigh(&self) {
        let before = self.members.load_full();
        if !before.servers.iter().any(|server| server.wants_weight()) {
            return;
        }
        let (known, terms) = (self.all_servers(), self.server_terms());
        let members = match self.found.latest() {
            Some(latest) => Members::build_of_found(&latest, &known, &terms),
            None => match Members::build_all(self.config.servers.list(), &known, &terms) {
                Ok(members) => members,
                // It was built of the same list before.
                Err(fault) => return log::error!("upstream {}: {fault}", self.name),
            },
        };
        self.members.store(Arc::new(members));
        self.settle();
        self.members_changed.send_replace(());
        self.queue.dispatch();
    }

    /// Replaces the set, as its owner does when this list is found.
    #[cfg(test)]
    pub(crate) fn set_servers(&self, list: &[crate::upstream::config::ServerConfig]) {
        self.found.latest.set(list.to_vec().into());
        self.take_up_found();
    }

    /// Follows the discovery until this is dropped, or the last one of it: a reload takes it over as it runs.
    pub(crate) fn follow_discovery(&self) -> Option<Follower> {
        let source = self.found.source()?;
        let mut following = self.found.following();
        following.wanted += 1;
        following.task.get_or_insert_with(|| {
            let queue = Arc::clone(&self.queue);
            let (name, latest) = (Arc::clone(&self.name), self.found.latest.clone());
            let inquiries = Arc::clone(&self.found.inquiries);
            // Those who wait for the first answer need not wait for the second.
            let failed = move || queue.dispatch();
            tokio::spawn(discovery::follow(name, Arc::clone(source), latest, inquiries, failed)).abort_handle()
        });
        drop(following);
        Some(Follower(Arc::clone(&self.found)))
    }
}

/// Who came and who went, as a log tells it: a few of them by name.
fn changes(before: &[Arc<Server>], after: &[Arc<Server>]) -> String {
    const NAMED: usize = 10;
    let names = |servers: &[Arc<Server>]| -> HashSet<String> {
        servers.iter().map(|server| format!("{} at {}", server.name(), server.address())).collect()
    };
    let (known, now) = (names(before), names(after));
    // The address of most is their name.
    let short = |one: &str| match one.split_once(" at ") {
        Some((name, address)) if name == address => name.to_owned(),
        _ => one.to_owned(),
    };
    let listed = |verb: &str, those: Vec<&String>| {
        let mut named: Vec<String> = those.iter().map(|one| short(one)).collect();
        named.sort_unstable();
        let more = named.len().saturating_sub(NAMED);
        named.truncate(NAMED);
        match (named.len(), more) {
            (0, _) => String::new(),
            (_, 0) => format!("; {verb}: {}", named.join(", ")),
            _ => format!("; {verb}: {} and {more} more", named.join(", ")),
        }
    };
    let new = now.difference(&known).collect();
    let gone = known.difference(&now).collect();
    listed("new", new) + &listed("gone", gone)
}

/// Owns the live set of an upstream for as long as it is polled: takes up what is found, lets go of those that are to be
/// left, and forgets removed ones of which nothing is left.
pub(crate) async fn own(upstream: Arc<Upstream>) {
    let mut found = upstream.found.latest.0.subscribe();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        upstream.take_up_found();
        upstream.reweigh();
        upstream.reconcile();
        tokio::select! {
            () = upstream.reweighed.notified() => {}
            _ = looks.tick() => upstream.sweep(),
            changed = found.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
