//! WebSocket frames as a client sends and reads them (RFC 6455 5.2).

use std::io;

use super::wire::Wire;
use super::wrong;

pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

pub(super) async fn open(wire: &mut Wire, path: &str) -> io::Result<()> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: soak.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    wire.send(request.as_bytes()).await?;
    let head = wire.head().await?;
    if head.status == 101 { Ok(()) } else { Err(wrong(format!("opening: status {}", head.status))) }
}

/// Sends a frame. Where the other side has hung up already, what it said before tells why.
pub(super) async fn send(wire: &mut Wire, first: u8, payload: &[u8]) -> io::Result<()> {
    let Err(cut) = wire.send(&frame(first, payload)).await else { return Ok(()) };
    loop {
        match next(wire).await {
            Ok(Frame::Close(code)) => return Err(farewell(code)),
            Ok(Frame::Message(_) | Frame::Other) => {}
            Err(_) => return Err(cut),
        }
    }
}

/// Masked with zeros, which is allowed.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => frame.push(0x80 | length),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

enum Frame {
    Message(Vec<u8>),
    /// With its code, or 0.
    Close(u16),
    Other,
}

async fn next(wire: &mut Wire) -> io::Result<Frame> {
    let head = wire.exactly(2).await?;
    let length = match head[1] & 0x7f {
        126 => wire.exactly(2).await?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        127 => wire.exactly(8).await?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        length => usize::from(length),
    };
    let payload = wire.exactly(length).await?;
    Ok(match head[0] & 0x0f {
        0x0..=0x2 => Frame::Message(payload),
        0x8 => Frame::Close(payload.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]))),
        _ => Frame::Other,
    })
}

fn farewell(code: u16) -> io::Error {
    wrong(match code {
        1012 => "told to leave (1012)".to_owned(),
        code => format!("closed with {code}"),
    })
}

/// The payload of the next message; an error when the socket is closed or cut.
pub(super) async fn receive(wire: &mut Wire) -> io::Result<Vec<u8>> {
    loop {
        match next(wire).await? {
            Frame::Message(payload) => return Ok(payload),
            Frame::Close(code) => {
                let _ = wire.send(&frame(CLOSE, &code.to_be_bytes())).await;
                return Err(farewell(code));
            }
            Frame::Other => {}
        }
    }
}

/// Says goodbye, and waits for the end.
pub(super) async fn close(wire: &mut Wire) -> io::Result<()> {
    send(wire, CLOSE, &1000u16.to_be_bytes()).await?;
    while !wire.some().await?.is_empty() {}
    Ok(())
}
