//! Raw TCP: bytes to one of several servers and back, whatever they are.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sockgate::{ClientStream, Config, TcpApplication};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::support::client::{is_reset, tcp};
use crate::support::server::greet;
use crate::support::{Client, Echo, Gateway, Scripted, eventually, within};

/// A gateway with one raw listener over these servers.
async fn gateway(more: &str, servers: &[std::net::SocketAddr]) -> Gateway {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    Gateway::start_unready(&format!(
        "
listeners:
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
upstreams:
  raw:
    kind: tcp
    servers: [{}]
    {more}
",
        servers.join(", ")
    ))
    .await
}

async fn ready(gateway: &Gateway) {
    eventually("the gateway is ready", async || gateway.admin("/readyz").await.status == 200).await;
}

/// A server that says its letter to whoever connects and then waits for the end.
async fn lettered(letter: &'static str) -> Scripted {
    Scripted::start(move |mut client, _| async move {
        if client.try_send(letter).await.is_ok() {
            while client.some().await.is_some() {}
        }
    })
    .await
}

/// An address that nobody listens on.
async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn letter(gateway: &Gateway) -> (Client, String) {
    let mut client = Client::connect(gateway.address("raw")).await;
    let letter = String::from_utf8(client.read(1).await).unwrap();
    (client, letter)
}

#[tokio::test]
async fn upstreams_share_connections_by_their_weights() {
    let servers = [lettered("a").await, lettered("b").await, lettered("c").await];
    let before = |shares: &str| {
        format!(
            "
listeners:
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: {shares} }}
upstreams:
  a: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }} }}
  b: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }} }}
  c: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }} }}
",
            servers[0].address(),
            servers[1].address(),
            servers[2].address()
        )
    };
    let mut gateway =
        Gateway::start(&before("[{ name: a, weight: 3 }, { name: b, weight: 1 }, { name: c, weight: 0 }]")).await;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..80 {
        *counts.entry(letter(&gateway).await.1).or_default() += 1;
    }
    assert!(counts.len() == 2 && counts["b"] >= 5 && counts["a"] > counts["b"], "{counts:?}");
    gateway.reload(&before("c")).await;
    assert_eq!(letter(&gateway).await.1, "c");
}

/// Waits until both servers take connections.
async fn both_up(gateway: &Gateway, servers: [&Scripted; 2]) {
    for server in servers {
        let up = format!("sockgate_server_up{{upstream=\"raw\",server=\"{}\"}}", server.address());
        eventually("both are up", async || gateway.metric(&up).await == 1.0).await;
    }
}

#[tokio::test]
async fn connections_are_shared_out_in_turn() {
    let (a, b) = (lettered("a").await, lettered("b").await);
    let gateway = gateway("balance: round_robin", &[a.address(), b.address()]).await;
    ready(&gateway).await;
    both_up(&gateway, [&a, &b]).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(letter(&gateway).await);
    }
    for expected in ["a", "b"] {
        assert_eq!(open.iter().filter(|(_, letter)| letter == expected).count(), 5, "{expected}");
    }
}

