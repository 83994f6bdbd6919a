//! `include`: further files of one configuration, each with routes and upstreams of its own.
//!
//! What they hold is laid behind what the file itself says, before anything of it is understood: so whatever is checked is
//! checked across all files, and each value still knows the file that it stands in.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::document::{self, Entry, Node, Position, Value};
use super::fault::{Fault, Faults, Place};
use super::lint::Lint;
use super::shape::{Misfit, found, index, one_of, push_key, written_twice};

/// More than any gateway has teams, and few enough to be looked at on each change of a folder.
const MOST_FILES: usize = 1000;
/// What else there is belongs to the whole gateway.
const KEYS: [&str; 2] = ["routes", "upstreams"];

/// The texts that a configuration is read from: the file itself, then those that it includes.
#[derive(Debug)]
pub(super) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    name: String,
    /// `None` for who is no file, and says parts beside it.
    text: Option<String>,
}

impl Sources {
    pub(super) fn new(name: &str, text: String) -> Self {
        let name = name.to_owned();
        Self(vec![Source { name, text: Some(text) }])
    }

    /// Adds those who say parts beside the files; gives the number of the first.
    pub(super) fn add_origins(&mut self, names: &[String]) -> usize {
        let first = self.0.len();
        self.0.extend(names.iter().map(|name| Source { name: name.clone(), text: None }));
        first
    }

    /// The number of the first who is no file: that of none where all are files.
    pub(super) fn first_origin(&self) -> usize {
        self.0.iter().position(|source| source.text.is_none()).unwrap_or(self.0.len())
    }

    /// The file itself.
    pub(super) fn main(&self) -> &str {
        self.0.first().and_then(|source| source.text.as_deref()).unwrap_or_default()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|source| source.name.clone()).collect()
    }

    /// The misfits in the order of the files and their lines, with their places.
    pub(super) fn tell(&self, mut misfits: Vec<Misfit>) -> Vec<Fault> {
        misfits.sort_by_key(|misfit| misfit.at);
        misfits.into_iter().map(|misfit| self.fault(misfit, None)).collect()
    }

    /// The same for what is hardly meant.
    pub(super) fn warn(&self, mut misfits: Vec<(Lint, Misfit)>) -> Vec<Fault> {
        misfits.sort_by_key(|(_, misfit)| misfit.at);
        misfits.into_iter().map(|(lint, misfit)| self.fault(misfit, Some(lint))).collect()
    }

    /// One of them with its place.
    pub(super) fn fault(&self, Misfit { at, path, what }: Misfit, lint: Option<Lint>) -> Fault {
        let file = self.0.get(at.file);
        let place = Place { file: file.map_or("", |file| &file.name).to_owned(), line: at.line, column: at.column };
        let text = file.and_then(|file| file.text.as_deref());
        let source = text.and_then(|text| text.lines().nth(at.line.checked_sub(1)?)).map(str::to_owned);
        Fault { place, path, what, source, lint }
    }

    /// The name of a file, if it has this text in it.
    pub(super) fn holds(&self, file: usize, text: &str) -> Option<&Path> {
        let source = self.0.get(file)?;
        source.text.as_ref().is_some_and(|all| all.contains(text)).then(|| Path::new(&source.name))
    }

    /// Reads the files that the root includes, and lays their routes and upstreams behind those of the root. `main` is
    /// the file that the root was read from; a text that comes from nowhere includes nothing.
    ///
    /// # Errors
    /// Why files can't be read, or are no YAML: nothing else can be said then, since what they hold may be what is missed
    /// elsewhere.
    pub(super) fn include(
        &mut self,
        root: &mut Node,
        main: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<Misfit>, Faults> {
        let (files, misfits) = files(root, main);
        let (mut unreadable, mut parts) = (self.tell(misfits), Vec::new());
        for file in files {
            let text = match super::read_text(&file) {
                Ok(text) => text,
                Err(Faults(faults)) => {
                    unreadable.extend(faults);
                    continue;
                }
            };
            let number = self.0.len();
            let read = document::read(&text, env);
            self.0.push(Source { name: file.display().to_string(), text: Some(text) });
            match read {
                Ok(mut part) => {
                    part.belongs_to(number);
                    parts.push(part);
                }
                Err(mut fault) => {
                    fault.at.file = number;
                    unreadable.extend(self.tell(vec![Misfit { at: fault.at, path: String::new(), what: fault.what }]));
                }
            }
        }
        if !unreadable.is_empty() {
            return Err(Faults(unreadable));
        }
        let mut joined = Joined::of(root, self.names());
        parts.into_iter().for_each(|part| joined.add(part));
        Ok(joined.into(root))
    }

    /// The files that were included.
    pub(super) fn included(&self) -> Vec<PathBuf> {
        let files = self.0.iter().take(self.first_origin());
        files.skip(1).map(|source| PathBuf::from(&source.name)).collect()
    }
}

