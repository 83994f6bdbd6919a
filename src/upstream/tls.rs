//! TLS to servers: whom the gateway trusts, and how it proves who it is.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::config::{Kind, Tls};
use super::server::Server;
use crate::address::ServerAddress;

/// What is needed to speak TLS to the servers of one upstream; files are read once, at build.
pub struct ServerTls {
    client_config: Arc<ClientConfig>,
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

impl ServerTls {
    pub(super) fn load(said: &Tls, kind: Kind) -> Result<Self, String> {
        let server_name = said.server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone())
                .map_err(|_| format!("tls.server_name `{name}` is not a host name or an IP address"))
        });
        let server_name = server_name.transpose()?;
        let roots = match (&said.ca, said.verify) {
            (Some(file), _) => certificates(file, "tls.ca")?,
            (None, true) => system_roots()?,
            (None, false) => Vec::new(),
        };
        let identity = match (&said.cert, &said.key) {
            (Some(cert), Some(key)) => Some(ClientIdentity {
                chain: certificates(cert, "tls.cert")?,
                key: PrivateKeyDer::from_pem_file(key)
                    .map_err(|fault| format!("tls.key {}: expected a private key in PEM: {fault}", key.display()))?,
            }),
            (None, None) => None,
            (Some(_), None) => return Err("tls.cert needs tls.key beside it".to_owned()),
            (None, Some(_)) => return Err("tls.key needs tls.cert beside it".to_owned()),
        };
        let client_config = client_config(said, kind, &roots, identity.as_ref())?;
        Ok(Self { client_config: Arc::new(client_config), server_name, verify: said.verify, roots, identity })
    }

    /// The rustls configuration, complete with ALPN `http/1.1` for upstreams that speak HTTP.
    pub fn client_config(&self) -> &Arc<ClientConfig> {
        &self.client_config
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
    said: &Tls,
    kind: Kind,
    roots: &[CertificateDer<'static>],
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, String> {
    // Named here, since Pingora brings a second provider and rustls refuses to guess.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|fault| format!("TLS can't be set up: {fault}"))?;
    let builder = if said.verify {
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
        if added == 0 {
            let source = said.ca.as_ref().map_or("the system's store".to_owned(), |file| file.display().to_string());
            return Err(format!("tls.ca: {source} holds no certificate that can be trusted"));
        }
        builder.with_root_certificates(store)
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

fn certificates(file: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let explain =
        |fault: &dyn std::fmt::Display| format!("{option} {}: expected certificates in PEM: {fault}", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|fault| explain(&fault))?;
    if found.is_empty() {
        return Err(explain(&"there is none in it"));
    }
    Ok(found)
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
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use serde_json::{Value, json};
    use tempfile::TempDir;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::testing::{config, upstream};
    use super::super::{BuildError, Upstream};
    use super::*;

    /// An authority with its certificate in a file, and what it signs.
    struct Authority {
        dir: TempDir,
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
            Self { dir, issuer }
        }

        fn file(&self, name: &str) -> String {
            self.dir.path().join(name).display().to_string()
        }

        fn sign(&self, name: &str) -> (CertificateDer<'static>, KeyPair) {
            let key = KeyPair::generate().unwrap();
            let cert = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
            fs::write(self.dir.path().join("cert.pem"), cert.pem()).unwrap();
            fs::write(self.dir.path().join("key.pem"), key.serialize_pem()).unwrap();
            (cert.der().clone(), key)
        }

        /// A server called `app.test`, which may ask for a certificate. Its handshakes tell the name asked for.
        async fn serve(
            &self,
            wants_certificate: bool,
        ) -> (String, tokio::sync::mpsc::UnboundedReceiver<Option<String>>) {
            let (cert, key) = self.sign("app.test");
            let provider = Arc::new(aws_lc_rs::default_provider());
            let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let builder = builder.unwrap();
            let builder = if wants_certificate {
                let mut roots = RootCertStore::empty();
                roots.add(self.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            } else {
                builder.with_no_client_auth()
            };
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![cert], key).unwrap()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (names, asked) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let name = stream.get_ref().1.server_name().map(str::to_owned);
                        let _ = names.send(name);
                    }
                }
            });
            (address, asked)
        }
    }

    async fn connect(address: &str, tls: Value) -> std::io::Result<()> {
        let upstream = upstream(json!({ "servers": [address], "tls": tls }));
        upstream.connect(&upstream.servers()[0]).await.map(|_| ())
    }

    #[tokio::test]
    async fn a_server_has_to_prove_the_name_it_is_asked_for() {
        let authority = Authority::new();
        let (address, mut asked) = authority.serve(false).await;
        let ca = authority.file("ca.pem");
        connect(&address, json!({ "ca": ca, "server_name": "app.test" })).await.unwrap();
        assert_eq!(asked.recv().await.unwrap().as_deref(), Some("app.test"));

        let fault = connect(&address, json!({ "ca": ca, "server_name": "other.test" })).await.unwrap_err();
        assert!(fault.to_string().contains("not valid for name"), "{fault}");
        let fault = connect(&address, json!({ "ca": ca })).await.unwrap_err();
        assert!(fault.to_string().contains("not valid for name"), "{fault}");
        let stranger = Authority::new();
        let fault = connect(&address, json!({ "ca": stranger.file("ca.pem"), "server_name": "app.test" })).await;
        let fault = fault.unwrap_err().to_string();
        assert!(fault.contains("UnknownIssuer") || fault.contains("BadSignature"), "{fault}");

        connect(&address, json!({ "verify": false })).await.unwrap();
    }

    #[tokio::test]
    async fn the_gateway_shows_its_certificate_where_one_is_wanted() {
        let authority = Authority::new();
        let (address, mut asked) = authority.serve(true).await;
        authority.sign("gateway.test");
        let (cert, key) = (authority.file("cert.pem"), authority.file("key.pem"));
        let shown = json!({
            "ca": authority.file("ca.pem"), "server_name": "app.test", "cert": cert, "key": key,
        });
        connect(&address, shown).await.unwrap();
        assert!(asked.recv().await.is_some());
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let authority = Authority::new();
        authority.sign("gateway.test");
        let build = |tls: Value| -> Result<_, BuildError> {
            Upstream::build("web", &config(json!({ "servers": ["10.0.0.1:1"], "tls": tls })))
        };
        let fault = |tls: Value| build(tls).unwrap_err().to_string();
        let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| authority.file(name));
        assert_eq!(
            fault(json!({ "ca": key })),
            format!("upstream `web`: tls.ca {key}: expected certificates in PEM: there is none in it")
        );
        let start = format!("upstream `web`: tls.key {cert}: expected a private key in PEM: ");
        assert!(fault(json!({ "ca": ca, "cert": cert, "key": cert })).starts_with(&start));
        let other = fault(json!({ "ca": ca, "cert": ca, "key": key }));
        assert!(other.starts_with("upstream `web`: tls.cert and tls.key don't go together: "), "{other}");
        let name = fault(json!({ "ca": ca, "server_name": "not a name" }));
        assert_eq!(name, "upstream `web`: tls.server_name `not a name` is not a host name or an IP address");

        let built = build(json!({ "ca": ca, "cert": cert, "key": key })).unwrap();
        let tls = built.tls().unwrap();
        assert_eq!((tls.roots().len(), tls.identity().unwrap().chain.len(), tls.verify()), (1, 1, true));
        assert_eq!(tls.server_name(&built.servers()[0]).unwrap().to_str(), "10.0.0.1");
    }
}
