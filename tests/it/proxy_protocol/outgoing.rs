//! What servers behind the gateway are told of each connection's client, and that nobody else's requests come by it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use h2::ext::Protocol;
use http::Request;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{ALPN, AUTHORITY, CLIENT, CRC32C, OVER_TLS, REACHED, SSL, UNIQUE_ID, binary, crc32c, v1, v2};
use crate::support::client::tcp;
use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::http2::Http2;
use crate::support::server::{echo, greet};
use crate::support::tls::{self, Authority};
use crate::support::websocket::{echoes, opened};
use crate::support::{Client, Gateway, Refusing, Scripted, Setup, eventually, within};

for_each_engine! {
    a_server_is_told_of_the_client_before_anything_else,
    what_the_proxy_in_front_has_told_goes_on,
    the_clients_tls_is_told_of,
    who_a_client_has_proved_to_be_is_told,
    the_header_comes_before_tls_to_the_server,
    a_websocket_tells_of_its_client,
    no_two_clients_share_a_connection,
    clients_behind_a_proxy_share_none_either,
    streams_of_a_connection_tell_of_its_client,
    a_server_that_refuses_gives_way_to_another,
    a_server_may_close_behind_its_answer,
    a_reload_says_anew_what_servers_are_told,
}

for_the_relay! {
    requests_of_a_connection_go_over_one_to_the_server,
    a_websocket_over_http_2_tells_of_its_client,
}

const BOTH: [&str; 2] = ["v1", "v2"];

/// A header as a server has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    bytes: Vec<u8>,
}

impl Heard {
    /// Reads a header; `None` where none comes.
    async fn read(client: &mut Client) -> Option<Self> {
        let mut bytes = client.some_of(12).await?;
        if bytes.starts_with(b"PROXY ") {
            bytes.extend(client.some_until(b"\r\n").await?);
        } else {
            bytes.extend(client.some_of(4).await?);
            let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
            bytes.extend(client.some_of(length).await?);
        }
        Some(Self { bytes })
    }

    /// Whether it is one of the gateway's own connections, said in this version.
    fn is_own(&self, version: &str) -> bool {
        self.bytes == if version == "v1" { b"PROXY UNKNOWN\r\n".to_vec() } else { binary(0x20, 0, b"") }
    }

    /// The values of version 2 behind IPv4 addresses, but for the checksum, which is looked at.
    fn values(&self) -> Vec<(u8, Vec<u8>)> {
        let (mut values, mut at) = (Vec::new(), 28);
        while at < self.bytes.len() {
            let length = usize::from(u16::from_be_bytes([self.bytes[at + 1], self.bytes[at + 2]]));
            let (kind, value) = (self.bytes[at], &self.bytes[at + 3..at + 3 + length]);
            if kind == CRC32C {
                let mut zeroed = self.bytes.clone();
                zeroed[at + 3..at + 7].fill(0);
                assert_eq!(value, crc32c(&zeroed).to_be_bytes());
            } else {
                values.push((kind, value.to_vec()));
            }
            at += 3 + length;
        }
        values
    }

    fn value(&self, kind: u8) -> Option<Vec<u8>> {
        self.values().into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// Expects these two, in this version.
    fn assert_tells(&self, version: &str, client: &str, reached: &str) {
        if version == "v1" {
            assert_eq!(String::from_utf8_lossy(&self.bytes), String::from_utf8(v1(client, reached)).unwrap());
        } else {
            let expected = v2(client, reached, &[]);
            assert_eq!((&self.bytes[..14], &self.bytes[16..28]), (&expected[..14], &expected[16..28]));
        }
    }
}

/// A server that passes on what headers it was told, then echoes HTTP.
struct Server {
    at: Scripted,
    heard: UnboundedReceiver<Heard>,
}

impl Server {
    async fn start() -> Self {
        Self::serving(|client| echo("a", client)).await
    }

    async fn serving<F>(serve: impl Fn(Client) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tell, heard) = unbounded_channel();
        let at = Scripted::start(move |mut client, _| {
            let (tell, serve) = (tell.clone(), serve.clone());
            async move {
                if let Some(header) = Heard::read(&mut client).await
                    && tell.send(header).is_ok()
                {
                    serve(client).await;
                }
            }
        })
        .await;
        Self { at, heard }
    }

