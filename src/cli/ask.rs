//! Questions to the admin address of a running gateway: where it is, what is shown there, and one request at a time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::address::BindAddress;
use crate::config::{Config, Loaded};
use crate::http::client;
use crate::http::write::HeadWriter;
use crate::text::Text;
use crate::transport::tls;
use crate::upstream::ServerTls;
use crate::upstream::config::{Kind, Tls};

/// Longest time for the connection, and for the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read at most.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Where operators look when nothing is said.
const USUAL: &str = "127.0.0.1:9901";
/// Where the configuration lies when nothing is said.
const USUAL_FILES: [&str; 2] = ["sockgate.yaml", "/etc/sockgate/sockgate.yaml"];

/// An answer: its status and its body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// What the command line says of the admin address.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct At {
    /// The admin address: 127.0.0.1:9901, https://gateway.internal:9901 or unix:/run/admin.sock. By default what
    /// SOCKGATE_ADMIN says, or the configuration file, or else 127.0.0.1:9901.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The configuration file to read the address and the token from; by default sockgate.yaml here or in /etc/sockgate.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file whose first line is the token to show; by default SOCKGATE_ADMIN_TOKEN is.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// With https: PEM authorities to believe in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// With https: the certificate to show, in PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Print what the gateway tells, as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The way to an admin address.
pub(super) struct Door {
    /// As it was given.
    pub(super) address: String,
    host: String,
    token: Option<String>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl At {
    /// The file, where nothing but a file is named.
    pub(super) fn file_alone(&self) -> Option<&Path> {
        self.config.as_deref().filter(|_| self.admin.is_none())
    }

    /// Finds the address, and what is shown there.
    ///
    /// # Errors
    /// Why there is none, in a sentence.
    pub(super) fn door(&self) -> Result<Door, String> {
        let said = self.admin.clone().or_else(|| std::env::var("SOCKGATE_ADMIN").ok().filter(|said| !said.is_empty()));
        let usual = || USUAL_FILES.iter().map(PathBuf::from).find(|file| file.exists());
        let file = self.config.clone().or_else(|| if said.is_none() { usual() } else { None });
        let configured = file.as_deref().map(Configured::read).transpose()?;
        let address = match (said, &configured) {
            (Some(said), _) => said,
            (None, Some(configured)) => configured.address.clone(),
            (None, None) => USUAL.to_owned(),
        };
        let token_file = self.token_file.clone().or_else(|| configured.and_then(|configured| configured.token_file));
        let token = match token_file {
            Some(file) => Some(first_line(&file)?),
            None => std::env::var("SOCKGATE_ADMIN_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        Door::new(address, token, self)
    }
}

/// What a configuration file says of the admin address.
struct Configured {
    address: String,
    token_file: Option<PathBuf>,
}

impl Configured {
    fn read(file: &Path) -> Result<Self, String> {
        let Loaded { config, .. } = Config::load(file).map_err(|faults| faults.to_string())?;
        let none =
            || format!("{}: has no `admin`: add `admin: {{ address: {USUAL} }}`, or say --admin", file.display());
        let admin = config.admin.ok_or_else(none)?;
        let address = match &admin.address {
            BindAddress::Unix(path) => format!("unix:{}", path.display()),
            BindAddress::Inet(address) if address.port() == 0 => {
                return Err(format!("{}: the port of `admin` is the kernel's choice: say --admin", file.display()));
            }
            BindAddress::Inet(address) => reachable(*address).to_string(),
        };
        let scheme = if admin.tls.is_some() { "https://" } else { "" };
        Ok(Self { address: format!("{scheme}{address}"), token_file: admin.token_file })
    }
}

/// Where an address that stands for all of them is reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, address.port()).into()
}

fn first_line(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.filter(|line| line.bytes().all(|byte| byte.is_ascii_graphic()));
    line.map(str::to_owned).ok_or_else(|| format!("{}: expected a token on its first line", file.display()))
}

impl Door {
    /// An address where nothing is shown but the token of the environment.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn at(address: &str) -> Result<Self, String> {
        At { admin: Some(address.to_owned()), ..At::default() }.door()
    }

    fn new(address: String, token: Option<String>, said: &At) -> Result<Self, String> {
        let (secure, rest) = match (address.strip_prefix("https://"), address.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, rest) => (false, rest.unwrap_or(&address)),
        };
        let rest = rest.trim_end_matches('/');
        let host = if rest.starts_with("unix:") { "localhost" } else { rest };
        let tls = secure.then(|| {
            let wanted = Tls { ca: said.ca.clone(), cert: said.cert.clone(), key: said.key.clone(), ..Tls::default() };
            let config = ServerTls::load(&wanted, Kind::Http, false)?;
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(name).map_err(|_| format!("`{host}` is no name for TLS"))?;
            Ok::<_, String>((Arc::clone(config.client_config()), name))
        });
        Ok(Self { host: host.to_owned(), token, tls: tls.transpose()?, address })
    }

    /// Asks, on a connection of its own.
    ///
    /// # Errors
    /// It can't be reached, or does not answer.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let mut request = HeadWriter::request(method, path, 1);
        request.field("host", &self.host);
        request.field("connection", "close");
        if let Some(token) = &self.token {
            request.field("authorization", format!("Bearer {token}"));
        }
        request.field("content-length", Text::number(body.len() as u64).as_bytes());
        let request = request.end_with(body);
        let address = self.address.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        if let Some(path) = address.strip_prefix("unix:") {
            return exchange(within(UnixStream::connect(path)).await?, &request).await;
        }
        let stream = within(TcpStream::connect(address)).await?;
        match &self.tls {
            None => exchange(stream, &request).await,
            Some((config, name)) => {
                let stream = within(tls::connect(Arc::clone(config), name.clone(), stream)).await?;
                exchange(stream, &request).await
            }
        }
    }

    /// Asks for what is told as JSON, where all is well.
    ///
    /// # Errors
    /// A sentence for people: it can't be reached, or says why it can't be done.
    pub(super) async fn told(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let asked = self.ask(method, path, body.as_bytes()).await;
        let Answer { status, body } = asked.map_err(|error| format!("{} does not answer: {error}", self.address))?;
        let told = serde_json::from_str::<Value>(&body);
        match (status, told) {
            (200, Ok(told)) => Ok(told),
            (200, Err(error)) => Err(format!("{}: expected JSON: {error}", self.address)),
            (401, _) => {
                Err(format!("{}: {}; say --token-file, or set SOCKGATE_ADMIN_TOKEN", self.address, body.trim()))
            }
            (_, Ok(fault)) if fault["error"].is_string() => {
                let hint = fault["hint"].as_str().map(|hint| format!(": {hint}")).unwrap_or_default();
                Err(format!("{}{hint}", fault["error"].as_str().unwrap_or_default()))
            }
            _ => Err(format!("{} answered {status}: {}", self.address, body.trim())),
        }
    }
}

/// Runs what asks on a runtime of its own.
///
/// # Errors
/// The system gives none.
pub(super) fn run<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> io::Result<Answer> {
    let answer = async { client::ask(&mut stream, request, false, MOST_BYTES).await.map_err(io::Error::other) };
    let client::Answer { status, body, .. } = within(answer).await?;
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
