//! A discovery of one's own: a registry pushes the servers of an app, here from another thread. What was written for
//! Pingora's load balancer is used beside it.
//!
//! `cargo run --example own_discovery` starts a gateway, and shows what it knows of its servers as they come and go.

#![allow(clippy::disallowed_methods, reason = "the thread that asks serves nobody")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use pingora::lb::discovery::Static;
use sockgate::{Config, Discovery, Gateway, PingoraDiscovery, ServerConfig, ServerList};
use tokio::sync::{Mutex, watch};

/// What the registry has said last.
struct Registry(Mutex<watch::Receiver<Vec<&'static str>>>);

#[async_trait]
impl Discovery for Registry {
    async fn next(&self) -> Result<ServerList, String> {
        let mut told = self.0.lock().await;
        told.changed().await.map_err(|_| "the registry is gone".to_owned())?;
        // The whole set each time, so that nothing is lost where two follow each other fast.
        let addresses = told.borrow_and_update().clone();
        addresses.iter().map(|address| ServerConfig::at(address)).collect()
    }

    fn name(&self) -> String {
        "our registry".to_owned()
    }
}

const YAML: &str = "
listeners: [{ name: web, address: 127.0.0.1:0 }]
routes: [{ match: { path: /old }, upstream: old }, { upstream: app }]
upstreams:
  app: { servers: [127.0.0.1:1], health: { check: none } }
  old: { servers: [127.0.0.1:1], health: { check: none } }
admin: { address: 127.0.0.1:0 }
access_log: { format: \"off\" }
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (registry, told) = watch::channel(Vec::new());
    let pingoras = *Static::try_from_iter(["10.0.0.7:80"])?;
    let gateway = Gateway::builder(Config::read("example.yaml", YAML, &|_| None)?.config)
        .discovery("app", Registry(Mutex::new(told)))
        .discovery("old", PingoraDiscovery::new(pingoras, Duration::from_secs(60)))
        .build()?;
    let (admin, handle) = (gateway.address("admin").ok_or("an admin address")?, gateway.handle());
    let watching = thread::spawn(move || {
        let steps = [vec!["10.0.0.1:80", "10.0.0.2:80"], vec!["10.0.0.2:80"]];
        let seen = steps.map(|servers| {
            registry.send_replace(servers.clone());
            let servers = servers.len();
            (0..500).any(|_| {
                thread::sleep(Duration::from_millis(20));
                metrics(&admin).is_ok_and(|text| {
                    text.contains(&format!("sockgate_discovery_servers{{upstream=\"app\"}} {servers}\n"))
                        && text.contains("server=\"10.0.0.7:80\"")
                })
            })
        });
        handle.stop();
        seen
    });
    gateway.run();
    assert_eq!(watching.join().map_err(|_| "the watcher panicked")?, [true, true]);
    println!("two servers came, and one went again");
    Ok(())
}

fn metrics(admin: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
