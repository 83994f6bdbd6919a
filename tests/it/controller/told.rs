//! What the cluster is told: Events for what can't be served, addresses in the status of Ingresses, and by one gateway of several.

use serde_json::{Value, json};

use super::*;
use crate::support::kubernetes::{EVENTS, LEASES};

const PUBLISHED: [&str; 2] = ["--publish-address", "192.0.2.10"];

/// What Events say of an object: the reason and the words.
fn said(api: &FakeApi, name: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = api.all(EVENTS).into_iter().filter(|event| event["involvedObject"]["name"] == name);
    events.map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
}

async fn says(api: &FakeApi, name: &str, reason: &str, words: &str) {
    eventually(&format!("{name}: {reason}: {words}"), async || {
        said(api, name).iter().any(|(of, what)| of == reason && what.contains(words))
    })
    .await;
}

fn address_of(api: &FakeApi, name: &str) -> Value {
    api.get(INGRESSES, "chat", name).unwrap()["status"]["loadBalancer"]["ingress"].clone()
}

#[tokio::test]
async fn one_that_can_not_be_served_is_told_why_and_stops_no_other() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    let good = |name: &str| ingress(name, &[(&format!("{name}.test"), "/", "Prefix", "a")]);
    put(&api, good("good"));
    put(&api, annotated(good("kind"), &[("sockgate.io/kind", "socketio")]));
    put(&api, annotated(good("range"), &[("nginx.ingress.kubernetes.io/whitelist-source-range", "10.0.0.0/64")]));
    put(&api, annotated(good("auth"), &[("nginx.ingress.kubernetes.io/auth-type", "basic")]));
    put(&api, annotated(good("snippet"), &[("nginx.ingress.kubernetes.io/server-snippet", "return 418;")]));
    put(&api, annotated(good("typo"), &[("sockgate.io/balanec", "round_robin")]));
    put(&api, ingress("two", &[("two.test", "/gone", "Prefix", "nobody"), ("two.test", "/a", "Prefix", "a")]));
    put(&api, ingress("forgot", &[("forgot.test", "/socket.io", "Prefix", "a")]));
    put(&api, ingress("path", &[("path.test", "/a*", "Prefix", "a")]));
    let mut resource = good("resource");
    let backend = &mut resource["spec"]["rules"][0]["http"]["paths"][0]["backend"];
    *backend = json!({ "resource": { "apiGroup": "k8s.example.com", "kind": "Bucket", "name": "static" } });
    put(&api, resource);
    let mut port = good("port");
    port["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] = json!({ "name": "nope" });
    put(&api, port);
    let gateway = start(&api).await;
    for (host, path, expected) in [
        ("good.test", "/", "a"),
        ("kind.test", "/", "404"),
        ("range.test", "/", "404"),
        ("auth.test", "/", "404"),
        ("snippet.test", "/", "a"),
        ("typo.test", "/", "a"),
        ("two.test", "/gone", "503"),
        ("two.test", "/a", "a"),
        ("forgot.test", "/socket.io", "a"),
        ("path.test", "/a", "404"),
        ("resource.test", "/", "503"),
        ("port.test", "/", "503"),
    ] {
        assert_eq!(who(&gateway, host, path).await, expected, "{host}{path}");
    }
    for (name, reason, words) in [
        ("kind", "Rejected", "found `socketio`, expected `http`, `socket.io`"),
        ("range", "Rejected", "10.0.0.0/64"),
        ("auth", "Rejected", "`nginx.ingress.kubernetes.io/auth-type` is refused, and without it nobody is served"),
        ("snippet", "AnnotationRefused", "server-snippet` is refused and has no effect: never"),
        ("typo", "AnnotationUnknown", "`sockgate.io/balanec` is not known here"),
        ("two", "BackendUnusable", "the Service chat/nobody is not there"),
        ("forgot", "Doubtful", "sessions are usually opened at /socket.io"),
        ("path", "Rejected", "without wildcards"),
        ("resource", "BackendUnusable", "a backend of the kind Bucket is refused"),
        ("port", "BackendUnusable", "the Service chat/a has no port `nope`"),
    ] {
        says(&api, name, reason, words).await;
    }
    assert_eq!(said(&api, "good"), []);
    let status = gateway.admin("/status").await.text();
    assert!(status.contains("Ingress chat/kind"), "{status}");

    // It is mended, and the Service comes.
    put(&api, good("kind"));
    becomes(&gateway, "kind.test", "/", "a").await;
    let other = Echo::start("other").await;
    serve(&api, "chat", "nobody", other.address().port());
    becomes(&gateway, "two.test", "/gone", "other").await;
}

