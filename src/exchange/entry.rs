//! A line of the access log in the making.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::masking::{without_id, without_secrets};
use super::request::RequestHead;
use crate::access_log::{Event, Record};
use crate::listener::Info;
use crate::roster::Origin;
use crate::session::Key;
use crate::trace::Trace;
use crate::upstream::Lease;

/// A line of the access log in the making.
pub(crate) struct Entry {
    record: Record,
    started: Instant,
    /// Its trace, where that is recorded.
    pub(crate) trace: Option<Box<Trace>>,
}

impl Entry {
    pub(crate) fn new(info: &Info, protocol: &'static str, began: SystemTime, started: Instant) -> Self {
        let record = Record {
            event: Event::Request,
            began,
            duration: Duration::ZERO,
            first_byte: None,
            queued: Duration::ZERO,
            client: info.peer.ip().to_canonical(),
            user: None,
            certificate: info.tls.as_ref().and_then(|tls| tls.client.as_ref()).map(|client| Arc::clone(&client.logged)),
            listener: Arc::clone(&info.listener),
            protocol,
            transport: None,
            secure: info.secure(),
            method: Cow::Borrowed(""),
            host: String::new(),
            target: String::new(),
            session: String::new(),
            search: "",
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
            unique_id: info.unique_id(),
        };
        Self { record, started, trace: None }
    }

    /// What the client asked for; `secrets` are names of parameters that are not told.
    pub(crate) fn request(&mut self, request: &RequestHead<'_>, secrets: &[Box<str>]) {
        self.method = known_method(request.method).map_or_else(|| request.method.to_owned().into(), Cow::Borrowed);
        request.authority.unwrap_or("").clone_into(&mut self.host);
        self.target = without_secrets(request.target, secrets).into_owned();
    }

    /// How its session travels, and which one it is: what its table calls it, and its id, which is not kept, since who
    /// knows it can speak as the client.
    pub(super) fn session(&mut self, transport: Option<&'static str>, begun: Option<&(Key, Box<str>)>) {
        self.transport = transport;
        if let Some((key, id)) = begun {
            self.session = key.to_string();
            if let Some(masked) = without_id(&self.target, id) {
                self.target = masked;
            }
        }
    }

    /// Who took it.
    pub(crate) fn taken(&mut self, lease: &Lease) {
        self.upstream = Some(Arc::clone(lease.upstream().name()));
        self.server = Some(Arc::clone(lease.server().name()));
        self.queued = lease.waited();
    }

    /// The way by which it came in.
    pub(crate) fn origin(&self) -> Origin {
        Origin { listener: Arc::clone(&self.listener), route: self.route.clone() }
    }

    /// How long it has been since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The line as it stands, for an event in between.
    pub(crate) fn now(&self, event: Event) -> Record {
        Record { event, duration: self.elapsed(), ..self.record.clone() }
    }

    /// The line, ended now.
    pub(crate) fn finish(mut self) -> Record {
        self.record.duration = self.elapsed();
        self.record
    }
}

/// The methods that nearly every request has (RFC 9110 9.3, RFC 5789), which then cost no allocation.
fn known_method(method: &str) -> Option<&'static str> {
    const KNOWN: [&str; 7] = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"];
    KNOWN.into_iter().find(|&known| known == method)
}

impl Deref for Entry {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl DerefMut for Entry {
    fn deref_mut(&mut self) -> &mut Record {
        &mut self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::testing::info;
    use crate::request::Headers;
    use crate::session::SessionTable;

    #[test]
    fn session_ids_stay_out_of_the_log_and_can_still_be_followed() {
        let table = SessionTable::new(1);
        let line = |target: &str, id: Option<&str>| {
            let mut entry = Entry::new(&info(), "HTTP/1.1", SystemTime::now(), Instant::now());
            let headers = Headers::Fields(&[]);
            entry.request(&RequestHead { method: "GET", target, authority: None, headers, websocket: false }, &[]);
            entry.session(Some("polling"), id.map(|id| (table.key(id), id.into())).as_ref());
            entry.finish()
        };
        let id = Some("Zm9vYmFyYmF6cXV4MTIz");
        let poll = line("/socket.io/?EIO=4&transport=polling&sid=Zm9vYmFyYmF6cXV4MTIz", id);
        assert_eq!(
            (poll.target.as_str(), poll.transport),
            ("/socket.io/?EIO=4&transport=polling&sid=...", Some("polling"))
        );
        let socket = line("/socket.io/1/websocket/Zm9vYmFyYmF6cXV4MTIz", id);
        assert_eq!((socket.target.as_str(), &socket.session), ("/socket.io/1/websocket/...", &poll.session));
        assert_eq!(poll.session.len(), 16);
        let made_up = line("/socket.io/?EIO=4&transport=polling&x=4&sid=4&token=abc", Some("4"));
        assert_eq!(made_up.target, "/socket.io/?EIO=4&transport=polling&x=4&sid=...&token=...");
        let elsewhere = SessionTable::new(1).key("Zm9vYmFyYmF6cXV4MTIz").to_string();
        assert_ne!(
            elsewhere, poll.session,
            "the hash is keyed: without the gateway's secret nobody can tell an id by it"
        );
        assert_eq!(line("/socket.io/?EIO=4&transport=polling", None).session, "");
    }
}
