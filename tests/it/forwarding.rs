//! What servers are told about the client, on plain requests and on upgrades alike.

use crate::support::engine::for_each_engine;
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, Puppet};

for_each_engine! {
    servers_learn_who_asks_and_how,
    what_strangers_say_of_themselves_is_replaced,
    what_trusted_proxies_set_is_kept_and_added_to,
    what_visitors_send_through_a_trusted_proxy_is_not_believed,
    fields_by_which_frameworks_know_the_client_do_not_pass_from_strangers,
    fields_with_underscores_are_dropped,
    only_what_is_wanted_is_told,
    httpoxy_is_dropped,
    clients_cannot_name_away_who_they_are,
    the_host_is_kept_or_set,
}

/// What a server is asked, field by field, names in lower case.
struct Asked(Vec<(String, String)>);

impl Asked {
    fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// Sends these fields from 127.0.0.x, once with a plain request and once with an upgrade; gives what the server was
/// asked.
async fn ask(gateway: &Gateway, server: &Puppet, from: u8, host: &str, fields: &str) -> [Asked; 2] {
    let plain = format!("GET /plain HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n");
    let opening = upgrade("/upgrade").replace("Host: localhost\r\n", &format!("Host: {host}\r\n{fields}"));
    let mut asked = Vec::new();
    for request in [plain, opening] {
        let mut client = Client::connect_from(from, gateway.address("web")).await;
        client.send(&request).await;
        let mut inside = server.accept().await;
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap();
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200, "{request}");
        let fields = head.trim_end().split("\r\n").skip(1).map(|line| line.split_once(':').unwrap());
        asked.push(Asked(fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()));
    }
    asked.try_into().unwrap_or_else(|_| unreachable!())
}

