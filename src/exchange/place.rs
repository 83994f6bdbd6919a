//! Where a request goes within its upstream: the server of its session, or the one that the balance picks.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::HeaderValue;
use rand::Rng;

use crate::affinity::stable_hash;
use crate::request::{Request, host_name};
use crate::session::{Arrival, Cause, Found, Goodbye, Key, LastWords, SessionProtocol, SessionRequest};
use crate::upstream::{AskedPeers, Lease, PickError, PickKey, Questions, ServerId, Sought, Tried, Upstream, Wanted};

/// What ties a request to a server, as far as the request says.
#[derive(Clone, Debug)]
pub(super) struct Ties {
    pub(super) client: PickKey,
    /// The server that the client's cookie names.
    was_on: Option<ServerId>,
    /// The server that the client's connection has one to.
    pub(super) wish: Option<ServerId>,
    /// Whether another site's page makes the request, which decides what cookies it may have.
    cross_site: bool,
    /// What it says of its session; `None` on upstreams that have none.
    pub(super) session: Option<SessionTie>,
}

/// Whether the session that a request names is known to live there.
pub(super) fn lives_in(upstream: &Upstream, request: &Request<'_>) -> bool {
    let known = upstream.sessions().zip(upstream.session_protocol());
    let found = known.and_then(|(table, protocol)| table.find(table.key(protocol.read(request).id?)));
    found.is_some()
}

/// What a request says of its session, and what was known of that when it came.
#[derive(Clone, Debug)]
pub(super) struct SessionTie {
    /// The session that the request names, and what the table calls it.
    pub(super) begun: Option<(Key, Box<str>)>,
    /// What else its protocol says of the request.
    pub(super) said: SessionRequest<'static>,
    /// Where the session lives.
    pub(super) found: Option<Found>,
    /// Where it opens one, if nobody expects that there.
    pub(super) path: Option<Box<str>>,
    /// What servers can be asked for a session that the table does not know.
    questions: Option<Arc<Questions>>,
    /// What came of asking them.
    pub(super) sought: Option<Sought>,
    /// Other gateways, which may know it.
    pub(super) peers: Option<Box<AskedPeers>>,
    /// Whether even a single server is asked, since another gateway wants to know.
    pub(super) is_thorough: bool,
    /// Whether this is a poll that can be answered with a goodbye.
    says_goodbye: bool,
}

impl SessionTie {
    /// `None` where the operator has said that sessions are elsewhere.
    fn new(upstream: &Upstream, request: &Request<'_>) -> Option<Self> {
        let (table, protocol) = (upstream.sessions()?, upstream.session_protocol()?);
        let path = &*request.path.canonical;
        if !upstream.config().sessions.paths.is_empty() && !upstream.expects_sessions_at(path) {
            return None;
        }
        let said = protocol.read(request);
        if said.is_ambiguous {
            // Nobody is asked about either.
            let said = SessionRequest { is_ambiguous: true, ..SessionRequest::default() };
            let (begun, found, path, questions, sought) = (None, None, None, None, None);
            let (peers, is_thorough, says_goodbye) = (None, false, false);
            return Some(Self { begun, said, found, path, questions, sought, peers, is_thorough, says_goodbye });
        }
        let begun = said.id.map(|id| (table.key(id), Box::from(id)));
        let found = begun.as_ref().and_then(|(key, _)| table.find(*key));
        let lost = said.id.filter(|_| found.is_none() && upstream.expects_sessions_at(path));
        let question = |id: &str| protocol.question(said.dialect, id, request);
        let questions = lost.and_then(|id| question(id).zip(question(&made_up_id())));
        let questions = questions.map(|(about, decoy)| Arc::new(Questions { about, decoy, fields: Vec::new() }));
        let path = (said.opens && !upstream.expects_sessions_at(path)).then(|| protocol.path_of_sessions(path).into());
        let says_goodbye = said.polls && protocol.says_goodbye(said.dialect, request);
        let said = SessionRequest { id: None, ..said };
        let (sought, peers, is_thorough) = (None, None, false);
        Some(Self { begun, said, found, path, questions, sought, peers, is_thorough, says_goodbye })
    }

    /// Whether servers can be asked for it.
    pub(super) fn can_be_asked_for(&self) -> bool {
        self.questions.is_some()
    }

