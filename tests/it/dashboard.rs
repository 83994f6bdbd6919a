//! The dashboard in a real browser: what it shows moves, what it is asked to do is done, and it comes back by itself.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::client::Answer;
use crate::support::cluster::Cluster;
use crate::support::crowd::{By, Crowd};
use crate::support::node::{self, run};
use crate::support::{Client, Gateway, within};

fn url(gateway: &Gateway) -> String {
    format!("http://{}/", gateway.address("admin"))
}

fn is_there() -> bool {
    let is_there = std::process::Command::new("chromium").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        eprintln!("skipped: there is no `chromium` here");
    }
    is_there
}

#[tokio::test]
async fn a_server_is_drained_from_the_page_and_its_sessions_are_seen_to_move() {
    if !is_there() {
        return;
    }
    let cluster = Cluster::start("v4", 3, &[]).await;
    let mut crowd = Crowd::come(cluster.address(), &[(By::Polling, 12), (By::WebSocket, 18)]).await;
    let seen = run("dashboard.js", &[&url(&cluster.gateways[0]), "drain", "a"], 90).await;
    assert_eq!(seen["fault"], Value::Null, "{seen}");
    assert_eq!(seen["before"], 10, "{seen}");
    let told = seen["told"].as_str().unwrap();
    assert!(told.contains("10 sessions live on a") && told.contains("come back on b, c"), "{told}");
    assert!(seen["lines"][0].as_str().unwrap().contains(" sockets"), "{seen}");
    assert!(seen["bar"].as_str().unwrap().contains("a of app"), "{seen}");
    let others = &seen["others"];
    assert_eq!(
        (&others["a"], others["b"].as_u64().unwrap() + others["c"].as_u64().unwrap()),
        (&0.into(), 30),
        "{seen}"
    );
    assert_eq!(seen["faults"], Value::Array(Vec::new()), "the page does nothing that its policy forbids");
    crowd.leave("a").await;
    assert_eq!(crowd.moves(), 10, "nobody else was told");
}

#[tokio::test]
async fn a_page_that_loses_the_gateway_says_so_and_comes_back_by_itself() {
    if !is_there() {
        return;
    }
    let cluster = Cluster::start("v4", 1, &[]).await;
    let admin = cluster.gateways[0].address("admin");
    let yaml = cluster.configuration("127.0.0.1:0", "", &["a"]) + &format!("admin: {{ address: \"{admin}\" }}\n");
    let mut cluster = cluster;
    drop(cluster.gateways.pop());
    let first = Gateway::start(&yaml).await;
    let mut page = Command::new("node");
    page.arg(node::folder().join("dashboard.js"))
        .args([&url(&first), "watch"])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut page = page.spawn().unwrap();
    let mut lines = BufReader::new(page.stdout.take().unwrap()).lines();
    let mut line = async || within("the page", lines.next_line()).await.unwrap().unwrap();
    let shown: Value = serde_json::from_str(&line().await).unwrap();
    assert_eq!(shown["shown"], "ready", "{shown}");
    drop(first);
    // Whoever has it lets go of the port when its process is gone.
    let again = loop {
        if std::net::TcpListener::bind(admin).is_ok() {
            break Gateway::start(&yaml).await;
        }
        tokio::task::yield_now().await;
    };
    let seen: Value = serde_json::from_str(&line().await).unwrap();
    assert!(seen["said"].as_str().unwrap().contains("does not answer"), "{seen}");
    assert_eq!(seen["back"], "ready", "{seen}");
    drop(again);
}

#[tokio::test]
async fn the_page_needs_nothing_from_outside_and_allows_nothing_else() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let get = async |path: &str| -> Answer { Client::connect(gateway.address("admin")).await.get(path).await };
    for (path, kind) in [("/", "text/html"), ("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")] {
        let answer = get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").unwrap();
        for said in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(said), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = answer.text().replace("http://www.w3.org/2000/svg", "").replace("http%3A", "");
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("innerHTML"), "{path}");
    }
    let page = get("/").await.text();
    assert!(!page.contains("style=") && !page.contains("onclick"), "nothing that the policy would forbid");
}
