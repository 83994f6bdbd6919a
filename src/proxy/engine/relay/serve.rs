//! One client's connection: head after head, and for each of them an exchange from its beginning to its line in the log.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::Relay;
use super::buffer::{self, AHEAD};
use super::carry::{Carry, End, Outcome, Times, Upload, is_last};
use super::client::{NextHead, Stops, poll_read, unless_gone};
use super::request::{Asked, add_host, to_server};
use super::server::Server;
use super::translated::Translated;
use crate::config::Config;
use crate::ending::Stopping;
use crate::exchange::{Answer, Core, Ended, Exchange, RequestHead, Side};
use crate::http::Refusal;
use crate::http::framing::Body;
use crate::http::head::{self, Head, Kind};
use crate::http::passing::Passing;
use crate::http::upgrade::Opening;
use crate::http::write::HeadWriter;
use crate::listener::{Connection, HeadError, Info};
use crate::proxy::http1::refuse;
use crate::proxy::upgrade;
use crate::text::Text;
use crate::transport::Transport;
use crate::upstream::{Lease, ServerId};
use crate::wire::proxy_protocol::Subject;

/// How long the rest of a request's body is read after an early answer, so that the connection can be used again.
const DRAIN: Duration = Duration::from_secs(5);
/// The longest body of a request that is read before its server is looked for.
const TAKEN_IN: usize = 32 * 1024;
/// The longest body of an answer of the gateway's own that is copied behind its head.
const COPIED: usize = 8 * 1024;

/// What a head turned out to be.
enum Next {
    /// An exchange that has been begun.
    Begun(Begun),
    /// One that has to wait for filters.
    ToFilters(Box<[u8]>, Body),
    /// The opening of a WebSocket.
    Upgrade(BytesMut, Opening),
    /// That of something else, which its route allows.
    Other(Box<Other>),
    /// Nothing that is carried.
    Refused(Refusal, Box<[u8]>),
}

/// An exchange, and the request that it is about.
struct Begun {
    exchange: Box<Exchange>,
    asked: Asked,
    body: Passing,
    /// The head as its server gets it; empty where the gateway answers by itself.
    out: Vec<u8>,
    /// Whether that tells a host.
    has_host: bool,
}

/// An exchange that upgrades to no WebSocket.
struct Other {
    begun: Begun,
    /// The length of the request's body.
    length: u64,
    /// What it upgrades to.
    protocol: Box<str>,
}

/// What becomes of a client's connection behind an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// It waits for the next request.
    Next,
    /// It is closed so that the client can read what was written last.
    Close,
    /// It is dropped.
    Drop,
}

/// Serves the connection to its end, or until it becomes a tunnel.
///
/// An async block, here and below, where an async function would keep its arguments twice.
#[expect(clippy::manual_async_fn, reason = "see above")]
pub(super) fn serve(
    relay: Arc<Relay>,
    mut client: Connection,
    stopping: Stopping,
) -> impl Future<Output = ()> + Send + 'static {
    async move {
        let core = &relay.core;
        let (mut first, mut of_session) = (true, false);
        let (mut stops, mut own) = (Stops::default(), None);
        loop {
            // In one statement with one wait: what is seen in several, or has a name, would be kept with the exchange.
            let begun = match next(core, &mut client, &mut stops, &stopping, (first, of_session)).await {
                Some(Ok(Next::Begun(begun))) => begun,
                // Boxed: room for what seldom happens would be kept for as long as the connection is.
                next => return Box::pin(leave(core, client, next, &stopping)).await,
            };
            first = false;
            of_session = begun.exchange.is_of_session();
            let after = carry(&relay, &mut client, &mut own, begun, &stopping).await;
            client.waiting.set(0);
            match after {
                After::Next => {}
                After::Close => return Box::pin(client.close()).await,
                After::Drop => return,
            }
        }
    }
}

