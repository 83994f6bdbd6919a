//! What operators are told: liveness, readiness, metrics and status.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::client::Answer;
use crate::support::server::greet;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Scripted, Setup, eventually, within};

fn yaml(web: std::net::SocketAddr, raw: std::net::SocketAddr) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
routes:
  - match: {{ path: /here }}
    respond: {{ body: here }}
  - upstream: web
upstreams:
  web: {{ servers: [{{ address: \"{web}\", name: first }}], health: {{ interval: 1s, fall: 1 }} }}
  raw: {{ kind: tcp, servers: [\"{raw}\"], health: {{ interval: 1s, fall: 1 }} }}
"
    )
}

/// One sample: its name with labels, and its value.
type Samples = HashMap<String, f64>;

/// Reads Prometheus' text format 0.0.4 as strictly as it is written down.
fn parse(text: &str) -> Samples {
    assert!(text.ends_with('\n'), "the last line ends, too");
    let (mut kinds, mut helped, mut samples) = (HashMap::new(), HashSet::new(), Samples::new());
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().unwrap().to_owned();
            assert!(helped.insert(name), "one HELP for each family: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "one TYPE for each family: {line}");
            family = name.to_owned();
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let base = match kinds[&family].as_str() {
                "histogram" => {
                    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
                }
                _ => name,
            };
            assert_eq!(base, family, "samples stand together behind their TYPE: {line}");
            assert!(name.starts_with("sockgate_"), "{line}");
            for label in labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').unwrap();
                assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
            }
            assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "one value for each: {line}");
        }
    }
    assert!(kinds.keys().all(|name| helped.contains(name)));
    samples
}

/// The same, ready by these upstreams.
fn ready_by(yaml: &str, names: &str) -> String {
    format!("{yaml}admin: {{ address: 127.0.0.1:0, ready: [{names}] }}\n")
}

async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_gateway_is_ready_once_every_upstream_that_is_named_has_a_server() {
    let (web, raw) = (nobody().await, nobody().await);
    let gateway = Gateway::start_unready(&ready_by(&yaml(web, raw), "web, raw")).await;
    assert_eq!(gateway.admin("/livez").await.status, 200);
    eventually("both upstreams are told", async || {
        let ready = gateway.admin("/readyz").await;
        assert_eq!(ready.status, 503);
        ready.text().contains("upstream web: no server is up") && ready.text().contains("upstream raw: no server is up")
    })
    .await;
    let _web = Echo::start_at(web, "web").await;
    eventually("one is left", async || {
        let ready = gateway.admin("/readyz").await;
        assert_eq!(ready.status, 503);
        ready.text() == "upstream raw: no server is up\n"
    })
    .await;
    let _raw = Scripted::start_at(raw, |client, _| greet(client)).await;
    eventually("it is ready", async || gateway.admin("/readyz").await.status == 200).await;
    assert_eq!(gateway.admin("/readyz").await.text(), "ready\n");
}

#[tokio::test]
async fn one_pool_that_is_down_does_not_take_a_gateway_out_of_rotation() {
    let (web, raw) = (nobody().await, nobody().await);
    let gateway = Gateway::start_unready(&yaml(web, raw)).await;
    eventually("both are down", async || {
        let ready = gateway.admin("/readyz").await;
        assert_eq!(ready.status, 503);
        ready.text() == "upstream raw: no server is up\nupstream web: no server is up\n"
    })
    .await;
    let _web = Echo::start_at(web, "web").await;
    eventually("it is ready by one", async || gateway.admin("/readyz").await.status == 200).await;
    assert_eq!(gateway.admin("/readyz").await.text(), "ready\nupstream raw: no server is up\n");
    let gateway = Gateway::start_unready(&ready_by(&yaml(web, raw), "web")).await;
    eventually("that one is enough", async || gateway.admin("/readyz").await.status == 200).await;
    let gateway = Gateway::start_unready(&ready_by(&yaml(web, raw), "raw")).await;
    gateway.log_line("upstream web: server first is up").await;
    assert_eq!(gateway.admin("/readyz").await.status, 503, "the other one is what counts");
}

#[tokio::test]
async fn a_gateway_is_ready_without_what_is_optional() {
    let web = Echo::start("web").await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let extra = format!("  extra: {{ servers: [\"{gone}\"], optional: true }}\n");
    let yaml = Setup::before(&[web.address()]).yaml().replace("upstreams:\n", &format!("upstreams:\n{extra}"));
    let gateway =
        Gateway::start(&yaml.replace("routes:\n", "routes:\n  - { match: { path: /extra }, upstream: extra }\n")).await;
    gateway.log_line("upstream extra: server ").await;
    let ready = gateway.admin("/readyz").await;
    assert_eq!((ready.status, ready.text().as_str()), (200, "ready\nupstream extra: no server is up\n"));
}

#[tokio::test]
async fn metrics_are_well_formed_and_move_with_the_traffic() {
    let (web, raw) = (Echo::start("web").await, Scripted::start(|client, _| greet(client)).await);
    let gateway = Gateway::start(&yaml(web.address(), raw.address())).await;
    let scrape = async || {
        let answer = gateway.admin("/metrics").await;
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        parse(&answer.text())
    };
    let before = scrape().await;
    let mut client = Client::connect(gateway.address("web")).await;
    for path in ["/", "/", "/here"] {
        assert_eq!(client.get(path).await.status, 200);
    }
    let bad = Client::connect(gateway.address("web")).await.get("/..").await;
    assert_eq!(bad.status, 400);
    let mut socket = Client::connect(gateway.address("web")).await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
    let mut tunnel = Client::connect(gateway.address("raw")).await;
    assert_eq!(tunnel.read(6).await, b"hello ");
    let moved = async |expected: &[(&str, f64)]| {
        for (name, by) in expected {
            let last = std::cell::Cell::new(f64::NAN);
            let met = async || {
                let now = scrape().await;
                last.set(now.get(*name).copied().unwrap_or(0.0) - before.get(*name).copied().unwrap_or(0.0));
                last.get() == *by
            };
            let met = tokio::time::timeout(std::time::Duration::from_secs(5), eventually(name, met)).await;
            assert!(met.is_ok(), "{name} moved by {}, not by {by}", last.get());
        }
    };
    moved(&[
        ("sockgate_connections_total{listener=\"web\"}", 3.0),
        ("sockgate_connections_open{listener=\"web\"}", 2.0),
        ("sockgate_connections_open{listener=\"raw\"}", 1.0),
        ("sockgate_detected_total{listener=\"web\",protocol=\"http1\"}", 3.0),
        ("sockgate_requests_total{class=\"2xx\",upstream=\"web\"}", 2.0),
        ("sockgate_requests_total{class=\"2xx\",upstream=\"-\"}", 1.0),
        ("sockgate_requests_total{class=\"4xx\",upstream=\"-\"}", 1.0),
        ("sockgate_requests_total{class=\"1xx\",upstream=\"web\"}", 1.0),
        ("sockgate_request_seconds_count{upstream=\"web\"}", 2.0),
        ("sockgate_request_seconds_bucket{upstream=\"web\",le=\"+Inf\"}", 2.0),
        ("sockgate_first_byte_seconds_count{upstream=\"web\"}", 2.0),
        ("sockgate_route_requests_total{route=\"web\",listener=\"web\"}", 3.0),
        ("sockgate_refusals_total{reason=\"bad_path\"}", 1.0),
        ("sockgate_tunnels_open{upstream=\"web\"}", 1.0),
        ("sockgate_tunnels_open{upstream=\"raw\"}", 1.0),
        ("sockgate_tunnels_total{kind=\"websocket\",upstream=\"web\"}", 1.0),
        ("sockgate_tunnels_total{kind=\"tcp\",upstream=\"raw\"}", 1.0),
        ("sockgate_server_in_flight{upstream=\"web\",server=\"first\"}", 1.0),
        ("sockgate_server_taken_total{upstream=\"web\",server=\"first\"}", 3.0),
        ("sockgate_panics_total", 0.0),
        ("sockgate_access_log_lost_total", 0.0),
    ])
    .await;
    assert_eq!(scrape().await["sockgate_server_up{upstream=\"web\",server=\"first\"}"], 1.0);
    socket.finish().await;
    tunnel.send("four").await;
    tunnel.finish().await;
    tunnel.read_all().await;
    moved(&[
        ("sockgate_tunnels_open{upstream=\"web\"}", 0.0),
        ("sockgate_tunnels_closed_total{by=\"client\",upstream=\"web\"}", 1.0),
        ("sockgate_tunnel_seconds_count{upstream=\"web\"}", 1.0),
        ("sockgate_tunnel_seconds_count{upstream=\"raw\"}", 1.0),
        ("sockgate_tunnel_bytes_total{direction=\"in\",upstream=\"raw\"}", 4.0),
        ("sockgate_tunnel_bytes_total{direction=\"out\",upstream=\"raw\"}", 10.0),
        ("sockgate_connections_open{listener=\"raw\"}", 0.0),
        ("sockgate_server_in_flight{upstream=\"web\",server=\"first\"}", 0.0),
    ])
    .await;
    drop(web);
    moved(&[("sockgate_server_up{upstream=\"web\",server=\"first\"}", -1.0)]).await;
    assert_eq!(client.get("/").await.status, 503);
    moved(&[("sockgate_refusals_total{reason=\"no_server\"}", 1.0)]).await;
}

#[tokio::test]
async fn status_tells_servers_apart() {
    let (web, raw) = (Echo::start("web").await, Scripted::start(|client, _| greet(client)).await);
    let gateway = Gateway::start(&yaml(web.address(), raw.address())).await;
    let mut tunnel = Client::connect(gateway.address("raw")).await;
    assert_eq!(tunnel.read(6).await, b"hello ");
    drop(web);
    let down = async || {
        let answer = gateway.admin("/status").await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let status: Value = serde_json::from_slice(&answer.body).unwrap();
        status.pointer("/upstreams/1/servers/0/state").is_some_and(|state| state == "down").then_some(status)
    };
    let status = within("the check notices", async {
        loop {
            if let Some(status) = down().await {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["connections"], 1);
    assert!(status["uptime_seconds"].is_u64());
    let [raw, web] = status["upstreams"].as_array().unwrap().as_slice() else { panic!("{status}") };
    assert_eq!((&raw["name"], &raw["ready"]), (&Value::from("raw"), &Value::from(true)));
    assert_eq!((&raw["servers"][0]["state"], &raw["servers"][0]["in_flight"]), (&Value::from("up"), &Value::from(1)));
    assert_eq!((&web["name"], &web["ready"], &web["waiting"]), (&"web".into(), &false.into(), &0.into()));
    let server = &web["servers"][0];
    assert_eq!((&server["name"], &server["last_check"]["good"]), (&"first".into(), &false.into()));
    assert!(server["last_check"]["text"].as_str().unwrap().contains("refused"), "{server}");
}

#[tokio::test]
async fn strange_questions_are_answered() {
    let (web, raw) = (Echo::start("web").await, Scripted::start(|client, _| greet(client)).await);
    let gateway = Gateway::start(&yaml(web.address(), raw.address())).await;
    let mut client = Client::connect(gateway.address("admin")).await;
    for _ in 0..3 {
        let nothing = client.get("/nothing").await;
        assert_eq!(nothing.status, 404);
        assert!(nothing.text().contains("/metrics"), "it says what there is: {}", nothing.text());
        for path in ["/livez", "/readyz", "/metrics", "/status"] {
            let refused = Client::connect(gateway.address("admin")).await.post(path, b"body").await;
            assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")), "{path}");
            client.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            let head = String::from_utf8(client.read_until(b"\r\n\r\n").await).unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "HEAD {path}: {head}");
            let answer = client.get(&format!("{path}?x=y")).await;
            assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{path}");
        }
    }
    let admin = async |request: &str| {
        let mut client = Client::connect(gateway.address("admin")).await;
        client.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        Answer::of(&client.read_until(b"\r\n\r\n").await)
    };
    for (request, status, allow) in [
        ("PUT /drain", 405, Some("GET, HEAD, POST, DELETE")),
        ("OPTIONS /drain", 405, Some("GET, HEAD, POST, DELETE")),
        ("HEAD /drain?upstream=web&server=first", 200, None),
        ("HEAD /drain", 400, None),
        ("GET /reload", 405, Some("POST")),
        ("DELETE /api/v1/sessions", 405, Some("GET, HEAD")),
        ("GET /api/v1/servers/web/first/enable", 405, Some("POST")),
        ("HEAD /api/v1/events", 200, None),
        ("HEAD /plan", 405, Some("POST")),
        ("PUT /nowhere", 404, None),
    ] {
        let answer = admin(request).await;
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{request}");
    }
}

/// The answer of the admin address to a request on a connection of its own.
async fn ask(gateway: &Gateway, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(gateway.address("admin")).await;
    client.send(request).await;
    client.answer().await
}

#[tokio::test]
async fn pages_of_other_sites_and_names_of_strangers_are_not_obeyed() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let own = format!("Host: {}\r\n", gateway.address("admin"));
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b";
    let drain = format!("POST /api/v1/servers/app/a/drain HTTP/1.1\r\n{own}");
    for (request, status, told) in [
        (
            format!("POST /drain?upstream=app&server=x HTTP/1.1\r\n{own}Origin: https://evil.example\r\n{form}"),
            403,
            "pages of other sites may not ask this address (Origin: https://evil.example)\n",
        ),
        (format!("POST /drain HTTP/1.1\r\n{own}Origin: null\r\n{form}"), 403, "Origin: null"),
        (format!("{drain}Origin: http://{}.evil.example\r\n{form}", gateway.address("admin")), 403, "evil.example"),
        (format!("{drain}Origin: http://127.0.0.1\r\n{form}"), 403, "(Origin: http://127.0.0.1)"),
        (
            format!("POST /reload HTTP/1.1\r\n{own}Sec-Fetch-Site: cross-site\r\n{form}"),
            403,
            "pages of other sites may not ask this address (Sec-Fetch-Site: cross-site)\n",
        ),
        (format!("POST /plan HTTP/1.1\r\n{own}Sec-Fetch-Site: same-site\r\n{form}"), 403, "Sec-Fetch-Site"),
        (format!("GET /status HTTP/1.1\r\n{own}Sec-Fetch-Site: cross-site\r\n\r\n"), 403, "Sec-Fetch-Site"),
        (format!("GET /api/v1/events HTTP/1.1\r\n{own}Sec-Fetch-Site: same-site\r\n\r\n"), 403, "Sec-Fetch-Site"),
        ("GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421, "`evil.example`"),
        ("GET /api/v1/config HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421, "`evil.example`"),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421, "`evil.example`"),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example:9901\r\n\r\n".to_owned(), 421, "admin.hosts"),
        ("GET http://evil.example/drain HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 421, "`evil.example`"),
        ("GET /nothing HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421, "`evil.example`"),
    ] {
        let answer = ask(&gateway, &request).await;
        assert_eq!(answer.status, status, "{request}");
        assert!(answer.text().contains(told), "{request}: {}", answer.text());
    }
    for (path, fields) in [
        ("/livez", "Host: evil.example\r\n"),
        ("/readyz", "Host: 10-0-0-7.pods.internal\r\nSec-Fetch-Site: cross-site\r\n"),
        ("/status", "Host: localhost:1\r\nSec-Fetch-Site: none\r\n"),
        ("/", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"),
        ("/metrics", "Host: [::1]\r\nOrigin: http://[::1]\r\nSec-Fetch-Site: same-origin\r\n"),
    ] {
        let answer = ask(&gateway, format!("GET {path} HTTP/1.1\r\n{fields}\r\n")).await;
        assert_eq!(answer.status, 200, "{path} {fields}: {}", answer.text());
    }
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    assert_eq!(status.pointer("/upstreams/0/servers/0/state"), Some(&Value::from("up")), "nothing has happened");
}

#[tokio::test]
async fn names_are_believed_when_the_configuration_lists_them() {
    let admin = |hosts: &str| format!("\nadmin: {{ address: 127.0.0.1:0, hosts: [{hosts}] }}");
    let (web, mut gateway) = Gateway::before_echo(&admin("gateway.internal")).await;
    let status = async |gateway: &Gateway, host: &str| {
        ask(gateway, format!("GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.status
    };
    assert_eq!(status(&gateway, "Gateway.Internal:9901").await, 200);
    assert_eq!(status(&gateway, "other.internal").await, 421);
    let yaml = std::fs::read_to_string(gateway.file()).unwrap();
    let answer = gateway.reload(&yaml.replace("gateway.internal", "other.internal")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(status(&gateway, "other.internal").await, 200);
    assert_eq!(status(&gateway, "gateway.internal").await, 421);
    drop(web);
}

#[tokio::test]
async fn probes_are_answered_while_slow_clients_hold_every_place() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let probe = async || ask(&gateway, "GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.status;
    let mut slow = Vec::new();
    for at in 0..100 {
        let mut client = Client::connect(gateway.address("admin")).await;
        if at % 2 == 0 {
            client.send("GET /livez HTTP/1.1\r\nHost: h\r\nX: ").await;
        }
        slow.push(client);
    }
    for _ in 0..3 {
        for client in &mut slow {
            // Those whose place was needed are gone.
            let _ = client.try_send("a").await;
        }
        assert_eq!(probe().await, 200);
    }
    // Nor do those whose bodies drip keep anybody out.
    for client in &mut slow {
        *client = Client::connect(gateway.address("admin")).await;
        client.send("POST /plan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx").await;
    }
    for _ in 0..3 {
        assert_eq!((probe().await, gateway.admin("/status").await.status), (200, 200));
    }
}

#[tokio::test]
async fn the_connection_that_was_idle_the_longest_makes_room_for_a_new_one() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let mut open = Vec::new();
    for _ in 0..65 {
        let mut client = Client::connect(gateway.address("admin")).await;
        assert_eq!(client.get("/livez").await.status, 200);
        open.push(client);
    }
    assert_eq!(open[0].read_all().await, b"", "the first one has made room");
    for client in &mut open[1..] {
        assert_eq!(client.get("/livez").await.status, 200);
    }
    assert_eq!(gateway.metric("sockgate_connections_open{listener=\"web\"}").await, 0.0, "traffic is no part of it");
}

#[tokio::test]
async fn bodies_that_do_not_end_take_a_bounded_part_of_memory() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let before = gateway.memory();
    let half = Arc::new(vec![b'x'; 5 << 20]);
    let mut bodies = JoinSet::new();
    for _ in 0..12 {
        let (admin, half) = (gateway.address("admin"), Arc::clone(&half));
        bodies.spawn(async move {
            let mut client = Client::connect(admin).await;
            client.send("POST /plan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777216\r\n\r\n").await;
            // Who is refused within its body may not hear why.
            client.try_ask(&*half).await.map_or(503, |answer| answer.status)
        });
    }
    for _ in 0..10 {
        assert_eq!(bodies.join_next().await.unwrap().unwrap(), 503, "two have all the room that there is");
    }
    let grown = gateway.memory().saturating_sub(before) / 1024;
    assert!(grown < 40, "{grown} MiB for 60 MiB of bodies");
    assert_eq!(gateway.admin("/livez").await.status, 200);
    bodies.shutdown().await;
    let plan = async || ask(&gateway, "POST /plan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}").await;
    eventually("there is room again", async || plan().await.status == 400).await;
}

#[tokio::test]
async fn requests_are_framed_strictly_and_connections_kept_as_asked() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let mut client = Client::connect(gateway.address("admin")).await;
    let drained = "POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na=b";
    client
        .send(format!("\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n{drained}HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.text(), "alive\n");
    assert_eq!(client.answer().await.status, 400, "a body that nobody wants is passed over");
    let head = Answer::of(&client.read_until(b"\r\n\r\n").await);
    assert_eq!((head.status, head.header("content-length"), head.header("connection")), (200, Some("6"), None));
    client.send("POST /plan HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send("{}").await;
    assert!(client.answer().await.text().contains("expected a configuration as JSON"));
    let chunked =
        "POST /plan HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
    client.send(chunked).await;
    assert!(client.answer().await.text().contains("missing field"));
    client.send("GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.answer().await.header("connection"), Some("close"));
    assert_eq!(client.read_all().await, b"");

    for (request, status) in [
        ("GET /livez HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("GET /livez HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("POST /plan HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}".to_owned(), 400),
        ("POST /plan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777217\r\n\r\n".to_owned(), 413),
        ("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n".to_owned(), 413),
        (format!("GET /livez HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(8 * 1024)), 431),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let mut client = Client::connect(gateway.address("admin")).await;
        client.send(&request).await;
        let answer = client.answer().await;
        let told = (answer.status, answer.header("connection"));
        assert_eq!(told, (status, Some("close")), "{request}");
        assert_eq!(client.read_all().await, b"", "{request}");
    }
}

#[tokio::test]
async fn an_admin_address_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let (_web, gateway) = {
        let server = Echo::start("a").await;
        let yaml = format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app: {{ servers: [\"{}\"] }}
admin: {{ address: \"unix:{}\" }}
",
            server.address(),
            path.display()
        );
        (server, Gateway::start_unready(&yaml).await)
    };
    let mut client = Client::over(tokio::net::UnixStream::connect(&path).await.unwrap());
    client.send("GET /status HTTP/1.1\r\nHost: whatever.example\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200, "no browser and no stranger's name leads there");
    drop(gateway);
}

#[tokio::test]
async fn a_listener_called_admin_shares_nothing_with_the_admin_address() {
    let yaml = "
listeners:
  - { name: admin, address: 127.0.0.1:0, max_connections: 1 }
routes:
  - respond: { body: traffic }
admin: { address: 127.0.0.1:0 }
";
    let gateway = Gateway::start_unready(yaml).await;
    let (traffic, admin) = (gateway.address("admin"), gateway.address("admin address"));
    let mut operators = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(admin).await;
        assert_eq!(client.get("/readyz").await.text(), "ready\n");
        operators.push(client);
    }
    let mut client = Client::connect(traffic).await;
    assert_eq!(client.get("/readyz").await.text(), "traffic");
    assert_eq!(Client::connect(traffic).await.answer().await.status, 503, "the limit of the traffic is its own");
    let metrics = parse(&operators[0].get("/metrics").await.text());
    assert_eq!(metrics["sockgate_connections_open{listener=\"admin\"}"], 1.0);
    assert_eq!(metrics["sockgate_connections_total{listener=\"admin\"}"], 1.0);
    assert_eq!(metrics["sockgate_connections_open{listener=\"admin address\"}"], 3.0);
}
