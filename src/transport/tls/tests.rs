use std::task::Waker;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::{TLS12, TLS13};
use rustls::{ConnectionTrafficSecrets, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::*;

type Versions<'a> = &'a [&'static SupportedProtocolVersion];

/// A server's configuration and that of a client who trusts it.
fn configs(versions: Versions<'_>) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let server = ServerConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (server.into(), client.into())
}

fn name() -> ServerName<'static> {
    ServerName::try_from("a.test").unwrap()
}

type Ours = Box<Stream<UnbufferedServerConnection, DuplexStream>>;
type Theirs = client::TlsStream<DuplexStream>;

/// Our server and their client, agreed.
async fn pair(versions: Versions<'_>, pipe: usize) -> (Ours, Theirs) {
    let (server, client) = configs(versions);
    let (left, right) = duplex(pipe);
    let theirs = TlsConnector::from(client).connect(name(), right);
    let (ours, theirs) = tokio::join!(accept(server, left, b""), theirs);
    (ours.unwrap().0, theirs.unwrap())
}

/// A socket that takes and gives as little as it likes, when it likes.
struct Chopped {
    socket: DuplexStream,
    most: usize,
    whims: StdRng,
}

impl Chopped {
    /// How many bytes it is in the mood for.
    fn whim(&mut self, cx: &Context<'_>) -> Poll<usize> {
        if self.whims.random_ratio(1, 5) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.whims.random_range(1..=self.most))
    }
}

