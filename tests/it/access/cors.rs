//! What pages of other sites may read: said at the edge, of servers' answers and the gateway's own.

use super::gateway;
use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::{Client, Echo, Gateway, Puppet};

for_each_engine! {
    a_preflight_reaches_no_server,
    what_a_server_says_itself_is_replaced,
    a_page_can_read_why_it_was_refused,
    a_page_of_another_site_is_told_nothing,
    streams_of_http_2_are_marked_alike,
    a_route_may_say_otherwise,
}

const CORS: &str = "{ cors: { origins: [\"https://app.example.com\"], credentials: true, expose: [X-Total] } }";
const PAGE: &str = "Origin: https://app.example.com\r\n";

fn preflight(path: &str, origin: &str) -> String {
    format!(
        "OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\
         Access-Control-Request-Headers: x-token, content-type\r\n\r\n"
    )
}

/// The values of a field, of which there may be several.
fn all<'a>(answer: &'a crate::support::client::Answer, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
}

async fn a_preflight_reaches_no_server() {
    let server = Echo::start("a").await;
    let gateway = gateway(server.address(), CORS, "").await;
    let mut page = gateway.client().await;
    page.send(preflight("/socket.io/?EIO=4&transport=polling", "https://app.example.com")).await;
    let answer = page.answer().await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("access-control-allow-headers", "x-token, content-type"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(all(&answer, name), [value], "{name}");
    }
    assert!(all(&answer, "vary").contains(&"Origin"), "{}", answer.head);
    page.send(preflight("/", "https://app.example.com.evil.com")).await;
    let refused = page.answer().await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None));
    assert_eq!(server.accepted(), 0, "no server hears of either");
    gateway.access_line(&["status=204", "closed_by=preflight", "route=app"]).await;
    // An OPTIONS that is no preflight is a request.
    page.send("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(page.answer().await.status, 200);
}

async fn what_a_server_says_itself_is_replaced() {
    let server = Puppet::start().await;
    let gateway = gateway(server.address(), CORS, "").await;
    let mut page = gateway.client().await;
    page.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{PAGE}\r\n")).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside
        .send(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\naccess-control-allow-origin: *\r\nVary: Accept-Encoding\r\n\
             Access-Control-Allow-Methods: DELETE\r\nAccess-Control-Allow-Origin: https://b\r\n\r\n",
        )
        .await;
    let answer = page.answer().await;
    assert_eq!(all(&answer, "access-control-allow-origin"), ["https://app.example.com"]);
    assert_eq!(all(&answer, "access-control-expose-headers"), ["X-Total"]);
    assert!(all(&answer, "access-control-allow-methods").is_empty(), "{}", answer.head);
    assert_eq!(all(&answer, "vary"), ["Accept-Encoding", "Origin"]);
}

async fn a_page_of_another_site_is_told_nothing() {
    let server = Puppet::start().await;
    let gateway = gateway(server.address(), CORS, "").await;
    for fields in ["Origin: https://evil.com\r\n", "Origin: null\r\n", ""] {
        let mut page = gateway.client().await;
        page.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside
            .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\n\r\n")
            .await;
        let answer = page.answer().await;
        assert!(!answer.head.to_ascii_lowercase().contains("access-control"), "{}", answer.head);
        assert_eq!(all(&answer, "vary"), ["Origin"], "a cache may not give it to another site");
    }
}

async fn a_page_can_read_why_it_was_refused() {
    let nobody = Puppet::start().await.address();
    let routes = "  - { match: { path: /denied }, upstream: app, access: { deny: 127.0.0.0/8 } }\n";
    let yaml = super::yaml(nobody, CORS, routes) + "limits: { body: 10 }\n";
    let gateway = Gateway::start(&yaml).await;
    let readable = async |request: &str| {
        let mut page = gateway.client().await;
        page.send(request.replacen("\r\n", &format!("\r\nHost: a\r\n{PAGE}"), 1)).await;
        let answer = page.answer().await;
        assert_eq!(all(&answer, "access-control-allow-origin"), ["https://app.example.com"], "{}", answer.head);
        answer.status
    };
    assert_eq!(readable("GET /denied HTTP/1.1\r\n\r\n").await, 403);
    assert_eq!(readable("GET /%2e%2e/%2e%2e/x HTTP/1.1\r\n\r\n").await, 400);
    assert_eq!(readable("POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n").await, 413);
    assert!([502, 503].contains(&readable("GET / HTTP/1.1\r\n\r\n").await));
}

async fn streams_of_http_2_are_marked_alike() {
    let server = Echo::start("a").await;
    let gateway = gateway(server.address(), CORS, "").await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let ask = async |method: &str| {
        let request = http::Request::builder().method(method).uri("http://a.test/x");
        let request =
            request.header("origin", "https://app.example.com").header("access-control-request-method", "PUT");
        client.ask(request.body(()).unwrap(), "").await
    };
    for (method, status) in [("OPTIONS", 204), ("GET", 200)] {
        let answer = ask(method).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example.com");
    }
}

async fn a_route_may_say_otherwise() {
    let server = Echo::start("a").await;
    let routes = "  - { match: { path: /all }, upstream: app, access: { cors: { origins: \"*\" } } }
  - { match: { path: /none }, upstream: app, access: { inherit: false } }
";
    let gateway = gateway(server.address(), CORS, routes).await;
    let told = async |path: &str| {
        let mut page = Client::connect(gateway.address("web")).await;
        let answer = page.get_with(path, "Origin: https://evil.com\r\n").await;
        (answer.header("access-control-allow-origin").map(str::to_owned), answer.header("vary").map(str::to_owned))
    };
    assert_eq!(told("/all").await, (Some("*".to_owned()), None));
    assert_eq!(told("/none").await, (None, None));
    assert_eq!(told("/").await, (None, Some("Origin".to_owned())));
}