async fn servers_learn_who_asks_and_how() {
    let (server, gateway) = Gateway::before_puppet("forwarding: { forwarded: true }").await;
    let port = gateway.address("web").port().to_string();
    let mut ids = Vec::new();
    for asked in ask(&gateway, &server, 7, "Example.com:81", "").await {
        for (name, value) in [
            ("host", "Example.com:81"),
            ("x-forwarded-for", "127.0.0.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "Example.com:81"),
            ("x-forwarded-port", &port),
            ("x-real-ip", "127.0.0.7"),
            ("forwarded", "for=127.0.0.7;host=\"Example.com:81\";proto=http"),
        ] {
            assert_eq!(asked.all(name), [value], "{name}");
        }
        ids.extend(asked.all("x-request-id").into_iter().map(str::to_owned));
    }
    assert!(ids.len() == 2 && ids[0] != ids[1] && ids[0].len() == 32, "{ids:?}");
    for (id, path) in ids.iter().zip(["/plain", "/upgrade"]) {
        gateway.access_line(&[&format!("id={id}"), path, "client=127.0.0.7"]).await;
    }
}

const LIES: &str = "X-Forwarded-For: 198.51.100.1\r\nX-FORWARDED-FOR: 198.51.100.2\r\nX-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 198.51.100.3\r\n\
                    Forwarded: for=198.51.100.4\r\nX-Request-Id: made-up\r\n";

async fn what_strangers_say_of_themselves_is_replaced() {
    let (server, gateway) = Gateway::before_puppet("forwarding: { trusted_proxies: [127.0.0.64/26] }").await;
    for asked in ask(&gateway, &server, 7, "a", LIES).await {
        assert_eq!(asked.all("x-forwarded-for"), ["127.0.0.7"]);
        assert_eq!(asked.all("x-forwarded-proto"), ["http"]);
        assert_eq!(asked.all("x-forwarded-host"), ["a"]);
        assert_eq!(asked.all("x-forwarded-port"), [gateway.address("web").port().to_string()]);
        assert_eq!(asked.all("x-real-ip"), ["127.0.0.7"]);
        assert_eq!(asked.all("forwarded"), [""; 0], "it is not written, and a stranger's is not passed on");
        assert_eq!(asked.all("x-request-id").len(), 1);
        assert_ne!(asked.all("x-request-id"), ["made-up"]);
    }
    gateway.access_line(&["client=127.0.0.7", "target=/plain"]).await;
    gateway.access_line(&["client=127.0.0.7", "target=/upgrade"]).await;
}

async fn what_trusted_proxies_set_is_kept_and_added_to() {
    let server = Puppet::start().await;
    let forwarding = "forwarding: { trusted_proxies: [127.0.0.64/26], forwarded: true, \
                      believe: [X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-Port, Forwarded] }";
    let gateway = Gateway::before(&[server.address()], "", forwarding).await;
    let said = "X-Forwarded-For: 198.51.100.1, 127.0.0.65\r\nX-Forwarded-Proto: https\r\n\
                X-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 443\r\n\
                Forwarded: for=198.51.100.1;proto=https\r\nX-Request-Id: from-the-edge\r\n";
    for asked in ask(&gateway, &server, 66, "a", said).await {
        assert_eq!(asked.all("x-forwarded-for"), ["198.51.100.1, 127.0.0.65, 127.0.0.66"]);
        assert_eq!(asked.all("x-forwarded-proto"), ["https"]);
        assert_eq!(asked.all("x-forwarded-host"), ["shop.example"]);
        assert_eq!(asked.all("x-forwarded-port"), ["443"]);
        assert_eq!(asked.all("x-real-ip"), ["198.51.100.1"]);
        let forwarded = asked.all("forwarded");
        assert_eq!(forwarded, ["for=198.51.100.1;proto=https, for=127.0.0.66;host=\"a\";proto=http"]);
        assert_eq!(asked.all("x-request-id"), ["from-the-edge"]);
    }
    // The client is the last one that a trusted proxy vouches for; what stands before may be made up.
    gateway.access_line(&["client=198.51.100.1", "target=/plain", "id=from-the-edge"]).await;
    gateway.access_line(&["client=198.51.100.1", "target=/upgrade", "id=from-the-edge"]).await;
    let made_up = "X-Forwarded-For: 203.0.113.9, 198.51.100.8\r\n";
    for asked in ask(&gateway, &server, 66, "a", made_up).await {
        assert_eq!(asked.all("x-real-ip"), ["198.51.100.8"]);
    }
    gateway.access_line(&["client=198.51.100.8"]).await;
}

/// Cloud balancers add to X-Forwarded-For, set X-Forwarded-Proto, and leave the rest as their visitors sent it.
async fn what_visitors_send_through_a_trusted_proxy_is_not_believed() {
    let server = Puppet::start().await;
    let forwarding = "forwarding: { trusted_proxies: [127.0.0.64/26], forwarded: true }";
    let gateway = Gateway::before(&[server.address()], "", forwarding).await;
    let said = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\n\
                X-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\n\
                X-Forwarded-Prefix: /evil\r\nX-Original-URL: /admin\r\nTrue-Client-IP: 6.6.6.6\r\n";
    for asked in ask(&gateway, &server, 66, "a", said).await {
        for (name, value) in [
            ("x-real-ip", "203.0.113.9"),
            ("x-forwarded-for", "203.0.113.9, 127.0.0.66"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=203.0.113.9;proto=https, for=127.0.0.66;host=\"a\";proto=http"),
        ] {
            assert_eq!(asked.all(name), [value], "{name}");
        }
        for name in ["x-forwarded-prefix", "x-original-url", "true-client-ip"] {
            assert_eq!(asked.all(name), [""; 0], "{name}");
        }
    }
}

async fn fields_by_which_frameworks_know_the_client_do_not_pass_from_strangers() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let names = [
        "X-Forwarded-Ssl",
        "X-Forwarded-Scheme",
        "X-Forwarded-Server",
        "X-Forwarded-Prefix",
        "X-Forwarded-User",
        "X-Client-IP",
        "Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Original-URL",
        "X-Rewrite-URL",
    ];
    let fields: String = names.iter().map(|name| format!("{name}: made-up\r\n")).collect();
    for asked in ask(&gateway, &server, 7, "a", &(fields + "X-Mine: kept\r\n")).await {
        for (name, value) in &asked.0 {
            assert_ne!(value, "made-up", "{name}");
        }
        assert_eq!(asked.all("x-mine"), ["kept"]);
    }
}

