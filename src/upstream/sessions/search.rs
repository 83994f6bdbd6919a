//! Looks for sessions that this gateway has not seen: it was restarted, or another replica opened them.
//!
//! A made-up id costs a stranger one request and the servers one each, so a search is bounded in every way: one for each
//! session, so many at once, so many in vain for each address, and none at a path where no session is opened.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::budget::{Account, Budget};
use super::lookup::{Fields, Questions, Testimony, Witness};
use crate::address::standing_for;
use crate::session::{How, Key, Question};
use crate::upstream::config::{Balance, Check};
use crate::upstream::servers::Health;
use crate::upstream::{PickKey, Server, ServerId, Upstream};

/// The searches of one upstream; they outlive reloads.
pub(crate) struct Searches {
    /// For clients that come here.
    of_clients: Searched,
    /// For other gateways, which want to know of the servers here alone: they are not to wait for searches that may wait for them.
    of_peers: Searched,
    turns: Semaphore,
    budget: Budget,
    witnesses: Mutex<HashMap<(u64, ServerId), Arc<Witness>>>,
    /// Where sessions were opened, other than where one expects them.
    paths: Mutex<HashSet<Box<str>>>,
    /// The operator knows that a server does not tell what it knows.
    told: AtomicBool,
    /// Since when this gateway places sessions here.
    since: SystemTime,
}

/// What is searched for at this moment, and what was in vain.
#[derive(Default)]
struct Searched {
    running: Mutex<HashMap<Key, watch::Receiver<Option<Sought>>>>,
    /// Sessions that nobody knew, and until when that is believed.
    missing: Mutex<HashMap<Key, Instant>>,
}

/// What is looked for, and for whom.
pub(crate) struct Wanted<'a> {
    pub(crate) key: Key,
    pub(crate) dialect: u64,
    pub(crate) client: &'a PickKey,
    /// The server that the client's cookie names.
    pub(crate) was_on: Option<ServerId>,
    /// The servers that may have it; `None` for all.
    pub(crate) among: Option<Vec<ServerId>>,
    pub(crate) questions: &'a Arc<Questions>,
    /// Whether the client's connection has searched in vain before.
    pub(crate) strayed: &'a AtomicBool,
    /// Other gateways, which are asked when no server knows it.
    pub(crate) peers: Option<&'a AskedPeers>,
    /// Another gateway wants to know.
    pub(crate) for_peer: bool,
}

/// Other gateways that may have a session.
#[derive(Clone, Debug)]
pub(crate) struct AskedPeers {
    /// They are the servers of this upstream.
    pub(crate) upstream: Arc<Upstream>,
    /// What its table calls the session.
    pub(crate) key: Key,
    /// What they are asked.
    pub(crate) questions: Arc<Questions>,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sought {
    /// This server knows the session.
    Found(ServerId),
    /// This gateway's servers do.
    AtPeer(ServerId),
    /// Nobody has said so.
    Unknown,
    /// There are too many searches, or too many of this client were in vain.
    Refused,
    /// It took too long.
    Late,
    /// Nobody who could be asked has said so, and not all could be, since this machine lacks something.
    Shortage,
}

impl Sought {
    /// The word for it in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Found(_) => "found",
            Self::AtPeer(_) => "peer",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Late => "late",
            Self::Shortage => "shortage",
        }
    }
}

/// Longest time for a search, the wait for its turn included: Engine.IO gives up after 45 s.
const LONGEST: Duration = Duration::from_secs(10);
/// Searches at once.
const TURNS: usize = 256;
/// Servers that are asked for one session, and those of them at once.
const MOST_ASKED: usize = 64;
const SIDE_BY_SIDE: usize = 8;
/// How long the likeliest server has before others are asked as well.
const HEAD_START: Duration = Duration::from_millis(50);
/// How long it is believed that nobody knows a session, where all have said so, and where one could not be asked.
const MISSING: Duration = Duration::from_secs(5);
const MISSING_PERHAPS: Duration = Duration::from_secs(1);
const MOST_MISSING: usize = 16_384;
/// Paths that are learned.
const MOST_PATHS: usize = 64;
/// How long after the gateway's start a session may come that it would have placed elsewhere, for all that it knows: until those
/// who listened by way of another one have come back.
const AFTER_START: Duration = Duration::from_secs(60);
/// How long after a server has come a session may come that is older than that.
const AFTER_CHANGE: Duration = Duration::from_secs(3600);
/// Servers that come so soon after the start were there before, for all that the gateway knows.
const AT_START: Duration = Duration::from_secs(10);

