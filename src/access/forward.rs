//! A service that is asked whether a request may pass (as nginx's `auth_request` and Traefik's `forwardAuth` do).
//!
//! It is asked with a GET that has the fields of the request and none of its body. 2xx lets it pass, with chosen fields of the
//! answer; 3xx and 4xx are what the client gets; anything else, or none in time, lets nobody in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use log::debug;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{BuildError, config};
use crate::filter::{Changes, FilterAnswer};
use crate::http::hop_by_hop::is_hop_by_hop;

/// Requests that are asked about at once; more wait, within their time.
const AT_ONCE: usize = 512;
/// How long a connection to the service is kept, and how many.
const KEPT: (Duration, usize) = (Duration::from_secs(30), 64);
/// The largest head of an answer.
const MOST_HEAD: usize = 64 * 1024;

/// Asks a service whether a request may pass.
pub(crate) struct ForwardAuth {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    url: Uri,
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
        f.debug_struct("ForwardAuth").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ForwardAuth {
    pub(super) fn build(said: &config::ForwardAuth) -> Result<Self, BuildError> {
        let fault = |what: String| BuildError(format!("forward_auth: {what}"));
        let url: Uri = said.url.as_str().parse().map_err(|error| fault(format!("url: {error}")))?;
        let roots =
            if url.scheme_str() == Some("https") { roots(said).map_err(fault)? } else { RootCertStore::empty() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(|error| fault(error.to_string()))?.with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let mut plain = HttpConnector::new();
        plain.set_nodelay(true);
        plain.enforce_http(false);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT.0)
            .pool_max_idle_per_host(KEPT.1)
            .http1_max_buf_size(MOST_HEAD)
            .build(connector.wrap_connector(plain));
        let names = |names: &[String]| names.iter().filter_map(|name| HeaderName::try_from(name).ok()).collect();
        Ok(Self {
            client,
            url,
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
        let mut request = Request::new(Empty::new());
        (*request.uri_mut(), *request.headers_mut()) = (self.url.clone(), fields);
        match timeout(self.timeout, self.answer(request)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => {
                debug!("forward_auth: {}: {error}", self.url);
                Said::Failed
            }
            Err(_) => Said::Late,
        }
    }

    async fn answer(&self, request: Request<Empty<Bytes>>) -> Result<Said, Box<dyn std::error::Error + Send + Sync>> {
        let _place = self.places.acquire().await?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let passes = head.status.is_success();
        if !passes && !head.status.is_redirection() && !head.status.is_client_error() {
            return Err(format!("answered {}", head.status).into());
        }
        // Read in any case, so that the connection can be used again.
        let body = Limited::new(body, self.most_body).collect().await;
        if passes {
            return Ok(Said::Pass(head.headers));
        }
        let body = body?.to_bytes();
        let mut answer = FilterAnswer { status: head.status, headers: Vec::new(), body };
        let nominated: Vec<String> = head
            .headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|name| name.trim().to_ascii_lowercase())
            .collect();
        for (name, value) in &head.headers {
            let framing =
                *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING || *name == header::TRAILER;
            if !framing && !is_hop_by_hop(name.as_str()) && !nominated.iter().any(|other| other == name.as_str()) {
                answer.headers.push((name.clone(), value.clone()));
            }
        }
        Ok(Said::Answer(answer))
    }
}

/// Whom to trust: the authorities of a file, or those of the system.
fn roots(said: &config::ForwardAuth) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let certificates: Vec<CertificateDer<'static>> = match &said.ca {
        Some(file) => {
            let fault = |error: &dyn std::fmt::Display| format!("ca: {} can't be used: {error}", file.display());
            let pem = std::fs::read(file).map_err(|error| fault(&error))?;
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| fault(&error))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    store.add_parsable_certificates(certificates);
    if store.is_empty() { Err("ca: found no certificate of an authority".to_owned()) } else { Ok(store) }
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
