//! The HTTP/1.1 server of the admin address: small limits and short times of its own, whatever the traffic is allowed.

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use bytes::BytesMut;
use log::debug;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::body::{Kept, pass_over};
use super::endpoints::{Answer, Endpoint, Found, Handler, Purpose, Request};
use super::guard::{self, Objection, Terms, Way};
use super::places::Place;
use super::{Admin, feed};
use crate::ending::Stopping;
use crate::http::Refusal;
use crate::http::answers::write_refusal;
use crate::http::framing::Body;
use crate::http::head::{self, Kind};
use crate::http::write::HeadWriter;
use crate::listener::{Connection, HeadError, last_call};
use crate::request::Headers;
use crate::text::Text;
use crate::transport::Socket;

/// How long a head may take, the first from when the connection was handed over.
const HEAD_TIME: Duration = Duration::from_secs(5);
const MOST_HEAD: usize = 8 * 1024;
/// How long a connection is kept between two requests; those who collect metrics seldom let more than a minute pass.
const IDLE_TIME: Duration = Duration::from_secs(75);
/// How long a client may take to read an answer.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Serves a connection to its end, or until somebody else needs its place more.
pub(super) async fn serve(admin: &Arc<Admin>, connection: Connection, stopping: &Stopping) {
    let Some(place) = admin.places.take() else { return };
    tokio::select! {
        biased;
        () = place.lost() => {}
        () = converse(admin, connection, &place, stopping) => {}
    }
}

async fn converse(admin: &Arc<Admin>, mut connection: Connection, place: &Place<'_>, stopping: &Stopping) {
    connection.deadline.set(HEAD_TIME);
    let mut idle = None;
    while let Some(head) = next_head(&mut connection, idle, stopping).await {
        let way = Way {
            over_unix: matches!(connection.transport.socket(), Socket::Unix(_)),
            certified: connection.info.tls.as_ref().is_some_and(|tls| tls.client.is_some()),
        };
        let asked = head.and_then(|head| Asked::read(&head, admin, way));
        let asked = match asked {
            Ok(asked) => asked,
            Err(refusal) => return connection.answer_and_close(&write_refusal(refusal)).await,
        };
        let bodiless = asked.bodiless;
        let is_feed =
            !bodiless && asked.found.as_ref().is_ok_and(|found| matches!(found.operation.handler, Handler::Feed));
        let mut reply = respond(admin, &mut connection, asked, place).await;
        reply.last |= *stopping.borrow() || admin.core.ending.is_handed_over();
        let written = reply.answer.write(bodiless, reply.last);
        if !matches!(timeout(ANSWER_TIME, send(&mut connection, &written)).await, Ok(Ok(()))) {
            return;
        }
        if is_feed && reply.answer.status == StatusCode::OK {
            place.wait();
            return feed::follow(admin, connection, stopping).await;
        }
        if reply.last {
            return connection.close().await;
        }
        place.wait();
        idle = Some(IDLE_TIME);
    }
}

/// The next head; `None` when none comes.
async fn next_head(
    connection: &mut Connection,
    idle: Option<Duration>,
    stopping: &Stopping,
) -> Option<Result<BytesMut, Refusal>> {
    let mut stopping = stopping.clone();
    // An idle connection ends at once, one that has not been used yet a moment later.
    let over = async {
        match idle {
            Some(_) => drop(stopping.wait_for(|&stopping| stopping).await),
            None => last_call(&mut stopping).await,
        }
    };
    let head = tokio::select! {
        biased;
        head = connection.read_head(idle, HEAD_TIME, MOST_HEAD) => Some(head),
        () = over => None,
    };
    let head = match head {
        Some(head) => head,
        None if connection.held.is_empty() => return None,
        // A head that has begun is finished first.
        None => connection.read_head(None, HEAD_TIME, MOST_HEAD).await,
    };
    match head {
        Ok(head) => Some(Ok(head)),
        Err(HeadError::Gone | HeadError::Idle) => None,
        Err(HeadError::Late) => Some(Err(Refusal::HeadTimeout)),
        Err(HeadError::TooLarge) => Some(Err(Refusal::HeadTooLarge)),
    }
}

/// What a head asks for.
struct Asked {
    /// Of whom; or the answer, where nobody has to be asked.
    found: Result<Found, Answer>,
    method: String,
    query: String,
    framing: Body,
    /// Whether the client waits for a word before it sends the body (RFC 9110 10.1.1).
    holds_body: bool,
    /// Whether the answer has a head and nothing else.
    bodiless: bool,
    /// Whether no other request will follow.
    last: bool,
}

