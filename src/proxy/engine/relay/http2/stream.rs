//! One stream: an exchange from its beginning to its line in the log.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout_at};

use super::across::Across;
use super::carry::{Carry, End, Outcome};
use super::line::{Behind, Line};
use super::request::Asked;
use crate::config::Config;
use crate::exchange::{Answer, Core, Ended, Exchange, Side};
use crate::http::Refusal;
use crate::http::framing::Body;
use crate::listener::Info;
use crate::proxy::engine::relay::Relay;
use crate::proxy::engine::relay::shared::Taken;
use crate::transport::Transport;

/// The client's end of a stream.
pub(super) struct Client {
    pub(super) respond: SendResponse<Bytes>,
    /// Where the body of the answer goes, once its head is sent.
    pub(super) sending: Option<SendStream<Bytes>>,
    pub(super) line: Arc<Line>,
}

impl Client {
    /// Of a stream that has just been opened.
    pub(super) fn new(respond: SendResponse<Bytes>, line: Arc<Line>) -> Self {
        Self { respond, sending: None, line }
    }
}

/// The body of a request, and what has been taken in of it.
pub(super) struct BodyIn {
    pub(super) stream: RecvStream,
    pub(super) taken_in: Option<TakenIn>,
    /// What has gone to a server of HTTP/2, for the case that the server has not looked at it.
    pub(super) sent: Sent,
    /// What has come while a server was looked for, with what counts it.
    early: Option<(BytesMut, Behind)>,
}

/// Parts of a body that are kept for a server that has not looked at them.
const MOST_PARTS: usize = 64;

/// The beginning of a body, as long as it is small.
#[derive(Default)]
pub(super) struct Sent {
    parts: Vec<Bytes>,
    bytes: usize,
    /// More has gone than is kept.
    more: bool,
    line: Option<Arc<Line>>,
}

impl Sent {
    /// Its part with this number, where there is one.
    pub(super) fn part(&self, number: usize) -> Option<Bytes> {
        self.parts.get(number).cloned()
    }

    /// Whether so many parts are all that there are.
    pub(super) fn is_all(&self, parts: usize) -> bool {
        self.more || parts >= self.parts.len()
    }

    /// Keeps the next one, unless it is too much by now.
    pub(super) fn keep(&mut self, part: &Bytes, line: &Arc<Line>) {
        let too_many = self.parts.len() == MOST_PARTS || (self.bytes + part.len()) as u64 > TAKEN_IN;
        self.more = self.more || too_many || !line.try_take(part.len());
        if self.more {
            return self.let_go();
        }
        self.bytes += part.len();
        self.line.get_or_insert_with(|| Arc::clone(line));
        self.parts.push(part.clone());
    }

    /// Something has gone that is not kept.
    pub(super) fn lose(&mut self) {
        self.more = true;
        self.let_go();
    }

