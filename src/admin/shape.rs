//! What the API says and takes, described: each type knows its JSON Schema (draft 2020-12, as OpenAPI 3.1 has it), so that
//! the description is made of the types themselves.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::reload::Plan;

/// A type of the API.
pub(super) trait Shape {
    /// Its schema; types with a name are kept in `all`, and referred to.
    fn shape(all: &mut Schemas) -> Value;
}

/// The types that have been described.
#[derive(Default)]
pub(super) struct Schemas(pub(super) Map<String, Value>);

/// A field of a described object: its name, what it means, and its schema.
pub(super) type Field = (&'static str, &'static str, Value);

impl Schemas {
    /// A reference to the type of this name, which is described when it is met first. All of its fields are there, unless
    /// they are a question's, which may leave each of them out.
    pub(super) fn named(
        &mut self,
        name: &str,
        about: &str,
        is_question: bool,
        fields: impl FnOnce(&mut Self) -> Vec<Field>,
    ) -> Value {
        if !self.0.contains_key(name) {
            // Types may hold others of their own kind.
            self.0.insert(name.to_owned(), Value::Null);
            let fields = fields(self);
            let required: Vec<&str> =
                if is_question { Vec::new() } else { fields.iter().map(|&(name, ..)| name).collect() };
            let properties: Map<String, Value> =
                fields.into_iter().map(|(name, about, shape)| (name.to_owned(), explained(shape, about))).collect();
            let schema = json!({
                "type": "object",
                "description": about.trim(),
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            });
            self.0.insert(name.to_owned(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

/// A schema with what it means.
fn explained(mut shape: Value, about: &str) -> Value {
    if let Value::Object(shape) = &mut shape {
        shape.insert("description".to_owned(), about.trim().into());
    }
    shape
}

/// Declares types that are told, with the descriptions of their schemas in the comments.
macro_rules! told {
    ($($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $help:literal])+ $field:ident: $type:ty,)* })*) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Serialize)]
        pub(super) struct $name {
            $($(#[doc = $help])+ pub(super) $field: $type,)*
        }

        impl $crate::admin::shape::Shape for $name {
            fn shape(all: &mut $crate::admin::shape::Schemas) -> serde_json::Value {
                all.named(stringify!($name), concat!($($about),+), false, |all| vec![
                    $((stringify!($field), concat!($($help),+), <$type as $crate::admin::shape::Shape>::shape(all)),)*
                ])
            }
        }
    )*};
}

/// The same for types that are taken, of which everything may be left out.
macro_rules! taken {
    ($($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $help:literal])+ $field:ident: $type:ty,)* })*) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[doc = $help])+ pub(super) $field: Option<$type>,)*
        }

        impl $crate::admin::shape::Shape for $name {
            fn shape(all: &mut $crate::admin::shape::Schemas) -> serde_json::Value {
                all.named(stringify!($name), concat!($($about),+), true, |all| vec![
                    $((
                        stringify!($field),
                        concat!($($help),+),
                        <Option<$type> as $crate::admin::shape::Shape>::shape(all),
                    ),)*
                ])
            }
        }
    )*};
}

pub(super) use {taken, told};

macro_rules! plain {
    ($($type:ty: $word:literal),*) => {$(
        impl Shape for $type {
            fn shape(_: &mut Schemas) -> Value {
                json!({ "type": $word })
            }
        }
    )*};
}

plain!(
    String: "string", &'static str: "string", bool: "boolean", f64: "number",
    u16: "integer", u32: "integer", u64: "integer", usize: "integer", i64: "integer"
);

impl<T: Shape> Shape for Option<T> {
    fn shape(all: &mut Schemas) -> Value {
        json!({ "anyOf": [T::shape(all), { "type": "null" }] })
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn shape(all: &mut Schemas) -> Value {
        json!({ "type": "array", "items": T::shape(all) })
    }
}

impl<K, T: Shape> Shape for BTreeMap<K, T> {
    fn shape(all: &mut Schemas) -> Value {
        json!({ "type": "object", "additionalProperties": T::shape(all) })
    }
}

/// A time of day, as RFC 3339 writes it, in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) SystemTime);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}

impl Shape for Moment {
    fn shape(_: &mut Schemas) -> Value {
        json!({ "type": "string", "format": "date-time" })
    }
}

/// A time that is known to the second, such as the end of a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Second(pub(super) SystemTime);

impl Serialize for Second {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(self.0))
    }
}

impl Shape for Second {
    fn shape(schemas: &mut Schemas) -> Value {
        Moment::shape(schemas)
    }
}

/// An object that is described elsewhere.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Elsewhere(pub(super) Value);

impl Shape for Elsewhere {
    fn shape(_: &mut Schemas) -> Value {
        json!({ "type": "object" })
    }
}

impl Shape for Plan {
    fn shape(all: &mut Schemas) -> Value {
        let list_of_texts = json!({ "type": "array", "items": { "type": "string" } });
        let count = json!({ "type": "integer" });
        let about = "Numbers of those that stay, and of those that have no place any more.";
        let fates = all.named("Fates", about, false, |_| {
            vec![
                ("kept", "They are not touched.", count.clone()),
                ("drained", "They are told goodbye at a pace.", count.clone()),
                ("closed", "They are told goodbye at once.", count),
            ]
        });
        let change = json!({
            "type": "object",
            "description": "One thing that is different.",
            "properties": {
                "subject": { "type": "string", "description": "`listener`, `route`, `upstream` or `setting`." },
                "name": { "type": "string" },
                "verb": { "type": "string", "description": "`added`, `removed` or `changed`." },
                "what": list_of_texts,
                "sockets": { "type": "integer", "description": "Tunnels and pending polls that lose their place by this." },
                "sessions": { "type": "integer", "description": "Sessions that do." },
            },
            "required": ["subject", "name", "verb", "sockets", "sessions"],
            "additionalProperties": false,
        });
        all.0.entry("Plan").or_insert_with(|| {
            json!({
                "type": "object",
                "description": "What a reload would do, or has done.",
                "properties": {
                    "changes": { "type": "array", "items": change },
                    "sockets": fates,
                    "sessions": fates,
                    "at_next_start": list_of_texts,
                    "warnings": list_of_texts,
                },
                "required": ["changes", "sockets", "sessions", "at_next_start"],
                "additionalProperties": false,
            })
        });
        json!({ "$ref": "#/components/schemas/Plan" })
    }
}
