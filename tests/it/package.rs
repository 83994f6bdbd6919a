//! What is handed out: the crate, and what `scripts/dist` makes of a program.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn told(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out
}

/// The crate has what a build needs, its licence and its words, and nothing that is large or of the workshop only.
#[test]
fn the_crate_holds_what_it_should() {
    let listed = told(Command::new(env!("CARGO")).args(["package", "--list", "--allow-dirty", "--offline"]));
    let files: BTreeSet<&str> = listed.lines().collect();
    for needed in [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "src/main.rs",
        "src/lib.rs",
        "conf/minimal.yaml",
        "conf/full.yaml",
        "conf/sockgate.schema.json",
    ] {
        assert!(files.contains(needed), "{needed}");
    }
    for of_the_workshop in ["tests/", "fuzz/", ".", "target/", "dist/", "tools/", "scripts/"] {
        let found: Vec<_> = files
            .iter()
            .filter(|file| file.starts_with(of_the_workshop) && **file != ".cargo_vcs_info.json")
            .filter(|file| !file.ends_with(".rs"))
            .collect();
        assert!(found.is_empty(), "{found:?}");
    }
    let size = |file: &&str| std::fs::metadata(root().join(file)).map_or(0, |about| about.len());
    let large: Vec<_> = files.iter().filter(|file| size(file) > 400_000).collect();
    assert!(large.is_empty(), "{large:?}");
    let all: u64 = files.iter().map(size).sum();
    assert!(all < 8_000_000, "{all} bytes");
}

/// The script is tried with the program of this build: what it makes is whole, and the sums hold.
#[test]
fn an_archive_and_a_package_of_debian_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_sockgate");
    let said = told(Command::new("scripts/dist").args(["--quick", "--binary", program, "--out"]).arg(folder.path()));
    assert!(said.contains("The program links: "), "{said}");
    told(Command::new("sh").args(["-c", "cd \"$1\" && sha256sum --quiet -c SHA256SUMS", "sh"]).arg(folder.path()));
    let made: Vec<String> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect();
    let one = |ending: &str| made.iter().find(|file| file.ends_with(ending)).unwrap_or_else(|| panic!("{made:?}"));
    let archive = told(Command::new("tar").args(["-tzf", one(".tar.gz")]));
    for file in ["/sockgate\n", "/sockgate.1\n", "/completions/sockgate.bash\n", "/LICENSE\n", "/LINKS\n"] {
        assert!(archive.contains(file), "{file}: {archive}");
    }
    let bill: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(one(".cdx.json")).unwrap()).unwrap();
    let parts = bill["components"].as_array().unwrap();
    let has = |name: &str| parts.iter().any(|part| part["name"] == name);
    assert!(has("rustls") && has("tokio") && !has("criterion") && !has("jsonschema"), "{}", parts.len());
    let deb = told(Command::new("dpkg-deb").args(["--contents", one(".deb")]));
    for file in [
        "./usr/bin/sockgate\n",
        "./etc/sockgate/sockgate.yaml\n",
        "./usr/lib/systemd/system/sockgate.service\n",
        "./usr/share/man/man1/sockgate.1.gz\n",
        "./usr/share/doc/sockgate/copyright\n",
    ] {
        assert!(deb.contains(file), "{file}: {deb}");
    }
    let control = told(Command::new("dpkg-deb").args(["--field", one(".deb")]));
    assert!(control.contains(&format!("Version: {}", env!("CARGO_PKG_VERSION"))), "{control}");
}
