//! Servers come and go under sessions: those of a server that goes move once and politely, those that are too many for
//! their server move to one that has joined, and nobody else's do.

use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::cluster::{Cluster, IN_TURN, NAMES, is_up, run};
use crate::support::crowd::{By, Crowd, Socket};
use crate::support::engine::for_each_engine;
use crate::support::{Client, Gateway, eventually};

for_each_engine! {
    when_a_server_joins_the_fullest_are_relieved_until_all_are_within_the_bound,
    clients_of_socket_io_that_were_shed_are_not_placed_where_they_were,
    in_a_rolling_restart_only_the_sessions_of_the_server_move_once_each_and_at_the_pace,
    a_client_whose_connection_broke_recovers_on_the_server_that_it_was_on,
    clients_recover_through_a_gateway_that_was_restarted,
    servers_leave_and_come_back_by_hand_under_hundreds_of_sessions,
    servers_join_and_leave_by_reload_under_hundreds_of_sessions,
    a_server_that_is_put_back_into_the_file_keeps_the_sessions_that_it_has,
    a_server_that_the_file_drains_is_left_at_the_pace_of_the_file,
}

/// What a gateway tells of its upstream.
async fn status(gateway: &Gateway) -> Value {
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    status["upstreams"][0].clone()
}

/// Asks `/drain` of the first gateway about a server.
async fn drain(cluster: &Cluster, method: &str, query: &str) -> Value {
    let answer = cluster.admin(method, &format!("/drain?upstream=app&server={query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn drained(cluster: &Cluster, server: &str) {
    eventually("the drain is over", async || drain(cluster, "GET", server).await["over"] == true).await;
}

/// Servers of which the last is down, a gateway before all of them, and how to place.
async fn all_but_one(servers: usize, keys: &str) -> Cluster {
    let mut cluster = Cluster::behind(0, "v4", servers, PATIENT).await;
    cluster.servers.last_mut().unwrap().kill().await;
    let names = &NAMES[..servers];
    // However slow the machine is, who is up stays up.
    let keys = format!("{keys}, health: {{ interval: 1s, fall: 1000 }}");
    let gateway = Gateway::start(&cluster.configuration("127.0.0.1:0", &keys, names)).await;
    for name in &names[..servers - 1] {
        is_up(&gateway, name).await;
    }
    cluster.gateways.push(gateway);
    cluster
}

/// New sessions go in turn, and nobody is taken for dead because the machine is slow; `more` are more keys.
fn in_turn(more: &str) -> String {
    format!("{IN_TURN}, health: {{ check: none }}{}{more}", if more.is_empty() { "" } else { ", " })
}

/// Servers, and a gateway before the first of them, with [`in_turn`].
async fn unchecked(servers: usize, before: usize, more: &str) -> Cluster {
    let mut cluster = Cluster::behind(0, "v4", servers, PATIENT).await;
    let gateway = cluster.gateway_before("127.0.0.1:0", &in_turn(more), before).await;
    cluster.gateways.push(gateway);
    cluster
}

/// Pings are rare, but come before anybody's patience ends.
const PATIENT: &[&str] = &["--ping-interval", "8000"];

async fn when_a_server_joins_the_fullest_are_relieved_until_all_are_within_the_bound() {
    let keys = "balance: least_connections, sessions: { rebalance: { rate: 20, bound: 1.1, delay: 0s } }";
    let mut cluster = all_but_one(3, keys).await;
    let gateway = &cluster.gateways[0];
    let waits = async || status(gateway).await["rebalance"]["waits"] == "server c is down";
    eventually("it waits for the third", waits).await;
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 30), (By::WebSocket, 30)]).await;
    assert_eq!(crowd.homes().len(), 2, "{:?}", crowd.homes());
    assert_eq!(status(gateway).await["rebalance"]["shed"], 0);
    let started = Instant::now();
    cluster.restart("c", PATIENT).await;
    let gateway = &cluster.gateways[0];
    eventually("all is even", async || {
        let status = status(gateway).await;
        let rebalance = &status["rebalance"];
        let sessions = |at: usize| status["servers"][at]["sessions"].as_u64().unwrap();
        rebalance["under_way"] == false && rebalance["waits"].is_null() && (0..3).all(|at| sessions(at) <= 23)
    })
    .await;
    crowd.settle().await;
    let took = started.elapsed();
    crowd.is_well();
    // Thirty were on each, and a tenth more than twenty of the last sixty-one, rounded up, may be.
    let shed = crowd.moves();
    assert!((14..=16).contains(&shed), "{shed}: {:?}", crowd.homes());
    assert!(took >= Duration::from_secs_f64(0.6 * (shed - 1) as f64 / 20.0), "{took:?}");
    assert_eq!(status(gateway).await["rebalance"]["shed"], shed);
    assert!(crowd.ways().iter().all(|way| way.len() == 1 || way.len() == 2 && way[1] == "c"), "{:?}", crowd.ways());
    assert_eq!(gateway.metric("sockgate_goodbyes_total{upstream=\"app\",why=\"rebalance\"}").await, shed as f64);
    assert_eq!(gateway.metric("sockgate_rebalancing{upstream=\"app\"}").await, 0.0);
    gateway.access_line(&["closed_by=rebalance"]).await;
}

