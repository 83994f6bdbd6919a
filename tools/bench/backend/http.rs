//! The HTTP/1.1 side of the backend: reads heads, answers by path.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames;
use super::socket_io::{self, Sessions};

const MOST_FIELDS: usize = 64;
const LARGEST_HEAD: usize = 64 * 1024;
const LARGEST_BODY: usize = 1024 * 1024 * 1024;
const FIRST_READ: usize = 2048;

/// Requests that are not answered now.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Held;

impl Held {
    fn new() -> Self {
        HELD.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request asks for.
enum Asked {
    Bytes {
        delay: Duration,
        size: usize,
    },
    Hold,
    Held,
    Echo,
    SocketIo(String),
    /// Opens a session, the same for all, by what a header or a body of this kind says.
    Opens(&'static str),
    Nothing,
}

/// A request, read to the end of its head.
struct Head {
    asked: Asked,
    post: bool,
    upgrades: bool,
    body: usize,
    closes: bool,
    length: usize,
}

/// Answers one connection until it ends.
pub(super) async fn serve(mut stream: TcpStream, sessions: Arc<Sessions>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(FIRST_READ);
    let mut answer = Answer::default();
    loop {
        let head = loop {
            if let Some(head) = parse(&buffer)? {
                break head;
            }
            if buffer.len() > LARGEST_HEAD || stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..head.length);
        if head.upgrades {
            stream.write_all(SWITCHED).await?;
            return match head.asked {
                Asked::SocketIo(query) => socket_io::upgraded(stream, buffer, &query, &sessions).await,
                _ => frames::echo(stream, buffer).await,
            };
        }
        while buffer.len() < head.body {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let body = buffer.drain(..head.body);
        match head.asked {
            Asked::Bytes { delay, size } => {
                drop(body);
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                stream.write_all(answer.of(size, head.closes)).await?;
            }
            Asked::Hold => {
                drop(body);
                let _held = Held::new();
                while stream.read_buf(&mut buffer).await? > 0 {
                    buffer.clear();
                }
                return Ok(());
            }
            Asked::Held => {
                drop(body);
                stream.write_all(&text("200 OK", &HELD.load(Ordering::Relaxed).to_string())).await?;
            }
            Asked::SocketIo(query) => {
                let packets = head.post.then(|| body.collect::<Vec<u8>>());
                let (status, body) = socket_io::polled(&query, packets, &sessions).await;
                stream.write_all(&text(status, &body)).await?;
            }
            Asked::Opens(said) => {
                drop(body);
                let fields = "Mcp-Session-Id: AAAAAAAAAAAAAAAAAAAAAA\r\n";
                let length = said.len();
                let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n{said}");
                stream.write_all(answer.as_bytes()).await?;
            }
            Asked::Echo | Asked::Nothing => {
                drop(body);
                stream.write_all(&text("404 Not Found", "nothing is served here\n")).await?;
            }
        }
        if head.closes {
            return Ok(());
        }
    }
}

const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn text(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let kind = "text/plain; charset=UTF-8";
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The last answer, kept because the next one is mostly the same.
#[derive(Default)]
struct Answer {
    of: Option<(usize, bool)>,
    bytes: Vec<u8>,
}

impl Answer {
    fn of(&mut self, size: usize, closes: bool) -> &[u8] {
        if self.of != Some((size, closes)) {
            let close = if closes { "Connection: close\r\n" } else { "" };
            self.bytes = format!(
                "HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n{close}\r\n"
            )
            .into_bytes();
            self.bytes.resize(self.bytes.len() + size, b'x');
            self.of = Some((size, closes));
        }
        &self.bytes
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let field = |name: &str| {
        let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.map_or("", |field| std::str::from_utf8(field.value).unwrap_or(""))
    };
    let body = match field("content-length") {
        "" => 0,
        length => length.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?,
    };
    if body > LARGEST_BODY || !field("transfer-encoding").is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(Head {
        asked: asked(request.path.unwrap_or("/")),
        post: request.method == Some("POST"),
        upgrades: field("upgrade").eq_ignore_ascii_case("websocket"),
        body,
        closes: field("connection").eq_ignore_ascii_case("close") || request.version == Some(0),
        length,
    }))
}

fn asked(target: &str) -> Asked {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parts = path.split('/').skip(1);
    let first = parts.next().unwrap_or_default();
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok()).filter(|&n| n <= LARGEST_BODY);
    match first {
        "bytes" => number().map_or(Asked::Nothing, |size| Asked::Bytes { delay: Duration::ZERO, size }),
        "delay" => match (number(), number()) {
            (Some(time), Some(size)) => Asked::Bytes { delay: Duration::from_millis(time as u64), size },
            _ => Asked::Nothing,
        },
        "hold" => Asked::Hold,
        "held" => Asked::Held,
        "echo" => Asked::Echo,
        "opens" => match path {
            "/opens/negotiate" => {
                Asked::Opens("{\"negotiateVersion\":1,\"connectionToken\":\"AAAAAAAAAAAAAAAAAAAAAA\"}")
            }
            _ => Asked::Opens(
                "0{\"sid\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}",
            ),
        },
        "socket.io" => Asked::SocketIo(query.to_owned()),
        _ => Asked::Nothing,
    }
}
