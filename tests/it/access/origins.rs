//! Pages that may ask and those that may not: nobody opens a socket from another site's page (cross-site WebSocket
//! hijacking).

use super::gateway;
use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::{self, Node, TRANSPORTS};
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet};

for_each_engine! {
    a_page_of_another_site_opens_no_socket_and_no_session,
    what_says_no_origin_passes_unless_every_browser_would_have_said_one,
    the_same_site_is_known_behind_a_proxy_that_ends_tls,
    socket_io_clients_come_in_from_a_page_that_may_and_from_no_other,
    streams_of_http_2_are_looked_at_alike,
}

const ALLOWED: &str = "{ origins: [same, \"https://app.example.com\", \"https://*.example.org\"] }";
const POLL: &str = "/socket.io/?EIO=4&transport=polling";

const FOREIGN: [&str; 9] = [
    "https://app.example.com.evil.com",
    "https://evil.com",
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://example.org",
    "null",
    "https://app.example.com/",
    "https://evil.com, https://app.example.com",
    "",
];

async fn a_page_of_another_site_opens_no_socket_and_no_session() {
    let server = Puppet::start().await;
    let gateway = gateway(server.address(), ALLOWED, "").await;
    let opening = |origin: &str| {
        upgrade("/socket.io/?EIO=4&transport=websocket").replacen("\r\n", &format!("\r\nOrigin: {origin}\r\n"), 1)
    };
    for origin in FOREIGN {
        let mut page = gateway.client().await;
        let polled = page.get_with(POLL, &format!("Origin: {origin}\r\n")).await;
        assert_eq!(
            (polled.status, polled.text().as_str()),
            (403, "Nothing is served to pages of this site."),
            "{origin}"
        );
        page.send(opening(origin)).await;
        assert_eq!(page.answer().await.status, 403, "{origin}");
    }
    let mut twice = gateway.client().await;
    let both = "Origin: https://app.example.com\r\nOrigin: https://evil.com\r\n";
    assert_eq!(twice.get_with(POLL, both).await.status, 403);
    gateway.access_line(&["status=403", "closed_by=origin", "protocol=WebSocket"]).await;
    // The first that the server hears of is a page that may.
    for origin in ["https://app.example.com", "https://a.b.example.org", "http://localhost"] {
        let mut page = gateway.client().await;
        page.send(opening(origin)).await;
        let mut inside = server.accept().await;
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap();
        assert!(head.contains(&format!("Origin: {origin}\r\n")), "{head}");
        inside.send("HTTP/1.1 400 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(page.answer().await.status, 400);
    }
}

async fn streams_of_http_2_are_looked_at_alike() {
    let server = Echo::start("a").await;
    let gateway = gateway(server.address(), ALLOWED, "").await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let ask = async |origin: &str| {
        let request = http::Request::get("http://a.test/x").header("origin", origin).body(()).unwrap();
        client.ask(request, "").await.status().as_u16()
    };
    assert_eq!((ask("http://a.test").await, ask("https://app.example.com").await), (200, 200));
    assert_eq!((ask("https://a.test").await, ask("https://evil.com").await), (403, 403));
}

async fn what_says_no_origin_passes_unless_every_browser_would_have_said_one() {
    let server = Echo::start("a").await;
    let routes =
        "  - { match: { path: /strict }, upstream: app, access: { origins: { allow: [same], missing: refuse } } }\n";
    let gateway = gateway(server.address(), ALLOWED, routes).await;
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.post("/", b"x").await.status, 200);
    assert_eq!(client.get("/strict").await.status, 200, "a page reads what is its own without saying so");
    assert_eq!(client.post("/strict", b"x").await.status, 403);
    let mut client = gateway.client().await;
    client.send(upgrade("/strict")).await;
    assert_eq!(client.answer().await.status, 403);
}

async fn the_same_site_is_known_behind_a_proxy_that_ends_tls() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(
        &[server.address()],
        "",
        "access: { origins: same }\n\
         forwarding: { trusted_proxies: [127.0.0.1/32], believe: [X-Forwarded-Proto, X-Forwarded-Host] }",
    )
    .await;
    let ask = async |from, origin: &str, fields: &str| {
        let fields = format!("Host: inside\r\nOrigin: {origin}\r\n{fields}");
        Client::connect_from(from, gateway.address("web")).await.get_with("/", &fields).await.status
    };
    let told = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: a.test\r\n";
    assert_eq!(ask(1, "https://a.test", told).await, 200);
    assert_eq!(ask(1, "http://a.test", told).await, 403);
    assert_eq!(ask(1, "http://inside", "").await, 200);
    assert_eq!(ask(2, "https://a.test", told).await, 403, "strangers are not believed");
}

async fn socket_io_clients_come_in_from_a_page_that_may_and_from_no_other() {
    let server = Node::server("v4", &["--id", "a"]).await;
    let address = ([127, 0, 0, 1], server.port()).into();
    let gateway = gateway(address, ALLOWED, "").await;
    let url = format!("http://{}", gateway.address("web"));
    let run = async |transport: &str, origin: &str| {
        let header = format!("Origin: {origin}");
        let arguments = ["--url", &url, "--transports", transport, "--header", &header, "--timeout", "3000"];
        node::client("v4", &arguments, 60).await
    };
    for transport in TRANSPORTS {
        let allowed = run(transport, "https://app.example.com").await;
        assert_eq!(allowed["ok"], true, "{transport}: {allowed}");
        let foreign = run(transport, "https://evil.com").await;
        assert_eq!(foreign["ok"], false, "{transport}: {foreign}");
    }
}
