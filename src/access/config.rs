//! What the operator says about who may ask, and from where.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::origins::Pattern;
use super::passwords::User;
use crate::http::config::exactly;
use crate::service::Url;

/// `access`, of a route or for all of them. A key that a route gives stands in place of the same key at the top level.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether what a route does not say is what the top level says; an error at the top level. Default true.
    pub inherit: bool,
    /// The only networks whose clients may ask. Default: all.
    pub allow: Option<Networks>,
    /// Networks whose clients may not, though `allow` has them. Default: none.
    pub deny: Option<Networks>,
    /// The only sites whose pages may ask. Default: all.
    pub origins: Option<Origins>,
    /// What pages of other sites may read. Default: what servers say.
    pub cors: Option<Cors>,
    /// The signed token that has to be shown. Default: none.
    pub jwt: Option<Jwt>,
    /// The users of whom one has to be named, with their password. Default: none.
    pub basic: Option<Basic>,
    /// The service that is asked whether a request may pass. Default: none.
    pub forward_auth: Option<ForwardAuth>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inherit: true,
            allow: None,
            deny: None,
            origins: None,
            cors: None,
            jwt: None,
            basic: None,
            forward_auth: None,
        }
    }
}

impl Config {
    /// What holds for a route that says this below a top level that says that.
    #[must_use]
    pub fn over(&self, top: Option<&Self>) -> Self {
        let this = self.clone();
        let Some(top) = top.filter(|_| self.inherit).cloned() else { return this };
        Self {
            inherit: self.inherit,
            allow: this.allow.or(top.allow),
            deny: this.deny.or(top.deny),
            origins: this.origins.or(top.origins),
            cors: this.cors.or(top.cors),
            jwt: this.jwt.or(top.jwt),
            basic: this.basic.or(top.basic),
            forward_auth: this.forward_auth.or(top.forward_auth),
        }
    }

    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let of_service = self.forward_auth.iter().flat_map(|service| &service.ca);
        let of_jwt = self.jwt.iter().flat_map(|jwt| jwt.jwks.iter().flat_map(KeySource::files).chain(&jwt.public_key));
        let of_users = self.basic.iter().flat_map(|basic| basic.users.files());
        self.allow.iter().chain(&self.deny).flat_map(Networks::files).chain(of_jwt).chain(of_users).chain(of_service)
    }

    /// Parameters of the query whose values are secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.jwt.iter().filter_map(|jwt| jwt.from.query.as_deref())
    }
}

/// `listeners[].access`: who may connect at all, whatever is spoken then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfListener {
    /// The only networks whose clients may connect. Default: all.
    pub allow: Option<Networks>,
    /// Networks whose clients may not, though `allow` has them. Default: none.
    pub deny: Option<Networks>,
}

impl OfListener {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.allow.iter().chain(&self.deny).flat_map(Networks::files)
    }
}

/// A list of networks, or one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Networks(pub Vec<NetworkItem>);

impl Networks {
    /// The files among them.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().filter_map(|item| match item {
            NetworkItem::File(file) => Some(file),
            NetworkItem::Network(_) => None,
        })
    }
}

/// `10.0.0.0/8`, `2001:db8::/32`, an address, or `{ file: FILE }` with one of these in each line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetworkItem {
    /// A network.
    Network(IpNet),
    /// A file of them; `#` begins a comment.
    File(PathBuf),
}

/// Reads a network, or an address, which is the network of itself.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Serialize for NetworkItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Network(network) => network.serialize(serializer),
            Self::File(file) => serializer.collect_map([("file", file)]),
        }
    }
}

impl<'de> Deserialize<'de> for NetworkItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = NetworkItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network such as 10.0.0.0/8, an address, or `file` with the path of a list")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NetworkItem, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
                network(text).map(NetworkItem::Network).ok_or_else(wrong)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NetworkItem, A::Error> {
                only_file(map).map(NetworkItem::File)
            }
        }
        deserializer.deserialize_any(Item)
    }
}

