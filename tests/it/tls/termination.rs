//! What comes in by TLS: sockets, raw bytes and addresses are what they would be without it.

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::{certificates, over};
use crate::support::server::greet;
use crate::support::tls::Authority;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Scripted, Setup, eventually, within};

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
    let gateway = over(&listed, server.address()).start().await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &["http/1.1"]);
        let mut stream = client.connect(gateway.address("web"), "a.test").await.unwrap();
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
    let gateway = over(&listed, server.address()).start().await;
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let stream = socket.connect(gateway.address("web")).await.unwrap();
        Client::over(authority.client(&["http/1.1"]).over(stream, "a.test").await.unwrap())
    };
    let told = |seen: &str| {
        let port = gateway.address("web").port();
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
async fn plain_and_tls_share_a_unix_socket() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let front = authority.file("front.sock");
    let server = Echo::start("web").await;
    let setup = Setup::before(&[server.address()]).unchecked().at(format!("unix:{front}"));
    let _gateway = setup.listener(format!("tls: {{ {listed} }}, detect: {{ plain: true }}")).start().await;
    for _ in 0..3 {
        let plain = UnixStream::connect(&front).await.unwrap();
        assert!(Client::over(plain).get("/").await.text().contains("X-Forwarded-Proto: http\r\n"));
        let stream = UnixStream::connect(&front).await.unwrap();
        let stream = authority.client(&[]).over(stream, "a.test").await.unwrap();
        assert!(Client::over(stream).get("/").await.text().contains("X-Forwarded-Proto: https\r\n"));
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

#[tokio::test]
async fn a_client_that_breaks_off_within_tls_breaks_the_socket_too() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = Echo::start("web").await;
    let gateway = over(&listed, web.address()).start().await;
    let stream = authority.client(&[]).connect(gateway.address("web"), "a.test").await.unwrap();
    let (socket, session) = stream.into_inner();
    drop(session);
    drop::<TcpStream>(socket);
    let mut tunnel =
        Client::over(authority.client(&["http/1.1"]).connect(gateway.address("web"), "a.test").await.unwrap());
    tunnel.send(upgrade("/")).await;
    assert_eq!(tunnel.answer().await.status, 101);
    // Without a close_notify this may be a cut, and is not passed on as a proper end.
    drop(tunnel);
    gateway.access_line(&["event=close", "closed_by=client_lost"]).await;
    eventually("nothing is left", async || gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 0.0)
        .await;
}
