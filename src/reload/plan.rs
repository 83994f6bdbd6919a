//! What a new configuration changes, and what that means for what is open: said before a reload by
//! `sockgate check --against`, and after one in its answer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::open::Open;
use crate::config::{Config, Orphans};
use crate::roster::Origin;
use crate::router;
use crate::upstream::config::ServerConfig;

/// What a reload would do, or has done.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Plan {
    /// What is different, in the order of the file; empty where nothing is.
    pub changes: Vec<Change>,
    /// What becomes of tunnels and pending polls.
    pub sockets: Fates,
    /// What becomes of Engine.IO sessions.
    pub sessions: Fates,
    /// Settings that take effect only when the gateway is started anew or upgraded.
    pub at_next_start: Vec<String>,
    /// What is hardly meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Change {
    /// `listener`, `route`, `upstream` or `setting`.
    pub subject: String,
    /// Its name.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub verb: String,
    /// What about it is different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
    /// Tunnels and pending polls that lose their place by this.
    pub sockets: usize,
    /// Sessions that do.
    pub sessions: usize,
}

/// Numbers of those that stay, and of those that have no place any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fates {
    /// They are not touched.
    pub kept: usize,
    /// They are told goodbye at the pace of the drain.
    pub drained: usize,
    /// They are told goodbye at once.
    pub closed: usize,
}

/// What of the running configuration a new one has no place for.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone {
    listeners: BTreeSet<String>,
    routes: BTreeSet<String>,
    upstreams: BTreeSet<String>,
}

impl Gone {
    pub(super) fn between(running: &Config, new: &Config) -> Self {
        let kept: HashSet<String> = new.listeners.iter().map(|said| said.identity()).collect();
        let listeners = running.listeners.iter().filter(|said| !kept.contains(&said.identity()));
        // A route is the same by what it does, or by its name where it still leads to the same upstream.
        let after = router::named(&new.routes);
        // Where several share its clients, one of them has to stay.
        let by_name: HashSet<_> =
            after.iter().flat_map(|(name, said)| upstreams(said).map(move |upstream| (upstream, name))).collect();
        let by_match: HashSet<_> =
            new.routes.iter().flat_map(|said| upstreams(said).map(move |upstream| (upstream, &said.matches))).collect();
        let routes = router::named(&running.routes).into_iter().filter(|(name, said)| {
            !upstreams(said)
                .any(|upstream| by_name.contains(&(upstream, name)) || by_match.contains(&(upstream, &said.matches)))
        });
        Self {
            listeners: listeners.map(|said| said.name()).collect(),
            routes: routes.map(|(name, _)| name).collect(),
            upstreams: running.upstreams.keys().filter(|&name| !new.upstreams.contains_key(name)).cloned().collect(),
        }
    }

    /// Whether what goes to this upstream, and came in this way, has no place any more.
    pub(super) fn has(&self, upstream: &str, origin: &Origin) -> bool {
        self.upstreams.contains(upstream)
            || self.listeners.contains(&*origin.listener)
            || origin.route.as_ref().is_some_and(|route| self.routes.contains(&**route))
    }
}

/// Where a route leads; one that answers by itself leads to `None`.
fn upstreams(said: &router::Config) -> impl Iterator<Item = Option<&str>> {
    let names = said.upstream.iter().flat_map(|upstreams| upstreams.names()).map(Some);
    let answers = said.upstream.as_ref().is_none_or(|upstreams| upstreams.first().is_none());
    names.chain(answers.then_some(None))
}

/// The servers of a configuration whose upstreams tell those goodbye who are on another one. Where they are found
/// otherwise nobody is told yet: those of now stay until others have been found.
struct Staying<'a>(HashMap<&'a str, HashSet<String>>);

