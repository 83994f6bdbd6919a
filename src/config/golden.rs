//! The files of `tests/config`: each in `valid/` is accepted, each in `invalid/` is refused with exactly the words of the
//! `.err` beside it. `UPDATE_GOLDEN=1 cargo test` writes the words anew.

use std::path::{Path, PathBuf};

use super::{Config, Faults, Loaded};

#[test]
fn every_valid_file_is_accepted_with_the_warnings_beside_it() {
    all("tests/config/valid", |file, outcome| {
        let warnings = outcome.map_err(|faults| faults.to_string())?.warnings;
        let words: String = warnings.iter().map(|warning| format!("{warning}\n")).collect();
        compare(&file.with_extension("warn"), &words)
    });
}

#[test]
fn every_invalid_file_is_refused_with_the_words_beside_it() {
    all("tests/config/invalid", |file, outcome| match outcome {
        Ok(_) => Err(format!("{} is accepted", file.display())),
        Err(faults) => compare(&file.with_extension("err"), &format!("{faults}\n")),
    });
}

/// Tries every file before it says what is wrong.
fn all(folder: &str, verdict: impl Fn(&Path, Result<Loaded, Faults>) -> Result<(), String>) {
    let failures: Vec<String> =
        files(folder).iter().filter_map(|(file, name)| verdict(file, read(file, name)).err()).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (path, name)
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

fn read(file: &Path, name: &str) -> Result<Loaded, Faults> {
    let text = std::fs::read_to_string(file).unwrap();
    Config::read(name, &text, &|variable| (variable == "HTTP_PORT").then(|| "8080".to_owned()))
}

/// What is told of a file, against what should be; no file stands for nothing at all.
fn compare(golden: &Path, found: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        match found {
            "" => drop(std::fs::remove_file(golden)),
            _ => std::fs::write(golden, found).unwrap(),
        }
    }
    let expected = std::fs::read_to_string(golden).unwrap_or_default();
    match found == expected {
        true => Ok(()),
        false => Err(format!("=== {}: found\n{found}=== expected\n{expected}", golden.display())),
    }
}