    /// What came of looking for its session among the servers, where that was done.
    pub(super) fn sought(&self) -> Option<&'static str> {
        self.sought.map(Sought::as_str)
    }

    /// Whether its session is more than a WebSocket, however that ends.
    pub(super) fn goes_on_without_tunnels(&self, upstream: &Upstream) -> bool {
        let arrival = upstream.session_protocol().map(|protocol| protocol.arrival(self.said.dialect));
        arrival == Some(Arrival::Never)
    }

    /// How long its session may be silent, as far as its handshake was seen.
    pub(super) fn silence(&self, upstream: &Upstream) -> Option<Duration> {
        let (key, _) = self.begun.as_ref()?;
        upstream.sessions()?.silence(*key)
    }
}

impl Ties {
    /// What a request says; everything that placing it looks at.
    pub(super) fn new(upstream: &Upstream, request: &Request<'_>) -> Self {
        let mut client = PickKey { client: request.client, value: upstream.value_of(request) };
        let was_on = upstream.cookie.as_ref().and_then(|cookie| cookie.find(request)).map(ServerId::from_bits);
        let session = SessionTie::new(upstream, request);
        if let Some(SessionTie { begun: Some((_, id)), .. }) = &session
            && upstream.session_protocol().is_some_and(|protocol| protocol.clients_make_ids())
        {
            // Where clients choose ids, every gateway places them alike.
            client.value.get_or_insert_with(|| stable_hash(id.as_bytes()));
        }
        let cross_site = upstream.cookie.is_some() && is_cross_site(request);
        Self { client, was_on, wish: None, cross_site, session }
    }

    /// A raw connection, which says nothing.
    pub(super) fn silent(client: IpAddr) -> Self {
        Self { client: client.into(), was_on: None, wish: None, cross_site: false, session: None }
    }

    /// The value of the `Set-Cookie` that ties the client to the server that it has got, unless it is tied already.
    pub(super) fn set_cookie(&self, upstream: &Arc<Upstream>, server: ServerId, secure: bool) -> Option<HeaderValue> {
        let cookie = upstream.cookie.as_ref().filter(|_| self.was_on != Some(server))?;
        HeaderValue::try_from(cookie.set(server.to_bits(), self.cross_site, secure)).ok()
    }

    /// The server that the client's cookie names, or that was wished for otherwise.
    pub(super) fn wished(&self) -> Option<ServerId> {
        self.was_on.or(self.wish)
    }

    /// What servers can be asked for its session, before they are: to say in it who asks.
    pub(super) fn questions(&mut self) -> Option<&mut Questions> {
        Arc::get_mut(self.session.as_mut()?.questions.as_mut()?)
    }

