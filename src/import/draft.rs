//! The new file while it is made: listeners, routes and upstreams with remarks about what could not be carried over.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_yaml::{Mapping, Value};

use super::Imported;

/// The new file, in parts.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) listeners: Vec<Part>,
    pub(super) routes: Vec<Part>,
    upstreams: Vec<(String, Part)>,
    /// The other keys at the top level.
    rest: BTreeMap<String, Part>,
    /// Those that are neither lists nor maps.
    single: BTreeMap<String, Value>,
    /// What belongs to none of them.
    remarks: Vec<Remark>,
}

/// One listener, route, upstream or other key.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) value: Mapping,
    pub(super) remarks: Vec<Remark>,
    /// An upstream whose sessions are Socket.IO's, as its file shows by more than a path.
    pub(super) has_sessions: bool,
}

/// A line of the old file, and why it is not carried over; or only what is to be known, of no line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    line: Option<(usize, String)>,
    why: String,
}

impl Remark {
    /// Of a line that is left out.
    pub(super) fn of_line(number: usize, text: &str, why: impl Into<String>) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        Self { line: Some((number, words.join(" "))), why: why.into() }
    }

    /// Of what is carried over, but should be looked at.
    pub(super) fn note(why: impl Into<String>) -> Self {
        Self { line: None, why: why.into() }
    }
}

impl Part {
    /// Sets `a.b.c` in it.
    pub(super) fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut at = &mut self.value;
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            if keys.peek().is_none() {
                at.insert(key.into(), value.into());
                return;
            }
            let inner = at.entry(key.into()).or_insert_with(|| Mapping::new().into());
            if !inner.is_mapping() {
                *inner = Mapping::new().into();
            }
            let Value::Mapping(inner) = inner else { return };
            at = inner;
        }
    }

    /// The same where nothing stands there yet.
    pub(super) fn set_new(&mut self, path: &str, value: impl Into<Value>) {
        if self.get(path).is_none() {
            self.set(path, value);
        }
    }

    /// Sets an entry of a map whose keys may have dots, such as names of fields.
    pub(super) fn set_entry(&mut self, path: &str, key: &str, value: impl Into<Value>) {
        let mut map = match self.get(path) {
            Some(Value::Mapping(map)) => map.clone(),
            _ => Mapping::new(),
        };
        map.insert(key.into(), value.into());
        self.set(path, map);
    }

    /// Adds to a list.
    pub(super) fn push(&mut self, path: &str, value: impl Into<Value>) {
        let mut list = match self.get(path) {
            Some(Value::Sequence(list)) => list.clone(),
            _ => Vec::new(),
        };
        list.push(value.into());
        self.set(path, list);
    }

    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let first = self.value.get(keys.next()?)?;
        keys.try_fold(first, |at, key| at.get(key))
    }

    /// Remarks that a line is left out.
    pub(super) fn leave_out(&mut self, number: usize, text: &str, why: impl Into<String>) {
        self.remarks.push(Remark::of_line(number, text, why));
    }

    /// Remarks on what is carried over, once.
    pub(super) fn note(&mut self, why: impl Into<String>) {
        let note = Remark::note(why);
        if !self.remarks.contains(&note) {
            self.remarks.push(note);
        }
    }
}

impl Draft {
    /// Remarks that a line is left out that belongs to nothing in particular.
    pub(super) fn leave_out(&mut self, number: usize, text: &str, why: impl Into<String>) {
        self.remarks.push(Remark::of_line(number, text, why));
    }

    /// The same, made already.
    pub(super) fn remark(&mut self, remark: Remark) {
        self.remarks.push(remark);
    }

