//! Servers die, come back and fill up, and clients should hear as little of it as can be.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::support::node::Node;
use crate::support::{Client, Echo, Gateway, Scripted, eventually};

/// A gateway with one listener, `web`, and one upstream, `app`.
async fn gateway(upstream: &str) -> Gateway {
    Gateway::start(&configuration(upstream)).await
}

fn configuration(upstream: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app: {upstream}
"
    )
}

#[tokio::test]
async fn restart_backend_2s() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let gateway = gateway(&format!(
        "{{ servers: [\"{}\", \"{}\"], health: {{ interval: 1s, timeout: 500ms }} }}",
        a.address(),
        b.address()
    ))
    .await;
    let mut client = Client::connect(gateway.address("web")).await;
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
        let mut client = Client::connect(gateway.address("web")).await;
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
async fn a_failed_connect_goes_to_another_server() {
    let a = Echo::start("a").await;
    let gone = Echo::start("gone").await.address();
    for balance in ["round_robin", "least_connections", "random_two", "client_ip"] {
        let gateway = gateway(&format!(
            "{{ balance: {balance}, servers: [\"{gone}\", \"{}\"], health: {{ check: none }}, ejection: {{ failures: 0 }} }}",
            a.address()
        ))
        .await;
        for last in 1..=10 {
            let mut client = Client::connect_from(last, gateway.address("web")).await;
            let answer = client.get("/").await;
            assert_eq!((answer.status, answer.header("x-server")), (200, Some("a")), "{balance}");
        }
    }
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
    let gateway = gateway(&format!(
        "{{ servers: [\"{}\", \"{}\"], health: {{ check: http, path: /health, body: well }} }}",
        ill.address(),
        well.address()
    ))
    .await;
    gateway.log_line("is down: answered 200 with a body that doesn't hold `well`").await;
    let mut client = Client::connect(gateway.address("web")).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.header("x-mood"), Some("well"));
    }
}

#[tokio::test]
async fn without_a_server_clients_hear_503_and_readiness_says_why() {
    let gone = Echo::start("gone").await.address();
    let gateway = Gateway::start_unready(&configuration(&format!("{{ servers: [\"{gone}\"] }}"))).await;
    gateway.log_line(&format!("server {gone} is down: can't connect: Connection refused")).await;
    let answer = Client::connect(gateway.address("web")).await.get("/").await;
    assert_eq!(answer.status, 503);
    let readiness = gateway.admin("/readyz").await;
    assert!(readiness.status == 503 && readiness.text().contains("app"), "{}", readiness.text());
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_verdict() {
    let a = Echo::start("a").await;
    let gateway = Gateway::start_unready(&configuration(&format!("{{ servers: [\"{}\"] }}", a.address()))).await;
    let answer = Client::connect(gateway.address("web")).await.get("/").await;
    assert_eq!((answer.status, answer.header("x-server")), (200, Some("a")));
}

#[tokio::test]
async fn a_full_server_lets_requests_wait_in_line() {
    // Each request is answered when the test says so.
    let (started, mut requests) = mpsc::unbounded_channel();
    let (permit, permits) = async_permits();
    let server = Scripted::start(move |mut client, _| {
        let (started, permits) = (started.clone(), permits.clone());
        async move {
            while let Some(request) = client.request().await {
                let line = String::from_utf8_lossy(&request.head).lines().next().unwrap().to_owned();
                started.send(line).unwrap();
                permits.acquire().await.unwrap().forget();
                if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = gateway(&format!(
        "{{ servers: [{{ address: \"{}\", max_connections: 1 }}], queue: {{ size: 2, timeout: 1m }}, \
         health: {{ check: none }} }}",
        server.address()
    ))
    .await;
    let ask = |path: &'static str| {
        let address = gateway.address("web");
        tokio::spawn(async move { Client::connect(address).await.get(path).await.status })
    };
    let waiting = |count: f64| {
        let gateway = &gateway;
        async move {
            let metric = "sockgate_queue_waiting{upstream=\"app\"}";
            eventually("they wait", async || gateway.metric(metric).await == count).await;
        }
    };
    let first = ask("/1");
    assert_eq!(requests.recv().await.unwrap(), "GET /1 HTTP/1.1");
    let second = ask("/2");
    waiting(1.0).await;
    let third = ask("/3");
    waiting(2.0).await;
    assert_eq!(ask("/4").await.unwrap(), 503, "the queue is full");

    for (asked, next) in [(first, Some("GET /2 HTTP/1.1")), (second, Some("GET /3 HTTP/1.1")), (third, None)] {
        permit();
        assert_eq!(asked.await.unwrap(), 200);
        if let Some(next) = next {
            assert_eq!(requests.recv().await.unwrap(), next);
        }
    }
}

/// Something to wait for, and what lets one waiter go.
fn async_permits() -> (impl Fn(), std::sync::Arc<tokio::sync::Semaphore>) {
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let gate = permits.clone();
    (move || gate.add_permits(1), permits)
}

#[tokio::test]
async fn engine_io_checks_leave_no_session_behind() {
    for version in ["v4", "v3", "v2"] {
        let node = Node::server(version, &[]).await;
        let _gateway = gateway(&format!(
            "{{ kind: socket.io, servers: [\"127.0.0.1:{}\"], health: {{ interval: 1s }} }}",
            node.port()
        ))
        .await;
        let server = ([127, 0, 0, 1], node.port()).into();
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
    let gateway = gateway(&format!("{{ kind: socket.io, servers: [\"127.0.0.1:{}\"] }}", node.port())).await;
    gateway.log_line("is up: opened a session of Socket.IO 0.9").await;
}
