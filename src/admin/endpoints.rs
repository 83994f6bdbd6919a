//! What the admin address answers: one table of paths, and what follows from it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::http::StatusCode;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::json;

use super::status::Status;
use super::{Admin, drain, reload};
use crate::upstream::{Findings, Upstream};

/// A path that is answered, by these methods; HEAD is where GET is.
pub(super) struct Endpoint {
    path: &'static str,
    methods: &'static [&'static str],
    /// Whom it serves, and with what.
    pub(super) purpose: Purpose,
    handler: Handler,
}

/// What an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Balancers and orchestrators ask how the gateway is, by any name that they have for it.
    Probe,
    /// Operators and their tools look at it, or change it.
    Operation,
    /// The same, and what they ask has a body.
    OperationOnBody,
}
use Purpose::{Operation, OperationOnBody, Probe};

enum Handler {
    AtOnce(fn(&Admin, &Request) -> Answer),
    Waiting(fn(&Admin, Request) -> BoxFuture<'static, Answer>),
}
use Handler::{AtOnce, Waiting};

const ENDPOINTS: [Endpoint; 7] = [
    Endpoint { path: "/livez", methods: &["GET"], purpose: Probe, handler: AtOnce(|_, _| Answer::text("alive\n")) },
    Endpoint { path: "/readyz", methods: &["GET"], purpose: Probe, handler: AtOnce(|admin, _| readiness(admin)) },
    Endpoint { path: "/metrics", methods: &["GET"], purpose: Operation, handler: AtOnce(|admin, _| metrics(admin)) },
    Endpoint { path: "/status", methods: &["GET"], purpose: Operation, handler: AtOnce(|admin, _| status(admin)) },
    Endpoint {
        path: "/drain",
        methods: &["GET", "POST", "DELETE"],
        purpose: Operation,
        handler: AtOnce(|admin, request| drain::answer(&admin.core.snapshot.load(), &request.method, &request.query)),
    },
    Endpoint {
        path: "/reload",
        methods: &["POST"],
        purpose: Operation,
        handler: Waiting(|admin, _| reload::reload(Arc::clone(&admin.reloader)).boxed()),
    },
    Endpoint {
        path: "/plan",
        methods: &["POST"],
        purpose: OperationOnBody,
        handler: Waiting(|admin, request| reload::plan(Arc::clone(&admin.reloader), request.body).boxed()),
    },
];

/// What is asked of an endpoint.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) query: String,
    pub(super) body: Vec<u8>,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    /// The methods that would do (RFC 9110 15.5.6).
    pub(super) allow: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Endpoint {
    /// The one behind a path, if it takes the method; else the answer that says what there is.
    pub(super) fn find(method: &str, path: &str) -> Result<&'static Self, Answer> {
        let found = ENDPOINTS.iter().find(|endpoint| endpoint.path == path).ok_or_else(|| {
            let paths: Vec<_> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
            Answer::text(format!("here are {}\n", list(&paths))).with_status(StatusCode::NOT_FOUND)
        })?;
        let allowed = found.allowed();
        if allowed.contains(&method) {
            return Ok(found);
        }
        let verb = if allowed.len() == 1 { "is" } else { "are" };
        let told = Answer::text(format!("only {} {verb} answered here\n", list(&allowed)));
        Err(Answer { allow: Some(allowed.join(", ")), ..told.with_status(StatusCode::METHOD_NOT_ALLOWED) })
    }

    /// Whether it is a probe that lives at a path, by whatever method it is asked.
    pub(super) fn is_probe(path: &str) -> bool {
        ENDPOINTS.iter().any(|endpoint| endpoint.path == path && endpoint.purpose == Probe)
    }

    pub(super) async fn answer(&self, admin: &Admin, request: Request) -> Answer {
        match self.handler {
            AtOnce(handler) => handler(admin, &request),
            Waiting(handler) => handler(admin, request).await,
        }
    }