    /// Whether it belongs to a session that has begun.
    pub(super) fn is_of_session(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.begun.is_some())
    }

    /// Whether this request may open a session; one that is known is open.
    pub(super) fn opens(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.said.opens && session.found.is_none())
    }

    /// Whether it names two sessions.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.said.is_ambiguous)
    }

    /// Whether its session lives for as long as its answer is under way.
    pub(super) fn streams(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.said.streams)
    }

    /// Whether its session was told to leave, and is over.
    pub(super) fn has_left(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.found.is_some_and(|found| found.has_left()))
    }

    /// Whether the request itself ends its session.
    pub(super) fn ends(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.said.ends)
    }

    /// Its session lives behind a peer, whose upstream calls it so and knows this of it.
    pub(super) fn move_to_peer(&mut self, key: Key, found: Option<Found>) {
        if let Some(session) = &mut self.session {
            if let Some((known, _)) = &mut session.begun {
                *known = key;
            }
            (session.found, session.path, session.questions) = (found, None, None);
        }
    }

    /// Whether a peer has its session.
    pub(super) fn is_at_peer(&self) -> bool {
        self.session.as_ref().is_some_and(|session| matches!(session.sought, Some(Sought::AtPeer(_))))
    }

    /// The answer that says that its session is unknown, where there is one.
    pub(super) fn unknown(&self, upstream: &Upstream) -> Option<Goodbye> {
        let session = self.session.as_ref().filter(|session| session.begun.is_some())?;
        upstream.session_protocol()?.unknown(session.said.dialect)
    }

    /// The answer that says that its session is over, where there is one.
    pub(super) fn over(&self, upstream: &Upstream) -> Option<Goodbye> {
        let session = self.session.as_ref().filter(|session| session.begun.is_some())?;
        upstream.session_protocol()?.over(session.said.dialect)
    }

    /// Whether the body of its answer is read.
    pub(super) fn reads_answer(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.said.reads_answer)
    }

    /// Whether it says anything of a session.
    pub(super) fn is_of_sessions(&self) -> bool {
        self.is_of_session() || self.opens() || self.polls()
    }

    /// Whether the server may take its time to answer.
    pub(super) fn polls(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.said.polls)
    }

    /// Whether this is a poll that can be answered with a goodbye.
    pub(super) fn says_goodbye(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.says_goodbye)
    }

    /// The answer that ends its session politely in the server's place, where this is such a poll.
    pub(super) fn goodbye(&self, upstream: &Upstream, request: &Request<'_>) -> Option<Goodbye> {
        let session = self.session.as_ref().filter(|session| session.says_goodbye)?;
        upstream.session_protocol()?.goodbye(session.said.dialect, request)
    }

    /// What is said last where its answer streams, and can be ended.
    pub(super) fn last_words(&self, upstream: &Upstream) -> Option<LastWords> {
        let session = self.session.as_ref().filter(|session| session.said.streams)?;
        upstream.session_protocol()?.last_words(session.said.dialect)
    }

    /// Takes note of a client's goodbye, which is the whole body of a POST: its session is over. Nothing else would tell,
    /// and it would be counted on its server until it expired.
    pub(super) fn note_client_goodbye(&self, upstream: &Upstream, body: &[u8]) {
        self.note_goodbye(upstream, Cause::Client, |protocol, dialect| protocol.is_client_goodbye(dialect, body));
    }

    /// Takes note of a server's goodbye, in the same way; these bytes are the end of the answer to a poll, or all of it.
    pub(super) fn note_server_goodbye(&self, upstream: &Upstream, end: &[u8], whole: bool) {
        self.note_goodbye(upstream, Cause::Server, |protocol, dialect| protocol.is_server_goodbye(dialect, end, whole));
    }

    fn note_goodbye(&self, upstream: &Upstream, cause: Cause, said: impl FnOnce(&dyn SessionProtocol, u64) -> bool) {
        if let (Some(table), Some(protocol)) = (upstream.sessions(), upstream.session_protocol())
            && let Some(SessionTie { begun: Some((key, _)), said: request, .. }) = &self.session
            && said(&**protocol, request.dialect)
        {
            table.goodbye(*key, cause);
        }
    }

    /// Finds a place for the request; `tried` are servers that could not be connected to, which may be no more
    /// than `connect_retries`. That of a session is tried again for a while.
    /// `strayed` is whether the client's connection has asked for a session that nobody knew. One whose session a peer has, and one
    /// that comes from a peer with a session that is not here, has none.
    pub(super) async fn place(
        &mut self,
        upstream: &Arc<Upstream>,
        tried: &mut Tried,
        retries: usize,
        strayed: &AtomicBool,
    ) -> Result<Lease, PickError> {
        // What may have to wait is boxed, here and below: the others need no room for it.
        if let Some(lease) = self.at_home(upstream, tried, strayed).await {
            tried.add(lease.server().id());
            return Ok(lease);
        }
        let from_peer = self.session.as_ref().is_some_and(|session| session.is_thorough);
        if from_peer || self.is_at_peer() {
            return Err(PickError::NoServer);
        }
        // A session that can't be reached for want of descriptors is on its server all the same.
        if tried.len() > retries || tried.in_shortage && self.is_of_session() {
            return Err(PickError::NoServer);
        }
        if self.opens() {
            return Box::pin(upstream.pick_new(&self.client, self.was_on, tried)).await;
        }
        // A cookie is a wish, and gives way where its server is not well, or has no room.
        let mut wish = self.wished().filter(|&server| !tried.contains(server));
        if tried.is_empty() && self.session.as_ref().is_some_and(|session| session.sought.is_some()) {
            // Else its client would wait for a server that hangs only to hear that it has to begin anew.
            wish = upstream.who_answers(&self.client, wish);
        }
        let wished = wish.and_then(|server| upstream.place_on(server));
        if self.session.as_ref().is_some_and(|session| session.begun.is_some()) {
            upstream.metrics.fell_back(if wished.is_some() { "cookie" } else { "balance" });
        }
        if let Some(lease) = wished {
            tried.add(lease.server().id());
            return Ok(lease);
        }
        upstream.pick(&self.client, tried).await
    }

    /// The same for a request that has tried none, where its place can be told at once; `None` where nothing has been
    /// done.
    pub(super) fn place_now(&mut self, upstream: &Arc<Upstream>, tried: &mut Tried) -> Option<Lease> {
        if !tried.is_empty() || self.opens() {
            return None;
        }
        if let Some(session) = &self.session
            && let Some((key, _)) = &session.begun
        {
            let lease = upstream.return_to(ServerId::from_bits(session.found?.server))?;
            if self.has_left() || upstream.has_let_go_of(lease.server()) {
                return None;
            }
            if session.said.ends
                && let Some(table) = upstream.sessions()
            {
                table.goodbye(*key, Cause::Client);
            }
            tried.add(lease.server().id());
            return Some(lease);
        }
        let wished = self.wished().and_then(|server| upstream.place_on(server));
        if let Some(lease) = wished {
            tried.add(lease.server().id());
            return Some(lease);
        }
        upstream.pick_now(&self.client, tried)
    }

    /// A place on the server of a session that has begun. `None`: there is no session, nobody knows it, or its server
    /// is gone or has been given up.
    async fn at_home(&mut self, upstream: &Arc<Upstream>, tried: &mut Tried, strayed: &AtomicBool) -> Option<Lease> {
        let (table, session) = (upstream.sessions()?, self.session.as_mut()?);
        let key = session.begun.as_ref().map(|(key, _)| *key)?;
        // It was looked up when the request came; meanwhile a server has failed it.
        let found = if tried.is_empty() { session.found } else { table.find(key) };
        let found = match found {
            Some(found) => ServerId::from_bits(found.server),
            // With one server there is nothing to find out.
            None if session.sought.is_some() => return None,
            None if session.peers.is_none() && !session.is_thorough && upstream.all_servers().len() < 2 => return None,
            None => {
                let (dialect, peers) = (session.said.dialect, session.peers.as_deref());
                // One that opens here most likely is asked for only where it may be open.
                let among = if session.said.opens { upstream.elsewhere(&self.client) } else { None };
                let (questions, among) = match (&session.questions, peers) {
                    (Some(questions), _) => (questions, among),
                    // Only other gateways can tell.
                    (None, Some(peers)) => (&peers.questions, Some(Vec::new())),
                    (None, None) => return None,
                };
                if among.as_ref().is_some_and(Vec::is_empty) && peers.is_none() {
                    return None;
                }
                let (client, was_on) = (&self.client, self.was_on);
                let wanted = Wanted {
                    key,
                    dialect,
                    client,
                    was_on,
                    among,
                    questions,
                    strayed,
                    peers,
                    for_peer: session.is_thorough,
                };
                let sought = Box::pin(upstream.search(&wanted)).await;
                session.sought = Some(sought);
                tried.in_shortage = sought == Sought::Shortage;
                let Sought::Found(server) = sought else { return None };
                server
            }
        };
        // The session is nowhere else.
        let back = if tried.contains(found) {
            Box::pin(upstream.return_again(found, tried)).await
        } else {
            upstream.return_to(found)
        };
        if back.is_none() && !tried.in_shortage {
            // Another server will not know it, and its client begins anew.
            table.forget(key, Cause::ServerDown);
            session.found = None;
        } else if session.said.ends {
            table.goodbye(key, Cause::Client);
        }
        back
    }
}

