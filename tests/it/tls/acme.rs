//! Certificates from an authority: ordered, shared and renewed, against Pebble.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::{sleep, timeout};

use crate::support::pebble::{Manner, Pebble, free_port};
use crate::support::tls::{Authority, TlsClient, shown};
use crate::support::websocket::{echoes, opened};
use crate::support::{Client, Echo, Gateway, PATIENCE, Scripted, eventually};

const SOCKETS: usize = 100;

/// A gateway with a plain and a TLS listener, at these ports, and a certificate that it orders.
async fn gateway(web: &Echo, [plain, tls]: [u16; 2], acme: &str, others: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners:
  - {{ name: plain, address: \"127.0.0.1:{plain}\" }}
  - {{ name: web, address: \"127.0.0.1:{tls}\", tls: {{ certificates: [{{ acme: {{ {acme} }} }}{others}] }} }}
routes:
  - {{ match: {{ listener: plain }}, redirect: {{ scheme: https }} }}
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
",
        web.address()
    ))
    .await
}

fn acme(authority: &Authority, manner: &Manner, domains: &str, more: &str) -> String {
    let (directory, ca, storage) = (manner.directory(), authority.ca(), authority.file("acme"));
    format!("domains: [{domains}], email: ops@a.test, directory: \"{directory}\", ca: {ca}, storage: {storage}, {more}")
}

/// Waits until the certificate is there, and gives it.
async fn issued(gateway: &Gateway, client: &TlsClient, name: &str) -> Vec<u8> {
    let look = async || loop {
        if let Ok(stream) = client.connect(gateway.address("web"), name).await {
            let der = shown(&stream).to_vec();
            if Client::over(stream).get("/").await.status == 200 {
                return der;
            }
        }
        sleep(Duration::from_millis(20)).await;
    };
    // An authority that was not there yet is asked again 5 s, 10 s and 20 s later.
    timeout(3 * PATIENCE, look()).await.expect("there is a certificate")
}

/// Ordered, and renewed under live sockets.
async fn renewed_by(challenge: &str) {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let [plain, tls] = [free_port(), free_port()];
    let manner = Manner { validity: 9, ..Manner::asking(plain, tls) };
    let Some(pebble) = Pebble::start(&authority, &manner).await else { return };
    let how = acme(&authority, &manner, "a.test, b.test", &format!("challenge: {challenge}"));
    let gateway = gateway(&web, [plain, tls], &how, "").await;
    let client = pebble.client(&authority).await;
    let first = issued(&gateway, &client, "a.test").await;
    assert_eq!(first, issued(&gateway, &client.anew(), "b.test").await, "one for all of its names");
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(opened(client.open(gateway.address("web"), "a.test").await, "/").await);
    }
    eventually("it is renewed", async || {
        let stream = client.anew().connect(gateway.address("web"), "a.test").await;
        stream.is_ok_and(|stream| *shown(&stream) != first)
    })
    .await;
    for socket in &mut sockets {
        echoes(socket).await;
    }
    assert_eq!(gateway.metric("sockgate_tunnels_open{upstream=\"web\"}").await, SOCKETS as f64);
    let storage = authority.file("acme");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(Path::new(&storage)), 0o700);
    let files = std::fs::read_dir(&storage).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 3 && files.iter().all(|file| mode(file) == 0o600), "{files:?}");
    let left = std::fs::read_dir(Path::new(&storage).join("challenges")).unwrap().count();
    assert!(left <= 2, "what is answered goes with its order: {left}");
}

#[tokio::test]
async fn a_certificate_is_proved_by_tls_and_renewed_under_a_hundred_sockets() {
    renewed_by("tls-alpn-01").await;
}

#[tokio::test]
async fn a_certificate_is_proved_by_http_and_renewed_under_a_hundred_sockets() {
    renewed_by("http-01").await;
}

#[tokio::test]
async fn an_authority_that_is_down_or_refuses_nonces_is_asked_again_and_others_are_served_meanwhile() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let [plain, tls] = [free_port(), free_port()];
    let manner = Manner { refused: 10, ..Manner::asking(plain, tls) };
    let how = acme(&authority, &manner, "a.test", "challenge: tls-alpn-01");
    let other = authority.sign(&["other.test"]);
    let gateway = gateway(&web, [plain, tls], &how, &format!(", {}", other.yaml())).await;
    gateway.log_line("certificate of a.test: the authority can't be asked").await;
    let ours = authority.client(&[]);
    assert_eq!(ours.open(gateway.address("web"), "other.test").await.get("/").await.status, 200);
    let refused = ours.connect(gateway.address("web"), "a.test").await.unwrap_err().to_string();
    assert!(refused.contains("AccessDenied"), "nothing is shown that is not of this name: {refused}");
    // Who only pretends to be an authority gets nothing.
    assert!(ours.speaking(&["acme-tls/1"]).connect(gateway.address("web"), "a.test").await.is_err());
    let Some(pebble) = Pebble::start(&authority, &manner).await else { return };
    let client = pebble.client(&authority).await;
    issued(&gateway, &client, "a.test").await;
    assert!(gateway.metric("sockgate_acme_orders_total{result=\"failed\"}").await >= 1.0);
    assert_eq!(gateway.metric("sockgate_acme_orders_total{result=\"ok\"}").await, 1.0);
    assert!(ours.speaking(&["acme-tls/1"]).connect(gateway.address("web"), "a.test").await.is_err());
}

