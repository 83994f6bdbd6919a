//! How the gateway lets go: what it finishes, what it tells, when it leaves, and what it writes down.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use nix::sys::signal::Signal::{SIGINT, SIGTERM, SIGUSR1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::client::{tcp, upgrade};
use crate::support::http2::{Http2, whole};
use crate::support::server::greet;
use crate::support::tls::Authority;
use crate::support::{Client, Echo, Gateway, Scripted, eventually, within};

async fn gateway(server: std::net::SocketAddr, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{server}\"] }}
{rest}"
    ))
    .await
}

/// A server that answers each request once it is told to, and counts those that wait.
async fn patient() -> (Scripted, Arc<Notify>, Arc<Notify>) {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&asked), Arc::clone(&go_on));
    let server = Scripted::start(move |mut client, _| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            while client.request().await.is_some() {
                tell.notify_one();
                wait.notified().await;
                if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nat last\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (server, asked, go_on)
}

/// Sends SIGTERM and waits until it has been noticed.
async fn stop(gateway: &Gateway) {
    gateway.signal(SIGTERM);
    gateway.log_line("stopping: ").await;
}

async fn refuses(gateway: &Gateway) {
    eventually("new connections are refused", async || TcpStream::connect(gateway.address("web")).await.is_err()).await;
}

async fn websocket(gateway: &Gateway) -> Client {
    let mut socket = Client::connect(gateway.address("web")).await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
    socket
}

async fn echoes(socket: &mut Client) {
    socket.send(b"\x81\x02hi").await;
    assert_eq!(socket.read(4).await, b"\x81\x02hi");
}

/// So slow that nobody has a turn while the test runs.
const FOR_HOURS: &str = "drain: { over: 10h, deadline: 20h }";
/// A Close frame with the code 1012, Service Restart.
const GOODBYE: &[u8] = b"\x88\x02\x03\xf4";

#[tokio::test]
async fn with_nothing_open_it_leaves_at_once() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "").await;
    assert_eq!(Client::connect(gateway.address("web")).await.get("/").await.status, 200);
    let began = Instant::now();
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}, though there was nothing to wait for", began.elapsed());
}

#[tokio::test]
async fn what_is_in_flight_finishes_and_what_is_idle_ends_at_once() {
    let (server, asked, go_on) = patient().await;
    let mut gateway = gateway(server.address(), "").await;
    let mut idle = Client::connect(gateway.address("web")).await;
    go_on.notify_one();
    assert_eq!(idle.get("/").await.status, 200);
    asked.notified().await;
    let mut busy = Client::connect(gateway.address("web")).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the request is there", asked.notified()).await;
    stop(&gateway).await;
    refuses(&gateway).await;
    assert!(idle.read_all().await.is_empty(), "the idle connection ends");
    assert_eq!(gateway.admin("/livez").await.status, 200);
    let ready = gateway.admin("/readyz").await;
    assert_eq!((ready.status, ready.text().as_str()), (503, "stopping\n"));
    go_on.notify_one();
    let answer = busy.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "at last\n"));
    assert!(busy.read_all().await.is_empty(), "no further request is taken");
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["target=/slow", "status=200"]).await;
}

#[tokio::test]
async fn a_long_poll_is_allowed_until_the_deadline() {
    let (server, asked, _go_on) = patient().await;
    let mut gateway = gateway(server.address(), "drain: { deadline: 1500ms }").await;
    let mut poll = Client::connect(gateway.address("web")).await;
    poll.send("GET /poll HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the poll is there", asked.notified()).await;
    let began = Instant::now();
    stop(&gateway).await;
    assert!(poll.read_all().await.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(1500), "cut after {:?}", began.elapsed());
    assert_eq!(gateway.ended().await, 0);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    gateway.access_line(&["event=request", "target=/poll", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn websockets_are_told_goodbye_one_after_the_other_and_it_leaves_with_the_last() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { over: 2s, deadline: 5m }").await;
    let mut sockets = JoinSet::new();
    for _ in 0..20 {
        let mut socket = websocket(&gateway).await;
        echoes(&mut socket).await;
        sockets.spawn(async move { (socket.read_all().await, Instant::now()) });
    }
    stop(&gateway).await;
    refuses(&gateway).await;
    let mut times = Vec::new();
    for (said, at) in sockets.join_all().await {
        assert_eq!(said, GOODBYE);
        times.push(at);
    }
    times.sort_unstable();
    let took = times[19] - times[0];
    // How much longer it may take, the load of the machine decides.
    assert!(took >= Duration::from_secs(1), "all within {took:?}");
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "closed_by=stopped"]).await;
    let told = |line: &&String| line.contains("closed_by=stopped") && line.contains("close_code=1012");
    assert_eq!(gateway.access_lines().iter().filter(told).count(), 20, "every tunnel has its line");
}

