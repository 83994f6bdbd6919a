//! The opening of a WebSocket: what the server is asked, and that neither side loses a byte around the 101.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::numbered;
use crate::support::websocket::{BINARY, FIN, SWITCH, TEXT, frame, upgrade};
use crate::support::{A_WHILE, Client, Gateway, Scripted, eventually, within};

#[tokio::test]
async fn no_forced_upgrade() {
    let (_server, gateway) = Gateway::before_echo("").await;
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
        let mut client = gateway.client().await;
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
    let (server, gateway) = Gateway::before_puppet("").await;
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
        let mut client = gateway.client().await;
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
async fn an_opening_is_the_same_wherever_it_is_cut() {
    let (_server, gateway) = Gateway::before_echo("").await;
    let word = frame(FIN | TEXT, b"hello", true);
    let sent = [upgrade("/socket.io/?EIO=4").as_bytes(), &word].concat();
    let mut clients = Vec::new();
    for at in 0..sent.len() {
        let mut client = gateway.client().await;
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

#[tokio::test]
async fn bytes_before_101() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let early = frame(FIN | TEXT, b"early", true);
    let later = frame(FIN | TEXT, b"later", true);

    // In one segment with the head, and after it.
    let mut client = gateway.client().await;
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
    let mut client = gateway.client().await;
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
    let mut client = gateway.client().await;
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
    let (server, gateway) = Gateway::before_puppet("").await;
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
        let mut client = gateway.client().await;
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
async fn a_client_that_leaves_before_the_101() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for early in ["", "early bytes"] {
        let mut client = gateway.client().await;
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
