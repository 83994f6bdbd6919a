//! Other gateways before the same app: a request that comes from one of them, a question of theirs, and the way of a session's
//! request to the one whose servers have it.
//!
//! A request goes to a peer at most once. What comes from one has a mark that says so, and goes to this gateway's own servers or
//! nowhere: [`Hop`] is the one or the other. The peer gets the request as the client has sent it, and what has to be known of the
//! client's connection with the mark; so all that rules and routes say is done once, there, as if the client had come there.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::timeout;

use super::place::Ties;
use super::rules::Ruled;
use super::traced::tell_alike;
use super::{Exchange, RequestHead, answer};
use crate::compression::Offer;
use crate::filter::{Changes, FilterAnswer};
use crate::http::Refusal;
use crate::http::hop_by_hop::is_hop_by_hop;
use crate::http::request_id::RequestId;
use crate::listener::Info;
use crate::request::Headers;
use crate::session::{Cause, Question};
use crate::upstream::peers::{KNOWN, OWN, UNKNOWN, UNSURE, now};
use crate::upstream::{AskedPeers, Lease, PickKey, Questions, ServerId, Sought, Upstream, Wanted};
use crate::wire::peer::{Asks, FIELD, Mark};
use crate::wire::proxy_protocol::Tlvs;

/// What an exchange has to do with a peer.
pub(super) enum Hop {
    /// It comes from one.
    From(Visit),
    /// It goes to one.
    To(Box<Aside>),
}

/// What comes from a peer.
#[derive(Default)]
pub(super) struct Visit {
    /// What it asks; else it passes a client's request on.
    asks: Option<Asks>,
    /// The peer is this very gateway.
    own: bool,
}

/// What an exchange was about to do with its own servers, for when the peer can't be reached.
pub(super) struct Aside {
    upstream: Arc<Upstream>,
    ties: Ties,
    changes: Changes,
    ruled: Option<Box<Ruled>>,
    offer: Offer,
}

/// How long servers are asked for a session that a peer wants to know of.
const LONGEST_SEARCH: Duration = Duration::from_secs(1);
/// The longest id that peers are asked for, in bytes.
const LONGEST_ID: usize = 1024;

impl Exchange {
    /// Reads the mark of a peer, where there is one to be believed: then the client is who came to that gateway.
    pub(super) fn meet_peer(&mut self, head: &RequestHead<'_>) {
        let Some(peering) = &self.snapshot.peering else { return };
        let mut fields = head.headers.all(FIELD);
        let (Some(field), None) = (fields.next(), fields.next()) else { return };
        let is_peer = |address| self.snapshot.peers.values().any(|peers| peers.has_address(address));
        let Some(mark) = peering.open(field, head.target, self.info.peer.ip(), is_peer) else {
            log::debug!("{} sends the mark of a peer, which is not believed", self.info.peer);
            return;
        };
        let visit = Visit { own: mark.from == peering.identity(), asks: mark.asks };
        let Info { local, http2_websockets, .. } = &*self.info;
        let mut local = *local;
        local.set_port(mark.port);
        let told =
            Tlvs { tls: mark.tls.map(Into::into), authority: mark.server_name.map(Into::into), ..Tlvs::default() };
        self.info = Arc::new(Info {
            listener: mark.listener.into(),
            peer: mark.client,
            local,
            told: Some(Box::new(told)),
            tls: None,
            passed_name: None,
            http2_websockets: *http2_websockets,
            strayed: AtomicBool::new(visit.asks.as_ref().is_some_and(|asks| !asks.fresh)),
        });
        if !mark.request_id.is_empty() {
            self.request_id = RequestId::Given(mark.request_id.into());
        }
        self.hop = Some(Box::new(Hop::From(visit)));
    }

    /// Whether it comes from a peer.
    pub(super) fn is_from_peer(&self) -> bool {
        matches!(self.hop.as_deref(), Some(Hop::From(_)))
    }

    /// Whether it goes to a peer.
    pub(super) fn is_to_peer(&self) -> bool {
        matches!(self.hop.as_deref(), Some(Hop::To(_)))
    }

    /// Whether a peer asks for a session, and no client for anything.
    pub(super) fn is_question(&self) -> bool {
        matches!(self.hop.as_deref(), Some(Hop::From(Visit { asks: Some(_), .. })))
    }

    /// Answers a peer that asks for a session.
    pub(super) async fn testify(&mut self, head: &RequestHead<'_>) {
        let Some(Hop::From(visit)) = self.hop.as_deref_mut() else { return };
        let (asks, own) = (visit.asks.take(), visit.own);
        let said = match asks {
            Some(asks) if !own => self.look_for(&asks, head).await,
            _ => OWN,
        };
        self.own = Some(Box::new(FilterAnswer::text(200, said)));
        self.ruled.get_or_insert_default().told = Some("peer");
    }

