//! From the bound address to the application: accept, limit, TLS, detect.
//!
//! A listener knows nothing of what applications do: it hands them a [`Connection`] and says what it speaks. Only Flash
//! policy requests are answered right here.

mod accept;
mod application;
pub mod config;
mod connection;
pub mod detect;
mod flash;
mod head;
pub mod inherit;
pub mod limits;
mod prepare;
mod program;
mod proxy_header;
mod settings;
mod socket;
pub mod tls;

use std::fmt;

pub use accept::{Control, Listener, last_call};
pub use application::Application;
pub use config::{Config, FlashPolicy};
#[cfg(test)]
pub(crate) use connection::testing;
pub use connection::{AppProtocol, Connection, Info, TlsInfo};
pub use flash::policy as flash_policy;
pub use head::HeadError;
pub(crate) use head::head_end;
pub use limits::{ConnectionLimits, Permit};
pub(crate) use program::serve as serve_by;
pub use program::{ClientStream, TcpApplication};
pub use settings::{Settings, Shared};
pub use tls::ClientCertificate;

/// Why a listener can't be built.
#[derive(Debug)]
pub struct BuildError {
    listener: String,
    what: String,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {}: {}", self.listener, self.what)
    }
}

impl std::error::Error for BuildError {}
