//! TLS to servers: who has to prove what to whom, and what becomes of those that can't.

use std::collections::HashMap;

use super::to;
use crate::support::engine::for_each_engine;
use crate::support::server::echo;
use crate::support::tls::Authority;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Scripted, Setup, eventually};

for_each_engine! {
    servers_have_to_prove_who_they_are,
    the_gateway_proves_who_it_is_where_servers_ask,
    connections_to_servers_are_kept_over_tls,
    unverified_servers_are_met_on_systems_without_authorities,
    a_server_with_the_wrong_certificate_is_down,
}

/// What becomes of a GET, of a WebSocket and of a raw connection to one server with each of these `tls`.
async fn outcomes(server: std::net::SocketAddr, cases: &[&str]) -> Vec<(u16, u16, bool)> {
    let mut yaml = "\nlisteners:\n  - { name: web, address: 127.0.0.1:0 }\n".to_owned();
    for case in 0..cases.len() {
        yaml += &format!("  - {{ name: raw{case}, address: 127.0.0.1:0, protocol: tcp, upstream: raw{case} }}\n");
    }
    yaml += "routes:\n";
    for case in 0..cases.len() {
        yaml += &format!("  - {{ match: {{ path: /{case} }}, upstream: web{case} }}\n");
    }
    yaml += "upstreams:\n";
    for (case, tls) in cases.iter().enumerate() {
        for (name, kind) in [("web", "http"), ("raw", "tcp")] {
            yaml += &format!(
                "  {name}{case}: {{ kind: {kind}, servers: [\"{server}\"], tls: {{ {tls} }}, health: {{ check: none }}, \
                 ejection: {{ failures: 0 }} }}\n"
            );
        }
    }
    let gateway = Gateway::start(&yaml).await;
    let mut outcomes = Vec::new();
    for case in 0..cases.len() {
        let get = gateway.client().await.get(&format!("/{case}")).await.status;
        let mut socket = gateway.client().await;
        socket.send(upgrade(&format!("/{case}"))).await;
        let switched = socket.answer().await.status;
        if switched == 101 {
            socket.send(b"\x81\x02hi").await;
            assert_eq!(socket.read(4).await, b"\x81\x02hi");
        }
        let mut raw = Client::connect(gateway.address(&format!("raw{case}"))).await;
        let _ = raw.try_send("GET /raw HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let carried = raw.some_until(b"\r\n\r\n").await.is_some_and(|head| head.starts_with(b"HTTP/1.1 200"));
        outcomes.push((get, switched, carried));
    }
    outcomes
}

async fn servers_have_to_prove_who_they_are() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test", "127.0.0.1"]), false), "secure").await;
    let (ca, other) = (authority.ca(), stranger.ca());
    let got = outcomes(
        server.address(),
        &[
            &format!("ca: {ca}, server_name: app.test"),
            &format!("ca: {ca}"),
            &format!("ca: {ca}, server_name: other.test"),
            &format!("ca: {other}, server_name: app.test"),
            "verify: false",
            "verify: false, server_name: other.test",
        ],
    )
    .await;
    let (proved, refused) = ((200, 101, true), (502, 502, false));
    assert_eq!(got, [proved, proved, refused, refused, proved, proved]);
}

async fn the_gateway_proves_who_it_is_where_servers_ask() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test"]), true), "secure").await;
    let (ours, strange) = (authority.sign(&["gateway.test"]), stranger.sign(&["gateway.test"]));
    let ca = format!("ca: {}, server_name: app.test", authority.ca());
    let got = outcomes(
        server.address(),
        &[
            &format!("{ca}, cert: {}, key: {}", ours.cert, ours.key),
            &format!("verify: false, cert: {}, key: {}", ours.cert, ours.key),
            &format!("{ca}, cert: {}, key: {}", strange.cert, strange.key),
            &ca,
        ],
    )
    .await;
    let (proved, refused) = ((200, 101, true), (502, 502, false));
    assert_eq!(got, [proved, proved, refused, refused]);
}

async fn connections_to_servers_are_kept_over_tls() {
    let authority = Authority::new();
    let server = Scripted::start_tls(authority.server(&authority.sign(&["app.test"]), false), |client, _| {
        echo("secure", client)
    })
    .await;
    let tls = format!("ca: {}, server_name: app.test", authority.ca());
    let gateway = to(server.address(), &tls).more("threads: 1").start().await;
    for _ in 0..5 {
        let mut client = gateway.client().await;
        for _ in 0..4 {
            assert_eq!(client.get("/").await.header("x-server"), Some("secure"));
        }
    }
    assert_eq!(server.accepted(), 1, "twenty requests share one connection");
}

async fn unverified_servers_are_met_on_systems_without_authorities() {
    let authority = Authority::new();
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test"]), false), "secure").await;
    let (file, folder) = (authority.file("nothing.pem"), authority.file("nothing"));
    std::fs::write(&file, "").unwrap();
    std::fs::create_dir(&folder).unwrap();
    let system = HashMap::from([("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folder)]);
    let gateway = Gateway::start_with(&to(server.address(), "verify: false").yaml(), &system).await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    let mut socket = gateway.client().await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
}

async fn a_server_with_the_wrong_certificate_is_down() {
    let authority = Authority::new();
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test"]), false), "secure").await;
    let gateway = Setup::before(&[server.address()])
        .upstream(format!("tls: {{ ca: {}, server_name: other.test }}, health: {{ fall: 1 }}", authority.ca()))
        .start_unready()
        .await;
    eventually("the check says why", async || {
        gateway.admin("/status").await.text().contains("not valid for name \\\"other.test\\\"")
    })
    .await;
    assert_eq!(gateway.admin("/readyz").await.status, 503);
    assert_eq!(gateway.client().await.get("/").await.status, 503);
}
