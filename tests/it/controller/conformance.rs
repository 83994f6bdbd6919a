//! The conformance cases of the Gateway API that matter here, by their names upstream: each file of `tests/gateway` holds the
//! objects of one, in our own words, and what has to come of them. `docs/gateway-api.md` tells which of all there are hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{secret, slice, start_with};
use crate::support::client::Answer;
use crate::support::kubernetes::{EVENTS, FakeApi, Pod, SECRETS, pod};
use crate::support::server::echo;
use crate::support::tls::{Authority, TlsClient};
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, Scripted, eventually, http2_server, within};

/// The listeners of the file, and the ports that Gateways call them by.
const FILE: &str = "
listeners:
  - { name: http, address: 127.0.0.1:0 }
  - { name: http-8080, address: 127.0.0.1:0 }
  - { name: http-8090, address: 127.0.0.1:0 }
  - { name: https, address: 127.0.0.1:0, tls: { certificates: [] } }
  - { name: https-8443, address: 127.0.0.1:0, tls: { certificates: [] } }
  - { name: tcp-9001, address: 127.0.0.1:0, protocol: tcp }
  - { name: tcp-9002, address: 127.0.0.1:0, protocol: tcp }
  - { name: tcp-9003, address: 127.0.0.1:0, protocol: tcp }
reload: { watch: false }
";
const PORTS: [(u16, &str); 8] = [
    (80, "http"),
    (8080, "http-8080"),
    (8090, "http-8090"),
    (443, "https"),
    (8443, "https-8443"),
    (9001, "tcp-9001"),
    (9002, "tcp-9002"),
    (9003, "tcp-9003"),
];

/// The Services that are there: the namespace, the name and the protocol of the port, each with a server of its name.
const SERVERS: [(&str, &str, Option<&str>); 9] = [
    ("infra", "v1", None),
    ("infra", "v2", None),
    ("infra", "v3", None),
    ("infra", "headless", None),
    ("infra", "ws", Some("kubernetes.io/ws")),
    ("infra", "wss", Some("kubernetes.io/wss")),
    ("apps", "app-v1", None),
    ("apps", "app-v2", None),
    ("web", "web", None),
];

/// A case: what happens, one step after the other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it is about.
    #[allow(dead_code)]
    about: String,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Objects that are put, new or in place of others.
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    conditions: Vec<Expected>,
    #[serde(default)]
    requests: Vec<Ask>,
}

/// What a status has to say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// `Kind namespace/name`, or `Kind name`.
    of: String,
    /// The listener, by its name.
    listener: Option<String>,
    /// The Gateway of a route's condition, where it names several.
    parent: Option<String>,
    /// Conditions, as `Accepted: True Accepted`.
    #[serde(default)]
    says: BTreeMap<String, String>,
    /// Routes at a listener.
    attached: Option<u64>,
    /// Kinds of a listener.
    kinds: Option<Vec<String>>,
    /// Values of a Gateway's addresses.
    addresses: Option<Vec<String>>,
    /// Nothing is said of a route.
    #[serde(default)]
    nothing: bool,
}

/// A request, and what has to come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// `METHOD /path`, or `METHOD host/path`.
    ask: String,
    /// Of the Gateway; 80 where it is left out.
    #[serde(default = "usual_port")]
    port: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The server that has to answer.
    from: Option<String>,
    status: Option<u16>,
    location: Option<String>,
    /// What the server sees: its first line, and fields.
    sees: Option<String>,
    #[serde(default)]
    sees_headers: BTreeMap<String, String>,
    #[serde(default)]
    sees_none: Vec<String>,
    /// Fields of the answer.
    #[serde(default)]
    gets_headers: BTreeMap<String, String>,
    #[serde(default)]
    gets_none: Vec<String>,
    /// Who has to get which share of many such requests; a status in place of a server is one, too.
    #[serde(default)]
    shares: BTreeMap<String, f64>,
    /// Of so many requests, the least and the most that are copied, as parts of all.
    #[serde(default)]
    copied: usize,
    #[serde(default)]
    copies: [f64; 2],
    /// A WebSocket is opened, and echoes.
    #[serde(default)]
    websocket: bool,
    /// The connection is closed without an answer.
    #[serde(default)]
    closed: bool,
}

fn usual_port() -> u16 {
    80
}

/// Requests by which shares are measured.
const MANY: usize = 500;

struct World {
    api: FakeApi,
    gateway: Gateway,
    authority: Authority,
    tls: TlsClient,
    _servers: Vec<Scripted>,
}

