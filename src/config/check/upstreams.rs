//! Upstreams: their servers, and whether times, checks and TLS make sense for what the servers speak.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Lint, Report, Spot, fields, words};
use crate::address::{ServerAddress, is_host_name};
use crate::affinity;
use crate::filter::Expression;
use crate::session::config::{Asked, Farewell, Rule};
use crate::session::{self, Rules};
use crate::upstream::Config;
use crate::upstream::config::{
    Balance, Check, Drain, Ejection, Health, HostHeader, Kind, KubernetesService, Lookups, Messages, NewSessions,
    PodPort, Queue, Rebalance, ServerConfig, Servers, Sessions, Timeouts, Tls, WebSocket, frames_a_body,
};

/// The longest message that is not looked at for its length.
const SHORT: u64 = 125;
/// What the memory of sessions can count.
const LONGEST_LIFE: Duration = Duration::from_hours(18);
/// Fields that never reach a server, or say nothing of a session in any request.
const NEVER_PASS: [&str; 9] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "host",
    "proxy-connection",
];
const LONG_CONNECT: Duration = Duration::from_secs(60);
/// Name servers are asked no more often than this.
const SHORTEST_REFRESH: Duration = Duration::from_millis(100);
const LONGEST_REFRESH: Duration = Duration::from_hours(24);

pub(super) fn check(name: &str, upstream: &Config, spot: &Spot<'_>, report: &mut Report) {
    report.name(&spot.as_str(), name);
    servers(&upstream.servers, !upstream.optional, &spot.key("servers"), report);
    peers(upstream, spot, report);
    queue(upstream, spot, report);
    sessions(upstream, spot, report);
    drain(&upstream.drain, &spot.key("drain"), report);
    if let Some(tls) = &upstream.tls {
        self::tls(upstream, tls, &spot.key("tls"), report);
    }
    health(upstream, &upstream.health, &spot.key("health"), report);
    timeouts(upstream, &upstream.timeouts, &spot.key("timeouts"), report);
    report.tcp_keepalive(&spot.key("tcp_keepalive"), &upstream.tcp_keepalive);
    websocket(upstream, spot, report);
    messages(upstream, spot, report);
    ejection(&upstream.ejection, &spot.key("ejection"), report);
    if let HostHeader::Set(host) = &upstream.host {
        report.well_formed(&spot.key("host"), words::authority(host));
    }
    if upstream.kind == Kind::Tcp && upstream.affinity != affinity::Config::default() {
        report.fault(&spot.key("affinity").as_str(), "not for kind `tcp`, which carries no HTTP");
    }
    if upstream.balance() == Balance::PeakEwma && upstream.kind != Kind::Http {
        report.fault(
            &spot.key("balance"),
            "found `peak_ewma`, which is for kind `http`: others answer when they have something to say",
        );
    }
    if let Some(text) = &upstream.affinity.cel {
        let spot = spot.key("affinity").key("cel");
        report.well_formed(&spot, words::expression(Expression::compile_value(text)));
    }
    if upstream.affinity.hashes_values() && upstream.balance() != Balance::ClientIp {
        let what = "`header`, `query`, `app_cookie` and `cel` are hashed only with balance `client_ip`, and have no effect here";
        report.warn(Lint::HashUnused, &spot.key("affinity").as_str(), what);
    }
    let rules = [
        ("request_headers", &upstream.request_headers, fields::Of::Requests),
        ("response_headers", &upstream.response_headers, fields::Of::Answers),
    ];
    for (key, rules, of) in rules {
        if upstream.kind == Kind::Tcp && !rules.is_empty() {
            report.fault(&spot.key(key).as_str(), "not for kind `tcp`, which carries no HTTP");
        }
        fields::check(rules, &spot.key(key), of, report);
    }
    http2(upstream, spot, report);
    if upstream.kind == Kind::Tcp && upstream.host != HostHeader::Keep {
        report.fault(&spot.key("host").as_str(), "not for kind `tcp`, which carries no HTTP");
    }
}

