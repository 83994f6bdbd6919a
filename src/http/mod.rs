//! What every HTTP engine obeys, and no engine: heads, paths, forwarding, framing, answers.

pub mod config;

pub use config::{Forwarding, Limits, Timeouts};
