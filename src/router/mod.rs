//! Where a request goes: the first route whose match holds.

pub mod config;

pub use config::Config;
