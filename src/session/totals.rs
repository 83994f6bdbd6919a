//! What the table ever did, and why and after which time its sessions ended.

use crate::metrics::LONG_TIMES;

/// Why a session ended, as far as the gateway sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// Its client said goodbye, or closed its WebSocket.
    Client,
    /// Its server did.
    Server,
    /// The connection of its WebSocket to the client broke.
    ClientLost,
    /// The connection of its WebSocket to the server broke.
    ServerLost,
    /// Nothing was heard of it for longer than its heartbeat allows.
    Silent,
    /// It was told goodbye, since its server drains.
    Drain,
    /// The gateway stops.
    Stopped,
    /// Its server did not know it any more.
    Unknown,
    /// It was asked for while its server was down, or gone for good.
    ServerDown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Client,
        Self::Server,
        Self::ClientLost,
        Self::ServerLost,
        Self::Silent,
        Self::Drain,
        Self::Stopped,
        Self::Unknown,
        Self::ServerDown,
    ];

    /// The word for metrics and the status page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::ClientLost => "client_lost",
            Self::ServerLost => "server_lost",
            Self::Silent => "silent",
            Self::Drain => "drain",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
            Self::ServerDown => "server_down",
        }
    }
}

/// What the table ever did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions learned from handshakes.
    pub learned: u64,
    /// Sessions learned by rescue.
    pub rescued: u64,
    /// Sessions that the process before has handed over.
    pub inherited: u64,
    /// Sessions that were learned again on another server.
    pub moved: u64,
    /// Sessions that were not learned because the table was full.
    pub refused: u64,
    /// Look-ups that found their session.
    pub found: u64,
    /// Look-ups that did not.
    pub unknown: u64,
    ended: [u64; Cause::ALL.len()],
    lives: Lives,
}

/// How long sessions were known that have ended, as a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// By the first of [`LONG_TIMES`] that it was no longer than; the last one has those beyond.
    counts: [u64; LONG_TIMES.len() + 1],
    milliseconds: u64,
}

impl Lives {
    fn add(&mut self, milliseconds: u32) {
        let seconds = f64::from(milliseconds) / 1000.0;
        self.counts[LONG_TIMES.partition_point(|&bound| bound < seconds)] += 1;
        self.milliseconds += u64::from(milliseconds);
    }

    fn plus(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(other.counts) {
            *sum += more;
        }
        self.milliseconds += other.milliseconds;
    }

    /// All that have ended.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of their lives, in seconds.
    pub fn seconds(&self) -> f64 {
        self.milliseconds as f64 / 1000.0
    }

    /// So many seconds, and how many sessions were known for no longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let up_to = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        LONG_TIMES.into_iter().zip(up_to)
    }
}

impl Totals {
    /// Sessions that ended for this cause.
    pub fn ended(&self, cause: Cause) -> u64 {
        self.ended[cause as usize]
    }

    /// How long sessions were known that have ended.
    pub fn lives(&self) -> &Lives {
        &self.lives
    }

    pub(super) fn end(&mut self, cause: Cause, milliseconds: u32) {
        self.ended[cause as usize] += 1;
        self.lives.add(milliseconds);
    }

    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.learned += other.learned;
        self.rescued += other.rescued;
        self.inherited += other.inherited;
        self.moved += other.moved;
        self.refused += other.refused;
        self.found += other.found;
        self.unknown += other.unknown;
        for (sum, more) in self.ended.iter_mut().zip(other.ended) {
            *sum += more;
        }
        self.lives.plus(&other.lives);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_counts_in_the_first_bucket_that_it_fits_in_and_in_all_above() {
        let mut lives = Lives::default();
        // A second is no longer than a second; 49 days are beyond every bound.
        [999, 1000, 1001, 60_000, 60_001, u32::MAX].into_iter().for_each(|life| lives.add(life));
        let cumulative: Vec<(f64, u64)> = lives.cumulative().collect();
        assert_eq!(cumulative[..5], [(1.0, 2), (5.0, 3), (15.0, 3), (60.0, 4), (300.0, 5)]);
        assert_eq!((cumulative.last(), cumulative.len()), (Some(&(86_400.0, 5)), LONG_TIMES.len()));
        assert_eq!(lives.count(), 6);
        assert!((lives.seconds() - (3.0 + 120.001 + f64::from(u32::MAX) / 1000.0)).abs() < 0.001);
    }
}
