//! What only this machine can say of a configuration: the files that it names are read as a start would read them, and all
//! that is wrong is told at once, with the place that names it.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::certificates::{Certificates, names, others_read};
use super::tokens;
use crate::access::config::{KeySource, NetworkItem, Networks, UserItem};
use crate::access::{self, Builder};
use crate::config::spot::Spot;
use crate::config::{Config, Fault, Lint, Loaded, Written, load_servers};
use crate::http::config::ErrorPages;
use crate::http::pages::Pages;
use crate::listener::tls::config::Tls;
use crate::listener::{self, config::Protocol};
use crate::service::Service;
use crate::transport::shortage::most_files;
use crate::upstream::ServerTls;
use crate::upstream::config::Servers;
use crate::upstream::peers::Peering;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<Fault>,
}

/// Looks at everything that a configuration names. Nothing is bound, and nobody is asked by network.
pub(crate) fn look(loaded: &Loaded) -> Outside {
    let mut look =
        Look { config: &loaded.config, written: loaded.written(), named: Vec::new(), found: Outside::default() };
    look.listeners();
    look.upstreams();
    look.access();
    look.pages();
    look.admin();
    look.peers();
    look.traces();
    look.certificates();
    look.hosts();
    look.file_limit();
    look.own_secrets();
    let Outside { mut faults, mut warnings } = look.found;
    let place = |fault: &Fault| (fault.place.file.clone(), fault.place.line, fault.place.column);
    faults.sort_by_key(place);
    warnings.sort_by_key(place);
    warnings.retain(|warning| warning.lint.is_none_or(|lint| !loaded.config.lint.allow.contains(&lint)));
    Outside { faults, warnings }
}

struct Look<'a> {
    config: &'a Config,
    written: &'a Written,
    /// Every file that is named, and where.
    named: Vec<(PathBuf, Spot<'a>)>,
    found: Outside,
}

impl<'a> Look<'a> {
    fn fault(&mut self, spot: &Spot<'_>, what: impl Display) {
        self.found.faults.push(self.written.fault(spot, what.to_string()));
    }

    fn warn(&mut self, lint: Lint, spot: &Spot<'_>, what: impl Into<String>) {
        self.found.warnings.push(self.written.warning(lint, spot, what.into()));
    }

    /// Whether a file that is named there can be read; that none is named is as good.
    fn reads(&mut self, spot: Spot<'a>, file: Option<&Path>) -> bool {
        let Some(file) = file else { return true };
        let opened = File::open(file).and_then(|open| open.metadata());
        let wrong = match opened {
            Ok(about) if about.is_dir() => Some("is a folder, expected a file".to_owned()),
            Ok(_) => None,
            Err(error) => Some(format!("cannot be read: {error}")),
        };
        self.named.push((file.to_owned(), spot.clone()));
        if let Some(wrong) = &wrong {
            self.fault(&spot, format!("{} {wrong}", file.display()));
        }
        wrong.is_none()
    }

    /// Something that was built of files which can be read.
    fn built<T, E: Display>(&mut self, spot: &Spot<'_>, built: Result<T, E>) {
        if let Err(error) = built {
            self.fault(&spot.as_str(), error);
        }
    }

    fn listeners(&mut self) {
        let config = self.config;
        for (spot, listener) in self.written.spot().key("listeners").each(&config.listeners) {
            if let Some(tls) = &listener.tls {
                self.tls(tls, &spot.key("tls"));
            }
            let Some(said) = &listener.access else { continue };
            let spot = spot.key("access");
            let lists = [("allow", &said.allow), ("deny", &said.deny)];
            let unread = lists.map(|(key, list)| !self.networks(list.as_ref(), &spot.key(key)));
            if unread == [false; 2] {
                self.built(&spot, access::Networks::of_listener(said));
            }
        }
        let flash = self.written.spot().key("flash_policy").key("file");
        if config.flash_policy.file.is_some() && self.reads(flash.clone(), config.flash_policy.file.as_deref()) {
            self.built(&flash, listener::flash_policy(&config.flash_policy));
        }
    }

