//! Upgrades to other protocols than WebSocket, where a route allows them by name: `docker exec`, `kubectl exec`.

use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::{A_WHILE, Echo, Gateway, Puppet, eventually};

for_each_engine! {
    what_no_route_allows_stays_a_request,
}

// What Pingora's proxy is given is a request to its end.
for_the_relay! {
    a_request_with_a_body_upgrades_as_docker_has_it,
    a_protocol_is_known_by_its_name_in_any_case,
    a_server_may_not_switch_to_something_else,
    a_refusal_is_passed_on_and_nothing_behind_the_request_goes_to_the_server,
    other_bodies_are_carried_as_plain_requests,
    a_body_that_does_not_come_takes_no_place_on_a_server,
}

const EXEC: &str = "POST /exec/1/start HTTP/1.1\r\nHost: docker.example\r\nContent-Type: application/json\r\n\
                    Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n";

fn yaml(server: std::net::SocketAddr, upgrade: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - {{ upstream: app{upgrade} }}
upstreams:
  app: {{ servers: [\"{server}\"], health: {{ check: none }} }}
timeouts: {{ body: 1s }}
"
    )
}

async fn gateway(upgrade: &str) -> (Puppet, Gateway) {
    let server = Puppet::start().await;
    let gateway = Gateway::start(&yaml(server.address(), upgrade)).await;
    (server, gateway)
}

async fn a_request_with_a_body_upgrades_as_docker_has_it() {
    let (server, gateway) = gateway(", upgrade: [websocket, tcp]").await;
    let mut client = gateway.client().await;
    client.send(format!("{EXEC}{{}}")).await;
    let mut docker = server.accept().await;
    let request = docker.request().await.unwrap();
    let head = String::from_utf8(request.head).unwrap();
    assert!(head.starts_with("POST /exec/1/start HTTP/1.1\r\n"), "{head}");
    for field in ["Connection: Upgrade", "Upgrade: tcp", "Content-Length: 2", "X-Forwarded-For: 127.0.0.1"] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{field}: {head}");
    }
    assert_eq!(request.body, b"{}");
    docker.send("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n$ ").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("tcp")));
    assert_eq!(client.read(2).await, b"$ ");
    let in_flight = format!("sockgate_server_in_flight{{upstream=\"app\",server=\"{}\"}}", server.address());
    assert_eq!(gateway.metric(&in_flight).await, 1.0);
    // No frames of any kind.
    client.send(b"\x88\x02\x03\xe8ls\n").await;
    assert_eq!(docker.read(7).await, b"\x88\x02\x03\xe8ls\n");
    client.finish().await;
    assert_eq!(docker.read_all().await, b"");
    docker.send("bye").await;
    docker.finish().await;
    assert_eq!(client.read_all().await, b"bye");
    let line = gateway.access_line(&["event=close", "protocol=Upgrade", "status=101"]).await;
    assert!(line.contains(" bytes_in=7 bytes_out=5"), "{line}");
    let opened = "sockgate_tunnels_total{kind=\"upgrade\",upstream=\"app\"}";
    assert_eq!(gateway.metric(opened).await, 1.0);
    eventually("its place is given back", async || gateway.metric(&in_flight).await == 0.0).await;
}

async fn a_protocol_is_known_by_its_name_in_any_case() {
    let (server, gateway) = gateway(", upgrade: SPDY/3.1").await;
    let mut client = gateway.client().await;
    client.send("GET /exec HTTP/1.1\r\nHost: k\r\nConnection: upgrade\r\nUpgrade: h2c, spdy/3.1\r\n\r\n").await;
    let mut kubelet = server.accept().await;
    let head = String::from_utf8(kubelet.request().await.unwrap().head).unwrap();
    assert!(head.contains("\r\nUpgrade: spdy/3.1\r\n") && !head.contains("h2c"), "{head}");
    kubelet.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 101);
    kubelet.send("hello").await;
    assert_eq!(client.read(5).await, b"hello");
}

async fn a_server_may_not_switch_to_something_else() {
    let (server, gateway) = gateway(", upgrade: tcp").await;
    let mut client = gateway.client().await;
    client.send(format!("{EXEC}{{}}")).await;
    let mut docker = server.accept().await;
    docker.request().await.unwrap();
    docker.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 502);
}

async fn a_refusal_is_passed_on_and_nothing_behind_the_request_goes_to_the_server() {
    let (server, gateway) = gateway(", upgrade: tcp").await;
    let mut client = gateway.client().await;
    client.send(format!("{EXEC}{{}}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let mut docker = server.accept().await;
    assert_eq!(docker.request().await.unwrap().body, b"{}");
    assert!(docker.stays_silent(A_WHILE).await, "what is behind it waits for the server to agree");
    docker.send("HTTP/1.1 409 Conflict\r\nContent-Length: 7\r\n\r\nstopped").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (409, "stopped".to_owned()));
    assert_eq!(client.read_all().await, b"");
    assert_eq!(docker.read_all().await, b"");
}

async fn other_bodies_are_carried_as_plain_requests() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&yaml(server.address(), ", upgrade: tcp")).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
    for body in [
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_owned(),
        format!("Content-Length: 40000\r\n\r\n{}", "x".repeat(40_000)),
    ] {
        let mut client = gateway.client().await;
        client.send(format!("{head}{body}")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert!(!answer.text().to_ascii_lowercase().contains("upgrade"), "{}", answer.head);
    }
}

async fn a_body_that_does_not_come_takes_no_place_on_a_server() {
    let (server, gateway) = gateway(", upgrade: tcp").await;
    let mut client = gateway.client().await;
    client.send(EXEC).await;
    assert_eq!(client.answer().await.status, 408);
    assert!(server.stays_alone(A_WHILE).await);
    gateway.access_line(&["closed_by=body_timeout", "status=408", "target=/exec/1/start"]).await;
}

async fn what_no_route_allows_stays_a_request() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&yaml(server.address(), "")).await;
    let allowing = Gateway::start(&yaml(server.address(), ", upgrade: tcp")).await;
    for (gateway, offered) in [(&gateway, "tcp"), (&gateway, "h2c"), (&allowing, "h2c"), (&allowing, "SPDY/3.1")] {
        let mut client = gateway.client().await;
        client.send(EXEC.replace("tcp", offered) + "{}").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{offered}");
        let text = answer.text().to_ascii_lowercase();
        assert!(!text.contains("upgrade") && text.ends_with("\r\n\r\n{}"), "{offered}: {text}");
    }
}
