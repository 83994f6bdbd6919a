//! What the access log says of requests against what a strict reader saw at the server, for requests that a grammar makes
//! from seeds: well-formed ones, and such as are a little off in any place.
//!
//! `DIFFERENTIAL_SEEDS=1000..9000 cargo nextest run -E 'test(differential)'` tries other seeds than the usual few.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::support::engine::for_each_engine;
use crate::support::{Client, Gateway, Scripted, Setup, eventually};

for_each_engine! {
    the_log_says_what_the_server_saw,
}

/// Requests on one connection.
const ON_ONE: usize = 8;

async fn the_log_says_what_the_server_saw() {
    let seeds = std::env::var("DIFFERENTIAL_SEEDS").ok().and_then(|text| range(&text)).unwrap_or(0..60);
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let server = Scripted::start(move |client, _| serve(client, Arc::clone(&noted))).await;
    // Who announces more than it sends is not waited for longer than a test is.
    let more =
        "access_log: { format: json }\nlimits: { head: 4KiB }\ntimeouts: { head: 5s, body: 5s, keep_alive: 5s }\n";
    let gateway = Setup::before(&[server.address()]).unchecked().more(more).start().await;
    let (mut asked, mut carried, mut logged) = (0, 0, 0);
    for seed in seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        converse(&gateway, seed, &mut rng).await;
        asked += ON_ONE;
        let mut judged = Ok((0, 0));
        eventually(&format!("seed {seed}: the log has a line for each request"), async || {
            judged = judge(&seen.lock().unwrap(), &gateway.access_lines()[logged..]);
            judged.is_ok()
        })
        .await;
        let (at_server, lines) = judged.unwrap();
        seen.lock().unwrap().clear();
        (carried, logged) = (carried + at_server, logged + lines);
    }
    eprintln!("{asked} requests made, {logged} read by the gateway, {carried} by the server");
    assert!(carried * 4 > asked, "most of them are no test of anything: {carried} of {asked} were carried");
    assert!(logged > carried, "none was refused");
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

/// One message as the server read it.
#[derive(Debug)]
struct Seen {
    id: String,
    method: String,
    target: String,
    host: String,
    body: usize,
    /// What a strict reader can't take.
    fault: Option<String>,
}

/// Compares; how many messages the server has seen and how many lines there are.
fn judge(seen: &[Seen], lines: &[String]) -> Result<(usize, usize), String> {
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let mut by_id: HashMap<String, &Value> = HashMap::new();
    // What is refused before it is a request has no id.
    for line in lines.iter().filter(|line| !line["id"].is_null()) {
        assert!(by_id.insert(text(line, "id"), line).is_none(), "two lines for one request: {line}");
    }
    let mut told = HashMap::new();
    for message in seen {
        assert_eq!(message.fault, None, "{message:?}");
        assert!(told.insert(message.id.clone(), ()).is_none(), "one request went to the server twice: {message:?}");
        let Some(line) = by_id.get(&message.id) else { return Err(format!("no line yet for {message:?}")) };
        assert_eq!(text(line, "method"), message.method, "{line} for {message:?}");
        assert_eq!(text(line, "target"), message.target, "{line} for {message:?}");
        assert_eq!(text(line, "host"), message.host, "{line} for {message:?}");
        assert_eq!(line["bytes_in"].as_u64().unwrap_or(0), message.body as u64, "{line} for {message:?}");
        assert!(!text(line, "server").is_empty(), "{line} names no server, and {message:?} went to one");
    }
    for line in &lines {
        let from_server = line["status"] == 200 && !text(line, "server").is_empty();
        assert!(!from_server || told.contains_key(&text(line, "id")), "the server never saw {line}");
    }
    Ok((seen.len(), lines.len()))
}

/// Sends what a seed makes, in pieces, then enough of nothing for whatever waits for more; reads to the end.
async fn converse(gateway: &Gateway, seed: u64, rng: &mut StdRng) {
    let mut bytes = Vec::new();
    for number in 0..ON_ONE {
        bytes.extend(request(rng, &format!("s{seed}r{number}")));
    }
    bytes.extend(format!("GET /s{seed}end HTTP/1.1\r\nHost: end.test\r\nConnection: close\r\n\r\n").bytes());
    bytes.extend(b"no request\r\n\r\n".repeat(700));
    let mut client = gateway.client().await;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rng.random_range(1..=rest.len().min(3000)));
        // It may be refused, and closed, in the middle.
        if client.try_send(piece).await.is_err() {
            break;
        }
        rest = others;
    }
    client.read_all().await;
}

