//! What a check asks a server: a connection, an HTTP answer, or an Engine.IO session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::config::HostHeader;
use super::http_client::{Answer, ask, request};
use super::{Server, Upstream};
use crate::address::ServerAddress;
use crate::transport::Transport;
use crate::wire::engine_io::{Handshake, HandshakeReader, Progress, Revision, close_packet};

/// Looks at a server once. Both outcomes tell in a few words what was seen.
pub(super) trait Probe: Send + Sync {
    fn probe(&self) -> impl Future<Output = Result<String, String>> + Send;
}

/// Whom a probe looks at.
pub(super) struct Target {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    host: String,
}

/// The server takes connections, and speaks TLS where that is configured.
pub(super) struct Tcp(pub(super) Target);

/// The server answers a request as expected.
pub(super) struct Http(pub(super) Target);

/// The server opens a session, which is closed again at once.
pub(super) struct EngineIo {
    target: Target,
    /// What the server spoke last: there is no need to ask it the wrong way round every second.
    dialect: AtomicU8,
}

impl Target {
    pub(super) fn new(upstream: &Arc<Upstream>, server: &Arc<Server>) -> Self {
        let host = match (&upstream.config().host, server.address()) {
            (HostHeader::Set(host), _) => host.clone(),
            (HostHeader::Keep, ServerAddress::Unix(_)) => "localhost".to_owned(),
            (HostHeader::Keep, address) => address.to_string(),
        };
        Self { upstream: upstream.clone(), server: server.clone(), host }
    }

    async fn connect(&self) -> Result<Transport, String> {
        self.upstream.connect(&self.server).await.map_err(|fault| format!("can't connect: {fault}"))
    }

    fn request(&self, method: &str, target: &str, body: Option<&str>) -> Vec<u8> {
        request(method, target, &self.host, &self.upstream.config().health, body)
    }
}

impl Probe for Tcp {
    async fn probe(&self) -> Result<String, String> {
        self.0.connect().await.map(|_| "connected".to_owned())
    }
}

impl Probe for Http {
    async fn probe(&self) -> Result<String, String> {
        let health = &self.0.upstream.config().health;
        let path = health.path.as_deref().unwrap_or("/");
        let mut stream = self.0.connect().await?;
        let is_head = health.method == "HEAD";
        let answer = ask(&mut stream, &self.0.request(&health.method, path, None), is_head).await?;
        let status = answer.status;
        if !health.status.contains(status) {
            return Err(format!("answered {status}, expected {}", String::from(health.status)));
        }
        match &health.body {
            Some(text) if !String::from_utf8_lossy(&answer.body).contains(text.as_str()) => {
                Err(format!("answered {status} with a body that doesn't hold `{text}`"))
            }
            _ => Ok(format!("answered {status}")),
        }
    }
}

/// The generations of servers, in the order in which an unknown one is asked.
const REVISIONS: [Revision; 3] = [Revision::Eio4, Revision::Eio3, Revision::SocketIo09];

fn spoken(revision: Revision) -> &'static str {
    match revision {
        Revision::Eio4 => "Engine.IO 4",
        Revision::Eio3 => "Engine.IO 3",
        Revision::SocketIo09 => "Socket.IO 0.9",
    }
}

impl EngineIo {
    pub(super) fn new(target: Target) -> Self {
        Self { target, dialect: AtomicU8::new(0) }
    }

    /// Asks for a session in one revision; `None` if the server answers in no way that opens one.
    async fn open(&self, stream: &mut Transport, revision: Revision) -> Result<(Answer, Option<Session>), String> {
        let url = match revision {
            Revision::Eio4 => self.url("EIO=4&transport=polling"),
            Revision::Eio3 => self.url("EIO=3&transport=polling&b64=1"),
            Revision::SocketIo09 => format!("{}1/", self.path()),
        };
        let answer = ask(stream, &self.target.request("GET", &url, None), false).await?;
        let session = (answer.status == 200).then(|| read_session(&answer.body, revision)).flatten();
        Ok((answer, session))
    }

    /// Says goodbye, so that the server needn't keep the session until it times out. Nothing is lost if that fails.
    async fn close(&self, stream: &mut Transport, session: &Session) {
        let request = match session.revision {
            Revision::Eio4 => {
                let url = self.url(&format!("EIO=4&transport=polling&sid={}", session.sid));
                self.target.request("POST", &url, Some(close_packet(session.revision)))
            }
            Revision::Eio3 => {
                let url = self.url(&format!("EIO=3&transport=polling&sid={}", session.sid));
                self.target.request("POST", &url, Some(close_packet(session.revision)))
            }
            Revision::SocketIo09 => {
                let url = format!("{}1/xhr-polling/{}?disconnect=1", self.path(), session.sid);
                self.target.request("GET", &url, None)
            }
        };
        if let Err(fault) = ask(stream, &request, false).await {
            log::debug!("server {}: the check's session stays open: {fault}", self.target.server.name());
        }
    }

