//! What a new configuration changes, and what that means for what is open: said before a reload by
//! `sockgate check --against`, and after one in its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Config, Orphans};
use crate::drain::Origin;
use crate::router;

/// What is open in a running gateway.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// Tunnels and pending polls.
    pub sockets: Vec<Socket>,
    /// Sessions, by upstream and server.
    pub sessions: Vec<(Arc<str>, Arc<str>, usize)>,
    /// Connections, by listener.
    pub connections: Vec<(Arc<str>, usize)>,
}

/// One tunnel or pending poll.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its upstream.
    pub upstream: Arc<str>,
    /// The name of its server; empty where that is gone already.
    pub server: Arc<str>,
    /// The way by which it came in.
    pub origin: Origin,
}

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
        let listeners = running.listeners.iter();
        let listeners =
            listeners.filter(|&said| !new.listeners.iter().any(|other| other.identity() == said.identity()));
        let routes = router::named(&running.routes).into_iter().filter(|(name, said)| {
            // A route is the same by what it does, or by its name where it still leads to the same upstream.
            let stays = |(other_name, other): &(String, &router::Config)| {
                other.upstream == said.upstream && (other.matches == said.matches || other_name == name)
            };
            !router::named(&new.routes).iter().any(stays)
        });
        Self {
            listeners: listeners.map(|said| said.name()).collect(),
            routes: routes.map(|(name, _)| name).collect(),
            upstreams: running.upstreams.keys().filter(|&name| !new.upstreams.contains_key(name)).cloned().collect(),
        }
    }

    /// The names of the listeners.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(String::as_str)
    }

    /// Whether what goes to this upstream, and came in this way, has no place any more.
    pub(super) fn has(&self, upstream: &str, origin: &Origin) -> bool {
        self.upstreams.contains(upstream)
            || self.listeners.contains(&*origin.listener)
            || origin.route.as_ref().is_some_and(|route| self.routes.contains(&**route))
    }
}

/// Whether a configuration tells those who are on this server goodbye, though their upstream stays.
fn is_let_go(new: &Config, upstream: &str, server: &str) -> bool {
    new.upstreams.get(upstream).is_some_and(|said| {
        said.drain.goodbye && !said.servers.iter().any(|other| other.name() == server && !other.drain)
    })
}