/// The address tells where they were, and that is where they must not go.
async fn clients_of_socket_io_that_were_shed_are_not_placed_where_they_were() {
    let keys = "sessions: { returning: 5m, bounded_load: 0, rebalance: { rate: 50, bound: 1.2, delay: 0s } }";
    let mut cluster = all_but_one(2, keys).await;
    let options = ["--hold", "9000", "--allow-reconnect"];
    let batches = [("v4", "polling", 8), ("v4", "websocket", 8), ("v4", "polling,websocket", 8), ("v2", "polling", 6)];
    let address = cluster.address();
    let running = batches.map(|(version, transports, sessions)| run(address, version, transports, sessions, &options));
    let (summaries, ()) = tokio::join!(join_all(running), async {
        eventually("all have talked", async || cluster.servers[0].stats().await["events"].as_u64().unwrap() >= 11 * 30)
            .await;
        cluster.restart("b", PATIENT).await;
        let gateway = &cluster.gateways[0];
        eventually("all is even", async || {
            let status = status(gateway).await;
            let sessions = |at: usize| status["servers"][at]["sessions"].as_u64().unwrap();
            status["rebalance"]["under_way"] == false && sessions(0) <= 19 && sessions(0) + sessions(1) == 30
        })
        .await;
    });
    let sum = |key: &str| summaries.iter().map(|summary| summary[key].as_u64().unwrap()).sum::<u64>();
    for summary in &summaries {
        assert_eq!(summary["ok"], true, "{summary}");
        assert_eq!(summary["session_id_unknown"], 0, "{summary}");
        assert_eq!(summary["connect_errors"], json!({}), "{summary}");
    }
    // Clients that take long to come back may be taken for lost, and others be shed in their place; never below the mean.
    let moved = sum("server_changes");
    assert_eq!(moved, sum("reconnects"), "who was shed came elsewhere: {summaries:?}");
    assert!((11..=15).contains(&moved), "{moved}: {summaries:?}");
}

async fn in_a_rolling_restart_only_the_sessions_of_the_server_move_once_each_and_at_the_pace() {
    const RATE: f64 = 50.0;
    let mut cluster = unchecked(3, 3, "").await;
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 45), (By::WebSocket, 45)]).await;
    for server in ["a", "b", "c"] {
        let before = crowd.ways();
        let there = before.iter().filter(|way| way.last().unwrap() == server).count();
        let started = Instant::now();
        let begun = drain(&cluster, "POST", &format!("{server}&rate={RATE}&deadline=60s")).await;
        assert_eq!(begun["sessions"], there, "{begun}");
        drained(&cluster, server).await;
        let (took, end) = (started.elapsed(), drain(&cluster, "GET", server).await);
        assert_eq!((&end["open"], &end["sessions"]), (&json!(0), &json!(0)), "{end}");
        // A poll that its server answers at this very moment is told for nothing, and its session once more.
        assert!(end["told_goodbye"].as_u64().unwrap() >= there as u64, "{end}");
        let pauses = (there - 1) as f64 / RATE;
        assert!(took >= Duration::from_secs_f64(0.6 * pauses), "{there} in {took:?}");
        crowd.settle().await;
        for (before, after) in before.iter().zip(crowd.ways()) {
            let moves = usize::from(before.last().unwrap() == server);
            assert_eq!(after.len(), before.len() + moves, "{before:?} to {after:?} when {server} went");
            assert_eq!(&after[..before.len()], before);
        }
        let said = cluster.gateways[0].metric("sockgate_goodbyes_total{upstream=\"app\",why=\"drain\"}").await;
        assert_eq!(said, crowd.moves() as f64);
        cluster.restart(server, PATIENT).await;
        drain(&cluster, "DELETE", server).await;
        is_up(&cluster.gateways[0], server).await;
    }
    crowd.is_well();
}

