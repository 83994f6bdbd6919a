//! What holds for any text that is read as a configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::config::document::{self, Node, Value};
use crate::config::shape;

/// One of everything that a configuration is made of.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    text: String,
    number: Option<u16>,
    share: f64,
    flag: bool,
    #[serde(with = "humantime_serde")]
    time: Duration,
    list: Vec<Self>,
    map: BTreeMap<String, Self>,
    word: Option<Word>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    One,
    Two(u8),
    Three { inside: String },
}

/// A document says the same twice, each place in it is in the text, and what is left after its faults has none.
pub fn configurations(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let env = |name: &str| (name != "UNSET").then(|| format!("{name}: [value]"));
    let lines = text.lines().count().max(1) + 1;
    let mut root = match document::read(&text, &env) {
        Ok(root) => root,
        Err(unreadable) => {
            assert!((1..=lines).contains(&unreadable.at.line) && unreadable.at.column > 0, "{unreadable:?}");
            return;
        }
    };
    places(&root, lines);
    let again = document::read(&text, &env).map(|again| format!("{again:?}"));
    assert_eq!(again, Ok(format!("{root:?}")));
    let (sample, misfits) = shape::fit::<Sample>(&mut root);
    assert!(misfits.iter().all(|misfit| (1..=lines).contains(&misfit.at.line) && !misfit.what.is_empty()));
    assert!(sample.is_some() || !misfits.is_empty(), "nothing fits, and nobody says why");
    if let Some(sample) = sample {
        let (same, left) = shape::fit::<Sample>(&mut root);
        assert_eq!(left, []);
        // A number that is none equals nothing.
        assert_eq!(same.map(|same| format!("{same:?}")), Some(format!("{sample:?}")));
    }
}

fn places(node: &Node, lines: usize) {
    assert!((1..=lines).contains(&node.at.line) && node.at.column > 0, "{node:?}");
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| places(item, lines)),
        Value::Map(entries) => entries.iter().for_each(|entry| places(&entry.node, lines)),
        _ => {}
    }
}
