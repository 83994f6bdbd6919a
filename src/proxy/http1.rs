//! One HTTP/1 connection: head after head, each checked before any engine sees it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;

use super::upgrade;
use crate::ending::Stopping;
use crate::exchange::{Answer, Core, Entry, Exchange, RequestHead, marks_of_refusal};
use crate::filter::HeaderEdits;
use crate::http::framing::Body;
use crate::http::head::{self, Kind};
use crate::http::{Limits, Refusal};
use crate::listener::{Connection, HeadError, last_call};

/// A connection in the hands of an engine, which carries one exchange after the other on it.
pub(super) trait Carrier: Send + Sized {
    /// The connection, between two requests.
    fn connection(&mut self) -> &mut Connection;

    /// Whether the last request belonged to a session: then more of it will come, and when the gateway stops the
    /// connection is kept until the session has been told goodbye.
    fn is_of_session(&self) -> bool;

    /// Carries the exchange whose head has been read and checked. It comes back when its connection can be used again,
    /// which it can't once `stopping` is true.
    fn carry(self, head: BytesMut, body: Body, stopping: &Stopping) -> impl Future<Output = Option<Self>> + Send;

    /// Leaves the connection of a request that opens a WebSocket to others, with what the engine has begun of the exchange,
    /// if anything. `None` where a program's own hooks have answered.
    fn leave_upgrade(
        self,
        head: &BytesMut,
        stopping: &Stopping,
    ) -> impl Future<Output = Option<(Connection, Option<Box<Exchange>>)>> + Send;

    /// Leaves the connection to others.
    fn into_connection(self) -> Connection;
}

/// Serves the connection to its end, or until it becomes a tunnel.
pub(super) async fn serve(core: &Arc<Core>, mut carrier: impl Carrier, stopping: &Stopping) {
    let (mut stops, mut first_call) = (stopping.clone(), stopping.clone());
    let mut first = true;
    loop {
        let (timeouts, limits) = {
            let snapshot = core.snapshot.load();
            (snapshot.config.timeouts.clone(), snapshot.config.limits.clone())
        };
        let idle = (!first).then_some(timeouts.keep_alive);
        let most = usize::try_from(limits.head.as_u64()).unwrap_or(usize::MAX);
        let of_session = carrier.is_of_session();
        let connection = carrier.connection();
        let head = tokio::select! {
            biased;
            head = connection.read_head(idle, timeouts.head, most) => Some(head),
            // An idle connection ends at once, one that has not been used yet a moment later.
            () = idle_no_longer(core, &mut stops, of_session), if !first => None,
            () = last_call(&mut first_call), if first => None,
        };
        let head = match head {
            Some(head) => head,
            None if connection.held.is_empty() => return,
            // A head that has begun is finished first.
            None => connection.read_head(None, timeouts.head, most).await,
        };
        first = false;
        let mut head = match head {
            Ok(head) => head,
            Err(HeadError::Gone | HeadError::Idle) => return,
            Err(HeadError::Late) => return refuse(core, carrier.into_connection(), Refusal::HeadTimeout, None).await,
            Err(HeadError::TooLarge) => {
                return refuse(core, carrier.into_connection(), Refusal::HeadTooLarge, None).await;
            }
        };
        match kind(&mut head, &limits) {
            Ok(Kind::Exchange(body)) => {
                // Which answer is the last on a connection when the gateway leaves, the exchange says.
                let all_told = core.ending.is_leaving().then(|| core.ending.told());
                match carrier.carry(head, body, all_told.as_ref().unwrap_or(stopping)).await {
                    Some(reusable) => carrier = reusable,
                    None => return,
                }
            }
            Ok(Kind::Upgrade(opening)) => {
                if let Some((connection, begun)) = carrier.leave_upgrade(&head, stopping).await {
                    // Boxed: room for the fields of a head would be kept for as long as the connection is.
                    Box::pin(upgrade::serve(core, connection, head, opening, begun)).await;
                }
                return;
            }
            Err(refusal) => return refuse(core, carrier.into_connection(), refusal, Some(&head[..])).await,
        }
    }
}

/// Waits until a connection between two requests has to go: when its listener ends, or the gateway leaves. One that a
/// session uses stays until every session has been told goodbye: it has no other way to reach its server, unless another
/// process has taken over.
pub(super) async fn idle_no_longer(core: &Core, stopping: &mut Stopping, of_session: bool) {
    let _ = stopping.wait_for(|&stopping| stopping).await;
    if of_session && core.ending.is_leaving() {
        core.ending.nothing_to_stay_for().await;
    }
}

/// Checks a head, and brings it into the one form that engines and tunnels read.
fn kind(head: &mut BytesMut, limits: &Limits) -> Result<Kind, Refusal> {
    let mut fields = head::room();
    let parsed = head::parse(head, &mut fields, limits.headers)?;
    let kind = parsed.kind(limits.body.as_u64())?;
    if let Some(rewritten) = parsed.to_plain_form() {
        *head = rewritten;
    }
    Ok(kind)
}

/// Refuses what is no request yet: logs, answers and closes; in this order, since a client may be slow to take its leave.
pub(super) async fn refuse(core: &Core, connection: Connection, refusal: Refusal, head: Option<&[u8]>) {
    let mut entry = Entry::new(&connection.info, "HTTP/1.1", SystemTime::now(), Instant::now());
    entry.status = refusal.status();
    entry.closed_by = refusal.as_str();
    let mut edits = HeaderEdits::default();
    if let Some(head) = head {
        let mut fields = head::room();
        if let Ok(head) = head::parse(head, &mut fields, 0) {
            let request = RequestHead::from(&head);
            entry.request(&request, &core.snapshot.load().secrets);
            edits = marks_of_refusal(core, &connection.info, &request);
        }
    }
    let hsts = connection.info.hsts().map(|hsts| ("strict-transport-security", hsts.as_bytes().into()));
    let mut answer = Answer::refusing(refusal).edited(&edits);
    answer.fields.extend(hsts);
    entry.bytes_out = answer.body.len() as u64;
    core.metrics.refused(refusal.as_str());
    core.snapshot.load().local.answered(refusal.status());
    core.access_log.write(&entry.finish());
    let answer = answer.to_http1(true);
    connection.answer_and_close(&answer).await;
}
