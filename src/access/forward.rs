//! A service that is asked whether a request may pass (as nginx's `auth_request` and Traefik's `forwardAuth` do).
//!
//! It is asked with a GET that has the fields of the request and none of its body. 2xx lets it pass, with chosen fields of the
//! answer; 3xx and 4xx are what the client gets; anything else, or none in time, lets nobody in.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use log::debug;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{BuildError, config};
use crate::filter::{Changes, FilterAnswer};
use crate::http::hop_by_hop::{Nominated, is_hop_by_hop};
use crate::request::Headers;
use crate::service::{Fault, Service};

/// Requests that are asked about at once; more wait, within their time.
const AT_ONCE: usize = 512;

/// Asks a service whether a request may pass.
pub(crate) struct ForwardAuth {
    service: Service,
    to_server: Vec<HeaderName>,
    to_client: Vec<HeaderName>,
    timeout: Duration,
    most_body: usize,
    places: Semaphore,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Said {
    /// It may pass, with these fields.
    Pass(HeaderMap),
    /// The client gets this.
    Answer(FilterAnswer),
    /// There was no proper answer.
    Failed,
    /// There was none in time.
    Late,
}

impl std::fmt::Debug for ForwardAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForwardAuth").field("url", &self.service.url).finish_non_exhaustive()
    }
}

impl ForwardAuth {
    pub(super) fn build(said: &config::ForwardAuth) -> Result<Self, BuildError> {
        let service = Service::build(&said.url, said.ca.as_deref());
        let service = service.map_err(|what| BuildError(format!("forward_auth: {what}")))?;
        let names = |names: &[String]| names.iter().filter_map(|name| HeaderName::try_from(name).ok()).collect();
        Ok(Self {
            service,
            to_server: names(&said.to_server),
            to_client: names(&said.to_client),
            timeout: said.timeout,
            most_body: usize::try_from(said.body.as_u64()).unwrap_or(usize::MAX),
            places: Semaphore::new(AT_ONCE),
        })
    }

    /// Takes what only the service may tell out of what goes to the server.
    pub(super) fn strip(&self, changes: &mut Changes) {
        self.to_server.iter().for_each(|name| changes.to_server.remove(name.clone()));
    }

    /// Adds what the service tells.
    pub(crate) fn tell(&self, told: &HeaderMap, changes: &mut Changes) {
        for name in &self.to_server {
            told.get_all(name).iter().for_each(|value| changes.to_server.append(name.clone(), value.clone()));
        }
        for name in &self.to_client {
            told.get_all(name).iter().for_each(|value| changes.to_client.append(name.clone(), value.clone()));
        }
    }

    /// Asks about a request with these fields.
    pub(crate) async fn ask(&self, fields: HeaderMap) -> Said {
        match timeout(self.timeout, self.answer(fields)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => {
                debug!("forward_auth: {}: {error}", self.service.url);
                Said::Failed
            }
            Err(_) => Said::Late,
        }
    }

    async fn answer(&self, fields: HeaderMap) -> Result<Said, Fault> {
        let _place = self.places.acquire().await?;
        let (head, body) = self.service.get(fields, self.most_body).await?;
        if head.status.is_success() {
            return Ok(Said::Pass(head.headers));
        }
        if !head.status.is_redirection() && !head.status.is_client_error() {
            return Err(format!("answered {}", head.status).into());
        }
        let mut answer = FilterAnswer { status: head.status, headers: Vec::new(), body: body? };
        let nominated = Nominated::by(Headers::Map(&head.headers));
        for (name, value) in &head.headers {
            let framing =
                *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING || *name == header::TRAILER;
            if !framing && !is_hop_by_hop(name.as_str()) && !nominated.contains(name.as_str()) {
                answer.headers.push((name.clone(), value.clone()));
            }
        }
        Ok(Said::Answer(answer))
    }
}

/// Adds a field, if it is one.
pub(crate) fn add(fields: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
        fields.append(name, value);
    }
}

/// Sets a field.
pub(crate) fn set(fields: &mut HeaderMap, name: &'static str, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        fields.insert(HeaderName::from_static(name), value);
    }
}
