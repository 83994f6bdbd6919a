//! What lies on the disk: certificates with their keys, accounts, answers for the authority, and a lock.
//!
//! A file comes whole into the place of the one before, and nobody but the gateway's user can read it. Certificate and key
//! are in one file, so that no reader ever finds the one without the other.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::CertificateIdentifier;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::listener::tls::config::Acme;

/// The right to order for one folder; given back when dropped, and when the process ends.
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// `None` while another gateway has it.
    pub(super) fn take(said: &Acme) -> io::Result<Option<Self>> {
        folder(&said.storage)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(said.storage.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }
}

/// A folder that nobody else looks into.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Puts a file in the place of the one before.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        folder(parent)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = Path::new(&name);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// A certificate that has been issued before.
#[derive(Debug)]
pub(super) struct Stored {
    begins: u64,
    ends: u64,
    names: Vec<String>,
    /// The identifier of its authority's key, and its own number, as they are encoded.
    authority: Vec<u8>,
    serial: Vec<u8>,
}

impl Stored {
    /// The one that lies there; `None` where there is none that can be read.
    pub(super) fn read(said: &Acme) -> Option<Self> {
        Self::parse(&fs::read(said.pem()?).ok()?)
    }

    /// The first certificate in PEM.
    pub(super) fn parse(pem: &[u8]) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let at = |time: i64| u64::try_from(time).unwrap_or(0);
        let validity = certificate.validity();
        let names = certificate.subject_alternative_name().ok()??.value.general_names.iter();
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let (begins, ends) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        let authority = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(authority) => Some(authority.key_identifier.as_ref()?.0.to_vec()),
            _ => None,
        });
        let (authority, serial) = (authority.unwrap_or_default(), certificate.raw_serial().to_vec());
        Some(Self { begins, ends, names: names.collect(), authority, serial })
    }

    /// What its authority calls it (RFC 9773 4.1); `None` where it does not say whose it is.
    pub(super) fn identifier(&self) -> Option<CertificateIdentifier<'static>> {
        let encoded = |bytes: &[u8]| Cow::Owned(URL_SAFE_NO_PAD.encode(bytes));
        let (authority_key_identifier, serial) = (encoded(&self.authority), encoded(&self.serial));
        (!self.authority.is_empty()).then_some(CertificateIdentifier { authority_key_identifier, serial })
    }

    /// Whether all of these names are in it.
    pub(super) fn has(&self, domains: &[String]) -> bool {
        domains.iter().all(|domain| self.names.contains(domain))
    }

    /// How long it is until it should be renewed: after two thirds of its life. `None` where it should be now, since it is
    /// time, or it lacks a name.
    pub(super) fn good_for(&self, domains: &[String], now: SystemTime) -> Option<Duration> {
        if !self.has(domains) {
            return None;
        }
        let due = UNIX_EPOCH + Duration::from_secs(self.begins + self.ends.saturating_sub(self.begins) * 2 / 3);
        // Gateways of one folder don't ask at the same moment, and neither do all that were set up on one day.
        let jitter = Duration::from_secs(self.ends.saturating_sub(self.begins)).mul_f64(0.02 * jitter());
        due.duration_since(now).ok().filter(|left| !left.is_zero()).map(|left| left + jitter)
    }
}

/// The same for the life of the process, from 0 to 1.
pub(super) fn jitter() -> f64 {
    static JITTER: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *JITTER.get_or_init(rand::random)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn said(folder: &Path) -> Acme {
        Acme::of(&["a.test", "b.test"], folder)
    }

    #[test]
    fn a_file_is_its_owners_and_comes_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.pem");
        for text in ["one", "two"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn one_gateway_of_a_folder_orders() {
        let folder = tempfile::tempdir().unwrap();
        let said = said(folder.path());
        let first = Lock::take(&said).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(&said).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&said).unwrap().is_some());
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life_or_for_another_name() {
        let stored = Stored {
            begins: 1000,
            ends: 1000 + 90,
            names: vec!["a.test".to_owned(), "b.test".to_owned()],
            authority: vec![1],
            serial: vec![2],
        };
        let good = |names: &[&str], second| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            stored.good_for(&names, UNIX_EPOCH + Duration::from_secs(second)).map(|left| left.as_secs())
        };
        assert!(good(&["a.test"], 1000).is_some_and(|left| (60..=62).contains(&left)));
        assert!(good(&["a.test", "b.test"], 1059).is_some());
        assert_eq!(good(&["a.test"], 1060), None);
        assert_eq!(good(&["a.test", "c.test"], 1000), None);
    }
}