/// Browsers keep one cookie of a name: two upstreams would take each other's for their own.
pub(super) fn cookies(upstreams: &BTreeMap<String, Config>, spot: &Spot<'_>, report: &mut Report) {
    let mut known: BTreeMap<String, (&str, Spot<'_>)> = BTreeMap::new();
    for (spot, (upstream, said)) in spot.each_key(upstreams) {
        let Some(cookie) = &said.affinity.cookie else { continue };
        let name = cookie.name_for(upstream);
        match known.get(&name) {
            // Who has hosts of its own, or paths that its cookie is for, may call it as others do.
            Some(_) if spot.at().file >= report.first_origin => {}
            Some((other, first)) => {
                let other = match report.other(&spot, first) {
                    path if path == first.path() => format!("upstream `{other}`"),
                    elsewhere => elsewhere,
                };
                let what = format!("`{name}` is the cookie of {other} already: names have to differ");
                report.fault(&spot.key("affinity").key("cookie").key("name"), what);
            }
            None => drop(known.insert(name, (upstream, spot))),
        }
    }
}

/// Other gateways are there for sessions.
fn peers(upstream: &Config, spot: &Spot<'_>, report: &mut Report) {
    let Some(peers) = &upstream.peers else { return };
    let spot = spot.key("peers");
    if upstream.kind == Kind::Tcp {
        return report.fault(&spot.as_str(), "not for kind `tcp`, which carries no HTTP");
    }
    if upstream.http2 {
        report.fault(&spot.as_str(), "not with `http2: true`: gateways speak HTTP/1.1 to each other");
    }
    if !upstream.has_sessions() {
        let what = "nobody is asked for anything: servers of this kind have no sessions";
        report.warn(Lint::PeersUnused, &spot.as_str(), what);
    }
    servers(peers, false, &spot, report);
}

/// The upstreams that peers are have names, too.
pub(super) fn names_of_peers(upstreams: &BTreeMap<String, Config>, spot: &Spot<'_>, report: &mut Report) {
    for (spot, (name, said)) in spot.each_key(upstreams) {
        let taken = Config::name_of_peers(name);
        if said.peers.is_some() && upstreams.contains_key(&taken) {
            let what =
                format!("its peers are called `{taken}`, and so is another upstream: expected another name for that");
            report.fault(&spot.key("peers").as_str(), what);
        }
    }
}

/// `needed` says whether something is lost with the only one.
fn servers(said: &Servers, needed: bool, spot: &Spot<'_>, report: &mut Report) {
    match said {
        Servers::List(list) => listed(list, needed, spot, report),
        Servers::File(said) => report.some_path(&spot.key("file"), Some(&said.file)),
        Servers::Dns(said) => {
            if !is_host_name(&said.dns) {
                report.fault(&spot.key("dns"), format!("found `{}`, expected a host name", said.dns));
            }
            report.some(&spot.key("port"), said.port);
            lookups(&said.lookups, spot, report);
        }
        Servers::Srv(said) => {
            let name = &said.srv;
            let service = name.splitn(3, '.').collect::<Vec<_>>();
            let is_service = service.len() == 3 && service[..2].iter().all(|label| label.starts_with('_'));
            if !is_service || !is_host_name(name) {
                let what = format!("found `{name}`, expected the name of a service such as _ws._tcp.example.com");
                report.fault(&spot.key("srv"), what);
            }
            lookups(&said.lookups, spot, report);
        }
        Servers::Kubernetes(said) => kubernetes(&said.kubernetes, &spot.key("kubernetes"), report),
    }
}

fn kubernetes(said: &KubernetesService, spot: &Spot<'_>, report: &mut Report) {
    if !cfg!(feature = "kubernetes") {
        let what = "this Sockgate was built without Kubernetes: expected one with the cargo feature `kubernetes`, as the \
                    image has";
        return report.fault(&spot.as_str(), what);
    }
    let port = match &said.port {
        Some(PodPort::Name(name)) => Some(name),
        Some(PodPort::Number(_)) | None => None,
    };
    let names = [("namespace", said.namespace.as_ref()), ("service", Some(&said.service)), ("port", port)];
    for (key, name) in names.into_iter().filter_map(|(key, name)| Some((key, name?))) {
        if spot.key(key).is_intact() && !is_label(name) {
            let what = format!("found `{name}`, expected a name of Kubernetes: a-z, 0-9 and `-`, at most 63 of them");
            report.fault(&spot.key(key), what);
        }
    }
    report.some_path(&spot.key("kubeconfig"), said.kubeconfig.as_deref());
}

/// Whether Kubernetes could call a namespace, a Service or a port so.
fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-') && !name.ends_with('-')
}

