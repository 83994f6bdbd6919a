//! Routes: what they match, that each can be reached, and that where they lead exists.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytesize::ByteSize;

use super::reach::Reach;
use super::{Lint, Names, Report, Spot, fields, shares, upstreams, words};
use crate::compression::config::Levels;
use crate::compression::{self, checked_type};
use crate::config::Config;
use crate::config::parts::NEVER_REACHED;
use crate::config::shape::quoted;
use crate::filter::Expression;
use crate::filter::config::Files;
use crate::listener::{self, config::Protocol};
use crate::router::config::{HostHeader, Match, Mirror, OneOrMany, Redirect, Respond, Rewrite, SplitBy, Timeouts};
use crate::router::{self, HostRule, PathRule};
use crate::session::Named;
use crate::upstream::config::{Balance, Kind};

/// The largest `respond.body_size`: a body stays in memory for as long as its route.
const LARGEST_BODY: ByteSize = ByteSize::mib(64);

pub(super) fn check(config: &Config, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    let mut earlier: Vec<(&router::Config, Spot<'_>)> = Vec::new();
    let mut reach = Reach::default();
    let mut named: HashMap<&str, Spot<'_>> = HashMap::new();
    for (spot, route) in spot.each(&config.routes) {
        if let Some(name) = &route.name {
            report.name(&spot.key("name"), name);
            // In one file, routes may share a name; whoever writes another does not know of them.
            let first = named.entry(name).or_insert_with(|| spot.clone());
            if first.at().file != spot.at().file {
                let first = report.other(&spot, first);
                let what = format!("`{name}` is the name of {first} already: names have to differ between files");
                report.fault(&spot.key("name"), what);
            }
        }
        matches(&route.matches, &spot.key("match"), 0, names, report);
        outcome(config, route, &spot, names, report);
        fields::check(&route.request_headers, &spot.key("request_headers"), fields::Of::Requests, report);
        fields::check(&route.response_headers, &spot.key("response_headers"), fields::Of::Answers, report);
        if !spot.is_intact() {
            continue;
        }
        match reach.first(&route.matches, |place| takes_all(&earlier[place].0.matches, &route.matches)) {
            Some(place) => {
                let first = report.other(&spot, &earlier[place].1);
                report.fault(&spot, format!("{NEVER_REACHED}{first} comes first and takes all that this one would"));
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

/// How deep `not` and `any` may lie in each other.
const DEEPEST: usize = 4;

fn matches(matches: &Match, spot: &Spot<'_>, depth: usize, names: &Names, report: &mut Report) {
    let mut list = |key: &str, values: &OneOrMany, verdict: fn(&str) -> Result<(), String>| {
        for (spot, value) in spot.key(key).each(&values.0) {
            report.well_formed(&spot, verdict(value));
        }
    };
    list("host", &matches.host, words::host_pattern);
    list("path", &matches.path, words::path);
    list("path_exact", &matches.path_exact, words::path);
    list("path_regex", &matches.path_regex, words::regex);
    list("method", &matches.method, words::method);
    list("client", &matches.client, words::network);
    list("server_name", &matches.server_name, words::host_pattern);
    let lists = [
        "host",
        "path",
        "path_exact",
        "path_regex",
        "method",
        "client",
        "server_name",
        "port",
        "listener",
        "not",
        "any",
    ];
    for key in lists {
        let spot = spot.key(key);
        if spot.is_empty_list() {
            report.fault(&spot, "found an empty list, which nothing would match: leave the key out");
        }
    }
    headers(&matches.headers, &spot.key("headers"), report);
    for (spot, (name, text)) in spot.key("headers_regex").each_key(&matches.headers_regex) {
        report.well_formed(&spot.as_str(), words::header_name(name));
        report.well_formed(&spot, words::regex(text));
    }
    for (spot, (name, _)) in spot.key("cookies").each_key(&matches.cookies) {
        report.well_formed(&spot.as_str(), words::cookie_name(name));
    }
    for name in matches.query.keys().filter(|name| name.is_empty()) {
        report.fault(&spot.key("query").key(name).as_str(), "expected the name of a parameter");
    }
    for (spot, &port) in spot.key("port").each(&matches.port.0) {
        if port == 0 {
            report.fault(&spot, "found 0, expected a port from 1 to 65535");
        }
    }
    for (spot, name) in spot.key("listener").each(&matches.listener.0) {
        if report.reference(&spot, "listener", name, &names.listeners)
            && names.protocols.get(name).is_some_and(|&protocol| protocol != Protocol::Http)
        {
            let what = format!("`{name}` does not speak HTTP: no route applies to what it accepts");
            report.fault(&spot, what);
        }
    }
    if let Some(text) = &matches.when {
        report.well_formed(&spot.key("when"), words::expression(Expression::compile(text)));
    }
    for (key, inner, empty) in [
        ("not", &matches.not, "which takes everything, so that the route would take nothing"),
        ("any", &matches.any, "which always holds, so that the others say nothing"),
    ] {
        for (spot, inner) in spot.key(key).each_inner(&inner.0) {
            if *inner == Match::default() && spot.is_intact() {
                report.fault(&spot, format!("found an empty map, {empty}"));
            }
            if depth == DEEPEST {
                report.fault(&spot, format!("found more than {DEEPEST} of `not` and `any` in each other"));
            } else {
                self::matches(inner, &spot, depth + 1, names, report);
            }
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
    let outcomes = ["upstream", "respond", "redirect", "files"].map(|key| (key, spot.key(key)));
    let given: Vec<_> = outcomes.iter().filter(|(_, spot)| spot.is_given()).collect();
    match given.as_slice() {
        [] => report.fault(spot, "expected one of the keys `upstream`, `respond`, `redirect` and `files`"),
        [_] => {}
        [(first, _), rest @ ..] => {
            for (key, spot) in rest {
                report.fault(&spot.as_str(), format!("found `{first}` and `{key}`, expected one of them"));
            }
        }
    }
    let said = spot.key("upstream");
    if let Some(upstreams) = &route.upstream {
        for (spot, name) in shares::of_requests(upstreams, &said, report) {
            upstream(config, name, &spot, names, report);
            sessions_are_known(config, route, name, &spot, report);
        }
    }
    split(route, spot, report);
    if let Some(said) = &route.mirror {
        mirror(config, route, said, &spot.key("mirror"), names, report);
    }
    for (key, given) in
        [("timeouts", route.timeouts != Timeouts::default()), ("connect_retries", route.connect_retries.is_some())]
    {
        if given && !said.is_given() {
            report.fault(&spot.key(key).as_str(), "only for a route with `upstream`: nobody else is asked");
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
    onward(route, spot, report);
    heartbeat(config, route, &spot.key("timeouts"), report);
    for (spot, name) in spot.key("upgrade").each(&route.upgrade.0) {
        report.well_formed(&spot, words::upgrade(name));
    }
    if let Some(answer) = &route.respond {
        respond(answer, &spot.key("respond"), report);
    }
    if let Some(target) = &route.redirect {
        redirect(config, route, target, spot, report);
    }
}

/// A path at which sessions are usually opened has to lead to where somebody knows them, unless something else keeps
/// clients where they are.
fn sessions_are_known(config: &Config, route: &router::Config, name: &str, spot: &Spot<'_>, report: &mut Report) {
    let Some(upstream) = config.upstreams.get(name) else { return };
    let stays = upstream.balance() == Balance::ClientIp || upstream.affinity.cookie.is_some();
    let alone = upstream.servers.list().len() == 1;
    if upstream.has_sessions() || upstream.kind == Kind::Tcp || stays || alone {
        return;
    }
    let paths = || route.matches.path.0.iter().chain(&route.matches.path_exact.0);
    let usual = |protocol: &Named| {
        let said = protocol.protocol();
        // To whom every path is as usual as another, none says anything.
        let tells = !said.is_usual_path("/");
        let opens = |path: &&String| tells && said.is_usual_path(&format!("{}/", path.trim_end_matches('/')));
        paths().find(opens).map(|path| (*protocol, path))
    };
    if let Some((protocol, path)) = Named::ALL.iter().find_map(usual) {
        let what = format!(
            "sessions are usually opened at {path}, and `{name}` has `kind: {}`, which knows of none: expected \
             `kind: {protocol}`, or the polls of one session go to any server",
            upstream.kind.as_str()
        );
        report.warn(Lint::SessionsUnknown, spot, what);
    }
}

/// What the route says of times rules the sessions of its upstreams, too.
fn heartbeat(config: &Config, route: &router::Config, spot: &Spot<'_>, report: &mut Report) {
    let upstreams = route.upstream.iter().flat_map(|upstreams| upstreams.names());
    let kinds = upstreams.filter_map(|name| config.upstreams.get(name)).map(|upstream| upstream.kind);
    if let Some(heartbeat) = kinds.filter_map(upstreams::heartbeat).max() {
        let Timeouts { first_byte, tunnel_idle, .. } = route.timeouts;
        upstreams::over_heartbeat(heartbeat, [first_byte, tunnel_idle], spot, report);
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

fn upstream(config: &Config, name: &str, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    if report.reference(spot, "upstream", name, &names.upstreams)
        && config.upstreams.get(name).is_some_and(|upstream| upstream.kind == Kind::Tcp)
    {
        let what =
            format!("`{name}` is of kind `tcp`, which carries no HTTP: `detect.tcp` or a `tcp` listener leads there");
        report.fault(spot, what);
    }
}

/// How the entries of a list share what comes.
fn split(route: &router::Config, spot: &Spot<'_>, report: &mut Report) {
    let [by, cookie] = ["by", "cookie"].map(|key| spot.key("split").key(key));
    if let Some(name) = &route.split.cookie {
        report.well_formed(&cookie, words::cookie_name(name));
    }
    let by_request = route.split.by == SplitBy::Request;
    let alone = route.upstream.as_ref().is_none_or(|upstreams| upstreams.0.len() < 2);
    if alone && spot.key("upstream").is_intact() {
        let given = [(&by, by_request), (&cookie, route.split.cookie.is_some())];
        for (spot, _) in given.iter().filter(|(_, given)| *given) {
            report.fault(&spot.as_str(), "only for a route whose `upstream` is a list of several");
        }
    } else if by_request && route.split.cookie.is_some() {
        let what = "found `by: request` and `cookie`, expected one of them: a cookie keeps a client on its side";
        report.fault(&cookie.as_str(), what);
    }
}

fn mirror(config: &Config, route: &router::Config, said: &Mirror, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    upstream(config, &said.upstream, &spot.key("upstream"), names, report);
    if config.upstreams.get(&said.upstream).is_some_and(|upstream| upstream.http2) {
        report.fault(&spot.key("upstream"), "its servers are asked by HTTP/2 (`http2`), which copies are not sent by");
    }
    if route.upstream.is_none() {
        report.fault(&spot.as_str(), "only for a route with `upstream`: there is nothing to compare with");
    }
    if !(1..=100).contains(&said.percent) {
        report.fault(&spot.key("percent"), format!("found {}, expected 1 to 100", said.percent));
    }
    if !(1..=MOST_COPIES).contains(&said.max_open) {
        report.fault(&spot.key("max_open"), format!("found {}, expected 1 to {MOST_COPIES}", said.max_open));
    }
    if said.body > LARGEST_COPY {
        report.fault(&spot.key("body"), format!("found {}, expected at most {LARGEST_COPY}", said.body));
    }
}

/// The largest body of a copy: each is in memory until its server has it.
const LARGEST_COPY: ByteSize = ByteSize::mib(8);
/// The most copies at once: each has a connection of its own.
const MOST_COPIES: usize = 100_000;

/// What is said of the request on its way to the server.
fn onward(route: &router::Config, spot: &Spot<'_>, report: &mut Report) {
    for key in ["rewrite", "host"] {
        let others = ["files", "redirect"].iter().any(|other| spot.key(other).is_given());
        let gets_it = spot.key("upstream").is_given() || key == "rewrite" && others;
        if spot.key(key).is_given() && !gets_it {
            report.fault(&spot.key(key).as_str(), "only for a route with `upstream`: nobody else gets the request");
        }
    }
    if let Some(said) = &route.files {
        files(said, &spot.key("files"), report);
    }
    if let Some(HostHeader::Set(host)) = &route.host {
        report.well_formed(&spot.key("host"), words::authority(host));
    }
    if let Some(said) = &route.rewrite {
        rewrite(said, &spot.key("rewrite"), report);
    }
}

fn files(said: &Files, spot: &Spot<'_>, report: &mut Report) {
    report.some_path(&spot.key("root"), Some(&said.root));
    for (key, name) in [("index", Some(&said.index)), ("fallback", said.fallback.as_ref())] {
        let Some(name) = name else { continue };
        let hidden = name.split('/').any(|part| part.is_empty() || part.starts_with('.'));
        if hidden || key == "index" && name.contains('/') {
            report.fault(&spot.key(key), format!("found {}, expected the name of a file in `root`", quoted(name)));
        }
    }
}

fn rewrite(said: &Rewrite, spot: &Spot<'_>, report: &mut Report) {
    for (key, prefix) in [("strip_prefix", &said.strip_prefix), ("add_prefix", &said.add_prefix)] {
        let spot = spot.key(key);
        let Some(prefix) = prefix else { continue };
        report.well_formed(&spot, words::path(prefix));
        if prefix == "/" {
            report.fault(&spot, "found `/`, which changes nothing");
        }
        if said.regex.is_some() {
            report.fault(&spot.as_str(), format!("found `regex` and `{key}`, expected one of them"));
        }
    }
    match (&said.regex, &said.to) {
        (Some(regex), to) => {
            report.well_formed(&spot.key("regex"), words::regex(regex));
            match to {
                Some(to) if to.contains(['?', '#']) => {
                    report.fault(&spot.key("to"), format!("found `{to}`, expected a path: the query stays as it is"));
                }
                Some(to) if !to.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    report
                        .fault(&spot.key("to"), format!("found {}, percent-encode what is no plain ASCII", quoted(to)));
                }
                Some(_) => {}
                None => report.fault(spot, "expected the key `to`, with what stands in place of what `regex` finds"),
            }
        }
        (None, Some(_)) => report.fault(&spot.key("to").as_str(), "only with `regex`"),
        (None, None) if said.strip_prefix.is_none() && said.add_prefix.is_none() && spot.is_intact() => {
            report.fault(&spot.as_str(), "expected `strip_prefix`, `add_prefix` or `regex`");
        }
        (None, None) => {}
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
    let rewrite = spot.key("rewrite");
    let spot = &spot.key("redirect");
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
    if redirect.path.is_some() && rewrite.is_given() {
        report.fault(&spot.key("path").as_str(), "found `rewrite` and `redirect.path`, expected one of them");
    }
    let given = ["scheme", "host", "port", "path"].iter().any(|key| spot.key(key).is_given());
    if !given && !rewrite.is_given() && spot.is_intact() {
        report.fault(
            &spot.as_str(),
            "changes nothing, so that the client comes back for ever: expected `scheme`, `host`, `port` or `path`, or \
             `rewrite` beside it",
        );
    } else if let Some(listener) = comes_back(config, route, redirect) {
        report.warn(
            Lint::RedirectToItself,
            &spot.as_str(),
            format!("a client of listener `{listener}` is sent to where it is: `match` should leave it out"),
        );
    }
}

/// The listener where the redirect changes nothing of a request that it matches. Headers may tell more than can be seen here.
fn comes_back(config: &Config, route: &router::Config, redirect: &Redirect) -> Option<String> {
    let matches = &route.matches;
    let same_host = |host: &String| matches.host.0.contains(host);
    let path = redirect.path.as_deref().map(|path| path.split('?').next().unwrap_or_default());
    let same_path = match (path, &route.rewrite) {
        (Some(path), _) => takes_path(matches, path),
        (None, Some(rewrite)) => leads_back(matches, rewrite),
        (None, None) => true,
    };
    let Match { host, path, path_exact, method, listener, .. } = matches.clone();
    let seen = Match { host, path, path_exact, method, listener, upgrade: matches.upgrade, ..Match::default() };
    let unseen = *matches != seen || redirect.port.is_some();
    if unseen || !redirect.host.as_ref().is_none_or(same_host) || !same_path {
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

/// Whether this path is one that the route matches.
fn takes_path(matches: &Match, path: &str) -> bool {
    let any = matches.path.0.is_empty() && matches.path_exact.0.is_empty();
    any || matches.paths().any(|rule| rule.covers(&PathRule::Exact(path)))
}

/// Whether a path that the route matches stays as it is, or becomes one that the route matches, too. What a regular expression
/// finds is not known here.
fn leads_back(matches: &Match, rewrite: &Rewrite) -> bool {
    if rewrite.regex.is_some() {
        return false;
    }
    let trimmed = |prefix: &Option<String>| prefix.as_deref().unwrap_or("").trim_end_matches('/').to_owned();
    let (strip, add) = (trimmed(&rewrite.strip_prefix), trimmed(&rewrite.add_prefix));
    let becomes = |path: &str| {
        let rest = path.strip_prefix(&strip).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        rest.map(|rest| format!("{add}{rest}"))
            .is_none_or(|path| takes_path(matches, if path.is_empty() { "/" } else { &path }))
    };
    let any = matches.path.0.is_empty() && matches.path_exact.0.is_empty();
    any && becomes("")
        || matches.paths().any(|rule| match rule {
            PathRule::Prefix(path) | PathRule::Exact(path) => becomes(path),
        })
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
        && takes_paths(first, then)
        && every_rule(first.server_names(), then.server_names(), HostRule::covers)
        && takes_clients(&first.client, &then.client)
        && takes_ports(&first.port.0, &then.port.0)
        && pairs(&first.cookies, &then.cookies)
        && first.headers_regex.iter().all(|(name, regex)| then.headers_regex.get(name) == Some(regex))
        && (first.when.is_none() || first.when == then.when)
        && first.not.0.iter().all(|not| then.not.0.contains(not))
        && (first.any.0.is_empty() || first.any == then.any || first.any.0.iter().any(|one| takes_all(one, then)))
        && all(&first.method, &then.method)
        && all(&first.listener, &then.listener)
        && pairs(&first.headers, &then.headers)
        && pairs(&first.query, &then.query)
        && (first.upgrade.is_none() || first.upgrade == then.upgrade)
}

/// The same for paths. What a regular expression finds is only known to be found by the same one.
fn takes_paths(first: &Match, then: &Match) -> bool {
    let any = |matches: &Match| matches.paths().next().is_none() && matches.path_regex.is_empty();
    let covered = |then: PathRule<&str>| first.paths().any(|first| first.covers(&then));
    any(first)
        || !any(then)
            && then.paths().all(covered)
            && then.path_regex.0.iter().all(|regex| first.path_regex.0.contains(regex))
}

/// The same for clients.
fn takes_clients(first: &OneOrMany, then: &OneOrMany) -> bool {
    let networks = |said: &OneOrMany| said.0.iter().filter_map(|text| router::network(text)).collect::<Vec<_>>();
    let (first, then) = (networks(first), networks(then));
    first.is_empty() || !then.is_empty() && then.iter().all(|then| first.iter().any(|first| first.contains(then)))
}

/// The same for ports.
fn takes_ports(first: &[u16], then: &[u16]) -> bool {
    first.is_empty() || !then.is_empty() && then.iter().all(|port| first.contains(port))
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
