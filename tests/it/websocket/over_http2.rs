//! WebSockets over HTTP/2 (RFC 8441): opened and carried like those of HTTP/1.1, many on a connection.

use std::time::Duration;

use h2::Reason;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use http::{Method, Request};
use nix::sys::signal::Signal::SIGTERM;
use serde_json::Value;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::client::tcp;
use crate::support::http2::{Http2, whole};
use crate::support::node::{self, Node};
use crate::support::tls::Authority;
use crate::support::websocket::{BINARY, FIN, GOODBYE, TEXT, close, echoes, frame, switch};
use crate::support::{Client, Echo, Gateway, Puppet, Scripted, Setup, eventually, within};

const OFFERED: &str = "http2_websockets: true";

async fn http2(gateway: &Gateway) -> Http2 {
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    // What the gateway takes it says first; an answer shows that this has come.
    client.get("http://a.test/").await;
    assert!(client.takes_websockets());
    client
}

async fn echoing() -> (Echo, Gateway) {
    let server = Echo::start("a").await;
    let gateway = Setup::before(&[server.address()]).listener(OFFERED).start().await;
    (server, gateway)
}

/// A server in the test's hands, behind a gateway that answers by itself elsewhere.
async fn puppet(more: &str) -> (Puppet, Gateway, Http2) {
    let server = Puppet::start().await;
    let address = server.address();
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, {OFFERED} }}
routes:
  - {{ match: {{ path: /chat }}, upstream: app }}
  - {{ match: {{ path: / }}, respond: {{ status: 204 }} }}
upstreams:
  app: {{ servers: [\"{address}\"], health: {{ check: none }} }}
{more}"
    ))
    .await;
    let client = http2(&gateway).await;
    (server, gateway, client)
}

fn opening(path: &str) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://a.test{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat, superchat")
        .header("origin", "http://a.test")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request
}

#[tokio::test]
async fn a_server_of_http_1_is_asked_for_an_upgrade_and_its_answer_becomes_one_of_http_2() {
    let (server, gateway, client) = puppet("access_log: { tunnel_open: true }").await;
    let (answer, sending) = client.open(opening("/chat?x=1")).await;
    let mut inside = server.accept().await;
    let head = String::from_utf8(inside.read_until(b"\r\n\r\n").await).unwrap();
    assert!(head.starts_with("GET /chat?x=1 HTTP/1.1\r\nhost: a.test\r\n"), "{head}");
    for field in [
        "upgrade: websocket",
        "connection: Upgrade",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: chat, superchat",
        "origin: http://a.test",
        "cookie: a=1; b=2",
        "X-Forwarded-For: 127.0.0.1",
    ] {
        assert!(head.to_lowercase().contains(&format!("\r\n{}\r\n", field.to_lowercase())), "{field} in\n{head}");
    }
    let switch = switch(head.as_bytes());
    inside.send(switch.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\nSet-Cookie: c=3\r\n\r\n\x7e")).await;
    let (head, body) = within("the answer", answer).await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    let names: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
    assert!(head.headers["sec-websocket-protocol"] == "chat" && head.headers["set-cookie"] == "c=3", "{names:?}");
    assert!(!names.iter().any(|name| ["upgrade", "connection", "sec-websocket-accept"].contains(name)), "{names:?}");
    let mut socket = Http2::both_ways(sending, body);
    assert_eq!(socket.read(1).await, b"\x7e", "what came with the 101");
    gateway.access_line(&["event=open", "protocol=WebSocket", "status=200", "target=/chat?x=1"]).await;
    socket.send(frame(FIN | TEXT, b"hello", true)).await;
    assert_eq!(inside.read(11).await, frame(FIN | TEXT, b"hello", true));
    // Either side's end goes on to the other, and leaves the way back open.
    socket.send(close(1001, true)).await;
    socket.finish().await;
    assert_eq!(inside.read_all().await, close(1001, true));
    inside.send(close(1001, false)).await;
    inside.finish().await;
    assert_eq!(socket.read_all().await, close(1001, false));
    let line = ["event=close", "protocol=WebSocket", "status=200", "messages_in=1", "close_code=1001"];
    gateway.access_line(&line).await;
    assert_eq!(client.get("http://a.test/").await.status(), 204, "the connection goes on");
}

#[tokio::test]
async fn they_are_taken_only_where_they_are_offered() {
    let server = Echo::start("a").await;
    let gateway = Setup::before(&[server.address()]).start().await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    client.get("http://a.test/").await;
    assert!(!client.takes_websockets());
    let (_server, gateway) = echoing().await;
    let client = http2(&gateway).await;
    let mut other = opening("/");
    other.extensions_mut().insert(Protocol::from_static("connect-udp"));
    let (answer, _sending) = client.open(other).await;
    assert_eq!(whole(answer).await.status(), 405, "nor is anything else");
    echoes(&mut client.websocket(opening("/")).await).await;
}

#[tokio::test]
async fn they_go_over_tls_beside_requests_and_carry_what_is_large() {
    let server = Echo::start("a").await;
    let authority = Authority::new();
    let tls = format!("{OFFERED}, tls: {{ certificates: [{}] }}", authority.sign(&["a.test"]).yaml());
    let gateway = Setup::before(&[server.address()]).listener(tls).start().await;
    let stream = authority.client(&["h2"]).connect(gateway.address("web"), "a.test").await.unwrap();
    let client = Http2::over(stream).await;
    client.get("https://a.test/").await;
    let mut socket = client.websocket(opening("/")).await;
    let message: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = frame(FIN | BINARY, &message, true);
    let (mut reading, mut writing) = tokio::io::split(socket.into_stream());
    let copy = sent.clone();
    let writes = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writing, &copy).await.unwrap();
        writing
    });
    let mut came = vec![0; sent.len()];
    within("all of it", tokio::io::AsyncReadExt::read_exact(&mut reading, &mut came)).await.unwrap();
    assert!(came == sent);
    socket = Client::over(reading.unsplit(writes.await.unwrap()));
    assert_eq!(client.get("https://a.test/").await.status(), 200);
    echoes(&mut socket).await;
}

