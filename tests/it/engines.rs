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
    /// The trailers that may pass, of the request and of the answer; `None` where a byte was changed on purpose.
    trail: [Option<Vec<String>>; 2],
}

/// What came of a case: what the server was asked, if it was, and what the client was answered.
#[derive(Debug)]
struct Outcome {
    asked: Vec<String>,
    answered: String,
    /// The trailers that came to the server, and to the client.
    trailed: [Vec<String>; 2],
}

/// What servers were asked, by case, and the trailers behind it.
type Asked = Arc<Mutex<HashMap<usize, (Vec<String>, Vec<String>)>>>;

impl Outcome {
    /// Trailers pass the relay alone.
    fn is_like(&self, other: &Self) -> bool {
        (&self.asked, &self.answered) == (&other.asked, &other.answered)
    }

    /// Whether the trailers are those that may pass, as far as that is known, and none that never may.
    fn trails(&self, case: &Case) -> bool {
        let never = |line: &String| TRAILERS.iter().any(|&(never, may)| !may && line.eq_ignore_ascii_case(never));
        let [up, down] = &self.trailed;
        let carried = self.answered.starts_with("200 ") && self.answered.ends_with(" whole");
        // Who knows no chunks gets none, and who asks for the head alone neither.
        let chunks = case.request.windows(8).any(|bytes| bytes == b"HTTP/1.1") && !case.request.starts_with(b"HEAD");
        !up.iter().chain(down).any(never)
            && case.trail[0].as_ref().is_none_or(|may| self.asked.is_empty() || up == may)
            && case.trail[1].as_ref().is_none_or(|may| !carried || down == if chunks { may } else { &[][..] })
    }
}

/// Trailers, and whether they may pass where nothing nominates them.
const TRAILERS: [(&str, bool); 7] = [
    ("X-Sum: 1", true),
    ("grpc-status: 0", true),
    ("x-odd: trailed", true),
    ("Host: evil.example", false),
    ("Content-Length: 7", false),
    ("X-Forwarded-For: 7.7.7.7", false),
    ("Set-Cookie: evil=1", false),
];

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
        let alike = pingora.is_like(relay) && pingora.trailed.concat().is_empty();
        if !relay.trails(&cases[number]) || !alike && !excused {
            let Case { request, answer, cut, .. } = &cases[number];
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
    let trailed = |way: usize| relay.iter().filter(|outcome| !outcome.trailed[way].is_empty()).count();
    assert!(trailed(0) > 3 && trailed(1) > 3, "{} requests and {} answers had trailers", trailed(0), trailed(1));
}

/// Whether an answer says a `Transfer-Encoding` other than `chunked`.
fn has_strange_coding(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let mut codings = answer.lines().filter_map(|line| line.split_once(':'));
    codings.any(|(name, coding)| name.trim() == "transfer-encoding" && coding.trim() != "chunked")
}

/// Carries all cases by this engine.
async fn run(engine: &'static str, cases: Arc<Vec<Case>>) -> Vec<Outcome> {
    let asked = Asked::default();
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
    let answered: HashMap<usize, (String, Vec<String>)> = running.join_all().await.into_iter().collect();
    let mut all = asked.lock().unwrap();
    let outcome = |number| {
        let ((asked, up), (answered, down)) = (all.remove(&number).unwrap_or_default(), answered[&number].clone());
        Outcome { asked, answered, trailed: [up, down] }
    };
    (0..cases.len()).map(outcome).collect()
}

