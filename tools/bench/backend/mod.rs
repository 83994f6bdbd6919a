//! What stands behind the gateways: a light server of answers of any size and delay, WebSockets that echo, Socket.IO
//! sessions, and bytes.
//!
//! | path | |
//! |---|---|
//! | `/bytes/N` | an answer with a body of N bytes |
//! | `/delay/MS/N` | the same, after so many milliseconds |
//! | `/hold` | no answer, until the client leaves |
//! | `/held` | how many of them there are |
//! | `/echo` | a WebSocket that sends back what it gets |
//! | `/socket.io/` | Engine.IO 4: polling, upgrade, events that are acknowledged |
//!
//! On the TCP port, a number of 8 bytes (big end first) is answered by as many bytes.

mod frames;
mod http;
mod socket_io;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A running backend.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// Two servers of the same kind, each with sessions of its own.
    pub http: Vec<SocketAddr>,
    pub tcp: SocketAddr,
}

/// Binds and serves, in tasks of the current runtime.
pub(crate) fn start(http: &[SocketAddr], tcp: SocketAddr) -> io::Result<Addresses> {
    let mut addresses = Addresses { http: Vec::new(), tcp };
    for &address in http {
        let listener = listen(address)?;
        addresses.http.push(listener.local_addr()?);
        let sessions = Arc::new(socket_io::Sessions::default());
        tokio::spawn(accept(listener, move |stream| http::serve(stream, Arc::clone(&sessions))));
    }
    let listener = listen(tcp)?;
    addresses.tcp = listener.local_addr()?;
    tokio::spawn(accept(listener, bulk));
    Ok(addresses)
}

/// Serves until standard input ends, so that a backend never outlives who started it; its addresses go to standard
/// output.
pub(crate) async fn run(http: &[SocketAddr], tcp: SocketAddr) -> io::Result<()> {
    let addresses = start(http, tcp)?;
    let mut out = io::stdout();
    for address in &addresses.http {
        writeln!(out, "listening http {address}")?;
    }
    writeln!(out, "listening tcp {}", addresses.tcp)?;
    out.flush()?;
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || ended.send(io::copy(&mut io::stdin(), &mut io::sink())));
    end.await.map_or(Ok(()), |copied| copied.map(drop))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(16 * 1024)
}

async fn accept<F, S>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if stream.set_nodelay(true).is_ok() {
                    // A client that leaves is none of our business.
                    let served = serve(stream);
                    tokio::spawn(async move { served.await.unwrap_or(()) });
                }
            }
            // Out of descriptors: those that close make room.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

async fn bulk(mut stream: TcpStream) -> io::Result<()> {
    static BYTES: [u8; 128 * 1024] = [b'b'; 128 * 1024];
    loop {
        let mut left = stream.read_u64().await?;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(BYTES.len());
            stream.write_all(&BYTES[..most]).await?;
            left -= most as u64;
        }
    }
}
