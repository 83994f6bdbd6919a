//! `/status`: the state of upstreams and servers, as JSON for people.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use super::drain::Progress;
use crate::reload::Outcome;
use crate::session::{Cause, SessionTable, Totals};
use crate::snapshot::Snapshot;
use crate::upstream::{self, AdmissionQueue, CheckReport, Findings, Inquiries, LargestClient, Rebalancing, Upstream};

/// Everything that `/status` tells.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    zone: Option<String>,
    uptime_seconds: u64,
    connections: usize,
    configuration: Configuration,
    certificates: Vec<Certificate>,
    upstreams: Vec<UpstreamStatus>,
}

#[derive(Serialize)]
struct Configuration {
    loaded: String,
    tried: String,
    error: Option<String>,
}

#[derive(Serialize)]
struct Certificate {
    file: String,
    ends: String,
    /// Below zero where it has.
    ends_in_seconds: i64,
}

#[derive(Serialize)]
struct UpstreamStatus {
    name: String,
    ready: bool,
    /// Only where there are any.
    sessions: Option<Sessions>,
    waiting: usize,
    rebalance: Option<Rebalance>,
    /// Only where the configuration does not list the servers.
    discovery: Option<Discovery>,
    servers: Vec<Server>,
}

#[derive(Serialize)]
struct Discovery {
    source: String,
    servers: usize,
    looked: Option<String>,
    found: Option<String>,
    found_seconds_ago: Option<f64>,
    fault: Option<String>,
    answers: u64,
    failures: u64,
    changes: u64,
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct LeftOut {
    name: String,
    fault: String,
}

#[derive(Serialize)]
struct Sessions {
    live: usize,
    learned: u64,
    rescued: u64,
    unknown: u64,
    ended: Ended,
    upgrades: Upgrades,
    placed: Placed,
    waiting_to_open: Option<usize>,
    refused_to_open: Option<u64>,
    largest_client: Option<Client>,
}

/// Sessions that ended, by why.
struct Ended(Totals);

#[derive(Serialize)]
struct Upgrades {
    offered: u64,
    reached: u64,
    last_minute: LastMinute,
}

#[derive(Serialize)]
struct LastMinute {
    offered: u64,
    reached: u64,
    ratio: Option<f64>,
}

#[derive(Serialize)]
struct Placed {
    by_balance: u64,
    returning: u64,
    spilled: u64,
}

#[derive(Serialize)]
struct Client {
    address: String,
    share: f64,
}

#[derive(Serialize)]
struct Rebalance {
    shed: u64,
    under_way: bool,
    waits: Option<String>,
}

#[derive(Serialize)]
struct Server {
    name: String,
    address: String,
    priority: u16,
    zone: Option<String>,
    state: &'static str,
    removed: bool,
    since: String,
    ejected_for_seconds: Option<f64>,
    ejected_because_of: Option<String>,
    ejections: u64,
    in_flight: usize,
    sessions: usize,
    sessions_on_websocket: Option<usize>,
    drain: Option<Progress>,
    total: u64,
    connect_failures: u64,
    bad_answers: u64,
    /// What the next answer is expected to take, where that is measured.
    first_byte_seconds: Option<f64>,
    last_check: Option<Check>,
}

#[derive(Serialize)]
struct Check {
    good: bool,
    text: String,
    at: String,
    took_seconds: f64,
}

impl Status {
    pub(super) fn of(snapshot: &Snapshot, outcome: Outcome, connections: usize, uptime: Duration) -> Self {
        let upstreams: BTreeMap<_, _> = snapshot.upstreams.iter().collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            zone: snapshot.config.zone.clone(),
            uptime_seconds: uptime.as_secs(),
            connections,
            configuration: Configuration {
                loaded: time(outcome.loaded),
                tried: time(outcome.tried),
                error: outcome.fault,
            },
            certificates: snapshot.certificates_end.iter().map(Certificate::of).collect(),
            upstreams: upstreams.into_values().map(|upstream| UpstreamStatus::of(upstream)).collect(),
        }
    }
}

