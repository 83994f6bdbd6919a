//! Certificates from an authority (ACME, RFC 8555): ordered where there is none, and renewed in time, by one gateway of those
//! that share a folder.

mod order;
mod renewal;
mod storage;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::listener::tls::config::Acme;
use crate::reload::Reloader;
use order::OrderError;
use renewal::Suggested;
use storage::{Lock, Stored};

/// How often somebody looks whether anything is to be done.
const LOOK: Duration = Duration::from_secs(2);
/// How often a certificate that is well is looked at: another gateway may have renewed it.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// Longest time for an order.
const PATIENCE: Duration = Duration::from_secs(600);
/// From a failure that is not the authority's to the next attempt, doubled for each that follows.
const UNREACHED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// The same where the authority has refused: it counts what fails.
const REFUSED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(6 * 3600));
/// How long another gateway that orders is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// What is known of one certificate.
#[derive(Default)]
struct State {
    /// When it is looked at next.
    next: Option<Instant>,
    /// Whether somebody looks at it now.
    under_way: bool,
    /// How many attempts in a row have failed.
    failures: u32,
    /// When the authority has had it renewed before it was time.
    hurried: Option<Instant>,
}

/// How it stands with a certificate.
#[derive(Debug)]
enum Outcome {
    /// It has been renewed; `hurried`: since the authority wanted it, before it was time.
    Renewed { hurried: bool },
    /// It is good for so long.
    Good(Duration),
    /// Another gateway renews it.
    Busy,
}

/// Sees to the certificates of the configuration in force, each by itself, so that an authority that hangs holds up no
/// other; never ends.
pub async fn run(reloader: Arc<Reloader>) {
    let mut states: HashMap<PathBuf, State> = HashMap::new();
    let mut under_way = JoinSet::new();
    loop {
        let ordered = reloader.core().snapshot.load().config.acme();
        states.retain(|pem, state| state.under_way || ordered.iter().any(|said| said.pem().as_ref() == Some(pem)));
        for said in ordered {
            let Some(pem) = said.pem() else { continue };
            let state = states.entry(pem.clone()).or_default();
            if !state.under_way && state.next.is_none_or(|next| next <= Instant::now()) {
                state.under_way = true;
                // One that always wants another is not asked again at once.
                let asks = state.hurried.is_none_or(|at| at.elapsed() >= LOOK_AGAIN);
                under_way.spawn(async move {
                    let outcome = see_to(&said, asks).await;
                    (pem, said.domains.join(", "), outcome)
                });
            }
        }
        let done = tokio::select! {
            Some(done) = under_way.join_next() => done,
            () = tokio::time::sleep(LOOK) => continue,
        };
        let Ok((pem, name, outcome)) = done else {
            // A panic, of which nobody says whose it was: whoever is still at it has the lock.
            reloader.core().metrics.panics.inc();
            states
                .values_mut()
                .for_each(|state| (state.under_way, state.next) = (false, Some(Instant::now() + REFUSED.0)));
            continue;
        };
        let Some(state) = states.get_mut(&pem) else { continue };
        if let Ok(Outcome::Renewed { hurried: true }) = outcome {
            state.hurried = Some(Instant::now());
        }
        let wait = conclude(&reloader, &name, outcome, &mut state.failures).await;
        (state.under_way, state.next) = (false, Some(Instant::now() + wait));
    }
}

/// Says how it went, takes up what is new, and says how long it is until somebody looks again.
async fn conclude(
    reloader: &Arc<Reloader>,
    name: &str,
    outcome: Result<Outcome, OrderError>,
    failures: &mut u32,
) -> Duration {
    let metrics = &reloader.core().metrics;
    let error = match outcome {
        Ok(Outcome::Busy) => return BUSY,
        Ok(Outcome::Good(wait)) => {
            *failures = 0;
            return wait.min(LOOK_AGAIN);
        }
        Ok(Outcome::Renewed { .. }) => {
            info!("certificate of {name}: the authority has issued a new one");
            metrics.acme("ok");
            // Whether files are watched or not. The configuration is that in force, so it can be loaded.
            if let Err(fault) = reloader.refresh().await {
                warn!("certificate of {name}: the new one can't be used: {fault}");
            }
            *failures = 0;
            return LOOK;
        }
        Err(error) => error,
    };
    let wait = pause(&error, *failures, rand::random());
    *failures += 1;
    warn!("certificate of {name}: {error}; tried again in {} s", wait.as_secs());
    metrics.acme("failed");
    wait
}

/// How long it is waited after so many failures; `dice` from 0 to 1.
fn pause(error: &OrderError, failures: u32, dice: f64) -> Duration {
    let (first, most) = if error.is_refusal() { REFUSED } else { UNREACHED };
    (first * 2u32.saturating_pow(failures.min(16))).min(most).mul_f64(0.8 + 0.4 * dice)
}

/// Looks at a certificate, and renews it where it is time, or the authority says so, where it `asks` that.
async fn see_to(said: &Acme, asks: bool) -> Result<Outcome, OrderError> {
    let now = SystemTime::now();
    let before = Stored::read(said);
    let known = before.as_ref().and_then(Stored::identifier);
    let mut hurried = false;
    if let Some(wait) = before.as_ref().and_then(|stored| stored.good_for(&said.domains, now)) {
        let suggested = match known.as_ref().filter(|_| asks) {
            Some(known) => renewal::suggested(said, known).await,
            None => None,
        };
        match suggested {
            Some(Suggested::Now) => {
                hurried = true;
                info!("certificate of {}: the authority asks for another one", said.domains.join(", "));
            }
            Some(Suggested::In(sooner)) => return Ok(Outcome::Good(wait.min(sooner))),
            None => return Ok(Outcome::Good(wait)),
        }
    }
    let Some(_lock) = Lock::take(said).map_err(OrderError::Storage)? else { return Ok(Outcome::Busy) };
    // Whoever had the lock before may have done it.
    let others = Stored::read(said).filter(|stored| stored.identifier() != known);
    if let Some(wait) = others.and_then(|stored| stored.good_for(&said.domains, now)) {
        return Ok(Outcome::Good(wait));
    }
    let ordered = timeout(PATIENCE, order::order(said, known)).await.map_err(|_| OrderError::Late)?;
    ordered.map(|()| Outcome::Renewed { hurried })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_grow_rarer_and_an_authority_that_refuses_is_asked_less_often() {
        let wait = |error: &OrderError, failures| pause(error, failures, 0.5).as_secs();
        let (late, refused) = (OrderError::Late, OrderError::Refused("no".to_owned()));
        assert_eq!([0, 1, 2, 40].map(|failures| wait(&late, failures)), [5, 10, 20, 3600]);
        assert_eq!([0, 1, 2, 40].map(|failures| wait(&refused, failures)), [300, 600, 1200, 21_600]);
        assert_eq!((pause(&late, 0, 0.0), pause(&late, 0, 1.0)), (Duration::from_secs(4), Duration::from_secs(6)));
    }
}
