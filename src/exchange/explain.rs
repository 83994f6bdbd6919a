//! What would become of a request: the decisions that one that comes would meet, and nothing of what follows from them.

use std::sync::Arc;

use super::{Core, Exchange, RequestHead};
use crate::http::Refusal;
use crate::listener::Info;
use crate::router::Routes;

impl Exchange {
    /// Decides of a request as [`Self::begin`] does, but sends nothing, counts no refusal, and asks nobody who would have to
    /// be waited for; the refusal is that of what was asked.
    pub(crate) fn consider(core: &Core, info: &Arc<Info>, head: &RequestHead<'_>) -> (Box<Self>, Option<Refusal>) {
        let mut this = Self::of(core, info, head);
        let decided = this.look(head, None).and_then(|()| this.enter(core, head, None));
        // It takes no place of anybody's.
        this.place = None;
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

    /// The servers in the order in which a consistent hash of the client meets them.
    pub(crate) fn by_hash(&self) -> Vec<String> {
        let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) else { return Vec::new() };
        upstream.in_ring_order(&ties.client).iter().map(|server| server.name().to_string()).collect()
    }
}
