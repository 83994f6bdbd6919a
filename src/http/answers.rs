//! The gateway's own answers to requests that it can't or won't carry: one match from cause to status.

use std::fmt;

use super::framing::Malformed;
use super::write::HeadWriter;
use crate::request::path;
use crate::text::Text;

/// Why the gateway answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The head is no HTTP.
    BadRequest,
    /// The framing could be read in two ways.
    Malformed(Malformed),
    /// The path can't be matched safely.
    BadPath(path::Refused),
    /// Two readings of the path lead to different routes.
    AmbiguousPath,
    /// The request names two sessions.
    AmbiguousSession,
    /// No route matches.
    NoRoute,
    /// The session is over, and its client has to begin anew.
    SessionOver,
    /// The client's network may not ask.
    Network,
    /// The page of another site may not ask.
    Origin,
    /// Nothing shows who the client is.
    NoCredentials,
    /// What shows who the client is does not.
    BadCredentials,
    /// The token has expired.
    ExpiredToken,
    /// There are no keys yet that tokens could be checked with.
    NoKeys,
    /// The service that is asked who may pass gave no proper answer.
    AuthFailed,
    /// It gave none in time.
    AuthTimeout,
    /// A method that a gateway does not carry.
    Method,
    /// The head did not arrive in time.
    HeadTimeout,
    /// Path and query are longer than `limits.uri`.
    UriTooLong,
    /// The client asks for more than its `rate` allows; the seconds after which to come again.
    Rate(u64),
    /// The client has `limits.requests_per_address` under way.
    OpenRequests,
    /// The head is larger, or has more fields, than `limits` allow.
    HeadTooLarge,
    /// The body is larger than `limits.body`.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// No server of the upstream can take it.
    NoServer,
    /// The upstream's waiting room is full.
    QueueFull,
    /// No server had room in time.
    QueueTimeout,
    /// The gateway stops, and the session would have no way to come in by.
    Stopping,
    /// New sessions come faster than they may; the seconds after which to come again.
    NewSessions(u64),
    /// No server could be connected to.
    ConnectFailed,
    /// No server could be connected to for want of descriptors, ports or memory.
    Shortage,
    /// The server closed the connection, or answered with something that is no answer.
    BadAnswer,
    /// The server did not answer in time.
    AnswerTimeout,
}

