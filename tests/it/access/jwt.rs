//! Tokens that have to be shown: on requests, polls and upgrades, by the algorithms of the keys and no others.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{gateway, yaml};
use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::{self, Node, TRANSPORTS};
use crate::support::websocket::upgrade;
use crate::support::{Echo, Gateway, eventually};

for_each_engine! {
    tokens_of_an_outside_issuer_are_good_by_every_algorithm,
    nobody_comes_in_without_a_good_token,
    claims_reach_the_server_and_nobody_else_says_them,
    a_token_is_found_where_it_is_said_to_be_and_is_not_logged,
    a_session_shows_its_token_once_where_that_is_enough,
    keys_are_rotated_and_a_broken_set_changes_nothing,
    socket_io_clients_come_in_with_a_token,
    streams_of_http_2_show_one_too,
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn vectors(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/access/vectors").join(name);
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// A token by the secret, whose header is this.
fn signed(header: &Header, claims: &Value, secret: &str) -> String {
    encode(header, claims, &EncodingKey::from_secret(secret.as_bytes()).unwrap()).unwrap()
}

fn token(claims: &Value) -> String {
    signed(&Header::new(Algorithm::HS256), claims, SECRET)
}

fn good() -> String {
    token(&json!({ "sub": "ann", "exp": now() + 600 }))
}

async fn ask(gateway: &Gateway, token: &str) -> (u16, Option<String>) {
    let mut client = gateway.client().await;
    let answer = client.get_with("/x", &format!("Authorization: Bearer {token}\r\n")).await;
    (answer.status, answer.header("www-authenticate").map(str::to_owned))
}

async fn tokens_of_an_outside_issuer_are_good_by_every_algorithm() {
    let server = Echo::start("a").await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/access/vectors/keys.json");
    let access = format!(
        "{{ jwt: {{ jwks: \"{}\", issuer: \"https://issuer.example\", audience: app, required: [exp, sub] }} }}",
        file.display()
    );
    let gateway = gateway(server.address(), &access, "").await;
    let tokens = vectors("tokens.json");
    let all: Vec<(&String, &str)> = tokens.as_object().unwrap().iter().map(|(k, v)| (k, v.as_str().unwrap())).collect();
    assert!(all.len() >= 8);
    for (algorithm, token) in &all {
        assert_eq!(ask(&gateway, token).await.0, 200, "{algorithm}");
        // Twice, since a good one is known again.
        assert_eq!(ask(&gateway, token).await.0, 200, "{algorithm}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        for (name, other) in all.iter().filter(|(name, _)| name != algorithm) {
            let swapped = format!("{signed}.{}", other.rsplit_once('.').unwrap().1);
            assert_eq!(ask(&gateway, &swapped).await.0, 401, "{algorithm} signed as {name}");
        }
        let payload = URL_SAFE_NO_PAD.encode(json!({ "sub": "eve", "exp": now() + 600 }).to_string());
        let forged = format!("{}.{payload}.{signature}", signed.split('.').next().unwrap());
        assert_eq!(ask(&gateway, &forged).await.0, 401, "{algorithm}");
    }
}

async fn nobody_comes_in_without_a_good_token() {
    let server = Echo::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let mut keys = vectors("keys.json");
    keys["keys"].as_array_mut().unwrap().retain(|key| key["kty"] == "RSA");
    let file = folder.path().join("keys.json");
    fs::write(&file, keys.to_string()).unwrap();
    let access = format!(
        "{{ jwt: {{ secret: {SECRET}, jwks: \"{}\", issuer: me, audience: [app], leeway: 5s }} }}",
        file.display()
    );
    let gateway = gateway(server.address(), &access, "").await;
    let claims = |more: Value| {
        let mut claims = json!({ "iss": "me", "aud": "app", "exp": now() + 600 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    assert_eq!(ask(&gateway, &token(&claims(json!({})))).await, (200, None));
    assert_eq!(ask(&gateway, &token(&claims(json!({ "exp": now() - 2 })))).await.0, 200, "clocks may be apart");
    let before = server.accepted();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let payload = URL_SAFE_NO_PAD.encode(claims(json!({})).to_string());
    // The public key as the secret of an HMAC.
    let confused = signed(&Header::new(Algorithm::HS256), &claims(json!({})), keys["keys"][0]["n"].as_str().unwrap());
    let mut named = Header::new(Algorithm::HS256);
    named.kid = keys["keys"][0]["kid"].as_str().map(str::to_owned);
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["b64".to_owned()]);
    for (what, bad, word) in [
        ("expired", token(&claims(json!({ "exp": now() - 60 }))), "expired_token"),
        ("not yet", token(&claims(json!({ "nbf": now() + 60 }))), "bad_credentials"),
        ("no end", token(&json!({ "iss": "me", "aud": "app" })), "bad_credentials"),
        ("end is a text", token(&claims(json!({ "exp": "tomorrow" }))), "bad_credentials"),
        ("issuer", token(&claims(json!({ "iss": "you" }))), "bad_credentials"),
        ("no issuer", token(&json!({ "aud": "app", "exp": now() + 600 })), "bad_credentials"),
        ("audience", token(&claims(json!({ "aud": ["b", "c"] }))), "bad_credentials"),
        ("no audience", token(&json!({ "iss": "me", "exp": now() + 600 })), "bad_credentials"),
        (
            "secret",
            signed(&Header::new(Algorithm::HS256), &claims(json!({})), &SECRET.replace('0', "1")),
            "bad_credentials",
        ),
        ("none", format!("{none}.{payload}."), "bad_credentials"),
        ("none in capitals", format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"NONE"}"#)), "bad_credentials"),
        ("public key as secret", confused, "bad_credentials"),
        (
            "the id of another kind of key",
            signed(&named, &claims(json!({})), &SECRET.replace('0', "2")),
            "bad_credentials",
        ),
        ("critical", signed(&critical, &claims(json!({})), SECRET), "bad_credentials"),
        ("nonsense", "a.b.c".to_owned(), "bad_credentials"),
    ] {
        let (status, challenge) = ask(&gateway, &bad).await;
        assert_eq!((status, challenge.as_deref()), (401, Some("Bearer error=\"invalid_token\"")), "{what}");
        gateway.access_line(&["status=401", &format!("closed_by={word}")]).await;
    }
    let mut client = gateway.client().await;
    let refused = client.get("/x").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    let other_scheme = client.get_with("/x", "Authorization: Basic YTpi\r\n").await;
    assert_eq!((other_scheme.status, other_scheme.header("www-authenticate")), (401, Some("Bearer")));
    gateway.access_line(&["status=401", "closed_by=no_credentials"]).await;
    let twice = format!("Authorization: Bearer {}\r\n", token(&claims(json!({})))).repeat(2);
    assert_eq!(client.get_with("/x", &twice).await.status, 401, "servers differ in which they take");
    let mut client = gateway.client().await;
    client.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(client.answer().await.status, 401);
    assert_eq!(server.accepted(), before, "no server hears of any");
    // A head may be as large as 64 KiB where the operator says so.
    let large = yaml(server.address(), &access, "") + "limits: { head: 128KiB }\n";
    let large_gateway = Gateway::start(&large).await;
    assert_eq!(ask(&large_gateway, &token(&claims(json!({ "x": "y".repeat(48 * 1024) })))).await.0, 401);
}

async fn claims_reach_the_server_and_nobody_else_says_them() {
    let server = Echo::start("a").await;
    let claims = "claims: { X-User: sub, X-Roles: realm.roles, X-Level: level, X-Gone: gone }";
    let access = format!("{{ jwt: {{ secret: {SECRET}, {claims} }} }}");
    let gateway = gateway(server.address(), &access, "").await;
    let ask = async |token: &str| {
        let fields =
            format!("Authorization: Bearer {token}\r\nX-User: mallory\r\nx_user: mallory\r\nX-GONE: mallory\r\n");
        gateway.client().await.get_with("/", &fields).await
    };
    let claims = json!({ "sub": "ann", "realm": { "roles": ["a", "b"] }, "level": 7, "exp": now() + 600 });
    let seen = ask(&token(&claims)).await.text().to_ascii_lowercase();
    for field in ["x-user: ann\r\n", "x-roles: a,b\r\n", "x-level: 7\r\n"] {
        assert!(seen.contains(field), "{field}: {seen}");
    }
    assert!(!seen.contains("mallory"), "{seen}");
    let broken = json!({ "sub": "ann\r\nX-Admin: yes", "exp": now() + 600 });
    assert_eq!(ask(&token(&broken)).await.status, 401);
}

async fn a_token_is_found_where_it_is_said_to_be_and_is_not_logged() {
    let server = Echo::start("a").await;
    let access =
        format!("{{ jwt: {{ secret: {SECRET}, from: {{ cookie: ticket, query: ticket, header: X-Ticket }} }} }}");
    let gateway = gateway(server.address(), &access, "").await;
    let good = good();
    let ask = async |path: &str, fields: &str| gateway.client().await.get_with(path, fields).await.status;
    assert_eq!(ask(&format!("/socket.io/?EIO=4&ticket={good}"), "").await, 200);
    assert_eq!(ask("/", &format!("Cookie: a=b; ticket={good}\r\n")).await, 200);
    assert_eq!(ask("/", &format!("X-Ticket: {good}\r\n")).await, 200);
    assert_eq!(ask("/", &format!("Authorization: Bearer {good}\r\n")).await, 401);
    assert_eq!(ask(&format!("/?other={good}"), "").await, 401);
    gateway.access_line(&["/socket.io/?EIO=4&ticket=..."]).await;
}

async fn a_session_shows_its_token_once_where_that_is_enough() {
    let server = Node::server("v4", &["--id", "a"]).await;
    let address = ([127, 0, 0, 1], server.port()).into();
    let once = format!(
        "{{ jwt: {{ secret: {SECRET}, sessions: once, from: {{ query: token }}, claims: {{ X-User: sub }} }} }}"
    );
    let routes = "  - { match: { path: /open }, upstream: app, access: { inherit: false } }\n";
    let mut gateway = gateway(address, &once, routes).await;
    let poll = "/socket.io/?EIO=4&transport=polling";
    let mut client = gateway.client().await;
    assert_eq!(client.get(poll).await.status, 401, "none opens without");
    let opened = client.get(&format!("{poll}&token={}", good())).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    let text = opened.text();
    let sid = text.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let connected = client.post(&format!("{poll}&sid={sid}"), b"40").await;
    assert_eq!((connected.status, connected.text().as_str()), (200, "ok"));
    assert_eq!(client.get(&format!("{poll}&sid={sid}")).await.status, 200);
    assert_eq!(client.get(&format!("{poll}&sid=made-up-made-up")).await.status, 401, "a made-up session is none");
    // A reload that changes something else forgets nobody.
    let other = yaml(address, &once, routes) + "limits: { headers: 90 }\n";
    assert_eq!(gateway.reload(&other).await.status, 200);
    let mut client = gateway.client().await;
    assert_eq!(client.post(&format!("{poll}&sid={sid}"), b"1").await.status, 200);
    // With a new secret everybody has to come again.
    let changed = other.replace(SECRET, &SECRET.replace('0', "1"));
    assert_eq!(gateway.reload(&changed).await.status, 200);
    let mut client = gateway.client().await;
    assert_eq!(client.get(&format!("{poll}&sid={sid}")).await.status, 401);
}

async fn keys_are_rotated_and_a_broken_set_changes_nothing() {
    let server = Echo::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let all = vectors("keys.json");
    let write = |text: String| {
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    let only = |name: &str| {
        let keys: Vec<_> = all["keys"].as_array().unwrap().iter().filter(|key| key["kid"] == name).collect();
        json!({ "keys": keys }).to_string()
    };
    write(only("ES256"));
    let gateway = gateway(server.address(), &format!("{{ jwt: {{ jwks: \"{}\" }} }}", file.display()), "").await;
    let tokens = vectors("tokens.json");
    let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
    assert_eq!((ask(&gateway, &token("ES256")).await.0, ask(&gateway, &token("EdDSA")).await.0), (200, 401));
    write(only("EdDSA"));
    eventually("the new key holds", async || ask(&gateway, &token("EdDSA")).await.0 == 200).await;
    assert_eq!(ask(&gateway, &token("ES256")).await.0, 401, "one that was known, too, is none any more");
    write("{ \"keys\": [".to_owned());
    gateway.log_line("found no set of keys").await;
    write(only("enc"));
    gateway.log_line("found no key for a signature").await;
    assert_eq!(ask(&gateway, &token("EdDSA")).await.0, 200, "the last good set stays");
}

async fn socket_io_clients_come_in_with_a_token() {
    let server = Node::server("v4", &["--id", "a"]).await;
    let access = format!("{{ jwt: {{ secret: {SECRET}, from: {{ header: Authorization, query: token }} }} }}");
    let gateway = gateway(([127, 0, 0, 1], server.port()).into(), &access, "").await;
    let url = format!("http://{}", gateway.address("web"));
    let (header, query) = (format!("Authorization: Bearer {}", good()), format!("token={}", good()));
    for transport in TRANSPORTS {
        for (shown, how) in [("--header", &header), ("--query", &query)] {
            let summary = node::client("v4", &["--url", &url, "--transports", transport, shown, how], 60).await;
            assert_eq!(summary["ok"], true, "{transport} {shown}: {summary}");
        }
        let without = node::client("v4", &["--url", &url, "--transports", transport, "--timeout", "3000"], 60).await;
        assert_eq!(without["ok"], false, "{transport}: {without}");
    }
}

async fn streams_of_http_2_show_one_too() {
    let server = Echo::start("a").await;
    let gateway = gateway(server.address(), &format!("{{ jwt: {{ secret: {SECRET} }} }}"), "").await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let ask = async |token: &str| {
        let request = http::Request::get("http://a.test/x").header("authorization", format!("Bearer {token}"));
        client.ask(request.body(()).unwrap(), "").await.status().as_u16()
    };
    assert_eq!((ask(&good()).await, ask("a.b.c").await), (200, 401));
}
