//! WebSockets and raw tunnels when the gateway stops: they work until their turn, and are told goodbye.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{FOR_HOURS, gateway, refuses, stop};
use crate::support::server::greet;
use crate::support::tls::Authority;
use crate::support::websocket::{GOODBYE, echoes, socket, upgrade};
use crate::support::{Echo, Gateway, Scripted, Setup, within};

#[tokio::test]
async fn websockets_are_told_goodbye_one_after_the_other_and_it_leaves_with_the_last() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { over: 2s, deadline: 5m }").await;
    let mut sockets = JoinSet::new();
    for _ in 0..20 {
        let mut socket = socket(&gateway).await;
        echoes(&mut socket).await;
        sockets.spawn(async move { (socket.read_all().await, Instant::now()) });
    }
    stop(&gateway).await;
    refuses(&gateway).await;
    let mut times = Vec::new();
    for (said, at) in sockets.join_all().await {
        assert_eq!(said, GOODBYE);
        times.push(at);
    }
    times.sort_unstable();
    let took = times[19] - times[0];
    // How much longer it may take, the load of the machine decides.
    assert!(took >= Duration::from_secs(1), "all within {took:?}");
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "closed_by=stopped"]).await;
    let told = |line: &&String| line.contains("closed_by=stopped") && line.contains("close_code=1012");
    assert_eq!(gateway.access_lines().iter().filter(told).count(), 20, "every tunnel has its line");
}

#[tokio::test]
async fn a_websocket_works_until_its_turn() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), FOR_HOURS).await;
    let mut socket = socket(&gateway).await;
    stop(&gateway).await;
    refuses(&gateway).await;
    echoes(&mut socket).await;
    gateway.log_line("1 connections left; 0 have been told goodbye, 1 will be").await;
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn a_websocket_within_a_message_is_waited_for_until_the_deadline_and_never_gets_a_goodbye_inside() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { over: 0s, deadline: 1500ms }").await;
    let mut socket = socket(&gateway).await;
    socket.send(b"\x81\x05hal").await;
    assert_eq!(socket.read(5).await, b"\x81\x05hal");
    let began = Instant::now();
    stop(&gateway).await;
    assert!(socket.read_all().await.is_empty(), "a goodbye inside a frame would be part of its text");
    assert!(began.elapsed() >= Duration::from_millis(1500), "cut after {:?}", began.elapsed());
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn the_code_of_the_goodbye_can_be_chosen() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { over: 0s, close_code: 4001 }").await;
    let mut socket = socket(&gateway).await;
    stop(&gateway).await;
    assert_eq!(socket.read_all().await, b"\x88\x02\x0f\xa1");
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "close_code=4001"]).await;
}

/// What a client sends when its socket closes already would make the kernel answer with a reset.
#[tokio::test]
async fn a_client_that_never_stops_talking_gets_its_goodbye_too() {
    let sink = Scripted::start(|mut client, _| async move {
        client.request().await;
        client.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
        while client.some().await.is_some() {}
    })
    .await;
    let mut gateway = gateway(sink.address(), "drain: { over: 0s }").await;
    let socket = socket(&gateway).await;
    let (mut reader, mut writer) = tokio::io::split(socket.into_stream());
    let talking = tokio::spawn(async move { while writer.write_all(b"\x81\x05hello").await.is_ok() {} });
    stop(&gateway).await;
    let mut got = Vec::new();
    within("the goodbye", reader.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, GOODBYE);
    drop(reader);
    within("the client stops", talking).await.unwrap();
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn the_goodbye_reaches_sockets_within_tls_too() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let certificate = authority.sign(&["a.test"]);
    let mut gateway = Setup::before(&[web.address()])
        .listener(format!("tls: {{ certificates: [{}] }}", certificate.yaml()))
        .more("drain: { deadline: 1s }")
        .start()
        .await;
    let mut stream = authority.client(&["http/1.1"]).connect(gateway.address("web"), "a.test").await.unwrap();
    stream.write_all(upgrade("/").as_bytes()).await.unwrap();
    stop(&gateway).await;
    let mut got = Vec::new();
    // An end without close_notify would be an error.
    within("the goodbye", stream.read_to_end(&mut got)).await.unwrap();
    assert!(got.starts_with(b"HTTP/1.1 101") && got.ends_with(GOODBYE), "{got:?}");
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn it_leaves_before_the_deadline_when_the_last_one_has_gone() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), FOR_HOURS).await;
    let mut socket = socket(&gateway).await;
    stop(&gateway).await;
    refuses(&gateway).await;
    echoes(&mut socket).await;
    socket.send(b"\x88\x82\x00\x00\x00\x00\x03\xe8").await;
    socket.finish().await;
    socket.read_all().await;
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "close_code=1000"]).await;
}

#[tokio::test]
async fn a_second_sigterm_or_a_sigint_ends_it_at_once() {
    let web = Echo::start("web").await;
    for signals in [&[SIGTERM, SIGTERM][..], &[SIGTERM, SIGINT], &[SIGINT]] {
        let mut gateway = gateway(web.address(), "drain: { deadline: 1m }").await;
        let mut socket = socket(&gateway).await;
        for signal in signals {
            gateway.signal(*signal);
            gateway.log_line(if *signal == SIGTERM { "stopping" } else { "interrupted" }).await;
        }
        assert_eq!(gateway.ended().await, 0, "{signals:?}");
        socket.read_all().await;
    }
}

#[tokio::test]
async fn raw_tunnels_are_closed_at_their_turn() {
    let raw = Scripted::start(|client, _| greet(client)).await;
    let started = |drain: &str| {
        let yaml = format!(
            "
{drain}
listeners:
  - {{ name: web, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
upstreams:
  raw: {{ kind: tcp, servers: [\"{}\"] }}
",
            raw.address()
        );
        async move { Gateway::start(&yaml).await }
    };
    let mut gateway = started(FOR_HOURS).await;
    let mut tunnel = gateway.client().await;
    assert_eq!(tunnel.read(6).await, b"hello ");
    stop(&gateway).await;
    refuses(&gateway).await;
    tunnel.send("still carried").await;
    assert_eq!(tunnel.read(13).await, b"still carried");
    gateway.signal(SIGINT);
    assert_eq!(gateway.ended().await, 0);
    let mut gateway = started("drain: { over: 1s, deadline: 5m }").await;
    let mut tunnel = gateway.client().await;
    assert_eq!(tunnel.read(6).await, b"hello ");
    stop(&gateway).await;
    assert!(tunnel.read_all().await.is_empty());
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "protocol=TCP", "closed_by=stopped"]).await;
}
