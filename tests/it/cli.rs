//! The command line: what it says, and the exit codes that scripts go by.

use std::path::Path;
use std::process::Output;

use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::{Echo, Gateway, eventually, within};

const GOOD: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0 }
routes:
  - upstream: web
upstreams:
  web: { servers: [\"127.0.0.1:1\"] }
";

async fn sockgate(arguments: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_sockgate")).args(arguments).env_remove("RUST_LOG").output();
    within("sockgate ends", run).await.unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file in a folder that lives as long as the first part.
fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sockgate.yaml");
    std::fs::write(&path, content).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

#[test]
fn check_is_well_though_nobody_reads_what_it_says() {
    let (_folder, path) = file(GOOD);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sockgate"));
    let output = command.args(["check", "-c", &path]).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn check_says_that_a_file_is_good() {
    let (_folder, path) = file(GOOD);
    let output = sockgate(&["check", "-c", &path]).await;
    assert_eq!(code(&output), 0);
    let said = out(&output);
    assert!(said.starts_with(&format!("{path}: good (1 listener, 1 route, 1 upstream)\n")), "{said}");
    assert!(said.contains("strangers can take ") && said.contains("(limits.buffers)"), "{said}");
    assert_eq!(err(&output), "");
}

#[tokio::test]
async fn check_and_print_read_what_a_file_includes() {
    let (folder, path) = file(
        &format!("{GOOD}include: team.yaml\n").replace("- upstream: web", "- { match: { path: /w }, upstream: web }"),
    );
    let team = folder.path().join("team.yaml");
    std::fs::write(&team, "routes: [{ match: { path: /x }, respond: { body: of the team } }]\n").unwrap();
    let output = sockgate(&["check", "-c", &path]).await;
    let expected = format!("{path} with 1 other file: good (1 listener, 2 routes, 1 upstream)\n");
    assert!(code(&output) == 0 && out(&output).starts_with(&expected), "{}", out(&output));
    let output = sockgate(&["check", "-c", &path, "--print"]).await;
    assert!(out(&output).contains("body: of the team") && !out(&output).contains("include"), "{}", out(&output));
    std::fs::write(&team, "routes: [{ upstream: wep }]\n").unwrap();
    let output = sockgate(&["check", "-c", &path]).await;
    let expected =
        format!("{}:1:22: routes[0].upstream: unknown upstream `wep`, did you mean `web`?\n", team.display());
    assert!(code(&output) == 2 && err(&output).starts_with(&expected), "{}", err(&output));
}

#[tokio::test]
async fn check_prints_what_it_has_understood() {
    let (_folder, path) = file(&format!("{GOOD}timeouts: {{ head: 0s }}\n"));
    let output = sockgate(&["check", "-c", &path, "--print"]).await;
    assert_eq!(code(&output), 0);
    assert!(err(&output).starts_with("warning: "), "{}", err(&output));
    for line in ["  address: 127.0.0.1:0", "  head: 0s", "  keep_alive: 1m 15s", "upstreams:"] {
        assert!(out(&output).lines().any(|printed| printed == line), "{line}: {}", out(&output));
    }
    let (_folder, printed) = file(&out(&output));
    let again = sockgate(&["check", "-c", &printed, "--print"]).await;
    assert_eq!((code(&again), out(&again)), (0, out(&output)));
}

#[tokio::test]
async fn check_warns_of_certificates_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    std::fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let tls = format!("tls: {{ certificates: [{{ cert: {}, key: {} }}] }} }}", cert.display(), key.display());
    let (_folder, path) = file(&GOOD.replace("127.0.0.1:0 }", &format!("127.0.0.1:0, {tls}")));
    for arguments in [&["check", "-c", &path][..], &["check", "-c", &path, "--print"]] {
        let output = sockgate(arguments).await;
        let warning = format!("cert: {}: expired at 2021-01-01T00:00:00Z [certificate-expired]\n", cert.display());
        assert_eq!((code(&output), err(&output).contains(&warning)), (0, true), "{}", err(&output));
    }
}

/// Every file that it names is read, and each that can't be used is told with its place; elsewhere nobody minds.
#[tokio::test]
async fn check_reads_what_a_file_names() {
    let yaml = "
listeners:
  - { name: web, address: 127.0.0.1:0, tls: { certificates: [{ cert: /nowhere/a.pem, key: /nowhere/a.key }] }, access: { deny: { file: /nowhere/list } } }
routes:
  - { match: { path: /a }, upstream: web, access: { jwt: { jwks: /nowhere/keys.json, from: { cookie: token } }, basic: { users: { file: /nowhere/users } } } }
  - { match: { path: /b }, files: { root: /nowhere/files } }
  - { upstream: web, error_pages: { 5xx: { file: /nowhere/page.html } } }
upstreams:
  web: { servers: { file: /nowhere/servers }, tls: { ca: /nowhere/ca.pem, server_name: a.test } }
access_log: { file: /nowhere/logs/access.log }
flash_policy: { file: /nowhere/policy.xml }
admin: { address: 127.0.0.1:0, token_file: /nowhere/token }
peers: { secret_file: /nowhere/secret }
traces: { endpoint: https://127.0.0.1:1, ca: /nowhere/authorities.pem }
";
    let (_folder, path) = file(yaml);
    let output = sockgate(&["check", "-c", &path]).await;
    assert_eq!((code(&output), out(&output).as_str()), (2, ""));
    for told in [
        ": listeners[0].tls.certificates[0].cert: /nowhere/a.pem cannot be read: No such file",
        "listeners[0].tls.certificates[0].key: /nowhere/a.key cannot be read",
        "listeners[0].access.deny.file: /nowhere/list cannot",
        "routes[0].access.jwt.jwks: /nowhere/keys.json cannot",
        "routes[0].access.basic.users.file: /nowhere/users cannot",
        "routes[1].files.root: /nowhere/files is no folder here: every request is answered 404 [files-folder]",
        "routes[2].error_pages.5xx.file: /nowhere/page.html cannot",
        "/nowhere/servers: cannot be read",
        "upstreams.web.tls.ca: /nowhere/ca.pem cannot",
        "access_log.file: its folder /nowhere/logs is not there",
        "flash_policy.file: /nowhere/policy.xml cannot",
        "admin.token_file: /nowhere/token cannot",
        "peers.secret_file: /nowhere/secret cannot",
        "traces.ca: /nowhere/authorities.pem cannot",
        "13 faults",
    ] {
        assert!(err(&output).contains(told), "{told}: {}", err(&output));
    }
    let output = sockgate(&["check", "-c", &path, "--offline"]).await;
    assert_eq!(code(&output), 0, "{}", err(&output));
}

/// What can be read and not be used is told where it is named.
#[tokio::test]
async fn check_tells_files_that_hold_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "this is no key").unwrap();
    let wrong = wrong.display();
    for (yaml, told) in [
        (
            GOOD.replace(
                "127.0.0.1:0 }",
                &format!("127.0.0.1:0, tls: {{ certificates: [{{ cert: {wrong}, key: {wrong} }}] }} }}"),
            ),
            "listeners[0].tls: ",
        ),
        (format!("{GOOD}access: {{ jwt: {{ jwks: {wrong} }} }}\n"), "access: access: jwt.jwks: "),
        (format!("{GOOD}access: {{ allow: {{ file: {wrong} }} }}\n"), "access: access: "),
        (
            format!("{GOOD}admin: {{ address: 127.0.0.1:0, token_file: {wrong} }}\n"),
            "admin.token_file: admin.token_file: ",
        ),
        (
            GOOD.replace("127.0.0.1:1\"] }", &format!("127.0.0.1:1\"], tls: {{ ca: {wrong} }} }}")),
            "upstreams.web.tls: ",
        ),
    ] {
        let (_folder, path) = file(&yaml);
        let output = sockgate(&["check", "-c", &path]).await;
        assert!(code(&output) == 2 && err(&output).contains(told), "{told}: {}", err(&output));
    }
}

#[tokio::test]
async fn check_warns_of_hosts_without_a_certificate_and_of_secrets_that_everybody_can_read() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let pair = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.test".to_owned(), "*.b.test".to_owned()]).unwrap();
    std::fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(&key, 0o600);
    let yaml = format!(
        "
listeners:
  - {{ name: plain, address: \"127.0.0.1:0\" }}
  - {{ name: web, address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: {}, key: {} }}] }} }}
