//! The files of `tests/config`: each in `valid/` is accepted, each in `invalid/` is refused with exactly the words of the
//! `.err` beside it. `UPDATE_GOLDEN=1 cargo test` writes the words anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Config, Faults, Loaded};

#[test]
fn every_valid_file_is_accepted_with_the_warnings_beside_it() {
    for (file, name) in files("tests/config/valid") {
        match read(&file, &name) {
            Ok(Loaded { warnings, .. }) => {
                let words = warnings.iter().fold(String::new(), |mut words, warning| {
                    let _ = writeln!(words, "{warning}");
                    words
                });
                compare(&file.with_extension("warn"), &words);
            }
            Err(faults) => panic!("{faults}"),
        }
    }
}

#[test]
fn every_invalid_file_is_refused_with_the_words_beside_it() {
    for (file, name) in files("tests/config/invalid") {
        match read(&file, &name) {
            Ok(_) => panic!("{name} is accepted"),
            Err(faults) => compare(&file.with_extension("err"), &format!("{faults}\n")),
        }
    }
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

/// No file stands for no words.
fn compare(golden: &Path, words: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        match words {
            "" => drop(std::fs::remove_file(golden)),
            _ => std::fs::write(golden, words).unwrap(),
        }
    }
    let expected = std::fs::read_to_string(golden).unwrap_or_default();
    assert_eq!(words, expected, "{} (left: found, right: expected)", golden.display());
}
