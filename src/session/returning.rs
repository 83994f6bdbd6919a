//! The memory of clients: the server that each one was on last, for when it comes back without a session.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, RandomState};
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::shards::{AsIs, Clock, LAG, Shard, sweeping};
use crate::address::standing_for;

/// The server that each client of one upstream was on last, for a while after it was seen: who comes back goes there, and
/// finds what the server still remembers (connection state recovery).
///
/// It is a wish, not a promise: the upstream places by it only where the server is well and has room. An address may
/// stand for thousands of clients, so one key has so many wishes for each lifetime of its entry; whoever comes more often
/// is placed as if new. That also leads a client away from a server that keeps failing it.
pub struct Returning {
    secret: RandomState,
    shards: Box<[Shard<Part>]>,
    clock: Clock,
    len: AtomicUsize,
    max: usize,
    keep: u32,
    /// How often a key places in one lifetime of an entry.
    wishes: u16,
}

/// What stands for a client: a keyed hash of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(u64);

const SHARDS: usize = 64;

impl Returning {
    /// An empty memory for at most `max` clients, each kept for `keep` after it was last seen (in whole seconds) and with
    /// as many `wishes`. Its clock stands still until [`Self::run`] is polled.
    pub fn new(max: usize, keep: Duration, wishes: u16) -> Arc<Self> {
        Arc::new(Self {
            secret: RandomState::new(),
            shards: Shard::several(SHARDS),
            clock: Clock::new(),
            len: AtomicUsize::new(0),
            max,
            keep: u32::try_from(keep.as_secs() + u64::from(keep.subsec_nanos() > 0)).unwrap_or(u32::MAX).max(1),
            wishes,
        })
    }

    /// Sweeps four times a second for as long as somebody else has the memory.
    pub fn run(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        sweeping(Arc::downgrade(self), Self::sweep)
    }

    /// The key of a client that is known by the address that stands for it.
    pub fn address(&self, client: IpAddr) -> ClientKey {
        ClientKey(self.secret.hash_one(standing_for(client)))
    }

    /// Notes where a client is; to be called with each of its requests and when one of its tunnels ends. A full memory
    /// takes in nobody new.
    pub fn saw(&self, key: ClientKey, server: u64) {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        if let Some(entry) = shard.get_mut(&key.0) {
            if entry.due <= now {
                entry.wishes = 0;
            }
            entry.server = server;
            entry.due = self.due(now);
        } else if self.len.fetch_update(Relaxed, Relaxed, |len| (len < self.max).then_some(len + 1)).is_ok() {
            shard.insert(key.0, Entry { server, due: self.due(now), period: self.period(now), wishes: 0 });
        }
    }

    /// The server that a client was on last, if it has a wish left.
    pub fn find(&self, key: ClientKey) -> Option<u64> {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let entry = shard.get_mut(&key.0).filter(|entry| entry.due > now)?;
        let period = self.period(now);
        if entry.period != period {
            (entry.period, entry.wishes) = (period, 0);
        }
        entry.wishes = (entry.wishes < self.wishes).then_some(entry.wishes + 1)?;
        Some(entry.server)
    }

    /// Moves the clock to `now` and removes what has expired; to be called at least once a second.
    pub fn sweep(&self, now: Instant) {
        let before = self.clock.now();
        let now = self.clock.advance(now);
        // Each shard has its turn about once a minute, and all of them when the clock has leapt.
        for index in (before..now).take(SHARDS).map(|second| second as usize % SHARDS) {
            let mut shard = self.shards[index].lock();
            let len = shard.len();
            shard.retain(|_, entry| entry.due > now);
            self.len.fetch_sub(len - shard.len(), Relaxed);
            if shard.capacity() > 4 * shard.len() + 64 {
                let len = shard.len();
                shard.shrink_to(2 * len);
            }
        }
    }

    /// Clients in the memory, with those that have expired within the last minute.
    fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    fn shard(&self, key: ClientKey) -> MutexGuard<'_, Part> {
        // The maps look at the lowest bits and the highest seven.
        self.shards[(key.0 >> 40) as usize % SHARDS].lock()
    }

    fn due(&self, now: u32) -> u32 {
        now.saturating_add(self.keep.saturating_add(LAG))
    }

    /// Lifetimes since the start; only whether two are the same matters.
    fn period(&self, now: u32) -> u16 {
        (now / self.keep) as u16
    }
}

