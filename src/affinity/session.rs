//! The memory of sessions: which server each one lives on. Who learns from answers and who routes is not known here.
//!
//! A session is known by a keyed hash of its id, so neither a core dump nor the status page gives ids away, and nobody
//! outside can make two ids collide. A million sessions take some 70 MiB; a look-up takes no memory and writes to
//! nothing that another session shares but its shard.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::shards::{AsIs, Clock, LAG, Shard, sweeping};

/// Session → server, for one upstream. It outlives reloads.
pub struct SessionTable {
    secret: RandomState,
    shards: Box<[Shard<Part>]>,
    homes: Mutex<HashMap<u64, Arc<Home>>>,
    clock: Clock,
    len: AtomicUsize,
    max: AtomicUsize,
    /// The shard that the next sweep begins with.
    next: AtomicUsize,
}

/// What the table calls a session: a hash of its id that means nothing outside this table. It is made once for a request
/// and kept with it, as its log does in place of the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 2]);

/// A server as the table sees it: the sessions that live there.
#[derive(Debug)]
pub struct Home {
    server: u64,
    live: AtomicUsize,
    opened: AtomicU64,
    closed: AtomicU64,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The server it lives on.
    pub server: u64,
    marks: u8,
}

/// What may be noted about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// The server offered a WebSocket.
    Offered = 1,
    /// It went on to a WebSocket for good: when the last of its tunnels ends, so does it.
    Upgraded = 2,
    /// Its server drains, and this session's turn to leave has come.
    Leaving = 4,
}

/// Forgotten while a tunnel held it: nobody finds it, but its place is taken until the tunnel ends.
const ENDED: u8 = 8;

/// How a session became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The server answered a handshake.
    Handshake,
    /// The server knew a session that the table did not, or knew to be elsewhere.
    Rescue,
}

/// What [`SessionTable::learn`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The session is new.
    New,
    /// It was known to live there.
    Known,
    /// It was known to live on another server.
    Moved,
    /// The table is full of live sessions; nothing was learned.
    Full,
}

/// What the table ever did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions learned from handshakes.
    pub learned: u64,
    /// Sessions learned by rescue.
    pub rescued: u64,
    /// Sessions that were learned again on another server.
    pub moved: u64,
    /// Sessions that fell silent, or whose tunnel ended.
    pub expired: u64,
    /// Sessions that were forgotten on purpose.
    pub forgotten: u64,
    /// Sessions that were not learned because the table was full.
    pub refused: u64,
    /// Look-ups that found their session.
    pub found: u64,
    /// Look-ups that did not.
    pub unknown: u64,
}

/// Keeps a session from expiring while one of its tunnels is open; dropped with the tunnel.
#[derive(Debug)]
pub struct Held {
    table: Arc<SessionTable>,
    key: Key,
}

/// Parts of the table with a lock each. A sweep holds one for some microseconds, everything else for nanoseconds.
const SHARDS: usize = 512;
/// Shards that one sweep looks at, so that each has its turn every four seconds and no worker is away for long.
const SHARDS_PER_SWEEP: usize = SHARDS / 16;
/// How long a session stays known when its last tunnel has ended, in seconds: enough for requests on their way.
const AFTER_TUNNEL: u32 = 5;

