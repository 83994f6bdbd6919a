//! Upstreams: the servers of one kind of work, who of them lives, who has room, who is next, and who is let go.
//!
//! [`Upstream::pick`] answers with a [`Lease`]: one place on one server, given back when it is dropped. What goes over
//! the connection, and which session belongs to which server, is the business of others.

mod balance;
pub mod config;
mod connect;
mod discovery;
mod drains;
mod health;
pub(crate) mod peers;
mod pick;
mod queue;
mod running;
mod servers;
mod sessions;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

pub use balance::{Balance, Candidates, PickKey, Tried};
pub use config::{Config, ServerConfig};
pub use connect::ServerTls;
pub(crate) use connect::http2;
pub use discovery::{Discovery, Inquiries, ServerList, Source};
pub use health::{Checks, Fault, HealthCheck};
pub use pick::PickError;
pub use running::Running;
pub(crate) use servers::Whereabouts;
pub use servers::{CheckReport, DrainedBy, Endpoint, Findings, Lease, Opening, Server, ServerId, State, Status};
pub use sessions::{AdmissionQueue, LargestClient, Rebalancing};

use balance::Terms;
use config::{Check, Kind};
use drains::Drains;
use health::check_request;
use pick::{Reason, Turn};
use queue::Queue;
use servers::{Found, Health, Members};
use sessions::{Searches, Sessions};

pub(crate) use sessions::{AskedPeers, Fields, Questions, Sought, Wanted};

use crate::affinity::{self, Affinity, By, CookieAffinity, stable_hash};
use crate::metrics::UpstreamMetrics;
use crate::request::Request;
use crate::session::SessionProtocol;

/// The servers of one kind of work, with their balance, limits, health and TLS, what is counted of them, and what is open
/// on each.
pub struct Upstream {
    name: Arc<str>,
    config: Config,
    /// Changed by one task alone once the upstream runs.
    members: ArcSwap<Members>,
    /// Who tells of its servers, and what was found.
    found: Arc<Found>,
    /// Tells the checks that the set of servers is another one.
    members_changed: watch::Sender<()>,
    /// Tells the owner of the set that a server is to have another weight.
    reweighed: Notify,
    make_balance: MakeBalance,
    /// What a program brought, which outlives what the configuration says of it.
    brought: Extensions,
    tls: Option<ServerTls>,
    queue: Arc<Queue>,
    terms: Terms,
    /// Whether the time to the first byte of answers is taken.
    measures: bool,
    /// Held while it is decided whether a server can be done without.
    ejecting: Mutex<()>,
    /// Where its servers have any.
    sessions: Option<Sessions>,
    /// The counters.
    pub(crate) metrics: UpstreamMetrics,
    /// A number that no other upstream of this process has: connections of two upstreams are never mixed.
    pub(crate) group: u64,
    /// The cookie that names a client's server.
    pub(crate) cookie: Option<CookieAffinity>,
    /// What is hashed in place of the client's address, the first that a request has.
    keys: Vec<By>,
    /// The searches for sessions that nobody here knows.
    searches: Arc<Searches>,
    /// What is open on the servers, and who is told to leave.
    drains: Arc<Drains>,
}

static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);

/// Makes the balance for a set of servers; called again whenever the set changes.
pub type MakeBalance = Arc<dyn Fn(&[Arc<Server>]) -> Box<dyn Balance> + Send + Sync>;

/// Opens the source of servers that is said; gives `None` where they are listed.
pub type OpenSource = Arc<dyn Fn(&config::Servers) -> Result<Option<Source>, String> + Send + Sync>;

/// What an upstream gets from outside of its own configuration, most of it from a program and in place of what the
/// configuration says.
#[derive(Clone, Default)]
pub struct Extensions {
    /// In place of `balance`.
    pub balance: Option<MakeBalance>,
    /// The protocol of the sessions that its servers have, in place of that of its kind.
    pub session_protocol: Option<Arc<dyn SessionProtocol>>,
    /// Tells of the servers, in place of the configuration.
    pub discovery: Option<Arc<dyn Discovery>>,
    /// Looks at its servers, in place of `health.check`.
    pub health_check: Option<Arc<dyn HealthCheck>>,
    /// Says by what clients are placed, before what the configuration says of that.
    pub affinity: Option<Arc<dyn Affinity>>,
    /// Opens the source that a configuration names for its servers; `None` where it lists them.
    pub open_source: Option<OpenSource>,
    /// The zone that the gateway stands in.
    pub zone: Option<String>,
}

