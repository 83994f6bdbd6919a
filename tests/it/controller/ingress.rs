//! Ingresses become routes: hosts, paths, classes, what comes first, and what of it can't be served.

use serde_json::json;

use super::*;
use crate::support::kubernetes::Trouble;

#[tokio::test]
async fn an_ingress_is_served_as_it_comes_and_not_when_it_has_gone() {
    let api = cluster().await;
    let [_a, _b] = echoes(&api, ["a", "b"]).await;
    let gateway = start(&api).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "404");
    put(&api, ingress("web", &[("app.test", "/", "Prefix", "a")]));
    becomes(&gateway, "app.test", "/", "a").await;
    assert_eq!(who(&gateway, "other.test", "/").await, "404");
    put(&api, ingress("web", &[("app.test", "/", "Prefix", "b")]));
    becomes(&gateway, "app.test", "/", "b").await;
    api.delete(INGRESSES, "chat", "web");
    becomes(&gateway, "app.test", "/", "404").await;
}

#[tokio::test]
async fn the_controller_is_ready_when_all_is_listed_and_stays_so() {
    let mut api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    put(&api, ingress("web", &[("app.test", "/", "Prefix", "a")]));
    api.trouble(Trouble::Refuses(403));
    let gateway = start_with(&api, FILE, &[]).await;
    eventually("it says why it is not ready", async || {
        let answer = gateway.admin("/readyz").await;
        answer.status == 503 && answer.text().contains("controller: ingresses: the API server refuses (403)")
    })
    .await;
    api.trouble(Trouble::None);
    is_ready(&gateway).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a", "from the first moment on");
    api.die().await;
    for _ in 0..5 {
        assert_eq!(who(&gateway, "app.test", "/").await, "a");
        assert_eq!(gateway.admin("/readyz").await.status, 200);
    }
    put(&api, ingress("late", &[("late.test", "/", "Prefix", "a")]));
    api.compact(false);
    api.revive().await;
    becomes(&gateway, "late.test", "/", "a").await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
}

