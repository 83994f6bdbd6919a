//! Pools of servers: who lives, who has room, and who is next.

pub mod config;

pub use config::Config;
