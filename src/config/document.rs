//! One YAML document as a tree in which every value knows its place in the file; what the values mean is left to `shape`.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use super::environment;

/// Far above any file that a person writes, and low enough that no file can exhaust the memory.
const MOST_BYTES: usize = 1 << 20;
/// Values in one document, those that aliases repeat included: what an alias repeats is bounded with everything else.
const MOST_VALUES: usize = 50_000;
const DEEPEST: usize = 24;

/// A file, counted as they are read, and a line and a column in characters, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// 0 for the file itself, more for those that it includes.
    pub(crate) file: usize,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
    /// Found faulty and set aside: readers pass over it, so that its default stands in.
    pub(crate) cut: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Well-formed YAML that no configuration may hold, and why.
    Refused(String),
    /// Stands in for a key that is missing, so that reading can go on and find the next fault.
    Hole,
}

/// A text and what it means: the text is kept because a version `1.2` is a text to some keys and a number to others.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Text,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) node: Node,
    /// Where the same key was written before.
    pub(crate) first: Option<Position>,
}

/// Why a text is no YAML document at all; nothing in it can be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) at: Position,
    pub(crate) what: String,
}

/// Reads one document, expanding `${NAME}` by `env`.
pub(crate) fn read(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Node, Unreadable> {
    if text.len() > MOST_BYTES {
        return Err(unreadable(START, "more than 1 MiB, which no configuration needs"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    only_printable(text)?;
    let mut builder = Builder { text, parser: Parser::new_from_str(text), env, anchors: HashMap::new(), values: 0 };
    let mut root = None;
    while let Some((event, at)) = builder.next()? {
        match event {
            Event::DocumentStart(_) if root.is_some() => {
                return Err(unreadable(at, "found a second document, expected one for each file"));
            }
            Event::DocumentStart(_) => root = Some(builder.document()?),
            _ => {}
        }
    }
    Ok(root.unwrap_or(Node::new(START, Value::Null)))
}

const START: Position = Position { file: 0, line: 1, column: 1 };

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    env: &'a dyn Fn(&str) -> Option<String>,
    anchors: HashMap<usize, Node>,
    values: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Position)>, Unreadable> {
        match self.parser.next_event().transpose() {
            Ok(event) => Ok(event.map(|(event, span)| (event, span.start.into()))),
            Err(error) => Err(not_yaml(&error, self.text)),
        }
    }

    /// The next event inside a value, where the end of the text cannot come.
    fn expect(&mut self) -> Result<(Event<'a>, Position), Unreadable> {
        self.next()?.ok_or_else(|| unreadable(START, "not valid YAML: the text ends too early"))
    }

    fn document(&mut self) -> Result<Node, Unreadable> {
        let (event, at) = self.expect()?;
        self.node(event, at, at, DEEPEST)
    }

    /// The value that begins with `event`; nothing at all is placed at `owner`, the key or the list it belongs to.
    fn node(&mut self, event: Event<'a>, at: Position, owner: Position, depth: usize) -> Result<Node, Unreadable> {
        if depth == 0 {
            return Err(unreadable(at, &format!("nested more than {DEEPEST} levels deep")));
        }
        self.count(1, at)?;
        let (anchor, node) = match event {
            Event::Alias(anchor) => (0, self.alias(anchor, at)?),
            Event::Scalar(_, _, anchor, Some(_)) => (anchor, Node::new(at, tagged())),
            Event::Scalar(text, style, anchor, None) => (anchor, self.scalar(&text, style, at, owner)),
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    match self.expect()? {
                        (Event::SequenceEnd, _) => break,
                        (event, item) => items.push(self.node(event, item, item, depth - 1)?),
                    }
                }
                let value = if tag.is_some() { tagged() } else { Value::List(items) };
                (anchor, Node::new(at, value))
            }
            Event::MappingStart(anchor, tag) => {
                let entries = self.entries(depth)?;
                let value = if tag.is_some() { tagged() } else { Value::Map(entries) };
                (anchor, Node::new(at, value))
            }
            _ => return Err(unreadable(at, "not valid YAML: expected a value")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Unreadable> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Position> = HashMap::new();
        loop {
            let (key, at) = match self.expect()? {
                (Event::MappingEnd, _) => return Ok(entries),
                (Event::Scalar(key, _, _, None), at) => (key.into_owned(), at),
                (_, at) => return Err(unreadable(at, "a key has to be a plain text")),
            };
            let (event, value) = self.expect()?;
            let node = self.node(event, value, at, depth - 1)?;
            let first = seen.get(&key).copied();
            seen.entry(key.clone()).or_insert(at);
            entries.push(Entry { key, at, node, first });
        }
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<Node, Unreadable> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(unreadable(at, "an alias inside the value that it stands for"));
        };
        self.count(node.size(), at)?;
        Ok(node)
    }

    fn scalar(&self, text: &str, style: ScalarStyle, at: Position, owner: Position) -> Node {
        let plain = style == ScalarStyle::Plain;
        if plain && is_null(text) {
            return Node::new(if text.is_empty() { owner } else { at }, Value::Null);
        }
        let value = match environment::expand(text, self.env) {
            Ok(text) if plain && is_null(&text) => Value::Null,
            Ok(text) => {
                Value::Scalar(Scalar { kind: if plain { kind(&text) } else { Kind::Text }, text: text.into_owned() })
            }
            Err(fault) => Value::Refused(fault),
        };
        Node::new(at, value)
    }

    fn count(&mut self, values: usize, at: Position) -> Result<(), Unreadable> {
        self.values += values;
        if self.values > MOST_VALUES {
            return Err(unreadable(at, &format!("more than {MOST_VALUES} values, with all that its aliases repeat")));
        }
        Ok(())
    }
}

impl Node {
    pub(super) fn new(at: Position, value: Value) -> Self {
        Self { at, value, cut: false }
    }

    /// Says that all of it stands in this file.
    pub(super) fn belongs_to(&mut self, file: usize) {
        self.at.file = file;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.belongs_to(file)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.at.file = file;
                    entry.first.iter_mut().for_each(|first| first.file = file);
                    entry.node.belongs_to(file);
                }
            }
            Value::Null | Value::Scalar(_) | Value::Refused(_) | Value::Hole => {}
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.size()).sum(),
            Value::Null | Value::Scalar(_) | Value::Refused(_) | Value::Hole => 0,
        }
    }
}

