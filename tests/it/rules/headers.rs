//! Rules for header fields: of requests, polls, streams and openings of WebSockets, and of their answers.

use std::net::SocketAddr;

use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet};

for_each_engine! {
    requests_and_answers_are_changed_by_the_upstream_and_then_by_the_route,
    streams_of_http_2_and_polls_are_changed_alike,
    websockets_are_changed_in_both_directions,
    answers_of_the_gateways_own_are_changed_too,
    nobody_forges_what_a_rule_sets,
}

fn rules(server: SocketAddr, kind: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ path: /here }}, respond: {{ body: here }}, response_headers: {{ set: {{ x-route: \"${{route.name}}\", x-served-by: \"${{server.name}}\" }} }} }}
  - name: all
    upstream: app
    request_headers:
      set: {{ X-Client: \"${{client.ip}}\", X-Route: \"${{route.name}} of ${{upstream.name}} at ${{listener.name}}\", X-Tls: \"${{tls.server_name}}\", X-Tier: {{ cel: 'request.headers[\"x-tenant\"] == \"acme\" ? \"gold\" : \"free\"' }}, X-Bad: {{ cel: 'int(request.headers[\"x-secret\"] + \"x\")' }} }}
      add: {{ X-Tag: [route, \"${{request.headers.x-tenant}}\"] }}
      remove: [X-Secret, X-Forwarded-Host]
    response_headers:
      set: {{ Server: sockgate, X-Served-By: \"${{server.name}} for ${{request.method}} ${{request.path}}\" }}
      remove: X-Server
upstreams:
  app:
    kind: {kind}
    servers: [{{ address: \"{server}\", name: first }}]
    health: {{ check: none }}
    request_headers: {{ set: {{ X-Client: upstream, X-Upstream: \"${{upstream.name}}\" }} }}
    response_headers: {{ set: {{ X-Served-By: \"${{server.name}}\", X-From: \"${{upstream.name}}\" }} }}
"
    )
}

/// What a server of ours has to have seen.
fn is_changed(seen: &str) {
    let seen = seen.to_ascii_lowercase();
    for line in [
        "x-client: 127.0.0.1",
        "x-route: all of app at web",
        "x-upstream: app",
        "x-tag: route",
        "x-tag: acme",
        "x-tier: gold",
    ] {
        assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line} is not in {seen}");
    }
    for name in ["x-secret", "x-forwarded-host", "x-tls", "x-bad"] {
        assert!(!seen.contains(name), "{name} is in {seen}");
    }
    assert_eq!(seen.matches("x-client").count(), 1, "{seen}");
}

const SENT: &str = "X-Tenant: acme\r\nX-Secret: 1\r\nX-Client: 6.6.6.6\r\nX-Tls: forged.example\r\nX-Bad: 1\r\n";

async fn requests_and_answers_are_changed_by_the_upstream_and_then_by_the_route() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&rules(server.address(), "http")).await;
    let answer = gateway.client().await.get_with("/x/../y?z", SENT).await;
    is_changed(&answer.text());
    assert_eq!(answer.header("server"), Some("sockgate"));
    assert_eq!(answer.header("x-served-by"), Some("first for GET /y"));
    assert_eq!((answer.header("x-from"), answer.header("x-server")), (Some("app"), None));
    gateway.log_line("gives nothing, since it fails").await;
    assert_eq!(gateway.metric("sockgate_expression_failures_total").await, 1.0);
}

async fn streams_of_http_2_and_polls_are_changed_alike() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&rules(server.address(), "socket.io")).await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let poll = "/socket.io/?EIO=4&transport=polling&sid=abcdefgh";
    for path in ["/x", poll] {
        let request = http::Request::get(format!("http://a.test{path}"));
        let request = request.header("x-tenant", "acme").header("x-secret", "1").header("x-client", "6.6.6.6");
        let answer = client.ask(request.body(()).unwrap(), "").await;
        is_changed(&String::from_utf8_lossy(answer.body()));
        assert_eq!(answer.headers()["server"], "sockgate");
        assert!(answer.headers()["x-served-by"].to_str().unwrap().starts_with("first for GET"));
    }
    let answer = gateway.client().await.get_with(poll, SENT).await;
    is_changed(&answer.text());
    assert_eq!(answer.header("x-served-by"), Some("first for GET /socket.io/"));
}

async fn websockets_are_changed_in_both_directions() {
    let server = Puppet::start().await;
    let gateway = Gateway::start(&rules(server.address(), "http")).await;
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(upgrade("/chat").replacen("\r\n", &format!("\r\n{SENT}"), 1)).await;
    let mut inside = server.accept().await;
    is_changed(&String::from_utf8_lossy(&inside.request().await.unwrap().head));
    inside
        .send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nServer: old\r\nConnection: Upgrade\r\n\r\n\x01",
        )
        .await;
    let agreed = client.answer().await;
    assert_eq!((agreed.status, agreed.header("server")), (101, Some("sockgate")));
    assert_eq!(agreed.header("x-served-by"), Some("first for GET /chat"));
    assert_eq!(client.read(1).await, b"\x01", "what follows the head is the tunnel's");
    client.send("hello").await;
    assert_eq!(inside.read(5).await, b"hello");
}

async fn answers_of_the_gateways_own_are_changed_too() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::start_unready(&rules(nobody, "http")).await;
    let mut client = gateway.client().await;
    let here = client.get("/here").await;
    assert_eq!((here.status, here.header("x-route")), (200, Some("respond-1")));
    assert_eq!(here.header("x-served-by"), None, "no server has");
    let refused = client.get("/there").await;
    assert_eq!((refused.status, refused.header("server")), (502, Some("sockgate")));
    assert_eq!(refused.header("x-from"), Some("app"));
}

async fn nobody_forges_what_a_rule_sets() {
    let server = Echo::start("a").await;
    let yaml = format!("{}forwarding: {{ underscores: true }}\n", rules(server.address(), "http"));
    let gateway = Gateway::start(&yaml).await;
    let forged = "X-Tenant: acme\r\nX_Client: 6.6.6.6\r\nx-cLIENT: 6.6.6.6\r\nX_TLS: forged\r\n";
    let seen = gateway.client().await.get_with("/", forged).await.text();
    is_changed(&seen);
    assert!(!seen.contains("6.6.6.6") && !seen.contains("forged"), "{seen}");
}
