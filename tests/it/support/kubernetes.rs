//! A fake of Kubernetes' API server, as far as the gateway goes: list, watch, bookmarks, writes that conflict, patches of a
//! status, and the ways in which that fails. It knows no pods, no controllers and no validation; `transcript.rs` holds it, and a
//! real one, to the same words.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::tls::Authority;

/// Whoever shows this may ask.
pub const TOKEN: &str = "token-of-the-gateway";

/// A kind of objects: its address behind `/apis/` or `/api/`, and what one of them is called.
pub type Resource = (&'static str, &'static str);
pub const SLICES: Resource = ("discovery.k8s.io/v1/endpointslices", "EndpointSlice");
pub const INGRESSES: Resource = ("networking.k8s.io/v1/ingresses", "Ingress");
pub const CLASSES: Resource = ("networking.k8s.io/v1/ingressclasses", "IngressClass");
pub const SERVICES: Resource = ("v1/services", "Service");
pub const SECRETS: Resource = ("v1/secrets", "Secret");
pub const EVENTS: Resource = ("v1/events", "Event");
pub const LEASES: Resource = ("coordination.k8s.io/v1/leases", "Lease");
pub const NAMESPACES: Resource = ("v1/namespaces", "Namespace");
pub const GATEWAY_CLASSES: Resource = ("gateway.networking.k8s.io/v1/gatewayclasses", "GatewayClass");
pub const GATEWAYS: Resource = ("gateway.networking.k8s.io/v1/gateways", "Gateway");
pub const HTTP_ROUTES: Resource = ("gateway.networking.k8s.io/v1/httproutes", "HTTPRoute");
pub const TLS_ROUTES: Resource = ("gateway.networking.k8s.io/v1/tlsroutes", "TLSRoute");
pub const TCP_ROUTES: Resource = ("gateway.networking.k8s.io/v1/tcproutes", "TCPRoute");
pub const GRANTS: Resource = ("gateway.networking.k8s.io/v1beta1/referencegrants", "ReferenceGrant");
/// What somebody has to bring into a cluster before it is there.
const BROUGHT: [Resource; 6] = [GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES, TLS_ROUTES, TCP_ROUTES, GRANTS];
/// All that it may have.
const RESOURCES: [Resource; 14] = [
    SLICES,
    INGRESSES,
    CLASSES,
    SERVICES,
    SECRETS,
    EVENTS,
    LEASES,
    NAMESPACES,
    GATEWAY_CLASSES,
    GATEWAYS,
    HTTP_ROUTES,
    TLS_ROUTES,
    TCP_ROUTES,
    GRANTS,
];

/// An API server on the loopback, by TLS; ends when dropped.
pub struct FakeApi {
    authority: Authority,
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
    folder: TempDir,
}

/// How it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    #[default]
    None,
    /// Every question gets this status: 401, 403, 500.
    Refuses(u16),
    /// Watches end as soon as they have begun.
    EndsWatches,
}

struct Shared {
    state: Mutex<State>,
    /// The version of now.
    version: watch::Sender<u64>,
    /// Counts up when all watches are to break off.
    breaks: watch::Sender<u64>,
}

struct State {
    version: u64,
    /// Watches can begin from here on.
    oldest: u64,
    /// By their kind, namespace and name; who has no namespace has an empty one.
    objects: BTreeMap<(&'static str, String, String), Value>,
    history: Vec<Happened>,
    trouble: Trouble,
    gone_as_event: bool,
    asked: Vec<String>,
    /// Whether the Gateway API has been brought.
    has_gateways: bool,
}

#[derive(Clone)]
struct Happened {
    version: u64,
    how: &'static str,
    resource: &'static str,
    namespace: String,
    object: Value,
}

impl FakeApi {
    pub async fn start() -> Self {
        let state = State {
            version: 100,
            oldest: 100,
            objects: BTreeMap::new(),
            history: Vec::new(),
            trouble: Trouble::None,
            gone_as_event: false,
            asked: Vec::new(),
            has_gateways: false,
        };
        let shared =
            Shared { state: Mutex::new(state), version: watch::Sender::new(100), breaks: watch::Sender::new(0) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut api = Self {
            authority: Authority::new(),
            address: listener.local_addr().unwrap(),
            shared: Arc::new(shared),
            serving: None,
            folder: tempfile::tempdir().unwrap(),
        };
        api.serve(listener);
        api
    }

    fn serve(&mut self, listener: TcpListener) {
        let issued = self.authority.sign(&["127.0.0.1"]);
        let acceptor = TlsAcceptor::from(self.authority.server(&issued, false));
        let shared = Arc::clone(&self.shared);
        let router = Router::new().fallback(move |request| answer(Arc::clone(&shared), request));
        self.serving = Some(tokio::spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }));
    }

