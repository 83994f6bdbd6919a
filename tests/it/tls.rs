//! TLS on both sides: certificates by name, versions, tickets, ALPN, sockets within, and servers that have to prove
//! who they are.

use std::collections::HashMap;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::upgrade;
use crate::support::server::{echo, greet};
use crate::support::tls::{Authority, shown};
use crate::support::{Client, Echo, Gateway, Scripted, eventually, within};

/// One TLS listener called `secure` with these further keys, and one server.
fn one(tls: &str, more: &str, server: std::net::SocketAddr) -> String {
    format!(
        "
listeners:
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ {tls} }}{more} }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{server}\"] }}
"
    )
}

fn certificates(of: &[&crate::support::tls::Issued]) -> String {
    let list: Vec<String> = of.iter().map(|issued| issued.yaml()).collect();
    format!("certificates: [{}]", list.join(", "))
}

#[tokio::test]
async fn tls_native_sni() {
    let authority = Authority::new();
    let first = authority.sign(&["a.test", "127.0.0.1"]);
    let wildcard = authority.sign(&["*.b.test"]);
    let exact = authority.sign(&["exact.b.test", "other.test"]);
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&one(&certificates(&[&first, &wildcard, &exact]), "", web.address())).await;
    let client = authority.client(&[]);
    for (name, expected) in [
        ("a.test", &first),
        ("x.b.test", &wildcard),
        ("X.B.Test", &wildcard),
        ("exact.b.test", &exact),
        ("other.test", &exact),
        // An address is no server name: nothing is asked for, the first certificate answers.
        ("127.0.0.1", &first),
    ] {
        let stream = client.connect(gateway.address("secure"), name).await.unwrap();
        assert!(shown(&stream) == expected.der, "the certificate for {name}");
        assert_eq!(Client::over(stream).get("/").await.status, 200, "{name}");
    }
    for stranger in ["unknown.test", "b.test", "x.y.b.test"] {
        let refused = client.connect(gateway.address("secure"), stranger).await.unwrap_err().to_string();
        assert!(refused.contains("a.test"), "{stranger} is shown the first certificate: {refused}");
    }
}

#[tokio::test]
async fn both_versions_are_spoken_and_the_older_one_can_be_refused() {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let web = Echo::start("web").await;
    let listed = certificates(&[&certificate]);
    let gateway = Gateway::start(&one(&listed, "", web.address())).await;
    let strict = Gateway::start(&one(&format!("{listed}, min_version: 1.3"), "", web.address())).await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &[]);
        let stream = client.connect(gateway.address("secure"), "a.test").await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert_eq!(Client::over(stream).get("/").await.status, 200);
        let stream = client.connect(strict.address("secure"), "a.test").await;
        assert_eq!(stream.is_ok(), version.version == TLS13.version, "{version:?}: {stream:?}");
    }
    assert_eq!(strict.metric("sockgate_tls_handshakes_total{listener=\"secure\",result=\"failed\"}").await, 1.0);
}

#[tokio::test]
async fn a_client_that_comes_back_with_a_ticket_is_resumed() {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&one(&certificates(&[&certificate]), "", web.address())).await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &[]);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let stream = client.connect(gateway.address("secure"), "a.test").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
            // Tickets of TLS 1.3 come behind the handshake, before the first answer.
            assert_eq!(Client::over(stream).get("/").await.status, 200);
        }
    }
}

#[tokio::test]
async fn alpn_offers_http_2_unless_it_is_turned_off() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&one(&listed, "", web.address())).await;
    let old = Gateway::start(&one(&listed, ", http2: false", web.address())).await;
    let agreed = async |gateway: &Gateway, offered: &[&str]| {
        let stream = authority.client(offered).connect(gateway.address("secure"), "a.test").await.ok()?;
        let agreed = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        Some((agreed.unwrap_or_default(), stream))
    };
    for (gateway, offered, expected) in [
        (&gateway, &["h2", "http/1.1"][..], Some("h2")),
        (&gateway, &["http/1.1"], Some("http/1.1")),
        (&gateway, &[], Some("")),
        (&gateway, &["spdy/3"], None),
        (&old, &["h2", "http/1.1"], Some("http/1.1")),
        (&old, &["h2"], None),
    ] {
        let got = agreed(gateway, offered).await;
        assert_eq!(got.as_ref().map(|(name, _)| name.as_str()), expected, "{offered:?}");
        if let Some((_, stream)) = got.filter(|(name, _)| name != "h2") {
            assert_eq!(Client::over(stream).get("/").await.status, 200, "{offered:?}");
        }
    }
}

