//! Servers that fail at what they are asked are passed over for a while, and their sessions wait for them.

use serde_json::Value;

use crate::support::cluster::{calm, run};
use crate::support::engine::for_each_engine;
use crate::support::load::{GET, Tally, ask};
use crate::support::node::Node;
use crate::support::polling::Polling;
use crate::support::relay::Relay;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Refusing, Scripted, Setup, eventually, within};

for_each_engine! {
    a_server_is_passed_over_whatever_it_fails_at,
    a_server_that_goes_on_failing_is_passed_over_for_longer,
    the_last_server_is_never_passed_over,
    health_that_flaps_shuffles_no_live_session,
    a_session_waits_for_its_server_and_goes_on_there,
    a_session_whose_server_stays_away_moves_when_its_grace_is_over,
    a_session_whose_server_is_gone_for_certain_moves_after_a_second,
}

/// How a server fails at each request.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Unavailable,
    Gibberish,
    Nothing,
    HalfAnAnswer,
    Silence,
}

async fn fail(how: Failing, mut client: Client) {
    while client.request().await.is_some() {
        let said = match how {
            Failing::Unavailable => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            Failing::Gibberish => "SSH-2.0-OpenSSH_9.6\r\n\r\n",
            Failing::HalfAnAnswer => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            Failing::Nothing => return,
            Failing::Silence => continue,
        };
        if client.try_send(said).await.is_err() || !matches!(how, Failing::Unavailable) {
            return;
        }
    }
}

async fn of_server(gateway: &Gateway, metric: &str, server: &str) -> f64 {
    gateway.metric(&format!("sockgate_server_{metric}{{upstream=\"app\",server=\"{server}\"}}")).await
}

/// Asks a server that fails and a good one in turn, with these statuses as the answers.
async fn is_passed_over(how: Failing, request: &str, good: u16, bad: u16) {
    let failing = Scripted::start(move |client, _| fail(how, client)).await;
    let echo = Echo::start("good").await;
    // Long enough for a good server on a busy machine.
    let upstream = "ejection: { bad_answers: 4, for: 2m }, timeouts: { first_byte: 2s }";
    let gateway = Gateway::before(&[failing.address(), echo.address()], upstream, "").await;
    let tally = ask(&gateway, 30, request).await;
    assert_eq!(tally, Tally::from([(good, 26), (bad, 4)]), "{how:?}: status and how often, of 30");

    let name = failing.address().to_string();
    gateway.log_line(&format!("server {name} is passed over for 120s: 4 bad answers in a row")).await;
    assert_eq!(of_server(&gateway, "ejected", &name).await, 1.0);
    assert_eq!(of_server(&gateway, "ejections_total", &name).await, 1.0);
    assert_eq!(of_server(&gateway, "bad_answers_total", &name).await, 4.0);
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    let server = &status["upstreams"][0]["servers"][0];
    assert_eq!(server["ejected_because_of"], "bad answers", "{server}");
    assert!(server["ejected_for_seconds"].as_f64().is_some_and(|left| left < 120.0), "{server}");
}

