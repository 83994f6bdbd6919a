//! Checks: servers die and come back, and clients should hear as little of it as can be.

use std::time::{Duration, Instant};

use crate::support::node::Node;
use crate::support::{Client, Echo, Scripted, Setup, eventually};

#[tokio::test]
async fn restart_backend_2s() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let setup = Setup::before(&[a.address(), b.address()]).upstream("health: { interval: 1s, timeout: 500ms }");
    let gateway = setup.start().await;
    // Ready it is with one of them.
    for server in [&a, &b] {
        gateway.log_line(&format!("server {} is up", server.address())).await;
    }
    let mut client = gateway.client().await;
    for turn in 0..4 {
        let answer = client.get("/").await;
        assert_eq!(answer.header("x-server"), Some(["a", "b"][turn % 2]));
    }

    let address = b.address();
    drop(b);
    // From the first moment on, before any check has failed.
    let killed = Instant::now();
    let down = format!("server {address} is down: can't connect");
    let asking = async {
        // A client of its own: it is cut off in the middle of an answer.
        let mut client = gateway.client().await;
        loop {
            let answer = client.get("/").await;
            assert_eq!((answer.status, answer.header("x-server")), (200, Some("a")));
        }
    };
    tokio::select! {
        _ = gateway.log_line(&down) => {}
        () = asking => {}
    }
    assert!(killed.elapsed() < Duration::from_secs(3), "two checks a second apart");

    let _b = Echo::start_at(address, "b").await;
    let restarted = Instant::now();
    eventually("b serves again", async || client.get("/").await.header("x-server") == Some("b")).await;
    assert!(restarted.elapsed() < Duration::from_secs(2), "{:?}", restarted.elapsed());
}

#[tokio::test]
async fn a_check_can_look_at_the_answer() {
    let moody = |mood: &'static str| async move {
        Scripted::start(move |mut client, _| async move {
            while let Some(request) = client.request().await {
                let status = if request.head.starts_with(b"GET /health HTTP/1.1\r\n") { mood } else { "all is well" };
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Mood: {mood}\r\n\r\n{status}", status.len());
                if client.try_send(answer).await.is_err() {
                    return;
                }
            }
        })
        .await
    };
    let (well, ill) = (moody("well").await, moody("ill").await);
    let setup = Setup::before(&[ill.address(), well.address()]);
    let gateway = setup.upstream("health: { check: http, path: /health, body: well }").start().await;
    gateway.log_line("is down: answered 200 with a body that doesn't hold `well`").await;
    let mut client = gateway.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.header("x-mood"), Some("well"));
    }
}

#[tokio::test]
async fn without_a_server_clients_hear_503_and_readiness_says_why() {
    let gone = Echo::start("gone").await.address();
    let gateway = Setup::before(&[gone]).start_unready().await;
    gateway.log_line(&format!("server {gone} is down: can't connect: Connection refused")).await;
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status, 503);
    let readiness = gateway.admin("/readyz").await;
    assert!(readiness.status == 503 && readiness.text().contains("app"), "{}", readiness.text());
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_verdict() {
    let a = Echo::start("a").await;
    let gateway = Setup::before(&[a.address()]).start_unready().await;
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status, answer.header("x-server")), (200, Some("a")));
}

#[tokio::test]
async fn engine_io_checks_leave_no_session_behind() {
    for version in ["v4", "v3", "v2"] {
        let node = Node::server(version, &[]).await;
        let server = ([127, 0, 0, 1], node.port()).into();
        let _gateway = Setup::before(&[server]).upstream("kind: socket.io, health: { interval: 1s }").start().await;
        let stats = async || -> serde_json::Value {
            serde_json::from_str(&Client::connect(server).await.get("/__stats").await.text()).unwrap()
        };
        // Between two checks nothing is open; a session that was forgotten would stay for its ping timeout.
        eventually("checks come and go", async || {
            let stats = stats().await;
            stats["sessions_opened"].as_u64() >= Some(2) && stats["sessions_open"] == 0
        })
        .await;
    }
    let node = Node::server("v0.9", &[]).await;
    let setup = Setup::before(&[([127, 0, 0, 1], node.port()).into()]);
    let gateway = setup.upstream("kind: socket.io").start().await;
    gateway.log_line("is up: opened a session of Socket.IO 0.9").await;
}
