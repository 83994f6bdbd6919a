//! Several protocols on one port, told apart by their first bytes.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::tcp;
use crate::support::http2::Http2;
use crate::support::server::greet;
use crate::support::tls::Authority;
use crate::support::{Client, Echo, Gateway, Scripted, Setup, eventually};

const POLICY_REQUEST: &[u8] = b"<policy-file-request/>\0";
const POLICY: &[u8] = b"<allow-access-from domain=\"*\" to-ports=\"*\"/></cross-domain-policy>\0";

/// A gateway whose listener `all` has this `detect`, over a web server and a TCP server that speaks first.
async fn gateway(listener: &str, rest: &str) -> (Gateway, Echo, Scripted) {
    let (web, raw) = (Echo::start("web").await, Scripted::start(|client, _| greet(client)).await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: all, address: 127.0.0.1:0, {listener} }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
  raw: {{ kind: tcp, servers: [\"{}\"] }}
{rest}",
        web.address(),
        raw.address()
    ))
    .await;
    (gateway, web, raw)
}

#[tokio::test]
async fn l4_l7_same_port() {
    let (gateway, _web, _raw) = gateway("detect: { flash_policy: true, tcp: raw, inspect_delay: 500ms }", "").await;
    let connect = async || Client::connect(gateway.address("all")).await;

    assert_eq!(connect().await.get("/socket.io/").await.header("x-server"), Some("web"));

    let mut flash = connect().await;
    flash.send(POLICY_REQUEST).await;
    assert!(flash.read_all().await.ends_with(POLICY), "the policy, a NUL and the end");

    let mut binary = connect().await;
    binary.send(b"\x01\x02binary").await;
    binary.finish().await;
    assert_eq!(binary.read_all().await, b"hello \x01\x02binary");

    // A server that speaks first has to wait for the delay, and the client gets its greeting then and not before.
    let began = Instant::now();
    let mut silent = connect().await;
    assert_eq!(silent.read(6).await, b"hello ");
    let waited = began.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_millis(1500)).contains(&waited), "{waited:?}");

    // What could still have become something else is not lost when it does not.
    let mut undecided = JoinSet::new();
    for start in ["G", "POST", "<policy-file-", "PRI * HTTP/2.0\r\n", "\r\n"] {
        let mut client = connect().await;
        undecided.spawn(async move {
            client.send(start).await;
            assert_eq!(client.read(6 + start.len()).await, format!("hello {start}").as_bytes());
            client.send(" and the rest").await;
            client.finish().await;
            assert_eq!(client.read_all().await, b" and the rest");
        });
    }
    undecided.join_all().await;
}

