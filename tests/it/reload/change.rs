//! What a new configuration changes, and what it leaves alone.

use std::net::SocketAddr;

use super::{changes, json, refused, yaml};
use crate::support::cluster::Cluster;
use crate::support::polling::Polling;
use crate::support::tls::Authority;
use crate::support::websocket::{echoes, opened, socket, upgrade};
use crate::support::{Client, Echo, Gateway, eventually};

#[tokio::test]
async fn routes_listeners_and_upstreams_come_and_go_and_nothing_else_is_touched() {
    let (first, second) = (Echo::start("first").await, Echo::start("second").await);
    let mut gateway = Gateway::start(&yaml(first.address(), "")).await;
    let mut socket = socket(&gateway).await;
    let mut kept = gateway.client().await;
    assert!(kept.get("/new").await.text().starts_with("first"));

    let second = second.address();
    let more = yaml(first.address(), "")
        .replace("routes:", "  - { name: more, address: 127.0.0.1:0 }\nroutes:\n  - { name: new, match: { path: /new }, upstream: new }")
        .replace("upstreams:", &format!("upstreams:\n  new: {{ servers: [\"{second}\"] }}"));
    let before = gateway.address("web");
    let plan = json(&gateway.reload(&more).await);
    assert_eq!(changes(&plan), ["listener more added", "route new added", "upstream new added"]);
    assert_eq!(gateway.address("web"), before);
    assert!(kept.get("/new").await.text().starts_with("second"), "the connection is kept and knows the new route");
    assert!(kept.get("/old").await.text().starts_with("first"));
    assert!(Client::connect(gateway.address("more")).await.get("/new").await.text().starts_with("second"));
    echoes(&mut socket).await;

    let mut on_more = opened(Client::connect(gateway.address("more")).await, "/socket").await;
    let (mut idle, more_at) = (Client::connect(gateway.address("more")).await, gateway.address("more"));
    assert_eq!(idle.get("/").await.status, 200);
    let plan = json(&gateway.reload(&yaml(first.address(), "")).await);
    assert_eq!(changes(&plan), ["listener more removed", "route new removed", "upstream new removed"]);
    assert_eq!((&plan["changes"][0]["sockets"], &plan["sockets"]["kept"]), (&1.into(), &2.into()), "{plan}");
    refused(more_at).await;
    assert!(idle.read_all().await.is_empty(), "an idle connection of a listener that is gone ends");
    assert!(kept.get("/new").await.text().starts_with("first"));
    echoes(&mut socket).await;
    // Kept, as the default is, though its listener is gone.
    echoes(&mut on_more).await;
    assert!(changes(&json(&gateway.reload(&yaml(first.address(), "")).await)).is_empty());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_clients_and_garbage_to_nobody() {
    let (web, old, new) = (Echo::start("web").await, Authority::new(), Authority::new());
    let issued = old.sign(&["localhost"]);
    let tls =
        format!("address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: {0}, key: {1} }}] }}", issued.cert, issued.key);
    let yaml = yaml(web.address(), "").replace("address: 127.0.0.1:0", &tls).replace("watch: false", "watch: true");
    let gateway = Gateway::start(&yaml).await;
    let address = gateway.address("web");
    let mut before = old.client(&[]).open(address, "localhost").await;
    assert_eq!(before.get("/").await.status, 200);

    std::fs::write(&issued.cert, "garbage").unwrap();
    gateway.log_line("not reloaded, everything stays as it was: listener web").await;
    assert_eq!(old.client(&[]).open(address, "localhost").await.get("/").await.status, 200);

    let renewed = new.sign(&["localhost"]);
    std::fs::copy(&renewed.key, &issued.key).unwrap();
    std::fs::copy(&renewed.cert, &issued.cert).unwrap();
    gateway.log_line("reloaded: listener web changed: certificates").await;
    assert_eq!(new.client(&[]).open(address, "localhost").await.get("/").await.status, 200);
    assert_eq!(before.get("/").await.status, 200, "who was there stays");
}

#[tokio::test]
async fn what_has_lost_its_place_is_closed_or_drained_as_the_file_says() {
    for (orphans, word) in [("close", "closed"), ("drain", "drained")] {
        let (web, other) = (Echo::start("web").await, Echo::start("other").await);
        let two = |web: SocketAddr, other: SocketAddr| {
            yaml(web, "")
                .replace("routes:", "routes:\n  - { name: other, match: { path: /other }, upstream: other }")
                .replace("upstreams:", &format!("upstreams:\n  other: {{ servers: [\"{other}\"] }}"))
        };
        let mut gateway = Gateway::start(&two(web.address(), other.address())).await;
        let mut stays = socket(&gateway).await;
        let mut goes = gateway.client().await;
        goes.send(upgrade("/other")).await;
        assert_eq!(goes.answer().await.status, 101);
        echoes(&mut goes).await;
        let without = yaml(web.address(), "").replace("watch: false", &format!("orphans: {orphans}"));
        let plan = json(&gateway.reload(&without).await);
        assert_eq!((&plan["sockets"][word], &plan["sockets"]["kept"]), (&1.into(), &1.into()), "{plan}");
        assert_eq!(goes.read_all().await, b"\x88\x02\x03\xf4", "a goodbye");
        echoes(&mut stays).await;
    }
}

#[tokio::test]
async fn limits_and_the_access_log_are_as_the_last_file_says() {
    let (web, folder) = (Echo::start("web").await, tempfile::tempdir().unwrap());
    let mut gateway = Gateway::start(&yaml(web.address(), "")).await;
    let mut held = gateway.client().await;
    assert_eq!(held.get("/before").await.status, 200);
    gateway.access_line(&["target=/before"]).await;
    let log = folder.path().join("access.log");
    let rest = format!("limits: {{ connections: 1 }}\naccess_log: {{ format: json, file: {} }}", log.display());
    let plan = json(&gateway.reload(&yaml(web.address(), &rest)).await);
    assert_eq!(changes(&plan), ["setting limits changed", "setting access_log changed"]);
    assert_eq!(held.get("/after").await.status, 200);
    let written = async || std::fs::read_to_string(&log).unwrap_or_default().contains("\"target\":\"/after\"");
    eventually("the line is in the file", written).await;
    assert_eq!(gateway.client().await.answer().await.status, 503, "one is open already");
    let plan = json(&gateway.reload(&yaml(web.address(), "threads: 1")).await);
    assert_eq!(plan["at_next_start"][0], "threads", "{plan}");
    assert_eq!(gateway.client().await.get("/").await.status, 200);
}

#[tokio::test]
async fn sessions_stay_where_they_are_when_their_upstream_changes() {
    let servers = Cluster::start("v4", 3, &[]).await;
    let entry = |name: &str, index: usize| {
        format!("{{ address: \"127.0.0.1:{}\", name: {name} }}", servers.servers[index].port())
    };
    let said = |entries: &[String], more: &str| {
        format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app: {{ kind: socket.io, sessions: {{ returning: 0s }}, servers: [{}]{more} }}
reload: {{ watch: false }}
",
            entries.join(", ")
        )
    };
    let [a, b, c] = [entry("a", 0), entry("b", 1), entry("c", 2)];
    let mut gateway = Gateway::start(&said(&[a.clone(), b.clone()], ", balance: round_robin")).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let mut session = Polling::open(&[gateway.address("web")]).await;
        let home = session.who().await;
        sessions.push((session, home));
    }
    // Another server, another order, another balance, other limits: none of which is a reason to move.
    let more = ", balance: least_connections, timeouts: { connect: 3s }";
    assert_eq!(gateway.reload(&said(&[c, b, a.clone()], more)).await.status, 200);
    for (session, home) in &mut sessions {
        assert_eq!(session.who().await, *home);
    }
    assert_eq!(gateway.metric("sockgate_session_events_total{upstream=\"app\",event=\"learned\"}").await, 4.0);
    assert_eq!(gateway.metric("sockgate_session_events_total{upstream=\"app\",event=\"unknown\"}").await, 0.0);
}