fn tagged() -> Value {
    Value::Refused("found a tag, which has no meaning here: leave it out (quotes make a number a text)".to_owned())
}

/// The YAML parser takes a NUL for the end of the text, and would leave out the rest without a word.
fn only_printable(text: &str) -> Result<(), Unreadable> {
    for (line, content) in text.split('\n').enumerate() {
        let strange = |c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\u{85}');
        if let Some((column, c)) = content.chars().enumerate().find(|&(_, c)| strange(c)) {
            let at = Position { line: line + 1, column: column + 1, ..START };
            let what = format!("found the control character U+{:04X}, expected text", u32::from(c));
            return Err(unreadable(at, &what));
        }
    }
    Ok(())
}

/// YAML 1.2, core schema (section 10.3.2).
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// YAML 1.2, core schema, without infinities and what is not a number: no key wants them.
fn kind(text: &str) -> Kind {
    match text {
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    let radix = |prefix, radix| {
        let digits: &str = text.strip_prefix(prefix)?;
        let digits = digits.starts_with(|c: char| c.is_digit(radix)).then_some(digits)?;
        u64::from_str_radix(digits, radix).ok()
    };
    if let Some(number) = text.parse().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8)) {
        return Kind::Unsigned(number);
    }
    if let Ok(number) = text.parse() {
        return Kind::Signed(number);
    }
    let looks_like_a_number = text.contains(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(number) if looks_like_a_number && number.is_finite() => Kind::Float(number),
        _ => Kind::Text,
    }
}

fn unreadable(at: Position, what: &str) -> Unreadable {
    let what = what.to_owned();
    Unreadable { at, what }
}

/// What the parser says, and the slips behind most of it.
fn not_yaml(error: &ScanError, text: &str) -> Unreadable {
    let at: Position = (*error.marker()).into();
    let line = text.lines().nth(at.line - 1).unwrap_or_default();
    let before: String = line.chars().take(at.column).collect();
    let slip = if before.contains("${") {
        "; between { } or [ ], a value with ${…} has to be in quotes"
    } else if before.contains("[::") || before.contains("]:") {
        "; an address that begins with `[` has to be in quotes"
    } else {
        ""
    };
    unreadable(at, &format!("not valid YAML: {}{slip}", error.info()))
}

