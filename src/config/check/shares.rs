//! Several upstreams in one place: that each entry says where its share goes, and that there is something to share out.

use std::collections::HashSet;

use super::{Report, Spot};
use crate::router::config::{Share, Upstreams};

/// Looks at the entries among each other, and gives those that name an upstream, each with the place of the name.
pub(super) fn check<'s, 'v>(said: &'v Upstreams, spot: &Spot<'s>, report: &mut Report) -> Vec<(Spot<'s>, &'v str)> {
    if said.0.is_empty() && spot.is_intact() {
        report.fault(spot, "found an empty list, expected an upstream");
    }
    let (mut known, mut named) = (HashSet::new(), Vec::new());
    for (spot, share) in spot.each(&said.0) {
        let Share { name, respond, weight } = share;
        let [of_name, of_status, of_weight] = ["name", "respond", "weight"].map(|key| spot.key(key));
        let twice = (name.is_some() || respond.is_some()) && !known.insert((name, respond));
        match (name, respond) {
            (Some(_), Some(_)) => report.fault(&of_status.as_str(), "found `name` and `respond`, expected one of them"),
            (None, None) if spot.is_intact() => report.fault(&spot, "expected the key `name` or `respond`"),
            _ if twice => {
                let of = if name.is_some() { &of_name } else { &of_status };
                report.fault(of, format!("`{share}` is in the list already: `weight` gives a larger share"));
            }
            _ => {}
        }
        if let Some(status) = respond.filter(|status| !(200..=599).contains(status)) {
            report.fault(&of_status, format!("found {status}, expected a status from 200 to 599"));
        }
        if *weight > 1000 {
            report.fault(&of_weight, format!("found {weight}, expected a whole number from 0 to 1000"));
        }
        named.extend(name.as_deref().map(|name| (of_name, name)));
    }
    if !said.0.is_empty() && said.0.iter().all(|share| share.weight == 0) && spot.is_intact() {
        report.fault(spot, "no weight is above 0, so that nobody would be given new clients");
    }
    named
}
