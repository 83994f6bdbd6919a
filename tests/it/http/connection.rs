//! Connections of HTTP/1: used again where they can be, and ended where they have to be.

use crate::support::client::numbered;
use crate::support::engine::for_each_engine;
use crate::support::websocket::upgrade;
use crate::support::{A_WHILE, Client, Gateway, eventually};

for_each_engine! {
    one_connection_carries_many_requests,
    pipelined_requests_are_answered_in_order,
    a_request_waits_for_the_answer_to_the_one_before,
    answers_without_a_body_leave_the_connection_usable,
    http_1_0_clients_get_what_they_can_read,
    connection_close_is_kept,
    a_client_that_hangs_up_is_gone_for_the_server_at_once,
    local_answers_keep_the_connection,
    an_answer_may_come_before_the_end_of_the_request,
}

async fn one_connection_carries_many_requests() {
    let (server, gateway) = Gateway::before_echo("").await;
    let mut client = gateway.client().await;
    for round in 0..30 {
        let path = format!("/{round}");
        for (answer, method) in [(client.get(&path).await, "GET"), (client.post(&path, b"body").await, "POST")] {
            assert_eq!(answer.status, 200);
            assert!(answer.text().starts_with(&format!("a\n{method} {path} HTTP/1.1\r\n")), "{}", answer.text());
        }
    }
    assert_eq!(server.accepted(), 1, "to the server, too");
}

async fn pipelined_requests_are_answered_in_order() {
    let (_server, gateway) = Gateway::before_echo("").await;
    let mut client = gateway.client().await;
    let gets: String = (0..5).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    let bodies = "POST /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nGET /x \
                  PUT /6 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\r\n";
    // The last one becomes a tunnel, and what follows its head is the tunnel's.
    client.send(gets + bodies + &upgrade("/7") + "and what follows").await;
    for number in 0..7 {
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(&format!(" /{number} HTTP/1.1")), "{number}: {}", answer.text());
    }
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.read(16).await, b"and what follows");
}

async fn a_request_waits_for_the_answer_to_the_one_before() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // More than the gateway is willing to hold ahead.
    let big = numbered(100_000);
    client.send([b"POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".as_slice(), &big].concat()).await;
    assert!(inside.stays_silent(A_WHILE).await && server.stays_alone(A_WHILE).await);
    for path in ["/2", "/3"] {
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        let request = inside.request().await.unwrap();
        assert!(String::from_utf8_lossy(&request.head).contains(path));
        assert_eq!(request.body.len(), if path == "/3" { big.len() } else { 0 });
    }
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}

async fn answers_without_a_body_leave_the_connection_usable() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    let mut asked = 0;
    let mut inside = None;
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX: y\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"),
        ("HEAD", "HTTP/1.1 404 Not Found\r\nX: y\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nX: y\r\nETag: \"a\"\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nX: y\r\nContent-Length: 1000\r\n\r\n"),
        ("DELETE", "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n"),
    ] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        if inside.is_none() {
            inside = Some(server.accept().await);
        }
        let server_side = inside.as_mut().unwrap();
        assert!(server_side.request().await.unwrap().head.starts_with(method.as_bytes()));
        server_side.send(answer).await;
        let head = String::from_utf8(client.read_until(b"\r\n\r\n").await).unwrap();
        let status = answer.split(' ').nth(1).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains("X: y"), "{head}");
        if answer.contains("1000") && method == "HEAD" {
            assert!(head.to_ascii_lowercase().contains("content-length: 1000"), "{head}");
        }
        asked += 1;
    }
    assert_eq!(asked, 7, "all on one connection of either side");
    assert!(client.stays_silent(A_WHILE).await);
}

