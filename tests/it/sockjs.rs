//! Real servers and clients of SockJS: each session stays with its server, by every transport, over gateways that share nothing,
//! restarts, drains and changes of scale.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::node::{self, Node, counted, run};
use crate::support::websocket::opened;
use crate::support::{Client, Gateway, Setup, eventually};

for_each_engine! {
    sessions_by_every_transport_meet_their_server,
    gateways_that_share_nothing_place_sessions_alike_and_ask_nobody,
    a_session_that_was_placed_before_the_scale_changed_is_found_before_it_would_open_anew,
    a_server_that_is_killed_takes_its_sessions_with_it_and_no_others,
    a_gateway_that_is_killed_and_started_again_finds_what_still_lives,
    clients_of_a_gateway_that_is_killed_begin_anew_by_the_next,
    raw_websockets_and_pages_go_to_any_server,
    made_up_ids_harm_no_session_that_is_known,
}

for_the_relay! {
    a_drained_server_tells_each_session_in_the_words_of_its_transport,
    clients_that_leave_are_gone_for_their_server_at_once,
    the_transports_of_browsers_are_told_too,
    the_file_that_comes_along_serves_sessions,
}

const TRANSPORTS: [&str; 4] = ["xhr-polling", "xhr-streaming", "eventsource", "websocket"];

async fn servers(names: &[&str]) -> Vec<Node> {
    node::servers("sockjs_server.js", names).await
}

fn before(servers: &[Node]) -> Setup {
    Setup::before_nodes(servers).unchecked().upstream("kind: sockjs")
}

async fn clients(gateways: &[SocketAddr], transport: &str, sessions: usize) -> Node {
    let urls: Vec<String> = gateways.iter().map(|gateway| format!("http://{gateway}/echo")).collect();
    let (urls, number) = (urls.join(","), sessions.to_string());
    let arguments = ["--url", &urls, "--transport", transport, "--sessions", &number];
    let client = Node::start("sockjs_client.js", &arguments).await;
    assert_eq!((&client.ready["opened"], &client.ready["faults"]), (&json!(sessions), &json!({})), "{transport}");
    client
}

/// Each session says something, and hears it from its own server.
async fn echo(client: &mut Node, sessions: usize) -> Value {
    let said = client.ask("echo").await;
    let outcome = (&said["heard"], &said["moved"], &said["faults"]);
    assert_eq!(outcome, (&json!(sessions), &json!(0), &json!({})), "{said}");
    said["homes"].clone()
}

async fn live(gateway: &Gateway) -> f64 {
    let mut live = 0.0;
    for server in ["a", "b", "c"] {
        live += gateway.metric(&format!("sockgate_sessions{{upstream=\"app\",server=\"{server}\"}}")).await;
    }
    live
}

async fn sessions_by_every_transport_meet_their_server() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).start().await;
    let web = [gateway.address("web")];
    for transport in TRANSPORTS {
        let opened = counted(&servers, "opened").await;
        let mut some = clients(&web, transport, 30).await;
        for _ in 0..3 {
            let homes = echo(&mut some, 30).await;
            assert_eq!(homes.as_object().unwrap().len(), 3, "{transport}: {homes}");
        }
        assert_eq!(live(&gateway).await, 30.0, "{transport}");
        assert_eq!(counted(&servers, "opened").await, opened + 30, "{transport}: no ghosts");
        assert_eq!(some.ask("leave").await, json!({ "closed": 30 }), "{transport}");
        eventually("what servers have ended counts no more", async || live(&gateway).await == 0.0).await;
    }
    assert_eq!(counted(&servers, "unknown").await, 0);
}

async fn gateways_that_share_nothing_place_sessions_alike_and_ask_nobody() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateways = [before(&servers).start().await, before(&servers).start().await];
    let web: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.address("web")).collect();
    for transport in ["xhr-polling", "xhr-streaming", "eventsource"] {
        let opened = counted(&servers, "opened").await;
        let mut both = clients(&web, transport, 30).await;
        for _ in 0..3 {
            echo(&mut both, 30).await;
        }
        assert_eq!(counted(&servers, "opened").await, opened + 30, "{transport}: no ghosts");
    }
    // Soon after its start a gateway asks the other servers for what might be there; each session cost each of them a question at
    // most, by each gateway.
    let asked = counted(&servers, "questions").await;
    assert!(asked <= 90 * 2 * 3, "{asked} questions for 90 sessions");
}

