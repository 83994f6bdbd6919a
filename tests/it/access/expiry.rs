//! What becomes of sockets when the token expires that they were let in by.

use std::time::{SystemTime, UNIX_EPOCH};

use h2::ext::Protocol;
use http::{Method, Request};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::gateway;
use crate::support::client::tcp;
use crate::support::engine::{ENGINE, for_each_engine};
use crate::support::http2::Http2;
use crate::support::node::Node;
use crate::support::websocket::{close, echoes, opened};
use crate::support::{Echo, Gateway, eventually};

for_each_engine! {
    a_websocket_ends_when_its_token_does,
    a_websocket_stays_where_that_is_not_asked_for,
    a_session_that_polls_is_told_goodbye_and_has_to_show_a_token_again,
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const UNAUTHORIZED: u16 = 3000;
/// How long tokens are good, in seconds: long enough to be shown on a busy machine.
const LIFE: u64 = 8;

/// A token that is good for so many seconds, and a bit.
fn good_for(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "exp": now + seconds });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()).unwrap()).unwrap()
}

fn access(more: &str) -> String {
    format!("{{ jwt: {{ secret: {SECRET}, leeway: 0s, from: {{ query: token }}{more} }} }}")
}

async fn a_websocket_ends_when_its_token_does() {
    let server = Echo::start("a").await;
    let gateway = gateway(server.address(), &access(", expiry: close"), "").await;
    let mut stays = opened(gateway.client().await, &format!("/chat?token={}", good_for(600))).await;
    let streams = Http2::over(tcp(gateway.address("web")).await).await;
    streams.get("http://a.test/").await;
    let token = good_for(LIFE);
    let mut socket = opened(gateway.client().await, &format!("/chat?token={token}")).await;
    let mut opening = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://a.test/chat?token={token}"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    opening.extensions_mut().insert(Protocol::from_static("websocket"));
    // Pingora's engine takes none on streams.
    let mut stream = if streams.takes_websockets() { Some(streams.websocket(opening).await) } else { None };
    let sockets = if stream.is_some() { 2.0 } else { 1.0 };
    assert_eq!(sockets, if ENGINE.get() == "relay" { 2.0 } else { 1.0 });
    echoes(&mut socket).await;
    if let Some(stream) = &mut stream {
        echoes(stream).await;
        assert_eq!(stream.read_all().await, close(UNAUTHORIZED, false));
    }
    assert_eq!(socket.read_all().await, close(UNAUTHORIZED, false));
    gateway.access_line(&["event=close", "closed_by=expired_token", "close_code=3000"]).await;
    let told = "sockgate_goodbyes_total{upstream=\"app\",why=\"expired_token\"}";
    eventually("each goodbye is counted", async || gateway.metric(told).await == sockets).await;
    assert_eq!(
        gateway.client().await.get(&format!("/x?token={token}")).await.status,
        401,
        "nor does it let in any more"
    );
    echoes(&mut stays).await;
}

async fn a_websocket_stays_where_that_is_not_asked_for() {
    let server = Echo::start("a").await;
    let gateway = gateway(server.address(), &access(""), "").await;
    let token = good_for(LIFE);
    let mut socket = opened(gateway.client().await, &format!("/chat?token={token}")).await;
    is_over(&gateway, &token).await;
    echoes(&mut socket).await;
}

/// Waits until nobody comes in with this token any more.
async fn is_over(gateway: &Gateway, token: &str) {
    let path = format!("/x?token={token}");
    eventually("the token has expired", async || gateway.client().await.get(&path).await.status == 401).await;
}

async fn a_session_that_polls_is_told_goodbye_and_has_to_show_a_token_again() {
    let server = Node::server("v4", &["--id", "a"]).await;
    let gateway = gateway(([127, 0, 0, 1], server.port()).into(), &access(", expiry: close, sessions: once"), "").await;
    let poll = "/socket.io/?EIO=4&transport=polling";
    let open = async |token: &str| {
        let text = gateway.client().await.get(&format!("{poll}&token={token}")).await.text();
        let sid = text.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap();
        format!("{poll}&sid={sid}")
    };
    // While a poll waits, and between two of them.
    let token = good_for(LIFE);
    let (waits, between) = (open(&token).await, open(&token).await);
    let mut client = gateway.client().await;
    assert_eq!(client.post(&waits, b"40").await.status, 200);
    assert!(client.get(&waits).await.text().starts_with("40"), "what the session begins with");
    let told = client.get(&waits).await;
    assert_eq!((told.status, told.text().as_str()), (200, "1"), "the goodbye of Engine.IO");
    gateway.access_line(&["closed_by=expired_token", "status=200"]).await;
    is_over(&gateway, &token).await;
    assert_eq!(gateway.client().await.get(&between).await.status, 401);
}
