//! One question to the admin address of a running gateway.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::http::write::HeadWriter;

const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read at most.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// An answer: its status and its body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks `admin`, an address such as `127.0.0.1:9901`, with or without `http://` before it.
pub(super) fn ask(admin: &str, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let admin = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let address = admin.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = HeadWriter::request(method, path, 1);
    request.field("host", "admin");
    request.field("connection", "close");
    request.field("content-length", body.len().to_string());
    stream.write_all(&request.end_with(body))?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("this is no answer of an admin address"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok(Answer { status, body })
}
