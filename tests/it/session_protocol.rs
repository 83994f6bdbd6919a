//! A session protocol of a program's own keeps sessions on their servers as Engine.IO's does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sockgate::session::{Answered, Known, NewSession, Question, SessionProtocol, SessionRequest};
use sockgate::{Config, Gateway, Headers, Request};

use crate::support::client::Answer;
use crate::support::{Client, Inside, Scripted};

/// Sessions that a header field names, as those of MCP are.
struct ByHeader;

impl SessionProtocol for ByHeader {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let id = request.headers.get("mcp-session-id").and_then(|id| std::str::from_utf8(id).ok());
        let opens = id.is_none() && request.method == "POST";
        SessionRequest { id, opens, ends: request.method == "DELETE", ..SessionRequest::default() }
    }

    fn answered(&self, _dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
        match (status, headers.get("mcp-session-id")) {
            (200, Some(id)) => {
                Answered::Opened(NewSession::new(String::from_utf8_lossy(id), Duration::from_secs(1800)))
            }
            (404, _) => Answered::Refused { code: None, unknown: true },
            _ => Answered::Nothing,
        }
    }

    fn question(&self, _dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        let cancelled = &b"{\"method\":\"cancelled\"}"[..];
        let question = Question::post(&*request.path.canonical, "application/json", cancelled);
        Some(question.with("mcp-session-id", id).with_those_of(request, &["authorization"]))
    }

    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, _body: &[u8]) -> Known {
        match status {
            202 => Known::Yes,
            400 | 404 => Known::No,
            _ => Known::Untold,
        }
    }
}

/// A server that opens a session for each POST without one, and knows none but its own. It answers who lets it know the
/// right password.
struct Mcp {
    server: Scripted,
    opened: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Mcp {
    async fn start(name: &'static str) -> Self {
        let (opened, asked) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (known, questions) = (Arc::clone(&opened), Arc::clone(&asked));
        let serve = move |mut client: Client, _| {
            let (known, questions) = (Arc::clone(&known), Arc::clone(&questions));
            async move {
                while let Some(request) = client.request().await {
                    let request =
                        Answer::of(&[b"HTTP/1.1 200 OK\r\n", request.head.as_slice()].concat()).head.to_lowercase()
                            + &String::from_utf8_lossy(&request.body);
                    let field = |name: &str| {
                        request.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned)
                    };
                    let answer = match field("mcp-session-id") {
                        _ if field("authorization").as_deref() != Some("sesame") => "401 Unauthorized\r\n".to_owned(),
                        None => {
                            let mut known = known.lock().unwrap();
                            let id = format!("{name}-{}", known.len());
                            known.push(id.clone());
                            format!("200 OK\r\nMcp-Session-Id: {id}\r\n")
                        }
                        Some(id) if !known.lock().unwrap().contains(&id) => "404 Not Found\r\n".to_owned(),
                        Some(_) if request.contains("cancelled") => {
                            questions.fetch_add(1, Ordering::Relaxed);
                            "202 Accepted\r\n".to_owned()
                        }
                        Some(_) => format!("200 OK\r\nX-Server: {name}\r\n"),
                    };
                    if client.try_send(format!("HTTP/1.1 {answer}Content-Length: 0\r\n\r\n")).await.is_err() {
                        return;
                    }
                }
            }
        };
        Self { server: Scripted::start(serve).await, opened, asked }
    }
}

fn yaml(servers: &[&Mcp]) -> String {
    let servers: Vec<_> = servers.iter().map(|mcp| format!("\"{}\"", mcp.server.address())).collect();
    format!(
        "admin: {{ address: 127.0.0.1:0 }}\nroutes: [{{ upstream: app }}]\n\
         upstreams: {{ app: {{ servers: [{}], health: {{ check: none }} }} }}\n",
        servers.join(", ")
    )
}

fn before(servers: &[&Mcp]) -> Inside {
    Inside::start(&yaml(servers), |builder| builder.session_protocol("app", ByHeader))
}

/// Opens a session from an address of its own, on a connection of its own; gives its id.
async fn open(gateway: SocketAddr, from: u8) -> String {
    let answer = ask(gateway, from, "").await;
    answer.header("mcp-session-id").unwrap_or_else(|| panic!("no session: {}", answer.head)).to_owned()
}

/// Who answers a request of a session, which comes on a connection of its own.
async fn server_of(gateway: SocketAddr, id: &str) -> String {
    let answer = ask(gateway, 1, &format!("Mcp-Session-Id: {id}\r\n")).await;
    answer.header("x-server").unwrap_or_else(|| panic!("nobody knows {id}: {}", answer.head)).to_owned()
}