#[tokio::test]
async fn of_two_that_claim_the_same_path_the_older_has_it() {
    let api = cluster().await;
    let [_a, _b] = echoes(&api, ["a", "b"]).await;
    let born = |name: &str, day: u8, server: &str| {
        let mut one =
            ingress(name, &[("app.test", "/x", "Prefix", server), ("app.test", &format!("/{name}"), "Exact", server)]);
        one["metadata"]["creationTimestamp"] = json!(format!("2026-01-0{day}T00:00:00Z"));
        put(&api, one);
    };
    born("a-younger", 2, "b");
    born("older", 1, "a");
    let gateway = start(&api).await;
    assert_eq!(who(&gateway, "app.test", "/x").await, "a");
    assert_eq!(who(&gateway, "app.test", "/a-younger").await, "b", "what nobody else claims is its own");
    says(&api, "a-younger", "PathTaken", "app.test/x belongs to an older Ingress").await;
    assert_eq!(said(&api, "older"), []);
    api.delete(INGRESSES, "chat", "older");
    becomes(&gateway, "app.test", "/x", "b").await;
}

#[tokio::test]
async fn one_gateway_of_two_writes_and_the_other_takes_over() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    put(&api, ingress("one", &[("one.test", "/", "Prefix", "a")]));
    let named = |name: &'static str| ["--identity", name].into_iter().chain(PUBLISHED).collect::<Vec<_>>();
    let first = start_with(&api, FILE, &named("first")).await;
    is_ready(&first).await;
    let expected = json!([{ "ip": "192.0.2.10" }]);
    eventually("the first one writes", async || address_of(&api, "one") == expected).await;
    let holder = || api.all(LEASES)[0]["spec"]["holderIdentity"].clone();
    assert_eq!(holder(), "first");
    let mut second = start_with(&api, FILE, &named("second")).await;
    is_ready(&second).await;
    put(&api, ingress("two", &[("two.test", "/", "Prefix", "a")]));
    eventually("two has its address", async || address_of(&api, "two") == expected).await;
    becomes(&second, "two.test", "/", "a").await;
    assert_eq!(holder(), "first");
    assert_eq!(second.log_lines("this gateway writes").len(), 0);

    // It gives the Lease back as it goes, so that nobody waits for its end.
    let mut first = first;
    first.signal(nix::sys::signal::Signal::SIGTERM);
    first.ended().await;
    eventually("the other one writes", async || holder() == "second").await;
    put(&api, ingress("three", &[("three.test", "/", "Prefix", "a")]));
    eventually("three has its address", async || address_of(&api, "three") == expected).await;
    second.signal(nix::sys::signal::Signal::SIGTERM);
    second.ended().await;
    assert_eq!(holder(), "");
}

/// Who is killed gives nothing back: another one writes when the Lease has not been renewed for as long as it says.
#[tokio::test]
async fn one_that_is_killed_is_followed_by_another_when_its_time_is_over() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    let named = |name: &'static str| ["--identity", name].into_iter().chain(PUBLISHED).collect::<Vec<_>>();
    let mut first = start_with(&api, FILE, &named("first")).await;
    is_ready(&first).await;
    let lease = || api.all(LEASES)[0].clone();
    eventually("the first one writes", async || {
        !api.all(LEASES).is_empty() && lease()["spec"]["holderIdentity"] == "first"
    })
    .await;
    let second = start_with(&api, FILE, &named("second")).await;
    is_ready(&second).await;
    first.die().await;
    // Fifteen seconds are long for a test: the Lease that it has left says one.
    let mut left = lease();
    assert_eq!((&left["spec"]["holderIdentity"], &left["spec"]["leaseDurationSeconds"]), (&json!("first"), &json!(15)));
    left["spec"]["leaseDurationSeconds"] = json!(1);
    api.apply(LEASES, "chat", left);
    put(&api, ingress("late", &[("late.test", "/", "Prefix", "a")]));
    becomes(&second, "late.test", "/", "a").await;
    assert_eq!(address_of(&api, "late"), Value::Null, "it serves, and writes nothing yet");
    eventually("the other one writes", async || address_of(&api, "late") == json!([{ "ip": "192.0.2.10" }])).await;
    let spec = lease()["spec"].clone();
    assert_eq!((&spec["holderIdentity"], &spec["leaseTransitions"]), (&json!("second"), &json!(2)));
}

#[tokio::test]
async fn addresses_are_those_of_the_published_service() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    put(&api, ingress("one", &[("one.test", "/", "Prefix", "a")]));
    api.apply(SERVICES, "edge", json!({ "metadata": { "name": "sockgate" }, "spec": { "ports": [{ "port": 80 }] } }));
    let gateway = start_with(&api, FILE, &["--publish-service", "edge/sockgate"]).await;
    is_ready(&gateway).await;
    let published = |addresses: Value| {
        let status = json!({ "loadBalancer": { "ingress": addresses } });
        let spec = json!({ "ports": [{ "port": 80 }] });
        api.apply(SERVICES, "edge", json!({ "metadata": { "name": "sockgate" }, "spec": spec, "status": status }));
    };
    for addresses in [json!([{ "hostname": "lb.test" }]), json!([{ "ip": "192.0.2.7" }, { "ip": "2001:db8::7" }])] {
        published(addresses.clone());
        eventually("the Ingress has them", async || address_of(&api, "one") == addresses).await;
    }
}
