//! TLS towards clients: what a listener shows, asks for and agrees on.

mod certificates;
pub(crate) mod challenges;
mod clients;
pub mod config;
pub(crate) mod ocsp;
mod passthrough;
pub(crate) mod tickets;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::aws_lc_rs::digest;
use ::http::HeaderValue;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group as group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::ProducesTickets;
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

pub use clients::ClientCertificate;
pub(super) use passthrough::{Asked, Names};

use certificates::Certificates;
use clients::Clients;
use config::{Challenge, Cipher, ClientFact, Curve, Tls, TlsVersion};
use tickets::KeyFile;

use crate::secrets::Secrets;

/// What is wrong with a certificate, its key, or another file.
#[derive(Debug)]
pub struct TlsError {
    file: PathBuf,
    what: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

impl std::error::Error for TlsError {}

/// How a listener speaks TLS.
pub(super) struct Terms {
    pub(super) config: Arc<ServerConfig>,
    /// What servers are told of a client's certificate.
    pub(super) facts: Vec<ClientFact>,
    /// What is said in `Strict-Transport-Security`.
    pub(super) hsts: Option<Arc<HeaderValue>>,
    /// Names whose connections are carried on as they are.
    pub(super) passthrough: Option<Names>,
    /// Whether tickets are sealed with keys of the process's own.
    own_keys: bool,
    /// A hash of what the files hold.
    files: Vec<u8>,
    /// A hash of all that is not the certificates': a ticket that was given under other terms could bring back what these
    /// forbid.
    ground: Vec<u8>,
}

impl Terms {
    /// Reads the files. Where nothing is different from `before`, its configuration is the very same again; where the
    /// certificates alone are, tickets that clients hold stay good.
    pub(super) fn load(
        said: &Tls,
        alpn: &[&str],
        secrets: Option<&Secrets>,
        before: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(said));
        let certificates = Certificates::load(&said.certificates, secrets)?;
        let clients = said.client_certificates.as_ref();
        let clients = clients.map(|said| Clients::load(said, Arc::clone(&provider))).transpose()?;
        let mut terms = clients.as_ref().map(|clients| clients.fingerprint.clone()).unwrap_or_default();
        terms.push(u8::from(said.min_version == TlsVersion::V1_3));
        let key_file = said.tickets.keys.as_ref().map(|file| KeyFile::load(file, terms.clone())).transpose()?;
        let (key_file, keys) = key_file.unzip();
        let ground = hash([&terms[..], format!("{:?} {:?} {alpn:?}", said.ciphers, said.curves).as_bytes()]);
        let files = hash([&certificates.fingerprint, &terms, keys.as_deref().unwrap_or_default()]);
        let own_keys = key_file.is_none();
        let before = before.filter(|before| before.ground == ground && before.own_keys == own_keys);
        let config = match before {
            Some(before) if before.files == files => Arc::clone(&before.config),
            _ => {
                let ticketer: Arc<dyn ProducesTickets> = match (key_file, before) {
                    (Some(keys), _) => Arc::new(keys),
                    (None, Some(before)) => Arc::clone(&before.config.ticketer),
                    (None, None) => aws_lc_rs::Ticketer::new().map_err(unusable)?,
                };
                Arc::new(server_config(said, provider, alpn, certificates, clients, ticketer)?)
            }
        };
        let facts = said.client_certificates.as_ref().map(|said| said.forward.clone()).unwrap_or_default();
        // It is made of digits and known words.
        let hsts = said.hsts.as_ref().and_then(|hsts| HeaderValue::try_from(hsts.value()).ok()).map(Arc::new);
        let passthrough = Names::new(&said.passthrough);
        Ok(Self { config, facts, hsts, passthrough, own_keys, files, ground })
    }