    fn path(&self) -> &str {
        self.target.upstream.config().health.path.as_deref().unwrap_or("/socket.io/")
    }

    fn url(&self, query: &str) -> String {
        let path = self.path();
        let joint = if path.contains('?') { '&' } else { '?' };
        format!("{path}{joint}{query}")
    }
}

impl Probe for EngineIo {
    async fn probe(&self) -> Result<String, String> {
        let mut stream = self.target.connect().await?;
        let known = usize::from(self.dialect.load(Relaxed));
        let mut seen = String::new();
        for step in 0..REVISIONS.len() {
            let rank = (known + step) % REVISIONS.len();
            let (answer, session) = self.open(&mut stream, REVISIONS[rank]).await?;
            if !answer.reusable {
                stream = self.target.connect().await?;
            }
            if let Some(session) = session {
                self.dialect.store(rank as u8, Relaxed);
                self.close(&mut stream, &session).await;
                return Ok(format!("opened a session of {}", spoken(session.revision)));
            }
            // What it says in its usual dialect tells most.
            if step == 0 {
                let text = String::from_utf8_lossy(&answer.body);
                let excerpt: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
                seen = format!("answered {} `{excerpt}`, expected an Engine.IO handshake", answer.status);
            }
        }
        Err(seen)
    }
}

/// A session that a server has opened for the check.
#[derive(Debug, PartialEq, Eq)]
struct Session {
    sid: String,
    revision: Revision,
}