/// One of these, the first far more often than any other.
fn mostly<'a>(rng: &mut StdRng, usual: &'a str, others: &[&'a str]) -> &'a str {
    if rng.random_ratio(1, 100) { others.choose(rng).copied().unwrap_or(usual) } else { usual }
}

/// A request, which says in its path which one it is.
fn request(rng: &mut StdRng, tag: &str) -> Vec<u8> {
    let end = mostly(rng, "\r\n", &["\n", "\r", "\r\r\n", "\n\r\n"]);
    let mut method = *["GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"]
        .choose(rng)
        .expect("a method");
    method =
        mostly(rng, method, &["get", "G T", "G@T", "CONNECT", "TRACE", "PRI", "", "M-SEARCH", "GET\0", "P\u{d6}ST"]);
    let target = target(rng, tag);
    let version = mostly(
        rng,
        "HTTP/1.1",
        &["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/11", "", "HTTP/0.9"],
    );
    let (space, other) = (mostly(rng, " ", &["  ", "\t", "", "\u{b}"]), mostly(rng, " ", &["  ", "\t", "\u{a0}"]));
    let mut head = format!("{method}{space}{target}{other}{version}{end}").into_bytes();
    let host = mostly(
        rng,
        "Host: a.test",
        &[
            "host:a.test",
            "HOST: A.TEST",
            "Host: a.test:8080",
            "Host: a.test\t ",
            "Host: a.test\r\nHost: a.test",
            "Host: a.test\r\nHost: b.test",
            "X-No: host",
            "Host:",
            "Host: a b",
            "Host: u@a.test",
            "Host: a.test, b.test",
            "Host : a.test",
            " Host: a.test",
            "Host: [::1]",
            "Host: a.test/x",
            "Host: \u{e4}.test",
        ],
    );
    let mut fields = vec![host.to_owned()];
    for _ in 0..rng.random_range(0..4) {
        let usual = FIELDS.choose(rng).expect("a field");
        fields.push(mostly(rng, usual, &ODD_FIELDS).replace("TAG", tag));
    }
    let body = body(rng, tag, method, &mut fields);
    if rng.random_ratio(1, 8) {
        let (at, to) = (rng.random_range(0..fields.len()), rng.random_range(0..fields.len()));
        fields.swap(at, to);
    }
    for field in fields {
        head.extend(field.bytes());
        head.extend(mostly(rng, end, &["\r\n", "\n", "\r\n\t", "\r"]).bytes());
    }
    head.extend(mostly(rng, end, &["\r\n", "\n", " \r\n"]).bytes());
    head.extend(body);
    if rng.random_ratio(1, 100) {
        let at = rng.random_range(0..head.len());
        head[at] = rng.random();
    }
    head
}

fn target(rng: &mut StdRng, tag: &str) -> String {
    let more = mostly(
        rng,
        "",
        &[
            "?a=b",
            "?a=b&c=%0d%0aX:%20y",
            "/../x",
            "/..%2fx",
            "/%2e%2e/x",
            "//x",
            "/./x",
            ";a=b",
            "\\x",
            "#part",
            "?#",
            "/\u{e9}",
            "%zz",
            "%00",
            "?q=a b",
            "\"<>",
            "/x|y",
            "?http://b.test/",
        ],
    );
    match rng.random_range(0..60) {
        0 => format!("http://a.test/{tag}{more}"),
        1 => format!("http://b.test/{tag}{more}"),
        2 => format!("https://a.test:444/{tag}{more}"),
        3 => "*".to_owned(),
        4 => "a.test:80".to_owned(),
        5 => format!("{tag}{more}"),
        6 => format!("http://u@a.test/{tag}"),
        _ => format!("/{tag}{more}"),
    }
}

/// Fields that mean something to somebody, or nothing.
const FIELDS: [&str; 34] = [
    "X-A: b",
    "x-a:b",
    "X-A: \t b \t",
    "X-Empty:",
    "Accept: */*",
    "User-Agent: TAG",
    "Cookie: a=b; c=d",
    "Cookie: sockgate_app=AAAAAAAAAAA",
    "Accept-Encoding: gzip",
    "Connection: keep-alive",
    "Connection: x-a",
    "Connection: host",
    "Connection: upgrade, x-a",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: close",
    "TE: trailers",
    "Trailer: X-T",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    "X-Request-Id: TAG",
    "X-Forwarded-For: 203.0.113.9",
    "X-Forwarded-Host: b.test",
    "Forwarded: for=203.0.113.9",
    "X-Long: llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll",
    "Range: bytes=0-1",
    "If-None-Match: *",
    "Content-Encoding: identity",
    "Content-Type: text/plain",
    "Max-Forwards: 0",
    "Date: now",
    "X-Quote: \"a\\\"b",
    "X-High: \u{e4}\u{20ac}",
];

/// Fields that mean something else to somebody, or are none.
const ODD_FIELDS: [&str; 14] = [
    "Connection: content-length",
    "Connection: transfer-encoding, close",
    "TE: chunked",
    "Upgrade: h2c",
    "X_A: b",
    "Content_Length: 3",
    "Transfer_Encoding: chunked",
    "X-Control: a\u{1}b",
    "X-Nul: a\0b",
    "X-Space : b",
    "X A: b",
    "no field",
    ": b",
    "X\u{e4}: b",
];

/// A body, and the fields that say where it ends, or something like it.
fn body(rng: &mut StdRng, tag: &str, method: &str, fields: &mut Vec<String>) -> Vec<u8> {
    let plain = format!("GET /{tag}inside HTTP/1.1\r\nHost: inside.test\r\n\r\n").repeat(rng.random_range(0..5));
    let length = plain.len();
    let kinds = if ["GET", "HEAD", "OPTIONS", "DELETE"].contains(&method) { 60 } else { 40 };
    match rng.random_range(0..kinds) {
        0..=9 => fields.push(format!("Content-Length: {length}")),
        10..=19 => {
            fields.push("Transfer-Encoding: chunked".to_owned());
            return chunks(rng, plain.as_bytes());
        }
        20 => {
            let odd = [
                format!("Content-Length: {}", length + 7),
                format!("Content-Length: {}", length.saturating_sub(9)),
                format!("Content-Length: 0{length}"),
                format!("Content-Length: +{length}"),
                format!("Content-Length: {length}, {length}"),
                format!("Content-Length: {length}\r\nContent-Length: {length}"),
                format!("Content-Length: {length}\r\nContent-Length: 1"),
                format!("Content-Length: {length}\u{b}"),
                format!("Content-Length:\t{length}\t"),
                format!("Content-Length: 0x{length:x}"),
                "Content-Length: 99999999999999999999".to_owned(),
                "Content-Length:".to_owned(),
            ];
            fields.push(odd.choose(rng).expect("one").clone());
        }
        21 => {
            let odd = [
                "Transfer-Encoding: Chunked",
                "Transfer-Encoding:chunked ",
                "Transfer-Encoding: gzip, chunked",
                "Transfer-Encoding: chunked, chunked",
                "Transfer-Encoding: identity",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                "Transfer-Encoding: xchunked",
                "Transfer-Encoding : chunked",
                "Transfer-Encoding: \u{b}chunked",
                "Transfer-Encoding: chunked;a=b",
                "Transfer-Encoding:\r\n chunked",
                "Transfer-Encoding:",
            ];
            fields.push((*odd.choose(rng).expect("one")).to_owned());
            return chunks(rng, plain.as_bytes());
        }
        22 => {
            fields.push(format!("Content-Length: {length}"));
            fields.push("Transfer-Encoding: chunked".to_owned());
            return chunks(rng, plain.as_bytes());
        }
        23..=24 => {
            fields.push("Expect: 100-continue".to_owned());
            fields.push(format!("Content-Length: {length}"));
        }
        _ => return Vec::new(),
    }
    plain.into_bytes()
}

/// The bytes as chunks, most of them as they should be.
fn chunks(rng: &mut StdRng, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = plain;
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(rng.random_range(1..=rest.len()));
        let size = chunk.len();
        let usual = format!("{size:x}");
        let odd = [
            format!("{size:X}"),
            format!("000{size:x}"),
            format!("{size:x};a=b"),
            format!("{size:x} ;a=\"b\""),
            format!("{size:x} "),
            format!(" {size:x}"),
            format!("+{size:x}"),
            format!("0x{size:x}"),
            format!("{:x}", size + 2),
            format!("fffffffffffffff{size:x}"),
            format!("{size:x}\n"),
            String::new(),
        ];
        let line = if rng.random_ratio(1, 60) { odd.choose(rng).expect("one") } else { &usual };
        out.extend(line.bytes());
        out.extend(mostly(rng, "\r\n", &["\n", "\r", ""]).bytes());
        out.extend(chunk);
        out.extend(mostly(rng, "\r\n", &["\n", "", "x\r\n"]).bytes());
        rest = others;
    }
    let trailers = ["X-T: a", "Content-Length: 3", "Host: b.test", "Transfer-Encoding: chunked", "no trailer", " X: y"];
    out.extend(mostly(rng, "0\r\n", &["0\n", "00\r\n", "0;a\r\n", "-0\r\n"]).bytes());
    if rng.random_ratio(1, 6) {
        out.extend(mostly(rng, trailers[0], &trailers[1..]).bytes());
        out.extend(b"\r\n");
    }
    out.extend(mostly(rng, "\r\n", &["\n", "\r\n\r\n"]).bytes());
    out
}