    /// The upstream of this name, new where there is none.
    pub(super) fn upstream(&mut self, name: &str) -> &mut Part {
        let at = self.upstreams.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.upstreams.push((name.to_owned(), Part::default()));
            self.upstreams.len() - 1
        });
        &mut self.upstreams[at].1
    }

    /// Whether there is an upstream of this name.
    pub(super) fn has_upstream(&self, name: &str) -> bool {
        self.upstreams.iter().any(|(known, _)| known == name)
    }

    /// Another key at the top level.
    pub(super) fn top(&mut self, key: &str) -> &mut Part {
        self.rest.entry(key.to_owned()).or_default()
    }

    /// A key at the top level that is a number or a text.
    pub(super) fn set_top(&mut self, key: &str, value: impl Into<Value>) {
        self.single.insert(key.to_owned(), value.into());
    }

    /// Writes it. What no route or listener leads to would be a fault, so it is left to the comments.
    pub(super) fn finish(mut self, name: &str) -> Imported {
        self.follow_sessions();
        self.allow_bodies();
        self.drop_doubles();
        let unused = self.take_unused();
        let mut out = Writer { yaml: String::new(), left_out: 0, guards: Vec::new() };
        let _ = write!(
            out.yaml,
            "# Made from {name} by `sockgate import`. Lines of it that are not carried over stand as comments where\n\
             # they would belong, with the reason. `sockgate check -c FILE` says what is left to look at.\n",
        );
        out.remarks("", &self.remarks);
        out.list("listeners", &self.listeners);
        out.list("routes", &self.routes);
        if !self.upstreams.is_empty() || !unused.is_empty() {
            out.yaml.push_str("\nupstreams:\n");
        }
        for (name, part) in &self.upstreams {
            out.remarks("  ", &part.remarks);
            out.yaml(
                &Value::Mapping(Mapping::from_iter([(name.clone().into(), part.value.clone().into())])),
                "  ",
                "  ",
            );
        }
        for name in unused {
            let _ = writeln!(out.yaml, "  # `{name}` is left out: nothing leads to it");
        }
        for (key, part) in &self.rest {
            out.yaml.push('\n');
            out.remarks("", &part.remarks);
            out.yaml(&Value::Mapping(Mapping::from_iter([(key.clone().into(), part.value.clone().into())])), "", "");
        }
        for (key, value) in self.single {
            out.yaml.push('\n');
            out.yaml(&Value::Mapping(Mapping::from_iter([(key.into(), value)])), "", "");
        }
        Imported { yaml: out.yaml, left_out: out.left_out, guards: out.guards }
    }

    /// Makes upstreams that get Socket.IO's path upstreams that follow its sessions.
    fn follow_sessions(&mut self) {
        let is_of_socket_io = |path: &String| {
            let mut parts = path.trim_matches(['/', '^']).split('/');
            parts.any(|part| ["socket.io", "engine.io"].contains(&&*part.replace('\\', "")))
        };
        let mut names = Vec::new();
        for route in &self.routes {
            let mut found = Vec::new();
            paths(route.get("match").unwrap_or(&Value::Null), &mut found);
            if found.iter().any(is_of_socket_io) {
                names.extend(route.get("upstream").and_then(Value::as_str).map(str::to_owned));
            }
        }
        for (name, part) in &mut self.upstreams {
            if part.get("kind").is_none() && (part.has_sessions || names.contains(name)) {
                let rest = std::mem::take(&mut part.value);
                part.set("kind", "socket.io");
                part.value.extend(rest);
                part.note(
                    "Sessions of Socket.IO, as its routes or its stickiness show: they are followed to their servers, and a \
                     hash of the address only places new ones. Without Socket.IO, say `kind: http`.",
                );
                // The handshake tells how long a session may be silent.
                for key in ["first_byte", "read_idle", "tunnel_idle"] {
                    if let Some(Value::Mapping(timeouts)) = part.value.get_mut("timeouts") {
                        timeouts.remove(key);
                    }
                }
                if part.get("timeouts").and_then(Value::as_mapping).is_some_and(Mapping::is_empty) {
                    part.value.remove("timeouts");
                }
            }
        }
    }

    /// Bodies that a route allows must be allowed at all.
    fn allow_bodies(&mut self) {
        let size = |part: &Part| {
            let text = part.get("limits.body")?.as_str()?.to_owned();
            Some((text.parse::<bytesize::ByteSize>().ok()?, text))
        };
        let largest = self.routes.iter().filter_map(size).max_by_key(|(size, _)| *size);
        if let Some((_, text)) = largest.filter(|(size, _)| *size > bytesize::ByteSize::mib(100)) {
            self.top("limits").set_new("body", text);
        }
    }

    /// Of routes that match the same only the first is ever taken.
    fn drop_doubles(&mut self) {
        let mut kept: Vec<Part> = Vec::new();
        for part in std::mem::take(&mut self.routes) {
            match kept.iter_mut().find(|one| one.get("match") == part.get("match")) {
                Some(first) => first.remarks.extend(part.remarks),
                None => kept.push(part),
            }
        }
        self.routes = kept;
    }

    /// Takes out upstreams that nothing leads to.
    fn take_unused(&mut self) -> Vec<String> {
        let note = |said: &Value, used: &mut Vec<String>| match said {
            Value::String(name) => used.push(name.clone()),
            Value::Sequence(list) => {
                used.extend(list.iter().filter_map(|one| Some(one.get("name")?.as_str()?.to_owned())));
            }
            _ => {}
        };
        let mut used = Vec::new();
        for part in self.listeners.iter().chain(&self.routes) {
            for key in ["upstream", "detect.tcp", "mirror.upstream"] {
                part.get(key).into_iter().for_each(|said| note(said, &mut used));
            }
            let through = part.get("tls.passthrough").and_then(Value::as_sequence);
            through.into_iter().flatten().filter_map(|one| one.get("upstream")).for_each(|said| note(said, &mut used));
        }
        let (kept, unused) = std::mem::take(&mut self.upstreams).into_iter().partition(|(name, _)| used.contains(name));
        self.upstreams = kept;
        let unused: Vec<(String, Part)> = unused;
        unused.into_iter().map(|(name, _)| name).collect()
    }
}

