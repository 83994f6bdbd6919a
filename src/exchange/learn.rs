//! Learns sessions from the answers that open them, while the bytes pass: a session is known before the last byte of
//! its handshake has been released, so that no request of it can come too early.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::session::{Held, How, Learned, Mark};
use crate::tunnel::Overhear;
use crate::upstream::{Lease, Opening, PickKey, ServerId, Upstream};
use crate::wire::engine_io::{Handshake, HandshakeReader, Progress};
use crate::wire::websocket::{FrameTracker, Seen};

/// Reads one answer.
pub(super) struct Learner {
    reader: HandshakeReader,
    upstream: Arc<Upstream>,
    client: PickKey,
    server: ServerId,
    /// The session is on its way until it is known.
    opening: Option<Opening>,
    /// The tunnel that the session opens on, if it does.
    hold: Option<Arc<Hold>>,
    /// How long the session may be silent, once that is known.
    silence: Option<Duration>,
}

/// A tunnel's hold of its session, empty until the session is known.
pub(crate) type Hold = OnceLock<Held>;

/// What an answer has said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It may still open a session.
    TooLittle,
    /// It opens none.
    Nothing,
    /// It has opened one, which is known now.
    Session,
}

impl Learner {
    /// For the answer of the server of this lease.
    pub(super) fn new(upstream: Arc<Upstream>, client: PickKey, lease: &mut Lease) -> Self {
        let (server, opening) = (lease.server().id(), lease.take_opening());
        Self { reader: HandshakeReader::new(), upstream, client, server, opening, hold: None, silence: None }
    }

    /// Takes the next bytes of the answer's body.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Heard {
        match self.reader.push(bytes) {
            Progress::NeedMore => Heard::TooLittle,
            Progress::NotOne => Heard::Nothing,
            Progress::Found(handshake) => {
                self.learn(&handshake);
                if let Some(opening) = &self.opening {
                    opening.learned(&self.client);
                }
                Heard::Session
            }
        }
    }

    fn learn(&mut self, handshake: &Handshake) {
        let life = handshake.ping_interval + handshake.ping_timeout + self.upstream.config().sessions.slack;
        self.silence = Some(life);
        let Some(table) = self.upstream.sessions() else { return };
        let key = table.key(&handshake.sid);
        let home = table.home(self.server.to_bits());
        if table.learn(key, &home, life, How::Handshake) == Learned::Full {
            return;
        }
        if let Some(hold) = &self.hold {
            // A session that begins on its WebSocket ends with it.
            table.mark(key, Mark::Upgraded);
            if let Some(held) = table.hold(key) {
                let _ = hold.set(held);
            }
        } else if handshake.websocket && table.offer(key) {
            self.upstream.metrics.upgrades_offered.inc();
        }
    }

    /// The same for a session that opens on a WebSocket: its handshake is the payload of the server's first frame. The tunnel
    /// holds it from then on, and may be silent for as long as it says.
    pub(super) fn overhear(mut self, hold: Arc<Hold>) -> Overhear {
        self.hold = Some(hold);
        let mut frame = FirstFrame::default();
        Box::new(move |bytes| match frame.payload(bytes) {
            Some(payload) if self.hear(payload) == Heard::TooLittle => ControlFlow::Continue(()),
            _ => {
                let timeouts = &self.upstream.config().timeouts;
                ControlFlow::Break(self.silence.map(|silence| timeouts.tunnel_idle(Some(silence))))
            }
        })
    }
}

/// Hears when a session has come to its WebSocket for good: the client's first message there is the probe, to which the
/// server has to answer, and the second one says that this is the transport from now on.
pub(super) fn overhear_upgrade(upstream: Arc<Upstream>, hold: Arc<Hold>) -> Overhear {
    let (mut tracker, mut seen) = (FrameTracker::new(), Seen::default());
    Box::new(move |bytes| {
        let followed = tracker.advance(bytes, &mut seen).is_ok();
        if followed && seen.messages < 2 {
            return ControlFlow::Continue(());
        }
        if followed && let Some(held) = hold.get() {
            reached(&upstream, held);
        }
        ControlFlow::Break(None)
    })
}

/// Counts a session that has come to its WebSocket for good.
pub(super) fn reached(upstream: &Arc<Upstream>, held: &Held) {
    if let Some(upgrade) = held.upgraded() {
        upstream.metrics.upgrades_reached.inc();
        if let Some(after) = upgrade.after {
            upstream.metrics.time_to_websocket.observe(after.as_secs_f64());
        }
    }
}

/// The first frame of a server, unmasked, without its header (RFC 6455 5.2).
#[derive(Default)]
struct FirstFrame {
    /// Bytes of the header that have gone by, and how long the header is, once that is known.
    passed: usize,
    header: Option<usize>,
}

impl FirstFrame {
    /// What of these bytes is payload; `None` when the frame is no text.
    fn payload<'a>(&mut self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        const FINAL_TEXT: u8 = 0x81;
        while let Some((&byte, rest)) = bytes.split_first() {
            match (self.passed, self.header) {
                (0, _) if byte != FINAL_TEXT => return None,
                (1, _) => {
                    self.header = Some(if byte < 126 {
                        2
                    } else if byte == 126 {
                        4
                    } else {
                        return None;
                    })
                }
                (passed, Some(header)) if passed >= header => return Some(bytes),
                _ => {}
            }
            self.passed += 1;
            bytes = rest;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut frame = FirstFrame::default();
        let mut payload = Vec::new();
        for part in parts {
            payload.extend_from_slice(frame.payload(part)?);
        }
        Some(payload)
    }

    #[test]
    fn the_first_frame_loses_its_header_wherever_it_is_split() {
        let short = b"\x81\x05hello".as_slice();
        let long = [b"\x81\x7e\x00\x80".as_slice(), &[b'x'; 128]].concat();
        for (frame, text) in [(short, b"hello".to_vec()), (&long, vec![b'x'; 128])] {
            for at in 0..frame.len() {
                assert_eq!(payload(&[&frame[..at], &frame[at..]]), Some(text.clone()), "{at}");
            }
        }
        assert_eq!(payload(&[b"\x82\x05hello"]), None, "binary");
        assert_eq!(payload(&[b"\xc1\x05hello"]), None, "compressed");
    }
}