impl Searches {
    pub(crate) fn new() -> Self {
        Self {
            of_clients: Searched::default(),
            of_peers: Searched::default(),
            turns: Semaphore::new(TURNS),
            budget: Budget::new(),
            witnesses: Mutex::default(),
            paths: Mutex::default(),
            told: AtomicBool::new(false),
            since: SystemTime::now(),
        }
    }

    fn of(&self, wanted: &Wanted<'_>) -> &Searched {
        if wanted.for_peer { &self.of_peers } else { &self.of_clients }
    }
}

impl Searched {
    /// Takes part in the search for a session, or begins it.
    fn join(&self, key: Key) -> Part<'_> {
        let mut running = lock(&self.running);
        if let Some(other) = running.get(&key) {
            return Part::Waits(other.clone());
        }
        let (tell, heard) = watch::channel(None);
        running.insert(key, heard);
        Part::Leads(Lead { searched: self, key, tell })
    }

    fn is_missing(&self, key: Key) -> bool {
        lock(&self.missing).get(&key).is_some_and(|until| *until > Instant::now())
    }

    fn note_missing(&self, key: Key, clear: bool) {
        let now = Instant::now();
        let mut missing = lock(&self.missing);
        if missing.len() >= MOST_MISSING {
            missing.retain(|_, until| *until > now);
            if missing.len() >= MOST_MISSING {
                missing.clear();
            }
        }
        missing.insert(key, now + if clear { MISSING } else { MISSING_PERHAPS });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How sure it is that nobody knows a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// All have said so.
    None,
    /// Some have not.
    Some,
    /// Some could not be asked, for want of something on this side.
    Shortage,
}

enum Part<'a> {
    Waits(watch::Receiver<Option<Sought>>),
    Leads(Lead<'a>),
}

/// The one who searches. If it is dropped before it has told anything, one of those who wait goes on.
struct Lead<'a> {
    searched: &'a Searched,
    key: Key,
    tell: watch::Sender<Option<Sought>>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        lock(&self.searched.running).remove(&self.key);
    }
}

impl Upstream {
    /// Whether sessions are opened at this path, as far as anybody knows.
    pub(crate) fn expects_sessions_at(&self, path: &str) -> bool {
        let said = &self.config.sessions.paths;
        let path = self.session_protocol().map_or(path, |protocol| protocol.path_of_sessions(path));
        if !said.is_empty() {
            return said.iter().any(|base| is_at(path, base));
        }
        if self.session_protocol().is_some_and(|protocol| protocol.is_usual_path(path)) {
            return true;
        }
        let checked = self.config.health.path.as_deref().filter(|_| self.config.health_check() == Check::Session);
        checked.is_some_and(|checked| is_at(path, checked.split('?').next().unwrap_or_default()))
            || lock(&self.searches.paths).contains(path)
    }

    /// A session was opened at this path.
    pub(crate) fn saw_session_at(&self, path: &str) {
        let mut paths = lock(&self.searches.paths);
        if paths.len() < MOST_PATHS && paths.insert(path.into()) {
            log::info!("upstream {}: sessions are opened at {path}, too", self.name);
        }
    }

    /// Looks for a session among the servers. Those that are up are asked first and side by side, beginning where the
    /// client's cookie or hash points, since there most sessions are; those that are down, or don't answer, are asked last. The
    /// client's own request waits, and is sent once.
    pub(crate) async fn search(self: &Arc<Self>, wanted: &Wanted<'_>) -> Sought {
        let account = self.searches.budget.account(standing_for(wanted.client.client));
        let sought = match self.searches.budget.wait(&account) {
            Some(_waiting) => timeout(LONGEST, self.take_part(wanted, &account)).await.unwrap_or(Sought::Late),
            None => Sought::Refused,
        };
        if matches!(sought, Sought::Unknown | Sought::Refused) {
            wanted.strayed.store(true, Relaxed);
        }
        self.metrics.session_search(sought.as_str());
        sought
    }

