//! What the API server tells of EndpointSlices, heard once for all upstreams that ask for it. Each hears of its own Service
//! only.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::slices::Slice;
use crate::kubernetes::{Follow, News, Which};
use crate::upstream::config::KubernetesService;

/// The label of a slice that names its Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// Who follows slices in this gateway. Upstreams of one Service share a list and its watch, and where the gateway may look at
/// all slices, those of many Services do.
#[derive(Default)]
pub(crate) struct Follows {
    reach: Option<Reach>,
    followed: Mutex<HashMap<Scope, Weak<Followed>>>,
}

/// Where the gateway may look at all slices.
struct Reach {
    kubeconfig: Option<PathBuf>,
    /// Everywhere, where none is said.
    namespaces: Vec<String>,
}

/// What one list and its watch are about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Scope {
    kubeconfig: Option<PathBuf>,
    of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    Everything,
    Namespace(String),
    /// The Service of a namespace; by default of the gateway's own.
    Service(Option<String>, String),
}

/// A namespace, and a Service in it.
type Named = (String, String);

/// The slices of a Service, by their names.
pub(super) type Slices = BTreeMap<String, Arc<Slice>>;

impl Follows {
    /// Where all slices of these namespaces may be looked at, or all that there are: each namespace is followed once.
    pub(crate) fn reaching(kubeconfig: Option<PathBuf>, namespaces: Vec<String>) -> Self {
        Self { reach: Some(Reach { kubeconfig, namespaces }), ..Self::default() }
    }

    /// Begins to hear of a Service, at once of what is known already. Needs the runtime around it.
    pub(super) fn hear_of(self: &Arc<Self>, said: &KubernetesService) -> Hearing {
        let scope = self.scope(said);
        let service = scope.service(said);
        let followed = {
            let mut all = self.followed();
            match all.get(&scope).and_then(Weak::upgrade) {
                Some(known) => known,
                None => {
                    let new = Followed::begin(Arc::clone(self), scope.clone(), scope.follow());
                    all.insert(scope, Arc::downgrade(&new));
                    new
                }
            }
        };
        followed.hear_of(service)
    }

