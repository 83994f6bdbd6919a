//! Gateways that are peers: each has servers of its own, and a session's request that comes to the wrong one goes on to the one
//! whose servers have it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use http::Request;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::cluster::{calm, run, served};
use crate::support::collector::Collector;
use crate::support::eio::{Eio, poll, poll_from};
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::{Node, counted};
use crate::support::pods::Pods;
use crate::support::polling::Polling;
use crate::support::{Client, Setup, eventually};

for_each_engine! {
    sessions_of_three_pods_meet_their_server_through_any_gateway(flavor = "multi_thread"),
    a_gateway_that_is_restarted_leaves_nobody_with_a_session_unknown(flavor = "multi_thread"),
    a_gateway_that_dies_takes_its_own_sessions_with_it_and_no_others(flavor = "multi_thread"),
    a_session_that_nobody_has_is_asked_for_once_and_goes_nowhere,
    a_gateway_among_its_own_peers_is_left_out,
    the_servers_see_the_client_as_if_it_had_come_to_them_at_once,
    what_a_stranger_says_of_being_a_peer_means_nothing,
    what_ended_at_a_peer_is_forgotten_and_begins_anew,
    sessions_of_mcp_go_on_to_the_peer_that_has_them,
    sessions_of_sockjs_go_on_to_the_peer_that_has_them,
    a_request_that_is_passed_on_is_one_trace_through_both_gateways,
    a_flood_of_made_up_sessions_stays_within_the_budget_of_each_gateway,
}

const QUESTIONS: &str = "sockgate_session_questions_total{upstream=\"app@peers\"}";
const OWN_QUESTIONS: &str = "sockgate_session_questions_total{upstream=\"app\"}";

fn at_peers(result: &str) -> String {
    format!("sockgate_session_searches_total{{result=\"{result}\",upstream=\"app\"}}")
}

/// Servers `a1`, `a2`, `b1` and so on.
async fn workers(version: &str) -> Vec<Vec<Node>> {
    let names = [["a1", "a2"], ["b1", "b2"], ["c1", "c2"]];
    join_all(names.map(|two| join_all(two.map(async |name| Node::server(version, &["--id", name]).await)))).await
}

fn before(workers: &[Node], more: &str) -> Setup {
    let setup = Setup::before_nodes(workers).upstream("kind: socket.io, balance: round_robin");
    setup.more(format!("drain: {{ delay: 100ms, over: 2s, deadline: 10s }}\n{more}"))
}

async fn sessions_of_three_pods_meet_their_server_through_any_gateway() {
    for version in ["v4", "v2"] {
        let workers = workers(version).await;
        let pods = Pods::before(workers.iter().map(|two| before(two, ""))).await;
        let folder = tempfile::tempdir().unwrap();
        let Some((_haproxy, front)) = pods.front(folder.path()) else { return };
        let began = Instant::now();
        let (upgrading, polling) =
            tokio::join!(run(front, version, "polling,websocket", 60, &[]), run(front, version, "polling", 24, &[]));
        for (what, summary) in [("upgrading", &upgrading), ("polling", &polling)] {
            calm(&format!("{version} {what}"), summary);
        }
        let on = |name: &str| served(&upgrading, name) + served(&polling, name);
        let each: Vec<u64> = ["a1", "a2", "b1", "b2", "c1", "c2"].map(on).to_vec();
        assert!(each.iter().all(|&sessions| (8..=20).contains(&sessions)), "{version}: {each:?}");
        let learned = pods.sum("sockgate_session_events_total{upstream=\"app\",event=\"learned\"}").await;
        assert_eq!(learned, 84.0, "{version}: nobody's session is counted twice");
        let passed = pods.sum("sockgate_requests_total{class=\"2xx\",upstream=\"app@peers\"}").await;
        let asked = pods.sum(QUESTIONS).await;
        eprintln!("{version}: {passed} requests passed on, {asked} questions, in {:?}", began.elapsed());
        assert!(pods.sum(&at_peers("peer")).await > 0.0, "{version}");
        pods.gateways[0].access_line(&["search=peer", "app@peers"]).await;
    }
}

