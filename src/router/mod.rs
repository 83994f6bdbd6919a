//! Where a request goes: the first route whose match holds.
//!
//! Matching looks at the canonical copy of the path; the original is what servers get. A path with encoded separators
//! is matched in both of its readings, and refused where they lead to different routes.

pub mod config;
mod index;
mod matcher;
mod mirror;
mod policy;
mod rewrite;
mod split;
mod taken;

use std::borrow::Cow;
use std::sync::Arc;

pub use config::Config;
pub(crate) use matcher::{HostRule, PathRule, network, regex};
pub(crate) use mirror::Mirror;
pub use policy::Policy;
pub(crate) use rewrite::Rewrite;
pub(crate) use split::{Goal, Split};
pub(crate) use taken::Taken;

use crate::access::Access;
use crate::compression::Compression;
use crate::filter::config::Files;
use crate::http::pages::Pages;
use crate::rate::Limit;
use crate::request::Request;
use config::{Redirect, Respond, Upstreams};
use index::Index;
use matcher::Matcher;

/// Decides where requests go. The routes of the configuration are one; programs may bring their own.
///
/// It is asked once for each request, on the thread that serves it, and must not block.
pub trait Router: Send + Sync {
    /// The route of a request.
    fn route(&self, request: &Request<'_>) -> Decision;
}

/// What a router says.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The request goes this way.
    To(Arc<Route>),
    /// No route matches: 404.
    Nowhere,
    /// The path can be read in two ways that lead to different routes: 400.
    Ambiguous,
}

/// A way to go.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name in logs and metrics.
    pub name: Arc<str>,
    /// What happens there.
    pub action: Action,
    /// Protocols that requests may upgrade to there, beside WebSocket. Never `h2c`: the gateway would see no more requests.
    pub upgrades: Vec<String>,
    /// Who may ask, and from where. `None`: what the top level of the configuration says holds.
    pub access: Option<Arc<Access>>,
    /// What clients may ask for there, beside what holds for all routes.
    pub limits: Vec<Arc<Limit>>,
    /// How answers of servers are compressed. `None`: they stay as they are.
    pub compression: Option<Arc<Compression>>,
    /// What the configuration says beside that of the requests that go there. Routes of a program's own have none.
    pub policy: Option<Arc<Policy>>,
    /// How many requests went there, for operators.
    pub(crate) taken: Arc<Taken>,
}

impl Route {
    /// A way to go that asks nothing more of its clients: what is to be otherwise is set in its fields.
    pub fn new(name: impl Into<Arc<str>>, action: Action) -> Self {
        Self {
            name: name.into(),
            action,
            upgrades: Vec::new(),
            access: None,
            limits: Vec::new(),
            compression: None,
            policy: None,
            taken: Arc::default(),
        }
    }

    /// How its requests are shared out, where they are.
    pub(crate) fn split(&self) -> Option<&Split> {
        self.policy.as_ref()?.split.as_ref()
    }
}

/// What a route asks of its clients, built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) limits: Vec<Arc<Limit>>,
    pub(crate) compression: Option<Arc<Compression>>,
    pub(crate) pages: Option<Pages>,
    pub(crate) taken: Arc<Taken>,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is carried to the upstream of this name.
    Upstream(Arc<str>),
    /// It is answered here.
    Respond(Respond),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The client is sent a file of the gateway's.
    Files(Arc<Files>),
}

/// The routes of the configuration.
#[derive(Debug, Default)]
pub struct Routes {
    routes: Vec<(Matcher, Arc<Route>)>,
    /// Where there are many; a few are tried faster than looked up.
    index: Option<Index>,
}

/// Routes that are tried one after the other.
const FEW: usize = 8;

impl Routes {
    /// Compiles the routes; the configuration has been checked already.
    pub fn build(configs: &[Config]) -> Self {
        Self::build_with(configs, |_| Rules::default())
    }

    /// The same, where `rules` knows what was built of a route's rules, by the route's place in the list.
    pub(crate) fn build_with(configs: &[Config], rules: impl Fn(usize) -> Rules) -> Self {
        Self::build_indexed(configs, configs.len() > FEW, rules)
    }

