//! How much one client may ask for: so many requests in a time, and so many at once.

mod buckets;
pub mod config;
mod open;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter};

pub use config::Config;
pub(crate) use open::{Open, Place};

use crate::address::standing_for;
use crate::request::Request;
use buckets::Buckets;
use config::By;

/// One limit: a token bucket for everybody, or for each client.
///
/// Reckoned by GCRA, which governor does; what it has to remember is ours, since its own table grows with every key that
/// a stranger makes up.
#[derive(Debug)]
pub struct Limit<C: Clock = MonotonicClock> {
    by: By,
    limiter: RateLimiter<Key, Buckets, C, NoOpMiddleware<C::Instant>>,
}

/// Whom a bucket is for.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Key {
    Everybody,
    Address(IpAddr),
    Value(Box<[u8]>),
}

impl Limit {
    /// With every bucket full.
    pub(crate) fn new(said: &Config) -> Self {
        Self::at(said, MonotonicClock)
    }
}

impl<C: Clock> Limit<C> {
    fn at(said: &Config, clock: C) -> Self {
        // What is zero has been refused when the file was checked.
        let some = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let each = (said.per / some(said.requests).get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(each).unwrap_or(Quota::per_second(some(said.requests)));
        let quota = quota.allow_burst(some(said.burst.unwrap_or(said.requests)));
        Self { by: said.by.clone(), limiter: RateLimiter::new(quota, Buckets::new(said.by.buckets()), clock) }
    }

    /// Takes a token for this request.
    ///
    /// # Errors
    /// There is none: how long until there is.
    pub(crate) fn check(&self, request: &Request<'_>) -> Result<(), Duration> {
        self.limiter
            .check_key(&self.key(request))
            .map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
    }

    fn key(&self, request: &Request<'_>) -> Key {
        let value = match &self.by {
            By::Route => return Key::Everybody,
            By::Client => None,
            By::Header(name) => request.headers.get(name),
            By::Cookie(name) => request.cookie(name).map(str::as_bytes),
        };
        match value.filter(|value| !value.is_empty()) {
            Some(value) => Key::Value(value.into()),
            None => Key::Address(standing_for(request.client)),
        }
    }
}

/// All limits, by where they were said and what was said: one that is there already goes on over a reload.
#[derive(Debug, Default)]
pub(crate) struct Limits(HashMap<(Box<str>, Config), Arc<Limit>>);

impl Limits {
    /// Builds what was said at a place, or takes it from those of before.
    pub(crate) fn build(&mut self, place: &str, said: &[Config], before: &Self) -> Vec<Arc<Limit>> {
        let limit = |said: &Config| {
            let at = (Box::from(place), said.clone());
            let limit = before.0.get(&at).map_or_else(|| Arc::new(Limit::new(said)), Arc::clone);
            self.0.insert(at, Arc::clone(&limit));
            limit
        };
        said.iter().map(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::request::testing::request;

    fn said(requests: u32, by: By) -> Config {
        Config { requests, per: Duration::from_secs(1), burst: None, by }
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate_whatever_others_do() {
        let clock = FakeRelativeClock::default();
        let limit = Limit::at(&said(4, By::Client), clock.clone());
        let mut one = request("GET", "/", &[]);
        let mut other = request("GET", "/", &[]);
        (one.client, other.client) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..4 {
            assert_eq!(limit.check(&one), Ok(()));
        }
        assert_eq!(limit.check(&one), Err(Duration::from_millis(250)));
        assert_eq!(limit.check(&other), Ok(()));
        clock.advance(Duration::from_millis(250));
        assert_eq!((limit.check(&one), limit.check(&one)), (Ok(()), Err(Duration::from_millis(250))));
        clock.advance(Duration::from_secs(3600));
        assert_eq!((0..10).filter(|_| limit.check(&one).is_ok()).count(), 4, "a bucket does not run over");
    }

    #[test]
    fn a_household_has_one_bucket_and_a_route_has_one_for_all() {
        let clock = FakeRelativeClock::default();
        let mut requests: Vec<_> = (0..3).map(|_| request("GET", "/", &[])).collect();
        for (request, client) in requests.iter_mut().zip(["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]) {
            request.client = client.parse().unwrap();
        }
        let passed = |by| {
            let limit = Limit::at(&said(1, by), clock.clone());
            requests.iter().map(|request| limit.check(request).is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(passed(By::Client), [true, false, true]);
        assert_eq!(passed(By::Route), [true, false, false]);
    }

    #[test]
    fn a_header_or_a_cookie_tells_clients_apart_and_their_address_does_where_they_have_none() {
        let clock = FakeRelativeClock::default();
        let field = |name, value| [httparse::Header { name, value }];
        for (by, name, values) in [
            (By::Header("x-key".into()), "X-Key", [&b"one"[..], b"two"]),
            (By::Cookie("id".into()), "Cookie", [b"a=b; id=one", b"id=two"]),
        ] {
            let limit = Limit::at(&said(1, by), clock.clone());
            for value in values {
                let fields = field(name, value);
                let request = request("GET", "/", &fields);
                assert_eq!((limit.check(&request).is_ok(), limit.check(&request).is_ok()), (true, false));
            }
            let none = request("GET", "/", &[]);
            assert_eq!((limit.check(&none).is_ok(), limit.check(&none).is_ok()), (true, false));
        }
    }

    #[test]
    fn a_limit_goes_on_where_the_same_is_said_at_the_same_place() {
        let (mut first, mut second) = (Limits::default(), Limits::default());
        let one = first.build("", &[said(1, By::Client), said(2, By::Route)], &Limits::default());
        let again = second.build("", &[said(2, By::Route), said(3, By::Client)], &first);
        let elsewhere = second.build("app", &[said(1, By::Client)], &first);
        assert!(Arc::ptr_eq(&one[1], &again[0]) && !Arc::ptr_eq(&one[0], &elsewhere[0]));
        assert_eq!(second.0.len(), 3);
    }
}