impl Extensions {
    /// What servers are asked; a check of the program's own counts as one of theirs.
    fn check(&self, config: &Config) -> Check {
        if self.health_check.is_some() { Check::Tcp } else { config.health_check() }
    }

    /// Who tells of the servers, where the configuration does not list them all.
    fn source(&self, said: &config::Servers) -> Result<Option<Source>, String> {
        match (&self.discovery, &self.open_source) {
            (Some(own), _) => Ok(Some(Source { discovery: Arc::clone(own), first: None })),
            (None, Some(open)) => open(said),
            (None, None) => Ok(None),
        }
    }
}

/// The servers of an upstream at one moment.
pub struct Servers(Arc<Members>);

impl Deref for Servers {
    type Target = [Arc<Server>];

    fn deref(&self) -> &[Arc<Server>] {
        &self.0.servers
    }
}

/// Why an upstream can't be built: one plain sentence that names what was found and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}

impl Upstream {
    /// Builds the upstream `name`. Reads the TLS files; does not wait for names to resolve.
    pub fn build(name: &str, config: &Config, metrics: UpstreamMetrics) -> Result<Arc<Self>, BuildError> {
        Self::build_with(name, config, metrics, Extensions::default())
    }

    /// As [`Self::build`], with parts of the caller's own.
    pub fn build_with(
        name: &str,
        config: &Config,
        metrics: UpstreamMetrics,
        brought: Extensions,
    ) -> Result<Arc<Self>, BuildError> {
        Self::assemble(name, config, metrics, brought, None)
    }

    /// Builds the same upstream from another configuration. Servers whose name and address are the same keep their
    /// state and counters, sessions stay known, who waits in the queue keeps waiting, and drains go on. Servers that are
    /// gone from it keep their sessions ([`Self::removed`]). What the new one says of draining and of the number of
    /// sessions holds from [`Self::start`] on. Where nothing is different, neither in the configuration nor in the files that it
    /// names, this one is given back.
    pub fn rebuild(self: &Arc<Self>, config: &Config) -> Result<Arc<Self>, BuildError> {
        self.rebuild_in(self.brought.zone.as_deref(), config)
    }

    /// The same, where the gateway stands in this zone now.
    pub(crate) fn rebuild_in(self: &Arc<Self>, zone: Option<&str>, config: &Config) -> Result<Arc<Self>, BuildError> {
        let brought = Extensions { zone: zone.map(str::to_owned), ..self.brought.clone() };
        Self::assemble(&self.name, config, self.metrics.clone(), brought, Some(self))
    }