struct Writer {
    yaml: String,
    left_out: usize,
    guards: Vec<usize>,
}

/// Words of lines that keep somebody out.
const GUARDS: [&str; 14] = [
    "deny",
    "reject",
    "tarpit",
    "auth",
    "auth_request",
    "auth_basic",
    "auth_jwt",
    "allow",
    "satisfy",
    "limit_req",
    "limit_conn",
    "rateLimit",
    "block",
    "silent-drop",
];

impl Writer {
    fn list(&mut self, key: &str, parts: &[Part]) {
        if parts.is_empty() {
            return;
        }
        let _ = writeln!(self.yaml, "\n{key}:");
        for part in parts {
            self.remarks("  ", &part.remarks);
            self.yaml(&part.value.clone().into(), "  - ", "    ");
        }
    }

    fn remarks(&mut self, indent: &str, remarks: &[Remark]) {
        for Remark { line, why } in remarks {
            self.left_out += usize::from(line.is_some());
            let words = line.iter().flat_map(|(number, line)| line.split([' ', '.']).map(|word| (*number, word)));
            self.guards.extend(words.filter(|(_, word)| GUARDS.contains(word)).map(|(number, _)| number));
            self.guards.dedup();
            let text = match line {
                Some((number, line)) => format!("line {number} `{line}`: {why}"),
                None => why.clone(),
            };
            // As wide as a screen, so that a reason is read and not scrolled to.
            let mut width = usize::MAX;
            for word in text.split(' ') {
                if width.saturating_add(word.len()) > 110 {
                    let start = if width == usize::MAX { "# " } else { "\n#   " };
                    let start = start.replace('#', &format!("{indent}#"));
                    self.yaml.push_str(&start);
                    width = start.trim_start_matches('\n').len();
                } else {
                    self.yaml.push(' ');
                    width += 1;
                }
                self.yaml.push_str(word);
                width += word.len();
            }
            self.yaml.push('\n');
        }
    }

