//! Sessions stay on the server that opened them, whatever the balance, the address of the clients or the number of
//! gateways: every test places in turn, so that a request without its session would go astray.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::support::client::upgrade;
use crate::support::cluster::{Cluster, NAMES, calm, run, served};
use crate::support::node::Node;
use crate::support::polling::Polling;
use crate::support::{Client, Gateway, Scripted, eventually, within};

/// What Engine.IO says of a session that it does not know.
const UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;
/// Every transport, alone and on the way from one to the other.
const TRANSPORTS: [&str; 3] = ["polling", "polling,websocket", "websocket"];

/// The case that broke the first gateways: several servers, clients without cookies, all of them behind one address. New
/// sessions are placed in turn, so nothing but the session leads a request to its server.
async fn edgar(version: &str, clients: &[&str], servers: usize, sessions: usize) {
    let cluster = Cluster::start(version, servers, &[]).await;
    for transports in TRANSPORTS {
        let batches = clients.iter().map(async |client| {
            let summary = cluster.run(client, transports, sessions, &[]).await;
            let what = format!("{client} clients by {transports} over {servers} {version} servers");
            calm(&what, &summary);
            assert_eq!(summary["servers"].as_object().unwrap().len(), servers, "{what}: all serve: {summary}");
        });
        join_all(batches).await;
    }
    // Nothing was looked for: what the handshakes told was enough.
    assert_eq!(event(&cluster.gateways[0], "rescued").await, 0.0);
    assert_eq!(unknown(&cluster.gateways[0]).await, 0.0);
}

async fn event(gateway: &Gateway, event: &str) -> f64 {
    gateway.metric(&format!("sockgate_session_events_total{{upstream=\"app\",event=\"{event}\"}}")).await
}

/// How often a server has said that it does not know a session.
async fn unknown(gateway: &Gateway) -> f64 {
    gateway.metric("sockgate_engine_io_errors_total{code=\"1\",upstream=\"app\"}").await
}

async fn ended(gateway: &Gateway, cause: &str) -> f64 {
    gateway.metric(&format!("sockgate_sessions_ended_total{{upstream=\"app\",cause=\"{cause}\"}}")).await
}

async fn sessions_on(gateway: &Gateway, server: &str) -> f64 {
    gateway.metric(&format!("sockgate_sessions{{upstream=\"app\",server=\"{server}\"}}")).await
}

#[tokio::test]
async fn edgar_two_nodes() {
    edgar("v4", &["v4", "v2"], 2, 12).await;
}

#[tokio::test]
async fn edgar_three_nodes() {
    edgar("v4", &["v4", "v2"], 3, 12).await;
}

#[tokio::test]
async fn edgar_three_nodes_of_version_2() {
    edgar("v2", &["v2"], 3, 12).await;
}

#[tokio::test]
async fn edgar_three_nodes_of_version_0_9() {
    edgar("v0.9", &["v0.9"], 3, 12).await;
}

#[tokio::test]
async fn edgar_eight_nodes() {
    let cluster = Cluster::start("v4", 8, &[]).await;
    for transports in TRANSPORTS {
        for version in ["v4", "v2"] {
            let summary = cluster.run(version, transports, 16, &["--keep-alive"]).await;
            calm(&format!("{version} by {transports} over eight servers"), &summary);
            assert!(NAMES.iter().all(|name| served(&summary, name) == 2), "in turn: {summary}");
        }
    }
}

