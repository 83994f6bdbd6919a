//! Listeners among each other, and what each protocol can make use of.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::{Lint, Names, Report, Spot, is_taken, overlap, shares, words};
use crate::address::BindAddress;
use crate::config::Config;
use crate::listener::tls::config::{Acme, Certificate, Challenge, Cipher, Hsts, Tls, TlsVersion};
use crate::listener::{self, config::Protocol};

/// The names that routes may use, those of faulty listeners included.
pub(super) fn names(spot: &Spot<'_>) -> Vec<String> {
    spot.items()
        .iter()
        .filter_map(|listener| {
            let given = listener.key("name").text();
            let address = || listener.key("address").text();
            let canonical =
                |text: &str| text.parse().map_or(text.to_owned(), |address: BindAddress| address.to_string());
            given.map(str::to_owned).or_else(|| address().map(canonical))
        })
        .collect()
}

pub(super) fn check(config: &Config, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    if spot.is_empty_list() || (spot.is_intact() && !spot.is_given()) {
        report.fault(spot, "found an empty list, expected at least one listener");
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut earlier = Earlier::default();
    for (index, (spot, listener)) in spot.each(&config.listeners).enumerate() {
        if let Some(name) = &listener.name {
            report.name(&spot.key("name"), name);
        }
        let address_is_taken = address(&listener.address, &earlier, &spot.key("address"), report);
        earlier.add(index, &listener.address);
        let name = if listener.name.is_some() { "name" } else { "address" };
        match seen.get(&listener.name()) {
            Some(_) if address_is_taken && listener.name.is_none() => {}
            Some(first) => report.fault(
                &spot.key(name),
                format!("`{}` is the name of listeners[{first}] already: names have to differ", listener.name()),
            ),
            None => drop(seen.insert(listener.name(), index)),
        }
        protocol(listener, &spot, names, report);
        tls(listener, &spot, report);
        passthrough(config, listener, &spot, names, report);
        report.tcp_keepalive(&spot.key("tcp_keepalive"), &listener.tcp_keepalive);
    }
    orders(config, spot, report);
    let http = |listener: &listener::Config| listener.protocol == Protocol::Http;
    let come = report.parts_come;
    if spot.is_intact() && config.routes.is_empty() && !come && config.listeners.iter().any(http) {
        report.warn(Lint::NoRoutes, spot, "there are no routes: every HTTP request is answered 404");
    }
}

/// The addresses of the listeners before one, with their places.
#[derive(Default)]
struct Earlier {
    first: HashMap<String, usize>,
    by_port: HashMap<u16, Vec<(usize, SocketAddr)>>,
    /// Of those, the ones that stand for every address.
    unspecified: HashMap<u16, Vec<(usize, SocketAddr)>>,
}

impl Earlier {
    fn add(&mut self, index: usize, address: &BindAddress) {
        self.first.entry(address.to_string()).or_insert(index);
        if let BindAddress::Inet(address) = address {
            self.by_port.entry(address.port()).or_default().push((index, *address));
            if address.ip().is_unspecified() {
                self.unspecified.entry(address.port()).or_default().push((index, *address));
            }
        }
    }

    fn taken_by(&self, address: &BindAddress) -> Option<usize> {
        self.first.get(&address.to_string()).copied().filter(|_| is_taken(address, address))
    }

    fn overlapping(&self, address: &BindAddress) -> Option<(usize, SocketAddr, SocketAddr)> {
        let &BindAddress::Inet(one) = address else { return None };
        let those = if one.ip().is_unspecified() { &self.by_port } else { &self.unspecified };
        let mut others = those.get(&one.port()).into_iter().flatten();
        others.find(|&&(_, other)| overlap(one, other)).map(|&(index, other)| (index, one, other))
    }
}

/// Whether it is the address of another listener already; what that or a part of it means is reported.
fn address(address: &BindAddress, earlier: &Earlier, spot: &Spot<'_>, report: &mut Report) -> bool {
    let (taken, overlapping) = (earlier.taken_by(address), earlier.overlapping(address));
    match (taken, overlapping) {
        (_, Some((index, one, two))) if taken.is_none_or(|taken| index < taken) => {
            let what = format!("{one} and {two} (listeners[{index}]) overlap: the system may refuse to bind both");
            report.warn(Lint::AddressesOverlap, spot, what);
        }
        (Some(index), _) => report.fault(spot, format!("{address} is the address of listeners[{index}] already")),
        (None, _) => {}
    }
    taken.is_some()
}

/// A key that its protocol would silently ignore is a fault: the operator believes in it.
fn protocol(listener: &listener::Config, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    let upstream = spot.key("upstream");
    if !spot.key("protocol").is_intact() {
        return;
    }
    match (listener.protocol, &listener.upstream) {
        (Protocol::Tcp, Some(said)) => {
            for (spot, name) in shares::of_connections(said, &upstream, report) {
                report.reference(&spot, "upstream", name, &names.upstreams);
            }
        }
        // Whoever says parts beside the file may say it.
        (Protocol::Tcp, None) if !upstream.is_given() && !report.parts_come => {
            report.fault(spot, "expected the key `upstream`, where a `tcp` listener carries its connections");
        }
        (Protocol::Http | Protocol::FlashPolicy | Protocol::Application, Some(_)) => report.fault(
            &upstream.as_str(),
            "only for `protocol: tcp`: on `http` the routes decide, and `flash_policy` is answered here",
        ),
        (_, None) => {}
    }
    if listener.protocol != Protocol::Http {
        let set = [
            ("detect", listener.detect.is_some()),
            ("http2", !listener.http2),
            ("http2_websockets", listener.http2_websockets),
        ];
        for (key, _) in set.into_iter().filter(|&(_, set)| set) {
            report.fault(&spot.key(key).as_str(), "only for `protocol: http`");
        }
    } else if listener.http2_websockets && !listener.http2 {
        report.fault(&spot.key("http2_websockets"), "found true, but this listener has `http2: false`");
    }
    if listener.protocol == Protocol::FlashPolicy && listener.tls.is_some() {
        report.fault(&spot.key("tls").as_str(), "not for `protocol: flash_policy`: Flash players ask without TLS");
    }
    if listener.protocol == Protocol::Http
        && let Some(detect) = &listener.detect
    {
        let keys = spot.key("detect");
        if detect.plain && !spot.key("tls").is_given() {
            report.fault(&keys.key("plain"), "only for a listener with `tls`: this one is plain anyway");
        }
        if let Some(name) = &detect.tcp {
            report.reference(&keys.key("tcp"), "upstream", name, &names.upstreams);
        }
        report.some_time(&keys.key("inspect_delay"), detect.inspect_delay);
    }
    report.some(&spot.key("backlog"), listener.backlog);
}

fn tls(listener: &listener::Config, spot: &Spot<'_>, report: &mut Report) {
    if let Some(tls) = &listener.tls {
        tls_terms(tls, listener.protocol == Protocol::Http, &spot.key("tls"), report);
    }
}

/// What is said of TLS towards clients, who may speak HTTP.
pub(super) fn tls_terms(tls: &Tls, is_http: bool, spot: &Spot<'_>, report: &mut Report) {
    let certificates = spot.key("certificates");
    if certificates.is_intact() && tls.certificates.is_empty() && !report.parts_come {
        report.fault(&certificates, "found an empty list, expected at least one certificate");
    }
    for (spot, certificate) in certificates.each(&tls.certificates) {
        certificate_entry(certificate, &spot, report);
    }
    report.some_time(&spot.key("handshake_timeout"), tls.handshake_timeout);
    report.some_path(&spot.key("tickets").key("keys"), tls.tickets.keys.as_deref());
    agreement(tls, spot, report);
    if let Some(hsts) = &tls.hsts {
        strict_transport(hsts, &spot.key("hsts"), report);
        if !is_http {
            report.fault(&spot.key("hsts").as_str(), "only for `protocol: http`");
        }
    }
    if let Some(asked) = &tls.client_certificates {
        let spot = spot.key("client_certificates");
        report.some_path(&spot.key("ca"), Some(&asked.ca));
        report.some_path(&spot.key("crl"), asked.crl.as_deref());
        if !is_http && spot.key("forward").is_given() {
            report.fault(&spot.key("forward").as_str(), "only for `protocol: http`: raw bytes have no fields");
        }
    }
}

/// A certificate comes from files or from an authority.
fn certificate_entry(certificate: &Certificate, spot: &Spot<'_>, report: &mut Report) {
    let files = ["cert", "key"].map(|key| spot.key(key));
    for (spot, name) in spot.key("names").each(&certificate.names) {
        report.well_formed(&spot, words::host_pattern(&name.to_ascii_lowercase()));
    }
    let Some(acme) = &certificate.acme else {
        for (key, file) in files.iter().zip([&certificate.cert, &certificate.key]) {
            report.some_path(key, Some(file).filter(|_| key.is_given()).map(|file| &**file));
        }
        let missing = [("cert", &files[0]), ("key", &files[1])].into_iter().filter(|(_, key)| !key.is_given());
        let missing: Vec<&str> = missing.map(|(name, _)| name).collect();
        match missing[..] {
            [] => {}
            [one] => report.fault(spot, format!("expected the key `{one}`, which is missing")),
            _ => report.fault(spot, "expected the keys `cert` and `key`, or `acme`"),
        }
        return report.some_path(&spot.key("ocsp"), certificate.ocsp.as_deref());
    };
    for key in files.iter().chain([&spot.key("ocsp"), &spot.key("names")]).filter(|key| key.is_given()) {
        report.fault(&key.as_str(), "not beside `acme`: the authority decides what there is");
    }
    let spot = spot.key("acme");
    let domains = spot.key("domains");
    if domains.is_intact() && acme.domains.is_empty() {
        report.fault(&domains, "found an empty list, expected at least one name");
    }
    for (spot, domain) in domains.each(&acme.domains) {
        if domain.contains('*') {
            report
                .fault(&spot, format!("found `{domain}`, expected one name: only DNS could prove all names below one"));
        } else if domain.parse::<std::net::IpAddr>().is_ok() || domain.contains('[') {
            report.fault(&spot, format!("found `{domain}`, expected a name, not an address"));
        } else {
            report.well_formed(&spot, words::plain_host(domain));
        }
    }
    if !acme.directory.starts_with("https://") {
        report.fault(&spot.key("directory"), format!("found `{}`, expected an address with https://", acme.directory));
    }
    if acme.email.as_ref().is_some_and(|email| !email.contains('@') || email.contains(char::is_whitespace)) {
        report.fault(&spot.key("email"), "expected an address such as ops@example.com");
    }
    report.some_path(&spot.key("ca"), acme.ca.as_deref());
    if let Some(eab) = &acme.eab {
        let spot = spot.key("eab");
        if eab.key_id.is_empty() {
            report.fault(&spot.key("key_id"), "found an empty text, expected the id of a key");
        }
        report.some_path(&spot.key("hmac_file"), Some(&eab.hmac_file));
    }
    report.some_path(&spot.key("storage"), Some(&acme.storage));
}

/// Orders among each other, and with the listeners that have to answer for them.
fn orders(config: &Config, spot: &Spot<'_>, report: &mut Report) {
    let is_plain = |listener: &listener::Config| {
        let too = listener.detect.as_ref().is_some_and(|detect| detect.plain);
        listener.protocol == Protocol::Http && (listener.tls.is_none() || too)
    };
    let has_plain = config.listeners.iter().any(is_plain);
    let mut seen: HashMap<std::path::PathBuf, &Acme> = HashMap::new();
    for (spot, listener) in spot.each(&config.listeners) {
        let Some(tls) = &listener.tls else { continue };
        for (spot, certificate) in spot.key("tls").key("certificates").each(&tls.certificates) {
            let Some(acme) = &certificate.acme else { continue };
            let spot = spot.key("acme");
            if acme.challenge == Challenge::Http01 && !has_plain {
                let what = "found `http-01`, expected a listener for plain HTTP that the authority can ask at";
                report.fault(&spot.key("challenge"), what);
            }
            let Some(pem) = acme.pem() else { continue };
            if let Some(other) = seen.insert(pem, acme).filter(|other| *other != acme) {
                let name = &other.domains[0];
                report.fault(
                    &spot.as_str(),
                    format!("another entry with other settings begins with `{name}` in this folder"),
                );
            }
        }
    }
}

/// Names that are carried on, each to one place.
fn passthrough(config: &Config, listener: &listener::Config, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    let Some(tls) = &listener.tls else { return };
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, (spot, one)) in spot.key("tls").key("passthrough").each(&tls.passthrough).enumerate() {
        let list = spot.key("names");
        if list.is_intact() && one.names.is_empty() {
            report.fault(&list, "found an empty list, expected at least one name");
        }
        for (spot, name) in list.each(&one.names) {
            report.well_formed(&spot, words::host_pattern(name));
            match seen.get(name.as_str()) {
                Some(first) => report.fault(&spot, format!("`{name}` is a name of passthrough[{first}] already")),
                None => drop(seen.insert(name, index)),
            }
        }
        for (spot, name) in shares::of_connections(&one.upstream, &spot.key("upstream"), report) {
            if report.reference(&spot, "upstream", name, &names.upstreams)
                && config.upstreams.get(name).is_some_and(|upstream| upstream.tls.is_some())
            {
                let found = format!("found `{name}`, which has `tls`");
                report.fault(&spot, format!("{found}: what is carried there is TLS already, expected one without"));
            }
        }
    }
}

