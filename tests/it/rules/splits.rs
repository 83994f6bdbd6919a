//! Several upstreams behind one route, copies for another one, and what a route says of times, sizes and pages.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::{self, Node};
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet, eventually};

for_each_engine! {
    a_client_stays_on_its_side,
    a_cookie_keeps_a_client_where_weights_change,
    a_rewrite_a_canary_and_a_header_rule_at_once_leave_sessions_alone,
    requests_are_copied_and_nobody_waits_for_their_answers,
    sockets_and_large_bodies_are_not_copied,
    a_route_says_times_sizes_and_pages,
    the_canary_that_comes_along_serves_sessions,
    a_share_is_answered_here,
    requests_of_one_client_are_shared_out,
    a_session_is_no_part_of_the_share_that_is_answered_here,
}

fn canary(servers: [std::net::SocketAddr; 2], weights: [u16; 2], more: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes: [{{ name: all, upstream: [{{ name: stable, weight: {} }}, {{ name: canary, weight: {} }}]{more} }}]
upstreams:
  stable: {{ servers: [\"{}\"], health: {{ check: none }} }}
  canary: {{ servers: [\"{}\"], health: {{ check: none }} }}
",
        weights[0], weights[1], servers[0], servers[1]
    )
}

async fn a_client_stays_on_its_side() {
    let (stable, canary_server) = (Echo::start("stable").await, Echo::start("canary").await);
    let gateway = Gateway::start(&canary([stable.address(), canary_server.address()], [1, 1], "")).await;
    let address = gateway.address("web");
    let mut sides = BTreeMap::<String, usize>::new();
    for last in 1..=40 {
        let side = Client::connect_from(last, address).await.get("/").await.header("x-server").unwrap().to_owned();
        let mut socket = Client::connect_from(last, address).await;
        socket.send(upgrade("/")).await;
        assert_eq!(socket.answer().await.header("x-server"), Some(&*side), "a socket goes where requests go");
        *sides.entry(side).or_default() += 1;
    }
    assert!(sides.len() == 2 && sides.values().all(|&clients| clients > 5), "{sides:?}");
}

async fn a_cookie_keeps_a_client_where_weights_change() {
    let (stable, other) = (Echo::start("stable").await, Echo::start("canary").await);
    let servers = [stable.address(), other.address()];
    let mut gateway = Gateway::start(&canary(servers, [0, 1], ", split: { cookie: side }")).await;
    let first = gateway.client().await.get("/").await;
    assert_eq!(first.header("x-server"), Some("canary"));
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    gateway.reload(&canary(servers, [1000, 1], ", split: { cookie: side }")).await;
    let mut client = gateway.client().await;
    for _ in 0..5 {
        let again = client.get_with("/", &format!("Cookie: {cookie}\r\n")).await;
        assert_eq!((again.header("x-server"), again.header("set-cookie")), (Some("canary"), None));
    }
    gateway.reload(&canary(servers, [1, 0], ", split: { cookie: side }")).await;
    let moved = gateway.client().await.get_with("/", &format!("Cookie: {cookie}\r\n")).await;
    assert_eq!(moved.header("x-server"), Some("stable"), "a side without a share is left");
    assert!(moved.header("set-cookie").is_some());
}

/// What the issue asks for: a session survives a prefix rewrite, a canary and a header rule at once, on every transport.
async fn a_rewrite_a_canary_and_a_header_rule_at_once_leave_sessions_alone() {
    let servers = [Node::server("v4", &["--id", "a"]).await, Node::server("v4", &["--id", "b"]).await];
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ path: /app1 }}
    upstream: [{{ name: stable }}, {{ name: canary }}]
    rewrite: {{ strip_prefix: /app1 }}
    request_headers: {{ set: {{ X-Side: \"${{upstream.name}}\" }} }}
    response_headers: {{ set: {{ X-Side: \"${{upstream.name}}\" }} }}
upstreams:
  stable: {{ kind: socket.io, servers: [\"127.0.0.1:{}\"] }}
  canary: {{ kind: socket.io, servers: [\"127.0.0.1:{}\"] }}
",
        servers[0].port(),
        servers[1].port()
    ))
    .await;
    let url = format!("http://{}", gateway.address("web"));
    for transports in ["polling", "websocket", "polling,websocket"] {
        let options = [
            "--url",
            &url,
            "--path",
            "/app1/socket.io",
            "--transports",
            transports,
            "--sessions",
            "16",
            "--messages",
            "3",
            "--local-addresses",
            "127.0.0.2-127.0.0.17",
        ];
        let summary: Value = node::client("v4", &options, 60).await;
        assert_eq!((&summary["ok"], &summary["server_changes"]), (&true.into(), &0.into()), "{transports}: {summary}");
        assert_eq!(summary["servers"].as_object().unwrap().len(), 2, "both sides have sessions: {summary}");
    }
}

fn mirrored(server: std::net::SocketAddr, mirror: std::net::SocketAddr) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
    rewrite: {{ add_prefix: /v1 }}
    request_headers: {{ set: {{ X-Rule: \"1\" }} }}
    mirror: {{ upstream: shadow, body: 1KiB, max_open: 1 }}
upstreams:
  app: {{ kind: socket.io, servers: [\"{server}\"], health: {{ check: none }} }}
  shadow: {{ servers: [\"{mirror}\"], health: {{ check: none }} }}
"
    )
}

async fn counted(gateway: &Gateway, result: &str, number: f64) {
    let name = format!("sockgate_mirrored_total{{result=\"{result}\",upstream=\"shadow\"}}");
    eventually(&format!("{number} {result}"), async || gateway.metric(&name).await == number).await;
}

async fn requests_are_copied_and_nobody_waits_for_their_answers() {
    let (server, shadow) = (Echo::start("a").await, Puppet::start().await);
    let gateway = Gateway::start(&mirrored(server.address(), shadow.address())).await;
    let mut client = gateway.client().await;
    let answer = client.post("/x?y", b"hello").await;
    assert_eq!((answer.status, answer.header("x-server")), (200, Some("a")), "the mirror has not answered");
    // One copy is under way, which is as many as there may be.
    assert_eq!(client.get("/late").await.status, 200);
    counted(&gateway, "skipped", 1.0).await;
    let mut inside = shadow.accept().await;
    let copy = inside.request().await.unwrap();
    let head = String::from_utf8_lossy(&copy.head).to_ascii_lowercase();
    assert!(head.starts_with("post /v1/x?y http/1.1\r\n") && head.contains("\r\nx-rule: 1\r\n"), "{head}");
    assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
    assert_eq!(copy.body, b"hello");
    inside.send("HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nlost").await;
    counted(&gateway, "answered", 1.0).await;
    let http2 = Http2::over(tcp(gateway.address("web")).await).await;
    assert_eq!(http2.get("http://a.test/h2").await.status(), 200);
    let mut inside = shadow.accept().await;
    let head = inside.request().await.unwrap().head;
    assert!(head.starts_with(b"GET /v1/h2 HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
    drop(inside);
    counted(&gateway, "failed", 1.0).await;
}

async fn sockets_and_large_bodies_are_not_copied() {
    let (server, shadow) = (Echo::start("a").await, Echo::start("shadow").await);
    let gateway = Gateway::start(&mirrored(server.address(), shadow.address())).await;
    let mut client = gateway.client().await;
    assert_eq!(client.post("/x", &[b'x'; 2000]).await.status, 200);
    let poll = "/socket.io/?EIO=4&transport=polling&sid=abcdefgh";
    client.get(poll).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.status, 101);
    counted(&gateway, "skipped", 1.0).await;
    assert_eq!(client.get("/copied").await.status, 200);
    counted(&gateway, "answered", 1.0).await;
    assert_eq!(shadow.accepted(), 1);
}

async fn a_route_says_times_sizes_and_pages() {
    let server = Puppet::start().await;
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("late.json");
    std::fs::write(&page, "{\"late\": true}").unwrap();
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
error_pages: {{ 4xx: {{ body: \"<p>No.</p>\" }}, 504: {{ body: all }} }}
routes:
  - match: {{ path: /slow }}
    upstream: app
    timeouts: {{ first_byte: 200ms }}
    error_pages: {{ 5xx: {{ file: {} }} }}
  - match: {{ path: /small }}
    upstream: app
    limits: {{ body: 10 }}
    access: {{ cors: {{ origins: \"https://page.example\" }} }}
upstreams:
  app: {{ servers: [\"{}\"], health: {{ check: none }} }}
",
        page.display(),
        server.address()
    ))
    .await;
    let mut client = gateway.client().await;
    let late = client.get("/slow").await;
    assert_eq!((late.status, late.header("content-type")), (504, Some("application/json")));
    assert_eq!(late.text(), "{\"late\": true}");
    let mut client = gateway.client().await;
    client
        .send(
            "POST /small HTTP/1.1\r\nHost: a\r\nOrigin: https://page.example\r\nContent-Length: 11\r\n\r\nhello world",
        )
        .await;
    let large = client.answer().await;
    assert_eq!((large.status, large.text().as_str()), (413, "<p>No.</p>"));
    assert_eq!(large.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(large.header("access-control-allow-origin"), Some("https://page.example"), "a page may read it");
    let mut client = gateway.client().await;
    client.send("HEAD /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let head = String::from_utf8(client.read_all().await).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 404 ") && head.contains("content-length: 10\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    let http2 = Http2::over(tcp(gateway.address("web")).await).await;
    let nowhere = http2.get("http://a.test/nowhere").await;
    assert_eq!((nowhere.status().as_u16(), nowhere.body().as_slice()), (404, &b"<p>No.</p>"[..]));
}

async fn the_canary_that_comes_along_serves_sessions() {
    let servers = [Node::server("v4", &["--id", "stable"]).await, Node::server("v4", &["--id", "canary"]).await];
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/canary.yaml");
    let variables = [
        ("LISTEN", "127.0.0.1:0".to_owned()),
        ("STABLE", format!("127.0.0.1:{}", servers[0].port())),
        ("CANARY", format!("127.0.0.1:{}", servers[1].port())),
    ];
    let gateway = Gateway::start_with(&std::fs::read_to_string(file).unwrap(), &variables.into()).await;
    let url = format!("http://{}", gateway.address("web"));
    // Through a stripped prefix, a split and rules for header fields at once, by every transport.
    for (transports, sessions) in [("polling,websocket", "20"), ("polling", "8"), ("websocket", "8")] {
        let options = ["--url", &url, "--path", "/app/socket.io", "--transports", transports, "--sessions", sessions];
        let summary: Value = node::client("v4", &options, 60).await;
        assert_eq!((&summary["ok"], &summary["server_changes"]), (&true.into(), &0.into()), "{summary}");
    }
    let handshake = "/app/socket.io/?EIO=4&transport=polling";
    let mut client = gateway.client().await;
    let answer = client.get_with(handshake, "Cookie: app_version=2\r\n").await;
    assert_eq!((answer.status, answer.header("x-served-by")), (200, None), "the other route says nothing of it");
    let answer = client.get(handshake).await;
    assert!(answer.status == 200 && answer.header("x-served-by").is_some());
    assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.starts_with("app_side=")));
    assert_eq!(client.get("/elsewhere").await.status, 404);
}

async fn a_share_is_answered_here() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
error_pages: {{ 418: {{ body: \"<p>Tea.</p>\" }} }}
routes:
  - name: some
    match: {{ path: /some }}
    upstream: [{{ name: app }}, {{ respond: 503 }}]
    mirror: {{ upstream: shadow }}
    response_headers: {{ set: {{ X-Rule: \"1\" }} }}
  - {{ name: all, match: {{ path: /all }}, upstream: [{{ respond: 500 }}] }}
  - {{ name: kept, match: {{ path: /kept }}, upstream: [{{ respond: 418 }}], access: {{ basic: {{ users: [\"u:$$2y$$05$$PFvOwSj4TpUCHGVlgP2Pme/AJuk0bGyDFNpWMHCj.2Ayu/eCbZqnG\"] }} }} }}
  - {{ name: tea, match: {{ path: /tea }}, upstream: [{{ respond: 418 }}] }}
  - {{ name: nothing, match: {{ path: /nothing }}, upstream: [{{ respond: 204, weight: 3 }}, {{ name: app, weight: 0 }}] }}
upstreams:
  app: {{ servers: [\"{server}\"], health: {{ check: none }} }}
  shadow: {{ servers: [\"{server}\"], health: {{ check: none }} }}
",
        server = server.address()
    ))
    .await;
    let address = gateway.address("web");
    let (mut served, mut refused) = (0, 0);
    for last in 1..=40 {
        let answer = Client::connect_from(last, address).await.get("/some").await;
        assert_eq!(answer.header("x-rule"), Some("1"));
        match answer.status {
            200 => served += 1,
            status => {
                assert_eq!((status, answer.header("cache-control")), (503, Some("no-store")));
                refused += 1;
                let mut socket = Client::connect_from(last, address).await;
                socket.send(upgrade("/some")).await;
                assert_eq!(socket.answer().await.status, 503, "a socket goes where requests go");
            }
        }
    }
    assert!(served > 5 && refused > 5, "{served} and {refused}");
    counted(&gateway, "answered", f64::from(served)).await;
    assert_eq!(gateway.metric("sockgate_refusals_total{reason=\"share\"}").await, f64::from(2 * refused));

    let mut client = gateway.client().await;
    assert_eq!(client.get("/all").await.status, 500);
    gateway.access_line(&["target=/all", "status=500", "route=all", "closed_by=share"]).await;
    assert_eq!(client.get("/kept").await.status, 401, "who may not ask is told so first");
    let tea = client.get("/tea").await;
    assert_eq!((tea.status, tea.text().as_str()), (418, "<p>Tea.</p>"));
    client.send("GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let nothing = String::from_utf8(client.read_all().await).unwrap().to_ascii_lowercase();
    assert!(nothing.starts_with("http/1.1 204 ") && nothing.ends_with("\r\n\r\n"), "{nothing}");
    assert!(!nothing.contains("content-"), "{nothing}");
    let http2 = Http2::over(tcp(address).await).await;
    assert_eq!(http2.get("http://a.test/all").await.status(), 500);
}

async fn requests_of_one_client_are_shared_out() {
    let (stable, other) = (Echo::start("stable").await, Echo::start("canary").await);
    let servers = [stable.address(), other.address()];
    let gateway = Gateway::start(&canary(servers, [1, 1], ", split: { by: request }")).await;
    let mut client = gateway.client().await;
    let mut sides = BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        *sides.entry(client.get("/").await.header("x-server").unwrap().to_owned()).or_default() += 1;
    }
    assert!(sides.len() == 2 && sides.values().all(|&requests| requests > 10), "{sides:?}");
}

async fn a_session_is_no_part_of_the_share_that_is_answered_here() {
    let node = Node::server("v4", &["--id", "a"]).await;
    let before = |weights: [u16; 2]| {
        format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes: [{{ name: all, upstream: [{{ name: sockets, weight: {} }}, {{ respond: 500, weight: {} }}] }}]
upstreams:
  sockets: {{ kind: socket.io, servers: [\"127.0.0.1:{}\"] }}
",
            weights[0],
            weights[1],
            node.port()
        )
    };
    let mut gateway = Gateway::start(&before([1, 0])).await;
    let open = "/socket.io/?EIO=4&transport=polling";
    let mut client = gateway.client().await;
    let opened = client.get(open).await.text();
    let sid = opened.split('"').nth(3).unwrap().to_owned();
    gateway.reload(&before([0, 1])).await;
    let mut client = gateway.client().await;
    assert_eq!(client.get(open).await.status, 500, "nobody new");
    assert_eq!(client.post(&format!("{open}&sid={sid}"), b"40").await.status, 200);
    assert_eq!(client.get(&format!("{open}&sid={sid}")).await.status, 200);
    let mut socket = gateway.client().await;
    socket.send(upgrade(&format!("/socket.io/?EIO=4&transport=websocket&sid={sid}"))).await;
    assert_eq!(socket.answer().await.status, 101);
}