impl AsyncRead for Chopped {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut bytes = vec![0; ready!(this.whim(cx)).min(buf.remaining())];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut this.socket).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Chopped {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let most = ready!(this.whim(cx)).min(buf.len());
        Pin::new(&mut this.socket).poll_write(cx, &buf[..most])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

fn payload(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// Sends all of `sent` in pieces of any size and number, then finishes, and reads to the end meanwhile.
async fn exchange<T: AsyncRead + AsyncWrite + Unpin>(stream: T, sent: &[u8], seed: u64) -> io::Result<Vec<u8>> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let write = async {
        let mut whims = StdRng::seed_from_u64(seed);
        let mut rest = sent;
        while !rest.is_empty() {
            let most = whims.random_range(1..=rest.len().min(100_000));
            let (first, second) = rest[..most].split_at(whims.random_range(0..=most));
            let (second, third) = second.split_at(whims.random_range(0..=second.len()));
            let slices = [IoSlice::new(first), IoSlice::new(second), IoSlice::new(third)];
            let written = poll_fn(|cx| Pin::new(&mut writing).poll_write_vectored(cx, &slices)).await?;
            assert!((1..=most).contains(&written));
            rest = &rest[written..];
            if whims.random_ratio(1, 3) {
                writing.flush().await?;
            }
        }
        writing.shutdown().await
    };
    let read = async {
        let mut whims = StdRng::seed_from_u64(!seed);
        let mut got = Vec::new();
        loop {
            let mut buffer = vec![0; whims.random_range(1..=40_000)];
            match reading.read(&mut buffer).await? {
                0 => return Ok(got),
                count => got.extend_from_slice(&buffer[..count]),
            }
        }
    };
    tokio::try_join!(write, read).map(|((), got)| got)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out_however_it_is_chopped(
        seed: u64,
        old: bool,
        sides in 0..3,
        pipe in 1..100_000_usize,
        most in prop_oneof![1..40_usize, 1..70_000_usize],
        lengths in (0..200_000_usize, 0..200_000_usize),
    ) {
        let (server, client) = configs(&[if old { &TLS12 } else { &TLS13 }]);
        // Byte by byte takes its time.
        let scale = if most < 40 || pipe < 40 { 50 } else { 1 };
        let (down, up) = (payload(lengths.0 / scale, seed), payload(lengths.1 / scale, !seed));
        let (left, right) = duplex(pipe);
        let chop = |socket, salt| Chopped { socket, most, whims: StdRng::seed_from_u64(seed ^ salt) };
        let (left, right) = (chop(left, 1), chop(right, 2));
        let at_server = async {
            if sides == 0 {
                exchange(TlsAcceptor::from(server).accept(left).await?, &down, seed).await
            } else {
                exchange(accept(server, left, b"").await?.0, &down, seed).await
            }
        };
        let at_client = async {
            if sides == 1 {
                exchange(TlsConnector::from(client).connect(name(), right).await?, &up, seed).await
            } else {
                exchange(connect(client, name(), right).await?, &up, seed).await
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (got_up, got_down) = runtime.block_on(async { tokio::try_join!(at_server, at_client) }).unwrap();
        prop_assert!(got_up == up, "{} of {} bytes from the client", got_up.len(), up.len());
        prop_assert!(got_down == down, "{} of {} bytes from the server", got_down.len(), down.len());
    }
}

/// One poll, by nobody who would come back.
fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_silent_stream_holds_no_bytes() {
    for version in [&TLS12, &TLS13] {
        let (mut ours, mut theirs) = pair(&[version], 1 << 20).await;
        let sent = payload(100_000, 1);
        theirs.write_all(&sent).await.unwrap();
        // A reader with little room leaves a rest, and the next record comes in halves.
        let mut got = vec![0; 100];
        ours.read_exact(&mut got).await.unwrap();
        assert!(!ours.plain.is_empty());
        got.resize(sent.len(), 0);
        ours.read_exact(&mut got[100..]).await.unwrap();
        assert!(got == sent);
        ours.write_all(&sent).await.unwrap();
        theirs.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
        for rest in [&mut ours.incoming, &mut ours.plain, &mut ours.outgoing] {
            assert_eq!(rest.tail().capacity(), 0, "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_and_nothing_is_lost() {
    let (mut ours, mut theirs) = pair(&[&TLS13], 30_000).await;
    let sent = payload(300_000, 2);
    let mut accepted = 0;
    while let Poll::Ready(written) = poll_once(ours.write(&sent[accepted..])) {
        accepted += written.unwrap();
    }
    assert!(ours.outgoing.len() <= buffers::WRITE + 4 * 30, "{} bytes wait", ours.outgoing.len());
    let mut got = vec![0; sent.len()];
    let write = async {
        ours.write_all(&sent[accepted..]).await.unwrap();
        ours.flush().await.unwrap();
    };
    tokio::join!(write, async { theirs.read_exact(&mut got).await.unwrap() });
    assert!(got == sent);
}

#[tokio::test]
async fn pieces_of_one_write_are_one_record() {
    let (mut ours, theirs) = pair(&[&TLS13], 1 << 20).await;
    let (mut socket, _) = theirs.into_inner();
    let record = async |socket: &mut DuplexStream| {
        let mut header = [0; 5];
        socket.read_exact(&mut header).await.unwrap();
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        socket.read_exact(&mut vec![0; length]).await.unwrap();
        length
    };
    // Tickets that the client has not read yet.
    let _ = poll_once(socket.read(&mut [0; 4096]));
    let body = payload(40_000, 3);
    let slices = [IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(&body)];
    let written = poll_fn(|cx| Pin::new(&mut ours).poll_write_vectored(cx, &slices)).await.unwrap();
    assert_eq!(written, 40_004);
    let overhead = 17;
    assert_eq!(record(&mut socket).await, RECORD + overhead);
    assert_eq!(record(&mut socket).await, RECORD + overhead);
    assert_eq!(record(&mut socket).await, 40_004 - 2 * RECORD + overhead);
}

#[tokio::test]
async fn an_end_is_told_from_a_cut() {
    for version in [&TLS12, &TLS13] {
        let mut buffer = [0; 16];
        let (mut ours, mut theirs) = pair(&[version], 4096).await;
        theirs.write_all(b"last").await.unwrap();
        theirs.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 4);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 0);
        // The other direction is still open.
        ours.write_all(b"answer").await.unwrap();
        ours.shutdown().await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(ours.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"answer");

        let (mut ours, mut theirs) = pair(&[version], 4096).await;
        theirs.write_all(b"last").await.unwrap();
        drop(theirs);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 4);
        for _ in 0..2 {
            assert_eq!(ours.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test]
async fn a_client_may_finish_in_one_go_with_the_handshake() {
    for version in [&TLS12, &TLS13] {
        let (server, client) = configs(&[version]);
        let (left, right) = duplex(1 << 16);
        let in_one_go = async {
            let mut theirs = TlsConnector::from(client).connect(name(), right).await.unwrap();
            theirs.write_all(b"all").await.unwrap();
            theirs.shutdown().await.unwrap();
            theirs
        };
        let (ours, mut theirs) = tokio::join!(accept(server, left, b""), in_one_go);
        let mut ours = ours.unwrap().0;
        let mut got = Vec::new();
        ours.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"all");
        ours.write_all(b"answer").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    }
}

#[tokio::test]
async fn what_breaks_the_rules_is_refused_with_an_alert() {
    let forged = [&[0x17, 3, 3, 0, 32][..], &[0xaa; 32]].concat();
    let oversized = [0x17, 3, 3, 0xff, 0xff];
    for (hostile, alert) in
        [(&forged[..], "BadRecordMac"), (&oversized, "DecodeError"), (b"GET / HTTP/1.1\r\n\r\n", "DecodeError")]
    {
        let (mut ours, mut theirs) = pair(&[&TLS13], 4096).await;
        theirs.write_all(b"good").await.unwrap();
        theirs.get_mut().0.write_all(hostile).await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 4, "what came before it is whole");
        for _ in 0..2 {
            assert_eq!(ours.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(ours.write(b"more").await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(ours.incoming.len(), 0);
        ours.shutdown().await.unwrap();
        let told = theirs.read(&mut buffer).await.unwrap_err().to_string();
        assert!(told.contains(alert), "{alert}: {told}");
    }
}

#[tokio::test]
async fn a_handshake_without_agreement_is_refused_with_an_alert() {
    let (server, _) = configs(&[&TLS13]);
    let (_, client) = configs(&[&TLS12]);
    let (left, right) = duplex(4096);
    let theirs = TlsConnector::from(client).connect(name(), right);
    let (ours, theirs) = tokio::join!(accept(server, left, b""), theirs);
    assert_eq!(ours.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(theirs.unwrap_err().to_string().contains("ProtocolVersion"));
}

#[tokio::test]
async fn a_hello_without_an_end_is_bounded() {
    let (server, _) = configs(&[&TLS13]);
    let (left, mut right) = duplex(1024);
    // A ClientHello of 64 KiB whose every byte comes in a record of its own.
    let sending = async {
        let mut sent = 0;
        for byte in [1, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0)) {
            if right.write_all(&[0x16, 3, 1, 0, 1, byte]).await.is_err() {
                break;
            }
            sent += 6;
        }
        sent
    };
    let accepting = async { accept(server, left, b"").await.unwrap_err().kind() };
    let (kind, sent) = tokio::join!(accepting, sending);
    assert_eq!(kind, io::ErrorKind::InvalidData);
    assert!((HELD..HELD + 2 * RECORD).contains(&sent), "refused after {sent} bytes");
}

#[tokio::test]
async fn a_key_update_in_two_pieces_does_not_mind_a_write_between_them() {
    let (mut ours, mut theirs) = pair(&[&TLS13], 1 << 16).await;
    theirs.write_all(b"hi").await.unwrap();
    let mut buffer = [0; 16];
    assert_eq!(ours.read(&mut buffer).await.unwrap(), 2);
    let (mut socket, session) = theirs.into_inner();
    #[allow(deprecated, reason = "the keys are all that is wanted")]
    let (mut number, secrets) = session.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another cipher suite") };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    let mut handshake = |part: &[u8]| {
        const HANDSHAKE: u8 = 22;
        let mut bytes = [part, &[HANDSHAKE]].concat();
        let header = [0x17, 3, 3, 0, (bytes.len() + 16) as u8];
        let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
        nonce[4..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, count)| *byte ^= count);
        number += 1;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut bytes).unwrap();
        [&header[..], &bytes].concat()
    };
    // KeyUpdate, update_requested (RFC 8446 4.6.3).
    socket.write_all(&handshake(&[24, 0, 0])).await.unwrap();
    assert!(poll_once(ours.read(&mut buffer)).is_pending());
    assert!(!ours.incoming.is_empty(), "the first piece waits");
    ours.write_all(b"between").await.unwrap();
    socket.write_all(&handshake(&[1, 1])).await.unwrap();
    assert!(poll_once(ours.read(&mut buffer)).is_pending());
    assert_eq!(ours.incoming.len(), 0);
    ours.write_all(b"under new keys").await.unwrap();
    // The update is done: the old keys open nothing any more.
    socket.write_all(&handshake(&[24, 0, 0, 1, 0])).await.unwrap();
    assert_eq!(ours.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn key_updates_go_unnoticed() {
    let (mut ours, mut theirs) = pair(&[&TLS13], 1 << 16).await;
    for round in 0..5_u8 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round; 100]).await.unwrap();
        let mut got = [0; 100];
        ours.read_exact(&mut got).await.unwrap();
        ours.write_all(&got).await.unwrap();
        let mut back = [0; 100];
        tokio::time::timeout(Duration::from_secs(10), theirs.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(back, [round; 100]);
    }
}
