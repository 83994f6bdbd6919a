use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::Config;

const FOLDERS: [(&str, Source); 4] = [
    ("haproxy", Source::Haproxy),
    ("nginx", Source::Nginx),
    ("traefik", Source::Traefik),
    ("stunnel", Source::Stunnel),
];

/// Every file that is imported in the tests, and the one that it becomes.
fn fixtures() -> Vec<(Source, PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let mut all = Vec::new();
    for (folder, source) in FOLDERS {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let file = entry.unwrap().path();
            if !file.to_str().unwrap().ends_with(".sockgate.yaml") {
                all.push((source, file.clone(), file.with_extension("sockgate.yaml")));
            }
        }
    }
    all.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
    all
}

/// `UPDATE_GOLDEN=1` writes what is imported now.
#[test]
fn files_of_others_become_what_stands_beside_them() {
    for (source, file, golden) in fixtures() {
        let name = file.file_name().unwrap().to_str().unwrap();
        let imported = import(source, name, &fs::read_to_string(&file).unwrap()).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &imported.yaml).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert!(imported.yaml == expected, "{}:\n{}", file.display(), imported.yaml);
    }
}

#[test]
fn what_is_written_passes_check() {
    let all = fixtures();
    assert!(all.len() >= 10, "{} of them", all.len());
    for (source, file, _) in all {
        let imported = import(source, "old", &fs::read_to_string(&file).unwrap()).unwrap();
        if let Err(faults) = Config::read("new.yaml", &imported.yaml, &|_| None) {
            panic!("{}:\n{faults}\n{}", file.display(), imported.yaml);
        }
    }
}

/// A line is carried over, or it stands in a comment with its number.
#[test]
fn nothing_of_an_haproxy_file_is_lost_in_silence() {
    let strange = "frontend a\n bind :80\n mode http\n strange-thing yes\n default_backend b\nbackend b\n server s 127.0.0.1:1\n odd 1\n";
    let imported = import(Source::Haproxy, "old", strange).unwrap();
    assert!(imported.yaml.contains("# line 4 `strange-thing yes`: it has no counterpart"), "{}", imported.yaml);
    assert!(imported.yaml.contains("# line 8 `odd 1`: it has no counterpart"), "{}", imported.yaml);
    assert_eq!(imported.left_out, 2);
}

#[test]
fn what_can_not_be_read_says_where() {
    for (source, text, line, what) in [
        (Source::Haproxy, "bind :80\n", 1, "expected a section"),
        (Source::Haproxy, "frontend a\n bind \":80\n", 2, "not closed"),
        (Source::Haproxy, "# nothing\n", 1, "found no section"),
        (Source::Nginx, "server {\n listen 80;\n", 2, "expected `}`"),
        (Source::Nginx, "server { listen 80; }\n}\n", 2, "nothing has opened"),
        (Source::Nginx, "server { listen 80 }\n", 1, "expected `;`"),
        (Source::Nginx, "events {}\n", 1, "found no `server`"),
        (Source::Traefik, "http: [\n", 2, "only YAML"),
        (Source::Traefik, "other: 1\n", 1, "neither"),
        (Source::Stunnel, "cert = a\n", 1, "no `[service]`"),
        (Source::Stunnel, "[a]\nwhat\n", 2, "name = value"),
    ] {
        let fault = import(source, "old", text).unwrap_err();
        assert!(fault.line == line && fault.what.contains(what), "{text:?}: {fault}");
    }
}

proptest! {
    #[test]
    fn whatever_stands_in_a_file_is_read_or_refused(text in "[a-z{};\"' \\n\\[\\]=:/0-9$~^()|!.#-]{0,300}") {
        for (_, source) in FOLDERS {
            let _ = import(source, "old", &text);
        }
    }

    #[test]
    fn conditions_and_rules_are_read_or_refused(
        condition in "[a-z{} !|()_./*-]{0,60}", rule in "[A-Za-z`()&|! ,./{}*]{0,80}",
    ) {
        let text = format!("frontend a\n mode http\n bind :80\n use_backend b if {condition}\nbackend b\n server s 127.0.0.1:1\n");
        let _ = import(Source::Haproxy, "old", &text);
        let rule = rule.replace('"', "");
        let text = format!("http:\n  routers:\n    a:\n      rule: \"{rule}\"\n      service: b\n  services:\n    b: {{ loadBalancer: {{ servers: [{{ url: 'http://a:1' }}] }} }}\n");
        let _ = import(Source::Traefik, "old", &text);
    }
}