async fn a_session_that_was_placed_before_the_scale_changed_is_found_before_it_would_open_anew() {
    let mut servers = servers(&["a", "b", "c"]).await;
    let added = servers.pop().unwrap();
    let mut first = before(&servers).start().await;
    let web = first.address("web");
    let mut old = clients(&[web], "xhr-polling", 40).await;
    let spread = echo(&mut old, 40).await;
    servers.push(added);
    // The same change by reload, where the gateway remembers, and by a restart, where it does not.
    assert_eq!(first.reload(&before(&servers).yaml()).await.status, 200);
    assert_eq!(echo(&mut old, 40).await, spread, "nobody is moved");
    let opened = counted(&servers, "opened").await;
    drop(old);
    let mut old = clients(&[web], "eventsource", 40).await;
    let spread = echo(&mut old, 40).await;
    assert!(spread["c"].as_u64().is_some_and(|sessions| sessions > 3), "new ones go to the new server, too: {spread}");
    assert_eq!(counted(&servers, "opened").await, opened + 40);
    // Ids that another gateway has placed over two servers, where the third would be their hash's now.
    let other = before(&servers[..2]).start().await;
    let both = before(&servers).start().await;
    let mut client = Client::connect(other.address("web")).await;
    let mut again = Client::connect(both.address("web")).await;
    let asked = counted(&servers, "questions").await;
    for number in 0..20 {
        let path = format!("/echo/000/placed{number}/xhr");
        assert_eq!(client.post(&path, b"").await.text(), "o\n");
        let answer = again.post(&path, b"").await;
        assert!(answer.text().starts_with("a["), "{number}: {}", answer.text());
    }
    assert!(counted(&servers, "questions").await > asked);
}

async fn a_server_that_is_killed_takes_its_sessions_with_it_and_no_others() {
    let mut servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).upstream("sessions: { grace: 1s }").start().await;
    let web = [gateway.address("web")];
    let mut polls = clients(&web, "xhr-polling", 30).await;
    let mut streams = clients(&web, "xhr-streaming", 30).await;
    let mut of_a = 0;
    for client in [&mut polls, &mut streams] {
        of_a += echo(client, 30).await["a"].as_u64().unwrap();
    }
    servers[0].kill().await;
    for client in [&mut polls, &mut streams] {
        // Clients of streams that were cut in the middle find out when they say something.
        client.ask("echo").await;
        let said = client.ask("left a").await;
        let codes = said["closed"].as_object().unwrap();
        assert!(codes.keys().all(|closed| closed.starts_with("1006")), "{said}");
        assert_eq!(said["homes"]["a"], Value::Null, "{said}");
        let renewed = client.ask("renew").await;
        assert_eq!(renewed["homes"]["a"], Value::Null, "{renewed}");
        echo(client, 30).await;
    }
    assert!(of_a > 0);
}

