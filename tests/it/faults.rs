//! Servers, disks, certificates and clients fail in every way there is, and no more is lost than has to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sockgate::{Action, Config, Decision, Request, Route, Router};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::upgrade;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::Node;
use crate::support::tls::Authority;
use crate::support::{Client, Echo, Gateway, Puppet, Scripted, eventually, within};

for_each_engine! {
    a_killed_server_takes_what_was_open_on_it_and_nothing_else,
    a_stopped_server_is_passed_over_and_its_sockets_outlive_that,
    a_slow_server_holds_up_only_those_who_wait_for_it,
    a_full_disk_costs_lines_of_the_access_log_and_no_request,
    slow_loris_clients_hold_up_nobody_and_are_cut,
    who_reads_slowly_costs_no_memory_in_either_direction,
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How requests ended: by status, or 0 where the answer never came whole.
type Tally = BTreeMap<u16, usize>;

/// Clients that ask one request after the other on connections that they keep, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<Tally>,
}

impl Load {
    fn start(gateway: &Gateway, clients: usize) -> Self {
        let address = gateway.address("web");
        let mut load = Self { stop: Arc::default(), done: Arc::default(), clients: JoinSet::new() };
        for _ in 0..clients {
            let (stop, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
            load.clients.spawn(async move {
                let mut tally = Tally::new();
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.try_ask(GET).await;
                    let reusable = answer.as_ref().is_some_and(|answer| answer.header("connection") != Some("close"));
                    *tally.entry(answer.map_or(0, |answer| answer.status)).or_default() += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                    if !reusable {
                        client = Client::connect(address).await;
                    }
                }
                tally
            });
        }
        load
    }

    /// Waits until this many more requests have been answered.
    async fn goes_on(&self, requests: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the load goes on", async || self.done.load(Ordering::Relaxed) >= before + requests).await;
    }

    async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::new();
        for tally in self.clients.join_all().await {
            for (status, count) in tally {
                *sum.entry(status).or_default() += count;
            }
        }
        sum
    }
}

/// Everything but 200.
fn failed(tally: &Tally) -> usize {
    tally.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum()
}

/// Two WebSocket servers that are processes of their own, `a` and `b`, behind one gateway.
async fn two(more: &str) -> ([Node; 2], Gateway) {
    let servers =
        [Node::start("ws_server.js", &["--id", "a"]).await, Node::start("ws_server.js", &["--id", "b"]).await];
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app:
    servers: [{{ address: \"127.0.0.1:{}\", name: a }}, {{ address: \"127.0.0.1:{}\", name: b }}]
    {more}
",
        servers[0].port(),
        servers[1].port()
    ))
    .await;
    for name in ["a", "b"] {
        let up = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}\"}}");
        eventually("both are up", async || gateway.metric(&up).await == 1.0).await;
    }
    (servers, gateway)
}

/// A WebSocket, and the name of the server that it is open on.
async fn socket(gateway: &Gateway) -> (Client, String) {
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(upgrade("/greet")).await;
    assert_eq!(client.answer().await.status, 101);
    let greeting = client.read(14).await;
    let name = String::from_utf8_lossy(&greeting[2..]).strip_prefix("hello from ").unwrap().to_owned();
    (client, name)
}

/// A text frame of a client, masked with nothing.
const WORD: &[u8] = b"\x81\x84\0\0\0\0word";
/// The same as a server sends it.
const WORD_BACK: &[u8] = b"\x81\x04word";

async fn echoes(socket: &mut Client) {
    socket.send(WORD).await;
    assert_eq!(socket.read(WORD_BACK.len()).await, WORD_BACK);
}

async fn a_killed_server_takes_what_was_open_on_it_and_nothing_else() {
    const CLIENTS: usize = 8;
    const SOCKETS: usize = 20;
    let ([mut a, _b], gateway) = two("health: { interval: 1s }").await;
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(socket(&gateway).await);
    }
    let there = sockets.iter().filter(|(_, name)| name == "a").count();
    assert_eq!(there, SOCKETS / 2, "in turn");
    let load = Load::start(&gateway, CLIENTS);
    load.goes_on(200).await;
    a.kill().await;
    gateway.log_line("server a is down: can't connect").await;
    load.goes_on(200).await;
    let tally = load.stop().await;
    // Each client had one request under way at most when it happened.
    assert!(failed(&tally) <= CLIENTS, "{tally:?}");
    let (mut kept, mut lost) = (0, 0);
    for (socket, name) in &mut sockets {
        if name == "b" {
            echoes(socket).await;
            kept += 1;
        } else {
            socket.read_all().await;
            lost += 1;
        }
    }
    assert_eq!((kept, lost), (SOCKETS - there, there), "{tally:?}");
    eprintln!("killed: requests {tally:?}, {kept} sockets kept, {lost} lost with their server");
}

