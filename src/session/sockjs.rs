//! SockJS as a protocol of sessions. Clients make the ids up and put them into the path, so that a hash of the id leads to its
//! server where nobody remembers it.

use std::borrow::Cow;
use std::time::Duration;

use super::protocol::{
    Answered, Arrival, Goodbye, Known, LastMessage, LastWords, NewSession, Question, SessionProtocol, SessionRequest,
};
use crate::request::{Headers, Request};
use crate::wire::sockjs::{
    Address, Transport, callback, close_frame, close_in_stream, closing_answer, is_server_goodbye,
};

/// Sessions of SockJS, by each of its transports.
#[derive(Clone, Copy, Debug, Default)]
pub struct SockJs;

/// How long a session may be silent: servers say something every 25 s, and give a client up that has not listened for 5 s. Both
/// can be set, so this is ample; who leaves is noticed otherwise.
const SILENCE: Duration = Duration::from_secs(60);
/// The service restarts, come back (RFC 6455 7.4, IANA's registry).
const RESTARTS: u16 = 1012;

/// The place of its transport in the list of them, from 1.
fn dialect_of(transport: Transport) -> u64 {
    Transport::ALL.iter().zip(1..).find(|(other, _)| **other == transport).map_or(0, |(_, number)| number)
}

fn transport_of(dialect: u64) -> Option<Transport> {
    Transport::ALL.into_iter().zip(1..).find(|(_, number)| *number == dialect).map(|(transport, _)| transport)
}

impl SessionProtocol for SockJs {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let address = Address::read(&request.path.canonical);
        let Some(Address { session, transport, .. }) =
            address.filter(|found| found.transport.method() == request.method)
        else {
            return SessionRequest::default();
        };
        let is_websocket = transport == Transport::WebSocket;
        SessionRequest {
            id: Some(session),
            opens: !transport.sends(),
            polls: !transport.sends() && !is_websocket,
            streams: transport.streams(),
            transport: Some(transport.as_str()),
            dialect: dialect_of(transport),
            ..SessionRequest::default()
        }
    }

    fn answered(&self, dialect: u64, status: u16, _headers: Headers<'_>) -> Answered {
        match (transport_of(dialect), status) {
            (Some(Transport::WebSocket), 101) => Answered::Opened(NewSession::named(SILENCE)),
            (Some(Transport::WebSocket), _) | (None, _) => Answered::Nothing,
            (Some(transport), 404) if transport.sends() => Answered::Refused { code: None, unknown: true },
            (Some(transport), 200) if !transport.sends() => Answered::Opened(NewSession::named(SILENCE)),
            _ => Answered::Nothing,
        }
    }

    fn is_server_goodbye(&self, dialect: u64, end: &[u8], whole: bool) -> bool {
        transport_of(dialect).is_some_and(|transport| is_server_goodbye(end, whole, transport))
    }

    /// A WebSocket is all of its session; what streams is one of several answers.
    fn arrival(&self, dialect: u64) -> Arrival {
        if transport_of(dialect) == Some(Transport::WebSocket) { Arrival::AtOnce } else { Arrival::Never }
    }

    fn unseen_life(&self) -> Duration {
        SILENCE
    }

    fn clients_make_ids(&self) -> bool {
        true
    }

    /// No message at all: who knows the session takes it (204), who does not says so (404), and opens none. A WebSocket has no
    /// other request, so that nobody asks for its session.
    fn question(&self, dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        if transport_of(dialect)? == Transport::WebSocket {
            return None;
        }
        let address = Address::read(&request.path.canonical)?;
        let question = Question::post(address.with(id, Transport::XhrSend), "text/plain;charset=UTF-8", &b"[]"[..]);
        Some(question.with_those_of(request, &["authorization", "cookie", "origin"]))
    }

    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, _body: &[u8]) -> Known {
        match status {
            204 => Known::Yes,
            404 => Known::No,
            _ => Known::Untold,
        }
    }

    fn is_usual_path(&self, path: &str) -> bool {
        Address::read(path).is_some()
    }

    fn goodbye(&self, dialect: u64, request: &Request<'_>) -> Option<Goodbye> {
        let callback = request.query.and_then(callback);
        let (content_type, body) = closing_answer(transport_of(dialect)?, RESTARTS, callback)?;
        Some(Goodbye { status: 200, content_type, body })
    }

    fn says_goodbye(&self, dialect: u64, request: &Request<'_>) -> bool {
        match transport_of(dialect) {
            Some(Transport::Xhr | Transport::XhrStreaming | Transport::EventSource) => true,
            Some(Transport::Jsonp) => request.query.and_then(callback).is_some(),
            _ => false,
        }
    }

    fn last_words(&self, dialect: u64) -> Option<LastWords> {
        let transport = transport_of(dialect)?;
        let words = close_in_stream(transport, RESTARTS)?.into_bytes();
        Some(LastWords { words: Cow::Owned(words), behind: transport.ends_of_frames() })
    }

    fn last_message(&self, dialect: u64) -> Option<LastMessage> {
        (transport_of(dialect)? == Transport::WebSocket).then_some(close_frame)
    }

    fn may_be_poll(&self, target: &[u8]) -> bool {
        target.windows(5).any(|window| window == b"jsonp")
    }
}

#[cfg(test)]
mod tests;
