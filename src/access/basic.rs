//! Users and passwords (RFC 7617): who a client is, as it says with every request.
//!
//! A password is hashed so that it takes long, for whoever guesses. So it is computed beside the traffic, by few at once, and
//! what was found right is known again for a while, by a hash whose key nobody else knows.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::passwords::{self, User};
use super::{BuildError, Unfit, config};
use crate::filter::Changes;
use crate::http::Refusal;
use crate::rate;
use crate::request::Request;

/// The longest name and password that are looked at, in bytes.
const LONGEST: usize = 1024;
/// Passwords that wait or are computed, in all and of one client; one more is refused.
const MOST_WAITING: (usize, usize) = (256, 16);
/// Longest wait until one is computed.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What all that are computed at once may take, in MiB.
pub(crate) const MOST_MEBIBYTES: u32 = 128;

/// Asks for a name and a password, and knows those that are right.
pub(crate) struct Basic {
    users: Arc<Users>,
    challenge: HeaderValue,
    /// The field that tells servers who asks.
    tells: Option<HeaderName>,
    /// Whether servers get what the client has shown.
    forwards: bool,
    remember: Duration,
    key: hmac::Key,
}

/// Everybody who may come.
struct Users {
    known: HashMap<Arc<str>, usize>,
    all: Vec<Entry>,
    /// Chooses whose hash is computed for a name that nobody has.
    decoys: RandomState,
}

struct Entry {
    user: User,
    name: Arc<str>,
    /// The password that was right, until it has to be computed again.
    right: ArcSwapOption<Right>,
}

struct Right {
    /// A hash of it, by [`Basic::key`].
    password: hmac::Tag,
    until: Instant,
}

/// What a client shows.
struct Shown {
    /// `name:password`.
    text: Vec<u8>,
    colon: usize,
}

/// What the passwords of all routes share: who computes, and who waits for it.
struct Turns {
    cores: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    by_client: Arc<rate::Open>,
}

static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let by_client = Arc::<rate::Open>::default();
    by_client.set(MOST_WAITING.1);
    Turns {
        // Half of the cores go on with the traffic.
        cores: Arc::new(Semaphore::new(available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 8)))),
        memory: Arc::new(Semaphore::new(MOST_MEBIBYTES as usize)),
        waiting: Arc::new(Semaphore::new(MOST_WAITING.0)),
        by_client,
    }
});

/// A place among those who compute, given back when that is done, whoever still waits for it.
struct Turn {
    _permits: [OwnedSemaphorePermit; 3],
    _place: Option<rate::Place>,
}

impl std::fmt::Debug for Basic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Basic").field("users", &self.users.all.len()).finish_non_exhaustive()
    }
}

impl Basic {
    /// Reads the users.
    pub(super) fn build(said: &config::Basic) -> Result<Self, BuildError> {
        let mut all = Vec::new();
        for item in &said.users.0 {
            match item {
                config::UserItem::User(user) => all.push(user.clone()),
                config::UserItem::File(file) => all.extend(read(file)?),
            }
        }
        let fault = |what: String| BuildError(format!("basic: {what}"));
        let mut users = Users { known: HashMap::new(), all: Vec::with_capacity(all.len()), decoys: RandomState::new() };
        for (place, user) in all.into_iter().enumerate() {
            let name: Arc<str> = Arc::from(&*user.name);
            if users.known.insert(Arc::clone(&name), place).is_some() {
                return Err(fault(format!("users: `{name}` is there twice")));
            }
            users.all.push(Entry { user, name, right: ArcSwapOption::empty() });
        }
        if users.all.is_empty() {
            return Err(fault("users: found nobody, expected one user or more".to_owned()));
        }
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", said.realm);
        Ok(Self {
            users: Arc::new(users),
            challenge: HeaderValue::try_from(challenge).map_err(|error| fault(format!("realm: {error}")))?,
            tells: said.user_header.as_ref().and_then(|name| HeaderName::try_from(name).ok()),
            forwards: said.forward,
            remember: said.remember,
            key: hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new())
                .map_err(|_| fault("there are no random bytes".to_owned()))?,
        })
    }

    /// Takes what only this may tell out of what goes to the server.
    pub(super) fn strip(&self, changes: &mut Changes) {
        if let Some(name) = &self.tells {
            changes.to_server.remove(name.clone());
        }
        if !self.forwards {
            changes.to_server.remove(AUTHORIZATION);
        }
    }

    /// Whether the request shows a user and their password; who it is goes to the server.
    pub(super) async fn check(&self, request: &Request<'_>, changes: &mut Changes) -> Result<Arc<str>, Refusal> {
        let found = match Shown::by(request) {
            Ok(shown) => self.verify(shown, request.client).await,
            Err(unfit) => Err(unfit.into()),
        };
        match &found {
            Ok(name) => {
                if let Some((field, value)) = self.tells.clone().zip(HeaderValue::from_bytes(name.as_bytes()).ok()) {
                    changes.to_server.append(field, value);
                }
            }
            Err(Refusal::NoCredentials | Refusal::BadCredentials) => {
                changes.to_client.append(WWW_AUTHENTICATE, self.challenge.clone());
            }
            Err(_) => {}
        }
        found
    }

    async fn verify(&self, shown: Shown, client: IpAddr) -> Result<Arc<str>, Refusal> {
        let tag = hmac::sign(&self.key, shown.password());
        let place = self.users.place(shown.name());
        if let Some(entry) = place.ok().map(|place| &self.users.all[place]).filter(|entry| entry.knows(&tag)) {
            return Ok(Arc::clone(&entry.name));
        }
        let (Ok(at) | Err(at)) = place;
        let turn = Turn::wait(self.users.all[at].user.mebibytes(), client).await?;
        // Whoever came before with the same has spared this one the work.
        if place.is_ok() && self.users.all[at].knows(&tag) {
            return Ok(Arc::clone(&self.users.all[at].name));
        }
        let users = Arc::clone(&self.users);
        let right = spawn_blocking(move || {
            let _turn = turn;
            users.all[at].user.verify(shown.password())
        });
        if !right.await.unwrap_or(false) || place.is_err() {
            return Err(Refusal::BadCredentials);
        }
        let entry = &self.users.all[at];
        if !self.remember.is_zero() {
            entry.right.store(Some(Arc::new(Right { password: tag, until: Instant::now() + self.remember })));
        }
        Ok(Arc::clone(&entry.name))
    }
}

