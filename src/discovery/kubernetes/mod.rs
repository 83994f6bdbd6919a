//! Servers that are the pods behind a Service of Kubernetes, as its EndpointSlices tell.

mod follows;
mod pods;
mod slices;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::follows::Follows;
use self::follows::Hearing;
use self::pods::Pods;
use crate::upstream::config::KubernetesService;
use crate::upstream::{Discovery, ServerList, Source};

/// Changes that come within this time are told together: a rollout of hundreds of pods makes fifty of them in a second.
const TOGETHER: Duration = Duration::from_millis(100);

struct Kubernetes {
    said: KubernetesService,
    follows: Arc<Follows>,
    memory: Mutex<Memory>,
    heard: AtomicBool,
}

/// What is known between two calls.
#[derive(Default)]
struct Memory {
    hearing: Option<Hearing>,
    pods: Pods,
    /// A fault that is to be told after the list that it came with.
    fault: Option<String>,
    /// When there is something to tell.
    due: Option<Instant>,
}

pub(super) fn of_service(follows: &Arc<Follows>, said: &KubernetesService) -> Source {
    let (memory, heard) = (Mutex::default(), AtomicBool::new(false));
    let kubernetes = Kubernetes { said: said.clone(), follows: Arc::clone(follows), memory, heard };
    Source { discovery: Arc::new(kubernetes), first: None }
}

#[async_trait]
impl Discovery for Kubernetes {
    async fn next(&self) -> Result<ServerList, String> {
        let mut memory = self.memory.lock().await;
        // Who waits hears; a call that is dropped hears no more, and the next one hears anew of all that is known.
        let hearing = memory.hearing.take();
        let mut hearing = hearing.unwrap_or_else(|| self.follows.hear_of(&self.said));
        let told = memory.next(&mut hearing, &self.said).await;
        memory.hearing = Some(hearing);
        self.heard.store(memory.pods.are_known(), Relaxed);
        told
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
    async fn next(&mut self, hearing: &mut Hearing, said: &KubernetesService) -> Result<ServerList, String> {
        loop {
            if let Some(slices) = hearing.news() {
                // The first ones are awaited.
                let pause = if self.pods.are_known() { TOGETHER } else { Duration::ZERO };
                self.pods.hear(slices);
                self.due.get_or_insert_with(|| Instant::now() + pause);
            }
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            let tell_at = self.due.into_iter().chain(self.pods.look_again_at()).min();
            if tell_at.is_some_and(|at| at <= Instant::now()) {
                self.due = None;
                let told = self.pods.tell(said, Instant::now());
                self.fault = told.fault;
                match told.list {
                    Some(list) => return Ok(list),
                    None => continue,
                }
            }
            // What was heard before it is told before it, so that the fault stays.
            if self.due.is_none()
                && let Some(fault) = hearing.fault()
            {
                return Err(fault);
            }
            match tell_at {
                Some(at) => drop(timeout_at(at, hearing.changed()).await),
                None => hearing.changed().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::follows::testing::{event, follows};
    use super::*;

    fn said() -> KubernetesService {
        serde_json::from_value(serde_json::json!({ "service": "chat" })).unwrap()
    }

    fn names(list: &ServerList) -> Vec<String> {
        list.servers().iter().map(crate::ServerConfig::name).collect()
    }

    /// A call that is dropped loses no event.
    #[tokio::test(start_paused = true)]
    async fn what_was_heard_is_told_by_the_next_call() {
        let (follows, sender, kept) = follows(&said());
        let kubernetes = of_service(&follows, &said()).discovery;
        sender.send(event("ADDED", "a", "10.0.0.1")).unwrap();
        assert_eq!(names(&kubernetes.next().await.unwrap()), ["10.0.0.1:80"], "the first ones are told at once");
        sender.send(event("ADDED", "b", "10.0.0.2")).unwrap();
        // It is dropped before what it has heard is due.
        assert!(timeout(TOGETHER / 2, kubernetes.next()).await.is_err());
        sender.send(event("ADDED", "c", "10.0.0.3")).unwrap();
        let list = kubernetes.next().await.unwrap();
        assert_eq!(names(&list), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);

        // Another upstream of the Service hears at once what is known.
        let other = of_service(&follows, &said()).discovery;
        assert!(!other.has_heard());
        assert_eq!(timeout(Duration::ZERO, other.next()).await.unwrap().unwrap(), list);
        assert!(other.has_heard());
        drop((kubernetes, other));
        assert!(!sender.is_closed(), "somebody holds it");
        drop(kept);
        sender.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_no_more_gives_the_watch_up() {
        let (follows, sender, kept) = follows(&said());
        let kubernetes = of_service(&follows, &said()).discovery;
        sender.send(event("ADDED", "a", "10.0.0.1")).unwrap();
        kubernetes.next().await.unwrap();
        drop(kept);
        assert!(timeout(TOGETHER, kubernetes.next()).await.is_err());
        // The upstream may be there for long: it has sessions yet.
        sender.closed().await;
        assert!(follows.is_idle());
    }
}
