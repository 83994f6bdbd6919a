//! Paths and hosts that servers get in place of the client's, and what comes back of them.

use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::node::{self, Node};
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Puppet, Scripted};

for_each_engine! {
    servers_get_the_path_and_host_that_the_route_says,
    websockets_are_opened_at_the_path_that_the_server_knows,
    redirects_and_cookies_come_back_to_where_the_client_is,
    redirects_lead_to_a_path_made_of_the_one_that_was_asked_for,
    nobody_climbs_out_of_a_prefix,
    socket_io_lives_below_a_prefix,
}

const ROUTES: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0 }
routes:
  - { match: { path: /app1 }, upstream: app, host: app.internal, rewrite: { strip_prefix: /app1 } }
  - { match: { path: /old }, upstream: app, rewrite: { strip_prefix: /old, add_prefix: /new/v2 } }
  - { match: { path_regex: \"^/users/[0-9]+$\" }, upstream: app, rewrite: { regex: \"^/users/([0-9]+)$\", to: \"/u/$1\" } }
  - { upstream: app }
";

fn before(server: std::net::SocketAddr) -> String {
    format!("{ROUTES}upstreams: {{ app: {{ servers: [\"{server}\"], health: {{ check: none }} }} }}\n")
}

async fn servers_get_the_path_and_host_that_the_route_says() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&before(server.address())).await;
    let mut client = gateway.client().await;
    let http2 = Http2::over(tcp(gateway.address("web")).await).await;
    for (asked, got) in [
        ("/app1/x/y?z=/app1", "/x/y?z=/app1"),
        ("/app1", "/"),
        ("/%61pp1/./x", "/x"),
        ("/old/x", "/new/v2/x"),
        ("/users/7?q", "/u/7?q"),
        ("/users/x", "/users/x"),
        ("/app1x/../y", "/app1x/../y"),
    ] {
        let seen = client.get(asked).await.text();
        assert!(seen.contains(&format!("\nGET {got} HTTP/1.1\r\n")), "{asked}: {seen}");
        let seen = http2.get(&format!("http://a.test{asked}")).await.into_body();
        let seen = String::from_utf8_lossy(&seen).to_ascii_lowercase();
        assert!(seen.contains(&format!("\nget {got} http/1.1\r\n")), "{asked}: {seen}");
        let host =
            if got == "/x" || asked.starts_with("/app1/") || asked == "/app1" { "app.internal" } else { "a.test" };
        assert!(seen.contains(&format!("\r\nhost: {host}\r\n")), "{asked}: {seen}");
        assert_eq!(seen.contains("\r\nx-forwarded-prefix: /"), got != asked && !asked.starts_with("/users"), "{seen}");
    }
    let line = gateway.access_line(&["/app1/x/y"]).await;
    assert!(!line.contains("/new"), "the log tells what the client has asked for: {line}");
}

async fn websockets_are_opened_at_the_path_that_the_server_knows() {
    let server = Puppet::start().await;
    let gateway = Gateway::start(&before(server.address())).await;
    let mut client = Client::connect(gateway.address("web")).await;
    client.send(upgrade("/app1/chat?room=1")).await;
    let mut inside = server.accept().await;
    let seen = String::from_utf8_lossy(&inside.request().await.unwrap().head).into_owned();
    assert!(seen.starts_with("GET /chat?room=1 HTTP/1.1\r\nHost: app.internal\r\n"), "{seen}");
    inside
        .send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Set-Cookie: a=1; Path=/chat\r\n\r\n\x01",
        )
        .await;
    let agreed = client.answer().await;
    assert_eq!((agreed.status, agreed.header("set-cookie")), (101, Some("a=1; Path=/app1/chat")));
    assert_eq!(client.read(1).await, b"\x01");
}

async fn redirects_and_cookies_come_back_to_where_the_client_is() {
    let server = Scripted::start(|mut client, _| async move {
        while let Some(request) = client.request().await {
            let head = String::from_utf8_lossy(&request.head).into_owned();
            let location = head.split(['?', ' ']).nth(2).unwrap_or_default().to_owned();
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: {location}\r\nSet-Cookie: a=1; Path=/; HttpOnly\r\n\
                 Set-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
            );
            client.send(answer).await;
        }
    })
    .await;
    let gateway = Gateway::start(&before(server.address())).await;
    let http2 = Http2::over(tcp(gateway.address("web")).await).await;
    for (asked, location) in [
        ("/app1/x?/login", "/app1/login"),
        ("/app1/x?http://app.internal/login", "http://a.test/app1/login"),
        ("/app1/x?https://elsewhere.example/login", "https://elsewhere.example/login"),
        ("/old/x?/new/v2/login", "/old/login"),
        ("/old/x?/elsewhere", "/elsewhere"),
        ("/x?/login", "/login"),
    ] {
        let answer = http2.get(&format!("http://a.test{asked}")).await;
        assert_eq!(answer.headers()["location"], location, "{asked}");
        let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
        let path = if asked.starts_with("/app1") { "/app1" } else { "/" };
        assert_eq!(cookies, [&*format!("a=1; Path={path}; HttpOnly"), "b=2"], "{asked}");
    }
}

