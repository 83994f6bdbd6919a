//! What looks at every HTTP request before it is routed, and at every answer before its client gets it.

pub mod config;
pub(crate) mod expression;
mod fields;
pub(crate) mod files;
mod template;
mod verdict;

use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use expression::{Expression, Fault as ExpressionFault};
pub(crate) use fields::{FieldRule, MessageRules};
pub(crate) use template::{Facts, Fault as TemplateFault, Template, Variable};

pub use crate::http::edits::HeaderEdits;
use crate::request::{Headers, Request};
pub use verdict::{Changes, FilterAnswer, Verdict};

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
