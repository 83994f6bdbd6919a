//! Certificates of clients: who is let in, what servers are told, and that nobody else can tell it.

use rcgen::{DnType, SanType};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::{certificates, over};
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::peers::run;
use crate::support::tls::{Authority, Issued};
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, Scripted, eventually};

for_each_engine! {
    servers_are_told_who_a_client_has_proved_to_be,
    nobody_else_says_what_a_certificate_says,
}

/// A certificate of a client, of this serial number.
fn signed(authority: &Authority, name: &str, serial: u64) -> Issued {
    authority.sign_with(&[name], |params| {
        params.serial_number = Some(serial.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Test, Ltd");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::URI("spiffe://test/client".try_into().unwrap()));
    })
}

/// A server that shows the head of every request, and of the opening of a WebSocket behind its 101.
async fn showing() -> Scripted {
    Scripted::start(|mut client, _| async move {
        while let Some(request) = client.request().await {
            let upgraded = request.head.windows(9).any(|part| part == b"websocket");
            let head = if upgraded {
                crate::support::websocket::switch(&request.head)
            } else {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.head.len())
            };
            client.send([head.as_bytes(), &request.head].concat()).await;
        }
    })
    .await
}

/// What a server was told in a field, all of it.
fn told(head: &str, name: &str) -> Vec<String> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
}

async fn servers_are_told_who_a_client_has_proved_to_be() {
    let authority = Authority::new();
    let (listed, issued) = (certificates(&[&authority.sign(&["a.test"])]), signed(&authority, "client.test", 1));
    let server = showing().await;
    let asked = format!(
        "client_certificates: {{ ca: {}, forward: [subject, names, fingerprint, certificate] }}",
        authority.ca()
    );
    let gateway = over(&format!("{listed}, {asked}"), server.address()).start().await;
    let check = |head: &str| {
        assert_eq!(told(head, "X-Client-Cert-Subject"), [r"CN=client.test,O=Test\, Ltd"], "{head}");
        assert_eq!(told(head, "X-Client-Cert-SAN"), ["DNS:client.test,URI:spiffe://test/client"]);
        let fingerprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &issued.der);
        let fingerprint: String = fingerprint.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(told(head, "X-Client-Cert-Fingerprint"), [fingerprint]);
        assert!(told(head, "Client-Cert")[0].starts_with(":MII"));
    };
    for version in [&TLS12, &TLS13] {
        let client = authority.client_showing(&issued, &[version]);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = client.connect(gateway.address("web"), "a.test").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
            check(&Client::over(stream).get("/").await.text());
        }
        gateway.access_line(&[r#"certificate="CN=client.test,O=Test\\, Ltd""#, "status=200"]).await;
        let mut socket = client.open(gateway.address("web"), "a.test").await;
        socket.send(upgrade("/")).await;
        assert_eq!(socket.answer().await.status, 101);
        check(&String::from_utf8(socket.read_until(b"\r\n\r\n").await).unwrap());
    }
    let client = authority.client_showing(&issued, &[&TLS13]).speaking(&["h2"]);
    let http2 = Http2::over(client.connect(gateway.address("web"), "a.test").await.unwrap()).await;
    check(&String::from_utf8(http2.get("https://a.test/").await.into_body()).unwrap());
}

async fn nobody_else_says_what_a_certificate_says() {
    let authority = Authority::new();
    let (listed, issued) = (certificates(&[&authority.sign(&["a.test"])]), signed(&authority, "client.test", 1));
    let server = showing().await;
    let asked = format!("client_certificates: {{ ca: {}, mode: optional }}", authority.ca());
    let gateway = over(&format!("{listed}, {asked}"), server.address())
        .another_listener("name: plain")
        .more("forwarding: { underscores: true, trusted_proxies: [127.0.0.0/8] }")
        .start()
        .await;
    let lies = "X-Client-Cert-Subject: CN=root\r\nx-client-cert-verified: 1\r\nX_Client_Cert_SAN: DNS:root\r\n\
                Client-Cert: :AA==:\r\nClient-Cert-Chain: :AA==:\r\n";
    let check = |head: &str, proved: bool| {
        let subject = told(head, "X-Client-Cert-Subject");
        assert_eq!(subject, if proved { vec![r"CN=client.test,O=Test\, Ltd"] } else { vec![] }, "{head}");
        for lie in ["root", "verified", "AA==", "X_Client"] {
            assert!(!head.contains(lie), "{lie} in {head}");
        }
    };
    let plain = || Client::connect(gateway.address("plain"));
    check(&plain().await.get_with("/", lies).await.text(), false);
    let without = authority.client(&[]);
    check(&without.open(gateway.address("web"), "a.test").await.get_with("/", lies).await.text(), false);
    let with = authority.client_showing(&issued, &[&TLS13]);
    check(&with.open(gateway.address("web"), "a.test").await.get_with("/", lies).await.text(), true);
    for mut socket in [plain().await, with.open(gateway.address("web"), "a.test").await] {
        socket.send(upgrade("/").replace("Upgrade: websocket\r\n", &format!("Upgrade: websocket\r\n{lies}"))).await;
        assert_eq!(socket.answer().await.status, 101);
        let head = String::from_utf8(socket.read_until(b"\r\n\r\n").await).unwrap();
        assert!(!head.contains("root") && !head.contains("verified"), "{head}");
    }
    let http2 = Http2::over(plain().await.into_stream()).await;
    let request = http::Request::get("http://a.test/").header("x-client-cert-subject", "CN=root").body(()).unwrap();
    check(&String::from_utf8(http2.ask(request, "").await.into_body()).unwrap(), false);
}

