//! Bodies of HTTP/1: they arrive whole, as they are sent, however they are framed.

use crate::support::Gateway;
use crate::support::client::{chunked, numbered};
use crate::support::engine::{ENGINE, for_each_engine, for_the_relay};

for_each_engine! {
    bodies_pass_whole_both_ways,
    expect_100_continue_is_the_servers_to_meet,
    trailers_pass_the_relay_without_what_may_not_stand_there,
    trailers_that_connection_names_end_at_the_gateway,
    answers_are_the_same_however_they_arrive,
    what_is_streamed_arrives_as_it_is_sent,
}

for_the_relay! {
    trailers_are_refused_where_a_head_of_them_would_be,
    a_client_that_knows_no_chunks_gets_the_body_without_its_trailers,
    a_large_body_between_plain_sockets_goes_by_a_pipe,
    a_server_that_ends_within_a_large_body_cuts_it,
    chunks_of_one_byte_go_on_together,
    a_body_that_is_mostly_framing_is_refused,
}

async fn bodies_pass_whole_both_ways() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    for size in [0, 1, 100, 65_536, 1_000_000] {
        let body = numbered(size);
        // Up by length and by chunks, down by length, by chunks and until the end of the connection.
        for (up, down) in [("length", "length"), ("chunks", "chunks"), ("length", "end")] {
            let (head, sent) = match up {
                "length" => (format!("Content-Length: {size}"), body.clone()),
                _ => ("Transfer-Encoding: chunked".to_owned(), chunked(&body, 10_000)),
            };
            let asked = async {
                client.send(format!("POST /{size} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n")).await;
                client.send(sent).await;
                client.answer().await
            };
            let (head, answered) = match down {
                "length" => (format!("Content-Length: {size}\r\n"), body.clone()),
                "chunks" => ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(&body, 3_000)),
                _ => (String::new(), body.clone()),
            };
            let answering = async {
                // Each on a connection of its own.
                let mut inside = server.accept().await;
                let head_in = inside.read_until(b"\r\n\r\n").await;
                let by_length = String::from_utf8_lossy(&head_in).to_ascii_lowercase().contains("content-length");
                assert_eq!(by_length, up == "length", "the framing is kept");
                let got = if by_length { inside.read(size).await } else { inside.chunks().await };
                inside.send(format!("HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n")).await;
                inside.send(answered).await;
                got
            };
            let (answer, got) = tokio::join!(asked, answering);
            assert!(got == body, "{size} up by {up}");
            assert!(answer.status == 200 && answer.body == body, "{size} down by {down}");
        }
    }
}

async fn expect_100_continue_is_the_servers_to_meet() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut client = gateway.client().await;
    client.send(head).await;
    let mut inside = server.accept().await;
    let asked = inside.read_until(b"\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&asked).to_ascii_lowercase().contains("expect: 100-continue"));
    inside.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send("body").await;
    assert_eq!(inside.read(4).await, b"body");
    inside.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await.body, b"ok");

    // A server that does not want the body says so, and never gets it.
    let mut client = gateway.client().await;
    client.send(head).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    inside.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_slice()), (417, b"no".as_slice()));
}

/// Pingora's engine drops all of them; the messages around them stay whole with both.
async fn trailers_pass_the_relay_without_what_may_not_stand_there() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    let head = "Transfer-Encoding: chunked\r\nTrailer: X-Sum, Host";
    let body = "2\r\nab\r\n0\r\nX-Sum: 1\r\nHost: evil\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}")).await;
    }
    let (announced, passed) = match ENGINE.get() {
        "relay" => (Some("X-Sum"), "2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n"),
        _ => (None, "2\r\nab\r\n0\r\n\r\n"),
    };
    let mut inside = server.accept().await;
    for _ in 0..2 {
        let head_in = inside.read_until(b"\r\n\r\n").await;
        let head_in = String::from_utf8_lossy(&head_in);
        assert_eq!(head_in.contains("\r\nTrailer: X-Sum\r\n"), announced.is_some(), "{head_in}");
        assert_eq!(String::from_utf8_lossy(&inside.read(passed.len()).await), passed);
        inside.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}")).await;
        let head_out = client.read_until(b"\r\n\r\n").await;
        let head_out = String::from_utf8_lossy(&head_out).to_ascii_lowercase();
        assert_eq!(head_out.contains("\r\ntrailer: x-sum\r\n"), announced.is_some(), "{head_out}");
        assert_eq!(String::from_utf8_lossy(&client.read(passed.len()).await), passed);
    }
}

