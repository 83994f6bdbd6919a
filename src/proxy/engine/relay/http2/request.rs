//! A request of HTTP/2, and the head that its server gets.

use bytes::Bytes;
use h2::RecvStream;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHORIZATION, SEC_WEBSOCKET_KEY, TE, TRAILER};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::exchange::{Exchange, RequestHead, ServerFields};
use crate::http::framing::{Body, Malformed};
use crate::http::grpc::is_grpc;
use crate::http::head::is_authority;
use crate::http::response::is_of_connection;
use crate::http::trailers::announced;
use crate::http::write::HeadWriter;
use crate::http::{Limits, Refusal};
use crate::request::Headers;
use crate::text::Text;

/// Fields that are added to a head on its way, mostly.
const ADDED: usize = 8;

/// What is kept of a request while it is carried.
pub(super) struct Asked {
    parts: Parts,
    pub(super) body: Body,
    /// Whether it opens a WebSocket.
    websocket: bool,
}

impl Asked {
    /// The head of a request, whose body begins `body`.
    pub(super) fn new(parts: Parts, body: &RecvStream) -> Self {
        let body = match (body.is_end_stream(), length(&parts.headers)) {
            (true, _) => Body::None,
            (false, Some(length)) => Body::Length(length),
            (false, None) => Body::Chunked,
        };
        Self { parts, body, websocket: false }
    }

    /// The head of a request that opens a WebSocket (RFC 8441).
    pub(super) fn opening(parts: Parts) -> Self {
        Self { parts, body: Body::None, websocket: true }
    }

