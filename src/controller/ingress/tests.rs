//! Whatever objects there are: a configuration that can be built, and a word about each that has no place in it.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;
use crate::config::Config;
use crate::controller::CONTROLLER;
use crate::controller::annotations::{How, NGINX, NGINX_NAMES, OWN, OWN_NAMES};
use crate::metrics::Metrics;
use crate::snapshot::{Extensions, Snapshot};

const FILE: &str = "listeners: [{ name: web, address: ':1' }, { address: ':2', tls: { certificates: [] } }]\n";

fn terms() -> Terms {
    Terms { class: "sockgate".to_owned(), kubeconfig: Some(PathBuf::from("/kube/config")), ..Terms::default() }
}

fn world(ingresses: Vec<Value>) -> World {
    let object = |value: Value| serde_json::from_value(value).unwrap();
    let class = json!({ "metadata": { "name": "sockgate" }, "spec": { "controller": CONTROLLER } });
    let service = |name: &str, ports: Value| {
        let service = json!({ "metadata": { "name": name, "namespace": "chat" }, "spec": { "ports": ports } });
        (Named::new("chat", name), Arc::new(serde_json::from_value(service).unwrap()))
    };
    let two = json!([{ "name": "web", "port": 80 }, { "name": "voice", "port": 90, "protocol": "UDP" }]);
    World {
        ingresses: ingresses.into_iter().map(|ingress| Arc::new(object(ingress))).collect(),
        classes: Some(vec![Arc::new(serde_json::from_value(class).unwrap())]),
        services: [service("app", two), service("alone", json!([{ "port": 8080 }]))].into_iter().collect(),
        ..World::default()
    }
}

fn ingress(name: &str, annotations: Value, rules: Value) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "chat", "uid": format!("{name}-uid"), "annotations": annotations },
        "spec": { "ingressClassName": "sockgate", "rules": rules },
    })
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths
        .iter()
        .map(|(path, kind, service)| {
            let port = if *service == "alone" { 8080 } else { 80 };
            let backend = json!({ "service": { "name": service, "port": { "number": port } } });
            json!({ "path": path, "pathType": kind, "backend": backend })
        })
        .collect();
    json!({ "host": host, "http": { "paths": paths } })
}

