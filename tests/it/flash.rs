//! Flash socket policies, on a port of their own and beside HTTP.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{Client, Echo, Gateway, eventually};

const REQUEST: &[u8] = b"<policy-file-request/>\0";
const HEAD: &str = "<?xml version=\"1.0\"?><!DOCTYPE cross-domain-policy SYSTEM \
                    \"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd\"><cross-domain-policy>";

/// What players have to get for these rules.
fn policy(rules: &str) -> String {
    format!("{HEAD}{rules}</cross-domain-policy>\0")
}

/// A gateway with a policy listener, and a listener for HTTP that answers policy requests too.
async fn gateway(flash_policy: &str) -> (Gateway, Echo) {
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: policy, address: 127.0.0.1:0, protocol: flash_policy }}
  - {{ name: web, address: 127.0.0.1:0, detect: {{ flash_policy: true }} }}
routes:
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
{flash_policy}",
        web.address()
    ))
    .await;
    (gateway, web)
}

async fn ask(gateway: &Gateway, listener: &str) -> String {
    let mut client = Client::connect(gateway.address(listener)).await;
    client.send(REQUEST).await;
    String::from_utf8(client.read_all().await).unwrap()
}

async fn nobody_is_left(gateway: &Gateway) {
    eventually("nobody is left", async || {
        gateway.metric("sockgate_connections_open{listener=\"policy\"}").await == 0.0
            && gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn flash_843() {
    let (gateway, _web) = gateway("").await;
    let everybody = policy("<allow-access-from domain=\"*\" to-ports=\"*\"/>");
    for listener in ["policy", "web"] {
        assert_eq!(ask(&gateway, listener).await, everybody, "{listener}");
        let mut slow = Client::connect(gateway.address(listener)).await;
        for byte in REQUEST {
            slow.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(slow.read_all().await, everybody.as_bytes(), "{listener}, byte by byte");
    }
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    nobody_is_left(&gateway).await;
}

#[tokio::test]
async fn the_policy_is_the_configured_one() {
    let rules = "[{ domain: \"*.example.com\", ports: \"80,443\" }, { domain: a.test, ports: 8000-8100 }]";
    let (listed, _web) = gateway(&format!("flash_policy: {{ allow: {rules} }}")).await;
    let expected = policy(
        "<allow-access-from domain=\"*.example.com\" to-ports=\"80,443\"/>\
         <allow-access-from domain=\"a.test\" to-ports=\"8000-8100\"/>",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.xml");
    let xml = "<?xml version=\"1.0\"?>\n<cross-domain-policy>\n  <!-- mine -->\n</cross-domain-policy>\n";
    std::fs::write(&file, xml).unwrap();
    let (filed, _web) = gateway(&format!("flash_policy: {{ file: {} }}", file.display())).await;
    for listener in ["policy", "web"] {
        assert_eq!(ask(&listed, listener).await, expected, "{listener}");
        assert_eq!(ask(&filed, listener).await, format!("{xml}\0"), "{listener}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_policy_stops_the_gateway_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.xml");
    let yaml = format!(
        "listeners:\n  - {{ address: 127.0.0.1:0, protocol: flash_policy }}\nflash_policy: {{ file: {} }}\n",
        file.display()
    );
    for content in [None, Some("<html/>"), Some("")] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let (code, said) = Gateway::fails(&yaml).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&*file.to_string_lossy()), "{said}");
    }
}

#[tokio::test]
async fn clients_of_a_policy_listener_are_bounded_in_time() {
    let (gateway, _web) = gateway("flash_policy: { timeout: 400ms }").await;
    let began = Instant::now();
    let mut silent = Client::connect(gateway.address("policy")).await;
    let mut dripping = Client::connect(gateway.address("policy")).await;
    let drip = async {
        for byte in REQUEST {
            if dripping.try_send([*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        dripping.read_all().await
    };
    let (silence, dripped) = tokio::join!(silent.read_all(), drip);
    assert!(silence.is_empty() && dripped.is_empty(), "late is late, though the last byte came in time for itself");
    assert!(began.elapsed() >= Duration::from_millis(400));
    nobody_is_left(&gateway).await;
}

#[tokio::test]
async fn clients_of_a_policy_listener_are_bounded_in_bytes() {
    let (gateway, _web) = gateway("flash_policy: { timeout: 60s }").await;
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"<policy-file-request>\0", b"\0", &[b'<'; 100_000]] {
        let mut client = Client::connect(gateway.address("policy")).await;
        // It may be refused while it is still being sent.
        let _ = client.try_send(garbage).await;
        assert!(client.read_all().await.is_empty(), "{:?} gets nothing, at once", &garbage[..garbage.len().min(30)]);
    }
    let mut talkative = Client::connect(gateway.address("policy")).await;
    talkative.send([REQUEST, &[b'x'; 50_000]].concat()).await;
    assert!(talkative.read_all().await.ends_with(b"</cross-domain-policy>\0"));
    drop(talkative);
    nobody_is_left(&gateway).await;
    let mut endless = Client::connect(gateway.address("policy")).await;
    endless.send(REQUEST).await;
    while endless.try_send([b'x'; 50_000]).await.is_ok() {}
    nobody_is_left(&gateway).await;
}

#[tokio::test]
async fn a_client_that_keeps_its_side_open_takes_no_place_for_long() {
    let (gateway, _web) = gateway("").await;
    let mut kept = Vec::new();
    for listener in ["policy", "web"] {
        let mut client = Client::connect(gateway.address(listener)).await;
        client.send(REQUEST).await;
        assert!(client.read_all().await.ends_with(b"</cross-domain-policy>\0"));
        kept.push(client);
    }
    nobody_is_left(&gateway).await;
}

#[tokio::test]
async fn many_players_at_once_all_get_it() {
    let (gateway, _web) = gateway("").await;
    let mut players = JoinSet::new();
    let mut silent = Vec::new();
    for number in 0..400 {
        let address = gateway.address(if number % 2 == 0 { "policy" } else { "web" });
        if number % 4 == 0 {
            silent.push(Client::connect(address).await);
        }
        players.spawn(async move {
            let mut player = Client::connect(address).await;
            let (start, end) = REQUEST.split_at(number % REQUEST.len());
            player.send(start).await;
            tokio::task::yield_now().await;
            player.send(end).await;
            player.read_all().await
        });
    }
    let whole = policy("<allow-access-from domain=\"*\" to-ports=\"*\"/>").into_bytes();
    assert!(players.join_all().await.iter().all(|got| *got == whole));
    nobody_is_left(&gateway).await;
}
