//! HTTP/2 towards clients, by ALPN and by prior knowledge, before servers that speak HTTP/1.1.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{HeaderName, Method, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Barrier, mpsc};

use crate::support::client::tcp;
use crate::support::engine::{ENGINE, for_each_engine, for_the_relay};
use crate::support::http2::{Http2, read, whole};
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Client, Echo, Gateway, Scripted, Setup, within};

for_each_engine! {
    requests_arrive_as_http_1_1_whole_and_with_their_host,
    a_host_that_is_none_is_refused_as_in_http_1,
    trailers_of_an_answer_pass_the_relay_without_what_may_not_stand_there,
    large_bodies_pass_both_ways,
    streams_of_one_connection_are_served_at_the_same_time,
    cookies_in_pieces_arrive_as_one_field,
    fields_of_a_connection_go_no_further,
    websockets_over_http_2_are_not_offered_and_connect_is_refused,
    the_gateway_answers_by_itself_too,
    an_answer_that_is_cut_is_not_passed_on_as_a_whole_one,
    a_stream_that_the_client_resets_is_given_up_and_its_place_is_given_back,
    a_listener_without_http_2_takes_its_preface_for_a_bad_request,
    garbage_behind_the_preface_ends_the_connection_and_nothing_else,
    frames_that_carry_nothing_do_not_come_without_end,
}

for_the_relay! {
    trailers_of_a_request_pass_where_its_length_is_not_told,
    trailers_of_a_request_are_refused_where_a_head_of_them_would_be,
}

