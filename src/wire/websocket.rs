//! Follows WebSocket frames (RFC 6455, section 5.2) by their headers alone, while others carry the bytes.

use std::fmt;

/// Follows one direction of a WebSocket, wherever its bytes are split; keeps no payload and allocates nothing.
///
/// It asks for no more than it needs to know where frames begin and end: extension bits (RSV1 to 3) are accepted, so
/// `permessage-deflate` passes, and so are both masked and unmasked frames and lengths written longer than need be.
#[derive(Clone, Debug, Default)]
pub struct FrameTracker {
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// Payload bytes of the current message, as far as its frames have begun; and the most that any message had. Messages
    /// that are short and come alone are not looked at.
    message: u32,
    longest: u32,
    /// A header that has come only in part, and how much of it is here.
    header: [u8; LONGEST_HEADER],
    have: u8,
    /// Between the first and the last fragment of a message.
    in_message: bool,
    /// The current frame is the last one of its message.
    ends_message: bool,
    /// A Ping has begun since somebody asked.
    pinged: bool,
}

/// What one direction has carried so far; a tracker only adds to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames whose last byte has passed, control frames included. Comes round at 2^32.
    pub frames: u32,
    /// Text and binary messages whose last byte has passed.
    pub messages: u64,
    /// The status code of the first Close frame; 1005 when it has none (RFC 6455, section 7.1.5).
    pub close: Option<u16>,
}

impl FrameTracker {
    /// A tracker at the start of a stream: right behind the `101` of the handshake.
    pub fn new() -> Self {
        Self::default()
    }

    /// Walks over the next bytes of the stream.
    ///
    /// # Errors
    /// The first header that breaks the protocol. From then on nothing is known: the tracker counts no more and is
    /// never again at a boundary.
    pub fn advance(&mut self, bytes: &[u8], seen: &mut FrameCounts) -> Result<(), Violation> {
        if self.is_a_message(bytes) {
            seen.frames = seen.frames.wrapping_add(1);
            seen.messages += 1;
            return Ok(());
        }
        let mut passed = 0;
        while passed < bytes.len() {
            passed += self.advance_frame(&bytes[passed..], seen)?;
        }
        Ok(())
    }

    /// Whether these bytes are what nearly all are: one short message, whole and alone.
    #[inline]
    fn is_a_message(&self, bytes: &[u8]) -> bool {
        let [first, second, ..] = *bytes else { return false };
        let (opcode, short) = (first & 0x0f, usize::from(second & 0x7f));
        let header = if second & MASKED == 0 { 2 } else { 6 };
        self.at_boundary()
            && !self.in_message
            && first & FIN != 0
            && matches!(opcode, TEXT | BINARY)
            && short <= 125
            && header + short == bytes.len()
    }

    /// Walks to the end of the frame that the stream is in, or that begins here, and no further; returns how many bytes
    /// that took. Where the frame does not end in these bytes, that is all of them.
    ///
    /// # Errors
    /// As [`Self::advance`].
    #[inline]
    pub fn advance_frame(&mut self, bytes: &[u8], seen: &mut FrameCounts) -> Result<usize, Violation> {
        let mut rest = bytes;
        let mut remaining = self.remaining;
        if remaining == 0 {
            let taken = match rest.first_chunk() {
                // Nearly every header stands whole in one piece with room behind it: read it in place.
                Some(header) if self.have == 0 => {
                    remaining = self.begin_frame(header, seen)?;
                    header_length(header[0], header[1])
                }
                _ => {
                    let Some((header, taken)) = self.take_header(rest) else { return Ok(bytes.len()) };
                    remaining = self.begin_frame(&header, seen)?;
                    taken
                }
            };
            rest = &rest[taken..];
        }
        if remaining > rest.len() as u64 {
            self.remaining = remaining - rest.len() as u64;
            return Ok(bytes.len());
        }
        self.remaining = 0;
        seen.frames = seen.frames.wrapping_add(1);
        seen.messages += u64::from(self.ends_message);
        // No more than there is in the slice, so it fits a usize.
        Ok(bytes.len() - rest.len() + remaining as usize)
    }

    /// Whether the stream is between two frames, where a Close frame may be put in.
    pub fn at_boundary(&self) -> bool {
        self.remaining == 0 && self.have == 0
    }

    /// Whether a message has begun whose last fragment has not. A control frame is welcome there, but to close now is
    /// to cut that message.
    pub fn in_message(&self) -> bool {
        self.in_message
    }

    /// The most payload bytes that any message had so far, by what its frames say of themselves. Not told of messages of
    /// 125 bytes and less, and no more than a `u32` holds.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// Whether a Ping has begun since this was asked last.
    pub fn take_pinged(&mut self) -> bool {
        std::mem::take(&mut self.pinged)
    }

