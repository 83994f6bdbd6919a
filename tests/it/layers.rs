//! The house: a file imports only from floors below its own.

use std::collections::BTreeSet;
use std::path::Path;

/// From the top of the house to its foundation; modules of one floor do not know each other.
const FLOORS: [&[&str]; 18] = [
    &["main"],
    &["internals"],
    &["cli"],
    &["gateway", "import", "doctor"],
    &["admin", "acme", "controller"],
    &["reload"],
    &["proxy", "explain"],
    &["exchange"],
    &["snapshot"],
    &["discovery"],
    &["config"],
    &["upstream", "tunnel"],
    &["router", "affinity", "listener"],
    &["access", "compression"],
    &["filter", "trace"],
    &["http", "access_log", "session", "ending"],
    &["rate"],
    &[
        "kubernetes",
        "wire",
        "request",
        "address",
        "transport",
        "metrics",
        "buffers",
        "deadline",
        "roster",
        "secrets",
        "service",
        "share",
        "text",
        "watch",
        "logging",
    ],
];

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("{module} has no floor"))
}

/// Where Pingora's types may be named: in its engine, and where the process is assembled. An engine of another kind shares
/// everything else.
const PINGORAS: [&str; 2] = ["gateway/", "proxy/engine/pingora/"];

/// Every source file but the library's face: its path without the ending, and its code without tests.
fn code() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(&source).unwrap().with_extension("");
            // The face of the library, and what its own tools look at.
            if ["lib", "internals"].iter().any(|face| inside == Path::new(face)) || inside.ends_with("tests") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // What only tests use is theirs to choose.
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
            found.push((inside.to_str().unwrap().to_owned(), code.to_owned()));
        }
    }
    assert!(found.len() > 20, "the source was found");
    found
}

#[test]
fn a_file_imports_only_from_floors_below() {
    let mut wrong = BTreeSet::new();
    for (inside, code) in code() {
        let module = inside.split('/').next().unwrap();
        for used in imports(&code) {
            if used != module && floor(&used) <= floor(module) {
                wrong.insert(format!("{inside} uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_decides_knows_no_engine() {
    let mut named = BTreeSet::new();
    for (inside, code) in code() {
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        // What our own module of that name shows is ours.
        if code.into_iter().any(|line| line.replace("engine::pingora::", "").contains("pingora::")) {
            named.insert(inside);
        }
    }
    let allowed = |file: &&String| PINGORAS.iter().any(|place| file.starts_with(place));
    let strangers: Vec<_> = named.iter().filter(|file| !allowed(file)).collect();
    assert!(strangers.is_empty(), "{strangers:?} name Pingora");
    assert!(PINGORAS.iter().all(|place| named.iter().any(|file| file.starts_with(place))), "each is needed: {named:?}");
}

/// Where a protocol of sessions is named: in its own file and its readers, in the name of a counter that operators know, and
/// where it is spoken as clients do.
const PROTOCOLS: [&str; 4] = ["session/", "wire/", "metrics", "doctor/"];

#[test]
fn only_sessions_and_their_readers_name_a_protocol() {
    let mut named = BTreeSet::new();
    for (inside, code) in code() {
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let names =
            ["engine_io", "EngineIo", "SocketIo", "Engine.IO", "Mcp", "mcp", "SockJs", "sockjs", "SignalR", "signalr"];
        if code.into_iter().any(|line| names.iter().any(|name| line.contains(name))) {
            named.insert(inside);
        }
    }
    let allowed = |file: &&String| PROTOCOLS.iter().any(|place| file.starts_with(place));
    let strangers: Vec<_> = named.iter().filter(|file| !allowed(file)).collect();
    assert!(strangers.is_empty(), "{strangers:?} name a protocol");
    assert!(
        PROTOCOLS.iter().all(|place| named.iter().any(|file| file.starts_with(place))),
        "each is needed: {named:?}"
    );
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
