//! Everything that was built from one configuration, swapped whole: a request sees one snapshot from its head to its end.

mod drains;
mod pool;
mod rebalance;
#[cfg(test)]
mod testing;

use std::collections::HashMap;
use std::sync::Arc;

pub use drains::{Progress, Running};
pub use pool::Pool;
pub use rebalance::Rebalancing;

use crate::config::Config;
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::router::{Router, Routes};
use crate::upstream::{self, MakeBalance, Upstream};

/// One configuration, built.
pub struct Snapshot {
    /// What the operator said.
    pub config: Config,
    /// Where requests go.
    pub router: Arc<dyn Router>,
    /// The upstreams by name.
    pub pools: HashMap<Arc<str>, Arc<Pool>>,
    /// What the gateway's own answers count.
    pub local: UpstreamMetrics,
}

/// What a program brings of its own; it outlives every configuration.
#[derive(Default)]
pub struct Brought {
    /// In place of the routes.
    pub router: Option<Arc<dyn Router>>,
    /// In place of the `balance` of the upstreams of these names.
    pub balances: HashMap<String, MakeBalance>,
}

impl Snapshot {
    /// Builds upstreams and routes. `brought` are the parts that a program brings in place of the configuration's,
    /// `before` finds the pool that an upstream had until now: what it knows is carried over.
    ///
    /// # Errors
    /// The first upstream that can't be built.
    pub fn build(
        config: Config,
        brought: &Brought,
        metrics: &Metrics,
        before: impl Fn(&str) -> Option<Arc<Pool>>,
    ) -> Result<Self, upstream::BuildError> {
        let mut pools = HashMap::new();
        for (name, said) in &config.upstreams {
            let pool = match (before(name), brought.balances.get(name)) {
                (Some(pool), _) => pool.rebuild(pool.upstream.rebuild(said)?),
                (None, Some(balance)) => {
                    let upstream = Upstream::build_with_balance(name, said, Arc::clone(balance))?;
                    Arc::new(Pool::new(upstream, metrics.upstream(name)))
                }
                (None, None) => Arc::new(Pool::new(Upstream::build(name, said)?, metrics.upstream(name))),
            };
            pools.insert(Arc::from(name.as_str()), pool);
        }
        let router = brought.router.clone().unwrap_or_else(|| Arc::new(Routes::build(&config.routes)));
        Ok(Self { router, pools, local: metrics.upstream("-"), config })
    }

    /// Whether traffic can be taken: every upstream has a server, or waits for none to be checked any more.
    pub fn ready(&self) -> bool {
        self.pools.values().all(|pool| pool.upstream.ready())
    }
}