#[tokio::test]
async fn an_answer_that_opens_nothing_is_passed_on_whole() {
    let server = Scripted::start(|mut client, _| async move {
        let Some(request) = client.request().await else { return };
        let head = String::from_utf8_lossy(&request.head).into_owned();
        let answer = match head.split_once('?').map_or(' ', |(_, query)| query.chars().next().unwrap()) {
            'l' => "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: origin\r\n\r\nnone",
            'c' => {
                "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\nX-Why: origin\r\n\r\n2\r\nno\r\n2\r\nne\r\n0\r\n\r\n"
            }
            'e' => "HTTP/1.1 426 No\r\nConnection: close\r\nX-Why: origin\r\n\r\nnone",
            'w' => "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: other\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        };
        client.send(answer).await;
    })
    .await;
    let gateway = Setup::before(&[server.address()]).unchecked().listener(OFFERED).start().await;
    let client = http2(&gateway).await;
    for (path, status) in [("/?length", 403), ("/?chunks", 401), ("/?end", 426)] {
        let (answer, _sending) = client.open(opening(path)).await;
        let answer = whole(answer).await;
        assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (status, b"none".as_slice()), "{path}");
        assert_eq!(answer.headers()["x-why"], "origin");
        gateway.access_line(&[&format!("status={status}"), "protocol=WebSocket", "closed_by=server"]).await;
    }
    let (answer, _sending) = client.open(opening("/?wrong")).await;
    assert_eq!(whole(answer).await.status(), 502, "it has answered somebody else");
    let (answer, _sending) = client.open(opening("/%2e%2e/")).await;
    assert_eq!(whole(answer).await.status(), 400, "the gateway's own");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_its_server() {
    let (server, gateway, client) = puppet("").await;
    let (answer, mut sending) = client.open(opening("/chat")).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    sending.send_reset(Reason::CANCEL);
    drop(answer);
    assert!(inside.read_all().await.is_empty());
    gateway.access_line(&["protocol=WebSocket", "closed_by=client"]).await;
}

/// A socket of a client, and its end at the server.
async fn tunnel(server: &Puppet, client: &Http2) -> (ResponseFuture, h2::SendStream<bytes::Bytes>, Client) {
    let (answer, sending) = client.open(opening("/chat")).await;
    let mut inside = server.accept().await;
    let head = inside.read_until(b"\r\n\r\n").await;
    inside.send(switch(&head)).await;
    (answer, sending, inside)
}

#[tokio::test]
async fn a_cut_of_one_side_is_a_cut_for_the_other_and_for_no_other_stream() {
    let (server, gateway, client) = puppet("").await;
    let (answer, _sending) = client.open(opening("/chat")).await;
    let mut inside = server.accept_to_reset().await;
    let head = inside.read_until(b"\r\n\r\n").await;
    inside.send(switch(&head)).await;
    let mut body = within("the answer", answer).await.unwrap().into_body();
    drop(inside);
    let cut = within("the cut", body.data()).await.expect("no proper end").unwrap_err();
    assert_eq!(cut.reason(), Some(Reason::CANCEL));
    gateway.access_line(&["event=close", "closed_by=server_lost"]).await;

    let (answer, mut sending, mut inside) = tunnel(&server, &client).await;
    within("the answer", answer).await.unwrap();
    sending.send_reset(Reason::CANCEL);
    assert!(inside.ending().await.is_err(), "a reset");
    gateway.access_line(&["event=close", "closed_by=client_lost"]).await;
    assert_eq!(client.get("http://a.test/").await.status(), 204, "the connection goes on");
}

#[tokio::test]
async fn the_goodbye_of_a_stop_comes_in_the_stream_and_the_connection_ends_behind_it() {
    let server = Echo::start("a").await;
    let stops = "drain: { over: 0s, delay: 0s, deadline: 5m }";
    let mut gateway = Setup::before(&[server.address()]).listener(OFFERED).more(stops).start().await;
    let client = http2(&gateway).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = client.websocket(opening("/")).await;
        echoes(&mut socket).await;
        sockets.push(socket);
    }
    gateway.signal(SIGTERM);
    for mut socket in sockets {
        assert_eq!(socket.read_all().await, GOODBYE);
        socket.finish().await;
    }
    client.closed().await.expect("a proper end");
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "closed_by=stopped", "close_code=1012"]).await;
}

