//! The handshake of clients: certificates by name, versions, tickets, ALPN, and who never finishes it.

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, HandshakeKind, NamedGroup};

use super::{certificates, over, to};
use crate::support::tls::{Authority, shown};
use crate::support::{Client, Echo, Gateway, eventually};

#[tokio::test]
async fn tls_native_sni() {
    let authority = Authority::new();
    let first = authority.sign(&["a.test", "127.0.0.1"]);
    let wildcard = authority.sign(&["*.b.test"]);
    let exact = authority.sign(&["exact.b.test", "other.test"]);
    let web = Echo::start("web").await;
    let gateway = over(&certificates(&[&first, &wildcard, &exact]), web.address()).start().await;
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
        let stream = client.connect(gateway.address("web"), name).await.unwrap();
        assert!(shown(&stream) == expected.der, "the certificate for {name}");
        assert_eq!(Client::over(stream).get("/").await.status, 200, "{name}");
    }
    for stranger in ["unknown.test", "b.test", "x.y.b.test"] {
        let refused = client.connect(gateway.address("web"), stranger).await.unwrap_err().to_string();
        assert!(refused.contains("a.test"), "{stranger} is shown the first certificate: {refused}");
    }
}

#[tokio::test]
async fn both_versions_are_spoken_and_the_older_one_can_be_refused() {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let web = Echo::start("web").await;
    let listed = certificates(&[&certificate]);
    let gateway = over(&listed, web.address()).start().await;
    let strict = over(&format!("{listed}, min_version: 1.3"), web.address()).start().await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &[]);
        let stream = client.connect(gateway.address("web"), "a.test").await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert_eq!(Client::over(stream).get("/").await.status, 200);
        let stream = client.connect(strict.address("web"), "a.test").await;
        assert_eq!(stream.is_ok(), version.version == TLS13.version, "{version:?}: {stream:?}");
    }
    assert_eq!(strict.metric("sockgate_tls_handshakes_total{listener=\"web\",result=\"failed\"}").await, 1.0);
}

#[tokio::test]
async fn a_client_that_comes_back_with_a_ticket_is_resumed() {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]);
    let web = Echo::start("web").await;
    let gateway = over(&certificates(&[&certificate]), web.address()).start().await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &[]);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let stream = client.connect(gateway.address("web"), "a.test").await.unwrap();
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
    let gateway = over(&listed, web.address()).start().await;
    let old = over(&listed, web.address()).listener("http2: false").start().await;
    let agreed = async |gateway: &Gateway, offered: &[&str]| {
        let stream = authority.client(offered).connect(gateway.address("web"), "a.test").await.ok()?;
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
async fn what_is_agreed_on_can_be_chosen_and_is_closed_to_tomorrows_computers_by_default() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = Echo::start("web").await;
    let gateway = over(&listed, web.address()).start().await;
    let narrow = "ciphers: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256], curves: [secp384r1]";
    let narrow = over(&format!("{listed}, {narrow}"), web.address()).start().await;
    let light = "ciphers: [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384]";
    let light = over(&format!("{listed}, {light}"), web.address()).start().await;
    let old =
        over(&format!("{listed}, ciphers: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]"), web.address()).start().await;
    let agreed = async |gateway: &Gateway, groups: &[&'static dyn SupportedKxGroup]| {
        let provider = CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() };
        let stream = authority.client_knowing(provider).connect(gateway.address("web"), "a.test").await.ok()?;
        let tls = stream.get_ref().1;
        let group = tls.negotiated_key_exchange_group().unwrap().name();
        let suite = tls.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(Client::over(stream).get("/").await.status, 200);
        Some((group, suite))
    };
    // Chromium, Firefox, Go and OpenSSL 3.5 ask for it first.
    let hybrid = agreed(&gateway, &[kx_group::X25519MLKEM768, kx_group::X25519]).await;
    assert_eq!(hybrid, Some((NamedGroup::X25519MLKEM768, CipherSuite::TLS13_AES_256_GCM_SHA384)));
    for (group, name) in [(kx_group::X25519, NamedGroup::X25519), (kx_group::SECP256R1, NamedGroup::secp256r1)] {
        assert_eq!(agreed(&gateway, &[group]).await.map(|(group, _)| group), Some(name));
    }
    assert_eq!(agreed(&narrow, &[kx_group::X25519MLKEM768, kx_group::X25519]).await, None);
    let chosen = agreed(&narrow, &[kx_group::X25519, kx_group::SECP384R1]).await;
    assert_eq!(chosen, Some((NamedGroup::secp384r1, CipherSuite::TLS13_AES_128_GCM_SHA256)));
    // In the order of the list, whatever the client's is.
    let chosen = agreed(&light, &[kx_group::X25519]).await.map(|(_, suite)| suite);
    assert_eq!(chosen, Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
    let mut backwards = default_provider();
    backwards.cipher_suites.reverse();
    let stream = authority.client_knowing(backwards).connect(gateway.address("web"), "a.test").await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_256_GCM_SHA384);
    let chosen = agreed(&old, &[kx_group::X25519]).await.map(|(_, suite)| suite);
    assert_eq!(chosen, Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), "there is no other version then");
}

#[tokio::test]
async fn clients_that_never_finish_a_handshake_are_let_go() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let web = Echo::start("web").await;
    let gateway = over(&format!("{listed}, handshake_timeout: 300ms"), web.address()).start().await;
    let began = std::time::Instant::now();
    let mut silent = gateway.client().await;
    let mut half = gateway.client().await;
    // The start of a ClientHello of 512 bytes.
    half.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    let mut garbage = gateway.client().await;
    garbage.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    garbage.read_all().await;
    assert!(silent.read_all().await.is_empty());
    assert!(began.elapsed().as_millis() >= 300, "not before its time");
    assert!(half.read_all().await.is_empty());
    eventually("three handshakes have failed", async || {
        gateway.metric("sockgate_tls_handshakes_total{listener=\"web\",result=\"failed\"}").await == 3.0
    })
    .await;
    let stream = authority.client(&[]).connect(gateway.address("web"), "a.test").await.unwrap();
    assert_eq!(Client::over(stream).get("/").await.status, 200);
}

#[tokio::test]
async fn broken_certificate_files_stop_the_gateway_and_are_named() {
    let authority = Authority::new();
    let (good, other) = (authority.sign(&["a.test"]), authority.sign(&["b.test"]));
    let garbage = authority.file("garbage.pem");
    std::fs::write(&garbage, "no certificate").unwrap();
    let nowhere = authority.file("nowhere.pem");
    let server = "127.0.0.1:1".parse().unwrap();
    let listener = |cert: &str, key: &str| over(&format!("certificates: [{{ cert: {cert}, key: {key} }}]"), server);
    let to_server = |tls: &str| to(server, tls);
    for (setup, named) in [
        (listener(&nowhere, &good.key), &nowhere),
        (listener(&garbage, &good.key), &garbage),
        (listener(&good.cert, &nowhere), &nowhere),
        (listener(&good.cert, &garbage), &garbage),
        (listener(&good.cert, &other.key), &other.key),
        (to_server(&format!("ca: {nowhere}")), &nowhere),
        (to_server(&format!("ca: {garbage}")), &garbage),
        (to_server(&format!("ca: {}, cert: {}, key: {garbage}", good.cert, good.cert)), &garbage),
    ] {
        let (code, said) = Gateway::fails(&setup.yaml()).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(named.as_str()), "{named} in {said}");
    }
}