/// Sessions that talk, and then stay for some seconds; a goodbye or an accident in that time is none of theirs.
async fn clients(front: SocketAddr) -> (Value, Value) {
    let options = ["--hold", "9000", "--allow-reconnect"];
    tokio::join!(run(front, "v4", "polling,websocket", 40, &options), run(front, "v4", "polling", 24, &options))
}

/// Waits until all of them are there, and have said what they had to say: who they are on, and five times an echo and a number.
async fn all_have_spoken(workers: &[Vec<Node>]) {
    eventually("all have spoken, and who upgrades has", async || {
        let (mut events, mut upgrades) = (0, 0);
        for two in workers {
            events += counted(two, "events").await;
            upgrades += counted(two, "upgrades").await;
        }
        events >= 64 * 11 && upgrades >= 40
    })
    .await;
}

async fn a_gateway_that_is_restarted_leaves_nobody_with_a_session_unknown() {
    let workers = workers("v4").await;
    let mut pods = Pods::before(workers.iter().map(|two| before(two, ""))).await;
    let folder = tempfile::tempdir().unwrap();
    let Some((_haproxy, front)) = pods.front(folder.path()) else { return };
    let restart = async {
        all_have_spoken(&workers).await;
        let web = pods.gateways[1].address("web");
        pods.gateways[1].signal(Signal::SIGTERM);
        pods.gateways[1].ended().await;
        pods.gateways[1] = pods.setups[1].clone().at(web).start().await;
    };
    let ((upgrading, polling), ()) = tokio::join!(clients(front), restart);
    for summary in [&upgrading, &polling] {
        assert_eq!(summary["session_id_unknown"], 0, "{summary}");
        assert_eq!(summary["failures"], json!({}), "{summary}");
    }
}

async fn a_gateway_that_dies_takes_its_own_sessions_with_it_and_no_others() {
    const EACH: usize = 10;
    let workers = workers("v4").await;
    let mut pods = Pods::before(workers.iter().map(|two| before(two, ""))).await;
    let web = pods.web();
    let mut sessions = Vec::new();
    for home in &web {
        for _ in 0..EACH {
            let mut session = Polling::open(&[*home]).await;
            session.redirect(&web);
            // Each gateway in its turn.
            for _ in 0..2 {
                session.who().await;
            }
            sessions.push(session);
        }
    }
    assert_eq!(pods.sum("sockgate_engine_io_errors_total{code=\"1\",upstream=\"app\"}").await, 0.0);
    drop(pods.gateways.remove(1));
    // The kernel takes connections until all of it is gone.
    eventually("nobody listens there", async || TcpStream::connect(web[1]).await.is_err()).await;
    let left = [web[0], web[2]];
    let mut unknown = 0;
    for (at, session) in sessions.iter_mut().enumerate() {
        session.redirect(&left);
        if at / EACH == 1 {
            let began = Instant::now();
            let answer = session.poll().await;
            unknown += usize::from(answer.status == 400 && answer.text().contains("Session ID unknown"));
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        } else {
            let home = session.who().await;
            assert_eq!(session.who().await, home);
        }
    }
    assert_eq!(unknown, EACH, "what was there is told so at once");
}

/// Two servers that the test looks into, behind each of two gateways.
async fn watched() -> ([[Eio; 2]; 2], Pods) {
    let servers = [[Eio::start("a").await, Eio::start("b").await], [Eio::start("c").await, Eio::start("d").await]];
    let setup = |two: &[Eio; 2]| {
        Setup::before(&[two[0].address(), two[1].address()]).upstream("kind: socket.io, balance: round_robin")
    };
    let pods = Pods::before([setup(&servers[0]), setup(&servers[1])]).await;
    (servers, pods)
}

