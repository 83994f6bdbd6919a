//! What a server is asked on behalf of a client: the fields, the host, and whom it is told of.

use super::place::Ties;
use super::{Exchange, RequestHead, ServerFields};
use crate::http::config::HostHeader;
use crate::http::forwarding::Seen;
use crate::http::onward::Onward;
use crate::listener::Info;
use crate::wire::proxy_protocol::{Header, Subject};

impl Exchange {
    /// Which of the client's fields go on to the server, and what is added to them.
    pub(crate) fn to_server<'a>(&'a self, request: &RequestHead<'a>) -> ServerFields<'a> {
        let seen = Seen {
            peer: self.info.peer.ip(),
            client: self.client,
            local_port: self.info.local.port(),
            secure: self.secure(),
            authority: request.authority,
            headers: request.headers,
        };
        let onward = Onward::new(&self.snapshot.config.forwarding, seen, &self.request_id);
        // A compressed handshake could not be read as it passes; it is too short to be worth it anyway.
        let plain = self.ties.as_ref().is_some_and(Ties::reads_answer);
        let client = self.info.tls.as_ref().and_then(|tls| tls.client.as_deref());
        let fields = ServerFields::new(onward, &self.changes.to_server, plain, (self.snapshot.asks_clients, client));
        match self.mark_for_peer(request) {
            Some(mark) => fields.for_peer(mark),
            None => fields,
        }
    }

    /// Whom the server is told of at the start of a connection; `None` where it is told of nobody. Such a connection is for
    /// no other client.
    pub(crate) fn subject(&self) -> Option<Subject> {
        self.upstream.as_ref()?.config().proxy_protocol?;
        let Info { peer, local, .. } = &*self.info;
        // Of a client that a trusted proxy tells of in a field the port is not known.
        let port = if self.client == peer.ip().to_canonical() { peer.port() } else { 0 };
        Some(Subject::Client { source: (self.client, port).into(), destination: *local })
    }

    /// What tells the server so.
    pub(crate) fn proxy_header(&self) -> Option<Box<Header>> {
        let subject = self.subject()?;
        Some(Box::new(Header { subject, tlvs: self.info.tlvs(self.request_id.as_str()) }))
    }

    /// The host that the server is asked for.
    pub(crate) fn host<'a>(&'a self, request: &RequestHead<'a>) -> Option<&'a [u8]> {
        if let Some(host) = self.changes.to_server.value("host") {
            return Some(host.as_bytes());
        }
        if self.is_to_peer() {
            return request.authority.map(str::as_bytes);
        }
        let of_route = self.route.as_ref().and_then(|route| route.policy.as_ref()?.host.as_ref());
        match of_route.or(self.upstream.as_ref().map(|upstream| &upstream.config().host)) {
            Some(HostHeader::Set(host)) => Some(host.as_bytes()),
            _ => request.authority.map(str::as_bytes),
        }
    }
}
