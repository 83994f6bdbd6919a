//! As many connections as there are places, and what one more is told.

use std::time::{Duration, Instant};

use http::Request;
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::is_reset;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::tls::Authority;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Scripted, Setup, eventually};

for_each_engine! {
    one_more_than_a_listener_takes_is_told_so_at_once,
    a_refused_client_that_has_asked_already_reads_the_refusal,
    the_process_has_a_limit_over_all_listeners_that_admin_is_no_part_of,
    an_address_has_a_limit_of_its_own,
    a_place_is_given_back_however_a_connection_ends,
    a_failed_tls_handshake_keeps_no_place_and_a_full_tls_listener_resets,
    connections_are_bound_by_what_the_limit_of_open_files_allows,
    out_of_file_descriptors_no_server_is_blamed_and_accepting_waits,
}

/// A gateway whose listener has these keys, before one server; `more` is more of the file.
async fn gateway(listener: &str, more: &str) -> (Gateway, Echo) {
    let web = Echo::start("web").await;
    let gateway = Setup::before(&[web.address()]).listener(listener).more(more).start().await;
    (gateway, web)
}

async fn open(gateway: &Gateway) -> f64 {
    gateway.metric("sockgate_connections_open{listener=\"web\"}").await
}

async fn refused(gateway: &Gateway, limit: &str) -> f64 {
    gateway.metric(&format!("sockgate_connections_refused_total{{limit=\"{limit}\",listener=\"web\"}}")).await
}

/// Tries until there is a place, and asks for something.
async fn finds_a_place(gateway: &Gateway) {
    eventually("a place is free", async || {
        let mut client = gateway.client().await;
        client.try_send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.is_ok()
            && client.some_until(b"\r\n\r\n").await.is_some_and(|head| head.starts_with(b"HTTP/1.1 200"))
    })
    .await;
    eventually("it is given back", async || open(gateway).await == 0.0).await;
}

async fn one_more_than_a_listener_takes_is_told_so_at_once() {
    let (gateway, _web) = gateway("max_connections: 2", "").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.client().await;
        assert_eq!(client.get("/").await.status, 200);
        held.push(client);
    }
    for asked in 1..=20 {
        // Without a word of its own.
        let mut client = gateway.client().await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (503, Some("close")), "attempt {asked}");
        assert_eq!(answer.text(), "Too many connections.");
        assert!(client.read_all().await.is_empty());
    }
    assert_eq!(refused(&gateway, "listener").await, 20.0);
    assert_eq!(open(&gateway).await, 2.0);
    for client in &mut held {
        assert_eq!(client.get("/").await.status, 200, "those who are in stay in");
    }
    held.pop();
    eventually("a place is free", async || open(&gateway).await == 1.0).await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
}

async fn a_refused_client_that_has_asked_already_reads_the_refusal() {
    let (gateway, _web) = gateway("max_connections: 1", "").await;
    let mut held = gateway.client().await;
    assert_eq!(held.get("/").await.status, 200);
    for _ in 0..20 {
        let mut client = gateway.client().await;
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 503);
    }
}

