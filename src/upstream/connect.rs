//! Opens connections to servers, for tunnels and for checks.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{Endpoint, Server, Upstream};
use crate::transport::{Socket, Transport};

impl Upstream {
    /// Opens a connection to a server, TLS included, within `timeouts.connect`. A host with several addresses is tried
    /// under each of them, and the one that answered comes first from then on.
    pub async fn connect(&self, server: &Server) -> io::Result<Transport> {
        let limit = self.config.timeouts.connect;
        let connecting = async {
            let socket = open(server, limit).await?;
            socket.tune();
            let Some(tls) = &self.tls else {
                return Ok(Transport::Plain(socket));
            };
            let name = tls.server_name(server).map_err(io::Error::other)?;
            let stream = TlsConnector::from(tls.client_config().clone()).connect(name, socket).await?;
            Ok(Transport::Tls(Box::new(TlsStream::Client(stream))))
        };
        within(limit, connecting).await
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
                    let mut order = addresses.to_vec();
                    order[..=rank].rotate_right(1);
                    server.set_addresses(order);
                }
                return Ok(Socket::Tcp(stream));
            }
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
