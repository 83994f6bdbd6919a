//! The Model Context Protocol as a protocol of sessions: Streamable HTTP in the revisions that have sessions (2025-03-26 to
//! 2025-11-25), and the older HTTP with server-sent events (2024-11-05). Later revisions have no sessions, and their requests
//! go to any server.

use std::borrow::Cow;
use std::time::Duration;

use super::protocol::{
    Answered, Arrival, Departure, ENDS_OF_EVENTS, Goodbye, Known, LastWords, NewSession, Question, Reader,
    SessionProtocol, SessionRequest,
};
use crate::request::{Headers, Request};
use crate::wire::events::{FirstEvent, Progress};
use crate::wire::mcp::{id_of_endpoint, is_id};

/// Sessions of the Model Context Protocol.
///
/// A server opens one with its answer to `initialize`, which names it in `Mcp-Session-Id`; from then on each request has
/// that field. In the older transport a session is one stream of events, the first of which says where to post, and the
/// session is a parameter there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mcp;

const SESSION: &str = "mcp-session-id";
/// Only requests of revisions without sessions have this field.
const METHOD: &str = "mcp-method";
const VERSION: &str = "mcp-protocol-version";
/// The first of those revisions; they are dates.
const WITHOUT_SESSIONS: &[u8] = b"2026-07-28";

/// After which servers give up a session that nobody uses: what the Python SDK and the examples of the TypeScript SDK do.
const HALF_AN_HOUR: Duration = Duration::from_secs(30 * 60);

/// What a request is, as its answer has to know.
const OPENS: u64 = 1;
const EVENTS: u64 = 1 << 1;
const DELETES: u64 = 1 << 2;
const OLDER: u64 = 1 << 3;

