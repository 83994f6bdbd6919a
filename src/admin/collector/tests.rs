//! What is told as metrics, and that the docs tell the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Map, Value, json};

use super::*;
use crate::access_log::AccessLog;
use crate::admin::rates::Rates;
use crate::admin::shape::{Schemas, Shape};
use crate::admin::state::State;
use crate::admin::status::UpstreamStatus;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::session::{How, Mark};
use crate::snapshot::Extensions;
use crate::trace::Traces;
use crate::upstream::{PickKey, Tried};

const YAML: &str = r#"
listeners: [{ address: "127.0.0.1:0" }]
routes: [{ name: to, match: { path: /a }, upstream: web }, { name: to, upstream: sockets }]
upstreams:
  sockets:
    kind: socket.io
    servers: [{ address: "127.0.0.1:1", name: a }]
    health: { check: none }
    new_sessions: { rate: 1, burst: 1, max_pending: 0 }
  web: { servers: ["127.0.0.1:2"] }
access_log: { format: off }
"#;

/// What serves a gateway of that configuration, and the state of its servers among its metrics.
fn core() -> Arc<Core> {
    let metrics = Metrics::new().unwrap();
    let config = Config::read("test", YAML, &|_| None).unwrap().config;
    let (access_log, _) = AccessLog::open(&config.access_log, Arc::clone(&metrics)).unwrap();
    let known = Default::default();
    let snapshot = Snapshot::build(config, &Extensions::default(), &metrics, |_| None, &known).unwrap();
    let core = Arc::new(Core::new(snapshot, Arc::clone(&metrics), access_log, Traces::off(metrics)));
    core.metrics
        .register(Box::new(StateCollector::new(&core, Arc::new(true.into()), ConnectionLimits::new(0, 0)).unwrap()))
        .unwrap();
    core
}

#[test]
fn how_new_sessions_come_to_their_servers_is_told() {
    let core = core();
    let snapshot = core.snapshot.load();
    let upstream = &snapshot.upstreams["sockets"];
    let client = PickKey::from(std::net::IpAddr::from([192, 0, 2, 7]));
    let pick = || upstream.pick_new(&client, None, &mut Tried::default()).now_or_never().unwrap();
    let lease = pick().unwrap();
    let table = upstream.sessions().unwrap();
    table.learn(table.key("x"), lease.server().home().unwrap(), Duration::from_secs(45), How::Handshake);
    lease.learned(&client);
    table.mark(table.key("x"), Mark::Upgraded);
    assert!(pick().is_err());

    let text = String::from_utf8(core.metrics.render()).unwrap();
    for line in [
        r#"sockgate_sessions{upstream="sockets",server="a"} 1"#,
        r#"sockgate_sessions_closed_total{upstream="sockets",server="a"} 0"#,
        r#"sockgate_sessions_by_transport{upstream="sockets",server="a",transport="polling"} 0"#,
        r#"sockgate_sessions_by_transport{upstream="sockets",server="a",transport="websocket"} 1"#,
        r#"sockgate_sessions_ended_total{upstream="sockets",cause="client"} 0"#,
        r#"sockgate_upgrades_recent{upstream="sockets",state="offered"} 0"#,
        r#"sockgate_sessions_placed_total{upstream="sockets",by="balance"} 1"#,
        r#"sockgate_sessions_placed_total{upstream="sockets",by="spilled"} 0"#,
        r#"sockgate_largest_client_share{upstream="sockets"} 1"#,
        r#"sockgate_new_sessions_waiting{upstream="sockets"} 0"#,
        r#"sockgate_new_sessions_refused_total{upstream="sockets"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains(r#"sockgate_sessions_placed_total{upstream="web""#));

    let status = json!(UpstreamStatus::of(&Rates::default(), upstream));
    let sessions = &status["sessions"];
    assert_eq!((&sessions["live"], &sessions["refused_to_open"]), (&json!(1), &json!(1)));
    assert_eq!(sessions["largest_client"], json!({ "address": "192.0.2.7", "share": 1.0 }));
    assert_eq!(json!(UpstreamStatus::of(&Rates::default(), &snapshot.upstreams["web"]))["sessions"], Value::Null);
}

#[test]
fn routes_that_share_a_name_are_told_of_once_and_count_together() {
    let core = core();
    let snapshot = core.snapshot.load();
    snapshot.routes.iter().for_each(|route| route.taken.count("127.0.0.1:0"));
    let text = String::from_utf8(core.metrics.render()).unwrap();
    let told: Vec<&str> = text.lines().filter(|line| line.starts_with("sockgate_route_requests_total{")).collect();
    assert_eq!(told, [r#"sockgate_route_requests_total{route="to",listener="127.0.0.1:0"} 2"#]);
}

/// The rows of the tables of docs/metrics.md: name, type, labels.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let doc = include_str!("../../../docs/metrics.md");
    let rows = doc.lines().filter(|line| line.starts_with("| `sockgate_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("four cells in {row}") };
        assert!(!meaning.is_empty(), "{row}");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels))
    })
    .collect()
}