/// Nothing tells a stopped process from a busy one: the kernel goes on accepting for it.
async fn a_stopped_server_is_passed_over_and_its_sockets_outlive_that() {
    let ([a, _b], gateway) = two("timeouts: { first_byte: 1s }\n    ejection: { bad_answers: 3, for: 1m }").await;
    let (mut sockets, mut on_a) = (Vec::new(), 0);
    for _ in 0..10 {
        let (socket, name) = socket(&gateway).await;
        on_a += usize::from(name == "a");
        sockets.push(socket);
    }
    a.signal(Signal::SIGSTOP);
    let mut tally = Tally::new();
    for _ in 0..40 {
        let answer = Client::connect(gateway.address("web")).await.try_ask(GET).await;
        *tally.entry(answer.map_or(0, |answer| answer.status)).or_default() += 1;
    }
    assert_eq!(tally, Tally::from([(200, 37), (504, 3)]), "three late answers are enough");
    gateway.log_line("server a is passed over for 60s: 3 bad answers in a row").await;
    a.signal(Signal::SIGCONT);
    for socket in &mut sockets {
        echoes(socket).await;
    }
    assert_eq!(on_a, 5);
    eprintln!("stopped: requests {tally:?}, all {} sockets kept, {on_a} of them on the stopped server", sockets.len());
}

#[tokio::test]
async fn a_server_that_resets_right_after_101_ends_that_socket_and_no_other() {
    const ROUNDS: usize = 40;
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let mut other = Client::connect(gateway.address("web")).await;
    other.send(upgrade("/")).await;
    let mut others_end = server.accept().await;
    others_end.request().await.unwrap();
    others_end.send(SWITCH).await;
    assert_eq!(other.answer().await.status, 101);
    let mut tally = Tally::new();
    for _ in 0..ROUNDS {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(upgrade("/")).await;
        let mut inside = server.accept_to_reset().await;
        inside.request().await.unwrap();
        inside.send(SWITCH).await;
        drop(inside);
        // The reset may overtake the answer, which is no answer then.
        let said = within("the end", client.read_all()).await;
        let status = String::from_utf8_lossy(&said).split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
        *tally.entry(status).or_default() += 1;
    }
    assert!(tally.keys().all(|status| [0, 101, 502].contains(status)), "{tally:?}");
    others_end.send("still here").await;
    assert_eq!(other.read(10).await, b"still here");
    eventually("nothing else is open", async || {
        gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 1.0
            && gateway.metric("sockgate_tunnels_open{upstream=\"app\"}").await == 1.0
    })
    .await;
    eprintln!("reset after 101: of {ROUNDS} openings {tally:?}");
}

