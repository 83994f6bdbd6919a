//! What is learned of sessions comes from their servers, and not from whoever makes a server repeat his words.

use serde_json::json;

use super::{ended, event};
use crate::support::engine::for_each_engine;
use crate::support::{Client, Gateway, Scripted, Setup, eventually};

for_each_engine! {
    a_page_that_repeats_what_it_was_asked_opens_no_session,
    a_piece_of_an_answer_that_reads_like_a_goodbye_ends_no_session,
}

/// A gateway before a server that answers each request in the words of this function.
async fn before(answer: fn(&str) -> String) -> (Scripted, Gateway) {
    let server = Scripted::start(move |mut client, _| async move {
        while let Some(request) = client.request().await {
            let head = String::from_utf8_lossy(&request.head).into_owned();
            if client.try_send(answer(head.split(' ').nth(1).unwrap())).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = Setup::before(&[server.address()]).upstream("kind: socket.io").unchecked().start().await;
    (server, gateway)
}

fn plain(media: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn a_page_that_repeats_what_it_was_asked_opens_no_session() {
    let (_server, gateway) = before(|target| {
        let handshake = json!({ "sid": "made-up", "upgrades": [], "pingInterval": 25000, "pingTimeout": 20000 });
        let media = match target.split('?').next() {
            Some("/page") => "text/html; charset=utf-8",
            Some("/data") => "application/json",
            _ => "text/plain; charset=UTF-8",
        };
        plain(media, &format!("0{handshake}"))
    })
    .await;
    let mut client = gateway.client().await;
    for path in ["/page", "/data"] {
        client.get(&format!("{path}?EIO=4&transport=polling")).await;
    }
    assert_eq!(event(&gateway, "learned").await, 0.0);
    client.get("/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(event(&gateway, "learned").await, 1.0);
}

/// The last byte of a message may come alone.
async fn a_piece_of_an_answer_that_reads_like_a_goodbye_ends_no_session() {
    let (_server, gateway) = before(|target| {
        let chunks = |pieces: &[&str]| {
            let pieces: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n"
            )
        };
        match target {
            _ if !target.contains("sid=") => {
                plain("text/plain", "0{\"sid\":\"s\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}")
            }
            _ if target.contains("t=last") => chunks(&["42[\"bye\"]\u{1e}", "1"]),
            _ => chunks(&["42[\"seven\",7", "1", "]", "1"]),
        }
    })
    .await;
    let mut client: Client = gateway.client().await;
    client.get("/socket.io/?EIO=4&transport=polling").await;
    let poll = "/socket.io/?EIO=4&transport=polling&sid=s";
    for _ in 0..2 {
        assert_eq!(client.get(poll).await.text(), "42[\"seven\",71]1");
    }
    assert_eq!(ended(&gateway, "server").await, 0.0);
    client.get(&format!("{poll}&t=last")).await;
    eventually("the goodbye is heard, though it came in two pieces", async || ended(&gateway, "server").await == 1.0)
        .await;
}