/// Serves what begins no exchange, and is the last on its connection.
async fn leave(core: &Arc<Core>, client: Connection, next: Option<Result<Next, HeadError>>, stopping: &Stopping) {
    match next {
        Some(Ok(Next::Other(other))) => switch(core, client, *other, stopping).await,
        Some(Ok(Next::Upgrade(head, opening))) => upgrade::serve(core, client, head, opening, None).await,
        Some(Ok(Next::Refused(refusal, head))) => refuse(core, client, refusal, Some(&head)).await,
        Some(Err(HeadError::Late)) => refuse(core, client, Refusal::HeadTimeout, None).await,
        Some(Err(HeadError::TooLarge)) => refuse(core, client, Refusal::HeadTooLarge, None).await,
        Some(Err(HeadError::Gone | HeadError::Idle) | Ok(Next::Begun(_) | Next::ToFilters(..))) | None => {}
    }
}

/// Waits for the next head; `None` when the connection is to be let go.
async fn next(
    core: &Arc<Core>,
    client: &mut Connection,
    stops: &mut Stops,
    stopping: &Stopping,
    (first, of_session): (bool, bool),
) -> Option<Result<Next, HeadError>> {
    let (timeouts, most, most_fields, most_body) = {
        let snapshot = core.snapshot.load();
        let limits = &snapshot.config.limits;
        let most = usize::try_from(limits.head.as_u64()).unwrap_or(usize::MAX);
        (snapshot.config.timeouts.clone(), most, limits.headers, limits.body.as_u64())
    };
    let info = Arc::clone(&client.info);
    let mut head = NextHead::new(client, &timeouts, most, first);
    let next = poll_fn(|cx| {
        let take = |bytes: &[u8], whole: bool| take(core, &info, bytes, whole, (most, most_fields, most_body));
        match head.poll(client, take, cx) {
            Poll::Ready(next) => return Poll::Ready(Some(next)),
            // A head that has begun is finished first.
            Poll::Pending if head.has_begun() => return Poll::Pending,
            Poll::Pending => {}
        }
        stops.poll(core, stopping, (first, of_session), cx).map(|()| None)
    })
    .await;
    match next {
        Some(Ok(Next::ToFilters(head, body))) => Box::pin(ask_filters(core, &info, head, body)).await.map(Ok),
        next => next,
    }
}

/// Reads a head where it lies, and how long it is; `None` where it may not be whole.
fn take(
    core: &Core,
    info: &Arc<Info>,
    bytes: &[u8],
    whole: bool,
    (most, most_fields, most_body): (usize, usize, u64),
) -> Option<(Next, usize)> {
    let mut fields = head::room();
    let refused = |refusal| Some((Next::Refused(refusal, bytes.into()), bytes.len()));
    let (head, length) = match head::parse_first(bytes, &mut fields, most_fields) {
        Ok(Some((head, length))) if length <= most => (head, length),
        // Where it ends is found out by other means.
        _ if !whole => return None,
        Ok(_) => return refused(Refusal::BadRequest),
        Err(refusal) => return refused(refusal),
    };
    let bytes = &bytes[..length];
    let next = match head.kind(most_body) {
        Err(refusal) => Next::Refused(refusal, bytes.into()),
        Ok(Kind::Upgrade(opening)) => {
            Next::Upgrade(head.to_plain_form().unwrap_or_else(|| BytesMut::from(bytes)), opening)
        }
        Ok(Kind::Exchange(body)) => match head.to_plain_form() {
            None => begin(core, info, &head, bytes, body),
            Some(plain) => match head::parse(&plain, &mut head::room(), 0) {
                Ok(head) => begin(core, info, &head, &plain, body),
                Err(refusal) => Next::Refused(refusal, bytes.into()),
            },
        },
    };
    Some((next, length))
}

/// Begins an exchange at once, where nobody has to be waited for.
fn begin(core: &Core, info: &Arc<Info>, head: &Head<'_>, bytes: &[u8], body: Body) -> Next {
    let request = RequestHead::plain(head);
    match Exchange::begin_now(core, info, &request, announced(body)) {
        Some(exchange) => Next::of(exchange, head, &request, bytes, body),
        None => Next::ToFilters(bytes.into(), body),
    }
}

impl Next {
    /// What an exchange that has been begun is to be carried as. A body that has to be waited for, or is large, is one of
    /// a plain request.
    fn of(exchange: Box<Exchange>, head: &Head<'_>, request: &RequestHead<'_>, bytes: &[u8], body: Body) -> Self {
        let length = announced(body).filter(|&length| length <= TAKEN_IN as u64);
        let expects = request.headers.get("expect").is_some();
        if let (Some(length), false) = (length, expects)
            && let Some(protocol) = exchange.other_upgrade(head.minor_version, &request.headers)
        {
            let (protocol, begun) = (protocol.into(), Begun::new(exchange, head, request, bytes, body));
            return Self::Other(Box::new(Other { begun, length, protocol }));
        }
        Self::Begun(Begun::new(exchange, head, request, bytes, body))
    }
}