    /// Ends at once, with all of its connections; what it knows stays.
    pub async fn die(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Is there again, at the same address.
    pub async fn revive(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.serve(socket.listen(128).unwrap());
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The file of its authority, in PEM.
    pub fn ca(&self) -> String {
        self.authority.ca()
    }

    /// A file that says where it is and shows this token.
    pub fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig(&self.url(), token, &self.ca())).unwrap();
        path
    }

    /// Puts a slice of the Service `app` in the namespace `chat`: endpoints at one port of TCP, `web`.
    pub fn put(&self, name: &str, port: u16, endpoints: &[Value]) {
        self.apply(SLICES, "chat", slice(name, "app", port, endpoints));
    }

    /// Puts an object, new or in place of the one that has its name.
    pub fn apply(&self, resource: Resource, namespace: &str, object: Value) {
        let mut state = self.state();
        state.put(resource, namespace, object);
        self.shared.version.send_replace(state.version);
    }

    /// Takes an object away.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) {
        let mut state = self.state();
        assert!(state.remove(resource, namespace, name));
        self.shared.version.send_replace(state.version);
    }

    /// An object as it is now.
    pub fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(resource.0, namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The same by the name of its kind.
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let (resource, _) = RESOURCES.into_iter().find(|(_, known)| *known == kind)?;
        self.state().objects.get(&(resource, namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All of a kind.
    pub fn all(&self, resource: Resource) -> Vec<Value> {
        let state = self.state();
        state.objects.iter().filter(|((kind, ..), _)| *kind == resource.0).map(|(_, object)| object.clone()).collect()
    }

    /// Takes a slice away.
    pub fn remove(&self, name: &str) {
        self.delete(SLICES, "chat", name);
    }

    pub fn trouble(&self, trouble: Trouble) {
        self.state().trouble = trouble;
        self.break_watches();
    }

    /// Forgets its history: watches that would begin in it are refused, by a status or by an event.
    pub fn compact(&self, gone_as_event: bool) {
        let mut state = self.state();
        // As etcd has it, others have changed something meanwhile.
        state.version += 10;
        (state.oldest, state.gone_as_event) = (state.version, gone_as_event);
        state.history.clear();
    }

    /// Breaks all watches off in the middle.
    pub fn break_watches(&self) {
        self.shared.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Knows the kinds of the Gateway API from now on.
    pub fn bring_gateways(&self) {
        self.state().has_gateways = true;
    }

    /// Puts an object of any kind that it knows, as a manifest has it. What has a namespace says it.
    pub fn manifest(&self, object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default();
        let resource = RESOURCES.into_iter().find(|(_, known)| *known == kind);
        let resource = resource.unwrap_or_else(|| panic!("no kind {kind} of {object}"));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.apply(resource, &namespace, object);
    }

    /// How often it was asked for something that holds this.
    pub fn asked(&self, part: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.contains(part)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// A file that says where an API server is, and whom it may trust.
pub fn kubeconfig(url: &str, token: &str, ca: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": url, "certificate-authority": ca } }],
        "users": [{ "name": "it", "user": { "token": token } }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it", "namespace": "chat" } }],
    })
    .to_string()
}

pub fn slice(name: &str, service: &str, port: u16, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "web", "port": port, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// How a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pod {
    Ready,
    Unready,
    /// It ends, and serves until then.
    Ending,
}

/// An endpoint: a pod of this name and UID.
pub fn pod(name: &str, uid: &str, address: &str, stands: Pod) -> Value {
    let (ready, serving, terminating) = match stands {
        Pod::Ready => (true, true, false),
        Pod::Unready => (false, false, false),
        Pod::Ending => (false, true, true),
    };
    json!({
        "addresses": [address],
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        "targetRef": { "kind": "Pod", "namespace": "chat", "name": name, "uid": uid },
    })
}

impl State {
    fn put(&mut self, (resource, kind): Resource, namespace: &str, mut object: Value) -> Value {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.version += 1;
        let key = (resource, namespace.to_owned(), name.clone());
        let before = self.objects.get(&key).map(|before| before["metadata"].clone());
        let metadata = &mut object["metadata"];
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        metadata["resourceVersion"] = json!(self.version.to_string());
        // Who is put again is who they were.
        let first = json!({ "uid": format!("{namespace}-{name}-uid"), "creationTimestamp": "2026-01-01T00:00:00Z" });
        for key in ["uid", "creationTimestamp"] {
            if metadata[key].is_null() {
                metadata[key] = before.as_ref().unwrap_or(&first)[key].clone();
            }
        }
        let before = self.objects.get(&(resource, namespace.to_owned(), name));
        let generation = before.and_then(|before| before["metadata"]["generation"].as_u64()).unwrap_or(0);
        // A status is no word of its owner's, and stays when they say other words.
        let is_same = before.is_some_and(|before| before["spec"] == object["spec"]);
        object["metadata"]["generation"] = json!(if is_same { generation } else { generation + 1 });
        if let (true, Some(before)) = (object["status"].is_null(), before.filter(|before| !before["status"].is_null()))
        {
            object["status"] = before["status"].clone();
        }
        let version = resource.rsplit_once('/').map_or("", |(version, _)| version);
        (object["apiVersion"], object["kind"]) = (json!(version), json!(kind));
        let how = if self.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.note(how, resource, namespace, object.clone());
        object
    }

    fn remove(&mut self, (resource, _): Resource, namespace: &str, name: &str) -> bool {
        let key = (resource, namespace.to_owned(), name.to_owned());
        let Some(mut object) = self.objects.remove(&key) else { return false };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.note("DELETED", resource, namespace, object);
        true
    }

    fn note(&mut self, how: &'static str, resource: &'static str, namespace: &str, object: Value) {
        let (version, namespace) = (self.version, namespace.to_owned());
        self.history.push(Happened { version, how, resource, namespace, object });
    }
}

/// What a question is about.
#[derive(Clone, Debug)]
struct About {
    resource: Resource,
    /// `None`: those of all, or of none.
    namespace: Option<String>,
    /// Empty for all of them.
    name: String,
    /// What of it, such as `status`.
    part: String,
}

impl About {
    fn read(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
        RESOURCES.into_iter().find_map(|resource| {
            let (version, plural) = resource.0.rsplit_once('/')?;
            let rest = path.strip_prefix(version)?.strip_prefix('/')?;
            let (namespace, rest) = match rest.strip_prefix("namespaces/") {
                Some(rest) => rest.split_once('/').map(|(namespace, rest)| (Some(namespace.to_owned()), rest))?,
                None => (None, rest),
            };
            let mut parts = rest.split('/');
            let mut next = || parts.next().unwrap_or_default().to_owned();
            (next() == plural).then(|| Self { resource, namespace, name: next(), part: next() })
        })
    }

    fn takes(&self, resource: &str, namespace: &str) -> bool {
        resource == self.resource.0 && self.namespace.as_ref().is_none_or(|own| own == namespace)
    }

    /// As faults name it.
    fn told(&self) -> String {
        let (version, plural) = self.resource.0.rsplit_once('/').unwrap();
        match version.split_once('/') {
            Some((group, _)) => format!("{plural}.{group}"),
            None => plural.to_owned(),
        }
    }
}

/// What a question says.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let decoded =
            |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(key, value)| (decoded(key), decoded(value))).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    fn selects(&self, object: &Value) -> bool {
        let all = |selector: &str, holds: &dyn Fn(&str, &str) -> bool| {
            let mut pairs = self.get(selector).unwrap_or_default().split(',').filter_map(|one| one.split_once('='));
            pairs.all(|(name, value)| holds(name, value.trim_start_matches('=')))
        };
        let field = |name: &str| name.split('.').fold(object, |object, key| &object[key]);
        all("labelSelector", &|label, value| object["metadata"]["labels"][label] == *value)
            && all("fieldSelector", &|name, value| *field(name) == *value)
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code })
}

fn refuse(code: u16, reason: &str, message: &str) -> Response {
    (StatusCode::from_u16(code).unwrap(), axum::Json(status(code, reason, message))).into_response()
}

async fn answer(shared: Arc<Shared>, request: Request) -> Response {
    let query = Query::of(&request);
    let (trouble, path) = {
        let mut state = shared.state.lock().unwrap();
        state.asked.push(request.uri().to_string());
        (state.trouble, request.uri().path().to_owned())
    };
    let bearer = format!("Bearer {TOKEN}");
    if request.headers().get("authorization").is_none_or(|shown| shown.as_bytes() != bearer.as_bytes()) {
        return refuse(401, "Unauthorized", "Unauthorized");
    }
    let has_gateways = shared.state.lock().unwrap().has_gateways;
    let is_there = |about: &About| has_gateways || !BROUGHT.contains(&about.resource);
    let Some(about) = About::read(&path).filter(is_there) else {
        return refuse(404, "NotFound", "the server could not find the requested resource");
    };
    match trouble {
        Trouble::Refuses(401) => return refuse(401, "Unauthorized", "Unauthorized"),
        Trouble::Refuses(403) => {
            let (told, group) = (about.told(), about.resource.0.split('/').next().unwrap_or_default());
            let message = format!(
                "{told} is forbidden: User \"system:serviceaccount:chat:sockgate\" cannot list resource \"{}\" in API group \
                 \"{group}\" in the namespace \"chat\"",
                told.split('.').next().unwrap_or_default()
            );
            return refuse(403, "Forbidden", &message);
        }
        Trouble::Refuses(code) => return refuse(code, "InternalError", "etcdserver: leader changed"),
        Trouble::None | Trouble::EndsWatches => {}
    }
    let (resource, name) = (about.resource, about.name.clone());
    let namespace = about.namespace.clone().unwrap_or_default();
    let gone = || refuse(404, "NotFound", &format!("{} \"{name}\" not found", about.told()));
    match (request.method().clone(), name.is_empty()) {
        (Method::GET, true) if query.get("watch").is_some_and(|watch| ["true", "1"].contains(&watch)) => {
            watching(&shared, about, query, trouble)
        }
        (Method::GET, true) => listed(&shared.state.lock().unwrap(), &about, &query),
        (Method::GET, false) => {
            let found = shared.state.lock().unwrap().objects.get(&(resource.0, namespace, name.clone())).cloned();
            found.map_or_else(gone, |object| axum::Json(object).into_response())
        }
        (method @ (Method::POST | Method::PUT | Method::PATCH), is_new) if is_new == (method == Method::POST) => {
            let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let mut body: Value = serde_json::from_slice(&body).unwrap();
            let mut state = shared.state.lock().unwrap();
            let named = if is_new { body["metadata"]["name"].as_str().unwrap().to_owned() } else { name.clone() };
            let known = state.objects.get(&(resource.0, namespace.clone(), named.clone())).cloned();
            let conflict = |what: &str| {
                refuse(409, what, &format!("Operation cannot be fulfilled on {} \"{named}\": {what}", about.told()))
            };
            match (&method, known) {
                (&Method::POST, Some(_)) => return conflict("AlreadyExists"),
                (&Method::PATCH, None) => return gone(),
                // Only what a status is may be changed there.
                (&Method::PATCH, Some(mut object)) => {
                    assert_eq!(about.part, "status", "what a gateway patches is a status");
                    let (asked, now) = (&body["metadata"]["resourceVersion"], &object["metadata"]["resourceVersion"]);
                    if !asked.is_null() && asked != now {
                        return conflict("Conflict");
                    }
                    object["status"] = merged(object["status"].take(), body["status"].take());
                    body = object;
                }
                (&Method::PUT, Some(object)) => {
                    let (asked, now) = (&body["metadata"]["resourceVersion"], &object["metadata"]["resourceVersion"]);
                    if !asked.is_null() && asked != now {
                        return conflict("Conflict");
                    }
                }
                _ => {}
            }
            let object = state.put(resource, &namespace, body);
            shared.version.send_replace(state.version);
            let code = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            (code, axum::Json(object)).into_response()
        }
        (Method::DELETE, false) => {
            let mut state = shared.state.lock().unwrap();
            let found = state.remove(resource, &namespace, &name);
            shared.version.send_replace(state.version);
            if !found {
                return gone();
            }
            axum::Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })).into_response()
        }
        _ => refuse(405, "MethodNotAllowed", "the server does not allow this method on the requested resource"),
    }
}

