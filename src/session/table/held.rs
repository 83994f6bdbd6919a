//! Sessions that a tunnel holds, and what becomes of them when it ends.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use super::super::shards::LAG;
use super::super::totals::Cause;
use super::{AFTERGLOW, ENDED, Key, Mark, SessionTable, UNUSED, Upgrade};

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

impl SessionTable {
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
