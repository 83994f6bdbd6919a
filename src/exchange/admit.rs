//! Whether whoever asks may: what stands between the route of a request and the search for a server.
//!
//! Here everything is asked that can refuse: how much the client asks for, who may ask at all, and what the route allows.

use std::sync::Arc;

use super::{Core, Exchange, Info, RequestHead, Who};
use ::http::HeaderMap;

use crate::access::Access;
use crate::access::forward::{self, Said};
use crate::filter::{FilterAnswer, HeaderEdits};
use crate::http::Refusal;
use crate::http::forwarding::Asked;
use crate::rate::Limit;
use crate::request::Request;
use crate::session::Key;

/// Whether a request counts against what its client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It does.
    Paid,
    /// It does not, since nobody has made it.
    Free,
}

impl Exchange {
    /// Asks what the route asks of whoever comes, once that is known.
    pub(super) fn admit(&mut self, head: &RequestHead<'_>, pace: Pace) -> Result<(), Refusal> {
        let limits = self.route.as_ref().filter(|_| pace == Pace::Paid).map_or(&[][..], |route| &route.limits);
        let Some(access) = self.access() else { return within(limits, || head.request(&self.info, self.client)) };
        let request = head.request(&self.info, self.client)?;
        if let Some(answer) = access.check(&request, self.asked(head))? {
            self.answer_itself(answer, "preflight");
            return Ok(());
        }
        within(limits, || Ok(request.clone()))?;
        if access.key_set().is_some() {
            // Asked where keys can be waited for.
            return Ok(());
        }
        let session = self.session();
        let mut changes = std::mem::take(&mut self.changes);
        let shown = self.access().map_or(Ok(None), |access| access.identify(&request, session, &mut changes));
        self.changes = changes;
        self.note(|who| &mut who.until, shown?);
        Ok(())
    }

    /// Asks what may have to be waited for: keys of tokens, a password, and the service that has to be asked.
    pub(super) async fn admit_in_time(&mut self, core: &Core, head: &RequestHead<'_>) -> Result<(), Refusal> {
        let holder = self.route.as_ref().and_then(|route| route.access.as_ref()).or(self.snapshot.access.as_ref());
        let Some(access) = holder.cloned() else { return Ok(()) };
        let (info, session) = (Arc::clone(&self.info), self.session());
        let request = head.request(&info, self.client)?;
        if access.key_set().is_some() {
            let until = access.identify_in_time(&request, session, &mut self.changes).await?;
            self.note(|who| &mut who.until, until);
        }
        let user = access.log_in(&request, session, &mut self.changes).await?;
        self.note(|who| &mut who.user, user);
        let Some(service) = access.service(session, &mut self.changes) else { return Ok(()) };
        match service.ask(self.told_to_service(head)).await {
            Said::Pass(told) => service.tell(&told, &mut self.changes),
            Said::Answer(answer) => {
                core.metrics.refused("forward_auth");
                self.answer_itself(answer, "forward_auth");
            }
            Said::Failed => return Err(Refusal::AuthFailed),
            Said::Late => return Err(Refusal::AuthTimeout),
        }
        Ok(())
    }

    /// Notes something about who asks, if there is anything.
    fn note<T>(&mut self, place: impl FnOnce(&mut Who) -> &mut Option<T>, what: Option<T>) {
        if what.is_some() {
            *place(self.who.get_or_insert_default()) = what;
        }
    }

    /// The fields that a service is asked with: those that the server would get, and what is asked for.
    fn told_to_service(&self, head: &RequestHead<'_>) -> HeaderMap {
        let mut told = HeaderMap::new();
        let asked = self.asked(head);
        let passing = self.to_server(head);
        let of_body = |name: &str| {
            ["content-length", "content-type", "host", "expect", "accept-encoding"]
                .iter()
                .any(|other| name.eq_ignore_ascii_case(other))
        };
        head.headers.each(|name, value| {
            if !of_body(name) && passing.pass(name) {
                forward::add(&mut told, name, value);
            }
        });
        passing.add(|name, value| forward::add(&mut told, name, value));
        // Whatever servers are told: it decides by these.
        let client = self.client.to_string();
        if !told.contains_key("x-forwarded-for") {
            forward::set(&mut told, "x-forwarded-for", client.as_bytes());
        }
        forward::set(&mut told, "x-forwarded-proto", if asked.secure { b"https" } else { b"http" });
        forward::set(&mut told, "x-forwarded-host", asked.authority.unwrap_or("").as_bytes());
        forward::set(&mut told, "x-forwarded-method", head.method.as_bytes());
        forward::set(&mut told, "x-forwarded-uri", head.target.as_bytes());
        told
    }

