//! The opening of a WebSocket over HTTP/1.1: route, pick, connect, ask, and carry.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use log::debug;

use super::Core;
use super::answer::Answer as Ours;
use super::asked::Asked;
use super::connect::connect;
use super::exchange::{decide, upstream_of};
use super::learn::{Hold, Learner, overhear_upgrade, reached};
use super::line::Line;
use super::place::Ask;
use super::tunnel::{About, Serving, Tunnel};
use crate::http::Refusal;
use crate::http::answers::write_refusal;
use crate::http::forwarding::Seen;
use crate::http::head;
use crate::http::onward::Onward;
use crate::http::upgrade::Opening;
use crate::listener::{Connection, Info};
use crate::request::elements;
use crate::snapshot::Snapshot;
use crate::transport::Transport;
use crate::tunnel::handshake::{self, Answer, NoAnswer, ask};
use crate::tunnel::{Listening, Ping};
use crate::upstream::config::{self, HostHeader};
use crate::upstream::{Lease, Upstream};
use crate::wire::engine_io::Revision;

/// Serves one upgrade request. What takes long runs in a task of its own, so that the large one that has served HTTP
/// so far can end.
pub(super) async fn serve(core: &Arc<Core>, connection: Connection, head: &BytesMut, opening: Opening) {
    let snapshot = core.snapshot.load_full();
    let info = Arc::clone(&connection.info);
    let mut line = Line::new(&info, "WebSocket", SystemTime::now(), Instant::now());
    let way = way(&snapshot, &info, head, &mut line);
    let answer = match way {
        Ok(Way::Carry(way)) => {
            let attempt = Attempt { core: Arc::clone(core), way, opening, line: Box::new(line) };
            tokio::spawn(core.metrics.contain(Serving::new(attempt.open(connection))));
            return;
        }
        Ok(Way::Answer { answer, delay }) => {
            if !delay.is_zero() {
                Box::pin(tokio::time::sleep(delay)).await;
            }
            answer
        }
        Err(refusal) => {
            core.metrics.refused(refusal.word());
            refused(&mut line, refusal)
        }
    };
    snapshot.local.answered(line.status);
    core.access_log.write(line.finish());
    connection.answer_and_close(&answer).await;
}

fn refused(line: &mut Line, refusal: Refusal) -> Vec<u8> {
    line.status = refusal.status();
    line.closed_by = refusal.word();
    write_refusal(refusal)
}

/// What an upgrade request leads to.
enum Way {
    Carry(Carry),
    Answer { answer: Vec<u8>, delay: Duration },
}

/// All that is needed to ask a server.
struct Carry {
    upstream: Arc<Upstream>,
    ask: Ask,
    /// The request as servers get it.
    head: Vec<u8>,
}

fn way(snapshot: &Snapshot, info: &Info, head: &BytesMut, line: &mut Line) -> Result<Way, Refusal> {
    let said = &snapshot.config;
    let mut fields = head::room();
    let parsed = head::parse(head, &mut fields, said.limits.headers)?;
    let asked = parsed.asked();
    let peer = info.peer.ip();
    line.asked(&asked);
    line.client = said.forwarding.client(peer, asked.headers);
    let request = asked.request(Some(info), line.client)?;
    let route = decide(snapshot, &request)?;
    line.route = Some(Arc::clone(&route.name));
    let Some(upstream) = upstream_of(snapshot, &route)?.cloned() else {
        let answer = Ours::of_route(&route, &asked, request.secure).ok_or(Refusal::NoRoute)?;
        line.status = answer.status;
        return Ok(Way::Answer { answer: answer.closing(), delay: answer.delay });
    };
    if let Some(table) = upstream.sessions() {
        line.engine_io(&request.path.canonical, request.query, |sid| table.key(sid));
    }
    line.request_id = said.forwarding.request_id(peer, asked.headers);
    let seen = Seen {
        peer,
        local_port: info.local.port(),
        secure: request.secure,
        authority: asked.authority,
        headers: asked.headers,
    };
    let onward = Onward::new(&said.forwarding, seen, &line.request_id);
    let head = upstream_head(&parsed, &asked, &onward, &upstream.config().host);
    let ask = Ask::new(&upstream, &request);
    Ok(Way::Carry(Carry { ask, head, upstream }))
}