async fn a_session_that_nobody_has_is_asked_for_once_and_goes_nowhere() {
    let (servers, pods) = watched().await;
    let [here, there] = [pods.gateways[0].address("web"), pods.gateways[1].address("web")];
    let answer = poll(here, "made-up").await;
    assert_eq!((answer.status, answer.text().contains("\"code\":1")), (400, true));
    let asked = [pods.gateways[0].metric(QUESTIONS).await, pods.gateways[1].metric(QUESTIONS).await];
    assert_eq!(asked, [2.0, 0.0], "itself and the peer, which asks nobody further");
    let questions = |two: &[Eio; 2]| two.iter().map(|server| server.questions().len()).sum::<usize>();
    assert_eq!((questions(&servers[0]), questions(&servers[1])), (2, 2));
    let heard = |two: &[Eio; 2]| two.iter().map(|server| server.heard().len()).sum::<usize>();
    assert_eq!(
        (heard(&servers[0]), heard(&servers[1])),
        (3, 2),
        "the request itself goes to a server of its own gateway"
    );
    // A session that is there is found, and goes on once.
    servers[1][1].knows("there");
    let answer = poll(here, "there").await;
    assert_eq!((answer.status, answer.text()), (200, "4d".to_owned()));
    assert_eq!(pods.gateways[1].metric(QUESTIONS).await, 0.0);
    let passed = "sockgate_requests_total{class=\"2xx\",upstream=\"app@peers\"}";
    assert_eq!([pods.gateways[0].metric(passed).await, pods.gateways[1].metric(passed).await], [1.0, 0.0]);
    // It is remembered: nobody is asked again.
    let before = pods.gateways[0].metric(QUESTIONS).await;
    assert_eq!(poll(here, "there").await.text(), "4d");
    assert_eq!(poll(there, "there").await.text(), "4d");
    assert_eq!(pods.gateways[0].metric(QUESTIONS).await, before);
}

async fn a_gateway_among_its_own_peers_is_left_out() {
    let server = Eio::start("a").await;
    let pods = Pods::before([Setup::before(&[server.address()]).upstream("kind: socket.io")]).await;
    for number in 0..10 {
        assert_eq!(poll(pods.web()[0], &format!("made-up-{number}")).await.status, 400);
    }
    assert_eq!(pods.sum(QUESTIONS).await, 1.0, "it meets itself once");
}

/// The heads that a server got of polls for this session, without what is new in each.
fn heads(server: &Eio, sid: &str) -> Vec<Vec<String>> {
    let of_session = |head: &String| head.contains(&format!("transport=polling&sid={sid} "));
    let differs = |line: &&str| {
        let line = line.to_ascii_lowercase();
        line.is_empty() || line.starts_with("x-request-id:") || line.starts_with("x-forwarded-port:")
    };
    // Pingora's proxy has an order of its own.
    let sorted = |mut lines: Vec<String>| {
        lines.sort_unstable();
        lines
    };
    let lines = |head: String| sorted(head.lines().filter(|line| !differs(line)).map(str::to_owned).collect());
    server.heard().into_iter().filter(of_session).map(lines).collect()
}

const TARGET: &str = "/app/socket.io/?EIO=4&transport=polling&sid=there";

async fn behind_rules() -> ([Eio; 2], Pods) {
    let servers = [Eio::start("a").await, Eio::start("b").await];
    let setup = |server: &Eio| {
        let setup = Setup::before(&[server.address()]).upstream("kind: socket.io");
        setup.route("rewrite: { strip_prefix: /app }, request_headers: { add: { x-way: one } }, response_headers: { add: { x-back: one } }")
    };
    let pods = Pods::before([setup(&servers[0]), setup(&servers[1])]).await;
    servers[1].knows("there");
    (servers, pods)
}

