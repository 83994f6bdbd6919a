//! Servers are let go of at a pace: their sessions move once and politely, and nobody else's do.

use std::time::{Duration, Instant};

use futures::future::join_all;
use http::Request;
use serde_json::{Value, json};

use crate::support::client::tcp;
use crate::support::cluster::{Cluster, admin, calm, served, sessions_on};
use crate::support::engine::{ENGINE, for_each_engine};
use crate::support::http2::{Http2, whole};
use crate::support::polling::Polling;
use crate::support::websocket::upgrade;
use crate::support::{Client, Scripted, Setup, eventually};

for_each_engine! {
    the_sessions_of_a_drained_server_move_once_at_the_pace_and_no_others,
    the_sessions_of_a_drained_server_of_version_0_9_move_once,
    a_draining_server_gets_no_new_sessions_until_it_is_taken_back,
    when_every_server_drains_they_still_serve,
    clients_that_come_back_to_the_server_they_were_on_recover_their_connection,
    a_websocket_is_closed_with_1012_between_two_frames,
    a_pending_poll_is_answered_with_a_close_packet,
    a_drain_without_goodbyes_only_keeps_new_sessions_away,
    a_goodbye_cuts_no_answer,
    a_drain_that_cannot_be_is_refused_in_words,
}

/// Asks `/drain` of the first gateway about a server.
async fn drain(cluster: &Cluster, method: &str, query: &str) -> Value {
    let answer = cluster.admin(method, &format!("/drain?upstream=app&server={query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn is_over(cluster: &Cluster, server: &str) -> bool {
    drain(cluster, "GET", server).await["over"] == true
}

/// Batches of clients that stay for a while, and what the test does once all of them have talked.
async fn during<T>(
    cluster: &Cluster,
    batches: &[(&str, &str, usize)],
    hold: &str,
    deed: impl AsyncFnOnce() -> T,
) -> (Vec<Value>, T) {
    let options = ["--hold", hold, "--allow-reconnect"];
    let running = batches.iter().map(|(version, transports, sessions)| {
        let options = &options;
        async move { cluster.run(version, transports, *sessions, options).await }
    });
    // Each session asks `who` once, and `echo` and `seq` five times.
    let talk = 11 * batches.iter().map(|(_, _, sessions)| *sessions as u64).sum::<u64>();
    tokio::join!(join_all(running), async {
        eventually("all have talked", async || cluster.counted("events").await >= talk).await;
        deed().await
    })
}

/// Expects that the sessions of one server have moved, once and without a fault, and no others.
fn moved_once(what: &str, summary: &Value, server: &str) {
    let there = served(summary, server);
    assert_eq!(summary["ok"], true, "{what}: {summary}");
    assert_eq!(summary["server_changes"], there, "{what}: {summary}");
    assert_eq!(summary["reconnects"], there, "{what}: {summary}");
    assert_eq!(summary["session_id_unknown"], 0, "{what}: {summary}");
    assert_eq!(summary["connect_errors"], json!({}), "{what}: {summary}");
    let politely = if there > 0 { json!({ "transport close": there }) } else { json!({}) };
    assert_eq!(summary["disconnects"], politely, "{what}: {summary}");
}

async fn the_sessions_of_a_drained_server_move_once_at_the_pace_and_no_others() {
    const RATE: f64 = 20.0;
    let cluster = Cluster::start("v4", 3, &[]).await;
    let batches =
        [("v4", "polling", 16), ("v4", "websocket", 16), ("v4", "polling,websocket", 8), ("v2", "polling", 8)];
    let (summaries, (sessions, took, end)) = during(&cluster, &batches, "5000", async || {
        let begun = drain(&cluster, "POST", "a&rate=20&jitter=0.3&deadline=60s").await;
        let (sessions, started) = (begun["sessions"].as_u64().unwrap(), Instant::now());
        assert_eq!(begun["over"], false, "{begun}");
        let told = async || drain(&cluster, "GET", "a").await["told_goodbye"].as_u64().unwrap();
        eventually("everybody is told", async || told().await >= sessions).await;
        let took = started.elapsed();
        eventually("the drain is over", async || is_over(&cluster, "a").await).await;
        (sessions, took, drain(&cluster, "GET", "a").await)
    })
    .await;
    for (batch, summary) in batches.iter().zip(&summaries) {
        moved_once(&format!("{batch:?}"), summary, "a");
    }
    let there: u64 = summaries.iter().map(|summary| served(summary, "a")).sum();
    assert_eq!(sessions, there, "what the table says is what the clients say");
    assert_eq!(end, json!({ "open": 0, "sessions": 0, "told_goodbye": there, "over": true }));
    // Not faster than the shortest pauses allow; how much slower, the load of the machine decides.
    let pause = Duration::from_secs_f64((there - 1) as f64 / RATE);
    assert!(took >= pause.mul_f64(0.6) && took < pause * 5 + Duration::from_secs(2), "{there} in {took:?}");
    cluster.gateways[0].access_line(&["event=request", "closed_by=drain", "server=a"]).await;
    cluster.gateways[0].access_line(&["event=close", "closed_by=drain", "server=a"]).await;
}

async fn the_sessions_of_a_drained_server_of_version_0_9_move_once() {
    let cluster = Cluster::start("v0.9", 2, &[]).await;
    let batches = [("v0.9", "polling", 6), ("v0.9", "websocket", 6)];
    let (summaries, ()) = during(&cluster, &batches, "5000", async || {
        drain(&cluster, "POST", "b&rate=20").await;
        eventually("the drain is over", async || is_over(&cluster, "b").await).await;
    })
    .await;
    for (batch, summary) in batches.iter().zip(&summaries) {
        let there = served(summary, "b");
        assert!(there > 0, "{batch:?}: {summary}");
        let told = [&summary["ok"], &summary["server_changes"], &summary["reconnects"]];
        assert_eq!(told, [&json!(true), &json!(there), &json!(there)], "{batch:?}: {summary}");
    }
}

async fn a_draining_server_gets_no_new_sessions_until_it_is_taken_back() {
    let cluster = Cluster::start("v4", 3, &[]).await;
    assert_eq!(drain(&cluster, "GET", "b").await, Value::Null, "no drain has begun");
    let mut stays = Polling::open(&[cluster.address()]).await;
    let home = stays.who().await;
    // Nobody is asked to leave.
    let begun = drain(&cluster, "POST", &format!("{home}&goodbye=false")).await;
    assert_eq!((&begun["sessions"], &begun["over"]), (&json!(1), &json!(false)));
    let elsewhere = cluster.run("v4", "polling,websocket", 12, &[]).await;
    calm("elsewhere", &elsewhere);
    assert_eq!(served(&elsewhere, &home), 0, "{elsewhere}");
    assert_eq!(stays.who().await, home, "a session that is there stays");
    let status: Value = serde_json::from_slice(&cluster.admin("GET", "/status").await.body).unwrap();
    let servers = status["upstreams"][0]["servers"].as_array().unwrap();
    for server in servers {
        let drains = server["name"] == *home;
        assert_eq!(server["drain"].is_object(), drains, "{server}");
        assert_eq!(server["state"] == "draining", drains, "{server}");
    }
    assert_eq!(drain(&cluster, "DELETE", &home).await, Value::Null);
    let back = cluster.run("v4", "polling,websocket", 12, &[]).await;
    calm("back", &back);
    assert!(served(&back, &home) >= 3, "{back}");
    assert_eq!(stays.who().await, home);
}

async fn when_every_server_drains_they_still_serve() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    for server in ["a", "b"] {
        drain(&cluster, "POST", server).await;
        eventually("nobody is there to be told", async || is_over(&cluster, server).await).await;
    }
    for transports in ["polling,websocket", "websocket"] {
        calm(transports, &cluster.run("v4", transports, 8, &[]).await);
    }
}

/// The only server drains, so its sessions come back to it: Socket.IO recovers what they had.
async fn clients_that_come_back_to_the_server_they_were_on_recover_their_connection() {
    let cluster = Cluster::start("v4", 1, &["--recovery"]).await;
    let batches = [("v4", "polling", 6), ("v4", "websocket", 6)];
    let (summaries, ()) = during(&cluster, &batches, "5000", async || {
        // Recovery begins with the last thing that a client has heard, so all of them have to hear something.
        let mut speaker = Polling::open(&[cluster.address()]).await;
        speaker.emit(1, json!(["broadcast", "hear me"])).await;
        while !speaker.next().await.starts_with("431") {}
        drain(&cluster, "POST", "a&rate=100").await;
        // The speaker has no poll open, and goes unasked.
        let told = async || drain(&cluster, "GET", "a").await["told_goodbye"].as_u64().unwrap();
        eventually("everybody is told", async || told().await >= 12).await;
        drain(&cluster, "DELETE", "a").await;
    })
    .await;
    for (batch, summary) in batches.iter().zip(&summaries) {
        assert_eq!([&summary["ok"], &summary["server_changes"]], [&json!(true), &json!(0)], "{batch:?}: {summary}");
        // Who comes back before the drain is called off is told once more.
        assert!(summary["reconnects"].as_u64().unwrap() >= 6, "{batch:?}: {summary}");
    }
    // A poll that is told goodbye just before it brings the first message leaves its client nothing to recover from.
    let recovered = cluster.counted("recovered").await;
    assert!(recovered >= 10, "{recovered} of 12");
}

async fn a_websocket_is_closed_with_1012_between_two_frames() {
    let cluster = Cluster::start("v4", 1, &[]).await;
    let mut socket = Client::connect(cluster.address()).await;
    socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(socket.answer().await.status, 101);
    socket.read_until(b"}").await;
    assert_eq!(drain(&cluster, "GET", "a").await, Value::Null);
    assert_eq!(drain(&cluster, "POST", "a").await["sessions"], 1);
    assert_eq!(socket.read_all().await, b"\x88\x02\x03\xf4");
    eventually("the server knows", async || cluster.counted("sessions_open").await == 0).await;
}

/// What a pending poll of each dialect is told, and that its connection stays of use.
async fn a_pending_poll_is_answered_with_a_close_packet() {
    for (version, open, goodbye) in [
        ("v4", "/socket.io/?EIO=4&transport=polling", "1"),
        ("v4", "/socket.io/?EIO=3&transport=polling", "1:1"),
        ("v2", "/socket.io/?EIO=3&transport=polling&j=4", "___eio[4](\"1:1\");"),
    ] {
        let cluster = Cluster::start(version, 1, &[]).await;
        let mut client = Client::connect(cluster.address()).await;
        let handshake = client.get(open).await.text().replace('\\', "");
        let sid = handshake.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let path = format!("{open}&sid={sid}");
        let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://there.test\r\n\r\n");
        client.send(&ask).await;
        // What the server had to say already is an answer, and no poll is pending yet.
        while !client.stays_silent(Duration::from_millis(300)).await {
            assert_eq!(client.answer().await.status, 200);
            client.send(&ask).await;
        }
        eventually("a poll is open", async || cluster.counted("polls_open").await == 1).await;
        drain(&cluster, "POST", "a").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, &*answer.text()), (200, goodbye), "{open}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("http://there.test"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        eventually("the server knows", async || cluster.counted("polls_open").await == 0).await;
        eventually("the drain is over", async || is_over(&cluster, "a").await).await;
        assert_eq!(client.get(open).await.status, 200, "the next session, on the same connection");
    }
}

