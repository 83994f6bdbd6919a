//! How fast what is counted moves: counters are looked at once a second, and the last seconds compared.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Metrics, UpstreamMetrics};
use crate::snapshot::Snapshot;

/// Time from one look to the next.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// So many looks are compared: rates are those of as many seconds, less one.
const LOOKS: usize = 6;

/// Something that is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Counted {
    /// Connections accepted by a listener.
    Accepted(Arc<str>),
    /// Requests that went a route.
    Routed(Arc<str>),
    /// Of those, the ones that came in by a listener.
    RoutedFrom(Arc<str>, Arc<str>),
    /// Answers of an upstream.
    Answered(Arc<str>),
    /// Of those, the ones with a status of 500 or more.
    Failed(Arc<str>),
    /// Bytes that clients sent through tunnels that have ended.
    BytesIn(Arc<str>),
    /// The same for servers.
    BytesOut(Arc<str>),
    /// Requests and tunnels given to a server of an upstream.
    Taken(Arc<str>, Arc<str>),
    /// What a server failed at.
    Faults(Arc<str>, Arc<str>),
    /// Sessions that were opened there.
    Opened(Arc<str>, Arc<str>),
}

/// The last looks, the oldest first.
#[derive(Default)]
pub(super) struct Rates(Mutex<VecDeque<Look>>);

struct Look {
    at: Instant,
    counts: HashMap<Counted, u64>,
}

impl Rates {
    /// Looks at everything.
    pub(super) fn look(&self, snapshot: &Snapshot, metrics: &Metrics) {
        let look = Look { at: Instant::now(), counts: count(snapshot, metrics) };
        let mut looks = self.looks();
        if looks.len() == LOOKS {
            looks.pop_front();
        }
        looks.push_back(look);
    }

    /// How often in a second; `None` before there is anything to compare, or where it began anew.
    pub(super) fn of(&self, counted: &Counted) -> Option<f64> {
        let looks = self.looks();
        let last = looks.back()?;
        let first = looks.iter().find(|look| look.counts.contains_key(counted))?;
        let time = last.at.duration_since(first.at).as_secs_f64();
        let more = last.counts.get(counted)?.checked_sub(*first.counts.get(counted)?)?;
        // Hundredths are all that anybody reads.
        (time > 0.0).then(|| (more as f64 / time * 100.0).round() / 100.0)
    }

    fn looks(&self) -> MutexGuard<'_, VecDeque<Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(snapshot: &Snapshot, metrics: &Metrics) -> HashMap<Counted, u64> {
    let mut counts = HashMap::new();
    for said in &snapshot.config.listeners {
        let name = said.name();
        counts.insert(Counted::Accepted(name.as_str().into()), metrics.listener(&name).accepted.get());
    }
    for route in &snapshot.routes {
        // Several may have one name.
        *counts.entry(Counted::Routed(Arc::clone(&route.name))).or_default() += route.taken.total();
        for (listener, taken) in route.taken.by_listener() {
            *counts.entry(Counted::RoutedFrom(Arc::clone(&route.name), Arc::clone(listener))).or_default() += taken;
        }
    }
    for (name, upstream) in &snapshot.upstreams {
        let its = &upstream.metrics;
        counts.insert(Counted::Answered(Arc::clone(name)), answered(its));
        counts.insert(Counted::Failed(Arc::clone(name)), its.answered_5xx.get());
        counts.insert(Counted::BytesIn(Arc::clone(name)), its.bytes_in.get());
        counts.insert(Counted::BytesOut(Arc::clone(name)), its.bytes_out.get());
        for server in upstream.all_servers() {
            let key = || (Arc::clone(name), Arc::clone(server.name()));
            let of = |make: fn(Arc<str>, Arc<str>) -> Counted| {
                let (upstream, server) = key();
                make(upstream, server)
            };
            counts.insert(of(Counted::Taken), server.total());
            counts.insert(of(Counted::Faults), server.connect_failures() + server.bad_answers());
            counts.insert(of(Counted::Opened), server.home().map_or(0, |home| home.opened()));
        }
    }
    counts
}

/// All answers of an upstream.
pub(super) fn answered(its: &UpstreamMetrics) -> u64 {
    [&its.answered_1xx, &its.answered_2xx, &its.answered_3xx, &its.answered_4xx, &its.answered_5xx]
        .iter()
        .map(|counter| counter.get())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rates_are_those_of_the_last_seconds_and_never_below_zero() {
        let (rates, what) = (Rates::default(), Counted::Routed("r".into()));
        let look = async |count: Option<u64>| {
            let counts = count.map(|count| (what.clone(), count)).into_iter().collect();
            {
                let mut looks = rates.looks();
                if looks.len() == LOOKS {
                    looks.pop_front();
                }
                looks.push_back(Look { at: Instant::now(), counts });
            }
            tokio::time::advance(EVERY).await;
            rates.of(&what)
        };
        assert_eq!(look(None).await, None);
        assert_eq!(look(Some(5)).await, None, "there is nothing to compare yet");
        assert_eq!(look(Some(15)).await, Some(10.0));
        for _ in 0..LOOKS {
            look(Some(15)).await;
        }
        assert_eq!(look(Some(15)).await, Some(0.0));
        assert_eq!(look(Some(3)).await, None, "it began anew");
    }
}
