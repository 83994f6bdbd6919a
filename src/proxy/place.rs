//! Where a request goes within its upstream: the server of its session, else the one that the client was on, else the
//! one that the balance picks.

use std::sync::Arc;
use std::time::Duration;

use crate::affinity::session::How;
use crate::snapshot::{Pool, Sessions};
use crate::upstream::config::Kind;
use crate::upstream::{Lease, PickError, PickKey, ServerId, Tried};
use crate::wire::engine_io::{RequestInfo, Revision, Transport};

/// What is known of a request before it has a server.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: PickKey,
    /// What it says of its session; `None` on upstreams that have none.
    pub(super) session: Option<SessionAsk>,
}

/// What a request to a Socket.IO upstream says of its session.
#[derive(Clone, Debug)]
pub(super) struct SessionAsk {
    /// The session, if it has begun.
    pub(super) sid: Option<Box<str>>,
    /// The path that the server listens at.
    path: Box<str>,
    pub(super) revision: Revision,
    pub(super) transport: Option<Transport>,
    pub(super) jsonp: Option<u32>,
}

impl Ask {
    pub(super) fn new(pool: &Pool, key: PickKey, path: &str, query: Option<&str>) -> Self {
        if pool.upstream.config().kind != Kind::SocketIo {
            return Self { key, session: None };
        }
        let info = RequestInfo::read(path, query);
        let session = SessionAsk {
            sid: info.sid.map(Into::into),
            path: path.into(),
            // A server reads a request without EIO as revision 3.
            revision: info.revision.unwrap_or(Revision::Eio3),
            transport: info.transport,
            jsonp: info.jsonp,
        };
        Self { key, session: Some(session) }
    }

    /// Whether the answer to this request may open a session.
    pub(super) fn opens_session(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.sid.is_none() && session.transport != Some(Transport::WebSocket))
    }
}

/// Finds a place for a request; `tried` are servers that could not be connected to.
pub(super) async fn place(pool: &Pool, ask: &Ask, tried: &mut Tried) -> Result<Lease, PickError> {
    let (Some(sessions), Some(session)) = (&pool.sessions, &ask.session) else {
        return pool.upstream.pick(&ask.key, tried).await;
    };
    if let Some(sid) = &session.sid
        && let Some(lease) = home_of(pool, sessions, session, sid, &ask.key, tried).await
    {
        tried.add(lease.server().id());
        return Ok(lease);
    }
    pool.upstream.pick(&ask.key, tried).await
}

/// The server of a session that has begun. A session that this gateway has not seen (it was restarted, or another
/// replica opened it) is looked for among the servers, and remembered. `None`: nobody knows it, or its server is gone.
async fn home_of(
    pool: &Pool,
    sessions: &Sessions,
    session: &SessionAsk,
    sid: &str,
    key: &PickKey,
    tried: &Tried,
) -> Option<Lease> {
    let upstream = &pool.upstream;
    if let Some(found) = sessions.table.find(sid) {
        let id = ServerId::from_bits(found.server);
        return if tried.contains(id) { None } else { upstream.return_to(id) };
    }
    // One at a time for each of these places: a stranger who makes up ids can't have all servers asked at once.
    let asking = sessions.searches.acquire().await.ok()?;
    // Somebody else may have found it while this request waited.
    let found = sessions.table.find(sid).map(|found| ServerId::from_bits(found.server));
    let id = match found {
        Some(id) => id,
        None => search(pool, session, sid, key).await?,
    };
    if found.is_none() {
        sessions.learn(sid, id, UNKNOWN_LIFE, How::Found);
    }
    drop(asking);
    upstream.return_to(id)
}

/// How long a session is remembered whose handshake was not seen: the defaults of Socket.IO 4 twice over.
const UNKNOWN_LIFE: Duration = Duration::from_secs(90);
/// Most servers that are asked for one session.
const MOST_ASKED: usize = 16;

/// Asks the servers in ring order, beginning where the client's hash points: there most sessions are.
async fn search(pool: &Arc<Pool>, session: &SessionAsk, sid: &str, key: &PickKey) -> Option<ServerId> {
    let servers = pool.upstream.in_ring_order(key);
    // With one server there is nothing to find out.
    if servers.len() < 2 {
        return None;
    }
    for server in servers.iter().take(MOST_ASKED) {
        if pool.upstream.knows(server, &session.path, sid, session.revision).await {
            return Some(server.id());
        }
    }
    None
}
