//! A fake of Kubernetes' API server, as far as EndpointSlices go: list, watch, bookmarks, and the ways in which that fails.
//! It knows no pods, no controllers and no validation; `transcript.rs` holds it, and a real one, to the same words.

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
const GROUP: &str = "/apis/discovery.k8s.io/v1/namespaces/";

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
    /// By namespace and name.
    slices: BTreeMap<(String, String), Value>,
    history: Vec<Happened>,
    trouble: Trouble,
    gone_as_event: bool,
    asked: Vec<String>,
}

#[derive(Clone)]
struct Happened {
    version: u64,
    how: &'static str,
    namespace: String,
    slice: Value,
}

impl FakeApi {
    pub async fn start() -> Self {
        let state = State {
            version: 100,
            oldest: 100,
            slices: BTreeMap::new(),
            history: Vec::new(),
            trouble: Trouble::None,
            gone_as_event: false,
            asked: Vec::new(),
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
        let mut state = self.state();
        state.put("chat", slice(name, "app", port, endpoints));
        self.shared.version.send_replace(state.version);
    }

    /// Takes a slice away.
    pub fn remove(&self, name: &str) {
        let mut state = self.state();
        assert!(state.remove("chat", name));
        self.shared.version.send_replace(state.version);
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
    fn put(&mut self, namespace: &str, mut slice: Value) -> Value {
        let key = (namespace.to_owned(), slice["metadata"]["name"].as_str().unwrap().to_owned());
        self.version += 1;
        slice["metadata"]["namespace"] = json!(namespace);
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let how = if self.slices.insert(key, slice.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.note(how, namespace, slice.clone());
        slice
    }

    fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let Some(mut slice) = self.slices.remove(&(namespace.to_owned(), name.to_owned())) else { return false };
        self.version += 1;
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.note("DELETED", namespace, slice);
        true
    }

    fn note(&mut self, how: &'static str, namespace: &str, slice: Value) {
        self.history.push(Happened { version: self.version, how, namespace: namespace.to_owned(), slice });
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

    fn selects(&self, slice: &Value) -> bool {
        let Some(selector) = self.get("labelSelector") else { return true };
        selector
            .split(',')
            .filter_map(|one| one.split_once('='))
            .all(|(label, value)| slice["metadata"]["labels"][label].as_str() == Some(value.trim_start_matches('=')))
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
    match trouble {
        Trouble::Refuses(401) => return refuse(401, "Unauthorized", "Unauthorized"),
        Trouble::Refuses(403) => {
            let message = "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:chat:sockgate\" \
                           cannot list resource \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \
                           \"chat\"";
            return refuse(403, "Forbidden", message);
        }
        Trouble::Refuses(code) => return refuse(code, "InternalError", "etcdserver: leader changed"),
        Trouble::None | Trouble::EndsWatches => {}
    }
    let Some((namespace, rest)) = path.strip_prefix(GROUP).and_then(|rest| rest.split_once("/endpointslices")) else {
        return refuse(404, "NotFound", "the server could not find the requested resource");
    };
    let name = rest.trim_start_matches('/').to_owned();
    let namespace = namespace.to_owned();
    match (request.method().clone(), name.is_empty()) {
        (Method::GET, true) if query.get("watch").is_some_and(|watch| ["true", "1"].contains(&watch)) => {
            watching(&shared, namespace, query, trouble)
        }
        (Method::GET, true) => listed(&shared.state.lock().unwrap(), &namespace, &query),
        (Method::POST, true) | (Method::PUT, false) => {
            let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let mut state = shared.state.lock().unwrap();
            let slice = state.put(&namespace, serde_json::from_slice(&body).unwrap());
            shared.version.send_replace(state.version);
            let code = if name.is_empty() { StatusCode::CREATED } else { StatusCode::OK };
            (code, axum::Json(slice)).into_response()
        }
        (Method::DELETE, false) => {
            let mut state = shared.state.lock().unwrap();
            let found = state.remove(&namespace, &name);
            shared.version.send_replace(state.version);
            if found {
                axum::Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })).into_response()
            } else {
                refuse(404, "NotFound", &format!("endpointslices.discovery.k8s.io \"{name}\" not found"))
            }
        }
        _ => refuse(405, "MethodNotAllowed", "the server does not allow this method on the requested resource"),
    }
}

/// A page of the list; the next one is asked for by what it begins with.
fn listed(state: &State, namespace: &str, query: &Query) -> Response {
    let all = state.slices.iter().filter(|((of, _), slice)| of == namespace && query.selects(slice));
    let mut items: Vec<&Value> = all.map(|(_, slice)| slice).collect();
    let skipped = query.number("continue").map_or(0, |from| from as usize).min(items.len());
    items.drain(..skipped);
    let mut metadata = json!({ "resourceVersion": state.version.to_string() });
    if let Some(limit) = query.number("limit").filter(|&limit| limit > 0 && (limit as usize) < items.len()) {
        items.truncate(limit as usize);
        metadata["continue"] = json!((skipped + limit as usize).to_string());
    }
    axum::Json(json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata,
        "items": items }))
    .into_response()
}

/// One watch, as its connection has it.
struct Watch {
    shared: Arc<Shared>,
    versions: watch::Receiver<u64>,
    breaks: watch::Receiver<u64>,
    namespace: String,
    query: Query,
    /// What has been told.
    version: u64,
    end: Instant,
    ready: VecDeque<Value>,
    over: bool,
}

fn watching(shared: &Arc<Shared>, namespace: String, query: Query, trouble: Trouble) -> Response {
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
        namespace,
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
                let its = happened.into_iter().filter(|one| one.namespace == self.namespace);
                let its = its.filter(|one| self.query.selects(&one.slice));
                self.ready.extend(its.map(|one| json!({ "type": one.how, "object": one.slice })));
                continue;
            }
            tokio::select! {
                _ = self.versions.changed() => {}
                _ = self.breaks.changed() => return Some(Err(std::io::Error::other("broken off"))),
                () = tokio::time::sleep_until(self.end) => {
                    self.over = true;
                    if self.query.get("allowWatchBookmarks") == Some("true") {
                        let version = self.shared.state.lock().unwrap().version.to_string();
                        let slice = json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                            "metadata": { "resourceVersion": version }, "addressType": "", "endpoints": null });
                        self.ready.push_back(json!({ "type": "BOOKMARK", "object": slice }));
                    }
                }
            }
        }
    }
}
