//! What ties a client to a server when no session does: a cookie, or something that its requests say.

pub mod config;
pub mod cookie;
pub mod key;

pub use config::Config;
pub use cookie::CookieAffinity;
pub use key::{By, stable_hash, value};