/// They are of that one connection, wherever they stand (RFC 9110 7.6.1).
async fn trailers_that_connection_names_end_at_the_gateway() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let head = "Connection: X-Hop\r\nTransfer-Encoding: chunked\r\nTrailer: X-Hop, X-Sum\r\n\r\n";
    let message = format!("{head}2\r\nab\r\n0\r\nx-hop: 1\r\nX-Sum: 1\r\n\r\n");
    let passed = if ENGINE.get() == "relay" { "2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n" } else { "2\r\nab\r\n0\r\n\r\n" };
    let mut client = gateway.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{message}")).await;
    let mut inside = server.accept().await;
    let head_in = String::from_utf8(inside.read_until(b"\r\n\r\n").await).unwrap().to_ascii_lowercase();
    assert_eq!(String::from_utf8_lossy(&inside.read(passed.len()).await), passed);
    inside.send(format!("HTTP/1.1 200 OK\r\n{message}")).await;
    let head_out = String::from_utf8(client.read_until(b"\r\n\r\n").await).unwrap().to_ascii_lowercase();
    assert_eq!(String::from_utf8_lossy(&client.read(passed.len()).await), passed);
    assert!(!head_in.contains("x-hop") && !head_out.contains("x-hop"), "{head_in}{head_out}");
}

async fn trailers_are_refused_where_a_head_of_them_would_be() {
    let (server, gateway) = Gateway::before_puppet("limits: { head: 2KiB, headers: 4 }").await;
    let long = format!("X-Long: {}\r\n", "x".repeat(3000));
    for (trailers, status) in [(&*long, 431), ("a: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\ne: 1\r\n", 431), ("no colon\r\n", 400)]
    {
        let mut client = gateway.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await;
        let mut inside = server.accept().await;
        inside.read_until(b"\r\n\r\n2\r\nab\r\n").await;
        client.send(format!("0\r\n{trailers}\r\n")).await;
        assert_eq!(client.answer().await.status, status, "{trailers}");
        assert_eq!(inside.read_all().await, b"", "the server does not take the half for the whole");
    }
}

async fn a_client_that_knows_no_chunks_gets_the_body_without_its_trailers() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n")
        .await;
    let said = String::from_utf8(client.read_all().await).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(body == "ab" && !head.to_ascii_lowercase().contains("trailer"), "{said}");
}

async fn answers_are_the_same_however_they_arrive() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nhello\r\n\r\nbye",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         5;ext=1\r\nhello\r\n07\r\n\r\n\r\nbye\r\n0\r\nTrailer: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello\r\n\r\nbye",
        "HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\nhello\r\n\r\nbye",
        "HTTP/1.0 200 OK\r\n\r\nhello\r\n\r\nbye",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n\
         hello\r\n\r\nbye",
    ] {
        for at_once in [1, 7, 1000] {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            // None of these connections can be used again.
            let mut inside = server.accept().await;
            inside.request().await.unwrap();
            for part in answer.as_bytes().chunks(at_once) {
                inside.send(part).await;
            }
            inside.finish().await;
            let mut got = client.answer().await;
            if answer.contains(" 103 ") {
                assert_eq!((got.status, got.header("link")), (103, Some("x")));
                got = client.answer().await;
            }
            assert_eq!((got.status, got.body.as_slice()), (200, b"hello\r\n\r\nbye".as_slice()), "{answer}");
            assert!(got.head.starts_with("HTTP/1.1 200"), "{}", got.head);
        }
    }
}

async fn what_is_streamed_arrives_as_it_is_sent() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for (head, wrap, end) in [
        ("Transfer-Encoding: chunked", true, true),
        ("Content-Type: text/event-stream", false, true),
        ("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked", true, true),
        ("Content-Length: 30", false, false),
    ] {
        let mut client = gateway.client().await;
        client.send("GET /events HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n\r\n")).await;
        client.read_until(b"\r\n\r\n").await;
        for number in 0..3 {
            let event = format!("data: {number}\n\n.");
            assert_eq!(event.len(), 10);
            inside.send(if wrap { format!("a\r\n{event}\r\n") } else { event.clone() }).await;
            // The next one is not sent before this one is here.
            client.read_until(event.as_bytes()).await;
        }
        if end && wrap {
            inside.send("0\r\n\r\n").await;
        }
        drop(inside);
        if end {
            client.read_until(b"0\r\n\r\n").await;
        }
    }

    // Uploads, too.
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    for number in 0..3 {
        client.send(format!("2\r\n#{number}\r\n")).await;
        inside.read_until(format!("#{number}\r\n").as_bytes()).await;
    }
    // And both at once: the server speaks before the client has ended.
    inside.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    client.read_until(b"one\r\n").await;
    client.send("2\r\n#4\r\n0\r\n\r\n").await;
    inside.read_until(b"#4\r\n0\r\n\r\n").await;
    inside.send("3\r\ntwo\r\n0\r\n\r\n").await;
    client.read_until(b"two\r\n0\r\n\r\n").await;
}

