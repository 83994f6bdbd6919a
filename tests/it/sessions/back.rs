//! Clients behind one address that lose their connections all at once, and come back: each finds its server, and with it
//! the state of its connection.

use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::node::client;

/// Has so many real clients lose their connections; expects that nearly all of them recover. `more` is what the upstream
/// is told besides, `options` what the clients are.
async fn all_come_back(clients: usize, more: &str, options: &[&str]) {
    let cluster = Cluster::start("v4", 4, &["--recovery"]).await;
    let gateway = cluster.gateway_with("127.0.0.1:0", more).await;
    let (url, sessions) = (format!("http://{}", gateway.address("web")), clients.to_string());
    for transports in ["polling,websocket", "websocket", "polling"] {
        let said = ["--url", &url, "--sessions", &sessions, "--transports", transports, "--messages", "1", "--lose"];
        let summary = client("v4", &[&said, options].concat(), 120).await;
        let count = |what: &str| summary[what].as_u64().unwrap() as usize;
        assert_eq!((count("connected"), count("reconnects")), (clients, clients), "{summary}");
        assert!(100 * count("recovered") >= 95 * clients, "{transports}: {summary}");
        assert_eq!(summary["failures"], Value::Object(Default::default()), "{summary}");
    }
}

#[tokio::test]
async fn an_office_that_is_cut_off_finds_its_server_again_with_the_default_configuration() {
    all_come_back(24, "", &[]).await;
}

#[tokio::test]
async fn an_office_that_is_cut_off_finds_its_servers_again_by_the_cookie() {
    let more = "balance: least_connections, affinity: { cookie: {} }";
    all_come_back(24, more, &["--cookies"]).await;
}

#[tokio::test]
#[ignore = "takes half a minute"]
async fn an_office_of_two_hundred_that_is_cut_off_finds_its_server_again() {
    all_come_back(200, "", &[]).await;
}