/// Reads the body of a request that upgrades, and leaves it to whoever opens tunnels.
async fn switch(core: &Arc<Core>, mut client: Connection, other: Other, stopping: &Stopping) {
    let Other { begun: Begun { mut exchange, asked, body: passing, out, .. }, length, protocol } = other;
    let missing = take_in(&mut client, length, &exchange.snapshot().config).await;
    client.waiting.set(0);
    let refusal = match missing {
        None => {
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(client.held.len());
            let body = client.held.split_to(length);
            match exchange.hear_request(&body, true) {
                Ok(()) => return upgrade::serve_other(core, client, &asked.head, exchange, &body, &protocol),
                Err(refusal) => refusal,
            }
        }
        Some(Ok(refusal)) => refusal,
        Some(Err(side)) => return end(core, &mut exchange, &asked, (0, 0), Some(side)),
    };
    exchange.refuse(core, refusal);
    let upload = Upload::new(out, passing, false);
    if answer(core, &mut client, exchange, &asked, upload, Some(Side::Client), stopping).await != After::Drop {
        client.close().await;
    }
}

/// Begins an exchange that filters are asked about.
async fn ask_filters(core: &Core, info: &Arc<Info>, bytes: Box<[u8]>, body: Body) -> Option<Next> {
    let mut fields = head::room();
    let head = head::parse(&bytes, &mut fields, 0).ok()?;
    let request = RequestHead::plain(&head);
    let exchange = Exchange::begin(core, info, &request, announced(body)).await;
    Some(Next::of(exchange, &head, &request, &bytes, body))
}

/// The length that a body says.
fn announced(body: Body) -> Option<u64> {
    match body {
        Body::None => Some(0),
        Body::Length(length) => Some(length),
        Body::Chunked | Body::UntilClose => None,
    }
}

impl Begun {
    fn new(exchange: Box<Exchange>, head: &Head<'_>, request: &RequestHead<'_>, bytes: &[u8], body: Body) -> Self {
        let out = if exchange.answers_itself() { Vec::new() } else { to_server(&exchange, head, request, bytes, body) };
        let has_host = exchange.host(request).is_some();
        let passing = Passing::new(body, body == Body::Chunked).behind(request.headers);
        Self { exchange, asked: Asked::new(head, request, bytes, body), body: passing, out, has_host }
    }
}

