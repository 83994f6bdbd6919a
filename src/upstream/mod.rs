//! Pools of servers: who lives, who has room, and who is next.
//!
//! [`Upstream::pick`] answers with a [`Lease`]: one place on one server, given back when it is dropped. What goes over
//! the connection, and which session belongs to which server, is the business of others.

mod balance;
pub mod config;
mod connect;
mod health;
mod http_client;
mod key;
mod probe;
mod queue;
mod resolve;
mod ring;
mod server;
#[cfg(test)]
mod testing;
mod tls;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use balance::{Balance, Candidates};
pub use config::Config;
pub use health::Checks;
pub use key::{PickKey, Tried};
pub use server::{CheckReport, Endpoint, Server, ServerId, State, Status};
pub use tls::{ClientIdentity, ServerTls};

use balance::Tier;
use config::ServerConfig;
use queue::Queue;
use ring::Ring;

/// One pool of servers with its balance, limits, health and TLS.
pub struct Upstream {
    name: Arc<str>,
    config: Config,
    members: ArcSwap<Members>,
    /// Tells the checks that the set of servers is another one.
    members_changed: watch::Sender<()>,
    make_balance: MakeBalance,
    tls: Option<ServerTls>,
    queue: Arc<Queue>,
}

/// Makes the balance for a set of servers; called again whenever the set changes.
pub type MakeBalance = Arc<dyn Fn(&[Arc<Server>]) -> Box<dyn Balance> + Send + Sync>;

/// The servers of the moment and what was derived from them; swapped whole.
struct Members {
    servers: Box<[Arc<Server>]>,
    /// Positions in `servers`, sorted by id.
    by_id: Box<[(ServerId, usize)]>,
    /// For sessions of unknown home, so most upstreams never need it.
    ring: OnceLock<Ring>,
    balance: Box<dyn Balance>,
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

/// Why no server was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// No server is up, or every one that is was tried.
    NoServer,
    /// Every server is full, and so is the queue.
    QueueFull,
    /// No server had room within the timeout of the queue.
    QueueTimeout,
}

impl fmt::Display for PickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoServer => "no server is up",
            Self::QueueFull => "every server is full, and so is the queue",
            Self::QueueTimeout => "no server had room in time",
        })
    }
}

impl std::error::Error for PickError {}

/// One request or tunnel in flight on one server. Dropping it gives the place to the next in the queue.
pub struct Lease {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    waited: Duration,
}

/// What can be done for a request at this moment.
enum Turn {
    /// A place was taken on this server.
    Serve(Arc<Server>),
    /// It may be served later.
    Wait(Reason),
    /// Nobody can serve it.
    Refuse,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Room on a server.
    Full,
    /// The first verdict on a server.
    Starting,
}

/// Longest wait for a first verdict where the connect timeout is off.
const STARTING_WAIT: Duration = Duration::from_secs(5);
/// Requests that may wait for a first verdict even if `queue.size` is smaller: at start nobody is full yet.
const STARTING_SIZE: usize = 1000;

impl Upstream {
    /// Builds the upstream `name`. Reads the TLS files; does not wait for names to resolve.
    pub fn build(name: &str, config: &Config) -> Result<Arc<Self>, BuildError> {
        Self::build_with_balance(name, config, balance::maker(config))
    }

    /// As [`Self::build`], with a balance of the caller's own instead of `config.balance`.
    pub fn build_with_balance(name: &str, config: &Config, make_balance: MakeBalance) -> Result<Arc<Self>, BuildError> {
        Self::assemble(name, config, make_balance, Arc::default(), &[])
    }

    /// Builds the same upstream from another configuration. Servers whose name and address are the same keep their
    /// state and counters, and who waits in the queue keeps waiting.
    pub fn rebuild(&self, config: &Config) -> Result<Arc<Self>, BuildError> {
        let make_balance = if config.balance() == self.config.balance() && config.kind == self.config.kind {
            self.make_balance.clone()
        } else {
            balance::maker(config)
        };
        // Another way to speak to the servers is no evidence of how they do.
        let known: &[_] = if config.tls == self.config.tls { &self.servers() } else { &[] };
        Self::assemble(&self.name, config, make_balance, self.queue.clone(), known)
    }

