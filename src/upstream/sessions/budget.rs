//! What searches for sessions may cost: those that find nothing are paid for by who asked for them, so that nobody who makes
//! up ids has all servers asked at his pace.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Searches in vain that one address and all of them together are allowed.
pub(super) struct Budget {
    common: Mutex<Bucket>,
    /// For addresses and connections that have not searched in vain before, where others have spent what all have in common. It
    /// has an end, too: strangers may have any number of addresses.
    beyond: Mutex<Bucket>,
    accounts: Mutex<Accounts>,
    /// For addresses beyond those that are kept apart.
    others: Arc<Account>,
    /// Requests that wait for a search.
    waiting: AtomicUsize,
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
    /// For connections that have not searched in vain before, where others have spent what the address has.
    reserve: Mutex<Bucket>,
    /// Requests that wait for a search.
    waiting: AtomicUsize,
    /// Places for searches at once.
    pub(super) places: Semaphore,
}

/// A search that has been paid for.
#[must_use]
pub(super) struct Charge<'a> {
    budget: &'a Budget,
    account: &'a Account,
    /// Whether it was paid from the account's reserve, and from what is [beyond](Budget::beyond) the common.
    reserved: bool,
    beyond: bool,
}

/// A request that waits for a search; dropping it leaves.
pub(super) struct Waiting<'a> {
    budget: &'a Budget,
    account: &'a Account,
}

/// At once and for each second: an office may come back after a restart, and not all of its sessions with it.
const OF_ADDRESS: Allowance = Allowance { burst: 500.0, rate: 20.0 };
const OF_CONNECTIONS: Allowance = Allowance { burst: 100.0, rate: 10.0 };
const OF_ALL: Allowance = Allowance { burst: 5000.0, rate: 500.0 };
const BEYOND: Allowance = Allowance { burst: 10_000.0, rate: 1000.0 };
/// Requests that may wait for a search: more than ten thousand sessions, which come back at once after a restart.
const MOST_WAITING: usize = 16_384;
/// Searches of one address at once.
const AT_ONCE: usize = 64;
/// Addresses that are kept apart.
const MOST_ACCOUNTS: usize = 16_384;
const PRUNE_EVERY: Duration = Duration::from_secs(1);

impl Budget {
    pub(super) fn new() -> Self {
        let [common, beyond] = [OF_ALL, BEYOND].map(|allowance| Mutex::new(Bucket::full(allowance)));
        Self { common, beyond, accounts: Mutex::default(), others: Arc::new(Account::new()), waiting: 0.into() }
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

    /// A place among those who wait. An address may have no more of them than are left for others.
    pub(super) fn wait<'a>(&'a self, account: &'a Account) -> Option<Waiting<'a>> {
        let all = self.waiting.fetch_add(1, Relaxed);
        let own = account.waiting.fetch_add(1, Relaxed);
        // Gives both back where there is no room.
        let waiting = Waiting { budget: self, account };
        (own < MOST_WAITING.saturating_sub(all)).then_some(waiting)
    }

    /// Pays for a search; `None` where it can't be. Where an address has spent what it has, connections of it that are
    /// `fresh`, since they have not searched in vain, have something left: others behind the same address made up ids, perhaps.
    /// Where all have spent what there is, that holds for addresses, as long as there are not too many of them.
    pub(super) fn charge<'a>(&'a self, account: &'a Account, fresh: bool) -> Option<Charge<'a>> {
        let clean = account.is_clean();
        let reserved = !account.bucket().take();
        if reserved && !(fresh && account.reserve().take()) {
            return None;
        }
        let beyond = !lock(&self.common).take();
        let charge = Charge { budget: self, account, reserved, beyond };
        if beyond && !((clean || reserved) && lock(&self.beyond).take()) {
            charge.give_back_to_account();
            return None;
        }
        Some(charge)
    }

    /// Whether [`Self::charge`] would be refused for want of something on the account.
    pub(super) fn is_spent(&self, account: &Account, fresh: bool) -> bool {
        account.bucket().is_empty() && (!fresh || account.reserve().is_empty())
    }
}

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    fn new() -> Self {
        Self {
            bucket: Mutex::new(Bucket::full(OF_ADDRESS)),
            reserve: Mutex::new(Bucket::full(OF_CONNECTIONS)),
            waiting: 0.into(),
            places: Semaphore::new(AT_ONCE),
        }
    }

    fn is_clean(&self) -> bool {
        let mut bucket = self.bucket();
        bucket.fill();
        bucket.tokens >= bucket.allowance.burst
    }

    fn reserve(&self) -> MutexGuard<'_, Bucket> {
        lock(&self.reserve)
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        lock(&self.bucket)
    }
}

impl Charge<'_> {
    /// The session was found: that costs nothing.
    pub(super) fn give_back(self) {
        self.give_back_to_account();
        lock(if self.beyond { &self.budget.beyond } else { &self.budget.common }).give();
    }

    fn give_back_to_account(&self) {
        let mut paid = if self.reserved { self.account.reserve() } else { self.account.bucket() };
        paid.give();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.account.waiting.fetch_sub(1, Relaxed);
        self.budget.waiting.fetch_sub(1, Relaxed);
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

    fn is_empty(&mut self) -> bool {
        self.fill();
        self.tokens < 1.0
    }

    fn take(&mut self) -> bool {
        let there = !self.is_empty();
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
        (0..most).take_while(|_| budget.charge(&account, false).is_some()).count()
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
        (0..10_000).for_each(|_| budget.charge(&account, false).unwrap().give_back());
    }

    #[tokio::test(start_paused = true)]
    async fn who_shares_an_address_with_a_stranger_that_has_spent_it_all_still_searches() {
        let budget = Budget::new();
        assert_eq!(spend(&budget, 1, 10_000), 500);
        let account = budget.account(address(1));
        assert!(budget.is_spent(&account, false) && !budget.is_spent(&account, true));
        (0..10_000).for_each(|_| budget.charge(&account, true).unwrap().give_back());
        let in_vain = (0..10_000).take_while(|_| budget.charge(&account, true).is_some()).count();
        assert_eq!((in_vain, budget.is_spent(&account, true)), (100, true), "the stranger may open connections, too");
        advance(Duration::from_secs(1)).await;
        assert_eq!(spend(&budget, 1, 10_000), 20);
        assert!(budget.charge(&account, true).is_some());
    }

    #[test]
    fn who_waits_leaves_room_for_others() {
        let budget = Budget::new();
        let accounts: Vec<_> = (0..3).map(|number| budget.account(address(number))).collect();
        let mut waiting = Vec::new();
        for (account, most) in accounts.iter().zip([MOST_WAITING / 2, MOST_WAITING / 4, MOST_WAITING / 8]) {
            let before = waiting.len();
            waiting.extend(std::iter::from_fn(|| budget.wait(account)));
            assert!((most..=most + 1).contains(&(waiting.len() - before)), "{} of {most}", waiting.len() - before);
        }
        drop(waiting);
        assert_eq!((budget.waiting.load(Relaxed), accounts[0].waiting.load(Relaxed)), (0, 0));
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
    async fn a_million_ids_from_as_many_addresses_are_looked_for_within_bounds() {
        let budget = Budget::new();
        let mut searched = 0;
        for second in 0..10 {
            searched += (0..100_000).filter(|number| spend(&budget, second * 100_000 + number, 1) == 1).count();
            advance(Duration::from_secs(1)).await;
        }
        assert!((15_000..=15_000 + 9 * 1500).contains(&searched), "{searched}");
        assert!(budget.accounts.lock().unwrap().by_address.len() <= MOST_ACCOUNTS);
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
