//! Sessions on their way from one process to the next, which takes over.

use std::sync::atomic::Ordering::Relaxed;

use super::{Entry, GUESSED, How, Key, Mark, SessionTable, UNUSED};

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

impl SessionTable {
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
}
