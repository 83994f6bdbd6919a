//! Answers of servers: passed on in one form with their end known, cut where they are cut, or 502.

use std::sync::Arc;

use crate::support::engine::{ENGINE, for_each_engine};
use crate::support::{Scripted, Setup};

for_each_engine! {
    no_answer_is_passed_on_that_could_be_read_in_two_ways,
}

/// What the client gets of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// This status, and this body to its end.
    Whole(u16, &'static str),
    /// This status, and an end that shows that something is missing.
    Cut(u16),
    /// That it has come to no good.
    Refused,
    /// Either of the last two, by how much of it has come at once.
    CutOrRefused,
}

use Fate::{Cut, CutOrRefused, Refused, Whole};

/// Behind each the server ends the connection.
const ANSWERS: [(&str, Fate); 78] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\ncontent-LENGTH:\t5 \r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nhello", Whole(200, "")),
    ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 299 Very Good\r\nContent-Length: 5\r\n\r\nhello", Whole(299, "hello")),
    ("HTTP/1.1 799 Odd\r\nContent-Length: 5\r\n\r\nhello", Whole(799, "hello")),
    ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.0 200 OK\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding:CHUNKED\r\n\r\n5;x=y\r\nhello\r\n0;z\r\n\r\n", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 5\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 5\r\n\r\nhello", Whole(200, "hello")),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", Whole(204, "")),
    ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Whole(204, "")),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Whole(304, "")),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", Whole(304, "")),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Whole(200, "hello")),
    (
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\nhello",
        Whole(404, "hello"),
    ),
    // A length that is none, or more than one.
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5 0\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5a\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Refused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused),
    // No head.
    ("", Refused),
    ("\r\n\r\n", Refused),
    ("hello", Refused),
    ("HTTP/1.1", Refused),
    ("HTTP/1.1 200 OK", Refused),
    ("HTTP/1.1 200 OK\r\n", Refused),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Refused),
    ("HTTP/1.1 2 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 000 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 -20 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 2x0 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nX\0: y\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nX: y\rZ: z\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 200 OK\r\n: y\r\nContent-Length: 5\r\n\r\nhello", Refused),
    ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", Refused),
    // Less of it than was said.
    ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Cut(200)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Cut(200)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello", Cut(200)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Cut(200)),
    // No chunks.
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", CutOrRefused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", CutOrRefused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", CutOrRefused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", CutOrRefused),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", CutOrRefused),
];

/// The final status, the body, and whether it has come to its end as told.
fn read(said: &[u8]) -> Option<(u16, String, bool)> {
    let mut left = said;
    loop {
        let end = left.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&left[..end]).to_ascii_lowercase();
        left = &left[end + 4..];
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status < 200 {
            continue;
        }
        let values = |name: &str| -> Vec<String> {
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.filter(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned()).collect()
        };
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "two forms at once: {head}");
        assert!(status != 204 || lengths.is_empty(), "no length on 204: {head}");
        if status == 204 || status == 304 {
            return Some((status, String::from_utf8_lossy(left).into_owned(), true));
        }
        let (body, whole) = match (lengths.first(), codings.first()) {
            (Some(length), _) => {
                let length: usize = length.parse().ok()?;
                (left.to_vec(), left.len() == length)
            }
            (None, Some(coding)) => {
                assert_eq!(coding, "chunked");
                chunks(left)
            }
            (None, None) => (left.to_vec(), true),
        };
        return Some((status, String::from_utf8_lossy(&body).into_owned(), whole));
    }
}

fn chunks(mut left: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = left.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size = usize::from_str_radix(&String::from_utf8_lossy(&left[..end]), 16).expect("a size of ours");
        left = &left[end + 2..];
        if size == 0 {
            return (body, left.ends_with(b"\r\n"));
        }
        if left.len() < size + 2 {
            body.extend_from_slice(&left[..left.len().min(size)]);
            return (body, false);
        }
        body.extend_from_slice(&left[..size]);
        left = &left[size + 2..];
    }
}

async fn no_answer_is_passed_on_that_could_be_read_in_two_ways() {
    let answers: Arc<Vec<&str>> = Arc::new(ANSWERS.iter().map(|(answer, _)| *answer).collect());
    let server = Scripted::start(move |mut client, _| {
        let answers = Arc::clone(&answers);
        async move {
            let Some(request) = client.request().await else { return };
            let head = String::from_utf8_lossy(&request.head).into_owned();
            let number = head.split('/').nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
            let _ = client.try_send(answers[number.unwrap_or_default()]).await;
            let _ = client.try_finish().await;
            while client.some().await.is_some() {}
        }
    })
    .await;
    let upstream = "health: { check: none }, timeouts: { keep_alive: 0s }, ejection: { failures: 0, bad_answers: 0 }";
    let gateway = Setup::before(&[server.address()]).upstream(upstream).start().await;
    let mut wrong = Vec::new();
    for (number, (answer, fate)) in ANSWERS.iter().enumerate() {
        // Pingora passes on what a server says of codings: see docs/configuration.md, `engine`. Beside a length it takes
        // chunks for what is meant, and passes them on alone.
        let coded = answer.contains("\r\nTransfer-Encoding:");
        if ENGINE.get() == "pingora" && *fate == Refused && coded {
            continue;
        }
        let mut client = gateway.client().await;
        // No GET: that would be asked again where nothing has come.
        let request = format!("PATCH /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        client.send(request).await;
        let said = client.read_all().await;
        let got = read(&said);
        let is_cut = |status| got.as_ref().is_none_or(|(got, _, whole)| *got == status && !whole);
        let is_refused = got.as_ref().is_some_and(|(status, _, whole)| *status == 502 && *whole);
        let right = match fate {
            Whole(status, body) => got.as_ref() == Some(&(*status, (*body).to_owned(), true)),
            Cut(status) => is_cut(*status),
            Refused => is_refused,
            CutOrRefused => is_cut(200) || is_refused,
        };
        if !right {
            wrong.push(format!("{number} {:?}: {got:?}, expected {fate:?}", answer.escape_default().to_string()));
        }
    }
    assert!(wrong.is_empty(), "by {}, {} wrong:\n{}", ENGINE.get(), wrong.len(), wrong.join("\n"));
}