/// The server: reads by the letter of RFC 9112, notes, and answers.
async fn serve(mut client: Client, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Some(head) = client.some_until(b"\r\n\r\n").await {
        let mut message = read_head(&head);
        let body = match framing(&head) {
            Ok(framing) => read_body(&mut client, framing).await,
            Err(fault) => Some(Err(fault)),
        };
        // A message that is cut has not been read.
        let Some(body) = body else { return };
        match body {
            Ok(length) => message.body = length,
            Err(fault) => message.fault = Some(fault),
        }
        let (broken, is_head) = (message.fault.is_some(), message.method == "HEAD");
        seen.lock().unwrap().push(message);
        let body = if is_head { "" } else { "ok" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
        if broken || client.try_send(answer).await.is_err() {
            return;
        }
    }
}

fn fields(head: &[u8]) -> impl Iterator<Item = (String, String)> {
    let text = String::from_utf8_lossy(head).into_owned();
    let lines: Vec<String> = text.trim_end().split("\r\n").skip(1).map(str::to_owned).collect();
    lines.into_iter().map(|line| match line.split_once(':') {
        Some((name, value)) => (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()),
        None => (String::new(), line),
    })
}

fn read_head(head: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(head).into_owned();
    let first = text.split("\r\n").next().unwrap_or_default();
    let mut words = first.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target, version) = (word(), word(), word());
    let value =
        |wanted: &str| fields(head).find(|(name, _)| name == wanted).map(|(_, value)| value).unwrap_or_default();
    let token = |text: &str| {
        let special = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || special(&byte))
    };
    // Letters that should have been encoded mean the same to everybody: they pass, as they do with nginx.
    let written =
        |char: char| char.is_ascii_graphic() || !char.is_ascii() && !char.is_control() && !char.is_whitespace();
    let bare = |at: usize| {
        (head[at] == b'\r' && head.get(at + 1) != Some(&b'\n'))
            || (head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r'))
    };
    let fault = if first.split(' ').count() != 3 || !token(&method) || version != "HTTP/1.1" {
        Some("first line")
    } else if !target.chars().all(written) || target.contains('#') {
        Some("target")
    } else if (0..head.len()).any(bare) || head.contains(&0) {
        Some("line ends")
    } else if fields(head).any(|(name, _)| !token(&name)) {
        Some("name of a field")
    } else if fields(head).filter(|(name, _)| name == "host").count() != 1 {
        Some("host")
    } else {
        None
    };
    let fault = fault.map(|fault| format!("{fault}: {}", text.escape_debug()));
    Seen { id: value("x-request-id"), method, target, host: value("host"), body: 0, fault }
}

