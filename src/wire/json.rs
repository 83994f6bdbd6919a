//! Finds one value in a JSON document that comes in pieces, and keeps no more of the document than that value.

use std::mem;

/// Looks for the text or number at a JSON pointer (RFC 6901), the first where a name stands twice. It does not check the
/// document: what is no JSON has no such value, or one that its reader would not find.
#[derive(Clone, Debug)]
pub struct PointerReader {
    /// The names and numbers on the way to the value.
    way: Box<[String]>,
    at: At,
    /// What is open, from the outside; how many of them, from the outside, lie on the way.
    open: Vec<Open>,
    on_way: usize,
    /// Whether the next value is where the way leads, as far as it has been gone.
    hit: bool,
    /// What has come of a name or a value that matters, as it is written.
    kept: Vec<u8>,
    /// Bytes so far.
    seen: usize,
}

/// What has come of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The value has not come.
    NeedMore,
    /// This is it: a text, or a number as it is written.
    Found(String),
    /// There is none, or it is neither.
    NotThere,
}

/// The longest name or value that is looked at, in bytes as it is written.
pub const LONGEST: usize = 8 * 1024;
/// How deep what is open may be.
const DEEPEST: usize = 64;
/// How much of a document is looked at.
const MOST: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A value begins here, or its array ends.
    Value,
    /// The name of a member begins here, or its object ends.
    Name,
    Colon,
    /// A value has ended.
    Behind,
    /// Within a text; whether it is a name, and whether the next byte is escaped.
    Text {
        name: bool,
        escaped: bool,
    },
    /// Within a number or a word.
    Bare,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Object,
    /// How many elements have ended.
    Array(usize),
}

impl PointerReader {
    /// For a pointer such as `/session/id`; `None` where that is no pointer, or one to the whole document.
    pub fn new(pointer: &str) -> Option<Self> {
        let way: Box<[String]> =
            pointer.strip_prefix('/')?.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        (way.len() <= DEEPEST && !pointer.replace("~0", "").replace("~1", "").contains('~')).then(|| Self {
            way,
            at: At::Value,
            open: Vec::new(),
            on_way: 0,
            hit: true,
            kept: Vec::new(),
            seen: 0,
        })
    }

