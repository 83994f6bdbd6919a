//! Whatever objects there are: a configuration that can be built, and a word about each that has no place in it.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::config::Config;
use crate::controller::draft::Drawn;
use crate::controller::world::GatewayWorld;
use crate::metrics::Metrics;
use crate::snapshot::{Extensions, Snapshot};

const FILE: &str = "listeners: [{ name: web, address: ':80' }, { name: tls, address: ':443', tls: { certificates: [] } }, \
                    { name: both, address: ':8443', tls: { certificates: [] }, detect: { plain: true } }, \
                    { name: db, address: ':5432', protocol: tcp }]\n";

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn terms() -> Terms {
    Terms { kubeconfig: Some(PathBuf::from("/kube/config")), gateway_api: true, ..Terms::default() }
}

fn gateway(name: &str, listeners: Value) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "chat", "uid": format!("{name}-uid") },
        "spec": { "gatewayClassName": "sockgate", "listeners": listeners },
    })
}

fn usual() -> Value {
    gateway(
        "edge",
        json!([
            { "name": "web", "port": 80, "protocol": "HTTP" },
            { "name": "sub", "port": 80, "protocol": "HTTP", "hostname": "*.a.test" },
            { "name": "both", "port": 8443, "protocol": "HTTP" },
            { "name": "tls", "port": 443, "protocol": "TLS", "tls": { "mode": "Passthrough" } },
            { "name": "db", "port": 5432, "protocol": "TCP" },
        ]),
    )
}

fn route(name: &str, annotations: Value, hosts: Value, rules: Value) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "chat", "uid": format!("{name}-uid"), "annotations": annotations },
        "spec": { "parentRefs": [{ "name": "edge" }], "hostnames": hosts, "rules": rules },
    })
}

fn world(gateways: Vec<Value>, routes: Vec<Value>, raw: Vec<Value>) -> World {
    let class = json!({ "metadata": { "name": "sockgate" }, "spec": { "controllerName": CONTROLLER } });
    let service = |name: &str| {
        let ports =
            json!([{ "name": "web", "port": 80 }, { "port": 90, "name": "h2", "appProtocol": "kubernetes.io/h2c" }]);
        let service = json!({ "metadata": { "name": name, "namespace": "chat" }, "spec": { "ports": ports } });
        (Named::new("chat", name), object(service))
    };
    World {
        services: [service("app"), service("other")].into(),
        gateway: GatewayWorld {
            classes: Some(vec![object(class)]),
            gateways: gateways.into_iter().map(object).collect(),
            http_routes: routes.into_iter().map(object).collect(),
            tls_routes: raw.iter().cloned().map(object).collect(),
            tcp_routes: raw.into_iter().map(object).collect(),
            ..GatewayWorld::default()
        },
        ..World::default()
    }
}

/// The configuration, what is to be said, and whom it had no place for.
fn read(world: &World) -> (Config, Report, Vec<(String, String)>) {
    let (file, _) = Config::read_with("test.yaml", FILE, None, &|_| None, &Default::default()).unwrap();
    let ports = Ports::new(&file.config, None, &terms());
    let (draft, mut report) = draft(world, &terms(), &ports, Draft::default());
    let mut notes = draft.notes.clone();
    let Drawn { parts, origins } = draft.draw();
    let (loaded, found) = Config::read_with("test.yaml", FILE, None, &|_| None, &parts).unwrap();
    for (&place, why) in &found.left_out {
        let object = origins[place].clone();
        notes.insert(super::super::draft::Note { object, reason: "Rejected", what: why.clone() });
    }
    report.take_up(&mut notes);
    let rejected = notes.into_iter().filter(|note| matches!(note.reason, "Rejected" | "MatchTaken"));
    (loaded.config, report, rejected.map(|note| (note.object.name, note.what)).collect())
}

fn to(services: &[(&str, u16, u32)]) -> Value {
    let all = services.iter().map(|(name, port, weight)| json!({ "name": name, "port": port, "weight": weight }));
    all.collect()
}