/// A merge patch (RFC 7386).
fn merged(before: Value, patch: Value) -> Value {
    match (before, patch) {
        (Value::Object(mut before), Value::Object(patch)) => {
            for (key, value) in patch {
                let merged = merged(before.remove(&key).unwrap_or_default(), value);
                if !merged.is_null() {
                    before.insert(key, merged);
                }
            }
            Value::Object(before)
        }
        (_, patch) => patch,
    }
}

/// A page of the list; the next one is asked for by what it begins with.
fn listed(state: &State, about: &About, query: &Query) -> Response {
    let all = state.objects.iter();
    let all = all.filter(|((of, namespace, _), object)| about.takes(of, namespace) && query.selects(object));
    let mut items: Vec<&Value> = all.map(|(_, object)| object).collect();
    let skipped = query.number("continue").map_or(0, |from| from as usize).min(items.len());
    items.drain(..skipped);
    let mut metadata = json!({ "resourceVersion": state.version.to_string() });
    if let Some(limit) = query.number("limit").filter(|&limit| limit > 0 && (limit as usize) < items.len()) {
        items.truncate(limit as usize);
        metadata["continue"] = json!((skipped + limit as usize).to_string());
    }
    let (version, _) = about.resource.0.rsplit_once('/').unwrap();
    axum::Json(json!({ "kind": format!("{}List", about.resource.1), "apiVersion": version, "metadata": metadata,
        "items": items }))
    .into_response()
}