    /// The server that a request goes to whose session was not found: the one where it may be, `likeliest`, or that of its
    /// hash, unless that does not answer. Any other one says as well that it does not know the session.
    pub(crate) fn who_answers(&self, client: &PickKey, likeliest: Option<ServerId>) -> Option<ServerId> {
        let mut servers = self.in_ring_order(client);
        servers.sort_by_key(|server| Some(server.id()) != likeliest);
        let first = servers.first()?.id();
        let answers = |server: &&Arc<Server>| server.is_healthy() && !self.witness(server).fell_silent();
        let answering = servers.iter().find(answers)?.id();
        if answering == first { likeliest } else { Some(answering) }
    }

    /// Where a session may be that would open on the server of its hash if it were new; `None` for anywhere, since a hash does not
    /// place sessions here.
    ///
    /// Every gateway places an id by the same hash. So one that this gateway has not seen is new, or where it was placed by
    /// the hash over other servers: those before its server on the ring, which take no new ones now, and if its server has not been
    /// there for long, those behind it, up to one that has.
    pub(crate) fn elsewhere(&self, client: &PickKey) -> Option<Vec<ServerId>> {
        if self.config.balance() != Balance::ClientIp || self.brought.balance.is_some() {
            return None;
        }
        let order = self.in_ring_order(client);
        let now = SystemTime::now();
        let is_settled = |server: &Server| {
            let since = server.in_this_state_since();
            let from_start = since.duration_since(self.searches.since).is_ok_and(|after| after > AT_START);
            let (since, time) = if from_start { (since, AFTER_CHANGE) } else { (self.searches.since, AFTER_START) };
            now.duration_since(since).is_ok_and(|there| there > time)
        };
        let Some(home) = order.iter().position(|server| server.is_healthy()) else { return Some(Vec::new()) };
        let (before, rest) = order.split_at(home);
        let behind = if is_settled(&rest[0]) { &[] } else { &rest[1..] };
        let last = behind
            .iter()
            .position(|server| server.is_healthy() && is_settled(server))
            .map_or(behind.len(), |at| at + 1);
        let may_have_it = before.iter().chain(&behind[..last]).chain(order.iter().filter(|server| server.is_removed()));
        let mut servers: Vec<_> =
            may_have_it.filter(|server| server.health() == Health::Up).map(|server| server.id()).collect();
        servers.dedup();
        Some(servers)
    }

    /// Whether every session that lives here is known, for all that anybody knows: whoever was there when the gateway started has
    /// come back by now, or is there no more.
    pub(crate) fn has_seen_all(&self) -> bool {
        let Some((table, protocol)) = self.sessions().zip(self.session_protocol()) else { return true };
        let long = protocol.unseen_life().max(AFTER_START);
        let since = SystemTime::now().duration_since(self.searches.since);
        since.is_ok_and(|since| since > long) && table.len() < table.max()
    }

    async fn take_part(self: &Arc<Self>, wanted: &Wanted<'_>, account: &Account) -> Sought {
        loop {
            match self.searches.of(wanted).join(wanted.key) {
                Part::Waits(mut heard) => {
                    let sought = heard.wait_for(Option::is_some).await.ok().and_then(|sought| *sought);
                    if let Some(sought) = sought {
                        return sought;
                    }
                }
                Part::Leads(lead) => {
                    let sought = self.lead(wanted, account).await;
                    lead.tell.send_replace(Some(sought));
                    return sought;
                }
            }
        }
    }

