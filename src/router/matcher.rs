//! One route's conditions, compiled for matching.

mod why;

use std::net::IpAddr;

use ipnet::IpNet;
use regex::{Regex, RegexBuilder, bytes};

use super::config::{Match, OneOrMany};
use crate::filter::Expression;
use crate::request::Request;

/// The compiled form of `routes[].match`; an empty list of anything holds always.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    pub(super) hosts: Vec<HostRule<String>>,
    pub(super) paths: Vec<PathRule<String>>,
    methods: Vec<String>,
    headers: Vec<(String, Value)>,
    query: Vec<(String, Value)>,
    websocket: bool,
    listeners: Vec<String>,
    /// What most routes don't ask for.
    more: Option<Box<More>>,
}

/// Conditions that take longer to look at.
#[derive(Debug, Default)]
struct More {
    paths: Vec<Regex>,
    headers: Vec<(String, bytes::Regex)>,
    cookies: Vec<(String, Value)>,
    clients: Vec<IpNet>,
    server_names: Vec<HostRule<String>>,
    ports: Vec<u16>,
    when: Option<Expression>,
    not: Vec<Matcher>,
    any: Vec<Matcher>,
}

/// The most memory that a compiled expression may take.
const MOST_REGEX: usize = 1 << 20;

/// Reads a regular expression: its time is linear in what it looks at, whatever it says.
pub(crate) fn regex(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(MOST_REGEX).dfa_size_limit(MOST_REGEX).build()
}

/// The same for bytes that need not be text.
fn bytes_regex(text: &str) -> Result<bytes::Regex, regex::Error> {
    bytes::RegexBuilder::new(text).size_limit(MOST_REGEX).dfa_size_limit(MOST_REGEX).build()
}

/// Reads a network, or an address, which is the network of itself.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// One entry of `host`; a route takes a host when one of its rules does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostRule<T> {
    /// In lower case.
    Exact(T),
    /// The part after the `*`, with its dot.
    Under(T),
}

/// One entry of `path` or `path_exact`; a route takes a path when one of its rules does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathRule<T> {
    /// Segments without the final slash; empty for `/`.
    Prefix(T),
    /// The whole path.
    Exact(T),
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Any,
    Is(String),
}

impl Matcher {
    pub(super) fn build(matches: &Match) -> Self {
        let value = |text: &String| Value::of(text);
        Self {
            hosts: matches.hosts().map(|host| host.map(str::to_ascii_lowercase)).collect(),
            paths: matches.paths().map(|path| path.map(str::to_owned)).collect(),
            methods: matches.method.0.clone(),
            headers: matches.headers.iter().map(|(name, text)| (name.to_ascii_lowercase(), value(text))).collect(),
            query: matches.query.iter().map(|(name, text)| (name.clone(), value(text))).collect(),
            websocket: matches.upgrade.is_some(),
            listeners: matches.listener.0.clone(),
            more: More::build(matches).map(Box::new),
        }
    }

    /// Whether paths are told by more than [`Self::paths`].
    pub(super) fn searches_paths(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.paths.is_empty())
    }

    fn path_matches(&self, path: &str) -> bool {
        let search = || self.more.as_ref().is_some_and(|more| more.paths.iter().any(|regex| regex.is_match(path)));
        self.paths.is_empty() && !self.searches_paths() || self.paths.iter().any(|rule| rule.matches(path)) || search()
    }

    fn host_matches(&self, host: Option<&str>) -> bool {
        self.hosts.is_empty() || host.is_some_and(|host| self.hosts.iter().any(|rule| rule.matches(host)))
    }

    /// Whether every condition holds; `path` is the reading of the request's path to match.
    pub(super) fn matches(&self, request: &Request<'_>, path: &str) -> bool {
        self.path_matches(path)
            && self.host_matches(request.host.as_deref())
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method))
            && (!self.websocket || request.websocket)
            && (self.listeners.is_empty() || self.listeners.iter().any(|name| name == request.listener))
            && self.headers.iter().all(|(name, value)| value.matches_header(request, name))
            && self.query.iter().all(|(name, value)| match value {
                Value::Any => request.query_value(name).is_some(),
                Value::Is(text) => request.query_value(name) == Some(text),
            })
            && self.more.as_ref().is_none_or(|more| more.matches(request, path))
    }
}

