//! The API of the admin address: what it is described as, what it tells, and what it does.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::client::Answer;
use crate::support::cluster::{Cluster, is_up};
use crate::support::tls::{Authority, TlsClient};
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Setup, eventually, within};

/// Asks on a connection of its own.
async fn ask(gateway: &Gateway, method: &str, path: &str, body: &str) -> Answer {
    let mut client = Client::connect(gateway.address("admin")).await;
    let length = body.len();
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")).await;
    client.answer().await
}

/// The same where all is well.
async fn told(gateway: &Gateway, method: &str, path: &str, body: &str) -> Value {
    let answer = ask(gateway, method, path, body).await;
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

async fn get(gateway: &Gateway, path: &str) -> Value {
    told(gateway, "GET", path, "").await
}

/// What of a value does not fit a schema; nothing where all does. Of JSON Schema what the description uses.
fn misfits(all: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let named = all.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is described"));
        return misfits(all, named, value, place, found);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = |one: &&Value| {
            let mut misfit = Vec::new();
            misfits(all, one, value, place, &mut misfit);
            misfit.is_empty()
        };
        if !any.iter().any(|one| fits(&one)) {
            found.push(format!("{place}: {value} is none of {any:?}"));
        }
        return;
    }
    let is = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("{place}: no such type: {other}"),
    };
    if !is {
        found.push(format!("{place}: {value} is no {}", schema["type"]));
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        misfits(all, &schema["items"], item, &format!("{place}[{at}]"), found);
    }
    let Some(object) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(name.as_str().unwrap()) {
            found.push(format!("{place}: {name} is missing"));
        }
    }
    for (name, value) in object {
        let place = format!("{place}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => found.push(format!("{place} is not described")),
            (Value::Null, more) => misfits(all, more, value, &place, found),
            (known, _) => misfits(all, known, value, &place, found),
        }
    }
}

/// A gateway with all that can be told of, before two servers; of one session the client is connected.
async fn busy() -> (Cluster, Client, String) {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let gateway = &cluster.gateways[0];
    is_up(gateway, "b").await;
    let mut client = Client::connect(gateway.address("web")).await;
    let opened = client.get("/socket.io/?EIO=4&transport=polling").await.text();
    let handshake: Value = serde_json::from_str(opened.trim_start_matches('0')).unwrap();
    let sid = handshake["sid"].as_str().unwrap().to_owned();
    let mut socket = Client::connect(gateway.address("web")).await;
    socket.send(upgrade(&format!("/socket.io/?EIO=4&transport=websocket&sid={sid}"))).await;
    assert_eq!(socket.answer().await.status, 101);
    (cluster, socket, sid)
}

