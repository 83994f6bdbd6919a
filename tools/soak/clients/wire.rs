//! One connection to the gateway, plain or over TLS, that shows just what came.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Where clients come in.
#[derive(Clone)]
pub(crate) struct Door {
    pub address: SocketAddr,
    pub tls: Option<TlsConnector>,
}

pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(crate) struct Wire {
    stream: Box<dyn Io>,
    held: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Waits for what has to come.
pub(super) async fn patiently<T>(what: &str, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: not within {PATIENCE:?}"))))
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Wire {
    pub(crate) async fn connect(door: &Door, source: usize) -> io::Result<Self> {
        Ok(Self { stream: Self::stream(door, source).await?, held: Vec::new() })
    }

    /// Connects; on IPv4 each `source` comes from an address of its own.
    pub(super) async fn stream(door: &Door, source: usize) -> io::Result<Box<dyn Io>> {
        let socket = if door.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if door.address.is_ipv4() {
            let [third, fourth] = [source / 200 % 200 + 10, source % 200 + 10].map(|part| part as u8);
            socket.bind(([127, 0, third, fourth], 0).into())?;
        }
        let stream = patiently("connecting", socket.connect(door.address)).await?;
        stream.set_nodelay(true)?;
        match &door.tls {
            None => Ok(Box::new(stream)),
            Some(connector) => {
                let name = ServerName::try_from("soak.test").map_err(|_| bad("no name"))?;
                Ok(Box::new(patiently("the TLS handshake", connector.connect(name, stream)).await?))
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = &mut self.stream;
        patiently("sending", async {
            stream.write_all(bytes).await?;
            stream.flush().await
        })
        .await
    }

    /// Ends this side.
    pub(crate) async fn finish(&mut self) {
        let _ = timeout(PATIENCE, self.stream.shutdown()).await;
    }

    /// What comes next, whatever it is; empty at the end.
    pub(crate) async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.held.is_empty() {
            match self.more().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(std::mem::take(&mut self.held))
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.held.len() < length {
            self.more().await?;
        }
        Ok(self.held.drain(..length).collect())
    }

    pub(crate) async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.held.windows(end.len()).position(|window| window == end) {
                return Ok(self.held.drain(..at + end.len()).collect());
            }
            self.more().await?;
        }
    }

    /// The head of the next answer that is no interim one.
    pub(crate) async fn head(&mut self) -> io::Result<Head> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.trim_end().split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(|| bad("no status"))?;
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Ok(Head { status, fields })
    }

    /// The body that goes with a head.
    pub(crate) async fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        if let Some(length) = head.field("content-length") {
            return self.exactly(length.parse().map_err(|_| bad("no length"))?).await;
        }
        let mut body = Vec::new();
        if head.field("transfer-encoding").is_none() {
            return Ok(body);
        }
        loop {
            let line = self.until(b"\r\n").await?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).map_err(|_| bad("no chunk"))?;
            body.extend(self.exactly(size).await?);
            self.exactly(2).await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        let count = patiently("an answer", self.stream.read(&mut bytes)).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "cut"));
        }
        self.held.extend_from_slice(&bytes[..count]);
        Ok(())
    }
}
