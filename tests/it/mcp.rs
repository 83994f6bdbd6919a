//! Real servers and clients of the Model Context Protocol, by the official SDKs: each session stays with the server that opened
//! it, over gateways that share nothing, restarts and drains.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::node::{Node, counted};
use crate::support::{Client, Gateway, Setup, eventually};

for_each_engine! {
    sessions_of_every_sdk_meet_their_server,
    sessions_of_the_python_sdks_meet_their_server_too,
    gateways_that_share_nothing_find_each_others_sessions,
    a_gateway_that_is_killed_and_started_again_loses_no_session,
    a_drained_server_keeps_its_sessions_to_the_deadline_and_a_new_one_gets_new_ones,
    the_file_that_comes_along_serves_clients_of_both_transports,
    clients_of_revisions_without_sessions_go_to_any_server,
    the_older_transport_is_followed_by_its_first_event,
    made_up_ids_cost_servers_little_and_known_sessions_nothing,
    a_server_that_says_yes_to_every_id_is_not_believed,
}

for_the_relay! {
    an_event_stream_ends_only_when_its_session_is_not_served_any_more,
}

/// Servers called `a`, `b` and so on, by these versions of the SDK.
async fn servers(versions: &[&str]) -> Vec<Node> {
    let mut servers = Vec::new();
    for (version, id) in versions.iter().zip(["a", "b", "c", "d"]) {
        servers.push(Node::start("mcp_server.js", &[version, "--id", id]).await);
    }
    servers
}

fn before(servers: &[Node]) -> Setup {
    Setup::before_nodes(servers).unchecked().upstream("kind: mcp, balance: round_robin")
}

async fn clients(version: &str, gateways: &[SocketAddr], path: &str, sessions: usize, more: &[&str]) -> Node {
    let urls: Vec<String> = gateways.iter().map(|gateway| format!("http://{gateway}{path}")).collect();
    let (urls, number) = (urls.join(","), sessions.to_string());
    let client =
        Node::start("mcp_client.js", &[&[version, "--url", &urls, "--sessions", &number], more].concat()).await;
    assert_eq!(client.ready, json!({ "opened": sessions, "faults": {} }), "{version}");
    client
}

/// Has each session call its tool, which tells of its progress; gives how many calls each server had.
async fn call(client: &mut Node, sessions: usize) -> Value {
    let said = client.ask("call").await;
    let expected = json!({ "called": sessions, "moved": 0, "lost": 0, "progress": 2 * sessions, "faults": {} });
    let mut seen = said.clone();
    seen.as_object_mut().unwrap().remove("servers");
    assert_eq!(seen, expected);
    said["servers"].clone()
}

async fn sessions_of_every_sdk_meet_their_server() {
    let servers = servers(&["mcp1", "mcp2", "mcp1"]).await;
    let gateway = before(&servers).start().await;
    let web = [gateway.address("web")];
    let (mut one, mut two) =
        tokio::join!(clients("mcp1", &web, "/mcp", 100, &[]), clients("mcp2", &web, "/mcp", 100, &[]));
    for _ in 0..3 {
        let (one, two) = tokio::join!(call(&mut one, 100), call(&mut two, 100));
        let of = |server: &str| one[server].as_u64().unwrap() + two[server].as_u64().unwrap();
        assert!(["a", "b", "c"].into_iter().all(|server| (60..=73).contains(&of(server))), "{one} {two}");
    }
    assert_eq!(counted(&servers, "unknown").await, 0);
    assert_eq!(counted(&servers, "questions").await, 0, "nobody had to be asked");
    assert_eq!(gateway.metric("sockgate_session_events_total{upstream=\"app\",event=\"learned\"}").await, 200.0);
    assert_eq!(one.ask("close").await, json!({ "closed": 100, "faults": {} }));
    let ended = "sockgate_sessions_ended_total{upstream=\"app\",cause=\"client\"}";
    eventually("those that were closed count no more", async || gateway.metric(ended).await == 100.0).await;
    call(&mut two, 100).await;
}