fn lookups(said: &Lookups, spot: &Spot<'_>, report: &mut Report) {
    if said.min_refresh < SHORTEST_REFRESH {
        report.fault(&spot.key("min_refresh"), "expected 100ms or more");
    }
    if said.refresh < said.min_refresh {
        report.fault(&spot.key("refresh"), "shorter than `min_refresh`: expected the same time or more");
    } else if said.refresh > LONGEST_REFRESH {
        report.fault(&spot.key("refresh"), "expected 1day or less");
    }
}

fn listed(list: &[ServerConfig], needed: bool, spot: &Spot<'_>, report: &mut Report) {
    // Who says parts may mean nobody.
    if spot.is_intact() && list.is_empty() && spot.at().file < report.first_origin {
        report.fault(spot, "found an empty list, expected at least one server");
    }
    if let [only] = list
        && needed
        && matches!(&only.address, ServerAddress::Inet(address) if !address.ip().to_canonical().is_loopback())
    {
        let what = format!("{} is the only server: while it is down or replaced, nobody is served", only.address);
        report.warn(Lint::OneServer, &spot.as_str(), what);
    }
    if !list.is_empty() && list.iter().all(|server| server.drain) {
        report.warn(Lint::AllServersDrain, &spot.as_str(), "every server drains: new work goes to them all the same");
    }
    let mut addresses: BTreeMap<String, usize> = BTreeMap::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (index, (spot, server)) in spot.each(list).enumerate() {
        let address = server.address.to_string();
        if let Some(first) = addresses.get(&address) {
            let what = format!("{address} is servers[{first}] already: `weight` gives a server a larger share");
            report.fault(&spot.key("address"), what);
            continue;
        }
        addresses.insert(address, index);
        if let Some(name) = &server.name {
            report.name(&spot.key("name"), name);
        }
        if let Some(zone) = &server.zone {
            report.name(&spot.key("zone"), zone);
        }
        if let Some(first) = names.insert(server.name(), index) {
            let what = format!("`{}` is the name of servers[{first}] already: names have to differ", server.name());
            report.fault(&spot.key("name"), what);
        }
    }
}

fn ejection(ejection: &Ejection, spot: &Spot<'_>, report: &mut Report) {
    if (ejection.failures, ejection.bad_answers) == (0, 0) {
        return;
    }
    if ejection.duration.is_zero() {
        let what = "found 0s, expected a time above 0s (`failures: 0` and `bad_answers: 0` turn ejection off)";
        report.fault(&spot.key("for"), what);
    } else if ejection.max_for < ejection.duration {
        report.fault(&spot.key("max_for"), "shorter than `for`: expected the same time or more");
    }
    report.share(&spot.key("max_share"), ejection.max_share, 1.0);
}

fn sessions(upstream: &Config, spot: &Spot<'_>, report: &mut Report) {
    let (sessions, new_sessions) = (&upstream.sessions, &upstream.new_sessions);
    let spot_of = |key| spot.key("sessions").key(key);
    if !upstream.has_sessions() {
        let wrong = match upstream.kind {
            // A rule that could not be read is a fault already.
            Kind::Http if !spot_of("rule").is_intact() => None,
            Kind::Tcp => Some("not for kind `tcp`, which has no sessions"),
            _ => Some(
                "kind `http` has no sessions until `sessions.rule` says how they are told: expected that, or another kind",
            ),
        };
        let given =
            [("sessions", *sessions != Sessions::default()), ("new_sessions", *new_sessions != NewSessions::default())];
        let wrong = wrong.filter(|_| spot.key("kind").is_intact());
        for ((key, _), what) in given.iter().filter(|(_, given)| *given).zip(wrong.into_iter().cycle()) {
            report.fault(&spot.key(key).as_str(), what);
        }
        return;
    }
    if let Some(said) = &sessions.rule {
        rule(upstream, said, &spot_of("rule"), report);
    }
    report.some(&spot_of("max"), sessions.max);
    let bound = sessions.bounded_load;
    if bound != 0.0 && !(1.0..=100.0).contains(&bound) {
        report.fault(
            &spot_of("bounded_load"),
            format!("found {bound}, expected a factor from 1 to 100, or 0 for no bound"),
        );
    }
    for (spot, path) in spot_of("paths").each(&sessions.paths) {
        if !path.starts_with('/') || path.contains(['?', '#']) {
            report.fault(&spot, format!("found `{path}`, expected a path such as /socket.io/"));
        }
    }
    if let Some(rebalance) = &sessions.rebalance {
        self::rebalance(rebalance, &spot_of("rebalance"), report);
    }
    if let Some(burst) = new_sessions.burst {
        report.some(&spot.key("new_sessions").key("burst"), burst);
    }
    if new_sessions.rate == 0 && *new_sessions != NewSessions::default() {
        let what = "nothing ever waits here: `rate` is 0, any number";
        report.warn(Lint::SessionRateUnused, &spot.key("new_sessions").as_str(), what);
    }
}

