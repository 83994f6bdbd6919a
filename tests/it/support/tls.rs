//! Certificates made for one test, clients that trust them, and servers that show them.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};
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
        // With the name that certificates have by default, OpenSSL would take those for their own issuers.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Test Authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            // It answers for its certificates (OCSP), too.
            KeyUsagePurpose::DigitalSignature,
        ];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        std::fs::write(folder.path().join("ca.key"), issuer.key().serialize_pem()).unwrap();
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
        self.sign_with(names, |_| ())
    }

    /// The same with more about it.
    pub fn sign_with(&self, names: &[&str], more: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        more(&mut params);
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
        self.client_with(provider(), versions, alpn, None)
    }

    /// A client that shows this certificate.
    pub fn client_showing(&self, shown: &Issued, versions: &[&'static SupportedProtocolVersion]) -> TlsClient {
        self.client_with(provider(), versions, &[], Some(shown))
    }

    /// A client that can agree on these ciphers and groups alone.
    pub fn client_knowing(&self, provider: CryptoProvider) -> TlsClient {
        self.client_with(Arc::new(provider), rustls::DEFAULT_VERSIONS, &[], None)
    }

    /// A client that trusts this authority, with all that a test may choose.
    fn client_with(
        &self,
        provider: Arc<CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
        shown: Option<&Issued>,
    ) -> TlsClient {
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(self.roots());
        let mut config = match shown {
            Some(shown) => {
                let key = PrivateKeyDer::from_pem_file(&shown.key).unwrap();
                builder.with_client_auth_cert(vec![shown.der.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsClient(Arc::new(config))
    }

    /// A list, in a file of this name, of these certificates of the authority, which are taken back.
    pub fn take_back(&self, file: &str, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.file(file);
        std::fs::write(&path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
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
    /// A client that trusts this authority, in PEM.
    pub fn trusting(pem: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        Self(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }

    /// The same client without what it has learned, so that it is not resumed.
    pub fn anew(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        Self(Arc::new(config))
    }

    /// The same client, which cuts what it says into records of this size.
    pub fn in_records_of(&self, size: usize) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.max_fragment_size = Some(size);
        Self(Arc::new(config))
    }

    /// The first message to a server of this name.
    pub fn hello(&self, name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::clone(&self.0), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    /// The same client, which offers these protocols.
    pub fn speaking(&self, alpn: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

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