#[tokio::test]
async fn a_websocket_works_until_its_turn() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), FOR_HOURS).await;
    let mut socket = websocket(&gateway).await;
    stop(&gateway).await;
    refuses(&gateway).await;
    echoes(&mut socket).await;
    gateway.log_line("1 connections left; 0 have been told goodbye, 1 will be").await;
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn a_websocket_within_a_message_is_waited_for_until_the_deadline_and_never_gets_a_goodbye_inside() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { over: 0s, deadline: 1500ms }").await;
    let mut socket = websocket(&gateway).await;
    socket.send(b"\x81\x05hal").await;
    assert_eq!(socket.read(5).await, b"\x81\x05hal");
    let began = Instant::now();
    stop(&gateway).await;
    assert!(socket.read_all().await.is_empty(), "a goodbye inside a frame would be part of its text");
    assert!(began.elapsed() >= Duration::from_millis(1500), "cut after {:?}", began.elapsed());
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn the_code_of_the_goodbye_can_be_chosen() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { over: 0s, close_code: 4001 }").await;
    let mut socket = websocket(&gateway).await;
    stop(&gateway).await;
    assert_eq!(socket.read_all().await, b"\x88\x02\x0f\xa1");
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "close_code=4001"]).await;
}

/// What a client sends when its socket closes already would make the kernel answer with a reset.
#[tokio::test]
async fn a_client_that_never_stops_talking_gets_its_goodbye_too() {
    let sink = Scripted::start(|mut client, _| async move {
        client.request().await;
        client.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
        while client.some().await.is_some() {}
    })
    .await;
    let mut gateway = gateway(sink.address(), "drain: { over: 0s }").await;
    let socket = websocket(&gateway).await;
    let (mut reader, mut writer) = tokio::io::split(socket.into_stream());
    let talking = tokio::spawn(async move { while writer.write_all(b"\x81\x05hello").await.is_ok() {} });
    stop(&gateway).await;
    let mut got = Vec::new();
    within("the goodbye", reader.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, GOODBYE);
    drop(reader);
    within("the client stops", talking).await.unwrap();
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn the_goodbye_reaches_sockets_within_tls_too() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&format!(
        "
drain: {{ deadline: 1s }}
listeners:
  - {{ name: web, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
",
        authority.sign(&["a.test"]).yaml(),
        web.address()
    ))
    .await;
    let mut stream = authority.client(&["http/1.1"]).connect(gateway.address("web"), "a.test").await.unwrap();
    stream.write_all(upgrade("/").as_bytes()).await.unwrap();
    stop(&gateway).await;
    let mut got = Vec::new();
    // An end without close_notify would be an error.
    within("the goodbye", stream.read_to_end(&mut got)).await.unwrap();
    assert!(got.starts_with(b"HTTP/1.1 101") && got.ends_with(GOODBYE), "{got:?}");
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn it_leaves_before_the_deadline_when_the_last_one_has_gone() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), FOR_HOURS).await;
    let mut socket = websocket(&gateway).await;
    stop(&gateway).await;
    refuses(&gateway).await;
    echoes(&mut socket).await;
    socket.send(b"\x88\x82\x00\x00\x00\x00\x03\xe8").await;
    socket.finish().await;
    socket.read_all().await;
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "close_code=1000"]).await;
}