/// Large enough that reads fill the gateway's buffer, whatever the machine does meanwhile.
const LARGE: usize = 32_000_000;

async fn a_large_body_between_plain_sockets_goes_by_a_pipe() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let body = numbered(LARGE);
    let mut pipes = vec![gateway.pipes()];
    // Up first, so that the same connections go on after it; and once more, with pipes that are there already.
    for _ in 0..2 {
        let mut client = gateway.client().await;
        let asking = async {
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")).await;
            client.send(&body).await;
            let answer = client.answer().await;
            assert!(answer.status == 200 && answer.body == body);
            // What follows on the connection is not lost in a pipe.
            client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(client.answer().await.body, b"ok");
        };
        let answering = async {
            let mut inside = server.accept().await;
            inside.read_until(b"\r\n\r\n").await;
            assert!(inside.read(LARGE).await == body);
            inside.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
            inside.send(&body).await;
            let next = String::from_utf8(inside.read_until(b"\r\n\r\n").await).unwrap();
            assert!(next.starts_with("GET /next "), "{next}");
            inside.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        };
        tokio::join!(asking, answering);
        pipes.push(gateway.pipes());
        let line = gateway.access_line(&["POST", &format!("{LARGE}")]).await;
        assert_eq!(line.matches(&LARGE.to_string()).count(), 2, "both ways are counted: {line}");
    }
    assert!(pipes[0] < pipes[1], "no pipe was used: {pipes:?}");
}

async fn a_server_that_ends_within_a_large_body_cuts_it() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LARGE + 1)).await;
    let (_, got) = tokio::join!(
        async move {
            inside.send(numbered(LARGE)).await;
            inside.finish().await;
        },
        async {
            client.read_until(b"\r\n\r\n").await;
            client.read_all().await
        }
    );
    assert!(got == numbered(LARGE), "{} bytes", got.len());
    gateway.access_line(&["/cut", "server"]).await;
}

/// A stranger's chunks cost the server no more than others do.
async fn chunks_of_one_byte_go_on_together() {
    const BYTES: usize = 5000;
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    client.send(chunked(&numbered(BYTES), 1)).await;
    let (mut body, mut chunks) = (Vec::new(), 0);
    while body.len() < BYTES {
        let size = String::from_utf8(inside.read_until(b"\r\n").await).unwrap();
        body.extend(inside.read(usize::from_str_radix(size.trim(), 16).unwrap()).await);
        assert_eq!(inside.read(2).await, b"\r\n");
        chunks += 1;
    }
    assert_eq!(inside.read(5).await, b"0\r\n\r\n");
    assert!(body == numbered(BYTES) && chunks <= BYTES / 50, "{chunks} chunks");
}

/// What is no data of a body counts by itself: else one of a few bytes could go on for ever.
async fn a_body_that_is_mostly_framing_is_refused() {
    let (server, gateway) = Gateway::before_puppet("limits: { body: 100KiB }").await;
    let mut client = gateway.client().await;
    client.send("POST /framing HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    // 18,000 bytes of data are fine, and 90,000 of framing; 30,000 and 150,000 are not.
    let chunks = chunked(&numbered(18_000), 1);
    client.send(&chunks[..chunks.len() - 5]).await;
    let mut came = 0;
    while came < 18_000 {
        let size = String::from_utf8(inside.read_until(b"\r\n").await).unwrap();
        came += inside.read(usize::from_str_radix(size.trim(), 16).unwrap()).await.len();
        inside.read(2).await;
    }
    let _ = client.try_send(chunked(&numbered(12_000), 1)).await;
    assert_eq!(client.answer().await.status, 413);
    gateway.access_line(&["target=/framing", "status=413", "closed_by=body_too_large"]).await;
}
