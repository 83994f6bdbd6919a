//! How many requests went a way, by the listener that they came in by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of one route.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    by_listener: Box<[(Arc<str>, AtomicU64)]>,
    /// By listeners that the configuration has lost meanwhile, or never had.
    others: AtomicU64,
}

impl Taken {
    /// Nothing yet, of any of these listeners.
    pub(crate) fn of(listeners: &[Arc<str>]) -> Self {
        let by_listener = listeners.iter().map(|name| (Arc::clone(name), AtomicU64::new(0))).collect();
        Self { by_listener, others: AtomicU64::new(0) }
    }

    /// One more. There are few listeners, and the right one is mostly the first.
    pub(crate) fn count(&self, listener: &str) {
        let found = self.by_listener.iter().find(|(name, _)| **name == *listener);
        found.map_or(&self.others, |(_, count)| count).fetch_add(1, Relaxed);
    }

    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.by_listener().map(|(_, count)| count).sum::<u64>() + self.others.load(Relaxed)
    }

    /// Each listener with its part.
    pub(crate) fn by_listener(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.by_listener.iter().map(|(name, count)| (name, count.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_counts_for_its_listener_and_those_of_others_in_all() {
        let taken = Taken::of(&["web".into(), "secure".into()]);
        for listener in ["secure", "web", "secure", "gone"] {
            taken.count(listener);
        }
        let parts: Vec<(&str, u64)> = taken.by_listener().map(|(name, count)| (&**name, count)).collect();
        assert_eq!((parts, taken.total()), (vec![("web", 1), ("secure", 2)], 4));
    }
}
