//! Just enough of an HTTP/1.1 client for checks: one request, one answer, both bounded.

use httparse::Status;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::config;

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
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    let said = |name: &str| health.headers.keys().any(|said| said.eq_ignore_ascii_case(name));
    let defaults = [("host", host), ("user-agent", AGENT), ("accept", "*/*")];
    let unsaid = defaults.into_iter().filter(|(name, _)| !said(name));
    let headers = health.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in unsaid.chain(headers) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!("content-type: text/plain;charset=UTF-8\r\ncontent-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    text.into_bytes()
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
