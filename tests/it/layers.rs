//! The house: a file imports only from floors below its own.

use std::collections::BTreeSet;
use std::path::Path;

/// From the top of the house to its foundation; modules of one floor do not know each other.
const FLOORS: [&[&str]; 12] = [
    &["main"],
    &["cli"],
    &["gateway"],
    &["admin"],
    &["reload"],
    &["proxy"],
    &["snapshot"],
    &["config"],
    &["upstream", "tunnel"],
    &["router", "affinity", "listener"],
    &["http", "access_log"],
    &["wire", "request", "address", "transport", "metrics", "deadline", "drain"],
];

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("{module} has no floor"))
}

#[test]
fn a_file_imports_only_from_floors_below() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = BTreeSet::new();
    let mut files = 0;
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(&source).unwrap().with_extension("");
            let module = inside.components().next().unwrap().as_os_str().to_str().unwrap().to_owned();
            if module == "lib" {
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            // What only tests use is theirs to choose.
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
            if inside.file_name().is_some_and(|name| name == "tests") {
                continue;
            }
            for used in imports(code) {
                if used != module && floor(&used) <= floor(&module) {
                    wrong.insert(format!("{} uses crate::{used}", inside.display()));
                }
            }
        }
    }
    assert!(files > 20, "the source was found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The modules behind `crate::` in code, in use lines or in place; doc links may point anywhere.
fn imports(code: &str) -> BTreeSet<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut used = BTreeSet::new();
    for line in lines {
        for rest in line.split("crate::").skip(1) {
            let group = rest.strip_prefix('{').map_or(rest, |group| group.split('}').next().unwrap_or(group));
            let names: Vec<&str> =
                if group.len() < rest.len() && rest.starts_with('{') { group.split(',').collect() } else { vec![rest] };
            for name in names {
                let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !name.is_empty() {
                    used.insert(name);
                }
            }
        }
    }
    used
}
