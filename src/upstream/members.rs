//! The servers of an upstream at one moment, with all that is derived from the set.

use std::sync::{Arc, OnceLock};

use super::config::{Config, ServerConfig};
use super::ring::Ring;
use super::{Balance, MakeBalance, PickKey, Server, ServerId, ServerTls};
use crate::affinity::SessionTable;

/// The servers of the moment and what was derived from them; swapped whole.
pub(super) struct Members {
    pub(super) servers: Box<[Arc<Server>]>,
    /// Positions in `servers`, sorted by id.
    by_id: Box<[(ServerId, usize)]>,
    /// For sessions of unknown home, so most upstreams never need it.
    ring: OnceLock<Ring>,
    pub(super) balance: Box<dyn Balance>,
}

impl Members {
    pub(super) fn build(
        config: &Config,
        servers: &[ServerConfig],
        sessions: Option<&SessionTable>,
        known: &[Arc<Server>],
        make_balance: &MakeBalance,
        tls: Option<&ServerTls>,
    ) -> Result<Self, String> {
        let mut built: Vec<Arc<Server>> = Vec::with_capacity(servers.len());
        for said in servers {
            let server = Server::adopt(said, config.health_check(), sessions, known)?;
            if built.iter().any(|other| other.id() == server.id()) {
                return Err(format!("two servers are called `{}`: give each its own address or `name`", server.name()));
            }
            if let Some(tls) = tls {
                tls.server_name(&server)?;
            }
            built.push(server);
        }
        if built.len() > usize::from(u16::MAX) {
            return Err(format!("{} servers are too many: expected at most {}", built.len(), u16::MAX));
        }
        let mut by_id: Vec<_> = built.iter().enumerate().map(|(index, server)| (server.id(), index)).collect();
        by_id.sort_unstable();
        Ok(Self { by_id: by_id.into(), ring: OnceLock::new(), balance: make_balance(&built), servers: built.into() })
    }

    pub(super) fn find(&self, id: ServerId) -> Option<&Arc<Server>> {
        self.position(id).map(|position| &self.servers[position])
    }

    pub(super) fn position(&self, id: ServerId) -> Option<usize> {
        let found = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[found].1)
    }

    pub(super) fn in_ring_order(&self, key: &PickKey) -> Vec<Arc<Server>> {
        let ring = self.ring.get_or_init(|| Ring::build(&self.servers));
        let mut order: Vec<usize> = Vec::with_capacity(self.servers.len());
        for index in ring.walk(key) {
            if !order.contains(&index) {
                order.push(index);
                if order.len() == self.servers.len() {
                    break;
                }
            }
        }
        order.into_iter().map(|index| self.servers[index].clone()).collect()
    }
}