routes:
  - {{ match: {{ host: [a.test, c.b.test, \"*.b.test\", b.test] }}, upstream: web }}
  - {{ match: {{ host: other.test, listener: plain }}, upstream: web }}
  - {{ match: {{ host: other.test }}, upstream: web }}
upstreams:
  web: {{ servers: [\"127.0.0.1:1\", \"127.0.0.1:2\"], affinity: {{ cookie: {{ secret: SECRET }} }} }}
limits: {{ connections: 1000 }}
",
        cert.display(),
        key.display()
    );
    let secret = "0123456789abcdef0123456789abcdef";
    let (_folder, path) = file(&yaml.replace("SECRET", secret));
    mode(Path::new(&path), 0o644);
    let limited = async |files: u32, more: &[&str]| {
        let program = env!("CARGO_BIN_EXE_sockgate");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh", program, "check", "-c", &path]);
        let output = within("check ends", command.args(more).output()).await.unwrap();
        assert_eq!(code(&output), 0, "{}", err(&output));
        err(&output)
    };
    let told = limited(1500, &[]).await;
    for expected in [
        "routes[0].match.host[3]: no certificate of its listeners is for `b.test`: found those for *.b.test, a.test [certificate-host]",
        "routes[2].match.host: no certificate of its listeners is for `other.test`",
        "limits.connections: 1000 connections take up to 2000 files, and here 1500 may be open",
        "upstreams.web.affinity.cookie.secret: every user of this machine can read",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert_eq!(told.matches("warning: ").count(), 4, "{told}");
    let all = ["certificate-host", "file-limit", "readable-by-others"].map(|name| ["--allow", name]).concat();
    assert_eq!(limited(1500, &all).await, "");
    mode(Path::new(&path), 0o640);
    let told = limited(2500, &["--allow", "certificate-host"]).await;
    assert_eq!(told, "");
    // What a variable brings stands in no file.
    let (_folder, path) = file(&yaml.replace("SECRET", "\"${TEST_SECRET}\""));
    mode(Path::new(&path), 0o644);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    let command = command.args(["check", "--allow", "certificate-host", "--allow", "file-limit", "-c", &path]);
    let output = within("check ends", command.env("TEST_SECRET", secret).output()).await.unwrap();
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

#[tokio::test]
async fn warnings_have_names_that_silence_them() {
    let (_folder, path) = file(&format!("{GOOD}timeouts: {{ head: 0s }}\n"));
    let output = sockgate(&["check", "-c", &path]).await;
    assert!(err(&output).contains(" for ever [head-timeout-off]\n"), "{}", err(&output));
    let output = sockgate(&["check", "-c", &path, "--allow", "head-timeout-off"]).await;
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
    let output = sockgate(&["check", "-c", &path, "--allow", "head-timeouts-off"]).await;
    assert!(code(&output) == 2 && err(&output).contains("did you mean `head-timeout-off`?"), "{}", err(&output));
    let (_folder, path) = file(&format!("{GOOD}timeouts: {{ head: 0s }}\nlint: {{ allow: [head-timeout-off] }}\n"));
    let output = sockgate(&["check", "-c", &path]).await;
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

#[tokio::test]
async fn check_tells_machines_what_it_has_found() {
    let (_folder, path) = file(&format!("{GOOD}timeouts: {{ head: 0s }}\n"));
    let output = sockgate(&["check", "-c", &path, "--json"]).await;
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
    let told: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&told["good"], &told["routes"], &told["file"]), (&true.into(), &1.into(), &path.as_str().into()));
    let one = &told["findings"][0];
    for (key, value) in
        [("severity", "warning"), ("name", "head-timeout-off"), ("file", &path), ("path", "timeouts.head")]
    {
        assert_eq!(one[key], value, "{told}");
    }
    assert_eq!((&one["line"], &one["column"]), (&8.into(), &19.into()));
    let (_folder, path) = file(&GOOD.replace("upstream: web", "upstream: 1\n    host: [a]"));
    let output = sockgate(&["check", "-c", &path, "--json"]).await;
    assert_eq!((code(&output), err(&output).as_str()), (2, ""));
    let told: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    let one = &told["findings"][1];
    assert_eq!(
        (&told["good"], &one["severity"], &one["name"]),
        (&false.into(), &"fault".into(), &serde_json::Value::Null)
    );
    assert_eq!((&one["found"], &one["expected"]), (&"a list".into(), &"a text".into()), "{told}");
}

#[tokio::test]
async fn an_engine_that_there_is_not_is_no_engine() {
    let (_folder, path) = file(GOOD);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    command.args(["run", "-c", &path]).env("SOCKGATE_ENGINE", "steam").env_remove("RUST_LOG");
    let output = within("sockgate ends", command.output()).await.unwrap();
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("SOCKGATE_ENGINE: there is no HTTP engine `steam`"), "{}", err(&output));
}

#[tokio::test]
async fn check_tells_every_fault_with_its_place() {
    let (_folder, path) = file(&GOOD.replace("address:", "adress:").replace("- upstream: web", "- upstream: wbe"));
    for arguments in [["check", "-c", &path], ["run", "--config", &path]] {
        let output = sockgate(&arguments).await;
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{arguments:?}");
        let said = err(&output);
        assert!(
            said.contains(&format!("{path}:3:18: listeners[0].adress: unknown key, did you mean `address`?")),
            "{said}"
        );
        assert!(said.contains(&format!("{path}:5:15: routes[0].upstream: ")), "{said}");
        assert!(said.contains("did you mean `web`?"), "{said}");
    }
}

#[tokio::test]
async fn a_warning_is_no_fault() {
    let (_folder, path) = file(&format!("{GOOD}timeouts: {{ head: 0s }}\n"));
    let output = sockgate(&["check", "-c", &path]).await;
    assert_eq!(code(&output), 0);
    assert!(err(&output).starts_with("warning: "), "{}", err(&output));
    assert!(out(&output).contains("good"));
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    for command in ["check", "run"] {
        let output = sockgate(&[command, "-c", "/nowhere/sockgate.yaml"]).await;
        assert_eq!(code(&output), 2);
        assert!(err(&output).contains("/nowhere/sockgate.yaml"), "{}", err(&output));
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for yaml in [
        GOOD.replace("address: 127.0.0.1:0", &format!("address: \"{address}\"")),
        format!("{GOOD}admin: {{ address: \"{address}\" }}\n"),
    ] {
        let (_folder, path) = file(&yaml);
        let output = sockgate(&["run", "-c", &path]).await;
        assert_eq!(code(&output), 1);
        assert!(err(&output).contains(&format!("{address} can't be bound")), "{}", err(&output));
        assert!(err(&output).contains("in use"), "{}", err(&output));
    }
}

#[tokio::test]
async fn an_access_log_that_cannot_be_written_is_named() {
    let (folder, path) = file("");
    let log = folder.path().join("no/such/folder.log");
    std::fs::write(&path, format!("{GOOD}access_log: {{ file: {} }}\n", log.display())).unwrap();
    let output = sockgate(&["run", "-c", &path]).await;
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains(&*log.to_string_lossy()), "{}", err(&output));
    assert!(!Path::new(&log).exists());
}

#[tokio::test]
async fn authorities_of_the_system_that_cannot_be_read_are_named() {
    let (_folder, path) = file(GOOD);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    command.args(["run", "-c", &path]).env("SSL_CERT_FILE", "/nowhere/ca.pem").env_remove("SSL_CERT_DIR");
    let output = within("sockgate ends", command.output()).await.unwrap();
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("/nowhere/ca.pem"), "{}", err(&output));
    assert!(!err(&output).contains("panicked"), "{}", err(&output));
}

#[tokio::test]
async fn health_asks_a_running_gateway() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start_unready(&GOOD.replace("127.0.0.1:1", &nobody.to_string())).await;
    let admin = gateway.address("admin").to_string();
    eventually("the server is known to be down", async || {
        gateway.admin("/readyz").await.text().contains("no server is up")
    })
    .await;
    let output = sockgate(&["health", &admin]).await;
    assert_eq!((code(&output), out(&output).as_str()), (1, ""));
    assert_eq!(err(&output), "not ready: upstream web: no server is up\n");
    let _web = Echo::start_at(nobody, "web").await;
    eventually("it is ready", async || gateway.admin("/readyz").await.status == 200).await;
    let output = sockgate(&["health", &admin]).await;
    assert_eq!((code(&output), out(&output).as_str(), err(&output).as_str()), (0, "ready\n", ""));
    drop(gateway);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let output = sockgate(&["health", &gone]).await;
    assert_eq!(code(&output), 1);
    assert!(err(&output).starts_with(&format!("{gone} does not answer: ")), "{}", err(&output));
}

#[tokio::test]
async fn health_asks_over_a_unix_socket_too() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", folder.path().join("admin.sock").display());
    let yaml = GOOD.replace("127.0.0.1:1", &web.address().to_string());
    let gateway = Gateway::start_unready(&format!("{yaml}admin: {{ address: \"{admin}\" }}\n")).await;
    eventually("it is ready", async || code(&sockgate(&["health", &admin]).await) == 0).await;
    drop(gateway);
    let output = sockgate(&["health", &admin]).await;
    assert_eq!(code(&output), 1);
    assert!(err(&output).starts_with(&format!("{admin} does not answer: ")), "{}", err(&output));
}

#[tokio::test]
async fn health_is_not_kept_waiting() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = sockgate(&["health", &address]).await;
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("does not answer"), "{}", err(&output));
}

#[tokio::test]
async fn the_program_carries_what_its_configuration_is_written_from() {
    for (which, path) in
        [("full", "conf/full.yaml"), ("minimal", "conf/minimal.yaml"), ("schema", "conf/sockgate.schema.json")]
    {
        let output = sockgate(&["config", which]).await;
        let expected = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        assert!(code(&output) == 0 && out(&output) == expected, "{which}");
    }
    let output = sockgate(&["config", "minimal"]).await;
    let (_folder, path) = file(&out(&output));
    let output = sockgate(&["check", "-c", &path]).await;
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

/// What shells complete and what the manual says comes from the arguments themselves.
#[tokio::test]
async fn shells_and_the_manual_know_every_command() {
    let help = sockgate(&["--help"]).await;
    let help = out(&help);
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let output = sockgate(&["completions", shell]).await;
        let missing: Vec<_> = commands.iter().filter(|name| !out(&output).contains(**name)).collect();
        assert!(code(&output) == 0 && missing.is_empty(), "{shell}: {missing:?}");
    }
    let output = sockgate(&["completions", "bash"]).await;
    let (folder, _) = file("");
    let script = folder.path().join("complete.bash");
    std::fs::write(&script, out(&output)).unwrap();
    let ask = "source \"$1\"; COMP_WORDS=(sockgate check --off); COMP_CWORD=2; _sockgate sockgate --off check; echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash").args(["--norc", "-c", ask, "bash"]).arg(&script).output();
    let bash = within("bash ends", bash).await.unwrap();
    assert_eq!(out(&bash), "--offline\n", "{}", err(&bash));
    let output = sockgate(&["man"]).await;
    for name in commands.iter().filter(|name| **name != "help") {
        assert!(out(&output).contains(&format!(".SH \"sockgate {name}\"")), "{name}: {}", out(&output));
    }
    assert!(out(&output).starts_with(".ie") && out(&output).contains("RUST_LOG"), "{}", out(&output));
}

#[tokio::test]
async fn version_and_help_are_told() {
    let output = sockgate(&["--version"]).await;
    assert_eq!((code(&output), out(&output)), (0, format!("sockgate {}\n", env!("CARGO_PKG_VERSION"))));
    let output = sockgate(&["--help"]).await;
    assert_eq!(code(&output), 0);
    for said in ["run", "check", "health", "Exit codes", "SIGUSR1"] {
        assert!(out(&output).contains(said), "{said}");
    }
    for wrong in [&[][..], &["serve"], &["run"], &["check", "--strict"]] {
        let output = sockgate(wrong).await;
        assert_eq!(code(&output), 2, "{wrong:?}");
        assert!(err(&output).contains("Usage"), "{wrong:?}: {}", err(&output));
    }
}