#[tokio::test]
async fn least_connections_counts_tunnels_for_as_long_as_they_live() {
    let (a, b) = (lettered("a").await, lettered("b").await);
    let gateway = gateway("balance: least_connections", &[a.address(), b.address()]).await;
    ready(&gateway).await;
    both_up(&gateway, [&a, &b]).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(letter(&gateway).await);
    }
    assert_eq!(open.iter().filter(|(_, letter)| letter == "a").count(), 3);
    open.retain(|(_, letter)| letter == "b");
    eventually("those of a have ended", async || {
        gateway.metric("sockgate_tunnels_open{upstream=\"raw\"}").await == 3.0
    })
    .await;
    for _ in 0..3 {
        let (client, letter) = letter(&gateway).await;
        assert_eq!(letter, "a");
        open.push((client, letter));
    }
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_comes_back() {
    let (a, b) = (lettered("a").await, lettered("b").await);
    let gateway = gateway("health: { interval: 1s, fall: 1 }", &[a.address(), b.address()]).await;
    ready(&gateway).await;
    let address = a.address();
    drop(a);
    eventually("a is gone", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    for _ in 0..4 {
        assert_eq!(letter(&gateway).await.1, "b", "before a check has noticed, the connect tells");
    }
    eventually("the check notices", async || gateway.admin("/status").await.text().contains("\"down\"")).await;
    assert_eq!(letter(&gateway).await.1, "b");
    let _again = Scripted::start_at(address, |mut client, _| async move {
        if client.try_send("a").await.is_ok() {
            while client.some().await.is_some() {}
        }
    })
    .await;
    eventually("a is used again", async || letter(&gateway).await.1 == "a").await;
}

#[tokio::test]
async fn a_server_that_refuses_costs_the_client_nothing() {
    let b = lettered("b").await;
    let checks = "health: { check: none }\n    ejection: { failures: 0 }";
    let gateway = gateway(checks, &[nobody().await, b.address()]).await;
    for _ in 0..6 {
        assert_eq!(letter(&gateway).await.1, "b");
    }
    gateway.access_line(&["event=close", "protocol=TCP", "tries=2"]).await;
}

#[tokio::test]
async fn with_no_server_left_the_connection_is_reset() {
    let unchecked = "health: { check: none }\n    timeouts: { connect: 2s }";
    for (more, word) in [(unchecked, "connect_failed"), ("health: { fall: 1 }", "no_server")] {
        let gateway = gateway(more, &[nobody().await, nobody().await]).await;
        if word == "no_server" {
            eventually("both are known to be down", async || {
                let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
                let servers = status["upstreams"][0]["servers"].as_array().unwrap();
                servers.iter().all(|server| server["state"] == "down")
            })
            .await;
        }
        assert!(is_reset(gateway.address("raw")).await);
        gateway.access_line(&[&format!("closed_by={word}")]).await;
        assert_eq!(gateway.metric(&format!("sockgate_refusals_total{{reason=\"{word}\"}}")).await, 1.0);
    }
}

#[tokio::test]
async fn either_side_may_finish_first_and_still_listen() {
    let server = Scripted::start(|mut client, _| async move {
        let Some(first) = client.some_of(1).await else { return };
        if first == b"c" {
            // The client finishes, then the server answers.
            let question = client.read_all().await;
            client.send([b"you said ", question.as_slice()].concat()).await;
            client.finish().await;
        } else {
            client.send("all I had to say").await;
            client.finish().await;
            let heard = client.read_all().await;
            assert_eq!(heard, b"and I went on");
        }
    })
    .await;
    let gateway = gateway("", &[server.address()]).await;
    ready(&gateway).await;
    let mut client = Client::connect(gateway.address("raw")).await;
    client.send("c").await;
    client.send("question").await;
    client.finish().await;
    assert_eq!(client.read_all().await, b"you said question");
    gateway.access_line(&["closed_by=client", "bytes_in=9", "bytes_out=17"]).await;
    let mut client = Client::connect(gateway.address("raw")).await;
    client.send("s").await;
    assert_eq!(client.read_all().await, b"all I had to say");
    client.send("and I went on").await;
    client.finish().await;
    gateway.access_line(&["closed_by=server", "bytes_in=14", "bytes_out=16"]).await;
}

#[tokio::test]
async fn a_broken_connection_is_not_passed_on_as_a_proper_end() {
    let broken = Arc::new(Notify::new());
    let told = Arc::clone(&broken);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let mut first = [0];
                match stream.read(&mut first).await {
                    Ok(1) if first == *b"r" => stream.set_zero_linger().unwrap(),
                    Ok(1) => {
                        let error = stream.read(&mut first).await.unwrap_err();
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                        told.notify_one();
                    }
                    _ => {}
                }
            });
        }
    });
    let gateway = gateway("", &[server]).await;
    ready(&gateway).await;
    let mut client = tcp(gateway.address("raw")).await;
    client.write_all(b"r").await.unwrap();
    let error = within("the reset", client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    gateway.access_line(&["closed_by=server_lost"]).await;
    let mut client = tcp(gateway.address("raw")).await;
    client.write_all(b"w").await.unwrap();
    eventually("the server has it", async || gateway.metric("sockgate_tunnels_open{upstream=\"raw\"}").await == 1.0)
        .await;
    client.set_zero_linger().unwrap();
    drop(client);
    within("the server is told", broken.notified()).await;
    gateway.access_line(&["closed_by=client_lost"]).await;
}

#[tokio::test]
async fn silence_of_both_sides_ends_a_tunnel_and_a_word_puts_that_off() {
    let server = Scripted::start(|client, _| greet(client)).await;
    let gateway = gateway("timeouts: { tunnel_idle: 1s }", &[server.address()]).await;
    ready(&gateway).await;
    let mut client = Client::connect(gateway.address("raw")).await;
    assert_eq!(client.read(6).await, b"hello ");
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send("x").await;
        assert_eq!(client.read(1).await, b"x");
    }
    let began = std::time::Instant::now();
    assert!(client.read_all().await.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    gateway.access_line(&["event=close", "closed_by=idle", "bytes_in=4"]).await;
}