#[tokio::test]
async fn clients_that_never_finish_a_handshake_are_let_go() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&one(&format!("{listed}, handshake_timeout: 300ms"), "", web.address())).await;
    let began = std::time::Instant::now();
    let mut silent = Client::connect(gateway.address("secure")).await;
    let mut half = Client::connect(gateway.address("secure")).await;
    // The start of a ClientHello of 512 bytes.
    half.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    let mut garbage = Client::connect(gateway.address("secure")).await;
    garbage.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    garbage.read_all().await;
    assert!(silent.read_all().await.is_empty());
    assert!(began.elapsed().as_millis() >= 300, "not before its time");
    assert!(half.read_all().await.is_empty());
    eventually("three handshakes have failed", async || {
        gateway.metric("sockgate_tls_handshakes_total{listener=\"secure\",result=\"failed\"}").await == 3.0
    })
    .await;
    let stream = authority.client(&[]).connect(gateway.address("secure"), "a.test").await.unwrap();
    assert_eq!(Client::over(stream).get("/").await.status, 200);
}

#[tokio::test]
async fn a_websocket_over_tls_loses_nothing_and_can_be_half_closed() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let server = Scripted::start(|mut client, _| async move {
        let Some(_request) = client.request().await else { return };
        client
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst ")
            .await;
        let got = client.read_all().await;
        client.send([b"got ", got.as_slice(), b" and the client's end"].concat()).await;
        client.finish().await;
    })
    .await;
    let gateway = Gateway::start(&one(&listed, "", server.address())).await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &["http/1.1"]);
        let mut stream = client.connect(gateway.address("secure"), "a.test").await.unwrap();
        // One write makes one record: the frame rides with the request.
        stream.write_all((upgrade("/") + "early ").as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        stream.write_all(b"late").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // rustls calls an end without close_notify an error.
        within("the rest, with a close_notify", stream.read_to_end(&mut rest)).await.unwrap();
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.ends_with("\r\n\r\nfirst got early late and the client's end"), "{rest}");
    }
    gateway.access_line(&["event=close", "status=101", "tls=true", "closed_by=client", "bytes_in=10"]).await;
}

#[tokio::test]
async fn tls_ends_before_raw_tcp_and_chain_and_key_may_share_a_file() {
    let authority = Authority::new();
    let issued = authority.sign(&["a.test"]);
    let both = authority.file("both.pem");
    let read = |file: &str| std::fs::read_to_string(file).unwrap();
    std::fs::write(&both, [read(&issued.key), read(&issued.cert), read(&authority.ca())].concat()).unwrap();
    let raw = Scripted::start(|client, _| greet(client)).await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - name: raw
    address: 127.0.0.1:0
    protocol: tcp
    upstream: raw
    tls: {{ certificates: [{{ cert: {both}, key: {both} }}] }}
upstreams:
  raw: {{ kind: tcp, servers: [\"{}\"] }}
",
        raw.address()
    ))
    .await;
    let sent: Vec<u8> = (0..2_000_000u32).map(|at| (at % 251) as u8).collect();
    for offered in [&[][..], &["h2", "http/1.1"]] {
        let stream = authority.client(offered).connect(gateway.address("raw"), "a.test").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), None, "nothing is promised of what the servers speak");
        let (mut reading, mut writing) = tokio::io::split(stream);
        let write = async {
            writing.write_all(&sent).await.unwrap();
            writing.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let read = within("all of it, with a close_notify", reading.read_to_end(&mut got));
        let ((), read) = tokio::join!(write, read);
        read.unwrap();
        assert!(got.strip_prefix(b"hello ") == Some(&sent), "{} bytes came back", got.len());
    }
    gateway.access_line(&["protocol=TCP", "tls=true", "bytes_in=2000000"]).await;
}