#[tokio::test]
async fn of_two_gateways_one_orders_and_either_answers() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let ports = [0; 4].map(|_| free_port());
    // Only the second is asked, whoever orders.
    let manner = Manner::asking(ports[2], ports[3]);
    let Some(pebble) = Pebble::start(&authority, &manner).await else { return };
    let how = acme(&authority, &manner, "a.test", "challenge: http-01");
    let second = gateway(&web, [ports[2], ports[3]], &how, "").await;
    let first = gateway(&web, [ports[0], ports[1]], &how, "").await;
    let client = pebble.client(&authority).await;
    let der = issued(&first, &client, "a.test").await;
    assert_eq!(der, issued(&second, &client.anew(), "a.test").await);
    let ok = "sockgate_acme_orders_total{result=\"ok\"}";
    assert_eq!(first.metric(ok).await + second.metric(ok).await, 1.0);
    let well_known = "/.well-known/acme-challenge/unknown";
    let unknown = Client::connect(second.address("plain")).await.get(well_known).await;
    assert_eq!(unknown.status, 308, "what nobody has ordered goes by the routes");
}

#[tokio::test]
async fn files_beside_an_order_are_shown_until_it_is_there() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let manner = Manner::asking(1, 1);
    let how = acme(&authority, &manner, "a.test", "challenge: tls-alpn-01");
    let gateway = gateway(&web, [free_port(), free_port()], &how, "").await;
    let ours = authority.client(&[]);
    assert!(ours.connect(gateway.address("web"), "other.test").await.is_err(), "there is none at all");
    // A certificate that another gateway, or the operator, has put there is taken up.
    let put = authority.sign(&["a.test"]);
    let both = [&put.key, &put.cert].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(authority.file("acme/new"), both).unwrap();
    std::fs::rename(authority.file("acme/new"), authority.file("acme/a.test.pem")).unwrap();
    issued(&gateway, &ours, "a.test").await;
}

#[tokio::test]
async fn an_authority_that_knows_its_customers_is_told_who_orders() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let [plain, tls] = [free_port(), free_port()];
    let manner = Manner { customer: Some(("customer-7", KEY)), ..Manner::asking(plain, tls) };
    let Some(pebble) = Pebble::start(&authority, &manner).await else { return };
    let hmac = authority.file("eab.key");
    let how = acme(&authority, &manner, "a.test", "challenge: tls-alpn-01");
    let known = format!("{how}, eab: {{ key_id: customer-7, hmac_file: {hmac} }}");
    // Somebody else's key, and nobody's.
    std::fs::write(&hmac, "AAAA").unwrap();
    for how in [&known, &how] {
        let gateway = gateway(&web, [free_port(), free_port()], how, "").await;
        gateway.log_line("certificate of a.test: the authority refuses").await;
    }
    std::fs::write(&hmac, format!("{KEY}\n")).unwrap();
    let gateway = gateway(&web, [plain, tls], &known, "").await;
    issued(&gateway, &pebble.client(&authority).await, "a.test").await;
}

#[tokio::test]
async fn an_authority_may_want_a_certificate_renewed_before_it_is_time() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let [plain, tls] = [free_port(), free_port()];
    let manner = Manner::asking(plain, tls);
    let Some(pebble) = Pebble::start(&authority, &manner).await else { return };
    // Debian's Pebble has no renewal information: this stands before it and adds that (RFC 9773).
    let real = authority.client(&[]).connect(([127, 0, 0, 1], manner.port).into(), "localhost").await.unwrap();
    // Its addresses are those by which it is asked.
    let host = format!("Host: localhost:{}\r\n", manner.port);
    let said = Client::over(real).get_with("/dir", &host).await.text();
    let directory: serde_json::Value = serde_json::from_str(&said).unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    let config = authority.server(&authority.sign(&["localhost"]), false);
    let stand_in = Scripted::start_tls(config, move |mut client, _| {
        let (asked, mut directory) = (Arc::clone(&noted), directory.clone());
        async move {
            while let Some(request) = client.request().await {
                let head = String::from_utf8_lossy(&request.head).to_lowercase();
                let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
                let target = String::from_utf8_lossy(&request.head).split(' ').nth(1).unwrap().to_owned();
                let body = match target.strip_prefix("/renewal/") {
                    None => {
                        directory["renewalInfo"] = format!("https://{host}/renewal").into();
                        directory.to_string()
                    }
                    Some(certificate) => {
                        let mut asked = asked.lock().unwrap();
                        let year = if asked.iter().all(|other| other == certificate) { 2020 } else { 2090 };
                        asked.push(certificate.to_owned());
                        let at = |day: u32| format!("{year}-01-{day:02}T00:00:00Z");
                        serde_json::json!({ "suggestedWindow": { "start": at(1), "end": at(2) } }).to_string()
                    }
                };
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nRetry-After: 21600\r\n\r\n{body}");
                if client.try_send(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let how = acme(&authority, &manner, "a.test", "challenge: tls-alpn-01");
    let how = how.replace(&manner.directory(), &format!("https://localhost:{}/dir", stand_in.address().port()));
    let gateway = gateway(&web, [plain, tls], &how, "").await;
    let client = pebble.client(&authority).await;
    let first = issued(&gateway, &client, "a.test").await;
    eventually("it is renewed", async || {
        let stream = client.anew().connect(gateway.address("web"), "a.test").await;
        stream.is_ok_and(|stream| *shown(&stream) != first)
    })
    .await;
    gateway.log_line("certificate of a.test: the authority asks for another one").await;
    let (_, certificate) = x509_parser::parse_x509_certificate(&first).unwrap();
    let serial = URL_SAFE_NO_PAD.encode(certificate.raw_serial());
    let named = asked.lock().unwrap()[0].clone();
    assert!(named.ends_with(&format!(".{serial}")) && named.split('.').count() == 2, "{named} is {serial}");
}
