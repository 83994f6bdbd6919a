//! Names and passwords that have to be said: on requests, polls and upgrades, by hashes that other programs have made.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::gateway;
use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::{self, Node, TRANSPORTS};
use crate::support::peers::run;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet, eventually};

for_each_engine! {
    users_whom_other_programs_have_noted_come_in_and_nobody_else_does,
    who_asks_is_told_to_the_server_and_the_password_is_not,
    users_are_read_anew_and_a_broken_file_changes_nothing,
    upgrades_polls_and_streams_of_http_2_say_it_too,
    a_session_says_it_once_where_that_is_enough,
    whoever_guesses_holds_up_neither_traffic_nor_other_clients,
    curl_and_socket_io_clients_log_in,
}

/// `secret`, by `openssl passwd -5`.
const ANN: &str = "ann:$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.";

fn said(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{name}:{password}")))
}

fn listed(more: &str) -> String {
    format!("{{ basic: {{ users: \"{ANN}\"{more} }} }}")
}

async fn ask(gateway: &Gateway, name: &str, password: &str) -> u16 {
    gateway.client().await.get_with("/x", &said(name, password)).await.status
}

async fn users_whom_other_programs_have_noted_come_in_and_nobody_else_does() {
    let server = Echo::start("a").await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/access/vectors/users.htpasswd");
    let access = format!("{{ basic: {{ users: {{ file: \"{}\" }}, realm: \"The office\" }} }}", file.display());
    let gateway = gateway(server.address(), &access, "").await;
    let challenge = Some("Basic realm=\"The office\", charset=\"UTF-8\"");
    let mut client = gateway.client().await;
    let refused = client.get("/x").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, challenge));
    let other_scheme = client.get_with("/x", "Authorization: Bearer abc\r\n").await;
    assert_eq!((other_scheme.status, other_scheme.header("www-authenticate")), (401, challenge));
    gateway.access_line(&["status=401", "closed_by=no_credentials"]).await;
    for (name, password) in
        [("sha256", "pass:sha512"), ("sha256", ""), ("nobody", "pass:sha256"), ("", ""), ("SHA256", "pass:sha256")]
    {
        let refused = client.get_with("/x", &said(name, password)).await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, challenge), "{name}:{password}");
    }
    gateway.access_line(&["status=401", "closed_by=bad_credentials"]).await;
    let twice = said("sha256", "pass:sha256").repeat(2);
    assert_eq!(gateway.client().await.get_with("/x", &twice).await.status, 401, "servers differ in which they take");
    assert_eq!(server.accepted(), 0, "no server hears of any");
    for name in ["bcrypt-y", "bcrypt-b", "argon2id", "sha256", "sha512", "rounds", "jürgen"] {
        // Twice, since one that was right is known again.
        for _ in 0..2 {
            assert_eq!(ask(&gateway, name, &format!("pass:{name}")).await, 200, "{name}");
        }
        assert_eq!(ask(&gateway, name, "pass:").await, 401, "{name}");
    }
    gateway.access_line(&["status=200", "user=argon2id"]).await;
}

async fn who_asks_is_told_to_the_server_and_the_password_is_not() {
    let server = Echo::start("a").await;
    let routes = format!(
        "  - {{ match: {{ path: /kept }}, upstream: app, access: {} }}\n",
        listed(", forward: true, user_header: X-User")
    );
    let gateway = gateway(server.address(), &listed(", user_header: X-User"), &routes).await;
    let fields = said("ann", "secret") + "X-User: mallory\r\nx_user: mallory\r\n";
    let seen = gateway.client().await.get_with("/x", &fields).await.text().to_ascii_lowercase();
    assert!(seen.contains("x-user: ann\r\n") && !seen.contains("mallory"), "{seen}");
    assert!(!seen.contains("authorization"), "{seen}");
    let seen = gateway.client().await.get_with("/kept", &fields).await.text();
    let kept = said("ann", "secret").to_ascii_lowercase();
    assert!(seen.to_ascii_lowercase().contains(&kept) && !seen.contains("mallory"), "{seen}");
}