impl Users {
    /// Where a user is; of a name that nobody has, whose password is computed in its place: always the same one, and
    /// chosen so that it takes as long as it does for a name that is there.
    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        let known = std::str::from_utf8(name).ok().and_then(|name| self.known.get(name));
        known.copied().ok_or_else(|| (self.decoys.hash_one(name) % self.all.len() as u64) as usize)
    }
}

impl Entry {
    fn knows(&self, shown: &hmac::Tag) -> bool {
        self.right.load().as_ref().is_some_and(|right| {
            right.until > Instant::now() && verify_slices_are_equal(right.password.as_ref(), shown.as_ref()).is_ok()
        })
    }
}

impl Shown {
    fn by(request: &Request<'_>) -> Result<Self, Unfit> {
        let mut values = request.headers.all("authorization");
        let value = values.next().ok_or(Unfit::Missing)?;
        // Servers differ in which of two they take.
        if values.next().is_some() || value.len() > LONGEST * 4 / 3 + 16 {
            return Err(Unfit::Bad);
        }
        let space = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
        let (scheme, encoded) = value.split_at(space);
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return Err(Unfit::Missing);
        }
        let text = STANDARD.decode(encoded.trim_ascii()).map_err(|_| Unfit::Bad)?;
        let colon = text.iter().position(|&byte| byte == b':').ok_or(Unfit::Bad)?;
        if text.len() > LONGEST { Err(Unfit::Bad) } else { Ok(Self { text, colon }) }
    }

    fn name(&self) -> &[u8] {
        &self.text[..self.colon]
    }

    fn password(&self) -> &[u8] {
        &self.text[self.colon + 1..]
    }
}

impl Turn {
    /// Waits until one more may compute that takes so much memory.
    async fn wait(mebibytes: u32, client: IpAddr) -> Result<Self, Refusal> {
        let turns = &*TURNS;
        // One client alone can't hold up the others.
        let place = turns.by_client.enter(client).map_err(|_| Refusal::OpenRequests)?;
        let waiting = Arc::clone(&turns.waiting).try_acquire_owned().map_err(|_| Refusal::AuthTimeout)?;
        let memory = mebibytes.min(MOST_MEBIBYTES);
        let acquire = async {
            let memory = Arc::clone(&turns.memory).acquire_many_owned(memory).await?;
            Ok::<_, tokio::sync::AcquireError>([Arc::clone(&turns.cores).acquire_owned().await?, memory])
        };
        match timeout(LONGEST_WAIT, acquire).await {
            Ok(Ok([core, memory])) => Ok(Self { _permits: [core, memory, waiting], _place: place }),
            _ => Err(Refusal::AuthTimeout),
        }
    }
}

