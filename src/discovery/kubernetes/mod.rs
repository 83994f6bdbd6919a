//! Servers that are the pods behind a Service of Kubernetes, as its EndpointSlices tell: listed once, and watched from then on.

mod api;
mod pods;
mod slices;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use log::debug;
use rand::Rng;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::api::{is_gone, is_gone_status, told, told_status};
use self::pods::Pods;
use self::slices::Slice;
use crate::upstream::config::KubernetesService;
use crate::upstream::{Discovery, ServerList, Source};

/// How long a watch is asked to last. A connection that is dead without a word is noticed a little later than that, so it
/// is much less than the five minutes that are usual.
const WATCH: u32 = 60;
/// How much later than asked a watch may end.
const LATE: Duration = Duration::from_secs(5);
/// Longest time for one page of a list, and for the beginning of a watch.
const ANSWER: Duration = Duration::from_secs(15);
/// Slices in one page of a list.
const PAGE: u32 = 200;
/// The pause after a failure; twice as long after each further one, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A watch that ends sooner than this, and has said nothing, was none.
const BRIEF: Duration = Duration::from_secs(2);
/// A history that is gone so soon after a list is no reason to list again at once.
const SETTLED: Duration = Duration::from_secs(5);
/// Changes that come within this time are told together: a rollout of hundreds of pods makes fifty of them in a second.
const TOGETHER: Duration = Duration::from_millis(100);

struct Kubernetes {
    said: KubernetesService,
    memory: Mutex<Memory>,
    heard: AtomicBool,
}

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<EndpointSlice>>> + Send>>;

/// What is known between two calls. Each event is taken up without a pause in between, so that a call that is dropped
/// loses none.
struct Memory {
    api: Option<Api<EndpointSlice>>,
    /// Where in the history of the slices the next watch begins; `None` where they have to be listed.
    version: Option<String>,
    /// When they were listed last.
    listed: Option<Instant>,
    watch: Option<Watching>,
    pods: Pods,
    /// A fault that is to be told after the list that it came with.
    fault: Option<String>,
    /// Whether there is something to tell, and since when.
    changed: Option<Instant>,
    pause: Duration,
    /// When the API server may be asked again.
    due: Option<Instant>,
}

struct Watching {
    events: Events,
    since: Instant,
    /// Whether anything has come of it.
    spoke: bool,
}

pub(super) fn of_service(said: &KubernetesService) -> Source {
    let memory = Memory {
        api: None,
        version: None,
        listed: None,
        watch: None,
        pods: Pods::default(),
        fault: None,
        changed: None,
        pause: PAUSE.0,
        due: None,
    };
    let kubernetes = Kubernetes { said: said.clone(), memory: Mutex::new(memory), heard: AtomicBool::new(false) };
    Source { discovery: Arc::new(kubernetes), first: None }
}

#[async_trait]
impl Discovery for Kubernetes {
    async fn next(&self) -> Result<ServerList, String> {
        let mut memory = self.memory.lock().await;
        loop {
            if let Some(fault) = memory.fault.take() {
                return Err(fault);
            }
            let tell_at = memory.tell_at();
            if tell_at.is_some_and(|at| at <= Instant::now()) {
                memory.changed = None;
                let told = memory.pods.tell(&self.said, Instant::now());
                memory.fault = told.fault;
                match told.list {
                    Some(list) => return Ok(list),
                    None => continue,
                }
            }
            // What is to be told is told whatever else happens meanwhile; nothing is lost by asking anew.
            let step = memory.step(&self.said);
            let done = match tell_at {
                Some(at) => timeout_at(at, step).await.unwrap_or(Ok(())),
                None => step.await,
            };
            if memory.pods.are_known() {
                self.heard.store(true, Relaxed);
            }
            if let Err(fault) = done {
                memory.fail();
                return Err(fault);
            }
        }
    }

    fn paces_itself(&self) -> bool {
        true
    }

    fn has_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    fn name(&self) -> String {
        self.said.to_string()
    }
}

impl Watching {
    fn was_of_use(&self) -> bool {
        self.spoke || self.since.elapsed() >= BRIEF
    }
}

impl Memory {
    /// When there will be something to tell.
    fn tell_at(&self) -> Option<Instant> {
        let changes = self.changed.map(|since| since + TOGETHER);
        changes.into_iter().chain(self.pods.look_again_at()).min()
    }

