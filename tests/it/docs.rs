//! The pages for people: nothing stands in them twice, and what they point at is there.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

/// So many words in a row, said twice, are a copy.
const RUN: usize = 20;

/// A paragraph, an item of a list or a row of a table.
struct Block {
    /// Where it begins, as `page:line`.
    place: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, by its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| Path::new("docs").join(entry.unwrap().file_name()));
    let mut names: Vec<PathBuf> = docs.filter(|name| name.extension().is_some_and(|ending| ending == "md")).collect();
    names.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(PathBuf::from));
    assert!(names.len() > 5, "the docs were found");
    let read = |name: PathBuf| {
        let text = std::fs::read_to_string(root().join(&name)).unwrap();
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// The lines of a page that are no code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut within_code = false;
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    numbered.filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        within_code ^= fence;
        !fence && !within_code
    })
}

fn blocks(name: &Path, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in prose(text) {
        let said = line.trim_start();
        let is_item = said.split_once(' ').is_some_and(|(mark, _)| {
            ["*", "-"].contains(&mark) || mark.strip_suffix('.').is_some_and(|number| number.parse::<u8>().is_ok())
        });
        let is_row = said.starts_with('|') || said.starts_with('#');
        if !open || is_item || is_row {
            blocks.push(Block { place: format!("{}:{number}", name.display()), text: String::new() });
        }
        open = !said.is_empty() && !is_row;
        let block = blocks.last_mut().unwrap();
        block.text.push_str(said);
        block.text.push(' ');
    }
    blocks
}

#[test]
fn nothing_is_said_twice() {
    let mut said: HashMap<Vec<String>, String> = HashMap::new();
    let mut twice = BTreeSet::new();
    for (name, text) in pages() {
        for Block { place, text } in blocks(&name, &text) {
            let words = text.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
            let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
            for run in words.windows(RUN) {
                if let Some(before) = said.insert(run.to_vec(), place.clone()).filter(|before| *before != place) {
                    twice.insert(format!("{before} and {place}"));
                }
            }
        }
    }
    assert!(twice.is_empty(), "{RUN} words in a row stand twice: {twice:#?}");
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut astray = Vec::new();
    for (name, text) in &pages {
        for (number, line) in prose(text) {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
                if target.contains("://") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let to = if file.is_empty() { name.clone() } else { name.with_file_name(file) };
                let there = std::fs::canonicalize(root().join(to));
                let leads = there.is_ok_and(|there| anchor.is_empty() || anchors(&there).contains(anchor));
                if !leads {
                    astray.push(format!("{}:{number}: {target}", name.display()));
                }
            }
        }
    }
    assert!(astray.is_empty(), "{astray:#?}");
}

/// What a page can be entered at: its headings in lower case, with hyphens for spaces and without other signs, and the
/// anchors that it sets itself.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let plain = |c: &char| c.is_alphanumeric() || ['-', '_', ' '].contains(c);
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(&text) {
        if line.starts_with('#') {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            anchors.insert(heading.chars().filter(plain).collect::<String>().replace(' ', "-"));
        }
        let set = line.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        anchors.extend(set.map(str::to_owned));
    }
    anchors
}

/// Rows that a blank line cuts off from their table are shown as text.
#[test]
fn tables_are_whole() {
    let mut cut = Vec::new();
    for (name, text) in pages() {
        let lines: Vec<(usize, &str)> = prose(&text).collect();
        for pair in lines.windows(3) {
            let [(_, before), (number, row), (_, after)] = pair else { continue };
            let begins = row.starts_with('|') && !before.starts_with('|');
            if begins && !after.starts_with("|-") && !after.starts_with("|:") {
                cut.push(format!("{}:{number}", name.display()));
            }
        }
    }
    assert!(cut.is_empty(), "rows of no table: {cut:#?}");
}

/// Every file and folder that the page on the house names is where it says.
#[test]
fn what_the_house_is_said_to_hold_is_there() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let named = page.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") || name.ends_with('/'));
    let is_there = |name: &str| ["", "src"].iter().any(|base| root().join(base).join(name).exists());
    // `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
    let each = named.flat_map(|name| {
        match name.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?))) {
            Some((start, (names, end))) => names.split(',').map(|name| format!("{start}{name}{end}")).collect(),
            None => vec![name.to_owned()],
        }
    });
    let gone: Vec<String> = each.filter(|name| !is_there(name)).collect();
    assert!(gone.is_empty(), "{gone:#?}");
}

