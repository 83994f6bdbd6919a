//! JSON Web Tokens (RFC 7519): who a client is, as an issuer has signed it.
//!
//! What a token says of itself decides nothing: the key says which algorithms it is for, and a token is tried with the keys
//! that fit.

use std::fs;
use std::hash::Hasher;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Guard};
use http::{HeaderName, HeaderValue};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use log::warn;
use quick_cache::sync::Cache;
use rand::Rng;
use serde_json::{Map, Value};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::key_set::{self, KeySet};
use super::{BuildError, Unfit, config};
use crate::filter::Changes;
use crate::request::Request;

/// The longest token that is looked at; more than a head may have by default.
const LONGEST: usize = 16 * 1024;
/// The most keys that a token is tried with.
const MOST_TRIED: usize = 8;
/// Tokens that have been found good and are known again.
const KNOWN: usize = 8192;
/// What they take, with a few claims each.
pub(crate) const MEMORY: u64 = KNOWN as u64 * 512;

/// Asks for a token, and knows those that are good.
pub(crate) struct Jwt {
    keys: Vec<Key>,
    /// More of them, which come over the network.
    remote: Option<Remote>,
    /// With the field's name in lower case.
    from: config::TokenFrom,
    required: Vec<String>,
    /// Fields towards servers, and the claims that they tell.
    claims: Vec<(HeaderName, String)>,
    leeway: u64,
    /// Whether sockets end when their token does.
    ends_sockets: bool,
    /// What good tokens tell, by a hash whose key nobody else knows.
    known: Cache<u128, Arc<Told>>,
    hash_key: [u8; 16],
}

/// Keys that come over the network.
struct Remote {
    set: Arc<KeySet>,
    said: config::Jwt,
    made: ArcSwapOption<Made>,
}

/// What was made of the set of this number.
struct Made {
    number: u64,
    keys: Vec<Key>,
}

/// A key, and what is asked of tokens that it is tried with.
struct Key {
    id: Option<String>,
    key: DecodingKey,
    /// With the algorithms that the key is for.
    asks: Validation,
}

/// What a good token tells.
struct Told {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// When it is none any more, with the leeway, in seconds of Unix time.
    until: Option<u64>,
    /// The set of [`Remote`] keys that were there.
    number: u64,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt").field("keys", &self.keys.len()).field("from", &self.from).finish_non_exhaustive()
    }
}

