//! What the admin address answers: one table of paths and methods, and what follows from it — where a request goes, the
//! answers 404 and 405, and the description of the API.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use ::http::StatusCode;
use futures::FutureExt;
use futures::future::BoxFuture;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::config::InForce;
use super::explain::ExplainAsked;
use super::servers::{DrainAsked, DrainTold, WeightAsked};
use super::sessions::{LetGo, SessionPage, SessionTold};
use super::shape::{Schemas, Shape, told};
use super::state::{Certificate, ClientTold, ErrorTold, ListenerTold, Overview, RouteTold, State};
use super::status::{Server, UpstreamStatus};
use super::{Admin, config, dashboard, drain, explain, log, openapi, readiness, reload, servers, sessions, state};
use crate::reload::Plan;

/// A path that is answered; HEAD is where GET is.
pub(super) struct Endpoint {
    /// Parts in braces stand for one segment each.
    pub(super) path: &'static str,
    /// Whom it serves.
    pub(super) purpose: Purpose,
    pub(super) operations: &'static [Operation],
}

/// What one method does there.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// What it does, in a few words.
    pub(super) about: &'static str,
    /// Parameters of the query, each with what it means.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// The body that it takes, where it takes one.
    pub(super) takes: Option<Described>,
    /// What it answers where all is well.
    pub(super) gives: Gives,
    pub(super) handler: Handler,
}

/// Tells the schema of a type.
pub(super) type Described = fn(&mut Schemas) -> Value;

/// What is answered where all is well.
#[derive(Clone, Copy)]
pub(super) enum Gives {
    /// A value of this schema.
    Json(Described),
    /// Text of this type.
    Text(&'static str),
    /// Events, each with a value of this schema.
    Events(Described),
}
use Gives::{Events, Json, Text};

/// What an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Balancers and orchestrators ask how the gateway is, by any name that they have for it.
    Probe,
    /// The dashboard's own files, which tell nothing of this gateway.
    Page,
    /// Operators and their tools look at it, or change it.
    Operation,
}
use Purpose::{Page, Probe};

/// Who answers.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    AtOnce(fn(&Arc<Admin>, &Request) -> Answer),
    Waiting(fn(Arc<Admin>, Request) -> BoxFuture<'static, Answer>),
    /// The state is sent whenever it is looked at, until the client goes.
    Feed,
}
use Handler::{AtOnce, Feed, Waiting};

const NONE: &[(&str, &str)] = &[];
const OF_UPSTREAM: &[(&str, &str)] = &[("upstream", "Only of this upstream.")];
const OF_SESSIONS: &[(&str, &str)] = &[
    ("upstream", "Only of this upstream."),
    ("server", "Only those on the server of this name."),
    (
        "address",
        "Only those whose client has this address, or is in this network: connected ones alone are known by it.",
    ),
    ("transport", "`polling` or `websocket`."),
    ("older_than", "A time with its unit, such as `5m`."),
    ("younger_than", "The same."),
    ("limit", "Most of them on one page, 1 to 1000; 100 by default."),
    ("cursor", "`next` of the page before."),
];
const OF_DRAIN: &[(&str, &str)] = &[
    ("upstream", "Its upstream."),
    ("server", "Its name."),
    ("rate", "With POST: goodbyes in a second."),
    ("jitter", "With POST: the share by which each pause is varied."),
    ("deadline", "With POST: whoever is left then goes at once."),
    ("goodbye", "With POST: `false` for none at all."),
];

const fn get(about: &'static str, gives: Gives, handler: Handler) -> Operation {
    Operation { method: "GET", about, query: NONE, takes: None, gives, handler }
}

const fn post(about: &'static str, gives: Gives, handler: Handler) -> Operation {
    Operation { method: "POST", ..get(about, gives, handler) }
}

const fn put(about: &'static str, takes: Described, gives: Gives, handler: Handler) -> Operation {
    Operation { method: "PUT", takes: Some(takes), ..get(about, gives, handler) }
}

const fn delete(about: &'static str, gives: Gives, handler: Handler) -> Operation {
    Operation { method: "DELETE", ..get(about, gives, handler) }
}

impl Operation {
    const fn with_query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    const fn taking(self, takes: Described) -> Self {
        Self { takes: Some(takes), ..self }
    }
}

const fn api(path: &'static str, operations: &'static [Operation]) -> Endpoint {
    Endpoint { path, purpose: Purpose::Operation, operations }
}

const fn probe(path: &'static str, operations: &'static [Operation]) -> Endpoint {
    Endpoint { path, purpose: Probe, operations }
}

const fn page(path: &'static str, operations: &'static [Operation]) -> Endpoint {
    Endpoint { path, purpose: Page, operations }
}