impl Refusal {
    /// The status of the answer (RFC 9110 15, RFC 6585).
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::Malformed(_) | Self::BadPath(_) | Self::AmbiguousPath | Self::AmbiguousSession => {
                400
            }
            Self::NoCredentials | Self::BadCredentials | Self::ExpiredToken => 401,
            Self::Network | Self::Origin => 403,
            Self::NoRoute | Self::SessionOver => 404,
            Self::Method => 405,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::UriTooLong => 414,
            Self::Rate(_) | Self::OpenRequests => 429,
            Self::HeadTooLarge => 431,
            Self::ConnectFailed | Self::BadAnswer | Self::AuthFailed => 502,
            Self::NoServer
            | Self::AuthTimeout
            | Self::NoKeys
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Stopping
            | Self::NewSessions(_)
            | Self::Shortage => 503,
            Self::AnswerTimeout => 504,
        }
    }

    /// The seconds of `Retry-After`, where coming again makes sense.
    pub fn retry_after(self) -> Option<u64> {
        match self {
            Self::NewSessions(seconds) | Self::Rate(seconds) => Some(seconds),
            Self::OpenRequests | Self::NoKeys => Some(1),
            _ => None,
        }
    }

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Malformed(_) => "malformed",
            Self::BadPath(_) => "bad_path",
            Self::AmbiguousPath => "ambiguous_path",
            Self::AmbiguousSession => "ambiguous_session",
            Self::NoRoute => "no_route",
            Self::SessionOver => "session_over",
            Self::Network => "network",
            Self::Origin => "origin",
            Self::NoCredentials => "no_credentials",
            Self::BadCredentials => "bad_credentials",
            Self::ExpiredToken => "expired_token",
            Self::NoKeys => "no_keys",
            Self::AuthFailed => "auth_failed",
            Self::AuthTimeout => "auth_timeout",
            Self::Method => "method",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::Rate(_) => "rate",
            Self::OpenRequests => "open_requests",
            Self::BodyTimeout => "body_timeout",
            Self::NoServer => "no_server",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Stopping => "stopping",
            Self::NewSessions(_) => "new_sessions",
            Self::ConnectFailed => "connect_failed",
            Self::Shortage => "shortage",
            Self::BadAnswer => "bad_answer",
            Self::AnswerTimeout => "answer_timeout",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest => f.write_str("This is not an HTTP request."),
            Self::Malformed(fault) => write!(f, "The request can't be read safely: {fault}."),
            Self::BadPath(fault) => write!(f, "The request can't be routed safely: {fault}."),
            Self::AmbiguousPath => f.write_str("The path can be read in two ways that lead to different places."),
            Self::AmbiguousSession => f.write_str("The request names two sessions."),
            Self::NoRoute => f.write_str("Nothing is served here."),
            Self::SessionOver => f.write_str("The session is over: a new one has to begin."),
            Self::Network => f.write_str("Nothing is served to this network."),
            Self::Origin => f.write_str("Nothing is served to pages of this site."),
            Self::NoCredentials => f.write_str("Something has to show who you are."),
            Self::BadCredentials => f.write_str("What should show who you are does not."),
            Self::ExpiredToken => f.write_str("The token has expired."),
            Self::NoKeys => f.write_str("Nobody can check tokens yet."),
            Self::AuthFailed => f.write_str("Nobody can say now who may come in."),
            Self::AuthTimeout => f.write_str("Nobody has said in time who may come in."),
            Self::Method => f.write_str("The gateway does not carry this method."),
            Self::HeadTimeout => f.write_str("The request head did not arrive in time."),
            Self::HeadTooLarge => f.write_str("The request head is too large."),
            Self::BodyTooLarge => f.write_str("The request body is too large."),
            Self::UriTooLong => f.write_str("The path and query of the request are too long."),
            Self::Rate(_) => f.write_str("Too many requests in too short a time."),
            Self::OpenRequests => f.write_str("Too many requests of this client are under way."),
            Self::BodyTimeout => f.write_str("The request body did not arrive in time."),
            Self::NoServer => f.write_str("No server can take this request now."),
            Self::QueueFull => f.write_str("Too many requests are waiting for a server."),
            Self::QueueTimeout => f.write_str("No server had room in time."),
            Self::Stopping => f.write_str("This gateway stops: a new session has to begin at another one."),
            Self::NewSessions(_) => f.write_str("Too many new sessions at once."),
            Self::ConnectFailed => f.write_str("No server could be reached."),
            Self::Shortage => f.write_str("The gateway has no room for this request now."),
            Self::BadAnswer => f.write_str("The server gave no proper answer."),
            Self::AnswerTimeout => f.write_str("The server did not answer in time."),
        }
    }
}

impl std::error::Error for Refusal {}

/// Writes the whole answer that a refusal is; the connection closes after it.
pub fn write_refusal(refusal: Refusal) -> Vec<u8> {
    let retry_after = refusal.retry_after().map(Text::number);
    let retry_after = retry_after.as_deref().map(|seconds| ("retry-after", seconds));
    let fields = REFUSAL_FIELDS.into_iter().chain(retry_after);
    write(refusal.status(), fields, refusal.to_string().as_bytes(), true)
}

/// Writes a whole HTTP/1.1 answer of the gateway's own; `last`: the connection closes behind it.
pub fn write<'a>(
    status: u16,
    fields: impl IntoIterator<Item = (&'a str, impl AsRef<[u8]>)>,
    body: &[u8],
    last: bool,
) -> Vec<u8> {
    let mut head = HeadWriter::answer(status);
    for (name, value) in fields {
        head.field(name, value);
    }
    // There is none to tell of (RFC 9110 8.6).
    if status != 204 {
        head.field("content-length", Text::number(body.len() as u64).as_bytes());
    }
    if last {
        head.field("connection", "close");
    }
    head.end_with(body)
}

/// The fields of a refusal's answer: plain text that nobody keeps.
pub const REFUSAL_FIELDS: [(&str, &str); 2] =
    [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_and_says_whether_it_is_the_last() {
        let text = |last| String::from_utf8(write(431, REFUSAL_FIELDS, b"Too large.", last)).unwrap();
        let head = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n\
                    cache-control: no-store\r\ncontent-length: 10\r\n";
        assert_eq!(text(false), format!("{head}\r\nToo large."));
        assert_eq!(text(true), format!("{head}connection: close\r\n\r\nToo large."));
    }
}