impl SessionTable {
    /// An empty table for at most `max` sessions, whose clock stands still until [`Self::run`] is polled.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            secret: RandomState::new(),
            shards: Shard::several(SHARDS),
            homes: Mutex::default(),
            clock: Clock::new(),
            len: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            next: AtomicUsize::new(0),
        })
    }

    /// Sweeps four times a second for as long as somebody else has the table.
    pub fn run(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        sweeping(Arc::downgrade(self), Self::sweep)
    }

    /// What the table calls the session with this id.
    pub fn key(&self, sid: &str) -> Key {
        // One secret and two prefixes: SipHash makes two unrelated halves of them, as any keyed pseudorandom function.
        Key([0, 1].map(|half| {
            let mut hasher = self.secret.build_hasher();
            hasher.write_u8(half);
            hasher.write(sid.as_bytes());
            hasher.finish()
        }))
    }

    /// The home that stands for a server. Its totals last for as long as somebody keeps it or a session lives there.
    pub fn home(&self, server: u64) -> Arc<Home> {
        self.homes().entry(server).or_insert_with(|| Arc::new(Home::new(server))).clone()
    }

    /// Notes that a session lives on a server, until it has been silent for `life`: at most 18 h, in whole seconds.
    pub fn learn(&self, key: Key, home: &Arc<Home>, life: Duration, how: How) -> Learned {
        let now = self.clock.now();
        let life = seconds(life);
        let mut shard = self.shard(key);
        if let Some(entry) = shard.live(key, now) {
            entry.life = life;
            entry.renew(now);
            if entry.home.server == home.server {
                return Learned::Known;
            }
            entry.marks &= !(Mark::Leaving as u8);
            entry.settle(home);
            shard.totals.moved += 1;
            return Learned::Moved;
        }
        match shard.sessions.get_mut(&key) {
            Some(ended) if !ended.is_over(now) => {
                ended.life = life;
                ended.renew(now);
                ended.marks = 0;
                ended.settle(home);
            }
            over => {
                if over.is_some() {
                    self.remove(&mut shard, key);
                    shard.totals.expired += 1;
                }
                if !self.make_room(&mut shard, now) {
                    shard.totals.refused += 1;
                    return Learned::Full;
                }
                home.open();
                let mut entry = Entry { home: home.clone(), due: 0, life, holds: 0, marks: 0 };
                entry.renew(now);
                shard.sessions.insert(key, entry);
            }
        }
        match how {
            How::Handshake => shard.totals.learned += 1,
            How::Rescue => shard.totals.rescued += 1,
        }
        Learned::New
    }

    /// Where a session lives; that it was asked for keeps it alive.
    pub fn find(&self, key: Key) -> Option<Found> {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let Some(entry) = shard.live(key, now) else {
            shard.totals.unknown += 1;
            return None;
        };
        entry.renew(now);
        let found = Found { server: entry.home.server, marks: entry.marks };
        shard.totals.found += 1;
        Some(found)
    }

    /// Notes something about a session. False if it was noted before, or the session isn't known.
    pub fn mark(&self, key: Key, mark: Mark) -> bool {
        let now = self.clock.now();
        self.shard(key).live(key, now).is_some_and(|entry| {
            let new = entry.marks & mark as u8 == 0;
            entry.marks |= mark as u8;
            new
        })
    }

    /// Keeps a session from expiring until the guard is dropped. `None` if it isn't known, or 255 tunnels hold it: no
    /// client has more than one or two.
    pub fn hold(self: &Arc<Self>, key: Key) -> Option<Held> {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let entry = shard.live(key, now)?;
        entry.holds = entry.holds.checked_add(1)?;
        Some(Held { table: self.clone(), key })
    }

    /// Forgets a session that is known to be over. False if it wasn't known.
    pub fn forget(&self, key: Key) -> bool {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let Some(entry) = shard.live(key, now) else { return false };
        if entry.holds > 0 {
            entry.marks |= ENDED;
        } else {
            self.remove(&mut shard, key);
        }
        shard.totals.forgotten += 1;
        true
    }

    /// Moves the clock to `now` and removes what has expired, from a sixteenth of the table; to be called four times a second.
    pub fn sweep(&self, now: Instant) {
        let now = self.clock.advance(now);
        let first = self.next.fetch_add(SHARDS_PER_SWEEP, Relaxed);
        for step in 0..SHARDS_PER_SWEEP {
            self.sweep_shard(&mut self.shards[first.wrapping_add(step) % SHARDS].lock(), now);
        }
        self.homes().retain(|_, home| Arc::strong_count(home) > 1);
    }

    /// Sessions in the table, with those that have expired within the last four seconds.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Whether the table holds no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions that live on a server.
    pub fn sessions_on(&self, server: u64) -> usize {
        self.homes().get(&server).map_or(0, |home| home.live())
    }

    /// The sessions that live on a server, in no order. It walks the whole table: for drains and operators, not for requests.
    pub fn keys_on(&self, server: u64) -> Vec<Key> {
        let now = self.clock.now();
        let mut keys = Vec::with_capacity(self.sessions_on(server));
        for shard in &self.shards {
            let shard = shard.lock();
            let there = shard.sessions.iter().filter(|(_, entry)| entry.home.server == server && entry.is_live(now));
            keys.extend(there.map(|(&key, _)| key));
        }
        keys
    }

    /// What the table ever did.
    pub fn totals(&self) -> Totals {
        self.shards.iter().fold(Totals::default(), |sum, shard| sum.plus(&shard.lock().totals))
    }

    /// Most sessions to remember.
    pub fn max(&self) -> usize {
        self.max.load(Relaxed)
    }

    /// Changes the limit; sessions beyond a lower one stay until they end.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Relaxed);
    }

    fn release(&self, key: Key) {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let Some(entry) = shard.sessions.get_mut(&key) else { return };
        entry.holds -= 1;
        if entry.holds > 0 {
            return;
        }
        if entry.marks & ENDED != 0 {
            self.remove(&mut shard, key);
            return;
        }
        let soon = now.saturating_add(AFTER_TUNNEL + LAG);
        // A WebSocket that was only tried leaves a session that goes on polling, and one poll may be under way.
        entry.due = if entry.marks & Mark::Upgraded as u8 != 0 { soon } else { entry.due.max(soon) };
    }

    /// Counts one more session if there is room, or if there is when the expired ones of the shard have gone.
    fn make_room(&self, shard: &mut Part, now: u32) -> bool {
        let take = || {
            let max = self.max.load(Relaxed);
            self.len.fetch_update(Relaxed, Relaxed, |len| (len < max).then_some(len + 1)).is_ok()
        };
        // Once for each tick: else a flood of handshakes would have the shard swept by every one of them.
        take() || shard.swept != now && self.sweep_shard(shard, now) > 0 && take()
    }

    fn sweep_shard(&self, shard: &mut Part, now: u32) -> usize {
        shard.swept = now;
        let before = shard.sessions.len();
        if before == 0 {
            return 0;
        }
        shard.sessions.retain(|_, entry| {
            let over = entry.is_over(now);
            if over {
                entry.home.close();
            }
            !over
        });
        let len = shard.sessions.len();
        if shard.sessions.capacity() > 4 * len + 64 {
            shard.sessions.shrink_to(2 * len);
        }
        let gone = before - len;
        self.len.fetch_sub(gone, Relaxed);
        shard.totals.expired += gone as u64;
        gone
    }

    fn remove(&self, shard: &mut Part, key: Key) {
        if let Some(entry) = shard.sessions.remove(&key) {
            entry.home.close();
            self.len.fetch_sub(1, Relaxed);
        }
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Part> {
        self.shards[key.0[1] as usize % SHARDS].lock()
    }

    fn homes(&self) -> MutexGuard<'_, HashMap<u64, Arc<Home>>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTable").field("len", &self.len()).field("max", &self.max()).finish_non_exhaustive()
    }
}