/// A gateway with a plain listener and one with TLS, and a client that trusts it.
async fn gateway(rest: &str, server: std::net::SocketAddr) -> (Gateway, TlsClient) {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: plain, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes:
  - match: {{ path: /here }}
    respond: {{ status: 202, headers: {{ x-here: 1 }}, body: \"from the gateway\" }}
  - match: {{ path: /there }}
    redirect: {{ scheme: https, port: 8443 }}
  - upstream: web
upstreams:
  web: {{ servers: [\"{server}\"] }}
{rest}",
        certificate.yaml()
    ))
    .await;
    (gateway, authority.client(&["h2", "http/1.1"]))
}

async fn plain(gateway: &Gateway) -> Http2 {
    Http2::over(tcp(gateway.address("plain")).await).await
}

async fn secure(gateway: &Gateway, tls: &TlsClient) -> Http2 {
    let stream = tls.connect(gateway.address("secure"), "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    Http2::over(stream).await
}

fn text(answer: &http::Response<Vec<u8>>) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

async fn requests_arrive_as_http_1_1_whole_and_with_their_host() {
    let web = Echo::start("web").await;
    let (gateway, tls) = gateway("", web.address()).await;
    for (client, scheme) in [(plain(&gateway).await, "http"), (secure(&gateway, &tls).await, "https")] {
        let answer = client.get(&format!("{scheme}://a.test:81/path?query=1")).await;
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
        let seen = text(&answer).to_ascii_lowercase();
        assert!(seen.contains("\nget /path?query=1 http/1.1\r\n"), "{seen}");
        assert_eq!(seen.matches("\r\nhost: a.test:81\r\n").count(), 1, "{seen}");
        assert!(seen.contains(&format!("\r\nx-forwarded-proto: {scheme}\r\n")), "{seen}");
        let body = Bytes::from_static(b"a small body");
        let request = Request::post(format!("{scheme}://a.test/")).body(()).unwrap();
        assert!(text(&client.ask(request, body).await).contains("a small body"));
        let head = Request::head(format!("{scheme}://a.test/")).body(()).unwrap();
        assert!(client.ask(head, "").await.body().is_empty());
    }
    gateway.access_line(&["protocol=HTTP/2", "listener=plain", "target=/path?query=1", "status=200"]).await;
    gateway.access_line(&["protocol=HTTP/2", "listener=secure", "method=POST", "tls=true", "bytes_in=12"]).await;
}

async fn a_host_that_is_none_is_refused_as_in_http_1() {
    let web = Echo::start("a").await;
    let (gateway, _) = gateway("", web.address()).await;
    let client = plain(&gateway).await;
    for (authority, status) in [("a.test:81", 200), ("a.test:x", 400), ("a.test:", 200), ("a.test:8080x", 400)] {
        assert_eq!(client.get(&format!("http://{authority}/")).await.status(), status, "{authority}");
    }
}

/// As servers of gRPC answer. Pingora's engine ends them, with what announces them.
async fn trailers_of_an_answer_pass_the_relay_without_what_may_not_stand_there() {
    let server = Scripted::start(|mut client, _| async move {
        while let Some(request) = client.request().await {
            let body = if request.head.starts_with(b"GET /empty") { "" } else { "2\r\nab\r\n" };
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nTrailer: grpc-status, Set-Cookie, X-Hop\r\n\r\n";
            let trailers = "grpc-status: 0\r\nX-Sum: 1\r\nX-Sum: 2\r\nSet-Cookie: a=b\r\nContent-Length: 7\r\nX-Hop: 1\r\n";
            client.send(format!("{head}{body}0\r\n{trailers}\r\n")).await;
        }
    })
    .await;
    let (gateway, _) = gateway("", server.address()).await;
    let client = plain(&gateway).await;
    for (path, body) in [("body", "ab"), ("empty", "")] {
        let request = Request::get(format!("http://a.test/{path}")).header("te", "trailers").body(()).unwrap();
        let (head, mut stream) = within("the head", client.begin(request, "").await).await.unwrap().into_parts();
        let mut said = Vec::new();
        while let Some(data) = within("the body", stream.data()).await {
            said.extend_from_slice(&data.unwrap());
        }
        assert_eq!((head.status.as_u16(), said.as_slice()), (200, body.as_bytes()));
        let trailers = within("the trailers", stream.trailers()).await.unwrap();
        let announced = head.headers.get("trailer").map(|names| names.to_str().unwrap().to_owned());
        if ENGINE.get() == "pingora" {
            assert_eq!((announced, trailers), (None, None));
            continue;
        }
        assert_eq!(announced.as_deref(), Some("grpc-status"));
        let trailers = trailers.expect("some came");
        let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
        assert!(trailers.len() == 3 && trailers["grpc-status"] == "0" && sums == ["1", "2"], "{trailers:?}");
    }
}

/// A request that goes on, and the trailers at its end.
async fn with_trailers(client: &Http2, length: Option<usize>, trailers: &[(&'static str, &str)]) -> ResponseFuture {
    let request = Request::post("http://a.test/").header("te", "trailers").header("trailer", "x-sum, cookie");
    let request = length.into_iter().fold(request, |request, length| request.header("content-length", length));
    let (answer, mut sending) = client.open(request.body(()).unwrap()).await;
    sending.send_data("ab".into(), false).unwrap();
    let fields = trailers.iter().map(|&(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    sending.send_trailers(fields.collect()).unwrap();
    answer
}

async fn trailers_of_a_request_pass_where_its_length_is_not_told() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let trailers = [("x-sum", "1"), ("cookie", "a=b"), ("x-forwarded-for", "6.6.6.6"), ("host", "evil")];
    for (length, announced, body) in [(None, true, "2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n"), (Some(2), false, "ab")] {
        let answer = with_trailers(&client, length, &trailers).await;
        let mut inside = server.accept().await;
        let head = String::from_utf8(inside.read_until(b"\r\n\r\n").await).unwrap();
        assert_eq!(head.contains("\r\ntrailer: x-sum\r\n"), announced, "{head}");
        assert!(announced || !head.contains("trailer"), "{head}");
        assert_eq!(String::from_utf8_lossy(&inside.read(body.len()).await), body);
        inside.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(whole(answer).await.status(), 200);
        assert_eq!(inside.read_all().await, b"", "nothing more");
    }
}

async fn trailers_of_a_request_are_refused_where_a_head_of_them_would_be() {
    let (server, gateway) = Gateway::before_puppet("limits: { head: 2KiB, headers: 6 }").await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let long = "x".repeat(3000);
    for trailers in [&[("x-long", &*long)][..], &["a", "b", "c", "d", "e", "f", "g"].map(|name| (name, "1"))] {
        let answer = with_trailers(&client, None, trailers).await;
        let mut inside = server.accept().await;
        // Its last field may end like a body.
        inside.read_until(b"\r\n\r\n").await;
        let came = inside.read_all().await;
        assert!(!came.ends_with(b"0\r\n\r\n"), "the server does not take the half for the whole");
        assert_eq!(whole(answer).await.status(), 431);
    }
    gateway.access_line(&["protocol=HTTP/2", "status=431"]).await;
}

async fn large_bodies_pass_both_ways() {
    let web = Echo::start("web").await;
    let (gateway, tls) = gateway("", web.address()).await;
    let body: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    for client in [plain(&gateway).await, secure(&gateway, &tls).await] {
        let request = Request::post("https://a.test/").header("content-length", body.len()).body(()).unwrap();
        assert!(client.ask(request, body.clone()).await.body().ends_with(&body));
    }
}

async fn streams_of_one_connection_are_served_at_the_same_time() {
    const STREAMS: usize = 50;
    // Nobody is answered before everybody has asked.
    let everybody = Arc::new(Barrier::new(STREAMS));
    let server = Scripted::start(move |mut client, _| {
        let everybody = Arc::clone(&everybody);
        async move {
            while client.request().await.is_some() {
                everybody.wait().await;
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let (gateway, tls) = gateway("", server.address()).await;
    let client = secure(&gateway, &tls).await;
    let mut answers = Vec::new();
    for stream in 0..STREAMS {
        let request = Request::get(format!("https://a.test/{stream}")).body(()).unwrap();
        answers.push(client.begin(request, "").await);
    }
    for answer in answers {
        assert_eq!(whole(answer).await.body(), b"ok");
    }
}

async fn cookies_in_pieces_arrive_as_one_field() {
    let web = Echo::start("web").await;
    let (gateway, _) = gateway("", web.address()).await;
    let request = Request::get("http://a.test/")
        .header("cookie", "a=1")
        .header("cookie", "io=sid")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    let seen = text(&plain(&gateway).await.ask(request, "").await);
    let cookies: Vec<&str> = seen.lines().filter(|line| line.to_ascii_lowercase().starts_with("cookie:")).collect();
    assert_eq!(cookies.len(), 1, "{seen}");
    assert!(cookies[0].ends_with(": a=1; io=sid; b=2"), "{seen}");
}

async fn fields_of_a_connection_go_no_further() {
    let (shown, mut seen) = mpsc::unbounded_channel();
    let server = Scripted::start(move |mut client, _| {
        let shown = shown.clone();
        async move {
            while let Some(request) = client.request().await {
                shown.send(String::from_utf8(request.head).unwrap()).unwrap();
                client
                    .send(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive, X-Private\r\n\
                         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Private: 1\r\n\
                         X-Public: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                    )
                    .await;
            }
        }
    })
    .await;
    let (gateway, _) = gateway("", server.address()).await;
    let request = Request::get("http://a.test/").header("te", "trailers").header("x-mine", "3");
    // Nor does what a stranger says of himself, however he spells it.
    let request = request.header("x_real_ip", "6.6.6.6").header("x-forwarded-ssl", "on").header("client-ip", "6.6.6.6");
    let request = request.body(()).unwrap();
    // The client refuses an answer with such a field as malformed (RFC 9113 8.2.2).
    let answer = plain(&gateway).await.ask(request, "").await;
    assert_eq!(answer.body(), b"ok");
    assert_eq!(answer.headers().get("x-public").unwrap(), "2");
    for private in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "x-private"] {
        assert!(!answer.headers().contains_key(private), "{private}");
    }
    let seen = within("the request", seen.recv()).await.unwrap().to_ascii_lowercase();
    assert!(seen.contains("\r\nx-mine: 3\r\n") && !seen.contains("\r\nte:"), "{seen}");
    assert!(!seen.contains("6.6.6.6") && !seen.contains("-ssl"), "{seen}");
}

async fn websockets_over_http_2_are_not_offered_and_connect_is_refused() {
    let web = Echo::start("web").await;
    let (gateway, tls) = gateway("", web.address()).await;
    for client in [plain(&gateway).await, secure(&gateway, &tls).await] {
        assert_eq!(client.get("https://a.test/").await.status(), 200);
        assert!(!client.takes_websockets());
        let connect = Request::builder().method(Method::CONNECT).uri("a.test:443").body(()).unwrap();
        assert_eq!(client.ask(connect, "").await.status(), 405);
        assert_eq!(client.get("https://a.test/").await.status(), 200, "the connection goes on");
    }
}

async fn the_gateway_answers_by_itself_too() {
    let web = Echo::start("web").await;
    let (gateway, tls) = gateway("limits: { body: 1KiB }", web.address()).await;
    for client in [plain(&gateway).await, secure(&gateway, &tls).await] {
        let here = client.get("https://a.test/here").await;
        assert_eq!((here.status().as_u16(), text(&here).as_str()), (202, "from the gateway"));
        assert_eq!(here.headers().get("x-here").unwrap(), "1");
        let there = client.get("https://a.test/there?a=b").await;
        assert_eq!(there.status(), 308);
        assert_eq!(there.headers().get("location").unwrap(), "https://a.test:8443/there?a=b");
        let request = Request::post("https://a.test/").header("content-length", 1025).body(()).unwrap();
        assert_eq!(client.ask(request, vec![0; 1025]).await.status(), 413);
        let request = Request::post("https://a.test/").body(()).unwrap();
        assert_eq!(client.ask(request, vec![0; 5000]).await.status(), 413, "no length was announced");
        assert_eq!(client.get("https://a.test/%2e%2e/").await.status(), 400);
        assert_eq!(client.get("https://a.test/").await.status(), 200, "the connection goes on");
    }
    gateway.access_line(&["protocol=HTTP/2", "status=413", "closed_by=body_too_large"]).await;
    gateway.access_line(&["protocol=HTTP/2", "status=202", "route=respond"]).await;
}

/// The statuses of requests with so many fields of this length, one after the other on a connection.
async fn heads<const N: usize>(gateway: &Gateway, sizes: [(usize, usize); N]) -> [u16; N] {
    let client = plain(gateway).await;
    let mut statuses = [0; N];
    for (status, (fields, length)) in statuses.iter_mut().zip(sizes) {
        let value = "x".repeat(length);
        let request =
            (0..fields).fold(Request::get("http://a.test/"), |request, n| request.header(format!("x-{n}"), &value));
        *status = client.ask(request.body(()).unwrap(), "").await.status().as_u16();
    }
    statuses
}

/// What docs/configuration.md says of `limits.head` and `limits.headers`.
#[tokio::test]
async fn pingora_has_a_limit_of_its_own_for_heads() {
    let bounded = async {
        let web = Echo::start("web").await;
        let (gateway, _) = gateway("limits: { head: 1KiB, headers: 10 }", web.address()).await;
        assert_eq!(heads(&gateway, [(200, 100), (1, 60_000), (1, 70_000), (1, 1)]).await, [200, 200, 431, 200]);
    };
    ENGINE.scope("pingora", bounded).await;
}

/// NTLM logs a connection in, not a request: what the server is asked on it next is asked in that name.
#[tokio::test]
async fn the_relay_keeps_no_connection_that_a_stream_has_logged_in() {
    let logged_in = async {
        let server = Scripted::start(|mut client, number| async move {
            let mut user = "nobody";
            while let Some(request) = client.request().await {
                if String::from_utf8_lossy(&request.head).to_lowercase().contains("authorization: ntlm") {
                    user = "anna";
                }
                let body = format!("{user} on {number}");
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if client.try_send(answer).await.is_err() {
                    return;
                }
            }
        })
        .await;
        let (gateway, _) = gateway("", server.address()).await;
        let client = plain(&gateway).await;
        let anna = Request::get("http://a.test/").header("authorization", "NTLM proof").body(()).unwrap();
        assert!(text(&client.ask(anna, "").await).starts_with("anna"));
        let first = text(&client.get("http://a.test/").await);
        assert!(first.starts_with("nobody"), "{first}");
        assert_eq!(text(&client.get("http://a.test/").await), first, "others are kept");
    };
    ENGINE.scope("relay", logged_in).await;
}

/// Browsers heed 103 over HTTP/2 alone. Pingora passes it on over HTTP/1 only.
#[tokio::test]
async fn the_relay_passes_interim_answers_on() {
    let hinting = async {
        let server = Scripted::start(|mut client, _| async move {
            let Some(_) = client.request().await else { return };
            client.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        })
        .await;
        let (gateway, _) = gateway("", server.address()).await;
        let client = plain(&gateway).await;
        let mut answer = client.begin(Request::get("http://a.test/").body(()).unwrap(), "").await;
        let hint = within("the hint", std::future::poll_fn(|cx| answer.poll_informational(cx))).await;
        let hint = hint.expect("one came").unwrap();
        assert_eq!((hint.status().as_u16(), &hint.headers()["link"]), (103, &"</a.css>".parse().unwrap()));
        assert_eq!(whole(answer).await.body(), b"ok");
        gateway.access_line(&["protocol=HTTP/2", "status=200"]).await;
    };
    ENGINE.scope("relay", hinting).await;
}

#[tokio::test]
async fn the_relay_has_the_limits_of_http_1_for_heads() {
    let bounded = async {
        let web = Echo::start("web").await;
        let (gateway, _) = gateway("limits: { head: 2KiB, headers: 10 }", web.address()).await;
        let sizes = [(5, 100), (11, 1), (1, 2100), (1, 70_000), (1, 1)];
        assert_eq!(heads(&gateway, sizes).await, [200, 431, 431, 431, 200]);
        gateway.access_line(&["protocol=HTTP/2", "status=431"]).await;
    };
    ENGINE.scope("relay", bounded).await;
}

async fn an_answer_that_is_cut_is_not_passed_on_as_a_whole_one() {
    let server = Scripted::start(|mut client, _| async move {
        let Some(request) = client.request().await else { return };
        let framing =
            if request.head.starts_with(b"GET /length") { "Content-Length: 19" } else { "Transfer-Encoding: chunked" };
        client.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n4\r\npart\r\n").as_bytes()).await;
    })
    .await;
    let (gateway, _) = gateway("", server.address()).await;
    let client = plain(&gateway).await;
    for path in ["/length", "/chunked"] {
        let request = Request::get(format!("http://a.test{path}")).body(()).unwrap();
        let answer = within("the head", client.begin(request, "").await).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = read(answer.into_body()).await;
        assert!(body.is_err(), "{path}: {body:?}");
    }
    assert_eq!(client.get("http://a.test/here").await.status(), 202, "the connection goes on");
}

async fn a_stream_that_the_client_resets_is_given_up_and_its_place_is_given_back() {
    let (told, mut ended) = mpsc::unbounded_channel();
    let server = Scripted::start(move |mut client, number| {
        let told = told.clone();
        async move {
            if client.request().await.is_some() {
                told.send(number).unwrap();
                // A long poll that nothing happens on.
                client.read_all().await;
                told.send(number).unwrap();
            }
        }
    })
    .await;
    let (gateway, _) = gateway("", server.address()).await;
    let client = plain(&gateway).await;
    let poll = client.begin(Request::get("http://a.test/poll").body(()).unwrap(), "").await;
    let number = within("the poll", ended.recv()).await.unwrap();
    drop(poll);
    assert_eq!(within("its end", ended.recv()).await.unwrap(), number);
    gateway.access_line(&["target=/poll", "closed_by=client"]).await;
    assert_eq!(client.get("http://a.test/here").await.status(), 202);
}

async fn a_listener_without_http_2_takes_its_preface_for_a_bad_request() {
    let web = Echo::start("web").await;
    let gateway = Setup::before(&[web.address()]).listener("http2: false").start().await;
    let mut client = gateway.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
}

async fn garbage_behind_the_preface_ends_the_connection_and_nothing_else() {
    let web = Echo::start("web").await;
    let (gateway, _) = gateway("", web.address()).await;
    let good = plain(&gateway).await;
    for garbage in [&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 9000]] {
        let mut client = Client::connect(gateway.address("plain")).await;
        client.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", garbage].concat()).await;
        client.read_all().await;
    }
    assert_eq!(good.get("http://a.test/").await.status(), 200);
    assert_eq!(gateway.metric("sockgate_panics_total").await, 0.0);
}

async fn frames_that_carry_nothing_do_not_come_without_end() {
    let web = Echo::start("web").await;
    let (gateway, _) = gateway("", web.address()).await;
    let priority = [0, 0, 5, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 7];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for flood in [&priority[..], &ping, &settings] {
        let stream = tcp(gateway.address("plain")).await;
        let (mut reading, mut writing) = stream.into_split();
        writing.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        writing.write_all(&settings).await.unwrap();
        let flood = flood.repeat(1000);
        // A gateway that took all of them would never end.
        tokio::spawn(async move { while writing.write_all(&flood).await.is_ok() {} });
        let mut answers = Vec::new();
        let _ = within("the end of the flood", reading.read_to_end(&mut answers)).await;
    }
    gateway.log_line("too many frames of HTTP/2").await;
    let asking = plain(&gateway).await;
    assert_eq!(asking.get("http://a.test/").await.status(), 200);
}
