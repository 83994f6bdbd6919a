//! Who reads slowly costs the gateway no memory: what a peer does not take is not fetched for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::client::numbered;
use crate::support::engine::for_each_engine;
use crate::support::tls::Authority;
use crate::support::websocket::{BINARY, FIN, SWITCH, frame, tunnel, upgrade};
use crate::support::{A_WHILE, Client, Gateway, Puppet, eventually, within};

for_each_engine! {
    who_reads_slowly_costs_no_memory_in_either_direction,
}

async fn who_reads_slowly_costs_no_memory_in_either_direction() {
    const OFFERED: usize = 50_000_000;
    const PART: usize = 100_000;
    let (server, gateway) = Gateway::before_puppet("").await;
    for client_reads_late in [true, false] {
        let mut client = gateway.client().await;
        let body = if client_reads_late { 0 } else { OFFERED };
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n")).await;
        let mut inside = server.accept().await;
        inside.read_until(b"\r\n\r\n").await;
        let (mut reader, mut writer) = if client_reads_late {
            inside.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {OFFERED}\r\n\r\n")).await;
            client.read_until(b"\r\n\r\n").await;
            (client, inside)
        } else {
            (inside, client)
        };
        let before = gateway.memory();
        let written = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&written);
        let writing = tokio::spawn(async move {
            let part = vec![0; PART];
            for _ in 0..OFFERED / PART {
                writer.try_send(&part).await.unwrap();
                count.fetch_add(PART, Ordering::Relaxed);
            }
            writer
        });
        // Nothing announces that a writer stands still.
        let mut last = usize::MAX;
        eventually("nothing more is taken", async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = written.load(Ordering::Relaxed);
            std::mem::replace(&mut last, now) == now
        })
        .await;
        let way = if client_reads_late { "the client of an answer" } else { "the server of a body" };
        assert!(last < OFFERED, "{way}: everything was taken");
        let waiting = gateway.memory().saturating_sub(before);
        assert!(waiting < 4 * 1024, "{way}: {waiting} KiB more while {last} bytes wait");
        let mut got = 0;
        while got < OFFERED {
            let some = within("the rest", reader.some()).await;
            got += some.unwrap_or_else(|| panic!("{way}: cut after {got}")).len();
        }
        assert_eq!(got, OFFERED, "{way}: and all of it arrives");
        drop(writing.await.unwrap());
        let after = gateway.memory().saturating_sub(before);
        assert!(after < 8 * 1024, "{way}: {after} KiB more after all");
        eprintln!("slow reader, {way}: {waiting} KiB while {last} bytes wait, {after} KiB after {OFFERED}");
    }
}

#[tokio::test]
async fn a_slow_reader_costs_no_memory_on_either_side_plain_or_over_tls() {
    let authority = Authority::new();
    let (front, back) = (authority.sign(&["localhost"]), authority.sign(&["127.0.0.1"]));
    let server = Puppet::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ certificates: [{0}] }} }}
  - {{ name: raw, address: 127.0.0.1:0, protocol: tcp, upstream: raw }}
routes:
  - {{ match: {{ path: /secure }}, upstream: secure }}
  - upstream: app
upstreams:
  app: {{ servers: [\"{1}\"], health: {{ check: none }} }}
  secure: {{ servers: [\"{1}\"], health: {{ check: none }}, tls: {{ ca: {2} }} }}
  raw: {{ kind: tcp, servers: [\"{1}\"], health: {{ check: none }} }}
",
        front.yaml(),
        server.address(),
        authority.ca()
    ))
    .await;
    for client_reads_late in [true, false] {
        let mut client = Client::connect(gateway.address("raw")).await;
        client.send("x").await;
        let mut inside = server.accept().await;
        inside.read(1).await;
        slow_reader(&gateway, "raw", client, inside, client_reads_late).await;

        let (client, inside) = tunnel(&gateway, &server).await;
        slow_reader(&gateway, "plain", client, inside, client_reads_late).await;

        let stream = authority.client(&[]).connect(gateway.address("secure"), "localhost").await.unwrap();
        let mut client = Client::over(stream);
        client.send(upgrade("/secure")).await;
        let mut inside = server.accept_tls(authority.server(&back, false)).await;
        inside.request().await.unwrap();
        inside.send(SWITCH).await;
        assert_eq!(client.answer().await.status, 101);
        slow_reader(&gateway, "TLS", client, inside, client_reads_late).await;
    }
}

/// One side writes and writes while the other does not read; then it does.
async fn slow_reader(gateway: &Gateway, way: &str, client: Client, inside: Client, client_reads_late: bool) {
    const OFFERED: usize = 50_000_000;
    let (mut reader, mut writer) = if client_reads_late { (client, inside) } else { (inside, client) };
    let way = format!("{way}, {} reads late", if client_reads_late { "the client" } else { "the server" });
    let before = gateway.memory();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let writing = tokio::spawn(async move {
        let part = frame(FIN | BINARY, &numbered(99_990), false);
        assert_eq!(part.len(), 100_000);
        for _ in 0..OFFERED / part.len() {
            writer.try_send(&part).await.unwrap();
            count.fetch_add(part.len(), Ordering::Relaxed);
        }
        writer.finish().await;
        writer
    });
    // Nothing announces that a writer stands still.
    let mut last = usize::MAX;
    eventually("the writer can't write any more", async || {
        tokio::time::sleep(A_WHILE).await;
        let now = written.load(Ordering::Relaxed);
        std::mem::replace(&mut last, now) == now
    })
    .await;
    assert!(!writing.is_finished(), "{way}: {last} bytes were taken");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 4 * 1024, "{way}: {grown} KiB more while {last} bytes wait");
    let mut got = 0;
    while let Some(bytes) = reader.some().await {
        got += bytes.len();
    }
    assert_eq!(got, OFFERED, "{way}: and all of it arrives");
    writing.await.unwrap();
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 8 * 1024, "{way}: {grown} KiB more after all");
}