impl World {
    async fn start() -> Self {
        let api = FakeApi::start().await;
        api.bring_gateways();
        let authority = Authority::new();
        let mut servers = Vec::new();
        for namespace in ["infra", "apps", "web"] {
            let labels = json!({ "kubernetes.io/metadata.name": namespace, "tier": namespace });
            api.manifest(json!({ "kind": "Namespace", "metadata": { "name": namespace, "labels": labels } }));
        }
        for (namespace, name, protocol) in SERVERS {
            let server = Scripted::start(move |client, _| echo(name, client)).await;
            serve(&api, namespace, name, protocol, server.address().port());
            servers.push(server);
        }
        let of_tls = authority.sign(&["*.example.com"]);
        for name in ["tls", "tls2"] {
            let server =
                Scripted::start_tls(authority.server(&of_tls, false), move |client, _| echo(name, client)).await;
            serve(&api, "infra", name, None, server.address().port());
            servers.push(server);
        }
        let slow = Scripted::start(|client, _| unless_told_to_hang(client)).await;
        serve(&api, "infra", "slow", None, slow.address().port());
        let h2c = http2_server::serving(h2::server::Builder::new(), |(_, mut respond), _| async move {
            let answer = http::Response::builder().header("x-server", "h2c").body(()).unwrap();
            let _ = respond.send_response(answer, true);
        })
        .await;
        serve(&api, "infra", "h2c", Some("kubernetes.io/h2c"), h2c.address().port());
        servers.extend([slow, h2c]);
        for (namespace, name, names) in [
            ("infra", "example-org", &["example.org", "*.example.org"][..]),
            ("web", "web-cert", &["web.example.net"]),
            ("infra", "second", &["second.example.org"]),
        ] {
            api.apply(SECRETS, namespace, secret(name, &authority.sign(names)));
        }
        api.manifest(json!({
            "kind": "GatewayClass", "metadata": { "name": "sockgate" },
            "spec": { "controllerName": "sockgate.io/gateway-controller" },
        }));
        let ports = PORTS.map(|(port, listener)| format!("--gateway-port={port}={listener}"));
        let mut arguments: Vec<&str> = ports.iter().map(String::as_str).collect();
        arguments.extend(["--publish-address", "192.0.2.10"]);
        let gateway = start_with(&api, FILE, &arguments).await;
        super::is_ready(&gateway).await;
        let tls = authority.client(&["http/1.1"]);
        Self { api, gateway, authority, tls, _servers: servers }
    }

    /// What Events say, for whoever looks for a fault.
    fn told(&self) -> String {
        let told = self.api.all(EVENTS).into_iter();
        told.map(|event| format!("{}: {}\n", event["involvedObject"]["name"], event["message"])).collect()
    }

    fn address(&self, port: u16) -> SocketAddr {
        let (_, listener) = PORTS.into_iter().find(|(known, _)| *known == port).unwrap();
        self.gateway.address(listener)
    }

    /// A connection, perhaps by TLS; `None` where nobody speaks that with the client.
    async fn connect(&self, port: u16, host: &str) -> Option<Client> {
        match port {
            443 | 8443 => {
                let name = host.split(':').next().unwrap_or_default();
                self.tls.connect(self.address(port), name).await.ok().map(Client::over)
            }
            // Who leads nowhere may be reset at once.
            _ => TcpStream::connect(self.address(port)).await.ok().map(Client::over),
        }
    }
}

/// A Service at port 8080 with one pod, that this server is.
fn serve(api: &FakeApi, namespace: &str, name: &str, protocol: Option<&str>, port: u16) {
    let mut said = json!({ "name": "web", "port": 8080 });
    if let Some(protocol) = protocol {
        said["appProtocol"] = json!(protocol);
    }
    api.manifest(json!({
        "kind": "Service", "metadata": { "name": name, "namespace": namespace }, "spec": { "ports": [said] },
    }));
    let endpoints = [pod(name, &format!("{name}uid"), "127.0.0.1", Pod::Ready)];
    api.apply(super::SLICES, namespace, slice(&format!("{name}-1"), name, port, &endpoints));
}

