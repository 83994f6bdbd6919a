//! SignalR of ASP.NET Core as a protocol of sessions: a connection is negotiated with one server, and its transport has to meet that.

use std::borrow::Cow;
use std::time::Duration;

use super::protocol::{
    Answered, Arrival, ENDS_OF_EVENTS, Goodbye, Known, LastWords, NewSession, Question, Reader, SessionProtocol,
    SessionRequest,
};
use crate::request::{Headers, Request};
use crate::wire::signalr::{Negotiated, NegotiationReader, Progress, hub, ids, is_id, with_id};

/// Sessions of SignalR, which are called connections there.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignalR;

/// How long one may be silent: servers answer a poll after 90 s at the latest, and give a connection up 15 s after that. WebSockets
/// and streams of events end with their connection, and are not counted.
const SILENCE: Duration = Duration::from_secs(120);

/// What a request is, as its answer has to know.
const NEGOTIATES: u64 = 1;
const WEBSOCKET: u64 = 2;
const EVENTS: u64 = 3;
const POLL: u64 = 4;
const SEND: u64 = 5;
const DELETES: u64 = 6;

impl SessionProtocol for SignalR {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let nothing = SessionRequest::default();
        let path = &*request.path.canonical;
        let mut named = request.query.into_iter().flat_map(ids);
        let Some(id) = named.next() else {
            let negotiates = request.method == "POST" && hub(path).len() < path.len() && path.contains("/negotiate");
            return if negotiates {
                SessionRequest { opens: true, reads_answer: true, dialect: NEGOTIATES, ..nothing }
            } else {
                nothing
            };
        };
        if !is_id(id) {
            // No server has made that up.
            return nothing;
        }
        let is_ambiguous = named.any(|other| other != id);
        let said = SessionRequest { id: Some(id), is_ambiguous, ..nothing };
        // Clients say so of each request that a page may send fields with.
        let is_clients = || {
            request.headers.get("x-signalr-user-agent").is_some() || request.headers.get("x-requested-with").is_some()
        };
        match request.method {
            _ if request.websocket => SessionRequest { transport: Some("websocket"), dialect: WEBSOCKET, ..said },
            "GET" if request.headers.lists("accept", "text/event-stream") => {
                SessionRequest { streams: true, transport: Some("sse"), dialect: EVENTS, ..said }
            }
            "GET" => SessionRequest { polls: is_clients(), transport: Some("polling"), dialect: POLL, ..said },
            "POST" => SessionRequest { dialect: SEND, ..said },
            "DELETE" => SessionRequest { dialect: DELETES, ..said },
            _ => nothing,
        }
    }

    fn answered(&self, dialect: u64, status: u16, _headers: Headers<'_>) -> Answered {
        match (dialect, status) {
            (NEGOTIATES, 200) => Answered::Body(Box::new(NegotiationReader::default())),
            (NEGOTIATES | 0, _) => Answered::Nothing,
            (DELETES, 200..=299) => Answered::Ended,
            (_, 404) => Answered::Refused { code: None, unknown: true },
            _ => Answered::Nothing,
        }
    }

    /// A WebSocket and a stream of events are all of their connection, but a WebSocket that was cut may be taken up again by a new
    /// one, where client and server have agreed on that.
    fn arrival(&self, dialect: u64) -> Arrival {
        match dialect {
            WEBSOCKET => Arrival::UntilClosed,
            EVENTS => Arrival::AtOnce,
            _ => Arrival::Never,
        }
    }

    fn unseen_life(&self) -> Duration {
        SILENCE
    }

    /// Nothing is said to the connection: who knows it takes that (200), or says that there is another way to its WebSocket (405).
    fn question(&self, dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        let query = with_id(request.query.filter(|_| dialect != NEGOTIATES)?, id);
        let target = format!("{}?{query}", hub(&request.path.canonical));
        let question = Question { method: "POST", body: Some(Cow::Borrowed(b"")), ..Question::get(target) };
        Some(question.with_those_of(request, &["authorization", "cookie", "origin"]))
    }

    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, _body: &[u8]) -> Known {
        match status {
            200 | 405 => Known::Yes,
            404 => Known::No,
            _ => Known::Untold,
        }
    }

    /// Hubs may be anywhere.
    fn is_usual_path(&self, _path: &str) -> bool {
        false
    }

    fn path_of_sessions<'p>(&self, path: &'p str) -> &'p str {
        hub(path)
    }

    /// An end of polling, which clients that reconnect take for a lost connection.
    fn goodbye(&self, dialect: u64, _request: &Request<'_>) -> Option<Goodbye> {
        (dialect == POLL).then_some(Goodbye { status: 204, content_type: "text/plain", body: Cow::Borrowed(b"") })
    }

    fn last_words(&self, dialect: u64) -> Option<LastWords> {
        (dialect == EVENTS).then_some(LastWords { words: Cow::Borrowed(b""), behind: ENDS_OF_EVENTS })
    }

    fn over(&self, _dialect: u64) -> Option<Goodbye> {
        const UNKNOWN: &[u8] = b"No Connection with that ID";
        Some(Goodbye { status: 404, content_type: "text/plain", body: Cow::Borrowed(UNKNOWN) })
    }

    fn farewell(&self, dialect: u64, _id: &str, request: &Request<'_>) -> Option<Question> {
        let query = request.query.filter(|_| dialect == POLL)?;
        let question =
            Question { method: "DELETE", ..Question::get(format!("{}?{query}", hub(&request.path.canonical))) };
        Some(question.with_those_of(request, &["authorization", "cookie", "origin"]))
    }

    fn may_be_poll(&self, target: &[u8]) -> bool {
        target.windows(3).any(|window| window == b"id=")
    }
}

impl Reader for NegotiationReader {
    fn read(&mut self, bytes: &[u8], is_end: bool) -> Option<Answered> {
        match self.push(bytes) {
            Progress::NeedMore => is_end.then_some(Answered::Nothing),
            Progress::NotOne => Some(Answered::Nothing),
            Progress::Found(Negotiated { id, websocket }) => {
                Some(Answered::Opened(NewSession { websocket, ..NewSession::new(id, SILENCE) }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
