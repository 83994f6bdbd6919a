//! Pings of the gateway's own within a WebSocket that others speak, and the answers to them, which are for nobody else.
//!
//! RFC 6455 allows a control frame between any two frames, those of one message included (section 5.4). The answer has
//! the payload of the Ping (section 5.5.3): eight random bytes tell it from every other Pong.

use super::websocket::{FIN, FrameCounts, FrameTracker, MASKED, PING, PONG, Violation, control_frame};

/// The Pings to one side of a WebSocket. Their answers are taken out of what that side sends; everything else is left
/// as it is, answers to the other side's Pings and unsolicited Pongs included.
#[derive(Clone, Debug)]
pub struct OwnPings {
    payload: [u8; PAYLOAD],
    /// The start of a frame that may turn out to be an answer, and how much of it is here.
    held: [u8; LONGEST_PONG],
    have: u8,
}

/// What of a frame is here already, and whether it is an answer.
enum Verdict {
    /// It is one, of this many bytes.
    Answer(usize),
    /// As far as it has come, it may be one.
    Perhaps,
    No,
}

const PAYLOAD: usize = 8;
/// Two bytes, a mask, the payload.
const LONGEST_PONG: usize = 2 + 4 + PAYLOAD;

impl OwnPings {
    /// The most bytes that [`Self::held`] is.
    pub const MOST_HELD: usize = LONGEST_PONG - 1;

    /// Pings with this payload, which no peer can have chosen.
    pub fn new(payload: u64) -> Self {
        Self { payload: payload.to_be_bytes(), held: [0; LONGEST_PONG], have: 0 }
    }

    /// A Ping; `mask` is needed towards a server and forbidden towards a client.
    pub fn frame(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        control_frame(PING, &self.payload, mask)
    }

    /// The last bytes of the stream so far, which are held back: they may be the start of an answer. They belong before
    /// the next bytes that are given to [`Self::sift`], or that end the stream.
    pub fn held(&self) -> &[u8] {
        &self.held[..usize::from(self.have)]
    }

    /// Walks over the next bytes of the stream, with those that were held before them, and moves what is to be carried
    /// to the front; returns how much that is. `tracker` and `seen` follow the stream as it is carried.
    ///
    /// # Errors
    /// As [`FrameTracker::advance`]: all that is in `bytes` and has not been taken out is to be carried, and so is all
    /// that follows. The error comes with how much that is.
    pub fn sift(
        &mut self,
        bytes: &mut [u8],
        tracker: &mut FrameTracker,
        seen: &mut FrameCounts,
    ) -> Result<usize, (usize, Violation)> {
        self.have = 0;
        let (mut kept, mut at) = (0, 0);
        while at < bytes.len() {
            if tracker.at_boundary() {
                match self.judge(&bytes[at..]) {
                    Verdict::Answer(length) => {
                        at += length;
                        continue;
                    }
                    Verdict::Perhaps => {
                        let start = &bytes[at..];
                        self.held[..start.len()].copy_from_slice(start);
                        self.have = start.len() as u8;
                        break;
                    }
                    Verdict::No => {}
                }
            }
            let (step, violation) = match tracker.advance_frame(&bytes[at..], seen) {
                Ok(step) => (step, None),
                Err(violation) => (bytes.len() - at, Some(violation)),
            };
            bytes.copy_within(at..at + step, kept);
            (kept, at) = (kept + step, at + step);
            if let Some(violation) = violation {
                return Err((kept, violation));
            }
        }
        Ok(kept)
    }