    async fn lead(self: &Arc<Self>, wanted: &Wanted<'_>, account: &Account) -> Sought {
        let (searches, key) = (&self.searches, wanted.key);
        let Some((table, protocol)) = self.sessions().zip(self.session_protocol()) else { return Sought::Unknown };
        // It may have been found since it was looked up.
        if let Some(found) = table.find(key) {
            return Sought::Found(ServerId::from_bits(found.server));
        }
        if let Some(found) = wanted.peers.and_then(|peers| peers.upstream.sessions()?.find(peers.key)) {
            return Sought::AtPeer(ServerId::from_bits(found.server));
        }
        if searches.of(wanted).is_missing(key) {
            return Sought::Unknown;
        }
        let fresh = !wanted.strayed.load(Relaxed);
        // Nobody waits for a place who could not pay for it.
        if searches.budget.is_spent(account, fresh) {
            return Sought::Refused;
        }
        let Ok(_place) = account.places.acquire().await else { return Sought::Refused };
        let Some(charge) = searches.budget.charge(account, fresh) else { return Sought::Refused };
        let found = match self.ask_around(wanted).await {
            Ok(server) => Ok(server),
            Err(doubt) => match wanted.peers {
                Some(peers) => match peers.ask(wanted).await {
                    Ok(peer) => {
                        charge.give_back();
                        return Sought::AtPeer(peer);
                    }
                    Err(theirs) => Err(doubt.max(theirs)),
                },
                None => Err(doubt),
            },
        };
        let server = match found {
            Ok(server) => server,
            Err(Doubt::Shortage) => {
                charge.give_back();
                return Sought::Shortage;
            }
            Err(doubt) => {
                searches.of(wanted).note_missing(key, doubt == Doubt::None);
                return Sought::Unknown;
            }
        };
        charge.give_back();
        let home = table.home(server.id().to_bits());
        table.learn(key, &home, protocol.unseen_life(), How::Rescue);
        self.saw(wanted.client, &server);
        Sought::Found(server.id())
    }

    /// Who knows the session; if nobody does, how sure that is.
    async fn ask_around(self: &Arc<Self>, wanted: &Wanted<'_>) -> Result<Arc<Server>, Doubt> {
        let turn = self.searches.turns.acquire().await;
        let mut servers = self.in_ring_order(wanted.client);
        // Where the cookie points is more likely still.
        servers.sort_by_key(|server| Some(server.id()) != wanted.was_on);
        if let Some(among) = &wanted.among {
            servers.retain(|server| among.contains(&server.id()));
        }
        servers.truncate(MOST_ASKED);
        servers.retain(|server| !self.has_let_go_of(server) && !self.witness(server).is_own());
        let answers = |server: &Arc<Server>| server.health() != Health::Down && !self.witness(server).is_silent();
        let (first, mut last): (Vec<_>, Vec<_>) = servers.into_iter().partition(answers);
        let doubt = match self.ask_these(wanted, first.clone(), HEAD_START).await {
            Ok(found) => return Ok(found),
            Err(doubt) => doubt,
        };
        drop(turn);
        // One that was busy may answer now: to take it for a no would end a session that lives.
        last.extend(first.into_iter().filter(|server| self.witness(server).fell_silent()));
        let all = last.len();
        last.retain(|server| server.health() != Health::Down || self.is_waited_for(server));
        let unasked = if last.len() < all { Doubt::Some } else { Doubt::None };
        self.ask_these(wanted, last, Duration::ZERO).await.map_err(|at_last| doubt.max(at_last).max(unasked))
    }

    /// Asks the first of these servers, and after a while or its answer some of the others at once.
    async fn ask_these(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        servers: Vec<Arc<Server>>,
        head_start: Duration,
    ) -> Result<Arc<Server>, Doubt> {
        let (tell, mut heard) = mpsc::unbounded_channel();
        let one_by_one = self.session_protocol().is_some_and(|protocol| protocol.asks_one_by_one());
        let many = if one_by_one { 1 } else { SIDE_BY_SIDE };
        let (mut servers, mut asked, mut most, mut doubt) = (servers.into_iter(), 0, 1, Doubt::None);
        let hurry = sleep(head_start);
        tokio::pin!(hurry);
        loop {
            while asked < most
                && let Some(server) = servers.next()
            {
                self.ask_in_background(server, wanted, tell.clone());
                asked += 1;
            }
            if asked == 0 {
                return Err(doubt);
            }
            tokio::select! {
                Some((server, testimony)) = heard.recv() => {
                    (asked, most) = (asked - 1, many);
                    match testimony {
                        Testimony::Yes => return Ok(server),
                        Testimony::No => {}
                        Testimony::Untold | Testimony::Silence => doubt = doubt.max(Doubt::Some),
                        Testimony::Shortage => doubt = Doubt::Shortage,
                    }
                }
                () = &mut hurry, if most < many => most = many,
            }
        }
    }

