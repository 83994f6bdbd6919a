//! Engine.IO 2 to 4 (Socket.IO 1 to 4) and Socket.IO 0.9 as a protocol of sessions, by the readers of [`wire::engine_io`].

use std::borrow::Cow;
use std::time::Duration;

use super::protocol::{
    Answered, Arrival, CheckedSession, Goodbye, Known, NewSession, Question, Reader, SessionCheck, SessionProtocol,
    SessionRequest,
};
use crate::request::{Headers, Request};
use crate::wire::engine_io::{
    self, BAD_REQUEST, Handshake, HandshakeReader, Progress, RequestInfo, Revision, SESSION_UNKNOWN, TRANSPORT_UNKNOWN,
    Transport, close_packet, error_code,
};

/// Engine.IO in all its dialects.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineIo;

impl SessionProtocol for EngineIo {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let info = RequestInfo::read(&request.path.canonical, request.query);
        // An app may answer other requests at the same address.
        let speaks = info.revision.is_some() || info.transport.is_some();
        let opens = speaks && info.sid.is_none();
        let dialect = Dialect {
            // A server reads a request without EIO as revision 3.
            revision: info.revision.unwrap_or(Revision::Eio3),
            polling: info.transport.is_some_and(Transport::is_polling),
            form: info.transport == Some(Transport::JsonpPolling),
            opens,
            jsonp: info.jsonp,
        };
        SessionRequest {
            id: info.sid,
            opens,
            // That of a WebSocket is its first frame.
            reads_answer: opens && info.transport != Some(Transport::WebSocket),
            polls: request.method == "GET" && info.sid.is_some() && dialect.polling,
            ends: info.goodbye,
            transport: info.transport.map(Transport::as_str),
            dialect: dialect.pack(),
            ..SessionRequest::default()
        }
    }

    fn answered(&self, dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
        let opens = Dialect::unpack(dialect).opens;
        match status {
            101 if opens => Answered::Body(Box::new(HandshakeReader::new())),
            200 if opens && may_be_handshake(headers) => Answered::Body(Box::new(HandshakeReader::new())),
            400 => Answered::Body(Box::new(ErrorReader::default())),
            _ => Answered::Nothing,
        }
    }

    fn is_client_goodbye(&self, dialect: u64, body: &[u8]) -> bool {
        let Dialect { revision, polling, form, .. } = Dialect::unpack(dialect);
        polling && engine_io::is_client_goodbye(body, revision, form)
    }

    fn is_server_goodbye(&self, dialect: u64, end: &[u8], whole: bool) -> bool {
        let Dialect { revision, jsonp, .. } = Dialect::unpack(dialect);
        engine_io::is_server_goodbye(end, whole, revision, jsonp)
    }

    /// The client's first message is the probe, to which the server has to answer, and the second one says that this is
    /// the transport from now on. In 0.9 nothing is said; a client that gave up waiting for its server's first word polls
    /// on by the same session.
    fn arrival(&self, dialect: u64) -> Arrival {
        match Dialect::unpack(dialect).revision {
            Revision::SocketIo09 => Arrival::Unsure,
            Revision::Eio3 | Revision::Eio4 => Arrival::Message(2),
        }
    }

    /// Twice the heartbeat that Socket.IO 4 has by default.
    fn unseen_life(&self) -> Duration {
        Duration::from_secs(90)
    }

    /// A plain `GET` with the session's id and `transport=websocket`, but without an upgrade. A server that has never heard
    /// of the session says so (400, code 1); one that holds it, on polling, objects to the transport (400, code 3, in
    /// Engine.IO 3 and 4) and leaves the session alone. A session that is on its WebSocket already gets no answer at all;
    /// nobody asks for one, since its requests are over.
    fn question(&self, dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        let eio = match Dialect::unpack(dialect).revision {
            Revision::Eio4 => 4,
            Revision::Eio3 => 3,
            // There is no harmless question in 0.9: its polls take messages with them.
            Revision::SocketIo09 => return None,
        };
        Some(Question::get(format!("{}?EIO={eio}&transport=websocket&sid={id}", request.path.canonical)))
    }

    /// A server that allows polling only says so (code 0) before it looks at the session. It is asked once more, by polling
    /// and with a method that polling has no use for: a session that is there answers that with an empty 500.
    fn is_known(&self, _dialect: u64, question: &Question, status: u16, body: &[u8]) -> Known {
        // python-engineio answers in words.
        const TRANSPORT: &[u8] = b"invalid transport";
        let names_transport = || body.windows(TRANSPORT.len()).any(|words| words.eq_ignore_ascii_case(TRANSPORT));
        match (status, error_code(body)) {
            (400, Some(SESSION_UNKNOWN)) => Known::No,
            (400, Some(BAD_REQUEST)) => Known::Yes,
            (400, Some(TRANSPORT_UNKNOWN)) if question.method == "GET" => Known::Ask(by_polling(question)),
            (500, None) if question.method == NOT_OF_POLLING && body.is_empty() => Known::Yes,
            (400, None) if names_transport() => Known::Yes,
            _ => Known::Untold,
        }
    }

    fn is_usual_path(&self, path: &str) -> bool {
        let path = path.strip_suffix('/').unwrap_or(path);
        path.ends_with("/socket.io") || path.ends_with("/engine.io")
    }

    fn goodbye(&self, dialect: u64, _request: &Request<'_>) -> Option<Goodbye> {
        let Dialect { revision, jsonp, .. } = Dialect::unpack(dialect);
        let content_type = if jsonp.is_some() { "text/javascript; charset=UTF-8" } else { "text/plain; charset=UTF-8" };
        Some(Goodbye { status: 200, content_type, body: engine_io::goodbye(revision, jsonp) })
    }

    fn says_goodbye(&self, _dialect: u64, _request: &Request<'_>) -> bool {
        true
    }

    fn unknown(&self, dialect: u64) -> Option<Goodbye> {
        const UNKNOWN: &[u8] = br#"{"code":1,"message":"Session ID unknown"}"#;
        let knows_codes = Dialect::unpack(dialect).revision != Revision::SocketIo09;
        let body = Cow::Borrowed(UNKNOWN);
        knows_codes.then_some(Goodbye { status: 400, content_type: "application/json", body })
    }

    fn farewell(&self, dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        let Dialect { revision, .. } = Dialect::unpack(dialect);
        let path = &request.path.canonical;
        let eio = match revision {
            Revision::Eio4 => 4,
            Revision::Eio3 => 3,
            // The session is in the path of its polls.
            Revision::SocketIo09 => return Some(Question::get(format!("{path}?disconnect=1"))),
        };
        let target = format!("{path}?EIO={eio}&transport=polling&sid={id}");
        Some(Question::post(target, "text/plain;charset=UTF-8", close_packet(revision).as_bytes()))
    }

    fn check(&self) -> Option<&dyn SessionCheck> {
        Some(self)
    }

    fn may_be_poll(&self, target: &[u8]) -> bool {
        target.windows(4).any(|window| matches!(window, b"sid=" | b"/1/x" | b"/1/j"))
    }
}

