//! Upstreams and servers as operators see them: how each fares and why, what it carries, and how fast.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::drain::Progress;
use super::rates::{Counted, Rates};
use super::shape::{Moment, told};
use crate::session::{Cause, SessionTable};
use crate::upstream::{
    self, AdmissionQueue, CheckReport, DrainedBy, Findings, Inquiries, LargestClient, Rebalancing, State, Upstream,
};

told! {
    /// An upstream and its servers.
    UpstreamStatus {
        /// Its name.
        name: String,
        /// What its servers speak, as `kind` says it.
        kind: String,
        /// Its balance.
        balance: String,
        /// Whether a server is up.
        ready: bool,
        /// Whether the gateway is ready without it.
        optional: bool,
        /// What is known of its sessions; null where it has none.
        sessions: Option<Sessions>,
        /// Requests that wait for a server.
        waiting: usize,
        /// How sessions are moved for the sake of balance; null where they aren't.
        rebalance: Option<Rebalance>,
        /// How its servers are found; null where the configuration lists them.
        discovery: Option<Discovery>,
        /// Tunnels that are open.
        tunnels: i64,
        /// Answers so far.
        answered: u64,
        /// Answers in a second.
        answered_per_second: Option<f64>,
        /// Of those, the ones with a status of 500 or more.
        failed_per_second: Option<f64>,
        /// Its servers, with those that were removed and still have work.
        servers: Vec<Server>,
    }

    /// How the servers of an upstream are found.
    Discovery {
        /// Who tells of them.
        source: String,
        /// How many there are.
        servers: usize,
        /// When it was last asked.
        looked: Option<Moment>,
        /// When it last told of any.
        found: Option<Moment>,
        /// How long ago that is.
        found_seconds_ago: Option<f64>,
        /// Why the last question failed, if it did.
        fault: Option<String>,
        /// Answers so far.
        answers: u64,
        /// Questions that failed.
        failures: u64,
        /// Answers that changed something.
        changes: u64,
        /// Those that were found and can't be servers.
        left_out: Vec<LeftOut>,
    }

    /// One that was found and can't be a server.
    LeftOut {
        /// Its name.
        name: String,
        /// Why not.
        fault: String,
    }

    /// What is known of the sessions of an upstream.
    Sessions {
        /// Those that live.
        live: usize,
        /// Learned from handshakes.
        learned: u64,
        /// Found by asking servers.
        rescued: u64,
        /// Look-ups that found none.
        unknown: u64,
        /// Those that ended, by why.
        ended: BTreeMap<&'static str, u64>,
        /// Those that were offered a WebSocket.
        upgrades: Upgrades,
        /// What chose the servers of new ones.
        placed: Placed,
        /// Handshakes that wait for their turn; null where they aren't paced.
        waiting_to_open: Option<usize>,
        /// Handshakes that could not wait.
        refused_to_open: Option<u64>,
        /// The client address that opened the most of the latest ones.
        largest_client: Option<Client>,
    }

    /// Sessions that were offered a WebSocket, and those of them that reached it.
    Upgrades {
        /// Offered, so far.
        offered: u64,
        /// Reached, so far.
        reached: u64,
        /// The same in the last minute.
        last_minute: LastMinute,
    }

    /// Sessions that were offered a WebSocket in the last minute.
    LastMinute {
        /// How many.
        offered: u64,
        /// How many of them reached it.
        reached: u64,
        /// The share of those; null while there are none.
        ratio: Option<f64>,
    }

    /// What chose the servers of new sessions.
    Placed {
        /// The balance.
        by_balance: u64,
        /// Where the client was before.
        returning: u64,
        /// Another one, since the first had too many.
        spilled: u64,
    }

    /// A client address, and its share of the latest sessions.
    Client {
        /// The address; for IPv6 that of the /64.
        address: String,
        /// Its share, 0 to 1.
        share: f64,
    }

    /// How sessions are moved for the sake of balance.
    Rebalance {
        /// Sessions told goodbye for it so far.
        shed: u64,
        /// Whether some are to be moved now.
        under_way: bool,
        /// What it waits for.
        waits: Option<String>,
    }

    /// A server.
    Server {
        /// Its upstream.
        upstream: String,
        /// Its name.
        name: String,
        /// Its address.
        address: String,
        /// It stands by while one of a lower number is up and has room.
        priority: u16,
        /// Where it stands; null where nothing is said of that.
        zone: Option<String>,
        /// Its share of new work beside its peers.
        weight: u32,
        /// The same, as the configuration says.
        configured_weight: u32,
        /// `starting`, `up`, `down` or `draining`.
        state: &'static str,
        /// Why, in a few words.
        why: String,
        /// Whether it was taken out of its upstream, and is gone when its work is.
        removed: bool,
        /// Since when the checks have had the verdict of now.
        since: Moment,
        /// How long it is still passed over; null where it isn't.
        ejected_for_seconds: Option<f64>,
        /// What it failed at before that.
        ejected_because_of: Option<String>,
        /// How often it was passed over.
        ejections: u64,
        /// Requests and tunnels in flight.
        in_flight: usize,
        /// Most of them; 0 for no limit.
        max_connections: usize,
        /// Tunnels and pending polls that are open and could be told goodbye.
        open: usize,
        /// Sessions that live there.
        sessions: usize,
        /// Of those, the ones on a WebSocket; null where there are no sessions.
        sessions_on_websocket: Option<usize>,
        /// How far its drain has come; null where it does not drain.
        drain: Option<Progress>,
        /// Requests and tunnels that were given to it.
        total: u64,
        /// The same in a second.
        per_second: Option<f64>,
        /// Sessions opened there in a second.
        sessions_per_second: Option<f64>,
        /// Faults in a second.
        faults_per_second: Option<f64>,
        /// Connects that failed.
        connect_failures: u64,
        /// Answers that were bad, late or none.
        bad_answers: u64,
        /// What the next answer is expected to take; null where that is not measured.
        first_byte_seconds: Option<f64>,
        /// Its last check.
        last_check: Option<Check>,
        /// What became of it lately, the oldest first.
        history: Vec<Lately>,
    }

    /// A check that has ended.
    Check {
        /// Whether the server passed.
        good: bool,
        /// What was seen.
        text: String,
        /// When it ended.
        at: Moment,
        /// How long it took.
        took_seconds: f64,
    }

    /// A state that a server came to.
    Lately {
        /// When.
        at: Moment,
        /// `starting`, `up`, `down` or `draining`.
        state: &'static str,
    }
}

