//! Servers that are asked by HTTP/2: what they see of requests, how connections to them are shared, and what becomes of
//! requests when they refuse, leave, break or lie.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use h2::server::Builder;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::sync::{Semaphore, mpsc};

use crate::support::client::{numbered, tcp};
use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::http2::{Http2, read, whole};
use crate::support::http2_server::{agree, answer, begin, body, each, echo, serving};
use crate::support::node::Node;
use crate::support::tls::Authority;
use crate::support::{Gateway, Scripted, Setup, eventually, within};

for_each_engine! {
    requests_of_any_client_arrive_by_http_2,
    large_bodies_pass_both_ways_for_any_client,
    a_server_that_speaks_http_1_is_no_server_and_its_status_says_why,
    tls_agrees_on_http_2_or_there_is_no_connection,
    checks_ask_by_http_2,
    websockets_go_by_http_1_1,
    a_web_app_on_node_is_served_to_any_client,
}

for_the_relay! {
    trailers_pass_both_ways_for_any_client,
    interim_answers_reach_any_client,
    streams_share_a_connection,
    a_server_that_allows_one_stream_gets_a_connection_for_each,
    a_goodbye_lets_streams_end_and_sends_others_elsewhere,
    what_a_server_refuses_is_sent_again_whole,
    what_every_connection_refuses_is_given_up,
    a_connection_that_breaks_is_a_bad_answer_to_each_of_its_streams_and_to_no_other,
    a_request_that_may_be_repeated_is_when_its_connection_breaks,
    a_reset_of_the_servers_reaches_the_client_with_its_reason,
    a_reset_of_the_clients_reaches_the_server,
    resets_of_one_client_do_not_add_up_on_a_connection_that_others_use,
    a_client_that_takes_nothing_holds_up_no_other,
    a_server_that_takes_nothing_is_given_up_and_nothing_piles_up,
    small_parts_that_wait_for_the_server_end_no_connection,
    small_parts_that_wait_for_a_client_end_no_connection,
    idle_connections_are_closed,
    frames_without_end_and_heads_without_measure_end_the_connection,
    a_login_of_the_connection_has_one_of_its_own,
}

async fn http2(gateway: &Gateway) -> Http2 {
    Http2::over(tcp(gateway.address("web")).await).await
}

fn before(server: &Scripted) -> Setup {
    Setup::before(&[server.address()]).upstream("http2: true")
}

fn text(answer: &Response<Vec<u8>>) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

async fn requests_of_any_client_arrive_by_http_2() {
    let server = serving(Builder::new(), |asked, _| echo(asked)).await;
    let gateway = before(&server).unchecked().start().await;
    let (mut old, new) = (gateway.client().await, http2(&gateway).await);
    let request = |method: &str| Request::builder().method(method).uri("http://a.test:81/path?query=1");
    for seen in [
        old.get_with("/path?query=1", "Host: a.test:81\r\nTE: trailers\r\nCookie: a=1\r\nCookie: b=2\r\n").await.text(),
        text(
            &new.ask(
                request("GET")
                    .header("te", "trailers")
                    .header("cookie", "a=1")
                    .header("cookie", "b=2")
                    .body(())
                    .unwrap(),
                "",
            )
            .await,
        ),
    ] {
        assert!(seen.starts_with("GET http://a.test:81/path?query=1\n"), "{seen}");
        let cookies = seen.contains("\ncookie: a=1; b=2\n") || seen.contains("\ncookie: a=1\ncookie: b=2\n");
        assert!(seen.contains("\nte: trailers\n") && seen.contains("\nx-forwarded-proto: http\n") && cookies, "{seen}");
        assert!(!seen.contains("\nhost:") && !seen.contains("connection:"), "{seen}");
    }
    for seen in [
        old.post("/", b"a small body").await.text(),
        text(&new.ask(request("POST").header("content-length", "12").body(()).unwrap(), "a small body").await),
    ] {
        assert!(seen.contains("\ncontent-length: 12\n") && seen.ends_with("\n\na small body"), "{seen}");
    }
    old.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").await;
    for seen in [old.answer().await.text(), text(&new.ask(request("POST").body(()).unwrap(), "abc").await)] {
        assert!(!seen.contains("transfer-encoding") && seen.ends_with("\n\nabc"), "{seen}");
    }
    let head = new.ask(request("HEAD").body(()).unwrap(), "").await;
    assert!(head.status() == 200 && head.body().is_empty());
    gateway.access_line(&["protocol=HTTP/1.1", "target=/path", "status=200", "upstream=app"]).await;
    gateway.access_line(&["protocol=HTTP/2", "target=/path", "status=200", "upstream=app"]).await;
}