    fn scope(&self, said: &KubernetesService) -> Scope {
        let reach = self.reach.as_ref().filter(|reach| reach.kubeconfig == said.kubeconfig);
        let of = match (reach, &said.namespace) {
            (Some(reach), Some(_)) if reach.namespaces.is_empty() => Of::Everything,
            (Some(reach), Some(namespace)) if reach.namespaces.contains(namespace) => Of::Namespace(namespace.clone()),
            (_, namespace) => Of::Service(namespace.clone(), said.service.clone()),
        };
        Scope { kubeconfig: said.kubeconfig.clone(), of }
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<Scope, Weak<Followed>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scope {
    fn follow(&self) -> Follow<EndpointSlice> {
        let which = Which { kubeconfig: self.kubeconfig.clone(), ..Which::default() };
        match &self.of {
            Of::Everything => Follow::everywhere(which),
            Of::Namespace(namespace) => Follow::in_namespace(which, Some(namespace.clone())),
            Of::Service(namespace, service) => {
                let labels = Some(format!("{SERVICE}={service}"));
                Follow::in_namespace(Which { labels, ..which }, namespace.clone())
            }
        }
    }

    /// What a Service is called among those of this scope.
    fn service(&self, said: &KubernetesService) -> Named {
        match &self.of {
            Of::Service(..) => Named::default(),
            _ => (said.namespace.clone().unwrap_or_default(), said.service.clone()),
        }
    }

    /// The Service of a slice; `None` where it has none.
    fn service_of(&self, slice: &EndpointSlice) -> Option<Named> {
        match &self.of {
            Of::Service(..) => Some(Named::default()),
            _ => Some((slice.namespace().unwrap_or_default(), slice.labels().get(SERVICE)?.clone())),
        }
    }
}

/// One list and its watch, for as long as somebody hears of it.
struct Followed {
    scope: Scope,
    known: Arc<Mutex<Known>>,
    task: AbortHandle,
    all: Arc<Follows>,
}

impl Followed {
    fn begin(all: Arc<Follows>, scope: Scope, mut follow: Follow<EndpointSlice>) -> Arc<Self> {
        let known = Arc::new(Mutex::new(Known::default()));
        let task = {
            let (known, scope) = (Arc::clone(&known), scope.clone());
            tokio::spawn(async move {
                loop {
                    let news = follow.next().await;
                    lock(&known).take(news, &scope);
                }
            })
        };
        Arc::new(Self { scope, known, task: task.abort_handle(), all })
    }

    fn hear_of(self: Arc<Self>, service: Named) -> Hearing {
        let receiver = lock(&self.known).subscribe(&service);
        Hearing { followed: self, service, receiver: Some(receiver), said: 0, faults: 0 }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
        let mut all = self.all.followed();
        // Another one may have begun meanwhile.
        if all.get(&self.scope).is_some_and(|followed| followed.strong_count() == 0) {
            all.remove(&self.scope);
        }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a scope. Of Services that nobody asks for their endpoints are kept, so that the next one who does need not
/// have them listed; what else the API server says of them is not.
#[derive(Default)]
struct Known {
    /// `None` until all have been listed.
    services: Option<HashMap<Named, Arc<Slices>>>,
    /// The Service of each slice, by namespace and name: it may become another's.
    homes: HashMap<Named, Named>,
    /// What is wrong with the API server now.
    fault: Option<Arc<str>>,
    asked: HashMap<Named, watch::Sender<Heard>>,
}

/// What is heard of a Service.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// `None` until all slices have been listed.
    slices: Option<Arc<Slices>>,
    /// Counts up whenever they are others, and whenever they are known to be the same.
    said: u64,
    /// What is wrong with the API server now.
    fault: Option<Arc<str>>,
    /// Counts up with each fault.
    faults: u64,
}

impl Known {
    fn take(&mut self, news: Result<News<EndpointSlice>, String>, scope: &Scope) {
        let news = match news {
            Ok(news) => news,
            Err(why) => {
                let fault: Arc<str> = why.into();
                self.fault = Some(Arc::clone(&fault));
                let tell =
                    |heard: &mut Heard| (heard.fault, heard.faults) = (Some(Arc::clone(&fault)), heard.faults + 1);
                return self.asked.values().for_each(|asked| asked.send_modify(tell));
            }
        };
        self.fault = None;
        match news {
            News::All(slices) => {
                (self.services, self.homes) = (Some(HashMap::new()), HashMap::new());
                for slice in slices {
                    self.put(slice, scope);
                }
                self.tell_all();
            }
            News::Put(slice) => self.put(slice, scope).into_iter().flatten().for_each(|service| self.tell(&service)),
            News::Gone(slice) => self.remove(&name_of(&slice)).into_iter().for_each(|service| self.tell(&service)),
            // Whoever heard of a fault hears that it is over.
            News::Confirmed | News::Absent => self.tell_all(),
        }
    }

    /// Takes up a slice; the Services that are others by it.
    fn put(&mut self, slice: EndpointSlice, scope: &Scope) -> [Option<Named>; 2] {
        let (name, service) = (name_of(&slice), scope.service_of(&slice));
        let left = if self.homes.get(&name) == service.as_ref() { None } else { self.remove(&name) };
        if let (Some(service), Some((short, slice))) = (&service, Slice::of(slice)) {
            let slices = self.services.get_or_insert_default().entry(service.clone()).or_default();
            Arc::make_mut(slices).insert(short, Arc::new(slice));
            self.homes.insert(name, service.clone());
        }
        [left, service]
    }

    /// Takes a slice away; the Service that had it.
    fn remove(&mut self, name: &Named) -> Option<Named> {
        let service = self.homes.remove(name)?;
        let services = self.services.as_mut()?;
        let slices = Arc::make_mut(services.get_mut(&service)?);
        slices.remove(&name.1);
        if slices.is_empty() {
            services.remove(&service);
        }
        Some(service)
    }

    fn tell_all(&self) {
        self.asked.keys().for_each(|service| self.tell(service));
    }

    fn tell(&self, service: &Named) {
        let Some(asked) = self.asked.get(service) else { return };
        let slices = self.slices(service);
        asked.send_modify(|heard| (heard.slices, heard.said, heard.fault) = (slices, heard.said + 1, None));
    }

    /// Those of a Service, be it none; `None` until all have been listed.
    fn slices(&self, service: &Named) -> Option<Arc<Slices>> {
        self.services.as_ref().map(|services| services.get(service).cloned().unwrap_or_default())
    }

    fn subscribe(&mut self, service: &Named) -> watch::Receiver<Heard> {
        if let Some(asked) = self.asked.get(service) {
            return asked.subscribe();
        }
        let (slices, fault) = (self.slices(service), self.fault.clone());
        let (said, faults) = (u64::from(slices.is_some()), u64::from(fault.is_some()));
        let (sender, receiver) = watch::channel(Heard { slices, said, fault, faults });
        self.asked.insert(service.clone(), sender);
        receiver
    }

    /// Forgets that a Service was asked for, where nobody does any more.
    fn release(&mut self, service: &Named) {
        if self.asked.get(service).is_some_and(|asked| asked.receiver_count() == 0) {
            self.asked.remove(service);
        }
    }
}

fn name_of(slice: &EndpointSlice) -> Named {
    (slice.namespace().unwrap_or_default(), slice.name_any())
}

/// Hears of a Service until it is dropped; the last one of a list and its watch ends them.
pub(super) struct Hearing {
    followed: Arc<Followed>,
    service: Named,
    receiver: Option<watch::Receiver<Heard>>,
    /// What has been taken up.
    said: u64,
    faults: u64,
}

impl Hearing {
    /// Waits until something is heard.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.receiver {
            Some(receiver) => receiver.changed().await.is_ok(),
            None => false,
        };
        // Who holds a receiver holds its sender.
        if !changed {
            std::future::pending().await
        }
    }

    /// The slices of the Service, where they may be others than before; all of them, or nothing.
    pub(super) fn news(&mut self) -> Option<Arc<Slices>> {
        let heard = self.receiver.as_mut()?.borrow_and_update();
        let is_news = heard.said != std::mem::replace(&mut self.said, heard.said);
        heard.slices.clone().filter(|_| is_news)
    }

    /// What has come to be wrong with the API server, where it still is.
    pub(super) fn fault(&mut self) -> Option<String> {
        let heard = self.receiver.as_mut()?.borrow_and_update();
        let is_news = heard.faults != std::mem::replace(&mut self.faults, heard.faults);
        heard.fault.as_ref().filter(|_| is_news).map(|fault| fault.to_string())
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        let mut known = lock(&self.followed.known);
        self.receiver = None;
        known.release(&self.service);
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! A watch that a test speaks for.

    use futures::stream::poll_fn;
    use kube::api::WatchEvent;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    type Event = kube::Result<WatchEvent<EndpointSlice>>;

    /// Follows in the middle of a watch of this Service, and who holds that.
    pub(crate) fn follows(said: &KubernetesService) -> (Arc<Follows>, UnboundedSender<Event>, impl Drop + use<>) {
        let (sender, mut receiver) = unbounded_channel();
        let follow = Follow::watching(poll_fn(move |context| receiver.poll_recv(context)));
        let follows = Arc::new(Follows::default());
        let scope = follows.scope(said);
        let followed = Followed::begin(Arc::clone(&follows), scope.clone(), follow);
        follows.followed().insert(scope, Arc::downgrade(&followed));
        let holder = followed.hear_of(("nobody".to_owned(), "nothing".to_owned()));
        (follows, sender, holder)
    }

    /// That a slice with one endpoint is added or deleted.
    pub(crate) fn event(how: &str, name: &str, address: &str) -> Event {
        let event = serde_json::json!({ "type": how, "object": slice(name, "chat", address) });
        Ok(serde_json::from_value(event).unwrap())
    }

    pub(crate) fn slice(name: &str, service: &str, address: &str) -> serde_json::Value {
        serde_json::json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": name, "namespace": "n", "resourceVersion": "9", "labels": { SERVICE: service } },
            "addressType": "IPv4", "ports": [{ "port": 80 }], "endpoints": [{ "addresses": [address] }] })
    }