impl Jwt {
    /// Reads the keys; `set` finds those that come over the network.
    pub(crate) fn build(
        said: &config::Jwt,
        set: impl FnOnce(&config::RemoteKeys) -> Result<Arc<KeySet>, BuildError>,
    ) -> Result<Self, BuildError> {
        let mut keys = Vec::new();
        let mut remote = None;
        match &said.jwks {
            Some(config::KeySource::File(file)) => keys.extend(of_file(file, said)?),
            Some(config::KeySource::Remote(from)) => {
                remote = Some(Remote { set: set(from)?, said: said.clone(), made: ArcSwapOption::empty() });
            }
            None => {}
        }
        if let Some(file) = &said.public_key {
            keys.push(public_key(file, said)?);
        }
        if let Some(secret) = &said.secret {
            let key =
                DecodingKey::from_secret(secret.bytes()).map_err(|fault| BuildError(format!("jwt.secret: {fault}")))?;
            keys.extend(Key::new(None, key, &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512], said));
        }
        if keys.is_empty() && remote.is_none() {
            return Err(BuildError("jwt: none of the keys is for a signature by `algorithms`".to_owned()));
        }
        let claims =
            said.claims.iter().filter_map(|(field, claim)| Some((HeaderName::try_from(field).ok()?, claim.clone())));
        let mut from = said.from.clone();
        from.header = from.header.map(|name| name.to_ascii_lowercase());
        Ok(Self {
            keys,
            remote,
            from,
            required: said.required.clone(),
            claims: claims.collect(),
            leeway: said.leeway.as_secs(),
            ends_sockets: said.expiry == config::Expiry::Close,
            known: Cache::new(KNOWN),
            hash_key: rand::rng().random(),
        })
    }

    /// Takes what only tokens may tell out of what goes to the server.
    pub(crate) fn strip(&self, changes: &mut Changes) {
        self.claims.iter().for_each(|(field, _)| changes.to_server.remove(field.clone()));
    }

    /// Whether the request brings a good token; what that tells goes to the server. Gives when sockets end that it opens, in
    /// seconds of Unix time, if they do.
    pub(crate) fn check(&self, request: &Request<'_>, changes: &mut Changes) -> Result<Option<u64>, Unfit> {
        let told = self.told(self.find(request)?)?;
        told.fields.iter().for_each(|(field, value)| changes.to_server.append(field.clone(), value.clone()));
        Ok(told.until.filter(|_| self.ends_sockets))
    }

    /// The keys that come over the network.
    pub(crate) fn key_set(&self) -> Option<&Arc<KeySet>> {
        self.remote.as_ref().map(|remote| &remote.set)
    }

    /// Has keys fetched where the request brings a token that names none of those that are there, and waits for them a while.
    pub(crate) async fn renew(&self, request: &Request<'_>) {
        let Some(remote) = &self.remote else { return };
        let lacking = {
            let made = remote.made();
            match (self.find(request), &*made) {
                (Ok(_), None) => true,
                (Ok(token), Some(made)) => {
                    let named = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
                    let is_there =
                        |id: &String| self.keys.iter().chain(&made.keys).any(|key| key.id.as_ref() == Some(id));
                    named.is_some_and(|id| !is_there(&id))
                }
                (Err(_), _) => false,
            }
        };
        if lacking {
            remote.set.renewed().await;
        }
    }

    /// The token of a request, from the first place that has one.
    fn find<'a>(&self, request: &Request<'a>) -> Result<&'a str, Unfit> {
        let config::TokenFrom { header, cookie, query } = &self.from;
        if let Some(name) = header {
            let mut values = request.headers.all(name);
            if let Some(value) = values.next() {
                // Servers differ in which of two they take.
                if values.next().is_some() {
                    return Err(Unfit::Bad);
                }
                let value = std::str::from_utf8(value).map_err(|_| Unfit::Bad)?.trim();
                match value.split_once(' ') {
                    Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => return Ok(token.trim()),
                    None if name != "authorization" => return Ok(value),
                    // Another scheme's.
                    _ => {}
                }
            }
        }
        let in_cookie = cookie.as_deref().and_then(|name| request.cookie(name));
        let in_query = || query.as_deref().and_then(|name| request.query_value(name));
        in_cookie.or_else(in_query).filter(|token| !token.is_empty()).ok_or(Unfit::Missing)
    }

    fn told(&self, token: &str) -> Result<Arc<Told>, Unfit> {
        if token.len() > LONGEST {
            return Err(Unfit::Bad);
        }
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(token.as_bytes());
        let hash = hasher.finish128().as_u128();
        let made = self.remote.as_ref().map(Remote::made);
        let made = made.as_ref().and_then(|made| made.as_deref());
        let number = made.map_or(0, |made| made.number);
        // A key that the issuer has taken back lets nobody in any more.
        let told = match self.known.get(&hash).filter(|told| told.number == number) {
            Some(told) => told,
            None => {
                let told = Arc::new(self.verify(token, made)?);
                self.known.insert(hash, Arc::clone(&told));
                told
            }
        };
        match told.until {
            Some(until) if until < now() => Err(Unfit::Expired),
            _ => Ok(told),
        }
    }

    fn verify(&self, token: &str, made: Option<&Made>) -> Result<Told, Unfit> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Unfit::Bad)?;
        // What it says has to be understood is not (RFC 7515 4.1.11).
        if header.crit.is_some() {
            return Err(Unfit::Bad);
        }
        let fits = |key: &&Key| {
            let named = header.kid.is_none() || key.id.is_none() || key.id == header.kid;
            named && key.asks.algorithms.contains(&header.alg)
        };
        let mut unfit = if self.remote.is_some() && made.is_none() { Unfit::NoKeys } else { Unfit::Bad };
        let (number, others) = made.map_or((0, &[][..]), |made| (made.number, &made.keys));
        for key in self.keys.iter().chain(others).filter(fits).take(MOST_TRIED) {
            match jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &key.asks) {
                Ok(good) => return self.read(&good.claims, number),
                Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => unfit = Unfit::Expired,
                Err(_) => {}
            }
        }
        Err(unfit)
    }

    fn read(&self, claims: &Map<String, Value>, number: u64) -> Result<Told, Unfit> {
        if !self.required.iter().all(|claim| find(claims, claim).is_some_and(|value| !value.is_null())) {
            return Err(Unfit::Bad);
        }
        let mut fields = Vec::with_capacity(self.claims.len());
        for (field, claim) in &self.claims {
            let Some(value) = find(claims, claim).filter(|value| !value.is_null()) else { continue };
            // What fits into no field is told to nobody in half.
            let value = HeaderValue::try_from(text(value)).map_err(|_| Unfit::Bad)?;
            fields.push((field.clone(), value));
        }
        let ends = claims.get("exp").and_then(Value::as_f64);
        Ok(Told { fields, until: ends.map(|ends| (ends as u64).saturating_add(self.leeway)), number })
    }
}

impl Remote {
    /// The keys that are there and for a signature by `algorithms`, with the number of their set; `None` before the first set.
    fn made(&self) -> Guard<Option<Arc<Made>>> {
        let made = self.made.load();
        let current = self.set.current();
        let Some(current) = current.as_ref() else { return made };
        let before = made.as_ref().map(|made| made.number);
        if before == Some(current.number) {
            return made;
        }
        let keys: Vec<Key> = current.all.iter().filter_map(|jwk| Key::of(jwk, &self.said)).collect();
        if keys.is_empty() {
            warn!("access: jwt.jwks: none of the keys that have come is for a signature by `algorithms`");
        }
        self.made.store(Some(Arc::new(Made { number: current.number, keys })));
        self.made.load()
    }
}

