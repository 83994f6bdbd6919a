//! What a filter says of a request: that it passes, and what is changed in it, or the answer that its client gets.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::http::edits::HeaderEdits;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The next filter is asked, and then the router.
    Pass,
    /// The client gets this answer; no server hears of the request.
    Answer(FilterAnswer),
}

/// What a filter changes in the fields of a request that passes, and of its answer.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Fields of the request, as its server gets it.
    pub to_server: HeaderEdits,
    /// Fields of the answer, as the client gets it, whoever gives it.
    pub to_client: HeaderEdits,
}

/// An answer of a filter's own.
#[derive(Clone, Debug)]
pub struct FilterAnswer {
    /// The status, 200 to 599.
    pub status: StatusCode,
    /// The fields; the length of the body is added.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

impl FilterAnswer {
    /// A plain text that nobody keeps. A `status` that no final answer has (RFC 9110 15) becomes 500.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).ok().filter(|status| (200..600).contains(&status.as_u16()));
        Self {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: vec![
                (http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
                (http::header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ],
            body: Bytes::from(text.into()),
        }
    }

    /// The same with one more field.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}