async fn a_drain_without_goodbyes_only_keeps_new_sessions_away() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let mut stays = Polling::open(&[cluster.address()]).await;
    let home = stays.who().await;
    let begun = drain(&cluster, "POST", &format!("{home}&goodbye=false")).await;
    assert_eq!((&begun["sessions"], &begun["over"]), (&json!(1), &json!(false)));
    let elsewhere = cluster.run("v4", "polling,websocket", 6, &[]).await;
    calm("elsewhere", &elsewhere);
    assert_eq!(served(&elsewhere, &home), 0, "{elsewhere}");
    assert_eq!(stays.who().await, home);
    assert_eq!(drain(&cluster, "GET", &home).await["told_goodbye"], 0);
}

/// A session that polls over HTTP/2, with a poll that is open: the connection, the URL of its polls, that poll, and the
/// name of its server.
async fn polling_over_http2(cluster: &Cluster) -> (Http2, String, h2::client::ResponseFuture, &'static str) {
    let client = Http2::over(tcp(cluster.address()).await).await;
    let url = "http://localhost/socket.io/?EIO=4&transport=polling";
    let handshake = String::from_utf8(client.get(url).await.into_body()).unwrap();
    let sid = handshake.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap();
    let url = format!("{url}&sid={sid}");
    let pending = client.begin(Request::get(&url).body(()).unwrap(), "").await;
    eventually("a poll is open", async || cluster.counted("polls_open").await == 1).await;
    let home = if sessions_on(&cluster.gateways[0], "a").await == 1.0 { "a" } else { "b" };
    (client, url, pending, home)
}

