//! Opens connections to servers, for tunnels and for checks.

pub(crate) mod http2;
mod tls;

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

pub use tls::ServerTls;

use crate::address::ServerAddress;
use crate::transport::cause::is_refusal;
use crate::transport::{self, Socket, Transport};
use crate::upstream::config::HostHeader;
use crate::upstream::{Endpoint, Server, Upstream};
use crate::wire::proxy_protocol::Header;

impl Upstream {
    /// Opens a connection to a server, TLS included, within `timeouts.connect`. A host with several addresses is tried
    /// under each of them, and the one that answered comes first from then on. Where the servers are told of clients,
    /// `client` is who it is for; `None`: the gateway itself.
    pub async fn connect(&self, server: &Server, client: Option<&Header>) -> io::Result<Transport> {
        let limit = self.config.timeouts.connect;
        let connecting = async {
            let socket = self.open(server, client).await?;
            let Some(settings) = &self.tls else {
                return Ok(Transport::Plain(socket));
            };
            let name = settings.server_name(server).map_err(io::Error::other)?;
            transport::tls::connect(settings.client_config().clone(), name, socket).await.map(Transport::ToServer)
        };
        self.timed(within(limit, connecting)).await
    }

    /// Counts how long it has taken to open a connection.
    async fn timed<T>(&self, connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let began = Instant::now();
        let opened = connecting.await?;
        self.metrics.connect_seconds.observe(began.elapsed().as_secs_f64());
        Ok(opened)
    }

    /// As [`Self::connect`], without TLS, and with no limit for the whole of it.
    pub(crate) async fn open(&self, server: &Server, client: Option<&Header>) -> io::Result<Socket> {
        let opened = open(server, self.config.timeouts.connect).await;
        server.faults().note_refusal(opened.as_ref().err().is_some_and(|fault| is_refusal(fault)));
        let mut socket = opened?;
        socket.tune(&self.config.tcp_keepalive);
        if let Some(version) = self.config.proxy_protocol {
            let header = client.map_or_else(|| Header::default().write(version), |client| client.write(version));
            socket.write_all(&header).await?;
        }
        Ok(socket)
    }

    /// The `Host` of the gateway's own requests to a server: what the server is told of clients' requests where that is
    /// fixed, else the name that the servers are found by, else its address. A Unix socket has none that would do.
    pub(crate) fn own_host(&self, server: &Server) -> String {
        match (&self.config.host, self.config.servers.host(), server.address()) {
            (HostHeader::Set(host), ..) => host.clone(),
            (HostHeader::Keep, Some((host, port)), _) => format!("{host}:{port}"),
            (HostHeader::Keep, None, ServerAddress::Unix(_)) => "localhost".to_owned(),
            (HostHeader::Keep, None, address) => address.to_string(),
        }
    }
}

async fn open(server: &Server, limit: Duration) -> io::Result<Socket> {
    if let Some(Endpoint::Unix(path)) = server.endpoint() {
        return UnixStream::connect(path).await.map(Socket::Unix);
    }
    let addresses = server.addresses();
    // An address that swallows packets must leave time for the others.
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address yet", server.address()));
    for (rank, &address) in addresses.iter().enumerate() {
        match within(share, TcpStream::connect(address)).await {
            Ok(stream) => {
                if rank > 0 {
                    server.prefer_address(address);
                }
                return Ok(Socket::Tcp(stream));
            }
            // Where one of several addresses is silent, it is not certain that nobody is there.
            Err(fault) if rank > 0 && is_refusal(&fault) && !is_refusal(&last) => {}
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// Zero is no limit.
async fn within<T>(limit: Duration, connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    if limit.is_zero() {
        return connecting.await;
    }
    match timeout(limit, connecting).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    use super::*;
    use crate::upstream::testing::upstream;

    #[tokio::test]
    async fn a_unix_socket_is_a_server_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let upstream = upstream(json!({ "servers": [format!("unix:{}", path.display())] }));
        let server = &upstream.servers()[0];
        assert_eq!(server.endpoint(), Some(Endpoint::Unix(path.as_path().into())));
        let mut stream = upstream.connect(server, None).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        listener.accept().await.unwrap().0.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connect_ends_at_its_limit() {
        let silence = std::future::pending::<io::Result<()>>();
        let fault = within(Duration::from_secs(3), silence).await.unwrap_err();
        assert_eq!(fault.to_string(), "no connection within 3s");
        assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
        assert!(within(Duration::ZERO, async { Ok(()) }).await.is_ok());
    }
}