    fn let_go(&mut self) {
        self.parts = Vec::new();
        if let Some(line) = &self.line {
            line.release(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl BodyIn {
    /// Takes what comes before there is anybody to send it to: many small parts would cost much where they are. No more comes
    /// than the client has room for.
    fn take_in_early(&mut self, line: &Arc<Line>, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(Ok(part))) = self.stream.poll_data(cx) {
            let (early, behind) = self.early.get_or_insert_with(|| (BytesMut::new(), Behind::of(line)));
            early.extend_from_slice(&part);
            behind.set(early.len());
        }
    }

    /// Hands that out.
    pub(super) fn take_early(&mut self) -> Option<Bytes> {
        let (early, _behind) = self.early.take()?;
        Some(early.freeze()).filter(|early| !early.is_empty())
    }

    /// Whether all that has gone of it can go once more.
    fn can_go_again(&self) -> bool {
        self.taken_in.is_some() || !self.sent.more
    }
}

/// A small body that is whole.
pub(super) struct TakenIn {
    pub(super) bytes: Bytes,
    line: Arc<Line>,
    counted: usize,
}

impl Drop for TakenIn {
    fn drop(&mut self) {
        self.line.release(self.counted);
    }
}

/// The longest body of a request that is read before its server is looked for.
const TAKEN_IN: u64 = 32 * 1024;

/// What came of looking for a server.
enum Found {
    /// A connection, used before or not.
    Server(Transport, bool),
    /// Room on one of HTTP/2.
    Stream(Box<Taken>),
    Refused(Refusal),
    /// The client has left.
    Gone,
}

/// Serves a stream to its end; an answer that its server has cut ends by way of `cut`.
pub(super) async fn serve(
    relay: Arc<Relay>,
    info: Arc<Info>,
    request: Request<RecvStream>,
    mut client: Client,
    cut: UnboundedSender<super::Cut>,
) {
    let core = &*relay.core;
    let (parts, body) = request.into_parts();
    let asked = Asked::new(parts, &body);
    let mut body = BodyIn { stream: body, taken_in: None, sent: Sent::default(), early: None };
    let mut exchange = Exchange::begin(core, &info, &asked.line(), asked.announced()).await;
    if exchange.refusal().is_none()
        && let Some(refusal) = asked.fault(&exchange.snapshot().config.limits)
    {
        exchange.refuse(core, refusal);
    }
    if exchange.answers_itself() {
        return answer(core, client, exchange, &asked, None).await;
    }
    match take_in(&mut client, &mut body, &asked, &mut exchange).await {
        Ok(()) => {}
        Err(Some(refusal)) => {
            exchange.refuse(core, refusal);
            return answer(core, client, exchange, &asked, Some(Side::Client)).await;
        }
        Err(None) => {
            let gone = client.line.gone();
            return end(core, exchange, &asked, (0, 0), Some(gone));
        }
    }
    let (mut fresh, mut refused) = (false, false);
    loop {
        let found = find(&relay, (&mut client, &mut body), &mut exchange, &asked, fresh).await;
        if let (Found::Server(..) | Found::Stream(_), Some(taken)) = (&found, &body.taken_in) {
            exchange.hear_whole(&taken.bytes);
        }
        if exchange.leave().is_some() {
            exchange.can_be_ended();
        }
        exchange.can_end_streams();
        let (ended, (status, bytes), reused) = match found {
            Found::Server(server, reused) => {
                let mut carry = Carry::new(core, (&mut client, &mut body), server, &mut exchange, &asked);
                let ended = poll_fn(|cx| carry.poll(cx)).await;
                let Outcome { status, bytes, server } = carry.outcome();
                if let (End::Answered, Some(server), Some(lease)) = (&ended, server, exchange.lease()) {
                    relay.kept.put(lease, server);
                }
                (ended, (status, bytes), reused)
            }
            Found::Stream(taken) => {
                let reused = taken.reused;
                match Across::begin(core, (&mut client, &mut body), *taken, &mut exchange, &asked) {
                    Ok(mut across) => {
                        let ended = poll_fn(|cx| across.poll(cx)).await;
                        (ended, across.outcome(), reused)
                    }
                    Err(end) => (end, (0, 0), reused),
                }
            }
            Found::Refused(refusal) => {
                exchange.refuse(core, refusal);
                return answer(core, client, exchange, &asked, None).await;
            }
            Found::Gone => {
                let gone = client.line.gone();
                return end(core, exchange, &asked, (0, 0), Some(gone));
            }
        };
        match ended {
            End::Answered => return end(core, exchange, &asked, (status, bytes), None),
            End::Lost if reused => fresh = true,
            End::Lost if exchange.lost() => fresh = false,
            // The server has done nothing for it: once more there, on a connection that takes it, and then elsewhere.
            End::NotTaken if body.can_go_again() && !std::mem::replace(&mut refused, true) => {}
            End::NotTaken if body.can_go_again() && exchange.lost() => refused = false,
            End::Lost | End::NotTaken => {
                exchange.refuse(core, Refusal::BadAnswer);
                return answer(core, client, exchange, &asked, Some(Side::Server)).await;
            }
            End::Told => {
                exchange.goodbye(core, &asked.line());
                return answer(core, client, exchange, &asked, None).await;
            }
            End::Refused(refusal, side) => {
                exchange.refuse(core, refusal);
                return answer(core, client, exchange, &asked, Some(side)).await;
            }
            End::Reset(reason) => {
                if let Some(sending) = client.sending.take() {
                    let _ = cut.send((sending, reason));
                }
                return end(core, exchange, &asked, (status, bytes), Some(Side::Server));
            }
            End::Cut(side) => {
                let side = if side == Side::Client { client.line.gone() } else { side };
                match client.sending.take() {
                    Some(sending) if side == Side::Server => {
                        let _ = cut.send((sending, Reason::INTERNAL_ERROR));
                    }
                    Some(mut sending) => sending.send_reset(Reason::CANCEL),
                    None => client.respond.send_reset(Reason::CANCEL),
                }
                return end(core, exchange, &asked, (status, bytes), Some(side));
            }
        }
    }
}

/// Waits for a body that is small, so that one that comes slowly takes no place on a server. An error is what the client is
/// told if it does not come, or nothing if it has left.
async fn take_in(
    client: &mut Client,
    body: &mut BodyIn,
    asked: &Asked,
    exchange: &mut Exchange,
) -> Result<(), Option<Refusal>> {
    let Body::Length(length @ ..=TAKEN_IN) = asked.body else { return Ok(()) };
    let length = usize::try_from(length).unwrap_or_default();
    if !client.line.try_take(length) {
        return Ok(());
    }
    let mut taken = TakenIn { bytes: Bytes::new(), line: Arc::clone(&client.line), counted: length };
    let began = Instant::now();
    let (mut moved, mut came) = (began, Vec::new());
    while !body.stream.is_end_stream() {
        let due = {
            let Config { timeouts, limits, .. } = &exchange.snapshot().config;
            let silence = (!timeouts.body.is_zero()).then(|| moved + timeouts.body);
            let pace = timeouts.body_due(limits, came.len() as u64, false).map(|time| began + time);
            silence.into_iter().chain(pace).min()
        };
        let next = poll_fn(|cx| body.stream.poll_data(cx));
        let next = match due {
            Some(due) => timeout_at(due, next).await.map_err(|_| Some(Refusal::BodyTimeout))?,
            None => next.await,
        };
        let Some(bytes) = next else { break };
        let bytes = bytes.map_err(|_| None)?;
        if bytes.is_empty() {
            continue;
        }
        exchange.hear_request(&bytes, false).map_err(Some)?;
        body.stream.flow_control().release_capacity(bytes.len()).map_err(|_| None)?;
        came.extend_from_slice(&bytes);
        moved = Instant::now();
    }
    taken.bytes = came.into();
    body.taken_in = Some(taken);
    Ok(())
}

/// Finds a server and a connection to it, a `fresh` one or one that was kept.
async fn find(
    relay: &Relay,
    (client, body): (&mut Client, &mut BodyIn),
    exchange: &mut Exchange,
    asked: &Asked,
    fresh: bool,
) -> Found {
    // Towards HTTP/1.1 it is read by another hand.
    let mut body = Some(body).filter(|body| exchange.speaks_http2() && body.taken_in.is_none());
    loop {
        match unless_reset(client, body.as_deref_mut(), exchange.place()).await {
            Some(Ok(())) => {}
            Some(Err(refusal)) => return Found::Refused(refusal),
            None => return Found::Gone,
        }
        let Some(lease) = exchange.lease() else { return Found::Refused(Refusal::NoServer) };
        if lease.upstream().config().http2 {
            let alone = asked.logs_connection_in();
            let taken = match relay.shared.take(lease).filter(|_| !alone) {
                Some(taken) => Ok(taken),
                None => {
                    match unless_reset(client, body.as_deref_mut(), Box::pin(relay.shared.open(lease, alone))).await {
                        Some(taken) => taken,
                        None => return Found::Gone,
                    }
                }
            };
            match taken {
                Ok(taken) => {
                    exchange.connected(taken.reused);
                    return Found::Stream(Box::new(taken));
                }
                Err(fault) => {
                    exchange.connect_failed(&fault.error, fault.counts());
                    continue;
                }
            }
        }
        if let Some(server) = relay.kept.take(lease).filter(|_| !fresh) {
            exchange.connected(true);
            return Found::Server(server, true);
        }
        let told = exchange.proxy_header();
        let connecting = Box::pin(lease.upstream().connect(lease.server(), told.as_deref()));
        match unless_reset(client, None, connecting).await {
            Some(Ok(server)) => {
                exchange.connected(false);
                return Found::Server(server, false);
            }
            Some(Err(error)) => {
                exchange.connect_failed(&error, true);
            }
            None => return Found::Gone,
        }
    }
}

/// Waits for work that is done for the client; `None` when it has reset the stream meanwhile. What comes of its body is taken.
async fn unless_reset<T>(
    client: &mut Client,
    mut body: Option<&mut BodyIn>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            if let Some(body) = &mut body {
                body.take_in_early(&client.line, cx);
            }
            client.respond.poll_reset(cx).map(|_| None)
        }
    })
    .await
}

