//! `sockgate explain`: what would become of a request, by a file alone or as a running gateway is.

use std::fmt::Write;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::ask::{At, run};
use super::operate::print;
use crate::access_log::{AccessLog, Format};
use crate::config::Config;
use crate::exchange::Core;
use crate::explain::{self, Question};
use crate::metrics::Metrics;
use crate::snapshot::{Extensions, Known, Snapshot};
use crate::trace::Traces;

/// What is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Asked {
    /// The request: a URL, with a method before it unless that is GET: 'POST https://app.example.com/login'.
    request: String,
    /// A header field of it; Host is that of the URL.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The address that it comes from.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    from: IpAddr,
    /// The listener that it comes to; by default the first that fits scheme and port.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    #[command(flatten)]
    at: At,
}

pub(super) fn explain(asked: &Asked) -> ExitCode {
    let Asked { request, headers, from, listener, at } = asked.clone();
    let question = Question { request, headers, from, listener };
    let told = match at.file_alone() {
        Some(file) => match super::load(file) {
            Ok(loaded) => run(async { by_file(loaded.config, &question) }),
            Err(code) => return code,
        },
        None => run(by_gateway(&at, &question)),
    };
    match told.map_err(|error| error.to_string()).and_then(|told| told) {
        Ok(told) if at.json => print(serde_json::to_string_pretty(&told).unwrap_or_default() + "\n"),
        Ok(told) => print(in_words(&told)),
        Err(fault) => {
            eprintln!("{fault}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// As a gateway would decide that has this configuration and nothing behind it.
fn by_file(mut config: Config, question: &Question) -> Result<Value, String> {
    config.access_log.format = Format::Off;
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let (access_log, _) =
        AccessLog::open(&config.access_log, Arc::clone(&metrics)).map_err(|error| error.to_string())?;
    let built = Snapshot::build(config, &Extensions::default(), &metrics, |_| None, &Known::default());
    let traces = Traces::off(Arc::clone(&metrics));
    let core = Core::new(built.map_err(|error| error.to_string())?, metrics, access_log, traces);
    explain::explain(&core, question, false)
}

/// As the gateway at the admin address decides.
async fn by_gateway(at: &At, question: &Question) -> Result<Value, String> {
    let Question { request, headers, from, listener } = question;
    let body = json!({ "request": request, "headers": headers, "from": from, "listener": listener });
    at.door()?.told("POST", "/api/v1/explain", Some(&body)).await
}

/// The same for people.
fn in_words(told: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let list = |value: &Value| {
        value.as_array().map_or_else(String::new, |all| all.iter().map(text).collect::<Vec<_>>().join(", "))
    };
    let mut out = String::new();
    let listener = &told["listener"];
    let tls = if listener["tls"] == true { ", TLS" } else { "" };
    let _ = writeln!(out, "listener  {} ({}{tls})", text(&listener["name"]), text(&listener["address"]));
    let _ = writeln!(out, "client    {}", text(&told["client"]));
    if let Some(mark) = told["mark"].as_object() {
        let what = match (&mark["believed"], &mark["asks"]) {
            (Value::Bool(true), Value::Bool(true)) => {
                let _ = writeln!(out, "mark      of a peer, which asks for a session: the gateway itself answers");
                return out;
            }
            (Value::Bool(true), _) => "it goes to own servers or is told that its session is unknown, and on to nobody",
            _ => "it is not believed, and goes no further: whoever sends it is a client",
        };
        let _ = writeln!(out, "mark      of a peer: {what}");
    }
    for passed in told["passed_over"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "not       route {}: {}",
            text(&passed["route"]),
            list(&passed["why"]).replace(", the ", "; the ")
        );
    }
    let route = &told["route"];
    if route.is_null() {
        let _ = writeln!(out, "route     none");
    } else {
        let matches = if route["match"] == json!({}) { "everything".to_owned() } else { route["match"].to_string() };
        let _ =
            writeln!(out, "route     {} (routes[{}]), which matches {matches}", text(&route["name"]), route["place"]);
        for asked in route["asks"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "asks      {}", text(asked));
        }
    }
    if let Some(why) = told["refused"]["why"].as_str() {
        let _ = writeln!(out, "refused   {}: {why}", told["refused"]["status"]);
    }
    if route["split_over"].as_array().is_some_and(|all| all.len() > 1) {
        let whose = if route["split_by"] == "request" { "by chance, one" } else { "this client's side" };
        let _ = writeln!(out, "split     {whose} of {}", list(&route["split_over"]));
    }
    let upstream = &told["upstream"];
    if upstream.is_null() {
        if !route.is_null() && told["refused"].is_null() {
            let status = route["share"].as_u64().map(|status| format!(" with {status}")).unwrap_or_default();
            let _ = writeln!(out, "answer    by the gateway itself ({}{status})", text(&route["action"]));
        }
        return out;
    }
    let _ = writeln!(
        out,
        "upstream  {} ({}), servers {}",
        text(&upstream["name"]),
        text(&upstream["kind"]),
        list(&upstream["servers"])
    );
    for server in told["servers"].as_array().into_iter().flatten() {
        let [name, state] = ["name", "state"].map(|key| text(&server[key]));
        let _ = writeln!(
            out,
            "now       {name} is {state}, {} sessions, {} in flight",
            server["sessions"], server["in_flight"]
        );
    }
    let peers = &upstream["peers"];
    if !peers.is_null() {
        let gateways = match list(&peers["gateways"]) {
            none if none.is_empty() => "none known".to_owned(),
            some => some,
        };
        let _ = writeln!(out, "peers     {}: {gateways}", text(&peers["upstream"]));
    }
    for peer in told["peers"].as_array().into_iter().flatten() {
        let [name, state] = ["name", "state"].map(|key| text(&peer[key]));
        let _ = writeln!(out, "now       {name} is {state}, {} sessions are known to be there", peer["sessions"]);
    }
    if !peers.is_null() {
        let what = match (peers["at"].as_str(), &peers["asked"]) {
            (Some(at), _) => format!("{at} gets it"),
            (None, Value::Bool(true)) => "are asked".to_owned(),
            (None, _) => "none is asked".to_owned(),
        };
        let _ = writeln!(out, "peers     {what}: {}", text(&peers["why"]));
    }
    let session = &upstream["session"];
    let choice = &upstream["choice"];
    let is_live = told["live"] == true;
    let placed = if is_live && choice["server"].is_string() {
        format!("{}: {}", text(&choice["server"]), text(&choice["why"]))
    } else if is_live {
        text(&choice["why"])
    } else if session["named"] == true {
        "the server of its session, which a running gateway knows or asks for".to_owned()
    } else if upstream["cookie"] == true {
        format!("the server that its cookie names, or else by balance {}", text(&upstream["balance"]))
    } else {
        match upstream["by_hash"].as_array().and_then(|all| all.first()) {
            Some(first) => {
                format!("{} by the client's hash, while it is up and has no more than its share", text(first))
            }
            None => format!("by balance {}", text(&upstream["balance"])),
        }
    };
    let _ = writeln!(out, "server    {placed}");
    if !session.is_null() {
        let how = if session["opens"] == true { ", and opens a session" } else { "" };
        let by = session["transport"].as_str().map(|transport| format!("by {transport}")).unwrap_or_default();
        let _ = writeln!(out, "session   {}", format!("{by}{how}").trim_start_matches(", "));
    }
    for (name, time) in told["times"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "time      {name} {}, by {}", text(&time["time"]), text(&time["from"]));
    }
    let request = &told["request"];
    let _ = writeln!(out, "sees      {} {}", text(&request["method"]), text(&request["target"]));
    for field in request["fields"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "          {}: {}", text(&field[0]), text(&field[1]));
    }
    out
}
