//! Parts of a configuration that no file holds: what the objects of a cluster say, each for itself.
//!
//! They are laid behind what the file says before anything of it is understood, as included files are, so that whatever is
//! checked is checked across all of them. What is wrong with a part leaves its origin out, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::document::{Entry, Kind, Node, Position, Scalar, Value};
use super::fault::{Fault, Faults};
use super::{Config, Loaded, Sources, read_text};
use crate::address::BindAddress;
use crate::secrets::Secrets;

/// What is said beside a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// Who says it, as faults name them. Each is left out as a whole where something of it is wrong.
    pub origins: Vec<String>,
    /// Routes in their order, behind those of the file: the place of the origin, and an entry of `routes`.
    pub routes: Vec<(usize, serde_json::Value)>,
    /// Upstreams: the place of the origin, the name, and what stands below it in `upstreams`.
    pub upstreams: Vec<(usize, String, serde_json::Value)>,
    /// Where connections to `tcp` listeners of the file go that say no `upstream`: the place of the origin, the name of the
    /// listener, and what stands in its `upstream`.
    pub carried: Vec<(usize, String, serde_json::Value)>,
    /// Connections that go on with TLS as it is: the same, with an entry of the listener's `tls.passthrough`.
    pub passthrough: Vec<(usize, String, serde_json::Value)>,
    /// Certificates that each listener of the file shows that has `tls`, behind its own: entries of `tls.certificates`.
    pub certificates: Vec<(usize, serde_json::Value)>,
    /// Files that they name and that are in no file system.
    pub secrets: Secrets,
}

/// Who was left out, by its place among the origins, and why.
pub type LeftOut = BTreeMap<usize, String>;

/// What was found out about those who say parts, by their places among the origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Whom the configuration was read without.
    pub left_out: LeftOut,
    /// What is allowed but hardly meant.
    pub doubts: Vec<(usize, String)>,
}

impl Config {
    /// Reads a file as [`Self::load`] does, with parts beside it: those that are wrong are left out.
    ///
    /// # Errors
    /// Everything that is wrong with the file, or why it cannot be read.
    pub(crate) fn load_with(path: &Path, parts: &Parts) -> Result<(Loaded, Findings), Faults> {
        let text = read_text(path)?;
        Self::read_with(&path.display().to_string(), &text, Some(path), &|name| std::env::var(name).ok(), parts)
    }

    /// The same for the text of a file that may come from nowhere.
    pub(crate) fn read_with(
        name: &str,
        text: &str,
        main: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
        parts: &Parts,
    ) -> Result<(Loaded, Findings), Faults> {
        let places: HashMap<&str, usize> =
            parts.origins.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        let mut out = LeftOut::new();
        loop {
            let sources = Sources::new(name, text.to_owned());
            let Faults(faults) = match Self::read_sources(sources, main, env, Some((parts, &out))) {
                Ok(mut loaded) => {
                    // What is doubtful about a part is told of its origin, and not at every reload.
                    let place = |fault: &Fault| places.get(fault.place.file.as_str()).copied();
                    let doubts =
                        loaded.warnings.iter().filter_map(|fault| Some((place(fault)?, told(fault)))).collect();
                    loaded.warnings.retain(|fault| place(fault).is_none());
                    return Ok((loaded, Findings { left_out: out, doubts }));
                }
                Err(faults) => faults,
            };
            let before = out.len();
            // Who is only in the way of another may have a fault of its own, and be in nobody's way without it.
            for of_its_own in [true, false] {
                for fault in faults.iter().filter(|fault| fault.what.starts_with(NEVER_REACHED) != of_its_own) {
                    if let Some(&place) = places.get(fault.place.file.as_str()) {
                        out.entry(place).or_insert_with(|| told(fault));
                    }
                }
                if out.len() > before {
                    break;
                }
            }
            // What is left is wrong with the file.
            if out.len() == before {
                return Err(Faults(faults));
            }
        }
    }
}

