//! What trusted proxies in front tell of clients, whoever may not, and what comes of headers that are none.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, UnixStream};

use super::{AUTHORITY, CLIENT, OVER_TLS, REACHED, SSL, UNIQUE_ID, binary, v1, v2};
use crate::support::client::{is_reset, tcp};
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::server::{echo, greet};
use crate::support::tls::Authority;
use crate::support::websocket::{echoes, opened};
use crate::support::{Client, Echo, Gateway, Scripted, Setup, eventually};

for_each_engine! {
    the_client_is_who_the_header_tells_of,
    what_is_told_of_a_proxys_own_connection_is_nothing,
    the_header_comes_before_tls_and_http_2,
    tls_that_ended_before_the_gateway_is_told_of,
    a_websocket_is_its_clients,
    a_stranger_gains_nothing_by_a_header,
    where_a_header_is_required_strangers_are_refused,
    fields_of_a_client_are_believed_as_those_of_its_own_connection,
}

/// The tests connect from 127.0.0.1, and as strangers from other addresses.
const TRUSTED: &str = "forwarding: { trusted_proxies: [127.0.0.1/32] }";

/// Before this server, with a word for `proxy_protocol`.
fn setup(word: &str, server: &Echo) -> Setup {
    Setup::before(&[server.address()]).unchecked().listener(format!("proxy_protocol: {word}")).more(TRUSTED)
}

async fn gateway(word: &str) -> (Echo, Gateway) {
    let server = Echo::start("a").await;
    let gateway = setup(word, &server).start().await;
    (server, gateway)
}

/// A connection that begins with a header.
async fn told(gateway: &Gateway, header: &[u8]) -> Client {
    let mut client = gateway.client().await;
    client.send(header).await;
    client
}

async fn headers(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("sockgate_proxy_headers_total{{listener=\"web\",result=\"{result}\"}}")).await
}

async fn the_client_is_who_the_header_tells_of() {
    let (_server, gateway) = gateway("required").await;
    let sixth = ("[2001:db8::9]:51234", "[2001:db8::1]:4443");
    let mut heard = 0.0;
    for (client, reached) in [(CLIENT, REACHED), sixth] {
        let address = client.trim_end_matches(":51234").trim_matches(['[', ']']);
        for header in [v1(client, reached), v2(client, reached, &[(0xE0, b"somebody's own")])] {
            let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let mut client = told(&gateway, &[&header[..], request].concat()).await;
            for request in 0..2 {
                let text = if request == 0 { client.answer().await } else { client.get("/").await }.text();
                for field in ["X-Forwarded-For", "X-Real-IP"] {
                    assert!(text.contains(&format!("\r\n{field}: {address}\r\n")), "{text}");
                }
                assert!(text.contains("\r\nX-Forwarded-Port: 4443\r\n"), "{text}");
            }
            gateway.access_line(&[&format!("client={address}")]).await;
            heard += 1.0;
            assert_eq!(headers(&gateway, "client").await, heard);
        }
    }
}

async fn what_is_told_of_a_proxys_own_connection_is_nothing() {
    let (_server, gateway) = gateway("required").await;
    let datagrams = binary(0x21, 0x12, &[7; 12]);
    for (header, result) in [
        (b"PROXY UNKNOWN\r\n".to_vec(), "unknown"),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), "unknown"),
        (binary(0x20, 0, b""), "local"),
        (binary(0x20, 0x11, &[7; 12]), "local"),
        (datagrams, "unknown"),
        (binary(0x21, 0x31, &[7; 216]), "unknown"),
    ] {
        let before = headers(&gateway, result).await;
        let text = told(&gateway, &header).await.get("/").await.text();
        assert!(text.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"), "{header:?}: {text}");
        assert_eq!(headers(&gateway, result).await, before + 1.0, "{header:?}");
    }
}

