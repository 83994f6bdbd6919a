//! Certificates by the names inside them, and what is stapled to them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ::aws_lc_rs::digest;
use log::warn;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;
use super::challenges;
use super::config::{Acme, Certificate};
use super::ocsp::{self, Response};
use crate::secrets::Secrets;
use crate::transport::tls::note_server_name;

/// Certificates by the names inside them; the first of the list answers for every other name.
#[derive(Debug)]
pub(super) struct Certificates {
    by_name: HashMap<String, Arc<Shown>>,
    /// `None` where nothing has been issued yet.
    default: Option<Arc<Shown>>,
    /// Those that are ordered.
    acme: Vec<Acme>,
    /// Names of those that have not been issued yet: nothing is shown to who asks for one.
    pending: HashSet<String>,
    /// A hash of what the files hold, to tell whether they are the same.
    pub(super) fingerprint: Vec<u8>,
}

/// A certificate as clients are shown it.
struct Shown {
    key: Arc<CertifiedKey>,
    /// The same with a response stapled to it, and for how long that holds.
    stapled: Option<(Arc<CertifiedKey>, Response)>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("stapled", &self.stapled.as_ref().map(|(_, response)| response)).finish()
    }
}

impl Shown {
    fn at(&self, now: impl FnOnce() -> SystemTime) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((key, response)) if response.holds(now()) => key,
            _ => &self.key,
        }
    }
}

impl Certificates {
    /// `secrets` are files that are in no file system; with them there may be no certificate yet.
    pub(super) fn load(list: &[Certificate], secrets: Option<&Secrets>) -> Result<Self, TlsError> {
        let none = Secrets::default();
        let read = |file: &Path| {
            let read = secrets.unwrap_or(&none).read(file);
            read.map_err(|error| TlsError { file: file.to_owned(), what: format!("this file can't be read: {error}") })
        };
        let mut by_name = HashMap::new();
        let (mut default, mut pending) = (None, HashSet::new());
        let mut fingerprint = digest::Context::new(&digest::SHA256);
        for entry in list {
            let (cert, key) = entry.pair();
            let loaded = match &entry.acme {
                Some(acme) => issued(acme, &cert)?,
                None => {
                    let files = [read(&cert)?, read(&key)?];
                    Some((certified((&cert, &key), &files)?, files))
                }
            };
            let Some(((key, names), files)) = loaded else {
                pending.extend(entry.acme.iter().flat_map(|acme| acme.domains.clone()));
                continue;
            };
            // Clients can do without; whoever looks at files says why they have to.
            let response = entry.ocsp.as_ref().and_then(|file| read(file).ok()).unwrap_or_default();
            for file in files.iter().chain([&response]) {
                fingerprint.update(&file.len().to_le_bytes());
                fingerprint.update(file);
            }
            let shown = Arc::new(Shown { stapled: stapled(&key, response), key: Arc::new(key) });
            let is_for_all = entry.names.is_empty();
            let said = entry.names.iter().map(|name| name.to_ascii_lowercase());
            for name in if is_for_all { names } else { said.collect() } {
                by_name.entry(name).or_insert_with(|| Arc::clone(&shown));
            }
            if is_for_all {
                default.get_or_insert(shown);
            }
        }
        if list.is_empty() && secrets.is_none() {
            return Err(TlsError { file: "tls.certificates".into(), what: "there is none".to_owned() });
        }
        pending.retain(|name| !by_name.contains_key(name));
        let acme = list.iter().filter_map(|entry| entry.acme.clone()).collect();
        Ok(Self { by_name, default, acme, pending, fingerprint: fingerprint.finish().as_ref().to_vec() })
    }

    /// An exact name goes before a wildcard, which stands for one label (RFC 6125 6.4.3).
    fn find(&self, name: &str) -> Option<&Arc<Shown>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        let default = || self.default.as_ref().filter(|_| !self.pending.contains(&name));
        self.by_name.get(&name).or_else(wildcard).or_else(default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        note_server_name(name);
        if !self.acme.is_empty() && challenges::is_asked(&hello) {
            return challenges::proof(&self.acme, name?);
        }
        let shown = name.map_or(self.default.as_ref(), |name| self.find(name))?;
        Some(Arc::clone(shown.at(SystemTime::now)))
    }
}