async fn a_gateway_that_is_killed_and_started_again_finds_what_still_lives() {
    for balance in ["client_ip", "round_robin"] {
        let servers = servers(&["a", "b", "c"]).await;
        let setup = before(&servers).upstream(format!("balance: {balance}"));
        let first = setup.start().await;
        let mut client = first.client().await;
        let path = |number: usize, transport: &str| format!("/echo/000/kept{number}/{transport}");
        let mut homes = Vec::new();
        for number in 0..12 {
            assert_eq!(client.post(&path(number, "xhr"), b"").await.text(), "o\n");
            homes.push(client.post(&path(number, "xhr"), b"").await.text());
        }
        assert_eq!(homes.iter().collect::<HashSet<_>>().len(), 3, "{homes:?}");
        drop((client, first));
        let second = setup.start().await;
        let (mut client, mut listener) = (second.client().await, second.client().await);
        for (number, hello) in homes.iter().enumerate() {
            let (say, poll) = (path(number, "xhr_send"), path(number, "xhr"));
            // Now one that says something comes first, now one that listens, which would open a ghost.
            let heard = if number % 2 == 0 {
                assert_eq!(client.post(&say, b"[\"x\"]").await.status, 204, "{balance} {number}");
                listener.post(&poll, b"").await
            } else {
                listener.send(format!("POST {poll} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
                eventually("it listens", async || counted(&servers, "waiting").await == 1).await;
                assert_eq!(client.post(&say, b"[\"x\"]").await.status, 204, "{balance} {number}");
                listener.answer().await
            };
            let id = hello.split("\\\"").nth(3).unwrap();
            assert!(heard.text().contains(&format!("\\\"id\\\":\\\"{id}\\\"")), "{hello} {}", heard.text());
        }
        assert_eq!(counted(&servers, "opened").await, 12, "{balance}: no ghosts");
    }
}

/// A session whose listener is cut is over for servers and clients of the npm packages, whoever was in between.
async fn clients_of_a_gateway_that_is_killed_begin_anew_by_the_next() {
    let servers = servers(&["a", "b", "c"]).await;
    let first = before(&servers).start().await;
    let web = first.address("web");
    let mut all = Vec::new();
    for transport in TRANSPORTS {
        let mut some = clients(&[web], transport, 10).await;
        echo(&mut some, 10).await;
        all.push((transport, some));
    }
    drop(first);
    let _second = before(&servers).at(web).start().await;
    for (transport, some) in &mut all {
        // Some find out when they say something.
        some.ask("echo").await;
        let renewed = some.ask("renew").await;
        let homes = echo(some, 10).await;
        let open: u64 = homes.as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(open, 10, "{transport} {renewed}");
    }
}

async fn raw_websockets_and_pages_go_to_any_server() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).upstream("balance: round_robin").start().await;
    let mut client = gateway.client().await;
    for path in ["/echo", "/echo/info", "/echo/iframe.html", "/echo/iframe-0.3.4.html"] {
        for _ in 0..3 {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
    }
    for _ in 0..6 {
        opened(gateway.client().await, "/echo/websocket").await;
    }
    for server in &servers {
        assert_eq!(counted(std::slice::from_ref(server), "raw").await, 2);
    }
    assert_eq!(live(&gateway).await, 0.0, "they have no session");
}

async fn made_up_ids_harm_no_session_that_is_known() {
    let servers = servers(&["a", "b"]).await;
    let gateway = before(&servers).upstream("sessions: { max: 500 }").start().await;
    let web = gateway.address("web");
    let mut known = clients(&[web], "xhr-polling", 20).await;
    echo(&mut known, 20).await;
    let memory = gateway.memory();
    let mut stranger = Client::connect(web).await;
    let began = Instant::now();
    for (what, status) in [("xhr", 200), ("xhr_send", 404)] {
        for hundred in 0..15 {
            let request = |number: usize| {
                let path = format!("/echo/000/{what}-{hundred}-{number}/{what}");
                format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n[\"x\"]")
            };
            stranger.send((0..100).map(request).collect::<String>()).await;
            for _ in 0..100 {
                assert_eq!(stranger.answer().await.status, status);
            }
        }
    }
    let asked = counted(&servers, "questions").await;
    let most = 600 + 30 * (began.elapsed().as_secs() + 1);
    assert!(asked <= 2 * most, "{asked} questions in {:?}", began.elapsed());
    tokio::time::timeout(Duration::from_secs(30), echo(&mut known, 20)).await.unwrap();
    assert!(live(&gateway).await <= 500.0);
    assert!(gateway.memory() < memory + 32 * 1024);
    let long = "x".repeat(6_000);
    assert_eq!(stranger.post(&format!("/echo/000/{long}/xhr"), b"").await.status, 200, "it is no session of ours");
}

async fn a_drained_server_tells_each_session_in_the_words_of_its_transport() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).start().await;
    let web = [gateway.address("web")];
    let mut all = Vec::new();
    for transport in TRANSPORTS {
        let mut some = clients(&web, transport, 20).await;
        let of_a = echo(&mut some, 20).await["a"].as_u64().unwrap_or(0);
        all.push((transport, some, of_a));
    }
    let mut admin = Client::connect(gateway.address("admin")).await;
    assert_eq!(admin.post("/drain?upstream=app&server=a&rate=100", b"").await.status, 200);
    for (transport, client, of_a) in &mut all {
        let said = client.ask("left a").await;
        let closed = if *of_a == 0 { json!({}) } else { json!({ "1012 Service restart true": *of_a }) };
        assert_eq!(said["closed"], closed, "{transport}: {said}");
        let renewed = client.ask("renew").await;
        assert_eq!((&renewed["opened"], &renewed["homes"]["a"]), (&json!(*of_a), &Value::Null), "{transport}");
        echo(client, 20).await;
    }
    assert!(all.iter().map(|(_, _, of_a)| of_a).sum::<u64>() > 10);
    eventually("nobody is left there", async || {
        gateway.metric("sockgate_sessions{upstream=\"app\",server=\"a\"}").await == 0.0
    })
    .await;
}

