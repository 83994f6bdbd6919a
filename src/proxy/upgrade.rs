//! The opening of a WebSocket over HTTP/1.1, or of what else a route allows: an exchange that ends as a tunnel.

use std::sync::Arc;

use bytes::BytesMut;
use log::debug;

use super::connect::connect;
use super::tunnel::{Serving, Tunnel, bounds, ping};
use crate::exchange::{Core, Ended, Exchange, RequestHead, Side, with_edits};
use crate::http::Refusal;
use crate::http::head::{self, Head, MOST_FIELDS};
use crate::http::upgrade::Opening;
use crate::http::write::HeadWriter;
use crate::listener::Connection;
use crate::request::{Headers, elements};
use crate::transport::Transport;
use crate::tunnel::Listening;
use crate::tunnel::handshake::{self, Answer, NoAnswer, ask};

/// Serves one upgrade request. `begun`: what an engine has begun of it already. What takes long runs in a task of its
/// own, so that the large one that has served HTTP so far can end.
pub(super) async fn serve(
    core: &Arc<Core>,
    connection: Connection,
    head: BytesMut,
    opening: Opening,
    begun: Option<Box<Exchange>>,
) {
    let mut exchange = match begun.or_else(|| begin_now(core, &connection, &head)) {
        Some(exchange) => exchange,
        // Boxed, here and below: what hardly ever waits needs much room for it.
        None => match Box::pin(begin(core, &connection, &head)).await {
            Some(exchange) => exchange,
            None => return,
        },
    };
    if exchange.answers_itself() {
        return Box::pin(answer(core, connection, exchange, &head)).await;
    }
    let Some(asked) = asked(&mut exchange, &head, WEBSOCKET) else { return };
    // It is written again where it turns to a peer.
    let head = if exchange.may_turn() { head } else { BytesMut::new() };
    let attempt = Attempt { core: Arc::clone(core), exchange, asked, head, opening, protocol: WEBSOCKET.into() };
    tokio::spawn(core.metrics.contain(Serving::new(attempt.open(connection))));
}

/// The same for a protocol that the route allows, once the request's body has come.
pub(super) fn serve_other(
    core: &Arc<Core>,
    connection: Connection,
    head: &[u8],
    mut exchange: Box<Exchange>,
    body: &[u8],
    protocol: &str,
) {
    exchange.upgrades();
    let Some(mut asked) = asked(&mut exchange, head, protocol) else { return };
    asked.extend_from_slice(body);
    let opening = Opening::Other;
    let head = BytesMut::new();
    let attempt = Attempt { core: Arc::clone(core), exchange, asked, head, opening, protocol: protocol.into() };
    tokio::spawn(core.metrics.contain(Serving::new(attempt.open(connection))));
}

/// The name of the protocol that needs no allowance.
pub(super) const WEBSOCKET: &str = "websocket";

fn begin_now(core: &Core, connection: &Connection, head: &[u8]) -> Option<Box<Exchange>> {
    let mut fields = head::room();
    let parsed = parsed(head, &mut fields)?;
    Exchange::begin_now(core, &connection.info, &RequestHead::from(&parsed), None)
}

async fn begin(core: &Core, connection: &Connection, head: &[u8]) -> Option<Box<Exchange>> {
    let mut fields = head::room();
    let parsed = parsed(head, &mut fields)?;
    Some(Exchange::begin(core, &connection.info, &RequestHead::from(&parsed), None).await)
}

/// Answers in a server's place.
async fn answer(core: &Core, connection: Connection, mut exchange: Box<Exchange>, head: &[u8]) {
    let mut fields = head::room();
    let Some(parsed) = parsed(head, &mut fields) else { return };
    let request = RequestHead::from(&parsed);
    let Some(answer) = exchange.own_answer(&request) else { return };
    answer.due().await;
    let (status, bytes_out, answer) = (answer.status, answer.body.len() as u64, answer.to_http1(true));
    exchange.end(core, Ended { protocol: "WebSocket", status, bytes_out, cut_by: None }, || request);
    connection.answer_and_close(&answer).await;
}