/// A program of the Python SDK of a version, 1 or 2; `None` where that is not installed.
async fn python(version: u8, arguments: &[&str]) -> Option<Node> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/mcp_peer.py");
    let python = script.with_file_name(format!("mcp{version}/.venv/bin/python"));
    if !python.exists() {
        eprintln!("skipped: version {version} of the Python SDK is not installed, see scripts/node-deps");
        return None;
    }
    Some(Node::launch(Command::new(python).arg(script).args(arguments)).await)
}

async fn sessions_of_the_python_sdks_meet_their_server_too() {
    for version in [1, 2] {
        let (a, b) = tokio::join!(python(version, &["server", "a"]), python(version, &["server", "b"]));
        let (Some(a), Some(b)) = (a, b) else { continue };
        let servers = [a, b];
        let first = before(&servers).start().await;
        let web = first.address("web");
        let mut clients = python(version, &["client", &format!("http://{web}/mcp"), "12"]).await.unwrap();
        assert_eq!(clients.ready, json!({ "opened": 12, "faults": [] }), "version {version}");
        let called = json!({ "called": 12, "moved": 0, "progress": 24, "servers": { "a": 6, "b": 6 }, "faults": [] });
        assert_eq!(clients.ask("call").await, called, "version {version}");
        drop(first);
        let _second = before(&servers).at(web).start().await;
        assert_eq!(clients.ask("call").await, called, "version {version}, by another gateway");
    }
}

async fn gateways_that_share_nothing_find_each_others_sessions() {
    let servers = servers(&["mcp1", "mcp2", "mcp1"]).await;
    let gateways = [before(&servers).start().await, before(&servers).start().await];
    let web: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.address("web")).collect();
    let mut both = clients("mcp1", &web, "/mcp", 60, &[]).await;
    for _ in 0..3 {
        call(&mut both, 60).await;
    }
    assert_eq!(counted(&servers, "unknown").await, 0);
    let asked = counted(&servers, "questions").await;
    assert!((60..=60 * 3 + 10).contains(&asked), "{asked} questions for 60 sessions");
}

async fn a_gateway_that_is_killed_and_started_again_loses_no_session() {
    let servers = servers(&["mcp1", "mcp2", "mcp1"]).await;
    let first = before(&servers).start().await;
    let web = first.address("web");
    let mut all = clients("mcp1", &[web], "/mcp", 60, &[]).await;
    call(&mut all, 60).await;
    drop(first);
    let _second = before(&servers).at(web).start().await;
    for _ in 0..2 {
        call(&mut all, 60).await;
    }
    let before = counted(&servers, "opened").await;
    assert_eq!(before, 60, "nobody has begun anew");
}

async fn a_drained_server_keeps_its_sessions_to_the_deadline_and_a_new_one_gets_new_ones() {
    let mut servers = servers(&["mcp1", "mcp2", "mcp1", "mcp2"]).await;
    let added = servers.pop().unwrap();
    let mut gateway = before(&servers).start().await;
    let web = [gateway.address("web")];
    let mut old = clients("mcp1", &web, "/mcp", 60, &[]).await;
    let spread = call(&mut old, 60).await;
    servers.push(added);
    assert_eq!(gateway.reload(&before(&servers).yaml()).await.status, 200);
    let mut admin = Client::connect(gateway.address("admin")).await;
    assert_eq!(admin.post("/drain?upstream=app&server=a&deadline=10m", b"").await.status, 200);
    let mut new = clients("mcp2", &web, "/mcp", 30, &[]).await;
    let servers_of_new = call(&mut new, 30).await;
    assert_eq!(servers_of_new["a"], Value::Null, "{servers_of_new}");
    assert_eq!(call(&mut old, 60).await, spread, "nobody is moved before the deadline");
    assert_eq!(admin.post("/drain?upstream=app&server=a&deadline=1s", b"").await.status, 200);
    let is_over = async || {
        let said = gateway.admin("/drain?upstream=app&server=a").await;
        serde_json::from_slice::<Value>(&said.body).unwrap()["over"] == true
    };
    eventually("the deadline has come", is_over).await;
    let of_a = spread["a"].as_u64().unwrap();
    let said = old.ask("call").await;
    assert_eq!((said["called"].as_u64(), said["moved"].as_u64()), (Some(60 - of_a), Some(0)), "{said}");
    let faults = said["faults"].to_string();
    assert!(faults.contains("Session not found"), "{faults}");
    assert_eq!(counted(&servers[..1], "unknown").await, 0, "the gateway said so");
    assert_eq!(old.ask("renew").await["opened"].as_u64(), Some(of_a));
    let all = old.ask("call").await;
    assert_eq!(
        (all["called"].as_u64(), &all["servers"]["a"], all["faults"].clone()),
        (Some(60), &Value::Null, json!({}))
    );
}

