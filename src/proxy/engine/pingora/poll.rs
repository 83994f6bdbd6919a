//! A long poll of a session, which the gateway can end politely while the server still thinks: when the session's turn
//! to leave has come, the client gets a goodbye as its answer, and opens a new session by itself.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::loan::Lent;
use super::stream::Stream;
use crate::exchange::{Core, Ended, Exchange, RequestHead};
use crate::http::head;

/// Serves a request that may be a poll with an engine that takes a connection on loan, and gives it back when it can be
/// used again.
pub(super) async fn serve<F>(
    core: &Core,
    engine: impl FnOnce(Lent, BytesMut) -> F,
    stream: Box<Stream>,
    head: BytesMut,
) -> Option<Box<Stream>>
where
    F: Future<Output = Option<Lent>>,
{
    let mailbox = Arc::clone(&stream.mailbox);
    let kept = head.clone();
    let (lent, back) = stream.lend();
    let served = {
        let mut serving = pin!(engine(lent, head));
        let mut all_told = core.ending.told();
        let mut all_told = pin!(async move {
            let _ = all_told.wait_for(|&told| told).await;
        });
        poll_fn(|cx| {
            if let Poll::Ready(served) = serving.as_mut().poll(cx) {
                return Poll::Ready(Some(served));
            }
            // In this order: the hooks announce the poll while the engine is polled, and both wake the same task.
            ready!(mailbox.poll_told(cx));
            if core.ending.is_handed_over() {
                // With its next poll the session is at the new process: one that is answered in time needs no goodbye.
                ready!(all_told.as_mut().poll(cx));
            }
            Poll::Ready(None)
        })
        .await
    };
    mailbox.withdraw();
    if let Some(reusable) = served {
        return reusable?.into_inner();
    }
    // The engine has been dropped, and with it the request to the server; what it had begun is in the mailbox.
    let (exchange, mut stream) = (mailbox.take()?, back.take()?);
    let (answer, last) = goodbye(core, exchange, &kept)?;
    stream.write_all(&answer).await.ok()?;
    // What is written first might wait for more of the same answer.
    stream.flush().await.ok()?;
    if last {
        stream.connection.close().await;
        return None;
    }
    Some(stream)
}

/// The goodbye as HTTP/1.1, and whether it is the last answer on its connection. Apart, since room for the fields of a head
/// would be kept for as long as a poll waits.
fn goodbye(core: &Core, mut exchange: Box<Exchange>, head: &BytesMut) -> Option<(Vec<u8>, bool)> {
    let mut fields = head::room();
    let parsed = head::parse(head, &mut fields, 0).ok()?;
    let request = RequestHead::from(&parsed);
    // Where the gateway leaves, too, the next session has to begin on another one.
    let last = core.ending.is_leaving() || !parsed.is_kept_alive();
    exchange.goodbye(core, &request);
    let answer = exchange.own_answer(&request)?;
    let (status, bytes_out, answer) = (answer.status, answer.body.len() as u64, answer.to_http1(last));
    exchange.end(core, Ended { protocol: "HTTP/1.1", status, bytes_out, cut_by: None }, || request);
    Some((answer, last))
}