    /// Takes the next bytes. After anything but [`Progress::NeedMore`] nothing more is found.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        for &byte in bytes {
            self.seen += 1;
            if self.at == At::Over || self.seen > MOST {
                self.at = At::Over;
                return Progress::NotThere;
            }
            if let Some(found) = self.step(byte) {
                self.at = At::Over;
                return Progress::Found(found);
            }
        }
        if self.at == At::Over { Progress::NotThere } else { Progress::NeedMore }
    }

    /// Whether the next value, or the one that has begun, is the one that is looked for.
    fn is_wanted(&self) -> bool {
        self.hit && self.open.len() == self.way.len()
    }

    fn step(&mut self, byte: u8) -> Option<String> {
        match (self.at, byte) {
            (At::Value | At::Name | At::Colon | At::Behind, b' ' | b'\t' | b'\r' | b'\n') => {}
            (At::Value, b'"') => self.at = At::Text { name: false, escaped: false },
            (At::Value, b'{') => self.enter(Open::Object, At::Name),
            (At::Value, b'[') => self.enter(Open::Array(0), At::Value),
            (At::Value, b']') if self.open.last() == Some(&Open::Array(0)) => self.leave(),
            (At::Value, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.at = At::Bare;
                self.keep(byte);
            }
            (At::Name, b'"') => self.at = At::Text { name: true, escaped: false },
            (At::Name, b'}') => self.leave(),
            (At::Colon, b':') => self.at = At::Value,
            (At::Behind, b',') => self.next(),
            (At::Behind, b'}') if self.open.last() == Some(&Open::Object) => self.leave(),
            (At::Behind, b']') if matches!(self.open.last(), Some(Open::Array(_))) => self.leave(),
            (At::Text { name, escaped: false }, b'"') => return self.text_ends(name),
            (At::Text { name, escaped }, _) => {
                self.keep(byte);
                if self.at != At::Over {
                    self.at = At::Text { name, escaped: byte == b'\\' && !escaped };
                }
            }
            (At::Bare, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') => {
                let bare = mem::take(&mut self.kept);
                if self.is_wanted() {
                    self.at = At::Over;
                    let is_number = bare.first().is_some_and(|first| *first == b'-' || first.is_ascii_digit());
                    return String::from_utf8(bare).ok().filter(|_| is_number);
                }
                self.at = At::Behind;
                return self.step(byte);
            }
            (At::Bare, _) => self.keep(byte),
            _ => self.at = At::Over,
        }
        None
    }

    /// Keeps a byte of a name on the way, or of the value.
    fn keep(&mut self, byte: u8) {
        let matters = if matches!(self.at, At::Text { name: true, .. }) {
            self.on_way == self.open.len() && self.open.len() <= self.way.len()
        } else {
            self.is_wanted()
        };
        if !matters {
            return;
        }
        if self.kept.len() < LONGEST {
            self.kept.push(byte);
        } else if self.is_wanted() && !matches!(self.at, At::Text { name: true, .. }) {
            self.at = At::Over;
        }
    }

    fn text_ends(&mut self, name: bool) -> Option<String> {
        let written = mem::take(&mut self.kept);
        let text = || serde_json::from_slice::<String>(&[b"\"", written.as_slice(), b"\""].concat()).ok();
        if name {
            let depth = self.open.len();
            self.hit = self.on_way == depth
                && self.way.get(depth - 1).is_some_and(|step| text().is_some_and(|name| name == *step));
            self.at = At::Colon;
            return None;
        }
        if self.is_wanted() {
            self.at = At::Over;
            return text();
        }
        self.at = At::Behind;
        None
    }

    fn enter(&mut self, open: Open, at: At) {
        // Where a text or number is looked for there is none.
        if self.open.len() == DEEPEST || self.is_wanted() {
            self.at = At::Over;
            return;
        }
        if self.hit && self.on_way == self.open.len() {
            self.on_way += 1;
        }
        self.open.push(open);
        self.at = at;
        self.hit = open != Open::Object && self.is_element(0);
    }

    fn leave(&mut self) {
        // What is looked for is in none that comes behind it.
        if self.on_way == self.open.len() {
            self.at = At::Over;
            return;
        }
        self.open.pop();
        (self.at, self.hit) = (At::Behind, false);
    }

    fn next(&mut self) {
        match self.open.last_mut() {
            Some(Open::Object) => self.at = At::Name,
            Some(Open::Array(ended)) => {
                *ended += 1;
                let index = *ended;
                (self.at, self.hit) = (At::Value, self.is_element(index));
            }
            None => self.at = At::Over,
        }
    }

    /// Whether the element with this number is where the way leads.
    fn is_element(&self, index: usize) -> bool {
        let depth = self.open.len();
        let step = self.way.get(depth - 1).filter(|_| self.on_way == depth);
        // Without a sign or leading zeros, as the RFC has it.
        step.is_some_and(|step| *step == index.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn find(pointer: &str, document: &[u8]) -> Progress {
        PointerReader::new(pointer).unwrap().push(document)
    }

    fn found(text: &str) -> Progress {
        Progress::Found(text.to_owned())
    }

    #[test]
    fn texts_and_numbers_are_found_wherever_they_stand() {
        let document = br#" { "a": [1, {"b/c": "x\u00e9\"y"}, -2.5e1 ], "m~n": {"a": "no"}, "id": "yes", "t": true } "#;
        for (pointer, expected) in [
            ("/a/0", found("1")),
            ("/a/1/b~1c", found("x\u{e9}\"y")),
            ("/a/2", found("-2.5e1")),
            ("/m~0n/a", found("no")),
            ("/id", found("yes")),
            ("/t", Progress::NotThere),
            ("/a", Progress::NotThere),
            ("/a/3", Progress::NotThere),
            ("/a/01", Progress::NotThere),
            ("/a/+1", Progress::NotThere),
            ("/id/x", Progress::NotThere),
            ("/none", Progress::NotThere),
        ] {
            assert_eq!(find(pointer, document), expected, "{pointer}");
            for cut in 0..document.len() {
                let mut reader = PointerReader::new(pointer).unwrap();
                let mut progress = reader.push(&document[..cut]);
                if progress == Progress::NeedMore {
                    progress = reader.push(&document[cut..]);
                }
                assert_eq!(progress, expected, "{pointer} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for wrong in ["", "a", "a/b", "/a~", "/a~2"] {
            assert!(PointerReader::new(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_found_in_what_is_no_document() {
        for document in [
            "",
            "null",
            "[]",
            "{",
            "}",
            "{]",
            "{\"id\"}",
            "{\"id\" 1}",
            "{id:1}",
            "\"id\"",
            "12",
            "{\"x\":[{\"id\":\"a\"}]}",
        ] {
            assert!(!matches!(find("/id", document.as_bytes()), Progress::Found(_)), "{document}");
        }
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_given_up() {
        let long = |length| format!("{{\"id\":\"{}\"}}", "x".repeat(length)).into_bytes();
        assert_eq!(find("/id", &long(LONGEST)), found(&"x".repeat(LONGEST)));
        assert_eq!(find("/id", &long(LONGEST + 1)), Progress::NotThere);
        assert_eq!(find("/id", &b"[".repeat(100_000)), Progress::NotThere);
        let name = format!("{{\"{}\":1,\"id\":\"a\"}}", "x".repeat(100_000)).into_bytes();
        assert_eq!(find("/id", &name), found("a"));
        let mut reader = PointerReader::new("/id").unwrap();
        let mut pieces = 0;
        while reader.push(&[b' '; 1024]) == Progress::NeedMore {
            pieces += 1;
        }
        assert_eq!(pieces, MOST / 1024);
        assert!(reader.kept.capacity() <= LONGEST);
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\/~é ]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ab~/é]{0,2}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Every pointer into a document, with what is there.
    fn pointers(document: &Value, here: &str, into: &mut Vec<(String, Value)>) {
        let step = |name: &str| format!("{here}/{}", name.replace('~', "~0").replace('/', "~1"));
        match document {
            Value::Array(elements) => {
                elements.iter().enumerate().for_each(|(at, element)| pointers(element, &step(&at.to_string()), into));
            }
            Value::Object(members) => members.iter().for_each(|(name, member)| pointers(member, &step(name), into)),
            _ => {}
        }
        if !here.is_empty() {
            into.push((here.to_owned(), document.clone()));
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_whole_parser_finds(document in documents(), cut in any::<prop::sample::Index>()) {
            let bytes = serde_json::to_vec(&document).unwrap();
            let mut all = Vec::new();
            pointers(&document, "", &mut all);
            all.push(("/nowhere".to_owned(), json!(null)));
            for (pointer, value) in all {
                let expected = match value {
                    Value::String(text) => found(&text),
                    Value::Number(number) => found(&number.to_string()),
                    _ => Progress::NotThere,
                };
                let at = cut.index(bytes.len() + 1);
                let mut reader = PointerReader::new(&pointer).unwrap();
                let mut progress = reader.push(&bytes[..at]);
                if progress == Progress::NeedMore {
                    progress = reader.push(&bytes[at..]);
                }
                // A bare value is whole only when something follows it.
                if progress == Progress::NeedMore {
                    progress = reader.push(b" ");
                }
                let bare = matches!(document, Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_));
                prop_assert!(progress == expected || bare, "{pointer}: {progress:?} {expected:?}");
            }
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = find("/a/0/b", &bytes);
        }
    }
}
