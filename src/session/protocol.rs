//! What the gateway has to know of a protocol to keep each of its sessions on the server that opened it. Each protocol is
//! a file; nothing here does I/O.

use std::borrow::Cow;
use std::time::Duration;

use crate::request::{Headers, Request};

/// A protocol whose sessions live on one server each.
///
/// # Why there is such a thing
///
/// A session is many requests, often on many connections, and one server knows it. Whoever sends one of them elsewhere
/// has ended the session, so the gateway wants to know two things of each request: which session it belongs to, if any,
/// and where that one lives. The second is in the gateway's table. The first is in the request, where only the protocol
/// can find it:
///
/// ```text
/// fn read(&self, request: &Request) -> SessionRequest
/// ```
///
/// The table has to be filled. A session begins with a request that belongs to none yet, and the server's answer tells
/// its id: some protocols say it in a header field, some in the body, some in the first message of a WebSocket. A body
/// passes in pieces that are cut anywhere, and the client may use the id as soon as it has the last of them, so whoever
/// reads must read along. Hence an answer's head is shown once, and if more has to be seen, a [`Reader`] comes back:
///
/// ```text
/// fn answered(&self, dialect: u64, status: u16, headers: Headers) -> Answered
/// ```
///
/// With these two a protocol is whole: sessions stay on their servers, are counted there, and new ones are spread. All
/// else makes it better, and has a default that says nothing:
///
/// * A session that is over and still counted keeps a server from getting new ones, so what ends one is heard:
///   [`is_client_goodbye`](Self::is_client_goodbye), [`is_server_goodbye`](Self::is_server_goodbye), and
///   [`arrival`](Self::arrival), by which a session belongs to its WebSocket and ends with it.
/// * A gateway that was started anew has an empty table, and another replica has another one. So there may be a
///   [`question`](Self::question) that does no harm, to find out which server knows a session.
/// * A server that is to be left has sessions. Those on a WebSocket get a Close frame, after a
///   [`last_message`](Self::last_message) if there is one; a pending poll gets a [`goodbye`](Self::goodbye) in the server's
///   place, on which its client opens a new session; and a stream ends with its [`last_words`](Self::last_words).
/// * A server is well when sessions can be opened there, which a [`check`](Self::check) tries.
///
/// # The dialect
///
/// Between a request and its answer a protocol may have to remember a little: the version that the client speaks, the
/// name of its callback. The gateway keeps a number for it from [`SessionRequest::dialect`] and gives it back to every
/// other method. It means nothing to anybody else, and takes no memory beyond itself.
///
/// # Example
///
/// Sessions that are named by a header field, as those of MCP's Streamable HTTP are:
///
/// ```
/// use std::time::Duration;
///
/// use sockgate::{Headers, Request};
/// use sockgate::session::{Answered, NewSession, SessionProtocol, SessionRequest};
///
/// struct Mcp;
///
/// /// After which servers give up a session that nobody has used.
/// const HALF_AN_HOUR: Duration = Duration::from_secs(30 * 60);
///
/// impl SessionProtocol for Mcp {
///     fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
///         let id = request.headers.get("mcp-session-id").and_then(|id| std::str::from_utf8(id).ok());
///         let opens = id.is_none() && request.method == "POST";
///         SessionRequest { id, opens, ends: request.method == "DELETE", ..SessionRequest::default() }
///     }
///
///     fn answered(&self, _dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
///         match headers.get("mcp-session-id") {
///             // Some servers put a fresh id on refusals, too; that one is dead.
///             Some(id) if status == 200 => Answered::Opened(NewSession::new(String::from_utf8_lossy(id), HALF_AN_HOUR)),
///             None if status == 404 => Answered::Refused { code: None, unknown: true },
///             _ => Answered::Nothing,
///         }
///     }
/// }
/// ```
pub trait SessionProtocol: Send + Sync + 'static {
    /// What a request says of its session. Called once for each request, so it should only look.
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r>;

    /// What the head of a server's answer says, to a request that came with this `dialect`. Of a WebSocket that opens
    /// (status 101) the body is the payload of the server's first message, as far as that is one text frame.
    fn answered(&self, dialect: u64, status: u16, headers: Headers<'_>) -> Answered;

    /// Whether this is the whole body of a request by which a client ends its session.
    fn is_client_goodbye(&self, _dialect: u64, _body: &[u8]) -> bool {
        false
    }

    /// Whether an answer to a [poll](SessionRequest::polls) that ends with these bytes, 64 at most, ends the session.
    /// `whole` says that they are all of it.
    fn is_server_goodbye(&self, _dialect: u64, _end: &[u8], _whole: bool) -> bool {
        false
    }

    /// When a session that began elsewhere has come to its WebSocket for good: from then on it ends with it.
    fn arrival(&self, _dialect: u64) -> Arrival {
        Arrival::AtOnce
    }

    /// Whether ids are made up by clients, so that a hash of the id is what places a session, and finds it where nobody remembers it.
    /// A request that [opens](SessionRequest::opens) one names it then, and may be any request of it: see
    /// [`question`](Self::question).
    fn clients_make_ids(&self) -> bool {
        false
    }

    /// How long a session may be silent whose opening the gateway has not seen.
    fn unseen_life(&self) -> Duration {
        Duration::from_secs(90)
    }

    /// A request that tells whether a server knows the session `id`, and changes nothing there, whatever the answer.
    /// `request` is the client's, which waits meanwhile. `None` where there is no such request.
    fn question(&self, _dialect: u64, _id: &str, _request: &Request<'_>) -> Option<Question> {
        None
    }

    /// Whether servers are asked one after the other, the likeliest first, since one that is asked in vain may take the session
    /// up for its own.
    fn asks_one_by_one(&self) -> bool {
        false
    }

    /// What the answer to a [question](Self::question) says of the session. Only a clear yes should be one: a session that
    /// is sent to the wrong server is lost. The question is the one that was asked, to which the gateway has added fields.
    fn is_known(&self, _dialect: u64, _question: &Question, _status: u16, _body: &[u8]) -> Known {
        Known::Untold
    }

    /// Whether sessions of this protocol are usually opened at this path, which is canonical. Elsewhere servers are not
    /// asked for sessions until one has been opened there, or the operator has named the path: a question is a request, and
    /// at another path it would be one of the app's.
    fn is_usual_path(&self, _path: &str) -> bool {
        true
    }

    /// The path where sessions are that are opened at this one, which is canonical.
    fn path_of_sessions<'p>(&self, path: &'p str) -> &'p str {
        path
    }

    /// The answer to a pending [poll](SessionRequest::polls) on which the client opens a new session by itself. `None`
    /// where there is none: such a poll is left alone.
    fn goodbye(&self, _dialect: u64, _request: &Request<'_>) -> Option<Goodbye> {
        None
    }

    /// Whether there is a [goodbye](Self::goodbye) for a poll. Each poll is asked for it, so this should build nothing.
    fn says_goodbye(&self, dialect: u64, request: &Request<'_>) -> bool {
        self.goodbye(dialect, request).is_some()
    }

    /// What is said last in an answer that [streams](SessionRequest::streams), and ends in the server's place. `None` where none
    /// may be ended.
    fn last_words(&self, _dialect: u64) -> Option<LastWords> {
        None
    }

    /// What a WebSocket of a session is told before the Close frame, if it is told anything.
    fn last_message(&self, _dialect: u64) -> Option<LastMessage> {
        None
    }

    /// How sessions come to leave a server that drains.
    fn departure(&self) -> Departure {
        Departure::Told
    }

    /// The answer that tells a client that its session is over, and that it has to begin anew. It is what requests of sessions
    /// get whose server drains and has come to the deadline of that. `None` where there is no such answer: they go on to their
    /// server.
    fn over(&self, _dialect: u64) -> Option<Goodbye> {
        None
    }

    /// The answer that tells a client that nobody knows its session, as servers give it. The gateway gives it to one that comes by
    /// another gateway, for a session that has ended meanwhile. `None` where servers have no words of their own for it.
    fn unknown(&self, dialect: u64) -> Option<Goodbye> {
        self.over(dialect)
    }

    /// The request by which a client ends the session `id`. The gateway makes it where it has said goodbye and the server has
    /// no way to see that. `None` where there is no such request: the server finds out by itself.
    fn farewell(&self, _dialect: u64, _id: &str, _request: &Request<'_>) -> Option<Question> {
        None
    }

    /// How a health check opens sessions; `None` where it can't.
    fn check(&self) -> Option<&dyn SessionCheck> {
        None
    }

    /// Whether a `GET` for this target, path and query as sent, may be a [poll](SessionRequest::polls). It is asked
    /// before the route is known, of requests for other upstreams, too. A yes to what is none costs some memory; a no to
    /// one that is keeps it from being answered in the server's place.
    fn may_be_poll(&self, _target: &[u8]) -> bool {
        false
    }
}