impl From<Marker> for Position {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1, ..START }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Node {
        read(text, &|name| (name == "PORT").then(|| "8080".to_owned())).unwrap()
    }

    fn why_not(text: &str) -> (usize, usize, String) {
        let Unreadable { at, what } = read(text, &|_| None).unwrap_err();
        (at.line, at.column, what)
    }

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let Value::Map(entries) = &node.value else {
            panic!("not a map: {node:?}");
        };
        entries.iter().find(|entry| entry.key == key).unwrap()
    }

    #[test]
    fn keys_and_values_know_their_places() {
        let root = document("# a comment\na:\n  - b: 1\n    c: é x\n");
        let a = entry(&root, "a");
        assert_eq!((a.at.line, a.at.column), (2, 1));
        let Value::List(items) = &a.node.value else { panic!() };
        let c = entry(&items[0], "c");
        assert_eq!((c.at.line, c.at.column), (4, 5));
        assert_eq!((c.node.at.line, c.node.at.column), (4, 8));
    }

    #[test]
    fn plain_scalars_are_typed_after_expansion_and_quoted_ones_stay_text() {
        let root = document("a: ${PORT}\nb: \"${PORT}\"\nc: 0x1F\nd: 1.5\ne: -3\nf: 127.0.0.1\ng: no\nh: True\n");
        for (key, expected) in [
            ("a", Kind::Unsigned(8080)),
            ("b", Kind::Text),
            ("c", Kind::Unsigned(31)),
            ("d", Kind::Float(1.5)),
            ("e", Kind::Signed(-3)),
            ("f", Kind::Text),
            ("g", Kind::Text),
            ("h", Kind::Bool(true)),
        ] {
            let Value::Scalar(scalar) = &entry(&root, key).node.value else {
                panic!("{key}");
            };
            assert_eq!(scalar.kind, expected, "{key}");
        }
    }

    #[test]
    fn an_empty_value_is_placed_at_its_key() {
        let root = document("a:\n\n\nb: 1\n");
        assert_eq!(entry(&root, "a").node.at.line, 1);
        assert!(matches!(entry(&root, "a").node.value, Value::Null));
        assert!(matches!(document("").value, Value::Null));
        assert!(matches!(document("# nothing yet\n").value, Value::Null));
    }

    #[test]
    fn aliases_repeat_their_anchor() {
        let root = document("a: &x { b: 1 }\nc: *x\n");
        let Value::Scalar(b) = &entry(&entry(&root, "c").node, "b").node.value else {
            panic!();
        };
        assert_eq!(b.kind, Kind::Unsigned(1));
    }

    #[test]
    fn what_would_exhaust_the_memory_is_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let last = format!("*a{}, ", i - 1).repeat(10);
            laughs += &format!("a{i}: &a{i} [{last}]\n");
        }
        assert!(why_not(&laughs).2.contains("more than 50000 values"));
        assert!(why_not(&"[".repeat(100_000)).2.contains("recursion limit"));
        assert!(why_not(&"[".repeat(100)).2.contains("nested more than"));
        assert!(why_not(&"- ".repeat(100_000)).2.contains("nested more than"));
        assert!(why_not(&"a".repeat(2 << 20)).2.contains("more than 1 MiB"));
        assert!(why_not("a: &x [*x]").2.contains("alias inside"));
    }

    #[test]
    fn what_would_be_left_out_silently_is_refused() {
        let (line, column, what) = why_not("a: 1\nb: \0\nc: 2\n");
        assert_eq!((line, column), (2, 4));
        assert!(what.contains("U+0000"), "{what}");
        assert!(why_not("a: 1\n---\nb: 2\n").2.contains("second document"));
        assert!(why_not("[a]: 1").2.contains("plain text"));
    }

    #[test]
    fn broken_yaml_is_refused_with_its_place() {
        let (line, _, what) = why_not("a: 1\nb: [1, 2\nc: 3\n");
        assert!(line >= 2, "{line}");
        assert!(what.starts_with("not valid YAML: "), "{what}");
    }
}
