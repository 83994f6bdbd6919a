//! HTTP as old clients, monitors and servers speak it: no host, half-closed connections, interim answers, servers that end
//! in the middle of things.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::engine::for_each_engine;
use crate::support::{A_WHILE, Client, Gateway, Puppet, Scripted};

for_each_engine! {
    a_request_without_a_host_reaches_the_server_with_its_own,
    a_client_that_has_closed_its_half_gets_its_answer,
    an_event_stream_is_not_kept_for_a_client_that_has_closed_its_half,
    a_refusal_is_owed_after_an_interim_answer,
    a_get_that_met_the_end_of_a_server_is_answered_by_another,
}

async fn a_request_without_a_host_reaches_the_server_with_its_own() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for request in ["GET /health HTTP/1.0\r\n\r\n", "OPTIONS / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"] {
        let mut client = gateway.client().await;
        client.send(request).await;
        let mut inside = server.accept().await;
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap().to_lowercase();
        assert!(head.contains(&format!("\r\nhost: {}\r\n", server.address())), "{head}");
        inside.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer().await.body, b"ok");
    }
}

/// `printf … | nc`, monitors, old libraries: a half-close is no abort (RFC 9112 9.6).
async fn a_client_that_has_closed_its_half_gets_its_answer() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    for request in
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", chunked]
    {
        let mut client = gateway.client().await;
        client.send(request).await;
        client.finish().await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        // The gateway has seen the end by now, and the server takes its time.
        assert!(inside.stays_silent(A_WHILE).await, "{request}");
        inside.send("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
        assert_eq!(client.read_until(b"ok\r\n").await.split(|&byte| byte == b' ').nth(1), Some(&b"200"[..]));
        inside.send("0\r\n\r\n").await;
        assert!(client.read_all().await.ends_with(b"0\r\n\r\n"), "{request}");
    }
}

/// Its server may say nothing for hours, and nobody would notice that the client has left.
async fn an_event_stream_is_not_kept_for_a_client_that_has_closed_its_half() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n")
        .await;
    client.read_until(b":\n\n\r\n").await;
    client.finish().await;
    assert_eq!(inside.read_all().await, b"");
}

async fn a_refusal_is_owed_after_an_interim_answer() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "timeouts: { first_byte: 1s }", "").await;
    for (late, status, word) in [(false, 502, "bad_answer"), (true, 504, "answer_timeout")] {
        let mut client = gateway.client().await;
        // What may not be repeated, so that the first server is the last.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n").await;
        client.read_until(b"rel=preload\r\n\r\n").await;
        let _silent = late.then_some(inside);
        assert_eq!(client.answer().await.status, status);
        gateway.access_line(&[&format!("status={status}"), &format!("closed_by={word}")]).await;
    }
}

async fn a_get_that_met_the_end_of_a_server_is_answered_by_another() {
    let (gets, posts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&gets), Arc::clone(&posts));
    // Takes one request on each connection, and ends.
    let dying = Scripted::start(move |mut client, _| {
        let (gets, posts) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            let Some(request) = client.request().await else { return };
            let count = if request.head.starts_with(b"GET") { gets } else { posts };
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let well = Scripted::start(|mut client: Client, _| async move {
        while client.request().await.is_some() {
            let _ = client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let servers = [dying.address(), well.address()];
    let gateway = Gateway::before(&servers, "balance: round_robin, ejection: { failures: 0 }", "").await;
    // Not so often that it is passed over.
    for _ in 0..4 {
        assert_eq!(gateway.client().await.get("/").await.status, 200);
    }
    assert!(gets.load(Ordering::SeqCst) == 2, "half of them met the other first");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(gateway.client().await.post("/", b"once").await.status);
    }
    assert_eq!(statuses.iter().filter(|&&status| status == 502).count(), posts.load(Ordering::SeqCst), "{statuses:?}");
    assert_eq!(posts.load(Ordering::SeqCst), 2, "a POST is told to nobody else");

    // Where there is no other, it is as it was.
    let alone = Gateway::before(&[dying.address()], "ejection: { failures: 0 }", "").await;
    assert_eq!(alone.client().await.get("/").await.status, 502);
    alone.access_line(&["status=502", "closed_by=bad_answer"]).await;
}
