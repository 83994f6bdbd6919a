//! Servers that are full: who waits for a place, who gets it, and who is told that there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::engine::for_each_engine;
use crate::support::websocket::{SWITCH, upgrade};
use crate::support::{A_WHILE, Client, Puppet, Scripted, Setup, eventually, within};

for_each_engine! {
    a_full_server_makes_requests_wait,
    maxconn_2000 (flavor = "multi_thread", worker_threads = 2),
}

async fn a_full_server_makes_requests_wait() {
    let server = Puppet::start().await;
    let gateway = Setup::default()
        .server(format!("address: \"{}\", max_connections: 2", server.address()))
        .unchecked()
        .upstream("queue: { size: 2, timeout: 1s }")
        .start()
        .await;
    let web = gateway.address("web");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");

    // A request and a tunnel fill it.
    let mut request = Client::connect(web).await;
    request.send(get("/1")).await;
    let mut asked = server.accept().await;
    asked.request().await.unwrap();
    let mut socket = Client::connect(web).await;
    socket.send(upgrade("/2")).await;
    let mut tunnel = server.accept().await;
    tunnel.request().await.unwrap();
    tunnel.send(SWITCH).await;
    assert_eq!(socket.answer().await.status, 101);

    // Two wait, of either kind; one more is told at once.
    let mut waiting = Client::connect(web).await;
    waiting.send(get("/3")).await;
    let queued = |count: i32| {
        let gateway = &gateway;
        async move {
            eventually("they wait", async || {
                gateway.metric("sockgate_queue_waiting{upstream=\"app\"}").await == f64::from(count)
            })
            .await;
        }
    };
    queued(1).await;
    let mut opening = Client::connect(web).await;
    opening.send(upgrade("/4")).await;
    queued(2).await;
    let mut surplus = Client::connect(web).await;
    assert_eq!(surplus.get("/5").await.status, 503);
    let mut surplus = Client::connect(web).await;
    surplus.send(upgrade("/5")).await;
    assert_eq!(surplus.answer().await.status, 503);
    gateway.access_line(&["status=503", "closed_by=queue_full"]).await;
    assert!(server.stays_alone(A_WHILE).await);

    // The first in the queue gets the first place.
    drop((socket, tunnel));
    let mut third = server.accept().await;
    assert!(third.request().await.unwrap().head.starts_with(b"GET /3"));
    third.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(waiting.answer().await.status, 200);
    let mut fourth = server.accept().await;
    fourth.request().await.unwrap();
    fourth.send(SWITCH).await;
    assert_eq!(opening.answer().await.status, 101);
    gateway.access_line(&["target=/3", "queued="]).await;

    // Whoever waits too long is told, and never reset.
    let mut late = Client::connect(web).await;
    assert_eq!(late.get("/6").await.status, 503);
    let mut late = Client::connect(web).await;
    late.send(upgrade("/6")).await;
    assert_eq!(late.answer().await.status, 503);
    gateway.access_line(&["status=503", "closed_by=queue_timeout"]).await;

    // Whoever leaves the queue takes no place later.
    let mut leaving = Client::connect(web).await;
    leaving.send(upgrade("/7")).await;
    queued(1).await;
    drop(leaving);
    queued(0).await;
    asked.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(request.answer().await.status, 200);
    request.send(get("/8")).await;
    let mut last = server.accept().await;
    assert!(last.request().await.unwrap().head.starts_with(b"GET /8"));
}

/// The number that the operator of a busy site writes down, to the letter: requests and sockets, half and half.
async fn maxconn_2000() {
    const MOST: usize = 2000;
    let (inside, most_inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let release = Arc::new(Semaphore::new(0));
    let (now, peak, gate) = (Arc::clone(&inside), Arc::clone(&most_inside), Arc::clone(&release));
    let server = Scripted::start(move |mut client, _| {
        let (now, peak, gate) = (Arc::clone(&now), Arc::clone(&peak), Arc::clone(&gate));
        async move {
            while let Some(request) = client.request().await {
                let opens = request.head.windows(8).any(|part| part == b"Upgrade:");
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                now.fetch_sub(1, Ordering::SeqCst);
                if opens {
                    let _ = client.try_send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").await;
                    return;
                }
                if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Setup::default()
        .server(format!("address: \"{}\", max_connections: {MOST}", server.address()))
        .unchecked()
        .upstream("queue: { size: 1000, timeout: 20s }")
        .start()
        .await;
    let web = gateway.address("web");
    let mut clients = JoinSet::new();
    for number in 0..MOST + 200 {
        clients.spawn(async move {
            let mut client = Client::connect(web).await;
            if number % 2 == 0 {
                return client.get("/").await.status;
            }
            client.send(upgrade("/")).await;
            client.answer().await.status
        });
    }
    eventually("the server is full", async || inside.load(Ordering::SeqCst) == MOST).await;
    release.add_permits(MOST + 200);
    let statuses = within("all answers", clients.join_all()).await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 101)), "nobody is refused or reset");
    assert_eq!((statuses.len(), most_inside.load(Ordering::SeqCst)), (MOST + 200, MOST));
}