/// One watch, as its connection has it.
struct Watch {
    shared: Arc<Shared>,
    versions: watch::Receiver<u64>,
    breaks: watch::Receiver<u64>,
    about: About,
    query: Query,
    /// What has been told.
    version: u64,
    end: Instant,
    ready: VecDeque<Value>,
    over: bool,
}

fn watching(shared: &Arc<Shared>, about: About, query: Query, trouble: Trouble) -> Response {
    let (oldest, now, gone_as_event) = {
        let state = shared.state.lock().unwrap();
        (state.oldest, state.version, state.gone_as_event)
    };
    let version = query.number("resourceVersion").filter(|&version| version > 0).unwrap_or(now);
    let seconds = query.number("timeoutSeconds").unwrap_or(300);
    let mut watch = Watch {
        versions: shared.version.subscribe(),
        breaks: shared.breaks.subscribe(),
        shared: Arc::clone(shared),
        about,
        query,
        version,
        end: Instant::now() + Duration::from_secs(seconds),
        ready: VecDeque::new(),
        over: trouble == Trouble::EndsWatches,
    };
    if version < oldest {
        let gone = format!("too old resource version: {version} ({oldest})");
        if !gone_as_event {
            return refuse(410, "Expired", &gone);
        }
        watch.ready.push_back(json!({ "type": "ERROR", "object": status(410, "Expired", &gone) }));
        watch.over = true;
    }
    let lines = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        let line = event.map(|event| Bytes::from(format!("{event}\n")));
        Some((line, watch))
    });
    ([("content-type", "application/json")], Body::from_stream(lines)).into_response()
}

