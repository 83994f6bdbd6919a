//! A connection that an engine has on loan: when the engine lets go of it without having answered, its lender gets it
//! back and can answer instead.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// The engine's end of the loan.
pub(super) struct Lent {
    /// There until the engine is done with it.
    connection: Option<Box<Stream>>,
    back: Arc<Back>,
    answered: bool,
}

/// The lender's end: where the connection comes back to.
#[derive(Debug, Default)]
pub(super) struct Back(Mutex<Option<Box<Stream>>>);

impl Stream {
    /// Lends the connection to an engine, for one exchange.
    pub(super) fn lend(self: Box<Self>) -> (Lent, Arc<Back>) {
        let back = Arc::new(Back::default());
        (Lent { connection: Some(self), back: Arc::clone(&back), answered: false }, back)
    }

    /// The connection that an engine's stream is, on loan or not.
    pub(super) fn beneath(stream: &dyn IO) -> Option<&Self> {
        let stream = stream.as_any();
        stream.downcast_ref::<Self>().or_else(|| stream.downcast_ref::<Lent>().map(Lent::shared))
    }
}

impl Back {
    /// The connection, if the engine has let go of it before it wrote a byte.
    pub(super) fn take(&self) -> Option<Box<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Lent {
    /// Ends the loan: the engine is done and the connection can be used again.
    pub(super) fn into_inner(mut self) -> Option<Box<Stream>> {
        self.connection.take()
    }

    fn inner(&mut self) -> &mut Stream {
        self.connection.as_mut().expect("a loan holds its connection until it ends")
    }

    fn shared(&self) -> &Stream {
        self.connection.as_ref().expect("a loan holds its connection until it ends")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.answered {
            *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) = self.connection.take();
        }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lent").field(&self.connection).finish()
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answered = true;
        Pin::new(this.inner()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answered = true;
        Pin::new(this.inner()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.shared().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.answered = true;
        Pin::new(this.inner()).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Lent {
    async fn shutdown(&mut self) {
        self.answered = true;
        Shutdown::shutdown(self.inner()).await;
    }
}

impl UniqueID for Lent {
    fn id(&self) -> UniqueIDType {
        self.shared().id()
    }
}

impl Ssl for Lent {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.shared().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.shared().selected_alpn_proto()
    }
}

impl GetTimingDigest for Lent {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.shared().get_timing_digest()
    }
}

impl GetProxyDigest for Lent {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.shared().get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, _digest: ProxyDigest) {}
}

impl GetSocketDigest for Lent {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.shared().get_socket_digest()
    }

    fn set_socket_digest(&mut self, _digest: SocketDigest) {}
}

impl Peek for Lent {}
