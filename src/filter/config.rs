//! What the operator says about header fields of requests and answers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::http::config::{OneOrMany, TEXT_OR_MORE};

/// `request_headers` and `response_headers`: first `remove`, then `set`, then `add`. Values may hold variables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderRules {
    /// Fields in place of all that have their name. A value that comes out empty leaves the field out.
    pub set: BTreeMap<String, FieldValue>,
    /// Fields beside those that have their name.
    pub add: BTreeMap<String, FieldValues>,
    /// Names of fields that do not pass.
    pub remove: OneOrMany,
}

impl HeaderRules {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.0.is_empty()
    }
}

/// What a header field says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FieldValue {
    /// A text, which may hold variables.
    Text(String),
    /// What an expression in CEL gives for the request.
    Cel(String),
}

/// One value of a field, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldValues(pub Vec<FieldValue>);

/// `{ cel: … }`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Computed {
    cel: String,
}

impl Serialize for FieldValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Cel(text) => serializer.collect_map([("cel", text)]),
        }
    }
}

impl Serialize for FieldValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FieldValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an expression such as `{ cel: 'request.method' }`")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<FieldValue, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FieldValue, E> {
                Ok(FieldValue::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldValue, A::Error> {
                Computed::deserialize(MapAccessDeserializer::new(map)).map(|Computed { cel }| FieldValue::Cel(cel))
            }
        }
        deserializer.deserialize_newtype_struct(TEXT_OR_MORE, Either)
    }
}

impl<'de> Deserialize<'de> for FieldValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FieldValues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, an expression such as `{ cel: 'request.method' }`, or a list of these")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<FieldValues, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FieldValues, E> {
                Ok(FieldValues(vec![FieldValue::Text(text.to_owned())]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldValues, A::Error> {
                let Computed { cel } = Computed::deserialize(MapAccessDeserializer::new(map))?;
                Ok(FieldValues(vec![FieldValue::Cel(cel)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<FieldValues, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(FieldValues)
            }
        }
        deserializer.deserialize_newtype_struct(TEXT_OR_MORE, Either)
    }
}

/// `routes[].files`: files of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The folder.
    pub root: PathBuf,
    /// The file that stands for a folder. Default `index.html`.
    #[serde(default = "index")]
    pub index: String,
    /// The file in place of those that are not there, but for names with a dot: an app in the browser knows which page it
    /// is. Default: none.
    #[serde(default)]
    pub fallback: Option<String>,
}

fn index() -> String {
    "index.html".to_owned()
}
