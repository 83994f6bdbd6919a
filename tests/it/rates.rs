//! How much a client may ask for: so many requests in a time, so many at once, and so long ones.

use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::websocket::{SWITCH, socket, tunnel, upgrade};
use crate::support::{Echo, Gateway, Puppet, Setup, eventually};

for_each_engine! {
    requests_beyond_a_rate_are_answered_429_with_the_time_to_come_again,
    a_rate_holds_for_streams_and_the_openings_of_websockets_too,
    a_route_has_a_rate_of_its_own_and_a_bucket_for_each_value,
    a_rate_goes_on_over_a_reload_that_leaves_it_as_it_is,
    a_client_has_so_many_requests_under_way_whatever_carries_them,
    a_path_and_query_that_are_too_long_are_answered_414,
}

/// So slow that no bucket gets anything while a test runs.
const SLOW: &str = "per: 1day";

async fn before(limits: &str) -> (Echo, Gateway) {
    Gateway::before_echo(&format!("limits: {limits}")).await
}

async fn requests_beyond_a_rate_are_answered_429_with_the_time_to_come_again() {
    let (_server, gateway) = before(&format!("{{ rate: {{ requests: 3, {SLOW} }} }}")).await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Whether there is a route makes no difference, and neither does another connection.
    for answer in [client.get("/").await, client.get("/none").await, gateway.client().await.get("/").await] {
        assert_eq!(answer.status, 429, "{}", answer.head);
        let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((28_000..=28_800).contains(&after), "a third of a day: {after}");
    }
    gateway.access_line(&["status=429", "closed_by=rate"]).await;
    assert_eq!(gateway.metric("sockgate_refusals_total{reason=\"rate\"}").await, 3.0);
}

async fn a_rate_holds_for_streams_and_the_openings_of_websockets_too() {
    let (_server, gateway) = before(&format!("{{ rate: {{ requests: 2, {SLOW} }} }}")).await;
    let http2 = Http2::over(crate::support::client::tcp(gateway.address("web")).await).await;
    assert_eq!(http2.get("http://a.test/").await.status(), 200);
    drop(socket(&gateway).await);
    assert_eq!(http2.get("http://a.test/").await.status(), 429);
    let mut client = gateway.client().await;
    client.send(upgrade("/chat")).await;
    assert_eq!(client.answer().await.status, 429);
}

async fn a_route_has_a_rate_of_its_own_and_a_bucket_for_each_value() {
    let server = Echo::start("a").await;
    let route = |path, by| {
        format!(
            "  - {{ match: {{ path: {path} }}, upstream: app, limits: {{ rate: {{ requests: 1, {SLOW}, by: {by} }} }} }}\n"
        )
    };
    let routes = format!("routes:\n{}{}", route("/key", "{ header: X-Key }"), route("/all", "route"));
    let yaml = Setup::before(&[server.address()]).unchecked().yaml().replacen("routes:\n", &routes, 1);
    let gateway = Gateway::start(&yaml).await;
    let mut client = gateway.client().await;
    let mut with = async |path: &str, key: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{key}\r\n")).await;
        client.answer().await.status
    };
    let mut got = Vec::new();
    for key in ["X-Key: one\r\n", "X-Key: one\r\n", "x-key: two\r\n", "", "X-Key:\r\n"] {
        got.push(with("/key", key).await);
    }
    assert_eq!(got, [200, 429, 200, 200, 429], "who has none goes by the address");
    assert_eq!((with("/all", "X-Key: one\r\n").await, with("/all", "X-Key: two\r\n").await), (200, 429));
    for _ in 0..5 {
        assert_eq!(with("/", "").await, 200, "the others have none");
    }
}

async fn a_rate_goes_on_over_a_reload_that_leaves_it_as_it_is() {
    let server = Echo::start("a").await;
    let yaml = |limits: &str| {
        let more = format!("limits: {limits}\nadmin: {{ address: 127.0.0.1:0 }}");
        Setup::before(&[server.address()]).unchecked().more(more).yaml()
    };
    let rate = format!("rate: {{ requests: 1, {SLOW} }}");
    let mut gateway = Gateway::start(&yaml(&format!("{{ {rate} }}"))).await;
    let mut client = gateway.client().await;
    assert_eq!((client.get("/").await.status, client.get("/").await.status), (200, 429));
    gateway.reload(&yaml(&format!("{{ {rate}, uri: 8KiB }}"))).await;
    assert_eq!(client.get("/").await.status, 429);
    gateway.reload(&yaml("{ uri: 8KiB }")).await;
    assert_eq!(client.get("/").await.status, 200);
}

async fn a_client_has_so_many_requests_under_way_whatever_carries_them() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "limits: { requests_per_address: 2 }").await;
    let (socket, far_end) = tunnel(&gateway, &server).await;
    let mut waiting = gateway.client().await;
    waiting.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    let mut client = gateway.client().await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    gateway.access_line(&["status=429", "closed_by=open_requests"]).await;
    // One that is answered makes room, and so does a WebSocket that has ended.
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(waiting.answer().await.status, 200);
    let mut again = gateway.client().await;
    again.send(upgrade("/chat")).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send(SWITCH).await;
    assert_eq!(again.answer().await.status, 101);
    drop((socket, far_end));
    let over = async || {
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        tokio::select! {
            answer = client.answer() => {
                assert_eq!(answer.status, 429);
                false
            }
            _reached = server.accept() => true,
        }
    };
    eventually("the place of the WebSocket is free", over).await;
}

async fn a_path_and_query_that_are_too_long_are_answered_414() {
    let (_server, gateway) = before("{ uri: 100 }").await;
    let mut client = gateway.client().await;
    assert_eq!(client.get(&format!("/?{}", "x".repeat(98))).await.status, 200);
    assert_eq!(client.get(&format!("/?{}", "x".repeat(99))).await.status, 414);
    let http2 = Http2::over(crate::support::client::tcp(gateway.address("web")).await).await;
    assert_eq!(http2.get(&format!("http://a.test/{}", "x".repeat(100))).await.status(), 414);
    gateway.access_line(&["status=414", "closed_by=uri_too_long"]).await;
}
