//! The commands by which operators look at a running gateway and govern it.

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use crate::support::cluster::Cluster;
use crate::support::crowd::{By, Crowd};
use crate::support::{Gateway, within};

/// Runs a command, which finds the gateway by the environment.
async fn run(gateway: &Gateway, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    command.args(arguments).env("SOCKGATE_ADMIN", gateway.address("admin").to_string()).env_remove("RUST_LOG");
    within("the command ends", command.output()).await.unwrap()
}

/// The same where all is well; what it prints.
async fn told(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = run(gateway, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn json(gateway: &Gateway, arguments: &[&str]) -> Value {
    serde_json::from_str(&told(gateway, &[arguments, &["--json"]].concat()).await).unwrap()
}

#[tokio::test]
async fn a_gateway_is_looked_at_and_governed_from_the_command_line() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let gateway = &cluster.gateways[0];
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 6), (By::WebSocket, 14)]).await;
    let status = told(gateway, &["status"]).await;
    assert!(status.starts_with(&format!("sockgate {} at ", env!("CARGO_PKG_VERSION"))), "{status}");
    assert!(status.contains("20 sessions (70 % on WebSocket)") && status.contains("2 of 2"), "{status}");
    let servers = told(gateway, &["servers"]).await;
    let rows: Vec<Vec<&str>> = servers.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["SERVER", "STATE", "WEIGHT", "SESSIONS"], "{servers}");
    assert_eq!((rows[1][..4].to_vec(), rows.len()), (vec!["app/a", "up", "1", "10"], 3), "{servers}");
    let sessions = told(gateway, &["sessions", "--server", "a", "--transport", "websocket"]).await;
    assert!(
        sessions.contains("websocket") && !sessions.contains("polling") && !sessions.contains("app/b"),
        "{sessions}"
    );
    let all = json(gateway, &["sessions", "--limit", "15"]).await;
    assert_eq!((all["sessions"].as_array().unwrap().len(), &all["live"]), (15, &Value::from(20)));
    let one = all["sessions"][0]["session"].as_str().unwrap();
    assert!(told(gateway, &["sessions", one]).await.contains(one));

    assert!(told(gateway, &["weight", "a", "3"]).await.contains("app/a has weight 3, until the file"));
    assert!(told(gateway, &["status"]).await.contains("not as in the file: app/a weight is 3, not 1"));
    assert_eq!(told(gateway, &["weight", "app/a", "file"]).await, "app/a has weight 1, as in the file\n");
    let drained = told(gateway, &["drain", "a", "--rate", "50"]).await;
    let last = drained.lines().last().unwrap();
    assert!(
        last.starts_with("app/a is drained: 10 told goodbye in ") && last.ends_with("0 sessions left"),
        "{drained}"
    );
    assert!(drained.lines().count() > 1 && drained.contains('▕'), "it shows how far it has come: {drained}");
    crowd.leave("a").await;
    assert_eq!(json(gateway, &["servers"]).await[0]["state"], "draining");
    assert_eq!(told(gateway, &["undrain", "a"]).await, "app/a is back: it gets new sessions\n");
    assert_eq!(told(gateway, &["reload", "--plan"]).await, "nothing changes\n");
    assert_eq!(told(gateway, &["reload"]).await, "nothing changes\n");
    assert_eq!(json(gateway, &["status"]).await["configuration"]["generation"], 2);
    let top = told(gateway, &["top", "--sort", "sessions"]).await;
    assert!(top.contains("app/b") && !top.contains('\x1b'), "where nobody looks it is shown once: {top}");
    crowd.is_well();
}

#[tokio::test]
async fn a_command_that_can_not_be_done_says_why_and_fails() {
    let (_web, gateway) = Gateway::before_echo("").await;
    for (arguments, told) in [
        (&["drain", "x"][..], "there is no server `x`, only app/"),
        (&["sessions", "nobody"], "no session of this id or name lives here: it may be over"),
        (&["sessions", "--limit", "1", "--address", "home"], "address: found `home`, expected an IP address"),
        (&["status", "--admin", "127.0.0.1:1"], "127.0.0.1:1 does not answer: "),
    ] {
        let output = run(&gateway, arguments).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{arguments:?}: {said}");
        assert!(said.starts_with(told), "{arguments:?}: {said}");
    }
    let output = run(&gateway, &["weight", "x", "0"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("expected 1 to 256, or `file`"));
}

#[tokio::test]
async fn the_address_and_the_token_are_found_in_the_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let socket = folder.path().join("admin.sock");
    let admin = format!("\nadmin: {{ address: \"unix:{}\", token_file: {} }}", socket.display(), token.display());
    let yaml = crate::support::Setup::before(&["127.0.0.1:1".parse().unwrap()]).more(&admin).yaml();
    let gateway = Gateway::start_unready(&yaml).await;
    let file = gateway.file().display().to_string();
    let ask = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
        command.args(arguments).env_remove("SOCKGATE_ADMIN").env_remove("SOCKGATE_ADMIN_TOKEN");
        within("the command ends", command.output()).await.unwrap()
    };
    let output = ask(&["status", "-c", &file]).await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains(&format!("at unix:{}", socket.display())), "{told}");
    let output = ask(&["status", "--admin", &format!("unix:{}", socket.display())]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("expected a token") && told.contains("--token-file"), "{told}");
}
