//! Ordinary HTTP/1: messages keep their borders, connections are used again, and nobody waits for what is there.

use crate::support::client::{chunked, numbered, upgrade};
use crate::support::engine::for_each_engine;
use crate::support::{A_WHILE, Client, Gateway, eventually};

for_each_engine! {
    one_connection_carries_many_requests,
    pipelined_requests_are_answered_in_order,
    a_request_waits_for_the_answer_to_the_one_before,
    bodies_pass_whole_both_ways,
    answers_without_a_body_leave_the_connection_usable,
    expect_100_continue_is_the_servers_to_meet,
    trailers_end_at_the_gateway,
    http_1_0_clients_get_what_they_can_read,
    connection_close_is_kept,
    a_whole_url_is_a_target_too,
    targets_and_fields_keep_their_spelling,
    answers_are_the_same_however_they_arrive,
    what_is_streamed_arrives_as_it_is_sent,
    a_client_that_hangs_up_is_gone_for_the_server_at_once,
    fields_of_one_connection_stay_on_it,
    local_answers_keep_the_connection,
    an_answer_may_come_before_the_end_of_the_request,
    requests_are_the_same_wherever_they_are_cut,
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

/// Trailers are not passed on, as most servers and clients ignore them; the messages around them stay whole.
async fn trailers_end_at_the_gateway() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
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

async fn a_whole_url_is_a_target_too() {
    let (_server, gateway) = Gateway::before_echo("").await;
    let mut client = gateway.client().await;
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
async fn targets_and_fields_keep_their_spelling() {
    let (server, gateway) = Gateway::before_puppet("").await;
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
        let mut client = gateway.client().await;
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

async fn fields_of_one_connection_stay_on_it() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
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

async fn requests_are_the_same_wherever_they_are_cut() {
    let (_server, gateway) = Gateway::before_echo("forwarding: { request_id: \"\" }").await;
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
            let mut client = gateway.client().await;
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
