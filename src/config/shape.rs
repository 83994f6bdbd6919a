//! From the tree to the types: every fault that serde finds, not only the first one.
//!
//! Serde stops at the first fault. So the faulty value is set aside, its default stands in, and the tree is read again,
//! until nothing is left to find. The types themselves stay plain `Deserialize`.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor, value::StrDeserializer,
};
use serde::forward_to_deserialize_any;

use super::document::{Entry, Kind, Node, Position, Scalar, Value};
use super::fault::nearest;
use crate::http::config::TEXT_OR_MORE;

/// One fault of shape: where it is, and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) at: Position,
    pub(crate) path: String,
    pub(crate) what: String,
}

/// More than this many faults help nobody, and each costs one more reading.
const MOST_MISFITS: usize = 100;
const MOST_READINGS: usize = 4 * MOST_MISFITS;

/// Reads a `T` out of the tree, cutting what does not fit. There is no `T` where too much had to go.
pub(crate) fn fit<T: DeserializeOwned>(root: &mut Node) -> (Option<T>, Vec<Misfit>) {
    let mut misfits = Vec::new();
    for _ in 0..MOST_READINGS {
        let mut error = match T::deserialize(&*root) {
            Ok(value) => return (Some(value), misfits),
            Err(error) => error,
        };
        error.steps.reverse();
        misfits.extend(error.misfit(root));
        if misfits.len() >= MOST_MISFITS || !error.cut(root) {
            break;
        }
    }
    (None, misfits)
}

/// What serde found, with the way there from the root: the places of entries in their maps and of items in their lists.
#[derive(Debug)]
pub(crate) struct Error {
    pub(super) steps: Vec<usize>,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The value is not what its type takes.
    Expected(String),
    /// The value says nothing that its type understands; the sentence stands for itself.
    Sentence(String),
    UnknownKey(&'static [&'static str]),
    RepeatedKey(Position),
    MissingKey(&'static str),
}

impl Error {
    fn new(what: What) -> Self {
        Self { steps: Vec::new(), what }
    }

    fn below(mut self, step: usize) -> Self {
        self.steps.push(step);
        self
    }

    /// What to tell the operator: nothing, where it only follows from what was cut before.
    fn misfit(&self, root: &Node) -> Option<Misfit> {
        let (path, node, entry) = walk(root, &self.steps);
        let misfit = |at, what| Some(Misfit { at, path: path.clone(), what });
        match (&self.what, entry) {
            (What::UnknownKey(known), Some(entry)) => misfit(entry.at, unknown_key(&entry.key, known)),
            (What::RepeatedKey(first), Some(entry)) => misfit(entry.at, written_twice(*first)),
            (What::MissingKey(key), _) if attempted(node, key) => None,
            (What::MissingKey(key), _) => misfit(node.at, format!("expected the key `{key}`, which is missing")),
            (What::Expected(_) | What::Sentence(_), _) if matches!(node.value, Value::Hole) => None,
            (What::Expected(expected), _) => misfit(node.at, format!("found {}, expected {expected}", found(node))),
            (What::Sentence(sentence), _) => misfit(node.at, sentence.clone()),
            (What::UnknownKey(_) | What::RepeatedKey(_), None) => None,
        }
    }

    /// Sets aside what is faulty; false where the whole document is.
    fn cut(&self, root: &mut Node) -> bool {
        let Some(node) = descend(root, &self.steps) else {
            return false;
        };
        if let What::MissingKey(key) = self.what
            && let Value::Map(entries) = &mut node.value
        {
            let (key, at) = (key.to_owned(), node.at);
            let (node, first) = (Node::new(at, Value::Hole), None);
            entries.push(Entry { key, at, node, first });
            return true;
        }
        // A hole that does not fit takes the map around it along.
        let hole = matches!(node.value, Value::Hole);
        let faulty = &self.steps[..self.steps.len() - usize::from(hole && !self.steps.is_empty())];
        if let Some(node) = descend(root, faulty) {
            node.cut = true;
        }
        !faulty.is_empty()
    }
}

fn descend<'a>(root: &'a mut Node, steps: &[usize]) -> Option<&'a mut Node> {
    steps.iter().try_fold(root, |node, &step| match &mut node.value {
        Value::List(items) => items.get_mut(step),
        Value::Map(entries) => entries.get_mut(step).map(|entry| &mut entry.node),
        _ => None,
    })
}

/// The path of a value as people write it, the value, and its entry where it has a key.
fn walk<'a>(root: &'a Node, steps: &[usize]) -> (String, &'a Node, Option<&'a Entry>) {
    let mut path = String::new();
    let (mut node, mut entry) = (root, None);
    for &step in steps {
        match &node.value {
            Value::List(items) => {
                path.push_str(&index_in_file(items, step));
                (node, entry) = (&items[step], None);
            }
            Value::Map(entries) => {
                push_key(&mut path, &entries[step].key);
                (node, entry) = (&entries[step].node, Some(&entries[step]));
            }
            _ => {}
        }
    }
    (path, node, entry)
}

/// Adds a key to a path, in quotes where it holds more than letters, digits, hyphens and underscores.
pub(super) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    let simple = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if simple {
        path.push_str(key);
    } else {
        path.push_str(&format!("{:?}", short(key)));
    }
}

/// An item in a path, counted from 0.
pub(super) fn index(item: usize) -> String {
    format!("[{item}]")
}