/// A rule by which nothing could ever be told is a fault.
fn rule(upstream: &Config, said: &Rule, spot: &Spot<'_>, report: &mut Report) {
    if let Kind::Of(protocol) = upstream.kind {
        let what = format!("not for kind `{protocol}`, which has a protocol for that: expected kind `http`");
        report.fault(&spot.as_str(), what);
        return;
    }
    let (route, learn) = (spot.key("route"), spot.key("learn"));
    if said.route.is_empty() && route.is_intact() {
        let what = "expected one or more of `header`, `query`, `cookie` and `path`: where requests name their session";
        report.fault(&if route.is_given() { route } else { spot.as_str() }, what);
        return;
    }
    let of_learn = said.learn.as_ref().and_then(|learn| learn.header.as_ref());
    for (spot, name) in [(route.key("header"), said.route.header.as_ref()), (learn.key("header"), of_learn)] {
        let Some(name) = name else { continue };
        report.well_formed(&spot, words::header_name(name));
        if NEVER_PASS.iter().any(|never| name.eq_ignore_ascii_case(never)) {
            report.fault(
                &spot,
                format!("`{name}` belongs to a connection, and names no session: expected another field"),
            );
        }
    }
    for (key, name) in [("query", &said.route.query), ("cookie", &said.route.cookie)] {
        if let Some(name) = name
            && (name.is_empty() || name.contains(['&', '=', ';', ' ', '?', '#']))
        {
            report.fault(&route.key(key), format!("found `{name}`, expected the name of a parameter or cookie"));
        }
    }
    if let Err((key, what)) = Rules::new(said) {
        report.fault(&spot.key(key), what);
    }
    if let Some(path) = &said.route.path
        && !upstream.sessions.paths.is_empty()
        && !upstream.sessions.paths.iter().any(|base| may_lie_below(path, base))
    {
        let what = format!("`{path}` lies below none of `sessions.paths`, and sessions are nowhere else");
        report.fault(&route.key("path"), what);
    }
    report.some_time(&spot.key("lifetime"), said.lifetime);
    if said.lifetime > LONGEST_LIFE {
        report.fault(&spot.key("lifetime"), "expected 18h or less");
    }
    for (spot, status) in spot.key("over").each(&said.over) {
        if !(400..=599).contains(status) {
            report.fault(&spot, format!("found {status}, expected a status that refuses, such as 404 or 410"));
        }
    }
    if said.goodbye == Farewell::None && said.over.is_empty() {
        let what = "nobody is told goodbye, and no status in `over` says that a session is over: those of a server that \
                    drains stay there for as long as they like";
        report.warn(Lint::SessionsStay, &spot.key("goodbye"), what);
    }
    if let Some(asked) = &said.question {
        question(upstream, said, asked, &spot.key("question"), report);
    }
}