/// Every test that the page on security leans on is there, and every advisory that it names has one or a reason.
#[test]
fn promises_of_security_have_their_tests() {
    let page = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let promises = page.split("## What is promised").nth(1).unwrap().split("\n## ").next().unwrap();
    let named = promises.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.rsplit('|').nth(1));
    let named: Vec<&str> = named.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let is_there = |name: &&str| {
        let paths = [format!("tests/it/{name}.rs"), format!("tests/it/{name}/mod.rs"), (*name).to_owned()];
        paths.iter().any(|path| root().join(path).exists()) || *name == "tests/it"
    };
    let gone: Vec<&str> = named.iter().copied().filter(|name| !is_there(name)).collect();
    assert!(named.len() > 20 && gone.is_empty(), "{gone:?} of {}", named.len());
    let tests = std::fs::read_to_string(root().join("tests/it/malformed/advisories.rs")).unwrap();
    for line in page.split("## Advisories").nth(1).unwrap().lines().filter(|line| line.contains("-20")) {
        let number = line.trim_start_matches("| ").split([',', ' ']).next().unwrap();
        let tested = tests.contains(&format!("async fn {}_", number.to_lowercase().replace('-', "_")));
        assert!(tested || line.contains("there is no "), "{number}");
    }
}

/// The guide shows nothing that doesn't load, and no Rust that no example has.
#[test]
fn what_the_guide_shows_works() {
    let page = std::fs::read_to_string(root().join("docs/programming.md")).unwrap();
    let shown = |language: &str| -> Vec<String> {
        let fence = format!("```{language}\n");
        let parts = page.split(&fence).skip(1);
        parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sockgate.yaml");
    let all = shown("yaml");
    assert!(all.len() >= 7, "{}", all.len());
    for yaml in all {
        std::fs::write(&file, &yaml).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_sockgate"));
        let said = check.args(["check", "--offline", "-c"]).arg(&file).output().unwrap();
        let fault = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && fault.is_empty(), "{fault}\n{yaml}");
    }
    let examples = std::fs::read_dir(root().join("examples")).unwrap();
    let examples: String =
        examples.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default()).collect();
    // The first shows what a program of one's own begins with; it stands so in none of them.
    for rust in shown("rust,ignore").iter().skip(1) {
        assert!(examples.contains(rust.trim_end()), "no example has\n{rust}");
    }
}

/// Each guide loads as it stands, without a word of warning.
#[test]
fn what_the_guides_for_operators_show_works() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sockgate.yaml");
    for name in ["start", "socketio", "deploys", "troubleshooting", "lint"] {
        let page = std::fs::read_to_string(root().join(format!("docs/{name}.md"))).unwrap();
        let shown = page.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap());
        assert!(shown.clone().next().is_some(), "{name}");
        for yaml in shown {
            std::fs::write(&file, yaml).unwrap();
            let mut check = Command::new(env!("CARGO_BIN_EXE_sockgate"));
            let said = check.args(["check", "--offline", "-c"]).arg(&file).output().unwrap();
            let fault = String::from_utf8_lossy(&said.stderr);
            assert!(said.status.success() && fault.is_empty(), "{name}: {fault}\n{yaml}");
        }
    }
}

/// The table of contents, by which the pages are made into one site, has each of them once.
#[test]
fn the_site_is_made_and_its_links_lead_somewhere() {
    let programs = root().join("tests/python/.venv/bin");
    if !programs.join("mdbook").exists() {
        eprintln!("skipped: mdbook is not installed, see scripts/node-deps");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("scripts/book");
    command.args(["--out", folder.path().to_str().unwrap()]).env("PATH", path);
    let made = command.current_dir(root()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = std::fs::read_to_string(folder.path().join("configuration.html")).unwrap();
    assert!(page.contains("files/conf/full.yaml") && folder.path().join("files/conf/full.yaml").exists());
}

#[test]
fn the_site_has_every_page() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let mut listed: Vec<&str> = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    listed.sort_unstable();
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let names = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = names.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect();
    pages.sort_unstable();
    assert_eq!(listed, pages);
    let book = std::fs::read_to_string(root().join("book.toml")).unwrap();
    assert!(book.contains("src = \"docs\""));
}

/// A dashboard shows nothing that nobody counts: what it asks for is in docs/metrics.md, which is held against `/metrics`.
#[test]
fn the_dashboard_for_grafana_asks_for_metrics_that_there_are() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let dashboard = std::fs::read_to_string(root().join("conf/grafana/sockgate.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            for part in expression.split("sockgate_").skip(1) {
                let name = part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                asked.insert(format!("sockgate_{}", name.trim_end_matches("_bucket")));
            }
        }
    }
    let unknown: Vec<_> = asked.iter().filter(|name| !page.contains(&format!("| `{name}` |"))).collect();
    assert!(asked.len() > 15 && unknown.is_empty(), "{unknown:?}");
}
