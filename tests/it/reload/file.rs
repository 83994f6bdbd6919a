//! When a file is loaded, and what a bad one does: nothing.

use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use tokio::process::Command;

use super::{json, yaml};
use crate::support::websocket::{echoes, socket};
use crate::support::{Echo, Gateway, eventually, within};

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_told_in_full() {
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(web.address(), "")).await;
    let good = "sockgate_reload_last_good";
    assert_eq!(gateway.metric(good).await, 1.0);
    let mut socket = socket(&gateway).await;
    let answer = gateway.reload(&yaml(web.address(), "threds: 1\ntimeouts: { head: soon }")).await;
    let told = answer.text();
    assert_eq!(answer.status, 422);
    for part in ["sockgate.yaml:9:1", "threds", "did you mean `threads`", "sockgate.yaml:10:19", "2 faults"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    gateway.log_line("not reloaded, everything stays as it was").await;
    assert_eq!(gateway.metric(good).await, 0.0);
    assert_eq!(gateway.metric("sockgate_reloads_total{result=\"failed\"}").await, 1.0);
    let status = json(&gateway.admin("/status").await);
    assert!(status["configuration"]["error"].as_str().unwrap().contains("threds"), "{status}");

    // What the file names is tried before anything changes, too: here a new listener would have been bound already.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let listeners = format!("  - {{ name: fresh, address: 127.0.0.1:0 }}\n  - {{ address: \"{taken}\" }}\nroutes:");
    let answer = gateway.reload(&yaml(web.address(), "").replace("routes:", &listeners)).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("can't be bound"), "{}", answer.text());

    echoes(&mut socket).await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    assert_eq!(gateway.reload(&yaml(web.address(), "")).await.status, 200);
    assert_eq!(gateway.metric(good).await, 1.0);
}

#[tokio::test]
async fn a_sighup_loads_the_file() {
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&yaml(web.address(), "")).await;
    let mut socket = socket(&gateway).await;
    let route = "routes:\n  - { name: new, match: { path: /new }, respond: { body: new } }";
    gateway.rewrite(&yaml(web.address(), "").replace("routes:", route));
    gateway.signal(SIGHUP);
    gateway.log_line("reloaded: route new added").await;
    assert_eq!(gateway.client().await.get("/new").await.text(), "new");
    echoes(&mut socket).await;
}

#[tokio::test]
async fn a_file_that_changes_is_loaded_and_a_bad_one_waits_for_its_correction() {
    let (first, second) = (Echo::start("first").await, Echo::start("second").await);
    let watched = |web| yaml(web, "").replace("watch: false", "watch: true");
    let gateway = Gateway::start(&watched(first.address())).await;
    gateway.rewrite("listeners: nonsense");
    gateway.log_line("not reloaded").await;
    assert!(gateway.client().await.get("/").await.text().starts_with("first"));
    gateway.rewrite(&watched(second.address()));
    gateway.log_line("reloaded: upstream web changed").await;
    let moved = async || gateway.client().await.get("/").await.text().starts_with("second");
    eventually("the new server answers", moved).await;
}

#[tokio::test]
async fn check_says_beforehand_what_a_running_gateway_would_change() {
    let (web, other) = (Echo::start("web").await, Echo::start("other").await);
    let gateway = Gateway::start(&yaml(web.address(), "")).await;
    let _socket = socket(&gateway).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.yaml");
    let check = async |text: &str, admin: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
        command.args(["check", "-c"]).arg(&file).args(["--against", admin]);
        let output = within("check ends", command.output()).await.unwrap();
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code().unwrap(), told)
    };
    let admin = format!("http://{}", gateway.address("admin"));
    let with_admin = |text: String| format!("{text}\nadmin: {{ address: 127.0.0.1:0 }}\n");
    let (code, told) = check(&with_admin(yaml(web.address(), "")), &admin).await;
    assert!(code == 0 && told.contains("nothing changes"), "{told}");
    let renamed = yaml(other.address(), "limits: { headers: 50 }")
        .replace("web: { servers", "app: { servers")
        .replace("upstream: web", "upstream: app")
        .replace("watch: false", "orphans: close");
    let (code, told) = check(&with_admin(renamed), &admin).await;
    assert_eq!(code, 0, "{told}");
    for line in [
        "route web changed: upstream (1 sockets",
        "upstream web removed (1 sockets",
        "upstream app added",
        "setting limits changed: headers",
        "sockets: 0 kept, 0 drained, 1 closed",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
    let (code, told) = check("listeners: 1", &admin).await;
    assert!(code == 2 && told.contains("expected a list"), "{told}");
    let (code, _) = check(&yaml(web.address(), ""), "127.0.0.1:1").await;
    assert_eq!(code, 1);
    assert_eq!(gateway.metric("sockgate_reloads_total{result=\"good\"}").await, 1.0, "nothing was loaded");
}

#[tokio::test]
async fn a_gateway_that_stops_loads_nothing_any_more() {
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(web.address(), "")).await;
    let socket = socket(&gateway).await;
    gateway.signal(SIGTERM);
    gateway.log_line("stopping: ").await;
    let answer = gateway.reload(&yaml(web.address(), "threads: 2")).await;
    assert!(answer.status == 422 && answer.text().contains("is stopping"), "{}", answer.text());
    drop(socket);
    assert_eq!(gateway.ended().await, 0);
}