    /// Whether the frame that begins here is an answer. A client masks it and a server does not, but who does
    /// otherwise has answered all the same.
    fn judge(&self, bytes: &[u8]) -> Verdict {
        let [first, rest @ ..] = bytes else { return Verdict::Perhaps };
        if *first != FIN | PONG {
            return Verdict::No;
        }
        let (mask, payload) = match rest {
            [] => return Verdict::Perhaps,
            [second, payload @ ..] if usize::from(*second) == PAYLOAD => ([0; 4], payload),
            [second, rest @ ..] if usize::from(*second & !MASKED) == PAYLOAD => match rest.split_first_chunk() {
                Some((mask, payload)) => (*mask, payload),
                None => return Verdict::Perhaps,
            },
            _ => return Verdict::No,
        };
        let expected = self.payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
        if payload.iter().zip(expected).any(|(found, expected)| *found != expected) {
            return Verdict::No;
        }
        let header = bytes.len() - payload.len();
        if payload.len() < PAYLOAD { Verdict::Perhaps } else { Verdict::Answer(header + PAYLOAD) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: u64 = 0x0123_4567_89ab_cdef;
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// What is carried of a stream that comes in these pieces, and what is held back at its end.
    fn carried(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, FrameCounts) {
        let (mut pings, mut tracker, mut seen) = (OwnPings::new(OURS), FrameTracker::new(), FrameCounts::default());
        let mut carried = Vec::new();
        for piece in pieces {
            let mut bytes = [pings.held(), piece].concat();
            let kept = pings.sift(&mut bytes, &mut tracker, &mut seen).unwrap();
            carried.extend_from_slice(&bytes[..kept]);
        }
        (carried, pings.held().to_vec(), seen)
    }

    fn pong(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        control_frame(PONG, payload, mask)
    }

    #[test]
    fn a_ping_is_masked_towards_servers_only() {
        let pings = OwnPings::new(OURS);
        assert_eq!(pings.frame(None), b"\x89\x08\x01\x23\x45\x67\x89\xab\xcd\xef");
        assert_eq!(
            pings.frame(Some(KEY)),
            b"\x89\x88\x37\xfa\x21\x3d\x36\xd9\x64\x5a\xbe\x51\xec\xd2",
            "RFC 6455, section 5.3"
        );
    }

    #[test]
    fn answers_are_taken_out_wherever_they_stand_and_are_split() {
        for mask in [None, Some(KEY)] {
            let answer = pong(&OURS.to_be_bytes(), mask);
            let (first, second) = (b"\x01\x02he".as_slice(), b"\x80\x03llo".as_slice());
            let stream = [&answer, first, &answer, &answer, second, &answer].concat();
            for at in 0..stream.len() {
                let (left, held, seen) = carried(&[&stream[..at], &stream[at..]]);
                assert_eq!((left, held), ([first, second].concat(), Vec::new()), "split at {at}");
                assert_eq!(seen, FrameCounts { frames: 2, messages: 1, close: None }, "split at {at}");
            }
        }
    }

    #[test]
    fn every_other_pong_passes() {
        let mut other = OURS.to_be_bytes();
        other[7] ^= 1;
        for pong in [
            pong(b"", None),
            pong(b"12345678", Some(KEY)),
            pong(&other, None),
            pong(&other, Some(KEY)),
            pong(&[&OURS.to_be_bytes()[..], b"9"].concat(), None),
            // The payload of ours, in a message.
            control_frame(2, &OURS.to_be_bytes(), Some(KEY)),
        ] {
            for at in 0..pong.len() {
                assert_eq!(carried(&[&pong[..at], &pong[at..]]).0, pong);
            }
        }
    }

    #[test]
    fn what_looks_like_an_answer_inside_a_message_is_left_alone() {
        let inside = pong(&OURS.to_be_bytes(), Some(KEY));
        let message = [&[0x82, inside.len() as u8], inside.as_slice()].concat();
        assert_eq!(carried(&[&message]).0, message);
        assert_eq!(carried(&[&message[..2], &message[2..]]).0, message);
    }

    #[test]
    fn a_stream_that_breaks_the_protocol_is_carried_whole_from_there() {
        let (mut pings, mut tracker, mut seen) = (OwnPings::new(OURS), FrameTracker::new(), FrameCounts::default());
        let answer = pong(&OURS.to_be_bytes(), None);
        let mut bytes = [&answer, b"\x81\x01a\x83\x00".as_slice(), &answer].concat();
        let broken = pings.sift(&mut bytes, &mut tracker, &mut seen);
        assert_eq!(broken, Err((5 + answer.len(), Violation::ReservedOpcode(3))));
        assert_eq!(bytes[..5 + answer.len()], [b"\x81\x01a\x83\x00".as_slice(), &answer].concat());
    }

    proptest! {
        #[test]
        fn taking_answers_out_leaves_what_was_there_without_them(
            frames in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..20), any::<bool>()), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for (kind, payload, masked) in frames {
                let mask = masked.then_some(KEY);
                let frame = match kind {
                    0 => pong(&OURS.to_be_bytes(), mask),
                    1 => control_frame(PONG, &payload, mask),
                    2 => control_frame(PING, &payload, mask),
                    _ => control_frame(2, &payload, mask),
                };
                stream.extend_from_slice(&frame);
                if kind != 0 {
                    expected.extend_from_slice(&frame);
                }
            }
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            ends.extend([0, stream.len()]);
            ends.sort_unstable();
            let pieces: Vec<&[u8]> = ends.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
            let (left, held, _) = carried(&pieces);
            prop_assert_eq!(left, expected);
            prop_assert!(held.is_empty());
        }
    }
}