async fn the_file_that_comes_along_serves_clients_of_both_transports() {
    let servers = servers(&["mcp1", "mcp1", "mcp1"]).await;
    let mut yaml = include_str!("../../conf/mcp.yaml").replace("0.0.0.0:8080", "127.0.0.1:0\n    name: web");
    for (server, port) in servers.iter().zip(["3001", "3002", "3003"]) {
        yaml = yaml.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", server.port()));
    }
    let gateway = Gateway::start(&yaml.replace("127.0.0.1:9901", "127.0.0.1:0")).await;
    let web = [gateway.address("web")];
    let (mut new, mut old) =
        tokio::join!(clients("mcp1", &web, "/mcp", 15, &[]), clients("mcp1", &web, "/sse", 15, &["--sse"]));
    let spread = call(&mut new, 15).await;
    assert!(
        ["a", "b", "c"].into_iter().all(|server| spread[server].as_u64().is_some_and(|calls| calls > 2)),
        "{spread}"
    );
    assert_eq!(old.ask("call").await["faults"], json!({}));
    // A page of another site may read the id of its session.
    let mut page = Client::connect(web[0]).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"page","version":"1"}}}"#;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: a\r\nOrigin: https://page.example\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    page.send(head + body).await;
    let answer = page.answer().await;
    assert!(answer.header("mcp-session-id").is_some() && answer.header("access-control-allow-origin").is_some());
    let exposed = answer.header("access-control-expose-headers").unwrap_or("");
    assert!(exposed.contains("mcp-session-id"), "{}", answer.head);
}

async fn clients_of_revisions_without_sessions_go_to_any_server() {
    let servers = servers(&["mcp2", "mcp2", "mcp2"]).await;
    let gateway = before(&servers).start().await;
    let web = [gateway.address("web")];
    let mut new = clients("mcp2", &web, "/mcp", 20, &["--mode", "auto"]).await;
    let mut old = clients("mcp2", &web, "/mcp", 20, &[]).await;
    for _ in 0..3 {
        let said = new.ask("call").await;
        assert_eq!((said["called"].as_u64(), said["faults"].clone()), (Some(20), json!({})));
        let servers = said["servers"].as_object().unwrap();
        assert_eq!(servers.len(), 3, "{said}");
        call(&mut old, 20).await;
    }
    assert!(counted(&servers, "modern").await >= 80);
    assert_eq!(gateway.metric("sockgate_session_events_total{upstream=\"app\",event=\"learned\"}").await, 20.0);
}

async fn the_older_transport_is_followed_by_its_first_event() {
    let servers = servers(&["mcp1", "mcp1", "mcp1"]).await;
    let gateway = before(&servers).start().await;
    let mut old = clients("mcp1", &[gateway.address("web")], "/sse", 30, &["--sse"]).await;
    for _ in 0..2 {
        let said = old.ask("call").await;
        assert_eq!(
            (said["called"].as_u64(), said["moved"].as_u64(), said["faults"].clone()),
            (Some(30), Some(0), json!({}))
        );
        assert_eq!(said["servers"].as_object().unwrap().len(), 3);
    }
    assert_eq!(counted(&servers, "unknown").await, 0);
    drop(old);
    let live = async || {
        let mut live = 0.0;
        for server in ["a", "b", "c"] {
            live += gateway.metric(&format!("sockgate_sessions{{upstream=\"app\",server=\"{server}\"}}")).await;
        }
        live
    };
    eventually("sessions end with their streams", async || live().await == 0.0).await;
}

