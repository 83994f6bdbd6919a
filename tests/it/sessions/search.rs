//! Looking for a session costs little, whoever asks, and no server holds it up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use http::Request;
use tokio::net::{TcpListener, TcpStream};

use super::{UNKNOWN, event};
use crate::support::cluster::{Cluster, IN_TURN};
use crate::support::eio::{Eio, Manner, poll, poll_from};
use crate::support::http2::Http2;
use crate::support::polling::Polling;
use crate::support::{Client, Gateway, Setup, eventually};

/// A gateway before these servers, whose sessions it has not seen.
async fn before(servers: &[&Eio], upstream: &str) -> Gateway {
    let servers: Vec<SocketAddr> = servers.iter().map(|server| server.address()).collect();
    Setup::before(&servers).upstream("kind: socket.io").unchecked().upstream(upstream).start().await
}

async fn searches(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("sockgate_session_searches_total{{result=\"{result}\",upstream=\"app\"}}")).await
}

async fn questions(gateway: &Gateway) -> f64 {
    gateway.metric("sockgate_session_questions_total{upstream=\"app\"}").await
}

#[tokio::test]
async fn sessions_of_servers_that_allow_polling_only_are_found() {
    let cluster = Cluster::start("v4", 4, &["--transports", "polling"]).await;
    let mut sessions = Vec::new();
    for _ in 0..12 {
        let mut session = Polling::open(&[cluster.address()]).await;
        let home = session.who().await;
        sessions.push((session, home));
    }
    let other = cluster.gateway_with("127.0.0.1:0", IN_TURN).await;
    for (session, home) in &mut sessions {
        session.redirect(&[other.address("web")]);
        assert_eq!(session.who().await, *home, "the session is where it was");
    }
    assert_eq!((event(&other, "rescued").await, searches(&other, "found").await), (12.0, 12.0));
}

