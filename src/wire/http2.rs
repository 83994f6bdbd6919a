//! Frames of HTTP/2 that carry nothing, counted as they pass, so that nobody can send them without end; and how a server's
//! side of a connection begins.

use std::time::Instant;

/// Looks at the frames that a peer sends, and says when it has sent too many of those that ask for work and bring none:
/// PRIORITY, SETTINGS, PING, and types that nobody knows. Requests or answers, and what is sent to the peer, earn it more of them.
#[derive(Debug)]
pub struct ControlFrames {
    /// The head of the next frame, as far as it has come.
    head: [u8; HEAD],
    have: usize,
    /// Bytes to pass over: the preface, or what is left of a frame.
    skip: usize,
    /// How many more may come.
    left: u32,
    /// When time last earned some.
    earned: Instant,
}

/// Frames that may come at once.
pub const BURST: u32 = 10_000;
/// More of them for each second, for a request, and for so many bytes that are sent to the client. Clients that measure
/// their link (gRPC) send a PING for each flight of data.
const PER_SECOND: u32 = 100;
const PER_REQUEST: u32 = 8;
const BYTES_FOR_ONE: usize = 256;
/// RFC 9113 4.1 and 3.4.
const HEAD: usize = 9;
const PREFACE: usize = 24;

impl ControlFrames {
    /// Of a connection whose preface is still to come.
    pub fn new(now: Instant) -> Self {
        Self { head: [0; HEAD], have: 0, skip: PREFACE, left: BURST, earned: now }
    }

    /// Of a server's side, which begins with a frame.
    pub fn of_server(now: Instant) -> Self {
        Self { skip: 0, ..Self::new(now) }
    }

    /// Takes the next bytes that the peer sends; false once it has sent too much that carries nothing.
    pub fn read(&mut self, mut bytes: &[u8], now: impl FnOnce() -> Instant) -> bool {
        let mut spent = 0;
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = &bytes[passed..];
            if bytes.is_empty() {
                break;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                self.have = 0;
                let [a, b, c, kind, ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                match kind {
                    HEADERS => self.earn(PER_REQUEST),
                    DATA | RST_STREAM | WINDOW_UPDATE | CONTINUATION => {}
                    _ => spent += 1,
                }
            }
        }
        if spent > self.left {
            let now = now();
            let seconds = now.saturating_duration_since(self.earned).as_secs();
            self.earned = now;
            self.earn(u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(PER_SECOND));
        }
        let enough = spent <= self.left;
        self.left = self.left.saturating_sub(spent);
        enough
    }

    /// So many bytes were sent to the peer.
    pub fn wrote(&mut self, bytes: usize) {
        self.earn(u32::try_from(bytes / BYTES_FOR_ONE).unwrap_or(u32::MAX));
    }

    fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(BURST);
    }
}

/// Whether a server may begin with these bytes, a frame's head in full or less: SETTINGS, and no acknowledgement of any
/// (RFC 9113 3.4).
pub fn may_begin(bytes: &[u8]) -> bool {
    // The size of the payload is looked at by who reads it; the other bits of a stream's number are reserved.
    let expected = [None, None, None, Some(SETTINGS), Some(0), None, Some(0), Some(0), Some(0)];
    let fits = |(byte, expected): (&u8, Option<u8>)| expected.is_none_or(|expected| *byte == expected);
    bytes.iter().zip(expected).all(fits) && bytes.first().is_none_or(|&byte| byte == 0)
}

/// RFC 9113 6; those of other types that are counted need no name here.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PRIORITY: u8 = 2;
    const PING: u8 = 6;
    const NOBODYS: u8 = 0xf0;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(payload).unwrap(), kind, 0, 0, 0, 0, 0];
        frame.resize(HEAD + payload, PING);
        frame
    }

    fn after_preface(now: Instant) -> ControlFrames {
        let mut frames = ControlFrames::new(now);
        assert!(frames.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", || now));
        frames
    }

    #[test]
    fn frames_that_carry_nothing_come_to_an_end_however_they_are_cut() {
        let now = Instant::now();
        for (kind, payload) in [(PRIORITY, 5), (SETTINGS, 0), (PING, 8), (NOBODYS, 200)] {
            for piece in [1, 7, 4096] {
                let mut frames = after_preface(now);
                let all = frame(kind, payload).repeat(BURST as usize);
                assert!(all.chunks(piece).all(|piece| frames.read(piece, || now)), "{kind}: {BURST} may come");
                assert!(!frames.read(&frame(kind, payload), || now), "{kind}: one more may not");
            }
        }
    }

    #[test]
    fn requests_answers_and_time_earn_more_of_them() {
        let now = Instant::now();
        let mut frames = after_preface(now);
        let mut ping_and = |earn: &dyn Fn(&mut ControlFrames), pings: usize| {
            for _ in 0..20 * BURST as usize / pings {
                earn(&mut frames);
                assert!(frames.read(&frame(PING, 8).repeat(pings), || now));
            }
        };
        ping_and(&|frames| assert!(frames.read(&frame(HEADERS, 90), || now)), 8);
        ping_and(&|frames| frames.wrote(16 * 1024), 64);
        frames.wrote(1 << 20);
        assert!(frames.read(&frame(PING, 8).repeat(BURST as usize), || now), "and there were as many as at first");
        assert!(frames.read(&frame(PING, 8).repeat(100), || now + Duration::from_secs(1)));
        assert!(!frames.read(&frame(PING, 8), || now + Duration::from_secs(1)));
    }

    #[test]
    fn data_and_windows_are_not_counted() {
        let now = Instant::now();
        let mut frames = after_preface(now);
        for kind in [DATA, RST_STREAM, WINDOW_UPDATE, CONTINUATION] {
            assert!(frames.read(&frame(kind, 255).repeat(2 * BURST as usize), || now), "{kind}");
        }
        assert!(frames.read(&frame(PING, 8).repeat(BURST as usize), || now));
    }
}