/// The configuration, and what there is to say: the objects by name with the reasons.
fn read(ingresses: Vec<Value>) -> (Config, Vec<(String, &'static str)>) {
    let world = world(ingresses);
    let draft = draft(&world, &terms(), Draft::default());
    let mut told: Vec<_> = draft.notes.iter().map(|note| (note.object.name.clone(), note.reason)).collect();
    let drawn = draft.draw();
    let (loaded, found) = Config::read_with("test.yaml", FILE, None, &|_| None, &drawn.parts).unwrap();
    told.extend(found.left_out.keys().filter_map(|&place| Some((drawn.origins.get(place)?.name.clone(), "Rejected"))));
    (loaded.config, told)
}

fn hosts_and_paths(config: &Config) -> Vec<String> {
    let text = |route: &crate::router::config::Config| {
        let all = route.matches.host.0.iter().chain(&route.matches.path.0).chain(&route.matches.path_exact.0);
        all.map(String::as_str).collect::<String>()
    };
    config.routes.iter().map(text).collect()
}

#[test]
fn routes_come_in_the_order_in_which_they_decide() {
    let (config, told) = read(vec![
        ingress("all", json!({}), json!([rule("", &[("/", "Prefix", "app")])])),
        ingress("below", json!({}), json!([rule("*.a.test", &[("/x", "Prefix", "app")])])),
        ingress(
            "exact",
            json!({}),
            json!([rule("b.a.test", &[("/x", "Prefix", "app"), ("/x/y/", "Prefix", "app"), ("/x", "Exact", "alone")])]),
        ),
    ]);
    assert_eq!(told, []);
    assert_eq!(
        hosts_and_paths(&config),
        ["b.a.test/x", "b.a.test/x/y", "b.a.test/x", "b.a.test", "*.a.test/x", "*.a.test", ""]
    );
    let servers = |name: &str| config.upstreams[name].servers.to_string();
    assert_eq!(servers("chat/exact/app:80"), "kubernetes chat/app:web");
    assert_eq!(servers("chat/exact/alone:8080"), "kubernetes chat/alone");
}

#[test]
fn a_rewrite_is_of_the_whole_path_as_nginx_has_it() {
    for (path, to, asked, expected) in [
        ("/something(/|$)(.*)", "/$2", "/something/new", "/new"),
        ("/something(/|$)(.*)", "/$2", "/something", "/"),
        ("/app", "/", "/app/x", "/"),
        ("/a/(.*)", "/b/$1_c", "/a/x", "/b/x_c"),
    ] {
        let said = rewrite(path, to);
        let find = regex::Regex::new(said["regex"].as_str().unwrap()).unwrap();
        assert_eq!(find.replace(asked, said["to"].as_str().unwrap()), expected, "{path} {to} {asked}");
    }
}

/// Every annotation that is taken goes into a configuration that is right, with a value that its own documentation has.
#[test]
fn usual_values_of_annotations_are_taken() {
    let values = [
        ("affinity", "cookie"),
        ("affinity-mode", "persistent"),
        ("session-cookie-name", "route"),
        ("session-cookie-path", "/app"),
        ("session-cookie-samesite", "None"),
        ("session-cookie-secure", "true"),
        ("session-cookie-max-age", "172800"),
        ("proxy-connect-timeout", "10"),
        ("proxy-read-timeout", "3600"),
        ("proxy-send-timeout", "3600"),
        ("proxy-next-upstream-tries", "3"),
        ("proxy-body-size", "8m"),
        ("ssl-redirect", "false"),
        ("x-forwarded-prefix", "/path"),
        ("upstream-vhost", "inner.test"),
        ("whitelist-source-range", "10.0.0.0/24,172.10.0.1"),
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://origin-site.com:4443, http://origin-site.com, https://*.example.org:1199"),
        ("cors-allow-methods", "PUT, GET, POST, OPTIONS"),
        ("cors-allow-headers", "X-Forwarded-For, X-app123-XPTO"),
        ("cors-expose-headers", "X-Other"),
        ("cors-max-age", "600"),
        ("limit-rps", "10"),
        ("limit-rpm", "300"),
        ("auth-url", "http://auth.test/verify"),
        ("auth-response-headers", "X-User, X-Mail"),
        ("load-balance", "ewma"),
    ];
    for alone in [
        &values[..],
        &[("upstream-hash-by", "$http_x_room")],
        &[("backend-protocol", "HTTPS")],
        &[("backend-protocol", "GRPC")],
        &[("rewrite-target", "/"), ("use-regex", "true")],
    ] {
        let all: Map<String, Value> =
            alone.iter().map(|(name, value)| (format!("{NGINX}{name}"), (*value).into())).collect();
        let (config, told) =
            read(vec![ingress("a", all.into(), json!([rule("a.test", &[("/", "ImplementationSpecific", "app")])]))]);
        assert_eq!(told, [], "{alone:?}");
        assert_eq!(config.upstreams.len(), 1);
    }
    let own = [
        ("kind", "socket.io"),
        ("balance", "least_connections"),
        ("grace", "5s"),
        ("returning", "1m"),
        ("drain-rate", "10"),
        ("drain-deadline", "2m"),
        ("drain-goodbye", "true"),
        ("slow-start", "10s"),
        ("check", "none"),
        ("connect-timeout", "1s"),
        ("first-byte-timeout", "10m"),
        ("tunnel-idle-timeout", "1h"),
        ("origins", "same, https://app.test"),
        ("host", "inner.test"),
    ];
    let all: Map<String, Value> = own.iter().map(|(name, value)| (format!("{OWN}{name}"), (*value).into())).collect();
    let (config, told) = read(vec![ingress("a", all.into(), json!([rule("a.test", &[("/", "Prefix", "app")])]))]);
    assert_eq!((told, config.upstreams.len()), (Vec::new(), 1));
}

/// What a large cluster has is read within a moment, a bad one among it or not.
#[test]
fn a_thousand_ingresses_are_read_together() {
    let one = |at: usize| {
        let host = format!("n{at}.test");
        let kind = if at == 500 { json!({ "sockgate.io/kind": "none of these" }) } else { json!({}) };
        ingress(&format!("n{at}"), kind, json!([rule(&host, &[("/", "Prefix", "app"), ("/x", "Exact", "alone")])]))
    };
    let began = std::time::Instant::now();
    let (config, told) = read((0..1000).map(one).collect());
    println!("read within {:?}", began.elapsed());
    assert_eq!((config.routes.len(), config.upstreams.len()), (1998, 1998));
    assert_eq!(told, [("n500".to_owned(), "Rejected")]);
}

const HOSTS: &[&str] =
    &["", "a.test", "b.a.test", "*.a.test", "*.test", "A.test", "*", "a b", "[::1]", "${HOME}", "é.test"];
const PATHS: &[&str] =
    &["/", "", "/x", "/x/", "/x/y", "/x//y", "/x/../y", "x", "/x*", "/(", "/x?y", "/%7Ex", "/%2F", "/x;y", "/é", "/.*"];
const KINDS: &[&str] = &["Prefix", "Exact", "ImplementationSpecific", "Other"];
const SERVICES: &[&str] = &["app", "alone", "nobody", ""];
const VALUES: &[&str] = &[
    "",
    "true",
    "false",
    "cookie",
    "10",
    "0",
    "-1",
    "99999999999999999999",
    "8m",
    "10.0.0.0/8",
    "$remote_addr",
    "$http_x",
    "https://a.test/x",
    "http",
    "HTTPS",
    "GRPC",
    "/",
    "/$1",
    "/$9",
    "socket.io",
    "signalr",
    "tcp",
    "10s",
    "*",
    "a, b",
    "\u{0}",
    "${HOME}",
    "https://*.a.test, null",
    "round_robin",
    "(",
    "é",
];

fn any_annotations() -> impl Strategy<Value = Value> {
    let nginx =
        NGINX_NAMES.iter().filter(|(_, how, _)| *how != How::Refused).map(|(name, ..)| format!("{NGINX}{name}"));
    let own = OWN_NAMES.iter().map(|(name, _)| format!("{OWN}{name}"));
    let names: Vec<String> = nginx.chain(own).collect();
    let one = (select(names), select(VALUES));
    prop::collection::vec(one, 0..4).prop_map(|all| {
        let map: Map<String, Value> = all.into_iter().map(|(name, value)| (name, value.into())).collect();
        map.into()
    })
}

fn any_rules() -> impl Strategy<Value = Value> {
    let path = (select(PATHS), select(KINDS), select(SERVICES));
    let one = (select(HOSTS), prop::collection::vec(path, 0..3)).prop_map(|(host, paths)| rule(host, &paths));
    prop::collection::vec(one, 0..3).prop_map(Value::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// One that is good is served whatever stands beside it, and of each other one there is a route or a word.
    #[test]
    fn any_objects_make_a_configuration_that_can_be_built(
        others in prop::collection::vec((any_annotations(), any_rules(), select(HOSTS), any::<bool>()), 0..6)
    ) {
        let mut all = vec![ingress("good", json!({}), json!([rule("good.test", &[("/good", "Prefix", "app")])]))];
        for (at, (annotations, rules, host, has_default)) in others.into_iter().enumerate() {
            let mut one = ingress(&format!("n{at}"), annotations, rules);
            one["spec"]["tls"] = json!([{ "hosts": [host], "secretName": "nothing" }]);
            if has_default {
                one["spec"]["defaultBackend"] = json!({ "service": { "name": "app", "port": { "name": "web" } } });
            }
            all.push(one);
        }
        let names: Vec<String> = (0..all.len() - 1).map(|at| format!("n{at}")).collect();
        let (config, told) = read(all);
        prop_assert!(config.routes.iter().any(|route| route.name.as_deref() == Some("chat/good")), "{:?}", told);
        for name in &names {
            let served = config.routes.iter().any(|route| route.name.as_deref() == Some(&*format!("chat/{name}")));
            // Each of them names a Secret that is not there, so that there is a word about all.
            prop_assert!(served || told.iter().any(|(of, _)| of == name), "{}: {:?}", name, told);
        }
        let built = Snapshot::build(config, &Extensions::default(), &Metrics::new().unwrap(), |_| None, &Default::default());
        prop_assert!(built.is_ok(), "{}", built.err().map(|fault| fault.to_string()).unwrap_or_default());
    }
}
