//! A service that is asked whether a request may pass.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::gateway;
use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::Node;
use crate::support::tls::Authority;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet, Scripted};

for_each_engine! {
    a_service_lets_requests_pass_and_tells_servers_of_the_client,
    what_the_service_refuses_is_what_the_client_gets,
    without_a_proper_answer_nobody_comes_in,
    upgrades_polls_and_streams_of_http_2_are_asked_about,
    a_session_is_asked_about_once_where_that_is_enough,
    a_service_by_https_has_to_show_who_it_is,
}

/// A service that does what `X-Want` says, and notes what it was asked.
struct Service {
    server: Scripted,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    async fn start() -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let server = Scripted::start(move |mut client, _| {
            let noted = Arc::clone(&noted);
            async move {
                while let Some(request) = client.request().await {
                    let head = String::from_utf8_lossy(&request.head).to_ascii_lowercase();
                    let want = head.lines().find_map(|line| line.strip_prefix("x-want: ")).unwrap_or("").to_owned();
                    noted.lock().unwrap().push(head);
                    let answer = match &*want {
                        "pass" => {
                            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-User: ann\r\nX-Other: no\r\nSet-Cookie: seen=1\r\n\r\nok"
                        }
                        "login" => {
                            "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: https://login.test/\r\nSet-Cookie: a=1\r\n\
                             Set-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
                        }
                        "later" => "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n",
                        "fail" => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
                        "switch" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
                        "lie" => "200 is fine\r\n\r\n",
                        "huge" => "HTTP/1.1 401 Unauthorized\r\nContent-Length: 200000\r\n\r\n",
                        "silent" => "",
                        _ => {
                            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\nno, x"
                        }
                    };
                    if client.try_send(answer).await.is_err() {
                        return;
                    }
                    if want == "huge" && client.try_send(vec![b'x'; 200_000]).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { server, asked }
    }

    fn access(&self, more: &str) -> String {
        access(self.server.address(), more)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn access(service: SocketAddr, more: &str) -> String {
    format!(
        "{{ forward_auth: {{ url: \"http://{service}/verify?a=b\", to_server: [X-User], to_client: [Set-Cookie], \
         timeout: 400ms{more} }} }}"
    )
}

async fn ask(gateway: &Gateway, want: &str) -> crate::support::client::Answer {
    gateway.client().await.get_with("/x?key=a", &format!("X-Want: {want}\r\nX-User: mallory\r\n")).await
}

async fn a_service_lets_requests_pass_and_tells_servers_of_the_client() {
    let (server, service) = (Echo::start("a").await, Service::start().await);
    let gateway = gateway(server.address(), &service.access(""), "").await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let fields = "Host: A.test:81\r\nX-Want: pass\r\nX-User: mallory\r\nX_User: mallory\r\n\
                      X-Forwarded-Uri: /public\r\nX-Forwarded-Method: HEAD\r\nCookie: c=1\r\nContent-Length: 4\r\n";
        client.send(format!("POST /x?key=a HTTP/1.1\r\n{fields}\r\nbody")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("set-cookie")), (200, Some("seen=1")));
        let seen = answer.text().to_ascii_lowercase();
        assert!(seen.contains("x-user: ann\r\n") && !seen.contains("mallory") && !seen.contains("x-other"), "{seen}");
        assert!(seen.contains("content-length: 4\r\n"), "{seen}");
    }
    assert_eq!(service.server.accepted(), 1, "its connection is kept");
    let asked = service.asked().pop().unwrap();
    assert!(asked.starts_with("get /verify?a=b http/1.1\r\n"), "{asked}");
    for field in [
        "x-forwarded-method: post",
        "x-forwarded-uri: /x?key=a",
        "x-forwarded-host: a.test:81",
        "x-forwarded-proto: http",
        "x-forwarded-for: 127.0.0.1",
        "cookie: c=1",
    ] {
        assert!(asked.contains(&format!("\r\n{field}\r\n")), "{field}: {asked}");
    }
    assert!(!asked.contains("content-length: 4") && !asked.contains("/public"), "{asked}");
}

async fn what_the_service_refuses_is_what_the_client_gets() {
    let (server, service) = (Echo::start("a").await, Service::start().await);
    let gateway = gateway(server.address(), &service.access(""), "").await;
    let refused = ask(&gateway, "none").await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "no, x"));
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"x\""));
    let login = ask(&gateway, "login").await;
    assert_eq!(
        (login.status, login.header("location"), login.header("x-hop")),
        (302, Some("https://login.test/"), None)
    );
    assert_eq!(login.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2, "{}", login.head);
    let later = ask(&gateway, "later").await;
    assert_eq!((later.status, later.header("retry-after")), (429, Some("7")));
    gateway.access_line(&["status=302", "closed_by=forward_auth", "/x?key=..."]).await;
    assert_eq!(gateway.metric("sockgate_refusals_total{reason=\"forward_auth\"}").await, 3.0);
    assert_eq!(server.accepted(), 0, "no server hears of any");
}

