//! How many connections there may be: over the process, over a listener, from one address. Places are guards.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::metrics::ListenerMetrics;
use crate::rate::{Open, Place};

/// The counts of one gateway; 0 is no limit.
#[derive(Debug)]
pub struct ConnectionLimits {
    most: AtomicUsize,
    open: AtomicUsize,
    by_address: Arc<Open>,
}

/// Which limit refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `limits.connections`.
    Process,
    /// `listeners[].max_connections`.
    Listener,
    /// `limits.connections_per_address`.
    Address,
}

impl Full {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Listener => "listener",
            Self::Address => "address",
        }
    }
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<ConnectionLimits>,
    listener: ListenerMetrics,
    /// Where addresses are counted.
    place: Option<Place>,
}

impl ConnectionLimits {
    /// Counts from zero.
    pub fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        let by_address = Arc::<Open>::default();
        by_address.set(most_per_address);
        Arc::new(Self { most: AtomicUsize::new(most), open: AtomicUsize::new(0), by_address })
    }

    /// Holds from now on; those that are open stay, and count.
    pub fn set(&self, most: usize, most_per_address: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.by_address.set(most_per_address);
    }

    /// The most that there may be.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A place for one more connection, or the limit that has none.
    ///
    /// `client` is counted by its address; `None` where it is not known yet: see [`Permit::count`]. `listener` counts the
    /// listener's open connections, `most` is its limit.
    pub fn admit(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        listener: &ListenerMetrics,
        most: usize,
    ) -> Result<Permit, Full> {
        // The permit is made first, so that whatever has been counted is given back on the way out.
        let mut permit = Permit { limits: Arc::clone(self), listener: listener.clone(), place: None };
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        listener.open.inc();
        let on_listener = usize::try_from(listener.open.get()).unwrap_or(0).saturating_sub(1);
        let reaches = |count: usize, most: usize| most != 0 && count >= most;
        if reaches(open, self.most.load(Ordering::Relaxed)) {
            return Err(Full::Process);
        }
        if reaches(on_listener, most) {
            return Err(Full::Listener);
        }
        if let Some(client) = client {
            permit.count(client)?;
        }
        Ok(permit)
    }
}

impl Permit {
    /// Counts a client by its address, once it is known.
    ///
    /// # Errors
    /// There are as many of it as may be.
    pub fn count(&mut self, client: IpAddr) -> Result<(), Full> {
        if self.place.is_none() {
            self.place = self.limits.by_address.enter(client).map_err(|_| Full::Address)?;
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        self.listener.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn listener() -> ListenerMetrics {
        Metrics::new().unwrap().listener("web")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_limit_refuses_one_more_and_takes_it_once_one_has_left() {
        let limits = ConnectionLimits::new(3, 2);
        let listener = listener();
        let admit = |peer: &str, most| limits.admit(Some(address(peer)), &listener, most);
        let first = admit("192.0.2.1", 0).unwrap();
        let _second = admit("::ffff:192.0.2.1", 0).unwrap();
        assert_eq!(admit("192.0.2.1", 0).unwrap_err(), Full::Address);
        assert_eq!(admit("192.0.2.2", 2).unwrap_err(), Full::Listener);
        let _third = admit("192.0.2.2", 0).unwrap();
        assert_eq!(admit("192.0.2.3", 0).unwrap_err(), Full::Process);
        drop(first);
        let _again = admit("192.0.2.1", 3).unwrap();
        assert_eq!((limits.open(), listener.open.get()), (3, 3), "refusals leave nothing counted");
    }

    #[test]
    fn one_ipv6_network_counts_as_one_address() {
        let limits = ConnectionLimits::new(0, 1);
        let listener = listener();
        let admit = |client: &str| limits.admit(Some(address(client)), &listener, 0);
        let _one = admit("2001:db8::1").unwrap();
        assert_eq!(admit("2001:db8::2:3").unwrap_err(), Full::Address);
        assert!(admit("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn who_is_told_of_later_is_counted_then_and_given_back_like_others() {
        let limits = ConnectionLimits::new(0, 1);
        let listener = listener();
        let admit = || limits.admit(None, &listener, 0).unwrap();
        let (mut one, mut two, mut other) = (admit(), admit(), admit());
        let client = address("192.0.2.1");
        assert_eq!(one.count(client), Ok(()));
        assert_eq!((two.count(client), other.count(address("192.0.2.2"))), (Err(Full::Address), Ok(())));
        assert_eq!(limits.admit(Some(client), &listener, 0).unwrap_err(), Full::Address, "however it comes");
        drop(one);
        assert_eq!(two.count(client), Ok(()));
    }

    #[test]
    fn addresses_that_have_left_take_no_memory() {
        let limits = ConnectionLimits::new(0, 1);
        let listener = listener();
        for last in 0..=255u8 {
            drop(limits.admit(Some([192, 0, 2, last].into()), &listener, 0).unwrap());
        }
        assert!(limits.by_address.is_empty());
    }
}
