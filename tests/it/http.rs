//! Ordinary HTTP/1: messages keep their borders, connections are used again, and nobody waits for what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet, Refusing, Scripted, eventually, within};

/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(150);

fn numbered(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + (at % 23) as u8).collect()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut chunks = Vec::new();
    for chunk in body.chunks(size) {
        chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    chunks
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    for round in 0..30 {
        let path = format!("/{round}");
        for (answer, method) in [(client.get(&path).await, "GET"), (client.post(&path, b"body").await, "POST")] {
            assert_eq!(answer.status, 200);
            assert!(answer.text().starts_with(&format!("a\n{method} {path} HTTP/1.1\r\n")), "{}", answer.text());
        }
    }
    assert_eq!(server.accepted(), 1, "to the server, too");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn a_request_waits_for_the_answer_to_the_one_before() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn bodies_pass_whole_both_ways() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn expect_100_continue_is_the_servers_to_meet() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut client = Client::connect(gateway.address("web")).await;
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
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(head).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    inside.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_slice()), (417, b"no".as_slice()));
}

/// Trailers are not passed on, as most servers and clients ignore them; the messages around them stay whole.
#[tokio::test]
async fn trailers_end_at_the_gateway() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    let trailers = "2\r\nab\r\n0\r\nX-Trailer: 1\r\nHost: evil\r\n\r\n";
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{trailers}")).await;
    }
    let mut inside = server.accept().await;
    for _ in 0..2 {
        inside.read_until(b"\r\n\r\n").await;
        assert_eq!(inside.read(12).await, b"2\r\nab\r\n0\r\n\r\n");
        inside.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{trailers}")).await;
        assert_eq!(client.answer().await.body, b"ab");
    }
}

#[tokio::test]
async fn http_1_0_clients_get_what_they_can_read() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", "hello"),
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
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
    let mut client = Client::connect(gateway.address("web")).await;
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let all = String::from_utf8(client.ending().await.unwrap()).unwrap();
    assert!(all.ends_with("\r\n\r\nhello") && all.to_ascii_lowercase().contains("connection: close"), "{all}");
    drop(inside);
    // Cut where the server cut it.
    let mut client = Client::connect(gateway.address("web")).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    client.read_until(b"half").await;
    drop(inside);
    assert!(client.ending().await.is_err(), "a reset, since a proper end would say that this was all");
    // Kept where both want it and the length is known.
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn connection_close_is_kept() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    let answer = client.get_with("/", "Connection: close\r\n").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(client.ending().await.unwrap(), b"");
}

#[tokio::test]
async fn a_whole_url_is_a_target_too() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    for (target, path, host) in [
        ("http://real.example/a%20b?c=d", "/a%20b?c=d", "real.example"),
        ("http://real.example:8080/", "/", "real.example:8080"),
        ("http://real.example", "/", "real.example"),
        ("http://real.example?x", "/?x", "real.example"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: other.example\r\n\r\n")).await;
        let text = client.answer().await.text();
        assert!(text.starts_with(&format!("a\nGET {path} HTTP/1.1\r\n")), "{target} became {text}");
        assert!(text.contains(&format!("Host: {host}\r\n")) && !text.contains("Host: other"), "{target}: {text}");
    }
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.answer().await.text().starts_with("a\nOPTIONS * HTTP/1.1\r\n"));
}