async fn large_bodies_pass_both_ways_for_any_client() {
    let server = serving(Builder::new(), |(request, respond), _| async move {
        let came = body(request).await;
        answer(respond, came);
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let sent = numbered(3 << 20);
    let (mut old, new) = (gateway.client().await, http2(&gateway).await);
    assert!(old.post("/", &sent).await.body == sent);
    let request = Request::post("http://a.test/").body(()).unwrap();
    assert!(new.ask(request, sent.clone()).await.body() == &sent);
}

async fn a_server_that_speaks_http_1_is_no_server_and_its_status_says_why() {
    let server = Scripted::start(|mut client, _| async move {
        // What such servers say to the preface.
        let _ = client.some().await;
        let _ = client.try_send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        client.ending().await.ok();
    })
    .await;
    let gateway = before(&server).start_unready().await;
    gateway.log_line("is down: can't connect: it speaks HTTP/1, not HTTP/2").await;
    assert_eq!(gateway.client().await.get("/").await.status, 503);
    assert!(gateway.admin("/status").await.text().contains("it speaks HTTP/1, not HTTP/2"));
    let gateway = before(&server).unchecked().start().await;
    assert_eq!(gateway.client().await.get("/").await.status, 502);
}

async fn tls_agrees_on_http_2_or_there_is_no_connection() {
    let authority = Authority::new();
    let shown = authority.sign(&["localhost", "127.0.0.1"]);
    let config = |alpn: &[&str]| {
        let mut config = (*authority.server(&shown, false)).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    let start = |alpn: &[&str]| {
        Scripted::start_tls(config(alpn), |client, _| async move {
            if let Some(connection) = agree(client, &Builder::new()).await {
                each(connection, echo).await;
            }
        })
    };
    let tls = format!("tls: {{ ca: {} }}", authority.ca());
    for (alpn, said) in [
        (&["http/1.1", "h2"][..], None),
        (&["http/1.1"], Some("is down: can't connect: ")),
        (&[], Some("is down: can't connect: it speaks no HTTP/2: ALPN has not agreed on `h2`")),
    ] {
        let server = start(alpn).await;
        let gateway = before(&server).upstream(&tls);
        match said {
            None => {
                let seen = gateway.start().await.client().await.get("/x").await.text();
                assert!(seen.starts_with("GET https://"), "{seen}");
            }
            Some(said) => {
                let gateway = gateway.start_unready().await;
                gateway.log_line(said).await;
                assert_eq!(gateway.client().await.get("/").await.status, 503);
            }
        }
    }
}

async fn checks_ask_by_http_2() {
    let well = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_well = Arc::clone(&well);
    let server = serving(Builder::new(), move |(request, mut respond), _| {
        let well = is_well.load(SeqCst);
        async move {
            if request.uri().path() != "/grpc.health.v1.Health/Check" {
                let status = if request.uri().path() == "/health" && well { 200 } else { 500 };
                respond.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
                return;
            }
            assert_eq!(request.headers()["te"], "trailers");
            let serving = if well && body(request).await == b"\0\0\0\0\x05\x0a\x03a.B" { 1 } else { 2 };
            let mut sending = begin(respond);
            sending.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, serving]), false).unwrap();
            let status =
                [("grpc-status", "0")].map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            sending.send_trailers(HeaderMap::from_iter(status)).unwrap();
        }
    })
    .await;
    let asking = |check: &str| before(&server).upstream(format!("health: {{ interval: 1s, {check} }}"));
    let grpc = asking("check: grpc, service: a.B").start().await;
    let http = asking("check: http, path: /health").start().await;
    asking("check: tcp").start().await;
    well.store(false, SeqCst);
    grpc.log_line("is down: says that it does not serve").await;
    http.log_line("is down: answered 500, expected 200-399").await;
    asking("check: grpc, service: other").start_unready().await.log_line("is down: says that it does not serve").await;
}

