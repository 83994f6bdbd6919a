//! Which client address opens the most sessions: found in bounded memory, and told when it is too many.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The addresses that opened the most of the latest sessions, by the Space-Saving algorithm (Metwally, Agrawal, El
/// Abbadi 2005): whoever opened more than one in [`COUNTERS`] of them is among the counters.
#[derive(Default)]
pub(crate) struct HeavyHitters(Mutex<Counters>);

#[derive(Default)]
struct Counters {
    entries: Vec<Counter>,
    /// Sessions that were counted; older ones count less.
    total: u64,
    told: Option<Instant>,
}

struct Counter {
    address: IpAddr,
    count: u64,
    /// How much of `count` may belong to addresses that were here before.
    error: u64,
}

/// The client address that opened the most of the latest sessions: about as many as are alive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LargestClient {
    /// The address; for IPv6 that of the /64.
    pub address: IpAddr,
    /// Its part of the sessions, 0 to 1.
    pub share: f64,
}

const COUNTERS: usize = 32;
/// Below this many sessions nobody has too many, and shares say little.
const FEW: u64 = 100;
/// Who opened more than this part of the sessions has more than its share.
const TOO_MUCH: f64 = 0.5;
/// Least time between two tellings.
const QUIET: Duration = Duration::from_secs(60);

impl HeavyHitters {
    /// Counts a session that this address opened, beside as many live ones. Returns who has more than its share, if
    /// that is to be told now.
    pub(crate) fn add(&self, address: IpAddr, live: usize) -> Option<LargestClient> {
        let mut counters = self.lock();
        counters.add(address);
        counters.forget(live as u64);
        let largest = counters.largest()?;
        let many =
            counters.total > FEW && largest.share > TOO_MUCH && largest.share * counters.total as f64 > FEW as f64;
        let due = || counters.told.is_none_or(|told| told.elapsed() >= QUIET);
        if !many || !due() {
            return None;
        }
        counters.told = Some(Instant::now());
        Some(largest)
    }

    pub(crate) fn largest(&self) -> Option<LargestClient> {
        self.lock().largest()
    }

    /// Those with the largest parts, the largest first.
    pub(crate) fn all(&self) -> Vec<LargestClient> {
        let counters = self.lock();
        let total = counters.total.max(1) as f64;
        let share = |counter: &Counter| counter.count.saturating_sub(counter.error) as f64 / total;
        let all = counters.entries.iter().map(|one| LargestClient { address: one.address, share: share(one) });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|one, other| other.share.total_cmp(&one.share));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn add(&mut self, address: IpAddr) {
        self.total += 1;
        if let Some(counter) = self.entries.iter_mut().find(|counter| counter.address == address) {
            counter.count += 1;
        } else if self.entries.len() < COUNTERS {
            self.entries.push(Counter { address, count: 1, error: 0 });
        } else if let Some(least) = self.entries.iter_mut().min_by_key(|counter| counter.count) {
            *least = Counter { address, count: least.count + 1, error: least.count };
        }
    }

    /// Lets the past weigh half as soon as it has twice as many sessions as are alive.
    fn forget(&mut self, live: u64) {
        if self.total < 2 * live.max(FEW) {
            return;
        }
        self.total /= 2;
        for counter in &mut self.entries {
            counter.count /= 2;
            counter.error /= 2;
        }
        self.entries.retain(|counter| counter.count > 0);
    }

    fn largest(&self) -> Option<LargestClient> {
        let sure = |counter: &Counter| counter.count - counter.error;
        let most = self.entries.iter().max_by_key(|counter| sure(counter))?;
        Some(LargestClient { address: most.address, share: sure(most) as f64 / self.total.max(1) as f64 })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_opens_most_sessions_is_told_once_a_minute() {
        let heavy = HeavyHitters::default();
        let told = |sessions: u32, live: usize| {
            // Two of three come from one address.
            (0..sessions)
                .filter_map(|number| heavy.add(address(if number % 3 == 0 { number } else { 7 }), live))
                .count()
        };
        assert_eq!(told(150, 150), 0, "100 sessions are nothing to speak of");
        assert_eq!(told(3000, 1500), 1);
        let largest = heavy.largest().unwrap();
        assert_eq!(largest.address, address(7));
        assert!((0.6..=0.7).contains(&largest.share), "{largest:?}");
        advance(QUIET).await;
        assert_eq!(told(3000, 1500), 1);
    }

    #[test]
    fn many_clients_with_few_sessions_each_are_no_crowd() {
        let heavy = HeavyHitters::default();
        assert!((0..20_000).all(|number| heavy.add(address(number), 10_000).is_none()));
        assert!(heavy.largest().unwrap().share < 0.01);
        assert!(heavy.lock().entries.len() <= COUNTERS);
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let heavy = HeavyHitters::default();
        let open = |address| {
            heavy.add(address, 500);
        };
        (0..500).for_each(|_| open(address(7)));
        assert_eq!(heavy.largest().unwrap(), LargestClient { address: address(7), share: 1.0 });
        (0..5000).for_each(|number| open(address(1000 + number)));
        assert!(heavy.largest().unwrap().share < 0.1);
    }

    proptest! {
        #[test]
        fn who_opened_most_of_the_sessions_is_never_missed(
            sessions in prop::collection::vec((0u32..200, any::<bool>()), 300..1000),
        ) {
            let heavy = HeavyHitters::default();
            let live = sessions.len();
            let own = sessions.iter().filter(|(_, own)| *own).count();
            for (number, own) in sessions {
                heavy.add(address(if own { 7_000_000 } else { number }), live);
            }
            let largest = heavy.largest().unwrap();
            let share = own as f64 / live as f64;
            prop_assert!(largest.share <= share + 0.02);
            if share > 0.3 {
                prop_assert_eq!(largest.address, address(7_000_000));
                prop_assert!(largest.share > share - 1.0 / COUNTERS as f64, "{} of {share}", largest.share);
            }
        }
    }
}
