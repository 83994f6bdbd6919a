//! What no single value can know: whether the parts of a configuration fit together. Nothing is looked up outside of it.

mod access;
mod fields;
mod listeners;
mod reach;
mod routes;
mod shares;
mod upstreams;
mod words;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::document::Node;
use super::fault::nearest;
use super::include::place;
use super::lint::Lint;
use super::shape::{Misfit, one_of};
use super::spot::Spot;
use super::{Admin, Config};
use crate::address::BindAddress;
use crate::http::config::{ErrorPages, Forwarding};
use crate::http::pages::Of as PagesOf;
use crate::listener::config::{FlashPolicy, Protocol, ProxyProtocol};
use crate::rate::config::Rates;
use crate::trace::Parents;
use crate::transport::TcpKeepAlive;

/// The times that a rate may be for.
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// More goodbyes in a second than this are no pace.
const MOST_GOODBYES: f64 = 1_000_000.0;

/// What was found: faults, which forbid to build anything, and warnings.
#[derive(Default)]
pub(super) struct Report {
    pub(super) faults: Vec<Misfit>,
    pub(super) warnings: Vec<(Lint, Misfit)>,
    /// The files that the configuration was read from.
    files: Vec<String>,
    /// The number of the first that is none, but says parts beside them.
    first_origin: usize,
    /// Whether parts may come beside the files: certificates, and where connections go.
    parts_come: bool,
}

/// Looks at a whole configuration, and at the tree that it was read from for the places. Where parts of the tree were set
/// aside as faulty, what would only follow from that is not reported. `files` are the names of those that it was read from.
/// Those from `first_origin` on are none, but say parts beside them.
pub(super) fn check(config: &Config, root: &Node, files: Vec<String>, first_origin: usize) -> Report {
    let parts_come = config.secrets.is_some();
    let mut report = Report { files, first_origin, parts_come, ..Report::default() };
    let root = Spot::root(root);
    let upstreams = root.key("upstreams");
    let names = Names {
        listeners: Known::new(listeners::names(&root.key("listeners"))),
        upstreams: Known::new(upstreams.keys()),
        protocols: config.listeners.iter().rev().map(|listener| (listener.name(), listener.protocol)).collect(),
    };
    listeners::check(config, &root.key("listeners"), &names, &mut report);
    routes::check(config, &root.key("routes"), &names, &mut report);
    for (spot, (name, upstream)) in upstreams.each_key(&config.upstreams) {
        upstreams::check(name, upstream, &spot, &mut report);
    }
    upstreams::cookies(&config.upstreams, &upstreams, &mut report);
    upstreams::names_of_peers(&config.upstreams, &upstreams, &mut report);
    peers(config, &root, &mut report);
    access::check(config, &root, &mut report);
    unused_upstreams(config, &upstreams, &mut report);
    proxies(config, &root, &mut report);
    flash_policy(config, &root.key("flash_policy"), &mut report);
    limits(config, &root, &mut report);
    forwarding(config, &root.key("forwarding"), &mut report);
    leaving(config, &root, &mut report);
    report.pace(&root.key("reload"), config.reload.rate, config.reload.jitter);
    zones(config, &root, &mut report);
    if let Some(admin) = &config.admin {
        admin_address(config, admin, &root.key("admin").key("address"), &mut report);
        admin_terms(admin, &root.key("admin"), &names, &mut report);
    }
    report
}

/// Every name that the file gives, those of faulty entries included: a reference to one of them is no second fault.
struct Names {
    listeners: Known,
    upstreams: Known,
    /// What listeners speak, by name.
    protocols: HashMap<String, Protocol>,
}

/// Names in the order of the file.
struct Known {
    names: Vec<String>,
    set: HashSet<String>,
}

impl Known {
    fn new(names: Vec<String>) -> Self {
        Self { set: names.iter().cloned().collect(), names }
    }
}

/// Faults whose reporter looks for what was meant: to compare a thousand slips with a thousand names helps nobody.
const MOST_HINTS: usize = 100;

impl Report {
    /// What stands in for a missing key has no faults of its own.
    fn fault(&mut self, spot: &Spot<'_>, what: impl Into<String>) {
        if !spot.is_hole() {
            self.faults.push(spot.misfit(what.into()));
        }
    }

