//! Certificates that an authority issues by itself (ACME, RFC 8555): where they lie, and what is answered while one is ordered.
//!
//! Files are all that those who order and those who answer share. So an authority that asks another gateway of the same
//! folder gets its answer there, and a process that takes over knows as much as the one before.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::Acme;

/// What clients offer in place of a protocol where it is an authority that asks (RFC 8737 6.2).
pub(crate) const ALPN: &str = "acme-tls/1";
/// Where an authority asks by HTTP (RFC 8555 8.3).
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";
/// The longest token that is looked for.
const LONGEST_TOKEN: usize = 128;

impl Acme {
    /// The file that its certificate and key lie in; `None` where it has no name.
    pub fn pem(&self) -> Option<PathBuf> {
        Some(self.storage.join(format!("{}.pem", self.domains.first()?)))
    }

    /// The file that what is answered by HTTP lies in.
    pub fn token_file(&self, token: &str) -> PathBuf {
        self.challenges().join(token)
    }

    /// The file that the certificate lies in which is shown in the handshake that an authority asks by.
    pub fn proof_file(&self, domain: &str) -> PathBuf {
        self.challenges().join(format!("{domain}.pem"))
    }

    /// The folder for both.
    pub fn challenges(&self) -> PathBuf {
        self.storage.join("challenges")
    }
}

/// What an authority is told that asks by HTTP for this target, where something is ordered that it can be about.
pub(crate) fn answer(folders: &[PathBuf], target: &str) -> Option<String> {
    let token = target.strip_prefix(WELL_KNOWN)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if token.is_empty() || token.len() > LONGEST_TOKEN || !token.bytes().all(is_plain) {
        return None;
    }
    folders.iter().find_map(|folder| std::fs::read_to_string(folder.join(token)).ok())
}

/// Whether it is an authority that asks: it offers this and nothing else.
pub(super) fn is_asked(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(ALPN.as_bytes()) && offered.next().is_none())
}

/// The certificate that proves to an authority who serves this name.
pub(super) fn proof(acme: &[Acme], name: &str) -> Option<Arc<CertifiedKey>> {
    let domain = |said: &&Acme| said.domains.iter().any(|domain| domain.eq_ignore_ascii_case(name));
    let name = name.to_ascii_lowercase();
    acme.iter().filter(domain).find_map(|said| read_proof(&said.proof_file(&name))).map(Arc::new)
}

fn read_proof(file: &Path) -> Option<CertifiedKey> {
    let pem = std::fs::read(file).ok()?;
    let chain = vec![CertificateDer::from_pem_slice(&pem).ok()?];
    let key = PrivateKeyDer::from_pem_slice(&pem).ok()?;
    Some(CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(&key).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ordered_is_answered_and_no_other_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("challenges");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("Some-token_1"), "Some-token_1.print").unwrap();
        std::fs::write(folder.path().join("secret"), "key").unwrap();
        let ask = |target: &str| answer(&[folder.path().to_owned(), inside.clone()], target);
        assert_eq!(ask("/.well-known/acme-challenge/Some-token_1").as_deref(), Some("Some-token_1.print"));
        for target in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/other",
            "/.well-known/acme-challenge/../secret",
            "/.well-known/acme-challenge/..%2fsecret",
            "/.well-known/acme-challenge/challenges/Some-token_1",
            "/x/.well-known/acme-challenge/Some-token_1",
            "/.well-known/acme-challenge/Some-token_1?x",
        ] {
            assert_eq!(ask(target), None, "{target}");
        }
    }
}
