//! HAProxy in front, HAProxy and nginx behind: what they say is understood, and what they are told.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::proxies::Proxy;
use crate::support::tls::Authority;
use crate::support::websocket::{echoes, opened};
use crate::support::{Client, Echo, Gateway, Setup, eventually};

for_each_engine! {
    haproxy_in_front_tells_of_its_clients,
    haproxy_behind_knows_the_client,
    nginx_behind_knows_the_client,
}

/// HAProxy before the gateway, which ends TLS where it has a certificate; and where clients find it.
fn in_front(folder: &Path, bind: &str, server: &str, gateway: SocketAddr) -> Option<(Proxy, SocketAddr)> {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let config = format!(
        "
listen gateway
    mode tcp
    bind fd@3 {bind}
    unique-id-format id-%ci:%cp
    server gateway {gateway} {server}
"
    );
    Some((Proxy::haproxy(folder, &config, Some(listening))?, address))
}

async fn haproxy_in_front_tells_of_its_clients() {
    let folder = tempfile::tempdir().unwrap();
    let server = Echo::start("a").await;
    let setup = Setup::before(&[server.address()]).unchecked().listener("proxy_protocol: required");
    let gateway = setup.more("forwarding: { trusted_proxies: [127.0.0.1/32] }").start().await;
    let second = "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl";
    // What its checks say in version 1, where nothing says that they are its own, are its addresses.
    for (says, result, others) in [("send-proxy", "client", 2.0), (second, "local", 0.0)] {
        let says = format!("{says} check check-send-proxy inter 200ms");
        let Some((_haproxy, address)) = in_front(folder.path(), "", &says, gateway.address("web")) else { return };
        let mut client = Client::connect_from(5, address).await;
        let text = client.get("/").await.text();
        assert!(text.contains("X-Forwarded-For: 127.0.0.5\r\n"), "{text}");
        assert!(text.contains(&format!("X-Forwarded-Port: {}\r\n", address.port())), "{text}");
        let mut socket = opened(Client::connect_from(6, address).await, "/").await;
        echoes(&mut socket).await;
        drop(socket);
        gateway.access_line(&["event=close", "protocol=WebSocket", "client=127.0.0.6"]).await;
        let name = format!("sockgate_proxy_headers_total{{listener=\"web\",result=\"{result}\"}}");
        eventually("a check has come", async || gateway.metric(&name).await > others).await;
    }
    gateway.access_line(&["client=127.0.0.5", "unique_id=id-127.0.0.5:"]).await;

    let authority = Authority::new();
    let issued = authority.sign(&["a.test"]);
    let both = authority.file("both.pem");
    let read = |file: &str| std::fs::read_to_string(file).unwrap();
    std::fs::write(&both, read(&issued.cert) + &read(&issued.key)).unwrap();
    let bind = format!("ssl crt {both} alpn h2,http/1.1");
    let Some((_haproxy, address)) = in_front(folder.path(), &bind, second, gateway.address("web")) else { return };
    let mut client = authority.client(&["http/1.1"]).open(address, "a.test").await;
    let text = client.get("/over-tls").await.text();
    assert!(text.contains("X-Forwarded-Proto: https\r\n"), "{text}");
    gateway.access_line(&["target=/over-tls", "tls=true", "unique_id=id-127.0.0.1:"]).await;
    let stream = authority.client(&["h2"]).connect(address, "a.test").await.unwrap();
    assert_eq!(Http2::over(stream).await.get("https://a.test/over-http-2").await.status(), 200);
    gateway.access_line(&["target=/over-http-2", "protocol=HTTP/2", "tls=true"]).await;
}

/// A gateway before a server that listens on a socket file, with a listener for HTTP and one for raw bytes. The server may be
/// slower to start than the first check: it is waited for by either way.
async fn before(file: &Path, version: &str) -> Gateway {
    let server = format!("servers: [\"unix:{}\"], proxy_protocol: {version}", file.display());
    Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
routes:
  - upstream: app
upstreams:
  app: {{ {server}, health: {{ check: http }} }}
  raw: {{ kind: tcp, {server} }}
admin: {{ address: 127.0.0.1:0, ready: [app, raw] }}
"
    ))
    .await
}

/// Expects that the server says who the client is and what it has reached, by way of each listener.
async fn assert_known(gateway: &Gateway) {
    for listener in ["web", "raw"] {
        let reached = gateway.address(listener);
        for last in [5, 6] {
            let mut client = Client::connect_from(last, reached).await;
            for _ in 0..2 {
                let text = client.get("/").await.text();
                assert_eq!(text.trim_end(), format!("127.0.0.{last} {reached}"), "{listener}");
            }
        }
    }
}

async fn haproxy_behind_knows_the_client() {
    for version in ["v1", "v2"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.sock");
        let config = format!(
            "
frontend app
    mode http
    bind unix@{} accept-proxy
    http-request return status 200 content-type text/plain lf-string \"%[src] %[dst]:%[dst_port]\"
",
            file.display()
        );
        let Some(_haproxy) = Proxy::haproxy(folder.path(), &config, None) else { return };
        assert_known(&before(&file, version).await).await;
    }
}

async fn nginx_behind_knows_the_client() {
    for version in ["v1", "v2"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nginx.sock");
        let servers = format!(
            "
server {{
    listen unix:{} proxy_protocol;
    set_real_ip_from unix:;
    real_ip_header proxy_protocol;
    location / {{ return 200 \"$remote_addr $proxy_protocol_server_addr:$proxy_protocol_server_port\"; }}
}}
",
            file.display()
        );
        let Some(_nginx) = Proxy::nginx(folder.path(), &servers) else { return };
        assert_known(&before(&file, version).await).await;
    }
}