impl fmt::Display for Key {
    /// Half of it, which is plenty to tell sessions apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0[0])
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

impl Home {
    fn new(server: u64) -> Self {
        Self { server, live: AtomicUsize::new(0), opened: AtomicU64::new(0), closed: AtomicU64::new(0) }
    }

    /// The server it stands for.
    pub fn server(&self) -> u64 {
        self.server
    }

    /// Sessions that live there.
    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }

    /// Sessions that ever lived there.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Sessions that lived there and are gone.
    pub fn closed(&self) -> u64 {
        self.closed.load(Relaxed)
    }

    fn open(&self) {
        self.live.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
    }

    /// Ends what [`Self::open`] began under the same lock, so that `live` never falls below zero.
    fn close(&self) {
        self.live.fetch_sub(1, Relaxed);
        self.closed.fetch_add(1, Relaxed);
    }
}

impl Found {
    /// Whether this was noted about the session.
    pub fn is(&self, mark: Mark) -> bool {
        self.marks & mark as u8 != 0
    }
}

impl Totals {
    fn plus(mut self, other: &Self) -> Self {
        self.learned += other.learned;
        self.rescued += other.rescued;
        self.moved += other.moved;
        self.expired += other.expired;
        self.forgotten += other.forgotten;
        self.refused += other.refused;
        self.found += other.found;
        self.unknown += other.unknown;
        self
    }
}

impl Held {
    /// The session that is held.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The session was told goodbye: if it went on to this tunnel for good, it is over.
    pub fn end(&self) {
        let now = self.table.clock.now();
        let mut shard = self.table.shard(self.key);
        if let Some(entry) = shard.live(self.key, now).filter(|entry| entry.marks & Mark::Upgraded as u8 != 0) {
            entry.marks |= ENDED;
            shard.totals.forgotten += 1;
        }
    }

    /// Notes that the session went on to this tunnel for good. False if that was known.
    pub fn upgraded(&self) -> bool {
        self.table.mark(self.key, Mark::Upgraded)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.release(self.key);
    }
}

#[derive(Default)]
struct Part {
    sessions: HashMap<Key, Entry, BuildHasherDefault<AsIs>>,
    /// When it was last swept.
    swept: u32,
    totals: Totals,
}

impl Part {
    fn live(&mut self, key: Key, now: u32) -> Option<&mut Entry> {
        self.sessions.get_mut(&key).filter(|entry| entry.is_live(now))
    }
}

struct Entry {
    home: Arc<Home>,
    /// When it expires, unless a tunnel holds it; in seconds since the start of the table.
    due: u32,
    /// How long it may be silent, in seconds.
    life: u16,
    /// Tunnels that hold it.
    holds: u8,
    marks: u8,
}

impl Entry {
    fn renew(&mut self, now: u32) {
        self.due = now.saturating_add(u32::from(self.life) + LAG);
    }

    fn settle(&mut self, home: &Arc<Home>) {
        home.open();
        std::mem::replace(&mut self.home, home.clone()).close();
    }

    fn is_over(&self, now: u32) -> bool {
        self.holds == 0 && self.due <= now
    }

    fn is_live(&self, now: u32) -> bool {
        !self.is_over(now) && self.marks & ENDED == 0
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u16 {
    u16::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
