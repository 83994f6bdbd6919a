//! What holds for any bytes that the gateway's own TLS stream reads, before the keys are agreed on and after.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::UnbufferedServerConnection;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::transport::tls::{Stream, accept, connect};

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

static CONFIGS: LazyLock<[Configs; 2]> = LazyLock::new(|| [configs(&TLS12), configs(&TLS13)]);

fn configs(version: &'static SupportedProtocolVersion) -> Configs {
    let key = KeyPair::generate().expect("a key");
    let names = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
    let certificate = names.self_signed(&key).expect("a certificate");
    let server = ServerConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("a key for the certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("an authority");
    let client = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server.into(), client.into())
}

fn name() -> ServerName<'static> {
    ServerName::try_from("a.test").expect("a name")
}

/// One end of a socket whose other end is a check's.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    to_read: VecDeque<u8>,
    written: Vec<u8>,
    /// The most that a read takes.
    piece: usize,
    ended: bool,
}

impl Wire {
    fn new(piece: usize) -> Self {
        let wire = Self::default();
        wire.0.borrow_mut().piece = piece;
        wire
    }

    fn send(&self, bytes: &[u8]) {
        self.0.borrow_mut().to_read.extend(bytes);
    }

    fn end(&self) {
        self.0.borrow_mut().ended = true;
    }

    fn take_written(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.0.borrow_mut();
        if ends.to_read.is_empty() && !ends.ended {
            return Poll::Pending;
        }
        let most = ends.piece.min(buf.remaining()).min(ends.to_read.len());
        ends.to_read.drain(..most).for_each(|byte| buf.put_slice(&[byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What a peer says without keys is refused or waited for, with the same words in one piece and in many, and never agreed
/// with.
pub fn tls_records(bytes: &[u8]) {
    let (server, client) = &CONFIGS[bytes.len() % 2];
    let said = |as_server: bool, piece: usize| {
        let wire = Wire::new(piece);
        wire.send(bytes);
        wire.end();
        let verdict = if as_server {
            match poll(pin!(accept(Arc::clone(server), wire, b""))) {
                Poll::Ready(ended) => ended.map(drop),
                Poll::Pending => panic!("nothing is left to wait for"),
            }
        } else {
            match poll(pin!(connect(Arc::clone(client), name(), wire))) {
                Poll::Ready(ended) => ended.map(drop),
                Poll::Pending => panic!("nothing is left to wait for"),
            }
        };
        verdict.expect_err("nobody has agreed on keys").to_string()
    };
    for as_server in [true, false] {
        let whole = said(as_server, bytes.len().max(1));
        assert_eq!(said(as_server, 1), whole);
        assert_eq!(said(as_server, 7), whole);
    }
}

/// A client of rustls' own and our stream as its server, after their handshake.
struct Pair {
    ours: Box<Stream<UnbufferedServerConnection, Wire>>,
    wire: Wire,
    theirs: ClientConnection,
}

impl Pair {
    fn agree((server, client): &Configs, piece: usize) -> Self {
        let wire = Wire::new(piece);
        let mut theirs = ClientConnection::new(Arc::clone(client), name()).expect("a client");
        let mut ours = pin!(accept(Arc::clone(server), wire.clone(), b""));
        loop {
            wire.send(&sent(&mut theirs));
            let agreed = poll(ours.as_mut());
            hear(&mut theirs, &wire).expect("what the server says");
            if let Poll::Ready(agreed) = agreed {
                let ours = agreed.expect("they agree").0;
                // A last word of the client's waits for the first read.
                wire.send(&sent(&mut theirs));
                return Self { ours, wire, theirs };
            }
        }
    }
}

/// The records that wait to be sent.
fn sent(theirs: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while theirs.wants_write() {
        theirs.write_tls(&mut records).expect("memory is always there");
    }
    records
}

/// Shows a client what was written for it; what it read of that.
fn hear(theirs: &mut ClientConnection, wire: &Wire) -> Result<Vec<u8>, rustls::Error> {
    let written = wire.take_written();
    let mut rest = &written[..];
    let mut plain = Vec::new();
    while !rest.is_empty() {
        theirs.read_tls(&mut rest).expect("memory is always there");
        theirs.process_new_packets()?;
        // Nothing more is not the end.
        let _ = theirs.reader().read_to_end(&mut plain);
    }
    Ok(plain)
}

/// The bytes are what a client does with a connection that is agreed on: what it says arrives whole, in order and in both
/// directions until it breaks the rules; what is no record of its own is never taken for one.
pub fn tls_streams(bytes: &[u8]) {
    let Some((&[first, second], steps)) = bytes.split_first_chunk() else { return };
    let piece = usize::from(second % 61) * 40 + 1;
    let Pair { mut ours, wire, mut theirs } = Pair::agree(&CONFIGS[usize::from(first % 2)], piece);
    let (mut expected, mut got, mut broken, mut finished) = (Vec::new(), Vec::new(), false, false);
    let mut said = 0;
    for (index, step) in steps.chunks(3).take(64).enumerate() {
        let [action, argument, more] = [0, 1, 2].map(|at| step.get(at).copied().unwrap_or(0));
        let size = usize::from(argument) * usize::from(more % 16) + usize::from(more);
        match action % 8 {
            // The client speaks, in as many records as it likes.
            0..=2 if !finished => {
                let plain: Vec<u8> = (0..size).map(|at| (at + index) as u8).collect();
                for part in plain.chunks(usize::from(argument).max(1) * 16) {
                    theirs.writer().write_all(part).expect("room");
                    wire.send(&sent(&mut theirs));
                }
                if !broken {
                    expected.extend(plain);
                }
            }
            // New keys.
            3 if !finished && first % 2 == 1 => {
                theirs.refresh_traffic_keys().expect("TLS 1.3 has that");
                wire.send(&sent(&mut theirs));
            }
            // Something that nobody has sealed.
            4 => {
                broken |= !finished;
                wire.send(&[argument, 3, 3, 0, more.max(1)]);
                wire.send(&vec![more; usize::from(more.max(1))]);
            }
            5 if !finished => {
                theirs.send_close_notify();
                wire.send(&sent(&mut theirs));
                finished = true;
            }
            // The gateway speaks.
            _ => {
                let plain = vec![argument; size];
                let mut written = pin!(async {
                    ours.write_all(&plain).await?;
                    ours.flush().await
                });
                match poll(written.as_mut()) {
                    Poll::Ready(Ok(())) => said += size,
                    Poll::Ready(Err(_)) => assert!(broken || finished, "nothing was wrong"),
                    Poll::Pending => panic!("the socket takes everything"),
                }
            }
        }
        let mut buffer = vec![0; usize::from(argument) + 1];
        while let Poll::Ready(read) = poll(pin!(ours.read(&mut buffer))) {
            match read {
                Ok(0) => {
                    assert!(finished);
                    break;
                }
                Ok(count) => got.extend_from_slice(&buffer[..count]),
                Err(error) => {
                    assert!(broken && error.kind() == io::ErrorKind::InvalidData, "{error}");
                    break;
                }
            }
        }
        assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    }
    let heard = hear(&mut theirs, &wire);
    assert!(broken || heard.is_ok_and(|heard| heard.len() == said));
}
