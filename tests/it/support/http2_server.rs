//! Servers of HTTP/2, behind the gateway.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};

use super::client::Stream;
use super::http2::read;
use super::{Client, Scripted};

/// A connection from the gateway.
pub type FromGateway = Connection<Box<dyn Stream>, Bytes>;
/// A request, and the way to answer it.
pub type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// Agrees on HTTP/2; `None` where the other side doesn't.
pub async fn agree(client: Client, builder: &Builder) -> Option<FromGateway> {
    builder.handshake(client.into_stream()).await.ok()
}

/// A server that serves each stream in this way; it is told the number of its connection, from 0.
pub async fn serving<F>(builder: Builder, serve: impl Fn(Asked, usize) -> F + Send + Sync + 'static) -> Scripted
where
    F: Future<Output = ()> + Send + 'static,
{
    let serve = Arc::new(serve);
    Scripted::start(move |client, number| {
        let (builder, serve) = (builder.clone(), Arc::clone(&serve));
        async move {
            if let Some(connection) = agree(client, &builder).await {
                each(connection, |asked| serve(asked, number)).await;
            }
        }
    })
    .await
}

/// Serves the streams of a connection until it ends.
pub async fn each<F>(mut connection: FromGateway, serve: impl Fn(Asked) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok(asked)) = connection.accept().await {
        streams.spawn(serve(asked));
    }
}

/// Answers with this body.
pub fn answer(mut respond: SendResponse<Bytes>, body: impl Into<Bytes>) {
    let body = body.into();
    // The gateway may have gone.
    if let Ok(mut sending) = respond.send_response(Response::new(()), body.is_empty())
        && !body.is_empty()
    {
        let _ = sending.send_data(body, true);
    }
}

/// Begins an answer that goes on.
pub fn begin(mut respond: SendResponse<Bytes>) -> SendStream<Bytes> {
    respond.send_response(Response::new(()), false).unwrap()
}

/// Answers with what was asked: the first line, the fields, the body, and the trailers.
pub async fn echo((request, respond): Asked) {
    let (head, mut body) = request.into_parts();
    let mut seen = format!("{} {}\n", head.method, head.uri);
    let mut add = |fields: &HeaderMap| {
        for (name, value) in fields {
            seen += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        }
    };
    add(&head.headers);
    let mut came = Vec::new();
    while let Some(part) = body.data().await {
        let Ok(part) = part else { return };
        let _ = body.flow_control().release_capacity(part.len());
        came.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.ok().flatten();
    trailers.iter().for_each(&mut add);
    seen += &format!("\n{}", String::from_utf8_lossy(&came));
    answer(respond, if head.method == Method::HEAD { String::new() } else { seen });
}

/// The whole body of a request.
pub async fn body(request: Request<RecvStream>) -> Vec<u8> {
    read(request.into_body()).await.unwrap_or_default()
}
