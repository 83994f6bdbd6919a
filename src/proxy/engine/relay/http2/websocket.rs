//! WebSockets over HTTP/2 (RFC 8441): the request that opens one is asked of the server as an upgrade of HTTP/1.1, and its
//! stream becomes the client's end of the tunnel.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use h2::RecvStream;
use h2::ext::Protocol;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::carry::converted;
use super::duplex::Duplex;
use super::request::Asked;
use super::stream::{Client, answer, end};
use crate::deadline::Deadline;
use crate::exchange::{Core, Exchange, Side};
use crate::http::Refusal;
use crate::http::edits::HeaderEdits;
use crate::http::head::room;
use crate::http::passing::Passing;
use crate::http::response;
use crate::http::upgrade::Opening;
use crate::listener::Info;
use crate::proxy::connect::connect;
use crate::proxy::tunnel::{self, Tunnel};
use crate::proxy::upgrade::WEBSOCKET;
use crate::request::Headers;
use crate::transport::Transport;
use crate::tunnel::Listening;
use crate::tunnel::handshake::{self, Answer, Early, NoAnswer, Refused, ask, within_io};

/// Whether a request opens a WebSocket.
pub(super) fn is_opening(request: &Request<RecvStream>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    request.method() == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// A client that waits for the answer to its opening.
struct Waiting {
    stream: Duplex,
    held: BytesMut,
    deadline: Deadline,
}

impl handshake::Client for Waiting {
    type Stream = Duplex;

    fn early(&mut self) -> Early<'_, Duplex> {
        Early { stream: &mut self.stream, held: &mut self.held, deadline: &self.deadline }
    }
}

/// What the server is to prove that it has understood (RFC 6455 4.1).
struct Key {
    sent: String,
    accepted: String,
}

impl Key {
    fn new(nonce: [u8; 16]) -> Self {
        const OF_WEBSOCKETS: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let sent = STANDARD.encode(nonce);
        let accepted = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{sent}{OF_WEBSOCKETS}").as_bytes());
        Self { accepted: STANDARD.encode(accepted), sent }
    }
}

/// Opens one; `None` where no tunnel has come of it, and the client has been told why.
pub(super) async fn open(
    core: Arc<Core>,
    info: Arc<Info>,
    request: Request<RecvStream>,
    client: Client,
) -> Option<Tunnel<Duplex>> {
    let (parts, body) = request.into_parts();
    let asked = Asked::opening(parts);
    let mut exchange = Exchange::begin(&core, &info, &asked.line(), None).await;
    if exchange.refusal().is_none()
        && let Some(refusal) = asked.fault(&exchange.snapshot().config.limits)
    {
        exchange.refuse(&core, refusal);
    }
    if exchange.answers_itself() {
        answer(&core, client, exchange, &asked, None).await;
        return None;
    }
    exchange.keep_entry(Some(&asked.line()));
    let key = Key::new(rand::random());
    let head = asked.to_upgrade(&exchange, &key.sent);
    let (deadline, waiting) = client.line.of_tunnel();
    let mut client = Waiting { stream: Duplex::new(client, body), held: BytesMut::new(), deadline };
    let connected = tokio::select! {
        biased;
        connected = connect(&mut exchange) => Some(connected),
        () = handshake::gone(&mut client) => None,
    };
    let mut server = match connected {
        Some(Ok(server)) => server,
        Some(Err(refusal)) => {
            exchange.refuse(&core, refusal);
            answer(&core, client.stream.into_client(), exchange, &asked, None).await;
            return None;
        }
        None => return left(&core, client, exchange, &asked),
    };
    let head = if exchange.has_turned() { asked.to_upgrade(&exchange, &key.sent) } else { head };
    let patience = exchange.first_byte_timeout().unwrap_or_default();
    let answered = ask(&mut client, &mut server, &head, (Opening::Hybi, WEBSOCKET), patience).await;
    let failed = match answered {
        Ok(Answer::Switched { mut first, head }) => {
            let rest = first.split_off(head);
            match switch(&mut client.stream, &mut exchange, &first, &key) {
                Ok(()) => {
                    let ping = tunnel::ping(&exchange.lease()?.upstream().config().websocket);
                    let bounds = tunnel::bounds(&exchange.lease()?.upstream().config().messages);
                    let goodbye = core.snapshot.load().config.drain.close_code;
                    let mut listening = Listening { frames: true, goodbye, ping, bounds, ..Listening::default() };
                    let mut opened = exchange.open_tunnel(&mut listening)?;
                    opened.entry.status = StatusCode::OK.as_u16();
                    client.stream.open();
                    let Waiting { stream, held, deadline } = client;
                    let client = tunnel::Client { stream, held, deadline, waiting, permit: None };
                    return Some(Tunnel::open(core, opened, client, server, rest, 0, listening));
                }
                Err(Some(refusal)) => refusal,
                Err(None) => return left(&core, client, exchange, &asked),
            }
        }
        Ok(Answer::Refused(refused)) => {
            exchange.lease()?.upstream().metrics.upgrades_refused.inc();
            let status = refused.status;
            let read_idle = exchange.read_idle_timeout();
            let relayed = relay(client.stream, &mut exchange, refused, server, read_idle).await;
            let (bytes, cut_by) = relayed.map_or_else(|side| (0, Some(side)), |bytes| (bytes, None));
            end(&core, exchange, &asked, (status, bytes), cut_by);
            return None;
        }
        Err(NoAnswer::ClientGone) => return left(&core, client, exchange, &asked),
        Err(NoAnswer::ServerGone | NoAnswer::Garbage) => Refusal::BadAnswer,
        Err(NoAnswer::Late) => Refusal::AnswerTimeout,
    };
    drop(server);
    exchange.refuse(&core, failed);
    answer(&core, client.stream.into_client(), exchange, &asked, Some(Side::Server)).await;
    None
}

