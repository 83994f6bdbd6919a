//! What token buckets have to remember, in room that does not grow, whoever makes up how many keys.
//!
//! Each key has two cells among many, as in a count-min sketch, which it may share with others. What counts is the one
//! that is less full: so a client is only taken for another one where both of its cells are.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

use governor::nanos::Nanos;
use governor::state::StateStore;

use super::Key;

/// Cells, each with the time at which the next token would be due if all came evenly; 0 for a bucket that is full.
pub(crate) struct Buckets {
    rows: [Box<[AtomicU64]>; 2],
    /// Keyed, so that nobody can look for keys that share cells with another one's.
    hash: RandomState,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cells", self.rows[0].len() * 2)
    }
}

impl Buckets {
    /// Room for so many in each row, which is a power of two.
    pub(crate) fn new(row: usize) -> Self {
        let cells = || (0..row).map(|_| AtomicU64::new(0)).collect();
        Self { rows: [cells(), cells()], hash: RandomState::new() }
    }
}

impl StateStore for Buckets {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let [first, second] = &self.rows;
        let hash = self.hash.hash_one(key);
        // Both halves of the hash, each cut down to the row.
        let (first, second) =
            (&first[hash as usize & (first.len() - 1)], &second[(hash >> 32) as usize & (second.len() - 1)]);
        loop {
            let (one, other) = (first.load(Acquire), second.load(Acquire));
            let (lesser, known, greater) = if one <= other { (first, one, second) } else { (second, other, first) };
            let (outcome, next) = decide((known != 0).then(|| known.into()))?;
            let next = next.as_u64();
            // The greater one first: whoever comes between the two still takes the other one for the lesser, and what has
            // been decided holds if nobody has changed that meanwhile.
            greater.fetch_max(next, AcqRel);
            if lesser.compare_exchange(known, next, AcqRel, Acquire).is_ok() {
                return Ok(outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn add(buckets: &Buckets, key: u32, by: u64) -> u64 {
        let key = Key::Value(Box::from(key.to_be_bytes()));
        let add = |known: Option<Nanos>| {
            let next = known.map_or(0, Nanos::as_u64) + by;
            Ok::<_, Infallible>((next, Nanos::from(next)))
        };
        buckets.measure_and_replace(&key, add).unwrap()
    }

    #[test]
    fn a_key_that_is_alone_in_one_of_its_cells_is_counted_by_itself() {
        let buckets = Buckets::new(1 << 10);
        for key in 0..100 {
            for times in 1..=5 {
                assert!(add(&buckets, key, 1) >= times);
            }
        }
        // A hundred among a thousand cells: hardly one in a hundred meets another in both of its own.
        let fresh = (1000..2000).filter(|&key| add(&buckets, key, 0) == 0).count();
        assert!(fresh > 950, "{fresh} of 1000 keys are not taken for others");
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let buckets = Buckets::new(16);
        let key = Key::Everybody;
        assert_eq!(buckets.measure_and_replace(&key, |_| Err::<((), Nanos), _>("no")), Err("no"));
        assert!(buckets.rows.iter().flatten().all(|cell| cell.load(Acquire) == 0));
    }

    #[test]
    fn threads_that_ask_at_once_take_no_token_twice() {
        let buckets = Buckets::new(16);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).map(|_| add(&buckets, 7, 1)).max());
            }
        });
        assert_eq!(add(&buckets, 7, 0), 40_000);
    }
}
