//! `sockgate explain`: what would become of a request, by the file alone.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::within;

const YAML: &str = "
listeners:
  - { name: plain, address: 127.0.0.1:8080 }
  - { name: secure, address: 127.0.0.1:8443, tls: { certificates: [{ cert: a.pem, key: a.key }] } }
forwarding: { trusted_proxies: [10.0.0.0/8], request_id: \"\" }
routes:
  - { name: api, match: { host: api.example.com }, upstream: web }
  - { name: posts, match: { path: /posts, method: POST }, upstream: web }
  - name: sockets
    match: { path: /socket.io/ }
    upstream: socket_io
    timeouts: { first_byte: 7s }
    request_headers: { set: { X-Tenant: a, X-Client: \"${client.ip}\" } }
  - { name: office, match: { path: /office }, upstream: web, access: { allow: [10.1.0.0/16] } }
  - { name: old, match: { path: /old }, redirect: { path: /new } }
  - { name: rest, match: { host: app.example.com }, upstream: web }
upstreams:
  socket_io:
    kind: socket.io
    timeouts: { read_idle: 11s }
    servers: [{ name: a, address: \"127.0.0.1:1\" }, { name: b, address: \"127.0.0.1:2\" }]
  web: { servers: [\"127.0.0.1:3\"] }
";

async fn explain(arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sockgate.yaml");
    std::fs::write(&file, YAML).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    command.args(["explain", "-c"]).arg(&file).args(arguments).env_remove("RUST_LOG");
    let output = within("sockgate ends", command.output()).await.unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

async fn told(arguments: &[&str]) -> Value {
    let (code, text) = explain(&[arguments, &["--json"]].concat()).await;
    assert_eq!(code, 0, "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_request_is_followed_through_the_file_to_its_server() {
    let url = "https://app.example.com/socket.io/?EIO=4&transport=websocket";
    let arguments = [url, "-H", "Upgrade: websocket", "-H", "X-Forwarded-For: 6.6.6.6", "--from", "203.0.113.7"];
    let told = told(&arguments).await;
    assert_eq!((&told["listener"]["name"], &told["websocket"]), (&json!("secure"), &json!(true)));
    let passed = json!([
        { "route": "api", "why": ["the host is `app.example.com`, not api.example.com"] },
        { "route": "posts", "why": ["the path is /socket.io/, not below /posts", "the method is GET, not POST"] },
    ]);
    assert_eq!(told["passed_over"], passed);
    assert_eq!((&told["route"]["name"], &told["route"]["place"]), (&json!("sockets"), &json!(2)));
    assert_eq!((&told["upstream"]["name"], &told["upstream"]["balance"]), (&json!("socket_io"), &json!("client_ip")));
    assert_eq!(told["upstream"]["session"], json!({ "transport": "websocket", "opens": true, "named": false }));
    assert!(["a", "b"].contains(&told["upstream"]["by_hash"][0].as_str().unwrap()), "{told}");
    let fields: Vec<(&str, &str)> = told["request"]["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| (field[0].as_str().unwrap(), field[1].as_str().unwrap()))
        .collect();
    for field in [
        ("Host", "app.example.com"),
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("x-tenant", "a"),
        ("x-client", "203.0.113.7"),
    ] {
        assert!(fields.contains(&field), "{field:?} in {fields:?}");
    }
    assert!(!fields.iter().any(|(_, value)| value.contains("6.6.6.6")), "strangers say nothing of themselves");
    let (code, text) = explain(&arguments).await;
    assert_eq!(code, 0);
    for line in [
        "not       route api: the host is `app.example.com`, not api.example.com",
        "route     sockets (routes[2]), which matches",
        "upstream  socket_io (socket.io), servers a, b",
        "          X-Forwarded-For: 203.0.113.7",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn times_say_where_they_come_from_and_trusted_proxies_who_the_client_is() {
    let url = "http://app.example.com/socket.io/?EIO=4&transport=polling&sid=abc";
    let told = told(&[url, "-H", "X-Forwarded-For: 192.0.2.9", "--from", "10.0.0.5"]).await;
    assert_eq!((&told["listener"]["name"], &told["client"]), (&json!("plain"), &json!("192.0.2.9")));
    assert_eq!(told["times"]["first_byte"], json!({ "time": "7s", "from": "the route" }));
    assert_eq!(told["times"]["read_idle"], json!({ "time": "11s", "from": "the upstream" }));
    assert_eq!(told["times"]["connect"], json!({ "time": "5s", "from": "the default" }));
    assert_eq!(told["upstream"]["session"]["named"], true);
}

#[tokio::test]
async fn what_goes_nowhere_is_told_why() {
    let refused = told(&["http://app.example.com/office", "--from", "203.0.113.7"]).await;
    assert_eq!((&refused["route"]["name"], &refused["refused"]["status"]), (&json!("office"), &json!(403)));
    assert_eq!(refused["route"]["asks"], json!(["allow, by `access` of the route"]));
    let allowed = told(&["http://app.example.com/office", "--from", "10.1.2.3"]).await;
    assert_eq!((&allowed["refused"], &allowed["upstream"]["name"]), (&Value::Null, &json!("web")));
    let nowhere = told(&["GET http://other.example.com/"]).await;
    assert_eq!((&nowhere["route"], &nowhere["refused"]["status"]), (&Value::Null, &json!(404)));
    assert_eq!(nowhere["passed_over"].as_array().unwrap().len(), 6);
    let (_, here) = explain(&["http://app.example.com/old"]).await;
    assert!(here.contains("answer    by the gateway itself (redirect)"), "{here}");
    for (arguments, fault) in [
        (&["app.example.com/"][..], "is no URL: expected one such as https://"),
        (&["http://a/", "-H", "nonsense"], "expected `Name: value`"),
        (&["http://a/", "--listener", "web"], "there is no listener `web` for HTTP, only plain, secure"),
    ] {
        let (code, said) = explain(arguments).await;
        assert!(code == 1 && said.contains(fault), "{arguments:?}: {code} {said}");
    }
}
