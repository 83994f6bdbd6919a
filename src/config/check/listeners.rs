//! Listeners among each other, and what each protocol can make use of.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::{Names, Report, Spot, is_taken, overlap, words};
use crate::address::BindAddress;
use crate::config::Config;
use crate::listener::tls::config::{Cipher, Hsts, Tls, TlsVersion};
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
    let http = |listener: &listener::Config| listener.protocol == Protocol::Http;
    if spot.is_intact() && config.routes.is_empty() && config.listeners.iter().any(http) {
        report.warn(spot, "there are no routes: every HTTP request is answered 404");
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
            report.warn(spot, what);
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
        (Protocol::Tcp, Some(name)) => {
            report.reference(&upstream, "upstream", name, &names.upstreams);
        }
        (Protocol::Tcp, None) if !upstream.is_given() => {
            report.fault(spot, "expected the key `upstream`, where a `tcp` listener carries its connections");
        }
        (Protocol::Http | Protocol::FlashPolicy, Some(_)) => report.fault(
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
    let Some(tls) = &listener.tls else {
        return;
    };
    let spot = spot.key("tls");
    let certificates = spot.key("certificates");
    if certificates.is_intact() && tls.certificates.is_empty() {
        report.fault(&certificates, "found an empty list, expected at least one certificate");
    }
    for (spot, certificate) in certificates.each(&tls.certificates) {
        report.some_path(&spot.key("cert"), Some(&certificate.cert));
        report.some_path(&spot.key("key"), Some(&certificate.key));
        report.some_path(&spot.key("ocsp"), certificate.ocsp.as_deref());
    }
    report.some_time(&spot.key("handshake_timeout"), tls.handshake_timeout);
    report.some_path(&spot.key("tickets").key("keys"), tls.tickets.keys.as_deref());
    agreement(tls, &spot, report);
    if let Some(hsts) = &tls.hsts {
        strict_transport(hsts, &spot.key("hsts"), report);
        if listener.protocol != Protocol::Http {
            report.fault(&spot.key("hsts").as_str(), "only for `protocol: http`");
        }
    }
    if let Some(asked) = &tls.client_certificates {
        let spot = spot.key("client_certificates");
        report.some_path(&spot.key("ca"), Some(&asked.ca));
        report.some_path(&spot.key("crl"), asked.crl.as_deref());
        if listener.protocol != Protocol::Http && spot.key("forward").is_given() {
            report.fault(&spot.key("forward").as_str(), "only for `protocol: http`: raw bytes have no fields");
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
        let upstream = spot.key("upstream");
        if report.reference(&upstream, "upstream", &one.upstream, &names.upstreams)
            && config.upstreams.get(&one.upstream).is_some_and(|upstream| upstream.tls.is_some())
        {
            let found = format!("found `{}`, which has `tls`", one.upstream);
            report.fault(&upstream, format!("{found}: what is carried there is TLS already, expected one without"));
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