#[tokio::test]
async fn client_ip_through_tls() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let server = Scripted::start(|mut client, _| async move {
        // Shows every request as it came, those for a WebSocket behind a 101.
        while let Some(request) = client.request().await {
            let upgraded = request.head.windows(9).any(|part| part == b"websocket");
            let head = if upgraded {
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned()
            } else {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.head.len())
            };
            client.send([head.as_bytes(), &request.head].concat()).await;
        }
    })
    .await;
    let gateway = Gateway::start(&one(&listed, "", server.address())).await;
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let stream = socket.connect(gateway.address("secure")).await.unwrap();
        Client::over(authority.client(&["http/1.1"]).over(stream, "a.test").await.unwrap())
    };
    let told = |seen: &str| {
        let port = gateway.address("secure").port();
        let seen = seen.to_ascii_lowercase();
        for expected in [
            "x-forwarded-for: 127.0.0.9".to_owned(),
            "x-real-ip: 127.0.0.9".to_owned(),
            "x-forwarded-proto: https".to_owned(),
            format!("x-forwarded-port: {port}"),
            "x-forwarded-host: localhost".to_owned(),
        ] {
            assert_eq!(seen.matches(&format!("\r\n{expected}\r\n")).count(), 1, "{expected} in {seen}");
        }
        assert!(!seen.contains("192.0.2."), "what a stranger says is not passed on: {seen}");
    };
    let lies =
        "X-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.2\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 1\r\n";
    let mut client = connect().await;
    told(&client.get_with("/", lies).await.text());
    let mut socket = connect().await;
    socket.send(upgrade("/").replace("Upgrade: websocket\r\n", &format!("Upgrade: websocket\r\n{lies}"))).await;
    assert_eq!(socket.answer().await.status, 101);
    told(&String::from_utf8(socket.read_until(b"\r\n\r\n").await).unwrap());
}

#[tokio::test]
async fn seed_https_both() {
    let authority = Authority::new();
    let (web, sockets) = (Echo::start("web").await, Echo::start("sockets").await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: plain, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ {} }} }}
routes:
  - match: {{ path: /socket.io/ }}
    upstream: sockets
  - match: {{ listener: plain, path: /account }}
    redirect: {{ scheme: https }}
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
  sockets: {{ servers: [\"{}\"] }}
",
        certificates(&[&authority.sign(&["a.test"])]),
        web.address(),
        sockets.address()
    ))
    .await;
    let tls = authority.client(&["http/1.1"]);
    for secure in [false, true] {
        let connect = async || match secure {
            false => Client::connect(gateway.address("plain")).await,
            true => Client::over(tls.connect(gateway.address("secure"), "a.test").await.unwrap()),
        };
        let mut client = connect().await;
        assert_eq!(client.get("/").await.header("x-server"), Some("web"));
        assert_eq!(client.get("/socket.io/?EIO=4&transport=polling").await.header("x-server"), Some("sockets"));
        let account = client.get_with("/account?a=b", "Host: a.test:8080\r\n").await;
        if secure {
            assert_eq!((account.status, account.header("x-server")), (200, Some("web")));
        } else {
            assert_eq!((account.status, account.header("location")), (308, Some("https://a.test/account?a=b")));
        }
        let mut socket = connect().await;
        socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
        let answer = socket.answer().await;
        assert_eq!((answer.status, answer.header("x-server")), (101, Some("sockets")));
        socket.send(b"\x81\x02hi").await;
        assert_eq!(socket.read(4).await, b"\x81\x02hi");
    }
}

