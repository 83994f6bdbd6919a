//! Connections to servers that wait for another request: the one that was used last goes first, and none waits for as
//! long as its server would.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use fnv::FnvBuildHasher;

use crate::address::ServerAddress;
use crate::transport::{Socket, Transport};
use crate::upstream::Lease;

/// The connections that an engine keeps.
pub(super) struct Kept {
    /// The most that are kept over all servers.
    most: usize,
    pools: Arc<Mutex<Pools>>,
}

/// Connections that are kept to one server.
const MOST_PER_SERVER: usize = 256;
/// How often those are closed whose time is over and that nobody has asked for.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Pools {
    /// By the group of the upstream, whose terms they were opened on, and the server.
    by_server: HashMap<(u64, u64), Pool, FnvBuildHasher>,
    count: usize,
    sweeping: bool,
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
    /// Keeps this many at most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, pools: Arc::default() }
    }

    /// A connection to the server of this lease, if there is one that can be used.
    pub(super) fn take(&self, lease: &Lease) -> Option<Transport> {
        let mut pools = lock(&self.pools);
        let Pools { by_server, count, .. } = &mut *pools;
        let pool = by_server.get_mut(&key(lease))?;
        if pool.address != *lease.server().address() {
            return None;
        }
        let mut now = None;
        while let Some(Idle { stream, until }) = pool.idle.pop_back() {
            *count -= 1;
            if is_quiet(&stream) && *now.get_or_insert_with(Instant::now) < until {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way.
    pub(super) fn put(&self, lease: &Lease, stream: Transport) {
        let time = lease.upstream().config().timeouts.keep_alive;
        // This takes the waker of whoever has used it off it, too.
        if time.is_zero() || !is_quiet(&stream) {
            return;
        }
        let mut pools = lock(&self.pools);
        let Pools { by_server, count, sweeping } = &mut *pools;
        if *count >= self.most {
            return;
        }
        let address = lease.server().address();
        let pool =
            by_server.entry(key(lease)).or_insert_with(|| Pool { address: address.clone(), idle: VecDeque::new() });
        if pool.address != *address {
            // A server of this name has moved.
            *count -= pool.idle.len();
            *pool = Pool { address: address.clone(), idle: VecDeque::new() };
        }
        if pool.idle.len() >= MOST_PER_SERVER {
            return;
        }
        pool.idle.push_back(Idle { stream, until: Instant::now() + time });
        *count += 1;
        if !std::mem::replace(sweeping, true) {
            tokio::spawn(sweep(Arc::clone(&self.pools)));
        }
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        let mut pools = lock(&self.pools);
        pools.count = 0;
        let gone = std::mem::take(&mut pools.by_server);
        drop(pools);
        drop(gone);
    }
}

fn key(lease: &Lease) -> (u64, u64) {
    (lease.upstream().group, lease.server().id().to_bits())
}

fn lock(pools: &Mutex<Pools>) -> MutexGuard<'_, Pools> {
    pools.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the server has said nothing that was not asked for, its end included: the runtime has heard of it if it has,
/// so that this takes no system call.
fn is_quiet(stream: &Transport) -> bool {
    let mut nobody = Context::from_waker(Waker::noop());
    match stream.socket() {
        Socket::Tcp(socket) => socket.poll_read_ready(&mut nobody).is_pending(),
        Socket::Unix(socket) => socket.poll_read_ready(&mut nobody).is_pending(),
    }
}

/// Closes those whose time is over, until there is none left.
async fn sweep(pools: Arc<Mutex<Pools>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let now = Instant::now();
        let mut over = Vec::new();
        let mut pools = lock(&pools);
        let Pools { by_server, count, sweeping } = &mut *pools;
        by_server.retain(|_, pool| {
            // Their times are the same, nearly always: who came first goes first.
            while pool.idle.front().is_some_and(|idle| idle.until <= now) {
                over.extend(pool.idle.pop_front());
                *count -= 1;
            }
            !pool.idle.is_empty()
        });
        if *count == 0 {
            *sweeping = false;
            return;
        }
    }
}
