//! Just enough of an HTTP/1.1 client for checks: one request, one answer, both bounded.

use httparse::Status;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::config;
use crate::http::write::HeadWriter;
use crate::text::Text;

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// At most [`BODY_LIMIT`] bytes of it.
    pub(super) body: Vec<u8>,
    /// Whether the connection can carry another request.
    pub(super) reusable: bool,
}

/// How much of a body is looked at.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// Longest head of an answer.
const HEAD_LIMIT: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;

/// Sends a request and reads its answer. Faults are told in a few words.
pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    is_head: bool,
) -> Result<Answer, String> {
    stream.write_all(request).await.map_err(|fault| format!("can't send: {fault}"))?;
    stream.flush().await.map_err(|fault| format!("can't send: {fault}"))?;
    let mut bytes = Vec::with_capacity(1024);
    let head = loop {
        match read_head(&bytes, is_head)? {
            // 100 Continue and its like announce the answer that is meant.
            Some(head) if head.status < 200 && head.status != 101 => {
                bytes.drain(..head.len);
            }
            Some(head) => break head,
            None if bytes.len() >= HEAD_LIMIT => return Err(format!("the head is longer than {HEAD_LIMIT} bytes")),
            None => {
                if more(stream, &mut bytes).await? == 0 {
                    return Err("closed before it answered".to_owned());
                }
            }
        }
    };
    bytes.drain(..head.len);
    let (body, complete) = read_body(stream, bytes, head.framing).await?;
    Ok(Answer { status: head.status, body, reusable: complete && head.keep_alive })
}

/// The request, with `Host` and a name for the log of the server unless `headers` bring their own.
pub(super) fn request(method: &str, target: &str, host: &str, health: &config::Health, body: Option<&str>) -> Vec<u8> {
    let mut head = HeadWriter::request(method, target, 1);
    let said = |name: &str| health.headers.keys().any(|said| said.eq_ignore_ascii_case(name));
    for (name, value) in [("host", host), ("user-agent", AGENT), ("accept", "*/*")] {
        if !said(name) {
            head.field(name, value);
        }
    }
    for (name, value) in &health.headers {
        head.field(name, value);
    }
    if let Some(body) = body {
        head.field("content-type", "text/plain;charset=UTF-8");
        head.field("content-length", &*Text::number(body.len() as u64));
    }
    head.end_with(body.unwrap_or_default().as_bytes())
}

const AGENT: &str = concat!("sockgate/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Refuses what would not make one well-formed request.
pub(super) fn check_headers(health: &config::Health) -> Result<(), String> {
    let token = |text: &str| !text.is_empty() && text.bytes().all(is_token);
    if !token(&health.method) {
        return Err(format!("health.method `{}` is not an HTTP method", health.method));
    }
    if let Some(path) = &health.path
        && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'))
    {
        return Err(format!("health.path `{path}` is not a path: expected one such as /health?full=1"));
    }
    for (name, value) in &health.headers {
        if !token(name) {
            return Err(format!("health.headers: `{name}` is not a header name"));
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(format!("health.headers: the value of `{name}` holds a control character"));
        }
        if ["content-length", "transfer-encoding"].iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
            return Err(format!("health.headers: `{name}` can't be set: a check says itself how long it is"));
        }
    }
    Ok(())
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct Head {
    len: usize,
    status: u16,
    framing: Framing,
    keep_alive: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// The head, if it is there in full.
fn read_head(bytes: &[u8], is_head: bool) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return Ok(None),
        Err(fault) => return Err(format!("answered something that isn't HTTP: {fault}")),
    };
    let status = response.code.unwrap_or_default();
    let mut keep_alive = response.version == Some(1);
    let mut framing = Framing::UntilClose;
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value).to_ascii_lowercase();
        let mut words = value.split(',').map(str::trim);
        if header.name.eq_ignore_ascii_case("connection") {
            keep_alive &= !words.any(|word| word == "close");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if words.next_back() == Some("chunked") {
                framing = Framing::Chunked;
            }
        } else if header.name.eq_ignore_ascii_case("content-length")
            && framing != Framing::Chunked
            && let Ok(length) = value.trim().parse()
        {
            framing = Framing::Length(length);
        }
    }
    if is_head || status < 200 || status == 204 || status == 304 {
        framing = Framing::None;
    }
    keep_alive &= framing != Framing::UntilClose;
    Ok(Some(Head { len, status, framing, keep_alive }))
}

