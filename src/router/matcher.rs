//! One route's conditions, compiled for matching.

use super::config::Match;
use crate::request::Request;

/// The compiled form of `routes[].match`; an empty list of anything holds always.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    pub(super) hosts: Vec<Host>,
    pub(super) paths: Vec<PathRule>,
    methods: Vec<String>,
    headers: Vec<(String, Value)>,
    query: Vec<(String, Value)>,
    websocket: bool,
    listeners: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Host {
    Exact(String),
    /// The part after the `*`, with its dot.
    Under(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum PathRule {
    /// Segments without the final slash; empty for `/`.
    Prefix(String),
    Exact(String),
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
        let prefixes = matches.path.0.iter().map(|path| PathRule::Prefix(path.trim_end_matches('/').to_owned()));
        let exact = matches.path_exact.0.iter().map(|path| PathRule::Exact(path.clone()));
        Self {
            hosts: matches.host.0.iter().map(|host| Host::build(&host.to_ascii_lowercase())).collect(),
            paths: prefixes.chain(exact).collect(),
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

impl Host {
    fn build(host: &str) -> Self {
        match host.strip_prefix('*') {
            Some(suffix) => Self::Under(suffix.to_owned()),
            None => Self::Exact(host.to_owned()),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Under(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

impl PathRule {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
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
