//! The engines can't disagree: generated and mutated requests and answers pass both of them, and what each side got is
//! the same, byte by byte where the rules say so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::chunked;
use crate::support::engine::ENGINE;
use crate::support::{Client, Gateway, Scripted, within};

/// Exchanges that each engine carries.
const CASES: usize = 400;
/// The field that tells a server which answer is meant.
const CASE: &str = "x-case";

/// What is sent by both sides.
#[derive(Clone)]
struct Case {
    request: Vec<u8>,
    /// Where the request is cut in two.
    cut: usize,
    answer: Vec<u8>,
}

/// What came of a case: what the server was asked, if it was, and what the client was answered.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    asked: Vec<String>,
    answered: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_pass_on_the_same() {
    let seed = std::env::var("SOCKGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2026);
    let cases: Arc<Vec<Case>> = {
        let mut random = StdRng::seed_from_u64(seed);
        Arc::new((0..CASES).map(|number| Case::generate(number, &mut random)).collect())
    };
    let (pingora, relay) = tokio::join!(run("pingora", Arc::clone(&cases)), run("relay", Arc::clone(&cases)));
    let mut differ = Vec::new();
    for (number, (pingora, relay)) in pingora.iter().zip(&relay).enumerate() {
        // A coding that nobody understands is 502 by the relay; Pingora passes it on, and no hook of it could tell.
        let excused = has_strange_coding(&cases[number].answer) && relay.answered.starts_with("502 ");
        if pingora != relay && !excused {
            let Case { request, answer, cut } = &cases[number];
            differ.push(format!(
                "case {number} of seed {seed}, cut at {cut}:\n{}\n--- answered\n{}\n--- pingora {pingora:#?}\n--- relay {relay:#?}",
                request.escape_ascii(),
                answer.escape_ascii()
            ));
        }
    }
    assert!(differ.is_empty(), "{} of {CASES} differ\n{}", differ.len(), differ.join("\n\n"));
    let asked = relay.iter().filter(|outcome| !outcome.asked.is_empty()).count();
    let good = relay.iter().filter(|outcome| outcome.answered.starts_with("200 ")).count();
    assert!(asked > CASES / 2 && good > CASES / 8, "{asked} of {CASES} reached the server, {good} were answered well");
}

/// Whether an answer says a `Transfer-Encoding` other than `chunked`.
fn has_strange_coding(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let mut codings = answer.lines().filter_map(|line| line.split_once(':'));
    codings.any(|(name, coding)| name.trim() == "transfer-encoding" && coding.trim() != "chunked")
}

/// Carries all cases by this engine.
async fn run(engine: &'static str, cases: Arc<Vec<Case>>) -> Vec<Outcome> {
    let asked: Arc<Mutex<HashMap<usize, Vec<String>>>> = Arc::default();
    let server = {
        let (asked, cases) = (Arc::clone(&asked), Arc::clone(&cases));
        Scripted::start(move |client, _| serve(client, Arc::clone(&asked), Arc::clone(&cases))).await
    };
    let times = "timeouts: { head: 2s, body: 2s, keep_alive: 2s }\nforwarding: { request_id: \"\" }";
    // The server ends each connection behind its answer: a kept one could be met as it ends.
    let upstream = "timeouts: { first_byte: 20s, keep_alive: 0s }, ejection: { failures: 0, bad_answers: 0 }";
    let gateway = ENGINE.scope(engine, Gateway::before(&[server.address()], upstream, times)).await;
    let web = gateway.address("web");
    let turns = Arc::new(Semaphore::new(32));
    let mut running = JoinSet::new();
    for number in 0..cases.len() {
        let (turns, cases) = (Arc::clone(&turns), Arc::clone(&cases));
        running.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            (number, ask(web, &cases[number]).await)
        });
    }
    let answered: HashMap<usize, String> = running.join_all().await.into_iter().collect();
    let mut asked = asked.lock().unwrap();
    let outcome =
        |number| Outcome { asked: asked.remove(&number).unwrap_or_default(), answered: answered[&number].clone() };
    (0..cases.len()).map(outcome).collect()
}