    fn build_indexed(configs: &[Config], indexed: bool, rules: impl Fn(usize) -> Rules) -> Self {
        let mut routes = Vec::with_capacity(configs.len());
        for (place, (name, config)) in named(configs).into_iter().enumerate() {
            let action = match (&config.upstream, &config.respond, &config.files) {
                (Some(upstreams), ..) => match upstreams.first() {
                    Some(name) => Action::Upstream(name.into()),
                    None => Action::Respond(status_alone(upstreams)),
                },
                (None, Some(respond), _) => Action::Respond(respond.filled()),
                (None, None, Some(files)) => Action::Files(Arc::new(files.clone())),
                (None, None, None) => Action::Redirect(config.redirect.clone().unwrap_or_default()),
            };
            let upgrades = config.upgrade.0.clone();
            let Rules { access, limits, compression, pages, taken } = rules(place);
            let policy = Policy::build(&name, config, pages).map(Arc::new);
            let route = Route { name: name.into(), action, upgrades, access, limits, compression, policy, taken };
            routes.push((Matcher::build(&config.matches), Arc::new(route)));
        }
        let index = indexed.then(|| {
            let mut index = Index::default();
            for (place, (matcher, _)) in (0..).zip(&routes) {
                index.add(place, matcher);
            }
            index
        });
        Self { routes, index }
    }

    /// All of them, in their order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter().map(|(_, route)| route)
    }

    /// Why each of them does not match, by name; nothing for one that does. `said` is what they were built of.
    pub(crate) fn why_not(&self, said: &[Config], request: &Request<'_>) -> Vec<(String, Vec<String>)> {
        let path = &request.path.canonical;
        let routes = self.routes.iter().zip(said);
        routes
            .map(|((matcher, route), said)| (route.name.to_string(), matcher.why_not(&said.matches, request, path)))
            .collect()
    }

    fn first(&self, request: &Request<'_>, path: &str) -> Option<&Arc<Route>> {
        let found = match &self.index {
            None => self.routes.iter().find(|(matcher, _)| matcher.matches(request, path)),
            Some(index) => {
                let matches = |place: u32| self.routes[place as usize].0.matches(request, path);
                index.first(request.host.as_deref(), path, matches).map(|place| &self.routes[place as usize])
            }
        };
        found.map(|(_, route)| route)
    }
}

/// Routes with the names that they go by: their own, or the upstream's, or their place in the list.
pub fn named(configs: &[Config]) -> Vec<(String, &Config)> {
    let name = |(place, config): (usize, &Config)| {
        let upstream = config.upstream.as_ref().map(Upstreams::first);
        config.name.clone().unwrap_or_else(|| match (upstream, &config.respond, &config.files) {
            (Some(Some(name)), ..) => name.to_owned(),
            (Some(None), ..) | (None, Some(_), _) => format!("respond-{}", place + 1),
            (None, None, Some(_)) => format!("files-{}", place + 1),
            (None, None, None) => format!("redirect-{}", place + 1),
        })
    };
    configs.iter().enumerate().map(|(place, config)| (name((place, config)), config)).collect()
}

/// What is answered where no entry of the list is an upstream; which of them it is, the split says.
fn status_alone(shares: &Upstreams) -> Respond {
    let status = shares.0.iter().find_map(|share| share.respond);
    Respond { status: status.unwrap_or(500), ..Respond::default() }
}

impl Router for Routes {
    fn route(&self, request: &Request<'_>) -> Decision {
        let strict = self.first(request, &request.path.canonical);
        let part = |loose: &String| strict.map(Arc::as_ptr) != self.first(request, loose).map(Arc::as_ptr);
        if request.path.loose.iter().any(part) {
            return Decision::Ambiguous;
        }
        strict.map_or(Decision::Nowhere, |route| Decision::To(Arc::clone(route)))
    }
}

impl Redirect {
    /// The `Location` for a request: what the redirect does not say is kept.
    ///
    /// `authority` is the host as the client sent it, with its port; `target` the path and query as sent, or
    /// rewritten.
    pub fn location(&self, secure: bool, authority: Option<&str>, target: &str) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(if secure { "https" } else { "http" });
        let authority = authority.unwrap_or("");
        let (host, sent_port) = split_port(authority);
        let host = self.host.as_deref().unwrap_or(host);
        let default_port = if scheme == "https" { 443 } else { 80 };
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => sent_port,
        };
        let port =
            port.filter(|&port| port != default_port).map_or(Cow::Borrowed(""), |port| format!(":{port}").into());
        let target = self.path.as_deref().unwrap_or(target);
        if host.is_empty() { target.to_owned() } else { format!("{scheme}://{host}{port}{target}") }
    }
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests;
