//! WebSockets from the first byte of their opening to the last line about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::upgrade;
use crate::support::tls::Authority;
use crate::support::{Client, Echo, Gateway, Puppet, Refusing, Scripted, eventually, within};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(150);
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const FIN: u8 = 0x80;

/// A frame (RFC 6455 5.2); those of clients are masked.
fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let flag = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(flag | short as u8),
        medium @ 126..=0xffff => {
            frame.push(flag | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(flag | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
    frame
}

fn close(code: u16, masked: bool) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes(), masked)
}

/// Bytes that tell where they stand.
fn numbered(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// A tunnel with both of its ends in the test's hands.
async fn open(gateway: &Gateway, server: &Puppet) -> (Client, Client) {
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(upgrade("/chat")).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send(SWITCH).await;
    assert_eq!(client.answer().await.status, 101);
    (client, inside)
}

#[tokio::test]
async fn no_forced_upgrade() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1"),
        ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1"),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n", "GET / HTTP/1.1"),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
            "GET / HTTP/1.1",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\nbody",
            "POST / HTTP/1.1",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\nbody",
            "body",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            "body",
        ),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1"),
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{request}");
        let text = answer.text();
        assert!(text.contains(expected), "{request}\nis asked of the server:\n{text}");
        assert!(!text.to_ascii_lowercase().contains("upgrade"), "{request}\nbecame\n{text}");
        assert!(!text.to_ascii_lowercase().contains("http2-settings"), "{request}\nbecame\n{text}");
    }
}

#[tokio::test]
async fn the_opening_arrives_as_it_was_sent() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for (said, upgrade) in [
        ("Connection: Upgrade\r\nUpgrade: websocket", "Upgrade: websocket"),
        ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket", "Upgrade: websocket"),
        ("CONNECTION: UPGRADE\r\nUPGRADE: WEBSOCKET", "Upgrade: WEBSOCKET"),
        ("Upgrade: WebSocket\r\nConnection: Keep-Alive\r\nConnection:upgrade", "Upgrade: WebSocket"),
        ("connection: x-gone ,upgrade\r\nx-gone: 1\r\nupgrade: foo/1, websocket", "Upgrade: websocket"),
    ] {
        let kept = [
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-version: 13",
            "Sec-WebSocket-Protocol: chat, superchat",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other",
            "ORIGIN: https://Example.com",
            "Cookie: a=1; b=\"2\"",
            "cOOkie: c=3",
            "X-Empty: ",
            "Authorization: Basic dXNlcjpwYXNz",
        ];
        let mut client = Client::connect(gateway.address("web")).await;
        let target = "/a%2fb/./c/%7e//?EIO=4&x=%20+y";
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: Example.com:81\r\n{said}\r\n{}\r\n\r\n", kept.join("\r\n")))
            .await;
        let mut inside = server.accept().await;
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap();
        let lines: Vec<&str> = head.trim_end().split("\r\n").collect();
        assert_eq!(lines[0], format!("GET {target} HTTP/1.1"));
        for line in kept.into_iter().chain(["Host: Example.com:81", "Connection: Upgrade", upgrade]) {
            assert_eq!(lines.iter().filter(|&&other| other == line).count(), 1, "{line} in\n{head}");
        }
        let order: Vec<&str> = lines.iter().copied().filter(|line| kept.contains(line)).collect();
        assert_eq!(order, kept, "the order is kept");
        assert!(!head.to_ascii_lowercase().contains("x-gone"), "{head}");
        let answer = "HTTP/1.1 101 Web Socket Protocol Handshake\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\
                      Sec-Websocket-ACCEPT:s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n";
        inside.send(answer).await;
        assert_eq!(client.answer().await.head, answer, "the answer is the server's to the byte");
    }
}