#[tokio::test]
async fn the_description_is_true_of_every_path_method_and_answer() {
    let (cluster, _socket, sid) = busy().await;
    let gateway = &cluster.gateways[0];
    let described = get(gateway, "/api/v1/openapi.json").await;
    assert_eq!(described["openapi"], "3.1.0");
    let mut tried = BTreeSet::new();
    for (path, operations) in described["paths"].as_object().unwrap() {
        let real = path.replace("{upstream}", "app").replace("{server}", "a").replace("{session}", &sid);
        for (method, operation) in operations.as_object().unwrap() {
            let method = method.to_uppercase();
            let parameters = operation["parameters"].as_array().unwrap();
            let in_path: Vec<_> = parameters.iter().filter(|one| one["in"] == "path").map(|one| &one["name"]).collect();
            assert!(in_path.iter().all(|name| path.contains(&format!("{{{}}}", name.as_str().unwrap()))));
            assert_eq!(in_path.len(), path.matches('{').count(), "{path}");
            let (real, body) = match path.as_str() {
                "/drain" => (format!("{real}?upstream=app&server=b&rate=1"), ""),
                "/plan" => (real.clone(), "{}"),
                "/api/v1/log" if method == "PUT" => (real.clone(), r#"{ "filter": "info,sockgate=debug" }"#),
                "/api/v1/explain" => {
                    (real.clone(), r#"{ "request": "http://localhost/", "headers": [], "from": "127.0.0.1" }"#)
                }
                "/api/v1/servers/{upstream}/{server}/weight" => (real.clone(), r#"{ "weight": 3 }"#),
                "/api/v1/servers/{upstream}/{server}/drain" if method == "POST" => {
                    (real.clone(), r#"{ "rate": 0.5, "deadline": "5m", "jitter": 0, "goodbye": true }"#)
                }
                _ => (real.clone(), ""),
            };
            assert_eq!(operation.get("requestBody").is_some(), path == "/plan" || !body.is_empty(), "{method} {path}");
            let content = &operation["responses"]["200"]["content"];
            let (kind, content) = content.as_object().unwrap().iter().next().unwrap();
            tried.insert((method.clone(), path.clone()));
            if kind == "text/event-stream" {
                let mut client = Client::connect(gateway.address("admin")).await;
                client.send(format!("{method} {real} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
                for _ in 0..2 {
                    client.read_until(b"event: state\ndata: ").await;
                    let state: Value = serde_json::from_slice(&client.read_until(b"\n\n").await).unwrap();
                    let mut found = Vec::new();
                    misfits(&described, &content["schema"], &state, "state", &mut found);
                    assert!(found.is_empty(), "{found:#?}");
                }
                continue;
            }
            let answer = ask(gateway, &method, &real, body).await;
            if path == "/plan" {
                assert_eq!(answer.status, 400, "half a configuration is none");
                continue;
            }
            assert_eq!(answer.status, 200, "{method} {real}: {}", answer.text());
            assert!(answer.header("content-type").unwrap().starts_with(kind.as_str()), "{method} {path}");
            if kind == "application/json" && !content["schema"].is_null() {
                let value = serde_json::from_slice(&answer.body).unwrap();
                let mut found = Vec::new();
                misfits(&described, &content["schema"], &value, &format!("{method} {path}"), &mut found);
                assert!(path == "/drain" || found.is_empty(), "{found:#?}");
            }
        }
        let answer = ask(gateway, "BREW", &real, "").await;
        let mut allowed: Vec<String> =
            operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        if allowed.iter().any(|method| method == "GET") {
            allowed.push("HEAD".to_owned());
        }
        let allow: BTreeSet<_> = answer.header("allow").unwrap().split(", ").map(str::to_owned).collect();
        assert_eq!((answer.status, allow), (405, allowed.into_iter().collect()), "{path}");
    }
    assert!(tried.len() > 30, "{tried:?}");
    let nothing = ask(gateway, "GET", "/api/v1/nothing", "").await;
    assert_eq!(nothing.status, 404);
    assert!(described["paths"].as_object().unwrap().keys().all(|path| nothing.text().contains(path)));
}

#[tokio::test]
async fn what_cannot_be_done_says_why_and_what_would() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let server = get(&gateway, "/api/v1/servers").await[0]["name"].as_str().unwrap().to_owned();
    let of_server = |what: &str| format!("/api/v1/servers/app/{server}/{what}");
    for (method, path, body, status, why) in [
        ("GET", "/api/v1/upstreams/ap".to_owned(), "", 404, "there is no upstream `ap`, only app"),
        ("GET", "/api/v1/servers/app/x".to_owned(), "", 404, "upstream `app` has no server `x`, only "),
        ("GET", "/api/v1/servers?upstream=ap".to_owned(), "", 404, "there is no upstream `ap`"),
        ("GET", "/api/v1/sessions/x".to_owned(), "", 404, "no session of this id or name lives here"),
        ("GET", "/api/v1/sessions?limit=many".to_owned(), "", 400, "limit: found `many`, expected a whole number"),
        ("PUT", of_server("weight"), r#"{ "weight": 0 }"#, 400, "weight: found 0, expected 1 to 256"),
        ("PUT", of_server("weight"), r#"{ "weight": "#, 400, "the body: EOF while parsing a value at line 1 column 12"),
        ("PUT", of_server("weight"), "weight=3", 400, "the body: expected value at line 1 column 1"),
        (
            "PUT",
            of_server("weight"),
            "{\n \"wight\": 3 }",
            400,
            "the body: unknown field `wight`, expected `weight` at line 2",
        ),
        ("POST", of_server("drain"), r#"{ "rate": 0 }"#, 400, "rate: found `0`, expected a number above 0"),
        ("POST", of_server("drain"), r#"{ "deadline": "5" }"#, 400, "such as 30s"),
        ("PUT", "/api/v1/log".to_owned(), "{}", 400, "expected the key `filter`"),
        ("PUT", "/api/v1/log".to_owned(), r#"{ "filter": "loud" }"#, 400, "filter: found `loud`, expected a level"),
    ] {
        let answer = ask(&gateway, method, &path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
        let fault: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(fault["error"].as_str().unwrap().contains(why), "{method} {path} {body}: {fault}");
    }
    std::fs::write(gateway.file(), "listeners: []\n").unwrap();
    for (method, path) in [("GET", "/api/v1/reload/plan"), ("POST", "/api/v1/reload")] {
        let answer = ask(&gateway, method, path, "").await;
        assert_eq!(answer.status, 422, "{method} {path}");
        assert!(answer.text().contains("sockgate.yaml:1:"), "with its place: {}", answer.text());
    }
    let told = get(&gateway, "/api/v1/reload").await;
    assert!(told["error"].as_str().unwrap().contains("sockgate.yaml:1:"), "{told}");
}

/// `Authorization` with a token, and the token's file.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn with_a_token_file_only_those_who_show_a_token_are_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let said = format!("\nadmin: {{ address: 127.0.0.1:0, token_file: {} }}", file.display());
    let (_web, gateway) = Gateway::before_echo(&said).await;
    let status = async |path: &str, field: &str| {
        let mut client = Client::connect(gateway.address("admin")).await;
        let answer = client.get_with(path, field).await;
        assert_eq!(answer.header("www-authenticate"), (answer.status == 401).then_some("Bearer"), "{path}");
        answer.status
    };
    let shown = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/status", "/metrics", "/api/v1/status", "/api/v1/config", "/nothing"] {
        for field in ["", "Authorization: Bearer 0123456789abcdef\r\n", "Authorization: Basic OTk6OTk=\r\n"] {
            assert_eq!(status(path, field).await, 401, "{path} {field}");
        }
        assert_eq!(status(path, &shown).await, if path == "/nothing" { 404 } else { 200 }, "{path}");
    }
    for path in ["/livez", "/readyz", "/", "/dashboard.js"] {
        assert_eq!(status(path, "").await, 200, "{path} is for everybody");
    }
    // A new token holds as soon as it is there, and the old one for as long as it is.
    std::fs::write(&file, format!("{TOKEN}\nfedcba9876543210\n")).unwrap();
    eventually("the new one holds", async || {
        status("/status", "Authorization: Bearer fedcba9876543210\r\n").await == 200
    })
    .await;
    assert_eq!(status("/status", &shown).await, 200);
    std::fs::write(&file, "fedcba9876543210\n").unwrap();
    eventually("the old one does no longer", async || status("/status", &shown).await == 401).await;
}

#[tokio::test]
async fn a_token_file_that_can_not_be_used_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "short\n").unwrap();
    let admin = format!("admin: {{ address: 127.0.0.1:0, token_file: {} }}\n", file.display());
    let (code, said) =
        Gateway::fails(&format!("{}{admin}", Setup::before(&["127.0.0.1:1".parse().unwrap()]).yaml())).await;
    assert_eq!(code, 1);
    assert!(said.contains("admin.token_file") && said.contains("line 1: expected a token of 16 or more"), "{said}");
    assert!(!said.contains("short"), "{said}");
}

#[tokio::test]
async fn a_weight_that_an_operator_gives_holds_until_the_file_says_something_new() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let setup = |weight: u32, more: &str| {
        let setup = Setup::default().server(format!("address: \"{}\", name: a, weight: {weight}", a.address()));
        setup
            .server(format!("address: \"{}\", name: b", b.address()))
            .upstream("balance: round_robin")
            .more(more)
            .yaml()
    };
    let mut gateway = Gateway::start(&setup(1, "")).await;
    eventually("both are up", async || {
        get(&gateway, "/api/v1/servers").await.as_array().unwrap().iter().all(|server| server["state"] == "up")
    })
    .await;
    let set = told(&gateway, "PUT", "/api/v1/servers/app/a/weight", r#"{ "weight": 4 }"#).await;
    assert_eq!((&set["weight"], &set["configured_weight"]), (&json!(4), &json!(1)));
    let mut client = Client::connect(gateway.address("web")).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let servers = get(&gateway, "/api/v1/servers").await;
    let totals: Vec<i64> = servers.as_array().unwrap().iter().map(|server| server["total"].as_i64().unwrap()).collect();
    assert!((38..=42).contains(&totals[0]), "four of five go there: {totals:?}");
    let differences = async |gateway: &Gateway| get(gateway, "/api/v1/config").await["differences"].clone();
    let expected = json!([{ "upstream": "app", "server": "a", "key": "weight", "file": "1", "now": "4" }]);
    assert_eq!(differences(&gateway).await, expected);
    // A reload that says the same of it, and one that says something else of the upstream, change nothing.
    for more in ["", "timeouts: { keep_alive: 31s }"] {
        assert_eq!(gateway.reload(&setup(1, more)).await.status, 200);
        assert_eq!(differences(&gateway).await, expected);
    }
    assert_eq!(gateway.reload(&setup(2, "")).await.status, 200);
    assert_eq!(differences(&gateway).await, json!([]));
    assert_eq!(gateway.reload(&setup(1, "")).await.status, 200);
    assert_eq!(get(&gateway, "/api/v1/servers/app/a").await["weight"], 1, "it is forgotten");
    told(&gateway, "PUT", "/api/v1/servers/app/a/weight", r#"{ "weight": 9 }"#).await;
    assert_eq!(told(&gateway, "PUT", "/api/v1/servers/app/a/weight", r#"{ "weight": null }"#).await["weight"], 1);
}

#[tokio::test]
async fn what_an_operator_says_of_draining_is_a_difference_from_the_file() {
    let (_web, mut gateway) = Gateway::before_echo("").await;
    let yaml = std::fs::read_to_string(gateway.file()).unwrap();
    let name = get(&gateway, "/api/v1/servers").await[0]["name"].as_str().unwrap().to_owned();
    let path = |what: &str| format!("/api/v1/servers/app/{name}{what}");
    let would = get(&gateway, &path("/drain")).await;
    assert_eq!((&would["draining"], &would["progress"]), (&json!(false), &Value::Null));
    assert!(would["would"]["warning"].as_str().unwrap().contains("no other server"), "{would}");
    let disabled = told(&gateway, "POST", &path("/disable"), "").await;
    assert_eq!((&disabled["state"], &disabled["why"]), (&json!("draining"), &json!("an operator has asked for it")));
    assert_eq!(gateway.reload(&yaml.replace("app:", "app: ")).await.status, 200);
    let config = get(&gateway, "/api/v1/config").await;
    let expected = json!([{ "upstream": "app", "server": name, "key": "drain", "file": "false", "now": "true" }]);
    assert_eq!(config["differences"], expected);
    // Whoever watches the file may have loaded it as well.
    assert!(config["generation"].as_u64().unwrap() >= 2, "{config}");
    let enabled = told(&gateway, "POST", &path("/enable"), "").await;
    assert_eq!(enabled["state"], "up");
    let history: Vec<&str> =
        enabled["history"].as_array().unwrap().iter().map(|lately| lately["state"].as_str().unwrap()).collect();
    assert_eq!(history[history.len() - 2..], ["draining", "up"], "{history:?}");
    assert_eq!(get(&gateway, "/api/v1/config").await["differences"], json!([]));
}

#[tokio::test]
async fn routes_tell_how_much_comes_to_them_by_each_listener() {
    let web = Echo::start("web").await;
    let yaml = format!(
        "listeners:\n- {{ name: one, address: '127.0.0.1:0' }}\n- {{ name: other, address: '127.0.0.1:0' }}\n\
         routes: [{{ upstream: app }}]\nupstreams: {{ app: {{ servers: ['{}'] }} }}\n\
         admin: {{ address: '127.0.0.1:0' }}\n",
        web.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let mut client = Client::connect(gateway.address("other")).await;
    eventually("the rate is told", async || {
        assert_eq!(client.get("/").await.status, 200);
        let from = get(&gateway, "/api/v1/routes").await[0]["per_second_from"].clone();
        from["other"].as_f64().is_some_and(|rate| rate > 0.0) && from["one"] == 0.0
    })
    .await;
    let route = &get(&gateway, "/api/v1/routes").await[0];
    assert!(route["requests"].as_u64().unwrap() > 0, "{route}");
}

#[tokio::test]
async fn the_log_tells_more_from_when_it_is_asked_to() {
    let (_web, gateway) = Gateway::before_echo("").await;
    let before = get(&gateway, "/api/v1/log").await;
    assert!(before["filter"].as_str().unwrap().starts_with("info,sockgate=debug"), "{before}");
    let set = async |filter: &str| told(&gateway, "PUT", "/api/v1/log", &json!({ "filter": filter }).to_string()).await;
    set("error").await;
    ask(&gateway, "POST", "/api/v1/reload", "").await;
    set("info").await;
    ask(&gateway, "POST", "/api/v1/reload", "").await;
    gateway.log_line("POST /api/v1/reload: loading").await;
    assert_eq!(gateway.log_lines("POST /api/v1/reload: loading").len(), 1, "the first was not told");
}

#[tokio::test]
async fn sessions_are_listed_in_pages_found_by_their_id_and_ended_politely() {
    let (cluster, mut socket, sid) = busy().await;
    let gateway = &cluster.gateways[0];
    let mut polling = Vec::new();
    for _ in 0..9 {
        let mut client = Client::connect(gateway.address("web")).await;
        assert_eq!(client.get("/socket.io/?EIO=4&transport=polling").await.status, 200);
        polling.push(client);
    }
    let mut seen = BTreeSet::new();
    let mut path = "/api/v1/sessions?limit=4".to_owned();
    let mut pages = 0;
    loop {
        let page = get(gateway, &path).await;
        assert_eq!(page["live"], 10);
        for session in page["sessions"].as_array().unwrap() {
            assert!(seen.insert(session["session"].as_str().unwrap().to_owned()), "{session} is told once");
        }
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/sessions?limit=4&cursor={next}");
    }
    assert_eq!((seen.len(), pages), (10, 3));
    let count = async |filter: &str| {
        get(gateway, &format!("/api/v1/sessions?{filter}")).await["sessions"].as_array().unwrap().len()
    };
    assert_eq!(count("server=a").await + count("server=b").await, 10);
    assert_eq!((count("older_than=1h").await, count("younger_than=1h").await), (0, 10));
    assert_eq!((count("address=127.0.0.0/8").await, count("address=192.0.2.1").await), (1, 0), "one is connected");
    let one = get(gateway, &format!("/api/v1/sessions/{sid}")).await;
    assert_eq!((&one["address"], &one["listener"], &one["route"]), (&json!("127.0.0.1"), &json!("web"), &json!("app")));
    assert!(!one.to_string().contains(&sid), "ids are told nobody");
    let name = one["session"].as_str().unwrap();
    assert_eq!(get(gateway, &format!("/api/v1/sessions/{name}")).await["session"], name);
    let ended = told(gateway, "DELETE", &format!("/api/v1/sessions/{sid}"), "").await;
    assert_eq!(ended["told"], "at_once");
    // The code of the Close frame, 1012.
    let frame = within("a goodbye", socket.read_all()).await;
    assert!(frame.starts_with(&[0x88]) && frame.windows(2).any(|code| code == [0x03, 0xf4]), "{frame:?}");
    let quiet = seen.iter().find(|session| **session != name).unwrap();
    let ended = told(gateway, "DELETE", &format!("/api/v1/sessions/{quiet}"), "").await;
    assert_eq!((&ended["told"], &ended["session"]["connected"]), (&json!("with_its_next_request"), &json!(false)));
    assert_eq!(get(gateway, &format!("/api/v1/sessions/{quiet}")).await["leaving"], true);
}

#[tokio::test]
async fn over_tls_a_client_certificate_does_in_place_of_a_token() {
    let authority = Authority::new();
    let (own, operator) = (authority.sign(&["localhost"]), authority.sign(&["operator.test"]));
    let clients = format!("client_certificates: {{ ca: {}, mode: optional }}", authority.ca());
    let admin = format!("admin: {{ address: 127.0.0.1:0, tls: {{ certificates: [{}], {clients} }} }}", own.yaml());
    let yaml = Setup::before(&["127.0.0.1:1".parse().unwrap()]).more(format!("\n{admin}")).yaml();
    let gateway = Gateway::start_unready(&yaml).await;
    let address = gateway.address("admin");
    let status = async |client: TlsClient, path: &str| client.open(address, "localhost").await.get(path).await.status;
    assert_eq!(status(authority.client(&[]), "/livez").await, 200, "probes need nothing");
    assert_eq!(status(authority.client(&[]), "/api/v1/status").await, 401);
    let showing = || authority.client_showing(&operator, rustls::DEFAULT_VERSIONS);
    assert_eq!(status(showing(), "/api/v1/status").await, 200);
    let ask = async |more: &[&str]| {
        let url = format!("https://localhost:{}", address.port());
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sockgate"));
        command.args(["status", "--admin", &url, "--ca", &authority.ca()]).args(more);
        within("the command ends", command.output()).await.unwrap()
    };
    let told = ask(&["--cert", &operator.cert, "--key", &operator.key]).await;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let refused = String::from_utf8(ask(&[]).await.stderr).unwrap();
    assert!(refused.contains("expected a client certificate"), "{refused}");
}