impl More {
    fn build(matches: &Match) -> Option<Self> {
        let nothing = matches.path_regex.is_empty()
            && matches.headers_regex.is_empty()
            && matches.cookies.is_empty()
            && matches.client.is_empty()
            && matches.server_name.is_empty()
            && matches.port.0.is_empty()
            && matches.when.is_none()
            && matches.not.0.is_empty()
            && matches.any.0.is_empty();
        let all = |matches: &[Match]| matches.iter().map(Matcher::build).collect();
        let headers = matches.headers_regex.iter();
        let headers = headers.filter_map(|(name, text)| Some((name.to_ascii_lowercase(), bytes_regex(text).ok()?)));
        (!nothing).then(|| Self {
            paths: matches.path_regex.0.iter().filter_map(|text| regex(text).ok()).collect(),
            headers: headers.collect(),
            cookies: matches.cookies.iter().map(|(name, text)| (name.clone(), Value::of(text))).collect(),
            clients: matches.client.0.iter().filter_map(|text| network(text)).collect(),
            server_names: matches.server_names().map(|name| name.map(str::to_ascii_lowercase)).collect(),
            ports: matches.port.0.clone(),
            when: matches.when.as_deref().and_then(|text| Expression::compile(text).ok()),
            not: all(&matches.not.0),
            any: all(&matches.any.0),
        })
    }

    fn name_matches(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.server_names.iter().any(|rule| rule.matches(&name))
    }

    fn matches(&self, request: &Request<'_>, path: &str) -> bool {
        (self.clients.is_empty() || self.clients.iter().any(|network| network.contains(&request.client)))
            && (self.ports.is_empty() || self.ports.contains(&request.port))
            && (self.server_names.is_empty() || request.server_name.is_some_and(|name| self.name_matches(name)))
            && self.cookies.iter().all(|(name, value)| match value {
                Value::Any => request.cookie(name).is_some(),
                Value::Is(text) => request.cookie(name) == Some(text),
            })
            && self.headers.iter().all(|(name, regex)| request.headers.all(name).any(|value| regex.is_match(value)))
            && self.when.as_ref().is_none_or(|when| when.holds(request, path))
            && !self.not.iter().any(|matcher| matcher.matches(request, path))
            && (self.any.is_empty() || self.any.iter().any(|matcher| matcher.matches(request, path)))
    }
}

impl Match {
    /// The rules for hosts; none take any.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = HostRule<&str>> + Clone {
        host_rules(&self.host)
    }

    /// The rules for names of TLS; none take any.
    pub(crate) fn server_names(&self) -> impl Iterator<Item = HostRule<&str>> + Clone {
        host_rules(&self.server_name)
    }

    /// The rules for paths, but for regular expressions; none take any.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathRule<&str>> + Clone {
        let prefixes = self.path.0.iter().map(|path| PathRule::Prefix(path.trim_end_matches('/')));
        prefixes.chain(self.path_exact.0.iter().map(|path| PathRule::Exact(path.as_str())))
    }
}

fn host_rules(hosts: &OneOrMany) -> impl Iterator<Item = HostRule<&str>> + Clone {
    hosts.0.iter().map(|host| host.strip_prefix('*').map_or(HostRule::Exact(host.as_str()), HostRule::Under))
}

impl<T: AsRef<str>> HostRule<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> HostRule<U> {
        match self {
            Self::Exact(name) => HostRule::Exact(change(name)),
            Self::Under(suffix) => HostRule::Under(change(suffix)),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.as_ref() == host,
            Self::Under(suffix) => host.len() > suffix.as_ref().len() && host.ends_with(suffix.as_ref()),
        }
    }

    /// Whether this rule takes every host that the other one does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(_), Self::Under(_)) => false,
            (Self::Under(ours), Self::Under(theirs)) => theirs.as_ref().ends_with(ours.as_ref()),
            (_, Self::Exact(name)) => self.matches(name.as_ref()),
        }
    }
}

impl<T: AsRef<str>> PathRule<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> PathRule<U> {
        match self {
            Self::Prefix(path) => PathRule::Prefix(change(path)),
            Self::Exact(path) => PathRule::Exact(change(path)),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.as_ref() == path,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_ref()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// Whether this rule takes every path that the other one does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(_), Self::Prefix(_)) => false,
            (_, Self::Prefix(path) | Self::Exact(path)) => self.matches(path.as_ref()),
        }
    }
}

impl Value {
    fn of(text: &str) -> Self {
        if text == "*" { Self::Any } else { Self::Is(text.to_owned()) }
    }

    fn matches_header(&self, request: &Request<'_>, name: &str) -> bool {
        match self {
            Self::Any => request.headers.get(name).is_some(),
            Self::Is(text) => {
                let whole = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(text.as_bytes());
                request.headers.all(name).any(whole) || request.headers.lists(name, text)
            }
        }
    }
}
