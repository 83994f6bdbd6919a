//! The keys of an issuer, from where it publishes them (RFC 7517): fetched at the start, again before they are too old, and
//! when a token names one that is not among them.
//!
//! What can't be fetched, or is no set of keys, changes nothing: the last good set stays in force.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::jwk::Jwk;
use log::{debug, warn};
use rand::Rng;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::jwt::is_for_signatures;
use super::{BuildError, config};
use crate::service::{Fault, Service};

/// The largest set.
const MOST_BODY: usize = 256 * 1024;
/// Longest time for an answer.
const LONGEST_FETCH: Duration = Duration::from_secs(10);
/// Longest time that a request waits for keys which are on their way.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The pause after a fetch that has failed, which doubles, and its end.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keys that are fetched for as long as somebody holds this.
pub(crate) struct KeySet {
    said: config::RemoteKeys,
    /// A hash of the file of authorities.
    ca: u64,
    shared: Arc<Shared>,
    task: OnceLock<AbortHandle>,
}

struct Shared {
    service: Service,
    said: config::RemoteKeys,
    current: ArcSwapOption<Keys>,
    /// How many fetches have ended, well or not.
    ended: watch::Sender<u64>,
    wanted: Notify,
    is_under_way: AtomicBool,
    /// When the last fetch began.
    begun: Mutex<Option<Instant>>,
}

/// The keys of one fetch.
pub(super) struct Keys {
    pub(super) all: Vec<Jwk>,
    /// Another one for each set that is not as the one before.
    pub(super) number: u64,
    hash: u64,
}

impl Drop for KeySet {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl KeySet {
    /// Fetches nothing before [`Self::start`].
    pub(super) fn build(said: &config::RemoteKeys, ca: u64) -> Result<Self, BuildError> {
        let service = Service::build(&said.url, said.ca.as_deref());
        let service = service.map_err(|fault| BuildError(format!("jwt.jwks: {fault}")))?;
        let shared = Arc::new(Shared {
            service,
            said: said.clone(),
            current: ArcSwapOption::empty(),
            ended: watch::Sender::default(),
            wanted: Notify::new(),
            is_under_way: AtomicBool::default(),
            begun: Mutex::default(),
        });
        Ok(Self { said: said.clone(), ca, shared, task: OnceLock::new() })
    }

    /// Whether it was built of the same.
    pub(super) fn is_of(&self, said: &config::RemoteKeys, ca: u64) -> bool {
        self.said == *said && self.ca == ca
    }

    /// Fetches from now on; needs a tokio runtime around it.
    pub(crate) fn start(&self) {
        self.task.get_or_init(|| tokio::spawn(Arc::clone(&self.shared).run()).abort_handle());
    }

    /// The keys, once there are any.
    pub(super) fn current(&self) -> Guard<Option<Arc<Keys>>> {
        self.shared.current.load()
    }

    /// Has the keys fetched again, unless that has just been done, and waits for it a while.
    pub(super) async fn renewed(&self) {
        let mut ended = self.shared.ended.subscribe();
        if !self.shared.is_under_way.load(Ordering::Acquire) {
            if !self.shared.may_begin() {
                return;
            }
            self.shared.wanted.notify_one();
        }
        let _ = timeout(LONGEST_WAIT, ended.changed()).await;
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        loop {
            self.is_under_way.store(true, Ordering::Release);
            *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            let fetched =
                timeout(LONGEST_FETCH, self.fetch()).await.unwrap_or_else(|_| Err("no answer in time".into()));
            self.is_under_way.store(false, Ordering::Release);
            self.ended.send_modify(|ended| *ended += 1);
            let next = match fetched {
                Ok(lasts) => {
                    pause = PAUSES.0;
                    lasts
                }
                Err(fault) => {
                    let kept =
                        if self.current.load().is_some() { "those of before go on" } else { "there are none yet" };
                    warn!("access: jwt.jwks: {}: {fault}; {kept}", self.service.url);
                    let this = pause.min(self.said.refresh);
                    pause = (pause * 2).min(PAUSES.1);
                    this
                }
            };
            // Not in step with other gateways.
            let next = next.mul_f64(rand::rng().random_range(0.8..=1.0));
            let _ = timeout(next, self.wanted.notified()).await;
            // Who asked before may ask again when it is time; until then nobody is waited for.
            let since = self.begun.lock().unwrap_or_else(PoisonError::into_inner).map(|begun| begun.elapsed());
            sleep(self.said.min_refresh.min(next).saturating_sub(since.unwrap_or_default())).await;
        }
    }