    fn warn(&mut self, lint: Lint, spot: &Spot<'_>, what: impl Into<String>) {
        self.warnings.push((lint, spot.misfit(what.into())));
    }

    /// Another spot as a fault of this one names it: with its place, where that is in another file.
    fn other(&self, spot: &Spot<'_>, other: &Spot<'_>) -> String {
        if spot.at().file == other.at().file {
            return other.path().to_owned();
        }
        format!("{} in {}", other.path(), place(&self.files, other.at()))
    }

    /// A reference to something that has to be defined elsewhere in the file.
    fn reference(&mut self, spot: &Spot<'_>, kind: &str, name: &str, known: &Known) -> bool {
        if known.set.contains(name) {
            return true;
        }
        let known: Vec<&str> = known.names.iter().map(String::as_str).collect();
        let hinted = if self.faults.len() < MOST_HINTS { nearest(name, known.iter().copied()) } else { None };
        let hint = match (hinted, known.len()) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, 0) => format!("the file defines no {kind}"),
            (None, 1..=8) => format!("expected {}", one_of(&known)),
            (None, _) => format!("the file defines {} others", known.len()),
        };
        self.fault(spot, format!("unknown {kind} `{name}`, {hint}"));
        false
    }

    /// A text that has to be well-formed.
    fn well_formed(&mut self, spot: &Spot<'_>, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.fault(spot, what);
        }
    }

    fn name(&mut self, spot: &Spot<'_>, name: &str) {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            self.fault(spot, format!("found the name {name:?}, expected one without spaces"));
        }
    }

    /// A time that cannot be turned off.
    fn some_time(&mut self, spot: &Spot<'_>, time: Duration) {
        if time.is_zero() {
            self.fault(spot, "found 0s, expected a time above 0s");
        }
    }

    /// A number that cannot be 0.
    fn some<N: Default + PartialEq>(&mut self, spot: &Spot<'_>, number: N) {
        if number == N::default() {
            self.fault(spot, "found 0, expected a whole number, 1 or more");
        }
    }

    /// A part of a whole, up to `most`.
    fn share(&mut self, spot: &Spot<'_>, found: f64, most: f64) {
        if !(0.0..=most).contains(&found) {
            self.fault(spot, format!("found {found}, expected a share from 0 to {most}"));
        }
    }

    /// The `rate` of goodbyes in a second and their `jitter`, both below this spot.
    fn pace(&mut self, spot: &Spot<'_>, rate: f64, jitter: f64) {
        if !(rate > 0.0 && rate <= MOST_GOODBYES) {
            let what = format!("found {rate}, expected goodbyes in a second, above 0 and up to {MOST_GOODBYES}");
            self.fault(&spot.key("rate"), what);
        }
        self.share(&spot.key("jitter"), jitter, 1.0);
    }

    /// What the kernel takes: whole seconds, and up to 127 probes.
    fn tcp_keepalive(&mut self, spot: &Spot<'_>, said: &TcpKeepAlive) {
        let whole = |time: Duration| time >= Duration::from_secs(1) && time.subsec_nanos() == 0;
        if !said.idle.is_zero() && !whole(said.idle) {
            self.fault(&spot.key("idle"), "expected whole seconds, 1s or more, or 0s for no probes");
        }
        if !whole(said.interval) {
            self.fault(&spot.key("interval"), "expected whole seconds, 1s or more");
        }
        if !(1..=127).contains(&said.probes) {
            let what = format!("found {}, expected a whole number from 1 to 127", said.probes);
            self.fault(&spot.key("probes"), what);
        }
    }

    fn some_path(&mut self, spot: &Spot<'_>, path: Option<&std::path::Path>) {
        if path.is_some_and(|path| path.as_os_str().is_empty()) {
            self.fault(spot, "found an empty text, expected the path of a file");
        }
    }
}

