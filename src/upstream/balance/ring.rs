//! The consistent hash ring (Ketama, as nginx and libmemcached have it): which servers a client meets, in which order.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use pingora_ketama::{Bucket, Continuum};

use super::key::PickKey;
use crate::text::Text;
use crate::upstream::{Server, ServerId};

/// Built once for a set of servers; 160 points for each unit of weight.
pub(crate) struct Ring {
    continuum: Continuum,
    /// The position of the server behind each point, in ring order.
    points: Box<[u16]>,
}

impl Ring {
    pub(crate) fn build(servers: &[Arc<Server>]) -> Self {
        let nodes: Vec<SocketAddr> = servers.iter().map(|server| node(server.name())).collect();
        let buckets: Vec<Bucket> =
            nodes.iter().zip(servers).map(|(&node, server)| Bucket::new(node, server.weight())).collect();
        let continuum = Continuum::new(&buckets);
        let positions: std::collections::HashMap<_, _> = nodes.iter().zip(0..=u16::MAX).collect();
        let mut points = Vec::new();
        let mut index = 0;
        while let Some(node) = continuum.get_addr(&mut index) {
            points.push(positions[node]);
            if index == 0 {
                break;
            }
        }
        Self { continuum, points: points.into() }
    }

    /// The servers from the client's point onwards, once round the ring; a server comes once for each of its points.
    pub(crate) fn walk(&self, key: &PickKey) -> impl Iterator<Item = usize> + '_ {
        // The text of the address, as nginx hashes `$remote_addr`.
        let start = self.continuum.node_idx(Text::address(key.placement()).as_bytes());
        let (before, after) = self.points.split_at(start.min(self.points.len()));
        after.iter().chain(before).map(|&position| usize::from(position))
    }
}

/// What a server is called on the ring: its address, or for other names an address out of their hash.
fn node(name: &str) -> SocketAddr {
    name.parse().unwrap_or_else(|_| {
        // fd00::/8 belongs to nobody (RFC 4193), and no server has port 0.
        let address = Ipv6Addr::from_bits((0xfd53_6f63_6b67_6174 << 64) | u128::from(ServerId::of(name).to_bits()));
        SocketAddr::new(address.into(), 0)
    })
}
