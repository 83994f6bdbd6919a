//! Reloads by the dozen and by the thousand: nothing fails under load, and nothing leaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal::SIGTERM;

use super::{json, yaml};
use crate::support::tls::Authority;
use crate::support::websocket::{echoes, socket};
use crate::support::{Client, Echo, Gateway, eventually, within};

#[tokio::test]
async fn twenty_reloads_under_load_fail_no_request_and_drop_no_socket() {
    const SOCKETS: usize = 100;
    let (web, extra, authority) = (Echo::start("web").await, Echo::start("extra").await, Authority::new());
    let certificates = [authority.sign(&["localhost"]), authority.sign(&["other.example"])];
    let said = |round: usize| {
        let odd = round % 2 == 1;
        let shown: Vec<String> = certificates[..if odd { 2 } else { 1 }].iter().map(|issued| issued.yaml()).collect();
        let server = if odd { format!(", \"{}\"", extra.address()) } else { String::new() };
        let route = if odd { "  - { name: more, match: { path: /more }, upstream: more }\n" } else { "" };
        let upstream = if odd { format!("  more: {{ servers: [\"{}\"] }}\n", extra.address()) } else { String::new() };
        format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes:
{route}  - {{ name: sockets, match: {{ path: /socket }}, upstream: sockets }}
  - {{ name: web, upstream: web }}
upstreams:
{upstream}  sockets: {{ servers: [\"{}\"] }}
  web: {{ servers: [\"{}\"{server}] }}
reload: {{ watch: false }}
",
            shown.join(", "),
            web.address(),
            web.address(),
        )
    };
    let mut gateway = Gateway::start(&said(0)).await;
    let (plain, secure) = (gateway.address("web"), gateway.address("secure"));
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(socket(&gateway).await);
    }
    let (go_on, answered) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let trusting = authority.client(&[]);
    let asking = (0..4).map(|number: usize| {
        let (go_on, answered, trusting) = (Arc::clone(&go_on), Arc::clone(&answered), trusting.clone());
        tokio::spawn(async move {
            let mut kept = Client::connect(plain).await;
            while go_on.load(Ordering::Relaxed) {
                // One connection is kept over all reloads, the others are new each time, half of them over TLS.
                assert_eq!(kept.get("/").await.status, 200);
                let mut fresh = match number % 2 {
                    0 => Client::connect(plain).await,
                    _ => trusting.open(secure, "localhost").await,
                };
                assert_eq!(fresh.get("/").await.status, 200);
                answered.fetch_add(2, Ordering::Relaxed);
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    for round in 1..=20 {
        let before = answered.load(Ordering::Relaxed);
        let plan = json(&gateway.reload(&said(round)).await);
        assert_eq!(plan["sockets"]["kept"], SOCKETS, "{plan}");
        let some = async || answered.load(Ordering::Relaxed) > before + 8;
        eventually("requests are answered after the reload", some).await;
    }
    go_on.store(false, Ordering::Relaxed);
    for asking in asking {
        within("the requests end", asking).await.unwrap();
    }
    for socket in &mut sockets {
        echoes(socket).await;
    }
    assert_eq!(gateway.metric("sockgate_requests_total{class=\"5xx\",upstream=\"web\"}").await, 0.0);
}

#[tokio::test]
async fn a_thousand_reloads_leak_nothing() {
    let (web, extra) = (Echo::start("web").await, Echo::start("extra").await);
    let said = |round: usize| match round % 2 {
        0 => yaml(web.address(), ""),
        // Names that were not there before, since whoever is gone is not to be counted for ever.
        _ => yaml(web.address(), "")
            .replace(
                "routes:",
                &format!(
                    "  - {{ name: more{round}, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ path: /x }}, upstream: extra{round} }}"
                ),
            )
            .replace("upstreams:", &format!("upstreams:\n  extra{round}: {{ servers: [\"{}\"] }}", extra.address())),
    };
    let mut gateway = Gateway::start(&said(0)).await;
    let mut admin = Client::connect(gateway.address("admin")).await;
    let mut socket = socket(&gateway).await;
    let mut load = async |rounds: std::ops::Range<usize>| {
        for round in rounds {
            gateway.rewrite(&said(round));
            assert_eq!(admin.post("/reload", b"").await.status, 200);
            if round % 100 == 0 {
                assert_eq!(gateway.client().await.get("/").await.status, 200);
            }
        }
    };
    load(0..200).await;
    let (files, memory) = (gateway.files(), gateway.memory());
    load(200..1000).await;
    echoes(&mut socket).await;
    drop(admin);
    let back = async || gateway.files() <= files;
    eventually("as many descriptors are open as before", back).await;
    let grown = gateway.memory().saturating_sub(memory);
    assert!(grown < 4096, "{grown} KiB more than after 200 reloads");
    let told = gateway.admin("/metrics").await.text();
    for name in ["sockgate_requests_total{class=\"2xx\",upstream=\"extra", "sockgate_connections_total{listener=\"more"]
    {
        let names = told.lines().filter(|line| line.starts_with(name)).count();
        assert!(names <= 2, "{names} names are told of that were gone long ago");
    }
    gateway.signal(SIGTERM);
    drop(socket);
    assert_eq!(gateway.ended().await, 0);
}
