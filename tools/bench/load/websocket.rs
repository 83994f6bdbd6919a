//! WebSocket as a client speaks it (RFC 6455): one that echoes, and frames for those who build on it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Work;
use super::http::Http;
use super::stream::{Failure, Stream, Target};

/// An open WebSocket.
pub(crate) struct WebSocket {
    stream: Stream,
    buffer: Vec<u8>,
    frame: Vec<u8>,
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

impl WebSocket {
    pub(crate) async fn open(target: &Target, source: usize, path: &str) -> Result<Self, Failure> {
        let mut http = Http::new(target.connect(source).await?);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            target.host
        );
        http.send(request.as_bytes()).await?;
        let answer = http.answer(None).await?;
        if answer.status != 101 {
            return Err(Failure(format!("upgrade: status {}", answer.status).into()));
        }
        let (stream, buffer) = http.into_parts();
        Ok(Self { stream, buffer, frame: Vec::new() })
    }

    pub(crate) async fn send_text(&mut self, text: &str) -> Result<(), Failure> {
        self.send(TEXT, text.as_bytes()).await
    }

    pub(crate) async fn send_binary(&mut self, payload: &[u8]) -> Result<(), Failure> {
        self.send(BINARY, payload).await
    }

    /// Says goodbye with code 1000.
    pub(crate) async fn close(&mut self) -> Result<(), Failure> {
        self.send(CLOSE, &1000u16.to_be_bytes()).await
    }

    /// The payload of the next data frame; it stays until the next call.
    pub(crate) async fn receive(&mut self) -> Result<&[u8], Failure> {
        loop {
            if let Some((start, end)) = frame(&self.buffer) {
                self.frame.clear();
                self.frame.extend_from_slice(&self.buffer[start..end]);
                let first = self.buffer[0];
                self.buffer.drain(..end);
                match first & 0x0f {
                    0x0..=0x2 => return Ok(&self.frame),
                    0x8 => return Err("the WebSocket was closed".into()),
                    _ => continue,
                }
            }
            self.buffer.reserve(1024);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the WebSocket was cut".into());
            }
        }
    }

    /// Masked with zeros: allowed, and nothing for us to do.
    async fn send(&mut self, first: u8, payload: &[u8]) -> Result<(), Failure> {
        self.frame.clear();
        self.frame.push(first);
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length @ 0..=125), _) => self.frame.push(0x80 | length),
            (_, Ok(length)) => {
                self.frame.push(0x80 | 126);
                self.frame.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                self.frame.push(0x80 | 127);
                self.frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        self.frame.extend_from_slice(&[0; 4]);
        self.frame.extend_from_slice(payload);
        self.stream.write_all(&self.frame).await?;
        self.stream.flush().await?;
        Ok(())
    }
}

/// Where the payload of a server's first frame begins and ends, when it is all there.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (start, length) = match bytes.get(1)? & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        length => (2, u64::from(length)),
    };
    let end = start + usize::try_from(length).ok()?;
    (bytes.len() >= end).then_some((start, end))
}

/// Sends a message and waits for it to come back, over and over.
pub(crate) struct Echo {
    pub target: Target,
    pub source: usize,
    pub path: String,
    pub message: Vec<u8>,
    socket: Option<WebSocket>,
}

impl Echo {
    pub(crate) fn new(target: &Target, source: usize, path: &str, size: usize) -> Self {
        Self { target: target.clone(), source, path: path.to_owned(), message: vec![b'x'; size], socket: None }
    }
}

impl Work for Echo {
    async fn ready(&mut self) -> Result<(), Failure> {
        if self.socket.is_none() {
            self.socket = Some(WebSocket::open(&self.target, self.source, &self.path).await?);
        }
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        self.ready().await?;
        // A socket that failed is not used again.
        let mut socket = self.socket.take().ok_or(Failure::from("no socket"))?;
        socket.send_binary(&self.message).await?;
        let back = socket.receive().await?;
        if back != self.message {
            return Err("another message came back".into());
        }
        self.socket = Some(socket);
        Ok(self.message.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::frame;

    #[test]
    fn a_frame_is_found_once_it_is_whole() {
        let mut long = vec![0x82, 126, 1, 0];
        assert_eq!(frame(&long), None);
        long.resize(4 + 256, 7);
        assert_eq!(frame(&long), Some((4, 260)));
        assert_eq!(frame(b"\x81\x02hi\x81"), Some((2, 4)));
        assert_eq!(frame(b"\x81"), None);
    }
}
