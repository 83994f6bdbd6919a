//! Pebble, an authority that issues certificates to tests (ACME), where `scripts/proxy-deps` could install it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::tls::{Authority, TlsClient};
use super::{Client, eventually};

/// A port that was free a moment ago, for programs that can't be given a socket: below those that the kernel chooses, which
/// another test may have been given meanwhile.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Where it asks those who want certificates, and how it behaves.
pub struct Manner {
    pub port: u16,
    pub http: u16,
    pub tls: u16,
    /// For how many seconds a certificate is good.
    pub validity: u32,
    /// The share of requests, in percent, whose nonce it refuses on purpose.
    pub refused: u32,
    /// The id and the key, in base64url, of the only account that may order.
    pub customer: Option<(&'static str, &'static str)>,
}

impl Manner {
    pub fn asking(http: u16, tls: u16) -> Self {
        Self { port: free_port(), http, tls, validity: 90 * 24 * 3600, refused: 5, customer: None }
    }

    /// Where certificates are ordered.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }
}

/// An authority, and the names that it looks up, which are all 127.0.0.1.
pub struct Pebble {
    _programs: [Child; 2],
    management: SocketAddr,
}

impl Pebble {
    /// Starts one that shows a certificate of this authority. `None`, said aloud, where it is not installed.
    pub async fn start(authority: &Authority, manner: &Manner) -> Option<Self> {
        let (dns, management, own) = (free_port(), free_port(), free_port());
        let shown = authority.sign(&["localhost", "127.0.0.1"]);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", manner.port),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": shown.cert, "privateKey": shown.key,
            "httpPort": manner.http, "tlsPort": manner.tls,
            "ocspResponderURL": "", "externalAccountBindingRequired": manner.customer.is_some(),
            "externalAccountMACKeys": manner.customer.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "certificateValidityPeriod": manner.validity,
        }});
        let file = authority.file("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let names = start(
            "pebble-challtestsrv",
            &[
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
                "-dns01",
                &format!("127.0.0.1:{dns}"),
                "-management",
                &format!("127.0.0.1:{own}"),
            ],
            0,
        )?;
        let pebble = start("pebble", &["-config", &file, "-dnsserver", &format!("127.0.0.1:{dns}")], manner.refused)?;
        for port in [manner.port, management, own] {
            eventually("pebble listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        }
        Some(Self { _programs: [names, pebble], management: ([127, 0, 0, 1], management).into() })
    }

    /// A client that trusts what it issues.
    pub async fn client(&self, authority: &Authority) -> TlsClient {
        let mut asking = Client::over(authority.client(&[]).connect(self.management, "localhost").await.unwrap());
        TlsClient::trusting(&asking.get("/roots/0").await.body)
    }
}

fn start(program: &str, arguments: &[&str], refused: u32) -> Option<Child> {
    if !Path::new("/usr/bin").join(program).exists() {
        eprintln!("skipped: {program} is not installed, see scripts/proxy-deps");
        return None;
    }
    let mut command = Command::new(program);
    command.args(arguments).env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", refused.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Some(command.spawn().expect("the program starts"))
}