const PLAIN: Gives = Text("text/plain");
const ANY_JSON: Gives = Json(|_| serde_json::json!({ "type": "object" }));
/// A server by its upstream and its name.
const SERVER: &str = "/api/v1/servers/{upstream}/{server}";

/// Everything that is answered. The order is that of the 404 text and of the description.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    page("/", &[get("The dashboard.", Text("text/html"), AtOnce(|_, _| dashboard::page()))]),
    page("/dashboard.css", &[get("How the dashboard looks.", Text("text/css"), AtOnce(|_, _| dashboard::style()))]),
    page("/dashboard.js", &[get("What the dashboard does.", Text("text/javascript"), AtOnce(|_, _| dashboard::script()))]),
    probe("/livez", &[get("Whether the gateway lives.", PLAIN, AtOnce(|_, _| Answer::text("alive\n")))]),
    probe("/readyz", &[get("Whether it is ready for clients: 200 or 503.", PLAIN, AtOnce(|admin, _| readiness::answer(admin)))]),
    api("/metrics", &[get("What is counted, for Prometheus.", PLAIN, AtOnce(|admin, _| metrics(admin)))]),
    api("/status", &[get("The most important of it, for people.", ANY_JSON, AtOnce(|admin, _| state::old_status(admin)))]),
    api("/drain", &[
        get("How far the drain of a server has come.", ANY_JSON, AtOnce(drain::answer)).with_query(OF_DRAIN),
        post("Drains a server.", ANY_JSON, AtOnce(drain::answer)).with_query(OF_DRAIN),
        delete("Takes a server back.", ANY_JSON, AtOnce(drain::answer)).with_query(OF_DRAIN),
    ]),
    api("/reload", &[post("Loads the configuration anew.", Json(Plan::shape), Waiting(|admin, _| reload::reload(admin, "POST /reload").boxed()))]),
    api("/plan", &[
        post("What another configuration would change.", Json(Plan::shape), Waiting(|admin, request| reload::plan(admin, request.body).boxed()))
            .taking(|_| serde_json::json!({ "type": "object", "description": "A configuration, as `sockgate check --against` sends it." })),
    ]),
    api("/api/v1/openapi.json", &[get("This description.", ANY_JSON, AtOnce(|_, _| openapi::answer()))]),
    api("/api/v1/status", &[get("The gateway at a glance.", Json(Overview::shape), AtOnce(|admin, _| Answer::json(&state::overview(admin))))]),
    api("/api/v1/config", &[get("The configuration in force, and what operators have said otherwise since.", Json(InForce::shape), AtOnce(|admin, _| config::answer(admin)))]),
    api("/api/v1/listeners", &[get("The listeners, and what comes in by them.", Json(Vec::<ListenerTold>::shape), AtOnce(|admin, _| Answer::json(&state::listeners(admin))))]),
    api("/api/v1/routes", &[get("The routes, in their order.", Json(Vec::<RouteTold>::shape), AtOnce(|admin, _| Answer::json(&state::routes(admin))))]),
    api("/api/v1/upstreams", &[get("The upstreams with their servers.", Json(Vec::<UpstreamStatus>::shape), AtOnce(|admin, _| Answer::json(&state::upstreams(admin))))]),
    api("/api/v1/upstreams/{upstream}", &[get("One of them.", Json(UpstreamStatus::shape), AtOnce(state::upstream))]),
    api("/api/v1/servers", &[get("The servers of all upstreams.", Json(Vec::<Server>::shape), AtOnce(servers::all)).with_query(OF_UPSTREAM)]),
    api(SERVER, &[get("One of them.", Json(Server::shape), AtOnce(servers::one))]),
    api("/api/v1/servers/{upstream}/{server}/drain", &[
        get("How far its drain has come, or what one would do.", Json(DrainTold::shape), AtOnce(servers::drain_told)),
        post("Drains it: no new sessions, and goodbyes at a pace.", Json(DrainTold::shape), AtOnce(servers::drain)).taking(DrainAsked::shape),
        delete("Takes it back.", Json(DrainTold::shape), AtOnce(servers::undrain)),
    ]),
    api("/api/v1/servers/{upstream}/{server}/disable", &[post("Takes it out of new work; nobody is told goodbye.", Json(Server::shape), AtOnce(servers::disable))]),
    api("/api/v1/servers/{upstream}/{server}/enable", &[post("Takes it back, whoever took it out.", Json(Server::shape), AtOnce(servers::enable))]),
    api("/api/v1/servers/{upstream}/{server}/weight", &[put("Gives it another weight, until the file says otherwise; null gives it the file's.", WeightAsked::shape, Json(Server::shape), Waiting(|admin, request| servers::weight(admin, request).boxed()))]),
    api("/api/v1/sessions", &[get("The sessions, in pages.", Json(SessionPage::shape), Waiting(|admin, request| sessions::page(admin, request).boxed())).with_query(OF_SESSIONS)]),
    api("/api/v1/sessions/{session}", &[
        get("One session, by its id or by the name that lists and logs have for it.", Json(SessionTold::shape), Waiting(|admin, request| sessions::one(admin, request).boxed())).with_query(OF_UPSTREAM),
        delete("Ends it politely: its client opens another one.", Json(LetGo::shape), Waiting(|admin, request| sessions::end(admin, request).boxed())).with_query(OF_UPSTREAM),
    ]),
    api("/api/v1/reload", &[
        get("How the last one went, and what it changed.", Json(state::ReloadTold::shape), AtOnce(|admin, _| Answer::json(&state::reloaded(admin)))),
        post("Loads the configuration anew.", Json(Plan::shape), Waiting(|admin, _| reload::reload(admin, "POST /api/v1/reload").boxed())),
    ]),
    api("/api/v1/reload/plan", &[get("What that would change now.", Json(Plan::shape), Waiting(|admin, _| reload::plan_of_file(admin).boxed()))]),
    api("/api/v1/explain", &[post("What would become of a request, as servers and sessions are now; nothing is sent.", ANY_JSON, AtOnce(explain::answer)).taking(ExplainAsked::shape)]),
    api("/api/v1/log", &[
        get("What the log for operators tells.", Json(log::LogTold::shape), AtOnce(|_, _| log::answer())),
        put("Has it tell something else until the next start.", log::LogAsked::shape, Json(log::LogTold::shape), AtOnce(|_, request| log::set(request))),
    ]),
    api("/api/v1/certificates", &[get("Certificates by their files, and when they end.", Json(Vec::<Certificate>::shape), AtOnce(|admin, _| Answer::json(&state::certificates(admin))))]),
    api("/api/v1/clients", &[get("The client addresses with the most sessions, by upstream.", Json(Vec::<ClientTold>::shape), AtOnce(|admin, _| Answer::json(&state::clients(admin))))]),
    api("/api/v1/errors", &[get("What went wrong since the start, by cause, the most frequent first.", Json(Vec::<ErrorTold>::shape), AtOnce(|admin, _| Answer::json(&state::errors(admin))))]),
    api("/api/v1/events", &[get("All of it once a second, as server-sent events called `state`.", Events(State::shape), Feed)]),
];