/// Within a message nothing can be said, so that the deadline comes; a socket between two is told even then.
#[tokio::test]
async fn the_deadline_of_a_stop_ends_what_can_not_be_told() {
    let (server, mut gateway, client) = puppet("drain: { over: 0s, delay: 0s, deadline: 1500ms }").await;
    let (answer, _sending, mut inside) = tunnel(&server, &client).await;
    let mut body = within("the answer", answer).await.unwrap().into_body();
    inside.send(b"\x81\x05hal").await;
    assert_eq!(within("half a message", body.data()).await.unwrap().unwrap(), b"\x81\x05hal"[..]);
    gateway.signal(SIGTERM);
    while let Some(Ok(more)) = within("the cut", body.data()).await {
        assert!(more.is_empty(), "a goodbye inside a frame would be part of its text");
    }
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn a_drain_of_a_server_tells_its_sockets_and_leaves_the_connection() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let servers = [("a", a.address()), ("b", b.address())];
    let gateway = Setup::before_named(servers).listener(OFFERED).start().await;
    let client = http2(&gateway).await;
    let mut sockets = JoinSet::new();
    for _ in 0..4 {
        let mut socket = client.websocket(opening("/")).await;
        echoes(&mut socket).await;
        sockets.spawn(async move {
            let said = socket.read_all().await;
            socket.finish().await;
            said
        });
    }
    let drain = "POST /drain?upstream=app&server=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    let mut admin = Client::connect(gateway.address("admin")).await;
    admin.send(drain).await;
    assert_eq!(admin.answer().await.status, 200);
    for _ in 0..2 {
        assert_eq!(within("a goodbye", sockets.join_next()).await.unwrap().unwrap(), GOODBYE);
    }
    gateway.access_line(&["event=close", "server=a", "closed_by=drain"]).await;
    assert_eq!(client.get("http://a.test/").await.status(), 200);
    assert_eq!(sockets.len(), 2, "those of the other server stay");
}

