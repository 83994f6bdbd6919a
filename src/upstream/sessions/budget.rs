//! What searches for sessions may cost: those that find nothing are paid for by who asked for them, so that nobody who makes
//! up ids has all servers asked at his pace.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Searches in vain that one address and all of them together are allowed.
pub(super) struct Budget {
    common: Mutex<Bucket>,
    accounts: Mutex<Accounts>,
    /// For addresses beyond those that are kept apart.
    others: Arc<Account>,
}

#[derive(Default)]
struct Accounts {
    by_address: HashMap<IpAddr, Arc<Account>>,
    /// When those were last let go who owe nothing.
    pruned: Option<Instant>,
}

/// What one address may have searched for.
pub(super) struct Account {
    bucket: Mutex<Bucket>,
    /// Places for searches at once.
    pub(super) places: Semaphore,
}

/// A search that has been paid for.
#[must_use]
pub(super) struct Charge<'a> {
    budget: &'a Budget,
    account: &'a Account,
}

/// At once and for each second: an office may come back after a restart, and not all of its sessions with it.
const OF_ADDRESS: Allowance = Allowance { burst: 500.0, rate: 20.0 };
const OF_ALL: Allowance = Allowance { burst: 5000.0, rate: 500.0 };
/// Searches of one address at once.
const AT_ONCE: usize = 64;
/// Addresses that are kept apart.
const MOST_ACCOUNTS: usize = 16_384;
const PRUNE_EVERY: Duration = Duration::from_secs(1);

impl Budget {
    pub(super) fn new() -> Self {
        let others = Arc::new(Account::new());
        Self { common: Mutex::new(Bucket::full(OF_ALL)), accounts: Mutex::default(), others }
    }

    /// The account of an address.
    pub(super) fn account(&self, address: IpAddr) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let Accounts { by_address, pruned } = &mut *accounts;
        if by_address.len() >= MOST_ACCOUNTS && !by_address.contains_key(&address) {
            // Who owes nothing is as good as new. Once in a while: it takes a look at each.
            if pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_EVERY) {
                by_address.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_clean());
                *pruned = Some(Instant::now());
            }
            if by_address.len() >= MOST_ACCOUNTS {
                return Arc::clone(&self.others);
            }
        }
        Arc::clone(by_address.entry(address).or_insert_with(|| Arc::new(Account::new())))
    }

    /// Pays for a search; `None` where it can't be. Where all have spent what there is, an address that has not searched in
    /// vain lately still may.
    pub(super) fn charge<'a>(&'a self, account: &'a Account) -> Option<Charge<'a>> {
        let clean = account.is_clean();
        if !account.bucket().take() {
            return None;
        }
        if !self.common().take() && !clean {
            account.bucket().give();
            return None;
        }
        Some(Charge { budget: self, account })
    }

    fn common(&self) -> MutexGuard<'_, Bucket> {
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn new() -> Self {
        Self { bucket: Mutex::new(Bucket::full(OF_ADDRESS)), places: Semaphore::new(AT_ONCE) }
    }

    fn is_clean(&self) -> bool {
        let mut bucket = self.bucket();
        bucket.fill();
        bucket.tokens >= bucket.allowance.burst
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge<'_> {
    /// The session was found: that costs nothing.
    pub(super) fn give_back(self) {
        self.account.bucket().give();
        self.budget.common().give();
    }
}

#[derive(Clone, Copy)]
struct Allowance {
    burst: f64,
    rate: f64,
}

struct Bucket {
    allowance: Allowance,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(allowance: Allowance) -> Self {
        Self { allowance, tokens: allowance.burst, at: Instant::now() }
    }

    fn fill(&mut self) {
        let now = Instant::now();
        let flowed = now.saturating_duration_since(self.at).as_secs_f64() * self.allowance.rate;
        self.tokens = (self.tokens + flowed).min(self.allowance.burst);
        self.at = now;
    }

    fn take(&mut self) -> bool {
        self.fill();
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    fn give(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.allowance.burst);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::advance;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    /// How many searches in vain an address can pay for now.
    fn spend(budget: &Budget, number: u32, most: usize) -> usize {
        let account = budget.account(address(number));
        (0..most).take_while(|_| budget.charge(&account).is_some()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_searches_in_vain_has_enough_some_day() {
        let budget = Budget::new();
        assert_eq!(spend(&budget, 1, 10_000), 500);
        assert_eq!(spend(&budget, 2, 10), 10, "another one has not");
        advance(Duration::from_secs(2)).await;
        assert_eq!(spend(&budget, 1, 10_000), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn searches_that_find_their_session_cost_nothing() {
        let budget = Budget::new();
        let account = budget.account(address(1));
        (0..10_000).for_each(|_| budget.charge(&account).unwrap().give_back());
    }

    #[tokio::test(start_paused = true)]
    async fn when_strangers_have_spent_it_all_a_clean_address_still_searches() {
        let budget = Budget::new();
        let spent: usize = (0..10).map(|number| spend(&budget, number, 1000)).sum();
        assert_eq!(spent, 5000);
        advance(Duration::from_millis(1)).await;
        assert_eq!(spend(&budget, 0, 10), 0);
        assert_eq!(spend(&budget, 99, 10), 1, "once, and then it is one of them");
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_addresses_as_one_likes_take_no_more_memory() {
        let budget = Budget::new();
        let all = MOST_ACCOUNTS as u32 + 1000;
        (0..all).for_each(|number| {
            budget.account(address(number)).bucket().take();
        });
        assert!(budget.accounts.lock().unwrap().by_address.len() <= MOST_ACCOUNTS);
        assert!(Arc::ptr_eq(&budget.account(address(all)), &budget.others));
        advance(Duration::from_secs(60)).await;
        assert!(!Arc::ptr_eq(&budget.account(address(all)), &budget.others), "who owes nothing makes room");
    }
}
