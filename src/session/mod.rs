//! Sessions: what protocols say of them, which server each one lives on, and where a client was last. Servers are numbers
//! here; who they are and how they fare is the upstream's.

mod engine_io;
mod home;
mod mcp;
mod named;
mod protocol;
mod returning;
mod rules;
mod shards;
mod signalr;
mod sockjs;
pub(crate) mod table;
mod totals;
mod upgrades;

pub use engine_io::EngineIo;
pub(crate) use home::Home;
pub use mcp::Mcp;
pub(crate) use named::Named;
pub use protocol::{
    Answered, Arrival, CheckedSession, Departure, ENDS_OF_EVENTS, Goodbye, Known, LastMessage, LastWords, NewSession,
    Question, Reader, SessionCheck, SessionProtocol, SessionRequest,
};
pub(crate) use returning::Returning;
pub(crate) use rules::config;
pub(crate) use rules::{ID, Rules};
pub use signalr::SignalR;
pub use sockjs::SockJs;
pub(crate) use table::{Found, Held, How, Key, Learned, Listed, Mark, Moving, SessionTable};
pub(crate) use totals::{Cause, Lives};
pub(crate) use upgrades::Recent;
