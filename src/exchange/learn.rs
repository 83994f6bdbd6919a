//! Learns from answers what they say of sessions, while the bytes pass: a session is known before the last byte of its
//! handshake has been released, so that no request of it can come too early.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::place::SessionTie;
use crate::access::Admitted;
use crate::roster::{NamesSession, OfSession};
use crate::session::{Answered, Arrival, Cause, Held, How, Key, Learned, Mark, NewSession, Reader};
use crate::tunnel::Overhear;
use crate::upstream::{Lease, Opening, PickKey, ServerId, Upstream};
use crate::wire::websocket::{FrameCounts, FrameTracker};

/// Learns from one answer.
pub(super) struct Learner {
    /// Reads on, where the head has not said all.
    reader: Option<Box<dyn Reader>>,
    upstream: Arc<Upstream>,
    client: PickKey,
    server: ServerId,
    /// The session that the request has named.
    named: Option<Key>,
    /// Where the request went, if nobody expects a session there.
    path: Option<Box<str>>,
    /// The session is on its way until it is known.
    opening: Option<Opening>,
    /// The tunnel that the session opens on, if it does; and whether the session goes on without it.
    hold: Option<Arc<Hold>>,
    goes_on: bool,
    /// Where it is noted that the session came in with what is asked for, and until when that holds.
    admitted: Option<(Arc<Admitted>, Option<u64>)>,
    /// How long the session may be silent, once that is known.
    silence: Option<Duration>,
    /// The session that ends with this answer.
    ends: Option<Held>,
}

/// A tunnel's hold of its session, empty until the session is known.
pub(crate) type Hold = OnceLock<Held>;

impl NamesSession for Hold {
    fn session(&self) -> Option<u64> {
        self.get().map(|held| held.key().name())
    }
}

/// The session that a tunnel holds, whether it is known by now or not.
pub(crate) fn of_session(hold: &Arc<Hold>) -> OfSession {
    let hold: Arc<dyn NamesSession> = Arc::clone(hold) as _;
    OfSession::Learned(Arc::downgrade(&hold))
}

impl Learner {
    /// For the answer of the server of this lease, whose head has said this; `None` where nothing is to be learned.
    /// `in_tunnel`: what is learned opens on a tunnel, and whether it comes to that for good.
    pub(super) fn new(
        answered: Answered,
        (upstream, client, session): (&Arc<Upstream>, PickKey, &SessionTie),
        lease: &mut Lease,
        in_tunnel: Option<Arrival>,
        admitted: Option<(Arc<Admitted>, Option<u64>)>,
    ) -> Option<Self> {
        if matches!(answered, Answered::Nothing) {
            return None;
        }
        let mut this = Self {
            reader: None,
            upstream: Arc::clone(upstream),
            client,
            server: lease.server().id(),
            named: session.begun.as_ref().map(|(key, _)| *key),
            path: session.path.clone(),
            opening: lease.take_opening(),
            hold: in_tunnel.map(|_| Arc::default()),
            goes_on: in_tunnel == Some(Arrival::Never),
            admitted,
            silence: None,
            ends: None,
        };
        this.take(answered);
        Some(this)
    }

    /// Takes the next bytes of the answer's body. True while there is more to learn.
    pub(super) fn hear(&mut self, bytes: &[u8], is_end: bool) -> bool {
        if let Some(answered) = self.reader.as_mut().and_then(|reader| reader.read(bytes, is_end)) {
            self.reader = None;
            self.take(answered);
        }
        self.reader.is_some() || self.ends.is_some()
    }

    fn take(&mut self, answered: Answered) {
        match answered {
            Answered::Nothing => {}
            Answered::Body(reader) => self.reader = Some(reader),
            Answered::Opened(opened) => {
                self.learn(&opened);
                if let Some(path) = self.path.take() {
                    self.upstream.saw_session_at(&path);
                }
                if let Some(opening) = &self.opening {
                    opening.learned(&self.client);
                }
            }
            Answered::Ended => {
                if let (Some(table), Some(key)) = (self.upstream.sessions(), self.named) {
                    table.goodbye(key, Cause::Client);
                }
            }
            Answered::Refused { code, unknown } => {
                if let Some(code) = code {
                    self.upstream.metrics.session_error(code);
                }
                if let (true, Some(table), Some(key)) = (unknown, self.upstream.sessions(), self.named) {
                    // Its server was restarted, or has given the session up.
                    table.forget(key, Cause::Unknown);
                }
            }
        }
    }

    fn learn(&mut self, opened: &NewSession) {
        let life = opened.silence + self.upstream.config().sessions.slack;
        self.silence = Some(life);
        let Some(table) = self.upstream.sessions() else { return };
        let Some(key) = opened.id.as_deref().map(|id| table.key(id)).or(self.named) else { return };
        let server = self.server.to_bits();
        if self.named != Some(key) && table.lives_elsewhere(key, server) {
            // Ids are made up anew: whoever names that of a session that lives would have its client.
            log::warn!("upstream {}: an answer names a session that lives on another server", self.upstream.name());
            return;
        }
        let home = table.home(server);
        if let Some((admitted, until)) = &self.admitted {
            admitted.note(key, *until);
        }
        if table.learn(key, &home, life, How::Handshake) == Learned::Full {
            return;
        }
        if opened.ends_with_answer
            && let Some(mut held) = table.hold(key)
        {
            held.ends(Cause::Client);
            self.ends = Some(held);
        }
        if let Some(hold) = &self.hold {
            // A session that begins on its WebSocket ends with it.
            if !self.goes_on {
                table.mark(key, Mark::Upgraded);
            }
            if let Some(mut held) = table.hold(key) {
                if self.goes_on {
                    held.goes_on();
                }
                let _ = hold.set(held);
            }
        } else if opened.websocket && table.offer(key) {
            self.upstream.metrics.upgrades_offered.inc();
        }
    }

    /// The tunnel's hold of the session that opens on it.
    pub(super) fn hold(&self) -> Option<&Arc<Hold>> {
        self.hold.as_ref()
    }

    /// Learns on in a tunnel: what would be the body of an answer is the payload of the server's first frame. The tunnel may
    /// be silent for as long as that says. `None` where all has been learned.
    pub(super) fn overhear(mut self) -> Option<Overhear> {
        self.reader.as_ref()?;
        let mut frame = FirstFrame::default();
        Some(Box::new(move |bytes| match frame.payload(bytes) {
            Some(payload) if self.hear(payload, false) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(self.idle()),
        }))
    }

    /// How long the tunnel may be silent by what was learned.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.silence.filter(|_| !self.goes_on).map(|silence| self.upstream.config().timeouts.tunnel_idle(Some(silence)))
    }
}

/// Hears when a session has come to its WebSocket for good: with so many messages of the client.
pub(super) fn overhear_arrival(upstream: Arc<Upstream>, hold: Arc<Hold>, messages: u64) -> Overhear {
    let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
    Box::new(move |bytes| {
        let followed = tracker.advance(bytes, &mut seen).is_ok();
        if followed && seen.messages < messages {
            return ControlFlow::Continue(());
        }
        if followed && let Some(held) = hold.get() {
            reached(&upstream, held);
        }
        ControlFlow::Break(None)
    })
}

/// Counts a session that has come to its WebSocket for good.
pub(super) fn reached(upstream: &Upstream, held: &Held) {
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
