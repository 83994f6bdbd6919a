//! Gateways and their routes beside what conformance asks for: sessions and sockets while they change, whose words stay in a
//! status, and clusters that have the kinds later, or not at all.

use serde_json::json;

use super::*;
use crate::support::crowd::{By, Crowd};
use crate::support::kubernetes::{EVENTS, GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES, TCP_ROUTES};
use crate::support::node::Node;
use crate::support::within;

const PORTS: [&str; 2] = ["--gateway-port=80=web", "--gateway-port=5432=db"];
const WITH_DB: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0 }
  - { name: db, address: 127.0.0.1:0, protocol: tcp }
reload: { watch: false }
";

/// Brings the Gateway API, with the gateway's class and a Gateway for requests and connections.
fn bring(api: &FakeApi) {
    api.bring_gateways();
    let class =
        json!({ "metadata": { "name": "sockgate" }, "spec": { "controllerName": "sockgate.io/gateway-controller" } });
    api.apply(GATEWAY_CLASSES, "", class);
    api.apply(GATEWAYS, "chat", edge("edge"));
}

fn edge(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "gatewayClassName": "sockgate", "listeners": [
        { "name": "web", "port": 80, "protocol": "HTTP" },
        { "name": "db", "port": 5432, "protocol": "TCP" },
    ] } })
}

/// An HTTPRoute of a host to a Service.
fn route(name: &str, host: &str, path: &str, service: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "parentRefs": [{ "name": "edge" }], "hostnames": [host],
        "rules": [{ "matches": [{ "path": { "value": path } }], "backendRefs": [{ "name": service, "port": 80 }] }],
    } })
}

fn put_route(api: &FakeApi, route: Value) {
    api.apply(HTTP_ROUTES, "chat", route);
}

fn tcp_route(service: &str) -> Value {
    json!({ "metadata": { "name": "db" }, "spec": {
        "parentRefs": [{ "name": "edge", "sectionName": "db" }],
        "rules": [{ "backendRefs": [{ "name": service, "port": 80 }] }],
    } })
}

async fn begin(api: &FakeApi, more: &[&str]) -> Gateway {
    let gateway = start_with(api, WITH_DB, &[&PORTS, more].concat()).await;
    is_ready(&gateway).await;
    gateway
}

/// A condition of an object: its status and its reason.
fn condition(of: &Value, kind: &str) -> String {
    let all = of["conditions"].as_array().into_iter().flatten();
    let found = all.into_iter().find(|one| one["type"] == kind).cloned().unwrap_or_default();
    format!("{} {}", found["status"].as_str().unwrap_or("?"), found["reason"].as_str().unwrap_or("?"))
}

/// Fifty changes of routes beside them cost 80 sessions nothing, half of which poll, and a connection that is carried as it is
/// stays where it is when its port goes to another server.
#[tokio::test]
async fn no_session_is_lost_while_routes_change() {
    let api = cluster().await;
    bring(&api);
    let names = ["a", "b", "c"];
    let servers = futures::future::join_all(names.map(async |name| Node::server("v4", &["--id", name]).await)).await;
    service(&api, "chat", "app");
    for (name, server) in names.iter().zip(&servers) {
        stand(&api, "chat", "app", name, server.port(), Pod::Ready);
    }
    let [_echo, _other] = echoes(&api, ["echo", "other"]).await;
    let app = |first_byte: &str| {
        let mut app = route("app", "", "/socket.io", "app");
        app["spec"].as_object_mut().unwrap().remove("hostnames");
        app["metadata"]["annotations"] =
            json!({ "sockgate.io/kind": "socket.io", "sockgate.io/first-byte-timeout": first_byte });
        put_route(&api, app);
    };
    app("1m");
    api.apply(TCP_ROUTES, "chat", tcp_route("echo"));
    let gateway = begin(&api, &[]).await;
    eventually("all pods are up", async || {
        let mut up = 0.0;
        for name in names {
            let upstream = "chat/httproute.app/app:80";
            up += gateway
                .metric(&format!("sockgate_server_up{{upstream=\"{upstream}\",server=\"{name}.{name}uid\"}}"))
                .await;
        }
        up == 3.0
    })
    .await;
    let mut crowd = Crowd::come(gateway.address("web"), &[(By::Polling, 40), (By::WebSocket, 40)]).await;
    let mut connection = Client::connect(gateway.address("db")).await;
    assert_eq!(connection.get("/").await.header("x-server"), Some("echo"));
    for change in 0..50 {
        let host = format!("n{}.test", change / 2);
        match change % 5 {
            0 => app(&format!("{}s", 60 + change)),
            1 => api.apply(TCP_ROUTES, "chat", tcp_route(if change % 2 == 0 { "echo" } else { "other" })),
            _ => put_route(&api, route(&format!("n{}", change / 2), &host, "/", "echo")),
        }
        if change % 10 == 9 {
            becomes(&gateway, &host, "/", "echo").await;
        }
    }
    crowd.settle().await;
    crowd.is_well();
    assert_eq!(crowd.moves(), 0);
    api.apply(TCP_ROUTES, "chat", tcp_route("other"));
    eventually("others go elsewhere", async || {
        let mut client = Client::connect(gateway.address("db")).await;
        let answer = client.try_ask("GET / HTTP/1.1\r\nHost: db\r\n\r\n").await;
        answer.is_some_and(|answer| answer.header("x-server") == Some("other"))
    })
    .await;
    assert_eq!(connection.get("/").await.header("x-server"), Some("echo"), "it stays where it is");
}