async fn the_header_comes_before_tls_and_http_2() {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let server = Echo::start("a").await;
    let tls = format!("tls: {{ certificates: [{}] }}", certificate.yaml());
    let gateway = setup("required", &server)
        .listener(&tls)
        .another_listener(format!(
            "name: both, proxy_protocol: required, {tls}, detect: {{ plain: true, inspect_delay: 10s }}"
        ))
        .start()
        .await;
    for header in [v1(CLIENT, REACHED), v2(CLIENT, REACHED, &[])] {
        for listener in ["web", "both"] {
            for alpn in [&["h2"][..], &["http/1.1"]] {
                let mut stream = tcp(gateway.address(listener)).await;
                stream.write_all(&header).await.unwrap();
                let stream = authority.client(alpn).over(stream, "a.test").await.unwrap();
                let text = if alpn == ["h2"] {
                    let answer = Http2::over(stream).await.get("https://a.test/").await;
                    String::from_utf8(answer.into_body()).unwrap()
                } else {
                    Client::over(stream).get("/").await.text()
                };
                // Names over HTTP/2 have no capitals.
                let text = text.to_ascii_lowercase();
                assert!(text.contains("\r\nx-forwarded-for: 203.0.113.9\r\n"), "{listener}, {alpn:?}: {text}");
                assert!(text.contains("\r\nx-forwarded-proto: https\r\n"), "{listener}, {alpn:?}: {text}");
            }
        }
        let mut plain = Client::connect(gateway.address("both")).await;
        plain.send(&header).await;
        assert!(plain.get("/").await.text().contains("\r\nX-Forwarded-For: 203.0.113.9\r\n"));
        let mut stream = tcp(gateway.address("both")).await;
        stream.write_all(&header).await.unwrap();
        let answer = Http2::over(stream).await.get("http://a.test/").await;
        let text = String::from_utf8_lossy(answer.body()).to_ascii_lowercase();
        assert!(text.contains("\r\nx-forwarded-for: 203.0.113.9\r\n"), "{text}");
    }
}

async fn tls_that_ended_before_the_gateway_is_told_of() {
    let (_server, gateway) = gateway("required").await;
    let id: &[u8] = b"7B2A:C821_cb00:4443";
    for (tlvs, scheme, line) in [
        (&[(SSL, OVER_TLS), (AUTHORITY, b"a.test"), (UNIQUE_ID, id)][..], "https", "id=7B2A:C821_cb00:4443"),
        (&[(SSL, b"\0\0\0\0\x01"), (UNIQUE_ID, b"\x01\xff")], "http", "id=01ff"),
    ] {
        let mut client = told(&gateway, &v2(CLIENT, REACHED, tlvs)).await;
        let text = client.get(&format!("/{scheme}")).await.text();
        assert!(text.contains(&format!("\r\nX-Forwarded-Proto: {scheme}\r\n")), "{text}");
        let line = gateway.access_line(&[&format!("target=/{scheme}"), &format!("unique_{line}")]).await;
        assert_eq!(line.contains(" tls=true"), scheme == "https", "{line}");
    }
}

async fn a_websocket_is_its_clients() {
    let (_server, gateway) = gateway("required").await;
    for header in [v1(CLIENT, REACHED), v2(CLIENT, REACHED, &[])] {
        let mut socket = opened(told(&gateway, &header).await, "/").await;
        echoes(&mut socket).await;
        drop(socket);
        gateway.access_line(&["event=close", "protocol=WebSocket", "client=203.0.113.9"]).await;
    }
}