#[test]
fn an_object_that_can_not_be_read_is_told_of_and_stops_no_other() {
    let mut odd = route("odd", json!({}), json!([]), json!([{ "backendRefs": [{ "name": "app", "port": 80 }] }]));
    odd["spec"]["rules"] = json!("none of these");
    let good = route("good", json!({}), json!(["good.test"]), json!([{ "backendRefs": to(&[("app", 80, 1)]) }]));
    let mut broken = usual();
    broken["metadata"]["name"] = json!("broken");
    broken["spec"]["listeners"] = json!(7);
    let (config, report, rejected) = read(&world(vec![usual(), broken], vec![odd, good], Vec::new()));
    assert_eq!(rejected, []);
    assert!(config.routes.iter().any(|route| route.name.as_deref() == Some("chat/good")));
    let odd = report.routes.iter().find(|route| route.object.name == "odd").unwrap();
    let [parent] = odd.says.parents.as_slice() else { panic!("{odd:?}") };
    assert!(!parent.accepted.holds && parent.accepted.message.contains("can't be read"), "{parent:?}");
    let broken = report.gateways.iter().find(|gateway| gateway.object.name == "broken").unwrap();
    assert_eq!((broken.says.conditions[0].holds, broken.says.conditions[0].reason), (false, "Invalid"));
}

#[test]
fn a_status_that_is_as_it_should_be_is_not_written() {
    let routes = vec![route("web", json!({}), json!([]), json!([{ "backendRefs": to(&[("app", 80, 1)]) }]))];
    let mut world = world(vec![usual()], routes, Vec::new());
    let (_, report, _) = read(&world);
    let wishes = report.wishes();
    assert_eq!(wishes.len(), 3, "the class, the Gateway and the route");
    for wish in wishes {
        let kind = wish.resource.kind.clone();
        let spec = |object: &Value| object["spec"].clone();
        let put = |raw: &Value, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| json!({ "metadata": meta, "spec": raw, "status": wish.status });
        match kind.as_str() {
            "GatewayClass" => {
                let one = &world.gateway.classes.as_ref().unwrap()[0];
                let changed = put(one.raw_spec(), one.meta());
                world.gateway.classes = Some(vec![object(changed)]);
            }
            "Gateway" => {
                let changed = put(world.gateway.gateways[0].raw_spec(), world.gateway.gateways[0].meta());
                world.gateway.gateways = vec![object(changed)];
            }
            _ => {
                let changed = put(world.gateway.http_routes[0].raw_spec(), world.gateway.http_routes[0].meta());
                assert!(!spec(&changed).is_null());
                world.gateway.http_routes = vec![object(changed)];
            }
        }
    }
    let (_, report, _) = read(&world);
    assert_eq!(report.wishes().len(), 0, "{:?}", report.wishes());
}

#[test]
fn a_backend_that_is_named_twice_has_both_weights() {
    let rules = json!([
        { "backendRefs": to(&[("app", 80, 1), ("other", 80, 2), ("app", 80, 3)]) },
        { "matches": [{ "path": { "value": "/one" } }], "backendRefs": to(&[("app", 80, 1), ("app", 80, 3)]) },
        { "matches": [{ "path": { "value": "/many" } }], "backendRefs": to(&[("app", 80, 1_000_000), ("other", 80, 500_000), ("nobody", 80, 1)]) },
    ]);
    let (config, _, rejected) = read(&world(vec![usual()], vec![route("a", json!({}), json!([]), rules)], Vec::new()));
    assert_eq!(rejected, []);
    let of = |path: &str| {
        let mut routes = config
            .routes
            .iter()
            .filter(|route| route.matches.path.0 == [path] || path.is_empty() && route.matches.path.0.is_empty());
        serde_json::to_value(routes.next().unwrap().upstream.as_ref().unwrap()).unwrap()
    };
    let (app, other) = ("chat/httproute.a/app:80", "chat/httproute.a/other:80");
    assert_eq!(of("/one"), json!(app));
    assert_eq!(of(""), json!([{ "name": app, "weight": 4 }, { "name": other, "weight": 2 }]));
    let many = of("/many");
    assert_eq!(
        (&many[0]["weight"], &many[1]["weight"], &many[2]["weight"]),
        (&json!(1000), &json!(500), &json!(1)),
        "{many}"
    );
}

