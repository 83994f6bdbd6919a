//! The servers of an upstream: who each is, how it fares and what it carries, where its name leads, the live set and who
//! changes it, and a place on one of them.

mod condition;
pub(crate) mod config;
mod latency;
mod lease;
mod live;
mod load;
mod location;
mod members;
pub(crate) mod resolve;
mod server;

pub use condition::{CheckReport, DrainedBy, State, Status};
pub use lease::{Lease, Opening};
pub use live::Findings;
pub use location::Endpoint;
pub use server::{Server, ServerId};

pub(crate) use condition::Health;
pub(crate) use latency::{Outcome, Tick};
pub(crate) use live::{Follower, Found, Latest, own};
pub(crate) use location::Whereabouts;
pub(crate) use members::{Members, Terms};