/// A claim, or one inside of another: `realm_access.roles`.
fn find<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| {
        let (outer, inner) = name.split_once('.')?;
        find(claims.get(outer)?.as_object()?, inner)
    })
}

/// A claim as a field tells it: several values with commas between them.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Key {
    /// `None` where nothing that the key is for is wanted.
    fn new(id: Option<String>, key: DecodingKey, is_for: &[Algorithm], said: &config::Jwt) -> Option<Self> {
        let wanted = |algorithm: &Algorithm| said.algorithms.is_empty() || said.algorithms.contains(algorithm);
        let algorithms: Vec<Algorithm> = is_for.iter().copied().filter(wanted).collect();
        let mut asks = Validation::new(*algorithms.first()?);
        asks.algorithms = algorithms;
        asks.leeway = said.leeway.as_secs();
        asks.validate_nbf = true;
        let mut required = said.required.clone();
        asks.validate_aud = !said.audience.0.is_empty();
        if asks.validate_aud {
            asks.set_audience(&said.audience.0);
            required.push("aud".to_owned());
        }
        if !said.issuer.0.is_empty() {
            asks.set_issuer(&said.issuer.0);
            required.push("iss".to_owned());
        }
        asks.set_required_spec_claims(&required);
        Some(Self { id, key, asks })
    }

    /// `None` for what is no key to check signatures with.
    fn of(jwk: &Jwk, said: &config::Jwt) -> Option<Self> {
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let verifies = common
            .key_operations
            .as_ref()
            .is_none_or(|all| all.contains(&KeyOperations::Verify) || all.contains(&KeyOperations::Sign));
        let family = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256][..],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms_of(),
            AlgorithmParameters::OctetKey(_) => AlgorithmFamily::Hmac.algorithms_of(),
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            _ => return None,
        };
        let only = common.key_algorithm.map(|only| only.to_string());
        let is_for: Vec<Algorithm> = family
            .iter()
            .copied()
            .filter(|algorithm| only.as_ref().is_none_or(|only| *only == format!("{algorithm:?}")))
            .collect();
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| signs && verifies)?;
        Self::new(common.key_id.clone(), key, &is_for, said)
    }
}

/// Whether a key is one to check signatures with.
pub(crate) fn is_for_signatures(jwk: &Jwk) -> bool {
    Key::of(jwk, &config::Jwt::default()).is_some()
}

/// The algorithms of a family, for as long as the program runs.
trait Algorithms {
    fn algorithms_of(self) -> &'static [Algorithm];
}

impl Algorithms for AlgorithmFamily {
    fn algorithms_of(self) -> &'static [Algorithm] {
        use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
        match self {
            Self::Hmac => &[HS256, HS384, HS512],
            Self::Rsa => &[RS256, RS384, RS512, PS256, PS384, PS512],
            Self::Ec => &[ES256, ES384],
            Self::Ed => &[EdDSA],
        }
    }
}

fn read(file: &Path, key: &str) -> Result<Vec<u8>, BuildError> {
    fs::read(file).map_err(|error| BuildError(format!("jwt.{key}: {} can't be read: {error}", file.display())))
}

/// The keys of a set (RFC 7517 5) that are for signatures.
fn of_file(file: &Path, said: &config::Jwt) -> Result<Vec<Key>, BuildError> {
    let bytes = read(file, "jwks")?;
    let fault = |what: String| BuildError(format!("jwt.jwks: {}: {what}", file.display()));
    let (all, mut others) = key_set::read(&bytes).map_err(fault)?;
    let keys: Vec<Key> = all.iter().filter_map(|jwk| Key::of(jwk, said)).collect();
    if keys.is_empty() {
        return Err(fault("found no key for a signature by `algorithms`, expected one".to_owned()));
    }
    others += all.len() - keys.len();
    if others > 0 {
        warn!("access: jwt.jwks: {}: {others} keys are for something else", file.display());
    }
    Ok(keys)
}

fn public_key(file: &Path, said: &config::Jwt) -> Result<Key, BuildError> {
    let pem = read(file, "public_key")?;
    let key = DecodingKey::from_rsa_pem(&pem)
        .or_else(|_| DecodingKey::from_ec_pem(&pem))
        .or_else(|_| DecodingKey::from_ed_pem(&pem));
    let fault = |what: &str| BuildError(format!("jwt.public_key: {}: {what}", file.display()));
    let key = key.map_err(|_| fault("found no public key, expected PEM of RSA, ECDSA or Ed25519"))?;
    let is_for = match (key.family(), key.try_get_as_bytes().map(<[u8]>::len)) {
        (AlgorithmFamily::Ec, Ok(65)) => &[Algorithm::ES256][..],
        (AlgorithmFamily::Ec, Ok(97)) => &[Algorithm::ES384],
        (AlgorithmFamily::Ec, _) => return Err(fault("found another curve, expected P-256 or P-384")),
        (family, _) => family.algorithms_of(),
    };
    Key::new(None, key, is_for, said).ok_or_else(|| fault("found a key for none of `algorithms`"))
}
