//! The servers of an upstream at one moment, with all that is derived from the set.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::live::List;
use super::{Server, ServerId};
use crate::session::SessionTable;
use crate::upstream::balance::Ring;
use crate::upstream::config::{Check, ServerConfig};
use crate::upstream::discovery::LeftOut;
use crate::upstream::{Balance, MakeBalance, PickKey, ServerTls};

/// The servers of the moment and what was derived from them; swapped whole.
pub(crate) struct Members {
    pub(crate) servers: Arc<[Arc<Server>]>,
    /// The same by rank, those that are asked first at the front; nearly always there is one.
    pub(crate) levels: Box<[Level]>,
    /// Positions in `servers`, sorted by id.
    by_id: Box<[(ServerId, usize)]>,
    /// For sessions of unknown home, so most upstreams never need it.
    ring: OnceLock<Ring>,
    /// Servers that were taken out of the set while sessions or tunnels were there: those go on.
    removed: ArcSwap<Vec<Arc<Server>>>,
    /// The list that they are made of, where it was found and isn't that of the configuration.
    found: Option<List>,
    /// Those of the list that can't be servers here.
    pub(super) left_out: Vec<LeftOut>,
}

/// Servers of one rank: of one priority, and all in the own zone or all in others.
pub(crate) struct Level {
    pub(crate) servers: Arc<[Arc<Server>]>,
    pub(crate) balance: Box<dyn Balance>,
}

/// What the servers of a set have in common.
pub(crate) struct Terms<'a> {
    pub(crate) check: Check,
    pub(crate) sessions: Option<&'a SessionTable>,
    pub(crate) tls: Option<&'a ServerTls>,
    pub(crate) make_balance: &'a MakeBalance,
    /// The zone that the gateway stands in.
    pub(crate) zone: Option<&'a str>,
}

/// Positions are kept in 16 bits.
const MOST: usize = u16::MAX as usize;

impl Members {
    /// Makes a set of those on a list that can be servers; the others are left out, each for a reason of its own. `known` are
    /// the servers until now, with those that had been removed from among them.
    ///
    /// Each server is looked up, and none compared with all the others: a list may hold thousands, and come often.
    fn build(list: &[ServerConfig], known: &[Arc<Server>], terms: &Terms<'_>) -> Self {
        let known_by_id: HashMap<ServerId, &Arc<Server>> = known.iter().map(|server| (server.id(), server)).collect();
        let mut servers: Vec<Arc<Server>> = Vec::with_capacity(list.len());
        let mut by_id: HashMap<ServerId, usize> = HashMap::with_capacity(list.len());
        let mut left_out = Vec::new();
        for said in list {
            let fit = || {
                said.check()?;
                let same = known_by_id.get(&ServerId::of(&said.name())).copied();
                let server = Server::adopt(said, terms.check, terms.sessions, terms.zone, same, !known.is_empty());
                if by_id.contains_key(&server.id()) {
                    return Err(format!(
                        "two servers are called `{}`: give each its own address or `name`",
                        server.name()
                    ));
                }
                if let Some(tls) = terms.tls {
                    tls.server_name(&server)?;
                }
                if servers.len() == MOST {
                    return Err(format!("{} servers are too many: expected at most {MOST}", list.len()));
                }
                Ok(server)
            };
            match fit() {
                Ok(server) => {
                    by_id.insert(server.id(), servers.len());
                    servers.push(server);
                }
                Err(fault) => left_out.push(LeftOut { name: said.name(), fault }),
            }
        }
        // Who is removed only now may be about to get work from somebody who has not heard of it yet.
        let stays =
            |server: &&Arc<Server>| !by_id.contains_key(&server.id()) && (!server.is_removed() || server.is_busy());
        let removed = ArcSwap::from_pointee(known.iter().filter(stays).cloned().collect());
        let mut by_id: Vec<_> = by_id.into_iter().collect();
        by_id.sort_unstable();
        let servers: Arc<[Arc<Server>]> = servers.into();
        let levels = levels(&servers).into_iter().map(|servers| {
            let balance = (terms.make_balance)(&servers);
            Level { servers, balance }
        });
        let levels = levels.collect();
        Self { servers, levels, by_id: by_id.into(), ring: OnceLock::new(), removed, found: None, left_out }
    }

