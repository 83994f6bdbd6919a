//! What each request and each message costs by itself, as routes, servers and sessions grow in number.
//!
//! `cargo bench` measures; `cargo bench -- --test` runs each once; `cargo bench -- route` measures some.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "what the macros of criterion make; an unwrap is an assertion here"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::FutureExt;
use serde_json::json;
use sockgate::internals::{
    Client, Forwarding, FrameCounts, FrameTracker, HandshakeReader, How, Metrics, Onward, Routes, SessionTable, Tried,
    Upstream, host_name, opening, request_body,
};
use sockgate::{Headers, Path, PickKey, Request, Router};

/// What a browser sends.
const HEAD: &str = "GET /app/700/socket.io/?EIO=4&transport=polling&t=PXkQ1rJ HTTP/1.1\r\n\
    Host: h700.example.com\r\nConnection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\
    Referer: https://h700.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en,de;q=0.9\r\n\
    Cookie: theme=dark; sockgate_app=bWFkZSB1cCBmb3IgdGhpcw\r\n\r\n";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// Parses the head and hands it over.
fn with_head<T>(then: impl FnOnce(&httparse::Request<'_, '_>) -> T) -> T {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut fields);
    head.parse(HEAD.as_bytes()).unwrap();
    then(&head)
}

fn with_request<T>(then: impl FnOnce(&Request<'_>) -> T) -> T {
    with_head(|head| {
        let headers = Headers::Fields(head.headers);
        let (path, query) = head.path.unwrap().split_once('?').unwrap();
        let request = Request {
            method: head.method.unwrap(),
            host: headers.get("host").map(|host| host_name(std::str::from_utf8(host).unwrap())),
            path: Path::read(path).unwrap(),
            query: Some(query),
            headers,
            websocket: false,
            listener: "web",
            port: 80,
            secure: false,
            server_name: None,
            client: PEER,
        };
        then(&request)
    })
}

/// Parsing a head, the rules of framing, and the fields as a server gets them.
fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    group.bench_function("parse", |bencher| bencher.iter(|| with_head(|head| black_box(head.headers.len()))));
    let forwarding = Forwarding::default();
    with_head(|head| {
        let headers = Headers::Fields(head.headers);
        group.bench_function("rules", |bencher| {
            bencher.iter(|| {
                let body = request_body(1, black_box(head.headers)).unwrap();
                (body, opening("GET", 1, &headers), Path::read(black_box("/app/700/socket.io/")).unwrap())
            })
        });
        group.bench_function("forward", |bencher| {
            let mut written = Vec::with_capacity(2048);
            bencher.iter(|| {
                written.clear();
                let seen = Client {
                    peer: PEER,
                    client: PEER,
                    local_port: 80,
                    secure: false,
                    authority: Some("h700.example.com"),
                    headers,
                };
                let id = forwarding.request_id(PEER, headers);
                let onward = Onward::new(&forwarding, seen, &id);
                let mut write = |name: &str, value: &[u8]| {
                    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                        written.extend_from_slice(part);
                    }
                };
                for field in black_box(&*head.headers) {
                    if onward.passes(field.name, |_| true) {
                        write(field.name, field.value);
                    }
                }
                onward.add(|name, value| write(&name, value));
                written.len()
            })
        });
    });
    group.finish();
}

/// The one that matches is in the middle; behind all is one that takes the rest.
fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [1, 10, 1000] {
        for by in ["path", "host", "wildcard", "nothing"] {
            let configs: Vec<_> = (0..count)
                .map(|number| {
                    // Number 700 of 1000, and one of ten or one.
                    let number = if count == 1000 { number } else { 700 + number };
                    let matches = match by {
                        "path" => json!({ "path": format!("/app/{number}") }),
                        "host" => json!({ "host": format!("h{number}.example.com") }),
                        "wildcard" => json!({ "host": format!("*.h{number}.example.com") }),
                        _ => json!({ "path": format!("/other/{number}"), "host": format!("o{number}.example.com") }),
                    };
                    json!({ "match": matches, "upstream": "app" })
                })
                .chain([json!({ "upstream": "rest" })])
                .map(|config| serde_json::from_value(config).unwrap())
                .collect();
            let routes = Routes::build(&configs);
            with_request(|request| {
                group.bench_function(BenchmarkId::new(by, count), |bencher| {
                    bencher.iter(|| routes.route(black_box(request)));
                });
            });
        }
    }
    group.finish();
}

