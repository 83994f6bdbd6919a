//! The shim that lets BoringSSL's conformance suite (BoGo) talk to the gateway's own TLS stream, as server and as client.
//!
//! The suite starts it once for each test, with flags that say what to expect, and plays the peer that breaks the rules.
//! `scripts/bogo` runs the whole; `disabled.json` names the tests that ask for what the gateway does not speak, with
//! reasons. A flag that is not known ends with the status that the suite counts as "not implemented".

mod options;
mod terms;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustls::{CommonState, HandshakeKind};
use rustls_pki_types::ServerName;
use sockgate::internals::tls::{self, Session, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use options::Options;
use terms::{Sessions, Side, Terms};

/// What the suite takes for "this shim can't do that".
const NOT_IMPLEMENTED: i32 = 89;

type Error = Box<dyn std::error::Error>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|flag| flag == "-is-handshaker-supported") {
        println!("No");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut connection = 0;
    let mut built: Option<(Options, Terms)> = None;
    loop {
        let options = Options::read(&arguments, connection).unwrap_or_else(not_implemented);
        let terms = match built.take() {
            // Sessions come back to the very terms that they were made under, as in the gateway.
            Some((before, terms)) if before.asks_the_same(&options) => terms,
            before => {
                let sessions = before.map_or_else(Sessions::default, |(_, terms)| terms.sessions);
                Terms::build(&options, sessions).unwrap_or_else(not_implemented)
            }
        };
        terms.sessions.certificates_fail.store(options.verify_fails, Relaxed);
        if let Err(error) = runtime.block_on(connect(&options, &terms)) {
            eprintln!("{error}");
            exit(1);
        }
        if connection == options.resumptions {
            return;
        }
        built = Some((options, terms));
        connection += 1;
    }
}

fn not_implemented<T>(what: String) -> T {
    eprintln!("not implemented: {what}");
    exit(NOT_IMPLEMENTED)
}

/// One connection of a test.
async fn connect(options: &Options, terms: &Terms) -> Result<(), Error> {
    let address: SocketAddr = if options.ipv6 {
        (Ipv6Addr::LOCALHOST, options.port).into()
    } else {
        (Ipv4Addr::LOCALHOST, options.port).into()
    };
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    socket.write_all(&options.shim_id.to_le_bytes()).await?;
    let done = match &terms.side {
        Side::Server(config) => match tls::accept(Arc::clone(config), &mut socket, b"").await {
            Ok((mut stream, name)) => match check_name(options, name.as_deref()) {
                Ok(()) => talk(options, &mut stream).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        },
        Side::Client(config) => {
            let name = options.host_name.as_deref().unwrap_or("test");
            let name = ServerName::try_from(name.to_owned())?;
            match tls::connect(Arc::clone(config), name, &mut socket).await {
                Ok(mut stream) => talk(options, &mut stream).await,
                Err(error) => Err(error.into()),
            }
        }
    };
    // Whatever was said last has to arrive: a socket that is closed with bytes unread loses it.
    let _ = socket.shutdown().await;
    let mut rest = [0; 4096];
    while matches!(socket.read(&mut rest).await, Ok(count) if count > 0) {}
    done
}

fn check_name(options: &Options, name: Option<&str>) -> Result<(), Error> {
    match &options.expect_server_name {
        Some(expected) if Some(expected.as_str()) != name => {
            Err(format!("the client asked for {name:?}, not for {expected}").into())
        }
        _ => Ok(()),
    }
}

/// Sends back each byte turned over, until the peer has finished.
async fn talk<S: Session>(options: &Options, stream: &mut Stream<S, &mut TcpStream>) -> Result<(), Error> {
    check(options, stream.agreed())?;
    for _ in 0..options.initial_writes {
        stream.write_all(options.initial_write.as_bytes()).await?;
        stream.flush().await?;
    }
    if options.record_sizes {
        for size in [0, 1, 255, 256, 257, 16383, 16384, 16385, 32767, 32768, 32769] {
            stream.write_all(&vec![0x42; size]).await?;
            stream.flush().await?;
        }
    }
    if options.shuts_down {
        stream.shutdown().await?;
        if options.check_close_notify {
            return finished(stream.read(&mut [0]).await);
        }
        return Ok(());
    }
    let mut buffer = vec![0; options.read_size];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => {
                buffer[..count].iter_mut().for_each(|byte| *byte ^= 0xff);
                stream.write_all(&buffer[..count]).await?;
                stream.flush().await?;
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !options.check_close_notify => break,
            // The peer is gone, and has said all that it meant to.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !options.check_close_notify => break,
            Err(error) => return Err(error.into()),
        }
    }
    let _ = stream.shutdown().await;
    Ok(())
}

/// Whether a read has met the end that was agreed on.
fn finished(read: io::Result<usize>) -> Result<(), Error> {
    match read? {
        0 => Ok(()),
        count => Err(format!("{count} bytes came where the end was expected").into()),
    }
}

/// Whether both sides agree on what the suite says.
fn check(options: &Options, agreed: &CommonState) -> Result<(), Error> {
    let version = agreed.protocol_version().map(u16::from);
    if options.expect_version.is_some_and(|expected| Some(expected) != version) {
        return Err(format!("agreed on version {version:x?}, not on {:x?}", options.expect_version).into());
    }
    let protocol = agreed.alpn_protocol().map(String::from_utf8_lossy);
    if options.expect_alpn.as_ref().is_some_and(|expected| *expected != protocol.as_deref().unwrap_or_default()) {
        return Err(format!("agreed on protocol {protocol:?}, not on {:?}", options.expect_alpn).into());
    }
    // A session of TLS 1.2 that comes back agrees on no group, and one of TLS 1.3 does not tell of a second hello.
    let resumed = agreed.handshake_kind() == Some(HandshakeKind::Resumed);
    let group = agreed.negotiated_key_exchange_group().map(|group| u16::from(group.name()));
    if !(resumed && group.is_none()) && options.expect_curve.is_some_and(|expected| Some(expected) != group) {
        return Err(format!("agreed on group {group:x?}, not on {:x?}", options.expect_curve).into());
    }
    let suite = agreed.negotiated_cipher_suite().map(|suite| u16::from(suite.suite()));
    if options.expect_cipher.is_some_and(|expected| Some(expected) != suite) {
        return Err(format!("agreed on cipher {suite:x?}, not on {:x?}", options.expect_cipher).into());
    }
    let retried = agreed.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
    if !resumed && options.expect_retry.is_some_and(|expected| expected != retried) {
        return Err(format!("asked for another hello: {retried}").into());
    }
    if options.expect_no_peer_certificate && agreed.peer_certificates().is_some() {
        return Err("found a certificate of the peer's".into());
    }
    Ok(())
}