async fn made_up_ids_cost_servers_little_and_known_sessions_nothing() {
    let servers = servers(&["mcp1", "mcp1", "mcp1"]).await;
    let gateway = before(&servers).start().await;
    let web = gateway.address("web");
    let mut known = clients("mcp1", &[web], "/mcp", 10, &[]).await;
    let before = gateway.memory();
    let mut stranger = Client::connect(web).await;
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let fields = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";
    let ask = |id: &str| {
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: a\r\n{fields}Mcp-Session-Id: {id}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let began = Instant::now();
    for number in 0..700 {
        stranger.send(ask(&format!("made-up-{number}"))).await;
        assert_eq!(stranger.answer().await.status, 404);
    }
    let asked = counted(&servers, "questions").await;
    // An address may look for so many in vain, and for some more in each second; three servers are asked for each.
    let most = 600 + 30 * (began.elapsed().as_secs() + 1);
    assert!(asked <= 3 * most, "{asked} questions for 700 ids in {:?}", began.elapsed());
    call(&mut known, 10).await;
    assert!(gateway.memory() < before + 32 * 1024);
    // Twice the same is one; two are none; and what is too long for an id is none.
    stranger.send(ask("x\r\nMcp-Session-Id: y")).await;
    assert_eq!(stranger.answer().await.status, 400);
    let long = "x".repeat(8_000);
    stranger.send(ask(&long)).await;
    assert_eq!(stranger.answer().await.status, 404);
    tokio::time::timeout(Duration::from_secs(30), call(&mut known, 10)).await.unwrap();
}

/// It has no sessions, and comes first where servers are asked: by its name, on the ring, for the address of these clients.
async fn a_server_that_says_yes_to_every_id_is_not_believed() {
    let honest = servers(&["mcp1", "mcp2"]).await;
    let first = before(&honest).start().await;
    let web = first.address("web");
    let mut old = clients("mcp1", &[web], "/mcp", 40, &[]).await;
    let spread = call(&mut old, 40).await;
    drop(first);
    let liar = [Node::start("mcp_server.js", &["mcp1", "--id", "agreeable", "--stateless"]).await];
    let named = liar.iter().chain(&honest).map(|server| (server.ready["id"].as_str().unwrap(), server.address()));
    let all = Setup::before_named(named).unchecked().upstream("kind: mcp, balance: round_robin");
    let second = all.at(web).start().await;
    for _ in 0..2 {
        assert_eq!(call(&mut old, 40).await, spread);
    }
    let (lies, calls) = (counted(&liar, "questions").await, counted(&liar, "calls").await);
    assert!(lies >= 40, "it was asked for each, and first: {lies} times");
    assert_eq!(calls, 0, "and nobody's call went there");
    let told = "does not tell which sessions it knows";
    second.log_line(told).await;
    assert_eq!(second.log_lines(told).len(), 1, "the operator hears of it once");
}

async fn an_event_stream_ends_only_when_its_session_is_not_served_any_more() {
    let servers = servers(&["mcp1"]).await;
    let gateway = before(&servers).start().await;
    let mut client = gateway.client().await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
    let post = |fields: &str, body: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nHost: a\r\n{fields}Content-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    client.send(post("", body)).await;
    let session = client.answer().await.header("mcp-session-id").unwrap().to_owned();
    let named = format!("Mcp-Session-Id: {session}\r\n");
    let mut stream = gateway.client().await;
    stream.send(format!("GET /mcp HTTP/1.1\r\nHost: a\r\n{named}Accept: text/event-stream\r\n\r\n")).await;
    assert!(stream.read_until(b"\r\n\r\n").await.starts_with(b"HTTP/1.1 200"));
    let mut admin = Client::connect(gateway.address("admin")).await;
    assert_eq!(admin.post("/drain?upstream=app&server=a&deadline=1s", b"").await.status, 200);
    let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
    client.send(post(&named, list)).await;
    assert_eq!(client.answer().await.status, 200, "until the deadline");
    assert!(stream.read_until(b"0\r\n\r\n").await.ends_with(b"0\r\n\r\n"), "a proper end");
    client.send(post(&named, list)).await;
    assert_eq!(client.answer().await.status, 404, "whoever comes back is told so");
    stream.send(format!("GET /mcp HTTP/1.1\r\nHost: a\r\n{named}Accept: text/event-stream\r\n\r\n")).await;
    assert_eq!(stream.answer().await.status, 404);
    gateway.access_line(&["status=200", "closed_by=drain"]).await;
}
