//! Services of the operator's that the gateway asks or tells by itself: for leave, for keys, of traces. Over connections that
//! are kept, by http or https.

mod url;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub(crate) use url::Url;

/// How long a connection to a service is kept, and how many.
const KEPT: (Duration, usize) = (Duration::from_secs(30), 64);
/// The largest head of an answer.
const MOST_HEAD: usize = 64 * 1024;

/// Why a service has not answered.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A service at an address.
#[derive(Debug)]
pub(crate) struct Service {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    pub(crate) url: Uri,
}

impl Service {
    /// One that is asked by http, or by https and has to show a certificate of these authorities, or of the system's.
    ///
    /// # Errors
    /// The file that can't be used.
    pub(crate) fn build(url: &Url, ca: Option<&Path>) -> Result<Self, String> {
        let url: Uri = url.as_str().parse().map_err(|error| format!("url: {error}"))?;
        let roots = if url.scheme_str() == Some("https") { roots(ca)? } else { RootCertStore::empty() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
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
        Ok(Self { client, url })
    }

    /// Asks with a GET that has these fields. The body is read in any case, so that the connection can be used again; one of
    /// more than `most` bytes is a fault of its own.
    pub(crate) async fn get(&self, fields: HeaderMap, most: usize) -> Result<(Parts, Result<Bytes, Fault>), Fault> {
        let mut request = Request::new(Bytes::new());
        (*request.uri_mut(), *request.headers_mut()) = (self.url.clone(), fields);
        self.send(request, most).await
    }

    /// Sends a request, and reads its answer in the same way.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        most: usize,
    ) -> Result<(Parts, Result<Bytes, Fault>), Fault> {
        let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, most).collect().await;
        Ok((head, body.map(http_body_util::Collected::to_bytes)))
    }
}

/// Whom to trust: the authorities of a file, or those of the system.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let certificates: Vec<CertificateDer<'static>> = match ca {
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
