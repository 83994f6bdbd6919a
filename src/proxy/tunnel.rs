//! A tunnel from its opening to its line in the access log: counted, carried, told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use crate::access_log::Event;
use crate::buffers::Held;
use crate::deadline::Deadline;
use crate::exchange::{Core, Opened, of_session};
use crate::listener::{Connection, Permit};
use crate::metrics::OpenGauge;
use crate::roster::{OfSession, Visitor};
use crate::session::Cause;
use crate::transport::Transport;
use crate::tunnel::stream::Stream;
use crate::tunnel::{Bounds, Carrying, Closed, End, Ends, Listening, Ping, carry};
use crate::upstream::config;

/// An open tunnel, whose client is heard on a stream of this kind.
pub(super) struct Tunnel<S = Transport> {
    core: Arc<Core>,
    opened: Opened,
    permit: Option<Permit>,
    open: OpenGauge,
    carrying: Carrying<S>,
}

/// The client of a tunnel that is about to open.
pub(super) struct Client<S> {
    /// Where it is heard.
    pub(super) stream: S,
    /// What it has said already, for the server.
    pub(super) held: BytesMut,
    pub(super) deadline: Deadline,
    /// What waits because of it.
    pub(super) waiting: Held,
    /// Its place in the limits, where its connection is all its own.
    pub(super) permit: Option<Permit>,
}

impl From<Connection> for Client<Transport> {
    fn from(connection: Connection) -> Self {
        let Connection { transport: stream, held, deadline, waiting, permit, .. } = connection;
        Self { stream, held, deadline, waiting, permit: Some(permit) }
    }
}

/// Opens a tunnel and carries it to its end; `None` when none came of it, and that has been told.
///
/// A future by hand: it is kept for as long as a socket lives, and an async block would keep the tunnel twice.
#[expect(clippy::large_enum_variant, reason = "what is large is what it is for nearly all of its time")]
pub(super) enum Serving<F, S = Transport> {
    /// Opening takes much memory, and gives it back when it is done.
    Opening(Pin<Box<F>>),
    Open(Tunnel<S>),
    Over,
}

impl<F: Future<Output = Option<Tunnel<S>>>, S> Serving<F, S> {
    pub(super) fn new(opening: F) -> Self {
        Self::Opening(Box::pin(opening))
    }
}

impl<F: Future<Output = Option<Tunnel<S>>>, S: Stream> Future for Serving<F, S> {
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

impl<S: Stream> Tunnel<S> {
    /// Opens it. `first` came from the server with the answer, whose head are its first `head` bytes.
    pub(super) fn open(
        core: Arc<Core>,
        mut opened: Opened,
        client: impl Into<Client<S>>,
        server: Transport,
        first: BytesMut,
        head: usize,
        listening: Listening,
    ) -> Self {
        if let Some(mut trace) = opened.entry.trace.take() {
            core.traces.opened(&mut trace, &opened.entry.now(Event::Open));
            opened.entry.trace = Some(trace);
        }
        if core.access_log.tells_openings() {
            core.access_log.write(&opened.entry.now(Event::Open));
        }
        let Opened { entry, lease, upstream, held, idle, .. } = &opened;
        let open = OpenGauge::new(&upstream.metrics.tunnels_open);
        let Client { stream, held: from_client, deadline, waiting, permit } = client.into();
        let ends = Ends { client: stream, from_client, server, from_server: first, head };
        let session = held.as_ref().map_or(OfSession::None, of_session);
        let visitor = Visitor { origin: entry.origin(), client: entry.client, session };
        let leave = upstream.roster(lease.server().id()).enter(visitor);
        let idle = *idle;
        opened.expires(&leave);
        let carrying = carry(ends, idle, (deadline, waiting), leave, listening);
        Self { core, opened, permit, open, carrying }
    }

    /// Counts and logs, when it has been carried.
    fn end(self, closed: Closed) {
        let Self { core, opened, permit, open, carrying } = self;
        let Opened { mut entry, lease, upstream, holds, held, unsure, resumes, .. } = opened;
        let told = carrying.leave().why().filter(|_| closed.end == End::Drained);
        // First the session, then its place on the roster: whoever counts one never misses the other.
        let is_cut = told.is_none() && closed.seen_in.close.or(closed.seen_out.close).is_none();
        if let Some(held) = held.as_ref().and_then(|hold| hold.get())
            && !(unsure && closed.seen_in.messages == 0)
            && !(resumes && is_cut)
        {
            if resumes && told.is_some() {
                held.leaves();
            }
            held.ended(cause(&closed));
        }
        drop(held);
        drop(carrying);
        // When this client comes back it is placed here again.
        upstream.saw(&entry.client.into(), lease.server());
        let why = told.map(|why| if core.ending.is_leaving() { End::Stopped.as_str() } else { why.as_str() });
        let closed_by = why.unwrap_or(closed.end.as_str());
        if let Some(why) = why {
            upstream.metrics.goodbye(why);
        }
        drop((open, permit, holds, lease));
        upstream.metrics.bytes_in.inc_by(closed.bytes_in);
        upstream.metrics.bytes_out.inc_by(closed.bytes_out);
        upstream.metrics.closed(closed_by);
        upstream.metrics.tunnel_seconds.observe(entry.elapsed().as_secs_f64());
        entry.event = Event::Close;
        entry.bytes_in = closed.bytes_in;
        entry.bytes_out = closed.bytes_out;
        entry.messages_in = closed.seen_in.messages;
        entry.messages_out = closed.seen_out.messages;
        entry.closed_by = closed_by;
        entry.close_code = closed.seen_in.close.or(closed.seen_out.close).or(closed.said);
        let trace = entry.trace.take();
        let record = entry.finish();
        if let Some(trace) = trace {
            core.traces.tunnel(&trace, &record);
        }
        core.access_log.write(&record);
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
        End::NoRoom | End::MessageTooLarge | End::TooManyMessages | End::NoWebSocket => Cause::ClientLost,
    }
}

/// When the sides of a tunnel are asked whether they are still there.
pub(super) fn ping(said: &config::WebSocket) -> Option<Ping> {
    let ping = Ping { interval: said.ping_interval, timeout: said.ping_timeout };
    (!ping.interval.is_zero()).then_some(ping)
}

/// What clients may send through a WebSocket.
pub(super) fn bounds(said: &config::Messages) -> Option<Box<Bounds>> {
    Bounds::new(u32::try_from(said.size.as_u64()).unwrap_or(u32::MAX), said.rate, said.burst.unwrap_or(said.rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_tunnel_is_kept_once_and_is_small() {
        type Opening = std::future::Ready<Option<Tunnel>>;
        let (tunnel, serving) = (size_of::<Tunnel>(), size_of::<Serving<Opening>>());
        assert!(tunnel <= 648, "{tunnel} bytes");
        assert!(serving <= tunnel + 8, "{serving} bytes for a tunnel of {tunnel}");
    }
}