    /// Whether the files hold the same.
    pub(super) fn has_files_of(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

/// Reads everything that is said of TLS, and keeps nothing of it.
///
/// # Errors
/// The first of what can't be used.
pub(crate) fn try_to_load(said: &Tls) -> Result<(), TlsError> {
    Terms::load(said, &[], None, None).map(drop)
}

/// Tries a chain and its key, both in PEM; gives the names in the certificate.
///
/// # Errors
/// Why they can't be shown.
#[cfg(feature = "kubernetes")]
pub(crate) fn try_pair(pair: &[Vec<u8>; 2]) -> Result<Vec<String>, TlsError> {
    certificates::names((Path::new("tls.crt"), Path::new("tls.key")), pair)
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finish().as_ref().to_vec()
}

fn unusable(error: rustls::Error) -> TlsError {
    TlsError { file: PathBuf::from("tls"), what: error.to_string() }
}

/// What may be agreed on.
fn provider(said: &Tls) -> CryptoProvider {
    let cipher_suites = said.ciphers.iter().map(|&cipher| suite_of(cipher)).collect();
    let kx_groups = said.curves.iter().map(|&curve| group_of(curve)).collect();
    CryptoProvider { cipher_suites, kx_groups, ..default_provider() }
}

fn suite_of(cipher: Cipher) -> SupportedCipherSuite {
    match cipher {
        Cipher::Aes256 => suite::TLS13_AES_256_GCM_SHA384,
        Cipher::Aes128 => suite::TLS13_AES_128_GCM_SHA256,
        Cipher::ChaCha20 => suite::TLS13_CHACHA20_POLY1305_SHA256,
        Cipher::EcdsaAes256 => suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Cipher::EcdsaAes128 => suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Cipher::EcdsaChaCha20 => suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        Cipher::RsaAes256 => suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        Cipher::RsaAes128 => suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        Cipher::RsaChaCha20 => suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn group_of(curve: Curve) -> &'static dyn SupportedKxGroup {
    match curve {
        Curve::X25519MlKem768 => group::X25519MLKEM768,
        Curve::Secp256r1MlKem768 => group::SECP256R1MLKEM768,
        Curve::X25519 => group::X25519,
        Curve::Secp256r1 => group::SECP256R1,
        Curve::Secp384r1 => group::SECP384R1,
    }
}

/// The versions that the ciphers leave, from the oldest one on.
fn versions(said: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    let has = |version| said.ciphers.iter().any(|cipher| cipher.version() == version);
    let new = has(TlsVersion::V1_3).then_some(&TLS13);
    let old = (said.min_version == TlsVersion::V1_2 && has(TlsVersion::V1_2)).then_some(&TLS12);
    new.into_iter().chain(old).collect()
}

/// Builds what a listener needs to terminate TLS.
fn server_config(
    said: &Tls,
    provider: Arc<CryptoProvider>,
    alpn: &[&str],
    certificates: Certificates,
    clients: Option<Clients>,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions(said)).map_err(unusable)?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    let asked = said.acme().any(|acme| acme.challenge == Challenge::TlsAlpn01).then_some(challenges::ALPN);
    config.alpn_protocols = alpn.iter().copied().chain(asked).map(|protocol| protocol.as_bytes().to_vec()).collect();
    // The operator's order of ciphers, the strongest first by default: some clients begin with what they find cheapest.
    config.ignore_client_order = true;
    // Tickets let a herd of clients come back without full handshakes, and hold no memory here. Each costs 7 % of a
    // handshake; one is enough for a connection that comes back, and brings the next.
    config.send_tls13_tickets = 1;
    config.ticketer = ticketer;
    Ok(config)
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file)
        .map_err(|error| TlsError { file: file.to_owned(), what: format!("this file can't be read: {error}") })
}

#[cfg(test)]
mod testing {
    //! Certificates in files.

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::config::Certificate;

    pub(super) fn write(folder: &TempDir, file: &str, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let at = |ending: &str| folder.path().join(format!("{file}.{ending}"));
        let entry = Certificate { cert: at("pem"), key: at("key"), ..Certificate::default() };
        std::fs::write(&entry.cert, certificate.pem()).unwrap();
        std::fs::write(&entry.key, key.serialize_pem()).unwrap();
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::config::{ClientCertificates, ClientMode, Tickets};
    use super::testing::write;
    use super::*;

    fn has_same_tickets(one: &Terms, other: &Terms) -> bool {
        Arc::ptr_eq(&one.config.ticketer, &other.config.ticketer)
    }

    #[test]
    fn tickets_outlive_new_certificates_and_nothing_is_new_where_files_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let said = Tls::showing(vec![write(&folder, "a", &["a.example"])]);
        let first = Terms::load(&said, &["h2"], None, None).unwrap();
        let same = Terms::load(&said, &["h2"], None, Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first.config, &same.config));
        write(&folder, "a", &["a.example"]);
        let renewed = Terms::load(&said, &["h2"], None, Some(&same)).unwrap();
        assert!(!Arc::ptr_eq(&same.config, &renewed.config) && !renewed.has_files_of(&same));
        assert!(has_same_tickets(&same, &renewed));
    }

    #[test]
    fn a_ticket_brings_back_nothing_that_newer_terms_forbid() {
        let folder = tempfile::tempdir().unwrap();
        let said = Tls::showing(vec![write(&folder, "a", &["a.example"])]);
        let first = Terms::load(&said, &["h2"], None, None).unwrap();
        let ca = write(&folder, "ca", &["ca.example"]).cert;
        let asked = |mode| ClientCertificates { ca: ca.clone(), mode, crl: None, forward: Vec::new() };
        let with = |mode| Tls { client_certificates: Some(asked(mode)), ..said.clone() };
        let keys = folder.path().join("tickets.key");
        std::fs::write(&keys, [7; 48]).unwrap();
        let shared = |tls: Tls| Tls { tickets: Tickets { keys: Some(keys.clone()) }, ..tls };
        let stricter = Tls { min_version: TlsVersion::V1_3, ..said.clone() };
        for other in [stricter, with(ClientMode::Required), with(ClientMode::Optional)] {
            let terms = Terms::load(&other, &["h2"], None, Some(&first)).unwrap();
            assert!(!has_same_tickets(&first, &terms), "{other:?}");
            // A shared key knows nothing of the process, so it has to be the ticket itself that does not open.
            let (before, after) = (shared(said.clone()), shared(other));
            let load = |tls: &Tls| Terms::load(tls, &["h2"], None, None).unwrap().config;
            let ticket = load(&before).ticketer.encrypt(b"state").unwrap();
            assert_eq!(load(&after).ticketer.decrypt(&ticket), None);
            assert_eq!(load(&before).ticketer.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        }
    }

    #[test]
    fn ciphers_decide_which_versions_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let all = Tls::showing(vec![write(&folder, "a", &["a.example"])]);
        let with = |ciphers: &[Cipher]| {
            let said = Tls { ciphers: ciphers.to_vec(), ..all.clone() };
            assert!(Terms::load(&said, &[], None, None).is_ok());
            versions(&said).iter().map(|version| version.version).collect::<Vec<_>>()
        };
        assert_eq!(versions(&all).len(), 2);
        assert_eq!(with(&[Cipher::Aes128]), [TLS13.version]);
        assert_eq!(with(&[Cipher::EcdsaAes128]), [TLS12.version]);
    }
}
