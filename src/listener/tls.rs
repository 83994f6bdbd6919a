//! TLS towards clients: many certificates on one listener, chosen by the name that the client asks for.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::aws_lc_rs::digest;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::{Certificate, Tls, TlsVersion};
use crate::transport::tls::note_server_name;

/// What is wrong with a certificate or its key.
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
    oldest: TlsVersion,
    alpn: Vec<Vec<u8>>,
    certificates: Arc<Certificates>,
    pub(super) config: Arc<ServerConfig>,
}

impl Terms {
    /// Reads the certificates. Where nothing is different from `before`, those are the terms again; where the
    /// certificates alone are, tickets that clients hold stay good.
    pub(super) fn load(said: &Tls, alpn: &[&str], before: Option<&Self>) -> Result<Self, TlsError> {
        let certificates = Arc::new(Certificates::load(&said.certificates)?);
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let before = before.filter(|before| before.alpn == alpn && before.oldest == said.min_version);
        let config = match before {
            Some(before) if before.certificates == certificates => Arc::clone(&before.config),
            _ => {
                let ticketer = before.map(|before| Arc::clone(&before.config.ticketer));
                Arc::new(server_config(said.min_version, alpn.clone(), Arc::clone(&certificates), ticketer)?)
            }
        };
        Ok(Self { oldest: said.min_version, alpn, certificates, config })
    }

    /// Whether the files hold the same.
    pub(super) fn has_certificates_of(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

/// Builds what a listener needs to terminate TLS: certificates, versions, tickets and ALPN.
fn server_config(
    oldest: TlsVersion,
    alpn: Vec<Vec<u8>>,
    certificates: Arc<Certificates>,
    ticketer: Option<Arc<dyn ProducesTickets>>,
) -> Result<ServerConfig, TlsError> {
    let versions = match oldest {
        TlsVersion::V1_2 => vec![&TLS13, &TLS12],
        TlsVersion::V1_3 => vec![&TLS13],
    };
    let unusable = |error: rustls::Error| TlsError { file: PathBuf::from("tls"), what: error.to_string() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&versions)
        .map_err(unusable)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = alpn;
    // Tickets let a herd of clients come back without full handshakes, and hold no memory here. Each costs 7 % of a
    // handshake; one is enough for a connection that comes back, and brings the next.
    config.send_tls13_tickets = 1;
    config.ticketer = match ticketer {
        Some(ticketer) => ticketer,
        None => aws_lc_rs::Ticketer::new().map_err(unusable)?,
    };
    Ok(config)
}

/// Certificates by the names inside them; the first of the list answers for every other name.
#[derive(Debug)]
struct Certificates {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
    /// A hash of what the files hold, to tell whether they are the same.
    fingerprint: Vec<u8>,
}

impl PartialEq for Certificates {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Certificates {
    fn load(list: &[Certificate]) -> Result<Self, TlsError> {
        let mut by_name = HashMap::new();
        let mut default = None;
        let mut fingerprint = digest::Context::new(&digest::SHA256);
        for entry in list {
            let read = [read(&entry.cert)?, read(&entry.key)?];
            let (key, names) = certified(entry, &read)?;
            for file in &read {
                fingerprint.update(&file.len().to_le_bytes());
                fingerprint.update(file);
            }
            for name in names {
                by_name.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            default.get_or_insert(key);
        }
        let none = || TlsError { file: PathBuf::from("tls.certificates"), what: "there is none".to_owned() };
        Ok(Self { by_name, default: default.ok_or_else(none)?, fingerprint: fingerprint.finish().as_ref().to_vec() })
    }

    /// An exact name goes before a wildcard, which stands for one label (RFC 6125 6.4.3).
    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        note_server_name(name);
        Some(Arc::clone(name.map_or(&self.default, |name| self.find(name))))
    }
}

fn certified(entry: &Certificate, [cert, key]: &[Vec<u8>; 2]) -> Result<(Arc<CertifiedKey>, Vec<String>), TlsError> {
    let chain = read_chain(&entry.cert, cert)?;
    let key = read_key(&entry.key, key)?;
    let at = |file: &Path| {
        let file = file.to_owned();
        move |what: String| TlsError { file, what }
    };
    let signer = aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| at(&entry.key)(format!("this key can't be used: {error}")))?;
    let names = {
        let leaf = webpki::EndEntityCert::try_from(&chain[0])
            .map_err(|error| at(&entry.cert)(format!("this certificate can't be used: {error}")))?;
        leaf.valid_dns_names().map(str::to_ascii_lowercase).collect()
    };
    let certified = CertifiedKey::new(chain, signer);
    certified
        .keys_match()
        .map_err(|_| at(&entry.key)(format!("this key does not belong to the certificate {}", entry.cert.display())))?;
    Ok((Arc::new(certified), names))
}

fn read_chain(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |what: String| TlsError { file: file.to_owned(), what };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fail(format!("expected PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(fail("expected PEM certificates, found none".to_owned()));
    }
    Ok(chain)
}

fn read_key(file: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let expected = "expected a PEM private key (PKCS#8, PKCS#1 or SEC1)";
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| TlsError { file: file.to_owned(), what: format!("{expected}: {error}") })
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file)
        .map_err(|error| TlsError { file: file.to_owned(), what: format!("this file can't be read: {error}") })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    fn write(folder: &TempDir, file: &str, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let entry = Certificate {
            cert: folder.path().join(format!("{file}.pem")),
            key: folder.path().join(format!("{file}.key")),
        };
        std::fs::write(&entry.cert, certificate.pem()).unwrap();
        std::fs::write(&entry.key, key.serialize_pem()).unwrap();
        entry
    }

    #[test]
    fn names_choose_exactly_then_by_wildcard_then_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let list = [
            write(&folder, "a", &["a.example"]),
            write(&folder, "w", &["*.w.example"]),
            write(&folder, "x", &["x.w.example"]),
        ];
        let certificates = Certificates::load(&list).unwrap();
        let which = |name: &str| {
            let found = certificates.find(name);
            let order = ["a.example", "*.w.example", "x.w.example"];
            order.iter().position(|name| Arc::ptr_eq(&certificates.by_name[*name], found)).unwrap()
        };
        for (asked, expected) in [
            ("a.example", 0),
            ("A.Example", 0),
            ("b.w.example", 1),
            ("x.w.example", 2),
            ("a.b.w.example", 0),
            ("other", 0),
        ] {
            assert_eq!(which(asked), expected, "{asked}");
        }
    }

