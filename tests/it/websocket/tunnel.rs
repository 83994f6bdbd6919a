//! An open WebSocket: what passes, how it ends, and what is written down about it.

use std::time::{Duration, Instant};

use crate::support::client::numbered;
use crate::support::websocket::{BINARY, FIN, PING, SWITCH, TEXT, close, frame, tunnel, upgrade};
use crate::support::{Client, Gateway, Puppet};

#[tokio::test]
async fn half_close_is_passed_both_ways() {
    let (server, gateway) = Gateway::before_puppet("").await;

    let (mut client, mut inside) = tunnel(&gateway, &server).await;
    client.send("the last question").await;
    client.finish().await;
    assert_eq!(inside.ending().await.unwrap(), b"the last question");
    inside.send("an answer after it").await;
    inside.finish().await;
    assert_eq!(client.ending().await.unwrap(), b"an answer after it");
    gateway.access_line(&["event=close", "closed_by=client", "bytes_in=17", "bytes_out=18"]).await;

    let (mut client, mut inside) = tunnel(&gateway, &server).await;
    inside.send("goodbye").await;
    inside.finish().await;
    assert_eq!(client.ending().await.unwrap(), b"goodbye");
    client.send("goodbye to you").await;
    client.finish().await;
    assert_eq!(inside.ending().await.unwrap(), b"goodbye to you");
    gateway.access_line(&["event=close", "closed_by=server", "bytes_in=14", "bytes_out=7"]).await;
}

#[tokio::test]
async fn the_access_log_counts_messages_and_knows_the_close_code() {
    let (server, gateway) = Gateway::before_puppet("").await;

    let (mut client, mut inside) = tunnel(&gateway, &server).await;
    let said = [
        frame(FIN | TEXT, b"one", true),
        frame(TEXT, b"a message ", true),
        frame(FIN | PING, b"ping between", true),
        frame(0, b"in three ", true),
        frame(FIN, b"pieces", true),
        frame(FIN | BINARY, &numbered(70_000), true),
        close(1001, true),
    ]
    .concat();
    client.send(&said).await;
    assert!(inside.read(said.len()).await == said);
    let answered = [frame(FIN | TEXT, b"yes", false), close(1001, false)].concat();
    inside.send(&answered).await;
    assert_eq!(client.read(answered.len()).await, answered);
    client.finish().await;
    inside.read_all().await;
    drop(inside);
    let line = gateway.access_line(&["event=close", "close_code=1001"]).await;
    for part in [
        "protocol=WebSocket",
        "method=GET",
        "target=/chat",
        "route=app",
        "upstream=app",
        "status=101",
        "closed_by=client",
        "messages_in=3",
        "messages_out=1",
        &format!("bytes_in={}", said.len()),
        &format!("bytes_out={}", answered.len()),
        "first_byte=",
        " id=",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }

    let (mut client, mut inside) = tunnel(&gateway, &server).await;
    inside.send(close(4321, false)).await;
    inside.finish().await;
    client.read_all().await;
    drop(client);
    gateway.access_line(&["event=close", "close_code=4321", "closed_by=server"]).await;
}

#[tokio::test]
async fn silence_ends_a_tunnel_only_where_it_is_limited() {
    let server = Puppet::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ path: /limited }}, upstream: limited }}
  - upstream: patient
upstreams:
  limited: {{ servers: [\"{0}\"], health: {{ check: none }}, timeouts: {{ tunnel_idle: 1s }} }}
  patient: {{ servers: [\"{0}\"], health: {{ check: none }}, timeouts: {{ first_byte: 500ms, write: 500ms }} }}
timeouts: {{ head: 500ms, keep_alive: 500ms, body: 500ms, write: 500ms }}
",
        server.address()
    ))
    .await;
    let mut tunnels = Vec::new();
    for path in ["/limited/silent", "/limited/server", "/limited/client", "/patient"] {
        let mut client = gateway.client().await;
        client.send(upgrade(path)).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(SWITCH).await;
        client.answer().await;
        tunnels.push((client, inside));
    }
    let opened = Instant::now();
    let [(silent, _), (a, b), (c, d), _] = &mut tunnels[..] else { unreachable!() };
    let speaking = async {
        // Time itself is what is tested: one word of one side before each second is over.
        loop {
            b.send("x").await;
            assert_eq!(a.read(1).await, b"x");
            c.send("y").await;
            assert_eq!(d.read(1).await, b"y");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        end = silent.ending() => assert_eq!(end.unwrap(), b""),
        () = speaking => {}
    }
    let lived = opened.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&lived), "{lived:?}");
    gateway.access_line(&["target=/limited/silent", "closed_by=idle"]).await;
    let closed = gateway.access_lines().len();
    assert_eq!(closed, 1, "the others live");
    for (client, inside) in &mut tunnels[1..] {
        client.send("still there?").await;
        assert_eq!(inside.read(12).await, b"still there?");
    }
}

#[tokio::test]
async fn a_broken_connection_breaks_the_other_one() {
    let (server, gateway) = Gateway::before_puppet("").await;

    let mut client = gateway.client().await;
    client.send(upgrade("/")).await;
    let mut inside = server.accept_to_reset().await;
    inside.request().await.unwrap();
    inside.send([SWITCH.as_bytes(), &frame(FIN | TEXT, b"I am about to", false)].concat()).await;
    client.answer().await;
    client.read(15).await;
    drop(inside);
    assert!(client.ending().await.is_err(), "a cut stream is no whole one");
    gateway.access_line(&["event=close", "closed_by=server_lost", "messages_out=1"]).await;

    let mut client = Client::connect_to_reset(gateway.address("web")).await;
    client.send(upgrade("/")).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send(SWITCH).await;
    client.answer().await;
    drop(client);
    assert!(inside.ending().await.is_err());
    gateway.access_line(&["event=close", "closed_by=client_lost"]).await;
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let (_server, gateway) = Gateway::before_echo("").await;
    let mut client = gateway.client().await;
    client.send(upgrade("/")).await;
    assert_eq!(client.answer().await.status, 101);
    let message = frame(FIN | BINARY, &numbered(2_000_000), true);
    // The echo answers while it is still being spoken to, so nobody may wait for the last byte before reading.
    let mut got = Vec::new();
    for part in message.chunks(64 * 1024) {
        client.send(part).await;
        got.extend(client.read(part.len()).await);
    }
    assert!(got == message);
    client.finish().await;
    gateway.access_line(&["event=close", "messages_in=1", "messages_out=1", "bytes_in=2000014"]).await;
}