async fn a_server_is_passed_over_whatever_it_fails_at() {
    for (how, bad) in [
        (Failing::Unavailable, 503),
        (Failing::Gibberish, 502),
        (Failing::Nothing, 502),
        (Failing::HalfAnAnswer, 0),
        (Failing::Silence, 504),
    ] {
        // A GET that was not answered would be asked elsewhere.
        is_passed_over(how, POST, 200, bad).await;
    }
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_server_is_passed_over_for_how_it_answers_to_upgrades_too() {
    for (how, bad) in
        [(Failing::Unavailable, 503), (Failing::Gibberish, 502), (Failing::Nothing, 502), (Failing::Silence, 504)]
    {
        is_passed_over(how, &upgrade("/"), 101, bad).await;
    }
}

async fn a_server_that_goes_on_failing_is_passed_over_for_longer() {
    let failing = Scripted::start(|client, _| fail(Failing::Unavailable, client)).await;
    let echo = Echo::start("good").await;
    let both = [failing.address(), echo.address()];
    let upstream = "ejection: { bad_answers: 2, for: 1s, max_for: 2s }";
    let gateway = Gateway::before(&both, upstream, "").await;
    let name = failing.address();
    let mut bad = 0;
    for (ejections, lasts) in [(1.0, "1s"), (2.0, "2s")] {
        eventually("it is passed over", async || {
            bad += ask(&gateway, 1, GET).await.get(&503).copied().unwrap_or(0);
            of_server(&gateway, "ejections_total", &name.to_string()).await == ejections
        })
        .await;
        gateway.log_line(&format!("server {name} is passed over for {lasts}: 2 bad answers in a row")).await;
    }
    assert_eq!(bad, 4, "two clients for each time that it was let in");
    gateway.log_line(&format!("server {name} is no longer passed over")).await;
}

async fn the_last_server_is_never_passed_over() {
    let (one, other) = (Refusing::new(), Refusing::new());
    let gateway = Gateway::before(&[one.address(), other.address()], "", "").await;
    let tally = ask(&gateway, 10, GET).await;
    assert_eq!(tally, Tally::from([(502, 10)]));
    gateway.log_line("is passed over for 10s: 3 failed connects in a row").await;
    gateway.log_line("is not passed over after 3 failed connects in a row: it is the last one").await;
    let mut ejected = 0.0;
    for server in [&one, &other] {
        ejected += of_server(&gateway, "ejected", &server.address().to_string()).await;
    }
    assert_eq!(ejected, 1.0);
}

/// Two real Socket.IO servers, `a` and `b`, with a way to each, and a gateway before them.
async fn sockets(options: &[&str], sessions: &str, health: &str) -> ([Node; 2], [Relay; 2], Gateway) {
    let server = async |name| Node::server("v4", &[&["--id", name], options].concat()).await;
    let servers = [server("a").await, server("b").await];
    let ways = [Relay::start(servers[0].port()).await, Relay::start(servers[1].port()).await];
    let gateway = Setup::before_named([("a", ways[0].address()), ("b", ways[1].address())])
        .listener("http2: false")
        .upstream("kind: socket.io, balance: round_robin")
        .upstream(format!("sessions: {{ returning: 0s, {sessions} }}"))
        .upstream("timeouts: { connect: 400ms }")
        .upstream(format!("health: {{ check: http, path: /health, interval: 1s, {health} }}"))
        .start()
        .await;
    for name in ["a", "b"] {
        is_up(&gateway, name, true).await;
    }
    (servers, ways, gateway)
}

async fn is_up(gateway: &Gateway, server: &str, up: bool) {
    let up = f64::from(u8::from(up));
    eventually("the checks have seen it", async || of_server(gateway, "up", server).await == up).await;
}

/// A polling session on server `a`.
async fn on_a(gateway: &Gateway) -> Polling {
    loop {
        let mut session = Polling::open(&[gateway.address("web")]).await;
        if session.who().await == "a" {
            return session;
        }
    }
}

async fn health_that_flaps_shuffles_no_live_session() {
    // Pings often enough that every session asks for something while its server is said to be down.
    let pings = ["--ping-interval", "200", "--ping-timeout", "20000"];
    let (_servers, ways, gateway) = sockets(&pings, "grace: 10s", "fall: 1").await;
    let address = gateway.address("web");
    let polling = run(address, "v4", "polling", 10, &["--hold", "9000"]);
    let upgraded = run(address, "v4", "polling,websocket", 10, &["--hold", "9000"]);
    let live = "sockgate_sessions{upstream=\"app\",server=";
    let flapping = async {
        eventually("all are there", async || {
            gateway.metric(&format!("{live}\"a\"}}")).await + gateway.metric(&format!("{live}\"b\"}}")).await >= 20.0
        })
        .await;
        let mut flaps = 0;
        for _ in 0..2 {
            for (way, name) in ways.iter().zip(["a", "b"]) {
                way.set_well(false);
                is_up(&gateway, name, false).await;
                way.set_well(true);
                is_up(&gateway, name, true).await;
                flaps += 1;
            }
        }
        flaps
    };
    let (polling, upgraded, flaps) = tokio::join!(polling, upgraded, flapping);
    assert_eq!(flaps, 4);
    calm("10 polling sessions and 4 flaps", &polling);
    calm("10 upgraded sessions and 4 flaps", &upgraded);
}

async fn a_session_waits_for_its_server_and_goes_on_there() {
    let (_servers, mut ways, gateway) = sockets(&[], "grace: 15s", "fall: 1").await;
    let mut session = on_a(&gateway).await;
    ways[0].swallow().await;
    is_up(&gateway, "a", false).await;
    let failures = of_server(&gateway, "connect_failures_total", "a").await;
    session.redirect(&[gateway.address("web")]);
    let (said, ()) = tokio::join!(session.try_say("421[\"who\"]"), async {
        eventually("it is tried again and again", async || {
            of_server(&gateway, "connect_failures_total", "a").await >= failures + 2.0
        })
        .await;
        ways[0].open().await;
    });
    assert_eq!((said.status, &*said.text()), (200, "ok"), "the request was held, not refused");
    assert_eq!(session.ack().await, (1, "a".into()), "and the session is the same");
    gateway.access_line(&["method=POST", "status=200", "server=a", "queued=", "tries="]).await;
}

async fn a_session_whose_server_stays_away_moves_when_its_grace_is_over() {
    let (_servers, mut ways, gateway) = sockets(&[], "grace: 1s", "fall: 100").await;
    let mut session = on_a(&gateway).await;
    ways[0].swallow().await;
    session.redirect(&[gateway.address("web")]);
    let said = session.try_say("421[\"who\"]").await;
    assert_eq!(said.status, 400, "the other server does not know it, and says so: {}", said.text());
    assert!(said.text().contains("Session ID unknown"), "{}", said.text());
    let tried = of_server(&gateway, "connect_failures_total", "a").await;
    assert!(tried >= 2.0, "tried {tried} times before");
    let mut next = Polling::open(&[gateway.address("web")]).await;
    assert_eq!(next.who().await, "b", "the client has to begin anew");
}

/// A server that was killed refuses, and its sessions are gone with it: there is nothing to wait for.
async fn a_session_whose_server_is_gone_for_certain_moves_after_a_second() {
    let (_servers, mut ways, gateway) = sockets(&[], "grace: 60s", "fall: 100").await;
    let mut session = on_a(&gateway).await;
    ways[0].close();
    session.redirect(&[gateway.address("web")]);
    let mut said = within("it moves", session.try_say("421[\"who\"]")).await;
    if said.status == 502 {
        // It met the end of a kept connection, and what may have been sent is not sent again.
        said = within("it moves", session.try_say("421[\"who\"]")).await;
    }
    assert_eq!(said.status, 400, "the other server does not know it, and says so: {}", said.text());
    let mut next = Polling::open(&[gateway.address("web")]).await;
    assert_eq!(next.who().await, "b", "the client begins anew");
}
