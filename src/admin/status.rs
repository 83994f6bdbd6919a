//! The state of upstreams and servers, as JSON for people and as metrics for Prometheus.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::drain;
use crate::reload::Outcome;
use crate::session::{Cause, Home, SessionTable};
use crate::snapshot::{Pool, Snapshot};
use crate::upstream::{Server, State, Upstream};

/// Everything that `/status` tells.
pub(super) fn status(snapshot: &Snapshot, outcome: Outcome, connections: usize, uptime: Duration) -> Value {
    let time = |at| humantime::format_rfc3339_seconds(at).to_string();
    let mut pools: Vec<_> = snapshot.pools.values().collect();
    pools.sort_by(|a, b| a.upstream.name().cmp(b.upstream.name()));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime.as_secs(),
        "connections": connections,
        "configuration": {
            "loaded": time(outcome.loaded),
            "tried": time(outcome.tried),
            "error": outcome.fault,
        },
        "upstreams": pools.iter().map(|pool| upstream_status(pool)).collect::<Vec<_>>(),
    })
}

fn upstream_status(pool: &Pool) -> Value {
    let upstream = &pool.upstream;
    json!({
        "name": &**upstream.name(),
        "ready": upstream.ready(),
        "sessions": upstream.sessions().map(|table| sessions_status(pool, table)),
        "waiting": upstream.waiting(),
        "rebalance": pool.rebalancing().map(|rebalance| json!({
            "shed": rebalance.shed,
            "under_way": rebalance.under_way,
            "waits": rebalance.waits,
        })),
        "servers": upstream.all_servers().iter().map(|server| server_status(pool, server)).collect::<Vec<_>>(),
    })
}

fn sessions_status(pool: &Pool, table: &SessionTable) -> Value {
    let upstream = &pool.upstream;
    let (placed, totals, recent) = (upstream.placements(), table.totals(), table.upgrades());
    let ended: serde_json::Map<_, _> =
        Cause::ALL.iter().map(|&cause| (cause.as_str().to_owned(), totals.ended(cause).into())).collect();
    json!({
        "live": table.live(),
        "learned": totals.learned,
        "rescued": totals.rescued,
        "unknown": totals.unknown,
        "ended": ended,
        "upgrades": {
            "offered": pool.metrics.upgrades_offered.get(),
            "reached": pool.metrics.upgrades_reached.get(),
            "last_minute": { "offered": recent.offered, "reached": recent.reached, "ratio": recent.ratio() },
        },
        "placed": { "by_balance": placed.balance, "returning": placed.returning, "spilled": placed.spilled },
        "waiting_to_open": upstream.line().map(|line| line.waiting),
        "refused_to_open": upstream.line().map(|line| line.refused),
        "largest_client": upstream.largest_client().map(|client| json!({
            "address": client.address.to_string(),
            "share": client.share,
        })),
    })
}

fn server_status(pool: &Pool, server: &Server) -> Value {
    let status = server.status();
    json!({
        "name": &**server.name(),
        "address": server.address().to_string(),
        "state": status.state.as_str(),
        "removed": server.is_removed(),
        "since": humantime::format_rfc3339_seconds(status.since).to_string(),
        "ejected_for_seconds": status.ejected.map(|ejected| ejected.left.as_secs_f64()),
        "ejected_because_of": status.ejected.map(|ejected| ejected.fault.to_string()),
        "ejections": server.ejections(),
        "in_flight": server.in_flight(),
        "sessions": pool.sessions_on(server.id()),
        "sessions_on_websocket": server.home().map(|home| home.websockets()),
        "drain": drain::progress(pool, server),
        "total": server.total(),
        "connect_failures": server.connect_failures(),
        "bad_answers": server.bad_answers(),
        "last_check": status.last_check.map(|check| json!({
            "good": check.good,
            "text": check.text,
            "at": humantime::format_rfc3339_millis(check.at).to_string(),
            "took_seconds": check.took.as_secs_f64(),
        })),
    })
}

