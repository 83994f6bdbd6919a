//! What the dashboard shows is what Prometheus is told: the table in docs/metrics.md, held against a gateway that has
//! something to show.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, run};
use crate::support::crowd::{By, Crowd};
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, eventually};

/// A label's values by its name.
type Labels = BTreeMap<String, String>;

/// A figure by its path, whom it is of, and its value.
type Figures = Vec<(String, Labels, f64)>;

/// The figures of the table that are the same as a metric: the path, and the selector.
fn same() -> Vec<(&'static str, &'static str)> {
    let doc = include_str!("../../docs/metrics.md");
    let (_, table) = doc.split_once("| figure | in Prometheus |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let same = rows.filter_map(|row| {
        let (figure, metric) = row.trim_matches('|').split_once(" | ").unwrap();
        Some((figure.trim().trim_matches('`'), metric.trim().strip_prefix("= `")?.strip_suffix('`')?))
    });
    same.collect()
}

/// `name{label="value",…}` in its parts.
fn series(text: &str) -> (&str, Labels) {
    let (name, labels) = text.trim_end_matches('}').split_once('{').unwrap_or((text, ""));
    let label = |label: &str| label.split_once("=\"").map(|(name, value)| (name.to_owned(), value.to_owned()));
    (name, labels.trim_end_matches('"').split("\",").filter_map(label).collect())
}

/// All numbers that the API tells: those in lists are of who is named there, those in maps of the key.
fn figures(value: &Value, path: &str, labels: &Labels, found: &mut Figures) {
    /// Lists whose items have a name, and the label that this is.
    const NAMED: [(&str, &str); 4] =
        [("listeners", "listener"), ("routes", "route"), ("upstreams", "upstream"), ("upstreams.servers", "server")];
    /// Maps whose keys are values of a label.
    const KEYED: [(&str, &str); 3] =
        [("listeners.refused", "limit"), ("listeners.sockets", "route"), ("upstreams.sessions.ended", "cause")];
    let with = |name: &str, value: &str| {
        let mut labels = labels.clone();
        labels.insert(name.to_owned(), value.to_owned());
        labels
    };
    match value {
        Value::Number(number) => found.push((path.to_owned(), labels.clone(), number.as_f64().unwrap())),
        Value::Array(items) => {
            let label = NAMED.iter().find(|(list, _)| *list == path).map(|(_, label)| label);
            for item in items {
                let labels = label.map_or_else(|| labels.clone(), |label| with(label, item["name"].as_str().unwrap()));
                figures(item, path, &labels, found);
            }
        }
        Value::Object(fields) => {
            let label = KEYED.iter().find(|(map, _)| *map == path).map(|(_, label)| label);
            for (name, field) in fields {
                match label {
                    Some(label) => figures(field, path, &with(label, name), found),
                    None if path.is_empty() => figures(field, name, labels, found),
                    None => figures(field, &format!("{path}.{name}"), labels, found),
                }
            }
        }
        _ => {}
    }
}

/// What the API tells, as the dashboard has it.
async fn told(gateway: &Gateway) -> Figures {
    let mut state = serde_json::Map::new();
    for part in ["status", "listeners", "routes", "upstreams", "reload"] {
        let told: Value = serde_json::from_str(&gateway.admin(&format!("/api/v1/{part}")).await.text()).unwrap();
        state.insert(part.to_owned(), told);
    }
    let mut found = Vec::new();
    figures(&json!(state), "", &Labels::new(), &mut found);
    found
}

/// Those that differ from their metrics, and how many there are in all.
async fn differing(gateway: &Gateway) -> (Vec<String>, BTreeMap<&'static str, usize>) {
    let (told, text) = (told(gateway).await, gateway.admin("/metrics").await.text());
    let samples: Vec<(&str, Labels, f64)> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(sample, value)| (series(sample), value.parse::<f64>().unwrap()))
        .map(|((name, labels), value)| (name, labels, value))
        .collect();
    let (mut differing, mut compared) = (Vec::new(), BTreeMap::new());
    for (figure, selector) in same() {
        let (metric, chosen) = series(selector);
        let of_figure = told.iter().filter(|(path, ..)| path == figure);
        for (_, labels, value) in of_figure {
            *compared.entry(figure).or_default() += 1;
            let meant = |sample: &Labels| {
                chosen.iter().chain(labels).all(|(name, value)| sample.get(name).is_none_or(|said| said == value))
            };
            let sum: f64 = samples
                .iter()
                .filter(|(name, labels, _)| *name == metric && meant(labels))
                .map(|sample| sample.2)
                .sum();
            if (sum - value).abs() > 1e-6 {
                differing.push(format!("{figure} of {labels:?} is {value}, and {selector} {sum}"));
            }
        }
    }
    (differing, compared)
}

