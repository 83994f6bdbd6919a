//! What a pick looks at: the client, and the servers that were tried before.

use std::net::{IpAddr, Ipv6Addr};

use tokio::time::Instant;

use crate::address::standing_for;
use crate::affinity::stable_hash;
use crate::upstream::ServerId;

/// What placement may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PickKey {
    /// The client's address, as it came.
    pub client: IpAddr,
    /// A hash of what stands for the client instead of its address, such as the value of a header field.
    pub value: Option<u64>,
}

impl From<IpAddr> for PickKey {
    fn from(client: IpAddr) -> Self {
        Self { client, value: None }
    }
}

impl PickKey {
    /// What the client is placed by: the address that stands for it, or one that stands for its value.
    pub fn placement(&self) -> IpAddr {
        if let Some(value) = self.value {
            // A client's own address has no bits in the lower half, so this is never one.
            return Ipv6Addr::from_bits(u128::from(value) << 64 | 1).into();
        }
        standing_for(self.client)
    }

    /// A number from 0 to 999 that the client keeps.
    pub(crate) fn lot(&self) -> u64 {
        let hash = match self.placement() {
            IpAddr::V4(address) => stable_hash(&address.octets()),
            IpAddr::V6(address) => stable_hash(&address.octets()),
        };
        hash % 1000
    }
}

/// Servers that were tried for one request. The first few need no memory of their own.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    few: [ServerId; 4],
    len: usize,
    more: Vec<ServerId>,
    /// Since when the request has waited for the server of its session to be reached.
    pub(crate) waits_since: Option<Instant>,
    /// Whether the last connect failed for want of something on this side, so that others will hardly do better.
    pub(crate) in_shortage: bool,
}

impl Tried {
    /// Adds a server.
    pub fn add(&mut self, id: ServerId) {
        if self.contains(id) {
            return;
        }
        match self.few.get_mut(self.len) {
            Some(free) => *free = id,
            None => self.more.push(id),
        }
        self.len += 1;
    }

    /// Whether the server was tried.
    pub fn contains(&self, id: ServerId) -> bool {
        self.few.iter().take(self.len).chain(&self.more).any(|&tried| tried == id)
    }

    /// How many servers were tried.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(client: &str) -> String {
        let client = client.parse().unwrap();
        PickKey { client, value: None }.placement().to_string()
    }

    #[test]
    fn a_value_stands_for_the_client_and_is_never_taken_for_an_address() {
        let key = |client: &str, value| PickKey { client: client.parse().unwrap(), value };
        assert_eq!(key("192.0.2.1", Some(7)).placement(), key("2001:db8::1", Some(7)).placement());
        assert_ne!(key("192.0.2.1", Some(7)).placement(), key("192.0.2.1", Some(8)).placement());
        assert_ne!(key("::1", Some(0)).placement(), key("::1", None).placement());
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_mapped_ipv4_is_ipv4() {
        assert_eq!(placement("192.0.2.7"), "192.0.2.7");
        assert_eq!(placement("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(placement("2001:db8:1:2:aaaa::1"), "2001:db8:1:2::");
        assert_eq!(placement("2001:db8:1:2:bbbb::2"), "2001:db8:1:2::");
    }

    #[test]
    fn tried_servers_are_remembered_once_and_beyond_the_first_few() {
        let mut tried = Tried::default();
        assert!(tried.is_empty() && !tried.contains(ServerId::default()));
        for number in [1, 2, 3, 3, 4, 5, 6, 6, 1] {
            tried.add(ServerId::of(&number.to_string()));
        }
        assert_eq!(tried.len(), 6);
        for number in 1..=6 {
            assert!(tried.contains(ServerId::of(&number.to_string())));
        }
        assert!(!tried.contains(ServerId::of("7")));
    }
}
