//! The gateway as a whole: at a glance, its listeners and routes, certificates, clients, errors and the last reload; and all
//! of it in one, for those who watch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::StatusCode;
use prometheus::IntCounterVec;
use prometheus::core::Collector;
use serde_json::json;

use super::endpoints::{Answer, Request};
use super::rates::Counted;
use super::shape::{Moment, Second, told};
use super::status::{Client, UpstreamStatus};
use super::{Admin, readiness};
use crate::reload::Plan;
use crate::router::{self, Action};
use crate::session::Cause;
use crate::snapshot::Snapshot;

told! {
    /// The gateway at a glance.
    Overview {
        /// The version of the program.
        version: &'static str,
        /// Where the gateway stands; null where nothing is said of that.
        zone: Option<String>,
        /// The id of its process.
        process: u32,
        /// How long it has run.
        uptime_seconds: u64,
        /// Whether `/readyz` says yes.
        ready: bool,
        /// What is amiss with upstreams, whether that matters to readiness or not.
        notes: Vec<String>,
        /// Whether it is about to stop.
        stopping: bool,
        /// Connections of clients.
        connections: usize,
        /// Most of them; 0 for no limit.
        connections_most: usize,
        /// The configuration in force.
        configuration: Configuration,
        /// How many listeners there are.
        listeners: usize,
        /// How many routes.
        routes: usize,
        /// How many upstreams.
        upstreams: usize,
        /// How many servers.
        servers: usize,
        /// Of those, the ones that are up and take new work.
        servers_up: usize,
        /// Sessions that live.
        sessions: usize,
        /// Of those, the ones on a WebSocket.
        sessions_on_websocket: usize,
        /// Tunnels that are open.
        tunnels: i64,
        /// Answers in a second.
        answered_per_second: Option<f64>,
    }

    /// How the configuration came into force.
    Configuration {
        /// Its number: 1 for the one of the start.
        generation: u64,
        /// When it was loaded.
        loaded: Moment,
        /// When one was last tried.
        tried: Moment,
        /// Why that failed, if it did; then everything has stayed as it was.
        error: Option<String>,
        /// What there is to say of objects of a cluster, where they are a part of it.
        remarks: Vec<Remark>,
    }

    /// Something to say of an object of a cluster.
    Remark {
        /// Its kind, namespace and name.
        object: String,
        /// One word for it.
        reason: &'static str,
        /// What it is.
        what: String,
    }

    /// How the last reload went.
    ReloadTold {
        /// The number of the configuration in force.
        generation: u64,
        /// When it was loaded.
        loaded: Moment,
        /// When one was last tried.
        tried: Moment,
        /// Why that failed, if it did.
        error: Option<String>,
        /// What asked for the one in force.
        cause: String,
        /// What it changed; null for the one of the start.
        plan: Option<Plan>,
    }

    /// A file of certificates.
    Certificate {
        /// The file.
        file: String,
        /// When the first certificate in it ends.
        ends: Second,
        /// In how many seconds; below zero where it has.
        ends_in_seconds: i64,
    }

    /// A listener.
    ListenerTold {
        /// Its name.
        name: String,
        /// Where it is bound.
        address: String,
        /// What it speaks.
        protocol: String,
        /// Whether it speaks TLS.
        tls: bool,
        /// Connections open now.
        connections: i64,
        /// Connections accepted so far.
        accepted: u64,
        /// The same in a second.
        accepted_per_second: Option<f64>,
        /// Connections refused, by the limit.
        refused: BTreeMap<String, u64>,
        /// Tunnels and pending polls that came in by it, by their route; `-` for those that have none.
        sockets: BTreeMap<String, usize>,
    }

    /// A route.
    RouteTold {
        /// Its name.
        name: String,
        /// Its place in the file, from 0.
        place: usize,
        /// What it matches, in a few words.
        matches: String,
        /// What happens there: `upstream`, `respond`, `redirect` or `files`.
        action: &'static str,
        /// Where requests go.
        upstreams: Vec<String>,
        /// Requests that went there.
        requests: u64,
        /// The same in a second.
        per_second: Option<f64>,
        /// Of those, the ones that came in by each listener.
        per_second_from: BTreeMap<String, Option<f64>>,
        /// Tunnels and pending polls that are open by it.
        sockets: usize,
    }

    /// A client address with many sessions.
    ClientTold {
        /// The upstream.
        upstream: String,
        /// The address; for IPv6 that of the /64.
        address: String,
        /// Its share of the latest sessions, 0 to 1.
        share: f64,
    }

    /// Something that goes wrong.
    ErrorTold {
        /// Where: `gateway`, `listener web`, `upstream app` or `server app/a`.
        subject: String,
        /// What, in a word.
        cause: String,
        /// How often so far.
        count: u64,
    }

    /// Everything that a dashboard shows.
    State {
        /// When it was looked at.
        at: Moment,
        /// The gateway at a glance.
        status: Overview,
        /// The listeners.
        listeners: Vec<ListenerTold>,
        /// The routes, in their order.
        routes: Vec<RouteTold>,
        /// The upstreams with their servers.
        upstreams: Vec<UpstreamStatus>,
        /// The last reload.
        reload: ReloadTold,
        /// What went wrong, the most frequent first.
        errors: Vec<ErrorTold>,
        /// The client addresses with the most sessions.
        clients: Vec<ClientTold>,
        /// Certificates.
        certificates: Vec<Certificate>,
    }
}