fn question(upstream: &Config, rule: &Rule, said: &Asked, spot: &Spot<'_>, report: &mut Report) {
    if said.path.is_empty() {
        report.fault(spot, "expected the key `path`");
    } else {
        report.well_formed(&spot.key("path"), words::target(&said.path.replace(session::ID, "id")));
    }
    let holds = |text: &String| text.contains(session::ID);
    let names = holds(&said.path)
        || said.headers.values().any(holds)
        || said.body.as_ref().is_some_and(holds)
        || rule.route.cookie.is_some();
    if !names {
        let what = "the question names no session: expected `{id}` in its path, its headers or its body";
        report.fault(spot, what);
    }
    for (spot, (name, value)) in spot.key("headers").each_key(&said.headers) {
        report.well_formed(&spot.as_str(), words::header_name(name));
        report.well_formed(&spot, words::header_value(value));
        if frames_a_body(name) {
            report.fault(&spot.as_str(), "a question says itself how long its request is");
        }
    }
    if said.known.is_empty() {
        report.fault(&spot.key("known"), "expected one status or more: else no session would ever be found");
    }
    for (spot, status) in spot.key("unknown").each(&said.unknown) {
        if said.known.contains(status) {
            report.fault(&spot, format!("{status} says in `known` that the server knows the session"));
        }
    }
    if upstream.servers.list().len() == 1 && upstream.peers.is_none() {
        report.warn(Lint::QuestionUnused, &spot.as_str(), "nobody is ever asked: there is one server");
    }
}