    /// What the table calls the session that the request names, where it knows it: one that is over lets nobody in.
    fn session(&self) -> Option<Key> {
        let session = self.ties.as_ref()?.session.as_ref().filter(|session| session.found.is_some())?;
        session.begun.as_ref().map(|(key, _)| *key)
    }

    /// The client gets this answer, and no server hears of the request; `why` is the word for it in the log.
    fn answer_itself(&mut self, answer: FilterAnswer, why: &'static str) {
        self.own = Some(Box::new(answer));
        self.ruled.get_or_insert_default().told = Some(why);
    }

    /// Marks the answer, whoever gives it, as one that the page which asks may read, or as none. What opens a WebSocket is
    /// for no page to read.
    pub(super) fn mark_for_pages(&mut self, head: &RequestHead<'_>) {
        if head.websocket || self.access().is_none() {
            return;
        }
        let mut edits = std::mem::take(&mut self.changes.to_client);
        if let Some(access) = self.access() {
            access.mark(head.method, head.headers, self.asked(head), &mut edits);
        }
        self.changes.to_client = edits;
    }

    /// Whether the client asks for no more than it may, wherever it asks.
    pub(super) fn pace(&mut self, head: &RequestHead<'_>) -> Result<(), Refusal> {
        within(&self.snapshot.limits, || head.request(&self.info, self.client))?;
        let place = self.snapshot.open.enter(self.client).map_err(|_| Refusal::OpenRequests)?;
        self.place = place.map(Box::new);
        Ok(())
    }

    /// The same for a connection that does not speak HTTP, of which only its network is known.
    pub(super) fn admit_raw(&mut self, core: &Core) {
        let networks = if self.snapshot.raw.is_empty() { None } else { self.snapshot.raw.get(&*self.info.listener) };
        if networks.is_some_and(|networks| !networks.admit(self.client)) {
            self.refuse(core, Refusal::Network);
        }
    }

    /// What holds where the request goes; where it goes nowhere, what holds for all routes.
    pub(super) fn access(&self) -> Option<&Access> {
        let own = self.route.as_ref().and_then(|route| route.access.as_ref());
        own.or(self.snapshot.access.as_ref()).map(|access| &**access)
    }

    /// What the client has asked for.
    pub(super) fn asked<'a>(&self, head: &RequestHead<'a>) -> Asked<'a> {
        let forwarding = &self.snapshot.config.forwarding;
        forwarding.asked(self.info.peer.ip(), self.secure(), head.authority, head.headers)
    }
}

/// What is changed in the answer to a request that is refused before there is an exchange about it: it goes to no route,
/// and what holds for all of them holds.
pub(crate) fn marks_of_refusal(core: &Core, info: &Info, head: &RequestHead<'_>) -> HeaderEdits {
    let snapshot = core.snapshot.load();
    let mut edits = HeaderEdits::default();
    if let Some(access) = snapshot.access.as_ref().filter(|_| !head.websocket) {
        let forwarding = &snapshot.config.forwarding;
        let asked = forwarding.asked(info.peer.ip(), info.secure(), head.authority, head.headers);
        access.mark(head.method, head.headers, asked, &mut edits);
    }
    edits
}

/// Takes a token of each limit.
fn within<'a>(limits: &[Arc<Limit>], request: impl FnOnce() -> Result<Request<'a>, Refusal>) -> Result<(), Refusal> {
    if limits.is_empty() {
        return Ok(());
    }
    let request = request()?;
    for limit in limits {
        // Whole seconds, as the field has them; not less than it takes.
        limit.check(&request).map_err(|wait| Refusal::Rate(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)))?;
    }
    Ok(())
}
