//! What upstreams and servers know of themselves, as metrics that are read when somebody asks, rather than kept.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::UNIX_EPOCH;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::exchange::Core;
use crate::session::{Cause, Home, SessionTable};
use crate::snapshot::Snapshot;
use crate::upstream::{Server, State, Upstream};

/// Reads the snapshot in force.
pub(super) struct StateCollector {
    core: Weak<Core>,
    descriptions: Vec<Desc>,
}

impl StateCollector {
    /// Holds nobody alive.
    pub(super) fn new(core: &Arc<Core>) -> Result<Self, prometheus::Error> {
        let describe = |family: &Family| {
            let labels = family.read.labels().iter().map(|&label| label.to_owned()).collect();
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new())
        };
        let mut descriptions = FAMILIES.iter().map(describe).collect::<Result<Vec<_>, _>>()?;
        let file = vec!["file".to_owned()];
        descriptions.push(Desc::new(CERTIFICATES.0.to_owned(), CERTIFICATES.1.to_owned(), file, HashMap::new())?);
        Ok(Self { core: Arc::downgrade(core), descriptions })
    }
}

impl Collector for StateCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.core.upgrade().map(|core| read(&core.snapshot.load())).unwrap_or_default()
    }
}

/// One family: its name without the prefix, its type, what it means, and where its values are.
struct Family {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    read: Read,
}

/// Where values are read, by the labels beside `upstream`.
enum Read {
    /// On each server.
    Server(fn(&Server) -> u64),
    /// From what the session table knows of each server.
    Home(fn(&Home) -> u64),
    /// The same, apart by another label.
    HomeBy(&'static str, fn(&Home) -> Vec<(&'static str, usize)>),
    /// On the upstream.
    Upstream(fn(&Upstream) -> Option<f64>),
    /// On its session table, apart by another label.
    SessionsBy(&'static str, fn(&Upstream, &SessionTable) -> Vec<(&'static str, u64)>),
}

const GAUGE: MetricType = MetricType::GAUGE;
const COUNTER: MetricType = MetricType::COUNTER;

