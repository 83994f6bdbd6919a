//! Who may ask: that no list is empty, and nothing is said that could not hold.

use super::{Report, Spot, words};
use crate::access::config::{Cors, Networks, OfListener};
use crate::access::{self, Pattern};
use crate::config::Config;

pub(super) fn check(config: &Config, root: &Spot<'_>, report: &mut Report) {
    let top = config.access.as_ref();
    if let Some(said) = &config.access {
        let spot = root.key("access");
        if !said.inherit {
            report.fault(&spot.key("inherit").as_str(), "only for routes: there is nothing above this one");
        }
        one(said, None, &spot, report);
    }
    for (spot, route) in root.key("routes").each(&config.routes) {
        if let Some(said) = &route.access {
            one(said, top, &spot.key("access"), report);
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

fn one(said: &access::Config, top: Option<&access::Config>, spot: &Spot<'_>, report: &mut Report) {
    networks(said.allow.as_ref(), &spot.key("allow"), report);
    networks(said.deny.as_ref(), &spot.key("deny"), report);
    if let Some(origins) = &said.origins {
        let spot = spot.key("origins");
        let list = if spot.key("allow").is_given() { spot.key("allow") } else { spot };
        if origins.allow.is_empty() && list.is_intact() {
            report.fault(&list, "found an empty list, which would let no page in: leave the key out to let all in");
        }
        for (spot, _) in list.each(&origins.allow).filter(|(_, pattern)| **pattern == Pattern::Any) {
            report.fault(&spot, "found `*`, expected origins: to let every site ask, leave the key out");
        }
    }
    if let Some(said_here) = &said.cors {
        let spot = spot.key("cors");
        let has_origins = said_here.origins.as_ref().is_some_and(|origins| !origins.0.is_empty());
        if !has_origins && said.over(top).origins.is_none() && spot.is_intact() {
            let what = "expected `origins`, the sites whose pages may read answers, here or beside `cors`";
            report.fault(&spot.as_str(), what);
        }
        cors(said_here, &spot, report);
    }
}

fn cors(cors: &Cors, spot: &Spot<'_>, report: &mut Report) {
    let every_site = cors.origins.iter().flat_map(|origins| &origins.0).any(|origin| *origin == Pattern::Any);
    if every_site && cors.credentials {
        let what = "not with `*` among `origins`: every site could read what your users may";
        report.fault(&spot.key("credentials").as_str(), what);
    }
    let origins = spot.key("origins");
    if cors.origins.as_ref().is_some_and(|origins| origins.0.is_empty()) && origins.is_intact() {
        report.fault(&origins, "found an empty list: leave the key out");
    }
    for (spot, method) in spot.key("methods").each(&cors.methods) {
        report.well_formed(&spot, words::method(method));
    }
    for (key, names) in [("headers", &cors.headers), ("expose", &cors.expose)] {
        for (spot, name) in spot.key(key).each(names) {
            report.well_formed(&spot, words::header_name(name));
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
