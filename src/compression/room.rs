//! How many answers may be compressed at once: each takes memory that its client, by reading slowly, can hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count of one gateway. It outlives configurations.
#[derive(Debug, Default)]
pub(crate) struct Room {
    most: AtomicUsize,
    taken: AtomicUsize,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Room>);

impl Room {
    /// Holds from now on; those that are taken stay.
    pub(crate) fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// A place, where there is one.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        // Counted first, so that it is given back on the way out.
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.most.load(Ordering::Relaxed)).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_places_than_that() {
        let room = Arc::<Room>::default();
        assert!(room.enter().is_none(), "none by itself");
        room.set(2);
        let (one, two) = (room.enter(), room.enter());
        assert!(one.is_some() && two.is_some() && room.enter().is_none());
        drop(one);
        assert!(room.enter().is_some());
        drop(two);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0, "refusals leave nothing counted");
    }
}
