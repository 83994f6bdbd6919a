//! Real Socket.IO servers, `a`, `b`, `c` and so on, behind one gateway or several.

use std::net::SocketAddr;

use serde_json::Value;

use super::client::Answer;
use super::node::{Node, client, counted};
use super::{Client, Gateway, Setup, eventually, within};

/// Servers of one version and the gateways before them. New sessions are placed in turn, whoever comes: nothing but the
/// session itself leads a request to its server.
pub struct Cluster {
    pub servers: Vec<Node>,
    pub gateways: Vec<Gateway>,
}

/// The names of the servers, in their order.
pub const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

impl Cluster {
    /// Starts as many servers of a version, and one gateway.
    pub async fn start(version: &str, servers: usize, options: &[&str]) -> Self {
        Self::behind(1, version, servers, options).await
    }

    /// The same behind several gateways, which know nothing of each other.
    pub async fn behind(gateways: usize, version: &str, servers: usize, options: &[&str]) -> Self {
        let servers = NAMES[..servers].iter().map(async |name| {
            let named = [&["--id", *name], options].concat();
            Node::server(version, &named).await
        });
        let servers = futures::future::join_all(servers).await;
        let mut cluster = Self { servers, gateways: Vec::new() };
        for _ in 0..gateways {
            let gateway = cluster.gateway("127.0.0.1:0").await;
            cluster.gateways.push(gateway);
        }
        cluster
    }

    /// One more gateway before the servers, ready and with all of them up. The caller keeps it.
    pub async fn gateway(&self, address: &str) -> Gateway {
        self.gateway_with(address, IN_TURN).await
    }

    /// The same with other words about the upstream.
    pub async fn gateway_with(&self, address: &str, upstream: &str) -> Gateway {
        self.gateway_before(address, upstream, self.servers.len()).await
    }

    /// The same before the first servers only.
    pub async fn gateway_before(&self, address: &str, upstream: &str, servers: usize) -> Gateway {
        let gateway = Gateway::start(&self.configuration(address, upstream, &NAMES[..servers])).await;
        for name in &NAMES[..servers] {
            is_up(&gateway, name).await;
        }
        gateway
    }

    /// The file of a gateway before the servers of these names.
    pub fn configuration(&self, address: &str, upstream: &str, names: &[&str]) -> String {
        let chosen = NAMES.iter().zip(&self.servers).filter(|(name, _)| names.contains(name));
        let chosen = chosen.map(|(name, server)| (*name, SocketAddr::from(([127, 0, 0, 1], server.port()))));
        Setup::before_named(chosen).at(address).upstream("kind: socket.io").upstream(upstream).yaml()
    }

    /// Starts a server anew, on the port that it had.
    pub async fn restart(&mut self, name: &str, options: &[&str]) {
        let at = NAMES.iter().position(|known| *known == name).unwrap();
        let port = self.servers[at].port().to_string();
        self.servers[at].kill().await;
        self.servers[at] = Node::server("v4", &[&["--id", name, "--port", &port], options].concat()).await;
    }

    /// Where the first gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.gateways[0].address("web")
    }

    /// Runs a batch of clients against the first gateway; gives their summary.
    pub async fn run(&self, version: &str, transports: &str, sessions: usize, options: &[&str]) -> Value {
        run(self.address(), version, transports, sessions, options).await
    }

    /// A counter of all servers together.
    pub async fn counted(&self, name: &str) -> u64 {
        counted(&self.servers, name).await
    }

    /// Asks the admin address of the first gateway.
    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        admin(&self.gateways[0], method, path).await
    }
}

/// New sessions are placed in turn, whoever comes.
pub const IN_TURN: &str = "balance: round_robin, sessions: { returning: 0s }";

/// Waits until a server is up in the eyes of a gateway.
pub async fn is_up(gateway: &Gateway, name: &str) {
    let up = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}\"}}");
    eventually("the server is up", async || gateway.metric(&up).await == 1.0).await;
}

/// Runs a batch of clients against an address; gives their summary.
pub async fn run(address: SocketAddr, version: &str, transports: &str, sessions: usize, options: &[&str]) -> Value {
    let (url, sessions) = (format!("http://{address}"), sessions.to_string());
    let all = [&["--url", &url, "--transports", transports, "--sessions", &sessions], options].concat();
    client(version, &all, 60).await
}

/// Asks the admin address of a gateway by any method.
pub async fn admin(gateway: &Gateway, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(gateway.address("admin")).await;
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")).await;
    within("the admin address answers", client.answer()).await
}

/// The sessions that a gateway counts on a server.
pub async fn sessions_on(gateway: &Gateway, server: &str) -> f64 {
    gateway.metric(&format!("sockgate_sessions{{upstream=\"app\",server=\"{server}\"}}")).await
}

/// Expects of a batch that nobody lost, changed or doubted a session.
pub fn calm(what: &str, summary: &Value) {
    assert_eq!(summary["session_id_unknown"], 0, "{what}: {summary}");
    assert_eq!(summary["reconnects"], 0, "{what}: {summary}");
    assert_eq!(summary["server_changes"], 0, "{what}: {summary}");
    assert_eq!(summary["ok"], true, "{what}: {summary}");
}

/// The sessions of a batch that a server had.
pub fn served(summary: &Value, name: &str) -> u64 {
    summary["servers"][name].as_u64().unwrap_or(0)
}
