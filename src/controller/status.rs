//! What is written to the cluster, by one gateway of all: the status of objects, and Events.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use log::{debug, info, warn};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::draft::{Note, Object};
use super::gateway::Report;
use super::leader::{EVERY, Leader};
use super::world::World;
use super::{Terms, events};
use crate::kubernetes::{connect, told};

/// Longest time for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(10);
/// After more faults in one turn nothing else is tried in it.
const MOST_FAULTS: usize = 3;

/// A status that an object is to have.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) resource: ApiResource,
    /// Empty for what has none.
    pub(super) namespace: String,
    pub(super) name: String,
    /// The version that it is for, where others write there, too.
    pub(super) version: Option<String>,
    /// What is put into it, as a merge patch.
    pub(super) status: Value,
}

impl Wish {
    /// The same for this status.
    pub(super) fn with(self, status: Value) -> Self {
        Self { status, ..self }
    }
}

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    wishes: Vec<Wish>,
    notes: BTreeSet<Note>,
}

impl Wanted {
    /// What is other in the cluster than it should be.
    pub(super) fn new(
        world: &World,
        objects: &BTreeSet<Object>,
        notes: BTreeSet<Note>,
        report: &Report,
        published: Option<&Service>,
        terms: &Terms,
    ) -> Self {
        let addresses = addresses(published, terms);
        let addresses: Vec<Value> = addresses.iter().map(Address::of_ingress).collect();
        let ours: HashSet<(&str, &str)> = objects
            .iter()
            .filter(|object| object.kind == "Ingress")
            .map(|object| (object.namespace.as_str(), object.name.as_str()))
            .collect();
        let is_known = !addresses.is_empty();
        let wish = |ingress: &Arc<Ingress>| {
            let (namespace, name) = (ingress.metadata.namespace.as_deref()?, ingress.metadata.name.as_deref()?);
            let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let has = serde_json::to_value(balancer.and_then(|balancer| balancer.ingress.as_ref())).unwrap_or_default();
            let wanted = Value::from(addresses.clone());
            (is_known && ours.contains(&(namespace, name)) && has != wanted).then(|| Wish {
                resource: ApiResource::erase::<Ingress>(&()),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                version: None,
                status: json!({ "loadBalancer": { "ingress": wanted } }),
            })
        };
        let wishes = world.ingresses.iter().filter_map(wish).chain(report.wishes()).collect();
        Self { wishes, notes }
    }
}

/// Where clients come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Ip(String),
    Name(String),
}

