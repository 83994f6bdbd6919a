//! A file that lists servers: what is wrong with it as a whole, and what is wrong with one of them, which leaves it out.

use std::path::Path;

use super::document::{self, Node, Value};
use super::fault::{Fault, Faults, Place};
use super::read_text;
use super::shape::{self, Misfit, found, index, quoted};
use crate::upstream::ServerList;
use crate::upstream::config::ServerConfig;

/// Reads a file that lists servers as `servers` does, with the variables of the process's environment.
///
/// # Errors
/// Why it can't be read, or why it is no list. What is wrong with one server leaves that out, unless there is no other.
pub fn load_servers(path: &Path) -> Result<ServerList, Faults> {
    let text = read_text(path)?;
    read_servers(&path.display().to_string(), &text, &|variable| std::env::var(variable).ok())
}

/// Reads the text of a file called `file_name`, with the variables that `env` knows.
///
/// # Errors
/// As [`load_servers`].
pub fn read_servers(file_name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<ServerList, Faults> {
    let fault = |at: document::Position, path: String, what| Fault {
        place: Place { file: file_name.to_owned(), line: at.line, column: at.column },
        path,
        what,
        source: text.lines().nth(at.line - 1).map(str::to_owned),
        lint: None,
    };
    let alone = |fault| Faults(vec![fault]);
    let root =
        document::read(text, env).map_err(|unreadable| alone(fault(unreadable.at, String::new(), unreadable.what)))?;
    let items = match root.value {
        Value::List(items) => items,
        Value::Null => Vec::new(),
        _ => {
            let what = format!("found {}, expected a list of servers", found(&root));
            return Err(alone(fault(root.at, String::new(), what)));
        }
    };
    if items.is_empty() {
        let what = "found an empty list, expected at least one server".to_owned();
        return Err(alone(fault(root.at, String::new(), what)));
    }
    let mut list = ServerList::default();
    let mut faults = Vec::new();
    for (position, mut node) in items.into_iter().enumerate() {
        match read_server(&mut node) {
            Ok(server) => list.servers.push(server),
            Err(misfit) => {
                let dot = if misfit.path.is_empty() || misfit.path.starts_with('[') { "" } else { "." };
                let path = format!("{}{dot}{}", index(position), misfit.path);
                let told = fault(misfit.at, path, misfit.what);
                list = list.without(name_of(&node, position), Fault { source: None, ..told.clone() }.to_string());
                faults.push(told);
            }
        }
    }
    if list.servers.is_empty() { Err(Faults(faults)) } else { Ok(list) }
}

/// The first that is wrong with it.
fn read_server(node: &mut Node) -> Result<ServerConfig, Misfit> {
    let at = node.at;
    let (server, misfits) = shape::fit::<ServerConfig>(node);
    if let Some(first) = misfits.into_iter().next() {
        return Err(first);
    }
    let alone = |what| Misfit { at, path: String::new(), what };
    let server = server.ok_or_else(|| alone("no server".to_owned()))?;
    server.check().map_err(alone)?;
    Ok(server)
}

/// What people call an entry that is no server.
fn name_of(node: &Node, position: usize) -> String {
    let text = |node: &Node| match &node.value {
        Value::Scalar(scalar) => Some(quoted(&scalar.text)),
        _ => None,
    };
    let said = match &node.value {
        Value::Map(entries) => ["name", "address"].iter().find_map(|&key| {
            let entry = entries.iter().find(|entry| entry.key == key)?;
            text(&entry.node)
        }),
        _ => text(node),
    };
    said.unwrap_or_else(|| format!("server {position}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<ServerList, Faults> {
        read_servers("servers.yaml", text, &|name| (name == "HOST").then(|| "10.0.0.7".to_owned()))
    }

    #[test]
    fn a_list_is_read_as_servers_of_the_configuration_are() {
        let yaml = "- 10.0.0.1:80\n- { address: '${HOST}:80', name: b, weight: 3, max_connections: 9, drain: true }\n";
        let json = r#"["10.0.0.1:80", {"address": "10.0.0.7:80", "name": "b", "weight": 3, "max_connections": 9, "drain": true}]"#;
        let list = read(yaml).unwrap();
        assert_eq!(list, read(json).unwrap());
        let second = ServerConfig::at("10.0.0.7:80").unwrap().with_name("b").with_weight(3);
        let second = second.with_max_connections(9).with_drain(true);
        assert_eq!(list, vec![ServerConfig::at("10.0.0.1:80").unwrap(), second].into());
    }

    #[test]
    fn a_bad_server_is_left_out_with_its_line_and_the_others_are_read() {
        let list =
            read("- 10.0.0.1:80\n- 10.0.0.2\n- { address: 10.0.0.3:80, wieght: 2 }\n- { weight: 300, name: d }\n- 7\n");
        let list = list.unwrap();
        assert_eq!(list.servers, [ServerConfig::at("10.0.0.1:80").unwrap()]);
        let told: Vec<_> = list.left_out.iter().map(ToString::to_string).collect();
        for (told, parts) in told.iter().zip([
            ["`10.0.0.2`: servers.yaml:2:3: [1]: ", "is not an address"],
            ["`10.0.0.3:80`: servers.yaml:3:27: [2].wieght: ", "did you mean `weight`?"],
            ["`d`: servers.yaml:4:", "weight"],
            ["`7`: servers.yaml:5:3: [4]: ", "expected a server"],
        ]) {
            assert!(parts.iter().all(|part| told.contains(part)), "{told} {parts:?}");
        }
        assert_eq!(told.len(), 4);
    }

    #[test]
    fn a_file_without_a_server_is_a_fault_with_its_line() {
        for (text, expected) in [
            ("", "servers.yaml:1:1: found an empty list, expected at least one server"),
            ("# none\n[]\n", "servers.yaml:2:1: found an empty list"),
            ("servers: []\n", "servers.yaml:1:1: found a map, expected a list of servers"),
            ("- 10.0.0.1:80\n- [\n", "not valid YAML"),
            ("- nowhere\n- nothing\n", "2 faults"),
            ("- \"${GONE}:80\"\n", "`GONE` is not set"),
        ] {
            let fault = read(text).unwrap_err().to_string();
            assert!(fault.contains(expected), "{text}: {fault}");
        }
    }

    proptest! {
        /// Whatever stands in a list, each entry is a server or left out, and the file says the same twice.
        #[test]
        fn every_entry_is_read_or_left_out(entries in prop::collection::vec(0..8usize, 1..20), broken in any::<u8>()) {
            const GOOD: usize = 4;
            let written = [
                "10.0.0.1:80", "\"[::1]:80\"", "{ address: a.example.com:80, weight: 2 }", "{ address: 10.0.0.2:1, name: x }",
                "10.0.0.1", "{ weight: 2 }", "[10.0.0.1:80]", "{ address: 10.0.0.1:80, weight: 0 }",
            ];
            let text: String = entries.iter().map(|&entry| format!("- {}\n", written[entry])).collect();
            let good = entries.iter().filter(|&&entry| entry < GOOD).count();
            match read(&text) {
                Ok(list) => {
                    prop_assert_eq!((list.servers.len(), list.left_out.len()), (good, entries.len() - good));
                    prop_assert_eq!(&read(&text).unwrap(), &list);
                }
                Err(faults) => prop_assert!(good == 0 && faults.0.len() == entries.len(), "{}", faults),
            }
            // With any byte of it another one it is read, or its fault has a place in it.
            let mut bytes = text.into_bytes();
            let at = usize::from(broken) % bytes.len();
            bytes[at] = bytes[at].wrapping_add(broken | 1);
            let text = String::from_utf8_lossy(&bytes);
            // A carriage return ends a line, too.
            let lines = text.replace('\r', "\n").lines().count() + 1;
            if let Err(faults) = read(&text) {
                prop_assert!(faults.0.iter().all(|fault| (1..=lines).contains(&fault.place.line)), "{}", faults);
            }
        }
    }
}