/// Carries one exchange to its end.
fn carry<'a>(
    relay: &'a Relay,
    client: &'a mut Connection,
    own: &'a mut Option<Box<Own>>,
    begun: Begun,
    stopping: &'a Stopping,
) -> impl Future<Output = After> + Send + 'a {
    let core = &*relay.core;
    let Begun { mut exchange, asked, body, out, has_host } = begun;
    let mut needs_host = !has_host;
    let may_be_refused = exchange.speaks_http2();
    let mut upload = Upload::new(out, body, asked.is_idempotent || may_be_refused);
    async move {
        if exchange.answers_itself() {
            return Box::pin(answer(core, client, exchange, &asked, upload, None, stopping)).await;
        }
        if let Body::Length(length) = asked.body
            && !asked.expects
            && let Some(missing) = take_in(client, length, &exchange.snapshot().config).await
        {
            let side = match missing {
                Ok(refusal) => {
                    exchange.refuse(core, refusal);
                    return Box::pin(answer(core, client, exchange, &asked, upload, Some(Side::Client), stopping))
                        .await;
                }
                Err(side) => side,
            };
            end(core, &mut exchange, &asked, (0, 0), Some(side));
            return After::Drop;
        }
        if let Some(own) = own.as_ref().filter(|own| own.subject == exchange.subject()) {
            exchange.wish(own.server);
        }
        let (mut fresh, mut refused) = (false, false);
        loop {
            let (server, used) = match find(relay, client, own, &mut exchange, &asked, fresh).await {
                Found::Server(server, used) => (server, used),
                Found::Refused(refusal) => {
                    exchange.refuse(core, refusal);
                    return Box::pin(answer(core, client, exchange, &asked, upload, None, stopping)).await;
                }
                Found::Gone => {
                    end(core, &mut exchange, &asked, (0, 0), Some(Side::Client));
                    return After::Drop;
                }
            };
            if exchange.has_turned() {
                upload.out = asked.to_server_again(&exchange);
                needs_host = exchange.host(&asked.line()).is_none();
            }
            if std::mem::take(&mut needs_host)
                && let Some(lease) = exchange.lease()
            {
                add_host(&mut upload.out, &lease.upstream().own_host(lease.server()));
            }
            if exchange.leave().is_some() {
                exchange.can_be_ended();
            }
            exchange.can_end_streams();
            let times = times(&exchange);
            let server = (server, used != Used::Never);
            let (ended, Outcome { status, bytes, until_close, keep, server }) = {
                let exchange = (&mut *exchange, &asked);
                let mut carry = Carry::new(core, client, server, exchange, &mut upload, times, stopping);
                let ended = poll_fn(|cx| carry.poll(cx)).await;
                (ended, carry.outcome())
            };
            if let (End::Answered, Some((server, logged_in)), Some(lease)) = (&ended, server, exchange.lease()) {
                if logged_in || used == Used::ByThisClient || lease.upstream().tells_of_clients() {
                    *own = Own::new(lease, server, exchange.subject()).map(Box::new);
                } else {
                    relay.kept.put(lease, server);
                }
            }
            match ended {
                End::Answered => {
                    end(core, &mut exchange, &asked, (status, bytes), None);
                    return after(client, upload.body, keep).await;
                }
                End::Stale => {
                    fresh = true;
                    upload.begin_again(|| {
                        needs_host = !has_host;
                        asked.to_server_again(&exchange)
                    });
                }
                // The server has done nothing for it: once more there, on a connection that takes it, and then elsewhere.
                End::NotTaken if !std::mem::replace(&mut refused, true) || exchange.lost() => {
                    upload.begin_again(|| {
                        needs_host = !has_host;
                        asked.to_server_again(&exchange)
                    });
                }
                End::Unanswered if exchange.lost() => {
                    upload.begin_again(|| {
                        needs_host = !has_host;
                        asked.to_server_again(&exchange)
                    });
                }
                End::Unanswered | End::NotTaken => {
                    exchange.refuse(core, Refusal::BadAnswer);
                    return Box::pin(answer(core, client, exchange, &asked, upload, Some(Side::Server), stopping))
                        .await;
                }
                End::Told => return Box::pin(goodbye(core, client, exchange, &asked)).await,
                End::Refused(refusal, side) => {
                    exchange.refuse(core, refusal);
                    return Box::pin(answer(core, client, exchange, &asked, upload, Some(side), stopping)).await;
                }
                End::Cut(side) => {
                    if until_close {
                        // A proper end would say that this was all.
                        client.transport.socket().reset_on_close();
                    }
                    end(core, &mut exchange, &asked, (status, bytes), Some(side));
                    return After::Drop;
                }
            }
        }
    }
}

/// A connection to a server that is one client's, and used for no other: it has been logged in for it, or its PROXY header
/// tells of it.
struct Own {
    group: u64,
    server: ServerId,
    /// Whom its header tells of.
    subject: Option<Subject>,
    stream: Transport,
    /// As long as those that are kept for anybody; one that has been logged in has no such end.
    until: Option<Instant>,
}

impl Own {
    /// `None` where there is nothing to keep.
    fn new(lease: &Lease, stream: Transport, subject: Option<Subject>) -> Option<Self> {
        let time = lease.upstream().config().timeouts.keep_alive;
        if subject.is_some() && time.is_zero() {
            return None;
        }
        let until = subject.map(|_| Instant::now() + time);
        Some(Self { group: lease.upstream().group, server: lease.server().id(), subject, stream, until })
    }

    /// Takes it for another request, if it is to that server, tells of that client, and can still be used.
    fn take(own: &mut Option<Box<Self>>, lease: &Lease, subject: Option<Subject>) -> Option<Transport> {
        let wanted = (lease.upstream().group, lease.server().id(), subject);
        let Self { stream, until, .. } = *own.take_if(|own| (own.group, own.server, own.subject) == wanted)?;
        let is_over = until.is_some_and(|until| until <= Instant::now());
        (!is_over && !stream.socket().is_readable()).then_some(stream)
    }
}