impl Address {
    fn read(text: &str) -> Self {
        match text.parse::<std::net::IpAddr>() {
            Ok(_) => Self::Ip(text.to_owned()),
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    /// As the status of an Ingress has it.
    fn of_ingress(&self) -> Value {
        match self {
            Self::Ip(ip) => json!({ "ip": ip }),
            Self::Name(name) => json!({ "hostname": name }),
        }
    }

    /// As the status of a Gateway has it: the type, and the value.
    pub(super) fn of_gateway(&self) -> (&'static str, String) {
        match self {
            Self::Ip(ip) => ("IPAddress", ip.clone()),
            Self::Name(name) => ("Hostname", name.clone()),
        }
    }
}

/// Where clients come to the gateway: the addresses of its Service, or those that the operator says.
pub(super) fn addresses(published: Option<&Service>, terms: &Terms) -> Vec<Address> {
    let Some(service) = published else {
        return terms.publish_addresses.iter().map(|address| Address::read(address)).collect();
    };
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let told = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let told: Vec<Address> = told
        .filter_map(|one| one.ip.clone().map(Address::Ip).or_else(|| one.hostname.clone().map(Address::Name)))
        .collect();
    if !told.is_empty() {
        return told;
    }
    let external = service.spec.as_ref().and_then(|spec| spec.external_ips.as_ref()).into_iter().flatten();
    external.cloned().map(Address::Ip).collect()
}

/// Writes what is wanted while this gateway is the one that writes; gives that up when it ends.
pub(super) async fn write(terms: Arc<Terms>, mut wanted: watch::Receiver<Wanted>, mut leaving: watch::Receiver<bool>) {
    let mut writer = Writer {
        leader: Leader::new(terms.lease.1.clone(), terms.identity.clone()),
        said: HashSet::new(),
        client: None,
        was_leader: false,
        fault: None,
    };
    loop {
        if let Err(why) = writer.turn(&terms, &mut wanted).await {
            // Who asks, and where, may be another by now.
            writer.client = None;
            if writer.fault.as_ref() != Some(&why) {
                warn!("controller: nothing is written: {why}");
                writer.fault = Some(why);
            }
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            changed = wanted.changed(), if writer.leader.is_held() => if changed.is_err() { break },
            _ = leaving.wait_for(|&leaving| leaving) => break,
        }
    }
    if let Some((client, namespace)) = &writer.client {
        let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
        match timeout(ANSWER, writer.leader.give_up(&leases)).await {
            Ok(Ok(())) => debug!("controller: the Lease is given back"),
            Ok(Err(fault)) => debug!("controller: the Lease is not given back: {}", told(&fault, "leases")),
            Err(_) => debug!("controller: the Lease is not given back: the API server is silent"),
        }
    }
}

/// Who writes.
struct Writer {
    leader: Leader,
    /// What has been said, so that it is not said again.
    said: HashSet<Note>,
    /// And the namespace of the Lease.
    client: Option<(Client, String)>,
    was_leader: bool,
    fault: Option<String>,
}

impl Writer {
    async fn turn(&mut self, terms: &Terms, wanted: &mut watch::Receiver<Wanted>) -> Result<(), String> {
        let (client, namespace) = match &self.client {
            Some(known) => known.clone(),
            None => {
                let (client, own) = connect(terms.kubeconfig.as_deref()).await?;
                self.client.insert((client, terms.lease.0.clone().unwrap_or(own))).clone()
            }
        };
        let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
        answered(self.leader.see_to(&leases), "leases").await?;
        if self.leader.is_held() != self.was_leader {
            self.was_leader = self.leader.is_held();
            let now = if self.was_leader { "this gateway writes" } else { "another gateway writes" };
            info!("controller: {now} what becomes of objects");
        }
        let Wanted { wishes, notes } = wanted.borrow_and_update().clone();
        // What is no longer so may come to be so again.
        self.said.retain(|note| notes.contains(note));
        // One that can't be written stops no other; where several can't, it is the API server.
        let mut faults = Vec::new();
        for Wish { resource, namespace, name, version, status } in wishes {
            if !self.leader.is_held() || faults.len() > MOST_FAULTS {
                break;
            }
            let api: Api<DynamicObject> = match namespace.as_str() {
                "" => Api::all_with(client.clone(), &resource),
                namespace => Api::namespaced_with(client.clone(), namespace, &resource),
            };
            let mut patch = json!({ "status": status });
            if let Some(version) = version {
                patch["metadata"] = json!({ "resourceVersion": version });
            }
            let patch = Patch::Merge(patch);
            faults.extend(
                written(api.patch_status(&name, &PatchParams::default(), &patch), &resource.plural).await.err(),
            );
        }
        for note in notes {
            if !self.leader.is_held() || faults.len() > MOST_FAULTS {
                break;
            }
            // Who has no namespace is nobody's object.
            if self.said.contains(&note) || note.object.namespace.is_empty() {
                continue;
            }
            match written(events::say(&client, &note), "events").await {
                Ok(()) => {
                    info!("controller: {}: {}: {}", note.object, note.reason, note.what);
                    self.said.insert(note);
                }
                Err(fault) => faults.push(fault),
            }
        }
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => {
                self.fault = None;
                Ok(())
            }
        }
    }
}

/// What the API server says, within its time.
async fn answered<T>(asked: impl Future<Output = kube::Result<T>>, what: &str) -> Result<T, String> {
    let answer = timeout(ANSWER, asked).await;
    let answer = answer.map_err(|_| format!("the API server does not answer within {ANSWER:?}"))?;
    answer.map_err(|fault| told(&fault, what))
}

/// The same for what is written to an object: one that is gone meanwhile wants nothing any more, and of one that is another by
/// now it will be heard.
async fn written<T>(asked: impl Future<Output = kube::Result<T>>, what: &str) -> Result<(), String> {
    let asked = async {
        match asked.await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            answer => answer.map(drop),
        }
    };
    answered(asked, what).await
}
