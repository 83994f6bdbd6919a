//! Checks of a program's own.

use std::sync::Arc;

use async_trait::async_trait;

use super::probe::{Probe, Unwell};
use crate::upstream::Server;

/// Looks at servers in a way of the program's own, in place of the `health.check` of an upstream.
///
/// Why it looks like this. A check sees one server, once, and says what it saw: when to look, how long to wait, and how
/// many looks make a verdict is the same for every check, and stays where operators look for it: `interval`, `timeout`,
/// `rise` and `fall` of `health`. What it says in words ends up on `/status` and in the log, good or bad, so that nobody
/// has to guess why a server is down.
///
/// It is called for each server from a task of its own, never twice at once for the same one, also for servers that drain;
/// at once after a server has come, has moved, or was passed over. The call is dropped when its time is over or the server is
/// gone. It must not block its thread, nor hold connections to the server longer than it takes: its own load counts.
///
/// ```
/// use async_trait::async_trait;
/// use sockgate::{Endpoint, HealthCheck, Server};
/// use tokio::io::AsyncReadExt;
/// use tokio::net::TcpStream;
///
/// /// Expects the greeting of a mail server.
/// struct Greeting;
///
/// #[async_trait]
/// impl HealthCheck for Greeting {
///     async fn check(&self, server: &Server) -> Result<String, String> {
///         let Some(Endpoint::Inet(address)) = server.endpoint() else { return Err("no address".to_owned()) };
///         let mut stream = TcpStream::connect(address).await.map_err(|fault| fault.to_string())?;
///         let mut greeting = [0; 3];
///         stream.read_exact(&mut greeting).await.map_err(|fault| fault.to_string())?;
///         if &greeting == b"220" { Ok("greeted".to_owned()) } else { Err("greeted by somebody else".to_owned()) }
///     }
/// }
/// ```
#[async_trait]
pub trait HealthCheck: Send + Sync + 'static {
    /// Looks at a server once: what was seen, in a few words.
    ///
    /// # Errors
    /// What was seen that is not good.
    async fn check(&self, server: &Server) -> Result<String, String>;
}

/// One of these for one server.
pub(super) struct Own {
    pub(super) check: Arc<dyn HealthCheck>,
    pub(super) server: Arc<Server>,
}

impl Probe for Own {
    async fn probe(&self) -> Result<String, Unwell> {
        self.check.check(&self.server).await.map_err(Unwell::from)
    }
}