/// A server of both, as many frameworks are.
async fn websockets_go_by_http_1_1() {
    let server = Scripted::start(|mut client, _| async move {
        let Some(request) = client.request().await else { return };
        assert!(request.head.starts_with(b"GET /socket HTTP/1.1\r\n"), "{:?}", request.head);
        client.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello").await;
        client.ending().await.ok();
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let mut client = gateway.client().await;
    let fields = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    client.send(format!("GET /socket HTTP/1.1\r\n{fields}\r\n")).await;
    assert!(client.read_until(b"\r\n\r\n").await.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(client.read(5).await, b"hello");
}

async fn a_web_app_on_node_is_served_to_any_client() {
    let node = Node::start("http2_server.js", &[]).await;
    let setup = Setup::before(&[([127, 0, 0, 1], node.port()).into()]).upstream("http2: true");
    let gateway = setup.start().await;
    let (mut old, new) = (gateway.client().await, http2(&gateway).await);
    let large = numbered(1 << 20);
    let post = Request::post("http://a.test/b?c").header("cookie", "a=1").header("cookie", "b=2").body(()).unwrap();
    let seen = [old.post("/b?c", &large).await.text(), text(&new.ask(post, large).await)];
    for (seen, (authority, cookie)) in seen.iter().zip([("localhost", None), ("a.test", Some("a=1; b=2"))]) {
        let seen: serde_json::Value = serde_json::from_str(seen).unwrap();
        assert!(seen["version"] == "2.0" && seen["method"] == "POST" && seen["url"] == "/b?c", "{seen}");
        assert!(seen["authority"] == authority && seen["length"] == 1 << 20, "{seen}");
        assert_eq!(seen["cookie"].as_str(), cookie);
    }
}

async fn trailers_pass_both_ways_for_any_client() {
    let server = serving(Builder::new(), |(request, mut respond), _| async move {
        let mut asked = request.into_body();
        while let Some(part) = asked.data().await {
            asked.flow_control().release_capacity(part.unwrap().len()).unwrap();
        }
        let sum = asked.trailers().await.unwrap().and_then(|trailers| trailers.get("x-sum").cloned());
        let head = Response::builder().header("trailer", "x-sum, x-forwarded-for").body(()).unwrap();
        let mut sending = respond.send_response(head, false).unwrap();
        sending.send_data("ab".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", sum.unwrap_or(HeaderValue::from_static("none")));
        trailers.insert("set-cookie", HeaderValue::from_static("a=b"));
        sending.send_trailers(trailers).unwrap();
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let mut old = gateway.client().await;
    old.send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\nCookie: a\r\n\r\n").await;
    let head = old.read_until(b"\r\n\r\n").await;
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n") && head.contains("\r\ntrailer: x-sum\r\n"), "{head}");
    assert_eq!(old.read_until(b"\r\n\r\n").await, b"2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n");
    let new = http2(&gateway).await;
    let (answered, mut sending) = new.open(Request::post("http://a.test/").body(()).unwrap()).await;
    sending.send_data("a".into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("8"));
    sending.send_trailers(trailers).unwrap();
    let (head, mut stream) = within("the head", answered).await.unwrap().into_parts();
    assert_eq!(head.headers["trailer"], "x-sum");
    while let Some(part) = within("the body", stream.data()).await {
        assert_eq!(part.unwrap(), "ab");
    }
    let trailers = within("the trailers", stream.trailers()).await.unwrap().unwrap();
    assert!(trailers.len() == 1 && trailers["x-sum"] == "8", "{trailers:?}");
}

async fn interim_answers_reach_any_client() {
    let server = serving(Builder::new(), |(_, mut respond), _| async move {
        let hints = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        respond.send_informational(hints).unwrap();
        answer(respond, "whole");
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let mut old = gateway.client().await;
    old.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let hints = old.read_until(b"\r\n\r\n").await;
    assert!(hints.starts_with(b"HTTP/1.1 103 ") && hints.ends_with(b"link: </a.css>\r\n\r\n"), "{hints:?}");
    assert_eq!(old.answer().await.text(), "whole");
    let new = http2(&gateway).await;
    let mut answered = new.begin(Request::get("http://a.test/").body(()).unwrap(), "").await;
    let hints = within("the hints", std::future::poll_fn(|cx| answered.poll_informational(cx))).await.unwrap().unwrap();
    assert!(hints.status() == 103 && hints.headers()["link"] == "</a.css>");
    assert_eq!(text(&whole(answered).await), "whole");
}

/// Answers what waits once the test says so; tells the test of each request, by the number of its connection.
struct Held {
    server: Scripted,
    go: Arc<Semaphore>,
    came: mpsc::UnboundedReceiver<usize>,
}

impl Held {
    async fn start(builder: Builder) -> Self {
        let (go, (tell, came)) = (Arc::new(Semaphore::new(0)), mpsc::unbounded_channel());
        let wait = Arc::clone(&go);
        let server = serving(builder, move |(request, respond), number| {
            let (wait, tell) = (Arc::clone(&wait), tell.clone());
            async move {
                tell.send(number).unwrap();
                body(request).await;
                wait.acquire().await.unwrap().forget();
                answer(respond, number.to_string());
            }
        })
        .await;
        Self { server, go, came }
    }

    async fn next(&mut self) -> usize {
        within("a request", self.came.recv()).await.unwrap()
    }
}

async fn streams_share_a_connection() {
    let mut held = Held::start(Builder::new()).await;
    let gateway = before(&held.server).unchecked().start().await;
    let client = http2(&gateway).await;
    let get = || Request::get("http://a.test/").body(()).unwrap();
    let mut answers = Vec::new();
    for _ in 0..50 {
        answers.push(client.begin(get(), "").await);
    }
    for _ in 0..50 {
        held.next().await;
    }
    // Each thread has its own.
    assert!(held.server.accepted() <= 16, "{} connections", held.server.accepted());
    held.go.add_permits(50);
    for answer in answers {
        assert_eq!(whole(answer).await.status(), 200);
    }
    let accepted = held.server.accepted();
    held.go.add_permits(50);
    for _ in 0..50 {
        client.ask(get(), "").await;
    }
    assert!(held.server.accepted() <= accepted.max(16), "they are used again");
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let accepted = held.server.accepted() as f64;
    let opened = format!("sockgate_server_connects_total{{upstream=\"app\",server=\"{}\"}}", held.server.address());
    assert_eq!(gateway.metric(&opened).await, accepted);
    assert_eq!(gateway.metric(r#"sockgate_server_http2_connections{upstream="app"}"#).await, accepted);
}

async fn a_server_that_allows_one_stream_gets_a_connection_for_each() {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(1);
    let mut held = Held::start(builder).await;
    let gateway = before(&held.server).unchecked().start().await;
    let client = http2(&gateway).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.begin(Request::get("http://a.test/").body(()).unwrap(), "").await);
    }
    let mut connections = std::collections::BTreeSet::new();
    for _ in 0..20 {
        connections.insert(held.next().await);
    }
    assert_eq!(connections.len(), 20, "all are under way at once");
    held.go.add_permits(20);
    for answer in answers {
        assert_eq!(whole(answer).await.status(), 200);
    }
}

async fn a_goodbye_lets_streams_end_and_sends_others_elsewhere() {
    let (go, (leave, leaves)) = (Arc::new(Semaphore::new(0)), mpsc::channel::<()>(1));
    let (tell, mut came) = mpsc::unbounded_channel();
    let (wait, leaves) = (Arc::clone(&go), Arc::new(tokio::sync::Mutex::new(leaves)));
    let server = Scripted::start(move |client, number| {
        let (wait, tell, leaves) = (Arc::clone(&wait), tell.clone(), Arc::clone(&leaves));
        async move {
            let mut connection = agree(client, &Builder::new()).await.unwrap();
            let mut leaves = leaves.lock_owned().await;
            loop {
                tokio::select! {
                    asked = connection.accept() => {
                        let Some(Ok((_, respond))) = asked else { return };
                        tell.send(number).unwrap();
                        let wait = Arc::clone(&wait);
                        tokio::spawn(async move {
                            wait.acquire().await.unwrap().forget();
                            answer(respond, number.to_string());
                        });
                    }
                    Some(()) = leaves.recv() => {
                        connection.graceful_shutdown();
                        break;
                    }
                }
            }
            drop(leaves);
            tell.send(99).unwrap();
            while let Some(Ok((_, respond))) = connection.accept().await {
                drop(respond);
            }
        }
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let client = http2(&gateway).await;
    let post = || Request::post("http://a.test/").body(()).unwrap();
    let first = client.begin(post(), "x").await;
    assert_eq!(within("the first", came.recv()).await, Some(0));
    leave.send(()).await.unwrap();
    assert_eq!(within("the goodbye", came.recv()).await, Some(99));
    let second = client.begin(post(), "y").await;
    assert_eq!(within("the second", came.recv()).await, Some(1), "on another connection");
    go.add_permits(2);
    assert_eq!((text(&whole(first).await), text(&whole(second).await)), ("0".to_owned(), "1".to_owned()));
}

async fn what_a_server_refuses_is_sent_again_whole() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = serving(Builder::new(), move |(request, mut respond), _| {
        let number = count.fetch_add(1, SeqCst);
        async move {
            let said = body(request).await;
            if number.is_multiple_of(2) {
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                answer(respond, said);
            }
        }
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let (mut old, new) = (gateway.client().await, http2(&gateway).await);
    assert_eq!(old.post("/", b"a small body").await.text(), "a small body");
    assert_eq!(text(&new.ask(Request::post("http://a.test/").body(()).unwrap(), "another").await), "another");
    let sized = Request::post("http://a.test/").header("content-length", "4").body(()).unwrap();
    assert_eq!(text(&new.ask(sized, "more").await), "more");
    assert_eq!(asked.load(SeqCst), 6);
    // What has gone by can't go again.
    let large = new.ask(Request::post("http://a.test/").body(()).unwrap(), numbered(1 << 20)).await;
    assert_eq!(large.status(), 502);
}

async fn what_every_connection_refuses_is_given_up() {
    let start = || {
        serving(Builder::new(), |(_, mut respond), _| async move {
            respond.send_reset(Reason::REFUSED_STREAM);
        })
    };
    let (a, b) = (start().await, start().await);
    let setup = Setup::before(&[a.address(), b.address()]).upstream("http2: true").unchecked();
    let gateway = setup.start().await;
    assert_eq!(gateway.client().await.post("/", b"x").await.status, 502);
    let answer = http2(&gateway).await.ask(Request::post("http://a.test/").body(()).unwrap(), "x").await;
    assert_eq!(answer.status(), 502);
}

async fn a_connection_that_breaks_is_a_bad_answer_to_each_of_its_streams_and_to_no_other() {
    let (tell, mut came) = mpsc::unbounded_channel();
    let (break_it, breaks) = mpsc::channel::<()>(1);
    let breaks = Arc::new(tokio::sync::Mutex::new(breaks));
    let server = Scripted::start(move |client, number| {
        let (tell, breaks) = (tell.clone(), Arc::clone(&breaks));
        async move {
            let mut connection = agree(client, &Builder::new()).await.unwrap();
            let mut kept = Vec::new();
            let mut breaks = breaks.lock_owned().await;
            loop {
                tokio::select! {
                    asked = connection.accept() => match asked {
                        Some(Ok((_, respond))) if number > 0 => answer(respond, "well"),
                        Some(Ok(asked)) => {
                            tell.send(()).unwrap();
                            kept.push(asked);
                        }
                        _ => return,
                    },
                    Some(()) = breaks.recv() => return,
                }
            }
        }
    })
    .await;
    let setup = before(&server).upstream("ejection: { bad_answers: 4 }").more("threads: 1");
    let gateway = setup.unchecked().start().await;
    let client = http2(&gateway).await;
    let post = || Request::post("http://a.test/").body(()).unwrap();
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(client.begin(post(), "x").await);
        within("a request", came.recv()).await.unwrap();
    }
    break_it.send(()).await.unwrap();
    for answer in answers {
        assert_eq!(whole(answer).await.status(), 502);
    }
    for _ in 0..3 {
        gateway.access_line(&["status=502", "closed_by=bad_answer"]).await;
    }
    assert_eq!(text(&client.ask(post(), "x").await), "well", "on another one, since three are not four");
}

async fn a_request_that_may_be_repeated_is_when_its_connection_breaks() {
    let server = Scripted::start(|client, number| async move {
        let mut connection = agree(client, &Builder::new()).await.unwrap();
        let mut served = 0;
        while let Some(Ok((_, respond))) = connection.accept().await {
            // The first one breaks under its second request.
            if number == 0 && served == 1 {
                return;
            }
            answer(respond, number.to_string());
            served += 1;
        }
    })
    .await;
    let gateway = before(&server).more("threads: 1").unchecked().start().await;
    let (mut old, new) = (gateway.client().await, http2(&gateway).await);
    let get = || Request::get("http://a.test/").body(()).unwrap();
    assert_eq!(text(&new.ask(get(), "").await), "0");
    assert_eq!(text(&new.ask(get(), "").await), "1");
    assert_eq!(old.get("/").await.text(), "1");
}

async fn a_reset_of_the_servers_reaches_the_client_with_its_reason() {
    let go = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&go);
    let server = serving(Builder::new(), move |(_, respond), _| {
        let wait = Arc::clone(&wait);
        async move {
            let mut sending = begin(respond);
            let _ = wait.acquire().await;
            sending.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let client = http2(&gateway).await;
    let answered = client.begin(Request::get("http://a.test/").body(()).unwrap(), "").await;
    let body = within("the head", answered).await.unwrap().into_body();
    go.add_permits(1);
    assert_eq!(read(body).await.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    gateway.access_line(&["status=200", "closed_by=server"]).await;
}

async fn a_reset_of_the_clients_reaches_the_server() {
    let (tell, mut came) = mpsc::unbounded_channel();
    let server = serving(Builder::new(), move |(_, mut respond), _| {
        let tell = tell.clone();
        async move {
            tell.send(None).unwrap();
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            tell.send(Some(reason)).unwrap();
        }
    })
    .await;
    let gateway = before(&server).unchecked().start().await;
    let client = http2(&gateway).await;
    let answered = client.begin(Request::get("http://a.test/").body(()).unwrap(), "").await;
    assert_eq!(within("the request", came.recv()).await, Some(None));
    drop(answered);
    assert_eq!(within("the reset", came.recv()).await, Some(Some(Reason::CANCEL)));
    let mut old = gateway.client().await;
    old.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(within("the request", came.recv()).await, Some(None));
    drop(old);
    assert!(within("the reset", came.recv()).await.is_some());
    eventually("the places are given back", async || gateway.metric("sockgate_server_in_flight").await == 0.0).await;
}

async fn resets_of_one_client_do_not_add_up_on_a_connection_that_others_use() {
    let mut held = Held::start(Builder::new()).await;
    let gateway = before(&held.server).more("threads: 1").unchecked().start().await;
    let (hostile, other) = (http2(&gateway).await, http2(&gateway).await);
    let get = || Request::get("http://a.test/").body(()).unwrap();
    let stays = other.begin(get(), "").await;
    let first = held.next().await;
    let began = Instant::now();
    let mut resets = BTreeMap::new();
    for _ in 0..700 {
        let answered = hostile.begin(get(), "").await;
        *resets.entry(held.next().await).or_insert(0) += 1;
        drop(answered);
    }
    // A stream or two may begin while the last one that counts ends.
    let most = 205 + 10 * (began.elapsed().as_secs() + 1);
    assert!(resets.len() >= 3 && resets.values().all(|&count| count <= most), "{resets:?}, at most {most}");
    held.go.add_permits(701);
    let answer = whole(stays).await;
    assert!(answer.status() == 200 && text(&answer) == first.to_string(), "{answer:?}");
}

async fn a_client_that_takes_nothing_holds_up_no_other() {
    let server = serving(Builder::new(), |(_, respond), _| async move { answer(respond, numbered(8 << 20)) }).await;
    let gateway = before(&server).more("threads: 1").unchecked().start().await;
    let get = || Request::get("http://a.test/").body(()).unwrap();
    let mut stalled = Vec::new();
    for _ in 0..30 {
        let client = http2(&gateway).await;
        let answered = client.begin(get(), "").await;
        stalled.push((within("the head", answered).await.unwrap(), client));
    }
    let before = gateway.memory();
    for client in [http2(&gateway).await, http2(&gateway).await] {
        assert_eq!(client.ask(get(), "").await.body(), &numbered(8 << 20));
    }
    assert!(gateway.memory() < before + (32 << 10), "little of what they don't take waits here");
}

async fn a_server_that_takes_nothing_is_given_up_and_nothing_piles_up() {
    let server = serving(Builder::new(), |(request, respond), _| async move {
        if request.uri().path() == "/well" {
            return answer(respond, "well");
        }
        let (_request, _respond) = (request, respond);
        std::future::pending::<()>().await;
    })
    .await;
    let setup = before(&server).upstream("timeouts: { write: 1s }").more("threads: 1").unchecked();
    let gateway = setup.start().await;
    let client = http2(&gateway).await;
    let (answered, mut sending) = client.open(Request::post("http://a.test/").body(()).unwrap()).await;
    sending.reserve_capacity(1 << 20);
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while let Some(Ok(room)) = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await {
            sending.send_data(vec![0; room].into(), false).unwrap();
            sent += room;
            sending.reserve_capacity(1 << 20);
        }
        sent
    });
    let well = Request::get("http://a.test/well").body(()).unwrap();
    assert_eq!(text(&client.ask(well, "").await), "well", "other streams go on");
    assert_eq!(whole(answered).await.status(), 504);
    gateway.access_line(&["status=504", "closed_by=answer_timeout"]).await;
    let sent = within("the end of the upload", sending).await.unwrap();
    assert!(sent < 512 * 1024, "{sent} bytes have been taken of it");
}

/// As clients of gRPC send small messages: each by itself.
async fn small_parts_that_wait_for_the_server_end_no_connection() {
    let go = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&go);
    let mut builder = Builder::new();
    builder.initial_window_size(100);
    let server = serving(builder, move |(request, respond), _| {
        let wait = Arc::clone(&wait);
        async move {
            if request.method() == "POST" {
                wait.acquire().await.unwrap().forget();
            }
            let length = body(request).await.len();
            answer(respond, length.to_string());
        }
    })
    .await;
    let gateway = before(&server).more("threads: 1").unchecked().start().await;
    let client = http2(&gateway).await;
    let (answered, mut sending) = client.open(Request::post("http://a.test/").body(()).unwrap()).await;
    for number in 0..10_000 {
        sending.send_data("ab".into(), number == 9_999).unwrap();
        // Of so many that are read at one time, none waits for its reader: that is another limit's.
        if number % 1_000 == 999 {
            assert_eq!(text(&client.get("http://a.test/").await), "0", "the connection lives");
        }
    }
    go.add_permits(1);
    assert_eq!(text(&whole(answered).await), "20000");
}

async fn small_parts_that_wait_for_a_client_end_no_connection() {
    let server = serving(Builder::new(), |(request, respond), _| async move {
        if request.uri().path() == "/well" {
            return answer(respond, "well");
        }
        let mut sending = begin(respond);
        sending.send_data(vec![0; 65_535].into(), false).unwrap();
        for number in 0..20_000 {
            sending.send_data("a".into(), number == 19_999).unwrap();
        }
        // Until all of it has gone.
        let _ = std::future::poll_fn(|cx| sending.poll_reset(cx)).await;
    })
    .await;
    let gateway = before(&server).more("threads: 1").unchecked().start().await;
    let get = |path: &str| Request::get(format!("http://a.test/{path}")).body(()).unwrap();
    let client = Http2::with_window(tcp(gateway.address("web")).await, 1 << 20).await;
    let mut old = gateway.client().await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(within("the head", client.begin(get("small"), "").await).await.unwrap());
    }
    old.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for _ in 0..3 {
        assert_eq!(text(&http2(&gateway).await.ask(get("well"), "").await), "well");
    }
    for answer in stalled {
        assert_eq!(read(answer.into_body()).await.unwrap().len(), 85_535);
    }
    assert_eq!(old.answer().await.body.len(), 85_535);
    assert_eq!(server.accepted(), 1, "on one connection");
}

async fn idle_connections_are_closed() {
    let (tell, mut ended) = mpsc::unbounded_channel();
    let server = Scripted::start(move |client, _| {
        let tell = tell.clone();
        async move {
            each(agree(client, &Builder::new()).await.unwrap(), echo).await;
            tell.send(()).unwrap();
        }
    })
    .await;
    let gateway = before(&server).upstream("timeouts: { keep_alive: 1s }").unchecked().start().await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    within("the end of the connection", ended.recv()).await.unwrap();
    eventually("none is counted any more", async || {
        gateway.metric(r#"sockgate_server_http2_connections{upstream="app"}"#).await == 0.0
    })
    .await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    assert_eq!(server.accepted(), 2);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn frames_without_end_and_heads_without_measure_end_the_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    let status = [0x88];
    let large = [&status[..], &[0x40, 1, b'x', 0x7f, 0x81, 0x1f], &[b'y'; 4096]].concat();
    for (name, flood) in [
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("unknown", frame(0xf0, 0, 0, &[])),
        ("continuations", frame(CONTINUATION, 0, 1, &[0x40, 1, b'x', 1, b'y'])),
        ("resets", frame(RST_STREAM, 0, 77, &[0, 0, 0, 8])),
        ("large", large),
    ] {
        let server = Scripted::start(move |mut client, _| {
            let flood = flood.clone();
            async move {
                client.send(frame(SETTINGS, 0, 0, &[])).await;
                // The request is on its way once more than the preface and the first settings has come.
                let mut came = 0;
                while came < 400 {
                    let Some(some) = client.some().await else { return };
                    came += some.len();
                }
                if name == "continuations" {
                    client.send(frame(HEADERS, 0, 1, &status)).await;
                }
                while client.try_send(flood.repeat(100)).await.is_ok() {}
            }
        })
        .await;
        let gateway = before(&server).unchecked().start().await;
        let padding = format!("X-Padding: {}\r\n", "x".repeat(500));
        let answer = gateway.client().await.get_with("/", &format!("Host: a\r\n{padding}")).await;
        assert_eq!(answer.status, 502, "{name}");
        assert!(gateway.memory() < 100 << 10, "{name}");
    }
}

async fn a_login_of_the_connection_has_one_of_its_own() {
    let server =
        serving(Builder::new(), |(_, respond), number| async move { answer(respond, number.to_string()) }).await;
    let gateway = before(&server).more("threads: 1").unchecked().start().await;
    let (mut old, new) = (gateway.client().await, http2(&gateway).await);
    let login = "Host: a\r\nAuthorization: NTLM abc\r\n";
    let request = || Request::get("http://a.test/").header("authorization", "Negotiate abc").body(()).unwrap();
    assert_eq!(old.get("/").await.text(), "0");
    assert_eq!((old.get_with("/", login).await.text(), old.get("/").await.text()), ("1".into(), "0".into()));
    assert_eq!((text(&new.ask(request(), "").await), old.get("/").await.text()), ("2".into(), "0".into()));
}
