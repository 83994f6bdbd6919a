//! Networks that may ask and that may not.

use std::fs;

use super::{gateway, yaml};
use crate::support::client::is_reset;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::server::greet;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet, Scripted, eventually};

for_each_engine! {
    a_network_that_may_not_ask_is_refused_whatever_it_asks_by,
    a_route_says_who_may_ask_in_place_of_the_top_level,
    the_client_that_a_trusted_proxy_tells_of_is_looked_at,
    a_list_that_changes_is_taken_up_and_a_broken_one_is_not,
    a_list_of_a_hundred_thousand_networks_is_looked_up,
}

const POLL: &str = "/socket.io/?EIO=4&transport=polling";

async fn a_network_that_may_not_ask_is_refused_whatever_it_asks_by() {
    let server = Puppet::start().await;
    let gateway = gateway(server.address(), "{ deny: [127.0.0.2] }", "").await;
    let address = gateway.address("web");
    let mut denied = Client::connect_from(2, address).await;
    let refused = denied.get("/x?key=a").await;
    assert_eq!((refused.status, refused.text().as_str()), (403, "Nothing is served to this network."));
    assert_eq!(denied.get(POLL).await.status, 403, "the connection is kept, and every request looked at");
    denied.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(denied.answer().await.status, 403);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let streams = Http2::over(socket.connect(address).await.unwrap()).await;
    assert_eq!(streams.get("http://a.test/x").await.status(), 403);
    let line = gateway.access_line(&["status=403", "closed_by=network", "protocol=WebSocket"]).await;
    assert!(line.contains("client=127.0.0.2") && line.contains("route=app"), "{line}");
    gateway.access_line(&["closed_by=network", "protocol=HTTP/2"]).await;
    gateway.access_line(&["closed_by=network", "protocol=HTTP/1.1", "/x?key=..."]).await;
    assert_eq!(gateway.metric("sockgate_refusals_total{reason=\"network\"}").await, 4.0);
    // The first that the server hears of is somebody else.
    let mut other = gateway.client().await;
    other.send("GET /mine HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = server.accept().await.request().await.unwrap().head;
    assert!(head.starts_with(b"GET /mine "), "{}", String::from_utf8_lossy(&head));
}

async fn a_route_says_who_may_ask_in_place_of_the_top_level() {
    let server = Echo::start("a").await;
    let routes = "  - { match: { path: /office }, upstream: app, access: { allow: [127.0.0.3, 127.0.0.4] } }
  - { match: { path: /open }, respond: { body: open }, access: { inherit: false } }
";
    let gateway = gateway(server.address(), "{ allow: 127.0.0.2, deny: 127.0.0.4 }", routes).await;
    let ask = async |from, path| Client::connect_from(from, gateway.address("web")).await.get(path).await.status;
    for (from, path, status) in [
        (2, "/", 200),
        (3, "/", 403),
        (2, "/office", 403),
        (3, "/office", 200),
        // What the route does not say is as the top level says.
        (4, "/office", 403),
        (4, "/open", 200),
    ] {
        assert_eq!(ask(from, path).await, status, "127.0.0.{from} {path}");
    }
}

async fn the_client_that_a_trusted_proxy_tells_of_is_looked_at() {
    let server = Echo::start("a").await;
    let yaml = yaml(server.address(), "{ allow: 192.0.2.0/24 }", "");
    let gateway = Gateway::start(&format!("{yaml}forwarding: {{ trusted_proxies: [127.0.0.1/32] }}\n")).await;
    let ask = async |from, told: &str| {
        let fields = format!("X-Forwarded-For: {told}\r\n");
        Client::connect_from(from, gateway.address("web")).await.get_with("/", &fields).await.status
    };
    assert_eq!(ask(1, "192.0.2.9").await, 200);
    assert_eq!(ask(1, "192.0.2.9, 198.51.100.1").await, 403, "the last that is vouched for");
    assert_eq!(ask(2, "192.0.2.9").await, 403, "strangers say nothing of themselves");
}

async fn a_list_that_changes_is_taken_up_and_a_broken_one_is_not() {
    let server = Echo::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    let write = |text: &str| {
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &list).unwrap();
    };
    write("# nobody else\n127.0.0.2\n");
    let yaml = yaml(server.address(), &format!("{{ allow: {{ file: {} }} }}", list.display()), "");
    let gateway = Gateway::start(&yaml).await;
    let ask = async |from| Client::connect_from(from, gateway.address("web")).await.get("/").await.status;
    assert_eq!((ask(2).await, ask(3).await), (200, 403));
    write("127.0.0.3/32\n");
    eventually("the new list holds", async || ask(3).await == 200).await;
    assert_eq!(ask(2).await, 403);
    write("127.0.0.2\n127.0.0.256\n");
    gateway.log_line("list.txt:2: found `127.0.0.256`, expected a network").await;
    assert_eq!((ask(3).await, ask(2).await), (200, 403), "everything stays as it was");
}