/// What a session of connection-state recovery has to say to be taken up again.
struct Recoverable {
    from: u8,
    joined: Value,
    offset: Value,
    home: String,
}

/// Opens a session from an address of its own, hears something, and loses its connection.
async fn lose(cluster: &Cluster, from: u8) -> Recoverable {
    let mut session = Socket::open(Client::connect_from(from, cluster.address()).await, None).await;
    let home = session.who().await;
    session.say("42[\"broadcast\",\"hear me\"]").await;
    let heard = loop {
        let packet = session.next().await.unwrap();
        if let Some(event) = packet.strip_prefix("42") {
            break serde_json::from_str::<Value>(event).unwrap();
        }
    };
    let offset = heard.as_array().unwrap().last().unwrap().clone();
    Recoverable { from, joined: session.joined.clone(), offset, home }
}

impl Recoverable {
    /// Comes back, and expects to be known.
    async fn come_back(self, cluster: &Cluster) {
        let asked = json!({ "pid": self.joined["pid"], "offset": self.offset });
        let client = Client::connect_from(self.from, cluster.address()).await;
        let mut session = Socket::open(client, Some(&asked)).await;
        assert_eq!(session.joined["sid"], self.joined["sid"], "recovered, as the client finds out");
        assert_eq!(session.who().await, self.home);
    }
}

async fn a_client_whose_connection_broke_recovers_on_the_server_that_it_was_on() {
    let mut cluster = Cluster::behind(0, "v4", 3, &["--recovery"]).await;
    // In turn: without its address, two of three would be placed elsewhere.
    let gateway = cluster.gateway_before("127.0.0.1:0", "balance: round_robin", 3).await;
    cluster.gateways.push(gateway);
    let mut lost = Vec::new();
    for from in 10..22 {
        lost.push(lose(&cluster, from).await);
    }
    eventually("the servers know", async || cluster.counted("sessions_open").await == 0).await;
    for session in lost {
        session.come_back(&cluster).await;
    }
    assert_eq!(cluster.counted("recovered").await, 12);
}

async fn clients_recover_through_a_gateway_that_was_restarted() {
    let mut cluster = Cluster::behind(0, "v4", 3, &["--recovery"]).await;
    // The gateway has forgotten everything, but the hash of an address is what it was.
    let keys = "balance: client_ip, sessions: { bounded_load: 0 }";
    let gateway = cluster.gateway_before("127.0.0.1:0", keys, 3).await;
    cluster.gateways.push(gateway);
    let mut lost = Vec::new();
    for from in 10..22 {
        lost.push(lose(&cluster, from).await);
    }
    let (address, killed) = (cluster.address(), cluster.gateways.remove(0));
    killed.signal(Signal::SIGKILL);
    eventually("the gateway is gone", async || TcpStream::connect(address).await.is_err()).await;
    drop(killed);
    eventually("the servers know", async || cluster.counted("sessions_open").await == 0).await;
    let gateway = cluster.gateway_before(&address.to_string(), keys, 3).await;
    cluster.gateways.push(gateway);
    for session in lost {
        session.come_back(&cluster).await;
    }
    assert_eq!(cluster.counted("recovered").await, 12);
}

async fn servers_leave_and_come_back_by_hand_under_hundreds_of_sessions() {
    let cluster = unchecked(3, 3, "").await;
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 200), (By::WebSocket, 200)]).await;
    let before = crowd.ways();
    drain(&cluster, "POST", "c&rate=200&deadline=60s").await;
    crowd.leave("c").await;
    drained(&cluster, "c").await;
    crowd.settle().await;
    for (before, after) in before.iter().zip(crowd.ways()) {
        assert_eq!(after.len() == 2, before[0] == "c", "{before:?} to {after:?}");
        assert_ne!(after.last().unwrap(), "c");
    }
    drain(&cluster, "DELETE", "c").await;
    is_up(&cluster.gateways[0], "c").await;
    assert_eq!(crowd.moves(), before.iter().filter(|way| way[0] == "c").count(), "who comes back takes nobody away");
    crowd.is_well();
}

/// Loads a file that names these servers into the first gateway.
async fn reload(cluster: &mut Cluster, keys: &str, names: &[&str]) -> Value {
    let file = cluster.configuration("127.0.0.1:0", keys, names);
    load(cluster, &file).await
}

