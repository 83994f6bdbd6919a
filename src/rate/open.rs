//! How many of something each client may have open at once. Places are guards.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::address::standing_for;

/// What clients have open, by their addresses; counted only where there is a limit.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// For each client; 0 is no limit.
    most: AtomicUsize,
    by_address: [Mutex<HashMap<Ipv6Addr, usize>>; SHARDS],
}

/// A place that a client has; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<Open>,
    /// IPv4 in IPv6's clothes: every connection keeps one of these.
    address: Ipv6Addr,
}

const SHARDS: usize = 16;

impl Open {
    /// Holds from now on; those that are there stay, and count.
    pub(crate) fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// A place for this client, where they are counted.
    ///
    /// # Errors
    /// It has as many as it may have.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Option<Place>, Full> {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return Ok(None);
        }
        let address = match standing_for(client) {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut counts = self.shard(address).lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return Err(Full);
        }
        *count += 1;
        Ok(Some(Place { open: Arc::clone(self), address }))
    }

    fn shard(&self, address: Ipv6Addr) -> &Mutex<HashMap<Ipv6Addr, usize>> {
        // The last byte of an IPv4 address, or of the network of one of IPv6.
        let [.., network, _, _, _, _, _, _, _, last] = address.octets();
        &self.by_address[usize::from(network ^ last) % SHARDS]
    }

    /// Whether nobody has anything open.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_address.iter().all(|shard| shard.lock().unwrap().is_empty())
    }
}

/// A client has as many as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.shard(self.address).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_so_many_and_gets_them_back() {
        let open = Arc::<Open>::default();
        let client = |address: &str| address.parse::<IpAddr>().unwrap();
        assert!(matches!(open.enter(client("10.0.0.1")), Ok(None)), "no limit, nothing counted");
        open.set(2);
        let first = open.enter(client("10.0.0.1")).unwrap();
        let second = open.enter(client("::ffff:10.0.0.1")).unwrap();
        assert_eq!(open.enter(client("10.0.0.1")).unwrap_err(), Full);
        let household = [open.enter(client("2001:db8::1")).unwrap(), open.enter(client("2001:db8::2")).unwrap()];
        assert!(open.enter(client("2001:db8::3")).is_err() && open.enter(client("2001:db8:0:1::3")).is_ok());
        drop(first);
        assert!(open.enter(client("10.0.0.1")).is_ok());
        drop((second, household));
        assert!(open.is_empty(), "nothing is kept of whoever left");
    }
}
