//! An HTTP/2 client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

use super::client::{Client, Stream};
use super::within;

/// One connection.
pub struct Http2 {
    streams: SendRequest<Bytes>,
    running: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// Speaks HTTP/2 at once: by prior knowledge, or because ALPN has agreed on it.
    pub async fn over(stream: impl Stream + 'static) -> Self {
        Self::with_window(stream, 65_535).await
    }

    /// The same, with room for so many bytes in all.
    pub async fn with_window(stream: impl Stream + 'static, bytes: u32) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(bytes);
        let (streams, connection) = within("the preface", builder.handshake(stream)).await.unwrap();
        Self { streams, running: tokio::spawn(connection) }
    }

    /// Begins a request whose body, or what comes in place of one, is still to be sent.
    pub async fn open(&self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        self.start(request, false).await
    }

    async fn start(&self, request: Request<()>, whole: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut streams = within("room for a stream", self.streams.clone().ready()).await.unwrap();
        streams.send_request(request, whole).unwrap()
    }

    /// Begins a request; the answer may be awaited later, or never.
    pub async fn begin(&self, request: Request<()>, body: impl Into<Bytes>) -> ResponseFuture {
        let body = body.into();
        let (answer, mut sending) = self.start(request, body.is_empty()).await;
        if !body.is_empty() {
            sending.send_data(body, true).unwrap();
        }
        answer
    }

    /// A request and its whole answer.
    pub async fn ask(&self, request: Request<()>, body: impl Into<Bytes>) -> Response<Vec<u8>> {
        whole(self.begin(request, body).await).await
    }

    pub async fn get(&self, url: &str) -> Response<Vec<u8>> {
        self.ask(Request::get(url).body(()).unwrap(), "").await
    }

    /// Whether the server takes WebSockets over HTTP/2 (RFC 8441); known once it has answered something.
    pub fn takes_websockets(&self) -> bool {
        self.streams.is_extended_connect_protocol_enabled()
    }

    /// Opens a WebSocket.
    pub async fn websocket(&self, request: Request<()>) -> Client {
        let (answer, sending) = self.open(request).await;
        let (head, body) = within("the answer to an opening", answer).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        Self::both_ways(sending, body)
    }

    /// A stream as bytes both ways.
    pub fn both_ways(sending: SendStream<Bytes>, body: RecvStream) -> Client {
        Client::over(BothWays { sending, body, unread: Bytes::new() })
    }

    /// Waits until the server has closed the connection; an error unless it did so properly.
    pub async fn closed(self) -> Result<(), h2::Error> {
        within("the end of the connection", self.running).await.unwrap()
    }
}

/// The head and the whole body of an answer.
pub async fn whole(answer: ResponseFuture) -> Response<Vec<u8>> {
    let (head, body) = within("the head of an answer", answer).await.unwrap().into_parts();
    Response::from_parts(head, read(body).await.unwrap())
}

/// A body to its end, or what broke it.
pub async fn read(mut stream: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = within("the body of an answer", stream.data()).await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A stream that carries a WebSocket.
struct BothWays {
    sending: SendStream<Bytes>,
    body: RecvStream,
    unread: Bytes,
}

impl AsyncRead for BothWays {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.body.poll_data(cx)) {
                Some(data) => self.unread = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let step = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..step]);
        self.unread.advance(step);
        Poll::Ready(self.body.flow_control().release_capacity(step).map_err(io::Error::other))
    }
}

impl AsyncWrite for BothWays {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.sending.reserve_capacity(buf.len());
        let mut room = self.sending.capacity();
        while room == 0 {
            let more = ready!(self.sending.poll_capacity(cx));
            room = more.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)?;
        }
        let part = Bytes::copy_from_slice(&buf[..room.min(buf.len())]);
        let written = part.len();
        Poll::Ready(self.sending.send_data(part, false).map(|()| written).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sending.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
