//! HTTP/1.1 as a client speaks it: requests as they are given, answers read to their end and counted.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Work;
use super::stream::{Failure, Stream, Target};

const MOST_FIELDS: usize = 64;
const CHUNK: usize = 64 * 1024;

/// A connection that speaks HTTP/1.1, one request at a time.
pub(crate) struct Http {
    stream: Stream,
    /// What has been read and not yet used is `buffer[used..filled]`.
    buffer: Vec<u8>,
    used: usize,
    filled: usize,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// Whether another request may follow.
    pub keeps: bool,
}

/// How far the body goes (RFC 9112 6).
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Http {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, buffer: Vec::new(), used: 0, filled: 0 }
    }

    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Reads an answer to its end; the body goes into `kept`, where there is one.
    pub(crate) async fn answer(&mut self, mut kept: Option<&mut Vec<u8>>) -> Result<Answer, Failure> {
        loop {
            let (status, body, keeps) = self.head().await?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let length = match body {
                Body::Length(length) => {
                    self.take(length, kept.as_deref_mut()).await?;
                    length
                }
                Body::Chunked => self.chunks(kept.as_deref_mut()).await?,
                Body::UntilClose => self.until_close(kept.as_deref_mut()).await?,
            };
            return Ok(Answer { status, length, keeps });
        }
    }

    /// The stream, and what was read beyond the last answer.
    pub(crate) fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.buffer[self.used..self.filled].to_vec())
    }

    async fn head(&mut self) -> Result<(u16, Body, bool), Failure> {
        loop {
            let unread = &self.buffer[self.used..self.filled];
            let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
            let mut head = httparse::Response::new(&mut fields);
            let parsed = head.parse(unread).map_err(|_| Failure::from("the answer is no HTTP"))?;
            let httparse::Status::Complete(length) = parsed else {
                if self.more().await? == 0 {
                    return Err("closed before an answer".into());
                }
                continue;
            };
            let status = head.code.unwrap_or(0);
            let field = |name: &str| {
                let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                found.and_then(|field| std::str::from_utf8(field.value).ok())
            };
            let has = |name: &str, word: &str| {
                let elements = field(name).into_iter().flat_map(|value| value.split(','));
                elements.into_iter().any(|element| element.trim().eq_ignore_ascii_case(word))
            };
            let body = if status < 200 || status == 204 || status == 304 {
                Body::Length(0)
            } else if has("transfer-encoding", "chunked") {
                Body::Chunked
            } else {
                match field("content-length") {
                    Some(length) => Body::Length(length.trim().parse().map_err(|_| Failure::from("no length"))?),
                    None => Body::UntilClose,
                }
            };
            let keeps = !has("connection", "close") && !matches!(body, Body::UntilClose) && head.version == Some(1);
            self.used += length;
            return Ok((status, body, keeps));
        }
    }

    async fn take(&mut self, mut left: u64, mut kept: Option<&mut Vec<u8>>) -> Result<(), Failure> {
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled - self.used);
            if let Some(kept) = kept.as_deref_mut() {
                kept.extend_from_slice(&self.buffer[self.used..self.used + here]);
            }
            self.used += here;
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            if self.more().await? == 0 {
                return Err("closed within a body".into());
            }
        }
    }

    async fn chunks(&mut self, mut kept: Option<&mut Vec<u8>>) -> Result<u64, Failure> {
        let mut length = 0;
        loop {
            let line = self.line().await?;
            let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).map_err(|_| Failure::from("a chunk without a size"))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(length);
            }
            self.take(size, kept.as_deref_mut()).await?;
            self.take(2, None).await?;
            length += size;
        }
    }

    async fn until_close(&mut self, mut kept: Option<&mut Vec<u8>>) -> Result<u64, Failure> {
        let mut length = 0;
        loop {
            let here = (self.filled - self.used) as u64;
            self.take(here, kept.as_deref_mut()).await?;
            length += here;
            if self.more().await? == 0 {
                return Ok(length);
            }
        }
    }

    async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            let unread = &self.buffer[self.used..self.filled];
            if let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = unread[..end].to_vec();
                self.used += end + 2;
                return Ok(line);
            }
            if self.more().await? == 0 {
                return Err("closed within a body".into());
            }
        }
    }

    /// Reads once; how much came.
    async fn more(&mut self) -> Result<usize, Failure> {
        if self.used == self.filled {
            (self.used, self.filled) = (0, 0);
        } else if self.used > CHUNK {
            self.buffer.copy_within(self.used..self.filled, 0);
            (self.used, self.filled) = (0, self.filled - self.used);
        }
        if self.filled == self.buffer.len() {
            let larger = (self.buffer.len() * 2).clamp(2048, CHUNK).max(self.filled + 2048);
            self.buffer.resize(larger, 0);
        }
        let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
        self.filled += count;
        Ok(count)
    }
}

/// Asks for one thing over and over.
pub(crate) struct Requests {
    pub target: Target,
    pub source: usize,
    pub request: Arc<[u8]>,
    /// A connection for each request, instead of one for all.
    pub fresh: bool,
    /// Bytes of its body.
    sent: u64,
    connection: Option<Http>,
}

impl Requests {
    /// A GET of this path; with `fresh`, over a new connection each time.
    pub(crate) fn get(target: &Target, source: usize, path: &str, fresh: bool) -> Self {
        let close = if fresh { "Connection: close\r\n" } else { "" };
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bench\r\nAccept: */*\r\n{close}\r\n", target.host);
        Self { target: target.clone(), source, request: request.into_bytes().into(), fresh, sent: 0, connection: None }
    }

    /// A POST of this many bytes.
    pub(crate) fn post(target: &Target, source: usize, path: &str, size: usize) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Length: {size}\r\n\r\n",
            target.host
        );
        let mut request = head.into_bytes();
        request.resize(request.len() + size, b'x');
        let (target, request) = (target.clone(), request.into());
        Self { target, source, request, fresh: false, sent: size as u64, connection: None }
    }
}

impl Work for Requests {
    async fn ready(&mut self) -> Result<(), Failure> {
        if self.connection.is_none() && !self.fresh {
            self.connection = Some(Http::new(self.target.connect(self.source).await?));
        }
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Http::new(self.target.connect(self.source).await?),
        };
        connection.send(&self.request).await?;
        let answer = connection.answer(None).await?;
        if answer.keeps && !self.fresh {
            self.connection = Some(connection);
        }
        match answer.status {
            200..400 => Ok(self.sent + answer.length),
            status => Err(Failure(format!("status {status}").into())),
        }
    }
}