/// The client has left before there was anything to tell it.
fn left(core: &Core, client: Waiting, exchange: Box<Exchange>, asked: &Asked) -> Option<Tunnel<Duplex>> {
    let side = client.stream.into_client().line.gone();
    end(core, exchange, asked, (0, 0), Some(side));
    None
}

/// Tells the client that its WebSocket is open. An error is what it is told in place of that, or nothing if it has left.
fn switch(stream: &mut Duplex, exchange: &mut Exchange, head: &[u8], key: &Key) -> Result<(), Option<Refusal>> {
    let bad = Some(Refusal::BadAnswer);
    let mut fields = room();
    let Ok(Some(parsed)) = response::parse(head, &mut fields) else { return Err(bad) };
    // A server that speaks of another key has answered somebody else.
    if Headers::Fields(parsed.fields).get("sec-websocket-accept") != Some(key.accepted.as_bytes()) {
        return Err(bad);
    }
    let edits = exchange.answered(101, Headers::Fields(parsed.fields)).map_err(Some)?;
    let mut response = converted(&parsed, edits, None).ok_or(bad)?;
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove("sec-websocket-accept");
    let client = stream.client();
    client.sending = Some(client.respond.send_response(response, false).map_err(|_| None)?);
    Ok(())
}

/// Passes on an answer that opens nothing: how many bytes of a body it has, or who has cut it.
async fn relay(
    mut stream: Duplex,
    exchange: &mut Exchange,
    refused: Refused,
    mut server: Transport,
    patience: Duration,
) -> Result<u64, Side> {
    let mut fields = room();
    let none = HeaderEdits::default();
    let Ok(Some(parsed)) = response::parse(refused.head(), &mut fields) else { return Err(Side::Server) };
    let edits = exchange.answered(refused.status, Headers::Fields(parsed.fields)).unwrap_or(&none);
    let body = parsed.body(false).map_err(|_| Side::Server)?;
    let response = converted(&parsed, edits, Some(body)).ok_or(Side::Server)?;
    let client = stream.client();
    client.sending = Some(client.respond.send_response(response, false).map_err(|_| Side::Client)?);
    let (mut bytes, body) = refused.into_body();
    let (mut passing, mut passed) = (Passing::new(body, false), 0);
    loop {
        let Some(part) = passing.take(&mut bytes) else { return Err(cut(stream)) };
        passed += part.data.len() as u64;
        let written = within_io(patience, stream.write_all(&bytes[part.data])).await;
        written.map_err(|error| Side::of_client(&error))?;
        bytes.clear();
        if passing.is_over() {
            break;
        }
        bytes.reserve(16 * 1024);
        match within_io(patience, server.read_buf(&mut bytes)).await {
            Ok(1..) => {}
            Ok(0) if passing.close() => break,
            Ok(0) | Err(_) => return Err(cut(stream)),
        }
    }
    stream.shutdown().await.map_err(|_| Side::Client)?;
    Ok(passed)
}

/// The client has to see that the answer is cut.
fn cut(mut stream: Duplex) -> Side {
    use crate::tunnel::stream::Stream;
    stream.reset_on_close();
    Side::Server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_the_rfc_says() {
        // RFC 6455 1.3.
        let key = Key::new(*b"the sample nonce");
        assert_eq!((&*key.sent, &*key.accepted), ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}