#[tokio::test]
async fn http_2_by_prior_knowledge_is_told_apart_too() {
    let (gateway, _web, _raw) = gateway("detect: { flash_policy: true, tcp: raw, inspect_delay: 5s }", "").await;
    let client = Http2::over(tcp(gateway.address("all")).await).await;
    assert_eq!(client.get("http://a.test/").await.status(), 200);
    // The preface byte by byte, then SETTINGS; the gateway answers with its own.
    let mut slow = Client::connect(gateway.address("all")).await;
    byte_by_byte(&mut slow, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!(slow.read(9).await[3..5], *b"\x04\0", "a SETTINGS frame");
}

/// What a client does, and what has to come of it.
#[derive(Clone, Copy, Debug)]
enum Story {
    Get,
    GetInTwo,
    GetByteByByte,
    Post,
    Policy,
    PolicyByteByByte,
    Binary,
    AlmostHttp,
    AlmostPolicy,
    Silent,
}

/// Twenty connections in a row; one of them is silent, since each of those takes a whole delay.
const STORIES: [Story; 20] = {
    use Story::*;
    [
        Get,
        Policy,
        Binary,
        GetInTwo,
        PolicyByteByByte,
        AlmostHttp,
        GetByteByByte,
        Post,
        AlmostPolicy,
        Get,
        Binary,
        GetInTwo,
        Policy,
        GetByteByByte,
        Binary,
        Post,
        PolicyByteByByte,
        AlmostHttp,
        GetInTwo,
        Silent,
    ]
};
const CONNECTIONS: usize = 10_000;
const AT_ONCE: usize = 300;
/// Long enough for a busy machine to get a cut request through.
const DELAY: Duration = Duration::from_secs(2);

async fn byte_by_byte(client: &mut Client, bytes: &[u8]) {
    for byte in bytes {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
}

/// Plays one connection; an error tells what came instead.
async fn play(address: std::net::SocketAddr, number: usize, story: Story) -> Result<(), String> {
    let began = Instant::now();
    let mut client = Client::connect(address).await;
    let get = format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let raw = match story {
        Story::Binary => format!("\0\x01\x02{number}"),
        Story::AlmostHttp => format!("GET\0/ HTTP/1.1\r\n\r\n{number}"),
        Story::AlmostPolicy => format!("<policy-file-request/>\n{number}"),
        _ => number.to_string(),
    };
    match story {
        Story::Get => client.send(&get).await,
        Story::GetInTwo => {
            let (start, end) = get.split_at(1 + number % (get.len() - 1));
            client.send(start).await;
            tokio::task::yield_now().await;
            client.send(end).await;
        }
        Story::GetByteByByte => byte_by_byte(&mut client, get.as_bytes()).await,
        Story::Post => {
            let body = number.to_string();
            client
                .send(get.replace("GET", "POST").replace("Host", &format!("Content-Length: {}\r\nHost", body.len())))
                .await;
            tokio::task::yield_now().await;
            client.send(body).await;
        }
        Story::Policy => client.send(POLICY_REQUEST).await,
        Story::PolicyByteByByte => byte_by_byte(&mut client, POLICY_REQUEST).await,
        Story::Binary | Story::AlmostHttp | Story::AlmostPolicy => {
            client.send(&raw).await;
            client.finish().await;
        }
        Story::Silent => {
            let greeting = client.read(6).await;
            if greeting != b"hello " || began.elapsed() < DELAY {
                return Err(format!("{greeting:?} after {:?}", began.elapsed()));
            }
            client.send(&raw).await;
            client.finish().await;
            let echoed = client.read_all().await;
            return if echoed == raw.as_bytes() { Ok(()) } else { Err(format!("{echoed:?}")) };
        }
    }
    let came = client.read_all().await;
    let text = String::from_utf8_lossy(&came);
    let as_it_should = match story {
        Story::Get | Story::GetInTwo | Story::GetByteByByte => text.contains(&format!("web\nGET /{number} HTTP/1.1")),
        Story::Post => {
            text.contains(&format!("web\nPOST /{number} HTTP/1.1")) && text.ends_with(&format!("\r\n\r\n{number}"))
        }
        Story::Policy | Story::PolicyByteByByte => came.starts_with(b"<?xml") && came.ends_with(POLICY),
        _ => came.strip_prefix(b"hello ") == Some(raw.as_bytes()),
    };
    if as_it_should { Ok(()) } else { Err(format!("{text:?}")) }
}

#[tokio::test]
async fn luke_no_random_backend() {
    let (gateway, _web, raw) = gateway("detect: { flash_policy: true, tcp: raw, inspect_delay: 2s }", "").await;
    let address = gateway.address("all");
    let began = Instant::now();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for number in 0..CONNECTIONS {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        running.spawn(async move {
            let story = STORIES[number % STORIES.len()];
            let played = play(address, number, story).await;
            drop(place);
            played.map_err(|came| format!("{number} {story:?}: {came}"))
        });
    }
    let misrouted: Vec<String> = running.join_all().await.into_iter().filter_map(Result::err).collect();
    // Not by a macro, whose output the test harness would keep to itself.
    let _ = writeln!(
        std::io::stderr(),
        "luke_no_random_backend: {} of {CONNECTIONS} connections misrouted, in {:.1?}",
        misrouted.len(),
        began.elapsed()
    );
    assert!(misrouted.is_empty(), "{} misrouted, such as {:#?}", misrouted.len(), &misrouted[..misrouted.len().min(5)]);
    let each = CONNECTIONS / STORIES.len();
    for (protocol, count) in [("http1", 9), ("flash_policy", 4), ("other", 6), ("silent", 1)] {
        let counted =
            gateway.metric(&format!("sockgate_detected_total{{listener=\"all\",protocol=\"{protocol}\"}}")).await;
        assert_eq!(counted, (count * each) as f64, "{protocol}");
    }
    assert!(raw.accepted() > 7 * each, "each raw connection had one of its own, and there were checks");
    eventually("nothing is left", async || {
        gateway.metric("sockgate_connections_open{listener=\"all\"}").await == 0.0
            && gateway.metric("sockgate_tunnels_open{upstream=\"raw\"}").await == 0.0
    })
    .await;
    assert_eq!(gateway.metric("sockgate_panics_total").await, 0.0);
}

#[tokio::test]
async fn without_a_tcp_upstream_what_is_not_http_is_closed() {
    let (gateway, _web, _raw) = gateway("detect: { inspect_delay: 300ms }", "").await;
    for strange in [b"\0binary".as_slice(), POLICY_REQUEST, b"\x16\x03\x01\0\x05hello"] {
        let mut client = Client::connect(gateway.address("all")).await;
        client.send(strange).await;
        assert!(client.read_all().await.is_empty(), "{strange:?} gets nothing");
    }
    for undecided in ["", "GE"] {
        let mut client = Client::connect(gateway.address("all")).await;
        let began = Instant::now();
        client.send(undecided).await;
        assert!(client.read_all().await.is_empty());
        assert!(began.elapsed() >= Duration::from_millis(300), "not before the delay");
    }
    assert_eq!(Client::connect(gateway.address("all")).await.get("/").await.status, 200);
    assert!(gateway.access_lines().iter().all(|line| !line.contains("protocol=TCP")), "nobody was carried");
}

#[tokio::test]
async fn a_request_that_has_begun_may_take_longer_than_the_delay() {
    let (gateway, _web, _raw) = gateway("detect: { tcp: raw, inspect_delay: 200ms }", "").await;
    let mut client = Client::connect(gateway.address("all")).await;
    client.send("GET / HTTP/1.1\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.send("Host: a.test\r\n\r\n").await;
    assert_eq!(client.answer().await.header("x-server"), Some("web"));
}

#[tokio::test]
async fn without_detection_nonsense_is_told_so_and_silence_lasts_as_long_as_a_head_may() {
    let (gateway, _web, _raw) = gateway("backlog: 64", "timeouts: { head: 500ms }").await;
    let mut nonsense = Client::connect(gateway.address("all")).await;
    nonsense.send(b"\0\x01\x02 this is no HTTP\r\n\r\n").await;
    assert_eq!(nonsense.answer().await.status, 400);
    let began = Instant::now();
    let mut silent = Client::connect(gateway.address("all")).await;
    assert!(silent.read_all().await.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn where_heads_have_no_time_limit_a_silent_client_is_waited_for() {
    let (gateway, _web, _raw) = gateway("backlog: 64", "timeouts: { head: 0s }").await;
    let mut client = Client::connect(gateway.address("all")).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.send("G").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.send("ET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn the_same_is_told_apart_within_tls() {
    let authority = Authority::new();
    let tls = format!("tls: {{ certificates: [{}] }}", authority.sign(&["a.test"]).yaml());
    let detect = "detect: { flash_policy: true, tcp: raw, inspect_delay: 400ms }";
    let (gateway, _web, _raw) = gateway(&format!("{tls}, {detect}"), "").await;
    let tls = authority.client(&[]);
    let connect = async || Client::over(tls.connect(gateway.address("all"), "a.test").await.unwrap());

    let mut split = connect().await;
    byte_by_byte(&mut split, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(split.answer().await.header("x-server"), Some("web"));

    let mut flash = connect().await;
    byte_by_byte(&mut flash, POLICY_REQUEST).await;
    assert!(flash.read_all().await.ends_with(POLICY));

    let mut binary = connect().await;
    binary.send(b"\x01\x02binary").await;
    binary.finish().await;
    assert_eq!(binary.read_all().await, b"hello \x01\x02binary");

    let began = Instant::now();
    let mut silent = connect().await;
    assert_eq!(silent.read(6).await, b"hello ");
    assert!(began.elapsed() >= Duration::from_millis(400));

    // Who has agreed on HTTP by ALPN may take the time of a head to begin.
    let stream = authority.client(&["http/1.1"]).connect(gateway.address("all"), "a.test").await.unwrap();
    let mut agreed = Client::over(stream);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(agreed.get("/").await.header("x-server"), Some("web"));
}

#[tokio::test]
async fn many_silent_clients_do_not_hold_up_those_who_speak() {
    let (gateway, _web, _raw) = gateway("detect: { tcp: raw, inspect_delay: 5s }", "").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Client::connect(gateway.address("all")).await);
    }
    let began = Instant::now();
    assert_eq!(Client::connect(gateway.address("all")).await.get("/").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5));
    // Those who leave undecided are nobody's any more.
    drop(silent);
    eventually("they are gone", async || {
        gateway.metric("sockgate_detected_total{listener=\"all\",protocol=\"gone\"}").await == 200.0
    })
    .await;
}

/// Detection takes its time; what it decides on may be gone by then.
#[tokio::test]
async fn a_raw_connection_whose_upstream_is_gone_has_its_line() {
    let web = Echo::start("web").await;
    let before = Setup::before(&[web.address()]).listener("detect: { tcp: raw, inspect_delay: 2s }");
    let raw = format!("upstreams:\n  raw: {{ kind: tcp, servers: [\"{}\"] }}\n", web.address());
    let mut gateway = Gateway::start(&before.yaml().replace("upstreams:\n", &raw)).await;
    let mut client = gateway.client().await;
    eventually("it is accepted", async || gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 1.0)
        .await;
    let after = Setup::before(&[web.address()]).listener("detect: { inspect_delay: 2s }");
    assert_eq!(gateway.reload(&after.yaml()).await.status, 200);
    gateway.access_line(&["protocol=TCP", "closed_by=no_route"]).await;
    let _ = client.ending().await;
}
