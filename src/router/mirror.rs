//! Which requests are copied for another upstream, and how many copies there are at once.

use std::sync::Arc;

use rand::Rng;
use tokio::sync::Semaphore;

use super::config;

/// The compiled form of a `mirror`.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    pub(crate) upstream: Arc<str>,
    percent: u8,
    /// Requests with larger bodies are not copied.
    pub(crate) most_body: usize,
    /// Room for copies.
    pub(crate) places: Arc<Semaphore>,
}

impl Mirror {
    /// Compiles what has been checked already.
    pub(super) fn build(said: &config::Mirror) -> Self {
        Self {
            upstream: said.upstream.as_str().into(),
            percent: said.percent,
            most_body: usize::try_from(said.body.as_u64()).unwrap_or(usize::MAX),
            places: Arc::new(Semaphore::new(said.max_open)),
        }
    }

    /// Whether it is this request's turn.
    pub(crate) fn draws(&self) -> bool {
        self.percent >= 100 || rand::rng().random_range(0..100) < self.percent
    }
}