/// As operators have it who say nothing of balance: placed by the address, from one address and from as many as there are
/// clients.
#[tokio::test]
async fn edgar_by_address() {
    for servers in [2, 8] {
        let cluster = Cluster::start("v4", servers, &[]).await;
        // A busy machine is no dead server.
        let gateway = cluster.gateway_with("127.0.0.1:0", "balance: client_ip, health: { check: none }").await;
        for from in ["127.0.0.2-127.0.0.41", "127.0.0.1"] {
            for transports in TRANSPORTS {
                let batches = ["v4", "v2"].map(async |version| {
                    let options = ["--local-addresses", from];
                    let summary = run(gateway.address("web"), version, transports, 12, &options).await;
                    let what = format!("{version} by {transports} from {from} over {servers} servers");
                    calm(&what, &summary);
                });
                join_all(batches).await;
            }
        }
        assert_eq!((event(&gateway, "rescued").await, unknown(&gateway).await), (0.0, 0.0));
    }
}

/// Browsers without XMLHttpRequest of other sites load scripts; no Node.js client does, so this one is by hand.
#[tokio::test]
async fn sessions_by_script_stay_on_their_server() {
    for (version, servers) in [("v4", 8), ("v2", 3), ("v2", 2)] {
        let cluster = Cluster::start(version, servers, &[]).await;
        for n in 0..2 * servers {
            let open = format!("/socket.io/?EIO=3&transport=polling&j={n}");
            let answer = Client::connect(cluster.address()).await.get(&open).await.text();
            let sid = answer.split("\\\"sid\\\":\\\"").nth(1).unwrap_or_else(|| panic!("no handshake: {answer}"));
            let sid = sid.split('\\').next().unwrap();
            let path = format!("{open}&sid={sid}");
            for _ in 0..3 {
                let posted = Client::connect(cluster.address()).await.post(&path, b"d=1%3A2").await;
                assert_eq!((posted.status, posted.text()), (200, "ok".to_owned()), "{version}");
                let polled = Client::connect(cluster.address()).await.get(&path).await;
                assert_eq!(polled.status, 200, "{version}: {}", polled.text());
                assert!(polled.text().starts_with(&format!("___eio[{n}](")), "{}", polled.text());
            }
            // The form of a page that leaves.
            let left = Client::connect(cluster.address()).await.post(&path, b"d=1%3A1").await;
            assert_eq!((left.status, left.text()), (200, "ok".to_owned()), "{version}");
        }
        assert_eq!(ended(&cluster.gateways[0], "client").await, 2.0 * servers as f64, "{version}");
        assert_eq!(unknown(&cluster.gateways[0]).await, 0.0, "{version}");
    }
    let cluster = Cluster::start("v0.9", 3, &[]).await;
    for n in 0..6 {
        let open = format!("/socket.io/1/?jsonp={n}");
        let answer = Client::connect(cluster.address()).await.get(&open).await.text();
        let sid = answer.strip_prefix(&format!("io.j[{n}](\"")).unwrap_or_else(|| panic!("no handshake: {answer}"));
        let sid = sid.split(':').next().unwrap();
        let path = format!("/socket.io/1/jsonp-polling/{sid}?i=0");
        let first = Client::connect(cluster.address()).await.get(&path).await.text();
        assert_eq!(first, "io.j[0](\"1::\");", "the session is connected");
        // What a page does when it is left, if it is told to.
        let left = Client::connect(cluster.address()).await.get(&format!("/socket.io/1//{sid}/?disconnect=1")).await;
        assert_eq!(left.status, 200);
    }
    assert_eq!(ended(&cluster.gateways[0], "client").await, 6.0);
    assert_eq!(
        cluster.gateways[0].metric("sockgate_session_fallbacks_total{by=\"balance\",upstream=\"app\"}").await,
        0.0
    );
}

/// A proxy before the gateways that knows nothing: each connection goes to the next of them.
async fn in_turn(gateways: &[Gateway]) -> Scripted {
    let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.address("web")).collect();
    Scripted::start(move |client, number| {
        let address = addresses[number % addresses.len()];
        async move {
            let Ok(mut gateway) = TcpStream::connect(address).await else { return };
            let _ = gateway.set_nodelay(true);
            // Whoever leaves first ends both; what that means, the client and its server say.
            let _ = copy_bidirectional(&mut client.into_stream(), &mut gateway).await;
        }
    })
    .await
}

