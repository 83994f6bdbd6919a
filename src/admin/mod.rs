//! Where operators look, and what they ask for: liveness, readiness, metrics, status, drains and reloads over HTTP.

mod collector;
mod drain;
mod endpoints;
mod reload;
mod status;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ::http::{HeaderValue, Response, StatusCode};
use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::Stream as Io;
use pingora::protocols::http::ServerSession;

use collector::StateCollector;
use endpoints::{Answer, Endpoint, Request};

use crate::drain::Stopping;
use crate::exchange::Core;
use crate::listener::{AppProtocol, Application, Connection};
use crate::proxy::Stream;
use crate::reload::Reloader;

/// The answers of the admin address.
pub struct Admin {
    core: Arc<Core>,
    reloader: Arc<Reloader>,
    ready: Arc<AtomicBool>,
    started: Instant,
}

impl Admin {
    /// Answers about this gateway, whose metrics have what its servers know of themselves from now on.
    ///
    /// # Errors
    /// The metrics of a gateway can be asked for by one only.
    pub fn new(reloader: Arc<Reloader>) -> Result<Self, prometheus::Error> {
        let core = Arc::clone(reloader.core());
        core.metrics.register(Box::new(StateCollector::new(&core)?))?;
        Ok(Self { core, reloader, ready: Arc::new(AtomicBool::new(true)), started: Instant::now() })
    }

    /// What `/readyz` says; to be cleared when the gateway begins to stop.
    pub fn ready(&self) -> &Arc<AtomicBool> {
        &self.ready
    }

    /// As an application for a listener.
    pub fn into_app(self) -> AdminApp {
        AdminApp(Arc::new(HttpServer::new_app(self)))
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
        if self.core.ending.is_handed_over() {
            session.set_keepalive(None);
        }
        let head = session.req_header();
        let (method, uri) = (head.method.clone(), head.uri.clone());
        let answer = match Endpoint::find(method.as_str(), uri.path()) {
            Err(refusal) => refusal,
            Ok(endpoint) => match body(session, endpoint.most_body).await {
                Err(fault) => Answer::fault(StatusCode::BAD_REQUEST, fault),
                Ok(body) => {
                    let query = uri.query().unwrap_or_default();
                    endpoint.answer(self, &Request { method: method.as_str(), query, body: &body }).await
                }
            },
        };
        let mut response = Response::new(answer.body);
        *response.status_mut() = answer.status;
        let length = HeaderValue::from(response.body().len());
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static(answer.content_type));
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        if let Some(allow) = answer.allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert("allow", allow);
        }
        headers.insert("content-length", length);
        response
    }
}

async fn body(session: &mut ServerSession, most: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    if most == 0 {
        return Ok(body);
    }
    loop {
        match session.read_request_body().await {
            Ok(Some(part)) if body.len() + part.len() <= most => body.extend_from_slice(&part),
            Ok(Some(_)) => return Err(format!("expected at most {most} bytes")),
            Ok(None) => return Ok(body),
            Err(error) => return Err(format!("the body ended early: {error}")),
        }
    }
}