impl UpstreamStatus {
    pub(super) fn of(rates: &Rates, upstream: &Upstream) -> Self {
        let (config, name) = (upstream.config(), upstream.name());
        let word = |said: serde_json::Value| said.as_str().unwrap_or_default().to_owned();
        Self {
            name: name.to_string(),
            kind: word(serde_json::to_value(config.kind).unwrap_or_default()),
            balance: word(serde_json::to_value(config.balance()).unwrap_or_default()),
            ready: upstream.ready(),
            optional: config.optional,
            sessions: upstream.sessions().map(|table| Sessions::of(upstream, table)),
            waiting: upstream.waiting(),
            rebalance: upstream.rebalancing().map(Into::into),
            discovery: upstream.findings().map(Into::into),
            tunnels: upstream.metrics.tunnels_open.get(),
            answered: super::rates::answered(&upstream.metrics),
            answered_per_second: rates.of(&Counted::Answered(name.clone())),
            failed_per_second: rates.of(&Counted::Failed(name.clone())),
            servers: upstream.all_servers().iter().map(|server| Server::of(rates, upstream, server)).collect(),
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
            ended: Cause::ALL.iter().map(|&cause| (cause.as_str(), totals.ended(cause))).collect(),
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
    pub(super) fn of(rates: &Rates, upstream: &Upstream, server: &upstream::Server) -> Self {
        let status = server.status();
        let rate = |make: fn(std::sync::Arc<str>, std::sync::Arc<str>) -> Counted| {
            rates.of(&make(upstream.name().clone(), server.name().clone()))
        };
        Self {
            upstream: upstream.name().to_string(),
            name: server.name().to_string(),
            address: server.address().to_string(),
            priority: server.priority(),
            zone: server.zone().map(ToString::to_string),
            weight: server.weight(),
            configured_weight: server.configured_weight(),
            state: status.state.as_str(),
            why: why(&status),
            removed: server.is_removed(),
            since: Moment(status.since),
            ejected_for_seconds: status.ejected.map(|ejected| ejected.left.as_secs_f64()),
            ejected_because_of: status.ejected.map(|ejected| ejected.fault.to_string()),
            ejections: server.ejections(),
            in_flight: server.in_flight(),
            max_connections: server.max_connections(),
            open: upstream.roster(server.id()).len(),
            sessions: upstream.sessions_on(server.id()),
            sessions_on_websocket: server.home().map(|home| home.websockets()),
            drain: Progress::of(upstream, server),
            total: server.total(),
            per_second: rate(Counted::Taken),
            sessions_per_second: rate(Counted::Opened),
            faults_per_second: rate(Counted::Faults),
            connect_failures: server.connect_failures(),
            bad_answers: server.bad_answers(),
            first_byte_seconds: server.first_byte().map(|time| time.as_secs_f64()),
            last_check: status.last_check.map(Into::into),
            history: status
                .history
                .into_iter()
                .map(|(at, state)| Lately { at: Moment(at), state: state.as_str() })
                .collect(),
        }
    }
}

/// Why a server is in its state, in a few words.
fn why(status: &upstream::Status) -> String {
    let check = status.last_check.as_ref().map(|check| check.text.as_str());
    match (status.state, status.drained_by) {
        (State::Down, _) => check.unwrap_or("its checks fail").to_owned(),
        (_, Some(DrainedBy::Configuration)) => "the file has it drain".to_owned(),
        (_, Some(DrainedBy::Removal)) => "it was taken out of its upstream".to_owned(),
        (_, Some(DrainedBy::Operator)) => "an operator has asked for it".to_owned(),
        (State::Starting, _) => "no check has ended yet".to_owned(),
        (State::Up | State::Draining, None) => match (status.ejected, check) {
            (Some(ejected), _) => format!("passed over for a while: {}", ejected.fault),
            (None, Some(check)) => check.to_owned(),
            (None, None) => "nobody checks it".to_owned(),
        },
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
    fn from(Findings { source, inquiries, servers, left_out, .. }: Findings) -> Self {
        let Inquiries { looked, found, fault, answers, failures, changes } = inquiries;
        let ago = found.and_then(|found| SystemTime::now().duration_since(found).ok());
        Self {
            source,
            servers,
            looked: looked.map(Moment),
            found: found.map(Moment),
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
        Self { good, text, at: Moment(at), took_seconds: took.as_secs_f64() }
    }
}
