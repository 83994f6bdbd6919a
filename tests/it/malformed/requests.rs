//! Requests of HTTP/1, openings of WebSockets among them. Behind each comes another one, that must not be read as a part of it.

use super::{Fate, Recorder};
use crate::support::engine::{ENGINE, for_each_engine};

use Fate::{Passes, Refused};

for_each_engine! {
    no_request_is_read_in_two_ways,
}

const BEHIND: &str = "GET /behind HTTP/1.1\r\nHost: behind\r\nConnection: close\r\n\r\n";

/// The heads of requests for `/`, behind the first line and a host: `POST` with the five bytes of `0\r\n\r\n` behind them.
const FRAMING: [(&str, Fate); 70] = [
    // One form of a length.
    ("Content-Length: 5", Passes("POST / a 0\\r\\n\\r\\n")),
    ("content-LENGTH:5", Passes("POST / a 0\\r\\n\\r\\n")),
    ("Content-Length:\t5 \t", Passes("POST / a 0\\r\\n\\r\\n")),
    ("Content-Length: 05", Passes("POST / a 0\\r\\n\\r\\n")),
    ("Content-Length: 5\r\nContent-Length: 5", Refused(400)),
    ("Content-Length: 5\r\nContent-Length: 4", Refused(400)),
    ("Content-Length: 5\r\ncontent-length: 5", Refused(400)),
    ("Content-Length: 5, 5", Refused(400)),
    ("Content-Length: 5,", Refused(400)),
    ("Content-Length: ,5", Refused(400)),
    ("Content-Length: +5", Refused(400)),
    ("Content-Length: -5", Refused(400)),
    ("Content-Length: 5 0", Refused(400)),
    ("Content-Length: 0x5", Refused(400)),
    ("Content-Length: 5a", Refused(400)),
    ("Content-Length: 5;", Refused(400)),
    ("Content-Length: 5.0", Refused(400)),
    ("Content-Length: 5e0", Refused(400)),
    ("Content-Length: \"5\"", Refused(400)),
    ("Content-Length: \u{665}", Refused(400)),
    ("Content-Length: ", Refused(400)),
    ("Content-Length:", Refused(400)),
    ("Content-Length: 18446744073709551616", Refused(400)),
    ("Content-Length: 18446744073709551621", Refused(400)),
    ("Content-Length: 9223372036854775808", Refused(413)),
    ("Content-Length: 5\x0b", Refused(400)),
    ("Content-Length: \x0c5", Refused(400)),
    ("Content-Length: 5\0", Refused(400)),
    ("Content-Length : 5", Refused(400)),
    ("Content-Length\t: 5", Refused(400)),
    (" Content-Length: 5", Refused(400)),
    ("Content-Length 5", Refused(400)),
    ("Content-Length: 5\r\n 0", Refused(400)),
    ("X: y\r\n Content-Length: 5", Refused(400)),
    ("X: y\rContent-Length: 5", Refused(400)),
    ("X: y\nContent-Length: 5", Passes("POST / a 0\\r\\n\\r\\n")),
    ("Content_Length: 5\r\nContent-Length: 5", Passes("POST / a 0\\r\\n\\r\\n")),
    ("Connection: Content-Length\r\nContent-Length: 5", Passes("POST / a 0\\r\\n\\r\\n")),
    // One form of chunks.
    ("Transfer-Encoding: chunked", Passes("POST / a")),
    ("transfer-ENCODING:CHUNKED", Passes("POST / a")),
    ("Transfer-Encoding:\tchunked \t", Passes("POST / a")),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5", Refused(400)),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", Refused(400)),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked", Refused(400)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refused(400)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Refused(400)),
    ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", Refused(400)),
    ("Transfer-Encoding: chunked, chunked", Refused(400)),
    ("Transfer-Encoding: gzip, chunked", Refused(400)),
    ("Transfer-Encoding: chunked, gzip", Refused(400)),
    ("Transfer-Encoding: ,chunked", Refused(400)),
    ("Transfer-Encoding: chunked,", Refused(400)),
    ("Transfer-Encoding: identity", Refused(400)),
    ("Transfer-Encoding: xchunked", Refused(400)),
    ("Transfer-Encoding: chunkedx", Refused(400)),
    ("Transfer-Encoding: chunk", Refused(400)),
    ("Transfer-Encoding: chunked;q=1", Refused(400)),
    ("Transfer-Encoding: \"chunked\"", Refused(400)),
    ("Transfer-Encoding: chu nked", Refused(400)),
    ("Transfer-Encoding: chunked\x0b", Refused(400)),
    ("Transfer-Encoding: \x0cchunked", Refused(400)),
    ("Transfer-Encoding: chunked\0", Refused(400)),
    ("Transfer-Encoding: chunked\u{a0}", Refused(400)),
    ("Transfer-Encoding: ", Refused(400)),
    ("Transfer-Encoding : chunked", Refused(400)),
    (" Transfer-Encoding: chunked", Refused(400)),
    ("Transfer-Encoding:\r\n chunked", Refused(400)),
    ("X: y\rTransfer-Encoding: chunked", Refused(400)),
    ("Transfer_Encoding: chunked\r\nContent-Length: 5", Passes("POST / a 0\\r\\n\\r\\n")),
    ("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", Passes("POST / a")),
];