#[tokio::test]
async fn a_client_that_takes_nothing_stops_its_server_and_nobody_else() {
    let (server, gateway, _) = puppet("").await;
    // The connection's own window has room for more than one stream.
    let client = Http2::with_window(tcp(gateway.address("web")).await, 1 << 20).await;
    let (answer, stalled, mut inside) = tunnel(&server, &client).await;
    let body = within("the answer", answer).await.unwrap().into_body();
    let filling = tokio::spawn(async move {
        let message = frame(FIN | BINARY, &[0; 60_000], false);
        let mut written = 0_usize;
        while written < 64 << 20 && inside.try_send(&message).await.is_ok() {
            written += message.len();
        }
        written
    });
    for _ in 0..20 {
        assert_eq!(client.get("http://a.test/").await.status(), 204);
    }
    let (answer, sending, mut inside) = tunnel(&server, &client).await;
    let mut other = Http2::both_ways(sending, within("the answer", answer).await.unwrap().into_body());
    inside.send(b"\x81\x02hi").await;
    assert_eq!(other.read(4).await, b"\x81\x02hi");
    assert!(!filling.is_finished(), "64 MiB are not taken for a client that takes 64 KiB");
    drop((body, stalled));
    assert!(within("its end", filling).await.unwrap() < 64 << 20);
}

/// What the connection may hold is one bound, what a client has to answer another.
#[tokio::test]
async fn who_gives_no_sign_of_life_is_pinged_and_ended_alone() {
    let server = Puppet::start().await;
    let pings = "health: { check: none }, websocket: { ping_interval: 1s, ping_timeout: 1s }";
    let gateway = Setup::before(&[server.address()]).upstream(pings).listener(OFFERED).start().await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let (answer, _sending, inside) = tunnel(&server, &client).await;
    let mut body = within("the answer", answer).await.unwrap().into_body();
    let ping = within("a Ping", body.data()).await.unwrap().unwrap();
    assert_eq!(ping[..2], b"\x89\x08"[..]);
    assert!(within("the end", body.data()).await.expect("no proper end").is_err());
    let line = gateway.access_line(&["event=close"]).await;
    assert!(line.contains("_silent"), "{line}");
    drop(inside);
}

#[tokio::test]
async fn a_session_of_engine_io_is_learned_from_them() {
    let server = Node::server("v4", &[]).await;
    let address = ([127, 0, 0, 1], server.port()).into();
    let gateway = Setup::before_named([("a", address)]).upstream("kind: socket.io").listener(OFFERED).start().await;
    let client = http2(&gateway).await;
    let mut socket = client.websocket(opening("/socket.io/?EIO=4&transport=websocket")).await;
    let greeting = socket.read_until(b"}").await;
    assert!(String::from_utf8_lossy(&greeting).contains("0{\"sid\":\""));
    let sessions = "sockgate_sessions{upstream=\"app\",server=\"a\"}";
    eventually("the session is known", async || gateway.metric(sessions).await == 1.0).await;
    socket.send(close(1000, true)).await;
    socket.finish().await;
    socket.read_all().await;
    eventually("it is over", async || gateway.metric(sessions).await == 0.0).await;
}

/// Node.js's own client of HTTP/2, before real Socket.IO servers.
#[tokio::test]
async fn a_thousand_sockets_of_socket_io_share_ten_connections() {
    let (one, two) = (Node::server("v4", &["--id", "one"]).await, Node::server("v4", &["--id", "two"]).await);
    let servers = [&one, &two].map(|server| ([127, 0, 0, 1], server.port()).into());
    let in_turn = "kind: socket.io, balance: round_robin";
    let gateway = Setup::before(&servers).upstream(in_turn).listener(OFFERED).start().await;
    let url = format!("http://{}", gateway.address("web"));
    let mut program = Command::new("node");
    program.arg(node::folder().join("websocket_over_http2.js")).args([&*url, "10", "100"]).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), program.output()).await.expect("in time").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary: Value = serde_json::from_str(text.trim()).unwrap_or_else(|_| {
        panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    assert_eq!((&summary["sockets"], &summary["failed"]), (&1000.into(), &Value::Array(Vec::new())));
    let of_one = summary["by_server"]["one"].as_u64().unwrap();
    assert!((400..=600).contains(&of_one), "in turn: {summary}");
    gateway.access_line(&["event=close", "protocol=WebSocket", "status=200", "close_code=1000"]).await;
}