#[tokio::test]
async fn bytes_before_101() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let early = frame(FIN | TEXT, b"early", true);
    let later = frame(FIN | TEXT, b"later", true);

    // In one segment with the head, and after it.
    let mut client = Client::connect(gateway.address("web")).await;
    client.send([upgrade("/").as_bytes(), &early].concat()).await;
    let mut inside = server.accept().await;
    assert!(inside.request().await.unwrap().head.starts_with(b"GET / "));
    client.send(&later).await;
    assert!(inside.stays_silent(A_WHILE).await, "nothing reaches the server before its 101");
    inside.send([SWITCH.as_bytes(), b"first"].concat()).await;
    assert_eq!(inside.read(early.len() + later.len()).await, [early.clone(), later.clone()].concat());
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.read(5).await, b"first");

    // Byte by byte.
    let mut client = Client::connect(gateway.address("web")).await;
    for byte in [upgrade("/").as_bytes(), &early].concat() {
        client.send([byte]).await;
    }
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    assert!(inside.stays_silent(A_WHILE).await);
    for byte in SWITCH.bytes() {
        inside.send([byte]).await;
    }
    assert_eq!(inside.read(early.len()).await, early);
    assert_eq!(client.answer().await.head, SWITCH);

    // More than the gateway is willing to hold.
    let mut client = Client::connect(gateway.address("web")).await;
    let much = numbered(100_000);
    client.send(upgrade("/")).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    client.send(&much).await;
    assert!(inside.stays_silent(A_WHILE).await);
    inside.send(SWITCH).await;
    assert!(inside.read(much.len()).await == much, "all of it arrives, in order");
    assert_eq!(client.answer().await.status, 101);
}

#[tokio::test]
async fn early_bytes_are_no_request_for_a_server_that_refuses() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    for (answer, status) in [
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", 400),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        ("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", 426),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 502),
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
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
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
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
            let mut client = Client::connect(gateway.address("web")).await;
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
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
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
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for answer in [
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(upgrade("/")).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(answer).await;
        client.read_until(b"half").await;
        drop(inside);
        assert!(client.ending().await.is_err(), "a reset, not a proper end");
    }
}