#[tokio::test]
async fn during_the_delay_it_accepts_though_it_is_not_ready() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { delay: 1500ms, deadline: 10s }").await;
    let mut kept = Client::connect(gateway.address("web")).await;
    assert_eq!(kept.get("/").await.status, 200);
    let began = Instant::now();
    stop(&gateway).await;
    assert_eq!(gateway.admin("/readyz").await.text(), "stopping\n");
    assert_eq!(kept.get("/").await.status, 200);
    assert_eq!(Client::connect(gateway.address("web")).await.get("/").await.status, 200);
    assert!(kept.read_all().await.is_empty(), "an idle connection ends with the delay");
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn a_second_sigterm_or_a_sigint_ends_it_at_once() {
    let web = Echo::start("web").await;
    for signals in [&[SIGTERM, SIGTERM][..], &[SIGTERM, SIGINT], &[SIGINT]] {
        let mut gateway = gateway(web.address(), "drain: { deadline: 1m }").await;
        let mut socket = websocket(&gateway).await;
        for signal in signals {
            gateway.signal(*signal);
            gateway.log_line(if *signal == SIGTERM { "stopping" } else { "interrupted" }).await;
        }
        assert_eq!(gateway.ended().await, 0, "{signals:?}");
        socket.read_all().await;
    }
}

