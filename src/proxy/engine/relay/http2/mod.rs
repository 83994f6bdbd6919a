//! HTTP/2 in front of the relay: the `h2` crate speaks it, each stream is an exchange, and servers are asked by HTTP/1.1 or by HTTP/2.

mod across;
mod carry;
mod duplex;
mod io;
mod line;
mod request;
mod stream;
mod websocket;

use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use h2::server::Builder;
use h2::{Reason, SendStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use self::io::Io;
use self::stream::Client;
use super::Relay;
use crate::ending::Stopping;
use crate::listener::Connection;
use crate::proxy::engine::{FRAMES_BUDGET, Http2Engine};
use crate::proxy::tunnel::Serving;

/// The front, with the relay behind it.
pub(crate) struct Http2(Arc<Relay>);

/// An answer that ends before its end, and the reason to tell. A reset overtakes what is still to be written, so this goes by
/// way of whoever writes.
type Cut = (SendStream<Bytes>, Reason);

/// A stream that is served.
type Serves = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Streams that a client may have open at once.
const STREAMS: u32 = 128;
/// Bytes of a request's body that may come before its server has taken the ones before.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same over all streams of a connection.
const CONNECTION_WINDOW: u32 = 320 * 1024;
/// Bytes of an answer that wait for the client, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of a head that are taken before it is refused, whatever the limit.
const LEAST_HEAD: u32 = 64 * 1024;
/// Where idle connections have no end.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Http2 {
    /// Serves streams as `relay` serves requests of HTTP/1, over the connections to servers that it keeps.
    pub(crate) fn new(relay: Arc<Relay>) -> Self {
        Self(relay)
    }
}

#[async_trait]
impl Http2Engine for Http2 {
    fn serve_http2(self: Arc<Self>, connection: Connection, stopping: Stopping) -> BoxFuture<'static, ()> {
        Box::pin(async move { serve(&self.0, connection, &stopping).await })
    }

    async fn stop(&self) {
        self.0.let_go();
    }
}

async fn serve(relay: &Arc<Relay>, connection: Connection, stopping: &Stopping) {
    let core = &relay.core;
    let (timeouts, limits) = {
        let snapshot = core.snapshot.load();
        (snapshot.config.timeouts.clone(), snapshot.config.limits.clone())
    };
    let or_ever = |time: Duration| if time.is_zero() { FOR_EVER } else { time };
    let info = Arc::clone(&connection.info);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(FRAMES_BUDGET)
        // The crate answers 431 beyond that, without a line in the log: what is not far beyond gets one here.
        .max_header_list_size(
            u32::try_from(limits.head.as_u64().saturating_mul(2)).unwrap_or(u32::MAX).max(LEAST_HEAD),
        );
    let io = Io::new(connection, timeouts.write);
    if info.http2_websockets {
        builder.enable_connect_protocol();
    }
    let line = io.line();
    let handshake = builder.handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = timeout(or_ever(timeouts.head), handshake).await else { return };
    // In this task: what they have for the client at one time leaves in one write, and no thread waits for another.
    let mut streams = FuturesUnordered::new();
    let mut stopping = stopping.clone();
    // Once it is true the client opens no more streams, and the connection ends with its last one.
    let mut leaving = false;
    let idle = line.timer();
    idle.set(timeouts.keep_alive);
    let (cut, mut cuts) = unbounded_channel::<Cut>();
    let mut due: Vec<Cut> = Vec::new();
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let client = Client::new(respond, Arc::clone(&line));
                    let info = Arc::clone(&info);
                    let serving: Serves = if info.http2_websockets && websocket::is_opening(&request) {
                        let opening = websocket::open(Arc::clone(core), info, request, client);
                        Box::pin(core.metrics.contain(Serving::new(opening)))
                    } else {
                        let serving = stream::serve(Arc::clone(relay), info, request, client, cut.clone());
                        Box::pin(core.metrics.contain(serving))
                    };
                    streams.push(serving);
                }
                Some(Err(error)) => {
                    log::debug!("{}: HTTP/2: {error}", info.peer);
                    break;
                }
                None => break,
            },
            // What was there before the cut has just been written.
            () = ready(()), if !due.is_empty() => due.drain(..).for_each(|(mut stream, reason)| stream.send_reset(reason)),
            Some(stream) = cuts.recv() => due.push(stream),
            () = poll_fn(|cx| poll_all(&mut streams, cx)), if !streams.is_empty() => {
                if streams.is_empty() {
                    idle.set(timeouts.keep_alive);
                }
            }
            _ = stopping.wait_for(|&stopping| stopping), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
            () = idle.expired(), if streams.is_empty() && !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
        }
    }
    drop(connection);
    // They find out by themselves that nobody listens, and leave their lines in the log.
    while streams.next().await.is_some() {}
}

/// Lets every stream go on that can; ready when some have come to their end.
fn poll_all<F: Future>(streams: &mut FuturesUnordered<F>, cx: &mut Context<'_>) -> Poll<()> {
    let before = streams.len();
    while let Poll::Ready(Some(_)) = streams.poll_next_unpin(cx) {}
    if streams.len() < before { Poll::Ready(()) } else { Poll::Pending }
}
