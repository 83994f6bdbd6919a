//! Sockets, sessions and certificates while Ingresses and Secrets change around them.

use rustls_pki_types::CertificateDer;
use serde_json::json;

use super::*;
use crate::support::crowd::{By, Crowd};
use crate::support::kubernetes::{EVENTS, SECRETS};
use crate::support::node::Node;
use crate::support::tls::{Authority, shown};
use crate::support::websocket::upgrade;
use crate::support::within;

/// With a listener for TLS, whose certificates are the cluster's.
const WITH_TLS: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0 }
  - { name: tls, address: 127.0.0.1:0, tls: { certificates: [] } }
reload: { watch: false }
";

/// Fifty changes of Ingresses beside them cost 80 sessions nothing: half of them poll.
#[tokio::test]
async fn no_session_is_lost_while_ingresses_change() {
    let api = cluster().await;
    let names = ["a", "b", "c"];
    let servers = futures::future::join_all(names.map(async |name| Node::server("v4", &["--id", name]).await)).await;
    service(&api, "chat", "app");
    for (name, server) in names.iter().zip(&servers) {
        stand(&api, "chat", "app", name, server.port(), Pod::Ready);
    }
    let [_echo] = echoes(&api, ["echo"]).await;
    let app = |annotations: &[(&str, &str)]| {
        let rules = [("", "/socket.io", "Prefix", "app")];
        let all = [&[("sockgate.io/kind", "socket.io")], annotations].concat();
        put(&api, annotated(ingress("app", &rules), &all));
    };
    app(&[]);
    let gateway = start(&api).await;
    eventually("all pods are up", async || {
        let mut up = 0.0;
        for name in names {
            let metric = format!("sockgate_server_up{{upstream=\"chat/app/app:80\",server=\"{name}.{name}uid\"}}");
            up += gateway.metric(&metric).await;
        }
        up == 3.0
    })
    .await;
    let mut crowd = Crowd::come(gateway.address("web"), &[(By::Polling, 40), (By::WebSocket, 40)]).await;
    for change in 0..50 {
        let host = format!("n{}.test", change / 2);
        match change % 5 {
            0 => app(&[("nginx.ingress.kubernetes.io/proxy-read-timeout", &(600 + change).to_string())]),
            1 => app(&[]),
            _ => put(&api, ingress(&format!("n{}", change / 2), &[(&host, "/", "Prefix", "echo")])),
        }
        if change % 10 == 9 {
            becomes(&gateway, &host, "/", "echo").await;
        }
    }
    crowd.settle().await;
    crowd.is_well();
    assert_eq!(crowd.moves(), 0);
    assert!(gateway.log_lines("objects of the cluster have changed").len() >= 5);
}

#[tokio::test]
async fn a_secret_is_a_certificate_and_another_one_later_and_sockets_stay() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    let authority = Authority::new();
    let (first, second) = (authority.sign(&["app.test"]), authority.sign(&["app.test"]));
    let leaf = |issued: &Issued| {
        use rustls_pki_types::pem::PemObject;
        CertificateDer::from_pem_slice(&std::fs::read(&issued.cert).unwrap()).unwrap()
    };
    let with_tls = |name: &str, host: &str, secret: &str| {
        let mut one = ingress(name, &[(host, "/", "Prefix", "a")]);
        one["spec"]["tls"] = json!([{ "hosts": [host], "secretName": secret }]);
        put(&api, one);
    };
    api.apply(SECRETS, "chat", secret("app", &first));
    with_tls("app", "app.test", "app");
    with_tls("missing", "missing.test", "nothing");
    put(&api, ingress("plain", &[("plain.test", "/", "Prefix", "a")]));
    let gateway = start_with(&api, WITH_TLS, &[]).await;
    is_ready(&gateway).await;
    let client = authority.client(&["http/1.1"]);
    let address = gateway.address("tls");
    let now = async || client.anew().connect(address, "app.test").await.map(|stream| shown(&stream));
    assert_eq!(now().await.unwrap(), leaf(&first));
    let mut socket = client.open(address, "app.test").await;
    socket.send(upgrade("/").replace("localhost", "app.test")).await;
    // Nobody has a certificate for others, and plain HTTP is led to where there is one.
    assert!(client.connect(address, "missing.test").await.is_err());
    assert_eq!(who(&gateway, "app.test", "/").await, "308");
    assert_eq!(who(&gateway, "missing.test", "/").await, "308");
    assert_eq!(who(&gateway, "plain.test", "/").await, "a");
    let told = |reason: &str, words: &str| {
        let says = |event: &Value| event["reason"] == reason && event["message"].as_str().unwrap().contains(words);
        api.all(EVENTS).iter().any(says)
    };
    eventually("it is said", async || told("SecretUnusable", "the Secret chat/nothing is not there")).await;

    api.apply(SECRETS, "chat", secret("app", &second));
    eventually("the new one is shown", async || now().await.is_ok_and(|shown| shown == leaf(&second))).await;
    // A broken one is said, and costs the others nothing.
    let other = authority.sign(&["other.test"]);
    api.apply(SECRETS, "chat", secret("other", &other));
    with_tls("other", "other.test", "other");
    let mut broken = secret("app", &second);
    broken["data"]["tls.key"] = json!("bm90aGluZw==");
    api.apply(SECRETS, "chat", broken);
    eventually("it is said", async || told("SecretUnusable", "the Secret chat/app can't be used")).await;
    eventually("another is shown", async || client.connect(address, "other.test").await.is_ok()).await;
    let answer = socket.answer().await;
    assert!(answer.status == 101, "{}", answer.status);
    socket.send("ping").await;
    assert_eq!(within("the socket", socket.read(4)).await, b"ping");
}

