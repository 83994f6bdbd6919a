//! The JSON Schema of a configuration (`conf/sockgate.schema.json`), found out by asking the reader itself: which keys it
//! knows at each place, which of them it misses, and what it takes there. So it can't say anything else than the types do.
//!
//! Every place is asked with small documents that hold one path only. What the types say of themselves in their comments
//! is laid beside the keys, for editors to show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::Config;
use super::document::{Entry, Kind, Node, Position, Scalar, Value};
use super::shape::{Error, What};

/// No key of any type, and no text that has a meaning anywhere.
const STRANGE: &str = "\u{1}";
/// Texts of which each form that a value can have takes one.
const TEXTS: [&str; 17] = [
    "10s",
    "16KiB",
    "127.0.0.1:80",
    "127.0.0.1",
    "10.0.0.0/8",
    "https://a.example/x",
    "https://a.example",
    "/x",
    "name",
    "200",
    "200-399",
    "0123456789abcdef0123456789abcdef",
    "u:$2y$05$PFvOwSj4TpUCHGVlgP2Pme/AJuk0bGyDFNpWMHCj.2Ayu/eCbZqnG",
    "one-server",
    "HS256",
    "example.com",
    "a@b.example",
];
const NUMBERS: [u64; 12] = [0, 1, 2, 5, 100, 127, 255, 256, 65_535, 65_536, u32::MAX as u64, 1 << 40];
const TIME: &str = r"^\s*([0-9]+\s*[a-zA-Zµ]+\s*)+$";
const SIZE: &str = r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtTpP]?[iI]?[bB]?)\s*$";

/// One step on the way to a value.
#[derive(Clone)]
enum Step {
    Key(String),
    Item,
}

/// What the reader says to a value at the end of a path.
enum Answer {
    Fits,
    /// It objects to the value itself.
    Wrong(What),
    /// It objects to something within the value.
    Within(What),
}

/// A map that was looked at on the way to another one: the keys that it knows, and what it is called where it lies in itself.
type Above = (&'static [&'static str], String);

#[derive(Default)]
struct Writer {
    /// What is said of the keys of each type, by the list of those.
    comments: BTreeMap<Vec<String>, BTreeMap<String, String>>,
    /// The keys of every map that has known ones.
    maps: BTreeSet<Vec<String>>,
    /// Maps that lie in themselves, by name.
    defined: Map<String, Json>,
}

/// The whole schema, and the keys of every map that has known ones.
fn schema() -> (Json, BTreeSet<Vec<String>>) {
    let mut writer = Writer { comments: comments(), ..Writer::default() };
    let (mut schema, _) = writer.place(&mut Vec::new(), &[]).expect("a configuration is a map");
    let all = schema.as_object_mut().unwrap();
    all.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    all.insert("title".to_owned(), "Configuration of Sockgate".into());
    let variable = json!({
        "type": "string",
        "pattern": r"\$\{",
        "description": "A text with a variable of the environment, such as ${NAME} or ${NAME:-default}.",
    });
    writer.defined.insert("variable".to_owned(), variable);
    all.insert("$defs".to_owned(), Json::Object(std::mem::take(&mut writer.defined)));
    (schema, writer.maps)
}

impl Writer {
    /// What may stand at a place, and a value that does; `None` where nothing that is known here fits.
    fn place(&mut self, path: &mut Vec<Step>, above: &[Above]) -> Option<(Json, Node)> {
        let takes_text = fits(path, &text(STRANGE));
        let mut forms = scalar_forms(path, takes_text);
        if !takes_text && !forms.is_empty() {
            forms.push((json!({ "$ref": "#/$defs/variable" }), text(STRANGE)));
        }
        self.define(&mut forms);
        let list = node(Value::List(Vec::new()));
        if fits(path, &list) {
            path.push(Step::Item);
            let (items, _) = self.place(path, above).unwrap_or_else(|| panic!("TEXTS has no item for {}", told(path)));
            path.pop();
            forms.push((json!({ "type": "array", "items": items }), list));
        }
        forms.extend(self.map(path, above));
        let sample = forms.first()?.1.clone();
        if fits(path, &node(Value::Null)) {
            forms.push((json!({ "type": "null" }), node(Value::Null)));
        }
        let mut forms: Vec<Json> = forms.into_iter().map(|(form, _)| form).collect();
        Some((if forms.len() == 1 { forms.remove(0) } else { json!({ "anyOf": forms }) }, sample))
    }

