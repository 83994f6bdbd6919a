//! Sessions that came in with what was asked for: so that later requests of theirs need not show it again.
//!
//! That a session is known says nothing: it may have come in by another route. So each `access` notes those that came in by
//! itself.

use quick_cache::sync::Cache;

use crate::session::Key;

/// Sessions that are noted; whose place is taken has to show again what is asked for.
const MOST: usize = 200_000;
/// What they take.
pub(super) const MEMORY: u64 = MOST as u64 * 64;

/// Sessions that came in so.
#[derive(Debug)]
pub(crate) struct Admitted(Cache<Key, ()>);

impl Default for Admitted {
    fn default() -> Self {
        // It grows as it fills.
        Self(Cache::new(MOST))
    }
}

impl Admitted {
    pub(crate) fn note(&self, session: Key) {
        self.0.insert(session, ());
    }

    pub(crate) fn has(&self, session: Key) -> bool {
        self.0.get(&session).is_some()
    }
}