/// A server that notes what it is asked, and answers with what the case says; then it ends the connection.
async fn serve(mut client: Client, asked: Asked, cases: Arc<Vec<Case>>) {
    let Some(head) = client.some_until(b"\r\n\r\n").await else { return };
    let text = String::from_utf8_lossy(&head).into_owned();
    let lower = text.to_ascii_lowercase();
    let value = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let body = match value("content-length").map(|length| length.parse::<usize>().unwrap()) {
        Some(length) => client.some_of(length).await.map(|body| (body, Vec::new())),
        None if value("transfer-encoding").is_some() => whole_chunks(&mut client).await,
        None => Some(Default::default()),
    };
    // Said twice, since one of them may have been changed on purpose.
    let said = value(CASE).and_then(|said| said.split_once('-')).filter(|(first, second)| first == second);
    let number = said.and_then(|(number, _)| number.parse::<usize>().ok()).filter(|&number| number < cases.len());
    let Some(number) = number else { return };
    // The relay reads a small body before it looks for a server: a cut one comes to a server by Pingora alone.
    let Some((body, trailers)) = body else { return };
    let (line, body) = (text.lines().next().unwrap().to_owned(), String::from_utf8_lossy(&body).into_owned());
    {
        let mut asked = asked.lock().unwrap();
        let (asked, trailed) = asked.entry(number).or_default();
        asked.push(format!("{line} {:?} {body}", fields(&text)));
        *trailed = trailers;
    }
    if client.try_send(&cases[number].answer).await.is_ok() {
        let _ = client.try_finish().await;
        while client.some().await.is_some() {}
    }
}

/// A chunked body, put together, and its trailers; `None` where it was cut.
async fn whole_chunks(client: &mut Client) -> Option<(Vec<u8>, Vec<String>)> {
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    loop {
        let line = client.some_until(b"\r\n").await?;
        let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
        if size == 0 {
            loop {
                match client.some_until(b"\r\n").await?.as_slice() {
                    b"\r\n" => return Some((body, trailers)),
                    line => trailers.push(String::from_utf8_lossy(line).trim_end().to_owned()),
                }
            }
        }
        body.extend(client.some_of(size).await?);
        client.some_until(b"\r\n").await?;
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
        // Each engine's server has a port of its own.
        .map(|line| if line.starts_with("Host: 127.0.0.1:") { "Host: the server's" } else { line })
        .map(|line| line.split_once(':').map_or(line.to_owned(), |(name, value)| format!("{name}: {}", value.trim())))
        .collect();
    fields.sort();
    fields
}

/// Asks, and says what came: interim answers, the status, the fields that matter, the body, and whether it was all; and
/// the trailers behind it.
async fn ask(web: SocketAddr, case: &Case) -> (String, Vec<String>) {
    let mut client = Client::connect(web).await;
    let (first, rest) = case.request.split_at(case.cut);
    if client.try_send(first).await.is_ok() {
        tokio::task::yield_now().await;
        let _ = client.try_send(rest).await;
    }
    let said = within("the end of the connection", client.read_all()).await;
    let (mut told, mut trailed) = (String::new(), Vec::new());
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
        let (body, whole, trailers) = body(&head.to_ascii_lowercase(), left, case.request.starts_with(b"HEAD"));
        trailed = trailers;
        told +=
            &format!(" {:?} {} {}", fields(&head), String::from_utf8_lossy(&body), if whole { "whole" } else { "cut" });
        break;
    }
    (told, trailed)
}

/// The body of an answer that ended with its connection, whether it is whole, and its trailers.
fn body(head: &str, bytes: &[u8], to_head: bool) -> (Vec<u8>, bool, Vec<String>) {
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if to_head || matches!(status, "204" | "304") {
        // Where a changed request ends early, what is left of it may be answered as another one.
        let body = if bytes.starts_with(b"HTTP/1.1 ") { &[] } else { bytes };
        return (body.to_vec(), body.is_empty(), Vec::new());
    }
    if value("transfer-encoding").is_none() {
        let length = value("content-length").and_then(|length| length.parse::<usize>().ok());
        // Behind a refusal the relay reads on, where what is left of a changed request is another one.
        let end = length.unwrap_or(bytes.len()).min(bytes.len());
        return (bytes[..end].to_vec(), length.is_none_or(|length| length == end), Vec::new());
    }
    let (mut body, mut left) = (Vec::new(), bytes);
    while let Some(end) = left.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&left[..end]), 16).unwrap_or(0);
        let data = &left[end + 2..];
        if size == 0 {
            // What may follow is another answer.
            let end = data.windows(4).position(|bytes| bytes == b"\r\n\r\n").filter(|_| !data.starts_with(b"\r\n"));
            let lines = String::from_utf8_lossy(&data[..end.unwrap_or(0)]);
            let trailers = lines.split("\r\n").filter(|line| !line.is_empty()).map(str::to_owned).collect();
            return (body, data == b"\r\n" || end.is_some_and(|end| end + 4 == data.len()), trailers);
        }
        if data.len() < size + 2 {
            body.extend_from_slice(&data[..data.len().min(size)]);
            return (body, false, Vec::new());
        }
        body.extend_from_slice(&data[..size]);
        left = &data[size + 2..];
    }
    (body, false, Vec::new())
}