#[tokio::test]
async fn clients_without_a_certificate_that_holds_stay_outside() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let (good, back) = (signed(&authority, "good.test", 1), signed(&authority, "back.test", 2));
    let foreign = stranger.sign(&["foreign.test"]);
    let web = Echo::start("web").await;
    let asked = |more: &str| format!("{listed}, client_certificates: {{ ca: {}{more} }}", authority.ca());
    let list = authority.take_back("crl.pem", &[2]);
    let required = over(&asked(&format!(", crl: {list}")), web.address()).start().await;
    let optional = over(&asked(", mode: optional"), web.address()).start().await;
    // In TLS 1.3 a client learns only from the first read that it is refused.
    let served = async |gateway: &Gateway, shown: Option<&Issued>, version| {
        let client = match shown {
            Some(shown) => authority.client_showing(shown, &[version]),
            None => authority.client_of(&[version], &[]),
        };
        let Ok(stream) = client.connect(gateway.address("web"), "a.test").await else { return false };
        let answer = Client::over(stream).try_ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        answer.is_some_and(|answer| answer.status == 200)
    };
    for version in [&TLS12, &TLS13] {
        for (shown, by_required, by_optional) in
            [(Some(&good), true, true), (Some(&back), false, true), (Some(&foreign), false, false), (None, false, true)]
        {
            let shown_name = shown.map_or("none", |shown| shown.cert.as_str());
            assert_eq!(served(&required, shown, version).await, by_required, "required, {shown_name}, {version:?}");
            assert_eq!(served(&optional, shown, version).await, by_optional, "optional, {shown_name}, {version:?}");
        }
    }
    let failed = "sockgate_tls_handshakes_total{listener=\"web\",result=\"failed\"}";
    eventually("six were refused", async || required.metric(failed).await == 6.0).await;
    // Taken back later: nobody comes in by a ticket from before.
    let client = authority.client_showing(&good, &[&TLS13]);
    let mut first = client.open(required.address("web"), "a.test").await;
    assert_eq!(first.get("/").await.status, 200);
    authority.take_back("crl.pem", &[1, 2]);
    required.log_line("reloaded: listener web changed: certificates").await;
    assert_eq!(first.get("/").await.status, 200, "who is in stays in");
    assert!(!served(&required, Some(&good), &TLS13).await);
    let again = client.connect(required.address("web"), "a.test").await;
    let again = match again {
        Ok(stream) => Client::over(stream).try_ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.is_some(),
        Err(_) => false,
    };
    assert!(!again, "its ticket does not open");
}

#[tokio::test]
async fn curl_openssl_and_node_show_their_certificates() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["localhost"])]);
    let issued = signed(&authority, "client.test", 1);
    let server = showing().await;
    let gateway =
        over(&format!("{listed}, client_certificates: {{ ca: {} }}", authority.ca()), server.address()).start().await;
    let (ca, port) = (authority.ca(), gateway.address("web").port());
    let url = format!("https://localhost:{port}/");
    let at = format!("127.0.0.1:{port}");
    let to = format!("localhost:{port}:127.0.0.1");
    let subject = r"CN=client.test,O=Test\, Ltd";
    let with = ["--cert", &issued.cert, "--key", &issued.key];
    let common = ["-sS", "--cacert", &ca, "--resolve", &to, &url];
    if let Some(said) = run("curl", &[&common[..], &with].concat(), "").await {
        assert!(said.good && said.text.contains(subject), "{}", said.text);
        let without = run("curl", &common, "").await.unwrap();
        assert!(!without.good, "{}", without.text);
    }
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let common = ["s_client", "-quiet", "-connect", &at, "-servername", "localhost", "-CAfile", &ca];
    for version in ["-tls1_2", "-tls1_3"] {
        let with = [&common[..], &[version, "-cert", &issued.cert, "-key", &issued.key]].concat();
        if let Some(said) = run("openssl", &with, request).await {
            assert!(said.text.contains(subject), "{}", said.text);
            let without = run("openssl", &[&common[..], &[version]].concat(), request).await.unwrap();
            assert!(without.text.contains("alert"), "{}", without.text);
        }
    }
    let program = "const [port, ca, cert, key] = process.argv.slice(1);
        const read = require('node:fs').readFileSync;
        const options = { host: '127.0.0.1', port, servername: 'localhost', ca: read(ca) };
        if (cert) Object.assign(options, { cert: read(cert), key: read(key) });
        require('node:https').get({ ...options, path: '/' }, (answer) => answer.pipe(process.stdout))
            .on('error', (error) => { console.log(error.code); process.exit(1); });";
    let port = port.to_string();
    let said = run("node", &["-e", program, &port, &ca, &issued.cert, &issued.key], "").await.unwrap();
    assert!(said.good && said.text.contains(subject), "{}", said.text);
    assert!(!run("node", &["-e", program, &port, &ca], "").await.unwrap().good);
}
