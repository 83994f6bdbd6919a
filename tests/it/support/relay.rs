//! A way to a server that the test can close and open, with a health check of its own on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{A_WHILE, Client, Scripted, eventually};

/// Carries connections to a server as they are; only requests for `/health` end here.
pub struct Relay {
    way: Option<Scripted>,
    address: SocketAddr,
    server: SocketAddr,
    well: Arc<AtomicBool>,
    swallowing: Option<(TcpListener, Vec<TcpStream>)>,
}

impl Relay {
    /// An open way to a server that says that it is well.
    pub async fn start(port: u16) -> Self {
        let server = ([127, 0, 0, 1], port).into();
        let well = Arc::new(AtomicBool::new(true));
        let way = lay(([127, 0, 0, 1], 0).into(), server, Arc::clone(&well)).await;
        Self { address: way.address(), way: Some(way), server, well, swallowing: None }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `/health` answers from now on: 200 or 503.
    pub fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::SeqCst);
    }

    /// Ends every connection, and refuses new ones.
    pub fn close(&mut self) {
        self.way = None;
    }

    /// Ends every connection, and answers nobody who wants a new one, as a broken network does.
    pub async fn swallow(&mut self) {
        self.way = None;
        // The way ends in a moment, and then its address is free.
        let mut bound = None;
        eventually("its address is free", async || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            bound = socket.bind(self.address).is_ok().then_some(socket);
            bound.is_some()
        })
        .await;
        // Its queue is full with these, and the kernel drops who comes next.
        let listener = bound.unwrap().listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(connection) = tokio::time::timeout(A_WHILE, TcpStream::connect(self.address)).await {
            waiting.push(connection.unwrap());
        }
        self.swallowing = Some((listener, waiting));
    }

    pub async fn open(&mut self) {
        self.swallowing = None;
        self.way = Some(lay(self.address, self.server, Arc::clone(&self.well)).await);
    }
}

async fn lay(address: SocketAddr, server: SocketAddr, well: Arc<AtomicBool>) -> Scripted {
    Scripted::start_at(address, move |client, _| carry(client, server, Arc::clone(&well))).await
}

async fn carry(mut client: Client, server: SocketAddr, well: Arc<AtomicBool>) {
    let Some(first) = client.some().await else { return };
    if first.starts_with(b"GET /health ") {
        let status = if well.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
        let _ = client.try_send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    if server.set_nodelay(true).is_ok() && server.write_all(&first).await.is_ok() {
        let _ = copy_bidirectional(&mut client.into_stream(), &mut server).await;
    }
}