/// Everything.
pub(super) fn state(admin: &Admin) -> State {
    let snapshot = admin.core.snapshot.load();
    let sockets = Sockets::of(&snapshot);
    State {
        at: Moment(SystemTime::now()),
        status: overview(admin),
        listeners: listeners_with(admin, &snapshot, &sockets),
        routes: routes_with(admin, &snapshot, &sockets),
        upstreams: upstreams(admin),
        reload: reloaded(admin),
        errors: errors(admin),
        clients: clients(admin),
        certificates: certificates(admin),
    }
}

pub(super) fn overview(admin: &Admin) -> Overview {
    let snapshot = admin.core.snapshot.load();
    let readiness = readiness::of(&admin.ready, &snapshot);
    let upstreams = || snapshot.upstreams.values();
    let servers: Vec<_> = upstreams().flat_map(|upstream| upstream.all_servers()).collect();
    let sessions = |count: fn(&crate::session::Home) -> usize| -> usize {
        servers.iter().filter_map(|server| server.home()).map(|home| count(home)).sum()
    };
    let rates = snapshot.upstreams.keys().map(|name| admin.rates.of(&Counted::Answered(Arc::clone(name))));
    let rates: Vec<f64> = rates.flatten().collect();
    let limits = admin.reloader.limits();
    Overview {
        version: env!("CARGO_PKG_VERSION"),
        zone: snapshot.config.zone.clone(),
        process: std::process::id(),
        uptime_seconds: admin.started.elapsed().as_secs(),
        ready: readiness.ready,
        notes: readiness.notes,
        stopping: !admin.ready.load(Ordering::Acquire),
        connections: limits.open(),
        connections_most: limits.most(),
        configuration: configuration(admin),
        listeners: snapshot.config.listeners.len(),
        routes: snapshot.config.routes.len(),
        upstreams: snapshot.upstreams.len(),
        servers: servers.len(),
        servers_up: servers.iter().filter(|server| server.is_healthy()).count(),
        sessions: sessions(crate::session::Home::live),
        sessions_on_websocket: sessions(crate::session::Home::websockets),
        tunnels: upstreams().map(|upstream| upstream.metrics.tunnels_open.get()).sum(),
        answered_per_second: (!rates.is_empty()).then(|| (rates.iter().sum::<f64>() * 100.0).round() / 100.0),
    }
}