async fn a_stranger_gains_nothing_by_a_header() {
    for (word, from) in [("from_trusted", 2), ("off", 1)] {
        let (_server, gateway) = gateway(word).await;
        for header in [v1(CLIENT, REACHED), v2(CLIENT, REACHED, &[])] {
            let mut stranger = Client::connect_from(from, gateway.address("web")).await;
            stranger.send([&header[..], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat()).await;
            assert_eq!(stranger.answer().await.status, 400, "{word}: it is no request");
        }
        let mut stranger = Client::connect_from(from, gateway.address("web")).await;
        let text = stranger.get("/").await.text();
        assert!(text.contains(&format!("\r\nX-Forwarded-For: 127.0.0.{from}\r\n")), "{word}: {text}");
        assert!(gateway.access_lines().iter().all(|line| !line.contains("203.0.113.9")));
    }
    let (_server, gateway) = gateway("from_trusted").await;
    let text = told(&gateway, &v1(CLIENT, REACHED)).await.get("/").await.text();
    assert!(text.contains("\r\nX-Forwarded-For: 203.0.113.9\r\n"), "who is trusted is believed: {text}");
    let mut silent = told(&gateway, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(silent.read_all().await.is_empty(), "and has to say it");
    assert_eq!(headers(&gateway, "missing").await, 1.0);
}

async fn where_a_header_is_required_strangers_are_refused() {
    let (_server, gateway) = gateway("required").await;
    for word in [v1(CLIENT, REACHED), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        // The reset may come as early as that.
        let Ok(stranger) = socket.connect(gateway.address("web")).await else { continue };
        let mut stranger = Client::over(stranger);
        let _ = stranger.try_send(word).await;
        assert!(stranger.read_all().await.is_empty());
    }
    let line = gateway.log_line("no PROXY header of 127.0.0.2").await;
    assert!(line.ends_with(": stranger"), "{line}");
    eventually("both are counted", async || headers(&gateway, "stranger").await == 2.0).await;
    assert_eq!(gateway.metric("sockgate_connections_total{listener=\"web\"}").await, 0.0);
}

/// What a visitor says of itself is no better by way of a proxy that knows nothing of HTTP; what a trusted proxy says
/// before that one is.
async fn fields_of_a_client_are_believed_as_those_of_its_own_connection() {
    let server = Echo::start("a").await;
    let gateway = Setup::before(&[server.address()])
        .unchecked()
        .listener("proxy_protocol: required")
        .more("forwarding: { trusted_proxies: [127.0.0.1/32, 192.0.2.0/24] }")
        .start()
        .await;
    for (client, chain, real) in
        [("203.0.113.9:1", "203.0.113.9", "203.0.113.9"), ("192.0.2.7:1", "198.51.100.8, 192.0.2.7", "198.51.100.8")]
    {
        let mut client = told(&gateway, &v1(client, REACHED)).await;
        let text = client.get_with("/", "X-Forwarded-For: 198.51.100.8\r\n").await.text();
        assert!(text.contains(&format!("\r\nX-Forwarded-For: {chain}\r\n")), "{text}");
        assert!(text.contains(&format!("\r\nX-Real-IP: {real}\r\n")), "{text}");
    }
}

/// A gateway that waits for no more than a second for headers.
async fn hasty() -> (Echo, Gateway) {
    let server = Echo::start("a").await;
    let gateway = setup("required", &server).more("timeouts: { head: 1s }").start().await;
    (server, gateway)
}

#[tokio::test]
async fn what_is_no_header_ends_the_connection_and_says_why() {
    let (server, gateway) = hasty().await;
    let wrong_sum = v2(CLIENT, REACHED, &[(0x03, &[1, 2, 3, 4])]);
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (word, starts) in [
        ("missing", vec![request.to_vec(), b"\x16\x03\x01\x02\0\x01\0".to_vec(), b"proxy TCP4 ".to_vec()]),
        (
            "malformed",
            vec![
                b"PROXY TCP4 203.0.113.9 198.51.100.1 51234\r\n".to_vec(),
                b"PROXY TCP4 203.0.113.999 198.51.100.1 51234 443\r\n".to_vec(),
                b"PROXY TCP4 203.0.113.9 198.51.100.1 51234 443\n".to_vec(),
                binary(0x11, 0x11, &[0; 12]),
                binary(0x21, 0x11, &[0; 11]),
                v2(CLIENT, REACHED, &[(UNIQUE_ID, b"a"), (UNIQUE_ID, b"b")]),
            ],
        ),
        ("too_long", vec![[b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat(), binary(0x21, 0x11, &[0; 4081])]),
        ("checksum", vec![wrong_sum]),
        ("late", vec![v1(CLIENT, REACHED)[..20].to_vec(), v2(CLIENT, REACHED, &[])[..27].to_vec(), Vec::new()]),
    ] {
        for (before, start) in starts.iter().enumerate() {
            let mut client = told(&gateway, start).await;
            if word != "late" {
                // What follows does not help.
                let _ = client.try_send(request).await;
            }
            assert_eq!(client.read_all().await, b"", "{word}: {start:?}");
            let expected = before as f64 + 1.0;
            eventually(word, async || headers(&gateway, word).await == expected).await;
        }
        gateway.log_line(&format!(": {word}")).await;
    }
    let mut early = told(&gateway, b"PROXY ").await;
    early.finish().await;
    assert_eq!(early.read_all().await, b"");
    eventually("who leaves early is counted", async || headers(&gateway, "gone").await == 1.0).await;
    let warnings = gateway.log_lines("no PROXY header").into_iter().filter(|line| line.contains("WARN"));
    assert_eq!(warnings.count(), 1, "once in a while is enough");
    assert_eq!(server.accepted(), 0);
    assert!(gateway.access_lines().is_empty());
    let none_open = async || gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 0.0;
    eventually("every place is given back", none_open).await;
}

/// Many at once: while the first parts of all others are written, each waits for its second.
#[tokio::test]
async fn a_header_may_come_in_any_two_parts() {
    let (_server, gateway) = gateway("required").await;
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for header in [v1(CLIENT, REACHED), v2(CLIENT, REACHED, &[(UNIQUE_ID, b"abc")])] {
        let all = [&header[..], request].concat();
        let mut clients = Vec::new();
        for split in 1..header.len() + 2 {
            clients.push((told(&gateway, &all[..split]).await, &all[split..]));
        }
        for (mut client, rest) in clients {
            client.send(rest).await;
            let text = client.answer().await.text();
            assert!(text.contains("\r\nX-Forwarded-For: 203.0.113.9\r\n"), "{}: {text}", rest.len());
        }
    }
}

#[tokio::test]
async fn a_header_of_the_longest_kind_is_read() {
    let (_server, gateway) = gateway("required").await;
    // 16 and 12 bytes, and those of the value's own.
    let header = v2(CLIENT, REACHED, &[(0x04, &vec![0; 4096 - 28 - 3])]);
    assert_eq!(header.len(), 4096);
    let text = told(&gateway, &header).await.get("/").await.text();
    assert!(text.contains("\r\nX-Forwarded-For: 203.0.113.9\r\n"), "{text}");
}

#[tokio::test]
async fn raw_connections_and_silent_ones_are_their_clients() {
    let raw = Scripted::start(|client, _| greet(client)).await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw, proxy_protocol: required }}
  - name: mixed
    address: 127.0.0.1:0
    proxy_protocol: required
    detect: {{ tcp: raw, inspect_delay: 300ms }}
routes:
  - respond: {{ status: 204 }}
upstreams:
  raw: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }} }}
{TRUSTED}
",
        raw.address()
    ))
    .await;
    for (listener, client) in [("raw", "203.0.113.9:1"), ("mixed", "203.0.113.10:1")] {
        let address = client.trim_end_matches(":1");
        for header in [v1(client, REACHED), v2(client, REACHED, &[])] {
            let mut client = Client::connect(gateway.address(listener)).await;
            client.send(header).await;
            assert_eq!(client.read(6).await, b"hello ", "{listener}: silence is told by what follows the header");
            client.send("raw").await;
            assert_eq!(client.read(3).await, b"raw");
            drop(client);
            gateway.access_line(&["event=close", "protocol=TCP", "bytes_in=3", &format!("client={address}")]).await;
        }
    }
}

