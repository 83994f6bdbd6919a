//! Routes: what they match, that each can be reached, and that where they lead exists.

use std::collections::{BTreeMap, HashSet};

use bytesize::ByteSize;

use super::reach::Reach;
use super::{Names, Report, Spot, words};
use crate::compression::config::Levels;
use crate::compression::{self, checked_type};
use crate::config::Config;
use crate::listener::{self, config::Protocol};
use crate::router::config::{Match, OneOrMany, Redirect, Respond};
use crate::router::{self, HostRule, PathRule};
use crate::upstream::config::Kind;

/// The largest `respond.body_size`: a body stays in memory for as long as its route.
const LARGEST_BODY: ByteSize = ByteSize::mib(64);

pub(super) fn check(config: &Config, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    let mut earlier: Vec<(&router::Config, Spot<'_>)> = Vec::new();
    let mut reach = Reach::default();
    for (spot, route) in spot.each(&config.routes) {
        if let Some(name) = &route.name {
            report.name(&spot.key("name"), name);
        }
        matches(&route.matches, &spot.key("match"), names, report);
        outcome(config, route, &spot, names, report);
        if !spot.is_intact() {
            continue;
        }
        match reach.first(&route.matches, |place| takes_all(&earlier[place].0.matches, &route.matches)) {
            Some(place) => {
                let first = earlier[place].1.path();
                report.fault(&spot, format!("never reached: {first} comes first and takes all that this one would"));
            }
            None => {
                reach.add(earlier.len(), &route.matches);
                earlier.push((route, spot));
            }
        }
    }
    let speaks_http = config.listeners.iter().any(|listener| listener.protocol == Protocol::Http);
    if !config.routes.is_empty() && !config.listeners.is_empty() && !speaks_http {
        report.fault(&spot.as_str(), "no listener speaks HTTP, so that no route could ever apply");
    }
}

fn matches(matches: &Match, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    let mut list = |key: &str, values: &OneOrMany, verdict: fn(&str) -> Result<(), String>| {
        for (spot, value) in spot.key(key).each(&values.0) {
            report.well_formed(&spot, verdict(value));
        }
    };
    list("host", &matches.host, words::host_pattern);
    list("path", &matches.path, words::path);
    list("path_exact", &matches.path_exact, words::path);
    list("method", &matches.method, words::method);
    for key in ["host", "path", "path_exact", "method", "listener"] {
        let spot = spot.key(key);
        if spot.is_empty_list() {
            report.fault(&spot, "found an empty list, which nothing would match: leave the key out");
        }
    }
    headers(&matches.headers, &spot.key("headers"), report);
    for name in matches.query.keys().filter(|name| name.is_empty()) {
        report.fault(&spot.key("query").key(name).as_str(), "expected the name of a parameter");
    }
    for (spot, name) in spot.key("listener").each(&matches.listener.0) {
        if report.reference(&spot, "listener", name, &names.listeners)
            && names.protocols.get(name).is_some_and(|&protocol| protocol != Protocol::Http)
        {
            let what = format!("`{name}` does not speak HTTP: no route applies to what it accepts");
            report.fault(&spot, what);
        }
    }
}

fn headers(headers: &BTreeMap<String, String>, spot: &Spot<'_>, report: &mut Report) {
    let mut seen = HashSet::new();
    for (spot, (name, value)) in spot.each_key(headers) {
        report.well_formed(&spot.as_str(), words::header_name(name));
        report.well_formed(&spot, words::header_value(value));
        if !seen.insert(name.to_ascii_lowercase()) {
            report.fault(&spot.as_str(), "written twice: the names of headers have no case");
        }
    }
}

fn outcome(config: &Config, route: &router::Config, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    let outcomes = ["upstream", "respond", "redirect"].map(|key| (key, spot.key(key)));
    let given: Vec<_> = outcomes.iter().filter(|(_, spot)| spot.is_given()).collect();
    match given.as_slice() {
        [] => report.fault(spot, "expected one of the keys `upstream`, `respond` and `redirect`"),
        [_] => {}
        [(first, _), rest @ ..] => {
            for (key, spot) in rest {
                report.fault(&spot.as_str(), format!("found `{first}` and `{key}`, expected one of them"));
            }
        }
    }
    if let Some(name) = &route.upstream {
        let spot = spot.key("upstream");
        if report.reference(&spot, "upstream", name, &names.upstreams)
            && config.upstreams.get(name).is_some_and(|upstream| upstream.kind == Kind::Tcp)
        {
            let what = format!(
                "`{name}` is of kind `tcp`, which carries no HTTP: `detect.tcp` or a `tcp` listener leads there"
            );
            report.fault(&spot, what);
        }
    }
    if !route.upgrade.0.is_empty() && !spot.key("upstream").is_given() {
        report.fault(
            &spot.key("upgrade").as_str(),
            "only for a route with `upstream`: nobody else can agree to an upgrade",
        );
    }
    if let Some(said) = &route.compression {
        let spot = spot.key("compression");
        if !outcomes[0].1.is_given() {
            report.fault(&spot.as_str(), "only for a route with `upstream`: it is for answers of servers");
        }
        compression(said, &spot, report);
    }
    for (spot, name) in spot.key("upgrade").each(&route.upgrade.0) {
        report.well_formed(&spot, words::upgrade(name));
    }
    if let Some(answer) = &route.respond {
        respond(answer, &spot.key("respond"), report);
    }
    if let Some(target) = &route.redirect {
        redirect(config, route, target, &spot.key("redirect"), report);
    }
}

fn compression(said: &compression::Config, spot: &Spot<'_>, report: &mut Report) {
    for spot in ["encodings", "types"].map(|key| spot.key(key)) {
        if spot.is_empty_list() {
            report.fault(&spot, "found an empty list, by which nothing is compressed: leave `compression` out");
        }
    }
    let mut seen = HashSet::new();
    for (spot, coding) in spot.key("encodings").each(&said.encodings) {
        if !seen.insert(coding) {
            report.fault(&spot, format!("`{coding}` is written twice"));
        }
    }
    for (spot, named) in spot.key("types").each(&said.types) {
        report.well_formed(&spot, checked_type(named));
    }
    let spot = spot.key("levels");
    let Levels { gzip, br, zstd } = said.levels;
    for (key, level, levels) in [("gzip", gzip, 1..=9), ("br", br, 0..=6), ("zstd", zstd, 1..=12)] {
        if !levels.contains(&level) {
            report.fault(&spot.key(key), format!("found {level}, expected {} to {}", levels.start(), levels.end()));
        }
    }
}

fn respond(respond: &Respond, spot: &Spot<'_>, report: &mut Report) {
    if !(200..=599).contains(&respond.status) {
        report.fault(&spot.key("status"), format!("found {}, expected a status from 200 to 599", respond.status));
    }
    if matches!(respond.status, 204 | 304) && !respond.body.is_empty() {
        report.fault(&spot.key("body"), format!("an answer with status {} carries no body", respond.status));
    }
    let size = respond.body_size;
    if size.as_u64() > 0 && matches!(respond.status, 204 | 304) {
        report.fault(&spot.key("body_size"), format!("an answer with status {} carries no body", respond.status));
    } else if size.as_u64() > 0 && !respond.body.is_empty() {
        report.fault(&spot.key("body_size").as_str(), "found `body` and `body_size`, expected one of them");
    } else if size > LARGEST_BODY {
        report.fault(&spot.key("body_size"), format!("found {size}, expected at most {LARGEST_BODY}"));
    }
    headers(&respond.headers, &spot.key("headers"), report);
    // What frames the message or belongs to the connection (RFC 9110, section 7.6.1) is not the operator's to say.
    const OWN: [&str; 7] =
        ["connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade"];
    for (spot, (name, _)) in spot.key("headers").each_key(&respond.headers) {
        if OWN.contains(&name.to_ascii_lowercase().as_str()) {
            report.fault(&spot.as_str(), "the gateway writes this header itself");
        }
    }
}

fn redirect(config: &Config, route: &router::Config, redirect: &Redirect, spot: &Spot<'_>, report: &mut Report) {
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        report.fault(&spot.key("status"), format!("found {}, expected 301, 302, 303, 307 or 308", redirect.status));
    }
    if let Some(scheme) = &redirect.scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        report.fault(&spot.key("scheme"), format!("found `{scheme}`, expected `http` or `https`"));
    }
    if let Some(host) = &redirect.host {
        report.well_formed(&spot.key("host"), words::plain_host(host));
    }
    if redirect.port == Some(0) {
        report.fault(&spot.key("port"), "found 0, expected a port from 1 to 65535");
    }
    if let Some(path) = &redirect.path {
        report.well_formed(&spot.key("path"), words::target(path));
    }
    let given = ["scheme", "host", "port", "path"].iter().any(|key| spot.key(key).is_given());
    if !given && spot.is_intact() {
        report.fault(
            &spot.as_str(),
            "changes nothing, so that the client comes back for ever: expected `scheme`, `host`, `port` or `path`",
        );
    } else if let Some(listener) = comes_back(config, &route.matches, redirect) {
        report.warn(
            &spot.as_str(),
            format!("a client of listener `{listener}` is sent to where it is: `match` should leave it out"),
        );
    }
}