/// What an answer depends on in the request: a number's worth of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dialect {
    revision: Revision,
    polling: bool,
    /// Whether what the client sends comes in a form.
    form: bool,
    opens: bool,
    jsonp: Option<u32>,
}

/// The generations of servers, in the order in which an unknown one is asked.
const REVISIONS: [Revision; 3] = [Revision::Eio4, Revision::Eio3, Revision::SocketIo09];
const POLLING: u64 = 1 << 2;
const FORM: u64 = 1 << 3;
const OPENS: u64 = 1 << 4;
const JSONP: u64 = 1 << 5;

impl Dialect {
    /// The revision in the lowest two bits, then a flag each, and in the upper half the callback.
    fn pack(self) -> u64 {
        let revision = match self.revision {
            Revision::Eio4 => 0,
            Revision::Eio3 => 1,
            Revision::SocketIo09 => 2,
        };
        let flag = |set, bit| if set { bit } else { 0 };
        revision
            | flag(self.polling, POLLING)
            | flag(self.form, FORM)
            | flag(self.opens, OPENS)
            | self.jsonp.map_or(0, |index| JSONP | u64::from(index) << 32)
    }

    fn unpack(packed: u64) -> Self {
        Self {
            revision: REVISIONS[(packed & 3) as usize % REVISIONS.len()],
            polling: packed & POLLING != 0,
            form: packed & FORM != 0,
            opens: packed & OPENS != 0,
            jsonp: (packed & JSONP != 0).then_some((packed >> 32) as u32),
        }
    }
}

