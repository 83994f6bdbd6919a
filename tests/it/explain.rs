//! `sockgate explain`: what would become of a request, by the file alone and as a running gateway is.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::cluster::Cluster;
use crate::support::eio::{Eio, poll};
use crate::support::pods::Pods;
use crate::support::{Client, Echo, Gateway, Setup, eventually, within};

const YAML: &str = "
listeners:
  - { name: plain, address: 127.0.0.1:8080 }
  - { name: secure, address: 127.0.0.1:8443, tls: { certificates: [{ cert: a.pem, key: a.key }] } }
forwarding: { trusted_proxies: [10.0.0.0/8], request_id: \"\" }
routes:
  - { name: api, match: { host: api.example.com }, upstream: web }
  - { name: posts, match: { path: /posts, method: POST }, upstream: web }
  - name: sockets
    match: { path: /socket.io/ }
    upstream: socket_io
    timeouts: { first_byte: 7s }
    request_headers: { set: { X-Tenant: a, X-Client: \"${client.ip}\" } }
  - { name: office, match: { path: /office }, upstream: web, access: { allow: [10.1.0.0/16] } }
  - { name: old, match: { path: /old }, redirect: { path: /new } }
  - { name: faults, match: { path: /faults }, upstream: [{ name: web, weight: 0 }, { respond: 503 }] }
  - { name: rest, match: { host: app.example.com }, upstream: web }
upstreams:
  socket_io:
    kind: socket.io
    timeouts: { read_idle: 11s }
    servers: [{ name: a, address: \"127.0.0.1:1\" }, { name: b, address: \"127.0.0.1:2\" }]
  web: { servers: [\"127.0.0.1:3\"] }
";

async fn explain(arguments: &[&str]) -> (i32, String) {
    explain_by(YAML, arguments).await
}

async fn explain_by(yaml: &str, arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sockgate.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    command.args(["explain", "-c"]).arg(&file).args(arguments).env_remove("RUST_LOG");
    let output = within("sockgate ends", command.output()).await.unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

async fn told(arguments: &[&str]) -> Value {
    told_of(YAML, arguments).await
}

async fn told_of(yaml: &str, arguments: &[&str]) -> Value {
    let (code, text) = explain_by(yaml, &[arguments, &["--json"]].concat()).await;
    assert_eq!(code, 0, "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_request_is_followed_through_the_file_to_its_server() {
    let url = "https://app.example.com/socket.io/?EIO=4&transport=websocket";
    let arguments = [url, "-H", "Upgrade: websocket", "-H", "X-Forwarded-For: 6.6.6.6", "--from", "203.0.113.7"];
    let told = told(&arguments).await;
    assert_eq!((&told["listener"]["name"], &told["websocket"]), (&json!("secure"), &json!(true)));
    let passed = json!([
        { "route": "api", "why": ["the host is `app.example.com`, not api.example.com"] },
        { "route": "posts", "why": ["the path is /socket.io/, not below /posts", "the method is GET, not POST"] },
    ]);
    assert_eq!(told["passed_over"], passed);
    assert_eq!((&told["route"]["name"], &told["route"]["place"]), (&json!("sockets"), &json!(2)));
    assert_eq!((&told["upstream"]["name"], &told["upstream"]["balance"]), (&json!("socket_io"), &json!("client_ip")));
    assert_eq!(told["upstream"]["session"], json!({ "transport": "websocket", "opens": true, "named": false }));
    assert_eq!((&told["live"], &told["upstream"]["choice"]), (&json!(false), &Value::Null), "no server is known");
    assert!(["a", "b"].contains(&told["upstream"]["by_hash"][0].as_str().unwrap()), "{told}");
    let fields: Vec<(&str, &str)> = told["request"]["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| (field[0].as_str().unwrap(), field[1].as_str().unwrap()))
        .collect();
    for field in [
        ("Host", "app.example.com"),
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("x-tenant", "a"),
        ("x-client", "203.0.113.7"),
    ] {
        assert!(fields.contains(&field), "{field:?} in {fields:?}");
    }
    assert!(!fields.iter().any(|(_, value)| value.contains("6.6.6.6")), "strangers say nothing of themselves");
    let (code, text) = explain(&arguments).await;
    assert_eq!(code, 0);
    for line in [
        "not       route api: the host is `app.example.com`, not api.example.com",
        "route     sockets (routes[2]), which matches",
        "upstream  socket_io (socket.io), servers a, b",
        "          X-Forwarded-For: 203.0.113.7",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn times_say_where_they_come_from_and_trusted_proxies_who_the_client_is() {
    let url = "http://app.example.com/socket.io/?EIO=4&transport=polling&sid=abc";
    let told = told(&[url, "-H", "X-Forwarded-For: 192.0.2.9", "--from", "10.0.0.5"]).await;
    assert_eq!((&told["listener"]["name"], &told["client"]), (&json!("plain"), &json!("192.0.2.9")));
    assert_eq!(told["times"]["first_byte"], json!({ "time": "7s", "from": "the route" }));
    assert_eq!(told["times"]["read_idle"], json!({ "time": "11s", "from": "the upstream" }));
    assert_eq!(told["times"]["connect"], json!({ "time": "5s", "from": "the default" }));
    assert_eq!(told["upstream"]["session"]["named"], true);
}

#[tokio::test]
async fn what_goes_nowhere_is_told_why() {
    let refused = told(&["http://app.example.com/office", "--from", "203.0.113.7"]).await;
    assert_eq!((&refused["route"]["name"], &refused["refused"]["status"]), (&json!("office"), &json!(403)));
    assert_eq!(refused["route"]["asks"], json!(["allow, by `access` of the route"]));
    let allowed = told(&["http://app.example.com/office", "--from", "10.1.2.3"]).await;
    assert_eq!((&allowed["refused"], &allowed["upstream"]["name"]), (&Value::Null, &json!("web")));
    let nowhere = told(&["GET http://other.example.com/"]).await;
    assert_eq!((&nowhere["route"], &nowhere["refused"]["status"]), (&Value::Null, &json!(404)));
    assert_eq!(nowhere["passed_over"].as_array().unwrap().len(), 7);
    let (_, here) = explain(&["http://app.example.com/old"]).await;
    assert!(here.contains("answer    by the gateway itself (redirect)"), "{here}");
    let (_, here) = explain(&["http://app.example.com/faults"]).await;
    for line in
        ["split     this client's side of web, respond 503", "answer    by the gateway itself (respond with 503)"]
    {
        assert!(here.contains(line), "{line} in\n{here}");
    }
    for (arguments, fault) in [
        (&["app.example.com/"][..], "is no URL: expected one such as https://"),
        (&["http://a/", "-H", "nonsense"], "expected `Name: value`"),
        (&["http://a/", "--listener", "web"], "there is no listener `web` for HTTP, only plain, secure"),
    ] {
        let (code, said) = explain(arguments).await;
        assert!(code == 1 && said.contains(fault), "{arguments:?}: {code} {said}");
    }
}

const WITH_PEERS: &str = "
listeners: [{ name: web, address: \"127.0.0.1:8080\" }]
routes:
  - { match: { path: /page }, respond: { status: 204 } }
  - { match: { path: /web }, upstream: web }
  - { upstream: chat }
upstreams:
  chat: { kind: socket.io, servers: [\"127.0.0.1:1\", \"127.0.0.1:2\"], peers: [\"127.0.0.7:7\", \"127.0.0.7:8\"] }
  web: { servers: [\"127.0.0.1:3\"] }
";
const OF_SESSION: &str = "http://localhost/socket.io/?EIO=4&transport=polling&sid=there";
/// The mark of a request, and that of a question for `there`; nothing seals them.
const MARK: &str = "Sockgate-Peer: 1 00000000000000000000000000000007 1700000000 192.0.2.66:4711 443 776562 - - -";
const QUESTION: &str = "63686174 7468657265 4 1 -";

#[tokio::test]
async fn a_file_tells_what_would_be_asked_of_peers() {
    let told = told_of(WITH_PEERS, &[OF_SESSION]).await;
    let why = "where its session is not known: own servers are asked first, then 2 peers, and it goes on to the one that has it";
    let peers = json!({
        "upstream": "chat@peers", "gateways": ["127.0.0.7:7", "127.0.0.7:8"], "asked": true, "at": null, "why": why,
    });
    assert_eq!((&told["upstream"]["peers"], &told["mark"]), (&peers, &Value::Null));
    let (_, words) = explain_by(WITH_PEERS, &[OF_SESSION]).await;
    for line in ["peers     chat@peers: 127.0.0.7:7, 127.0.0.7:8\n", &format!("peers     are asked: {why}\n")] {
        assert!(words.contains(line), "{line} in\n{words}");
    }
    let none = told_of(WITH_PEERS, &["http://localhost/web"]).await;
    assert_eq!(none["upstream"]["peers"], Value::Null, "it has none");
    let none = told_of(WITH_PEERS, &["http://localhost/page"]).await;
    assert_eq!(none["upstream"], Value::Null);
    let one = WITH_PEERS.replace(", \"127.0.0.7:8\"]", "]");
    let told = told_of(&one, &[OF_SESSION]).await;
    assert!(told["upstream"]["peers"]["why"].as_str().unwrap().contains("then 1 peer, and"), "{told}");
}

#[tokio::test]
async fn a_request_stays_with_own_servers_without_a_session_and_with_the_mark_of_a_peer() {
    for (url, why) in [
        ("http://localhost/", "it belongs to no session, and stays with own servers"),
        ("http://localhost/socket.io/?EIO=4&transport=polling", "it opens a session, which is one of an own server"),
    ] {
        let told = told_of(WITH_PEERS, &[url]).await;
        let peers = &told["upstream"]["peers"];
        assert_eq!((&peers["asked"], &peers["why"]), (&json!(false), &json!(why)), "{url}");
        let (_, words) = explain_by(WITH_PEERS, &[url]).await;
        assert!(words.contains(&format!("peers     none is asked: {why}\n")), "{words}");
    }
    let marked = [OF_SESSION, "-H", &format!("{MARK} -"), "--from", "127.0.0.7"];
    let told = told_of(WITH_PEERS, &marked).await;
    let peers = &told["upstream"]["peers"];
    let why = "it comes from a peer, and is passed on to nobody";
    assert_eq!((&peers["asked"], &peers["why"]), (&json!(false), &json!(why)));
    assert_eq!((&told["mark"], &told["client"]), (&json!({ "believed": true, "asks": false }), &json!("192.0.2.66")));
    let (_, words) = explain_by(WITH_PEERS, &marked).await;
    let line = "mark      of a peer: it goes to own servers or is told that its session is unknown, and on to nobody\n";
    assert!(words.contains(line), "{words}");
    // A question for a session goes to no route at all.
    let question = [OF_SESSION, "-H", &format!("{MARK} {QUESTION}"), "--from", "127.0.0.7"];
    let told = told_of(WITH_PEERS, &question).await;
    assert_eq!((&told["mark"], &told["route"]), (&json!({ "believed": true, "asks": true }), &Value::Null));
    let (_, words) = explain_by(WITH_PEERS, &question).await;
    assert!(words.ends_with("mark      of a peer, which asks for a session: the gateway itself answers\n"), "{words}");
    // What a stranger says of being one means nothing.
    let stranger = [OF_SESSION, "-H", &format!("{MARK} -"), "--from", "127.0.0.8"];
    let told = told_of(WITH_PEERS, &stranger).await;
    assert_eq!((&told["mark"], &told["client"]), (&json!({ "believed": false, "asks": false }), &json!("127.0.0.8")));
    assert_eq!(told["upstream"]["peers"]["asked"], true);
    let (_, words) = explain_by(WITH_PEERS, &stranger).await;
    assert!(words.contains("mark      of a peer: it is not believed, and goes no further"), "{words}");
}

#[tokio::test]
async fn a_running_gateway_knows_which_peer_has_a_session_and_asks_none_for_it() {
    let servers = [Eio::start("a").await, Eio::start("b").await];
    let setup = |server: &Eio| Setup::before(&[server.address()]).upstream("kind: socket.io");
    let pods = Pods::before(servers.iter().map(setup)).await;
    servers[1].knows("there");
    let [here, there] = [&pods.gateways[0], &pods.gateways[1]];
    let peer = there.address("web").to_string();

    let told = told_by(here, &[OF_SESSION]).await;
    let peers = &told["upstream"]["peers"];
    let why = "this gateway does not know its session: own servers are asked first, then 2 peers, and it goes on to the one that has it";
    assert_eq!((&peers["asked"], &peers["at"], &peers["why"]), (&json!(true), &Value::Null, &json!(why)));
    let choice = "this gateway does not know its session: servers are asked for it, and then peers";
    assert_eq!(told["upstream"]["choice"], json!({ "server": null, "why": choice }));
    let questions = "sockgate_session_questions_total{upstream=\"app@peers\"}";
    assert_eq!((here.metric(questions).await, servers[0].questions().len()), (0.0, 0), "nobody was asked");

    // A request finds it. One in vain has had the gateway meet itself among its peers.
    assert_eq!(poll(here.address("web"), "made-up").await.status, 400);
    assert_eq!(poll(here.address("web"), "there").await.text(), "4b");
    let told = told_by(here, &[OF_SESSION]).await;
    let peers = &told["upstream"]["peers"];
    let at = (&peers["asked"], &peers["at"], &peers["why"]);
    assert_eq!(at, (&json!(false), &json!(peer), &json!("its session lives there")));
    let choice = "a peer, behind which its session lives";
    assert_eq!(told["upstream"]["choice"], json!({ "server": peer, "why": choice }));
    assert_eq!(told["peers"].as_array().unwrap().len(), 2);
    let (_, words) = asked(here, &[OF_SESSION]).await;
    for line in [
        format!("peers     {peer} gets it: its session lives there\n"),
        format!("now       {peer} is up, 1 sessions are known to be there\n"),
        format!("server    {peer}: {choice}\n"),
    ] {
        assert!(words.contains(&line), "{line} in\n{words}");
    }
    let told = told_by(here, &[&OF_SESSION.replace("there", "nobodys")]).await;
    let why = told["upstream"]["peers"]["why"].as_str().unwrap();
    assert!(why.contains("then 1 peer, and"), "itself it does not ask: {why}");

    // Where it lives it goes nowhere.
    let told = told_by(there, &[OF_SESSION]).await;
    let peers = &told["upstream"]["peers"];
    let here = (&peers["asked"], &peers["at"], &peers["why"]);
    assert_eq!(here, (&json!(false), &Value::Null, &json!("its session lives on an own server")));
    let marked = told_by(there, &[OF_SESSION, "-H", &format!("{MARK} -")]).await;
    assert_eq!(marked["mark"]["believed"], false, "nothing seals it");
}

/// Asks a running gateway.
async fn asked(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    command.args(["explain", "--admin", &gateway.address("admin").to_string()]).args(arguments);
    let output = within("sockgate ends", command.env_remove("RUST_LOG").output()).await.unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

async fn told_by(gateway: &Gateway, arguments: &[&str]) -> Value {
    let (code, text) = asked(gateway, &[arguments, &["--json"]].concat()).await;
    assert_eq!(code, 0, "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_running_gateway_knows_where_a_session_lives_and_where_new_ones_would_go() {
    let cluster = Cluster::start("v4", 2, &[]).await;
    let gateway = &cluster.gateways[0];
    let mut client = Client::connect(gateway.address("web")).await;
    let opened = client.get("/socket.io/?EIO=4&transport=polling").await.text();
    let handshake: Value = serde_json::from_str(opened.trim_start_matches('0')).unwrap();
    let sid = handshake["sid"].as_str().unwrap();
    let listed: Value = serde_json::from_str(&gateway.admin("/api/v1/sessions").await.text()).unwrap();
    let home = listed["sessions"][0]["server"].as_str().unwrap();

    let url = format!("http://localhost/socket.io/?EIO=4&transport=polling&sid={sid}");
    let told = told_by(gateway, &[&url]).await;
    assert_eq!(told["upstream"]["choice"], json!({ "server": home, "why": "its session lives there" }));
    assert_eq!((&told["live"], told["servers"].as_array().unwrap().len()), (&json!(true), 2));
    let (_, words) = asked(gateway, &[&url]).await;
    assert!(words.contains(&format!("server    {home}: its session lives there\n")), "{words}");
    assert!(words.contains(&format!("now       {home} is up, 1 sessions, ")), "{words}");

    let url = "http://localhost/socket.io/?EIO=4&transport=polling";
    let told = told_by(gateway, &[&format!("{url}&sid=nobodys")]).await;
    let why = "this gateway does not know its session: servers are asked for it";
    assert_eq!(told["upstream"]["choice"], json!({ "server": null, "why": why }));
    let told = told_by(gateway, &[url]).await;
    let choice = &told["upstream"]["choice"];
    assert!(choice["why"] == "the balance" && [json!("a"), json!("b")].contains(&choice["server"]), "{choice}");
    // It opens none, and counts as nobody's.
    let listed: Value = serde_json::from_str(&gateway.admin("/api/v1/sessions").await.text()).unwrap();
    assert_eq!(listed["live"], 1);
    assert_eq!(gateway.metric("sockgate_server_in_flight").await, 0.0);
}

#[tokio::test]
async fn asking_takes_nothing_of_what_the_client_may_ask_for() {
    let server = Echo::start("only").await;
    let more = "limits: { rate: { requests: 1, per: 1day }, requests_per_address: 1 }";
    let gateway = Setup::before(&[server.address()]).more(more).start().await;
    for _ in 0..3 {
        let told = told_by(&gateway, &["http://localhost/"]).await;
        assert_eq!((&told["refused"], &told["upstream"]["choice"]["why"]), (&Value::Null, &json!("the balance")));
    }
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/").await.status, 429, "that was the one");
    let counted = r#"sockgate_requests_total{class="2xx",upstream="app"}"#;
    eventually("one request is counted", async || gateway.metric(counted).await == 1.0).await;
}

#[tokio::test]
async fn a_question_that_is_none_is_told_what_would_be_one() {
    let (_web, gateway) = Gateway::before_echo("").await;
    for (body, error) in [
        ("", "request: found nothing, expected a URL"),
        (r#"{ "request": "ftp://a" }"#, "is no URL"),
        (r#"{ "request": "http://a/", "from": "home" }"#, "from: found `home`, expected an IP address"),
        (r#"{ "request": "http://a/", "listener": "none" }"#, "there is no listener `none` for HTTP, only web"),
        (r#"{ "request": "http://a/", "headers": ["x"] }"#, "expected `Name: value`"),
    ] {
        let mut client = Client::connect(gateway.address("admin")).await;
        client
            .send(format!(
                "POST /api/v1/explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let answer = client.answer().await;
        assert!(answer.status == 400 && answer.text().contains(error), "{body}: {}", answer.text());
        assert!(answer.text().contains("\"hint\": \"for example"), "{}", answer.text());
    }
    let (code, text) = asked(&gateway, &["nowhere"]).await;
    assert!(code == 1 && text.contains("`nowhere` is no URL"), "{text}");
}