/// How a fault begins that comes of what stands before.
pub(super) const NEVER_REACHED: &str = "never reached: ";

/// A fault as it is told of an object, which has no lines.
fn told(fault: &Fault) -> String {
    if fault.path.is_empty() { fault.what.clone() } else { format!("{}: {}", fault.path, fault.what) }
}

impl Parts {
    /// Lays them behind what the root holds; their files are counted from `first` on.
    pub(super) fn lay(&self, root: &mut Node, first: usize, out: &LeftOut) {
        let Value::Map(entries) = &mut root.value else { return };
        let is_in = |place: &usize| !out.contains_key(place);
        let at = |place: usize| Position { file: first + place, line: 0, column: 0 };
        let routes = self.routes.iter().filter(|(place, _)| is_in(place));
        let routes = routes.map(|(place, value)| node(value, at(*place)));
        let upstreams = self.upstreams.iter().filter(|(place, ..)| is_in(place));
        let upstreams = upstreams.map(|(place, name, value)| entry(name, value, at(*place)));
        let certificates = || {
            let those = self.certificates.iter().filter(|(place, _)| is_in(place));
            those.map(|(place, value)| node(value, at(*place)))
        };
        add(entries, "routes", Value::List(routes.collect()));
        add(entries, "upstreams", Value::Map(upstreams.collect()));
        let Some(listeners) = entries.iter_mut().find(|entry| entry.key == "listeners") else { return };
        let Value::List(listeners) = &mut listeners.node.value else { return };
        for listener in listeners {
            let Value::Map(keys) = &mut listener.value else { continue };
            let name = name_of(keys).unwrap_or_default();
            let of_it = |all: &[(usize, String, serde_json::Value)]| -> Vec<Node> {
                let those = all.iter().filter(|(place, listener, _)| is_in(place) && *listener == name);
                those.map(|(place, _, value)| node(value, at(*place))).collect()
            };
            let has_upstream = keys.iter().any(|entry| entry.key == "upstream");
            if let Some(upstream) = of_it(&self.carried).into_iter().next().filter(|_| !has_upstream) {
                keys.push(Entry { key: "upstream".to_owned(), at: upstream.at, node: upstream, first: None });
            }
            let Some(tls) = keys.iter_mut().find(|entry| entry.key == "tls") else { continue };
            if let Value::Map(keys) = &mut tls.node.value {
                add(keys, "certificates", Value::List(certificates().collect()));
                let passed = of_it(&self.passthrough);
                if !passed.is_empty() {
                    add(keys, "passthrough", Value::List(passed));
                }
            }
        }
    }
}

/// The name of a listener: as said, or its address.
fn name_of(keys: &[Entry]) -> Option<String> {
    let text = |key: &str| match &keys.iter().find(|entry| entry.key == key)?.node.value {
        Value::Scalar(scalar) => Some(scalar.text.clone()),
        _ => None,
    };
    let address = || Some(text("address")?.parse::<BindAddress>().ok()?.to_string());
    text("name").or_else(address)
}

/// Adds to the list or the map that a key holds. What does not fit there is of another shape, and will be found so.
fn add(entries: &mut Vec<Entry>, key: &str, value: Value) {
    match (entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node.value), value) {
        (Some(Value::List(all)), Value::List(more)) => all.extend(more),
        (Some(Value::Map(all)), Value::Map(more)) => all.extend(more),
        (Some(none @ Value::Null), value) => *none = value,
        (Some(_), _) => {}
        (None, value) => {
            let at = Position { file: 0, line: 1, column: 1 };
            entries.push(Entry { key: key.to_owned(), at, node: Node::new(at, value), first: None });
        }
    }
}

fn entry(key: &str, value: &serde_json::Value, at: Position) -> Entry {
    Entry { key: key.to_owned(), at, node: node(value, at), first: None }
}

