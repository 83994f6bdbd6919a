//! The memory of sessions: which server each one lives on. Who learns from answers and who routes is not known here.
//!
//! A session is known by a keyed hash of its id, so neither a core dump nor the status page gives ids away, and nobody
//! outside can make two ids collide. A million sessions take some 90 MiB; a look-up takes no memory and writes to
//! nothing that another session shares but its shard.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use siphasher::sip::SipHasher24;
use tokio::time::Instant;

use super::home::Home;
use super::shards::{AsIs, Clock, LAG, Shard, sweeping};
use super::totals::{Cause, Totals};
use super::upgrades::{Recent, Upgrades};

mod entry;
mod held;
mod listing;
mod moving;

pub use held::Held;
pub use listing::Listed;
pub use moving::Moving;

use entry::{ENDED, Entry, GUESSED, LOST, UNUSED};

/// Session → server, for one upstream. It outlives reloads.
pub struct SessionTable {
    /// What makes the hashes; the process that takes over has the same.
    secret: [AtomicU64; 2],
    shards: Box<[Shard<Part>]>,
    homes: Mutex<HashMap<u64, Arc<Home>>>,
    clock: Clock,
    len: AtomicUsize,
    max: AtomicUsize,
    upgrades: Upgrades,
    /// The shard that the next sweep begins with.
    next: AtomicUsize,
    /// Places in the queues of those that were not used.
    unused: AtomicUsize,
}

/// What the table calls a session: a hash of its id that means nothing outside this table. It is made once for a request
/// and kept with it; logs print it in place of the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 2]);

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
    /// It is on a WebSocket for good: when the last of its tunnels ends, so does it.
    Upgraded = 2,
    /// Its server drains, and this session's turn to leave has come.
    Leaving = 4,
}

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

/// How a session came to its WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The time from its handshake; `None` if that was not seen here.
    pub after: Option<Duration>,
}

