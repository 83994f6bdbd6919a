//! Just enough of an HTTP/1.1 client for checks, session look-ups and the command line: one request, one answer, its
//! bytes bounded. The caller connects, and bounds the time.

use std::fmt;
use std::io;

use httparse::Status;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::framing::{Body, Chunks, Malformed, response_body};
use crate::request::Headers;

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As much of it as is wanted.
    pub(crate) body: Vec<u8>,
    /// Whether the connection can carry another request.
    pub(crate) reusable: bool,
}

/// Sends a request and reads its answer, of whose body `most_body` bytes are wanted. An answer to `HEAD` has none.
///
/// # Errors
/// The connection broke, or what came is no answer.
pub(crate) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    is_head: bool,
    most_body: usize,
) -> Result<Answer, Fault> {
    stream.write_all(request).await.map_err(Fault::Send)?;
    stream.flush().await.map_err(Fault::Send)?;
    let mut reader = AnswerReader::new(is_head, most_body);
    let mut bytes = Vec::with_capacity(4096);
    loop {
        bytes.clear();
        if stream.read_buf(&mut bytes).await.map_err(Fault::Receive)? == 0 {
            return reader.close();
        }
        if let Some(answer) = reader.push(&bytes)? {
            return Ok(answer);
        }
    }
}

/// Longest head of an answer, those of interim answers before it included.
const MOST_HEAD: usize = 32 * 1024;
const MOST_FIELDS: usize = 100;

/// Reads one answer from the bytes as they come.
#[derive(Debug)]
pub(crate) struct AnswerReader {
    is_head: bool,
    most_body: usize,
    /// What has come of the head.
    head: Vec<u8>,
    /// How many more bytes heads may take.
    head_left: usize,
    begun: Option<Begun>,
}

/// An answer whose head is whole.
#[derive(Debug)]
struct Begun {
    status: u16,
    keep_alive: bool,
    framing: Body,
    chunks: Chunks,
    /// How many more bytes chunks may take, sizes and line ends included.
    chunks_left: usize,
    body: Vec<u8>,
}

impl AnswerReader {
    /// For an answer of whose body so many bytes are wanted.
    pub(crate) fn new(is_head: bool, most_body: usize) -> Self {
        Self { is_head, most_body, head: Vec::new(), head_left: MOST_HEAD, begun: None }
    }

    /// Takes the next bytes; gives the answer once it has come to its end, or more has come of it than is wanted.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Fault> {
        if let Some(begun) = &mut self.begun {
            return begun.push(bytes, self.most_body);
        }
        self.head.extend_from_slice(bytes);
        loop {
            let within = &self.head[..self.head.len().min(self.head_left)];
            let Some((len, begun)) = Begun::read(within, self.is_head, self.most_body)? else {
                return if self.head.len() > self.head_left { Err(Fault::HeadTooLong) } else { Ok(None) };
            };
            self.head.drain(..len);
            self.head_left -= len;
            // 100 Continue and its like announce the answer that is meant.
            if begun.status >= 200 || begun.status == 101 {
                let rest = std::mem::take(&mut self.head);
                return self.begun.insert(begun).push(&rest, self.most_body);
            }
        }
    }

    /// The connection has ended: gives the answer that ends with it.
    pub(crate) fn close(self) -> Result<Answer, Fault> {
        let mut begun = self.begun.ok_or(Fault::Closed)?;
        match begun.framing {
            Body::UntilClose | Body::None => Ok(begun.finish(false)),
            Body::Length(length) => Err(Fault::ClosedWithin { came: begun.body.len(), length }),
            Body::Chunked => Err(Fault::ClosedWithinChunks),
        }
    }
}

impl Begun {
    /// The head, if it is there in full, and its length.
    fn read(bytes: &[u8], is_head: bool, most_body: usize) -> Result<Option<(usize, Self)>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut headers);
        let len = match response.parse(bytes).map_err(Fault::NotHttp)? {
            Status::Complete(len) => len,
            Status::Partial => return Ok(None),
        };
        let status = response.code.unwrap_or_default();
        let framing = if is_head { Body::None } else { response_body(status, response.headers)? };
        let closes = status == 101 || Headers::Fields(response.headers).lists("connection", "close");
        let keep_alive = response.version == Some(1) && !closes;
        // Room for chunks of one byte, which are six on the wire.
        let chunks_left = most_body.saturating_mul(8).saturating_add(MOST_HEAD);
        let (chunks, body) = (Chunks::default(), Vec::new());
        Ok(Some((len, Self { status, keep_alive, framing, chunks, chunks_left, body })))
    }

    fn push(&mut self, bytes: &[u8], most: usize) -> Result<Option<Answer>, Fault> {
        let mut more_than_wanted = false;
        let came = self.body.len() as u64;
        let body = &mut self.body;
        let mut keep = |data: &[u8]| {
            let room = most - body.len();
            more_than_wanted |= data.len() > room;
            body.extend_from_slice(&data[..data.len().min(room)]);
        };
        let (over, taken) = match self.framing {
            Body::None => (true, 0),
            Body::Length(length) => {
                let left = length - came;
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                keep(&bytes[..taken]);
                (taken as u64 == left, taken)
            }
            Body::UntilClose => {
                keep(bytes);
                (false, bytes.len())
            }
            Body::Chunked => {
                let within = &bytes[..bytes.len().min(self.chunks_left)];
                let taken = self.chunks.decode(within, keep);
                self.chunks_left -= within.len();
                match taken {
                    _ if more_than_wanted => (false, within.len()),
                    None => return Err(Fault::Chunks),
                    Some(taken) if self.chunks.is_done() => (true, taken),
                    Some(_) if within.len() < bytes.len() => return Err(Fault::ChunksTooSmall),
                    Some(taken) => (false, taken),
                }
            }
        };
        // What comes behind an answer was not asked for: the connection is out of step.
        let in_step = !more_than_wanted && taken == bytes.len();
        Ok((over || more_than_wanted).then(|| self.finish(in_step)))
    }

    fn finish(&mut self, in_step: bool) -> Answer {
        Answer { status: self.status, body: std::mem::take(&mut self.body), reusable: in_step && self.keep_alive }
    }
}