/// What is asked of an endpoint.
#[derive(Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) query: String,
    pub(super) body: Vec<u8>,
    /// What stands for the parts in braces, in their order.
    pub(super) parts: Vec<String>,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    /// Other fields.
    pub(super) fields: Vec<(&'static str, Cow<'static, str>)>,
    pub(super) body: Vec<u8>,
}

told! {
    /// Why something can't be done.
    Fault {
        /// Why not, in a sentence.
        error: String,
        /// What would do, where that is known.
        hint: Option<String>,
    }
}

/// An endpoint that was found, and what stands for its parts.
pub(super) struct Found {
    pub(super) operation: &'static Operation,
    pub(super) purpose: Purpose,
    pub(super) parts: Vec<String>,
}

impl Endpoint {
    /// The one behind a path, if it takes the method; else the answer that says what there is.
    pub(super) fn find(method: &str, path: &str) -> Result<Found, Answer> {
        let found = ENDPOINTS.iter().find_map(|endpoint| Some((endpoint, endpoint.parts(path)?)));
        let (endpoint, parts) = found.ok_or_else(|| {
            let paths: Vec<_> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
            Answer::text(format!("here are {}\n", list(&paths))).with_status(StatusCode::NOT_FOUND)
        })?;
        let asked = if method == "HEAD" { "GET" } else { method };
        if let Some(operation) = endpoint.operations.iter().find(|operation| operation.method == asked) {
            return Ok(Found { operation, purpose: endpoint.purpose, parts });
        }
        let allowed = endpoint.allowed();
        let verb = if allowed.len() == 1 { "is" } else { "are" };
        let told = Answer::text(format!("only {} {verb} answered here\n", list(&allowed)));
        Err(told.with_status(StatusCode::METHOD_NOT_ALLOWED).with("allow", allowed.join(", ")))
    }

    /// What lives at a path, by whatever method it is asked.
    pub(super) fn purpose(path: &str) -> Purpose {
        let found = ENDPOINTS.iter().find(|endpoint| endpoint.parts(path).is_some());
        found.map_or(Purpose::Operation, |endpoint| endpoint.purpose)
    }

    /// What stands for the parts in braces; `None` where the path is another one.
    fn parts(&self, path: &str) -> Option<Vec<String>> {
        if !self.path.contains('{') {
            return (self.path == path).then(Vec::new);
        }
        let (mut said, mut asked, mut parts) = (self.path.split('/'), path.split('/'), Vec::new());
        loop {
            match (said.next(), asked.next()) {
                (None, None) => return Some(parts),
                (Some(part), Some(segment)) if part.starts_with('{') && !segment.is_empty() => {
                    parts.push(percent_decode_str(segment).decode_utf8_lossy().into_owned());
                }
                (Some(part), Some(segment)) if part == segment => {}
                _ => return None,
            }
        }
    }

