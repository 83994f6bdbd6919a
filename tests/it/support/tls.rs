//! Certificates made for one test, clients that trust them, and servers that show them.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::tcp;
use super::within;

/// A certificate authority, and the folder where what it signs lies.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM files.
#[derive(Clone)]
pub struct Issued {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Issued {
    /// An entry of `tls.certificates`.
    pub fn yaml(&self) -> String {
        format!("{{ cert: {}, key: {} }}", self.cert, self.key)
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> String {
        self.file("ca.pem")
    }

    /// Signs a certificate for these names or addresses; the first one names the files.
    pub fn sign(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let issued = Issued {
            cert: self.file(&format!("{}.pem", names[0].replace('*', "any"))),
            key: self.file(&format!("{}.key", names[0].replace('*', "any"))),
            der: signed.der().clone(),
        };
        std::fs::write(&issued.cert, signed.pem()).unwrap();
        std::fs::write(&issued.key, key.serialize_pem()).unwrap();
        issued
    }

    /// A client that trusts this authority.
    pub fn client(&self, alpn: &[&str]) -> TlsClient {
        self.client_of(rustls::DEFAULT_VERSIONS, alpn)
    }

    /// The same with these versions of TLS only.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> TlsClient {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsClient(Arc::new(config))
    }

    /// How a server shows a certificate; with `asks`, clients have to show one of this authority's.
    pub fn server(&self, shown: &Issued, asks: bool) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let builder = if asks {
            let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(&shown.key).unwrap();
        let mut config = builder.with_single_cert(vec![shown.der.clone()], key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }
}

/// A client; its connections share what they learn, such as session tickets.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Connects and asks for this name, or for none where it is an IP address.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.over(tcp(address).await, name).await
    }

    /// Connects, to speak HTTP; the server has to be one that this client trusts.
    pub async fn open(&self, address: SocketAddr, name: &str) -> super::Client {
        super::Client::over(self.connect(address, name).await.unwrap())
    }

    /// The handshake alone.
    pub async fn over<S: super::client::Stream>(&self, stream: S, name: &str) -> std::io::Result<TlsStream<S>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        within("TLS handshake", TlsConnector::from(Arc::clone(&self.0)).connect(name, stream)).await
    }
}

/// The certificate that the other side has shown.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Speaks TLS on an accepted connection; `None` when that fails.
pub async fn accept(stream: TcpStream, config: Arc<ServerConfig>) -> Option<super::Client> {
    TlsAcceptor::from(config).accept(stream).await.ok().map(super::Client::over)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
