//! Sessions are counted where they live for as long as they live, and each has a cause to end.

use futures::future::join_all;
use serde_json::json;

use super::{UNKNOWN, ended, unknown};
use crate::support::cluster::{Cluster, calm, run, sessions_on};
use crate::support::engine::for_each_engine;
use crate::support::node::{Node, TRANSPORTS};
use crate::support::polling::Polling;
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, eventually};

for_each_engine! {
    a_session_that_died_with_its_server_is_forgotten,
    sessions_end_for_a_cause,
    sessions_are_counted_where_they_live_for_as_long_as_they_live,
    a_probe_that_comes_to_nothing_leaves_the_session_polling,
    upgrades_that_go_astray_show_in_the_metrics,
}

async fn a_session_that_died_with_its_server_is_forgotten() {
    let mut cluster = Cluster::start("v4", 1, &[]).await;
    let mut session = Polling::open(&[cluster.address()]).await;
    assert_eq!(session.who().await, "a");
    let gateway = &cluster.gateways[0];
    assert_eq!(sessions_on(gateway, "a").await, 1.0);
    let port = cluster.servers[0].port().to_string();
    cluster.servers[0].kill().await;
    cluster.servers[0] = Node::server("v4", &["--id", "a", "--port", &port]).await;
    session.redirect(&[cluster.address()]);
    let answer = session.poll().await;
    assert_eq!((answer.status, answer.text()), (400, UNKNOWN.to_owned()));
    assert_eq!((ended(gateway, "unknown").await, sessions_on(gateway, "a").await), (1.0, 0.0));
    assert_eq!(unknown(gateway).await, 1.0);
    let mut next = Polling::open(&[cluster.address()]).await;
    assert_eq!(next.who().await, "a");
}

/// How each of them ended is told apart, and none is counted for longer than it lives.
async fn sessions_end_for_a_cause() {
    let mut cluster = Cluster::start("v4", 2, &[]).await;
    let address = cluster.address();
    let open_socket = async || {
        let mut socket = Client::connect(address).await;
        socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
        assert_eq!(socket.answer().await.status, 101);
        socket.read_until(b"}").await;
        socket
    };
    let live = async |gateway: &Gateway| sessions_on(gateway, "a").await + sessions_on(gateway, "b").await;
    let ends = async |gateway: &Gateway, cause: &str| {
        eventually(cause, async || (ended(gateway, cause).await, live(gateway).await) == (1.0, 0.0)).await;
    };

    // A Close frame, masked, of code 1000.
    let mut socket = open_socket().await;
    assert_eq!(live(&cluster.gateways[0]).await, 1.0);
    socket.send(b"\x88\x82\0\0\0\0\x03\xe8").await;
    socket.read_all().await;
    drop(socket);
    ends(&cluster.gateways[0], "client").await;

    let mut socket = Client::connect_to_reset(address).await;
    socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(socket.answer().await.status, 101);
    socket.read_until(b"}").await;
    drop(socket);
    ends(&cluster.gateways[0], "client_lost").await;

    // The server's word, in the answer to a poll: `kick` closes the connection of who sends it.
    let mut session = Polling::open(&[address]).await;
    session.say("42[\"kick\"]").await;
    let mut said = String::new();
    while !said.ends_with('1') || said.ends_with("41") {
        said.push_str(&session.poll().await.text());
    }
    ends(&cluster.gateways[0], "server").await;

    // A poll of a session whose server is gone.
    let mut session = Polling::open(&[address]).await;
    let (dead, name) = if session.who().await == "a" { (0, "a") } else { (1, "b") };
    cluster.servers[dead].kill().await;
    let down = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}\"}}");
    eventually("it is down", async || cluster.gateways[0].metric(&down).await == 0.0).await;
    session.redirect(&[address]);
    assert_eq!(session.poll().await.text(), UNKNOWN);
    ends(&cluster.gateways[0], "server_down").await;
    let fallbacks = "sockgate_session_fallbacks_total{by=\"balance\",upstream=\"app\"}";
    assert_eq!(cluster.gateways[0].metric(fallbacks).await, 1.0);
    let status: serde_json::Value = serde_json::from_slice(&cluster.gateways[0].admin("/status").await.body).unwrap();
    let ended = &status["upstreams"][0]["sessions"]["ended"];
    for cause in ["client", "client_lost", "server", "server_down"] {
        assert_eq!(ended[cause], 1, "{cause}: {status}");
    }
    let lives = cluster.gateways[0].metric("sockgate_session_seconds_count{upstream=\"app\"}").await;
    assert_eq!(lives, 4.0, "the life of each is told, whatever ended it");
    assert!(cluster.gateways[0].metric("sockgate_server_connect_seconds_count{upstream=\"app\"}").await > 3.0);
}