    /// A whole header, and how many of the bytes belong to it; or all bytes are put aside until it is whole.
    fn take_header(&mut self, bytes: &[u8]) -> Option<([u8; LONGEST_HEADER], usize)> {
        let have = usize::from(self.have);
        let mut header = self.header;
        let fits = bytes.len().min(LONGEST_HEADER - have);
        header[have..have + fits].copy_from_slice(&bytes[..fits]);
        let available = have + fits;
        if available >= 2 && available >= header_length(header[0], header[1]) {
            self.have = 0;
            return Some((header, header_length(header[0], header[1]) - have));
        }
        self.header = header;
        self.have = available as u8;
        None
    }

    /// How many payload bytes follow this header.
    fn begin_frame(&mut self, header: &[u8; LONGEST_HEADER], seen: &mut FrameCounts) -> Result<u64, Violation> {
        let (fin, opcode) = (header[0] & FIN != 0, header[0] & 0x0f);
        let length = self.judge(header).inspect_err(|_| self.remaining = u64::MAX)?;
        let data = opcode < CLOSE;
        self.ends_message = data && fin;
        if data {
            let before = if opcode == CONTINUATION { self.message } else { 0 };
            self.message = before.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
            self.longest = self.longest.max(self.message);
            self.in_message = !fin;
        }
        match opcode {
            CLOSE => {
                let code = close_code(header);
                seen.close.get_or_insert(code);
            }
            PING => self.pinged = true,
            _ => {}
        }
        Ok(length)
    }

    /// How many payload bytes follow this header, or what is wrong with it.
    fn judge(&self, header: &[u8; LONGEST_HEADER]) -> Result<u64, Violation> {
        let (fin, opcode, short) = (header[0] & FIN != 0, header[0] & 0x0f, header[1] & 0x7f);
        let length = match short {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => {
                let [_, _, long @ .., _, _, _, _] = *header;
                u64::from_be_bytes(long)
            }
            _ => u64::from(short),
        };
        match opcode {
            CONTINUATION if !self.in_message => Err(Violation::UnexpectedContinuation),
            TEXT | BINARY if self.in_message => Err(Violation::MessageInsideMessage),
            CONTINUATION | TEXT | BINARY if length >> 63 != 0 => Err(Violation::LengthTooLarge),
            CONTINUATION | TEXT | BINARY => Ok(length),
            CLOSE..=PONG if !fin => Err(Violation::FragmentedControl),
            CLOSE..=PONG if short > 125 => Err(Violation::ControlTooLong),
            CLOSE if length == 1 => Err(Violation::HalfCloseCode),
            CLOSE => Ok(length.saturating_sub(2)),
            PING | PONG => Ok(length),
            _ => Err(Violation::ReservedOpcode(opcode)),
        }
    }
}

/// How a stream broke the protocol (RFC 6455, section 5). Its bytes may still be carried, only not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An opcode of 3 to 7 or 11 to 15.
    ReservedOpcode(u8),
    /// A 64-bit length with its highest bit set.
    LengthTooLarge,
    /// A Close, Ping or Pong of more than 125 bytes.
    ControlTooLong,
    /// A Close, Ping or Pong without FIN.
    FragmentedControl,
    /// A continuation where no message has begun.
    UnexpectedContinuation,
    /// A new message before the last fragment of the one before.
    MessageInsideMessage,
    /// A Close frame with one byte of the two that its code needs.
    HalfCloseCode,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedOpcode(opcode) => write!(f, "reserved opcode {opcode:#x}"),
            Self::LengthTooLarge => write!(f, "payload length above 2^63"),
            Self::ControlTooLong => write!(f, "control frame of more than 125 bytes"),
            Self::FragmentedControl => write!(f, "fragmented control frame"),
            Self::UnexpectedContinuation => write!(f, "continuation of no message"),
            Self::MessageInsideMessage => write!(f, "message inside a fragmented message"),
            Self::HalfCloseCode => write!(f, "close frame of one byte"),
        }
    }
}

impl std::error::Error for Violation {}

/// A Close frame for a client, which gives no reason.
pub fn close_frame(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [FIN | CLOSE, 2, high, low]
}

/// The same from a client, whose frames are masked.
pub fn close_frame_of_client(code: u16, mask: [u8; 4]) -> Vec<u8> {
    control_frame(CLOSE, &code.to_be_bytes(), Some(mask))
}

/// A message of text from a server, of 125 bytes at most.
pub fn text_frame(text: &str) -> Vec<u8> {
    [&[FIN | TEXT, text.len().min(125) as u8], &text.as_bytes()[..text.len().min(125)]].concat()
}