    /// Whether a server of this gateway has a session.
    async fn look_for(&mut self, asks: &Asks, head: &RequestHead<'_>) -> &'static str {
        let upstream = self.snapshot.upstreams.get(&*asks.upstream).filter(|upstream| !upstream.are_peers()).cloned();
        let Some(upstream) = upstream else { return UNSURE };
        let Some((table, protocol)) = upstream.sessions().zip(upstream.session_protocol()) else { return UNSURE };
        let key = table.key(&asks.id);
        let is_there = |server| upstream.server_ever(ServerId::from_bits(server)).is_some();
        if table.find(key).is_some_and(|found| is_there(found.server)) {
            return KNOWN;
        }
        // All that goes to these servers comes by here.
        if upstream.has_seen_all() {
            return UNKNOWN;
        }
        let info = Arc::clone(&self.info);
        let Ok(request) = head.request(&info, self.client) else { return UNSURE };
        let question = |id: &str| protocol.question(asks.dialect, id, &request);
        let Some((about, decoy)) = question(&asks.id).zip(question(&super::place::made_up_id())) else {
            return UNSURE;
        };
        self.upstream = Some(Arc::clone(&upstream));
        let fields = self.own_fields(head);
        self.upstream = None;
        let questions = Arc::new(Questions { about, decoy, fields });
        let client = PickKey::from(self.client);
        let wanted = Wanted {
            key,
            dialect: asks.dialect,
            client: &client,
            was_on: None,
            among: None,
            questions: &questions,
            strayed: &info.strayed,
            peers: None,
            for_peer: true,
        };
        // Whoever asks waits, and takes silence for a gateway that hangs.
        match timeout(LONGEST_SEARCH, upstream.search(&wanted)).await.unwrap_or(Sought::Late) {
            Sought::Found(_) => KNOWN,
            Sought::Unknown => UNKNOWN,
            Sought::AtPeer(_) | Sought::Refused | Sought::Late | Sought::Shortage => UNSURE,
        }
    }

    /// Says what peers are asked for the session, where this gateway does not know it, and whether one is known to have it.
    pub(super) fn think_of_peers(&mut self, head: &RequestHead<'_>) {
        let asked = self.asked_peers(head);
        let from_peer = self.is_from_peer();
        let Some(session) = self.ties.as_mut().and_then(|ties| ties.session.as_mut()) else { return };
        session.is_thorough = from_peer;
        if let Some((asked, known)) = asked {
            session.sought = known.map(Sought::AtPeer);
            session.peers = Some(Box::new(asked));
        }
    }

    fn asked_peers(&self, head: &RequestHead<'_>) -> Option<(AskedPeers, Option<ServerId>)> {
        let (peering, None) = (self.snapshot.peering.as_ref()?, &self.hop) else { return None };
        let session = self.ties.as_ref()?.session.as_ref().filter(|session| session.found.is_none())?;
        let (_, id) = session.begun.as_ref().filter(|(_, id)| id.len() <= LONGEST_ID)?;
        // One that begins with this request, and has no other, is nowhere yet.
        if session.said.opens && !session.can_be_asked_for() {
            return None;
        }
        let upstream = self.upstream.as_ref()?;
        let peers = self.snapshot.peers.get(upstream.name())?;
        let table = peers.sessions()?;
        let key = table.key(id);
        if let Some(known) = table.find(key) {
            // Nobody is asked, so that nothing has to be sealed for that.
            let (about, decoy) = (Question::get(""), Question::get(""));
            let questions = Arc::new(Questions { about, decoy, fields: Vec::new() });
            let asked = AskedPeers { upstream: Arc::clone(peers), key, questions };
            return Some((asked, Some(ServerId::from_bits(known.server))));
        }
        let asks = Asks {
            upstream: upstream.name().to_string(),
            dialect: session.said.dialect,
            id: id.to_string(),
            fresh: !self.info.strayed.load(std::sync::atomic::Ordering::Relaxed),
        };
        let target = self.target(head);
        let mark = peering.seal(&self.mark(peering.identity(), Some(asks)), target);
        let about = Question::get(target).with(FIELD, mark);
        let mut fields = Vec::new();
        if let Some(host) = head.authority {
            fields.push((Box::from("host"), host.as_bytes().to_vec()));
        }
        head.headers.each(|name, value| {
            if is_of_client(name) {
                fields.push((name.into(), value.to_vec()));
            }
        });
        let questions = Arc::new(Questions { decoy: about.clone(), about, fields });
        Some((AskedPeers { upstream: Arc::clone(peers), key, questions }, None))
    }

    fn mark(&self, from: u128, asks: Option<Asks>) -> Mark {
        let info = &*self.info;
        Mark {
            from,
            at: now(),
            client: info.peer,
            port: info.local.port(),
            listener: info.listener.to_string(),
            tls: info.secure().then(|| info.tls_version().unwrap_or_default().to_owned()).filter(|tls| !tls.is_empty()),
            server_name: info.server_name().map(str::to_owned),
            request_id: self.request_id.as_str().to_owned(),
            asks,
        }
    }

    /// What the request to a peer is marked with.
    pub(super) fn mark_for_peer(&self, request: &RequestHead<'_>) -> Option<String> {
        let peering = self.snapshot.peering.as_ref().filter(|_| self.is_to_peer())?;
        Some(peering.seal(&self.mark(peering.identity(), None), self.target(request)))
    }

    /// Turns to the peer whose servers have the session; `None` where that is not to be reached, and nothing has been done.
    pub(super) fn turn_to_peer(&mut self) -> Option<Lease> {
        let session = self.ties.as_ref()?.session.as_ref()?;
        let (Some(Sought::AtPeer(peer)), Some(peers), None) = (session.sought, &session.peers, &self.hop) else {
            return None;
        };
        let (peers, key) = (Arc::clone(&peers.upstream), peers.key);
        let table = Arc::clone(peers.sessions()?);
        let Some(lease) = peers.return_to(peer) else {
            table.forget(key, Cause::ServerDown);
            return None;
        };
        let mut ties = self.ties.clone()?;
        ties.move_to_peer(key, table.find(key));
        if ties.ends() {
            table.goodbye(key, Cause::Client);
        }
        let mut changes = Changes::default();
        if let Some(hsts) = self.info.hsts() {
            changes.to_client.set(::http::header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        tell_alike(&self.changes.to_server, &mut changes.to_server);
        let mut ruled = self.ruled.take();
        self.ruled = Ruled::take_along(&mut ruled);
        let aside = Aside {
            upstream: self.upstream.replace(peers)?,
            ties: self.ties.replace(ties)?,
            changes: std::mem::replace(&mut self.changes, changes),
            ruled,
            offer: std::mem::replace(&mut self.offer, Offer::Never),
        };
        (self.hop, self.turned) = (Some(Box::new(Hop::To(Box::new(aside)))), true);
        Some(lease)
    }

    /// Turns back to the own servers, since the peer could not be reached: whoever comes with the session hears of them that it
    /// is unknown.
    pub(super) fn turn_back(&mut self) {
        if !self.is_to_peer() {
            return;
        }
        self.with_session(|table, key| {
            table.forget(key, Cause::ServerDown);
        });
        let Some(Hop::To(aside)) = self.hop.take().map(|hop| *hop) else { return };
        self.turned = true;
        let along = Ruled::take_along(&mut self.ruled);
        let Aside { upstream, ties, changes, ruled, offer } = *aside;
        (self.upstream, self.ties) = (Some(upstream), Some(ties));
        (self.changes, self.ruled, self.offer) = (changes, ruled, offer);
        if let Some(along) = along {
            let Ruled { copying, trace, .. } = *along;
            let ruled = self.ruled.get_or_insert_default();
            (ruled.copying, ruled.trace) = (copying, trace);
        }
        self.forget_peers();
    }

    /// The session is at no peer that could be reached.
    pub(super) fn forget_peers(&mut self) {
        let session = self.ties.as_mut().and_then(|ties| ties.session.as_mut());
        if let Some(session) = session.filter(|session| session.peers.is_some()) {
            (session.sought, session.peers) = (Some(Sought::Unknown), None);
        }
    }

    /// Whether its session may live behind a peer.
    pub(crate) fn may_turn(&self) -> bool {
        self.ties.as_ref().and_then(|ties| ties.session.as_ref()).is_some_and(|session| session.peers.is_some())
    }

    /// Whether it goes elsewhere than when its head was written for a server; asked once, when it has a place.
    pub(crate) fn has_turned(&mut self) -> bool {
        std::mem::take(&mut self.turned)
    }

    /// Answers what a peer passes on and nobody here knows: it begins nothing, and goes no further.
    pub(super) fn answer_visitor(&mut self, origin: Option<::http::HeaderValue>) -> Refusal {
        let unknown =
            self.ties.as_ref().zip(self.upstream.as_ref()).and_then(|(ties, upstream)| ties.unknown(upstream));
        let unknown = unknown.map_or_else(
            || FilterAnswer::text(404, Refusal::SessionOver.to_string()),
            |unknown| answer::goodbye(unknown, origin),
        );
        let field = ::http::HeaderName::from_static(FIELD);
        self.own = Some(Box::new(unknown.with(field, ::http::HeaderValue::from_static(UNKNOWN_HERE))));
        self.fail(Refusal::SessionOver)
    }

    /// Hears of a peer's answer that its servers do not have the session.
    pub(super) fn hear_peer(&self, headers: Headers<'_>) {
        if self.is_to_peer() && headers.get(FIELD).is_some_and(|said| said == UNKNOWN_HERE.as_bytes()) {
            self.with_session(|table, key| {
                table.forget(key, Cause::Unknown);
            });
        }
    }
}

/// What a gateway says in an answer, where none of its servers has the session.
const UNKNOWN_HERE: &str = "unknown";

/// Whether a field shows who asks, and not how or what is sent.
fn is_of_client(name: &str) -> bool {
    const OTHERS: [&str; 7] =
        ["host", "content-length", "content-type", "transfer-encoding", "expect", "range", "accept-encoding"];
    let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    !is_hop_by_hop(name) && !OTHERS.iter().any(|other| name.eq_ignore_ascii_case(other)) && !starts("sec-websocket-")
}