    /// Makes a set of a list that was found.
    pub(crate) fn build_of_found(list: &List, known: &[Arc<Server>], terms: &Terms<'_>) -> Self {
        let mut members = Self::build(&list.servers, known, terms);
        members.left_out.extend(list.left_out.iter().cloned());
        Self { found: Some(list.clone()), ..members }
    }

    /// Whether it is made of this very list.
    pub(super) fn is_made_of(&self, list: &List) -> bool {
        self.found.as_ref().is_some_and(|found| Arc::ptr_eq(found, list))
    }

    /// Makes a set of the configuration's list, all of which have to be servers.
    ///
    /// # Errors
    /// Why the first can't.
    pub(crate) fn build_all(list: &[ServerConfig], known: &[Arc<Server>], terms: &Terms<'_>) -> Result<Self, String> {
        let members = Self::build(list, known, terms);
        match members.left_out.first() {
            None => Ok(members),
            Some(first) => Err(first.fault.clone()),
        }
    }

    /// Those of the same rank as this one.
    pub(crate) fn peers(&self, server: &Server) -> &Arc<[Arc<Server>]> {
        let is_its = |level: &&Level| level.servers.first().is_some_and(|first| first.rank() == server.rank());
        let level = self.levels.iter().find(is_its);
        level.map_or(&self.servers, |level| &level.servers)
    }

    /// Of the removed servers, those that have ended, where servers are called after who they are: another one has the
    /// address, or they were about to end when they were last heard of.
    pub(super) fn ended(&self) -> HashSet<ServerId> {
        let taken: HashSet<_> = self.servers.iter().map(|server| server.address()).collect();
        let removed = self.removed.load();
        let ended = removed.iter().filter(|server| server.drain || taken.contains(server.address()));
        ended.map(|server| server.id()).collect()
    }

    /// Servers of before that still have work.
    pub(crate) fn removed(&self) -> Arc<Vec<Arc<Server>>> {
        self.removed.load_full()
    }

    /// Lets go of removed servers; tells which of these there were.
    pub(crate) fn forget(&self, ids: &HashSet<ServerId>) -> Vec<Arc<Server>> {
        let goes = |server: &&Arc<Server>| ids.contains(&server.id());
        let before =
            self.removed.rcu(|removed| removed.iter().filter(|server| !goes(server)).cloned().collect::<Vec<_>>());
        before.iter().filter(goes).cloned().collect()
    }

    /// The server with this id, even if it was removed.
    pub(crate) fn find_ever(&self, id: ServerId) -> Option<Arc<Server>> {
        let removed = || self.removed.load().iter().find(|server| server.id() == id).cloned();
        self.find(id).cloned().or_else(removed)
    }

    pub(crate) fn find(&self, id: ServerId) -> Option<&Arc<Server>> {
        self.position(id).map(|position| &self.servers[position])
    }

    pub(crate) fn position(&self, id: ServerId) -> Option<usize> {
        let found = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[found].1)
    }

    pub(crate) fn in_ring_order(&self, key: &PickKey) -> Vec<Arc<Server>> {
        let ring = self.ring.get_or_init(|| Ring::build(&self.servers));
        let mut met = vec![false; self.servers.len()];
        let first = |&position: &usize| !std::mem::replace(&mut met[position], true);
        let order = ring.walk(key).filter(first).take(self.servers.len());
        let mut servers: Vec<_> = order.map(|position| self.servers[position].clone()).collect();
        servers.extend_from_slice(&self.removed.load());
        servers
    }
}

/// The servers by rank; all of them where they have the same.
fn levels(servers: &Arc<[Arc<Server>]>) -> Vec<Arc<[Arc<Server>]>> {
    let mut ranks: Vec<_> = servers.iter().map(|server| server.rank()).collect();
    ranks.sort_unstable();
    ranks.dedup();
    if let [] | [_] = ranks[..] {
        return vec![Arc::clone(servers)];
    }
    let of = |rank| servers.iter().filter(move |server| server.rank() == rank).cloned().collect();
    ranks.into_iter().map(of).collect()
}
