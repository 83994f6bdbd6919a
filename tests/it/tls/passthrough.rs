//! Names whose TLS is carried on as it is, beside names whose TLS ends here, on one port.

use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt;

use super::certificates;
use crate::support::tls::{Authority, shown};
use crate::support::{Client, Echo, Gateway, Puppet, eventually};

/// A gateway that ends TLS for `a.test` and carries on what is for `*.passed.test`.
async fn gateway(
    authority: &Authority,
    web: &Echo,
    passed: std::net::SocketAddr,
    upstream: &str,
    tls: &str,
) -> Gateway {
    let listed = certificates(&[&authority.sign(&["a.test", "127.0.0.1"])]);
    Gateway::start_unready(&format!(
        "
listeners:
  - name: web
    address: 127.0.0.1:0
    tls: {{ {listed}, passthrough: [{{ names: [\"*.passed.test\"], upstream: passed }}]{tls} }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
  passed: {{ kind: tcp, servers: [\"{passed}\"], health: {{ check: none }}{upstream} }}
",
        web.address()
    ))
    .await
}

#[tokio::test]
async fn a_name_decides_whether_tls_ends_here_or_at_its_server() {
    let authority = Authority::new();
    let theirs = authority.sign(&["x.passed.test", "a.test"]);
    let (web, server) = (Echo::start("web").await, Echo::start_tls(authority.server(&theirs, false), "passed").await);
    let gateway = gateway(&authority, &web, server.address(), "", "").await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &["http/1.1"]);
        // Whole, and cut into many records, as hellos of more than one packet may come.
        for client in [client.clone(), client.in_records_of(64)] {
            for (name, expected) in
                [("x.passed.test", "passed"), ("X.PASSED.test", "passed"), ("a.test", "web"), ("127.0.0.1", "web")]
            {
                let passes = expected == "passed";
                // Their certificate names no address, and ours nothing that passes.
                let stream = client.connect(gateway.address("web"), name).await.unwrap();
                assert_eq!(shown(&stream) == theirs.der, passes, "{name}, {version:?}");
                assert_eq!(Client::over(stream).get("/").await.header("x-server"), Some(expected));
            }
        }
    }
    gateway.access_line(&["protocol=TCP", "upstream=passed"]).await;
    assert_eq!(gateway.metric("sockgate_tunnels_total{kind=\"tcp\",upstream=\"passed\"}").await, 8.0);
    assert_eq!(gateway.metric("sockgate_detected_total{listener=\"web\",protocol=\"passthrough\"}").await, 8.0);
    assert_eq!(gateway.metric("sockgate_tls_handshakes_total{listener=\"web\",result=\"ok\"}").await, 8.0);
    assert_eq!(gateway.metric("sockgate_tls_handshake_seconds_count{listener=\"web\"}").await, 8.0);
    eventually("no handshake is under way", async || {
        gateway.metric("sockgate_tls_handshakes_open{listener=\"web\"}").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn the_connections_of_a_name_are_shared_out_by_weights() {
    let authority = Authority::new();
    let theirs = authority.sign(&["x.passed.test"]);
    let server = || async { Echo::start_tls(authority.server(&theirs, false), "passed").await };
    let (one, other) = (server().await, server().await);
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - name: web
    address: 127.0.0.1:0
    tls: {{ {listed}, passthrough: [{{ names: [\"*.passed.test\"], upstream: [{{ name: one }}, {{ name: other }}] }}] }}
routes: [{{ respond: {{}} }}]
upstreams:
  one: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }} }}
  other: {{ kind: tcp, servers: [\"{}\"], health: {{ check: none }} }}
",
        one.address(),
        other.address()
    ))
    .await;
    let client = authority.client(&["http/1.1"]);
    for _ in 0..30 {
        let stream = client.connect(gateway.address("web"), "x.passed.test").await.unwrap();
        assert_eq!(Client::over(stream).get("/").await.status, 200);
    }
    assert!(one.accepted() > 3 && other.accepted() > 3, "{} and {}", one.accepted(), other.accepted());
    assert_eq!(one.accepted() + other.accepted(), 30);
}

#[tokio::test]
async fn a_hello_that_comes_byte_by_byte_reaches_its_server_whole() {
    let authority = Authority::new();
    let (web, server) = (Echo::start("web").await, Puppet::start().await);
    let gateway = gateway(&authority, &web, server.address(), "", "").await;
    let hello = authority.client(&[]).hello("b.passed.test");
    let mut stream = crate::support::client::tcp(gateway.address("web")).await;
    for byte in &hello {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut got = server.accept().await;
    assert_eq!(got.read(hello.len()).await, hello);
    got.send("any answer").await;
    assert_eq!(Client::over(stream).read(10).await, b"any answer");
}

#[tokio::test]
async fn the_server_is_told_of_client_and_name_in_a_proxy_header() {
    let authority = Authority::new();
    let (web, server) = (Echo::start("web").await, Puppet::start().await);
    let gateway = gateway(&authority, &web, server.address(), ", proxy_protocol: v2", "").await;
    let hello = authority.client(&[]).hello("b.passed.test");
    let mut client = gateway.client().await;
    client.send(&hello).await;
    let mut got = server.accept().await;
    let start = got.read(16).await;
    assert_eq!(&start[..12], b"\r\n\r\n\0\r\nQUIT\n");
    let rest = got.read(usize::from(u16::from_be_bytes([start[14], start[15]]))).await;
    assert!(rest.starts_with(&[127, 0, 0, 1, 127, 0, 0, 1]));
    assert!(rest.windows(16).any(|part| part == b"\x02\0\x0db.passed.test"), "{rest:?}");
    assert_eq!(got.read(hello.len()).await, hello);
}

#[tokio::test]
async fn what_is_no_hello_is_told_so_and_who_says_nothing_is_let_go() {
    let authority = Authority::new();
    let (web, server) = (Echo::start("web").await, Puppet::start().await);
    let gateway = gateway(&authority, &web, server.address(), "", ", handshake_timeout: 300ms").await;
    let hello = authority.client(&[]).hello("b.passed.test");
    let mut garbage = gateway.client().await;
    garbage.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(garbage.read_all().await[0], 21, "an alert");
    let mut silent = gateway.client().await;
    let mut half = gateway.client().await;
    half.send(&hello[..hello.len() / 2]).await;
    assert!(silent.read_all().await.is_empty() && half.read_all().await.is_empty());
    let failed = "sockgate_tls_handshakes_total{listener=\"web\",result=\"failed\"}";
    eventually("three have failed", async || gateway.metric(failed).await == 3.0).await;
}
