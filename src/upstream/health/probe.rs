//! What a check asks a server: a connection, an HTTP answer, or a session.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use h2::Reason;
use http::header::{CONTENT_TYPE, TE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::grpc;
use super::request::request;
use crate::http::client::{Answer, ask};
use crate::session::{Question, SessionProtocol};
use crate::transport::Transport;
use crate::transport::shortage::is_shortage;
use crate::upstream::config::Check;
use crate::upstream::http2::Http2;
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

fn unreachable(fault: io::Error) -> Unwell {
    Unwell { text: format!("can't connect: {fault}"), in_shortage: is_shortage(&fault) }
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

/// The server says that it serves, by gRPC's health checking protocol.
pub(crate) struct Grpc(pub(crate) Target);

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
        self.upstream.connect(&self.server, None).await.map_err(unreachable)
    }

    async fn connect_http2(&self) -> Result<Http2, Unwell> {
        self.upstream.connect_http2(&self.server).await.map_err(unreachable)
    }

    async fn ask(
        &self,
        stream: &mut Transport,
        method: &str,
        target: &str,
        fields: &[(Cow<'static, str>, Vec<u8>)],
        body: Option<&[u8]>,
    ) -> Result<Answer, Unwell> {
        let request = request(method, target, &self.host, &self.upstream.config().health, fields, body);
        ask(stream, &request, method == "HEAD", MOST_BODY).await.map_err(|fault| fault.to_string().into())
    }
}

/// An answer of HTTP/2.
struct Answer2 {
    answer: Answer,
    /// Its head and its trailers.
    fields: HeaderMap,
}

impl Target {
    /// The head of a request of HTTP/2, as [`request`] has it.
    fn request(&self, method: &str, target: &str) -> Result<Request<()>, Unwell> {
        let head = request(method, target, &self.host, &self.upstream.config().health, &[], None);
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Request::new(&mut fields);
        let malformed = || Unwell::from("the check can't be asked by HTTP/2".to_owned());
        parsed.parse(&head).map_err(|_| malformed())?;
        let mut host = self.host.as_bytes();
        let mut request = Request::builder().method(method);
        for field in parsed.headers {
            if field.name.eq_ignore_ascii_case("host") {
                host = field.value;
            } else {
                request = request.header(field.name, field.value);
            }
        }
        let scheme = if self.upstream.tls().is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(target).build();
        request.uri(uri.map_err(|_| malformed())?).body(()).map_err(|_| malformed())
    }

    /// Sends a request over a connection of HTTP/2 of its own, and reads its answer, as [`ask`] does.
    async fn ask_http2(&self, head: Request<()>, body: Bytes) -> Result<Answer2, Unwell> {
        let Http2 { mut requests, running, .. } = self.connect_http2().await?;
        let asking = async {
            let (answer, mut sending) = requests.send_request(head, body.is_empty())?;
            if !body.is_empty() {
                sending.send_data(body, true)?;
            }
            let (head, mut stream) = answer.await?.into_parts();
            let (mut fields, mut body) = (head.headers, Vec::new());
            while let Some(part) = stream.data().await {
                let part = part?;
                stream.flow_control().release_capacity(part.len())?;
                body.extend_from_slice(&part[..part.len().min(MOST_BODY - body.len())]);
                if body.len() == MOST_BODY {
                    break;
                }
            }
            if body.len() < MOST_BODY {
                fields.extend(stream.trailers().await?.unwrap_or_default());
            }
            Ok(Answer2 { answer: Answer { status: head.status.as_u16(), body, reusable: false }, fields })
        };
        let answered = tokio::select! {
            biased;
            answered = asking => answered,
            ended = running => Err(ended.err().unwrap_or_else(|| Reason::NO_ERROR.into())),
        };
        answered.map_err(|fault: h2::Error| format!("gave no proper answer: {fault}").into())
    }
}

impl Probe for Tcp {
    async fn probe(&self) -> Result<String, Unwell> {
        if self.0.upstream.config().http2 {
            return self.0.connect_http2().await.map(|_| "connected".to_owned());
        }
        self.0.connect().await.map(|_| "connected".to_owned())
    }
}

impl Probe for Http {
    async fn probe(&self) -> Result<String, Unwell> {
        let health = &self.0.upstream.config().health;
        let path = health.path.as_deref().unwrap_or("/");
        let answer = if self.0.upstream.config().http2 {
            let head = self.0.request(&health.method, path)?;
            self.0.ask_http2(head, Bytes::new()).await?.answer
        } else {
            let mut stream = self.0.connect().await?;
            self.0.ask(&mut stream, &health.method, path, &[], None).await?
        };
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

impl Probe for Grpc {
    async fn probe(&self) -> Result<String, Unwell> {
        let service = self.0.upstream.config().health.service.as_deref().unwrap_or("");
        let mut head = self.0.request("POST", "/grpc.health.v1.Health/Check")?;
        head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        let Answer2 { answer, fields } = self.0.ask_http2(head, grpc::question(service)).await?;
        let told = |name: &str| fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        match (answer.status, told("grpc-status").as_deref(), grpc::is_serving(&answer.body)) {
            (200, Some("0"), Some(true)) => Ok("serves".to_owned()),
            (200, Some("0"), Some(false)) => Err("says that it does not serve".to_owned().into()),
            (200, Some("0"), None) => Err("answered something that is no health of gRPC".to_owned().into()),
            (200, Some(status), _) => {
                let message = told("grpc-message").unwrap_or_default();
                let message: String = message.chars().filter(|c| !c.is_control()).take(60).collect();
                Err(format!("answered the status {status} of gRPC `{message}`, expected 0").into())
            }
            (200, None, _) => Err("answered without a status of gRPC".to_owned().into()),
            (status, ..) => Err(format!("answered {status}, expected 200").into()),
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
