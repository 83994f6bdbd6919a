//! Answers that are compressed on their way: whole for every client, at once where they come piece by piece, and never where
//! that would harm.

use std::io::Read;

use bytes::Bytes;
use h2::server::Builder;
use http::{HeaderMap, HeaderValue, Request, Response};

use crate::support::client::{Answer, chunked, tcp};
use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::http2::Http2;
use crate::support::http2_server::serving;
use crate::support::{Client, Gateway, Puppet, Scripted, Setup};

for_each_engine! {
    an_answer_is_compressed_as_its_client_likes_best_however_it_is_framed,
    what_is_streamed_compressed_can_be_read_as_it_is_sent,
    sockets_polls_and_event_streams_stay_as_they_are,
    a_page_of_another_site_learns_nothing_from_a_length,
    a_head_a_range_and_an_unchanged_page_have_no_body_to_compress,
    where_there_is_no_room_for_more_answers_go_as_they_are,
    an_answer_that_is_cut_is_cut_for_its_client,
}

for_the_relay! {
    answers_of_http_2_servers_are_compressed_for_any_client,
    a_client_of_http_1_0_gets_it_to_the_end_of_the_connection,
    trailers_come_behind_what_is_compressed,
}

/// Text that can be told apart at every place.
fn text(length: usize) -> Vec<u8> {
    let lines: String = (0..=length / 20).map(|number| format!("line {number} of some text\n")).collect();
    lines.as_bytes()[..length].to_vec()
}

fn decoded(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match coding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut out),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut out),
        "zstd" => zstd::stream::read::Decoder::new(body).unwrap().read_to_end(&mut out),
        other => panic!("the coding {other}"),
    };
    read.unwrap_or_else(|error| panic!("{coding}: {error} after {} bytes", out.len()));
    out
}

async fn before_puppet(more: &str) -> (Puppet, Gateway) {
    let server = Puppet::start().await;
    let setup = Setup::before(&[server.address()]).unchecked().route("compression: {}");
    (server, setup.more(more).start().await)
}

