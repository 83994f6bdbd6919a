//! The servers of an upstream at one moment, with all that is derived from the set.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::{Server, ServerId};
use crate::session::SessionTable;
use crate::upstream::balance::Ring;
use crate::upstream::config::{Config, ServerConfig};
use crate::upstream::{Balance, MakeBalance, PickKey, ServerTls};

/// The servers of the moment and what was derived from them; swapped whole.
pub(crate) struct Members {
    pub(crate) servers: Box<[Arc<Server>]>,
    /// Positions in `servers`, sorted by id.
    by_id: Box<[(ServerId, usize)]>,
    /// For sessions of unknown home, so most upstreams never need it.
    ring: OnceLock<Ring>,
    pub(crate) balance: Box<dyn Balance>,
    /// Servers that were taken out of the set while sessions or tunnels were there: those go on.
    removed: ArcSwap<Vec<Arc<Server>>>,
}

impl Members {
    /// `known` are the servers until now, with those that had been removed from among them. A server that can't be one is
    /// left out, and why is given beside.
    pub(crate) fn build(
        config: &Config,
        servers: &[ServerConfig],
        sessions: Option<&SessionTable>,
        known: &[Arc<Server>],
        make_balance: &MakeBalance,
        tls: Option<&ServerTls>,
    ) -> (Self, Vec<String>) {
        let known_by_id: HashMap<ServerId, &Arc<Server>> = known.iter().map(|server| (server.id(), server)).collect();
        let mut built: Vec<Arc<Server>> = Vec::with_capacity(servers.len());
        let mut ids = HashSet::with_capacity(servers.len());
        let mut bad = Vec::new();
        for said in servers {
            let same = known_by_id.get(&ServerId::of(&said.name())).copied();
            let checked =
                Server::adopt(said, config.health_check(), sessions, same, !known.is_empty()).and_then(|server| {
                    if ids.contains(&server.id()) {
                        return Err(format!(
                            "two servers are called `{}`: give each its own address or `name`",
                            server.name()
                        ));
                    }
                    tls.map(|tls| tls.server_name(&server)).transpose()?;
                    Ok(server)
                });
            match checked {
                Ok(_) if built.len() == usize::from(u16::MAX) => {
                    bad.push(format!("{} servers are too many: expected at most {}", servers.len(), u16::MAX));
                    break;
                }
                Ok(server) => {
                    ids.insert(server.id());
                    built.push(server);
                }
                Err(fault) => bad.push(fault),
            }
        }
        let mut by_id: Vec<_> = built.iter().enumerate().map(|(index, server)| (server.id(), index)).collect();
        by_id.sort_unstable();
        // Who is removed only now may be about to get work from somebody who has not heard of it yet.
        let stays = |server: &&Arc<Server>| !ids.contains(&server.id()) && (!server.is_removed() || server.is_busy());
        let removed = ArcSwap::from_pointee(known.iter().filter(stays).cloned().collect());
        let balance = make_balance(&built);
        (Self { by_id: by_id.into(), ring: OnceLock::new(), balance, servers: built.into(), removed }, bad)
    }

    /// Servers of before that still have work.
    pub(crate) fn removed(&self) -> Arc<Vec<Arc<Server>>> {
        self.removed.load_full()
    }

    /// Lets go of a removed server. False if it was none.
    pub(crate) fn forget(&self, id: ServerId) -> bool {
        let before =
            self.removed.rcu(|removed| removed.iter().filter(|server| server.id() != id).cloned().collect::<Vec<_>>());
        before.iter().any(|server| server.id() == id)
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
        let mut order: Vec<usize> = Vec::with_capacity(self.servers.len());
        let mut met = vec![false; self.servers.len()];
        for index in ring.walk(key) {
            if !std::mem::replace(&mut met[index], true) {
                order.push(index);
                if order.len() == self.servers.len() {
                    break;
                }
            }
        }
        let mut servers: Vec<_> = order.into_iter().map(|index| self.servers[index].clone()).collect();
        servers.extend_from_slice(&self.removed.load());
        servers
    }
}