    /// What decisions look at.
    pub(super) fn line(&self) -> RequestHead<'_> {
        let Parts { method, uri, headers, .. } = &self.parts;
        let host = || headers.get(HOST)?.to_str().ok();
        RequestHead {
            // It is asked as HTTP/1.1 has it.
            method: if self.websocket { Method::GET.as_str() } else { method.as_str() },
            target: uri.path_and_query().map_or("/", |target| target.as_str()),
            authority: uri.authority().map(|authority| authority.as_str()).or_else(host),
            headers: Headers::Map(headers),
            websocket: self.websocket,
        }
    }

    /// Why it is not carried whatever the routes say; `None` where it may be.
    pub(super) fn fault(&self, limits: &Limits) -> Option<Refusal> {
        let Parts { method, uri, headers, .. } = &self.parts;
        if method == Method::CONNECT && !self.websocket {
            return Some(Refusal::Method);
        }
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        if !(target.starts_with('/') || target == "*" && method == Method::OPTIONS) {
            return Some(Refusal::BadRequest);
        }
        if self.line().authority.is_some_and(|host| !is_authority(host.as_bytes())) {
            return Some(Refusal::Malformed(Malformed::Host));
        }
        if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            return Some(Refusal::Malformed(Malformed::Length));
        }
        let size: u64 = headers.iter().map(|(name, value)| (name.as_str().len() + value.len() + 4) as u64).sum();
        let size = size + target.len() as u64;
        let too_many = limits.headers != 0 && headers.len() > limits.headers;
        if too_many || size > limits.head.as_u64() {
            return Some(Refusal::HeadTooLarge);
        }
        let most = limits.body.as_u64();
        (most != 0 && self.announced().is_some_and(|length| length > most)).then_some(Refusal::BodyTooLarge)
    }

    pub(super) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// Whether it may be sent again: asking twice does no more than asking once, and nothing of it has passed by.
    pub(super) fn is_repeatable(&self) -> bool {
        self.parts.method.is_idempotent() && self.body == Body::None
    }

    /// Whether it logs its connection to the server in, which must be used for nobody else then.
    pub(super) fn logs_connection_in(&self) -> bool {
        let values = |name| self.parts.headers.get_all(name).into_iter();
        values(AUTHORIZATION).chain(values(PROXY_AUTHORIZATION)).any(|value| is_of_connection(value.as_bytes()))
    }

    /// The length that it announces.
    pub(super) fn announced(&self) -> Option<u64> {
        match self.body {
            Body::None => Some(0),
            Body::Length(length) => Some(length),
            Body::Chunked | Body::UntilClose => None,
        }
    }

    /// The same for a WebSocket: an upgrade of HTTP/1.1, with a key of the gateway's own (RFC 8441 5).
    pub(super) fn to_upgrade(&self, exchange: &Exchange, key: &str) -> Vec<u8> {
        let line = self.line();
        let fields = exchange.to_server(&line);
        let mut head = HeadWriter::request(line.method, exchange.target(&line), 1);
        if let Some(host) = exchange.host(&line) {
            head.field("host", host);
        }
        head.field("upgrade", "websocket");
        head.field("connection", "Upgrade");
        head.field("sec-websocket-key", key);
        self.pass_fields(&fields, &mut head);
        fields.add(|name, value| head.field(name, value));
        head.end()
    }

    /// Whether it is a call of gRPC, whatever its messages are written in; gRPC-Web is plain HTTP.
    pub(super) fn is_grpc(&self) -> bool {
        is_grpc(&self.line().headers)
    }

    /// The head as the server of the exchange's lease gets it by HTTP/2; `None` where it can't be told.
    pub(super) fn to_http2(&self, exchange: &Exchange) -> Option<Request<()>> {
        let line = self.line();
        let fields = exchange.to_server(&line);
        let lease = exchange.lease()?;
        let authority = match exchange.host(&line) {
            Some(host) => Authority::try_from(host),
            None => Authority::try_from(lease.upstream().own_host(lease.server()).as_bytes()),
        };
        let mut request = Request::new(());
        *request.method_mut() = self.parts.method.clone();
        // That of the connection, as strict servers expect: what the client speaks stands in the forwarded fields.
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if lease.upstream().tls().is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(authority.ok()?);
        uri.path_and_query = match exchange.target(&line) {
            // Not read again where it is the client's.
            target if std::ptr::eq(target, line.target) => self.parts.uri.path_and_query().cloned(),
            target => Some(target.parse().ok()?),
        };
        *request.uri_mut() = Uri::from_parts(uri).ok()?;
        let mut headers = HeaderMap::with_capacity(self.parts.headers.len() + ADDED);
        for (name, value) in &self.parts.headers {
            if !matches!(*name, HOST | CONTENT_LENGTH) && fields.pass(name.as_str()) {
                headers.append(name.clone(), value.clone());
            }
        }
        if line.headers.lists("te", "trailers") {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Body::Length(length) = self.body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if self.body == Body::Chunked
            && let Some(names) = announced(line.headers, |name| fields.pass(name))
        {
            headers.insert(TRAILER, HeaderValue::from_bytes(&names).ok()?);
        }
        let mut all = true;
        fields.add(|name, value| match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            (Ok(name), Ok(value)) => {
                headers.append(name, value);
            }
            _ => all = false,
        });
        *request.headers_mut() = headers;
        all.then_some(request)
    }

    /// The head as the server of the exchange's lease gets it.
    pub(super) fn to_server(&self, exchange: &Exchange) -> Bytes {
        let line = self.line();
        let fields = exchange.to_server(&line);
        let mut head = HeadWriter::request(line.method, exchange.target(&line), 1);
        match (exchange.host(&line), exchange.lease()) {
            (Some(host), _) => head.field("host", host),
            (None, Some(lease)) => head.field("host", lease.upstream().own_host(lease.server()).as_bytes()),
            (None, None) => {}
        }
        self.pass_fields(&fields, &mut head);
        match self.body {
            Body::Length(length) => head.field("content-length", Text::number(length).as_bytes()),
            Body::Chunked | Body::UntilClose => {
                head.field("transfer-encoding", "chunked");
                if let Some(names) = announced(line.headers, |name| fields.pass(name)) {
                    head.field("trailer", names);
                }
            }
            // Servers may wait for what such a method means to have (RFC 9110 8.6).
            Body::None if matches!(self.parts.method, Method::POST | Method::PUT | Method::PATCH) => {
                head.field("content-length", "0");
            }
            Body::None => {}
        }
        fields.add(|name, value| head.field(name, value));
        head.end().into()
    }
}

impl Asked {
    /// Writes those fields that go on as the client sent them.
    fn pass_fields(&self, fields: &ServerFields<'_>, head: &mut HeadWriter) {
        for (name, value) in &self.parts.headers {
            let ours = matches!(*name, HOST | CONTENT_LENGTH | COOKIE | SEC_WEBSOCKET_KEY);
            if !ours && fields.pass(name.as_str()) {
                head.field(name.as_str(), value.as_bytes());
            }
        }
        // Clients send cookies in pieces (RFC 9113 8.2.3); servers of HTTP/1.1 expect one field.
        if fields.pass("cookie") {
            let cookies: Vec<&[u8]> =
                self.parts.headers.get_all(COOKIE).iter().map(|cookie| cookie.as_bytes()).collect();
            if !cookies.is_empty() {
                head.field("cookie", cookies.join(&b"; "[..]));
            }
        }
    }
}

/// The length that a body announces; the crate sees to it that it has it.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