    /// Times and sizes are said once: there are many of them.
    fn define(&mut self, forms: &mut Vec<(Json, Node)>) {
        let name = forms.iter().find_map(|(form, _)| match form["pattern"].as_str() {
            Some(TIME) => Some("time"),
            Some(SIZE) => Some("size"),
            _ => None,
        });
        let Some(name) = name else { return };
        let said = json!({ "anyOf": forms.iter().map(|(form, _)| form).collect::<Vec<_>>() });
        if *self.defined.entry(name).or_insert_with(|| said.clone()) == said {
            let sample = forms[0].1.clone();
            *forms = vec![(json!({ "$ref": format!("#/$defs/{name}") }), sample)];
        }
    }

    fn map(&mut self, path: &mut Vec<Step>, above: &[Above]) -> Option<(Json, Node)> {
        match ask(path, &map(&[(STRANGE, node(Value::Null))])) {
            Answer::Within(What::UnknownKey(known)) => Some(self.struct_of(known, path, above)),
            Answer::Wrong(What::MissingKey(key)) => panic!("{} passes over keys, and misses {key}", told(path)),
            Answer::Wrong(_) => None,
            Answer::Fits | Answer::Within(_) => {
                path.push(Step::Key("x".to_owned()));
                let (values, _) =
                    self.place(path, above).unwrap_or_else(|| panic!("TEXTS has nothing for {}", told(path)));
                path.pop();
                let empty = map(&[]);
                fits(path, &empty).then(|| (json!({ "type": "object", "additionalProperties": values }), empty))
            }
        }
    }

    fn struct_of(&mut self, known: &'static [&'static str], path: &mut Vec<Step>, above: &[Above]) -> (Json, Node) {
        let reference = |name: &str| json!({ "$ref": format!("#/$defs/{name}") });
        if let Some((_, name)) = above.iter().find(|(other, _)| std::ptr::eq(*other, known)) {
            self.defined.entry(name.clone()).or_insert(Json::Null);
            return (reference(name), map(&[]));
        }
        let keys: Vec<String> = known.iter().map(|&key| key.to_owned()).collect();
        let name = path.iter().rev().find_map(|step| if let Step::Key(key) = step { Some(key.clone()) } else { None });
        let name = name.unwrap_or_default();
        let above: Vec<Above> = above.iter().cloned().chain([(known, name.clone())]).collect();
        let comments = self.comments.get(&keys).cloned().unwrap_or_default();
        self.maps.insert(keys);
        let (mut properties, mut samples) = (Map::new(), BTreeMap::new());
        for &key in known {
            path.push(Step::Key(key.to_owned()));
            let value = self.place(path, &above);
            let (mut schema, sample) = value.unwrap_or_else(|| panic!("TEXTS has nothing for {}", told(path)));
            path.pop();
            if let Some(comment) = comments.get(key) {
                schema["description"] = comment.as_str().into();
            }
            properties.insert(key.to_owned(), schema);
            samples.insert(key, sample);
        }
        // Each key that is missed is given, until none is.
        let mut needed: Vec<(&str, Node)> = Vec::new();
        while let Answer::Wrong(What::MissingKey(key)) = ask(path, &map(&needed)) {
            needed.push((key, samples[key].clone()));
        }
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !needed.is_empty() {
            schema["required"] = needed.iter().map(|(key, _)| *key).collect();
        }
        let sample = map(&needed);
        match self.defined.get_mut(&name) {
            Some(defined) if defined.is_null() => {
                *defined = schema;
                (reference(&name), sample)
            }
            _ => (schema, sample),
        }
    }
}