#[tokio::test]
async fn plain_and_tls_share_a_port() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = Echo::start("web").await;
    let raw = Scripted::start(|mut client, _| async move {
        client.send("hello ").await;
        let got = client.read_all().await;
        client.send(got).await;
        client.finish().await;
    })
    .await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - name: both
    address: 127.0.0.1:0
    tls: {{ {listed} }}
    detect: {{ plain: true, tcp: raw, inspect_delay: 400ms }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
  raw: {{ kind: tcp, servers: [\"{}\"] }}
",
        web.address(),
        raw.address()
    ))
    .await;
    let tls = authority.client(&[]);
    for _ in 0..10 {
        assert_eq!(Client::connect(gateway.address("both")).await.get("/").await.status, 200);
        let stream = tls.connect(gateway.address("both"), "a.test").await.unwrap();
        let answer = Client::over(stream).get("/").await;
        assert!(answer.text().to_ascii_lowercase().contains("x-forwarded-proto: https"));
    }
    let mut binary = Client::connect(gateway.address("both")).await;
    binary.send(b"\x17\x03\x03 is no handshake").await;
    binary.finish().await;
    assert_eq!(binary.read_all().await, b"hello \x17\x03\x03 is no handshake");
    let began = std::time::Instant::now();
    let mut silent = Client::connect(gateway.address("both")).await;
    assert_eq!(silent.read(6).await, b"hello ");
    let waited = began.elapsed().as_millis();
    assert!((400..750).contains(&waited), "a silent client waits for one delay, not for one at each step: {waited} ms");
}

/// An upstream with this `tls`, without checks, so that each attempt is the request's own.
fn upstream(name: &str, kind: &str, server: std::net::SocketAddr, tls: &str) -> String {
    format!(
        "  {name}: {{ kind: {kind}, servers: [\"{server}\"], tls: {{ {tls} }}, health: {{ check: none }}, \
         ejection: {{ failures: 0 }} }}\n"
    )
}

/// What becomes of a GET, of a WebSocket and of a raw connection to one server with each of these `tls`.
async fn outcomes(server: std::net::SocketAddr, cases: &[&str]) -> Vec<(u16, u16, bool)> {
    let mut yaml = "\nlisteners:\n  - { name: web, address: 127.0.0.1:0 }\n".to_owned();
    for case in 0..cases.len() {
        yaml += &format!("  - {{ name: raw{case}, address: 127.0.0.1:0, protocol: tcp, upstream: raw{case} }}\n");
    }
    yaml += "routes:\n";
    for case in 0..cases.len() {
        yaml += &format!("  - {{ match: {{ path: /{case} }}, upstream: web{case} }}\n");
    }
    yaml += "upstreams:\n";
    for (case, tls) in cases.iter().enumerate() {
        yaml += &upstream(&format!("web{case}"), "http", server, tls);
        yaml += &upstream(&format!("raw{case}"), "tcp", server, tls);
    }
    let gateway = Gateway::start(&yaml).await;
    let mut outcomes = Vec::new();
    for case in 0..cases.len() {
        let get = Client::connect(gateway.address("web")).await.get(&format!("/{case}")).await.status;
        let mut socket = Client::connect(gateway.address("web")).await;
        socket.send(upgrade(&format!("/{case}"))).await;
        let switched = socket.answer().await.status;
        if switched == 101 {
            socket.send(b"\x81\x02hi").await;
            assert_eq!(socket.read(4).await, b"\x81\x02hi");
        }
        let mut raw = Client::connect(gateway.address(&format!("raw{case}"))).await;
        let _ = raw.try_send("GET /raw HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let carried = raw.some_until(b"\r\n\r\n").await.is_some_and(|head| head.starts_with(b"HTTP/1.1 200"));
        outcomes.push((get, switched, carried));
    }
    outcomes
}

#[tokio::test]
async fn servers_have_to_prove_who_they_are() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test", "127.0.0.1"]), false), "secure").await;
    let (ca, other) = (authority.ca(), stranger.ca());
    let got = outcomes(
        server.address(),
        &[
            &format!("ca: {ca}, server_name: app.test"),
            &format!("ca: {ca}"),
            &format!("ca: {ca}, server_name: other.test"),
            &format!("ca: {other}, server_name: app.test"),
            "verify: false",
            "verify: false, server_name: other.test",
        ],
    )
    .await;
    let (proved, refused) = ((200, 101, true), (502, 502, false));
    assert_eq!(got, [proved, proved, refused, refused, proved, proved]);
}

#[tokio::test]
async fn the_gateway_proves_who_it_is_where_servers_ask() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test"]), true), "secure").await;
    let (ours, strange) = (authority.sign(&["gateway.test"]), stranger.sign(&["gateway.test"]));
    let ca = format!("ca: {}, server_name: app.test", authority.ca());
    let got = outcomes(
        server.address(),
        &[
            &format!("{ca}, cert: {}, key: {}", ours.cert, ours.key),
            &format!("verify: false, cert: {}, key: {}", ours.cert, ours.key),
            &format!("{ca}, cert: {}, key: {}", strange.cert, strange.key),
            &ca,
        ],
    )
    .await;
    let (proved, refused) = ((200, 101, true), (502, 502, false));
    assert_eq!(got, [proved, proved, refused, refused]);
}