/// Old clients and servers mind both, and what looks odd here may be what an app was written for.
#[tokio::test]
async fn targets_and_fields_keep_their_spelling() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for sent in [
        "/a%2fb/./c/%7e//?x=%20+y&&=",
        "/;p=1/%E2%82%AC?",
        "/?q={\"a\":[1|2]}",
        "/?q=^`\\'<>",
        "/caf\u{e9}?q=\u{20ac}",
        "//double?//",
        "/?http://other/",
    ] {
        // Characters that are no part of any URL are escaped, the way browsers do it.
        let target = sent.replace('"', "%22").replace('<', "%3C").replace('>', "%3E").replace('`', "%60");
        let mut client = Client::connect(gateway.address("web")).await;
        client
            .send(format!("GET {sent} HTTP/1.1\r\nhOST: a\r\nX-ODD_Case.name: one\r\nx-odd_case.NAME: two\r\n\r\n"))
            .await;
        let mut inside = tokio::select! {
            inside = server.accept() => inside,
            answer = client.answer() => panic!("{target}: {}", answer.head),
        };
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap();
        assert_eq!(head.lines().next().unwrap(), format!("GET {target} HTTP/1.1"));
        assert!(head.contains("X-ODD_Case.name: one\r\n") && head.contains("x-odd_case.NAME: two\r\n"), "{head}");
        inside
            .send("HTTP/1.1 200 Quite OK\r\nX-ODD: 1\r\nx-oDD: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        let head = client.answer().await.head;
        assert!(head.contains("X-ODD: 1\r\n") && head.contains("x-oDD: 2\r\n"), "{head}");
    }
}

#[tokio::test]
async fn answers_are_the_same_however_they_arrive() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn what_is_streamed_arrives_as_it_is_sent() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for (head, wrap, end) in [
        ("Transfer-Encoding: chunked", true, true),
        ("Content-Type: text/event-stream", false, true),
        ("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked", true, true),
        ("Content-Length: 30", false, false),
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
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
    let mut client = Client::connect(gateway.address("web")).await;
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

/// What happens when a browser's tab is closed during a long poll: the server has to know at once.
#[tokio::test]
async fn a_client_that_hangs_up_is_gone_for_the_server_at_once() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for (reset, first) in [(false, ""), (true, ""), (false, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")] {
        let mut client = match reset {
            false => Client::connect(gateway.address("web")).await,
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
    let mut client = Client::connect(gateway.address("web")).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let mut inside = server.accept().await;
    inside.read_until(b"half\r\n").await;
    drop(client);
    assert_eq!(inside.read_all().await, b"");
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "limits: { head: 4KiB, headers: 20, body: 1KiB }").await;
    let long = "x".repeat(5000);
    let fields: String = (0..20).map(|number| format!("X-{number}: y\r\n")).collect();
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody!", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\nbody", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0Y: z\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
        ("GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n", 413),
        (&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), 431),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), 431),
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(request).await;
        let answer = client.answer().await;
        let shown = &request[..request.len().min(200)];
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(answer.header("connection"), Some("close"), "{shown}");
        assert_eq!(client.ending().await.unwrap(), b"", "{shown}");
    }
    assert!(server.stays_alone(A_WHILE).await, "none of them reaches the server");
}

/// A head whose lines end without CR is read by the letter of RFC 9112 2.2, and told to the server the proper way.
#[tokio::test]
async fn bare_line_feeds_in_a_head_are_mended() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    client.send("GET /1 HTTP/1.1\nHost: a\n\nPOST /2 HTTP/1.1\nHost: a\nContent-Length: 2\n\nok").await;
    for path in ["GET /1", "POST /2"] {
        let text = client.answer().await.text();
        assert!(text.contains(path), "{text:?}");
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count() + 1, "but for the echo's own: {text:?}");
    }
}

