//! How servers are met: which connection is used again, what is repeated and what never, who waits for a place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::upgrade;
use crate::support::engine::for_each_engine;
use crate::support::{A_WHILE, Client, Echo, Gateway, Puppet, Refusing, Scripted, eventually, within};

for_each_engine! {
    answers_that_are_none_become_502,
    a_server_that_dies_in_the_middle_leaves_a_cut,
    a_connection_that_the_server_has_closed_is_not_used_again,
    a_get_survives_the_end_of_a_kept_connection,
    a_request_that_was_sent_is_not_sent_again,
    idle_connections_to_servers_are_let_go_before_the_server_does,
    a_server_that_refuses_connections_is_passed_over,
    a_full_server_makes_requests_wait,
    maxconn_2000 (flavor = "multi_thread", worker_threads = 2),
}

async fn answers_that_are_none_become_502() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "\x15\x03\x01\x00\x02\x02\x0a",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nX: half a he",
        "",
    ] {
        let mut client = gateway.client().await;
        // A POST, which is not tried again.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(answer).await;
        drop(inside);
        let got = client.answer().await;
        assert_eq!(got.status, 502, "{answer:?} became {}", got.head);
    }
    gateway.access_line(&["status=502", "closed_by=bad_answer"]).await;
}

async fn a_server_that_dies_in_the_middle_leaves_a_cut() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for (head, reset) in [
        ("Content-Length: 100", false),
        ("Content-Length: 100", true),
        ("Transfer-Encoding: chunked", false),
        ("Transfer-Encoding: chunked", true),
        ("Connection: close", true),
    ] {
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut inside = if reset { server.accept_to_reset().await } else { server.accept().await };
        inside.request().await.unwrap();
        inside.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n4\r\nhalf\r\n")).await;
        client.read_until(b"half").await;
        drop(inside);
        let rest = client.read_all().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{head} {reset}: {:?}", String::from_utf8_lossy(&rest));
    }
    eventually("all are logged", async || gateway.access_lines().len() == 5).await;
    for line in gateway.access_lines() {
        assert!(line.contains("closed_by=server") || line.contains("closed_by=bad_answer"), "{line}");
    }
}

async fn a_connection_that_the_server_has_closed_is_not_used_again() {
    let posts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&posts);
    // Answers once on each connection and closes it then, without having said so.
    let server = Scripted::start(move |mut client, _| {
        let count = Arc::clone(&count);
        async move {
            let Some(request) = client.request().await else { return };
            count.fetch_add(usize::from(request.head.starts_with(b"POST")), Ordering::SeqCst);
            let _ = client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = gateway.client().await;
    let mut lost = 0;
    for round in 0..50 {
        assert_eq!(client.get("/").await.status, 200, "in round {round}");
        // The gateway can't know that the server is closing at this moment; it may fail, but not say it twice.
        let answer = client.post("/", b"once").await;
        assert!(matches!(answer.status, 200 | 502), "{}", answer.status);
        if answer.status == 502 {
            lost += 1;
            client = gateway.client().await;
        }
        assert_eq!(posts.load(Ordering::SeqCst), round + 1 - lost, "each POST arrives once");
    }
}

/// The server closes a kept connection just when a request is on its way over it: nothing was answered, so what may be
/// repeated is, on a new connection to the same server, which alone may know the session that it belongs to.
async fn a_get_survives_the_end_of_a_kept_connection() {
    let (server, other) = (Puppet::start().await, Puppet::start().await);
    for servers in [vec![server.address()], vec![server.address(), other.address()]] {
        let gateway = Gateway::before(&servers, "balance: client_ip", "").await;
        let mut client = gateway.client().await;
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (home, mut inside) = tokio::select! {
            inside = server.accept() => (&server, inside),
            inside = other.accept() => (&other, inside),
        };
        inside.request().await.unwrap();
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(inside.request().await.unwrap().head.starts_with(b"GET /2"));
        drop(inside);
        let mut inside = home.accept().await;
        assert!(inside.request().await.unwrap().head.starts_with(b"GET /2"));
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer().await.body, b"ok");
    }
}

/// A server that takes a POST from a connection that was used before, and dies of it: it is not told to the next one.
async fn a_request_that_was_sent_is_not_sent_again() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    client.send("POST /order HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
    assert_eq!(inside.request().await.unwrap().body, b"body");
    drop(inside);
    assert_eq!(client.answer().await.status, 502);
    assert!(server.stays_alone(A_WHILE).await);
}

async fn idle_connections_to_servers_are_let_go_before_the_server_does() {
    const IDLE: Duration = Duration::from_millis(400);
    let server = Scripted::start(|mut client, _| async move {
        while let Ok(Some(_)) = tokio::time::timeout(IDLE, client.request()).await {
            if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[server.address()], "timeouts: { keep_alive: 50ms }", "").await;
    let mut client = gateway.client().await;
    for round in 0..200 {
        assert_eq!(client.post("/", b"x").await.status, 200, "in round {round}");
        // Shorter and longer than the gateway keeps one, and right at the border.
        tokio::time::sleep(Duration::from_millis([0, 0, 0, 0, 0, 0, 5, 45, 50, 60][round % 10])).await;
    }
    assert!((2..200).contains(&server.accepted()), "some are used again: {}", server.accepted());
}

async fn a_server_that_refuses_connections_is_passed_over() {
    let (refusing, other) = (Refusing::new(), Refusing::new());
    let server = Echo::start("a").await;
    let both = [refusing.address(), server.address()];
    let gateway = Gateway::before(&both, "ejection: { failures: 0 }, timeouts: { keep_alive: 0s }", "").await;
    let mut client = gateway.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status, 200);
        let answer = client.post("/", b"once").await;
        assert!(answer.status == 200 && answer.text().ends_with("once"));
    }
    gateway.access_line(&["status=200", "tries=2"]).await;

    let gateway = Gateway::before(&[refusing.address(), other.address()], "", "").await;
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.status, 502);
    gateway.access_line(&["status=502", "closed_by=connect_failed", "tries=2"]).await;
}

async fn a_full_server_makes_requests_wait() {
    let server = Puppet::start().await;
    let address = server.address();
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app:
    servers: [{{ address: \"{address}\", max_connections: 2 }}]
    health: {{ check: none }}
    queue: {{ size: 2, timeout: 1s }}
"
    ))
    .await;
    let web = gateway.address("web");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

    // A request and a tunnel fill it.
    let mut request = Client::connect(web).await;
    request.send(get("/1")).await;
    let mut asked = server.accept().await;
    asked.request().await.unwrap();
    let mut socket = Client::connect(web).await;
    socket.send(upgrade("/2")).await;
    let mut tunnel = server.accept().await;
    tunnel.request().await.unwrap();
    tunnel.send(switch).await;
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
    fourth.send(switch).await;
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
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app:
    servers: [{{ address: \"{}\", max_connections: {MOST} }}]
    health: {{ check: none }}
    queue: {{ size: 1000, timeout: 20s }}
",
        server.address()
    ))
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