async fn the_servers_see_the_client_as_if_it_had_come_to_them_at_once() {
    let (servers, pods) = behind_rules().await;
    let fields =
        "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nCookie: a=b\r\nAccept-Encoding: gzip\r\nX-Own: yes\r\n";
    for web in pods.web() {
        let mut client = Client::connect_from(7, web).await;
        let answer = client.get_with(TARGET, fields).await;
        assert_eq!((answer.status, answer.text()), (200, "4b".to_owned()));
        let back = answer.headers.iter().filter(|(name, _)| name == "x-back").count();
        assert_eq!(back, 1, "rules are applied once: {:?}", answer.headers);
        assert_eq!(answer.header("sockgate-peer"), None);
    }
    let heads = heads(&servers[1], "there");
    assert_eq!(heads.len(), 2);
    assert_eq!(heads[0], heads[1]);
    let text = heads[0].join("\n").to_ascii_lowercase();
    assert!(text.contains("x-forwarded-for: 127.0.0.7\n") && text.contains("x-way: one"), "{text}");
    assert!(!text.contains("6.6.6.6") && !text.contains("sockgate-peer"), "{text}");
    // By HTTP/2, too.
    let http2 = Http2::over(Client::connect_from(7, pods.web()[0]).await.into_stream()).await;
    let request = Request::builder().uri(format!("http://{}{TARGET}", "localhost")).body(()).unwrap();
    assert_eq!(http2.ask(request, "").await.into_body(), b"4b");
    let last = self::heads(&servers[1], "there").pop().unwrap().join("\n").to_ascii_lowercase();
    assert!(last.contains("x-forwarded-for: 127.0.0.7"), "{last}");
    let line = pods.gateways[1].access_line(&["127.0.0.7", "transport=polling"]).await;
    assert!(line.contains("sid="), "{line}");
}

async fn what_a_stranger_says_of_being_a_peer_means_nothing() {
    let (servers, pods) = behind_rules().await;
    let mark = "1 00000000000000000000000000000007 1700000000 192.0.2.66:4711 443 776562 - - -";
    for seal in ["-", "00", &"0".repeat(64)] {
        let mut client = Client::connect_from(7, pods.web()[1]).await;
        let answer = client.get_with(TARGET, &format!("Sockgate-Peer: {mark} {seal}\r\n")).await;
        assert_eq!((answer.status, answer.text()), (200, "4b".to_owned()));
    }
    let text = heads(&servers[1], "there").concat().join("\n").to_ascii_lowercase();
    assert_eq!(text.matches("x-forwarded-for: 127.0.0.7").count(), 3, "{text}");
    assert!(!text.contains("192.0.2.66") && !text.contains("sockgate-peer"), "{text}");
}

async fn what_ended_at_a_peer_is_forgotten_and_begins_anew() {
    let (servers, pods) = watched().await;
    servers[1][0].knows("there");
    let here = pods.web()[0];
    assert_eq!(poll(here, "there").await.text(), "4c");
    servers[1][0].forgets("there");
    let again = [poll(here, "there").await, poll(here, "there").await];
    assert!(again.iter().all(|answer| answer.status == 400), "{again:?}");
    let gone = "sockgate_sessions_ended_total{upstream=\"app@peers\",cause=\"unknown\"}";
    assert_eq!(pods.gateways[0].metric(gone).await, 1.0);
}

async fn sessions_of_mcp_go_on_to_the_peer_that_has_them() {
    let servers =
        join_all(["a", "b"].map(async |id| [Node::start("mcp_server.js", &["mcp1", "--id", id]).await])).await;
    let setup = |servers: &[Node; 1]| Setup::before_nodes(servers).upstream("kind: mcp");
    let pods = Pods::before(servers.iter().map(setup)).await;
    let urls: Vec<String> = pods.web().iter().map(|web| format!("http://{web}/mcp")).collect();
    let mut client = Node::start("mcp_client.js", &["mcp1", "--url", &urls.join(","), "--sessions", "30"]).await;
    assert_eq!(client.ready, json!({ "opened": 30, "faults": {} }));
    for _ in 0..2 {
        let said = client.ask("call").await;
        assert_eq!((&said["called"], &said["moved"], &said["faults"]), (&json!(30), &json!(0), &json!({})), "{said}");
    }
    assert_eq!(client.ask("close").await, json!({ "closed": 30, "faults": {} }));
    assert!(pods.sum(&at_peers("peer")).await > 0.0);
}