/// Answers in the server's place. `cut_by`: whose fault it is that the server's answer does not come.
pub(super) async fn answer(
    core: &Core,
    mut client: Client,
    mut exchange: Box<Exchange>,
    asked: &Asked,
    cut_by: Option<Side>,
) {
    let line = asked.line();
    let write = exchange.snapshot().config.timeouts.write;
    let Some(own) = exchange.own_answer(&line) else { return };
    own.due().await;
    let (head, body) = written(own, asked.is_head());
    let (status, bytes_out) = (head.status().as_u16(), body.len() as u64);
    let sent = send(&mut client, head, body, write).await;
    let cut_by = sent.map_or_else(Some, |()| cut_by);
    // What is still on its way of the request is not wanted, which the crate says when the stream is dropped.
    end(core, exchange, asked, (status, bytes_out), cut_by);
}

/// An answer of the gateway's own as HTTP/2 has it.
fn written(answer: Answer<'_>, to_head: bool) -> (Response<()>, Bytes) {
    let Answer { status, fields, mut body, is_status, .. } = answer;
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &fields {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            head.headers_mut().append(name, value);
        }
    }
    // Neither has a body, and neither may say the length of one (RFC 9110 8.6).
    let without = matches!(status, 100..=199 | 204);
    if !without && !is_status {
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if to_head || without || status == 304 {
        body.clear();
    }
    (head, body)
}

