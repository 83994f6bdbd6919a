//! Servers that a file lists are taken up when it changes, however it does, and a faulty file takes nobody away.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::serving;
use crate::support::websocket::upgrade;
use crate::support::{Echo, Gateway, eventually, within};

fn yaml(servers: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app: {{ servers: {servers}, health: {{ check: none }}, balance: round_robin, drain: {{ goodbye: false }} }}
"
    )
}

async fn is_served_by(gateway: &Gateway, names: &[&str]) {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    eventually("these serve", async || serving(gateway.address("web")).await == names).await;
}

fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn discovery(gateway: &Gateway) -> Value {
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    status["upstreams"][0]["discovery"].clone()
}

#[tokio::test]
async fn servers_of_a_file_come_and_go_without_a_reload() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.yaml");
    put(&file, &format!("- {}\n", a.address()));
    let gateway = Gateway::start(&yaml(&format!("{{ file: {} }}", file.display()))).await;
    is_served_by(&gateway, &["a"]).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("a"));

    put(&file, &format!("- {}\n- {{ address: '{}', weight: 2 }}\n", a.address(), b.address()));
    is_served_by(&gateway, &["a", "b"]).await;
    gateway.log_line(&format!("finds 2 servers; new: {}", b.address())).await;
    std::fs::write(&file, format!("[\"{}\"]", b.address())).unwrap();
    is_served_by(&gateway, &["b"]).await;
    // Whoever was on the other one stays there.
    socket.send("ping").await;
    assert_eq!(within("the old server", socket.read(4)).await, b"ping");

    let told = discovery(&gateway).await;
    assert_eq!((told["servers"].as_u64(), told["fault"].as_str(), told["changes"].as_u64()), (Some(1), None, Some(3)));
    assert_eq!(told["source"], format!("file {}", file.display()));
    assert_eq!(gateway.metric("sockgate_discovery_servers{upstream=\"app\"}").await, 1.0);
}

#[tokio::test]
async fn a_faulty_file_takes_nobody_away_and_a_bad_entry_only_itself() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.yaml");
    put(&file, &format!("- {}\n", a.address()));
    let gateway = Gateway::start(&yaml(&format!("{{ file: {} }}", file.display()))).await;
    for (text, fault) in [
        (format!("- {}\n- [\n", b.address()), "servers.yaml:3:1"),
        ("[]\n".to_owned(), "servers.yaml:1:1: found an empty list"),
        (format!("a: {}\n", b.address()), "servers.yaml:1:1: found a map, expected a list of servers"),
        ("- nowhere\n".to_owned(), "servers.yaml:1:3: [0]: `nowhere` is not an address"),
    ] {
        put(&file, &text);
        gateway.log_line(fault).await;
        is_served_by(&gateway, &["a"]).await;
    }
    std::fs::remove_file(&file).unwrap();
    gateway.log_line("cannot be read").await;
    is_served_by(&gateway, &["a"]).await;
    let told = discovery(&gateway).await;
    assert!(told["fault"].as_str().unwrap().contains("cannot be read"), "{told}");
    assert!(told["failures"].as_u64() >= Some(5), "{told}");

    put(&file, &format!("- {}\n- {{ address: '10.0.0.1:1', wieght: 2 }}\n", b.address()));
    is_served_by(&gateway, &["b"]).await;
    gateway.log_line("left out: `10.0.0.1:1`: ").await;
    let told = discovery(&gateway).await;
    assert_eq!(told["left_out"][0]["name"], "`10.0.0.1:1`");
    assert!(told["left_out"][0]["fault"].as_str().unwrap().contains("servers.yaml:2:28: [1].wieght: "), "{told}");
}

#[tokio::test]
async fn the_link_of_a_config_map_is_followed() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (version, server) in [("..1", &a), ("..2", &b)] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("servers.yaml"), format!("- {}\n", server.address())).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/servers.yaml", at("servers.yaml")).unwrap();
    let gateway = Gateway::start(&yaml(&format!("{{ file: {} }}", at("servers.yaml").display()))).await;
    is_served_by(&gateway, &["a"]).await;
    symlink("..2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    is_served_by(&gateway, &["b"]).await;
}

#[tokio::test]
async fn a_start_and_a_check_want_the_file_to_be_good() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("servers.yaml"), folder.path().join("sockgate.yaml"));
    std::fs::write(&config, yaml(&format!("{{ file: {} }}", file.display()))).unwrap();
    let check = || Command::new(env!("CARGO_BIN_EXE_sockgate")).args(["check", "-c"]).arg(&config).output().unwrap();
    for (text, expected) in [
        (None, "servers.yaml: cannot be read: "),
        (Some("- 10.0.0.1:80\n- [\n"), "servers.yaml:3:1: not valid YAML"),
        (Some("- 10.0.0.1\n"), "servers.yaml:1:3: [0]: `10.0.0.1` is not an address"),
    ] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let told = check();
        assert_eq!(told.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&told.stderr).contains(expected), "{told:?}");
        let (code, told) = Gateway::fails(&std::fs::read_to_string(&config).unwrap()).await;
        assert_ne!(code, 0);
        assert!(told.contains("upstream `app`: ") && told.contains(expected), "{told}");
    }
    std::fs::write(&file, "- 10.0.0.1:80\n- 10.0.0.2\n").unwrap();
    let told = check();
    assert!(told.status.success() && String::from_utf8_lossy(&told.stderr).contains("upstream app: left out: "));
}

#[tokio::test]
async fn sessions_and_sockets_stay_while_a_list_becomes_a_file_and_a_list_again() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.yaml");
    put(&file, &format!("- {}\n- {}\n", a.address(), b.address()));
    // Else the watch may be quicker than who asks for the plan.
    let unwatched = |servers: &str| yaml(servers) + "reload: { watch: false }\n";
    let list = unwatched(&format!("[\"{}\"]", a.address()));
    let found = unwatched(&format!("{{ file: {} }}", file.display()));
    let mut gateway = Gateway::start(&list).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("a"));
    let plan = gateway.reload(&found).await.text();
    assert!(plan.contains("instead of a list of 1"), "{plan}");
    is_served_by(&gateway, &["a", "b"]).await;
    let plan = gateway.reload(&list).await.text();
    assert!(plan.contains(&format!("server {} removed", b.address())), "{plan}");
    is_served_by(&gateway, &["a"]).await;
    socket.send("ping").await;
    assert_eq!(within("its server", socket.read(4)).await, b"ping");
    // What the file says has no say any more.
    put(&file, &format!("- {}\n", b.address()));
    is_served_by(&gateway, &["a"]).await;
    assert_eq!(discovery(&gateway).await, Value::Null);
}