impl Certificate {
    fn of((file, ends): &(PathBuf, i64)) -> Self {
        let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(*ends).unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ends_in_seconds = ends.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
        Self { file: file.display().to_string(), ends: time(at), ends_in_seconds }
    }
}

impl UpstreamStatus {
    fn of(upstream: &Upstream) -> Self {
        Self {
            name: upstream.name().to_string(),
            ready: upstream.ready(),
            sessions: upstream.sessions().map(|table| Sessions::of(upstream, table)),
            waiting: upstream.waiting(),
            rebalance: upstream.rebalancing().map(Into::into),
            discovery: upstream.findings().map(Into::into),
            servers: upstream.all_servers().iter().map(|server| Server::of(upstream, server)).collect(),
        }
    }
}

impl Sessions {
    fn of(upstream: &Upstream, table: &SessionTable) -> Self {
        let (totals, recent, placed, line) = (table.totals(), table.upgrades(), upstream.placements(), upstream.line());
        Self {
            live: table.live(),
            learned: totals.learned,
            rescued: totals.rescued,
            unknown: totals.unknown,
            ended: Ended(totals),
            upgrades: Upgrades {
                offered: upstream.metrics.upgrades_offered.get(),
                reached: upstream.metrics.upgrades_reached.get(),
                last_minute: LastMinute { offered: recent.offered, reached: recent.reached, ratio: recent.ratio() },
            },
            placed: Placed { by_balance: placed.balance, returning: placed.returning, spilled: placed.spilled },
            waiting_to_open: line.map(|AdmissionQueue { waiting, .. }| waiting),
            refused_to_open: line.map(|AdmissionQueue { refused, .. }| refused),
            largest_client: upstream.largest_client().map(Into::into),
        }
    }
}

impl Server {
    fn of(upstream: &Upstream, server: &upstream::Server) -> Self {
        let status = server.status();
        Self {
            name: server.name().to_string(),
            address: server.address().to_string(),
            priority: server.priority(),
            zone: server.zone().map(ToString::to_string),
            state: status.state.as_str(),
            removed: server.is_removed(),
            since: time(status.since),
            ejected_for_seconds: status.ejected.map(|ejected| ejected.left.as_secs_f64()),
            ejected_because_of: status.ejected.map(|ejected| ejected.fault.to_string()),
            ejections: server.ejections(),
            in_flight: server.in_flight(),
            sessions: upstream.sessions_on(server.id()),
            sessions_on_websocket: server.home().map(|home| home.websockets()),
            drain: Progress::of(upstream, server),
            total: server.total(),
            connect_failures: server.connect_failures(),
            bad_answers: server.bad_answers(),
            first_byte_seconds: server.first_byte().map(|time| time.as_secs_f64()),
            last_check: status.last_check.map(Into::into),
        }
    }
}

impl Serialize for Ended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Cause::ALL.iter().map(|&cause| (cause.as_str(), self.0.ended(cause))))
    }
}

impl From<LargestClient> for Client {
    fn from(client: LargestClient) -> Self {
        Self { address: client.address.to_string(), share: client.share }
    }
}

impl From<Rebalancing> for Rebalance {
    fn from(Rebalancing { shed, under_way, waits }: Rebalancing) -> Self {
        Self { shed, under_way, waits }
    }
}

impl From<Findings> for Discovery {
    fn from(Findings { source, inquiries, servers, left_out }: Findings) -> Self {
        let Inquiries { looked, found, fault, answers, failures, changes } = inquiries;
        let ago = found.and_then(|found| SystemTime::now().duration_since(found).ok());
        Self {
            source,
            servers,
            looked: looked.map(time),
            found: found.map(time),
            found_seconds_ago: ago.map(|ago| ago.as_secs_f64()),
            fault,
            answers,
            failures,
            changes,
            left_out: left_out.into_iter().map(|(name, fault)| LeftOut { name, fault }).collect(),
        }
    }
}

impl From<CheckReport> for Check {
    fn from(CheckReport { good, text, at, took }: CheckReport) -> Self {
        let at = humantime::format_rfc3339_millis(at).to_string();
        Self { good, text, at, took_seconds: took.as_secs_f64() }
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