/// One rule, said by keys of `match` and as an expression.
fn expression(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expression");
    let said = [
        ("keys", json!({ "headers": { "user-agent": "*" }, "method": "GET", "not": { "client": "10.0.0.0/8" } })),
        (
            "cel",
            json!({ "when": "'user-agent' in request.headers && request.method == 'GET' && !(client.ip in cidr('10.0.0.0/8'))" }),
        ),
        ("regex", json!({ "path_regex": "^/app/[0-9]+/" })),
        ("cel regex", json!({ "when": "request.path.matches('^/app/[0-9]+/')" })),
    ];
    for (name, matches) in said {
        let config = json!({ "match": matches, "upstream": "app" });
        let routes = Routes::build(&[serde_json::from_value(config).unwrap()]);
        with_request(|request| {
            group.bench_function(name, |bencher| bencher.iter(|| routes.route(black_box(request))));
        });
    }
    group.finish();
}

/// A place on a server, given back at once.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    let metrics = Metrics::new().unwrap();
    for count in [2u32, 100, 1000] {
        let addresses: Vec<String> =
            (0..count).map(|number| format!("{}:80", Ipv4Addr::from_bits(0x0a00_0001 + number))).collect();
        for balance in ["round_robin", "least_connections", "random_two", "client_ip", "client_ip_sessions"] {
            let sessions = balance == "client_ip_sessions";
            let (kind, balance_key) = if sessions { ("socket.io", "client_ip") } else { ("http", balance) };
            let config = json!({
                "kind": kind, "balance": balance_key, "servers": addresses, "health": { "check": "none" },
            });
            let upstream =
                Upstream::build("app", &serde_json::from_value(config).unwrap(), metrics.upstream("app")).unwrap();
            let mut number = 0u32;
            group.bench_function(BenchmarkId::new(balance, count), |bencher| {
                bencher.iter(|| {
                    number = number.wrapping_add(0x9e37_79b9);
                    let key = PickKey::from(IpAddr::from(Ipv4Addr::from_bits(number)));
                    upstream.pick(&key, &mut Tried::default()).now_or_never().unwrap().unwrap()
                });
            });
        }
    }
    group.finish();
}

/// A handshake as it passes, and the table that knows the session from then on.
fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    let answer = br#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
    group.bench_function("learn/reader", |bencher| bencher.iter(|| HandshakeReader::new().push(black_box(answer))));
    group.bench_function("learn/reader of another answer", |bencher| {
        bencher.iter(|| HandshakeReader::new().push(black_box(b"<!doctype html><html><body>no handshake")))
    });
    for count in [1_000usize, 1_000_000] {
        let table: Arc<SessionTable> = SessionTable::new(count);
        let home = table.home(1);
        let sids: Vec<String> = (0..count).map(|number| format!("{number:020x}")).collect();
        for sid in &sids {
            table.learn(table.key(sid), &home, Duration::from_secs(3600), How::Handshake);
        }
        let mut at = 0;
        group.bench_function(BenchmarkId::new("find", count), |bencher| {
            bencher.iter(|| {
                at = (at + 611_953) % count;
                table.find(table.key(&sids[at])).map(|found| found.server)
            });
        });
    }
    group.finish();
}

/// Following messages of a client, masked, in reads of 16 KiB.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    for size in [16usize, 64, 1024, 65_000] {
        let mut frame = vec![0x82];
        match size {
            0..126 => frame.push(0x80 | size as u8),
            126.. => {
                frame.push(0x80 | 126);
                frame.extend((size as u16).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(vec![b'x'; size]);
        let stream = frame.repeat((1 << 20) / frame.len());
        group.throughput(Throughput::Elements((stream.len() / frame.len()) as u64));
        group.bench_function(BenchmarkId::new("advance", size), |bencher| {
            bencher.iter(|| {
                let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
                for read in stream.chunks(16 * 1024) {
                    tracker.advance(black_box(read), &mut seen).unwrap();
                }
                seen.messages
            });
        });
    }
    group.finish();
}

criterion_group!(benches, head, route, expression, pick, sessions, frames);
criterion_main!(benches);