/// Whether something may match a path with places in it that lies at another one or below it.
fn may_lie_below(pattern: &str, base: &str) -> bool {
    let segments = |path: &str| {
        path.trim_matches('/').split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let fits = |(pattern, base): (&String, &String)| pattern == session::ID || pattern == "*" || pattern == base;
    segments(pattern).iter().zip(&segments(base)).all(fits)
}

fn rebalance(said: &Rebalance, spot: &Spot<'_>, report: &mut Report) {
    report.pace(spot, said.rate, said.jitter);
    let bound = said.bound;
    if !(1.0..=100.0).contains(&bound) {
        report.fault(&spot.key("bound"), format!("found {bound}, expected a factor from 1 to 100"));
    }
}

fn drain(said: &Drain, spot: &Spot<'_>, report: &mut Report) {
    report.pace(spot, said.rate, said.jitter);
    let paced = Drain { goodbye: false, ..Drain::default() };
    if !said.goodbye && *said != paced {
        let what = "nobody is told goodbye, so there is no pace: `goodbye` is false";
        report.warn(Lint::DrainWithoutPace, &spot.as_str(), what);
    }
}

fn websocket(upstream: &Config, spot: &Spot<'_>, report: &mut Report) {
    let said = &upstream.websocket;
    if *said == WebSocket::default() {
        return;
    }
    let not_here = match upstream.kind {
        Kind::Tcp => Some("not for kind `tcp`, which has no frames".to_owned()),
        Kind::Of(protocol) => Some(format!("not for kind `{protocol}`, {}", protocol.why_no_pings())),
        Kind::Http => None,
    };
    let spot_of = |key| spot.key("websocket").key(key);
    if let Some(what) = not_here {
        if spot.key("kind").is_intact() {
            report.fault(&spot.key("websocket").as_str(), what);
        }
    } else if said.ping_interval.is_zero() {
        let what = "nobody is asked: that takes `ping_interval`";
        report.warn(Lint::PingTimeoutUnused, &spot_of("ping_timeout").as_str(), what);
    } else {
        for (key, time) in [("ping_interval", said.ping_interval), ("ping_timeout", said.ping_timeout)] {
            if time < Duration::from_secs(1) {
                report.fault(&spot_of(key), "expected 1s or more");
            }
        }
    }
}

fn messages(upstream: &Config, spot: &Spot<'_>, report: &mut Report) {
    let said = &upstream.messages;
    if *said == Messages::default() {
        return;
    }
    let spot_of = |key| spot.key("messages").key(key);
    if upstream.kind == Kind::Tcp {
        if spot.key("kind").is_intact() {
            report.fault(&spot.key("messages").as_str(), "not for kind `tcp`, which has no messages");
        }
        return;
    }
    let size = said.size.as_u64();
    if (1..SHORT).contains(&size) || size > u32::MAX.into() {
        report.fault(&spot_of("size"), format!("expected {SHORT} bytes to 4GiB, or 0 for no limit"));
    }
    match said.burst {
        Some(_) if said.rate == 0 => {
            report.fault(&spot_of("burst").as_str(), "found `burst` without `rate`, expected both");
        }
        Some(0) => report.fault(&spot_of("burst"), "expected 1 or more"),
        _ => {}
    }
}

fn http2(upstream: &Config, spot: &Spot<'_>, report: &mut Report) {
    if !upstream.http2 {
        if upstream.health_check() == Check::Grpc && spot.key("http2").is_intact() {
            report.fault(
                &spot.key("health").key("check"),
                "found `grpc`, which is asked by HTTP/2: expected `http2: true`, too",
            );
        }
        return;
    }
    let not_here = match upstream.kind {
        Kind::Tcp => Some("not for kind `tcp`, which carries no HTTP".to_owned()),
        Kind::Of(protocol) => Some(format!("not for kind `{protocol}`, whose servers speak HTTP/1.1")),
        Kind::Http if upstream.sessions.rule.as_ref().is_some_and(|rule| rule.question.is_some()) => {
            Some("not with `sessions.rule.question`, which is asked by HTTP/1.1".to_owned())
        }
        Kind::Http => None,
    };
    if let Some(what) = not_here.filter(|_| spot.key("kind").is_intact()) {
        report.fault(&spot.key("http2").as_str(), what);
    }
    if upstream.proxy_protocol.is_some() {
        let what = "not with `http2`, whose connections are shared: the header tells of one client";
        report.fault(&spot.key("proxy_protocol").as_str(), what);
    }
    if upstream.health_check() == Check::Session && upstream.kind == Kind::Http {
        let what = "sessions are opened by HTTP/1.1: expected `http`, `tcp` or `none` beside `http2`";
        report.fault(&spot.key("health").key("check"), what);
    }
}

fn queue(upstream: &Config, spot: &Spot<'_>, report: &mut Report) {
    let servers = spot.key("servers");
    let limited =
        upstream.servers.are_found() || upstream.servers.list().iter().any(|server| server.max_connections > 0);
    if upstream.queue != Queue::default() && servers.is_intact() && !limited {
        let what = "nothing ever waits here: no server has `max_connections`";
        report.warn(Lint::QueueUnused, &spot.key("queue").as_str(), what);
    }
}

fn tls(upstream: &Config, tls: &Tls, spot: &Spot<'_>, report: &mut Report) {
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if spot.key(one).is_given() && !spot.key(other).is_given() {
            report.fault(&spot.key(one).as_str(), format!("found `{one}` without `{other}`, expected both"));
        }
    }
    for (key, path) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
        report.some_path(&spot.key(key), path.as_deref());
    }
    if let Some(name) = &tls.server_name {
        report.well_formed(&spot.key("server_name"), words::server_name(name));
    }
    let nameless = |address: &ServerAddress| match address {
        ServerAddress::Unix(_) => Some("a Unix socket has no name that a certificate could be asked for by".to_owned()),
        ServerAddress::Name(host, _) if words::server_name(host).is_err() => {
            Some(format!("no certificate can be asked for by the name `{host}`"))
        }
        ServerAddress::Name(..) | ServerAddress::Inet(_) => None,
    };
    let of_source = match &upstream.servers {
        Servers::Srv(_) => Some("the targets of a service have no name in common".to_owned()),
        Servers::Kubernetes(_) => Some("pods have no name in common".to_owned()),
        Servers::Dns(said) => nameless(&ServerAddress::Name(said.dns.clone(), said.port)),
        Servers::List(_) | Servers::File(_) => None,
    };
    let of_list = || upstream.servers.list().iter().find_map(|server| nameless(&server.address));
    if !spot.key("server_name").is_given()
        && let Some(what) = of_source.or_else(of_list)
    {
        report.fault(&spot.as_str(), format!("expected the key `server_name`: {what}"));
    }
    if !tls.verify && tls.ca.is_some() {
        let what = "nothing is verified against it: `verify` is false";
        report.warn(Lint::AuthorityNotUsed, &spot.key("ca").as_str(), what);
    }
}