fn node(value: &serde_json::Value, at: Position) -> Node {
    let scalar = |text: String, kind| Value::Scalar(Scalar { text, kind });
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(is) => scalar(is.to_string(), Kind::Bool(*is)),
        serde_json::Value::Number(number) => {
            let kind = match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => Kind::Unsigned(number),
                (_, Some(number), _) => Kind::Signed(number),
                (_, _, Some(number)) => Kind::Float(number),
                _ => Kind::Text,
            };
            scalar(number.to_string(), kind)
        }
        serde_json::Value::String(text) => scalar(text.clone(), Kind::Text),
        serde_json::Value::Array(items) => Value::List(items.iter().map(|item| node(item, at)).collect()),
        serde_json::Value::Object(map) => Value::Map(map.iter().map(|(key, value)| entry(key, value, at)).collect()),
    };
    Node::new(at, value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "listeners: [{ address: ':1', tls: { certificates: [] } }]\nroutes:\n  - { match: { path: /own }, respond: {} }\n";

    fn read(text: &str, parts: &Parts) -> Result<(Config, LeftOut), String> {
        let read = Config::read_with("test.yaml", text, None, &|_| None, parts);
        read.map(|(loaded, found)| (loaded.config, found.left_out)).map_err(|faults| faults.to_string())
    }

    fn part(path: &str, upstream: &str) -> serde_json::Value {
        json!({ "match": { "path": path }, "upstream": upstream })
    }

    fn parts() -> Parts {
        let servers = json!({ "servers": ["10.0.0.1:80", "10.0.0.2:80"] });
        Parts {
            origins: ["Ingress a", "Ingress b", "Ingress c"].map(str::to_owned).to_vec(),
            routes: vec![
                (0, part("/a", "a")),
                (1, part("/b", "nobody")),
                (2, part("/own/c", "a")),
                (0, part("/d", "a")),
            ],
            upstreams: vec![(0, "a".to_owned(), servers), (1, "b".to_owned(), json!({ "servers": [] }))],
            ..Parts::default()
        }
    }

    #[test]
    fn what_is_wrong_with_a_part_leaves_its_origin_out_and_nothing_else() {
        let (config, out) = read(FILE, &parts()).unwrap();
        let paths: Vec<_> = config.routes.iter().flat_map(|route| &route.matches.path.0).collect();
        assert_eq!(paths, ["/own", "/a", "/d"]);
        assert_eq!(config.upstreams.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(out.keys().collect::<Vec<_>>(), [&1, &2]);
        assert!(out[&1].contains("unknown upstream `nobody`"), "{out:?}");
        assert!(out[&2].contains("never reached: routes[0] in test.yaml:3:5 comes first"), "{out:?}");
    }

    #[test]
    fn who_is_wrong_is_in_nobodys_way() {
        let mut parts = parts();
        let all = json!({ "match": { "method": "get it" }, "respond": {} });
        parts.routes = vec![(1, json!({ "respond": {} })), (1, all), (0, part("/a", "a"))];
        parts.upstreams.pop();
        let (config, out) = read(FILE, &parts).unwrap();
        assert_eq!((config.routes.len(), out.keys().collect::<Vec<_>>()), (2, vec![&1]));
    }

    #[test]
    fn certificates_are_shown_by_each_listener_that_has_tls_and_what_is_wrong_with_the_file_is_its_fault() {
        let mut parts = parts();
        parts.certificates = vec![(0, json!({ "cert": "secret://x/tls.crt", "key": "secret://x/tls.key" }))];
        let (config, _) = read(FILE, &parts).unwrap();
        assert_eq!(config.listeners[0].tls.as_ref().unwrap().certificates.len(), 1);
        let told = read("listeners: [{ address: nowhere }]\n", &parts).unwrap_err();
        assert!(told.contains("test.yaml:1:24"), "{told}");
        assert!(Config::read("test.yaml", FILE, &|_| None).is_err(), "without parts there has to be a certificate");
    }
}
