//! What is worth knowing of the certificates and keys that a configuration names: until when they are good, and who can
//! read them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

use crate::config::{Config, Lint};
use crate::listener::tls::config::Certificate;
use crate::listener::tls::ocsp;
use crate::secrets::Secrets;

/// A certificate should have been renewed so long before its end, and one that lives for days in the last quarter of that.
const LATE: Duration = Duration::from_secs(14 * 24 * 3600);

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// When the first certificate of each file ends, or the response or list in it, in seconds of Unix time.
    pub(crate) ends: Vec<(PathBuf, i64)>,
    /// What is wrong with them, though they can be loaded.
    pub(crate) warnings: Vec<Warning>,
    /// Files that are in no file system.
    secrets: Secrets,
}

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) lint: Lint,
    pub(crate) file: PathBuf,
    pub(crate) what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.file.display(), self.what, self.lint)
    }
}

impl Certificates {
    /// Looks at every file of a configuration. What can't be read is for whoever loads it to complain about.
    pub(crate) fn of(config: &Config) -> Self {
        let of_admin = config.admin.iter().filter_map(|admin| admin.tls.as_ref());
        let tls = config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let tls: Vec<_> = tls.chain(of_admin).collect();
        let pairs: Vec<_> = tls.iter().flat_map(|tls| &tls.certificates).map(Certificate::pair).collect();
        let shown = pairs.iter().map(|(cert, key)| (Some(cert), Some(key)));
        let asked = tls.iter().filter_map(|tls| tls.client_certificates.as_ref());
        let upstreams: Vec<_> = config.upstreams.values().filter_map(|upstream| upstream.tls.as_ref()).collect();
        let to_servers = upstreams.iter().map(|tls| (tls.cert.as_ref(), tls.key.as_ref()));
        let trusted = upstreams.iter().filter(|tls| tls.verify).map(|tls| (tls.ca.as_ref(), None));
        let trusted = trusted.chain(asked.clone().map(|asked| (Some(&asked.ca), None)));
        let sealed = tls.iter().map(|tls| (None, tls.tickets.keys.as_ref()));
        let secrets = config.secrets.clone().unwrap_or_default();
        let (mut found, now) = (Self { secrets, ..Self::default() }, SystemTime::now());
        let access = config.access.iter().chain(config.routes.iter().filter_map(|route| route.access.as_ref()));
        let users = access.filter_map(|access| access.basic.as_ref()).flat_map(|basic| basic.users.files());
        let accounts = tls.iter().flat_map(|tls| tls.acme()).filter_map(|acme| Some(&acme.eab.as_ref()?.hmac_file));
        let tokens = config.admin.iter().filter_map(|admin| admin.token_file.as_ref());
        for (cert, key) in shown.chain(to_servers).chain(trusted).chain(sealed) {
            if let Some(cert) = cert.filter(|cert| !found.knows(cert)) {
                found.certificate(cert, now);
            }
            if let Some(key) = key {
                found.key(key);
            }
        }
        for pair in tls.iter().flat_map(|tls| &tls.certificates) {
            if let Some(file) = pair.ocsp.as_ref().filter(|file| !found.knows(file)) {
                found.response(file, &pair.cert, now);
            }
        }
        for list in asked.filter_map(|asked| asked.crl.as_ref()) {
            if !found.knows(list) {
                found.list(list, now);
            }
        }
        users.chain(accounts).chain(tokens).for_each(|secret| found.key(secret));
        found.warnings.retain(|warning| !config.lint.allow.contains(&warning.lint));
        found
    }

    fn knows(&self, file: &Path) -> bool {
        self.ends.iter().any(|(known, _)| known == file)
    }