#[tokio::test]
async fn two_gateways_without_a_word_between_them_serve_every_session() {
    let cluster = Cluster::behind(2, "v4", 3, &[]).await;
    let proxy = in_turn(&cluster.gateways).await;
    for transports in ["polling", "polling,websocket"] {
        // One after the other: in a crowd, chance would lead a client to the same gateway again and again.
        for version in ["v4", "v2"] {
            let summary = run(proxy.address(), version, transports, 12, &["--concurrency", "1"]).await;
            calm(&format!("{version} by {transports}"), &summary);
            assert_eq!(summary["servers"].as_object().unwrap().len(), 3, "all serve: {summary}");
        }
    }
    for gateway in &cluster.gateways {
        // What clients were refused, they count themselves; version 2 may poll once more after its goodbye.
        assert!(event(gateway, "rescued").await > 0.0, "sessions of the other gateway have been found");
    }
}

#[tokio::test]
async fn a_rescued_session_never_has_a_message_twice_or_out_of_order() {
    const SESSIONS: usize = 20;
    const MESSAGES: u64 = 50;
    let cluster = Cluster::behind(2, "v4", 3, &[]).await;
    let ways: Vec<SocketAddr> = cluster.gateways.iter().map(|gateway| gateway.address("web")).collect();
    let sessions = (0..SESSIONS).map(async |_| {
        let mut session = Polling::open(&ways).await;
        let home = session.who().await;
        for n in 0..MESSAGES {
            session.emit(n + 1, json!(["seq", n])).await;
            // Every third poll has several answers, in the order of their questions.
            if n % 3 == 2 || n == MESSAGES - 1 {
                for expected in n - n % 3..=n {
                    let (id, answer) = session.ack().await;
                    let right = json!({ "id": home, "n": expected, "count": expected + 1 });
                    assert_eq!((id, answer), (expected + 1, right), "of session {}", session.sid);
                }
            }
        }
    });
    join_all(sessions).await;
    let mut rescued = 0.0;
    for gateway in &cluster.gateways {
        rescued += event(gateway, "rescued").await;
        assert_eq!(unknown(gateway).await, 0.0);
    }
    assert_eq!(rescued, SESSIONS as f64, "each is looked for once, by the gateway that did not open it");
    assert_eq!(cluster.counted("events").await, SESSIONS as u64 * (MESSAGES + 1), "nothing was asked twice");
}

#[tokio::test]
async fn polling_sessions_outlive_a_gateway_that_is_killed_and_started_again() {
    let mut cluster = Cluster::start("v4", 3, &[]).await;
    let address = cluster.address();
    let mut sessions = Vec::new();
    for _ in 0..12 {
        let mut session = Polling::open(&[address]).await;
        let home = session.who().await;
        sessions.push((session, home));
    }
    let killed = cluster.gateways.remove(0);
    killed.signal(Signal::SIGKILL);
    eventually("the gateway is gone", async || TcpStream::connect(address).await.is_err()).await;
    drop(killed);
    let started = cluster.gateway(&address.to_string()).await;
    let all = sessions.iter_mut().map(async |(session, home)| {
        session.redirect(&[address]);
        assert_eq!(session.who().await, *home, "the session is where it was");
    });
    join_all(all).await;
    assert_eq!(event(&started, "rescued").await, 12.0);
    assert_eq!(unknown(&started).await, 0.0);
}

