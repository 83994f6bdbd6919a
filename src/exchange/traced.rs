//! The trace that a request is part of, and what its server is told of that.

use http::HeaderName;

use super::{Core, Exchange, RequestHead};
use crate::filter::HeaderEdits;
use crate::trace::Parent;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

impl Exchange {
    /// Of a connection that does not speak HTTP.
    pub(super) fn begin_raw_trace(&mut self, core: &Core) {
        if core.traces.is_on()
            && let trace @ Some(_) = core.traces.begin_raw()
        {
            self.ruled.get_or_insert_default().trace = trace;
        }
    }

    /// Of a request, whose client is known by now; what gateways ask each other is none.
    pub(super) fn begin_trace(&mut self, core: &Core, request: &RequestHead<'_>) {
        if !core.traces.is_on() || self.is_question() {
            return;
        }
        let trusted = self.snapshot.config.forwarding.trusts(self.info.peer.ip());
        let (trace, parent) = core.traces.begin(request.headers, trusted);
        if trace.is_some() {
            self.ruled.get_or_insert_default().trace = trace;
        }
        let keeps_state = match parent {
            Parent::Passes => return,
            Parent::Dropped => {
                self.changes.to_server.remove(TRACEPARENT);
                false
            }
            Parent::Told { value, keeps_state } => {
                self.changes.to_server.set(TRACEPARENT, value);
                keeps_state
            }
        };
        if !keeps_state {
            self.changes.to_server.remove(TRACESTATE);
        }
    }
}

/// Has a peer told the same of the trace as a server would be.
pub(super) fn tell_alike(told: &HeaderEdits, peer: &mut HeaderEdits) {
    for name in [TRACEPARENT, TRACESTATE].into_iter().filter(|name| !told.keeps(name.as_str())) {
        match told.value(name.as_str()) {
            Some(value) => peer.set(name, value.clone()),
            None => peer.remove(name),
        }
    }
}