/// The listener where the redirect changes nothing of a request that it matches. Headers may tell more than can be seen here.
fn comes_back(config: &Config, matches: &Match, redirect: &Redirect) -> Option<String> {
    let same_host = |host: &String| matches.host.0.contains(host);
    let same_path = |path: &String| {
        let path = path.split('?').next().unwrap_or_default();
        let any = matches.path.0.is_empty() && matches.path_exact.0.is_empty();
        any || matches.paths().any(|rule| rule.covers(&PathRule::Exact(path)))
    };
    let unseen = !matches.headers.is_empty() || !matches.query.is_empty() || redirect.port.is_some();
    if unseen || !redirect.host.as_ref().is_none_or(same_host) || !redirect.path.as_ref().is_none_or(same_path) {
        return None;
    }
    let applies =
        |listener: &listener::Config| matches.listener.0.is_empty() || matches.listener.0.contains(&listener.name());
    let mut listeners = config.listeners.iter().filter(|listener| {
        let plain_too = listener.detect.as_ref().is_some_and(|detect| detect.plain);
        let same_scheme = match redirect.scheme.as_deref() {
            Some("https") => listener.tls.is_some(),
            Some(_) => listener.tls.is_none() || plain_too,
            None => true,
        };
        listener.protocol == Protocol::Http && same_scheme && applies(listener)
    });
    listeners.next().map(|listener| listener.name())
}

