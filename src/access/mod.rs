//! Who may ask, and from where: what is looked at once a route is known, before a server hears of the request.

pub mod config;
mod cors;
mod networks;
pub(crate) mod origins;

use std::fmt;
use std::sync::Arc;

pub use config::Config;
pub(crate) use networks::Networks;
pub use origins::Pattern;

use crate::filter::{FilterAnswer, HeaderEdits};
use crate::http::Refusal;
use crate::http::forwarding::Asked;
use crate::request::{Headers, Request};
use cors::Cors;
use networks::Lists;
use origins::Origins;

/// What a route, or all of them, ask of whoever comes; built from an `access` of the configuration.
#[derive(Debug, Default)]
pub struct Access {
    networks: Option<Networks>,
    origins: Option<Origins>,
    cors: Option<Cors>,
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
            cors: said.cors.as_ref().map(|cors| Cors::new(cors, said.origins.as_ref())),
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
    /// What can be told at once: whether the client's network and the page may ask for that. Answers a preflight.
    pub(crate) fn check(&self, request: &Request<'_>, asked: Asked<'_>) -> Result<Option<FilterAnswer>, Refusal> {
        if self.networks.as_ref().is_some_and(|networks| !networks.admit(request.client)) {
            return Err(Refusal::Network);
        }
        if self.origins.as_ref().is_some_and(|origins| !origins.admit(request, asked)) {
            return Err(Refusal::Origin);
        }
        match &self.cors {
            // It has no credentials, whatever the page has (Fetch 3.3.5).
            Some(cors) if cors::is_preflight(request.method, request.headers) => {
                cors.preflight(request.headers, asked).map(Some).ok_or(Refusal::Origin)
            }
            _ => Ok(None),
        }
    }

    /// Marks an answer to a request of this method with these fields, whoever gives it, as one that the page may read, or as none.
    pub(crate) fn mark(&self, method: &str, headers: Headers<'_>, asked: Asked<'_>, edits: &mut HeaderEdits) {
        if let Some(cors) = &self.cors {
            cors.mark(method, headers, asked, edits);
        }
    }
}
