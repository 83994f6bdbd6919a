//! Servers that come and go by themselves: who tells of them, the task that asks, and how it went.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use log::{debug, info};
use rand::Rng;

use super::config::ServerConfig;
use super::servers::Latest;

/// Tells which servers an upstream has.
///
/// What is found replaces the set before: who stays keeps state, counters and sessions, who comes back does too, and who goes
/// keeps its sessions until its drain is over. One that can't be a server (a second one of its name, a name that TLS can't
/// ask for) is left out, and the log tells why. A reload keeps the set. The servers of before, such as those that the
/// configuration lists, serve until the first set is found.
///
/// Why it looks like this. A source of servers may be pushed to (a watch on a registry) or has to be asked again and again
/// (DNS): to wait inside of one call covers both, and it is the source that knows when it is time. It gives the whole set
/// each time and no changes to it, since a change that gets lost would never be made good. What it tells may be late, or
/// wrong: so a failure leaves the set as it is, and so does an empty one. Sets are compared by who is in them, so to tell the
/// same once more costs nothing.
///
/// One task calls it, for as long as its upstream is in force, over all reloads; never twice at once. Where the upstream
/// is taken out of the configuration, or the process ends, the call that waits is dropped: what it has taken by then must
/// be found again by the next one. It must not block its thread.
///
/// ```
/// use async_trait::async_trait;
/// use sockgate::{Discovery, ServerConfig, ServerList};
/// use tokio::sync::Mutex;
/// use tokio::sync::mpsc::Receiver;
///
/// /// Servers as somebody else sends them.
/// struct Sent(Mutex<Receiver<Vec<String>>>);
///
/// #[async_trait]
/// impl Discovery for Sent {
///     async fn next(&self) -> Result<ServerList, String> {
///         match self.0.lock().await.recv().await {
///             Some(addresses) => addresses.iter().map(|address| ServerConfig::at(address)).collect(),
///             None => std::future::pending().await,
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Discovery: Send + Sync + 'static {
    /// Waits until the set of servers may be another one, and gives it whole; the first call gives the set of now. An empty
    /// set changes nothing: a registry that has lost its memory is likelier than an app without any server.
    ///
    /// # Errors
    /// Why nothing could be found out: it is logged, the set stays as it is, and this is called again after a pause, of a
    /// second at first and up to half a minute.
    async fn next(&self) -> Result<ServerList, String>;

    /// A server of the set failed at a connect or a check, so the set may be old: [`Self::next`] may want to look at once.
    /// Called from the path of requests, as often as connects fail; it must not wait. Default: nothing.
    fn look_again(&self) {}

    /// Whether [`Self::next`] waits by itself until it is worth asking again after a failure, so that it needs no pause.
    /// Default: it does not.
    fn paces_itself(&self) -> bool {
        false
    }

    /// Whether it has heard by now who the servers are, be it that there are none. As long as it has not, the gateway is not
    /// ready, whatever else it serves; a source that is heard of once and fails later holds nobody up. Default: true, so
    /// that the gateway is ready where another upstream is.
    fn has_heard(&self) -> bool {
        true
    }

    /// What `/status` and the log call it. Default: `the program`.
    fn name(&self) -> String {
        "the program".to_owned()
    }
}

/// The servers that a [`Discovery`] has found; and what looked like one, and can't be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerList {
    pub(crate) servers: Vec<ServerConfig>,
    pub(crate) left_out: Vec<LeftOut>,
    /// Whether servers are called after who they are, and addresses pass from one to the next: then a server whose address
    /// another one has is gone, and so is one that drained and is on the list no more.
    pub(crate) are_lives: bool,
    /// Whether it holds where it is empty, too: who tells of it knows that nobody is left.
    pub(crate) holds_empty: bool,
}

/// One that is on a list and can't be a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeftOut {
    pub(crate) name: String,
    /// Why not: one plain sentence.
    pub(crate) fault: String,
}

impl ServerList {
    /// Adds a server.
    pub fn add(&mut self, server: ServerConfig) {
        self.servers.push(server);
    }