impl Asked {
    fn read(bytes: &BytesMut, admin: &Admin, way: Way) -> Result<Self, Refusal> {
        let mut fields = head::room();
        let head = head::parse(bytes, &mut fields, 0)?;
        let framing = match head.kind(0)? {
            Kind::Exchange(body) => body,
            Kind::Upgrade(_) => Body::None,
        };
        let headers = Headers::Fields(head.fields);
        let (path, query) = head.path_and_query().split_once('?').unwrap_or((head.path_and_query(), ""));
        let objection = objection(admin, &head, Endpoint::purpose(path), way);
        let refused = |Objection { status, told }: Objection| {
            debug!("admin: {} {path}: {}", head.method, told.trim_end());
            let answer = Answer::text(told).with_status(status);
            if status == StatusCode::UNAUTHORIZED { answer.with("www-authenticate", "Bearer") } else { answer }
        };
        Ok(Self {
            found: objection.map_or_else(|| Endpoint::find(head.method, path), |objection| Err(refused(objection))),
            method: head.method.to_owned(),
            query: query.to_owned(),
            framing,
            holds_body: head.minor_version == 1 && headers.lists("expect", "100-continue"),
            bodiless: head.method == "HEAD",
            last: head.minor_version == 0 || headers.lists("connection", "close"),
        })
    }
}

fn objection(admin: &Admin, head: &head::Head<'_>, purpose: Purpose, way: Way) -> Option<Objection> {
    let snapshot = admin.core.snapshot.load();
    let said = snapshot.config.admin.as_ref();
    let terms = Terms {
        hosts: said.map_or(&[][..], |admin| &admin.hosts),
        tokens: &snapshot.admin_tokens,
        certificates: said.and_then(|admin| admin.tls.as_ref()).is_some_and(|tls| tls.client_certificates.is_some()),
    };
    guard::objection(head, purpose, &terms, way)
}

/// An answer, and what follows it.
struct Reply {
    answer: Answer,
    last: bool,
}

/// Reads what the request brings and answers it. Its place is at work only while the gateway is: those who send or read
/// slowly can be made to go.
async fn respond(admin: &Arc<Admin>, connection: &mut Connection, asked: Asked, place: &Place<'_>) -> Reply {
    let has_body = asked.framing != Body::None;
    let refused = |answer| Reply { answer, last: true };
    let Found { operation, purpose, parts } = match asked.found {
        Ok(found) => found,
        // What it would have sent is not looked at.
        Err(answer) => return Reply { answer, last: asked.last || has_body },
    };
    if has_body && asked.holds_body && connection.held.is_empty() {
        // A client that is gone is noticed by whoever reads the body.
        let _ = timeout(ANSWER_TIME, send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")).await;
    }
    let mut request = Request { method: asked.method, query: asked.query, body: Vec::new(), parts };
    let mut kept = None;
    let read = if operation.takes.is_some() {
        Kept::read(connection, asked.framing, &admin.bodies).await.map(|body| kept = Some(body))
    } else {
        pass_over(connection, asked.framing).await
    };
    if let Err(fault) = read {
        return refused(fault);
    }
    let _at_work = match purpose {
        Purpose::Probe => None,
        Purpose::Page | Purpose::Operation => match place.work() {
            Some(at_work) => Some(at_work),
            None => {
                let answer = Answer::text("too many requests at once\n");
                return refused(answer.with_status(StatusCode::SERVICE_UNAVAILABLE));
            }
        },
    };
    if let Some(body) = &mut kept {
        request.body = std::mem::take(&mut body.bytes);
    }
    let answer = match operation.handler {
        Handler::AtOnce(handler) => handler(admin, &request),
        Handler::Waiting(handler) => handler(Arc::clone(admin), request).await,
        Handler::Feed => feed::begin(admin),
    };
    Reply { answer, last: asked.last }
}

pub(super) async fn send(connection: &mut Connection, bytes: &[u8]) -> std::io::Result<()> {
    connection.transport.write_all(bytes).await?;
    connection.transport.flush().await
}

impl Answer {
    fn write(&self, bodiless: bool, last: bool) -> Vec<u8> {
        let mut head = HeadWriter::answer(self.status.as_u16());
        head.field("content-type", self.content_type);
        head.field("cache-control", "no-store");
        for (name, value) in &self.fields {
            head.field(name, value.as_bytes());
        }
        if self.is_endless() {
            head.field("connection", "close");
            return head.end();
        }
        head.field("content-length", Text::number(self.body.len() as u64).as_bytes());
        if last {
            head.field("connection", "close");
        }
        if bodiless { head.end() } else { head.end_with(&self.body) }
    }
}