/// What a request says of its session. The default is a request that has to do with none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionRequest<'r> {
    /// The session that it belongs to, or that it opens where clients choose the ids.
    pub id: Option<&'r str>,
    /// Whether it may open a session.
    pub opens: bool,
    /// Whether the body of the answer is read, which must not be compressed then.
    pub reads_answer: bool,
    /// Whether the server may take its time for the answer, and a [goodbye](SessionProtocol::goodbye) would do as well.
    pub polls: bool,
    /// Whether the request itself ends the session.
    pub ends: bool,
    /// Whether the session lives for as long as the answer is under way, where that is a stream of events, or the request
    /// [polls](Self::polls). As with a WebSocket, [`arrival`](SessionProtocol::arrival) says whether it goes on after that.
    pub streams: bool,
    /// Whether it names two sessions, which may live on different servers: it is refused.
    pub is_ambiguous: bool,
    /// How the session travels, for the access log: `polling`, `websocket`.
    pub transport: Option<&'static str>,
    /// What the other methods are given of this request.
    pub dialect: u64,
}

/// What an answer teaches.
pub enum Answered {
    /// Nothing.
    Nothing,
    /// A session is open.
    Opened(NewSession),
    /// It is a refusal.
    Refused {
        /// The protocol's code for it, which is counted.
        code: Option<u8>,
        /// Whether it says that the server does not know the session: nothing happened there.
        unknown: bool,
    },
    /// The session that the request has named is over, as its client has asked for.
    Ended,
    /// The body has to be read; where a reader says so, the rest of it by another one.
    Body(Box<dyn Reader>),
}

