//! Sessions that a gateway has not seen begin: it was restarted, or another one did, and it asks the servers.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::{UNKNOWN, event, unknown};
use crate::support::cluster::{Cluster, calm, run};
use crate::support::polling::Polling;
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, Scripted, eventually, within};

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
