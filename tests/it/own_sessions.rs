//! Sessions of an app of one's own, which the configuration describes, stay on the servers that opened them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use tokio::sync::Notify;

use crate::support::client::{Answer, tcp};
use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::http2::{Http2, read};
use crate::support::http2_server::serving;
use crate::support::websocket::{opened, switch};
use crate::support::{Client, Gateway, Scripted, Setup, eventually, within};

for_each_engine! {
    sessions_are_learned_from_a_header_a_cookie_or_json_and_routed_by_all_four_places,
    ids_that_clients_make_up_open_their_session_with_the_first_request,
    a_websocket_of_a_session_meets_its_server_and_leaves_the_session_alone,
    a_request_that_names_two_sessions_is_refused,
    sessions_that_another_gateway_opened_are_found_by_the_question_of_the_rule,
    when_the_drain_of_their_server_is_over_sessions_are_told_so,
    an_answer_that_names_a_session_of_another_server_moves_nobody,
    a_session_is_over_when_its_server_says_so_or_takes_its_cookie_away,
}

for_the_relay! {
    event_streams_end_behind_a_whole_event_where_that_is_the_goodbye,
    event_streams_over_http_2_end_so_too,
    event_streams_between_two_ends_of_http_2_end_so_too,
}

/// An app that opens a session for each `POST /open`, and tells it in three places. Elsewhere it answers for the sessions that it
/// knows, and 404 for others; what names none is answered by its name alone.
struct App {
    server: Scripted,
    known: Arc<Mutex<HashSet<String>>>,
    questions: Arc<AtomicUsize>,
    /// Has it say the rest of its event.
    go_on: Arc<Notify>,
}