const FAMILIES: [Family; 28] = [
    Family {
        name: "server_up",
        kind: GAUGE,
        help: "1 when the server is up",
        read: Read::Server(|server| u64::from(server.state() == State::Up)),
    },
    Family {
        name: "server_draining",
        kind: GAUGE,
        help: "1 when the server drains, or was removed",
        read: Read::Server(|server| u64::from(server.is_draining())),
    },
    Family {
        name: "server_in_flight",
        kind: GAUGE,
        help: "Requests and tunnels in flight",
        read: Read::Server(|server| server.in_flight() as u64),
    },
    Family {
        name: "server_taken_total",
        kind: COUNTER,
        help: "Requests and tunnels given to the server",
        read: Read::Server(Server::total),
    },
    Family {
        name: "server_connects_total",
        kind: COUNTER,
        help: "Connections opened for requests and tunnels",
        read: Read::Server(Server::connects),
    },
    Family {
        name: "server_connect_failures_total",
        kind: COUNTER,
        help: "Failed connects",
        read: Read::Server(Server::connect_failures),
    },
    Family {
        name: "server_bad_answers_total",
        kind: COUNTER,
        help: "Answers that were bad, late or none",
        read: Read::Server(Server::bad_answers),
    },
    Family {
        name: "server_ejected",
        kind: GAUGE,
        help: "1 while the server is passed over",
        read: Read::Server(|server| u64::from(server.ejected().is_some())),
    },
    Family {
        name: "server_ejections_total",
        kind: COUNTER,
        help: "How often the server was passed over",
        read: Read::Server(Server::ejections),
    },
    Family {
        name: "queue_waiting",
        kind: GAUGE,
        help: "Requests that wait for a server",
        read: Read::Upstream(|upstream| Some(upstream.waiting() as f64)),
    },
    Family {
        name: "sessions",
        kind: GAUGE,
        help: "Sessions that live on the server",
        read: Read::Home(|home| home.live() as u64),
    },
    Family {
        name: "sessions_by_transport",
        kind: GAUGE,
        help: "Sessions that live on the server, by how they speak",
        read: Read::HomeBy("transport", |home| {
            let websockets = home.websockets();
            vec![("polling", home.live().saturating_sub(websockets)), ("websocket", websockets)]
        }),
    },
    Family {
        name: "sessions_opened_total",
        kind: COUNTER,
        help: "Sessions that were learned on the server",
        read: Read::Home(Home::opened),
    },
    Family {
        name: "sessions_closed_total",
        kind: COUNTER,
        help: "Sessions that ended, fell silent or moved away",
        read: Read::Home(Home::closed),
    },
    Family {
        name: "sessions_ended_total",
        kind: COUNTER,
        help: "Sessions that ended, by why",
        read: Read::SessionsBy("cause", |_, table| {
            let totals = table.totals();
            Cause::ALL.iter().map(|&cause| (cause.as_str(), totals.ended(cause))).collect()
        }),
    },
    Family {
        name: "session_events_total",
        kind: COUNTER,
        help: "What became of sessions and look-ups",
        read: Read::SessionsBy("event", |_, table| {
            let totals = table.totals();
            vec![
                ("learned", totals.learned),
                ("rescued", totals.rescued),
                ("inherited", totals.inherited),
                ("moved", totals.moved),
                ("refused", totals.refused),
                ("found", totals.found),
                ("unknown", totals.unknown),
            ]
        }),
    },
    Family {
        name: "sessions_placed_total",
        kind: COUNTER,
        help: "New sessions, by what chose their server",
        read: Read::SessionsBy("by", |upstream, _| {
            let placed = upstream.placements();
            vec![("balance", placed.balance), ("returning", placed.returning), ("spilled", placed.spilled)]
        }),
    },
    Family {
        name: "upgrades_recent",
        kind: GAUGE,
        help: "Sessions offered a WebSocket in the last minute, and their fate",
        read: Read::SessionsBy("state", |_, table| {
            let recent = table.upgrades();
            vec![("offered", recent.offered), ("reached", recent.reached)]
        }),
    },
    Family {
        name: "upgrade_ratio",
        kind: GAUGE,
        help: "The part of them that reached it; absent while there are none",
        read: Read::Upstream(|upstream| upstream.sessions()?.upgrades().ratio()),
    },
    Family {
        name: "rebalancing",
        kind: GAUGE,
        help: "1 while sessions are shed from servers that have too many",
        read: Read::Upstream(|upstream| Some(f64::from(u8::from(upstream.rebalancing()?.under_way)))),
    },
    Family {
        name: "largest_client_share",
        kind: GAUGE,
        help: "The part of the latest sessions that come from one client address",
        read: Read::Upstream(|upstream| Some(upstream.largest_client()?.share)),
    },
    Family {
        name: "new_sessions_waiting",
        kind: GAUGE,
        help: "Handshakes that wait for their turn",
        read: Read::Upstream(|upstream| Some(upstream.line()?.waiting as f64)),
    },
    Family {
        name: "new_sessions_refused_total",
        kind: COUNTER,
        help: "Handshakes that could not wait for their turn",
        read: Read::Upstream(|upstream| Some(upstream.line()?.refused as f64)),
    },
    Family {
        name: "discovery_servers",
        kind: GAUGE,
        help: "Servers that discovery has found",
        read: Read::Upstream(|upstream| Some(upstream.findings()?.servers as f64)),
    },
    Family {
        name: "discovery_answers_total",
        kind: COUNTER,
        help: "Times that discovery found servers",
        read: Read::Upstream(|upstream| Some(upstream.inquiries()?.answers as f64)),
    },
    Family {
        name: "discovery_failures_total",
        kind: COUNTER,
        help: "Times that it found none",
        read: Read::Upstream(|upstream| Some(upstream.inquiries()?.failures as f64)),
    },
    Family {
        name: "discovery_changes_total",
        kind: COUNTER,
        help: "Times that it found others than before",
        read: Read::Upstream(|upstream| Some(upstream.inquiries()?.changes as f64)),
    },
    Family {
        name: "discovery_found_seconds",
        kind: GAUGE,
        help: "When it last found servers, in Unix time",
        read: Read::Upstream(|upstream| {
            let found = upstream.inquiries()?.found?.duration_since(UNIX_EPOCH).ok()?;
            Some(found.as_secs_f64().floor())
        }),
    },
];

