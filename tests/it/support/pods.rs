//! Gateways that are peers, each before servers of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use futures::future::join_all;
use tempfile::TempDir;

use super::proxies::Proxy;
use super::{Gateway, Setup, eventually};

/// Gateways that know each other by a file, and by a secret.
pub struct Pods {
    pub gateways: Vec<Gateway>,
    pub setups: Vec<Setup>,
    folder: TempDir,
}

impl Pods {
    /// One gateway before each of these, which knows all of them, itself included.
    pub async fn before(setups: impl IntoIterator<Item = Setup>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, secret) = (folder.path().join("gateways.yaml"), folder.path().join("secret"));
        std::fs::write(&file, "- 127.0.0.1:1\n").unwrap();
        std::fs::write(&secret, "a secret that all of the gateways know\n").unwrap();
        let with_peers = |setup: Setup| {
            let setup = setup.unchecked().upstream(format!("peers: {{ file: {} }}", file.display()));
            setup.more(format!("peers: {{ secret_file: {} }}\naccess_log: {{ format: text }}", secret.display()))
        };
        let setups: Vec<Setup> = setups.into_iter().map(with_peers).collect();
        let gateways = join_all(setups.iter().map(Setup::start)).await;
        let pods = Self { gateways, setups, folder };
        let list: String = pods.web().iter().map(|address| format!("- {address}\n")).collect();
        let new = pods.folder.path().join("new.yaml");
        std::fs::write(&new, list).unwrap();
        std::fs::rename(new, file).unwrap();
        for gateway in &pods.gateways {
            pods.are_known_to(gateway).await;
            gateway.log_line("server 127.0.0.1:1 is gone").await;
        }
        pods
    }

    /// Waits until a gateway knows them all.
    async fn are_known_to(&self, gateway: &Gateway) {
        for peer in self.web() {
            let up = format!("sockgate_server_up{{upstream=\"app@peers\",server=\"{peer}\"}}");
            eventually("the peer is known", async || gateway.metric(&up).await == 1.0).await;
        }
    }

    /// Where they listen.
    pub fn web(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.address("web")).collect()
    }

    /// A metric of all of them together.
    pub async fn sum(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for gateway in &self.gateways {
            sum += gateway.metric(metric).await;
        }
        sum
    }

    /// HAProxy before all of them, which gives each connection to the next.
    pub fn front(&self, folder: &Path) -> Option<(Proxy, SocketAddr)> {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        let servers = self.web().into_iter().enumerate();
        let servers: String = servers.map(|(at, web)| format!("    server g{at} {web}\n")).collect();
        let config = format!(
            "    mode tcp\n    retries 2\n    option redispatch 1\nlisten all\n    bind fd@3\n    balance roundrobin\n{servers}"
        );
        Some((Proxy::haproxy(folder, &config, Some(listening))?, address))
    }
}
