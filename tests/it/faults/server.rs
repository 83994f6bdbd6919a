//! Servers are killed, stopped, slow or rude, and no more is lost than has to be.

use std::net::SocketAddr;
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::sync::Semaphore;

use crate::support::engine::for_each_engine;
use crate::support::load::{GET, Load, Tally, ask, failed};
use crate::support::node::Node;
use crate::support::websocket::{FIN, SWITCH, TEXT, frame, tunnel, upgrade};
use crate::support::{Client, Echo, Gateway, Scripted, Setup, eventually, within};

for_each_engine! {
    a_killed_server_takes_what_was_open_on_it_and_nothing_else,
    a_stopped_server_is_passed_over_and_its_sockets_outlive_that,
    a_slow_server_holds_up_only_those_who_wait_for_it,
}

/// Two WebSocket servers that are processes of their own, `a` and `b`, behind one gateway.
async fn two(upstream: &str) -> ([Node; 2], Gateway) {
    let servers =
        [Node::start("ws_server.js", &["--id", "a"]).await, Node::start("ws_server.js", &["--id", "b"]).await];
    let addresses = servers.each_ref().map(|server| SocketAddr::from(([127, 0, 0, 1], server.port())));
    let gateway = Setup::before_named(["a", "b"].into_iter().zip(addresses)).upstream(upstream).start().await;
    for name in ["a", "b"] {
        let up = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}\"}}");
        eventually("both are up", async || gateway.metric(&up).await == 1.0).await;
    }
    (servers, gateway)
}

/// A WebSocket, and the name of the server that it is open on.
async fn socket(gateway: &Gateway) -> (Client, String) {
    let mut client = gateway.client().await;
    client.send(upgrade("/greet")).await;
    assert_eq!(client.answer().await.status, 101);
    let greeting = client.read(14).await;
    let name = String::from_utf8_lossy(&greeting[2..]).strip_prefix("hello from ").unwrap().to_owned();
    (client, name)
}

/// Expects an echo, which a real server sends without a mask.
async fn echoes(socket: &mut Client) {
    socket.send(frame(FIN | TEXT, b"word", true)).await;
    assert_eq!(socket.read(6).await, frame(FIN | TEXT, b"word", false));
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
    let ([a, _b], gateway) = two("timeouts: { first_byte: 1s }, ejection: { bad_answers: 3, for: 1m }").await;
    let (mut sockets, mut on_a) = (Vec::new(), 0);
    for _ in 0..10 {
        let (socket, name) = socket(&gateway).await;
        on_a += usize::from(name == "a");
        sockets.push(socket);
    }
    a.signal(Signal::SIGSTOP);
    let tally = ask(&gateway, 40, GET).await;
    // Three late answers are enough. On a busy machine the other server may be late as well, now and then.
    let (answered, late) = (tally.get(&200).copied().unwrap_or(0), tally.get(&504).copied().unwrap_or(0));
    assert!(answered + late == 40 && (3..=6).contains(&late), "{tally:?}");
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
    let (server, gateway) = Gateway::before_puppet("").await;
    let (mut other, mut others_end) = tunnel(&gateway, &server).await;
    let mut tally = Tally::new();
    for _ in 0..ROUNDS {
        let mut client = gateway.client().await;
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
        let mut client = gateway.client().await;
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
