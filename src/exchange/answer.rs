//! An answer of the gateway's own, before an engine writes it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, VARY,
};
use ::http::{HeaderValue, StatusCode};
use bytes::Bytes;

use super::request::RequestHead;
use crate::filter::{FilterAnswer, HeaderEdits};
use crate::http::pages::Page;
use crate::http::{Refusal, answers, grpc};
use crate::router::{Action, Route};
use crate::session::Goodbye;
use crate::text::Text;

/// Status, fields and body; how its end is told is the engine's business.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'a str, Cow<'a, [u8]>)>,
    pub(crate) body: Bytes,
    /// Whether its fields are the trailers of a call, too, and nothing follows them.
    pub(crate) is_status: bool,
    /// How long it is held back.
    delay: Duration,
}

impl<'a> Answer<'a> {
    /// Says why a request is not carried.
    pub(crate) fn refusing(refusal: Refusal) -> Self {
        let retry_after = refusal.retry_after().map(|seconds| ("retry-after", seconds.to_string().into_bytes().into()));
        let fields = answers::REFUSAL_FIELDS.into_iter().map(|(name, value)| (name, value.as_bytes().into()));
        Self {
            status: refusal.status(),
            fields: fields.chain(retry_after).collect(),
            body: Bytes::from(refusal.to_string()),
            is_status: false,
            delay: Duration::ZERO,
        }
    }

    /// What a share of the requests is answered with.
    pub(super) fn of_share(status: u16) -> Self {
        let empty = matches!(status, 204 | 205 | 304);
        let fields = answers::REFUSAL_FIELDS.into_iter().skip(usize::from(empty));
        let body = if empty { Bytes::new() } else { Bytes::from_static(b"The gateway answers this by itself.") };
        let fields = fields.map(|(name, value)| (name, value.as_bytes().into())).collect();
        Self { status, fields, body, is_status: false, delay: Duration::ZERO }
    }

    /// The same with this page in its body, where there is one.
    pub(super) fn with_page(mut self, page: Option<&'a Page>) -> Self {
        let Some(page) = page else { return self };
        self.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        self.fields.insert(0, ("content-type", page.content_type.as_bytes().into()));
        Self { body: page.body.clone(), ..self }
    }

    /// What a route answers by itself; `None` where it leads to an upstream. A redirect leads to `target` where it says no path.
    pub(super) fn of_route(
        route: &'a Arc<Route>,
        request: &RequestHead<'_>,
        target: &str,
        secure: bool,
    ) -> Option<Self> {
        match &route.action {
            // Those of files have been read before.
            Action::Upstream(_) | Action::Files(_) => None,
            Action::Respond(respond) => {
                let mut fields: Vec<(&str, Cow<'_, [u8]>)> = Vec::with_capacity(respond.headers.len() + 1);
                fields.extend(respond.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes().into())));
                let typed = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
                if !respond.body.is_empty() && !typed {
                    fields.push(("content-type", b"text/plain; charset=utf-8".as_slice().into()));
                }
                // Not copied, however large: the route is kept for as long as the body is written.
                let body = Bytes::from_owner(RouteBody(Arc::clone(route)));
                Some(Self { status: respond.status, fields, body, is_status: false, delay: respond.delay })
            }
            Action::Redirect(redirect) => {
                let location = redirect.location(secure, request.authority, target);
                let fields = vec![("location", location.into_bytes().into())];
                let (status, body) = (redirect.status, Bytes::new());
                Some(Self { status, fields, body, is_status: false, delay: Duration::ZERO })
            }
        }
    }

    /// What a filter answers.
    pub(super) fn of_filter(answer: &'a FilterAnswer) -> Self {
        let fields = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes().into()));
        Self {
            status: answer.status.as_u16(),
            fields: fields.collect(),
            body: answer.body.clone(),
            is_status: false,
            delay: Duration::ZERO,
        }
    }

    /// The same with these changes.
    pub(crate) fn edited(mut self, edits: &'a HeaderEdits) -> Self {
        if !edits.is_empty() {
            self.fields.retain(|(name, _)| edits.keeps(name));
            self.fields.extend(edits.added().map(|(name, value)| (name.as_str(), value.as_bytes().into())));
        }
        self
    }

    /// The same as a call gets it: a status of gRPC in what is head and trailers at once, which an answer of HTTP that is no
    /// success becomes.
    pub(super) fn into_status(mut self) -> Self {
        let is_text = |(name, value): &(&str, Cow<'_, [u8]>)| {
            name.eq_ignore_ascii_case("content-type") && value.starts_with(b"text/plain")
        };
        let text = self.fields.iter().any(is_text).then(|| std::str::from_utf8(&self.body).ok()).flatten();
        let message = text.map_or_else(|| format!("HTTP status {}", self.status), grpc::message);
        self.fields.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("content-"));
        let status = Text::number(grpc::status_of(self.status).into()).as_bytes().to_vec();
        self.fields.push(("content-type", grpc::TYPE.as_bytes().into()));
        self.fields.push(("grpc-status", status.into()));
        self.fields.push(("grpc-message", message.into_bytes().into()));
        Self { status: 200, body: Bytes::new(), is_status: true, ..self }
    }

    /// Ends when it is time to answer. Boxed, since hardly any answer waits: a timer would make every task larger.
    pub(crate) async fn due(&self) {
        if !self.delay.is_zero() {
            Box::pin(tokio::time::sleep(self.delay)).await;
        }
    }

    /// As HTTP/1.1; `last`: the connection closes behind it.
    pub(crate) fn to_http1(&self, last: bool) -> Vec<u8> {
        let fields = self.fields.iter().map(|(name, value)| (*name, value));
        answers::write(self.status, fields, &self.body, last)
    }
}