/// The certificate with this response, where that can be shown.
fn stapled(key: &CertifiedKey, response: Vec<u8>) -> Option<(Arc<CertifiedKey>, Response)> {
    let read = ocsp::read(&response, key.end_entity_cert().ok()?).ok()?;
    Some((Arc::new(CertifiedKey { ocsp: Some(response), ..key.clone() }), read))
}

/// A certificate and the names in it.
type Certified = (CertifiedKey, Vec<String>);
/// The same with what its files hold.
type Read = (Certified, [Vec<u8>; 2]);

/// What an authority has issued, if anything; where it can't be used it is ordered anew.
fn issued(acme: &Acme, pem: &Path) -> Result<Option<Read>, TlsError> {
    let folder = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&acme.storage);
    folder.map_err(|error| TlsError {
        file: acme.storage.clone(),
        what: format!("this folder can't be made: {error}"),
    })?;
    let Ok(both) = std::fs::read(pem) else { return Ok(None) };
    let files = [both.clone(), both];
    match certified((pem, pem), &files) {
        Ok(certified) => Ok(Some((certified, files))),
        Err(error) => {
            warn!("{error}");
            Ok(None)
        }
    }
}

fn certified((cert_file, key_file): (&Path, &Path), [cert, key]: &[Vec<u8>; 2]) -> Result<Certified, TlsError> {
    let chain = read_chain(cert_file, cert)?;
    let key = read_key(key_file, key)?;
    let at = |file: &Path| {
        let file = file.to_owned();
        move |what: String| TlsError { file, what }
    };
    let signer = aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| at(key_file)(format!("this key can't be used: {error}")))?;
    let names = {
        let leaf = webpki::EndEntityCert::try_from(&chain[0])
            .map_err(|error| at(cert_file)(format!("this certificate can't be used: {error}")))?;
        leaf.valid_dns_names().map(str::to_ascii_lowercase).collect()
    };
    let certified = CertifiedKey::new(chain, signer);
    certified
        .keys_match()
        .map_err(|_| at(key_file)(format!("this key does not belong to the certificate {}", cert_file.display())))?;
    Ok((certified, names))
}

/// The names in a certificate that can be shown with this key.
#[cfg(feature = "kubernetes")]
pub(super) fn names(files: (&Path, &Path), pair: &[Vec<u8>; 2]) -> Result<Vec<String>, TlsError> {
    certified(files, pair).map(|(_, names)| names)
}

/// The certificates of a PEM file, at least one.
pub(super) fn read_chain(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::write;
    use super::*;

    #[test]
    fn names_choose_exactly_then_by_wildcard_then_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let list = [
            write(&folder, "a", &["a.example"]),
            write(&folder, "w", &["*.w.example"]),
            write(&folder, "x", &["x.w.example"]),
        ];
        let certificates = Certificates::load(&list, None).unwrap();
        let which = |name: &str| {
            let found = certificates.find(name).unwrap();
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
    fn a_staple_is_shown_for_as_long_as_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::load(&[write(&folder, "a", &["a.example"])], None).unwrap();
        let key = &certificates.default.as_ref().unwrap().key;
        let (from, until) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(10));
        let with = Arc::new(CertifiedKey { ocsp: Some(vec![1]), ..CertifiedKey::clone(key) });
        let shown = Shown { key: Arc::clone(key), stapled: Some((with, Response { from, until })) };
        let has_staple = |second| shown.at(|| from + Duration::from_secs(second)).ocsp.is_some();
        assert_eq!([0, 9, 10, 11].map(has_staple), [true, true, false, false]);
    }

    #[test]
    fn broken_files_are_named_with_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let good = write(&folder, "good", &["a.example"]);
        let other = write(&folder, "other", &["b.example"]);
        let garbage = folder.path().join("garbage.pem");
        std::fs::write(&garbage, "not PEM").unwrap();
        let fault = |cert: &Path, key: &Path| {
            let entry = Certificate { cert: cert.to_owned(), key: key.to_owned(), ..Certificate::default() };
            Certificates::load(&[entry], None).unwrap_err().to_string()
        };
        assert!(fault(Path::new("/nowhere.pem"), &good.key).starts_with("/nowhere.pem: this file can't be read"));
        assert!(fault(&garbage, &good.key).contains("expected PEM certificates"));
        assert!(fault(&good.cert, &garbage).contains("expected a PEM private key"));
        assert!(fault(&good.cert, &other.key).contains("does not belong to the certificate"));
        assert!(Certificates::load(&[], None).is_err());
    }
}
