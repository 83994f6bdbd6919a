//! Whether whoever asks may: what stands between the route of a request and the search for a server.
//!
//! Here everything is asked that depends on the route and can refuse: first who may ask at all.

use super::{Core, Exchange, RequestHead};
use crate::access::Access;
use crate::http::Refusal;
use crate::http::forwarding::Asked;

impl Exchange {
    /// Asks what the route asks of whoever comes, once that is known.
    pub(super) fn admit(&mut self, head: &RequestHead<'_>) -> Result<(), Refusal> {
        let Some(access) = self.access() else { return Ok(()) };
        let request = head.request(&self.info, self.client)?;
        access.check(&request, self.asked(head))
    }

    /// The same for a connection that does not speak HTTP, of which only its network is known.
    pub(super) fn admit_raw(&mut self, core: &Core) {
        let networks = if self.snapshot.raw.is_empty() { None } else { self.snapshot.raw.get(&*self.info.listener) };
        if networks.is_some_and(|networks| !networks.admit(self.client)) {
            self.refuse(core, Refusal::Network);
        }
    }

    /// What holds where the request goes; where it goes nowhere, what holds for all routes.
    fn access(&self) -> Option<&Access> {
        let own = self.route.as_ref().and_then(|route| route.access.as_ref());
        own.or(self.snapshot.access.as_ref()).map(|access| &**access)
    }

    /// What the client has asked for.
    fn asked<'a>(&self, head: &RequestHead<'a>) -> Asked<'a> {
        let forwarding = &self.snapshot.config.forwarding;
        forwarding.asked(self.info.peer.ip(), self.secure(), head.authority, head.headers)
    }
}
