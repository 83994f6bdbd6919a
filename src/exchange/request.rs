//! The head of a request, borrowed from whatever has read it: an engine, or the reader of HTTP/1 heads.

use std::net::IpAddr;

use crate::http::Refusal;
use crate::http::head::Head;
use crate::http::upgrade::opening;
use crate::listener::Info;
use crate::request::{Headers, Path, Request, host_name};

/// A request's head, as every decision begins with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a str,
    /// Path and query as sent.
    pub(crate) target: &'a str,
    /// The host asked for, as sent.
    pub(crate) authority: Option<&'a str>,
    pub(crate) headers: Headers<'a>,
    /// Whether it opens a WebSocket.
    pub(crate) websocket: bool,
}

impl RequestHead<'_> {
    /// Nothing, for what has no request, or has it in the log already.
    pub(crate) const NONE: RequestHead<'static> =
        RequestHead { method: "", target: "", authority: None, headers: Headers::Fields(&[]), websocket: false };
}

impl<'a> RequestHead<'a> {
    /// What filters, routers and balances look at; `client` is whom forwarding takes the client for.
    pub(super) fn request(&self, info: &'a Info, client: IpAddr) -> Result<Request<'a>, Refusal> {
        let (path, query) = self.path_and_query();
        Ok(Request {
            method: self.method,
            host: self.authority.map(host_name),
            path: Path::read(path).map_err(Refusal::BadPath)?,
            query,
            headers: self.headers,
            websocket: self.websocket,
            listener: &info.listener,
            port: info.local.port(),
            secure: info.secure(),
            server_name: info.server_name(),
            client,
        })
    }

    /// That of a head which is known to open no WebSocket.
    pub(crate) fn plain(head: &Head<'a>) -> Self {
        let (method, target, authority) = (head.method, head.path_and_query(), head.authority());
        Self { method, target, authority, headers: Headers::Fields(head.fields), websocket: false }
    }

    /// Path and query apart.
    pub(super) fn path_and_query(&self) -> (&'a str, Option<&'a str>) {
        self.target.split_once('?').map_or((self.target, None), |(path, query)| (path, Some(query)))
    }
}

impl<'a> From<&Head<'a>> for RequestHead<'a> {
    fn from(head: &Head<'a>) -> Self {
        let websocket = opening(head.method, head.minor_version, &Headers::Fields(head.fields)).is_some();
        Self { websocket, ..Self::plain(head) }
    }
}