/// Its server ends a session whose client breaks off while it listens, and would hold what it says for nobody else.
async fn clients_that_leave_are_gone_for_their_server_at_once() {
    let servers = servers(&["a", "b"]).await;
    let gateway = before(&servers).start().await;
    for transport in ["xhr", "xhr_streaming"] {
        for turn in 0..5 {
            let path = format!("/echo/000/leaves-{turn}-{transport}/{transport}");
            let mut client = gateway.client().await;
            if transport == "xhr" {
                // The greeting, and what was said to it; after that a poll waits.
                assert_eq!(client.post(&path, b"").await.text(), "o\n");
                assert!(client.post(&path, b"").await.text().starts_with("a["));
            }
            client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
            eventually("it listens", async || counted(&servers, "waiting").await == 1).await;
            assert_eq!(counted(&servers, "open").await, 1);
            drop(client);
            eventually("its server knows that it has left", async || counted(&servers, "open").await == 0).await;
            assert_eq!(counted(&servers, "waiting").await, 0);
        }
    }
}

async fn the_transports_of_browsers_are_told_too() {
    let there = std::process::Command::new("chromium").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("skipped: there is no `chromium` here");
        return;
    }
    let servers = servers(&["a", "b"]).await;
    let gateway = before(&servers).start().await;
    let (url, admin) = (format!("http://{}", gateway.address("web")), format!("http://{}", gateway.address("admin")));
    let seen = run("sockjs_browser.js", &[&url, &admin], 120).await;
    assert_eq!((&seen["fault"], &seen["faults"]), (&Value::Null, &json!([])), "{seen}");
    for session in seen["closed"].as_array().unwrap() {
        assert_eq!(session["by"], session["transport"], "{seen}");
        assert_eq!(session["echo"], session["home"], "{seen}");
        assert_eq!(session["closed"], json!([1012, "Service restart", true]), "{seen}");
    }
    assert_eq!(seen["closed"].as_array().unwrap().len(), 5);
}

async fn the_file_that_comes_along_serves_sessions() {
    let servers = servers(&["a", "b", "c"]).await;
    let mut yaml = include_str!("../../conf/sockjs.yaml").replace("0.0.0.0:8080", "127.0.0.1:0\n    name: web");
    for (server, port) in servers.iter().zip(["3001", "3002", "3003"]) {
        yaml = yaml.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", server.port()));
    }
    let gateway = Gateway::start(&yaml.replace("127.0.0.1:9901", "127.0.0.1:0")).await;
    let web = [gateway.address("web")];
    for transport in TRANSPORTS {
        let mut some = clients(&web, transport, 30).await;
        let homes = echo(&mut some, 30).await;
        assert_eq!(homes.as_object().unwrap().len(), 3, "{homes}");
    }
}