/// What a server is asked; the line of the log is begun with it.
fn asked(exchange: &mut Exchange, head: &[u8], protocol: &str) -> Option<Vec<u8>> {
    let mut fields = head::room();
    let parsed = parsed(head, &mut fields)?;
    let request = RequestHead::from(&parsed);
    exchange.keep_entry(Some(&request));
    Some(server_head(exchange, &parsed, &request, protocol))
}

/// It has been read before: nothing of it can be wrong.
fn parsed<'a>(head: &'a [u8], fields: &'a mut head::Fields<'a>) -> Option<Head<'a>> {
    head::parse(head, fields, 0).ok()
}

/// The request as servers get it: the client's fields in their order and spelling, which old servers mind, but for
/// those of the connection and those that say who the client is.
fn server_head(exchange: &Exchange, head: &Head<'_>, request: &RequestHead<'_>, protocol: &str) -> Vec<u8> {
    let fields = exchange.to_server(request);
    let mut written = HeadWriter::request(request.method, exchange.target(request), 1);
    if let Some(host) = exchange.host(request) {
        written.field("Host", host);
    }
    // The name of the protocol as the client spells it: Hixie-76 servers compare it with `WebSocket`.
    let mut protocols = request.headers.all("upgrade").flat_map(elements);
    let protocol = protocol.as_bytes();
    written.field("Upgrade", protocols.find(|name| name.eq_ignore_ascii_case(protocol)).unwrap_or(protocol));
    written.field("Connection", "Upgrade");
    for sent in head.fields {
        let of_body = sent.name.eq_ignore_ascii_case("content-length");
        // No WebSocket begins with a body (RFC 6455 4.1).
        let ours = sent.name.eq_ignore_ascii_case("host") || of_body && request.websocket;
        if !ours && fields.pass(sent.name) {
            written.field(sent.name, sent.value);
        }
    }
    fields.add(|name, value| written.field(name, value));
    written.end()
}

/// One upgrade request on its way to a server.
struct Attempt {
    core: Arc<Core>,
    exchange: Box<Exchange>,
    /// The request as servers get it.
    asked: Vec<u8>,
    /// The same as it came, where it may have to be written once more.
    head: BytesMut,
    opening: Opening,
    /// What it upgrades to.
    protocol: Box<str>,
}