    fn certificate(&mut self, file: &Path, now: SystemTime) {
        let Ok(pem) = self.secrets.read(file) else { return };
        let chain = CertificateDer::pem_slice_iter(&pem).map_while(Result::ok);
        let validity = |der: CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(&der).ok()?;
            let validity = certificate.validity();
            Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
        };
        let validity = chain.filter_map(validity).reduce(|one, two| (one.0.max(two.0), one.1.min(two.1)));
        if let Some((begins, ends)) = validity {
            self.life(file, (at(begins), at(ends)), now);
        }
    }

    /// A response that is stapled to a certificate. Clients can do without, but somebody wants them not to.
    fn response(&mut self, file: &Path, cert: &Path, now: SystemTime) {
        let leaf = fs::read(cert).ok().and_then(|pem| CertificateDer::from_pem_slice(&pem).ok());
        let Some(leaf) = leaf else { return };
        let read = match fs::read(file) {
            Ok(response) => ocsp::read(&response, &leaf).map_err(str::to_owned),
            Err(error) => Err(format!("this file can't be read: {error}")),
        };
        match read {
            Ok(response) => self.life(file, (response.from, response.until), now),
            Err(what) => {
                let what = format!("{what}: nothing is stapled to {}", cert.display());
                self.warnings.push(Warning { lint: Lint::StapleUnused, file: file.to_owned(), what });
            }
        }
    }

    /// Lists of certificates that have been taken back: with one that is over, clients of its authority are refused.
    fn list(&mut self, file: &Path, now: SystemTime) {
        let Ok(pem) = fs::read(file) else { return };
        let lists = CertificateRevocationListDer::pem_slice_iter(&pem).map_while(Result::ok);
        let life = |der: CertificateRevocationListDer<'_>| {
            let (_, list) = CertificateRevocationList::from_der(&der).ok()?;
            Some((list.last_update().timestamp(), list.next_update()?.timestamp()))
        };
        let life = lists.filter_map(life).reduce(|one, two| (one.0.max(two.0), one.1.min(two.1)));
        if let Some((begins, ends)) = life {
            self.life(file, (at(begins), at(ends)), now);
        }
    }

    /// Notes from when until when a file is good, and warns of the wrong time for it.
    fn life(&mut self, file: &Path, (begins, ends): (SystemTime, SystemTime), now: SystemTime) {
        let mut warn = |lint, what: &str, when: SystemTime| {
            let what = format!("{what} {}", format_rfc3339_seconds(when));
            self.warnings.push(Warning { lint, file: file.to_owned(), what });
        };
        let life = ends.duration_since(begins).unwrap_or_default();
        if ends < now {
            warn(Lint::CertificateExpired, "expired at", ends);
        } else if begins > now {
            warn(Lint::CertificateEarly, "not valid before", begins);
        } else if ends.duration_since(now).is_ok_and(|left| left < LATE.min(life / 4)) {
            warn(Lint::CertificateEnds, "expires soon, at", ends);
        }
        let ends = ends.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.ends.push((file.to_owned(), i64::try_from(ends).unwrap_or(i64::MAX)));
    }

    fn key(&mut self, file: &Path) {
        let what = "every user of this machine can read this key: chmod o-r".to_owned();
        let warning = Warning { lint: Lint::ReadableByOthers, file: file.to_owned(), what };
        if others_read(file) && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// Whether every user of this machine can read a file.
pub(super) fn others_read(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|about| about.permissions().mode() & 0o004 != 0)
}

/// The names and addresses that the first certificate of a file is for; `None` where it can't be read.
pub(super) fn names(file: &Path) -> Option<Vec<String>> {
    let der = CertificateDer::from_pem_slice(&fs::read(file).ok()?).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    Some(names.iter().flat_map(|names| &names.value.general_names).filter_map(text).collect())
}

/// Says again what is wrong with certificates, for as long as it is: what was good when it was loaded may be so no longer.
#[derive(Debug, Default)]
pub(super) struct Reminder {
    told: HashMap<String, Instant>,
}

impl Reminder {
    /// How often certificates are looked at.
    pub(super) const EVERY: Duration = Duration::from_secs(3600);
    /// How often each warning is said at most.
    const AGAIN: Duration = Duration::from_secs(24 * 3600);