async fn ask(gateway: SocketAddr, from: u8, fields: &str) -> Answer {
    let mut client = Client::connect_from(from, gateway).await;
    client
        .send(format!("POST /mcp HTTP/1.1\r\nHost: a\r\nAuthorization: sesame\r\n{fields}Content-Length: 0\r\n\r\n"))
        .await;
    client.answer().await
}

async fn metrics(gateway: &Inside) -> String {
    Client::connect(gateway.admin.unwrap()).await.get("/metrics").await.text()
}

#[tokio::test]
async fn sessions_stay_on_the_server_that_opened_them() {
    let (a, b) = (Mcp::start("a").await, Mcp::start("b").await);
    let gateway = before(&[&a, &b]);
    let mut ids = Vec::new();
    for client in 2..6 {
        ids.push(open(gateway.address, client).await);
    }
    assert_eq!((a.opened.lock().unwrap().len(), b.opened.lock().unwrap().len()), (2, 2), "new ones are spread");
    for _ in 0..3 {
        for id in &ids {
            assert!(id.starts_with(&server_of(gateway.address, id).await), "{id}");
        }
    }
    assert_eq!(a.asked.load(Ordering::Relaxed) + b.asked.load(Ordering::Relaxed), 0, "nobody had to be asked");
    let seen = metrics(&gateway).await;
    assert!(seen.contains("sockgate_session_events_total{upstream=\"app\",event=\"learned\"} 4"), "{seen}");
}

#[tokio::test]
async fn sessions_that_another_gateway_opened_are_found_by_the_question() {
    let (a, b) = (Mcp::start("a").await, Mcp::start("b").await);
    let id = open(before(&[&a, &b]).address, 1).await;
    let gateway = before(&[&a, &b]);
    for _ in 0..4 {
        assert!(id.starts_with(&server_of(gateway.address, &id).await));
    }
    assert_eq!(a.asked.load(Ordering::Relaxed) + b.asked.load(Ordering::Relaxed), 1, "once is enough");
}

#[tokio::test]
async fn a_session_that_its_server_has_forgotten_is_over() {
    let (a, b) = (Mcp::start("a").await, Mcp::start("b").await);
    let gateway = before(&[&a, &b]);
    let id = open(gateway.address, 1).await;
    a.opened.lock().unwrap().clear();
    b.opened.lock().unwrap().clear();
    assert_eq!(ask(gateway.address, 1, &format!("Mcp-Session-Id: {id}\r\n")).await.status, 404);
    let seen = metrics(&gateway).await;
    assert!(seen.contains("sockgate_sessions_ended_total{upstream=\"app\",cause=\"unknown\"} 1"), "{seen}");
}

/// A file says nothing of sessions where its kind has none; so the program does, or the file names a kind that has some.
#[tokio::test]
async fn what_else_there_is_to_say_of_its_sessions_the_program_or_the_file_says() {
    let (a, b) = (Mcp::start("a").await, Mcp::start("b").await);
    let yaml = yaml(&[&a, &b]);
    let max = |config: &mut Config| config.upstreams.get_mut("app").unwrap().sessions.max = 2;
    let by_program = Inside::start_with(&yaml, max, |builder| builder.session_protocol("app", ByHeader));
    let yaml = yaml.replace("app: {", "app: { kind: socket.io, sessions: { max: 2 },");
    let by_file = Inside::start(&yaml, |builder| builder.session_protocol("app", ByHeader));
    for gateway in [by_program, by_file] {
        let mut ids = Vec::new();
        for client in 2..6 {
            let id = open(gateway.address, client).await;
            assert!(id.starts_with(&server_of(gateway.address, &id).await));
            ids.push(id);
        }
        let seen = metrics(&gateway).await;
        assert!(seen.contains("sockgate_session_events_total{upstream=\"app\",event=\"learned\"} 2"), "{seen}");
    }
}

#[test]
fn a_protocol_for_an_upstream_that_is_not_there_is_an_error() {
    let yaml = "listeners: [{ name: web, address: 127.0.0.1:0 }]\nroutes: [{ upstream: app }]\n\
                upstreams: { app: { servers: [\"127.0.0.1:1\"] } }\n";
    let config = Config::read("test.yaml", yaml, &|_| None).unwrap().config;
    let fault = Gateway::builder(config).session_protocol("ap", ByHeader).build().err().unwrap().to_string();
    assert!(fault.starts_with("upstream `ap`: ") && fault.ends_with("it has `app`"), "{fault}");
}
