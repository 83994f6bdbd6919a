//! Openings that come to nothing: what the client is told, and that the server is told nothing more.

use std::time::{Duration, Instant};

use crate::support::client::numbered;
use crate::support::websocket::{tunnel, upgrade};
use crate::support::{Gateway, Puppet, Refusing};

#[tokio::test]
async fn early_bytes_are_no_request_for_a_server_that_refuses() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    for (answer, status) in [
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", 400),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        ("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", 426),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 502),
    ] {
        let mut client = gateway.client().await;
        client.send(upgrade("/") + smuggled).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        client.send(smuggled).await;
        inside.send(answer).await;
        assert_eq!(client.answer().await.status, status, "{answer}");
        assert_eq!(client.read_all().await, b"", "closed after the answer: {answer}");
        assert_eq!(inside.read_all().await, b"", "nothing but the opening came: {answer}");
    }
}

#[tokio::test]
async fn a_refusal_is_relayed_as_it_is() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let engine_io = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n\
                     Content-Length: 11\r\n\r\nBad Request";
    for (answer, relayed) in [
        (
            engine_io,
            "HTTP/1.1 400 Bad Request\r\nContent-type: text/html\r\nContent-Length: 11\r\nconnection: close\r\n\r\n\
             Bad Request",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n2\r\nno\r\n0\r\n\r\n",
            "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nconnection: close\r\n\r\n\
             3\r\nno \r\n2\r\nno\r\n0\r\n\r\n",
        ),
        (
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\nuntil the end",
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nconnection: close\r\n\r\nuntil the end",
        ),
        (
            "HTTP/1.1 204 No Content\r\nX-Odd: Yes\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nX-Odd: Yes\r\nconnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 Full\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nfull",
            "HTTP/1.1 503 Full\r\nRetry-After: 1\r\nContent-Length: 4\r\nconnection: close\r\n\r\nfull",
        ),
    ] {
        for early in [0, 300_000] {
            let mut client = gateway.client().await;
            client.send([upgrade("/").as_bytes(), &numbered(early)].concat()).await;
            let mut inside = server.accept().await;
            inside.request().await.unwrap();
            inside.send(answer).await;
            inside.finish().await;
            let got = client.ending().await;
            let got = got.unwrap_or_else(|error| panic!("{error} with {early} early bytes: {answer}"));
            assert_eq!(String::from_utf8_lossy(&got), relayed, "with {early} early bytes");
        }
    }
    gateway.access_line(&["protocol=WebSocket", "status=400", "closed_by=server"]).await;
}

/// A connection that is closed while bytes of the client's lie unread is reset, and what is on its way is lost.
#[tokio::test]
async fn a_refusal_arrives_whole_though_the_client_goes_on_talking() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let mut client = gateway.client().await;
    client.send([upgrade("/").as_bytes(), &numbered(300_000)].concat()).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    let body = numbered(8_000_000);
    let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n", body.len());
    let answering = tokio::spawn(async move {
        inside.send([head.into_bytes(), body].concat()).await;
        inside.finish().await;
    });
    let answer = client.answer().await;
    assert!(answer.status == 400 && answer.body == numbered(8_000_000));
    assert_eq!(client.ending().await.unwrap(), b"");
    answering.await.unwrap();
}

#[tokio::test]
async fn a_refusal_that_is_cut_is_seen_as_cut() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for answer in [
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = gateway.client().await;
        client.send(upgrade("/")).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(answer).await;
        client.read_until(b"half").await;
        drop(inside);
        assert!(client.ending().await.is_err(), "a reset, not a proper end");
    }
}

#[tokio::test]
async fn a_server_that_gives_no_answer() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "timeouts: { first_byte: 300ms }", "").await;
    for (answer, status, word) in [
        (None, 502, "bad_answer"),
        (Some("\x16\x03\x01garbage\r\n\r\n"), 502, "bad_answer"),
        (Some("SSH-2.0-OpenSSH_9.6\r\n"), 502, "bad_answer"),
        (Some("HTTP/1.1 400 Bad"), 502, "bad_answer"),
        (Some("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 502, "bad_answer"),
    ] {
        let mut client = gateway.client().await;
        client.send(upgrade(&format!("/{}", answer.map_or(0, str::len)))).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        if let Some(answer) = answer {
            inside.send(answer).await;
        }
        drop(inside);
        assert_eq!(client.answer().await.status, status, "{answer:?}");
        assert_eq!(client.ending().await.unwrap(), b"", "closed after the answer");
        let target = format!("target=/{} ", answer.map_or(0, str::len));
        gateway.access_line(&[&target, &format!("status={status}"), &format!("closed_by={word}")]).await;
    }

    let mut client = gateway.client().await;
    let asked = Instant::now();
    client.send(upgrade("/late")).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    assert_eq!(client.answer().await.status, 504);
    assert!(asked.elapsed() >= Duration::from_millis(300));
    assert_eq!(inside.read_all().await, b"", "the server is let go");
    gateway.access_line(&["status=504", "closed_by=answer_timeout"]).await;
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_passed_over() {
    let (refusing, other) = (Refusing::new(), Refusing::new());
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[refusing.address(), server.address()], "ejection: { failures: 0 }", "").await;
    for _ in 0..4 {
        drop(tunnel(&gateway, &server).await);
    }
    gateway.access_line(&["event=close", "tries=2"]).await;

    let gateway = Gateway::before(&[refusing.address(), other.address()], "", "").await;
    let mut client = gateway.client().await;
    client.send(upgrade("/")).await;
    assert_eq!(client.answer().await.status, 502);
    gateway.access_line(&["status=502", "closed_by=connect_failed", "tries=2"]).await;
}
