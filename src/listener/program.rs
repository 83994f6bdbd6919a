//! Applications of a program's own behind listeners: what they are, and the stream that each connection is to them.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{Connection, Info};
use super::limits::Permit;
use crate::ending::Stopping;
use crate::transport::Transport;

/// Serves the connections of a listener with `protocol: application`.
///
/// Why it looks like this. What a listener does for every protocol is done before: limits, PROXY headers, TLS by the
/// certificates of the file. What is left is a stream of bytes and who is at its other end, and the application has it for
/// as long as it wants; it needs no server behind it. Each connection has a task of its own, so that an application is
/// written as if there were only one.
///
/// It is called once for each connection, from many threads. Its place in the limits is given back when the stream is
/// dropped. When the gateway stops, [`ClientStream::leaving`] resolves, and whoever says goodbye should do it then; at
/// `drain.deadline` the call is dropped. It must not block its thread. A panic ends its connection and is counted.
///
/// ```
/// use async_trait::async_trait;
/// use sockgate::{ClientStream, TcpApplication};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// /// Says everything back.
/// struct Echo;
///
/// #[async_trait]
/// impl TcpApplication for Echo {
///     async fn serve(&self, mut client: ClientStream) {
///         let mut bytes = [0; 1024];
///         while let Ok(count @ 1..) = client.read(&mut bytes).await {
///             if client.write_all(&bytes[..count]).await.is_err() {
///                 return;
///             }
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait TcpApplication: Send + Sync + 'static {
    /// Serves a connection to its end, which is that of the stream or of this call, whichever comes first.
    async fn serve(&self, client: ClientStream);
}

/// A connection as a [`TcpApplication`] has it: the bytes behind PROXY header and TLS.
pub struct ClientStream {
    transport: Transport,
    held: BytesMut,
    info: Arc<Info>,
    stopping: Stopping,
    _permit: Permit,
}

impl ClientStream {
    /// The client, as the listener knows it: the address that a trusted PROXY header tells, else that of the peer; 127.0.0.1
    /// and port 0 on Unix sockets.
    pub fn client(&self) -> SocketAddr {
        self.info.peer
    }

    /// The name of the listener.
    pub fn listener(&self) -> &str {
        &self.info.listener
    }

    /// Whether the client speaks TLS, to the gateway or to the proxy that tells of it.
    pub fn secure(&self) -> bool {
        self.info.secure()
    }

    /// The name that the client asked for by TLS.
    pub fn server_name(&self) -> Option<&str> {
        self.info.server_name()
    }

    /// Resolves when the gateway stops and connections are to be left. It borrows nothing, so that it can be waited for
    /// beside reads, by `select!`.
    pub fn leaving(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.clone();
        async move {
            // Where nobody can tell any more, it is over.
            let _ = stopping.wait_for(|&stopping| stopping).await;
        }
    }
}

/// Serves a connection by an application, until that, or the gateway, ends it.
pub(crate) async fn serve(application: Arc<dyn TcpApplication>, connection: Connection, stopping: Stopping) {
    let Connection { transport, held, info, deadline, permit, .. } = connection;
    let client = ClientStream { transport, held, info, stopping, _permit: permit };
    tokio::select! {
        biased;
        () = application.serve(client) => {}
        () = deadline.stopping() => {}
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buf);
        }
        let count = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held[..count]);
        this.held.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
