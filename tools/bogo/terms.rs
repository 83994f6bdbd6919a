//! What may be agreed on, as the flags of a test say it.

use std::fs::read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs::{self, ALL_KX_GROUPS, default_provider};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sockgate::internals::tls::note_server_name;

use crate::options::{Options, VERSIONS};

/// What the shim is told to be.
pub(crate) struct Terms {
    pub(crate) side: Side,
    pub(crate) sessions: Sessions,
}

pub(crate) enum Side {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>),
}

/// What outlives a connection, and terms that change.
pub(crate) struct Sessions {
    ticketer: Arc<dyn ProducesTickets>,
    kept: Arc<dyn StoresServerSessions>,
    known: Resumption,
    /// Whether the peer's certificates are found bad.
    pub(crate) certificates_fail: Arc<AtomicBool>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            ticketer: aws_lc_rs::Ticketer::new().expect("random bytes"),
            kept: ServerSessionMemoryCache::new(256),
            known: Resumption::default(),
            certificates_fail: Arc::default(),
        }
    }
}

impl Terms {
    /// # Errors
    /// What is asked for and not there.
    pub(crate) fn build(options: &Options, sessions: Sessions) -> Result<Self, String> {
        let provider = Arc::new(provider(&options.curves)?);
        let versions: Vec<&SupportedProtocolVersion> = [(VERSIONS[1], &TLS13), (VERSIONS[0], &TLS12)]
            .into_iter()
            .filter_map(|(number, version)| options.versions.contains(&number).then_some(version))
            .collect();
        let key = match (&options.certificate, &options.key) {
            (Some(certificate), Some(key)) => Some(certified(certificate, key, &options.ocsp)?),
            _ => None,
        };
        let peer = Arc::new(Peer {
            provider: Arc::clone(&provider),
            fails: Arc::clone(&sessions.certificates_fail),
            required: options.require_certificate,
        });
        let fault = |error: Error| error.to_string();
        if options.server {
            let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
            let builder = builder.map_err(fault)?;
            let builder = if options.verify_peer {
                builder.with_client_cert_verifier(peer)
            } else {
                builder.with_no_client_auth()
            };
            let mut config = builder.with_cert_resolver(Arc::new(Shown(key.ok_or("a server without a certificate")?)));
            config.alpn_protocols = options.alpn.clone();
            // As in the gateway's own terms.
            config.ignore_client_order = true;
            config.send_tls13_tickets = 1;
            config.session_storage = Arc::clone(&sessions.kept);
            if options.tickets {
                config.ticketer = Arc::clone(&sessions.ticketer);
            } else {
                config.send_tls13_tickets = 0;
            }
            return Ok(Self { side: Side::Server(Arc::new(config)), sessions });
        }
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions).map_err(fault)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(peer);
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn.clone();
        config.enable_sni = options.host_name.is_some();
        let known = sessions.known.clone();
        let how = if options.tickets { Tls12Resumption::SessionIdOrTickets } else { Tls12Resumption::SessionIdOnly };
        config.resumption = known.tls12_resumption(how);
        Ok(Self { side: Side::Client(Arc::new(config)), sessions })
    }
}

/// The gateway's provider, with the groups that are asked for.
fn provider(curves: &[u16]) -> Result<CryptoProvider, String> {
    let mut provider = default_provider();
    provider.kx_groups = ALL_KX_GROUPS.to_vec();
    if !curves.is_empty() {
        let group = |curve: &u16| {
            let mut all = ALL_KX_GROUPS.iter();
            all.find(|group| u16::from(group.name()) == *curve).copied().ok_or(format!("group {curve:x}"))
        };
        provider.kx_groups = curves.iter().map(group).collect::<Result<_, _>>()?;
    }
    Ok(provider)
}

fn certified(certificate: &Path, key: &Path, ocsp: &[u8]) -> Result<CertifiedKey, String> {
    let pem = read(certificate).map_err(|error| error.to_string())?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let pem = read(key).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    let mut certified = CertifiedKey::new(chain, key);
    certified.ocsp = (!ocsp.is_empty()).then(|| ocsp.to_vec());
    Ok(certified)
}

/// One certificate for whoever asks.
#[derive(Debug)]
struct Shown(CertifiedKey);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        note_server_name(hello.server_name());
        Some(Arc::new(self.0.clone()))
    }
}

/// Takes the certificates of the suite, which are about anything but trust; what is signed with them has to hold.
#[derive(Debug)]
struct Peer {
    provider: Arc<CryptoProvider>,
    fails: Arc<AtomicBool>,
    required: bool,
}

impl Peer {
    fn verdict<T>(&self, good: T) -> Result<T, Error> {
        if self.fails.load(Relaxed) { Err(CertificateError::ApplicationVerificationFailure.into()) } else { Ok(good) }
    }

    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Peer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verdict(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Peer {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verdict(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
