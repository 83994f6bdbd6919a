//! Who may ask, and from where: what is looked at once a route is known, before a server hears of the request.

pub mod config;
mod networks;
pub(crate) mod origins;

use std::fmt;
use std::sync::Arc;

pub use config::Config;
pub(crate) use networks::Networks;

use crate::http::Refusal;
use crate::http::forwarding::Asked;
use crate::request::Request;
use networks::Lists;
use origins::Origins;

/// What a route, or all of them, ask of whoever comes; built from an `access` of the configuration.
#[derive(Debug, Default)]
pub struct Access {
    networks: Option<Networks>,
    origins: Option<Origins>,
}

/// An `access` that can't be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "access: {}", self.0)
    }
}

impl std::error::Error for BuildError {}

/// Builds what a configuration says of access; what several routes say is built once.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    lists: Lists,
}

impl Builder {
    /// Reads what it names.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub(crate) fn build(&mut self, said: &Config) -> Result<Arc<Access>, BuildError> {
        Ok(Arc::new(Access {
            networks: self.networks(said.allow.as_ref(), said.deny.as_ref())?,
            origins: said.origins.as_ref().map(Origins::new),
        }))
    }

    /// The networks alone.
    ///
    /// # Errors
    /// The first list that can't be read.
    pub(crate) fn networks(
        &mut self,
        allow: Option<&config::Networks>,
        deny: Option<&config::Networks>,
    ) -> Result<Option<Networks>, BuildError> {
        Networks::build(allow, deny, &mut self.lists)
    }
}

impl Access {
    /// What can be told at once: whether the client's network and the page may ask for that.
    pub(crate) fn check(&self, request: &Request<'_>, asked: Asked<'_>) -> Result<(), Refusal> {
        if self.networks.as_ref().is_some_and(|networks| !networks.admit(request.client)) {
            return Err(Refusal::Network);
        }
        if self.origins.as_ref().is_some_and(|origins| !origins.admit(request, asked)) {
            return Err(Refusal::Origin);
        }
        Ok(())
    }
}