enum Framing {
    Length(usize),
    Chunked,
}

fn framing(head: &[u8]) -> Result<Framing, String> {
    let of = |wanted: &str| -> Vec<String> {
        fields(head).filter(|(name, _)| name == wanted).map(|(_, value)| value).collect()
    };
    match (&of("content-length")[..], &of("transfer-encoding")[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|error| format!("{length}: {error}"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        others => Err(format!("{others:?}")),
    }
}

/// The length of a body; `None` where it is cut.
async fn read_body(client: &mut Client, framing: Framing) -> Option<Result<usize, String>> {
    if let Framing::Length(length) = framing {
        return client.some_of(length).await.map(|body| Ok(body.len()));
    }
    let mut whole = 0;
    loop {
        let line = client.some_until(b"\r\n").await?;
        let text = String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned();
        let digits = !text.is_empty() && text.len() < 9 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(size) = usize::from_str_radix(&text, 16).ok().filter(|_| digits) else {
            return Some(Err(format!("size of a chunk: {text:?}")));
        };
        if size == 0 {
            loop {
                match &client.some_until(b"\r\n").await?[..] {
                    b"\r\n" => return Some(Ok(whole)),
                    trailer if trailer.contains(&b':') => {}
                    other => return Some(Err(format!("trailer: {:?}", String::from_utf8_lossy(other)))),
                }
            }
        }
        whole += client.some_of(size).await?.len();
        if client.some_of(2).await? != b"\r\n" {
            return Some(Err("end of a chunk".to_owned()));
        }
    }
}