async fn http_1_0_clients_get_what_they_can_read() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", "hello"),
    ] {
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(answer).await;
        drop(inside);
        let all = String::from_utf8(client.ending().await.unwrap()).unwrap();
        let (head, got) = all.split_once("\r\n\r\n").unwrap();
        assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
        assert_eq!(got, body, "{answer}");
    }
    // Not kept where the end of the connection is the end of the body, even if that was asked for.
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let all = String::from_utf8(client.ending().await.unwrap()).unwrap();
    assert!(all.ends_with("\r\n\r\nhello") && all.to_ascii_lowercase().contains("connection: close"), "{all}");
    drop(inside);
    // Cut where the server cut it.
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    client.read_until(b"half").await;
    drop(inside);
    assert!(client.ending().await.is_err(), "a reset, since a proper end would say that this was all");
    // Kept where both want it and the length is known.
    let mut client = gateway.client().await;
    let mut inside = None;
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").await;
        if inside.is_none() {
            inside = Some(server.accept().await);
        }
        let inside = inside.as_mut().unwrap();
        inside.request().await.unwrap();
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        let answer = client.answer().await;
        assert_eq!(answer.body, b"hello");
        assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
    }
}

async fn connection_close_is_kept() {
    let (_server, gateway) = Gateway::before_echo("").await;
    let mut client = gateway.client().await;
    let answer = client.get_with("/", "Connection: close\r\n").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(client.ending().await.unwrap(), b"");
}

/// What happens when a browser's tab is closed during a long poll: the server has to know at once.
async fn a_client_that_hangs_up_is_gone_for_the_server_at_once() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for (reset, first) in [(false, ""), (true, ""), (false, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")] {
        let mut client = match reset {
            false => gateway.client().await,
            true => Client::connect_to_reset(gateway.address("web")).await,
        };
        client.send("GET /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(first).await;
        if !first.is_empty() {
            client.read_until(b"\r\n\r\n").await;
        }
        drop(client);
        assert_eq!(inside.read_all().await, b"");
    }
    eventually("each is logged as left by the client", async || {
        gateway.access_lines().iter().filter(|line| line.contains("closed_by=client")).count() == 3
    })
    .await;

    // In the middle of an upload, the server must not take the half for the whole.
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let mut inside = server.accept().await;
    inside.read_until(b"half\r\n").await;
    drop(client);
    assert_eq!(inside.read_all().await, b"");
}

async fn local_answers_keep_the_connection() {
    let gateway = Gateway::start(
        "
listeners:
  - { name: web, address: 127.0.0.1:0 }
routes:
  - { match: { path: /hello }, respond: { body: \"hello\\n\", headers: { X-Mine: yes } } }
  - { match: { path: /nothing }, respond: { status: 204 } }
  - { match: { path: /gone }, respond: { status: 410 } }
  - { match: { path: /old }, redirect: { path: /new, status: 302 } }
  - { redirect: { scheme: https } }
",
    )
    .await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let answer = client.get("/hello").await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"hello\n".as_slice()));
        assert_eq!(
            (answer.header("x-mine"), answer.header("content-type")),
            (Some("yes"), Some("text/plain; charset=utf-8"))
        );
        client.send("HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = String::from_utf8(client.read_until(b"\r\n\r\n").await).unwrap().to_ascii_lowercase();
        assert!(head.contains("content-length: 6"), "{head}");
        assert_eq!(client.get("/nothing").await.status, 204);
        assert_eq!(client.get("/gone").await.status, 410);
        let answer = client.get("/old?x=1").await;
        assert_eq!((answer.status, answer.header("location")), (302, Some("http://localhost/new")));
        let answer = client.get_with("/a%20b?c=d", "Host: Example.com:8080\r\n").await;
        assert_eq!((answer.status, answer.header("location")), (308, Some("https://Example.com/a%20b?c=d")));
        // A body that nobody wants is read away.
        let answer = client.post("/hello", &numbered(300_000)).await;
        assert_eq!(answer.status, 200);
    }
}

async fn an_answer_may_come_before_the_end_of_the_request() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let body = numbered(3_000_000);
    for (head, ends) in [("", false), ("Connection: close\r\n", true)] {
        let mut client = gateway.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {}\r\n\r\n", body.len())).await;
        let mut inside = server.accept().await;
        inside.read_until(b"\r\n\r\n").await;
        inside.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
        // The client speaks on; neither side may be stuck, and the client has to get the answer.
        client.send(&body).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_slice()), (401, b"no".as_slice()));
        inside.finish().await;
        if ends {
            assert_eq!(client.ending().await.unwrap(), b"", "no reset");
        } else {
            client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut inside = server.accept().await;
            assert!(inside.request().await.unwrap().head.starts_with(b"GET /next"));
        }
    }
}
