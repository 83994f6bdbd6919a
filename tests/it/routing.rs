//! Requests find their way, and arrive as they should.

use crate::support::engine::for_each_engine;
use crate::support::node::{self, Node};
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, eventually};

for_each_engine! {
    seed_one_port,
    seed_transports,
    seed_lb_both,
    subdomain_per_app_with_sockets,
}

async fn seed_one_port() {
    let (web, sockets) = (Echo::start("web").await, Echo::start("sockets").await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ path: [/socket.io, /node] }}
    upstream: sockets
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
  sockets: {{ servers: [\"{}\"] }}
",
        web.address(),
        sockets.address()
    ))
    .await;
    let mut client = gateway.client().await;
    for round in 0..50 {
        for (path, server) in [
            ("/", "web"),
            ("/socket.io/?EIO=4&transport=polling", "sockets"),
            ("/nodes", "web"),
            ("/node/1", "sockets"),
            ("/socket.iox", "web"),
            ("//socket.io/", "sockets"),
            ("/x/../node", "sockets"),
        ] {
            let answer = client.get(path).await;
            assert_eq!((answer.status, answer.header("x-server")), (200, Some(server)), "{path} in round {round}");
            assert!(answer.text().contains(&format!("GET {path} HTTP/1.1")), "the original path is forwarded");
        }
    }
    let mut socket = gateway.client().await;
    socket.send(upgrade("/socket.io/")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("sockets"));
}

/// The five transports of Socket.IO's early days through one listener, and the two that are left of them.
async fn seed_transports() {
    let server = Node::server("v0.9", &["--id", "a"]).await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, detect: {{ flash_policy: true, inspect_delay: 10s }} }}
routes:
  - upstream: sockets
upstreams:
  sockets: {{ kind: socket.io, servers: [\"127.0.0.1:{}\"] }}
",
        server.port()
    ))
    .await;
    let address = gateway.address("web");
    let url = format!("http://{address}");
    for transports in ["websocket", "polling"] {
        let options = ["--url", &url, "--transports", transports, "--sessions", "4", "--messages", "3"];
        let summary = node::client("v0.9", &options, 60).await;
        assert_eq!(summary["ok"], true, "{transports}: {summary}");
    }
    let open = async || {
        let handshake = Client::connect(address).await.get("/socket.io/1/").await.text();
        handshake.split(':').next().unwrap().to_owned()
    };
    let sid = open().await;
    let script = Client::connect(address).await.get(&format!("/socket.io/1/jsonp-polling/{sid}?t=1&i=0")).await;
    assert_eq!(script.text(), "io.j[0](\"1::\");");
    let sid = open().await;
    let mut page = Client::connect(address).await;
    page.send(format!("GET /socket.io/1/htmlfile/{sid} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    page.read_until(b"<script>_(\"1::\");</script>").await;
    let sid = open().await;
    let mut policy = Client::connect(address).await;
    policy.send(b"<policy-file-request/>\0").await;
    assert!(policy.read_all().await.ends_with(b"</cross-domain-policy>\0"));
    let mut flash = Client::connect(address).await;
    flash.send(upgrade(&format!("/socket.io/1/flashsocket/{sid}"))).await;
    assert_eq!(flash.answer().await.status, 101);
    flash.read_until(b"1::").await;
}

/// Each pool has a balance of its own: the web app takes turns, sessions stay.
async fn seed_lb_both() {
    let web = [Echo::start("web-1").await, Echo::start("web-2").await];
    let sockets = [Node::server("v4", &["--id", "a"]).await, Node::server("v4", &["--id", "b"]).await];
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ path: /socket.io/ }}
    upstream: sockets
  - upstream: web
upstreams:
  web: {{ balance: round_robin, servers: [\"{}\", \"{}\"] }}
  sockets: {{ kind: socket.io, balance: client_ip, servers: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"] }}
",
        web[0].address(),
        web[1].address(),
        sockets[0].port(),
        sockets[1].port()
    ))
    .await;
    // Both servers of both pools, so that nobody is placed before its server is up.
    for upstream in ["web", "sockets"] {
        eventually("both servers are up", async || {
            let status = gateway.admin("/status").await.text();
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let pool = status["upstreams"].as_array().unwrap().iter().find(|pool| pool["name"] == upstream).unwrap();
            pool["servers"].as_array().unwrap().iter().all(|server| server["state"] == "up")
        })
        .await;
    }
    let mut client = gateway.client().await;
    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(client.get("/").await.header("x-server").unwrap().to_owned());
    }
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
    let url = format!("http://{}", gateway.address("web"));
    let options = ["--url", &url, "--sessions", "24", "--messages", "3", "--local-addresses", "127.0.0.2-127.0.0.25"];
    let summary = node::client("v4", &options, 60).await;
    assert_eq!((&summary["ok"], &summary["server_changes"]), (&true.into(), &0.into()), "{summary}");
    assert_eq!(summary["servers"].as_object().unwrap().len(), 2, "both servers have sessions: {summary}");
}

/// Patrick's wish: a Rails app and a Node app on subdomains of one port, the latter with an API beside its sockets.
async fn subdomain_per_app_with_sockets() {
    let (rails, node) = (Echo::start("rails").await, Echo::start("node").await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ host: live.example.com }}
    upstream: node
  - match: {{ host: [example.com, \"*.example.com\"] }}
    upstream: rails
upstreams:
  rails: {{ servers: [\"{}\"] }}
  node: {{ servers: [\"{}\"] }}
",
        rails.address(),
        node.address()
    ))
    .await;
    let mut client = gateway.client().await;
    for (host, path, server) in [
        ("live.example.com", "/api/rooms", "node"),
        ("LIVE.example.com:80", "/socket.io/?EIO=4&transport=polling", "node"),
        ("www.example.com", "/socket.io/", "rails"),
        ("example.com", "/", "rails"),
    ] {
        let answer = client.get_with(path, &format!("Host: {host}\r\n")).await;
        assert_eq!(answer.header("x-server"), Some(server), "{host}{path}");
    }
    assert_eq!(client.get_with("/", "Host: other.org\r\n").await.status, 404);
    let mut socket = gateway.client().await;
    socket.send(upgrade("/socket.io/").replace("localhost", "live.example.com")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("node"));
}