/// One value: any text, one of some words, or what has a form.
fn scalar_forms(path: &[Step], takes_text: bool) -> Vec<(Json, Node)> {
    if takes_text {
        let sample = TEXTS.iter().map(|sample| text(sample)).find(|sample| fits(path, sample));
        let sample = sample.unwrap_or_else(|| text(STRANGE));
        return vec![(json!({ "type": ["string", "number", "boolean"] }), sample)];
    }
    let mut forms = Vec::new();
    let expected = match ask(path, &text(STRANGE)) {
        Answer::Wrong(What::Expected(words)) => words,
        _ => String::new(),
    };
    let flag = scalar("true", Kind::Bool(true));
    if fits(path, &flag) {
        forms.push((json!({ "type": "boolean" }), flag));
    }
    let number = |number: &u64| scalar(&number.to_string(), Kind::Unsigned(*number));
    let good: Vec<u64> = NUMBERS.iter().filter(|n| fits(path, &number(n))).copied().collect();
    if let (Some(&least), Some(&most)) = (good.first(), good.last()) {
        let is_whole = !fits(path, &scalar("0.5", Kind::Float(0.5)));
        let mut form = json!({ "type": if is_whole { "integer" } else { "number" } });
        if !fits(path, &scalar("-1", Kind::Signed(-1))) {
            form["minimum"] = if least <= 1 { least.into() } else { 0.into() };
        }
        if most < *NUMBERS.last().unwrap() {
            form["maximum"] = most.into();
        }
        forms.push((form, number(&good[good.len() / 2])));
    }
    let quoted: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let words: Vec<&str> = quoted.into_iter().filter(|word| fits(path, &text(word))).collect();
    let formed = TEXTS.iter().find(|sample| !words.contains(sample) && fits(path, &text(sample)));
    if let Some(formed) = formed {
        let mut form = json!({ "type": "string" });
        match expected.as_str() {
            words if words.starts_with("a time") => form["pattern"] = TIME.into(),
            words if words.starts_with("a size") => form["pattern"] = SIZE.into(),
            _ => {}
        }
        if !expected.is_empty() {
            form["description"] = expected.as_str().into();
        }
        forms.push((form, text(formed)));
    } else if let Some(first) = words.first() {
        // A version such as 1.2 is a number where no quotes are around it.
        let numbers = words.iter().filter_map(|word| word.parse::<f64>().ok()).map(Json::from);
        let all: Vec<Json> = words.iter().map(|word| Json::from(*word)).chain(numbers).collect();
        forms.push((json!({ "enum": all }), text(first)));
    }
    forms
}
/// A path as people write it.
fn told(path: &[Step]) -> String {
    path.iter().map(|step| if let Step::Key(key) = step { format!(".{key}") } else { "[]".to_owned() }).collect()
}

fn fits(path: &[Step], value: &Node) -> bool {
    matches!(ask(path, value), Answer::Fits)
}

/// Has a document read that holds nothing but this value at the end of this path.
fn ask(path: &[Step], value: &Node) -> Answer {
    let document = path.iter().rev().fold(value.clone(), |value, step| match step {
        Step::Key(key) => map(&[(key, value)]),
        Step::Item => node(Value::List(vec![value])),
    });
    let Err(Error { steps, what }) = Config::deserialize(&document) else { return Answer::Fits };
    match steps.len().cmp(&path.len()) {
        // Something else is missing, or does not go with it.
        std::cmp::Ordering::Less => Answer::Fits,
        std::cmp::Ordering::Equal => Answer::Wrong(what),
        std::cmp::Ordering::Greater => Answer::Within(what),
    }
}

const HERE: Position = Position { file: 0, line: 1, column: 1 };

fn node(value: Value) -> Node {
    Node::new(HERE, value)
}

fn scalar(text: &str, kind: Kind) -> Node {
    node(Value::Scalar(Scalar { text: text.to_owned(), kind }))
}

fn text(text: &str) -> Node {
    scalar(text, Kind::Text)
}

fn map(entries: &[(&str, Node)]) -> Node {
    let entry =
        |(key, node): &(&str, Node)| Entry { key: (*key).to_owned(), at: HERE, node: node.clone(), first: None };
    node(Value::Map(entries.iter().map(entry).collect()))
}

/// What the comments of all types say of their keys, by the list of those.
fn comments() -> BTreeMap<Vec<String>, BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![in_repository("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                comments_of(&std::fs::read_to_string(path).unwrap(), &mut all);
            }
        }
    }
    all
}