async fn users_are_read_anew_and_a_broken_file_changes_nothing() {
    let server = Echo::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let write = |text: &str| {
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    write(ANN);
    let access = format!("{{ basic: {{ users: {{ file: \"{}\" }} }} }}", file.display());
    let gateway = gateway(server.address(), &access, "").await;
    assert_eq!((ask(&gateway, "ann", "secret").await, ask(&gateway, "bob", "secret").await), (200, 401));
    write(&ANN.replace("ann:", "# the new one\nbob:"));
    eventually("the new user may come", async || ask(&gateway, "bob", "secret").await == 200).await;
    assert_eq!(ask(&gateway, "ann", "secret").await, 401, "one who was known may not any more");
    write("bob:secret\n");
    gateway.log_line("users:1: the hash of `bob`: found none that is known").await;
    write("# nobody\n");
    gateway.log_line("found nobody, expected one user or more").await;
    assert_eq!(ask(&gateway, "bob", "secret").await, 200, "the last good list stays");
}

async fn upgrades_polls_and_streams_of_http_2_say_it_too() {
    let server = Puppet::start().await;
    let gateway = gateway(server.address(), &listed(", user_header: X-User"), "").await;
    let opening = |password: &str| upgrade("/chat").replacen("\r\n", &format!("\r\n{}", said("ann", password)), 1);
    let mut client = gateway.client().await;
    client.send(opening("wrong")).await;
    assert_eq!(client.answer().await.status, 401);
    let poll = "/socket.io/?EIO=4&transport=polling";
    assert_eq!(gateway.client().await.get(poll).await.status, 401);
    let streams = Http2::over(tcp(gateway.address("web")).await).await;
    let refused = streams.get("http://a.test/x").await;
    assert_eq!(refused.status(), 401);
    assert!(refused.headers().contains_key("www-authenticate"));
    // The first that the server hears of is one that may.
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(opening("secret")).await;
    let head = String::from_utf8_lossy(&server.accept().await.request().await.unwrap().head).to_ascii_lowercase();
    assert!(head.starts_with("get /chat ") && head.contains("x-user: ann\r\n"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
}

async fn a_session_says_it_once_where_that_is_enough() {
    let server = Node::server("v4", &["--id", "a"]).await;
    let address = ([127, 0, 0, 1], server.port()).into();
    let gateway = gateway(address, &listed(", sessions: once"), "").await;
    let poll = "/socket.io/?EIO=4&transport=polling";
    let mut client = gateway.client().await;
    assert_eq!(client.get(poll).await.status, 401, "none opens without");
    let text = client.get_with(poll, &said("ann", "secret")).await.text();
    let sid = text.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(client.post(&format!("{poll}&sid={sid}"), b"40").await.status, 200);
    assert_eq!(client.get(&format!("{poll}&sid={sid}")).await.status, 200);
    assert_eq!(client.get(&format!("{poll}&sid=made-up-made-up")).await.status, 401);
}

async fn whoever_guesses_holds_up_neither_traffic_nor_other_clients() {
    let server = Echo::start("a").await;
    // Takes long enough for all of them to be there before one is done.
    let slow = "{ basic: { users: \"ann:$2y$15$2pnJ0t9ALEu/82stsj3/a.bqvC80XuFkSWfHWhN1TeaGmQGOQpKr2\" } }";
    let routes = "  - { match: { path: /open }, upstream: app, access: { inherit: false } }\n";
    let gateway = gateway(server.address(), slow, routes).await;
    let mut guesses = Vec::new();
    for guess in 0..24 {
        let mut client = Client::connect(gateway.address("web")).await;
        client.send(format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n", said("ann", &guess.to_string()))).await;
        guesses.push(client);
    }
    // One client has 16 places among those who wait.
    eventually("the rest of them is refused", async || {
        gateway.metric("sockgate_refusals_total{reason=\"open_requests\"}").await >= 8.0
    })
    .await;
    assert_eq!(gateway.client().await.get("/open").await.status, 200);
    assert_eq!(server.accepted(), 1, "of the others no server hears");
    drop(guesses);
}

async fn curl_and_socket_io_clients_log_in() {
    let server = Node::server("v4", &["--id", "a"]).await;
    let gateway = gateway(([127, 0, 0, 1], server.port()).into(), &listed(""), "").await;
    let url = format!("http://{}", gateway.address("web"));
    let handshake = format!("{url}/socket.io/?EIO=4&transport=polling");
    for (user, status) in [("ann:secret", "200"), ("ann:wrong", "401")] {
        let asked = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--anyauth", "-u", user, &handshake];
        if let Some(said) = run("curl", &asked, "").await {
            assert_eq!(said.text, status, "{user}");
        }
    }
    let header = said("ann", "secret").trim_end().to_owned();
    for transport in TRANSPORTS {
        let with = ["--url", &url, "--transports", transport, "--header", &header];
        let summary = node::client("v4", &with, 60).await;
        assert_eq!(summary["ok"], true, "{transport}: {summary}");
        let without = node::client("v4", &["--url", &url, "--transports", transport, "--timeout", "3000"], 60).await;
        assert_eq!(without["ok"], false, "{transport}: {without}");
    }
}
