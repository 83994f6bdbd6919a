//! One question to the admin address of a running gateway.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::http::client;
use crate::http::write::HeadWriter;
use crate::text::Text;

/// Longest time for the connection, and for the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read at most.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// An answer: its status and its body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks `admin`, an address such as `127.0.0.1:9901`, with or without `http://` before it, or `unix:/run/admin.sock`.
pub(super) fn ask(admin: &str, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let mut request = HeadWriter::request(method, path, 1);
    request.field("host", "localhost");
    request.field("connection", "close");
    request.field("content-length", Text::number(body.len() as u64).as_bytes());
    let request = request.end_with(body);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(path) = admin.strip_prefix("unix:") {
            return exchange(within(UnixStream::connect(path)).await?, &request).await;
        }
        let address = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
        exchange(within(TcpStream::connect(address)).await?, &request).await
    })
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> io::Result<Answer> {
    let answer = async { client::ask(&mut stream, request, false, MOST_BYTES).await.map_err(io::Error::other) };
    let client::Answer { status, body, .. } = within(answer).await?;
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