async fn redirects_lead_to_a_path_made_of_the_one_that_was_asked_for() {
    let gateway = Gateway::start(
        "
listeners:
  - { name: web, address: 127.0.0.1:0 }
forwarding: { trusted_proxies: [127.0.0.1/32] }
routes:
  - { match: { path: /old }, rewrite: { strip_prefix: /old, add_prefix: /new }, redirect: { status: 301 } }
  - { match: { path: /secure }, rewrite: { strip_prefix: /secure }, redirect: { scheme: https, port: 8443 } }
  - { match: { path_regex: \"^/users/[0-9]+$\" }, rewrite: { regex: \"^/users/([0-9]+)$\", to: \"/u/$1\" }, redirect: { port: 80 } }
",
    )
    .await;
    let mut client = gateway.client().await;
    let http2 = Http2::over(tcp(gateway.address("web")).await).await;
    for (asked, status, location) in [
        ("/old/x?y=1", 301, "http://localhost/new/x?y=1"),
        ("/old", 301, "http://localhost/new"),
        ("/old/", 301, "http://localhost/new/"),
        ("/old/a%2fb%20c/caf%c3%a9?q=%2f", 301, "http://localhost/new/a%2Fb%20c/caf%C3%A9?q=%2f"),
        ("/old//evil.example/%2e%2E/x", 301, "http://localhost/new/x"),
        ("/secure/x", 308, "https://localhost:8443/x"),
        ("/secure", 308, "https://localhost:8443/"),
        ("/users/7?q", 308, "http://localhost/u/7?q"),
        ("/old/..%2Fadmin", 400, ""),
    ] {
        let answer = client.get(asked).await;
        assert_eq!((answer.status, answer.header("location").unwrap_or_default()), (status, location), "{asked}");
        let answer = http2.get(&format!("http://localhost{asked}")).await;
        let there = answer.headers().get("location").map_or("", |location| location.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), there), (status, location), "{asked}");
    }
    // Where TLS ends before the gateway, the scheme is the one that the proxy tells.
    let answer = client.get_with("/old/x", "X-Forwarded-Proto: https\r\n").await;
    assert_eq!(answer.header("location"), Some("https://localhost/new/x"));
}

async fn nobody_climbs_out_of_a_prefix() {
    let server = Echo::start("a").await;
    let gateway = Gateway::start(&before(server.address())).await;
    let mut client = gateway.client().await;
    for path in ["/app1/..%2Fadmin", "/app1/..;/admin"] {
        assert_eq!(client.get(path).await.status, 400, "{path}");
    }
    assert!(
        client.get("/app1/../admin").await.text().contains("\nGET /app1/../admin "),
        "that is no path of the app's"
    );
}

/// Sessions are learned, placed and found by the paths of the servers, with every transport.
async fn socket_io_lives_below_a_prefix() {
    let servers = [Node::server("v4", &["--id", "a"]).await, Node::server("v4", &["--id", "b"]).await];
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ path: /app1 }}
    upstream: sockets
    host: sockets.internal
    rewrite: {{ strip_prefix: /app1 }}
    request_headers: {{ set: {{ X-App: \"${{route.name}}\" }} }}
upstreams:
  sockets:
    kind: socket.io
    balance: round_robin
    sessions: {{ paths: [/socket.io/] }}
    servers: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]
",
        servers[0].port(),
        servers[1].port()
    ))
    .await;
    let url = format!("http://{}", gateway.address("web"));
    for transports in ["polling", "websocket", "polling,websocket"] {
        let options = [
            "--url",
            &url,
            "--path",
            "/app1/socket.io",
            "--transports",
            transports,
            "--sessions",
            "8",
            "--messages",
            "3",
        ];
        let summary = node::client("v4", &options, 60).await;
        assert_eq!((&summary["ok"], &summary["server_changes"]), (&true.into(), &0.into()), "{transports}: {summary}");
    }
}
