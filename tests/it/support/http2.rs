//! An HTTP/2 client.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::task::JoinHandle;

use super::client::Stream;
use super::within;

/// One connection.
pub struct Http2 {
    streams: SendRequest<Bytes>,
    running: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// Speaks HTTP/2 at once: by prior knowledge, or because ALPN has agreed on it.
    pub async fn over(stream: impl Stream + 'static) -> Self {
        let (streams, connection) = within("the preface", h2::client::handshake(stream)).await.unwrap();
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