impl Watch {
    /// The next event, or how it breaks off; `None` at its end.
    async fn next(&mut self) -> Option<Result<Value, std::io::Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            let happened: Vec<Happened> = {
                let state = self.shared.state.lock().unwrap();
                state.history.iter().filter(|one| one.version > self.version).cloned().collect()
            };
            if let Some(last) = happened.last() {
                self.version = last.version;
                let its = happened.into_iter().filter(|one| self.about.takes(one.resource, &one.namespace));
                let its = its.filter(|one| self.query.selects(&one.object));
                self.ready.extend(its.map(|one| json!({ "type": one.how, "object": one.object })));
                continue;
            }
            tokio::select! {
                _ = self.versions.changed() => {}
                _ = self.breaks.changed() => return Some(Err(std::io::Error::other("broken off"))),
                () = tokio::time::sleep_until(self.end) => {
                    self.over = true;
                    if self.query.get("allowWatchBookmarks") == Some("true") {
                        let version = self.shared.state.lock().unwrap().version.to_string();
                        let (api, kind) = (self.about.resource.0.rsplit_once('/').unwrap().0, self.about.resource.1);
                        let mut mark =
                            json!({ "kind": kind, "apiVersion": api, "metadata": { "resourceVersion": version } });
                        if self.about.resource == SLICES {
                            (mark["addressType"], mark["endpoints"]) = (json!(""), Value::Null);
                        }
                        self.ready.push_back(json!({ "type": "BOOKMARK", "object": mark }));
                    }
                }
            }
        }
    }
}