async fn a_list_of_a_hundred_thousand_networks_is_looked_up() {
    let server = Echo::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    let networks = (0..100_000u32).map(|n| format!("10.{}.{}.{}/31\n", n >> 15, n >> 7 & 0xff, n << 1 & 0xff));
    fs::write(&list, networks.collect::<String>() + "127.0.0.2\n").unwrap();
    let gateway = gateway(server.address(), &format!("{{ deny: {{ file: {} }} }}", list.display()), "").await;
    assert_eq!(Client::connect_from(2, gateway.address("web")).await.get("/").await.status, 403);
    assert_eq!(Client::connect_from(3, gateway.address("web")).await.get("/").await.status, 200);
}

#[tokio::test]
async fn networks_hold_for_raw_connections_too() {
    let server = Scripted::start(|client, _| greet(client)).await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
  - {{ name: own, address: 127.0.0.1:0, protocol: tcp, upstream: raw, access: {{ deny: 127.0.0.3 }} }}
  - {{ name: both, address: 127.0.0.1:0, detect: {{ tcp: raw, inspect_delay: 5s }} }}
routes: [{{ respond: {{}} }}]
upstreams: {{ raw: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }} }} }}
access: {{ deny: 127.0.0.2 }}
",
        server.address()
    ))
    .await;
    let open = async |from, listener: &str, first: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, from], 0).into()).unwrap();
        // What is refused at once may be reset before it is seen to be open.
        let Ok(stream) = socket.connect(gateway.address(listener)).await else { return false };
        let mut client = Client::over(stream);
        let _ = client.try_send(first).await;
        client.some().await.is_some()
    };
    for (from, listener, passes) in [
        (1, "raw", true),
        (2, "raw", false),
        (3, "raw", true),
        // What a listener says stands in place of the same key at the top level.
        (2, "own", true),
        (3, "own", false),
        (1, "both", true),
        (2, "both", false),
    ] {
        assert_eq!(open(from, listener, "\0\0").await, passes, "127.0.0.{from} {listener}");
    }
    gateway.access_line(&["listener=both", "protocol=TCP", "closed_by=network"]).await;
    assert_eq!(gateway.metric("sockgate_refusals_total{reason=\"network\"}").await, 2.0);
    let refused = "sockgate_connections_refused_total{limit=\"network\",listener=\"own\"}";
    assert_eq!(gateway.metric(refused).await, 1.0);
}

#[tokio::test]
async fn a_listener_refuses_before_a_byte_is_read() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, access: {{ deny: 127.0.0.0/8 }} }}
routes: [{{ upstream: app }}]
upstreams: {{ app: {{ servers: [\"{}\"], health: {{ check: none }} }} }}
",
        server.address()
    ))
    .await;
    assert!(is_reset(gateway.address("web")).await);
    assert_eq!(server.accepted(), 0);
}
