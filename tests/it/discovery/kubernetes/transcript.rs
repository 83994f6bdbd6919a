//! What the discovery and the controller count on, said by an API server: the same words whether it is the fake or a real one.
//!
//! By default the fake is asked. `SOCKGATE_KUBERNETES_URL`, `_TOKEN` and `_CA` (a PEM file) have a real control plane asked
//! instead, in the namespace `SOCKGATE_KUBERNETES_NAMESPACE` (`default`), where the token has to be allowed to do
//! everything with EndpointSlices, Leases, Ingresses and their status. Nothing of what is made there stays.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Error};
use serde_json::{Value, json};

use crate::support::kubernetes::{FakeApi, TOKEN, kubeconfig, slice};
use crate::support::{Gateway, eventually, within};

/// Whoever is asked.
struct Asked {
    url: String,
    token: String,
    ca: String,
    namespace: String,
    /// The fake, for as long as it is asked.
    _fake: Option<FakeApi>,
}

impl Asked {
    async fn find() -> Self {
        let said = |name: &str| std::env::var(format!("SOCKGATE_KUBERNETES_{name}")).ok();
        if let Some(url) = said("URL") {
            let needed = |name: &str| said(name).unwrap_or_else(|| panic!("SOCKGATE_KUBERNETES_{name} is missing"));
            let namespace = said("NAMESPACE").unwrap_or_else(|| "default".to_owned());
            return Self { url, token: needed("TOKEN"), ca: needed("CA"), namespace, _fake: None };
        }
        let fake = FakeApi::start().await;
        let (url, ca) = (fake.url(), fake.ca());
        Self { url, token: TOKEN.to_owned(), ca, namespace: "chat".to_owned(), _fake: Some(fake) }
    }

    async fn client(&self, token: &str) -> Client {
        let read = Kubeconfig::from_yaml(&kubeconfig(&self.url, token, &self.ca)).unwrap();
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    async fn slices(&self, token: &str) -> Api<EndpointSlice> {
        Api::namespaced(self.client(token).await, &self.namespace)
    }

    async fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(&self.token).await, &self.namespace)
    }
}

/// A Service that nobody else has, whose slices go when this is told to.
struct Service {
    slices: Api<EndpointSlice>,
    name: String,
}

impl Service {
    async fn of(asked: &Asked) -> Self {
        let name = format!("sockgate-it-{:08x}", rand::random::<u32>());
        Self { slices: asked.slices(&asked.token).await, name }
    }

    fn slice(&self, number: usize, service: &str, endpoints: &[Value]) -> EndpointSlice {
        let slice = slice(&format!("{}-{number}", self.name), service, 3000, endpoints);
        serde_json::from_value(slice).unwrap()
    }

    async fn create(&self, number: usize, service: &str, endpoints: &[Value]) {
        self.slices.create(&PostParams::default(), &self.slice(number, service, endpoints)).await.unwrap();
    }

    async fn replace(&self, number: usize, endpoints: &[Value]) {
        let slice = self.slice(number, &self.name, endpoints);
        let name = format!("{}-{number}", self.name);
        self.slices.replace(&name, &PostParams::default(), &slice).await.unwrap();
    }

    async fn delete(&self, number: usize) {
        self.slices.delete(&format!("{}-{number}", self.name), &DeleteParams::default()).await.unwrap();
    }

    fn labels(&self) -> String {
        format!("kubernetes.io/service-name={}", self.name)
    }

    /// A slice in a few words, without what differs from run to run.
    fn told(&self, slice: &EndpointSlice) -> String {
        let name = slice.metadata.name.as_deref().unwrap().replace(&self.name, "app");
        let endpoints = slice.endpoints.iter().map(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let letter = |said: Option<bool>| said.map_or('-', |said| if said { 'y' } else { 'n' });
            let said = [conditions.ready, conditions.serving, conditions.terminating].map(letter);
            format!("{} {}", endpoint.addresses[0], String::from_iter(said))
        });
        format!("{name}: {}", endpoints.collect::<Vec<_>>().join(", "))
    }
}

fn endpoint(address: &str, conditions: Value) -> Value {
    json!({ "addresses": [address], "conditions": conditions })
}