impl Case {
    fn generate(number: usize, random: &mut StdRng) -> Self {
        let (mut request, head, up) = request(number, random);
        let mut trail = [Some(up), None];
        if random.random_bool(0.3) {
            mutate(&mut request, head, random);
            trail[0] = None;
        }
        let (mut answer, head, down) = answer(random);
        // What the answer is to, a changed request tells otherwise.
        trail[1] = Some(down).filter(|_| trail[0].is_some());
        if random.random_bool(0.2) {
            mutate(&mut answer, head, random);
            trail[1] = None;
        }
        let cut = random.random_range(0..=request.len());
        Self { request, cut, answer, trail }
    }
}

/// Puts trailers behind a chunked body; gives those that may pass, behind this head.
fn trail(body: &mut Vec<u8>, head: &str, random: &mut StdRng) -> Vec<String> {
    let mut may_pass = Vec::new();
    body.truncate(body.len() - 2);
    for _ in 0..random.random_range(0..4) {
        let &(line, may) = TRAILERS.choose(random).unwrap();
        body.extend([line.as_bytes(), b"\r\n"].concat());
        let nominated = line.starts_with("x-odd") && head.contains("Connection: X-Odd");
        may_pass.extend((may && !nominated).then(|| line.to_owned()));
    }
    body.extend(b"\r\n");
    may_pass
}

/// A request, the length of its head, and its trailers that may pass. Its connection closes behind it, so that everybody
/// sees where things end.
fn request(number: usize, random: &mut StdRng) -> (Vec<u8>, usize, Vec<String>) {
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
    let mut trailers = Vec::new();
    let body = match random.random_range(0..3) {
        _ if matches!(method, "GET" | "HEAD" | "ODD" | "OPTIONS" | "CONNECT") => Vec::new(),
        0 if version == "1.1" => {
            head += "Transfer-Encoding: chunked\r\n";
            let mut body = chunked(&data, random.random_range(1..100));
            trailers = trail(&mut body, &head, random);
            body
        }
        _ => {
            head += &format!("Content-Length: {}\r\n", data.len());
            data
        }
    };
    head += "\r\n";
    let length = head.len();
    (head.into_bytes().into_iter().chain(body).collect(), length, trailers)
}

/// An answer, the length of its head, and its trailers that may pass.
fn answer(random: &mut StdRng) -> (Vec<u8>, usize, Vec<String>) {
    let more = [
        "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n",
        "X-ODD: One\r\n",
        "Connection: close\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Trailer: X\r\n",
        "Connection: X-Odd\r\nX-Odd: 1\r\n",
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
    let mut trailers = Vec::new();
    let body = match random.random_range(0..3) {
        _ if status.starts_with("204") || status.starts_with("304") => Vec::new(),
        0 if head.starts_with("HTTP/1.1") => {
            head += "Transfer-Encoding: chunked\r\n";
            let mut body = chunked(&data, random.random_range(1..1000));
            trailers = trail(&mut body, &head, random);
            body
        }
        1 => data,
        _ => {
            head += &format!("Content-Length: {}\r\n", data.len());
            data
        }
    };
    head += "\r\n";
    let length = head.len();
    (head.into_bytes().into_iter().chain(body).collect(), length, trailers)
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
