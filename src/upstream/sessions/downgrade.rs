//! Tells operators of the failure that nobody else sees: clients that are offered a WebSocket and stay on polling.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::session::{Recent, SessionTable};

/// Below this many offers in a minute their fate says little.
const FEW: u64 = 10;
/// Least time between two warnings.
const QUIET: Duration = Duration::from_secs(60);
/// How often the last minute is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Warns, once a minute at most, while most of the sessions that are offered a WebSocket don't reach it.
pub(crate) async fn watch(upstream: Arc<str>, sessions: Arc<SessionTable>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    loop {
        let now = ticks.tick().await;
        let quiet = told.is_some_and(|told| now.duration_since(told) < QUIET);
        if let Some(warning) = warning(sessions.upgrades()).filter(|_| !quiet) {
            log::warn!("upstream {upstream}: {warning}");
            told = Some(now);
        }
    }
}

fn warning(Recent { offered, reached }: Recent) -> Option<String> {
    (offered >= FEW && reached * 2 < offered).then(|| {
        format!(
            "of {offered} sessions that were offered a WebSocket in the last minute, {reached} reached it; the others stay on \
             polling, and nobody else will say so. Likely causes: upgrades take another way than polls (a route that matches \
             `upgrade`, or a proxy in front that splits them), something on the way refuses upgrades or loses their frames, \
             or these clients are told to poll"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_that_mostly_fail_are_worth_a_warning() {
        let told = |offered, reached| warning(Recent { offered, reached }).is_some();
        assert!(told(10, 0) && told(10, 4) && told(1000, 499));
        assert!(!told(9, 0) && !told(10, 5) && !told(1000, 1000) && !told(0, 0));
        let text = warning(Recent { offered: 12, reached: 3 }).unwrap();
        assert!(
            text.starts_with("of 12 sessions that were offered a WebSocket in the last minute, 3 reached it"),
            "{text}"
        );
    }
}