async fn the_process_has_a_limit_over_all_listeners_that_admin_is_no_part_of() {
    let web = Echo::start("web").await;
    let raw = Scripted::start(|client, _| crate::support::server::greet(client)).await;
    let gateway = Gateway::start(&format!(
        "
limits: {{ connections: 2 }}
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
  raw: {{ kind: tcp, servers: [\"{}\"] }}
",
        web.address(),
        raw.address()
    ))
    .await;
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let mut tunnel = Client::connect(gateway.address("raw")).await;
    assert_eq!(tunnel.read(6).await, b"hello ");
    assert_eq!(gateway.client().await.answer().await.status, 503);
    assert!(is_reset(gateway.address("raw")).await, "no answer would be understood there");
    for _ in 0..5 {
        assert_eq!(gateway.admin("/readyz").await.status, 200, "admin answers while the gateway is full");
    }
    assert_eq!(refused(&gateway, "process").await, 1.0);
    drop(tunnel);
    eventually("the tunnel's place is free", async || {
        gateway.metric("sockgate_connections_open{listener=\"raw\"}").await == 0.0
    })
    .await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
}

async fn an_address_has_a_limit_of_its_own() {
    let (gateway, _web) = gateway("max_connections: 10", "limits: { connections_per_address: 2 }").await;
    let mut held = Vec::new();
    for last in [2, 2, 3, 3, 4] {
        let mut client = Client::connect_from(last, gateway.address("web")).await;
        assert_eq!(client.get("/").await.status, 200, "from 127.0.0.{last}");
        held.push(client);
    }
    for last in [2, 3] {
        assert_eq!(Client::connect_from(last, gateway.address("web")).await.answer().await.status, 503);
    }
    assert_eq!(refused(&gateway, "address").await, 2.0);
    held.remove(0);
    eventually("a place is free", async || open(&gateway).await == 4.0).await;
    assert_eq!(Client::connect_from(2, gateway.address("web")).await.get("/").await.status, 200);
    assert_eq!(Client::connect_from(3, gateway.address("web")).await.answer().await.status, 503);
}

async fn a_place_is_given_back_however_a_connection_ends() {
    let (gateway, _web) = gateway("max_connections: 1, detect: { flash_policy: true, inspect_delay: 200ms }", "").await;
    for (story, sent) in [
        ("nothing", String::new()),
        ("a head that is cut off", "GET / HT".to_owned()),
        ("no HTTP", "\0\x01".to_owned()),
        ("a bad request", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("a policy request", "<policy-file-request/>\0".to_owned()),
        ("a request whose answer is not waited for", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("a body that is cut off", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx".to_owned()),
        ("a WebSocket that is cut off", upgrade("/")),
    ] {
        let mut client = gateway.client().await;
        client.send(sent).await;
        drop(client);
        finds_a_place(&gateway).await;
        assert_eq!(gateway.metric("sockgate_panics_total").await, 0.0, "{story}");
    }
    let mut socket = gateway.client().await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
    assert_eq!(gateway.client().await.answer().await.status, 503, "a tunnel keeps its place");
    socket.finish().await;
    socket.read_all().await;
    finds_a_place(&gateway).await;
}

async fn a_failed_tls_handshake_keeps_no_place_and_a_full_tls_listener_resets() {
    let authority = Authority::new();
    let tls = format!("max_connections: 1, tls: {{ certificates: [{}] }}", authority.sign(&["a.test"]).yaml());
    let (gateway, _web) = gateway(&tls, "").await;
    let client = authority.client(&["http/1.1"]);
    for _ in 0..3 {
        let mut garbage = gateway.client().await;
        garbage.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        garbage.read_all().await;
        eventually("its place is free", async || open(&gateway).await == 0.0).await;
        let stranger = client.connect(gateway.address("web"), "other.test").await;
        assert!(stranger.is_err(), "the client does not like the certificate");
        eventually("its place is free", async || open(&gateway).await == 0.0).await;
    }
    let mut held = Client::over(client.connect(gateway.address("web"), "a.test").await.unwrap());
    assert_eq!(held.get("/").await.status, 200);
    assert!(is_reset(gateway.address("web")).await);
    assert_eq!(refused(&gateway, "listener").await, 1.0);
    drop(held);
    eventually("its place is free", async || open(&gateway).await == 0.0).await;
    let stream = client.connect(gateway.address("web"), "a.test").await.unwrap();
    assert_eq!(Client::over(stream).get("/").await.status, 200);
}

/// Time on the processors so far (proc(5)).
fn cpu_time(gateway: &Gateway) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux has told 100 ticks a second on every machine for decades.
    Duration::from_millis(ticks * 10)
}

/// Half of them are for servers, checks and the gateway itself: else its healthy servers would be out of reach.
async fn connections_are_bound_by_what_the_limit_of_open_files_allows() {
    let web = Echo::start("web").await;
    let gateway = Gateway::start_with_files(&Setup::before(&[web.address()]).yaml(), 100).await;
    gateway.log_line("limits.connections: 25, not 200000").await;
    eventually("the gateway is ready", async || gateway.admin("/readyz").await.status == 200).await;
    let mut clients = Vec::new();
    for _ in 0..25 {
        let mut client = gateway.client().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    assert_eq!(gateway.client().await.get("/").await.status, 503);
    assert_eq!(clients[0].get("/").await.status, 200, "those who are in are served");
}

/// Streams of HTTP/2 take descriptors that no limit of connections knows of.
async fn out_of_file_descriptors_no_server_is_blamed_and_accepting_waits() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let setup = Setup::before(&[address]).upstream("health: { check: tcp, interval: 1s, fall: 1 }");
    let gateway = Gateway::start_with_files(&setup.listener("backlog: 1024").yaml(), 100).await;
    eventually("the gateway is ready", async || gateway.admin("/readyz").await.status == 200).await;
    let streams = Http2::over(TcpStream::connect(gateway.address("web")).await.unwrap()).await;
    let mut held = Vec::new();
    for _ in 0..90 {
        held.push(streams.begin(Request::get("http://a.test/").body(()).unwrap(), "").await);
    }
    gateway.access_line(&["status=503", "closed_by=shortage"]).await;
    gateway.log_line("was not checked: can't connect: Too many open files").await;
    // The kernel answers for those who are not accepted yet.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(gateway.client().await);
    }
    gateway.log_line("can't accept, new connections wait").await;
    let (began, worked) = (Instant::now(), cpu_time(&gateway));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = (cpu_time(&gateway) - worked).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(busy < 0.5, "a gateway that can do nothing does nothing: {busy}");
    drop((held, streams));
    // Those who wait in the kernel have their turn once others leave.
    drop(silent);
    for mut client in waiting {
        assert!(matches!(client.get("/").await.status, 502 | 503), "its server is gone");
    }
    // The first thing that is said against it is true.
    let down = gateway.log_line(" is down: ").await;
    assert!(down.contains("refused"), "{down}");
    assert_eq!(gateway.metric("sockgate_panics_total").await, 0.0);
}