    /// A question that has been put is heard to its end even where nobody needs the answer any more, so that its
    /// connection can be kept.
    fn ask_in_background(
        self: &Arc<Self>,
        server: Arc<Server>,
        wanted: &Wanted<'_>,
        tell: mpsc::UnboundedSender<(Arc<Server>, Testimony)>,
    ) {
        let (upstream, witness) = (Arc::clone(self), self.witness(&server));
        let (dialect, questions) = (wanted.dialect, Arc::clone(wanted.questions));
        tokio::spawn(async move {
            let place = tokio::select! {
                place = witness.place() => place,
                () = tell.closed() => return,
            };
            let testimony = upstream.hear(&server, &witness, dialect, &questions).await;
            drop(place);
            if testimony == Testimony::Untold && !upstream.searches.told.swap(true, Relaxed) {
                log::warn!(
                    "upstream {}: server {} does not tell which sessions it knows, when it is asked {} {}: sessions that this \
                     gateway has not seen open, as after a restart, are not found there",
                    upstream.name,
                    server.name(),
                    questions.about.method,
                    questions.about.target.split('?').next().unwrap_or_default()
                );
            }
            let _ = tell.send((server, testimony));
        });
    }

    /// Tells a server, in its own time, that a client has left.
    pub(crate) fn say_farewell(self: &Arc<Self>, server: Arc<Server>, farewell: Question, fields: Fields) {
        let (upstream, witness) = (Arc::clone(self), self.witness(&server));
        tokio::spawn(async move { upstream.say(&server, &witness, &farewell, &fields).await });
    }

    /// How many servers would be asked for a session that may be on any of them.
    pub(crate) fn how_many_are_asked(&self) -> usize {
        let servers = self.servers();
        let asked = servers.iter().filter(|server| !self.has_let_go_of(server) && !self.witness(server).is_own());
        asked.count().min(MOST_ASKED)
    }

    fn witness(&self, server: &Server) -> Arc<Witness> {
        let mut witnesses = lock(&self.searches.witnesses);
        let name = (self.group, server.id());
        if let Some(witness) = witnesses.get(&name) {
            return Arc::clone(witness);
        }
        // Those of servers that are gone, and of other terms of TLS, go when somebody new comes.
        let members = self.members.load();
        witnesses.retain(|(group, id), _| *group == self.group && members.find_ever(*id).is_some());
        Arc::clone(witnesses.entry(name).or_insert_with(|| Arc::new(Witness::new())))
    }
}

impl AskedPeers {
    /// The gateway whose servers have the session, which is learned; else how sure it is that none has.
    async fn ask(&self, wanted: &Wanted<'_>) -> Result<ServerId, Doubt> {
        let Self { upstream, key, questions } = self;
        let wanted = Wanted { key: *key, was_on: None, among: None, questions, peers: None, ..*wanted };
        let peer = upstream.ask_around(&wanted).await?;
        if let Some((table, protocol)) = upstream.sessions().zip(upstream.session_protocol()) {
            table.learn(*key, &table.home(peer.id().to_bits()), protocol.unseen_life(), How::Rescue);
        }
        Ok(peer.id())
    }
}

/// Whether a path is this one, or below it.
fn is_at(path: &str, base: &str) -> bool {
    let base = base.strip_suffix('/').unwrap_or(base);
    path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_holds_what_is_below_it() {
        for path in ["/io", "/io/", "/io/1/xhr-polling/a"] {
            assert!(is_at(path, "/io") && is_at(path, "/io/"), "{path}");
        }
        for path in ["/iota", "/", "/a/io"] {
            assert!(!is_at(path, "/io"), "{path}");
        }
        assert!(is_at("/", "/") && is_at("/anything", "/"));
    }
}