/// Two readers of a chunked body that see its end in different places are a way to smuggle requests.
#[tokio::test]
async fn chunks_that_are_not_to_the_letter_are_refused() {
    let server = Scripted::start(|mut client, _| async move {
        while let Some(request) = client.request().await {
            let smuggled = String::from_utf8_lossy(&request.head).contains("/smuggled");
            let status = if smuggled { "299 Smuggled" } else { "200 OK" };
            if client.try_send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[server.address()], "", "timeouts: { body: 1s }").await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5;\nx\r\nhello\r\n0\r\n\r\n",
        "5;x\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\n\n",
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{smuggled}")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{body:?}");
        let rest = client.read_all().await;
        assert_eq!(rest, b"", "{body:?} is followed by {:?}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_wherever_it_shows() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "limits: { body: 100KiB }").await;
    let mut client = Client::connect(gateway.address("web")).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    // The client goes on sending; it has to see the answer all the same.
    let sending = async {
        let chunk = chunked(&numbered(10_000), 10_000);
        let chunk = &chunk[..chunk.len() - 5];
        for _ in 0..100 {
            if client.try_send(chunk).await.is_err() {
                break;
            }
        }
        let answer = client.answer().await;
        client.finish().await;
        assert_eq!(client.ending().await.unwrap(), b"", "no reset");
        answer
    };
    let (answer, got) = tokio::join!(sending, inside.read_all());
    assert_eq!(answer.status, 413);
    assert!(!got.ends_with(b"0\r\n\r\n"), "the server must not take the half for the whole");
    gateway.access_line(&["status=413", "closed_by=body_too_large"]).await;

    let mut client = Client::connect(gateway.address("web")).await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 100 * 1024)).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    client.send(numbered(100 * 1024)).await;
    assert_eq!(inside.read(100 * 1024).await.len(), 100 * 1024, "the limit itself is allowed");
}

#[tokio::test]
async fn paths_that_lead_two_ways_lead_nowhere() {
    let (open, closed) = (Puppet::start().await, Puppet::start().await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ path: /admin }}, upstream: closed }}
  - {{ match: {{ path: /public }}, upstream: open }}
