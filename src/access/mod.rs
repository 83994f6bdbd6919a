//! Who may ask, and from where: what is looked at once a route is known, before a server hears of the request.

mod basic;
pub mod config;
pub(crate) mod cors;
pub(crate) mod forward;
pub(crate) mod jwt;
pub(crate) mod key_set;
mod networks;
pub(crate) mod origins;
mod passwords;
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
use basic::Basic;
use cors::Cors;
use forward::ForwardAuth;
use jwt::Jwt;
use key_set::KeySet;
use networks::Lists;
use origins::Origins;

/// What a route, or all of them, ask of whoever comes; built from an `access` of the configuration.
#[derive(Debug, Default)]
pub struct Access {
    networks: Option<Networks>,
    origins: Option<Origins>,
    cors: Option<Cors>,
    jwt: Option<Jwt>,
    basic: Option<Basic>,
    forward_auth: Option<ForwardAuth>,
    /// What a session that came in by this need not show again.
    once: Once,
    /// Sessions that came in with what is asked for, where later requests need not show it again.
    sessions: Option<Arc<Admitted>>,
}

/// What only the request that opens a session is asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Once {
    jwt: bool,
    basic: bool,
    forward_auth: bool,
}

/// What passwords that are computed may take at once, in bytes.
pub(crate) const PASSWORDS: u64 = (basic::MOST_MEBIBYTES as u64) << 20;

impl Config {
    /// About what strangers can have it remember, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let is_once = |said: config::Sessions| said == config::Sessions::Once;
        let once = self.jwt.as_ref().is_some_and(|said| is_once(said.sessions))
            || self.basic.as_ref().is_some_and(|said| is_once(said.sessions))
            || self.forward_auth.as_ref().is_some_and(|said| is_once(said.sessions));
        let tokens = if self.jwt.is_some() { jwt::MEMORY } else { 0 };
        tokens + if once { sessions::MEMORY } else { 0 }
    }
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
    /// There are no keys yet that could tell.
    NoKeys,
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Missing => Self::NoCredentials,
            Unfit::Bad => Self::BadCredentials,
            Unfit::Expired => Self::ExpiredToken,
            Unfit::NoKeys => Self::NoKeys,
        }
    }
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
        let jwt = said.jwt.as_ref().map(|said| Jwt::build(said, |from| self.key_set(from))).transpose()?;
        let forward_auth = said.forward_auth.as_ref().map(ForwardAuth::build).transpose()?;
        let basic = said.basic.as_ref().map(Basic::build).transpose()?;
        let is_once = |said: config::Sessions| said == config::Sessions::Once;
        let once = Once {
            jwt: said.jwt.as_ref().is_some_and(|said| is_once(said.sessions)),
            basic: said.basic.as_ref().is_some_and(|said| is_once(said.sessions)),
            forward_auth: said.forward_auth.as_ref().is_some_and(|said| is_once(said.sessions)),
        };
        Ok(Arc::new(Access {
            networks: self.networks(said.allow.as_ref(), said.deny.as_ref())?,
            origins: said.origins.as_ref().map(Origins::new),
            cors: said.cors.as_ref().map(|cors| Cors::new(cors, said.origins.as_ref())),
            jwt,
            basic,
            forward_auth,
            sessions: (once.jwt || once.basic || once.forward_auth).then(Arc::default),
            once,
        }))
    }

    /// Keys that come over the network: those that have come already, where the same was said before.
    fn key_set(&self, said: &config::RemoteKeys) -> Result<Arc<KeySet>, BuildError> {
        let mut ca = DefaultHasher::new();
        said.ca.as_ref().map(|file| std::fs::read(file).ok()).hash(&mut ca);
        let ca = ca.finish();
        let mut known = self.built.iter().chain(&self.before).filter_map(|(_, _, access)| access.key_set());
        match known.find(|known| known.is_of(said, ca)) {
            Some(known) => Ok(Arc::clone(known)),
            None => KeySet::build(said, ca).map(Arc::new),
        }
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

    /// The keys that come over the network.
    pub(crate) fn key_set(&self) -> Option<&Arc<KeySet>> {
        self.jwt.as_ref()?.key_set()
    }

    /// The same as [`Self::identify`], where keys may have to be waited for.
    pub(crate) async fn identify_in_time(
        &self,
        request: &Request<'_>,
        session: Option<Key>,
        changes: &mut Changes,
    ) -> Result<Option<u64>, Refusal> {
        if let Some(jwt) = self.jwt.as_ref().filter(|_| !self.once.jwt || self.admitted(session).is_none()) {
            jwt.renew(request).await;
        }
        self.identify(request, session, changes)
    }

    /// Whether the request shows what is asked for; what that tells of the client goes to the server, and nobody else may
    /// say it. `session` is the one that the request names. Gives when sockets end that it opens, in seconds of Unix time, if
    /// they do.
    pub(crate) fn identify(
        &self,
        request: &Request<'_>,
        session: Option<Key>,
        changes: &mut Changes,
    ) -> Result<Option<u64>, Refusal> {
        let Some(jwt) = &self.jwt else { return Ok(None) };
        jwt.strip(changes);
        if let Some(until) = self.admitted(session).filter(|_| self.once.jwt) {
            return Ok(until);
        }
        jwt.check(request, changes).map_err(|unfit| {
            let challenge = match unfit {
                Unfit::Missing => Some("Bearer"),
                Unfit::Bad | Unfit::Expired => Some("Bearer error=\"invalid_token\""),
                Unfit::NoKeys => None,
            };
            if let Some(challenge) = challenge {
                changes.to_client.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            unfit.into()
        })
    }

    /// Whether the request shows a user and their password, where that is asked for: who it is. That goes to the server, and
    /// nobody else may say it.
    pub(crate) async fn log_in(
        &self,
        request: &Request<'_>,
        session: Option<Key>,
        changes: &mut Changes,
    ) -> Result<Option<Arc<str>>, Refusal> {
        let Some(basic) = &self.basic else { return Ok(None) };
        basic.strip(changes);
        if self.once.basic && self.admitted(session).is_some() {
            return Ok(None);
        }
        basic.check(request, changes).await.map(Some)
    }

    /// The service that has to be asked about a request of this session, if any; what only that may tell goes to no
    /// server from anybody else.
    pub(crate) fn service(&self, session: Option<Key>, changes: &mut Changes) -> Option<&ForwardAuth> {
        let service = self.forward_auth.as_ref()?;
        service.strip(changes);
        Some(service).filter(|_| !(self.once.forward_auth && self.admitted(session).is_some()))
    }

    /// Whether somebody may have to be waited for.
    pub(crate) fn waits(&self) -> bool {
        self.basic.is_some() || self.forward_auth.is_some() || self.key_set().is_some()
    }

    /// Whether the session came in with what is asked for, and until when that holds, if not for good.
    fn admitted(&self, session: Option<Key>) -> Option<Option<u64>> {
        self.sessions.as_ref().zip(session).and_then(|(admitted, session)| admitted.has(session))
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