async fn load(cluster: &mut Cluster, file: &str) -> Value {
    let answer = cluster.gateways[0].reload(file).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// The servers that `/status` tells of, and whether each was removed.
async fn servers(gateway: &Gateway) -> Vec<(String, String, bool)> {
    let status = status(gateway).await;
    let told = |server: &Value| {
        let text = |key: &str| server[key].as_str().unwrap().to_owned();
        (text("name"), text("state"), server["removed"].as_bool().unwrap())
    };
    status["servers"].as_array().unwrap().iter().map(told).collect()
}

fn is(name: &str, state: &str, removed: bool) -> (String, String, bool) {
    (name.to_owned(), state.to_owned(), removed)
}

async fn servers_join_and_leave_by_reload_under_hundreds_of_sessions() {
    let keys = &in_turn("drain: { rate: 100 }");
    let mut cluster = unchecked(3, 2, "drain: { rate: 100 }").await;
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 200), (By::WebSocket, 200)]).await;
    reload(&mut cluster, keys, &["a", "b", "c"]).await;
    is_up(&cluster.gateways[0], "c").await;
    assert_eq!(crowd.moves(), 0, "who joins takes nobody away");

    let (before, started) = (crowd.ways(), Instant::now());
    let on_a = before.iter().filter(|way| way[0] == "a").count();
    let plan = reload(&mut cluster, keys, &["b", "c"]).await;
    assert_eq!(plan["sessions"]["drained"], on_a, "{plan}");
    eventually("it is let go", async || servers(&cluster.gateways[0]).await.len() == 3).await;
    let leaving = servers(&cluster.gateways[0]).await;
    assert_eq!(leaving, [is("b", "up", false), is("c", "up", false), is("a", "draining", true)]);
    crowd.leave("a").await;
    let gone = [is("b", "up", false), is("c", "up", false)];
    eventually("it is gone", async || servers(&cluster.gateways[0]).await == gone).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_secs_f64(0.6 * (on_a - 1) as f64 / 100.0), "{on_a} in {took:?}");
    crowd.settle().await;
    crowd.is_well();
    for (before, after) in before.iter().zip(crowd.ways()) {
        assert_eq!(after.len() == 2, before[0] == "a", "{before:?} to {after:?}");
        assert_ne!(after.last().unwrap(), "a");
    }
    assert_eq!(crowd.moves(), on_a);
    eventually("the server knows", async || cluster.servers[0].stats().await["sessions_open"] == 0).await;
}

async fn a_server_that_is_put_back_into_the_file_keeps_the_sessions_that_it_has() {
    let keys = &in_turn("drain: { rate: 0.001, jitter: 0 }");
    let mut cluster = unchecked(2, 2, "drain: { rate: 0.001, jitter: 0 }").await;
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 10), (By::WebSocket, 10)]).await;
    reload(&mut cluster, keys, &["a"]).await;
    // The first goodbye is said at once, and the next in a thousand seconds.
    eventually("one has left", async || crowd.moves() == 1).await;
    crowd.settle().await;
    assert_eq!(servers(&cluster.gateways[0]).await[1], is("b", "draining", true));
    let refused = cluster.admin("DELETE", "/drain?upstream=app&server=b").await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    reload(&mut cluster, keys, &["a", "b"]).await;
    assert_eq!(servers(&cluster.gateways[0]).await, [is("a", "up", false), is("b", "up", false)]);
    assert_eq!(drain(&cluster, "GET", "b").await, Value::Null);
    let mut more = Crowd::come(cluster.address(), &[(By::WebSocket, 4)]).await;
    assert_eq!(more.homes().len(), 2, "it gets new sessions");
    more.is_well();
    crowd.is_well();
    assert_eq!(crowd.moves(), 1);
}

async fn a_server_that_the_file_drains_is_left_at_the_pace_of_the_file() {
    let keys = &in_turn("drain: { rate: 50 }");
    let mut cluster = unchecked(3, 3, "drain: { rate: 50 }").await;
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 15), (By::WebSocket, 15)]).await;
    let file = cluster.configuration("127.0.0.1:0", keys, &["a", "b", "c"]);
    let draining = file.replace("name: b }", "name: b, drain: true }");
    let before = crowd.ways();
    load(&mut cluster, &draining).await;
    drained(&cluster, "b").await;
    crowd.settle().await;
    for (before, after) in before.iter().zip(crowd.ways()) {
        assert_eq!(after.len() == 2, before[0] == "b", "{before:?} to {after:?}");
    }
    load(&mut cluster, &file).await;
    is_up(&cluster.gateways[0], "b").await;
    assert_eq!(drain(&cluster, "GET", "b").await, Value::Null);
    crowd.is_well();
}