/// The same for an item of a list that may go on from file to file: counted within its own.
pub(super) fn index_in_file(items: &[Node], item: usize) -> String {
    let file = items.get(item).map_or(0, |node| node.at.file);
    index(item - items[..item].partition_point(|before| before.at.file < file))
}

pub(super) fn written_twice(first: Position) -> String {
    format!("written twice, first in line {}: expected one of them", first.line)
}

/// Whether the map has the key, if with a faulty value, or a faulty key that was meant to be it.
fn attempted(node: &Node, key: &str) -> bool {
    match &node.value {
        Value::Map(entries) => {
            entries.iter().any(|entry| entry.key == key || (entry.node.cut && nearest(&entry.key, [key]).is_some()))
        }
        _ => false,
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(meant) => format!("unknown key, did you mean `{meant}`?"),
        None if key == "<<" => {
            "unknown key: merge keys are not part of YAML 1.2, use an alias for the whole value".to_owned()
        }
        None => format!("unknown key, expected {}", one_of(known)),
    }
}

/// `a`, `b` or `c`.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A value as it is told in a sentence.
pub(super) fn found(node: &Node) -> String {
    match &node.value {
        Value::Null | Value::Hole => "nothing".to_owned(),
        Value::Scalar(Scalar { text, kind: Kind::Text }) => quoted(text),
        Value::Scalar(Scalar { text, .. }) => text.clone(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
        Value::Refused(what) => what.clone(),
    }
}

/// A text as it is told in a sentence.
pub(super) fn quoted(text: &str) -> String {
    match text {
        "" => "an empty text".to_owned(),
        _ => format!("`{}`", short(text)),
    }
}

/// The text, or the beginning of a long one, on one line.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 60;
    let mut line: String = text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > MOST {
        line.push('…');
    }
    line
}

/// What serde and the crates behind the types say they expect, in the words of an operator.
fn in_our_words(expected: &str) -> String {
    const TIME: &str = "a time with its unit, such as 500ms, 10s or 24h";
    const SIZE: &str = "a size, such as 16KiB or 100MiB";
    let words = match expected {
        "a boolean" => "`true` or `false`",
        "a string" => "a text",
        "path string" => "a path",
        "a sequence" => "a list",
        "a duration" => TIME,
        "an integer or string" | "parsable string" | "integer overflow" => SIZE,
        "IPv4 or IPv6 network address" => NETWORK,
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "f64" => "a number",
        _ if expected.starts_with("struct ") => "a map of keys",
        _ => expected,
    };
    words.to_owned()
}

const NETWORK: &str = "a network, such as 10.0.0.0/8 or fd00::/8";

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        match message.to_string() {
            ip if ip == "invalid IP address syntax" => Self::new(What::Expected(NETWORK.to_owned())),
            sentence => Self::new(What::Sentence(sentence)),
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Expected(in_our_words(&expected.to_string())))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Expected(in_our_words(&expected.to_string())))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut words = one_of(expected);
        if let Some(meant) = nearest(variant, expected.iter().copied())
            && expected.len() > 2
        {
            words.push_str(&format!("; did you mean `{meant}`?"));
        }
        Self::new(What::Expected(words))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey(expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::MissingKey(field))
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar(scalar) => match scalar.kind {
                Kind::Text => visitor.visit_borrowed_str(&scalar.text),
                Kind::Bool(value) => visitor.visit_bool(value),
                Kind::Unsigned(number) => visitor.visit_u64(number),
                Kind::Signed(number) => visitor.visit_i64(number),
                Kind::Float(number) => visitor.visit_f64(number),
            },
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Map(entries) => visitor.visit_map(Entries::of(entries)),
            Value::Refused(why) => Err(Error::custom(why)),
            Value::Hole => visitor.visit_borrowed_str(""),
        }
    }

    /// Where a text is wanted, a number without quotes is one: `query: { EIO: 4 }`, `min_version: 1.2`.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Scalar(scalar) => visitor.visit_borrowed_str(&scalar.text),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A key with nothing behind it holds an empty list, as when every item was commented out.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null | Value::Hole => visitor.visit_seq(Items([].iter().enumerate())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null | Value::Hole => visitor.visit_map(Entries::of(&[])),
            // Derived structs would take a list for their fields in order.
            Value::List(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.value {
            Value::Scalar(scalar) => {
                let word: StrDeserializer<'de, Error> = scalar.text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            _ => Err(Error::new(What::Expected(one_of(variants)))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match name {
            // As `deserialize_str`, where there may be more than a text.
            TEXT_OR_MORE => self.deserialize_str(visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct Items<'de>(std::iter::Enumerate<std::slice::Iter<'de, Node>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        match self.0.find(|(_, item)| !item.cut) {
            Some((step, item)) => seed.deserialize(item).map(Some).map_err(|error| error.below(step)),
            None => Ok(None),
        }
    }
}

struct Entries<'de> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Entry>>,
    value: Option<(usize, &'de Node)>,
}

impl<'de> Entries<'de> {
    fn of(entries: &'de [Entry]) -> Self {
        let rest = entries.iter().enumerate();
        Self { rest, value: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((step, entry)) = self.rest.find(|(_, entry)| !entry.node.cut) else {
            return Ok(None);
        };
        if let Some(first) = entry.first {
            return Err(Error::new(What::RepeatedKey(first)).below(step));
        }
        self.value = Some((step, &entry.node));
        let key: StrDeserializer<'de, Error> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.below(step))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (step, node) = self.value.take().ok_or_else(|| Error::custom("a value without its key"))?;
        seed.deserialize(node).map_err(|error| error.below(step))
    }
}