async fn sessions_of_sockjs_go_on_to_the_peer_that_has_them() {
    let servers = join_all(["a", "b"].map(async |id| [Node::start("sockjs_server.js", &["--id", id]).await])).await;
    let setup = |servers: &[Node; 1]| Setup::before_nodes(servers).upstream("kind: sockjs");
    let pods = Pods::before(servers.iter().map(setup)).await;
    let urls: Vec<String> = pods.web().iter().map(|web| format!("http://{web}/echo")).collect();
    for transport in ["xhr-polling", "websocket"] {
        let asked = pods.sum(QUESTIONS).await;
        let arguments = ["--url", &urls.join(","), "--transport", transport, "--sessions", "20"];
        let mut client = Node::start("sockjs_client.js", &arguments).await;
        assert_eq!((&client.ready["opened"], &client.ready["faults"]), (&json!(20), &json!({})), "{transport}");
        for _ in 0..3 {
            let said = client.ask("echo").await;
            let outcome = (&said["heard"], &said["moved"], &said["faults"]);
            assert_eq!(outcome, (&json!(20), &json!(0), &json!({})), "{transport}: {said}");
        }
        assert_eq!(pods.sum(QUESTIONS).await > asked, transport != "websocket", "a WebSocket is all of its session");
    }
    let servers: Vec<Node> = servers.into_iter().flatten().collect();
    assert_eq!(counted(&servers, "opened").await, 40, "no ghosts");
}

async fn a_request_that_is_passed_on_is_one_trace_through_both_gateways() {
    let Some(collector) = Collector::start(&[]).await else { return };
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let traces = format!(
        "traces: {{ endpoint: \"http://{}\", sample: 0 }}\nforwarding: {{ trusted_proxies: [127.0.0.2/32] }}",
        collector.address()
    );
    let setup = |server: &Eio| Setup::before(&[server.address()]).upstream("kind: socket.io").more(&traces);
    let pods = Pods::before([setup(&a), setup(&b)]).await;
    b.knows("there");
    let ask = async |from: u8| {
        let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        let mut client = Client::connect_from(from, pods.web()[0]).await;
        let answer = client.get_with("/socket.io/?EIO=4&transport=polling&sid=there", parent).await;
        assert_eq!(answer.text(), "4b");
    };
    ask(2).await;
    let first = collector.first("the first gateway", |told| told["parent"] == "00f067aa0ba902b7").await;
    let passed = collector.first("what it asks", |told| told["parent"] == first["span"]).await;
    assert_eq!((&passed["kind"], &passed["attributes"]["sockgate.upstream"]), (&json!("client"), &json!("app@peers")));
    let second = collector.first("the second one", |told| told["parent"] == passed["span"]).await;
    let asked = collector.first("what that asks", |told| told["parent"] == second["span"]).await;
    assert_eq!(asked["attributes"]["server.address"], b.address().to_string());
    let head = b.heard().into_iter().find(|head| head.contains("transport=polling")).unwrap();
    let told = format!("-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", asked["span"].as_str().unwrap());
    assert!(head.contains(&told), "{head}");
    // A stranger's goes no further than the first of them.
    ask(3).await;
    let head = b.heard().into_iter().rfind(|head| head.contains("transport=polling")).unwrap();
    assert!(!head.to_ascii_lowercase().contains("traceparent"), "{head}");
}

async fn a_flood_of_made_up_sessions_stays_within_the_budget_of_each_gateway() {
    const FLOOD: usize = 2400;
    let (servers, pods) = watched().await;
    let web = pods.web();
    let began = Instant::now();
    let flood =
        (0..FLOOD).map(async |number| poll_from(66, web[number % 2], &format!("made-up-{number}")).await.status);
    let flood = futures::stream::iter(flood).buffer_unordered(200).collect::<Vec<u16>>();
    let (flood, ()) = tokio::join!(flood, async {
        for number in 0..20 {
            let sid = format!("honest-{number}");
            servers[1][0].knows(&sid);
            assert_eq!(poll_from(7, web[0], &sid).await.text(), "4c", "{sid}");
        }
    });
    assert!(flood.iter().all(|&status| status == 400), "each gets the words of a server");
    let most = 600.0 + 30.0 * (began.elapsed().as_secs_f64() + 1.0);
    let to_servers = pods.sum(OWN_QUESTIONS).await;
    let to_peers = pods.sum(QUESTIONS).await;
    eprintln!("{FLOOD} made up: {to_servers} questions to servers, {to_peers} to peers, in {:?}", began.elapsed());
    assert!(to_servers <= 2.0 * 2.0 * (most + 22.0), "{to_servers} questions to servers of two gateways");
    assert!(to_peers <= 2.0 * (most + 22.0), "{to_peers} questions to peers");
}