/// The body up to [`BODY_LIMIT`], and whether that was all of it.
async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
    framing: Framing,
) -> Result<(Vec<u8>, bool), String> {
    match framing {
        Framing::None => Ok((Vec::new(), true)),
        Framing::Length(length) => {
            while bytes.len() < length.min(BODY_LIMIT) {
                if more(stream, &mut bytes).await? == 0 {
                    return Err(format!("closed after {} of {length} bytes", bytes.len()));
                }
            }
            bytes.truncate(length.min(BODY_LIMIT));
            Ok((bytes, length <= BODY_LIMIT))
        }
        Framing::UntilClose => {
            while bytes.len() < BODY_LIMIT && more(stream, &mut bytes).await? > 0 {}
            bytes.truncate(BODY_LIMIT);
            Ok((bytes, false))
        }
        Framing::Chunked => {
            let mut body = Vec::new();
            loop {
                match chunk(&mut bytes, &mut body)? {
                    Chunk::Taken if body.len() < BODY_LIMIT => {}
                    Chunk::Taken => {
                        body.truncate(BODY_LIMIT);
                        return Ok((body, false));
                    }
                    Chunk::Last => return Ok((body, true)),
                    // A single chunk may be larger than all that is wanted.
                    Chunk::Partial if body.len() + bytes.len() >= BODY_LIMIT + HEAD_LIMIT => {
                        return Err("a chunk of the body is too long".to_owned());
                    }
                    Chunk::Partial => {
                        if more(stream, &mut bytes).await? == 0 {
                            return Err("closed within a chunked body".to_owned());
                        }
                    }
                }
            }
        }
    }
}

enum Chunk {
    Taken,
    Last,
    Partial,
}

