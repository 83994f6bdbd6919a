//! TLS towards clients: many certificates on one listener, chosen by the name that the client asks for.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
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

/// Builds what a listener needs to terminate TLS: certificates, versions, tickets and ALPN.
///
/// # Errors
/// The first file that can't be read, or that does not hold what it should.
pub fn server_config(tls: &Tls, alpn: &[&str]) -> Result<Arc<ServerConfig>, TlsError> {
    let versions = match tls.min_version {
        TlsVersion::V1_2 => vec![&TLS13, &TLS12],
        TlsVersion::V1_3 => vec![&TLS13],
    };
    let unusable = |error: rustls::Error| TlsError { file: PathBuf::from("tls"), what: error.to_string() };
    let certificates = Certificates::load(&tls.certificates)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&versions)
        .map_err(unusable)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    // Tickets let a herd of clients come back without full handshakes, and hold no memory here.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    Ok(Arc::new(config))
}

/// Certificates by the names inside them; the first of the list answers for every other name.
#[derive(Debug)]
struct Certificates {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl Certificates {
    fn load(list: &[Certificate]) -> Result<Self, TlsError> {
        let mut by_name = HashMap::new();
        let mut default = None;
        for entry in list {
            let (key, names) = load(entry)?;
            for name in names {
                by_name.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            default.get_or_insert(key);
        }
        let none = || TlsError { file: PathBuf::from("tls.certificates"), what: "there is none".to_owned() };
        Ok(Self { by_name, default: default.ok_or_else(none)? })
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

fn load(entry: &Certificate) -> Result<(Arc<CertifiedKey>, Vec<String>), TlsError> {
    let chain = read_chain(&entry.cert)?;
    let key = read_key(&entry.key)?;
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

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |what: String| TlsError { file: file.to_owned(), what };
    let pem = read(file)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fail(format!("expected PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(fail("expected PEM certificates, found none".to_owned()));
    }
    Ok(chain)
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let expected = "expected a PEM private key (PKCS#8, PKCS#1 or SEC1)";
    PrivateKeyDer::from_pem_slice(&read(file)?)
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
