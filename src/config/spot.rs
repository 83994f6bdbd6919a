//! A way from a value of the types back to its place in the file.

use std::collections::{BTreeMap, HashMap};

use super::document::{Entry, Node, Position, Value};
use super::shape::{Misfit, index_in_file, push_key};

/// A path, and the nearest place that the file has for it: a default has none of its own.
#[derive(Clone)]
pub(crate) struct Spot<'a> {
    path: String,
    at: Position,
    word: Position,
    node: Option<&'a Node>,
}

impl<'a> Spot<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self { path: String::new(), at: node.at, word: node.at, node: Some(node) }
    }

    /// The value of a key. A short form, which has no keys, stands for each of them.
    pub(crate) fn key(&self, key: &str) -> Self {
        match self.node.map(|node| &node.value) {
            Some(Value::Scalar(_)) => self.clone(),
            Some(Value::Map(entries)) => self.below(key, entries.iter().find(|entry| entry.key == key)),
            _ => self.below(key, None),
        }
    }

    fn below(&self, key: &str, entry: Option<&'a Entry>) -> Self {
        let mut spot = self.clone();
        push_key(&mut spot.path, key);
        spot.node = None;
        if let Some(entry) = entry {
            (spot.at, spot.word, spot.node) = (entry.node.at, entry.at, Some(&entry.node));
        }
        spot
    }

    /// The items of a list beside what the types hold for them: items that were set aside as faulty are not counted. A
    /// short form, which is no list, is its own only item.
    pub(crate) fn each<'v, T>(&self, values: &'v [T]) -> impl Iterator<Item = (Self, &'v T)> + use<'a, 'v, T> {
        let items = match self.node.map(|node| &node.value) {
            Some(Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        let mut kept = items.iter().enumerate().filter(|(_, item)| !item.cut);
        let list = self.clone();
        values.iter().map(move |value| {
            let mut spot = list.clone();
            if list.is_short_form() {
                return (spot, value);
            }
            spot.node = None;
            if let Some((written, node)) = kept.next() {
                spot.path.push_str(&index_in_file(items, written));
                (spot.at, spot.word, spot.node) = (node.at, node.at, Some(node));
            }
            (spot, value)
        })
    }

    /// The same for a list of maps, whose short form is one of them.
    pub(crate) fn each_inner<'v, T>(&self, values: &'v [T]) -> Vec<(Self, &'v T)> {
        match (self.node.map(|node| &node.value), values) {
            (Some(Value::Map(_)), [only]) => vec![(self.clone(), only)],
            _ => self.each(values).collect(),
        }
    }

    /// The same as [`Self::key`] for every key that the types hold.
    pub(crate) fn each_key<'v, T>(
        &self,
        values: &'v BTreeMap<String, T>,
    ) -> impl Iterator<Item = (Self, (&'v String, &'v T))> + use<'a, 'v, T> {
        let mut entries: HashMap<&'a str, &'a Entry> = HashMap::new();
        if let Some(Value::Map(all)) = self.node.map(|node| &node.value) {
            for entry in all {
                entries.entry(&entry.key).or_insert(entry);
            }
        }
        let map = self.clone();
        values.iter().map(move |(key, value)| {
            let entry = entries.get(key.as_str()).copied();
            (if map.is_short_form() { map.clone() } else { map.below(key, entry) }, (key, value))
        })
    }

    /// The same path, placed at the key instead of its value.
    pub(crate) fn as_str(&self) -> Self {
        let mut spot = self.clone();
        spot.at = self.word;
        spot
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// Whether the file has a value there, if a faulty one.
    pub(crate) fn is_given(&self) -> bool {
        self.node.is_some_and(|node| !matches!(node.value, Value::Null | Value::Hole))
    }

    pub(crate) fn is_hole(&self) -> bool {
        self.node.is_some_and(|node| matches!(node.value, Value::Hole))
    }

    /// Whether nothing in there was set aside as faulty.
    pub(crate) fn is_intact(&self) -> bool {
        fn intact(node: &Node) -> bool {
            !node.cut
                && match &node.value {
                    Value::List(items) => items.iter().all(intact),
                    Value::Map(entries) => entries.iter().all(|entry| intact(&entry.node)),
                    Value::Hole => false,
                    Value::Null | Value::Scalar(_) | Value::Refused(_) => true,
                }
        }
        self.node.is_none_or(intact)
    }

    /// The keys of a map, faulty ones included.
    pub(crate) fn keys(&self) -> Vec<String> {
        match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// The items of a list, faulty ones included.
    pub(crate) fn items(&self) -> Vec<Self> {
        let Some(Value::List(items)) = self.node.map(|node| &node.value) else {
            return Vec::new();
        };
        let spot = |(n, node): (usize, &'a Node)| Self {
            path: self.path.clone() + &index_in_file(items, n),
            at: node.at,
            word: node.at,
            node: Some(node),
        };
        items.iter().enumerate().map(spot).collect()
    }

    /// Whether the file has a list without items there.
    pub(crate) fn is_empty_list(&self) -> bool {
        matches!(self.node.map(|node| &node.value), Some(Value::List(items)) if items.is_empty())
    }

    /// The text as written, after expansion.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.node.map(|node| &node.value) {
            Some(Value::Scalar(scalar)) => Some(&scalar.text),
            _ => None,
        }
    }

    pub(crate) fn misfit(&self, what: String) -> Misfit {
        let (at, path) = (self.at, self.path.clone());
        Misfit { at, path, what }
    }

    fn is_short_form(&self) -> bool {
        self.text().is_some()
    }
}
