//! Sessions that came in with what was asked for: so that later requests of theirs need not show it again.
//!
//! That a session is known says nothing: it may have come in by another route. So each `access` notes those that came in by
//! itself.

use quick_cache::sync::Cache;

use super::jwt::now;
use crate::session::Key;

/// Sessions that are noted; whose place is taken has to show again what is asked for.
const MOST: usize = 200_000;
/// What they take.
pub(super) const MEMORY: u64 = MOST as u64 * 64;

/// Sessions that came in so, and when what they showed is over, in seconds of Unix time.
#[derive(Debug)]
pub(crate) struct Admitted(Cache<Key, u64>);

impl Default for Admitted {
    fn default() -> Self {
        // It grows as it fills.
        Self(Cache::new(MOST))
    }
}

impl Admitted {
    pub(crate) fn note(&self, session: Key, until: Option<u64>) {
        self.0.insert(session, until.unwrap_or(u64::MAX));
    }

    /// Whether it came in so, and until when that holds, if not for good.
    pub(super) fn has(&self, session: Key) -> Option<Option<u64>> {
        let until = self.0.get(&session)?;
        if until == u64::MAX { Some(None) } else { (until >= now()).then_some(Some(until)) }
    }
}
