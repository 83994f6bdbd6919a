//! Following all objects of one kind: listed once, and watched from then on, through everything that an API server may do.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource};
use log::debug;
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::api::{connect, is_absent, is_gone, is_gone_status, told, told_status};

/// How long a watch is asked to last. A connection that is dead without a word is noticed a little later than that, so it
/// is much less than the five minutes that are usual.
const WATCH: u32 = 60;
/// How much later than asked a watch may end.
const LATE: Duration = Duration::from_secs(5);
/// Longest time for one page of a list, and for the beginning of a watch.
const ANSWER: Duration = Duration::from_secs(15);
/// Objects in one page of a list.
const PAGE: u32 = 200;
/// The pause after a failure; twice as long after each further one, up to the second.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A watch that ends sooner than this, and has said nothing, was none.
const BRIEF: Duration = Duration::from_secs(2);
/// A history that is gone so soon after a list is no reason to list again at once.
const SETTLED: Duration = Duration::from_secs(5);

/// What can be followed.
pub(crate) trait Kind:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static
{
}

impl<K> Kind for K where K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static {}

/// Which objects of a kind are followed, and whom to ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Which {
    /// The file that says where the API server is. Default: what every pod has for that.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The labels that they have, as `name=value`. Default: any.
    pub(crate) labels: Option<String>,
    /// What their fields hold, as `name=value`. Default: anything.
    pub(crate) fields: Option<String>,
    /// Whether the API server may not know of the kind, which is no fault then.
    pub(crate) may_be_absent: bool,
}

/// What is heard of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News<K> {
    /// These are all.
    All(Vec<K>),
    /// This one is new, or another than before.
    Put(K),
    /// This one is gone.
    Gone(K),
    /// Nothing is other than it was said, and that is known to be so by now.
    Confirmed,
    /// The API server does not know of the kind, and may not. It is asked again.
    Absent,
}

/// Follows the objects of a kind. Nothing is told of them before all have been listed; later no fault of the API server
/// takes anything back. Each event is taken up without a pause in between, so that a call of [`Self::next`] that is dropped
/// loses none.
pub(crate) struct Follow<K> {
    which: Which,
    scope: Scope<K>,
    api: Option<Api<K>>,
    /// Where in the history of the objects the next watch begins; `None` where they have to be listed.
    version: Option<String>,
    /// When they were listed last.
    listed: Option<Instant>,
    watch: Option<Watching<K>>,
    pause: Duration,
    /// When the API server may be asked again.
    due: Option<Instant>,
}

/// Makes the address of what is followed, from a client and the namespace that is meant where none is said.
type Scope<K> = Box<dyn Fn(Client, &str) -> Api<K> + Send + Sync>;

type Events<K> = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<K>>> + Send>>;

struct Watching<K> {
    events: Events<K>,
    since: Instant,
    /// Whether anything has come of it.
    spoke: bool,
}

impl<K> Watching<K> {
    fn was_of_use(&self) -> bool {
        self.spoke || self.since.elapsed() >= BRIEF
    }
}

impl<K: Kind> Follow<K> {
    /// Those of all namespaces, or that have none.
    pub(crate) fn everywhere(which: Which) -> Self {
        Self::new(which, Box::new(|client, _| Api::all(client)))
    }