impl Attempt {
    /// Asks a server; `None` when there is no tunnel, and the client has been told why.
    async fn open(mut self, mut client: Connection) -> Option<Tunnel> {
        let mut server = match self.connect(&mut client).await {
            Ok(server) => server,
            Err(failure) => {
                self.fail(client, failure, Side::Client).await;
                return None;
            }
        };
        if self.exchange.has_turned() {
            let mut fields = head::room();
            if let Some(parsed) = parsed(&self.head, &mut fields) {
                self.asked = server_head(&self.exchange, &parsed, &RequestHead::from(&parsed), &self.protocol);
            }
        }
        self.head = BytesMut::new();
        let patience = self.exchange.first_byte_timeout().unwrap_or_default();
        let read_idle = self.exchange.read_idle_timeout();
        let answer = ask(&mut client, &mut server, &self.asked, (self.opening, &self.protocol), patience).await;
        self.asked = Vec::new();
        match answer {
            Ok(Answer::Switched { mut first, mut head }) => {
                match self.answered(101, &first[..head]) {
                    Ok(None) => {}
                    Ok(Some(edited)) => {
                        let rest = first.split_off(head);
                        head = edited.len();
                        first = BytesMut::from(&edited[..]);
                        first.extend_from_slice(&rest);
                    }
                    Err(refusal) => {
                        self.fail(client, Failure::Refuse(refusal), Side::Server).await;
                        return None;
                    }
                }
                let Self { core, exchange, opening, .. } = self;
                let frames = opening == Opening::Hybi;
                let is_websocket = opening != Opening::Other;
                let ping = is_websocket.then(|| ping(&exchange.lease()?.upstream().config().websocket)).flatten();
                let bounds = is_websocket.then(|| bounds(&exchange.lease()?.upstream().config().messages)).flatten();
                let goodbye = core.snapshot.load().config.drain.close_code;
                let mut listening = Listening { frames, goodbye, ping, bounds, ..Listening::default() };
                let opened = exchange.open_tunnel(&mut listening)?;
                return Some(Tunnel::open(core, opened, client, server, first, head, listening));
            }
            Ok(Answer::Refused(mut answer)) => {
                self.exchange.lease()?.upstream().metrics.upgrades_refused.inc();
                if let Ok(Some(edited)) = self.answered(answer.status, answer.head()) {
                    answer.set_head(edited);
                }
                let status = answer.status;
                let relayed = answer.relay(&mut client.transport, &mut server, read_idle).await;
                // The server has said all it will, which frees its place.
                drop(server);
                match relayed {
                    Ok(bytes_out) => {
                        self.end(status, bytes_out, None);
                        client.close().await;
                    }
                    Err(error) => {
                        debug!("an answer to an upgrade was cut: {error}");
                        client.transport.socket().reset_on_close();
                        self.end(status, 0, None);
                    }
                }
            }
            Err(no_answer) => {
                let side = if no_answer == NoAnswer::ClientGone { Side::Client } else { Side::Server };
                drop(server);
                self.fail(client, Failure::from(no_answer), side).await;
            }
        }
        None
    }

    /// Connects, and gives up when the client leaves meanwhile.
    async fn connect(&mut self, client: &mut Connection) -> Result<Transport, Failure> {
        tokio::select! {
            biased;
            connected = connect(&mut self.exchange) => connected.map_err(Failure::Refuse),
            () = handshake::gone(client) => Err(Failure::ClientGone),
        }
    }

    /// Says what the server has answered; gives the head as the client gets it, where it is another one.
    fn answered(&mut self, status: u16, head: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        if self.exchange.reads_heads() {
            // The tunnel has read it as a head before.
            let _ = parsed.parse(head);
        } else {
            parsed.headers = &mut [];
        }
        let edits = self.exchange.answered(status, Headers::Fields(parsed.headers))?;
        Ok(if edits.is_empty() { None } else { with_edits(head, edits) })
    }

    /// Ends it without a tunnel, `cut_by` this side where nobody is told why.
    async fn fail(mut self, client: Connection, failure: Failure, cut_by: Side) {
        match failure {
            Failure::ClientGone => self.end(0, 0, Some(cut_by)),
            Failure::Refuse(refusal) => {
                self.exchange.refuse(&self.core, refusal);
                let failed = cut_by == Side::Server;
                let Some(answer) = self.exchange.own_answer(&RequestHead::NONE) else { return };
                let (status, bytes_out, answer) = (answer.status, answer.body.len() as u64, answer.to_http1(true));
                self.end(status, bytes_out, failed.then_some(Side::Server));
                client.answer_and_close(&answer).await;
            }
        }
    }

    fn end(&mut self, status: u16, bytes_out: u64, cut_by: Option<Side>) {
        let ended = Ended { protocol: "WebSocket", status, bytes_out, cut_by };
        self.exchange.end(&self.core, ended, || RequestHead::NONE);
    }
}

/// Why an attempt ended before there was an answer.
enum Failure {
    ClientGone,
    Refuse(Refusal),
}

impl From<NoAnswer> for Failure {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::ClientGone => Self::ClientGone,
            NoAnswer::ServerGone | NoAnswer::Garbage => Self::Refuse(Refusal::BadAnswer),
            NoAnswer::Late => Self::Refuse(Refusal::AnswerTimeout),
        }
    }
}
