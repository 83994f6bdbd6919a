//! The memory of sessions: which server each one lives on. Who learns from answers and who routes is not known here.
//!
//! A session is known by a keyed hash of its id, so neither a core dump nor the status page gives ids away, and nobody
//! outside can make two ids collide. A million sessions take some 90 MiB; a look-up takes no memory and writes to
//! nothing that another session shares but its shard.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use siphasher::sip::SipHasher24;
use tokio::time::Instant;

use super::home::Home;
use super::shards::{AsIs, Clock, LAG, Shard, sweeping};
use super::totals::{Cause, Totals};
use super::upgrades::{Recent, Upgrades};

mod listing;

pub use listing::Listed;

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

/// It is over and counts no more; who asks for it before it is due still finds the way.
const ENDED: u8 = 8;
/// Its handshake was not seen: how long it may be silent is a guess.
const GUESSED: u8 = 16;

/// Nobody has come back with it since its handshake, which is all that a stranger needs to make a server say one.
const UNUSED: u8 = 32;
/// Its client has lost its connections, and most likely comes back with another session.
const LOST: u8 = 64;

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

/// A session on its way to the process that takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moving {
    key: Key,
    server: u64,
    life: u16,
    marks: u8,
}

impl Moving {
    /// How long the bytes of one are.
    pub const LENGTH: usize = 27;

    /// As bytes.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let [first, second] = self.key.0;
        for (at, number) in [first, second, self.server].into_iter().enumerate() {
            bytes[8 * at..8 * at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[24..26].copy_from_slice(&self.life.to_le_bytes());
        bytes[26] = self.marks;
        bytes
    }

    /// What such bytes say.
    pub fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        let number =
            |at: usize| bytes[8 * at..8 * at + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let life = u16::from_le_bytes([bytes[24], bytes[25]]);
        Self { key: Key([number(0), number(1)]), server: number(2), life, marks: bytes[26] }
    }
}

/// Keeps a session from expiring while one of its tunnels is open; dropped with the tunnel.
#[derive(Debug)]
pub struct Held {
    table: Arc<SessionTable>,
    key: Key,
    /// Why the tunnel ended, as a place in [`Cause::ALL`]; beyond it while nobody has said.
    cause: AtomicU8,
    after: After,
}

/// What becomes of a session that nothing holds any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It ends with a tunnel that it has come to for good; if it has not, it has a little time for its next request.
    ByTunnel,
    /// It may be silent for as long as after any request.
    GoesOn,
    /// It is over, for this reason.
    Ends(Cause),
}