/// Reads a map whose only key is `file`.
fn only_file<'de, A: MapAccess<'de>>(map: A) -> Result<PathBuf, A::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Only {
        file: PathBuf,
    }
    Only::deserialize(MapAccessDeserializer::new(map)).map(|only| only.file)
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Networks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a network such as 10.0.0.0/8, an address, `file` with the path of a list, or a list of them",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Networks, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
                Ok(Networks(vec![network(text).map(NetworkItem::Network).ok_or_else(wrong)?]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Networks, A::Error> {
                Ok(Networks(vec![NetworkItem::File(only_file(map)?)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Networks, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Networks)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `access.origins`: a list is the short form of `{ allow: LIST }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Origins {
    /// The sites: `https://app.example.com`, `https://*.example.com` (one or more labels in front), with a port or `:*`,
    /// `same` (the one that is asked) or `null` (pages that have none, as those in sandboxes and files).
    pub allow: Vec<Pattern>,
    /// What becomes of requests without the field. Default `allow`.
    pub missing: Missing,
}

/// What becomes of a request that does not say whose page makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// It passes: programs don't send the field, nor do browsers with every request.
    #[default]
    Allow,
    /// It is refused where every browser would have sent one: with an upgrade, or a method other than GET and HEAD.
    Refuse,
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            allow: Vec<Pattern>,
            #[serde(default)]
            missing: Missing,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Origins;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an origin such as https://app.example.com, a list of them, or `allow` and `missing`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Origins, E> {
                let pattern = Pattern::from_str(text).map_err(E::custom)?;
                Ok(Origins { allow: vec![pattern], missing: Missing::default() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Origins, A::Error> {
                let allow = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(Origins { allow, missing: Missing::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Origins, A::Error> {
                let Long { allow, missing } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Origins { allow, missing })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `access.cors`: what pages of other sites may read; said by the gateway in place of its servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// The sites, as in `access.origins`; `*` is every one. Default: those that `access.origins` lets in.
    pub origins: Option<Sites>,
    /// The methods that pages may use. Default GET, HEAD, POST, PUT, PATCH and DELETE.
    pub methods: Vec<String>,
    /// The header fields that pages may send. Default: what they ask for.
    pub headers: Vec<String>,
    /// The fields of answers that pages may read, beside those that all may. Default: none.
    pub expose: Vec<String>,
    /// Whether pages may ask with the cookies that their user has here. Default false.
    pub credentials: bool,
    /// How long browsers keep the answer to a preflight. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: None,
            methods: ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).into(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }
}

/// A list of sites, or one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Sites(pub Vec<Pattern>);

impl<'de> Deserialize<'de> for Sites {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Sites;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an origin such as https://app.example.com, `*`, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sites, E> {
                Pattern::from_str(text).map(|pattern| Sites(vec![pattern])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Sites, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Sites)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `access.jwt`: a JSON Web Token (RFC 7519) that has to be shown; `jwks`, `secret` or `public_key` is needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// A set of keys (RFC 7517). Default: none.
    pub jwks: Option<KeySource>,
    /// A PEM file with one public key: RSA, ECDSA by P-256 or P-384, or Ed25519. Default: none.
    pub public_key: Option<PathBuf>,
    /// A secret that is shared with the issuer, for HS256, HS384 and HS512. Default: none.
    pub secret: Option<Secret>,
    /// The only algorithms. Default: all that the keys are for.
    pub algorithms: Vec<Algorithm>,
    /// Where the token stands, the first that a request has. Default: `{ header: Authorization }`.
    pub from: TokenFrom,
    /// Who may have issued it. Default: anybody who has the key.
    pub issuer: Texts,
    /// For whom it has to be. Default: anybody.
    pub audience: Texts,
    /// How far clocks may be apart. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// Claims that it has to have. Default: `exp`.
    pub required: Vec<String>,
    /// Fields towards servers, and the claims that they tell. Default: none.
    pub claims: BTreeMap<String, String>,
    /// Whether each request of a session has to bring it. Default `each`.
    pub sessions: Sessions,
    /// What becomes of sockets that are open when it expires. Default `keep`.
    pub expiry: Expiry,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            jwks: None,
            public_key: None,
            secret: None,
            algorithms: Vec::new(),
            from: TokenFrom::default(),
            issuer: Texts::default(),
            audience: Texts::default(),
            leeway: Duration::from_secs(30),
            required: vec!["exp".to_owned()],
            claims: BTreeMap::new(),
            sessions: Sessions::default(),
            expiry: Expiry::default(),
        }
    }
}

/// `access.jwt.jwks`: a file, the address of a set, or that in a map with more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// Where the issuer publishes them.
    Remote(RemoteKeys),
}

/// Keys that an issuer publishes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteKeys {
    /// Where they are: `https://login.example.com/.well-known/jwks.json`.
    pub url: Url,
    /// The longest time until they are fetched again; `Cache-Control` can make it shorter. Default 10 min.
    #[serde(default = "ten_minutes", with = "humantime_serde")]
    pub refresh: Duration,
    /// The shortest time between two fetches, whatever tokens name and `Cache-Control` says. Default 10 s.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub min_refresh: Duration,
    /// PEM certificates of the authorities that are trusted with https. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

impl KeySource {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        match self {
            Self::File(file) => Some(file),
            Self::Remote(remote) => remote.ca.as_ref(),
        }
        .into_iter()
    }
}

impl Serialize for KeySource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(file) => file.serialize(serializer),
            Self::Remote(remote) => remote.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = KeySource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "the path of a file, an address such as https://login.example.com/keys, or a map with `url`",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeySource, E> {
                let is_remote = ["http://", "https://"]
                    .iter()
                    .any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
                if !is_remote {
                    return Ok(KeySource::File(text.into()));
                }
                let url = Url::deserialize(de::value::StrDeserializer::<E>::new(text))?;
                let (refresh, min_refresh) = (ten_minutes(), ten_seconds());
                Ok(KeySource::Remote(RemoteKeys { url, refresh, min_refresh, ca: None }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeySource, A::Error> {
                RemoteKeys::deserialize(MapAccessDeserializer::new(map)).map(KeySource::Remote)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `access.jwt.from`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFrom {
    /// A header field: behind `Bearer`, which only `Authorization` has to have. Default: none, where another place is said.
    #[serde(default)]
    pub header: Option<String>,
    /// A cookie. Default: none.
    #[serde(default)]
    pub cookie: Option<String>,
    /// A parameter of the query, which logs do not tell. Default: none.
    #[serde(default)]
    pub query: Option<String>,
}

impl Default for TokenFrom {
    fn default() -> Self {
        Self { header: Some("Authorization".to_owned()), cookie: None, query: None }
    }
}

/// Which requests of a session have to show what is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sessions {
    /// Each of them.
    #[default]
    Each,
    /// The one that opens it: what names a session that came in so passes.
    Once,
}

/// What becomes of WebSockets and waiting polls when the token expires that they were let in by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// They stay.
    #[default]
    Keep,
    /// They are told goodbye.
    Close,
}

/// A text that logs don't show, of 32 bytes or more.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

/// As HS256 asks for (RFC 7518 3.2).
const SHORTEST_SECRET: usize = 32;

impl Secret {
    /// The bytes that are used as a key.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() {
            SHORTEST_SECRET.. => Ok(Self(text)),
            len => Err(de::Error::custom(format!(
                "found a secret of {len} bytes, expected {SHORTEST_SECRET} or more (RFC 7518 3.2)"
            ))),
        }
    }
}

/// A list of texts, or one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Texts(pub Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Texts, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Texts)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `access.basic`: a name and a password, as browsers ask for them (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// Who may come, and what their passwords hash to.
    pub users: Users,
    /// What clients are told they give their password for. Default `restricted`.
    #[serde(default = "restricted")]
    pub realm: String,
    /// The field that tells servers who asks; nobody else may say it. Default: none.
    #[serde(default)]
    pub user_header: Option<String>,
    /// Whether servers get the password, as the client has sent it. Default false.
    #[serde(default)]
    pub forward: bool,
    /// How long a password that was right is known again before it is computed anew; zero is never. Default 5 min.
    #[serde(default = "five_minutes", with = "humantime_serde")]
    pub remember: Duration,
    /// Which requests of a session have to show it. Default `each`.
    #[serde(default)]
    pub sessions: Sessions,
}

fn restricted() -> String {
    "restricted".to_owned()
}

fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

/// A list of users, or one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Users(pub Vec<UserItem>);

impl Users {
    /// The files among them.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().filter_map(|item| match item {
            UserItem::File(file) => Some(file),
            UserItem::User(_) => None,
        })
    }
}