/// Whether `first` holds whenever `then` does.
pub(super) fn takes_all(first: &Match, then: &Match) -> bool {
    let all = |first: &OneOrMany, then: &OneOrMany| {
        let mut then = then.0.iter();
        first.0.is_empty() || then.len() > 0 && then.all(|then| first.0.contains(then))
    };
    let pairs = |first: &BTreeMap<String, String>, then: &BTreeMap<String, String>| {
        first.iter().all(|(name, value)| then.get(name).is_some_and(|then| value == "*" || value == then))
    };
    every_rule(first.hosts(), then.hosts(), HostRule::covers)
        && every_rule(first.paths(), then.paths(), PathRule::covers)
        && all(&first.method, &then.method)
        && all(&first.listener, &then.listener)
        && pairs(&first.headers, &then.headers)
        && pairs(&first.query, &then.query)
        && (first.upgrade.is_none() || first.upgrade == then.upgrade)
}

/// Whether each of the later rules is covered by one of the first; no rules at all take everything.
fn every_rule<T>(
    first: impl Iterator<Item = T> + Clone,
    then: impl Iterator<Item = T>,
    covers: fn(&T, &T) -> bool,
) -> bool {
    let mut then = then.peekable();
    let covered = |then: T| first.clone().any(|first| covers(&first, &then));
    first.clone().next().is_none() || then.peek().is_some() && then.all(covered)
}
