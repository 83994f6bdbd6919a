//! Sessions: what protocols say of them, which server each one lives on, and where a client was last. Servers are numbers
//! here; who they are and how they fare is the upstream's.

mod engine_io;
mod guess;
mod home;
mod protocol;
mod returning;
mod shards;
mod table;
mod totals;
mod upgrades;

pub use engine_io::EngineIo;
pub(crate) use guess::may_be_poll;
pub use home::Home;
pub use protocol::{
    Answered, Arrival, CheckedSession, Goodbye, Opened, Question, Reader, SessionCheck, SessionProtocol,
    SessionRequest, Verdict,
};
pub use returning::{ClientKey, Returning};
pub use table::{Found, Held, How, Key, Learned, Mark, SessionTable, Upgrade};
pub use totals::{Cause, Totals};
pub use upgrades::Recent;