/// Waits for a body that is small, so that one that comes slowly takes no place on a server. What the client is told if
/// it does not come, or who has ended the connection.
async fn take_in(client: &mut Connection, length: u64, config: &Config) -> Option<Result<Refusal, Side>> {
    let (began, time) = (client.deadline.now(), config.timeouts.body);
    let mut moved = began;
    let length = usize::try_from(length).ok().filter(|&length| length <= TAKEN_IN)?;
    if client.held.len() >= length {
        return None;
    }
    poll_fn(|cx| {
        buffer::lend(|buffer| {
            while client.held.len() < length {
                let silence = (!time.is_zero()).then(|| moved.after(time));
                let pace = config.timeouts.body_due(&config.limits, client.held.len() as u64, false);
                match silence.into_iter().chain(pace.map(|time| began.after(time))).min() {
                    Some(due) => client.deadline.set_at(due),
                    None => client.deadline.clear(),
                }
                match poll_read(&mut client.transport, buffer, AHEAD, cx) {
                    Poll::Ready(Ok(read @ 1..)) => {
                        client.held.extend_from_slice(&buffer.bytes[AHEAD..AHEAD + read]);
                        moved = client.deadline.now();
                    }
                    Poll::Ready(_) => return Poll::Ready(Some(Err(Side::Client))),
                    Poll::Pending if client.deadline.is_stopping() => return Poll::Ready(Some(Err(Side::Client))),
                    Poll::Pending => {
                        client.waiting.set(client.held.len());
                        if client.waiting.poll_has_to_go(cx).is_ready() {
                            return Poll::Ready(Some(Err(Side::NoRoom)));
                        }
                        return client.deadline.poll_expired(cx).map(|()| Some(Ok(Refusal::BodyTimeout)));
                    }
                }
            }
            Poll::Ready(None)
        })
    })
    .await
}

/// What came of looking for a server.
enum Found {
    /// A connection, or a stream on one.
    Server(Server, Used),
    Refused(Refusal),
    /// The client has left.
    Gone,
}

/// Whether a connection was used before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Used {
    Never,
    ByAnybody,
    /// It is this client's own.
    ByThisClient,
}

/// Finds a server and a connection to it, a `fresh` one or one that was kept.
async fn find(
    relay: &Relay,
    client: &mut Connection,
    own: &mut Option<Box<Own>>,
    exchange: &mut Exchange,
    asked: &Asked,
    fresh: bool,
) -> Found {
    let at_once = exchange.is_poll();
    loop {
        if !exchange.place_now() {
            // Boxed: it is over before the long wait begins, which needs no room for it.
            match unless_gone(client, at_once, Box::pin(exchange.place())).await {
                Some(Ok(())) => {}
                Some(Err(refusal)) => return Found::Refused(refusal),
                None => return Found::Gone,
            }
        }
        let Some(lease) = exchange.lease() else { return Found::Refused(Refusal::NoServer) };
        if lease.upstream().config().http2 {
            match unless_gone(client, at_once, Box::pin(find_stream(relay, exchange, asked))).await {
                Some(Some(found)) => return found,
                Some(None) => continue,
                None => return Found::Gone,
            }
        }
        if !fresh {
            let mine = Own::take(own, lease, exchange.subject()).map(|stream| (stream, Used::ByThisClient));
            let kept = mine.or_else(|| relay.kept.take(lease).map(|stream| (stream, Used::ByAnybody)));
            if let Some((server, used)) = kept {
                exchange.connected(true);
                return Found::Server(Server::Connection(server), used);
            }
        }
        let told = exchange.proxy_header();
        let connecting = Box::pin(lease.upstream().connect(lease.server(), told.as_deref()));
        match unless_gone(client, at_once, connecting).await {
            Some(Ok(server)) => {
                exchange.connected(false);
                return Found::Server(Server::Connection(server), Used::Never);
            }
            Some(Err(error)) => {
                exchange.connect_failed(&error, true);
            }
            None => return Found::Gone,
        }
    }
}

