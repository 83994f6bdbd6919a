//! How long things took: a histogram that is exact to 1.6 %, of a size that does not grow.

use std::time::Duration;

/// Each power of two is cut into this many buckets.
const STEPS: usize = 64;

/// Times from a nanosecond to centuries.
#[derive(Clone)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; STEPS * 64], count: 0, longest: Duration::ZERO }
    }
}

impl Latency {
    pub(crate) fn record(&mut self, time: Duration) {
        self.buckets[index(nanoseconds(time))] += 1;
        self.count += 1;
        self.longest = self.longest.max(time);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += more;
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The time that this share (0 to 1) of all took no longer than; zero where there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper(index)).min(self.longest);
            }
        }
        self.longest
    }

    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Below `STEPS` a bucket holds one value; above it, the first seven bits choose.
fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(7);
    shift as usize * STEPS + (value >> shift) as usize
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    if index < 2 * STEPS {
        return index as u64;
    }
    let shift = index / STEPS - 1;
    let first = ((index % STEPS + STEPS) as u64) << shift;
    first + (1 << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_no_wider_than_a_sixty_fourth() {
        for value in [0, 1, 63, 64, 127, 128, 129, 1000, 123_456, 10_000_000_000, u64::MAX / 3] {
            let upper = upper(index(value));
            assert!(upper >= value && upper - value <= value / 64, "{value} is counted as {upper}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let (mut first, mut second) = (Latency::default(), Latency::default());
        for micros in 1..=500 {
            first.record(Duration::from_micros(micros));
            second.record(Duration::from_micros(micros + 500));
        }
        first.add(&second);
        assert_eq!(first.count(), 1000);
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = first.quantile(share).as_secs_f64() * 1e6;
            assert!((found - micros).abs() <= micros / 50.0, "{share}: {found}");
        }
        assert_eq!(first.longest(), Duration::from_millis(1));
    }

    #[test]
    fn nothing_recorded_is_zero() {
        assert_eq!(Latency::default().quantile(0.99), Duration::ZERO);
    }
}
