//! A server that is listed by its name is where the name leads, also when that moves.

use std::path::Path;
use std::process::Command as Tool;

use tokio::process::Command;

use super::serving;
use crate::support::engine::for_each_engine;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, eventually, within};

for_each_engine! {
    what_is_new_follows_the_name_of_a_server_and_what_is_open_stays,
}

/// How a process gets an `/etc/hosts` of its own; `None`, said aloud, where it can't.
fn with_hosts(hosts: &Path) -> Option<Command> {
    let ways = ["-m", "-rm"];
    let script = r#"mount --bind "$HOSTS" /etc/hosts && exec "$0" "$@""#;
    let way = ways.into_iter().find(|way| {
        let tried = Tool::new("unshare").args([way, "sh", "-c", script, "true"]).env("HOSTS", hosts).output();
        tried.is_ok_and(|tried| tried.status.success())
    });
    if way.is_none() {
        eprintln!("skipped: no mount namespaces here");
    }
    let mut command = Command::new("unshare");
    command.args([way?, "sh", "-c", script, env!("CARGO_BIN_EXE_sockgate")]).env("HOSTS", hosts);
    Some(command)
}

async fn what_is_new_follows_the_name_of_a_server_and_what_is_open_stays() {
    let a = Echo::start("a").await;
    let port = a.address().port();
    let b = Echo::start_at(([127, 0, 0, 2], port).into(), "b").await;
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost moving.test\n").unwrap();
    let Some(command) = with_hosts(&hosts) else { return };
    let yaml = format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app: {{ servers: [\"moving.test:{port}\"], timeouts: {{ keep_alive: 1h }} }}
"
    );
    let gateway = Gateway::launch(&yaml, command).await;
    let served_by = async |name: &str| serving(gateway.address("web")).await == [name.to_owned()].into();
    eventually("the first serves", async || served_by("a").await).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("a"));

    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.2 moving.test\n").unwrap();
    eventually("the second serves, though connections to the first are kept", async || served_by("b").await).await;
    let mut other = Client::connect(gateway.address("web")).await;
    other.send(upgrade("/chat")).await;
    assert_eq!(other.answer().await.header("x-server"), Some("b"));
    socket.send("ping").await;
    assert_eq!(within("the first server", socket.read(4)).await, b"ping");
    // Checks go there, too, and nowhere else.
    let (first, second) = (a.accepted(), b.accepted());
    eventually("checks go on", async || b.accepted() >= second + 2).await;
    assert_eq!(a.accepted(), first);
}
