//! Several upstreams in one place: that each entry says where its share goes, and that there is something to share out.

use std::collections::HashSet;

use super::{Report, Spot};
use crate::share::{Share, Upstreams};

/// Looks at what shares requests, and gives the entries that name an upstream, each with the place of the name.
pub(super) fn of_requests<'s, 'v>(
    said: &'v Upstreams,
    list: &Spot<'s>,
    report: &mut Report,
) -> Vec<(Spot<'s>, &'v str)> {
    check(said, list, "`name` or `respond`", report)
}

/// The same for what shares connections that do not speak HTTP.
pub(super) fn of_connections<'s, 'v>(
    said: &'v Upstreams,
    list: &Spot<'s>,
    report: &mut Report,
) -> Vec<(Spot<'s>, &'v str)> {
    for (spot, _) in list.each(&said.0).filter(|(_, share)| share.respond.is_some()) {
        report.fault(&spot.key("respond").as_str(), "only for requests: connections that are carried on get no answer");
    }
    check(said, list, "`name`", report)
}

fn check<'s, 'v>(said: &'v Upstreams, list: &Spot<'s>, keys: &str, report: &mut Report) -> Vec<(Spot<'s>, &'v str)> {
    if said.0.is_empty() && list.is_intact() {
        report.fault(list, "found an empty list, expected an upstream");
    }
    let (mut known, mut named) = (HashSet::new(), Vec::new());
    for (spot, share) in list.each(&said.0) {
        let Share { name, respond, weight } = share;
        let [of_name, of_status, of_weight] = ["name", "respond", "weight"].map(|key| spot.key(key));
        let twice = (name.is_some() || respond.is_some()) && !known.insert((name, respond));
        match (name, respond) {
            (Some(_), Some(_)) => report.fault(&of_status.as_str(), "found `name` and `respond`, expected one of them"),
            (None, None) if spot.is_intact() => report.fault(&spot, format!("expected the key {keys}")),
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
        // An empty name may stand for what was set aside as faulty.
        let name = name.as_deref().filter(|name| !name.is_empty() || list.is_intact());
        named.extend(name.map(|name| (of_name, name)));
    }
    if !said.0.is_empty() && said.0.iter().all(|share| share.weight == 0) && list.is_intact() {
        report.fault(list, "no weight is above 0, so that nobody would be given new clients");
    }
    named
}