#[tokio::test]
async fn peers_on_unix_sockets_count_as_local_ones() {
    let folder = tempfile::tempdir().unwrap();
    let front = folder.path().join("front");
    let server = Scripted::start(|client, _| echo("a", client)).await;
    let setup = Setup::before(&[server.address()]).unchecked().at(format!("unix:{}", front.display()));
    let gateway = setup.listener("proxy_protocol: required").more(TRUSTED).start().await;
    for header in [v1(CLIENT, REACHED), v2(CLIENT, REACHED, &[])] {
        let mut clients = Vec::new();
        for split in [header.len(), 1, header.len() - 1] {
            let mut client = Client::over(UnixStream::connect(&front).await.unwrap());
            client.send(&header[..split]).await;
            clients.push((client, &header[split..]));
        }
        for (mut client, rest) in clients {
            client.send(rest).await;
            let text = client.get("/").await.text();
            assert!(text.contains("\r\nX-Forwarded-For: 203.0.113.9\r\n"), "{text}");
        }
    }
    let mut silent = Client::over(UnixStream::connect(&front).await.unwrap());
    silent.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(silent.read_all().await, b"");
    gateway.log_line(": missing").await;
}

#[tokio::test]
async fn places_are_counted_by_who_is_told_of_and_not_by_the_proxy() {
    let server = Echo::start("a").await;
    let setup = setup("from_trusted", &server).more("limits: { connections_per_address: 2 }");
    let gateway = setup.start().await;
    let one = v1("203.0.113.1:5", REACHED);
    let mut open = Vec::new();
    for client in ["203.0.113.1:1", "203.0.113.1:2", "203.0.113.2:1", "203.0.113.2:2"] {
        let mut client = told(&gateway, &v2(client, REACHED, &[])).await;
        assert_eq!(client.get("/").await.status, 200);
        open.push(client);
    }
    let mut third = told(&gateway, &one).await;
    assert_eq!(third.answer().await.status, 503, "before it has asked");
    let refused = "sockgate_connections_refused_total{limit=\"address\",listener=\"web\"}";
    assert_eq!(gateway.metric(refused).await, 1.0);
    drop(open.remove(0));
    eventually("its place is given back", async || {
        let mut client = told(&gateway, &one).await;
        client.try_ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stranger = Client::connect_from(2, gateway.address("web")).await;
        assert_eq!(stranger.get("/").await.status, 200);
        strangers.push(stranger);
    }
    let mut third = Client::connect_from(2, gateway.address("web")).await;
    assert_eq!(third.answer().await.status, 503, "others are counted by their own address");
}

#[tokio::test]
async fn a_client_stays_on_its_server_whichever_proxy_tells_of_it() {
    let servers = [Echo::start("a").await, Echo::start("b").await, Echo::start("c").await];
    let gateway =
        Setup::before_named([("a", servers[0].address()), ("b", servers[1].address()), ("c", servers[2].address())])
            .unchecked()
            .upstream("balance: client_ip")
            .listener("proxy_protocol: required")
            .more("forwarding: { trusted_proxies: [127.0.0.0/8] }")
            .start()
            .await;
    let mut homes = std::collections::BTreeSet::new();
    for client in 0..24 {
        let header = v1(&format!("203.0.113.{client}:{}", 1000 + client), REACHED);
        let mut home = None;
        for proxy in [1, 2, 3] {
            let mut proxied = Client::connect_from(proxy, gateway.address("web")).await;
            proxied.send(&header).await;
            let server = proxied.get("/").await.header("x-server").unwrap().to_owned();
            assert_eq!(*home.get_or_insert(server.clone()), server, "client {client}");
        }
        homes.extend(home);
    }
    assert_eq!(homes.len(), 3, "and not all of them are on the server of the proxy");
}

#[tokio::test]
async fn a_reload_says_anew_who_tells_of_clients() {
    let server = Echo::start("a").await;
    let setup_of = |word: &str, trusted: &str| {
        let setup = Setup::before(&[server.address()]).unchecked();
        let setup = setup.listener(format!("proxy_protocol: {word}"));
        setup.more(format!("forwarding: {{ trusted_proxies: [{trusted}] }}")).yaml()
    };
    let mut gateway = Gateway::start(&setup_of("off", "192.0.2.1/32")).await;
    let mut before = gateway.client().await;
    assert_eq!(before.get("/").await.status, 200);
    assert_eq!(gateway.reload(&setup_of("required", "192.0.2.1/32")).await.status, 200);
    assert!(is_reset(gateway.address("web")).await, "it is a stranger now");
    assert_eq!(gateway.reload(&setup_of("required", "127.0.0.1/32")).await.status, 200);
    let text = told(&gateway, &v1(CLIENT, REACHED)).await.get("/").await.text();
    assert!(text.contains("\r\nX-Forwarded-For: 203.0.113.9\r\n"), "{text}");
    assert_eq!(before.get("/").await.status, 200, "what is open stays");
}