/// Reads the answer to a handshake. Servers of Engine.IO 3 answer in their own framing whatever they were asked.
fn read_session(body: &[u8], asked: Revision) -> Option<Session> {
    let Progress::Found(Handshake { sid, .. }) = HandshakeReader::new().push(body) else {
        return None;
    };
    let revision = match (asked, body.first()) {
        (Revision::SocketIo09, _) => Revision::SocketIo09,
        (_, Some(b'0')) => Revision::Eio4,
        _ => Revision::Eio3,
    };
    Some(Session { sid, revision })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::testing::upstream;
    use super::*;

    /// A server on loopback that answers each request as the test says, and remembers the requests.
    struct Scripted {
        address: String,
        seen: Arc<Mutex<Vec<String>>>,
    }

    impl Scripted {
        async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let requests = seen.clone();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut bytes = Vec::new();
                    while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                        let text = String::from_utf8(bytes.clone()).unwrap();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else {
                            continue;
                        };
                        if head.contains("content-length: ") && body.is_empty() {
                            continue;
                        }
                        let (line, _) = head.split_once("\r\n").unwrap();
                        let request = format!("{} {body}", line.trim_end_matches(" HTTP/1.1"));
                        let answer = answer(request.trim_end());
                        requests.lock().unwrap().push(request.trim_end().to_owned());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        if answer.contains("connection: close") {
                            break;
                        }
                        bytes.clear();
                    }
                }
            });
            Self { address, seen }
        }

        fn target(&self, health: Value) -> Target {
            let upstream = upstream(json!({ "servers": [self.address], "health": health }));
            Target::new(&upstream, &upstream.servers()[0])
        }

        fn requests(&self) -> Vec<String> {
            std::mem::take(&mut self.seen.lock().unwrap())
        }
    }

    fn answer(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn an_http_check_asks_as_told_and_looks_at_status_and_body() {
        let server = Scripted::start(|_| answer(200, "all is well")).await;
        let check = |health| Http(server.target(health));
        assert_eq!(check(json!({})).probe().await, Ok("answered 200".to_owned()));
        let health = json!({ "method": "OPTIONS", "path": "/health?deep", "body": "well" });
        assert!(check(health).probe().await.is_ok());
        assert_eq!(server.requests(), ["GET /", "OPTIONS /health?deep"]);

        let fault = check(json!({ "status": "300-399" })).probe().await.unwrap_err();
        assert_eq!(fault, "answered 200, expected 300-399");
        let fault = check(json!({ "body": "ill" })).probe().await.unwrap_err();
        assert_eq!(fault, "answered 200 with a body that doesn't hold `ill`");
    }

    #[tokio::test]
    async fn a_tcp_check_wants_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(json!({ "servers": [listener.local_addr().unwrap().to_string()] }));
        let target = || Target::new(&upstream, &upstream.servers()[0]);
        assert_eq!(Tcp(target()).probe().await, Ok("connected".to_owned()));
        drop(listener);
        let fault = Tcp(target()).probe().await.unwrap_err();
        assert!(fault.starts_with("can't connect: Connection refused"), "{fault}");
    }

    #[tokio::test]
    async fn an_engine_io_check_opens_a_session_and_closes_it() {
        let server = Scripted::start(|request| match request {
            "GET /socket.io/?EIO=4&transport=polling" => answer(
                200,
                r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}"#,
            ),
            _ => answer(200, "ok"),
        })
        .await;
        let check = EngineIo::new(server.target(json!({})));
        assert_eq!(check.probe().await, Ok("opened a session of Engine.IO 4".to_owned()));
        let goodbye = "POST /socket.io/?EIO=4&transport=polling&sid=lv_VI97HAXpY6yYWAAAC 1";
        assert_eq!(server.requests(), ["GET /socket.io/?EIO=4&transport=polling", goodbye]);
    }

    #[tokio::test]
    async fn an_engine_io_check_takes_whatever_path_it_is_given() {
        let server = Scripted::start(|_| answer(200, r#"0{"sid":"a"}"#)).await;
        let check = EngineIo::new(server.target(json!({ "path": "/node/engine.io/?token=x" })));
        assert!(check.probe().await.is_ok());
        let start = "GET /node/engine.io/?token=x&EIO=4&transport=polling";
        assert_eq!(server.requests()[0], start);
    }

    #[tokio::test]
    async fn servers_of_engine_io_3_answer_in_their_own_framing() {
        let server = Scripted::start(|request| match request {
            "GET /socket.io/?EIO=4&transport=polling" => answer(200, "22:0{\"sid\":\"b\",\"x\":1}2:40"),
            _ => answer(200, "ok"),
        })
        .await;
        let check = EngineIo::new(server.target(json!({})));
        assert_eq!(check.probe().await, Ok("opened a session of Engine.IO 3".to_owned()));
        assert_eq!(server.requests()[1], "POST /socket.io/?EIO=3&transport=polling&sid=b 1:1");
    }

    #[tokio::test]
    async fn servers_that_refuse_engine_io_4_are_asked_for_3_and_remembered() {
        let server = Scripted::start(|request| match request {
            "GET /socket.io/?EIO=4&transport=polling" => {
                answer(400, r#"{"code":5,"message":"Unsupported protocol version"}"#)
            }
            "GET /socket.io/?EIO=3&transport=polling&b64=1" => answer(200, "13:0{\"sid\":\"b\"}2:40"),
            _ => answer(200, "ok"),
        })
        .await;
        let check = EngineIo::new(server.target(json!({})));
        assert!(check.probe().await.is_ok());
        assert_eq!(server.requests().len(), 3);
        assert!(check.probe().await.is_ok());
        assert_eq!(server.requests()[0], "GET /socket.io/?EIO=3&transport=polling&b64=1");
    }

    #[tokio::test]
    async fn servers_of_socket_io_0_9_pass_in_their_dialect() {
        let server = Scripted::start(|request| match request {
            "GET /socket.io/1/" => answer(200, "12345:60:60:websocket,xhr-polling"),
            _ => answer(200, "Welcome to socket.io."),
        })
        .await;
        let check = EngineIo::new(server.target(json!({})));
        assert_eq!(check.probe().await, Ok("opened a session of Socket.IO 0.9".to_owned()));
        assert_eq!(server.requests()[3], "GET /socket.io/1/xhr-polling/12345?disconnect=1");
    }

    #[tokio::test]
    async fn a_server_that_closes_after_each_answer_is_said_goodbye_too() {
        let server = Scripted::start(|_| {
            let body = r#"0{"sid":"a"}"#;
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}")
        })
        .await;
        let check = EngineIo::new(server.target(json!({})));
        assert!(check.probe().await.is_ok());
        assert_eq!(server.requests().len(), 2);
    }

    #[tokio::test]
    async fn a_server_without_engine_io_fails_with_what_it_said() {
        let server = Scripted::start(|_| answer(404, "Cannot GET /socket.io/")).await;
        let check = EngineIo::new(server.target(json!({})));
        assert_eq!(
            check.probe().await.unwrap_err(),
            "answered 404 `Cannot GET /socket.io/`, expected an Engine.IO handshake"
        );
    }

    #[test]
    fn handshakes_are_told_from_look_alikes() {
        let sid = |body: &[u8], asked| read_session(body, asked).map(|session| session.sid);
        assert_eq!(sid(b"0{\"sid\":\"a\"}\x1e40", Revision::Eio4).as_deref(), Some("a"));
        assert_eq!(sid(b"\x00\x01\x03\xff0{\"sid\":\"a\"}", Revision::Eio3).as_deref(), Some("a"));
        for body in [
            &b""[..],
            b"0",
            b"0{}",
            b"0{\"sid\":\"\"}",
            b"0{\"sid\":\"a b\"}",
            b"0{\"sid\":\"a&b\"}",
            b"0{\"sid\":\"a",
            b"<html>12:0{</html>",
            b":0{\"sid\":\"a\"}",
            b"{\"sid\":\"a\"}",
            b"\x00\x01",
        ] {
            assert_eq!(read_session(body, Revision::Eio4), None, "{body:?}");
        }
        for body in [&b"Welcome to socket.io."[..], b"a:b:c:d", b"1:60:60:", b"1:60:60", b"\xff:60:60:x"] {
            assert_eq!(read_session(body, Revision::SocketIo09), None, "{body:?}");
        }
    }
}
