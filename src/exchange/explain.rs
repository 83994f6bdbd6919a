//! What would become of a request: the decisions that one that comes would meet, and nothing of what follows from them.

use std::sync::Arc;

use super::admit::Pace;
use super::place::SessionTie;
use super::{Core, Exchange, RequestHead};
use crate::http::Refusal;
use crate::listener::Info;
use crate::router::Routes;
use crate::upstream::{Server, ServerId, Sought, Upstream};
use crate::wire::peer::FIELD;

/// What a request has to do with the peers of its upstream.
pub(crate) struct AmongPeers {
    /// Their upstream.
    pub(crate) upstream: Arc<Upstream>,
    /// Whether they would be asked for its session.
    pub(crate) asked: bool,
    /// The one whose servers are known to have its session.
    pub(crate) at: Option<String>,
    /// Why, or why not, in words.
    pub(crate) why: String,
}

/// What is thought of a request that says that it comes from a peer.
pub(crate) struct Marked {
    /// Whether that is believed.
    pub(crate) believed: bool,
    /// Whether it is a question for a session, and no client's request.
    pub(crate) asks: bool,
}

impl Exchange {
    /// Decides of a request as [`Self::begin`] does, but sends nothing, counts nothing, takes nothing of what its client may
    /// ask for, and asks nobody who would have to be waited for; the refusal is that of what was asked.
    pub(crate) fn consider(core: &Core, info: &Arc<Info>, head: &RequestHead<'_>) -> (Box<Self>, Option<Refusal>) {
        let mut this = Self::of(core, info, head);
        let mut decide = || {
            this.know(head, None)?;
            if this.own.is_none() && !this.is_question() {
                this.decide(core, head, None)?;
                this.admit(head, Pace::Free)?;
            }
            Ok(())
        };
        let decided: Result<(), Refusal> = decide();
        (this, decided.err())
    }

    /// Why each route that stands before the one that matched does not match: its name, and the conditions that do not
    /// hold.
    pub(crate) fn passed_over(&self, head: &RequestHead<'_>) -> Vec<(String, Vec<String>)> {
        let said = &self.snapshot.config.routes;
        let Ok(request) = head.request(&self.info, self.client) else { return Vec::new() };
        let all = Routes::build(said).why_not(said, &request);
        all.into_iter().take_while(|(_, why)| !why.is_empty()).collect()
    }

    /// What the request says of its session: how that travels, whether one is opened, and whether one is named.
    pub(crate) fn session_said(&self) -> Option<(Option<&'static str>, bool, bool)> {
        let session = self.ties.as_ref()?.session.as_ref()?;
        Some((session.said.transport, session.said.opens, session.begun.is_some()))
    }

    /// The server that the request would go to at this moment, and why there; `None` where no upstream is to be asked. Where
    /// the balance takes turns, this takes one.
    pub(crate) fn choice(&self) -> Option<(Option<String>, &'static str)> {
        let (upstream, ties) = (self.upstream.as_ref()?, self.ties.as_ref()?);
        let called = |server: Arc<Server>| Some(server.name().to_string());
        if let Some(session) = ties.session.as_ref().filter(|session| session.begun.is_some()) {
            let home = session.found.and_then(|found| upstream.server_ever(ServerId::from_bits(found.server)));
            let peer = self.home_among_peers(session);
            return Some(match (home, peer) {
                (Some(server), _) => (called(server), "its session lives there"),
                (None, Some(peer)) => (Some(peer), "a peer, behind which its session lives"),
                (None, None) if self.is_from_peer() => {
                    (None, "this gateway does not know its session: own servers are asked for it, and no peer")
                }
                (None, None) if session.peers.is_some() => {
                    (None, "this gateway does not know its session: servers are asked for it, and then peers")
                }
                (None, None) => (None, "this gateway does not know its session: servers are asked for it"),
            });
        }
        let wished = ties.wished().and_then(|id| upstream.server(id)).filter(|server| server.is_healthy());
        if let Some(server) = wished {
            return Some((called(server), "its cookie names it"));
        }
        Some(match upstream.would_pick(&ties.client, ties.opens()) {
            Some((server, true)) => (called(server), "the client was there before"),
            Some((server, false)) => (called(server), "the balance"),
            None => (None, "no server is up, or has room"),
        })
    }

    /// What it says of coming from a peer; `None` where it says nothing.
    pub(crate) fn marked(&self, head: &RequestHead<'_>) -> Option<Marked> {
        head.headers.get(FIELD)?;
        Some(Marked { believed: self.is_from_peer(), asks: self.is_question() })
    }

    /// What it has to do with the peers of its upstream; `None` where that has none. `live`: what is known of sessions is what this
    /// gateway knows at this moment.
    pub(crate) fn among_peers(&self, live: bool) -> Option<AmongPeers> {
        let peers = self.snapshot.peers.get(self.upstream.as_ref()?.name())?;
        let session = self.ties.as_ref().and_then(|ties| ties.session.as_ref());
        let at = session.and_then(|session| self.home_among_peers(session));
        let asked = at.is_none() && session.is_some_and(|session| session.peers.is_some());
        let why = match session {
            _ if self.is_from_peer() => "it comes from a peer, and is passed on to nobody".to_owned(),
            _ if at.is_some() => "its session lives there".to_owned(),
            Some(session) if asked => {
                let unknown =
                    if live { "this gateway does not know its session" } else { "where its session is not known" };
                let first = if session.can_be_asked_for() { "own servers are asked first, then " } else { "" };
                let many = match peers.how_many_are_asked() {
                    0 if live => "peers, of whom nobody is known now".to_owned(),
                    0 => "peers".to_owned(),
                    1 => "1 peer".to_owned(),
                    many => format!("{many} peers"),
                };
                format!("{unknown}: {first}{many}, and it goes on to the one that has it")
            }
            Some(session) if session.found.is_some() => "its session lives on an own server".to_owned(),
            Some(SessionTie { begun: None, said, .. }) if said.opens => {
                "it opens a session, which is one of an own server".to_owned()
            }
            Some(session) if session.begun.is_some() && session.said.opens => {
                "its session begins with it, on an own server".to_owned()
            }
            Some(session) if session.begun.is_some() => "the id of its session is too long to ask for".to_owned(),
            _ => "it belongs to no session, and stays with own servers".to_owned(),
        };
        Some(AmongPeers { upstream: Arc::clone(peers), asked, at, why })
    }

    /// The peer whose servers are known to have a session, where it is none of an own server.
    fn home_among_peers(&self, session: &SessionTie) -> Option<String> {
        let (Some(Sought::AtPeer(peer)), Some(peers)) = (session.sought, &session.peers) else { return None };
        Some(peers.upstream.server_ever(peer)?.name().to_string())
    }

    /// The servers in the order in which a consistent hash of the client meets them.
    pub(crate) fn by_hash(&self) -> Vec<String> {
        let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) else { return Vec::new() };
        upstream.in_ring_order(&ties.client).iter().map(|server| server.name().to_string()).collect()
    }
}
