//! A tunnel from its opening to its line in the access log: counted, carried, told.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::Core;
use super::learn::Hold;
use super::line::Line;
use crate::access_log::Event;
use crate::listener::{Parts, Permit};
use crate::metrics::UpstreamMetrics;
use crate::snapshot::Pool;
use crate::transport::Transport;
use crate::tunnel::{Carrying, Closed, End, Ends, Listening, carry};
use crate::upstream::Lease;

/// What is told of a tunnel when it ends, and what it holds until then.
pub(super) struct About {
    pub(super) core: Arc<Core>,
    pub(super) line: Box<Line>,
    pub(super) lease: Lease,
    pub(super) pool: Arc<Pool>,
    /// Its session, where it may have one.
    pub(super) held: Option<Arc<Hold>>,
}

/// An open tunnel.
pub(super) struct Tunnel {
    about: About,
    permit: Permit,
    open: OpenGauge,
    carrying: Carrying,
}

/// Opens a tunnel and carries it to its end; `None` when none came of it, and that has been told.
///
/// Opening takes much memory, which is not kept for the hours that a socket lives: boxed, it goes when it is done.
pub(super) fn serve(opening: impl Future<Output = Option<Tunnel>> + Send) -> impl Future<Output = ()> + Send {
    let opening = Box::pin(opening);
    async move {
        if let Some(tunnel) = opening.await {
            tunnel.run().await;
        }
    }
}

impl Tunnel {
    /// Opens it. `first` came from the server with the answer, whose head are its first `head` bytes.
    pub(super) fn open(
        about: About,
        client: Parts,
        server: Transport,
        first: BytesMut,
        head: usize,
        idle: Duration,
        listening: Listening,
    ) -> Self {
        if about.core.access_log.tells_openings() {
            about.core.access_log.write(about.line.now(Event::Open));
        }
        let open = OpenGauge::new(&about.pool.metrics);
        let Parts { transport, held, deadline, permit, .. } = client;
        let ends = Ends { client: transport, from_client: held, server, from_server: first, head };
        let leave = about.pool.roster(about.lease.server().id()).add(about.line.origin());
        let carrying = carry(ends, idle, deadline, leave, listening);
        Self { about, permit, open, carrying }
    }

    /// Carries until the end, then counts and logs. No async function: it would keep the tunnel twice.
    fn run(self) -> impl Future<Output = ()> + Send {
        let mut tunnel = self;
        async move {
            let closed = (&mut tunnel.carrying).await;
            tunnel.end(closed);
        }
    }

    fn end(self, closed: Closed) {
        let Self { about: About { core, mut line, lease, pool, held }, permit, open, carrying } = self;
        drop(carrying);
        // When this client comes back it is placed here again.
        pool.upstream.saw(&line.client.into(), lease.server());
        let end = match closed.end {
            End::Drained if core.ending.is_leaving() => End::Stopped,
            end => end,
        };
        let closed_by = end.word();
        drop((open, permit, lease));
        pool.metrics.bytes_in.inc_by(closed.bytes_in);
        pool.metrics.bytes_out.inc_by(closed.bytes_out);
        pool.metrics.closed(closed_by);
        line.event = Event::Close;
        line.bytes_in = closed.bytes_in;
        line.bytes_out = closed.bytes_out;
        line.messages_in = closed.seen_in.messages;
        line.messages_out = closed.seen_out.messages;
        line.closed_by = closed_by;
        line.close_code = closed.seen_in.close.or(closed.seen_out.close).or(closed.said);
        core.access_log.write(line.finish());
        drop(held);
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