    fn assemble(
        name: &str,
        config: &Config,
        make_balance: MakeBalance,
        queue: Arc<Queue>,
        known: &[Arc<Server>],
    ) -> Result<Arc<Self>, BuildError> {
        let explain = |fault: String| BuildError(format!("upstream `{name}`: {fault}"));
        let tls = config.tls.as_ref().map(|tls| ServerTls::load(tls, config.kind)).transpose().map_err(explain)?;
        http_client::check_headers(&config.health).map_err(explain)?;
        let members = Members::build(config, &config.servers, known, &make_balance, tls.as_ref()).map_err(explain)?;
        Ok(Arc::new(Self {
            name: name.into(),
            config: config.clone(),
            members: ArcSwap::from_pointee(members),
            members_changed: watch::channel(()).0,
            make_balance,
            tls,
            queue,
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

    /// The servers of this moment.
    pub fn servers(&self) -> Servers {
        Servers(self.members.load_full())
    }

    /// The server with this id, if it is still one of ours.
    pub fn server(&self, id: ServerId) -> Option<Arc<Server>> {
        self.members.load().find(id).cloned()
    }

    /// Replaces the set of servers, as discovery finds it. Who stays keeps state and counters.
    pub fn set_servers(&self, servers: &[ServerConfig]) -> Result<(), BuildError> {
        let known = self.servers();
        let members = Members::build(&self.config, servers, &known, &self.make_balance, self.tls.as_ref())
            .map_err(|fault| BuildError(format!("upstream `{}`: {fault}", self.name)))?;
        self.members.store(Arc::new(members));
        self.members_changed.send_replace(());
        self.queue.dispatch();
        Ok(())
    }

    /// Whether new work has somewhere to go: a server is up and not draining.
    pub fn ready(&self) -> bool {
        self.members.load().servers.iter().any(|server| server.state() == State::Up)
    }

    /// How many requests wait for a server.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Finds a server for new work, in the order of the balance, past servers that are down, draining, ejected, full or
    /// in `tried`; the server found is added to `tried`. Waits in the queue while every server is full, and for the
    /// first verdict while none is known to be up.
    pub async fn pick(self: &Arc<Self>, key: &PickKey, tried: &mut Tried) -> Result<Lease, PickError> {
        let turn = if self.queue.is_empty() {
            self.attempt(key, tried)
        } else {
            // Who came first goes first, even if there is room by now.
            Turn::Wait(self.outlook(tried))
        };
        let lease = match turn {
            Turn::Serve(server) => Lease::new(self.clone(), server),
            Turn::Wait(reason) => self.wait(key, tried, reason).await?,
            Turn::Refuse => return Err(PickError::NoServer),
        };
        tried.add(lease.server.id());
        Ok(lease)
    }

    /// A place on the server that a session belongs to. Sessions pass where new work doesn't: a server that is full,
    /// draining or ejected keeps them. `None` if the server is down or gone.
    pub fn return_to(self: &Arc<Self>, id: ServerId) -> Option<Lease> {
        let server = self.server(id).filter(|server| server.state() != State::Down)?;
        server.acquire();
        Some(Lease::new(self.clone(), server))
    }

    /// A place for new work on a server that the client knows from before. `None` if [`Self::pick`] would walk past it.
    pub fn place_on(self: &Arc<Self>, id: ServerId) -> Option<Lease> {
        let server = self.server(id)?;
        let open = self.queue.is_empty() && server.is_healthy() && server.try_acquire();
        open.then(|| Lease::new(self.clone(), server))
    }

    /// All servers in the order in which the consistent hash meets them for this client, whatever their state and
    /// whatever the balance: where a session of unknown home is looked for.
    pub fn in_ring_order(&self, key: &PickKey) -> Vec<Arc<Server>> {
        let members = self.members.load();
        let mut order: Vec<usize> = Vec::with_capacity(members.servers.len());
        let ring = members.ring.get_or_init(|| Ring::build(&members.servers));
        for index in ring.walk(key) {
            if !order.contains(&index) {
                order.push(index);
                if order.len() == members.servers.len() {
                    break;
                }
            }
        }
        order.into_iter().map(|index| members.servers[index].clone()).collect()
    }

    /// Takes a server out of new work, or back in. Sessions that it has keep coming ([`Self::return_to`]).
    pub fn set_draining(&self, server: &Server, draining: bool) {
        if server.set_draining(draining) {
            let verb = if draining { "drains" } else { "no longer drains" };
            log::info!("upstream {}: server {} {verb}", self.name, server.name());
            self.queue.dispatch();
        }
    }

    fn attempt(&self, key: &PickKey, tried: &Tried) -> Turn {
        let members = self.members.load();
        // Ejection is a guess, so it gives way where nobody else is left.
        for tier in [Tier::Healthy, Tier::Ejected] {
            let candidates = Candidates::new(&members.servers, tried, tier);
            while let Some(index) = members.balance.choose(key, &candidates) {
                if !candidates.is_open(index) {
                    break;
                }
                let server = &members.servers[index];
                if server.try_acquire() {
                    return Turn::Serve(server.clone());
                }
            }
            if let Some(reason) = candidates.worth_waiting_for() {
                return Turn::Wait(reason);
            }
        }
        Turn::Refuse
    }

    /// What a request would wait for.
    fn outlook(&self, tried: &Tried) -> Reason {
        let members = self.members.load();
        let candidates = Candidates::new(&members.servers, tried, Tier::Healthy);
        candidates.worth_waiting_for().unwrap_or(Reason::Full)
    }

    async fn wait(self: &Arc<Self>, key: &PickKey, tried: &Tried, reason: Reason) -> Result<Lease, PickError> {
        let (size, timeout) = match reason {
            Reason::Full => (self.config.queue.size, self.config.queue.timeout),
            Reason::Starting => (
                self.config.queue.size.max(STARTING_SIZE),
                Some(self.config.timeouts.connect).filter(|limit| !limit.is_zero()).unwrap_or(STARTING_WAIT),
            ),
        };
        let since = tokio::time::Instant::now();
        let mut ticket = Queue::join(self, key, tried);
        self.queue.dispatch();
        if let Some(answer) = ticket.answer_now() {
            return answer;
        }
        if ticket.ahead() >= size {
            return Err(PickError::QueueFull);
        }
        match tokio::time::timeout(timeout, ticket.answer()).await {
            Ok(answer) => answer.map(|mut lease| {
                lease.waited = since.elapsed();
                lease
            }),
            Err(_) if reason == Reason::Starting => Err(PickError::NoServer),
            Err(_) => Err(PickError::QueueTimeout),
        }
    }

    /// Passes over a server that refuses connections, unless it is the last one.
    fn eject(&self, server: &Server) {
        let members = self.members.load();
        let others = members.servers.iter().any(|other| other.id() != server.id() && other.is_healthy());
        let duration = self.config.ejection.duration;
        if others && server.eject(duration) {
            log::warn!(
                "upstream {}: server {} is passed over for {duration:?}: {} connect failures in a row",
                self.name,
                server.name(),
                server.failures_in_a_row()
            );
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Members {
    fn build(
        config: &Config,
        servers: &[ServerConfig],
        known: &[Arc<Server>],
        make_balance: &MakeBalance,
        tls: Option<&ServerTls>,
    ) -> Result<Self, String> {
        let mut built: Vec<Arc<Server>> = Vec::with_capacity(servers.len());
        for said in servers {
            let server = Server::adopt(said, config.health_check(), known)?;
            if built.iter().any(|other| other.id() == server.id()) {
                return Err(format!("two servers are called `{}`: give each its own address or `name`", server.name()));
            }
            if let Some(tls) = tls {
                tls.server_name(&server)?;
            }
            built.push(server);
        }
        if built.len() > usize::from(u16::MAX) {
            return Err(format!("{} servers are too many: expected at most {}", built.len(), u16::MAX));
        }
        let mut by_id: Vec<_> = built.iter().enumerate().map(|(index, server)| (server.id(), index)).collect();
        by_id.sort_unstable();
        Ok(Self { by_id: by_id.into(), ring: OnceLock::new(), balance: make_balance(&built), servers: built.into() })
    }

    fn find(&self, id: ServerId) -> Option<&Arc<Server>> {
        let found = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(&self.servers[self.by_id[found].1])
    }
}

impl Lease {
    /// Makes a lease of a place that was taken already.
    fn new(upstream: Arc<Upstream>, server: Arc<Server>) -> Self {
        Self { upstream, server, waited: Duration::ZERO }
    }

    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The upstream that gave the lease.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// How long the request waited for it.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Says that the server couldn't be connected to: enough of these in a row eject it.
    pub fn connect_failed(&self) {
        let threshold = self.upstream.config.ejection.failures;
        let failures = self.server.connect_failed();
        if threshold > 0 && failures >= threshold {
            self.upstream.eject(&self.server);
        }
    }

    /// Says that the server took the connection.
    pub fn connected(&self) {
        self.server.connected();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.release();
        self.upstream.queue.dispatch();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("upstream", &self.upstream.name)
            .field("server", &self.server.name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::json;
    use tokio::time::advance;

    use super::testing::{at_once, client, config, upstream};
    use super::*;

    /// Two servers with one place each, and room for two in the queue.
    fn narrow() -> Arc<Upstream> {
        upstream(json!({
            "servers": [
                { "address": "10.0.0.1:1", "name": "a", "max_connections": 1 },
                { "address": "10.0.0.2:1", "name": "b", "max_connections": 1 },
            ],
            "queue": { "size": 2, "timeout": "5s" },
        }))
    }

    async fn pick(upstream: &Arc<Upstream>) -> Result<Lease, PickError> {
        upstream.pick(&client(1), &mut Tried::default()).await
    }

    fn name(lease: &Lease) -> &str {
        lease.server().name()
    }

    /// A pick that has taken its place in the queue.
    async fn queued(upstream: &Arc<Upstream>) -> tokio::task::JoinHandle<Result<Lease, PickError>> {
        let before = upstream.waiting();
        let task = tokio::spawn({
            let upstream = upstream.clone();
            async move { pick(&upstream).await }
        });
        while upstream.waiting() == before {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_upstream_serves_its_queue_in_order() {
        let upstream = narrow();
        let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
        let (first, second) = (queued(&upstream).await, queued(&upstream).await);
        assert_eq!(pick(&upstream).await.unwrap_err(), PickError::QueueFull);

        advance(Duration::from_secs(2)).await;
        drop(b);
        let first = first.await.unwrap().unwrap();
        assert_eq!((name(&first), first.waited()), ("b", Duration::from_secs(2)));
        assert!(!second.is_finished());
        drop(a);
        let second = second.await.unwrap().unwrap();
        assert_eq!(name(&second), "a");
        drop((first, second));
        assert_eq!(upstream.servers().iter().map(|server| server.in_flight()).sum::<usize>(), 0);
        assert_eq!(pick(&upstream).await.unwrap().waited(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_do_not_overtake_the_queue() {
        let upstream = upstream(json!({ "servers": [{ "address": "10.0.0.1:1", "max_connections": 1 }] }));
        let held = pick(&upstream).await.unwrap();
        let first = queued(&upstream).await;
        drop(held);
        // The first has not run yet, but the place is its own already.
        assert!(pick(&upstream).now_or_never().is_none());
        drop(first.await.unwrap().unwrap());
        assert!(pick(&upstream).now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_timeout_of_the_queue() {
        let upstream = narrow();
        let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
        let start = tokio::time::Instant::now();
        assert_eq!(pick(&upstream).await.unwrap_err(), PickError::QueueTimeout);
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(upstream.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_of_size_0_refuses_at_once() {
        let mut config = narrow().config().clone();
        config.queue.size = 0;
        let upstream = Upstream::build("test", &config).unwrap();
        let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
        assert_eq!(pick(&upstream).await.unwrap_err(), PickError::QueueFull);
        assert_eq!(upstream.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_hands_the_place_on() {
        let upstream = narrow();
        let (a, _b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
        // The first gives up while it waits, the second after a lease was sent but before it woke up.
        let (first, second) = (queued(&upstream).await, queued(&upstream).await);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(upstream.waiting(), 1);
        let third = queued(&upstream).await;
        drop(a);
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert_eq!(name(&third.await.unwrap().unwrap()), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_tried_a_server_lets_others_have_it() {
        let upstream = narrow();
        let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
        let choosy = tokio::spawn({
            let (upstream, a) = (upstream.clone(), a.server().id());
            async move {
                let mut tried = Tried::default();
                tried.add(a);
                upstream.pick(&client(1), &mut tried).await
            }
        });
        while upstream.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let second = queued(&upstream).await;
        drop(a);
        assert_eq!(name(&second.await.unwrap().unwrap()), "a");
        drop(b);
        assert_eq!(name(&choosy.await.unwrap().unwrap()), "b");
    }

    #[tokio::test]
    async fn a_lease_is_given_back_even_by_a_panic() {
        let upstream = narrow();
        let lease = pick(&upstream).await.unwrap();
        let server = lease.server().clone();
        assert_eq!((server.in_flight(), server.total()), (1, 1));
        let panicking = tokio::spawn(async move {
            let _lease = lease;
            panic!("as meant");
        });
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(server.in_flight(), 0);
    }

    #[test]
    fn no_place_is_lost_or_given_twice_under_contention() {
        let upstream = upstream(json!({
            "balance": "least_connections",
            "servers": [
                { "address": "10.0.0.1:1", "max_connections": 2 },
                { "address": "10.0.0.2:1", "max_connections": 1 },
            ],
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..200u64)
                .map(|number| {
                    let upstream = upstream.clone();
                    tokio::spawn(async move {
                        for round in 0..20 {
                            let (key, mut tried) = (client(1), Tried::default());
                            let picking = upstream.pick(&key, &mut tried);
                            // Every third gives up early, at some point of its way.
                            if (number + round) % 3 == 0 {
                                let patience = Duration::from_micros(number * 7);
                                let _ = tokio::time::timeout(patience, picking).await;
                                continue;
                            }
                            let lease = picking.await.unwrap();
                            assert!(lease.server().in_flight() <= lease.server().max_connections());
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!(upstream.waiting(), 0);
        assert!(upstream.servers().iter().all(|server| server.in_flight() == 0));
    }

    #[test]
    fn a_retry_goes_to_another_server_until_all_were_tried() {
        let upstream = narrow();
        let mut tried = Tried::default();
        let first = at_once(upstream.pick(&client(1), &mut tried)).unwrap().server().id();
        let second = at_once(upstream.pick(&client(1), &mut tried)).unwrap().server().id();
        assert_ne!(first, second);
        let third = at_once(upstream.pick(&client(1), &mut tried)).unwrap_err();
        assert_eq!(third, PickError::NoServer);
    }

    #[tokio::test(start_paused = true)]
    async fn connect_failures_in_a_row_eject_a_server_for_a_while_but_never_the_last() {
        let upstream = upstream(json!({
            "servers": ["10.0.0.1:1", "10.0.0.2:1"],
            "ejection": { "failures": 2, "for": "10s" },
        }));
        let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
        a.connect_failed();
        a.connected();
        a.connect_failed();
        assert_eq!(a.server().ejected(), None, "a good connect wipes the slate");
        a.connect_failed();
        assert_eq!(a.server().ejected(), Some(Duration::from_secs(10)));
        for _ in 0..4 {
            assert_eq!(name(&pick(&upstream).await.unwrap()), name(&b));
        }
        for _ in 0..4 {
            b.connect_failed();
        }
        assert_eq!(b.server().ejected(), None, "it is the last");
        advance(Duration::from_secs(10)).await;
        assert_eq!(a.server().ejected(), None);
        assert!(a.server().connect_failures() == 3 && upstream.ready());
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejected_server_is_better_than_none() {
        let upstream = upstream(json!({
            "servers": ["10.0.0.1:1", "10.0.0.2:1"],
            "ejection": { "failures": 1 },
        }));
        let (a, b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
        a.connect_failed();
        upstream.set_draining(b.server(), true);
        assert_eq!(name(&pick(&upstream).await.unwrap()), name(&a));
    }

    #[test]
    fn a_draining_server_keeps_its_sessions_and_gets_no_new_ones() {
        let upstream = narrow();
        let a = upstream.servers()[0].clone();
        upstream.set_draining(&a, true);
        assert_eq!(a.state(), State::Draining);
        assert!(upstream.place_on(a.id()).is_none());
        let held = upstream.return_to(a.id()).unwrap();
        let beyond = upstream.return_to(a.id()).unwrap();
        assert_eq!(a.in_flight(), 2, "sessions pass the limit");
        drop((held, beyond));

        let b = upstream.place_on(upstream.servers()[1].id()).unwrap();
        assert!(upstream.place_on(b.server().id()).is_none(), "it is full");
        upstream.set_draining(b.server(), true);
        assert!(!upstream.ready());
        drop(b);
        let nobody = at_once(upstream.pick(&client(1), &mut Tried::default()));
        assert_eq!(nobody.unwrap_err(), PickError::NoServer);
        assert!(upstream.return_to(ServerId::of("z")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_first_verdict() {
        let mut config = narrow().config().clone();
        config.health.check = Some(config::Check::Tcp);
        config.queue.size = 0;
        let upstream = Upstream::build("test", &config).unwrap();
        assert!(!upstream.ready());
        let (first, second) = (queued(&upstream).await, queued(&upstream).await);
        let servers = upstream.servers();
        assert!(servers[0].set_health(server::Health::Down));
        assert!(servers[1].set_health(server::Health::Up));
        upstream.queue.dispatch();
        assert_eq!(name(&first.await.unwrap().unwrap()), "b");
        assert_eq!(name(&second.await.unwrap().unwrap()), "b");

        let undecided = Upstream::build("test", &config).unwrap();
        assert_eq!(pick(&undecided).await.unwrap_err(), PickError::NoServer, "after the connect timeout");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_at_once_that_the_last_server_is_down() {
        let upstream = narrow();
        let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
        let waiter = queued(&upstream).await;
        for server in upstream.servers().iter() {
            server.set_health(server::Health::Down);
        }
        upstream.queue.dispatch();
        assert_eq!(waiter.await.unwrap().unwrap_err(), PickError::NoServer);
        assert!(upstream.return_to(upstream.servers()[0].id()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rebuilt_upstream_keeps_what_it_knows_and_who_waits() {
        let upstream = narrow();
        let (a, _b) = (pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap());
        upstream.set_draining(a.server(), true);
        let waiter = queued(&upstream).await;

        let said = config(json!({
            "servers": [
                { "address": "10.0.0.1:1", "name": "a", "max_connections": 5 },
                { "address": "10.0.0.2:2", "name": "b" },
            ],
            "health": { "check": "tcp" },
        }));
        let rebuilt = upstream.rebuild(&said).unwrap();
        let servers = rebuilt.servers();
        assert_eq!((servers[0].in_flight(), servers[0].state()), (1, State::Draining));
        assert_eq!((servers[1].in_flight(), servers[1].state()), (0, State::Starting), "it is another one");
        rebuilt.set_draining(&servers[0], false);
        assert!(pick(&rebuilt).await.is_ok());
        assert!(!waiter.is_finished(), "its upstream allows one at a time");
        drop(a);
        assert_eq!(name(&waiter.await.unwrap().unwrap()), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_server_serves_the_queue_and_the_others_stay_as_they_are() {
        let upstream = narrow();
        let _held = [pick(&upstream).await.unwrap(), pick(&upstream).await.unwrap()];
        let waiter = queued(&upstream).await;
        let before = upstream.servers();
        let mut servers = upstream.config().servers.clone();
        servers.push(config(json!({ "servers": ["10.0.0.3:1"] })).servers.remove(0));
        upstream.set_servers(&servers).unwrap();
        assert_eq!(name(&waiter.await.unwrap().unwrap()), "10.0.0.3:1");
        assert!(Arc::ptr_eq(&upstream.servers()[0], &before[0]));
        assert_eq!(upstream.server(before[1].id()).unwrap().in_flight(), 1);

        upstream.set_servers(&servers[1..]).unwrap();
        assert!(upstream.server(before[0].id()).is_none());
    }

    #[test]
    fn ring_order_names_every_server_once_and_starts_where_the_client_is_placed() {
        let servers: Vec<String> = (1..=5).map(|number| format!("10.0.0.{number}:1")).collect();
        let upstream = upstream(json!({ "balance": "client_ip", "servers": servers }));
        for number in 0..20 {
            let key = client(number);
            let order = upstream.in_ring_order(&key);
            assert_eq!(order.len(), 5);
            let mut tried = Tried::default();
            for server in order {
                assert_eq!(at_once(upstream.pick(&key, &mut tried)).unwrap().server().id(), server.id());
            }
        }
    }

    #[test]
    fn what_cannot_be_built_is_told_in_a_sentence() {
        let fault = |said: serde_json::Value| Upstream::build("web", &config(said)).unwrap_err().to_string();
        assert_eq!(
            fault(json!({ "servers": ["10.0.0.1:1", "10.0.0.1:1"] })),
            "upstream `web`: two servers are called `10.0.0.1:1`: give each its own address or `name`"
        );
        assert_eq!(
            fault(json!({ "servers": ["unix:/run/app.sock"], "tls": {} })),
            "upstream `web`: TLS over unix:/run/app.sock needs tls.server_name: a socket file has no host name"
        );
        assert_eq!(
            fault(json!({ "servers": ["10.0.0.1:1"], "health": { "headers": { "Host": "a\r\nb" } } })),
            "upstream `web`: health.headers: the value of `Host` holds a control character"
        );
        assert_eq!(
            fault(json!({ "servers": ["10.0.0.1:1"], "tls": { "verify": false, "cert": "a.pem" } })),
            "upstream `web`: tls.cert needs tls.key beside it"
        );
        let missing = fault(json!({ "servers": ["10.0.0.1:1"], "tls": { "ca": "/nowhere/ca.pem" } }));
        let start = "upstream `web`: tls.ca /nowhere/ca.pem: expected certificates in PEM: ";
        assert!(missing.starts_with(start), "{missing}");
    }
}