/// The request as servers get it: the client's fields in their order and spelling, which old servers mind, but for
/// those of the connection and those that say who the client is.
fn upstream_head(head: &head::Head<'_>, asked: &Asked<'_>, onward: &Onward<'_>, host: &HostHeader) -> Vec<u8> {
    let mut written = Vec::with_capacity(1024);
    for part in [asked.method, " ", asked.target, " HTTP/1.1\r\n"] {
        written.extend_from_slice(part.as_bytes());
    }
    let mut field = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            written.extend_from_slice(part);
        }
    };
    let set_host = match host {
        HostHeader::Set(host) => Some(host.as_str()),
        HostHeader::Keep => asked.authority,
    };
    if let Some(host) = set_host {
        field("Host", host.as_bytes());
    }
    // The name of the protocol as the client spells it: Hixie-76 servers compare it with `WebSocket`.
    let mut protocols = asked.headers.all("upgrade").flat_map(elements);
    field("Upgrade", protocols.find(|name| name.eq_ignore_ascii_case(b"websocket")).unwrap_or(b"websocket"));
    field("Connection", b"Upgrade");
    for sent in head.fields {
        let ours = sent.name.eq_ignore_ascii_case("host") || sent.name.eq_ignore_ascii_case("content-length");
        if !ours && onward.passes(sent.name) {
            field(sent.name, sent.value);
        }
    }
    onward.add(|name, value| field(&name, value.as_bytes()));
    written.extend_from_slice(b"\r\n");
    written
}

/// One upgrade request on its way to a server.
struct Attempt {
    core: Arc<Core>,
    way: Carry,
    opening: Opening,
    line: Box<Line>,
}

impl Attempt {
    /// Asks a server; `None` when there is no tunnel, and the client has been told why.
    async fn open(mut self, mut client: Connection) -> Option<Tunnel> {
        let (mut lease, mut server) = match self.connect(&mut client).await {
            Ok(connected) => connected,
            Err(failure) => {
                self.fail(client, failure).await;
                return None;
            }
        };
        let timeouts = lease.upstream().config().timeouts.clone();
        let answer = ask(&mut client, &mut server, &self.way.head, self.opening, timeouts.first_byte(None)).await;
        self.line.first_byte = Some(self.line.elapsed());
        let upstream = Arc::clone(&self.way.upstream);
        match answer {
            Ok(Answer::Switched { mut first, mut head }) => {
                let secure = client.info.tls.is_some();
                if let Some(cookie) = self.way.ask.set_cookie(&upstream, lease.server().id(), secure) {
                    head = insert_field(&mut first, head, "Set-Cookie", &cookie);
                }
                lease.answered(101);
                upstream.metrics.answered(101);
                upstream.metrics.websockets.inc();
                self.line.status = 101;
                let Self { core, opening, line, way } = self;
                let frames = opening == Opening::Hybi;
                let ping = ping(&lease.upstream().config().websocket);
                let goodbye = core.snapshot.load().config.drain.close_code;
                let mut listening = Listening { frames, goodbye, ping, ..Listening::default() };
                // Other WebSockets on the upstream end without a session, and come back to nothing.
                let held = session(&way, &mut lease, &mut listening).filter(|_| way.ask.concerns_session());
                let asked = way.ask.session.as_ref();
                let unsure = asked.is_some_and(|asked| asked.revision == Revision::SocketIo09);
                // For a session that begins here, its first frame will say more.
                let idle = timeouts.tunnel_idle(asked.and_then(|asked| asked.silence(&upstream)));
                let about = About { core, line, lease, upstream, held, unsure };
                return Some(Tunnel::open(about, client, server, first, head, idle, listening));
            }
            Ok(Answer::Refused(answer)) => {
                lease.answered(answer.status);
                upstream.metrics.answered(answer.status);
                upstream.metrics.upgrades_refused.inc();
                self.line.status = answer.status;
                self.line.closed_by = "server";
                let relayed = answer.relay(&mut client.transport, &mut server, timeouts.first_byte(None)).await;
                // The server has said all it will, which frees its place.
                drop((server, lease));
                match relayed {
                    Ok(written) => {
                        self.line.bytes_out = written;
                        self.log();
                        client.close().await;
                    }
                    Err(error) => {
                        debug!("an answer to an upgrade was cut: {error}");
                        client.transport.socket().reset_on_close();
                        self.log();
                    }
                }
            }
            Err(no_answer) => {
                if !matches!(no_answer, NoAnswer::ClientGone) {
                    lease.gave_no_answer();
                }
                drop((server, lease));
                self.fail(client, Failure::from(no_answer)).await;
            }
        }
        None
    }