#[tokio::test]
async fn the_relay_says_goodbye_to_a_poll_over_http2_at_once() {
    let told = async {
        let cluster = Cluster::start("v4", 2, &[]).await;
        let (client, _, pending, home) = polling_over_http2(&cluster).await;
        drain(&cluster, "POST", &format!("{home}&rate=1000")).await;
        assert_eq!(whole(pending).await.into_body(), b"1", "long before the server's ping");
        eventually("the drain is over", async || is_over(&cluster, home).await).await;
        assert_eq!(sessions_on(&cluster.gateways[0], home).await, 0.0);
        cluster.gateways[0].access_line(&["protocol=HTTP/2", "closed_by=drain"]).await;
        let next = client.get("http://localhost/socket.io/?EIO=4&transport=polling").await;
        assert_eq!(next.status(), 200, "the next session, on the same connection");
    };
    ENGINE.scope("relay", told).await;
}

/// Pingora holds a stream of HTTP/2 to its end, so the poll that is open is not answered by the gateway.
#[tokio::test]
async fn a_session_that_polls_over_http2_is_told_at_its_next_poll() {
    let told = async {
        let cluster = Cluster::start("v4", 2, &["--ping-interval", "5000"]).await;
        let (client, url, pending, home) = polling_over_http2(&cluster).await;
        drain(&cluster, "POST", &format!("{home}&rate=1000")).await;
        let is_told = async || drain(&cluster, "GET", home).await["told_goodbye"] == 1;
        eventually("it is told", is_told).await;
        assert_eq!(whole(pending).await.into_body(), b"2", "the poll that was open brings the ping");
        let goodbye = client.ask(Request::get(&url).header("origin", "http://there.test").body(()).unwrap(), "").await;
        assert_eq!(goodbye.status(), 200);
        assert_eq!(goodbye.headers()["access-control-allow-origin"], "http://there.test");
        assert_eq!(goodbye.body(), b"1");
        assert_eq!(sessions_on(&cluster.gateways[0], home).await, 0.0);
        eventually("the drain is over", async || is_over(&cluster, home).await).await;
        eventually("the server knows it, too", async || cluster.counted("sessions_open").await == 0).await;
        cluster.gateways[0].access_line(&["protocol=HTTP/2", "closed_by=drain"]).await;
        let next = client.get("http://localhost/socket.io/?EIO=4&transport=polling").await;
        assert_eq!(next.status(), 200, "the next session, on the same connection");
        assert_eq!(sessions_on(&cluster.gateways[0], home).await, 0.0);
    };
    ENGINE.scope("pingora", told).await;
}

