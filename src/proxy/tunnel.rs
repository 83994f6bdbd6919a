//! A tunnel from its opening to its line in the access log: counted, carried, told.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::Core;
use super::exchange::Line;
use super::learn::Hold;
use crate::access_log::Event;
use crate::affinity::Held;
use crate::drain::Why;
use crate::listener::Parts;
use crate::metrics::UpstreamMetrics;
use crate::snapshot::Pool;
use crate::transport::Transport;
use crate::tunnel::{End, Ends, Listening, carry};
use crate::upstream::Lease;

/// An open tunnel and what is told of it when it ends.
pub(super) struct Tunnel {
    pub(super) core: Arc<Core>,
    pub(super) line: Box<Line>,
    pub(super) lease: Lease,
    pub(super) pool: Arc<Pool>,
    /// Its session, on those that belong to one.
    pub(super) session: Option<Arc<Hold>>,
}

impl Tunnel {
    /// Carries until the end, then counts and logs. `first` came from the server with the answer, whose head are its
    /// first `head` bytes.
    pub(super) async fn carry(
        mut self,
        client: Parts,
        server: Transport,
        first: BytesMut,
        head: usize,
        idle: Duration,
        listening: Listening,
    ) {
        if self.core.access_log.tells_openings() {
            self.core.access_log.write(self.line.now(Event::Open));
        }
        let open = OpenGauge::new(&self.pool.metrics);
        let Parts { transport, held, deadline, permit, .. } = client;
        let ends = Ends { client: transport, from_client: held, server, from_server: first, head };
        let leave = self.pool.roster(self.lease.server().id()).add(self.line.origin(), self.session.is_some());
        let closed = carry(ends, idle, &deadline, &leave, listening).await;
        // When this client comes back it is placed here again.
        self.pool.upstream.saw(&self.line.client.into(), self.lease.server());
        let told = leave.why().filter(|_| closed.end == End::Drained);
        let closed_by = told.map_or(closed.end.word(), Why::word);
        if let Some(why) = told {
            self.pool.metrics.goodbye(why.word());
            // Nobody asks for the session any more, so it need not be counted until it expires.
            self.session.iter().filter_map(|session| session.get()).for_each(Held::end);
        }
        drop((open, permit, leave, self.lease, self.session));
        self.pool.metrics.bytes_in.inc_by(closed.bytes_in);
        self.pool.metrics.bytes_out.inc_by(closed.bytes_out);
        self.pool.metrics.closed(closed_by);
        self.line.event = Event::Close;
        self.line.bytes_in = closed.bytes_in;
        self.line.bytes_out = closed.bytes_out;
        self.line.messages_in = closed.seen_in.messages;
        self.line.messages_out = closed.seen_out.messages;
        self.line.closed_by = closed_by;
        self.line.close_code = closed.seen_in.close.or(closed.seen_out.close);
        self.core.access_log.write(self.line.finish());
    }
}

/// Counts a tunnel among the open ones until dropped.
struct OpenGauge(prometheus::IntGauge);

impl OpenGauge {
    fn new(metrics: &UpstreamMetrics) -> Self {
        metrics.tunnels_open.inc();
        Self(metrics.tunnels_open.clone())
    }
}

impl Drop for OpenGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}