/// Answers, but for requests that say `hang`.
async fn unless_told_to_hang(mut client: Client) {
    while let Some(request) = client.request().await {
        if String::from_utf8_lossy(&request.head).contains("hang") {
            std::future::pending::<()>().await;
        }
        if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// What answers: the server, or the status.
fn who(answer: &Answer) -> String {
    answer.header("x-server").map_or_else(|| answer.status.to_string(), str::to_owned)
}

impl Ask {
    /// The method, the host and the path.
    fn parts(&self) -> (&str, &str, &str) {
        let (method, target) = self.ask.split_once(' ').unwrap();
        let at = target.find('/').unwrap();
        let (host, path) = target.split_at(at);
        (method, if host.is_empty() { "any.example" } else { host }, path)
    }

    async fn answer(&self, world: &World) -> Option<Answer> {
        let (method, host, path) = self.parts();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in &self.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut client = world.connect(self.port, host).await?;
        if self.websocket {
            client.send(upgrade(path).replacen("localhost", host, 1)).await;
            let head = client.some_until(b"\r\n\r\n").await?;
            let answer = Answer::of(&head);
            if answer.status == 101 {
                client.send("over the wire").await;
                assert_eq!(client.read(13).await, b"over the wire");
            }
            return Some(answer);
        }
        request.push_str("Content-Length: 0\r\n\r\n");
        if method == "HEAD" {
            client.send(request).await;
            return Some(Answer::of(&client.some_until(b"\r\n\r\n").await?));
        }
        within("an answer", client.try_ask(request)).await
    }

    /// What is other than it has to be; `None` where all is well.
    fn misfit(&self, answer: Option<&Answer>) -> Option<String> {
        let Some(answer) = answer else { return (!self.closed).then(|| "no answer".to_owned()) };
        let mut misfits = Vec::new();
        let mut differs = |what: &str, has: Option<&str>, expected: &str| {
            if has != Some(expected) {
                misfits.push(format!("{what} is {has:?}, expected {expected}"));
            }
        };
        if self.closed {
            differs("the connection", Some("answered"), "closed");
        }
        if let Some(from) = &self.from {
            differs("who answers", Some(&who(answer)), from);
        }
        if let Some(status) = self.status {
            differs("the status", Some(&answer.status.to_string()), &status.to_string());
        }
        if let Some(location) = &self.location {
            differs("the location", answer.header("location"), location);
        }
        let text = answer.text();
        let mut lines = text.lines().skip(1);
        let first = lines.next().unwrap_or_default();
        let seen: Vec<(String, String)> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let all = |name: &str| {
            let values: Vec<&str> = seen
                .iter()
                .filter(|(known, _)| *known == name.to_ascii_lowercase())
                .map(|(_, value)| value.as_str())
                .collect();
            (!values.is_empty()).then(|| values.join(","))
        };
        if let Some(sees) = &self.sees {
            differs("what the server sees", Some(first.trim_end_matches(" HTTP/1.1")), sees);
        }
        for (name, value) in &self.sees_headers {
            differs(&format!("{name} at the server"), all(name).as_deref(), value);
        }
        for name in self.sees_none.iter().filter(|name| all(name).is_some()) {
            differs(&format!("{name} at the server"), Some("there"), "gone");
        }
        for (name, value) in &self.gets_headers {
            let values: Vec<&str> = answer
                .headers
                .iter()
                .filter(|(known, _)| *known == name.to_ascii_lowercase())
                .map(|(_, value)| value.as_str())
                .collect();
            let spaced = |text: &str| text.replace(", ", ",");
            differs(&format!("{name} of the answer"), Some(&spaced(&values.join(","))), &spaced(value));
        }
        for name in self.gets_none.iter().filter(|name| answer.header(&name.to_ascii_lowercase()).is_some()) {
            differs(&format!("{name} of the answer"), Some("there"), "gone");
        }
        (!misfits.is_empty()).then(|| misfits.join("; "))
    }

    async fn hold(&self, world: &World) {
        if !self.shares.is_empty() {
            return self.hold_shares(world).await;
        }
        if self.copied > 0 {
            self.hold_copies(world).await;
        }
        let mut last = None;
        let holds = tokio::time::timeout(crate::support::PATIENCE, async {
            loop {
                last = self.misfit(self.answer(world).await.as_ref());
                if last.is_none() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        if holds.await.is_err() {
            let told = world.told();
            panic!("{} at {}: {}; {told}", self.ask, self.port, last.unwrap_or_else(|| "no answer".to_owned()));
        }
    }

    async fn hold_copies(&self, world: &World) {
        let served = format!("{} is served", self.ask);
        eventually(&served, async || self.misfit(self.answer(world).await.as_ref()).is_none()).await;
        let sent = "sockgate_mirrored_total{result=\"answered\",upstream=\"infra/httproute.mirror/v2:8080\"}";
        let before = world.gateway.metric(sent).await;
        for _ in 0..self.copied {
            assert_eq!(self.misfit(self.answer(world).await.as_ref()), None);
        }
        let [least, most] = self.copies.map(|part| part * self.copied as f64);
        eventually(&format!("{least} to {most} of {} are copied", self.copied), async || {
            let copies = world.gateway.metric(sent).await - before;
            (least..=most).contains(&copies)
        })
        .await;
    }

    async fn hold_shares(&self, world: &World) {
        eventually(&format!("{} is served", self.ask), async || {
            let answer = self.answer(world).await;
            answer.is_some_and(|answer| self.shares.contains_key(&who(&answer)))
        })
        .await;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..MANY {
            let answer = self.answer(world).await.map_or_else(|| "closed".to_owned(), |answer| who(&answer));
            *counts.entry(answer).or_default() += 1;
        }
        for (who, share) in &self.shares {
            let has = *counts.get(who).unwrap_or(&0) as f64 / MANY as f64;
            // More than four times what chance does to so many.
            assert!((has - share).abs() < 0.1, "{}: {who} has {has}, expected {share}: {counts:?}", self.ask);
        }
        assert!(counts.keys().all(|who| self.shares.contains_key(who)), "{counts:?}");
    }
}

impl Expected {
    fn misfit(&self, api: &FakeApi) -> Option<String> {
        let (kind, named) = self.of.split_once(' ').unwrap();
        let (namespace, name) = named.split_once('/').unwrap_or(("", named));
        let Some(object) = api.find(kind, namespace, name) else { return Some("it is not there".to_owned()) };
        let status = &object["status"];
        let generation = &object["metadata"]["generation"];
        if self.nothing {
            let parents = status["parents"].as_array().map_or(0, Vec::len);
            return (parents > 0).then(|| format!("{parents} parents"));
        }
        let none = Value::Null;
        let find = |all: &'_ Value, key: &str, value: &str| -> Value {
            let all = all.as_array().into_iter().flatten();
            all.into_iter()
                .find(|one| one.pointer(key).and_then(Value::as_str) == Some(value))
                .cloned()
                .unwrap_or(Value::Null)
        };
        let place = match (&self.listener, &self.parent) {
            (Some(listener), _) => find(&status["listeners"], "/name", listener),
            (_, Some(parent)) => find(&status["parents"], "/parentRef/name", parent),
            _ if kind.ends_with("Route") => status["parents"].get(0).unwrap_or(&none).clone(),
            _ => status.clone(),
        };
        for (kind, expected) in &self.says {
            let condition = find(&place["conditions"], "/type", kind);
            let text = |key: &str| condition[key].as_str().unwrap_or("?").to_owned();
            let has = format!("{} {}", text("status"), text("reason"));
            if has != *expected {
                return Some(format!("{kind} is `{has}` ({}), expected `{expected}`", text("message")));
            }
            if condition["observedGeneration"] != *generation {
                return Some(format!(
                    "{kind} is of generation {}, expected {generation}",
                    condition["observedGeneration"]
                ));
            }
        }
        if let Some(attached) = self.attached.filter(|attached| place["attachedRoutes"] != *attached) {
            return Some(format!("attached are {}, expected {attached}", place["attachedRoutes"]));
        }
        if let Some(kinds) = &self.kinds {
            let has: Vec<&str> = place["supportedKinds"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|kind| kind["kind"].as_str())
                .collect();
            if has != *kinds {
                return Some(format!("kinds are {has:?}, expected {kinds:?}"));
            }
        }
        if let Some(addresses) = &self.addresses {
            let has: Vec<&str> =
                place["addresses"].as_array().into_iter().flatten().filter_map(|one| one["value"].as_str()).collect();
            if has != *addresses {
                return Some(format!("addresses are {has:?}, expected {addresses:?}"));
            }
        }
        None
    }

    async fn hold(&self, api: &FakeApi) {
        let mut last = None;
        let holds = tokio::time::timeout(crate::support::PATIENCE, async {
            loop {
                last = self.misfit(api);
                if last.is_none() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        if holds.await.is_err() {
            panic!("{} {}: {}", self.of, self.listener.as_deref().unwrap_or_default(), last.unwrap_or_default());
        }
    }
}

/// Runs a case.
async fn holds(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway").join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
    let case: Case = serde_yaml::from_str(&text).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
    let world = World::start().await;
    for (at, step) in case.steps.into_iter().enumerate() {
        println!("step {at}");
        for object in step.apply {
            if object["kind"] == "Secret" && object["names"].is_array() {
                world.issue(&object);
            } else {
                world.api.manifest(object);
            }
        }
        for expected in &step.conditions {
            expected.hold(&world.api).await;
        }
        for ask in &step.requests {
            ask.hold(&world).await;
        }
    }
}

impl World {
    /// A Secret with a certificate for these names.
    fn issue(&self, object: &Value) {
        let names: Vec<&str> = object["names"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let (namespace, name) = (&object["metadata"]["namespace"], &object["metadata"]["name"]);
        let issued = secret(name.as_str().unwrap(), &self.authority.sign(&names));
        self.api.apply(SECRETS, namespace.as_str().unwrap(), issued);
    }
}

macro_rules! cases {
    ($($test:ident $name:literal;)*) => {
        /// By their names upstream.
        const CASES: &[&str] = &[$($name),*];

        $(
            #[tokio::test]
            async fn $test() {
                holds($name).await;
            }
        )*
    };
}

cases! {
    gateway_class_observed_generation_bump "GatewayClassObservedGenerationBump";
    gateway_http_listener_isolation "GatewayHTTPListenerIsolation";
    gateway_invalid_parameters_ref "GatewayInvalidParametersRef";
    gateway_invalid_route_kind "GatewayInvalidRouteKind";
    gateway_invalid_tls_configuration "GatewayInvalidTLSConfiguration";
    gateway_listener_unsupported_protocol "GatewayListenerUnsupportedProtocol";
    gateway_modify_listeners "GatewayModifyListeners";
    gateway_observed_generation_bump "GatewayObservedGenerationBump";
    gateway_optional_address_value "GatewayOptionalAddressValue";
    gateway_secret_invalid_reference_grant "GatewaySecretInvalidReferenceGrant";
    gateway_secret_missing_reference_grant "GatewaySecretMissingReferenceGrant";
    gateway_secret_reference_grant_all_in_namespace "GatewaySecretReferenceGrantAllInNamespace";
    gateway_secret_reference_grant_specific "GatewaySecretReferenceGrantSpecific";
    gateway_static_addresses "GatewayStaticAddresses";
    gateway_with_attached_routes "GatewayWithAttachedRoutes";
    gateway_with_attached_routes_with_port8080 "GatewayWithAttachedRoutesWithPort8080";
    http_route_303_redirect "HTTPRoute303Redirect";
    http_route_307_redirect "HTTPRoute307Redirect";
    http_route_308_redirect "HTTPRoute308Redirect";
    http_route_backend_protocol_h2c "HTTPRouteBackendProtocolH2C";
    http_route_backend_protocol_web_socket "HTTPRouteBackendProtocolWebSocket";
    http_route_backend_request_header_modifier "HTTPRouteBackendRequestHeaderModifier";
    http_route_cors "HTTPRouteCORS";
    http_route_cross_namespace "HTTPRouteCrossNamespace";
    http_route_disallowed_kind "HTTPRouteDisallowedKind";
    http_route_exact_path_matching "HTTPRouteExactPathMatching";
    http_route_https_listener "HTTPRouteHTTPSListener";
    http_route_header_matching "HTTPRouteHeaderMatching";
    http_route_hostname_intersection "HTTPRouteHostnameIntersection";
    http_route_invalid_backend_ref_unknown_kind "HTTPRouteInvalidBackendRefUnknownKind";
    http_route_invalid_cross_namespace_backend_ref "HTTPRouteInvalidCrossNamespaceBackendRef";
    http_route_invalid_cross_namespace_parent_ref "HTTPRouteInvalidCrossNamespaceParentRef";
    http_route_invalid_non_existent_backend_ref "HTTPRouteInvalidNonExistentBackendRef";
    http_route_invalid_parent_ref_not_matching_listener_port "HTTPRouteInvalidParentRefNotMatchingListenerPort";
    http_route_invalid_parent_ref_not_matching_section_name "HTTPRouteInvalidParentRefNotMatchingSectionName";
    http_route_invalid_parent_ref_section_name_not_matching_port "HTTPRouteInvalidParentRefSectionNameNotMatchingPort";
    http_route_invalid_reference_grant "HTTPRouteInvalidReferenceGrant";
    http_route_listener_hostname_matching "HTTPRouteListenerHostnameMatching";
    http_route_listener_port_matching "HTTPRouteListenerPortMatching";
    http_route_matching "HTTPRouteMatching";
    http_route_matching_across_routes "HTTPRouteMatchingAcrossRoutes";
    http_route_method_matching "HTTPRouteMethodMatching";
    http_route_multiple_gateways "HTTPRouteMultipleGateways";
    http_route_named_rule "HTTPRouteNamedRule";
    http_route_no_backend_refs "HTTPRouteNoBackendRefs";
    http_route_observed_generation_bump "HTTPRouteObservedGenerationBump";
    http_route_partially_invalid_via_invalid_reference_grant "HTTPRoutePartiallyInvalidViaInvalidReferenceGrant";
    http_route_path_match_order "HTTPRoutePathMatchOrder";
    http_route_query_param_matching "HTTPRouteQueryParamMatching";
    http_route_redirect_host_and_status "HTTPRouteRedirectHostAndStatus";
    http_route_redirect_path "HTTPRouteRedirectPath";
    http_route_redirect_port "HTTPRouteRedirectPort";
    http_route_redirect_port_and_scheme "HTTPRouteRedirectPortAndScheme";
    http_route_redirect_scheme "HTTPRouteRedirectScheme";
    http_route_reference_grant "HTTPRouteReferenceGrant";
    http_route_request_header_modifier "HTTPRouteRequestHeaderModifier";
    http_route_request_header_modifier_backend_weights "HTTPRouteRequestHeaderModifierBackendWeights";
    http_route_request_mirror "HTTPRouteRequestMirror";
    http_route_request_percentage_mirror "HTTPRouteRequestPercentageMirror";
    http_route_response_header_modifier "HTTPRouteResponseHeaderModifier";
    http_route_rewrite_host "HTTPRouteRewriteHost";
    http_route_rewrite_path "HTTPRouteRewritePath";
    http_route_service_types "HTTPRouteServiceTypes";
    http_route_simple_same_namespace "HTTPRouteSimpleSameNamespace";
    http_route_timeout_backend_request "HTTPRouteTimeoutBackendRequest";
    http_route_timeout_request "HTTPRouteTimeoutRequest";
    http_route_weight "HTTPRouteWeight";
    tcp_route_invalid_backend_ref_nonexistent "TCPRouteInvalidBackendRefNonexistent";
    tcp_route_invalid_cross_namespace_backend_ref "TCPRouteInvalidCrossNamespaceBackendRef";
    tcp_route_invalid_non_tcp_listener "TCPRouteInvalidNonTCPListener";
    tcp_route_multiple_routes_attachment "TCPRouteMultipleRoutesAttachment";
    tcp_route_parent_ref_attach_all "TCPRouteParentRefAttachAll";
    tcp_route_parent_ref_port_and_section_name "TCPRouteParentRefPortAndSectionName";
    tcp_route_reference_grant "TCPRouteReferenceGrant";
    tcp_route_weighted_routing "TCPRouteWeightedRouting";
    tls_route_hostname_intersection "TLSRouteHostnameIntersection";
    tls_route_invalid_backend_ref_nonexistent "TLSRouteInvalidBackendRefNonexistent";
    tls_route_invalid_backend_ref_unknown_kind "TLSRouteInvalidBackendRefUnknownKind";
    tls_route_invalid_no_matching_listener "TLSRouteInvalidNoMatchingListener";
    tls_route_invalid_no_matching_listener_hostname "TLSRouteInvalidNoMatchingListenerHostname";
    tls_route_invalid_reference_grant "TLSRouteInvalidReferenceGrant";
    tls_route_listener_passthrough_supported_kinds "TLSRouteListenerPassthroughSupportedKinds";
    tls_route_listener_terminate_not_supported "TLSRouteListenerTerminateNotSupported";
    tls_route_simple_same_namespace "TLSRouteSimpleSameNamespace";
}

/// Every file is a case that runs, and the report names every case, and as one that holds.
#[test]
fn the_report_is_of_the_cases_that_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(root.join("tests/gateway")).unwrap();
    let mut files: Vec<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    files.sort();
    let mut cases: Vec<&str> = CASES.to_vec();
    cases.sort_unstable();
    assert_eq!(files, cases);
    let report = std::fs::read_to_string(root.join("docs/gateway-api.md")).unwrap();
    for case in cases {
        let says = |word: &str| report.contains(&format!("| `{case}` | {word} |"));
        assert!(says("holds") || says("in part"), "docs/gateway-api.md has to say that {case} holds");
    }
}