    fn allowed(&self) -> Vec<&'static str> {
        self.methods
            .iter()
            .flat_map(|&method| if method == "GET" { vec!["GET", "HEAD"] } else { vec![method] })
            .collect()
    }
}

impl Answer {
    pub(super) fn text(text: impl Into<String>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status: StatusCode::OK, content_type, allow: None, body: text.into().into_bytes() }
    }

    pub(super) fn json(value: &impl Serialize) -> Self {
        // What is told here has text for its keys, and so can be written.
        let body = serde_json::to_vec_pretty(value).unwrap_or_default();
        Self { status: StatusCode::OK, content_type: "application/json", allow: None, body }
    }

    /// Why not.
    pub(super) fn fault(status: StatusCode, fault: impl Into<String>) -> Self {
        Self::json(&json!({ "error": fault.into() })).with_status(status)
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

fn readiness(admin: &Admin) -> Answer {
    let not_ready = |text: String| Answer::text(text).with_status(StatusCode::SERVICE_UNAVAILABLE);
    if !admin.ready.load(Ordering::Acquire) {
        return not_ready("stopping\n".to_owned());
    }
    let snapshot = admin.core.snapshot.load();
    let mut down: Vec<_> = snapshot.upstreams.iter().filter(|(_, upstream)| !upstream.ready()).collect();
    down.sort_by_key(|&(name, _)| name);
    let told: String =
        down.iter().map(|(name, upstream)| format!("upstream {name}: {}\n", why_not(upstream))).collect();
    let needed = down.iter().any(|(_, upstream)| !upstream.config().optional);
    if needed { not_ready(told) } else { Answer::text(format!("ready\n{told}")) }
}

/// Why an upstream is not ready, on one line.
fn why_not(upstream: &Upstream) -> String {
    match upstream.findings().filter(|findings| findings.servers == 0) {
        None => "no server is up".to_owned(),
        Some(Findings { source, inquiries, .. }) => {
            let fault = inquiries.fault.unwrap_or_else(|| "no answer yet".to_owned());
            format!("no server is known by {source}: {}", fault.lines().next().unwrap_or_default())
        }
    }
}

fn metrics(admin: &Admin) -> Answer {
    let body = admin.core.metrics.render();
    Answer { content_type: "text/plain; version=0.0.4; charset=utf-8", body, ..Answer::text("") }
}

fn status(admin: &Admin) -> Answer {
    let (outcome, connections) = (admin.reloader.outcome(), admin.reloader.limits().open());
    Answer::json(&Status::of(&admin.core.snapshot.load(), outcome, connections, admin.started.elapsed()))
}

/// As a sentence lists them.
fn list(items: &[&str]) -> String {
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
            (answer.status.as_u16(), answer.allow, String::from_utf8(answer.body).unwrap())
        };
        let here = "here are /livez, /readyz, /metrics, /status, /drain, /reload and /plan\n";
        assert_eq!(refused("GET", "/"), (404, None, here.to_owned()));
        for (method, path, allow, told) in [
            ("POST", "/livez", "GET, HEAD", "only GET and HEAD are answered here\n"),
            ("PUT", "/drain", "GET, HEAD, POST, DELETE", "only GET, HEAD, POST and DELETE are answered here\n"),
            ("GET", "/reload", "POST", "only POST is answered here\n"),
        ] {
            assert_eq!(refused(method, path), (405, Some(allow.to_owned()), told.to_owned()), "{method} {path}");
        }
    }

    #[test]
    fn each_endpoint_takes_its_methods_and_head_where_it_takes_get() {
        for endpoint in &ENDPOINTS {
            for method in endpoint.methods {
                assert!(Endpoint::find(method, endpoint.path).is_ok(), "{method} {}", endpoint.path);
            }
            assert_eq!(Endpoint::find("HEAD", endpoint.path).is_ok(), endpoint.methods.contains(&"GET"));
        }
    }
}
