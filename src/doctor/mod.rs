//! Looks at a running deployment from outside, as clients would, whatever proxy it is: what is wrong with its sockets, and how
//! it is mended.

mod connection;
mod mend;
mod polls;
mod socket;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// What is looked at, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    tls: bool,
    host: String,
    port: u16,
    /// Where Socket.IO is served, with a slash at its end.
    path: String,
    /// Fields of every request.
    fields: Vec<(String, String)>,
    /// The authorities that are trusted in place of the system's.
    ca: Option<PathBuf>,
    /// Sessions that are opened one after the other.
    sessions: usize,
    /// The longest time that an idle socket and a held poll are watched.
    patience: Duration,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Weight {
    /// Clients fail, or will.
    Fault,
    /// To be looked at.
    Care,
    /// It is as it should be.
    Good,
}

/// One thing that was found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) weight: Weight,
    /// In one word, for programs.
    pub(crate) name: &'static str,
    /// In a sentence, for people.
    pub(crate) what: String,
    /// How it is mended, by proxy; none where nothing is to be.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) mend: &'static [(&'static str, &'static str)],
}

impl Target {
    /// Reads `http://host:port` or `https://host`, with the path of Socket.IO behind it where that is not `/socket.io/`.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub(crate) fn read(url: &str) -> Result<Self, String> {
        let expected = || format!("found `{url}`, expected a URL such as https://app.example.com");
        let (scheme, rest) = url.split_once("://").ok_or_else(expected)?;
        let tls = match scheme {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err(expected()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| expected())?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c)) {
            return Err(expected());
        }
        let path = if path.is_empty() { "/socket.io/".to_owned() } else { format!("/{path}/") };
        let patience = Duration::from_secs(40);
        Ok(Self { tls, host, port, path, fields: Vec::new(), ca: None, sessions: 20, patience })
    }

    /// The same with these fields in every request, and these authorities in place of the system's.
    pub(crate) fn with(self, fields: Vec<(String, String)>, ca: Option<PathBuf>) -> Self {
        Self { fields, ca, ..self }
    }

    /// The same with so many sessions, and for so long at most.
    pub(crate) fn within(self, sessions: usize, patience: Duration) -> Self {
        Self { sessions, patience, ..self }
    }

    /// Looks at everything, and says what it does meanwhile to `progress`. The worst comes first.
    pub(crate) fn examine(&self, progress: &dyn Fn(&str)) -> Vec<Finding> {
        let mut findings = Findings(Vec::new());
        progress("connecting");
        if tls::examine(self, &mut findings) {
            polls::examine(self, &mut findings, progress);
        }
        let Findings(mut findings) = findings;
        findings.sort_by_key(|finding| finding.weight);
        findings
    }
}

/// What has been found out so far.
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, weight: Weight, name: &'static str, what: impl Into<String>) {
        let mend = if weight == Weight::Good { &[] } else { mend::of(name) };
        self.0.push(Finding { weight, name, what: what.into(), mend });
    }

    fn fault(&mut self, name: &'static str, what: impl Into<String>) {
        self.add(Weight::Fault, name, what);
    }

    fn care(&mut self, name: &'static str, what: impl Into<String>) {
        self.add(Weight::Care, name, what);
    }

    fn good(&mut self, name: &'static str, what: impl Into<String>) {
        self.add(Weight::Good, name, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_by_what() {
        let read = |url: &str| Target::read(url).map(|target| (target.tls, target.host, target.port, target.path));
        let io = || "/socket.io/".to_owned();
        assert_eq!(read("https://a.test"), Ok((true, "a.test".to_owned(), 443, io())));
        assert_eq!(read("http://a.test:8080/"), Ok((false, "a.test".to_owned(), 8080, io())));
        assert_eq!(
            read("wss://a.test/chat/socket.io?x=1"),
            Ok((true, "a.test".to_owned(), 443, "/chat/socket.io/".to_owned()))
        );
        assert_eq!(read("http://[::1]:90"), Ok((false, "::1".to_owned(), 90, io())));
        for bad in ["a.test", "ftp://a.test", "http://", "http://a.test:x", "http://a b"] {
            assert!(read(bad).is_err_and(|what| what.contains("expected a URL")), "{bad}");
        }
    }

    #[test]
    fn every_mend_speaks_of_the_proxies_that_people_have() {
        for name in mend::NAMES {
            let of: Vec<&str> = mend::of(name).iter().map(|(proxy, _)| *proxy).collect();
            assert!(of.contains(&"Sockgate") && of.len() >= 2, "{name}: {of:?}");
        }
    }
}
