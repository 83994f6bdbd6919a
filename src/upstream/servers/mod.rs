//! The servers of an upstream: who each is, how it fares and what it carries, where its name leads, the set of the moment,
//! and a place on one of them.

mod lease;
mod members;
pub(crate) mod resolve;
mod server;

pub use lease::{Lease, Opening};
pub use server::{CheckReport, Endpoint, Server, ServerId, State};

pub(crate) use members::Members;
pub(crate) use server::Health;