    fn address(&self) -> SocketAddr {
        self.at.address()
    }

    /// The header of the next connection.
    async fn told(&mut self) -> Heard {
        within("a header", self.heard.recv()).await.unwrap()
    }

    /// Before this one, which is not checked.
    fn setup(&self, version: &str) -> Setup {
        Setup::before(&[self.address()]).unchecked().upstream(format!("proxy_protocol: {version}"))
    }
}

/// A connection to the listener `web`, and its two addresses.
async fn connect(gateway: &Gateway) -> (Client, String, String) {
    let address = gateway.address("web");
    let stream = tcp(address).await;
    let own = stream.local_addr().unwrap().to_string();
    (Client::over(stream), own, address.to_string())
}

async fn a_server_is_told_of_the_client_before_anything_else() {
    for version in BOTH {
        let mut server = Server::start().await;
        let gateway = server.setup(version).start().await;
        let (mut client, own, reached) = connect(&gateway).await;
        let text = client.post("/", b"body").await.text();
        assert!(text.starts_with("a\nPOST / HTTP/1.1\r\n") && text.ends_with("\r\n\r\nbody"), "{text}");
        let told = server.told().await;
        told.assert_tells(version, &own, &reached);
        if version == "v2" {
            let id = text.lines().find_map(|line| line.strip_prefix("X-Request-Id: ")).unwrap();
            assert_eq!(told.values(), [(UNIQUE_ID, id.as_bytes().to_vec())], "and nothing of TLS");
        }
    }
}

async fn what_the_proxy_in_front_has_told_goes_on() {
    let values: [(u8, &[u8]); 4] =
        [(ALPN, b"h2"), (AUTHORITY, b"a.test"), (UNIQUE_ID, b"of the proxy"), (SSL, OVER_TLS)];
    for version in BOTH {
        let mut server = Server::start().await;
        let setup = server.setup(version).listener("proxy_protocol: required");
        let gateway = setup.more("forwarding: { trusted_proxies: [127.0.0.1/32] }").start().await;
        let mut client = gateway.client().await;
        client.send(v2(CLIENT, REACHED, &values)).await;
        assert_eq!(client.get("/").await.status, 200);
        let told = server.told().await;
        told.assert_tells(version, CLIENT, REACHED);
        if version == "v2" {
            assert_eq!(told.values(), values.map(|(kind, value)| (kind, value.to_vec())));
        }
        // Addresses of two families are written in one.
        let mut client = gateway.client().await;
        client.send(v1("[2001:db8::9]:5", "[2001:db8::1]:443")).await;
        let text = client.get_with("/", "X-Forwarded-For: 192.0.2.1\r\n").await.text();
        assert!(text.contains("X-Forwarded-For: 2001:db8::9\r\n"), "{text}");
        let told = server.told().await.bytes;
        let expected = match version {
            "v1" => b"PROXY TCP6 2001:db8::9 2001:db8::1 5 443\r\n".to_vec(),
            _ => v2("[2001:db8::9]:5", "[2001:db8::1]:443", &[])[16..].to_vec(),
        };
        assert!(told.windows(expected.len()).any(|part| part == expected), "{told:?}");
    }
}

async fn the_clients_tls_is_told_of() {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let mut server = Server::start().await;
    let tls = format!("tls: {{ certificates: [{}] }}", certificate.yaml());
    let gateway = server.setup("v2").listener(tls).start().await;
    for alpn in ["h2", "http/1.1"] {
        let stream = authority.client(&[alpn]).connect(gateway.address("web"), "a.test").await.unwrap();
        if alpn == "h2" {
            assert_eq!(Http2::over(stream).await.get("https://a.test/").await.status(), 200);
        } else {
            assert_eq!(Client::over(stream).get("/").await.status, 200);
        }
        let told = server.told().await;
        assert_eq!(told.value(ALPN).unwrap(), alpn.as_bytes());
        assert_eq!((told.value(AUTHORITY), told.value(SSL)), (Some(b"a.test".to_vec()), Some(OVER_TLS.to_vec())));
    }
}

