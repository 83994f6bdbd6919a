//! Connections to servers that wait for another request: the one that was used last goes first, and none waits for as
//! long as its server would.
//!
//! Each thread has its own, so that threads need not wait for each other; one that has none takes another's.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fnv::FnvBuildHasher;

use crate::address::ServerAddress;
use crate::transport::Transport;
use crate::upstream::Lease;

/// The connections that an engine keeps.
pub(super) struct Kept {
    /// The most that a thread keeps over all servers.
    most: usize,
    shared: Arc<Shared>,
}

/// Connections that a thread keeps to one server.
const MOST_PER_SERVER: usize = 256;
/// How often those are closed whose time is over and that nobody has asked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Threads beyond this many share what they keep.
const SHARDS: usize = 16;

#[derive(Default)]
struct Shared {
    shards: [Mutex<Pools>; SHARDS],
    sweeping: AtomicBool,
}

/// What one thread keeps.
#[derive(Default)]
struct Pools {
    /// By the group of the upstream, whose terms they were opened on, and the server.
    by_server: HashMap<(u64, u64), Pool, FnvBuildHasher>,
    count: usize,
}

/// The connections to one server, those that were used last at the back.
struct Pool {
    address: ServerAddress,
    idle: VecDeque<Idle>,
}

struct Idle {
    stream: Transport,
    until: Instant,
}

impl Kept {
    /// Keeps this many for each thread at most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, shared: Arc::default() }
    }

    /// A connection to the server of this lease, if there is one that can be used.
    pub(super) fn take(&self, lease: &Lease) -> Option<Transport> {
        if lease.upstream().tells_of_clients() {
            return None;
        }
        let own = own_shard();
        (0..SHARDS).find_map(|other| self.shared.lock((own + other) % SHARDS).take(lease))
    }

    /// Keeps a connection on which nothing is under way, unless it is for one client.
    pub(super) fn put(&self, lease: &Lease, stream: Transport) {
        let time = lease.upstream().config().timeouts.keep_alive;
        // What it says now was not asked for, or is its end.
        if time.is_zero() || lease.upstream().tells_of_clients() || stream.socket().is_readable() {
            return;
        }
        let kept = Idle { stream, until: Instant::now() + time };
        if !self.shared.lock(own_shard()).put(lease, kept, self.most) {
            return;
        }
        let Shared { sweeping, .. } = &*self.shared;
        if !sweeping.load(Ordering::SeqCst) && !sweeping.swap(true, Ordering::SeqCst) {
            tokio::spawn(sweep(Arc::clone(&self.shared)));
        }
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        for shard in 0..SHARDS {
            let gone = std::mem::take(&mut *self.shared.lock(shard));
            drop(gone);
        }
    }
}

impl Shared {
    fn lock(&self, shard: usize) -> MutexGuard<'_, Pools> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those whose time is over. True where none is left.
    fn close_overdue(&self) -> bool {
        let now = Instant::now();
        (0..SHARDS).fold(true, |empty, shard| {
            let mut pools = self.lock(shard);
            let over = pools.take_overdue(now);
            let left = pools.count;
            drop(pools);
            drop(over);
            empty && left == 0
        })
    }
}

impl Pools {
    fn take(&mut self, lease: &Lease) -> Option<Transport> {
        let pool = self.by_server.get_mut(&key(lease))?;
        if pool.address != *lease.server().address() {
            return None;
        }
        let mut now = None;
        while let Some(Idle { stream, until }) = pool.idle.pop_back() {
            self.count -= 1;
            if !stream.socket().is_readable() && *now.get_or_insert_with(Instant::now) < until {
                return Some(stream);
            }
        }
        None
    }

    /// False where there are enough.
    fn put(&mut self, lease: &Lease, kept: Idle, most: usize) -> bool {
        let address = lease.server().address();
        let empty = || Pool { address: address.clone(), idle: VecDeque::new() };
        let pool = self.by_server.entry(key(lease)).or_insert_with(empty);
        if pool.address != *address {
            // A server of this name has moved.
            self.count -= pool.idle.len();
            *pool = empty();
        }
        let free = self.count < most && pool.idle.len() < MOST_PER_SERVER;
        if free {
            pool.idle.push_back(kept);
            self.count += 1;
        }
        free
    }

    fn take_overdue(&mut self, now: Instant) -> Vec<Idle> {
        let mut over = Vec::new();
        self.by_server.retain(|_, pool| {
            // Their times are the same, nearly always: who came first goes first.
            while pool.idle.front().is_some_and(|idle| idle.until <= now) {
                over.extend(pool.idle.pop_front());
            }
            !pool.idle.is_empty()
        });
        self.count -= over.len();
        over
    }
}

fn key(lease: &Lease) -> (u64, u64) {
    (lease.upstream().group, lease.server().id().to_bits())
}

/// The place of this thread.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    OWN.with(|&own| own)
}

/// Closes those whose time is over, until there is none left.
async fn sweep(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if shared.close_overdue() {
            shared.sweeping.store(false, Ordering::SeqCst);
            // Whoever has kept one before that counts on this sweep.
            if shared.close_overdue() || shared.sweeping.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}