/// Parts of the table with a lock each. A sweep holds one for some microseconds, everything else for nanoseconds.
const SHARDS: usize = 512;
/// Shards that one sweep looks at, so that each has its turn every four seconds and no worker is away for long.
const SHARDS_PER_SWEEP: usize = SHARDS / 16;
/// How long the way to a session that is over is still known, in seconds: enough for requests that are under way.
const AFTERGLOW: u32 = 5;
impl SessionTable {
    /// An empty table for at most `max` sessions, whose clock stands still until [`Self::run`] is polled.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            secret: rand::random::<[u64; 2]>().map(AtomicU64::new),
            shards: Shard::several(SHARDS),
            homes: Mutex::default(),
            clock: Clock::new(),
            len: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            upgrades: Upgrades::new(),
            next: AtomicUsize::new(0),
            unused: AtomicUsize::new(0),
        })
    }

    /// Sweeps four times a second for as long as somebody else has the table.
    pub fn run(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        sweeping(Arc::downgrade(self), Self::sweep)
    }

    /// What the table calls the session with this id.
    pub fn key(&self, sid: &str) -> Key {
        // One secret and two prefixes: SipHash makes two unrelated halves of them, as any keyed pseudorandom function.
        let [first, second] = self.secret();
        Key([0, 1].map(|half| {
            let mut hasher = SipHasher24::new_with_keys(first, second);
            hasher.write_u8(half);
            hasher.write(sid.as_bytes());
            hasher.finish()
        }))
    }

    /// What the hashes are made with: who has it can tell a session by its id.
    pub fn secret(&self) -> [u64; 2] {
        [0, 1].map(|half: usize| self.secret[half].load(Relaxed))
    }

    /// Makes hashes with the secret of another table from now on; to be called before there is any.
    pub fn share_secret(&self, secret: [u64; 2]) {
        (0..2).for_each(|half| self.secret[half].store(secret[half], Relaxed));
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
            // Who has found a session knows less of it than who saw its handshake.
            if how == How::Handshake || entry.marks & GUESSED != 0 {
                entry.life = life;
            }
            if how == How::Handshake {
                entry.marks &= !GUESSED;
            }
            entry.renew(now);
            entry.regain();
            if entry.home.server() == home.server() {
                return Learned::Known;
            }
            entry.marks &= !(Mark::Leaving as u8);
            entry.move_to(home);
            shard.totals.moved += 1;
            return Learned::Moved;
        }
        match shard.sessions.get_mut(&key) {
            Some(ended) if !ended.is_over(now) => {
                home.open();
                *ended = Entry {
                    holds: ended.holds,
                    ..Entry::new(home.clone(), life, how, self.clock.milliseconds() as u32)
                };
                ended.renew(now);
            }
            over => {
                if over.is_some() {
                    self.remove(&mut shard, key, Cause::Silent);
                }
                if !self.make_room(&mut shard, now) {
                    shard.totals.refused += 1;
                    return Learned::Full;
                }
                home.open();
                let mut entry = Entry::new(home.clone(), life, how, self.clock.milliseconds() as u32);
                entry.renew(now);
                shard.sessions.insert(key, entry);
            }
        }
        match how {
            How::Handshake => {
                shard.totals.learned += 1;
                shard.unused.push_back(key);
                self.unused.fetch_add(1, Relaxed);
            }
            How::Rescue => shard.totals.rescued += 1,
        }
        Learned::New
    }

    /// Where a session lives, or has lived until some seconds ago; that it was asked for keeps a living one alive.
    pub fn find(&self, key: Key) -> Option<Found> {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let Some(entry) = shard.sessions.get_mut(&key).filter(|entry| entry.is_known(now)) else {
            shard.totals.unknown += 1;
            return None;
        };
        if entry.is_live(now) {
            entry.marks &= !UNUSED;
            entry.renew(now);
            entry.regain();
        }
        let found = Found { server: entry.home.server(), marks: entry.marks };
        shard.totals.found += 1;
        Some(found)
    }

    /// Whether a session lives, and on another server.
    pub fn lives_elsewhere(&self, key: Key, server: u64) -> bool {
        let now = self.clock.now();
        self.shard(key).live(key, now).is_some_and(|entry| entry.home.server() != server)
    }

    /// How long a session may be silent before it is over: what it was learned with from its handshake, in whole seconds.
    /// `None` if it isn't known, or its handshake was not seen.
    pub fn silence(&self, key: Key) -> Option<Duration> {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let entry = shard.live(key, now)?;
        (entry.marks & GUESSED == 0).then(|| Duration::from_secs(entry.life.into()))
    }

    /// Notes something about a session. False if it was noted before, or the session isn't known.
    pub fn mark(&self, key: Key, mark: Mark) -> bool {
        let now = self.clock.now();
        self.shard(key).live(key, now).is_some_and(|entry| entry.mark(mark))
    }

    /// Notes that a session was offered a WebSocket. False if that was known, or the session isn't.
    pub fn offer(&self, key: Key) -> bool {
        let new = self.mark(key, Mark::Offered);
        if new {
            self.upgrades.offered(second(self.clock.milliseconds()));
        }
        new
    }

    /// Notes that a session has come to its WebSocket for good. `None` if that was known, or the session isn't.
    pub fn upgrade(&self, key: Key) -> Option<Upgrade> {
        let (now, exactly) = (self.clock.now(), self.clock.milliseconds());
        let opened = {
            let mut shard = self.shard(key);
            let entry = shard.live(key, now).filter(|entry| entry.marks & Mark::Upgraded as u8 == 0)?;
            entry.mark(Mark::Upgraded);
            (entry.marks & GUESSED == 0).then_some(entry.opened)
        };
        let after = opened.map(|opened| u64::from((exactly as u32).wrapping_sub(opened)));
        self.upgrades.reached(second(exactly.saturating_sub(after.unwrap_or(0))));
        Some(Upgrade { after: after.map(Duration::from_millis) })
    }

    /// What came of the WebSockets that were offered in the last minute.
    pub fn upgrades(&self) -> Recent {
        self.upgrades.recent(second(self.clock.milliseconds()))
    }

    /// Notes that the client of a session has lost its connections: until it is heard of again, the session is in nobody's
    /// way. One that is on a tunnel lives and ends with that.
    pub fn lose(&self, key: Key) {
        let now = self.clock.now();
        if let Some(entry) = self.shard(key).live(key, now).filter(|entry| entry.holds == 0 && entry.marks & LOST == 0)
        {
            entry.marks |= LOST;
            entry.home.lose();
        }
    }

    /// Forgets a session that is over: nobody will find it any more. False if it wasn't alive.
    pub fn forget(&self, key: Key, cause: Cause) -> bool {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let Some(entry) = shard.live(key, now) else { return false };
        if entry.holds > 0 {
            let lived = entry.end(now, self.clock.milliseconds());
            shard.totals.end(cause, lived);
        } else {
            self.remove(&mut shard, key, cause);
        }
        true
    }

    /// One side of a session has said goodbye to the other: it counts no more, but requests that are under way still find
    /// their way. False if it wasn't alive.
    pub fn goodbye(&self, key: Key, cause: Cause) -> bool {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let Some(entry) = shard.live(key, now) else { return false };
        let lived = entry.end(now.saturating_add(AFTERGLOW + LAG), self.clock.milliseconds());
        shard.totals.end(cause, lived);
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

    /// Sessions that live, wherever that is.
    pub fn live(&self) -> usize {
        self.homes().values().map(|home| home.live()).sum()
    }

    /// Sessions in the table, with those that have expired within the last four seconds, or ended within the last ten.
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

    /// Counts one more session if there is room, or if there is when the expired ones of the shard have gone, or one that
    /// nobody has come back with.
    fn make_room(&self, shard: &mut Part, now: u32) -> bool {
        let take = || {
            let max = self.max.load(Relaxed);
            self.len.fetch_update(Relaxed, Relaxed, |len| (len < max).then_some(len + 1)).is_ok()
        };
        // Once for each tick: else a flood of handshakes would have the shard swept by every one of them.
        take() || shard.swept != now && self.sweep_shard(shard, now) > 0 && take() || self.evict(shard) && take()
    }

    /// Forgets the oldest session of this shard, or of another one, that nobody has come back with. False if there is none.
    fn evict(&self, shard: &mut Part) -> bool {
        if self.evict_from(shard) {
            return true;
        }
        // Shards that others are in are passed over, and so is this one.
        self.unused.load(Relaxed) > 0
            && self.shards.iter().filter_map(Shard::try_lock).any(|mut other| self.evict_from(&mut other))
    }

    fn evict_from(&self, shard: &mut Part) -> bool {
        while let Some(key) = shard.unused.pop_front() {
            self.unused.fetch_sub(1, Relaxed);
            if shard.sessions.get(&key).is_some_and(Entry::is_unused) {
                self.remove(shard, key, Cause::Silent);
                return true;
            }
        }
        false
    }

    fn sweep_shard(&self, shard: &mut Part, now: u32) -> usize {
        shard.swept = now;
        let before = shard.sessions.len();
        if before == 0 && shard.unused.is_empty() {
            return 0;
        }
        let Part { sessions, unused, totals, .. } = shard;
        let exactly = self.clock.milliseconds();
        sessions.retain(|_, entry| {
            let over = entry.is_over(now);
            if over && entry.marks & ENDED == 0 {
                totals.end(Cause::Silent, entry.end(now, exactly));
            }
            !over
        });
        let waited = unused.len();
        unused.retain(|key| sessions.get(key).is_some_and(Entry::is_unused));
        unused.shrink_to(2 * unused.len());
        self.unused.fetch_sub(waited - unused.len(), Relaxed);
        let len = shard.sessions.len();
        if shard.sessions.capacity() > 4 * len + 64 {
            shard.sessions.shrink_to(2 * len);
        }
        let gone = before - len;
        self.len.fetch_sub(gone, Relaxed);
        gone
    }

    /// Takes a session out; if it wasn't over before, this is why it is now.
    fn remove(&self, shard: &mut Part, key: Key, cause: Cause) {
        if let Some(mut entry) = shard.sessions.remove(&key) {
            if entry.marks & ENDED == 0 {
                shard.totals.end(cause, entry.end(0, self.clock.milliseconds()));
            }
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

impl Found {
    /// Whether this was noted about the session.
    pub fn is(&self, mark: Mark) -> bool {
        self.marks & mark as u8 != 0
    }

    /// Whether it was told to leave, and is over.
    pub fn has_left(&self) -> bool {
        self.marks & ENDED != 0 && self.is(Mark::Leaving)
    }
}

#[derive(Default)]
struct Part {
    sessions: HashMap<Key, Entry, BuildHasherDefault<AsIs>>,
    /// Those that were learned from a handshake, oldest first; of some more is known by now.
    unused: VecDeque<Key>,
    /// When it was last swept.
    swept: u32,
    totals: Totals,
}

impl Part {
    fn live(&mut self, key: Key, now: u32) -> Option<&mut Entry> {
        self.sessions.get_mut(&key).filter(|entry| entry.is_live(now))
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u16 {
    u16::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(u16::MAX)
}

/// The second in which a millisecond lies.
fn second(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