impl fmt::Debug for Returning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Returning").field("len", &self.len()).field("max", &self.max).finish_non_exhaustive()
    }
}

type Part = HashMap<u64, Entry, BuildHasherDefault<AsIs>>;

struct Entry {
    server: u64,
    /// When it expires, in seconds of the clock.
    due: u32,
    /// The lifetime that `wishes` counts in.
    period: u16,
    /// How often the entry has placed its client.
    wishes: u16,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: Duration = Duration::from_secs(120);
    const WISHES: u16 = 4;

    fn at(memory: &Returning, second: u64) {
        memory.sweep(memory.clock.start() + Duration::from_secs(second));
    }

    #[test]
    fn a_client_that_comes_back_finds_its_server_for_a_while() {
        let memory = Returning::new(10, KEEP, WISHES);
        let key = memory.address([192, 0, 2, 7].into());
        assert_eq!(memory.find(key), None);
        memory.saw(key, 1);
        memory.saw(key, 2);
        at(&memory, 121);
        assert_eq!(memory.find(key), Some(2));
        memory.saw(key, 2);
        at(&memory, 200);
        assert_eq!(memory.find(key), Some(2));
        at(&memory, 121 + 122);
        assert_eq!(memory.find(key), None);
        at(&memory, 121 + 122 + 64);
        assert_eq!(memory.len(), 0);
    }

    #[test]
    fn an_address_of_many_clients_is_a_wish_only_a_few_times() {
        let memory = Returning::new(10, KEEP, WISHES);
        let key = memory.address([192, 0, 2, 7].into());
        let mut placed = 0;
        for second in 0..600 {
            at(&memory, second);
            memory.saw(key, 1);
            placed += usize::from(memory.find(key) == Some(1));
        }
        assert_eq!(placed, 5 * usize::from(WISHES));
    }

    #[test]
    fn clients_are_told_apart_as_placement_does() {
        let memory = Returning::new(10, KEEP, WISHES);
        let key = |address: &str| memory.address(address.parse().unwrap());
        assert_eq!(key("192.0.2.7"), key("::ffff:192.0.2.7"));
        assert_ne!(key("192.0.2.7"), key("192.0.2.8"));
        assert_eq!(key("2001:db8:1:2:aaaa::1"), key("2001:db8:1:2:bbbb::2"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    }

    #[test]
    fn the_memory_is_bounded_and_makes_room_in_time() {
        let memory = Returning::new(100, KEEP, WISHES);
        let key = |client: u32| memory.address(IpAddr::V4(client.into()));
        for client in 0..1000 {
            memory.saw(key(client), 1);
        }
        assert_eq!(memory.len(), 100);
        assert_eq!((0..1000).filter(|&client| memory.find(key(client)).is_some()).count(), 100);
        for second in 1..=200 {
            at(&memory, second);
        }
        assert_eq!(memory.len(), 0);
        memory.saw(key(2000), 3);
        assert_eq!(memory.find(key(2000)), Some(3));
        assert!(memory.shards.iter().all(|shard| shard.lock().capacity() <= 64));
    }

    #[tokio::test(start_paused = true)]
    async fn the_sweeping_task_forgets_and_ends_with_the_memory() {
        let memory = Returning::new(100, Duration::from_millis(500), WISHES);
        let sweeper = tokio::spawn(memory.run());
        memory.saw(memory.address([192, 0, 2, 7].into()), 1);
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!(memory.len(), 0);
        drop(memory);
        sweeper.await.unwrap();
    }

    proptest! {
        #[test]
        fn nobody_is_sent_where_he_was_not_seen(steps in prop::collection::vec((0..8u32, 0..4u64, 0..30u64), 1..100)) {
            let memory = Returning::new(4, KEEP, WISHES);
            let mut last = HashMap::new();
            let mut second = 0;
            for (client, server, pass) in steps {
                let key = memory.address(IpAddr::V4(client.into()));
                if let Some(found) = memory.find(key) {
                    prop_assert_eq!(last.get(&client).copied(), Some(found));
                }
                memory.saw(key, server);
                last.insert(client, server);
                second += pass;
                at(&memory, second);
                let there: usize = memory.shards.iter().map(|shard| shard.lock().len()).sum();
                prop_assert!(memory.len() == there && there <= 4);
            }
        }
    }
}