/// The gauges that are read when somebody asks, rather than kept.
pub(super) fn write_metrics(snapshot: &Snapshot, text: &mut Vec<u8>) {
    type Read = fn(&Server) -> u64;
    let families: [(&str, &str, &str, Read); 8] = [
        ("server_up", "gauge", "1 when the server is up", |server| u64::from(server.state() == State::Up)),
        ("server_draining", "gauge", "1 when the server drains, or was removed", |server| {
            u64::from(server.is_draining())
        }),
        ("server_in_flight", "gauge", "Requests and tunnels in flight", |server| server.in_flight() as u64),
        ("server_taken_total", "counter", "Requests and tunnels given to the server", Server::total),
        ("server_connect_failures_total", "counter", "Failed connects", Server::connect_failures),
        ("server_bad_answers_total", "counter", "Answers that were bad, late or none", Server::bad_answers),
        ("server_ejected", "gauge", "1 while the server is passed over", |server| {
            u64::from(server.ejected().is_some())
        }),
        ("server_ejections_total", "counter", "How often the server was passed over", Server::ejections),
    ];
    // Writing to memory does not fail.
    for (name, kind, help, read) in families {
        let _ = writeln!(text, "# HELP sockgate_{name} {help}\n# TYPE sockgate_{name} {kind}");
        for pool in snapshot.pools.values() {
            for server in &pool.upstream.all_servers() {
                let (upstream, server_name) = (label(pool.upstream.name()), label(server.name()));
                let _ = writeln!(text, "sockgate_{name}{{upstream={upstream},server={server_name}}} {}", read(server));
            }
        }
    }
    type ReadHome = fn(&Home) -> u64;
    let families: [(&str, &str, &str, ReadHome); 3] = [
        ("sessions", "gauge", "Sessions that live on the server", |home| home.live() as u64),
        ("sessions_opened_total", "counter", "Sessions that were learned on the server", Home::opened),
        ("sessions_closed_total", "counter", "Sessions that ended, fell silent or moved away", Home::closed),
    ];
    for (name, kind, help, read) in families {
        let _ = writeln!(text, "# HELP sockgate_{name} {help}\n# TYPE sockgate_{name} {kind}");
        for pool in snapshot.pools.values() {
            let Some(table) = pool.sessions() else { continue };
            for server in &pool.upstream.all_servers() {
                let (upstream, server_name) = (label(pool.upstream.name()), label(server.name()));
                let count = read(&table.home(server.id().to_bits()));
                let _ = writeln!(text, "sockgate_{name}{{upstream={upstream},server={server_name}}} {count}");
            }
        }
    }
    write_sessions(snapshot, text);
    write_placing(snapshot, text);
    let _ = writeln!(text, "# HELP sockgate_queue_waiting Requests that wait for a server");
    let _ = writeln!(text, "# TYPE sockgate_queue_waiting gauge");
    for pool in snapshot.pools.values() {
        let (upstream, waiting) = (label(pool.upstream.name()), pool.upstream.waiting());
        let _ = writeln!(text, "sockgate_queue_waiting{{upstream={upstream}}} {waiting}");
    }
}

