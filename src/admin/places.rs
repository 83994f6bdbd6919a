//! Who has a place at the admin address: a newcomer always gets one, and slow clients can't keep the probes out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Connections at once.
const MOST: usize = 64;
/// Of those, the ones whose request the gateway may take its time for. The others, who have to send or to read, have a place
/// for as long as nobody else needs it.
const MOST_AT_WORK: usize = 32;

/// The places of the admin address.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    places: Vec<Taker>,
    next: u64,
}

#[derive(Debug)]
struct Taker {
    id: u64,
    /// The smallest has waited for its client the longest; `None` while a request is at work.
    waiting_since: Option<u64>,
    lost: Arc<Notify>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    id: u64,
    lost: Arc<Notify>,
}

/// Keeps a place from being lost; until it is dropped.
#[derive(Debug)]
pub(super) struct AtWork<'a>(&'a Place<'a>);

impl Places {
    /// A place for one more connection. When all are taken, the one that has waited the longest for its client loses its
    /// own: one that is idle between two requests, or whose head does not end.
    pub(super) fn take(&self) -> Option<Place<'_>> {
        let mut taken = self.taken();
        if taken.places.len() >= MOST {
            let waiting = taken.places.iter().enumerate().filter_map(|(at, taker)| Some((taker.waiting_since?, at)));
            let (_, longest) = waiting.min()?;
            taken.places.swap_remove(longest).lost.notify_one();
        }
        let (id, lost) = (taken.turn(), Arc::<Notify>::default());
        taken.places.push(Taker { id, waiting_since: Some(id), lost: Arc::clone(&lost) });
        Some(Place { places: self, id, lost })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn turn(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Place<'_> {
    /// Waits until the place is lost.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// The client has done its part, and waits for the gateway; `None` when too many do.
    pub(super) fn work(&self) -> Option<AtWork<'_>> {
        let mut taken = self.places.taken();
        if taken.places.iter().filter(|taker| taker.waiting_since.is_none()).count() >= MOST_AT_WORK {
            return None;
        }
        taken.places.iter_mut().find(|taker| taker.id == self.id)?.waiting_since = None;
        Some(AtWork(self))
    }

    /// The gateway waits for the client from now on.
    pub(super) fn wait(&self) {
        let mut taken = self.places.taken();
        let turn = taken.turn();
        if let Some(taker) = taken.places.iter_mut().find(|taker| taker.id == self.id) {
            taker.waiting_since = Some(turn);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.taken().places.retain(|taker| taker.id != self.id);
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn is_lost(place: &Place<'_>) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_one_that_waits_the_longest() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..MOST).map(|_| places.take().unwrap()).collect();
        // The first has sent a head, and waits anew.
        drop(taken[0].work().unwrap());
        let newcomer = places.take().unwrap();
        let lost: Vec<_> = taken.iter().map(is_lost).collect();
        assert_eq!(lost.iter().position(|&lost| lost), Some(1));
        assert_eq!(lost.iter().filter(|&&lost| lost).count(), 1);
        assert!(!is_lost(&newcomer));
        taken.remove(1);
        drop(taken.pop());
        let _room = places.take().unwrap();
        assert!(!taken.iter().any(is_lost), "nobody has to go while there is room");
        assert_eq!(places.taken().places.len(), MOST);
    }

    #[test]
    fn requests_at_work_keep_their_places_and_leave_some_for_others() {
        let places = Places::default();
        let taken: Vec<_> = (0..MOST).map(|_| places.take().unwrap()).collect();
        let at_work: Vec<_> = taken.iter().map_while(Place::work).collect();
        assert_eq!(at_work.len(), MOST_AT_WORK);
        let newcomers: Vec<_> = (0..2 * MOST).map(|_| places.take().unwrap()).collect();
        assert!(taken[..MOST_AT_WORK].iter().all(|place| !is_lost(place)));
        assert!(taken[MOST_AT_WORK..].iter().all(is_lost));
        assert!(newcomers[MOST - MOST_AT_WORK..].iter().any(|place| !is_lost(place)));
        drop(at_work);
        assert!(taken[0].work().is_some());
        assert!(taken[MOST - 1].work().is_none(), "a place that is lost is nobody's");
    }
}
