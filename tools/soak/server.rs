//! The servers behind the gateway: processes that can be killed, stalled and started again on the same ports.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::Error;

/// A server as the gateway's configuration names it.
pub(crate) struct Server {
    pub name: &'static str,
    pub http: SocketAddr,
    pub raw: SocketAddr,
    process: Child,
}

pub(crate) type Servers = Vec<Server>;

/// Starts one for each name; the kernel chooses their ports, which they keep.
pub(crate) async fn start(names: [&'static str; 3]) -> Result<Servers, Error> {
    let mut servers = Servers::new();
    for name in names {
        let (http, raw) = (free_port().await?, free_port().await?);
        servers.push(Server { name, http, raw, process: spawn(name, http, raw).await? });
    }
    Ok(servers)
}

/// A port that is free now. Another program could take it before the server does, and the run would end with that.
async fn free_port() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

async fn spawn(name: &str, http: SocketAddr, raw: SocketAddr) -> Result<Child, Error> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(["server", name, &http.to_string(), &raw.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let said = process.stdout.take().ok_or("no standard output")?;
    let ready = BufReader::new(said).lines().next_line().await?;
    ready.ok_or_else(|| format!("server {name} did not start"))?;
    Ok(process)
}

impl Server {
    pub(crate) async fn kill(&mut self) -> Result<(), Error> {
        Ok(self.process.kill().await?)
    }

    pub(crate) async fn start_again(&mut self) -> Result<(), Error> {
        self.process = spawn(self.name, self.http, self.raw).await?;
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let process = self.process.id().ok_or("the server has ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(process)?), signal)?)
    }
}

/// The server itself, until standard input ends.
pub(crate) async fn run(name: String, http: SocketAddr, raw: SocketAddr) -> Result<(), Error> {
    let name: &'static str = name.leak();
    let (http, raw) = (TcpListener::bind(http).await?, TcpListener::bind(raw).await?);
    let (layer, sockets) =
        SocketIo::builder().ping_interval(Duration::from_secs(5)).ping_timeout(Duration::from_secs(20)).build_layer();
    sockets.ns("/", move |socket: SocketRef| async move {
        socket.on("seq", move |Data(number): Data<u64>, ack: AckSender| async move {
            ack.send(&(name, number)).ok();
        });
    });
    let sign = HeaderValue::from_static(name);
    let app = Router::new()
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/bytes/{count}", get(|Path(count): Path<usize>| async move { vec![b'x'; count.min(64 << 20)] }))
        .route(
            "/socket",
            any(|State(name): State<&'static str>, upgrade: WebSocketUpgrade| async move {
                upgrade.on_upgrade(move |socket| echo(name, socket))
            }),
        )
        .fallback(move || async move { name })
        .with_state(name)
        .layer(layer)
        .layer(map_response(move |mut answer: Response| {
            answer.headers_mut().insert("x-server", sign.clone());
            async { answer }
        }));
    println!("ready");
    let (over, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = over.send(());
    });
    tokio::select! {
        served = axum::serve(http, app) => Ok(served?),
        () = greet_and_echo(name, raw) => Ok(()),
        _ = ended => Ok(()),
    }
}

/// Says who it is, then echoes.
async fn echo(name: &str, mut socket: WebSocket) {
    let mut next = Some(Message::Text(name.into()));
    while let Some(message) = next {
        if socket.send(message).await.is_err() {
            return;
        }
        next = loop {
            match socket.recv().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => break Some(message),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => break None,
            }
        };
    }
}

async fn greet_and_echo(name: &'static str, listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = raw_echo(name, stream).await;
            });
        }
    }
}

async fn raw_echo(name: &str, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..count]).await?;
    }
}