upstreams:
  open: {{ servers: [\"{}\"], health: {{ check: none }} }}
  closed: {{ servers: [\"{}\"], health: {{ check: none }} }}
",
        open.address(),
        closed.address()
    ))
    .await;
    for (path, status) in [
        ("/public/..%2fadmin", 400),
        ("/public/..%5Cadmin", 400),
        ("/public\\..\\admin", 400),
        ("/../public", 400),
        ("/public/a%00b", 400),
        ("/elsewhere", 404),
        ("/administrators", 404),
    ] {
        for opening in [upgrade(path), format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")] {
            let mut client = Client::connect(gateway.address("web")).await;
            client.send(&opening).await;
            assert_eq!(client.answer().await.status, status, "{opening}");
        }
    }
    assert!(open.stays_alone(A_WHILE).await && closed.stays_alone(A_WHILE).await);
}

#[tokio::test]
async fn fields_of_one_connection_stay_on_it() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
             TE: trailers\r\nProxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nTrailer: X\r\n\
             Cookie: a=1\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    let mut inside = server.accept().await;
    let head = String::from_utf8(inside.request().await.unwrap().head).unwrap().to_ascii_lowercase();
    for gone in ["connection", "x-mine", "keep-alive", "te:", "proxy-", "trailer"] {
        assert!(!head.contains(&format!("\r\n{gone}")), "{gone} in {head}");
    }
    assert!(head.contains("\r\nx-kept: 1\r\n") && head.contains("\r\ncookie: a=1\r\n"));
    inside
        .send(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Theirs\r\nX-Theirs: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authenticate: Basic\r\nTrailer: X\r\nUpgrade: h2c\r\nX-Kept: 1\r\nSet-Cookie: a=1\r\n\
             Set-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
    let answer = client.answer().await;
    for gone in ["x-theirs", "keep-alive", "proxy-authenticate", "trailer", "upgrade"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    assert_eq!(answer.header("x-kept"), Some("1"));
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
}

#[tokio::test]
async fn answers_that_are_none_become_502() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
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
        let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
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
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_request() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let body = numbered(3_000_000);
    for (head, ends) in [("", false), ("Connection: close\r\n", true)] {
        let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
async fn a_server_that_dies_in_the_middle_leaves_a_cut() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for (head, reset) in [
        ("Content-Length: 100", false),
        ("Content-Length: 100", true),
        ("Transfer-Encoding: chunked", false),
        ("Transfer-Encoding: chunked", true),
        ("Connection: close", true),
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
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
    let mut client = Client::connect(gateway.address("web")).await;
    let mut lost = 0;
    for round in 0..50 {
        assert_eq!(client.get("/").await.status, 200, "in round {round}");
        // The gateway can't know that the server is closing at this moment; it may fail, but not say it twice.
        let answer = client.post("/", b"once").await;
        assert!(matches!(answer.status, 200 | 502), "{}", answer.status);
        if answer.status == 502 {
            lost += 1;
            client = Client::connect(gateway.address("web")).await;
        }
        assert_eq!(posts.load(Ordering::SeqCst), round + 1 - lost, "each POST arrives once");
    }
}

/// The server closes a kept connection just when a request is on its way over it: nothing was answered, so what may be
/// repeated is, on a new connection to the same server, which alone may know the session that it belongs to.
#[tokio::test]
async fn a_get_survives_the_end_of_a_kept_connection() {
    let (server, other) = (Puppet::start().await, Puppet::start().await);
    for servers in [vec![server.address()], vec![server.address(), other.address()]] {
        let gateway = Gateway::before(&servers, "balance: client_ip", "").await;
        let mut client = Client::connect(gateway.address("web")).await;
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
#[tokio::test]
async fn a_request_that_was_sent_is_not_sent_again() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
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

#[tokio::test]
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
    let mut client = Client::connect(gateway.address("web")).await;
    for round in 0..200 {
        assert_eq!(client.post("/", b"x").await.status, 200, "in round {round}");
        // Shorter and longer than the gateway keeps one, and right at the border.
        tokio::time::sleep(Duration::from_millis([0, 0, 0, 0, 0, 0, 5, 45, 50, 60][round % 10])).await;
    }
    assert!((2..200).contains(&server.accepted()), "some are used again: {}", server.accepted());
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_passed_over() {
    let (refusing, other) = (Refusing::new(), Refusing::new());
    let server = Echo::start("a").await;
    let both = [refusing.address(), server.address()];
    let gateway = Gateway::before(&both, "ejection: { failures: 0 }, timeouts: { keep_alive: 0s }", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status, 200);
        let answer = client.post("/", b"once").await;
        assert!(answer.status == 200 && answer.text().ends_with("once"));
    }
    gateway.access_line(&["status=200", "tries=2"]).await;

    let gateway = Gateway::before(&[refusing.address(), other.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    assert_eq!(client.get("/").await.status, 502);
    gateway.access_line(&["status=502", "closed_by=connect_failed", "tries=2"]).await;
}

#[tokio::test]
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
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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

#[tokio::test]
async fn requests_are_the_same_wherever_they_are_cut() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "forwarding: { request_id: \"\" }").await;
    for request in [
        "GET /some/path?with=query HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n",
        "POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\nhello\r\n\r\nbye",
        "POST /chunks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n\
         00a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
    ] {
        // The one behind it shows where it ends.
        let behind = "GET /behind HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let sent = request.to_owned() + behind;
        let mut clients = Vec::new();
        for at in 0..sent.len() {
            let mut client = Client::connect(gateway.address("web")).await;
            client.send(&sent[..at]).await;
            clients.push(client);
        }
        let mut answers = Vec::new();
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(&sent[at..]).await;
        }
        for client in &mut clients {
            let (first, second) = (client.answer().await, client.answer().await);
            assert!(second.text().contains("GET /behind "), "{}", second.text());
            answers.push((first.status, joined(&first.text())));
        }
        assert_eq!(answers[0].0, 200);
        for (at, answer) in answers.iter().enumerate() {
            assert_eq!(answer, &answers[0], "{request:?} cut at {at}");
        }
    }
}

/// What was echoed, with the chunks of the body put together: how a body is cut into chunks is nobody's business.
fn joined(echoed: &str) -> String {
    let (head, body) = echoed.split_once("\r\n\r\n").unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return echoed.to_owned();
    }
    let pieces: Vec<&str> = body.split("\r\n").collect();
    head.to_owned() + &pieces.chunks(2).filter_map(|pair| pair.get(1).copied()).collect::<String>()
}