/// An id that no session has.
pub(super) fn made_up_id() -> String {
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(20).map(char::from).collect()
}

/// Whether another site's page makes the request: browsers say so themselves, and where they don't, an `Origin` that is
/// not the host does.
fn is_cross_site(request: &Request<'_>) -> bool {
    if let Some(site) = request.headers.get("sec-fetch-site") {
        return site == b"cross-site";
    }
    let origin = request.headers.get("origin").and_then(|origin| std::str::from_utf8(origin).ok());
    let origin_host = origin.and_then(|origin| origin.split_once("://")).map(|(_, authority)| host_name(authority));
    origin_host.is_some_and(|host| Some(host) != request.host)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::testing::request;
    use crate::session::How;
    use crate::upstream::testing::upstream;

    #[tokio::test(start_paused = true)]
    async fn a_session_that_can_not_be_reached_for_want_of_descriptors_stays_where_it_is() {
        let sessions = json!({ "grace": "4s" });
        let servers = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
        let upstream = upstream(json!({ "kind": "socket.io", "servers": servers, "sessions": sessions }));
        let (table, home) = (upstream.sessions().unwrap(), upstream.servers()[1].id());
        let key = table.key("Zm9vYmFyYmF6cXV4MTIz");
        table.learn(key, &table.home(home.to_bits()), Duration::from_secs(60), How::Handshake);
        let target = "/socket.io/?EIO=4&transport=polling&sid=Zm9vYmFyYmF6cXV4MTIz";
        let mut ties = Ties::new(&upstream, &request("GET", target, &[]));
        let mut tried = Tried::default();
        let mut tries = 0;
        while let Ok(lease) = ties.place(&upstream, &mut tried, 3, &AtomicBool::default()).await {
            assert_eq!(lease.server().id(), home);
            tried.in_shortage = true;
            tries += 1;
        }
        assert!(tries > 1, "it is tried again for as long as its sessions wait");
        assert!(table.find(key).is_some());
    }
}
