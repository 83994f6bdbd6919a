//! How an exchange ends: counted, logged and traced once, and its server judged by it.

use std::sync::Arc;
use std::time::Duration;

use super::{Core, Entry, Exchange, Form, RequestHead};
use crate::http::Refusal;
use crate::listener::Info;

/// How an exchange ended, as its carrier saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// What was spoken with the client; an upgrade says so by itself.
    pub(crate) protocol: &'static str,
    /// The status that the client got; 0 for none.
    pub(crate) status: u16,
    /// Body bytes written to the client.
    pub(crate) bytes_out: u64,
    /// Who cut it, if it did not end by itself.
    pub(crate) cut_by: Option<Side>,
}

/// Which of the two that an exchange is between has ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who asks.
    Client,
    /// The same, by taking nothing of the answer for longer than it may.
    StalledClient,
    /// The same, by taking less of it than it has to.
    SlowClient,
    /// Neither: too much waited in the process, and most of it for one of them.
    NoRoom,
    /// Who answers.
    Server,
}

/// What the log says of whoever has been cut to make room.
const NO_ROOM: &str = "buffers_full";

impl Side {
    /// Who has ended a connection to a client that something was being written to. The kernel gives one up that takes
    /// nothing, too.
    pub(crate) fn of_client(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::TimedOut { Self::StalledClient } else { Self::Client }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::StalledClient => "write_timeout",
            Self::SlowClient => "answer_rate",
            Self::NoRoom => NO_ROOM,
            Self::Server => "server",
        }
    }
}

impl Exchange {
    /// Counts and logs, and gives the place on the server back: what may follow is between the client and the gateway.
    /// True if the client got all that there was.
    pub(crate) fn end<'a>(&mut self, core: &Core, ended: Ended, request: impl FnOnce() -> RequestHead<'a>) -> bool {
        let metrics = self.upstream.as_ref().map_or(&self.snapshot.local, |upstream| &upstream.metrics);
        if ended.status != 0 {
            metrics.answered(ended.status);
            if self.form == Form::Plain {
                metrics.seconds.observe(self.started.elapsed().as_secs_f64());
            }
        }
        if core.access_log.is_on() || self.ruled.as_ref().is_some_and(|ruled| ruled.trace.is_some()) {
            let mut entry = self.entry.take().unwrap_or_else(|| Box::new(self.entry(ended.protocol, Some(&request()))));
            self.fill(&mut entry);
            entry.status = ended.status;
            entry.bytes_out = ended.bytes_out;
            entry.closed_by = match (self.refusal, ended.cut_by) {
                (_, Some(_)) if core.ending.is_cut() => "stopped",
                (Some(refusal), _) => refusal.as_str(),
                // An upgrade that was refused leaves nothing to be used again.
                (None, None) if self.form.may_switch() && self.server_status.is_some() => Side::Server.as_str(),
                (None, None) => self.told().unwrap_or(""),
                (None, side) => side.map_or("", Side::as_str),
            };
            let trace = entry.trace.take();
            let record = entry.finish();
            if let Some(trace) = trace {
                core.traces.request(&trace, &record);
            }
            core.access_log.write(&record);
        }
        self.judge(ended.cut_by);
        // A stream that has ended by itself has had no time to be told.
        self.endable &= self.server_status.is_none();
        self.leave_next_time();
        if self.polls && ended.cut_by == Some(Side::Client) && !core.ending.is_cut() {
            self.with_session(|table, key| table.lose(key));
        }
        self.leave = None;
        self.lease = None;
        self.place = None;
        if let Some(ruled) = &mut self.ruled {
            ruled.held = None;
        }
        let told = |refusal: Refusal| if self.called { 200 } else { refusal.status() };
        ended.cut_by.is_none() || self.refusal.is_some_and(|refusal| told(refusal) == ended.status)
    }

    /// Counts and logs a request that a program's own hooks have answered, before any of this began.
    pub(crate) fn untold(core: &Core, info: &Arc<Info>, ended: Ended, request: &RequestHead<'_>) {
        let form = if request.websocket { Form::Upgrade } else { Form::Plain };
        Self::new(form, core, info).end(core, ended, || *request);
    }

    /// The line of the log as far as the request tells it.
    pub(super) fn entry(&self, protocol: &'static str, request: Option<&RequestHead<'_>>) -> Entry {
        let protocol = match self.form {
            Form::Plain => protocol,
            Form::Upgrade => "WebSocket",
            Form::OtherUpgrade => "Upgrade",
            Form::Raw => "TCP",
        };
        let mut entry = Entry::new(&self.info, protocol, self.began, self.started);
        if let Some(request) = request {
            entry.request(request, &self.snapshot.secrets);
        }
        entry.client = self.client;
        entry.user = self.who.as_ref().and_then(|who| who.user.clone());
        entry.route = self.route.as_ref().map(|route| Arc::clone(&route.name));
        if let Some(session) = self.ties.as_ref().and_then(|ties| ties.session.as_ref()) {
            entry.session(session.said.transport, session.begun.as_ref());
        }
        entry
    }

    /// What has been found out since.
    pub(super) fn fill(&mut self, entry: &mut Entry) {
        entry.tries = self.tries;
        entry.bytes_in = self.body_in;
        entry.first_byte = self.first_byte.map(|at| at.duration_since(self.started));
        entry.request_id = self.request_id.as_str().to_owned();
        if let Some(lease) = &self.lease {
            entry.taken(lease);
        }
        entry.queued = Duration::from_micros(self.queued.into());
        entry.search = self.ties.as_ref().and_then(|ties| ties.session.as_ref()?.sought()).unwrap_or("");
        entry.trace = self.ruled.as_mut().and_then(|ruled| ruled.trace.take());
    }

    /// Tells the upstream how its server did, now that the exchange is over: an answer that is cut is no good one, however
    /// well it began. What a client broke off says nothing, unless there was an answer.
    pub(super) fn judge(&self, cut_by: Option<Side>) {
        let Some(lease) = self.lease.as_ref().filter(|_| self.reached) else { return };
        let failed = cut_by == Some(Side::Server);
        match self.server_status {
            // 101 was not asked for.
            Some(status) if !failed && (status != 101 || self.form.may_switch()) => lease.answered(status),
            Some(_) => lease.gave_no_answer(),
            None if failed => lease.gave_no_answer(),
            None => {}
        }
    }
}
