//! How servers are met: which connection is used again, what is repeated and what never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::{A_WHILE, Client, Echo, Gateway, Puppet, Refusing, Scripted, eventually};

for_each_engine! {
    answers_that_are_none_become_502,
    a_server_that_dies_in_the_middle_leaves_a_cut,
    a_connection_that_the_server_has_closed_is_not_used_again,
    a_get_survives_the_end_of_a_kept_connection,
    what_is_sent_again_is_the_same,
    a_request_that_was_sent_is_not_sent_again,
    idle_connections_to_servers_are_let_go_before_the_server_does,
    a_server_that_refuses_connections_is_passed_over,
    a_slow_server_gets_less_by_peak_ewma,
}

for_the_relay! {
    a_connection_that_was_logged_in_is_its_clients_own,
    small_bodies_that_come_slowly_take_no_place,
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

/// The head is not kept while its answer is waited for, but written anew: with the host where the client has told none,
/// and with the same id.
async fn what_is_sent_again_is_the_same() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for head in [
        "GET /a?b=c HTTP/1.1\r\nHost: A.example\r\nX-First: 1\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
        "GET /a?b=c HTTP/1.0\r\nConnection: keep-alive\r\nX-First: 1\r\n\r\n",
    ] {
        let mut client = gateway.client().await;
        client.send(head.replace("/a?b=c", "/first")).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        client.send(head).await;
        let first = inside.request().await.unwrap().head;
        drop(inside);
        let mut inside = server.accept().await;
        let again = inside.request().await.unwrap().head;
        let (first, again) = (String::from_utf8_lossy(&first), String::from_utf8_lossy(&again));
        assert_eq!(first, again);
        assert!(again.starts_with("GET /a?b=c HTTP/1.1\r\n") && again.contains("X-Request-Id: "), "{again}");
        assert_eq!(again.matches("\r\nHost: ").count(), 1, "{again}");
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
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

#[tokio::test]
async fn a_failed_connect_goes_to_another_server() {
    let a = Echo::start("a").await;
    let gone = Echo::start("gone").await.address();
    for balance in ["round_robin", "least_connections", "random_two", "peak_ewma", "client_ip"] {
        let upstream = format!("balance: {balance}, ejection: {{ failures: 0 }}");
        let gateway = Gateway::before(&[gone, a.address()], &upstream, "").await;
        for last in 1..=10 {
            let mut client = Client::connect_from(last, gateway.address("web")).await;
            let answer = client.get("/").await;
            assert_eq!((answer.status, answer.header("x-server")), (200, Some("a")), "{balance}");
        }
    }
}

async fn a_slow_server_gets_less_by_peak_ewma() {
    // It takes its time for each answer, and a stall of the other one, as on a busy machine, is shorter.
    let slow = Scripted::start(|mut client, _| async move {
        while client.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            client.send("HTTP/1.1 200 OK\r\nX-Server: slow\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let fast = Echo::start("fast").await;
    let gateway = Gateway::before(&[slow.address(), fast.address()], "balance: peak_ewma", "").await;
    let mut client = gateway.client().await;
    let mut met = [0; 2];
    for _ in 0..40 {
        met[usize::from(client.get("/").await.header("x-server") == Some("fast"))] += 1;
    }
    assert!(met[1] >= 25 && met[0] >= 1, "slow and fast got {met:?}");
    let status: serde_json::Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    let expected = |server: usize| status["upstreams"][0]["servers"][server]["first_byte_seconds"].as_f64().unwrap();
    assert!(expected(0) > expected(1), "{status}");
}

/// NTLM logs a connection in (RFC 4559): who comes by it next is taken for the same user. Pingora keeps it for anybody.
async fn a_connection_that_was_logged_in_is_its_clients_own() {
    let server = Scripted::start(|mut client, number| async move {
        let mut user = "nobody";
        while let Some(request) = client.request().await {
            let answer = match String::from_utf8_lossy(&request.head) {
                head if head.contains("Authorization: NTLM two") => {
                    user = "anna";
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n{user} {number}")
                }
                head if head.contains("Authorization: NTLM") => {
                    "HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM abc\r\nContent-Length: 0\r\n\r\n".to_owned()
                }
                _ => {
                    let body = format!("{user} {number}");
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                }
            };
            if client.try_send(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[server.address()], "", "threads: 1").await;
    let (mut anna, mut stranger) = (gateway.client().await, gateway.client().await);
    assert_eq!(anna.get_with("/", "Authorization: NTLM one\r\n").await.status, 401);
    let welcome = anna.get_with("/", "Authorization: NTLM two\r\n").await.text();
    assert!(welcome.starts_with("anna "), "{welcome}");
    for _ in 0..3 {
        assert!(stranger.get("/").await.text().starts_with("nobody "));
        assert_eq!(anna.get("/").await.text(), welcome, "on the same connection");
    }
    drop(anna);
    assert!(stranger.get("/").await.text().starts_with("nobody "));
}

/// Some clients that send a byte now and then would fill a server that takes few requests at once. Pingora's hooks are
/// asked for a server before the body is read.
async fn small_bodies_that_come_slowly_take_no_place() {
    let server = Echo::start("a").await;
    let gateway = crate::support::Setup::default()
        .server(format!("address: \"{}\", max_connections: 1", server.address()))
        .unchecked()
        .upstream("queue: { size: 0 }")
        .start()
        .await;
    let mut slow = gateway.client().await;
    slow.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel").await;
    let mut other = gateway.client().await;
    for _ in 0..3 {
        assert_eq!(other.get("/").await.status, 200);
        assert!(slow.stays_silent(A_WHILE).await);
    }
    slow.send("lo").await;
    assert!(slow.answer().await.text().ends_with("hello"));
}
