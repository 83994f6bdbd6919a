//! What befalls the gateway itself: handlers that panic, certificates that turn into garbage, clients that drip.

use std::sync::Arc;
use std::time::Duration;

use sockgate::{Action, Config, Decision, Request, Route, Router};
use tokio::task::JoinSet;

use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::load::{Load, failed};
use crate::support::tls::Authority;
use crate::support::websocket::{echoes, upgrade};
use crate::support::{Client, Echo, Gateway, eventually, within};

for_each_engine! {
    slow_loris_clients_hold_up_nobody_and_are_cut,
}

#[tokio::test]
async fn a_certificate_that_turns_into_garbage_ends_no_running_gateway() {
    let authority = Authority::new();
    let issued = authority.sign(&["a.test"]);
    let server = Echo::start("a").await;
    let yaml = format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes:
  - upstream: app
upstreams:
  app: {{ servers: [\"{}\"] }}
",
        issued.yaml(),
        server.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let tls = authority.client(&["http/1.1"]);
    let mut open = Client::over(tls.connect(gateway.address("web"), "a.test").await.unwrap());
    assert_eq!(open.get("/").await.status, 200);
    std::fs::write(&issued.cert, "garbage").unwrap();
    std::fs::write(&issued.key, "").unwrap();
    assert_eq!(open.get("/").await.status, 200);
    // A client that has no ticket yet.
    let stranger = authority.client(&["http/1.1"]);
    for round in 1..=20 {
        let mut next = Client::over(stranger.connect(gateway.address("web"), "a.test").await.unwrap());
        assert_eq!(next.get("/").await.status, 200, "handshake {round} of 20");
    }
    // The next one to start is told.
    let (code, said) = Gateway::fails(&yaml.replace("name: web, ", "")).await;
    assert!(code == 1 && said.contains(&issued.cert), "{code}: {said}");
}

async fn slow_loris_clients_hold_up_nobody_and_are_cut() {
    const LORISES: usize = 500;
    let server = Echo::start("a").await;
    let gateway = Gateway::before(&[server.address()], "", "timeouts: { head: 3s }").await;
    let address = gateway.address("web");
    let mut lorises = JoinSet::new();
    for _ in 0..LORISES {
        lorises.spawn(async move {
            let mut client = Client::connect(address).await;
            let _ = client.try_send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
            let mut said = Vec::new();
            let dripping = async {
                while client.try_send("y").await.is_ok() {
                    match tokio::time::timeout(Duration::from_millis(250), client.some()).await {
                        Ok(Some(bytes)) => said.extend(bytes),
                        Ok(None) => break,
                        Err(_) => {}
                    }
                }
            };
            within("the loris is cut", dripping).await;
            said.starts_with(b"HTTP/1.1 408 ")
        });
    }
    let open = "sockgate_connections_open{listener=\"web\"}";
    eventually("all drip", async || gateway.metric(open).await >= LORISES as f64).await;
    let load = Load::start(&gateway, 4);
    load.goes_on(400).await;
    let among = gateway.metric(open).await;
    let tally = load.stop().await;
    assert_eq!(failed(&tally), 0, "{tally:?}");
    let told = lorises.join_all().await.into_iter().filter(|told| *told).count();
    let cut = gateway.metric("sockgate_refusals_total{reason=\"head_timeout\"}").await;
    assert_eq!(cut, LORISES as f64, "{told} of them read why");
    eventually("their places are free", async || gateway.metric(open).await == 0.0).await;
    eprintln!("loris: {tally:?} beside {LORISES} ({among} connections after these), all cut, {told} read 408");
}

/// A router that panics on one path.
struct Fragile(Arc<Route>);

impl Router for Fragile {
    fn route(&self, request: &Request<'_>) -> Decision {
        assert_ne!(request.path.canonical, "/panic", "on purpose, in a test");
        Decision::To(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_costs_one_connection_and_is_counted() {
    let server = Echo::start("a").await;
    let yaml = format!(
        "
listeners: [{{ name: web, address: 127.0.0.1:0 }}]
upstreams:
  app: {{ servers: [\"{}\"], health: {{ check: none }} }}
access_log: {{ format: \"off\" }}
admin: {{ address: 127.0.0.1:0 }}
",
        server.address()
    );
    let config = Config::read("test.yaml", &yaml, &|_| None).unwrap().config;
    let route = Arc::new(Route::new("all", Action::Upstream("app".into())));
    let gateway = sockgate::Gateway::builder(config).router(Fragile(route)).build().unwrap();
    let address = |name: &str| gateway.address(name).unwrap().parse::<std::net::SocketAddr>().unwrap();
    let (web, admin, handle) = (address("web"), address("admin"), gateway.handle());
    let running = std::thread::spawn(move || gateway.run());
    let panics = async || {
        let text = Client::connect(admin).await.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix("sockgate_panics_total ")).unwrap().to_owned();
        line.parse::<f64>().unwrap()
    };

    let mut kept = Client::connect(web).await;
    assert_eq!(kept.get("/").await.status, 200);
    let mut socket = Client::connect(web).await;
    socket.send(upgrade("/")).await;
    assert_eq!(socket.answer().await.status, 101);
    let http2 = Http2::over(Client::connect(web).await.into_stream()).await;
    assert_eq!(http2.get("http://a/").await.status(), 200);

    let mut ended = Client::connect(web).await;
    assert!(ended.try_ask("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await.is_none(), "no answer, and the end");
    eventually("it is counted", async || panics().await == 1.0).await;
    let mut ended = Client::connect(web).await;
    assert!(ended.try_ask(upgrade("/panic")).await.is_none());
    eventually("it is counted", async || panics().await == 2.0).await;
    let request = http::Request::get("http://a/panic").body(()).unwrap();
    assert!(within("the end of the stream", http2.begin(request, "").await).await.is_err());
    eventually("it is counted", async || panics().await == 3.0).await;

    assert_eq!(kept.get("/").await.status, 200, "the others have not noticed");
    assert_eq!(http2.get("http://a/").await.status(), 200, "nor have the other streams of the same connection");
    echoes(&mut socket).await;
    drop((kept, socket, http2));
    handle.stop();
    within("the gateway ends", tokio::task::spawn_blocking(move || running.join().unwrap())).await.unwrap();
}