#[tokio::test]
async fn every_figure_of_the_dashboard_is_what_prometheus_is_told() {
    let mut cluster = Cluster::behind(0, "v4", 3, &[]).await;
    let port = cluster.servers[0].port();
    let yaml = cluster
        .configuration("127.0.0.1:0", "balance: round_robin", &["a", "b", "c"])
        .replace(
            "routes:\n",
            "limits: { connections_per_address: 40 }\nroutes:\n  - { match: { path: /here }, upstream: web }\n",
        )
        .replace(
            "upstreams:\n",
            &format!("upstreams:\n  web: {{ balance: peak_ewma, servers: [\"127.0.0.1:{port}\"] }}\n"),
        );
    cluster.gateways.push(Gateway::start(&yaml).await);
    let gateway = &cluster.gateways[0];
    // Some that come and go by all ways, some that stay, some that are refused or find nothing, and a drain.
    run(cluster.address(), "v4", "polling,websocket", 8, &[]).await;
    let _crowd = Crowd::come(cluster.address(), &[(By::Polling, 6), (By::WebSocket, 12)]).await;
    let mut plain = Client::connect(cluster.address()).await;
    assert_eq!(plain.get("/here").await.status, 200);
    assert_eq!(plain.get("/socket.io/?EIO=4&transport=polling&sid=nobodys").await.status, 400);
    let mut socket = Client::connect(cluster.address()).await;
    socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(socket.answer().await.status, 101);
    let many = futures::future::join_all((0..60).map(|_| Client::connect(cluster.address()))).await;
    eventually("some are refused", async || {
        let refused = "sockgate_connections_refused_total{limit=\"address\",listener=\"web\"}";
        gateway.metric(refused).await > 0.0
    })
    .await;
    drop(many);
    cluster.admin("POST", "/drain?upstream=app&server=c").await;
    eventually("its drain is over", async || {
        let left = "sockgate_sessions{upstream=\"app\",server=\"c\"}";
        gateway.metric(left).await == 0.0
    })
    .await;
    // What is under way changes both: they are asked one after the other.
    let last = std::cell::RefCell::new(Vec::new());
    eventually_or(
        "all are the same",
        async || {
            let (differing, _) = differing(gateway).await;
            let same = differing.is_empty();
            last.replace(differing);
            same
        },
        || format!("{:#?}", last.borrow()),
    )
    .await;
    let (_, compared) = differing(gateway).await;
    let absent: Vec<&str> =
        same().into_iter().map(|(figure, _)| figure).filter(|figure| !compared.contains_key(figure)).collect();
    // Of these there is nothing here: no discovery, no rebalancing, no pacing of new sessions, and no upgrade for five seconds.
    let expected = |figure: &&&str| {
        [
            "upstreams.discovery.",
            "upstreams.rebalance.",
            "upstreams.sessions.upgrades.last_minute.ratio",
            "upstreams.sessions.refused_to_open",
            "upstreams.sessions.waiting_to_open",
        ]
        .iter()
        .any(|part| figure.starts_with(part))
    };
    let unexpected: Vec<&&str> = absent.iter().filter(|figure| !expected(figure)).collect();
    assert!(unexpected.is_empty(), "nothing was compared for {unexpected:?}");
}

/// As [`eventually`], and says more where that does not come.
async fn eventually_or(what: &str, met: impl AsyncFnMut() -> bool, more: impl Fn() -> String) {
    let met = tokio::time::timeout(std::time::Duration::from_secs(20), eventually(what, met)).await;
    assert!(met.is_ok(), "{what}: {}", more());
}