    #[test]
    fn tickets_outlive_new_certificates_and_nothing_is_new_where_files_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let certificates = vec![write(&folder, "a", &["a.example"])];
        let said = Tls { certificates, min_version: TlsVersion::V1_2, handshake_timeout: std::time::Duration::ZERO };
        let first = Terms::load(&said, &["h2"], None).unwrap();
        let same = Terms::load(&said, &["h2"], Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first.config, &same.config));
        write(&folder, "a", &["a.example"]);
        let renewed = Terms::load(&said, &["h2"], Some(&same)).unwrap();
        assert!(!Arc::ptr_eq(&same.config, &renewed.config));
        assert!(Arc::ptr_eq(&same.config.ticketer, &renewed.config.ticketer));
        // A ticket of the old terms could bring back what the new ones forbid.
        let stricter = Tls { min_version: TlsVersion::V1_3, ..said };
        let other = Terms::load(&stricter, &["h2"], Some(&renewed)).unwrap();
        assert!(!Arc::ptr_eq(&renewed.config.ticketer, &other.config.ticketer));
    }

    #[test]
    fn broken_files_are_named_with_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let good = write(&folder, "good", &["a.example"]);
        let other = write(&folder, "other", &["b.example"]);
        let garbage = folder.path().join("garbage.pem");
        std::fs::write(&garbage, "not PEM").unwrap();
        let fault = |cert: &Path, key: &Path| {
            Certificates::load(&[Certificate { cert: cert.to_owned(), key: key.to_owned() }]).unwrap_err().to_string()
        };
        assert!(fault(Path::new("/nowhere.pem"), &good.key).starts_with("/nowhere.pem: this file can't be read"));
        assert!(fault(&garbage, &good.key).contains("expected PEM certificates"));
        assert!(fault(&good.cert, &garbage).contains("expected a PEM private key"));
        assert!(fault(&good.cert, &other.key).contains("does not belong to the certificate"));
        assert!(Certificates::load(&[]).is_err());
    }
}
