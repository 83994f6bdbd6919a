//! A client's connection as applications get it: the stream, what was read of it ahead, what is known of the peer, its
//! deadline and its place in the limits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::HeaderValue;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::limits::Permit;
use super::tls::ClientCertificate;
use crate::buffers::Held;
use crate::deadline::Deadline;
use crate::transport::Transport;
use crate::wire::proxy_protocol::Tlvs;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The stream.
    pub transport: Transport,
    /// What has been read ahead; the first bytes of the client's.
    pub held: BytesMut,
    /// What is known of the peer.
    pub info: Arc<Info>,
    /// The connection's deadline.
    pub deadline: Deadline,
    /// What waits because of it.
    pub(crate) waiting: Held,
    /// Its place in the limits.
    pub permit: Permit,
}

/// What is known of a connection once it is open; it outlives the stream in logs and contexts.
#[derive(Debug)]
pub struct Info {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The other end, or whom a PROXY header tells of; on Unix sockets 127.0.0.1 and port 0.
    pub peer: SocketAddr,
    /// The address that the client reached; on Unix sockets 127.0.0.1 and port 0.
    pub local: SocketAddr,
    /// What a PROXY header tells beside these.
    pub(crate) told: Option<Box<Tlvs>>,
    /// What TLS agreed on.
    pub tls: Option<TlsInfo>,
    /// The name that the client asked for in TLS that is carried on as it is.
    pub(crate) passed_name: Option<Box<str>>,
    /// Whether its streams may be WebSockets, where it speaks HTTP/2.
    pub(crate) http2_websockets: bool,
    /// Whether it has asked for a session that nobody knew.
    pub(crate) strayed: AtomicBool,
}

impl Info {
    /// Whether the client speaks TLS, to the gateway or to the proxy that tells of it.
    pub fn secure(&self) -> bool {
        self.tls.is_some() || self.told.as_ref().is_some_and(|told| told.tls.is_some())
    }

    /// The name that the client asked for by TLS, of the gateway or of the proxy that tells of it.
    pub fn server_name(&self) -> Option<&str> {
        let own = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).or(self.passed_name.as_deref());
        own.or_else(|| self.told.as_ref()?.authority.as_deref())
    }

    /// The version of TLS that the client speaks, to the gateway or to the proxy that tells of it.
    pub(crate) fn tls_version(&self) -> Option<&str> {
        let own = self.tls.as_ref().map(|tls| tls.version);
        own.or_else(|| self.told.as_ref()?.tls.as_deref())
    }

    /// What browsers are told in `Strict-Transport-Security`.
    pub(crate) fn hsts(&self) -> Option<&HeaderValue> {
        self.tls.as_ref()?.hsts.as_deref()
    }

    /// What a PROXY header tells a server of the connection beside addresses. It has the name that a proxy has given it
    /// before, or else `id`.
    pub(crate) fn tlvs(&self, id: &str) -> Tlvs {
        let Self { tls, told, .. } = self;
        let told = told.as_deref();
        let alpn = tls.as_ref().and_then(|tls| tls.alpn).map(|name| name.as_bytes().into());
        let version = tls.as_ref().map(|tls| tls.version.replace('_', ".").into());
        let own_id = || (!id.is_empty()).then(|| id.as_bytes().into());
        Tlvs {
            alpn: alpn.or_else(|| told?.alpn.clone()),
            authority: self.server_name().map(Into::into),
            unique_id: told.and_then(|told| told.unique_id.clone()).or_else(own_id),
            certificate: match tls {
                Some(tls) => tls.client.as_ref().map(|client| client.common_name.clone()),
                None => told.and_then(|told| told.certificate.clone()),
            },
            tls: version.or_else(|| told?.tls.clone()),
        }
    }

    /// What a PROXY header calls the connection, if anything; in hexadecimal digits where it is no plain text.
    pub(crate) fn unique_id(&self) -> String {
        let Some(id) = self.told.as_ref().and_then(|told| told.unique_id.as_deref()) else { return String::new() };
        match std::str::from_utf8(id) {
            Ok(text) if id.iter().all(u8::is_ascii_graphic) => text.to_owned(),
            _ => id.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
    /// The protocol that goes over it, by ALPN.
    pub alpn: Option<&'static str>,
    /// Who the client has proved to be, where it has shown a certificate.
    pub client: Option<Arc<ClientCertificate>>,
    /// What browsers are told in `Strict-Transport-Security`.
    pub(crate) hsts: Option<Arc<HeaderValue>>,
}

/// What a connection turned out to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2, by ALPN or by its preface.
    Http2,
    /// Anything else, for this TCP upstream.
    Raw(Option<Arc<str>>),
    /// Whatever the application of a program says that it is.
    Own,
}

/// How long a client may take to read a last answer.
const LINGER: Duration = Duration::from_secs(2);

impl Connection {
    /// Once the deadline of a write that waits has come: tries [`once more`](Transport::offer), and gives the client up
    /// if it has taken nothing. Else the deadline is put off by `time`, and this is how many of these bytes went; or the
    /// task is woken to go on.
    pub(crate) fn poll_offer(&mut self, bytes: &[u8], time: Duration, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.deadline.poll_expired(cx));
        let Some(taken) = self.transport.offer(bytes) else { return Poll::Ready(Err(io::ErrorKind::TimedOut.into())) };
        self.deadline.set(time);
        if taken > 0 {
            return Poll::Ready(Ok(taken));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes a last answer, then does as [`Self::close`].
    pub async fn answer_and_close(mut self, answer: &[u8]) {
        self.deadline.set(LINGER);
        let Self { transport, deadline, .. } = &mut self;
        let written = tokio::select! {
            written = transport.write_all(answer) => written.is_ok(),
            () = deadline.expired() => false,
        };
        if written {
            self.close().await;
        }
    }

    /// Closes the way that lets the client read what was written last: the client's own bytes are read away for a
    /// moment, since the kernel would answer them with a reset that overtakes the answer (RFC 9112 9.6).
    pub async fn close(mut self) {
        self.deadline.set(LINGER);
        let Self { transport, deadline, .. } = &mut self;
        let linger = async {
            transport.shutdown().await?;
            let mut sink = [0; 2048];
            while transport.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        tokio::select! {
            _ = linger => {}
            () = deadline.expired() => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Connections without a listener.

    use tokio::net::UnixStream;

    use super::*;
    use crate::buffers::Buffers;
    use crate::deadline::Deadlines;
    use crate::listener::limits::ConnectionLimits;
    use crate::metrics::Metrics;
    use crate::transport::Socket;

    /// A connection, and its client's end.
    pub(crate) fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let clock = Deadlines::new();
        tokio::spawn(Arc::clone(&clock).run());
        let metrics = Metrics::new().unwrap();
        let buffers = Buffers::new(metrics.buffered_bytes.clone(), metrics.buffers_cut.clone());
        let metrics = metrics.listener("test");
        let info = info();
        let connection = Connection {
            transport: Transport::Plain(Socket::Unix(ours)),
            held: BytesMut::new(),
            deadline: clock.register(),
            waiting: buffers.nothing(),
            permit: ConnectionLimits::new(0, 0).admit(Some(info.peer.ip()), &metrics, 0).unwrap(),
            info: Arc::new(info),
        };
        (connection, theirs)
    }

    /// What is known of nobody in particular.
    pub(crate) fn info() -> Info {
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        Info {
            listener: "test".into(),
            peer: unknown,
            local: unknown,
            told: None,
            tls: None,
            passed_name: None,
            http2_websockets: false,
            strayed: AtomicBool::new(false),
        }
    }
}