    fn assemble(
        name: &str,
        config: &Config,
        metrics: UpstreamMetrics,
        brought: Extensions,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, BuildError> {
        let explain = |fault: String| BuildError(format!("upstream `{name}`: {fault}"));
        let tls = config
            .server_tls()
            .map(|tls| ServerTls::load(&tls, config.kind, config.http2))
            .transpose()
            .map_err(explain)?;
        let is_same =
            |before: &&Arc<Self>| before.config == *config && before.tls == tls && before.brought.zone == brought.zone;
        if let Some(before) = before.filter(is_same) {
            return Ok(Arc::clone(before));
        }
        check_request(&config.health).map_err(explain)?;
        let protocol = match &brought.session_protocol {
            Some(own) => Some(Arc::clone(own)),
            None => config.session_protocol().map_err(explain)?,
        };
        check_protocol(protocol.as_deref(), config).map_err(explain)?;
        let protocol = match protocol {
            Some(protocol) if config.are_peers => Some(Arc::new(peers::AtPeers(protocol)) as Arc<dyn SessionProtocol>),
            protocol => protocol,
        };
        let own_balance = brought.balance.is_none().then(|| config.balance());
        if brought.affinity.is_some() && own_balance.is_some_and(|balance| balance != config::Balance::ClientIp) {
            let what = "the program brings an affinity for it, which balance `client_ip` alone looks at: expected \
                        `balance: client_ip`, or a balance of the program's";
            return Err(explain(what.to_owned()));
        }
        let placing = Terms::of(config, own_balance, protocol.is_some());
        let sessions =
            protocol.map(|protocol| Sessions::build(protocol, config, &placing, before.map(|before| &**before)));
        let same_balance =
            |before: &&Arc<Self>| config.balance() == before.config.balance() && config.kind == before.config.kind;
        let make_balance = match (&brought.balance, before.filter(same_balance)) {
            (Some(balance), _) => balance.clone(),
            (None, Some(before)) => before.make_balance.clone(),
            (None, None) => balance::maker(config),
        };
        let same_header = |before: &Self, config: &Config| before.config.proxy_protocol == config.proxy_protocol;
        // Another way to speak to the servers is no evidence of how they do.
        let same_way = before.filter(|before| config.tls == before.config.tls && same_header(before, config));
        let known = same_way.map(|before| before.all_servers()).unwrap_or_default();
        let terms = servers::Terms {
            check: brought.check(config),
            sessions: sessions.as_ref().map(|sessions| &*sessions.table),
            tls: tls.as_ref(),
            make_balance: &make_balance,
            zone: brought.zone.as_deref(),
        };
        // What has been found is found, and what is wrong with one of those is no fault of the configuration's.
        let same_source = |before: &&Arc<Self>| brought.discovery.is_some() || before.config.servers == config.servers;
        let found = match before.filter(same_source) {
            Some(before) => before.found.clone(),
            None => match brought.source(&config.servers).map_err(explain)? {
                Some(source) => Arc::new(Found::by(source, before.map(|before| before.list()))),
                None => Arc::default(),
            },
        };
        let members = match found.latest() {
            Some(list) => Members::build_of_found(&list, &known, &terms),
            None => Members::build_all(config.servers.list(), &known, &terms).map_err(explain)?,
        };
        // Connections that are kept to its servers stay good unless they begin in another way.
        let same_terms = before.filter(|before| before.tls == tls && same_header(before, config));
        Ok(Arc::new(Self {
            name: name.into(),
            config: config.clone(),
            members: ArcSwap::from_pointee(members),
            found,
            members_changed: watch::channel(()).0,
            reweighed: Notify::new(),
            make_balance,
            brought,
            tls,
            queue: before.map(|before| before.queue.clone()).unwrap_or_default(),
            terms: placing,
            measures: own_balance == Some(config::Balance::PeakEwma),
            ejecting: Mutex::default(),
            sessions,
            metrics,
            group: same_terms.map_or_else(|| NEXT_GROUP.fetch_add(1, Ordering::Relaxed), |before| before.group),
            cookie: config.affinity.cookie.as_ref().map(|cookie| CookieAffinity::new(cookie, name)),
            keys: config.affinity.keys(),
            searches: before.map_or_else(|| Arc::new(Searches::new()), |before| before.searches.clone()),
            drains: before.map(|before| before.drains.clone()).unwrap_or_default(),
        }))
    }

    /// The key of the upstream in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What the operator said.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How TLS is spoken to the servers; `None` where it isn't.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// Whether the servers are told of each connection's client, so that it is for no other one.
    pub(crate) fn tells_of_clients(&self) -> bool {
        self.config.proxy_protocol.is_some()
    }

    /// The list that they are made of.
    pub(crate) fn list(&self) -> Arc<ServerList> {
        self.found.latest().unwrap_or_else(|| Arc::new(self.config.servers.list().to_vec().into()))
    }

    /// Whether a program tells of its servers, whatever the configuration says.
    pub(crate) fn is_found_by_program(&self) -> bool {
        self.brought.discovery.is_some()
    }

    /// The servers of this moment.
    pub fn servers(&self) -> Servers {
        Servers(self.members.load_full())
    }

    /// The server with this id, if it is still one of ours.
    pub fn server(&self, id: ServerId) -> Option<Arc<Server>> {
        self.members.load().find(id).cloned()
    }

    /// The same, even if it was removed and still has work.
    pub(crate) fn server_ever(&self, id: ServerId) -> Option<Arc<Server>> {
        self.members.load().find_ever(id)
    }

    /// Servers that were taken out of the set and still have sessions, tunnels or requests in flight. They get no new
    /// work whatever becomes of the others; they are checked as before.
    pub fn removed(&self) -> Arc<Vec<Arc<Server>>> {
        self.members.load().removed()
    }

    /// Lets go of removed servers: requests of their sessions go elsewhere from now on.
    fn forget(&self, servers: &HashSet<ServerId>) {
        let gone = self.members.load().forget(servers);
        for server in &gone {
            log::info!("upstream {}: server {} is gone", self.name, server.name());
        }
        if !gone.is_empty() {
            self.members_changed.send_replace(());
        }
    }

    /// Resolves whenever the set of servers is another one.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.members_changed.subscribe()
    }

