//! Golden files and properties of the whole reader.
//!
//! Each file of `tests/config/valid` is accepted, with the warnings in the `.warn` beside it. Each of
//! `tests/config/invalid` is refused with exactly the words in the `.err` beside it. `UPDATE_GOLDEN=1 cargo test` writes
//! the words anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::document::{self, Node, Value};
use super::{Config, Faults, Loaded, shape};

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

#[test]
fn the_files_that_come_along_need_no_variables_and_no_warnings() {
    all("conf", |file, _| {
        let text = std::fs::read_to_string(file).unwrap();
        let warnings = Config::read("conf", &text, &|_| None).map_err(|faults| faults.to_string())?.warnings;
        match warnings.first() {
            Some(warning) => Err(format!("{}: {warning}", file.display())),
            None => Ok(()),
        }
    });
}

#[test]
fn the_minimal_file_is_ten_lines_of_which_none_is_long() {
    let text = std::fs::read_to_string(in_repository("conf/minimal.yaml")).unwrap();
    assert!(text.lines().count() <= 10);
    assert!(text.lines().all(|line| line.len() <= 100));
}

/// Only what has no default.
const FULL_WITHOUT_DEFAULTS: &str = r#"
listeners:
  - address: 0.0.0.0:443
    tls: { certificates: [{ cert: certs/example.com.pem, key: certs/example.com.key }] }
    detect: {}
  - { address: "0.0.0.0:7000", name: raw, protocol: tcp, upstream: raw_sockets }
  - { address: "0.0.0.0:843", protocol: flash_policy }
