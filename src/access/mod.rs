//! Who may ask, and from where: what is looked at once a route is known, before a server hears of the request.

pub mod config;
mod cors;
pub(crate) mod forward;
mod jwt;
mod networks;
pub(crate) mod origins;
mod sessions;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;

pub use config::Config;
pub(crate) use networks::Networks;
pub use origins::Pattern;
pub(crate) use sessions::Admitted;

use crate::filter::{Changes, FilterAnswer, HeaderEdits};
use crate::http::Refusal;
use crate::http::forwarding::Asked;
use crate::request::{Headers, Request};
use crate::session::Key;
use cors::Cors;
use forward::ForwardAuth;
use jwt::Jwt;
use networks::Lists;
use origins::Origins;

/// What a route, or all of them, ask of whoever comes; built from an `access` of the configuration.
#[derive(Debug, Default)]
pub struct Access {
    networks: Option<Networks>,
    origins: Option<Origins>,
    cors: Option<Cors>,
    jwt: Option<Jwt>,
    forward_auth: Option<ForwardAuth>,
    /// Whether a session that came in by this goes on without a token, and without its service being asked.
    once: (bool, bool),
    /// Sessions that came in with what is asked for, where later requests need not show it again.
    sessions: Option<Arc<Admitted>>,
}

/// Why what was shown does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Nothing was.
    Missing,
    /// It is not good.
    Bad,
    /// It was good once.
    Expired,
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

/// What was built, what it was built from, and a hash of what its files held.
pub(crate) type Built = Vec<(Config, u64, Arc<Access>)>;

/// Builds what a configuration says of access. What several routes say, or the configuration before has said, is built once,
/// and goes on knowing what it knows.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    lists: Lists,
    before: Built,
    /// What was built.
    pub(crate) built: Built,
}

impl Builder {
    /// Knows what was built before.
    pub(crate) fn after(before: Built) -> Self {
        Self { before, ..Self::default() }
    }

    /// Reads what it names.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub(crate) fn build(&mut self, said: &Config) -> Result<Arc<Access>, BuildError> {
        let mut files = DefaultHasher::new();
        said.files().for_each(|file| std::fs::read(file).ok().hash(&mut files));
        let files = files.finish();
        let mut known = self.built.iter().chain(&self.before);
        let known =
            known.find(|(known, held, _)| *held == files && known == said).map(|(_, _, built)| Arc::clone(built));
        let built = match known {
            Some(built) => built,
            None => self.build_new(said)?,
        };
        self.built.push((said.clone(), files, Arc::clone(&built)));
        Ok(built)
    }

    fn build_new(&mut self, said: &Config) -> Result<Arc<Access>, BuildError> {
        let jwt = said.jwt.as_ref().map(Jwt::build).transpose()?;
        let forward_auth = said.forward_auth.as_ref().map(ForwardAuth::build).transpose()?;
        let once = |said: Option<config::Sessions>| said == Some(config::Sessions::Once);
        let once = (
            once(said.jwt.as_ref().map(|said| said.sessions)),
            once(said.forward_auth.as_ref().map(|said| said.sessions)),
        );
        Ok(Arc::new(Access {
            networks: self.networks(said.allow.as_ref(), said.deny.as_ref())?,
            origins: said.origins.as_ref().map(Origins::new),
            cors: said.cors.as_ref().map(|cors| Cors::new(cors, said.origins.as_ref())),
            jwt,
            forward_auth,
            sessions: (once.0 || once.1).then(Arc::default),
            once,
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

    /// Whether the request shows what is asked for; what that tells of the client goes to the server, and nobody else may
    /// say it. `session` is the one that the request names.
    pub(crate) fn identify(
        &self,
        request: &Request<'_>,
        session: Option<Key>,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let Some(jwt) = &self.jwt else { return Ok(()) };
        jwt.strip(changes);
        if self.once.0 && self.has_admitted(session) {
            return Ok(());
        }
        jwt.check(request, changes).map_err(|unfit| {
            let challenge = if unfit == Unfit::Missing { "Bearer" } else { "Bearer error=\"invalid_token\"" };
            changes.to_client.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            match unfit {
                Unfit::Missing => Refusal::NoCredentials,
                Unfit::Bad => Refusal::BadCredentials,
                Unfit::Expired => Refusal::ExpiredToken,
            }
        })
    }

    /// The service that has to be asked about a request of this session, if any; what only that may tell goes to no
    /// server from anybody else.
    pub(crate) fn service(&self, session: Option<Key>, changes: &mut Changes) -> Option<&ForwardAuth> {
        let service = self.forward_auth.as_ref()?;
        service.strip(changes);
        Some(service).filter(|_| !(self.once.1 && self.has_admitted(session)))
    }

    /// Whether somebody may have to be waited for.
    pub(crate) fn waits(&self) -> bool {
        self.forward_auth.is_some()
    }

    /// Whether the session came in with what is asked for.
    fn has_admitted(&self, session: Option<Key>) -> bool {
        self.sessions.as_ref().zip(session).is_some_and(|(admitted, session)| admitted.has(session))
    }

    /// Where sessions are noted that come in so; `None` where each of their requests is asked.
    pub(crate) fn sessions(&self) -> Option<&Arc<Admitted>> {
        self.sessions.as_ref()
    }

    /// Marks an answer to a request of this method with these fields, whoever gives it, as one that the page may read, or as none.
    pub(crate) fn mark(&self, method: &str, headers: Headers<'_>, asked: Asked<'_>, edits: &mut HeaderEdits) {
        if let Some(cors) = &self.cors {
            cors.mark(method, headers, asked, edits);
        }
    }
}
