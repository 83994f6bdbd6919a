//! What each handshake says of its heartbeat rules how long the session's polls may wait and its WebSocket may be silent.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::support::cluster::{Cluster, calm, run};
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, Scripted, eventually, within};

/// A heartbeat of one second; the gateways of these tests allow no slack.
const SHORT: u64 = 1000;
/// One that no test outlives.
const LONG: u64 = 60_000;

/// The ways to a session's WebSocket: the target of the handshake, if there is one, and that of the socket.
const WAYS: [(&str, &str); 5] = [
    ("/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=websocket&sid={sid}"),
    ("/socket.io/?EIO=3&transport=polling", "/socket.io/?EIO=3&transport=websocket&sid={sid}"),
    ("/socket.io/1/?t=1", "/socket.io/1/websocket/{sid}?t=1"),
    ("", "/socket.io/?EIO=4&transport=websocket"),
    ("", "/socket.io/?EIO=3&transport=websocket"),
];

/// A server whose heartbeat is what the request wishes: `beat`, in milliseconds. Its WebSockets echo; whatever else has a
/// `hold` is answered after that many milliseconds.
async fn server() -> Scripted {
    static SESSIONS: AtomicUsize = AtomicUsize::new(0);
    Scripted::start(|mut client, _| async move {
        while let Some(request) = client.request().await {
            let number = SESSIONS.fetch_add(1, Relaxed);
            let head = String::from_utf8_lossy(&request.head).into_owned();
            let target = head.split(' ').nth(1).unwrap();
            let beat = wish(target, "beat");
            let open = format!(
                "0{{\"sid\":\"s{number}\",\"upgrades\":[\"websocket\"],\"pingInterval\":{0},\"pingTimeout\":{0}}}",
                beat / 2
            );
            let body = if head.contains("Upgrade: websocket") {
                let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                let first = match target.contains("transport=") && !target.contains("sid=") {
                    true => [&[0x81, open.len() as u8], open.as_bytes()].concat(),
                    false => Vec::new(),
                };
                let _ = client.try_send([accepted.as_bytes(), &first].concat()).await;
                while let Some(bytes) = client.some().await {
                    let _ = client.try_send(bytes).await;
                }
                return;
            } else if target.contains("hold=") {
                tokio::time::sleep(Duration::from_millis(wish(target, "hold"))).await;
                "late".to_owned()
            } else if target.starts_with("/socket.io/1/") {
                format!("s{number}:{}:0:websocket,xhr-polling", beat / 1000)
            } else if target.contains("EIO=3") {
                format!("{}:{open}", open.len())
            } else {
                open
            };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = client.try_send(answer).await;
        }
    })
    .await
}

/// The number that a target asks for; 0 if it doesn't.
fn wish(target: &str, name: &str) -> u64 {
    let value = target.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map_or(0, |value| value.parse().unwrap())
}

async fn gateway(server: &Scripted, timeouts: &str) -> Gateway {
    let said = format!("kind: socket.io, sessions: {{ slack: 0s }}, timeouts: {{ {timeouts} }}");
    Gateway::before(&[server.address()], &said, "").await
}

/// Opens a session; gives its id.
async fn open(address: SocketAddr, handshake: &str, beat: u64) -> String {
    let answer = Client::connect(address).await.get(&format!("{handshake}&beat={beat}")).await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let sid = text.split('"').nth(3).unwrap_or_else(|| text.split(':').next().unwrap());
    sid.to_owned()
}

/// Opens a session and its WebSocket, the session's handshake read if it comes there.
async fn socket(address: SocketAddr, way: (&str, &str), beat: u64) -> Client {
    let (handshake, target) = way;
    let sid = if handshake.is_empty() { String::new() } else { open(address, handshake, beat).await };
    let mut socket = Client::connect(address).await;
    socket.send(upgrade(&format!("{}&beat={beat}", target.replace("{sid}", &sid)))).await;
    assert_eq!(socket.answer().await.status, 101);
    if handshake.is_empty() {
        socket.read_until(b"}").await;
    }
    socket
}

async fn is_alive(socket: &mut Client) -> bool {
    const HELLO: &[u8] = b"\x81\x85\0\0\0\0hello";
    socket.send(HELLO).await;
    within("an echo", socket.some_of(HELLO.len())).await.as_deref() == Some(HELLO)
}

