//! The stack of 2012 as one file: `conf/classic-socketio.yaml`, run with real servers behind it.

use std::collections::HashMap;

use rcgen::{CertificateParams, KeyPair};

use crate::support::node::{self, Node};
use crate::support::{Client, Echo, Gateway, Scripted};

#[tokio::test]
async fn seed_haproxy_yaml() {
    let web = Echo::start("web").await;
    let (a, b) = (Node::server("v4", &["--id", "a"]).await, Node::server("v4", &["--id", "b"]).await);
    let raw = Scripted::start(|mut client, _| async move {
        while let Some(bytes) = client.some().await {
            if client.try_send([b"raw:", bytes.as_slice()].concat()).await.is_err() {
                break;
            }
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let local = |port: u16| format!("127.0.0.1:{port}");
    let variables = HashMap::from([
        ("LISTEN_HOST", "127.0.0.1".to_owned()),
        ("HTTP_PORT", "0".to_owned()),
        ("HTTPS_PORT", "0".to_owned()),
        ("FLASH_PORT", "0".to_owned()),
        ("ADMIN_PORT", "0".to_owned()),
        ("CERT", cert_file.display().to_string()),
        ("KEY", key_file.display().to_string()),
        ("WEBAPP_1", web.address().to_string()),
        ("SOCKET_IO_1", local(a.port())),
        ("SOCKET_IO_2", local(b.port())),
        ("SIO_TCP_1", raw.address().to_string()),
        ("SIO_TCP_2", raw.address().to_string()),
    ]);
    let text = include_str!("../../conf/classic-socketio.yaml");
    // Ports of the kernel's choice can't stand in a policy; the addresses of two servers have to differ.
    let text = text.replace(r#"ports: "${HTTP_PORT:-8080},${HTTPS_PORT:-8443}""#, r#"ports: "80,443""#);
    let text = text.replace("      - name: node2\n        address: ${SIO_TCP_2:-127.0.0.1:8001}\n", "      #\n");
    let text = text.replace("      #\n        max_connections: 2000\n", "");
    // A busy machine takes its time to send what a client says; the delay has tests of its own.
    let text = text.replace("inspect_delay: 500ms", "inspect_delay: 10s");
    let gateway = Gateway::start_with(&text, &variables).await;

    let mut client = Client::connect(gateway.address("http")).await;
    assert_eq!(client.get("/").await.header("x-server"), Some("web"));
    assert!(client.get("/").await.text().contains("X-Forwarded-For: 127.0.0.1"));
    let polling = client.get("/socket.io/?EIO=4&transport=polling").await.text();
    assert!(polling.starts_with("0{\"sid\""), "{polling}");
    assert_eq!(client.get("/node/anything").await.status, 200, "the socket servers answer /node");

    let mut flash = Client::connect(gateway.address("flash")).await;
    flash.send(b"<policy-file-request/>\0").await;
    let policy = flash.read_all().await;
    assert!(policy.ends_with(b"</cross-domain-policy>\0"), "{}", String::from_utf8_lossy(&policy));
    let mut inline = Client::connect(gateway.address("http")).await;
    inline.send(b"<policy-file-request/>\0").await;
    assert_eq!(inline.read_all().await, policy);

    let mut socket = Client::connect(gateway.address("http")).await;
    socket.send(b"\x01binary").await;
    assert_eq!(socket.read(11).await, b"raw:\x01binary");

    for (listener, scheme) in [("http", "http"), ("https", "https")] {
        let url = format!("{scheme}://127.0.0.1:{}", gateway.address(listener).port());
        let arguments = ["--url", &url, "--insecure", "--sessions", "10", "--local-addresses", "127.0.0.2-127.0.0.11"];
        let summary = node::client(
            "v4",
            &[&arguments[..], &["--transports", "polling,websocket", "--messages", "3"]].concat(),
            30,
        )
        .await;
        assert_eq!(summary["ok"], true, "{summary}");
        assert_eq!((&summary["upgraded"], &summary["reconnects"]), (&10.into(), &0.into()), "{summary}");
    }
}
