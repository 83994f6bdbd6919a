//! The trace that a request is part of, and what its server is told of that.

use http::HeaderName;

use super::{Core, Exchange, RequestHead};
use crate::trace::Parent;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

impl Exchange {
    /// Of a connection that does not speak HTTP.
    pub(super) fn begin_raw_trace(&mut self, core: &Core) {
        if let trace @ Some(_) = core.traces.begin_raw() {
            self.ruled.get_or_insert_default().trace = trace;
        }
    }

    pub(super) fn begin_trace(&mut self, core: &Core, request: &RequestHead<'_>) {
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
