//! Sessions stay on the server that opened them, whatever the balance, the address of the clients or their transport.

use futures::future::join_all;

use super::{ended, event, unknown};
use crate::support::cluster::{Cluster, NAMES, calm, run, served};
use crate::support::engine::for_each_engine;
use crate::support::node::TRANSPORTS;
use crate::support::{Client, Gateway, Scripted};

for_each_engine! {
    edgar_two_nodes,
    edgar_three_nodes,
    edgar_three_nodes_of_version_2,
    edgar_three_nodes_of_version_0_9,
    edgar_eight_nodes,
    edgar_by_address,
    sessions_by_script_stay_on_their_server,
    a_handshake_in_single_bytes_is_learned_and_never_compressed,
}

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
    // A poll behind its client's own goodbye may meet a server that knows the session no more: that is none that was lost.
    assert_eq!(ended(&cluster.gateways[0], "unknown").await, 0.0);
}

async fn edgar_two_nodes() {
    edgar("v4", &["v4", "v2"], 2, 12).await;
}

async fn edgar_three_nodes() {
    edgar("v4", &["v4", "v2"], 3, 12).await;
}

async fn edgar_three_nodes_of_version_2() {
    edgar("v2", &["v2"], 3, 12).await;
}

async fn edgar_three_nodes_of_version_0_9() {
    edgar("v0.9", &["v0.9"], 3, 12).await;
}

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

async fn a_handshake_in_single_bytes_is_learned_and_never_compressed() {
    let (first, second) = (slow_speaker("first").await, slow_speaker("second").await);
    let said = "kind: socket.io, balance: round_robin, sessions: { returning: 0s }";
    let gateway = Gateway::before(&[first.address(), second.address()], said, "").await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut client = gateway.client().await;
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
