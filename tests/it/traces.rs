//! Traces, seen from both ends: what a collector is told, and what servers read in `traceparent`.

use std::collections::HashSet;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::collector::Collector;
use crate::support::engine::for_each_engine;
use crate::support::tls::Authority;
use crate::support::websocket::{close, echoes, upgrade};
use crate::support::{Client, Echo, Gateway, Setup, eventually};

for_each_engine! {
    a_request_is_recorded_and_its_server_reads_which_trace_it_is_part_of,
    traces_of_trusted_proxies_are_gone_on_with_and_those_of_strangers_are_not,
    a_websocket_is_told_of_when_it_opens_and_when_it_ends,
    what_fails_is_an_error_and_says_why,
    of_many_traces_a_share_is_recorded,
}

/// The context of the specification's example.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A gateway before the collector, as its app, and what it says of traces.
async fn before(collector: &Collector, traces: &str) -> Gateway {
    to(collector, traces, Setup::before(&[collector.address()])).start().await
}

fn to(collector: &Collector, traces: &str, setup: Setup) -> Setup {
    let endpoint = collector.address();
    setup.more(format!("traces: {{ endpoint: \"http://{endpoint}\", sample: 1{traces} }}"))
}

/// What the server says of the context that a request with these fields came with, from 127.0.0.x.
async fn seen(gateway: &Gateway, from: u8, fields: &str) -> Value {
    let mut client = Client::connect_from(from, gateway.address("web")).await;
    let answer = client.get_with("/seen?token=secret", fields).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn a_request_is_recorded_and_its_server_reads_which_trace_it_is_part_of() {
    let Some(collector) = Collector::start(&[]).await else { return };
    let more = ", service: edge, attributes: { deployment.environment.name: test }, headers: { x-key: hidden }";
    let gateway = before(&collector, more).await;
    let seen = seen(&gateway, 7, "").await;
    assert_eq!((&seen["valid"], &seen["sampled"]), (&Value::Bool(true), &Value::Bool(true)), "{seen}");
    let own = collector.span("server", "GET app").await;
    let asked = collector.span("client", "GET app").await;
    assert_eq!((&own["parent"], &asked["parent"]), (&"".into(), &own["span"]));
    assert_eq!(
        (&seen["trace"], &seen["span"]),
        (&own["trace"], &asked["span"]),
        "the server goes on with what it was asked by"
    );
    assert_eq!(asked["trace"], own["trace"]);
    let said = &own["attributes"];
    let port = gateway.address("web").port();
    for (name, value) in [
        ("http.request.method", Value::from("GET")),
        ("http.response.status_code", 200.into()),
        ("url.scheme", "http".into()),
        ("url.path", "/seen".into()),
        ("url.query", "token=...".into()),
        ("client.address", "127.0.0.7".into()),
        ("network.protocol.name", "http".into()),
        ("network.protocol.version", "1.1".into()),
        ("sockgate.listener", "web".into()),
        ("sockgate.route", "app".into()),
        ("sockgate.tries", 1.into()),
    ] {
        assert_eq!(said[name], value, "{name} of {own}");
    }
    assert!(
        said["server.address"].as_str().is_some_and(|host| host == "localhost" || host.ends_with(&port.to_string()))
    );
    assert_eq!(asked["attributes"]["server.address"], collector.address().to_string());
    assert_eq!(asked["attributes"]["sockgate.upstream"], "app");
    assert_eq!(asked["events"], serde_json::json!(["connected", "first byte"]));
    let time = |span: &Value, end: &str| span[end].as_u64().unwrap();
    assert!(time(&own, "start") <= time(&asked, "start") && time(&asked, "end") <= time(&own, "end"));
    assert!(time(&own, "end") - time(&own, "start") < 20_000_000_000);
    assert_eq!(own["resource"]["service.name"], "edge");
    assert_eq!(own["resource"]["deployment.environment.name"], "test");
    assert_eq!((&own["scope"], &own["error"]), (&"sockgate".into(), &Value::Bool(false)));
    assert_eq!(own["fields"]["x-key"], "hidden");
    let told = gateway.admin("/api/v1/config").await.text();
    assert!(told.contains("x-key") && !told.contains("\"hidden\""), "{told}");
    eventually("it is counted", async || gateway.metric("sockgate_trace_spans_total{result=\"sent\"}").await == 2.0)
        .await;
}

async fn traces_of_trusted_proxies_are_gone_on_with_and_those_of_strangers_are_not() {
    let Some(collector) = Collector::start(&[]).await else { return };
    let trusting = "forwarding: { trusted_proxies: [127.0.0.2/32] }";
    let setup = Setup::before(&[collector.address()]).more(trusting);
    let gateway = to(&collector, "", setup.clone()).start().await;
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: vendor=a,other=b\r\n");

    let gone_on = seen(&gateway, 2, &parent).await;
    assert_eq!((&gone_on["trace"], &gone_on["sampled"]), (&TRACE.into(), &Value::Bool(true)));
    assert_eq!(gone_on["state"], serde_json::json!({ "vendor": "a", "other": "b" }));
    let own = collector.first("its span", |told| told["trace"] == TRACE && told["kind"] == "server").await;
    assert_eq!((&own["parent"], &own["state"]), (&SPAN.into(), &"vendor=a,other=b".into()));
    assert_ne!(gone_on["span"], SPAN, "the server is asked by the gateway");

    // Who has not recorded its own span wants none of it.
    let passed = seen(&gateway, 2, &parent.replace("-01\r\n", "-00\r\n")).await;
    assert_eq!((&passed["span"], &passed["sampled"]), (&SPAN.into(), &Value::Bool(false)));

    // Nobody's are a stranger's, those that are no context at all, and two at once.
    let own_parent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    for (from, fields) in
        [(3, parent.clone()), (2, parent.replace("00-4bf9", "00-XXXX")), (2, format!("{own_parent}{parent}"))]
    {
        let fresh = seen(&gateway, from, &fields).await;
        assert_ne!(fresh["trace"], TRACE, "{fields}");
        assert_eq!((&fresh["valid"], &fresh["state"]), (&Value::Bool(true), &serde_json::json!({})), "{fields}");
        assert_eq!(fresh["raw"].as_array().unwrap().len(), 1, "{fresh}");
    }

    let nobody = to(&collector, ", parents: nobody", setup.clone()).start().await;
    assert_ne!(seen(&nobody, 2, &parent).await["trace"], TRACE);
    let everybody = to(&collector, ", parents: everybody", setup.clone()).start().await;
    assert_eq!(seen(&everybody, 3, &parent).await["trace"], TRACE);

    // Where nothing is recorded, what a stranger says of a trace goes no further; without traces at all it is a field like any.
    let unsampled = to(&collector, "", setup.clone()).yaml().replace("sample: 1", "sample: 0");
    let unsampled = Gateway::start(&unsampled).await;
    assert_eq!(seen(&unsampled, 3, &parent).await["raw"], serde_json::json!([]));
    let off = setup.start().await;
    assert_eq!(seen(&off, 3, &parent).await["span"], SPAN);
}

async fn a_websocket_is_told_of_when_it_opens_and_when_it_ends() {
    let Some(collector) = Collector::start(&[]).await else { return };
    let echo = Echo::start("echo").await;
    let gateway = to(&collector, "", Setup::before(&[echo.address()])).start().await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
    let opening = collector.span("server", "GET app").await;
    assert_eq!(opening["attributes"]["http.response.status_code"], 101);
    assert_eq!(opening["attributes"]["network.protocol.name"], "websocket");
    assert_eq!(collector.span("client", "GET app").await["parent"], opening["span"]);
    assert!(!collector.told().iter().any(|told| told["kind"] == "internal"), "it is open");
    echoes(&mut socket).await;
    socket.send(close(1000, true)).await;
    socket.finish().await;
    socket.read_all().await;
    let tunnel = collector.span("internal", "WebSocket tunnel").await;
    assert_eq!((&tunnel["parent"], &tunnel["trace"]), (&opening["span"], &opening["trace"]));
    let said = &tunnel["attributes"];
    assert_eq!((&said["sockgate.messages_in"], &said["sockgate.close_code"]), (&1.into(), &1000.into()), "{tunnel}");
    assert_eq!(tunnel["start"], opening["end"]);
}

async fn what_fails_is_an_error_and_says_why() {
    let Some(collector) = Collector::start(&[]).await else { return };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setup = Setup::before(&[collector.address()]).more("");
    let yaml = to(&collector, "", setup).yaml();
    let yaml = yaml.replace("routes:\n", "routes:\n  - { match: { path: /gone }, upstream: gone }\n").replace(
        "upstreams:\n",
        &format!("upstreams:\n  gone: {{ servers: [\"{nobody}\"], health: {{ check: none }} }}\n"),
    );
    let gateway = Gateway::start(&yaml).await;
    let mut client = gateway.client().await;
    assert_eq!(client.get("/fails").await.status, 500);
    assert_eq!(gateway.client().await.get("/gone").await.status, 502);
    assert_eq!(gateway.client().await.get("/..").await.status, 400);
    let failed = collector.span("server", "GET app").await;
    assert_eq!(
        (&failed["error"], &failed["attributes"]["error.type"]),
        (&Value::Bool(true), &"500".into()),
        "{failed}"
    );
    let gone = collector.span("server", "GET gone").await;
    assert_eq!(
        (&gone["error"], &gone["attributes"]["error.type"]),
        (&Value::Bool(true), &"connect_failed".into()),
        "{gone}"
    );
    let bad = collector.span("server", "GET").await;
    assert_eq!(
        (&bad["error"], &bad["attributes"]["sockgate.closed_by"]),
        (&Value::Bool(false), &"bad_path".into()),
        "{bad}"
    );
}

async fn of_many_traces_a_share_is_recorded() {
    let Some(collector) = Collector::start(&[]).await else { return };
    let yaml = to(&collector, "", Setup::before(&[collector.address()])).yaml().replace("sample: 1", "sample: 0.5");
    let gateway = Gateway::start(&yaml).await;
    let mut client = gateway.client().await;
    let mut recorded = HashSet::new();
    for _ in 0..200 {
        let seen: Value = serde_json::from_slice(&client.get("/").await.body).unwrap();
        if seen["valid"] == true {
            recorded.insert(seen["span"].as_str().unwrap().to_owned());
        }
    }
    // Beyond that by chance once in 10^13 runs.
    assert!((47..=153).contains(&recorded.len()), "{}", recorded.len());
    let told = || -> HashSet<String> {
        let told = collector.told();
        let asked = told.iter().filter(|told| told["kind"] == "client");
        asked.map(|span| span["span"].as_str().unwrap().to_owned()).collect()
    };
    eventually("all of those are told, and no others", async || told() == recorded).await;
}

#[tokio::test]
async fn handshakes_of_tls_are_traces_of_their_own() {
    let Some(collector) = Collector::start(&[]).await else { return };
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let setup =
        Setup::before(&[collector.address()]).listener(format!("tls: {{ certificates: [{}] }}", certificate.yaml()));
    let gateway = to(&collector, "", setup).start().await;
    let stream = authority.client(&["http/1.1"]).connect(gateway.address("web"), "a.test").await.unwrap();
    assert_eq!(Client::over(stream).get("/").await.status, 200);
    let handshake = collector.first("the handshake", |told| told["name"] == "TLS handshake").await;
    let said = &handshake["attributes"];
    assert_eq!(
        (&said["tls.protocol.version"], &said["tls.next_protocol"]),
        (&"1.3".into(), &"http/1.1".into()),
        "{handshake}"
    );
    assert_eq!((&said["tls.client.server_name"], &said["sockgate.listener"]), (&"a.test".into(), &"web".into()));
    assert!(said["tls.cipher"].as_str().unwrap().starts_with("TLS13_"), "{handshake}");
    assert_eq!((&handshake["parent"], &handshake["error"]), (&"".into(), &Value::Bool(false)));
    let request = collector.span("server", "GET app").await;
    assert_eq!(request["attributes"]["url.scheme"], "https");
    assert_ne!(request["trace"], handshake["trace"]);
    let mut stranger = Client::connect(gateway.address("web")).await;
    stranger.send("GET / HTTP/1.1\r\n\r\n").await;
    stranger.read_all().await;
    let failed =
        collector.first("the failed one", |told| told["name"] == "TLS handshake" && told["error"] == true).await;
    assert_eq!(failed["attributes"]["error.type"], "tls_handshake");
}

#[tokio::test]
async fn what_a_collector_does_not_take_is_counted_and_holds_nobody_up() {
    let Some(collector) = Collector::start(&["503", "refuse", "half", "hang"]).await else { return };
    let gateway = before(&collector, ", timeout: 3s").await;
    let spans =
        async |result: &str| gateway.metric(&format!("sockgate_trace_spans_total{{result=\"{result}\"}}")).await;
    let ask = async || assert_eq!(gateway.client().await.get("/").await.status, 200);
    // It is asked again when it says so, and then refuses for good.
    ask().await;
    eventually("a refusal is no reason to come again", async || spans("failed").await == 2.0).await;
    assert!(collector.told().iter().any(|told| told["asked_again"] == true));
    gateway.log_line("does not take 2 spans").await;
    ask().await;
    eventually("a part is taken", async || spans("rejected").await == 1.0).await;
    gateway.log_line("the collector rejects 1 spans: one too many").await;
    ask().await;
    collector.first("it hangs", |told| told["hangs"] == true).await;
    ask().await;
    eventually("it is given up, and asked again for the next", async || {
        spans("failed").await == 4.0 && spans("sent").await == 4.0
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_requests_nothing_but_spans() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let echo = Echo::start("echo").await;
    let gateway = Setup::before(&[echo.address()])
        .more(format!("traces: {{ endpoint: \"http://{nobody}\", sample: 1, timeout: 2s }}"))
        .start()
        .await;
    let mut client = gateway.client().await;
    let failed = async || gateway.metric("sockgate_trace_spans_total{result=\"failed\"}").await;
    eventually("batch after batch fails, and requests go on", async || {
        assert_eq!(client.get("/").await.status, 200);
        failed().await > 2.0
    })
    .await;
    assert_eq!(gateway.log_lines("does not take").len(), 1, "it is told of once a minute");
}

#[tokio::test]
async fn traces_are_switched_on_and_elsewhere_and_off_by_reload_and_the_last_ones_are_told() {
    let (Some(first), Some(second)) = (Collector::start(&[]).await, Collector::start(&[]).await) else { return };
    let off = Setup::before(&[first.address()]);
    let mut gateway = off.start().await;
    let valid = async |gateway: &Gateway| seen(gateway, 1, "").await["valid"] == true;
    assert!(!valid(&gateway).await);
    assert_eq!(gateway.reload(&to(&first, "", off.clone()).yaml()).await.status, 200);
    assert!(valid(&gateway).await);
    // What was recorded before goes where it was to go.
    assert_eq!(gateway.reload(&to(&second, "", off.clone()).yaml()).await.status, 200);
    first.span("server", "GET app").await;
    assert!(valid(&gateway).await);
    second.span("server", "GET app").await;
    let refused =
        gateway.reload(&to(&second, ", ca: /nowhere.pem", off.clone()).yaml().replace("http://", "https://")).await;
    assert!(
        refused.status != 200 && refused.text().contains("traces.ca: /nowhere.pem can't be used"),
        "{}",
        refused.text()
    );
    assert!(valid(&gateway).await, "a bad one changes nothing");
    assert_eq!(gateway.reload(&off.yaml()).await.status, 200);
    assert!(!valid(&gateway).await);
    assert_eq!(gateway.reload(&to(&second, "", off).yaml()).await.status, 200);
    let before = second.told().len();
    let last = seen(&gateway, 1, "").await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    second.first("the last span", |told| told["span"] == last["span"]).await;
    assert!(second.told().len() > before);
}
