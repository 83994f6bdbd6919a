//! What proxies have been warned of by number, Pingora first among them: none of it is possible here.

use super::Recorder;
use super::frames::{CONTINUATION, END_HEADERS, END_STREAM, GET, HEADERS, PREFACE, RESET, SETTINGS, block, frame};
use crate::support::engine::for_each_engine;
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway};

for_each_engine! {
    rustsec_2025_0037_a_body_that_nobody_has_read_is_no_request,
    rustsec_2026_0033_nothing_behind_an_upgrade_reaches_a_server_that_refuses_it,
    rustsec_2026_0034_http_1_0_has_no_chunks,
    rustsec_2025_0070_who_makes_the_gateway_reset_streams_is_sent_away,
    cve_2023_44487_who_opens_and_resets_streams_is_sent_away,
    cve_2024_27316_a_head_does_not_go_on_without_end,
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
/// More of them than anybody has a reason for.
const MANY: u32 = 5000;

async fn rustsec_2025_0037_a_body_that_nobody_has_read_is_no_request() {
    let server = Recorder::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ path: /local }}, respond: {{ status: 200, body: local }} }}
  - {{ upstream: app }}
upstreams:
  app: {{ servers: [\"{}\"], health: {{ check: none }} }}
",
        server.address()
    ))
    .await;
    let length = SMUGGLED.len();
    for head in
        [format!("Content-Length: {length}\r\n\r\n"), format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n")]
    {
        let mut client = gateway.client().await;
        let rest = if head.contains("chunked") { "\r\n0\r\n\r\n" } else { "" };
        let behind = "GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let _ = client.try_send(format!("POST /local HTTP/1.1\r\nHost: a\r\n{head}{SMUGGLED}{rest}{behind}")).await;
        let said = String::from_utf8_lossy(&client.read_all().await).into_owned();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let read = server.take();
        assert!(read.iter().all(|message| message == "GET /behind a"), "{head}: {read:?}");
    }
}

async fn rustsec_2026_0033_nothing_behind_an_upgrade_reaches_a_server_that_refuses_it() {
    let server = Recorder::start().await;
    let gateway = server.gateway("", "").await;
    let mut client = gateway.client().await;
    client.send(format!("{}{SMUGGLED}", upgrade("/chat"))).await;
    let said = String::from_utf8_lossy(&client.read_all().await).into_owned();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert_eq!(server.take(), ["GET /chat localhost"]);
}

async fn rustsec_2026_0034_http_1_0_has_no_chunks() {
    let server = Recorder::start().await;
    let gateway = server.gateway("", "").await;
    for length in ["", "Content-Length: 5\r\n"] {
        let mut client = gateway.client().await;
        let head = format!("POST / HTTP/1.0\r\nHost: a\r\n{length}Transfer-Encoding: chunked\r\n\r\n");
        let _ = client.try_send(format!("{head}0\r\n\r\n{SMUGGLED}")).await;
        let said = String::from_utf8_lossy(&client.read_all().await).into_owned();
        assert!(said.starts_with("HTTP/1.1 400 ") && said.matches("HTTP/1.1 ").count() == 1, "{said}");
    }
    assert!(server.take().is_empty());
}

/// Sends so much that a gateway which took all of it would show; the connection has to end meanwhile, and nobody else
/// notices.
async fn is_sent_away(gateway: &Gateway, server: &Recorder, frames: impl Fn(u32) -> Vec<u8>) {
    let client = gateway.client().await;
    let (mut reading, mut writing) = tokio::io::split(client.into_stream());
    let flood = async {
        use tokio::io::AsyncWriteExt;
        let mut sent = writing.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.is_ok();
        for number in 0..MANY {
            sent = sent && writing.write_all(&frames(number)).await.is_ok();
        }
    };
    let end = async {
        let mut said = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut said).await;
    };
    crate::support::within("the end of the connection", async { tokio::join!(flood, end) }).await;
    let read = server.take().len();
    assert!(read < MANY as usize / 4, "{read} of {MANY} have reached the server");
    let mut other: Client = gateway.client().await;
    assert_eq!(other.get("/other").await.status, 200);
    server.take();
}

async fn rustsec_2025_0070_who_makes_the_gateway_reset_streams_is_sent_away() {
    let server = Recorder::start().await;
    let gateway = server.gateway("", "").await;
    let head = block(GET);
    // A window may not be opened by nothing (RFC 9113 6.9).
    let made_to_reset = |number: u32| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &head), frame(8, 0, stream, &[0; 4])].concat()
    };
    is_sent_away(&gateway, &server, made_to_reset).await;
}

async fn cve_2023_44487_who_opens_and_resets_streams_is_sent_away() {
    let server = Recorder::start().await;
    let gateway = server.gateway("", "").await;
    let head = block(GET);
    let reset = |number: u32| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &head), frame(RESET, 0, stream, &8_u32.to_be_bytes())]
            .concat()
    };
    is_sent_away(&gateway, &server, reset).await;
}

async fn cve_2024_27316_a_head_does_not_go_on_without_end() {
    let server = Recorder::start().await;
    let gateway = server.gateway("", "").await;
    let field = block(&[("x-long", "0123456789012345678901234567890123456789")]).repeat(200);
    let goes_on = |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 1, &block(GET)),
        _ => frame(CONTINUATION, 0, 1, &field),
    };
    is_sent_away(&gateway, &server, goes_on).await;
}
