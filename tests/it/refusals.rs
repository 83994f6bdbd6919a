//! What could be read in two ways is refused, and so is what is too large: no server ever sees it.

use crate::support::client::{chunked, numbered};
use crate::support::engine::for_each_engine;
use crate::support::websocket::upgrade;
use crate::support::{A_WHILE, Gateway, Puppet, Scripted};

for_each_engine! {
    what_could_be_read_in_two_ways_is_refused,
    bare_line_feeds_in_a_head_are_mended,
    chunks_that_are_not_to_the_letter_are_refused,
    a_body_over_the_limit_is_refused_wherever_it_shows,
    paths_that_lead_two_ways_lead_nowhere,
}

async fn what_could_be_read_in_two_ways_is_refused() {
    let (server, gateway) = Gateway::before_puppet("limits: { head: 4KiB, headers: 20, body: 1KiB }").await;
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
        let mut client = gateway.client().await;
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
async fn bare_line_feeds_in_a_head_are_mended() {
    let (_server, gateway) = Gateway::before_echo("").await;
    let mut client = gateway.client().await;
    client.send("GET /1 HTTP/1.1\nHost: a\n\nPOST /2 HTTP/1.1\nHost: a\nContent-Length: 2\n\nok").await;
    for path in ["GET /1", "POST /2"] {
        let text = client.answer().await.text();
        assert!(text.contains(path), "{text:?}");
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count() + 1, "but for the echo's own: {text:?}");
    }
}

/// Two readers of a chunked body that see its end in different places are a way to smuggle requests.
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
        let mut client = gateway.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{smuggled}")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{body:?}");
        let rest = client.read_all().await;
        assert_eq!(rest, b"", "{body:?} is followed by {:?}", String::from_utf8_lossy(&rest));
    }
}

async fn a_body_over_the_limit_is_refused_wherever_it_shows() {
    let (server, gateway) = Gateway::before_puppet("limits: { body: 100KiB }").await;
    let mut client = gateway.client().await;
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

    let mut client = gateway.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 100 * 1024)).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    client.send(numbered(100 * 1024)).await;
    assert_eq!(inside.read(100 * 1024).await.len(), 100 * 1024, "the limit itself is allowed");
}

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
        ("/public/..;/admin", 400),
        ("/public/..%3bx/admin", 400),
        ("/admin;x", 400),
        ("/;/admin", 400),
        ("/public/a%00b", 400),
        ("/elsewhere", 404),
        ("/administrators", 404),
    ] {
        for opening in [upgrade(path), format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")] {
            let mut client = gateway.client().await;
            client.send(&opening).await;
            assert_eq!(client.answer().await.status, status, "{opening}");
        }
    }
    assert!(open.stays_alone(A_WHILE).await && closed.stays_alone(A_WHILE).await);
}
