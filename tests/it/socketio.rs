//! Real Socket.IO clients of every version meet real servers of every version through the gateway.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::engine::for_each_engine;
use crate::support::node::{self, Node, TRANSPORTS, client};
use crate::support::{Client, Gateway, eventually, within};

for_each_engine! {
    version_4_clients_meet_version_4_servers,
    version_3_clients_meet_version_4_servers,
    version_2_clients_meet_version_4_servers,
    version_3_clients_meet_version_3_servers,
    version_2_clients_meet_version_2_servers,
    version_0_9_clients_meet_version_0_9_servers,
    clients_of_every_age_come_in_by_tls,
    payloads_come_back_whole_text_binary_and_large,
    compressed_messages_and_handshakes_of_many_packets_pass,
    python_clients_meet_version_4_servers_and_read_a_compressed_handshake,
    many_clients_behind_one_address_keep_their_sessions,
    a_session_id_alone_leads_to_the_server_that_knows_it,
    servers_see_the_address_of_the_client_by_polling_and_by_websocket,
    a_closed_tab_is_told_to_the_server_at_once,
    the_clients_of_a_killed_server_come_back_on_the_other,
    a_flash_policy_request_reaches_a_socket_io_server_on_the_same_port,
    an_endless_htmlfile_answer_arrives_as_it_is_written,
    the_oldest_websocket_dialect_passes,
}

/// As many clients as there are addresses to come from, and one more.
const MANY: [&str; 4] = ["--sessions", "60", "--local-addresses", "127.0.0.2-127.0.0.60"];

/// Two servers of one version, `a` and `b`, behind one gateway.
struct Pair {
    a: Node,
    b: Node,
    gateway: Gateway,
}

impl Pair {
    async fn start(version: &str, options: &[&str]) -> Self {
        Self::behind(version, options, "detect: { tcp: raw, inspect_delay: 5s }", "client_ip").await
    }

    /// Behind a listener of this kind, placed by this balance.
    async fn behind(version: &str, options: &[&str], listener: &str, balance: &str) -> Self {
        let a = Node::server(version, &[&["--id", "a"], options].concat()).await;
        let b = Node::server(version, &[&["--id", "b"], options].concat()).await;
        let gateway = Gateway::start(&format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0, {listener} }}
routes:
  - upstream: sessions
upstreams:
  sessions: {{ kind: socket.io, balance: {balance}, servers: [\"127.0.0.1:{a}\", \"127.0.0.1:{b}\"] }}
  raw: {{ kind: tcp, servers: [\"127.0.0.1:{a}\"] }}
",
            a = a.port(),
            b = b.port()
        ))
        .await;
        // A gateway is ready as soon as one server is up; the second one takes its share of the ring from then on.
        for server in [&a, &b] {
            let up = format!("sockgate_server_up{{upstream=\"sessions\",server=\"127.0.0.1:{}\"}}", server.port());
            eventually("both servers are up", async || gateway.metric(&up).await == 1.0).await;
        }
        Self { a, b, gateway }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address("web")
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Runs a batch of clients, and expects that all is well with every one of them.
    async fn all_well(&self, version: &str, options: &[&str]) -> Value {
        let summary = client(version, &[&["--url", &self.url()], options].concat(), 60).await;
        assert_eq!(summary["ok"], true, "{version} {options:?}: {summary}");
        summary
    }

    /// What the servers counted, health checks included.
    async fn stats(&self) -> [Value; 2] {
        [self.a.stats().await, self.b.stats().await]
    }

    /// The sum of a counter of both.
    async fn counted(&self, name: &str) -> u64 {
        self.stats().await.iter().map(|stats| stats[name].as_u64().unwrap()).sum()
    }
}

/// A client that says what befalls it and does as it is told.
struct Puppet {
    child: Child,
    orders: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    heard: Vec<Value>,
    tags: u64,
}

impl Puppet {
    fn start(version: &str, url: &str, options: &[&str]) -> Self {
        let mut child = Command::new("node")
            .arg(node::folder().join("client.js"))
            .args([version, "--stay", "--url", url])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed");
        let orders = child.stdin.take().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, orders, events, heard: Vec::new(), tags: 0 }
    }

    /// The next event of this name; others are kept, since some come in no certain order.
    async fn next(&mut self, event: &str) -> Value {
        within(event, async {
            loop {
                if let Some(at) = self.heard.iter().position(|told| told["event"] == event) {
                    return self.heard.remove(at);
                }
                let line = self.events.next_line().await.unwrap().expect("the client lives");
                self.heard.push(serde_json::from_str(&line).unwrap());
            }
        })
        .await
    }

    async fn order(&mut self, order: Value) {
        within("an order is taken", self.orders.write_all(format!("{order}\n").as_bytes())).await.unwrap();
    }

    /// Emits an event and gives the answer.
    async fn ask(&mut self, name: &str) -> Value {
        self.tags += 1;
        self.order(json!({ "do": "emit", "name": name, "tag": self.tags })).await;
        let answer = self.next("ack").await;
        assert_eq!(answer["tag"], self.tags);
        answer["args"][0].clone()
    }
}

async fn versions_meet(server: &str, client: &str) {
    let pair = Pair::start(server, &[]).await;
    for transports in TRANSPORTS {
        let summary = pair.all_well(client, &[&["--transports", transports], &MANY[..]].concat()).await;
        let served = &summary["servers"];
        assert!(served["a"].is_u64() && served["b"].is_u64(), "both serve: {served}");
    }
    assert_eq!(pair.counted("transport_errors").await, 0);
}

async fn version_4_clients_meet_version_4_servers() {
    versions_meet("v4", "v4").await;
}

async fn version_3_clients_meet_version_4_servers() {
    versions_meet("v4", "v3").await;
}

async fn version_2_clients_meet_version_4_servers() {
    versions_meet("v4", "v2").await;
}

async fn version_3_clients_meet_version_3_servers() {
    versions_meet("v3", "v3").await;
}

async fn version_2_clients_meet_version_2_servers() {
    versions_meet("v2", "v2").await;
}

async fn version_0_9_clients_meet_version_0_9_servers() {
    versions_meet("v0.9", "v0.9").await;
}

async fn clients_of_every_age_come_in_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    // Self-signed: one that an authority of the same (default) name signs is refused by OpenSSL, which Node.js uses.
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }}");
    for (server, version) in [("v4", "v4"), ("v2", "v2"), ("v0.9", "v0.9")] {
        let pair = Pair::behind(server, &[], &tls, "round_robin").await;
        let url = format!("https://{}", pair.address());
        for transports in TRANSPORTS {
            let options =
                ["--url", &url, "--ca", cert.to_str().unwrap(), "--transports", transports, "--sessions", "5"];
            let summary = client(version, &options, 60).await;
            assert_eq!(summary["ok"], true, "{version} by {transports}: {summary}");
        }
    }
}

