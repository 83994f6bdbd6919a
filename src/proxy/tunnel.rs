//! A tunnel from its opening to its line in the access log: counted, carried, told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;

use super::Core;
use super::learn::Hold;
use super::line::Line;
use crate::access_log::Event;
use crate::listener::{Connection, Permit};
use crate::metrics::UpstreamMetrics;
use crate::session::Cause;
use crate::transport::Transport;
use crate::tunnel::{Carrying, Closed, End, Ends, Listening, carry};
use crate::upstream::{Lease, Upstream};

/// What is told of a tunnel when it ends, and what it holds until then.
pub(super) struct About {
    pub(super) core: Arc<Core>,
    pub(super) line: Box<Line>,
    pub(super) lease: Lease,
    pub(super) upstream: Arc<Upstream>,
    /// Its session, where it may have one.
    pub(super) held: Option<Arc<Hold>>,
    /// Whether that session may go on without it though it came here: a client of Socket.IO 0.9 that gave up waiting for
    /// its server's first word polls on by the same session.
    pub(super) unsure: bool,
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
/// A future by hand: it is kept for as long as a socket lives, and an async block would keep the tunnel twice.
#[expect(clippy::large_enum_variant, reason = "what is large is what it is for nearly all of its time")]
pub(super) enum Serving<F> {
    /// Opening takes much memory, and gives it back when it is done.
    Opening(Pin<Box<F>>),
    Open(Tunnel),
    Over,
}

impl<F: Future<Output = Option<Tunnel>>> Serving<F> {
    pub(super) fn new(opening: F) -> Self {
        Self::Opening(Box::pin(opening))
    }
}

impl<F: Future<Output = Option<Tunnel>>> Future for Serving<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Self::Opening(opening) = this {
            *this = ready!(opening.as_mut().poll(cx)).map_or(Self::Over, Self::Open);
        }
        let Self::Open(tunnel) = this else { return Poll::Ready(()) };
        let closed = ready!(Pin::new(&mut tunnel.carrying).poll(cx));
        if let Self::Open(tunnel) = std::mem::replace(this, Self::Over) {
            tunnel.end(closed);
        }
        Poll::Ready(())
    }
}

impl Tunnel {
    /// Opens it. `first` came from the server with the answer, whose head are its first `head` bytes.
    pub(super) fn open(
        about: About,
        client: Connection,
        server: Transport,
        first: BytesMut,
        head: usize,
        idle: Duration,
        listening: Listening,
    ) -> Self {
        if about.core.access_log.tells_openings() {
            about.core.access_log.write(about.line.now(Event::Open));
        }
        let open = OpenGauge::new(&about.upstream.metrics);
        let Connection { transport, held, deadline, permit, .. } = client;
        let ends = Ends { client: transport, from_client: held, server, from_server: first, head };
        let leave = about.upstream.roster(about.lease.server().id()).add(about.line.origin(), about.held.is_some());
        let carrying = carry(ends, idle, deadline, leave, listening);
        Self { about, permit, open, carrying }
    }

    /// Counts and logs, when it has been carried.
    fn end(self, closed: Closed) {
        let Self { about: About { core, mut line, lease, upstream, held, unsure }, permit, open, carrying } = self;
        let told = carrying.leave().why().filter(|_| closed.end == End::Drained);
        // First the session, then its place on the roster: whoever counts one never misses the other.
        if let Some(held) = held.as_ref().and_then(|hold| hold.get())
            && !(unsure && closed.seen_in.messages == 0)
        {
            held.ended(cause(&closed));
        }
        drop(held);
        drop(carrying);
        // When this client comes back it is placed here again.
        upstream.saw(&line.client.into(), lease.server());
        let why = told.map(|why| if core.ending.is_leaving() { End::Stopped.word() } else { why.word() });
        let closed_by = why.unwrap_or(closed.end.word());
        if let Some(why) = why {
            upstream.metrics.goodbye(why);
        }
        drop((open, permit, lease));
        upstream.metrics.bytes_in.inc_by(closed.bytes_in);
        upstream.metrics.bytes_out.inc_by(closed.bytes_out);
        upstream.metrics.closed(closed_by);
        line.event = Event::Close;
        line.bytes_in = closed.bytes_in;
        line.bytes_out = closed.bytes_out;
        line.messages_in = closed.seen_in.messages;
        line.messages_out = closed.seen_out.messages;
        line.closed_by = closed_by;
        line.close_code = closed.seen_in.close.or(closed.seen_out.close).or(closed.said);
        core.access_log.write(line.finish());
    }
}

/// Why the session ended whose WebSocket this was. Who has said goodbye may well leave by a reset.
fn cause(closed: &Closed) -> Cause {
    match closed.end {
        End::ClientLost | End::ClientSilent if closed.seen_in.close.is_none() => Cause::ClientLost,
        End::ServerLost | End::ServerSilent if closed.seen_out.close.is_none() => Cause::ServerLost,
        End::Client | End::ClientLost | End::ClientSilent => Cause::Client,
        End::Server | End::ServerLost | End::ServerSilent => Cause::Server,
        End::Idle => Cause::Silent,
        End::Stopped => Cause::Stopped,
        End::Drained => Cause::Drain,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_tunnel_is_kept_once_and_is_small() {
        type Opening = std::future::Ready<Option<Tunnel>>;
        let (tunnel, serving) = (size_of::<Tunnel>(), size_of::<Serving<Opening>>());
        assert!(tunnel <= 640, "{tunnel} bytes");
        assert!(serving <= tunnel + 8, "{serving} bytes for a tunnel of {tunnel}");
    }
}