/// What becomes of sessions.
fn write_sessions(snapshot: &Snapshot, text: &mut Vec<u8>) {
    let pools = || snapshot.pools.values().filter_map(|pool| Some((pool, pool.sessions()?)));
    let _ = writeln!(text, "# HELP sockgate_sessions_by_transport Sessions that live on the server, by how they speak");
    let _ = writeln!(text, "# TYPE sockgate_sessions_by_transport gauge");
    for (pool, table) in pools() {
        for server in pool.upstream.servers().iter() {
            let (upstream, server_name) = (label(pool.upstream.name()), label(server.name()));
            let home = table.home(server.id().to_bits());
            let websockets = home.websockets();
            for (transport, count) in [("polling", home.live().saturating_sub(websockets)), ("websocket", websockets)] {
                let _ = writeln!(
                    text,
                    "sockgate_sessions_by_transport{{upstream={upstream},server={server_name},transport=\"{transport}\"}} {count}"
                );
            }
        }
    }
    let _ = writeln!(text, "# HELP sockgate_session_events_total What became of sessions and look-ups");
    let _ = writeln!(text, "# TYPE sockgate_session_events_total counter");
    for (pool, table) in pools() {
        let (upstream, totals) = (label(pool.upstream.name()), table.totals());
        for (event, count) in [
            ("learned", totals.learned),
            ("rescued", totals.rescued),
            ("moved", totals.moved),
            ("refused", totals.refused),
            ("found", totals.found),
            ("unknown", totals.unknown),
        ] {
            let _ = writeln!(text, "sockgate_session_events_total{{upstream={upstream},event=\"{event}\"}} {count}");
        }
    }
    let _ = writeln!(text, "# HELP sockgate_sessions_ended_total Sessions that ended, by why");
    let _ = writeln!(text, "# TYPE sockgate_sessions_ended_total counter");
    for (pool, table) in pools() {
        let (upstream, totals) = (label(pool.upstream.name()), table.totals());
        for cause in Cause::ALL {
            let (word, count) = (cause.as_str(), totals.ended(cause));
            let _ = writeln!(text, "sockgate_sessions_ended_total{{upstream={upstream},cause=\"{word}\"}} {count}");
        }
    }
    let _ = writeln!(
        text,
        "# HELP sockgate_upgrades_recent Sessions offered a WebSocket in the last minute, and their fate"
    );
    let _ = writeln!(text, "# TYPE sockgate_upgrades_recent gauge");
    for (pool, table) in pools() {
        let (upstream, recent) = (label(pool.upstream.name()), table.upgrades());
        for (state, count) in [("offered", recent.offered), ("reached", recent.reached)] {
            let _ = writeln!(text, "sockgate_upgrades_recent{{upstream={upstream},state=\"{state}\"}} {count}");
        }
    }
    let _ =
        writeln!(text, "# HELP sockgate_upgrade_ratio The part of them that reached it; absent while there are none");
    let _ = writeln!(text, "# TYPE sockgate_upgrade_ratio gauge");
    for (pool, table) in pools() {
        if let Some(ratio) = table.upgrades().ratio() {
            let _ = writeln!(text, "sockgate_upgrade_ratio{{upstream={}}} {ratio}", label(pool.upstream.name()));
        }
    }
    let _ = writeln!(text, "# HELP sockgate_rebalancing 1 while sessions are shed from servers that have too many");
    let _ = writeln!(text, "# TYPE sockgate_rebalancing gauge");
    for pool in snapshot.pools.values() {
        if let Some(rebalance) = pool.rebalancing() {
            let (upstream, under_way) = (label(pool.upstream.name()), u8::from(rebalance.under_way));
            let _ = writeln!(text, "sockgate_rebalancing{{upstream={upstream}}} {under_way}");
        }
    }
}

/// How new sessions come to their servers.
fn write_placing(snapshot: &Snapshot, text: &mut Vec<u8>) {
    let upstreams =
        || snapshot.pools.values().map(|pool| &pool.upstream).filter(|upstream| upstream.sessions().is_some());
    let _ = writeln!(text, "# HELP sockgate_sessions_placed_total New sessions, by what chose their server");
    let _ = writeln!(text, "# TYPE sockgate_sessions_placed_total counter");
    for upstream in upstreams() {
        let (name, placed) = (label(upstream.name()), upstream.placements());
        for (by, count) in [("balance", placed.balance), ("returning", placed.returning), ("spilled", placed.spilled)] {
            let _ = writeln!(text, "sockgate_sessions_placed_total{{upstream={name},by=\"{by}\"}} {count}");
        }
    }
    type Read = fn(&Upstream) -> Option<f64>;
    let families: [(&str, &str, &str, Read); 3] = [
        (
            "largest_client_share",
            "gauge",
            "The part of the latest sessions that come from one client address",
            |upstream| upstream.largest_client().map(|client| client.share),
        ),
        ("new_sessions_waiting", "gauge", "Handshakes that wait for their turn", |upstream| {
            upstream.line().map(|line| line.waiting as f64)
        }),
        ("new_sessions_refused_total", "counter", "Handshakes that could not wait for their turn", |upstream| {
            upstream.line().map(|line| line.refused as f64)
        }),
    ];
    for (name, kind, help, read) in families {
        let _ = writeln!(text, "# HELP sockgate_{name} {help}\n# TYPE sockgate_{name} {kind}");
        for upstream in upstreams() {
            if let Some(value) = read(upstream) {
                let _ = writeln!(text, "sockgate_{name}{{upstream={}}} {value}", label(upstream.name()));
            }
        }
    }
}