    /// Those of this namespace; by default that of the gateway's own pod, or of the kubeconfig's context.
    pub(crate) fn in_namespace(which: Which, namespace: Option<String>) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::new(which, Box::new(move |client, own| Api::namespaced(client, namespace.as_deref().unwrap_or(own))))
    }

    fn new(which: Which, scope: Scope<K>) -> Self {
        let pause = PAUSE.0;
        Self { which, scope, api: None, version: None, listed: None, watch: None, pause, due: None }
    }

    /// Waits for what is heard next.
    ///
    /// # Errors
    /// What is wrong with the API server, in one plain sentence. What was heard before holds on, and the next call waits
    /// before it asks again.
    pub(crate) async fn next(&mut self) -> Result<News<K>, String> {
        loop {
            match self.step().await {
                Ok(Some(news)) => return Ok(news),
                Ok(None) => {}
                Err(fault) => {
                    self.fail();
                    return Err(fault);
                }
            }
        }
    }

    /// Does the next thing: finds the API server, lists, begins a watch, or waits for what that tells.
    async fn step(&mut self) -> Result<Option<News<K>>, String> {
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
            None => {
                let (client, own) = connect(self.which.kubeconfig.as_deref()).await?;
                self.api.insert((self.scope)(client, &own)).clone()
            }
        };
        match &self.version {
            None => {
                let Some((objects, version)) = list(&api, &self.which).await? else {
                    self.wait_a_while();
                    return Ok(Some(News::Absent));
                };
                debug!("{} {} at version {version}", objects.len(), K::plural(&()));
                (self.version, self.listed) = (Some(version), Some(Instant::now()));
                Ok(Some(News::All(objects)))
            }
            Some(version) => {
                let mut params = WatchParams::default().timeout(WATCH);
                (params.label_selector, params.field_selector) = (self.which.labels.clone(), self.which.fields.clone());
                let asking = timeout(ANSWER, api.watch(&params, version)).await;
                match asking.map_err(|_| silent())? {
                    Ok(events) => {
                        self.watch = Some(Watching { events: events.boxed(), since: Instant::now(), spoke: false });
                        Ok(Some(News::Confirmed))
                    }
                    Err(fault) if is_gone(&fault) => {
                        self.forget_version();
                        Ok(None)
                    }
                    Err(fault) => {
                        if self.which.may_be_absent && is_absent(&fault) {
                            self.version = None;
                        }
                        Err(told(&fault, &K::plural(&())))
                    }
                }
            }
        }
    }

    /// Takes up what a watch says; `None` where it has ended.
    fn take(&mut self, event: Option<kube::Result<WatchEvent<K>>>) -> Result<Option<News<K>>, String> {
        let Some(watch) = &mut self.watch else { return Ok(None) };
        match event {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                self.heard_of(object.meta().resource_version.as_deref());
                return Ok(Some(News::Put(object)));
            }
            Some(Ok(WatchEvent::Deleted(object))) => {
                self.heard_of(object.meta().resource_version.as_deref());
                return Ok(Some(News::Gone(object)));
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => self.heard_of(Some(&mark.metadata.resource_version)),
            Some(Ok(WatchEvent::Error(status))) if is_gone_status(&status) => self.forget_version(),
            Some(Ok(WatchEvent::Error(status))) => return Err(told_status(&status, &K::plural(&()))),
            Some(Err(fault)) if is_gone(&fault) => self.forget_version(),
            Some(Err(fault)) => return Err(told(&fault, &K::plural(&()))),
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
        Ok(None)
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

    /// The history is no longer known from there on: the objects are to be listed, and until that is done they are what
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
}

/// All of them, and the version that they are of; `None` where the API server does not know of the kind, and may not.
async fn list<K: Kind>(api: &Api<K>, which: &Which) -> Result<Option<(Vec<K>, String)>, String> {
    let mut params = ListParams::default().limit(PAGE);
    (params.label_selector, params.field_selector) = (which.labels.clone(), which.fields.clone());
    let mut objects = Vec::new();
    loop {
        let page = timeout(ANSWER, api.list(&params)).await.map_err(|_| silent())?;
        let page = match page {
            Err(fault) if which.may_be_absent && is_absent(&fault) => return Ok(None),
            page => page.map_err(|fault| told(&fault, &K::plural(&())))?,
        };
        objects.extend(page.items);
        match (page.metadata.continue_.filter(|rest| !rest.is_empty()), page.metadata.resource_version) {
            (Some(rest), _) => params = params.continue_token(&rest),
            (None, Some(version)) if !version.is_empty() => return Ok(Some((objects, version))),
            (None, _) => return Err("the API server does not say of which version its list is".to_owned()),
        }
    }
}

fn silent() -> String {
    format!("the API server does not answer within {ANSWER:?}")
}

#[cfg(test)]
pub(crate) mod testing {
    //! Follows that a test speaks to.

    use super::*;

    impl<K: Kind> Follow<K> {
        /// In the middle of a watch that says this.
        pub(crate) fn watching(events: impl Stream<Item = kube::Result<WatchEvent<K>>> + Send + 'static) -> Self {
            let mut follow = Self::everywhere(Which::default());
            follow.version = Some("7".to_owned());
            follow.watch = Some(Watching { events: events.boxed(), since: Instant::now(), spoke: false });
            follow
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;

    /// A connection that is dead without a word is given up, and the next watch begins where this one stood.
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_silent_for_longer_than_it_was_to_last_is_given_up() {
        let mut follow = Follow::<EndpointSlice>::watching(futures::stream::pending());
        let began = Instant::now();
        follow.step().await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(65));
        assert!(follow.watch.is_none() && follow.due.is_none() && follow.version.as_deref() == Some("7"));
    }

    #[tokio::test(start_paused = true)]
    async fn bookmarks_move_the_place_where_the_next_watch_begins() {
        let mark = |version: &str| {
            let mark = serde_json::json!({ "type": "BOOKMARK", "object": { "kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1", "metadata": { "resourceVersion": version } } });
            Ok(serde_json::from_value(mark).unwrap())
        };
        let mut follow = Follow::<EndpointSlice>::watching(futures::stream::iter([mark("8"), mark(""), mark("12")]));
        for expected in ["8", "8", "12"] {
            assert_eq!(follow.step().await.unwrap(), None);
            assert_eq!(follow.version.as_deref(), Some(expected));
        }
    }

    /// Pauses grow, differ from gateway to gateway, and end when something is heard.
    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_half_a_minute() {
        let mut follow = Follow::<EndpointSlice>::watching(futures::stream::pending());
        let pauses: Vec<Duration> = (0..10)
            .map(|_| {
                follow.fail();
                follow.due.unwrap() - Instant::now()
            })
            .collect();
        assert!(pauses[0] <= PAUSE.0 && pauses[9] >= PAUSE.1 / 2 && pauses[9] <= PAUSE.1, "{pauses:?}");
        follow.heard_of(None);
        follow.fail();
        assert!(follow.due.unwrap() - Instant::now() <= PAUSE.0);
    }
}
