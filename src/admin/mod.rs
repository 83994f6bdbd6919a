//! Where operators look: liveness, readiness, metrics and status over HTTP.

mod drain;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ::http::{Response, StatusCode};
use async_trait::async_trait;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::http::ServerSession;

use crate::config;
use crate::listener::{self, BuildError, ConnectionLimits, Listener, Shared};
use crate::metrics::Metrics;
use crate::proxy::Core;

/// The answers of the admin address.
pub struct Admin {
    core: Arc<Core>,
    limits: Arc<ConnectionLimits>,
    /// Cleared when the gateway begins to stop.
    ready: Arc<AtomicBool>,
    started: Instant,
}

/// Connections that the admin address takes at once, apart from the limits of the traffic.
const MOST_CONNECTIONS: usize = 64;

/// Binds the admin address. Its connections count for themselves: it answers when the gateway is full.
///
/// # Errors
/// The address can't be bound.
pub fn listener(said: &config::Admin, shared: &Shared, metrics: &Metrics) -> Result<Listener, BuildError> {
    let config = listener::Config {
        name: Some("admin".to_owned()),
        max_connections: MOST_CONNECTIONS,
        http2: false,
        ..listener::Config::at(said.address.clone())
    };
    let shared = Shared { limits: ConnectionLimits::new(0, 0), ..shared.clone() };
    Listener::bind(&config, shared, metrics.listener("admin"))
}

impl Admin {
    /// Answers about this gateway.
    pub fn new(core: Arc<Core>, limits: Arc<ConnectionLimits>, ready: Arc<AtomicBool>) -> Self {
        Self { core, limits, ready, started: Instant::now() }
    }

    /// As an application for a listener.
    pub fn into_app(self) -> HttpServer<Self> {
        HttpServer::new_app(self)
    }

    fn readiness(&self) -> (StatusCode, String) {
        if !self.ready.load(Ordering::Acquire) {
            return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
        }
        let snapshot = self.core.snapshot.load();
        let waiting: Vec<_> = snapshot.pools.iter().filter(|(_, pool)| !pool.upstream.ready()).collect();
        if waiting.is_empty() {
            return (StatusCode::OK, "ready\n".to_owned());
        }
        let lines = waiting.iter().map(|(name, _)| format!("upstream {name}: no server is up\n"));
        (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
        if self.core.ending.is_handed_over() {
            session.set_keepalive(None);
        }
        let head = session.req_header();
        let (status, kind, body) = match (head.method.as_str(), head.uri.path()) {
            ("GET" | "HEAD", "/livez") => (StatusCode::OK, TEXT, b"alive\n".to_vec()),
            ("GET" | "HEAD", "/readyz") => {
                let (status, text) = self.readiness();
                (status, TEXT, text.into_bytes())
            }
            ("GET" | "HEAD", "/metrics") => {
                let mut text = self.core.metrics.render();
                status::write_metrics(&self.core.snapshot.load(), &mut text);
                (StatusCode::OK, METRICS, text)
            }
            ("GET" | "HEAD", "/status") => {
                let status = status::status(&self.core.snapshot.load(), self.limits.open(), self.started.elapsed());
                let body = serde_json::to_vec_pretty(&status).unwrap_or_default();
                (StatusCode::OK, "application/json", body)
            }
            (method @ ("GET" | "POST" | "DELETE"), "/drain") => {
                let query = head.uri.query().unwrap_or_default();
                let (status, told) = drain::answer(&self.core.snapshot.load(), method, query);
                (status, "application/json", serde_json::to_vec_pretty(&told).unwrap_or_default())
            }
            (_, "/livez" | "/readyz" | "/metrics" | "/status") => {
                (StatusCode::METHOD_NOT_ALLOWED, TEXT, b"only GET and HEAD are answered here\n".to_vec())
            }
            _ => (StatusCode::NOT_FOUND, TEXT, b"here are /livez, /readyz, /metrics, /status and /drain\n".to_vec()),
        };
        let length = ::http::HeaderValue::from(body.len());
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert("content-type", ::http::HeaderValue::from_static(kind));
        headers.insert("cache-control", ::http::HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 15.5.6.
            headers.insert("allow", ::http::HeaderValue::from_static("GET, HEAD"));
        }
        headers.insert("content-length", length);
        response
    }
}
