//! TLS to servers: whom the gateway trusts, and how it proves who it is.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::address::ServerAddress;
use crate::upstream::Server;
use crate::upstream::config::{Kind, Tls};

/// The name of HTTP/2 in ALPN (RFC 9113 3.2).
pub(super) const HTTP2: &[u8] = b"h2";

/// What is needed to speak TLS to the servers of one upstream; files are read once, at build.
pub struct ServerTls {
    client_config: Arc<ClientConfig>,
    /// The same with HTTP/2, where that is spoken.
    http2: Option<Arc<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
    verify: bool,
    roots: Vec<CertificateDer<'static>>,
    identity: Option<ClientIdentity>,
}

/// The certificate that the gateway shows to servers.
pub struct ClientIdentity {
    /// The certificates, the gateway's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first.
    pub key: PrivateKeyDer<'static>,
}

impl PartialEq for ServerTls {
    /// Whether the same is said with the same files behind it.
    fn eq(&self, other: &Self) -> bool {
        let identity = |tls: &Self| {
            tls.identity.as_ref().map(|identity| (identity.chain.clone(), identity.key.secret_der().to_vec()))
        };
        (self.verify, &self.server_name, &self.roots) == (other.verify, &other.server_name, &other.roots)
            && identity(self) == identity(other)
    }
}

impl ServerTls {
    pub(crate) fn load(said: &Tls, kind: Kind, http2: bool) -> Result<Self, String> {
        let server_name = said.server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone())
                .map_err(|_| format!("tls.server_name `{name}` is not a host name or an IP address"))
        });
        let server_name = server_name.transpose()?;
        let mut store = RootCertStore::empty();
        let roots = match (&said.ca, said.verify) {
            (Some(file), _) => {
                let roots = certificates(file, "tls.ca")?;
                for root in &roots {
                    store.add(root.clone()).map_err(|fault| unreadable(file, "tls.ca", &fault))?;
                }
                roots
            }
            // A system may trust certificates that rustls can't read.
            (None, true) => system_roots()?.into_iter().filter(|root| store.add(root.clone()).is_ok()).collect(),
            (None, false) => Vec::new(),
        };
        let identity = match (&said.cert, &said.key) {
            (Some(cert), Some(key)) => Some(ClientIdentity {
                chain: chain(cert)?,
                key: PrivateKeyDer::from_pem_file(key)
                    .map_err(|fault| format!("tls.key {}: expected a private key in PEM: {fault}", key.display()))?,
            }),
            (None, None) => None,
            (Some(_), None) => return Err("tls.cert needs tls.key beside it".to_owned()),
            (None, Some(_)) => return Err("tls.key needs tls.cert beside it".to_owned()),
        };
        let client_config = client_config(store, said.verify, kind, identity.as_ref())?;
        let http2 = http2.then(|| {
            // Nothing else is offered: a server that can't is to be found out, and not to be spoken to in another way.
            let mut config = client_config.clone();
            config.alpn_protocols = vec![HTTP2.to_vec()];
            Arc::new(config)
        });
        Ok(Self { client_config: Arc::new(client_config), http2, server_name, verify: said.verify, roots, identity })
    }

    /// The rustls configuration, complete with ALPN `http/1.1` for upstreams that speak HTTP.
    pub fn client_config(&self) -> &Arc<ClientConfig> {
        &self.client_config
    }

    /// The same with ALPN `h2` alone; `None` where the upstream does not speak HTTP/2.
    pub(super) fn http2_config(&self) -> Option<&Arc<ClientConfig>> {
        self.http2.as_ref()
    }

    /// The name asked for and verified: the configured one, else the host of the server's address. An error says that
    /// a Unix socket has none to verify.
    pub fn server_name(&self, server: &Server) -> Result<ServerName<'static>, String> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        match server.address() {
            ServerAddress::Inet(address) => Ok(ServerName::IpAddress(address.ip().into())),
            ServerAddress::Name(host, _) => ServerName::try_from(host.clone())
                .map_err(|_| format!("`{host}` can't be asked for in TLS: expected tls.server_name")),
            ServerAddress::Unix(path) => {
                Err(format!("TLS over unix:{} needs tls.server_name: a socket file has no host name", path.display()))
            }
        }
    }

    /// Whether certificates of servers are verified.
    pub fn verify(&self) -> bool {
        self.verify
    }

    /// The authorities that are trusted.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The certificate shown to servers, if any.
    pub fn identity(&self) -> Option<&ClientIdentity> {
        self.identity.as_ref()
    }
}

fn client_config(
    roots: RootCertStore,
    verify: bool,
    kind: Kind,
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, String> {
    // Named here, since Pingora brings a second provider and rustls refuses to guess.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|fault| format!("TLS can't be set up: {fault}"))?;
    let builder = if verify {
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    };
    let mut config = match identity {
        Some(ClientIdentity { chain, key }) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|fault| format!("tls.cert and tls.key don't go together: {fault}"))?,
        None => builder.with_no_client_auth(),
    };
    if kind != Kind::Tcp {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(config)
}

/// The gateway's own certificate and those that lead to an authority.
fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = certificates(file, "tls.cert")?;
    for certificate in &chain {
        ParsedCertificate::try_from(certificate).map_err(|fault| unreadable(file, "tls.cert", &fault))?;
    }
    Ok(chain)
}

fn certificates(file: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|fault| unreadable(file, option, &fault))?;
    if found.is_empty() {
        return Err(unreadable(file, option, &"there is none in it"));
    }
    Ok(found)
}

fn unreadable(file: &Path, option: &str, fault: &dyn fmt::Display) -> String {
    format!("{option} {}: expected certificates in PEM: {fault}", file.display())
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(
            "this system has no certificate authorities to trust: install them or name a file in tls.ca".to_owned()
        );
    }
    Ok(found.certs)
}

/// `verify: false`: any certificate will do, though the server must hold its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