/// Finds room for a stream on a connection to the server; `None` where it can't be connected to.
async fn find_stream(relay: &Relay, exchange: &mut Exchange, asked: &Asked) -> Option<Found> {
    let lease = exchange.lease()?;
    let alone = asked.logs_connection_in;
    let taken = match relay.shared.take(lease).filter(|_| !alone) {
        Some(taken) => Ok(taken),
        None => relay.shared.open(lease, alone).await,
    };
    let secure = lease.upstream().tls().is_some();
    match taken {
        Ok(taken) => {
            let used = if taken.reused { Used::ByAnybody } else { Used::Never };
            exchange.connected(taken.reused);
            let stream = Translated::new(taken, secure, asked.takes_trailers());
            Some(Found::Server(Server::Stream(Box::new(stream)), used))
        }
        Err(fault) => {
            exchange.connect_failed(&fault.error, fault.counts());
            None
        }
    }
}

fn times(exchange: &Exchange) -> Times {
    let timeouts = &exchange.snapshot().config.timeouts;
    let server_write = exchange.lease().map_or(Duration::ZERO, |lease| lease.upstream().config().timeouts.write);
    let first_byte = exchange.first_byte_timeout().unwrap_or_default();
    let read_idle = exchange.read_idle_timeout();
    Times {
        body: timeouts.body.into(),
        write: timeouts.write.into(),
        server_write: server_write.into(),
        first_byte: first_byte.into(),
        read_idle: read_idle.into(),
    }
}

fn end(core: &Core, exchange: &mut Exchange, asked: &Asked, (status, bytes_out): (u16, u64), cut_by: Option<Side>) {
    exchange.end(core, Ended { protocol: "HTTP/1.1", status, bytes_out, cut_by }, || asked.line());
}

/// What becomes of the connection behind an answer, once the rest of the request has been read.
async fn after(client: &mut Connection, body: Passing, keep: bool) -> After {
    if body.is_over() {
        return match (keep, client.held.is_empty(), &client.transport) {
            (true, ..) => After::Next,
            // Nothing is on its way that the kernel could answer with a reset.
            (false, true, Transport::Plain(_)) => After::Drop,
            _ => After::Close,
        };
    }
    if keep && drain(client, body).await { After::Next } else { After::Close }
}

/// Reads the rest of a body away; false where that takes too long, or the client is gone.
async fn drain(client: &mut Connection, mut body: Passing) -> bool {
    client.deadline.set(DRAIN);
    poll_fn(|cx| {
        buffer::lend(|buffer| {
            while !body.is_over() {
                if client.held.is_empty() {
                    match poll_read(&mut client.transport, buffer, AHEAD, cx) {
                        Poll::Ready(Ok(read @ 1..)) => {
                            client.held.extend_from_slice(&buffer.bytes[AHEAD..AHEAD + read]);
                        }
                        Poll::Ready(_) => return Poll::Ready(false),
                        Poll::Pending => {
                            let stopping = client.deadline.is_stopping();
                            return if stopping {
                                Poll::Ready(false)
                            } else {
                                client.deadline.poll_expired(cx).map(|()| false)
                            };
                        }
                    }
                }
                let Some(part) = body.take(&mut client.held) else { return Poll::Ready(false) };
                client.held.advance(part.taken);
                if client.held.is_empty() {
                    client.held = BytesMut::new();
                }
            }
            Poll::Ready(true)
        })
    })
    .await
}

/// Answers in the server's place. `cut_by`: whose fault it is that the server's answer does not come.
async fn answer(
    core: &Core,
    client: &mut Connection,
    mut exchange: Box<Exchange>,
    asked: &Asked,
    upload: Upload,
    cut_by: Option<Side>,
    stopping: &Stopping,
) -> After {
    let Upload { body, .. } = upload;
    // Where the rest of the request is not to be waited for, or its end is unclear, nothing can follow.
    let unclear = cut_by == Some(Side::Client) || asked.expects && !body.is_over();
    let last = !asked.is_kept_alive || unclear || is_last(core, stopping, &exchange);
    let write = exchange.snapshot().config.timeouts.write;
    let line = asked.line();
    let Some(answer) = exchange.own_answer(&line) else { return After::Drop };
    answer.due().await;
    let (status, head, body_out) = written(answer, asked, last);
    let bytes_out = body_out.len() as u64;
    let sent = send(client, head, body_out, write).await;
    let cut_by = sent.as_ref().map_or_else(|error| Some(Side::of_client(error)), |()| cut_by);
    end(core, &mut exchange, asked, (status, bytes_out), cut_by);
    drop(exchange);
    if sent.is_err() { After::Drop } else { after(client, body, !last).await }
}

