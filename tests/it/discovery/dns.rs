//! Servers that are found in DNS follow what the name server says, and nothing that it fails to say takes them away.

use std::net::SocketAddr;

use serde_json::Value;

use super::serving;
use crate::support::crowd::{By, Crowd};
use crate::support::dns::NameServer;
use crate::support::node::{self, Node};
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, eventually, within};

/// A gateway's file: `asked` are the keys that say what is asked for, `upstream` more of the upstream.
fn yaml(names: &NameServer, asked: &str, upstream: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app:
    servers: {{ {asked}, min_refresh: 100ms, refresh: 1s, resolver: [\"{}\"] }}
    {upstream}
",
        names.address()
    )
}

const UNCHECKED: &str = "health: { check: none }\n    balance: round_robin\n    drain: { goodbye: false }";

fn before(names: &NameServer, port: u16) -> String {
    yaml(names, &format!("dns: app.test, port: {port}"), UNCHECKED)
}

/// Servers on one port of several addresses of this machine.
async fn neighbours() -> (Echo, Echo, u16) {
    let a = Echo::start("a").await;
    let port = a.address().port();
    let b = Echo::start_at(SocketAddr::from(([127, 0, 0, 2], port)), "b").await;
    (a, b, port)
}

async fn is_served_by(gateway: &Gateway, names: &[&str]) {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    eventually("these serve", async || serving(gateway.address("web")).await == names).await;
}

async fn discovery(gateway: &Gateway) -> Value {
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    status["upstreams"][0]["discovery"].clone()
}

#[tokio::test]
async fn servers_follow_the_addresses_of_a_name() {
    let Some(mut names) = NameServer::start().await else { return };
    let (a, _b, port) = neighbours().await;
    names.set("app.test", &["A 1 127.0.0.1"]).await;
    let gateway = Gateway::start(&before(&names, port)).await;
    is_served_by(&gateway, &["a"]).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("a"));

    names.set("app.test", &["A 0 127.0.0.2", "A 0 127.0.0.1"]).await;
    is_served_by(&gateway, &["a", "b"]).await;
    gateway.log_line(&format!("dns app.test:{port} finds 2 servers; new: 127.0.0.2:{port}")).await;
    // By another name, too, and however often it is said.
    names.set("app.test", &["CNAME 1 other.test."]).await;
    names.set("other.test", &["A 1 127.0.0.2", "A 1 127.0.0.2"]).await;
    is_served_by(&gateway, &["b"]).await;
    gateway.log_line(&format!("finds 1 servers; gone: {}", a.address())).await;
    socket.send("ping").await;
    assert_eq!(within("the old server", socket.read(4)).await, b"ping");

    let told = discovery(&gateway).await;
    assert_eq!(told["source"], format!("dns app.test:{port}"));
    assert_eq!((told["servers"].as_u64(), told["changes"].as_u64()), (Some(1), Some(3)));
    assert!(told["found_seconds_ago"].as_f64().unwrap() < 20.0, "{told}");
    // It is asked again and again, with nothing new.
    names.is_asked_again("other.test", 2).await;
    let answers = gateway.metric("sockgate_discovery_answers_total{upstream=\"app\"}").await;
    assert!(answers > 3.0, "{answers}");
    assert_eq!(gateway.metric("sockgate_discovery_changes_total{upstream=\"app\"}").await, 3.0);
}

#[tokio::test]
async fn what_a_name_server_fails_to_say_takes_nobody_away() {
    let Some(mut names) = NameServer::start().await else { return };
    let (_a, _b, port) = neighbours().await;
    names.set("app.test", &["A 1 127.0.0.1"]).await;
    let gateway = Gateway::start(&before(&names, port)).await;
    let fault = async || discovery(&gateway).await["fault"].as_str().unwrap_or_default().to_owned();
    for (how, expected) in [
        ("SERVFAIL", "the name server can't tell of app.test: Server Failure"),
        ("REFUSED", "the name server can't tell of app.test: Query Refused"),
        ("silent", "no name server answers for app.test"),
        ("nothing", "app.test has no AAAA records"),
        ("NXDOMAIN", "there is no name app.test"),
    ] {
        match how {
            "NXDOMAIN" => names.remove("app.test").await,
            "nothing" => names.set("app.test", &["TXT 1 here"]).await,
            fault => names.fail("app.test", fault, &[]).await,
        }
        eventually(expected, async || fault().await.contains(expected)).await;
        is_served_by(&gateway, &["a"]).await;
        assert_eq!(gateway.admin("/readyz").await.status, 200);
        names.set("app.test", &["A 1 127.0.0.1"]).await;
        eventually("the fault is over", async || fault().await.is_empty()).await;
    }
    assert!(gateway.metric("sockgate_discovery_failures_total{upstream=\"app\"}").await >= 5.0);
    names.set("app.test", &["A 1 127.0.0.2"]).await;
    is_served_by(&gateway, &["b"]).await;
}

#[tokio::test]
async fn until_the_first_answer_the_gateway_is_not_ready_and_says_why() {
    let Some(mut names) = NameServer::start().await else { return };
    let (_a, _b, port) = neighbours().await;
    let gateway = Gateway::start_unready(&before(&names, port)).await;
    let why = format!("upstream app: no server is known by dns app.test:{port}: there is no name app.test\n");
    eventually("it says why", async || gateway.admin("/readyz").await.text() == why).await;
    assert_eq!(gateway.admin("/readyz").await.status, 503);
    assert_eq!(gateway.client().await.get("/").await.status, 503);
    names.set("app.test", &["A 1 127.0.0.1"]).await;
    is_served_by(&gateway, &["a"]).await;
    assert_eq!(gateway.admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn requests_that_come_before_the_first_answer_wait_for_it() {
    let Some(mut names) = NameServer::start().await else { return };
    let (_a, _b, port) = neighbours().await;
    names.fail("app.test", "silent", &[]).await;
    let asked = format!("dns: app.test, port: {port}");
    let gateway =
        Gateway::start_unready(&yaml(&names, &asked, &format!("timeouts: {{ connect: 30s }}\n    {UNCHECKED}"))).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it waits", async || gateway.metric("sockgate_queue_waiting{upstream=\"app\"}").await == 1.0).await;
    names.set("app.test", &["A 1 127.0.0.1"]).await;
    assert_eq!(within("an answer", client.answer()).await.header("x-server"), Some("a"));
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_by_tcp_and_a_forged_one_is_not_believed() {
    let Some(mut names) = NameServer::start().await else { return };
    let (_a, _b, port) = neighbours().await;
    names.fail("app.test", "truncated", &["A 1 127.0.0.1"]).await;
    let gateway = Gateway::start(&before(&names, port)).await;
    is_served_by(&gateway, &["a"]).await;
    assert!(names.questions("app.test").iter().any(|question| question["tcp"] == true));
    names.fail("app.test", "forged", &["A 1 127.0.0.2"]).await;
    is_served_by(&gateway, &["b"]).await;
    assert!(gateway.log_lines("127.6.6.6").is_empty());
}

#[tokio::test]
async fn an_address_that_can_be_no_server_is_left_out() {
    let Some(mut names) = NameServer::start().await else { return };
    let (_a, _b, port) = neighbours().await;
    names.set("app.test", &["A 1 0.0.0.0", "A 1 224.0.0.1", "A 1 127.0.0.1"]).await;
    let gateway = Gateway::start(&before(&names, port)).await;
    is_served_by(&gateway, &["a"]).await;
    let told = discovery(&gateway).await;
    assert_eq!(told["left_out"].as_array().unwrap().len(), 2, "{told}");
    gateway.log_line(&format!("left out: 224.0.0.1:{port}: it is an address of many")).await;
}

const SERVICE: &str = "_web._tcp.app.test";

fn service(priority: u16, server: SocketAddr) -> String {
    format!("SRV 1 {priority} 5 {} host.test.", server.port())
}

#[tokio::test]
async fn servers_of_a_service_stand_by_for_those_of_a_better_priority() {
    let Some(mut names) = NameServer::start().await else { return };
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    names.set("host.test", &["A 1 127.0.0.1"]).await;
    let gone = "SRV 1 5 5 80 gone.test.".to_owned();
    let records = [service(10, a.address()), service(20, b.address()), gone];
    names.set(SERVICE, &records.each_ref().map(String::as_str)).await;
    let checked = "health: { check: tcp, interval: 1s }\n    ejection: { failures: 0 }";
    let gateway = Gateway::start(&yaml(&names, &format!("srv: {SERVICE}"), checked)).await;
    is_served_by(&gateway, &["a"]).await;
    let told = discovery(&gateway).await;
    assert_eq!(told["left_out"][0]["name"], "gone.test:80");
    let address = a.address();
    drop(a);
    is_served_by(&gateway, &["b"]).await;
    let _a = Echo::start_at(address, "a").await;
    is_served_by(&gateway, &["a"]).await;
    // The target of one can't be told of for a while: it stays where it was.
    names.fail("host.test", "SERVFAIL", &[]).await;
    names.is_asked_again("host.test", 3).await;
    is_served_by(&gateway, &["a"]).await;
}

#[tokio::test]
async fn two_hundred_sessions_live_through_a_change_in_dns() {
    let Some(mut names) = NameServer::start().await else { return };
    let mut servers = Vec::new();
    for id in ["a", "b", "c"] {
        servers.push(Node::server("v4", &["--id", id]).await);
    }
    let at = |server: &Node| SocketAddr::from(([127, 0, 0, 1], server.port()));
    let [a, b, c] = [0, 1, 2].map(|number| service(1, at(&servers[number])));
    names.set("host.test", &["A 1 127.0.0.1"]).await;
    names.set(SERVICE, &[&a, &b]).await;
    let upstream = "kind: socket.io\n    balance: round_robin\n    drain: { rate: 200 }";
    let gateway = Gateway::start(&yaml(&names, &format!("srv: {SERVICE}"), upstream)).await;
    let mut crowd = Crowd::come(gateway.address("web"), &[(By::Polling, 100), (By::WebSocket, 100)]).await;
    let homes = crowd.homes();
    assert!(homes["a"] > 50 && homes["b"] > 50, "{homes:?}");
    names.set(SERVICE, &[&a, &c]).await;
    crowd.leave("b").await;
    // Whoever was on the server that stays has not moved, and nobody was told that its session is unknown.
    assert_eq!(crowd.moves(), homes["b"]);
    crowd.is_well();
    eventually("nothing is left of it", async || {
        !gateway.log_lines(&format!("server {} is gone", at(&servers[1]))).is_empty()
    })
    .await;
}

#[tokio::test]
async fn sessions_of_real_clients_stay_on_a_server_that_has_left_dns() {
    let Some(mut names) = NameServer::start().await else { return };
    let (a, b) = (Node::server("v4", &["--id", "a"]).await, Node::server("v4", &["--id", "b"]).await);
    let at = |server: &Node| service(1, SocketAddr::from(([127, 0, 0, 1], server.port())));
    names.set("host.test", &["A 1 127.0.0.1"]).await;
    names.set(SERVICE, &[&at(&a)]).await;
    let upstream = "kind: socket.io\n    drain: { goodbye: false }";
    let gateway = Gateway::start(&yaml(&names, &format!("srv: {SERVICE}"), upstream)).await;
    let url = format!("http://{}", gateway.address("web"));
    let only = |server: &str| format!("finds 1 servers; new: {server}");
    let [a_comes, b_comes] = [&a, &b].map(|server| only(&format!("127.0.0.1:{}", server.port())));
    for (round, transports) in node::TRANSPORTS.into_iter().enumerate() {
        names.set(SERVICE, &[&at(&a)]).await;
        let arguments = ["--url", &url, "--transports", transports, "--sessions", "20", "--hold", "5000"];
        eventually("the first serves", async || gateway.log_lines(&a_comes).len() > round).await;
        let (summary, ()) = tokio::join!(node::client("v4", &arguments, 60), async {
            let opened = "sockgate_sessions{upstream=\"app\"";
            eventually("they are there", async || {
                let text = gateway.admin("/metrics").await.text();
                let live = text.lines().filter(|line| line.starts_with(opened));
                live.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).sum::<u32>() >= 20
            })
            .await;
            names.set(SERVICE, &[&at(&b)]).await;
            eventually("the change is taken up", async || gateway.log_lines(&b_comes).len() > round).await;
            let mut other = Client::connect(gateway.address("web")).await;
            assert_eq!(other.get("/socket.io/?EIO=4&transport=polling").await.status, 200);
        });
        assert_eq!(summary["ok"], true, "{transports}: {summary}");
    }
}

#[tokio::test]
async fn containers_of_a_compose_service_are_found_within_the_refresh_whatever_the_ttl() {
    let Some(mut names) = NameServer::start().await else { return };
    let server = Node::server("v4", &["--id", "a"]).await;
    // Nobody is there any more.
    names.set("chat", &["A 600 127.0.0.3"]).await;
    let any = "127.0.0.1:0".to_owned();
    let variables = [
        ("LISTEN", any.clone()),
        ("ADMIN", any),
        ("PORT", server.port().to_string()),
        ("RESOLVER", names.address().to_string()),
    ];
    let yaml = include_str!("../../../conf/compose/sockgate.yaml");
    let variables = variables.into();
    let (gateway, ()) = tokio::join!(Gateway::start_with(yaml, &variables), async {
        names.is_asked_again("chat", 1).await;
        names.set("chat", &["A 600 127.0.0.1"]).await;
    });
    let url = format!("http://{}", gateway.address("web"));
    let summary = node::client("v4", &["--url", &url, "--sessions", "5"], 60).await;
    assert_eq!(summary["ok"], true, "{summary}");
}