/// A whole control frame; of the payload, 125 bytes at most. `mask` is needed towards a server (RFC 6455, section 5.3)
/// and forbidden towards a client.
pub(super) fn control_frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(6 + payload.len());
    let masked = if mask.is_some() { MASKED } else { 0 };
    frame.extend([FIN | opcode, masked | payload.len() as u8]);
    let mask = mask.inspect(|mask| frame.extend(mask)).unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;

pub(crate) const FIN: u8 = 0x80;
pub(super) const MASKED: u8 = 0x80;

/// Two bytes, a 64-bit length, a mask.
const LONGEST_HEADER: usize = 14;

/// How long the header is that starts with these two bytes. A Close frame's code counts as header, so that it is
/// whole when it is read.
fn header_length(first: u8, second: u8) -> usize {
    let mask = if second & MASKED != 0 { 4 } else { 0 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        short if first & 0x0f == CLOSE => usize::from(short.min(2)),
        _ => 0,
    };
    2 + mask + length
}

/// The status code of a whole Close header.
fn close_code(header: &[u8; LONGEST_HEADER]) -> u16 {
    match *header {
        [_, second, ..] if second & 0x7f == 0 => 1005,
        [_, second, m0, m1, _, _, c0, c1, ..] if second & MASKED != 0 => u16::from_be_bytes([c0 ^ m0, c1 ^ m1]),
        [_, _, c0, c1, ..] => u16::from_be_bytes([c0, c1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn follow(bytes: &[u8]) -> (Result<(), Violation>, FrameCounts, FrameTracker) {
        let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
        (tracker.advance(bytes, &mut seen), seen, tracker)
    }

    #[test]
    fn the_examples_of_the_rfc_are_followed() {
        // RFC 6455, section 5.7.
        let hello: &[u8] = b"\x81\x05Hello";
        let masked: &[u8] = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        let fragments: &[u8] = b"\x01\x03Hel\x80\x02lo";
        let ping: &[u8] = b"\x89\x05Hello";
        let pong: &[u8] = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        let long = [&b"\x82\x7e\x01\x00"[..], &[0; 256]].concat();
        let longer = [&b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"[..], &[0; 65536]].concat();
        let all = [hello, masked, fragments, ping, pong, &long, &longer].concat();
        let (followed, seen, tracker) = follow(&all);
        assert_eq!(followed, Ok(()));
        assert_eq!(seen, FrameCounts { frames: 8, messages: 5, close: None });
        assert!(tracker.at_boundary() && !tracker.in_message());
    }

    #[test]
    fn a_ping_between_fragments_ends_no_message() {
        let (followed, seen, tracker) = follow(b"\x01\x03Hel\x89\x00");
        assert_eq!(followed, Ok(()));
        assert_eq!(seen, FrameCounts { frames: 2, messages: 0, close: None });
        assert!(tracker.at_boundary() && tracker.in_message());
    }

    #[test]
    fn only_between_two_frames_is_a_boundary() {
        let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
        assert!(tracker.at_boundary());
        for (bytes, boundary) in [(&b"\x81"[..], false), (b"\x01a", true), (b"\x81\x05He", false), (b"llo", true)] {
            assert_eq!(tracker.advance(bytes, &mut seen), Ok(()));
            assert_eq!(tracker.at_boundary(), boundary, "{}", bytes.escape_ascii());
        }
        assert_eq!(seen.frames, 2);
    }

    #[test]
    fn a_close_is_read_masked_plain_and_bare() {
        assert_eq!(follow(b"\x88\x02\x03\xe8").1.close, Some(1000));
        assert_eq!(follow(b"\x88\x82\x37\xfa\x21\x3d\x34\x12").1.close, Some(1000));
        assert_eq!(follow(b"\x88\x00").1.close, Some(1005));
        assert_eq!(follow(b"\x88\x80\x37\xfa\x21\x3d").1.close, Some(1005));
        assert_eq!(follow(b"\x88\x02\x03\xe8\x88\x02\x03\xe9").1.close, Some(1000), "the first one tells why");
        let (followed, seen, tracker) = follow(b"\x88\x06\x03\xf4by");
        assert_eq!((followed, seen.close, seen.frames), (Ok(()), Some(1012), 0), "known before the reason ends");
        assert!(!tracker.at_boundary());
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
        for (bytes, violation) in [
            (&b"\x83\x00"[..], Violation::ReservedOpcode(3)),
            (b"\x8f\x00", Violation::ReservedOpcode(15)),
            (b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", Violation::LengthTooLarge),
            (b"\x89\x7e\x00\x7e", Violation::ControlTooLong),
            (b"\x88\x7e\x00\x02", Violation::ControlTooLong),
            (b"\x09\x00", Violation::FragmentedControl),
            (b"\x80\x00", Violation::UnexpectedContinuation),
            (b"\x01\x00\x81\x00", Violation::MessageInsideMessage),
            (b"\x88\x01\x03", Violation::HalfCloseCode),
        ] {
            assert_eq!(follow(bytes).0, Err(violation), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn after_a_violation_nothing_is_known_any_more() {
        let (_, _, mut tracker) = follow(b"\x83\x00");
        let mut seen = FrameCounts::default();
        assert_eq!(tracker.advance(b"\x81\x00\x81\x00", &mut seen), Ok(()));
        assert_eq!(seen, FrameCounts::default());
        assert!(!tracker.at_boundary());
    }

    #[test]
    fn a_tracker_is_small() {
        assert!(size_of::<FrameTracker>() <= 40);
    }

    /// A Close frame of any peer.
    fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
        control_frame(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat(), mask)
    }

    #[test]
    fn close_frames_are_what_a_peer_expects() {
        assert_eq!(close_frame(1012), *b"\x88\x02\x03\xf4");
        assert_eq!(close_frame(1012), *close(1012, "", None));
        assert_eq!(close(1000, "", Some([0x37, 0xfa, 0x21, 0x3d])), b"\x88\x82\x37\xfa\x21\x3d\x34\x12");
        assert_eq!(close_frame_of_client(1000, [0x37, 0xfa, 0x21, 0x3d]), b"\x88\x82\x37\xfa\x21\x3d\x34\x12");
    }

    /// A stream that keeps the protocol, the offsets between its frames, and what there is to see in it.
    fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<usize>, FrameCounts)> {
        let frame = (0u8..6, any::<bool>(), prop_oneof![0usize..130, 65530usize..65540], any::<Option<[u8; 4]>>());
        prop::collection::vec(frame, 0..12).prop_map(|frames| {
            let (mut bytes, mut boundaries, mut seen) = (Vec::new(), vec![0], FrameCounts::default());
            let mut in_message = false;
            for (kind, fin, length, mask) in frames {
                if kind == 5 {
                    bytes.extend(close(3000 + length as u16 % 1000, "because", mask));
                    seen.close.get_or_insert(3000 + length as u16 % 1000);
                } else {
                    let control = kind >= 3;
                    let (fin, length) = if control { (true, length % 126) } else { (fin, length) };
                    let opcode = if control {
                        PING + (kind - 3)
                    } else if in_message {
                        0
                    } else {
                        1 + kind % 2
                    };
                    bytes.push(if fin { FIN | opcode } else { opcode });
                    let masked = if mask.is_some() { MASKED } else { 0 };
                    match length {
                        0..126 => bytes.push(masked | length as u8),
                        126..65536 => {
                            bytes.push(masked | 126);
                            bytes.extend((length as u16).to_be_bytes());
                        }
                        _ => {
                            bytes.push(masked | 127);
                            bytes.extend((length as u64).to_be_bytes());
                        }
                    }
                    bytes.extend(mask.iter().flatten());
                    bytes.resize(bytes.len() + length, 0x88);
                    if !control {
                        in_message = !fin;
                        seen.messages += u64::from(fin);
                    }
                }
                seen.frames = seen.frames.wrapping_add(1);
                boundaries.push(bytes.len());
            }
            (bytes, boundaries, seen)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_split_sees_the_same(
            (bytes, boundaries, expected) in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            near in prop::collection::vec((any::<prop::sample::Index>(), 0usize..16), 0..20),
        ) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            ends.extend(near.iter().map(|(at, offset)| (at.get(&boundaries) + offset).min(bytes.len())));
            ends.push(bytes.len());
            ends.sort_unstable();
            let (mut tracker, mut seen, mut from) = (FrameTracker::new(), FrameCounts::default(), 0);
            for end in ends {
                tracker.advance(&bytes[from..end], &mut seen).unwrap();
                prop_assert_eq!(tracker.at_boundary(), boundaries.contains(&end));
                from = end;
            }
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn hostile_bytes_end_the_same_in_one_piece_and_in_single_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (whole, seen, tracker) = follow(&bytes);
            let (mut single, mut single_seen) = (FrameTracker::new(), FrameCounts::default());
            let result = bytes.iter().try_for_each(|&byte| single.advance(&[byte], &mut single_seen));
            prop_assert_eq!(result, whole);
            prop_assert_eq!(single_seen, seen);
            prop_assert_eq!(single.at_boundary(), tracker.at_boundary());
        }

        #[test]
        fn every_close_frame_is_followed(code: u16, reason in "[a-zé]{0,60}", mask: Option<[u8; 4]>) {
            let frame = close(code, &reason, mask);
            let (followed, seen, tracker) = follow(&frame);
            prop_assert!(followed.is_ok() && tracker.at_boundary());
            prop_assert_eq!(seen, FrameCounts { frames: 1, messages: 0, close: Some(code) });
        }
    }
}