impl SessionProtocol for Mcp {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let nothing = SessionRequest::default();
        if request.method == "OPTIONS" || is_without_sessions(request.headers) {
            return nothing;
        }
        let mut ids = request.headers.all(SESSION);
        if let Some(first) = ids.next() {
            let is_ambiguous = ids.any(|other| other != first);
            let Some(id) = std::str::from_utf8(first).ok().filter(|id| is_id(id)) else {
                // No server has made that up.
                return SessionRequest { is_ambiguous, ..nothing };
            };
            let (streams, deletes) = (request.method == "GET", request.method == "DELETE");
            let dialect = if deletes { DELETES } else { 0 };
            let transport = Some("streamable_http");
            return SessionRequest { id: Some(id), is_ambiguous, streams, transport, dialect, ..nothing };
        }
        let of_query = request.query.and_then(id_of_endpoint);
        match (request.method, of_query) {
            ("POST", Some(id)) => SessionRequest { id: Some(id), transport: Some("sse"), dialect: OLDER, ..nothing },
            ("POST", None) => SessionRequest { opens: true, dialect: OPENS, ..nothing },
            ("GET", _) if request.headers.lists("accept", "text/event-stream") => SessionRequest {
                opens: true,
                reads_answer: true,
                streams: true,
                transport: Some("sse"),
                dialect: OPENS | EVENTS,
                ..nothing
            },
            _ => nothing,
        }
    }

    fn answered(&self, dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
        let is_good = (200..=299).contains(&status);
        match dialect {
            // Its stream is gone, which has most likely come through another gateway.
            OLDER if status == 404 => Answered::Refused { code: None, unknown: true },
            DELETES if is_good => Answered::Ended,
            // Who asks for a session gets 404 where it is unknown, and 400 for much else.
            DELETES | 0 if status == 404 => Answered::Refused { code: None, unknown: true },
            _ if dialect & OPENS == 0 || !is_good => Answered::Nothing,
            // Servers put a fresh id on refusals, too; that one is dead.
            _ => match headers.get(SESSION).and_then(|id| std::str::from_utf8(id).ok()).filter(|id| is_id(id)) {
                Some(id) => Answered::Opened(NewSession::new(id, HALF_AN_HOUR)),
                None if dialect & EVENTS != 0 && is_event_stream(headers) => {
                    Answered::Body(Box::new(Endpoint::default()))
                }
                None => Answered::Nothing,
            },
        }
    }

    /// It has none.
    fn arrival(&self, _dialect: u64) -> Arrival {
        Arrival::Never
    }

    fn unseen_life(&self) -> Duration {
        HALF_AN_HOUR
    }

    /// A note that the client no longer waits for an answer that it has never asked for, which servers have to pass over: who
    /// knows the session takes it (202), who does not refuses the session.
    fn question(&self, dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        const CANCELLED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"sockgate-asks-whether-you-know-this-session"}}"#;
        let path = &*request.path.canonical;
        let of_query = request.query.and_then(id_of_endpoint).filter(|_| dialect == OLDER);
        let target = match (request.query, of_query) {
            // Its own id may stand anywhere in the query, and nowhere else.
            (Some(query), Some(own)) => format!("{path}?{}", with_id(query, own, id)),
            (Some(query), None) => format!("{path}?{query}"),
            (None, _) => path.to_owned(),
        };
        let question = Question::post(target, "application/json", CANCELLED)
            .with("accept", "application/json, text/event-stream")
            .with_those_of(request, &[VERSION, "authorization", "cookie", "origin"]);
        Some(if dialect == OLDER { question } else { question.with(SESSION, id) })
    }

    /// Servers with a store of sessions take an unknown one up when they are asked.
    fn asks_one_by_one(&self) -> bool {
        true
    }

    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, _body: &[u8]) -> Known {
        match status {
            202 => Known::Yes,
            400 | 404 => Known::No,
            _ => Known::Untold,
        }
    }

    /// Clients open no session by themselves when their stream ends, but the stream anew.
    fn departure(&self) -> Departure {
        Departure::AtDeadline
    }

    /// The session is not served any more by then: else its client would only ask for the stream anew. What answers a call is
    /// never ended.
    fn last_words(&self, _dialect: u64) -> Option<LastWords> {
        Some(LastWords { words: Cow::Borrowed(b""), behind: ENDS_OF_EVENTS })
    }

    fn over(&self, _dialect: u64) -> Option<Goodbye> {
        const NOT_FOUND: &[u8] =
            br#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#;
        Some(Goodbye { status: 404, content_type: "application/json", body: Cow::Borrowed(NOT_FOUND) })
    }
}

fn is_without_sessions(headers: Headers<'_>) -> bool {
    headers.get(METHOD).is_some() || headers.get(VERSION).is_some_and(|version| version >= WITHOUT_SESSIONS)
}

fn is_event_stream(headers: Headers<'_>) -> bool {
    let media = headers.get("content-type").and_then(|said| said.split(|&byte| byte == b';').next());
    media.is_some_and(|media| media.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// The query with another session.
fn with_id(query: &str, own: &str, id: &str) -> String {
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if value == own => format!("{name}={id}"),
        _ => pair.to_owned(),
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// Reads the first event of a stream, which says where the session is posted to.
#[derive(Default)]
struct Endpoint(FirstEvent);

impl Reader for Endpoint {
    fn read(&mut self, bytes: &[u8], _is_end: bool) -> Option<Answered> {
        match self.0.push(bytes) {
            Progress::NeedMore => None,
            Progress::Event { name, data } if name == "endpoint" => {
                let id = data.split_once('?').and_then(|(_, query)| id_of_endpoint(query));
                Some(id.map_or(Answered::Nothing, |id| {
                    let session = NewSession::new(id, HALF_AN_HOUR);
                    Answered::Opened(NewSession { ends_with_answer: true, ..session })
                }))
            }
            Progress::Event { .. } | Progress::NotOne => Some(Answered::Nothing),
        }
    }
}

#[cfg(test)]
mod tests;