impl App {
    async fn start(name: &'static str) -> Self {
        let (known, questions) = (Arc::<Mutex<HashSet<String>>>::default(), Arc::<AtomicUsize>::default());
        let (in_app, asked) = (Arc::clone(&known), Arc::clone(&questions));
        let go_on = Arc::<Notify>::default();
        let goes_on = Arc::clone(&go_on);
        let server = Scripted::start(move |mut client: Client, _| {
            let (known, asked, go_on) = (Arc::clone(&in_app), Arc::clone(&asked), Arc::clone(&goes_on));
            async move {
                while let Some(request) = client.request().await {
                    let head = String::from_utf8_lossy(&request.head).into_owned();
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    let lower = head.to_lowercase();
                    let field = |name: &str| {
                        lower.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned)
                    };
                    let cookie = field("cookie").and_then(|all| {
                        all.split("; ").find_map(|pair| pair.strip_prefix("session=").map(str::to_owned))
                    });
                    let id = field("x-session")
                        .or(cookie)
                        .or_else(|| target.split_once("sid=").map(|(_, id)| id.to_owned()))
                        .or_else(|| {
                            target.strip_prefix("/rooms/").map(|rest| rest.split('/').next().unwrap().to_owned())
                        });
                    if target.starts_with("/ask") {
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    let open = |id: &str| known.lock().unwrap().insert(id.to_owned());
                    let body = |json: &str, fields: &str, status: &str| {
                        format!(
                            "HTTP/1.1 {status}\r\n{fields}X-Server: {name}\r\nContent-Type: application/json\r\n\
                             Content-Length: {}\r\n\r\n{json}",
                            json.len()
                        )
                    };
                    let answer = match (&*target, id) {
                        ("/open", _) => {
                            let id = format!("{name}-{}", rand::random::<u32>());
                            open(&id);
                            let json = format!("{{\"x\":[1],\"session\":{{\"id\":\"{id}\"}}}}");
                            body(&json, &format!("X-Session: {id}\r\nSet-Cookie: session={id}; Path=/\r\n"), "200 OK")
                        }
                        // A session of somebody else's, as if it had been opened here.
                        (path, _) if path.starts_with("/steal/") => {
                            body("{}", &format!("X-Session: {}\r\n", &path[7..]), "200 OK")
                        }
                        ("/logout", _) => body("{}", "Set-Cookie: session=; Max-Age=0\r\n", "200 OK"),
                        (path, Some(id)) if path.starts_with("/make") => {
                            open(&id);
                            body("{}", "", "200 OK")
                        }
                        (_, Some(id)) if !known.lock().unwrap().contains(&id) => body("{}", "", "404 Not Found"),
                        (path, Some(_)) if path.starts_with("/socket") => {
                            client.send(switch(&request.head)).await;
                            client.send(b"\x81\x01").await;
                            client.send(name).await;
                            // Until the client has gone.
                            let _ = client.request().await;
                            return;
                        }
                        (path, Some(_)) if path.starts_with("/events") => {
                            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                                        Transfer-Encoding: chunked\r\n\r\n";
                            client.send(format!("{head}9\r\ndata: 1\n\n\r\n7\r\ndata: h\r\n")).await;
                            // The rest of the event, once somebody says so.
                            go_on.notified().await;
                            client.send(b"6\r\nalf.\n\n\r\n").await;
                            let _ = client.request().await;
                            return;
                        }
                        _ => body("{}", "", "200 OK"),
                    };
                    if client.try_send(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { server: server.await, known, questions, go_on }
    }
}

async fn apps() -> [App; 2] {
    [App::start("a").await, App::start("b").await]
}

fn before(apps: &[App; 2], rule: &str) -> Setup {
    let servers = [("a", apps[0].server.address()), ("b", apps[1].server.address())];
    Setup::before_named(servers).unchecked().upstream(format!("sessions: {{ rule: {{ {rule} }} }}"))
}

const EVERYWHERE: &str = "route: { header: X-Session, query: sid, cookie: session, path: '/rooms/{id}' }";

async fn ask(gateway: &Gateway, method: &str, target: &str, fields: &str) -> Answer {
    let mut client = gateway.client().await;
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 0\r\n\r\n")).await;
    client.answer().await
}

async fn open(gateway: &Gateway) -> String {
    ask(gateway, "POST", "/open", "").await.header("x-session").unwrap().to_owned()
}

/// Whoever answers a request that names a session in each of the places.
async fn servers_of(gateway: &Gateway, id: &str) -> Vec<String> {
    let mut servers = Vec::new();
    for (target, fields) in [
        ("/".to_owned(), format!("X-Session: {id}\r\n")),
        ("/".to_owned(), format!("Cookie: x=y; session={id}\r\n")),
        (format!("/?sid={id}"), String::new()),
        (format!("/rooms/{id}/messages"), String::new()),
    ] {
        let answer = ask(gateway, "GET", &target, &fields).await;
        assert_eq!(answer.status, 200, "{target} {fields}");
        servers.push(answer.header("x-server").unwrap().to_owned());
    }
    servers
}

async fn sessions_are_learned_from_a_header_a_cookie_or_json_and_routed_by_all_four_places() {
    for learn in ["header: X-Session", "cookie: session", "json: /session/id", "header: X-Other, json: /session/id"] {
        let apps = apps().await;
        let gateway = before(&apps, &format!("{EVERYWHERE}, learn: {{ {learn} }}")).start().await;
        let mut homes = HashSet::new();
        for _ in 0..4 {
            let id = open(&gateway).await;
            let home = id.split('-').next().unwrap();
            assert_eq!(servers_of(&gateway, &id).await, [home; 4], "{learn}");
            homes.insert(home.to_owned());
        }
        assert_eq!(homes.len(), 2, "new ones are spread: {learn}");
        let learned = "sockgate_session_events_total{upstream=\"app\",event=\"learned\"}";
        assert_eq!(gateway.metric(learned).await, 4.0, "{learn}");
    }
}

async fn ids_that_clients_make_up_open_their_session_with_the_first_request() {
    let apps = apps().await;
    let setup = before(&apps, "route: { query: sid }").upstream("balance: client_ip");
    let (one, other) = (setup.start().await, setup.start().await);
    let mut homes = HashSet::new();
    for number in 0..20 {
        let target = format!("/make?sid=session-{number}");
        let first = ask(&one, "GET", &target, "").await;
        let home = first.header("x-server").unwrap().to_owned();
        for gateway in [&one, &other, &one] {
            let again = ask(gateway, "GET", &format!("/?sid=session-{number}"), "").await;
            assert_eq!((again.status, again.header("x-server")), (200, Some(&*home)), "{number}");
        }
        homes.insert(home);
    }
    assert_eq!(homes.len(), 2, "one client has sessions on both");
}

async fn a_websocket_of_a_session_meets_its_server_and_leaves_the_session_alone() {
    let apps = apps().await;
    let gateway = before(&apps, &format!("{EVERYWHERE}, learn: {{ header: X-Session }}")).start().await;
    for _ in 0..3 {
        let id = open(&gateway).await;
        let home = id.split('-').next().unwrap().to_owned();
        let mut socket = opened(gateway.client().await, &format!("/socket?sid={id}")).await;
        assert_eq!(socket.read(3).await, [b"\x81\x01", home.as_bytes()].concat());
        drop(socket);
        assert_eq!(servers_of(&gateway, &id).await, [&*home; 4]);
    }
    let mut live = 0.0;
    for server in ["a", "b"] {
        live += gateway.metric(&format!("sockgate_sessions{{upstream=\"app\",server=\"{server}\"}}")).await;
    }
    assert_eq!(live, 3.0);
}

async fn a_request_that_names_two_sessions_is_refused() {
    let apps = apps().await;
    let gateway = before(&apps, &format!("{EVERYWHERE}, learn: {{ header: X-Session }}")).start().await;
    let id = open(&gateway).await;
    for (target, fields) in [
        (format!("/?sid={id}"), "X-Session: other\r\n".to_owned()),
        (format!("/rooms/{id}?sid=x"), String::new()),
        ("/".to_owned(), format!("X-Session: {id}\r\nX-Session: b\r\n")),
    ] {
        let answer = ask(&gateway, "GET", &target, &fields).await;
        assert_eq!((answer.status, answer.text().as_str()), (400, "The request names two sessions."), "{target}");
    }
    let long = "x".repeat(8 * 1024);
    let answer = ask(&gateway, "GET", &format!("/?sid={id}"), &format!("X-Session: {long}\r\n")).await;
    assert_eq!(answer.status, 404, "what is too long names none, and the app says what it thinks of it");
}

const QUESTION: &str = "question: { path: '/ask?sid={id}', known: [200], unknown: [404] }";

async fn sessions_that_another_gateway_opened_are_found_by_the_question_of_the_rule() {
    let apps = apps().await;
    let setup = before(&apps, &format!("{EVERYWHERE}, learn: {{ header: X-Session }}, {QUESTION}"));
    let one = setup.start().await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(open(&one).await);
    }
    drop(one);
    let other = setup.start().await;
    for id in &ids {
        let home = id.split('-').next().unwrap();
        assert_eq!(servers_of(&other, id).await, [home; 4]);
    }
    let asked: usize = apps.iter().map(|app| app.questions.load(Ordering::Relaxed)).sum();
    assert!((6..=6 * 2 + 4).contains(&asked), "{asked} questions for 6 sessions");
    // What nobody knows goes somewhere, and what looks like no value is asked for nowhere.
    assert_eq!(ask(&other, "GET", "/?sid=made-up", "").await.status, 404);
    let before: usize = apps.iter().map(|app| app.questions.load(Ordering::Relaxed)).sum();
    assert_eq!(ask(&other, "GET", "/", "X-Session: a/../b\r\n").await.status, 404);
    assert_eq!(apps.iter().map(|app| app.questions.load(Ordering::Relaxed)).sum::<usize>(), before);
}

async fn when_the_drain_of_their_server_is_over_sessions_are_told_so() {
    let apps = apps().await;
    let rule = format!("{EVERYWHERE}, learn: {{ header: X-Session }}, over: [410, 404], goodbye: none, {QUESTION}");
    let gateway = before(&apps, &rule).start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(open(&gateway).await);
    }
    let mut admin = Client::connect(gateway.address("admin")).await;
    let answer = admin.post("/drain?upstream=app&server=a&deadline=10m", b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for id in &ids {
        assert!(servers_of(&gateway, id).await.iter().all(|server| id.starts_with(server)), "until the deadline");
    }
    assert_eq!(admin.post("/drain?upstream=app&server=a&deadline=1s", b"").await.status, 200);
    let fields = |id: &str| format!("X-Session: {id}\r\n");
    let of = |home: &'static str| ids.iter().filter(move |id| id.starts_with(home)).cloned().collect::<Vec<_>>();
    let (a, b) = (of("a"), of("b"));
    eventually("the deadline has come", async || ask(&gateway, "GET", "/", &fields(&a[0])).await.status == 410).await;
    for id in &a {
        for _ in 0..2 {
            assert_eq!(ask(&gateway, "GET", "/", &fields(id)).await.status, 410, "and it stays so");
        }
    }
    for id in &b {
        assert_eq!(servers_of(&gateway, id).await, ["b"; 4]);
    }
    assert!(open(&gateway).await.starts_with('b'));
    gateway.access_line(&["status=410", "closed_by=session_over"]).await;
}

async fn an_answer_that_names_a_session_of_another_server_moves_nobody() {
    let apps = apps().await;
    let gateway = before(&apps, &format!("{EVERYWHERE}, learn: {{ header: X-Session }}")).start().await;
    let id = open(&gateway).await;
    let mut thieves = HashSet::new();
    for _ in 0..4 {
        let answer = ask(&gateway, "GET", &format!("/steal/{id}"), "").await;
        thieves.insert(answer.header("x-server").unwrap().to_owned());
    }
    assert_eq!(thieves.len(), 2);
    assert_eq!(servers_of(&gateway, &id).await, [id.split('-').next().unwrap(); 4]);
}

async fn a_session_is_over_when_its_server_says_so_or_takes_its_cookie_away() {
    let apps = apps().await;
    let rule = format!("{EVERYWHERE}, learn: {{ cookie: session }}, over: [404]");
    let gateway = before(&apps, &rule).start().await;
    let (gone, left) = (open(&gateway).await, open(&gateway).await);
    assert!(apps.iter().any(|app| app.known.lock().unwrap().remove(&gone)));
    assert_eq!(ask(&gateway, "GET", "/", &format!("Cookie: session={gone}\r\n")).await.status, 404);
    assert_eq!(ask(&gateway, "POST", "/logout", &format!("Cookie: session={left}\r\n")).await.status, 200);
    for cause in ["unknown", "client"] {
        let ended = format!("sockgate_sessions_ended_total{{upstream=\"app\",cause=\"{cause}\"}}");
        assert_eq!(gateway.metric(&ended).await, 1.0, "{cause}");
    }
}

async fn event_streams_end_behind_a_whole_event_where_that_is_the_goodbye() {
    let apps = apps().await;
    let rule = format!("{EVERYWHERE}, learn: {{ header: X-Session }}, over: [410, 404], goodbye: stream");
    let gateway = before(&apps, &rule).start().await;
    let id = open_on_a(&gateway).await;
    let mut stream = gateway.client().await;
    stream.send(format!("GET /events?sid={id} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    stream.read_until(b"data: h").await;
    let_go(&gateway).await;
    apps[0].go_on.notify_one();
    let rest = stream.read_until(b"0\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&rest).contains("alf.\n\n"), "the event is whole");
    let again = ask(&gateway, "GET", "/", &format!("X-Session: {id}\r\n")).await;
    assert_eq!(again.status, 410, "whoever comes again is told to begin anew");
    assert!(open(&gateway).await.starts_with('b'));
}

/// Opens sessions until one is on the first server.
async fn open_on_a(gateway: &Gateway) -> String {
    loop {
        let id = open(gateway).await;
        if id.starts_with('a') {
            break id;
        }
    }
}

/// Drains the first server, and waits until somebody has been told to leave it.
async fn let_go(gateway: &Gateway) {
    let mut admin = Client::connect(gateway.address("admin")).await;
    assert_eq!(admin.post("/drain?upstream=app&server=a&rate=100", b"").await.status, 200);
    let told = async || {
        let said = gateway.admin("/drain?upstream=app&server=a").await.text();
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["told_goodbye"].as_u64() > Some(0)
    };
    eventually("its turn has come", told).await;
}

async fn event_streams_over_http_2_end_so_too() {
    let apps = apps().await;
    let rule = format!("{EVERYWHERE}, learn: {{ header: X-Session }}, over: [410, 404], goodbye: stream");
    let gateway = before(&apps, &rule).start().await;
    let id = open_on_a(&gateway).await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let asked = Request::get(format!("http://a.test/events?sid={id}")).body(()).unwrap();
    let mut body = within("the head", client.begin(asked, "").await).await.unwrap().into_body();
    let mut said = Vec::new();
    while !said.ends_with(b"data: h") {
        let part = within("the event", body.data()).await.expect("the stream goes on").unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        said.extend_from_slice(&part);
    }
    let_go(&gateway).await;
    apps[0].go_on.notify_one();
    assert_eq!(read(body).await.expect("a proper end"), b"alf.\n\n", "the event is whole");
    assert_eq!(ask(&gateway, "GET", "/", &format!("X-Session: {id}\r\n")).await.status, 410);
}

async fn event_streams_between_two_ends_of_http_2_end_so_too() {
    let go_on = Arc::<Notify>::default();
    let goes_on = Arc::clone(&go_on);
    let server = serving(h2::server::Builder::new(), move |(request, mut respond), _| {
        let go_on = Arc::clone(&goes_on);
        async move {
            let answer = Response::builder().header("x-session", "one").header("content-type", "text/event-stream");
            let mut sending = respond.send_response(answer.body(()).unwrap(), false).unwrap();
            if request.uri().path() == "/open" {
                return sending.send_data("open".into(), true).unwrap();
            }
            sending.send_data("data: 1\n\ndata: h".into(), false).unwrap();
            go_on.notified().await;
            sending.send_data("alf.\n\n".into(), false).unwrap();
            // Nobody has to hear more of it.
            std::future::poll_fn(|cx| sending.poll_reset(cx)).await.unwrap();
        }
    })
    .await;
    let rule = format!("{EVERYWHERE}, learn: {{ header: X-Session }}, over: [410, 404], goodbye: stream");
    let setup = Setup::before_named([("a", server.address())]).unchecked();
    let gateway = setup.upstream(format!("http2: true, sessions: {{ rule: {{ {rule} }} }}")).start().await;
    let client = Http2::over(tcp(gateway.address("web")).await).await;
    let asked = |path: &str| Request::get(format!("http://a.test{path}")).body(()).unwrap();
    assert_eq!(client.ask(asked("/open"), "").await.headers()["x-session"], "one");
    let answered = client.begin(asked("/events?sid=one"), "").await;
    let mut body = within("the head", answered).await.unwrap().into_body();
    let mut said = Vec::new();
    while !said.ends_with(b"data: h") {
        let part = within("the event", body.data()).await.expect("the stream goes on").unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        said.extend_from_slice(&part);
    }
    let_go(&gateway).await;
    go_on.notify_one();
    assert_eq!(read(body).await.expect("a proper end"), b"alf.\n\n", "the event is whole");
}