async fn payloads_come_back_whole_text_binary_and_large() {
    let pair = Pair::start("v4", &[]).await;
    for transports in TRANSPORTS {
        for version in ["v4", "v2"] {
            pair.all_well(version, &["--transports", transports, "--payload", "binary", "--sessions", "5"]).await;
            let large = ["--transports", transports, "--payload", "big", "--sessions", "2", "--messages", "2"];
            pair.all_well(version, &large).await;
        }
    }
}

async fn compressed_messages_and_handshakes_of_many_packets_pass() {
    let pair = Pair::start("v4", &["--deflate", "--greeting", "5000"]).await;
    for transports in TRANSPORTS {
        pair.all_well("v4", &["--transports", transports, "--deflate", "--sessions", "5"]).await;
    }
}

/// The Node.js clients ask for no compression; python-socketio does, and reads the handshake by it.
async fn python_clients_meet_version_4_servers_and_read_a_compressed_handshake() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
    let python = script.with_file_name(".venv/bin/python");
    if !python.exists() {
        eprintln!("skipped: python-socketio is not installed, see scripts/node-deps");
        return;
    }
    let pair = Pair::behind("v4", &["--greeting", "5000"], "http2: false", "round_robin").await;
    for transports in TRANSPORTS {
        let mut run = Command::new(&python);
        run.arg(&script).args(["--url", &pair.url(), "--transports", transports]).args(MANY).kill_on_drop(true);
        let output = within("the Python clients end", run.output()).await.unwrap();
        let summary = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{transports}: {summary}{}", String::from_utf8_lossy(&output.stderr));
    }
}

async fn many_clients_behind_one_address_keep_their_sessions() {
    let pair = Pair::start("v4", &[]).await;
    for transports in TRANSPORTS {
        pair.all_well("v4", &["--transports", transports, "--sessions", "60", "--keep-alive"]).await;
    }
}

/// Placed in turn, nothing but the session id tells where a request belongs.
async fn a_session_id_alone_leads_to_the_server_that_knows_it() {
    for (server, version) in [("v4", "v4"), ("v4", "v2"), ("v2", "v2"), ("v0.9", "v0.9")] {
        let pair = Pair::behind(server, &[], "http2: false", "round_robin").await;
        for transports in TRANSPORTS {
            let summary = pair.all_well(version, &["--transports", transports, "--sessions", "20"]).await;
            let served = &summary["servers"];
            assert!(served["a"].is_u64() && served["b"].is_u64(), "both serve: {served}");
        }
    }
}