fn configuration(admin: &Admin) -> Configuration {
    let outcome = admin.reloader.outcome();
    let remarks = admin.reloader.told_beside().into_iter();
    Configuration {
        generation: outcome.generation,
        loaded: Moment(outcome.loaded),
        tried: Moment(outcome.tried),
        error: outcome.fault,
        remarks: remarks.map(|(object, reason, what)| Remark { object, reason, what }).collect(),
    }
}

pub(super) fn reloaded(admin: &Admin) -> ReloadTold {
    let outcome = admin.reloader.outcome();
    ReloadTold {
        generation: outcome.generation,
        loaded: Moment(outcome.loaded),
        tried: Moment(outcome.tried),
        error: outcome.fault,
        cause: outcome.cause,
        plan: outcome.plan,
    }
}

/// Answers `/status`.
pub(super) fn old_status(admin: &Admin) -> Answer {
    Answer::json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "zone": admin.core.snapshot.load().config.zone,
        "uptime_seconds": admin.started.elapsed().as_secs(),
        "connections": admin.reloader.limits().open(),
        "configuration": configuration(admin),
        "certificates": certificates(admin),
        "upstreams": upstreams(admin),
    }))
}

pub(super) fn certificates(admin: &Admin) -> Vec<Certificate> {
    let certificate = |(file, ends): &(PathBuf, i64)| {
        let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(*ends).unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ends_in_seconds = ends.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
        Certificate { file: file.display().to_string(), ends: Second(at), ends_in_seconds }
    };
    admin.core.snapshot.load().certificates_end.iter().map(certificate).collect()
}

pub(super) fn upstreams(admin: &Admin) -> Vec<UpstreamStatus> {
    let snapshot = admin.core.snapshot.load();
    let upstreams: BTreeMap<_, _> = snapshot.upstreams.iter().collect();
    upstreams.into_values().map(|upstream| UpstreamStatus::of(&admin.rates, upstream)).collect()
}

/// Answers with one upstream.
pub(super) fn upstream(admin: &Arc<Admin>, request: &Request) -> Answer {
    let snapshot = admin.core.snapshot.load();
    let name = request.parts.first().map_or("", String::as_str);
    match snapshot.upstreams.get(name) {
        Some(upstream) => Answer::json(&UpstreamStatus::of(&admin.rates, upstream)),
        None => no_upstream(&snapshot, name),
    }
}

/// The answer to whoever names an upstream that there is not.
pub(super) fn no_upstream(snapshot: &Snapshot, name: &str) -> Answer {
    let mut names: Vec<&str> = snapshot.upstreams.keys().map(|name| &**name).collect();
    names.sort_unstable();
    Answer::fault(StatusCode::NOT_FOUND, format!("there is no upstream `{name}`, only {}", names.join(", ")))
        .hint("GET /api/v1/upstreams lists them")
}

pub(super) fn listeners(admin: &Admin) -> Vec<ListenerTold> {
    let snapshot = admin.core.snapshot.load();
    listeners_with(admin, &snapshot, &Sockets::of(&snapshot))
}

pub(super) fn routes(admin: &Admin) -> Vec<RouteTold> {
    let snapshot = admin.core.snapshot.load();
    routes_with(admin, &snapshot, &Sockets::of(&snapshot))
}

/// What is open, by the way it came in: listener and route.
pub(super) struct Sockets(HashMap<Arc<str>, HashMap<Option<Arc<str>>, usize>>);

