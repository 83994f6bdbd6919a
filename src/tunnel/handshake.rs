//! The way into a tunnel: the upgrade request goes to the server, and its answer decides.
//!
//! Until the server has answered 101, not one byte of the client's goes to it beyond the request: a server that
//! answers otherwise would take them for the next request (CVE-2026-2833). Hixie-76 is the exception that its draft
//! makes: exactly eight bytes belong to its handshake.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::stream::Stream;
use crate::deadline::Deadline;
use crate::http::framing::{Body, Chunks, response_body};
use crate::http::hop_by_hop::is_hop_by_hop;
use crate::http::upgrade::Opening;
use crate::http::write::HeadWriter;
use crate::listener::Connection;
use crate::request::Headers;
use crate::transport::Transport;

/// A client that waits for the answer to its upgrade.
pub trait Client {
    /// What its connection is.
    type Stream: Stream;

    /// What of it the opening needs.
    fn early(&mut self) -> Early<'_, Self::Stream>;
}

/// What is known of a client before its tunnel stands.
pub struct Early<'a, S> {
    /// Where it is heard.
    pub stream: &'a mut S,
    /// What it has said already, for the server.
    pub held: &'a mut BytesMut,
    /// What tells that the gateway stops.
    pub deadline: &'a Deadline,
}

impl Client for Connection {
    type Stream = Transport;

    fn early(&mut self) -> Early<'_, Transport> {
        Early { stream: &mut self.transport, held: &mut self.held, deadline: &self.deadline }
    }
}

/// What the server said.
#[derive(Debug)]
pub enum Answer {
    /// 101: the head to pass on; what follows it is the tunnel's.
    Switched {
        /// The answer's head as the server wrote it, and the frames that came with it.
        first: BytesMut,
        /// How many bytes of it are the head.
        head: usize,
    },
    /// Anything else, to be relayed with [`Refused::relay`].
    Refused(Refused),
}

/// An answer other than 101.
#[derive(Debug)]
pub struct Refused {
    /// The status of the answer.
    pub status: u16,
    /// The head as the client gets it.
    head: Vec<u8>,
    /// What has been read of the body.
    rest: BytesMut,
    body: Body,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The client left.
    ClientGone,
    /// The server closed its connection, or broke it.
    ServerGone,
    /// The server's answer is no HTTP, or switches to something that was not asked for.
    Garbage,
    /// The server took too long.
    Late,
}

/// Fields that an answer may have.
const MOST_FIELDS: usize = 128;
/// Longest head of an answer.
const MOST_HEAD: usize = 64 * 1024;
/// What a client may send before the answer; then it is read no further until the tunnel stands.
const MOST_EARLY: usize = 64 * 1024;
/// The third key of Hixie-76.
const HIXIE_KEY: usize = 8;

/// Asks the server, and watches the client meanwhile: one that leaves ends the attempt, what it sends is held.
///
/// `head` is the request with its body, if it has one, and `protocol` what it asks for. `patience` is the longest time until the head of the answer is whole; zero is no limit.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn ask(
    client: &mut impl Client,
    server: &mut impl Stream,
    head: &[u8],
    (opening, protocol): (Opening, &str),
    patience: Duration,
) -> Result<Answer, NoAnswer> {
    let deadline = (!patience.is_zero()).then(|| Instant::now() + patience);
    let asking = async {
        write(server, head).await?;
        if opening == Opening::Hixie76 {
            while client.early().held.len() < HIXIE_KEY {
                hear(client).await?;
            }
            let key = client.early().held.split_to(HIXIE_KEY);
            write(server, &key).await?;
        }
        let mut answer = BytesMut::new();
        loop {
            if let Some(parsed) = parse(&mut answer, protocol)? {
                return Ok(parsed);
            }
            answer.reserve(1024);
            tokio::select! {
                biased;
                read = server.read_buf(&mut answer) => match read {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Err(NoAnswer::ServerGone),
                },
                () = gone(client) => return Err(NoAnswer::ClientGone),
            }
        }
    };
    within(deadline, asking).await.unwrap_or(Err(NoAnswer::Late))
}

async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    let work = pin!(work);
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

async fn write(server: &mut impl Stream, bytes: &[u8]) -> Result<(), NoAnswer> {
    let written = async {
        server.write_all(bytes).await?;
        server.flush().await
    };
    written.await.map_err(|_| NoAnswer::ServerGone)
}

