//! WebSockets byte by byte: frames, the answer that opens one, and tunnels with one or both ends in the test's hands.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Client, Gateway, Puppet};

/// The answer to [`upgrade`].
pub const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const FIN: u8 = 0x80;

/// The Close frame of a gateway that lets go: code 1012, Service Restart.
pub const GOODBYE: &[u8] = b"\x88\x02\x03\xf4";

/// The request that opens a WebSocket.
pub fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The answer to any opening, whose head this is, and which it shows to have read (RFC 6455 4.2.2).
pub fn switch(head: &[u8]) -> String {
    const OF_WEBSOCKETS: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let head = String::from_utf8_lossy(head);
    let fields = || head.lines().filter_map(|line| line.split_once(':'));
    let key =
        fields().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map_or("", |(_, key)| key.trim());
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{OF_WEBSOCKETS}").as_bytes()));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// A frame (RFC 6455 5.2); those of clients are masked.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let flag = if masked { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(flag | short as u8),
        medium @ 126..=0xffff => {
            frame.push(flag | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(flag | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
    frame
}

pub fn close(code: u16, masked: bool) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes(), masked)
}

/// A WebSocket through the listener `web` to a server that echoes.
pub async fn socket(gateway: &Gateway) -> Client {
    opened(gateway.client().await, "/").await
}

/// The same over a connection of the test's choice.
pub async fn opened(mut client: Client, path: &str) -> Client {
    client.send(upgrade(path)).await;
    assert_eq!(client.answer().await.status, 101);
    client
}

/// Expects that what is said comes back.
pub async fn echoes(socket: &mut Client) {
    // A text frame of a client, masked with nothing.
    const WORD: &[u8] = b"\x81\x84\0\0\0\0word";
    socket.send(WORD).await;
    assert_eq!(socket.read(WORD.len()).await, WORD);
}

/// A tunnel from the listener `web`, with both of its ends in the test's hands.
pub async fn tunnel(gateway: &Gateway, server: &Puppet) -> (Client, Client) {
    switched(gateway.client().await, "/chat", server.accept()).await
}

/// The same over a connection of the test's choice, to a server that is about to be met.
pub async fn switched(mut client: Client, path: &str, server: impl Future<Output = Client>) -> (Client, Client) {
    client.send(upgrade(path)).await;
    let mut inside = server.await;
    inside.request().await.unwrap();
    inside.send(SWITCH).await;
    assert_eq!(client.answer().await.status, 101);
    (client, inside)
}
