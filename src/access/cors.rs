//! What pages of other sites may read (Fetch, "CORS protocol"): said by the gateway, in place of its servers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderName, HeaderValue, StatusCode};

use super::config;
use super::origins::Pattern;
use crate::filter::{FilterAnswer, HeaderEdits};
use crate::http::forwarding::Asked;
use crate::request::Headers;

/// The fields by which a server says so, which its answer keeps none of.
const OF_SERVERS: [HeaderName; 7] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

/// The longest list of header fields that a page may ask for without naming them one by one in the configuration.
const MOST_ASKED: usize = 4096;

/// What pages of other sites may read.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<Pattern>,
    methods: HeaderValue,
    /// `None`: what is asked for.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

impl Cors {
    /// `origins` is what `access.origins` allows, for where nothing else is said.
    pub(crate) fn new(said: &config::Cors, origins: Option<&config::Origins>) -> Self {
        let list = |names: &[String]| HeaderValue::try_from(names.join(", ")).ok().filter(|_| !names.is_empty());
        let allowed = origins.map(|origins| &origins.allow);
        let seconds = said.max_age.max(Duration::ZERO).as_secs();
        Self {
            origins: said.origins.as_ref().map(|origins| &origins.0).or(allowed).cloned().unwrap_or_default(),
            methods: list(&said.methods).unwrap_or(HeaderValue::from_static("")),
            headers: list(&said.headers),
            expose: list(&said.expose),
            credentials: said.credentials,
            max_age: HeaderValue::from(seconds),
        }
    }

    /// The answer to a preflight, which [`Self::mark`] makes one. `None` where the page may ask nothing.
    pub(crate) fn preflight(&self, headers: Headers<'_>, asked: Asked<'_>) -> Option<FilterAnswer> {
        self.allowed(headers, asked)?;
        Some(FilterAnswer { status: StatusCode::NO_CONTENT, headers: Vec::new(), body: Bytes::new() })
    }

    /// Marks an answer, whoever gives it, as one that the page may read, or as none.
    pub(crate) fn mark(&self, method: &str, headers: Headers<'_>, asked: Asked<'_>, edits: &mut HeaderEdits) {
        OF_SERVERS.into_iter().for_each(|name| edits.remove(name));
        match self.allowed(headers, asked) {
            Some(origin) => {
                self.fields(origin).for_each(|(name, value)| edits.append(name, value));
                if is_preflight(method, headers) {
                    self.terms(headers, edits);
                }
            }
            None if self.is_for_all() => {}
            // Caches may not keep for one site what they have read for another, or for none.
            None => edits.append(VARY, HeaderValue::from_static("Origin")),
        }
    }

    /// What the answer to a preflight says of requests to come.
    fn terms(&self, headers: Headers<'_>, edits: &mut HeaderEdits) {
        let asked_for = headers.get("access-control-request-headers").filter(|asked| asked.len() <= MOST_ASKED);
        edits.append(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        if let Some(allowed) = self.headers.clone().or_else(|| HeaderValue::from_bytes(asked_for?).ok()) {
            edits.append(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        edits.append(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        let varies = "Access-Control-Request-Method, Access-Control-Request-Headers";
        edits.append(VARY, HeaderValue::from_static(varies));
    }

    /// What a page of this origin is told with every answer.
    fn fields(&self, origin: HeaderValue) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let varies = (!self.is_for_all()).then(|| (VARY, HeaderValue::from_static("Origin")));
        let credentials =
            self.credentials.then(|| (ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        let expose = self.expose.clone().map(|expose| (ACCESS_CONTROL_EXPOSE_HEADERS, expose));
        [Some((ACCESS_CONTROL_ALLOW_ORIGIN, origin)), credentials, expose, varies].into_iter().flatten()
    }

    /// The value for the page that asks, if it may read.
    fn allowed(&self, headers: Headers<'_>, asked: Asked<'_>) -> Option<HeaderValue> {
        let mut told = headers.all("origin");
        let (origin, None) = (told.next()?, told.next()) else { return None };
        if self.is_for_all() {
            return Some(HeaderValue::from_static("*"));
        }
        let may = self.origins.iter().any(|pattern| pattern.matches(origin, asked));
        HeaderValue::from_bytes(origin).ok().filter(|_| may)
    }

    fn is_for_all(&self) -> bool {
        self.origins.contains(&Pattern::Any)
    }
}

/// Whether a browser asks whether a page may ask.
pub(crate) fn is_preflight(method: &str, headers: Headers<'_>) -> bool {
    let says = |name: &str| headers.get(name).is_some();
    method == "OPTIONS" && says("origin") && says("access-control-request-method")
}