#[tokio::test]
async fn a_silent_websocket_dies_after_its_own_heartbeat_and_not_before() {
    let server = server().await;
    let gateway = gateway(&server, "").await;
    let address = gateway.address("web");
    // Whoever has no handshake has no heartbeat.
    let mut plain = Client::connect(address).await;
    plain.send(upgrade("/chat")).await;
    assert_eq!(plain.answer().await.status, 101);
    let each = WAYS.map(async |way| {
        let mut patient = socket(address, way, LONG).await;
        let mut lively = socket(address, way, SHORT).await;
        let opened = Instant::now();
        let mut silent = socket(address, way, SHORT).await;
        let speaking = async {
            loop {
                assert!(is_alive(&mut lively).await, "{way:?}");
                tokio::time::sleep(Duration::from_millis(SHORT / 4)).await;
            }
        };
        tokio::select! {
            end = silent.ending() => assert_eq!(end.unwrap(), b"", "{way:?}"),
            () = speaking => {}
        }
        let lived = opened.elapsed();
        assert!(lived >= Duration::from_millis(SHORT), "{way:?}: {lived:?}");
        assert!(is_alive(&mut patient).await, "{way:?}");
        patient
    });
    let kept = join_all(each).await;
    assert!(is_alive(&mut plain).await);
    let idle = || gateway.access_lines().iter().filter(|line| line.contains("closed_by=idle")).count();
    eventually("each silent one has its line", async || idle() >= WAYS.len()).await;
    assert_eq!(idle(), WAYS.len(), "nobody but the silent ones");
    drop(kept);
}

#[tokio::test]
async fn a_poll_waits_as_long_as_the_heartbeat_of_its_session_allows() {
    let server = server().await;
    let gateway = gateway(&server, "").await;
    let address = gateway.address("web");
    let ask = async |target: &str| Client::connect(address).await.get(target).await.status;
    let polls = [
        ("/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=polling&sid={sid}"),
        ("/socket.io/?EIO=3&transport=polling&j=0", "/socket.io/?EIO=3&transport=polling&j=0&sid={sid}"),
        ("/socket.io/1/?t=1", "/socket.io/1/xhr-polling/{sid}?t=1"),
    ];
    let each = polls.map(async |(handshake, poll)| {
        let [short, long] = [SHORT, LONG].map(|beat| open(address, handshake, beat));
        let (short, long) = (poll.replace("{sid}", &short.await), poll.replace("{sid}", &long.await));
        let started = Instant::now();
        let dead = async {
            assert_eq!(ask(&format!("{short}&hold={LONG}")).await, 504, "{poll}");
            assert!(started.elapsed() >= Duration::from_millis(SHORT), "{poll}: {:?}", started.elapsed());
        };
        let held = async { assert_eq!(ask(&format!("{long}&hold=3000")).await, 200, "{poll}") };
        tokio::join!(dead, held);
    });
    let plain = async { assert_eq!(ask("/socket.io/?hold=3000").await, 200, "no session, no heartbeat") };
    tokio::join!(join_all(each), plain);
}

#[tokio::test]
async fn what_the_operator_says_goes_before_the_heartbeat() {
    let server = server().await;
    let gateway = gateway(&server, "first_byte: 30s, tunnel_idle: 0s").await;
    let address = gateway.address("web");
    let mut sockets = join_all(WAYS.map(|way| socket(address, way, SHORT))).await;
    let sid = open(address, "/socket.io/?EIO=4&transport=polling", SHORT).await;
    let poll = format!("/socket.io/?EIO=4&transport=polling&sid={sid}&hold=3000");
    assert_eq!(Client::connect(address).await.get(&poll).await.status, 200);
    for (socket, way) in sockets.iter_mut().zip(WAYS) {
        assert!(is_alive(socket).await, "{way:?}");
    }
}

/// Sessions that have nothing to say live on their heartbeats, for longer than they may be silent.
#[tokio::test]
async fn heartbeats_keep_sessions_open_that_have_nothing_to_say() {
    for (server, clients) in [("v4", &["v4", "v2"][..]), ("v2", &["v2"])] {
        let cluster = Cluster::start(server, 1, &["--ping-interval", "1000", "--ping-timeout", "4000"]).await;
        let address: SocketAddr = ([127, 0, 0, 1], cluster.servers[0].port()).into();
        let said = "kind: socket.io, sessions: { slack: 0s }";
        let gateway = Gateway::before(&[address], said, "").await;
        let batches = clients.iter().flat_map(|client| ["polling", "websocket"].map(|by| (client, by)));
        let batches = batches.map(async |(client, by)| {
            let summary = run(gateway.address("web"), client, by, 4, &["--hold", "7000"]).await;
            calm(&format!("{client} clients of a {server} server by {by}"), &summary);
        });
        join_all(batches).await;
    }
}
