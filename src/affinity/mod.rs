//! What ties a session or a client to a server. Servers are numbers here; who they are and how they fare is the upstream's.

pub mod client;
pub mod config;
pub mod cookie;
pub mod session;
mod shards;
pub mod upgrades;

pub use client::{By, ClientKey, Returning, stable_hash, value};
pub use config::{Config, CookieConfig};
pub use cookie::CookieAffinity;
pub use session::{Cause, Found, Held, Home, How, Key, Learned, Mark, SessionTable, Totals, Upgrade};
pub use upgrades::Recent;