impl<'a> Staying<'a> {
    fn of(new: &'a Config, open: &Open) -> Self {
        let telling = new.upstreams.iter().filter(|(_, said)| said.drain.goodbye);
        let by_program = |name: &str| open.found.get(name).is_some_and(|found| found.by_program);
        let configured = telling.filter(|(name, said)| !by_program(name.as_str()) && !said.servers.are_found());
        let staying = configured.map(|(name, said)| {
            let staying = said.servers.list().iter().filter(|server| !server.drain);
            (name.as_str(), staying.map(|server| server.name()).collect())
        });
        Self(staying.collect())
    }

    /// Whether those who are on this server are told goodbye, though their upstream stays.
    fn lets_go(&self, upstream: &str, server: &str) -> bool {
        self.0.get(upstream).is_some_and(|staying| !staying.contains(server))
    }
}

/// What is open, summed up by what a change can take away.
#[derive(Default)]
struct Counts<'a> {
    by_listener: HashMap<&'a str, usize>,
    by_route: HashMap<&'a str, usize>,
    /// Sockets and sessions.
    by_server: HashMap<(&'a str, &'a str), (usize, usize)>,
    by_upstream: HashMap<&'a str, (usize, usize)>,
    connections: HashMap<&'a str, usize>,
}

impl<'a> Counts<'a> {
    fn of(open: &'a Open) -> Self {
        let mut counts = Self::default();
        for (socket, count) in &open.sockets {
            *counts.by_listener.entry(&socket.origin.listener).or_default() += count;
            if let Some(route) = &socket.origin.route {
                *counts.by_route.entry(route).or_default() += count;
            }
            counts.by_server.entry((&socket.upstream, &socket.server)).or_default().0 += count;
            counts.by_upstream.entry(&socket.upstream).or_default().0 += count;
        }
        for (upstream, server, count) in &open.sessions {
            counts.by_server.entry((upstream, server)).or_default().1 += count;
            counts.by_upstream.entry(upstream).or_default().1 += count;
        }
        counts.connections = open.connections.iter().map(|(name, count)| (&**name, *count)).collect();
        counts
    }
}