    /// Those warnings that are to be said now.
    pub(super) fn due(&mut self, warnings: Vec<String>, now: Instant) -> Vec<String> {
        self.told.retain(|warning, _| warnings.contains(warning));
        let is_due = |warning: &String| match self.told.entry(warning.clone()) {
            Entry::Occupied(mut told) => {
                let due = now.duration_since(*told.get()) >= Self::AGAIN;
                if due {
                    told.insert(now);
                }
                due
            }
            Entry::Vacant(untold) => {
                untold.insert(now);
                true
            }
        };
        warnings.into_iter().filter(is_due).collect()
    }
}

/// A time of a certificate; those before 1970 are as good as 1970.
fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn certificates_that_should_have_been_renewed_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cert.pem");
        let told = |days: u64, left: u64| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 1));
            params.not_after += Duration::from_secs(days * 24 * 3600);
            fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
            let begins = UNIX_EPOCH + Duration::from_secs(1_577_836_800);
            let mut found = Certificates::default();
            found.certificate(&file, begins + Duration::from_secs((days - left) * 24 * 3600 + 3600));
            found
                .warnings
                .iter()
                .map(|warning| format!("{}: {}", warning.file.display(), warning.what))
                .collect::<Vec<_>>()
        };
        assert_eq!((told(90, 15).len(), told(8, 3).len()), (0, 0));
        assert_eq!(told(90, 14), [format!("{}: expires soon, at 2020-03-31T00:00:00Z", file.display())]);
        assert_eq!(told(8, 2).len(), 1);
    }

    #[test]
    fn a_warning_is_said_again_after_a_day_and_a_new_one_at_once() {
        let mut reminder = Reminder::default();
        let (start, hour) = (Instant::now(), Reminder::EVERY);
        let mut due = |hours: u32, warnings: &[&str]| {
            reminder.due(warnings.iter().map(|&text| text.to_owned()).collect(), start + hours * hour)
        };
        assert_eq!(due(0, &["a"]), ["a"]);
        assert_eq!(due(1, &["a", "b"]), ["b"]);
        assert_eq!(due(23, &["a", "b"]), [""; 0]);
        assert_eq!(due(24, &["a", "b"]), ["a"]);
        assert_eq!(due(25, &[]), [""; 0]);
        assert_eq!(due(26, &["b"]), ["b"], "it was well in between");
    }

    #[test]
    fn certificates_out_of_their_time_and_keys_that_everybody_can_read_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let write = |name: &str, years: (i32, i32), mode: u32| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
            fs::write(file(&format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
            fs::set_permissions(file(&format!("{name}.key")), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("good", (2020, 2090), 0o640);
        write("old", (2020, 2021), 0o644);
        write("early", (2089, 2090), 0o600);
        let entries = ["good", "old", "early", "missing"].map(|name| {
            format!(
                "{{ cert: {0}, key: {1} }}",
                file(&format!("{name}.pem")).display(),
                file(&format!("{name}.key")).display()
            )
        });
        let yaml = format!(
            "listeners: [{{ address: '127.0.0.1:1', tls: {{ certificates: [{}] }} }}]\nroutes: [{{ respond: {{}} }}]\n",
            entries.join(", ")
        );
        let found = Certificates::of(&Config::read("test", &yaml, &|_| None).unwrap().config);
        let told = |name: &str, what: &str| format!("{}: {what}", file(name).display());
        assert_eq!(
            found.warnings.iter().map(|warning| warning.to_string()).collect::<Vec<_>>(),
            [
                told("old.pem", "expired at 2021-01-01T00:00:00Z [certificate-expired]"),
                told("old.key", "every user of this machine can read this key: chmod o-r [readable-by-others]"),
                told("early.pem", "not valid before 2089-01-01T00:00:00Z [certificate-early]"),
            ]
        );
        assert_eq!(found.ends.len(), 3);
        assert_eq!(found.ends[1], (file("old.pem"), 1_609_459_200));
    }
}