/// An answer that has begun goes to its end, and the session is told at its next poll.
async fn a_goodbye_cuts_no_answer() {
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let server = Scripted::start(move |mut client, _| {
        let mut wait = wait.clone();
        async move {
            while let Some(request) = client.request().await {
                let head = String::from_utf8_lossy(&request.head).into_owned();
                let answer = if head.contains("sid=") {
                    client.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n4first").await;
                    let _ = wait.wait_for(|&go_on| go_on).await;
                    "last".to_owned()
                } else {
                    let opened = json!({ "sid": "s", "upgrades": [], "pingInterval": 9, "pingTimeout": 9 }).to_string();
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n0{opened}", opened.len() + 1)
                };
                if client.try_send(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Setup::before_named([("a", server.address())]).upstream("kind: socket.io").unchecked().start().await;
    let mut client = gateway.client().await;
    let handshake = client.get("/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(sessions_on(&gateway, "a").await, 1.0, "{}", handshake.text());
    let poll = "/socket.io/?EIO=4&transport=polling&sid=s";
    client.send(format!("GET {poll} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    client.read_until(b"4first").await;
    let drain = async |method| {
        let answer = admin(&gateway, method, "/drain?upstream=app&server=a&rate=1000").await;
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    drain("POST").await;
    eventually("it is told", async || drain("GET").await["told_goodbye"] == 1).await;
    go_on.send_replace(true);
    client.read_until(b"last").await;
    gateway.access_line(&["method=GET", "status=200", "bytes_out=10"]).await;
    assert_eq!(client.get(poll).await.text(), "1", "and here is the goodbye");
}

async fn a_drain_that_cannot_be_is_refused_in_words() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    for (query, status, words) in [
        ("?upstream=app&server=z", 404, "only a, b"),
        ("?upstream=nothing&server=a", 404, "only app"),
        ("?upstream=app", 400, "server=NAME"),
        ("", 400, "upstream=NAME"),
        ("?upstream=app&server=a&rate=fast", 400, "rate: found `fast`"),
        ("?upstream=app&server=a&rate=-1", 400, "rate: found `-1`"),
        ("?upstream=app&server=a&rate=0", 400, "expected a number above 0"),
        ("?upstream=app&server=a&goodbye=no", 400, "goodbye: found `no`"),
        ("?upstream=app&server=a&jitter=2", 400, "jitter: found `2`"),
        ("?upstream=app&server=a&deadline=5", 400, "such as 30s"),
    ] {
        let answer = cluster.admin("POST", &format!("/drain{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(told["error"].as_str().unwrap().contains(words), "{query}: {told}");
    }
    for server in ["a", "%62"] {
        assert_eq!(drain(&cluster, "GET", server).await, Value::Null, "nothing was begun");
    }
}
