//! `sockgate doctor` before HAProxy, nginx and Sockgate: faults that were planted are found, and none where all is well.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::node::Node;
use crate::support::proxies::{Proxy, reserve};
use crate::support::tls::Authority;
use crate::support::{Gateway, eventually};

/// What was found: the names of faults, and those of what is to be looked at.
async fn examine(url: &str, arguments: &[&str]) -> (Vec<String>, Vec<String>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    command.args(["doctor", url, "--json", "--sessions", "6", "--patience", "6"]).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let all: Value =
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    let names = |weight: &str| {
        let of = all.as_array().unwrap().iter().filter(|one| one["weight"] == weight);
        of.map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let faults = names("fault");
    assert_eq!(output.status.success(), faults.is_empty(), "{all:#}");
    (faults, names("care"), all)
}

async fn finds(address: SocketAddr, fault: &str) -> Value {
    let (faults, _, all) = examine(&format!("http://{address}"), &[]).await;
    assert_eq!(faults, [fault], "{all:#}");
    let mended = all[0]["mend"].as_array().unwrap();
    assert!(mended.iter().any(|one| one[0] == "Sockgate"), "{all:#}");
    all
}

async fn up(address: SocketAddr) {
    eventually("somebody listens", async || TcpStream::connect(address).await.is_ok()).await;
}

/// Two servers whose heartbeats are short.
async fn servers() -> (Node, Node) {
    let quick = ["--ping-interval", "3000"];
    (
        Node::server("v4", &[&["--id", "a"], &quick[..]].concat()).await,
        Node::server("v4", &[&["--id", "b"], &quick[..]].concat()).await,
    )
}

/// nginx before these servers, with more in its location.
async fn nginx(a: &Node, b: &Node, upstream: &str, location: &str) -> Option<(Proxy, SocketAddr, impl Drop)> {
    let folder = tempfile::tempdir().unwrap();
    let (reserved, address) = reserve();
    let text = format!(
        "upstream nodes {{ {upstream} server 127.0.0.1:{}; server 127.0.0.1:{}; }}\nserver {{ listen {address} reuseport; location / {{ proxy_pass http://nodes; {location} }} }}\n",
        a.port(),
        b.port()
    );
    let proxy = Proxy::nginx(folder.path(), &text)?;
    up(address).await;
    Some((proxy, address, Held(folder, reserved)))
}

/// What has to live as long as a proxy.
struct Held<A, B>(A, B);

impl<A, B> Drop for Held<A, B> {
    fn drop(&mut self) {}
}

const UPGRADES: &str =
    "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";

#[tokio::test]
async fn nothing_is_found_where_all_is_well() {
    let (a, b) = servers().await;
    let authority = Authority::new();
    let issued = authority.sign(&["localhost"]);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - name: web
    address: 127.0.0.1:0
    http2_websockets: true
    tls: {{ certificates: [{{ cert: {}, key: {} }}] }}
routes:
  - upstream: sessions
upstreams:
  sessions: {{ kind: socket.io, balance: round_robin, servers: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"] }}
",
        issued.cert,
        issued.key,
        a.port(),
        b.port()
    ))
    .await;
    let ca = authority.file("ca.pem");
    let url = format!("https://localhost:{}", gateway.address("web").port());
    let (faults, cares, all) = examine(&url, &["--ca", &ca]).await;
    assert!(faults.is_empty() && cares.is_empty(), "{all:#}");
    let well: Vec<&str> = all.as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    for name in
        ["certificate", "http2", "handshake", "sticky", "websocket", "upgrade", "held_poll", "idle_socket", "cors"]
    {
        assert!(well.contains(&name), "{name}: {all:#}");
    }
    assert!(all.to_string().contains("WebSockets on its streams"), "{all:#}");

    let (faults, ..) = examine(&url, &[]).await;
    assert_eq!(faults, ["certificate"], "nobody else trusts this authority");
    let (faults, ..) = examine(&url.replace("localhost", "127.0.0.1"), &["--ca", &ca]).await;
    assert_eq!(faults, ["certificate"], "it is for another name");
}

#[tokio::test]
async fn nginx_without_upgrades_leaves_sockets_on_polling() {
    let (a, b) = servers().await;
    let Some((_nginx, address, _held)) = nginx(&a, &b, "ip_hash;", "").await else { return };
    let all = finds(address, "no_websocket").await;
    assert!(all[0]["what"].as_str().unwrap().contains("stay on polling"), "{all:#}");
}

#[tokio::test]
async fn nginx_that_goes_round_loses_sessions() {
    let (a, b) = servers().await;
    let Some((_nginx, address, _held)) = nginx(&a, &b, "", UPGRADES).await else { return };
    let all = finds(address, "sticky").await;
    assert!(all[0]["what"].as_str().unwrap().contains("Session ID unknown"), "{all:#}");
}

#[tokio::test]
async fn nginx_with_a_short_timeout_cuts_what_waits() {
    let (a, b) = servers().await;
    let location = format!("{UPGRADES} proxy_read_timeout 1s;");
    let Some((_nginx, address, _held)) = nginx(&a, &b, "ip_hash;", &location).await else { return };
    let (faults, _, all) = examine(&format!("http://{address}"), &[]).await;
    assert_eq!(faults, ["held_poll", "idle_socket"], "{all:#}");
}

async fn haproxy(backend: &str) -> Option<(Proxy, SocketAddr, impl Drop)> {
    let folder = tempfile::tempdir().unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let config =
        format!("    mode http\nfrontend all\n    bind fd@3\n    default_backend nodes\nbackend nodes\n{backend}\n");
    Some((Proxy::haproxy(folder.path(), &config, Some(listening))?, address, Held(folder, ())))
}

#[tokio::test]
async fn haproxy_with_a_cookie_is_for_browsers_only() {
    let (a, b) = servers().await;
    let backend = format!(
        "    cookie server insert indirect nocache\n    server a 127.0.0.1:{} cookie a\n    server b 127.0.0.1:{} cookie b",
        a.port(),
        b.port()
    );
    let Some((_haproxy, address, _held)) = haproxy(&backend).await else { return };
    let (faults, cares, all) = examine(&format!("http://{address}"), &[]).await;
    assert!(faults.is_empty() && cares.contains(&"cookie_needed".to_owned()), "{all:#}");
}

#[tokio::test]
async fn haproxy_with_a_short_tunnel_cuts_sockets() {
    let (a, _b) = servers().await;
    let backend = format!("    timeout tunnel 1s\n    server a 127.0.0.1:{}", a.port());
    let Some((_haproxy, address, _held)) = haproxy(&backend).await else { return };
    finds(address, "idle_socket").await;
}

#[tokio::test]
async fn haproxy_without_a_server_says_so() {
    let Some((_haproxy, address, _held)) = haproxy("    server a 127.0.0.1:1").await else { return };
    finds(address, "no_server").await;
}

/// The gateway with these routes before one server.
async fn sockgate(server: &Node, routes: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
{routes}
upstreams:
  sessions: {{ kind: socket.io, servers: [\"127.0.0.1:{}\"] }}
",
        server.port()
    ))
    .await
}

#[tokio::test]
async fn routes_that_lead_elsewhere_are_found() {
    let (a, _b) = servers().await;
    let gateway = sockgate(&a, "  - { match: { path: /chat }, upstream: sessions }").await;
    finds(gateway.address("web"), "no_route").await;
    let gateway =
        sockgate(&a, "  - { match: { path: /socket.io }, redirect: { scheme: https } }\n  - upstream: sessions").await;
    finds(gateway.address("web"), "redirect").await;
    let gateway =
        sockgate(&a, "  - { match: { path: /socket.io }, respond: { status: 403 } }\n  - upstream: sessions").await;
    finds(gateway.address("web"), "refused").await;
}

#[tokio::test]
async fn answers_that_every_site_may_read_are_found() {
    let (a, _b) = servers().await;
    let fields = "response_headers: { set: { access-control-allow-origin: \"${request.headers.origin}\", access-control-allow-credentials: \"true\" } }";
    let gateway = sockgate(&a, &format!("  - {{ upstream: sessions, {fields} }}")).await;
    finds(gateway.address("web"), "cors").await;
}

#[tokio::test]
async fn nobody_there_is_found() {
    let (_reserved, address) = reserve();
    finds(address, "unreachable").await;
}