async fn servers_see_the_address_of_the_client_by_polling_and_by_websocket() {
    let pair = Pair::start("v4", &[]).await;
    for transports in ["polling", "websocket"] {
        let options = ["--transports", transports, "--local-addresses", "127.0.0.9", "--header", "X-Trace: 7"];
        let mut client = Puppet::start("v4", &pair.url(), &options);
        client.next("connect").await;
        let seen = client.ask("headers").await;
        assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.9", "{transports}: {seen}");
        assert_eq!(seen["headers"]["x-trace"], "7", "{transports}: {seen}");
        assert_eq!(seen["headers"]["host"], pair.address().to_string(), "{transports}: {seen}");
    }
}

async fn a_closed_tab_is_told_to_the_server_at_once() {
    for (server, version) in [("v4", "v4"), ("v2", "v2"), ("v0.9", "v0.9")] {
        let pair = Pair::start(server, &[]).await;
        let mut client = Puppet::start(version, &pair.url(), &["--transports", "polling"]);
        client.next("connect").await;
        eventually("a poll is open", async || pair.counted("polls_open").await == 1).await;
        let before = pair.counted("polls_aborted").await;
        client.order(json!({ "do": "cut" })).await;
        within("the client is gone", client.child.wait()).await.unwrap();
        eventually("the poll is cut", async || pair.counted("polls_aborted").await == before + 1).await;
        assert_eq!(pair.counted("polls_open").await, 0);
    }
}

async fn the_clients_of_a_killed_server_come_back_on_the_other() {
    for transports in TRANSPORTS {
        let mut pair = Pair::start("v4", &[]).await;
        let mut client = Puppet::start("v4", &pair.url(), &["--transports", transports]);
        client.next("connect").await;
        if transports.contains(',') {
            client.next("upgrade").await;
        }
        let first = client.ask("who").await;
        let (killed, other) = if first == "a" { (&mut pair.a, "b") } else { (&mut pair.b, "a") };
        killed.kill().await;
        client.next("disconnect").await;
        client.next("connect").await;
        assert_eq!(client.ask("who").await, other, "by {transports}");
    }
}

async fn a_flash_policy_request_reaches_a_socket_io_server_on_the_same_port() {
    let pair = Pair::start("v0.9", &[]).await;
    let mut flash = Client::connect(pair.address()).await;
    flash.send("<policy-file-request/>\0").await;
    let policy = String::from_utf8(flash.read_all().await).unwrap();
    assert!(policy.contains("<allow-access-from domain=\"*\""), "{policy}");
}

/// An answer without an end: its first bytes may wait for nothing.
async fn an_endless_htmlfile_answer_arrives_as_it_is_written() {
    let pair = Pair::start("v0.9", &[]).await;
    let handshake = Client::connect(pair.address()).await.get("/socket.io/1/").await.text();
    let sid = handshake.split(':').next().unwrap();
    let mut page = Client::connect(pair.address()).await;
    page.send(format!("GET /socket.io/1/htmlfile/{sid} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    page.read_until(b"<script>_(\"1::\");</script>").await;
    let event = "5:1+::{\"name\":\"who\"}";
    let taken =
        Client::connect(pair.address()).await.post(&format!("/socket.io/1/htmlfile/{sid}"), event.as_bytes()).await;
    assert_eq!(taken.status, 200);
    page.read_until(b"6:::1+").await;
}

/// hixie-76, which Safari 5 and Flash spoke: eight bytes follow the head without a length, with it or in a segment of their own.
async fn the_oldest_websocket_dialect_passes() {
    let pair = Pair::start("v0.9", &[]).await;
    for at_once in [true, false] {
        let handshake = Client::connect(pair.address()).await.get("/socket.io/1/").await.text();
        let sid = handshake.split(':').next().unwrap();
        let head = format!(
            "GET /socket.io/1/websocket/{sid} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\
             Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
             Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n\r\n"
        );
        let mut socket = Client::connect(pair.address()).await;
        if at_once {
            socket.send(head + "^n:ds[4U").await;
        } else {
            socket.send(head).await;
            socket.send("^n:ds[4U").await;
        }
        assert_eq!(socket.answer().await.status, 101);
        // The keys, the nonce and the answer to them are those of the draft.
        assert_eq!(socket.read(16).await, b"8jKS'y:G*Co,Wxa-");
        socket.read_until(b"\x001::\xff").await;
        socket.send(b"\x005:1+::{\"name\":\"who\"}\xff").await;
        socket.read_until(b"6:::1+").await;
    }
}