#[tokio::test]
async fn websocket_clients_come_back_to_a_gateway_that_is_killed_and_started_again() {
    let mut cluster = Cluster::start("v4", 2, &[]).await;
    let address = cluster.address();
    let options = ["--hold", "3000", "--allow-reconnect"];
    let (summary, started) = tokio::join!(run(address, "v4", "websocket", 10, &options), async {
        // Ten sessions, each with one `who`, five `echo` and five `seq`.
        eventually("all have talked", async || cluster.counted("events").await == 110).await;
        let killed = cluster.gateways.remove(0);
        killed.signal(Signal::SIGKILL);
        eventually("the gateway is gone", async || TcpStream::connect(address).await.is_err()).await;
        drop(killed);
        cluster.gateway(&address.to_string()).await
    });
    assert_eq!((&summary["ok"], &summary["reconnects"]), (&json!(true), &json!(10)), "{summary}");
    assert_eq!(unknown(&started).await, 0.0);
}

#[tokio::test]
async fn who_asks_for_a_session_that_nobody_has_gets_the_words_of_a_server() {
    let cluster = Cluster::start("v4", 3, &[]).await;
    let gateway = &cluster.gateways[0];
    let path = "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA";
    let polled = Client::connect(cluster.address()).await.get(path).await;
    assert_eq!((polled.status, polled.text()), (400, UNKNOWN.to_owned()));
    let posted = Client::connect(cluster.address()).await.post(path, b"42[\"seq\",1]").await;
    assert_eq!((posted.status, posted.text()), (400, UNKNOWN.to_owned()));
    let mut socket = Client::connect(cluster.address()).await;
    socket.send(upgrade(&path.replace("polling", "websocket"))).await;
    assert_eq!(socket.answer().await.status, 400);
    assert_eq!(event(gateway, "rescued").await, 0.0);
    assert!(unknown(gateway).await >= 2.0, "operators see it");
}

#[tokio::test]
async fn a_session_that_died_with_its_server_is_forgotten() {
    let mut cluster = Cluster::start("v4", 1, &[]).await;
    let mut session = Polling::open(&[cluster.address()]).await;
    assert_eq!(session.who().await, "a");
    let gateway = &cluster.gateways[0];
    assert_eq!(sessions_on(gateway, "a").await, 1.0);
    let port = cluster.servers[0].port().to_string();
    cluster.servers[0].kill().await;
    cluster.servers[0] = Node::server("v4", &["--id", "a", "--port", &port]).await;
    session.redirect(&[cluster.address()]);
    let answer = session.poll().await;
    assert_eq!((answer.status, answer.text()), (400, UNKNOWN.to_owned()));
    assert_eq!((ended(gateway, "unknown").await, sessions_on(gateway, "a").await), (1.0, 0.0));
    assert_eq!(unknown(gateway).await, 1.0);
    let mut next = Polling::open(&[cluster.address()]).await;
    assert_eq!(next.who().await, "a");
}

/// How each of them ended is told apart, and none is counted for longer than it lives.
#[tokio::test]
async fn sessions_end_for_a_cause() {
    let mut cluster = Cluster::start("v4", 2, &[]).await;
    let address = cluster.address();
    let open_socket = async || {
        let mut socket = Client::connect(address).await;
        socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
        assert_eq!(socket.answer().await.status, 101);
        socket.read_until(b"}").await;
        socket
    };
    let live = async |gateway: &Gateway| sessions_on(gateway, "a").await + sessions_on(gateway, "b").await;
    let ends = async |gateway: &Gateway, cause: &str| {
        eventually(cause, async || (ended(gateway, cause).await, live(gateway).await) == (1.0, 0.0)).await;
    };

    // A Close frame, masked, of code 1000.
    let mut socket = open_socket().await;
    assert_eq!(live(&cluster.gateways[0]).await, 1.0);
    socket.send(b"\x88\x82\0\0\0\0\x03\xe8").await;
    socket.read_all().await;
    drop(socket);
    ends(&cluster.gateways[0], "client").await;

    let mut socket = Client::connect_to_reset(address).await;
    socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(socket.answer().await.status, 101);
    socket.read_until(b"}").await;
    drop(socket);
    ends(&cluster.gateways[0], "client_lost").await;

    // The server's word, in the answer to a poll: `kick` closes the connection of who sends it.
    let mut session = Polling::open(&[address]).await;
    session.say("42[\"kick\"]").await;
    let mut said = String::new();
    while !said.ends_with('1') || said.ends_with("41") {
        said.push_str(&session.poll().await.text());
    }
    ends(&cluster.gateways[0], "server").await;

    // A poll of a session whose server is gone.
    let mut session = Polling::open(&[address]).await;
    let (dead, name) = if session.who().await == "a" { (0, "a") } else { (1, "b") };
    cluster.servers[dead].kill().await;
    let down = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}\"}}");
    eventually("it is down", async || cluster.gateways[0].metric(&down).await == 0.0).await;
    session.redirect(&[address]);
    assert_eq!(session.poll().await.text(), UNKNOWN);
    ends(&cluster.gateways[0], "server_down").await;
    let fallbacks = "sockgate_session_fallbacks_total{by=\"balance\",upstream=\"app\"}";
    assert_eq!(cluster.gateways[0].metric(fallbacks).await, 1.0);
    let status: serde_json::Value = serde_json::from_slice(&cluster.gateways[0].admin("/status").await.body).unwrap();
    let ended = &status["upstreams"][0]["sessions"]["ended"];
    for cause in ["client", "client_lost", "server", "server_down"] {
        assert_eq!(ended[cause], 1, "{cause}: {status}");
    }
}

