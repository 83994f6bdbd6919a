//! Requests of HTTP/2, frame by frame.

use super::Recorder;
use crate::support::Client;
use crate::support::engine::{ENGINE, for_each_engine};

for_each_engine! {
    no_stream_becomes_a_request_that_it_does_not_say,
}

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) type Fields = &'static [(&'static str, &'static str)];

pub(super) const GET: Fields = &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x")];
const STAR: Fields = &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "*")];
const POST: Fields = &[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/x")];

/// The fields of a stream without a body, and what a server reads of it, if anything.
const HEADS: [(Fields, Option<&str>); 60] = [
    (GET, Some("GET /x a")),
    (&[(":path", "/x"), (":authority", "a"), (":scheme", "http"), (":method", "GET")], Some("GET /x a")),
    (&[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "a")], Some("GET /x a")),
    (&[(":method", "OPTIONS"), (":scheme", "http"), (":authority", "a"), (":path", "*")], Some("OPTIONS * a")),
    // Pseudo-fields that are missing, said twice, unknown or too late.
    (&[(":scheme", "http"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", "GET"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x"), (":path", "/y")], None),
    (&[(":method", "GET"), (":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":scheme", "http"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":authority", "b"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x"), (":odd", "1")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x"), (":status", "200")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), ("x", "y"), (":path", "/x")], None),
    (
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x"), ("x", "y"), (":path", "/y")],
        None,
    ),
    (&[("", "1"), (":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x")], None),
    // What would be a line or a part of one in HTTP/1.
    (
        &[(":method", "GET /y HTTP/1.1\r\nX: y\r\n\r\n"), (":scheme", "http"), (":authority", "a"), (":path", "/x")],
        None,
    ),
    (&[(":method", "G ET"), (":scheme", "http"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", ""), (":scheme", "http"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http\r\nX: y"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "x")], None),
    (STAR, None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x y")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x HTTP/1.1\r\nX: y\r\n\r\n")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x\0")], None),
    // What stands behind `#` is no part of a target: the crate drops it.
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x#y")], Some("GET /x a")),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "http://b/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a\r\nX: y"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a b"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "u@a"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a/b"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a,b"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a:80:81"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "a:80x"), (":path", "/x")], None),
    (&[(":method", "GET"), (":scheme", "http"), (":authority", "[::1"), (":path", "/x")], None),
    // Fields.
    (&[GET[0], GET[1], GET[2], GET[3], ("X", "y")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("Host", "b")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x y", "z")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x:y", "z")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x\r\ny", "z")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x\0", "z")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x\u{e9}", "z")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x", "y\r\nz: a")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x", "y\nz: a")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x", "y\r")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x", "y\0z")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("x", "y\x7f")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("connection", "close")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("transfer-encoding", "chunked")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("upgrade", "websocket")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("keep-alive", "timeout=5")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("proxy-connection", "close")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("te", "gzip")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("te", "trailers")], Some("GET /x a")),
    (&[GET[0], GET[1], GET[2], GET[3], ("content-length", "5")], None),
    (&[GET[0], GET[1], GET[2], GET[3], ("content-length", "x")], None),
    // Nobody tunnels.
    (&[(":method", "CONNECT"), (":authority", "a:443")], None),
    (&[(":method", "CONNECT"), (":scheme", "http"), (":authority", "a"), (":path", "/x")], None),
    (&[(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]], None),
];

/// Streams with a body of five bytes: more fields, what comes of a body in frames, and what a server reads, if anything.
const BODIES: [(Fields, &[&str], Option<&str>); 10] = [
    (&[("content-length", "5")], &["hello"], Some("POST /x a hello")),
    (&[("content-length", "5")], &["he", "", "llo"], Some("POST /x a hello")),
    (&[], &["he", "llo"], Some("POST /x a hello")),
    (&[], &["5\r\nhello\r\n0\r\n\r\n"], Some("POST /x a 5\\r\\nhello\\r\\n0\\r\\n\\r\\n")),
    (&[("content-length", "4")], &["hello"], None),
    (&[("content-length", "6")], &["hello"], None),
    (&[("content-length", "5"), ("content-length", "5")], &["hello"], None),
    (&[("content-length", "5"), ("content-length", "4")], &["hello"], None),
    (&[("content-length", "+5")], &["hello"], None),
    (&[("content-length", "5, 5")], &["hello"], None),
];

