//! Strangers who make up ids of sessions, and servers that say odd things of theirs: each protocol bears them alike. What is
//! made up costs servers a bounded number of questions, the gateway no memory, and sessions that are known nothing.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::process::Command;

use crate::support::client::Answer;
use crate::support::engine::for_each_engine;
use crate::support::{Client, Gateway, Scripted, Setup};

for_each_engine! {
    made_up_ids_of_engine_io_have_a_budget,
    made_up_ids_of_mcp_have_a_budget,
    made_up_ids_of_signalr_have_a_budget,
    made_up_ids_of_sockjs_have_a_budget,
    made_up_ids_of_a_rule_have_a_budget,
    an_answer_that_names_a_session_of_another_server_moves_nobody,
    ids_that_are_too_long_harm_nobody_whoever_says_them,
    a_request_that_names_two_sessions_is_refused_and_nobody_is_asked,
}

/// A protocol, as its clients and servers speak it here.
struct Protocol {
    name: &'static str,
    /// What the upstream says of it.
    upstream: &'static str,
    /// Opens a session: the method, the target and the fields. `{}` is an id, where the client makes it up.
    opens: (&'static str, &'static str, &'static str),
    /// A request of the session `{}`.
    asks: (&'static str, &'static str, &'static str),
    /// Names the sessions `{}` and `{other}`, which is refused; nothing where a request has one place for an id.
    names_two: Option<(&'static str, &'static str, &'static str)>,
    /// By which a server says that it does not know one.
    unknown: u16,
    /// The body of what is said to a session.
    says: &'static str,
}

const ENGINE_IO: Protocol = Protocol {
    name: "socket.io",
    upstream: "kind: socket.io, balance: round_robin, sessions: { returning: 0s }",
    opens: ("GET", "/socket.io/?EIO=4&transport=polling", ""),
    asks: ("GET", "/socket.io/?EIO=4&transport=polling&sid={}", ""),
    names_two: None,
    unknown: 400,
    says: "",
};
const MCP: Protocol = Protocol {
    name: "mcp",
    upstream: "kind: mcp, balance: round_robin",
    opens: ("POST", "/mcp", ""),
    asks: ("POST", "/mcp", "Mcp-Session-Id: {}\r\n"),
    names_two: Some(("POST", "/mcp", "Mcp-Session-Id: {}\r\nMcp-Session-Id: {other}\r\n")),
    unknown: 404,
    says: "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}",
};
const SIGNALR: Protocol = Protocol {
    name: "signalr",
    upstream: "kind: signalr, balance: round_robin",
    opens: ("POST", "/chat/negotiate?negotiateVersion=1", ""),
    asks: ("POST", "/chat?id={}", ""),
    names_two: Some(("POST", "/chat?id={}&id={other}", "")),
    unknown: 404,
    says: "{\"type\":6}\x1e",
};
const SOCKJS: Protocol = Protocol {
    name: "sockjs",
    upstream: "kind: sockjs",
    opens: ("POST", "/echo/000/{}/xhr", ""),
    asks: ("POST", "/echo/000/{}/xhr_send", ""),
    names_two: None,
    unknown: 404,
    says: "[\"x\"]",
};
const RULE: Protocol = Protocol {
    name: "http",
    upstream: "balance: round_robin, sessions: { rule: { route: { query: sid, header: X-Session }, learn: { header: X-Session }, \
               question: { path: '/app/known?sid={id}' } } }",
    opens: ("POST", "/app/open", ""),
    asks: ("POST", "/app/say?sid={}", ""),
    names_two: Some(("POST", "/app/say?sid={}", "X-Session: {other}\r\n")),
    unknown: 404,
    says: "x",
};

impl Protocol {
    fn opening(&self, id: &str, fields: &str) -> String {
        let (method, target, own) = self.opens;
        request(method, &target.replace("{}", id), &format!("{own}{fields}"), "")
    }

    fn asking(&self, id: &str) -> String {
        let (method, target, fields) = self.asks;
        request(method, &target.replace("{}", id), &fields.replace("{}", id), self.says)
    }

    fn naming_two(&self, id: &str, other: &str) -> Option<String> {
        let (method, target, fields) = self.names_two?;
        let named = |text: &str| text.replace("{}", id).replace("{other}", other);
        Some(request(method, &named(target), &named(fields), self.says))
    }
}

fn request(method: &str, target: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

/// A server of all these protocols. Its sessions begin with its name, and have 22 characters as those of SignalR do. To a request
/// that opens one it tells the id in the field `X-Tell` instead, where there is one, and one of as many bytes as `X-Length` says.
struct Speaker {
    server: Scripted,
    /// Requests until now, those of the gateway's own included.
    heard: Arc<AtomicUsize>,
}

impl Speaker {
    async fn start(name: &'static str) -> Self {
        let (heard, known) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<HashSet<String>>>::default());
        let counted = Arc::clone(&heard);
        let server = Scripted::start(move |mut client: Client, _| {
            let (heard, known) = (Arc::clone(&counted), Arc::clone(&known));
            async move {
                while let Some(request) = client.request().await {
                    heard.fetch_add(1, Ordering::Relaxed);
                    let head = String::from_utf8_lossy(&request.head).into_owned();
                    let body = String::from_utf8_lossy(&request.body).into_owned();
                    let (status, fields, said) = answer(name, &head, &body, &mut known.lock().unwrap());
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nX-Server: {name}\r\n{fields}Content-Length: {}\r\n\r\n{said}",
                        said.len()
                    );
                    if client.try_send(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { server: server.await, heard }
    }
}

fn answer(name: &str, head: &str, body: &str, known: &mut HashSet<String>) -> (u16, String, String) {
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let mut fresh = || match (field("x-tell"), field("x-length")) {
        (Some(id), _) => id,
        (None, Some(length)) => "x".repeat(length.parse().unwrap()),
        (None, None) => {
            let id = format!("{name}{:0>21}", known.len());
            known.insert(id.clone());
            id
        }
    };
    let nothing = String::new;
    match (path, path.split('/').collect::<Vec<_>>().as_slice()) {
        ("/socket.io/", _) => match value("sid") {
            None => {
                let pings = "\"pingInterval\":25000,\"pingTimeout\":20000";
                (200, nothing(), format!("0{{\"sid\":\"{}\",\"upgrades\":[\"websocket\"],{pings}}}", fresh()))
            }
            Some(sid) if !known.contains(sid) => (400, nothing(), "{\"code\":1,\"message\":\"no\"}".to_owned()),
            Some(_) if value("transport") == Some("websocket") => {
                (400, nothing(), "{\"code\":3,\"message\":\"no\"}".to_owned())
            }
            Some(_) => (200, nothing(), "6".to_owned()),
        },
        ("/mcp", _) => match field("mcp-session-id") {
            None => (200, format!("Mcp-Session-Id: {}\r\n", fresh()), "{}".to_owned()),
            Some(id) if !known.contains(&id) => (404, nothing(), nothing()),
            Some(_) if body.contains("cancelled") => (202, nothing(), nothing()),
            Some(_) => (200, nothing(), "{}".to_owned()),
        },
        ("/chat/negotiate", _) => {
            let token = fresh();
            let said =
                format!("{{\"connectionId\":\"{name}\",\"connectionToken\":\"{token}\",\"negotiateVersion\":1}}");
            (200, nothing(), said)
        }
        ("/chat", _) => {
            (if value("id").is_some_and(|id| known.contains(id)) { 200 } else { 404 }, nothing(), nothing())
        }
        (_, ["", "echo", _, id, "xhr_send"]) => (if known.contains(*id) { 204 } else { 404 }, nothing(), nothing()),
        (_, ["", "echo", _, id, "xhr"]) => {
            let said = if known.insert((*id).to_owned()) { "o\n" } else { "a[\"x\"]\n" };
            (200, nothing(), said.to_owned())
        }
        ("/app/open", _) => (200, format!("X-Session: {}\r\n", fresh()), nothing()),
        _ => (if value("sid").is_some_and(|id| known.contains(id)) { 200 } else { 404 }, nothing(), nothing()),
    }
}

/// A session, as its client has it.
struct Session {
    id: String,
    home: String,
}

fn session_of(protocol: &Protocol, made_up: &str, answer: &Answer) -> Session {
    assert_eq!(answer.status, 200, "{}: {}", protocol.name, answer.text());
    let home = answer.header("x-server").unwrap().to_owned();
    let said = answer.text();
    let quoted = |key: &str| said.split_once(&format!("\"{key}\":\"")).map(|(_, rest)| rest.split('"').next().unwrap());
    let of_body = quoted("sid").or_else(|| quoted("connectionToken"));
    let of_field = answer.header("mcp-session-id").or_else(|| answer.header("x-session"));
    let id = of_field.or(of_body).unwrap_or(made_up).to_owned();
    Session { id, home }
}

async fn open(protocol: &Protocol, gateway: SocketAddr, number: usize) -> Session {
    let made_up = format!("opened{number}");
    let mut client = Client::connect_from(7, gateway).await;
    client.send(protocol.opening(&made_up, "")).await;
    session_of(protocol, &made_up, &client.answer().await)
}

/// The session is where it was.
async fn ask(protocol: &Protocol, gateway: SocketAddr, session: &Session) {
    let mut client = Client::connect_from(7, gateway).await;
    client.send(protocol.asking(&session.id)).await;
    let answer = client.answer().await;
    assert!(matches!(answer.status, 200 | 204), "{}: {} {}", protocol.name, answer.status, answer.text());
    assert_eq!(answer.header("x-server"), Some(&*session.home), "{}", protocol.name);
}

async fn servers() -> [Speaker; 2] {
    [Speaker::start("a").await, Speaker::start("b").await]
}

fn before(servers: &[Speaker; 2], protocol: &Protocol) -> Setup {
    let servers = [("a", servers[0].server.address()), ("b", servers[1].server.address())];
    Setup::before_named(servers).unchecked().upstream(protocol.upstream)
}

async fn made_up_ids_of_engine_io_have_a_budget() {
    flood(&ENGINE_IO, 4000).await;
}

async fn made_up_ids_of_mcp_have_a_budget() {
    flood(&MCP, 4000).await;
}

async fn made_up_ids_of_signalr_have_a_budget() {
    flood(&SIGNALR, 4000).await;
}

async fn made_up_ids_of_sockjs_have_a_budget() {
    flood(&SOCKJS, 4000).await;
}

async fn made_up_ids_of_a_rule_have_a_budget() {
    flood(&RULE, 4000).await;
}

/// docs/sessions.md has what it says, of a program that was built for speed: SOCKGATE says where that is.
#[tokio::test]
#[ignore = "takes the machine for itself"]
async fn a_million_made_up_ids_of_each_protocol_have_a_budget() {
    for protocol in [&ENGINE_IO, &MCP, &SIGNALR, &SOCKJS, &RULE] {
        flood(protocol, 1_000_000).await;
    }
}

/// So many ids from one address, on connections that each send a hundred at once, while sessions that are known are in use.
async fn flood(protocol: &Protocol, ids: usize) {
    const LANES: usize = 4;
    const AT_ONCE: usize = 100;
    let servers = servers().await;
    let setup = before(&servers, protocol);
    let gateway = match std::env::var("SOCKGATE") {
        Ok(program) if ids >= 1_000_000 => Gateway::launch(&setup.yaml(), Command::new(program)).await,
        _ => setup.start().await,
    };
    let web = gateway.address("web");
    let opened: Vec<Session> = join_all((0..20).map(|number| open(protocol, web, number))).await.into_iter().collect();
    let asked_before = gateway.metric("sockgate_session_questions_total{upstream=\"app\"}").await;
    let heard = || servers.iter().map(|server| server.heard.load(Ordering::Relaxed)).sum::<usize>();
    let (memory, heard_before, began) = (gateway.memory(), heard(), Instant::now());
    let over = AtomicBool::new(false);
    let flood = async {
        let lanes = (0..LANES).map(async |lane| {
            let mut stranger = Client::connect_from(66, web).await;
            for batch in 0..ids / LANES / AT_ONCE {
                let made_up =
                    |number| protocol.asking(&format!("made{:0>18}", (lane * ids + batch) * AT_ONCE + number));
                stranger.send((0..AT_ONCE).map(made_up).collect::<String>()).await;
                for _ in 0..AT_ONCE {
                    assert_eq!(stranger.answer().await.status, protocol.unknown, "{}", protocol.name);
                }
            }
        });
        join_all(lanes).await;
        over.store(true, Ordering::Relaxed);
    };
    let known = async {
        let (mut asked, mut slowest) = (0, Duration::ZERO);
        while !over.load(Ordering::Relaxed) {
            let since = Instant::now();
            ask(protocol, web, &opened[asked % opened.len()]).await;
            asked += 1;
            slowest = slowest.max(since.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (asked, slowest)
    };
    let ((), (asked, slowest)) = tokio::join!(flood, known);
    let took = began.elapsed();
    let questions = gateway.metric("sockgate_session_questions_total{upstream=\"app\"}").await - asked_before;
    let grown = gateway.memory().saturating_sub(memory);
    println!(
        "{}: {ids} ids in {took:.1?}, {questions} questions, {} KiB more, {asked} requests of known sessions, the slowest in \
         {slowest:.1?}",
        protocol.name, grown
    );
    // What an address and its new connections may at once, and what flows in meanwhile; two servers are asked for each.
    let most = 2.0 * (600.0 + 30.0 * (took.as_secs_f64() + 1.0));
    assert!(questions > 0.0 && questions <= most, "{}: {questions} questions, {most} at most", protocol.name);
    assert_eq!(heard() - heard_before, ids + asked + questions as usize, "{}: each is sent once", protocol.name);
    assert!(grown < 32 << 10, "{}: {grown} KiB", protocol.name);
    assert!(slowest < Duration::from_secs(5), "{}: {slowest:?}", protocol.name);
    for session in &opened {
        ask(protocol, web, session).await;
    }
    let mut live = 0.0;
    for server in ["a", "b"] {
        live += gateway.metric(&format!("sockgate_sessions{{upstream=\"app\",server=\"{server}\"}}")).await;
    }
    assert_eq!(live, opened.len() as f64, "{}: nobody else is counted", protocol.name);
}

async fn an_answer_that_names_a_session_of_another_server_moves_nobody() {
    for protocol in [&ENGINE_IO, &MCP, &SIGNALR, &RULE] {
        let servers = servers().await;
        let gateway = before(&servers, protocol).start().await;
        let web = gateway.address("web");
        let session = open(protocol, web, 0).await;
        let mut thieves = HashSet::new();
        for _ in 0..4 {
            let mut client = gateway.client().await;
            client.send(protocol.opening("", &format!("X-Tell: {}\r\n", session.id))).await;
            let stolen = session_of(protocol, "", &client.answer().await);
            assert_eq!(stolen.id, session.id, "{}", protocol.name);
            thieves.insert(stolen.home);
            ask(protocol, web, &session).await;
        }
        assert_eq!(thieves.len(), 2, "{}", protocol.name);
        gateway.log_line("an answer names a session that lives on another server").await;
    }
}

async fn ids_that_are_too_long_harm_nobody_whoever_says_them() {
    for protocol in [&ENGINE_IO, &MCP, &SIGNALR, &SOCKJS, &RULE] {
        let servers = servers().await;
        let gateway = before(&servers, protocol).start().await;
        let web = gateway.address("web");
        let sessions = join_all((0..4).map(|number| open(protocol, web, number))).await;
        let learned = "sockgate_session_events_total{upstream=\"app\",event=\"learned\"}";
        let asked = gateway.metric("sockgate_session_questions_total{upstream=\"app\"}").await;
        for length in [5_000, 10_000, 64 * 1024, 300 * 1024] {
            let mut client = Client::connect(web).await;
            let answer = client.try_ask(protocol.asking(&"x".repeat(length))).await;
            let status = answer.map_or(0, |answer| answer.status);
            // Servers say that they do not know it, where its head is not too long to be read at all.
            let refused = [protocol.unknown, 414, 431, 0];
            assert!(refused.contains(&status), "{}: {status} to {length} bytes", protocol.name);
            if protocol.name == "sockjs" {
                continue;
            }
            let mut client = Client::connect(web).await;
            let answer = client.try_ask(protocol.opening("", &format!("X-Length: {length}\r\n"))).await;
            // A head that is too long is the server's fault; what is too long in a body goes by.
            let status = answer.map_or(0, |answer| answer.status);
            assert!(matches!(status, 200 | 502), "{}: {status} for {length} bytes", protocol.name);
        }
        assert_eq!(gateway.metric(learned).await, 4.0, "{}: none of them is a session", protocol.name);
        let now = gateway.metric("sockgate_session_questions_total{upstream=\"app\"}").await;
        assert_eq!(now, asked, "{}: and nobody is asked for one", protocol.name);
        for session in &sessions {
            ask(protocol, web, session).await;
        }
    }
}

async fn a_request_that_names_two_sessions_is_refused_and_nobody_is_asked() {
    for protocol in [&MCP, &SIGNALR, &RULE] {
        let servers = servers().await;
        let gateway = before(&servers, protocol).start().await;
        let web = gateway.address("web");
        let (one, other) = (open(protocol, web, 0).await, open(protocol, web, 1).await);
        let heard = || servers.iter().map(|server| server.heard.load(Ordering::Relaxed)).sum::<usize>();
        let before = heard();
        let mut client = gateway.client().await;
        for (first, second) in [(&one.id, &other.id), (&one.id, &"A".repeat(22)), (&"A".repeat(22), &"B".repeat(22))] {
            client.send(protocol.naming_two(first, second).unwrap()).await;
            let answer = client.answer().await;
            let said = (answer.status, answer.text());
            assert_eq!(said, (400, "The request names two sessions.".to_owned()), "{}", protocol.name);
        }
        assert_eq!(heard(), before, "{}", protocol.name);
        client.send(protocol.naming_two(&one.id, &one.id).unwrap()).await;
        let answer = client.answer().await;
        assert_eq!(answer.header("x-server"), Some(&*one.home), "{}: twice the same is one", protocol.name);
    }
}
