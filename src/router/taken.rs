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

    /// What goes on from the counts of a route of this name before, for these listeners.
    pub(crate) fn after(before: Option<&Arc<Self>>, listeners: &[Arc<str>]) -> Arc<Self> {
        let Some(before) = before else { return Arc::new(Self::of(listeners)) };
        if before.by_listener.iter().map(|(name, _)| name).eq(listeners) {
            return Arc::clone(before);
        }
        let mut this = Self::of(listeners);
        *this.others.get_mut() = before.others.load(Relaxed);
        for (name, count) in before.by_listener() {
            let own = this.by_listener.iter_mut().find(|(own, _)| own == name);
            *own.map_or(&mut this.others, |(_, count)| count).get_mut() += count;
        }
        Arc::new(this)
    }

    /// One more. There are few listeners, and the right one is mostly the first.
    pub(crate) fn count(&self, listener: &str) {
        let found = self.by_listener.iter().find(|(name, _)| **name == *listener);
        found.map_or(&self.others, |(_, count)| count).fetch_add(1, Relaxed);
    }

    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.by_listener().map(|(_, count)| count).sum::<u64>() + self.others()
    }

    /// By listeners that are not in the configuration.
    pub(crate) fn others(&self) -> u64 {
        self.others.load(Relaxed)
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

    #[test]
    fn counts_go_on_in_the_next_configuration() {
        let listeners: [Arc<str>; 2] = ["web".into(), "secure".into()];
        let before = Taken::after(None, &listeners);
        ["web", "secure", "secure", "gone"].iter().for_each(|name| before.count(name));
        let same = Taken::after(Some(&before), &listeners);
        assert!(Arc::ptr_eq(&before, &same));
        let fewer = Taken::after(Some(&before), &["fresh".into(), "secure".into()]);
        fewer.count("fresh");
        let parts: Vec<(&str, u64)> = fewer.by_listener().map(|(name, count)| (&**name, count)).collect();
        assert_eq!((parts, fewer.others(), fewer.total()), (vec![("fresh", 1), ("secure", 2)], 2, 5));
    }
}
