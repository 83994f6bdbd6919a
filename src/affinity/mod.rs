//! What ties a session or a client to a server. Servers are numbers here; who they are and how they fare is the upstream's.

pub mod session;

pub use session::{Found, Held, Home, How, Key, Learned, Mark, SessionTable, Totals};
