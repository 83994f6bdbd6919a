//! What would become of a request: the decisions that one that comes would meet, and nothing of what follows from them.

use std::sync::Arc;

use super::admit::Pace;
use super::{Core, Exchange, RequestHead};
use crate::http::Refusal;
use crate::listener::Info;
use crate::router::Routes;
use crate::upstream::{Server, ServerId};

impl Exchange {
    /// Decides of a request as [`Self::begin`] does, but sends nothing, counts nothing, takes nothing of what its client may
    /// ask for, and asks nobody who would have to be waited for; the refusal is that of what was asked.
    pub(crate) fn consider(core: &Core, info: &Arc<Info>, head: &RequestHead<'_>) -> (Box<Self>, Option<Refusal>) {
        let mut this = Self::of(core, info, head);
        let mut decide = || {
            this.know(head, None)?;
            if this.own.is_none() {
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
            return Some(match home {
                Some(server) => (called(server), "its session lives there"),
                None => (None, "this gateway does not know its session: servers are asked for it"),
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

    /// The servers in the order in which a consistent hash of the client meets them.
    pub(crate) fn by_hash(&self) -> Vec<String> {
        let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) else { return Vec::new() };
        upstream.in_ring_order(&ties.client).iter().map(|server| server.name().to_string()).collect()
    }
}