#[tokio::test]
async fn connections_to_servers_are_kept_over_tls() {
    let authority = Authority::new();
    let server = Scripted::start_tls(authority.server(&authority.sign(&["app.test"]), false), |client, _| {
        echo("secure", client)
    })
    .await;
    let tls = upstream("web", "http", server.address(), &format!("ca: {}, server_name: app.test", authority.ca()));
    let gateway = Gateway::start(&format!(
        "
threads: 1
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: web
upstreams:
{tls}"
    ))
    .await;
    for _ in 0..5 {
        let mut client = Client::connect(gateway.address("web")).await;
        for _ in 0..4 {
            assert_eq!(client.get("/").await.header("x-server"), Some("secure"));
        }
    }
    assert_eq!(server.accepted(), 1, "twenty requests share one connection");
}

#[tokio::test]
async fn unverified_servers_are_met_on_systems_without_authorities() {
    let authority = Authority::new();
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test"]), false), "secure").await;
    let (file, folder) = (authority.file("nothing.pem"), authority.file("nothing"));
    std::fs::write(&file, "").unwrap();
    std::fs::create_dir(&folder).unwrap();
    let system = HashMap::from([("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folder)]);
    let gateway = Gateway::start_with(
        &format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: web
upstreams:
{}",
            upstream("web", "http", server.address(), "verify: false")
        ),
        &system,
    )
    .await;
    assert_eq!(Client::connect(gateway.address("web")).await.get("/").await.status, 200);
    let mut socket = Client::connect(gateway.address("web")).await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
}

#[tokio::test]
async fn a_server_with_the_wrong_certificate_is_down() {
    let authority = Authority::new();
    let server = Echo::start_tls(authority.server(&authority.sign(&["app.test"]), false), "secure").await;
    let gateway = Gateway::start_unready(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"], tls: {{ ca: {}, server_name: other.test }}, health: {{ fall: 1 }} }}
",
        server.address(),
        authority.ca()
    ))
    .await;
    eventually("the check says why", async || {
        gateway.admin("/status").await.text().contains("not valid for name \\\"other.test\\\"")
    })
    .await;
    assert_eq!(gateway.admin("/readyz").await.status, 503);
    assert_eq!(Client::connect(gateway.address("web")).await.get("/").await.status, 503);
}

#[tokio::test]
async fn broken_certificate_files_stop_the_gateway_and_are_named() {
    let authority = Authority::new();
    let (good, other) = (authority.sign(&["a.test"]), authority.sign(&["b.test"]));
    let garbage = authority.file("garbage.pem");
    std::fs::write(&garbage, "no certificate").unwrap();
    let nowhere = authority.file("nowhere.pem");
    let server = "127.0.0.1:1".parse().unwrap();
    let listener = |cert: &str, key: &str| one(&format!("certificates: [{{ cert: {cert}, key: {key} }}]"), "", server);
    let to_server = |tls: &str| {
        format!(
            "\nlisteners:\n  - {{ name: web, address: 127.0.0.1:0 }}\nroutes:\n  - upstream: web\nupstreams:\n{}",
            upstream("web", "http", server, tls)
        )
    };
    for (yaml, named) in [
        (listener(&nowhere, &good.key), &nowhere),
        (listener(&garbage, &good.key), &garbage),
        (listener(&good.cert, &nowhere), &nowhere),
        (listener(&good.cert, &garbage), &garbage),
        (listener(&good.cert, &other.key), &other.key),
        (to_server(&format!("ca: {nowhere}")), &nowhere),
        (to_server(&format!("ca: {garbage}")), &garbage),
        (to_server(&format!("ca: {}, cert: {}, key: {garbage}", good.cert, good.cert)), &garbage),
    ] {
        let (code, said) = Gateway::fails(&yaml).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(named.as_str()), "{named} in {said}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_within_tls_breaks_the_socket_too() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&one(&listed, "", web.address())).await;
    let stream = authority.client(&[]).connect(gateway.address("secure"), "a.test").await.unwrap();
    let (socket, session) = stream.into_inner();
    drop(session);
    drop::<TcpStream>(socket);
    let mut tunnel =
        Client::over(authority.client(&["http/1.1"]).connect(gateway.address("secure"), "a.test").await.unwrap());
    tunnel.send(upgrade("/")).await;
    assert_eq!(tunnel.answer().await.status, 101);
    // Without a close_notify this may be a cut, and is not passed on as a proper end.
    drop(tunnel);
    gateway.access_line(&["event=close", "closed_by=client_lost"]).await;
    eventually("nothing is left", async || {
        gateway.metric("sockgate_connections_open{listener=\"secure\"}").await == 0.0
    })
    .await;
}