    fn allowed(&self) -> Vec<&'static str> {
        let methods = self.operations.iter().map(|operation| operation.method);
        methods.flat_map(|method| if method == "GET" { vec!["GET", "HEAD"] } else { vec![method] }).collect()
    }
}

impl Request {
    /// The query, taken apart; tools that build one write `%3A` for the colon in the name of a server.
    pub(super) fn said(&self) -> HashMap<&str, Cow<'_, str>> {
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key, decoded(value))).collect()
    }

    /// The body; one that is empty says nothing.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(super) fn json<T: DeserializeOwned + Default>(&self) -> Result<T, Answer> {
        if self.body.is_empty() {
            return Ok(T::default());
        }
        serde_json::from_slice(&self.body).map_err(|fault| {
            let why = format!("the body: {fault}");
            Answer::fault(StatusCode::BAD_REQUEST, why)
                .hint("send JSON as GET /api/v1/openapi.json describes it, or no body at all")
        })
    }
}

impl Answer {
    pub(super) fn of(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: StatusCode::OK, content_type, fields: Vec::new(), body: body.into() }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::of("text/plain; charset=utf-8", text.into())
    }

    pub(super) fn json(value: &impl Serialize) -> Self {
        // What is told here has text for its keys, and so can be written.
        Self::of("application/json", serde_json::to_vec_pretty(value).unwrap_or_default())
    }

    /// Why not.
    pub(super) fn fault(status: StatusCode, fault: impl Into<String>) -> Self {
        Self::json(&Fault { error: fault.into(), hint: None }).with_status(status)
    }

    /// Adds to a fault what would do.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Ok(Value::Object(mut fault)) = serde_json::from_slice(&self.body) {
            fault.insert("hint".to_owned(), hint.into().into());
            self.body = serde_json::to_vec_pretty(&fault).unwrap_or_default();
        }
        self
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

fn metrics(admin: &Admin) -> Answer {
    Answer::of("text/plain; version=0.0.4; charset=utf-8", admin.core.metrics.render())
}

/// As a sentence lists them.
pub(super) fn list(items: &[&str]) -> String {
    match items {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => items.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_is_told_what_is() {
        let refused = |method, path| {
            let answer = Endpoint::find(method, path).err().unwrap();
            let allow = answer.fields.iter().find(|(name, _)| *name == "allow").map(|(_, value)| value.to_string());
            (answer.status.as_u16(), allow, String::from_utf8(answer.body).unwrap())
        };
        let (status, allow, told) = refused("GET", "/nothing");
        assert_eq!((status, allow), (404, None));
        for endpoint in ENDPOINTS {
            assert!(told.contains(endpoint.path), "{told}");
        }
        for (method, path, allow, told) in [
            ("POST", "/livez", "GET, HEAD", "only GET and HEAD are answered here\n"),
            ("PUT", "/drain", "GET, HEAD, POST, DELETE", "only GET, HEAD, POST and DELETE are answered here\n"),
            ("GET", "/plan", "POST", "only POST is answered here\n"),
            ("GET", "/api/v1/servers/a/b/weight", "PUT", "only PUT is answered here\n"),
        ] {
            assert_eq!(refused(method, path), (405, Some(allow.to_owned()), told.to_owned()), "{method} {path}");
        }
        for path in ["/api/v1/servers/a", "/api/v1/servers/a/b/", "/api/v1/servers//b", "/api/v1/upstreams/a/b"] {
            assert_eq!(refused("GET", path).0, 404, "{path}");
        }
    }

    #[test]
    fn parts_of_a_path_are_read_whatever_they_hold() {
        let found = Endpoint::find("GET", "/api/v1/servers/web/unix%3A%2Frun%2Fa.sock/drain").ok().unwrap();
        assert_eq!(found.parts, ["web", "unix:/run/a.sock"]);
        assert_eq!(
            Endpoint::find("HEAD", "/api/v1/servers/web/10.0.0.1:80").ok().unwrap().parts,
            ["web", "10.0.0.1:80"]
        );
    }

    #[test]
    fn each_endpoint_takes_its_methods_and_head_where_it_takes_get() {
        for endpoint in ENDPOINTS {
            let path = endpoint.path.replace(['{', '}'], "");
            for operation in endpoint.operations {
                assert!(Endpoint::find(operation.method, &path).is_ok(), "{} {path}", operation.method);
            }
            let gets = endpoint.operations.iter().any(|operation| operation.method == "GET");
            assert_eq!(Endpoint::find("HEAD", &path).is_ok(), gets);
        }
    }
}