/// Reads the body of an answer as it passes.
pub trait Reader: Send + Sync {
    /// Takes the next bytes, before the client gets them. `is_end` says that no more will come. `None` while more has to
    /// be seen; after anything else nothing more is read. It should give up by itself on bodies that are too long.
    fn read(&mut self, bytes: &[u8], is_end: bool) -> Option<Answered>;
}

/// A session that a server has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// Its id, as later requests name it; `None` for the one that the request has named.
    pub id: Option<String>,
    /// How long it may be silent before it is over, by what its server says or does. Polls and WebSockets of the session
    /// time out by the same measure.
    pub silence: Duration,
    /// Whether the client may go on to a WebSocket.
    pub websocket: bool,
    /// Whether it ends with the answer that opens it, which is a stream.
    pub ends_with_answer: bool,
}

impl NewSession {
    /// A session without a WebSocket.
    pub fn new(id: impl Into<String>, silence: Duration) -> Self {
        Self { id: Some(id.into()), silence, websocket: false, ends_with_answer: false }
    }

    /// The session that the request has named, without a WebSocket of its own.
    pub fn named(silence: Duration) -> Self {
        Self { id: None, silence, websocket: false, ends_with_answer: false }
    }
}

/// When a session that began elsewhere has come to a WebSocket for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// When it opens.
    AtOnce,
    /// The same, as far as anybody can tell: if it ends before the client has sent a message, the session may go on
    /// without it.
    Unsure,
    /// With this message of the client, counted from 1: what comes before is only a trial.
    Message(u64),
    /// When it opens; it ends with a word of goodbye from either side, and without one it may go on by another one.
    UntilClosed,
    /// Never: it goes on without it, for as long as it may be silent.
    Never,
}