/// Waits until the client leaves; holds what it sends meanwhile, up to a bound.
pub async fn gone(client: &mut impl Client) {
    while client.early().held.len() < MOST_EARLY {
        if hear(client).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}

/// Holds what the client sends. When the gateway's time is up the client counts as gone.
async fn hear(client: &mut impl Client) -> Result<(), NoAnswer> {
    let Early { stream, held, deadline } = client.early();
    held.reserve(512);
    let read = tokio::select! {
        biased;
        read = stream.read_buf(held) => read,
        () = deadline.stopping() => return Err(NoAnswer::ClientGone),
    };
    match read {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err(NoAnswer::ClientGone),
    }
}

/// The answer, once its head is whole. Interim answers (100, 103) are passed over: the request's body, if it has one, has
/// been sent, and the client of an upgrade waits for one answer only.
fn parse(bytes: &mut BytesMut, protocol: &str) -> Result<Option<Answer>, NoAnswer> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let head = match response.parse(bytes).map_err(|_| NoAnswer::Garbage)? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial if bytes.len() > MOST_HEAD => return Err(NoAnswer::Garbage),
            httparse::Status::Partial => return Ok(None),
        };
        let status = response.code.unwrap_or(0);
        let headers = Headers::Fields(response.headers);
        match status {
            101 if headers.lists("upgrade", protocol) => {
                return Ok(Some(Answer::Switched { first: std::mem::take(bytes), head }));
            }
            100 | 102..=199 => bytes.advance(head),
            200..=999 => {
                let body = response_body(status, response.headers).map_err(|_| NoAnswer::Garbage)?;
                let written = write_head(&response);
                bytes.advance(head);
                return Ok(Some(Answer::Refused(Refused { status, head: written, rest: std::mem::take(bytes), body })));
            }
            _ => return Err(NoAnswer::Garbage),
        }
    }
}

/// The head of a refusal as the client gets it: every field but those of the connection, which closes.
fn write_head(response: &httparse::Response<'_, '_>) -> Vec<u8> {
    let mut head = HeadWriter::answer_with(response.code.unwrap_or(502), response.reason.unwrap_or(""));
    for field in response.headers.iter().filter(|field| !is_hop_by_hop(field.name)) {
        head.field(field.name, field.value);
    }
    head.field("connection", "close");
    head.end()
}

impl Refused {
    /// The head, as the client gets it.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// What has been read of the body, and how it is framed.
    pub(crate) fn into_body(self) -> (BytesMut, Body) {
        (self.rest, self.body)
    }

    /// Gives the client another head.
    pub fn set_head(&mut self, head: Vec<u8>) {
        self.head = head;
    }

    /// Passes the answer on, head and body; the client's connection is to be closed then. Returns the bytes written.
    ///
    /// # Errors
    /// Either side broke, or was silent for longer than `patience` (zero is no limit).
    pub async fn relay(
        mut self,
        client: &mut impl Stream,
        server: &mut impl Stream,
        patience: Duration,
    ) -> io::Result<u64> {
        let mut written = 0;
        let mut chunks = Chunks::default();
        let mut left = match self.body {
            Body::Length(length) => length,
            Body::None => 0,
            Body::Chunked | Body::UntilClose => u64::MAX,
        };
        let mut out = std::mem::take(&mut self.head);
        loop {
            let taken = match self.body {
                Body::Chunked => chunks.advance(&self.rest).ok_or(io::ErrorKind::InvalidData)?,
                _ => usize::try_from(left).unwrap_or(usize::MAX).min(self.rest.len()),
            };
            left -= if left == u64::MAX { 0 } else { taken as u64 };
            out.extend_from_slice(&self.rest[..taken]);
            self.rest.clear();
            within_io(patience, client.write_all(&out)).await?;
            written += out.len() as u64;
            out.clear();
            if left == 0 || chunks.is_done() {
                break;
            }
            self.rest.reserve(16 * 1024);
            if within_io(patience, server.read_buf(&mut self.rest)).await? == 0 {
                match self.body {
                    Body::UntilClose => break,
                    // The client has to see that the answer is cut.
                    _ => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        }
        client.flush().await?;
        Ok(written)
    }
}

/// Does work of the network, or gives up when `patience` is over; zero is no limit.
pub(crate) async fn within_io<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let deadline = (!patience.is_zero()).then(|| Instant::now() + patience);
    within(deadline, work).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Result<Option<Answer>, NoAnswer> {
        parse(&mut bytes.into(), "websocket")
    }

    #[test]
    fn a_101_keeps_what_came_with_it() {
        let bytes =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\r\n\x81\x00";
        let Ok(Some(Answer::Switched { first, head })) = parsed(bytes) else { panic!("expected 101") };
        assert!(first.starts_with(b"HTTP/1.1 101"));
        assert_eq!(&first[head..], b"\x81\x00");
    }

    #[test]
    fn anything_else_is_a_refusal_without_the_fields_of_the_connection() {
        let bytes = b"HTTP/1.1 400 Bad Request\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX: y\r\nContent-Length: 2\r\n\r\nno";
        let Ok(Some(Answer::Refused(refused))) = parsed(bytes) else { panic!("expected a refusal") };
        assert_eq!(
            String::from_utf8_lossy(&refused.head),
            "HTTP/1.1 400 Bad Request\r\nX: y\r\nContent-Length: 2\r\nconnection: close\r\n\r\n"
        );
        assert_eq!((refused.status, &refused.rest[..], refused.body), (400, b"no".as_slice(), Body::Length(2)));
    }

    #[test]
    fn half_a_head_waits_and_nonsense_does_not() {
        assert!(matches!(parsed(b"HTTP/1.1 101 Switching"), Ok(None)));
        assert!(matches!(parsed(b"\x00\x01garbage\r\n\r\n"), Err(NoAnswer::Garbage)));
        assert!(matches!(parsed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"), Err(NoAnswer::Garbage)));
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'x'; MOST_HEAD]].concat();
        assert!(matches!(parsed(&endless), Err(NoAnswer::Garbage)));
    }
}