fn health(upstream: &Config, health: &Health, spot: &Spot<'_>, report: &mut Report) {
    if health.interval < Duration::from_secs(1) {
        report.fault(&spot.key("interval"), "expected 1s or more");
    }
    report.some_time(&spot.key("timeout"), health.timeout);
    if health.timeout > health.interval {
        let late = if spot.key("timeout").is_given() { "timeout" } else { "interval" };
        report.warn(
            Lint::HealthTimeoutLong,
            &spot.key(late),
            "`timeout` is longer than `interval`: a server that hangs is asked less often than you say",
        );
    }
    report.share(&spot.key("jitter"), health.jitter, 0.5);
    report.some(&spot.key("rise"), health.rise);
    report.some(&spot.key("fall"), health.fall);
    if let Kind::Of(protocol) = upstream.kind
        && health.check == Some(Check::Session)
        && protocol.protocol().check().is_none()
    {
        let what = format!("not for kind `{protocol}`: expected `tcp`, `http` or `none`");
        report.fault(&spot.key("check"), what);
    }
    check_keys(upstream, health, spot, report);
    report.well_formed(&spot.key("method"), words::method(&health.method));
    if let Some(path) = &health.path {
        report.well_formed(&spot.key("path"), words::target(path));
    }
    for (spot, (name, value)) in spot.key("headers").each_key(&health.headers) {
        report.well_formed(&spot.as_str(), words::header_name(name));
        report.well_formed(&spot, words::header_value(value));
        if frames_a_body(name) {
            report.fault(&spot.as_str(), "a check says itself how long its request is");
        }
    }
    if health.body.as_deref() == Some("") {
        report.fault(&spot.key("body"), "found an empty text, which every body holds: leave the key out");
    }
}

/// Settings that the check in force would ignore; a default that is written out is none.
fn check_keys(upstream: &Config, health: &Health, spot: &Spot<'_>, report: &mut Report) {
    let (name, asks) = match upstream.health_check() {
        Check::Http => ("http", true),
        Check::Grpc => ("grpc", true),
        Check::Session => ("engine.io", true),
        Check::Tcp => ("tcp", false),
        Check::None => ("none", false),
    };
    if !spot.key("check").is_intact() {
        return;
    }
    let default = Health::default();
    let (http, grpc) = (name == "http", name == "grpc");
    let ignored = [
        ("method", !http && health.method != default.method, "http"),
        ("status", !http && health.status != default.status, "http"),
        ("body", !http && health.body != default.body, "http"),
        ("path", (!asks || grpc) && health.path != default.path, "http"),
        ("headers", !asks && health.headers != default.headers, "http"),
        ("service", !grpc && health.service != default.service, "grpc"),
    ];
    for (key, _, wants) in ignored.iter().filter(|(_, ignored, _)| *ignored) {
        let what = format!("not for the check `{name}`: add `check: {wants}`, or leave it out");
        report.fault(&spot.key(key).as_str(), what);
    }
}

fn timeouts(upstream: &Config, timeouts: &Timeouts, spot: &Spot<'_>, report: &mut Report) {
    if timeouts.connect > LONG_CONNECT {
        report.warn(
            Lint::ConnectTimeoutLong,
            &spot.key("connect"),
            "a server that is gone is waited for that long before another one is tried: 5s will do",
        );
    }
    if let Some(heartbeat) = heartbeat(upstream.kind) {
        over_heartbeat(heartbeat, [timeouts.first_byte, timeouts.tunnel_idle], spot, report);
    }
}

/// How often servers and clients of a kind speak to each other at least.
pub(super) fn heartbeat(kind: Kind) -> Option<Duration> {
    match kind {
        Kind::Of(protocol) => protocol.heartbeat(),
        Kind::Http | Kind::Tcp => None,
    }
}

/// `first_byte` and `tunnel_idle` have to bear the pauses between two heartbeats.
pub(super) fn over_heartbeat(heartbeat: Duration, times: [Option<Duration>; 2], spot: &Spot<'_>, report: &mut Report) {
    for (key, time) in ["first_byte", "tunnel_idle"].into_iter().zip(times) {
        if time.is_some_and(|time| !time.is_zero() && time < heartbeat) {
            report.warn(
                Lint::TimeoutUnderHeartbeat,
                &spot.key(key),
                "shorter than 45s, the heartbeat of Socket.IO (`pingInterval` and `pingTimeout` with their defaults): \
                 sessions that live are cut; left out, it is what each handshake says",
            );
        }
    }
}