async fn who_a_client_has_proved_to_be_is_told() {
    let authority = Authority::new();
    let client = authority.sign_with(&["client.test"], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "Ann Example");
    });
    let mut server = Server::start().await;
    let asked = format!("client_certificates: {{ ca: {}, mode: optional }}", authority.ca());
    let tls = format!("tls: {{ certificates: [{}], {asked} }}", authority.sign(&["a.test"]).yaml());
    let gateway = server.setup("v2").listener(tls).start().await;
    let shows = authority.client_showing(&client, &[&rustls::version::TLS13]);
    let stream = shows.connect(gateway.address("web"), "a.test").await.unwrap();
    assert_eq!(Client::over(stream).get("/").await.status, 200);
    let value = server.told().await.value(SSL).unwrap();
    assert_eq!(value[..5], [0x07, 0, 0, 0, 0], "over TLS, with a certificate that holds");
    let name = [&[0x22, 0, 11][..], b"Ann Example"].concat();
    assert!(value.windows(name.len()).any(|part| part == name), "{value:x?}");
    let stream = authority.client(&["http/1.1"]).connect(gateway.address("web"), "a.test").await.unwrap();
    assert_eq!(Client::over(stream).get("/").await.status, 200);
    assert_eq!(server.told().await.value(SSL), Some(OVER_TLS.to_vec()), "without one");
}

async fn the_header_comes_before_tls_to_the_server() {
    let authority = Authority::new();
    let shown = authority.server(&authority.sign(&["127.0.0.1"]), false);
    for version in BOTH {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let setup = Setup::before(&[listener.local_addr().unwrap()]).unchecked();
        let setup = setup.upstream(format!("proxy_protocol: {version}, tls: {{ ca: {} }}", authority.ca()));
        let gateway = setup.start().await;
        let (mut client, own, reached) = connect(&gateway).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
        let told = read_plain(&mut stream, version).await;
        told.assert_tells(version, &own, &reached);
        let server = tls::accept(stream, Arc::clone(&shown)).await.expect("a handshake behind the header");
        let serving = tokio::spawn(echo("a", server));
        assert_eq!(client.answer().await.header("x-server"), Some("a"));
        serving.abort();
    }
}

/// Reads a header and not a byte more.
async fn read_plain(stream: &mut TcpStream, version: &str) -> Heard {
    let mut bytes = Vec::new();
    let ends = |bytes: &[u8]| match version {
        "v1" => bytes.ends_with(b"\r\n"),
        _ => bytes.len() >= 16 && bytes.len() == 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])),
    };
    while !ends(&bytes) {
        bytes.push(within("the header", stream.read_u8()).await.unwrap());
    }
    Heard { bytes }
}

async fn a_websocket_tells_of_its_client() {
    for version in BOTH {
        let mut server = Server::start().await;
        let gateway = server.setup(version).start().await;
        let (client, own, reached) = connect(&gateway).await;
        let mut socket = opened(client, "/").await;
        echoes(&mut socket).await;
        server.told().await.assert_tells(version, &own, &reached);
    }
}