    fn yaml(&mut self, value: &Value, first: &str, others: &str) {
        // What holds only text, numbers, lists and maps can always be written.
        let text = serde_yaml::to_string(value).unwrap_or_default();
        for (at, line) in text.lines().enumerate() {
            let _ = writeln!(self.yaml, "{}{line}", if at == 0 { first } else { others });
        }
    }
}

/// A match, or what belongs to one, with this one key.
pub(super) fn only(key: &str, value: impl Into<Value>) -> Mapping {
    Mapping::from_iter([(key.into(), value.into())])
}

/// A certificate and its key.
pub(super) fn pair(cert: &str, key: &str) -> Mapping {
    Mapping::from_iter([("cert".into(), literal(cert).into()), ("key".into(), literal(key).into())])
}

/// A list, or the one that is in it.
pub(super) fn list<S: AsRef<str>>(values: &[S]) -> Value {
    match values {
        [one] => one.as_ref().into(),
        _ => Value::Sequence(values.iter().map(|value| Value::from(value.as_ref())).collect()),
    }
}

/// Keys of a match whose lists hold when one of their entries does.
const LISTS: [&str; 8] = ["host", "path", "path_exact", "path_regex", "method", "client", "server_name", "port"];

/// A match that holds when one of these does.
pub(super) fn one_of(alternatives: Vec<Mapping>) -> Mapping {
    let flat = |one: Mapping| match (one.len(), one.get("any")) {
        (1, Some(Value::Sequence(inner))) if inner.iter().all(Value::is_mapping) => {
            inner.iter().filter_map(|one| one.as_mapping().cloned()).collect()
        }
        _ => vec![one],
    };
    let mut alternatives: Vec<Mapping> = alternatives.into_iter().flat_map(flat).collect();
    if alternatives.len() == 1 {
        return alternatives.remove(0);
    }
    let single = |one: &Mapping| {
        if one.len() == 1 { one.keys().next().and_then(Value::as_str).map(str::to_owned) } else { None }
    };
    if let Some(key) = alternatives.first().and_then(single)
        && LISTS.contains(&&*key)
        && alternatives.iter().all(|one| single(one).as_ref() == Some(&key))
    {
        let values = alternatives.iter().flat_map(Mapping::values);
        let values = values.flat_map(|value| value.as_sequence().cloned().unwrap_or_else(|| vec![value.clone()]));
        return only(&key, Value::Sequence(values.collect()));
    }
    only("any", Value::Sequence(alternatives.into_iter().map(Value::Mapping).collect()))
}

/// Every path that a match names, however deep, but where it is not meant.
fn paths(matched: &Value, found: &mut Vec<String>) {
    let Some(matched) = matched.as_mapping() else {
        return;
    };
    for (key, value) in matched {
        match key.as_str() {
            Some("path" | "path_exact" | "path_regex") => match value {
                Value::Sequence(all) => found.extend(all.iter().filter_map(Value::as_str).map(str::to_owned)),
                one => found.extend(one.as_str().map(str::to_owned)),
            },
            Some("any") => value.as_sequence().into_iter().flatten().for_each(|one| paths(one, found)),
            _ => {}
        }
    }
}

/// Text as it stands, where a dollar sign would be a variable.
pub(super) fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// A time as these files write it, with its unit (`ms` where it has none, if `unit` is that), as ours do.
pub(super) fn time(text: &str, unit: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, found) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = if found.is_empty() { unit } else { found };
    let milliseconds = match unit {
        "us" => number / 1000,
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    Some(match milliseconds {
        0 => "0s".to_owned(),
        whole if whole % 86_400_000 == 0 => format!("{}d", whole / 86_400_000),
        whole if whole % 3_600_000 == 0 => format!("{}h", whole / 3_600_000),
        whole if whole % 60_000 == 0 => format!("{}m", whole / 60_000),
        whole if whole % 1000 == 0 => format!("{}s", whole / 1000),
        rest => format!("{rest}ms"),
    })
}
