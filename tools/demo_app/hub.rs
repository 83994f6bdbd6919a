//! What the Socket.IO servers share: who is here, what was said last, and a channel that carries news to each of them.
//!
//! It stands in for the Redis of a real deployment: the servers keep their own sessions and know nothing else of each
//! other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

/// Lines of chat that a newcomer is shown.
const REMEMBERED: usize = 30;

/// News that a server may fall behind before it misses some.
const BACKLOG: usize = 256;

pub(crate) struct Hub {
    room: Mutex<Room>,
    news: broadcast::Sender<News>,
}

#[derive(Default)]
struct Room {
    people: BTreeMap<String, Person>,
    chat: VecDeque<Line>,
}

#[derive(Clone)]
pub(crate) enum News {
    Said(Line),
    PeopleChanged,
}

#[derive(Clone, Serialize)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) server: &'static str,
    pub(crate) transport: &'static str,
}

#[derive(Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) server: &'static str,
    pub(crate) text: String,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { room: Mutex::default(), news: broadcast::Sender::new(BACKLOG) }
    }

    pub(crate) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    pub(crate) fn people(&self) -> Vec<Person> {
        self.room().people.values().cloned().collect()
    }

    pub(crate) fn chat(&self) -> Vec<Line> {
        self.room().chat.iter().cloned().collect()
    }

    /// Adds a person, or takes the newer word about one who is here.
    pub(crate) fn enter(&self, person: Person) {
        self.room().people.insert(person.id.clone(), person);
        self.tell(News::PeopleChanged);
    }

    pub(crate) fn leave(&self, id: &str) {
        self.room().people.remove(id);
        self.tell(News::PeopleChanged);
    }

    /// Passes the text on as said by the person with this id, if there is one.
    pub(crate) fn say(&self, id: &str, text: String) {
        let line = {
            let mut room = self.room();
            let Some(person) = room.people.get(id) else { return };
            let line = Line { name: person.name.clone(), server: person.server, text };
            if room.chat.len() == REMEMBERED {
                room.chat.pop_front();
            }
            room.chat.push_back(line.clone());
            line
        };
        self.tell(News::Said(line));
    }

    fn tell(&self, news: News) {
        // An error says that no server listens, which is how the process looks while it ends.
        self.news.send(news).ok();
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
