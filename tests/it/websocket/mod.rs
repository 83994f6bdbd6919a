//! WebSockets from the first byte of their opening to the last line about them.

mod opening;
mod refusal;
mod tunnel;