/// Chunked bodies.
const CHUNKS: [(&str, Fate); 39] = [
    ("5\r\nhello\r\n0\r\n\r\n", Passes("POST / a hello")),
    ("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", Passes("POST / a hello")),
    ("0005\r\nhello\r\n00\r\n\r\n", Passes("POST / a hello")),
    ("5;x\r\nhello\r\n0\r\n\r\n", Passes("POST / a hello")),
    ("5 \t\r\nhello\r\n0 ;x\r\n\r\n", Passes("POST / a hello")),
    ("5 x\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5;x=\"y;z\"\r\nhello\r\n0;last\r\n\r\n", Passes("POST / a hello")),
    ("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", Passes("POST / a hello")),
    ("5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n\r\n", Passes("POST / a hello")),
    ("5\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5\r\nhello\n0\r\n\r\n", Refused(400)),
    ("5\rhello\r\n0\r\n\r\n", Refused(400)),
    ("5\r\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5;\nx\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5;x\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5;x\rhello\r\n0\r\n\r\n", Refused(400)),
    ("5;x=\"\r\n\"\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5\r\nhelloX\r\n0\r\n\r\n", Refused(400)),
    ("5\r\nhello0\r\n\r\n", Refused(400)),
    ("5\r\nhell\r\n0\r\n\r\n", Refused(400)),
    ("5\r\nhello\r0\r\n\r\n", Refused(400)),
    ("-5\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("+5\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("0x5\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5h\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("g\r\nhello\r\n0\r\n\r\n", Refused(400)),
    (" 5\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5 5\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5_\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5,\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5\0\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("\r\n5\r\nhello\r\n0\r\n\r\n", Refused(400)),
    (";x\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("10000000000000005\r\nhello\r\n0\r\n\r\n", Refused(400)),
    ("5\r\nhello\r\n0\n\r\n", Refused(400)),
    ("5\r\nhello\r\n0\r\n\n", Refused(400)),
    ("5\r\nhello\r\n0\n\n", Refused(400)),
    ("5\r\nhello\r\n0\r\r\n\r\n", Refused(400)),
    ("5\r\nhello\r\n0\r\nX: y\n\r\n", Refused(400)),
];

/// First lines, before a host and the end of the head.
const FIRST_LINES: [(&str, Fate); 49] = [
    ("GET /x HTTP/1.1", Passes("GET /x a")),
    ("get /x HTTP/1.1", Passes("get /x a")),
    ("M-SEARCH /x HTTP/1.1", Passes("M-SEARCH /x a")),
    ("\r\nGET /x HTTP/1.1", Passes("GET /x a")),
    ("GET http://b/x HTTP/1.1", Passes("GET /x b")),
    ("GET HTTP://b?x HTTP/1.1", Passes("GET /?x b")),
    ("GET http://b:81/x HTTP/1.1", Passes("GET /x b:81")),
    ("OPTIONS * HTTP/1.1", Passes("OPTIONS * a")),
    ("GET /x?y=%00 HTTP/1.1", Passes("GET /x?y=%00 a")),
    ("GET /\"<> HTTP/1.1", Passes("GET /%22%3C%3E a")),
    ("G\u{e9}T /x HTTP/1.1", Refused(400)),
    ("G@T /x HTTP/1.1", Refused(400)),
    ("GET: /x HTTP/1.1", Refused(400)),
    ("G\0T /x HTTP/1.1", Refused(400)),
    ("G T /x HTTP/1.1", Refused(400)),
    (" GET /x HTTP/1.1", Refused(400)),
    ("\nGET /x\0 HTTP/1.1", Refused(400)),
    ("GET  /x HTTP/1.1", Refused(400)),
    ("GET /x  HTTP/1.1", Refused(400)),
    ("GET /x HTTP/1.1 ", Refused(400)),
    ("GET\t/x\tHTTP/1.1", Refused(400)),
    ("GET /x\tHTTP/1.1", Refused(400)),
    ("GET /x\x0bHTTP/1.1", Refused(400)),
    ("GET /x y HTTP/1.1", Refused(400)),
    ("GET /x\0 HTTP/1.1", Refused(400)),
    ("GET /x\x7f HTTP/1.1", Refused(400)),
    ("GET /x\x01 HTTP/1.1", Refused(400)),
    ("GET /x\ry HTTP/1.1", Refused(400)),
    ("GET /x#y HTTP/1.1", Refused(400)),
    ("GET x HTTP/1.1", Refused(400)),
    ("GET * HTTP/1.1", Refused(400)),
    ("OPTIONS ** HTTP/1.1", Refused(400)),
    ("GET http:///x HTTP/1.1", Refused(400)),
    ("GET http://u@b/x HTTP/1.1", Refused(400)),
    ("GET http://b:80:81/x HTTP/1.1", Refused(400)),
    ("GET http://b\\c/x HTTP/1.1", Refused(400)),
    ("GET ftp://b/x HTTP/1.1", Refused(400)),
    ("GET //b/x HTTP/1.1", Passes("GET //b/x a")),
    ("CONNECT b:443 HTTP/1.1", Refused(405)),
    ("CONNECT /x HTTP/1.1", Refused(405)),
    ("GET /x", Refused(400)),
    ("GET /x HTTP", Refused(400)),
    ("GET /x http/1.1", Refused(400)),
    ("GET /x HTTP/1", Refused(400)),
    ("GET /x HTTP/1.10", Refused(400)),
    ("GET /x HTTP/01.1", Refused(400)),
    ("GET /x HTTP/1.2", Refused(400)),
    ("GET /x HTTP/2.0", Refused(400)),
    ("GET /x HTTP/0.9", Refused(400)),
];

/// All fields of a request for `/x`.
const FIELDS: [(&str, Fate); 45] = [
    ("Host: a", Passes("GET /x a")),
    ("host:a", Passes("GET /x a")),
    ("Host: A.example.:80", Passes("GET /x a.example.:80")),
    ("Host: [::1]:80", Passes("GET /x [::1]:80")),
    ("Host:", Passes("GET /x")),
    ("X: y", Refused(400)),
    ("Host: a\r\nHost: a", Refused(400)),
    ("Host: a\r\nhost: b", Refused(400)),
    ("Host: a, b", Refused(400)),
    ("Host: a b", Refused(400)),
    ("Host: u@a", Refused(400)),
    ("Host: a/b", Refused(400)),
    ("Host: a\\b", Refused(400)),
    ("Host: a?b", Refused(400)),
    ("Host: a#b", Refused(400)),
    ("Host: a:80:81", Refused(400)),
    ("Host: a:80x", Refused(400)),
    ("Host: a:-1", Refused(400)),
    ("Host: ::1", Refused(400)),
    ("Host: [::1", Refused(400)),
    ("Host: [::1]x", Refused(400)),
    ("Host: a\0", Refused(400)),
    ("Host: a\x7f", Refused(400)),
    ("Host: \u{e4}", Refused(400)),
    ("Host : a", Refused(400)),
    (" Host: a", Refused(400)),
    ("Host: a\r\n b", Refused(400)),
    ("Host: a\r\n\tb: c", Refused(400)),
    ("Host: a\rX: y", Refused(400)),
    ("Host: a\r\nX: \0", Refused(400)),
    ("Host: a\r\nX: y\x01", Refused(400)),
    ("Host: a\r\nX: y\x7f", Refused(400)),
    ("Host: a\r\nX\0: y", Refused(400)),
    ("Host: a\r\nX Y: z", Refused(400)),
    ("Host: a\r\nX(Y): z", Refused(400)),
    ("Host: a\r\nX\u{e4}: z", Refused(400)),
    ("Host: a\r\nX\x01: z", Refused(400)),
    ("Host: a\r\n: z", Refused(400)),
    ("Host: a\r\nnonsense", Refused(400)),
    ("Host: a\r\nGET /y HTTP/1.1", Refused(400)),
    ("Host: a\r\nX: \u{e4}", Passes("GET /x a")),
    ("Host: a\r\nX:", Passes("GET /x a")),
    ("Host: a\r\nConnection: Host, Cookie", Passes("GET /x a")),
    ("Host: a\nX: y", Passes("GET /x a")),
    ("Host: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA", Passes("GET /x a")),
];

/// What is nearly the opening of a WebSocket, behind a host: none of these is one.
const NEARLY_OPENINGS: [(&str, &str, Fate); 10] = [
    ("GET /x HTTP/1.1", "Upgrade: websocket\r\n\r\n", Passes("GET /x a")),
    ("GET /x HTTP/1.1", "Connection: Upgrade\r\n\r\n", Passes("GET /x a")),
    ("GET /x HTTP/1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", Passes("GET /x a")),
    ("GET /x HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websockets\r\n\r\n", Passes("GET /x a")),
    ("GET /x HTTP/1.1", "Connection: keep-alive, X-Upgrade\r\nUpgrade: websocket\r\n\r\n", Passes("GET /x a")),
    (
        "POST /x HTTP/1.1",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        Passes("POST /x a hello"),
    ),
    (
        "GET /x HTTP/1.1",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        Passes("GET /x a hello"),
    ),
    (
        "GET /x HTTP/1.1",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Passes("GET /x a hello"),
    ),
    (
        "GET /x HTTP/1.1",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        Refused(400),
    ),
    ("GET /x HTTP/1.1", "Connection: Upgrade\r\nUpgrade : websocket\r\n\r\n", Refused(400)),
];

async fn no_request_is_read_in_two_ways() {
    let server = Recorder::start().await;
    let gateway = server.gateway("", "limits: { body: 1MiB }").await;
    let framing = FRAMING
        .iter()
        .map(|(fields, fate)| (format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n"), *fate));
    let chunks = CHUNKS
        .iter()
        .map(|(body, fate)| (format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), *fate));
    let lines = FIRST_LINES.iter().map(|(line, fate)| (format!("{line}\r\nHost: a\r\n\r\n"), *fate));
    let fields = FIELDS.iter().map(|(fields, fate)| (format!("GET /x HTTP/1.1\r\n{fields}\r\n\r\n"), *fate));
    let openings = NEARLY_OPENINGS.iter().map(|(line, rest, fate)| (format!("{line}\r\nHost: a\r\n{rest}"), *fate));
    let mut wrong = Vec::new();
    for (request, fate) in framing.chain(chunks).chain(lines).chain(fields).chain(openings) {
        let mut client = gateway.client().await;
        let _ = client.try_send(format!("{request}{BEHIND}")).await;
        let said = String::from_utf8_lossy(&client.read_all().await).into_owned();
        let status = said.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let read = server.take();
        let right = match fate {
            Refused(expected) => status == expected && read.is_empty(),
            Passes(message) => read == [message, "GET /behind behind"],
        };
        if !right {
            wrong.push(format!("{}: {status}, {read:?}, expected {fate:?}", request.escape_default()));
        }
    }
    assert!(wrong.is_empty(), "by {}, {} wrong:\n{}", ENGINE.get(), wrong.len(), wrong.join("\n"));
}
