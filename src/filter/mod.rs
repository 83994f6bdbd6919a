//! What looks at every HTTP request before it is routed, and at every answer before its client gets it.

pub mod config;
pub(crate) mod expression;
mod fields;
pub(crate) mod files;
mod template;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

pub(crate) use expression::Expression;
pub(crate) use fields::{FieldRule, MessageRules};
pub(crate) use template::{Facts, Fault as TemplateFault, Template, Variable};

pub use crate::http::edits::HeaderEdits;
use crate::request::{Headers, Request};

/// Looks at requests and answers: lets them pass, changes their fields, or answers in a server's place.
///
/// A filter sees *every* HTTP request of every listener, whatever carries it: plain requests, streams of HTTP/2, polls,
/// and the requests that open a WebSocket, for which an answer other than [`Verdict::Pass`] means that there is none. It
/// does not see raw connections, nor what a WebSocket says. Several filters are asked in the order in which they were
/// given to [`Builder::filter`](crate::Builder::filter); the first that answers is the last that is asked.
///
/// ```
/// use async_trait::async_trait;
/// use http::{HeaderName, HeaderValue};
/// use sockgate::{Changes, Filter, FilterAnswer, Request, Verdict};
///
/// /// Lets nobody in without the token, and tells servers that it was shown.
/// struct Token(&'static str);
///
/// #[async_trait]
/// impl Filter for Token {
///     async fn request(&self, request: &Request<'_>, changes: &mut Changes) -> Verdict {
///         if request.headers.get("x-token") != Some(self.0.as_bytes()) {
///             return Verdict::Answer(FilterAnswer::text(401, "A token is needed."));
///         }
///         changes.to_server.remove(HeaderName::from_static("x-token"));
///         changes.to_server.set(HeaderName::from_static("x-checked"), HeaderValue::from_static("yes"));
///         Verdict::Pass
///     }
/// }
/// ```
#[async_trait]
pub trait Filter: Send + Sync + 'static {
    /// Looks at a request before it is routed. What is to be changed goes into `changes`; routes match what the client
    /// sent.
    ///
    /// It may wait, and the request waits with it: nothing bounds the time but the filter itself.
    async fn request(&self, request: &Request<'_>, changes: &mut Changes) -> Verdict;

    /// Looks at the head of the answer before the client gets it: a server's, or one of the gateway's own. What is to be
    /// changed goes into `edits`, which already hold what [`Self::request`] has put into [`Changes::to_client`].
    fn response(&self, _response: &Response<'_>, _edits: &mut HeaderEdits) {}
}

/// The filters of a gateway, in their order.
pub(crate) type Filters = Arc<[Arc<dyn Filter>]>;

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

/// The head of an answer on its way to the client.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The status; 101 where a WebSocket opens.
    pub status: u16,
    /// The fields, as the server sent them; none for answers of the gateway's own.
    pub headers: Headers<'a>,
    /// Whether a server gave it.
    pub from_server: bool,
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