#[tokio::test]
async fn http_2_connections_are_told_to_go_and_finish_their_streams() {
    let (server, asked, go_on) = patient().await;
    let mut gateway = gateway(server.address(), "").await;
    let (idle, busy) =
        (Http2::over(tcp(gateway.address("web")).await).await, Http2::over(tcp(gateway.address("web")).await).await);
    go_on.notify_one();
    assert_eq!(idle.get("http://a.test/").await.status(), 200);
    asked.notified().await;
    let slow = busy.begin(Request::get("http://a.test/slow").body(()).unwrap(), "").await;
    within("the request is there", asked.notified()).await;
    stop(&gateway).await;
    idle.closed().await.expect("a proper end");
    go_on.notify_one();
    let answer = whole(slow).await;
    assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (200, b"at last\n".as_slice()));
    busy.closed().await.expect("a proper end");
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn http_2_streams_that_the_deadline_cuts_have_their_line() {
    let (server, asked, _go_on) = patient().await;
    let mut gateway = gateway(server.address(), "drain: { deadline: 1s }").await;
    let busy = Http2::over(tcp(gateway.address("web")).await).await;
    let slow = busy.begin(Request::get("http://a.test/slow").body(()).unwrap(), "").await;
    within("the request is there", asked.notified()).await;
    stop(&gateway).await;
    assert!(within("the end", slow).await.is_err());
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["protocol=HTTP/2", "target=/slow", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn raw_tunnels_are_closed_at_their_turn() {
    let raw = Scripted::start(|client, _| greet(client)).await;
    let started = |drain: &str| {
        let yaml = format!(
            "
{drain}
listeners:
  - {{ name: web, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
upstreams:
  raw: {{ kind: tcp, servers: [\"{}\"] }}
",
            raw.address()
        );
        async move { Gateway::start(&yaml).await }
    };
    let mut gateway = started(FOR_HOURS).await;
    let mut tunnel = Client::connect(gateway.address("web")).await;
    assert_eq!(tunnel.read(6).await, b"hello ");
    stop(&gateway).await;
    refuses(&gateway).await;
    tunnel.send("still carried").await;
    assert_eq!(tunnel.read(13).await, b"still carried");
    gateway.signal(SIGINT);
    assert_eq!(gateway.ended().await, 0);
    let mut gateway = started("drain: { over: 1s, deadline: 5m }").await;
    let mut tunnel = Client::connect(gateway.address("web")).await;
    assert_eq!(tunnel.read(6).await, b"hello ");
    stop(&gateway).await;
    assert!(tunnel.read_all().await.is_empty());
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["event=close", "protocol=TCP", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn clients_that_have_said_nothing_do_not_hold_it_up() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { deadline: 1m }").await;
    let mut silent = tcp(gateway.address("web")).await;
    eventually("it is accepted", async || gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 1.0)
        .await;
    let began = Instant::now();
    stop(&gateway).await;
    assert_eq!(within("the end", silent.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(gateway.ended().await, 0);
    assert!(began.elapsed() < Duration::from_secs(5), "it waited {:?} for a request nobody began", began.elapsed());
}

#[tokio::test]
async fn a_request_that_has_begun_is_finished() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { deadline: 1m }").await;
    let (mut used, mut fresh) =
        (Client::connect(gateway.address("web")).await, Client::connect(gateway.address("web")).await);
    let mut late = Client::connect(gateway.address("web")).await;
    assert_eq!(used.get("/").await.status, 200);
    for client in [&mut used, &mut fresh] {
        client.send("GET / HTTP/1.1\r\n").await;
    }
    eventually("all are accepted", async || gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 3.0)
        .await;
    stop(&gateway).await;
    refuses(&gateway).await;
    // What is sent before the news has reached the client is answered, too.
    late.send("GET / HTTP/1.1\r\n").await;
    for client in [&mut used, &mut fresh, &mut late] {
        client.send("Host: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    assert_eq!(gateway.ended().await, 0);
}

#[tokio::test]
async fn an_access_log_that_nobody_reads_does_not_keep_it() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(&pipe);
    let mut gateway = gateway(web.address(), &format!("access_log: {{ file: {} }}", pipe.display())).await;
    // More than the 64 KiB that a pipe holds.
    let mut client = Client::connect(gateway.address("web")).await;
    for _ in 0..100 {
        assert_eq!(client.get(&format!("/{}", "x".repeat(1000))).await.status, 200, "nobody waits for the log");
    }
    drop(client);
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    drop(opened);
}

#[tokio::test]
async fn the_access_log_is_opened_anew_on_sigusr1() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let (file, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut gateway =
        gateway(web.address(), &format!("access_log: {{ file: {}, format: json }}", file.display())).await;
    let mut client = Client::connect(gateway.address("web")).await;
    let lines = |file: &std::path::Path| std::fs::read_to_string(file).unwrap_or_default().lines().count();
    assert_eq!(client.get("/1").await.status, 200);
    eventually("the first line", async || lines(&file) == 1).await;
    std::fs::rename(&file, &old).unwrap();
    assert_eq!(client.get("/2").await.status, 200);
    eventually("the second line, in the moved file", async || lines(&old) == 2).await;
    gateway.signal(SIGUSR1);
    eventually("a new file", async || file.exists()).await;
    assert_eq!(client.get("/3").await.status, 200);
    eventually("the third line, in the new file", async || lines(&file) == 1).await;
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&line["target"], &line["status"]), (&"/3".into(), &200.into()));
    drop(client);
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert_eq!((lines(&old), lines(&file)), (2, 1));
}

#[tokio::test]
async fn no_line_of_the_access_log_is_lost_on_the_way_out() {
    const CLIENTS: usize = 40;
    const REQUESTS: usize = 25;
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mut gateway = gateway(web.address(), &format!("access_log: {{ file: {} }}", file.display())).await;
    let mut sockets = Vec::new();
    for _ in 0..CLIENTS {
        sockets.push(websocket(&gateway).await);
    }
    let mut asking = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::connect(gateway.address("web")).await;
        asking.spawn(async move {
            for request in 0..REQUESTS {
                assert_eq!(client.get(&format!("/{number}/{request}")).await.status, 200);
            }
        });
    }
    asking.join_all().await;
    gateway.signal(SIGTERM);
    // The sockets end within the last moments, too.
    drop(sockets);
    assert_eq!(gateway.ended().await, 0);
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(log.ends_with('\n'), "the last line is whole");
    for number in 0..CLIENTS {
        for request in 0..REQUESTS {
            assert_eq!(log.matches(&format!("target=/{number}/{request} ")).count(), 1, "/{number}/{request}");
        }
    }
    assert_eq!(log.matches("event=close").count(), CLIENTS);
    assert_eq!(log.lines().count(), CLIENTS * REQUESTS + CLIENTS);
}
