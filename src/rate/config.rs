//! What the operator says about rates.

use std::fmt;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::request::is_token;

/// One entry of `rate`: so many requests in a time, by what clients are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How many, 1 or more.
    pub requests: u32,
    /// In what time. Default 1 s.
    #[serde(default = "second", with = "humantime_serde")]
    pub per: Duration,
    /// How many may come at once after a time in which none came. Default: as many as `requests`.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Who has a bucket of their own. Default `client`.
    #[serde(default)]
    pub by: By,
}

fn second() -> Duration {
    Duration::from_secs(1)
}

/// By what clients are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum By {
    /// By their address; for IPv6 by its /64.
    #[default]
    Client,
    /// Not at all: all share one bucket.
    Route,
    /// By the first field of this name, in lower case; who has none by the address.
    Header(Box<str>),
    /// By the first cookie of this name; who has none by the address.
    Cookie(Box<str>),
}

impl By {
    /// Cells for each row of buckets: of ten thousand clients who all ask at once one in fifty shares both of its own.
    pub(super) fn buckets(&self) -> usize {
        if *self == Self::Route { 1 } else { 1 << 16 }
    }
}

impl Config {
    /// Bytes that it takes, whoever comes.
    pub fn memory(&self) -> u64 {
        2 * 8 * self.by.buckets() as u64
    }
}

/// One rate, or a list of them, all of which have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Rates(pub Vec<Config>);

impl Serialize for By {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Client => serializer.serialize_str("client"),
            Self::Route => serializer.serialize_str("route"),
            Self::Header(name) => serializer.collect_map([("header", name)]),
            Self::Cookie(name) => serializer.collect_map([("cookie", name)]),
        }
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct What;
        impl<'de> Visitor<'de> for What {
            type Value = By;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`client`, `route`, or a map with one of the keys `header` and `cookie`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<By, E> {
                match text {
                    "client" => Ok(By::Client),
                    "route" => Ok(By::Route),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<By, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct One {
                    #[serde(default)]
                    header: Option<String>,
                    #[serde(default)]
                    cookie: Option<String>,
                }
                let (by, name) = match One::deserialize(MapAccessDeserializer::new(map))? {
                    One { header: Some(name), cookie: None } => (By::Header(name.to_ascii_lowercase().into()), name),
                    One { header: None, cookie: Some(name) } => (By::Cookie(name.as_str().into()), name),
                    _ => return Err(de::Error::custom("expected one of the keys `header` and `cookie`")),
                };
                if is_token(&name) {
                    Ok(by)
                } else {
                    Err(de::Error::custom(format!("`{name}` can't be the name of one")))
                }
            }
        }
        deserializer.deserialize_any(What)
    }
}

impl<'de> Deserialize<'de> for Rates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Rates;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as `{ requests: 20, per: 1s }`, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rates, A::Error> {
                Config::deserialize(MapAccessDeserializer::new(map)).map(|one| Rates(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Rates, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Rates)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
