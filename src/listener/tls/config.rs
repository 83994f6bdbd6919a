//! What the operator says about TLS towards clients: certificates, what is agreed on, tickets, and what browsers are told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::share::Upstreams;

/// `listeners[].tls`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Chosen by the name that the client asks for (SNI), against the names inside each certificate; the first is the default.
    pub certificates: Vec<Certificate>,
    /// The oldest version accepted. Default `1.2`.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// The cipher suites that may be agreed on; the first one that a client knows is. Default: all that there are.
    #[serde(default = "every_cipher")]
    pub ciphers: Vec<Cipher>,
    /// The groups that keys may be exchanged in; of those the client's order decides. Default: the hybrid with ML-KEM,
    /// and the three that everybody knows.
    #[serde(default = "usual_curves")]
    pub curves: Vec<Curve>,
    /// Longest time for the handshake. Default 10 s.
    #[serde(default = "default_handshake", with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// What tickets are sealed with, by which clients come back without a full handshake.
    #[serde(default)]
    pub tickets: Tickets,
    /// Browsers are told to come by TLS alone (RFC 6797). Default: they are not.
    #[serde(default)]
    pub hsts: Option<Hsts>,
    /// Clients are asked for certificates. Default: they are not.
    #[serde(default)]
    pub client_certificates: Option<ClientCertificates>,
    /// Names whose connections are carried on as they are: TLS ends at the server. Default: none.
    #[serde(default)]
    pub passthrough: Vec<Passthrough>,
}

/// One entry of `listeners[].tls.passthrough`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Passthrough {
    /// Names that clients ask for (SNI), such as `a.example` or `*.example`, which stands for all below it.
    pub names: Vec<String>,
    /// The upstream that their connections go to, or several with their shares.
    pub upstream: Upstreams,
}

impl Tls {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let shown = self.certificates.iter().flat_map(|one| {
            let (cert, key) = one.pair();
            [Some(cert), Some(key), one.ocsp.clone()]
        });
        let asked = self.client_certificates.as_ref().map(|asked| [Some(asked.ca.clone()), asked.crl.clone()]);
        shown.chain([self.tickets.keys.clone()]).chain(asked.into_iter().flatten()).flatten()
    }

    /// The certificates that are ordered.
    pub fn acme(&self) -> impl Iterator<Item = &Acme> {
        self.certificates.iter().filter_map(|one| one.acme.as_ref())
    }
}

/// A certificate chain and its key, both PEM; or how they are ordered from an authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificate {
    /// The chain, leaf first.
    #[serde(skip_serializing_if = "is_none")]
    pub cert: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    #[serde(skip_serializing_if = "is_none")]
    pub key: PathBuf,
    /// An OCSP response about it in DER, which clients are shown for as long as it holds. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<PathBuf>,
    /// The names (SNI) that it is shown for. Default: those inside it, and any that no other certificate is for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// In place of files: an authority that issues it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
}

impl Certificate {
    /// The files of the chain and of the key, wherever they come from.
    pub fn pair(&self) -> (PathBuf, PathBuf) {
        match self.acme.as_ref().and_then(Acme::pem) {
            Some(both) => (both.clone(), both),
            None => (self.cert.clone(), self.key.clone()),
        }
    }
}

/// `certificates[].acme`: a certificate that is ordered, and renewed in time (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The names that it is for; the first one names the file.
    pub domains: Vec<String>,
    /// Whom the authority writes to. Default: nobody.
    #[serde(default)]
    pub email: Option<String>,
    /// Where the authority tells its addresses. Default: Let's Encrypt's.
    #[serde(default = "lets_encrypt")]
    pub directory: String,
    /// PEM: the authority that the directory's own certificate comes from. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The folder for certificates, accounts and answers; gateways that share it share them.
    pub storage: PathBuf,
    /// How it is proved who serves the names. Default `tls-alpn-01`.
    #[serde(default)]
    pub challenge: Challenge,
    /// Whose account with the authority it is, where that has one for its customers. Default: nobody's.
    #[serde(default)]
    pub eab: Option<ExternalAccount>,
}

/// `acme.eab`: an account that the authority knows already (RFC 8555 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAccount {
    /// The id of the key that the authority has given for it.
    pub key_id: String,
    /// A file with that key, in base64url.
    pub hmac_file: PathBuf,
}

/// How it is proved to an authority who serves a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Challenge {
    /// In a handshake on port 443 (RFC 8737).
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// In an answer on port 80 (RFC 8555 8.3).
    #[serde(rename = "http-01")]
    Http01,
}

/// A TLS version, as `"1.2"` or `"1.3"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246) and newer.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446) only.
    #[serde(rename = "1.3")]
    V1_3,
}

/// A cipher suite by its name at IANA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Cipher {
    #[serde(rename = "TLS_AES_256_GCM_SHA384")]
    Aes256,
    #[serde(rename = "TLS_AES_128_GCM_SHA256")]
    Aes128,
    #[serde(rename = "TLS_CHACHA20_POLY1305_SHA256")]
    ChaCha20,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")]
    EcdsaAes256,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]
    EcdsaAes128,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")]
    EcdsaChaCha20,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")]
    RsaAes256,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")]
    RsaAes128,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")]
    RsaChaCha20,
}

