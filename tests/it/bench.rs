//! What `scripts/bench` brings to a gateway is what it says, and `conf/bench.yaml` stands up to it. Nothing is timed.

#![allow(dead_code, unused_imports, reason = "the bench uses all of them")]

use std::collections::HashMap;

use crate::support::engine::for_each_engine;
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway};

#[path = "../../tools/bench/backend/mod.rs"]
mod backend;
#[path = "../../tools/bench/load/mod.rs"]
mod load;

use load::http::Requests;
use load::socket_io::{Events, Lives, Returns};
use load::tcp::Bulk;
use load::websocket::Echo;
use load::{Outcome, Pace, Target, Until, Work, drive, open};

for_each_engine! {
    the_bench_gateway_answers_by_itself_in_every_size,
    an_answer_with_a_delay_is_held_back_for_as_long,
    what_the_bench_brings_reaches_its_servers_through_the_gateway,
    socket_io_sessions_of_the_bench_live_return_and_are_acknowledged,
    an_open_loop_counts_what_fails,
}

async fn gateway() -> Gateway {
    let any = "127.0.0.1:0".parse().unwrap();
    let servers = backend::start(&[any, any], any).unwrap();
    let variables = [
        ("BENCH_THREADS", "1".to_owned()),
        ("BENCH_LISTEN", any.to_string()),
        ("BENCH_RAW", any.to_string()),
        ("BENCH_ADMIN", any.to_string()),
        ("BENCH_SERVER_1", servers.http[0].to_string()),
        ("BENCH_SERVER_2", servers.http[1].to_string()),
        ("BENCH_TCP_SERVER", servers.tcp.to_string()),
    ];
    let yaml = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/bench.yaml")).unwrap();
    Gateway::start_with(&yaml, &HashMap::from(variables)).await
}

fn target(gateway: &Gateway, listener: &str) -> Target {
    Target { address: gateway.address(listener), host: "localhost".into(), tls: None }
}

/// So many units by a few workers, none of which may fail.
async fn bring<W: Work>(units: u64, worker: impl Fn(usize) -> W) -> Outcome {
    let (workers, opened) = open((0..4).map(worker).collect()).await;
    assert_eq!(opened.failures, std::collections::BTreeMap::new());
    let (_, outcome) = drive(workers, Pace::Closed, Until::Count(units)).await;
    assert_eq!(outcome.failures, std::collections::BTreeMap::new());
    assert_eq!(outcome.done, units);
    outcome
}

async fn the_bench_gateway_answers_by_itself_in_every_size() {
    let gateway = gateway().await;
    let target = target(&gateway, "web");
    let sizes = [("/empty", 0), ("/hello", 6), ("/100", 100), ("/1k", 1024), ("/64k", 65536), ("/1m", 1 << 20)];
    for (path, size) in sizes {
        let outcome = bring(8, |source| Requests::get(&target, source, path, false)).await;
        assert_eq!(outcome.bytes, 8 * size, "{path}");
    }
    let answer = Client::connect(target.address).await.get("/503").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "not now\n"));
}

async fn an_answer_with_a_delay_is_held_back_for_as_long() {
    let gateway = gateway().await;
    let target = target(&gateway, "web");
    let outcome = bring(8, |source| Requests::get(&target, source, "/10ms", false)).await;
    assert_eq!(outcome.bytes, 800);
    // It may be late as can be on a busy machine, but never early.
    let held = std::time::Duration::from_millis(10);
    assert!(outcome.latency.quantile(0.0) >= held);
    let mut client = Client::connect(target.address).await;
    let asked = std::time::Instant::now();
    client.send(upgrade("/10ms")).await;
    assert_eq!(client.answer().await.status, 200);
    assert!(asked.elapsed() >= held, "an upgrade that is answered here waits as well");
}

async fn what_the_bench_brings_reaches_its_servers_through_the_gateway() {
    let gateway = gateway().await;
    let (web, raw) = (target(&gateway, "web"), target(&gateway, "raw"));
    for fresh in [false, true] {
        let outcome = bring(12, |source| Requests::get(&web, source, "/bytes/100", fresh)).await;
        assert_eq!(outcome.bytes, 1200);
    }
    bring(12, |source| Echo::new(&web, source, "/echo", 64)).await;
    bring(12, |source| Echo::new(&web, source, "/echo", 70_000)).await;
    let outcome = bring(4, |source| Bulk::new(&raw, source, 300_000)).await;
    assert_eq!(outcome.bytes, 1_200_000);
}

async fn socket_io_sessions_of_the_bench_live_return_and_are_acknowledged() {
    let gateway = gateway().await;
    let web = target(&gateway, "web");
    bring(8, |source| Lives { target: web.clone(), source, events: 3 }).await;
    bring(8, |source| Returns::new(&web, source)).await;
    bring(20, |source| Events::new(&web, source)).await;
    let text = gateway.admin("/metrics").await.text();
    let opened = text.lines().filter(|line| line.starts_with("sockgate_sessions_opened_total{upstream=\"socket_io\""));
    let opened: f64 = opened.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    // Each life, each return and what it returned from, each session that sent events.
    assert_eq!(opened, 8.0 + (4.0 + 8.0) + 4.0, "all sessions were learned");
}

async fn an_open_loop_counts_what_fails() {
    let gateway = gateway().await;
    let web = target(&gateway, "web");
    let workers = (0..4).map(|source| Requests::get(&web, source, "/503", false)).collect();
    let (_, outcome) = drive(workers, Pace::PerSecond(1000.0), Until::Count(20)).await;
    assert_eq!((outcome.done, outcome.failures["status 503"]), (0, 20));
}
