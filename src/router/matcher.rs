//! One route's conditions, compiled for matching.

use super::config::Match;
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
        let value = |text: &String| {
            if text == "*" { Value::Any } else { Value::Is(text.clone()) }
        };
        Self {
            hosts: matches.hosts().map(|host| host.map(str::to_ascii_lowercase)).collect(),
            paths: matches.paths().map(|path| path.map(str::to_owned)).collect(),
            methods: matches.method.0.clone(),
            headers: matches.headers.iter().map(|(name, text)| (name.to_ascii_lowercase(), value(text))).collect(),
            query: matches.query.iter().map(|(name, text)| (name.clone(), value(text))).collect(),
            websocket: matches.upgrade.is_some(),
            listeners: matches.listener.0.clone(),
        }
    }

    fn host_matches(&self, host: Option<&str>) -> bool {
        self.hosts.is_empty() || host.is_some_and(|host| self.hosts.iter().any(|rule| rule.matches(host)))
    }

    /// Whether every condition holds; `path` is the reading of the request's path to match.
    pub(super) fn matches(&self, request: &Request<'_>, path: &str) -> bool {
        (self.paths.is_empty() || self.paths.iter().any(|rule| rule.matches(path)))
            && self.host_matches(request.host.as_deref())
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method))
            && (!self.websocket || request.websocket)
            && (self.listeners.is_empty() || self.listeners.iter().any(|name| name == request.listener))
            && self.headers.iter().all(|(name, value)| value.matches_header(request, name))
            && self.query.iter().all(|(name, value)| match value {
                Value::Any => request.query_value(name).is_some(),
                Value::Is(text) => request.query_value(name) == Some(text),
            })
    }
}

impl Match {
    /// The rules for hosts; none take any.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = HostRule<&str>> + Clone {
        self.host.0.iter().map(|host| host.strip_prefix('*').map_or(HostRule::Exact(host.as_str()), HostRule::Under))
    }

    /// The rules for paths; none take any.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathRule<&str>> + Clone {
        let prefixes = self.path.0.iter().map(|path| PathRule::Prefix(path.trim_end_matches('/')));
        prefixes.chain(self.path_exact.0.iter().map(|path| PathRule::Exact(path.as_str())))
    }
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