/// Why there is no answer, told in a few words.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The request could not be sent.
    Send(io::Error),
    /// The answer could not be read.
    Receive(io::Error),
    NotHttp(httparse::Error),
    HeadTooLong,
    Malformed(Malformed),
    Chunks,
    ChunksTooSmall,
    Closed,
    ClosedWithin {
        came: usize,
        length: u64,
    },
    ClosedWithinChunks,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(fault) => write!(f, "can't send: {fault}"),
            Self::Receive(fault) => write!(f, "can't read: {fault}"),
            Self::NotHttp(fault) => write!(f, "answered something that isn't HTTP: {fault}"),
            Self::HeadTooLong => write!(f, "the head is longer than {MOST_HEAD} bytes"),
            Self::Malformed(fault) => write!(f, "answered something that can't be read safely: {fault}"),
            Self::Chunks => f.write_str("the chunked body is malformed"),
            Self::ChunksTooSmall => f.write_str("the chunks of the body are too small"),
            Self::Closed => f.write_str("closed before it answered"),
            Self::ClosedWithin { came, length } => write!(f, "closed after {came} of {length} bytes"),
            Self::ClosedWithinChunks => f.write_str("closed within a chunked body"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 64 * 1024;

    /// What the client makes of an answer that ends with the connection.
    async fn read(answer: &[u8], is_head: bool) -> Result<Answer, String> {
        let (mut here, mut there) = tokio::io::duplex(1 << 20);
        there.write_all(answer).await.unwrap();
        there.shutdown().await.unwrap();
        ask(&mut here, b"GET / HTTP/1.1\r\n\r\n", is_head, MOST).await.map_err(|fault| fault.to_string())
    }

    async fn good(answer: &str) -> (u16, String, bool) {
        let answer = read(answer.as_bytes(), false).await.unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap(), answer.reusable)
    }

    #[tokio::test]
    async fn bodies_end_where_their_framing_says() {
        let sized = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(good(sized).await, (200, "abc".to_owned(), true));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n";
        assert_eq!(good(chunked).await, (200, "abc".to_owned(), true));
        let closed = "HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(good(closed).await, (200, "abc".to_owned(), false));
        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(good(empty).await, (204, String::new(), true));
        let last = "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(good(last).await, (200, "abc".to_owned(), false));
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(good(old).await, (200, "abc".to_owned(), false));
        let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
        assert_eq!(good(switched).await, (101, String::new(), false));
    }

    #[tokio::test]
    async fn a_connection_that_says_more_than_it_was_asked_carries_no_other_request() {
        let more = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef";
        assert_eq!(good(more).await, (200, "abc".to_owned(), false));
        let more = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert_eq!(good(more).await, (200, "a".to_owned(), false));
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
        let ok = "HTTP/1.1 200 OK\r\n";
        for (answer, fault) in [
            (String::new(), "closed before it answered"),
            (format!("{ok}A: b\r\n"), "closed before it answered"),
            ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "answered something that isn't HTTP: invalid HTTP version"),
            (format!("{ok}Content-Length: 9\r\n\r\nabc"), "closed after 3 of 9 bytes"),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\nz\r\n"), "the chunked body is malformed"),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n"), "the chunked body is malformed"),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nab"), "closed within a chunked body"),
            (
                format!("{ok}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
                "answered something that can't be read safely: Content-Length beside Transfer-Encoding",
            ),
            (
                format!("{ok}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
                "answered something that can't be read safely: a Content-Length that is not one number",
            ),
            (format!("{ok}A: {}", "a".repeat(MOST_HEAD)), "the head is longer than 32768 bytes"),
            ("HTTP/1.1 100 Continue\r\n\r\n".repeat(2000), "the head is longer than 32768 bytes"),
            (
                format!("{ok}Transfer-Encoding: chunked\r\n\r\n{}", "1;xxxxxxxxxx\r\na\r\n".repeat(60_000)),
                "the chunks of the body are too small",
            ),
        ] {
            assert_eq!(read(answer.as_bytes(), false).await.unwrap_err(), fault, "{:.100}", answer);
        }
    }

    #[tokio::test]
    async fn no_more_of_a_body_is_read_than_is_wanted() {
        for framing in ["Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n", "\r\n"] {
            let answer = format!("HTTP/1.1 200 OK\r\n{framing}{}", "a".repeat(100_000));
            let answer = read(answer.as_bytes(), false).await.unwrap();
            assert_eq!((answer.body.len(), answer.reusable), (MOST, false), "{framing}");
        }
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
            let mut reader = AnswerReader::new(false, MOST);
            let answer = wire.chunks(piece).find_map(|part| reader.push(part).unwrap()).unwrap();
            prop_assert_eq!((answer.body, answer.reusable), (chunks.concat(), true));
        }
    }
}
