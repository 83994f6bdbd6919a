//! What an idle WebSocket costs the gateway: opens many through a real gateway process and reads its memory.
//!
//! `cargo run --release --example idle_sockets -- 5000 [tls]` prints KiB for each socket: the growth of the process's
//! proportional set size (PSS) between none and all of them open, each after one echoed message; then that size before,
//! during and after. The kernel's own memory for sockets, and that of clients and server, are not in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

type Error = Box<dyn std::error::Error>;

/// A masked text frame of 16 bytes, and what comes back of it.
const MESSAGE: &[u8] = b"\x81\x90\0\0\0\0sixteen bytes ok";
const UPGRADE: &[u8] = b"GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().unwrap_or("5000".to_owned()).parse()?;
    let tls = arguments.next().is_some_and(|argument| argument == "tls");
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let folder = std::env::temp_dir().join(format!("idle-sockets-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = measure(&folder, count, tls).await;
    fs::remove_dir_all(&folder)?;
    result
}

async fn measure(folder: &std::path::Path, count: usize, tls: bool) -> Result<(), Error> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let server_address = server.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let (cert_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&cert_file, certificate.pem())?;
    fs::write(&key_file, key.serialize_pem())?;
    let certificates =
        format!(", tls: {{ certificates: [{{ cert: {}, key: {} }}] }}", cert_file.display(), key_file.display());
    let yaml = folder.join("gateway.yaml");
    fs::write(
        &yaml,
        format!(
            "listeners:\n  - {{ name: web, address: \"127.0.0.1:0\"{} }}\nroutes: [{{ upstream: sockets }}]\n\
             upstreams: {{ sockets: {{ servers: [\"{server_address}\"] }} }}\n",
            if tls { certificates.as_str() } else { "" }
        ),
    )?;
    let (mut gateway, address) = start(&yaml)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let connector = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
    let open = async |number: usize| -> Result<Box<dyn AnyStream>, Error> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 1, u8::try_from(number % 250)? + 1], 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn AnyStream> = if tls {
            Box::new(connector.connect(ServerName::try_from("localhost")?, stream).await?)
        } else {
            Box::new(stream)
        };
        stream.write_all(UPGRADE).await?;
        let mut head = vec![0; SWITCHED.len()];
        stream.read_exact(&mut head).await?;
        stream.write_all(MESSAGE).await?;
        let mut back = vec![0; MESSAGE.len()];
        stream.read_exact(&mut back).await?;
        Ok(stream)
    };
    // What the first sockets warm up is not theirs.
    let warm = [open(0).await?, open(1).await?];
    let before = pss(gateway.id())?;
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        sockets.push(open(number).await?);
    }
    let open_all = pss(gateway.id())?;
    let each = (open_all - before) / f64::from(u32::try_from(count)?);
    println!("{count} {} sockets: {each:.2} KiB each", if tls { "TLS" } else { "plain" });
    let held = descriptors(gateway.id())?;
    drop(sockets);
    let both_sides = 2 * count;
    while descriptors(gateway.id())? + both_sides > held {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The coarse deadlines of what has ended go with the next sweep.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = pss(gateway.id())?;
    println!("{before:.0} KiB before, {open_all:.0} KiB during, {after:.0} KiB after");
    drop(warm);
    gateway.kill()?;
    gateway.wait()?;
    Ok(())
}

trait AnyStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> AnyStream for T {}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(SWITCHED).await?;
    let mut message = vec![0; MESSAGE.len()];
    while stream.read_exact(&mut message).await.is_ok() {
        stream.write_all(&message).await?;
    }
    Ok(())
}

/// Starts the gateway that was built beside this example.
fn start(yaml: &std::path::Path) -> Result<(Child, std::net::SocketAddr), Error> {
    let example = std::env::current_exe()?;
    let program: PathBuf = example.parent().and_then(|folder| folder.parent()).ok_or("a folder")?.join("sockgate");
    let mut gateway = Command::new(program)
        .args(["run", "-c"])
        .arg(yaml)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = BufReader::new(gateway.stderr.take().ok_or("a log")?);
    let mut lines = log.lines().map_while(Result::ok);
    let told = lines.find_map(|line| line.split_once("listening web ").map(|(_, address)| address.to_owned()));
    std::thread::spawn(move || lines.for_each(drop));
    Ok((gateway, told.ok_or("the gateway did not start")?.parse()?))
}

/// How many descriptors a process has open.
fn descriptors(process: u32) -> Result<usize, Error> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// The proportional set size of a process, in KiB.
fn pss(process: u32) -> Result<f64, Error> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("a Pss line")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