impl Reader for HandshakeReader {
    fn read(&mut self, bytes: &[u8], _is_end: bool) -> Option<Answered> {
        match self.push(bytes) {
            Progress::NeedMore => None,
            Progress::NotOne => Some(Answered::Nothing),
            Progress::Found(Handshake { sid, ping_interval, ping_timeout, websocket }) => {
                Some(Answered::Opened(NewSession { websocket, ..NewSession::new(sid, ping_interval + ping_timeout) }))
            }
        }
    }
}

/// Reads the start of an error answer.
#[derive(Default)]
struct ErrorReader(Vec<u8>);

/// How much of an error answer is looked at.
const LONGEST_ERROR: usize = 256;

impl Reader for ErrorReader {
    fn read(&mut self, bytes: &[u8], is_end: bool) -> Option<Answered> {
        self.0.extend_from_slice(&bytes[..bytes.len().min(LONGEST_ERROR - self.0.len())]);
        is_end.then(|| match error_code(&self.0) {
            Some(code) => Answered::Refused { code: Some(code), unknown: code == SESSION_UNKNOWN },
            None => Answered::Nothing,
        })
    }
}

impl SessionCheck for EngineIo {
    fn expected(&self) -> &'static str {
        "an Engine.IO handshake"
    }

    fn ways(&self) -> usize {
        REVISIONS.len()
    }

    fn open(&self, way: usize, path: Option<&str>) -> Question {
        let path = path.unwrap_or(DEFAULT_PATH);
        Question::get(match REVISIONS[way] {
            Revision::Eio4 => with_query(path, "EIO=4&transport=polling"),
            Revision::Eio3 => with_query(path, "EIO=3&transport=polling&b64=1"),
            Revision::SocketIo09 => format!("{path}1/"),
        })
    }

    fn opened(&self, way: usize, path: Option<&str>, status: u16, body: &[u8]) -> Option<CheckedSession> {
        let Progress::Found(Handshake { sid, .. }) = HandshakeReader::new().push(body) else { return None };
        let path = path.unwrap_or(DEFAULT_PATH);
        // Servers of Engine.IO 3 answer in their own framing whatever they were asked.
        let revision = match (REVISIONS[way], body.first()) {
            (Revision::SocketIo09, _) => Revision::SocketIo09,
            (_, Some(b'0')) => Revision::Eio4,
            _ => Revision::Eio3,
        };
        let close = |query: &str| {
            let target = with_query(path, &format!("{query}{sid}"));
            Question::post(target, "text/plain;charset=UTF-8", close_packet(revision).as_bytes())
        };
        let (what, goodbye) = match revision {
            Revision::Eio4 => ("a session of Engine.IO 4", close("EIO=4&transport=polling&sid=")),
            Revision::Eio3 => ("a session of Engine.IO 3", close("EIO=3&transport=polling&sid=")),
            Revision::SocketIo09 => {
                ("a session of Socket.IO 0.9", Question::get(format!("{path}1/xhr-polling/{sid}?disconnect=1")))
            }
        };
        (status == 200).then_some(CheckedSession { what, goodbye: Some(goodbye) })
    }
}

/// Whether an answer is of a type that handshakes have. A page that repeats what it was asked is none.
fn may_be_handshake(headers: Headers<'_>) -> bool {
    const TYPES: [&str; 5] = [
        "text/plain",
        "application/octet-stream",
        "text/javascript",
        "application/javascript",
        "application/x-javascript",
    ];
    let Some(said) = headers.get("content-type") else { return true };
    let media = said.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    media.is_empty() || TYPES.iter().any(|known| media.eq_ignore_ascii_case(known.as_bytes()))
}

/// A method to which sessions that poll object, and do nothing else.
const NOT_OF_POLLING: &str = "PUT";

/// The question for a server that allows polling only.
fn by_polling(question: &Question) -> Question {
    let (path, query) = question.target.split_once('?').unwrap_or((&question.target, ""));
    let target = format!("{path}?{}", query.replacen("transport=websocket", "transport=polling", 1));
    Question { method: NOT_OF_POLLING, target, body: Some(Cow::Borrowed(b"")), ..question.clone() }
}

/// Where Socket.IO listens unless it is told otherwise.
const DEFAULT_PATH: &str = "/socket.io/";

fn with_query(path: &str, query: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}{query}")
}

#[cfg(test)]
mod tests;
