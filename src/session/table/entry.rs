//! One session in the table: when it is over, and what has been noted about it.

use std::sync::Arc;

use super::super::home::Home;
use super::super::shards::LAG;
use super::{How, Mark};

/// A session, as its shard has it.
pub(super) struct Entry {
    pub(super) home: Arc<Home>,
    /// When it expires, unless a tunnel holds it; in seconds since the start of the table.
    pub(super) due: u32,
    /// When it was learned; in milliseconds since the start of the table, which start over after 49 days.
    pub(super) opened: u32,
    /// How long it may be silent, in seconds.
    pub(super) life: u16,
    /// Tunnels that hold it.
    pub(super) holds: u8,
    pub(super) marks: u8,
}

impl Entry {
    pub(super) fn new(home: Arc<Home>, life: u16, how: How, opened: u32) -> Self {
        let marks = if how == How::Rescue { GUESSED } else { UNUSED };
        Self { home, due: 0, opened, life, holds: 0, marks }
    }

    /// Ends it at this millisecond of the table's clock; `due` is how long it can still be found. Gives the milliseconds for
    /// which it was known.
    pub(super) fn end(&mut self, due: u32, exactly: u64) -> u32 {
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
    pub(super) fn mark(&mut self, mark: Mark) -> bool {
        let new = self.marks & mark as u8 == 0;
        self.marks |= mark as u8;
        if new && mark == Mark::Upgraded {
            self.home.enter_websocket();
        }
        new
    }

    /// Ends what [`SessionTable::lose`] began.
    pub(super) fn regain(&mut self) {
        if self.marks & LOST != 0 {
            self.marks &= !LOST;
            self.home.regain();
        }
    }

    pub(super) fn renew(&mut self, now: u32) {
        let life = if self.marks & UNUSED == 0 { self.life } else { self.life.min(UNUSED_LIFE) };
        self.due = now.saturating_add(u32::from(life) + LAG);
    }

    pub(super) fn move_to(&mut self, home: &Arc<Home>) {
        home.open();
        let left = std::mem::replace(&mut self.home, home.clone());
        if self.marks & Mark::Upgraded as u8 != 0 {
            home.enter_websocket();
            left.leave_websocket();
        }
        left.close();
    }

    /// Whether it lives, and nobody has come back with it.
    pub(super) fn is_unused(&self) -> bool {
        self.marks & (UNUSED | ENDED) == UNUSED && self.holds == 0
    }

    pub(super) fn is_over(&self, now: u32) -> bool {
        self.holds == 0 && self.due <= now
    }

    pub(super) fn is_live(&self, now: u32) -> bool {
        !self.is_over(now) && self.marks & ENDED == 0
    }

    /// Whether it lives, or is over but a short while.
    pub(super) fn is_known(&self, now: u32) -> bool {
        self.due > now || self.is_live(now)
    }
}

/// It is over and counts no more; who asks for it before it is due still finds the way.
pub(super) const ENDED: u8 = 8;
/// Its handshake was not seen: how long it may be silent is a guess.
pub(super) const GUESSED: u8 = 16;
/// Nobody has come back with it since its handshake, which is all that a stranger needs to make a server say one.
pub(super) const UNUSED: u8 = 32;
/// Its client has lost its connections, and most likely comes back with another session.
pub(super) const LOST: u8 = 64;
/// How long a session is remembered at most that nobody comes back with, in seconds: clients do so at once.
const UNUSED_LIFE: u16 = 60;