/// A server that notes what it is asked, and answers with what the case says; then it ends the connection.
async fn serve(mut client: Client, asked: Arc<Mutex<HashMap<usize, Vec<String>>>>, cases: Arc<Vec<Case>>) {
    let Some(head) = client.some_until(b"\r\n\r\n").await else { return };
    let text = String::from_utf8_lossy(&head).into_owned();
    let lower = text.to_ascii_lowercase();
    let value = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let body = match value("content-length").map(|length| length.parse::<usize>().unwrap()) {
        Some(length) => client.some_of(length).await,
        None if value("transfer-encoding").is_some() => whole_chunks(&mut client).await,
        None => Some(Vec::new()),
    };
    // Said twice, since one of them may have been changed on purpose.
    let said = value(CASE).and_then(|said| said.split_once('-')).filter(|(first, second)| first == second);
    let number = said.and_then(|(number, _)| number.parse::<usize>().ok()).filter(|&number| number < cases.len());
    let Some(number) = number else { return };
    // The relay reads a small body before it looks for a server: a cut one comes to a server by Pingora alone.
    let Some(body) = body.map(|body| String::from_utf8_lossy(&body).into_owned()) else { return };
    let line = text.lines().next().unwrap().to_owned();
    asked.lock().unwrap().entry(number).or_default().push(format!("{line} {:?} {body}", fields(&text)));
    if client.try_send(&cases[number].answer).await.is_ok() {
        let _ = client.try_finish().await;
        while client.some().await.is_some() {}
    }
}

/// A chunked body, put together; `None` where it was cut.
async fn whole_chunks(client: &mut Client) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = client.some_until(b"\r\n").await?;
        let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
        body.extend(client.some_of(size).await?);
        client.some_until(b"\r\n").await?;
        if size == 0 {
            return Some(body);
        }
    }
}

/// The fields that matter, sorted: those of the framing and of the connection are each engine's own.
fn fields(head: &str) -> Vec<String> {
    // Trailers pass the relay alone, and so does what announces them.
    let own =
        ["content-length", "transfer-encoding", "connection", "trailer", "x-forwarded-port", "date", "keep-alive"];
    let fields = head.split("\r\n").skip(1).filter(|line| !line.is_empty());
    let mut fields: Vec<_> = fields
        .filter(|line| !own.contains(&line.split(':').next().unwrap_or_default().to_ascii_lowercase().as_str()))
        .map(|line| line.split_once(':').map_or(line.to_owned(), |(name, value)| format!("{name}: {}", value.trim())))
        .collect();
    fields.sort();
    fields
}

/// Asks, and says what came: interim answers, the status, the fields that matter, the body, and whether it was all.
async fn ask(web: SocketAddr, case: &Case) -> String {
    let mut client = Client::connect(web).await;
    let (first, rest) = case.request.split_at(case.cut);
    if client.try_send(first).await.is_ok() {
        tokio::task::yield_now().await;
        let _ = client.try_send(rest).await;
    }
    let said = within("the end of the connection", client.read_all()).await;
    let mut told = String::new();
    let mut left = said.as_slice();
    while let Some(end) = left.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&left[..end]).into_owned();
        left = &left[end + 4..];
        let status = head.split(' ').nth(1).unwrap_or("none").to_owned();
        told += &status;
        if status.starts_with('1') {
            told += ", then ";
            continue;
        }
        // What a refusal says beside its status is the gateway's, and no engine's.
        let (body, whole) = body(&head.to_ascii_lowercase(), left, case.request.starts_with(b"HEAD"));
        told +=
            &format!(" {:?} {} {}", fields(&head), String::from_utf8_lossy(&body), if whole { "whole" } else { "cut" });
        break;
    }
    told
}

/// The body of an answer that ended with its connection, and whether it is whole.
fn body(head: &str, bytes: &[u8], to_head: bool) -> (Vec<u8>, bool) {
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if to_head || matches!(status, "204" | "304") {
        return (bytes.to_vec(), bytes.is_empty());
    }
    if value("transfer-encoding").is_none() {
        let length = value("content-length").and_then(|length| length.parse::<usize>().ok());
        // Behind a refusal the relay reads on, where what is left of a changed request is another one.
        let end = length.unwrap_or(bytes.len()).min(bytes.len());
        return (bytes[..end].to_vec(), length.is_none_or(|length| length == end));
    }
    let (mut body, mut left) = (Vec::new(), bytes);
    while let Some(end) = left.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&left[..end]), 16).unwrap_or(0);
        let data = &left[end + 2..];
        if size == 0 || data.len() < size + 2 {
            body.extend_from_slice(if size == 0 { b"" } else { &data[..data.len().min(size)] });
            return (body, size == 0 && data == b"\r\n");
        }
        body.extend_from_slice(&data[..size]);
        left = &data[size + 2..];
    }
    (body, false)
}

