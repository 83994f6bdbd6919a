//! The generator: workers that do one thing over and over, in a closed loop or by a schedule.

pub(crate) mod drive;
pub(crate) mod http;
pub(crate) mod latency;
pub(crate) mod socket_io;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod websocket;

pub(crate) use drive::{Outcome, Pace, Until, drive, open};
pub(crate) use stream::{Failure, Target, Tls};

/// What a worker does.
pub(crate) trait Work: Send + 'static {
    /// Opens what the work goes over, ahead of it.
    fn ready(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Does it once; the bytes that it brought. After a failure, the next call begins anew.
    fn once(&mut self) -> impl Future<Output = Result<u64, Failure>> + Send;
}
