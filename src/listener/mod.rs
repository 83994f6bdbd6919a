//! From the bound address to the application: accept, limit, TLS, detect.

pub mod config;

pub use config::{Config, FlashPolicy};