#[tokio::test]
async fn annotations_of_ingress_nginx_do_what_they_say() {
    let api = cluster().await;
    let [_a] = echoes(&api, ["a"]).await;
    let b = Echo::start("b").await;
    stand(&api, "chat", "a", "second", b.address().port(), Pod::Ready);
    let nginx = |name: &str, path: &str, kind: &str, annotations: &[(&str, &str)]| {
        let named: Vec<(String, &str)> =
            annotations.iter().map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), *value)).collect();
        let named: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        put(&api, annotated(ingress(name, &[(&format!("{name}.test"), path, kind, "a")]), &named));
    };
    nginx(
        "sticky",
        "/",
        "Prefix",
        &[("affinity", "cookie"), ("session-cookie-name", "route"), ("session-cookie-max-age", "60")],
    );
    nginx("closed", "/", "Prefix", &[("whitelist-source-range", "10.0.0.0/8,192.0.2.1")]);
    nginx("moved", "/", "Prefix", &[("permanent-redirect", "https://www.test/new")]);
    nginx("root", "/", "Prefix", &[("app-root", "/app")]);
    nginx("secure", "/", "Prefix", &[("force-ssl-redirect", "true")]);
    nginx("small", "/", "Prefix", &[("proxy-body-size", "1k")]);
    nginx("pages", "/", "Prefix", &[("enable-cors", "true"), ("cors-allow-origin", "https://page.test")]);
    nginx("inner", "/api(/|$)(.*)", "ImplementationSpecific", &[("use-regex", "true"), ("rewrite-target", "/v1/$2")]);
    let gateway = start(&api).await;
    let ask = async |host: &str, request: &str, fields: &str| {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(format!("{request} HTTP/1.1\r\nHost: {host}.test\r\n{fields}\r\n")).await;
        client.answer().await
    };
    let first = ask("sticky", "GET /", "").await;
    let cookie = first.header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("route=") && cookie.contains("Max-Age=60"), "{cookie}");
    let value = cookie.split(';').next().unwrap();
    for _ in 0..6 {
        let again = ask("sticky", "GET /", &format!("Cookie: {value}\r\n")).await;
        assert_eq!(again.header("x-server"), first.header("x-server"));
    }
    assert_eq!(ask("closed", "GET /", "").await.status, 403);
    let moved = ask("moved", "GET /old", "").await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("https://www.test/new")));
    let root = ask("root", "GET /", "").await;
    assert_eq!(root.status, 302);
    assert!(root.header("location").unwrap().ends_with("/app"));
    assert_eq!(ask("root", "GET /app", "").await.status, 200);
    let secure = ask("secure", "GET /x?y", "").await;
    assert_eq!((secure.status, secure.header("location")), (308, Some("https://secure.test/x?y")));
    assert_eq!(ask("small", "POST /", "Content-Length: 2000\r\n").await.status, 413);
    let pages = ask("pages", "GET /", "Origin: https://page.test\r\n").await;
    assert_eq!(pages.header("access-control-allow-origin"), Some("https://page.test"));
    let inner = ask("inner", "GET /api/users", "").await;
    assert!(inner.text().contains("GET /v1/users "), "{}", inner.text());
    assert_eq!(ask("inner", "GET /other", "").await.status, 404);
}
