//! Certificates that clients show: who has to show one, whom they are believed from, and what servers are told of them.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use ::aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};

use super::certificates::read_chain;
use super::config::{ClientCertificates, ClientFact, ClientMode};
use super::{TlsError, read};

/// How clients are asked.
pub(super) struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// A hash of what decides who is believed: the files, and whether all have to show one.
    pub(super) fingerprint: Vec<u8>,
}

impl Clients {
    pub(super) fn load(said: &ClientCertificates, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let pem = read(&said.ca)?;
        let mut roots = RootCertStore::empty();
        for authority in read_chain(&said.ca, &pem)? {
            let what = |error| format!("this authority can't be used: {error}");
            roots.add(authority).map_err(|error| TlsError { file: said.ca.clone(), what: what(error) })?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let mut fingerprint = digest::Context::new(&digest::SHA256);
        fingerprint.update(&pem);
        let mut unusable = said.ca.clone();
        if let Some(file) = &said.crl {
            let pem = read(file)?;
            let lists = CertificateRevocationListDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
            let lists = lists.ok().filter(|lists| !lists.is_empty()).ok_or_else(|| TlsError {
                file: file.clone(),
                what: "expected PEM lists of certificates that have been taken back (X509 CRL)".to_owned(),
            })?;
            builder = builder.with_crls(lists).enforce_revocation_expiration();
            fingerprint.update(b"crl");
            fingerprint.update(&pem);
            unusable.clone_from(file);
        }
        if said.mode == ClientMode::Optional {
            builder = builder.allow_unauthenticated();
            fingerprint.update(b"optional");
        }
        let verifier = builder.build().map_err(|error| TlsError { file: unusable, what: error.to_string() })?;
        Ok(Self { verifier, fingerprint: fingerprint.finish().as_ref().to_vec() })
    }
}

/// Who a client has proved to be by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, as RFC 4514 writes it: the most specific part first.
    pub subject: String,
    /// Its other names: `DNS:`, `email:`, `URI:` and `IP:`, with commas between them.
    pub names: String,
    /// The SHA-256 hash of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// The common name in the subject; an empty text for none.
    pub(crate) common_name: Box<str>,
    /// What the log calls it: the subject, or the fingerprint where there is none.
    pub(crate) logged: Arc<str>,
    /// The certificate, as RFC 9440 writes it, where servers are told all of it.
    encoded: Option<String>,
    told: Vec<ClientFact>,
}

/// The longest value that servers are told: longer ones they would refuse with the whole request.
const LONGEST_VALUE: usize = 8 * 1024;

/// The fields that servers believe of a client's certificate, beside all that begin with [`FIELDS_BEGIN`].
const FIELDS: [&str; 2] = ["client-cert", "client-cert-chain"];
/// How the names of the others begin.
const FIELDS_BEGIN: &str = "x-client-cert";

impl ClientCertificate {
    /// What is told of a certificate that has been found to hold; `None` where it can't be read, which can't be.
    pub(crate) fn read(der: &[u8], told: &[ClientFact]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut fingerprint = String::with_capacity(64);
        hexadecimal(digest::digest(&digest::SHA256, der).as_ref(), &mut fingerprint);
        let encoded = told.contains(&ClientFact::Certificate).then(|| format!(":{}:", STANDARD.encode(der)));
        let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let common_name = common_name.filter(|name| !name.chars().any(char::is_control)).unwrap_or_default().into();
        let (subject, names) = (subject(certificate.subject()), names(&certificate));
        let logged = if subject.is_empty() { &fingerprint } else { &subject }.as_str().into();
        Some(Self { subject, names, common_name, logged, fingerprint, encoded, told: told.to_vec() })
    }

    /// Hands out the fields that servers get, name and value.
    pub(crate) fn tell(&self, mut field: impl FnMut(&'static str, &str)) {
        for fact in &self.told {
            let (name, value) = match fact {
                ClientFact::Subject => ("X-Client-Cert-Subject", &self.subject),
                ClientFact::Names => ("X-Client-Cert-SAN", &self.names),
                ClientFact::Fingerprint => ("X-Client-Cert-Fingerprint", &self.fingerprint),
                ClientFact::Certificate => match &self.encoded {
                    Some(encoded) => ("Client-Cert", encoded),
                    None => continue,
                },
            };
            if !value.is_empty() && value.len() <= LONGEST_VALUE {
                field(name, value);
            }
        }
    }

    /// Whether a field, given in any case, says something of a client's certificate.
    pub(crate) fn is_field(name: &str) -> bool {
        let begin = name.as_bytes().get(..FIELDS_BEGIN.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(FIELDS_BEGIN.as_bytes()))
            || FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
    }
}

/// A distinguished name as RFC 4514 writes it.
fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.into_iter().rev().enumerate() {
        if at > 0 {
            text.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at > 0 {
                text.push('+');
            }
            let kind = attribute.attr_type().to_id_string();
            match (short(&kind), attribute.as_str()) {
                (Some(short), Ok(value)) => {
                    text += short;
                    text.push('=');
                    escape(value, &mut text);
                }
                // What has no short name is written as it is encoded (RFC 4514 2.4).
                _ => {
                    text += &kind;
                    text += "=#";
                    let value = attribute.attr_value();
                    let der = [&[value.header.tag().0 as u8][..], &length(value.data.len()), value.data].concat();
                    hexadecimal(&der, &mut text);
                }
            }
        }
    }
    text
}