/// Versions, ciphers and curves among each other: each version that is spoken has to have one of both.
fn agreement(tls: &Tls, spot: &Spot<'_>, report: &mut Report) {
    let (ciphers, curves) = (spot.key("ciphers"), spot.key("curves"));
    if ciphers.is_intact() && tls.ciphers.is_empty() {
        report.fault(&ciphers, "found an empty list, expected at least one cipher suite");
    }
    if curves.is_intact() && tls.curves.is_empty() {
        report.fault(&curves, "found an empty list, expected at least one curve");
    }
    let old = |cipher: &Cipher| cipher.version() == TlsVersion::V1_2;
    let strict = tls.min_version == TlsVersion::V1_3;
    if strict && !tls.ciphers.is_empty() && tls.ciphers.iter().all(old) {
        report.fault(&ciphers, "found none of TLS 1.3, expected one that `min_version: 1.3` can be spoken with");
    }
    let speaks_old = !strict && tls.ciphers.iter().any(old);
    if speaks_old && !tls.curves.is_empty() && tls.curves.iter().all(|curve| curve.is_new()) {
        report.fault(
            &curves,
            "found none that TLS 1.2 knows, expected `x25519`, `secp256r1` or `secp384r1` beside them, or `min_version: 1.3`",
        );
    }
}

/// What browsers don't build in unless all of it is said (hstspreload.org).
fn strict_transport(hsts: &Hsts, spot: &Spot<'_>, report: &mut Report) {
    let long_enough = hsts.max_age >= Hsts::YEAR;
    if hsts.preload && !(hsts.include_subdomains && long_enough) {
        let expected = "expected `include_subdomains: true` and a `max_age` of 365d or more beside it";
        report.fault(&spot.key("preload"), format!("found true, {expected}: lists take no other ones"));
    }
}