#[tokio::test]
async fn an_api_server_lists_and_watches_as_the_discovery_counts_on() {
    let asked = Asked::find().await;
    let service = Service::of(&asked).await;
    let all = ListParams::default().labels(&service.labels());
    let empty = service.slices.list(&all).await.unwrap();
    assert_eq!(empty.items.len(), 0);
    let version = empty.metadata.resource_version.unwrap();

    // What a slice leaves out is left out when it is told.
    service
        .create(1, &service.name, &[endpoint("192.0.2.1", json!({})), endpoint("192.0.2.2", json!({ "ready": false }))])
        .await;
    service.create(9, "sockgate-it-other", &[endpoint("192.0.2.9", json!({}))]).await;
    service.create(2, &service.name, &[endpoint("192.0.2.3", json!({ "ready": true }))]).await;
    let ending = json!({ "ready": false, "serving": true, "terminating": true });
    service.replace(1, &[endpoint("192.0.2.2", ending)]).await;
    service.delete(1).await;

    // A watch tells all of it from the version of the list on, in this order, and ends when it was asked to.
    let params = WatchParams::default().labels(&service.labels()).timeout(3);
    let mut events = pin!(service.slices.watch(&params, &version).await.unwrap());
    let mut transcript = Vec::new();
    let mut last = version.clone();
    while let Some(event) = within("the watch ends by itself", events.next()).await {
        let (how, slice) = match event.unwrap() {
            WatchEvent::Added(slice) => ("added", slice),
            WatchEvent::Modified(slice) => ("modified", slice),
            WatchEvent::Deleted(slice) => ("deleted", slice),
            WatchEvent::Bookmark(mark) => {
                last = mark.metadata.resource_version;
                continue;
            }
            WatchEvent::Error(status) => panic!("{status:?}"),
        };
        last = slice.metadata.resource_version.clone().unwrap();
        transcript.push(format!("{how} {}", service.told(&slice)));
    }
    assert_eq!(
        transcript,
        [
            "added app-1: 192.0.2.1 ---, 192.0.2.2 n--",
            "added app-2: 192.0.2.3 y--",
            "modified app-1: 192.0.2.2 nyy",
            "deleted app-1: 192.0.2.2 nyy",
        ]
    );
    // The next one goes on behind it.
    service.replace(2, &[]).await;
    let mut events = pin!(service.slices.watch(&params, &last).await.unwrap());
    match within("an event", events.next()).await {
        Some(Ok(WatchEvent::Modified(slice))) => assert_eq!(service.told(&slice), "app-2: "),
        other => panic!("{other:?}"),
    }

    // A list comes in pages.
    service.create(3, &service.name, &[]).await;
    service.create(4, &service.name, &[]).await;
    let (mut page, mut names) = (all.clone().limit(2), Vec::new());
    loop {
        let list = service.slices.list(&page).await.unwrap();
        names.extend(list.items.iter().map(|slice| service.told(slice)));
        match list.metadata.continue_.filter(|rest| !rest.is_empty()) {
            Some(rest) => page = all.clone().limit(2).continue_token(&rest),
            None => break,
        }
    }
    assert_eq!(names, ["app-2: ", "app-3: ", "app-4: "]);

    // A version of long ago is gone, by the status or by an event.
    let gone = match service.slices.watch(&params, "1").await {
        Err(Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
        Ok(events) => match within("an event", pin!(events).next()).await {
            Some(Ok(WatchEvent::Error(status))) => status.code,
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(gone, 410);

    // Whoever shows no good token learns nothing.
    match asked.slices("nobody's").await.list(&all).await {
        Err(Error::Api(status)) => assert_eq!(status.code, 401),
        other => panic!("{other:?}"),
    }
    for number in [2, 3, 4, 9] {
        service.delete(number).await;
    }
}

/// The status of the fault that a question ends with.
fn refused<T: std::fmt::Debug>(answer: kube::Result<T>) -> u16 {
    match answer {
        Err(Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_api_server_takes_what_a_controller_writes_as_the_controller_counts_on() {
    let asked = Asked::find().await;
    let name = format!("sockgate-it-{:08x}", rand::random::<u32>());
    let post = PostParams::default();

    // Of two who make or change a Lease at once, one is refused.
    let leases = asked.all::<Lease>().await;
    let lease = |holder: &str| -> Lease {
        let spec = json!({ "holderIdentity": holder, "leaseDurationSeconds": 15 });
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
    };
    let first = leases.create(&post, &lease("a")).await.unwrap();
    assert_eq!(refused(leases.create(&post, &lease("b")).await), 409);
    let with_version = |holder: &str| {
        let mut changed = lease(holder);
        changed.metadata.resource_version = first.metadata.resource_version.clone();
        changed
    };
    leases.replace(&name, &post, &with_version("a again")).await.unwrap();
    assert_eq!(refused(leases.replace(&name, &post, &with_version("b")).await), 409);
    let holder = leases.get(&name).await.unwrap().spec.unwrap().holder_identity;
    assert_eq!(holder.as_deref(), Some("a again"));
    leases.delete(&name, &DeleteParams::default()).await.unwrap();

    // A patch of a status changes the status alone, and no generation; one for a version that is not the last is refused.
    let ingresses = asked.all::<Ingress>().await;
    let ingress: Ingress = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "ingressClassName": "nobody",
            "defaultBackend": { "service": { "name": "nobody", "port": { "number": 80 } } } },
    }))
    .unwrap();
    let made = ingresses.create(&post, &ingress).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let status = |ip: &str, version: Option<&str>| {
        let mut patch = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": ip }] } } });
        if let Some(version) = version {
            patch["metadata"] = json!({ "resourceVersion": version });
        }
        Patch::Merge(patch)
    };
    let params = PatchParams::default();
    let version = made.metadata.resource_version.as_deref();
    let patched = ingresses.patch_status(&name, &params, &status("192.0.2.1", version)).await.unwrap();
    assert_eq!(patched.metadata.generation, Some(1));
    assert_ne!(patched.metadata.resource_version.as_deref(), version);
    assert_eq!(refused(ingresses.patch_status(&name, &params, &status("192.0.2.2", version)).await), 409);
    let patched = ingresses.patch_status(&name, &params, &status("192.0.2.3", None)).await.unwrap();
    let told = serde_json::to_value(&patched.status).unwrap();
    assert_eq!(told["loadBalancer"]["ingress"], json!([{ "ip": "192.0.2.3" }]));
    // Who says other words is of another generation.
    let mut changed = patched;
    changed.spec.as_mut().unwrap().ingress_class_name = Some("somebody".to_owned());
    let changed = ingresses.replace(&name, &post, &changed).await.unwrap();
    assert_eq!(changed.metadata.generation, Some(2));
    ingresses.delete(&name, &DeleteParams::default()).await.unwrap();
    assert_eq!(refused(ingresses.patch_status(&name, &params, &status("192.0.2.4", None)).await), 404);

    // A kind that nobody has brought is not there.
    let kind = kube::core::GroupVersionKind::gvk("sockgate-it.example.com", "v1", "Nothing");
    let nothing: Api<DynamicObject> = Api::all_with(asked.client(&asked.token).await, &ApiResource::from_gvk(&kind));
    let code = refused(nothing.list(&ListParams::default()).await);
    // Whoever may not ask for it is told that first.
    assert!(code == 404 || code == 403 && std::env::var_os("SOCKGATE_KUBERNETES_URL").is_some(), "{code}");
}

#[tokio::test]
async fn a_gateway_follows_the_api_server() {
    let asked = Asked::find().await;
    let service = Service::of(&asked).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(&asked.url, &asked.token, &asked.ca)).unwrap();
    let yaml = format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app:
    servers: {{ kubernetes: {{ namespace: {}, service: {}, port: web, kubeconfig: {} }} }}
    health: {{ check: none }}
",
        asked.namespace,
        service.name,
        file.display()
    );
    let gateway = Gateway::start_unready(&yaml).await;
    let knows = async |expected: &[&str]| {
        let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
        let servers = status["upstreams"][0]["servers"].as_array().unwrap().iter();
        let told =
            servers.map(|server| format!("{} {}", server["name"].as_str().unwrap(), server["state"].as_str().unwrap()));
        told.collect::<Vec<_>>() == expected
    };
    eventually("it has heard that there is nobody", async || {
        gateway.admin("/readyz").await.text().contains("the Service has no EndpointSlices")
    })
    .await;
    service
        .create(1, &service.name, &[endpoint("192.0.2.1", json!({})), endpoint("192.0.2.2", json!({ "ready": false }))])
        .await;
    eventually("the ready one serves", async || knows(&["192.0.2.1:3000 up"]).await).await;
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    service
        .create(2, &service.name, &[endpoint("192.0.2.1", json!({})), endpoint("192.0.2.3", json!({ "ready": true }))])
        .await;
    eventually("slices make one set", async || knows(&["192.0.2.1:3000 up", "192.0.2.3:3000 up"]).await).await;
    let ending = json!({ "ready": false, "serving": true, "terminating": true });
    service.replace(2, &[endpoint("192.0.2.3", ending)]).await;
    eventually("one drains", async || knows(&["192.0.2.1:3000 up", "192.0.2.3:3000 draining"]).await).await;
    service.delete(2).await;
    eventually("it has gone", async || knows(&["192.0.2.1:3000 up"]).await).await;
    service.delete(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(knows(&["192.0.2.1:3000 up"]).await, "a Service that is away for a moment takes nobody away");
}