impl Cipher {
    /// All, the strongest first; TLS 1.3 before TLS 1.2.
    const ALL: [Self; 9] = [
        Self::Aes256,
        Self::Aes128,
        Self::ChaCha20,
        Self::EcdsaAes256,
        Self::EcdsaAes128,
        Self::EcdsaChaCha20,
        Self::RsaAes256,
        Self::RsaAes128,
        Self::RsaChaCha20,
    ];

    /// The only version that it is for.
    pub fn version(self) -> TlsVersion {
        match self {
            Self::Aes256 | Self::Aes128 | Self::ChaCha20 => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        }
    }
}

/// A group to exchange keys in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Curve {
    /// X25519 and ML-KEM-768 together: what is recorded today stays closed to the quantum computers of tomorrow. TLS 1.3 only.
    X25519MlKem768,
    /// The same with NIST's P-256. TLS 1.3 only.
    Secp256r1MlKem768,
    /// Curve25519 (RFC 7748).
    X25519,
    /// NIST's P-256.
    Secp256r1,
    /// NIST's P-384.
    Secp384r1,
}

impl Curve {
    /// Whether TLS 1.2 does not know it.
    pub fn is_new(self) -> bool {
        matches!(self, Self::X25519MlKem768 | Self::Secp256r1MlKem768)
    }
}

/// `listeners[].tls.tickets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tickets {
    /// A file of keys that several gateways share, so that clients are resumed on each of them. Default: a key of the
    /// process's own, that is changed every six hours.
    pub keys: Option<PathBuf>,
}

/// `listeners[].tls.hsts`: `Strict-Transport-Security` in every answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hsts {
    /// How long browsers keep to it. Default 365 days; 0 s makes them forget it.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// For all hosts below this one, too. Default false.
    pub include_subdomains: bool,
    /// Browsers may have it built in. Default false.
    pub preload: bool,
}

impl Hsts {
    /// A year, as lists that are built into browsers want it.
    pub const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    /// The value of the field (RFC 6797 6.1).
    pub fn value(&self) -> String {
        let mut value = format!("max-age={}", self.max_age.as_secs());
        if self.include_subdomains {
            value += "; includeSubDomains";
        }
        if self.preload {
            value += "; preload";
        }
        value
    }
}

impl Default for Hsts {
    fn default() -> Self {
        Self { max_age: Self::YEAR, include_subdomains: false, preload: false }
    }
}

/// `listeners[].tls.client_certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// PEM: the authorities that have to have signed them.
    pub ca: PathBuf,
    /// Whether clients may come without one. Default `required`.
    #[serde(default)]
    pub mode: ClientMode,
    /// PEM: lists of certificates that have been taken back, one of each authority of the chain. Default: none.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// What servers are told of them. Default `subject`, `names` and `fingerprint`.
    #[serde(default = "usual_facts")]
    pub forward: Vec<ClientFact>,
}

/// Whether clients may come without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientMode {
    /// Nobody comes in without.
    #[default]
    Required,
    /// They may; but who shows one has to show one that holds.
    Optional,
}

/// Something that servers are told of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientFact {
    /// `X-Client-Cert-Subject`: its subject (RFC 4514).
    Subject,
    /// `X-Client-Cert-SAN`: its other names.
    Names,
    /// `X-Client-Cert-Fingerprint`: its SHA-256 hash, in hexadecimal digits.
    Fingerprint,
    /// `Client-Cert`: all of it (RFC 9440).
    Certificate,
}

fn is_none(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn lets_encrypt() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".to_owned()
}

fn every_cipher() -> Vec<Cipher> {
    Cipher::ALL.to_vec()
}

fn usual_curves() -> Vec<Curve> {
    vec![Curve::X25519MlKem768, Curve::X25519, Curve::Secp256r1, Curve::Secp384r1]
}

fn usual_facts() -> Vec<ClientFact> {
    vec![ClientFact::Subject, ClientFact::Names, ClientFact::Fingerprint]
}

fn default_handshake() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
pub(crate) mod testing {
    //! What is said where nothing but certificates is.

    use super::*;

    impl Acme {
        /// These names in this folder, and every default.
        pub(crate) fn of(domains: &[&str], storage: &Path) -> Self {
            Self {
                domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
                email: None,
                directory: lets_encrypt(),
                ca: None,
                storage: storage.to_owned(),
                challenge: Challenge::default(),
                eab: None,
            }
        }
    }

    impl Tls {
        /// These certificates, and every default.
        pub(crate) fn showing(certificates: Vec<Certificate>) -> Self {
            Self {
                certificates,
                min_version: TlsVersion::default(),
                ciphers: every_cipher(),
                curves: usual_curves(),
                handshake_timeout: default_handshake(),
                tickets: Tickets::default(),
                hsts: None,
                client_certificates: None,
                passthrough: Vec::new(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_are_told_is_written_as_they_read_it() {
        let value = |max_age, include_subdomains, preload| Hsts { max_age, include_subdomains, preload }.value();
        assert_eq!(value(Hsts::YEAR, true, true), "max-age=31536000; includeSubDomains; preload");
        assert_eq!(value(Duration::ZERO, false, false), "max-age=0");
    }
}