fn comments_of(code: &str, all: &mut BTreeMap<Vec<String>, BTreeMap<String, String>>) {
    let mut lines = code.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let is_struct = line.trim_start_matches("pub ").starts_with("struct ") && line.ends_with('{');
        if !is_struct {
            continue;
        }
        let (mut names, mut said) = (Vec::new(), BTreeMap::new());
        let (mut comment, mut renamed) = (Vec::new(), None);
        for line in lines.by_ref().take_while(|line| *line != "}") {
            if let Some(words) = line.strip_prefix("///") {
                comment.push(words.trim());
            } else if line.starts_with("#[") {
                let name = line.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
                renamed = name.map(|(name, _)| name.to_owned()).or(renamed);
            } else if let Some((field, _)) = line.split_once(':') {
                let field = field.split_whitespace().last().unwrap_or_default();
                let name = renamed.take().unwrap_or_else(|| field.to_owned());
                let words = comment.join(" ").replace("[`", "`").replace("`]", "`");
                comment.clear();
                if !words.is_empty() {
                    said.insert(name.clone(), words);
                }
                names.push(name);
            }
        }
        all.entry(names).or_insert(said);
    }
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(in_repository(path)).unwrap()
}

/// The files of a folder, as an editor sees them: with their variables.
fn files(folder: &str) -> Vec<(PathBuf, Json)> {
    let files = std::fs::read_dir(in_repository(folder)).unwrap().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    let read = |path: PathBuf| {
        let value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).ok()?;
        Some((path, value))
    };
    yaml.filter_map(read).collect()
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(&read("conf/sockgate.schema.json")).unwrap()).unwrap()
}

#[test]
fn the_schema_is_what_the_reader_says() {
    let (schema, _) = schema();
    let mut written = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b" ");
    schema.serialize(&mut serde_json::Serializer::with_formatter(&mut written, indent)).unwrap();
    let written = String::from_utf8(written).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(in_repository("conf/sockgate.schema.json"), &written).unwrap();
    }
    assert!(written == read("conf/sockgate.schema.json"), "UPDATE_GOLDEN=1 cargo test writes the schema anew");
}

#[test]
fn the_schema_takes_every_good_file() {
    let schema = validator();
    let all = [files("conf"), files("tests/config/valid")].concat();
    assert!(all.len() > 25, "{}", all.len());
    let told = all.iter().filter_map(|(path, value)| {
        let fault = schema.iter_errors(value).next()?;
        Some(format!("{}: {} at {}", path.display(), fault, fault.instance_path()))
    });
    let told: Vec<String> = told.collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// What only the parts of a file among each other can tell, no schema knows; of what it could know, it tells most.
#[test]
fn the_schema_refuses_most_files_that_are_wrong_by_themselves() {
    let schema = validator();
    let all = files("tests/config/invalid");
    let taken: Vec<_> = all.iter().filter(|(_, value)| schema.is_valid(value)).map(|(path, _)| path).collect();
    let refused = all.len() - taken.len();
    assert!(refused * 100 >= all.len() * 40, "{refused} of {}: takes {taken:#?}", all.len());
    for (path, value) in &all {
        let words = std::fs::read_to_string(path.with_extension("err")).unwrap();
        let unknown = words.contains(": unknown key, ") || words.contains(", which is missing");
        assert!(!unknown || !schema.is_valid(value), "{}", path.display());
    }
}

/// Every key has a place in the reference; and what a table there calls a key is one, together with those beside it.
#[test]
fn the_reference_has_the_keys_of_the_types_and_no_others() {
    let (_, maps) = schema();
    let page = read("docs/configuration.md");
    let missing: Vec<&String> = maps.iter().flatten().filter(|key| !page.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
    let mut tables: Vec<Vec<&str>> = Vec::new();
    let mut within = false;
    for line in page.lines() {
        let cell = line.strip_prefix("| ").and_then(|row| row.split_once(" |")).map(|(cell, _)| cell);
        match cell {
            Some("key") => {
                within = true;
                tables.push(Vec::new());
            }
            Some(cell) if within => {
                let names = cell.split(": ").next().unwrap_or_default().split('`').skip(1).step_by(2);
                tables.last_mut().unwrap().extend(names);
            }
            None if line.starts_with("|--") => {}
            _ => within = false,
        }
    }
    assert!(tables.len() > 30, "{}", tables.len());
    let holds = |keys: &Vec<&str>| maps.iter().any(|map| keys.iter().all(|key| map.iter().any(|known| known == key)));
    let astray: Vec<_> = tables.iter().filter(|keys| !holds(keys)).collect();
    assert!(astray.is_empty(), "no map of a configuration has all these keys: {astray:#?}");
}
