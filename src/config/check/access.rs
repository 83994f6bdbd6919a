//! Who may ask: that no list is empty, and nothing is said that could not hold.

use std::time::Duration;

use bytesize::ByteSize;

use super::{Lint, Report, Spot, words};
use crate::access::config::{Basic, Cors, ForwardAuth, Jwt, KeySource, Networks, OfListener, TokenFrom, UserItem};
use crate::access::{self, Pattern};
use crate::config::Config;
use crate::http::hop_by_hop::is_hop_by_hop;

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
    if let Some(said) = &said.jwt {
        jwt(said, &spot.key("jwt"), report);
    }
    if let Some(said_here) = &said.basic {
        basic(said_here, &spot.key("basic"), report);
    }
    if said.basic.is_some() || said.jwt.is_some() {
        let all = said.over(top);
        let from = all.jwt.as_ref().filter(|_| all.basic.is_some()).map(|jwt| &jwt.from);
        let authorization = |name: &String| name.eq_ignore_ascii_case("authorization");
        if from.is_some_and(|from| {
            from.header.as_ref().is_some_and(authorization) && from.cookie.is_none() && from.query.is_none()
        }) {
            let what = "`basic` and `jwt` both ask for `Authorization`, and nobody can show two: expected another place in `jwt.from`";
            report.fault(&spot.as_str(), what);
        }
    }
    if let Some(said) = &said.forward_auth {
        forward_auth(said, &spot.key("forward_auth"), report);
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

fn basic(said: &Basic, spot: &Spot<'_>, report: &mut Report) {
    let users = spot.key("users");
    if said.users.0.is_empty() && users.is_intact() {
        report.fault(&users, "found an empty list, expected `name:hash`, or `file` with the path of a list");
    }
    for (spot, item) in users.each(&said.users.0) {
        match item {
            UserItem::File(file) => report.some_path(&spot.key("file"), Some(file)),
            UserItem::User(user) if said.users.0.iter().filter(|other| is_user(other, &user.name)).count() > 1 => {
                report.fault(&spot, format!("`{}` is there twice", user.name));
            }
            UserItem::User(_) => {}
        }
    }
    if !said.realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        report.fault(&spot.key("realm"), "expected letters, digits, blanks and signs of ASCII but `\"` and `\\`");
    }
    if let Some(name) = &said.user_header {
        let spot = spot.key("user_header");
        report.well_formed(&spot, words::header_name(name));
        own_field(name, &spot, report);
    }
    if said.remember > MOST_REMEMBERED {
        report.fault(&spot.key("remember"), "expected at most 1h: for as long a password is good that was changed");
    }
}

/// The longest that a password is known again.
const MOST_REMEMBERED: Duration = Duration::from_secs(3600);

fn is_user(item: &UserItem, name: &str) -> bool {
    matches!(item, UserItem::User(user) if *user.name == *name)
}

fn forward_auth(said: &ForwardAuth, spot: &Spot<'_>, report: &mut Report) {
    report.some_time(&spot.key("timeout"), said.timeout);
    report.some_path(&spot.key("ca"), said.ca.as_deref());
    if said.body > MOST_BODY {
        report.fault(&spot.key("body"), format!("found {}, expected at most {MOST_BODY}", said.body));
    }
    for (key, names) in [("to_server", &said.to_server), ("to_client", &said.to_client)] {
        for (spot, name) in spot.key(key).each(names) {
            report.well_formed(&spot, words::header_name(name));
            own_field(name, &spot, report);
        }
    }
}

/// A field that belongs to a connection or frames a message.
fn own_field(name: &str, spot: &Spot<'_>, report: &mut Report) {
    let name = name.to_ascii_lowercase();
    if is_hop_by_hop(&name) || matches!(&*name, "content-length" | "host") {
        report.fault(spot, "the gateway writes this header itself");
    }
}

/// The largest answer of a service that a client may get.
const MOST_BODY: ByteSize = ByteSize::mib(1);

fn jwt(jwt: &Jwt, spot: &Spot<'_>, report: &mut Report) {
    if jwt.jwks.is_none() && jwt.public_key.is_none() && jwt.secret.is_none() && spot.is_intact() {
        report.fault(&spot.as_str(), "expected one of the keys `jwks`, `public_key` and `secret`");
    }
    if let Some(source) = &jwt.jwks {
        key_source(source, &spot.key("jwks"), report);
    }
    report.some_path(&spot.key("public_key"), jwt.public_key.as_deref());
    if jwt.jwks.is_none() && jwt.public_key.is_none() && !jwt.algorithms.is_empty() {
        use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
        if !jwt.algorithms.iter().any(|algorithm| [HS256, HS384, HS512].contains(algorithm)) {
            report.fault(&spot.key("algorithms"), "found none that `secret` is for, expected HS256, HS384 or HS512");
        }
    }
    let TokenFrom { header, cookie, query } = &jwt.from;
    let from = spot.key("from");
    if header.is_none() && cookie.is_none() && query.is_none() && from.is_intact() {
        report.fault(&from, "expected one of the keys `header`, `cookie` and `query`");
    }
    if let Some(name) = header {
        report.well_formed(&from.key("header"), words::header_name(name));
    }
    if let Some(name) = cookie {
        report.well_formed(&from.key("cookie"), words::header_name(name));
    }
    if query.as_ref().is_some_and(String::is_empty) {
        report.fault(&from.key("query"), "found an empty text, expected the name of a parameter");
    }
    for (spot, (field, claim)) in spot.key("claims").each_key(&jwt.claims) {
        report.well_formed(&spot.as_str(), words::header_name(field));
        own_field(field, &spot.as_str(), report);
        if claim.is_empty() {
            report.fault(&spot, "found an empty text, expected the name of a claim");
        }
    }
    if jwt.leeway > MOST_LEEWAY {
        report.fault(&spot.key("leeway"), "expected at most 1h: who is further apart has another clock to mend");
    }
}

fn key_source(source: &KeySource, spot: &Spot<'_>, report: &mut Report) {
    match source {
        KeySource::File(file) => report.some_path(spot, Some(file)),
        KeySource::Remote(remote) => {
            report.some_path(&spot.key("ca"), remote.ca.as_deref());
            report.some_time(&spot.key("refresh"), remote.refresh);
            report.some_time(&spot.key("min_refresh"), remote.min_refresh);
            if remote.min_refresh > remote.refresh {
                report.fault(&spot.key("min_refresh"), "expected no more than `refresh`");
            }
            if !remote.url.is_safe() {
                let what = "by plain http: whoever stands between can bring keys of their own";
                let url = spot.key("url");
                report.warn(Lint::KeysInPlain, if url.is_given() { &url } else { spot }, what);
            }
        }
    }
}

/// The most that clocks may be apart.
const MOST_LEEWAY: Duration = Duration::from_secs(3600);

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
