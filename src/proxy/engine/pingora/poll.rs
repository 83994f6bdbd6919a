//! A long poll of a session, which the gateway can end politely while the server still thinks: when the session's turn
//! to leave has come, the client gets an Engine.IO close packet as its answer, and opens a new session by itself.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::loan::Lent;
use super::stream::Stream;
use crate::drain::Why;
use crate::http::head;
use crate::proxy::Core;
use crate::proxy::line::Line;
use crate::proxy::pending::Farewell;
use crate::session::Key;

/// Whether a request may be a poll of a session, by its head alone; what it really is, the engine's hooks find out.
pub(super) fn may_be_one(head: &BytesMut) -> bool {
    let Some(rest) = head.strip_prefix(b"GET ") else { return false };
    let rest = &rest[..rest.len().min(MOST_TARGET)];
    let target = rest.iter().position(|&byte| byte == b' ').map_or(rest, |end| &rest[..end]);
    target.windows(4).any(|window| matches!(window, b"sid=" | b"/1/x" | b"/1/j"))
}

/// How much of a target is looked at.
const MOST_TARGET: usize = 512;

/// Serves a request that may be a poll with an engine that takes a connection on loan, and gives it back when it can be
/// used again.
pub(super) async fn serve<F>(
    core: &Core,
    engine: impl FnOnce(Lent, BytesMut) -> F,
    connection: Box<Stream>,
    head: BytesMut,
) -> Option<Box<Stream>>
where
    F: Future<Output = Option<Lent>>,
{
    let (began, started) = (SystemTime::now(), Instant::now());
    let carried = Arc::clone(&connection.carried);
    let kept = head.clone();
    let (lent, back) = connection.lend();
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
            ready!(carried.pending.poll_told(cx));
            if core.ending.is_handed_over() {
                // With its next poll the session is at the new process: one that is answered in time needs no goodbye.
                ready!(all_told.as_mut().poll(cx));
            }
            Poll::Ready(None)
        })
        .await
    };
    match served {
        Some(reusable) => reusable?.into_inner(),
        None => {
            // The engine has been dropped, and with it the request to the server.
            let farewell = carried.pending.take()?;
            let connection = back.take()?;
            let Farewell { leave, session, body, jsonp, upstream, server, said } = farewell;
            let leaving = core.ending.is_leaving();
            let why = if leaving { "stopped" } else { leave.why().unwrap_or(Why::Drain).word() };
            let mut line = Line::new(&carried, "HTTP/1.1", began, started);
            line.status = 200;
            line.closed_by = why;
            line.bytes_out = body.len() as u64;
            line.upstream = Some(upstream);
            line.server = Some(server);
            let origin = describe(&kept, session, &mut line);
            core.access_log.write(line.finish());
            said(why);
            drop(leave);
            // Where the gateway leaves, too, the next session has to begin on another one.
            say(connection, &body, jsonp, origin.as_deref(), leaving).await.filter(|_| !leaving)
        }
    }
}

/// Fills in what was asked; gives the origin of a request from another site.
fn describe(head: &BytesMut, session: Key, line: &mut Line) -> Option<String> {
    let mut fields = head::room();
    let parsed = head::parse(head, &mut fields, 0).ok()?;
    let asked = parsed.asked();
    line.asked(&asked);
    let (path, query) = asked.path_and_query();
    line.engine_io(path, query, |_| session);
    let origin = parsed.fields.iter().find(|field| field.name.eq_ignore_ascii_case("origin"))?;
    std::str::from_utf8(origin.value).ok().map(str::to_owned)
}

/// Writes the close packet as the answer to the poll.
async fn say(
    mut connection: Box<Stream>,
    body: &[u8],
    jsonp: bool,
    origin: Option<&str>,
    last: bool,
) -> Option<Box<Stream>> {
    let kind = if jsonp { "text/javascript; charset=UTF-8" } else { "text/plain; charset=UTF-8" };
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
        body.len()
    );
    if let Some(origin) = origin {
        // A page of another site may not read an answer that does not allow it, and would take it for a failure.
        answer.push_str(&format!(
            "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\nVary: Origin\r\n"
        ));
    }
    if last {
        answer.push_str("Connection: close\r\n");
    }
    answer.push_str("\r\n");
    connection.write_all(&[answer.as_bytes(), body].concat()).await.ok()?;
    // What is written first might wait for more of the same answer.
    connection.flush().await.ok().map(|()| connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::engine_io::{RequestInfo, Transport};

    #[test]
    fn every_poll_is_guessed_to_be_one() {
        for (path, query) in [
            ("/socket.io/", Some("EIO=4&transport=polling&sid=abc")),
            ("/socket.io/", Some("sid=abc&EIO=3&transport=polling&j=0")),
            ("/socket.io/1/xhr-polling/abc", Some("t=1")),
            ("/socket.io/1/jsonp-polling/abc", Some("t=1&i=0")),
        ] {
            let info = RequestInfo::read(path, query);
            assert!(info.sid.is_some() && info.transport.is_some_and(Transport::is_polling), "{path}");
            let target = query.map_or(path.to_owned(), |query| format!("{path}?{query}"));
            assert!(may_be_one(&BytesMut::from(format!("GET {target} HTTP/1.1\r\n\r\n").as_str())), "{target}");
        }
        assert!(!may_be_one(&BytesMut::from("GET / HTTP/1.1\r\nHost: a\r\n\r\n")));
        assert!(!may_be_one(&BytesMut::from("POST /socket.io/?sid=a&transport=polling HTTP/1.1\r\n\r\n")));
    }
}
