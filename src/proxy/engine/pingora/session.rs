//! What the gateway's terms are in a session of Pingora's, and back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::http::{Refusal, Timeouts};

use super::mailbox::Mailbox;
use super::stream::Stream;
use crate::exchange::{Answer, RequestHead, Side};
use crate::request::Headers;

/// How long the rest of a request body is read after an early answer, so that the connection can be used again.
const DRAIN: Duration = Duration::from_secs(5);

/// What is known of the connection beneath.
pub(super) fn mailbox(session: &Session) -> Option<Arc<Mailbox>> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<Mailbox>>().cloned()
}

/// Sets the times that the client has.
pub(super) fn set_timeouts(session: &mut Session, timeouts: &Timeouts) {
    let set = |time: Duration| (!time.is_zero()).then_some(time);
    session.set_read_timeout(set(timeouts.body));
    // Of HTTP/1 the stream sees to it, which sees each part that is taken.
    let write = if session.is_http2() { timeouts.write } else { Duration::ZERO };
    session.set_write_timeout(set(write));
    session.set_total_drain_timeout(Some(DRAIN));
    session.set_close_on_response_before_downstream_finish(false);
}

/// What the client asks for. `websocket`: it opens one, which was found out before.
pub(super) fn request(header: &RequestHeader, websocket: bool) -> RequestHead<'_> {
    let host = || header.headers.get(HOST)?.to_str().ok();
    RequestHead {
        method: header.method.as_str(),
        target: header.uri.path_and_query().map_or("/", |target| target.as_str()),
        authority: header.uri.authority().map(|authority| authority.as_str()).or_else(host),
        headers: Headers::Map(&header.headers),
        websocket,
    }
}

/// The length that a request's body announces.
pub(super) fn content_length(header: &RequestHeader) -> Option<u64> {
    header.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The status that the client has got; 0 for none. Only a final one is an answer.
pub(super) fn status(session: &Session) -> u16 {
    let status = session.response_written().map_or(0, |response| response.status.as_u16());
    if (100..200).contains(&status) && status != 101 { 0 } else { status }
}

/// Writes a whole answer; the connection stays usable.
pub(super) async fn write(session: &mut Session, answer: Answer<'_>) -> Result<()> {
    answer.due().await;
    let mut header = ResponseHeader::build(answer.status, Some(answer.fields.len() + 1))?;
    for (name, value) in &answer.fields {
        header.append_header((*name).to_owned(), &**value)?;
    }
    // Neither has a body. A 204 may not say the length of one (RFC 9110 8.6), and of a 304 HTTP/2 clients would wait for as much.
    let without = matches!(answer.status, 204 | 304);
    if !without {
        header.insert_header(CONTENT_LENGTH, answer.body.len())?;
    }
    let bare = session.req_header().method == "HEAD" || answer.body.is_empty() || without;
    session.write_response_header(Box::new(header), bare).await?;
    if !bare {
        session.write_response_body(Some(answer.body), true).await?;
    }
    Ok(())
}

/// Lets the client see that an answer is cut: where its end is the end of the connection, that has to be a reset.
pub(super) fn cut(session: &Session) {
    let until_close = session.response_written().is_some_and(|response| {
        !response.status.is_informational()
            && !response.headers.contains_key(CONTENT_LENGTH)
            && !response.headers.contains_key(TRANSFER_ENCODING)
    });
    let stream = session.as_http1().filter(|_| until_close).map(|http1| http1.stream());
    if let Some(stream) = stream.and_then(|stream| Stream::beneath(&**stream)) {
        stream.connection.transport.socket().reset_on_close();
    }
}

/// HTTP/2 clients send cookies in pieces (RFC 9113 8.2.3); HTTP/1.1 servers expect one field.
pub(super) fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let cookies = request.headers.get_all(COOKIE);
    if cookies.iter().nth(1).is_none() {
        return Ok(());
    }
    let pieces: Vec<&[u8]> = cookies.iter().map(|cookie| cookie.as_bytes()).collect();
    let joined = pieces.join(b"; ".as_slice());
    request.insert_header("Cookie", joined.as_slice())
}

/// A refusal on its way through Pingora.
pub(super) fn error(refusal: Refusal) -> Box<Error> {
    Error::explain(ErrorType::HTTPStatus(refusal.status()), refusal.as_str())
}

/// Whether the server has ended the connection; what it said before that, if anything, is another matter.
pub(super) fn ended_by_server(error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream
        && matches!(error.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError)
}

/// Who is behind an error.
pub(super) fn cut_by(error: &Error) -> Side {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, _) => Side::Server,
        (_, ErrorType::WriteTimedout) => Side::StalledClient,
        (_, ErrorType::WriteError) => cause.map_or(Side::Client, Side::of_client),
        _ => Side::Client,
    }
}

/// What an error of Pingora's means to the client; `None` when there is nobody left to tell.
pub(super) fn refusal_of(error: &Error) -> Option<Refusal> {
    let timed_out = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    let cause = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    match (error.esource(), error.etype()) {
        // Said by the connection of a chunked body that is none.
        (ErrorSource::Downstream, _) if cause == Some(io::ErrorKind::InvalidData) => Some(Refusal::BadRequest),
        (ErrorSource::Upstream, _) if timed_out => Some(Refusal::AnswerTimeout),
        (ErrorSource::Upstream, _) => Some(Refusal::BadAnswer),
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Refusal::BodyTimeout),
        // H2Error: the stream has been reset.
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ConnectionClosed
            | ErrorType::H2Error,
        ) => None,
        (ErrorSource::Downstream, _) => Some(Refusal::BadRequest),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Refusal::BadAnswer),
    }
}