    impl Follows {
        pub(crate) fn is_idle(&self) -> bool {
            self.followed().is_empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn everywhere() -> Scope {
        Scope { kubeconfig: None, of: Of::Everything }
    }

    fn slice(name: &str, service: &str, address: &str) -> EndpointSlice {
        serde_json::from_value(testing::slice(name, service, address)).unwrap()
    }

    fn service(name: &str) -> Named {
        ("n".to_owned(), name.to_owned())
    }

    /// What a receiver hears: the names of slices, and the fault.
    fn heard(receiver: &mut watch::Receiver<Heard>) -> (Option<String>, Option<String>) {
        let heard = receiver.borrow_and_update();
        let names = |slices: &Arc<Slices>| slices.keys().cloned().collect::<Vec<_>>().join(" ");
        (heard.slices.as_ref().map(names), heard.fault.as_deref().map(str::to_owned))
    }

    fn told(names: &str) -> (Option<String>, Option<String>) {
        (Some(names.to_owned()), None)
    }

    #[test]
    fn each_hears_of_the_slices_of_its_own_service() {
        let (mut known, scope) = (Known::default(), everywhere());
        let mut a = known.subscribe(&service("a"));
        let mut none = known.subscribe(&service("none"));
        assert_eq!(heard(&mut a), (None, None), "nothing before all are listed");
        known.take(Ok(News::All(vec![slice("a-1", "a", "10.0.0.1"), slice("b-1", "b", "10.0.0.2")])), &scope);
        assert_eq!((heard(&mut a), heard(&mut none)), (told("a-1"), told("")));
        let mut b = known.subscribe(&service("b"));
        assert_eq!(heard(&mut b), told("b-1"), "what nobody had asked for is known, too");
        known.take(Ok(News::Put(slice("b-2", "b", "10.0.0.3"))), &scope);
        assert!(!a.has_changed().unwrap() && !none.has_changed().unwrap());
        assert_eq!(heard(&mut b), told("b-1 b-2"));

        // A slice may come to be of another Service, or of none.
        known.take(Ok(News::Put(slice("b-1", "a", "10.0.0.2"))), &scope);
        assert_eq!((heard(&mut a), heard(&mut b)), (told("a-1 b-1"), told("b-2")));
        let mut nobodys = slice("a-1", "a", "10.0.0.1");
        nobodys.metadata.labels = None;
        known.take(Ok(News::Put(nobodys)), &scope);
        known.take(Ok(News::Gone(slice("b-2", "b", "10.0.0.3"))), &scope);
        assert_eq!((heard(&mut a), heard(&mut b)), (told("b-1"), told("")));
        assert!(!known.services.as_ref().unwrap().contains_key(&service("b")), "nothing of it is kept");

        // Listed anew.
        known.take(Ok(News::All(vec![slice("b-9", "b", "10.0.0.9")])), &scope);
        assert_eq!((heard(&mut a), heard(&mut b)), (told(""), told("b-9")));
        drop((a, b));
        known.release(&service("a"));
        assert_eq!(known.asked.len(), 2);
    }

    #[test]
    fn a_fault_is_told_to_everybody_and_takes_nothing_away() {
        let (mut known, scope) = (Known::default(), everywhere());
        known.take(Ok(News::All(vec![slice("a-1", "a", "10.0.0.1")])), &scope);
        let mut a = known.subscribe(&service("a"));
        known.take(Err("it is away".to_owned()), &scope);
        let faulty = (Some("a-1".to_owned()), Some("it is away".to_owned()));
        assert_eq!(heard(&mut a), faulty);
        assert_eq!(heard(&mut known.subscribe(&service("a"))), faulty);
        let late = (Some(String::new()), Some("it is away".to_owned()));
        assert_eq!(heard(&mut known.subscribe(&service("b"))), late);
        known.take(Ok(News::Confirmed), &scope);
        assert_eq!(heard(&mut a), told("a-1"));
    }

    #[test]
    fn one_follow_is_as_wide_as_the_rights_are() {
        let said = |kubeconfig: Option<&str>, namespace: Option<&str>, service: &str| -> KubernetesService {
            serde_json::from_value(json!({ "kubeconfig": kubeconfig, "namespace": namespace, "service": service }))
                .unwrap()
        };
        let chat = Of::Service(Some("chat".to_owned()), "app".to_owned());
        let plain = Follows::default();
        assert_eq!(plain.scope(&said(None, Some("chat"), "app")).of, chat);
        let all = Follows::reaching(Some("/kube".into()), Vec::new());
        assert_eq!(all.scope(&said(Some("/kube"), Some("chat"), "app")).of, Of::Everything);
        assert_eq!(all.scope(&said(None, Some("chat"), "app")).of, chat, "who asks there may look at less");
        let own = Of::Service(None, "app".to_owned());
        assert_eq!(all.scope(&said(Some("/kube"), None, "app")).of, own, "nobody knows yet where that is");
        let some = Follows::reaching(None, vec!["chat".to_owned()]);
        assert_eq!(some.scope(&said(None, Some("chat"), "app")).of, Of::Namespace("chat".to_owned()));
        let other = Of::Service(Some("other".to_owned()), "app".to_owned());
        assert_eq!(some.scope(&said(None, Some("other"), "app")).of, other);
    }
}
