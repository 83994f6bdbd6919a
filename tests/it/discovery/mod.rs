//! Servers that are found come and go under traffic, over reloads: here those that a program's own discovery finds.

mod dns;
mod file;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod name;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use async_trait::async_trait;
use sockgate::{Affinity, Config, Discovery, Gateway, HealthCheck, ServerConfig, ServerList};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Inside, eventually, within};

/// Servers as the test sends them.
struct Sent(Mutex<Receiver<Vec<ServerConfig>>>);

#[async_trait]
impl Discovery for Sent {
    async fn next(&self) -> Result<ServerList, String> {
        match self.0.lock().await.recv().await {
            Some(servers) => Ok(servers.into()),
            None => std::future::pending().await,
        }
    }
}

fn config(servers: &str, rest: &str) -> String {
    format!(
        "admin: {{ address: 127.0.0.1:0 }}\nroutes: [{{ upstream: app }}]\n\
         upstreams: {{ app: {{ servers: [{servers}], health: {{ check: none }}, balance: round_robin{rest} }} }}\n"
    )
}

fn start(yaml: &str) -> (Inside, Sender<Vec<ServerConfig>>) {
    let (sender, receiver) = channel(1);
    (Inside::start(yaml, |builder| builder.discovery("app", Sent(Mutex::new(receiver)))), sender)
}

fn list(servers: &[&Echo]) -> Vec<ServerConfig> {
    servers.iter().map(|server| ServerConfig::at(&server.address().to_string()).unwrap()).collect()
}

/// Who answers six requests.
async fn serving(gateway: SocketAddr) -> BTreeSet<String> {
    let mut client = Client::connect(gateway).await;
    let mut names = BTreeSet::new();
    for _ in 0..6 {
        names.extend(client.get("/").await.header("x-server").map(str::to_owned));
    }
    names
}

async fn is_served_by(gateway: &Inside, names: &[&str]) {
    let names: BTreeSet<_> = names.iter().map(|&name| name.to_owned()).collect();
    eventually("these serve", async || serving(gateway.address).await == names).await;
}

#[tokio::test]
async fn servers_come_and_go_as_discovery_finds_them() {
    let (first, a, b) = (Echo::start("first").await, Echo::start("a").await, Echo::start("b").await);
    let (gateway, found) = start(&config(&format!("\"{}\"", first.address()), ""));
    is_served_by(&gateway, &["first"]).await;
    found.send(list(&[&a, &b])).await.unwrap();
    is_served_by(&gateway, &["a", "b"]).await;
    found.send(list(&[&b])).await.unwrap();
    is_served_by(&gateway, &["b"]).await;
    // One that can't be a server takes nothing from the others, and no set at all is none that was lost.
    found.send([list(&[&a]), vec![ServerConfig::at("10.0.0.1:1").unwrap().with_weight(0)]].concat()).await.unwrap();
    is_served_by(&gateway, &["a"]).await;
    for _ in 0..2 {
        found.send(Vec::new()).await.unwrap();
    }
    is_served_by(&gateway, &["a"]).await;
}

#[tokio::test]
async fn a_reload_keeps_the_servers_that_were_found_and_the_discovery() {
    let (first, a, b) = (Echo::start("first").await, Echo::start("a").await, Echo::start("b").await);
    let configured = format!("\"{}\"", first.address());
    let (gateway, found) = start(&config(&configured, ""));
    found.send(list(&[&a])).await.unwrap();
    is_served_by(&gateway, &["a"]).await;
    for (round, server) in [&b, &a, &b].into_iter().enumerate() {
        // The set is another one while the reload is built, or before, or after: it comes to the new upstream by any way.
        let yaml = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\naccess_log: {{ format: \"off\" }}\n{}",
            config(&configured, &format!(", host: \"h{round}.example.com\"")),
        );
        let config = Config::read("test.yaml", &yaml, &|_| None).unwrap().config;
        let (reloaded, sent) = tokio::join!(gateway.handle().replace(config), found.send(list(&[server])));
        reloaded.unwrap();
        sent.unwrap();
        let name = if round == 1 { "a" } else { "b" };
        is_served_by(&gateway, &[name]).await;
    }
}

#[tokio::test]
async fn a_socket_outlives_the_departure_of_its_server_from_the_set() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let (gateway, found) = start(&config(&format!("\"{}\"", a.address()), ", drain: { goodbye: false }"));
    let mut socket = Client::connect(gateway.address).await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("a"));
    found.send(list(&[&b])).await.unwrap();
    is_served_by(&gateway, &["b"]).await;
    socket.send("ping").await;
    assert_eq!(within("the old server", socket.read(4)).await, b"ping");
    socket.finish().await;
    assert_eq!(within("its end", socket.read_all()).await, b"");
}

#[test]
fn parts_for_an_upstream_that_is_none_are_a_fault_at_the_start() {
    let yaml = format!("listeners: [{{ address: 127.0.0.1:0 }}]\n{}", config("\"127.0.0.1:1\"", ""));
    let config = || Config::read("test.yaml", &yaml, &|_| None).unwrap().config;
    let fault = |builder: sockgate::Builder| builder.build().err().expect("nobody has this name").to_string();
    let (_sender, receiver) = channel(1);
    for fault in [
        fault(Gateway::builder(config()).discovery("ap", Sent(Mutex::new(receiver)))),
        fault(Gateway::builder(config()).balance("ap", |_| First)),
        fault(Gateway::builder(config()).health_check("ap", Always)),
        fault(Gateway::builder(config()).affinity("ap", Nobody)),
    ] {
        assert!(fault.contains("upstream `ap`") && fault.contains("it has `app`"), "{fault}");
    }
}

#[test]
fn parts_that_the_configuration_leaves_no_room_for_are_a_fault_at_the_start() {
    let build = |upstream: &str, with: fn(sockgate::Builder) -> sockgate::Builder| {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nroutes: [{{ upstream: app }}]\nupstreams: {{ app: {{ {upstream} }} }}\n"
        );
        let config = Config::read("test.yaml", &yaml, &|_| None).unwrap().config;
        with(Gateway::builder(config)).build().err().map(|fault| fault.to_string())
    };
    let found = |builder: sockgate::Builder| builder.discovery("app", Sent(Mutex::new(channel(1).1)));
    let fault = build("servers: { dns: app.internal, port: 80 }", found).unwrap();
    assert!(fault.contains("found by dns app.internal:80: expected one of them"), "{fault}");
    let fault = build("servers: [10.0.0.1:80]", |builder| builder.affinity("app", Nobody)).unwrap();
    assert!(fault.contains("expected `balance: client_ip`"), "{fault}");
    assert_eq!(build("servers: [10.0.0.1:80], balance: client_ip", |builder| builder.affinity("app", Nobody)), None);
}

/// Every server is well.
struct Always;

#[async_trait]
impl HealthCheck for Always {
    async fn check(&self, server: &sockgate::Server) -> Result<String, String> {
        Ok(format!("{} is well", server.name()))
    }
}

/// No client is known by anything.
struct Nobody;

impl Affinity for Nobody {
    fn key<'a>(&self, _: &'a sockgate::Request<'_>) -> Option<std::borrow::Cow<'a, [u8]>> {
        None
    }
}

/// The first server that is open.
struct First;

impl sockgate::Balance for First {
    fn choose(&self, _: &sockgate::PickKey, candidates: &sockgate::Candidates<'_>) -> Option<usize> {
        candidates.open().next()
    }
}
