//! Files of HAProxy and nginx, and what `sockgate import` makes of them, serve the same clients the same.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use tokio::net::TcpStream;

use crate::support::node::{self, Node};
use crate::support::proxies::{Proxy, reserve};
use crate::support::{Client, Echo, Gateway, eventually};

/// What a proxy before the servers does for a web client and for Socket.IO's.
async fn serves(who: &str, address: SocketAddr, path: &str) {
    eventually(&format!("{who} answers"), async || TcpStream::connect(address).await.is_ok()).await;
    let mut client = Client::connect(address).await;
    let answer = client.get("/hello?a=b").await;
    assert_eq!((answer.status, answer.header("x-server")), (200, Some("web")), "{who}");
    let text = answer.text().to_lowercase();
    assert!(text.contains("/hello?a=b") && text.contains("x-edge: yes"), "{who}: {text}");
    assert!(text.contains("x-forwarded-for: 127.0.0.1"), "{who}: {text}");
    assert_eq!(Client::connect(address).await.get("/secret/plans").await.status, 403, "{who}");
    let moved = Client::connect(address).await.get("/old").await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("https://www.a.test/new")), "{who}");
    let url = format!("http://{address}");
    for transports in ["polling,websocket", "websocket"] {
        let arguments = ["--url", &url, "--path", path, "--transports", transports, "--sessions", "4"];
        let summary = node::client("v4", &arguments, 60).await;
        assert_eq!(summary["ok"], true, "{who}, {transports}: {summary}");
    }
}

/// Runs the command as a person would.
fn import(source: &str, folder: &Path, text: &str) -> String {
    let file = folder.join("old.conf");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sockgate")).args(["import", source]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("carried over"), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

struct Servers {
    web: Echo,
    a: Node,
    b: Node,
}

impl Servers {
    async fn start() -> Self {
        let web = Echo::start("web").await;
        Self { web, a: Node::server("v4", &["--id", "a"]).await, b: Node::server("v4", &["--id", "b"]).await }
    }

    /// The old file with the addresses of the servers.
    fn fill(&self, text: &str) -> String {
        let local = |node: &Node| format!("127.0.0.1:{}", node.port());
        text.replace("WEB", &self.web.address().to_string())
            .replace("IO_A", &local(&self.a))
            .replace("IO_B", &local(&self.b))
    }
}

async fn haproxy_and_after(text: &str) {
    let (servers, folder) = (Servers::start().await, tempfile::tempdir().unwrap());
    let text = servers.fill(text);
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    if let Some(_haproxy) = Proxy::haproxy(folder.path(), &text, Some(listening)) {
        serves("HAProxy", address, "/socket.io").await;
    }
    let text = format!("defaults\n    timeout connect 20s\n{}", text.replace("fd@3", "127.0.0.1:0"));
    let imported = import("haproxy", folder.path(), &text);
    let gateway = Gateway::start(&imported).await;
    serves("what was imported", gateway.address("all"), "/socket.io").await;
}

#[tokio::test]
async fn a_file_of_haproxy_serves_the_same_before_and_after() {
    haproxy_and_after(
        "
    mode http
frontend all
    bind fd@3
    acl is_websocket hdr(Upgrade) -i WebSocket
    acl is_socket_io path_beg /socket.io/
    option forwardfor
    http-request set-header X-Edge yes
    http-request deny if { path_beg /secret/ }
    redirect location https://www.a.test/new code 301 if { path /old }
    use_backend sockets if is_websocket or is_socket_io
    default_backend www
backend www
    server web WEB
backend sockets
    balance source
    server a IO_A
    server b IO_B
",
    )
    .await;
}

#[tokio::test]
async fn a_file_of_haproxy_with_a_cookie_serves_the_same_before_and_after() {
    haproxy_and_after(
        "
    mode http
    option forwardfor
    default-server inter 1s rise 1 fall 1
frontend all
    bind fd@3
    http-request deny deny_status 403 if { path_beg /secret/ }
    http-request redirect location https://www.a.test/new code 301 if { path /old }
    use_backend nodes if { path_beg -i /socket.io }
    default_backend www
backend www
    http-request set-header X-Edge yes
    server web WEB check
backend nodes
    option httpchk GET /socket.io/?EIO=4&transport=polling
    http-check expect status 200
    balance url_param sid
    hash-type consistent
    stick-table type string len 40 size 10k expire 1h
    stick store-response res.hdr(X-Nothing)
    cookie server insert indirect nocache
    server a IO_A check cookie a
",
    )
    .await;
}

#[tokio::test]
async fn a_file_of_nginx_serves_the_same_before_and_after() {
    let (servers, folder) = (Servers::start().await, tempfile::tempdir().unwrap());
    let text = servers.fill(
        "
map $http_upgrade $connection_upgrade { default upgrade; '' close; }
upstream nodes { ip_hash; server IO_A; server IO_B; }
server {
    listen 127.0.0.1:PORT reuseport;
    location /app/socket.io/ {
        proxy_pass http://nodes/socket.io/;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header Host $host;
        proxy_read_timeout 1h;
    }
    location /secret/ { deny all; proxy_pass http://WEB; }
    location = /old { return 301 https://www.a.test/new; }
    location / {
        proxy_pass http://WEB;
        proxy_set_header X-Edge yes;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
}
",
    );
    let (_reserved, address) = reserve();
    let with_port = text.replace("PORT", &address.port().to_string());
    if let Some(_nginx) = Proxy::nginx(folder.path(), &with_port) {
        serves("nginx", address, "/app/socket.io").await;
    }
    let imported = import("nginx", folder.path(), &text.replace("PORT", "0"));
    let gateway = Gateway::start(&imported).await;
    serves("what was imported", gateway.address("http-0"), "/app/socket.io").await;
}

#[tokio::test]
async fn a_file_that_is_none_of_that_kind_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, "http {\n  server { listen 80 }\n}\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sockgate")).args(["import", "nginx"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.ends_with("nginx.conf:2: found `}`, expected `;` before it\n") && output.stdout.is_empty(), "{said}");
}

#[tokio::test]
async fn lines_that_kept_somebody_out_are_named_when_they_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("haproxy.cfg");
    let text = "frontend all\n mode http\n bind :80\n http-request deny if { sc_http_req_rate(0) gt 9 }\n default_backend a\nbackend a\n server a 127.0.0.1:1\n";
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sockgate")).args(["import", "haproxy"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("haproxy.cfg:4: it kept somebody out"), "{said}");
}