    fn tls(&mut self, tls: &'a Tls, spot: &Spot<'a>) {
        let mut good = self.reads(spot.key("tickets").key("keys"), tls.tickets.keys.as_deref());
        for (spot, certificate) in spot.key("certificates").each(&tls.certificates) {
            match &certificate.acme {
                None => {
                    good &= self.reads(spot.key("cert"), Some(&certificate.cert));
                    good &= self.reads(spot.key("key"), Some(&certificate.key));
                    // Without a response nothing is stapled, which is warned of.
                    self.named.extend(certificate.ocsp.clone().map(|file| (file, spot.key("ocsp"))));
                }
                // What is ordered comes later, and lies in a folder that may be made then.
                Some(acme) => {
                    let spot = spot.key("acme");
                    self.named.extend(acme.pem().map(|file| (file, spot.key("storage"))));
                    good &= self.reads(spot.key("ca"), acme.ca.as_deref());
                    let account = acme.eab.as_ref().map(|account| &*account.hmac_file);
                    good &= self.reads(spot.key("eab").key("hmac_file"), account);
                }
            }
        }
        if let Some(asked) = &tls.client_certificates {
            let spot = spot.key("client_certificates");
            good &= self.reads(spot.key("ca"), Some(&asked.ca));
            good &= self.reads(spot.key("crl"), asked.crl.as_deref());
        }
        if good {
            self.built(spot, listener::tls::try_to_load(tls));
        }
    }