#[tokio::test]
async fn a_cluster_may_have_the_gateway_api_later() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    put(&api, ingress("web", &[("app.test", "/", "Prefix", "a")]));
    let gateway = begin(&api, &[]).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
    bring(&api);
    put_route(&api, route("late", "late.test", "/", "a"));
    // It is asked for again after half a second, and later and later.
    becomes(&gateway, "late.test", "/", "a").await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
    // What is known of it stays when the API server says that it knows nothing of the kind.
    let known = who(&gateway, "late.test", "/").await;
    api.break_watches();
    assert_eq!(known, who(&gateway, "late.test", "/").await);
}

#[tokio::test]
async fn ingresses_alone_are_served_where_that_is_said() {
    let api = cluster().await;
    bring(&api);
    let [_a] = echoes(&api, ["a"]).await;
    put(&api, ingress("web", &[("app.test", "/", "Prefix", "a")]));
    put_route(&api, route("web", "route.test", "/", "a"));
    let gateway = begin(&api, &["--no-gateway-api"]).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
    assert_eq!(who(&gateway, "route.test", "/").await, "404");
    assert_eq!((api.asked("gateway.networking"), api.asked("/namespaces?")), (0, 0));
}

#[tokio::test]
async fn in_some_namespaces_only_the_class_is_a_name() {
    let api = cluster().await;
    bring(&api);
    let [_a] = echoes(&api, ["a"]).await;
    put_route(&api, route("web", "app.test", "/", "a"));
    serve(&api, "games", "a", 1);
    api.apply(HTTP_ROUTES, "games", route("web", "games.test", "/", "a"));
    let gateway = begin(&api, &["--watch-namespace", "chat"]).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
    assert_eq!(who(&gateway, "games.test", "/").await, "404");
    assert_eq!((api.asked("gatewayclasses"), api.asked("/namespaces/games/")), (0, 0));
}

#[tokio::test]
async fn one_gateway_of_several_may_be_served_alone() {
    let api = cluster().await;
    bring(&api);
    api.apply(GATEWAYS, "chat", edge("other"));
    let [_a, _b] = echoes(&api, ["a", "b"]).await;
    put_route(&api, route("web", "app.test", "/", "a"));
    let mut other = route("other", "app.test", "/", "b");
    other["spec"]["parentRefs"] = json!([{ "name": "other" }]);
    put_route(&api, other);
    let gateway = begin(&api, &["--gateway", "chat/other"]).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "b");
    eventually("it is said", async || {
        let route = api.get(HTTP_ROUTES, "chat", "other").unwrap();
        condition(&route["status"]["parents"][0], "Accepted") == "True Accepted"
    })
    .await;
    assert!(
        api.get(GATEWAYS, "chat", "edge").unwrap()["status"].is_null(),
        "another's Gateway is another's to speak of"
    );
    assert!(api.get(HTTP_ROUTES, "chat", "web").unwrap()["status"].is_null());
}