impl Sockets {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut sockets = HashMap::<_, HashMap<_, usize>>::new();
        for (_, roster) in snapshot.upstreams.values().flat_map(|upstream| upstream.rosters()) {
            roster.each(|visitor| {
                let origin = &visitor.origin;
                // Nearly all have come in by a way that is known already.
                let routes = match sockets.get_mut(&origin.listener) {
                    Some(routes) => routes,
                    None => sockets.entry(Arc::clone(&origin.listener)).or_default(),
                };
                match routes.get_mut(&origin.route) {
                    Some(count) => *count += 1,
                    None => drop(routes.insert(origin.route.clone(), 1)),
                }
            });
        }
        Self(sockets)
    }

    /// Of each listener, by the route.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<str>, &HashMap<Option<Arc<str>>, usize>)> {
        self.0.iter()
    }

    pub(super) fn of_listener(&self, name: &str) -> BTreeMap<String, usize> {
        let routes = self.0.get(name).into_iter().flatten();
        routes.map(|(route, &count)| (route.as_deref().unwrap_or("-").to_owned(), count)).collect()
    }

    fn of_route(&self, name: &str) -> usize {
        let routes = self.0.values().flatten();
        routes.filter(|(route, _)| route.as_deref() == Some(name)).map(|(_, count)| count).sum()
    }
}

fn listeners_with(admin: &Admin, snapshot: &Snapshot, sockets: &Sockets) -> Vec<ListenerTold> {
    let told = |said: &crate::listener::Config| {
        let name = said.name();
        let metrics = admin.core.metrics.listener(&name);
        ListenerTold {
            address: admin.reloader.address(&name).unwrap_or_else(|| said.address.to_string()),
            protocol: serde_json::to_value(said.protocol)
                .ok()
                .and_then(|word| word.as_str().map(str::to_owned))
                .unwrap_or_default(),
            tls: said.tls.is_some(),
            connections: metrics.open.get(),
            accepted: metrics.accepted.get(),
            accepted_per_second: admin.rates.of(&Counted::Accepted(name.as_str().into())),
            refused: counts(&metrics.refused),
            sockets: sockets.of_listener(&name),
            name,
        }
    };
    snapshot.config.listeners.iter().map(told).collect()
}

fn routes_with(admin: &Admin, snapshot: &Snapshot, sockets: &Sockets) -> Vec<RouteTold> {
    let said = router::named(&snapshot.config.routes);
    let told = |(place, (route, (_, said))): (usize, (&Arc<router::Route>, &(String, &router::Config)))| RouteTold {
        name: route.name.to_string(),
        place,
        matches: in_words(&serde_json::to_value(&said.matches).unwrap_or_default()),
        action: match route.action {
            Action::Upstream(_) => "upstream",
            Action::Respond(_) => "respond",
            Action::Redirect(_) => "redirect",
            Action::Files(_) => "files",
        },
        upstreams: said.upstream.iter().flat_map(|upstreams| upstreams.names()).map(str::to_owned).collect(),
        requests: route.taken.total(),
        per_second: admin.rates.of(&Counted::Routed(Arc::clone(&route.name))),
        per_second_from: from(admin, route),
        sockets: sockets.of_route(&route.name),
    };
    snapshot.routes.iter().zip(&said).enumerate().map(told).collect()
}

/// How many requests a second came to a route by each listener.
fn from(admin: &Admin, route: &router::Route) -> BTreeMap<String, Option<f64>> {
    let rate = |listener: &Arc<str>| {
        let counted = Counted::RoutedFrom(Arc::clone(&route.name), Arc::clone(listener));
        (listener.to_string(), admin.rates.of(&counted))
    };
    route.taken.by_listener().map(|(listener, _)| rate(listener)).collect()
}

/// What a match says: `path /socket.io/, method GET`.
fn in_words(said: &serde_json::Value) -> String {
    use serde_json::Value;
    let Some(keys) = said.as_object() else { return String::new() };
    let value = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
        }
        other => other.to_string(),
    };
    let is_said = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(keys) => !keys.is_empty(),
        _ => true,
    };
    let said = keys.iter().filter(|(_, value)| is_said(value)).map(|(key, said)| format!("{key} {}", value(said)));
    said.collect::<Vec<_>>().join(", ")
}

