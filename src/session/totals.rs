//! What the table ever did, and why its sessions ended.

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
}

impl Totals {
    /// Sessions that ended for this cause.
    pub fn ended(&self, cause: Cause) -> u64 {
        self.ended[cause as usize]
    }

    pub(super) fn end(&mut self, cause: Cause, sessions: u64) {
        self.ended[cause as usize] += sessions;
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
        self
    }
}
