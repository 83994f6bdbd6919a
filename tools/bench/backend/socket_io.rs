//! Socket.IO 4 over Engine.IO 4, as much as clients need who poll, upgrade, and send events with acknowledgements.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::frames::{self, TEXT};

/// Packets of one poll are kept apart by this.
const BETWEEN: &str = "\x1e";
/// What a poll waits at most; clients that left are forgotten by then.
const LONGEST_POLL: Duration = Duration::from_secs(60);
const UNKNOWN: (&str, &str) = ("400 Bad Request", r#"{"code":1,"message":"Session ID unknown"}"#);

/// The sessions of one server.
#[derive(Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    last: AtomicU64,
}

#[derive(Default)]
struct Session {
    /// Packets for the next poll.
    waiting: Mutex<Vec<String>>,
    told: Notify,
}

impl Session {
    fn tell(&self, packet: String) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(packet);
        self.told.notify_one();
    }

    async fn next(&self) -> Option<String> {
        let told = async {
            loop {
                let packets = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
                if !packets.is_empty() {
                    return packets.join(BETWEEN);
                }
                self.told.notified().await;
            }
        };
        tokio::time::timeout(LONGEST_POLL, told).await.ok()
    }
}

impl Sessions {
    fn find(&self, query: &str) -> Option<Arc<Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(sid(query)?).cloned()
    }

    fn forget(&self, query: &str) {
        if let Some(sid) = sid(query) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(sid);
        }
    }

    fn begin(&self) -> String {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let sid = format!("{:016x}{number:04}", rand::random::<u64>());
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(sid.clone(), Arc::default());
        sid
    }
}

fn sid(query: &str) -> Option<&str> {
    query.split('&').find_map(|parameter| parameter.strip_prefix("sid="))
}

/// Answers a poll, or takes what a client posts.
pub(super) async fn polled(query: &str, posted: Option<Vec<u8>>, sessions: &Sessions) -> (&'static str, String) {
    if sid(query).is_none() {
        let sid = sessions.begin();
        let rest = r#""upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000"#;
        return ("200 OK", format!(r#"0{{"sid":"{sid}",{rest}}}"#));
    }
    let Some(session) = sessions.find(query) else { return (UNKNOWN.0, UNKNOWN.1.to_owned()) };
    if let Some(packets) = posted {
        for packet in String::from_utf8_lossy(&packets).split(BETWEEN) {
            if let Some(answer) = answer(packet) {
                session.tell(answer);
            }
            if packet == "1" {
                sessions.forget(query);
            }
        }
        return ("200 OK", "ok".to_owned());
    }
    match session.next().await {
        Some(packets) => ("200 OK", packets),
        None => {
            sessions.forget(query);
            (UNKNOWN.0, UNKNOWN.1.to_owned())
        }
    }
}

/// What a packet of a client's is answered by.
fn answer(packet: &str) -> Option<String> {
    let (kind, rest) = (packet.get(..2).unwrap_or(packet), packet.get(2..).unwrap_or(""));
    match kind {
        "40" => Some(format!(r#"40{{"sid":"{:016x}"}}"#, rand::random::<u64>())),
        "42" => {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            (digits > 0).then(|| format!(r#"43{}["thank you"]"#, &rest[..digits]))
        }
        _ => None,
    }
}

/// Serves a session that has moved to a WebSocket, until it ends.
pub(super) async fn upgraded(
    mut stream: TcpStream,
    mut buffer: Vec<u8>,
    query: &str,
    sessions: &Sessions,
) -> io::Result<()> {
    let Some(session) = sessions.find(query) else { return Ok(()) };
    let mut written = Vec::new();
    let result = loop {
        let mut used = 0;
        let mut closes = false;
        loop {
            let frame = match frames::take(&mut buffer[used..]) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => {
                    closes = true;
                    break;
                }
            };
            let payload = String::from_utf8_lossy(&buffer[used + frame.start..used + frame.end]);
            if frame.opcode() == 8 {
                closes = true;
            } else if payload == "2probe" {
                frames::put(&mut written, TEXT, b"3probe");
                // The poll that is under way ends with a packet that says nothing.
                session.tell("6".to_owned());
            } else if let Some(answer) = answer(&payload) {
                frames::put(&mut written, TEXT, answer.as_bytes());
            }
            used += frame.end;
        }
        buffer.drain(..used);
        let result = stream.write_all(&written).await;
        written.clear();
        if closes || result.is_err() {
            break result;
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    sessions.forget(query);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_polls_joins_and_is_acknowledged() {
        let sessions = Sessions::default();
        let (status, handshake) = polled("EIO=4&transport=polling", None, &sessions).await;
        assert_eq!(status, "200 OK");
        let sid = handshake.split('"').nth(3).unwrap();
        let query = format!("EIO=4&transport=polling&sid={sid}");
        let posted = "40\x1e427[\"message\"]".as_bytes().to_vec();
        assert_eq!(polled(&query, Some(posted), &sessions).await, ("200 OK", "ok".to_owned()));
        let (_, packets) = polled(&query, None, &sessions).await;
        assert!(packets.starts_with("40{\"sid\":") && packets.ends_with("\x1e437[\"thank you\"]"), "{packets}");
    }

    #[tokio::test]
    async fn a_session_of_another_server_is_unknown() {
        let sessions = Sessions::default();
        assert_eq!(polled("EIO=4&sid=elsewhere", None, &sessions).await.0, "400 Bad Request");
    }
}
