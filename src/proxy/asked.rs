//! What a client asks for, as whatever engine has read it.

use std::net::IpAddr;

use crate::http::Refusal;
use crate::http::head::Head;
use crate::http::upgrade::opening;
use crate::listener::Info;
use crate::request::{Headers, Path, Request, host_name};

/// A request's head, borrowed from the engine that parsed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    /// Path and query as sent.
    pub(super) target: &'a str,
    /// The host asked for, as sent.
    pub(super) authority: Option<&'a str>,
    pub(super) headers: Headers<'a>,
    /// Whether it opens a WebSocket.
    pub(super) websocket: bool,
}

impl<'a> Asked<'a> {
    /// What a decision looks at; `client` is whom forwarding takes the client for.
    pub(super) fn request(&self, info: Option<&'a Info>, client: IpAddr) -> Result<Request<'a>, Refusal> {
        let (path, query) = self.path_and_query();
        Ok(Request {
            method: self.method,
            host: self.authority.map(host_name),
            path: Path::read(path).map_err(Refusal::BadPath)?,
            query,
            headers: self.headers,
            websocket: self.websocket,
            listener: info.map_or("", |info| &info.listener),
            secure: info.is_some_and(|info| info.tls.is_some()),
            client,
        })
    }

    /// Path and query apart.
    pub(super) fn path_and_query(&self) -> (&'a str, Option<&'a str>) {
        self.target.split_once('?').map_or((self.target, None), |(path, query)| (path, Some(query)))
    }
}

impl<'a> Head<'a> {
    /// What the client asks for.
    pub(super) fn asked(&self) -> Asked<'a> {
        let headers = Headers::Fields(self.fields);
        Asked {
            method: self.method,
            target: self.path_and_query(),
            authority: self.authority(),
            headers,
            websocket: opening(self.method, self.minor_version, &headers).is_some(),
        }
    }
}
