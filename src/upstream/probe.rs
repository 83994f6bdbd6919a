//! What a check asks a server: a connection, an HTTP answer, or an Engine.IO session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::config::HostHeader;
use super::health_request::request;
use super::{Server, Upstream};
use crate::address::ServerAddress;
use crate::http::client::{Answer, ask};
use crate::transport::Transport;
use crate::wire::engine_io::{Handshake, HandshakeReader, Progress, Revision, close_packet};

/// How much of a body is looked at.
const MOST_BODY: usize = 64 * 1024;

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

    async fn ask(
        &self,
        stream: &mut Transport,
        method: &str,
        target: &str,
        body: Option<&str>,
    ) -> Result<Answer, String> {
        let request = request(method, target, &self.host, &self.upstream.config().health, body);
        ask(stream, &request, method == "HEAD", MOST_BODY).await.map_err(|fault| fault.to_string())
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
        let answer = self.0.ask(&mut stream, &health.method, path, None).await?;
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
        let answer = self.target.ask(stream, "GET", &url, None).await?;
        let session = (answer.status == 200).then(|| read_session(&answer.body, revision)).flatten();
        Ok((answer, session))
    }

    /// Says goodbye, so that the server needn't keep the session until it times out. Nothing is lost if that fails.
    async fn close(&self, stream: &mut Transport, session: &Session) {
        let goodbye = Some(close_packet(session.revision));
        let (method, url, body) = match session.revision {
            Revision::Eio4 => ("POST", self.url(&format!("EIO=4&transport=polling&sid={}", session.sid)), goodbye),
            Revision::Eio3 => ("POST", self.url(&format!("EIO=3&transport=polling&sid={}", session.sid)), goodbye),
            Revision::SocketIo09 => ("GET", format!("{}1/xhr-polling/{}?disconnect=1", self.path(), session.sid), None),
        };
        if let Err(fault) = self.target.ask(stream, method, &url, body).await {
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
mod tests;