    /// Does the next thing: finds the API server, lists, begins a watch, or waits for what that tells.
    async fn step(&mut self, said: &KubernetesService) -> Result<(), String> {
        if let Some(watch) = &mut self.watch {
            let end = watch.since + Duration::from_secs(WATCH.into()) + LATE;
            let event = timeout_at(end, watch.events.next()).await;
            return self.take(event.ok().flatten());
        }
        if let Some(due) = self.due {
            sleep_until(due).await;
            self.due = None;
        }
        let api = match &self.api {
            Some(api) => api.clone(),
            None => self.api.insert(api::connect(said).await?).clone(),
        };
        match &self.version {
            None => {
                let (slices, version) = list(&api, said).await?;
                debug!("{said}: {} slices at version {version}", slices.len());
                self.pods.replace(slices);
                (self.version, self.listed) = (Some(version), Some(Instant::now()));
                self.note_change();
            }
            Some(version) => {
                let params = WatchParams::default().labels(&selector(said)).timeout(WATCH);
                let asking = timeout(ANSWER, api.watch(&params, version)).await;
                match asking.map_err(|_| silent())? {
                    Ok(events) => {
                        self.watch = Some(Watching { events: events.boxed(), since: Instant::now(), spoke: false });
                        // It is known to be so by now, though nothing has changed.
                        self.note_change();
                    }
                    Err(fault) if is_gone(&fault) => self.forget_version(),
                    Err(fault) => return Err(told(&fault)),
                }
            }
        }
        Ok(())
    }

    /// Takes up what a watch says; `None` where it has ended.
    fn take(&mut self, event: Option<kube::Result<WatchEvent<EndpointSlice>>>) -> Result<(), String> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        match event {
            Some(Ok(WatchEvent::Added(slice) | WatchEvent::Modified(slice))) => {
                self.heard_of(slice.metadata.resource_version.as_deref());
                if let Some((name, slice)) = Slice::of(slice) {
                    self.pods.put(name, slice);
                    self.note_change();
                }
            }
            Some(Ok(WatchEvent::Deleted(slice))) => {
                self.heard_of(slice.metadata.resource_version.as_deref());
                if let Some(name) = slice.metadata.name {
                    self.pods.remove(&name);
                    self.note_change();
                }
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => self.heard_of(Some(&mark.metadata.resource_version)),
            Some(Ok(WatchEvent::Error(status))) if is_gone_status(&status) => self.forget_version(),
            Some(Ok(WatchEvent::Error(status))) => return Err(told_status(&status)),
            Some(Err(fault)) if is_gone(&fault) => self.forget_version(),
            Some(Err(fault)) => return Err(told(&fault)),
            // An API server that ends each watch at once is not asked as often as it can answer.
            None if watch.was_of_use() => {
                self.watch = None;
                self.pause = PAUSE.0;
            }
            None => {
                self.watch = None;
                self.wait_a_while();
            }
        }
        Ok(())
    }

    /// The watch is of use, and the next one goes on from here.
    fn heard_of(&mut self, version: Option<&str>) {
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.version = Some(version.to_owned());
        }
        if let Some(watch) = &mut self.watch {
            watch.spoke = true;
        }
        self.pause = PAUSE.0;
    }

    /// The history is no longer known from there on: the slices are to be listed, and until that is done they are what
    /// they were.
    fn forget_version(&mut self) {
        self.version = None;
        self.watch = None;
        if self.listed.is_some_and(|listed| listed.elapsed() < SETTLED) {
            self.wait_a_while();
        }
    }

    /// Has the next question wait.
    fn fail(&mut self) {
        // Where the server is, and who asks, may be said otherwise by now.
        self.api = None;
        if self.watch.take().is_some_and(|watch| watch.was_of_use()) {
            self.pause = PAUSE.0;
        }
        self.wait_a_while();
    }

    fn wait_a_while(&mut self) {
        // Many gateways ask the same server, and not all of them at once when it is back.
        let share = rand::rng().random_range(0.5..1.0);
        self.due = Some(Instant::now() + self.pause.mul_f64(share));
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    fn note_change(&mut self) {
        self.changed.get_or_insert_with(Instant::now);
    }
}

