//! Clients that ask one request after the other, and how these end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::{Client, Gateway, eventually};

/// A request like any other.
pub const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How requests ended: by status, or 0 where the answer never came whole.
pub type Tally = BTreeMap<u16, usize>;

/// Everything but 200.
pub fn failed(tally: &Tally) -> usize {
    tally.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum()
}

/// Asks so many times, each on a connection of its own.
pub async fn ask(gateway: &Gateway, times: usize, request: &str) -> Tally {
    let mut tally = Tally::new();
    for _ in 0..times {
        let answer = gateway.client().await.try_ask(request).await;
        *tally.entry(answer.map_or(0, |answer| answer.status)).or_default() += 1;
    }
    tally
}

/// Clients that ask on connections that they keep, until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<Tally>,
}

impl Load {
    pub fn start(gateway: &Gateway, clients: usize) -> Self {
        let address = gateway.address("web");
        let mut load = Self { stop: Arc::default(), done: Arc::default(), clients: JoinSet::new() };
        for _ in 0..clients {
            let (stop, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
            load.clients.spawn(async move {
                let mut tally = Tally::new();
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.try_ask(GET).await;
                    let reusable = answer.as_ref().is_some_and(|answer| answer.header("connection") != Some("close"));
                    *tally.entry(answer.map_or(0, |answer| answer.status)).or_default() += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                    if !reusable {
                        client = Client::connect(address).await;
                    }
                }
                tally
            });
        }
        load
    }

    /// Waits until this many more requests have been answered.
    pub async fn goes_on(&self, requests: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the load goes on", async || self.done.load(Ordering::Relaxed) >= before + requests).await;
    }

    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::new();
        for tally in self.clients.join_all().await {
            for (status, count) in tally {
                *sum.entry(status).or_default() += count;
            }
        }
        sum
    }
}
