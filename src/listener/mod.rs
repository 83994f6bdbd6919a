//! From the bound address to the application: accept, limit, TLS, detect.

pub mod config;
pub mod connection;
pub mod limits;

pub use config::{Config, FlashPolicy};