    fn upstreams(&mut self) {
        let config = self.config;
        for (spot, (name, upstream)) in self.written.spot().key("upstreams").each_key(&config.upstreams) {
            if let Some(tls) = upstream.server_tls() {
                let spot = spot.key("tls");
                let files = [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)];
                let unread = files.map(|(key, file)| !self.reads(spot.key(key), file.as_deref()));
                if unread == [false; 3] {
                    self.built(&spot, ServerTls::load(&tls, upstream.kind, upstream.http2));
                }
            }
            let Servers::File(said) = &upstream.servers else { continue };
            let spot = spot.key("servers").key("file");
            self.named.push((said.file.clone(), spot.clone()));
            match load_servers(&said.file) {
                Err(faults) => self.found.faults.extend(faults.0),
                Ok(list) => {
                    for (server, fault) in list.left_out() {
                        self.warn(Lint::ServerLeftOut, &spot, format!("upstream {name}: left out: {server}: {fault}"));
                    }
                }
            }
        }
    }

    fn access(&mut self) {
        let (config, root) = (self.config, self.written.spot());
        let top = config.access.iter().map(|said| (root.key("access"), said));
        let routes = root.key("routes").each(&config.routes).collect::<Vec<_>>().into_iter();
        let routes = routes.filter_map(|(spot, route)| Some((spot.key("access"), route.access.as_ref()?)));
        for (spot, said) in top.chain(routes) {
            let mut good = self.networks(said.allow.as_ref(), &spot.key("allow"));
            good &= self.networks(said.deny.as_ref(), &spot.key("deny"));
            if let Some(jwt) = &said.jwt {
                let spot = spot.key("jwt");
                good &= self.reads(spot.key("public_key"), jwt.public_key.as_deref());
                good &= match &jwt.jwks {
                    Some(KeySource::File(file)) => self.reads(spot.key("jwks"), Some(file)),
                    Some(KeySource::Remote(remote)) => self.reads(spot.key("jwks").key("ca"), remote.ca.as_deref()),
                    None => true,
                };
            }
            if let Some(basic) = &said.basic {
                for (spot, item) in spot.key("basic").key("users").each_inner(&basic.users.0) {
                    if let UserItem::File(file) = item {
                        good &= self.reads(spot.key("file"), Some(file));
                    }
                }
            }
            if let Some(service) = &said.forward_auth {
                good &= self.reads(spot.key("forward_auth").key("ca"), service.ca.as_deref());
            }
            if good {
                self.built(&spot, Builder::default().build(said));
            }
        }
    }

    fn networks(&mut self, said: Option<&'a Networks>, spot: &Spot<'a>) -> bool {
        let mut good = true;
        for (spot, item) in spot.each_inner(said.map_or(&[], |said| &said.0)) {
            if let NetworkItem::File(file) = item {
                good &= self.reads(spot.key("file"), Some(file));
            }
        }
        good
    }

    fn pages(&mut self) {
        let (config, root) = (self.config, self.written.spot());
        self.pages_of(&config.error_pages, &root.key("error_pages"));
        for (spot, route) in root.key("routes").each(&config.routes) {
            self.pages_of(&route.error_pages, &spot.key("error_pages"));
            if let Some(files) = route.files.as_ref().filter(|files| !files.root.is_dir()) {
                let what = format!("{} is no folder here: every request is answered 404", files.root.display());
                self.warn(Lint::FilesFolder, &spot.key("files").key("root"), what);
            }
        }
        let file = config.access_log.file.as_deref();
        let folder = file.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
        if let Some(folder) = folder {
            let what = format!("its folder {} is not there", folder.display());
            self.fault(&root.key("access_log").key("file"), what);
        }
    }

    fn pages_of(&mut self, said: &'a ErrorPages, spot: &Spot<'a>) {
        let mut good = true;
        for (spot, (_, page)) in spot.each_key(&said.0) {
            good &= self.reads(spot.key("file"), page.file.as_deref());
        }
        if good {
            self.built(spot, Pages::build(said));
        }
    }

    fn admin(&mut self) {
        let Some(admin) = &self.config.admin else { return };
        let spot = self.written.spot().key("admin");
        if let Some(tls) = &admin.tls {
            self.tls(tls, &spot.key("tls"));
        }
        if let Some(file) = &admin.token_file {
            let spot = spot.key("token_file");
            if self.reads(spot.clone(), Some(file)) {
                self.built(&spot, tokens::load(file));
            }
        }
    }

    fn peers(&mut self) {
        let spot = self.written.spot().key("peers").key("secret_file");
        let file = self.config.peers.secret_file.as_deref();
        if file.is_some() && self.reads(spot.clone(), file) {
            self.built(&spot, Peering::new(0, file));
        }
    }

    fn traces(&mut self) {
        let Some(traces) = &self.config.traces else { return };
        let spot = self.written.spot().key("traces").key("ca");
        if traces.ca.is_some() && self.reads(spot.clone(), traces.ca.as_deref()) {
            self.built(&spot, Service::build(&traces.endpoint, traces.ca.as_deref()));
        }
    }

    /// What a start would say of certificates and keys, at the places that name them.
    fn certificates(&mut self) {
        for warning in Certificates::of(self.config).warnings {
            let known = self.named.iter().find(|(file, _)| *file == warning.file);
            let spot = known.map_or_else(|| self.written.spot(), |(_, spot)| spot.clone());
            self.warn(warning.lint, &spot, format!("{}: {}", warning.file.display(), warning.what));
        }
    }

    /// Every host that routes ask for by name has to have a certificate where clients come by TLS.
    fn hosts(&mut self) {
        let config = self.config;
        let secure = config.listeners.iter().filter(|listener| listener.protocol == Protocol::Http);
        let secure: Vec<_> = secure.filter_map(|listener| Some((listener.name(), listener.tls.as_ref()?))).collect();
        for (spot, route) in self.written.spot().key("routes").each(&config.routes) {
            let wanted = &route.matches.listener.0;
            let comes = |name: &String| wanted.is_empty() || wanted.contains(name);
            let known: Option<Vec<Vec<String>>> =
                secure.iter().filter(|(name, _)| comes(name)).map(|(_, tls)| names_of(tls)).collect();
            let Some(known) = known.filter(|known| !known.is_empty()).map(|known| known.concat()) else { continue };
            let mut list: Vec<&str> = known.iter().map(String::as_str).collect();
            list.sort_unstable();
            list.dedup();
            for (spot, host) in spot.key("match").key("host").each(&route.matches.host.0) {
                if !list.iter().any(|name| is_for(name, host)) {
                    let more = if list.len() > MOST_NAMES { ", …" } else { "" };
                    let list = list[..list.len().min(MOST_NAMES)].join(", ");
                    let what = format!("no certificate of its listeners is for `{host}`: found those for {list}{more}");
                    self.warn(Lint::CertificateHost, &spot, what);
                }
            }
        }
    }

    /// Each connection takes a descriptor, and another one towards its server.
    fn file_limit(&mut self) {
        let Some(most) = most_files() else { return };
        let root = self.written.spot();
        let limits = root.key("limits").key("connections");
        let mut all = vec![(limits, self.config.limits.connections)];
        for (spot, listener) in root.key("listeners").each(&self.config.listeners) {
            all.push((spot.key("max_connections"), listener.max_connections));
        }
        for (spot, connections) in all {
            let files = (connections as u64).saturating_mul(2);
            // What nobody has said is a bound for the largest machines.
            if spot.is_given() && files > most {
                let what = format!(
                    "{connections} connections take up to {files} files, and here {most} may be open: raise the limit \
                     (`LimitNOFILE` of systemd, `ulimit -Hn`)"
                );
                self.warn(Lint::FileLimit, &spot, what);
            }
        }
    }

    /// A secret that stands in the configuration is as secret as the file.
    fn own_secrets(&mut self) {
        let (config, root) = (self.config, self.written.spot());
        let mut secrets: Vec<(Spot<'a>, Vec<u8>)> = Vec::new();
        for (spot, (_, upstream)) in root.key("upstreams").each_key(&config.upstreams) {
            let secret = upstream.affinity.cookie.as_ref().and_then(|cookie| cookie.secret.as_ref());
            let spot = spot.key("affinity").key("cookie").key("secret");
            secrets.extend(secret.map(|secret| (spot, secret.bytes().to_vec())));
        }
        let top = config.access.iter().map(|said| (root.key("access"), said));
        let routes = root.key("routes").each(&config.routes).collect::<Vec<_>>().into_iter();
        let routes = routes.filter_map(|(spot, route)| Some((spot.key("access"), route.access.as_ref()?)));
        for (spot, said) in top.chain(routes) {
            let secret = said.jwt.as_ref().and_then(|jwt| jwt.secret.as_ref());
            secrets.extend(secret.map(|secret| (spot.key("jwt").key("secret"), secret.bytes().to_vec())));
            let users = said.basic.as_ref().map_or(&[][..], |basic| &basic.users.0);
            for (spot, item) in spot.key("basic").key("users").each_inner(users) {
                if let UserItem::User(user) = item {
                    secrets.push((spot, user.text().into_bytes()));
                }
            }
        }
        for (spot, secret) in secrets {
            let file = std::str::from_utf8(&secret).ok().and_then(|text| self.written.holds(&spot, text));
            if let Some(file) = file.filter(|file| others_read(file)) {
                let what = format!(
                    "every user of this machine can read {}: chmod o-r, or bring it by a variable, as `${{NAME}}`",
                    file.display()
                );
                self.warn(Lint::ReadableByOthers, &spot, what);
            }
        }
    }
}