/// A server that notes by which connections requests come, as the value of `X-Client`, after the header of each.
async fn noting() -> (Server, Arc<Mutex<Vec<(usize, String)>>>) {
    let noted = Arc::<Mutex<Vec<(usize, String)>>>::default();
    let notes = Arc::clone(&noted);
    let connections = Arc::<Mutex<usize>>::default();
    let server = Server::serving(move |mut client| {
        let notes = Arc::clone(&notes);
        let number = {
            let mut connections = connections.lock().unwrap();
            *connections += 1;
            *connections - 1
        };
        async move {
            while let Some(request) = client.request().await {
                let head = String::from_utf8(request.head).unwrap().to_ascii_lowercase();
                let whose = head.lines().find_map(|line| line.strip_prefix("x-client: ")).unwrap();
                notes.lock().unwrap().push((number, whose.to_owned()));
                let _ = client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (server, noted)
}

async fn no_two_clients_share_a_connection() {
    let (mut server, noted) = noting().await;
    let gateway = server.setup("v1").upstream("timeouts: { keep_alive: 60s }").start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connect(&gateway).await);
    }
    for _ in 0..3 {
        for (client, own, _) in &mut clients {
            assert_eq!(client.get_with("/", &format!("X-Client: {own}\r\n")).await.status, 200);
        }
    }
    assert_told_apart(&mut server, &noted, 12, |told, whose| {
        let (ip, port) = whose.rsplit_once(':').unwrap();
        told.contains(&format!(" {ip} ")) && told.contains(&format!(" {port} "))
    })
    .await;
}

async fn clients_behind_a_proxy_share_none_either() {
    let (mut server, noted) = noting().await;
    let setup = server.setup("v1").upstream("timeouts: { keep_alive: 60s }");
    let gateway = setup.more("forwarding: { trusted_proxies: [127.0.0.1/32] }").start().await;
    let mut proxy = gateway.client().await;
    for _ in 0..3 {
        for client in ["203.0.113.1", "203.0.113.2"] {
            let fields = format!("X-Forwarded-For: {client}\r\nX-Client: {client}\r\n");
            assert_eq!(proxy.get_with("/", &fields).await.status, 200);
        }
    }
    // Of the ports nothing is known.
    assert_told_apart(&mut server, &noted, 6, |told, whose| {
        told.starts_with(&format!("PROXY TCP4 {whose} 127.0.0.1 0 "))
    })
    .await;
}

async fn streams_of_a_connection_tell_of_its_client() {
    let (mut server, noted) = noting().await;
    let gateway = server.setup("v1").upstream("timeouts: { keep_alive: 60s }").start().await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let stream = tcp(gateway.address("web")).await;
        let own = stream.local_addr().unwrap().to_string();
        clients.push((Http2::over(stream).await, own));
    }
    for _ in 0..3 {
        for (client, own) in &clients {
            let request = Request::get("http://a.test/").header("x-client", own).body(()).unwrap();
            assert_eq!(client.ask(request, "").await.status(), 200);
        }
    }
    assert_told_apart(&mut server, &noted, 6, |told, whose| {
        let port = whose.rsplit_once(':').unwrap().1;
        told.contains(&format!(" {port} "))
    })
    .await;
}

/// Expects so many requests, each by a connection whose header tells of its client.
async fn assert_told_apart(
    server: &mut Server,
    noted: &Mutex<Vec<(usize, String)>>,
    requests: usize,
    tells_of: impl Fn(&str, &str) -> bool,
) {
    let noted = noted.lock().unwrap().clone();
    assert_eq!(noted.len(), requests);
    let mut headers: Vec<String> = Vec::new();
    for (connection, whose) in noted {
        while headers.len() <= connection {
            headers.push(String::from_utf8(server.told().await.bytes).unwrap());
        }
        assert!(tells_of(&headers[connection], &whose), "{whose} by a connection of {}", headers[connection]);
    }
}

async fn a_server_that_refuses_gives_way_to_another() {
    let (refusing, mut server) = (Refusing::new(), Server::start().await);
    let setup = Setup::before(&[refusing.address(), server.address()]).unchecked();
    let gateway = setup.upstream("proxy_protocol: v1, ejection: { failures: 0 }").start().await;
    for _ in 0..4 {
        let (mut client, own, reached) = connect(&gateway).await;
        assert_eq!(client.get("/").await.status, 200);
        server.told().await.assert_tells("v1", &own, &reached);
    }
    gateway.access_line(&["tries=2"]).await;
}

async fn a_server_may_close_behind_its_answer() {
    let mut server = Server::serving(|mut client| async move {
        if client.request().await.is_some() {
            let _ = client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gateway = server.setup("v1").start().await;
    let (mut client, own, reached) = connect(&gateway).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
        server.told().await.assert_tells("v1", &own, &reached);
    }
}

async fn a_reload_says_anew_what_servers_are_told() {
    let first_bytes = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let seen = Arc::clone(&first_bytes);
    let server = Scripted::start(move |mut client, _| {
        let seen = Arc::clone(&seen);
        async move {
            let Some(start) = client.some_until(b"\r\n").await else { return };
            seen.lock().unwrap().push(start);
            while client.some_until(b"\r\n\r\n").await.is_some() {
                let _ = client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let setup = Setup::before(&[server.address()]).unchecked().upstream("timeouts: { keep_alive: 60s }");
    let mut gateway = setup.start().await;
    let (mut client, own, reached) = connect(&gateway).await;
    assert_eq!(client.get("/").await.status, 200);
    for yaml in [setup.clone().upstream("proxy_protocol: v1").yaml(), setup.yaml()] {
        assert_eq!(gateway.reload(&yaml).await.status, 200);
        assert_eq!(client.get("/").await.status, 200);
    }
    let seen = first_bytes.lock().unwrap();
    let starts: Vec<_> = seen.iter().map(|start| String::from_utf8_lossy(start)).collect();
    let told = String::from_utf8(v1(&own, &reached)).unwrap();
    assert_eq!(starts, ["GET / HTTP/1.1\r\n", &told, "GET / HTTP/1.1\r\n"], "each by a connection of its own");
}

async fn requests_of_a_connection_go_over_one_to_the_server() {
    let others = Server::start().await;
    let server = Server::start().await;
    let setup = Setup::before(&[others.address(), server.address()]).unchecked();
    let setup = setup.upstream("proxy_protocol: v2, timeouts: { keep_alive: 60s }");
    let gateway = setup.start().await;
    let (mut client, ..) = connect(&gateway).await;
    for _ in 0..8 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(others.at.accepted() + server.at.accepted(), 1);
}

async fn a_websocket_over_http_2_tells_of_its_client() {
    for version in BOTH {
        let mut server = Server::start().await;
        let gateway = server.setup(version).listener("http2_websockets: true").start().await;
        let reached = gateway.address("web");
        let stream = tcp(reached).await;
        let own = stream.local_addr().unwrap().to_string();
        let client = Http2::over(stream).await;
        assert_eq!(client.get("http://a.test/").await.status(), 200);
        server.told().await.assert_tells(version, &own, &reached.to_string());
        let mut request = Request::connect("http://a.test/").header("sec-websocket-version", "13").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let mut socket = client.websocket(request).await;
        echoes(&mut socket).await;
        server.told().await.assert_tells(version, &own, &reached.to_string());
    }
}

#[tokio::test]
async fn raw_connections_tell_of_their_clients() {
    for version in BOTH {
        let mut server = Server::serving(greet).await;
        let gateway = Gateway::start(&format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
upstreams:
  raw: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }}, proxy_protocol: {version} }}
",
            server.address()
        ))
        .await;
        let (mut client, own, reached) = connect(&gateway).await;
        assert_eq!(client.read(6).await, b"hello ");
        client.send("raw").await;
        assert_eq!(client.read(3).await, b"raw", "nothing is lost on the way");
        let told = server.told().await;
        told.assert_tells(version, &own, &reached);
        if version == "v2" {
            assert_eq!(told.values(), []);
        }
    }
}

#[tokio::test]
async fn checks_say_that_they_are_the_gateways_own() {
    for version in BOTH {
        for check in ["tcp", "http", "engine.io"] {
            let mut server = Server::start().await;
            let setup = Setup::before(&[server.address()]);
            let gateway = setup
                .upstream(format!("proxy_protocol: {version}, health: {{ check: {check}, interval: 1s }}"))
                .start_unready()
                .await;
            assert!(server.told().await.is_own(version), "{check}");
            if check != "engine.io" {
                eventually("the server is up", async || gateway.admin("/readyz").await.status == 200).await;
            }
        }
    }
}

/// A server of Engine.IO sessions, which has the session `there` or none.
async fn with_session(there: bool) -> Server {
    Server::serving(move |mut client| async move {
        while let Some(request) = client.request().await {
            let head = String::from_utf8(request.head).unwrap();
            let known = there && (head.contains("sid=there ") || head.contains("sid=there&"));
            let (status, body) = match (known, head.contains("transport=websocket")) {
                (false, _) => ("400 Bad Request", "{\"code\":1,\"message\":\"Session ID unknown\"}"),
                (true, true) => ("400 Bad Request", "{\"code\":3,\"message\":\"Bad request\"}"),
                (true, false) => ("200 OK", "4b"),
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = client.try_send(answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn questions_about_sessions_are_the_gateways_own_and_requests_are_their_clients() {
    for version in BOTH {
        let (mut home, other) = (with_session(true).await, with_session(false).await);
        let setup = Setup::before(&[home.address(), other.address()]).unchecked();
        let gateway = setup.upstream(format!("kind: socket.io, proxy_protocol: {version}")).start().await;
        let (mut client, own, reached) = connect(&gateway).await;
        let answer = client.get("/socket.io/?EIO=4&transport=polling&sid=there").await;
        assert_eq!((answer.status, answer.text()), (200, "4b".to_owned()));
        let mut told = home.told().await;
        assert!(told.is_own(version), "the question comes before the request");
        while told.is_own(version) {
            told = home.told().await;
        }
        told.assert_tells(version, &own, &reached);
    }
}