routes:
  - match:
      host: [api.example.com, "*.eu.example.com"]
      path: [/socket.io/, /node]
      path_exact: /status
      path_regex: '\.php$'
      method: [GET, POST]
      headers: { x-api-version: 2, cookie: "*" }
      query: { EIO: 4, transport: "*" }
      headers_regex: { x-user-agent: "(?i)bot" }
      cookies: { cookie: "*" }
      upgrade: websocket
      listener: "0.0.0.0:443"
      client: [10.0.0.0/8, 192.0.2.1]
      server_name: "*.example.com"
      port: 443
      when: 'request.headers["x-tenant"] == "a" && client.ip in cidr("10.0.0.0/8")'
      not: { path: /node/private }
      any: [{ method: GET }, { query: { EIO: 4 } }]
    upstream: socket_io
    compression: {}
    rewrite: { regex: '^/node/([0-9]+)', to: '/n/$1' }
    mirror: { upstream: webapp }
  - { match: { path: /maintenance }, respond: {}, access: { jwt: { jwks: https://login.example.com/.well-known/jwks.json, from: { header: Authorization, query: token }, claims: { x-user: sub } }, basic: { users: { file: users.htpasswd }, user_header: x-auth-user }, forward_auth: { url: "http://127.0.0.1:9000/verify", to_server: [x-user] } } }
  - { match: { host: old.example.com }, redirect: { host: www.example.com } }
  - { match: { path: /api }, upstream: api }
  - { match: { path: /rooms }, upstream: own_sessions }
  - { match: { path: /mcp }, upstream: tools }
  - { match: { path: /static }, files: { root: /srv/app } }
  - upstream: webapp
upstreams:
  api: { servers: { dns: api.internal, port: 8080 } }
  webapp: { servers: ["10.0.0.11:3000", "10.0.0.12:3000"], health: { check: http }, affinity: { cookie: {} } }
  socket_io: { kind: socket.io, servers: ["10.0.0.21:8000", "10.0.0.22:8000"], tls: {}, sessions: { returning: 2m, rebalance: {} } }
  own_sessions:
    servers: ["10.0.0.41:8000", "10.0.0.42:8000"]
    sessions: { rule: { route: { header: X-Session, query: session, cookie: SESSION, path: "/rooms/{id}" }, learn: { json: /session/id }, over: [404], question: { path: "/sessions/{id}" } } }
  tools: { kind: mcp, servers: ["10.0.0.51:3000", "10.0.0.52:3000"] }
  raw_sockets: { kind: tcp, servers: ["10.0.0.31:8000", "10.0.0.32:8000"] }
access: { deny: [192.0.2.0/24, { file: blocked.txt }], origins: [same, "https://*.example.com"], cors: { origins: "https://app.example.com" } }
error_pages: { 503: { body: We will be back soon., content_type: text/plain } }
admin: { address: 127.0.0.1:9901, token_file: admin.token }
"#;

#[test]
fn the_full_file_shows_every_key_with_its_default() {
    let text = std::fs::read_to_string(in_repository("conf/full.yaml")).unwrap();
    let full = Config::read("conf/full.yaml", &text, &|_| None).unwrap().config;
    let defaults = Config::read("defaults", FULL_WITHOUT_DEFAULTS, &|_| None).unwrap().config;
    assert_eq!(full, defaults);

    let mut in_types = BTreeSet::new();
    keys_of_value("", &serde_json::to_value(&full).unwrap(), &mut in_types);
    let mut in_file = BTreeSet::new();
    keys_of_node("", &document::read(&text, &|_| None).unwrap(), &mut in_file);
    let missing: Vec<_> = in_types.difference(&in_file).collect();
    assert!(missing.is_empty(), "not in conf/full.yaml: {missing:?}");
}

#[test]
fn the_reference_names_every_key_and_its_examples_are_accepted() {
    let reference = std::fs::read_to_string(in_repository("docs/configuration.md")).unwrap();
    let full = Config::read("defaults", FULL_WITHOUT_DEFAULTS, &|_| None).unwrap().config;
    let mut keys = BTreeSet::new();
    keys_of_value("", &serde_json::to_value(&full).unwrap(), &mut keys);
    let of_an_operator =
        |key: &&str| key.starts_with("x-") || matches!(*key, "*" | "cookie" | "EIO" | "transport" | "503");
    for key in keys.iter().filter_map(|path| path.rsplit('.').next()).filter(|key| !of_an_operator(key)) {
        assert!(reference.contains(&format!("`{key}`")), "{key}");
    }
    let examples: Vec<_> = reference.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() > 5);
    for example in examples {
        match Config::read("example", example, &|_| None) {
            Ok(Loaded { warnings, .. }) => assert_eq!(warnings, [], "{example}"),
            Err(faults) => panic!("{faults}\n{example}"),
        }
    }
}

#[test]
fn the_classic_file_is_the_stack_of_the_post() {
    let text = std::fs::read_to_string(in_repository("conf/classic-socketio.yaml")).unwrap();
    let env = |name: &str| match name {
        "HTTP_PORT" => Some("80".to_owned()),
        "HTTPS_PORT" => Some("443".to_owned()),
        "FLASH_PORT" => Some("843".to_owned()),
        _ => None,
    };
    let config = Config::read("classic", &text, &env).unwrap().config;
    let addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0:80", "0.0.0.0:443", "0.0.0.0:843"]);
    assert_eq!(config.routes[0].matches.path.0, ["/socket.io", "/node"]);
    assert_eq!(config.limits.connections, 200_000);
    let day = std::time::Duration::from_secs(86_400);
    assert_eq!(config.timeouts.keep_alive, day);
    assert_eq!(config.upstreams["socket_io"].timeouts.tunnel_idle, Some(day));
    assert!(config.upstreams["socket_io"].servers.list().iter().all(|server| server.max_connections == 2000));
    assert_eq!(config.flash_policy.allow[0].ports, "80,443");
}

#[test]
fn every_accepted_file_written_anew_reads_the_same() {
    for folder in ["conf", "tests/config/valid"] {
        for (file, name) in files(folder) {
            let config = read(&file, &name).unwrap_or_else(|faults| panic!("{faults}")).config;
            for written in written(&config) {
                let again = Config::read(&name, &written, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
                let traces = config.traces.clone();
                // What `headers` say is hidden.
                let hidden = traces.as_ref().is_some_and(|traces| !traces.headers.is_empty());
                let again = if hidden { Config { traces, ..again.config } } else { again.config };
                assert_eq!(again, config, "{name}");
            }
        }
    }
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_a_fault_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Config::load(&folder.path().join("missing.yaml")).unwrap_err().to_string();
    assert!(missing.contains("missing.yaml: cannot be read: "), "{missing}");
    let binary = folder.path().join("binary.yaml");
    std::fs::write(&binary, b"threads: 1\nadmin: \xff\n").unwrap();
    let binary = Config::load(&binary).unwrap_err().to_string();
    assert!(binary.contains("binary.yaml:2:8: found bytes that are not UTF-8"), "{binary}");
}

#[test]
fn faults_without_end_are_cut_short() {
    let text: String = (0..5000).map(|n| format!("key{n}: {n}\n")).collect();
    let faults = Config::read("many.yaml", &text, &|_| None).unwrap_err();
    assert_eq!(faults.0.len(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_types_can_say_is_read_back_as_it_was(config in a_config()) {
        for written in written(&config) {
            let mut tree = document::read(&written, &|_| None).unwrap();
            let (again, misfits) = shape::fit(&mut tree);
            prop_assert_eq!(misfits, vec![]);
            prop_assert_eq!(again.as_ref(), Some(&config));
        }
    }

    #[test]
    fn no_text_is_too_strange(text in r#"[-a-c:,{}\[\]"'&*!|>#%@`$~?\\ \t\n\r0-9.é\u{0}\u{85}\u{2028}\u{feff}]{0,200}"#) {
        let _ = Config::read("strange.yaml", &text, &|_| None);
    }

    #[test]
    fn no_slip_of_the_pen_is_too_strange(at in 0.0..1.0, gone in 0usize..40, slip in r#"[-a-z:{}\[\]"'&*!|>#$ \n]{0,8}"#) {
        let mut text: Vec<char> = std::fs::read_to_string(in_repository("conf/full.yaml")).unwrap().chars().collect();
        let from = (text.len() as f64 * at) as usize;
        let to = (from + gone).min(text.len());
        text.splice(from..to, slip.chars());
        let text: String = text.into_iter().collect();
        if let Err(Faults(faults)) = Config::read("slip.yaml", &text, &|_| None) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!((1..=text.lines().count() + 1).contains(&fault.place.line), "{}", fault);
                prop_assert!(fault.place.column >= 1, "{}", fault);
            }
        }
    }
}

/// As `sockgate check --print` writes it, and as JSON, which is YAML; a dollar sign is doubled, so that it is read as one.
fn written(config: &Config) -> [String; 2] {
    [config.to_yaml().unwrap(), serde_json::to_string_pretty(config).unwrap().replace('$', "$$")]
}

/// Configurations of the right shape, with what is hard to write: odd texts, times and sizes.
fn a_config() -> impl Strategy<Value = Config> {
    let text = || r#"[ -~é€\n\t]{0,20}"#;
    let texts = move || prop::collection::vec(text(), 0..3);
    let table = move || prop::collection::btree_map("[a-z:# -]{1,8}", text(), 0..3);
    let time = || (0u64..4_000_000_000, 0u32..1_000_000_000).prop_map(|(s, ns)| std::time::Duration::new(s, ns));
    let listeners = prop::collection::vec((any::<(u32, u16, bool, u32)>(), prop::option::of(text()), time()), 1..4);
    let routes = prop::collection::vec((texts(), table(), table(), text(), any::<u16>()), 0..4);
    let upstreams =
        prop::collection::btree_map("[a-z._ -]{1,8}", (1u16..=256, time(), time(), table(), 0.0..0.5), 0..3);
    let limits = (any::<u64>(), any::<u64>(), time());
    (listeners, routes, upstreams, limits).prop_map(|(listeners, routes, upstreams, (head, body, time))| {
        let mut config = Config::read("base", "listeners: [{ address: ':1' }]", &|_| None).unwrap().config;
        let model = config.listeners.remove(0);
        for ((ip, port, http2, backlog), name, delay) in listeners {
            let address = format!("{}:{port}", std::net::Ipv4Addr::from(ip)).parse().unwrap();
            let detect =
                crate::listener::config::Detect { inspect_delay: delay, tcp: name.clone(), ..Default::default() };
            config.listeners.push(crate::listener::Config {
                name,
                address,
                http2,
                backlog,
                detect: Some(detect),
                ..model.clone()
            });
        }
        for (texts, headers, query, body, status) in routes {
            let mut route = crate::router::Config::default();
            route.matches.host.0 = texts;
            route.matches.headers = headers.clone();
            route.matches.query = query;
            route.respond = Some(crate::router::config::Respond { status, headers, body, ..Default::default() });
            config.routes.push(route);
        }
        for (name, (weight, interval, idle, headers, jitter)) in upstreams {
            let text = format!("servers: [{{ address: 'app:{weight}', weight: {weight} }}]");
            let mut tree = document::read(&text, &|_| None).unwrap();
            let (upstream, _) = shape::fit::<crate::upstream::Config>(&mut tree);
            let mut upstream = upstream.unwrap();
            upstream.health.interval = interval;
            upstream.health.headers = headers;
            upstream.health.jitter = jitter;
            upstream.timeouts.tunnel_idle = Some(idle);
            config.upstreams.insert(name, upstream);
        }
        config.limits.head = bytesize::ByteSize(head);
        config.limits.body = bytesize::ByteSize(body);
        config.drain.delay = time;
        config
    })
}

/// Tries every file before it says what is wrong.
fn all(folder: &str, verdict: impl Fn(&Path, Result<Loaded, Faults>) -> Result<(), String>) {
    let failures: Vec<String> =
        files(folder).iter().filter_map(|(file, name)| verdict(file, read(file, name)).err()).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = in_repository(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (path, name)
        })
        // What a build without Kubernetes says of it is another thing.
        .filter(|(_, name)| match cfg!(feature = "kubernetes") {
            true => name != "without_kubernetes.yaml",
            false => name != "kubernetes.yaml",
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
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

/// The paths of all keys; items of a list share theirs, and so do the entries of `upstreams`.
fn keys_of_value(path: &str, value: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys_of_value(path, item, keys)),
        serde_json::Value::Object(entries) => {
            for (key, value) in entries {
                keys_of_value(&below(path, key, keys), value, keys);
            }
        }
        _ => {}
    }
}

fn keys_of_node(path: &str, node: &Node, keys: &mut BTreeSet<String>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| keys_of_node(path, item, keys)),
        Value::Map(entries) => {
            for entry in entries {
                keys_of_node(&below(path, &entry.key, keys), &entry.node, keys);
            }
        }
        _ => {}
    }
}

fn below(path: &str, key: &str, keys: &mut BTreeSet<String>) -> String {
    let path = if path == ".upstreams" { format!("{path}.*") } else { format!("{path}.{key}") };
    keys.insert(path.clone());
    path
}
