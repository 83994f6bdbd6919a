//! WebSockets from the first byte of their opening to the last line about them.

pub mod browser;
mod messages;
mod opening;
mod over_http2;
mod refusal;
mod tunnel;
