//! How the gateway lets go: what it finishes, what it tells, and when it leaves.

mod goodbye;
mod request;
mod tunnel;

use std::net::SocketAddr;

use nix::sys::signal::Signal::SIGTERM;
use tokio::net::TcpStream;

use crate::support::{Gateway, Setup, eventually};

/// A gateway before one server that is checked; `more` is more of the file.
async fn gateway(server: SocketAddr, more: &str) -> Gateway {
    Setup::before(&[server]).more(more).start().await
}

/// Sends SIGTERM and waits until it has been noticed.
async fn stop(gateway: &Gateway) {
    gateway.signal(SIGTERM);
    gateway.log_line("stopping: ").await;
}

async fn refuses(gateway: &Gateway) {
    eventually("new connections are refused", async || TcpStream::connect(gateway.address("web")).await.is_err()).await;
}

/// So slow that nobody has a turn while the test runs.
const FOR_HOURS: &str = "drain: { over: 10h, deadline: 20h }";