#[test]
fn the_docs_name_every_metric_and_no_other() {
    let core = core();
    let (metrics, snapshot) = (&core.metrics, core.snapshot.load());
    // What has happened is rendered, labels and all.
    let listener = metrics.listener("web");
    listener.refused("process");
    listener.detected("http/1.1");
    metrics.refused("no_route");
    metrics.not_loaded();
    let upstream = &snapshot.upstreams["sockets"];
    upstream.metrics.session_error(1);
    upstream.metrics.closed("client");
    upstream.metrics.goodbye("drain");
    upstream.metrics.fell_back("balance");
    let table = upstream.sessions().unwrap();
    let text = String::from_utf8(metrics.render()).unwrap();
    let documented = documented();
    let names = metrics.names();
    let mut found: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            found.insert(name);
            assert_eq!(documented.get(name).map(|(kind, _)| kind.as_str()), Some(kind), "{name} in docs/metrics.md");
        }
    }
    let named: BTreeSet<&str> = documented.keys().map(String::as_str).collect();
    assert_eq!(found, named, "what is counted, and what docs/metrics.md says");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            name.strip_suffix(end).filter(|name| documented.get(*name).is_some_and(|(kind, _)| kind == "histogram"))
        });
        let (_, said) = &documented[family.unwrap_or(name)];
        let mut labels: Vec<&str> =
            labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name).collect();
        labels.retain(|&label| label != "le");
        labels.sort_unstable();
        let mut said: Vec<&str> = said.iter().map(String::as_str).collect();
        said.sort_unstable();
        assert_eq!(labels, said, "{name}");
    }
    assert!(table.is_empty());
}

#[test]
fn alerts_ask_for_metrics_that_there_are() {
    let rules = include_str!("../../../conf/prometheus/alerts.yaml");
    let documented = documented();
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let asked: BTreeSet<&str> = rules.split(word).filter(|word| word.starts_with("sockgate_")).collect();
    assert!(asked.len() > 5);
    for name in asked {
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(documented.contains_key(name), "{name}");
    }
    let alerts = rules.lines().filter(|line| line.trim_start().starts_with("- alert:")).count();
    assert!(alerts > 5 && alerts == rules.matches("summary:").count());
}

/// The numbers of a described type, each by its path.
fn numbers(all: &Map<String, Value>, shape: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = shape["$ref"].as_str().and_then(|at| at.rsplit('/').next()) {
        return numbers(all, &all[name], path, found);
    }
    let parts = ["anyOf", "oneOf"].iter().filter_map(|key| shape[key].as_array()).flatten();
    parts.for_each(|part| numbers(all, part, path, found));
    let inner = shape.get("items").or(shape.get("additionalProperties").filter(|inner| inner.is_object()));
    inner.iter().for_each(|inner| numbers(all, inner, path, found));
    for (name, field) in shape["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        numbers(all, field, &path, found);
    }
    if shape["type"] == "integer" || shape["type"] == "number" {
        found.insert(path.to_owned());
    }
}

#[test]
fn every_number_of_the_dashboard_is_a_metric_too() {
    let mut schemas = Schemas::default();
    let shape = State::shape(&mut schemas);
    let mut found = BTreeSet::new();
    numbers(&schemas.0, &shape, "", &mut found);
    let documented = documented();
    let mut told = BTreeSet::new();
    for (figures, metrics) in figures() {
        for metric in &metrics {
            assert!(documented.contains_key(*metric), "{metric} of {figures:?}");
        }
        told.extend(figures.into_iter().map(str::to_owned));
    }
    // What is said of a part is said of all that is in it.
    let is_told = |number: &String| {
        told.iter()
            .any(|told| number == told || number.strip_prefix(told.as_str()).is_some_and(|rest| rest.starts_with('.')))
    };
    let untold: Vec<&String> = found.iter().filter(|number| !is_told(number)).collect();
    assert!(untold.is_empty(), "docs/metrics.md does not say which metrics have {untold:?}");
    let gone: Vec<&String> =
        told.iter().filter(|told| !found.iter().any(|number| number.starts_with(told.as_str()))).collect();
    assert!(gone.is_empty(), "docs/metrics.md speaks of {gone:?}, which there is not");
}

/// The rows of the table of the dashboard's figures: those on the left, and the metrics on the right.
fn figures() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    let doc = include_str!("../../../docs/metrics.md");
    let (_, table) = doc.split_once("| figure | in Prometheus |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let (figures, metrics) = row.trim_matches('|').split_once(" | ").unwrap();
        let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2);
        let metrics = quoted(metrics).filter(|word| word.starts_with("sockgate_"));
        (quoted(figures).collect(), metrics.map(|name| name.split('{').next().unwrap()).collect())
    })
    .collect()
}