/// Counters by the values of their label.
fn counts(counters: &IntCounterVec) -> BTreeMap<String, u64> {
    let families = counters.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    let count = |metric: &prometheus::proto::Metric| {
        let label = metric.get_label().first()?.value().to_owned();
        Some((label, metric.get_counter().get_value() as u64))
    };
    metrics.filter_map(count).collect()
}

/// Most causes that are told of.
const MOST_ERRORS: usize = 50;
/// Ends of tunnels and sessions that are nobody's fault.
const ORDINARY: [&str; 5] = ["client", "server", "drain", "stopped", "rebalance"];

pub(super) fn errors(admin: &Admin) -> Vec<ErrorTold> {
    let snapshot = admin.core.snapshot.load();
    let mut errors = Vec::new();
    let mut add = |subject: &str, cause: &str, count: u64| {
        if count > 0 {
            errors.push(ErrorTold { subject: subject.to_owned(), cause: cause.to_owned(), count });
        }
    };
    let metrics = &admin.core.metrics;
    counts(&metrics.refusals).iter().for_each(|(reason, &count)| add("gateway", reason, count));
    add("gateway", "panic", metrics.panics.get());
    add("gateway", "buffers_cut", metrics.buffers_cut.get());
    add("gateway", "access_log_lost", metrics.access_log_lost.get());
    let mut told = HashSet::new();
    for said in &snapshot.config.listeners {
        let name = said.name();
        if !told.insert(name.clone()) {
            continue;
        }
        let (metrics, subject) = (metrics.listener(&name), format!("listener {name}"));
        counts(&metrics.refused).iter().for_each(|(limit, &count)| add(&subject, &format!("limit_{limit}"), count));
        add(&subject, "tls_handshake", metrics.tls_failed.get());
    }
    for (name, upstream) in &snapshot.upstreams {
        let (metrics, subject) = (&upstream.metrics, format!("upstream {name}"));
        add(&subject, "status_5xx", metrics.answered_5xx.get());
        add(&subject, "upgrade_refused", metrics.upgrades_refused.get());
        let closed = counts(&metrics.closed);
        let closed = closed.iter().filter(|(by, _)| !ORDINARY.contains(&by.as_str()));
        closed.for_each(|(by, &count)| add(&subject, &format!("tunnel_{by}"), count));
        counts(&metrics.session_errors)
            .iter()
            .for_each(|(code, &count)| add(&subject, &format!("session_error_{code}"), count));
        if let Some(totals) = upstream.sessions().map(|table| table.totals()) {
            for cause in Cause::ALL.iter().filter(|cause| !ORDINARY.contains(&cause.as_str())) {
                add(&subject, &format!("session_{}", cause.as_str()), totals.ended(*cause));
            }
        }
        for server in upstream.all_servers() {
            let subject = format!("server {name}/{}", server.name());
            add(&subject, "connect", server.connect_failures());
            add(&subject, "bad_answer", server.bad_answers());
            add(&subject, "ejection", server.ejections());
        }
    }
    errors.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.subject.cmp(&other.subject)));
    errors.truncate(MOST_ERRORS);
    errors
}

/// Clients of each upstream that are told of.
const MOST_CLIENTS: usize = 10;

pub(super) fn clients(admin: &Admin) -> Vec<ClientTold> {
    let snapshot = admin.core.snapshot.load();
    let upstreams: BTreeMap<_, _> = snapshot.upstreams.iter().collect();
    let told = |(name, upstream): (&Arc<str>, &Arc<crate::upstream::Upstream>)| {
        let largest = upstream.largest_clients().into_iter().take(MOST_CLIENTS).map(Client::from);
        let name = name.to_string();
        largest.map(move |Client { address, share }| ClientTold { upstream: name.clone(), address, share })
    };
    upstreams.into_iter().flat_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_route_matches_is_told_in_words() {
        let said =
            json!({ "path": "/a/", "host": ["a.test", "b.test"], "method": null, "header": {}, "upgrade": true });
        assert_eq!(in_words(&said), "path /a/, host a.test or b.test, upgrade true");
    }
}
