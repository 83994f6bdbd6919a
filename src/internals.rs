//! What the benches, the fuzz targets and the measuring tools look at; no part of the library's face, and free to change.

pub use crate::cli::main;
pub use crate::http::Forwarding;
pub use crate::http::forwarding::Seen as Client;
pub use crate::http::framing::request_body;
pub use crate::http::onward::Onward;
pub use crate::http::upgrade::opening;
pub use crate::metrics::Metrics;
pub use crate::request::host_name;
pub use crate::router::Routes;
pub use crate::session::table::{How, Key, SessionTable};
pub use crate::transport::tls;
pub use crate::upstream::{Tried, Upstream};
pub use crate::wire::engine_io::{HandshakeReader, LONGEST_SID, LONGEST_SILENCE};
pub use crate::wire::ping::OwnPings;
pub use crate::wire::websocket::{FrameCounts, FrameTracker};