/// A WebSocket that is tried in vain is none: the session goes on polling where it is, and counts there.
#[tokio::test]
async fn a_probe_that_comes_to_nothing_leaves_the_session_polling() {
    let cluster = Cluster::start("v4", 3, &[]).await;
    let gateway = &cluster.gateways[0];
    let mut session = Polling::open(&[cluster.address()]).await;
    let home = session.who().await;
    let mut probe = Client::connect(cluster.address()).await;
    probe.send(upgrade(&session.path().replace("polling", "websocket"))).await;
    assert_eq!(probe.answer().await.status, 101);
    // `2probe`, masked with nothing; the answer, and then no more.
    probe.send(b"\x81\x86\0\0\0\x002probe").await;
    probe.read_until(b"3probe").await;
    drop(probe);
    gateway.access_line(&["event=close", "transport=websocket"]).await;
    assert_eq!(session.who().await, home);
    assert_eq!(sessions_on(gateway, &home).await, 1.0);
    assert_eq!(gateway.metric("sockgate_upgrades_reached_total{upstream=\"app\"}").await, 0.0);
    session.say("1").await;
    eventually("it has said goodbye", async || ended(gateway, "client").await == 1.0).await;
    assert_eq!(sessions_on(gateway, &home).await, 0.0);
}

/// Sessions that never reach the WebSocket that they were offered look well to everybody but their operators.
#[tokio::test]
async fn upgrades_that_go_astray_show_in_the_metrics() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let [offered, reached] =
        ["offered", "reached"].map(|word| format!("sockgate_upgrades_{word}_total{{upstream=\"app\"}}"));
    calm("all upgrade", &cluster.run("v4", "polling,websocket", 6, &[]).await);
    let gateway = &cluster.gateways[0];
    assert_eq!((gateway.metric(&offered).await, gateway.metric(&reached).await), (6.0, 6.0));

    let [right, wrong] = [&cluster.servers[0], &cluster.servers[1]].map(Node::port);
    let misled = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ upgrade: websocket }}
    upstream: wrong
  - upstream: app