impl Plan {
    /// Compares two configurations by their meaning, and counts what is open on either side of the difference.
    pub fn between(running: &Config, new: &Config, open: &Open) -> Self {
        let gone = Gone::between(running, new);
        let (staying, counts) = (Staying::of(new, open), Counts::of(open));
        let mut plan = Self::default();
        plan.listeners(running, new, &counts);
        plan.routes(running, new, &gone, &counts);
        plan.upstreams(running, new, &counts, open);
        plan.settings(running, new);
        for (socket, count) in &open.sockets {
            let is_gone = gone.has(&socket.upstream, &socket.origin);
            let is_let_go = !is_gone && staying.lets_go(&socket.upstream, &socket.server);
            plan.sockets.add(*count, is_gone, is_let_go, new.reload.orphans);
        }
        for (upstream, server, count) in &open.sessions {
            let (is_gone, is_let_go) = (gone.upstreams.contains(&**upstream), staying.lets_go(upstream, server));
            plan.sessions.add(*count, is_gone, is_let_go, new.reload.orphans);
        }
        plan
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds that the files behind these, each a subject and its name, hold something else.
    pub(super) fn files_changed(&mut self, those: &[(&str, String)], what: &str) {
        let changes = self.changes.iter().enumerate();
        let told: HashMap<_, _> =
            changes.map(|(at, change)| ((change.subject.clone(), change.name.clone()), at)).collect();
        for (subject, name) in those {
            match told.get(&((*subject).to_owned(), name.clone())) {
                Some(&at) => self.changes[at].what.push(what.to_owned()),
                None => self.changes.push(Change::new(subject, name, "changed", vec![what.to_owned()])),
            }
        }
    }

    fn listeners(&mut self, running: &Config, new: &Config, counts: &Counts<'_>) {
        let by_identity =
            |said: &Config| -> HashSet<String> { said.listeners.iter().map(|said| said.identity()).collect() };
        let after: HashMap<_, _> = new.listeners.iter().map(|said| (said.identity(), said)).collect();
        for said in &running.listeners {
            let name = said.name();
            match after.get(&said.identity()) {
                None => {
                    let mut change = Change::new("listener", &name, "removed", Vec::new());
                    change.sockets = counts.by_listener.get(&*name).copied().unwrap_or(0);
                    if let Some(connections @ 1..) = counts.connections.get(&*name) {
                        change.what.push(format!("{connections} connections: idle ones end, requests are finished"));
                    }
                    self.changes.push(change);
                }
                Some(other) => self.changed("listener", &name, different_keys(said, other)),
            }
        }
        let before = by_identity(running);
        for said in new.listeners.iter().filter(|said| !before.contains(&said.identity())) {
            self.changes.push(Change::new("listener", &said.name(), "added", Vec::new()));
        }
    }

    fn routes(&mut self, running: &Config, new: &Config, gone: &Gone, counts: &Counts<'_>) {
        let (before, after) = (router::named(&running.routes), router::named(&new.routes));
        let (named_before, named_after) = (by_name(&before), by_name(&after));
        let same: HashSet<_> = after.iter().map(|(name, said)| (name, *said)).collect();
        let matched: HashSet<_> = running.routes.iter().map(|said| &said.matches).collect();
        for (name, said) in &before {
            if same.contains(&(name, *said)) {
                continue;
            }
            let twin = named_after.get(name.as_str()).map(|&(first, _)| first);
            if gone.routes.contains(name) {
                let verb = if twin.is_some() { "changed" } else { "removed" };
                let what = twin.map(|other| different_keys(*said, other)).unwrap_or_default();
                let mut change = Change::new("route", name, verb, what);
                change.sockets = counts.by_route.get(name.as_str()).copied().unwrap_or(0);
                self.changes.push(change);
            } else if let Some(other) = twin {
                self.changed("route", name, different_keys(*said, other));
            }
        }
        let mut told = HashSet::new();
        for (name, said) in &after {
            let called = |routes: &HashMap<&str, (&router::Config, usize)>| {
                routes.get(name.as_str()).map_or(0, |&(_, count)| count)
            };
            let first = told.insert(name);
            match (called(&named_before), called(&named_after)) {
                (0, _) if !matched.contains(&said.matches) => {
                    self.changes.push(Change::new("route", name, "added", Vec::new()));
                }
                (count @ 1.., some) if first && some != count => {
                    let what = format!("{some} routes of this name instead of {count}");
                    self.changed("route", name, vec![what]);
                }
                _ => {}
            }
        }
        let in_both = |routes: &[(String, &router::Config)]| -> Vec<String> {
            let names = routes.iter().map(|(name, _)| name);
            let both =
                |&name: &&String| named_before.contains_key(name.as_str()) && named_after.contains_key(name.as_str());
            names.filter(both).cloned().collect()
        };
        if in_both(&before) != in_both(&after) {
            self.changes.push(Change::new("setting", "routes", "changed", vec!["their order".to_owned()]));
        }
    }

    fn upstreams(&mut self, running: &Config, new: &Config, counts: &Counts<'_>, open: &Open) {
        for (name, said) in &running.upstreams {
            let Some(other) = new.upstreams.get(name) else {
                let (sockets, sessions) = counts.by_upstream.get(name.as_str()).copied().unwrap_or_default();
                self.changes.push(Change { sockets, sessions, ..Change::new("upstream", name, "removed", Vec::new()) });
                continue;
            };
            let mut what = different_keys(said, other);
            let found = open.found.get(name.as_str());
            let (mut before, mut after) = (servers(said.servers.list()), servers(other.servers.list()));
            if said.servers != other.servers {
                let otherwise = said.servers.are_found() || other.servers.are_found();
                what.retain(|key| key != "servers");
                if let Some(found) = found.filter(|found| found.by_program) {
                    let count = found.servers.len();
                    what.push(format!("servers, in whose place the {count} serve that discovery finds"));
                    (before, after) = Default::default();
                } else if otherwise {
                    what.push(format!("servers by {} instead of {}", other.servers, said.servers));
                    if let Some(found) = found {
                        before = servers(&found.servers);
                    }
                    if other.servers.are_found() {
                        what.push("those of now serve until it has found others".to_owned());
                        (before, after) = Default::default();
                    }
                }
            }
            let mut change = Change::new("upstream", name, "changed", Vec::new());
            for server in after.keys().filter(|server| !before.contains_key(*server)) {
                what.push(format!("server {server} added"));
            }
            for server in before.keys().filter(|server| !after.contains_key(*server)) {
                let on = counts.by_server.get(&(name.as_str(), server.as_str()));
                let (sockets, sessions) = on.copied().unwrap_or_default();
                change.sockets += sockets;
                change.sessions += sessions;
                what.push(format!("server {server} removed"));
            }
            for (server, said) in before.iter().filter(|&(server, said)| after.get(server).is_some_and(|s| s != said)) {
                let keys = after.get(server).map(|other| different_keys(said, other)).unwrap_or_default();
                what.push(format!("server {server}: {}", keys.join(", ")));
            }
            self.warnings.extend(shifted(name, &before, &after));
            if !what.is_empty() {
                self.changes.push(Change { what, ..change });
            }
        }
        for name in new.upstreams.keys().filter(|&name| !running.upstreams.contains_key(name)) {
            self.changes.push(Change::new("upstream", name, "added", Vec::new()));
        }
    }

    fn settings(&mut self, running: &Config, new: &Config) {
        for ((section, before), (_, after)) in settings(running).into_iter().zip(settings(new)) {
            if before != after {
                self.changes.push(Change::new("setting", section, "changed", different(&before, &after)));
            }
        }
        if running.engine != new.engine {
            self.at_next_start.push("engine".to_owned());
        }
        if running.threads != new.threads {
            self.at_next_start.push("threads".to_owned());
        }
        if running.timeouts.keep_alive != new.timeouts.keep_alive {
            self.at_next_start.push("timeouts.keep_alive, for HTTP/2".to_owned());
        }
    }

    fn changed(&mut self, subject: &str, name: &str, what: Vec<String>) {
        if !what.is_empty() {
            self.changes.push(Change::new(subject, name, "changed", what));
        }
    }
}

impl Change {
    fn new(subject: &str, name: &str, verb: &str, what: Vec<String>) -> Self {
        let (subject, name, verb) = (subject.to_owned(), name.to_owned(), verb.to_owned());
        Self { subject, name, verb, what, sockets: 0, sessions: 0 }
    }
}

impl Fates {
    fn add(&mut self, count: usize, is_gone: bool, is_let_go: bool, orphans: Orphans) {
        *match orphans {
            _ if is_let_go => &mut self.drained,
            Orphans::Drain if is_gone => &mut self.drained,
            Orphans::Close if is_gone => &mut self.closed,
            _ => &mut self.kept,
        } += count;
    }
}

/// A warning where servers have changed their names among each other, as they do in a file that counts them (`n0`, `n1`)
/// when the first one leaves: another address under a name is another server, so sessions are lost that needn't be.
fn shifted(upstream: &str, before: &Servers<'_>, after: &Servers<'_>) -> Option<String> {
    let names: HashMap<_, _> = before.iter().map(|(name, said)| (&said.address, name)).collect();
    let other = |(name, said): &(&String, &&ServerConfig)| {
        let earlier = names.get(&said.address).filter(|&&earlier| earlier != *name);
        earlier.filter(|_| before.contains_key(*name)).map(|&earlier| (said.address.to_string(), earlier.clone()))
    };
    let (first, (address, earlier)) = after.iter().find_map(|entry| Some((entry.0, other(&entry)?)))?;
    Some(format!(
        "upstream {upstream}: {address} was server {earlier} and is now {first}: a server is known by its name, so the \
         sessions of both are lost; name servers after what they are, not after their place in the list"
    ))
}

/// The first route of each name, and how many there are of it.
fn by_name<'a>(routes: &'a [(String, &'a router::Config)]) -> HashMap<&'a str, (&'a router::Config, usize)> {
    let mut named = HashMap::with_capacity(routes.len());
    for (name, said) in routes {
        named.entry(name.as_str()).or_insert((*said, 0)).1 += 1;
    }
    named
}

type Servers<'a> = BTreeMap<String, &'a ServerConfig>;

/// The servers of an upstream by name.
fn servers(list: &[ServerConfig]) -> Servers<'_> {
    list.iter().map(|server| (server.name(), server)).collect()
}

/// The keys under which two values say different things.
fn different_keys<T: Serialize + PartialEq>(before: &T, after: &T) -> Vec<String> {
    if before == after { Vec::new() } else { different(&to_value(before), &to_value(after)) }
}

fn different(before: &Value, after: &Value) -> Vec<String> {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return Vec::new() };
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    keys.into_iter().filter(|&key| before.get(key) != after.get(key)).cloned().collect()
}

fn to_value<T: Serialize>(said: &T) -> Value {
    serde_json::to_value(said).unwrap_or_default()
}

/// The sections of a configuration that are no list of named things, in the order of the file.
fn settings(config: &Config) -> Vec<(&'static str, Value)> {
    let Config {
        include: _,
        listeners: _,
        routes: _,
        upstreams: _,
        access,
        error_pages,
        flash_policy,
        forwarding,
        timeouts,
        limits,
        access_log,
        traces,
        drain,
        reload,
        admin,
        peers,
        zone,
        engine,
        threads,
        // What is told of a configuration changes nothing that it does.
        lint: _,
        secrets: _,
    } = config;
    vec![
        ("access", to_value(access)),
        ("error_pages", to_value(error_pages)),
        ("flash_policy", to_value(flash_policy)),
        ("forwarding", to_value(forwarding)),
        ("timeouts", to_value(timeouts)),
        ("limits", to_value(limits)),
        ("access_log", to_value(access_log)),
        ("traces", to_value(traces)),
        ("drain", to_value(drain)),
        ("reload", to_value(reload)),
        ("admin", to_value(admin)),
        ("peers", to_value(peers)),
        ("zone", to_value(zone)),
        ("engine", to_value(engine)),
        ("threads", to_value(threads)),
    ]
}

impl fmt::Display for Plan {
    /// Lines for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes");
        }
        for change in &self.changes {
            let Change { subject, name, verb, what, sockets, sessions } = change;
            write!(f, "{subject} {name} {verb}")?;
            if !what.is_empty() {
                write!(f, ": {}", what.join(", "))?;
            }
            if sockets + sessions > 0 {
                write!(f, " ({sockets} sockets, {sessions} sessions are there)")?;
            }
            writeln!(f)?;
        }
        for (what, Fates { kept, drained, closed }) in [("sockets", self.sockets), ("sessions", self.sessions)] {
            writeln!(f, "{what}: {kept} kept, {drained} drained, {closed} closed")?;
        }
        if !self.at_next_start.is_empty() {
            writeln!(f, "only at the next start: {}", self.at_next_start.join("; "))?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload::open::{FoundServers, Socket};

    fn config(yaml: &str) -> Config {
        Config::read("test.yaml", yaml, &|_| None).unwrap().config
    }

    /// Listeners, routes and upstreams by the numbers that are given, each upstream with a server.
    fn many(routes: usize, version: usize) -> Config {
        let few = config(
            "listeners: [{ address: '127.0.0.1:8080' }]\nroutes: [{ match: { host: a }, upstream: u }]\n\
             upstreams: { u: { servers: ['127.0.0.1:9000'] } }\n",
        );
        let (route, upstream) = (&few.routes[0], &few.upstreams["u"]);
        let route = |at: usize| {
            let mut route = route.clone();
            route.matches.host.0 = vec![format!("h{}.example.com", at + version)];
            route.upstream = Some(format!("u{}", at % (routes / 5)).as_str().into());
            route
        };
        let upstreams = (0..routes / 5).map(|at| (format!("u{}", at + version), upstream.clone())).collect();
        Config { routes: (0..routes).map(route).collect(), upstreams, ..few }
    }

    #[test]
    fn a_plan_counts_what_is_open_by_what_it_loses() {
        let before = config(
            "listeners: [{ address: '127.0.0.1:8080', name: web }, { address: '127.0.0.1:8081', name: old }]\n\
             routes: [{ name: r, match: { path: /r }, upstream: a }, { upstream: a }]\n\
             upstreams: { a: { servers: ['127.0.0.1:9000', '127.0.0.1:9001'] } }\n",
        );
        let after = config(
            "listeners: [{ address: '127.0.0.1:8080', name: web }]\nroutes: [{ upstream: a }]\n\
             upstreams: { a: { servers: ['127.0.0.1:9000'], drain: { goodbye: true } } }\n\
             reload: { orphans: close }\n",
        );
        let socket = |listener: &str, route: &str, server: &str| Socket {
            upstream: "a".into(),
            server: server.into(),
            origin: Origin { listener: listener.into(), route: Some(route.into()) },
        };
        let open = Open {
            sockets: [
                (socket("web", "a", "127.0.0.1:9000"), 1),
                (socket("web", "a", "127.0.0.1:9001"), 2),
                (socket("web", "r", "127.0.0.1:9000"), 4),
                (socket("old", "a", "127.0.0.1:9001"), 8),
            ]
            .into(),
            sessions: vec![("a".into(), "127.0.0.1:9000".into(), 16), ("a".into(), "127.0.0.1:9001".into(), 32)],
            connections: vec![("old".into(), 64)],
            found: HashMap::new(),
        };
        let plan = Plan::between(&before, &after, &open);
        assert_eq!(plan.sockets, Fates { kept: 1, drained: 2, closed: 12 });
        assert_eq!(plan.sessions, Fates { kept: 16, drained: 32, closed: 0 });
        let text = plan.to_string();
        for line in [
            "listener old removed: 64 connections: idle ones end, requests are finished (8 sockets, 0 sessions are there)",
            "route r removed (4 sockets, 0 sessions are there)",
            "server 127.0.0.1:9001 removed (10 sockets, 32 sessions are there)",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    fn found(count: usize, by_program: bool) -> FoundServers {
        let servers = (1..=count).map(|n| ServerConfig::at(&format!("10.0.0.{n}:1")).unwrap());
        FoundServers { servers: servers.collect(), by_program }
    }

    #[test]
    fn a_plan_tells_what_becomes_of_servers_whose_source_is_another_one() {
        let said = |servers: &str| {
            config(&format!(
                "listeners: [{{ address: '127.0.0.1:8080', name: web }}]\nroutes: [{{ upstream: a }}]\n\
                 upstreams: {{ a: {{ servers: {servers} }} }}\n"
            ))
        };
        let (list, file) = (said("['10.0.0.1:1', '10.0.0.9:1']"), said("{ file: servers.yaml }"));
        let on = |server: &str| {
            let origin = Origin { listener: "web".into(), route: Some("a".into()) };
            Socket { upstream: "a".into(), server: server.into(), origin }
        };
        let open = Open {
            sockets: [(on("10.0.0.1:1"), 1), (on("10.0.0.2:1"), 2)].into(),
            sessions: vec![("a".into(), "10.0.0.1:1".into(), 4), ("a".into(), "10.0.0.2:1".into(), 8)],
            ..Open::default()
        };
        let plan = Plan::between(&list, &file, &open);
        assert_eq!((plan.sockets.kept, plan.sessions.kept), (3, 12), "{plan}");
        let what = "servers by file servers.yaml instead of a list of 2, those of now serve until it has found others";
        assert!(plan.to_string().contains(what), "{plan}");
        let open = Open { found: [("a".into(), found(2, false))].into(), ..open };
        assert!(Plan::between(&file, &file, &open).is_empty());
        let plan = Plan::between(&file, &list, &open);
        assert_eq!((plan.sockets.kept, plan.sockets.drained, plan.sessions.drained), (1, 2, 8), "{plan}");
        let what = "servers by a list of 2 instead of file servers.yaml, server 10.0.0.9:1 added, server 10.0.0.2:1 removed \
                    (2 sockets, 8 sessions are there)";
        assert!(plan.to_string().contains(what), "{plan}");
    }

    #[test]
    fn servers_that_discovery_has_found_stay_whatever_is_configured() {
        let said = |server: &str| {
            config(&format!(
                "listeners: [{{ address: '127.0.0.1:8080', name: web }}]\nroutes: [{{ upstream: a }}]\n\
                 upstreams: {{ a: {{ servers: ['{server}'], drain: {{ goodbye: true }} }} }}\n"
            ))
        };
        let socket = Socket {
            upstream: "a".into(),
            server: "10.0.0.1:1".into(),
            origin: Origin { listener: "web".into(), route: Some("a".into()) },
        };
        let open = Open {
            sockets: [(socket, 1)].into(),
            sessions: vec![("a".into(), "10.0.0.1:1".into(), 2)],
            found: [("a".into(), found(3, true))].into(),
            ..Open::default()
        };
        let plan = Plan::between(&said("127.0.0.1:9000"), &said("127.0.0.1:9001"), &open);
        assert_eq!((plan.sockets.kept, plan.sessions.kept), (1, 2));
        let what = "upstream a changed: servers, in whose place the 3 serve that discovery finds\n";
        assert!(plan.to_string().contains(what), "{plan}");
    }

    #[test]
    fn servers_that_are_named_by_their_place_are_warned_of_when_the_first_one_leaves() {
        let said = |servers: &[(&str, u16)]| {
            let servers: Vec<_> =
                servers.iter().map(|(name, port)| format!("{{ name: {name}, address: '127.0.0.1:{port}' }}")).collect();
            config(&format!(
                "listeners: [{{ address: '127.0.0.1:8080' }}]\nroutes: [{{ upstream: a }}]\n\
                 upstreams: {{ a: {{ servers: [{}] }} }}\n",
                servers.join(", ")
            ))
        };
        let before = said(&[("n0", 1), ("n1", 2), ("n2", 3)]);
        let plan = |after: &[(&str, u16)]| Plan::between(&before, &said(after), &Open::default());
        let first_left = plan(&[("n0", 2), ("n1", 3)]);
        let warning = "warning: upstream a: 127.0.0.1:2 was server n1 and is now n0: ";
        assert!(first_left.to_string().contains(warning), "{first_left}");
        for unmoved in [&[("n0", 1), ("n1", 2)][..], &[("n1", 2), ("n2", 3)], &[("n0", 9), ("n1", 2), ("n2", 3)]] {
            assert!(plan(unmoved).warnings.is_empty(), "{}", plan(unmoved));
        }
        let renamed = plan(&[("a", 1), ("b", 2), ("c", 3)]);
        assert!(renamed.warnings.is_empty(), "these names are new, and nobody's: {renamed}");
    }

    /// So many that to compare each with each would take minutes.
    #[test]
    fn tens_of_thousands_of_routes_are_compared_by_what_they_are() {
        const ROUTES: usize = 10_000;
        let (before, after) = (many(ROUTES, 0), many(ROUTES, 1));
        assert!(Plan::between(&before, &before.clone(), &Open::default()).is_empty());
        let plan = Plan::between(&before, &after, &Open::default());
        let count = |subject: &str, verb: &str| {
            plan.changes.iter().filter(|change| (&*change.subject, &*change.verb) == (subject, verb)).count()
        };
        // Each route has its name from its upstream, and still leads there by what another one matched.
        assert_eq!((count("route", "changed"), count("route", "added")), (ROUTES, 0));
        assert_eq!((count("upstream", "removed"), count("upstream", "added")), (1, 1));
    }
}
