//! A raw HTTP client for byte-level cases: it sends just what it is told and shows just what came.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::within;

/// A byte stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection.
pub struct Client {
    stream: Box<dyn Stream>,
    held: Vec<u8>,
}

/// One answer, taken apart.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order of the wire.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The head as it came.
    pub head: String,
}

impl Answer {
    /// Takes a head apart; the body is still to come.
    pub fn of(head: &[u8]) -> Self {
        let head = String::from_utf8_lossy(head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status, headers, body: Vec::new(), head }
    }

    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection whose bytes leave at once, each write in a packet of its own.
pub async fn tcp(address: SocketAddr) -> TcpStream {
    let stream = within("connect", TcpStream::connect(address)).await.unwrap();
    // A peer that refuses at once may have reset the connection already.
    let _ = stream.set_nodelay(true);
    stream
}

/// Connects and waits for the end; true when it is a reset, however early that comes.
pub async fn is_reset(address: SocketAddr) -> bool {
    let ended = async { TcpStream::connect(address).await?.read(&mut [0]).await };
    let ended = within("the end of the connection", ended).await;
    ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// A body of which every part looks different.
pub fn numbered(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + (at % 23) as u8).collect()
}

/// A body as chunks of this size.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut chunks = Vec::new();
    for chunk in body.chunks(size) {
        chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    chunks
}

/// Makes the kernel reset the connection when it is dropped.
pub(super) fn to_reset(stream: TcpStream) -> TcpStream {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    stream
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(tcp(address).await)
    }

    /// A connection that is reset when it is dropped, instead of closed.
    pub async fn connect_to_reset(address: SocketAddr) -> Self {
        Self::over(to_reset(tcp(address).await))
    }

    /// Connects from 127.0.0.x.
    pub async fn connect_from(last: u8, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into()).unwrap();
        Self::over(within("connect", socket.connect(address)).await.unwrap())
    }

    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), held: Vec::new() }
    }

    /// The stream itself, of which nothing has been read yet.
    pub fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("send", self.stream.write_all(bytes.as_ref())).await.unwrap();
        within("flush", self.stream.flush()).await.unwrap();
    }

    /// Sends what the peer may refuse to take.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Ends the client's side.
    pub async fn finish(&mut self) {
        within("shutdown", self.stream.shutdown()).await.unwrap();
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.get_with(path, "").await
    }

    /// A GET with more fields, each ending in CRLF.
    pub async fn get_with(&mut self, path: &str, fields: &str) -> Answer {
        let host = if fields.to_ascii_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
        self.send(format!("GET {path} HTTP/1.1\r\n{host}{fields}\r\n")).await;
        self.answer().await
    }

    pub async fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send([head.as_bytes(), body].concat()).await;
        self.answer().await
    }

    /// Sends a request that may not be answered; `None` where the connection ends before a whole answer, whose body has to
    /// have a length.
    pub async fn try_ask(&mut self, request: impl AsRef<[u8]>) -> Option<Answer> {
        self.try_send(request).await.ok()?;
        let mut answer = Answer::of(&within("an answer", self.some_until(b"\r\n\r\n")).await?);
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = within("its body", self.some_of(length)).await?;
        Some(answer)
    }

    /// Reads one answer, with its body as the head delimits it. 101 and 1xx have none.
    pub async fn answer(&mut self) -> Answer {
        let mut answer = Answer::of(&self.read_until(b"\r\n\r\n").await);
        let status = answer.status;
        answer.body = match (answer.header("content-length"), answer.header("transfer-encoding")) {
            _ if status < 200 || status == 204 || status == 304 => Vec::new(),
            (Some(length), _) => self.read(length.parse().unwrap()).await,
            (None, Some(_)) => self.chunks().await,
            (None, None) => self.read_all().await,
        };
        answer
    }

    /// A chunked body, put together; trailers are skipped.
    pub async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_until(b"\r\n").await;
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
            if size == 0 {
                while self.read_until(b"\r\n").await != b"\r\n" {}
                return body;
            }
            body.extend(self.read(size).await);
            self.read_until(b"\r\n").await;
        }
    }

    /// Exactly this many bytes.
    pub async fn read(&mut self, length: usize) -> Vec<u8> {
        while self.held.len() < length {
            assert!(self.more().await > 0, "the stream ended after {}", self.tail());
        }
        self.held.drain(..length).collect()
    }

    /// Everything up to and including `end`.
    pub async fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.held.windows(end.len()).position(|window| window == end) {
                return self.held.drain(..at + end.len()).collect();
            }
            assert!(self.more().await > 0, "the stream ended after {}", self.tail());
        }
    }

    /// Everything until the stream ends, be it by a FIN or by a reset.
    pub async fn read_all(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.held)
    }

    /// The last of what has come, for people.
    fn tail(&self) -> String {
        let from = self.held.len().saturating_sub(500);
        format!("{} bytes, the last of them {:?}", self.held.len(), String::from_utf8_lossy(&self.held[from..]))
    }

    /// Everything until the end, or the error that cuts it.
    pub async fn ending(&mut self) -> std::io::Result<Vec<u8>> {
        within("the end of the stream", self.stream.read_to_end(&mut self.held)).await?;
        Ok(std::mem::take(&mut self.held))
    }

    /// Listens for a while; true when nothing came and the stream did not end. For what must not happen.
    pub async fn stays_silent(&mut self, time: Duration) -> bool {
        self.held.is_empty() && tokio::time::timeout(time, self.more()).await.is_err()
    }

    async fn more(&mut self) -> usize {
        let mut buffer = vec![0; 64 * 1024];
        let read = within("bytes of the peer", self.stream.read(&mut buffer)).await.unwrap_or(0);
        self.held.extend_from_slice(&buffer[..read]);
        read
    }
}

/// What a server does with a peer that may leave at any time, and be silent for long.
impl Client {
    /// What has come, or the next that comes; `None` at the end.
    pub async fn some(&mut self) -> Option<Vec<u8>> {
        if self.held.is_empty() && !self.wait_more().await {
            return None;
        }
        Some(std::mem::take(&mut self.held))
    }

    pub async fn some_of(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.held.len() < length {
            if !self.wait_more().await {
                return None;
            }
        }
        Some(self.held.drain(..length).collect())
    }

    pub async fn some_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.held.windows(end.len()).position(|window| window == end) {
                return Some(self.held.drain(..at + end.len()).collect());
            }
            if !self.wait_more().await {
                return None;
            }
        }
    }

    pub async fn try_finish(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    async fn wait_more(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.held.extend_from_slice(&buffer[..read]);
        read > 0
    }
}