async fn without_a_proper_answer_nobody_comes_in() {
    let (server, service) = (Echo::start("a").await, Service::start().await);
    let running = gateway(server.address(), &service.access(""), "").await;
    for (want, status) in [("fail", 502), ("lie", 502), ("huge", 502), ("switch", 502), ("silent", 503)] {
        assert_eq!(ask(&running, want).await.status, status, "{want}");
    }
    running.access_line(&["status=502", "closed_by=auth_failed"]).await;
    running.access_line(&["status=503", "closed_by=auth_timeout"]).await;
    assert_eq!(ask(&running, "pass").await.status, 200, "it goes on");
    let before = server.accepted();
    let nobody = Puppet::start().await.address();
    let down = gateway(server.address(), &access(nobody, ""), "").await;
    assert_eq!(ask(&down, "pass").await.status, 502);
    assert_eq!(server.accepted(), before);
}

async fn upgrades_polls_and_streams_of_http_2_are_asked_about() {
    let (server, service) = (Puppet::start().await, Service::start().await);
    let gateway = gateway(server.address(), &service.access(""), "").await;
    let opening = |want: &str| upgrade("/chat").replacen("\r\n", &format!("\r\nX-Want: {want}\r\n"), 1);
    let mut client = gateway.client().await;
    client.send(opening("none")).await;
    assert_eq!(client.answer().await.status, 401);
    let poll = "/socket.io/?EIO=4&transport=polling";
    assert_eq!(gateway.client().await.get(poll).await.status, 401);
    let streams = Http2::over(tcp(gateway.address("web")).await).await;
    assert_eq!(streams.get("http://a.test/x").await.status(), 401);
    // The first that the server hears of is one that may.
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(opening("pass")).await;
    let head = String::from_utf8_lossy(&server.accept().await.request().await.unwrap().head).to_ascii_lowercase();
    assert!(head.starts_with("get /chat ") && head.contains("x-user: ann\r\n"), "{head}");
    let asked = service.asked().pop().unwrap();
    assert!(!asked.contains("\r\nupgrade:") && asked.contains("x-forwarded-uri: /chat\r\n"), "{asked}");
}

async fn a_session_is_asked_about_once_where_that_is_enough() {
    let (server, service) = (Node::server("v4", &["--id", "a"]).await, Service::start().await);
    let address = ([127, 0, 0, 1], server.port()).into();
    let gateway = gateway(address, &service.access(", sessions: once"), "").await;
    let poll = "/socket.io/?EIO=4&transport=polling";
    let mut client = gateway.client().await;
    assert_eq!(client.get(poll).await.status, 401);
    let opened = client.get_with(poll, "X-Want: pass\r\n").await;
    let text = opened.text();
    let sid = text.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let asked = service.asked().len();
    assert_eq!(client.post(&format!("{poll}&sid={sid}"), b"40").await.status, 200);
    assert_eq!(client.get(&format!("{poll}&sid={sid}")).await.status, 200);
    assert_eq!(service.asked().len(), asked, "it is not asked again");
    assert_eq!(client.get(&format!("{poll}&sid=made-up-made-up")).await.status, 401);
}

async fn a_service_by_https_has_to_show_who_it_is() {
    let (server, authority, other) = (Echo::start("a").await, Authority::new(), Authority::new());
    let config = authority.server(&authority.sign(&["localhost", "127.0.0.1"]), false);
    let service = Scripted::start_tls(config, |mut client, _| async move {
        while client.request().await.is_some() {
            if client.try_send("HTTP/1.1 204 No Content\r\nX-User: ann\r\n\r\n").await.is_err() {
                return;
            }
        }
    })
    .await;
    for (ca, status) in [(authority.ca(), 200), (other.ca(), 502)] {
        let url = format!("https://{}/verify", service.address());
        let access = format!("{{ forward_auth: {{ url: \"{url}\", to_server: [X-User], ca: {ca} }} }}");
        let gateway = gateway(server.address(), &access, "").await;
        let answer = gateway.client().await.get("/x").await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.text().to_ascii_lowercase().contains("x-user: ann"), status == 200, "{}", answer.text());
    }
}
