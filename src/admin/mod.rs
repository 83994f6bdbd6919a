//! Where operators look, and what they ask for: liveness, readiness, metrics, status, drains and reloads over HTTP.

mod drain;
mod reload;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ::http::{Response, StatusCode};
use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::Stream as Io;
use pingora::protocols::http::ServerSession;

use crate::drain::Stopping;
use crate::listener::{AppProtocol, Application, Connection};
use crate::proxy::{Core, Stream};
use crate::reload::Reloader;

/// The answers of the admin address.
pub struct Admin {
    core: Arc<Core>,
    reloader: Arc<Reloader>,
    /// Cleared when the gateway begins to stop.
    ready: Arc<AtomicBool>,
    started: Instant,
}

impl Admin {
    /// Answers about this gateway.
    pub fn new(reloader: Arc<Reloader>, ready: Arc<AtomicBool>) -> Self {
        Self { core: Arc::clone(reloader.core()), reloader, ready, started: Instant::now() }
    }

    /// As an application for a listener.
    pub fn into_app(self) -> AdminApp {
        AdminApp(Arc::new(HttpServer::new_app(self)))
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

/// The admin address behind a listener.
pub struct AdminApp(Arc<HttpServer<Admin>>);

#[async_trait]
impl Application for AdminApp {
    async fn serve(&self, connection: Connection, _protocol: AppProtocol, stopping: &Stopping) {
        let mut stream: Io = Box::new(Stream::new(connection, false));
        while let Some(reusable) = self.0.process_new(stream, stopping).await {
            stream = reusable;
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        const HERE: &[u8] = b"here are /livez, /readyz, /metrics, /status, /drain, /reload and /plan\n";
        const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
        if self.core.ending.is_handed_over() {
            session.set_keepalive(None);
        }
        let head = session.req_header();
        let (method, path, query) =
            (head.method.clone(), head.uri.path().to_owned(), head.uri.query().map(str::to_owned));
        let (status, kind, body) = match (method.as_str(), path.as_str()) {
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
                let (outcome, connections) = (self.reloader.outcome(), self.reloader.limits().open());
                let status = status::status(&self.core.snapshot.load(), outcome, connections, self.started.elapsed());
                let body = serde_json::to_vec_pretty(&status).unwrap_or_default();
                (StatusCode::OK, "application/json", body)
            }
            (method @ ("GET" | "POST" | "DELETE"), "/drain") => {
                let query = query.as_deref().unwrap_or_default();
                let (status, told) = drain::answer(&self.core.snapshot.load(), method, query);
                (status, "application/json", serde_json::to_vec_pretty(&told).unwrap_or_default())
            }
            ("POST", "/reload") => {
                let (status, told) = reload::reload(&self.reloader).await;
                (status, "application/json", serde_json::to_vec_pretty(&told).unwrap_or_default())
            }
            ("POST", "/plan") => {
                let (status, told) = reload::plan(&self.reloader, session).await;
                (status, "application/json", serde_json::to_vec_pretty(&told).unwrap_or_default())
            }
            (_, "/reload" | "/plan") => {
                (StatusCode::METHOD_NOT_ALLOWED, TEXT, b"only POST is answered here\n".to_vec())
            }
            (_, "/livez" | "/readyz" | "/metrics" | "/status") => {
                (StatusCode::METHOD_NOT_ALLOWED, TEXT, b"only GET and HEAD are answered here\n".to_vec())
            }
            _ => (StatusCode::NOT_FOUND, TEXT, HERE.to_vec()),
        };
        let length = ::http::HeaderValue::from(body.len());
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert("content-type", ::http::HeaderValue::from_static(kind));
        headers.insert("cache-control", ::http::HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 15.5.6.
            let allowed = if matches!(path.as_str(), "/reload" | "/plan") { "POST" } else { "GET, HEAD" };
            headers.insert("allow", ::http::HeaderValue::from_static(allowed));
        }
        headers.insert("content-length", length);
        response
    }
}
