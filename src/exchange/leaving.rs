//! A session's turn to leave: which of its polls and streams can be told, with which words, and what is noted where none can.

use std::borrow::Cow;
use std::sync::Arc;

use ::http::HeaderValue;

use super::{Core, Exchange, RequestHead, answer};
use crate::roster::{Leave, OfSession, Visitor, Why};
use crate::session::{Cause, Mark, Question};
use crate::upstream::ServerId;

impl Exchange {
    /// The goodbye that its session was told in place of an answer, where it was: the word for it in the log.
    pub(super) fn told(&self) -> Option<&'static str> {
        self.ruled.as_ref()?.told
    }

    /// Puts it on the list of those who can be told to leave its server.
    pub(super) fn enter_roster(&mut self) {
        let (Some(upstream), Some(ties), Some(lease)) = (&self.upstream, &self.ties, &self.lease) else { return };
        let begun = ties.session.as_ref().and_then(|session| session.begun.as_ref());
        let session = begun.map_or(OfSession::None, |(key, _)| OfSession::Known(key.name()));
        let visitor = Visitor { origin: self.origin(), client: self.client, session };
        let leave = upstream.roster(lease.server().id()).enter(visitor);
        if let Some(who) = &mut self.who {
            who.expiry = who.ends().map(|at| leave.expires(at));
        }
        self.leave = Some(leave);
    }

    /// A poll's place on the list of those who can be told to leave.
    pub(crate) fn leave(&self) -> Option<&Arc<Leave>> {
        self.leave.as_ref()
    }

    /// Whoever carries it can end a stream when its session has to go: see [`Self::last_words`].
    pub(crate) fn can_end_streams(&mut self) {
        self.ends_streams = true;
    }

    /// Whether its answer is a stream that can be ended.
    pub(crate) fn is_endable_stream(&self) -> bool {
        self.endable && self.server_status.is_some()
    }

    /// What ends the stream in the server's place, where that may be said now, and not in the middle of an event. Its session
    /// is over then.
    pub(crate) fn last_words(&mut self, core: &Core) -> Option<Cow<'static, [u8]>> {
        let (upstream, ties) = (self.upstream.as_ref()?, self.ties.as_ref()?);
        let last = ties.last_words(upstream)?;
        let said = self.ruled.as_ref().and_then(|ruled| ruled.tail.as_ref()).map_or(&b""[..], |tail| tail.bytes());
        if !last.may_follow(said) {
            return None;
        }
        let why = self.leave.as_ref().and_then(|leave| leave.why()).unwrap_or(Why::Drain);
        let why = if core.ending.is_leaving() { "stopped" } else { why.as_str() };
        upstream.metrics.goodbye(why);
        self.ruled.get_or_insert_default().told = Some(why);
        // Who asks for it again is told so, as long as that may come.
        self.with_session(|table, key| {
            table.mark(key, Mark::Leaving);
            table.goodbye(key, Cause::Drain);
        });
        Some(last.words)
    }

    /// Whoever carries the poll can end it when it is told to leave, and calls [`Self::goodbye`] then. Otherwise the poll
    /// goes on to its end, and the session is told at the next one.
    pub(crate) fn can_be_ended(&mut self) {
        self.endable = true;
    }

    /// Ends a poll in the server's place, since its session's turn to leave has come: [`Self::own_answer`] is the goodbye,
    /// on which the client opens another session.
    pub(crate) fn goodbye(&mut self, core: &Core, request: &RequestHead<'_>) {
        let why = self.leave.as_ref().and_then(|leave| leave.why()).unwrap_or(Why::Drain);
        self.say_goodbye(core, why, request);
    }

    /// The same for a session whose turn came during its last poll, which could not be ended.
    pub(super) fn overdue_goodbye(&mut self, core: &Core, request: &RequestHead<'_>) {
        let found = self.ties.as_ref().and_then(|ties| ties.session.as_ref()?.found);
        if let (Some(upstream), Some(found)) = (&self.upstream, found.filter(|found| found.is(Mark::Leaving))) {
            let server = upstream.server(ServerId::from_bits(found.server));
            let drains = server.as_ref().is_none_or(|server| server.is_draining());
            if let (Some(server), Some(farewell)) = (server, self.farewell(request)) {
                upstream.say_farewell(server, farewell, self.own_fields(request));
            }
            let why = match upstream.rebalancing() {
                _ if drains => Why::Drain,
                Some(_) => Why::Rebalance,
                None => Why::Operator,
            };
            self.say_goodbye(core, why, request);
        }
    }

    /// What tells the server of a goodbye that no broken connection shows.
    fn farewell(&self, head: &RequestHead<'_>) -> Option<Question> {
        let session = self.ties.as_ref()?.session.as_ref()?;
        let request = self.onward(head).request(&self.info, self.client).ok()?;
        let (_, id) = session.begun.as_ref()?;
        self.upstream.as_ref()?.session_protocol()?.farewell(session.said.dialect, id, &request)
    }

    fn say_goodbye(&mut self, core: &Core, why: Why, request: &RequestHead<'_>) {
        let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) else { return };
        let Ok(onward) = self.onward(request).request(&self.info, self.client) else { return };
        let Some(goodbye) = ties.goodbye(upstream, &onward) else { return };
        let why = if core.ending.is_leaving() { "stopped" } else { why.as_str() };
        upstream.metrics.goodbye(why);
        let origin = request.headers.get("origin").and_then(|origin| HeaderValue::from_bytes(origin).ok());
        self.own = Some(Box::new(answer::goodbye(goodbye, origin)));
        self.ruled.get_or_insert_default().told = Some(why);
        self.with_session(|table, key| {
            table.forget(key, Cause::Drain);
        });
    }

    /// Notes that the turn of this poll's session has come while the poll could not be ended.
    pub(super) fn leave_next_time(&self) {
        if !self.endable && self.leave.as_ref().is_some_and(|leave| leave.is_told()) {
            self.with_session(|table, key| {
                table.mark(key, Mark::Leaving);
            });
        }
    }
}