/// Moves one chunk from `bytes` to `body`.
fn chunk(bytes: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<Chunk, String> {
    let (start, size) = match httparse::parse_chunk_size(bytes) {
        Ok(Status::Complete((start, size))) => (start, usize::try_from(size).unwrap_or(usize::MAX)),
        Ok(Status::Partial) => return Ok(Chunk::Partial),
        Err(_) => return Err("the chunked body is malformed".to_owned()),
    };
    if size == 0 {
        // The blank line comes at once, or after trailers that tell a check nothing.
        let end = &bytes[start..];
        let complete = end.starts_with(b"\r\n") || end.windows(4).any(|window| window == b"\r\n\r\n");
        return Ok(if complete { Chunk::Last } else { Chunk::Partial });
    }
    // A chunk that goes beyond the limit is taken as far as it is wanted.
    let wanted = size.min(BODY_LIMIT - body.len().min(BODY_LIMIT));
    let end = if wanted < size { start + wanted } else { start + size + 2 };
    if bytes.len() < end {
        return Ok(Chunk::Partial);
    }
    body.extend_from_slice(&bytes[start..start + wanted]);
    bytes.drain(..end);
    Ok(Chunk::Taken)
}

async fn more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Result<usize, String> {
    bytes.reserve(4096);
    stream.read_buf(bytes).await.map_err(|fault| format!("can't read: {fault}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the client makes of an answer that ends with the connection.
    async fn read(answer: &[u8], is_head: bool) -> Result<Answer, String> {
        let (mut here, mut there) = tokio::io::duplex(1 << 20);
        there.write_all(answer).await.unwrap();
        there.shutdown().await.unwrap();
        ask(&mut here, b"GET / HTTP/1.1\r\n\r\n", is_head).await
    }

    async fn good(answer: &str) -> (u16, String, bool) {
        let answer = read(answer.as_bytes(), false).await.unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap(), answer.reusable)
    }

    #[tokio::test]
    async fn bodies_end_where_their_framing_says() {
        let sized = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef";
        assert_eq!(good(sized).await, (200, "abc".to_owned(), true));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n";
        assert_eq!(good(chunked).await, (200, "abc".to_owned(), true));
        let closed = "HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(good(closed).await, (200, "abc".to_owned(), false));
        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(good(empty).await, (204, String::new(), true));
        let last = "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(good(last).await, (200, "abc".to_owned(), false));
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(good(old).await, (200, "abc".to_owned(), false));
    }

    #[tokio::test]
    async fn interim_answers_are_passed_over() {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(good(answer).await, (200, "ok".to_owned(), true));
    }

    #[tokio::test]
    async fn an_answer_to_head_has_no_body_whatever_it_says() {
        let answer = read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 0));
    }

    #[tokio::test]
    async fn broken_answers_are_told_apart() {
        for (answer, fault) in [
            ("", "closed before it answered"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", "closed before it answered"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "answered something that isn't HTTP: invalid HTTP version"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "closed after 3 of 9 bytes"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", "the chunked body is malformed"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "closed within a chunked body"),
        ] {
            assert_eq!(read(answer.as_bytes(), false).await.unwrap_err(), fault, "{answer}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(HEAD_LIMIT));
        assert_eq!(read(endless.as_bytes(), false).await.unwrap_err(), "the head is longer than 32768 bytes");
    }

    #[tokio::test]
    async fn no_more_of_a_body_is_read_than_is_looked_at() {
        for framing in ["Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n", "\r\n"] {
            let answer = format!("HTTP/1.1 200 OK\r\n{framing}{}", "a".repeat(100_000));
            let answer = read(answer.as_bytes(), false).await.unwrap();
            assert_eq!((answer.body.len(), answer.reusable), (BODY_LIMIT, false), "{framing}");
        }
    }

    #[test]
    fn a_request_brings_what_was_said_and_what_was_not() {
        let mut health = config::Health::default();
        let plain = String::from_utf8(request("GET", "/x", "a:1", &health, None)).unwrap();
        assert_eq!(plain, format!("GET /x HTTP/1.1\r\nhost: a:1\r\nuser-agent: {AGENT}\r\naccept: */*\r\n\r\n"));
        for (name, value) in [("HOST", "b"), ("User-Agent", "c"), ("Accept", "d")] {
            health.headers.insert(name.to_owned(), value.to_owned());
        }
        let said = String::from_utf8(request("POST", "/", "a:1", &health, Some("1"))).unwrap();
        let expected = "POST / HTTP/1.1\r\nAccept: d\r\nHOST: b\r\nUser-Agent: c\r\n\
                        content-type: text/plain;charset=UTF-8\r\ncontent-length: 1\r\n\r\n1";
        assert_eq!(said, expected);
    }

    #[test]
    fn what_would_break_a_request_is_refused() {
        let fault = |change: fn(&mut config::Health)| {
            let mut health = config::Health::default();
            change(&mut health);
            check_headers(&health).unwrap_err()
        };
        assert!(fault(|health| health.method = "GET /".to_owned()).contains("not an HTTP method"));
        assert!(fault(|health| health.path = Some("x".to_owned())).contains("not a path"));
        assert!(fault(|health| health.path = Some("/ HTTP/1.1\r\n".to_owned())).contains("not a path"));
        let header = |name: &str| std::iter::once((name.to_owned(), "1".to_owned())).collect();
        let mut health = config::Health::default();
        for (name, fault) in [("a b", "not a header name"), ("Content-Length", "can't be set")] {
            health.headers = header(name);
            assert!(check_headers(&health).unwrap_err().contains(fault));
        }
        health.headers = header("X-Probe");
        assert_eq!(check_headers(&health), Ok(()));
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            piece in 1usize..64,
        ) {
            let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let answer = runtime.block_on(async {
                let (mut here, mut there) = tokio::io::duplex(piece);
                let ask = ask(&mut here, b"GET / HTTP/1.1\r\n\r\n", false);
                let serve = async {
                    let mut request = [0; 18];
                    there.read_exact(&mut request).await.unwrap();
                    there.write_all(&wire).await.unwrap();
                };
                tokio::join!(ask, serve).0.unwrap()
            });
            prop_assert_eq!(answer.body, chunks.concat());
            prop_assert!(answer.reusable);
        }
    }
}