    /// Adds one that was found and can't be a server, and why: the log and `/status` tell of it.
    #[must_use]
    pub fn without(mut self, name: impl Into<String>, fault: impl Into<String>) -> Self {
        self.left_out.push(LeftOut { name: name.into(), fault: fault.into() });
        self
    }

    /// Those that can't be servers, each with the reason.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, &str)> {
        self.left_out.iter().map(|one| (one.name.as_str(), one.fault.as_str()))
    }

    /// Those that can be servers.
    pub fn servers(&self) -> &[ServerConfig] {
        &self.servers
    }
}

impl From<Vec<ServerConfig>> for ServerList {
    fn from(servers: Vec<ServerConfig>) -> Self {
        Self { servers, ..Self::default() }
    }
}

impl FromIterator<ServerConfig> for ServerList {
    fn from_iter<I: IntoIterator<Item = ServerConfig>>(servers: I) -> Self {
        servers.into_iter().collect::<Vec<_>>().into()
    }
}

/// A source of servers, and what it knows from the start.
pub struct Source {
    /// Who is asked.
    pub discovery: Arc<dyn Discovery>,
    /// What it has found already.
    pub first: Option<ServerList>,
}

/// How the discovery of an upstream stands.
#[derive(Clone, Debug, Default)]
pub struct Inquiries {
    /// When it last told anything, if only why it can't.
    pub(crate) looked: Option<SystemTime>,
    /// When it last found servers.
    pub(crate) found: Option<SystemTime>,
    /// Why it did not the last time.
    pub(crate) fault: Option<String>,
    /// How often it found servers, the same ones included.
    pub(crate) answers: u64,
    /// How often it failed.
    pub(crate) failures: u64,
    /// How often it found others than before.
    pub(crate) changes: u64,
}

/// [`Inquiries`] as one task writes it and others read it.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<Inquiries>);

impl Watched {
    pub(crate) fn now(&self) -> Inquiries {
        self.lock().clone()
    }

    /// Whether nothing has been found, and nobody has been told why.
    pub(crate) fn is_awaited(&self) -> bool {
        self.lock().looked.is_none()
    }

    pub(crate) fn note_found(&self, is_news: bool) {
        let mut so_far = self.lock();
        let now = Some(SystemTime::now());
        (so_far.looked, so_far.found, so_far.fault) = (now, now, None);
        so_far.answers += 1;
        so_far.changes += u64::from(is_news);
    }

