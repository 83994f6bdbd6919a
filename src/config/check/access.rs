//! Who may ask: that no list is empty, and nothing is said that could not hold.

use super::{Report, Spot};
use crate::access::{self, config::Networks, config::OfListener};
use crate::config::Config;

pub(super) fn check(config: &Config, root: &Spot<'_>, report: &mut Report) {
    if let Some(said) = &config.access {
        let spot = root.key("access");
        if !said.inherit {
            report.fault(&spot.key("inherit").as_str(), "only for routes: there is nothing above this one");
        }
        one(said, &spot, report);
    }
    for (spot, route) in root.key("routes").each(&config.routes) {
        if let Some(said) = &route.access {
            one(said, &spot.key("access"), report);
        }
    }
    for (spot, listener) in root.key("listeners").each(&config.listeners) {
        let spot = spot.key("access");
        if let Some(OfListener { allow, deny }) = &listener.access {
            networks(allow.as_ref(), &spot.key("allow"), report);
            networks(deny.as_ref(), &spot.key("deny"), report);
        }
    }
    for (spot, name) in root.key("access_log").key("mask").each(&config.access_log.mask) {
        if name.is_empty() {
            report.fault(&spot, "found an empty text, expected the name of a parameter");
        }
    }
}

fn one(said: &access::Config, spot: &Spot<'_>, report: &mut Report) {
    networks(said.allow.as_ref(), &spot.key("allow"), report);
    networks(said.deny.as_ref(), &spot.key("deny"), report);
    if let Some(origins) = &said.origins {
        let spot = spot.key("origins");
        let list = if spot.key("allow").is_given() { spot.key("allow") } else { spot };
        if origins.allow.is_empty() && list.is_intact() {
            report.fault(&list, "found an empty list, which would let no page in: leave the key out to let all in");
        }
    }
}

fn networks(said: Option<&Networks>, spot: &Spot<'_>, report: &mut Report) {
    let Some(Networks(items)) = said else { return };
    if items.is_empty() && spot.is_intact() {
        report.fault(spot, "found an empty list: leave the key out");
    }
    for (spot, item) in spot.each(items) {
        if let access::config::NetworkItem::File(file) = item {
            report.some_path(&spot.key("file"), Some(file));
        }
    }
}