async fn sessions_are_counted_where_they_live_for_as_long_as_they_live() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let gateway = &cluster.gateways[0];
    let options = ["--hold", "2000"];
    let live = async || [sessions_on(gateway, "a").await, sessions_on(gateway, "b").await];
    let batches = TRANSPORTS.map(async |transports| {
        calm(transports, &cluster.run("v4", transports, 8, &options).await);
    });
    tokio::join!(join_all(batches), async {
        eventually("all are counted", async || live().await == [12.0, 12.0]).await;
    });
    // A session ends with its WebSocket or by its client's goodbye.
    eventually("all are gone", async || live().await == [0.0, 0.0]).await;
    assert_eq!(ended(gateway, "client").await, 24.0, "all of them wanted to");
    let taken = |count| format!("sockgate_time_to_websocket_seconds_{count}{{upstream=\"app\"}}");
    assert_eq!(gateway.metric(&taken("count")).await, 8.0, "those that began with polling took their time");
    assert!(gateway.metric(&taken("sum")).await > 0.0);
}

/// A WebSocket that is tried in vain is none: the session goes on polling where it is, and counts there.
async fn a_probe_that_comes_to_nothing_leaves_the_session_polling() {
    let cluster = Cluster::start("v4", 3, &[]).await;
    let gateway = &cluster.gateways[0];
    let mut session = Polling::open(&[cluster.address()]).await;
    let home = session.who().await;
    let mut probe = Client::connect(cluster.address()).await;
    probe.send(upgrade(&session.path().replace("polling", "websocket"))).await;
    assert_eq!(probe.answer().await.status, 101);
    // `2probe`, masked with nothing; the answer, and then no more.
    probe.send(b"\x81\x86\0\0\0\x002probe").await;
    probe.read_until(b"3probe").await;
    drop(probe);
    gateway.access_line(&["event=close", "transport=websocket"]).await;
    assert_eq!(session.who().await, home);
    assert_eq!(sessions_on(gateway, &home).await, 1.0);
    assert_eq!(gateway.metric("sockgate_upgrades_reached_total{upstream=\"app\"}").await, 0.0);
    session.say("1").await;
    eventually("it has said goodbye", async || ended(gateway, "client").await == 1.0).await;
    assert_eq!(sessions_on(gateway, &home).await, 0.0);
}

/// Sessions that never reach the WebSocket that they were offered look well to everybody but their operators.
async fn upgrades_that_go_astray_show_in_the_metrics() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let [offered, reached] =
        ["offered", "reached"].map(|word| format!("sockgate_upgrades_{word}_total{{upstream=\"app\"}}"));
    calm("all upgrade", &cluster.run("v4", "polling,websocket", 6, &[]).await);
    let gateway = &cluster.gateways[0];
    assert_eq!((gateway.metric(&offered).await, gateway.metric(&reached).await), (6.0, 6.0));

    let [right, wrong] = [&cluster.servers[0], &cluster.servers[1]].map(Node::port);
    let misled = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ upgrade: websocket }}
    upstream: wrong
  - upstream: app
upstreams:
  app: {{ kind: socket.io, servers: [\"127.0.0.1:{right}\"] }}
  wrong: {{ kind: socket.io, servers: [\"127.0.0.1:{wrong}\"] }}
"
    ))
    .await;
    let summary = run(misled.address("web"), "v4", "polling,websocket", 12, &["--timeout", "2000"]).await;
    assert_eq!((&summary["connected"], &summary["upgraded"]), (&json!(12), &json!(0)), "{summary}");
    assert_eq!(summary["reconnects"], 0, "nobody has noticed: {summary}");
    assert_eq!((misled.metric(&offered).await, misled.metric(&reached).await), (12.0, 0.0));
    // Within the minute it is seen.
    misled.log_line(" sessions that were offered a WebSocket in the last minute, 0 reached it").await;
    let recent = "sockgate_upgrades_recent{upstream=\"app\",state=\"offered\"}";
    eventually("all of them count", async || misled.metric(recent).await == 12.0).await;
    let metrics = misled.admin("/metrics").await.text();
    assert!(metrics.contains("sockgate_upgrade_ratio{upstream=\"app\"} 0\n"), "{metrics}");
    let ratio = async || gateway.metric("sockgate_upgrade_ratio{upstream=\"app\"}").await;
    eventually("all is well at the other one", async || ratio().await == 1.0).await;
}
