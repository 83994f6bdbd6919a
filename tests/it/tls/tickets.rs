//! Tickets that several gateways open: clients that reconnect in a herd are resumed wherever they arrive.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::{certificates, over};
use crate::support::peers::run;
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Client, Echo, Gateway};

/// A key as HAProxy has it in its files.
fn key(number: u8) -> String {
    STANDARD.encode([number; 48]) + "\n"
}

/// Connects, and reads an answer, with which the ticket comes.
async fn comes(client: &TlsClient, gateway: &Gateway) -> HandshakeKind {
    let stream = client.connect(gateway.address("web"), "localhost").await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    assert_eq!(Client::over(stream).get("/").await.status, 200);
    kind
}

#[tokio::test]
async fn a_client_is_resumed_on_any_gateway_that_has_the_key_and_keys_are_changed_while_it_runs() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["localhost"])]);
    let web = Echo::start("web").await;
    let files = ["one.keys", "two.keys"].map(|name| authority.file(name));
    for file in &files {
        std::fs::write(file, key(1)).unwrap();
    }
    let with = |file: &str| over(&format!("{listed}, tickets: {{ keys: {file} }}"), web.address());
    let (one, two) = (with(&files[0]).start().await, with(&files[1]).start().await);
    let alone = over(&listed, web.address()).start().await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version], &[]);
        assert_eq!(comes(&client, &one).await, HandshakeKind::Full);
        for gateway in [&two, &one, &two] {
            assert_eq!(comes(&client, gateway).await, HandshakeKind::Resumed, "{version:?}");
        }
        assert_eq!(comes(&client, &alone).await, HandshakeKind::Full, "it has keys of its own");
    }
    // A new key is first spread behind the old one, then put before it; nobody has to come back in full.
    let client = authority.client(&[]);
    assert_eq!(comes(&client, &one).await, HandshakeKind::Full);
    for (step, text) in [[key(1), key(2)].concat(), [key(2), key(1)].concat()].iter().enumerate() {
        for (file, gateway) in files.iter().zip([&one, &two]) {
            let before = gateway.log_lines("reloaded: listener web changed: certificates").len();
            std::fs::write(format!("{file}.new"), text).unwrap();
            std::fs::rename(format!("{file}.new"), file).unwrap();
            crate::support::eventually("the keys are loaded", async || {
                gateway.log_lines("reloaded: listener web changed: certificates").len() > before
            })
            .await;
            for gateway in [&one, &two, &one] {
                assert_eq!(comes(&client, gateway).await, HandshakeKind::Resumed, "step {step}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_file_that_is_none_stops_the_gateway_and_is_named() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["a.test"])]);
    let file = authority.file("tickets.keys");
    std::fs::write(&file, "secret").unwrap();
    let setup = over(&format!("{listed}, tickets: {{ keys: {file} }}"), "127.0.0.1:1".parse().unwrap());
    let (code, said) = Gateway::fails(&setup.yaml()).await;
    assert!(code == 1 && said.contains(&format!("{file}: line 1: expected keys of 48 or 80 bytes")), "{said}");
}

#[tokio::test]
async fn openssl_and_node_are_resumed_on_the_other_gateway() {
    let authority = Authority::new();
    let listed = certificates(&[&authority.sign(&["localhost"])]);
    let (web, file) = (Echo::start("web").await, authority.file("tickets.keys"));
    // As nginx has it: `openssl rand 80`.
    std::fs::write(&file, [9; 80]).unwrap();
    let setup = over(&format!("{listed}, tickets: {{ keys: {file} }}"), web.address());
    let (one, two) = (setup.start().await, setup.start().await);
    let [one, two] = [&one, &two].map(|gateway| gateway.address("web").port());
    let (ca, session) = (authority.ca(), authority.file("session.pem"));
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for version in ["-tls1_2", "-tls1_3"] {
        let ask = async |port: u16, session: [&str; 2]| {
            let at = format!("127.0.0.1:{port}");
            let common = ["s_client", "-connect", &at, "-servername", "localhost", "-CAfile", &ca, "-ign_eof", version];
            run("openssl", &[&common[..], &session].concat(), request).await
        };
        let Some(first) = ask(one, ["-sess_out", &session]).await else { break };
        assert!(first.text.contains("\nNew, TLS"), "{}", first.text);
        let second = ask(two, ["-sess_in", &session]).await.unwrap();
        assert!(second.text.contains("\nReused, TLS") && second.text.contains("HTTP/1.1 200"), "{}", second.text);
    }
    let program = "const [ca, version, ...ports] = process.argv.slice(1);
        const tls = require('node:tls'), read = require('node:fs').readFileSync;
        const ask = (port, session) => new Promise((resolve, reject) => {
            let ticket;
            const socket = tls.connect({ host: '127.0.0.1', port, servername: 'localhost', ca: read(ca), session,
                maxVersion: version, minVersion: version }, () => {
                console.log(socket.isSessionReused());
                socket.write('GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n');
            });
            socket.on('session', (session) => { ticket = session; });
            socket.on('error', reject).on('data', () => {}).on('close', () => resolve(ticket));
        });
        ask(ports[0]).then((ticket) => ask(ports[1], ticket));";
    let ports = [one, two].map(|port| port.to_string());
    for version in ["TLSv1.2", "TLSv1.3"] {
        let said = run("node", &["-e", program, &ca, version, &ports[0], &ports[1]], "").await.unwrap();
        assert_eq!(said.text, "false\ntrue\n", "{version}");
    }
}