upstreams:
  app: {{ kind: socket.io, servers: [\"127.0.0.1:{right}\"] }}
  wrong: {{ kind: socket.io, servers: [\"127.0.0.1:{wrong}\"] }}
"
    ))
    .await;
    let summary = run(misled.address("web"), "v4", "polling,websocket", 12, &["--timeout", "2000"]).await;
    assert_eq!((&summary["connected"], &summary["upgraded"]), (&json!(12), &json!(0)), "{summary}");
    assert_eq!(summary["reconnects"], 0, "nobody has noticed: {summary}");
    assert_eq!((misled.metric(&offered).await, misled.metric(&reached).await), (12.0, 0.0));
    // Within the minute it is seen.
    misled.log_line(" sessions that were offered a WebSocket in the last minute, 0 reached it").await;
    let recent = "sockgate_upgrades_recent{upstream=\"app\",state=\"offered\"}";
    eventually("all of them count", async || misled.metric(recent).await == 12.0).await;
    let metrics = misled.admin("/metrics").await.text();
    assert!(metrics.contains("sockgate_upgrade_ratio{upstream=\"app\"} 0\n"), "{metrics}");
    let ratio = async || gateway.metric("sockgate_upgrade_ratio{upstream=\"app\"}").await;
    eventually("all is well at the other one", async || ratio().await == 1.0).await;
}

#[tokio::test]
async fn sessions_are_counted_where_they_live_for_as_long_as_they_live() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let gateway = &cluster.gateways[0];
    let options = ["--hold", "2000"];
    let live = async || [sessions_on(gateway, "a").await, sessions_on(gateway, "b").await];
    let batches = TRANSPORTS.map(async |transports| {
        calm(transports, &cluster.run("v4", transports, 8, &options).await);
    });
    tokio::join!(join_all(batches), async {
        eventually("all are counted", async || live().await == [12.0, 12.0]).await;
    });
    // A session ends with its WebSocket or by its client's goodbye.
    eventually("all are gone", async || live().await == [0.0, 0.0]).await;
    assert_eq!(ended(gateway, "client").await, 24.0, "all of them wanted to");
    let taken = |count| format!("sockgate_time_to_websocket_seconds_{count}{{upstream=\"app\"}}");
    assert_eq!(gateway.metric(&taken("count")).await, 8.0, "those that began with polling took their time");
    assert!(gateway.metric(&taken("sum")).await > 0.0);
}

/// A server whose handshake comes in the smallest pieces there are, and that would compress it if it were let.
async fn slow_speaker(name: &'static str) -> Scripted {
    Scripted::start(move |mut client, number| async move {
        while let Some(request) = client.request().await {
            let head = String::from_utf8_lossy(&request.head).to_ascii_lowercase();
            if head.contains("sid=") {
                let body = if head.contains(&format!("sid={name}")) { name } else { "stranger" };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                client.send(answer).await;
                continue;
            }
            let gzip = if head.contains("gzip") { "Content-Encoding: gzip\r\n" } else { "" };
            client.send(format!("HTTP/1.1 200 OK\r\n{gzip}Transfer-Encoding: chunked\r\n\r\n")).await;
            let handshake = format!(
                "0{{\"sid\":\"{name}{number}\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000}}"
            );
            for byte in handshake.chars() {
                client.send(format!("1\r\n{byte}\r\n")).await;
                tokio::task::yield_now().await;
            }
            client.send("0\r\n\r\n").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_handshake_in_single_bytes_is_learned_and_never_compressed() {
    let (first, second) = (slow_speaker("first").await, slow_speaker("second").await);
    let said = "kind: socket.io, balance: round_robin, sessions: { returning: 0s }";
    let gateway = Gateway::before(&[first.address(), second.address()], said, "").await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(gateway.address("web")).await;
        let path = "/socket.io/?EIO=4&transport=polling";
        let answer = client.get_with(path, "Accept-Encoding: gzip, deflate\r\n").await;
        assert_eq!(answer.header("content-encoding"), None);
        let sid = answer.text().split('"').nth(3).unwrap().to_owned();
        for _ in 0..3 {
            let home = client.get(&format!("{path}&sid={sid}")).await.text();
            assert!(sid.starts_with(&home), "{sid} was sent to the other server: {home}");
        }
        seen.push(sid);
    }
    assert!(["first", "second"].iter().all(|name| seen.iter().any(|sid| sid.starts_with(name))), "{seen:?}");
    assert_eq!(event(&gateway, "rescued").await, 0.0);
}

/// Whoever makes up session ids has to wait behind himself, not make others wait.
#[tokio::test]
async fn a_flood_of_made_up_sessions_does_not_hold_up_known_ones() {
    let cluster = Cluster::start("v4", 3, &[]).await;
    let address = cluster.address();
    let mut session = Polling::open(&[address]).await;
    let home = session.who().await;
    let flood = (0..100).map(async |n| {
        let path = format!("/socket.io/?EIO=4&transport=polling&sid=made-up-{n}");
        assert_eq!(Client::connect(address).await.get(&path).await.status, 400);
    });
    let (_, ()) = tokio::join!(join_all(flood), async {
        for _ in 0..5 {
            let asked = tokio::time::timeout(Duration::from_secs(5), session.who()).await;
            assert_eq!(asked.expect("a known session is not held up"), home);
        }
    });
    within("the gateway is still ready", cluster.admin("GET", "/readyz")).await;
}

/// Opens so many sessions from one address through the gateways in turn, ten at once, and closes them; gives how many
/// there were on each server.
async fn crowd(gateways: &[Gateway], servers: &[&str], sessions: usize) -> Vec<f64> {
    const LANES: usize = 10;
    const OPEN: &str = "/socket.io/?EIO=4&transport=polling";
    let lanes = (0..LANES).map(async |lane| {
        let mut ways = Vec::new();
        for gateway in gateways {
            ways.push(Client::connect(gateway.address("web")).await);
        }
        let mut opened = Vec::new();
        for number in (lane..sessions).step_by(LANES) {
            let way = number / LANES % ways.len();
            let answer = ways[way].get(OPEN).await;
            opened.push((way, answer.text().split('"').nth(3).unwrap().to_owned()));
        }
        (ways, opened)
    });
    let lanes = join_all(lanes).await;
    let there = async || {
        let counts = servers.iter().map(async |server| {
            let each = join_all(gateways.iter().map(|gateway| sessions_on(gateway, server))).await;
            each.into_iter().sum::<f64>()
        });
        join_all(counts).await
    };
    let homes = there().await;
    let leaving = lanes.into_iter().map(async |(mut ways, opened)| {
        for (way, sid) in opened {
            assert_eq!(ways[way].post(&format!("{OPEN}&sid={sid}"), b"1").await.status, 200);
        }
    });
    join_all(leaving).await;
    assert_eq!(there().await.iter().sum::<f64>(), 0.0, "who has said goodbye counts no more");
    homes
}

/// Where a crowd shares an address, the hash of the address may not lead all of it to one server.
#[tokio::test]
async fn one_address() {
    const SERVERS: usize = 4;
    let cluster = Cluster::start("v4", SERVERS, &[]).await;
    for returning in ["0s", "2m"] {
        let more = format!("balance: client_ip, sessions: {{ returning: {returning} }}");
        let gateways =
            [cluster.gateway_with("127.0.0.1:0", &more).await, cluster.gateway_with("127.0.0.1:0", &more).await];
        for several in [&gateways[..1], &gateways] {
            for sessions in [50, 200, 400] {
                let homes = crowd(several, &NAMES[..SERVERS], sessions).await;
                let what = format!("{sessions} sessions, {} gateways, returning {returning}: {homes:?}", several.len());
                assert_eq!(homes.iter().sum::<f64>(), sessions as f64, "{what}");
                // Each gateway spreads its own part, and rounds up: of twelve and a half, that shows.
                let rounding = if sessions == 50 { several.len() as f64 } else { 0.0 };
                let most = 1.3 * sessions as f64 / SERVERS as f64 + rounding;
                assert!(homes.iter().all(|&there| there <= most), "{what}: no more than {most} on one server");
            }
        }
    }
}
