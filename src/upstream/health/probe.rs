//! What a check asks a server: a connection, an HTTP answer, or a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::request::request;
use crate::http::client::{Answer, ask};
use crate::session::{Question, SessionProtocol};
use crate::transport::Transport;
use crate::transport::shortage::is_shortage;
use crate::upstream::config::Check;
use crate::upstream::{Server, Upstream};

/// How much of a body is looked at.
const MOST_BODY: usize = 64 * 1024;

/// Looks at a server once. Both outcomes tell in a few words what was seen.
pub(crate) trait Probe: Send + Sync {
    fn probe(&self) -> impl Future<Output = Result<String, Unwell>> + Send;
}

/// What a probe did not like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unwell {
    pub(crate) text: String,
    /// Whether it is this machine that lacks something, which says nothing about the server.
    pub(crate) in_shortage: bool,
}

impl From<String> for Unwell {
    fn from(text: String) -> Self {
        Self { text, in_shortage: false }
    }
}

/// Whom a probe looks at.
pub(crate) struct Target {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    host: String,
}

/// The server takes connections, and speaks TLS where that is configured.
pub(crate) struct Tcp(pub(crate) Target);

/// The server answers a request as expected.
pub(crate) struct Http(pub(crate) Target);

/// The server opens a session, which is closed again at once.
pub(crate) struct Session {
    target: Target,
    protocol: Arc<dyn SessionProtocol>,
    /// The way that worked last: there is no need to ask a server the wrong way round every second.
    way: AtomicUsize,
}

impl Target {
    pub(crate) fn new(upstream: &Arc<Upstream>, server: &Arc<Server>) -> Self {
        let host = upstream.own_host(server);
        Self { upstream: upstream.clone(), server: server.clone(), host }
    }

    async fn connect(&self) -> Result<Transport, Unwell> {
        let told = |fault| Unwell { text: format!("can't connect: {fault}"), in_shortage: is_shortage(&fault) };
        self.upstream.connect(&self.server, None).await.map_err(told)
    }

    async fn ask(
        &self,
        stream: &mut Transport,
        method: &str,
        target: &str,
        fields: &[(&'static str, Vec<u8>)],
        body: Option<&[u8]>,
    ) -> Result<Answer, Unwell> {
        let request = request(method, target, &self.host, &self.upstream.config().health, fields, body);
        ask(stream, &request, method == "HEAD", MOST_BODY).await.map_err(|fault| fault.to_string().into())
    }
}

impl Probe for Tcp {
    async fn probe(&self) -> Result<String, Unwell> {
        self.0.connect().await.map(|_| "connected".to_owned())
    }
}

impl Probe for Http {
    async fn probe(&self) -> Result<String, Unwell> {
        let health = &self.0.upstream.config().health;
        let path = health.path.as_deref().unwrap_or("/");
        let mut stream = self.0.connect().await?;
        let answer = self.0.ask(&mut stream, &health.method, path, &[], None).await?;
        let status = answer.status;
        if !health.status.contains(status) {
            return Err(format!("answered {status}, expected {}", String::from(health.status)).into());
        }
        match &health.body {
            Some(text) if !String::from_utf8_lossy(&answer.body).contains(text.as_str()) => {
                Err(format!("answered {status} with a body that doesn't hold `{text}`").into())
            }
            _ => Ok(format!("answered {status}")),
        }
    }
}

impl Session {
    pub(crate) fn new(target: Target) -> Self {
        let protocol = target.upstream.session_protocol().cloned().unwrap_or_else(Check::protocol);
        Self { target, protocol, way: AtomicUsize::new(0) }
    }

    async fn ask(&self, stream: &mut Transport, question: &Question) -> Result<Answer, Unwell> {
        let body = question.body.as_deref();
        self.target.ask(stream, question.method, &question.target, &question.fields, body).await
    }

    /// Says goodbye, so that the server needn't keep the session until it times out. Nothing is lost if that fails.
    async fn close(&self, stream: &mut Transport, goodbye: &Question) {
        if let Err(fault) = self.ask(stream, goodbye).await {
            log::debug!("server {}: the check's session stays open: {}", self.target.server.name(), fault.text);
        }
    }
}

impl Probe for Session {
    async fn probe(&self) -> Result<String, Unwell> {
        let check = self.protocol.check().ok_or_else(|| "the session protocol can't open a session".to_owned())?;
        let path = self.target.upstream.config().health.path.as_deref();
        let mut stream = self.target.connect().await?;
        let known = self.way.load(Relaxed);
        let mut seen = String::new();
        for step in 0..check.ways() {
            let way = (known + step) % check.ways();
            let answer = self.ask(&mut stream, &check.open(way, path)).await?;
            if !answer.reusable {
                stream = self.target.connect().await?;
            }
            if let Some(session) = check.opened(way, path, answer.status, &answer.body) {
                self.way.store(way, Relaxed);
                if let Some(goodbye) = &session.goodbye {
                    self.close(&mut stream, goodbye).await;
                }
                return Ok(format!("opened {}", session.what));
            }
            // What it says in its usual dialect tells most.
            if step == 0 {
                let text = String::from_utf8_lossy(&answer.body);
                let excerpt: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
                seen = format!("answered {} `{excerpt}`, expected {}", answer.status, check.expected());
            }
        }
        Err(seen.into())
    }
}

#[cfg(test)]
mod tests;