/// Asks, has the server say this, and gives the answer.
async fn ask(server: &Puppet, client: &mut Client, request: &str, answer: impl AsRef<[u8]>) -> Answer {
    client.send(request).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    inside.send(answer).await;
    inside.finish().await;
    client.answer().await
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn html(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

fn by_length(body: &[u8]) -> Vec<u8> {
    html(&format!("Content-Length: {}\r\n", body.len()), body)
}

async fn an_answer_is_compressed_as_its_client_likes_best_however_it_is_framed() {
    let (server, gateway) = before_puppet("").await;
    for (accepts, coding) in
        [("gzip, deflate, br, zstd", "zstd"), ("gzip, br", "br"), ("br;q=0.5, gzip", "gzip"), ("deflate", "")]
    {
        for size in [2_000, 70_000, 1_000_000] {
            let body = text(size);
            for answer in [
                html(&format!("Content-Length: {size}\r\nETag: \"1\"\r\nAccept-Ranges: bytes\r\n"), &body),
                html("Transfer-Encoding: chunked\r\nETag: \"1\"\r\n", &chunked(&body, 3_000)),
                html("ETag: \"1\"\r\n", &body),
            ] {
                let mut client = gateway.client().await;
                let request = get(&format!("Accept-Encoding: {accepts}\r\n"));
                let answer = ask(&server, &mut client, &request, answer).await;
                assert_eq!(answer.header("vary"), Some("Accept-Encoding"), "{}", answer.head);
                if coding.is_empty() {
                    assert!(answer.body == body && answer.header("content-encoding").is_none(), "{}", answer.head);
                    continue;
                }
                assert_eq!(answer.header("content-encoding"), Some(coding), "{}", answer.head);
                assert_eq!(answer.header("etag"), Some("W/\"1\""), "{}", answer.head);
                assert_eq!((answer.header("content-length"), answer.header("accept-ranges")), (None, None));
                assert!(answer.body.len() * 4 < size, "{} of {size}", answer.body.len());
                assert!(decoded(coding, &answer.body) == body, "{coding}, {size}");
            }
        }
    }
    let counted = async |name: &str| gateway.metric(&format!("sockgate_{name},upstream=\"app\"}}")).await;
    assert_eq!(counted("compressed_total{encoding=\"br\"").await, 9.0);
    let (before, behind) = (
        counted("compression_bytes_total{side=\"before\"").await,
        counted("compression_bytes_total{side=\"behind\"").await,
    );
    assert!(before == 9.0 * 1_072_000.0 && behind > 1000.0 && behind * 4.0 < before, "{before}, {behind}");
}

/// What a client can make of the beginning of a body.
fn readable(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // It ends in the middle.
    let _ = flate2::read::GzDecoder::new(body).read_to_end(&mut out);
    out
}

async fn what_is_streamed_compressed_can_be_read_as_it_is_sent() {
    let (server, gateway) = before_puppet("").await;
    let mut client = gateway.client().await;
    client.send(get("Accept-Encoding: gzip\r\n")).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    inside.send(html("Transfer-Encoding: chunked\r\n", b"")).await;
    let head = Answer::of(&client.read_until(b"\r\n\r\n").await);
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    let (mut body, mut said) = (Vec::new(), String::new());
    for number in 0..5 {
        let line = format!("part {number}\n");
        said += &line;
        inside.send(chunked(line.as_bytes(), 100).split_last_chunk()).await;
        while readable(&body) != said.as_bytes() {
            let size = String::from_utf8(client.read_until(b"\r\n").await).unwrap();
            body.extend(client.read(usize::from_str_radix(size.trim(), 16).unwrap()).await);
            client.read(2).await;
        }
    }
    inside.send("0\r\n\r\n").await;
    body.extend(client.chunks().await);
    assert_eq!(decoded("gzip", &body), said.as_bytes());
}

/// Chunks that go on.
trait GoesOn {
    fn split_last_chunk(self) -> Vec<u8>;
}

impl GoesOn for Vec<u8> {
    fn split_last_chunk(mut self) -> Vec<u8> {
        assert!(self.ends_with(b"0\r\n\r\n"));
        self.truncate(self.len() - 5);
        self
    }
}

async fn sockets_polls_and_event_streams_stay_as_they_are() {
    let server = Puppet::start().await;
    let setup = Setup::before(&[server.address()]).unchecked().upstream("kind: socket.io");
    let gateway = setup.route("compression: { types: ['text/*', 'application/*'], min: 0 }").start().await;
    let body = text(3_000);
    let all = "Accept-Encoding: gzip, br, zstd\r\n";
    // Of a session, be it known or not.
    for target in ["/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=polling&sid=unknown"] {
        let mut client = gateway.client().await;
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{all}\r\n");
        let answer = ask(&server, &mut client, &request, by_length(&body)).await;
        assert!(answer.header("content-encoding").is_none() && answer.body == body, "{target}: {}", answer.head);
    }
    // Whatever the operator says of types.
    let mut client = gateway.client().await;
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n";
    let answer = ask(&server, &mut client, &get(all), events).await;
    assert!(answer.header("content-encoding").is_none() && answer.header("vary").is_none(), "{}", answer.head);
    assert_eq!(answer.text(), "data: 1\n\n");
}

async fn a_page_of_another_site_learns_nothing_from_a_length() {
    let (server, gateway) = before_puppet("").await;
    let body = text(3_000);
    for (target, fields, compressed) in [
        ("/?q=guess", "", true),
        ("/?q=guess", "Cookie: id=1\r\n", false),
        ("/?q=guess", "Cookie: id=1\r\nSec-Fetch-Site: same-origin\r\n", true),
        ("/guess", "Cookie: id=1\r\nSec-Fetch-Site: cross-site\r\n", false),
        ("/app.js", "Cookie: id=1\r\n", true),
    ] {
        let mut client = gateway.client().await;
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n{fields}\r\n");
        let answer = ask(&server, &mut client, &request, by_length(&body)).await;
        let got = answer.header("content-encoding");
        assert_eq!(got, compressed.then_some("gzip"), "{target} {fields}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    }
}

async fn a_head_a_range_and_an_unchanged_page_have_no_body_to_compress() {
    let (server, gateway) = before_puppet("").await;
    let mut client = gateway.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5000\r\nConnection: close\r\n\r\n")
        .await;
    let head = Answer::of(&client.read_until(b"\r\n\r\n").await);
    assert_eq!((head.header("content-length"), head.header("content-encoding")), (Some("5000"), None));
    assert_eq!(client.read_all().await, b"");

    let mut client = gateway.client().await;
    let unchanged = "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nConnection: close\r\n\r\n";
    let answer =
        ask(&server, &mut client, &get("Accept-Encoding: gzip\r\nIf-None-Match: W/\"1\"\r\n"), unchanged).await;
    assert_eq!((answer.status, answer.header("vary")), (304, Some("Accept-Encoding")));

    let mut client = gateway.client().await;
    let part = text(2_000);
    let range = "HTTP/1.1 206 Partial Content\r\nContent-Type: text/html\r\nContent-Range: bytes 0-1999/9000\r\n\
         Content-Length: 2000\r\nConnection: close\r\n\r\n";
    let answer = [range.as_bytes(), &part].concat();
    let answer = ask(&server, &mut client, &get("Accept-Encoding: gzip\r\nRange: bytes=0-1999\r\n"), answer).await;
    assert!(answer.body == part && answer.header("content-encoding").is_none(), "{}", answer.head);
}

async fn where_there_is_no_room_for_more_answers_go_as_they_are() {
    let (server, gateway) = before_puppet("limits: { compressions: 1 }").await;
    let body = text(3_000);
    let mut first = gateway.client().await;
    first.send(get("Accept-Encoding: gzip\r\n")).await;
    let mut held = server.accept().await;
    held.read_until(b"\r\n\r\n").await;
    held.send(html("Transfer-Encoding: chunked\r\n", b"5\r\nfirst\r\n")).await;
    assert!(String::from_utf8_lossy(&first.read_until(b"\r\n\r\n").await).contains("gzip"));
    let mut second = gateway.client().await;
    let answer = ask(&server, &mut second, &get("Accept-Encoding: gzip\r\n"), by_length(&body)).await;
    assert!(answer.body == body && answer.header("content-encoding").is_none(), "{}", answer.head);
    held.send("0\r\n\r\n").await;
    assert_eq!(decoded("gzip", &first.chunks().await), b"first");
    let mut third = gateway.client().await;
    let answer = ask(&server, &mut third, &get("Accept-Encoding: gzip\r\n"), by_length(&body)).await;
    assert!(decoded(answer.header("content-encoding").unwrap(), &answer.body) == body);
}

async fn an_answer_that_is_cut_is_cut_for_its_client() {
    let (server, gateway) = before_puppet("").await;
    let mut client = gateway.client().await;
    client.send(get("Accept-Encoding: gzip\r\n")).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    inside.send(html("Content-Length: 5000\r\n", &text(4_000))).await;
    inside.finish().await;
    client.read_until(b"\r\n\r\n").await;
    let rest = client.ending().await.unwrap_or_default();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it has no end");
}

async fn answers_of_http_2_servers_are_compressed_for_any_client() {
    let server: Scripted = serving(Builder::new(), |(request, mut respond), _| async move {
        let size: usize = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::new(());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        response.headers_mut().insert("content-length", size.into());
        let mut sending = respond.send_response(response, false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        sending.send_data(Bytes::from(text(size)), false).unwrap();
        sending.send_trailers(trailers).unwrap();
    })
    .await;
    let setup = Setup::before(&[server.address()]).upstream("http2: true").unchecked();
    let gateway = setup.route("compression: { encodings: [br] }").start().await;
    let new = Http2::over(tcp(gateway.address("web")).await).await;
    let mut old = gateway.client().await;
    // The largest are more than the server may send before it gets room for more.
    for size in [2_000, 60_000, 3_000_000] {
        let request = Request::builder().uri(format!("http://a/{size}")).header("accept-encoding", "br");
        let answer = new.ask(request.body(()).unwrap(), "").await;
        assert_eq!(answer.headers()["content-encoding"], "br");
        assert!(!answer.headers().contains_key("content-length") && answer.body().len() * 4 < size);
        assert!(decoded("br", answer.body()) == text(size), "{size}");
        let answer = old.get_with(&format!("/{size}"), "Accept-Encoding: br\r\n").await;
        assert_eq!(answer.header("content-encoding"), Some("br"), "{}", answer.head);
        assert!(decoded("br", &answer.body) == text(size), "{size}");
    }
}

async fn a_client_of_http_1_0_gets_it_to_the_end_of_the_connection() {
    let (server, gateway) = before_puppet("").await;
    let mut client = gateway.client().await;
    let request = "GET / HTTP/1.0\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n";
    let answer = ask(&server, &mut client, request, by_length(&text(9_000))).await;
    assert_eq!(answer.header("connection"), Some("close"), "{}", answer.head);
    assert!(decoded("gzip", &answer.body) == text(9_000));
}

async fn trailers_come_behind_what_is_compressed() {
    let (server, gateway) = before_puppet("").await;
    let mut client = gateway.client().await;
    client.send(get("Accept-Encoding: gzip\r\nTE: trailers\r\n")).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    let mut body = chunked(&text(4_000), 1_000).split_last_chunk();
    body.extend(b"0\r\nX-Sum: 7\r\n\r\n");
    inside.send(html("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n", &body)).await;
    let head = Answer::of(&client.read_until(b"\r\n\r\n").await);
    assert_eq!((head.header("content-encoding"), head.header("trailer")), (Some("gzip"), Some("X-Sum")));
    let (mut got, last) = (Vec::new(), b"0\r\n".to_vec());
    loop {
        let size = client.read_until(b"\r\n").await;
        if size == last {
            break;
        }
        let size = String::from_utf8(size).unwrap();
        got.extend(client.read(usize::from_str_radix(size.trim(), 16).unwrap()).await);
        client.read(2).await;
    }
    assert!(decoded("gzip", &got) == text(4_000));
    assert_eq!(client.read_until(b"\r\n\r\n").await, b"X-Sum: 7\r\n\r\n");
}