    /// True where it is another fault than before.
    fn note_fault(&self, fault: &str) -> bool {
        let mut so_far = self.lock();
        so_far.looked = Some(SystemTime::now());
        so_far.failures += 1;
        let is_news = so_far.fault.as_deref() != Some(fault);
        so_far.fault = Some(fault.to_owned());
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, Inquiries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after a failure; twice as long after each further one, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Lays down what is found for the upstream of this name, for as long as it is polled. `failed` is called where nothing was
/// found.
pub(super) async fn follow(
    upstream: Arc<str>,
    discovery: Arc<dyn Discovery>,
    latest: Latest,
    inquiries: Arc<Watched>,
    failed: impl Fn(),
) {
    let name = discovery.name();
    let mut pause = PAUSE.0;
    loop {
        let found = match discovery.next().await {
            Ok(list) if list.servers.is_empty() && !list.holds_empty => Err(nothing_in(&list)),
            found => found,
        };
        match found {
            Ok(list) => {
                pause = PAUSE.0;
                if inquiries.now().fault.is_some() {
                    info!("upstream {upstream}: {name} finds servers again");
                }
                inquiries.note_found(latest.set(list));
            }
            Err(fault) => {
                let is_news = inquiries.note_fault(&fault);
                let level = if is_news { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, "upstream {upstream}: {name} finds no servers, those of before stay: {fault}");
                failed();
                if discovery.paces_itself() {
                    continue;
                }
                // Many gateways ask the same registry, and not all of them at once when it is back.
                let share = rand::rng().random_range(0.75..1.25);
                tokio::time::sleep(pause.mul_f64(share)).await;
                pause = (pause * 2).min(PAUSE.1);
                debug!("upstream {upstream}: {name} is asked again");
            }
        }
    }
}

/// Why a list without servers is none.
fn nothing_in(list: &ServerList) -> String {
    match list.left_out.as_slice() {
        [] => "found no server at all".to_owned(),
        [one] => format!("found only {one}"),
        [one, others @ ..] => format!("found only {one}, and {} more that can't be servers", others.len()),
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.fault)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::Mutex;
    use tokio::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::metrics::Metrics;
    use crate::upstream::{Config, Extensions, Upstream};

    struct Sent(Mutex<Receiver<Result<ServerList, String>>>);

    #[async_trait]
    impl Discovery for Sent {
        async fn next(&self) -> Result<ServerList, String> {
            match self.0.lock().await.recv().await {
                Some(found) => found,
                None => std::future::pending().await,
            }
        }
    }

    fn config(more: &str) -> Config {
        serde_json::from_value(json!({ "servers": ["10.0.0.9:1"], "health": { "check": "none" }, "host": more }))
            .unwrap()
    }

    fn build() -> (Arc<Upstream>, Sender<Result<ServerList, String>>) {
        let (sender, receiver) = channel(1);
        let brought = Extensions { discovery: Some(Arc::new(Sent(Mutex::new(receiver)))), ..Extensions::default() };
        let metrics = Metrics::new().unwrap().upstream("app");
        (Upstream::build_with("app", &config("a"), metrics, brought).unwrap(), sender)
    }

    fn at(addresses: &[&str]) -> ServerList {
        addresses.iter().map(|address| ServerConfig::at(address).unwrap()).collect()
    }

    fn names(upstream: &Upstream) -> Vec<String> {
        upstream.servers().iter().map(|server| server.name().to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_replaces_the_set_and_a_reload_keeps_it() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let running = upstream.start();
        assert_eq!(names(&upstream), ["10.0.0.9:1"], "the configuration's serve until then");
        sender.send(Ok(at(&["10.0.0.1:1", "10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.1:1", "10.0.0.2:1"]);
        drop(running);
        let rebuilt = upstream.rebuild(&config("b")).unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.1:1", "10.0.0.2:1"]);
        let mut changes = rebuilt.changes();
        let _running = rebuilt.start();
        sender.send(Err("nobody answers".to_owned())).await.unwrap();
        sender.send(Ok(at(&["10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.2:1"], "a failure is no end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_server_is_left_out_and_the_others_serve() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let _running = upstream.start();
        sender.send(Ok(at(&["10.0.0.1:1", "10.0.0.1:1", "10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.1:1", "10.0.0.2:1"]);
        let weightless = ServerConfig::at("10.0.0.4:1").unwrap().with_weight(0);
        sender.send(Ok(ServerList::from(vec![ServerConfig::at("10.0.0.3:1").unwrap(), weightless]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.3:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_comes_while_a_reload_is_built_is_the_next_ones_too() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let running = upstream.start();
        let rebuilt = upstream.rebuild(&config("b")).unwrap();
        sender.send(Ok(at(&["10.0.0.1:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.9:1"], "it is not in force yet");
        let mut changes = rebuilt.changes();
        let _running = rebuilt.start();
        drop(running);
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.1:1"]);
        sender.send(Ok(at(&["10.0.0.2:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(names(&rebuilt), ["10.0.0.2:1"], "who ends an old one ends no discovery");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_set_changes_nothing() {
        let (upstream, sender) = build();
        let mut changes = upstream.changes();
        let _running = upstream.start();
        sender.send(Ok(at(&["10.0.0.1:1"]))).await.unwrap();
        changes.changed().await.unwrap();
        sender.send(Ok(ServerList::default())).await.unwrap();
        // The second is taken only when the first has been dealt with.
        sender.send(Err("nobody answers".to_owned())).await.unwrap();
        sender.send(Err("nobody answers".to_owned())).await.unwrap();
        assert_eq!(names(&upstream), ["10.0.0.1:1"]);
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        assert!(ServerConfig::at("nowhere").unwrap_err().contains("nowhere"));
    }
}