#[tokio::test]
async fn twenty_megabytes_pass_intact_both_ways_at_once() {
    let server = Scripted::start(|client, _| greet(client)).await;
    let gateway = gateway("", &[server.address()]).await;
    ready(&gateway).await;
    let (mut reading, mut writing) = tcp(gateway.address("raw")).await.into_split();
    let sent: Arc<Vec<u8>> =
        Arc::new((0..20_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect());
    let copy = Arc::clone(&sent);
    let write = tokio::spawn(async move {
        writing.write_all(&copy).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    let mut got = Vec::with_capacity(20_000_006);
    within("all of it", reading.read_to_end(&mut got)).await.unwrap();
    write.await.unwrap();
    assert_eq!(&got[..6], b"hello ");
    assert!(got[6..] == **sent, "{} bytes came back", got.len() - 6);
    gateway.access_line(&["event=close", "bytes_in=20000000", "bytes_out=20000006"]).await;
    assert_eq!(gateway.metric("sockgate_tunnel_bytes_total{direction=\"in\",upstream=\"raw\"}").await, 20e6);
}

#[tokio::test]
async fn unix_sockets_serve_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let listener = UnixListener::bind(path("app.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(greet(Client::over(stream)));
        }
    });
    let web = UnixListener::bind(path("web.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = web.accept().await {
            tokio::spawn(crate::support::server::echo("web", Client::over(stream)));
        }
    });
    let mut gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: raw, address: \"unix:{raw}\", protocol: tcp, upstream: raw }}
  - {{ name: web, address: \"unix:{front}\" }}
routes:
  - upstream: web
upstreams:
  raw: {{ kind: tcp, servers: [\"unix:{app}\"] }}
  web: {{ servers: [\"unix:{web}\"] }}
",
        raw = path("raw"),
        front = path("front"),
        app = path("app.sock"),
        web = path("web.sock")
    ))
    .await;
    let mut client = Client::over(UnixStream::connect(path("raw")).await.unwrap());
    client.send("half-closed").await;
    client.finish().await;
    assert_eq!(client.read_all().await, b"hello half-closed");
    let mut client = Client::over(UnixStream::connect(path("front")).await.unwrap());
    for _ in 0..2 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.header("x-server")), (200, Some("web")));
    }
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert!(!std::path::Path::new(&path("raw")).exists(), "the socket file goes with its listener");
    assert!(!std::path::Path::new(&path("front")).exists());
}

#[tokio::test]
async fn ipv6_is_an_address_like_any_other() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        return eprintln!("this machine has no IPv6");
    }
    let web = Echo::start("web").await;
    let server = TcpListener::bind("[::1]:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            tokio::spawn(greet(Client::over(stream)));
        }
    });
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: raw, address: \"[::1]:0\", protocol: tcp, upstream: raw }}
  - {{ name: web, address: \"[::1]:0\" }}
  - {{ name: both, address: \"[::]:0\" }}
routes:
  - upstream: web
upstreams:
  raw: {{ kind: tcp, servers: [\"{address}\"] }}
  web: {{ servers: [\"{}\"] }}
",
        web.address()
    ))
    .await;
    let mut client = Client::connect(gateway.address("raw")).await;
    client.finish().await;
    assert_eq!(client.read_all().await, b"hello ");
    let told = gateway.client().await.get("/").await.text().to_ascii_lowercase();
    assert!(told.contains("x-forwarded-for: ::1\r\n"), "{told}");
    let ipv4 = std::net::SocketAddr::from(([127, 0, 0, 1], gateway.address("both").port()));
    let told = Client::connect(ipv4).await.get("/").await.text().to_ascii_lowercase();
    assert!(told.contains("x-forwarded-for: 127.0.0.1\r\n"), "an IPv4 client is one, on an IPv6 socket too: {told}");
}

/// Says the name of its listener, and whether the gateway stops.
struct Namer;

#[async_trait::async_trait]
impl TcpApplication for Namer {
    async fn serve(&self, mut client: ClientStream) {
        let name = format!("{} {}\n", client.listener(), client.client().ip());
        let _ = client.write_all(name.as_bytes()).await;
        client.leaving().await;
        let _ = client.write_all(b"goodbye").await;
    }
}

const OWN: &str = "listeners: [{ name: own, address: 127.0.0.1:0, protocol: application }]\n";

#[tokio::test]
async fn an_application_of_a_program_serves_its_listener_until_the_gateway_stops() {
    let config = Config::read("test.yaml", OWN, &|_| None).unwrap().config;
    let gateway = sockgate::Gateway::builder(config).application("own", Namer).build().unwrap();
    let (address, handle) = (gateway.address("own").unwrap().parse().unwrap(), gateway.handle());
    let running = std::thread::spawn(move || gateway.run());
    let mut client = Client::connect(address).await;
    assert_eq!(within("its name", client.read(14)).await, b"own 127.0.0.1\n");
    handle.stop();
    assert_eq!(within("its end", client.read_all()).await, b"goodbye");
    running.join().unwrap();
}

#[test]
fn an_application_and_its_listener_need_each_other() {
    let http = "listeners: [{ name: own, address: 127.0.0.1:0 }]\nroutes: [{ respond: {} }]\n";
    let fault = |yaml: &str, names: &[&str]| {
        let config = Config::read("test.yaml", yaml, &|_| None).unwrap().config;
        let builder = names.iter().fold(sockgate::Gateway::builder(config), |all, name| all.application(name, Namer));
        builder.build().err().map(|fault| fault.to_string()).unwrap_or_default()
    };
    assert_eq!(fault(OWN, &["own"]), "");
    for (yaml, names, expected) in [
        (OWN, &[][..], "listener own: `protocol: application`, and the program brings no application for it"),
        (
            OWN,
            &["own", "own2"],
            "listener `own2`: the program brings an application for it, and the configuration has no",
        ),
        (http, &["own"], "has another protocol for it: expected `protocol: application`"),
    ] {
        assert!(fault(yaml, names).contains(expected), "{}", fault(yaml, names));
    }
}
