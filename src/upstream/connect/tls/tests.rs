//! Handshakes with servers of an authority made for the test.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::upstream::testing::{config, metrics, upstream};
use crate::upstream::{BuildError, Upstream};

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
    async fn serve(&self, wants_certificate: bool) -> (String, tokio::sync::mpsc::UnboundedReceiver<Option<String>>) {
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
    upstream.connect(&upstream.servers()[0], None).await.map(|_| ())
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
        Upstream::build("web", &config(json!({ "servers": ["10.0.0.1:1"], "tls": tls })), metrics())
    };
    let fault = |tls: Value| build(tls).unwrap_err().to_string();
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| authority.file(name));
    assert_eq!(
        fault(json!({ "ca": key })),
        format!("upstream `web`: tls.ca {key}: expected certificates in PEM: there is none in it")
    );
    let garbage = authority.file("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for (tls, option) in
        [(json!({ "ca": garbage }), "tls.ca"), (json!({ "ca": ca, "cert": garbage, "key": key }), "tls.cert")]
    {
        let start = format!("upstream `web`: {option} {garbage}: expected certificates in PEM: ");
        assert!(fault(tls).starts_with(&start));
    }
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