    /// Everybody who may have work: those of the set, then those that were removed from it.
    pub fn all_servers(&self) -> Vec<Arc<Server>> {
        let members = self.members.load();
        members.servers.iter().chain(members.removed().iter()).cloned().collect()
    }

    /// What its servers have in common.
    fn server_terms(&self) -> servers::Terms<'_> {
        servers::Terms {
            check: self.check(),
            sessions: self.sessions().map(|table| &**table),
            tls: self.tls.as_ref(),
            make_balance: &self.make_balance,
            zone: self.brought.zone.as_deref(),
        }
    }

    /// How its servers are checked.
    fn check(&self) -> Check {
        self.brought.check(&self.config)
    }

    /// A hash of what stands for the client of a request in place of its address; `None` where nothing does.
    pub(crate) fn value_of(&self, request: &Request<'_>) -> Option<u64> {
        if let Some(own) = &self.brought.affinity
            && let Some(key) = own.key(request)
        {
            return Some(stable_hash(&key));
        }
        self.keys.iter().find_map(|by| affinity::value(request, by)).map(|value| stable_hash(&value))
    }

    /// Whether new work has somewhere to go: a server is up, if only one that drains.
    pub fn ready(&self) -> bool {
        self.members.load().servers.iter().any(|server| server.health() == Health::Up)
    }

    /// Sessions that live on a server; 0 on upstreams that have none.
    pub fn sessions_on(&self, server: ServerId) -> usize {
        self.sessions().map_or(0, |table| table.sessions_on(server.to_bits()))
    }

    /// How many requests wait for a server.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// All servers in the order in which the consistent hash meets them for this client, whatever their state and
    /// whatever the balance, and removed ones last: where a session of unknown home is looked for.
    pub fn in_ring_order(&self, key: &PickKey) -> Vec<Arc<Server>> {
        self.members.load().in_ring_order(key)
    }

    /// Takes a server out of new work, or back in. Sessions that it has keep coming ([`Self::return_to`]).
    pub fn set_draining(&self, server: &Server, draining: bool) {
        if server.set_draining(draining) {
            let verb = if draining { "drains" } else { "no longer drains" };
            log::info!("upstream {}: server {} {verb}", self.name, server.name());
            self.queue.dispatch();
        }
    }

    /// Gives a server another weight, until the configuration says something new of that; `None` gives it the configured
    /// one. It holds a moment later.
    pub fn set_weight(&self, server: &Server, weight: Option<u32>) {
        server.wish_weight(weight);
        let weight = weight.unwrap_or(server.configured_weight());
        log::info!("upstream {}: server {} gets weight {weight}", self.name, server.name());
        self.reweighed.notify_one();
    }

    /// Does what a running upstream shares with the one that it was rebuilt from, and so can't be done before it runs.
    fn settle(&self) {
        if let Some(table) = self.sessions() {
            table.set_max(self.config.sessions.max);
        }
        self.tell_left_out();
        let members = self.members.load();
        for server in members.servers.iter() {
            server.settle_weight();
            if server.come_back() {
                log::info!("upstream {}: server {} is back", self.name, server.name());
            }
            if server.follow_configured_drain() {
                let verb = if server.is_draining() { "drains" } else { "no longer drains" };
                log::info!("upstream {}: server {} {verb}, as configured", self.name, server.name());
            }
        }
        for server in members.removed().iter().filter(|server| server.remove()) {
            log::info!("upstream {}: server {} was removed: it drains", self.name, server.name());
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Refuses what asks more of a protocol than it can do.
fn check_protocol(protocol: Option<&dyn SessionProtocol>, config: &Config) -> Result<(), String> {
    if protocol.is_some() && config.kind == Kind::Tcp {
        return Err("a session protocol is not for kind `tcp`, which carries no HTTP".to_owned());
    }
    if config.health_check() == Check::Session && protocol.is_some_and(|protocol| protocol.check().is_none()) {
        return Err("`health.check: engine.io` opens sessions, and the program's session protocol can't: expected \
                    another check"
            .to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