/// Says goodbye to a session whose turn to leave has come while its poll waited.
async fn goodbye(core: &Core, client: &mut Connection, mut exchange: Box<Exchange>, asked: &Asked) -> After {
    // Where the gateway leaves, too, the next session has to begin on another one.
    let last = core.ending.is_leaving() || !asked.is_kept_alive;
    let write = exchange.snapshot().config.timeouts.write;
    let Some((status, head, body)) = goodbye_of(core, &mut exchange, asked, last) else { return After::Drop };
    let bytes_out = body.len() as u64;
    end(core, &mut exchange, asked, (status, bytes_out), None);
    drop(exchange);
    match send(client, head, body, write).await {
        Ok(()) if !last => After::Next,
        Ok(()) => After::Close,
        Err(_) => After::Drop,
    }
}

/// The goodbye. Apart, since room for the fields of a head would be kept for as long as it is written.
fn goodbye_of(core: &Core, exchange: &mut Exchange, asked: &Asked, last: bool) -> Option<(u16, Vec<u8>, Bytes)> {
    let mut fields = head::room();
    let parsed = head::parse(&asked.head, &mut fields, 0).ok()?;
    let request = RequestHead::from(&parsed);
    exchange.goodbye(core, &request);
    Some(written(exchange.own_answer(&request)?, asked, last))
}

/// An answer of the gateway's own as the client gets it: its status, its head, and what of its body is not behind that.
fn written(answer: Answer<'_>, asked: &Asked, last: bool) -> (u16, Vec<u8>, Bytes) {
    let Answer { status, fields, mut body, .. } = answer;
    let mut head = HeadWriter::answer(status);
    for (name, value) in &fields {
        head.field(name, value);
    }
    // Neither has a body, and neither may say the length of one (RFC 9110 8.6).
    let without = matches!(status, 100..=199 | 204);
    if !without {
        head.field("content-length", Text::number(body.len() as u64).as_bytes());
    }
    match (last, asked.is_new) {
        (true, _) => head.field("connection", "close"),
        (false, false) => head.field("connection", "keep-alive"),
        (false, true) => {}
    }
    if asked.is_head || without || status == 304 {
        body.clear();
    }
    (status, head.end(), body)
}

/// Sends an answer of the gateway's own.
async fn send(client: &mut Connection, mut head: Vec<u8>, mut body: Bytes, write: Duration) -> io::Result<()> {
    if body.len() <= COPIED {
        head.extend_from_slice(&body);
        body.clear();
    }
    let mut head = Bytes::from(head);
    client.deadline.set(write);
    poll_fn(|cx| {
        loop {
            let before = client.transport.unsent();
            let transport = Pin::new(&mut client.transport);
            let written = if head.is_empty() && body.is_empty() {
                transport.poll_flush(cx).map_ok(|()| None)
            } else {
                transport.poll_write_vectored(cx, &[IoSlice::new(&head), IoSlice::new(&body)]).map_ok(Some)
            };
            if written.is_ready() || client.transport.unsent() != before {
                client.deadline.set(write);
            }
            let written = match written {
                Poll::Ready(Ok(Some(0))) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(Some(written))) => written,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if client.deadline.is_stopping() => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Poll::Pending => ready!(client.poll_offer(if head.is_empty() { &body } else { &head }, write, cx))?,
            };
            let of_head = written.min(head.len());
            head.advance(of_head);
            body.advance(written - of_head);
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_connection_is_small() {
        fn size<F>(_: impl FnOnce(Arc<Relay>, Connection, Stopping) -> F) -> usize {
            size_of::<F>()
        }
        let (connection, exchange) = (size(serve), size_of::<Exchange>());
        assert!(connection <= 896, "{connection} bytes for a connection");
        assert!(exchange <= 640, "{exchange} bytes for an exchange");
    }
}
