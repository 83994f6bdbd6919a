//! How many sessions reach the WebSocket that they are offered, in the last minute.

use std::sync::{Mutex, PoisonError};

/// Sessions that were offered a WebSocket within the last minute, and those that reached one.
#[derive(Debug)]
pub(super) struct Upgrades(Mutex<[Second; SECONDS]>);

/// What came of the offers of the last minute; those of the last five seconds are still on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Sessions that were offered a WebSocket.
    pub offered: u64,
    /// Those that reached one, with those that another gateway had offered it.
    pub reached: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u32,
    offered: u32,
    reached: u32,
}

/// How long an offer may take to be taken.
const ON_THE_WAY: u32 = 5;
const MINUTE: u32 = 60;
const SECONDS: usize = (ON_THE_WAY + MINUTE) as usize;

impl Upgrades {
    pub(super) fn new() -> Self {
        Self(Mutex::new([Second::default(); SECONDS]))
    }

    /// Counts an offer that is made in this second.
    pub(super) fn offered(&self, now: u32) {
        self.count(now, |second| second.offered = second.offered.saturating_add(1));
    }

    /// Counts a session that has reached its WebSocket, which was offered in this second.
    pub(super) fn reached(&self, offered: u32) {
        self.count(offered, |second| second.reached = second.reached.saturating_add(1));
    }

    pub(super) fn recent(&self, now: u32) -> Recent {
        let seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = |second: &&Second| (ON_THE_WAY..ON_THE_WAY + MINUTE).contains(&now.saturating_sub(second.number));
        seconds.iter().filter(settled).fold(Recent::default(), |sum, second| Recent {
            offered: sum.offered + u64::from(second.offered),
            reached: sum.reached + u64::from(second.reached),
        })
    }

    fn count(&self, number: u32, add: impl FnOnce(&mut Second)) {
        let mut seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = &mut seconds[number as usize % SECONDS];
        if second.number < number {
            *second = Second { number, ..Second::default() };
        }
        // An offer that was taken after more than a minute is nobody's any more.
        if second.number == number {
            add(second);
        }
    }
}

impl Recent {
    /// The part that reached its WebSocket, 0 to 1; `None` where nothing was offered.
    pub fn ratio(&self) -> Option<f64> {
        (self.offered > 0).then(|| (self.reached as f64 / self.offered as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_counts_for_a_minute_once_it_had_time_to_be_taken() {
        let upgrades = Upgrades::new();
        for _ in 0..4 {
            upgrades.offered(100);
        }
        upgrades.reached(100);
        assert_eq!(upgrades.recent(104).ratio(), None);
        let recent = Recent { offered: 4, reached: 1 };
        assert_eq!((upgrades.recent(105), upgrades.recent(164)), (recent, recent));
        assert_eq!(recent.ratio(), Some(0.25));
        assert_eq!(upgrades.recent(165), Recent::default());
    }

    #[test]
    fn a_taken_offer_counts_with_its_second_however_late_it_is_taken() {
        let upgrades = Upgrades::new();
        (1..=200).for_each(|second| upgrades.offered(second));
        upgrades.reached(150);
        upgrades.reached(200 - SECONDS as u32);
        assert_eq!(upgrades.recent(200), Recent { offered: 60, reached: 1 });
    }

    #[test]
    fn more_taken_than_offered_is_all_of_them() {
        let upgrades = Upgrades::new();
        upgrades.offered(10);
        upgrades.reached(10);
        upgrades.reached(10);
        assert_eq!(upgrades.recent(20).ratio(), Some(1.0));
    }
}
