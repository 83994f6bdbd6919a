//! Listeners among each other, and what each protocol can make use of.

use std::collections::BTreeMap;

use super::{Names, Report, Spot, is_taken, overlap};
use crate::address::BindAddress;
use crate::config::Config;
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
    for (index, listener) in config.listeners.iter().enumerate() {
        let spot = spot.item(index);
        if let Some(name) = &listener.name {
            report.name(&spot.key("name"), name);
        }
        let earlier = &config.listeners[..index];
        addresses(listener, earlier, &spot.key("address"), report);
        let address_is_taken = earlier.iter().any(|other| is_taken(&listener.address, &other.address));
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
        report.tcp_keepalive(&spot.key("tcp_keepalive"), &listener.tcp_keepalive);
    }
    let http = |listener: &listener::Config| listener.protocol == Protocol::Http;
    if spot.is_intact() && config.routes.is_empty() && config.listeners.iter().any(http) {
        report.warn(spot, "there are no routes: every HTTP request is answered 404");
    }
}

fn addresses(listener: &listener::Config, earlier: &[listener::Config], spot: &Spot<'_>, report: &mut Report) {
    for (index, other) in earlier.iter().enumerate() {
        if is_taken(&listener.address, &other.address) {
            let what = format!("{} is the address of listeners[{index}] already", listener.address);
            return report.fault(spot, what);
        }
        if let (BindAddress::Inet(one), BindAddress::Inet(two)) = (&listener.address, &other.address)
            && overlap(*one, *two)
        {
            let what = format!("{one} and {two} (listeners[{index}]) overlap: the system may refuse to bind both");
            return report.warn(spot, what);
        }
    }
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
            &upstream.word(),
            "only for `protocol: tcp`: on `http` the routes decide, and `flash_policy` is answered here",
        ),
        (_, None) => {}
    }
    if listener.protocol != Protocol::Http {
        for (key, set) in [("detect", listener.detect.is_some()), ("http2", !listener.http2)] {
            if set {
                report.fault(&spot.key(key).word(), "only for `protocol: http`");
            }
        }
    }
    if listener.protocol == Protocol::FlashPolicy && listener.tls.is_some() {
        report.fault(&spot.key("tls").word(), "not for `protocol: flash_policy`: Flash players ask without TLS");
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
    for (index, certificate) in tls.certificates.iter().enumerate() {
        let spot = certificates.item(index);
        report.some_path(&spot.key("cert"), Some(&certificate.cert));
        report.some_path(&spot.key("key"), Some(&certificate.key));
    }
    report.some_time(&spot.key("handshake_timeout"), tls.handshake_timeout);
}
