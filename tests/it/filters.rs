//! Filters of a program's own see every HTTP request, whatever carries it, and every answer.

use std::net::SocketAddr;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use sockgate::{Changes, Filter, FilterAnswer, HeaderEdits, Request, Response, Verdict};

use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Inside, Puppet};

for_each_engine! {
    a_token_is_asked_of_requests_and_their_answers_are_marked,
    a_token_is_asked_of_streams_of_http_2,
    a_token_is_asked_of_polls,
    a_token_is_asked_of_websockets_before_a_server_hears_of_them,
    an_upgrade_that_a_server_refuses_is_marked_too,
}

/// Lets nobody in without a token, keeps it from servers, and leaves a mark on what goes either way.
struct Token;

#[async_trait]
impl Filter for Token {
    async fn request(&self, request: &Request<'_>, changes: &mut Changes) -> Verdict {
        // A filter may wait.
        tokio::task::yield_now().await;
        if request.headers.get("x-token") != Some(b"sesame") {
            return Verdict::Answer(FilterAnswer::text(401, "A token is needed."));
        }
        changes.to_server.remove(HeaderName::from_static("x-token"));
        let kind = if request.websocket { "websocket" } else { "request" };
        changes.to_server.set(HeaderName::from_static("x-checked"), HeaderValue::from_static(kind));
        changes.to_server.set(HeaderName::from_static("x-real-ip"), HeaderValue::from_static("192.0.2.1"));
        changes.to_client.set(HeaderName::from_static("server"), HeaderValue::from_static("nobody"));
        Verdict::Pass
    }

    fn response(&self, response: &Response<'_>, edits: &mut HeaderEdits) {
        let by = if response.from_server { "server" } else { "gateway" };
        edits.set(HeaderName::from_static("x-answered-by"), HeaderValue::from_static(by));
    }
}

fn before(server: SocketAddr, kind: &str) -> String {
    format!(
        "routes: [{{ match: {{ path: /here }}, respond: {{ body: here }} }}, {{ upstream: app }}]\n\
         upstreams: {{ app: {{ kind: {kind}, servers: [\"{server}\"], health: {{ check: none }} }} }}\n"
    )
}

const RIGHT: &str = "X-Token: sesame\r\n";
const WRONG: &str = "X-Token: guess\r\n";

async fn a_token_is_asked_of_requests_and_their_answers_are_marked() {
    let server = Echo::start("a").await;
    let gateway = Inside::start(&before(server.address(), "http"), |builder| builder.filter(Token));
    let mut client = Client::connect(gateway.address).await;
    let refused = client.get_with("/", WRONG).await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "A token is needed."));
    assert_eq!(refused.header("x-answered-by"), Some("gateway"));
    assert_eq!(server.accepted(), 0, "no server hears of it");
    let passed = client.get_with("/", RIGHT).await;
    assert_eq!((passed.status, passed.header("x-answered-by")), (200, Some("server")));
    assert_eq!(passed.header("server"), Some("nobody"));
    let seen = passed.text().to_ascii_lowercase();
    assert!(seen.contains("x-checked: request\r\n") && !seen.contains("sesame"), "{seen}");
    assert!(seen.contains("x-real-ip: 192.0.2.1\r\n"), "a filter has the last word on what the gateway tells: {seen}");
    assert_eq!(seen.matches("x-real-ip").count(), 1, "{seen}");
    let here = client.get_with("/here", RIGHT).await;
    assert_eq!((here.status, here.header("x-answered-by")), (200, Some("gateway")));
}

async fn a_token_is_asked_of_streams_of_http_2() {
    let server = Echo::start("a").await;
    let gateway = Inside::start(&before(server.address(), "http"), |builder| builder.filter(Token));
    let client = Http2::over(tcp(gateway.address).await).await;
    let ask = async |token: &str| {
        let request = http::Request::get("http://a.test/x").header("x-token", token).body(()).unwrap();
        client.ask(request, bytes::Bytes::new()).await
    };
    assert_eq!(ask("guess").await.status(), 401);
    assert_eq!(server.accepted(), 0, "no server hears of it");
    let passed = ask("sesame").await;
    assert_eq!(
        (passed.status().as_u16(), &passed.headers()["x-answered-by"]),
        (200, &HeaderValue::from_static("server"))
    );
    let seen = String::from_utf8_lossy(passed.body()).to_ascii_lowercase();
    assert!(seen.contains("x-checked: request\r\n") && !seen.contains("sesame"), "{seen}");
}

async fn a_token_is_asked_of_polls() {
    let server = Echo::start("a").await;
    let gateway = Inside::start(&before(server.address(), "socket.io"), |builder| builder.filter(Token));
    let mut client = Client::connect(gateway.address).await;
    let poll = "/socket.io/?EIO=4&transport=polling&sid=abcdefgh";
    assert_eq!(client.get_with(poll, WRONG).await.status, 401);
    assert_eq!(server.accepted(), 0, "no server hears of it");
    let passed = client.get_with(poll, RIGHT).await;
    let seen = passed.text().to_ascii_lowercase();
    assert!(seen.contains("x-checked: request\r\n") && !seen.contains("sesame"), "{seen}");
}

async fn a_token_is_asked_of_websockets_before_a_server_hears_of_them() {
    let server = Puppet::start().await;
    let gateway = Inside::start(&before(server.address(), "http"), |builder| builder.filter(Token));
    let with = |token: &str| upgrade("/chat").replacen("\r\n", &format!("\r\n{token}"), 1);
    let mut client = Client::connect(gateway.address).await;
    client.send(with(WRONG)).await;
    let refused = client.answer().await;
    assert_eq!((refused.status, refused.header("x-answered-by")), (401, Some("gateway")));
    let mut client = Client::connect(gateway.address).await;
    client.send(with(RIGHT)).await;
    // The first connection that the server sees is that of the second client.
    let mut inside = server.accept().await;
    let seen = String::from_utf8_lossy(&inside.request().await.unwrap().head).to_ascii_lowercase();
    assert!(seen.contains("x-checked: websocket\r\n") && !seen.contains("sesame"), "{seen}");
    inside
        .send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nServer: old\r\nConnection: Upgrade\r\n\r\n\x01",
        )
        .await;
    let agreed = client.answer().await;
    assert_eq!((agreed.status, agreed.header("x-answered-by")), (101, Some("server")));
    assert_eq!(agreed.header("server"), Some("nobody"));
    assert_eq!(client.read(1).await, b"\x01", "what follows the head is the tunnel's");
    client.send("hello").await;
    assert_eq!(inside.read(5).await, b"hello");
}

async fn an_upgrade_that_a_server_refuses_is_marked_too() {
    let server = Puppet::start().await;
    let gateway = Inside::start(&before(server.address(), "http"), |builder| builder.filter(Token));
    let mut client = Client::connect(gateway.address).await;
    client.send(upgrade("/chat").replacen("\r\n", &format!("\r\n{RIGHT}"), 1)).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nServer: old\r\n\r\nno").await;
    let refused = client.answer().await;
    assert_eq!((refused.status, refused.header("server"), refused.text().as_str()), (403, Some("nobody"), "no"));
}