/// So many names are told.
const MOST_NAMES: usize = 8;

/// The names that a listener has certificates for, or carries on; `None` where one can't be read.
fn names_of(tls: &Tls) -> Option<Vec<String>> {
    let mut all: Vec<String> = tls.passthrough.iter().flat_map(|one| one.names.clone()).collect();
    for certificate in &tls.certificates {
        match &certificate.acme {
            Some(acme) => all.extend(acme.domains.iter().map(|domain| domain.to_ascii_lowercase())),
            None => all.extend(names(&certificate.cert)?),
        }
    }
    Some(all)
}

/// Whether a certificate with this name is good for a host, or for all names that a pattern stands for (RFC 9525 6.3).
fn is_for(name: &str, host: &str) -> bool {
    let below = |name: &str| host.split_once('.').is_some_and(|(_, rest)| rest == name);
    name == host || name.strip_prefix("*.").is_some_and(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_its_names_and_one_label_below_a_wildcard() {
        for (name, host) in [("a.test", "a.test"), ("*.a.test", "b.a.test"), ("*.a.test", "*.a.test")] {
            assert!(is_for(name, host), "{name} {host}");
        }
        for (name, host) in
            [("a.test", "b.test"), ("*.a.test", "a.test"), ("*.a.test", "c.b.a.test"), ("a.test", "*.a.test")]
        {
            assert!(!is_for(name, host), "{name} {host}");
        }
    }
}