/// A label's value with its quotes, escaped as the text format wants it.
fn label(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::SystemTime;

    use futures::FutureExt;

    use super::*;
    use crate::config::Config;
    use crate::metrics::Metrics;
    use crate::session::{How, Mark};
    use crate::snapshot::Brought;
    use crate::upstream::{PickKey, Tried};

    const YAML: &str = r#"
listeners: [{ address: "127.0.0.1:0" }]
routes: [{ upstream: sockets }]
upstreams:
  sockets:
    kind: socket.io
    servers: [{ address: "127.0.0.1:1", name: a }]
    health: { check: none }
    new_sessions: { rate: 1, burst: 1, max_pending: 0 }
  web: { servers: ["127.0.0.1:2"] }
"#;

    #[test]
    fn how_new_sessions_come_to_their_servers_is_told() {
        let config = Config::read("test", YAML, &|_| None).unwrap().config;
        let snapshot = Snapshot::build(config, &Brought::default(), &Metrics::new().unwrap(), |_| None).unwrap();
        let upstream = &snapshot.pools["sockets"].upstream;
        let client = PickKey::from(std::net::IpAddr::from([192, 0, 2, 7]));
        let pick = || upstream.pick_new(&client, None, &mut Tried::default()).now_or_never().unwrap();
        let lease = pick().unwrap();
        let table = upstream.sessions().unwrap();
        table.learn(table.key("x"), lease.server().home().unwrap(), Duration::from_secs(45), How::Handshake);
        lease.learned(&client);
        table.mark(table.key("x"), Mark::Upgraded);
        assert!(pick().is_err());

        let mut text = Vec::new();
        write_metrics(&snapshot, &mut text);
        let text = String::from_utf8(text).unwrap();
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

        let outcome = Outcome { loaded: SystemTime::UNIX_EPOCH, tried: SystemTime::UNIX_EPOCH, fault: None };
        let status = status(&snapshot, outcome, 0, Duration::ZERO);
        let sessions = &status["upstreams"][0]["sessions"];
        assert_eq!((&sessions["live"], &sessions["refused_to_open"]), (&json!(1), &json!(1)));
        assert_eq!(sessions["largest_client"], json!({ "address": "192.0.2.7", "share": 1.0 }));
        assert_eq!(status["upstreams"][1]["sessions"], Value::Null);
    }

    /// The rows of the tables of docs/metrics.md: name, type, labels.
    fn documented() -> BTreeMap<String, (String, Vec<String>)> {
        let doc = include_str!("../../docs/metrics.md");
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
        let metrics = Metrics::new().unwrap();
        let config = Config::read("test", YAML, &|_| None).unwrap().config;
        let snapshot = Snapshot::build(config, &Brought::default(), &metrics, |_| None).unwrap();
        // What has happened is rendered, labels and all.
        let listener = metrics.listener("web");
        listener.refused("process");
        listener.detected("http/1.1");
        metrics.refused("no_route");
        metrics.not_loaded();
        let pool = &snapshot.pools["sockets"];
        pool.metrics.engine_io_error(1);
        pool.metrics.closed("client");
        pool.metrics.goodbye("drain");
        pool.metrics.fell_back("balance");
        let table = pool.sessions().unwrap();
        let mut text = metrics.render();
        write_metrics(&snapshot, &mut text);
        let text = String::from_utf8(text).unwrap();
        let documented = documented();
        let mut found: BTreeSet<&str> = metrics.names().iter().map(String::as_str).collect();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                found.insert(name);
                assert_eq!(
                    documented.get(name).map(|(kind, _)| kind.as_str()),
                    Some(kind),
                    "{name} in docs/metrics.md"
                );
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
        let rules = include_str!("../../conf/prometheus/alerts.yaml");
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
}