/// CGI, WSGI, Rack and PHP can't tell `X_Real_IP` from `X-Real-IP`.
async fn fields_with_underscores_are_dropped() {
    let said = "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX_REAL_IP: 6.6.6.6\r\nx_request_id: 6\r\n\
                Content_Length: 6\r\nMy_Own: 7\r\n";
    for (forwarding, own) in [("", vec![]), ("forwarding: { underscores: true }", vec!["7"])] {
        let (server, gateway) = Gateway::before_puppet(forwarding).await;
        for asked in ask(&gateway, &server, 7, "a", said).await {
            assert_eq!(asked.all("my_own"), own, "{forwarding}");
            let others: Vec<_> = asked.0.iter().filter(|(name, _)| name.contains('_') && name != "my_own").collect();
            assert!(others.is_empty(), "{forwarding}: {others:?}");
        }
    }
}

async fn only_what_is_wanted_is_told() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(
        &[server.address()],
        "",
        "forwarding: { x_forwarded_for: false, x_forwarded_proto: false, x_forwarded_host: false, \
         x_forwarded_port: false, x_real_ip: false, request_id: \"\" }",
    )
    .await;
    for asked in ask(&gateway, &server, 7, "a", &LIES.replace("X-Request-Id: made-up\r\n", "")).await {
        for (name, value) in &asked.0 {
            assert!(!name.contains("forwarded") && name != "x-real-ip" && name != "x-request-id", "{name}: {value}");
        }
    }
    let gateway = Gateway::before(&[server.address()], "", "forwarding: { request_id: X-Trace }").await;
    for asked in ask(&gateway, &server, 7, "a", "x-trace: mine\r\nX-Request-Id: the-apps-own\r\n").await {
        assert!(asked.all("x-trace").len() == 1 && asked.all("x-trace") != ["mine"]);
        assert_eq!(asked.all("x-request-id"), ["the-apps-own"], "another field is nobody's business");
    }
}

/// CGI programs read `Proxy` as the variable HTTP_PROXY (httpoxy, CVE-2016-5385).
async fn httpoxy_is_dropped() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for asked in ask(&gateway, &server, 7, "a", "Proxy: http://evil.example\r\nX-Proxy: kept\r\n").await {
        assert_eq!(asked.all("proxy"), [""; 0]);
        assert_eq!(asked.all("x-proxy"), ["kept"]);
    }
}

/// `Connection` may name fields away that belong to the connection; who the client is does not.
async fn clients_cannot_name_away_who_they_are() {
    let (server, gateway) = Gateway::before_puppet("").await;
    for name in
        ["X-Forwarded-For", "X-Real-IP", "x-forwarded-proto", "X-Forwarded-Port", "Host", "Cookie", "Authorization"]
    {
        let mut client = Client::connect_from(7, gateway.address("web")).await;
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, {name}\r\nCookie: a=1\r\nAuthorization: x\r\n\r\n"
            ))
            .await;
        let plain = server.accept();
        let mut inside = tokio::select! {
            inside = plain => inside,
            answer = client.answer() => panic!("{name}: {}", answer.head),
        };
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap().to_ascii_lowercase();
        for line in ["x-forwarded-for: 127.0.0.7", "x-real-ip: 127.0.0.7", "host: a", "cookie: a=1", "authorization: x"]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{name} took {line} away:\n{head}");
        }
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        let mut client = Client::connect_from(7, gateway.address("web")).await;
        client.send(upgrade("/").replace("Connection: ", &format!("Cookie: a=1\r\nConnection: {name}, "))).await;
        let mut inside = server.accept().await;
        let head = String::from_utf8(inside.request().await.unwrap().head).unwrap().to_ascii_lowercase();
        for line in ["x-forwarded-for: 127.0.0.7", "x-real-ip: 127.0.0.7", "host: localhost", "cookie: a=1"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{name} took {line} away:\n{head}");
        }
    }
}

async fn the_host_is_kept_or_set() {
    let server = Puppet::start().await;
    for (upstream, expected) in [("host: keep", "Example.com:81"), ("host: inner.example", "inner.example")] {
        let gateway = Gateway::before(&[server.address()], upstream, "").await;
        for asked in ask(&gateway, &server, 7, "Example.com:81", "").await {
            assert_eq!(asked.all("host"), [expected]);
            assert_eq!(asked.all("x-forwarded-host"), ["Example.com:81"], "what was asked for is told in any case");
        }
    }
}
