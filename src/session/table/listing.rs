//! The table as people look at it: sessions in pages, and one by its name.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Entry, Key, Mark, SHARDS, SessionTable, UNUSED};

/// A session, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What the table and the log call it.
    pub name: u64,
    /// The server that it lives on.
    pub server: u64,
    /// How long it has been known here; of one whose handshake was not seen, since it was found.
    pub age: Duration,
    /// Whether it is on a WebSocket for good; else it polls.
    pub websocket: bool,
    /// Whether its turn to leave has come.
    pub leaving: bool,
    /// Whether nobody has come back with it since its handshake.
    pub unused: bool,
    key: Key,
}

impl Key {
    /// What people call the session: half of the key.
    pub fn name(&self) -> u64 {
        self.0[0]
    }
}

impl SessionTable {
    /// In how many parts the table is shown.
    pub const PARTS: usize = SHARDS;

    /// The sessions of one part that live, by their names. Nobody is waited for but whoever looks a session up in that part.
    pub fn part(&self, part: usize) -> Vec<Listed> {
        let (now, exactly) = (self.clock.now(), self.clock.milliseconds());
        let mut listed: Vec<Listed> = {
            let shard = self.shards[part % SHARDS].lock();
            let live = shard.sessions.iter().filter(|(_, entry)| entry.is_live(now));
            live.map(|(key, entry)| entry.listed(*key, exactly)).collect()
        };
        listed.sort_unstable_by_key(|session| session.name);
        listed
    }

    /// The session with this id, without keeping it alive.
    pub fn look_at(&self, sid: &str) -> Option<Listed> {
        let key = self.key(sid);
        let (now, exactly) = (self.clock.now(), self.clock.milliseconds());
        self.shard(key).live(key, now).map(|entry| entry.listed(key, exactly))
    }

    /// The session of this name, for which the whole table is looked through.
    pub fn called(&self, name: u64) -> Option<Listed> {
        if self.len.load(Relaxed) == 0 {
            return None;
        }
        (0..SHARDS).find_map(|part| self.part(part).into_iter().find(|session| session.name == name))
    }

    /// Has a session told goodbye with its next request, where that is a poll. False if it is gone by now.
    pub fn let_go(&self, session: &Listed) -> bool {
        let now = self.clock.now();
        let mut shard = self.shard(session.key);
        shard.live(session.key, now).map(|entry| entry.mark(Mark::Leaving)).is_some()
    }
}

impl Entry {
    fn listed(&self, key: Key, exactly: u64) -> Listed {
        Listed {
            name: key.name(),
            server: self.home.server(),
            age: Duration::from_millis(u64::from((exactly as u32).wrapping_sub(self.opened))),
            websocket: self.marks & Mark::Upgraded as u8 != 0,
            leaving: self.marks & Mark::Leaving as u8 != 0,
            unused: self.marks & UNUSED != 0,
            key,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::session::{How, Learned};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_session_is_in_one_part_and_found_by_its_id_and_by_its_name() {
        let table = SessionTable::new(1000);
        let home = table.home(7);
        for at in 0..300 {
            let learned = table.learn(table.key(&format!("id{at}")), &home, Duration::from_secs(60), How::Handshake);
            assert_eq!(learned, Learned::New);
        }
        table.upgrade(table.key("id5"));
        tokio::time::advance(Duration::from_secs(3)).await;
        let all: Vec<Listed> = (0..SessionTable::PARTS).flat_map(|part| table.part(part)).collect();
        assert_eq!(all.len(), 300);
        let one = table.look_at("id5").unwrap();
        assert_eq!((one.server, one.websocket, one.leaving, one.age), (7, true, false, Duration::from_secs(3)));
        assert_eq!(all.iter().filter(|session| session.websocket).count(), 1);
        assert_eq!(table.called(one.name).as_ref(), Some(&one));
        assert!(table.let_go(&one) && table.look_at("id5").unwrap().leaving);
        assert_eq!((table.look_at("nobody"), table.called(one.name ^ 1)), (None, None));
    }
}