    /// Connects, and gives up when the client leaves meanwhile.
    async fn connect(&mut self, client: &mut Connection) -> Result<(Lease, Transport), Failure> {
        tokio::select! {
            biased;
            connected = connect(&self.way.upstream, &self.way.ask, &mut self.line) => connected.map_err(Failure::Refuse),
            () = handshake::gone(client) => Err(Failure::ClientGone),
        }
    }

    async fn fail(mut self, client: Connection, failure: Failure) {
        let upstream = Arc::clone(&self.way.upstream);
        match failure {
            Failure::ClientGone => {
                self.line.closed_by = if self.core.ending.is_cut() { "stopped" } else { "client" };
                self.log();
            }
            Failure::Refuse(refusal) => {
                self.core.metrics.refused(refusal.word());
                upstream.metrics.answered(refusal.status());
                let answer = refused(&mut self.line, refusal);
                self.log();
                client.answer_and_close(&answer).await;
            }
        }
    }

    fn log(self) {
        self.core.access_log.write(self.line.finish());
    }
}

/// Puts a field at the end of a head, before its blank line; gives the head's new length.
fn insert_field(first: &mut BytesMut, head: usize, name: &str, value: &str) -> usize {
    let blank = if first[..head].ends_with(b"\r\n") { 2 } else { 1 };
    let rest = first.split_off(head - blank);
    first.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    let head = first.len() + blank;
    first.extend_from_slice(&rest);
    head
}

/// What a new tunnel means to its session, which it holds for as long as it is open. One that began with polling is still
/// to find out whether it reaches its WebSocket, but for 0.9, where this is it. One that begins here is held from the
/// server's first frame onwards, which is its handshake.
fn session(way: &Carry, lease: &mut Lease, listening: &mut Listening) -> Option<Arc<Hold>> {
    let (table, asked) = (way.upstream.sessions()?, way.ask.session.as_ref()?);
    let hold = Arc::new(Hold::new());
    match &asked.begun {
        Some((key, _)) => {
            let held = table.hold(*key)?;
            if asked.revision == Revision::SocketIo09 {
                reached(&way.upstream, &held);
            } else {
                listening.overhear_client = Some(overhear_upgrade(Arc::clone(&way.upstream), Arc::clone(&hold)));
            }
            // It has been empty until now.
            let _ = hold.set(held);
        }
        None => {
            let learner = Learner::new(Arc::clone(&way.upstream), way.ask.client, lease);
            listening.overhear = Some(learner.overhear(Arc::clone(&hold)));
        }
    }
    Some(hold)
}

/// When the sides of a tunnel are asked whether they are still there.
fn ping(said: &config::WebSocket) -> Option<Ping> {
    let ping = Ping { interval: said.ping_interval, timeout: said.ping_timeout };
    (!ping.interval.is_zero()).then_some(ping)
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