impl Plan {
    /// Compares two configurations by their meaning, and counts what is open on either side of the difference.
    pub fn between(running: &Config, new: &Config, open: &Open) -> Self {
        let gone = Gone::between(running, new);
        let mut plan = Self::default();
        plan.listeners(running, new, open);
        plan.routes(running, new, open);
        plan.upstreams(running, new, open);
        plan.settings(running, new);
        for socket in &open.sockets {
            if !gone.has(&socket.upstream, &socket.origin) && is_let_go(new, &socket.upstream, &socket.server) {
                plan.sockets.drained += 1;
            } else {
                plan.sockets.count(gone.has(&socket.upstream, &socket.origin), new.reload.orphans);
            }
        }
        for (upstream, server, sessions) in &open.sessions {
            if is_let_go(new, upstream, server) {
                plan.sessions.drained += sessions;
                continue;
            }
            let fate = gone.upstreams.contains(&**upstream);
            for _ in 0..*sessions {
                plan.sessions.count(fate, new.reload.orphans);
            }
        }
        plan
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds that the files behind something hold something else, where nothing else is told of it yet.
    pub(super) fn files_changed(&mut self, subject: &str, name: &str, what: &str) {
        match self.changes.iter_mut().find(|change| change.subject == subject && change.name == name) {
            Some(change) => change.what.push(what.to_owned()),
            None => self.changes.push(Change::new(subject, name, "changed", vec![what.to_owned()])),
        }
    }

    fn listeners(&mut self, running: &Config, new: &Config, open: &Open) {
        for said in &running.listeners {
            match new.listeners.iter().find(|other| other.identity() == said.identity()) {
                None => {
                    let mut change = Change::new("listener", &said.name(), "removed", Vec::new());
                    change.sockets = open.count(|socket| *socket.origin.listener == *said.name());
                    let connections = open.connections.iter().find(|(name, _)| **name == *said.name());
                    if let Some((_, connections @ 1..)) = connections {
                        change.what.push(format!("{connections} connections: idle ones end, requests are finished"));
                    }
                    self.changes.push(change);
                }
                Some(other) => self.changed("listener", &said.name(), different_keys(said, other)),
            }
        }
        for said in &new.listeners {
            if !running.listeners.iter().any(|other| other.identity() == said.identity()) {
                self.changes.push(Change::new("listener", &said.name(), "added", Vec::new()));
            }
        }
    }

    fn routes(&mut self, running: &Config, new: &Config, open: &Open) {
        let gone = Gone::between(running, new).routes;
        let (before, after) = (router::named(&running.routes), router::named(&new.routes));
        let called = |routes: &[(String, &router::Config)], name: &String| -> usize {
            routes.iter().filter(|(other, _)| other == name).count()
        };
        for (name, said) in &before {
            if after.iter().any(|(other_name, other)| other_name == name && other == said) {
                continue;
            }
            let twin = after.iter().find(|(other, _)| other == name);
            if gone.contains(name) {
                let verb = if twin.is_some() { "changed" } else { "removed" };
                let what = twin.map(|(_, other)| different_keys(said, other)).unwrap_or_default();
                let mut change = Change::new("route", name, verb, what);
                change.sockets = open.count(|socket| socket.origin.route.as_deref() == Some(name));
                self.changes.push(change);
            } else if let Some((_, other)) = twin {
                self.changed("route", name, different_keys(said, other));
            }
        }
        for (place, (name, said)) in after.iter().enumerate() {
            let first = after[..place].iter().all(|(other, _)| other != name);
            match (called(&before, name), called(&after, name)) {
                (0, _) if !before.iter().any(|(_, other)| other.matches == said.matches) => {
                    self.changes.push(Change::new("route", name, "added", Vec::new()));
                }
                (1.., some) if first && some != called(&before, name) => {
                    let what = format!("{} routes of this name instead of {}", some, called(&before, name));
                    self.changed("route", name, vec![what]);
                }
                _ => {}
            }
        }
        let order = |routes: &[(String, &router::Config)], others: &[(String, &router::Config)]| -> Vec<String> {
            let both = |(name, _): &&(String, _)| others.iter().any(|(other, _)| other == name);
            routes.iter().filter(both).map(|(name, _)| name.clone()).collect()
        };
        if order(&before, &after) != order(&after, &before) {
            self.changes.push(Change::new("setting", "routes", "changed", vec!["their order".to_owned()]));
        }
    }

    fn upstreams(&mut self, running: &Config, new: &Config, open: &Open) {
        for (name, said) in &running.upstreams {
            let on = |server: Option<&str>| {
                let sessions = open.sessions.iter();
                let there = |(upstream, on, _): &&(Arc<str>, Arc<str>, usize)| {
                    **upstream == **name && server.is_none_or(|server| **on == *server)
                };
                let sockets = open.count(|socket| {
                    *socket.upstream == **name && server.is_none_or(|server| *socket.server == *server)
                });
                (sockets, sessions.filter(there).map(|(.., count)| count).sum::<usize>())
            };
            let Some(other) = new.upstreams.get(name) else {
                let (sockets, sessions) = on(None);
                self.changes.push(Change { sockets, sessions, ..Change::new("upstream", name, "removed", Vec::new()) });
                continue;
            };
            let mut what = different_keys(said, other);
            let (before, after) = (servers(said), servers(other));
            let mut change = Change::new("upstream", name, "changed", Vec::new());
            if before != after {
                what.retain(|key| key != "servers");
            }
            for server in after.keys().filter(|server| !before.contains_key(*server)) {
                what.push(format!("server {server} added"));
            }
            for server in before.keys().filter(|server| !after.contains_key(*server)) {
                let (sockets, sessions) = on(Some(server));
                change.sockets += sockets;
                change.sessions += sessions;
                what.push(format!("server {server} removed"));
            }
            for (server, said) in before.iter().filter(|&(server, said)| after.get(server).is_some_and(|s| s != said)) {
                let keys = after.get(server).map(|other| different_keys(said, other)).unwrap_or_default();
                what.push(format!("server {server}: {}", keys.join(", ")));
            }
            if !what.is_empty() {
                self.changes.push(Change { what, ..change });
            }
        }
        for name in new.upstreams.keys().filter(|&name| !running.upstreams.contains_key(name)) {
            self.changes.push(Change::new("upstream", name, "added", Vec::new()));
        }
    }

    fn settings(&mut self, running: &Config, new: &Config) {
        let (before, after) = (to_map(running), to_map(new));
        for (section, said) in &after {
            if ["listeners", "routes", "upstreams"].contains(&section.as_str()) || before.get(section) == Some(said) {
                continue;
            }
            let keys = before.get(section).map(|other| different(other, said)).unwrap_or_default();
            self.changes.push(Change::new("setting", section, "changed", keys));
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

impl Open {
    fn count(&self, is_meant: impl Fn(&Socket) -> bool) -> usize {
        self.sockets.iter().filter(|socket| is_meant(socket)).count()
    }
}

impl Change {
    fn new(subject: &str, name: &str, verb: &str, what: Vec<String>) -> Self {
        let (subject, name, verb) = (subject.to_owned(), name.to_owned(), verb.to_owned());
        Self { subject, name, verb, what, sockets: 0, sessions: 0 }
    }
}

impl Fates {
    fn count(&mut self, gone: bool, orphans: Orphans) {
        match orphans {
            Orphans::Drain if gone => self.drained += 1,
            Orphans::Close if gone => self.closed += 1,
            _ => self.kept += 1,
        }
    }
}

/// The servers of an upstream by name.
fn servers(said: &crate::upstream::Config) -> BTreeMap<String, &crate::upstream::config::ServerConfig> {
    said.servers.iter().map(|server| (server.name(), server)).collect()
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

fn to_map(config: &Config) -> serde_json::Map<String, Value> {
    match to_value(config) {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
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
        match &self.at_next_start[..] {
            [] => Ok(()),
            keys => writeln!(f, "only at the next start: {}", keys.join("; ")),
        }
    }
}
