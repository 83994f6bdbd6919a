//! The gateway as a child process: its configuration in variants, its admin address, its memory.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::clients::wire::{Door, Wire};
use crate::server::Servers;
use crate::usage::Usage;

/// A running gateway; ended when dropped.
pub(crate) struct Gateway {
    child: Child,
    process: u32,
    folder: PathBuf,
    addresses: HashMap<String, SocketAddr>,
    servers: Vec<(&'static str, SocketAddr, SocketAddr)>,
    authority: CertifiedIssuer<'static, KeyPair>,
    /// How often the configuration has been written: each one is another one.
    variant: u32,
}

/// Listeners, the admin's included.
const LISTENERS: usize = 4;

impl Gateway {
    pub(crate) async fn start(program: Option<&Path>, folder: &Path, servers: &Servers) -> Result<Self, Error> {
        let beside = || -> Result<PathBuf, Error> {
            let own = std::env::current_exe()?;
            let profile = own.parent().and_then(Path::parent).ok_or("no folder above this program")?;
            Ok(profile.join("sockgate"))
        };
        let program = program.map_or_else(beside, |program| Ok(program.to_owned()))?;
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut gateway = Self {
            // Replaced in a moment; the configuration has to be there first.
            child: Command::new("true").spawn()?,
            process: 0,
            folder: folder.to_owned(),
            addresses: HashMap::new(),
            servers: servers.iter().map(|server| (server.name, server.http, server.raw)).collect(),
            authority: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            variant: 0,
        };
        gateway.write()?;
        let mut child = Command::new(&program)
            .args(["run", "-c"])
            .arg(gateway.file())
            .env("RUST_LOG", "info,pingora=warn,pingora_core=off,pingora_proxy=off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut log = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        while gateway.addresses.len() < LISTENERS {
            let line = log.next_line().await?.ok_or("the gateway ended before it listened")?;
            if let Some((name, address)) = line.split_once("] listening ").and_then(|(_, told)| told.rsplit_once(' ')) {
                gateway.addresses.insert(name.to_owned(), address.parse()?);
            }
        }
        // What it says later is only of interest when something went wrong.
        let file = std::env::temp_dir().join("sockgate-soak.log");
        let mut kept = tokio::fs::File::create(&file).await?;
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            while let Ok(Some(line)) = log.next_line().await {
                let _ = kept.write_all(format!("{line}\n").as_bytes()).await;
            }
            let _ = kept.flush().await;
        });
        println!("the gateway's log is in {}", file.display());
        gateway.process = child.id().ok_or("the gateway ended")?;
        gateway.child = child;
        gateway.all_up().await?;
        Ok(gateway)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process
    }

    pub(crate) fn address(&self, listener: &str) -> Result<SocketAddr, Error> {
        Ok(*self.addresses.get(listener).ok_or_else(|| format!("no listener {listener}"))?)
    }

    /// What clients trust: the authority, whatever certificate it has signed last. They speak this protocol.
    pub(crate) fn trust(&self, protocol: &str) -> Result<TlsConnector, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone())?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    pub(crate) fn usage(&self) -> Result<Usage, Error> {
        Usage::of(self.process)
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64, Error> {
        let text = self.ask("GET", "/metrics").await?.1;
        let values = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Waits until every server is up.
    pub(crate) async fn all_up(&self) -> Result<(), Error> {
        for _ in 0..150 {
            let text = self.ask("GET", "/metrics").await?.1;
            let mut servers = text.lines().filter(|line| line.starts_with("sockgate_server_up{"));
            let (mut some, mut all) = (false, true);
            for line in &mut servers {
                (some, all) = (true, all && line.ends_with(" 1"));
            }
            if some && all {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("not every server came up within 15s".into())
    }

    /// Asks the admin address; status and body.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> Result<(u16, String), Error> {
        let door = Door { address: self.address("admin")?, tls: None };
        let mut wire = Wire::connect(&door, 0).await?;
        wire.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .await?;
        let head = wire.head().await?;
        let body = wire.body(&head).await?;
        Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Loads another configuration: a route more or less, other weights, a listener more or less, a new certificate.
    pub(crate) async fn reload(&mut self) -> Result<(), Error> {
        self.write()?;
        match self.ask("POST", "/reload").await? {
            (200, _) => Ok(()),
            (status, told) => Err(format!("a reload was answered {status}: {told}").into()),
        }
    }

    /// Loads a configuration with a fault, which has to be refused, and the good one again.
    pub(crate) async fn reload_badly(&mut self) -> Result<(), Error> {
        let good = fs::read_to_string(self.file())?;
        fs::write(self.file(), good.replace("upstream: sockets", "upstream: nobody"))?;
        let (status, told) = self.ask("POST", "/reload").await?;
        fs::write(self.file(), good)?;
        if status != 422 {
            return Err(format!("a bad file was answered {status}: {told}").into());
        }
        match self.ask("POST", "/reload").await? {
            (200, _) => Ok(()),
            (status, told) => Err(format!("the good file was answered {status}: {told}").into()),
        }
    }

    /// Stops it as an operator would; its exit code.
    pub(crate) async fn stop(&mut self) -> Result<i32, Error> {
        kill(Pid::from_raw(i32::try_from(self.process)?), Signal::SIGTERM)?;
        let ended = tokio::time::timeout(Duration::from_secs(40), self.child.wait()).await;
        Ok(ended.map_err(|_| "the gateway did not end within 40s")??.code().unwrap_or(-1))
    }

    fn file(&self) -> PathBuf {
        self.folder.join("sockgate.yaml")
    }

    fn write(&mut self) -> Result<(), Error> {
        self.variant += 1;
        let variant = self.variant;
        let odd = variant % 2 == 1;
        let key = KeyPair::generate()?;
        let signed = CertificateParams::new(vec!["soak.test".to_owned()])?.signed_by(&key, &self.authority)?;
        let (cert_file, key_file) = (self.folder.join("cert.pem"), self.folder.join("key.pem"));
        fs::write(&key_file, key.serialize_pem())?;
        fs::write(&cert_file, signed.pem())?;
        let mut entries = [String::new(), String::new()];
        for (position, (name, http, raw)) in self.servers.iter().enumerate() {
            let weight = if odd && position == 1 { 2 } else { 1 };
            for (list, address) in entries.iter_mut().zip([http, raw]) {
                list.push_str(&format!("{{ address: \"{address}\", name: {name}, weight: {weight} }}, "));
            }
        }
        let [http, raw] = entries;
        let listener = if odd { "" } else { "  - { name: more, address: \"127.0.0.3:0\" }\n" };
        let more = if odd {
            String::new()
        } else {
            format!("  - {{ match: {{ path: /variant-{variant} }}, respond: {{ body: hello }} }}\n")
        };
        let (cert, key) = (cert_file.display(), key_file.display());
        let yaml = format!(
            "listeners:
  - {{ name: web, address: \"127.0.0.1:0\" }}
  - {{ name: secure, address: \"[::1]:0\", tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }} }}
  - {{ name: raw, address: \"127.0.0.2:0\", protocol: tcp, upstream: raw }}
{listener}routes:
  - {{ match: {{ path: /socket.io/ }}, upstream: sockets }}
{more}  - {{ upstream: app }}
upstreams:
  app: {{ servers: [{http}], balance: least_connections }}
  sockets: {{ kind: socket.io, servers: [{http}] }}
  raw: {{ kind: tcp, servers: [{raw}] }}
timeouts: {{ head: 5s }}
limits: {{ head: 16KiB }}
access_log: {{ format: json, file: {} }}
reload: {{ watch: false }}
drain: {{ deadline: 10s }}
admin: {{ address: \"127.0.0.1:0\" }}
",
            self.folder.join("access.log").display()
        );
        Ok(fs::write(self.file(), yaml)?)
    }
}
