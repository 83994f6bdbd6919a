//! What a check asks a server: a connection, an HTTP answer, or an Engine.IO session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::Deserialize;

use super::config::HostHeader;
use super::http_client::{Answer, ask, request};
use super::{Server, Upstream};
use crate::address::ServerAddress;
use crate::transport::Transport;

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

/// The three generations of servers: Socket.IO 3 and 4, 1 and 2, and 0.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Eio4,
    Eio3,
    V09,
}

impl Dialect {
    /// In the order in which an unknown server is asked.
    const ALL: [Self; 3] = [Self::Eio4, Self::Eio3, Self::V09];

    fn name(self) -> &'static str {
        match self {
            Self::Eio4 => "Engine.IO 4",
            Self::Eio3 => "Engine.IO 3",
            Self::V09 => "Socket.IO 0.9",
        }
    }
}

impl EngineIo {
    pub(super) fn new(target: Target) -> Self {
        Self { target, dialect: AtomicU8::new(0) }
    }

    /// Asks for a session in one dialect; `None` if the server answers in no way that opens one.
    async fn open(&self, stream: &mut Transport, dialect: Dialect) -> Result<(Answer, Option<Session>), String> {
        let url = match dialect {
            Dialect::Eio4 => self.url("EIO=4&transport=polling"),
            Dialect::Eio3 => self.url("EIO=3&transport=polling&b64=1"),
            Dialect::V09 => format!("{}1/", self.path()),
        };
        let answer = ask(stream, &self.target.request("GET", &url, None), false).await?;
        let session = (answer.status == 200).then(|| read_session(&answer.body, dialect)).flatten();
        Ok((answer, session))
    }

    /// Says goodbye, so that the server needn't keep the session until it times out. Nothing is lost if that fails.
    async fn close(&self, stream: &mut Transport, session: &Session) {
        let request = match session.dialect {
            Dialect::Eio4 => {
                let url = self.url(&format!("EIO=4&transport=polling&sid={}", session.sid));
                self.target.request("POST", &url, Some("1"))
            }
            Dialect::Eio3 => {
                let url = self.url(&format!("EIO=3&transport=polling&sid={}", session.sid));
                self.target.request("POST", &url, Some("1:1"))
            }
            Dialect::V09 => {
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
        for step in 0..Dialect::ALL.len() {
            let rank = (known + step) % Dialect::ALL.len();
            let (answer, session) = self.open(&mut stream, Dialect::ALL[rank]).await?;
            if !answer.reusable {
                stream = self.target.connect().await?;
            }
            if let Some(session) = session {
                self.dialect.store(rank as u8, Relaxed);
                self.close(&mut stream, &session).await;
                return Ok(format!("opened a session of {}", session.dialect.name()));
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
    dialect: Dialect,
}

/// Reads the answer to a handshake. Servers of Engine.IO 3 answer in their own framing whatever they were asked.
fn read_session(body: &[u8], asked: Dialect) -> Option<Session> {
    #[derive(Deserialize)]
    struct Open {
        sid: String,
    }
    if asked == Dialect::V09 {
        // sid:heartbeat:close:transports
        let mut fields = std::str::from_utf8(body).ok()?.split(':');
        let (sid, times, transports) = (fields.next()?, [fields.next()?, fields.next()?], fields.next()?);
        let genuine = times.iter().all(|time| time.bytes().all(|byte| byte.is_ascii_digit())) && !transports.is_empty();
        return session(sid, Dialect::V09).filter(|_| genuine);
    }
    let (packet, dialect) = match body {
        [b'0', ..] => (body, Dialect::Eio4),
        // Binary framing: 0, the digits of the length as bytes, 255.
        [0, rest @ ..] => (&rest[rest.iter().position(|&byte| byte == 255)? + 1..], Dialect::Eio3),
        _ => {
            let colon = body.iter().position(|&byte| byte == b':')?;
            if colon == 0 || !body[..colon].iter().all(u8::is_ascii_digit) {
                return None;
            }
            (&body[colon + 1..], Dialect::Eio3)
        }
    };
    let json = packet.strip_prefix(b"0")?;
    // More packets may follow in the same answer.
    let open = serde_json::Deserializer::from_slice(json).into_iter::<Open>().next()?.ok()?;
    session(&open.sid, dialect)
}

/// Session ids go into URLs, so they are taken only in the letters that servers use.
fn session(sid: &str, dialect: Dialect) -> Option<Session> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    ((1..=256).contains(&sid.len()) && sid.bytes().all(plain)).then(|| Session { sid: sid.to_owned(), dialect })
}
