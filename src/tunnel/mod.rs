//! What carries bytes once a connection has left HTTP, or never was HTTP: WebSockets and raw TCP.
//!
//! A tunnel holds no buffer while it is silent, no timer of its own, and no queue: bytes go from one socket to the
//! other in the task that waits for both. Its two ends are of any kind that is a [`Stream`].

mod bounds;
pub mod copy;
mod direction;
pub mod handshake;
mod silence;
pub mod stream;
#[cfg(test)]
mod testing;

pub use bounds::Bounds;
pub use copy::{Carrying, Closed, End, Ends, Listening, Overhear, carry};
pub use silence::Ping;