fn unused_upstreams(config: &Config, upstreams: &Spot<'_>, report: &mut Report) {
    let in_routes = config.routes.iter().flat_map(|route| {
        let mirror = route.mirror.as_ref().map(|mirror| mirror.upstream.as_str());
        route.upstream.iter().flat_map(|upstreams| upstreams.names()).chain(mirror)
    });
    let used: HashSet<&str> =
        in_routes.chain(config.listeners.iter().flat_map(|listener| listener.upstreams())).collect();
    let unused = |(_, (name, _)): &(Spot<'_>, (&String, _))| !used.contains(name.as_str());
    for (spot, _) in upstreams.each_key(&config.upstreams).filter(unused) {
        report.warn(Lint::UpstreamUnused, &spot.as_str(), "no route and no listener uses this upstream");
    }
}

/// A secret is there for peers.
fn peers(config: &Config, root: &Spot<'_>, report: &mut Report) {
    let spot = root.key("peers").key("secret_file");
    report.some_path(&spot, config.peers.secret_file.as_deref());
    if config.peers.secret_file.is_some() && config.upstreams.values().all(|upstream| upstream.peers.is_none()) {
        report.warn(Lint::PeersUnused, &spot, "nobody is told anything: no upstream has `peers`");
    }
}

/// Who is to be believed has to be said.
fn proxies(config: &Config, root: &Spot<'_>, report: &mut Report) {
    if !root.key("forwarding").key("trusted_proxies").is_intact() {
        return;
    }
    let Forwarding { trusted_proxies, .. } = &config.forwarding;
    let has_local = config.forwarding.trusts(Ipv4Addr::LOCALHOST.into());
    for (spot, listener) in root.key("listeners").each(&config.listeners) {
        let word = match listener.proxy_protocol {
            ProxyProtocol::Off => continue,
            ProxyProtocol::Required => "required",
            ProxyProtocol::FromTrusted => "from_trusted",
        };
        let expected = match listener.address {
            _ if trusted_proxies.is_empty() => "the networks of its proxies in `forwarding.trusted_proxies`",
            BindAddress::Unix(_) if !has_local => {
                "127.0.0.1, which a peer at a Unix socket is, in `forwarding.trusted_proxies`"
            }
            _ => continue,
        };
        report.fault(&spot.key("proxy_protocol"), format!("found `{word}`, expected {expected}"));
    }
}

fn flash_policy(config: &Config, spot: &Spot<'_>, report: &mut Report) {
    let policy = &config.flash_policy;
    if policy.file.is_some() && policy.allow != FlashPolicy::default().allow {
        report.fault(
            &spot.key("allow").as_str(),
            "found `file` and `allow`, expected one of them: the file is sent as it is",
        );
    }
    report.some_path(&spot.key("file"), policy.file.as_deref());
    report.some_time(&spot.key("timeout"), policy.timeout);
    if policy.allow.is_empty() && policy.file.is_none() && spot.key("allow").is_intact() {
        report.warn(Lint::FlashPolicyEmpty, &spot.key("allow"), "the list is empty: no Flash player may connect");
    }
    for (spot, allow) in spot.key("allow").each(&policy.allow) {
        report.well_formed(&spot.key("domain"), words::flash_domain(&allow.domain));
        report.well_formed(&spot.key("ports"), words::flash_ports(&allow.ports));
    }
    let answered = config.listeners.iter().any(|listener| {
        let inline = listener.detect.as_ref().is_some_and(|detect| detect.flash_policy);
        listener.protocol == Protocol::FlashPolicy || inline
    });
    if *policy != FlashPolicy::default() && !answered {
        report.warn(
            Lint::FlashPolicyUnused,
            &spot.as_str(),
            "no listener answers it: that takes `protocol: flash_policy` or `detect: { flash_policy: true }`",
        );
    }
}

fn limits(config: &Config, root: &Spot<'_>, report: &mut Report) {
    let spot = root.key("limits");
    let limits = &config.limits;
    if !(1..=256).contains(&limits.headers) {
        report.fault(&spot.key("headers"), format!("found {}, expected a whole number from 1 to 256", limits.headers));
    }
    if limits.head.as_u64() < 1024 {
        report.fault(&spot.key("head"), format!("found {} bytes, expected 1KiB or more", limits.head.as_u64()));
    }
    rates(&limits.rate, &spot.key("rate"), report);
    let uri = limits.uri.as_u64();
    if uri > limits.head.as_u64() {
        report.warn(Lint::UriOverHead, &spot.key("uri"), "longer than `head`, which holds before");
    }
    for (spot, route) in root.key("routes").each(&config.routes) {
        rates(&route.limits.rate, &spot.key("limits").key("rate"), report);
        let (most, body) = (limits.body.as_u64(), route.limits.body.map_or(0, |body| body.as_u64()));
        let longer = route.limits.body.is_some() && most != 0 && (body > most || body == 0);
        if longer {
            let found = if body == 0 { "no limit".to_owned() } else { format!("{body} bytes") };
            let what = format!(
                "found {found}, expected at most the {most} bytes of `limits.body` at the top level, which holds before"
            );
            report.fault(&spot.key("limits").key("body"), what);
        }
        error_pages(&route.error_pages, &spot.key("error_pages"), report);
    }
    error_pages(&config.error_pages, &root.key("error_pages"), report);
    let spot = root.key("timeouts").key("head");
    if config.timeouts.head.is_zero() {
        report.warn(
            Lint::HeadTimeoutOff,
            &spot,
            "without this limit, clients that send a head byte by byte hold their connections for ever",
        );
    }
    if config.threads > 1024 {
        report.fault(
            &root.key("threads"),
            format!("found {}, expected a whole number from 0 (one for each core) to 1024", config.threads),
        );
    }
}

fn error_pages(said: &ErrorPages, spot: &Spot<'_>, report: &mut Report) {
    for (spot, (statuses, page)) in spot.each_key(&said.0) {
        if PagesOf::read(statuses).is_none() {
            let what = format!("found `{statuses}`, expected a status from 400 to 599, `4xx` or `5xx`");
            report.fault(&spot.as_str(), what);
        }
        match (&page.file, &page.body) {
            (Some(_), Some(_)) => {
                report.fault(&spot.key("body").as_str(), "found `file` and `body`, expected one of them")
            }
            (None, None) if spot.is_intact() => report.fault(&spot, "expected one of the keys `file` and `body`"),
            _ => {}
        }
        report.some_path(&spot.key("file"), page.file.as_deref());
        if let Some(content_type) = &page.content_type {
            report.well_formed(&spot.key("content_type"), words::header_value(content_type));
        }
    }
}

fn rates(said: &Rates, spot: &Spot<'_>, report: &mut Report) {
    for (spot, rate) in spot.each(&said.0) {
        if !(MILLISECOND..=DAY).contains(&rate.per) {
            report.fault(&spot.key("per"), "expected 1ms to 1day");
        }
        for (key, number) in [("requests", Some(rate.requests)), ("burst", rate.burst)] {
            if number == Some(0) {
                report.fault(&spot.key(key), "found 0, expected 1 or more");
            }
        }
    }
}

fn forwarding(config: &Config, spot: &Spot<'_>, report: &mut Report) {
    let name = &config.forwarding.request_id;
    if !name.is_empty() {
        report.well_formed(&spot.key("request_id"), words::header_name(name));
    }
    for (spot, network) in spot.key("trusted_proxies").each(&config.forwarding.trusted_proxies) {
        if network.prefix_len() == 0 {
            let what = format!("{network} trusts everybody: any client can then claim any address");
            report.warn(Lint::TrustsEverybody, &spot, what);
        }
    }
    for (spot, field) in spot.key("believe").each(&config.forwarding.believe) {
        report.well_formed(&spot, words::believable(field));
    }
}

fn leaving(config: &Config, root: &Spot<'_>, report: &mut Report) {
    let drain = &config.drain;
    if !drain.delay.is_zero() && drain.delay >= drain.deadline {
        report.warn(
            Lint::DelayOverDeadline,
            &root.key("drain").key("delay"),
            "not shorter than `deadline`: everything is cut before anything could leave",
        );
    } else if let Some(over) = drain.over
        && drain.delay + over > drain.deadline
    {
        report.warn(
            Lint::OverBeyondDeadline,
            &root.key("drain").key("over"),
            "goes beyond `deadline`, with `delay` before it: goodbyes are spread over the time until the deadline",
        );
    }
    report.share(&root.key("drain").key("jitter"), drain.jitter, 1.0);
    report.well_formed(&root.key("drain").key("close_code"), words::close_code(drain.close_code));
    traces(config, &root.key("traces"), report);
    let log = &config.access_log;
    let spot = root.key("access_log").key("file");
    report.some_path(&spot, log.file.as_deref());
    if log.format == crate::access_log::Format::Off && log.file.is_some() {
        report.warn(Lint::LogFileUnused, &spot.as_str(), "nothing is written to it: `format` is `off`");
    }
}

fn traces(config: &Config, spot: &Spot<'_>, report: &mut Report) {
    let Some(traces) = &config.traces else { return };
    report.share(&spot.key("sample"), traces.sample, 1.0);
    report.some_path(&spot.key("ca"), traces.ca.as_deref());
    report.some_time(&spot.key("timeout"), traces.timeout);
    report.name(&spot.key("service"), &traces.service);
    for (spot, (name, value)) in spot.key("headers").each_key(&traces.headers) {
        report.well_formed(&spot.as_str(), words::header_name(name));
        report.well_formed(&spot, words::header_value(value));
    }
    if !traces.headers.is_empty() && !traces.endpoint.is_safe() {
        let what = "by plain http: whoever stands between reads what `headers` say";
        report.warn(Lint::TraceHeadersInPlain, &spot.key("endpoint"), what);
    }
    if traces.parents == Parents::Trusted
        && config.forwarding.trusted_proxies.is_empty()
        && spot.key("parents").is_given()
    {
        let what = "nobody is trusted: `forwarding.trusted_proxies` is empty, so all traces begin here";
        report.warn(Lint::NobodysTraces, &spot.key("parents"), what);
    }
}

/// A zone alone means nothing: whoever names those of servers has to name the gateway's own.
fn zones(config: &Config, root: &Spot<'_>, report: &mut Report) {
    if let Some(zone) = &config.zone {
        return report.name(&root.key("zone"), zone);
    }
    for (spot, (_, upstream)) in root.key("upstreams").each_key(&config.upstreams) {
        let mut servers = spot.key("servers").each(upstream.servers.list());
        if let Some((spot, _)) = servers.find(|(_, server)| server.zone.is_some()) {
            let what = "means nothing: the gateway has no `zone` of its own at the top level";
            report.warn(Lint::ZoneUnused, &spot.key("zone"), what);
        }
    }
}

fn admin_address(config: &Config, admin: &Admin, spot: &Spot<'_>, report: &mut Report) {
    for (index, listener) in config.listeners.iter().enumerate() {
        if is_taken(&admin.address, &listener.address) {
            report.fault(spot, format!("{} is the address of listeners[{index}] already", admin.address));
        }
    }
    if !admin.is_local() && !admin.asks_who() {
        report.fault(
            spot,
            format!(
                "found {}, which others than this host can reach: expected the loopback or a Unix socket, or beside it \
                 `token_file`, or `client_certificates` in `tls`",
                admin.address
            ),
        );
    }
}

fn admin_terms(admin: &Admin, spot: &Spot<'_>, names: &Names, report: &mut Report) {
    for (spot, host) in spot.key("hosts").each(&admin.hosts) {
        report.well_formed(&spot, words::plain_host(host));
    }
    for (spot, name) in spot.key("ready").each(&admin.ready) {
        report.reference(&spot, "upstream", name, &names.upstreams);
    }
    report.some_path(&spot.key("token_file"), admin.token_file.as_deref());
    let Some(tls) = &admin.tls else {
        if admin.token_file.is_some() && !admin.is_local() {
            let what = "tokens pass in plain without `tls` beside it: whoever sees one has it";
            report.warn(Lint::TokensInPlain, &spot.key("token_file"), what);
        }
        return;
    };
    let spot = spot.key("tls");
    listeners::tls_terms(tls, false, &spot, report);
    for (spot, certificate) in spot.key("certificates").each(&tls.certificates) {
        if certificate.acme.is_some() {
            report.fault(&spot.key("acme").as_str(), "not for the admin address: expected `cert` and `key`");
        }
    }
    if !tls.passthrough.is_empty() {
        report.fault(&spot.key("passthrough").as_str(), "not for the admin address, which speaks TLS itself");
    }
}

/// Whether the two cannot be bound side by side. Port 0 is always free.
fn is_taken(one: &BindAddress, other: &BindAddress) -> bool {
    let chosen_by_the_kernel = matches!(one, BindAddress::Inet(address) if address.port() == 0);
    one == other && !chosen_by_the_kernel
}

/// Whether one of the two stands for every address and so for the other one, too.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port() && one.port() != 0 && (covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
}
