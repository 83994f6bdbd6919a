//! One watch of EndpointSlices is enough for all Services that Ingresses name.

use super::*;

/// 50 Ingresses of 10 Services, half of them of one server and half of another.
fn fifty(api: &FakeApi, namespace: &str, [a, b]: [&Echo; 2]) {
    for at in 0..10 {
        let (name, server) = (format!("s{at}"), if at % 2 == 0 { a } else { b });
        service(api, namespace, &name);
        stand(api, namespace, &name, "pod", server.address().port(), Pod::Ready);
    }
    for at in 0..50 {
        let (host, service) = (format!("n{at}.{namespace}.test"), format!("s{}", at % 10));
        api.apply(INGRESSES, namespace, ingress(&format!("n{at}"), &[(&host, "/", "Prefix", &service)]));
    }
}

async fn all_are_served(gateway: &Gateway, namespace: &str) {
    for at in 0..50 {
        let expected = if at % 2 == 0 { "a" } else { "b" };
        assert_eq!(who(gateway, &format!("n{at}.{namespace}.test"), "/").await, expected, "{at}");
    }
}

#[tokio::test]
async fn the_slices_of_all_services_are_listed_once_and_watched_once() {
    let mut api = cluster().await;
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    fifty(&api, "chat", [&a, &b]);
    let gateway = start(&api).await;
    all_are_served(&gateway, "chat").await;
    let asked = |api: &FakeApi| api.asked("/endpointslices?");
    assert_eq!((asked(&api), api.asked("v1/endpointslices?")), (2, 2), "a list, and a watch");

    // Another Ingress of a known Service, and one of a Service that nobody has asked for.
    put(&api, ingress("again", &[("again.test", "/", "Prefix", "s0")]));
    becomes(&gateway, "again.test", "/", "a").await;
    serve(&api, "other", "late", b.address().port());
    api.apply(INGRESSES, "other", ingress("late", &[("late.test", "/", "Prefix", "late")]));
    becomes(&gateway, "late.test", "/", "b").await;
    assert_eq!(asked(&api), 2);

    // A change of one Service's pods is news for its upstreams alone.
    let answers = async |upstream: &str| {
        gateway.metric(&format!("sockgate_discovery_answers_total{{upstream=\"chat/{upstream}:80\"}}")).await
    };
    let others = answers("n1/s1").await;
    stand(&api, "chat", "s0", "pod", b.address().port(), Pod::Ready);
    for host in ["n0.chat.test", "n10.chat.test", "again.test"] {
        becomes(&gateway, host, "/", "b").await;
    }
    assert_eq!(answers("n1/s1").await, others);

    // What was missed in an outage is listed once for all.
    api.die().await;
    stand(&api, "chat", "s0", "pod", a.address().port(), Pod::Ready);
    api.compact(false);
    let before = api.asked("endpointslices?&limit=");
    api.revive().await;
    becomes(&gateway, "n0.chat.test", "/", "a").await;
    all_are_served(&gateway, "chat").await;
    assert_eq!((before, api.asked("endpointslices?&limit=")), (1, 2));
}

#[tokio::test]
async fn in_some_namespaces_one_watch_of_each_is_enough() {
    let api = cluster().await;
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    for namespace in ["chat", "shop", "closed"] {
        fifty(&api, namespace, [&a, &b]);
    }
    let gateway = start_with(&api, FILE, &["--watch-namespace", "chat", "--watch-namespace", "shop"]).await;
    is_ready(&gateway).await;
    all_are_served(&gateway, "chat").await;
    all_are_served(&gateway, "shop").await;
    assert_eq!(who(&gateway, "n0.closed.test", "/").await, "404");
    for namespace in ["chat", "shop"] {
        assert_eq!(api.asked(&format!("v1/namespaces/{namespace}/endpointslices?")), 2, "{namespace}");
    }
    assert_eq!(api.asked("/endpointslices?"), 4);
}
