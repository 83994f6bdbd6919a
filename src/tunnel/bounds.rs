//! What a client may send through a WebSocket: how long a message may be, and how many frames may come in a time.

use std::time::{Duration, Instant};

use super::copy::End;
use crate::wire::websocket::{FrameCounts, FrameTracker};

/// Bounds of what one side sends. A violation ends the WebSocket, and nothing goes on of what was read with it.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// The longest message, in bytes as they are sent; 0 is no limit.
    most: u32,
    pace: Option<Pace>,
}

/// A token bucket (GCRA): it is empty when the next frame would be due too far ahead.
#[derive(Clone, Debug)]
struct Pace {
    /// The time that one frame stands for.
    each: Duration,
    /// How far ahead of the time frames may come.
    ahead: Duration,
    /// When the next frame would be due if all came evenly.
    due: Instant,
    /// Frames that have been counted.
    counted: u32,
}

impl Bounds {
    /// Messages of so many bytes, and so many frames in a second, of which `burst` may come at once; 0 is no limit.
    /// `None` where nothing is bounded.
    pub fn new(most: u32, rate: u32, burst: u32) -> Option<Box<Self>> {
        let pace = (rate > 0).then(|| {
            let each = Duration::from_secs(1) / rate;
            Pace { each, ahead: each * burst.max(1), due: Instant::now(), counted: 0 }
        });
        (most > 0 || pace.is_some()).then(|| Box::new(Self { most, pace }))
    }

    /// How the WebSocket ends if what has been seen of it is too much. Frames count whatever they are: a part of a message or a
    /// Ping is as much work as a message.
    pub(super) fn check(&mut self, tracker: Option<&FrameTracker>, seen: &FrameCounts) -> Option<End> {
        let Some(tracker) = tracker else { return Some(End::NoWebSocket) };
        if self.most > 0 && tracker.longest() > self.most {
            return Some(End::MessageTooLarge);
        }
        let pace = self.pace.as_mut()?;
        let new = seen.frames.wrapping_sub(std::mem::replace(&mut pace.counted, seen.frames));
        if new == 0 {
            return None;
        }
        let now = Instant::now();
        pace.due = pace.due.max(now) + pace.each.saturating_mul(new);
        (pace.due - now > pace.ahead).then_some(End::TooManyMessages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::websocket::{FIN, TEXT};

    fn check(bounds: &mut Bounds, tracker: &mut FrameTracker, seen: &mut FrameCounts, bytes: &[u8]) -> Option<End> {
        tracker.advance(bytes, seen).unwrap();
        bounds.check(Some(tracker), seen)
    }

    #[test]
    fn a_message_counts_with_all_of_its_fragments_and_before_it_has_come() {
        let mut bounds = Bounds::new(300, 0, 0).unwrap();
        let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
        let whole = [&[FIN | TEXT, 126, 1, 44][..], &[b'x'; 300]].concat();
        let first = [&[TEXT, 126, 0, 200][..], &[b'x'; 200]].concat();
        for fits in [&whole[..], &first, b"\x89\x05hello", b"\x00\x64", &[b'x'; 100], b"\x80\x00", &whole] {
            assert_eq!(check(&mut bounds, &mut tracker, &mut seen, fits), None);
        }
        assert_eq!(check(&mut bounds, &mut tracker, &mut seen, &first), None);
        // What it says of the next part is enough.
        assert_eq!(check(&mut bounds, &mut tracker, &mut seen, b"\x00\x65"), Some(End::MessageTooLarge));
        let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
        let long = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(check(&mut bounds, &mut tracker, &mut seen, long), Some(End::MessageTooLarge));
    }

    #[test]
    fn one_that_is_too_long_is_seen_among_others_that_came_with_it() {
        let mut bounds = Bounds::new(126, 0, 0).unwrap();
        let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
        let long = [&[FIN | TEXT, 126, 0, 127][..], &[b'x'; 127]].concat();
        let all = [b"\x81\x02hi", &long[..], b"\x81\x02hi"].concat();
        assert_eq!(check(&mut bounds, &mut tracker, &mut seen, &all), Some(End::MessageTooLarge));
    }

    #[test]
    fn frames_come_in_a_burst_and_then_at_their_rate() {
        // One in a thousand seconds: no machine is so slow.
        let mut bounds = Bounds { most: 0, pace: None };
        let each = Duration::from_secs(1000);
        bounds.pace = Some(Pace { each, ahead: 3 * each, due: Instant::now(), counted: 0 });
        let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
        for frame in [&b"\x81\x02hi"[..], b"\x89\x00", b"\x01\x01a"] {
            assert_eq!(check(&mut bounds, &mut tracker, &mut seen, frame), None, "a message, a Ping, a part of one");
        }
        assert_eq!(check(&mut bounds, &mut tracker, &mut seen, b"\x80"), None, "no whole frame");
        assert_eq!(check(&mut bounds, &mut tracker, &mut seen, b"\x01a"), Some(End::TooManyMessages));
    }

    #[test]
    fn what_is_no_websocket_has_no_bounds_to_keep() {
        let mut bounds = Bounds::new(100, 0, 0).unwrap();
        assert_eq!(bounds.check(None, &FrameCounts::default()), Some(End::NoWebSocket));
        assert!(Bounds::new(0, 0, 5).is_none());
    }
}