/// How the sessions of a server that drains come to leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// They are told, one after the other, at the pace of the drain.
    Told,
    /// Nothing that could be said makes their clients begin anew: they stay until the deadline of the drain, and are
    /// [over](SessionProtocol::over) then. What is under way at that time, and can be ended, ends after that.
    AtDeadline,
}

/// A request that the gateway makes on its own account. `Host`, unless a field brings it, and the length of the body are
/// added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// Header fields, with names in lower case.
    pub fields: Vec<(Cow<'static, str>, Vec<u8>)>,
    /// The body; `None` for none at all.
    pub body: Option<Cow<'static, [u8]>>,
}

impl Question {
    /// A `GET`.
    pub fn get(target: impl Into<String>) -> Self {
        Self { method: "GET", target: target.into(), fields: Vec::new(), body: None }
    }

    /// A `POST` of a body of this type.
    pub fn post(target: impl Into<String>, content_type: &str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        let question = Self { method: "POST", target: target.into(), fields: Vec::new(), body: Some(body.into()) };
        question.with("content-type", content_type)
    }

    /// The same with one more header field.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Vec<u8>>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// The same with those of the client's header fields that have these names, in lower case: what shows who asks.
    #[must_use]
    pub fn with_those_of(mut self, request: &Request<'_>, names: &[&'static str]) -> Self {
        for &name in names {
            self.fields.extend(request.headers.all(name).map(|value| (name.into(), value.to_vec())));
        }
        self
    }
}

/// What a server says of a session that it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It knows it.
    Yes,
    /// It does not.
    No,
    /// Its answer doesn't tell.
    Untold,
    /// Its answer doesn't tell, and that to another question may.
    Ask(Question),
}

/// The polite end of a session, as the answer to its poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// The status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

/// The end of a stream, as its session is told to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWords {
    /// What is said; nothing where the end says it all.
    pub words: Cow<'static, [u8]>,
    /// What ends each event: only behind one of these, or before the first, may the stream end.
    pub behind: &'static [&'static [u8]],
}

impl LastWords {
    /// Whether they may follow a stream that ends with these bytes so far.
    pub(crate) fn may_follow(&self, said: &[u8]) -> bool {
        said.is_empty() || self.behind.iter().any(|end| said.ends_with(end))
    }
}

/// What ends an event (the HTML standard, 9.2).
pub const ENDS_OF_EVENTS: &[&[u8]] = &[b"\n\n", b"\r\n\r\n", b"\r\r"];

/// The text of a message for the client of a WebSocket that is about to be closed with this code; 125 bytes at most.
pub type LastMessage = fn(code: u16) -> String;

/// How a health check opens a session, and closes it again. Servers of several generations may want to be asked in several
/// ways; the one that worked last is tried first.
pub trait SessionCheck: Sync {
    /// What a server has to answer, for the report of one that did not: `an Engine.IO handshake`.
    fn expected(&self) -> &'static str;

    /// How many ways there are.
    fn ways(&self) -> usize {
        1
    }

    /// The request that opens a session in this way; `path` is what the operator said, which may have a query.
    fn open(&self, way: usize, path: Option<&str>) -> Question;

    /// Whether the answer has opened one.
    fn opened(&self, way: usize, path: Option<&str>, status: u16, body: &[u8]) -> Option<CheckedSession>;
}

/// A session that a health check has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedSession {
    /// What it is, for the report: `a session of Engine.IO 4`.
    pub what: &'static str,
    /// The request that ends it, so that the server needn't keep it until it times out.
    pub goodbye: Option<Question>,
}

#[cfg(test)]
mod tests;