#[tokio::test]
async fn a_server_that_says_yes_to_everything_is_not_believed_and_the_operator_is_told_once() {
    let (a, b) = (Eio::with("a", Manner::YesToAll).await, Eio::start("b").await);
    let gateway = before(&[&a, &b], "balance: round_robin").await;
    for number in 0..6 {
        let sid = format!("there-{number}");
        b.knows(&sid);
        let answer = poll(gateway.address("web"), &sid).await;
        assert_eq!((answer.status, answer.text()), (200, "4b".to_owned()));
    }
    // Whoever is asked first, both are asked for this one.
    assert_eq!(poll(gateway.address("web"), "nobody").await.status, 400);
    let told = "does not tell which sessions it knows";
    gateway.log_line(told).await;
    assert_eq!(gateway.log_lines(told).len(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_holds_up_no_search() {
    found_beside_a_hung_server(200, 40).await;
}

#[tokio::test]
#[ignore = "takes the machine for itself"]
async fn ten_thousand_sessions_are_found_beside_a_hung_server_within_ten_seconds() {
    found_beside_a_hung_server(10_000, 2000).await;
}

async fn found_beside_a_hung_server(sessions: usize, at_once: usize) {
    const MOST: Duration = Duration::from_secs(10);
    let (a, b, c) = (Eio::start("a").await, Eio::start("b").await, Eio::start("c").await);
    let hung = Eio::with("d", Manner::Hung).await;
    let gateway = before(&[&a, &b, &c, &hung], "balance: client_ip").await;
    let address = gateway.address("web");
    let all: Vec<String> = (0..sessions).map(|number| format!("session-{number}")).collect();
    for (number, sid) in all.iter().enumerate() {
        [&a, &b, &c][number % 3].knows(sid);
    }
    let began = Instant::now();
    let polls = all.iter().enumerate().map(async |(number, sid)| {
        let answer = poll_from((number % 200 + 2) as u8, address, sid).await;
        assert_eq!(answer.status, 200, "{sid}: {}", answer.text());
    });
    let polls: Vec<()> = futures::stream::iter(polls).buffer_unordered(at_once).collect().await;
    let took = began.elapsed();
    println!("{} sessions found in {took:?}", polls.len());
    assert!(took < MOST, "{took:?}");
    assert_eq!(searches(&gateway, "found").await, sessions as f64);
}

#[tokio::test]
async fn requests_of_one_session_share_one_search_and_connections_to_ask_are_kept() {
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let gateway = before(&[&a, &b], "balance: round_robin").await;
    b.knows("wanted");
    let polls = (0..20).map(|_| poll(gateway.address("web"), "wanted"));
    assert!(join_all(polls).await.iter().all(|answer| answer.text() == "4b"));
    // One about it to each, and one to the server that said yes, to see whether it says so to everything.
    let (asked_a, asked_b) = (a.questions().len(), b.questions().len());
    assert!(asked_a <= 1 && asked_b <= 2, "{asked_a} and {asked_b}");
    let before = b.accepted();
    for number in 0..10 {
        let sid = format!("more-{number}");
        b.knows(&sid);
        assert_eq!(poll(gateway.address("web"), &sid).await.status, 200);
    }
    // Each poll is a connection of the gateway's, perhaps; questions add none.
    assert!(b.accepted() - before <= 11, "{} connections for ten polls", b.accepted() - before);
}

#[tokio::test]
async fn what_nobody_knows_is_not_asked_again_at_once() {
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let gateway = before(&[&a, &b], "balance: round_robin").await;
    for _ in 0..10 {
        let answer = poll(gateway.address("web"), "nobody").await;
        assert_eq!(answer.status, 400);
    }
    assert_eq!((a.questions().len(), b.questions().len()), (1, 1));
    assert_eq!(searches(&gateway, "unknown").await, 10.0);
    gateway.access_line(&["search=unknown", "status=400"]).await;
}

#[tokio::test]
async fn a_made_up_session_at_a_path_of_the_app_is_one_request() {
    let servers = [Eio::start("a").await, Eio::start("b").await, Eio::start("c").await];
    let gateway = before(&[&servers[0], &servers[1], &servers[2]], "balance: round_robin").await;
    let mut client = gateway.client().await;
    for path in ["/reports/yearly?EIO=4&sid=x", "/?sid=x", "/socket.io/reports?transport=polling&sid=x"] {
        client.get(path).await;
    }
    let heard: usize = servers.iter().map(|server| server.heard().len()).sum();
    assert_eq!((heard, questions(&gateway).await), (3, 0.0));
}

#[tokio::test]
async fn sessions_are_looked_for_where_one_was_opened_or_the_operator_says() {
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let path = |sid: &str| format!("/chat/?EIO=4&transport=polling&sid={sid}");
    for sid in ["first", "second", "third"] {
        a.knows(sid);
        b.knows(sid);
    }
    let gateway = before(&[&a, &b], "balance: round_robin").await;
    let mut client = gateway.client().await;
    client.get(&path("first")).await;
    assert_eq!(questions(&gateway).await, 0.0, "nobody has opened one there");
    assert_eq!(client.get("/chat/?EIO=4&transport=polling").await.status, 200);
    client.get(&path("second")).await;
    assert_eq!(searches(&gateway, "found").await, 1.0);

    let told = before(&[&a, &b], "balance: round_robin, sessions: { paths: [/chat] }").await;
    let mut client = told.client().await;
    client.get(&path("third")).await;
    assert_eq!(searches(&told, "found").await, 1.0);
    assert_eq!(client.get("/socket.io/?EIO=4&transport=polling").await.status, 200);
    assert_eq!(event(&told, "learned").await, 0.0, "sessions are where the operator says, and nowhere else");
}

#[tokio::test]
async fn questions_say_who_asks_and_for_which_host() {
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let gateway = before(&[&a, &b], "balance: round_robin").await;
    let ask = "GET /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let mut client = Client::connect_from(7, gateway.address("web")).await;
    client.send(ask).await;
    assert_eq!(client.answer().await.status, 400);
    let asked = [a.questions(), b.questions()].concat();
    assert_eq!(asked.len(), 2);
    for head in asked.iter().map(|head| head.to_lowercase()) {
        assert!(
            head.contains("\r\nhost: shop.example\r\n") && head.contains("\r\nx-forwarded-for: 127.0.0.7\r\n"),
            "{head}"
        );
    }
    let fixed = before(&[&a, &b], "host: app.internal").await;
    poll(fixed.address("web"), "y").await;
    let last = [a.questions(), b.questions()].concat();
    let fixed = last.iter().filter(|head| head.to_lowercase().contains("\r\nhost: app.internal\r\n")).count();
    assert_eq!(fixed, 2);
}

/// A stranger who makes up ids has each of them asked for only so often, and others are found meanwhile.
#[tokio::test]
async fn a_flood_of_made_up_sessions_has_a_budget_and_holds_up_nobody_else() {
    const FLOOD: usize = 2000;
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let gateway = before(&[&a, &b], "balance: round_robin").await;
    let address = gateway.address("web");
    let began = Instant::now();
    let flood = (0..FLOOD).map(async |number| poll_from(66, address, &format!("made-up-{number}")).await.status);
    let flood = futures::stream::iter(flood).buffer_unordered(200).collect::<Vec<u16>>();
    let (flood, ()) = tokio::join!(flood, async {
        for number in 0..20 {
            let sid = format!("honest-{number}");
            b.knows(&sid);
            assert_eq!(poll_from(7, address, &sid).await.text(), "4b", "{sid}");
        }
    });
    assert!(flood.iter().all(|&status| status == 400), "each gets the words of a server");
    // What an address and its new connections may at once, and what flows in meanwhile.
    let most = 600.0 + 30.0 * (began.elapsed().as_secs_f64() + 1.0);
    let searched = searches(&gateway, "unknown").await;
    assert!(searched <= most, "{searched} of {FLOOD} were looked for");
    assert!(searches(&gateway, "refused").await >= FLOOD as f64 - most);
    assert!(questions(&gateway).await <= 2.0 * (most + 22.0));
    gateway.access_line(&["search=refused", "status=400"]).await;
}

/// Who makes up ids does so on connections that he keeps, and an office shares its address with him.
#[tokio::test]
async fn a_flood_of_made_up_sessions_leaves_something_to_others_behind_its_own_address() {
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let gateway = before(&[&a, &b], "balance: round_robin").await;
    let address = gateway.address("web");
    let flood = (0..4).map(async |lane| {
        let mut client = Client::connect_from(66, address).await;
        for number in 0..250 {
            let made_up = format!("/socket.io/?EIO=4&transport=polling&sid=made-up-{lane}-{number}");
            assert_eq!(client.get(&made_up).await.status, 400);
        }
    });
    join_all(flood).await;
    assert!(searches(&gateway, "refused").await > 0.0, "its budget is spent");
    for number in 0..60 {
        let sid = format!("honest-{number}");
        b.knows(&sid);
        assert_eq!(poll_from(66, address, &sid).await.text(), "4b", "{sid}");
    }
}

#[tokio::test]
async fn a_server_that_is_too_busy_to_answer_a_question_is_asked_once_more() {
    let (a, busy) = (Eio::start("a").await, Eio::with("b", Manner::BusyAtFirst).await);
    let gateway = before(&[&a, &busy], "balance: round_robin").await;
    for number in 0..3 {
        let sid = format!("there-{number}");
        busy.knows(&sid);
        assert_eq!(poll(gateway.address("web"), &sid).await.text(), "4b", "{sid}");
    }
    assert_eq!(searches(&gateway, "found").await, 3.0);
}

/// To be told that its session is over a client does not wait for a server that says nothing to anybody.
#[tokio::test]
async fn a_session_that_nobody_knows_is_refused_by_a_server_that_answers() {
    let (a, hung) = (Eio::start("a").await, Eio::with("d", Manner::Hung).await);
    for cookie in ["", "affinity: { cookie: {} }"] {
        let gateway = before(&[&a, &hung], &format!("balance: client_ip, {cookie}")).await;
        let polls = (2..18).map(async |last| {
            let answer = poll_from(last, gateway.address("web"), &format!("nobody-{last}")).await;
            assert_eq!(answer.status, 400, "{last}");
        });
        let began = Instant::now();
        join_all(polls).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_search_that_fails_for_want_of_descriptors_says_nothing_of_the_session() {
    let (a, b) = (Eio::start("a").await, Eio::start("b").await);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!(
        "listeners:\n  - {{ name: web, address: 127.0.0.1:0 }}\n\
         routes:\n  - {{ match: {{ path: /silent }}, upstream: silent }}\n  - upstream: app\n\
         upstreams:\n  silent: {{ servers: [\"{}\"], health: {{ check: none }} }}\n  \
         app: {{ kind: socket.io, balance: round_robin, servers: [\"{}\", \"{}\"], health: {{ check: none }} }}\n",
        silent.local_addr().unwrap(),
        a.address(),
        b.address()
    );
    let gateway = Gateway::start_with_files(&yaml, 100).await;
    let mut client = gateway.client().await;
    assert_eq!(client.get("/socket.io/?EIO=4&transport=polling").await.status, 200);
    let streams = Http2::over(TcpStream::connect(gateway.address("web")).await.unwrap()).await;
    let mut held = Vec::new();
    for _ in 0..90 {
        held.push(streams.begin(Request::get("http://a.test/silent").body(()).unwrap(), "").await);
    }
    gateway.access_line(&["status=503", "closed_by=shortage"]).await;
    b.knows("there");
    let path = "/socket.io/?EIO=4&transport=polling&sid=there";
    assert_eq!(client.get(path).await.status, 503);
    drop((held, streams));
    eventually("it is found", async || gateway.client().await.get(path).await.text() == "4b").await;
    assert_eq!(searches(&gateway, "unknown").await, 0.0);
    assert!(searches(&gateway, "shortage").await >= 1.0);
}

#[tokio::test]
async fn the_words_for_an_unknown_session_are_those_of_a_server() {
    let cluster = Cluster::start("v4", 2, &["--transports", "polling"]).await;
    let answer = poll(cluster.address(), "AAAAAAAAAAAAAAAAAAAA").await;
    assert_eq!((answer.status, answer.text()), (400, UNKNOWN.to_owned()));
}