    /// Whether the last fetch is long enough ago.
    fn may_begin(&self) -> bool {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.is_none_or(|begun| begun.elapsed() >= self.said.min_refresh)
    }

    /// Fetches the keys, and says how long they are good.
    async fn fetch(&self) -> Result<Duration, Fault> {
        let accepts = HeaderValue::from_static("application/jwk-set+json, application/json");
        let fields = HeaderMap::from_iter([(header::ACCEPT, accepts)]);
        let (head, body) = self.service.get(fields, MOST_BODY).await?;
        if head.status != http::StatusCode::OK {
            return Err(format!("answered {}", head.status).into());
        }
        let body =
            body.map_err(|fault| format!("the body can't be read, or is larger than {MOST_BODY} bytes: {fault}"))?;
        let (all, others) = read(&body)?;
        if all.is_empty() {
            return Err("found no key for a signature, expected one".into());
        }
        if others > 0 {
            debug!("access: jwt.jwks: {}: {others} keys are for something else", self.service.url);
        }
        let hash = siphasher::sip::SipHasher13::new().hash(&body);
        let before = self.current.load();
        if before.as_ref().is_none_or(|before| before.hash != hash) {
            let number = before.as_ref().map_or(1, |before| before.number + 1);
            self.current.store(Some(Arc::new(Keys { all, number, hash })));
        }
        let lasts = max_age(&head.headers).unwrap_or(self.said.refresh);
        Ok(lasts.clamp(self.said.min_refresh.min(self.said.refresh), self.said.refresh))
    }
}

/// The keys of a set that are for signatures, and how many others there are: whose kind is not known is to be passed over
/// (RFC 7517 5).
pub(super) fn read(set: &[u8]) -> Result<(Vec<Jwk>, usize), String> {
    let wrong = |what: &str| format!("found no set of keys (RFC 7517), expected `{{ \"keys\": [...] }}`: {what}");
    let set: Value = serde_json::from_slice(set).map_err(|error| wrong(&error.to_string()))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or_else(|| wrong("there is no list `keys`"))?;
    let read = keys.iter().filter_map(|key| serde_json::from_value(key.clone()).ok());
    let read: Vec<Jwk> = read.filter(is_for_signatures).collect();
    let others = keys.len() - read.len();
    Ok((read, others))
}

/// How long an answer says that it is good (RFC 9111 4.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = said.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name {
            "no-cache" | "no-store" => Some(0),
            _ if name.eq_ignore_ascii_case("max-age") => value.trim_matches('"').parse().ok(),
            _ => None,
        }
    })?;
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    Some(Duration::from_secs(seconds).saturating_sub(Duration::from_secs(age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_long_its_keys_are_good() {
        let lasts = |fields: &[(&'static str, &'static str)]| {
            let fields = fields
                .iter()
                .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
            max_age(&HeaderMap::from_iter(fields)).map(|lasts| lasts.as_secs())
        };
        assert_eq!(lasts(&[]), None);
        assert_eq!(lasts(&[("cache-control", "public, max-age=300, must-revalidate")]), Some(300));
        assert_eq!(lasts(&[("cache-control", "Max-Age=\"60\""), ("age", "20")]), Some(40));
        assert_eq!(lasts(&[("cache-control", "max-age=60"), ("age", "90")]), Some(0));
        assert_eq!(lasts(&[("cache-control", "no-store")]), Some(0));
        assert_eq!(lasts(&[("cache-control", "max-age=soon")]), None);
    }

    #[test]
    fn keys_of_an_unknown_kind_are_passed_over() {
        let set = r#"{"keys":[{"kty":"new","x":"y"},{"kty":"oct","k":"c2VjcmV0","kid":"a"}]}"#;
        let (keys, others) = read(set.as_bytes()).unwrap();
        assert_eq!((keys.len(), keys[0].common.key_id.as_deref(), others), (1, Some("a"), 1));
        for wrong in ["", "{}", "[]", "{\"keys\": 1}", "<html>"] {
            assert!(read(wrong.as_bytes()).unwrap_err().contains("found no set of keys"), "{wrong}");
        }
    }
}