/// All slices of the Service, and the version that they are of.
async fn list(api: &Api<EndpointSlice>, said: &KubernetesService) -> Result<(Vec<(String, Slice)>, String), String> {
    let mut params = ListParams::default().labels(&selector(said)).limit(PAGE);
    let mut slices = Vec::new();
    loop {
        let page = timeout(ANSWER, api.list(&params)).await.map_err(|_| silent())?;
        let page = page.map_err(|fault| told(&fault))?;
        slices.extend(page.items.into_iter().filter_map(Slice::of));
        match (page.metadata.continue_.filter(|rest| !rest.is_empty()), page.metadata.resource_version) {
            (Some(rest), _) => params = params.continue_token(&rest),
            (None, Some(version)) if !version.is_empty() => return Ok((slices, version)),
            (None, _) => return Err("the API server does not say of which version its list is".to_owned()),
        }
    }
}

fn selector(said: &KubernetesService) -> String {
    format!("kubernetes.io/service-name={}", said.service)
}

fn silent() -> String {
    format!("the API server does not answer within {ANSWER:?}")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Shared;

    use super::*;

    fn said() -> KubernetesService {
        serde_json::from_value(serde_json::json!({ "service": "chat" })).unwrap()
    }

    fn watching(events: impl Stream<Item = kube::Result<WatchEvent<EndpointSlice>>> + Send + 'static) -> Memory {
        Memory {
            api: None,
            version: Some("7".to_owned()),
            listed: None,
            watch: Some(Watching { events: events.boxed(), since: Instant::now(), spoke: false }),
            pods: Pods::default(),
            fault: None,
            changed: None,
            pause: PAUSE.0,
            due: None,
        }
    }

    /// A connection that is dead without a word is given up, and the next watch begins where this one stood.
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_silent_for_longer_than_it_was_to_last_is_given_up() {
        let mut memory = watching(futures::stream::pending());
        let began = Instant::now();
        memory.step(&said()).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(65));
        assert!(memory.watch.is_none() && memory.due.is_none() && memory.version.as_deref() == Some("7"));
    }

    #[tokio::test(start_paused = true)]
    async fn bookmarks_move_the_place_where_the_next_watch_begins() {
        let mark = |version: &str| {
            let mark = serde_json::json!({ "type": "BOOKMARK", "object": { "kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1", "metadata": { "resourceVersion": version } } });
            Ok(serde_json::from_value(mark).unwrap())
        };
        let mut memory = watching(futures::stream::iter([mark("8"), mark(""), mark("12")]));
        for expected in ["8", "8", "12"] {
            memory.step(&said()).await.unwrap();
            assert_eq!((memory.version.as_deref(), memory.changed), (Some(expected), None));
        }
    }

    /// Pauses grow, differ from gateway to gateway, and end when something is heard.
    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_half_a_minute() {
        let mut memory = watching(futures::stream::pending());
        let pauses: Vec<Duration> = (0..10)
            .map(|_| {
                memory.fail();
                memory.due.unwrap() - Instant::now()
            })
            .collect();
        assert!(pauses[0] <= PAUSE.0 && pauses[9] >= PAUSE.1 / 2 && pauses[9] <= PAUSE.1, "{pauses:?}");
        memory.heard_of(None);
        memory.fail();
        assert!(memory.due.unwrap() - Instant::now() <= PAUSE.0);
    }

    /// A call that is dropped loses no event.
    #[tokio::test(start_paused = true)]
    async fn what_was_heard_is_told_by_the_next_call() {
        let slice = |name: &str| {
            let address = if name == "a" { "10.0.0.1" } else { "10.0.0.2" };
            let slice = serde_json::json!({ "type": "ADDED", "object": { "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice", "metadata": { "name": name, "resourceVersion": "9" }, "addressType": "IPv4",
                "ports": [{ "port": 80 }], "endpoints": [{ "addresses": [address] }] } });
            Ok(serde_json::from_value(slice).unwrap())
        };
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let receiver = Shared::new(receiver);
        let memory = watching(futures::stream::poll_fn(move |context| receiver.lock().unwrap().poll_recv(context)));
        let kubernetes = Kubernetes { said: said(), memory: Mutex::new(memory), heard: AtomicBool::new(false) };
        sender.send(slice("a")).unwrap();
        // It is dropped before what it has heard is due.
        assert!(timeout(TOGETHER / 2, kubernetes.next()).await.is_err());
        sender.send(slice("b")).unwrap();
        let list = kubernetes.next().await.unwrap();
        let names: Vec<_> = list.servers().iter().map(crate::ServerConfig::name).collect();
        assert_eq!(names, ["10.0.0.1:80", "10.0.0.2:80"]);
    }
}