#[tokio::test]
async fn what_others_say_of_a_route_stays_and_what_was_ours_goes() {
    let api = cluster().await;
    bring(&api);
    let [_a] = echoes(&api, ["a"]).await;
    let theirs = json!({
        "parentRef": { "name": "theirs", "group": "gateway.networking.k8s.io", "kind": "Gateway" },
        "controllerName": "example.com/other",
        "conditions": [{ "type": "Accepted", "status": "True", "reason": "Accepted" }],
    });
    let mut web = route("web", "app.test", "/", "a");
    web["spec"]["parentRefs"] = json!([{ "name": "theirs" }, { "name": "edge" }]);
    web["status"] = json!({ "parents": [theirs] });
    put_route(&api, web);
    let gateway = begin(&api, &[]).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
    let parents = || api.get(HTTP_ROUTES, "chat", "web").unwrap()["status"]["parents"].clone();
    eventually("both speak of it", async || {
        let parents = parents();
        parents[0] == theirs && condition(&parents[1], "Accepted") == "True Accepted"
    })
    .await;
    let mut web = route("web", "app.test", "/", "a");
    web["spec"]["parentRefs"] = json!([{ "name": "theirs" }]);
    put_route(&api, web);
    becomes(&gateway, "app.test", "/", "404").await;
    eventually("only they speak of it", async || parents() == json!([theirs])).await;
}

/// What is wrong is in a condition, in an Event and at `/status`, by the same words.
#[tokio::test]
async fn what_is_wrong_with_a_route_is_told_in_three_places() {
    let api = cluster().await;
    bring(&api);
    put_route(&api, route("lost", "lost.test", "/", "nobody"));
    let gateway = begin(&api, &[]).await;
    let words = "the Service chat/nobody is not there";
    eventually("a condition says it", async || {
        let parent = api.get(HTTP_ROUTES, "chat", "lost").unwrap()["status"]["parents"][0].clone();
        condition(&parent, "ResolvedRefs") == "False BackendNotFound" && parent.to_string().contains(words)
    })
    .await;
    eventually("an Event says it", async || {
        let all = api.all(EVENTS);
        let of_it =
            |event: &&Value| event["involvedObject"]["kind"] == "HTTPRoute" && event["reason"] == "BackendNotFound";
        all.iter().filter(of_it).any(|event| event["message"].as_str().unwrap().contains(words))
    })
    .await;
    let status = gateway.admin("/status").await.text();
    assert!(status.contains("HTTPRoute chat/lost") && status.contains(words), "{status}");
}

/// What can't be loaded is not said to be served.
#[tokio::test]
async fn while_the_file_has_a_fault_nothing_is_programmed() {
    let api = cluster().await;
    bring(&api);
    let [_a, _b] = echoes(&api, ["a", "b"]).await;
    put_route(&api, route("web", "app.test", "/", "a"));
    let gateway = begin(&api, &[]).await;
    let programmed = || condition(&api.get(GATEWAYS, "chat", "edge").unwrap()["status"], "Programmed");
    eventually("it is programmed", async || programmed() == "True Programmed").await;
    gateway.rewrite("listeners: none of these\n");
    put_route(&api, route("web", "app.test", "/", "b"));
    eventually("it waits", async || programmed() == "False Pending").await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
    gateway.rewrite(WITH_DB);
    put_route(&api, route("again", "again.test", "/", "b"));
    eventually("it is programmed", async || programmed() == "True Programmed").await;
    becomes(&gateway, "app.test", "/", "b").await;
}

/// A client that comes with the cookie of a rule's persistence finds its backend, and its pod, whatever the weights are.
#[tokio::test]
async fn a_client_with_a_cookie_stays_with_its_backend() {
    let api = cluster().await;
    bring(&api);
    let [_a, _b] = echoes(&api, ["a", "b"]).await;
    let mut web = route("web", "app.test", "/", "a");
    web["spec"]["rules"] = json!([{
        "sessionPersistence": { "sessionName": "sid" },
        "backendRefs": [{ "name": "a", "port": 80 }, { "name": "b", "port": 80 }],
    }]);
    put_route(&api, web);
    let gateway = begin(&api, &[]).await;
    let mut homes = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let ask = async |cookies: &str| {
            let mut client = Client::connect(gateway.address("web")).await;
            client.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{cookies}\r\n")).await;
            within("an answer", client.answer()).await
        };
        let first = ask("").await;
        let cookies: Vec<&str> = first
            .headers
            .iter()
            .filter(|(name, _)| name == "set-cookie")
            .filter_map(|(_, cookie)| cookie.split(';').next())
            .collect();
        assert!(cookies.iter().any(|cookie| cookie.starts_with("sid=")), "{cookies:?}");
        let home = first.header("x-server").unwrap().to_owned();
        for _ in 0..5 {
            let again = ask(&format!("Cookie: {}\r\n", cookies.join("; "))).await;
            assert_eq!(again.header("x-server"), Some(home.as_str()));
        }
        homes.insert(home);
    }
    assert_eq!(homes.len(), 2, "those without a cookie go by chance");
}
