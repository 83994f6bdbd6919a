//! What every HTTP engine obeys, and no engine: upgrades, framing, forwarding, hop-by-hop fields, the gateway's answers.

pub mod answers;
pub(crate) mod client;
pub mod config;
pub mod edits;
pub mod forwarding;
pub mod framing;
pub(crate) mod grpc;
pub(crate) mod head;
pub mod hop_by_hop;
pub mod onward;
pub mod origin;
pub(crate) mod pages;
pub(crate) mod passing;
pub mod request_id;
pub(crate) mod response;
pub(crate) mod trailers;
pub mod upgrade;
pub(crate) mod write;

pub use answers::Refusal;
pub use config::{Forwarding, Limits, Timeouts};
