//! A line of the access log in the making.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::asked::Asked;
use crate::access_log::{Event, Record};
use crate::drain::Origin;
use crate::listener::Info;
use crate::session::Key;
use crate::upstream::Lease;
use crate::wire::engine_io::RequestInfo;

/// A line of the access log in the making.
pub(super) struct Line {
    record: Record,
    started: Instant,
}

impl Line {
    pub(super) fn new(info: &Info, protocol: &'static str, began: SystemTime, started: Instant) -> Self {
        let record = Record {
            event: Event::Request,
            began,
            duration: Duration::ZERO,
            first_byte: None,
            queued: Duration::ZERO,
            client: info.peer.ip().to_canonical(),
            listener: Arc::clone(&info.listener),
            protocol,
            transport: None,
            secure: info.tls.is_some(),
            method: Cow::Borrowed(""),
            host: String::new(),
            target: String::new(),
            session: String::new(),
            status: 0,
            route: None,
            upstream: None,
            server: None,
            tries: 0,
            bytes_in: 0,
            bytes_out: 0,
            messages_in: 0,
            messages_out: 0,
            closed_by: "",
            close_code: None,
            request_id: String::new(),
        };
        Self { record, started }
    }

    /// What the client asked for.
    pub(super) fn asked(&mut self, asked: &Asked<'_>) {
        self.method = known_method(asked.method).map_or_else(|| asked.method.to_owned().into(), Cow::Borrowed);
        asked.authority.unwrap_or("").clone_into(&mut self.host);
        asked.target.clone_into(&mut self.target);
    }

    /// How Engine.IO travels, and which session it is; only asked on upstreams that speak it, since other apps use the
    /// same words. The id itself is not kept: who knows it can speak as the client. `key` is what the table calls it.
    pub(super) fn engine_io(&mut self, path: &str, query: Option<&str>, key: impl FnOnce(&str) -> Key) {
        let info = RequestInfo::read(path, query);
        self.transport = info.transport.map(|transport| transport.as_str());
        if let Some(sid) = info.sid {
            self.session = key(sid).to_string();
            self.target = self.target.replace(sid, "...");
        }
    }

    /// Who took it.
    pub(super) fn taken(&mut self, lease: &Lease) {
        self.upstream = Some(Arc::clone(lease.upstream().name()));
        self.server = Some(Arc::clone(lease.server().name()));
        self.queued = lease.waited();
    }

    /// The way by which it came in.
    pub(super) fn origin(&self) -> Origin {
        Origin { listener: Arc::clone(&self.listener), route: self.route.clone() }
    }

    /// How long it has been since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The line as it stands, for an event in between.
    pub(super) fn now(&self, event: Event) -> Record {
        Record { event, duration: self.elapsed(), ..self.record.clone() }
    }

    /// The line, ended now.
    pub(super) fn finish(mut self) -> Record {
        self.record.duration = self.elapsed();
        self.record
    }
}

/// The methods that nearly every request has (RFC 9110 9.3, RFC 5789), which then cost no allocation.
fn known_method(method: &str) -> Option<&'static str> {
    const KNOWN: [&str; 7] = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"];
    KNOWN.into_iter().find(|&known| known == method)
}

impl Deref for Line {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl DerefMut for Line {
    fn deref_mut(&mut self) -> &mut Record {
        &mut self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;
    use crate::session::SessionTable;

    #[test]
    fn session_ids_stay_out_of_the_log_and_can_still_be_followed() {
        let info = crate::listener::testing::info();
        let table = SessionTable::new(1);
        let line = |target: &str| {
            let mut line = Line::new(&info, "HTTP/1.1", SystemTime::now(), Instant::now());
            let headers = Headers::Fields(&[]);
            let asked = Asked { method: "GET", target, authority: None, headers, websocket: false };
            line.asked(&asked);
            let (path, query) = asked.path_and_query();
            line.engine_io(path, query, |sid| table.key(sid));
            line.finish()
        };
        let poll = line("/socket.io/?EIO=4&transport=polling&sid=Zm9vYmFyYmF6cXV4MTIz");
        assert_eq!(
            (poll.target.as_str(), poll.transport),
            ("/socket.io/?EIO=4&transport=polling&sid=...", Some("polling"))
        );
        let socket = line("/socket.io/1/websocket/Zm9vYmFyYmF6cXV4MTIz");
        assert_eq!((socket.target.as_str(), &socket.session), ("/socket.io/1/websocket/...", &poll.session));
        assert_eq!(poll.session, table.key("Zm9vYmFyYmF6cXV4MTIz").to_string());
        assert_eq!(poll.session.len(), 16);
        assert_eq!(line("/socket.io/?EIO=4&transport=polling").session, "");
    }
}