/// `name:hash`, or `{ file: FILE }` with one in each line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UserItem {
    /// A user.
    User(User),
    /// A file of them, as `htpasswd` writes it; `#` begins a comment.
    File(PathBuf),
}

impl Serialize for UserItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::User(user) => serializer.collect_str(&user.text()),
            Self::File(file) => serializer.collect_map([("file", file)]),
        }
    }
}

impl<'de> Deserialize<'de> for UserItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = UserItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`name:hash`, or `file` with the path of a list")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<UserItem, E> {
                User::read(text).map(UserItem::User).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UserItem, A::Error> {
                only_file(map).map(UserItem::File)
            }
        }
        deserializer.deserialize_any(Item)
    }
}

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Users;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`file` with the path of a list, `name:hash`, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Users, E> {
                User::read(text).map(|user| Users(vec![UserItem::User(user)])).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Users, A::Error> {
                Ok(Users(vec![UserItem::File(only_file(map)?)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Users, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Users)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `access.forward_auth`: a service that is asked whether a request may pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuth {
    /// Where it is asked: `http://127.0.0.1:9000/verify`, or by https.
    pub url: Url,
    /// Fields of its answer that the server gets with the request; nobody else may say them. Default: none.
    #[serde(default)]
    pub to_server: Vec<String>,
    /// Fields of its answer that the client gets beside those of the server. Default: none.
    #[serde(default)]
    pub to_client: Vec<String>,
    /// Longest time for its answer. Default 5 s.
    #[serde(default = "five_seconds", with = "humantime_serde")]
    pub timeout: Duration,
    /// The largest body of an answer that a client gets. Default 64 KiB.
    #[serde(default = "default_body", serialize_with = "exactly")]
    pub body: ByteSize,
    /// PEM certificates of the authorities that are trusted with https. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Which requests of a session it is asked about. Default `each`.
    #[serde(default)]
    pub sessions: Sessions,
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn default_body() -> ByteSize {
    ByteSize::kib(64)
}