/// The goodbye to a session as the answer to its poll, for a page of this origin.
pub(super) fn goodbye(goodbye: Goodbye, origin: Option<HeaderValue>) -> FilterAnswer {
    let Goodbye { status, content_type, body } = goodbye;
    let body = match body {
        Cow::Borrowed(body) => Bytes::from_static(body),
        Cow::Owned(body) => Bytes::from(body),
    };
    let content_type = HeaderValue::try_from(content_type).map(|content_type| (CONTENT_TYPE, content_type));
    let mut headers: Vec<_> = content_type.into_iter().collect();
    headers.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    if let Some(origin) = origin {
        // A page of another site may not read an answer that does not allow it, and would take it for a failure.
        headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        headers.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        headers.push((VARY, HeaderValue::from_static("Origin")));
    }
    FilterAnswer { status: StatusCode::from_u16(status).unwrap_or_default(), headers, body }
}

/// The body that a route responds with.
struct RouteBody(Arc<Route>);

impl AsRef<[u8]> for RouteBody {
    fn as_ref(&self) -> &[u8] {
        match &self.0.action {
            Action::Respond(respond) => respond.body.as_bytes(),
            Action::Upstream(_) | Action::Redirect(_) | Action::Files(_) => b"",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;
    use crate::router::config::{Redirect, Respond};

    fn answer(action: Action) -> Option<(u16, String, String)> {
        let request = RequestHead {
            method: "GET",
            target: "/x?y",
            authority: Some("a.example:81"),
            headers: Headers::Fields(&[]),
            websocket: false,
        };
        let route = Arc::new(Route::new("test", action));
        let answer = Answer::of_route(&route, &request, request.target, true)?;
        let fields: Vec<String> =
            answer.fields.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
        Some((answer.status, fields.join(", "), String::from_utf8(answer.body.to_vec()).unwrap()))
    }

    #[test]
    fn a_text_is_one_unless_the_operator_says_otherwise() {
        let respond = |headers: &[(&str, &str)], body: &str| {
            let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            answer(Action::Respond(Respond { status: 203, headers, body: body.to_owned(), ..Respond::default() }))
                .unwrap()
        };
        let text = "content-type: text/plain; charset=utf-8";
        assert_eq!(respond(&[], "hello"), (203, text.to_owned(), "hello".to_owned()));
        assert_eq!(respond(&[("X", "y")], "hello").1, format!("X: y, {text}"));
        assert_eq!(respond(&[("Content-Type", "text/html")], "hello").1, "Content-Type: text/html");
        assert_eq!(respond(&[], "").1, "");
    }

    #[test]
    fn a_redirect_says_where_and_an_upstream_is_no_answer() {
        let redirect = Redirect { host: Some("b.example".to_owned()), ..Redirect::default() };
        let expected = (308, "location: https://b.example:81/x?y".to_owned(), String::new());
        assert_eq!(answer(Action::Redirect(redirect)), Some(expected));
        assert_eq!(answer(Action::Upstream("app".into())), None);
    }
}
