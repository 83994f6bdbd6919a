//! Servers in this process, to stand behind the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::client::to_reset;
use super::websocket::switch;
use super::{Client, tls, within};

/// A server that does what the test says with each connection.
pub struct Scripted {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    running: AbortHandle,
}

impl Scripted {
    /// `serve` is given each connection and its number, from 0.
    pub async fn start<F>(serve: impl Fn(Client, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at(([127, 0, 0, 1], 0).into(), serve).await
    }

    /// At an address of the test's choice, such as the one of a server that has been stopped.
    pub async fn start_at<F>(address: SocketAddr, serve: impl Fn(Client, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1024).unwrap();
        Self::accept_from(listener, move |stream, number| serve(Client::over(stream), number))
    }

    /// Behind TLS; who fails the handshake is not served.
    pub async fn start_tls<F>(
        config: Arc<ServerConfig>,
        serve: impl Fn(Client, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serve = Arc::new(serve);
        Self::accept_from(listener, move |stream, number| {
            let (config, serve) = (Arc::clone(&config), Arc::clone(&serve));
            async move {
                if let Some(client) = tls::accept(stream, config).await {
                    serve(client, number).await;
                }
            }
        })
    }

    fn accept_from<F>(listener: TcpListener, serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let running = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream, count.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, accepted, running: running.abort_handle() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far, health checks included.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Stopping a server ends its connections too.
impl Drop for Scripted {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A server that the test plays by hand: connections wait until they are accepted.
pub struct Puppet(TcpListener);

impl Puppet {
    pub async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection.
    pub async fn accept(&self) -> Client {
        Client::over(self.accepted().await)
    }

    /// The next connection, behind TLS.
    pub async fn accept_tls(&self, config: Arc<ServerConfig>) -> Client {
        within("TLS handshake", tls::accept(self.accepted().await, config)).await.expect("a handshake")
    }

    /// The next connection; it is reset when it is dropped, instead of closed.
    pub async fn accept_to_reset(&self) -> Client {
        Client::over(to_reset(self.accepted().await))
    }

    /// Whether nobody connects for a while.
    pub async fn stays_alone(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.0.accept()).await.is_err()
    }

    async fn accepted(&self) -> TcpStream {
        let (stream, _) = within("a connection to the server", self.0.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }
}

/// An address whose port is taken, and where every connection is refused.
pub struct Refusing(tokio::net::TcpSocket);

impl Refusing {
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// An HTTP server that says who it is and shows what it was sent; it opens a WebSocket for whoever asks and echoes
/// every byte after that.
pub struct Echo(Scripted);

impl Echo {
    pub async fn start(id: &'static str) -> Self {
        Self(Scripted::start(move |client, _| echo(id, client)).await)
    }

    pub async fn start_tls(config: Arc<ServerConfig>, id: &'static str) -> Self {
        Self(Scripted::start_tls(config, move |client, _| echo(id, client)).await)
    }

    pub async fn start_at(address: SocketAddr, id: &'static str) -> Self {
        Self(Scripted::start_at(address, move |client, _| echo(id, client)).await)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    pub fn accepted(&self) -> usize {
        self.0.accepted()
    }
}

/// Answers `id`, a line feed, and the request as it came: head and body. A connection that ends is just over.
pub async fn echo(id: &'static str, mut client: Client) {
    while let Some(request) = client.request().await {
        let head = String::from_utf8_lossy(&request.head).into_owned();
        if head.to_ascii_lowercase().contains("\r\nupgrade: websocket") {
            let answer = switch(&request.head).replace("\r\n\r\n", &format!("\r\nX-Server: {id}\r\n\r\n"));
            if client.try_send(answer).await.is_ok() {
                while let Some(bytes) = client.some().await {
                    if client.try_send(bytes).await.is_err() {
                        return;
                    }
                }
                let _ = client.try_finish().await;
            }
            return;
        }
        let body = [id.as_bytes(), b"\n", &request.head, &request.body].concat();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Server: {id}\r\n\r\n", body.len());
        if client.try_send([answer.as_bytes(), &body].concat()).await.is_err() {
            return;
        }
    }
}

/// Says `hello `, then echoes every byte; no HTTP.
pub async fn greet(mut client: Client) {
    if client.try_send("hello ").await.is_err() {
        return;
    }
    while let Some(bytes) = client.some().await {
        if client.try_send(bytes).await.is_err() {
            return;
        }
    }
    let _ = client.try_finish().await;
}

/// One request as a server reads it.
pub struct Received {
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

/// The server's side of a connection.
impl Client {
    /// The next request; `None` when the peer has gone.
    pub async fn request(&mut self) -> Option<Received> {
        let head = self.some_until(b"\r\n\r\n").await?;
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length:")).map(|n| n.trim().parse().unwrap());
        let mut body = Vec::new();
        if let Some(length) = length {
            body = self.some_of(length).await?;
        } else if text.contains("transfer-encoding: chunked") {
            body = self.some_until(b"0\r\n\r\n").await?;
        }
        Some(Received { head, body })
    }
}
