//! When the authority would have a certificate renewed (RFC 9773): sooner than its age alone says, where it has to be taken back
//! or where many would be renewed at one time.

use std::time::{Duration, SystemTime};

use instant_acme::{CertificateIdentifier, SuggestedWindow};
use log::debug;
use tokio::time::timeout;

use super::order::account;
use super::storage::jitter;
use crate::listener::tls::config::Acme;

/// Longest time for an answer: where there is none, the age of the certificate counts.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest time until the authority is asked again, whatever it says.
const AGAIN: Duration = Duration::from_secs(60);

/// What the authority suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suggested {
    /// It is time.
    Now,
    /// It will be after so long, unless that is asked again before.
    In(Duration),
}

/// Asks the authority; `None` where it says nothing.
pub(super) async fn suggested(said: &Acme, certificate: &CertificateIdentifier<'_>) -> Option<Suggested> {
    let asked = async { account(said).await.ok()?.renewal_info(certificate).await.ok() };
    let (info, again) = timeout(PATIENCE, asked).await.ok().flatten()?;
    if let Some(page) = &info.explanation_url {
        debug!("certificate of {}: when it is renewed {page} explains", said.domains.join(", "));
    }
    Some(within(&info.suggested_window, again, SystemTime::now(), jitter()))
}

/// The moment of a window that this process has chosen, by `dice` from 0 to 1: not all gateways ask at once.
fn within(window: &SuggestedWindow, again: Duration, now: SystemTime, dice: f64) -> Suggested {
    let (start, end) = (SystemTime::from(window.start), SystemTime::from(window.end));
    let at = start + end.duration_since(start).unwrap_or_default().mul_f64(dice);
    match at.duration_since(now) {
        Ok(left) if !left.is_zero() => Suggested::In(left.min(again.max(AGAIN))),
        _ => Suggested::Now,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_moment_lies_in_the_window_and_one_that_has_passed_is_now() {
        let hour = Duration::from_secs(3600);
        let at = |hours: u32| UNIX_EPOCH + hour * hours;
        let window = SuggestedWindow { start: at(10).into(), end: at(20).into() };
        let suggested = |now, dice| within(&window, hour * 6, now, dice);
        assert_eq!(suggested(at(8), 0.0), Suggested::In(hour * 2));
        assert_eq!(suggested(at(8), 0.3), Suggested::In(hour * 5));
        assert_eq!(suggested(at(8), 1.0), Suggested::In(hour * 6), "and then it is asked again");
        assert_eq!((suggested(at(15), 0.4), suggested(at(15), 0.6)), (Suggested::Now, Suggested::In(hour)));
        assert_eq!(suggested(at(30), 1.0), Suggested::Now);
        let soon = within(&window, Duration::ZERO, at(8), 1.0);
        assert_eq!(soon, Suggested::In(AGAIN), "not without a pause");
        let turned = SuggestedWindow { start: at(20).into(), end: at(10).into() };
        assert_eq!(within(&turned, hour * 6, at(19), 0.5), Suggested::In(hour));
    }
}