/// A path: its type, itself, and who serves it.
type Rule = (&'static str, &'static str, &'static str);

/// The table of examples in Kubernetes' own documentation of Ingress: the paths, what is asked for, and who has to answer.
const EXAMPLES: &[(&[Rule], &str, &str)] = &[
    (&[("Prefix", "/", "a")], "/any/path", "a"),
    (&[("Exact", "/foo", "a")], "/foo", "a"),
    (&[("Exact", "/foo", "a")], "/bar", "404"),
    (&[("Exact", "/foo", "a")], "/foo/", "404"),
    (&[("Exact", "/foo/", "a")], "/foo", "404"),
    (&[("Prefix", "/foo", "a")], "/foo", "a"),
    (&[("Prefix", "/foo", "a")], "/foo/", "a"),
    (&[("Prefix", "/foo/", "a")], "/foo", "a"),
    (&[("Prefix", "/foo/", "a")], "/foo/", "a"),
    (&[("Prefix", "/aaa/bb", "a")], "/aaa/bbb", "404"),
    (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbb", "a"),
    (&[("Prefix", "/aaa/bbb/", "a")], "/aaa/bbb", "a"),
    (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbb/", "a"),
    (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbb/ccc", "a"),
    (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbbxyz", "404"),
    (&[("Prefix", "/", "b"), ("Prefix", "/aaa", "a")], "/aaa/ccc", "a"),
    (&[("Prefix", "/", "b"), ("Prefix", "/aaa", "b"), ("Prefix", "/aaa/bbb", "a")], "/aaa/bbb", "a"),
    (&[("Prefix", "/", "a"), ("Prefix", "/aaa", "b"), ("Prefix", "/aaa/bbb", "b")], "/ccc", "a"),
    (&[("Prefix", "/aaa", "a")], "/ccc", "404"),
    (&[("Prefix", "/foo", "b"), ("Exact", "/foo", "a")], "/foo", "a"),
];

#[tokio::test]
async fn paths_match_as_the_documentation_of_kubernetes_has_it() {
    let api = cluster().await;
    let [_a, _b] = echoes(&api, ["a", "b"]).await;
    let host = |at: usize| format!("case-{at}.test");
    for (at, (paths, ..)) in EXAMPLES.iter().enumerate() {
        let host = host(at);
        let rules: Vec<_> = paths.iter().map(|(kind, path, server)| (host.as_str(), *path, *kind, *server)).collect();
        put(&api, ingress(&format!("case-{at}"), &rules));
    }
    let gateway = start(&api).await;
    for (at, (paths, asked, expected)) in EXAMPLES.iter().enumerate() {
        assert_eq!(who(&gateway, &host(at), asked).await, *expected, "{paths:?} {asked}");
    }
}

#[tokio::test]
async fn the_most_particular_host_decides_and_a_wildcard_is_one_label() {
    let api = cluster().await;
    let [_a, _b, _c] = echoes(&api, ["a", "b", "c"]).await;
    put(&api, ingress("exact", &[("bar.foo.test", "/x", "Prefix", "a")]));
    put(&api, ingress("wildcard", &[("*.foo.test", "/", "Prefix", "b")]));
    let mut rest = ingress("rest", &[]);
    rest["spec"]["defaultBackend"] = json!({ "service": { "name": "c", "port": { "name": "web" } } });
    put(&api, rest);
    let gateway = start(&api).await;
    for (host, path, expected) in [
        ("bar.foo.test", "/x/y", "a"),
        // Its rules are its own: those of many hosts are for others.
        ("bar.foo.test", "/y", "404"),
        ("baz.foo.test", "/y", "b"),
        ("BAZ.foo.test:8080", "/y", "b"),
        ("baz.bar.foo.test", "/y", "c"),
        ("foo.test", "/y", "c"),
    ] {
        assert_eq!(who(&gateway, host, path).await, expected, "{host}{path}");
    }
}

#[tokio::test]
async fn who_names_no_class_or_another_is_another_controllers() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    api.apply(CLASSES, "", class("nginx", "k8s.io/ingress-nginx"));
    api.apply(CLASSES, "", class("edge", "sockgate.io/ingress-controller"));
    let classed = |name: &str, class: Option<&str>, legacy: Option<&str>| {
        let mut one = ingress(name, &[(&format!("{name}.test"), "/", "Prefix", "a")]);
        one["spec"]["ingressClassName"] = json!(class);
        if let Some(legacy) = legacy {
            one = annotated(one, &[("kubernetes.io/ingress.class", legacy)]);
        }
        put(&api, one);
    };
    classed("second", Some("edge"), None);
    classed("legacy", None, Some("sockgate"));
    classed("nginx", Some("nginx"), None);
    classed("unknown", Some("nobody"), None);
    classed("other-legacy", None, Some("nginx"));
    classed("none", None, None);
    let gateway = start(&api).await;
    for (name, expected) in [
        ("second", "a"),
        ("legacy", "a"),
        ("nginx", "404"),
        ("unknown", "404"),
        ("other-legacy", "404"),
        ("none", "404"),
    ] {
        assert_eq!(who(&gateway, &format!("{name}.test"), "/").await, expected, "{name}");
    }
    let mut default = class("edge", "sockgate.io/ingress-controller");
    default["metadata"]["annotations"] = json!({ "ingressclass.kubernetes.io/is-default-class": "true" });
    api.apply(CLASSES, "", default);
    becomes(&gateway, "none.test", "/", "a").await;
    assert_eq!(who(&gateway, "nginx.test", "/").await, "404");
}

#[tokio::test]
async fn in_some_namespaces_only_classes_are_names_and_others_are_not_asked_for() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    put(&api, ingress("web", &[("app.test", "/", "Prefix", "a")]));
    serve(&api, "games", "a", 1);
    api.apply(INGRESSES, "games", ingress("web", &[("games.test", "/", "Prefix", "a")]));
    let gateway = start_with(&api, FILE, &["--watch-namespace", "chat", "--ingress-class", "sockgate"]).await;
    is_ready(&gateway).await;
    assert_eq!(who(&gateway, "app.test", "/").await, "a");
    assert_eq!(who(&gateway, "games.test", "/").await, "404");
    assert_eq!(api.asked("ingressclasses"), 0);
    assert_eq!(api.asked("/namespaces/games/"), 0);
}
