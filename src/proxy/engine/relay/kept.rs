//! Connections to servers that wait for another request: the one that was used last goes first, and none waits for as
//! long as its server would.
//!
//! Each thread has its own, so that threads need not wait for each other; one that has none takes another's.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::transport::Transport;
use crate::upstream::{Lease, Whereabouts};

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
pub(super) const SHARDS: usize = 16;

#[derive(Default)]
struct Shared {
    shards: [Mutex<Pools>; SHARDS],
    sweeping: AtomicBool,
}

/// What one thread keeps.
#[derive(Default)]
struct Pools {
    /// By the group of the upstream, whose terms they were opened on, and the server.
    by_server: HashMap<(u64, u64), Pool, BuildHasherDefault<Mixed>>,
    count: usize,
}

/// Hashes numbers that nobody outside has a say in.
#[derive(Default)]
pub(super) struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 over the golden ratio: neighbours come to lie far apart.
        self.0 = (self.0.rotate_left(26) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// The connections to one server, those that were used last at the back.
struct Pool {
    at: Whereabouts,
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
        // Its server may have moved while it was in use.
        if !lease.server().is_reached_at(|| stream.socket().peer_addr()) {
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
        if !lease.server().is_at(&pool.at) {
            // The server has moved, or another one has its name.
            self.count -= pool.idle.len();
            pool.idle.clear();
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
        let server = lease.server();
        let empty = || Pool { at: server.whereabouts(), idle: VecDeque::new() };
        let pool = self.by_server.entry(key(lease)).or_insert_with(empty);
        if !server.is_at(&pool.at) {
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

/// Where a server's connections are kept.
pub(super) fn key(lease: &Lease) -> (u64, u64) {
    (lease.upstream().group, lease.server().id().to_bits())
}

/// The place of this thread.
pub(super) fn own_shard() -> usize {
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;
    use crate::transport::Socket;
    use crate::upstream::testing::upstream;

    #[tokio::test]
    async fn a_thread_that_has_kept_none_takes_anothers() {
        let upstream = upstream(json!({ "servers": ["127.0.0.1:1", "127.0.0.1:2"] }));
        let [one, two] = [0, 1].map(|at| upstream.place_on(upstream.servers()[at].id()).unwrap());
        let (kept, (ours, _theirs)) = (Kept::new(10), UnixStream::pair().unwrap());
        let stream = Transport::Plain(Socket::Unix(ours));
        let until = Instant::now() + Duration::from_secs(60);
        let another = (own_shard() + 1) % SHARDS;
        assert!(kept.shared.lock(another).put(&one, Idle { stream, until }, 10));
        assert!(kept.take(&two).is_none(), "it is to the other server");
        assert!(kept.take(&one).is_some());
        assert!(kept.take(&one).is_none(), "and it is taken once");
    }

    #[tokio::test]
    async fn what_is_overdue_or_has_ended_is_not_taken() {
        let upstream = upstream(json!({ "servers": ["127.0.0.1:1"] }));
        let lease = upstream.place_on(upstream.servers()[0].id()).unwrap();
        let kept = Kept::new(10);
        let later = Instant::now() + Duration::from_secs(60);
        let ((overdue, _theirs), (ended, theirs)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        drop(theirs);
        ended.readable().await.unwrap();
        for (stream, until) in [(overdue, Instant::now()), (ended, later)] {
            let stream = Transport::Plain(Socket::Unix(stream));
            assert!(kept.shared.lock(own_shard()).put(&lease, Idle { stream, until }, 10));
            assert!(kept.take(&lease).is_none());
        }
        assert_eq!(kept.shared.lock(own_shard()).count, 0);
    }

    #[tokio::test]
    async fn a_server_whose_name_has_moved_is_not_met_on_a_connection_of_before() {
        let upstream = upstream(json!({ "servers": ["localhost:7"] }));
        let server = upstream.servers()[0].clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let connect = async || Transport::Plain(Socket::Tcp(TcpStream::connect(here).await.unwrap()));
        server.set_addresses(vec![here]);
        assert!(server.try_acquire());
        let (kept, lease) = (Kept::new(10), Lease::new(upstream.clone(), server.clone(), None));
        kept.put(&lease, connect().await);
        let in_use = kept.take(&lease).expect("its name has not moved");
        kept.put(&lease, connect().await);
        // One more address takes nothing from those that are known; the loss of one does.
        let (there, elsewhere) = ("127.0.0.9:9".parse().unwrap(), "127.0.0.8:8".parse().unwrap());
        server.set_addresses(vec![here, there]);
        let other = kept.take(&lease).expect("it still is where it was");
        kept.put(&lease, other);
        server.set_addresses(vec![there]);
        assert!(kept.take(&lease).is_none());
        kept.put(&lease, in_use);
        assert_eq!(kept.shared.lock(own_shard()).count, 0, "one that was in use meanwhile is not kept");
        server.set_addresses(vec![here, elsewhere]);
        kept.put(&lease, connect().await);
        assert!(kept.take(&lease).is_some());
    }
}
