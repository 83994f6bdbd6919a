//! Whether servers live, and who of them is passed over: checks that ask each of them, and ejection of those that fail at
//! what they are asked.

mod checks;
mod ejection;
mod grpc;
mod own;
mod probe;
mod request;

pub use checks::Checks;
pub use ejection::{Ejected, Fault};
pub use own::HealthCheck;

pub(crate) use ejection::Faults;
pub(crate) use request::check as check_request;