fn read(file: &Path) -> Result<Vec<User>, BuildError> {
    let fault = |what: String| BuildError(format!("basic.users: {}{what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| fault(format!(" can't be read: {error}")))?;
    passwords::read(&text).map_err(|(line, what)| fault(format!(":{line}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::request;

    fn basic(remember: Duration) -> Basic {
        // `openssl passwd -5 -salt abcdefgh secret`, and of `other`.
        let users = [
            "ann:$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.",
            "bob:$5$abcdefgh$o1CPV/uE5/jFb0osq1X33mgj5o/gMq.KE0liwLIpT1.",
        ];
        let users = users.map(|line| config::UserItem::User(User::read(line).unwrap()));
        let said = config::Basic {
            users: config::Users(users.into()),
            realm: "a".to_owned(),
            user_header: None,
            forward: false,
            remember,
            sessions: config::Sessions::Each,
        };
        Basic::build(&said).unwrap()
    }

    async fn ask(basic: &Basic, name: &str, password: &str) -> Result<String, Refusal> {
        let shown = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        let fields = [httparse::Header { name: "Authorization", value: shown.as_bytes() }];
        let found = basic.check(&request("GET", "/", &fields), &mut Changes::default()).await;
        found.map(|name| name.to_string())
    }

    #[tokio::test]
    async fn what_was_right_is_known_again_for_a_while_and_nothing_else_is() {
        let basic = basic(Duration::from_secs(600));
        let known = |place: usize| basic.users.all[place].right.load_full();
        assert_eq!(ask(&basic, "ann", "wrong").await, Err(Refusal::BadCredentials));
        assert!(known(0).is_none());
        assert_eq!(ask(&basic, "ann", "secret").await.as_deref(), Ok("ann"));
        let first = known(0).unwrap();
        assert_eq!(ask(&basic, "ann", "secret").await.as_deref(), Ok("ann"));
        assert!(Arc::ptr_eq(&first, &known(0).unwrap()), "not computed again");
        assert_eq!(ask(&basic, "ann", "other").await, Err(Refusal::BadCredentials));
        assert_eq!(ask(&basic, "bob", "secret").await, Err(Refusal::BadCredentials), "another's password");
        assert_eq!(ask(&basic, "bob", "other").await.as_deref(), Ok("bob"));
        let over = Right { password: first.password, until: Instant::now() };
        basic.users.all[0].right.store(Some(Arc::new(over)));
        assert_eq!(ask(&basic, "ann", "secret").await.as_deref(), Ok("ann"));
        assert!(known(0).unwrap().until > Instant::now(), "computed again");
        let forgets = self::basic(Duration::ZERO);
        assert_eq!(ask(&forgets, "ann", "secret").await.as_deref(), Ok("ann"));
        assert!(forgets.users.all[0].right.load().is_none());
    }

    #[tokio::test]
    async fn a_name_that_nobody_has_costs_what_one_that_is_there_costs() {
        let basic = basic(Duration::from_secs(600));
        let decoys: Vec<_> = (0..64).map(|n| basic.users.place(format!("u{n}").as_bytes()).unwrap_err()).collect();
        assert!(decoys.contains(&0) && decoys.contains(&1), "whoever's hash it is, {decoys:?}");
        assert_eq!(basic.users.place(b"u7"), basic.users.place(b"u7"), "and always the same one's");
        // The password of whoever stands in is no way in.
        for name in 0..8 {
            for password in ["secret", "other"] {
                assert_eq!(ask(&basic, &format!("u{name}"), password).await, Err(Refusal::BadCredentials));
            }
        }
        assert!(basic.users.all.iter().all(|entry| entry.right.load().is_none()));
    }

    #[test]
    fn what_is_shown_is_read_as_the_rfc_has_it() {
        let by = |values: &[&str]| {
            let fields: Vec<_> = values
                .iter()
                .map(|value| httparse::Header { name: "authorization", value: value.as_bytes() })
                .collect();
            let shown = Shown::by(&request("GET", "/", &fields))?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            Ok((text(shown.name()), text(shown.password())))
        };
        let pair = |name: &str, password: &str| Ok((name.to_owned(), password.to_owned()));
        assert_eq!(by(&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), pair("Aladdin", "open sesame"));
        assert_eq!(by(&["basic  dGVzdDoxMjPCow=="]), pair("test", "123\u{a3}"));
        assert_eq!(by(&[&format!("Basic {}", STANDARD.encode("a:b:c"))]), pair("a", "b:c"));
        assert_eq!(by(&[]), Err(Unfit::Missing));
        assert_eq!(by(&["Bearer abc"]), Err(Unfit::Missing));
        for bad in ["Basic", "Basic !", "Basic YWI=", "Basic YTpi\u{e9}"] {
            assert_eq!(by(&[bad]), Err(Unfit::Bad), "{bad}");
        }
        assert_eq!(by(&["Basic YTpi", "Basic YTpi"]), Err(Unfit::Bad));
        let long = |len: usize| format!("Basic {}", STANDARD.encode(format!("a:{}", "b".repeat(len - 2))));
        assert!(by(&[&long(LONGEST)]).is_ok() && by(&[&long(LONGEST + 1)]).is_err() && by(&[&long(9000)]).is_err());
    }
}