#[test]
fn both_shapes_of_session_persistence_are_the_same_cookie() {
    for (said, age) in [
        (
            json!({ "sessionName": "sid", "type": "Cookie", "absoluteTimeout": "1h", "cookieConfig": { "lifetimeType": "Permanent" } }),
            true,
        ),
        (json!({ "cookie": { "name": "sid", "lifetimeType": "Permanent" }, "absoluteTimeout": "1h" }), true),
        (json!({ "cookie": { "name": "sid" }, "absoluteTimeout": "1h" }), false),
    ] {
        let rules = json!([{ "sessionPersistence": said, "backendRefs": to(&[("app", 80, 1), ("other", 80, 1)]) }]);
        let (config, report, rejected) =
            read(&world(vec![usual()], vec![route("a", json!({}), json!([]), rules)], Vec::new()));
        assert_eq!(rejected, []);
        assert!(report.routes[0].says.parents[0].accepted.holds);
        let cookie = config.upstreams["chat/httproute.a/app:80"].affinity.cookie.clone().unwrap();
        assert_eq!((cookie.name.as_deref(), cookie.max_age.is_some()), (Some("sid"), age), "{said}");
        assert_eq!(config.routes[0].split.cookie.as_deref(), Some("sid_side"));
    }
    let rules = json!([{ "sessionPersistence": { "type": "Header" }, "backendRefs": to(&[("app", 80, 1)]) }]);
    let (_, report, _) = read(&world(vec![usual()], vec![route("a", json!({}), json!([]), rules)], Vec::new()));
    assert_eq!(report.routes[0].says.parents[0].accepted.reason, "UnsupportedValue");
}

/// What a large cluster has is read within a moment, a bad one among it or not.
#[test]
fn a_thousand_routes_are_read_together() {
    let one = |at: usize| {
        let kind = if at == 500 { json!({ "sockgate.io/kind": "none of these" }) } else { json!({}) };
        let rules = json!([
            { "backendRefs": to(&[("app", 80, 1)]) },
            { "matches": [{ "path": { "type": "Exact", "value": "/x" } }], "backendRefs": to(&[("other", 80, 1), ("app", 80, 2)]) },
        ]);
        route(&format!("n{at}"), kind, json!([format!("n{at}.test")]), rules)
    };
    let edge = gateway("edge", json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]));
    let began = std::time::Instant::now();
    let (config, _, rejected) = read(&world(vec![edge], (0..1000).map(one).collect(), Vec::new()));
    println!("read within {:?}", began.elapsed());
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].0, "n500");
    let served = config.routes.iter().filter(|route| route.upstream.is_some()).count();
    assert_eq!(served, 1998);
}

const HOSTS: &[&str] =
    &["a.test", "b.a.test", "*.a.test", "*.test", "A.test", "*", "a b", "", "[::1]", "${HOME}", "é.test"];
const PATHS: &[&str] = &["/", "", "/x", "/x/", "/x//y", "x", "/(", "/x?y", "/%2F", "/x;y", "/é", "/.*", "(?", "/$1"];
const KINDS: &[&str] = &["PathPrefix", "Exact", "RegularExpression", "Other"];
const NAMES: &[&str] = &["x-a", "X-A", "host", "", "a b", "connection", "é", "content-length", "$"];
const VALUES: &[&str] = &["", "v", "*", "(", "${HOME}", "$1", "a, b", "é", "\u{0}", "0s", "10s", "soon", "\n"];
const SERVICES: &[&str] = &["app", "other", "nobody", ""];

fn any_match() -> impl Strategy<Value = Value> {
    let path = (select(PATHS), select(KINDS)).prop_map(|(value, kind)| json!({ "type": kind, "value": value }));
    let named = (select(NAMES), select(VALUES), select(&["Exact", "RegularExpression", "Other"][..]))
        .prop_map(|(name, value, kind)| json!({ "type": kind, "name": name, "value": value }));
    let method = select(&["GET", "POST", "get it", ""][..]);
    (
        prop::option::of(path),
        prop::collection::vec(named.clone(), 0..2),
        prop::collection::vec(named, 0..2),
        prop::option::of(method),
    )
        .prop_map(|(path, headers, query, method)| {
            json!({ "path": path, "headers": headers, "queryParams": query, "method": method })
        })
}