/// The files that `include` names, each once, and what is wrong with the names.
fn files(root: &Node, main: Option<&Path>) -> (Vec<PathBuf>, Vec<Misfit>) {
    let (mut files, mut misfits): (Vec<PathBuf>, Vec<Misfit>) = (Vec::new(), Vec::new());
    for (path, at, named) in patterns(root) {
        let listed = match main {
            Some(main) => list(main, named),
            None => Err("expected nothing: a text that does not come from a file includes none".to_owned()),
        };
        match listed {
            Ok(listed) => listed.into_iter().for_each(|file| {
                if !files.contains(&file) {
                    files.push(file);
                }
            }),
            Err(why) => misfits.push(Misfit { at, path: path.clone(), what: format!("found `{named}`, {why}") }),
        }
        if files.len() > MOST_FILES {
            files.clear();
            misfits.push(Misfit { at, path, what: format!("more than {MOST_FILES} files in all") });
            break;
        }
    }
    (files, misfits)
}

/// The texts of `include`, with their places; another shape is left to be found faulty with everything else.
fn patterns(root: &Node) -> Vec<(String, Position, &str)> {
    let Value::Map(entries) = &root.value else { return Vec::new() };
    let Some(said) = entries.iter().find(|entry| entry.key == "include") else { return Vec::new() };
    match &said.node.value {
        Value::Scalar(scalar) => vec![("include".to_owned(), said.node.at, scalar.text.as_str())],
        Value::List(items) => {
            let texts = items.iter().enumerate().filter_map(|(n, item)| match &item.value {
                Value::Scalar(scalar) => Some((format!("include{}", index(n)), item.at, scalar.text.as_str())),
                _ => None,
            });
            texts.collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a file of this name is meant.
type Fits = Box<dyn Fn(&str) -> bool>;

/// The files that one name stands for, as seen from the folder of the file `main` that includes them: a file, the YAML
/// files of a folder, or those whose names fit where the last part has `*` or `?`; in the order of their names.
fn list(main: &Path, named: &str) -> Result<Vec<PathBuf>, String> {
    if named.is_empty() {
        return Err("expected a file, a folder, or names with `*`".to_owned());
    }
    let path = beside(main, named);
    let (folder, fits): (&Path, Fits) = if has_wildcard(named) {
        let (Some(folder), Some(last)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
            return Err("expected a file, a folder, or names with `*`".to_owned());
        };
        if folder.to_str().is_none_or(has_wildcard) {
            return Err("expected `*` and `?` in the last part only".to_owned());
        }
        let last = last.to_owned();
        (folder, Box::new(move |name| fits(&last, name)))
    } else if path.is_dir() {
        (&path, Box::new(is_yaml))
    } else if path.exists() {
        return Ok(vec![path]);
    } else {
        return Err("expected a file or a folder that is there".to_owned());
    };
    let listed = fs::read_dir(folder).map_err(|error| format!("which cannot be listed: {error}"))?;
    let own = fs::canonicalize(main).ok();
    let mut files = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|error| format!("which cannot be listed: {error}"))?;
        let (name, path) = (entry.file_name(), entry.path());
        // What begins with a dot is hidden, such as the folders that Kubernetes turns its link between.
        let wanted = name.to_str().is_some_and(|name| !name.starts_with('.') && fits(name));
        if wanted && path.is_file() && (own.is_none() || fs::canonicalize(&path).ok() != own) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What has to be watched for the files that `main` includes: they themselves, and a name in each folder that may get more
/// of them.
pub(crate) fn watched(main: &Path, include: &[String]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for named in include {
        let path = beside(main, named);
        all.extend(list(main, named).unwrap_or_default());
        all.push(if path.is_dir() { path.join("*") } else { path });
    }
    all.sort();
    all.dedup();
    all
}

/// A path as it is meant in a file: from the folder of that on.
fn beside(main: &Path, named: &str) -> PathBuf {
    main.parent().map_or_else(|| PathBuf::from(named), |folder| folder.join(named))
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?'])
}

fn is_yaml(name: &str) -> bool {
    [".yaml", ".yml"].iter().any(|end| name.len() > end.len() && name.ends_with(end))
}

/// Whether a name fits a pattern in which `*` stands for any letters and `?` for one. Back to the last `*` only, so that
/// no pattern takes long.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// The routes and upstreams of all files, as they are put together.
struct Joined {
    names: Vec<String>,
    routes: Vec<Node>,
    upstreams: Vec<Entry>,
    /// Where upstreams are, by name: in the file itself, or in one that was included before.
    known: HashMap<String, Position>,
    misfits: Vec<Misfit>,
}

impl Joined {
    fn of(root: &Node, names: Vec<String>) -> Self {
        let mut known = HashMap::new();
        if let Value::Map(entries) = &root.value {
            let upstreams = entries
                .iter()
                .filter(|entry| entry.key == "upstreams")
                .filter_map(|entry| if let Value::Map(entries) = &entry.node.value { Some(entries) } else { None });
            known.extend(upstreams.flatten().map(|entry| (entry.key.clone(), entry.at)));
        }
        Self { names, routes: Vec::new(), upstreams: Vec::new(), known, misfits: Vec::new() }
    }

    fn add(&mut self, part: Node) {
        let entries = match part.value {
            Value::Map(entries) => entries,
            Value::Null => return,
            _ => {
                let what = format!("found {}, expected a map with {}", found(&part), one_of(&KEYS));
                return self.misfits.push(Misfit { at: part.at, path: String::new(), what });
            }
        };
        for Entry { key, at, node, first } in entries {
            let mut path = String::new();
            push_key(&mut path, &key);
            if let Some(first) = first {
                self.misfits.push(Misfit { at, path, what: written_twice(first) });
                continue;
            }
            match (key.as_str(), node.value) {
                ("routes", Value::List(items)) => self.routes.extend(items),
                ("upstreams", Value::Map(entries)) => entries.into_iter().for_each(|entry| self.upstream(entry)),
                ("routes" | "upstreams", Value::Null) => {}
                (key @ ("routes" | "upstreams"), value) => {
                    let expected = if key == "routes" { "a list" } else { "a map of keys" };
                    let node = Node::new(node.at, value);
                    self.misfits.push(Misfit {
                        at: node.at,
                        path,
                        what: format!("found {}, expected {expected}", found(&node)),
                    });
                }
                (key, _) => {
                    let what = match super::fault::nearest(key, KEYS) {
                        Some(meant) => format!("unknown key, did you mean `{meant}`?"),
                        None => format!(
                            "unknown key, expected {}: all else is said in {}, which includes this file",
                            one_of(&KEYS),
                            self.names[0]
                        ),
                    };
                    self.misfits.push(Misfit { at, path, what });
                }
            }
        }
    }

    fn upstream(&mut self, entry: Entry) {
        match self.known.get(&entry.key) {
            // Twice in one file is found with everything else there.
            Some(first) if first.file != entry.at.file => {
                let mut path = "upstreams".to_owned();
                push_key(&mut path, &entry.key);
                let first = place(&self.names, *first);
                let what = format!("the name of an upstream already, in {first}: names have to differ between files");
                self.misfits.push(Misfit { at: entry.at, path, what });
            }
            _ => {
                self.known.insert(entry.key.clone(), entry.at);
                self.upstreams.push(entry);
            }
        }
    }

    /// Puts everything into the root. What does not fit there is of another shape, and will be found so.
    fn into(self, root: &mut Node) -> Vec<Misfit> {
        let at = root.at;
        if let Value::Map(entries) = &mut root.value {
            for (key, value) in [("routes", Value::List(self.routes)), ("upstreams", Value::Map(self.upstreams))] {
                let is_empty = match &value {
                    Value::List(items) => items.is_empty(),
                    Value::Map(entries) => entries.is_empty(),
                    _ => true,
                };
                if is_empty {
                    continue;
                }
                match (entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node.value), value) {
                    (Some(Value::List(all)), Value::List(more)) => all.extend(more),
                    (Some(Value::Map(all)), Value::Map(more)) => all.extend(more),
                    (Some(none @ Value::Null), value) => *none = value,
                    (Some(_), _) => {}
                    (None, value) => {
                        let (key, node, first) = (key.to_owned(), Node::new(at, value), None);
                        entries.push(Entry { key, at, node, first });
                    }
                }
            }
        }
        self.misfits
    }
}

/// A place as a fault elsewhere names it.
pub(super) fn place(names: &[String], at: Position) -> String {
    let name = names.get(at.file).map_or("", String::as_str);
    if at.line == 0 { name.to_owned() } else { format!("{name}:{}:{}", at.line, at.column) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Loaded};

    const MAIN: &str = "listeners: [{ address: ':1' }]\n";

    /// A folder with these files, the first of which is read.
    fn load(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Loaded, String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let own = format!("{}/", folder.path().display());
        let loaded = Config::load(&folder.path().join(files[0].0)).map_err(|f| f.to_string().replace(&own, ""));
        (folder, loaded)
    }

    fn team(letter: char) -> String {
        format!(
            "routes: [{{ match: {{ path: /{letter} }}, upstream: {letter} }}]\nupstreams: {{ {letter}: {{ servers: ['10.0.0.1:80'] }} }}\n"
        )
    }

    fn paths(loaded: &Loaded) -> Vec<&str> {
        loaded.config.routes.iter().flat_map(|route| &route.matches.path.0).map(String::as_str).collect()
    }

    #[test]
    fn routes_of_the_file_itself_come_first_then_those_of_the_others_in_their_order() {
        let main =
            format!("{MAIN}include: [last.yaml, teams]\nroutes: [{{ match: {{ path: /own }}, respond: {{}} }}]\n");
        let (_folder, loaded) = load(&[
            ("sockgate.yaml", &main),
            ("teams/b.yaml", &team('b')),
            ("teams/a.yml", &team('a')),
            ("teams/.hidden.yaml", "nonsense"),
            ("teams/README", "nonsense"),
            ("last.yaml", &team('z')),
        ]);
        let loaded = loaded.unwrap();
        assert_eq!(paths(&loaded), ["/own", "/z", "/a", "/b"]);
        assert_eq!(loaded.config.upstreams.keys().collect::<Vec<_>>(), ["a", "b", "z"]);
        assert_eq!(loaded.included.len(), 3);
    }

    #[test]
    fn a_pattern_names_files_each_of_them_counts_once_and_the_file_itself_never() {
        let main = format!("{MAIN}include: ['team-?.yaml', '*.yaml']\n");
        let (_folder, loaded) = load(&[("sockgate.yaml", &main), ("team-b.yaml", &team('b')), ("a.yaml", &team('a'))]);
        assert_eq!(paths(&loaded.unwrap()), ["/b", "/a"]);
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, expected) in [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", "a.yml", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("?.yaml", "é.yaml", true),
            ("?.yaml", ".yaml", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn faults_tell_the_file_and_its_line_and_count_within_it() {
        let main = format!("{MAIN}include: teams\nroutes: [{{ match: {{ path: /own }}, respond: {{}} }}]\n");
        let (_folder, loaded) = load(&[
            ("sockgate.yaml", &main),
            ("teams/a.yaml", "routes:\n  - { match: { path: /a }, upstream: nobody }\n"),
            ("teams/b.yaml", "listeners: []\nroutes:\n  - { upsteam: b }\n"),
            ("teams/c.yaml", "routes: { path: /c }\n"),
        ]);
        let told = loaded.unwrap_err();
        for part in [
            "teams/a.yaml:2:38: routes[0].upstream: unknown upstream `nobody`",
            "     2 |   - { match: { path: /a }, upstream: nobody }",
            "teams/b.yaml:1:1: listeners: unknown key, expected `routes` or `upstreams`: all else is said in",
            "teams/b.yaml:3:7: routes[0].upsteam: unknown key, did you mean `upstream`?",
            "teams/c.yaml:1:9: routes: found a map, expected a list",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[test]
    fn what_two_files_name_alike_is_told_with_both_places() {
        let main = format!("{MAIN}include: teams\nupstreams: {{ m: {{ servers: ['10.0.0.1:80'] }} }}\n");
        let named = "routes: [{ name: api, match: { path: /x }, upstream: a }]\nupstreams:\n  a: { servers: ['10.0.0.1:80'] }\n";
        let again = "routes:\n  - { name: api, match: { path: /y }, upstream: a }\n  - { match: { path: /x/y }, upstream: a }\nupstreams:\n  a: { servers: ['10.0.0.2:80'] }\n  m: { servers: ['10.0.0.2:80'] }\n";
        let (_folder, loaded) = load(&[("sockgate.yaml", &main), ("teams/a.yaml", named), ("teams/b.yaml", again)]);
        let told = loaded.unwrap_err();
        for part in [
            "teams/b.yaml:2:13: routes[0].name: `api` is the name of routes[0] in teams/a.yaml:1:10 already",
            "teams/b.yaml:3:5: routes[1]: never reached: routes[0] in teams/a.yaml:1:10 comes first",
            "teams/b.yaml:5:3: upstreams.a: the name of an upstream already, in teams/a.yaml:3:3: names have to differ",
            "teams/b.yaml:6:3: upstreams.m: the name of an upstream already, in sockgate.yaml:3:14",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[test]
    fn what_cannot_be_included_is_told_where_it_is_named() {
        let main = format!("{MAIN}include: [gone.yaml, 'te*/a.yaml', bad.yaml, '']\n");
        let (_folder, loaded) = load(&[("sockgate.yaml", &main), ("bad.yaml", "routes: [\n")]);
        let told = loaded.unwrap_err();
        for part in [
            "sockgate.yaml:2:11: include[0]: found `gone.yaml`, expected a file or a folder that is there",
            "sockgate.yaml:2:22: include[1]: found `te*/a.yaml`, expected `*` and `?` in the last part only",
            "sockgate.yaml:2:46: include[3]: found ``, expected a file, a folder",
            "bad.yaml:2:1: not valid YAML",
            "4 faults",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        let told = Config::read("text", &main, &|_| None).unwrap_err().to_string();
        assert!(told.contains("a text that does not come from a file includes none"), "{told}");
    }

    #[test]
    fn what_is_watched_are_the_files_and_their_folders() {
        let (folder, _) = load(&[("sockgate.yaml", MAIN), ("teams/a.yaml", ""), ("one.yaml", "")]);
        let main = folder.path().join("sockgate.yaml");
        let include = ["teams".to_owned(), "one.yaml".to_owned(), "later/*.yaml".to_owned()];
        let watched = watched(&main, &include);
        let names: Vec<_> =
            watched.iter().map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["later/*.yaml", "one.yaml", "teams/*", "teams/a.yaml"]);
    }
}