impl Case {
    fn generate(number: usize, random: &mut StdRng) -> Self {
        let (mut request, head) = request(number, random);
        if random.random_bool(0.3) {
            mutate(&mut request, head, random);
        }
        let (mut answer, head) = answer(random);
        if random.random_bool(0.2) {
            mutate(&mut answer, head, random);
        }
        let cut = random.random_range(0..=request.len());
        Self { request, cut, answer }
    }
}

/// A request, and the length of its head. Its connection closes behind it, so that everybody sees where things end.
fn request(number: usize, random: &mut StdRng) -> (Vec<u8>, usize) {
    let targets =
        ["/", "/a?b=c", "/a%2fb", "//x//", "/?q={}", "http://host.example/x", "/caf\u{e9}", "*", "/a#b", "/;p"];
    let more = [
        "Cookie: a=1\r\n",
        "X-ODD: One\r\nx-odd: two\r\n",
        "Connection: X-Odd\r\nX-Odd: 1\r\n",
        "X-Forwarded-For: 6.6.6.6\r\n",
        "Accept-Encoding: gzip\r\n",
        "TE: trailers\r\n",
        "Upgrade: h2c\r\n",
        "Expect: 100-continue\r\n",
        "X-Empty:\r\n",
        "Host: twice\r\n",
        " folded: 1\r\n",
        "Content-Length: 1\r\n",
        "Transfer-Encoding: chunked\r\n",
    ];
    let method =
        *["GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "ODD", "CONNECT"].choose(random).unwrap();
    let version = if random.random_bool(0.1) { "1.0" } else { "1.1" };
    let target = targets.choose(random).unwrap();
    let mut head = format!(
        "{method} {target} HTTP/{version}\r\nHost: a.example:81\r\nX-Case: {number}-{number}\r\nConnection: close\r\n"
    );
    // The strange ones at the end of the list seldom, since they are refused.
    let usual = if random.random_bool(0.15) { more.len() } else { 9 };
    for _ in 0..random.random_range(0..3) {
        head += more[..usual].choose(random).unwrap();
    }
    let data: Vec<u8> = (0..random.random_range(0..300u32)).map(|at| b'a' + (at % 26) as u8).collect();
    let body = match random.random_range(0..3) {
        _ if matches!(method, "GET" | "HEAD" | "ODD" | "OPTIONS" | "CONNECT") => Vec::new(),
        0 if version == "1.1" => {
            head += "Transfer-Encoding: chunked\r\n";
            chunked(&data, random.random_range(1..100))
        }
        _ => {
            head += &format!("Content-Length: {}\r\n", data.len());
            data
        }
    };
    head += "\r\n";
    let length = head.len();
    (head.into_bytes().into_iter().chain(body).collect(), length)
}

/// An answer, and the length of its head.
fn answer(random: &mut StdRng) -> (Vec<u8>, usize) {
    let more = [
        "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n",
        "X-ODD: One\r\n",
        "Connection: close\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Trailer: X\r\n",
        "Content-Type: text/event-stream\r\n",
        "Upgrade: h2c\r\n",
        "ETag: \"x\"\r\n",
    ];
    let status =
        *["200 OK", "200 OK", "200 Fine", "404 Not Found", "500 ", "204 No", "304 Not"].choose(random).unwrap();
    let mut head = format!("HTTP/1.{} {status}\r\n", if random.random_bool(0.9) { 1 } else { 0 });
    for _ in 0..random.random_range(0..3) {
        head += more.choose(random).unwrap();
    }
    let data: Vec<u8> = (0..random.random_range(0..3000u32)).map(|at| b'a' + (at % 26) as u8).collect();
    let body = match random.random_range(0..3) {
        _ if status.starts_with("204") || status.starts_with("304") => Vec::new(),
        0 if head.starts_with("HTTP/1.1") => {
            head += "Transfer-Encoding: chunked\r\n";
            chunked(&data, random.random_range(1..1000))
        }
        1 => data,
        _ => {
            head += &format!("Content-Length: {}\r\n", data.len());
            data
        }
    };
    head += "\r\n";
    let length = head.len();
    (head.into_bytes().into_iter().chain(body).collect(), length)
}

/// Changes, takes out or puts in a byte of a head.
fn mutate(message: &mut Vec<u8>, head: usize, random: &mut StdRng) {
    let at = random.random_range(0..head);
    let byte = *b" \r\n:;,\0aZ9\x80\"".choose(random).unwrap();
    match random.random_range(0..3) {
        0 => message[at] = byte,
        1 => drop(message.remove(at)),
        _ => message.insert(at, byte),
    }
}