/// Parts of the table with a lock each. A sweep holds one for some microseconds, everything else for nanoseconds.
const SHARDS: usize = 512;
/// Shards that one sweep looks at, so that each has its turn every four seconds and no worker is away for long.
const SHARDS_PER_SWEEP: usize = SHARDS / 16;
/// How long the way to a session that is over is still known, in seconds: enough for requests that are under way.
const AFTERGLOW: u32 = 5;
/// How long a session is remembered at most that nobody comes back with, in seconds: clients do so at once.
const UNUSED_LIFE: u16 = 60;

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

    /// The sessions that go on with the process that takes over: those that live, and are not on a WebSocket, which stays.
    pub fn moving(&self) -> Vec<Moving> {
        let now = self.clock.now();
        let mut moving = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.lock();
            let goes = |entry: &Entry| entry.is_live(now) && entry.marks & Mark::Upgraded as u8 == 0;
            moving.extend(shard.sessions.iter().filter(|(_, entry)| goes(entry)).map(|(key, entry)| Moving {
                key: *key,
                server: entry.home.server(),
                life: entry.life,
                marks: entry.marks,
            }));
        }
        moving
    }

    /// Takes in a session of the process before. False if it is known already, or there is no room.
    pub fn take_in(&self, moving: &Moving) -> bool {
        let now = self.clock.now();
        let mut shard = self.shard(moving.key);
        if shard.sessions.contains_key(&moving.key) || !self.make_room(&mut shard, now) {
            return false;
        }
        let home = self.home(moving.server);
        home.open();
        let mut entry = Entry::new(home, moving.life, How::Handshake, self.clock.milliseconds() as u32);
        entry.marks = moving.marks & (Mark::Offered as u8 | Mark::Leaving as u8 | GUESSED | UNUSED);
        entry.renew(now);
        if entry.marks & UNUSED != 0 {
            shard.unused.push_back(moving.key);
            self.unused.fetch_add(1, Relaxed);
        }
        shard.sessions.insert(moving.key, entry);
        shard.totals.inherited += 1;
        true
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

    /// Keeps a session from expiring until the guard is dropped. `None` if it isn't known, or 255 tunnels hold it: no
    /// client has more than one or two.
    pub fn hold(self: &Arc<Self>, key: Key) -> Option<Held> {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let entry = shard.live(key, now)?;
        entry.holds = entry.holds.checked_add(1)?;
        entry.marks &= !UNUSED;
        entry.regain();
        Some(Held { table: self.clone(), key, cause: AtomicU8::new(u8::MAX), after: After::ByTunnel })
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

    fn renew(&self, key: Key) {
        let now = self.clock.now();
        if let Some(entry) = self.shard(key).live(key, now) {
            entry.renew(now);
        }
    }

    fn release(&self, key: Key, cause: Option<Cause>) {
        let now = self.clock.now();
        let mut shard = self.shard(key);
        let Some(entry) = shard.sessions.get_mut(&key) else { return };
        entry.holds -= 1;
        if entry.holds > 0 {
            return;
        }
        let soon = now.saturating_add(AFTERGLOW + LAG);
        let (ended, upgraded) = (entry.marks & ENDED != 0, entry.marks & Mark::Upgraded as u8 != 0);
        match cause {
            _ if ended && entry.due <= now => self.remove(&mut shard, key, Cause::Silent),
            _ if ended => {}
            // Engine.IO closes a session with its transport, and nobody can go back to polling.
            Some(cause) if upgraded => {
                let lived = entry.end(soon, self.clock.milliseconds());
                shard.totals.end(cause, lived);
            }
            None if upgraded => entry.due = soon,
            // A WebSocket that was only tried leaves a session that goes on polling, and one poll may be under way.
            _ => entry.due = entry.due.max(soon),
        }
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

impl Held {
    /// What the table calls the session.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Notes that the session went on to this tunnel for good, see [`SessionTable::upgrade`].
    pub fn upgraded(&self) -> Option<Upgrade> {
        self.table.upgrade(self.key)
    }

    /// The session goes on when this is dropped, as if it had been asked for then.
    pub fn goes_on(&mut self) {
        self.after = After::GoesOn;
    }

    /// The session is over when this is dropped.
    pub fn ends(&mut self, cause: Cause) {
        self.after = After::Ends(cause);
    }

    /// Notes that the session was told to leave.
    pub fn leaves(&self) {
        self.table.mark(self.key, Mark::Leaving);
    }

    /// Says why the tunnel has ended: a session that is on it for good ends with it. Without a word, such a session is
    /// left some seconds in which it can be heard of.
    pub fn ended(&self, cause: Cause) {
        self.cause.store(cause as u8, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let cause = Cause::ALL.get(usize::from(*self.cause.get_mut())).copied();
        match self.after {
            After::ByTunnel => {}
            After::GoesOn => self.table.renew(self.key),
            After::Ends(cause) => drop(self.table.goodbye(self.key, cause)),
        }
        self.table.release(self.key, cause);
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

struct Entry {
    home: Arc<Home>,
    /// When it expires, unless a tunnel holds it; in seconds since the start of the table.
    due: u32,
    /// When it was learned; in milliseconds since the start of the table, which start over after 49 days.
    opened: u32,
    /// How long it may be silent, in seconds.
    life: u16,
    /// Tunnels that hold it.
    holds: u8,
    marks: u8,
}

impl Entry {
    fn new(home: Arc<Home>, life: u16, how: How, opened: u32) -> Self {
        let marks = if how == How::Rescue { GUESSED } else { UNUSED };
        Self { home, due: 0, opened, life, holds: 0, marks }
    }

    /// Ends it at this millisecond of the table's clock; `due` is how long it can still be found. Gives the milliseconds for
    /// which it was known.
    fn end(&mut self, due: u32, exactly: u64) -> u32 {
        self.regain();
        if self.marks & Mark::Upgraded as u8 != 0 {
            self.home.leave_websocket();
        }
        self.home.close();
        self.marks = (self.marks & !(Mark::Upgraded as u8)) | ENDED;
        self.due = due;
        (exactly as u32).wrapping_sub(self.opened)
    }

    /// Notes something; false if it was noted before.
    fn mark(&mut self, mark: Mark) -> bool {
        let new = self.marks & mark as u8 == 0;
        self.marks |= mark as u8;
        if new && mark == Mark::Upgraded {
            self.home.enter_websocket();
        }
        new
    }

    /// Ends what [`SessionTable::lose`] began.
    fn regain(&mut self) {
        if self.marks & LOST != 0 {
            self.marks &= !LOST;
            self.home.regain();
        }
    }

    fn renew(&mut self, now: u32) {
        let life = if self.marks & UNUSED == 0 { self.life } else { self.life.min(UNUSED_LIFE) };
        self.due = now.saturating_add(u32::from(life) + LAG);
    }

    fn move_to(&mut self, home: &Arc<Home>) {
        home.open();
        let left = std::mem::replace(&mut self.home, home.clone());
        if self.marks & Mark::Upgraded as u8 != 0 {
            home.enter_websocket();
            left.leave_websocket();
        }
        left.close();
    }

    /// Whether it lives, and nobody has come back with it.
    fn is_unused(&self) -> bool {
        self.marks & (UNUSED | ENDED) == UNUSED && self.holds == 0
    }

    fn is_over(&self, now: u32) -> bool {
        self.holds == 0 && self.due <= now
    }

    fn is_live(&self, now: u32) -> bool {
        !self.is_over(now) && self.marks & ENDED == 0
    }

    /// Whether it lives, or is over but a short while.
    fn is_known(&self, now: u32) -> bool {
        self.due > now || self.is_live(now)
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
