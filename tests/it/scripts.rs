//! The scripts tell how they are used at once: whoever asks does not wait for a build.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program on the path.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.exists())
}

#[test]
fn every_script_tells_how_it_is_used_without_building_or_installing_anything() {
    // What only looks is there; whatever else is called fails, and says so.
    let programs = tempfile::tempdir().unwrap();
    for name in ["bash", "dirname", "sed"] {
        symlink(found(name).expect(name), programs.path().join(name)).unwrap();
    }
    // The interpreter itself: what is on the path may be a script that chooses one.
    let itself = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    if let Ok(itself) = itself.map(|said| String::from_utf8(said.stdout).unwrap()) {
        symlink(itself.trim(), programs.path().join("python3")).unwrap();
    }
    for name in ["apt-get", "cargo", "curl", "node", "npm", "pip", "rustc", "sudo"] {
        let program = programs.path().join(name);
        std::fs::write(&program, format!("#!/usr/bin/env bash\necho '{name} was called' >&2\nexit 1\n")).unwrap();
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut told = 0;
    for script in std::fs::read_dir(root().join("scripts")).unwrap() {
        let script = script.unwrap().path();
        let name = script.file_name().unwrap().to_str().unwrap();
        let mut command = Command::new(&script);
        command.arg("--help").env("PATH", programs.path()).stdin(Stdio::null()).current_dir(root());
        // Where nothing has been built.
        let said = command.env("CARGO_TARGET_DIR", programs.path().join("target")).output().unwrap();
        let (words, fault) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success() && fault.is_empty(), "{name}: {fault}");
        let text = std::fs::read_to_string(&script).unwrap();
        let first = text.lines().nth(1).unwrap().trim_start_matches("# ");
        assert!(words.starts_with(first), "{name} says\n{words}");
        assert!(!words.contains("set -euo"), "{name} says\n{words}");
        told += 1;
    }
    assert!(told > 10);
}

/// The long options of a tool that is written in Rust, one field each.
fn options(source: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(source)).unwrap();
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[arg(long") {
            let field = lines.next().unwrap().trim().split(':').next().unwrap();
            found.push(format!("--{}", field.replace('_', "-")));
        }
    }
    found
}

/// They are told before the tool is built.
#[test]
fn scripts_tell_the_options_of_their_tools() {
    for (script, source) in [("scripts/bench", "tools/bench/main.rs"), ("scripts/soak", "tools/soak/main.rs")] {
        let text = std::fs::read_to_string(root().join(script)).unwrap();
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        let options = options(source);
        // Those of the server alone are no matter of the script's.
        let missing: Vec<_> = options
            .iter()
            .filter(|option| {
                !["--http", "--tcp"].contains(&option.as_str()) && !head.join("\n").contains(option.as_str())
            })
            .collect();
        assert!(!options.is_empty() && missing.is_empty(), "{script}: {missing:?}");
    }
}