/// Whole connections that are no HTTP/2 behind their preface.
fn connections() -> Vec<(&'static str, Vec<u8>)> {
    let settings = frame(SETTINGS, 0, 0, b"");
    let head = block(GET);
    let whole = END_STREAM | END_HEADERS;
    let with = |frames: &[Vec<u8>]| [PREFACE, &settings, &frames.concat()].concat();
    vec![
        ("an even stream", with(&[frame(HEADERS, whole, 2, &head)])),
        ("stream 0", with(&[frame(HEADERS, whole, 0, &head)])),
        ("data on no stream", with(&[frame(DATA, END_STREAM, 1, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")])),
        (
            "a head that goes on elsewhere",
            with(&[frame(HEADERS, END_STREAM, 1, &head[..9]), frame(CONTINUATION, END_HEADERS, 3, &head[9..])]),
        ),
        (
            "a head that something comes between",
            with(&[
                frame(HEADERS, END_STREAM, 1, &head[..9]),
                frame(DATA, 0, 1, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &head[9..]),
            ]),
        ),
        ("a continuation of nothing", with(&[frame(CONTINUATION, END_HEADERS, 1, &head)])),
        ("a head that no table can read", with(&[frame(HEADERS, whole, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff")])),
        ("an index that there is not", with(&[frame(HEADERS, whole, 1, &[&head[..], b"\xfe"].concat())])),
        ("a frame that is too long", with(&[frame(DATA, 0, 1, &[0; 20_000])])),
        ("padding that is longer than its frame", with(&[frame(HEADERS, whole | 8, 1, &[&[255], &head[..]].concat())])),
        ("settings that are none", with(&[frame(SETTINGS, 0, 0, b"12345"), frame(HEADERS, whole, 1, &head)])),
        ("settings on a stream", with(&[frame(SETTINGS, 0, 1, b""), frame(HEADERS, whole, 1, &head)])),
        ("a push of the client's", with(&[frame(5, END_HEADERS, 1, &[b"\0\0\0\x02", &head[..]].concat())])),
        ("a window that is too large", with(&[frame(8, 0, 0, b"\x7f\xff\xff\xff"), frame(HEADERS, whole, 1, &head)])),
        ("HTTP/1 behind the preface", [PREFACE, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"].concat()),
    ]
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field block without compression: each field as a literal that is in no table (RFC 7541 6.2.3).
pub(super) fn block(fields: Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Reads frames until the stream, or the connection, is over.
async fn over(client: &mut Client) {
    while let Some(head) = client.some_of(9).await {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags, stream) = (head[3], head[4], head[8]);
        if client.some_of(length).await.is_none() {
            return;
        }
        let ended = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        if kind == GOAWAY || stream == 1 && (ended || kind == RESET) {
            return;
        }
    }
}

async fn no_stream_becomes_a_request_that_it_does_not_say() {
    let server = Recorder::start().await;
    let gateway = server.gateway("", "").await;
    let heads = HEADS.iter().map(|(fields, read)| {
        (format!("{fields:?}"), frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields)), *read)
    });
    let bodies = BODIES.iter().map(|(fields, body, read)| {
        let mut frames = frame(HEADERS, END_HEADERS, 1, &[block(POST), block(fields)].concat());
        for (number, part) in body.iter().enumerate() {
            let last = if number + 1 == body.len() { END_STREAM } else { 0 };
            frames.extend(frame(DATA, last, 1, part.as_bytes()));
        }
        (format!("{fields:?} {body:?}"), frames, *read)
    });
    let mut wrong = Vec::new();
    let mut compare = |what: String, expected: Option<&str>| {
        let read = server.take();
        if read != expected.into_iter().collect::<Vec<_>>() {
            wrong.push(format!("{what}: {read:?}, expected {expected:?}"));
        }
    };
    for (what, frames, expected) in heads.chain(bodies) {
        let mut client = gateway.client().await;
        client.send([PREFACE, &frame(SETTINGS, 0, 0, b""), &frames].concat()).await;
        over(&mut client).await;
        // Pingora passes on what `*` says of the whole server, for other methods, too.
        let odd = ENGINE.get() == "pingora" && what == format!("{:?}", STAR);
        compare(what, if odd { Some("GET * a") } else { expected });
    }
    for (what, bytes) in connections() {
        let mut client = gateway.client().await;
        let _ = client.try_send(bytes).await;
        over(&mut client).await;
        compare(what.to_owned(), None);
    }
    assert!(wrong.is_empty(), "by {}, {} wrong:\n{}", ENGINE.get(), wrong.len(), wrong.join("\n"));
}
