//! How long a server takes to its first byte, as it was lately: a peak counts at once, and is forgotten slowly.
//!
//! The measure is Finagle's peak EWMA (`PeakEwma` there, from which linkerd has its own): what is worse than the average takes its place,
//! what is better moves it by as much as time has passed. A server that nobody asks is forgotten in the same time, so that
//! it gets another chance.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// After this time without an answer, or with better ones, an average weighs a third of what it did.
const DECAY: f32 = 10_000.0;

/// A decaying average, in one word so that it is changed without a lock: microseconds, and the millisecond of the process in
/// which they were noted. 0 while nothing is known.
#[derive(Default)]
pub(super) struct Latency(AtomicU64);

/// The time of this process. What is taken of it wraps around, and only differences count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(u64);

impl Tick {
    pub(crate) fn now() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self(u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// In microseconds, never 0.
    pub(crate) fn short(self) -> u32 {
        (self.0 as u32) | 1
    }

    /// How long ago a [`short`](Self::short) one was, within an hour.
    pub(crate) fn since(self, short: u32) -> Duration {
        Duration::from_micros(u64::from(self.short().wrapping_sub(short)))
    }

    fn milliseconds(self) -> u32 {
        (self.0 / 1000) as u32
    }
}

/// What came of a request, as far as it says how fast its server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// An error, or no answer: who fails fast must not draw the work of all others.
    Failed,
    /// Nobody waits for it any more.
    GivenUp,
}

/// What a server that fails is taken for while nothing better is known of it, in microseconds.
const OF_A_FAILURE: f32 = 1e6;

impl Latency {
    /// A request has come to this, after this time. Where that was no good answer it can only make the server look slower.
    pub(super) fn note(&self, now: Tick, took: Duration, outcome: Outcome) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1) as f32;
        // Fails where there is nothing to change.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let (average, weight) = split(word, now);
            let left = average * weight;
            let average = match outcome {
                Outcome::Failed if left < 1.0 => took.max(OF_A_FAILURE),
                Outcome::GivenUp if left < 1.0 && took < OF_A_FAILURE => return None,
                _ if took >= left => took,
                Outcome::Failed | Outcome::GivenUp => return None,
                Outcome::Answered => left + took * (1.0 - weight),
            };
            Some(u64::from(now.milliseconds()) << 32 | u64::from(average as u32))
        });
    }

    /// What is expected of the next answer, in microseconds; 0 where nobody knows.
    pub(super) fn expected(&self, now: Tick) -> f32 {
        match self.0.load(Relaxed) {
            0 => 0.0,
            word => {
                let (average, weight) = split(word, now);
                average * weight
            }
        }
    }
}

/// The average that was noted, and what is left of it.
fn split(word: u64, now: Tick) -> (f32, f32) {
    let (noted, average) = ((word >> 32) as u32, word as u32);
    let ago = now.milliseconds().wrapping_sub(noted);
    // Somebody else's note may be of a later moment.
    let ago = if ago > u32::MAX / 2 { 0 } else { ago };
    (average as f32, (-(ago as f32) / DECAY).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Tick {
        Tick(milliseconds * 1000)
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn expected(latency: &Latency, now: Tick) -> u32 {
        (latency.expected(now) / 1000.0).round() as u32
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        assert_eq!(expected(&latency, at(5)), 0);
        latency.note(at(1000), ms(10), Outcome::Answered);
        assert_eq!(expected(&latency, at(1000)), 10);
        latency.note(at(1000), ms(500), Outcome::Answered);
        assert_eq!(expected(&latency, at(1000)), 500);
        latency.note(at(1001), ms(10), Outcome::Answered);
        assert_eq!(expected(&latency, at(1001)), 500, "one good answer right after says little");
        for second in 2..=31 {
            latency.note(at(second * 1000), ms(10), Outcome::Answered);
        }
        assert!((30..45).contains(&expected(&latency, at(31_000))), "{}", expected(&latency, at(31_000)));
    }

    #[test]
    fn a_server_that_nobody_asks_gets_another_chance() {
        let latency = Latency::default();
        latency.note(at(0), ms(1000), Outcome::Answered);
        assert_eq!(expected(&latency, at(10_000)), 368);
        assert_eq!(expected(&latency, at(300_000)), 0);
    }

    #[test]
    fn what_is_no_answer_makes_nobody_look_faster() {
        let latency = Latency::default();
        latency.note(at(1), ms(100), Outcome::Answered);
        latency.note(at(5000), ms(1), Outcome::Failed);
        assert_eq!(expected(&latency, at(5000)), 61);
        latency.note(at(5000), ms(2000), Outcome::GivenUp);
        assert_eq!(expected(&latency, at(5000)), 2000);
        let unknown = Latency::default();
        unknown.note(at(1), ms(3), Outcome::GivenUp);
        assert_eq!(expected(&unknown, at(1)), 0, "who has hardly waited says nothing");
        unknown.note(at(1), ms(3), Outcome::Failed);
        assert_eq!(expected(&unknown, at(1)), 1000);
    }

    #[test]
    fn times_that_wrap_around_are_still_apart() {
        let late = Tick(u64::from(u32::MAX) - 10);
        let (later, short) = (Tick(late.0 + 100), late.short());
        assert!(later.since(short).as_micros().abs_diff(100) <= 1);
        let latency = Latency::default();
        let end = u64::from(u32::MAX);
        latency.note(at(end), ms(100), Outcome::Answered);
        assert_eq!(expected(&latency, at(end + 10_000)), 37);
        assert_eq!(expected(&latency, at(end - 5)), 100, "a note of a moment that is still to come");
    }
}