/// Pingora's own way tears down one in five of these (issue 946).
#[tokio::test]
async fn eager_101() {
    const HANDSHAKES: usize = 1000;
    let greeting =
        [SWITCH.as_bytes(), &frame(FIN | TEXT, b"hello", false), &frame(FIN | TEXT, b"again", false)].concat();
    let sent = greeting.clone();
    let server = Scripted::start(move |mut client, number| {
        let greeting = sent.clone();
        async move {
            // Half of them speak before they are asked.
            if number % 2 == 0 && client.try_send(&greeting).await.is_err() {
                return;
            }
            if client.request().await.is_none() {
                return;
            }
            if number % 2 == 1 && client.try_send(&greeting).await.is_err() {
                return;
            }
            while let Some(bytes) = client.some().await {
                if client.try_send(bytes).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let address = gateway.address("web");
    let at_once = Arc::new(Semaphore::new(50));
    let whole = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..HANDSHAKES {
        let (at_once, whole, greeting) = (Arc::clone(&at_once), Arc::clone(&whole), greeting.clone());
        clients.spawn(async move {
            let _turn = at_once.acquire().await.unwrap();
            let mut client = Client::connect(address).await;
            client.send(upgrade("/")).await;
            if client.some_of(greeting.len()).await.is_none_or(|got| got != greeting) {
                return;
            }
            // It still lives: what is said now comes back.
            let word = frame(FIN | BINARY, &number.to_be_bytes(), true);
            if client.try_send(&word).await.is_ok() && client.some_of(word.len()).await == Some(word) {
                whole.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    within("all handshakes", clients.join_all()).await;
    let torn = HANDSHAKES - whole.load(Ordering::Relaxed);
    assert_eq!(torn, 0, "{torn} of {HANDSHAKES} were torn down");
}

#[tokio::test]
async fn half_close_is_passed_both_ways() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;

    let (mut client, mut inside) = open(&gateway, &server).await;
    client.send("the last question").await;
    client.finish().await;
    assert_eq!(inside.ending().await.unwrap(), b"the last question");
    inside.send("an answer after it").await;
    inside.finish().await;
    assert_eq!(client.ending().await.unwrap(), b"an answer after it");
    gateway.access_line(&["event=close", "closed_by=client", "bytes_in=17", "bytes_out=18"]).await;

    let (mut client, mut inside) = open(&gateway, &server).await;
    inside.send("goodbye").await;
    inside.finish().await;
    assert_eq!(client.ending().await.unwrap(), b"goodbye");
    client.send("goodbye to you").await;
    client.finish().await;
    assert_eq!(inside.ending().await.unwrap(), b"goodbye to you");
    gateway.access_line(&["event=close", "closed_by=server", "bytes_in=14", "bytes_out=7"]).await;
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
        let mut client = Client::connect(gateway.address("web")).await;
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

    let mut client = Client::connect(gateway.address("web")).await;
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
        drop(open(&gateway, &server).await);
    }
    gateway.access_line(&["event=close", "tries=2"]).await;

    let gateway = Gateway::before(&[refusing.address(), other.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(upgrade("/")).await;
    assert_eq!(client.answer().await.status, 502);
    gateway.access_line(&["status=502", "closed_by=connect_failed", "tries=2"]).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_101() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    for early in ["", "early bytes"] {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(upgrade("/") + early).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        drop(client);
        assert_eq!(inside.read_all().await, b"", "the server is let go at once");
    }
    eventually("both are logged", async || {
        gateway.access_lines().iter().filter(|line| line.contains("closed_by=client")).count() == 2
    })
    .await;
}

/// The example of draft-hixie-thewebsocketprotocol-76, section 1.3.
#[tokio::test]
async fn hixie_76() {
    const HEAD: &str = "GET /demo HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\nSec-WebSocket-Protocol: sample\r\n\
                        Upgrade: WebSocket\r\nSec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
                        Origin: http://example.com\r\n\r\n";
    const KEY: &[u8] = b"^n:ds[4U";
    const ANSWER: &[u8] = b"HTTP/1.1 101 WebSocket Protocol Handshake\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
                            Sec-WebSocket-Origin: http://example.com\r\n\
                            Sec-WebSocket-Location: ws://example.com/demo\r\nSec-WebSocket-Protocol: sample\r\n\r\n\
                            8jKS'y:G*Co,Wxa-";
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let early = b"\x00early\xff";
    // The key in the packet of the head, behind it, in two pieces, and with more behind it.
    for (first, then) in [
        ([HEAD.as_bytes(), KEY].concat(), vec![]),
        (HEAD.into(), vec![KEY.to_vec()]),
        ([HEAD.as_bytes(), &KEY[..3]].concat(), vec![KEY[3..].to_vec()]),
        ([HEAD.as_bytes(), KEY, early].concat(), vec![]),
        (HEAD.into(), vec![KEY[..7].to_vec(), [&KEY[7..], early].concat()]),
    ] {
        let sends_early = first.ends_with(early) || then.last().is_some_and(|last| last.ends_with(early));
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(&first).await;
        let mut inside = server.accept().await;
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap();
        for line in HEAD.trim_end().split("\r\n") {
            assert!(head.contains(&format!("{line}\r\n")), "{line:?} in\n{head}");
        }
        if !then.is_empty() {
            assert!(inside.stays_silent(A_WHILE).await, "the key goes whole");
        }
        for part in then {
            client.send(part).await;
        }
        assert_eq!(inside.read(8).await, KEY);
        if sends_early {
            assert!(inside.stays_silent(A_WHILE).await, "and not a byte more before the 101");
        }
        inside.send(ANSWER).await;
        assert_eq!(client.read(ANSWER.len()).await, ANSWER);
        if sends_early {
            assert_eq!(inside.read(early.len()).await, early);
        }
        client.send(b"\x00from the client\xff").await;
        assert_eq!(inside.read(17).await, b"\x00from the client\xff");
        inside.send("\0from the server: \u{fc}").await;
        inside.send(b"\xff\xff\x00").await;
        assert_eq!(
            client.read(23).await,
            "\0from the server: \u{fc}".bytes().chain(*b"\xff\xff\0").collect::<Vec<_>>()
        );
        client.finish().await;
        assert_eq!(inside.ending().await.unwrap(), b"");
    }
}

#[tokio::test]
async fn the_access_log_counts_messages_and_knows_the_close_code() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;

    let (mut client, mut inside) = open(&gateway, &server).await;
    let said = [
        frame(FIN | TEXT, b"one", true),
        frame(TEXT, b"a message ", true),
        frame(FIN | PING, b"ping between", true),
        frame(0, b"in three ", true),
        frame(FIN, b"pieces", true),
        frame(FIN | BINARY, &numbered(70_000), true),
        close(1001, true),
    ]
    .concat();
    client.send(&said).await;
    assert!(inside.read(said.len()).await == said);
    let answered = [frame(FIN | TEXT, b"yes", false), close(1001, false)].concat();
    inside.send(&answered).await;
    assert_eq!(client.read(answered.len()).await, answered);
    client.finish().await;
    inside.read_all().await;
    drop(inside);
    let line = gateway.access_line(&["event=close", "close_code=1001"]).await;
    for part in [
        "protocol=WebSocket",
        "method=GET",
        "target=/chat",
        "route=app",
        "upstream=app",
        "status=101",
        "closed_by=client",
        "messages_in=3",
        "messages_out=1",
        &format!("bytes_in={}", said.len()),
        &format!("bytes_out={}", answered.len()),
        "first_byte=",
        " id=",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }

    let (mut client, mut inside) = open(&gateway, &server).await;
    inside.send(close(4321, false)).await;
    inside.finish().await;
    client.read_all().await;
    drop(client);
    gateway.access_line(&["event=close", "close_code=4321", "closed_by=server"]).await;
}

#[tokio::test]
async fn silence_ends_a_tunnel_only_where_it_is_limited() {
    let server = Puppet::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ path: /limited }}, upstream: limited }}
  - upstream: patient
upstreams:
  limited: {{ servers: [\"{0}\"], health: {{ check: none }}, timeouts: {{ tunnel_idle: 1s }} }}
  patient: {{ servers: [\"{0}\"], health: {{ check: none }}, timeouts: {{ first_byte: 500ms, write: 500ms }} }}
timeouts: {{ head: 500ms, keep_alive: 500ms, body: 500ms, write: 500ms }}
",
        server.address()
    ))
    .await;
    let mut tunnels = Vec::new();
    for path in ["/limited/silent", "/limited/server", "/limited/client", "/patient"] {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(upgrade(path)).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(SWITCH).await;
        client.answer().await;
        tunnels.push((client, inside));
    }
    let opened = Instant::now();
    let [(silent, _), (a, b), (c, d), _] = &mut tunnels[..] else { unreachable!() };
    let speaking = async {
        // Time itself is what is tested: one word of one side before each second is over.
        loop {
            b.send("x").await;
            assert_eq!(a.read(1).await, b"x");
            c.send("y").await;
            assert_eq!(d.read(1).await, b"y");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        end = silent.ending() => assert_eq!(end.unwrap(), b""),
        () = speaking => {}
    }
    let lived = opened.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&lived), "{lived:?}");
    gateway.access_line(&["target=/limited/silent", "closed_by=idle"]).await;
    let closed = gateway.access_lines().len();
    assert_eq!(closed, 1, "the others live");
    for (client, inside) in &mut tunnels[1..] {
        client.send("still there?").await;
        assert_eq!(inside.read(12).await, b"still there?");
    }
}

#[tokio::test]
async fn a_broken_connection_breaks_the_other_one() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;

    let mut client = Client::connect(gateway.address("web")).await;
    client.send(upgrade("/")).await;
    let mut inside = server.accept_to_reset().await;
    inside.request().await.unwrap();
    inside.send([SWITCH.as_bytes(), &frame(FIN | TEXT, b"I am about to", false)].concat()).await;
    client.answer().await;
    client.read(15).await;
    drop(inside);
    assert!(client.ending().await.is_err(), "a cut stream is no whole one");
    gateway.access_line(&["event=close", "closed_by=server_lost", "messages_out=1"]).await;

    let mut client = Client::connect_to_reset(gateway.address("web")).await;
    client.send(upgrade("/")).await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send(SWITCH).await;
    client.answer().await;
    drop(client);
    assert!(inside.ending().await.is_err());
    gateway.access_line(&["event=close", "closed_by=client_lost"]).await;
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(upgrade("/")).await;
    assert_eq!(client.answer().await.status, 101);
    let message = frame(FIN | BINARY, &numbered(2_000_000), true);
    // The echo answers while it is still being spoken to, so nobody may wait for the last byte before reading.
    let mut got = Vec::new();
    for part in message.chunks(64 * 1024) {
        client.send(part).await;
        got.extend(client.read(part.len()).await);
    }
    assert!(got == message);
    client.finish().await;
    gateway.access_line(&["event=close", "messages_in=1", "messages_out=1", "bytes_in=2000014"]).await;
}

#[tokio::test]
async fn a_slow_reader_costs_no_memory_on_either_side_plain_or_over_tls() {
    let authority = Authority::new();
    let (front, back) = (authority.sign(&["localhost"]), authority.sign(&["127.0.0.1"]));
    let server = Puppet::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ certificates: [{0}] }} }}
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
routes:
  - {{ match: {{ path: /secure }}, upstream: secure }}
  - upstream: app
upstreams:
  app: {{ servers: [\"{1}\"], health: {{ check: none }} }}
  secure: {{ servers: [\"{1}\"], health: {{ check: none }}, tls: {{ ca: {2} }} }}
  raw: {{ kind: tcp, servers: [\"{1}\"], health: {{ check: none }} }}
",
        front.yaml(),
        server.address(),
        authority.ca()
    ))
    .await;
    for client_reads_late in [true, false] {
        let mut client = Client::connect(gateway.address("raw")).await;
        client.send("x").await;
        let mut inside = server.accept().await;
        inside.read(1).await;
        slow_reader(&gateway, "raw", client, inside, client_reads_late).await;

        let (client, inside) = open(&gateway, &server).await;
        slow_reader(&gateway, "plain", client, inside, client_reads_late).await;

        let stream = authority.client(&[]).connect(gateway.address("secure"), "localhost").await.unwrap();
        let mut client = Client::over(stream);
        client.send(upgrade("/secure")).await;
        let mut inside = server.accept_tls(authority.server(&back, false)).await;
        inside.request().await.unwrap();
        inside.send(SWITCH).await;
        assert_eq!(client.answer().await.status, 101);
        slow_reader(&gateway, "TLS", client, inside, client_reads_late).await;
    }
}

/// One side writes and writes while the other does not read; then it does.
async fn slow_reader(gateway: &Gateway, way: &str, client: Client, inside: Client, client_reads_late: bool) {
    const OFFERED: usize = 50_000_000;
    let (mut reader, mut writer) = if client_reads_late { (client, inside) } else { (inside, client) };
    let way = format!("{way}, {} reads late", if client_reads_late { "the client" } else { "the server" });
    let before = resident(gateway);
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let writing = tokio::spawn(async move {
        let part = frame(FIN | BINARY, &numbered(99_990), false);
        assert_eq!(part.len(), 100_000);
        for _ in 0..OFFERED / part.len() {
            writer.try_send(&part).await.unwrap();
            count.fetch_add(part.len(), Ordering::Relaxed);
        }
        writer.finish().await;
        writer
    });
    // Nothing announces that a writer stands still.
    let mut last = usize::MAX;
    eventually("the writer can't write any more", async || {
        tokio::time::sleep(A_WHILE).await;
        let now = written.load(Ordering::Relaxed);
        std::mem::replace(&mut last, now) == now
    })
    .await;
    assert!(!writing.is_finished(), "{way}: {last} bytes were taken");
    let grown = resident(gateway).saturating_sub(before);
    assert!(grown < 4 * 1024, "{way}: {grown} KiB more while {last} bytes wait");
    let mut got = 0;
    while let Some(bytes) = reader.some().await {
        got += bytes.len();
    }
    assert_eq!(got, OFFERED, "{way}: and all of it arrives");
    writing.await.unwrap();
    let grown = resident(gateway).saturating_sub(before);
    assert!(grown < 8 * 1024, "{way}: {grown} KiB more after all");
}

/// Memory of the gateway in KiB.
fn resident(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn an_opening_is_the_same_wherever_it_is_cut() {
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let word = frame(FIN | TEXT, b"hello", true);
    let sent = [upgrade("/socket.io/?EIO=4").as_bytes(), &word].concat();
    let mut clients = Vec::new();
    for at in 0..sent.len() {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(&sent[..at]).await;
        clients.push(client);
    }
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&sent[at..]).await;
    }
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer().await.status, 101, "cut at {at}");
        assert_eq!(client.read(word.len()).await, word, "cut at {at}");
    }
}