fn any_filter() -> impl Strategy<Value = Value> {
    let modifier = (select(NAMES), select(VALUES)).prop_map(|(name, value)| {
        json!({ "set": [{ "name": name, "value": value }], "add": [{ "name": name, "value": value }], "remove": [name] })
    });
    let to_path = (select(&["ReplaceFullPath", "ReplacePrefixMatch", "Other"][..]), select(PATHS))
        .prop_map(|(kind, path)| json!({ "type": kind, "replaceFullPath": path, "replacePrefixMatch": path }));
    let host = select(HOSTS);
    prop_oneof![
        modifier.clone().prop_map(|said| json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": said })),
        modifier.prop_map(|said| json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": said })),
        (to_path.clone(), host.clone(), 0u16..).prop_map(|(path, host, port)| {
            let said = json!({ "path": path, "hostname": host, "port": port, "statusCode": 300 + port % 10 });
            json!({ "type": "RequestRedirect", "requestRedirect": said })
        }),
        (to_path, host).prop_map(|(path, host)| json!({ "type": "URLRewrite", "urlRewrite": { "path": path, "hostname": host } })),
        select(SERVICES).prop_map(|name| {
            json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": name, "port": 80 }, "percent": 50 } })
        }),
        select(VALUES).prop_map(|origin| json!({ "type": "CORS", "cors": { "allowOrigins": [origin], "allowMethods": [origin] } })),
        Just(json!({ "type": "ExtensionRef" })),
    ]
}

fn any_rules() -> impl Strategy<Value = Value> {
    let backend = (select(SERVICES), select(&[80u16, 90, 1][..]), 0u32..3000)
        .prop_map(|(name, port, weight)| json!({ "name": name, "port": port, "weight": weight }));
    let rule = (
        prop::collection::vec(any_match(), 0..2),
        prop::collection::vec(any_filter(), 0..2),
        prop::collection::vec(backend, 0..3),
        prop::option::of(select(VALUES)),
    )
        .prop_map(|(matches, filters, backends, time)| {
            let mut rule = json!({ "matches": matches, "filters": filters, "backendRefs": backends });
            if let Some(time) = time {
                rule["timeouts"] = json!({ "request": time });
            }
            rule
        });
    prop::collection::vec(rule, 0..3).prop_map(Value::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// One that is good is served whatever stands beside it, and of each other one there is a route or a word.
    #[test]
    fn any_objects_make_a_configuration_that_can_be_built(
        others in prop::collection::vec((any_rules(), prop::collection::vec(select(HOSTS), 0..3)), 0..6)
    ) {
        let good = json!([{ "matches": [{ "path": { "value": "/good" } }], "backendRefs": to(&[("app", 80, 1)]) }]);
        let mut routes = vec![route("good", json!({}), json!(["good.test"]), good)];
        for (at, (rules, hosts)) in others.iter().enumerate() {
            routes.push(route(&format!("n{at}"), json!({}), json!(hosts), rules.clone()));
        }
        let raw = routes.iter().skip(1).cloned().collect();
        let (config, report, rejected) = read(&world(vec![usual()], routes, raw));
        prop_assert!(config.routes.iter().any(|route| route.name.as_deref() == Some("chat/good")), "{:?}", rejected);
        for (at, (rules, _)) in others.iter().enumerate() {
            let name = format!("n{at}");
            let served = config.routes.iter().any(|route| route.name.as_deref() == Some(&*format!("chat/{name}")));
            let of_it = report.routes.iter().find(|route| route.object.name == name && route.object.kind == "HTTPRoute").unwrap();
            // Without a rule it asks for nothing.
            let told = of_it.says.parents.iter().any(|parent| !parent.accepted.holds || parent.partially.is_some());
            let empty = rules.as_array().is_some_and(Vec::is_empty);
            let told = told || rejected.iter().any(|(of, _)| *of == name);
            prop_assert!(served || told || empty, "{}: {:?}", name, of_it);
        }
        let built = Snapshot::build(config, &Extensions::default(), &Metrics::new().unwrap(), |_| None, &Default::default());
        prop_assert!(built.is_ok(), "{}", built.err().map(|fault| fault.to_string()).unwrap_or_default());
    }
}