async fn a_slow_server_holds_up_only_those_who_wait_for_it() {
    const WAITING: usize = 100;
    let gate = Arc::new(Semaphore::new(0));
    let slow = Scripted::start({
        let gate = Arc::clone(&gate);
        move |mut client, _| {
            let gate = Arc::clone(&gate);
            async move {
                while client.request().await.is_some() {
                    gate.acquire().await.unwrap().forget();
                    if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await;
    let quick = Echo::start("quick").await;
    // One thread, so that nobody could hide behind another.
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
threads: 1
routes:
  - {{ match: {{ path: /slow }}, upstream: slow }}
  - upstream: app
upstreams:
  slow: {{ servers: [\"{}\"] }}
  app: {{ servers: [\"{}\"] }}
",
        slow.address(),
        quick.address()
    ))
    .await;
    let in_flight = format!("sockgate_server_in_flight{{upstream=\"slow\",server=\"{}\"}}", slow.address());
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        waiting.push(client);
    }
    eventually("all wait", async || gateway.metric(&in_flight).await == WAITING as f64).await;
    let load = Load::start(&gateway, 4);
    load.goes_on(300).await;
    let tally = load.stop().await;
    assert_eq!(failed(&tally), 0, "{tally:?} while {WAITING} wait");
    assert_eq!(gateway.metric(&in_flight).await, WAITING as f64);
    gate.add_permits(WAITING);
    let mut answered = 0;
    for mut client in waiting {
        answered += usize::from(client.answer().await.status == 200);
    }
    assert_eq!(answered, WAITING);
    eprintln!("slow: {answered} of {WAITING} that waited were answered, and meanwhile {tally:?}");
}

#[tokio::test]
async fn a_certificate_that_turns_into_garbage_ends_no_running_gateway() {
    let authority = Authority::new();
    let issued = authority.sign(&["a.test"]);
    let server = Echo::start("a").await;
    let yaml = format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes:
  - upstream: app
upstreams:
  app: {{ servers: [\"{}\"] }}
",
        issued.yaml(),
        server.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let tls = authority.client(&["http/1.1"]);
    let mut open = Client::over(tls.connect(gateway.address("web"), "a.test").await.unwrap());
    assert_eq!(open.get("/").await.status, 200);
    std::fs::write(&issued.cert, "garbage").unwrap();
    std::fs::write(&issued.key, "").unwrap();
    assert_eq!(open.get("/").await.status, 200);
    // A client that has no ticket yet.
    let stranger = authority.client(&["http/1.1"]);
    for round in 1..=20 {
        let mut next = Client::over(stranger.connect(gateway.address("web"), "a.test").await.unwrap());
        assert_eq!(next.get("/").await.status, 200, "handshake {round} of 20");
    }
    // The next one to start is told.
    let (code, said) = Gateway::fails(&yaml.replace("name: web, ", "")).await;
    assert!(code == 1 && said.contains(&issued.cert), "{code}: {said}");
}

async fn a_full_disk_costs_lines_of_the_access_log_and_no_request() {
    const REQUESTS: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let server = Echo::start("a").await;
    let more = format!("access_log: {{ file: {} }}", file.display());
    let gateway = Gateway::before(&[server.address()], "", &more).await;
    let load = Load::start(&gateway, 4);
    load.goes_on(REQUESTS).await;
    let tally = load.stop().await;
    assert_eq!(failed(&tally), 0, "{tally:?}");
    gateway.log_line("access log: lines are lost: No space left on device").await;
    let lost = gateway.metric("sockgate_access_log_lost_total").await;
    assert!(lost >= 1.0, "operators can see it: {lost}");
    // Once there is room again, SIGUSR1 is all that it takes.
    std::fs::remove_file(&file).unwrap();
    gateway.signal(Signal::SIGUSR1);
    eventually("lines are written again", async || {
        assert_eq!(Client::connect(gateway.address("web")).await.get("/room").await.status, 200);
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("target=/room"))
    })
    .await;
    eprintln!("disk full: {tally:?}, {lost} writes of the log lost");
}

async fn slow_loris_clients_hold_up_nobody_and_are_cut() {
    const LORISES: usize = 500;
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "timeouts: { head: 3s }").await;
    let address = gateway.address("web");
    let mut lorises = JoinSet::new();
    for _ in 0..LORISES {
        lorises.spawn(async move {
            let mut client = Client::connect(address).await;
            let _ = client.try_send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
            let mut said = Vec::new();
            let dripping = async {
                while client.try_send("y").await.is_ok() {
                    match tokio::time::timeout(Duration::from_millis(250), client.some()).await {
                        Ok(Some(bytes)) => said.extend(bytes),
                        Ok(None) => break,
                        Err(_) => {}
                    }
                }
            };
            within("the loris is cut", dripping).await;
            said.starts_with(b"HTTP/1.1 408 ")
        });
    }
    let open = "sockgate_connections_open{listener=\"web\"}";
    eventually("all drip", async || gateway.metric(open).await >= LORISES as f64).await;
    let load = Load::start(&gateway, 4);
    load.goes_on(400).await;
    let among = gateway.metric(open).await;
    let tally = load.stop().await;
    assert_eq!(failed(&tally), 0, "{tally:?}");
    let told = lorises.join_all().await.into_iter().filter(|told| *told).count();
    let cut = gateway.metric("sockgate_refusals_total{reason=\"head_timeout\"}").await;
    assert_eq!(cut, LORISES as f64, "{told} of them read why");
    eventually("their places are free", async || gateway.metric(open).await == 0.0).await;
    eprintln!("loris: {tally:?} beside {LORISES} ({among} connections after these), all cut, {told} read 408");
}

/// Memory of the gateway in KiB.
fn resident(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn who_reads_slowly_costs_no_memory_in_either_direction() {
    const OFFERED: usize = 50_000_000;
    const PART: usize = 100_000;
    let (server, gateway) = Gateway::before_puppet("").await;
    for client_reads_late in [true, false] {
        let mut client = gateway.client().await;
        let body = if client_reads_late { 0 } else { OFFERED };
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n")).await;
        let mut inside = server.accept().await;
        inside.read_until(b"\r\n\r\n").await;
        let (mut reader, mut writer) = if client_reads_late {
            inside.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {OFFERED}\r\n\r\n")).await;
            client.read_until(b"\r\n\r\n").await;
            (client, inside)
        } else {
            (inside, client)
        };
        let before = resident(&gateway);
        let written = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&written);
        let writing = tokio::spawn(async move {
            let part = vec![0; PART];
            for _ in 0..OFFERED / PART {
                writer.try_send(&part).await.unwrap();
                count.fetch_add(PART, Ordering::Relaxed);
            }
            writer
        });
        // Nothing announces that a writer stands still.
        let mut last = usize::MAX;
        eventually("nothing more is taken", async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = written.load(Ordering::Relaxed);
            std::mem::replace(&mut last, now) == now
        })
        .await;
        let way = if client_reads_late { "the client of an answer" } else { "the server of a body" };
        assert!(last < OFFERED, "{way}: everything was taken");
        let waiting = resident(&gateway).saturating_sub(before);
        assert!(waiting < 4 * 1024, "{way}: {waiting} KiB more while {last} bytes wait");
        let mut got = 0;
        while got < OFFERED {
            let some = within("the rest", reader.some()).await;
            got += some.unwrap_or_else(|| panic!("{way}: cut after {got}")).len();
        }
        assert_eq!(got, OFFERED, "{way}: and all of it arrives");
        drop(writing.await.unwrap());
        let after = resident(&gateway).saturating_sub(before);
        assert!(after < 8 * 1024, "{way}: {after} KiB more after all");
        eprintln!("slow reader, {way}: {waiting} KiB while {last} bytes wait, {after} KiB after {OFFERED}");
    }
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A router that panics on one path.
struct Fragile(Arc<Route>);

impl Router for Fragile {
    fn route(&self, request: &Request<'_>) -> Decision {
        assert_ne!(request.path.canonical, "/panic", "on purpose, in a test");
        Decision::To(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_costs_one_connection_and_is_counted() {
    let server = Echo::start("a").await;
    let yaml = format!(
        "
listeners: [{{ name: web, address: 127.0.0.1:0 }}]
upstreams:
  app: {{ servers: [\"{}\"], health: {{ check: none }} }}
access_log: {{ format: \"off\" }}
admin: {{ address: 127.0.0.1:0 }}
",
        server.address()
    );
    let config = Config::read("test.yaml", &yaml, &|_| None).unwrap().config;
    let route = Arc::new(Route { name: "all".into(), action: Action::Upstream("app".into()) });
    let gateway = sockgate::Gateway::builder(config).router(Fragile(route)).build().unwrap();
    let address = |name: &str| gateway.address(name).unwrap().parse::<std::net::SocketAddr>().unwrap();
    let (web, admin, handle) = (address("web"), address("admin"), gateway.handle());
    let running = std::thread::spawn(move || gateway.run());
    let panics = async || {
        let text = Client::connect(admin).await.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix("sockgate_panics_total ")).unwrap().to_owned();
        line.parse::<f64>().unwrap()
    };

    let mut kept = Client::connect(web).await;
    assert_eq!(kept.get("/").await.status, 200);
    let mut socket = Client::connect(web).await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
    let http2 = Http2::over(Client::connect(web).await.into_stream()).await;
    assert_eq!(http2.get("http://a/").await.status(), 200);

    let mut ended = Client::connect(web).await;
    assert!(ended.try_ask("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await.is_none(), "no answer, and the end");
    eventually("it is counted", async || panics().await == 1.0).await;
    let mut ended = Client::connect(web).await;
    assert!(ended.try_ask(upgrade("/panic")).await.is_none());
    eventually("it is counted", async || panics().await == 2.0).await;
    let request = http::Request::get("http://a/panic").body(()).unwrap();
    assert!(within("the end of the stream", http2.begin(request, "").await).await.is_err());
    eventually("it is counted", async || panics().await == 3.0).await;

    assert_eq!(kept.get("/").await.status, 200, "the others have not noticed");
    assert_eq!(http2.get("http://a/").await.status(), 200, "nor have the other streams of the same connection");
    socket.send(WORD).await;
    assert_eq!(socket.read(WORD.len()).await, WORD);
    drop((kept, socket, http2));
    handle.stop();
    within("the gateway ends", tokio::task::spawn_blocking(move || running.join().unwrap())).await.unwrap();
}
