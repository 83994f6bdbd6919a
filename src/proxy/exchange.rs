//! What is remembered of one exchange from its head to its line in the access log.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::learn::Learner;
use super::place::Ask;
use crate::access_log::{Event, Record};
use crate::drain::{Leave, Origin, Why};
use crate::http::Refusal;
use crate::listener::Info;
use crate::router::Route;
use crate::snapshot::{Pool, Snapshot};
use crate::upstream::{Lease, Tried};
use crate::wire::engine_io::RequestInfo;

/// The context of one request on its way through the [`super::Balancer`].
pub struct Exchange {
    /// The configuration that this request lives by.
    pub snapshot: Arc<Snapshot>,
    /// The connection that it came in by.
    pub info: Option<Arc<Info>>,
    /// The route that matched.
    pub route: Option<Arc<Route>>,
    /// The upstream that it goes to.
    pub pool: Option<Arc<Pool>>,
    /// What it says of its client and session.
    pub(super) ask: Option<Ask>,
    /// Learns from the answer, where it may open a session.
    pub(super) learner: Option<Learner>,
    /// The start of an error answer to a request of a session.
    pub(super) error_body: Option<Vec<u8>>,
    /// Its place on a server.
    pub lease: Option<Lease>,
    /// Whether its server has been connected to.
    pub reached: bool,
    /// Servers that could not be connected to.
    pub tried: Tried,
    /// Servers asked so far.
    pub tries: u32,
    /// The client, as forwarding tells it.
    pub client: std::net::IpAddr,
    /// The id in `X-Request-Id`.
    pub request_id: String,
    /// Its place on the list of those who can be told to leave, for a poll that can't be answered in the middle.
    pub(super) leave: Option<Arc<Leave>>,
    /// Why the session was told goodbye in place of an answer.
    pub(super) told: Option<Why>,
    /// Why the gateway answers by itself.
    pub refusal: Option<Refusal>,
    /// Body bytes received from the client.
    pub body_in: u64,
    /// When the head was whole.
    pub began: SystemTime,
    /// The same, for durations.
    pub started: Instant,
    /// When the first byte of the server's answer came.
    pub first_byte: Option<Instant>,
    /// Time spent waiting for a server to have room.
    pub queued: Duration,
}

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
            method: String::new(),
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
    pub(super) fn asked(&mut self, method: &str, authority: Option<&str>, target: &str) {
        method.clone_into(&mut self.method);
        authority.unwrap_or("").clone_into(&mut self.host);
        target.clone_into(&mut self.target);
    }

    /// How Engine.IO travels, and which session it is; only asked on upstreams that speak it, since other apps use the
    /// same words. The id itself is not kept: who knows it can speak as the client.
    pub(super) fn engine_io(&mut self, path: &str, query: Option<&str>) {
        let info = RequestInfo::read(path, query);
        self.transport = info.transport.map(|transport| transport.as_str());
        if let Some(sid) = info.sid {
            let mut hasher = DefaultHasher::new();
            sid.hash(&mut hasher);
            self.session = format!("{:016x}", hasher.finish());
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
    use crate::listener::Pending;

    #[test]
    fn session_ids_stay_out_of_the_log_and_can_still_be_followed() {
        let unknown = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let info = Info {
            listener: "web".into(),
            peer: unknown,
            local: unknown,
            tls: None,
            accepted: Instant::now(),
            pending: Pending::default(),
        };
        let line = |target: &str| {
            let mut line = Line::new(&info, "HTTP/1.1", SystemTime::now(), Instant::now());
            line.asked("GET", None, target);
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            line.engine_io(path, Some(query));
            line.finish()
        };
        let poll = line("/socket.io/?EIO=4&transport=polling&sid=Zm9vYmFyYmF6cXV4MTIz");
        assert_eq!(
            (poll.target.as_str(), poll.transport),
            ("/socket.io/?EIO=4&transport=polling&sid=...", Some("polling"))
        );
        let socket = line("/socket.io/1/websocket/Zm9vYmFyYmF6cXV4MTIz");
        assert_eq!((socket.target.as_str(), &socket.session), ("/socket.io/1/websocket/...", &poll.session));
        assert_eq!(poll.session.len(), 16);
        assert_eq!(line("/socket.io/?EIO=4&transport=polling").session, "");
    }
}