/// The short names of RFC 4514 3, and of e-mail addresses, which everybody writes like this.
fn short(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "2.5.4.5" => "serialNumber",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// The length of a value in DER.
fn length(length: usize) -> Vec<u8> {
    match u8::try_from(length) {
        Ok(short @ 0..=127) => vec![short],
        Ok(long) => vec![0x81, long],
        Err(_) => [&[0x80 | 8][..], &(length as u64).to_be_bytes()].concat(),
    }
}

fn hexadecimal(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

/// Writes a value so that nothing in it can be taken for what stands between values, or for the end of a field.
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let special =
            b"\"+,;<>\\=".contains(&byte) || at == 0 && byte == b'#' || (at == 0 || at == last) && byte == b' ';
        let character = char::from(byte);
        let _ = match byte {
            b' '..=b'~' if special => write!(text, "\\{character}"),
            b' '..=b'~' => write!(text, "{character}"),
            _ => write!(text, "\\{byte:02X}"),
        };
    }
}

/// The alternative names of a certificate.
fn names(certificate: &X509Certificate<'_>) -> String {
    let extensions = certificate.extensions().iter().map(|extension| extension.parsed_extension());
    let alternative = extensions.filter_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(names),
        _ => None,
    });
    let mut text = String::new();
    for name in alternative.flat_map(|names| &names.general_names) {
        let (kind, value) = match name {
            GeneralName::DNSName(name) => ("DNS", (*name).to_owned()),
            GeneralName::RFC822Name(name) => ("email", (*name).to_owned()),
            GeneralName::URI(name) => ("URI", (*name).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => ("IP", address.to_string()),
                None => continue,
            },
            _ => continue,
        };
        if !text.is_empty() {
            text.push(',');
        }
        text += kind;
        text.push(':');
        escape(&value, &mut text);
    }
    text
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    const ALL: [ClientFact; 4] =
        [ClientFact::Subject, ClientFact::Names, ClientFact::Fingerprint, ClientFact::Certificate];

    fn certificate(subject: &[(DnType, &str)], names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_told_in_the_words_of_its_rfcs() {
        let names = vec![
            SanType::DnsName("a.test".try_into().unwrap()),
            SanType::Rfc822Name("ops@a.test".try_into().unwrap()),
            SanType::URI("spiffe://a.test/web".try_into().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
        ];
        let subject = [(DnType::CountryName, "CZ"), (DnType::OrganizationName, "A & B"), (DnType::CommonName, "web")];
        let der = certificate(&subject, names);
        let read = ClientCertificate::read(&der, &ALL).unwrap();
        let mut told = Vec::new();
        read.tell(|name, value| told.push((name, value.to_owned())));
        let text = |at: usize| told[at].1.as_str();
        assert_eq!((told[0].0, text(0)), ("X-Client-Cert-Subject", "CN=web,O=A & B,C=CZ"));
        assert_eq!(told[1].0, "X-Client-Cert-SAN");
        assert_eq!(text(1), "DNS:a.test,email:ops@a.test,URI:spiffe://a.test/web,IP:2001:db8::1");
        assert_eq!((told[2].0, text(2).len()), ("X-Client-Cert-Fingerprint", 64));
        assert_eq!(told[3].0, "Client-Cert");
        let encoded = text(3).strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), der);
        assert!(told.iter().all(|(name, _)| ClientCertificate::is_field(name)));
        let mut few = Vec::new();
        ClientCertificate::read(&der, &ALL[2..3]).unwrap().tell(|name, _| few.push(name));
        assert_eq!(few, ["X-Client-Cert-Fingerprint"]);
    }

    #[test]
    fn nothing_in_a_name_can_be_taken_for_another_name_or_another_field() {
        let subject =
            [(DnType::OrganizationName, "x\r\nX-Client-Cert-Subject: CN=root"), (DnType::CommonName, " a,CN=b#\\ ")];
        let uri = "u:x,DNS:root.test";
        let der = certificate(&subject, vec![SanType::URI(uri.try_into().unwrap())]);
        let read = ClientCertificate::read(&der, &ALL).unwrap();
        assert_eq!(read.subject, r"CN=\ a\,CN\=b#\\\ ,O=x\0D\0AX-Client-Cert-Subject: CN\=root");
        assert_eq!(read.names, r"URI:u:x\,DNS:root.test");
        let other = [(DnType::CustomDnType(vec![1, 2, 3]), "ä")];
        let read = ClientCertificate::read(&certificate(&other, Vec::new()), &ALL).unwrap();
        assert_eq!(read.subject, "1.2.3=#0c02c3a4");
    }

    #[test]
    fn what_servers_believe_is_known_in_any_case() {
        for name in
            ["X-Client-Cert-Subject", "x-client-cert", "X-CLIENT-CERT-VERIFIED", "client-cert", "Client-Cert-Chain"]
        {
            assert!(ClientCertificate::is_field(name), "{name}");
        }
        for name in ["", "x-client", "client-certificate", "cookie"] {
            assert!(!ClientCertificate::is_field(name), "{name}");
        }
    }
}