/// Sends an answer of the gateway's own; who has ended it where the client does not take it.
async fn send(client: &mut Client, head: Response<()>, mut body: Bytes, write: Duration) -> Result<(), Side> {
    let mut sending = client.respond.send_response(head, body.is_empty()).map_err(|_| client.line.gone())?;
    let (timer, mut moved) = (client.line.timer(), client.line.now());
    while !body.is_empty() {
        sending.reserve_capacity(body.len());
        let room = poll_fn(|cx| match sending.poll_capacity(cx) {
            Poll::Pending if !write.is_zero() => {
                timer.set_at(client.line.waits_since(moved).after(write));
                timer.poll_expired(cx).map(|()| Err(Side::StalledClient))
            }
            room => room.map(|room| room.and_then(Result::ok).ok_or_else(|| client.line.gone())),
        });
        let room = room.await?;
        let part = body.split_to(room.min(body.len()));
        sending.send_data(part, body.is_empty()).map_err(|_| client.line.gone())?;
        moved = client.line.now();
    }
    Ok(())
}

pub(super) fn end(
    core: &Core,
    mut exchange: Box<Exchange>,
    asked: &Asked,
    (status, bytes_out): (u16, u64),
    cut_by: Option<Side>,
) {
    exchange.end(core, Ended { protocol: "HTTP/2", status, bytes_out, cut_by }, || asked.line());
}
