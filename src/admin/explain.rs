//! What would become of a request: the decisions of this gateway, as its servers and sessions are now.

use std::sync::Arc;

use ::http::StatusCode;
use serde_json::{Value, json};

use super::Admin;
use super::endpoints::{Answer, Request};
use super::shape::taken;
use super::status::Server as ServerTold;
use crate::explain::{self, Question};

taken! {
    /// The request that is asked about.
    ExplainAsked {
        /// A URL, with a method before it unless that is GET: `POST https://app.example.com/login`.
        request: String,
        /// Its header fields, each as `Name: value`.
        headers: Vec<String>,
        /// The address that it comes from; 127.0.0.1 by default.
        from: String,
        /// The listener that it comes to; by default the first that fits scheme and port.
        listener: String,
    }
}

/// Answers with the decisions, and how the servers are, and the peers.
pub(super) fn answer(admin: &Arc<Admin>, request: &Request) -> Answer {
    let asked: ExplainAsked = match request.json() {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let fault = |fault: String| {
        Answer::fault(StatusCode::BAD_REQUEST, fault)
            .hint("for example { \"request\": \"https://app.example.com/\", \"headers\": [\"Cookie: a=b\"], \"from\": \"203.0.113.7\" }")
    };
    let Some(said) = asked.request else { return fault("request: found nothing, expected a URL".to_owned()) };
    let from = asked.from.unwrap_or_else(|| "127.0.0.1".to_owned());
    let Ok(from) = from.parse() else { return fault(format!("from: found `{from}`, expected an IP address")) };
    let question =
        Question { request: said, headers: asked.headers.unwrap_or_default(), from, listener: asked.listener };
    let mut told = match explain::explain(&admin.core, &question, true) {
        Ok(told) => told,
        Err(why) => return fault(why),
    };
    told["servers"] = servers(admin, told["upstream"]["name"].as_str());
    told["peers"] = servers(admin, told["upstream"]["peers"]["upstream"].as_str());
    Answer::json(&told)
}

/// How those of this upstream are.
fn servers(admin: &Admin, upstream: Option<&str>) -> Value {
    let snapshot = admin.core.snapshot.load();
    let upstream = upstream.and_then(|name| snapshot.upstreams.get(name));
    let servers = upstream.into_iter().flat_map(|upstream| {
        upstream.all_servers().into_iter().map(|server| ServerTold::of(&admin.rates, upstream, &server))
    });
    json!(servers.collect::<Vec<_>>())
}