fn read(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let family = |family: &Family| {
        let metrics = snapshot.upstreams.values().flat_map(|upstream| family.samples(upstream));
        let mut written = MetricFamily::default();
        written.set_name(family.name.to_owned());
        written.set_help(family.help.to_owned());
        written.set_field_type(family.kind);
        written.set_metric(metrics.collect());
        written
    };
    FAMILIES.iter().map(family).chain([certificates(snapshot)]).collect()
}

/// The family of certificates, which belong to files: its name and what it means.
const CERTIFICATES: (&str, &str) =
    ("certificate_ends_seconds", "When the first certificate of a file ends, in Unix time");

fn certificates(snapshot: &Snapshot) -> MetricFamily {
    let sample = |(file, ends): &(PathBuf, i64)| {
        let mut gauge = Gauge::default();
        gauge.set_value(*ends as f64);
        let mut metric = Metric::from_label(vec![pair("file", &file.display().to_string())]);
        metric.set_gauge(gauge);
        metric
    };
    let mut written = MetricFamily::default();
    written.set_name(CERTIFICATES.0.to_owned());
    written.set_help(CERTIFICATES.1.to_owned());
    written.set_field_type(GAUGE);
    written.set_metric(snapshot.certificates_end.iter().map(sample).collect());
    written
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

impl Family {
    fn samples(&self, upstream: &Upstream) -> Vec<Metric> {
        let mut samples = Vec::new();
        let mut add = |labels: &[&str], value: f64| {
            let values = std::iter::once(&**upstream.name()).chain(labels.iter().copied());
            samples.push(self.sample(values, value));
        };
        match self.read {
            Read::Server(read) => {
                for server in &upstream.all_servers() {
                    add(&[server.name()], read(server) as f64);
                }
            }
            Read::Home(read) => {
                for (server, home) in homes(upstream) {
                    add(&[server.name()], read(&home) as f64);
                }
            }
            Read::HomeBy(_, read) => {
                for (server, home) in homes(upstream) {
                    for (word, count) in read(&home) {
                        add(&[server.name(), word], count as f64);
                    }
                }
            }
            Read::Upstream(read) => {
                if let Some(value) = read(upstream) {
                    add(&[], value);
                }
            }
            Read::SessionsBy(_, read) => {
                if let Some(table) = upstream.sessions() {
                    for (word, count) in read(upstream, table) {
                        add(&[word], count as f64);
                    }
                }
            }
        }
        samples
    }

    fn sample<'a>(&self, values: impl Iterator<Item = &'a str>, value: f64) -> Metric {
        let labels = self.read.labels().into_iter().zip(values).map(|(name, value)| pair(name, value));
        let mut metric = Metric::from_label(labels.collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

impl Read {
    /// In the order in which values are given.
    fn labels(&self) -> Vec<&'static str> {
        match self {
            Self::Server(_) | Self::Home(_) => vec!["upstream", "server"],
            Self::HomeBy(label, _) => vec!["upstream", "server", label],
            Self::Upstream(_) => vec!["upstream"],
            Self::SessionsBy(label, _) => vec!["upstream", label],
        }
    }
}

/// What the session table knows of each server; nothing, where there are no sessions.
fn homes(upstream: &Upstream) -> Vec<(Arc<Server>, Arc<Home>)> {
    let Some(table) = upstream.sessions() else { return Vec::new() };
    let with_home = |server: Arc<Server>| (Arc::clone(&server), table.home(server.id().to_bits()));
    upstream.all_servers().into_iter().map(with_home).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use futures::FutureExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::access_log::AccessLog;
    use crate::admin::rates::Rates;
    use crate::admin::status::UpstreamStatus;
    use crate::config::Config;
    use crate::metrics::Metrics;
    use crate::session::{How, Mark};
    use crate::snapshot::Extensions;
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
access_log: { format: off }
"#;

    /// What serves a gateway of that configuration, and the state of its servers among its metrics.
    fn core() -> Arc<Core> {
        let metrics = Metrics::new().unwrap();
        let config = Config::read("test", YAML, &|_| None).unwrap().config;
        let (access_log, _) = AccessLog::open(&config.access_log, Arc::clone(&metrics)).unwrap();
        let known = Default::default();
        let snapshot = Snapshot::build(config, &Extensions::default(), &metrics, |_| None, &known).unwrap();
        let core = Arc::new(Core::new(snapshot, metrics, access_log));
        core.metrics.register(Box::new(StateCollector::new(&core).unwrap())).unwrap();
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
