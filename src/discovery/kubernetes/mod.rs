//! Servers that are the pods behind a Service of Kubernetes, as its EndpointSlices tell.

mod pods;
mod slices;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use self::pods::Pods;
use self::slices::Slice;
use crate::kubernetes::{Follow, News, Which};
use crate::upstream::config::KubernetesService;
use crate::upstream::{Discovery, ServerList, Source};

/// Changes that come within this time are told together: a rollout of hundreds of pods makes fifty of them in a second.
const TOGETHER: Duration = Duration::from_millis(100);

struct Kubernetes {
    said: KubernetesService,
    memory: Mutex<Memory>,
    heard: AtomicBool,
}

/// What is known between two calls. Each event is taken up without a pause in between, so that a call that is dropped
/// loses none.
struct Memory {
    follow: Follow<EndpointSlice>,
    pods: Pods,
    /// A fault that is to be told after the list that it came with.
    fault: Option<String>,
    /// Whether there is something to tell, and since when.
    changed: Option<Instant>,
}

pub(super) fn of_service(said: &KubernetesService) -> Source {
    let labels = Some(format!("kubernetes.io/service-name={}", said.service));
    let which = Which { kubeconfig: said.kubeconfig.clone(), labels, ..Which::default() };
    let memory = Memory::of(Follow::in_namespace(which, said.namespace.clone()));
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
            let following = memory.follow.next();
            let news = match tell_at {
                Some(at) => timeout_at(at, following).await.ok().transpose()?,
                None => Some(following.await?),
            };
            if let Some(news) = news {
                memory.take(news);
                self.heard.store(true, Relaxed);
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

impl Memory {
    fn of(follow: Follow<EndpointSlice>) -> Self {
        Self { follow, pods: Pods::default(), fault: None, changed: None }
    }

    /// When there will be something to tell.
    fn tell_at(&self) -> Option<Instant> {
        let changes = self.changed.map(|since| since + TOGETHER);
        changes.into_iter().chain(self.pods.look_again_at()).min()
    }

    fn take(&mut self, news: News<EndpointSlice>) {
        match news {
            News::All(slices) => self.pods.replace(slices.into_iter().filter_map(Slice::of).collect()),
            News::Put(slice) => {
                let Some((name, slice)) = Slice::of(slice) else { return };
                self.pods.put(name, slice);
            }
            News::Gone(slice) => {
                let Some(name) = slice.metadata.name else { return };
                self.pods.remove(&name);
            }
            News::Confirmed | News::Absent => {}
        }
        self.changed.get_or_insert_with(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Shared;

    use tokio::time::timeout;

    use super::*;

    fn said() -> KubernetesService {
        serde_json::from_value(serde_json::json!({ "service": "chat" })).unwrap()
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
        let events = futures::stream::poll_fn(move |context| receiver.lock().unwrap().poll_recv(context));
        let memory = Memory::of(Follow::watching(events));
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
